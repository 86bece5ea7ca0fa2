package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// queue is what a lane sees of the store (deliver.Queue).
type queue struct {
	store    *store.Store
	subs     *registry
	versions *versions
}

func (q queue) Subscribers(lane string) ([]deliver.Subscriber, error) {
	var out []deliver.Subscriber
	for _, birth := range q.store.PendingBirths() {
		h, ok := q.subs.home(birth)
		if !ok {
			return nil, fmt.Errorf("matches of a Subscription born at %d are pending, and its versions are not in the store", birth)
		}
		if h.lane == lane {
			out = append(out, deliver.Subscriber{ID: h.id, Birth: birth})
		}
	}
	return out, nil
}

// PendingFrom gives a page of a backlog, and lets versions know that its events come next.
func (q queue) PendingFrom(birth record.Sequence, after fhir.EventNumber, limit int) ([]deliver.Pending, error) {
	ps, err := q.store.PendingFrom(birth, after, limit)
	page := toPendings(ps)
	q.versions.expect(page)
	return page, err
}

func (q queue) MatchByID(id record.MatchID) (deliver.Pending, bool, error) {
	m, ok, err := q.store.MatchByID(id)
	return toPending(m.Pending), ok && m.Open, err
}

func (q queue) Last(birth record.Sequence) (fhir.EventNumber, error) { return q.store.Counter(birth) }

// outcomes appends the outcome blocks of the lanes that this process owns (deliver.Outcomes).
// Each lane's blocks are one chain: a block is written with the one before it as expectation,
// so that an owner that was replaced is refused.
type outcomes struct {
	server *stream.Server
	store  *store.Store
	node   string                 // name of the node
	run    string                 // names this process among those that the node has had
	alive  func(node string) bool // whether another node holds a lease

	mu   sync.Mutex
	last map[string]record.Sequence // newest block of each lane that we own
}

func (o *outcomes) owner() string { return o.node + "/" + o.run }

// Append stores outcomes as the lane's next block.
func (o *outcomes) Append(ctx context.Context, lane string, all ...record.Outcome) error {
	return o.append(ctx, lane, record.OutcomeBlock{Outcomes: all})
}

// Release says that nothing of the lane is in flight any more.
func (o *outcomes) Release(ctx context.Context, lane string) error {
	return o.append(ctx, lane, record.OutcomeBlock{Released: true})
}

// handover is how long the owner before may take to end what it has in flight, when it is alive
// and the lane has moved for the sake of balance: the drain of a lane and the answer of its
// endpoint, with room. One that is gone is not waited for.
const handover = 20 * time.Second

// Take makes this process the lane's owner and waits until the store knows all that the one
// before it did, and every match that there was.
func (o *outcomes) Take(ctx context.Context, lane string) (clean bool, err error) {
	newest, seq, err := o.awaitRelease(ctx, lane)
	if err != nil {
		return false, err
	}
	before, _, _ := strings.Cut(newest.Owner, "/")
	clean = seq == 0 || newest.Released || before == o.node
	o.set(lane, seq)
	if err := o.append(ctx, lane, record.OutcomeBlock{Own: true}); err != nil {
		return false, err
	}
	_, matches, err := o.server.State(ctx, stream.Matches)
	if err != nil {
		return false, err
	}
	return clean, o.store.WaitApplied(ctx, store.Vector{Outcomes: o.get(lane), Matches: matches})
}

// awaitRelease reads the lane's newest block. While another node that is alive has the lane it
// is given time to release it: taken at once, its attempts in flight would be made twice.
func (o *outcomes) awaitRelease(ctx context.Context, lane string) (newest record.OutcomeBlock, seq record.Sequence, err error) {
	deadline := time.Now().Add(handover)
	for {
		newest, seq, err = o.newest(ctx, lane)
		if err != nil {
			return newest, seq, err
		}
		before, _, _ := strings.Cut(newest.Owner, "/")
		if seq == 0 || newest.Released || before == o.node || !o.alive(before) || time.Now().After(deadline) {
			return newest, seq, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return newest, seq, ctx.Err()
		}
	}
}

// append writes a block. After an append that may have happened the chain is one further than
// known here: it is read again, and goes on if the newest block is ours.
func (o *outcomes) append(ctx context.Context, lane string, b record.OutcomeBlock) error {
	b.Lane, b.Owner = lane, o.owner()
	b.After = o.store.Position().Matches
	seq, err := o.server.Append(ctx, stream.Outcomes, stream.OutcomeSubject(lane), record.Encode(b), o.get(lane))
	if err == nil {
		o.set(lane, seq)
		return nil
	}
	if !errors.Is(err, stream.ErrConflict) {
		return err
	}
	newest, at, rerr := o.newest(ctx, lane)
	if rerr != nil {
		return rerr
	}
	if newest.Owner != o.owner() {
		return fmt.Errorf("%w: %s", deliver.ErrLost, newest.Owner)
	}
	o.set(lane, at)
	if slices.EqualFunc(newest.Outcomes, b.Outcomes, sameOutcome) && newest.Own == b.Own && newest.Released == b.Released {
		return nil // this very block, whose answer was lost
	}
	return fmt.Errorf("an earlier block of lane %s was stored after all: %w", lane, err)
}

// sameOutcome reports whether two records tell of one attempt.
func sameOutcome(a, b record.Outcome) bool {
	return a.MatchID == b.MatchID && a.Round == b.Round && a.Attempt == b.Attempt && a.Code == b.Code &&
		a.Through == b.Through && a.At.Equal(b.At)
}

func (o *outcomes) newest(ctx context.Context, lane string) (b record.OutcomeBlock, seq record.Sequence, err error) {
	m, err := o.server.LastFor(ctx, stream.Outcomes, stream.OutcomeSubject(lane))
	if errors.Is(err, stream.ErrNotFound) {
		return b, 0, nil
	}
	if err != nil {
		return b, 0, fmt.Errorf("newest outcomes of lane %s: %w", lane, err)
	}
	if err := readable(m); err != nil {
		return b, 0, err
	}
	if err := json.Unmarshal(m.Data, &b); err != nil {
		return b, 0, fmt.Errorf("newest outcomes of lane %s at %d: %w", lane, m.Sequence, err)
	}
	return b, m.Sequence, nil
}

func (o *outcomes) get(lane string) record.Sequence {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last[lane]
}

func (o *outcomes) set(lane string, seq record.Sequence) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last[lane] = seq
}

// deadLetters writes to DEAD (deliver.DeadLetters).
type deadLetters struct{ server *stream.Server }

func (d deadLetters) Publish(ctx context.Context, letter record.DeadLetter) error {
	_, err := d.server.Publish(ctx, stream.Dead, deadMessage(letter))
	return err
}
