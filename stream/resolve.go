package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
)

// resolve finds out what became of units whose answer is missing. It first makes sure that the
// engine has finished with them, then reads what was written after mark. Units found are
// answered, units proven absent are returned to be written again, and where neither can be shown
// the answer is ErrUnknown.
func (p *Publisher) resolve(g []*unit, mark record.Sequence, why error) []*unit {
	ctx, cancel := context.WithTimeout(p.ctx, p.opts.Wait)
	defer cancel()
	tail, err := p.tail(ctx, mark)
	if err != nil {
		p.fail(g, fmt.Errorf("%w: %w; %w", ErrUnknown, why, err))
		return nil
	}
	var absent []*unit
	for _, u := range g {
		acks, part := tail.find(u)
		switch {
		case acks != nil:
			u.done(acks, nil)
		case part:
			// Some messages of a transaction without the rest: a write error broke it.
			p.fail([]*unit{u}, fmt.Errorf("%w: transaction is in the log in part", ErrUnknown))
		default:
			absent = append(absent, u)
		}
	}
	return absent
}

// tail reads what was written after mark, once nothing older can appear any more.
func (p *Publisher) tail(ctx context.Context, mark record.Sequence) (*logTail, error) {
	for {
		err := p.fence(ctx)
		if err == nil {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
	_, last, err := p.s.State(ctx, p.stream)
	if err != nil {
		return nil, err
	}
	t := &logTail{used: map[int]bool{}}
	for seq := mark + 1; seq <= last; seq++ {
		m, err := p.s.Get(ctx, p.stream, seq)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		t.msgs = append(t.msgs, m)
	}
	return t, nil
}

// fence gets an answer that the engine can give only after it is done with everything this
// connection sent before. For EVENTS it is a record whose sync covers what lies before it, since
// a batch may be visible before it is synced. For the other streams, which take no batches, a
// message that the engine refuses serves.
func (p *Publisher) fence(ctx context.Context) error {
	if p.stream == Events {
		_, err := p.s.Seal(ctx)
		return err
	}
	q, err := p.s.answers.send(&nats.Msg{Subject: fill(p.filters[0]), Header: nats.Header{nats.ExpectedStreamHdr: {"-"}}})
	if err != nil {
		return err
	}
	if _, err = q.await(ctx, p.opts.Wait); errors.Is(err, ErrRefused) {
		return nil
	}
	if err == nil {
		err = errors.New("fence was stored")
	}
	return fmt.Errorf("fence %s: %w", p.stream, err)
}

// fill makes a literal subject out of a filter.
func fill(filter string) string {
	return strings.NewReplacer("*", "fence", ">", "fence").Replace(filter)
}

// logTail is what was written since a publisher's group went out.
type logTail struct {
	msgs []Message
	used map[int]bool // each message stands for one unit at most
}

// find looks for a unit's messages, which lie next to each other. part tells that only some of
// them are there.
func (t *logTail) find(u *unit) (acks []Ack, part bool) {
	for i := range t.msgs {
		if t.used[i] || !same(t.msgs[i], u.src[0]) {
			continue
		}
		n := 1
		for n < len(u.src) && i+n < len(t.msgs) && same(t.msgs[i+n], u.src[n]) {
			n++
		}
		if n < len(u.src) {
			part = true
			continue
		}
		for k := range n {
			t.used[i+k] = true
			acks = append(acks, Ack{Sequence: t.msgs[i+k].Sequence})
		}
		return acks, false
	}
	return nil, part
}

// same reports whether a stored message is the one that was sent. Another writer's message that
// is equal in all of this would serve as well: what the caller wanted in the log is there.
func same(m Message, sent Msg) bool {
	return m.Subject == StoredSubject(sent.Subject) && m.Header.Get(nats.MsgIdHdr) == sent.MsgID && bytes.Equal(m.Data, sent.Data)
}
