package node

import (
	"context"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/stream"
)

// ends sets a timer of the engine for the end of every active Subscription that has one. The
// timer only wakes: what is to be done the Subscription says, and events after the end do not
// match whether it fires or not.
type ends struct {
	schedule func(ctx context.Context, key string, at time.Time, data []byte) error

	mu   sync.Mutex
	due  map[fhir.ID]*subscription // timers that are to be set
	wake chan struct{}
}

// ending is what such a timer says when it fires.
type ending struct {
	Subscription fhir.ID         `json:"subscription"`
	Birth        record.Sequence `json:"birth"`
	Version      record.Sequence `json:"version,omitempty"` // that set the timer
}

func newEnds(schedule func(context.Context, string, time.Time, []byte) error) *ends {
	return &ends{schedule: schedule, due: map[fhir.ID]*subscription{}, wake: make(chan struct{}, 1)}
}

// set asks for the timer of a Subscription's end. It never waits.
func (e *ends) set(s *subscription) {
	if s.deleted || s.End.IsZero() || s.Status != fhir.StatusActive {
		return
	}
	e.mu.Lock()
	e.due[s.id] = s
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run sets timers until ctx ends. One that cannot be set is tried again a second later.
func (e *ends) run(ctx context.Context) error {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		if e.setAll(ctx) {
			retry.Reset(time.Hour)
		} else {
			retry.Reset(time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-retry.C:
		}
	}
}

// setAll reports whether every timer was set.
func (e *ends) setAll(ctx context.Context) bool {
	e.mu.Lock()
	due := e.due
	e.due = map[fhir.ID]*subscription{}
	e.mu.Unlock()
	all := true
	for id, s := range due {
		data := record.Encode(ending{Subscription: id, Birth: s.birth, Version: s.version})
		if e.schedule(ctx, "end."+stream.IDToken(id), s.End, data) == nil {
			continue
		}
		all = false
		e.mu.Lock()
		if _, newer := e.due[id]; !newer {
			e.due[id] = s
		}
		e.mu.Unlock()
	}
	return all
}
