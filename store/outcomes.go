package store

import (
	"context"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// ApplyOutcomes folds one record of OUTCOMES, nil for one that could not be read. It returns
// the matches that are pending again at once: their round ended, and a replay had been asked
// for that the writer of the outcome did not know of.
//
// An outcome counts for the round it names. One of a round that ended before is counted as
// Repeated, and so is one that stands in the log twice, as it may when its writer got no
// answer; one of a match or round that its writer cannot have known is counted as Unknown.
// None of them changes anything or is kept. Through ends every match of its birth up to that number that was
// pending for the writer; the record is one step, so a writer with a long queue gives it in
// several.
//
// The position in MATCHES must cover b.After, else ErrEarly. Other errors are those of
// ApplyEvents.
func (s *Store) ApplyOutcomes(ctx context.Context, seq record.Sequence, b *record.OutcomeBlock) ([]Pending, error) {
	s.feeds[Outcomes].Lock()
	defer s.feeds[Outcomes].Unlock()
	at := s.Position()
	if seq <= at.Outcomes {
		return nil, nil
	}
	if b != nil && b.After > at.Matches {
		return nil, fmt.Errorf("fold OUTCOMES %d: %w: MATCHES %d, folded up to %d", seq, ErrEarly, b.After, at.Matches)
	}
	var reopened []Pending
	err := s.fold(ctx, Outcomes, seq, 1, func(f *folding) {
		f.last, f.sum = seq, SumOutcomes(b)
		if b == nil {
			f.SetAside++
			return
		}
		for i := range b.Outcomes {
			place := Place{Sequence: seq, Index: i}
			reopened = append(reopened, f.outcome(place, b.After, &b.Outcomes[i])...)
		}
	})
	if err != nil {
		return nil, err
	}
	return reopened, nil
}

// outcome folds one outcome, whose writer had read MATCHES up to after.
//
// Whether it counts follows from OUTCOMES up to here and MATCHES up to after, which every node
// has when it comes here; what a node has read of MATCHES beyond that must not matter.
func (f *folding) outcome(at Place, after record.Sequence, o *record.Outcome) []Pending {
	if !keyable(string(o.Subscription)) {
		f.SetAside++
		return nil
	}
	if o.Through != 0 {
		// A range that is repeated ends nothing twice, but its writer may have read more of
		// MATCHES when it said it again.
		if f.saidRange(o) {
			f.Repeated++
		} else {
			f.log(at, o, 0)
		}
		return f.endThrough(after, o)
	}
	n, row, ok := f.knownTo(after, o.MatchID)
	if !ok {
		f.Unknown++
		return nil
	}
	st := f.state(row.Birth, n)
	switch {
	case o.Round < st.rounds():
		f.Repeated++
		return nil
	case o.Round > st.rounds() || !f.open(row.Birth, n, &st, after):
		f.Unknown++
		return nil
	case st.said(o):
		f.Repeated++
		return nil
	}
	f.log(at, o, n)
	return f.count(after, n, &st, o)
}

// said reports whether an outcome of the open round is the one that was folded last. A lane
// makes no attempt of a match before the outcome of the one before is stored, so nothing else
// of the match can stand between an outcome and its repetition. The times tell an attempt
// from the same one made by another owner of the lane, which is an attempt of its own.
func (st *stateRow) said(o *record.Outcome) bool {
	// An outcome that ends a round would have ended this one, had it been folded before.
	return !ends(o) && st.code != "" && o.Code == st.code && o.Attempt == st.attempts && o.At.Equal(st.at)
}

// saidRange reports whether the newest line of a Subscription says the same of the same range.
func (f *folding) saidRange(o *record.Outcome) bool {
	prefix, newest := string(o.Subscription)+"\x00", ""
	f.scanBack(bOutcomeBy, prefix, prefixEnd(prefix), func(key string, _ []byte) bool {
		newest = key[len(prefix):]
		return false
	})
	if newest == "" {
		return false
	}
	at, ok := parsePlace(newest)
	if !ok {
		f.malformed(bOutcomeBy, errMalformed)
		return false
	}
	v, ok := f.get(bOutcome, newest)
	if !ok {
		f.malformed(bOutcomeBy, fmt.Errorf("%d/%d has no outcome", at.Sequence, at.Index))
		return false
	}
	a, err := decodeAttempt(at, v)
	if err != nil {
		f.malformed(bOutcome, err)
		return false
	}
	return a.Through == o.Through && a.Birth == o.Birth && a.Code == o.Code && a.At.Equal(o.At)
}

// knownTo finds a match if it stands in MATCHES up to a place.
func (f *folding) knownTo(after record.Sequence, id record.MatchID) (fhir.EventNumber, matchRow, bool) {
	n, ok := f.numberOf(id)
	if !ok {
		return 0, matchRow{}, false
	}
	row, ok := f.matchRow(id.Birth, n)
	return n, row, ok && row.sequence <= after
}

// count takes an outcome into the state of its match.
func (f *folding) count(after record.Sequence, n fhir.EventNumber, st *stateRow, o *record.Outcome) []Pending {
	birth := o.Birth
	st.code, st.status, st.at, st.notBefore = o.Code, o.Status, o.At, o.NotBefore
	if o.Code.IsAttempt() {
		// The sender has counted. Who counts records instead lets an attempt that stands in
		// the log twice spend two.
		st.attempts = max(st.attempts, o.Attempt)
	}
	if !ends(o) {
		f.put(bState, pair(birth, n), st.encode())
		return nil
	}
	st.ends = append(st.ends, after)
	st.ended, st.dead, st.spent = o.Code, o.Dead, st.attempts
	st.attempts, st.notBefore = 0, time.Time{}
	f.put(bState, pair(birth, n), st.encode())
	if pending, _ := f.settle(birth, n, st); !pending {
		return nil
	}
	p, _ := f.pending(birth, n)
	return []Pending{p}
}

// ends reports whether an outcome ends its round: by its code, or because it says so.
func ends(o *record.Outcome) bool {
	switch o.Code {
	case record.Accepted, record.Expired, record.Withdrawn, record.Skipped:
		return true
	}
	return o.Final
}

// endThrough ends what was pending of a birth for the writer, up to a number.
func (f *folding) endThrough(after record.Sequence, o *record.Outcome) (reopened []Pending) {
	var numbers []fhir.EventNumber
	end := prefixEnd(num(o.Birth))
	if o.Through+1 != 0 {
		end = pair(o.Birth, o.Through+1)
	}
	// What was pending for the writer is pending here: MATCHES beyond after only adds to it.
	f.scan(bPending, pair(o.Birth, fhir.EventNumber(0)), end, func(key string, _ []byte) bool {
		_, n, _ := cutPair(key)
		numbers = append(numbers, fhir.EventNumber(n))
		return true
	})
	one := *o
	one.Final = true
	for _, n := range numbers {
		row, ok := f.matchRow(o.Birth, n)
		if !ok || row.sequence > after {
			continue
		}
		st := f.state(o.Birth, n)
		if f.open(o.Birth, n, &st, after) {
			reopened = append(reopened, f.count(after, n, &st, &one)...)
		}
	}
	return reopened
}

// log keeps an outcome for the troubleshooting log.
func (f *folding) log(at Place, o *record.Outcome, n fhir.EventNumber) {
	e := sized(8*numSize + len(o.Subscription) + len(o.Code) + len(o.Response) + 2*timeSize)
	e.uint(uint64(o.Event))
	e.uint(uint64(o.Birth))
	e.string(string(o.Subscription))
	e.uint(uint64(n))
	e.int(int64(o.Round))
	e.int(int64(o.Attempt))
	e.string(string(o.Code))
	e.int(int64(o.Status))
	e.time(o.At)
	e.int(int64(o.Took))
	e.string(o.Response)
	e.time(o.NotBefore)
	e.bool(o.Final)
	e.bool(o.Dead)
	e.uint(uint64(o.Through))
	key := placeKey(at)
	f.put(bOutcome, key, e)
	f.put(bOutcomeBy, string(o.Subscription)+"\x00"+key, nil)
}

func decodeAttempt(at Place, v []byte) (Attempt, error) {
	d := decoder{b: v}
	a := Attempt{Place: at}
	a.Event = record.Sequence(d.uint())
	a.Birth = record.Sequence(d.uint())
	a.Subscription = fhir.ID(d.string())
	a.Number = fhir.EventNumber(d.uint())
	a.Round = int(d.int())
	a.Attempt = int(d.int())
	a.Code = record.Code(d.string())
	a.Status = int(d.int())
	a.At = d.time()
	a.Took = time.Duration(d.int())
	a.Response = d.string()
	a.NotBefore = d.time()
	a.Final = d.bool()
	a.Dead = d.bool()
	a.Through = fhir.EventNumber(d.uint())
	return a, d.end()
}

// clockSlack is how far the clocks of senders may be apart, and how late an outcome may be
// written: a search that goes back to a time looks that much further.
const clockSlack = time.Hour

// Attempts reads the troubleshooting log, newest first. It reads on until it has found the
// limit, has come to Since, or ctx ends; a filter by resource or code without Since may read
// the whole log.
func (s *Store) Attempts(ctx context.Context, f AttemptFilter) ([]Attempt, error) {
	var out []Attempt
	keep, err := s.attemptTest(f)
	for at, more := f.Before, true; err == nil && more; {
		if err = ctx.Err(); err != nil {
			break
		}
		var chunk []Attempt
		if chunk, err = s.attemptChunk(f.Subscription, at); err != nil {
			break
		}
		more = len(chunk) == scanChunk
		for i := range chunk {
			a := &chunk[i]
			at = a.Place
			if !f.Since.IsZero() && a.At.Before(f.Since.Add(-clockSlack)) {
				return out, nil
			}
			if keep(a) {
				out = append(out, *a)
			}
			if len(out) == limitOr(f.Limit, 100) {
				return out, nil
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	return out, nil
}

// attemptTest is the part of a filter that looks at each line. The events of a resource are
// found once, by its history.
func (s *Store) attemptTest(f AttemptFilter) (func(*Attempt) bool, error) {
	var events map[record.Sequence]bool
	if f.Key != (fhir.Key{}) {
		events = map[record.Sequence]bool{}
		for v, err := range s.History(f.Key) {
			if err != nil {
				return nil, err
			}
			events[v.Sequence] = true
		}
	}
	return func(a *Attempt) bool {
		return (f.Code == "" || a.Code == f.Code) &&
			(events == nil || events[a.Event]) &&
			(f.Since.IsZero() || !a.At.Before(f.Since))
	}, nil
}

// attemptChunk reads the lines before a place, newest first: of all, or of a Subscription.
func (s *Store) attemptChunk(sub fhir.ID, before Place) (chunk []Attempt, err error) {
	b, prefix := bOutcome, ""
	if sub != "" {
		b, prefix = bOutcomeBy, string(sub)+"\x00"
	}
	end := prefixEnd(prefix)
	if before != (Place{}) {
		end = prefix + placeKey(before)
	}
	err = s.view(func(r *reader) error {
		var places []Place
		r.scanBack(b, prefix, end, func(key string, _ []byte) bool {
			at, ok := parsePlace(key[len(prefix):])
			if !ok {
				r.malformed(b, errMalformed)
				return false
			}
			places = append(places, at)
			return len(places) < scanChunk
		})
		for _, at := range places {
			a, ok := r.attempt(at)
			if !ok {
				return nil
			}
			chunk = append(chunk, a)
		}
		return nil
	})
	return chunk, err
}

func (r *reader) attempt(at Place) (Attempt, bool) {
	v, ok := r.get(bOutcome, placeKey(at))
	if !ok {
		r.malformed(bOutcomeBy, fmt.Errorf("%d/%d has no outcome", at.Sequence, at.Index))
		return Attempt{}, false
	}
	a, err := decodeAttempt(at, v)
	if err != nil {
		r.malformed(bOutcome, err)
		return Attempt{}, false
	}
	if a.Event != 0 { // else a range
		a.Key = r.eventOf(a.Event).Key
	}
	return a, r.err == nil
}
