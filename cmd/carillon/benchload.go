package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// written is a write that was acknowledged.
type written struct {
	asked, acknowledged time.Time
}

// writes collects the writes of one part of the run.
type writes struct {
	mu     sync.Mutex
	byID   map[string]written
	failed int
	err    error // of the first that failed
}

func (w *writes) add(id string, asked time.Time, err error) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed++
		if w.err == nil {
			w.err = err
		}
		return
	}
	w.byID[id] = written{asked, now}
}

func (b *benchmark) write(ctx context.Context, w *writes, id string, subscription int) {
	body := b.observation(id, subscription)
	asked := time.Now()
	_, err := b.cl.ask(ctx, request{method: http.MethodPut, path: "/fhir/Observation/" + id, contentType: fhirJSON, body: body, minimal: true})
	w.add(id, asked, err)
}

// each calls f with 0 to n-1 from the planned number of writers.
func (b *benchmark) each(ctx context.Context, n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(b.plan.writers, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	wg.Wait()
}

// plain measures what endpoint and clients do without a node between them: each resource is
// built, sent, recorded on arrival and noted when it is answered, just as at full speed.
func (b *benchmark) plain(ctx context.Context) error {
	w := &writes{byID: make(map[string]written, b.plan.events)}
	direct := *b.cl
	direct.base = b.sink.url
	began := time.Now()
	b.each(ctx, b.plan.events, func(i int) {
		id := fmt.Sprintf("%s-d-%d", b.id, i)
		body := b.observation(id, 0)
		asked := time.Now()
		_, err := direct.ask(ctx, request{method: http.MethodPost, path: "/s/0/Observation/" + id, contentType: fhirJSON, body: body, minimal: true})
		w.add(id, asked, err)
	})
	b.result.PlainRate = round(float64(len(w.byID)) / time.Since(began).Seconds())
	b.sink.forget()
	if w.err != nil {
		return w.err
	}
	return ctx.Err()
}

// fullSpeed writes as fast as the writers can, to one Subscription.
func (b *benchmark) fullSpeed(ctx context.Context) error {
	w := &writes{byID: make(map[string]written, b.plan.events)}
	began := time.Now()
	b.each(ctx, b.plan.events, func(i int) { b.write(ctx, w, fmt.Sprintf("%s-f-%d", b.id, i), 0) })
	b.result.WriteRate = round(float64(len(w.byID)) / time.Since(began).Seconds())
	if err := b.await(ctx, w, 30*time.Second); err != nil {
		return err
	}
	took := b.sink.lastArrival().Sub(began).Seconds()
	b.result.Throughput = round(float64(len(w.byID)) / took)
	if b.result.PlainRate > 0 {
		b.result.Ratio = round(b.result.Throughput / b.result.PlainRate)
	}
	return nil
}

// pacedPart writes at a steady rate, once with quick endpoints and, if some are to be slow,
// once more.
func (b *benchmark) pacedPart(ctx context.Context) error {
	probe := startProbe(b.probeDir())
	var latencies, times []float64
	var err error
	if b.plan.slow > 0 {
		latencies, _, err = b.paced(ctx, "q")
		if err == nil {
			base := percentilesOf(latencies)
			b.result.Baseline = &base
			b.sink.slowDown(b.plan.slow, b.plan.slowness)
		}
	}
	if err == nil {
		latencies, times, err = b.paced(ctx, "p")
	}
	syncs, perr := probe.stop()
	if err == nil {
		err = perr
	}
	if err != nil {
		return err
	}
	slices.Sort(latencies)
	b.latencies = latencies
	b.result.Latency, b.result.Write = percentilesOf(latencies), percentilesOf(times)
	if len(syncs) > 0 {
		p := percentilesOf(syncs)
		b.result.Fsync = &p
	}
	return nil
}

// paced starts a write whenever one is due, whether or not the earlier ones were answered: a
// server that falls behind shows as latency and not as a lower rate. It returns the latencies
// of deliveries to quick endpoints and the times of all writes, in milliseconds.
func (b *benchmark) paced(ctx context.Context, part string) (latencies, times []float64, err error) {
	n := max(1, int(b.plan.paced.Seconds()*float64(b.plan.rate)))
	w := &writes{byID: make(map[string]written, n)}
	quick := map[string]bool{} // ids that go to endpoints that answer at once
	places := make(chan struct{}, 1024)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(b.plan.rate))
		select {
		case <-ctx.Done():
			wg.Wait()
			return nil, nil, ctx.Err()
		case <-time.After(time.Until(due)):
		}
		id, subscription := fmt.Sprintf("%s-%s-%d", b.id, part, i), 1+i%b.plan.subscriptions
		if !b.sink.isSlow(subscription) {
			quick[id] = true
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			b.write(ctx, w, id, subscription)
		})
	}
	wg.Wait()
	// What is measured is over once the quick endpoints have theirs; the backlog of the slow ones
	// need not be waited for at their pace.
	maps.DeleteFunc(quick, func(id string, _ bool) bool { _, acknowledged := w.byID[id]; return !acknowledged })
	if _, err := b.arrivals(ctx, maps.Keys(quick), 30*time.Second); err != nil {
		return nil, nil, err
	}
	b.sink.slowDown(0, 0)
	if err := b.await(ctx, w, 30*time.Second+2*b.plan.slowness); err != nil {
		return nil, nil, err
	}
	for id, wr := range w.byID {
		times = append(times, milliseconds(wr.acknowledged.Sub(wr.asked)))
		if at, arrived := b.sink.arrival(id); arrived && quick[id] {
			// A notification may overtake the answer to its own write.
			latencies = append(latencies, max(0, milliseconds(at.Sub(wr.acknowledged))))
		}
	}
	return latencies, times, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// await waits for the arrival of every acknowledged write and counts what did not come.
func (b *benchmark) await(ctx context.Context, w *writes, patience time.Duration) error {
	missing, err := b.arrivals(ctx, maps.Keys(w.byID), patience)
	if err != nil {
		return err
	}
	b.result.Acknowledged += len(w.byID)
	b.result.Lost += missing
	b.result.Failed += w.failed
	if len(w.byID) == 0 && w.err != nil {
		return w.err // not one write went well
	}
	return nil
}

// arrivals waits until all have arrived, or nothing has arrived for so long that nothing more
// will, and returns how many are missing. It looks for them only when so many have come that they
// could be complete: looking takes the time of the endpoint.
func (b *benchmark) arrivals(ctx context.Context, ids iter.Seq[string], patience time.Duration) (int, error) {
	missing := b.sink.missing(ids)
	came, last := b.sink.distinct(), time.Now()
	enough := came + len(missing)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for len(missing) > 0 {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-look.C:
		}
		n := b.sink.distinct()
		if n > came {
			came, last = n, time.Now()
		}
		over := time.Since(last) >= patience
		if over || came >= enough {
			missing = b.sink.missing(slices.Values(missing))
			enough = came + len(missing)
		}
		if over {
			break
		}
	}
	return len(missing), nil
}

// probeDir is a folder on the disk of the node, if that is known.
func (b *benchmark) probeDir() string {
	if b.node == nil {
		return ""
	}
	return b.node.dir
}

// measureProcess asks the node what it uses; a server that does not say is left out.
func (b *benchmark) measureProcess(ctx context.Context) {
	a, err := b.cl.do(ctx, request{method: http.MethodGet, path: "/metrics"})
	if err != nil || a.status != http.StatusOK {
		return
	}
	scan := bufio.NewScanner(bytes.NewReader(a.body))
	for scan.Scan() {
		name, value, _ := strings.Cut(scan.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "process_resident_memory_bytes":
			b.result.Memory = round(v / (1 << 20))
		case "process_cpu_seconds_total":
			b.result.CPU = round(v)
		}
	}
}

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

// probe measures what an fsync costs while something else uses the same disk.
type probe struct {
	quit  chan struct{}
	done  chan struct{}
	times []float64
	err   error
}

// startProbe begins to write 4 KiB and sync them twenty times a second. Without a folder it
// measures nothing.
func startProbe(dir string) *probe {
	p := &probe{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if dir != "" {
			p.err = p.run(dir)
		}
	}()
	return p
}

func (p *probe) run(dir string) error {
	f, err := os.Create(filepath.Join(dir, "fsync-probe"))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	block := make([]byte, 4096)
	for {
		select {
		case <-p.quit:
			return nil
		case <-tick.C:
		}
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		p.times = append(p.times, milliseconds(time.Since(began)))
	}
}

func (p *probe) stop() ([]float64, error) {
	close(p.quit)
	<-p.done
	return p.times, p.err
}
