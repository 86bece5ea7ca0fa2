package deliver

import (
	"context"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// sweepEvery is how often not-before times, lost tokens and the permission to send are looked at.
const sweepEvery = time.Second

// dispatch starts what may be started until ctx ends or the lane cannot go on. Attempts run
// under work, which outlives ctx so that they can end in peace.
func (l *Lane) dispatch(ctx, work context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := l.tend(work); err != nil {
			return err
		}
		l.startSends(work)
		select {
		case <-ctx.Done():
		case err := <-l.fault:
			return err
		case <-l.wake:
		case <-tick.C:
			if err := l.sweep(work); err != nil {
				return err
			}
		}
	}
	return nil
}

// tend looks once at each backlog that needs something from outside: its target, a page from
// the store, a withdrawal.
func (l *Lane) tend(work context.Context) error {
	l.mu.Lock()
	n := l.dirty.len()
	l.mu.Unlock()
	for range n {
		l.mu.Lock()
		b := l.dirty.pop()
		b.inDirty = false
		stale := b.stale
		b.stale = false
		l.mu.Unlock()
		if stale {
			l.ask(b)
		}
		if err := l.read(b); err != nil {
			return err
		}
		if err := l.readBehind(b); err != nil {
			return err
		}
		l.withdrawIfDone(work, b)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dirty.len() > 0 {
		signal(l.wake)
	}
	return nil
}

// ask brings the target up to date.
func (l *Lane) ask(b *backlog) {
	t, state := l.cfg.Targets.Target(b.id, b.birth)
	if state == Sendable && l.cfg.Channels[t.ChannelType] == nil {
		l.cfg.Log.Warn("no channel of this type here, the Subscription is held",
			"lane", l.cfg.Name, "subscription", b.id, "channel", t.ChannelType)
		state = Held
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	reordered := b.asked && b.target.Order != t.Order
	if t.Endpoint != b.target.Endpoint {
		b.failing, b.slow, b.hinder = false, false, hindrance{} // another endpoint: nothing is known of it
	}
	b.asked, b.target, b.state = true, t, state
	l.approach(b)
	if reordered {
		l.rechain(b)
	}
	l.markRunnable(b)
}

// wantsReading reports whether the store has something for a window that has half drained.
func (l *Lane) wantsReading(b *backlog) bool {
	half := l.cfg.Window / 2
	return (b.more && b.ready[freshShare].len() <= half && l.room(b, freshShare)) ||
		(b.behind && b.ready[replayShare].len() <= half && l.room(b, replayShare))
}

// read loads a page of what is behind the cursor, as large as there is room for it.
func (l *Lane) read(b *backlog) error {
	l.mu.Lock()
	limit := l.vacant(b, freshShare)
	if !b.more || !l.wantsReading(b) || limit == 0 {
		l.mu.Unlock()
		return nil
	}
	// Cleared before the store is asked: an offer that comes meanwhile sets it again.
	b.more = false
	after := b.cursor
	l.mu.Unlock()

	// Last is asked before the page: a match between the two is above it, and so is not taken
	// for seen.
	last, err := l.cfg.Queue.Last(b.birth)
	if err != nil {
		return fmt.Errorf("read pending matches of Subscription %s: %w", b.id, err)
	}
	page, err := l.page(b, after, limit)
	if err != nil {
		return err
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range page {
		if p.Number <= b.cursor {
			continue // offered meanwhile
		}
		if !l.room(b, freshShare) {
			b.more = true
			return nil
		}
		b.cursor = p.Number
		if !b.known(p) {
			l.add(b, p)
		}
	}
	if len(page) == limit {
		b.more = true
	} else {
		b.cursor = max(b.cursor, last)
	}
	if l.wantsReading(b) {
		l.markDirty(b)
	}
	return nil
}

// readBehind loads a page of replays, whose numbers are at or below the cursor. First rounds
// down there are in memory, or have ended and the store does not know it yet.
func (l *Lane) readBehind(b *backlog) error {
	l.mu.Lock()
	if !b.behind || !l.wantsReading(b) {
		l.mu.Unlock()
		return nil
	}
	after := b.behindAt
	l.mu.Unlock()

	page, err := l.page(b, after, l.cfg.Window)
	if err != nil {
		return err
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	done := len(page) < l.cfg.Window
	for _, p := range page {
		if p.Number > b.cursor {
			done = true
			break
		}
		if p.Round > 0 && !b.known(p) {
			if !l.room(b, replayShare) {
				return nil // goes on from behindAt when the window has drained
			}
			l.add(b, p)
		}
		b.behindAt = p.Number
	}
	if done {
		b.behind, b.behindAt, b.again = b.again, 0, false
	}
	if l.wantsReading(b) {
		l.markDirty(b)
	}
	return nil
}

func (l *Lane) page(b *backlog, after fhir.EventNumber, limit int) ([]Pending, error) {
	page, err := l.cfg.Queue.PendingFrom(b.birth, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read pending matches of Subscription %s after event %d: %w", b.id, after, err)
	}
	return page, nil
}

// startSends starts attempts, one of each Subscription in turn, until none may start.
func (l *Lane) startSends(work context.Context) {
	if !l.cfg.Allowed() || l.cfg.Halted() {
		return // looked at again with the next sweep
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.recorder.open(now) {
		return // the recorder wakes us
	}
	l.takeCalls()
	for l.runnable.len() > 0 {
		b := l.runnable.pop()
		b.inRunnable = false
		e, list, starved := l.pick(b, now)
		if starved {
			l.starve(b)
		}
		if e == nil {
			b.decline()
			continue
		}
		leave, admitted := l.admit(b, e, now)
		if !admitted {
			continue // the endpoint calls us back
		}
		list.pop()
		l.launch(work, b, e, leave, now)
		l.markRunnable(b)
	}
}

// pick finds the match of a Subscription that goes next, if one may, at the head of its list;
// starved says that one would, were there a place in the lane.
func (l *Lane) pick(b *backlog, now time.Time) (e *entry, list *fifo[*entry], starved bool) {
	if !b.sendable() {
		return nil, nil, false
	}
	k := b.target.inFlight()
	limit := k
	if !b.sound(now, l.cfg.SlowAfter) || b.hinder.code != "" {
		limit = 1
	}
	if now.Before(b.hinder.until) {
		return nil, nil, false // the sweep looks again
	}
	if len(b.atWork) >= limit || b.unsaved >= maxUnrecorded*k {
		return nil, nil, false
	}
	// Shares take turns, so that with k = 1 none of them starves another.
	turns := [...]share{freshShare, retryShare, freshShare, replayShare}
	for _, s := range [...]share{turns[b.turns%len(turns)], freshShare, retryShare, replayShare} {
		e, list := b.firstReady(s)
		if e == nil || !b.shareOpen(s, k) {
			continue
		}
		if s != freshShare && l.sending[s] >= max(1, l.capacity()/4) || !e.place && !l.mayLaunch(b, now) {
			starved = true
			continue
		}
		return e, list, false
	}
	return nil, nil, starved
}

// shareOpen keeps half of k for first attempts, and a quarter each for retries and replays.
func (b *backlog) shareOpen(s share, k int) bool {
	if s == freshShare {
		return true
	}
	return b.sending[s] < max(1, k/4) && b.sending[retryShare]+b.sending[replayShare] < max(1, k/2)
}

func (l *Lane) launch(work context.Context, b *backlog, e *entry, leave pass, now time.Time) {
	s := e.share()
	e.phase, e.began = sending, now
	b.turns++
	b.atWork[e] = struct{}{}
	b.sending[s]++
	l.sending[s]++
	l.occupy(b, e)
	if l.wantsReading(b) {
		l.markDirty(b)
		signal(l.wake)
	}
	a := attempt{lane: l, backlog: b, entry: e, pending: &e.Pending, share: s, began: now, leave: leave, url: b.admission.url}
	l.attempts.Go(func() { a.run(work) })
}
