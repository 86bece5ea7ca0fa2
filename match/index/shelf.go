package index

import (
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
}

// ask adds the versions of a group that the event meets. The criteria is asked last: whether
// anybody is in force and listens costs a few comparisons.
func (q *query) ask(g *group) {
	before := len(q.hits)
	for _, v := range g.versions.all() {
		if v.hears&q.interaction != 0 && v.inForce(q.at, q.time) {
			q.hits = append(q.hits, Hit{ID: v.entry.ID, Birth: v.entry.Birth, Version: v.entry.Version})
		}
	}
	if len(q.hits) > before && !q.verify(g.criteria, q.resource) {
		q.hits = q.hits[:before]
	}
}

func (v *version) inForce(at record.Sequence, t time.Time) bool {
	return inForce(v.entry.Version, record.Sequence(v.until.Load()), v.entry.End, at, t)
}

// shelf holds the groups that listen to one resource type.
type shelf struct {
	always   list[*group] // without an equality
	postings list[*posting]
}

// posting holds the groups whose access predicate is an equality on one parameter.
type posting struct {
	param  string
	groups table
}

// post puts a group on the shelf. Called with the index's mu held.
func (s *shelf) post(g *group, param string) {
	if param == "" || len(g.hashes) == 0 {
		s.always.add(g)
		return
	}
	p := s.posting(param)
	if p == nil {
		p = &posting{param: param}
		s.postings.add(p)
	}
	for _, h := range g.hashes {
		p.groups.put(h, g)
	}
}

func (s *shelf) posting(param string) *posting {
	for _, p := range s.postings.all() {
		if p.param == param {
			return p
		}
	}
	return nil
}

// listsOf visits the lists of the shelf that a group is in.
func (s *shelf) listsOf(g *group, visit func(*list[*group])) {
	param := g.criteria.Access().Param
	if param == "" || len(g.hashes) == 0 {
		visit(&s.always)
		return
	}
	p := s.posting(param)
	if p == nil {
		return
	}
	for _, h := range g.hashes {
		if slot := p.groups.slot(h); slot != nil {
			visit(&slot.groups)
		}
	}
}

// match asks the candidates on the shelf, each once.
func (s *shelf) match(q *query) {
	for _, g := range s.always.all() {
		q.ask(g)
	}
	var room [16]uint64 // enough for nearly every parameter of nearly every resource
	for _, p := range s.postings.all() {
		tokens := append(room[:0], q.resource.Tokens(p.param)...)
		slices.Sort(tokens)
		tokens = slices.Compact(tokens)
		for _, t := range tokens {
			slot := p.groups.slot(t)
			if slot == nil {
				continue
			}
			for _, g := range slot.groups.all() {
				if len(g.hashes) == 1 || firstCommon(g.hashes, tokens) == t {
					q.ask(g)
				}
			}
		}
	}
}

// firstCommon is the smallest number that is in both sorted lists; 0 if there is none. A group
// that is posted under several hashes is asked at the first of them that the event has, so that
// no mark of what was asked already needs to be kept.
func firstCommon(hashes, tokens []uint64) uint64 {
	for _, h := range hashes {
		if _, ok := slices.BinarySearch(tokens, h); ok {
			return h
		}
	}
	return 0
}

// list is a slice that one writer changes while others read it without a lock.
type list[T any] struct{ p atomic.Pointer[[]T] }

// all is the list as it is now. It is not changed.
func (l *list[T]) all() []T {
	if p := l.p.Load(); p != nil {
		return *p
	}
	return nil
}

// add appends. The new element may go into memory behind a slice that readers hold: they do
// not look beyond its length.
func (l *list[T]) add(v T) {
	next := append(l.all(), v)
	l.p.Store(&next)
}

// remove makes a new list without some elements.
func (l *list[T]) remove(gone func(T) bool) {
	var rest []T
	for _, v := range l.all() {
		if !gone(v) {
			rest = append(rest, v)
		}
	}
	l.p.Store(&rest)
}

// table is a hash table from hashes to groups that one writer changes while others read it
// without a lock. Slots are added in front of their chain and are never moved; when the table
// grows, readers of the old one miss only what concerns events after theirs.
type table struct {
	buckets atomic.Pointer[[]bucket]
	slots   int // of the writer
}

type bucket = atomic.Pointer[slot]

type slot struct {
	hash   uint64
	groups list[*group]
	next   *slot
}

// slot finds the slot of a hash; nil if there is none.
func (t *table) slot(hash uint64) *slot {
	p := t.buckets.Load()
	if p == nil {
		return nil
	}
	buckets := *p
	for s := buckets[hash&uint64(len(buckets)-1)].Load(); s != nil; s = s.next {
		if s.hash == hash {
			return s
		}
	}
	return nil
}

func (t *table) put(hash uint64, g *group) {
	s := t.slot(hash)
	if s == nil {
		t.grow()
		s = &slot{hash: hash}
		s.groups.add(g)
		t.insert(*t.buckets.Load(), s)
		t.slots++
		return
	}
	s.groups.add(g)
}

func (t *table) insert(buckets []bucket, s *slot) {
	b := &buckets[s.hash&uint64(len(buckets)-1)]
	s.next = b.Load()
	b.Store(s)
}

// grow makes room for another slot: where there is none, a table of at least twice the slots
// that still hold a group, so that those emptied by Prune are left behind.
func (t *table) grow() {
	var old []bucket
	if p := t.buckets.Load(); p != nil {
		old = *p
	}
	if t.slots < len(old) {
		return
	}
	var live []*slot
	for i := range old {
		for s := old[i].Load(); s != nil; s = s.next {
			if len(s.groups.all()) > 0 {
				live = append(live, s)
			}
		}
	}
	size := 8
	for size < 2*len(live) {
		size *= 2
	}
	buckets := make([]bucket, size)
	for _, s := range live {
		moved := &slot{hash: s.hash}
		groups := s.groups.all()
		moved.groups.p.Store(&groups)
		t.insert(buckets, moved)
	}
	t.slots = len(live)
	t.buckets.Store(&buckets)
}
