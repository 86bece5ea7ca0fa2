package node

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// diskLimits say when the free space of the data folder's disk is worth a warning, and when
// writes are refused. A share and a size each: the larger of the two counts.
type diskLimits struct {
	warnShare, fullShare float64
	warnBytes, fullBytes uint64
}

// The engine must never meet a full disk: an append that fails there stops its stream until a
// restart, and may leave part of a batch behind. So writes are refused while there is still
// room for blocks, outcomes and dead letters of what was accepted before.
var defaultDiskLimits = diskLimits{
	warnShare: 0.10, warnBytes: 1 << 30,
	fullShare: 0.02, fullBytes: 256 << 20,
}

// disk watches the free space under a folder.
type disk struct {
	dir    string
	limits diskLimits
	free   atomic.Uint64
	total  atomic.Uint64
}

func newDisk(dir string, limits diskLimits) (*disk, error) {
	d := &disk{dir: dir, limits: limits}
	return d, d.measure()
}

// run measures once a second until ctx ends. At 100 MB/s of writes the reserve of 256 MiB
// lasts for more than two measurements.
func (d *disk) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.measure(); err != nil {
				return err
			}
		}
	}
}

func (d *disk) measure() error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return err
	}
	d.free.Store(st.Bavail * uint64(st.Bsize))
	d.total.Store(st.Blocks * uint64(st.Bsize))
	return nil
}

// full says that no new write may be accepted.
func (d *disk) full() bool { return d.below(d.limits.fullShare, d.limits.fullBytes) }

// low says that an operator should act before the disk is full.
func (d *disk) low() bool { return d.below(d.limits.warnShare, d.limits.warnBytes) }

func (d *disk) below(share float64, bytes uint64) bool {
	free, total := d.free.Load(), d.total.Load()
	return free < bytes || float64(free) < share*float64(total)
}
