package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Cluster is several nodes on loopback, made from one configuration file.
type Cluster struct {
	Nodes []*Node
	File  string // the configuration
}

// NewCluster prepares a cluster with empty data folders and ports of its own. Its nodes are
// named n1, n2, … and stopped when the test ends.
func NewCluster(t testing.TB, size int) *Cluster {
	t.Helper()
	addresses := free(t, 3*size)
	c := &Cluster{File: filepath.Join(t.TempDir(), "cluster.yaml")}
	var yaml strings.Builder
	fmt.Fprintf(&yaml, "cluster: {name: e2e}\ndelivery: {egress: {allow_private: true, allow_http: true}}\nnodes:\n")
	for i := range size {
		n := NewNode(t, "--config", c.File, "--node", fmt.Sprintf("n%d", i+1))
		a := addresses[3*i : 3*i+3]
		n.NoDev = true
		n.URL, n.NATS = "http://"+a[0], "nats://"+a[1]
		fmt.Fprintf(&yaml, "  n%d: {data: %q, http: %q, nats: %q, route: %q}\n", i+1, n.Dir, a[0], a[1], a[2])
		c.Nodes = append(c.Nodes, n)
	}
	if err := os.WriteFile(c.File, []byte(yaml.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// free picks loopback addresses that nobody listens on. They are held until all are picked.
func free(t testing.TB, n int) (addresses []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}

// Start starts the nodes together, as none is ready before a majority runs, and waits for all.
func (c *Cluster) Start(t testing.TB) *Cluster {
	t.Helper()
	Binary(t) // a failure to build ends the test here, not in a goroutine
	errs := make([]error, len(c.Nodes))
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		if n.cmd == nil {
			wg.Go(func() { errs[i] = n.TryStart() })
		}
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("start n%d: %v\n%s", i+1, err, c.Nodes[i].Logs())
		}
	}
	return c
}

// Kill kills all nodes at once, as a power cut would.
func (c *Cluster) Kill() {
	var wg sync.WaitGroup
	for _, n := range c.Nodes {
		if n.cmd != nil {
			wg.Go(n.Kill)
		}
	}
	wg.Wait()
}

// Running reports whether the node's process runs.
func (n *Node) Running() bool { return n.cmd != nil }

// AwaitReady waits until the node says that it can do its work.
func (n *Node) AwaitReady(limit time.Duration) {
	n.t.Helper()
	end := time.Now().Add(limit)
	for {
		a, err := n.Do(n.t.Context(), "GET", "/readyz", nil)
		if err == nil && a.Status == 200 {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("not ready after %s: %v %s", limit, err, a.Body)
		}
		time.Sleep(20 * time.Millisecond) // polls what tells nobody
	}
}
