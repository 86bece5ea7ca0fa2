package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// answers gives each request that is on its way a reply subject of its own, on one
// subscription. nats.go's own requests cannot be sent several at a time in a given order.
type answers struct {
	link   *link
	prefix string
	sub    *nats.Subscription

	mu      sync.Mutex
	next    uint64
	waiting map[string]chan *nats.Msg

	// noRoom: since the server started, a stream on disk refused a write at the engine's limit.
	noRoom atomic.Bool
}

// answerTimeout is how long an answer may take before it counts as missing. A synced append
// takes about a millisecond; a disk that stalls, or a new leader, takes seconds.
const answerTimeout = 10 * time.Second

// errNoAnswer means that the request was sent and nothing came back.
var errNoAnswer = errors.New("no answer")

func newAnswers(l *link) (*answers, error) {
	a := &answers{link: l, prefix: l.nc.NewInbox() + ".", waiting: map[string]chan *nats.Msg{}}
	sub, err := l.nc.Subscribe(a.prefix+"*", a.take)
	if err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	a.sub = sub
	return a, nil
}

func (a *answers) take(m *nats.Msg) {
	a.mu.Lock()
	ch := a.waiting[m.Subject]
	delete(a.waiting, m.Subject)
	a.mu.Unlock()
	if ch != nil {
		ch <- m // has room: a subject is answered once
	}
}

// asked is a request on its way.
type asked struct {
	answers *answers
	reply   string
	ch      chan *nats.Msg
	gone    <-chan struct{}
	over    <-chan struct{} // closed when the stream loses its leader; nil where that is not looked at
}

// send publishes m as a request. An error means that it was not sent.
func (a *answers) send(m *nats.Msg) (*asked, error) {
	a.mu.Lock()
	a.next++
	q := &asked{answers: a, reply: a.prefix + strconv.FormatUint(a.next, 36), ch: make(chan *nats.Msg, 1), gone: a.link.gone()}
	a.waiting[q.reply] = q.ch
	a.mu.Unlock()
	m.Reply = q.reply
	if err := a.link.nc.PublishMsg(m); err != nil {
		q.forget()
		if errors.Is(err, nats.ErrMaxPayload) {
			return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return q, nil
}

func (q *asked) forget() {
	q.answers.mu.Lock()
	delete(q.answers.waiting, q.reply)
	q.answers.mu.Unlock()
}

// await returns the acknowledgement. errNoAnswer (with the reason) says that it is not known
// whether the request was carried out; every other error that it was not.
func (q *asked) await(ctx context.Context, timeout time.Duration) (pubAck, error) {
	m, err := q.message(ctx, timeout)
	if err != nil {
		return pubAck{}, err
	}
	a, err := parseAck(m)
	if a.Error != nil && a.Error.noRoom() && a.Stream != LanesName {
		q.answers.noRoom.Store(true)
	}
	return a, err
}

// message returns the answer as it came, or errNoAnswer with the reason.
func (q *asked) message(ctx context.Context, timeout time.Duration) (*nats.Msg, error) {
	// Most answers are there or come within the next millisecond; the timer is for the rest.
	select {
	case m := <-q.ch:
		return m, nil
	default:
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	var why error
	select {
	case m := <-q.ch:
		return m, nil
	case <-t.C:
		why = fmt.Errorf("%w within %s", errNoAnswer, timeout)
	case <-q.over:
		why = fmt.Errorf("%w: the stream has lost its leader", errNoAnswer)
	case <-q.gone:
		why = fmt.Errorf("%w: connection lost", errNoAnswer)
	case <-ctx.Done():
		why = fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
	}
	q.forget()
	return nil, why
}

// noResponders reports whether the server says that nobody takes the subject.
func noResponders(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get("Status") == "503" && m.Header.Get("Nats-Sequence") == ""
}

func parseAck(m *nats.Msg) (pubAck, error) {
	if noResponders(m) {
		return pubAck{}, fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrNoResponders)
	}
	var a pubAck
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return pubAck{}, fmt.Errorf("%w: acknowledgement cannot be read: %w", errNoAnswer, err)
	}
	if a.Error != nil {
		return a, a.Error.err()
	}
	if a.Sequence == 0 {
		return pubAck{}, fmt.Errorf("%w: acknowledgement without a sequence", errNoAnswer)
	}
	return a, nil
}

// Publish writes one message by itself and waits until it is synced. Where no answer comes it
// does not look for the message: the error is ErrUnknown.
func (s *Server) Publish(ctx context.Context, stream string, m Msg) (Ack, error) {
	wire, _, err := s.prepare(m)
	if err != nil {
		return Ack{}, err
	}
	if stream != LanesName { // those are in memory
		if err := s.checkReserve(); err != nil {
			return Ack{}, fmt.Errorf("publish to %s: %w", m.Subject, err)
		}
	}
	return s.write(ctx, stream, wire)
}

// write writes one message. A cluster without a leader is waited for, as long as an answer may
// take: what it did not take can be sent again.
func (s *Server) write(ctx context.Context, stream string, wire *nats.Msg) (Ack, error) {
	if wire.Header == nil {
		wire.Header = nats.Header{}
	}
	// A subject that another stream took over must not be acknowledged by it.
	wire.Header[nats.ExpectedStreamHdr] = []string{stream}
	for deadline := time.Now().Add(answerTimeout); ; {
		a, err := s.writeOnce(ctx, stream, wire, time.Until(deadline))
		// Not again with too little time left: it would go out, and its answer not be waited for.
		if s.leaders == nil || !errors.Is(err, ErrUnavailable) || time.Until(deadline) < time.Second || !wait(ctx, readPause) {
			return a, err
		}
	}
}

func (s *Server) writeOnce(ctx context.Context, stream string, wire *nats.Msg, timeout time.Duration) (Ack, error) {
	if err := s.leaders.outage(stream); err != nil {
		return Ack{}, fmt.Errorf("publish to %s: %w", wire.Subject, err)
	}
	over := s.leaders.over(stream) // of before it goes out, or a change meanwhile is missed
	q, err := s.answers.send(wire)
	if err != nil {
		return Ack{}, fmt.Errorf("publish to %s: %w", wire.Subject, err)
	}
	q.over = over
	a, err := q.await(ctx, timeout)
	if errors.Is(err, errNoAnswer) {
		return Ack{}, fmt.Errorf("publish to %s: %w: %w", wire.Subject, ErrUnknown, err)
	}
	if err != nil {
		return Ack{}, fmt.Errorf("publish to %s: %w", wire.Subject, err)
	}
	s.advance(stream, a.Sequence)
	return Ack{Sequence: a.Sequence, Duplicate: a.Duplicate}, nil
}
