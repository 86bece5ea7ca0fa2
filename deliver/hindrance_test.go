package deliver_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestWhatAChannelSkipsEndsWithoutAttemptOrDeadLetter(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 0, &deliver.Error{Code: record.Skipped}
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Hour)
		o := s.world.OutcomesOf(p.ID())
		if len(o) != 1 || o[0].Code != record.Skipped || !o[0].Final || o[0].Dead || o[0].Attempt != 0 {
			t.Errorf("outcomes %+v", o)
		}
		if n := len(s.receiver.Of(p.ID())); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if n := len(s.world.Letters()); n != 0 {
			t.Errorf("%d dead letters", n)
		}
		if open := s.world.Open(); len(open) != 0 {
			t.Errorf("pending %v", open)
		}
	})
}

func TestWhatIsNotTheEndpointsDoingSpendsNothingAndIsTriedAtItsOwnPace(t *testing.T) {
	for _, code := range []record.Code{record.AuthError, record.ProxyError, record.RateLimited, record.BreakerOpen} {
		t.Run(string(code), func(t *testing.T) {
			play(t, nil, func(s *scene) {
				var free atomic.Bool
				s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
					if !free.Load() {
						return 0, &deliver.Error{Code: code}
					}
					return 0, nil
				})
				sub := s.world.Subscribe(subscription("s", quick))
				s.start("n1")
				p := s.world.Match(sub, patient(1), fhir.Update)
				synctest.Wait()
				s.after(200 * time.Second)
				var at []time.Duration
				for _, a := range s.receiver.Of(p.ID()) {
					at = append(at, a.At.Sub(p.EventTime))
				}
				want := []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second, 135 * time.Second, 195 * time.Second}
				if !slices.Equal(at, want) {
					t.Errorf("tried at %v, want %v", at, want)
				}
				if o := s.world.OutcomesOf(p.ID()); len(o) != 1 || o[0].Code != code || o[0].Attempt != 0 || o[0].Final {
					t.Errorf("outcomes %+v, want one that tells of the change", o)
				}
				free.Store(true)
				s.after(time.Minute)
				o := s.world.OutcomesOf(p.ID())
				if len(o) != 2 || o[1].Code != record.Accepted || o[1].Attempt != 1 {
					t.Errorf("outcomes %+v", o)
				}
			})
		})
	}
}

func TestAHindranceInTheMiddleKeepsTheAttemptsMade(t *testing.T) {
	play(t, nil, func(s *scene) {
		var tries atomic.Int32
		s.answer(func(n deliver.Notification, d deliver.Target) (time.Duration, *deliver.Error) {
			if n := tries.Add(1); n == 2 || n == 3 {
				return 0, &deliver.Error{Code: record.ProxyError}
			}
			return broken(n, d)
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Hour)
		var attempts []int
		for _, a := range s.receiver.Of(p.ID()) {
			attempts = append(attempts, a.Attempt)
		}
		if !slices.Equal(attempts, []int{1, 2, 2, 2, 3}) {
			t.Errorf("attempts %v", attempts)
		}
		if l := s.world.Letters(); len(l) != 1 || l[0].Attempts != 3 || l[0].Reason != record.HTTPStatus {
			t.Errorf("letters %+v", l)
		}
	})
}

func TestTheAgeLimitHoldsForWhatIsHindered(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 0, &deliver.Error{Code: record.AuthError}
		})
		sub := s.world.Subscribe(subscription("s", deliver.Policy{MaxAge: 10 * time.Minute}))
		s.start("n1")
		for i := range 3 {
			s.world.Match(sub, patient(i), fhir.Update)
		}
		s.after(20 * time.Minute)
		letters := s.world.Letters()
		if len(letters) != 3 {
			t.Fatalf("%d dead letters, want 3", len(letters))
		}
		for _, l := range letters {
			if l.Reason != record.AuthError || l.Attempts != 0 {
				t.Errorf("letter %+v", l)
			}
		}
	})
}
