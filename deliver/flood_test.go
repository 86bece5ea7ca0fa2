package deliver_test

import (
	"cmp"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// The flood: so many events, of so many resources, to an endpoint that is dead.
const (
	flood          = 50_000
	floodResources = 500
	// floodLoaded is how many matches of one Subscription may be in memory: 4,096 that failed, and
	// the windows of what is ready.
	floodLoaded = 4096
)

var breaking = deliver.Breaker{Failures: 20, Window: time.Minute, Open: 10 * time.Second}

// pour makes the events in blocks, and looks at the lane meanwhile.
func pour(s *scene, dead deliver.Target, look func()) {
	const block = 500
	for i := 0; i < flood; i += block {
		keys := make([]fhir.Key, block)
		for j := range keys {
			keys[j] = patient((i + j) % floodResources)
		}
		s.world.Matches(dead, fhir.Update, keys...)
		s.after(100 * time.Millisecond)
		look()
	}
}

// drowning is a lane with a dead endpoint, and one with another that lives.
type drowning struct {
	*scene
	up     atomic.Bool
	dead   deliver.Target
	other  deliver.Target
	most   int // matches in memory, of both
	others int
	// atOther is when the other Subscription's last notification arrived.
	atOther atomic.Pointer[time.Time]
}

func drown(t *testing.T, breaker deliver.Breaker, policy deliver.Policy, act func(*drowning)) {
	play(t, shared(deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: breaker})), func(s *scene) {
		d := &drowning{scene: s}
		s.answer(func(n deliver.Notification, t deliver.Target) (time.Duration, *deliver.Error) {
			if n.Subscription == "dead" && !d.up.Load() {
				return time.Millisecond, &deliver.Error{Code: record.ConnectionRefused}
			}
			if n.Subscription == "other" {
				now := time.Now()
				d.atOther.Store(&now)
			}
			return time.Millisecond, nil
		})
		d.dead = s.world.Subscribe(subscription("dead", policy))
		other := subscription("other", quick)
		other.Endpoint = "https://other.example/"
		d.other = s.world.Subscribe(other)
		s.start("n1")
		act(d)
	})
}

// look checks that the healthy one gets its notification at once, and notes what is in memory.
func (d *drowning) look() {
	d.others++
	p := d.world.Match(d.other, patient(d.others), fhir.Update)
	synctest.Wait()
	if at := d.atOther.Load(); at == nil || !at.Equal(p.EventTime) {
		d.t.Fatalf("the other Subscription's notification %d did not go at once: the last one was at %v", d.others, at)
	}
	d.most = max(d.most, d.lane.Status().Loaded)
}

func (d *drowning) wait(each time.Duration, times int) {
	for range times {
		d.after(each)
		d.look()
	}
}

// accepted are the last outcomes of the flood's matches by what they say.
func (d *drowning) ended() (delivered, dead map[record.MatchID]bool) {
	delivered, dead = map[record.MatchID]bool{}, map[record.MatchID]bool{}
	for _, o := range d.world.Outcomes() {
		switch {
		case o.Subscription != "dead" || !o.Final:
		case o.Code == record.Accepted:
			delivered[o.MatchID] = true
			delete(dead, o.MatchID)
		case o.Dead:
			dead[o.MatchID] = true
		}
	}
	return delivered, dead
}

// inOrder checks that the first arrival of a match that was accepted comes behind all earlier ones
// of its resource.
func (d *drowning) inOrder(arrivals []delivertest.Arrival, from int) {
	last := map[fhir.Key]fhir.EventNumber{}
	for _, a := range arrivals[from:] {
		if a.Subscription != "dead" {
			continue
		}
		if a.Number < last[a.Key] {
			d.t.Fatalf("event %d of %s came after event %d", a.Number, a.Key, last[a.Key])
		}
		last[a.Key] = a.Number
	}
}

func TestAFloodToADeadEndpointWithUnlimitedAttemptsIsDeliveredInOrderWhenItIsBack(t *testing.T) {
	for _, tc := range []struct {
		name    string
		breaker deliver.Breaker
	}{{"with a breaker", breaking}, {"without", deliver.Breaker{}}} {
		t.Run(tc.name, func(t *testing.T) {
			drown(t, tc.breaker, deliver.Policy{Schedule: []time.Duration{5 * time.Second, time.Minute}}, func(d *drowning) {
				pour(d.scene, d.dead, d.look)
				d.wait(time.Minute, 10)
				if d.most > floodLoaded+128 {
					t.Errorf("%d matches were in memory", d.most)
				}
				if n := len(d.world.Letters()); n != 0 {
					t.Errorf("%d dead letters", n)
				}
				before := len(d.receiver.Arrivals())
				d.up.Store(true)
				d.wait(time.Minute, 5)
				for i := 0; i < 60 && len(d.world.Open()) > 0; i++ {
					d.after(time.Minute)
				}
				delivered, _ := d.ended()
				if len(delivered) != flood {
					t.Errorf("%d were delivered, lane %+v", len(delivered), d.lane.Status())
				}
				d.inOrder(d.receiver.Arrivals(), before)
				if d.most > floodLoaded+128 {
					t.Errorf("%d matches were in memory", d.most)
				}
			})
		})
	}
}

func TestAFloodWithThreeAttemptsIsDeliveredOrDeadAndOneReplayDeliversTheRest(t *testing.T) {
	for _, tc := range []struct {
		name    string
		breaker deliver.Breaker
		outage  int // minutes: with a breaker hardly an attempt is spent in a short one
	}{{"with a breaker", breaking, 30}, {"without", deliver.Breaker{}, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			drown(t, tc.breaker, deliver.Policy{Attempts: 3, Schedule: []time.Duration{time.Second, 5 * time.Second}}, func(d *drowning) {
				pour(d.scene, d.dead, d.look)
				d.wait(time.Minute, tc.outage)
				d.up.Store(true)
				for i := 0; i < 100 && len(d.world.Open()) > 0; i++ {
					d.wait(time.Minute, 1)
				}
				delivered, dead := d.ended()
				if len(delivered)+len(dead) != flood || len(dead) == 0 {
					t.Fatalf("%d delivered and %d dead of %d", len(delivered), len(dead), flood)
				}
				if n := len(d.world.Letters()); n != len(dead) {
					t.Errorf("%d dead letters for %d dead matches", n, len(dead))
				}
				t.Logf("%d delivered, %d dead, at most %d in memory", len(delivered), len(dead), d.most)
				before := len(d.receiver.Arrivals())
				var again []record.MatchID
				for id := range dead {
					again = append(again, id)
				}
				slices.SortFunc(again, func(a, b record.MatchID) int { return cmp.Compare(a.Event, b.Event) })
				d.world.Replay(again...)
				for i := 0; i < 100 && len(d.world.Open()) > 0; i++ {
					d.wait(time.Minute, 1)
				}
				delivered, dead = d.ended()
				if len(delivered) != flood || len(dead) != 0 {
					t.Errorf("after the replay %d are delivered and %d dead of %d", len(delivered), len(dead), flood)
				}
				d.inOrder(d.receiver.Arrivals(), before)
				if d.most > floodLoaded+256 {
					t.Errorf("%d matches were in memory", d.most)
				}
			})
		})
	}
}
