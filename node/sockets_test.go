package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ws "github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/deliver/websocket"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
)

// socket is a client of /websocket.
type socket struct {
	t    *testing.T
	conn *ws.Conn
}

func (r *running) socket(o *ws.DialOptions) *socket {
	r.t.Helper()
	conn, _, err := ws.Dial(r.t.Context(), "ws://"+r.Addr()+"/websocket", o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.CloseNow() })
	return &socket{r.t, conn}
}

func (s *socket) bind(id string) *socket {
	s.t.Helper()
	s.say("bind " + id)
	s.hear("bound " + id)
	return s
}

func (s *socket) say(text string) {
	s.t.Helper()
	if err := s.conn.Write(s.t.Context(), ws.MessageText, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) hear(want string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	_, data, err := s.conn.Read(ctx)
	if err != nil || string(data) != want {
		s.t.Fatalf("heard %q, %v; want %q", data, err, want)
	}
}

func (s *socket) closed(code ws.StatusCode, reason string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	_, data, err := s.conn.Read(ctx)
	var end ws.CloseError
	if !errors.As(err, &end) || end.Code != code || !strings.Contains(end.Reason, reason) {
		s.t.Fatalf("heard %q, %v; want the close %d with %q", data, err, code, reason)
	}
}

func socketSubscription(id, criteria, status string) string {
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":%q,"reason":"test","criteria":%q,"channel":{"type":"websocket","payload":"application/fhir+json"}}`, id, status, criteria)
}

func codedObservation(id, code string) string {
	return fmt.Sprintf(`{"resourceType":"Observation","id":%q,"status":"final","code":{"coding":[{"code":%q}]}}`, id, code)
}

// HAPI's WebsocketWithCriteriaR4Test and WebsocketWithSubscriptionIdR4Test: a matching resource
// gives a ping, another gives none.
func TestAWebsocketIsPingedForWhatMatches(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Observation?code=a", "requested"), nil)
	bare, full := r.socket(nil).bind("s"), r.socket(nil)
	full.say("bind Subscription/s")
	full.hear("bound s")
	r.do(201, "PUT", "/fhir/Observation/o1", codedObservation("o1", "b"), nil)
	r.do(201, "PUT", "/fhir/Observation/o2", codedObservation("o2", "a"), nil)
	bare.hear("ping s")
	full.hear("ping s")
	var bound []api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions", "", &bound)
	if len(bound) != 1 || bound[0].Sockets == nil || *bound[0].Sockets != 2 {
		t.Errorf("%+v, want 2 sockets", bound)
	}
	r.await("the end of the match", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["pending"] == 0.0 })
	r.do(201, "PUT", "/fhir/Subscription/t", socketSubscription("t", "Patient?", "active"), nil)
	bare.bind("t") // nothing came before
	full.bind("t")
	var status api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions/s", "", &status)
	if status.Events != 1 || status.LastSuccess.IsZero() {
		t.Errorf("%+v", status)
	}
}

func TestAChangeOfTheSubscriptionAndItsSocket(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?active=true", "active"), nil)
	s := r.socket(nil).bind("s")
	// HAPI's socket falls silent after any edit.
	r.do(200, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?active=false", "active"), nil)
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","active":false}`, nil)
	s.hear("ping s")
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/pause", "", nil)
	r.do(201, "PUT", "/fhir/Patient/p2", `{"resourceType":"Patient","id":"p2","active":false}`, nil)
	s.bind("s") // nothing came
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/resume", "", nil)
	s.hear("ping s")

	r.do(200, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?active=false", "off"), nil)
	s.closed(ws.StatusNormalClosure, "Subscription/s was switched off")
	s = r.socket(nil)
	s.say("bind s")
	s.closed(ws.StatusProtocolError, "Subscription/s is off")
	r.do(200, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?active=false", "active"), nil)
	s = r.socket(nil).bind("s")
	r.do(204, "DELETE", "/fhir/Subscription/s", "", nil)
	s.closed(ws.StatusNormalClosure, "Subscription/s was deleted")
}

// HAPI's WebsocketConnectionValidatorTest.
func TestWhatCannotBeBound(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/hook", subscriptionTo("hook", "Patient?", endpoint(t, 200)), nil)
	r.do(201, "PUT", "/fhir/Subscription/gone", socketSubscription("gone", "Patient?", "active"), nil)
	r.do(204, "DELETE", "/fhir/Subscription/gone", "", nil)
	for bind, reason := range map[string]string{
		"bind":            "names no Subscription",
		"bind nobody":     "Subscription/nobody is not known",
		"bind hook":       "Subscription/hook is not of channel type websocket",
		"bind gone":       "Subscription/gone was deleted",
		"bind Patient/p1": "takes the id of a Subscription",
	} {
		s := r.socket(nil)
		s.say(bind)
		s.closed(ws.StatusProtocolError, reason)
	}
}

// A channel that is not switched on leaves the Subscription requested, and says so.
func TestWebsocketsThatAreNotSwitchedOn(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Channels = []string{"rest-hook"}
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?", "active"), nil)
	s := r.socket(nil)
	s.say("bind s")
	s.closed(ws.StatusProtocolError, "not switched on")
}

// With HAPI a match that nobody hears is tried for a minute and lost.
func TestAMatchThatNobodyIsBoundForIsSkipped(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?", "active"), nil)
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1"}`, nil)
	r.await("the end of the match", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["events"] == 1.0 && s["pending"] == 0.0 })
	var status api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions/s", "", &status)
	if status.Dead != 0 || status.LastError != nil || status.Status != "active" {
		t.Errorf("%+v", status)
	}
	var as []api.Attempt
	r.do(200, "GET", "/admin/api/v1/attempts?subscription=s", "", &as)
	if len(as) != 1 || as[0].Outcome != record.Skipped || as[0].Attempt != 0 {
		t.Errorf("attempts %+v", as)
	}
	s := r.socket(nil).bind("s")
	r.do(201, "PUT", "/fhir/Patient/p2", `{"resourceType":"Patient","id":"p2"}`, nil)
	s.hear("ping s")
	r.await("the end of the match", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["events"] == 2.0 && s["pending"] == 0.0 })
	r.do(200, "GET", "/admin/api/v1/attempts?subscription=s", "", &as)
	if len(as) != 2 || as[0].Outcome != record.Accepted {
		t.Errorf("attempts %+v", as)
	}
}

func TestAWebsocketNeedsATokenAndLosesItWithIt(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	early := r.socket(nil)
	var admin, reader api.TokenInfo
	r.do(201, "POST", "/admin/api/v1/tokens", `{"name":"a","roles":["admin"]}`, &admin)
	early.closed(ws.StatusPolicyViolation, "a login is needed by now")
	as := r.withToken(admin.Secret)
	as(201, "POST", "/admin/api/v1/tokens", `{"name":"r","roles":["reader"]}`, &reader)
	as(201, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?", "active"), nil)
	if _, answer, err := ws.Dial(t.Context(), "ws://"+r.Addr()+"/websocket", nil); err == nil || answer == nil || answer.StatusCode != 401 {
		t.Errorf("without a token: %v", err)
	}
	s := r.socket(&ws.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + reader.Secret}}}).bind("s")
	browser := r.socket(&ws.DialOptions{Subprotocols: []string{"carillon", "bearer." + reader.Secret}}).bind("s")
	if p := browser.conn.Subprotocol(); p != "carillon" {
		t.Errorf("subprotocol %q: a browser would hang up", p)
	}
	as(204, "DELETE", "/admin/api/v1/tokens/r", "", nil)
	s.closed(ws.StatusPolicyViolation, "token was revoked")
	browser.closed(ws.StatusPolicyViolation, "token was revoked")
	if strings.Contains(r.logs.String(), reader.Secret) {
		t.Error("the token is in the log")
	}
}

// withToken sends requests with a token.
func (r *running) withToken(token string) func(status int, method, path, body string, into any) {
	return func(status int, method, path, body string, into any) {
		r.t.Helper()
		req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.Addr()+path, strings.NewReader(body))
		if err != nil {
			r.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			r.t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != status {
			r.t.Fatalf("%s %s: %d, want %d", method, path, answer.StatusCode, status)
		}
		if into == nil {
			return
		}
		if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
			r.t.Fatal(err)
		}
	}
}

func TestAStopOfTheNodeTellsItsSockets(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?", "active"), nil)
	s := r.socket(nil).bind("s")
	go r.stop()
	s.closed(ws.StatusGoingAway, "stopping")
}

func TestMetricsOfWebsockets(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", socketSubscription("s", "Patient?", "active"), nil)
	s := r.socket(nil).bind("s")
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1"}`, nil)
	s.hear("ping s")
	r.await("the end of the match", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["pending"] == 0.0 })
	answer, err := http.Get("http://" + r.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	text := string(body)
	for _, want := range []string{"carillon_sockets 1", "carillon_socket_pings_total 1", `carillon_pending{channel="websocket"} 0`, `carillon_subscriptions{channel="websocket",status="active"} 1`} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

// socketNodes are the nodes n1, n2 and so on as far as websockets go, over one engine.
type socketNodes struct {
	t     *testing.T
	conn  *nats.Conn
	nodes map[string]*socketNode

	mu      sync.Mutex
	members []string
}

type socketNode struct {
	*socketPeers
	url  string
	stop func()
}

func newSocketNodes(t *testing.T, names ...string) *socketNodes {
	t.Helper()
	engine := runNode(t, testConfig(t.TempDir()))
	c := &socketNodes{t: t, conn: engine.server.Conn(), nodes: map[string]*socketNode{}, members: names}
	for _, name := range names {
		c.start(name)
	}
	return c
}

// start makes a node, or another process of one.
func (c *socketNodes) start(name string) *socketNode {
	hub := websocket.NewHub(websocket.Options{
		Bind: func(context.Context, fhir.ID) (record.Sequence, error) { return 7, nil },
		Log:  slog.New(slog.DiscardHandler),
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hub.Serve(w, r, "") }))
	n := &socketNode{url: "ws" + strings.TrimPrefix(server.URL, "http"), socketPeers: &socketPeers{
		conn: c.conn, self: name, life: newRun(), hub: hub, log: slog.New(slog.DiscardHandler),
		others: func() []string {
			c.mu.Lock()
			defer c.mu.Unlock()
			return slices.DeleteFunc(slices.Clone(c.members), func(o string) bool { return o == name })
		},
		heard: map[string]announcement{}, asked: map[string]*question{},
	}}
	if err := n.listen(); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		hub.Close()
		server.Close()
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	c.t.Cleanup(n.stop)
	c.nodes[name] = n
	return n
}

// await polls what no event tells of.
func await(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}

func (c *socketNodes) bound(node string) *socket {
	c.t.Helper()
	conn, _, err := ws.Dial(c.t.Context(), c.nodes[node].url, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.CloseNow() })
	return (&socket{c.t, conn}).bind("s")
}

func (c *socketNodes) ping(node string) int {
	c.t.Helper()
	n, err := c.nodes[node].Ping(c.t.Context(), "s", 7)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// HAPI's sockets hear only of what their own node has matched.
func TestSocketsOfAllNodesArePinged(t *testing.T) {
	c := newSocketNodes(t, "n1", "n2", "n3")
	if n := c.ping("n1"); n != 0 {
		t.Errorf("%d sockets, and there is none", n)
	}
	far := c.bound("n3")
	if n := c.ping("n1"); n != 1 {
		t.Errorf("%d sockets were pinged, want that of n3", n)
	}
	far.hear("ping s")
	near, other := c.bound("n1"), c.bound("n2")
	if n := c.ping("n1"); n == 0 {
		t.Error("nobody was pinged")
	}
	for _, s := range []*socket{far, near, other} {
		s.hear("ping s")
	}
}

func TestANodeThatGivesNoAnswerHoldsNobodyUp(t *testing.T) {
	c := newSocketNodes(t, "n1", "n2", "n3")
	c.nodes["n2"].stop() // it is a member still
	far := c.bound("n3")
	if n := c.ping("n1"); n != 1 {
		t.Errorf("%d sockets were pinged", n)
	}
	far.hear("ping s")
	far.conn.CloseNow()
	await(t, func() bool { return c.nodes["n3"].hub.Bound("s") == 0 })
	if n := c.ping("n1"); n != 0 { // it returns, after announceWait
		t.Errorf("%d sockets were pinged", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.nodes["n1"].Ping(ctx, "s", 7); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled ping gives %v", err)
	}
}

// A node that lost sight of another for a moment makes good for what it missed.
func TestAnnouncementsThatWereMissedPingAll(t *testing.T) {
	c := newSocketNodes(t, "n1", "n2")
	s := c.bound("n2")
	c.ping("n1")
	s.hear("ping s")
	miss := func(n *socketNode) {
		n.mu.Lock()
		n.count += 3 // which n2 never hears of
		n.mu.Unlock()
	}
	miss(c.nodes["n1"])
	s.hear("ping s") // when the count comes, by itself
	miss(c.nodes["n1"])
	if n, _ := c.nodes["n1"].Ping(t.Context(), "t", 7); n != 0 {
		t.Errorf("%d sockets of t", n)
	}
	s.hear("ping s")
	// Another process of n1 begins to count anew, and has told of nothing yet.
	c.nodes["n1"].stop()
	c.start("n1")
	await(t, func() bool {
		c.nodes["n2"].mu.Lock()
		defer c.nodes["n2"].mu.Unlock()
		return c.nodes["n2"].heard["n1"].Run == c.nodes["n1"].life
	})
	s.bind("s") // no ping came before
}

func TestNothingIsKeptOfWhatWasAnnounced(t *testing.T) {
	c := newSocketNodes(t, "n1", "n2")
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() { c.nodes["n1"].Ping(context.Background(), "s", 7) })
	}
	all.Wait()
	if n := len(c.nodes["n1"].asked); n != 0 {
		t.Errorf("%d questions are kept", n)
	}
}
