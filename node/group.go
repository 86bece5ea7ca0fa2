package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// group runs the parts of a node. They start in the order in which they are added and stop in
// reverse, one after the other, so that nobody loses what it stands on.
type group struct {
	log    *slog.Logger
	parts  []*part
	failed chan error // the first part that ends by itself
}

// part is something that runs until its context ends.
type part struct {
	name string
	stop context.CancelFunc
	done chan struct{}
}

func newGroup(log *slog.Logger) *group {
	return &group{log: log, failed: make(chan error, 1)}
}

// run starts a part. If it ends before it is told to, the node has failed.
func (g *group) run(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, stop: cancel, done: make(chan struct{})}
	g.parts = append(g.parts, p)
	go func() {
		defer close(p.done)
		err := f(ctx)
		if ctx.Err() != nil {
			if err != nil {
				g.log.Warn("part ended with an error", "part", name, "err", err)
			}
			return
		}
		if err == nil {
			err = fmt.Errorf("ended by itself")
		}
		select {
		case g.failed <- fmt.Errorf("%s: %w", name, err):
		default:
		}
	}()
}

// all runs several alike parts as one: they stop together.
func (g *group) all(name string, fs []func(context.Context) error) {
	g.run(name, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var wg sync.WaitGroup
		for _, f := range fs {
			wg.Go(func() {
				if err := f(ctx); err != nil {
					cancel(err)
				} else if ctx.Err() == nil {
					cancel(fmt.Errorf("ended by itself"))
				}
			})
		}
		wg.Wait()
		if cause := context.Cause(ctx); cause != context.Canceled {
			return cause
		}
		return nil
	})
}

// stop ends the parts in reverse order of their start and waits for each.
func (g *group) stop() {
	for i := len(g.parts) - 1; i >= 0; i-- {
		p := g.parts[i]
		start := time.Now()
		p.stop()
		<-p.done
		g.log.Debug("part stopped", "part", p.name, "took", time.Since(start))
	}
	g.parts = nil
}
