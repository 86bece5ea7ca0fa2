package deliver_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestAReceiverMayRefuseOneMessageForGoodWithoutStoppingItsSubscription(t *testing.T) {
	for _, then := range []deliver.Exhaustion{deliver.ExhaustedDeadLetter, deliver.ExhaustedError} {
		t.Run(string(then), func(t *testing.T) {
			var told atomic.Int32
			play(t, func(c *deliver.Config) {
				c.OnExhausted = func(context.Context, fhir.ID, record.Sequence) error { told.Add(1); return nil }
			}, func(s *scene) {
				s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
					if n.Number == 1 {
						return 0, &deliver.Error{Code: record.HTTPStatus, Status: 422, Permanent: true}
					}
					return 0, nil
				})
				sub := subscription("s", quick)
				sub.OnExhausted = then
				sub = s.world.Subscribe(sub)
				s.start("n1")
				first := s.world.Match(sub, patient(1), fhir.Update)
				s.after(time.Minute)
				second := s.world.Match(sub, patient(1), fhir.Update)
				s.after(time.Hour)
				if n := len(s.receiver.Of(first.ID())); n != 1 {
					t.Errorf("%d attempts of what the receiver does not want", n)
				}
				if l := s.world.Letters(); len(l) != 1 || l[0].MatchID != first.ID() {
					t.Errorf("dead letters %+v", l)
				}
				if o := s.world.OutcomesOf(second.ID()); len(o) != 1 || o[0].Code != record.Accepted {
					t.Errorf("the next one ended %+v", o)
				}
				if told.Load() != 0 {
					t.Error("the Subscription was stopped")
				}
			})
		})
	}
}

func TestAReceiverMayTurnItsSubscriptionOff(t *testing.T) {
	for name, failure := range map[string]*deliver.Error{
		"while it accepts": nil,
		"while it refuses": {Code: record.HTTPStatus, Status: 500, Permanent: true, Disable: true},
	} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Int32
			play(t, func(c *deliver.Config) {
				c.OnDisabled = func(context.Context, fhir.ID, record.Sequence) error { told.Add(1); return nil }
				c.Channels["test"] = parting{c.Channels["test"], failure}
			}, func(s *scene) {
				sub := s.world.Subscribe(subscription("s", quick))
				s.start("n1")
				first := s.world.Match(sub, patient(1), fhir.Update)
				s.after(time.Minute)
				s.world.Match(sub, patient(1), fhir.Update)
				s.after(time.Hour)
				if n := len(s.receiver.Arrivals()); n != 1 || told.Load() != 1 {
					t.Errorf("%d arrivals, told %d times; want one of each", n, told.Load())
				}
				o := s.world.OutcomesOf(first.ID())
				if len(o) != 1 || !o[0].Final || o[0].Dead != (failure != nil) {
					t.Errorf("the first ended %+v", o)
				}
			})
		})
	}
}

// parting is an endpoint that wants nothing any more.
type parting struct {
	deliver.Channel
	failure *deliver.Error
}

func (p parting) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	r, err := p.Channel.Send(ctx, n, t)
	if p.failure != nil {
		return deliver.Receipt{}, p.failure
	}
	r.Disable = true
	return r, err
}
