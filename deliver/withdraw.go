package deliver

import (
	"cmp"
	"context"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// stop is why nothing is sent for a Subscription that is still active by its definition, and
// what the node is to be told of it.
type stop struct {
	tell    func(ctx context.Context, id fhir.ID, birth record.Sequence) error
	telling bool
	told    bool
}

// stopSending holds a Subscription until Changed, and tells the node why.
func (l *Lane) stopSending(ctx context.Context, b *backlog, tell func(context.Context, fhir.ID, record.Sequence) error) {
	if tell == nil {
		return // nobody to turn it off: the next match may do better
	}
	l.mu.Lock()
	b.stopped = &stop{tell: tell}
	l.retryStop(ctx, b)
	l.mu.Unlock()
}

// retryStop tells the node, with every sweep again until it has taken it. The caller holds mu.
func (l *Lane) retryStop(ctx context.Context, b *backlog) {
	s := b.stopped
	if s == nil || s.telling || s.told {
		return
	}
	s.telling = true
	l.attempts.Go(func() {
		err := s.tell(ctx, b.id, b.birth)
		if err != nil && ctx.Err() == nil {
			l.cfg.Log.Warn("a stopped Subscription was not switched, trying again",
				"lane", l.cfg.Name, "subscription", b.id, "err", err)
		}
		l.mu.Lock()
		s.telling, s.told = false, err == nil
		l.mu.Unlock()
	})
}

// withdrawIfDone ends everything that a withdrawn Subscription has pending, in one record, once
// none of it is out: an attempt under way keeps its own outcome.
func (l *Lane) withdrawIfDone(work context.Context, b *backlog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.state != Withdrawn || b.stale || b.withdrawing || len(b.atWork) > 0 || b.unsaved > 0 {
		return
	}
	b.withdrawing = true
	replayed := b.behind || b.again || b.holdsReplay()
	b.more, b.behind, b.again = false, false, false
	code := cmp.Or(b.target.Withdrawal, record.Withdrawn)
	l.attempts.Go(func() { l.withdraw(work, b, code, replayed) })
}

func (b *backlog) holdsReplay() bool {
	for _, e := range b.entries {
		if e.Round > 0 {
			return true
		}
	}
	return false
}

// withdraw appends the record and empties the backlog, or forgets the backlog when the store has
// nothing of it any more.
func (l *Lane) withdraw(work context.Context, b *backlog, code record.Code, replayed bool) {
	last, err := l.cfg.Queue.Last(b.birth)
	var pending []Pending
	if err == nil {
		pending, err = l.cfg.Queue.PendingFrom(b.birth, 0, 1)
	}
	if err != nil {
		l.fail(err)
		return
	}
	// Already withdrawn, and the store is about to know it.
	folding := len(pending) > 0 && last <= b.withdrawn && !replayed
	if len(pending) > 0 && !folding {
		err = l.recorder.record(work, record.Outcome{
			MatchID: record.MatchID{Birth: b.birth}, Subscription: b.id,
			Code: code, At: time.Now(), Final: true, Through: last,
		})
	}
	answers := l.withdrawn(b, last, err == nil && len(pending) > 0, len(pending) == 0)
	l.answer(answers...)
	if err == nil && len(pending) > 0 && !folding {
		l.cfg.Log.Info("pending matches withdrawn", "lane", l.cfg.Name, "subscription", b.id, "event", last)
		if f := l.cfg.Observer.Withdrawn; f != nil {
			f(b.id)
		}
	}
	signal(l.wake)
}

// withdrawn brings memory in line with what was recorded.
func (l *Lane) withdrawn(b *backlog, last fhir.EventNumber, recorded, nothing bool) []answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.withdrawing = false
	if !recorded && !nothing {
		return nil // cut at the stop
	}
	var answers []answer
	for _, e := range b.entries {
		if e.Number > last {
			continue
		}
		if e.token != nil {
			answers = append(answers, term(e.token))
		}
		if e.Round > 0 {
			b.ended[e.Event] = e.Round
		}
		l.remove(b, e)
	}
	b.cursor, b.withdrawn = max(b.cursor, last), max(b.withdrawn, last)
	if nothing && b.state == Withdrawn && !b.stale && !b.more && !b.behind && len(b.entries) == 0 {
		l.depart(b)
		delete(l.backlogs, b.birth)
	} else {
		l.markRunnable(b)
	}
	return answers
}
