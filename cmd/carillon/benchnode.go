package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// benchNode is a node that is measured.
type benchNode struct {
	name string
	cl   *client
	proc *child // nil with --server

	idleCPU, idleMemory *float64 // see nodeFigures
}

// startLimit bounds the start of a node; those of a cluster wait for each other.
const startLimit = 2 * time.Minute

// startNodes starts the planned nodes and waits until all are ready.
func (b *benchmark) startNodes(ctx context.Context) error {
	args := func(own ...string) []string {
		return append([]string{"serve", "--dev", "--log-level", "warn", "--log-format", "json"}, own...)
	}
	if b.plan.nodes == 1 {
		own := []string{"--data", filepath.Join(b.dir, "data"), "--http", "127.0.0.1:0", "--nats", "127.0.0.1:0"}
		if file := b.c.String("config"); file != "" {
			own = append(own, "--config", file)
		}
		b.nodes = []*benchNode{{name: "n1", proc: &child{args: args(own...)}}}
	} else {
		file, names, err := localCluster(filepath.Join(b.dir, "nodes"), b.plan.nodes)
		if err != nil {
			return err
		}
		for _, name := range names {
			b.nodes = append(b.nodes, &benchNode{name: name, proc: &child{args: args("--config", file, "--node", name)}})
		}
	}
	for _, n := range b.nodes {
		if err := n.proc.start(); err != nil {
			return err
		}
	}
	for _, n := range b.nodes {
		cl := *b.cl
		n.cl = &cl
		if err := n.awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// awaitReady waits until a node that was just started says that it serves, and where.
func (n *benchNode) awaitReady(ctx context.Context) error {
	line, err := n.proc.line(ctx, startLimit)
	if err != nil {
		return fmt.Errorf("node %s did not start: %w", n.name, err)
	}
	if n.cl.base = field(line, "http"); n.cl.base == "" {
		return fmt.Errorf("node %s printed no ready line, but %q", n.name, line)
	}
	return nil
}

// allReady waits until every node says that it can do its work.
func (b *benchmark) allReady(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, n := range b.nodes {
		for {
			a, err := n.cl.do(limited, request{method: http.MethodGet, path: "/readyz"})
			if err == nil && a.status == http.StatusOK {
				break
			}
			if pause(limited, 50*time.Millisecond) != nil {
				return fmt.Errorf("node %s is not ready after %s: %s", n.name, startLimit, first(string(a.body), n.proc.logs.String()))
			}
		}
	}
	return ctx.Err()
}

// stopNodes stops all nodes together.
func (b *benchmark) stopNodes() {
	var wg sync.WaitGroup
	for _, n := range b.nodes {
		if n.proc != nil {
			wg.Go(func() { n.proc.end(syscall.SIGTERM, 30*time.Second) })
		}
	}
	wg.Wait()
}

// pause waits for a time, or until ctx ends, which is the error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// localCluster writes what `cluster init --local` writes, but with free ports, and returns the
// configuration's file and the names of the nodes.
func localCluster(dir string, size int) (file string, names []string, err error) {
	nodes, err := localNodes(size, dir)
	if err != nil {
		return "", nil, err
	}
	ports, err := freePorts(3 * size)
	if err != nil {
		return "", nil, err
	}
	for i := range nodes {
		nodes[i].ports = [3]int(ports[3*i : 3*i+3])
		names = append(names, nodes[i].name)
	}
	files, err := clusterFiles("bench", nodes, 24*time.Hour)
	if err != nil {
		return "", nil, err
	}
	file = filepath.Join(dir, clusterFile)
	if err := writeNew(dir, files); err != nil {
		return "", nil, err
	}
	return file, names, checkWritten(file)
}

// Ports are taken from below those that systems give to outgoing connections: a node that was
// killed must get its own again, whatever its clients have connected from meanwhile.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// freePorts finds ports of loopback that nobody listens on. They are held until all are found.
func freePorts(n int) ([]int, error) {
	var ports []int
	var failed error
	for range 100 * n {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			failed = err
			continue
		}
		defer l.Close()
		ports = append(ports, port)
	}
	return nil, errors.Join(errors.New("find free ports for the nodes"), failed)
}
