package deliver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// scene is a lane in a world, under a clock of its own.
type scene struct {
	t        *testing.T
	world    *delivertest.World
	receiver *delivertest.Receiver
	owner    *delivertest.Owner
	lane     *deliver.Lane
	cancel   context.CancelFunc
	done     chan error
	change   func(*deliver.Config)
}

// play runs a test under testing/synctest. change may alter the lane's configuration.
func play(t *testing.T, change func(*deliver.Config), act func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, change)
		act(s)
		if s.cancel != nil {
			s.stop()
		}
		for _, b := range s.receiver.Breaches() {
			t.Error(b)
		}
	})
}

func newScene(t *testing.T, change func(*deliver.Config)) *scene {
	w := delivertest.NewWorld()
	return &scene{t: t, world: w, receiver: &delivertest.Receiver{Targets: w}, change: change}
}

func (s *scene) start(node string) {
	s.t.Helper()
	s.owner = s.world.Owner(node)
	cfg := s.world.Config(s.owner, s.receiver)
	cfg.Log = slog.New(slog.DiscardHandler)
	if s.change != nil {
		s.change(&cfg)
	}
	lane, err := deliver.NewLane(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(s.t.Context())
	s.lane, s.done = lane, make(chan error, 1)
	done := s.done
	go func() { done <- lane.Run(ctx) }()
	synctest.Wait()
	s.world.Attach(lane)
	synctest.Wait()
}

// stop ends the lane as a clean stop does.
func (s *scene) stop() {
	s.t.Helper()
	s.world.Attach(nil)
	s.cancel()
	if err := <-s.done; err != nil && !errors.Is(err, deliver.ErrLost) {
		s.t.Errorf("Run: %v", err)
	}
	s.cancel = nil
}

// kill ends the lane as kill -9 does: nothing of it reaches the logs any more.
func (s *scene) kill() {
	s.owner.Kill()
	s.stop()
	s.world.ForgetTokens()
}

// after lets time pass and everything settle.
func (s *scene) after(d time.Duration) {
	time.Sleep(d) // on the clock of synctest
	synctest.Wait()
}

func (s *scene) answer(f func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error)) {
	s.receiver.Answer = f
}

func patient(n int) fhir.Key {
	return fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprintf("p%d", n))}
}

func subscription(id fhir.ID, p deliver.Policy) deliver.Target {
	return deliver.Target{ID: id, Endpoint: "https://host.example/secret?token=x", Policy: p, SendDelete: true}
}

func broken(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
	return 0, &deliver.Error{Code: record.HTTPStatus, Status: 500}
}

func numbers(arrivals []delivertest.Arrival) []fhir.EventNumber {
	var ns []fhir.EventNumber
	for _, a := range arrivals {
		ns = append(ns, a.Number)
	}
	return ns
}

var quick = deliver.Policy{Attempts: 3, Schedule: []time.Duration{5 * time.Second, 5 * time.Minute}}

func TestAMatchIsSentAtOnceAndItsAcceptanceRecorded(t *testing.T) {
	play(t, nil, func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Create)
		synctest.Wait()
		got := s.receiver.Of(p.ID())
		if len(got) != 1 || !got[0].At.Equal(p.EventTime) || got[0].Attempt != 1 || got[0].Resend {
			t.Fatalf("arrivals %+v", got)
		}
		o := s.world.OutcomesOf(p.ID())
		if len(o) != 1 || o[0].Code != record.Accepted || !o[0].Final || o[0].Attempt != 1 || o[0].Status != 200 {
			t.Fatalf("outcomes %+v", o)
		}
		if published, _ := s.world.Tokens(); published != 0 {
			t.Errorf("%d tokens for a match that was accepted at once", published)
		}
	})
}

func TestNAttemptsExactlyAtTheTimesOfTheScheduleThenOneDeadLetter(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy deliver.Policy
		at     []time.Duration // of each attempt, after the event
	}{
		{"one attempt", deliver.Policy{Attempts: 1}, []time.Duration{0}},
		{"three of the default schedule", deliver.Policy{Attempts: 3},
			[]time.Duration{0, 5 * time.Second, 5*time.Minute + 5*time.Second}},
		{"the last wait repeats", deliver.Policy{Attempts: 5, Schedule: []time.Duration{time.Second, time.Hour}},
			[]time.Duration{0, time.Second, time.Hour + time.Second, 2*time.Hour + time.Second, 3*time.Hour + time.Second}},
		{"exponential", deliver.Policy{Attempts: 5, Exponential: deliver.Exponential{Initial: time.Second, Factor: 3, Max: 10 * time.Second}},
			[]time.Duration{0, time.Second, 4 * time.Second, 13 * time.Second, 23 * time.Second}},
		{"the age limit ends it", deliver.Policy{Schedule: []time.Duration{time.Minute}, MaxAge: 150 * time.Second},
			[]time.Duration{0, time.Minute, 2 * time.Minute}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				s.answer(broken)
				sub := s.world.Subscribe(subscription("s", tc.policy))
				s.start("n1")
				p := s.world.Match(sub, patient(1), fhir.Update)
				s.after(24 * time.Hour)

				var at []time.Duration
				for i, a := range s.receiver.Of(p.ID()) {
					at = append(at, a.At.Sub(p.EventTime))
					if a.Attempt != i+1 {
						t.Errorf("arrival %d says attempt %d", i+1, a.Attempt)
					}
				}
				if !slices.Equal(at, tc.at) {
					t.Errorf("attempts at %v, want %v", at, tc.at)
				}
				letters := s.world.Letters()
				if len(letters) != 1 {
					t.Fatalf("%d dead letters, want 1", len(letters))
				}
				l := letters[0]
				if l.MatchID != p.ID() || l.Reason != record.HTTPStatus || l.Attempts != len(tc.at) || l.Number != 1 ||
					!l.FirstFailure.Equal(p.EventTime) || l.Endpoint != "https://host.example" || len(l.Body) == 0 {
					t.Errorf("dead letter %+v", l)
				}
				o := s.world.OutcomesOf(p.ID())
				for i, o := range o {
					last := i == len(tc.at)-1
					if o.Attempt != i+1 || o.Final != last || o.Dead != last || o.NotBefore.IsZero() != last {
						t.Errorf("outcome %d: %+v", i+1, o)
					}
				}
				if _, held := s.world.Tokens(); held != 0 {
					t.Errorf("%d tokens left behind", held)
				}
			})
		})
	}
}

func TestRetryAfterIsAMinimumThatJitterDoesNotShorten(t *testing.T) {
	play(t, func(c *deliver.Config) { c.Random = func() float64 { return 0 } }, func(s *scene) {
		s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
			switch n.Attempt {
			case 1:
				return 0, &deliver.Error{Code: record.HTTPStatus, Status: 429, RetryAfter: 90 * time.Second}
			case 2:
				return 0, &deliver.Error{Code: record.HTTPStatus, Status: 503, RetryAfter: time.Second}
			case 3:
				return 0, &deliver.Error{Code: record.HTTPStatus, Status: 503, RetryAfter: 1000 * time.Hour}
			}
			return 0, nil
		})
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Schedule: []time.Duration{10 * time.Second}, Jitter: 0.2}))
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(48 * time.Hour)
		want := []time.Duration{0, 90 * time.Second, 98 * time.Second, 24*time.Hour + 98*time.Second}
		var at []time.Duration
		for _, a := range s.receiver.Of(p.ID()) {
			at = append(at, a.At.Sub(p.EventTime))
		}
		if !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
	})
}

func TestPermanentFailuresAreDeadAtOnce(t *testing.T) {
	for _, code := range []record.Code{record.Gone, record.BlockedAddress} {
		t.Run(string(code), func(t *testing.T) {
			var gone atomic.Int32
			play(t, func(c *deliver.Config) {
				c.OnGone = func(context.Context, fhir.ID, record.Sequence) error {
					if gone.Add(1) == 1 {
						return errors.New("the log does not answer")
					}
					return nil
				}
			}, func(s *scene) {
				s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
					return 0, &deliver.Error{Code: code}
				})
				sub := s.world.Subscribe(subscription("s", deliver.Policy{}))
				s.start("n1")
				s.world.Match(sub, patient(1), fhir.Update)
				synctest.Wait()
				s.after(time.Minute)
				if n := len(s.world.Letters()); n != 1 {
					t.Errorf("%d dead letters", n)
				}
				s.world.Match(sub, patient(2), fhir.Update)
				s.after(time.Minute)
				want := 2
				if code == record.Gone {
					want = 1 // held until the Subscription is changed
					if gone.Load() != 2 {
						t.Errorf("OnGone was called %d times, want until it took it", gone.Load())
					}
				}
				if n := len(s.receiver.Arrivals()); n != want {
					t.Errorf("%d arrivals, want %d", n, want)
				}
			})
		})
	}
}

func TestAnExhaustedSubscriptionIsHeldWhenItAsksForError(t *testing.T) {
	var told atomic.Int32
	play(t, func(c *deliver.Config) {
		c.OnExhausted = func(context.Context, fhir.ID, record.Sequence) error { told.Add(1); return nil }
	}, func(s *scene) {
		s.answer(broken)
		target := subscription("s", deliver.Policy{Attempts: 1})
		target.OnExhausted = deliver.ExhaustedError
		sub := s.world.Subscribe(target)
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		s.world.Match(sub, patient(2), fhir.Update)
		s.after(time.Hour)
		if told.Load() != 1 || len(s.receiver.Arrivals()) != 1 || len(s.world.Letters()) != 1 || len(s.world.Open()) != 1 {
			t.Errorf("told %d, arrivals %v, open %v", told.Load(), numbers(s.receiver.Arrivals()), s.world.Open())
		}
		s.answer(nil)
		s.world.Set(sub, deliver.Sendable)
		s.after(time.Second)
		if len(s.world.Open()) != 0 {
			t.Errorf("not resumed: %v", s.world.Open())
		}
	})
}

func TestWhatCannotBeRendered(t *testing.T) {
	for _, tc := range []struct {
		name    string
		err     func() error
		letters int
	}{
		{"is dead at once", func() error { return errors.New("bad resource") }, 1},
		{"is dead when it makes the renderer panic", func() error { panic("secret") }, 1},
		{"waits while the log does not answer", func() error { return fmt.Errorf("read: %w", deliver.ErrUnavailable) }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				s.world.Rendering = func(p deliver.Pending) error {
					if p.Number == 1 && time.Since(p.EventTime) < time.Minute {
						return tc.err()
					}
					return nil
				}
				sub := s.world.Subscribe(subscription("s", quick))
				s.start("n1")
				p := s.world.Matches(sub, fhir.Update, patient(1), patient(2))
				s.after(2 * time.Minute)
				if n := len(s.world.Letters()); n != tc.letters {
					t.Errorf("%d dead letters, want %d", n, tc.letters)
				}
				if o := s.world.OutcomesOf(p[0].ID()); len(o) != 1 || (o[0].Code == record.Accepted) != (tc.letters == 0) || o[0].Attempt != 1 {
					t.Errorf("outcomes %+v", o)
				}
				if len(s.world.Open()) != 0 {
					t.Errorf("open: %v", s.world.Open())
				}
			})
		})
	}
}

func TestASlowEndpointDelaysNoOtherAndIsSentOneAtATime(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
			if n.Subscription == "slow" {
				return 4 * time.Second, nil
			}
			return time.Millisecond, nil
		})
		slow, fast := s.world.Subscribe(subscription("slow", quick)), s.world.Subscribe(subscription("fast", quick))
		s.start("n1")
		for i := range 200 {
			s.world.Match(slow, patient(i), fhir.Update)
			s.world.Match(fast, patient(i), fhir.Update)
			s.after(100 * time.Millisecond)
		}
		for _, a := range s.receiver.Arrivals() {
			if m, _, _ := s.world.MatchByID(a.MatchID); a.Subscription == "fast" && a.At.Sub(m.EventTime) != 0 {
				t.Errorf("event %d of the fast one came after %v", a.Number, a.At.Sub(m.EventTime))
			}
		}
		if most := s.receiver.Most(slow.Birth); most > 8 {
			t.Errorf("%d out at once at the slow one", most)
		}
		before := len(s.receiver.Arrivals())
		s.after(40 * time.Second)
		if n := len(s.receiver.Arrivals()) - before; n > 11 {
			t.Errorf("the slow one got %d in 40 s of 4 s each: more than one at a time", n)
		}
	})
}

func TestInvariant07TheNotificationsOfOneResourceStayInOrder(t *testing.T) {
	for _, tc := range []struct {
		name  string
		order deliver.Order
		want  []fhir.EventNumber // accepted, in order
	}{
		{"per resource", deliver.OrderResource, []fhir.EventNumber{2, 4, 1, 3, 5}},
		{"strict", deliver.OrderStrict, []fhir.EventNumber{1, 2, 3, 4, 5}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
					if n.Number == 1 && n.Attempt < 3 {
						return broken(n, deliver.Target{})
					}
					return 10 * time.Millisecond, nil
				})
				target := subscription("s", quick)
				target.Order = tc.order
				sub := s.world.Subscribe(target)
				s.start("n1")
				s.world.Matches(sub, fhir.Update, patient(1), patient(2), patient(1), patient(2), patient(1))
				s.after(time.Hour)
				var got []fhir.EventNumber
				for _, o := range s.world.Outcomes() {
					if o.Code == record.Accepted {
						m, _, _ := s.world.MatchByID(o.MatchID)
						got = append(got, m.Number)
					}
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("accepted in the order %v, want %v", got, tc.want)
				}
			})
		})
	}
}

func TestUpToKAreOutAtOnce(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 500 * time.Millisecond, nil
		})
		target := subscription("s", quick)
		target.MaxInFlight = 5
		sub := s.world.Subscribe(target)
		s.start("n1")
		var keys []fhir.Key
		for i := range 300 { // more than a window
			keys = append(keys, patient(i))
		}
		s.world.Matches(sub, fhir.Update, keys...)
		s.after(30 * time.Second)
		if s.receiver.Most(sub.Birth) != 5 || len(s.world.Open()) != 0 || len(s.receiver.Arrivals()) != 300 {
			t.Errorf("%d at once, %d arrivals, %d open", s.receiver.Most(sub.Birth), len(s.receiver.Arrivals()), len(s.world.Open()))
		}
	})
}

func TestInvariant05NothingLeavesPendingWithoutAnOutcome(t *testing.T) {
	for _, tc := range []struct {
		name string
		wish error
	}{
		{"the append is refused", errors.New("no quorum")},
		{"the append is stored and its answer is lost", delivertest.ErrUnanswered},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				var failing atomic.Bool
				failing.Store(true)
				s.world.Appending = func([]record.Outcome) error {
					if failing.Load() {
						return tc.wish
					}
					return nil
				}
				target := subscription("s", quick)
				target.MaxInFlight = 2
				sub := s.world.Subscribe(target)
				s.start("n1")
				for i := range 40 {
					s.world.Match(sub, patient(i), fhir.Update)
				}
				s.after(time.Minute)
				sent := len(s.receiver.Arrivals())
				if sent > 2*8+2 {
					t.Errorf("%d were sent while no outcome could be stored", sent)
				}
				s.after(time.Hour)
				if n := len(s.receiver.Arrivals()); n != sent {
					t.Errorf("sends went on: %d, then %d", sent, n)
				}
				failing.Store(false)
				s.after(time.Minute)
				if n := len(s.receiver.Arrivals()); n != 40 || len(s.world.Open()) != 0 {
					t.Errorf("%d arrivals, want each once; open %v", n, s.world.Open())
				}
			})
		})
	}
}

func TestNoSendStartsWhileAnAppendStaysUnansweredForLongerThanALease(t *testing.T) {
	play(t, nil, func(s *scene) {
		var hang atomic.Bool
		hang.Store(true)
		s.world.Appending = func([]record.Outcome) error {
			if hang.Load() {
				time.Sleep(time.Minute) // on the clock of synctest
			}
			return nil
		}
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(6 * time.Second)
		s.world.Match(sub, patient(2), fhir.Update)
		s.after(30 * time.Second)
		if n := len(s.receiver.Arrivals()); n != 1 {
			t.Errorf("%d sent while the append hangs", n)
		}
		hang.Store(false)
		s.after(time.Minute)
		if len(s.world.Open()) != 0 {
			t.Error("sending did not go on")
		}
	})
}

func TestInvariant05ADeadLetterIsStoredBeforeItsMatchEnds(t *testing.T) {
	play(t, nil, func(s *scene) {
		var full atomic.Bool
		full.Store(true)
		s.world.Burying = func(record.DeadLetter) error {
			if full.Load() {
				return errors.New("full")
			}
			return nil
		}
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Attempts: 1}))
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Hour)
		if len(s.world.Open()) != 1 || len(s.world.Letters()) != 0 {
			t.Errorf("open %v, letters %d: the match ended without its letter", s.world.Open(), len(s.world.Letters()))
		}
		full.Store(false)
		s.after(time.Minute)
		if len(s.world.Open()) != 0 || len(s.world.Letters()) != 1 || len(s.receiver.Of(p.ID())) != 1 {
			t.Errorf("open %v, letters %d, sent %d", s.world.Open(), len(s.world.Letters()), len(s.receiver.Of(p.ID())))
		}
	})
}

func TestInvariant06NothingIsSentForASubscriptionThatIsOffOrHeld(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) { return time.Second, nil })
		target := subscription("s", quick)
		target.MaxInFlight = 1
		sub := s.world.Subscribe(target)
		s.start("n1")
		for i := range 100 {
			s.world.Match(sub, patient(i), fhir.Update)
		}
		s.after(5500 * time.Millisecond)
		s.world.Set(sub, deliver.Held)
		s.after(time.Hour)
		if n := len(s.receiver.Arrivals()); n != 6 {
			t.Errorf("%d arrivals before it was held, want 6", n)
		}
		s.world.Set(sub, deliver.Sendable)
		s.after(4500 * time.Millisecond)
		s.world.Set(sub, deliver.Withdrawn)
		s.after(time.Minute)
		if n := len(s.receiver.Arrivals()); n != 11 {
			t.Errorf("%d arrivals before it was off, want 11", n)
		}
		if open := s.world.Open(); len(open) != 0 {
			t.Errorf("%d are still pending after the withdrawal", len(open))
		}
		last := s.world.Outcomes()[len(s.world.Outcomes())-1]
		if last.Code != record.Withdrawn || last.Through != 100 || !last.Final || last.Subscription != "s" {
			t.Errorf("withdrawal %+v", last)
		}
		if n := len(s.world.Outcomes()); n != 11+1 {
			t.Errorf("%d outcomes, want one for each arrival and one for the rest", n)
		}
		// Matches of events that were written before it went off may still come.
		s.world.Match(sub, patient(1000), fhir.Update)
		s.after(time.Minute)
		if len(s.world.Open()) != 0 || len(s.receiver.Arrivals()) != 11 {
			t.Errorf("a late match: open %v, arrivals %d", s.world.Open(), len(s.receiver.Arrivals()))
		}
		if st := s.lane.Status(); st.Loaded != 0 || st.Places != 0 || st.Sending != 0 {
			t.Errorf("left over: %+v", st)
		}
		// Active again, it goes on with new events.
		s.world.Set(sub, deliver.Sendable)
		s.world.Match(sub, patient(2000), fhir.Update)
		s.after(time.Minute)
		if len(s.receiver.Arrivals()) != 12 {
			t.Errorf("%d arrivals after it was switched on", len(s.receiver.Arrivals()))
		}
	})
}

func TestInvariant06TheStateIsAskedForBeforeEverySend(t *testing.T) {
	for _, state := range []deliver.State{deliver.Held, deliver.Withdrawn} {
		t.Run(state.String(), func(t *testing.T) {
			play(t, nil, func(s *scene) {
				sub := s.world.Subscribe(subscription("s", quick))
				s.start("n1")
				s.world.Match(sub, patient(1), fhir.Update)
				s.after(time.Second)
				s.world.Attach(nil)
				s.world.Set(sub, state) // the lane is not told
				s.world.Attach(s.lane)
				s.world.Match(sub, patient(2), fhir.Update)
				s.after(time.Hour)
				if n := len(s.receiver.Arrivals()); n != 1 {
					t.Errorf("%d arrivals", n)
				}
				if open := len(s.world.Open()); (open == 1) != (state == deliver.Held) {
					t.Errorf("%d are pending", open)
				}
			})
		})
	}
}

func TestLogsNameHostsAndIDsAndWarnOnceForEachKindOfFailure(t *testing.T) {
	var out bytes.Buffer
	play(t, func(c *deliver.Config) {
		c.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}, func(s *scene) {
		s.answer(func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error) {
			if n.Number > 8 {
				return 0, nil
			}
			return broken(n, t)
		})
		sub := subscription("s", deliver.Policy{Attempts: 2, Schedule: []time.Duration{time.Second}})
		sub.Headers = []string{"Authorization: canary"}
		sub = s.world.Subscribe(sub)
		s.start("n1")
		for i := range 10 {
			s.world.Match(sub, patient(i), fhir.Update)
			s.after(10 * time.Second)
		}
	})
	log := out.String()
	if n := strings.Count(log, "level=WARN"); n != 1 {
		t.Errorf("%d warnings for one endpoint that fails in one way:\n%s", n, log)
	}
	if !strings.Contains(log, "endpoint=https://host.example ") || !strings.Contains(log, "accepts again") {
		t.Errorf("the log does not say what an operator needs:\n%s", log)
	}
	for _, secret := range []string{"canary", "secret", "token=x", "resourceType"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestWithdrawalTakesWhatWaitsForItsNextAttempt(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		s.world.Set(sub, deliver.Withdrawn)
		s.after(time.Hour)
		if len(s.receiver.Arrivals()) != 1 || len(s.world.Open()) != 0 || len(s.world.Letters()) != 0 {
			t.Errorf("arrivals %d, open %v", len(s.receiver.Arrivals()), s.world.Open())
		}
		if _, held := s.world.Tokens(); held != 0 {
			t.Errorf("%d tokens left", held)
		}
	})
}

func TestADeleteThatIsNotWantedAnyMoreIsSkipped(t *testing.T) {
	play(t, nil, func(s *scene) {
		target := subscription("s", quick)
		target.SendDelete = false
		sub := s.world.Subscribe(target)
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Delete)
		s.world.Match(sub, patient(1), fhir.Create)
		s.after(time.Second)
		o := s.world.OutcomesOf(p.ID())
		if len(o) != 1 || o[0].Code != record.Skipped || !o[0].Final || o[0].Attempt != 0 || len(s.receiver.Of(p.ID())) != 0 {
			t.Errorf("outcomes %+v", o)
		}
		if len(s.world.Open()) != 0 {
			t.Errorf("open %v", s.world.Open())
		}
	})
}

func TestTokensThatAreLostDoubledOrEarlyChangeNothing(t *testing.T) {
	want := []time.Duration{0, 5 * time.Second, 5*time.Minute + 5*time.Second}
	for _, tc := range []struct {
		name  string
		fault func(*delivertest.World)
		slack time.Duration // the sweep finds what is lost
	}{
		{"doubled", func(w *delivertest.World) { w.CopyTokens(2) }, 0},
		{"early", func(w *delivertest.World) { w.HurryTokens(900 * time.Millisecond) }, 0},
		{"lost", func(w *delivertest.World) { w.LoseTokens(3) }, 30 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				tc.fault(s.world)
				s.answer(broken)
				sub := s.world.Subscribe(subscription("s", quick))
				s.start("n1")
				p := s.world.Match(sub, patient(1), fhir.Update)
				s.after(time.Hour)
				got := s.receiver.Of(p.ID())
				if len(got) != len(want) || len(s.world.Letters()) != 1 {
					t.Fatalf("%d attempts, %d letters", len(got), len(s.world.Letters()))
				}
				for i, a := range got {
					if late := a.At.Sub(p.EventTime) - want[i]; late < 0 || late > tc.slack {
						t.Errorf("attempt %d at %v, want %v and at most %v more", i+1, a.At.Sub(p.EventTime), want[i], tc.slack)
					}
				}
				if _, held := s.world.Tokens(); held != 0 {
					t.Errorf("%d tokens left behind", held)
				}
			})
		})
	}
}

func TestAnAttemptThatTakesLongKeepsItsToken(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
			if n.Attempt == 1 {
				return broken(n, deliver.Target{})
			}
			return 100 * time.Second, nil // four ack waits
		})
		target := subscription("s", quick)
		target.Timeout = 2 * time.Minute
		sub := s.world.Subscribe(target)
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Hour)
		if n := len(s.receiver.Of(p.ID())); n != 2 || len(s.world.Open()) != 0 {
			t.Errorf("%d attempts, open %v", n, s.world.Open())
		}
		if published, _ := s.world.Tokens(); published != 1 || s.world.TokenDeliveries() != 2 {
			t.Errorf("%d tokens published, %d deliveries; want one, for the attempt made and for the next", published, s.world.TokenDeliveries())
		}
	})
}

func TestAKilledNodeGoesOnFromTheStore(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.world.FoldAfter = 20 * time.Millisecond
		s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
			if n.Subscription == "bad" {
				return broken(n, deliver.Target{})
			}
			return 50 * time.Millisecond, nil
		})
		good, bad := s.world.Subscribe(subscription("good", quick)), s.world.Subscribe(subscription("bad", quick))
		s.start("n1")
		failing := s.world.Match(bad, patient(1), fhir.Update)
		for i := range 500 {
			s.world.Match(good, patient(i%50), fhir.Update)
		}
		for round := range 4 {
			s.after(time.Duration(250+37*round) * time.Millisecond)
			s.kill()
			s.start("n1")
		}
		s.after(time.Hour)
		if len(s.world.Open()) != 0 {
			t.Fatalf("%d are still pending", len(s.world.Open()))
		}
		counts := map[record.MatchID]int{}
		for _, a := range s.receiver.Arrivals() {
			counts[a.MatchID]++
		}
		repeats := 0
		for id, n := range counts {
			if id.Birth == good.Birth {
				repeats += n - 1
			}
		}
		// Eight at the endpoint and their outcomes on the way, for each kill.
		if len(counts) != 501 || repeats > 4*16 {
			t.Errorf("%d of 501 arrived, with %d repeats", len(counts), repeats)
		}
		attempts := 0
		for _, o := range s.world.OutcomesOf(failing.ID()) {
			attempts = max(attempts, o.Attempt)
		}
		if attempts != 3 || counts[failing.ID()] != 3 || len(s.world.Letters()) != 1 {
			t.Errorf("the failing one: %d attempts recorded, %d made, %d letters", attempts, counts[failing.ID()], len(s.world.Letters()))
		}
	})
}

func TestACrashBetweenDeadLetterAndOutcomeLeavesOneLetterTooManyAtMost(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Attempts: 1}))
		s.world.Appending = func([]record.Outcome) error { return errors.New("no quorum") }
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		s.kill()
		s.world.Appending = nil
		s.start("n1")
		s.after(time.Minute)
		letters := s.world.Letters()
		if len(letters) != 2 || letters[0].MatchID != letters[1].MatchID || letters[0].Number != letters[1].Number {
			t.Errorf("letters %+v", letters)
		}
		if o := s.world.OutcomesOf(p.ID()); len(o) != 1 || !o[0].Dead || o[0].Attempt != 1 {
			t.Errorf("outcomes %+v", o)
		}
	})
}

func TestTakingOverWaitsForWhatTheOwnerBeforeMayStillBeSending(t *testing.T) {
	for _, tc := range []struct {
		name string
		node string
		stop func(*scene)
		wait time.Duration
	}{
		{"another node's, killed", "n2", (*scene).kill, 15 * time.Second},
		{"our own, killed", "n1", (*scene).kill, 0},
		{"another node's, stopped", "n2", (*scene).stop, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				sub := s.world.Subscribe(subscription("s", quick))
				s.world.Set(sub, deliver.Held)
				s.start("n1")
				old := s.world.Match(sub, patient(1), fhir.Update)
				s.after(time.Second)
				tc.stop(s)
				s.world.Set(sub, deliver.Sendable)
				taken := time.Now()
				s.start(tc.node)
				same, fresh := s.world.Match(sub, patient(1), fhir.Update), s.world.Match(sub, patient(2), fhir.Update)
				s.after(time.Minute)
				at := func(p deliver.Pending) time.Duration { return s.receiver.Of(p.ID())[0].At.Sub(taken) }
				if got := at(old); got < tc.wait || got > tc.wait+time.Second {
					t.Errorf("what was pending went after %v, want %v", got, tc.wait)
				}
				if at(same) < at(old) || at(fresh) != 0 {
					t.Errorf("the same resource after %v, another after %v", at(same), at(fresh))
				}
			})
		})
	}
}

func TestALaneThatWasLostStopsAndReleasesNothing(t *testing.T) {
	play(t, nil, func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		if _, err := s.world.Owner("n2").Take(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		if err := <-s.done; !errors.Is(err, deliver.ErrLost) {
			t.Errorf("Run gave %v, want ErrLost", err)
		}
		s.cancel()
		s.cancel = nil
	})
}

// Another owner's word in the log ends a lane at once: its own next outcome may be long in coming.
func TestALaneThatIsToldOfAnotherOwnerEnds(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.start("n1")
		s.lane.Lost("n2/abc")
		if err := <-s.done; !errors.Is(err, deliver.ErrLost) {
			t.Errorf("Run gave %v, want ErrLost", err)
		}
		s.lane.Lost("n2/abc") // one that does not run has nothing to lose
		s.cancel()
		s.cancel = nil
	})
}

func TestAStopWaitsForWhatIsInFlightAndRecordsIt(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 10 * time.Second, nil
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		s.stop()
		if len(s.world.Open()) != 0 {
			t.Error("the attempt in flight was not recorded")
		}
	})
}

func TestAStopCutsWhatTakesTooLongAndCountsNoAttempt(t *testing.T) {
	play(t, func(c *deliver.Config) { c.Drain = 2 * time.Second }, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 10 * time.Second, nil
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		began := time.Now()
		s.stop()
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("the stop took %v", took)
		}
		if len(s.world.Outcomes()) != 0 || len(s.world.Open()) != 1 {
			t.Errorf("outcomes %+v", s.world.Outcomes())
		}
	})
}

func TestHaltingAllSendingHoldsEverythingAndLosesNothing(t *testing.T) {
	var halted atomic.Bool
	halted.Store(true)
	play(t, func(c *deliver.Config) { c.Allowed = func() bool { return !halted.Load() } }, func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		for i := range 200 {
			s.world.Match(sub, patient(i), fhir.Update)
		}
		s.after(time.Hour)
		if n := len(s.receiver.Arrivals()); n != 0 {
			t.Errorf("%d were sent", n)
		}
		halted.Store(false)
		s.after(5 * time.Second)
		if len(s.world.Open()) != 0 || len(s.receiver.Arrivals()) != 200 {
			t.Errorf("%d open, %d arrived", len(s.world.Open()), len(s.receiver.Arrivals()))
		}
	})
}

func TestADeadEndpointHoldsFewPlacesAndTheRestIsParked(t *testing.T) {
	play(t, func(c *deliver.Config) { c.Places = 40 }, func(s *scene) {
		s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
			if n.Subscription != "good" {
				return broken(n, deliver.Target{})
			}
			return 0, nil
		})
		good := s.world.Subscribe(subscription("good", quick))
		var bad []deliver.Target
		for i := range 4 {
			bad = append(bad, s.world.Subscribe(subscription(fhir.ID(fmt.Sprintf("bad%d", i)), quick)))
		}
		s.start("n1")
		for i := range 100 {
			for _, b := range bad {
				s.world.Match(b, patient(i), fhir.Update)
			}
			p := s.world.Match(good, patient(i), fhir.Update)
			s.after(10 * time.Millisecond)
			if a := s.receiver.Of(p.ID()); len(a) != 1 || !a[0].At.Equal(p.EventTime) {
				t.Fatalf("event %d of the healthy one: %d arrivals", i, len(a))
			}
			if st := s.lane.Status(); st.Places > 40 {
				t.Fatalf("%d places taken of %d", st.Places, st.Capacity)
			}
		}
		s.after(20 * time.Second)
		if _, held := s.world.Tokens(); held > 20+len(bad) {
			t.Errorf("%d tokens are held by dead endpoints: more than half of the places and one each", held)
		}
		// All the same, each is tried three times and none is lost.
		s.after(24 * time.Hour)
		if open := len(s.world.Open()); open != 0 {
			t.Errorf("%d are still pending", open)
		}
		if n := len(s.world.Letters()); n != 400 {
			t.Errorf("%d dead letters, want 400", n)
		}
		counts := map[record.MatchID]int{}
		for _, a := range s.receiver.Arrivals() {
			counts[a.MatchID]++
			if a.Subscription != "good" && counts[a.MatchID] > 3 {
				t.Fatalf("event %d of %s was sent %d times", a.Number, a.Subscription, counts[a.MatchID])
			}
		}
	})
}

func TestAnEndpointThatRecoversGetsItsBacklogAndFreshEventsFirst(t *testing.T) {
	play(t, nil, func(s *scene) {
		var up atomic.Bool
		s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
			if !up.Load() {
				return broken(n, deliver.Target{})
			}
			return 20 * time.Millisecond, nil
		})
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Schedule: []time.Duration{time.Minute}}))
		s.start("n1")
		for i := range 500 {
			s.world.Match(sub, patient(i), fhir.Update)
		}
		s.after(5 * time.Minute)
		up.Store(true)
		for i := range 100 {
			p := s.world.Match(sub, patient(10000+i), fhir.Update)
			s.after(time.Second)
			if a := s.receiver.Of(p.ID()); len(a) == 0 {
				t.Errorf("fresh event %d waited for the backlog", p.Number)
			}
		}
		s.after(10 * time.Minute)
		if len(s.world.Open()) != 0 || len(s.world.Letters()) != 0 {
			t.Errorf("%d open, %d dead", len(s.world.Open()), len(s.world.Letters()))
		}
	})
}

func TestABigReplayDelaysNoFreshNotification(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 100 * time.Millisecond, nil
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		var ids []record.MatchID
		for i := range 1000 {
			ids = append(ids, s.world.Match(sub, patient(i), fhir.Update).ID())
		}
		s.after(30 * time.Second)
		if len(s.world.Open()) != 0 {
			t.Fatalf("%d open before the replay", len(s.world.Open()))
		}
		before := len(s.receiver.Arrivals())
		s.world.Replay(ids...)
		for i := range 50 {
			p := s.world.Match(sub, patient(5000+i), fhir.Update)
			synctest.Wait()
			if a := s.receiver.Of(p.ID()); len(a) != 1 || !a[0].At.Equal(p.EventTime) {
				t.Errorf("fresh event %d waited behind the replay", p.Number)
			}
			s.after(200 * time.Millisecond)
		}
		s.after(2 * time.Minute)
		replayed := s.receiver.Arrivals()[before:]
		seen := map[record.MatchID]bool{}
		for _, a := range replayed {
			if a.Number <= 1000 {
				if !a.Resend || a.Attempt != 1 || seen[a.MatchID] {
					t.Fatalf("replay %+v (seen %v)", a, seen[a.MatchID])
				}
				seen[a.MatchID] = true
			}
		}
		if len(seen) != 1000 || len(s.world.Open()) != 0 {
			t.Errorf("%d of 1000 replayed, %d open", len(seen), len(s.world.Open()))
		}
	})
}

func TestAReplayIsNotMadeTwiceWhileTheStoreLags(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 10 * time.Millisecond, nil
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		var ids []record.MatchID
		for i := range 400 {
			ids = append(ids, s.world.Match(sub, patient(i), fhir.Update).ID())
		}
		s.after(time.Minute)
		s.world.FoldAfter = 30 * time.Second
		s.world.Replay(ids[:200]...)
		s.after(500 * time.Millisecond)
		s.world.Replay(ids[200:]...) // makes the lane read from the beginning again
		s.after(10 * time.Second)
		if n := len(s.receiver.Arrivals()); n != 800 {
			t.Errorf("%d arrivals, want each match and each replay once", n)
		}
		if most := s.receiver.Most(sub.Birth); most > 8 {
			t.Errorf("%d were out at once", most)
		}
		s.after(time.Minute)
		s.world.Replay(ids...)
		s.after(time.Minute)
		if n := len(s.receiver.Arrivals()); n != 1200 {
			t.Errorf("%d arrivals after a second replay, want 1200", n)
		}
	})
}

func TestReplaysHaveAQuarterOfTheSends(t *testing.T) {
	play(t, nil, func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		var ids []record.MatchID
		for i := range 20 {
			ids = append(ids, s.world.Match(sub, patient(i), fhir.Update).ID())
			s.after(time.Second)
		}
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			return 100 * time.Millisecond, nil
		})
		s.world.Replay(ids...)
		s.after(time.Minute)
		if most := s.receiver.Most(sub.Birth); most != 2 {
			t.Errorf("%d replays were out at once, want 2 of k = 8", most)
		}
	})
}

func TestAReplayGoesInFrontOfLaterMatchesOfItsResource(t *testing.T) {
	play(t, nil, func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		first := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		s.answer(func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error) {
			if n.Number == 2 && n.Attempt == 1 {
				return broken(n, t)
			}
			if n.Resend {
				return 10 * time.Second, nil // the second's token comes meanwhile
			}
			return time.Second, nil
		})
		second := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		s.world.Match(sub, patient(1), fhir.Update)
		s.world.Replay(first.ID()) // second waits for its token
		s.after(time.Hour)
		if got := numbers(s.receiver.Arrivals()); !slices.Equal(got, []fhir.EventNumber{1, 2, 1, 2, 3}) {
			t.Errorf("arrived in the order %v", got)
		}
		if n := len(s.receiver.Of(second.ID())); n != 2 || len(s.world.Open()) != 0 {
			t.Errorf("%d attempts of the second, open %v", n, s.world.Open())
		}
	})
}

func TestAReplayThatComesWhileALaterOneIsOutGoesBeforeItsNextAttempt(t *testing.T) {
	play(t, nil, func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		first := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Second)
		s.answer(func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error) {
			if n.Number == 2 && n.Attempt == 1 {
				_, failure := broken(n, t)
				return time.Second, failure
			}
			return 0, nil
		})
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(500 * time.Millisecond)
		s.world.Replay(first.ID()) // the second is at the endpoint
		s.after(time.Hour)
		if got := numbers(s.receiver.Arrivals()); !slices.Equal(got, []fhir.EventNumber{1, 2, 1, 2}) {
			t.Errorf("arrived in the order %v", got)
		}
		if open := s.world.Open(); len(open) != 0 {
			t.Errorf("open %v", open)
		}
	})
}

func TestAReplayGoesInFrontOfWhatIsReady(t *testing.T) {
	var halted atomic.Bool
	play(t, func(c *deliver.Config) { c.Allowed = func() bool { return !halted.Load() } }, func(s *scene) {
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) { return time.Second, nil })
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		first := s.world.Match(sub, patient(1), fhir.Update)
		s.after(2 * time.Second)
		halted.Store(true)
		s.world.Match(sub, patient(1), fhir.Update) // ready, and not sent
		s.after(time.Second)
		s.world.Replay(first.ID())
		s.after(time.Second)
		halted.Store(false)
		s.after(time.Minute)
		if got := numbers(s.receiver.Arrivals()); !slices.Equal(got, []fhir.EventNumber{1, 1, 2}) {
			t.Errorf("arrived in the order %v", got)
		}
	})
}

func TestNothingIsSentForAnyoneWhileOutcomesAreRefused(t *testing.T) {
	play(t, nil, func(s *scene) {
		var failing atomic.Bool
		failing.Store(true)
		s.world.Appending = func([]record.Outcome) error {
			if failing.Load() {
				return errors.New("no quorum")
			}
			return nil
		}
		var subs []deliver.Target
		for i := range 20 {
			subs = append(subs, s.world.Subscribe(subscription(fhir.ID(fmt.Sprintf("s%d", i)), quick)))
		}
		s.start("n1")
		s.world.Match(subs[0], patient(1), fhir.Update)
		s.after(time.Second)
		for _, sub := range subs {
			s.world.Match(sub, patient(2), fhir.Update)
		}
		s.after(time.Hour)
		if n := len(s.receiver.Arrivals()); n != 1 {
			t.Errorf("%d were sent", n)
		}
		failing.Store(false)
		s.after(time.Minute)
		if n := len(s.receiver.Arrivals()); n != 21 || len(s.world.Open()) != 0 {
			t.Errorf("%d arrivals, open %v", n, s.world.Open())
		}
	})
}

func TestARecoveredEndpointIsFoundOutThoughItsTokensWaitForHours(t *testing.T) {
	play(t, func(c *deliver.Config) { c.Places = 20 }, func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Schedule: []time.Duration{10 * time.Hour}}))
		s.start("n1")
		for i := range 100 {
			s.world.Match(sub, patient(i), fhir.Update)
		}
		s.after(time.Hour)
		s.answer(nil)
		p := s.world.Match(sub, patient(1000), fhir.Update)
		s.after(time.Second)
		if len(s.receiver.Of(p.ID())) != 1 {
			t.Error("a fresh event waits for tokens of old ones")
		}
		s.after(11 * time.Hour)
		if open := s.world.Open(); len(open) != 0 {
			t.Errorf("%d are still pending; lane %+v", len(open), s.lane.Status())
		}
	})
}

func TestAReplayAfterADeadLetterHasItsOwnAttempts(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.world.FoldAfter = time.Second
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Hour)
		s.world.Replay(p.ID())
		s.after(time.Hour)
		if len(s.world.Letters()) != 2 || s.world.Letters()[1].Round != 1 || s.world.Letters()[1].Attempts != 3 {
			t.Errorf("letters %+v", s.world.Letters())
		}
		s.answer(nil)
		s.world.Replay(p.ID())
		s.after(time.Hour)
		o := s.world.OutcomesOf(p.ID())
		if last := o[len(o)-1]; len(o) != 7 || last.Code != record.Accepted || last.Round != 2 || last.Attempt != 1 {
			t.Errorf("%d outcomes, last %+v", len(o), last)
		}
		if n := len(s.receiver.Of(p.ID())); n != 7 {
			t.Errorf("%d arrivals, want 3, 3 and 1", n)
		}
	})
}

func TestAChangedOrderIsFollowed(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.answer(func(n deliver.Notification, _ deliver.Target) (time.Duration, *deliver.Error) {
			return 100 * time.Millisecond, nil
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		var keys []fhir.Key
		for i := range 200 {
			keys = append(keys, patient(i))
		}
		s.world.Matches(sub, fhir.Update, keys...)
		s.after(150 * time.Millisecond)
		sub.Order = deliver.OrderStrict
		s.world.Set(sub, deliver.Sendable)
		s.after(200 * time.Millisecond)
		before := len(s.receiver.Arrivals())
		s.after(5 * time.Second)
		later := numbers(s.receiver.Arrivals()[before:])
		if !slices.IsSorted(later) || len(later) > 50 {
			t.Errorf("after the change: %v", later)
		}
		sub.Order = deliver.OrderResource
		s.world.Set(sub, deliver.Sendable)
		s.after(10 * time.Second)
		if len(s.world.Open()) != 0 || len(s.receiver.Arrivals()) != 200 {
			t.Errorf("%d open, %d arrived", len(s.world.Open()), len(s.receiver.Arrivals()))
		}
	})
}

func TestAnObserverHearsOfEveryAttempt(t *testing.T) {
	var attempts, ends, dead atomic.Int32
	play(t, func(c *deliver.Config) {
		c.Observer = deliver.Observer{
			Attempt:  func(string, record.Code, time.Duration) { attempts.Add(1) },
			EndToEnd: func(string, time.Duration) { ends.Add(1) },
			Dead:     func(string, record.Code) { dead.Add(1) },
		}
	}, func(s *scene) {
		s.answer(func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error) {
			if n.Number == 1 {
				return broken(n, t)
			}
			return 0, nil
		})
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.world.Matches(sub, fhir.Update, patient(1), patient(2))
		s.after(time.Hour)
		if attempts.Load() != 4 || ends.Load() != 1 || dead.Load() != 1 {
			t.Errorf("%d attempts, %d ends, %d dead", attempts.Load(), ends.Load(), dead.Load())
		}
	})
}

// counting counts what a lane reads of its backlogs.
type counting struct {
	deliver.Queue
	read atomic.Int64
}

func (q *counting) PendingFrom(birth record.Sequence, after fhir.EventNumber, limit int) ([]deliver.Pending, error) {
	page, err := q.Queue.PendingFrom(birth, after, limit)
	q.read.Add(int64(len(page)))
	return page, err
}

func TestABacklogIsReadOnce(t *testing.T) {
	const matches = 2000
	var q counting
	play(t, func(cfg *deliver.Config) {
		q.Queue = cfg.Queue
		cfg.Queue = &q
	}, func(s *scene) {
		target := s.world.Subscribe(subscription("s", deliver.Policy{Attempts: 3}))
		for i := range matches {
			s.world.Match(target, patient(i), fhir.Create)
		}
		s.start("a")
		s.after(time.Minute)
		if open := len(s.world.Open()); open > 0 {
			t.Fatalf("%d are still pending", open)
		}
	})
	// Whatever was read was kept: a little more only where a page came in between.
	if read := q.read.Load(); read > matches*11/10 {
		t.Errorf("%d matches were read from the store for %d that were pending", read, matches)
	}
}
