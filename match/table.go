package match

import (
	"fmt"
	"slices"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// DefaultPartitions is the division that a new cluster of so many nodes proposes. Observations
// are the bulk of most clinical data, so they have as many partitions as all other types
// together. A node by itself has one of each: partitions spread the work over nodes, and on
// one disk every further chain of blocks costs syncs of its own (DESIGN.md has the figures).
func DefaultPartitions(nodes int) record.Partitions {
	count := 1
	if nodes > 1 {
		count = 4
	}
	return record.Partitions{
		Groups: []record.PartitionGroup{{Types: []string{"Observation"}, Count: count}, {Count: count}},
		Shards: 16,
	}
}

// Table says which partition an event belongs to: a total function of its type and shard, so
// that all events of one resource are in one partition. It is immutable.
type Table struct {
	base   record.Sequence
	shards int
	parts  []Part
	groups []tableGroup
	byType map[string]int // index in groups
	rest   int            // group of every other type
}

// tableGroup is count partitions from first on, among which shards are dealt in turn.
type tableGroup struct{ first, count int }

// Part says what one partition reads, for those who make filters of it.
type Part struct {
	Name   string
	Types  []string // the types it reads; empty for the rest
	Except []string // for the rest: every type but these
	Shards []uint8  // in rising order
}

// NewTable makes the table of a partition record that stands at position base of EVENTS. The
// partitions' names carry the position, since a name whose chain has ended is never used again.
// A record that is not total or not unambiguous is refused with an *fhir.Error.
func NewTable(base record.Sequence, p record.Partitions) (*Table, error) {
	t := &Table{base: base, shards: p.Shards, byType: map[string]int{}, rest: -1}
	if p.Shards < 1 || p.Shards > 256 {
		return nil, refusePartitions("%d shards: there must be 1 to 256", p.Shards)
	}
	for i, g := range p.Groups {
		if err := t.enter(i, g); err != nil {
			return nil, err
		}
	}
	if t.rest < 0 {
		return nil, refusePartitions("no group takes the types that none names; add one without types")
	}
	for i, g := range p.Groups {
		t.divide(i, g)
	}
	return t, nil
}

// enter checks a group and reserves its partitions.
func (t *Table) enter(i int, g record.PartitionGroup) error {
	if g.Count < 1 || g.Count > t.shards {
		return refusePartitions("group %d has %d partitions: a group has 1 to %d, as many as there are shards", i+1, g.Count, t.shards)
	}
	if len(g.Types) == 0 {
		if t.rest >= 0 {
			return refusePartitions("groups %d and %d are both without types; only one can take the rest", t.rest+1, i+1)
		}
		t.rest = i
	}
	for _, typ := range g.Types {
		if !typeName(typ) {
			return refusePartitions("group %d: %q is no resource type", i+1, typ)
		}
		if other, twice := t.byType[typ]; twice {
			return refusePartitions("%s is in groups %d and %d; a type belongs to one", typ, other+1, i+1)
		}
		t.byType[typ] = i
	}
	first := 0
	if i > 0 {
		first = t.groups[i-1].first + t.groups[i-1].count
	}
	t.groups = append(t.groups, tableGroup{first, g.Count})
	return nil
}

// divide deals the shards of a group among its partitions.
func (t *Table) divide(i int, g record.PartitionGroup) {
	for n := range g.Count {
		part := Part{
			Name:  fmt.Sprintf("p%d-%d", t.base, t.groups[i].first+n),
			Types: slices.Clone(g.Types),
		}
		if i == t.rest {
			for typ := range t.byType {
				part.Except = append(part.Except, typ)
			}
			slices.Sort(part.Except)
		}
		for shard := n; shard < t.shards; shard += g.Count {
			part.Shards = append(part.Shards, uint8(shard))
		}
		t.parts = append(t.parts, part)
	}
}

// Base is the position of the table's record: its partitions begin with the event after it.
func (t *Table) Base() record.Sequence { return t.base }

// Names lists the partitions. A name is one token of a subject.
func (t *Table) Names() []string {
	names := make([]string, len(t.parts))
	for i, p := range t.parts {
		names[i] = p.Name
	}
	return names
}

// Parts says what each partition reads, in the order of Names. It is not changed.
func (t *Table) Parts() []Part { return t.parts }

// Of names the partition of an event.
func (t *Table) Of(typ string, shard uint8) string {
	i, named := t.byType[typ]
	if !named {
		i = t.rest
	}
	g := t.groups[i]
	return t.parts[g.first+int(shard)%t.shards%g.count].Name
}

// typeName keeps type names that no resource can have out of subjects.
func typeName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (i == 0 || c < 'a' || c > 'z') {
			return false
		}
	}
	return s != ""
}

func refusePartitions(format string, args ...any) error {
	return fhir.Refuse(fhir.IssueValue, "", "match.partitions: "+fmt.Sprintf(format, args...))
}
