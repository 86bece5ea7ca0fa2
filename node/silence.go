package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
)

// silence watches for Subscriptions none of whose notifications was accepted for long
// (delivery.disable_after). What it knows is a function of the log of outcomes and of the time: it is
// read from the store when it is first needed, and followed from there on, so a restart or another
// owner of the lane changes nothing.
type silence struct {
	log   *slog.Logger
	after time.Duration // 0: nothing is watched
	store interface {
		Attempts(context.Context, store.AttemptFilter) ([]store.Attempt, error)
	}
	watched func() []*subscription // those that this node sends for
	warn    func(s *subscription, percent int, since time.Time)
	stop    func(ctx context.Context, s *subscription, reason string) error

	mu    sync.Mutex
	known map[record.Sequence]*hearing // by birth
}

// hearing is what came of a Subscription's attempts lately.
type hearing struct {
	success      time.Time // the newest accepted attempt
	firstFailure time.Time // the first failed one since; zero when none failed
	lastFailure  time.Time
	warned       int // percent that operators were told of
}

const (
	// silenceEvery is how often it is looked.
	silenceEvery = time.Minute
	// minFailing is how far apart the first and the last failure must be: one failure and then
	// nothing to send is no silence.
	minFailing = 12 * time.Hour
)

// silenceWarnings are the percents of the time after which a Subscription is stopped, at which
// operators are told.
var silenceWarnings = []int{50, 70, 90}

// fold follows the log of outcomes.
func (w *silence) fold(b *record.OutcomeBlock) {
	if w.after == 0 || b == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range b.Outcomes {
		if h := w.known[o.Birth]; h != nil {
			h.take(o.Code, o.At)
		}
	}
}

func (h *hearing) take(code record.Code, at time.Time) {
	switch {
	case code == record.Accepted:
		h.firstFailure, h.lastFailure, h.warned = time.Time{}, time.Time{}, 0
		if at.After(h.success) {
			h.success = at
		}
	case tells(code) && at.After(h.success):
		if h.firstFailure.IsZero() || at.Before(h.firstFailure) {
			h.firstFailure = at
		}
		if at.After(h.lastFailure) {
			h.lastFailure = at
		}
	}
}

// tells reports whether an outcome says something of the endpoint.
func tells(code record.Code) bool {
	return code.IsAttempt() && code != record.RenderError && code != record.BlockedAddress
}

// run looks again and again until ctx ends.
func (w *silence) run(ctx context.Context) error {
	if w.after == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(silenceEvery)
	defer tick.Stop()
	for {
		w.look(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look warns of, or stops, what was without success for long.
func (w *silence) look(ctx context.Context, now time.Time) {
	watched := w.watched()
	w.forget(watched)
	for _, s := range watched {
		if ctx.Err() != nil {
			return
		}
		h, err := w.hearing(ctx, s, now)
		if err != nil {
			w.log.Warn("attempts of a Subscription could not be read, will look again", "subscription", s.id, "err", err)
			continue
		}
		since, percent := h.percent(s, w.after, now)
		switch {
		case percent >= 100:
			reason := fmt.Sprintf("no notification was accepted since %s, and attempts failed until %s (delivery.disable_after is %s); what matched since waits",
				since.UTC().Format(time.RFC3339), h.lastFailure.UTC().Format(time.RFC3339), w.after)
			if err := w.stop(ctx, s, reason); err != nil {
				w.log.Warn("a Subscription without success was not stopped, will try again", "subscription", s.id, "err", err)
			}
		case reached(percent) > h.warned:
			w.warn(s, reached(percent), since)
			w.remember(s.birth, reached(percent))
		}
	}
}

// percent is how much of the time is over after which a Subscription is stopped, and since when.
// Who writes it begins anew: the endpoint may be another.
func (h hearing) percent(s *subscription, after time.Duration, now time.Time) (since time.Time, percent int) {
	since, first := h.success, h.firstFailure
	if s.time.After(since) {
		since = s.time
	}
	if s.time.After(first) {
		first = s.time
	}
	if h.firstFailure.IsZero() || h.lastFailure.Before(since) {
		return since, 0
	}
	percent = int(100 * now.Sub(since) / after)
	if percent >= 100 && h.lastFailure.Sub(first) < minFailing {
		percent = 99
	}
	return since, percent
}

func reached(percent int) (level int) {
	for _, p := range silenceWarnings {
		if percent >= p {
			level = p
		}
	}
	return level
}

func (w *silence) remember(birth record.Sequence, level int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h := w.known[birth]; h != nil {
		h.warned = level
	}
}

// forget drops what is not watched here any more: another node sends for it, or it has ended.
func (w *silence) forget(watched []*subscription) {
	here := map[record.Sequence]bool{}
	for _, s := range watched {
		here[s.birth] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for birth := range w.known {
		if !here[birth] {
			delete(w.known, birth)
		}
	}
}

// hearing is what is known of a Subscription, read from the store the first time.
func (w *silence) hearing(ctx context.Context, s *subscription, now time.Time) (hearing, error) {
	w.mu.Lock()
	h := w.known[s.birth]
	if h != nil {
		defer w.mu.Unlock()
		return *h, nil
	}
	// From here on it is followed; what is read beside it is older, or the same once more.
	h = &hearing{}
	w.known[s.birth] = h
	w.mu.Unlock()

	past, err := w.read(ctx, s)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		delete(w.known, s.birth)
		return hearing{}, err
	}
	h.success = later(h.success, past.success)
	if !past.firstFailure.IsZero() && past.firstFailure.After(h.success) {
		h.take(record.Timeout, past.firstFailure)
		h.take(record.Timeout, past.lastFailure)
	}
	// What was reached before this look was told by whoever looked then.
	_, before := h.percent(s, w.after, now.Add(-2*silenceEvery))
	h.warned = reached(before)
	return *h, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// read finds the newest success, and the first and last failure since.
func (w *silence) read(ctx context.Context, s *subscription) (h hearing, err error) {
	page := store.AttemptFilter{Subscription: s.id, Since: s.time, Limit: 1000}
	for {
		attempts, err := w.store.Attempts(ctx, page)
		if err != nil {
			return h, err
		}
		for _, a := range attempts { // the newest first
			if a.Birth != s.birth {
				continue
			}
			if a.Code == record.Accepted {
				h.success = a.At
				return h, nil
			}
			if tells(a.Code) {
				h.take(a.Code, a.At)
			}
		}
		if len(attempts) < page.Limit {
			return h, nil
		}
		page.Before = attempts[len(attempts)-1].Place
	}
}

// watchSilence names the Subscriptions that this node sends for and that are to be watched.
func (n *Node) watchSilence() (list []*subscription) {
	for _, s := range n.subs.all() {
		if s.Status != fhir.StatusActive || n.subs.isPaused(s) {
			continue
		}
		if h, ok := n.subs.home(s.birth); ok && n.delivery.owns("lane", h.lane) {
			list = append(list, s)
		}
	}
	return list
}
