package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what a run does.
type Options struct {
	Binary string
	Env    []string // of the nodes
	Nodes  int
	Seed   uint64

	// Steps are made in this order, or drawn by the seed For so long where there are none.
	Steps []Step
	For   time.Duration
	Only  []string // faults to draw from; empty: all

	// Patience is how long the run waits for anything to arrive, once all is healed, before it
	// gives up. Retries are never further apart than a few seconds, a takeover than ten.
	Patience time.Duration

	Writers int           // HTTP writers; one NATS producer is beside them
	Pace    time.Duration // mean wait between two writes of a writer
	Disk    int64         // bytes of each node's file system
	Keep    string        // folder for the history and the logs; empty: a new one, if the run fails
	Log     func(format string, args ...any)
}

// Run makes a machine, a cluster and a workload, breaks, heals, and checks. The error says that
// the run itself could not be made or did not recover; the promises are in the report.
func Run(ctx context.Context, o Options) (report Report, err error) {
	m, err := NewMachine(o.Nodes)
	if err != nil {
		return report, err
	}
	defer m.Close()
	if err := m.Namespaces(); err != nil {
		o.Log("%v: partitions and links are left out", err)
	}
	c, err := NewCluster(m, o.Binary, o.Disk, o.Env)
	if err != nil {
		return report, err
	}
	if err := c.Nodes[0].Disk.Own(); err != nil {
		o.Log("%v: power cuts and full disks are left out", err)
	}
	history, err := NewHistory(filepath.Join(m.Dir, "history.jsonl"))
	if err != nil {
		return report, err
	}
	endpoints, err := NewEndpoints(m.Gateway, history)
	if err != nil {
		return report, err
	}
	r := &running{Options: o, cluster: c, history: history, endpoints: endpoints, subs: subscriptions()}
	err = r.run(ctx)
	c.KillAll()
	err = errors.Join(err, endpoints.Close(), history.Close())
	report = Check(history.Since(0), r.subs)
	if err != nil {
		// Nobody waited for what was on its way, so nothing is known to be lost.
		report.Violations = slices.DeleteFunc(report.Violations, func(v Violation) bool { return v.Check == "lost" || v.Check == "gaps" })
		report.Violations = append(report.Violations, Violation{"recovery", err.Error()})
	}
	if err == nil && len(report.Violations) == 0 && o.Keep == "" {
		return report, nil
	}
	kept, keepErr := keep(m, o)
	o.Log("history, logs and configuration are in %s", kept)
	return report, errors.Join(err, keepErr)
}

// running is a run under way.
type running struct {
	Options
	cluster   *Cluster
	history   *History
	endpoints *Endpoints
	subs      []Subscription
}

// ready is how long the nodes may take to serve after a start.
const ready = 90 * time.Second

func (r *running) run(ctx context.Context) error {
	if err := r.cluster.StartAll(ctx, ready); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := r.subscribe(ctx); err != nil {
		return err
	}
	load := StartWorkload(ctx, r.cluster, r.history, r.subs, r.endpoints.URL, r.Seed, r.Writers, r.Pace)
	err := await(ctx, 20*time.Second, func() error { // what is broken has to be at work
		if load.Acknowledged() < 20 {
			return fmt.Errorf("only %d writes were acknowledged", load.Acknowledged())
		}
		return nil
	})
	if err == nil {
		err = r.breakThings(ctx)
	}
	load.Stop()
	if err != nil {
		return err
	}
	if err := r.quiesce(ctx); err != nil {
		r.history.Notef("%v", err) // the checker tells what is missing
		r.Log("%v", err)
	}
	r.collect(ctx)
	return ctx.Err()
}

// subscribe makes the Subscriptions and waits until every node has them in force.
func (r *running) subscribe(ctx context.Context) error {
	first := r.cluster.Nodes[0]
	for _, s := range r.subs {
		r.endpoints.Behave(s.ID, s.Behaviour)
		a, err := first.Do(ctx, "PUT", "/fhir/Subscription/"+s.ID, []byte(s.json(r.endpoints.URL)))
		if err != nil {
			return fmt.Errorf("create Subscription %s: %w", s.ID, err)
		}
		if a.Status != http.StatusCreated {
			return fmt.Errorf("create Subscription %s: status %d: %s", s.ID, a.Status, a.Body)
		}
	}
	return r.cluster.each(func(n *Node) error {
		for _, s := range r.subs {
			if err := await(ctx, 20*time.Second, func() error {
				var state struct{ Status string }
				if err := n.JSON(ctx, "/admin/api/v1/subscriptions/"+s.ID, &state); err != nil {
					return err
				}
				if state.Status != "active" {
					return fmt.Errorf("Subscription %s is %s on %s", s.ID, state.Status, n.Name)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// await repeats a question until it has no error, and returns the last one when time is up.
func await(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// breakThings makes the steps.
func (r *running) breakThings(ctx context.Context) error {
	n := &Nemesis{Cluster: r.cluster, Endpoints: r.endpoints, History: r.history, Subs: r.subs, Ready: ready}
	do := func(k int, s Step) error {
		r.Log("step %d at %s: %s on %s for %s", k, r.history.Now().Round(time.Second), s.Fault, r.cluster.Nodes[s.Node].Name, s.Hold)
		return n.Do(ctx, s)
	}
	if len(r.Steps) > 0 {
		for k, s := range r.Steps {
			if err := do(k+1, s); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	next := Schedule(r.Seed, len(r.cluster.Nodes), r.Only)
	for k := 1; r.history.Now() < r.For && ctx.Err() == nil; k++ {
		if err := do(k, next()); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// quiesce waits until nothing is on its way any more: all that is owed has arrived, and no
// node has anything pending.
func (r *running) quiesce(ctx context.Context) error {
	moved, known := time.Now(), 0
	for {
		err := r.quiet(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if n := len(r.history.Since(0)); n != known {
			moved, known = time.Now(), n
		}
		if time.Since(moved) > r.Patience {
			return fmt.Errorf("nothing arrived for %s: %w", r.Patience, err)
		}
		sleep(ctx, time.Second)
	}
}

// quiet is nil when nothing is on its way, else what is.
func (r *running) quiet(ctx context.Context) error {
	for _, n := range r.cluster.Nodes {
		var status struct{ Pending int }
		if err := n.JSON(ctx, "/admin/api/v1/status", &status); err != nil {
			return err
		}
		if status.Pending > 0 {
			return fmt.Errorf("%s has %d pending", n.Name, status.Pending)
		}
	}
	first := r.cluster.Nodes[0]
	listed, err := r.deadLetters(ctx, first)
	if err != nil {
		return err
	}
	for _, s := range r.subs {
		if s.Deletes { // the arrival of a delete does not tell its version
			events, err := r.events(ctx, first, s)
			if err != nil {
				return err
			}
			listed = append(listed, events...)
		}
	}
	for _, v := range Check(append(r.history.Since(0), listed...), r.subs).Violations {
		if v.Check == "lost" {
			return errors.New(v.Text)
		}
	}
	return nil
}

// deadLetters lists the dead letters of a node.
func (r *running) deadLetters(ctx context.Context, n *Node) ([]Record, error) {
	var letters []struct {
		Subscription, Resource, State string
		Number, Event                 uint64
	}
	if err := n.JSON(ctx, "/admin/api/v1/dlq?limit=10000", &letters); err != nil {
		return nil, err
	}
	var all []Record
	for _, l := range letters {
		if l.Subscription == "ingest" {
			all = append(all, Record{At: r.history.Now(), Kind: Finding, Node: n.Name, Resource: l.Resource, Text: "the event was set aside"})
			continue
		}
		all = append(all, Record{At: r.history.Now(), Kind: Dead, Node: n.Name, Subscription: l.Subscription, Resource: l.Resource, Number: l.Number, Version: l.Event})
	}
	return all, nil
}

// collect writes down what the nodes say when all is quiet.
func (r *running) collect(ctx context.Context) {
	first := r.cluster.Nodes[0]
	dead, err := r.deadLetters(ctx, first)
	if err != nil {
		r.finding(first.Name, err.Error())
	}
	for i, d := range dead {
		if d.Kind == Dead && i < readSample {
			d.Sum = r.letter(ctx, first, d)
		}
		r.history.Add(d)
	}
	_ = r.cluster.each(func(n *Node) error {
		r.collectEvents(ctx, n)
		r.collectReads(ctx, n)
		for _, bad := range n.logFindings() {
			r.finding(n.Name, bad)
		}
		return nil
	})
	r.verify(ctx)
}

// letter reads the notification of a dead letter and returns the sum of its content.
func (r *running) letter(ctx context.Context, n *Node, d Record) string {
	var letter struct{ Notification []byte }
	err := n.JSON(ctx, fmt.Sprintf("/admin/api/v1/dlq/%s.%d", d.Subscription, d.Number), &letter)
	if err == nil {
		var c content
		if c, err = readContent(letter.Notification); err == nil {
			return c.sum
		}
	}
	r.finding(n.Name, fmt.Sprintf("dead letter %s.%d of %s: %v", d.Subscription, d.Number, d.Resource, err))
	return ""
}

func (r *running) finding(node, text string) {
	r.history.Add(Record{Kind: Finding, Node: node, Text: text})
}

// collectEvents lists every event of every Subscription.
func (r *running) collectEvents(ctx context.Context, n *Node) {
	for _, s := range r.subs {
		events, err := r.events(ctx, n, s)
		if err != nil {
			r.finding(n.Name, err.Error())
		}
		for _, e := range events {
			r.history.Add(e)
		}
		var state struct{ Status, Reason string }
		if err := n.JSON(ctx, "/admin/api/v1/subscriptions/"+s.ID, &state); err != nil {
			r.finding(n.Name, err.Error())
		} else if state.Status != "active" {
			r.finding(n.Name, fmt.Sprintf("Subscription %s is %s: %s", s.ID, state.Status, state.Reason))
		}
	}
}

// events lists the events of a Subscription as a node has them.
func (r *running) events(ctx context.Context, n *Node, s Subscription) ([]Record, error) {
	var all []Record
	for since := uint64(1); ; {
		var events []struct {
			Number, Event                uint64
			Resource, Interaction, State string
		}
		const page = 10_000
		if err := n.JSON(ctx, fmt.Sprintf("/admin/api/v1/subscriptions/%s/events?since=%d&limit=%d", s.ID, since, page), &events); err != nil {
			return all, err
		}
		for _, e := range events {
			all = append(all, Record{
				At: r.history.Now(), Kind: Numbered, Node: n.Name, Subscription: s.ID, Number: e.Number,
				Version: e.Event, Resource: e.Resource, Interaction: e.Interaction, Text: e.State,
			})
			since = e.Number + 1
		}
		if len(events) < page {
			return all, nil
		}
	}
}

// readSample is how many versions are read back from each node.
const readSample = 2000

// collectReads reads acknowledged versions back, and the newest of each resource.
func (r *running) collectReads(ctx context.Context, n *Node) {
	var acked []Record
	newest := map[string]bool{}
	for _, rec := range r.history.Since(0) {
		if rec.Kind == Acknowledged && rec.Version > 0 {
			newest[rec.Resource] = true
			if rec.Interaction == "write" {
				acked = append(acked, rec)
			}
		}
	}
	var ask []Record
	for _, res := range slices.Sorted(maps.Keys(newest)) {
		ask = append(ask, Record{Kind: Read, Node: n.Name, Resource: res, Text: "newest"})
	}
	for i := range min(readSample, len(acked)) { // evenly over the run, the last one included
		a := acked[len(acked)-1-i*len(acked)/min(readSample, len(acked))]
		ask = append(ask, Record{Kind: Read, Node: n.Name, Resource: a.Resource, Version: a.Version})
	}
	var readers sync.WaitGroup
	work := make(chan Record)
	for range 8 {
		readers.Go(func() {
			for rec := range work {
				r.read(ctx, n, rec)
			}
		})
	}
	for _, rec := range ask {
		work <- rec
	}
	close(work)
	readers.Wait()
}

func (r *running) read(ctx context.Context, n *Node, rec Record) {
	path := "/fhir/" + rec.Resource
	if rec.Version > 0 {
		path += fmt.Sprintf("/_history/%d", rec.Version)
	}
	a, err := n.Do(ctx, "GET", path, nil)
	if err != nil {
		r.finding(n.Name, fmt.Sprintf("read %s: %v", path, err))
		return
	}
	rec.Status = a.Status
	if rec.Version == 0 {
		if rec.Version, err = r.newest(ctx, n, path); err != nil {
			r.finding(n.Name, err.Error())
			return
		}
	} else if content, err := readContent(a.Body); err == nil {
		rec.Sum = content.sum
	}
	r.history.Add(rec)
}

// newest is the version of the newest entry of a resource's history, a delete included.
func (r *running) newest(ctx context.Context, n *Node, path string) (uint64, error) {
	var bundle struct {
		Entry []struct{ Response struct{ ETag string } }
	}
	if err := n.JSON(ctx, path+"/_history", &bundle); err != nil {
		return 0, err
	}
	if len(bundle.Entry) == 0 {
		return 0, fmt.Errorf("%s has no history of %s", n.Name, path)
	}
	return etag(bundle.Entry[0].Response.ETag), nil
}

// verify lets the nodes compare their projections, where the binary has that command.
func (r *running) verify(ctx context.Context) {
	n := r.cluster.Nodes[0]
	help, _, err := n.CLI(ctx, "cluster", "--help")
	if err != nil || !strings.Contains(help, "verify") {
		r.history.Notef("no cluster verify in this binary")
		return
	}
	out, code, err := n.CLI(ctx, "cluster", "verify")
	if err != nil || code != 0 {
		r.finding(n.Name, fmt.Sprintf("cluster verify: code %d, %v: %s", code, err, clip(out, 1000)))
	}
}

// keep saves what a failed run leaves for its reader.
func keep(m *Machine, o Options) (string, error) {
	dir := o.Keep
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", fmt.Sprintf("chaos-seed-%d-", o.Seed)); err != nil {
			return "", err
		}
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(m.Dir, "*", "log.json"))
	if err != nil {
		return dir, err
	}
	files = append(files, filepath.Join(m.Dir, "history.jsonl"), filepath.Join(m.Dir, "cluster.yaml"))
	var errs []error
	for _, f := range files {
		name := filepath.Base(f)
		if name == "log.json" {
			name = filepath.Base(filepath.Dir(f)) + "-log.json"
		}
		errs = append(errs, copyFile(f, filepath.Join(dir, name)))
	}
	return dir, errors.Join(errs...)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// String is the report as a run prints it.
func (r Report) String() string {
	var b strings.Builder
	n := r.Counts
	fmt.Fprintf(&b, "writes: %d acknowledged, %d refused, %d unknown; %d notifications owed\n", n.Acknowledged, n.Refused, n.Unknown, n.Owed)
	fmt.Fprintf(&b, "arrivals: %d, of these %d after a success (%d explained by faults), %d overlaps; %d dead letters; %d versions read back\n",
		n.Arrivals, n.Duplicates, n.DuplicatesAllowed, n.Overlaps, n.DeadLetters, n.ReadBack)
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		f := r.Faults[name]
		fmt.Fprintf(&b, "%-20s made %3d   no ack for %s   no arrival for %s   ready after %s\n", name, f.Made, spread(f.AckGaps), spread(f.SendGaps), spread(f.Ready))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Impossible)) {
		fmt.Fprintf(&b, "%-20s cannot be made here: %s\n", name, r.Impossible[name])
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "VIOLATION %s\n", v)
	}
	return b.String()
}

// JSON is the report for machines.
func (r Report) JSON() []byte {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(err) // plain fields only
	}
	return b
}

// spread shows the median and the largest of some durations.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("p50 %s max %s", d[len(d)/2].Round(10*time.Millisecond), d[len(d)-1].Round(10*time.Millisecond))
}
