package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// shelf is a turnBook in memory, shared by the nodes of a test.
type shelf struct {
	mu     sync.Mutex
	turns  map[string]turnRecord
	at     map[string]uint64
	writes int
}

func (s *shelf) read(_ context.Context, endpoint string) (turnRecord, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turns[endpoint], s.at[endpoint], nil
}

func (s *shelf) write(_ context.Context, endpoint string, r turnRecord, revision uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at[endpoint] != revision {
		return 0, errTurnMoved
	}
	s.writes++
	s.turns[endpoint] = r
	s.at[endpoint]++
	return s.at[endpoint], nil
}

// sender is a node with one lane that sends to a limited endpoint.
type sender struct {
	name   string
	turns  *turns
	world  *delivertest.World
	sub    deliver.Target
	gone   atomic.Bool // for the others
	frozen atomic.Bool // its lease has run out
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

// senders are the nodes of a cluster whose requests an endpoint counts.
type senders struct {
	t     *testing.T
	shelf *shelf
	nodes map[string]*sender
	takes time.Duration

	mu    sync.Mutex
	out   int
	most  int
	began []time.Time
	by    map[string]int
	order []string // of the turns, by node, while every node has something to send
	share int      // what each node has to send
}

const senderQuiet = 5 * time.Second

func newSenders(t *testing.T, limits deliver.Limits, takes time.Duration, names ...string) *senders {
	c := &senders{t: t, shelf: &shelf{turns: map[string]turnRecord{}, at: map[string]uint64{}}, nodes: map[string]*sender{}, takes: takes, by: map[string]int{}}
	for _, name := range names {
		c.nodes[name] = &sender{name: name}
	}
	for _, name := range names {
		c.start(c.nodes[name], limits)
	}
	return c
}

func (c *senders) start(s *sender, limits deliver.Limits) {
	t := newTurns(s.name, "life", slog.New(slog.DiscardHandler), func() time.Duration { return senderQuiet })
	s.turns, s.world = t, delivertest.NewWorld()
	t.book = c.shelf
	t.alive = func(node string) bool { return !c.nodes[node].gone.Load() }
	t.held = func() bool { return !s.frozen.Load() }
	t.publish = func(to string, ask turnAsk) {
		for name, other := range c.nodes {
			if (name == to || to == "") && !other.gone.Load() && other.turns != nil {
				what := "cede"
				if to == "" {
					what = "free"
				}
				other.turns.order(turnOrder{ask, what})
			}
		}
	}
	t.ends = deliver.NewEndpoints(deliver.EndpointsConfig{Breaker: deliver.Breaker{Failures: 20, Window: time.Minute, Open: 10 * time.Second}, Limits: func(*url.URL) deliver.Limits { return limits }, Turns: t})
	s.sub = s.world.Subscribe(deliver.Target{ID: fhir.ID(s.name), Endpoint: "https://host.example/", Policy: deliver.Policy{Attempts: 3}})
	cfg := s.world.Config(s.world.Owner(s.name), counted{c, s.name})
	cfg.Log, cfg.Endpoints, cfg.Allowed = slog.New(slog.DiscardHandler), t.ends, t.held
	lane, err := deliver.NewLane(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.ended.Go(func() { _ = t.run(ctx) })
	s.ended.Go(func() { _ = lane.Run(ctx) })
	synctest.Wait()
	s.world.Attach(lane)
}

func (c *senders) end() {
	for _, s := range c.nodes {
		s.stop()
	}
	for _, s := range c.nodes {
		s.ended.Wait()
	}
}

// counted is the endpoint as one node reaches it.
type counted struct {
	c    *senders
	node string
}

func (e counted) Send(ctx context.Context, _ deliver.Notification, _ deliver.Target) (deliver.Receipt, *deliver.Error) {
	c := e.c
	c.mu.Lock()
	c.out++
	c.most = max(c.most, c.out)
	c.began = append(c.began, time.Now())
	c.by[e.node]++
	c.noteTurn(e.node)
	c.mu.Unlock()
	time.Sleep(c.takes)
	c.mu.Lock()
	c.out--
	c.mu.Unlock()
	return deliver.Receipt{Status: 200}, nil
}

func (c *senders) noteTurn(node string) {
	for _, sent := range c.by {
		if sent >= c.share {
			return
		}
	}
	if n := len(c.order); n == 0 || c.order[n-1] != node {
		c.order = append(c.order, node)
	}
}

func (c *senders) match(node string, n int) {
	for i := range n {
		c.nodes[node].world.Match(c.nodes[node].sub, fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprintf("p%d", i))}, fhir.Update)
	}
}

func (c *senders) open() (n int) {
	for _, s := range c.nodes {
		n += len(s.world.Open())
	}
	return n
}

// sent is how many requests of a node the endpoint has seen.
func (c *senders) sent(node string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[node]
}

func TestALimitHoldsForAllNodesTogetherAndTheyTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSenders(t, deliver.Limits{Concurrency: 3, Rate: 20}, 100*time.Millisecond, "n1", "n2", "n3")
		c.mu.Lock()
		c.share = 100
		c.mu.Unlock()
		for name := range c.nodes {
			c.match(name, c.share)
		}
		time.Sleep(time.Minute)
		if n := c.open(); n != 0 {
			t.Errorf("%d are pending", n)
		}
		c.end()
		if c.most > 3 {
			t.Errorf("%d were out at once", c.most)
		}
		if len(c.order) < 6 {
			t.Errorf("the turns were %q", c.order)
		}
		for i := 2; i < len(c.order); i++ { // nobody twice before everybody else
			if c.order[i] == c.order[i-2] {
				t.Errorf("the turns were %q", c.order)
				break
			}
		}
		for i := range c.began {
			if i+20 < len(c.began) && c.began[i+20].Sub(c.began[i]) < time.Second-time.Millisecond {
				t.Fatalf("21 began within %v", c.began[i+20].Sub(c.began[i]))
			}
		}
	})
}

// What is told to turns may be lost: its queue of orders is bounded.
func TestATurnThatWasGivenBackInAFullQueueIsFree(t *testing.T) {
	shelf := &shelf{turns: map[string]turnRecord{aLimited: {Endpoint: aLimited, Holder: "n1"}}, at: map[string]uint64{aLimited: 1}}
	n1 := newTurns("n1", "life", slog.New(slog.DiscardHandler), func() time.Duration { return senderQuiet })
	n1.orders = make(chan turnOrder) // takes none
	n1.book, n1.publish = shelf, func(string, turnAsk) {}
	n1.ends = deliver.NewEndpoints(deliver.EndpointsConfig{Turns: n1})
	n1.mine[aLimited] = &holding{revision: 1, asked: map[string]time.Time{}}
	n1.Done(aLimited)
	n1.reconcile(t.Context())
	if r := shelf.turns[aLimited]; r.Holder != "" || len(n1.mine)+len(n1.given) != 0 {
		t.Errorf("it stands as %+v, and the node has %v", r, n1.mine)
	}
}

const aLimited = "https://host.example:443"

func TestATurnIsNotFreedWhileRequestsAreOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSenders(t, deliver.Limits{Concurrency: 1}, 20*time.Second, "n1", "n2")
		c.match("n1", 1)
		time.Sleep(time.Second)
		// Its lease runs out and is good again while its request is out; nobody finds it gone.
		c.nodes["n1"].frozen.Store(true)
		time.Sleep(time.Second)
		c.nodes["n1"].frozen.Store(false)
		time.Sleep(time.Second)
		c.match("n2", 1)
		time.Sleep(5 * time.Minute)
		n := c.open()
		c.end()
		if n != 0 || c.most != 1 {
			t.Errorf("%d pending, %d were out at once", n, c.most)
		}
	})
}

func TestALimitThatComesWhileSubscriptionsWaitIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSenders(t, deliver.Limits{}, 10*time.Millisecond, "n1")
		n1 := c.nodes["n1"]
		n1.turns.ends.OpenedElsewhere(aLimited, time.Now(), time.Now().Add(10*time.Second), 0)
		c.match("n1", 3)
		time.Sleep(time.Second)
		n1.turns.ends.SetLimits(func(*url.URL) deliver.Limits { return deliver.Limits{Concurrency: 1} })
		time.Sleep(time.Hour)
		n := c.open()
		c.end()
		if n != 0 {
			t.Errorf("%d wait for a turn that nobody has asked for", n)
		}
	})
}

func TestATurnThatNobodyElseWantsStaysWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSenders(t, deliver.Limits{Concurrency: 1}, 10*time.Millisecond, "n1", "n2")
		c.match("n1", 100)
		time.Sleep(time.Minute)
		c.match("n1", 100)
		time.Sleep(time.Minute)
		c.shelf.mu.Lock()
		writes := c.shelf.writes
		c.shelf.mu.Unlock()
		if n := c.open(); n != 0 || writes != 1 {
			t.Errorf("%d pending, the turn was written %d times", n, writes)
		}
		c.end()
	})
}

func TestTheTurnOfANodeThatIsGoneIsTakenWhenItsAttemptsHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSenders(t, deliver.Limits{Concurrency: 1}, 4*time.Second, "n1", "n2")
		c.match("n1", 1)
		time.Sleep(time.Second)
		c.match("n1", 10) // its attempt is under way
		c.nodes["n1"].frozen.Store(true)
		c.nodes["n1"].gone.Store(true)
		c.match("n2", 1)
		time.Sleep(senderQuiet)
		if c.sent("n2") != 0 {
			t.Error("taken while an attempt of the node that is gone could be under way")
		}
		time.Sleep(3 * time.Second)
		if c.sent("n2") != 1 {
			t.Error("not taken")
		}
		// It is back, and finds that its turn is another's.
		c.nodes["n1"].gone.Store(false)
		c.nodes["n1"].frozen.Store(false)
		time.Sleep(2 * time.Minute)
		n := c.open()
		c.end()
		if n != 0 || c.most != 1 {
			t.Errorf("%d pending, %d were out at once", n, c.most)
		}
	})
}

func TestTurnsAreKeptInABucketByCompareAndSet(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	b := &turnBucket{js: r.server.JetStream(), replicas: 1}
	const endpoint = "https://host.example:443"
	if rec, revision, err := b.read(t.Context(), endpoint); err != nil || revision != 0 || rec.Holder != "" {
		t.Fatalf("%+v %d %v", rec, revision, err)
	}
	first, err := b.write(t.Context(), endpoint, turnRecord{Endpoint: endpoint, Holder: "n1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, stale := range []uint64{0, first + 7} {
		if _, err := b.write(t.Context(), endpoint, turnRecord{Holder: "n2"}, stale); err != errTurnMoved {
			t.Errorf("with revision %d: %v", stale, err)
		}
	}
	second, err := b.write(t.Context(), endpoint, turnRecord{Endpoint: endpoint}, first)
	if err != nil {
		t.Fatal(err)
	}
	// Another process of the node, or another node, finds it.
	again := &turnBucket{js: r.server.JetStream(), replicas: 1}
	if rec, revision, err := again.read(t.Context(), endpoint); err != nil || revision != second || rec.Holder != "" || rec.Endpoint != endpoint {
		t.Errorf("%+v %d %v", rec, revision, err)
	}
}
