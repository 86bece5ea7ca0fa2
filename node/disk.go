package node

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/stream"
)

// disk watches the free space under the data folder.
//
// The engine must never meet a full disk: an append that fails there stops its stream until a
// restart, and may leave part of a batch behind. So writes are refused at the log's reserve,
// while there is still room for blocks, outcomes and dead letters of what was accepted before.
type disk struct {
	dir   string
	free  atomic.Uint64
	total atomic.Uint64
}

func newDisk(dir string) (*disk, error) {
	d := &disk{dir: dir}
	return d, d.measure()
}

// run measures once a second until ctx ends. The publisher looks for itself before each group,
// so what is seen here a little late decides nothing but what is shown.
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
	free, total, err := stream.DiskFree(d.dir)
	if err != nil {
		return err
	}
	d.free.Store(free)
	d.total.Store(total)
	return nil
}

// full says that no new write may be accepted.
func (d *disk) full() bool { return d.free.Load() < stream.Reserve(d.total.Load()) }

// low says that an operator should act before the disk is full: under a tenth of it, or under
// 1 GiB, is free.
func (d *disk) low() bool { return d.free.Load() < max(d.total.Load()/10, 1<<30) }
