package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// Options of a Publisher.
type Options struct {
	// Wait is how long a write that the log cannot take now is tried again, and how long an
	// answer may take; 0 is 10 s, which a change of leader needs. In a cluster it counts from when
	// the write was handed over, and finding out what became of it may take a second more.
	Wait time.Duration
	// MinFree refuses writes with ErrFull while the disk has fewer bytes free, so that ingest
	// stops while there is still room to finish what was accepted. 0 leaves it to the engine.
	MinFree uint64
}

// ErrDuplicate: a message of a transaction has an id that the log already knows, so the
// transaction was not written. It, or one that shares the id, was written within two minutes.
var ErrDuplicate = errors.New("message id of the transaction is in the log already")

// batchFromCluster is that number where a stream has several copies: they stage a batch in memory,
// and sync it once.
const batchFromCluster = 2

// batchFrom is the number of messages from which a group goes as one atomic batch on one node:
// each single append costs a sync, a batch some milliseconds whatever its size. They meet
// between 8 messages on a slow disk and 22 on a fast one; DESIGN.md has the measurement.
const batchFrom = 16

// Bounds of what waits in a Publisher. Callers beyond them wait their turn.
const (
	maxQueued      = 5 * maxBatch
	maxQueuedBytes = maxTransaction
)

// Publisher writes to one stream for many callers at once. What comes while a write is on its
// way is collected and written together; a lone message goes at once. Messages are stored in
// the order in which they were handed over; when the engine refuses some for now, this holds for
// the messages of one subject.
type Publisher struct {
	s       *Server
	stream  string
	opts    Options
	filters []string        // the stream's subjects
	batches bool            // the stream takes atomic batches
	from    int             // messages from which a group goes as a batch
	floor   record.Sequence // last sequence when the publisher was made: what it writes comes after

	ctx    context.Context // ends when Close gives up waiting
	cancel context.CancelFunc
	done   chan struct{} // closed when the loop has ended

	mu     sync.Mutex
	queue  []*unit
	open   map[string]int // messages without an answer, by stored subject
	bytes  int
	msgs   int
	closed bool
	wake   chan struct{} // one token: there is something to do
	room   chan struct{} // closed and replaced when the queue shrinks; nil while nobody waits
}

// unit is what is answered together: one message, or a transaction.
type unit struct {
	wire     []*nats.Msg
	src      []Msg
	size     int
	subjects []string // as stored; counted in Publisher.open until the answer
	done     func([]Ack, error)
	state    atomic.Int32 // queued, taken or withdrawn
	until    time.Time    // in a cluster, when its caller gets an answer whatever it is
}

const (
	queued int32 = iota
	taken
	withdrawn
)

// NewPublisher starts a publisher for a stream that Declare made. The caller closes it.
func NewPublisher(ctx context.Context, s *Server, stream string, opts Options) (*Publisher, error) {
	if opts.Wait == 0 {
		opts.Wait = answerTimeout
	}
	info, err := steady(ctx, s, func(ctx context.Context) (streamInfo, error) { return s.info(ctx, stream) })
	if err != nil {
		return nil, fmt.Errorf("open publisher of %s: %w", stream, err)
	}
	p := &Publisher{
		s: s, stream: stream, opts: opts,
		filters: info.Config.Subjects,
		batches: info.Config.AtomicPublish,
		from:    batchFrom,
		floor:   record.Sequence(info.State.Last),
		open:    map[string]int{},
		done:    make(chan struct{}),
		wake:    make(chan struct{}, 1),
	}
	if s.cfg.Replicas > 1 {
		p.from = batchFromCluster
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go p.loop()
	return p, nil
}

// Publish writes one message and returns when it is synced. It may be called from many
// goroutines. When ctx ends before the message was taken up nothing is written and the error is
// that of ctx; after that the error is ErrUnknown.
func (p *Publisher) Publish(ctx context.Context, m Msg) (Ack, error) {
	acks, err := p.publish(ctx, []Msg{m})
	if err != nil {
		return Ack{}, err
	}
	return acks[0], nil
}

// PublishAtomic writes all the messages or none, next to each other and in order. At most
// 1,000 messages and 80 MiB; more is ErrTooLarge. A condition must not speak of a subject that
// the transaction writes before it, nor two conditions of one subject: that is ErrRefused.
func (p *Publisher) PublishAtomic(ctx context.Context, ms []Msg) ([]Ack, error) {
	switch {
	case len(ms) == 0:
		return nil, nil
	case len(ms) > maxBatch:
		return nil, fmt.Errorf("publish transaction to %s: %w: %d messages, at most %d", p.stream, ErrTooLarge, len(ms), maxBatch)
	case len(ms) > 1 && !p.batches:
		return nil, fmt.Errorf("publish transaction to %s: %w: the stream takes no atomic batches", p.stream, ErrRefused)
	}
	if err := contradiction(ms); err != nil {
		return nil, fmt.Errorf("publish transaction to %s: %w", p.stream, err)
	}
	return p.publish(ctx, ms)
}

// contradiction refuses what the engine can never write and answers as if another writer were in
// the way: tried again, as that deserves, it would hold up every other writer for Options.Wait.
func contradiction(ms []Msg) error {
	written, checked := map[string]bool{}, map[string]bool{}
	for _, m := range ms {
		if m.ExpectLast != nil {
			about := m.about()
			if written[about] {
				return fmt.Errorf("%w: condition on %s, which the transaction writes before it", ErrRefused, about)
			}
			if checked[about] {
				return fmt.Errorf("%w: two conditions on %s", ErrRefused, about)
			}
			checked[about] = true
		}
		written[StoredSubject(m.Subject)] = true
	}
	return nil
}

// about is the stored subject that the message's condition speaks of.
func (m Msg) about() string {
	if m.ExpectSubject != "" {
		return m.ExpectSubject
	}
	return StoredSubject(m.Subject)
}

// Pending reports whether a message of a stored subject (as StoredSubject gives it) is queued or
// on its way and has no answer yet: then what the log holds of the subject is not its newest
// state. It turns false right before the answer is given.
func (p *Publisher) Pending(subject string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[subject] > 0
}

// countLocked notes that a unit's messages wait for an answer.
func (p *Publisher) countLocked(u *unit) {
	for _, subject := range u.subjects {
		p.open[subject]++
	}
}

// forgetLocked takes back countLocked, once the unit is answered or withdrawn.
func (p *Publisher) forgetLocked(u *unit) {
	for _, subject := range u.subjects {
		if p.open[subject]--; p.open[subject] <= 0 {
			delete(p.open, subject)
		}
	}
}

// Enqueue hands a message over without waiting for its answer, which done gets: messages of one
// goroutine are stored in the order of its calls. done is called once, from the publisher's
// goroutine, and must not block. An error means that done is not called and nothing is written.
// Enqueue blocks while the queue is full.
func (p *Publisher) Enqueue(ctx context.Context, m Msg, done func(Ack, error)) error {
	_, err := p.enqueue(ctx, []Msg{m}, func(acks []Ack, err error) {
		if err != nil {
			done(Ack{}, err)
			return
		}
		done(acks[0], nil)
	})
	return err
}

// Queued is how many messages wait to be written: what back-pressure is measured by.
func (p *Publisher) Queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.msgs
}

// Durable is the highest sequence of the stream that is known to be synced.
func (p *Publisher) Durable() record.Sequence { return p.s.Durable(p.stream) }

// Close refuses new messages, waits until those queued are answered, and ends the publisher.
// When ctx ends first, the rest is answered with ErrUnavailable or ErrUnknown.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	if p.room != nil {
		close(p.room)
		p.room = nil
	}
	p.mu.Unlock()
	p.signal()
	defer p.cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.cancel()
		<-p.done
		return fmt.Errorf("close publisher of %s: %w", p.stream, ctx.Err())
	}
}

type result struct {
	acks []Ack
	err  error
}

func (p *Publisher) publish(ctx context.Context, ms []Msg) ([]Ack, error) {
	answer := make(chan result, 1)
	u, err := p.enqueue(ctx, ms, func(acks []Ack, err error) { answer <- result{acks, err} })
	if err != nil {
		return nil, err
	}
	select {
	case r := <-answer:
		return r.acks, r.err
	case <-ctx.Done():
		if u.state.CompareAndSwap(queued, withdrawn) {
			return nil, fmt.Errorf("publish to %s: %w", p.stream, ctx.Err())
		}
		return nil, fmt.Errorf("publish to %s: %w: %w", p.stream, ErrUnknown, ctx.Err())
	}
}

func (p *Publisher) enqueue(ctx context.Context, ms []Msg, done func([]Ack, error)) (*unit, error) {
	u := &unit{src: ms, wire: make([]*nats.Msg, len(ms)), subjects: make([]string, len(ms))}
	u.done = func(acks []Ack, err error) {
		p.mu.Lock()
		p.forgetLocked(u)
		p.mu.Unlock()
		done(acks, err)
	}
	for i, m := range ms {
		wire, size, err := p.s.prepare(m)
		if err != nil {
			return nil, err
		}
		if !p.owns(m.Subject) {
			return nil, fmt.Errorf("publish to %s: %w: not a subject of %s", m.Subject, ErrRefused, p.stream)
		}
		u.wire[i], u.subjects[i] = wire, StoredSubject(m.Subject)
		u.size += size
	}
	if p.s.leaders != nil {
		u.until = time.Now().Add(p.opts.Wait)
	}
	if u.size > maxTransaction {
		return nil, fmt.Errorf("publish transaction to %s: %w: %d bytes, at most %d", p.stream, ErrTooLarge, u.size, maxTransaction)
	}
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, fmt.Errorf("publish to %s: %w", p.stream, ErrClosed)
		}
		// A unit larger than the bounds still gets in when it is alone.
		if len(p.queue) == 0 || p.msgs+len(ms) <= maxQueued && p.bytes+u.size <= maxQueuedBytes {
			p.queue = append(p.queue, u)
			p.countLocked(u)
			p.msgs += len(ms)
			p.bytes += u.size
			p.mu.Unlock()
			p.signal()
			return u, nil
		}
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room := p.room
		p.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return nil, fmt.Errorf("publish to %s: %w", p.stream, ctx.Err())
		}
	}
}

// owns keeps a batch from being spread over streams.
func (p *Publisher) owns(subject string) bool {
	return slices.ContainsFunc(p.filters, func(filter string) bool { return matches(filter, subject) })
}

func (p *Publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// loop writes group after group. There is one on its way at a time: on one node the engine
// works on them one by one anyway, and what comes meanwhile makes the next group larger.
func (p *Publisher) loop() {
	defer close(p.done)
	for {
		g := p.next()
		if len(g) > 0 {
			p.commit(g)
			continue
		}
		p.mu.Lock()
		end := p.closed && len(p.queue) == 0
		p.mu.Unlock()
		if end {
			return
		}
		<-p.wake
	}
}

// maxShared is how many messages a transaction has at most that is written together with others. It
// shares the price of a batch, which is all that a small one costs; a large one gains little, and if it
// is refused the others would be written again.
const maxShared = batchFrom

// next takes what is written together off the queue: single messages and small transactions, as many
// as one batch may hold, or a large transaction by itself.
func (p *Publisher) next() []*unit {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := make([]*unit, 0, min(len(p.queue), maxBatch))
	bytes, msgs, n := 0, 0, 0
	var written map[string]bool // what g writes; nil while no condition asked for it
	for _, u := range p.queue {
		alone := len(u.wire) > maxShared
		if len(g) > 0 && (alone || msgs+len(u.wire) > maxBatch || bytes+u.size > maxBatchBytes) {
			break
		}
		if p.batches && len(g) > 0 && u.conditional() {
			if written == nil {
				written = make(map[string]bool, msgs)
				for _, w := range g {
					w.writes(written)
				}
			}
			if u.mustWait(written) {
				break
			}
		}
		n++
		p.msgs -= len(u.wire)
		p.bytes -= u.size
		if !u.state.CompareAndSwap(queued, taken) {
			p.forgetLocked(u)
			continue // its caller has left
		}
		g = append(g, u)
		if alone {
			break
		}
		bytes += u.size
		msgs += len(u.wire)
		if written != nil {
			u.writes(written)
		}
	}
	p.queue = slices.Delete(p.queue, 0, n)
	if n > 0 && p.room != nil {
		close(p.room)
		p.room = nil
	}
	return g
}

// writes adds the subjects that the unit writes, as stored.
func (u *unit) writes(written map[string]bool) {
	for _, subject := range u.subjects {
		written[subject] = true
	}
}

func (u *unit) conditional() bool {
	return slices.ContainsFunc(u.src, func(m Msg) bool { return m.ExpectLast != nil })
}

// mustWait reports whether a condition of the unit speaks of a subject that the batch writes
// before it: the engine checks a whole batch against the log as it was before the batch.
func (u *unit) mustWait(written map[string]bool) bool {
	return slices.ContainsFunc(u.src, func(m Msg) bool { return m.ExpectLast != nil && written[m.about()] })
}

func (u *unit) transaction() bool { return len(u.wire) > 1 }

// commit writes a group and answers all of it.
func (p *Publisher) commit(g []*unit) {
	deadline := time.Now().Add(p.opts.Wait)
	pause := time.Millisecond
	for {
		if err := p.full(); err != nil {
			p.fail(g, err)
			return
		}
		mark := max(p.floor, p.Durable())
		open, why := p.write(g)
		if errors.Is(why, errNoAnswer) {
			open = p.resolve(open, mark, why)
		}
		refused := why
		if !errors.Is(why, ErrUnavailable) {
			refused = fmt.Errorf("%w: %w", ErrUnavailable, why)
		}
		if g = p.expire(open, deadline, 0, refused); len(g) == 0 {
			return
		}
		wait(p.ctx, pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// expire answers those whose time is up, and returns the others. On a single node that time is
// the group's. In a cluster it is each one's own: an election takes seconds, and who waited behind
// one group must not wait as long again.
func (p *Publisher) expire(g []*unit, deadline time.Time, grace time.Duration, err error) (open []*unit) {
	now := time.Now()
	for _, u := range g {
		end := deadline
		if !u.until.IsZero() {
			end = u.until
		}
		if now.After(end.Add(grace)) || p.ctx.Err() != nil {
			p.fail([]*unit{u}, err)
			continue
		}
		open = append(open, u)
	}
	return open
}

// patience is how long an answer to a group may take. In a cluster a lost leader is noticed
// before, and what has no answer for the first of the group is looked up in the log.
func (p *Publisher) patience(g []*unit) time.Duration {
	if g[0].until.IsZero() {
		return p.opts.Wait
	}
	first := g[0].until
	for _, u := range g[1:] {
		if u.until.Before(first) {
			first = u.until
		}
	}
	return max(time.Until(first), time.Second)
}

// full keeps the reserve of the disk.
func (p *Publisher) full() error {
	if p.opts.MinFree == 0 {
		return nil
	}
	free, _, err := DiskFree(p.s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if free < p.opts.MinFree {
		return fmt.Errorf("%w: %d bytes free, %d kept in reserve", ErrFull, free, p.opts.MinFree)
	}
	return nil
}

func (p *Publisher) fail(g []*unit, err error) {
	for _, u := range g {
		u.done(nil, fmt.Errorf("publish to %s: %w", u.src[0].Subject, err))
	}
}

// write tries once. It answers what is decided and returns the rest, in order, with the reason:
// errNoAnswer if any of it may have been written, else nothing of it was.
func (p *Publisher) write(g []*unit) (open []*unit, why error) {
	if err := p.s.leaders.outage(p.stream); err != nil {
		return g, err
	}
	if p.batches && len(g) >= p.from || slices.ContainsFunc(g, (*unit).transaction) {
		return p.batch(g)
	}
	return p.singles(g)
}

// singles sends each message by itself, in flights: what could not be written is tried again, so
// what follows it must not have gone already.
func (p *Publisher) singles(g []*unit) (open []*unit, why error) {
	deadline := time.Now().Add(p.patience(g)) // for all of them: a silent engine is silent to all
	for len(g) > 0 {
		n := flightOf(g)
		if open, why = p.flight(g[:n], deadline); len(open) > 0 {
			return append(open, g[n:]...), why
		}
		g = g[n:]
	}
	return nil, nil
}

// flightOf is how many of the messages may be on their way together. The engine can refuse one
// for now, as when it is starting, and take the next: so of each subject there is one in a flight.
func flightOf(g []*unit) int {
	out := make(map[string]bool, len(g))
	for i, u := range g {
		subject := StoredSubject(u.src[0].Subject)
		if out[subject] {
			return i
		}
		out[subject] = true
	}
	return len(g)
}

// flight sends messages, all of them before the first answer, and none after one that could not
// be sent.
func (p *Publisher) flight(g []*unit, deadline time.Time) (open []*unit, why error) {
	asks := make([]*asked, 0, len(g))
	var unsent error
	over := p.s.leaders.over(p.stream)
	for _, u := range g {
		q, err := p.s.answers.send(u.wire[0])
		if unsent = err; err != nil {
			break
		}
		q.over = over
		asks = append(asks, q)
	}
	for i, u := range g {
		var a pubAck
		var err error
		switch {
		case i < len(asks):
			a, err = asks[i].await(p.ctx, time.Until(deadline))
		case i == len(asks):
			err = unsent
		default:
			err = fmt.Errorf("%w: held back", ErrUnavailable)
		}
		switch {
		case err == nil:
			p.s.advance(p.stream, a.Sequence)
			u.done([]Ack{{a.Sequence, a.Duplicate}}, nil)
		case retryable(err):
			open = append(open, u)
			if why == nil || errors.Is(err, errNoAnswer) {
				why = err
			}
		default:
			p.fail(g[i:i+1], err)
		}
	}
	return open, why
}

func retryable(err error) bool {
	return errors.Is(err, ErrBusy) || errors.Is(err, ErrUnavailable) || errors.Is(err, errIncomplete) || errors.Is(err, errNoAnswer)
}

// batch writes the group as one atomic batch. One message that cannot be written refuses all,
// without saying which: then the batch is halved until the guilty one is alone.
func (p *Publisher) batch(g []*unit) (open []*unit, why error) {
	a, err := p.sendBatch(g)
	switch {
	case err == nil:
		p.settle(g, a)
		return nil, nil
	case retryable(err):
		return g, err
	case errors.Is(err, ErrFull):
		p.fail(g, err)
		return nil, nil
	case len(g) > 1:
		half := len(g) / 2
		if open, why = p.write(g[:half]); len(open) > 0 {
			return append(open, g[half:]...), why // the second half must not overtake it
		}
		return p.write(g[half:])
	case errors.Is(err, errDuplicate) && !g[0].transaction():
		return p.singles(g) // is told the sequence of the first
	case errors.Is(err, errDuplicate):
		p.fail(g, ErrDuplicate)
		return nil, nil
	default:
		p.fail(g, err)
		return nil, nil
	}
}

// sendBatch publishes the messages under a fresh batch id; only the last is a request.
func (p *Publisher) sendBatch(g []*unit) (pubAck, error) {
	total := wireCount(g)
	b := batchHeaders{id: []string{nuid.Next()}, places: make([]string, 0, total), commit: []string{"1"}}
	var q *asked
	over := p.s.leaders.over(p.stream)
	for _, u := range g {
		for _, m := range u.wire {
			last := len(b.places)+1 == total
			b.put(m, last)
			var err error
			if last {
				q, err = p.s.answers.send(m)
			} else {
				err = p.s.nc.nc.PublishMsg(m)
			}
			b.remove(m)
			if err != nil {
				return pubAck{}, fmt.Errorf("%w: %w", ErrUnavailable, err) // no commit, no batch
			}
		}
	}
	q.over = over
	return q.await(p.ctx, p.patience(g))
}

// wireCount is how many messages a group has.
func wireCount(g []*unit) (n int) {
	for _, u := range g {
		n += len(u.wire)
	}
	return n
}

// batchHeaders are those of the messages of one batch. A message has them only while it is sent,
// since it may be sent again in another batch, or by itself. The client has written it out when
// its publish returns.
type batchHeaders struct {
	id, commit []string
	places     []string // from 1, of those sent so far
}

func (b *batchHeaders) put(m *nats.Msg, last bool) {
	if m.Header == nil {
		m.Header = make(nats.Header, 3)
	}
	b.places = append(b.places, strconv.Itoa(len(b.places)+1))
	m.Header[hdrBatchID] = b.id
	m.Header[hdrBatchSequence] = b.places[len(b.places)-1:]
	if last {
		m.Header[hdrBatchCommit] = b.commit
	}
	m.Reply = "" // of an earlier try by itself: only the last message is a request
}

func (b *batchHeaders) remove(m *nats.Msg) {
	delete(m.Header, hdrBatchID)
	delete(m.Header, hdrBatchSequence)
	delete(m.Header, hdrBatchCommit)
}

// settle answers a batch: its messages lie next to each other and end at the acknowledgement.
func (p *Publisher) settle(g []*unit, a pubAck) {
	p.s.advance(p.stream, a.Sequence)
	all := make([]Ack, wireCount(g))
	first := a.Sequence - record.Sequence(len(all)) + 1
	for i := range all {
		all[i].Sequence = first + record.Sequence(i)
	}
	for _, u := range g {
		n := len(u.wire)
		u.done(all[:n:n], nil)
		all = all[n:]
	}
}
