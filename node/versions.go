package node

import (
	"context"
	"sort"
	"sync"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// versions reads resource versions by their place in EVENTS, through a cache. Nearly every
// notification is of an event that was written a moment ago, so the newest are kept. For a
// backlog that is longer than the cache the log is read again, in runs where it is known what
// will be asked for.
type versions struct {
	read    func(context.Context, record.Sequence) (record.Event, error)
	readRun func(ctx context.Context, from record.Sequence, n int) ([]record.Event, error) // as stream.GetRun

	mu      sync.Mutex
	written recent                   // by the feed's hand
	reread  reread                   // from the log; apart, since they must not drive out what is asked for next
	due     map[record.Sequence]*run // events that will be asked for and are not here
}

// run is a part of the log that holds events which will be asked for. Who asks for the first one
// reads it; the others wait.
type run struct {
	from, last record.Sequence
	done       chan struct{} // closed when it was read; nil until somebody begins
}

const (
	// eventOverhead is about what a cached event costs beside its body.
	eventOverhead = 512
	// maxRun and maxGap bound a run: what it reads in vain is at most three quarters.
	maxRun, maxGap = 64, 4
	// maxDue bounds what is remembered of matches that were withdrawn before they were rendered.
	maxDue = 1 << 16
)

func newVersions(max int, read func(context.Context, record.Sequence) (record.Event, error),
	readRun func(context.Context, record.Sequence, int) ([]record.Event, error)) *versions {
	return &versions{
		read: read, readRun: readRun,
		written: recent{max: max - max/8},
		reread:  reread{max: max / 8, bySeq: map[record.Sequence]record.Event{}},
		due:     map[record.Sequence]*run{},
	}
}

// put remembers an event that the feed has just seen, in the order of the log. Its body is
// shared and never changed.
func (v *versions) put(e record.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.written.put(e)
}

// expect notes which events will be rendered soon, in this order.
func (v *versions) expect(ps []deliver.Pending) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.due)+len(ps) > maxDue {
		clear(v.due)
	}
	var r *run
	for _, p := range ps {
		seq := p.Event
		if _, ok := v.find(seq); ok || v.due[seq] != nil {
			continue
		}
		if r == nil || seq <= r.last || seq-r.last > maxGap || seq-r.from >= maxRun {
			r = &run{from: seq}
		}
		r.last = seq
		v.due[seq] = r
	}
}

// Event returns the record at a sequence of EVENTS.
func (v *versions) Event(ctx context.Context, seq record.Sequence) (record.Event, error) {
	for {
		v.mu.Lock()
		if e, ok := v.find(seq); ok {
			v.mu.Unlock()
			return e, nil
		}
		r := v.due[seq]
		if r == nil || r.from == r.last {
			delete(v.due, seq)
			v.mu.Unlock()
			break
		}
		begin := r.done == nil
		if begin {
			r.done = make(chan struct{})
		}
		v.mu.Unlock()
		if begin {
			v.fetch(ctx, r)
			continue
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return record.Event{}, ctx.Err()
		}
	}
	e, err := v.read(ctx, seq)
	if err != nil {
		return record.Event{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reread.put(e)
	return e, nil
}

// fetch reads a run. Whatever it does not bring is not expected any more, but what lies behind
// the last event that it brought: a run of large bodies comes in pieces.
func (v *versions) fetch(ctx context.Context, r *run) {
	var events []record.Event
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		defer close(r.done)
		through := r.last
		if len(events) > 0 {
			through = events[len(events)-1].Sequence
		}
		for _, e := range events {
			if v.due[e.Sequence] == r {
				v.reread.put(e)
			}
		}
		rest := &run{from: through + 1, last: r.last}
		for seq := r.from; seq <= r.last; seq++ {
			switch {
			case v.due[seq] != r:
			case seq <= through:
				delete(v.due, seq)
			default:
				v.due[seq] = rest
			}
		}
	}()
	// Where it fails, each event is read by itself, and says why it cannot be.
	events, _ = v.readRun(ctx, r.from, int(r.last-r.from)+1)
}

// find looks into the cache. The caller holds mu.
func (v *versions) find(seq record.Sequence) (record.Event, bool) {
	if e := v.written.find(seq); e != nil {
		return *e, true
	}
	e, ok := v.reread.bySeq[seq]
	return e, ok
}

// Body returns the resource as it was written at a sequence of EVENTS.
func (v *versions) Body(ctx context.Context, seq record.Sequence) ([]byte, error) {
	e, err := v.Event(ctx, seq)
	return e.Body, err
}

// recent is a ring of events in the order of the log, bounded in bytes.
type recent struct {
	ring    []record.Event // its length is a power of two
	head, n int
	bytes   int
	max     int
}

func (r *recent) at(i int) *record.Event { return &r.ring[(r.head+i)&(len(r.ring)-1)] }

// put appends an event. One at or before the last is old news.
func (r *recent) put(e record.Event) {
	if len(e.Body) > r.max/8 || r.n > 0 && e.Sequence <= r.at(r.n-1).Sequence {
		return // one large resource must not empty the cache
	}
	if r.n == len(r.ring) {
		r.grow()
	}
	r.n++
	*r.at(r.n - 1) = e
	r.bytes += len(e.Body) + eventOverhead
	for r.bytes > r.max {
		old := r.at(0)
		r.bytes -= len(old.Body) + eventOverhead
		*old = record.Event{}
		r.head, r.n = (r.head+1)&(len(r.ring)-1), r.n-1
	}
}

func (r *recent) grow() {
	ring := make([]record.Event, max(64, 2*len(r.ring)))
	for i := range r.n {
		ring[i] = *r.at(i)
	}
	r.ring, r.head = ring, 0
}

// find searches where the event can be: sequences rise, and nearly always by one.
func (r *recent) find(seq record.Sequence) *record.Event {
	if r.n == 0 || seq < r.at(0).Sequence || seq > r.at(r.n-1).Sequence {
		return nil
	}
	from := r.n - 1 - int(min(uint64(r.n-1), uint64(r.at(r.n-1).Sequence-seq)))
	to := int(min(uint64(r.n-1), uint64(seq-r.at(0).Sequence)))
	i := from + sort.Search(to-from, func(i int) bool { return r.at(from+i).Sequence >= seq })
	if e := r.at(i); e.Sequence == seq {
		return e
	}
	return nil
}

// reread holds events that were read from the log, the latest ones, bounded in bytes.
type reread struct {
	bySeq map[record.Sequence]record.Event
	order []record.Sequence // as they came
	bytes int
	max   int
}

func (r *reread) put(e record.Event) {
	if _, ok := r.bySeq[e.Sequence]; ok || len(e.Body) > r.max/2 {
		return
	}
	r.bySeq[e.Sequence] = e
	r.order = append(r.order, e.Sequence)
	r.bytes += len(e.Body) + eventOverhead
	for r.bytes > r.max {
		old := r.order[0]
		r.order = r.order[1:]
		r.bytes -= len(r.bySeq[old].Body) + eventOverhead
		delete(r.bySeq, old)
	}
}
