package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Ingest stands in the place of a Subscription's id in letters about records of EVENTS that
// were set aside. No Subscription has this id.
const Ingest fhir.ID = "ingest"

// ApplyDead folds one record of DEAD, nil for one that could not be read. The body is not
// kept; it stays in DEAD at seq. Of several letters of one match that of the latest round is
// kept, of several of one round the first (a sender that died may say it twice).
//
// Letters wait for nothing: what they say of a match is joined with it when they are read.
// Errors are those of ApplyEvents.
func (s *Store) ApplyDead(ctx context.Context, seq record.Sequence, d *record.DeadLetter) error {
	s.feeds[Dead].Lock()
	defer s.feeds[Dead].Unlock()
	if seq <= s.Position().Dead {
		return nil
	}
	return s.fold(ctx, Dead, seq, 1, func(f *folding) {
		f.last, f.sum = seq, SumDead(d)
		if d == nil || !keyable(string(d.Subscription)) || d.Round < 0 {
			f.SetAside++
			return
		}
		f.letter(seq, d)
	})
}

// AdvanceDead moves the position in DEAD to through, for a log whose messages up to there are
// gone: letters may be purged from it. It never moves back, and changes nothing else. Letters
// that were folded before stay listed, without a body to be found in the log.
//
// Errors are those of ApplyEvents.
func (s *Store) AdvanceDead(ctx context.Context, through record.Sequence) error {
	s.feeds[Dead].Lock()
	defer s.feeds[Dead].Unlock()
	if through <= s.Position().Dead {
		return nil
	}
	// last and sum stay: they are of the newest letter that was read.
	return s.fold(ctx, Dead, through, 1, func(*folding) {})
}

// letter keeps a dead letter in the place of an older one of the same match.
func (f *folding) letter(seq record.Sequence, d *record.DeadLetter) {
	n := d.Number
	if d.Subscription == Ingest {
		n = fhir.EventNumber(d.Event)
	}
	id := deadIDKey(d.Subscription, n) + num(d.Birth)
	if old := f.sequence(bDeadID, id); old != 0 {
		if e, ok := f.deadEntry(old); ok && e.Round >= d.Round {
			f.Repeated++
			return
		}
		f.delete(bDead, num(old))
		f.delete(bDeadBy, string(d.Subscription)+"\x00"+num(old))
	}
	f.put(bDeadID, id, encodeSequence(seq))
	f.put(bDeadBy, string(d.Subscription)+"\x00"+num(seq), nil)
	f.put(bDead, num(seq), encodeLetter(d, n))
}

func deadIDKey(sub fhir.ID, n fhir.EventNumber) string { return string(sub) + "\x00" + num(n) }

func encodeLetter(d *record.DeadLetter, n fhir.EventNumber) []byte {
	var e encoder
	e.uint(uint64(d.Event))
	e.uint(uint64(d.Birth))
	e.string(string(d.Subscription))
	e.uint(uint64(n))
	e.int(int64(d.Round))
	e.string(d.Key.Type)
	e.string(string(d.Key.ID))
	e.string(string(d.Reason))
	e.int(int64(d.Attempts))
	e.time(d.FirstFailure)
	e.time(d.LastFailure)
	e.string(d.Endpoint)
	e.string(d.ContentType)
	return e
}

func decodeLetter(seq record.Sequence, v []byte) (DeadEntry, error) {
	d := decoder{b: v}
	e := DeadEntry{
		Sequence:     seq,
		MatchID:      record.MatchID{Event: record.Sequence(d.uint()), Birth: record.Sequence(d.uint())},
		Subscription: fhir.ID(d.string()),
		Number:       fhir.EventNumber(d.uint()),
		Round:        int(d.int()),
		Key:          fhir.Key{Type: d.string(), ID: fhir.ID(d.string())},
		Reason:       record.Code(d.string()),
		Attempts:     int(d.int()),
		FirstFailure: d.time(),
		LastFailure:  d.time(),
		Endpoint:     d.string(),
		ContentType:  d.string(),
	}
	e.ID = string(e.Subscription) + "." + strconv.FormatUint(uint64(e.Number), 10)
	return e, d.end()
}

// deadEntry reads a letter, without its state.
func (r *reader) deadEntry(seq record.Sequence) (DeadEntry, bool) {
	v, ok := r.get(bDead, num(seq))
	if !ok {
		return DeadEntry{}, false
	}
	e, err := decodeLetter(seq, v)
	if err != nil {
		r.malformed(bDead, err)
		return DeadEntry{}, false
	}
	return e, true
}

// deadState says where a letter stands, by what MATCHES and OUTCOMES say of its match.
func (r *reader) deadState(e *DeadEntry) DeadState {
	purged := r.sequence(bPurge, pair(e.MatchID.Birth, e.MatchID.Event))
	n, known := r.numberOf(e.MatchID)
	if !known {
		if purged != 0 {
			return DeadPurged
		}
		return DeadLetter
	}
	st := r.state(e.MatchID.Birth, n)
	switch {
	// A purge that the letter's sender had read was of an earlier letter.
	case purged != 0 && (e.Round >= st.rounds() || st.ends[e.Round] < purged):
		return DeadPurged
	case st.rounds() > e.Round && r.has(bPending, pair(e.MatchID.Birth, n)):
		return DeadReplayed
	// By a replay, or in the letter's own round: a sender that lost its lane after it had
	// written the letter could not store the end, and the next owner tried again.
	case st.rounds() > e.Round && st.ended == record.Accepted:
		return DeadAccepted
	}
	return DeadLetter
}

// Dead lists dead letters, newest first. Since and Until are by the sender's clock; a list
// from Since on reads an hour further back, for clocks that differ.
func (s *Store) Dead(ctx context.Context, f DeadFilter) ([]DeadEntry, error) {
	var out []DeadEntry
	for before, more := f.Before, true; more; {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		chunk, err := s.deadChunk(f.Subscription, before)
		if err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		more = len(chunk) == scanChunk
		for i := range chunk {
			e := &chunk[i]
			before = e.Sequence
			if !f.Since.IsZero() && e.LastFailure.Before(f.Since.Add(-clockSlack)) {
				return out, nil
			}
			if f.keeps(e) {
				out = append(out, *e)
			}
			if len(out) == limitOr(f.Limit, 100) {
				return out, nil
			}
		}
	}
	return out, nil
}

func (f *DeadFilter) keeps(e *DeadEntry) bool {
	return (f.Reason == "" || e.Reason == f.Reason) &&
		(f.State == "" || e.State == f.State) &&
		(f.Purged || f.State == DeadPurged || e.State != DeadPurged) &&
		(f.Since.IsZero() || !e.LastFailure.Before(f.Since)) &&
		(f.Until.IsZero() || e.LastFailure.Before(f.Until))
}

// deadChunk reads the letters before a place in DEAD, newest first: all, or a Subscription's.
func (s *Store) deadChunk(sub fhir.ID, before record.Sequence) (chunk []DeadEntry, err error) {
	b, prefix := bDead, ""
	if sub != "" {
		b, prefix = bDeadBy, string(sub)+"\x00"
	}
	end := prefixEnd(prefix)
	if before != 0 {
		end = prefix + num(before)
	}
	err = s.view(func(r *reader) error {
		var at []record.Sequence
		r.scanBack(b, prefix, end, func(key string, _ []byte) bool {
			_, seq, ok := cutNum(key)
			if !ok {
				r.malformed(b, errMalformed)
				return false
			}
			at = append(at, record.Sequence(seq))
			return len(at) < scanChunk
		})
		for _, seq := range at {
			e, ok := r.dead(seq)
			if !ok {
				return nil
			}
			chunk = append(chunk, e)
		}
		return nil
	})
	return chunk, err
}

// dead reads a letter that an index names.
func (r *reader) dead(seq record.Sequence) (DeadEntry, bool) {
	e, ok := r.deadEntry(seq)
	if !ok {
		r.malformed(bDead, fmt.Errorf("letter %d is missing", seq))
		return DeadEntry{}, false
	}
	e.State = r.deadState(&e)
	return e, r.err == nil
}

// DeadByID finds a letter by its entry id, {subscription}.{number} or ingest.{sequence}; of
// several births of one Subscription id, that of the newest birth. A purged one is found too.
func (s *Store) DeadByID(id string) (e DeadEntry, ok bool, err error) {
	dot := strings.LastIndexByte(id, '.')
	if dot < 0 {
		return DeadEntry{}, false, nil
	}
	n, perr := strconv.ParseUint(id[dot+1:], 10, 64)
	if perr != nil {
		return DeadEntry{}, false, nil
	}
	prefix := deadIDKey(fhir.ID(id[:dot]), fhir.EventNumber(n))
	err = s.view(func(r *reader) error {
		r.scanBack(bDeadID, prefix, prefixEnd(prefix), func(key string, _ []byte) bool {
			e, ok = r.dead(r.sequence(bDeadID, key))
			return false
		})
		return nil
	})
	if err != nil {
		return DeadEntry{}, false, fmt.Errorf("dead letter %s: %w", id, err)
	}
	return e, ok, nil
}

// DeadByMatch finds the letter of a match, also a purged one; a birth of 0 names a record of
// EVENTS that was set aside. MATCHES must have been folded up to the match.
func (s *Store) DeadByMatch(id record.MatchID) (e DeadEntry, ok bool, err error) {
	err = s.view(func(r *reader) error {
		sub, n := Ingest, fhir.EventNumber(id.Event) // what a letter without a match goes by
		if id.Birth != 0 {
			number, _ := r.numberOf(id)
			row, found := r.matchRow(id.Birth, number)
			if !found {
				return nil
			}
			sub, n = row.Subscription, number
		}
		if seq := r.sequence(bDeadID, deadIDKey(sub, n)+num(id.Birth)); seq != 0 {
			e, ok = r.dead(seq)
		}
		return nil
	})
	if err != nil {
		return DeadEntry{}, false, fmt.Errorf("dead letter of event %d and birth %d: %w", id.Event, id.Birth, err)
	}
	return e, ok, nil
}
