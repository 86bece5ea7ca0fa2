package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// ErrEarly says that a record was applied before what it names: a match before its event, an
// outcome before the match. The caller waits (WaitApplied) and applies it again.
var ErrEarly = errors.New("record names what is not applied yet")

// ApplyMatches folds one record of MATCHES: a block or a job, both nil for a record that could
// not be read. It returns what became pending with it, in order: new matches, then matches
// that a replay made pending again. A record at or before the position was folded already and
// gives nothing.
//
// Matches get the next numbers of their birth, in the order in which they stand. One whose
// event and birth were matched before is ignored and counted as Repeated, one whose event had
// no effect as Unknown. A replay opens a new round of a match that is not pending; of one that
// is, it does nothing, unless the outcome that ends the round was written by somebody who did
// not know of the replay (see DESIGN.md, "Rounds"). A purge hides the dead letters that its
// matches have so far.
//
// The position in EVENTS must cover the events that are named, else ErrEarly. Other errors are
// those of ApplyEvents.
func (s *Store) ApplyMatches(ctx context.Context, seq record.Sequence, b *record.Block, j *record.Job) ([]Pending, error) {
	s.feeds[Matches].Lock()
	defer s.feeds[Matches].Unlock()
	at := s.Position()
	if seq <= at.Matches {
		return nil, nil
	}
	matches, replay, purge := contentOf(b, j)
	for i := range matches {
		if matches[i].Event > at.Events {
			return nil, fmt.Errorf("fold MATCHES %d: %w: event %d, EVENTS is folded up to %d", seq, ErrEarly, matches[i].Event, at.Events)
		}
	}
	var fresh []Pending
	if j != nil && j.Expire != 0 {
		s.feeds[Dead].Lock() // it changes what the other feed does
		defer s.feeds[Dead].Unlock()
	}
	err := s.fold(ctx, Matches, seq, 1+(len(matches)+len(replay)+len(purge))/matchesPerRecord, func(f *folding) {
		f.last, f.sum = seq, SumMatches(b, j)
		if b == nil && j == nil {
			f.SetAside++
		}
		if j != nil {
			if !f.job(seq, j) {
				return
			}
			f.expire(j.Expire)
		}
		fresh = f.number(seq, matches)
		for _, id := range replay {
			if p, opened := f.replay(seq, j, id); opened {
				fresh = append(fresh, p)
			}
		}
		for _, id := range purge {
			f.put(bPurge, pair(id.Birth, id.Event), encodeSequence(seq))
		}
	})
	if err != nil {
		return nil, err
	}
	return fresh, nil
}

// matchesPerRecord is how many matches of a block weigh as much as one record in the writer's
// rhythm.
const matchesPerRecord = 4

func contentOf(b *record.Block, j *record.Job) (matches []record.Match, replay, purge []record.MatchID) {
	if b != nil {
		matches = b.Matches
	}
	if j != nil {
		// A record is a block or a job; where a caller gives both, their order is fixed.
		matches = append(matches[:len(matches):len(matches)], j.Matches...)
		replay, purge = j.Replay, j.Purge
	}
	return matches, replay, purge
}

func encodeSequence(seq record.Sequence) []byte {
	e := sized(numSize)
	e.uint(uint64(seq))
	return e
}

// sequence reads a row that holds one number; 0 where there is none.
func (r *reader) sequence(b bucket, key string) record.Sequence {
	v, ok := r.get(b, key)
	if !ok {
		return 0
	}
	d := decoder{b: v}
	n := d.uint()
	if err := d.end(); err != nil {
		r.malformed(b, err)
	}
	return record.Sequence(n)
}

// number gives each new match the next number of its birth. A match of an event that had no
// effect is none.
func (f *folding) number(seq record.Sequence, matches []record.Match) []Pending {
	fresh := make([]Pending, 0, len(matches))
	var event Version // matches of one event stand together
	for i := range matches {
		m := &matches[i]
		id := pair(m.Birth, m.Event)
		if event.Sequence != m.Event || m.Event == 0 {
			event, _ = f.version(m.Event)
		}
		switch {
		case event.Sequence == 0 || m.Birth == 0:
			f.Unknown++
			continue
		case f.has(bMatchID, id) && !mutant("double-match") && !mutant("skipped-fence"):
			f.Repeated++
			continue
		}
		birth := num(m.Birth)
		n := counted(m.Birth, fhir.EventNumber(f.sequence(bCounter, birth))) + 1
		key, val := pair(m.Birth, n), encodeSequence(record.Sequence(n))
		f.put(bCounter, birth, val)
		f.put(bMatchID, id, val)
		row := matchRow{Match: *m, sequence: seq, number: n}
		f.put(bMatch, key, row.encode())
		// No outcome can have come before the match, so it is pending.
		f.put(bPending, key, nil)
		f.pend(m.Birth, 1)
		fresh = append(fresh, Pending{Match: *m, Number: n, Key: event.Key, Time: event.Time})
	}
	return fresh
}

// replay notes that somebody asked for a match to be sent again. opened says that it was not
// pending and is now.
func (f *folding) replay(seq record.Sequence, j *record.Job, id record.MatchID) (p Pending, opened bool) {
	n, ok := f.numberOf(id)
	if !ok {
		f.Unknown++
		return Pending{}, false
	}
	var v encoder
	v.string(j.ID)
	v.string(string(j.Interaction))
	f.put(bReplay, pair(id.Birth, n)+num(seq), v)
	st := f.state(id.Birth, n)
	if _, opened := f.settle(id.Birth, n, &st); !opened {
		return Pending{}, false
	}
	p, _ = f.pending(id.Birth, n)
	return p, true
}

func (r *reader) numberOf(id record.MatchID) (fhir.EventNumber, bool) {
	n := fhir.EventNumber(r.sequence(bMatchID, pair(id.Birth, id.Event)))
	return n, n != 0
}

// matchRow is a row of the match bucket. It never changes.
type matchRow struct {
	record.Match
	sequence record.Sequence // its record in MATCHES
	number   fhir.EventNumber
}

func (m *matchRow) encode() []byte {
	e := sized(4*numSize + len(m.Subscription) + len(m.Interaction) + len(m.Job))
	e.uint(uint64(m.sequence))
	e.uint(uint64(m.Event))
	e.uint(uint64(m.Version))
	e.string(string(m.Subscription))
	e.string(string(m.Interaction))
	e.string(m.Job)
	return e
}

func decodeMatch(birth record.Sequence, n fhir.EventNumber, v []byte) (matchRow, error) {
	d := decoder{b: v}
	m := matchRow{number: n, sequence: record.Sequence(d.uint())}
	m.Event = record.Sequence(d.uint())
	m.Version = record.Sequence(d.uint())
	m.Subscription = fhir.ID(d.string())
	m.Interaction = d.interaction()
	m.Job = d.string()
	m.Birth = birth
	return m, d.end()
}

func (r *reader) matchRow(birth record.Sequence, n fhir.EventNumber) (matchRow, bool) {
	v, ok := r.get(bMatch, pair(birth, n))
	if !ok {
		return matchRow{}, false
	}
	m, err := decodeMatch(birth, n, v)
	if err != nil {
		r.malformed(bMatch, err)
		return matchRow{}, false
	}
	return m, true
}

// replayed reports whether a replay of a match stands in MATCHES after one place and at or
// before another (0: anywhere).
func (r *reader) replayed(birth record.Sequence, n fhir.EventNumber, after, upTo record.Sequence) (found bool) {
	prefix := pair(birth, n)
	end := prefixEnd(prefix)
	if upTo != 0 {
		end = prefix + num(upTo+1)
	}
	r.scan(bReplay, prefix+num(after+1), end, func(string, []byte) bool {
		found = true
		return false
	})
	return found
}

// told is what the round after a place in MATCHES tells the endpoint of a match: what the replay
// that opened the round asked for, or else what the event did.
func (r *reader) told(row *matchRow, after record.Sequence) fhir.Interaction {
	told := row.Interaction
	prefix := pair(row.Birth, row.number)
	r.scan(bReplay, prefix+num(after+1), prefixEnd(prefix), func(_ string, v []byte) bool {
		d := decoder{b: v}
		d.string()
		if as := d.interaction(); as != "" {
			told = as
		}
		if err := d.end(); err != nil {
			r.malformed(bReplay, err)
		}
		return false
	})
	return told
}

// open reports whether a match is to be sent, from the point of view of somebody who has read
// MATCHES up to a place (0: as far as it is folded): its first round has not ended, or a
// replay came after what the one who ended the last round had read.
func (r *reader) open(birth record.Sequence, n fhir.EventNumber, st *stateRow, upTo record.Sequence) bool {
	return st.rounds() == 0 || r.replayed(birth, n, st.after(), upTo)
}

// settle brings the pending row of a match in line with what MATCHES and OUTCOMES (st) say of
// it, and reports whether it is pending now, and whether it became so. The row follows from
// theirs alone, so the order in which the two logs were read leaves no trace.
func (f *folding) settle(birth record.Sequence, n fhir.EventNumber, st *stateRow) (is, opened bool) {
	key := pair(birth, n)
	was := f.has(bPending, key)
	is = f.open(birth, n, st, 0)
	switch {
	case is && !was:
		f.put(bPending, key, nil)
		f.pend(birth, 1)
	case was && !is:
		f.delete(bPending, key)
		f.pend(birth, -1)
	}
	return is, is && !was
}

// match puts together what all buckets say of a match.
func (r *reader) match(birth record.Sequence, n fhir.EventNumber) (Match, bool) {
	row, ok := r.matchRow(birth, n)
	if !ok {
		return Match{}, false
	}
	m := r.describe(&row)
	return m, r.err == nil
}

// eventOf is the version that a match is of. Every match that was given a number has one.
func (r *reader) eventOf(seq record.Sequence) Version {
	event, ok := r.version(seq)
	if !ok {
		r.malformed(bVersion, fmt.Errorf("event %d of a match is missing", seq))
	}
	return event
}

// pending is a match that is known to be pending.
func (r *reader) pending(birth record.Sequence, n fhir.EventNumber) (Pending, bool) {
	row, ok := r.matchRow(birth, n)
	if !ok {
		return Pending{}, false
	}
	st := r.state(birth, n)
	event := r.eventOf(row.Event)
	if st.rounds() > 0 {
		row.Interaction = r.told(&row, st.after())
	}
	return Pending{
		Match: row.Match, Number: n, Key: event.Key, Time: event.Time,
		Round: st.rounds(), Attempts: st.attempts, NotBefore: st.notBefore,
	}, r.err == nil
}

func (r *reader) describe(row *matchRow) Match {
	st := r.state(row.Birth, row.number)
	event := r.eventOf(row.Event)
	m := Match{
		Pending:  Pending{Match: row.Match, Number: row.number, Key: event.Key, Time: event.Time},
		Sequence: row.sequence,
		Open:     r.has(bPending, pair(row.Birth, row.number)),
		Ended:    st.ended, Dead: st.dead,
		Code: st.code, Status: st.status, At: st.at,
	}
	if m.Open {
		m.Round, m.Attempts, m.NotBefore = st.rounds(), st.attempts, st.notBefore
		if m.Round > 0 {
			m.Interaction = r.told(row, st.after())
		}
	} else {
		m.Round, m.Attempts = st.rounds()-1, st.spent
	}
	return m
}

// PendingFrom gives the pending matches of a birth with numbers above after, in order, at most
// limit (0 means 100).
func (s *Store) PendingFrom(birth record.Sequence, after fhir.EventNumber, limit int) (out []Pending, err error) {
	if after+1 == 0 {
		return nil, nil
	}
	err = s.view(func(r *reader) error {
		var numbers []fhir.EventNumber
		r.scan(bPending, pair(birth, after+1), prefixEnd(num(birth)), func(key string, _ []byte) bool {
			_, n, _ := cutPair(key)
			numbers = append(numbers, fhir.EventNumber(n))
			return len(numbers) < limitOr(limit, 100)
		})
		out = make([]Pending, 0, len(numbers))
		for _, n := range numbers {
			p, ok := r.pending(birth, n)
			if !ok {
				r.malformed(bPending, fmt.Errorf("%d of %d has no match", n, birth))
				return nil
			}
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pending of %d: %w", birth, err)
	}
	return out, nil
}

// PendingStats sums up the queue of a birth.
func (s *Store) PendingStats(birth record.Sequence) (PendingStats, error) {
	var st PendingStats
	err := s.view(func(r *reader) error {
		if st.Count = s.pending[birth]; st.Count == 0 {
			return nil
		}
		r.prefix(bPending, num(birth), func(key string, _ []byte) bool {
			_, n, _ := cutPair(key)
			st.Oldest = fhir.EventNumber(n)
			return false
		})
		row, ok := r.matchRow(birth, st.Oldest)
		if !ok {
			r.malformed(bPending, fmt.Errorf("%d of %d has no match", st.Oldest, birth))
			return nil
		}
		st.Since = r.eventOf(row.Event).Time
		return nil
	})
	if err != nil {
		return PendingStats{}, fmt.Errorf("pending of %d: %w", birth, err)
	}
	return st, nil
}

// MatchByID finds a match by its identity.
func (s *Store) MatchByID(id record.MatchID) (m Match, ok bool, err error) {
	err = s.view(func(r *reader) error {
		if n, found := r.numberOf(id); found {
			m, ok = r.match(id.Birth, n)
		}
		return nil
	})
	if err != nil {
		return Match{}, false, fmt.Errorf("match of event %d and birth %d: %w", id.Event, id.Birth, err)
	}
	return m, ok, nil
}

// MatchByNumber finds a match by its event number.
func (s *Store) MatchByNumber(birth record.Sequence, n fhir.EventNumber) (m Match, ok bool, err error) {
	err = s.view(func(r *reader) error {
		m, ok = r.match(birth, n)
		return nil
	})
	if err != nil {
		return Match{}, false, fmt.Errorf("match %d of birth %d: %w", n, birth, err)
	}
	return m, ok, nil
}

// Events gives the matches of a birth with from <= number <= to, in order, at most limit (0
// means 100; to 0 means the newest).
func (s *Store) Events(birth record.Sequence, from, to fhir.EventNumber, limit int) (out []Match, err error) {
	end := prefixEnd(num(birth))
	if to != 0 && to+1 != 0 {
		end = pair(birth, to+1)
	}
	err = s.view(func(r *reader) error {
		var rows []matchRow
		r.scan(bMatch, pair(birth, from), end, func(key string, v []byte) bool {
			_, n, _ := cutPair(key)
			row, err := decodeMatch(birth, fhir.EventNumber(n), v)
			if err != nil {
				r.malformed(bMatch, err)
				return false
			}
			rows = append(rows, row)
			return len(rows) < limitOr(limit, 100)
		})
		for i := range rows {
			out = append(out, r.describe(&rows[i]))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("events of birth %d: %w", birth, err)
	}
	return out, nil
}

// Counter is the last event number of a birth; 0 where nothing matched yet.
func (s *Store) Counter(birth record.Sequence) (n fhir.EventNumber, err error) {
	err = s.view(func(r *reader) error {
		n = fhir.EventNumber(r.sequence(bCounter, num(birth)))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("counter of birth %d: %w", birth, err)
	}
	return n, nil
}

// stateRow is a row of the state bucket: what OUTCOMES says of a match. A match without one
// is in its first round, without an attempt.
type stateRow struct {
	// ends holds, for each round that ended, how far the one who ended it had read MATCHES.
	// There are as many as somebody asked for replays, and one.
	ends  []record.Sequence
	ended record.Code // how the last of them ended
	dead  bool
	spent int // its attempts

	attempts  int // of the round after it
	notBefore time.Time

	code   record.Code // the newest outcome
	status int
	at     time.Time
}

// rounds is how many rounds have ended.
func (st *stateRow) rounds() int { return len(st.ends) }

// after is how far the one who ended the last round had read MATCHES.
func (st *stateRow) after() record.Sequence {
	if len(st.ends) == 0 {
		return 0
	}
	return st.ends[len(st.ends)-1]
}

func (st *stateRow) encode() []byte {
	e := sized((len(st.ends)+4)*numSize + len(st.ended) + len(st.code) + 2*timeSize)
	e.uint(uint64(len(st.ends)))
	for _, seq := range st.ends {
		e.uint(uint64(seq))
	}
	e.string(string(st.ended))
	e.bool(st.dead)
	e.uint(uint64(st.spent))
	e.uint(uint64(st.attempts))
	e.time(st.notBefore)
	e.string(string(st.code))
	e.int(int64(st.status))
	e.time(st.at)
	return e
}

func (r *reader) state(birth record.Sequence, n fhir.EventNumber) (st stateRow) {
	v, ok := r.get(bState, pair(birth, n))
	if !ok {
		return st
	}
	d := decoder{b: v}
	for k := d.uint(); k > 0 && d.err == nil; k-- {
		st.ends = append(st.ends, record.Sequence(d.uint()))
	}
	st.ended, st.dead, st.spent = record.Code(d.string()), d.bool(), int(d.uint())
	st.attempts, st.notBefore = int(d.uint()), d.time()
	st.code, st.status, st.at = record.Code(d.string()), int(d.int()), d.time()
	if err := d.end(); err != nil {
		r.malformed(bState, err)
	}
	return st
}
