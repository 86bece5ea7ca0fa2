package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	ws "github.com/coder/websocket"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// listener is a client of /websocket that is bound to the Subscription "all".
type listener struct {
	t     *testing.T
	pings chan struct{} // closed when the connection has ended
	end   error
}

func listen(t *testing.T, n *harness.Node) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, _, err := ws.Dial(ctx, "ws"+strings.TrimPrefix(n.URL, "http")+"/websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if err := conn.Write(ctx, ws.MessageText, []byte("bind Subscription/all")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := conn.Read(ctx); err != nil || string(data) != "bound all" {
		t.Fatalf("bind is answered with %q, %v", data, err)
	}
	l := &listener{t: t, pings: make(chan struct{}, 1000)}
	go func() {
		defer close(l.pings)
		for {
			_, data, err := conn.Read(context.Background())
			if err != nil {
				l.end = err
				return
			}
			if string(data) == "ping all" {
				l.pings <- struct{}{}
			}
		}
	}()
	return l
}

// hears wants at least n pings.
func (l *listener) hears(n int) {
	l.t.Helper()
	limit := time.After(time.Minute)
	for range n {
		select {
		case _, open := <-l.pings:
			if !open {
				l.t.Fatalf("the websocket ended: %v", l.end)
			}
		case <-limit:
			l.t.Fatalf("no ping came, of %d", n)
		}
	}
}

// ended is how the connection ended, whatever was heard before.
func (l *listener) ended() error {
	l.t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case _, open := <-l.pings:
			if !open {
				return l.end
			}
		case <-limit:
			l.t.Fatal("the websocket does not end")
		}
	}
}

// HAPI's sockets hear of what their own node has matched, and Medplum's lose what comes while a
// node reconnects.
func TestWebsocketsAreBoundToAnyNode(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Subscription/all",
		`{"resourceType":"Subscription","id":"all","status":"requested","criteria":"Patient?","channel":{"type":"websocket"}}`)
	var sockets []*listener
	for _, n := range c.Nodes { // at once: the other nodes may not have heard of the Subscription
		sockets = append(sockets, listen(t, n))
	}
	awaitSockets(t, c.Nodes[0], 3)
	for i := range 9 {
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/Patient/p"+strconv.Itoa(i), patient("p"+strconv.Itoa(i), "N"))
		for _, s := range sockets {
			s.hears(1)
		}
	}
	// The loss of a node costs its own sockets alone, whoever sends for the Subscription.
	c.Nodes[0].Kill()
	sockets[0].ended()
	c.Nodes[1].MustDo(200, "PUT", "/fhir/Patient/p1", patient("p1", "V"))
	sockets[1].hears(1)
	sockets[2].hears(1)
	c.Nodes[0].Start()
	sockets[0] = listen(t, c.Nodes[0])
	c.Nodes[1].MustDo(200, "PUT", "/fhir/Patient/p1", patient("p1", "W"))
	for _, s := range sockets {
		s.hears(1)
	}
	if code := c.Nodes[2].Stop(); code != 0 {
		t.Errorf("stop: exit code %d", code)
	}
	var end ws.CloseError
	if err := sockets[2].ended(); !errors.As(err, &end) || end.Code != ws.StatusGoingAway {
		t.Errorf("a stop ends its websockets with %v", err)
	}
}

// awaitSockets waits until a node counts so many: one that has just come may be asked too early.
func awaitSockets(t *testing.T, n *harness.Node, want int) {
	t.Helper()
	var status struct{ Sockets int }
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err := json.Unmarshal(n.MustDo(200, "GET", "/admin/api/v1/subscriptions/all", "").Body, &status); err != nil {
			t.Fatal(err)
		}
		if status.Sockets == want {
			return
		}
	}
	t.Fatalf("%d sockets are counted, want %d", status.Sockets, want)
}
