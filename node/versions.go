package node

import (
	"container/list"
	"context"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// versions reads resource versions by their place in EVENTS, through a cache of the newest.
// Nearly every notification is of an event that was written a moment ago.
type versions struct {
	read func(context.Context, record.Sequence) (record.Event, error)

	mu    sync.Mutex
	byPos map[record.Sequence]*list.Element
	order *list.List // of *record.Event, least recently used in front
	bytes int
	max   int
}

// eventOverhead is about what a cached event costs beside its body.
const eventOverhead = 512

func newVersions(max int, read func(context.Context, record.Sequence) (record.Event, error)) *versions {
	return &versions{read: read, byPos: map[record.Sequence]*list.Element{}, order: list.New(), max: max}
}

// put remembers an event that the feed has just seen. Its body is shared and never changed.
func (v *versions) put(e record.Event) {
	if len(e.Body) > v.max/8 {
		return // one large resource must not empty the cache
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.byPos[e.Sequence]; ok {
		return
	}
	v.byPos[e.Sequence] = v.order.PushBack(&e)
	v.bytes += len(e.Body) + eventOverhead
	for v.bytes > v.max {
		old := v.order.Remove(v.order.Front()).(*record.Event)
		delete(v.byPos, old.Sequence)
		v.bytes -= len(old.Body) + eventOverhead
	}
}

// Event returns the record at a sequence of EVENTS.
func (v *versions) Event(ctx context.Context, seq record.Sequence) (record.Event, error) {
	v.mu.Lock()
	if el, ok := v.byPos[seq]; ok {
		v.order.MoveToBack(el)
		e := *el.Value.(*record.Event)
		v.mu.Unlock()
		return e, nil
	}
	v.mu.Unlock()
	e, err := v.read(ctx, seq)
	if err != nil {
		return record.Event{}, err
	}
	v.put(e)
	return e, nil
}

// Body returns the resource as it was written at a sequence of EVENTS.
func (v *versions) Body(ctx context.Context, seq record.Sequence) ([]byte, error) {
	e, err := v.Event(ctx, seq)
	return e.Body, err
}
