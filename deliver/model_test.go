package deliver_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// TestRetryBreakerOrderPauseAndReplayAreAsTheModelHasThem draws scripts of what can happen, plays
// each to a lane, and asks a model about every attempt whether it may be made: the model knows no
// queue, no token and no goroutine, only what each match has behind it, and whether its endpoint is
// known to be dead. When the script is over and all is well, nothing may be left.
func TestRetryBreakerOrderPauseAndReplayAreAsTheModelHasThem(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(rapid.Custom(drawStep), 1, 60).Draw(rt, "script")
		var faults []string
		synctest.Test(t, func(t *testing.T) {
			p := newModelPlay(t)
			defer p.stop()
			for _, step := range script {
				p.step(step)
			}
			p.calm()
			faults = p.model.faults
		})
		if len(faults) > 0 {
			rt.Fatalf("%d faults, the first: %s", len(faults), faults[0])
		}
	})
}

// step is something that happens.
type step struct {
	What  string
	Sub   int // of modelSubs
	Count int // events, or replays
	Key   int // resource
	Wait  time.Duration
}

func (s step) String() string {
	return fmt.Sprintf("%s %d %d %d %v", s.What, s.Sub, s.Count, s.Key, s.Wait)
}

func drawStep(t *rapid.T) step {
	what := rapid.SampledFrom([]string{"events", "events", "events", "dead", "dying", "dying", "alive", "slow", "pause", "resume", "resume", "halt", "go", "replay", "reset", "pass"})
	return step{
		What: what.Draw(t, "what"), Sub: rapid.IntRange(0, 2).Draw(t, "sub"), Count: rapid.IntRange(1, 8).Draw(t, "count"),
		Key:  rapid.IntRange(0, 3).Draw(t, "key"),
		Wait: rapid.SampledFrom([]time.Duration{0, 100 * time.Millisecond, time.Second, 7 * time.Second, time.Minute}).Draw(t, "wait"),
	}
}

const (
	modelAttempts = 3
	modelFirst    = 2 * time.Second
	modelSecond   = 9 * time.Second
)

var modelBreaker = deliver.Breaker{Failures: 4, Window: 20 * time.Second, Open: 5 * time.Second}

// modelPlay is a lane with three Subscriptions: two share an endpoint, one of them in strict order;
// the third has its own.
type modelPlay struct {
	*scene
	model     *model
	endpoints *deliver.Endpoints
	subs      []deliver.Target
}

func newModelPlay(t *testing.T) *modelPlay {
	m := &model{matches: map[record.MatchID]*modelMatch{}, endpoints: map[string]*modelEndpoint{}, paused: map[fhir.ID]bool{}, ends: map[time.Time]bool{}}
	p := &modelPlay{model: m, endpoints: deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: modelBreaker})}
	p.scene = newScene(t, func(c *deliver.Config) {
		c.Endpoints, c.Halted = p.endpoints, m.halted.Load
		c.Channels = map[string]deliver.Channel{"test": m}
	})
	for i, endpoint := range []string{"https://a.example/x", "https://a.example/y", "https://b.example/"} {
		s := subscription(fhir.ID(fmt.Sprintf("s%d", i)), deliver.Policy{Attempts: modelAttempts, Schedule: []time.Duration{modelFirst, modelSecond}})
		s.Endpoint = endpoint
		if i == 1 {
			s.Order = deliver.OrderStrict
		}
		p.subs = append(p.subs, p.world.Subscribe(s))
		m.endpoint(endpoint)
	}
	p.start("n1")
	return p
}

func (p *modelPlay) step(s step) {
	sub := p.subs[s.Sub]
	e := p.model.endpoint(sub.Endpoint)
	switch s.What {
	case "events":
		for i := range s.Count {
			p.model.expect(p.world, sub, patient((s.Key+i)%4))
		}
	case "dead", "dying", "alive", "slow":
		p.model.set(e, s.What)
	case "pause":
		p.model.pause(sub.ID, true)
		p.world.Set(sub, deliver.Held)
	case "resume":
		p.model.pause(sub.ID, false)
		p.world.Set(sub, deliver.Sendable)
	case "halt":
		p.model.halted.Store(true)
	case "go":
		p.model.halted.Store(false)
	case "reset":
		p.model.reset(e)
		p.endpoints.Reset(deliver.EndpointName(sub.Endpoint))
	case "replay":
		p.world.Replay(p.model.replay(sub.ID, s.Count)...)
	}
	synctest.Wait()
	p.after(s.Wait)
}

// calm lets everything end: endpoints answer, nothing is paused.
func (p *modelPlay) calm() {
	for _, sub := range p.subs {
		p.step(step{What: "resume", Sub: slices.IndexFunc(p.subs, func(t deliver.Target) bool { return t.ID == sub.ID })})
		p.model.set(p.model.endpoint(sub.Endpoint), "alive")
	}
	p.model.halted.Store(false)
	p.after(10 * time.Minute)
	p.model.finish(p.world)
}

// model is the channel that the lane sends through, and judges what it does.
type model struct {
	halted atomic.Bool

	mu        sync.Mutex
	matches   map[record.MatchID]*modelMatch
	endpoints map[string]*modelEndpoint
	paused    map[fhir.ID]bool
	ends      map[time.Time]bool // at which an attempt has ended or is to end
	faults    []string
}

// modelMatch is all that counts of a match.
type modelMatch struct {
	deliver.Pending
	strict    bool
	state     string // pending, out, accepted, dead
	attempts  int
	round     int
	notBefore time.Time
}

// modelEndpoint is all that counts of an endpoint.
type modelEndpoint struct {
	mode     string
	failures int
	last     time.Time
	open     bool
	opened   time.Time
	until    time.Time
	probing  bool
}

func (m *model) endpoint(url string) *modelEndpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := deliver.EndpointName(url)
	if m.endpoints[name] == nil {
		m.endpoints[name] = &modelEndpoint{mode: "alive"}
	}
	return m.endpoints[name]
}

func (m *model) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func (m *model) set(e *modelEndpoint, mode string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.mode = mode
}

func (m *model) pause(id fhir.ID, paused bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused[id] = paused
}

func (m *model) reset(e *modelEndpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.open, e.failures, e.probing = false, 0, false
}

// expect makes a match. The model knows it before the lane does.
func (m *model) expect(w *delivertest.World, sub deliver.Target, key fhir.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := w.Match(sub, key, fhir.Update) // the lane's attempts wait for mu
	m.matches[p.ID()] = &modelMatch{Pending: p, strict: sub.Order == deliver.OrderStrict, state: "pending"}
}

// replay chooses dead matches of a Subscription.
func (m *model) replay(id fhir.ID, count int) (ids []record.MatchID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.inOrder() {
		if x.Subscription == id && x.state == "dead" && len(ids) < count {
			x.state, x.attempts, x.round, x.notBefore = "pending", 0, x.round+1, time.Time{}
			ids = append(ids, x.ID())
		}
	}
	return ids
}

func (m *model) inOrder() (all []*modelMatch) {
	for _, x := range m.matches {
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b *modelMatch) int { return cmp.Compare(a.Event, b.Event) })
	return all
}

// Send is deliver.Channel: one attempt.
func (m *model) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	e := m.endpoint(t.Endpoint)
	m.mu.Lock()
	x := m.matches[n.MatchID]
	m.judge(x, e, n)
	x.state = "out"
	// An attempt that begins in the very moment in which the breaker opens was let go before that:
	// no try, whose failure would keep the breaker open for longer.
	mode, probe := e.mode, e.open && !time.Now().Before(e.until)
	e.probing = e.probing || probe
	wait := m.until(mode)
	m.mu.Unlock()

	time.Sleep(wait)
	m.mu.Lock()
	defer m.mu.Unlock()
	if probe {
		e.probing = false
	}
	now := time.Now()
	if mode != "dead" && mode != "dying" {
		x.state, e.open, e.failures = "accepted", false, 0
		return deliver.Receipt{Status: 200}, nil
	}
	m.failed(x, e, probe, now)
	return deliver.Receipt{}, &deliver.Error{Code: record.ConnectionRefused}
}

// until says how long an attempt takes. No two end at the same moment: the lane may hear of such a
// pair in the other order than the model, and a failure behind a success is not one before it.
func (m *model) until(mode string) time.Duration {
	end := time.Now()
	if mode == "slow" || mode == "dying" {
		end = end.Add(300 * time.Millisecond)
	}
	for m.ends[end] {
		end = end.Add(time.Nanosecond)
	}
	m.ends[end] = true
	return time.Until(end)
}

// judge says whether an attempt may be made.
func (m *model) judge(x *modelMatch, e *modelEndpoint, n deliver.Notification) {
	now := time.Now()
	name := fmt.Sprintf("event %d of %s, round %d, attempt %d", n.Number, n.Subscription, x.round, n.Attempt)
	switch {
	case x.state != "pending":
		m.fault("%s: it is %s", name, x.state)
	case n.Attempt != x.attempts+1:
		m.fault("%s: it has %d attempts behind it", name, x.attempts)
	case n.Resend != (x.round > 0):
		m.fault("%s: resend is %v", name, n.Resend)
	case now.Before(x.notBefore):
		m.fault("%s: it waits %v longer", name, x.notBefore.Sub(now))
	case m.paused[x.Subscription]:
		m.fault("%s: the Subscription is paused", name)
	case m.halted.Load():
		m.fault("%s: all sending is stopped", name)
	case e.open && now.After(e.opened) && now.Before(e.until):
		m.fault("%s: the breaker is open for %v longer", name, e.until.Sub(now))
	case e.open && !now.Before(e.until) && e.probing:
		m.fault("%s: another attempt is finding out about the endpoint", name)
	}
	for _, y := range m.matches {
		if y == x || y.Birth != x.Birth || !x.strict && y.Key != x.Key {
			continue
		}
		if y.state == "out" {
			m.fault("%s: event %d of it is out", name, y.Number)
		}
		if y.state == "pending" && y.Number < x.Number {
			m.fault("%s: event %d is pending before it", name, y.Number)
		}
	}
}

func (m *model) failed(x *modelMatch, e *modelEndpoint, probe bool, now time.Time) {
	x.attempts++
	x.state = "pending"
	x.notBefore = now.Add([]time.Duration{modelFirst, modelSecond}[min(x.attempts, 2)-1])
	if x.attempts == modelAttempts {
		x.state = "dead"
	}
	if e.failures > 0 && now.Sub(e.last) > modelBreaker.Window {
		e.failures = 0
	}
	e.failures, e.last = e.failures+1, now
	switch {
	case e.open && probe:
		e.until = now.Add(modelBreaker.Open)
	case !e.open && e.failures >= modelBreaker.Failures:
		e.open, e.opened, e.until = true, now, now.Add(modelBreaker.Open)
	}
}

// finish checks that nothing is left, and that the log of outcomes says what the model saw.
func (m *model) finish(w *delivertest.World) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dead := map[record.MatchID]bool{}
	for _, l := range w.Letters() {
		dead[l.MatchID] = true
		if l.Attempts != modelAttempts {
			m.fault("the dead letter of event %d says %d attempts", l.Number, l.Attempts)
		}
	}
	last := map[record.MatchID]record.Outcome{}
	for _, o := range w.Outcomes() {
		if o.Code.IsAttempt() {
			last[o.MatchID] = o
		}
	}
	for _, x := range m.inOrder() {
		o := last[x.ID()]
		switch x.state {
		case "accepted":
			if o.Code != record.Accepted || o.Round != x.round || o.Attempt != x.attempts+1 {
				m.fault("event %d of %s was accepted in round %d after %d attempts, and the log says %+v", x.Number, x.Subscription, x.round, x.attempts, o)
			}
		case "dead":
			if !o.Dead || !dead[x.ID()] {
				m.fault("event %d of %s is dead, and the log says %+v", x.Number, x.Subscription, o)
			}
		default:
			m.fault("event %d of %s is left %s", x.Number, x.Subscription, x.state)
		}
	}
	if open := w.Open(); len(open) > 0 {
		m.fault("%d matches are left in the store", len(open))
	}
}
