package deliver_test

import (
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// shared makes the Endpoints of one node.
func shared(e *deliver.Endpoints) func(*deliver.Config) {
	return func(c *deliver.Config) { c.Endpoints = e }
}

func limited(l deliver.Limits) func(*url.URL) deliver.Limits {
	return func(*url.URL) deliver.Limits { return l }
}

const aHost = "https://host.example:443"

func TestAnEndpointIsSchemeHostAndPort(t *testing.T) {
	for raw, want := range map[string]string{
		"https://Host.Example/a?b":  aHost,
		"https://host.example.:443": aHost,
		"http://host.example":       "http://host.example:80",
		"https://[2001:db8::1]/x":   "https://[2001:db8::1]:443",
		"mailto:a@host.example":     "",
		"":                          "",
		"://":                       "",
	} {
		if got := deliver.EndpointName(raw); got != want {
			t.Errorf("%q is %q, want %q", raw, got, want)
		}
	}
}

func TestABreakerOpensAfterFailuresInARowAndHalfOpensOneAttemptAtATime(t *testing.T) {
	var opened, closed []deliver.EndpointStatus
	e := deliver.NewEndpoints(deliver.EndpointsConfig{
		Breaker: deliver.Breaker{Failures: 5, Window: time.Minute, Open: 10 * time.Second},
		Opened:  func(s deliver.EndpointStatus) { opened = append(opened, s) },
		Closed:  func(s deliver.EndpointStatus) { closed = append(closed, s) },
	})
	play(t, shared(e), func(s *scene) {
		var dead atomic.Bool
		dead.Store(true)
		s.answer(func(n deliver.Notification, d deliver.Target) (time.Duration, *deliver.Error) {
			if dead.Load() {
				return broken(n, d)
			}
			return 0, nil
		})
		policy := deliver.Policy{Schedule: []time.Duration{time.Second}}
		one, two := s.world.Subscribe(subscription("one", policy)), s.world.Subscribe(subscription("two", policy))
		s.start("n1")
		var all []record.MatchID
		for i := range 20 {
			all = append(all, s.world.Match(one, patient(i), fhir.Update).ID(), s.world.Match(two, patient(i), fhir.Update).ID())
		}
		synctest.Wait()
		before := len(s.receiver.Arrivals())
		if before != 16 {
			t.Fatalf("%d attempts, want the 16 that were out when the first failed", before)
		}
		began := time.Now()
		s.after(65 * time.Second)
		var at []time.Duration
		for _, a := range s.receiver.Arrivals()[before:] {
			at = append(at, a.At.Sub(began))
		}
		if want := []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second, 40 * time.Second, 50 * time.Second, 60 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("tried at %v, want %v", at, want)
		}
		if st, _ := e.Find(aHost); !st.Open || st.Failures != before+6 || st.Waiting != 2 {
			t.Errorf("status %+v", st)
		}
		// Each Subscription that waits says so once, and spends nothing by waiting.
		notes := map[fhir.ID]int{}
		for _, o := range s.world.Outcomes() {
			if o.Code == record.BreakerOpen {
				notes[o.Subscription]++
			}
		}
		if notes["one"] != 1 || notes["two"] != 1 || len(notes) != 2 {
			t.Errorf("breaker_open was recorded %v", notes)
		}
		dead.Store(false)
		s.after(20 * time.Second)
		for _, id := range all {
			if o := s.world.OutcomesOf(id); len(o) == 0 || o[len(o)-1].Code != record.Accepted {
				t.Errorf("%v ended %+v", id, o)
			}
		}
		if len(opened) != 1 || len(closed) != 1 || opened[0].Name != aHost || opened[0].Last != record.HTTPStatus {
			t.Errorf("told of %d openings and %d closings: %+v", len(opened), len(closed), opened)
		}
	})
}

func TestWhatIsNotTheEndpointsFaultOpensNoBreaker(t *testing.T) {
	for _, tc := range []struct {
		failure deliver.Error
		open    bool
	}{
		{deliver.Error{Code: record.HTTPStatus, Status: 500}, true},
		{deliver.Error{Code: record.HTTPStatus, Status: 429}, true},
		{deliver.Error{Code: record.Timeout}, true},
		{deliver.Error{Code: record.TLSError}, true},
		{deliver.Error{Code: record.HTTPStatus, Status: 404}, false},
		{deliver.Error{Code: record.HTTPStatus, Status: 401}, false},
		{deliver.Error{Code: record.Redirect, Status: 302}, false},
		{deliver.Error{Code: record.HTTPStatus, Status: 500, Permanent: true}, false}, // abort-message
		{deliver.Error{Code: record.PublishError}, false},
		{deliver.Error{Code: record.AuthError}, false},
		{deliver.Error{Code: record.ProxyError}, false},
		{deliver.Error{Code: record.BlockedAddress}, false},
		{deliver.Error{Code: record.RenderError}, false},
		{deliver.Error{Code: record.Skipped}, false},
	} {
		t.Run(fmt.Sprint(tc.failure.Code, tc.failure.Status), func(t *testing.T) {
			e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: time.Hour}})
			play(t, shared(e), func(s *scene) {
				s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
					f := tc.failure
					return 0, &f
				})
				sub := s.world.Subscribe(subscription("s", deliver.Policy{Attempts: 1}))
				s.start("n1")
				for i := range 10 {
					s.world.Match(sub, patient(i), fhir.Update)
				}
				s.after(10 * time.Minute)
				if st, _ := e.Find(aHost); st.Open != tc.open {
					t.Errorf("open is %v", st.Open)
				}
			})
		})
	}
}

func TestALoneSubscriptionGetsItsAttemptsAtTheTimesOfItsSchedule(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 20, Window: time.Minute, Open: 10 * time.Second}})
	play(t, shared(e), func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Hour)
		var at []time.Duration
		for _, a := range s.receiver.Of(p.ID()) {
			at = append(at, a.At.Sub(p.EventTime))
		}
		if want := []time.Duration{0, 5 * time.Second, 5*time.Minute + 5*time.Second}; !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
	})
}

func TestABreakerHasEveryAttemptMadeAllTheSame(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: 10 * time.Second}})
	play(t, shared(e), func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		for i := range 30 {
			s.world.Match(sub, patient(i), fhir.Update)
		}
		s.after(2 * time.Hour)
		letters := s.world.Letters()
		if len(letters) != 30 {
			t.Fatalf("%d dead letters of 30", len(letters))
		}
		for _, l := range letters {
			if l.Attempts != 3 {
				t.Errorf("%v died after %d attempts", l.MatchID, l.Attempts)
			}
		}
	})
}

func TestABreakerIsResetByHandAndTakenOverFromOtherNodes(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: time.Hour}})
	play(t, shared(e), func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.world.Match(sub, patient(0), fhir.Update)
		synctest.Wait()
		e.OpenedElsewhere(aHost, time.Now(), time.Now().Add(30*time.Second), 0)
		p := s.world.Match(sub, patient(1), fhir.Update)
		s.after(29 * time.Second)
		if n := len(s.receiver.Of(p.ID())); n != 0 {
			t.Fatal("sent while another node says that the endpoint is dead")
		}
		if !e.Reset(aHost) || e.Reset(aHost) || e.Reset("https://nobody.example:443") {
			t.Error("Reset says wrongly whether the breaker was open")
		}
		synctest.Wait()
		if n := len(s.receiver.Of(p.ID())); n != 1 {
			t.Error("not sent after the reset")
		}
		e.OpenedElsewhere(aHost, time.Now(), time.Now().Add(30*time.Second), 0)
		q := s.world.Match(sub, patient(2), fhir.Update)
		s.after(31 * time.Second)
		if n := len(s.receiver.Of(q.ID())); n != 1 {
			t.Error("not tried when the other node's time was over")
		}
	})
}

func TestLimitsOfAnEndpointAreNeverExceededWhateverSubscriptionsShareIt(t *testing.T) {
	const subs, each = 20, 30
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Limits: limited(deliver.Limits{Concurrency: 3, Rate: 20})})
	play(t, shared(e), func(s *scene) {
		var mu sync.Mutex
		out, most := 0, 0
		s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
			mu.Lock()
			defer mu.Unlock()
			out++
			most = max(most, out)
			time.AfterFunc(100*time.Millisecond, func() { mu.Lock(); out--; mu.Unlock() })
			return 100*time.Millisecond - time.Nanosecond, nil
		})
		s.start("n1")
		for i := range subs {
			sub := s.world.Subscribe(subscription(fhir.ID(fmt.Sprintf("s%d", i)), quick))
			for j := range each {
				s.world.Match(sub, patient(j), fhir.Update)
			}
		}
		s.after(40 * time.Second)
		arrivals := s.receiver.Arrivals()
		if len(arrivals) != subs*each {
			t.Fatalf("%d arrived of %d", len(arrivals), subs*each)
		}
		if most > 3+1 { // one may have ended at the same instant
			t.Errorf("%d were out at once", most)
		}
		for i := range arrivals {
			if i+20 < len(arrivals) && arrivals[i+20].At.Sub(arrivals[i].At) < time.Second-time.Millisecond {
				t.Fatalf("21 began within %v", arrivals[i+20].At.Sub(arrivals[i].At))
			}
		}
		// They take turns: after a third of the time each had about a third.
		count := map[fhir.ID]int{}
		for _, a := range arrivals[:subs*each/3] {
			count[a.Subscription]++
		}
		for id, n := range count {
			if n < each/3-3 || n > each/3+8 {
				t.Errorf("%s had %d of the first %d", id, n, subs*each/3)
			}
		}
	})
}

func TestWhoWaitsForALimitKeepsNoPlaceAndDelaysNobody(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Limits: func(u *url.URL) deliver.Limits {
		if u.Hostname() == "host.example" {
			return deliver.Limits{Concurrency: 1}
		}
		return deliver.Limits{}
	}})
	play(t, func(c *deliver.Config) { c.Endpoints, c.Places = e, 10 }, func(s *scene) {
		s.answer(func(_ deliver.Notification, d deliver.Target) (time.Duration, *deliver.Error) {
			if d.Endpoint != "https://other.example/" {
				return 10 * time.Second, nil
			}
			return 0, nil
		})
		s.start("n1")
		for i := range 50 {
			sub := s.world.Subscribe(subscription(fhir.ID(fmt.Sprintf("s%d", i)), quick))
			s.world.Match(sub, patient(1), fhir.Update)
		}
		free := subscription("free", quick)
		free.Endpoint = "https://other.example/"
		free = s.world.Subscribe(free)
		synctest.Wait()
		if st := s.lane.Status(); st.Places != 1 || st.Sending != 1 {
			t.Errorf("lane %+v, want one place taken", st)
		}
		for i := range 20 {
			p := s.world.Match(free, patient(i), fhir.Update)
			synctest.Wait()
			if got := s.receiver.Of(p.ID()); len(got) != 1 || !got[0].At.Equal(p.EventTime) {
				t.Fatalf("the other endpoint's %d. waited: %+v", i, got)
			}
		}
		s.after(510 * time.Second)
		if open := s.world.Open(); len(open) != 0 {
			t.Errorf("%d pending", len(open))
		}
		limits := 0
		for _, o := range s.world.Outcomes() {
			if o.Code == record.RateLimited {
				limits++
			}
		}
		if limits != 49 {
			t.Errorf("rate_limited was recorded %d times, want once for each that waited", limits)
		}
	})
}

func TestLanesThatShareALimitKeepItTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := deliver.NewEndpoints(deliver.EndpointsConfig{Limits: limited(deliver.Limits{Concurrency: 2})})
		var mu sync.Mutex
		out, most := 0, 0
		var scenes []*scene
		for i := range 3 {
			s := newScene(t, shared(e))
			s.answer(func(deliver.Notification, deliver.Target) (time.Duration, *deliver.Error) {
				mu.Lock()
				defer mu.Unlock()
				out++
				most = max(most, out)
				time.AfterFunc(time.Second-time.Nanosecond, func() { mu.Lock(); out--; mu.Unlock() })
				return time.Second, nil
			})
			sub := s.world.Subscribe(subscription(fhir.ID(fmt.Sprintf("s%d", i)), quick))
			s.start("n1")
			for j := range 20 {
				s.world.Match(sub, patient(j), fhir.Update)
			}
			scenes = append(scenes, s)
		}
		scenes[0].after(31 * time.Second)
		for i, s := range scenes {
			if open := s.world.Open(); len(open) != 0 {
				t.Errorf("lane %d has %d pending", i, len(open))
			}
			s.stop()
		}
		if most != 2 {
			t.Errorf("%d were out at once, want 2", most)
		}
	})
}

func TestABurstThatIsRefusedSpendsItsAttemptsAndOnlyWhatGoesOnFailingIsLeftAlone(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, After: 30 * time.Second, Open: time.Hour}})
	play(t, shared(e), func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Attempts: 3, Schedule: []time.Duration{time.Second}}))
		s.start("n1")
		for i := range 30 {
			s.world.Match(sub, patient(i), fhir.Update)
		}
		s.after(20 * time.Second)
		if n := len(s.world.Letters()); n != 30 {
			t.Errorf("%d dead letters of 30", n)
		}
		if st, _ := e.Find(aHost); st.Open {
			t.Error("the breaker is open after some seconds")
		}
		s.after(20 * time.Second)
		s.world.Match(sub, patient(30), fhir.Update)
		synctest.Wait()
		if st, _ := e.Find(aHost); !st.Open {
			t.Error("the breaker is closed though the endpoint fails for more than half a minute")
		}
	})
}
func TestADeliveryClassSaysNothingOfTheEndpoint(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: time.Hour}})
	play(t, shared(e), func(s *scene) {
		s.answer(func(n deliver.Notification, d deliver.Target) (time.Duration, *deliver.Error) {
			if d.Aside && n.Number%2 == 0 {
				return 0, nil
			}
			return 0, &deliver.Error{Code: record.Timeout}
		})
		aside := subscription("aside", deliver.Policy{Attempts: 1})
		aside.Aside = true
		own, other := s.world.Subscribe(aside), s.world.Subscribe(subscription("s", deliver.Policy{Attempts: 1}))
		s.start("n1")
		for i := range 9 {
			s.world.Match(own, patient(i), fhir.Update)
		}
		s.after(time.Second)
		if st, _ := e.Find(aHost); st.Failures != 0 {
			t.Errorf("%d failures of the deliverer are the endpoint's", st.Failures)
		}
		for i := range 3 {
			s.world.Match(other, patient(i), fhir.Update)
			s.after(time.Second)
			s.world.Match(own, patient(i), fhir.Update) // the tenth is accepted
			s.after(time.Second)
		}
		if st, _ := e.Find(aHost); !st.Open {
			t.Errorf("a success of the deliverer has kept the breaker closed: %+v", st)
		}
	})
}

// moving is a Subscription that was written anew, with another endpoint, while its lane did not know yet.
type moving struct {
	deliver.Targets
	asked atomic.Int32
}

func (m *moving) Target(id fhir.ID, birth record.Sequence) (deliver.Target, deliver.State) {
	t, state := m.Targets.Target(id, birth)
	if m.asked.Add(1) > 1 {
		t.Endpoint = "https://new.example/"
	}
	return t, state
}

func TestTheLeaveOfOneEndpointIsNotUsedAtAnother(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: time.Hour}})
	play(t, func(c *deliver.Config) { c.Endpoints, c.Targets = e, &moving{Targets: c.Targets} }, func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Attempts: 1}))
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(time.Minute)
		old, _ := e.Find(aHost)
		now, _ := e.Find("https://new.example:443")
		if old.Failures != 0 || now.Failures != 1 {
			t.Errorf("%d failures are the old endpoint's, %d the new one's", old.Failures, now.Failures)
		}
	})
}

func TestOperatorsHearOnceThatASubscriptionFailsAndThatItRecoversWhoeverHasItsLane(t *testing.T) {
	var told []string
	observe := func(c *deliver.Config) {
		c.Observer.Failing = func(deliver.Target, record.Code) { told = append(told, "failing") }
		c.Observer.Recovered = func(deliver.Target) { told = append(told, "recovered") }
	}
	play(t, observe, func(s *scene) {
		var well atomic.Bool
		s.answer(func(n deliver.Notification, d deliver.Target) (time.Duration, *deliver.Error) {
			if well.Load() {
				return 0, nil
			}
			return broken(n, d)
		})
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Schedule: []time.Duration{time.Minute}}))
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(90 * time.Second)
		s.kill()
		s.start("n2")
		s.after(3 * time.Minute)
		s.stop()
		well.Store(true)
		s.start("n3")
		s.after(3 * time.Minute)
		if want := []string{"failing", "recovered"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

func TestASubscriptionThatMovesSaysOfItsNewEndpointThatItsBreakerIsOpen(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: time.Hour}})
	play(t, shared(e), func(s *scene) {
		sub := subscription("s", deliver.Policy{Attempts: 1})
		first := s.world.Subscribe(sub)
		s.start("n1")
		for _, name := range []string{aHost, "https://new.example:443"} {
			e.OpenedElsewhere(name, time.Now(), time.Now().Add(24*time.Hour), 0)
		}
		s.world.Match(first, patient(1), fhir.Update)
		s.after(time.Second)
		first.Endpoint = "https://new.example/"
		s.world.Set(first, deliver.Sendable)
		s.after(time.Second)
		n := 0
		for _, o := range s.world.Outcomes() {
			if o.Code == record.BreakerOpen {
				n++
			}
		}
		if n != 2 {
			t.Errorf("breaker_open was recorded %d times, want once for each endpoint", n)
		}
	})
}

func TestTheBreakerOfAnEndpointThatNobodySendsToAnyMoreIsForgotten(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: 10 * time.Second}})
	play(t, shared(e), func(s *scene) {
		s.answer(broken)
		sub := s.world.Subscribe(subscription("s", deliver.Policy{Schedule: []time.Duration{time.Second}}))
		s.start("n1")
		s.world.Match(sub, patient(1), fhir.Update)
		s.after(15 * time.Second)
		if e.OpenBreakers() != 1 {
			t.Fatalf("status %+v", e.Status())
		}
		s.world.Set(sub, deliver.Held)
		s.after(time.Hour)
		if e.OpenBreakers() != 1 {
			t.Error("the breaker of a Subscription that is paused was forgotten")
		}
		s.world.Set(sub, deliver.Withdrawn)
		s.after(time.Minute)
		if e.OpenBreakers() != 0 || len(e.Status()) != 0 {
			t.Errorf("status %+v", e.Status())
		}
	})
}

func TestATryThatABreakersResetHasOvertakenIsNoTryOfTheNextOpening(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Hour, Open: 10 * time.Second}})
	play(t, shared(e), func(s *scene) {
		var takes atomic.Int64
		s.answer(func(n deliver.Notification, d deliver.Target) (time.Duration, *deliver.Error) {
			took := time.Duration(takes.Load())
			if took == 14*time.Second { // the old one, which says nothing of the endpoint in the end
				return took, &deliver.Error{Code: record.ProxyError}
			}
			_, failure := broken(n, d)
			return took, failure
		})
		subs := []deliver.Target{}
		for i := range 6 {
			subs = append(subs, s.world.Subscribe(subscription(fhir.ID(fmt.Sprintf("s%d", i)), deliver.Policy{Attempts: 1, Schedule: []time.Duration{time.Second}})))
		}
		s.start("n1")
		for i := range 3 {
			s.world.Match(subs[i], patient(1), fhir.Update)
		}
		s.after(11 * time.Second) // open, and a try may be
		takes.Store(int64(14 * time.Second))
		s.world.Match(subs[3], patient(1), fhir.Update)
		s.after(time.Second)
		e.Reset(aHost)
		takes.Store(0)
		for i := range 3 {
			s.world.Match(subs[i], patient(2), fhir.Update)
		}
		s.after(12 * time.Second) // open again, and another try may be
		takes.Store(int64(10 * time.Second))
		s.world.Match(subs[4], patient(1), fhir.Update)
		s.after(2 * time.Second) // the old one ends
		s.world.Match(subs[5], patient(1), fhir.Update)
		s.after(time.Second)
		if st, _ := e.Find(aHost); !st.Open || st.Out != 1 {
			t.Errorf("status %+v, want one try out", st)
		}
		s.after(time.Minute)
	})
}

func TestWhatFailsForOneSubscriptionAtAnotherNodeDoesNotStopThoseThatAreAnsweredHere(t *testing.T) {
	breaker := deliver.Breaker{Failures: 3, Window: time.Minute, Open: 10 * time.Second}
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: breaker})
	play(t, shared(e), func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.world.Match(sub, patient(0), fhir.Update)
		s.after(20 * time.Second)
		if e.OpenedElsewhere(aHost, time.Now(), time.Now().Add(15*time.Second), 30*time.Second) {
			t.Error("taken over though the endpoint has answered here while it failed there")
		}
		if st, _ := e.Find(aHost); st.Open {
			t.Error("open")
		}
		if !e.OpenedElsewhere(aHost, time.Now(), time.Now().Add(15*time.Second), 10*time.Second) {
			t.Error("not taken over though all that was answered here came before it began to fail there")
		}
	})
}

func TestANodeTriesForItsOwnSubscriptionsHoweverOftenAnotherHasTriedInVain(t *testing.T) {
	e := deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 3, Window: time.Minute, Open: 10 * time.Second}})
	play(t, shared(e), func(s *scene) {
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		s.after(time.Minute)
		e.OpenedElsewhere(aHost, time.Now(), time.Now().Add(15*time.Second), time.Minute)
		p := s.world.Match(sub, patient(1), fhir.Update)
		for range 4 {
			s.after(5 * time.Second)
			e.OpenedElsewhere(aHost, time.Now(), time.Now().Add(15*time.Second), time.Minute)
		}
		if n := len(s.receiver.Of(p.ID())); n != 1 {
			t.Errorf("%d attempts in 20 s, want the one that finds the endpoint back", n)
		}
	})
}
