package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// followBatch is how many messages Follow hands over at once at most.
	followBatch = 1024
	// followBeat is how often the engine shows a silent reader that it is still served. Two
	// missing beats make the reader start its consumer anew: in a cluster, where the consumer may
	// be on a node that is lost, soon.
	followBeat        = 5 * time.Second
	followBeatCluster = 300 * time.Millisecond
	// followIdle removes a consumer whose reader has gone without a word.
	followIdle = 30 * time.Second
	// followPatience is how long a reader waits for the acknowledgement of what it sees. It comes
	// within milliseconds, unless its writer has left.
	followPatience = time.Second
	// followAsk bounds the questions that make a consumer in a cluster: a leader that is lost does
	// not answer.
	followAsk = 2 * time.Second
	// followGap is how long a log of a cluster must end before the reader's place to be another's
	// log: a leader that has just taken over may not show all that it has.
	followGap = 30 * time.Second
	// followLag is how often a reader that gets nothing looks whether there is something: its
	// consumer may be on a copy that is cut off from the others and not from the reader.
	followLag = 5 * time.Second
)

// Follow calls fn with the messages of a stream from a sequence on, in order, each exactly once,
// as many as are at hand (at most 1,024), and a lone one at once. It blocks until ctx ends (nil)
// or fn fails (its error), over restarts of the server too. filters are stored subjects, with
// wildcards; none means all.
//
// Where the stream takes atomic batches nothing is handed over before it is synced, and what no
// writer waits for any more is sealed after a second; such a stream must have been sealed at start
// (ErrNotSealed). ErrGap means that the stream begins after from,
// or ends before from-1 (in a cluster, does so for 30 s): what the reader has is not this log's. (Where messages are removed one by
// one, as dead letters are, a new reader starts at State's first.)
func (s *Server) Follow(ctx context.Context, stream string, from record.Sequence, filters []string, fn func([]Message) error) error {
	f := &follower{s: s, stream: stream, next: max(from, 1), filters: filters, fn: fn, beat: followBeat}
	if s.cfg.clustered() {
		f.beat = followBeatCluster
	}
	pause := 10 * time.Millisecond
	for {
		before := f.next
		err := f.run(ctx)
		switch {
		case errors.Is(err, errFollowAgain) && ctx.Err() != nil:
			return nil
		case errors.Is(err, errFollowAgain):
			s.log.Debug("reader starts its consumer anew", "stream", stream, "sequence", f.next, "err", err)
		default:
			return err
		}
		if f.next != before {
			pause = 10 * time.Millisecond
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, time.Second)
	}
}

// errFollowAgain: the consumer was lost; a new one goes on where it stopped.
var errFollowAgain = errors.New("consumer lost")

// follower reads a stream through one push consumer after another. Push costs the least per
// message; the engine's flow control bounds what is on its way.
type follower struct {
	s       *Server
	stream  string
	next    record.Sequence // first sequence not handed over yet
	filters []string
	fn      func([]Message) error
	beat    time.Duration
	short   time.Time // since when the log ends before next; zero while it does not
}

// inbox takes what the consumer pushes. The engine's flow control, which the follower answers
// when it has worked off what came before, bounds it to 32 MiB.
type inbox struct {
	mu    sync.Mutex
	msgs  []*nats.Msg
	spare []*nats.Msg // empty; what take gave out before
	wake  chan struct{}
}

func (b *inbox) put(m *nats.Msg) {
	b.mu.Lock()
	b.msgs = append(b.msgs, m)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take gives out what came since the last call. The caller gives it back when it is done with it.
func (b *inbox) take() []*nats.Msg {
	b.mu.Lock()
	defer b.mu.Unlock()
	msgs := b.msgs
	b.msgs, b.spare = b.spare, nil
	return msgs
}

func (b *inbox) giveBack(msgs []*nats.Msg) {
	clear(msgs)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spare = msgs[:0]
}

// run follows through one consumer until that is lost.
func (f *follower) run(ctx context.Context) error {
	ctx, cancel := f.s.feed.bound(ctx)
	defer cancel()
	asking, asked := f.asking(ctx)
	defer asked()
	synced, err := f.check(asking)
	if err != nil {
		return f.again(err)
	}
	// A box of this run alone: what the consumer before this one still delivers goes nowhere.
	box := &inbox{wake: make(chan struct{}, 1)}
	stop, err := f.consume(asking, box)
	if err != nil {
		return f.again(err)
	}
	asked()
	defer stop()

	beat := time.NewTimer(2*f.beat + f.beat/2)
	defer beat.Stop()
	lag := time.NewTicker(followLag)
	defer lag.Stop()
	var behind record.Sequence
	var consumed uint64 // the consumer's own count: a hole in it is a lost message
	for {
		select {
		case <-box.wake:
		case <-lag.C:
			if f.isBehind(ctx, &behind) {
				return fmt.Errorf("%w: its copy is behind", errFollowAgain)
			}
			continue
		case <-beat.C:
			return fmt.Errorf("%w: silent", errFollowAgain)
		case <-ctx.Done(): // the caller's, or the connection's end
			return fmt.Errorf("%w: %w", errFollowAgain, ctx.Err())
		}
		msgs := box.take()
		for rest := msgs; len(rest) > 0; {
			n := min(len(rest), followBatch)
			if consumed, err = f.handle(ctx, rest[:n], consumed, synced); err != nil {
				return err
			}
			rest = rest[n:]
		}
		box.giveBack(msgs)
		beat.Reset(2*f.beat + f.beat/2)
	}
}

// isBehind tells whether there is a message that the reader should have had, and notes which. Of
// one with filters it is not known.
func (f *follower) isBehind(ctx context.Context, at *record.Sequence) bool {
	if !f.s.cfg.clustered() || len(f.filters) > 0 {
		return false
	}
	before := *at
	*at = f.next
	if before != f.next {
		return false
	}
	asking, asked := f.asking(ctx)
	defer asked()
	info, err := f.s.info(asking, f.stream)
	return err == nil && record.Sequence(info.State.Last) >= f.next
}

// asking bounds the questions before the first message.
func (f *follower) asking(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.s.cfg.clustered() {
		return context.WithTimeout(ctx, followAsk)
	}
	return context.WithCancel(ctx)
}

// again says whether an error is worth another try: everything is that the log itself did not
// answer.
func (f *follower) again(err error) error {
	if errors.Is(err, ErrGap) || errors.Is(err, ErrNotSealed) {
		return err
	}
	return fmt.Errorf("%w: %w", errFollowAgain, err)
}

// check compares where the reader stands with what the log holds, and tells whether the reader
// has to wait for the sync of what it sees.
func (f *follower) check(ctx context.Context) (synced bool, err error) {
	st, err := f.s.fjs.Stream(ctx, f.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, fmt.Errorf("follow %s: %w: there is no such stream", f.stream, ErrGap)
	}
	if err != nil {
		return false, readError(err)
	}
	info := st.CachedInfo()
	first, last := record.Sequence(info.State.FirstSeq), record.Sequence(info.State.LastSeq)
	if f.next < first && first > 1 {
		return false, fmt.Errorf("follow %s from %d: %w: it begins at %d", f.stream, f.next, ErrGap, first)
	}
	if f.next > last+1 && f.tooShort(time.Now()) {
		return false, fmt.Errorf("follow %s from %d: %w: it ends at %d", f.stream, f.next, ErrGap, last)
	}
	if f.next > last+1 {
		return false, fmt.Errorf("%w: the log ends at %d", ErrUnavailable, last)
	}
	f.short = time.Time{}
	synced = !info.Config.AllowAtomicPublish || f.s.cfg.Replicas > 1
	if !synced && last > 0 && f.s.Durable(f.stream) == 0 {
		return false, fmt.Errorf("follow %s: %w: call Seal after Declare", f.stream, ErrNotSealed)
	}
	return synced, nil
}

// tooShort tells whether a log that ends before the reader's place has done so for long enough.
// Every call has the word of a leader.
func (f *follower) tooShort(now time.Time) bool {
	if f.short.IsZero() {
		f.short = now
	}
	return !f.s.cfg.clustered() || now.Sub(f.short) >= followGap
}

// consume makes a consumer that pushes from the next sequence on, and returns what ends it.
func (f *follower) consume(ctx context.Context, box *inbox) (stop func(), err error) {
	nc := f.s.feed.nc
	deliver := nc.NewInbox()
	sub, err := nc.Subscribe(deliver, box.put)
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil { // flow control is the limit
		return nil, errors.Join(err, sub.Unsubscribe())
	}
	cfg := jetstream.ConsumerConfig{
		Name: "follow-" + nuid.Next(), DeliverSubject: deliver,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(f.next),
		FilterSubjects: f.filters,
		AckPolicy:      jetstream.AckNonePolicy, MaxDeliver: 1,
		FlowControl: true, IdleHeartbeat: f.beat, InactiveThreshold: followIdle,
		MemoryStorage: true, Replicas: 1,
	}
	if _, err := f.s.fjs.CreatePushConsumer(ctx, f.stream, cfg); err != nil {
		return nil, errors.Join(readError(err), sub.Unsubscribe())
	}
	return func() {
		sub.Unsubscribe()
		// A consumer left behind ends by itself; this only spares the engine the wait.
		nc.Publish("$JS.API.CONSUMER.DELETE."+f.stream+"."+cfg.Name, nil)
	}, nil
}

// handle works off what was pushed: control messages are answered, the rest goes to fn in one
// call, unless the consumer's count shows that something is missing.
func (f *follower) handle(ctx context.Context, pushed []*nats.Msg, consumed uint64, synced bool) (uint64, error) {
	batch := make([]Message, 0, len(pushed))
	var replies []string
	lost := false
	for _, m := range pushed {
		// A control message is known by having no place in the log: a stored one may have any
		// header, a status too.
		if !strings.HasPrefix(m.Reply, "$JS.ACK.") {
			replies = append(replies, flowReply(m))
			continue
		}
		msg, count, err := parsePushed(f.stream, m)
		if err != nil {
			return consumed, fmt.Errorf("follow %s: %w", f.stream, err)
		}
		if count != consumed+1 || msg.Sequence < f.next && !f.s.cfg.clustered() {
			lost = true
			break
		}
		consumed = count
		if msg.Sequence < f.next {
			continue // from a copy that was behind, where the consumer could not begin later
		}
		batch = append(batch, msg)
	}
	if err := f.deliver(ctx, batch, synced); err != nil {
		return consumed, err
	}
	for _, r := range replies {
		if r != "" {
			f.s.feed.nc.Publish(r, nil) // a lost answer shows as silence
		}
	}
	if lost {
		return consumed, fmt.Errorf("%w: message missing after %d", errFollowAgain, f.next-1)
	}
	return consumed, nil
}

// deliver hands over what is synced at once and the rest as it becomes so: a writer waits for
// its message to be read, and must not wait for another writer's.
func (f *follower) deliver(ctx context.Context, batch []Message, synced bool) error {
	for len(batch) > 0 {
		ready := batch
		if !synced {
			if err := f.s.awaitSynced(ctx, f.stream, batch[0].Sequence); err != nil {
				return fmt.Errorf("%w: %w", errFollowAgain, err)
			}
			ready = upTo(batch, f.s.Durable(f.stream))
		}
		if err := f.fn(ready); err != nil {
			return err
		}
		f.next = ready[len(ready)-1].Sequence + 1
		batch = batch[len(ready):]
	}
	return nil
}

// upTo is the part of a batch that ends with the sequence.
func upTo(batch []Message, seq record.Sequence) []Message {
	n := len(batch)
	for n > 0 && batch[n-1].Sequence > seq {
		n--
	}
	return batch[:n]
}

// awaitSynced waits until a message of the log is known to be synced. Nobody notes the
// acknowledgement of a message whose writer has left, so after a while the log is sealed: the
// seal's own acknowledgement proves it.
func (s *Server) awaitSynced(ctx context.Context, stream string, seq record.Sequence) error {
	if s.Durable(stream) >= seq { // as it mostly is
		return nil
	}
	patient, cancel := context.WithTimeout(ctx, followPatience)
	defer cancel()
	if s.WaitDurable(patient, stream, seq) == nil {
		return nil
	}
	if stream != Events {
		return s.WaitDurable(ctx, stream, seq)
	}
	select { // the seal of one reader serves all
	case s.sealing <- struct{}{}:
		defer func() { <-s.sealing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.Durable(stream) >= seq {
		return nil
	}
	s.log.Debug("the log is sealed, since a writer left without its acknowledgement", "stream", stream, "sequence", seq)
	_, err := s.Seal(ctx)
	return err
}

// flowReply is where a control message wants an answer, if anywhere.
func flowReply(m *nats.Msg) string {
	if m.Reply != "" {
		return m.Reply
	}
	return m.Header.Get("Nats-Consumer-Stalled")
}

// parsePushed reads the message's place out of its reply subject,
// $JS.ACK.{stream}.{consumer}.{deliveries}.{sequence}.{count}.{time}.{pending}.
func parsePushed(stream string, m *nats.Msg) (Message, uint64, error) {
	var t [9]string
	rest, more := m.Reply, true
	for i := range t {
		if !more {
			return Message{}, 0, withoutPlace(m)
		}
		t[i], rest, more = strings.Cut(rest, ".")
	}
	if more {
		return Message{}, 0, withoutPlace(m)
	}
	seq, err1 := strconv.ParseUint(t[5], 10, 64)
	count, err2 := strconv.ParseUint(t[6], 10, 64)
	at, err3 := strconv.ParseInt(t[7], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Message{}, 0, fmt.Errorf("message on %s: place in the log cannot be read: %w", m.Subject, err)
	}
	return Message{stream, m.Subject, record.Sequence(seq), time.Unix(0, at), m.Header, m.Data}, count, nil
}

func withoutPlace(m *nats.Msg) error {
	return fmt.Errorf("message on %s without a place in the log", m.Subject)
}
