package deliver

import (
	"context"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

const (
	// tokenGrace is how late a token may come back before the sweep makes another.
	tokenGrace = 5 * time.Second
	// keepAlive is how often a token in hand is extended, well within the consumer's ack wait.
	keepAlive = 8 * time.Second
	// maxTokensASweep bounds what one sweep publishes; the rest is made by the next.
	maxTokensASweep = 1024
)

// receive takes the lane's tokens until ctx ends.
func (l *Lane) receive(ctx context.Context) {
	for {
		err := l.cfg.Tokens.Receive(ctx, l.cfg.Name, l.take)
		if ctx.Err() != nil {
			return
		}
		l.cfg.Log.Warn("tokens are not received, trying again", "lane", l.cfg.Name, "err", err)
		if !sleep(ctx, sweepEvery) {
			return
		}
	}
}

// take judges a token by what is pending, never by its count of deliveries.
func (l *Lane) take(t Token) {
	answer := l.judge(t)
	l.answer(answer)
	signal(l.wake)
}

// answer is something to be said to the consumer, once mu is free.
type answer struct {
	what string
	id   record.MatchID
	say  func() error
}

func ack(t Token) answer  { return answer{"ack", t.MatchID(), t.Ack} }
func term(t Token) answer { return answer{"term", t.MatchID(), t.Term} }
func delay(t Token, d time.Duration) answer {
	return answer{"delay", t.MatchID(), func() error { return t.NakWithDelay(max(d, 0)) }}
}

func (l *Lane) answer(answers ...answer) {
	for _, a := range answers {
		if a.say == nil {
			continue
		}
		if err := a.say(); err != nil {
			l.cfg.Log.Debug("token not answered, the sweep repairs it",
				"lane", l.cfg.Name, "event", a.id.Event, "answer", a.what, "err", err)
		}
	}
}

func (l *Lane) judge(t Token) answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := t.MatchID()
	b := l.backlogs[id.Birth]
	if b == nil {
		return ack(t) // not pending, or not loaded: the sweep makes one when it is and is due
	}
	e := b.entries[id.Event]
	now := time.Now()
	switch {
	case e == nil, e.phase == queued, e.Attempts == 0 && !e.out(), !b.sendable():
		// Stale, or parked: a token held for what cannot be sent would keep a place for nothing.
		return l.park(b, e, t)
	case e.phase == ready && b.admission.barred != "":
		return l.park(b, e, t)
	case e.out(), e.phase == ready:
		// A second token, or the same one again. The newer handle is the one that counts; the
		// other comes back some time and is judged by the outcome.
		first := e.token == nil
		e.token, e.touched, e.tokenBy = t, now, time.Time{}
		l.occupy(b, e)
		if first && e.phase == ready {
			l.makeReady(b, e) // now among those that hold a place
		}
		return answer{}
	case !l.mayKeepToken(b, e, now):
		return l.park(b, e, t)
	}
	l.occupy(b, e)
	if wait := e.due().Sub(now); wait > 0 {
		e.tokenBy = e.due().Add(tokenGrace)
		return delay(t, wait)
	}
	e.token, e.touched, e.tokenBy = t, now, time.Time{}
	l.activate(b, e)
	return answer{}
}

// mayKeepToken reports whether there is a place for the token of a match that waits.
func (l *Lane) mayKeepToken(b *backlog, e *entry, now time.Time) bool {
	if e.place {
		return l.mayKeep(b, now)
	}
	return l.mayPlace(b, now)
}

// park gives a token up. The match keeps its not-before time in the store and in memory, and
// gets a new token when it is due.
func (l *Lane) park(b *backlog, e *entry, t Token) answer {
	if e != nil {
		e.token, e.tokenBy = nil, time.Time{}
		l.vacate(b, e)
	}
	return ack(t)
}

// sweep repairs. What is due and neither out nor held gets a token, or goes without where no
// place is left for one, so that no wait of another match delays it; what waits for a reason of
// our own becomes ready; tokens in hand are extended, or parked where nothing may be sent.
func (l *Lane) sweep(work context.Context) error {
	now := time.Now()
	var answers []answer
	var tokens []record.MatchID
	var replays []*backlog

	l.mu.Lock()
	for _, b := range l.backlogs {
		for _, e := range b.entries {
			answers = append(answers, l.mend(b, e, now)...)
			switch {
			case !b.wantsToken(e, now):
			case b.admission.barred != "", !l.mayPlace(b, now):
				l.makeReady(b, e) // no place for a token, or its endpoint calls us: it goes without
			case !l.publishing && len(tokens) < maxTokensASweep:
				e.tokenBy = now.Add(tokenGrace)
				l.occupy(b, e)
				tokens = append(tokens, e.ID())
			}
		}
		if b.state == Withdrawn {
			l.markDirty(b) // until the store has nothing of it any more
		}
		if len(b.ended) > 0 {
			replays = append(replays, b)
		}
		if b.hinder.code != "" {
			l.markRunnable(b)
		}
		l.retryStop(work, b)
	}
	l.feedStarved()
	l.publishing = l.publishing || len(tokens) > 0
	l.mu.Unlock()

	// Aside, since the engine may take its time and a sweep must not hold up what is ready.
	l.attempts.Go(func() { l.answer(answers...) })
	if len(tokens) > 0 {
		l.attempts.Go(func() { l.publishTokens(work, tokens) })
	}
	return l.forgetReplays(replays)
}

// mend brings one match up to date with the clock.
func (l *Lane) mend(b *backlog, e *entry, now time.Time) []answer {
	if !e.tokenBy.IsZero() && now.After(e.tokenBy) {
		e.tokenBy = time.Time{} // lost
		l.vacate(b, e)
	}
	if e.phase == waiting && e.Attempts == 0 && !e.due().After(now) {
		l.activate(b, e)
	}
	switch {
	case e.token == nil:
	case !b.sendable() && !e.out():
		t := e.token
		if e.phase == ready {
			e.phase = waiting
		}
		return []answer{l.park(b, e, t)}
	case e.phase == ready && b.admission.barred != "":
		return []answer{l.park(b, e, e.token)} // it stays ready, and keeps no place while it waits
	case now.Sub(e.touched) >= keepAlive:
		e.touched = now
		return []answer{{"in progress", e.ID(), e.token.InProgress}}
	}
	return nil
}

// wantsToken reports whether a match is due and has nothing that will wake it.
func (b *backlog) wantsToken(e *entry, now time.Time) bool {
	return e.phase == waiting && e.Attempts > 0 && e.token == nil && e.tokenBy.IsZero() &&
		!e.due().After(now) && b.sendable()
}

// publishTokens makes those of a sweep. One sweep at a time does so.
func (l *Lane) publishTokens(ctx context.Context, tokens []record.MatchID) {
	for _, id := range tokens {
		l.publishToken(ctx, id)
	}
	l.mu.Lock()
	l.publishing = false
	l.mu.Unlock()
}

// publishToken makes a token. A failure is left to the sweep.
func (l *Lane) publishToken(ctx context.Context, id record.MatchID) {
	l.mu.Lock()
	b := l.backlogs[id.Birth]
	l.mu.Unlock()
	if b == nil {
		return
	}
	err := l.cfg.Tokens.Publish(ctx, l.cfg.Name, b.id, id)
	if err == nil || ctx.Err() != nil {
		return
	}
	l.cfg.Log.Warn("token not published, the sweep will make another",
		"lane", l.cfg.Name, "subscription", b.id, "sequence", id.Event, "err", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := b.entries[id.Event]; e != nil {
		e.tokenBy = time.Time{}
		l.vacate(b, e)
	}
}

// forgetReplays drops the memory of ended replays that the store has folded.
func (l *Lane) forgetReplays(backlogs []*backlog) error {
	for _, b := range backlogs {
		l.mu.Lock()
		rounds := make(map[record.Sequence]int, len(b.ended))
		for event, round := range b.ended {
			rounds[event] = round
		}
		l.mu.Unlock()
		for event, round := range rounds {
			p, pending, err := l.cfg.Queue.MatchByID(record.MatchID{Event: event, Birth: b.birth})
			if err != nil {
				return fmt.Errorf("read match of event %d with Subscription %s: %w", event, b.id, err)
			}
			if pending && p.Round <= round {
				continue
			}
			l.mu.Lock()
			if b.ended[event] == round {
				delete(b.ended, event)
			}
			l.mu.Unlock()
		}
	}
	return nil
}
