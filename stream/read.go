package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
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
	m, err := s.direct(ctx, stream, map[string]any{"seq": seq})
	if err != nil {
		return Message{}, fmt.Errorf("read %s %d: %w", stream, seq, err)
	}
	return m, nil
}

// LastFor reads the newest message of a stored subject, from the stream's leader: a follower may
// not have it yet. ErrNotFound if there is none.
func (s *Server) LastFor(ctx context.Context, stream, subject string) (Message, error) {
	read := s.direct
	if s.cfg.Replicas > 1 {
		read = s.leader
	}
	m, err := read(ctx, stream, map[string]any{"last_by_subj": subject})
	if err != nil {
		return Message{}, fmt.Errorf("read last of %s: %w", subject, err)
	}
	return m, nil
}

// State tells the first and the last sequence of a stream. An empty stream's first is one more
// than its last.
func (s *Server) State(ctx context.Context, stream string) (first, last record.Sequence, err error) {
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return 0, 0, fmt.Errorf("read state of %s: %w", stream, readError(err))
	}
	state := st.CachedInfo().State
	if state.Msgs == 0 {
		return record.Sequence(state.LastSeq) + 1, record.Sequence(state.LastSeq), nil
	}
	return record.Sequence(state.FirstSeq), record.Sequence(state.LastSeq), nil
}

// direct asks the stream's store; any replica may answer.
func (s *Server) direct(ctx context.Context, stream string, what map[string]any) (Message, error) {
	m, err := s.ask(ctx, "$JS.API.DIRECT.GET."+stream, what)
	if err != nil {
		return Message{}, err
	}
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
	m, err := s.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, what)
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

// ask is a request to the engine. Reads may be repeated, so a lost answer is ErrUnavailable.
func (s *Server) ask(ctx context.Context, subject string, what any) (*nats.Msg, error) {
	body, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	q, err := s.answers.send(&nats.Msg{Subject: subject, Data: body})
	if err != nil {
		return nil, err
	}
	m, err := q.message(ctx, answerTimeout)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case noResponders(m):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrNoResponders)
	}
	return m, nil
}
