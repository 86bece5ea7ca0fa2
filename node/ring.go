package node

import (
	"container/heap"
	"context"
	"errors"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// errBehind says that a reader asked the ring for a place that it no longer holds. The reader
// goes on from the log and comes back when it has caught up.
var errBehind = errors.New("the ring no longer holds this place of the log")

// ring holds the newest changes of EVENTS, as folded, for the readers on this node: the
// partitions' runners, which all want nearly the same changes at nearly the same time, and
// the gate, which answers a writer by what the fold made of its event.
//
// It never blocks the feed: what does not fit is forgotten, and a reader that is slower than
// that reads the log itself.
type ring struct {
	mu      sync.Mutex
	changes []record.Change // circular; changes[(head+i)%len] for i < count, oldest first
	head    int
	count   int
	bytes   int
	floor   record.Sequence // everything in (floor, applied] that is a resource change is here
	applied record.Sequence // last sequence folded, control records included
	moved   chan struct{}   // closed when applied moves, for readers; nil while none waits
	waiters waiters         // for writers, each of whom waits for its own place

	maxBytes int
}

func newRing(changes, bytes int, applied record.Sequence) *ring {
	return &ring{
		changes:  make([]record.Change, changes),
		floor:    applied,
		applied:  applied,
		maxBytes: bytes,
	}
}

// add appends folded changes and moves the applied position to last.
func (r *ring) add(changes []record.Change, last record.Sequence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range changes {
		c := &changes[i]
		for r.count == len(r.changes) || (r.count > 0 && r.bytes+len(c.Body) > r.maxBytes) {
			r.forget()
		}
		r.changes[(r.head+r.count)%len(r.changes)] = *c
		r.count++
		r.bytes += len(c.Body)
	}
	r.applied = last
	for len(r.waiters) > 0 && r.waiters[0].seq <= last {
		close(heap.Pop(&r.waiters).(*waiter).done)
	}
	if r.moved != nil {
		close(r.moved)
		r.moved = nil
	}
}

// forget drops the oldest change. Called with mu held.
func (r *ring) forget() {
	old := &r.changes[r.head]
	r.floor = old.Sequence
	r.bytes -= len(old.Body)
	*old = record.Change{} // lets its body go
	r.head = (r.head + 1) % len(r.changes)
	r.count--
}

// after copies into dst the changes that follow a place, at most cap(dst), and says how far
// the log has been looked through with them. It waits while there is nothing new; an ended
// context gives its error, a place that was forgotten errBehind.
func (r *ring) after(ctx context.Context, place record.Sequence, dst []record.Change) ([]record.Change, record.Sequence, error) {
	for {
		r.mu.Lock()
		if place < r.floor {
			r.mu.Unlock()
			return nil, 0, errBehind
		}
		if r.applied > place {
			dst = dst[:0]
			through := r.applied
			for i := r.search(place); i < r.count; i++ {
				if len(dst) == cap(dst) {
					through = dst[len(dst)-1].Sequence
					break
				}
				dst = append(dst, r.changes[(r.head+i)%len(r.changes)])
			}
			r.mu.Unlock()
			return dst, through, nil
		}
		if r.moved == nil {
			r.moved = make(chan struct{})
		}
		moved := r.moved
		r.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// search finds the index of the first change after a place. Called with mu held.
func (r *ring) search(place record.Sequence) int {
	lo, hi := 0, r.count
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if r.changes[(r.head+mid)%len(r.changes)].Sequence <= place {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// fold waits until the log is folded up to a sequence and returns what the fold made of the
// event there. found is false where the ring has already forgotten it.
func (r *ring) fold(ctx context.Context, seq record.Sequence) (c record.Change, found bool, err error) {
	if err := r.wait(ctx, seq); err != nil {
		return c, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.search(seq - 1)
	if i < r.count {
		if c := r.changes[(r.head+i)%len(r.changes)]; c.Sequence == seq {
			return c, true, nil
		}
	}
	return c, false, nil
}

// wait returns once everything up to a sequence is folded. Hundreds of writers wait at a time,
// so only those whose place has come are woken.
func (r *ring) wait(ctx context.Context, seq record.Sequence) error {
	r.mu.Lock()
	if r.applied >= seq {
		r.mu.Unlock()
		return nil
	}
	w := &waiter{seq: seq, done: make(chan struct{})}
	heap.Push(&r.waiters, w)
	r.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.place >= 0 {
		heap.Remove(&r.waiters, w.place)
	}
	return ctx.Err()
}

// waiter is one who waits for a sequence to be folded.
type waiter struct {
	seq   record.Sequence
	done  chan struct{}
	place int // in the heap; -1 once it is out of it
}

// waiters is a heap with the lowest sequence first.
type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].seq < w[j].seq }
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].place, w[j].place = i, j
}

func (w *waiters) Push(x any) {
	one := x.(*waiter)
	one.place = len(*w)
	*w = append(*w, one)
}

func (w *waiters) Pop() any {
	last := len(*w) - 1
	one := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	one.place = -1
	return one
}

// position is the last sequence folded.
func (r *ring) position() record.Sequence {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied
}
