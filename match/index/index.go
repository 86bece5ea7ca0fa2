package index

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/fhirpath"
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

	// From is set where the same version was compiled anew, because a definition that its
	// criteria uses was changed at this place: it is in force in this form for the events in
	// (From, Until]. 0 stands for Version.
	From record.Sequence

	End          time.Time // events from this time of the log on do not match; zero if there is none
	Interactions []fhir.Interaction
	Criteria     *search.Criteria

	// Basis tells criteria of equal canonical text apart that were compiled with different
	// definitions: the place of the newest change of what they use. 0 where they use nothing
	// but the standard's own.
	Basis record.Sequence

	// Path is a FHIRPath expression that must be true as well; nil if there is none. The index
	// does not evaluate it: hits carry it, and who asks for them does.
	Path *fhirpath.Expression
}

func (e *Entry) from() record.Sequence { return max(e.Version, e.From) }

// InForce reports whether the version is in force for an event at this place and time of the
// log. A zero time leaves End out of account.
func (e *Entry) InForce(at record.Sequence, t time.Time) bool {
	return e.from() < at && (e.Until == 0 || at <= e.Until) && before(t, e.End)
}

// Hit names a version that an event met.
type Hit struct {
	ID      fhir.ID
	Birth   record.Sequence
	Version record.Sequence
	Path    *fhirpath.Expression // what is still to be evaluated; nil if nothing is
}

// Verify decides whether a candidate's criteria matches a resource.
type Verify func(*search.Criteria, *search.Resource) bool

// Index holds the versions of Subscriptions. Put, Close and Prune are called in the order of
// the log; Match, Get and Versions by anybody at any time.
type Index struct {
	// shelves are by resource type; every holds what listens to all types but Subscription.
	shelves atomic.Pointer[map[string]*shelf]
	every   shelf

	pending atomic.Bool // there is somebody in restless

	patience uint32 // the constants, but in tests
	crowded  int

	mu       sync.Mutex           // guards what follows; Match never waits for it
	byID     map[fhir.ID]*version // the newest
	groups   map[uint64]*group    // by hash; see rare.next
	seed     maphash.Seed
	ended    []*version // in the order in which they ended
	restless []*place   // groups that are asked in vain too often; see relieve
	count    int
	distinct int // groups
}

// version is an Entry in the index, packed: there are many. Only until changes: readers may be
// looking at it.
type version struct {
	id     fhir.ID
	birth  record.Sequence
	number record.Sequence
	until  atomic.Uint64
	extra  *extra // nil if there is none
	group  *group
	older  *version // of the same id; of the writer
	hears  uint8
}

// extra is what few versions have.
type extra struct {
	from     record.Sequence  // Entry.From
	end      time.Time        // zero if there is none
	criteria *search.Criteria // of the same meaning as the group's, in its author's own words
	path     *fhirpath.Expression
}

func (v *version) hit() Hit {
	h := Hit{ID: v.id, Birth: v.birth, Version: v.number}
	if v.extra != nil {
		h.Path = v.extra.path
	}
	return h
}

func (v *version) inForce(at record.Sequence, t time.Time) bool {
	until := record.Sequence(v.until.Load())
	return v.from() < at && (until == 0 || at <= until) && (v.extra == nil || before(t, v.extra.end))
}

// from is the place from which on it is in force.
func (v *version) from() record.Sequence {
	if v.extra == nil {
		return v.number
	}
	return max(v.number, v.extra.from)
}

// before reports whether an event at t comes before an end. Where either is unknown it does.
func before(t, end time.Time) bool { return end.IsZero() || t.IsZero() || t.Before(end) }

func (v *version) entry() Entry {
	e := Entry{
		ID: v.id, Birth: v.birth, Version: v.number, Until: record.Sequence(v.until.Load()),
		Interactions: heard(v.hears), Criteria: v.group.criteria, Basis: v.group.basis(),
	}
	if v.extra != nil {
		e.From, e.End, e.Path = v.extra.from, v.extra.end, v.extra.path
		if v.extra.criteria != nil {
			e.Criteria = v.extra.criteria
		}
	}
	return e
}

// group is the versions of criteria that share an evaluation: those of equal canonical text
// that were compiled on the same basis.
type group struct {
	criteria *search.Criteria
	versions bag[version]
	first    version // the first that there was; most groups never have another

	// Of the writer:
	home place // where it is found first, and most for ever; without group if it is asked always
	rare *rare // nil if it has nothing of it
}

// rare is what few groups have.
type rare struct {
	basis record.Sequence
	next  *group // another of the same hash

	// Of a group that was asked in vain too often:
	place *place    // where it is found since; nil: home
	tried []float32 // by access: the part of the type's events that ask it there in vain; 0 if unknown
}

// seldom is the group's rare part, made if there is none.
func (g *group) seldom() *rare {
	if g.rare == nil {
		g.rare = &rare{}
	}
	return g.rare
}

func (g *group) basis() record.Sequence {
	if g.rare == nil {
		return 0
	}
	return g.rare.basis
}

func (g *group) next() *group {
	if g.rare == nil {
		return nil
	}
	return g.rare.next
}

// version is a new one of the group.
func (g *group) version() *version {
	v := &g.first
	if v.group != nil {
		v = &version{}
	}
	v.group = g
	return v
}

// place is where the group is found; nil if it is asked always.
func (g *group) place() *place {
	switch {
	case g.rare != nil && g.rare.place != nil:
		return g.rare.place
	case g.home.group != nil:
		return &g.home
	}
	return nil
}

// New returns an empty index.
func New() *Index {
	x := &Index{byID: map[fhir.ID]*version{}, groups: map[uint64]*group{}, seed: maphash.MakeSeed(), patience: patience, crowded: crowded}
	x.shelves.Store(&map[string]*shelf{})
	return x
}

// Put adds a version, or a form of it, and ends the one before it. One that is not newer than
// those that the index has of the id is known already and ignored, so a log may be folded again.
func (x *Index) Put(e Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	older := x.byID[e.ID]
	if older != nil {
		if e.from() <= older.from() {
			return
		}
		x.end(older, e.from())
	}
	v := x.group(e.Criteria, e.Basis).version()
	v.id, v.birth, v.number = e.ID, e.Birth, e.Version
	v.older, v.hears = older, mask(e.Interactions...)
	same := e.Criteria.String() == v.group.criteria.String()
	if !same || !e.End.IsZero() || e.From != 0 || e.Path != nil {
		v.extra = &extra{from: e.From, end: e.End, path: e.Path}
	}
	if !same {
		v.extra.criteria = e.Criteria
	}
	if e.Until != 0 {
		x.end(v, e.Until)
	}
	x.byID[e.ID] = v
	x.count++
	v.group.versions.add(v) // last: from here on readers see it
	x.moveSome()
}

// Close ends what is in force of an id: the change at this sequence deleted it, switched it
// off, or put it to a state in which it hears nothing.
func (x *Index) Close(id fhir.ID, at record.Sequence) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if v := x.byID[id]; v != nil && at > v.from() {
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
		x.forget(v)
		return true
	})
	x.drop(touched, gone)
	x.moveSome()
}

// forget takes a version out of the list of its id.
func (x *Index) forget(v *version) {
	newest := x.byID[v.id]
	if newest == v {
		if v.older == nil {
			delete(x.byID, v.id)
		} else {
			x.byID[v.id] = v.older
		}
		return
	}
	for ; newest != nil; newest = newest.older {
		if newest.older == v {
			newest.older = v.older
			return
		}
	}
}

// drop takes versions out of their groups, and groups that are empty then off the shelves.
func (x *Index) drop(touched map[*group]bool, gone func(*version) bool) {
	c := newCleaning()
	for g := range touched {
		g.versions.remove(gone)
		if !g.versions.empty() {
			continue
		}
		g.home.left = true
		x.forgetGroup(g)
		for _, s := range x.shelvesOf(g.criteria) {
			c.group(s, g)
		}
	}
	c.run()
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
func (x *Index) group(c *search.Criteria, basis record.Sequence) *group {
	identity := c.Identity()
	at := maphash.String(x.seed, identity)
	for g := x.groups[at]; g != nil; g = g.next() {
		if g.basis() == basis && g.criteria.Identity() == identity {
			return g
		}
	}
	g := &group{criteria: c}
	if other := x.groups[at]; other != nil || basis != 0 {
		g.rare = &rare{basis: basis, next: other}
	}
	x.groups[at] = g
	x.distinct++
	for _, s := range x.shelvesOf(c) {
		s.post(g)
	}
	return g
}

func (x *Index) forgetGroup(g *group) {
	x.distinct--
	at := maphash.String(x.seed, g.criteria.Identity())
	first := x.groups[at]
	switch {
	case first != g:
		for ; first.next() != g; first = first.next() {
		}
		first.rare.next = g.next()
	case g.next() == nil:
		delete(x.groups, at)
	default:
		x.groups[at] = g.next()
	}
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
// interaction and whose criteria match a resource, in order of their ids. It waits for nobody.
// The caller has put into the index every change of a Subscription before that place; what
// comes while it runs concerns later events.
//
// Each distinct criteria is asked once, by verify, or by its own Match where verify is nil; while
// groups move (see relieve) it may be asked again.
// A panic of a criteria passes through and leaves the index whole.
func (x *Index) Match(at record.Sequence, t time.Time, i fhir.Interaction, r *search.Resource, verify Verify, dst []Hit) []Hit {
	if verify == nil {
		verify = (*search.Criteria).Match
	}
	q := query{at: at, time: t, interaction: mask(i), resource: r, verify: verify, hits: dst, patience: x.patience, crowded: x.crowded}
	if s := (*x.shelves.Load())[r.Type()]; s != nil {
		s.match(&q)
	}
	if !r.OwnAffair() {
		x.every.match(&q)
	}
	if q.wasted.posting != nil || x.pending.Load() {
		x.relieve(q.wasted)
	}
	own := q.hits[len(dst):]
	slices.SortFunc(own, func(a, b Hit) int { return cmp.Compare(a.ID, b.ID) })
	return q.hits[:len(dst)+len(slices.Compact(own))]
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
	for v := x.byID[id]; v != nil; v = v.older {
		entries = append(entries, v.entry())
	}
	slices.Reverse(entries)
	return entries
}

// Size tells how many versions the index holds, and how many distinct criteria they have.
func (x *Index) Size() (versions, criteria int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.count, x.distinct
}

// interactions are in the order of their bits in a mask.
var interactions = [...]fhir.Interaction{fhir.Create, fhir.Update, fhir.Delete}

// mask has a bit for each interaction.
func mask(list ...fhir.Interaction) uint8 {
	var m uint8
	for i, x := range interactions {
		if slices.Contains(list, x) {
			m |= 1 << i
		}
	}
	return m
}

// heard lists the interactions of a mask.
func heard(m uint8) []fhir.Interaction {
	var list []fhir.Interaction
	for i, x := range interactions {
		if m&(1<<i) != 0 {
			list = append(list, x)
		}
	}
	return list
}
