package index

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
)

// query is one event on its way through the index.
type query struct {
	at          record.Sequence
	time        time.Time
	interaction uint8
	resource    *search.Resource
	verify      Verify
	hits        []Hit
	patience    uint32
	crowded     int
	wasted      crowd // where candidates were asked in vain so often that it is worth a look
	probes      [16]probe
	slots       [16]*slot
	waiting     [24]candidate
	waits       int
	seen        int // see askWaiting
}

// probe is a hash that the event has of a posting's feature, and where it is looked for.
type probe struct {
	posting *posting
	slots   *[]slot
	hash    uint64
}

// candidate is a place that an event has found.
type candidate struct {
	place *place
	crowd crowd // without posting where few are beside it
}

// ask adds the versions of a group that the event meets. The criteria is asked last: whether
// anybody is in force and listens costs a few comparisons.
func (q *query) ask(g *group) (met bool) {
	before := len(q.hits)
	if v := g.versions.one.Load(); v != nil {
		q.hear(v)
	}
	for _, v := range g.versions.more.all() {
		q.hear(v)
	}
	if len(q.hits) == before {
		return false
	}
	if !q.verify(g.criteria, q.resource) {
		q.hits = q.hits[:before]
		return false
	}
	return true
}

func (q *query) hear(v *version) {
	if v.hears&q.interaction != 0 && v.inForce(q.at, q.time) {
		if v.id != "" { // several hits are put in order
			q.seen += int(v.id[0])
		}
		q.hits = append(q.hits, v.hit())
	}
}

// found lets a candidate wait until there are enough to be asked together.
func (q *query) found(p *place, c crowd) {
	if q.waits == len(q.waiting) {
		q.askWaiting()
	}
	if v := p.group.versions.one.Load(); v != nil { // a new group has none yet
		q.seen += int(v.hears)
	}
	q.waiting[q.waits] = candidate{p, c}
	q.waits++
}

// askWaiting asks the candidates. Among a hundred thousand each is mostly in no cache, and would
// be waited for a dozen times over. So all are looked at before the first is asked: the group when
// it is found, its criteria, and what that leads to. No look depends on another one of its round,
// so the processor waits for all of a round at once.
func (q *query) askWaiting() {
	waiting := q.waiting[:q.waits]
	q.waits = 0
	for i := range waiting {
		q.seen += waiting[i].place.group.criteria.Glance()
	}
	for i := range waiting {
		q.seen += waiting[i].place.group.criteria.GlanceFurther()
	}
	for i := range waiting {
		q.try(waiting[i].place, waiting[i].crowd)
	}
}

// try asks the group of a place. Where there are many places, those that are asked in vain are
// counted.
func (q *query) try(p *place, c crowd) {
	if q.ask(p.group) || c.posting == nil {
		return
	}
	if n := p.wasted.Add(1); n >= q.patience && n&(n-1) == 0 {
		q.wasted = c
	}
}

// shelf holds the groups that listen to one resource type.
type shelf struct {
	open     list[*group] // without conditions: every resource of the type meets them
	always   list[*group] // with conditions, but nothing to find them by
	postings list[*posting]

	moves atomic.Uint64 // counts when places were left for others; see match

	_      [64]byte // what follows is written by every event, what precedes is read by every event
	events atomic.Uint64
	_      [56]byte
}

// posting holds the places that are found by one feature of a resource.
type posting struct {
	shelf   *shelf
	feature search.Feature
	live    atomic.Int64 // places, each as often as it has hashes
	hashes  table        // unless the feature is ordered
	ranges  intervals    // if it is
}

// place is where a group is found: one of its criteria's accesses.
type place struct {
	group  *group
	more   *search.Access // if it has several hashes or ranges; else nil
	since  uint64         // the shelf's count of events when the group came
	wasted atomic.Uint32  // how often it was asked in vain among many others
	access uint8          // which of the criteria's accesses

	// Of the writer:
	restless bool // in Index.restless
	left     bool // the group is elsewhere, or gone; of one that is asked always, gone
}

// crowd is where many places are looked at for one event: a slot, or a posting's ranges.
type crowd struct {
	posting *posting
	slot    *slot
}

// match asks the candidates on the shelf, each once.
//
// A group that moves is put where it goes before it is taken from where it was, and moves is
// counted between the two. So an event that has found it at neither has begun before that count
// and ended after it, and asks again. One that has found it at both has some hits twice, which
// Match levels.
func (s *shelf) match(q *query) {
	s.events.Add(1)
	before := len(q.hits)
	for {
		moves := s.moves.Load()
		s.walk(q)
		if s.moves.Load() == moves {
			return
		}
		q.hits = q.hits[:before]
	}
}

func (s *shelf) walk(q *query) {
	for _, g := range s.open.all() {
		q.ask(g)
	}
	for _, g := range s.always.all() {
		q.ask(g)
	}
	probes := q.probes[:0]
	for _, p := range s.postings.all() {
		if p.feature.Ordered() {
			p.matchRange(q)
		} else {
			probes = q.look(p, probes)
		}
	}
	q.probe(probes)
	q.askWaiting()
}

// look notes the hashes that the event has of a posting's feature. The slots are looked at, but
// nothing depends on it yet: while the next values are read, the processor fetches them.
func (q *query) look(p *posting, probes []probe) []probe {
	table := p.hashes.slots.Load()
	if table == nil {
		return probes
	}
	hashes, known := q.hashes(p)
	if !known {
		q.all(*table)
		return probes
	}
	if len(hashes) > cap(probes)-len(probes) {
		q.probe(probes)
		probes = probes[:0]
	}
	if len(hashes) > cap(probes) {
		q.matchMany(p, *table, hashes)
		return probes
	}
	for _, h := range hashes {
		h = nonzero(h)
		q.seen += int((*table)[h&uint64(len(*table)-1)].hash.Load())
		probes = append(probes, probe{p, table, h})
	}
	return probes
}

// hashes are those that the event has of a posting's feature. Other resources are read only while
// there is somebody to be found by them.
func (q *query) hashes(p *posting) (hashes []uint64, known bool) {
	switch {
	case !p.feature.Linked():
		return q.resource.Hashes(p.feature), true
	case p.live.Load() == 0:
		return nil, true
	}
	return q.resource.LinkedHashes(p.feature)
}

// all takes every place for a candidate: it is not known which the event has found.
func (q *query) all(slots []slot) {
	for i := range slots {
		hash := slots[i].hash.Load()
		slots[i].places.each(func(p *place) {
			if p.more == nil || nonzero(p.more.Hashes[0]) == hash { // each once
				q.found(p, crowd{})
			}
		})
	}
}

// probe finds the candidates of what look has noted, posting by posting.
func (q *query) probe(probes []probe) {
	for i := 0; i < len(probes); {
		p, found := probes[i].posting, q.slots[:0]
		for ; i < len(probes) && probes[i].posting == p; i++ {
			if s, ok := seek(*probes[i].slots, probes[i].hash); ok {
				found = append(found, s)
			}
		}
		p.candidates(q, found)
	}
}

// matchMany finds the candidates of a posting of which the event has very many values.
func (q *query) matchMany(p *posting, slots []slot, hashes []uint64) {
	found := q.slots[:0]
	for _, h := range hashes {
		if s, ok := seek(slots, nonzero(h)); ok {
			found = append(found, s)
		}
	}
	p.candidates(q, found)
}

// candidates takes the places that are in the slots which an event has found.
func (p *posting) candidates(q *query, found []*slot) {
	if len(found) > 1 {
		slices.SortFunc(found, func(a, b *slot) int { return cmp.Compare(a.hash.Load(), b.hash.Load()) })
		found = slices.CompactFunc(found, func(a, b *slot) bool { return a == b })
	}
	for _, s := range found {
		more, c := s.places.more.all(), crowd{}
		if len(more) >= q.crowded {
			c = crowd{p, s}
		}
		if one := s.places.one.Load(); one != nil && one.first(s, found) {
			q.found(one, c)
		}
		for _, at := range more {
			if at.first(s, found) {
				q.found(at, c)
			}
		}
	}
}

// first reports whether a slot is the first in which an event finds the place, so that a group
// that is posted in several is asked once without a mark of what was asked already.
func (p *place) first(at *slot, found []*slot) bool {
	if len(found) == 1 || p.more == nil {
		return true
	}
	for _, h := range p.more.Hashes {
		i, ok := slices.BinarySearchFunc(found, nonzero(h), func(s *slot, h uint64) int { return cmp.Compare(s.hash.Load(), h) })
		if ok {
			return found[i] == at
		}
	}
	return true
}

func (p *posting) matchRange(q *query) {
	root := p.ranges.root.Load()
	if root == nil {
		return
	}
	r, ok := q.resource.Range(p.feature)
	if !ok {
		return
	}
	c := crowd{}
	if int(root.count) > q.crowded {
		c = crowd{p, nil}
	}
	q.overlapping(root, r, c)
}

// overlapping finds the places whose ranges overlap r.
func (q *query) overlapping(n *interval, r search.Range, c crowd) {
	for n != nil && n.high >= r.Low {
		q.overlapping(n.left, r, c)
		if n.Low > r.High {
			return // and all to the right begin later
		}
		if n.High >= r.Low && n.place.firstRange(n.Range, r) {
			q.found(n.place, c)
		}
		n = n.right
	}
}

// firstRange is first for ranges.
func (p *place) firstRange(own, r search.Range) bool {
	if p.more == nil {
		return true
	}
	for _, other := range p.more.Ranges {
		if other.Overlaps(r) {
			return other == own
		}
	}
	return true
}

// post puts a group on the shelf, at the first of its accesses. Called with the index's mu held.
func (s *shelf) post(g *group) {
	accesses := g.criteria.Accesses()
	switch {
	case len(accesses) > 0:
		s.put(&g.home, g, accesses, 0)
	case g.criteria.Open():
		s.open.add(g)
	default:
		s.always.add(g)
	}
}

// put makes a place for a group and puts it where events find it.
func (s *shelf) put(at *place, g *group, accesses []search.Access, i int) {
	a := &accesses[i]
	at.group, at.access, at.since = g, uint8(i), s.events.Load()
	if len(a.Hashes)+len(a.Ranges) > 1 {
		at.more = &search.Access{Feature: a.Feature, Hashes: a.Hashes, Ranges: a.Ranges} // not all of accesses
	}
	p := s.posting(a.Feature)
	if p == nil {
		p = &posting{shelf: s, feature: a.Feature}
		s.postings.add(p)
	}
	for _, h := range a.Hashes {
		p.live.Add(1)
		p.hashes.put(nonzero(h), at)
	}
	for _, r := range a.Ranges {
		p.ranges.put(r, at)
	}
}

func (s *shelf) posting(f search.Feature) *posting {
	for _, p := range s.postings.all() {
		if p.feature == f {
			return p
		}
	}
	return nil
}

// cleaning collects what dead or moved groups leave behind, so that each list is cleaned once.
type cleaning struct {
	bags   map[*bag[place]]bool
	ranges map[*posting]bool
	lists  map[*list[*group]]bool
}

func newCleaning() *cleaning {
	return &cleaning{map[*bag[place]]bool{}, map[*posting]bool{}, map[*list[*group]]bool{}}
}

// place notes that a place is left.
func (c *cleaning) place(s *shelf, at *place) {
	at.left = true
	a := at.more
	if a == nil {
		a = &at.group.criteria.Accesses()[at.access]
	}
	p := s.posting(a.Feature)
	if a.Feature.Ordered() {
		c.ranges[p] = true
	}
	for _, h := range a.Hashes {
		p.live.Add(-1)
		c.bags[&p.hashes.slot(nonzero(h)).places] = true
	}
}

// group notes that a group is gone from a shelf.
func (c *cleaning) group(s *shelf, g *group) {
	switch {
	case g.place() != nil:
		c.place(s, g.place())
	case g.criteria.Open():
		c.lists[&s.open] = true
	default:
		c.lists[&s.always] = true
	}
}

func (c *cleaning) run() {
	left := func(p *place) bool { return p.left }
	for b := range c.bags {
		b.remove(left)
	}
	for p := range c.ranges {
		p.ranges.remove(left)
	}
	for l := range c.lists {
		l.remove(func(g *group) bool { return g.home.left })
	}
}
