package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// feed folds the four logs into the store, in the order that each has, and tells the rest of
// the node what came. Each log has one reader. They wait for one another where a record names
// one of another log: a block for its events, an outcome for its match.
type feed struct {
	log      *slog.Logger
	server   *stream.Server
	store    *store.Store
	ring     *ring
	versions *versions
	subs     *registry
	controls map[string]func(record.Sequence, []byte) error // takes over a control record, by name
	lanes    map[string]*deliver.Lane
	observe  *observer

	changed func(*subscription)        // a Subscription was written; called in the order of the log
	closed  func() bool                // plain subscribers hear of no changes: the API asks for a login
	pauses  *pauses                    // hold the logs where the projections of all nodes are compared
	owner   string                     // this process, as it signs outcomes
	notices func(record.Change) bool   // this node is the one that tells plain subscribers of a change
	settled func(*record.OutcomeBlock) // a block of outcomes was folded; nil where it cannot be read
	// attempts is told of what this process has sent, once it is folded.
	attempts func(record.Sequence, *record.OutcomeBlock) error
	marked   func(partition string, through record.Sequence) // a partition is matched so far
	ordered  func()                                          // a job was ordered
	live     atomic.Bool                                     // the logs were folded to their ends; before that all is old news

	unreadable atomic.Uint64 // records that could not be read at all
}

// run reads all logs until ctx ends. A reader that fails ends them all: a projection that
// skips a record would be wrong for ever.
func (f *feed) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := f.skipPurged(ctx); err != nil {
		return err
	}
	at := f.store.Position()
	var readers sync.WaitGroup
	for _, r := range []struct {
		stream string
		from   record.Sequence
		fold   func(context.Context, []stream.Message) error
	}{
		{stream.Events, at.Events, f.foldEvents},
		{stream.Matches, at.Matches, f.foldMatches},
		{stream.Outcomes, at.Outcomes, f.foldOutcomes},
		{stream.Dead, at.Dead, f.foldDead},
	} {
		readers.Go(func() {
			err := f.follow(ctx, r.stream, r.from+1, func(ms []stream.Message) error {
				if err := allReadable(ms); err != nil {
					return err
				}
				return f.pauses.fold(ctx, r.stream, ms, r.fold)
			})
			if err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("read %s: %w", r.stream, err))
			}
		})
	}
	readers.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// follow reads one log. Dead letters that were purged while this node was cut off are passed over,
// as at the start: no other log loses its beginning.
func (f *feed) follow(ctx context.Context, log string, from record.Sequence, fn func([]stream.Message) error) error {
	for {
		err := f.server.Follow(ctx, log, from, nil, fn)
		if log != stream.Dead || !errors.Is(err, stream.ErrGap) {
			return err
		}
		before := f.store.Position().Dead
		if serr := f.skipPurged(ctx); serr != nil || f.store.Position().Dead == before {
			return errors.Join(err, serr)
		}
		from = f.store.Position().Dead + 1
	}
}

// skipPurged moves past dead letters that were purged from the beginning of their log: there is
// nothing to be read, and a reader must not take that for a loss.
func (f *feed) skipPurged(ctx context.Context) error {
	first, _, err := f.server.State(ctx, stream.Dead)
	if err != nil || first <= f.store.Position().Dead+1 {
		return err
	}
	return f.store.AdvanceDead(ctx, first-1)
}

// foldEvents folds changes. What they mean for Subscriptions is in the index before the ring
// shows them to the runners, so an event is always matched by all that was in force.
func (f *feed) foldEvents(ctx context.Context, ms []stream.Message) error {
	events := make([]record.Event, 0, len(ms))
	for _, m := range ms {
		e, ok, err := parseEvent(m)
		switch {
		case err != nil:
			f.setAside("EVENTS", m, err)
		case ok:
			events = append(events, e)
		default:
			f.control(m)
		}
	}
	last := ms[len(ms)-1].Sequence
	changes, err := f.store.ApplyEvents(ctx, events, last)
	if err != nil {
		return err
	}
	rest, notice := ms, f.live.Load() && !f.closed()
	for i := range changes {
		c := &changes[i]
		for rest[0].Sequence != c.Sequence { // what is no event, and what was folded before, gives no change
			rest = rest[1:]
		}
		if notice && c.Interaction != fhir.Unchanged && f.notices(*c) {
			f.server.Notice(rest[0])
		}
		if c.Key.Type == "Subscription" {
			if s := f.subs.apply(*c); s != nil {
				f.changed(s)
			}
		} else if defines(c.Key.Type) {
			for _, s := range f.subs.define(*c) {
				f.changed(s)
			}
		}
		f.versions.put(c.Event)
		f.observe.ingested(*c)
	}
	f.ring.add(changes, last)
	return nil
}

// control takes over a control record that this release knows. Others are of a newer one.
func (f *feed) control(m stream.Message) {
	name, ok := stream.ParseControl(m.Subject)
	if !ok {
		return // a uniqueness record speaks to the log alone
	}
	take, known := f.controls[name]
	if !known {
		return
	}
	if err := take(m.Sequence, m.Data); err != nil {
		f.setAside("EVENTS", m, err)
	}
}

// foldMatches makes pending entries of matches and offers them to their lanes.
func (f *feed) foldMatches(ctx context.Context, ms []stream.Message) error {
	for _, m := range ms {
		b, j, err := parseMatches(m)
		if err != nil {
			f.setAside("MATCHES", m, err)
		}
		// Not only folded, but taken over by the registry: the match names a Subscription.
		if err := f.ring.wait(ctx, namedEvents(b, j)); err != nil {
			return err
		}
		pending, err := f.store.ApplyMatches(ctx, m.Sequence, b, j)
		if err != nil {
			return err
		}
		if b != nil {
			f.marked(b.Partition, b.Through)
		}
		if j != nil && j.Order != nil {
			f.ordered()
		}
		f.observe.matched(len(pending))
		f.offer(pending)
	}
	return nil
}

// namedEvents is the highest event that a record of MATCHES speaks of.
func namedEvents(b *record.Block, j *record.Job) record.Sequence {
	var highest record.Sequence
	up := func(ms []record.Match) {
		for _, m := range ms {
			highest = max(highest, m.Event)
		}
	}
	if b != nil {
		highest = b.Through
		if b.Cut != nil {
			highest = max(highest, b.Cut.Event)
		}
		up(b.Matches)
	}
	if j != nil {
		up(j.Matches)
	}
	return highest
}

// offer sorts pending matches by lane. A lane that is not running reads them from the store
// when it is.
func (f *feed) offer(pending []store.Pending) {
	if len(pending) == 0 {
		return
	}
	lanes := make([]string, len(pending))
	sizes := map[string]int{}
	for i := range pending {
		p := &pending[i]
		h, ok := f.subs.home(p.Birth)
		if !ok {
			f.log.Error("a match names a Subscription that is not known", "subscription", p.Subscription, "event", p.Event)
			continue
		}
		lanes[i] = h.lane
		sizes[h.lane]++
	}
	for lane, n := range sizes {
		ps := make([]deliver.Pending, 0, n)
		for i := range pending {
			if lanes[i] == lane {
				ps = append(ps, toPending(pending[i]))
			}
		}
		f.lanes[lane].Offer(ps)
	}
}

// foldOutcomes settles what lanes have appended.
func (f *feed) foldOutcomes(ctx context.Context, ms []stream.Message) error {
	for _, m := range ms {
		var b *record.OutcomeBlock
		var block record.OutcomeBlock
		if err := json.Unmarshal(m.Data, &block); err != nil {
			f.setAside("OUTCOMES", m, err)
		} else {
			b = &block
			if lane := f.lanes[b.Lane]; lane != nil && b.Own && b.Owner != f.owner {
				lane.Lost(b.Owner) // it would learn it with its next outcome only
			}
			if err := f.store.WaitApplied(ctx, store.Vector{Matches: block.After}); err != nil {
				return err
			}
		}
		// A replay that the lane had not seen when it ended the round makes the match pending
		// once more.
		again, err := f.store.ApplyOutcomes(ctx, m.Sequence, b)
		if err != nil {
			return err
		}
		f.settled(b)
		f.offer(again)
		if b != nil && b.Owner == f.owner {
			if err := f.attempts(m.Sequence, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// foldDead lists dead letters.
func (f *feed) foldDead(ctx context.Context, ms []stream.Message) error {
	for _, m := range ms {
		var letter *record.DeadLetter
		d, err := parseDead(m)
		if err != nil {
			f.setAside("DEAD", m, err)
		} else {
			letter = &d
		}
		if err := f.store.ApplyDead(ctx, m.Sequence, letter); err != nil {
			return err
		}
	}
	return nil
}

// setAside counts a record that cannot be read and says so; the log goes on.
func (f *feed) setAside(name string, m stream.Message, err error) {
	f.unreadable.Add(1)
	f.log.Error("record of the log cannot be read, it is set aside", "log", name, "sequence", m.Sequence, "err", err)
}

// caughtUp waits until everything that the logs hold now is folded. What is in MATCHES may
// name what is in EVENTS, so the order does not matter: all are read at once.
func (f *feed) caughtUp(ctx context.Context) error {
	var v store.Vector
	for _, s := range []struct {
		stream string
		at     *record.Sequence
	}{{stream.Events, &v.Events}, {stream.Matches, &v.Matches}, {stream.Outcomes, &v.Outcomes}, {stream.Dead, &v.Dead}} {
		_, last, err := f.server.State(ctx, s.stream)
		if err != nil {
			return err
		}
		*s.at = last
	}
	// The newest dead letter that is there: those after it were purged and will not be read.
	switch newest, err := f.server.LastFor(ctx, stream.Dead, stream.FilterDead); {
	case err == nil:
		v.Dead = newest.Sequence
	case errors.Is(err, stream.ErrNotFound):
		v.Dead = 0
	default:
		return err
	}
	start := time.Now()
	if err := f.store.WaitApplied(ctx, v); err != nil {
		return err
	}
	// The registry takes a Subscription over after the store has: lanes that start on an older
	// one would withdraw what is to be sent.
	if err := f.ring.wait(ctx, v.Events); err != nil {
		return err
	}
	f.live.Store(true)
	f.log.Debug("projection is current", "events", v.Events, "matches", v.Matches, "outcomes", v.Outcomes, "took", time.Since(start))
	return nil
}

func toPending(p store.Pending) deliver.Pending {
	return deliver.Pending{
		Match: p.Match, Number: p.Number, Round: p.Round, Attempts: p.Attempts,
		NotBefore: p.NotBefore, Key: p.Key, EventTime: p.Time,
	}
}

func toPendings(ps []store.Pending) []deliver.Pending {
	out := make([]deliver.Pending, len(ps))
	for i, p := range ps {
		out[i] = toPending(p)
	}
	return out
}
