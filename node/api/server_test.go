package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGzipBothWays(t *testing.T) {
	s := open(t)
	large := patientNamed("p1", strings.Repeat("x", 4000))
	s.must(201, "PUT", "/fhir/Patient/p1", string(packed(t, []byte(large))), "Content-Encoding: gzip", "Content-Type: application/fhir+json")
	w := s.must(200, "GET", "/fhir/Patient/p1", "", "Accept-Encoding: br, gzip;q=0.5")
	if w.Header().Get("Content-Encoding") != "gzip" || w.Body.Len() > 1000 {
		t.Fatalf("answer of %d bytes, %v", w.Body.Len(), w.Header())
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || !bytes.Contains(b, []byte("xxxx")) {
		t.Errorf("unpacked %d bytes: %v", len(b), err)
	}
	for _, not := range []string{"", "br", "gzip;q=0", "identity"} {
		if w := s.must(200, "GET", "/fhir/Patient/p1", "", "Accept-Encoding: "+not); w.Header().Get("Content-Encoding") != "" {
			t.Errorf("packed for Accept-Encoding %q", not)
		}
	}
}

func TestLimitsCountUnpackedBytes(t *testing.T) {
	s := open(t, func(c *Config) { c.Limits = Limits{Resource: 10_000, Bundle: 20_000, Line: 10_000} })
	bomb := string(packed(t, bytes.Repeat([]byte(" "), 50<<20)))
	for _, path := range []string{"/fhir/Patient", "/fhir", "/fhir/$feed", "/fhir/Subscription/$validate"} {
		w := s.must(413, "POST", path, bomb, "Content-Encoding: gzip")
		if is := issue(t, w); is.Code != "too-long" || !strings.Contains(is.Diagnostics, "000 bytes") {
			t.Errorf("%s: %+v", path, is)
		}
	}
	long := string(packed(t, bytes.Repeat([]byte(" "), 1<<20)))
	w := s.must(200, "POST", "/fhir/$ingest", long, "Content-Encoding: gzip")
	if o := outcomeIn(t, w.Body.Bytes()); len(o.Issue) != 2 || o.Issue[1].Code != "too-long" {
		t.Errorf("ingest = %s", w.Body)
	}
	s.must(413, "PUT", "/fhir/Patient/p1", patientNamed("p1", strings.Repeat("x", 10_000)))
	whole := string(packed(t, []byte(patient)))
	s.must(400, "PUT", "/fhir/Patient/p1", whole[:len(whole)-3], "Content-Encoding: gzip")
	s.must(400, "PUT", "/fhir/Patient/p1", whole[:5], "Content-Encoding: gzip")
}

func TestNothingOfARequestIsLoggedButItsOutline(t *testing.T) {
	var log bytes.Buffer
	s := open(t, func(c *Config) {
		c.Tokens = &fakeTokens{}
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	s.must(201, "PUT", "/fhir/Patient/p1?_format=json", patientNamed("p1", "Windsor"), "Authorization: Bearer admin", "X-Request-Id: r17")
	s.must(200, "GET", "/fhir/Patient?identifier=4711", "", "Authorization: Bearer admin")
	s.must(401, "GET", "/fhir/Patient/p1", "", "Authorization: Bearer s3cret")
	s.fake.fail = func(Write) error { panic("Windsor") }
	s.must(500, "PUT", "/fhir/Patient/p1", patientNamed("p1", "Windsor 2"), "Authorization: Bearer admin")
	for _, secret := range []string{"Windsor", "4711", "s3cret", "Bearer", "_format"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %q:\n%s", secret, log.String())
		}
	}
	first, _, _ := strings.Cut(log.String(), "\n")
	for _, want := range []string{`"id":"r17"`, `"method":"PUT"`, `"route":"PUT /fhir/{Type}/{id}"`, `"status":201`, `"level":"DEBUG"`, `"took":`} {
		if !strings.Contains(first, want) {
			t.Errorf("the line lacks %s: %s", want, first)
		}
	}
	if n := strings.Count(log.String(), `"msg":"request"`); n != 4 {
		t.Errorf("%d lines for 4 requests", n)
	}
}

// pipes is a listener whose connections are pipes, so that the server's timers run on the
// test's clock.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return loopbackConn{c}, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

type loopbackConn struct{ net.Conn }

func (loopbackConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5} }

// serve runs a server on the test's clock and hands out connections to it.
func serve(t *testing.T, s *site) (dial func() net.Conn, stop func()) {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := Server(s.handler, slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = srv.Serve(p) }()
	return func() net.Conn {
			client, server := net.Pipe()
			p.conns <- server
			return client
		}, func() {
			_ = srv.Close()
			<-ended
			time.Sleep(time.Second) // on the test's clock: net/http pauses before it closes a refused connection
		}
}

func TestABodyThatStopsComingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := serve(t, open(t))
		defer stop()
		c := dial()
		defer c.Close()
		fmt.Fprintf(c, "PUT /fhir/Patient/p1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
		start := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestTimeout || time.Since(start) != idleTimeout {
			t.Errorf("%s after %v", resp.Status, time.Since(start))
		}
	})
}

func TestABodyThatKeepsComingMayTakeLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := serve(t, open(t))
		defer stop()
		c := dial()
		defer c.Close()
		body := patientNamed("p1", strings.Repeat("x", 100))
		fmt.Fprintf(c, "PUT /fhir/Patient/p1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n", len(body))
		for i := range len(body) {
			time.Sleep(idleTimeout / 2) // on the test's clock
			if _, err := io.WriteString(c, body[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 201 {
			t.Errorf("%s", resp.Status)
		}
	})
}

// slow is a backend that takes its time.
type slow struct {
	*fake
	took time.Duration
}

func (s *slow) Write(ctx context.Context, w Write) (Written, error) {
	select {
	case <-time.After(s.took):
		return s.fake.Write(ctx, w)
	case <-ctx.Done():
		return Written{}, ctx.Err()
	}
}

func TestWorkMayTakeLongerThanABodyMayPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := serve(t, open(t, func(c *Config) { c.Backend = &slow{c.Backend.(*fake), 3 * idleTimeout} }))
		defer stop()
		c := dial()
		defer c.Close()
		r := bufio.NewReader(c)
		for range 2 { // the connection is good for another one
			body := patientNamed("p1", time.Now().String())
			fmt.Fprintf(c, "PUT /fhir/Patient/p1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode/100 != 2 {
				t.Errorf("%s", resp.Status)
			}
		}
	})
}

func TestHeadersAreBoundInTimeAndSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := serve(t, open(t))
		defer stop()
		c := dial()
		defer c.Close()
		fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: ")
		start := time.Now()
		if _, err := io.ReadAll(c); err != nil || time.Since(start) != readHeaderTimeout {
			t.Errorf("closed after %v: %v", time.Since(start), err)
		}
		c2 := dial()
		defer c2.Close()
		go func() {
			fmt.Fprintf(c2, "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX: %s\r\n\r\n", strings.Repeat("x", 17<<10))
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c2), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s", resp.Status)
		}
	})
}
