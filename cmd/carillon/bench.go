package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name:  "bench",
		Usage: "measure throughput, latency and memory, and look for losses",
		Description: help(`Starts a node as a process of its own on new data below the current folder (or takes the one
of --server), writes Observations, receives their notifications in an endpoint of its own, and
removes everything again. It measures, in this order:

   plain POSTs      the same resources from the same clients straight to the endpoint, which
                    records each as it does a notification
   full speed       durable writes and their deliveries with one Subscription
   paced            --rate writes a second: from the acknowledged write to the arrival; beside it
                    the time the disk takes for an fsync, in the same minute and folder

The clients ask for return=minimal and no compression, keep their connections, and share the
machine with the node. Each acknowledged write must arrive; repeats are counted. The exit code is 1 if one was lost.
With --slow N the paced part runs twice, the second time with N of the Subscriptions' endpoints
answering after 4 s, and the figures are those of the others.`,
			"carillon bench --events 20000",
			"carillon bench --subscriptions 100 --slow 20 --svg latency.svg -o csv"),
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "events", Usage: "writes at full speed", Value: 20_000},
			&cli.IntFlag{Name: "subscriptions", Usage: "Subscriptions of the paced part; each write meets one", Value: 1},
			&cli.IntFlag{Name: "rate", Usage: "writes a second of the paced part", Value: 100},
			&cli.DurationFlag{Name: "paced", Usage: "length of the paced part", Value: 20 * time.Second},
			&cli.IntFlag{Name: "writers", Usage: "clients that write at a time", Value: 256},
			&cli.IntFlag{Name: "size", Usage: "bytes of a resource", Value: 1024},
			&cli.IntFlag{Name: "slow", Usage: "endpoints that answer after 4 s"},
			&cli.StringFlag{Name: "sink", Usage: "`ADDR` of the endpoint", Value: "127.0.0.1:0"},
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` of the node that is started"},
			&cli.StringFlag{Name: "svg", Usage: "draw the distribution of latency into `FILE`"},
		},
		Action: action(0, 0, bench),
	}
}

// benchPlan is what the flags ask for.
type benchPlan struct {
	events, subscriptions, rate, writers, size, slow int
	paced                                            time.Duration
	slowness                                         time.Duration
}

func (c *call) benchPlan() (benchPlan, error) {
	p := benchPlan{
		events: c.Int("events"), subscriptions: c.Int("subscriptions"), rate: c.Int("rate"), writers: c.Int("writers"),
		size: c.Int("size"), slow: c.Int("slow"), paced: c.Duration("paced"), slowness: 4 * time.Second,
	}
	for _, f := range []struct {
		name        string
		n, min, max int
	}{
		{"events", p.events, 1, 100_000_000}, {"subscriptions", p.subscriptions, 1, 100_000}, {"rate", p.rate, 1, 100_000},
		{"writers", p.writers, 1, 4096}, {"size", p.size, 400, 4 << 20}, {"slow", p.slow, 0, p.subscriptions - 1},
	} {
		if f.n < f.min || f.n > f.max {
			return p, usage("--%s %d is not between %d and %d", f.name, f.n, f.min, f.max)
		}
	}
	if p.paced < 100*time.Millisecond {
		return p, usage("--paced %s is too short", p.paced)
	}
	return p, nil
}

// benchResult is what is printed; rates are a second, times milliseconds, memory MiB.
type benchResult struct {
	Version       string       `json:"version"`
	Events        int          `json:"events"`
	Writers       int          `json:"writers"`
	Size          int          `json:"size"`
	Subscriptions int          `json:"subscriptions"`
	Slow          int          `json:"slow"`
	PlainRate     float64      `json:"plainRate"`
	WriteRate     float64      `json:"writeRate"`  // acknowledged
	Throughput    float64      `json:"throughput"` // from the first write to the last arrival
	Ratio         float64      `json:"ratio"`      // of throughput to plain POSTs
	Rate          int          `json:"rate"`
	Latency       percentiles  `json:"latency"`            // acknowledged write to arrival
	Baseline      *percentiles `json:"baseline,omitempty"` // the same before endpoints were slow
	Write         percentiles  `json:"write"`              // request to acknowledgement, paced
	Fsync         *percentiles `json:"fsync,omitempty"`    // of the same disk; unknown for --server
	Acknowledged  int          `json:"acknowledged"`
	Lost          int          `json:"lost"`
	Duplicates    int          `json:"duplicates"`
	Failed        int          `json:"failed"` // writes that were not acknowledged
	Memory        float64      `json:"memoryMiB,omitempty"`
	CPU           float64      `json:"cpuSeconds,omitempty"`
}

func bench(c *call) error {
	plan, err := c.benchPlan()
	if err != nil {
		return err
	}
	ctx, stop := c.interruptible()
	defer stop()
	b, err := newBenchmark(ctx, c, plan)
	if err != nil {
		return err
	}
	err = b.run(ctx)
	if cerr := b.close(); err == nil {
		err = cerr
	}
	if err != nil {
		if ctx.Err() != nil {
			return exit(exitFailed, "interrupted")
		}
		return err
	}
	if file := c.String("svg"); file != "" {
		if err := os.WriteFile(file, latencySVG(b.latencies, b.result), 0o644); err != nil {
			return err
		}
		c.note("drew %s", file)
	}
	if err := b.print(); err != nil {
		return err
	}
	if b.result.Lost > 0 {
		return exit(exitFailed, "%d acknowledged writes did not arrive", b.result.Lost)
	}
	return nil
}

// benchmark is one run: a node, an endpoint, and the clients between them.
type benchmark struct {
	c      *call
	plan   benchPlan
	id     string // of the run, in every resource id, so that runs on one server do not mix
	sink   *sink
	node   *childNode // nil with --server
	cl     *client
	result benchResult

	latencies []float64 // of the paced part, sorted, milliseconds
}

func newBenchmark(ctx context.Context, c *call, plan benchPlan) (*benchmark, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	b := &benchmark{c: c, plan: plan, id: strings.ToLower(rand.Text()[:6])}
	l, err := net.Listen("tcp", c.String("sink"))
	if err != nil {
		return nil, err
	}
	b.sink = startSink(l)
	// A server that a variable or a saved context names is not meant to be flooded.
	if c.String("server") == "" && c.String("context") == "" {
		c.note("starting a node")
		b.node, err = startChild(ctx, c.String("config"))
		if err != nil {
			return nil, errors.Join(err, b.sink.close())
		}
		cl.base = b.node.url
	}
	// Each writer keeps its connection, to the endpoint and to the node alike.
	cl.http.Transport = &http.Transport{MaxIdleConnsPerHost: plan.writers * 2, DisableCompression: true}
	b.cl = cl
	b.result = benchResult{
		Version: version(), Events: plan.events, Writers: plan.writers, Size: plan.size,
		Subscriptions: plan.subscriptions, Slow: plan.slow, Rate: plan.rate,
	}
	return b, nil
}

// close removes what the run has made: its Subscriptions on a server that goes on, everything
// with a node of its own.
func (b *benchmark) close() error {
	var errs []error
	if b.node != nil {
		errs = append(errs, b.node.close())
	} else {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.c.ctx()), time.Minute)
		defer cancel()
		for i := range b.plan.subscriptions + 1 {
			if _, err := b.cl.ask(ctx, request{method: http.MethodDelete, path: "/fhir/Subscription/" + b.subscriptionID(i)}); err != nil {
				errs = append(errs, fmt.Errorf("remove Subscription/%s: %w", b.subscriptionID(i), err))
				break
			}
		}
	}
	b.cl.http.CloseIdleConnections()
	return errors.Join(append(errs, b.sink.close())...)
}

func (b *benchmark) run(ctx context.Context) error {
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"storing Subscriptions", b.subscribe},
		{"plain POSTs to the endpoint", b.plain},
		{"writes at full speed", b.fullSpeed},
		{"writes at a steady rate", b.pacedPart},
	}
	for _, s := range steps {
		b.c.note("%s", s.what)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	b.result.Duplicates = b.sink.duplicates()
	b.measureProcess(ctx)
	return nil
}

func (b *benchmark) subscriptionID(i int) string { return fmt.Sprintf("bench-%s-%d", b.id, i) }

// subscribe stores Subscription 0, for full speed, and those of the paced part from 1. Each has
// a code of its own in its criteria.
func (b *benchmark) subscribe(ctx context.Context) error {
	for i := range b.plan.subscriptions + 1 {
		s := map[string]any{
			"resourceType": "Subscription",
			"id":           b.subscriptionID(i),
			"status":       "active",
			"reason":       "carillon bench",
			"criteria":     fmt.Sprintf("Observation?code=%s|%s", benchSystem, b.code(i)),
			"channel": map[string]any{
				"type": "rest-hook", "endpoint": fmt.Sprintf("%s/s/%d", b.sink.url, i), "payload": fhirJSON,
			},
		}
		body, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if _, err := b.cl.ask(ctx, request{method: http.MethodPut, path: "/fhir/Subscription/" + b.subscriptionID(i), contentType: fhirJSON, body: body}); err != nil {
			return err
		}
	}
	return nil
}

const benchSystem = "http://carillon.example/bench"

func (b *benchmark) code(i int) string { return fmt.Sprintf("%s-%d", b.id, i) }

// observation is a resource of the planned size that meets one Subscription.
func (b *benchmark) observation(id string, subscription int) []byte {
	head := fmt.Sprintf(`{"resourceType":"Observation","id":%q,"status":"final","code":{"coding":[{"system":%q,"code":%q}]},"note":[{"text":"`,
		id, benchSystem, b.code(subscription))
	const end = `"}]}`
	pad := max(1, b.plan.size-len(head)-len(end))
	return []byte(head + strings.Repeat("x", pad) + end)
}

func (b *benchmark) print() error {
	out, err := json.Marshal(b.result)
	if err != nil {
		return err
	}
	spec := "EVENTS=events WRITERS=writers SIZE=size SUBSCRIPTIONS=subscriptions PLAIN_POSTS_A_SECOND=plainRate WRITES_A_SECOND=writeRate " +
		"DELIVERED_A_SECOND=throughput SHARE_OF_PLAIN=ratio RATE_OF_PACED_PART=rate LATENCY_P50_MS=latency.p50 LATENCY_P90_MS=latency.p90 " +
		"LATENCY_P99_MS=latency.p99 LATENCY_MAX_MS=latency.max "
	if b.result.Baseline != nil {
		spec += "SLOW_ENDPOINTS=slow P50_WITHOUT_SLOW_MS=baseline.p50 P99_WITHOUT_SLOW_MS=baseline.p99 "
	}
	spec += "WRITE_P50_MS=write.p50 WRITE_P99_MS=write.p99 "
	if b.result.Fsync != nil {
		spec += "FSYNC_P50_MS=fsync.p50 FSYNC_P99_MS=fsync.p99 "
	}
	spec += "ACKNOWLEDGED=acknowledged LOST=lost DUPLICATES=duplicates FAILED=failed MEMORY_MIB=memoryMiB CPU_S=cpuSeconds"
	return b.c.out.object(out, columns(spec))
}
