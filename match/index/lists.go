package index

import "sync/atomic"

// What follows is changed by one writer while others read it without a lock. A reader sees a
// list as it was at some moment of its visit.

// list is a slice of what many may be of.
type list[T any] struct{ p atomic.Pointer[[]T] }

// all is the list as it is now. It is not changed.
func (l *list[T]) all() []T {
	if p := l.p.Load(); p != nil {
		return *p
	}
	return nil
}

// short is a list of few, in one piece with its slice: who follows a list into memory that is
// in no cache waits once, and not for the slice first.
type short[T any] struct {
	all  []T
	room [shortest]T
}

const shortest = 5 // pointers make 64 bytes then: a line of the processor's cache

// add appends. The new element of a long list may go into memory behind a slice that readers
// hold: they do not look beyond its length.
func (l *list[T]) add(v T) {
	if all := l.all(); len(all) < shortest {
		l.set(append(all[:len(all):len(all)], v))
	} else {
		l.set(append(all, v))
	}
}

func (l *list[T]) set(all []T) {
	if len(all) > shortest {
		l.p.Store(&all)
		return
	}
	s := &short[T]{}
	s.all = append(s.room[:0], all...)
	l.p.Store(&s.all)
}

// remove makes a new list without some elements.
func (l *list[T]) remove(gone func(T) bool) {
	all := l.all()
	if len(all) == 0 {
		return
	}
	var rest []T
	for _, v := range all {
		if !gone(v) {
			rest = append(rest, v)
		}
	}
	if len(rest) == 0 {
		l.p.Store(nil)
		return
	}
	l.set(rest)
}

// bag is a list of what there is mostly one of: it takes no memory beyond itself then.
type bag[T any] struct {
	one  atomic.Pointer[T]
	more list[*T]
}

func (b *bag[T]) add(v *T) {
	if b.one.Load() == nil {
		b.one.Store(v)
		return
	}
	b.more.add(v)
}

func (b *bag[T]) remove(gone func(*T) bool) {
	if v := b.one.Load(); v != nil && gone(v) {
		b.one.Store(nil)
	}
	b.more.remove(gone)
}

func (b *bag[T]) empty() bool { return b.one.Load() == nil && len(b.more.all()) == 0 }

// each visits the elements.
func (b *bag[T]) each(visit func(*T)) {
	if v := b.one.Load(); v != nil {
		visit(v)
	}
	for _, v := range b.more.all() {
		visit(v)
	}
}

// table is an open-addressed hash table from hashes to places that one writer changes while
// others read it. A slot is taken once and for good; when the table grows, readers of the old one
// miss only what was added since.
type table struct {
	slots atomic.Pointer[[]slot]
	taken int // of the writer
}

// slot is free while its hash is 0; no hash is.
type slot struct {
	hash   atomic.Uint64
	places bag[place]
}

// nonzero keeps 0 for free slots. A hash is compared with others that went through here, and a
// collision costs only time.
func nonzero(hash uint64) uint64 { return max(hash, 1) }

// slot finds the slot of a hash; nil if there is none.
func (t *table) slot(hash uint64) *slot {
	p := t.slots.Load()
	if p == nil {
		return nil
	}
	if s, ok := seek(*p, hash); ok {
		return s
	}
	return nil
}

// seek finds the slot of a hash, or the free one that it would take. There always is a free one.
func seek(slots []slot, hash uint64) (s *slot, ok bool) {
	mask := uint64(len(slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if h := slots[i].hash.Load(); h == hash || h == 0 {
			return &slots[i], h != 0
		}
	}
}

func (t *table) put(hash uint64, p *place) {
	s := t.slot(hash)
	if s == nil {
		t.grow()
		s, _ = seek(*t.slots.Load(), hash)
		s.hash.Store(hash)
		t.taken++
	}
	s.places.add(p)
}

// grow makes room for another slot: where there is none, a table of at least twice the slots
// that still hold a place, so that those emptied by Prune are left behind.
func (t *table) grow() {
	var old []slot
	if p := t.slots.Load(); p != nil {
		old = *p
	}
	if 3*(t.taken+1) <= 2*len(old) {
		return
	}
	live := 0
	for i := range old {
		if !old[i].places.empty() {
			live++
		}
	}
	size := 8
	for size < 2*(live+1) {
		size *= 2
	}
	slots := make([]slot, size)
	for i := range old {
		if from := &old[i]; !from.places.empty() {
			to, _ := seek(slots, from.hash.Load())
			to.hash.Store(from.hash.Load())
			to.places.one.Store(from.places.one.Load())
			to.places.more.p.Store(from.places.more.p.Load())
		}
	}
	t.taken = live
	t.slots.Store(&slots)
}
