package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestBenchMeasuresACluster runs bench as users do: it starts logs and nodes as processes of their
// own, with certificates, and leaves nothing behind.
func TestBenchMeasuresACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six processes")
	}
	dir := t.TempDir()
	cmd := exec.Command("carillon", "bench", "--nodes", "3", "--spread", "--subscriptions", "48", "--events", "300",
		"--writers", "12", "--rate", "50", "--paced", "300ms", "--idle", "200ms", "--quiet", "-o", "json")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var r benchResult
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r.Acknowledged != 315 || r.Lost != 0 || r.Failed != 0 || r.BareRate <= 0 || r.BareCPU <= 0 || r.CPUPerEvent <= 0 {
		t.Errorf("%+v", r)
	}
	sent, lanes, partitions := 0, 0, 0
	for _, n := range r.PerNode {
		if n.CPU <= 0 || n.Memory <= 0 || n.IdleCPU == nil || n.IdleMemory == nil || n.Lanes == nil || n.Partitions == nil {
			t.Fatalf("%+v", n)
		}
		sent, lanes, partitions = sent+n.Sent, lanes+*n.Lanes, partitions+*n.Partitions
	}
	if len(r.PerNode) != 3 || sent < 315 || lanes == 0 || partitions == 0 {
		t.Errorf("%d nodes with %d lanes and %d partitions sent %d", len(r.PerNode), lanes, partitions, sent)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBenchRefusesWhatItCannotMeasure(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for line, want := range map[string]string{
		"--nodes 2":                                   "--nodes 2: use 1, 3 or 5",
		"--nodes 7":                                   "--nodes 7: use 1, 3 or 5",
		"--nodes 3 --server http://127.0.0.1:1":       "--server and --context name one that runs",
		"--takeovers 1":                               "--takeovers kills nodes that it has started",
		"--takeovers -1 --nodes 3":                    "--takeovers -1 is not between",
		"--nodes 3 --config x.yaml":                   "--config is for one node",
		"--server http://127.0.0.1:1 --config x.yaml": "--config is for one node",
		"--idle 1ms":                                  "--idle 1ms is too short",
		"--idle -1s":                                  "--idle -1s is too short",
		"--server http://127.0.0.1:1 --takeovers 1 --rate": "needs a value",
	} {
		code, stdout, stderr := carillon(t, "", append([]string{"bench"}, strings.Fields(line)...)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("bench %s: exit code %d, %s", line, code, stderr)
		}
	}
}

func TestBenchMeasuresARestingServer(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	code, r, stderr := runBench(t, fake, "--idle", "100ms")
	if code != 0 {
		t.Fatal(stderr)
	}
	if len(r.PerNode) != 1 || r.PerNode[0].IdleMemory == nil || *r.PerNode[0].IdleMemory != 100 || *r.PerNode[0].IdleCPU != 0 {
		t.Errorf("%+v", r.PerNode)
	}
	if r.PerNode[0].Lanes != nil || r.Takeovers != nil || r.BareRate != 0 {
		t.Error("figures of what was not measured")
	}
}

func TestBenchStopsAtASubscriptionThatIsRefused(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	fake.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "-7") {
			return false
		}
		outcome(w, http.StatusUnprocessableEntity, "no such criteria")
		return true
	}
	code, _, stderr := runBench(t, fake, "--subscriptions", "500")
	if code != exitUsage || !strings.Contains(stderr, "storing Subscriptions: no such criteria") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestFiguresAreReadFromMetrics(t *testing.T) {
	const text = `# HELP carillon_owned Partitions and lanes that this node runs.
carillon_owned{kind="lane"} 8
carillon_owned{kind="partition"} 0
carillon_delivery_attempts_total{channel="rest-hook",outcome="accepted"} 40
carillon_delivery_attempts_total{channel="rest-hook",outcome="connection refused"} 2
process_cpu_seconds_total 12.25
process_resident_memory_bytes 1.048576e+08
`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }))
	defer server.Close()
	b := &benchmark{nodes: []*benchNode{benchNodeAt("n1", server.URL), benchNodeAt("n2", server.URL)}}
	if err := b.figures(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := b.result.PerNode[1]
	if f.Node != "n2" || f.CPU != 12.25 || f.Memory != 100 || f.Sent != 42 || *f.Lanes != 8 || *f.Partitions != 0 {
		t.Errorf("%+v", f)
	}
	if b.result.CPU != 24.5 || b.result.Memory != 100 || b.cpu(t.Context()) != 24.5 {
		t.Errorf("%+v", b.result)
	}
	if perEvent(0.5, 1000) != 500 || perEvent(0.5, 0) != 0 {
		t.Error("CPU for each event")
	}
}

func benchNodeAt(name, url string) *benchNode {
	return &benchNode{name: name, cl: &client{base: url, http: &http.Client{}}}
}

// TestAWriteGoesToTheNextNodeWithTheSameKey: only what two nodes refuse counts as refused twice,
// and what is wrong in itself is asked once.
func TestAWriteGoesToTheNextNodeWithTheSameKey(t *testing.T) {
	var mu sync.Mutex
	keys := map[string][]string{} // by node
	node := func(name string, status int) *benchNode {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			keys[name] = append(keys[name], r.Header.Get("Idempotency-Key"))
			w.WriteHeader(status)
		}))
		t.Cleanup(server.Close)
		return benchNodeAt(name, server.URL)
	}
	gone := node("gone", http.StatusOK)
	gone.cl.base = "http://127.0.0.1:1" // where nobody listens
	b := &benchmark{id: "x", nodes: []*benchNode{gone, node("busy", http.StatusServiceUnavailable), node("well", http.StatusOK)}}
	l := &takeoverLoad{b: b, writes: &writes{byID: map[string]written{}}, acks: &gaps{last: time.Now()}}
	l.write(t.Context(), "a", 0, 0) // gone, busy, well
	l.write(t.Context(), "b", 1, 0) // busy, well
	l.write(t.Context(), "c", 2, 0) // well
	if once, twice := l.refused[0].Load(), l.refused[1].Load(); once != 2 || twice != 1 {
		t.Errorf("%d refused once, %d twice", once, twice)
	}
	if !slices.Equal(keys["busy"], []string{"a", "b"}) || !slices.Equal(keys["well"], []string{"a", "b", "c"}) {
		t.Errorf("keys %v", keys)
	}
	if len(l.writes.byID) != 3 || l.writes.failed != 0 || l.acks.count() != 3 {
		t.Errorf("%d acknowledged, %d failed", len(l.writes.byID), l.writes.failed)
	}

	b.nodes = []*benchNode{node("wrong", http.StatusBadRequest), b.nodes[2]}
	l.write(t.Context(), "d", 0, 0)
	if l.writes.failed != 1 || len(keys["wrong"]) != 1 || len(keys["well"]) != 3 {
		t.Errorf("%d failed, keys %v", l.writes.failed, keys)
	}
}

func TestTheLongestGapIsThatBetweenAcknowledgements(t *testing.T) {
	began := time.Now()
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	g := &gaps{last: began}
	g.acknowledged(at(500))
	g.restart(at(600))
	for _, ms := range []int{610, 700, 690, 1000, 1001} { // two that came together are out of order
		g.acknowledged(at(ms))
	}
	if got := g.longest(at(1050)); got != 300*time.Millisecond {
		t.Errorf("%s", got)
	}
	if got := g.longest(at(2001)); got != time.Second {
		t.Errorf("with the one that goes on %s", got)
	}
}

func TestALoadThatNobodyAcknowledgesIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gaps{last: time.Now()}
		g.acknowledged(time.Now())
		if err := g.more(t.Context(), 1); err != errStuck {
			t.Errorf("%v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.more(ctx, 1); err != context.Canceled {
			t.Errorf("%v", err)
		}
		go g.acknowledged(time.Now())
		if err := g.more(t.Context(), 1); err != nil {
			t.Error(err)
		}
	})
}

func TestTheLeaderOfTheLogIsReadFromTheState(t *testing.T) {
	for text, want := range map[string]string{
		`{"streams":[{"name":"DEAD","leader":"n1"},{"name":"EVENTS","leader":"n2"}]}`: "n2",
		`{"streams":[{"name":"EVENTS","leader":""}]}`:                                 "",
		`{"streams":[]}`: "",
		`busy`:           "",
	} {
		if got := leaderOf([]byte(text)); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestSharesAddUp(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 256, 20_000} {
		sum := 0
		for one := range 3 {
			s := share(n, one, 3)
			if s < n/3 || s > n/3+1 {
				t.Errorf("share %d of %d is %d", one, n, s)
			}
			sum += s
		}
		if sum != n {
			t.Errorf("the shares of %d are %d", n, sum)
		}
	}
}

func TestAClusterOfBenchHasPortsOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	file, names, err := localCluster(filepath.Join(dir, "a"), 3)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names, []string{"n1", "n2", "n3"}) {
		t.Errorf("nodes %v", names)
	}
	cfg, err := loadConfig(file, "n2")
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Routes()) != 3 || cfg.Replicas() != 3 || cfg.Cluster.TLS.Cert == "" || !strings.HasPrefix(cfg.Node.Data, dir) {
		t.Errorf("%+v", cfg.Node)
	}
	ports, err := freePorts(15)
	slices.Sort(ports)
	if err != nil || len(slices.Compact(ports)) != 15 || ports[0] < firstPort || ports[14] >= lastPort {
		t.Errorf("ports %v, %v", ports, err)
	}
}
