package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
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
	if o.Event != 0 {
		f.put(bOutcomeOf, num(o.Event)+key, nil)
	}
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
// limit, has come to Since, or ctx ends; a filter by code without Since may read all that the
// rest of the filter leaves.
func (s *Store) Attempts(ctx context.Context, f AttemptFilter) ([]Attempt, error) {
	var out []Attempt
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read attempts: %w", err)
		}
		run, before, err := s.AttemptRun(f, scanChunk)
		if err != nil {
			return nil, err
		}
		f.Before, more = before, before != Place{}
		for i := range run {
			if out = append(out, run[i]); len(out) == limitOr(f.Limit, 100) {
				return out, nil
			}
		}
	}
	return out, nil
}

// AttemptRun reads some lines of the troubleshooting log, newest first, and gives those that
// the filter chooses, of which there may be none. It looks at no more than n lines, so that whoever
// has little time can stop in between. The next run begins before the place that is returned; it is
// the zero Place where there is none. Of a resource each run costs as much as it has versions and attempts.
func (s *Store) AttemptRun(f AttemptFilter, n int) ([]Attempt, Place, error) {
	run, more, err := s.attemptChunk(f, n)
	if err != nil {
		return nil, Place{}, fmt.Errorf("read attempts: %w", err)
	}
	var next Place
	if more {
		next = run[len(run)-1].Place
	}
	out := run[:0]
	for i := range run {
		a := &run[i]
		if !f.Since.IsZero() && a.At.Before(f.Since.Add(-clockSlack)) {
			return out, Place{}, nil
		}
		if (f.Code == "" || a.Code == f.Code) && (f.Key == fhir.Key{} || a.Key == f.Key) &&
			(f.Subscription == "" || a.Subscription == f.Subscription) && (f.Since.IsZero() || !a.At.Before(f.Since)) {
			out = append(out, *a)
		}
	}
	return out, next, nil
}

// attemptsOf reads the lines before a place that are about a resource, newest first. It looks at every
// version of the resource: an old one may be tried again long after a new one was delivered.
func (s *Store) attemptsOf(key fhir.Key, before Place, n int) (chunk []Attempt, more bool, err error) {
	var events []record.Sequence
	for v, err := range s.History(key) {
		if err != nil {
			return nil, false, err
		}
		events = append(events, v.Sequence)
	}
	err = s.view(func(r *reader) error {
		var places []Place
		for _, event := range events {
			prefix := num(event)
			end := prefixEnd(prefix)
			if before != (Place{}) {
				end = prefix + placeKey(before)
			}
			r.scanBack(bOutcomeOf, prefix, end, func(key string, _ []byte) bool {
				at, ok := parsePlace(key[len(prefix):])
				if !ok {
					r.malformed(bOutcomeOf, errMalformed)
					return false
				}
				places = append(places, at)
				return true
			})
		}
		slices.SortFunc(places, func(a, b Place) int {
			return cmp.Or(cmp.Compare(b.Sequence, a.Sequence), cmp.Compare(b.Index, a.Index))
		})
		if more = len(places) > n; more {
			places = places[:n]
		}
		for _, at := range places {
			a, ok := r.attempt(at)
			if !ok {
				return nil
			}
			chunk = append(chunk, a)
		}
		return nil
	})
	return chunk, more, err
}

// attemptChunk reads the lines before a place, newest first: of a resource, of a Subscription, or
// all.
func (s *Store) attemptChunk(f AttemptFilter, n int) (chunk []Attempt, more bool, err error) {
	if f.Key != (fhir.Key{}) {
		return s.attemptsOf(f.Key, f.Before, n)
	}
	b, prefix := bOutcome, ""
	if f.Subscription != "" {
		b, prefix = bOutcomeBy, string(f.Subscription)+"\x00"
	}
	end := prefixEnd(prefix)
	if f.Before != (Place{}) {
		end = prefix + placeKey(f.Before)
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
			return len(places) < n
		})
		for _, at := range places {
			a, ok := r.attempt(at)
			if !ok {
				return nil
			}
			chunk = append(chunk, a)
		}
		more = len(places) == n
		return nil
	})
	return chunk, more, err
}

// AttemptAt reads one line of the troubleshooting log; the second result reports whether there is
// one at this place.
func (s *Store) AttemptAt(at Place) (a Attempt, ok bool, err error) {
	err = s.view(func(r *reader) error {
		if ok = r.has(bOutcome, placeKey(at)); ok {
			a, ok = r.attempt(at)
		}
		return nil
	})
	if err != nil {
		return Attempt{}, false, fmt.Errorf("read attempt %d/%d: %w", at.Sequence, at.Index, err)
	}
	return a, ok, nil
}

// AttemptsUntil is a place such that all attempts that began before a time stand before it, found in
// a number of steps that grows with the logarithm of the log. Those after t that stand before it too
// are as many as the clocks of senders allow for; the zero Place means that there is no such bound.
func (s *Store) AttemptsUntil(t time.Time) (Place, error) {
	t = t.Add(clockSlack)
	lo, hi := record.Sequence(0), s.Position().Outcomes+1 // all before lo are old enough; hi is too new
	for err := error(nil); lo < hi; {
		mid := lo + (hi-lo)/2
		var first *Attempt
		err = s.view(func(r *reader) error {
			r.scan(bOutcome, placeKey(Place{Sequence: mid}), prefixEnd(""), func(key string, v []byte) bool {
				at, ok := parsePlace(key)
				a, err := decodeAttempt(at, v)
				if !ok || err != nil {
					r.malformed(bOutcome, errMalformed)
					return false
				}
				first = &a
				return false
			})
			return nil
		})
		switch {
		case err != nil:
			return Place{}, fmt.Errorf("look for attempts of a time: %w", err)
		case first == nil || first.At.After(t):
			hi = mid
		default:
			lo = first.Sequence + 1
		}
	}
	if lo > s.Position().Outcomes {
		return Place{}, nil
	}
	if lo == 0 {
		return Place{Index: 1}, nil // before all: sequences begin at 1
	}
	return Place{Sequence: lo}, nil
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
