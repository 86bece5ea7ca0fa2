package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Schedule sets a timer: at the given time, by the engine's clock, Due gets the key and the
// data. It replaces a timer of the same key. A time that has passed fires at once. The key is
// made of tokens of letters, digits, '-' and '_' joined by dots; use IDToken for ids.
//
// A timer fires at least once, so what it starts must bear being started twice.
func (s *Server) Schedule(ctx context.Context, key string, at time.Time, data []byte) error {
	if !validTimerKey(key) {
		return fmt.Errorf("schedule timer %q: %w: key must be tokens joined by dots", key, ErrRefused)
	}
	wire, _, err := s.prepare(Msg{Subject: TimerSubject(key), Data: data})
	if err != nil {
		return err
	}
	// Written by hand because nats.go cuts the fraction of a second off, and fires early by it.
	wire.Header = nats.Header{
		hdrSchedule:       {"@at " + at.UTC().Format(time.RFC3339Nano)},
		hdrScheduleTarget: {DueSubject(key)},
	}
	_, err = s.write(ctx, Timers, wire)
	return err
}

// Cancel removes a timer that has not fired. A timer that fires at this moment may still be
// delivered.
func (s *Server) Cancel(ctx context.Context, key string) error {
	if !validTimerKey(key) {
		return fmt.Errorf("cancel timer %q: %w: key must be tokens joined by dots", key, ErrRefused)
	}
	_, err := steady(ctx, s, func(ctx context.Context) (struct{}, error) {
		if s.leaders != nil {
			bounded, cancel := context.WithTimeout(ctx, readTimeout)
			defer cancel()
			ctx = bounded
		}
		st, err := s.js.Stream(ctx, Timers)
		if err == nil {
			err = st.Purge(ctx, jetstream.WithPurgeSubject(TimerSubject(key)))
		}
		return struct{}{}, readError(err)
	})
	if err != nil {
		return fmt.Errorf("cancel timer %s: %w", key, err)
	}
	return nil
}

// Timer is one that fired.
type Timer struct {
	Key      string
	Data     []byte
	Fired    time.Time // by the engine's clock
	Sequence record.Sequence
}

// Due calls fn with each timer that fires, until ctx ends (nil). When fn fails the timer comes
// again after a second. Of several nodes that call it, one gets each firing.
func (s *Server) Due(ctx context.Context, fn func(Timer) error) error {
	return s.work(ctx, Timers, "due", FilterDue, func(m Message) error {
		key, ok := ParseDue(m.Subject)
		if !ok {
			s.log.Error("fired timer has no key", "subject", m.Subject)
			return nil
		}
		return fn(Timer{key, m.Data, m.Time, m.Sequence})
	})
}

// Exhausted calls fn with the name of a lane each time that the engine gave up one of its
// tokens, which happens when its owner died with it in hand. It may be told late, twice, or
// not at all when the engine dies too: it only shortens the wait for the lane's sweep.
func (s *Server) Exhausted(ctx context.Context, fn func(lane string) error) error {
	prefix := strings.TrimSuffix(filterAdvisories, ">") + LanesName + "."
	return s.work(ctx, Advisories, "exhausted", filterAdvisories, func(m Message) error {
		lane, ok := strings.CutPrefix(m.Subject, prefix)
		if !ok {
			return nil // of another consumer, whose messages stay in their stream
		}
		return fn(lane)
	})
}

// work hands messages to fn one by one and removes each from the stream once fn has done with it.
func (s *Server) work(ctx context.Context, stream, durable, filter string, fn func(Message) error) error {
	for {
		err := s.workOnce(ctx, stream, durable, filter, fn)
		if ctx.Err() != nil {
			return nil
		}
		s.log.Debug("consumer is pulled anew", "stream", stream, "err", err)
		if !wait(ctx, 50*time.Millisecond) {
			return nil
		}
	}
}

func (s *Server) workOnce(ctx context.Context, stream, durable, filter string, fn func(Message) error) error {
	ctx, cancel := s.feed.bound(ctx)
	defer cancel()
	st, err := s.fjs.Stream(ctx, stream)
	if err != nil {
		return readError(err)
	}
	cons, err := st.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: filter,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1,
		Replicas: s.cfg.Replicas,
	})
	if err != nil {
		return readError(err)
	}
	return s.pull(ctx, cons, func(m jetstream.Msg) {
		if err := s.workOff(ctx, st, stream, m, fn); err != nil && ctx.Err() == nil {
			s.log.Warn("message was not worked off, it comes again", "stream", stream, "err", err)
		}
	})
}

func (s *Server) workOff(ctx context.Context, st jetstream.Stream, stream string, m jetstream.Msg, fn func(Message) error) error {
	meta, err := m.Metadata()
	if err != nil {
		return errors.Join(err, m.Term())
	}
	msg := Message{stream, m.Subject(), record.Sequence(meta.Sequence.Stream), meta.Timestamp, m.Headers(), m.Data()}
	if err := fn(msg); err != nil {
		return errors.Join(err, m.NakWithDelay(time.Second))
	}
	// Removed before the ack: the other order leaves it in the stream for good when we die
	// between the two.
	if err := st.DeleteMsg(ctx, meta.Sequence.Stream); err != nil && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return errors.Join(fmt.Errorf("remove %s %d: %w", stream, msg.Sequence, readError(err)), m.NakWithDelay(time.Second))
	}
	return m.Ack()
}
