package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// benchResult is what is printed; rates are a second, times milliseconds, memory MiB.
type benchResult struct {
	Version       string       `json:"version"`
	Events        int          `json:"events"`
	Writers       int          `json:"writers"`
	Size          int          `json:"size"`
	Subscriptions int          `json:"subscriptions"`
	Slow          int          `json:"slow"`
	Nodes         int          `json:"nodes"`
	BareRate      float64      `json:"bareRate,omitempty"`              // of the log alone
	BareCPU       float64      `json:"bareCpuMicrosPerEvent,omitempty"` // its writers included
	PlainRate     float64      `json:"plainRate"`
	WriteRate     float64      `json:"writeRate"`                   // acknowledged
	Throughput    float64      `json:"throughput"`                  // from the first write to the last arrival
	Ratio         float64      `json:"ratio"`                       // of throughput to plain POSTs
	BareRatio     float64      `json:"bareRatio,omitempty"`         // of writes to bare publishing
	CPUPerEvent   float64      `json:"cpuMicrosPerEvent,omitempty"` // of all nodes, at full speed
	Rate          int          `json:"rate"`
	Latency       percentiles  `json:"latency"`            // acknowledged write to arrival
	Baseline      *percentiles `json:"baseline,omitempty"` // the same before endpoints were slow
	Write         percentiles  `json:"write"`              // request to acknowledgement, paced
	Fsync         *percentiles `json:"fsync,omitempty"`    // of the same disk; unknown for --server
	Acknowledged  int          `json:"acknowledged"`
	Lost          int          `json:"lost"`
	Duplicates    int          `json:"duplicates"`
	Failed        int          `json:"failed"`                   // writes that were not acknowledged
	Memory        float64      `json:"memoryMiB,omitempty"`      // of the node that has most
	CPU           float64      `json:"cpuSeconds,omitempty"`     // of all nodes
	IdleCPU       float64      `json:"idleCpuPercent,omitempty"` // of one core, by the node that uses most
	IdleMemory    float64      `json:"idleMemoryMiB,omitempty"`

	Takeovers *takeovers    `json:"takeovers,omitempty"`
	PerNode   []nodeFigures `json:"perNode"`
}

// print shows the result: as a table its figures, then those of each node.
func (b *benchmark) print() error {
	out, err := json.Marshal(b.result)
	if err != nil {
		return err
	}
	if err := b.c.out.object(out, columns(b.result.columns())); err != nil {
		return err
	}
	if b.c.out.form != "table" || b.plan.nodes == 1 && b.plan.idle == 0 {
		return nil
	}
	nodes, err := json.Marshal(b.result.PerNode)
	if err != nil {
		return err
	}
	spec := "NODE=node CPU_S=cpuSeconds MEMORY_MIB=memoryMiB NOTIFICATIONS_SENT=notificationsSent PARTITIONS=partitions LANES=lanes"
	if b.plan.idle > 0 {
		spec += " IDLE_CPU_PERCENT=idleCpuPercent IDLE_MEMORY_MIB=idleMemoryMiB"
	}
	fmt.Fprintln(b.c.App.Writer)
	return b.c.out.list(nodes, columns(spec))
}

// columns are those figures that the run has.
func (r benchResult) columns() string {
	parts := []struct {
		has  bool
		spec string
	}{
		{r.Nodes > 1, "NODES=nodes"},
		{true, "EVENTS=events WRITERS=writers SIZE=size SUBSCRIPTIONS=subscriptions"},
		{r.BareRate > 0, "BARE_PUBLISHING_A_SECOND=bareRate"},
		{true, "PLAIN_POSTS_A_SECOND=plainRate WRITES_A_SECOND=writeRate"},
		{r.BareRate > 0, "SHARE_OF_BARE=bareRatio"},
		{true, "DELIVERED_A_SECOND=throughput SHARE_OF_PLAIN=ratio"},
		{r.CPUPerEvent > 0, "CPU_PER_EVENT_US=cpuMicrosPerEvent"},
		{r.BareCPU > 0, "CPU_PER_BARE_EVENT_US=bareCpuMicrosPerEvent"},
		{true, "RATE_OF_PACED_PART=rate LATENCY_P50_MS=latency.p50 LATENCY_P90_MS=latency.p90 LATENCY_P99_MS=latency.p99 LATENCY_MAX_MS=latency.max"},
		{r.Baseline != nil, "SLOW_ENDPOINTS=slow P50_WITHOUT_SLOW_MS=baseline.p50 P99_WITHOUT_SLOW_MS=baseline.p99"},
		{true, "WRITE_P50_MS=write.p50 WRITE_P99_MS=write.p99"},
		{r.Fsync != nil, "FSYNC_P50_MS=fsync.p50 FSYNC_P99_MS=fsync.p99"},
		{r.Takeovers != nil, interruptionSpec("KILL", "kills") + " " + interruptionSpec("STOP", "stops")},
		{true, "ACKNOWLEDGED=acknowledged LOST=lost DUPLICATES=duplicates FAILED=failed MEMORY_MIB=memoryMiB CPU_S=cpuSeconds"},
		{r.IdleMemory > 0, "IDLE_CPU_PERCENT=idleCpuPercent IDLE_MEMORY_MIB=idleMemoryMiB"},
	}
	var specs []string
	for _, p := range parts {
		if p.has {
			specs = append(specs, p.spec)
		}
	}
	return strings.Join(specs, " ")
}

func interruptionSpec(head, name string) string {
	return strings.NewReplacer("HEAD", head, "name", "takeovers."+name).Replace(
		"HEADS=name.count HEADS_OF_LEADER=name.leaders HEAD_GAP_P50_MS=name.gapP50 HEAD_GAP_MAX_MS=name.gapMax " +
			"HEAD_REFUSED_ONCE=name.refusedOnce HEAD_REFUSED_TWICE=name.refusedTwice")
}

// percentiles of a set of times, in milliseconds.
type percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func percentilesOf(times []float64) percentiles {
	if len(times) == 0 {
		return percentiles{}
	}
	sorted := slices.Clone(times)
	slices.Sort(sorted)
	return percentiles{
		P50: round(quantile(sorted, 0.5)), P90: round(quantile(sorted, 0.9)),
		P99: round(quantile(sorted, 0.99)), Max: round(sorted[len(sorted)-1]),
	}
}

// quantile is the smallest time that a share q of all does not exceed (nearest rank).
func quantile(sorted []float64, q float64) float64 {
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// latencySVG draws the share of notifications that have arrived against the time since their
// write was acknowledged, which is on a logarithmic axis.
func latencySVG(sorted []float64, r benchResult) []byte {
	const width, height, left, bottom, top = 720.0, 420.0, 60.0, 50.0, 40.0
	least, most := 0.1, 10.0
	if len(sorted) > 0 {
		most = max(most, sorted[len(sorted)-1])
	}
	most = math.Pow(10, math.Ceil(math.Log10(most)))
	x := func(ms float64) float64 {
		share := math.Log10(max(ms, least)/least) / math.Log10(most/least)
		return left + share*(width-left-20)
	}
	y := func(share float64) float64 { return height - bottom - share*(height-bottom-top) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%g" y="22" font-size="14">Acknowledged write to arrival, %d writes/s: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms</text>`+"\n",
		left, r.Rate, r.Latency.P50, r.Latency.P90, r.Latency.P99)
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%.0f %%</text>`+"\n",
			left, width-20, y(share), y(share), left-8, y(share)+4, share*100)
	}
	for ms := least; ms <= most*1.001; ms *= 10 {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%g" y2="%g" stroke="#ddd"/><text x="%.1f" y="%g" text-anchor="middle">%g ms</text>`+"\n",
			x(ms), x(ms), top, height-bottom, x(ms), height-bottom+18, math.Round(ms*1000)/1000)
	}
	b.WriteString(`<polyline fill="none" stroke="#1f6feb" stroke-width="2" points="`)
	step := max(1, len(sorted)/500)
	for i := 0; i < len(sorted); i += step {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(sorted[i]), y(float64(i+1)/float64(len(sorted))))
	}
	if n := len(sorted); n > 0 {
		fmt.Fprintf(&b, "%.1f,%.1f", x(sorted[n-1]), y(1))
	}
	b.WriteString("\"/>\n</svg>\n")
	return []byte(b.String())
}
