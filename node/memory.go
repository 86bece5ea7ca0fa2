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
)

// keepMemory moves the runtime's soft memory limit with what is alive, until ctx ends. A burst
// of writes leaves little behind, and a large heap is not collected without end, as it would be
// under a fixed limit. An operator's own GOMEMLIMIT stands.
func keepMemory(ctx context.Context) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		<-ctx.Done()
		return nil
	}
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		metrics.Read(live)
		debug.SetMemoryLimit(max(memoryFloor, int64(live[0].Value.Uint64())*7/5+memorySpare))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
