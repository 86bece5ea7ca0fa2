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

   bare publishing  with --nodes 3 or 5: as many writers publish as many messages to the log of
                    as many embedded servers that do nothing else
   idle             with --idle: what the nodes use at rest, once the Subscriptions are stored
   plain POSTs      the same resources from the same clients straight to the endpoint, which
                    records each as it does a notification
   full speed       durable writes and their deliveries with one Subscription, which is the work
                    of one node; --spread uses those of the paced part
   paced            --rate writes a second: from the acknowledged write to the arrival; beside it
                    the time the disk takes for an fsync, in the same minute and folder
   takeovers        with --takeovers N: N times the node that leads the log is killed under a
                    steady load, and N/4 times, but 3 at least, stopped: the longest time without
                    an acknowledged write until all nodes are ready again. A write that a node
                    does not take is sent to the next one, with the same Idempotency-Key.

The clients ask for return=minimal and no compression, keep their connections, and share the
machine with the nodes. The nodes of a cluster have three copies of the log, on one disk here,
and certificates for the routes between them; writers are spread over them. CPU per event is
that of all nodes at full speed. Each acknowledged write must arrive; repeats are counted. The
exit code is 1 if one was lost.
With --slow N the paced part runs twice, the second time with N of the Subscriptions' endpoints
answering after 4 s, and the figures are those of the others.`,
			"carillon bench --events 20000",
			"carillon bench --subscriptions 100 --slow 20 --svg latency.svg -o csv",
			"carillon bench --nodes 3 --takeovers 20",
			"carillon bench --nodes 5 --subscriptions 100 --spread",
			"carillon bench --nodes 3 --subscriptions 10000 --idle 1m -o json"),
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "events", Usage: "writes at full speed", Value: 20_000},
			&cli.IntFlag{Name: "subscriptions", Usage: "Subscriptions of the paced part; each write meets one", Value: 1},
			&cli.IntFlag{Name: "rate", Usage: "writes a second of the paced part", Value: 100},
			&cli.DurationFlag{Name: "paced", Usage: "length of the paced part", Value: 20 * time.Second},
			&cli.IntFlag{Name: "writers", Usage: "clients that write at a time", Value: 256},
			&cli.IntFlag{Name: "size", Usage: "bytes of a resource", Value: 1024},
			&cli.IntFlag{Name: "slow", Usage: "endpoints that answer after 4 s"},
			&cli.BoolFlag{Name: "spread", Usage: "at full speed too each write meets one of --subscriptions, so that all nodes send"},
			&cli.IntFlag{Name: "nodes", Usage: "nodes to start: 1, 3 or 5", Value: 1},
			&cli.DurationFlag{Name: "idle", Usage: "how long to measure the nodes at rest"},
			&cli.IntFlag{Name: "takeovers", Usage: "how often to kill the node that leads the log"},
			&cli.StringFlag{Name: "sink", Usage: "`ADDR` of the endpoint", Value: "127.0.0.1:0"},
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` of the one node that is started"},
			&cli.StringFlag{Name: "svg", Usage: "draw the distribution of latency into `FILE`"},
		},
		Action: action(0, 0, bench),
	}
}

// benchPlan is what the flags ask for.
type benchPlan struct {
	events, subscriptions, rate, writers, size, slow, nodes, takeovers int

	paced, idle time.Duration
	slowness    time.Duration
	spread      bool // full speed meets the Subscriptions of the paced part
	elsewhere   bool // the server runs already
}

func (c *call) benchPlan() (benchPlan, error) {
	p := benchPlan{
		events: c.Int("events"), subscriptions: c.Int("subscriptions"), rate: c.Int("rate"), writers: c.Int("writers"),
		size: c.Int("size"), slow: c.Int("slow"), nodes: c.Int("nodes"), takeovers: c.Int("takeovers"),
		paced: c.Duration("paced"), idle: c.Duration("idle"), slowness: 4 * time.Second, spread: c.Bool("spread"),
		// A server that a variable or a saved context names is not meant to be flooded.
		elsewhere: c.String("server") != "" || c.String("context") != "",
	}
	for _, f := range []struct {
		name        string
		n, min, max int
	}{
		{"events", p.events, 1, 100_000_000}, {"subscriptions", p.subscriptions, 1, 100_000}, {"rate", p.rate, 1, 100_000},
		{"writers", p.writers, 1, 4096}, {"size", p.size, 400, 4 << 20}, {"slow", p.slow, 0, p.subscriptions - 1},
		{"takeovers", p.takeovers, 0, 10_000},
	} {
		if f.n < f.min || f.n > f.max {
			return p, usage("--%s %d is not between %d and %d", f.name, f.n, f.min, f.max)
		}
	}
	if p.paced < 100*time.Millisecond {
		return p, usage("--paced %s is too short", p.paced)
	}
	if p.idle != 0 && p.idle < 100*time.Millisecond {
		return p, usage("--idle %s is too short", p.idle)
	}
	return p, p.checkNodes(c.String("config"))
}

// checkNodes refuses what cannot be asked of so many nodes.
func (p benchPlan) checkNodes(configFile string) error {
	switch {
	case p.nodes != 1 && p.nodes != 3 && p.nodes != 5:
		return usage("--nodes %d: use 1, 3 or 5", p.nodes)
	case p.elsewhere && p.nodes > 1:
		return usage("--nodes starts nodes, and --server and --context name one that runs: give one of them")
	case p.takeovers > 0 && p.nodes < 3:
		return usage("--takeovers kills nodes that it has started: it needs --nodes 3 or 5")
	case configFile != "" && (p.nodes > 1 || p.elsewhere):
		return usage("--config is for one node that is started, without --nodes, --server and --context")
	}
	return nil
}

func bench(c *call) error {
	plan, err := c.benchPlan()
	if err != nil {
		return err
	}
	ctx, stop := c.interruptible()
	defer stop()
	b, err := newBenchmark(c, plan)
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

// benchmark is one run: nodes, an endpoint, and the clients between them.
type benchmark struct {
	c      *call
	plan   benchPlan
	id     string // of the run, in every resource id, so that runs on one server do not mix
	dir    string // holds what the nodes write; empty with --server
	sink   *sink
	cl     *client // for the server that is named; the nodes have copies of their own
	nodes  []*benchNode
	result benchResult

	latencies []float64 // of the paced part, sorted, milliseconds
}

func newBenchmark(c *call, plan benchPlan) (*benchmark, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	// Each writer keeps its connection, to the endpoint and to the nodes alike.
	cl.http.Transport = &http.Transport{MaxIdleConnsPerHost: plan.writers * 2, DisableCompression: true}
	b := &benchmark{c: c, plan: plan, id: strings.ToLower(rand.Text()[:6]), cl: cl}
	b.result = benchResult{
		Version: version(), Events: plan.events, Writers: plan.writers, Size: plan.size,
		Subscriptions: plan.subscriptions, Slow: plan.slow, Rate: plan.rate, Nodes: plan.nodes,
	}
	l, err := net.Listen("tcp", c.String("sink"))
	if err != nil {
		return nil, err
	}
	if plan.elsewhere {
		b.nodes = []*benchNode{{name: "server", cl: cl}}
	} else if b.dir, err = os.MkdirTemp(".", "carillon-bench-"); err != nil {
		// It is below the current folder since the system's folder for temporary files is often in
		// memory, where an fsync costs nothing.
		return nil, errors.Join(err, l.Close())
	}
	b.sink = startSink(l)
	return b, nil
}

// close removes what the run has made: its Subscriptions on a server that goes on, everything
// with nodes of its own.
func (b *benchmark) close() error {
	var err error
	if b.plan.elsewhere {
		err = b.unsubscribe()
	} else {
		b.stopNodes()
		err = os.RemoveAll(b.dir)
	}
	b.cl.http.CloseIdleConnections()
	return errors.Join(err, b.sink.close())
}

func (b *benchmark) run(ctx context.Context) error {
	for _, s := range []struct {
		wanted bool
		what   string
		do     func(context.Context) error
	}{
		// First, while no node uses the same processors.
		{b.plan.nodes > 1, fmt.Sprintf("bare publishing to the log of %d servers", b.plan.nodes), b.barePublishing},
		{!b.plan.elsewhere, "starting " + count(b.plan.nodes, "node"), b.startNodes},
		{true, "storing Subscriptions", b.subscribe},
		{b.plan.idle > 0, fmt.Sprintf("at rest for %s", b.plan.idle), b.idle},
		{true, "plain POSTs to the endpoint", b.plain},
		{true, "writes at full speed", b.fullSpeed},
		{true, "writes at a steady rate", b.pacedPart},
		{true, "asking the nodes what they used", b.figures}, // before takeovers begin their counts anew
		{b.plan.takeovers > 0, "taking nodes away under load", b.takeovers},
	} {
		if !s.wanted {
			continue
		}
		b.c.note("%s", s.what)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	b.result.Duplicates = b.sink.duplicates()
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (b *benchmark) subscriptionID(i int) string { return fmt.Sprintf("bench-%s-%d", b.id, i) }

// fast is the Subscription that the i-th write at full speed meets.
func (b *benchmark) fast(i int) int {
	if b.plan.spread {
		return 1 + i%b.plan.subscriptions
	}
	return 0
}

// subscribe stores Subscription 0, for full speed, and those of the paced part from 1. Each has
// a code of its own in its criteria.
func (b *benchmark) subscribe(ctx context.Context) error {
	return b.eachSubscription(ctx, func(ctx context.Context, to *benchNode, i int) error {
		body, err := json.Marshal(map[string]any{
			"resourceType": "Subscription",
			"id":           b.subscriptionID(i),
			"status":       "active",
			"reason":       "carillon bench",
			"criteria":     fmt.Sprintf("Observation?code=%s|%s", benchSystem, b.code(i)),
			"channel": map[string]any{
				"type": "rest-hook", "endpoint": fmt.Sprintf("%s/s/%d", b.sink.url, i), "payload": fhirJSON,
			},
		})
		if err != nil {
			return err
		}
		_, err = to.cl.ask(ctx, request{
			method: http.MethodPut, path: "/fhir/Subscription/" + b.subscriptionID(i), contentType: fhirJSON, body: body, minimal: true,
		})
		return err
	})
}

func (b *benchmark) unsubscribe() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.c.ctx()), time.Minute)
	defer cancel()
	return b.eachSubscription(ctx, func(ctx context.Context, to *benchNode, i int) error {
		_, err := to.cl.ask(ctx, request{method: http.MethodDelete, path: "/fhir/Subscription/" + b.subscriptionID(i)})
		if err != nil {
			return fmt.Errorf("remove Subscription/%s: %w", b.subscriptionID(i), err)
		}
		return nil
	})
}

// eachSubscription calls f from several writers, until one fails.
func (b *benchmark) eachSubscription(ctx context.Context, f func(ctx context.Context, to *benchNode, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	each(ctx, b.plan.writers, b.plan.subscriptions+1, func(writer, i int) {
		if err := f(ctx, b.nodeOf(writer), i); err != nil {
			cancel(err)
		}
	})
	return context.Cause(ctx)
}

const benchSystem = "http://carillon.example/bench"

func (b *benchmark) code(i int) string { return fmt.Sprintf("%s-%d", b.id, i) }

// observation is a resource of the planned size that meets one Subscription.
func (b *benchmark) observation(id string, subscription int) []byte {
	return paddedObservation(id, b.code(subscription), b.plan.size)
}

func paddedObservation(id, code string, size int) []byte {
	head := fmt.Sprintf(`{"resourceType":"Observation","id":%q,"status":"final","code":{"coding":[{"system":%q,"code":%q}]},"note":[{"text":"`,
		id, benchSystem, code)
	const end = `"}]}`
	pad := max(1, size-len(head)-len(end))
	return []byte(head + strings.Repeat("x", pad) + end)
}
