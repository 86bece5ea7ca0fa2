package main

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// nodeFigures are what one node has used and done, by its own metrics. What they do not tell is
// absent.
type nodeFigures struct {
	Node       string   `json:"node"`
	CPU        float64  `json:"cpuSeconds"` // since its start, up to the end of the paced part
	Memory     float64  `json:"memoryMiB"`  // resident
	Sent       int      `json:"notificationsSent"`
	Partitions *int     `json:"partitions,omitempty"` // that it owns
	Lanes      *int     `json:"lanes,omitempty"`
	IdleCPU    *float64 `json:"idleCpuPercent,omitempty"` // of one core, at rest
	IdleMemory *float64 `json:"idleMemoryMiB,omitempty"`
}

// metrics of a node, by name with labels.
type metrics map[string]float64

// metrics asks a node; nil if it does not tell.
func (n *benchNode) metrics(ctx context.Context) metrics {
	a, err := n.cl.do(ctx, request{method: http.MethodGet, path: "/metrics"})
	if err != nil || a.status != http.StatusOK {
		return nil
	}
	m := metrics{}
	for scan := bufio.NewScanner(bytes.NewReader(a.body)); scan.Scan(); {
		line := scan.Text()
		end := strings.LastIndexByte(line, ' ')
		if end < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[end+1:], 64); err == nil {
			m[line[:end]] = v
		}
	}
	return m
}

func (m metrics) cpu() float64    { return m["process_cpu_seconds_total"] }
func (m metrics) memory() float64 { return m["process_resident_memory_bytes"] / (1 << 20) }

// sent counts attempts of all channels and outcomes.
func (m metrics) sent() (sum int) {
	for name, v := range m {
		if strings.HasPrefix(name, "carillon_delivery_attempts_total{") {
			sum += int(v)
		}
	}
	return sum
}

func (m metrics) owned(kind string) *int {
	v, told := m[`carillon_owned{kind="`+kind+`"}`]
	if !told {
		return nil
	}
	n := int(v)
	return &n
}

// cpu is what all nodes have used so far, in seconds.
func (b *benchmark) cpu(ctx context.Context) (sum float64) {
	for _, n := range b.nodes {
		sum += n.metrics(ctx).cpu()
	}
	return sum
}

// perEvent is CPU time for each of a number of events, in microseconds.
func perEvent(cpu float64, events int) float64 {
	if events == 0 || cpu <= 0 {
		return 0
	}
	return round(cpu * 1e6 / float64(events))
}

// figures notes what each node has used and done.
func (b *benchmark) figures(ctx context.Context) error {
	r := &b.result
	for _, n := range b.nodes {
		m := n.metrics(ctx)
		f := nodeFigures{
			Node: n.name, CPU: round(m.cpu()), Memory: round(m.memory()), Sent: m.sent(),
			Partitions: m.owned("partition"), Lanes: m.owned("lane"), IdleCPU: n.idleCPU, IdleMemory: n.idleMemory,
		}
		r.PerNode = append(r.PerNode, f)
		r.CPU, r.Memory = round(r.CPU+m.cpu()), max(r.Memory, f.Memory)
	}
	return ctx.Err()
}

// settling is how long the nodes are left alone before they count as resting.
const settling = 3 * time.Second

// idle measures what the nodes use while nothing is written.
func (b *benchmark) idle(ctx context.Context) error {
	if err := pause(ctx, min(settling, b.plan.idle)); err != nil {
		return err
	}
	before := make([]float64, len(b.nodes))
	for i, n := range b.nodes {
		before[i] = n.metrics(ctx).cpu()
	}
	began := time.Now()
	if err := pause(ctx, b.plan.idle); err != nil {
		return err
	}
	for i, n := range b.nodes {
		m := n.metrics(ctx)
		cpu, memory := round(100*(m.cpu()-before[i])/time.Since(began).Seconds()), round(m.memory())
		n.idleCPU, n.idleMemory = &cpu, &memory
		b.result.IdleCPU, b.result.IdleMemory = max(b.result.IdleCPU, cpu), max(b.result.IdleMemory, memory)
	}
	return nil
}
