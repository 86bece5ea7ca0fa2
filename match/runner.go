package match

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// Events reads a partition's share of EVENTS, as folded.
type Events interface {
	// Next copies into dst, up to its capacity, the changes of a partition that follow a
	// place of the log, in order, and says how far the log has been looked through with
	// them: every change of the partition after that place, up to and including through, is
	// among them. It waits until there is a change, or until through has moved; an ended
	// context gives its error. The runner is done with dst when it asks again.
	//
	// What it returns is final: acknowledged by the log, and folded; and the index holds
	// every version of a Subscription that was written before through.
	Next(ctx context.Context, partition string, after record.Sequence, dst []record.Change) (changes []record.Change, through record.Sequence, err error)
}

// ErrGone says that a body will never be had again. Any other error of Bodies is taken for
// passing.
var ErrGone = errors.New("the body of this version is gone")

// ErrOvertaken says that another owner of the partition writes its chain, as happens for a moment
// when a partition moves. It is no trouble: whoever comes second reads the newest block.
var ErrOvertaken = errors.New("another owner of the partition was first")

// Bodies gives the state of a resource before an event.
type Bodies interface {
	// Body returns the resource as it was written at a place of EVENTS. An error that wraps
	// ErrGone is final.
	Body(ctx context.Context, version record.Sequence) ([]byte, error)
}

// Repository shows the resources beside an event's own, for criteria that ask for them.
type Repository interface {
	// At gives what criteria are told that are evaluated for one event: of a Repository over
	// the log, the state of every resource at a place of it, for which the log is folded at
	// least up to there. ctx holds for all that is asked of it.
	At(ctx context.Context, at record.Sequence) search.Repository
}

// Blocks is a partition's chain in MATCHES.
type Blocks interface {
	// Newest reads the partition's newest block from the leader of the log, never from a
	// copy that may be behind. found is false where there is none yet.
	Newest(ctx context.Context, partition string) (b record.Block, at record.Sequence, found bool, err error)

	// Publish appends a block if the partition's newest one is at expect (0: if there is
	// none), and returns its place once it is durable. It gives up waiting after a time of
	// its own. After an error nothing is known: the block may be in the log, may come to it
	// later, or never. One that wraps ErrOvertaken tells of another block on its way or there.
	Publish(ctx context.Context, partition string, b record.Block, expect record.Sequence) (record.Sequence, error)
}

// DeadIngest takes events that cannot be evaluated.
type DeadIngest interface {
	// SetAside keeps an event and the reason for an operator; durable on return. It may be
	// called again for the same event.
	SetAside(ctx context.Context, event record.Event, reason string) error
}

// Index finds what an event meets. Its Match is that of index.Index, whose promise it keeps.
type Index interface {
	Match(at record.Sequence, t time.Time, i fhir.Interaction, r *search.Resource, verify index.Verify, dst []index.Hit) []index.Hit
}

var _ Index = (*index.Index)(nil)

// Observer is told what a runner does, for metrics. Its functions may be nil, must be quick,
// and are called from the runner's goroutines.
type Observer struct {
	Matched     func(matches int, took time.Duration)                          // one event was evaluated
	Published   func(through record.Sequence, matches int, took time.Duration) // a block is durable
	SetAside    func()                                                         // an event was set aside
	Interrupted func(err error)                                                // the chain is taken up again from its newest block
}

// Runner owns one partition while it runs. Owning is a matter of economy: any number of
// runners of one partition write one chain, since each block names the one before it.
type Runner struct {
	Partition   string
	Base        record.Sequence     // position of the partition's table; its events come after it
	Definitions *search.Definitions // those that the index's criteria were compiled with
	Index       Index
	Events      Events
	Bodies      Bodies
	Repository  Repository // nil: criteria that ask for other resources are not evaluable
	Blocks      Blocks
	Dead        DeadIngest
	Hooks       Hooks // asked beside the criteria
	Observer    Observer
	Log         *slog.Logger

	// Budget bounds the evaluation of one event; 10 s if zero. It is far above what any
	// event needs and is there so that none can stop its partition.
	Budget time.Duration

	smallBlocks int // bytes of a block, where tests want to see many
}

func (r *Runner) blockBytes() int {
	if r.smallBlocks > 0 {
		return r.smallBlocks
	}
	return maxBlock
}

// Waits before the chain is taken up again after an interruption. They double from the first
// to the last, and begin anew when a block has been published.
const (
	firstWait = 10 * time.Millisecond
	lastWait  = 2 * time.Second
)

// Run matches the partition's events until ctx ends, and then returns nil. It leaves nothing
// behind but, perhaps, a block on its way whose answer nobody waits for; the next runner finds
// it in the log or shuts it out.
func (r *Runner) Run(ctx context.Context) error {
	wait, said := firstWait, ""
	for {
		published, err := r.chain(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if r.Observer.Interrupted != nil {
			r.Observer.Interrupted(err)
		}
		if published {
			wait, said = firstWait, ""
		}
		if errors.Is(err, ErrOvertaken) {
			r.Log.Debug("matching goes on from the newest block", "partition", r.Partition, "err", err)
		} else if text := err.Error(); text != said {
			r.Log.Warn("matching interrupted, will read the newest block and go on", "partition", r.Partition, "err", err)
			said = text
		}
		// Owners that shut one another out must not stay in step.
		if !sleep(ctx, wait/2+rand.N(wait/2)) {
			return nil
		}
		wait = min(2*wait, lastWait)
	}
}

// chain continues the partition's chain from its newest block until something goes wrong,
// which is always returned, or ctx ends. Whatever it was, what is prepared and not
// acknowledged is dropped, and the log alone says where to go on.
func (r *Runner) chain(ctx context.Context) (published bool, err error) {
	newest, expect, found, err := r.Blocks.Newest(ctx, r.Partition)
	if err != nil {
		return false, fmt.Errorf("read newest block of %s: %w", r.Partition, err)
	}
	from := position(newest, found, r.Base)
	c := newCollector(r.Partition, from, r.blockBytes())

	matching, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		defer stop() // no block, no need to prepare more
		var err error
		published, err = r.publish(ctx, c, expect)
		done <- err
	}()
	matchErr := newMatcher(r).run(matching, from, newest.Cut, c)
	// What was found before the error is still published: an event that cannot be read for a
	// while must not keep those before it from getting on.
	c.end()
	if err := <-done; err != nil {
		return published, err
	}
	return published, matchErr
}

// position is the place in EVENTS up to which a chain is complete. A cut block is complete up
// to the event before the one that it holds in part.
func position(newest record.Block, found bool, base record.Sequence) record.Sequence {
	if !found {
		return base
	}
	if newest.Cut != nil {
		return max(newest.Through, newest.Cut.Event-1)
	}
	return newest.Through
}

// publish appends the blocks that the collector fills, one at a time: while one is on its way
// the next one collects. It ends with the first answer that is not an acknowledgement, or when
// the collector has ended and is empty.
func (r *Runner) publish(ctx context.Context, c *collector, expect record.Sequence) (published bool, err error) {
	idle := time.NewTicker(markEvery)
	defer idle.Stop()
	tick := false
	for {
		b, ok, ended := c.take(tick)
		tick = false
		if !ok && ended {
			return published, nil
		}
		if !ok {
			select {
			case <-c.ready:
			case <-idle.C:
				tick = true
			case <-ctx.Done():
				return published, ctx.Err()
			}
			continue
		}
		began := time.Now()
		at, err := r.Blocks.Publish(ctx, r.Partition, b, expect)
		if err != nil {
			return published, fmt.Errorf("publish block of %s through %d: %w", r.Partition, b.Through, err)
		}
		expect, published = at, true
		if r.Observer.Published != nil {
			r.Observer.Published(b.Through, len(b.Matches), time.Since(began))
		}
	}
}

// sleep waits, and reports whether it did to the end.
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
