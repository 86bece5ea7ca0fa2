package deliver

import (
	"context"
	"errors"
	"log/slog"
	"slices"
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
	waiting []*block // the last one collects
	latest  int      // outcomes in the block that was taken last
	failing bool
	since   time.Time // when the append on its way began; zero when there is none
	wake    chan struct{}
}

// block is outcomes that are appended together. Their attempts wait for all of them.
type block struct {
	outcomes []record.Outcome
	stored   chan struct{} // closed when durable
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
	stored := r.add(o)
	signal(r.wake)
	select {
	case <-stored:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// add puts an outcome into the block that collects, and begins another when that one is full.
func (r *recorder) add(o record.Outcome) (stored <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.waiting)
	if n == 0 || len(r.waiting[n-1].outcomes) == maxBlock {
		// As many as before is the best guess at how many will come.
		r.waiting = append(r.waiting, &block{make([]record.Outcome, 0, max(1, r.latest)), make(chan struct{})})
		n++
	}
	b := r.waiting[n-1]
	b.outcomes = append(b.outcomes, o)
	return b.stored
}

// run appends until ctx ends; nothing waits for it then. It fails only when the lane was lost.
func (r *recorder) run(ctx context.Context) error {
	for {
		b := r.next()
		if b == nil {
			select {
			case <-r.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := r.appendUntilStored(ctx, b.outcomes); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		close(b.stored)
	}
}

// next takes the oldest block; nil when nothing has collected.
func (r *recorder) next() *block {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return nil
	}
	b := r.waiting[0]
	r.waiting = slices.Delete(r.waiting, 0, 1)
	r.latest = len(b.outcomes)
	return b
}

func (r *recorder) appendUntilStored(ctx context.Context, outcomes []record.Outcome) error {
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
