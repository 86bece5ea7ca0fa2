package deliver

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// recorder appends outcomes, one block at a time: while one is on its way the next collects.
//
// While an append fails, and while one stays unanswered for longer than patience, no send may
// start: what is sent without a recorded outcome is sent again after a crash, and without this
// brake an unreachable log would turn every pending match into a repeat.
type recorder struct {
	lane     string
	outcomes Outcomes
	patience time.Duration
	log      *slog.Logger
	changed  func() // called when open may have turned true again

	mu      sync.Mutex
	waiting []request
	failing bool
	since   time.Time // when the append on its way began; zero when there is none
	wake    chan struct{}
}

// request is one outcome and the attempt that waits for it to be durable.
type request struct {
	outcome record.Outcome
	done    chan struct{} // closed when durable
}

// maxBlock bounds a block of outcomes: at most some 1.3 KB each, it stays far below the largest
// message that the log takes.
const maxBlock = 1000

// Waits between appends that fail.
const (
	appendBackoff    = 50 * time.Millisecond
	maxAppendBackoff = 5 * time.Second
)

func newRecorder(cfg *Config, changed func()) *recorder {
	return &recorder{
		lane: cfg.Name, outcomes: cfg.Outcomes, patience: cfg.Patience, log: cfg.Log,
		changed: changed, wake: make(chan struct{}, 1),
	}
}

// open reports whether sends may start.
func (r *recorder) open(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.failing && (r.since.IsZero() || now.Sub(r.since) <= r.patience)
}

// record returns when the outcome is durable, or with the error of a context that ended first.
func (r *recorder) record(ctx context.Context, o record.Outcome) error {
	q := request{outcome: o, done: make(chan struct{})}
	r.mu.Lock()
	r.waiting = append(r.waiting, q)
	r.mu.Unlock()
	signal(r.wake)
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run appends until ctx ends; nothing waits for it then. It fails only when the lane was lost.
func (r *recorder) run(ctx context.Context) error {
	for {
		block := r.next()
		if len(block) == 0 {
			select {
			case <-r.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := r.appendUntilStored(ctx, block); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		for _, q := range block {
			close(q.done)
		}
	}
}

// next takes what has collected, at most a block.
func (r *recorder) next() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.waiting), maxBlock)
	block := r.waiting[:n:n]
	if r.waiting = r.waiting[n:]; len(r.waiting) == 0 {
		r.waiting = nil
	}
	return block
}

func (r *recorder) appendUntilStored(ctx context.Context, block []request) error {
	outcomes := make([]record.Outcome, len(block))
	for i, q := range block {
		outcomes[i] = q.outcome
	}
	backoff := appendBackoff
	for try := 1; ; try++ {
		r.begin()
		err := r.outcomes.Append(ctx, r.lane, outcomes...)
		r.end(err)
		switch {
		case err == nil:
			if try > 1 {
				r.log.Info("outcomes are stored again, sending goes on", "lane", r.lane)
			}
			return nil
		case ctx.Err() != nil, errors.Is(err, ErrLost):
			return err
		case try == 1:
			r.log.Warn("outcomes cannot be stored, sending stops until they can", "lane", r.lane, "err", err)
		}
		if !sleep(ctx, backoff) {
			return ctx.Err()
		}
		backoff = min(2*backoff, maxAppendBackoff)
	}
}

func (r *recorder) begin() {
	r.mu.Lock()
	r.since = time.Now()
	r.mu.Unlock()
}

func (r *recorder) end(err error) {
	r.mu.Lock()
	shut := r.failing || time.Since(r.since) > r.patience
	r.since, r.failing = time.Time{}, err != nil
	r.mu.Unlock()
	if shut && err == nil {
		r.changed()
	}
}

// signal wakes a receiver that need not be there yet.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
