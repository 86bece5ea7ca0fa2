package index

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
)

// Newest asks for what is in force after everything that the index has seen.
const Newest = record.Sequence(math.MaxUint64)

// Entry is one version of a Subscription that is, or was, in force.
type Entry struct {
	ID    fhir.ID
	Birth record.Sequence // sequence of the Subscription's create

	// Version is the sequence of this version, Until that of the change that ended it: the
	// next version, or the Subscription's deletion or switching off; 0 while there is none.
	// It is in force for the events in (Version, Until]. The change at Until is itself an
	// event, and what was in force before it decides who hears of it. So every event meets
	// at most one version of a Subscription, and one that listens to Subscriptions hears of
	// its own replacement but not of its own coming.
	Version record.Sequence
	Until   record.Sequence

	End          time.Time // events from this time of the log on do not match; zero if there is none
	Interactions []fhir.Interaction
	Criteria     *search.Criteria
}

// InForce reports whether the version is in force for an event at this place and time of the
// log. A zero time leaves End out of account.
func (e *Entry) InForce(at record.Sequence, t time.Time) bool {
	return inForce(e.Version, e.Until, e.End, at, t)
}

func inForce(from, until record.Sequence, end time.Time, at record.Sequence, t time.Time) bool {
	return from < at && (until == 0 || at <= until) && (end.IsZero() || t.IsZero() || t.Before(end))
}

// Hit names a version that an event met.
type Hit struct {
	ID      fhir.ID
	Birth   record.Sequence
	Version record.Sequence
}

// Verify decides whether a candidate's criteria matches a resource.
type Verify func(*search.Criteria, *search.Resource) bool

// Index holds the versions of Subscriptions. Put, Close and Prune are called in the order of
// the log; Match, Get and Versions by anybody at any time.
type Index struct {
	// shelves are by resource type; every holds what listens to all types but Subscription.
	shelves atomic.Pointer[map[string]*shelf]
	every   shelf

	mu     sync.Mutex // guards what follows; never taken by Match
	byID   map[fhir.ID][]*version
	groups map[string]*group // by canonical criteria
	ended  []*version        // in the order in which they ended
	count  int
}

// version is an Entry in the index. Only until changes: readers may be looking at it.
type version struct {
	entry Entry // Until is in until
	until atomic.Uint64
	hears uint8
	group *group
}

// group is the versions of equal criteria.
type group struct {
	criteria *search.Criteria
	hashes   []uint64 // where it is posted: sorted, none twice
	versions list[*version]
	dead     bool // being removed; used by Prune alone
}

// New returns an empty index.
func New() *Index {
	x := &Index{byID: map[fhir.ID][]*version{}, groups: map[string]*group{}}
	x.shelves.Store(&map[string]*shelf{})
	return x
}

// Put adds a version and ends the one before it. A version that is not newer than those that
// the index has of the id is known already and ignored, so a log may be folded again.
func (x *Index) Put(e Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if before := x.last(e.ID); before != nil {
		if e.Version <= before.entry.Version {
			return
		}
		x.end(before, e.Version)
	}
	v := &version{entry: e, hears: mask(e.Interactions...), group: x.group(e.Criteria)}
	if e.Until != 0 {
		x.end(v, e.Until)
	}
	x.byID[e.ID] = append(x.byID[e.ID], v)
	x.count++
	v.group.versions.add(v) // last: from here on readers see it
}

// Close ends what is in force of an id: the change at this sequence deleted it, switched it
// off, or put it to a state in which it hears nothing.
func (x *Index) Close(id fhir.ID, at record.Sequence) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if v := x.last(id); v != nil && at > v.entry.Version {
		x.end(v, at)
	}
}

// Prune forgets the versions that ended at or below a place that every partition has passed.
func (x *Index) Prune(below record.Sequence) {
	x.mu.Lock()
	defer x.mu.Unlock()
	gone := func(v *version) bool {
		until := record.Sequence(v.until.Load())
		return until != 0 && until <= below
	}
	touched := map[*group]bool{}
	x.ended = slices.DeleteFunc(x.ended, func(v *version) bool {
		if !gone(v) {
			return false
		}
		touched[v.group] = true
		x.count--
		if rest := slices.DeleteFunc(x.byID[v.entry.ID], gone); len(rest) == 0 {
			delete(x.byID, v.entry.ID)
		} else {
			x.byID[v.entry.ID] = rest
		}
		return true
	})
	x.drop(touched, gone)
}

// drop takes versions out of their groups, and groups that are empty then off the shelves.
func (x *Index) drop(touched map[*group]bool, gone func(*version) bool) {
	lists := map[*list[*group]]bool{}
	for g := range touched {
		g.versions.remove(gone)
		if len(g.versions.all()) > 0 {
			continue
		}
		g.dead = true
		delete(x.groups, g.criteria.Canonical())
		for _, s := range x.shelvesOf(g.criteria) {
			s.listsOf(g, func(l *list[*group]) { lists[l] = true })
		}
	}
	for l := range lists {
		l.remove(func(g *group) bool { return g.dead })
	}
}

// last is the newest version of an id; nil if there is none. Called with mu held.
func (x *Index) last(id fhir.ID) *version {
	versions := x.byID[id]
	if len(versions) == 0 {
		return nil
	}
	return versions[len(versions)-1]
}

// end gives a version its end, or an earlier one. Called with mu held.
func (x *Index) end(v *version, at record.Sequence) {
	switch until := record.Sequence(v.until.Load()); {
	case until == 0:
		v.until.Store(uint64(at))
		x.ended = append(x.ended, v)
	case at < until:
		v.until.Store(uint64(at))
	}
}

// group finds the group of a criteria, or makes it and puts it on its shelves. Called with mu
// held.
func (x *Index) group(c *search.Criteria) *group {
	key := c.Canonical()
	if g := x.groups[key]; g != nil {
		return g
	}
	access := c.Access()
	g := &group{criteria: c, hashes: access.Hashes}
	x.groups[key] = g
	for _, s := range x.shelvesOf(c) {
		s.post(g, access.Param)
	}
	return g
}

// shelvesOf are the shelves of the types that a criteria listens to; missing ones are made.
// Called with mu held.
func (x *Index) shelvesOf(c *search.Criteria) []*shelf {
	if c.AnyType() {
		return []*shelf{&x.every}
	}
	var shelves []*shelf
	for _, t := range c.Types() {
		s := (*x.shelves.Load())[t]
		if s == nil {
			s = &shelf{}
			more := map[string]*shelf{t: s}
			for t, s := range *x.shelves.Load() {
				more[t] = s
			}
			x.shelves.Store(&more)
		}
		shelves = append(shelves, s)
	}
	return shelves
}

// Match appends to dst the versions in force at a place and time of the log that hear of an
// interaction and whose criteria match a resource, in order of their ids. It takes no lock.
// The caller has put into the index every change of a Subscription before that place; what
// comes while it runs concerns later events.
//
// Each distinct criteria is asked once, by verify, or by its own Match where verify is nil.
// A panic of a criteria passes through and leaves the index whole.
func (x *Index) Match(at record.Sequence, t time.Time, i fhir.Interaction, r *search.Resource, verify Verify, dst []Hit) []Hit {
	if verify == nil {
		verify = (*search.Criteria).Match
	}
	q := query{at: at, time: t, interaction: mask(i), resource: r, verify: verify, hits: dst}
	if s := (*x.shelves.Load())[r.Type()]; s != nil {
		s.match(&q)
	}
	if r.Type() != "Subscription" {
		x.every.match(&q)
	}
	slices.SortFunc(q.hits[len(dst):], func(a, b Hit) int { return cmp.Compare(a.ID, b.ID) })
	return q.hits
}

// Get returns the version of a Subscription that is in force for the event at a place of the
// log, its End left out of account.
func (x *Index) Get(id fhir.ID, at record.Sequence) (Entry, bool) {
	for _, e := range slices.Backward(x.Versions(id)) {
		if e.InForce(at, time.Time{}) {
			return e, true
		}
	}
	return Entry{}, false
}

// Versions lists what the index holds of a Subscription, oldest first.
func (x *Index) Versions(id fhir.ID) []Entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	var entries []Entry
	for _, v := range x.byID[id] {
		e := v.entry
		e.Until = record.Sequence(v.until.Load())
		entries = append(entries, e)
	}
	return entries
}

// Size tells how many versions the index holds, and how many distinct criteria they have.
func (x *Index) Size() (versions, criteria int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.count, len(x.groups)
}

// mask has a bit for each interaction.
func mask(interactions ...fhir.Interaction) uint8 {
	var m uint8
	for _, i := range interactions {
		switch i {
		case fhir.Create:
			m |= 1
		case fhir.Update:
			m |= 2
		case fhir.Delete:
			m |= 4
		}
	}
	return m
}
