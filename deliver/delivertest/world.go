package delivertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// World stands in for the logs and for the store of one lane. It outlives lanes, as they do.
type World struct {
	mu       sync.Mutex
	subs     map[record.Sequence]*subscription
	matches  map[record.MatchID]*match
	sequence record.Sequence
	stored   []record.Outcome // the outcome log
	folded   int              // how much of it the store has folded
	letters  []record.DeadLetter
	owner    *Owner
	released bool
	engine   engine
	lane     *deliver.Lane // is told of what becomes pending

	// FoldAfter is how far the store lags behind the outcome log.
	FoldAfter time.Duration
	// Appending, where set, is asked before an append of outcomes. With ErrUnanswered the
	// append is stored and fails all the same.
	Appending func([]record.Outcome) error
	// Burying, where set, is asked before a dead letter is stored.
	Burying func(record.DeadLetter) error
	// Rendering, where set, is asked before a notification is made.
	Rendering func(deliver.Pending) error
}

// ErrUnanswered is an append whose answer was lost.
var ErrUnanswered = errors.New("no answer")

type subscription struct {
	target deliver.Target
	state  deliver.State
	last   fhir.EventNumber
	byRank map[fhir.EventNumber]*match
}

type match struct {
	deliver.Pending
	open bool
}

// NewWorld makes an empty one.
func NewWorld() *World {
	return &World{
		subs:    make(map[record.Sequence]*subscription),
		matches: make(map[record.MatchID]*match),
	}
}

// Subscribe puts a Subscription in force. Birth is given if it is zero.
func (w *World) Subscribe(t deliver.Target) deliver.Target {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.Birth == 0 {
		w.sequence++
		t.Birth = w.sequence
	}
	if t.ChannelType == "" {
		t.ChannelType = "test"
	}
	w.subs[t.Birth] = &subscription{target: t, state: deliver.Sendable, byRank: make(map[fhir.EventNumber]*match)}
	return t
}

// Set changes a Subscription's target and state, and tells the lane.
func (w *World) Set(t deliver.Target, state deliver.State) {
	w.mu.Lock()
	if t.ChannelType == "" {
		t.ChannelType = "test"
	}
	w.subs[t.Birth].target, w.subs[t.Birth].state = t, state
	lane := w.lane
	w.mu.Unlock()
	if lane != nil {
		lane.Changed(t.ID)
	}
}

// Attach names the lane that is told of what becomes pending; nil for none.
func (w *World) Attach(l *deliver.Lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lane = l
}

// Match makes a match of a new event, and offers it to the lane.
func (w *World) Match(t deliver.Target, key fhir.Key, i fhir.Interaction) deliver.Pending {
	return w.Matches(t, i, key)[0]
}

// Matches makes one match for each key, in one block.
func (w *World) Matches(t deliver.Target, i fhir.Interaction, keys ...fhir.Key) []deliver.Pending {
	w.mu.Lock()
	s := w.subs[t.Birth]
	var made []deliver.Pending
	for _, key := range keys {
		w.sequence++
		s.last++
		m := &match{open: true, Pending: deliver.Pending{
			Match:  record.Match{Event: w.sequence, Subscription: t.ID, Birth: t.Birth, Version: t.Birth, Interaction: i},
			Number: s.last, Key: key, EventTime: time.Now(),
		}}
		s.byRank[m.Number], w.matches[m.ID()] = m, m
		made = append(made, m.Pending)
	}
	lane := w.lane
	w.mu.Unlock()
	if lane != nil {
		lane.Offer(made)
	}
	return made
}

// Replay makes matches pending again, in a new round, that the store holds as finished.
func (w *World) Replay(ids ...record.MatchID) {
	w.mu.Lock()
	var again []deliver.Pending
	for _, id := range ids {
		m := w.matches[id]
		if m.open {
			continue
		}
		m.open, m.Attempts, m.NotBefore = true, 0, time.Time{}
		m.Round++
		again = append(again, m.Pending)
	}
	lane := w.lane
	w.mu.Unlock()
	if lane != nil {
		lane.Offer(again)
	}
}

// Outcomes is the outcome log.
func (w *World) Outcomes() []record.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.stored)
}

// OutcomesOf are those of one match.
func (w *World) OutcomesOf(id record.MatchID) []record.Outcome {
	return slices.DeleteFunc(w.Outcomes(), func(o record.Outcome) bool { return o.MatchID != id })
}

// Letters are the dead letters.
func (w *World) Letters() []record.DeadLetter {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.letters)
}

// Open are the matches that the store, once it has folded everything, holds as pending.
func (w *World) Open() []record.MatchID {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fold(len(w.stored))
	var ids []record.MatchID
	for id, m := range w.matches {
		if m.open {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b record.MatchID) int { return cmp.Compare(a.Event, b.Event) })
	return ids
}

// fold applies outcomes up to n, as the store does. The caller holds mu.
func (w *World) fold(n int) {
	for ; w.folded < n; w.folded++ {
		o := w.stored[w.folded]
		if o.Through > 0 {
			for n, m := range w.subs[o.Birth].byRank {
				if n <= o.Through {
					m.open = false
				}
			}
			continue
		}
		m := w.matches[o.MatchID]
		if m == nil || !m.open || m.Round != o.Round {
			continue
		}
		if o.Code.IsAttempt() && o.Code != record.Accepted && m.FirstFailure.IsZero() {
			m.FirstFailure = o.At
		}
		m.Attempts, m.NotBefore = o.Attempt, o.NotBefore
		if o.Final {
			m.open = false
		}
	}
}

// Target is deliver.Targets.
func (w *World) Target(_ fhir.ID, birth record.Sequence) (deliver.Target, deliver.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.subs[birth]
	if s == nil {
		return deliver.Target{}, deliver.Withdrawn
	}
	return s.target, s.state
}

// Subscribers is deliver.Queue.
func (w *World) Subscribers(string) ([]deliver.Subscriber, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []deliver.Subscriber
	for birth, s := range w.subs {
		if slices.ContainsFunc(s.pending(), func(*match) bool { return true }) {
			all = append(all, deliver.Subscriber{ID: s.target.ID, Birth: birth})
		}
	}
	slices.SortFunc(all, func(a, b deliver.Subscriber) int { return cmp.Compare(a.Birth, b.Birth) })
	return all, nil
}

func (s *subscription) pending() []*match {
	var open []*match
	for n := fhir.EventNumber(1); n <= s.last; n++ {
		if m := s.byRank[n]; m.open {
			open = append(open, m)
		}
	}
	return open
}

// PendingFrom is deliver.Queue.
func (w *World) PendingFrom(birth record.Sequence, after fhir.EventNumber, limit int) ([]deliver.Pending, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.subs[birth]
	var page []deliver.Pending
	for n := after + 1; n <= s.last && len(page) < limit; n++ {
		if m := s.byRank[n]; m.open {
			page = append(page, m.Pending)
		}
	}
	return page, nil
}

// MatchByID is deliver.Queue.
func (w *World) MatchByID(id record.MatchID) (deliver.Pending, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.matches[id]
	if m == nil {
		return deliver.Pending{}, false, nil
	}
	return m.Pending, m.open, nil
}

// Last is deliver.Queue.
func (w *World) Last(birth record.Sequence) (fhir.EventNumber, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.subs[birth].last, nil
}

// Render is deliver.Renderer. The body names the match.
func (w *World) Render(_ context.Context, p deliver.Pending, _ deliver.Target) (deliver.Notification, error) {
	if w.Rendering != nil {
		if err := w.Rendering(p); err != nil {
			return deliver.Notification{}, err
		}
	}
	return deliver.Notification{
		MatchID: p.ID(), Subscription: p.Subscription, Number: p.Number, Key: p.Key, Interaction: p.Interaction,
		Body: fmt.Appendf(nil, `{"resourceType":%q,"id":%q}`, p.Key.Type, p.Key.ID),
	}, nil
}

// Owner is a process that may own the lane. It is deliver.Outcomes, Tokens and DeadLetters.
type Owner struct {
	world *World
	name  string
	dead  bool // guarded by world.mu
}

// Owner makes one. Two of the same name are the same node, started again.
func (w *World) Owner(name string) *Owner { return &Owner{world: w, name: name} }

// Kill makes everything that the owner writes from now on vanish, as that of a process that is
// not there any more.
func (o *Owner) Kill() {
	o.world.mu.Lock()
	defer o.world.mu.Unlock()
	o.dead = true
}

func (o *Owner) lost() error {
	if o.dead || o.world.owner != o {
		return deliver.ErrLost
	}
	return nil
}

// Take is deliver.Outcomes.
func (o *Owner) Take(context.Context, string) (bool, error) {
	w := o.world
	w.mu.Lock()
	defer w.mu.Unlock()
	clean := w.owner == nil || w.released || w.owner.name == o.name
	w.owner, w.released = o, false
	w.fold(len(w.stored))
	return clean, nil
}

// Release is deliver.Outcomes.
func (o *Owner) Release(context.Context, string) error {
	w := o.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := o.lost(); err != nil {
		return err
	}
	w.released = true
	return nil
}

// Append is deliver.Outcomes.
func (o *Owner) Append(_ context.Context, _ string, outcomes ...record.Outcome) error {
	w := o.world
	w.mu.Lock()
	asked := w.Appending
	w.mu.Unlock()
	var err error
	if asked != nil {
		err = asked(outcomes)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if lost := o.lost(); lost != nil {
		return lost
	}
	if err != nil && !errors.Is(err, ErrUnanswered) {
		return err
	}
	w.stored = append(w.stored, outcomes...)
	n := len(w.stored)
	if w.FoldAfter == 0 {
		w.fold(n)
	} else {
		time.AfterFunc(w.FoldAfter, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.fold(n)
		})
	}
	return err
}

// DeadLetters is the owner's deliver.DeadLetters.
func (o *Owner) DeadLetters() deliver.DeadLetters { return deadLetters{o} }

type deadLetters struct{ *Owner }

func (d deadLetters) Publish(_ context.Context, letter record.DeadLetter) error {
	w := d.world
	if w.Burying != nil {
		if err := w.Burying(letter); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.dead {
		return deliver.ErrLost
	}
	w.letters = append(w.letters, letter)
	return nil
}

// Config is a lane's, with everything of this world filled in.
func (w *World) Config(o *Owner, channel deliver.Channel) deliver.Config {
	return deliver.Config{
		Name: "3-0", Queue: w, Outcomes: o, Tokens: o.Tokens(), DeadLetters: o.DeadLetters(),
		Targets: w, Renderer: w, Channels: map[string]deliver.Channel{"test": channel},
		Random: func() float64 { return 0.5 }, // no jitter
	}
}
