package store

import (
	"context"
	"fmt"
	"slices"
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
// listed, of several of one round the first (a sender that died may say it twice).
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

// letter keeps a dead letter. Of those of one match one is current: it is listed, and stands for
// the match.
func (f *folding) letter(seq record.Sequence, d *record.DeadLetter) {
	if seq <= f.expired() {
		return
	}
	n := d.Number
	if d.Subscription == Ingest {
		n = fhir.EventNumber(d.Event)
	}
	id := deadIDKey(d.Subscription, n) + num(d.Birth)
	f.put(bDead, num(seq), encodeLetter(d, n))
	before := f.letters(id)
	f.elect(d.Subscription, id, before, append(slices.Clone(before), seq))
}

// letters are the places of a match's letters in DEAD, the current one first.
func (r *reader) letters(id string) (at []record.Sequence) {
	v, ok := r.get(bDeadID, id)
	if !ok {
		return nil
	}
	for d := (decoder{b: v}); len(d.b) > 0; {
		at = append(at, record.Sequence(d.uint()))
		if d.err != nil {
			r.malformed(bDeadID, d.err)
			return nil
		}
	}
	return at
}

// elect puts the letters that a match has now in the place of those that it had. Current is the
// letter of the latest round, and of several of one round the first.
func (f *folding) elect(sub fhir.ID, id string, before, now []record.Sequence) {
	by := func(seq record.Sequence) string { return string(sub) + "\x00" + num(seq) }
	slices.Sort(now)
	rounds := map[record.Sequence]int{}
	for _, seq := range now {
		if e, ok := f.deadEntry(seq); ok {
			rounds[seq] = e.Round
		}
	}
	slices.SortStableFunc(now, func(a, b record.Sequence) int { return rounds[b] - rounds[a] })
	if len(before) > 0 && (len(now) == 0 || now[0] != before[0]) {
		f.delete(bDeadBy, by(before[0]))
	}
	if len(now) == 0 {
		f.delete(bDeadID, id)
		return
	}
	if len(before) == 0 || now[0] != before[0] {
		f.put(bDeadBy, by(now[0]), nil)
	}
	var v encoder
	for _, seq := range now {
		v.uint(uint64(seq))
	}
	f.put(bDeadID, id, v)
}

// expiredKey is the row of the purge bucket that says up to where letters are gone.
const expiredKey = "expired"

// expired is the place in DEAD up to which letters are gone for their age. Those that are read
// later, by a node that is behind, are passed over: so it does not matter which came first.
func (r *reader) expired() record.Sequence { return r.sequence(bPurge, expiredKey) }

// expire drops the letters up to a place in DEAD.
func (f *folding) expire(through record.Sequence) {
	if through <= f.expired() {
		return
	}
	f.put(bPurge, expiredKey, encodeSequence(through))
	var gone []DeadEntry
	f.scan(bDead, "", num(through)+"\x00", func(key string, v []byte) bool {
		_, seq, _ := cutNum(key)
		e, err := decodeLetter(record.Sequence(seq), v)
		if err != nil {
			f.malformed(bDead, err)
			return false
		}
		gone = append(gone, e)
		return true
	})
	for _, e := range gone {
		id := deadIDKey(e.Subscription, e.Number) + num(e.MatchID.Birth)
		before := f.letters(id)
		now := slices.DeleteFunc(slices.Clone(before), func(seq record.Sequence) bool { return seq == e.Sequence })
		f.elect(e.Subscription, id, before, now)
		f.delete(bDead, num(e.Sequence))
	}
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
		chunk, last, err := s.deadChunk(f.Subscription, before)
		if err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		before, more = last, last != 0
		for i := range chunk {
			e := &chunk[i]
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
		(f.Kind == "" || e.Kind() == f.Kind) &&
		(f.State == "" || e.State == f.State) &&
		(f.Purged || f.State == DeadPurged || e.State != DeadPurged) &&
		(f.Since.IsZero() || !e.LastFailure.Before(f.Since)) &&
		(f.Until.IsZero() || e.LastFailure.Before(f.Until))
}

// deadChunk reads the letters before a place in DEAD, newest first: all, or a Subscription's. last is
// the place of the last row that was looked at, 0 at the end.
func (s *Store) deadChunk(sub fhir.ID, before record.Sequence) (chunk []DeadEntry, last record.Sequence, err error) {
	b, prefix := deadRows(sub)
	end := prefixEnd(prefix)
	if before != 0 {
		end = prefix + num(before)
	}
	return s.deadPage(b, func(r *reader, fn func(string, []byte) bool) { r.scanBack(b, prefix, end, fn) })
}

// DeadFrom lists dead letters in the order in which they died, from behind one place of DEAD up to
// and including another, at most f.Limit (0 means 100). through is how far that goes: where it is
// to, there are no more. Before is not looked at.
func (s *Store) DeadFrom(ctx context.Context, f DeadFilter, after, to record.Sequence) (out []DeadEntry, through record.Sequence, err error) {
	b, prefix := deadRows(f.Subscription)
	for after < to {
		if err := ctx.Err(); err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		}
		chunk, last, err := s.deadPage(b, func(r *reader, fn func(string, []byte) bool) {
			r.scan(b, prefix+num(after+1), prefix+num(to)+"\x00", fn)
		})
		if err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		}
		for i := range chunk {
			if after = chunk[i].Sequence; f.keeps(&chunk[i]) {
				out = append(out, chunk[i])
			}
			if len(out) == limitOr(f.Limit, 100) {
				return out, after, nil
			}
		}
		if after = last; last == 0 {
			break
		}
	}
	return out, to, nil
}

// deadRows are the rows by which letters are listed: all, or a Subscription's.
func deadRows(sub fhir.ID) (b bucket, prefix string) {
	if sub == "" {
		return bDead, ""
	}
	return bDeadBy, string(sub) + "\x00"
}

// deadPage reads a page of letters by the rows that scan shows, those that are current. last is the
// place of the last row, 0 where there were fewer than a page.
func (s *Store) deadPage(b bucket, scan func(*reader, func(key string, _ []byte) bool)) (page []DeadEntry, last record.Sequence, err error) {
	err = s.view(func(r *reader) error {
		var at []record.Sequence
		scan(r, func(key string, _ []byte) bool {
			_, seq, ok := cutNum(key)
			if !ok {
				r.malformed(b, errMalformed)
				return false
			}
			at = append(at, record.Sequence(seq))
			return len(at) < scanChunk
		})
		if len(at) == scanChunk {
			last = at[len(at)-1]
		}
		for _, seq := range at {
			e, ok := r.dead(seq)
			if !ok {
				return nil
			}
			if e.Messages[0] == seq {
				page = append(page, e)
			}
		}
		return nil
	})
	return page, last, err
}

// dead reads a letter that an index names.
func (r *reader) dead(seq record.Sequence) (DeadEntry, bool) {
	e, ok := r.deadEntry(seq)
	if !ok {
		r.malformed(bDead, fmt.Errorf("letter %d is missing", seq))
		return DeadEntry{}, false
	}
	e.Messages = r.letters(deadIDKey(e.Subscription, e.Number) + num(e.MatchID.Birth))
	if len(e.Messages) == 0 {
		r.malformed(bDeadID, fmt.Errorf("letter %d is not among those of its match", seq))
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
			if at := r.letters(key); len(at) > 0 {
				e, ok = r.dead(at[0])
			}
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
		if at := r.letters(deadIDKey(sub, n) + num(id.Birth)); len(at) > 0 {
			e, ok = r.dead(at[0])
		}
		return nil
	})
	if err != nil {
		return DeadEntry{}, false, fmt.Errorf("dead letter of event %d and birth %d: %w", id.Event, id.Birth, err)
	}
	return e, ok, nil
}
