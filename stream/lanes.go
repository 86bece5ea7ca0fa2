package stream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go/jetstream"
)

// Lane is one durable consumer of tokens. Many Subscriptions share it; a Subscription has one.
type Lane struct {
	Name       string
	Class      string // lanes of a class carry alike Subscriptions
	MaxDeliver int    // deliveries of one token before the engine gives it up; -1 for no end
}

// AckWait is how long the engine waits for a word about a token before it delivers it again: an
// attempt's 15 s and room for the outcome. A longer attempt says InProgress.
const AckWait = 25 * time.Second

// lanesPerClass spreads the Subscriptions of a class: each of five nodes has at least one lane.
const lanesPerClass = 6

// laneClasses are the attempts that policies are rounded up to. The engine counts deliveries per
// consumer, not per message, so a Subscription's limit chooses its lane.
var laneClasses = []struct {
	name       string
	maxDeliver int
}{{"3", 3}, {"8", 8}, {"18", 18}, {"any", -1}}

// Lanes are all lanes, in a fixed order.
func Lanes() []Lane {
	lanes := make([]Lane, 0, len(laneClasses)*lanesPerClass)
	for _, c := range laneClasses {
		for i := range lanesPerClass {
			lanes = append(lanes, Lane{c.name + "-" + strconv.Itoa(i), c.name, c.maxDeliver})
		}
	}
	return lanes
}

// LaneFor is the lane of a Subscription whose policy allows so many attempts; 0 or less is
// without limit. The lane's MaxDeliver is never less than the attempts.
func LaneFor(attempts int, subscription fhir.ID) string {
	class := laneClasses[len(laneClasses)-1].name
	for _, c := range laneClasses {
		if attempts > 0 && attempts <= c.maxDeliver {
			class = c.name
			break
		}
	}
	h := fnv.New32a()
	h.Write([]byte(subscription))
	return class + "-" + strconv.Itoa(int(h.Sum32()%lanesPerClass))
}

// DeclareLanes makes the lanes' consumers, each with so many places: tokens that may be out or
// delayed at once. On a single node the consumers live in memory with their stream, so this belongs
// to every start. Calling it again changes the places; in a cluster all nodes call it with the same.
func (s *Server) DeclareLanes(ctx context.Context, places int) error {
	if places < 1 {
		return fmt.Errorf("declare lanes: %d places, at least 1", places)
	}
	for _, l := range Lanes() {
		err := s.patient(ctx, "waiting to declare lane "+l.Name, func(ctx context.Context) error {
			_, err := s.js.CreateOrUpdateConsumer(ctx, LanesName, jetstream.ConsumerConfig{
				Durable: l.Name, FilterSubject: "fhir.lane." + l.Name + ".*",
				DeliverPolicy: jetstream.DeliverAllPolicy,
				AckPolicy:     jetstream.AckExplicitPolicy, AckWait: AckWait,
				// No BackOff: it would replace AckWait, and Nak ignores it.
				MaxDeliver: l.MaxDeliver, MaxAckPending: places,
				MemoryStorage: s.cfg.Replicas == 1, Replicas: s.cfg.Replicas,
			})
			return readError(err)
		})
		if err != nil {
			return fmt.Errorf("declare lane %s: %w", l.Name, err)
		}
	}
	s.lanesMu.Lock()
	s.places = places
	s.lanesMu.Unlock()
	return nil
}

func (s *Server) lanePlaces() int {
	s.lanesMu.Lock()
	defer s.lanesMu.Unlock()
	return s.places
}

// PublishToken puts a token into a lane.
func (s *Server) PublishToken(ctx context.Context, lane string, subscription fhir.ID, data []byte) error {
	if !validName(lane) || !subscription.Valid() {
		return fmt.Errorf("publish token to lane %q of subscription %q: %w", lane, subscription, ErrRefused)
	}
	_, err := s.Publish(ctx, LanesName, Msg{Subject: LaneSubject(lane, subscription), Data: data})
	return err
}

// Token is one delivery of a token. Exactly one of Ack, NakWithDelay and Term answers it;
// without an answer it comes again after AckWait.
type Token struct {
	Lane         string
	Subscription fhir.ID
	Data         []byte
	Sequence     record.Sequence // its place in LANES, which means nothing after a restart
	NumDelivered int             // 1 for the first delivery
	msg          jetstream.Msg
}

// Ack ends the token. The answer is not waited for: one lost means another delivery.
func (t Token) Ack() error { return t.answer("ack", t.msg.Ack()) }

// NakWithDelay gives the token back until the delay has passed. It keeps its place.
func (t Token) NakWithDelay(d time.Duration) error { return t.answer("delay", t.msg.NakWithDelay(d)) }

// Term ends the token before its deliveries are spent. The reason is shown to operators.
func (t Token) Term(reason string) error { return t.answer("end", t.msg.TermWithReason(reason)) }

// InProgress asks for another AckWait.
func (t Token) InProgress() error { return t.answer("hold", t.msg.InProgress()) }

func (t Token) answer(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s token %d of lane %s: %w", what, t.Sequence, t.Lane, err)
	}
	return nil
}

// Tokens calls fn with each token that the lane delivers, from one goroutine, until ctx ends
// (nil). fn must not block for long: while it does no pull is open, and without an open pull the
// engine neither redelivers nor gives up. ErrReset means that the lane's consumer was made anew
// and nothing is held in it any more: the lane's owner looks up what it must hold.
func (s *Server) Tokens(ctx context.Context, lane string, fn func(Token)) error {
	made, forgotten := time.Time{}, s.leaders.forgotten()
	for {
		err := s.pullLane(ctx, lane, &made, forgotten, fn)
		switch {
		case errors.Is(err, ErrReset):
			return fmt.Errorf("pull lane %s: %w", lane, err)
		case ctx.Err() != nil:
			return nil
		}
		s.log.Debug("lane is pulled anew", "lane", lane, "err", err)
		if !wait(ctx, 50*time.Millisecond) {
			return nil
		}
	}
}

// pullLane pulls over one connection. made is when the consumer was made that the owner knows;
// forgotten is closed when a cluster has lost what it held.
func (s *Server) pullLane(ctx context.Context, lane string, made *time.Time, forgotten <-chan struct{}, fn func(Token)) (err error) {
	ctx, cancel := s.feed.bound(ctx)
	defer cancel()
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-forgotten:
			cancel()
		case <-ended:
		}
	}()
	defer func() {
		close(ended)
		<-watched
		select {
		case <-forgotten:
			err = ErrReset
		default:
		}
	}()
	cons, err := s.fjs.Consumer(ctx, LanesName, lane)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrReset
	}
	if err != nil {
		return readError(err)
	}
	created := cons.CachedInfo().Created
	if !made.IsZero() && !created.Equal(*made) {
		return ErrReset
	}
	*made = created
	return s.pull(ctx, cons, func(m jetstream.Msg) {
		t, err := newToken(lane, m)
		if err != nil {
			s.log.Error("lane holds what is no token", "lane", lane, "err", err)
			m.Term()
			return
		}
		fn(t)
	})
}

func newToken(lane string, m jetstream.Msg) (Token, error) {
	meta, err := m.Metadata()
	if err != nil {
		return Token{}, err
	}
	_, sub, err := ParseLane(m.Subject())
	if err != nil {
		return Token{}, err
	}
	return Token{lane, sub, m.Data(), record.Sequence(meta.Sequence.Stream), int(meta.NumDelivered), m}, nil
}

// pullAhead is how many messages a pull asks for. Those not looked at yet are already out, so
// few enough that fn gets through them within AckWait.
const pullAhead = 128

// pull keeps a pull open and calls fn with each message, until ctx ends or the consumer does not
// answer.
func (s *Server) pull(ctx context.Context, cons jetstream.Consumer, fn func(jetstream.Msg)) error {
	beat := 5 * time.Second
	if s.cfg.clustered() {
		beat = time.Second // two missing show that the consumer's node is gone
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(pullAhead), jetstream.PullExpiry(30*time.Second), jetstream.PullHeartbeat(beat))
	if err != nil {
		return err
	}
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
		case <-ended:
		}
		it.Stop()
	}()
	defer func() { close(ended); <-watched }()
	for {
		m, err := it.Next()
		if err != nil {
			return err
		}
		fn(m)
	}
}

// wait sleeps, and reports whether ctx still goes on.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
