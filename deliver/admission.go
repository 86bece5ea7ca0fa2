package deliver

import (
	"net/http"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// admission is where a Subscription stands at its endpoint. It is guarded by the lane's mu.
type admission struct {
	endpoint *endpoint // nil: it has none, or nothing is shared about it
	url      string    // that endpoint was found by
	waiter   waiter    // guarded by the endpoint's own mu
	barred   record.Code
	opening  int       // of the breaker, that was recorded last
	limited  time.Time // when it was last recorded that a limit held this Subscription up
}

// limitNotedEvery is how often at most it is recorded that a Subscription waits for a limit of its
// endpoint: such waits may come and go many times a second.
const limitNotedEvery = 10 * time.Minute

// approach follows a Subscription to another endpoint. The caller holds mu.
func (l *Lane) approach(b *backlog) {
	d := &b.admission
	if l.cfg.Endpoints == nil || d.url == b.target.Endpoint {
		return
	}
	l.depart(b)
	d.url = b.target.Endpoint
	d.endpoint = l.cfg.Endpoints.use(b.target.Endpoint)
	d.waiter.wake = func() { l.callBack(b) }
}

// depart leaves the endpoint.
func (l *Lane) depart(b *backlog) {
	if p := b.admission.endpoint; p != nil {
		p.drop(&b.admission.waiter)
	}
	b.admission.endpoint, b.admission.url, b.admission.barred = nil, "", ""
	b.admission.opening, b.admission.limited = 0, time.Time{} // what was recorded was of that one
}

// admit asks for an attempt of e at the endpoint. Where it may not be made, the Subscription waits
// to be called back, and what keeps it is recorded once. The caller holds mu.
func (l *Lane) admit(b *backlog, e *entry, now time.Time) (pass, bool) {
	d := &b.admission
	if d.endpoint == nil {
		return pass{}, true
	}
	leave, why := d.endpoint.enter(&d.waiter, now)
	d.barred = why
	if why == "" {
		return leave, true
	}
	l.noteBarred(b, e, why, now)
	return pass{}, false
}

// decline gives up a wait at the endpoint, since there is nothing to send just now.
func (b *backlog) decline() {
	if b.admission.barred != "" {
		b.admission.barred = ""
		b.admission.endpoint.decline(&b.admission.waiter)
	}
}

// noteBarred records that a Subscription is kept from its endpoint, with the match that would have
// been next.
func (l *Lane) noteBarred(b *backlog, e *entry, why record.Code, now time.Time) {
	d := &b.admission
	switch why {
	case busy:
		return
	case record.BreakerOpen:
		opening := d.endpoint.opening()
		if opening == d.opening {
			return
		}
		d.opening = opening
	default:
		if !d.limited.IsZero() && now.Sub(d.limited) < limitNotedEvery {
			return
		}
		d.limited = now
	}
	l.note(record.Outcome{
		MatchID: e.ID(), Subscription: b.id, Round: e.Round, Attempt: e.Attempts,
		Code: why, At: now, NotBefore: e.NotBefore,
	})
	if f := l.cfg.Observer.Attempt; f != nil {
		f(b.target.ChannelType, why, 0)
	}
}

func (p *endpoint) opening() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.openings
}

// callBack lets a Subscription try its endpoint again. It is called with the endpoint's mu held, so
// it must not take the lane's.
func (l *Lane) callBack(b *backlog) {
	l.called.Lock()
	l.callBacks = append(l.callBacks, b)
	l.called.Unlock()
	signal(l.wake)
}

// takeCalls makes those runnable that were called back. The caller holds mu.
func (l *Lane) takeCalls() {
	l.called.Lock()
	calls := l.callBacks
	l.callBacks = nil
	l.called.Unlock()
	for _, b := range calls {
		if l.backlogs[b.birth] == b {
			l.markRunnable(b)
		} else {
			b.decline()
		}
	}
}

// judge says what the outcome of an attempt tells of its endpoint. One that answers is alive, even
// where it refuses: a wrong path or login of one Subscription must not close it to the others. A
// PublishError is of our own log, of a command or of an interceptor, never of a host.
func judge(failure *Error) verdict {
	if failure == nil {
		return alive
	}
	switch failure.Code {
	case record.Timeout, record.DNSError, record.ConnectionRefused, record.ConnectionReset, record.TLSError,
		record.ResponseTooLarge, record.SMTPError:
		return failing
	case record.HTTPStatus:
		switch s := failure.Status; {
		case failure.Permanent:
			return unknown // the receiver wants this message no more, whatever its status
		case s >= 500, s == http.StatusRequestTimeout, s == http.StatusTooManyRequests:
			return failing
		}
		return alive
	case record.Redirect, record.Gone:
		return alive
	}
	return unknown
}
