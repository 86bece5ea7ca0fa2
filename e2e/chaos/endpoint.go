package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Endpoints are the subscribers: one server, a path for each Subscription. What arrives is
// written down together with the answer it got.
type Endpoints struct {
	URL string // a Subscription's endpoint is URL/id

	history *History
	server  *http.Server
	served  chan struct{}

	mu        sync.Mutex
	behaviour map[string]Behaviour
	broken    map[string]int // by Subscription: the status that is answered for the time being
	count     map[string]int
}

// Behaviour is how an endpoint answers the nth request: how long it takes, and with which status.
type Behaviour func(n int) (time.Duration, int)

// Quick answers at once.
func Quick(int) (time.Duration, int) { return 0, http.StatusOK }

// Slow takes half a second.
func Slow(int) (time.Duration, int) { return 500 * time.Millisecond, http.StatusOK }

// Flaky fails every fifth time.
func Flaky(n int) (time.Duration, int) {
	if n%5 == 4 {
		return 0, http.StatusServiceUnavailable
	}
	return 2 * time.Millisecond, http.StatusOK
}

// NewEndpoints listens at an address, any port.
func NewEndpoints(at netip.Addr, h *History) (*Endpoints, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(at.String(), "0"))
	if err != nil {
		return nil, err
	}
	e := &Endpoints{
		URL: "http://" + l.Addr().String(), history: h, served: make(chan struct{}),
		behaviour: map[string]Behaviour{}, broken: map[string]int{}, count: map[string]int{},
	}
	e.server = &http.Server{Handler: e}
	go func() {
		defer close(e.served)
		_ = e.server.Serve(l) // ends with ErrServerClosed
	}()
	return e, nil
}

// Behave sets how the endpoint of a Subscription answers.
func (e *Endpoints) Behave(subscription string, b Behaviour) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.behaviour[subscription] = b
}

// Break lets an endpoint answer with a status until Mend; 0 is no answer until the sender gives up.
func (e *Endpoints) Break(subscription string, status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken[subscription] = status
}

// Mend undoes Break.
func (e *Endpoints) Mend(subscription string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.broken, subscription)
}

// answer decides about one request.
func (e *Endpoints) answer(subscription string) (time.Duration, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.count[subscription]
	e.count[subscription]++
	if status, ok := e.broken[subscription]; ok {
		if status == 0 {
			return time.Minute, http.StatusServiceUnavailable
		}
		return 0, status
	}
	b := e.behaviour[subscription]
	if b == nil {
		b = Quick
	}
	return b(n)
}

// ServeHTTP records a notification: {subscription}/{Type}/{id}.
func (e *Endpoints) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := e.history.Now()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was killed in the middle of its request
	}
	subscription, resource, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	rec := Record{
		At: at, Kind: Arrived, Subscription: subscription, Resource: resource,
		WebhookID: r.Header.Get("webhook-id"), Interaction: "write", Text: r.Method,
	}
	rec.Number, _ = strconv.ParseUint(r.Header.Get("X-Carillon-Event"), 10, 64)
	rec.Attempt, _ = strconv.Atoi(r.Header.Get("X-Carillon-Attempt"))
	if r.Method == http.MethodDelete {
		rec.Interaction = "delete"
	} else if c, err := readContent(body); err != nil {
		e.history.Add(Record{Kind: Finding, Subscription: subscription, Resource: resource, Number: rec.Number, Text: "the body cannot be read: " + err.Error()})
	} else {
		rec.Seq, rec.Version, rec.Sum = c.seq, c.version, c.sum
		if c.resource != resource {
			e.history.Add(Record{Kind: Finding, Subscription: subscription, Resource: resource, Number: rec.Number, Text: "the body is of " + c.resource})
		}
	}
	delay, status := e.answer(subscription)
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-r.Context().Done(): // the sender gave up, or is gone
			status = 0
		}
	}
	if status != 0 {
		w.WriteHeader(status)
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	rec.Answered, rec.Status = e.history.Now(), status
	e.history.Add(rec)
}

// Close ends the server; what is under way is cut off.
func (e *Endpoints) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := e.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = e.server.Close()
	}
	<-e.served
	return err
}
