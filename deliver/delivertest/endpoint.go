package delivertest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// Endpoint is an HTTP server on loopback that answers by a script and notes what it was sent.
type Endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	script   []Answer
	requests []Request
	conns    int
	arrived  chan struct{}
	closing  chan struct{}
}

// Answer is one answer of an Endpoint.
type Answer struct {
	Status int // 0: 200
	Header http.Header
	Body   []byte
	// Endless sends Body over and over, until the client leaves.
	Endless bool
	// Trickle sends the header, and then a byte now and again, until the client leaves.
	Trickle bool
	// Hang answers nothing until the client leaves.
	Hang bool
	// Reset ends the connection without an answer.
	Reset bool
	// Raw is written to the connection instead of an answer.
	Raw []byte
}

// Request is what came.
type Request struct {
	At     time.Time
	Method string
	URI    string // path and query as they were on the wire
	Host   string
	Proto  string
	Header http.Header
	Body   []byte
	Length int64 // Content-Length; -1 when it was not said
}

// NewEndpoint starts one; it ends with the test. The last answer of the script repeats; without
// a script all is accepted.
func NewEndpoint(t testing.TB, script ...Answer) *Endpoint {
	e := newEndpoint(script)
	e.Server.Start()
	t.Cleanup(e.end)
	return e
}

// NewTLSEndpoint starts one with TLS and HTTP/2; Client().Transport has its certificate.
func NewTLSEndpoint(t testing.TB, script ...Answer) *Endpoint {
	e := newEndpoint(script)
	e.EnableHTTP2 = true
	e.StartTLS()
	t.Cleanup(e.end)
	return e
}

func newEndpoint(script []Answer) *Endpoint {
	e := &Endpoint{script: script, arrived: make(chan struct{}, 1), closing: make(chan struct{})}
	e.Server = httptest.NewUnstartedServer(e)
	e.Config.ErrorLog = quietLog()
	e.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			e.mu.Lock()
			e.conns++
			e.mu.Unlock()
		}
	}
	return e
}

func (e *Endpoint) end() {
	close(e.closing)
	e.CloseClientConnections()
	e.Close()
}

// Script replaces what is left of the script.
func (e *Endpoint) Script(script ...Answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.script = script
}

// Requests are those that came so far.
func (e *Endpoint) Requests() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

// Connections counts those that were made.
func (e *Endpoint) Connections() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conns
}

// Await returns the requests once there are n of them, or what came until ctx ended.
func (e *Endpoint) Await(ctx context.Context, n int) []Request {
	for {
		if all := e.Requests(); len(all) >= n || ctx.Err() != nil {
			return all
		}
		select {
		case <-e.arrived:
		case <-ctx.Done():
		}
	}
}

// ServeHTTP is http.Handler.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a := e.note(Request{
		At: time.Now(), Method: r.Method, URI: r.RequestURI, Host: r.Host, Proto: r.Proto,
		Header: r.Header.Clone(), Body: body, Length: r.ContentLength,
	})
	gone := r.Context().Done()
	switch {
	case a.Reset, a.Raw != nil:
		e.breakOff(w, a.Raw)
		return
	case a.Hang:
		select {
		case <-gone:
		case <-e.closing:
		}
		return
	}
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(max(a.Status, 200))
	w.Write(a.Body)
	for a.Endless || a.Trickle {
		select {
		case <-gone:
			return
		case <-e.closing:
			return
		default:
		}
		if a.Trickle {
			time.Sleep(20 * time.Millisecond) // a byte now and then is what this endpoint is for
			w.Write([]byte{' '})
		} else {
			w.Write(a.Body)
		}
		http.NewResponseController(w).Flush()
	}
}

func (e *Endpoint) note(r Request) Answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = append(e.requests, r)
	select {
	case e.arrived <- struct{}{}:
	default:
	}
	if len(e.script) == 0 {
		return Answer{}
	}
	a := e.script[0]
	if len(e.script) > 1 {
		e.script = e.script[1:]
	}
	return a
}

// breakOff ends the connection with a reset, or after raw bytes.
func (e *Endpoint) breakOff(w http.ResponseWriter, raw []byte) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2
		panic(http.ErrAbortHandler)
	}
	if len(raw) > 0 {
		conn.Write(raw)
	} else if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
