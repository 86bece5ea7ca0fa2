package index

import (
	"cmp"
	"sync/atomic"

	"github.com/carillon-fhir/carillon/match/search"
)

// intervals finds the ranges that overlap another one: a treap ordered by the lower end, in
// which each node knows the greatest upper end below it. Nodes never change; a change copies
// the way from the root, so readers hold a whole tree and need no lock.
type intervals struct {
	root atomic.Pointer[interval]
	last uint64 // number of the newest interval; of the writer
}

type interval struct {
	search.Range
	number      uint64  // tells equal ranges apart
	high        float64 // the greatest of the subtree
	count       int32   // of the subtree
	place       *place
	left, right *interval
}

// priority shapes the tree: a number that looks random and that nobody outside can choose.
func (n *interval) priority() uint64 {
	x := n.number * 0x9E3779B97F4A7C15
	x ^= x >> 32
	return x * 0xD6E8FEB86659FD93
}

func (n *interval) compare(o *interval) int {
	return cmp.Or(cmp.Compare(n.Low, o.Low), cmp.Compare(n.High, o.High), cmp.Compare(n.number, o.number))
}

// with is a copy of n that has these children.
func (n *interval) with(left, right *interval) *interval {
	c := *n
	c.left, c.right, c.high, c.count = left, right, n.High, 1
	for _, child := range [2]*interval{left, right} {
		if child != nil {
			c.high, c.count = max(c.high, child.high), c.count+child.count
		}
	}
	return &c
}

// put adds a range of a place.
func (t *intervals) put(r search.Range, p *place) {
	t.last++
	t.root.Store(t.root.Load().insert(&interval{Range: r, number: t.last, high: r.High, count: 1, place: p}))
}

func (n *interval) insert(v *interval) *interval {
	switch {
	case n == nil:
		return v
	case v.priority() > n.priority():
		return v.with(n.split(v))
	case v.compare(n) < 0:
		return n.with(n.left.insert(v), n.right)
	}
	return n.with(n.left, n.right.insert(v))
}

// split divides a tree into what comes before and after v.
func (n *interval) split(v *interval) (before, after *interval) {
	switch {
	case n == nil:
		return nil, nil
	case n.compare(v) < 0:
		before, after = n.right.split(v)
		return n.with(n.left, before), after
	}
	before, after = n.left.split(v)
	return before, n.with(after, n.right)
}

// remove takes away the ranges of the places that are gone.
func (t *intervals) remove(gone func(*place) bool) {
	t.root.Store(t.root.Load().without(gone))
}

func (n *interval) without(gone func(*place) bool) *interval {
	if n == nil {
		return nil
	}
	left, right := n.left.without(gone), n.right.without(gone)
	switch {
	case gone(n.place):
		return join(left, right)
	case left == n.left && right == n.right:
		return n
	}
	return n.with(left, right)
}

// join makes one tree of two, all of whose nodes are in order.
func join(before, after *interval) *interval {
	switch {
	case before == nil:
		return after
	case after == nil:
		return before
	case before.priority() > after.priority():
		return before.with(before.left, join(before.right, after))
	}
	return after.with(join(before, after.left), after.right)
}

// each visits the places of all ranges.
func (n *interval) each(visit func(*place)) {
	if n == nil {
		return
	}
	n.left.each(visit)
	visit(n.place)
	n.right.each(visit)
}
