package stream

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
)

// pubAck is the form of the engine's answer to a publish, which client libraries understand.
type pubAck struct {
	Error     *apiError       `json:"error,omitempty"`
	Stream    string          `json:"stream"`
	Sequence  record.Sequence `json:"seq,omitempty"`
	Duplicate bool            `json:"duplicate,omitempty"`
}

// RespondAck answers an ingest request as the engine itself would: any client's JetStream
// publish takes it. A publish that asked for no answer gets none.
func RespondAck(m *nats.Msg, seq record.Sequence, duplicate bool) error {
	return respond(m, pubAck{Stream: Events, Sequence: seq, Duplicate: duplicate})
}

// RespondError refuses an ingest request in the engine's form. code is an HTTP status, errCode
// the number that client libraries show (from 20000: those below are the engine's).
func RespondError(m *nats.Msg, code, errCode int, description string) error {
	return respond(m, pubAck{Stream: Events, Error: &apiError{Code: code, ErrCode: errCode, Description: description}})
}

func respond(m *nats.Msg, a pubAck) error {
	if m.Reply == "" {
		return nil
	}
	// The gate may publish to inboxes alone, or a producer could have its answer sent to
	// subjects that others trust. For a login the engine put a subject of its own there.
	if !strings.HasPrefix(m.Reply, nats.InboxPrefix) && !strings.HasPrefix(m.Reply, prefixReply) {
		return fmt.Errorf("answer on %s: reply subject is no inbox (%s>)", m.Subject, nats.InboxPrefix)
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := m.Respond(data); err != nil {
		return fmt.Errorf("answer on %s: %w", m.Subject, err)
	}
	return nil
}

// CheckHeaders refuses a producer's headers that would speak to the engine: batch, schedule,
// rollup, TTL, expectation, source and trace. Only Nats-Msg-Id is a producer's own. Names are
// compared without regard to case.
func CheckHeaders(h nats.Header) error {
	for name := range h {
		if !engineHeader(name) || strings.EqualFold(name, nats.MsgIdHdr) {
			continue
		}
		return fhir.Refuse(fhir.IssueNotSupported, "",
			fmt.Sprintf("header %s speaks to the engine and is not taken from producers: leave it out", name))
	}
	return nil
}

// engineHeader reports whether the engine might act on a header.
func engineHeader(name string) bool {
	return len(name) >= 5 && strings.EqualFold(name[:5], "nats-") || strings.EqualFold(name, "KV-Operation")
}
