package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Config is what a lane needs. Name, the ports, Channels and Log must be given.
type Config struct {
	Name        string
	Queue       Queue
	Outcomes    Outcomes
	Tokens      Tokens
	DeadLetters DeadLetters
	Targets     Targets
	Renderer    Renderer
	Channels    map[string]Channel // by Target.ChannelType
	Log         *slog.Logger
	Observer    Observer
	// Endpoints is what all lanes of a node share about the endpoints. Nil: no breaker, no limits.
	Endpoints *Endpoints

	// Allowed reports whether sends may start now and dead letters be written: the node's lease is
	// good. Nil: always. It is asked before every send and at least each second.
	Allowed func() bool
	// Halted reports whether all sending is stopped by hand: nothing is begun, and what is out
	// ends in peace. Nil: never. It is asked as often as Allowed.
	Halted func() bool
	// OnGone is called after an endpoint answered 410: the Subscription is to be turned off, with
	// the reason. Nothing more is sent for it until Changed. An error makes the lane call again.
	OnGone func(ctx context.Context, id fhir.ID, birth record.Sequence) error
	// OnExhausted is called after the last attempt of a match when the Target asks for
	// ExhaustedError. Nothing more is sent for it until Changed. An error makes the lane call again.
	OnExhausted func(ctx context.Context, id fhir.ID, birth record.Sequence) error
	// OnDisabled is called after a receiver asked that its Subscription be turned off. It is
	// treated as OnGone is.
	OnDisabled func(ctx context.Context, id fhir.ID, birth record.Sequence) error

	// Places bounds what is in flight and what holds a token. Zero: twice the number of
	// Subscriptions that the lane knows, at least 1,024.
	Places int
	// Window is how many matches of a Subscription are kept ready in memory. Zero: 64.
	Window int
	// SlowAfter is how long an attempt may take before its endpoint counts as slow. Zero: 1 s.
	SlowAfter time.Duration
	// Patience is how long an append of outcomes may be unanswered before no send starts, the
	// length of a lease. Zero: 5 s.
	Patience time.Duration
	// Drain is how long attempts in flight may go on after Run's context has ended; then they
	// are cut, and made again by the next owner. Zero: 15 s.
	Drain time.Duration
	// Random gives numbers in [0,1) for jitter. Nil: math/rand.
	Random func() float64
}

// Lane delivers the pending matches of the Subscriptions that were assigned to it. One node
// runs it at a time; a second one is shut out by Outcomes.
type Lane struct {
	cfg  Config
	wake chan struct{} // one waiting signal for the dispatcher

	// mu guards everything below. It is never held across a send, nor while anything is called
	// that others fill in: they may hold a lock of their own while they call Offer or Changed.
	mu       sync.Mutex
	running  bool
	backlogs map[record.Sequence]*backlog // by birth
	runnable fifo[*backlog]               // may have something to start
	starved  []*backlog                   // would start something, were there a place
	dirty    fifo[*backlog]               // to be looked at outside of mu: target, reading, withdrawal
	places   int                          // taken by what is in flight or holds a token
	sending  [shares]int                  // sends in progress
	loaded   int                          // matches in memory
	quiet    time.Time                    // unclean takeover: when the owner before began to be shut out

	// called guards callBacks, Subscriptions that may try their endpoint again. It is taken last.
	called    sync.Mutex
	callBacks []*backlog

	recorder   *recorder
	attempts   sync.WaitGroup // and what else runs beside the dispatcher
	publishing bool           // a sweep's tokens are on their way; guarded by mu
	fault      chan error     // first error that ends Run
}

// Limits of what is in memory.
const (
	minPlaces = 1024
	// maxLoaded bounds the matches of one Subscription, waiting ones included. Those behind
	// wait in the store until some of these are through.
	maxLoaded = 4096
	// maxLoadedLane bounds those of the lane; over it a Subscription gets no more than its
	// window.
	maxLoadedLane = 65536
	// maxUnrecorded times k is how many answered attempts of a Subscription may wait for their
	// outcome to be stored: what a crash repeats at most.
	maxUnrecorded = 8
)

// NewLane makes a lane. It does nothing before Run.
func NewLane(cfg Config) (*Lane, error) {
	if cfg.Name == "" || cfg.Queue == nil || cfg.Outcomes == nil || cfg.Tokens == nil ||
		cfg.DeadLetters == nil || cfg.Targets == nil || cfg.Renderer == nil || cfg.Log == nil {
		return nil, errors.New("new lane: a name, all ports and a log must be given")
	}
	if cfg.Allowed == nil {
		cfg.Allowed = func() bool { return true }
	}
	if cfg.Halted == nil {
		cfg.Halted = func() bool { return false }
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	cfg.Window = orDefault(cfg.Window, 64)
	cfg.SlowAfter = orDefault(cfg.SlowAfter, time.Second)
	cfg.Patience = orDefault(cfg.Patience, 5*time.Second)
	cfg.Drain = orDefault(cfg.Drain, 15*time.Second)
	return &Lane{cfg: cfg, wake: make(chan struct{}, 1)}, nil
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Name is the lane's name.
func (l *Lane) Name() string { return l.cfg.Name }

// Run takes the lane over, delivers until ctx ends, waits for the attempts in flight, and
// releases the lane. It returns nil after a clean stop, ErrLost when another owner took the
// lane, and an error when the store cannot be read. It may be called again afterwards.
func (l *Lane) Run(ctx context.Context) error {
	clean, err := l.cfg.Outcomes.Take(ctx, l.cfg.Name)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("take over lane %s: %w", l.cfg.Name, err)
	}
	if err := l.start(clean); err != nil {
		return err
	}
	defer l.reset()
	return l.deliver(ctx)
}

// start reads which Subscriptions have something pending. From here on Offer is heard, so that
// nothing falls between the reading and the offers.
func (l *Lane) start(clean bool) error {
	l.mu.Lock()
	l.running = true
	l.backlogs = make(map[record.Sequence]*backlog)
	l.fault = make(chan error, 1)
	l.recorder = newRecorder(&l.cfg, func() { signal(l.wake) })
	if !clean {
		l.quiet = time.Now()
	}
	l.mu.Unlock()

	subscribers, err := l.cfg.Queue.Subscribers(l.cfg.Name)
	if err != nil {
		l.reset()
		return fmt.Errorf("read what lane %s has pending: %w", l.cfg.Name, err)
	}
	for _, s := range subscribers {
		last, err := l.cfg.Queue.Last(s.Birth)
		if err != nil {
			l.reset()
			return fmt.Errorf("read what Subscription %s has pending: %w", s.ID, err)
		}
		l.mu.Lock()
		b := l.backlog(s.ID, s.Birth)
		b.takeover, b.more = last, true
		l.markDirty(b)
		l.mu.Unlock()
	}
	l.cfg.Log.Debug("lane taken", "lane", l.cfg.Name, "subscriptions", len(subscribers), "clean", clean)
	return nil
}

// deliver runs the lane's parts and stops them in reverse: first no more starts, then attempts
// end or are cut, then the recorder, then the lane is released.
func (l *Lane) deliver(ctx context.Context) error {
	work, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)

	var recording, receiving sync.WaitGroup
	recorderCtx, stopRecorder := context.WithCancel(work)
	defer stopRecorder()
	recording.Go(func() {
		if err := l.recorder.run(recorderCtx); err != nil {
			l.fail(err)
			cut(err) // nothing that is out can be recorded any more
		}
	})
	receiveCtx, stopReceiving := context.WithCancel(ctx)
	defer stopReceiving()
	receiving.Go(func() { l.receive(receiveCtx) })

	err := l.dispatch(ctx, work)

	stopReceiving()
	receiving.Wait()
	if err != nil {
		cut(err)
	}
	finished := l.drain(cut)
	stopRecorder()
	recording.Wait()
	if err == nil {
		select {
		case err = <-l.fault: // lost while draining
		default:
		}
	}
	if err != nil {
		return fmt.Errorf("lane %s: %w", l.cfg.Name, err)
	}
	if !finished {
		l.cfg.Log.Warn("attempts were cut at the stop, they will be made again", "lane", l.cfg.Name)
	}
	return l.release(work)
}

// drain waits for the attempts, and cuts them when they take longer than Drain.
func (l *Lane) drain(cut context.CancelCauseFunc) (finished bool) {
	done := make(chan struct{})
	go func() {
		l.attempts.Wait()
		close(done)
	}()
	timer := time.NewTimer(l.cfg.Drain)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		cut(context.Canceled)
		<-done
		return false
	}
}

// release is tried once: a lane that is not released costs its next owner a wait, no more.
func (l *Lane) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Patience)
	defer cancel()
	if err := l.cfg.Outcomes.Release(ctx, l.cfg.Name); err != nil {
		if errors.Is(err, ErrLost) {
			return fmt.Errorf("lane %s: %w", l.cfg.Name, err)
		}
		l.cfg.Log.Warn("lane not released", "lane", l.cfg.Name, "err", err)
	}
	return nil
}

// reset forgets everything: the store has it.
func (l *Lane) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.backlogs {
		l.depart(b)
	}
	l.running, l.publishing, l.backlogs, l.starved = false, false, nil, nil
	l.runnable, l.dirty = fifo[*backlog]{}, fifo[*backlog]{}
	l.places, l.loaded, l.sending, l.quiet = 0, 0, [shares]int{}, time.Time{}
}

// fail ends Run with its first error.
func (l *Lane) fail(err error) {
	select {
	case l.fault <- err:
	default:
	}
	signal(l.wake)
}

// Offer tells the lane of matches that the store holds as pending since a moment ago: new
// ones, and old ones that a job made pending again. They may be of many Subscriptions, new ones in
// order of their numbers for each; a job may name old ones in any order. Offer never waits: what the window cannot take is read from
// the store later. A lane that does not run ignores it.
func (l *Lane) Offer(pending []Pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		return
	}
	if slices.ContainsFunc(pending, func(p Pending) bool { return p.Round > 0 }) {
		// The first of a resource that is offered may be sent before the next is looked at.
		pending = slices.Clone(pending)
		slices.SortStableFunc(pending, func(a, b Pending) int { return cmp.Compare(a.Number, b.Number) })
	}
	for _, p := range pending {
		l.offer(l.backlog(p.Subscription, p.Birth), p)
	}
	signal(l.wake)
}

func (l *Lane) offer(b *backlog, p Pending) {
	if b.state == Withdrawn {
		b.stale = true
		l.markDirty(b)
	}
	switch {
	case p.Number == b.cursor+1 && !b.more && l.room(b, freshShare):
		b.cursor = p.Number
		l.add(b, p)
	case p.Number > b.cursor:
		b.more = true
		l.markDirty(b)
	case p.Round == 0 || b.known(p):
		// In memory, or behind us: told a second time.
	case !b.behind && l.room(b, replayShare):
		l.add(b, p)
	default:
		b.rescan()
		l.markDirty(b)
	}
}

// Lost tells a running lane that another owner has taken it: Run ends with ErrLost.
func (l *Lane) Lost(by string) {
	l.mu.Lock()
	running := l.running
	l.mu.Unlock()
	if running {
		l.fail(fmt.Errorf("%w: %s", ErrLost, by))
	}
}

// Changed tells the lane that a Subscription was written, switched, or has reached its end:
// its Target is asked for again. The lane withdraws, holds or goes on accordingly.
func (l *Lane) Changed(id fhir.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.backlogs {
		if b.id == id {
			b.stale, b.stopped = true, nil
			l.markDirty(b)
		}
	}
	signal(l.wake)
}

// Status is what a lane is doing at this moment.
type Status struct {
	Subscriptions int  // with anything in memory
	Loaded        int  // matches in memory
	Places        int  // taken
	Capacity      int  // places in all
	Sending       int  // attempts at their endpoint
	Open          bool // outcomes can be stored
}

// Status gives the figures of a running lane; all zero when it does not run.
func (l *Lane) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		return Status{}
	}
	s := Status{Loaded: l.loaded, Places: l.places, Capacity: l.capacity(), Open: l.recorder.open(time.Now())}
	for _, b := range l.backlogs {
		if len(b.entries) > 0 {
			s.Subscriptions++
		}
	}
	for _, n := range l.sending {
		s.Sending += n
	}
	return s
}
