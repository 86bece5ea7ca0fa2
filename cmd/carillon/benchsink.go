package main

import (
	"io"
	"iter"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// sink is the endpoint that notifications are sent to.
type sink struct {
	url    string
	server *http.Server
	done   chan error

	mu       sync.Mutex // guards what follows
	arrived  map[string]time.Time
	seen     map[string]bool // webhook-ids
	repeats  int
	last     time.Time
	slow     int // Subscriptions 1 to slow answer late
	slowness time.Duration
	stopped  chan struct{}
}

func startSink(l net.Listener) *sink {
	s := &sink{
		url: "http://" + l.Addr().String(), done: make(chan error, 1), stopped: make(chan struct{}),
		arrived: map[string]time.Time{}, seen: map[string]bool{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /s/{subscription}/{type}/{id}", s.notified)
	mux.HandleFunc("PUT /s/{subscription}/{type}/{id}", s.notified)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { s.done <- s.server.Serve(l) }()
	return s
}

func (s *sink) notified(_ http.ResponseWriter, r *http.Request) {
	now := time.Now()
	_, _ = io.Copy(io.Discard, r.Body)
	subscription, _ := strconv.Atoi(r.PathValue("subscription"))
	if wait := s.record(now, r.PathValue("id"), r.Header.Get("webhook-id"), subscription); wait > 0 {
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
		case <-s.stopped:
		}
	}
}

func (s *sink) record(now time.Time, id, webhookID string, subscription int) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if webhookID == "" {
		webhookID = strconv.Itoa(subscription) + "/" + id // a server that sends none
	}
	if s.seen[webhookID] {
		s.repeats++
	} else {
		s.seen[webhookID] = true
	}
	if _, again := s.arrived[id]; !again {
		s.arrived[id] = now
	}
	s.last = now
	if subscription >= 1 && subscription <= s.slow {
		return s.slowness
	}
	return 0
}

func (s *sink) slowDown(n int, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow, s.slowness = n, d
}

func (s *sink) isSlow(subscription int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return subscription >= 1 && subscription <= s.slow
}

func (s *sink) arrival(id string) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.arrived[id]
	return t, ok
}

// distinct is how many resources have arrived.
func (s *sink) distinct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.arrived)
}

// missing are those of the resources that have not arrived.
func (s *sink) missing(ids iter.Seq[string]) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for id := range ids {
		if _, arrived := s.arrived[id]; !arrived {
			out = append(out, id)
		}
	}
	return out
}

// forget makes the endpoint as new.
func (s *sink) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.arrived)
	clear(s.seen)
	s.repeats = 0
}

func (s *sink) lastArrival() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *sink) duplicates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repeats
}

func (s *sink) close() error {
	close(s.stopped)
	err := s.server.Close()
	<-s.done
	return err
}
