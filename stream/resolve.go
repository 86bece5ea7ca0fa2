package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
)

// resolve finds out what became of units whose answer is missing. It first makes sure that the
// engine has finished with them, then reads what was written after mark. Units found are
// answered, units proven absent are returned to be written again, and where neither can be shown
// the answer is ErrUnknown. In a cluster a unit waits for it a second longer than for a write.
func (p *Publisher) resolve(g []*unit, mark record.Sequence, why error) []*unit {
	deadline := time.Now().Add(p.opts.Wait)
	for {
		tail, err := p.tail(g, mark, deadline)
		if err == nil {
			return p.sort(g, tail)
		}
		if g = p.expire(g, deadline, resolveGrace, fmt.Errorf("%w: %w; %w", ErrUnknown, why, err)); len(g) == 0 {
			return nil
		}
		wait(p.ctx, 20*time.Millisecond)
	}
}

const (
	resolveGrace = time.Second
	// resolveTry bounds a question to a cluster whose leader may be lost again.
	resolveTry = 4 * time.Second
)

// sort answers the units that the log has, and returns the others.
func (p *Publisher) sort(g []*unit, tail *logTail) (absent []*unit) {
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
func (p *Publisher) tail(g []*unit, mark record.Sequence, deadline time.Time) (*logTail, error) {
	if p.s.leaders != nil {
		deadline = p.tryUntil(g, time.Now())
	}
	ctx, cancel := context.WithDeadline(p.ctx, deadline)
	defer cancel()
	if err := p.fence(ctx, g); err != nil {
		return nil, err
	}
	_, last, err := p.s.State(ctx, p.stream)
	if err != nil {
		return nil, err
	}
	t := &logTail{used: map[int]bool{}}
	for seq := mark + 1; seq <= last; {
		run, err := p.s.GetRun(ctx, p.stream, seq, maxBatch)
		if errors.Is(err, ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		t.msgs = append(t.msgs, run...)
		seq = run[len(run)-1].Sequence + 1
	}
	return t, nil
}

// tryUntil bounds one try of tail in a cluster: no longer than the last of the group waits, but
// long enough for an answer.
func (p *Publisher) tryUntil(g []*unit, now time.Time) time.Time {
	last := now
	for _, u := range g {
		if u.until.After(last) {
			last = u.until
		}
	}
	if end := last.Add(resolveGrace); end.Before(now.Add(resolveTry)) {
		return end
	}
	return now.Add(resolveTry)
}

// fence gets an answer that the engine can give only after it is done with everything this
// connection sent before. For EVENTS it is a record, whose sync covers what lies before it, since
// a batch may be visible before it is synced; in a cluster it is the new leader's word that
// nothing of the old one can come after it. For the other streams, which take no batches, a
// message that the engine refuses serves. With several copies that is one whose condition cannot
// hold, for each subject: as long as a write of the subject is on its way the answer is "busy".
func (p *Publisher) fence(ctx context.Context, g []*unit) error {
	if err := p.s.leaders.outage(p.stream); err != nil {
		return err
	}
	if p.stream == Events {
		_, err := p.s.seal(ctx)
		return err
	}
	if p.s.cfg.Replicas == 1 {
		return p.refused(ctx, fill(p.filters[0]), nats.Header{nats.ExpectedStreamHdr: {"-"}}, ErrRefused)
	}
	asked := map[string]bool{}
	for _, u := range g {
		for i, m := range u.wire {
			if asked[u.subjects[i]] {
				continue
			}
			asked[u.subjects[i]] = true
			never := nats.Header{nats.ExpectedStreamHdr: {p.stream}, nats.ExpectedLastSubjSeqHdr: {strconv.Itoa(math.MaxInt64)}}
			if err := p.refused(ctx, m.Subject, never, ErrConflict); err != nil {
				return err
			}
		}
	}
	return nil
}

// refused sends what the engine must refuse in one way.
func (p *Publisher) refused(ctx context.Context, subject string, header nats.Header, as error) error {
	over := p.s.leaders.over(p.stream)
	q, err := p.s.answers.send(&nats.Msg{Subject: subject, Header: header})
	if err != nil {
		return err
	}
	q.over = over
	_, err = q.await(ctx, p.opts.Wait)
	if errors.Is(err, as) {
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
