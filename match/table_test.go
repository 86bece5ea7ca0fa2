package match

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestEveryEventHasOnePartition(t *testing.T) {
	table, err := NewTable(7, record.Partitions{
		Groups: []record.PartitionGroup{{Types: []string{"Observation"}, Count: 3}, {Count: 2}, {Types: []string{"Task", "Encounter"}, Count: 1}},
		Shards: 16,
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"p7-0", "p7-1", "p7-2", "p7-3", "p7-4", "p7-5"}; !slices.Equal(table.Names(), want) {
		t.Errorf("named %v, want %v", table.Names(), want)
	}
	for _, typ := range []string{"Observation", "Task", "Encounter", "Patient", "NoSuchType"} {
		for shard := range uint8(16) {
			var readBy []string
			for _, p := range table.Parts() {
				named := slices.Contains(p.Types, typ) || len(p.Types) == 0 && !slices.Contains(p.Except, typ)
				if named && slices.Contains(p.Shards, shard) {
					readBy = append(readBy, p.Name)
				}
			}
			if len(readBy) != 1 || readBy[0] != table.Of(typ, shard) {
				t.Errorf("%s in shard %d is of %s and read by %v", typ, shard, table.Of(typ, shard), readBy)
			}
		}
	}
	if got := table.Of("Patient", 200); !slices.Contains(table.Names(), got) {
		t.Errorf("a shard beyond the last is of %q", got)
	}
}

func TestTheDefaultTableIsOne(t *testing.T) {
	table, err := NewTable(1, DefaultPartitions(3))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for shard := range uint8(16) {
		counts[table.Of("Observation", shard)]++
		counts[table.Of("Patient", shard)]++
	}
	if fmt.Sprint(counts) != "map[p1-0:4 p1-1:4 p1-2:4 p1-3:4 p1-4:4 p1-5:4 p1-6:4 p1-7:4]" {
		t.Errorf("dealt %v", counts)
	}
}

func TestATableThatIsNotTotalIsRefused(t *testing.T) {
	rest := record.PartitionGroup{Count: 1}
	for _, test := range []struct {
		name   string
		shards int
		groups []record.PartitionGroup
		says   string
	}{
		{"no groups", 16, nil, "without types"},
		{"no rest", 16, []record.PartitionGroup{{Types: []string{"Task"}, Count: 1}}, "without types"},
		{"two rests", 16, []record.PartitionGroup{rest, rest}, "both without types"},
		{"a type twice", 16, []record.PartitionGroup{rest, {Types: []string{"Task"}, Count: 1}, {Types: []string{"Task"}, Count: 1}}, "groups 2 and 3"},
		{"a group without partitions", 16, []record.PartitionGroup{{}}, "0 partitions"},
		{"more partitions than shards", 16, []record.PartitionGroup{{Count: 17}}, "17 partitions"},
		{"no shards", 0, []record.PartitionGroup{rest}, "0 shards"},
		{"a type that is no name", 16, []record.PartitionGroup{rest, {Types: []string{"a.b"}, Count: 1}}, "no resource type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewTable(1, record.Partitions{Groups: test.groups, Shards: test.shards})
			if fhir.AsError(err) == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("answered %v", err)
			}
		})
	}
}
