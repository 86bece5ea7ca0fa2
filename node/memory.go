package node

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Bounds of the soft memory limit. Below memoryFloor the collector is left to its own pace,
// which lets garbage grow as large as what is alive; above it, garbage may be two fifths of it.
const (
	memoryFloor = 124 << 20
	memorySpare = 24 << 20 // stacks, and what the runtime keeps for itself

	// A burst gets more while the collector takes over a fifteenth of the CPU that is used, and
	// gives it back when it takes under a thirtieth.
	memoryStep  = 48 << 20
	memoryBurst = 256 << 20
)

// keepMemory moves the runtime's soft memory limit with what is alive and with how busy the
// collector is, until ctx ends: a burst of writes may use more for as long as it lasts, it
// leaves little behind, and a large heap is not collected without end, as it would be under a
// fixed limit. An operator's own GOMEMLIMIT stands.
func keepMemory(ctx context.Context) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		<-ctx.Done()
		return nil
	}
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	var m memory
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		live, collecting, busy := collector()
		debug.SetMemoryLimit(m.limit(live, collecting, busy))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// memory decides on the limit from one reading to the next.
type memory struct {
	collecting, busy float64 // of the last reading
	burst            int64
}

// limit takes the bytes that were alive after the last collection, and the CPU seconds since the
// start that went into collecting and into everything.
func (m *memory) limit(live int64, collecting, busy float64) int64 {
	c, b := collecting-m.collecting, busy-m.busy
	m.collecting, m.busy = collecting, busy
	switch {
	case b > 0 && c > b/15:
		m.burst = min(m.burst+memoryStep, memoryBurst)
	case c < b/30 || b <= 0: // no collection since: nothing is being made
		m.burst = m.burst * 7 / 8
	}
	return max(memoryFloor, live*7/5+memorySpare) + m.burst
}

// collector reads what limit needs. Marking with CPU that is idle costs nobody anything.
func collector() (live int64, collecting, busy float64) {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
		{Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/cpu/classes/idle:cpu-seconds"},
	}
	metrics.Read(s)
	return int64(s[0].Value.Uint64()), s[1].Value.Float64() - s[2].Value.Float64(), s[3].Value.Float64() - s[4].Value.Float64()
}
