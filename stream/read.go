package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Message is a message of a log. Header and Data are shared and never changed.
type Message struct {
	Stream   string
	Subject  string
	Sequence record.Sequence
	Time     time.Time // the log's time of the message, the same for every reader
	Header   nats.Header
	Data     []byte
}

// Get reads one message by sequence; ErrNotFound if there is none.
func (s *Server) Get(ctx context.Context, stream string, seq record.Sequence) (Message, error) {
	what := map[string]any{"seq": seq}
	m, err := steady(ctx, s, func(ctx context.Context) (Message, error) {
		m, err := s.direct(ctx, stream, what)
		if errors.Is(err, ErrNotFound) && s.cfg.Replicas > 1 {
			return s.leader(ctx, stream, what) // the copy that was asked may be behind
		}
		return m, err
	})
	if err != nil {
		return Message{}, fmt.Errorf("read %s %d: %w", stream, seq, err)
	}
	return m, nil
}

// runBytes is about how much GetRun reads at once.
const runBytes = 1 << 20

// GetRun reads the messages from a sequence on, up to n of them and 1 MiB, in order. It costs
// little more than one Get, and gives fewer than there are where that is enough already: what is
// missing may exist. ErrNotFound if there is none at the sequence or after it.
func (s *Server) GetRun(ctx context.Context, stream string, from record.Sequence, n int) ([]Message, error) {
	bounded, cancel := s.feed.bound(ctx)
	defer cancel()
	bounded, cancel = context.WithTimeout(bounded, answerTimeout)
	defer cancel()
	all := make([]Message, 0, n)
	// Room for every answer and the end: what finds none is dropped.
	answers := make(chan *nats.Msg, n+1)
	err := s.directRun(bounded, stream, map[string]any{"seq": from, "batch": n, "max_bytes": runBytes}, answers, func(m Message) {
		all = append(all, m)
	})
	switch {
	case len(all) > 0:
		return all, nil // an end that came too early leaves it with fewer
	case (err == nil || errors.Is(err, ErrNotFound)) && s.cfg.Replicas > 1:
		var m Message // the copy that was asked may be behind
		m, err = steady(ctx, s, func(ctx context.Context) (Message, error) {
			return s.leader(ctx, stream, map[string]any{"seq": from, "next_by_subj": ">"})
		})
		if err == nil {
			return []Message{m}, nil
		}
	case err == nil:
		err = ErrNotFound
	case ctx.Err() != nil:
		err = ctx.Err()
	case bounded.Err() != nil:
		err = fmt.Errorf("%w: %w", ErrUnavailable, errNoAnswer)
	}
	return nil, fmt.Errorf("read %s from %d on: %w", stream, from, err)
}

// directRun asks the stream's store for several messages. It has a subscription of its own,
// since answers are for requests that have one.
func (s *Server) directRun(ctx context.Context, stream string, what map[string]any, answers chan *nats.Msg, take func(Message)) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	inbox := s.feed.nc.NewInbox()
	sub, err := s.feed.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer sub.Unsubscribe()
	if err := s.feed.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for {
		var raw *nats.Msg
		select {
		case raw = <-answers:
		case <-ctx.Done():
			return ctx.Err()
		}
		if raw.Header.Get("Nats-Sequence") == "" && raw.Header.Get("Status") == "204" {
			return nil // the end of the batch
		}
		m, err := directMessage(stream, raw)
		if err != nil {
			return err
		}
		take(m)
	}
}

// LastFor reads the newest message of a stored subject, from the stream's leader: a follower may
// not have it yet. ErrNotFound if there is none.
func (s *Server) LastFor(ctx context.Context, stream, subject string) (Message, error) {
	read := s.direct
	if s.cfg.Replicas > 1 {
		read = s.leader
	}
	m, err := steady(ctx, s, func(ctx context.Context) (Message, error) {
		return read(ctx, stream, map[string]any{"last_by_subj": subject})
	})
	if err != nil {
		return Message{}, fmt.Errorf("read last of %s: %w", subject, err)
	}
	return m, nil
}

// State tells the first and the last sequence of a stream. An empty stream's first is one more
// than its last.
func (s *Server) State(ctx context.Context, stream string) (first, last record.Sequence, err error) {
	info, err := steady(ctx, s, func(ctx context.Context) (streamInfo, error) { return s.info(ctx, stream) })
	if err != nil {
		return 0, 0, fmt.Errorf("read state of %s: %w", stream, err)
	}
	if info.State.Msgs == 0 {
		return record.Sequence(info.State.Last) + 1, record.Sequence(info.State.Last), nil
	}
	return record.Sequence(info.State.First), record.Sequence(info.State.Last), nil
}

// streamInfo is what the leader of a stream tells of it.
type streamInfo struct {
	State struct {
		Msgs  uint64 `json:"messages"`
		Bytes uint64 `json:"bytes"`
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
	Config struct {
		Subjects      []string `json:"subjects"`
		AtomicPublish bool     `json:"allow_atomic"`
	} `json:"config"`
	Cluster server.ClusterInfo `json:"cluster"`
	Created time.Time          `json:"created"`
}

// info asks the leader of a stream. ErrUnavailable stands for a stream that is not there, too.
func (s *Server) info(ctx context.Context, stream string) (streamInfo, error) {
	m, err := s.ask(ctx, stream, "$JS.API.STREAM.INFO."+stream, nil)
	if err != nil {
		return streamInfo{}, err
	}
	var answer struct {
		Error *apiError `json:"error"`
		streamInfo
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return streamInfo{}, fmt.Errorf("read answer: %w", err)
	}
	if answer.Error != nil {
		return streamInfo{}, answer.Error.err()
	}
	return answer.streamInfo, nil
}

// direct asks the stream's store; any replica may answer.
func (s *Server) direct(ctx context.Context, stream string, what map[string]any) (Message, error) {
	m, err := s.ask(ctx, stream, "$JS.API.DIRECT.GET."+stream, what)
	if err != nil {
		return Message{}, err
	}
	return directMessage(stream, m)
}

// directMessage reads an answer that holds a message, and takes away what the engine added to
// its headers.
func directMessage(stream string, m *nats.Msg) (Message, error) {
	if m.Header.Get("Nats-Sequence") == "" { // no message, whose own headers may hold a status
		if m.Header.Get("Status") == "404" {
			return Message{}, ErrNotFound
		}
		return Message{}, fmt.Errorf("%w: %s %s", ErrUnavailable, m.Header.Get("Status"), m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return Message{}, fmt.Errorf("answer without a sequence: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return Message{}, fmt.Errorf("answer without a time: %w", err)
	}
	subject := m.Header.Get("Nats-Subject")
	for _, name := range []string{"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"} {
		delete(m.Header, name)
	}
	return Message{stream, subject, record.Sequence(seq), at, m.Header, m.Data}, nil
}

// leader asks the stream's leader, whose answer costs a base64 turn.
func (s *Server) leader(ctx context.Context, stream string, what map[string]any) (Message, error) {
	m, err := s.ask(ctx, stream, "$JS.API.STREAM.MSG.GET."+stream, what)
	if err != nil {
		return Message{}, err
	}
	var answer struct {
		Error   *apiError `json:"error"`
		Message struct {
			Subject string          `json:"subject"`
			Seq     record.Sequence `json:"seq"`
			Time    time.Time       `json:"time"`
			Header  []byte          `json:"hdrs"`
			Data    []byte          `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return Message{}, fmt.Errorf("read answer: %w", err)
	}
	if answer.Error != nil {
		if answer.Error.Code == 404 {
			return Message{}, ErrNotFound
		}
		return Message{}, answer.Error.err()
	}
	out := Message{stream, answer.Message.Subject, answer.Message.Seq, answer.Message.Time, nil, answer.Message.Data}
	if len(answer.Message.Header) > 0 {
		if out.Header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			return Message{}, fmt.Errorf("read headers: %w", err)
		}
	}
	return out, nil
}

// Reads of a cluster whose leader is lost: one that gets no answer is asked again.
const (
	readTimeout = 2 * time.Second
	readPause   = 100 * time.Millisecond
)

// steady reads again while a cluster has no leader to ask, as long as an answer may take.
func steady[T any](ctx context.Context, s *Server, read func(context.Context) (T, error)) (T, error) {
	if s.leaders == nil {
		return read(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var last error
	for {
		v, err := read(bounded)
		switch {
		case err != nil && ctx.Err() != nil:
			return v, ctx.Err()
		case err != nil && bounded.Err() != nil:
			return v, cmp.Or(last, fmt.Errorf("%w: %w", ErrUnavailable, errNoAnswer))
		case err == nil || !passing(err):
			return v, err
		}
		last = err
		wait(bounded, readPause)
	}
}

// ask is a request to the engine about a stream. Reads may be repeated, so a lost answer is
// ErrUnavailable.
func (s *Server) ask(ctx context.Context, stream, subject string, what any) (*nats.Msg, error) {
	var body []byte
	if what != nil {
		var err error
		if body, err = json.Marshal(what); err != nil {
			return nil, err
		}
	}
	timeout := answerTimeout
	if s.leaders != nil {
		timeout = readTimeout
	}
	over := s.leaders.over(stream)
	q, err := s.answers.send(&nats.Msg{Subject: subject, Data: body})
	if err != nil {
		return nil, err
	}
	q.over = over
	m, err := q.message(ctx, timeout)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case noResponders(m):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrNoResponders)
	}
	return m, nil
}
