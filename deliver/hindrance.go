package deliver

import (
	"context"
	"log/slog"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// hindrance is what keeps a Subscription from its endpoint on our own side: an egress proxy that
// fails, a token server, a limit of ours. It is no attempt, so the matches wait and spend nothing;
// one of them at a time finds out whether the way is free again.
type hindrance struct {
	code  record.Code // empty: there is none
	until time.Time   // the next try
	wait  time.Duration
}

// Waits between tries while the way to an endpoint is barred on our side; they double.
const (
	firstHindered = 5 * time.Second
	lastHindered  = time.Minute
)

// hindered puts a match back that could not be tried for a reason of our own. Only a hindrance
// that is new is recorded: the log of outcomes is for what changed, not for a clock.
func (a *attempt) hindered(ctx context.Context, n Notification, failure *Error) {
	l, b := a.lane, a.backlog
	now := time.Now()
	a.observe(failure.Code, now.Sub(a.began))
	l.mu.Lock()
	news := b.hinder.code != failure.Code
	b.hinder.code = failure.Code
	b.hinder.wait = min(max(2*b.hinder.wait, firstHindered), lastHindered)
	wait := max(b.hinder.wait, min(failure.RetryAfter, MaxRetryAfter))
	b.hinder.until = now.Add(wait)
	until := b.hinder.until
	l.mu.Unlock()

	level := slog.LevelDebug
	if news {
		level = slog.LevelWarn
	}
	l.cfg.Log.Log(ctx, level, "delivery is hindered on our side, no attempt is spent", "lane", l.cfg.Name,
		"subscription", a.pending.Subscription, "event", a.pending.Number, "endpoint", a.target.host(), "err", failure)
	o := a.outcome(failure.Code, Receipt{Took: now.Sub(a.began)})
	if a.target.Policy.tooOld(*a.pending, until) {
		a.answered(unjudged, 0)
		a.giveUp(ctx, n, o)
		return
	}
	if news {
		o.NotBefore = a.pending.NotBefore
		l.note(o)
	}
	a.giveBack(0, false)
}

// note records what is no attempt and ends nothing. Nobody waits for it: if it is lost in a crash
// the same is noted again.
func (l *Lane) note(o record.Outcome) {
	l.recorder.add(o)
	signal(l.recorder.wake)
}
