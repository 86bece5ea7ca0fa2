package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// attempt is one try to deliver one match. It has a goroutine of its own; the entry belongs to
// it until it gives it back, and is changed under the lane's mu all the same.
type attempt struct {
	lane    *Lane
	backlog *backlog
	entry   *entry
	pending *Pending // the entry's own, which nobody else writes meanwhile
	share   share
	began   time.Time
	target  Target

	leave   pass   // to be at the endpoint
	url     string // of that endpoint
	verdict verdict
	code    record.Code // that the verdict is of
	disable bool        // the receiver wants its Subscription turned off
	abort   bool        // the receiver wants this notification no more
}

// unavailableWait is how long a match waits whose notification cannot be rendered just now.
const unavailableWait = time.Second

// run checks, renders, sends, records, and settles, in this order. Each step can end it.
func (a *attempt) run(ctx context.Context) {
	l := a.lane
	target, state := l.cfg.Targets.Target(a.pending.Subscription, a.pending.Birth)
	channel := l.cfg.Channels[target.ChannelType]
	if state != Sendable || channel == nil || a.leave.endpoint != nil && target.Endpoint != a.url {
		a.giveBack(0, true) // also where the leave is for the endpoint that the Subscription had a moment ago
		return
	}
	a.target = target
	if a.pending.Interaction == fhir.Delete && !target.SendDelete {
		a.skip(ctx)
		return
	}
	n, err := a.render(ctx)
	if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
		a.giveBack(unavailableWait, false)
		return
	}
	if errors.Is(err, ErrNothing) {
		a.skip(ctx)
		return
	}
	if err != nil {
		a.failed(ctx, n, &Error{Code: record.RenderError, Err: err}, Receipt{Took: time.Since(a.began)})
		return
	}
	if !l.cfg.Allowed() || l.cfg.Halted() || !l.recorder.open(time.Now()) {
		a.giveBack(0, false)
		return
	}

	if mutant("accepted-before-send") {
		a.accepted(ctx, Receipt{})
	}
	sendCtx, cancel := context.WithTimeout(ctx, target.timeout())
	began := time.Now()
	receipt, failure := channel.Send(sendCtx, n, target)
	receipt.Took = time.Since(began)
	cancel() // its timer need not wait for the outcome to be stored
	if !target.Aside && (ctx.Err() == nil || failure == nil) {
		a.verdict = judge(failure)
	}
	if failure != nil {
		a.code = failure.Code
	}

	switch {
	case mutant("accepted-before-send"):
	case failure == nil || mutant("failure-accepted"):
		a.accepted(ctx, receipt)
	case ctx.Err() != nil:
		// We cut it ourselves: nothing is known of it, and the next owner makes it again.
		a.giveBack(0, false)
	case failure.Code == record.Skipped:
		a.skip(ctx)
	case !failure.Code.IsAttempt():
		a.hindered(ctx, n, failure)
	default:
		receipt.Status, receipt.Response = failure.Status, failure.Response
		a.disable = failure.Disable
		a.abort = failure.Permanent && failure.Code != record.BlockedAddress && failure.Code != record.Gone
		a.failed(ctx, n, failure, receipt)
	}
}

// render guards against a renderer that panics: the match is at fault, and would take the
// node down again and again.
func (a *attempt) render(ctx context.Context) (n Notification, err error) {
	defer func() {
		if r := recover(); r != nil {
			// The panic's value may hold a piece of the resource, so it is not repeated.
			err = errors.New("rendering panicked")
		}
	}()
	n, err = a.lane.cfg.Renderer.Render(ctx, *a.pending, a.target)
	n.Attempt = a.pending.Attempts + 1
	n.Resend = n.Resend || a.pending.Round > 0
	return n, err
}

// outcome begins the record of this attempt.
func (a *attempt) outcome(code record.Code, r Receipt) record.Outcome {
	o := record.Outcome{
		MatchID: a.pending.ID(), Subscription: a.pending.Subscription, Round: a.pending.Round,
		Attempt: a.pending.Attempts, Code: code, Status: r.Status, At: a.began, Took: r.Took, Response: r.Response,
	}
	if code.IsAttempt() {
		o.Attempt++
	}
	return o
}

func (a *attempt) accepted(ctx context.Context, r Receipt) {
	if a.answered(record.Accepted, r.Took) {
		if f := a.lane.cfg.Observer.Recovered; f != nil {
			f(a.target)
		}
		a.lane.cfg.Log.Info("the endpoint accepts again", "lane", a.lane.cfg.Name,
			"subscription", a.pending.Subscription, "event", a.pending.Number, "endpoint", a.target.host())
	}
	a.observe(record.Accepted, r.Took)
	if f := a.lane.cfg.Observer.EndToEnd; f != nil && a.pending.Round == 0 {
		f(a.target.ChannelType, time.Since(a.pending.EventTime))
	}
	o := a.outcome(record.Accepted, r)
	o.Final = true
	if a.end(ctx, o, ack) && r.Disable {
		a.lane.stopSending(ctx, a.backlog, a.lane.cfg.OnDisabled)
	}
}

// skip ends a match without an attempt: a delete that the Subscription does not want any more, or
// what its channel finds is not to be sent at all.
func (a *attempt) skip(ctx context.Context) {
	a.answered(unjudged, 0)
	o := a.outcome(record.Skipped, Receipt{})
	o.Final = true
	a.end(ctx, o, ack)
}

func (a *attempt) failed(ctx context.Context, n Notification, failure *Error, r Receipt) {
	l := a.lane
	news := true
	if failure.Code == record.RenderError {
		a.answered(unjudged, 0)
	} else {
		news = a.answered(failure.Code, r.Took)
	}
	a.observe(failure.Code, r.Took)

	o := a.outcome(failure.Code, r)
	wait := a.target.Policy.Wait(o.Attempt, failure.RetryAfter, l.cfg.Random())
	next := time.Now().Add(wait)
	a.warn(failure, o.Attempt, news)
	if failure.final() || a.target.Policy.spent(*a.pending, o.Attempt, next) {
		a.giveUp(ctx, n, o)
		return
	}
	o.NotBefore = next
	if l.recorder.record(ctx, o) != nil {
		a.giveBack(0, false)
		return
	}
	a.again(ctx, o)
}

// giveUp publishes the dead letter before it records the end: a crash between the two leaves a
// letter too many, of the same identity, while the other order could leave none.
func (a *attempt) giveUp(ctx context.Context, n Notification, o record.Outcome) {
	l := a.lane
	letter := a.letter(n, o)
	if err := a.persist(ctx, "dead letter", func() error {
		if mutant("lost-dead-letter") {
			return nil
		}
		if !l.cfg.Allowed() { // another owner may be sending it, and may have it accepted
			return errors.New("this node's lease has run out")
		}
		return l.cfg.DeadLetters.Publish(ctx, letter)
	}); err != nil {
		a.giveBack(0, false)
		return
	}
	o.Final, o.Dead = true, true
	if !a.end(ctx, o, term) {
		return
	}
	if f := l.cfg.Observer.Dead; f != nil {
		f(a.target.ChannelType, o.Code)
	}
	if f := l.cfg.Observer.Exhausted; f != nil {
		f(a.target, o.Code)
	}
	switch {
	case a.disable:
		l.stopSending(ctx, a.backlog, l.cfg.OnDisabled)
	case o.Code == record.Gone:
		l.stopSending(ctx, a.backlog, l.cfg.OnGone)
	case a.target.OnExhausted == ExhaustedError && o.Code != record.RenderError && !a.abort:
		l.stopSending(ctx, a.backlog, l.cfg.OnExhausted)
	}
}

func (a *attempt) letter(n Notification, o record.Outcome) record.DeadLetter {
	first := a.pending.FirstFailure
	if first.IsZero() {
		first = a.began
	}
	return record.DeadLetter{
		MatchID: a.pending.ID(), Subscription: a.pending.Subscription, Number: a.pending.Number,
		Round: a.pending.Round, Key: a.pending.Key, Reason: o.Code, Attempts: o.Attempt,
		FirstFailure: first, LastFailure: a.began, Endpoint: a.target.host(),
		ContentType: n.ContentType, Body: n.Body,
	}
}

// persist repeats until it worked or ctx ended.
func (a *attempt) persist(ctx context.Context, what string, do func() error) error {
	backoff := appendBackoff
	for try := 1; ; try++ {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if try == 1 {
			a.lane.cfg.Log.Error(what+" cannot be stored, trying until it can",
				"lane", a.lane.cfg.Name, "subscription", a.pending.Subscription, "event", a.pending.Number, "err", err)
		}
		if !sleep(ctx, backoff) {
			return fmt.Errorf("store %s: %w", what, err)
		}
		backoff = min(2*backoff, maxAppendBackoff)
	}
}

// end records the final outcome, then lets the token go. It reports whether it was stored.
func (a *attempt) end(ctx context.Context, o record.Outcome, say func(Token) answer) bool {
	l := a.lane
	if l.recorder.record(ctx, o) != nil {
		a.giveBack(0, false)
		return false
	}
	l.mu.Lock()
	token := a.entry.token
	a.saved()
	if a.pending.Round > 0 {
		a.backlog.ended[a.pending.Event] = a.pending.Round
	}
	l.remove(a.backlog, a.entry)
	l.mu.Unlock()
	if token != nil {
		l.answer(say(token))
	}
	signal(l.wake)
	return true
}

// again puts the match back to wait for its next attempt: on its token, where there is a place
// for one, else parked.
func (a *attempt) again(ctx context.Context, o record.Outcome) {
	l, b, e := a.lane, a.backlog, a.entry
	now := time.Now()
	l.mu.Lock()
	a.saved()
	e.Attempts, e.NotBefore = o.Attempt, o.NotBefore
	if e.FirstFailure.IsZero() {
		e.FirstFailure = a.began
	}
	token := e.token
	e.phase, e.token = waiting, nil
	publish := false
	var reply answer
	switch keep := l.mayKeepToken(b, e, now); {
	case token != nil && keep:
		e.tokenBy = e.due().Add(tokenGrace)
		reply = delay(token, e.due().Sub(now))
	case token != nil:
		reply = l.park(b, e, token)
	case keep && e.Attempts > 0: // before the first attempt the sweep alone wakes it
		e.tokenBy = e.due().Add(tokenGrace)
		l.occupy(b, e)
		publish = true
	}
	l.requeue(b, e)
	l.vacate(b, e)
	l.mu.Unlock()

	l.answer(reply)
	if publish {
		l.publishToken(ctx, a.pending.ID())
	}
	signal(l.wake)
}

func (b *backlog) firstOfChain(e *entry) bool {
	c := b.chains[b.chain(e.Pending)]
	return len(c) > 0 && c[0] == e
}

// unjudged is for an attempt that did not get as far as its endpoint.
const unjudged record.Code = ""

// answered frees the endpoint's place: the answer is here, and only its record is to come. The
// resource stays shut until that is stored. It reports whether the endpoint began to fail,
// fails in another way, or recovered.
func (a *attempt) answered(code record.Code, took time.Duration) (news bool) {
	l, b, e := a.lane, a.backlog, a.entry
	l.mu.Lock()
	defer l.mu.Unlock()
	a.leaveEndpoint()
	e.phase = recording
	b.unsaved++
	if code != unjudged {
		news = b.last != code && (b.last != "" || b.failing || code != record.Accepted)
		if code != record.Accepted && !b.failing {
			if f := l.cfg.Observer.Failing; f != nil {
				f(a.target, code)
			}
		}
		b.last, b.failing, b.slow = code, code != record.Accepted, took > l.cfg.SlowAfter
		b.hinder = hindrance{}
	}
	l.vacate(b, e)
	l.markRunnable(b)
	signal(l.wake)
	return news
}

// leaveEndpoint and saved undo what launch and answered counted. The caller holds mu.
func (a *attempt) leaveEndpoint() {
	a.leave.end(a.verdict, a.code, time.Now())
	delete(a.backlog.atWork, a.entry)
	a.backlog.sending[a.share]--
	a.lane.sending[a.share]--
	a.lane.feedStarved()
}

func (a *attempt) saved() {
	a.backlog.unsaved--
	a.lane.markRunnable(a.backlog)
	if a.backlog.state == Withdrawn {
		a.lane.markDirty(a.backlog)
	}
}

// giveBack ends an attempt of which nothing is recorded; the match is as it was before.
func (a *attempt) giveBack(wait time.Duration, stale bool) {
	l, b, e := a.lane, a.backlog, a.entry
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.phase == recording {
		a.saved()
	} else {
		a.leaveEndpoint()
	}
	if wait > 0 {
		e.until = time.Now().Add(wait)
	}
	if stale {
		b.stale = true
		l.markDirty(b)
	}
	if b.state == Withdrawn {
		l.markDirty(b)
	}
	e.phase = queued
	l.requeue(b, e)
	if b.firstOfChain(e) {
		l.activate(b, e)
	}
	l.vacate(b, e)
	l.markRunnable(b)
	signal(l.wake)
}

func (a *attempt) observe(code record.Code, took time.Duration) {
	if f := a.lane.cfg.Observer.Attempt; f != nil {
		f(a.target.ChannelType, code, took)
	}
}

// warn tells the operator when an endpoint begins to fail, or fails in another way; the rest is
// in the outcomes. The endpoint is named by its host.
func (a *attempt) warn(failure *Error, number int, news bool) {
	level := slog.LevelDebug
	if news {
		level = slog.LevelWarn
	}
	a.lane.cfg.Log.Log(context.Background(), level, "delivery failed", "lane", a.lane.cfg.Name,
		"subscription", a.pending.Subscription, "event", a.pending.Number, "attempt", number,
		"endpoint", a.target.host(), "err", failure)
}
