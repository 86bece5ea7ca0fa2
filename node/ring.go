package node

import (
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
	moved   chan struct{}   // closed and replaced when applied moves

	maxBytes int
}

func newRing(changes, bytes int, applied record.Sequence) *ring {
	return &ring{
		changes:  make([]record.Change, changes),
		floor:    applied,
		applied:  applied,
		moved:    make(chan struct{}),
		maxBytes: bytes,
	}
}

// add appends folded changes and moves the applied position to last.
func (r *ring) add(changes []record.Change, last record.Sequence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		for r.count == len(r.changes) || (r.count > 0 && r.bytes+len(c.Body) > r.maxBytes) {
			r.forget()
		}
		r.changes[(r.head+r.count)%len(r.changes)] = c
		r.count++
		r.bytes += len(c.Body)
	}
	r.applied = last
	close(r.moved)
	r.moved = make(chan struct{})
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

// wait returns once everything up to a sequence is folded.
func (r *ring) wait(ctx context.Context, seq record.Sequence) error {
	for {
		r.mu.Lock()
		done, moved := r.applied >= seq, r.moved
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// position is the last sequence folded.
func (r *ring) position() record.Sequence {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied
}
