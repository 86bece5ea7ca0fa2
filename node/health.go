package node

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// logHealth is what keepLog saw of the log last: asking the engine costs too much for every
// write.
type logHealth struct {
	mu      sync.Mutex
	damage  error     // the engine must be started again
	outage  error     // nothing can be written now: no quorum, no leader
	started time.Time // of the outage
}

// holdOut is how long requests are held while there is no leader: a hard loss of one costs the
// engine 4 to 9 s. Requests that come later are refused at once, since what holds them up is
// more than an election.
const holdOut = 12 * time.Second

func (h *logHealth) set(damage, outage error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if outage != nil && h.outage == nil {
		h.started = now
	}
	h.damage, h.outage = damage, outage
}

// damaged reports that this node's engine must be started again before it can write.
func (h *logHealth) damaged() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.damage != nil
}

// now is why nothing can be written at this moment; nil if it can.
func (h *logHealth) now() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.damage != nil {
		return h.damage
	}
	return h.outage
}

// writable is why a write is not even tried; nil if it is, and waits.
func (h *logHealth) writable() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.damage != nil {
		return h.damage
	}
	if h.outage != nil && time.Since(h.started) > holdOut {
		return fmt.Errorf("%w, for %s", h.outage, time.Since(h.started).Round(time.Second))
	}
	return nil
}

// keepLog watches the embedded server and restarts it in place when it has stopped writing:
// after a write error it closes the stream and stays so, even when there is space again. A
// cluster without a quorum is no damage of this node, and is waited for.
func (n *Node) keepLog(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		damage := n.server.Healthy()
		n.health.set(damage, n.server.Available(), time.Now())
		if damage != nil && !n.disk.full() {
			n.log.Error("the log cannot be written, the embedded server is started again", "err", damage)
			if err := n.server.Restart(ctx); err != nil && ctx.Err() == nil {
				n.log.Error("the embedded server did not start, will try again", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
