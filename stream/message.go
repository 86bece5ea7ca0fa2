package stream

import (
	"fmt"
	"strconv"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
)

// Msg is a message to write.
type Msg struct {
	Subject string
	Header  nats.Header // copied; holds no header that speaks to the engine
	Data    []byte      // not copied: must stay as it is until the write is answered
	// MsgID, where set, makes the log refuse a second message with it for two minutes: that one
	// is answered with the sequence of the first.
	MsgID string
	// ExpectLast, where set, writes only if it is the last sequence of the message's subject, as
	// stored (an ingest subject stands for its event subject); 0 is a subject without messages.
	ExpectLast *record.Sequence
	// ExpectSubject, where set, is the stored subject that ExpectLast speaks of instead.
	ExpectSubject string
}

// Ack says that a message is in the log and synced.
type Ack struct {
	Sequence record.Sequence
	// Duplicate says that an earlier message had the same MsgID, and the sequence is its own.
	Duplicate bool
}

// Expect is a value for Msg.ExpectLast.
func Expect(seq record.Sequence) *record.Sequence { return &seq }

// Bounds of one message and one transaction.
const (
	maxHeader      = 60 << 10 // the engine stores header lengths in 16 bits; ours need some room
	ownHeaders     = 512      // room for the headers that we add
	maxBatch       = 1000     // messages of an atomic batch (engine limit)
	maxBatchBytes  = 8 << 20  // what a group commit collects
	maxTransaction = 80 << 20 // bytes of one transaction; the engine queues at most 128 MiB
)

// prepare checks a message and gives it its wire form, without a reply subject.
func (s *Server) prepare(m Msg) (*nats.Msg, int, error) {
	if !literal(m.Subject) {
		return nil, 0, fmt.Errorf("publish to %q: %w: subject must be literal", m.Subject, ErrRefused)
	}
	header, size := nats.Header{}, 0
	for name, values := range m.Header {
		if engineHeader(name) {
			return nil, 0, fmt.Errorf("publish to %s: %w: header %s speaks to the engine", m.Subject, ErrRefused, name)
		}
		header[name] = values
		for _, v := range values {
			size += len(name) + len(v) + 4
		}
	}
	if size > maxHeader {
		return nil, 0, fmt.Errorf("publish to %s: %w: headers of %d bytes, at most %d", m.Subject, ErrTooLarge, size, maxHeader)
	}
	size += len(m.Data) + ownHeaders
	if size > s.cfg.MaxPayload {
		return nil, 0, fmt.Errorf("publish to %s: %w: message of %d bytes, at most %d", m.Subject, ErrTooLarge, size, s.cfg.MaxPayload)
	}
	if m.MsgID != "" {
		header[nats.MsgIdHdr] = []string{m.MsgID}
	}
	if m.ExpectLast != nil {
		header[nats.ExpectedLastSubjSeqHdr] = []string{strconv.FormatUint(uint64(*m.ExpectLast), 10)}
		if m.ExpectSubject != "" {
			header[hdrExpectSubject] = []string{m.ExpectSubject}
		}
	}
	if len(header) == 0 {
		header = nil
	}
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}, size, nil
}

// Headers of the engine that nats.go has no names for (nats-server, stream.go).
const (
	hdrExpectSubject  = "Nats-Expected-Last-Subject-Sequence-Subject"
	hdrBatchID        = "Nats-Batch-Id"
	hdrBatchSequence  = "Nats-Batch-Sequence"
	hdrBatchCommit    = "Nats-Batch-Commit"
	hdrSchedule       = "Nats-Schedule"
	hdrScheduleTarget = "Nats-Schedule-Target"
)
