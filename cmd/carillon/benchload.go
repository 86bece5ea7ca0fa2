package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
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

// write writes one resource to a node.
func (b *benchmark) write(ctx context.Context, w *writes, to *benchNode, id string, subscription int) {
	body := b.observation(id, subscription)
	asked := time.Now()
	_, err := to.cl.ask(ctx, request{method: http.MethodPut, path: "/fhir/Observation/" + id, contentType: fhirJSON, body: body, minimal: true})
	w.add(id, asked, err)
}

// nodeOf spreads writers, or writes, over the nodes.
func (b *benchmark) nodeOf(i int) *benchNode { return b.nodes[i%len(b.nodes)] }

// each calls f with 0 to n-1 from a number of writers until ctx ends.
func each(ctx context.Context, writers, n int, f func(writer, i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for writer := range min(writers, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(writer, i)
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
	each(ctx, b.plan.writers, b.plan.events, func(_, i int) {
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

// fullSpeed writes as fast as the writers can. Each writer keeps to its node.
func (b *benchmark) fullSpeed(ctx context.Context) error {
	w := &writes{byID: make(map[string]written, b.plan.events)}
	used, began := b.cpu(ctx), time.Now()
	each(ctx, b.plan.writers, b.plan.events, func(writer, i int) {
		b.write(ctx, w, b.nodeOf(writer), fmt.Sprintf("%s-f-%d", b.id, i), b.fast(i))
	})
	b.result.WriteRate = round(float64(len(w.byID)) / time.Since(began).Seconds())
	if err := b.await(ctx, w, 30*time.Second); err != nil {
		return err
	}
	took := b.sink.lastArrival().Sub(began).Seconds()
	b.result.Throughput = round(float64(len(w.byID)) / took)
	b.result.CPUPerEvent = perEvent(b.cpu(ctx)-used, len(w.byID))
	if b.result.PlainRate > 0 {
		b.result.Ratio = round(b.result.Throughput / b.result.PlainRate)
	}
	if b.result.BareRate > 0 {
		b.result.BareRatio = round(b.result.WriteRate / b.result.BareRate)
	}
	return nil
}

// pacedPart writes at a steady rate, once with quick endpoints and, if some are to be slow,
// once more.
func (b *benchmark) pacedPart(ctx context.Context) error {
	probe := startProbe(b.dir)
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
			b.write(ctx, w, b.nodeOf(i), id, subscription)
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
