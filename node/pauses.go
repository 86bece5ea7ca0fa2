package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// pauses holds the readers of the logs at a place, so that the projections of all nodes can be
// compared at one. A pause ends by itself after a while: whoever asked for it may be gone.
type pauses struct {
	limit time.Duration // of a pause

	mu    sync.Mutex
	id    string // of the pause; empty while there is none
	timer *time.Timer
	marks map[string]record.Sequence // where each reader stops; one without a mark goes on
	busy  map[string]bool            // readers that are folding
	turn  chan struct{}              // closed at each change of the above
}

// pauseLimit is the longest that readers are held: a few requests to other nodes and the write of
// what is folded. Writes that were made meanwhile wait for it with their answers.
const pauseLimit = 8 * time.Second

var (
	errPaused   = errors.New("another comparison is under way")
	errNoPause  = errors.New("the pause has ended: it took too long")
	errBadPlace = errors.New("cannot stop at this place of the logs")
)

func newPauses(limit time.Duration) *pauses {
	return &pauses{limit: limit, marks: map[string]record.Sequence{}, busy: map[string]bool{}, turn: make(chan struct{})}
}

// changed tells all who wait. Called with mu held.
func (p *pauses) changed() {
	close(p.turn)
	p.turn = make(chan struct{})
}

// fold gives a reader's records to its fold, as far as it may go, and waits where it may not.
func (p *pauses) fold(ctx context.Context, log string, ms []stream.Message, fold func(context.Context, []stream.Message) error) error {
	for len(ms) > 0 {
		n, err := p.enter(ctx, log, ms)
		if err != nil {
			return err
		}
		err = fold(ctx, ms[:n])
		p.leave(log)
		if err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}

// enter waits until at least one of the records may be folded, and says how many.
func (p *pauses) enter(ctx context.Context, log string, ms []stream.Message) (int, error) {
	for {
		p.mu.Lock()
		n := len(ms)
		if mark, held := p.marks[log]; held {
			for n > 0 && ms[n-1].Sequence > mark {
				n--
			}
		}
		if n > 0 {
			p.busy[log] = true
			p.mu.Unlock()
			return n, nil
		}
		turn := p.turn
		p.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (p *pauses) leave(log string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy[log] = false
	if p.id != "" {
		p.changed()
	}
}

// pausedLogs are the logs in an order in which their readers can be stopped: one may wait in the
// middle of its records for those after it in this list.
var pausedLogs = []string{stream.Dead, stream.Outcomes, stream.Matches, stream.Events}

// begin stops all readers where they are. After an error there is no pause.
func (p *pauses) begin(ctx context.Context, id string) (err error) {
	p.mu.Lock()
	if p.id != "" {
		p.mu.Unlock()
		return errPaused
	}
	p.id = id
	p.timer = time.AfterFunc(p.limit, func() { p.end(id) })
	p.mu.Unlock()
	defer func() {
		if err != nil {
			p.end(id)
		}
	}()
	for _, log := range pausedLogs {
		if err := p.mark(id, log, 0); err != nil {
			return err
		}
		if err := p.idle(ctx, id, log); err != nil {
			return err
		}
	}
	return nil
}

// mark sets where a reader stops.
func (p *pauses) mark(id, log string, at record.Sequence) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id != id {
		return errNoPause
	}
	p.marks[log] = at
	p.changed()
	return nil
}

// idle waits until a reader folds nothing.
func (p *pauses) idle(ctx context.Context, id, log string) error {
	for {
		p.mu.Lock()
		busy, mine, turn := p.busy[log], p.id == id, p.turn
		p.mu.Unlock()
		switch {
		case !mine:
			return errNoPause
		case !busy:
			return nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// advance lets the readers go on to a place and no further, and waits until they are there. Of
// DEAD, whose records may have been purged, it waits for what is there.
func (p *pauses) advance(ctx context.Context, id string, s *store.Store, to store.Vector) error {
	if at := s.Position(); !to.Covers(at) {
		return fmt.Errorf("%w: it has passed", errBadPlace)
	}
	for _, log := range pausedLogs {
		if err := p.mark(id, log, place(to, log)); err != nil {
			return err
		}
	}
	must := to
	must.Dead = 0
	if err := s.WaitApplied(ctx, must); err != nil {
		return err
	}
	p.awaitDead(ctx, s, to)
	for _, log := range pausedLogs {
		if err := p.idle(ctx, id, log); err != nil {
			return err
		}
	}
	return nil
}

// awaitDead waits for dead letters for a while only: those that were purged never come.
func (p *pauses) awaitDead(ctx context.Context, s *store.Store, to store.Vector) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = s.WaitApplied(ctx, store.Vector{Dead: to.Dead})
}

func place(v store.Vector, log string) record.Sequence {
	switch log {
	case stream.Events:
		return v.Events
	case stream.Matches:
		return v.Matches
	case stream.Outcomes:
		return v.Outcomes
	}
	return v.Dead
}

// end lets all readers go on. A pause that has ended already is left alone.
func (p *pauses) end(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id != id || id == "" {
		return
	}
	p.id = ""
	p.timer.Stop()
	clear(p.marks)
	p.changed()
}
