package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/seal"
	"github.com/carillon-fhir/carillon/stream"
)

// Headers of the logs' messages. The Fhir-… and Dead-… ones are for everybody, the others are
// between our own nodes.
const (
	headerInteraction = "Fhir-Interaction"
	headerFeed        = "Carillon-Feed"
	headerOwner       = "Carillon-Owner"
	headerTrace       = "traceparent"

	headerReason       = "Dead-Reason"
	headerAttempts     = "Dead-Attempts"
	headerFirstFailure = "Dead-First-Failure"
	headerLastFailure  = "Dead-Last-Failure"
	headerEndpoint     = "Dead-Endpoint"
	headerContentType  = "Content-Type"
	headerNumber       = "Carillon-Number"
	headerEvent        = "Carillon-Event"
	headerBirth        = "Carillon-Birth"
	headerRound        = "Carillon-Round"
	headerResource     = "Carillon-Resource"
)

// ingestID is the Subscription that dead letters of set-aside records bear; no Subscription
// may have this id.
const ingestID fhir.ID = "ingest"

// eventMessage is the message that carries a change into the log.
func eventMessage(e record.Event) stream.Msg {
	var h nats.Header // most changes have none
	set := func(name, value string) {
		if value == "" {
			return
		}
		if h == nil {
			h = nats.Header{}
		}
		h.Set(name, value)
	}
	set(headerInteraction, string(e.Asked))
	if e.Feed {
		set(headerFeed, "true")
	}
	set(headerOwner, e.Owner)
	set(headerTrace, e.Trace)
	if e.Key.Type == "Subscription" && bytes.Contains(e.Body, []byte(seal.Prefix)) {
		set(headerFormat, strconv.Itoa(sealedFormat))
	}
	return stream.Msg{Subject: stream.IngestSubject(e.Key), Header: h, Data: e.Body}
}

// parseEvent reads a change out of the log. Control and uniqueness records are no events.
func parseEvent(m stream.Message) (e record.Event, ok bool, err error) {
	if !strings.HasPrefix(m.Subject, "fhir.event.") {
		return record.Event{}, false, nil
	}
	key, shard, err := stream.ParseEvent(m.Subject)
	if err != nil {
		return record.Event{}, false, err
	}
	return record.Event{
		Sequence: m.Sequence,
		Time:     m.Time,
		Key:      key,
		Shard:    shard,
		Asked:    fhir.Interaction(m.Header.Get(headerInteraction)),
		Feed:     m.Header.Get(headerFeed) == "true",
		Owner:    m.Header.Get(headerOwner),
		Trace:    m.Header.Get(headerTrace),
		Body:     m.Data,
	}, true, nil
}

// deadMessage is the message of a dead letter: the notification as body, the rest as headers.
func deadMessage(d record.DeadLetter) stream.Msg {
	h := nats.Header{}
	set := func(k, v string) {
		if v != "" {
			h.Set(k, v)
		}
	}
	set(headerReason, string(d.Reason))
	set(headerAttempts, strconv.Itoa(d.Attempts))
	set(headerFirstFailure, formatTime(d.FirstFailure))
	set(headerLastFailure, formatTime(d.LastFailure))
	set(headerEndpoint, d.Endpoint)
	set(headerContentType, d.ContentType)
	set(headerNumber, strconv.FormatUint(uint64(d.Number), 10))
	set(headerEvent, strconv.FormatUint(uint64(d.Event), 10))
	set(headerBirth, strconv.FormatUint(uint64(d.Birth), 10))
	set(headerRound, strconv.Itoa(d.Round))
	if d.Key.Type != "" {
		set(headerResource, d.Key.String())
	}
	subject := stream.DeadSubject(d.Subscription)
	id := fmt.Sprintf("dead.%s.%d.%d.%d", d.Subscription, d.Birth, d.Event, d.Round)
	return stream.Msg{Subject: subject, Header: h, Data: d.Body, MsgID: id}
}

// parseDead reads a dead letter out of the log.
func parseDead(m stream.Message) (record.DeadLetter, error) {
	id, err := stream.ParseDead(m.Subject)
	if err != nil {
		return record.DeadLetter{}, err
	}
	var bad error
	number := func(name string) uint64 {
		n, err := strconv.ParseUint(m.Header.Get(name), 10, 64)
		if err != nil && bad == nil {
			bad = fmt.Errorf("dead letter at %d: header %s: %w", m.Sequence, name, err)
		}
		return n
	}
	instant := func(name string) time.Time {
		v := m.Header.Get(name)
		if v == "" {
			return time.Time{}
		}
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil && bad == nil {
			bad = fmt.Errorf("dead letter at %d: header %s: %w", m.Sequence, name, err)
		}
		return t
	}
	d := record.DeadLetter{
		MatchID:      record.MatchID{Event: record.Sequence(number(headerEvent)), Birth: record.Sequence(number(headerBirth))},
		Subscription: id,
		Number:       fhir.EventNumber(number(headerNumber)),
		Round:        int(number(headerRound)),
		Reason:       record.Code(m.Header.Get(headerReason)),
		Attempts:     int(number(headerAttempts)),
		FirstFailure: instant(headerFirstFailure),
		LastFailure:  instant(headerLastFailure),
		Endpoint:     m.Header.Get(headerEndpoint),
		ContentType:  m.Header.Get(headerContentType),
		Body:         m.Data,
	}
	if r := m.Header.Get(headerResource); r != "" {
		if d.Key, err = fhir.ParseKey(r); err != nil && bad == nil {
			bad = fmt.Errorf("dead letter at %d: %w", m.Sequence, err)
		}
	}
	return d, bad
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// parseMatches reads one message of MATCHES: a partition's block, or a job.
func parseMatches(m stream.Message) (*record.Block, *record.Job, error) {
	if m.Subject == stream.SubjectJobs {
		var j record.Job
		if err := json.Unmarshal(m.Data, &j); err != nil {
			return nil, nil, fmt.Errorf("job at %d: %w", m.Sequence, err)
		}
		return nil, &j, nil
	}
	var b record.Block
	if err := json.Unmarshal(m.Data, &b); err != nil {
		return nil, nil, fmt.Errorf("block at %d: %w", m.Sequence, err)
	}
	return &b, nil, nil
}
