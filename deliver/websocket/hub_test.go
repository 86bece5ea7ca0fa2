package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ws "github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/websocket"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node as far as a Hub sees it: Subscriptions s, t and so on, of birth 3, and tokens.
type world struct {
	t   *testing.T
	hub *websocket.Hub
	url string

	mu      sync.Mutex
	birth   map[fhir.ID]record.Sequence // of those that may be bound to
	gone    map[fhir.ID]string          // why a Subscription may not
	revoked map[string]bool
	cutOff  error
	pinged  int
	ended   []string
}

func newWorld(t *testing.T, adjust ...func(*websocket.Options)) *world {
	t.Helper()
	w := &world{t: t, birth: map[fhir.ID]record.Sequence{"s": 3, "t": 3}, gone: map[fhir.ID]string{}, revoked: map[string]bool{}}
	o := websocket.Options{
		Bind: func(_ context.Context, id fhir.ID) (record.Sequence, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if b, ok := w.birth[id]; ok && w.gone[id] == "" {
				return b, nil
			}
			return 0, fmt.Errorf("Subscription/%s is not known", id)
		},
		Bound: func(id fhir.ID, birth record.Sequence) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.gone[id] != "" || w.birth[id] != birth {
				return errors.New("Subscription/" + string(id) + " " + w.gone[id])
			}
			return nil
		},
		Login: func(token string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.revoked[token] {
				return errors.New("the API token was revoked")
			}
			return nil
		},
		Serving: func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.cutOff
		},
		Log: slog.New(slog.DiscardHandler),
		Observer: websocket.Observer{
			Pinged: func() { w.mu.Lock(); w.pinged++; w.mu.Unlock() },
			Ended:  func(cause string) { w.mu.Lock(); w.ended = append(w.ended, cause); w.mu.Unlock() },
		},
		Sweep: 5 * time.Millisecond,
	}
	for _, f := range adjust {
		f(&o)
	}
	w.hub = websocket.NewHub(o)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if err := w.hub.Serve(rw, r, r.Header.Get("Token")); err != nil {
			http.Error(rw, err.Error(), http.StatusServiceUnavailable)
		}
	}))
	w.url = "ws" + strings.TrimPrefix(server.URL, "http")
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.hub.Run(ctx) }()
	t.Cleanup(func() {
		w.hub.Close()
		stop()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		server.Close()
	})
	return w
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) pings() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pinged
}

func (w *world) ping(id fhir.ID) int {
	w.t.Helper()
	n, err := w.hub.Ping(w.t.Context(), id, 3)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// client is one websocket.
type client struct {
	t    *testing.T
	conn *ws.Conn
}

func (w *world) connect(headers ...string) *client {
	w.t.Helper()
	conn, err := w.dial(headers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return &client{w.t, conn}
}

func (w *world) dial(headers ...string) (*ws.Conn, error) {
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	conn, _, err := ws.Dial(w.t.Context(), w.url, &ws.DialOptions{HTTPHeader: h})
	if err == nil {
		w.t.Cleanup(func() { conn.CloseNow() })
	}
	return conn, err
}

func (c *client) say(text string) {
	c.t.Helper()
	if err := c.conn.Write(c.t.Context(), ws.MessageText, []byte(text)); err != nil {
		c.t.Fatalf("say %q: %v", text, err)
	}
}

// hear wants these messages next.
func (c *client) hear(want ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	for _, text := range want {
		_, data, err := c.conn.Read(ctx)
		if err != nil {
			c.t.Fatalf("waiting for %q: %v", text, err)
		}
		if string(data) != text {
			c.t.Fatalf("heard %q, want %q", data, text)
		}
	}
}

// closed wants the connection closed with a code and a reason, whatever is said before.
func (c *client) closed(code ws.StatusCode, reason string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, data, err := c.conn.Read(ctx)
		if err == nil {
			continue
		}
		var end ws.CloseError
		if !errors.As(err, &end) || end.Code != code || !strings.Contains(end.Reason, reason) {
			c.t.Fatalf("closed with %v after %q, want %d with %q", err, data, code, reason)
		}
		return
	}
}

func (w *world) bound(binds ...string) *client {
	w.t.Helper()
	c := w.connect()
	for _, id := range binds {
		c.say("bind " + id)
		c.hear("bound " + id)
	}
	return c
}

// HAPI's WebsocketWithSubscriptionIdR4Test and WebsocketWithCriteriaR4Test: what matches gives a
// ping, what does not gives none.
func TestASocketHearsWhatItsSubscriptionsHear(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	c.say("bind Subscription/s")
	c.hear("bound s")
	if n := w.ping("t"); n != 0 {
		t.Errorf("%d sockets were pinged for a Subscription that none is bound to", n)
	}
	w.ping("s")
	w.ping("s")
	c.hear("ping s", "ping s")
	if n, _ := w.hub.Ping(t.Context(), "s", 4); n != 0 {
		t.Error("a socket was pinged for another life of its Subscription")
	}
}

func TestManySocketsOfOneSubscriptionAndManySubscriptionsOfOneSocket(t *testing.T) {
	w := newWorld(t)
	both, one, other := w.bound("s", "t"), w.bound("s"), w.bound("t")
	if n := w.ping("s"); n != 2 {
		t.Errorf("%d were pinged, want 2", n)
	}
	w.ping("t")
	both.hear("ping s", "ping t")
	one.hear("ping s")
	other.hear("ping t")
	one.say("bind s") // once more
	one.hear("bound s")
	w.ping("s")
	one.hear("ping s")
	// The close of one is no business of the others (Medplum's second socket dies with the first).
	both.conn.Close(ws.StatusNormalClosure, "")
	one.say("bind t")
	one.hear("bound t")
	w.ping("t")
	one.hear("ping t")
	other.hear("ping t")
}

// HAPI's WebsocketConnectionValidatorTest, and what its handler says.
func TestABindThatCannotBeClosesWithAReason(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, tc := range []struct {
		say    string
		code   ws.StatusCode
		reason string
	}{
		{"bind", ws.StatusProtocolError, "bind names no Subscription"},
		{"bind ", ws.StatusProtocolError, "bind names no Subscription"},
		{"bind Subscription/", ws.StatusProtocolError, "bind names no Subscription"},
		{"bind nobody", ws.StatusProtocolError, "Subscription/nobody is not known"},
		{"bind " + long, ws.StatusProtocolError, "is not known"},
		{"bind Observation?code=1", ws.StatusProtocolError, "takes the id of a Subscription"},
		{"bind a b", ws.StatusProtocolError, "takes the id of a Subscription"},
		{strings.Repeat("y", 2000), ws.StatusMessageTooBig, ""},
	} {
		t.Run(clip(tc.say), func(t *testing.T) {
			w := newWorld(t)
			c := w.connect()
			c.say(tc.say)
			c.closed(tc.code, tc.reason)
		})
	}
	t.Run("bytes", func(t *testing.T) {
		c := newWorld(t).connect()
		if err := c.conn.Write(t.Context(), ws.MessageBinary, []byte("bind s")); err != nil {
			t.Fatal(err)
		}
		c.closed(ws.StatusUnsupportedData, "as text")
	})
	t.Run("a long reason is cut where it may be", func(t *testing.T) {
		w := newWorld(t, func(o *websocket.Options) {
			o.Bind = func(context.Context, fhir.ID) (record.Sequence, error) {
				return 0, errors.New(strings.Repeat("ä", 100))
			}
		})
		c := w.connect()
		c.say("bind s")
		c.closed(ws.StatusProtocolError, strings.Repeat("ä", 60)+"…")
	})
}

func clip(s string) string { return s[:min(len(s), 24)] }

func TestWhatIsNotABindIsAnswered(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	c.say("hello") // HAPI says nothing to this
	c.hear("Unexpected client message: hello")
	c.say("binding s")
	c.hear("Unexpected client message: binding s")
	c.say(" bind  s \n")
	c.hear("bound s")
	c.say("ping") // and this to that
	c.hear("Unexpected client message: ping")
}

// HAPI's socket keeps an old copy and falls silent after any edit.
func TestAChangedSubscriptionKeepsItsSockets(t *testing.T) {
	w := newWorld(t)
	c := w.bound("s")
	w.hub.Changed("s")
	w.ping("s")
	c.hear("ping s")
}

func TestASubscriptionThatIsGoneClosesItsSockets(t *testing.T) {
	for _, tc := range []struct {
		name string
		tell func(*world)
	}{
		{"told", func(w *world) { w.hub.Changed("s") }},
		{"not told, found by the sweep", func(*world) {}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			c, other := w.bound("s"), w.bound("t")
			w.set(func() { w.gone["s"] = "was deleted" })
			tc.tell(w)
			c.closed(ws.StatusNormalClosure, "Subscription/s was deleted")
			if n := w.ping("s"); n != 0 {
				t.Errorf("%d sockets are bound still", n)
			}
			w.ping("t")
			other.hear("ping t")
		})
	}
	t.Run("and born again", func(t *testing.T) {
		w := newWorld(t)
		c := w.bound("s")
		w.set(func() { w.birth["s"] = 9 })
		w.hub.Changed("s")
		c.closed(ws.StatusNormalClosure, "Subscription/s")
	})
}

func TestARevokedTokenClosesItsSockets(t *testing.T) {
	w := newWorld(t)
	c, other := w.connect("Token", "a"), w.connect("Token", "b")
	c.say("bind s")
	c.hear("bound s")
	w.set(func() { w.revoked["a"] = true })
	c.closed(ws.StatusPolicyViolation, "token was revoked")
	other.say("bind s")
	other.hear("bound s")
}

func TestANodeThatIsCutOffSendsItsClientsAway(t *testing.T) {
	w := newWorld(t)
	c := w.bound("s")
	w.set(func() { w.cutOff = errors.New("this node is cut off") })
	c.closed(ws.StatusTryAgainLater, "cut off")
	if _, err := w.dial(); err == nil {
		t.Error("it takes new ones")
	}
	w.set(func() { w.cutOff = nil })
	w.bound("s")
}

func TestAStopSaysSo(t *testing.T) {
	w := newWorld(t)
	c := w.bound("s")
	stopped := make(chan struct{})
	go func() { w.hub.Close(); close(stopped) }()
	c.closed(ws.StatusGoingAway, "stopping")
	<-stopped
	if _, err := w.dial(); err == nil {
		t.Error("a stopped hub takes new sockets")
	}
}

func TestAStopWaitsForNobodyWhoDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	w.bound("s") // and reads no more
	stopped := make(chan struct{})
	go func() { w.hub.Close(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		t.Fatal("the stop waits")
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t, func(o *websocket.Options) { o.Sockets, o.PerSubscription = 3, 1 })
	first := w.bound("s")
	second := w.connect()
	second.say("bind s")
	second.closed(ws.StatusTryAgainLater, "Subscription/s has 1 sockets")
	w.bound("t")
	first.say("bind s") // it is bound, and one more time is no more
	first.hear("bound s")
	first.conn.Close(ws.StatusNormalClosure, "")
	await(t, "one socket", func() bool { return w.hub.Open() == 1 })
	w.bound("s")
	w.connect()
	if _, err := w.dial(); err == nil {
		t.Error("a fourth socket was opened")
	}
}

// await polls what no event tells of.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// A client that is there and reads nothing is told why it is cut off, once it reads.
func TestASilentClientIsCutOffWithAReason(t *testing.T) {
	w := newWorld(t, func(o *websocket.Options) { o.KeepAlive, o.PongWait = 20*time.Millisecond, 20*time.Millisecond })
	c := w.connect()
	c.say("bind s") // its reader, which would answer pings, does not run
	await(t, "end of the silent socket", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Contains(w.ended, "silent")
	})
	c.closed(ws.StatusPolicyViolation, "reads too slowly")
}

func TestAClientThatAnswersPingsStays(t *testing.T) {
	w := newWorld(t, func(o *websocket.Options) { o.KeepAlive = time.Millisecond })
	var asked atomic.Int32
	conn, _, err := ws.Dial(t.Context(), w.url, &ws.DialOptions{OnPingReceived: func(context.Context, []byte) bool {
		asked.Add(1)
		return true
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	c := &client{t, conn}
	c.say("bind s")
	c.hear("bound s")
	heard := make(chan error, 1)
	go func() {
		_, data, err := c.conn.Read(t.Context()) // which answers pings meanwhile
		if err == nil && string(data) != "ping s" {
			err = fmt.Errorf("heard %q", data)
		}
		heard <- err
	}()
	await(t, "pings of the protocol", func() bool { return asked.Load() >= 10 })
	w.ping("s")
	if err := <-heard; err != nil {
		t.Error(err)
	}
}

// A client whose connection takes no more is cut without a word, for none gets through; meanwhile
// its queue stays bounded, nobody waits for it, and others hear everything.
func TestASlowReaderHurtsNobodyElse(t *testing.T) {
	narrow := &narrowListener{}
	w := newWorld(t, func(o *websocket.Options) { o.WriteWait = 300 * time.Millisecond })
	id := fhir.ID(strings.Repeat("s", 64))
	w.birth[id] = 3
	narrow.serve(t, w)
	slow := &client{t, narrow.dial(t)}
	slow.say("bind " + string(id))
	slow.hear("bound " + string(id))
	quick := w.bound(string(id))
	heard := make(chan int, 1)
	go func() {
		n := 0
		for {
			if _, _, err := quick.conn.Read(context.Background()); err != nil {
				heard <- n
				return
			}
			n++
		}
	}()
	await(t, "end of the slow socket", func() bool {
		for range 1000 { // whatever its buffers hold
			w.ping(id)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Contains(w.ended, "slow")
	})
	if n := w.ping(id); n != 1 {
		t.Errorf("%d sockets are bound, want the quick one", n)
	}
	w.hub.Close()
	if n := <-heard; n == 0 {
		t.Error("the quick one heard nothing")
	}
}

// narrowListener serves a world with connections whose buffers are small, so that a client that
// does not read is noticed.
type narrowListener struct {
	net.Listener
	addr string
}

func (l *narrowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetWriteBuffer(4 << 10)
	}
	return c, err
}

func (l *narrowListener) serve(t *testing.T, w *world) {
	var err error
	if l.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l.addr = l.Listener.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.hub.Serve(rw, r, "") })}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

func (l *narrowListener) dial(t *testing.T) *ws.Conn {
	dialer := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return c, err
	}}}
	conn, _, err := ws.Dial(t.Context(), "ws://"+l.addr, &ws.DialOptions{HTTPClient: dialer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

// While few pings wait none is left out; while many do, one of each Subscription is kept.
func TestPingsAreLeftOutOnlyWhereManyWait(t *testing.T) {
	w := newWorld(t)
	c := w.bound("s", "t")
	for range 200 {
		w.ping("s")
	}
	for range 200 {
		c.hear("ping s")
	}
	for range 100_000 { // nobody reads
		w.ping("s")
	}
	w.ping("t")
	for {
		_, data, err := c.conn.Read(t.Context())
		if err != nil {
			t.Fatalf("no ping of t: %v", err)
		}
		if string(data) == "ping t" {
			return
		}
	}
}

func TestAMissedMomentPingsAll(t *testing.T) {
	w := newWorld(t)
	c, other := w.bound("s"), w.bound("t")
	w.hub.PingAll()
	c.hear("ping s")
	other.hear("ping t")
}

// bus is the way to other nodes: it can be made to give no answer.
type bus struct {
	hub    *websocket.Hub
	mu     sync.Mutex
	silent bool
}

func (b *bus) Ping(ctx context.Context, id fhir.ID, birth record.Sequence) (int, error) {
	b.mu.Lock()
	silent := b.silent
	b.mu.Unlock()
	if silent {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return b.hub.Ping(ctx, id, birth)
}

func TestEveryChannelsPromises(t *testing.T) {
	delivertest.TestChannel(t, func(t *testing.T) delivertest.Subject {
		w := newWorld(t)
		b := &bus{hub: w.hub}
		c := w.bound("s")
		var mu sync.Mutex
		received := 0
		go func() {
			for {
				if _, _, err := c.conn.Read(context.Background()); err != nil {
					return
				}
				mu.Lock()
				received++
				mu.Unlock()
			}
		}()
		return delivertest.Subject{
			Channel: websocket.NewChannel(b),
			Target:  deliver.Target{ID: "s", Birth: 3, ChannelType: websocket.Type, Headers: []string{"Authorization: Bearer canary:secret"}},
			Skips:   true,
			Behave: func(wanted delivertest.Wanted) {
				b.mu.Lock()
				b.silent = wanted == delivertest.Silence
				b.mu.Unlock()
				if wanted == delivertest.Refuse || wanted == delivertest.Absent {
					c.conn.CloseNow()
					await(t, "end of the socket", func() bool { return w.hub.Bound("s") == 0 })
				}
			},
			Received: func() int {
				await(t, "ping", func() bool {
					mu.Lock()
					defer mu.Unlock()
					return received == w.pings()
				})
				return w.pings()
			},
		}
	})
}

// Everything at once: nothing is lost for a socket that stays, and nothing is left behind.
func TestSocketsComeAndGoWhileThereArePings(t *testing.T) {
	w := newWorld(t)
	steady := w.bound("s")
	const pings = 2000
	heard := make(chan error, 1)
	var count atomic.Int32
	go func() {
		for range pings {
			if _, data, err := steady.conn.Read(t.Context()); err != nil || string(data) != "ping s" {
				heard <- fmt.Errorf("heard %q, %v", data, err)
				return
			}
			count.Add(1)
		}
		heard <- nil
	}()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 20 {
				conn, _, err := ws.Dial(t.Context(), w.url, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for _, text := range []string{"bind s", "bind t", "what"} {
					_ = conn.Write(t.Context(), ws.MessageText, []byte(text))
				}
				conn.Read(t.Context())
				if i%2 == 0 {
					conn.CloseNow()
				} else {
					conn.Close(ws.StatusNormalClosure, "")
				}
			}
		})
	}
	all.Go(func() {
		for i := range pings {
			if i%100 == 0 {
				w.hub.Changed("s")
			}
			// So few are on their way that none is left out.
			await(t, "reader that keeps up", func() bool { return int(count.Load()) > i-100 })
			w.ping("s")
		}
	})
	all.Wait()
	if err := <-heard; err != nil {
		t.Error(err)
	}
	await(t, "end of the others", func() bool { return w.hub.Open() == 1 && w.hub.Bound("t") == 0 })
}
