package deliver_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// TestWhateverHappensEveryMatchEndsOnceInOrder plays random lives: events, failing and slow
// endpoints, refused and unanswered appends, lost and doubled tokens, kills, stops, other owners,
// pauses, withdrawals and replays. When the storm is over, every match must have ended with
// exactly one final outcome for each round, after consecutive attempts, in order per resource.
func TestWhateverHappensEveryMatchEndsOnceInOrder(t *testing.T) {
	lives := 60
	if testing.Short() {
		lives = 15
	}
	for seed := range lives {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			play(t, func(c *deliver.Config) { c.Places, c.Window = 30, 8 }, func(s *scene) {
				(&storm{scene: s, rand: rand.New(rand.NewPCG(uint64(seed), 7))}).run()
			})
		})
	}
}

type storm struct {
	*scene
	rand    *rand.Rand
	subs    []deliver.Target
	ids     []record.MatchID
	calm    atomic.Bool
	threats chan int
}

func (s *storm) run() {
	// Numbers for the goroutines of the lane are drawn ahead, since rand is not safe for many.
	s.threats = make(chan int, 4096)
	refill := func() {
		for len(s.threats) < cap(s.threats)/2 {
			s.threats <- s.rand.IntN(100)
		}
	}
	refill()
	draw := func() int {
		select {
		case n := <-s.threats:
			return n
		default:
			return 99
		}
	}
	s.answer(func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error) {
		switch x := draw(); {
		case s.calm.Load() || x >= 50:
			return time.Duration(x) * time.Millisecond, nil
		case x < 5:
			return 3 * time.Second, nil
		case x < 8:
			return time.Hour, nil // until the timeout
		}
		return broken(n, t)
	})
	s.world.Appending = func([]record.Outcome) error {
		switch x := draw(); {
		case s.calm.Load() || x >= 15:
			return nil
		case x < 5:
			return delivertest.ErrUnanswered
		}
		return errors.New("no quorum")
	}
	s.world.FoldAfter = 300 * time.Millisecond
	for i := range 3 {
		sub := subscription(fhir.ID(fmt.Sprintf("s%d", i)), deliver.Policy{Attempts: 1 + s.rand.IntN(4), Schedule: []time.Duration{time.Second, 20 * time.Second}})
		if i == 2 {
			sub.Order = deliver.OrderStrict
		}
		s.subs = append(s.subs, s.world.Subscribe(sub))
	}
	s.start("n0")
	for range 150 {
		refill()
		s.step()
	}
	s.calm.Store(true)
	for _, sub := range s.subs {
		s.world.Set(sub, deliver.Sendable)
	}
	s.after(time.Hour)
	s.check()
}

func (s *storm) step() {
	sub := s.subs[s.rand.IntN(len(s.subs))]
	switch x := s.rand.IntN(100); {
	case x < 60:
		for range 1 + s.rand.IntN(6) {
			s.ids = append(s.ids, s.world.Match(sub, patient(s.rand.IntN(6)), fhir.Update).ID())
		}
	case x < 65:
		s.world.LoseTokens(1 + s.rand.IntN(3))
	case x < 68:
		s.world.CopyTokens(s.rand.IntN(2))
	case x < 72:
		s.kill()
		s.start(fmt.Sprintf("n%d", s.rand.IntN(2)))
	case x < 75:
		s.stop()
		s.start(fmt.Sprintf("n%d", s.rand.IntN(2)))
	case x < 80:
		s.world.Set(sub, deliver.Held)
	case x < 90:
		s.world.Set(sub, deliver.Sendable)
	case x < 92:
		s.world.Set(sub, deliver.Withdrawn)
	case len(s.ids) > 0:
		for range 1 + s.rand.IntN(10) {
			id := s.ids[s.rand.IntN(len(s.ids))]
			if _, open, _ := s.world.MatchByID(id); !open {
				s.world.Replay(id)
			}
		}
	}
	s.after(time.Duration(s.rand.IntN(3000)) * time.Millisecond)
}

// check reads the outcome log as the store does: what follows a final outcome of a round is an
// append that was repeated, and ignored.
func (s *storm) check() {
	if open := s.world.Open(); len(open) != 0 {
		s.t.Errorf("%d matches are still pending, first %v; lane %+v", len(open), open[0], s.lane.Status())
	}
	type round struct {
		record.MatchID
		round int
	}
	attempts, ended := map[round]int{}, map[round]bool{}
	dead := map[record.MatchID]int{}
	through := map[record.Sequence]fhir.EventNumber{}
	for _, o := range s.world.Outcomes() {
		if o.Through > 0 {
			through[o.Birth] = max(through[o.Birth], o.Through)
			continue
		}
		k := round{o.MatchID, o.Round}
		if ended[k] || o.Attempt == attempts[k] {
			continue // the repetition of an append
		}
		if o.Attempt != attempts[k]+1 {
			s.t.Errorf("match %v round %d: attempt %d after %d", o.MatchID, o.Round, o.Attempt, attempts[k])
		}
		attempts[k], ended[k] = o.Attempt, o.Final
		if o.Dead {
			dead[o.MatchID]++
		}
	}
	for _, l := range s.world.Letters() {
		dead[l.MatchID]--
	}
	for id, n := range dead {
		if n > 0 {
			s.t.Errorf("match %v ended dead without a letter", id)
		}
	}
	for _, id := range s.ids {
		m, _, _ := s.world.MatchByID(id)
		if !ended[round{id, m.Round}] && m.Number > through[id.Birth] {
			s.t.Errorf("match %v round %d left pending without an outcome", id, m.Round)
		}
	}
	s.checkOrder()
}

// checkOrder looks at first rounds: the first arrival of a match comes after the last one of
// each earlier match of its resource. Repeats after a kill are of matches that were not recorded, so
// they too come before what is behind them.
func (s *storm) checkOrder() {
	last := map[string]fhir.EventNumber{}
	for _, a := range s.receiver.Arrivals() {
		if a.Resend {
			continue
		}
		key := fmt.Sprint(a.Birth, a.Key)
		if a.Subscription == "s2" {
			key = fmt.Sprint(a.Birth) // strict
		}
		if a.Number < last[key] {
			s.t.Errorf("event %d of %s came after event %d", a.Number, key, last[key])
		}
		last[key] = a.Number
	}
	synctest.Wait()
}
