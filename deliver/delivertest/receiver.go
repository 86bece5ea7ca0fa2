package delivertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Receiver is a channel with a scripted endpoint. It notes what arrives, and every breach of
// what a lane promises.
type Receiver struct {
	// Answer, where set, says how long the endpoint takes and what it answers; nil accepts.
	Answer func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error)
	// Targets, where set, is asked whether the Subscription may be sent to at the moment of each
	// arrival.
	Targets deliver.Targets

	mu       sync.Mutex
	arrivals []Arrival
	out      map[place]int
	most     map[record.Sequence]int
	now      map[record.Sequence]int
	breaches []string
}

// Arrival is a notification at the endpoint.
type Arrival struct {
	At time.Time
	deliver.Notification
}

type place struct {
	birth record.Sequence
	key   fhir.Key
}

var _ deliver.Channel = (*Receiver)(nil)

// Send is deliver.Channel.
func (r *Receiver) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	r.arrive(n)
	defer r.leave(n)
	var wait time.Duration
	var failure *deliver.Error
	if r.Answer != nil {
		wait, failure = r.Answer(n, t)
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return deliver.Receipt{}, &deliver.Error{Code: record.Timeout, Err: ctx.Err()}
		}
	}
	if failure != nil {
		return deliver.Receipt{}, failure
	}
	return deliver.Receipt{Status: 200}, nil
}

func (r *Receiver) arrive(n deliver.Notification) {
	var state = deliver.Sendable
	if r.Targets != nil {
		_, state = r.Targets.Target(n.Subscription, n.Birth)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == nil {
		r.out, r.most, r.now = make(map[place]int), make(map[record.Sequence]int), make(map[record.Sequence]int)
	}
	p := place{n.Birth, n.Key}
	if r.out[p]++; r.out[p] > 1 {
		r.breaches = append(r.breaches, fmt.Sprintf("two notifications of %s to %s were out together", n.Key, n.Subscription))
	}
	if state != deliver.Sendable {
		r.breaches = append(r.breaches, fmt.Sprintf("event %d was sent to %s while it was %s", n.Number, n.Subscription, state))
	}
	r.now[n.Birth]++
	r.most[n.Birth] = max(r.most[n.Birth], r.now[n.Birth])
	r.arrivals = append(r.arrivals, Arrival{time.Now(), n})
}

func (r *Receiver) leave(n deliver.Notification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out[place{n.Birth, n.Key}]--
	r.now[n.Birth]--
}

// Arrivals are those at all endpoints, in order.
func (r *Receiver) Arrivals() []Arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.arrivals)
}

// Of are the arrivals of one match.
func (r *Receiver) Of(id record.MatchID) []Arrival {
	return slices.DeleteFunc(r.Arrivals(), func(a Arrival) bool { return a.MatchID != id })
}

// Most is how many notifications of a Subscription were out at once.
func (r *Receiver) Most(birth record.Sequence) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most[birth]
}

// Breaches are the promises that were not kept, in words; none is what a test wants.
func (r *Receiver) Breaches() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.breaches)
}
