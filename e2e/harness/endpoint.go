package harness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Arrival is one request as a subscriber's endpoint saw it.
type Arrival struct {
	Method  string
	Path    string // path and query
	Header  http.Header
	Body    []byte
	At      time.Time
	Number  uint64 // X-Carillon-Event
	Attempt int    // X-Carillon-Attempt
}

// Endpoint is a subscriber: it records what arrives and answers as the test says. It outlives
// the nodes that send to it.
type Endpoint struct {
	URL string

	mu       sync.Mutex
	arrivals []Arrival
	moved    chan struct{} // closed and replaced at each arrival
	answer   func(Arrival) int
}

// NewEndpoint listens on loopback and answers 200 until told otherwise.
func NewEndpoint(t testing.TB) *Endpoint {
	e := &Endpoint{moved: make(chan struct{}), answer: func(Arrival) int { return http.StatusOK }}
	srv := httptest.NewServer(http.HandlerFunc(e.serve))
	e.URL = srv.URL
	t.Cleanup(srv.Close)
	return e
}

// Answer sets how the endpoint answers from now on. f may block; it is called outside of any
// lock, after the arrival was recorded.
func (e *Endpoint) Answer(f func(Arrival) int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = f
}

func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was killed in the middle of its request
	}
	a := Arrival{Method: r.Method, Path: r.URL.RequestURI(), Header: r.Header.Clone(), Body: body, At: time.Now()}
	a.Number, _ = strconv.ParseUint(r.Header.Get("X-Carillon-Event"), 10, 64)
	a.Attempt, _ = strconv.Atoi(r.Header.Get("X-Carillon-Attempt"))
	e.mu.Lock()
	e.arrivals = append(e.arrivals, a)
	answer := e.answer
	close(e.moved)
	e.moved = make(chan struct{})
	e.mu.Unlock()
	w.WriteHeader(answer(a))
}

// Arrivals returns everything that arrived so far.
func (e *Endpoint) Arrivals() []Arrival {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Arrival(nil), e.arrivals...)
}

// Await waits until the arrivals fulfil a condition, and returns them; it fails the test with
// what it saw when the time is over.
func (e *Endpoint) Await(t testing.TB, limit time.Duration, what string, ok func([]Arrival) bool) []Arrival {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		e.mu.Lock()
		got, moved := append([]Arrival(nil), e.arrivals...), e.moved
		e.mu.Unlock()
		if ok(got) {
			return got
		}
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatalf("waited %s for %s; %d arrived:\n%s", limit, what, len(got), summary(got))
		}
	}
}

// AwaitCount waits for at least n arrivals.
func (e *Endpoint) AwaitCount(t testing.TB, limit time.Duration, n int) []Arrival {
	t.Helper()
	return e.Await(t, limit, fmt.Sprintf("%d notifications", n), func(a []Arrival) bool { return len(a) >= n })
}

// summary lists the newest arrivals without their bodies.
func summary(as []Arrival) string {
	if len(as) > 20 {
		as = as[len(as)-20:]
	}
	var b strings.Builder
	for _, a := range as {
		fmt.Fprintf(&b, "%s %s event %d attempt %d\n", a.Method, a.Path, a.Number, a.Attempt)
	}
	return b.String()
}
