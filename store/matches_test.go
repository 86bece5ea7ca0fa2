package store

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// queue is a store with one Subscription, s of birth 1, and events 2 to 9 on Patient/p2 to
// Patient/p9.
type queue struct {
	*Store
	t *testing.T
}

func newQueue(t *testing.T) *queue {
	q := &queue{openRunning(t, t.TempDir()), t}
	events := []record.Event{{Sequence: 1, Time: t0, Key: fhir.Key{Type: "Subscription", ID: "s"}, Body: []byte("s")}}
	for i := 2; i < 10; i++ {
		events = append(events, record.Event{
			Sequence: record.Sequence(i), Time: t0.Add(time.Duration(i) * time.Second),
			Key: fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprint("p", i))}, Body: []byte("x"),
		})
	}
	must(q.ApplyEvents(ctx, events, 9))
	return q
}

func id(event record.Sequence) record.MatchID { return record.MatchID{Event: event, Birth: 1} }

// match appends a block with these events.
func (q *queue) match(events ...record.Sequence) []Pending {
	q.t.Helper()
	b := &record.Block{Partition: "p"}
	for _, e := range events {
		b.Matches = append(b.Matches, record.Match{Event: e, Birth: 1, Subscription: "s", Version: 1, Interaction: fhir.Create})
	}
	return q.appendMatches(b, nil)
}

func (q *queue) replay(events ...record.Sequence) []Pending {
	q.t.Helper()
	j := &record.Job{ID: "job"}
	for _, e := range events {
		j.Replay = append(j.Replay, id(e))
	}
	return q.appendMatches(nil, j)
}

func (q *queue) purge(event record.Sequence) {
	q.t.Helper()
	q.appendMatches(nil, &record.Job{ID: "purge", Purge: []record.MatchID{id(event)}})
}

func (q *queue) appendMatches(b *record.Block, j *record.Job) []Pending {
	q.t.Helper()
	p, err := q.ApplyMatches(ctx, q.Position().Matches+1, b, j)
	if err != nil {
		q.t.Fatal(err)
	}
	return p
}

// outcome appends outcomes of somebody who has read all of MATCHES.
func (q *queue) outcome(os ...record.Outcome) []Pending {
	q.t.Helper()
	return q.outcomeAfter(q.Position().Matches, os...)
}

func (q *queue) outcomeAfter(after record.Sequence, os ...record.Outcome) []Pending {
	q.t.Helper()
	p, err := q.ApplyOutcomes(ctx, q.Position().Outcomes+1, &record.OutcomeBlock{Lane: "l", Owner: "n1", After: after, Outcomes: os})
	if err != nil {
		q.t.Fatal(err)
	}
	return p
}

// result is an outcome of an event of the Subscription.
func result(event record.Sequence, round int, code record.Code) record.Outcome {
	return record.Outcome{MatchID: id(event), Subscription: "s", Round: round, Attempt: 1, Code: code, At: t0}
}

func final(o record.Outcome) record.Outcome {
	o.Final = true
	return o
}

// attempt makes an outcome that of the n-th attempt, a minute after the one before.
func attempt(n int, o record.Outcome) record.Outcome {
	o.Attempt, o.At = n, o.At.Add(time.Duration(n-1)*time.Minute)
	return o
}

func (q *queue) letter(event record.Sequence, n fhir.EventNumber, round int) {
	q.t.Helper()
	err := q.ApplyDead(ctx, q.Position().Dead+1, &record.DeadLetter{
		MatchID: id(event), Subscription: "s", Number: n, Round: round, Reason: record.Timeout, Attempts: 3,
		Key: fhir.Key{Type: "Patient", ID: "p"}, FirstFailure: t0, LastFailure: t0.Add(time.Minute), Endpoint: "https://h",
		ContentType: "application/fhir+json", Body: []byte("the notification"),
	})
	if err != nil {
		q.t.Fatal(err)
	}
}

// pendingNow writes what is pending as number:event/round/attempts.
func (q *queue) pendingNow() string {
	q.t.Helper()
	var out []string
	for _, p := range must(q.PendingFrom(1, 0, 0)) {
		out = append(out, fmt.Sprintf("%d:%d/%d/%d", p.Number, p.Event, p.Round, p.Attempts))
	}
	if st := must(q.PendingStats(1)); st.Count != len(out) {
		q.t.Errorf("counts %d pending of %v", st.Count, out)
	}
	return strings.Join(out, " ")
}

func (q *queue) want(pending string) {
	q.t.Helper()
	if got := q.pendingNow(); got != pending {
		q.t.Errorf("pending %q, want %q", got, pending)
	}
}

func TestAPendingMatchHoldsAllThatALaneNeeds(t *testing.T) {
	q := newQueue(t)
	got := q.match(3, 2)
	if len(got) != 2 {
		t.Fatalf("%d pending, want 2", len(got))
	}
	want := Pending{
		Match:  record.Match{Event: 2, Subscription: "s", Birth: 1, Version: 1, Interaction: fhir.Create},
		Number: 2, Key: fhir.Key{Type: "Patient", ID: "p2"}, Time: t0.Add(2 * time.Second),
	}
	if got[1] != want {
		t.Errorf("applied %+v, want %+v", got[1], want)
	}
	nb := t0.Add(time.Hour)
	o := result(2, 0, record.HTTPStatus)
	o.NotBefore = nb
	q.outcome(o)
	want.Attempts, want.NotBefore = 1, nb
	if read := must(q.PendingFrom(1, 1, 5)); len(read) != 1 || read[0] != want {
		t.Errorf("read %+v, want %+v", read, want)
	}
	if st := must(q.PendingStats(1)); st != (PendingStats{Count: 2, Oldest: 1, Since: t0.Add(3 * time.Second)}) {
		t.Errorf("stats %+v", st)
	}
	if b := q.PendingBirths(); !slices.Equal(b, []record.Sequence{1}) {
		t.Errorf("births with pending: %v", b)
	}
	q.outcome(result(2, 0, record.Accepted), result(3, 0, record.Accepted))
	if b := q.PendingBirths(); len(b) != 0 {
		t.Errorf("births with pending: %v", b)
	}
}

func TestOutcomesSettleMatches(t *testing.T) {
	through := func(n fhir.EventNumber, code record.Code) record.Outcome {
		return record.Outcome{MatchID: record.MatchID{Birth: 1}, Subscription: "s", Code: code, Through: n, At: t0}
	}
	for _, c := range []struct {
		name     string
		do       func(q *queue)
		pending  string // after events 2 and 3 matched
		counters Counters
	}{
		{name: "nothing said", do: func(*queue) {}, pending: "1:2/0/0 2:3/0/0"},
		{name: "accepted", do: func(q *queue) { q.outcome(result(2, 0, record.Accepted)) }, pending: "2:3/0/0"},
		{name: "failure leaves it pending", do: func(q *queue) { q.outcome(result(2, 0, record.Timeout)) }, pending: "1:2/0/1 2:3/0/0"},
		{name: "final failure", do: func(q *queue) {
			q.outcome(result(2, 0, record.Timeout), final(attempt(2, result(2, 0, record.Timeout))))
		}, pending: "2:3/0/0"},
		{name: "a second attempt", do: func(q *queue) {
			q.outcome(result(2, 0, record.Timeout))
			q.outcome(attempt(2, result(2, 0, record.Timeout)))
		},
			pending: "1:2/0/2 2:3/0/0"},
		{name: "withdrawn is no attempt", do: func(q *queue) { q.outcome(result(2, 0, record.Withdrawn)) }, pending: "2:3/0/0"},
		{name: "said after the end", do: func(q *queue) { q.outcome(result(2, 0, record.Accepted), result(2, 0, record.Timeout)) },
			pending: "2:3/0/0", counters: Counters{Repeated: 1}},
		{name: "of a match that is not there", do: func(q *queue) { q.outcome(result(9, 0, record.Accepted)) },
			pending: "1:2/0/0 2:3/0/0", counters: Counters{Unknown: 1}},
		{name: "of a match that its writer cannot know", do: func(q *queue) { q.match(4); q.outcomeAfter(1, result(4, 0, record.Accepted)) },
			pending: "1:2/0/0 2:3/0/0 3:4/0/0", counters: Counters{Unknown: 1}},
		{name: "of a round that nobody opened", do: func(q *queue) { q.outcome(result(2, 1, record.Accepted)) },
			pending: "1:2/0/0 2:3/0/0", counters: Counters{Unknown: 1}},
		{name: "of the round after one that ended, not opened", do: func(q *queue) { q.outcome(result(2, 0, record.Accepted), result(2, 1, record.Accepted)) },
			pending: "2:3/0/0", counters: Counters{Unknown: 1}},
		{name: "a range ends all up to its number", do: func(q *queue) { q.match(4); q.outcome(through(2, record.Withdrawn)) }, pending: "3:4/0/0"},
		{name: "a range leaves what its writer did not know", do: func(q *queue) { q.match(4); q.outcomeAfter(1, through(9, record.Withdrawn)) }, pending: "3:4/0/0"},
		{name: "unreadable", do: func(q *queue) {
			if _, err := q.ApplyOutcomes(ctx, 1, nil); err != nil {
				q.t.Fatal(err)
			}
		}, pending: "1:2/0/0 2:3/0/0", counters: Counters{SetAside: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(t)
			q.match(2, 3)
			c.do(q)
			q.want(c.pending)
			if got := q.Stats().Counters[Outcomes]; got != c.counters {
				t.Errorf("counted %+v, want %+v", got, c.counters)
			}
		})
	}
}

// A block of outcomes whose append was not answered is appended again, and may then stand in the
// log twice. That spends no second attempt, and shows no second line.
func TestAnOutcomeStoredTwiceSpendsOneAttempt(t *testing.T) {
	limited := attempt(2, result(2, 0, record.RateLimited))
	limited.Attempt = 1
	elsewhere := result(2, 0, record.Timeout)
	elsewhere.At = t0.Add(time.Second)
	withdrawn := record.Outcome{MatchID: record.MatchID{Birth: 1}, Subscription: "s", Code: record.Withdrawn, Through: 2, At: t0}
	for _, c := range []struct {
		name     string
		first    []record.Outcome // told before, each in a block of its own
		twice    []record.Outcome // a block that stands in the log twice
		pending  string           // after events 2 and 3 matched
		lines    int
		repeated uint64
	}{
		{name: "a failure", twice: []record.Outcome{result(2, 0, record.Timeout)}, pending: "1:2/0/1 2:3/0/0", lines: 1, repeated: 1},
		{name: "failures of two matches", twice: []record.Outcome{result(2, 0, record.Timeout), result(3, 0, record.HTTPStatus)},
			pending: "1:2/0/1 2:3/0/1", lines: 2, repeated: 2},
		{name: "the second failure", first: []record.Outcome{result(2, 0, record.Timeout)},
			twice: []record.Outcome{attempt(2, result(2, 0, record.Timeout))}, pending: "1:2/0/2 2:3/0/0", lines: 2, repeated: 1},
		{name: "a limit of our own", first: []record.Outcome{result(2, 0, record.Timeout)},
			twice: []record.Outcome{limited}, pending: "1:2/0/1 2:3/0/0", lines: 2, repeated: 1},
		{name: "the end", twice: []record.Outcome{result(2, 0, record.Accepted)}, pending: "2:3/0/0", lines: 1, repeated: 1},
		{name: "a range", twice: []record.Outcome{withdrawn}, lines: 1, repeated: 1},
		{name: "the same attempt by another owner is shown, and is no further one", first: []record.Outcome{elsewhere},
			twice: []record.Outcome{result(2, 0, record.Timeout)}, pending: "1:2/0/1 2:3/0/0", lines: 2, repeated: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(t)
			q.match(2, 3)
			for _, o := range c.first {
				q.outcome(o)
			}
			q.outcome(c.twice...)
			q.outcome(c.twice...)
			q.want(c.pending)
			if n := len(must(q.Attempts(ctx, AttemptFilter{}))); n != c.lines {
				t.Errorf("%d lines in the troubleshooting log, want %d", n, c.lines)
			}
			if n := q.Stats().Counters[Outcomes].Repeated; n != c.repeated {
				t.Errorf("counted %d as repeated, want %d", n, c.repeated)
			}
		})
	}
}

// A range that is told again ends also what its writer had not read the first time.
func TestARepeatedRangeStillEndsWhatWasReplayedMeanwhile(t *testing.T) {
	q := newQueue(t)
	q.match(2)
	o := record.Outcome{MatchID: record.MatchID{Birth: 1}, Subscription: "s", Code: record.Withdrawn, Through: 1, At: t0}
	q.outcome(o)
	q.replay(2)
	q.want("1:2/1/0")
	q.outcome(o)
	q.want("")
}

// A replay and the outcome that ends the round may stand in either order, since they are in
// two logs. What counts is whether the outcome's writer had read the replay.
func TestAReplayOpensARoundUnlessItsWriterSawTheMatchPending(t *testing.T) {
	for _, c := range []struct {
		name     string
		do       func(q *queue) (last []Pending) // what the last step made pending
		pending  string
		returned int
	}{
		{name: "after the end", do: func(q *queue) []Pending {
			q.outcome(final(result(2, 0, record.Timeout)))
			return q.replay(2)
		}, pending: "1:2/1/0", returned: 1},
		{name: "while pending, seen by the one who ended it", do: func(q *queue) []Pending {
			q.replay(2)
			return q.outcome(result(2, 0, record.Accepted))
		}, pending: ""},
		{name: "while pending, not seen by the one who ended it", do: func(q *queue) []Pending {
			q.replay(2)
			return q.outcomeAfter(1, result(2, 0, record.Accepted))
		}, pending: "1:2/1/0", returned: 1},
		{name: "twice is one round", do: func(q *queue) []Pending {
			q.outcome(result(2, 0, record.Accepted))
			q.replay(2)
			return q.replay(2)
		}, pending: "1:2/1/0"},
		{name: "attempts begin again", do: func(q *queue) []Pending {
			q.outcome(result(2, 0, record.Timeout), final(attempt(2, result(2, 0, record.Timeout))))
			q.replay(2)
			return q.outcome(result(2, 1, record.Timeout))
		}, pending: "1:2/1/1"},
		{name: "a late outcome of the round before changes nothing", do: func(q *queue) []Pending {
			q.outcome(result(2, 0, record.Accepted))
			q.replay(2)
			return q.outcome(result(2, 0, record.Accepted))
		}, pending: "1:2/1/0"},
		{name: "a second round ends too", do: func(q *queue) []Pending {
			q.outcome(result(2, 0, record.Accepted))
			q.replay(2)
			return q.outcome(result(2, 1, record.Accepted))
		}, pending: ""},
		{name: "a third round", do: func(q *queue) []Pending {
			q.outcome(result(2, 0, record.Accepted))
			q.replay(2)
			q.outcome(result(2, 1, record.Accepted))
			return q.replay(2)
		}, pending: "1:2/2/0", returned: 1},
		{name: "of a match that is not there", do: func(q *queue) []Pending {
			q.outcome(result(2, 0, record.Accepted))
			return q.replay(7)
		}, pending: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(t)
			q.match(2)
			if got := c.do(q); len(got) != c.returned {
				t.Errorf("returned %+v, want %d", got, c.returned)
			}
			q.want(c.pending)
		})
	}
}

func TestAMatchSaysWhatBecameOfIt(t *testing.T) {
	q := newQueue(t)
	q.match(2)
	o := final(attempt(2, result(2, 0, record.HTTPStatus)))
	o.Status, o.Dead = 503, true
	q.outcome(result(2, 0, record.Timeout), o)
	m, ok, err := q.MatchByID(id(2))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if m.Open || !m.Dead || m.Ended != record.HTTPStatus || m.Status != 503 || m.Round != 0 || m.Attempts != 2 || m.Sequence != 1 {
		t.Errorf("dead: %+v", m)
	}
	q.replay(2)
	q.outcome(result(2, 1, record.Timeout))
	m, _, _ = q.MatchByNumber(1, 1)
	if !m.Open || m.Round != 1 || m.Attempts != 1 || m.Code != record.Timeout {
		t.Errorf("replayed: %+v", m)
	}
	if _, ok, err := q.MatchByNumber(1, 2); ok || err != nil {
		t.Errorf("a number that was not given: %v, %v", ok, err)
	}
}

func TestAMatchThatIsSaidTwiceIsOne(t *testing.T) {
	q := newQueue(t)
	q.match(2, 3)
	if again := q.match(3, 4, 2); len(again) != 1 || again[0].Event != 4 || again[0].Number != 3 {
		t.Errorf("got %+v", again)
	}
	if n := q.Stats().Counters[Matches].Repeated; n != 2 {
		t.Errorf("%d repeated, want 2", n)
	}
	// A record that was folded already gives nothing.
	if p, err := q.ApplyMatches(ctx, 1, &record.Block{Matches: []record.Match{{Event: 5, Birth: 1}}}, nil); p != nil || err != nil {
		t.Errorf("got %+v, %v", p, err)
	}
	evs := must(q.Events(1, 2, 3, 0))
	if len(evs) != 2 || evs[0].Event != 3 || evs[1].Event != 4 {
		t.Errorf("events 2 to 3: %+v", evs)
	}
	if evs := must(q.Events(1, 0, 0, 0)); len(evs) != 3 {
		t.Errorf("all events: %+v", evs)
	}
}

func TestRecordsThatComeTooEarlyAreRefusedUnfolded(t *testing.T) {
	q := newQueue(t)
	_, err := q.ApplyMatches(ctx, 1, &record.Block{Matches: []record.Match{{Event: 10, Birth: 1}}}, nil)
	if !errors.Is(err, ErrEarly) {
		t.Errorf("match of an event to come: %v", err)
	}
	_, err = q.ApplyOutcomes(ctx, 1, &record.OutcomeBlock{After: 1})
	if !errors.Is(err, ErrEarly) {
		t.Errorf("outcome of a match to come: %v", err)
	}
	if p := q.Position(); p.Matches != 0 || p.Outcomes != 0 {
		t.Errorf("position %+v", p)
	}
}

func TestTheTroubleshootingLogIsReadNewestFirst(t *testing.T) {
	q := newQueue(t)
	q.match(2, 3)
	for i := range 2*scanChunk + 10 {
		o := result(2+record.Sequence(i%2), 0, record.Timeout)
		o.Attempt, o.At, o.Status, o.Response, o.Took = i+1, t0.Add(time.Duration(i)*time.Minute), 500, "oh", time.Second
		q.outcome(o)
	}
	n := 2*scanChunk + 10
	attempts := func(f AttemptFilter) (out []int) {
		t.Helper()
		for _, a := range must(q.Attempts(ctx, f)) {
			out = append(out, a.Attempt)
		}
		return out
	}
	if got := attempts(AttemptFilter{Limit: 3}); !slices.Equal(got, []int{n, n - 1, n - 2}) {
		t.Errorf("newest: %v", got)
	}
	if got := attempts(AttemptFilter{Subscription: "s", Limit: 2000}); len(got) != n || got[n-1] != 1 {
		t.Errorf("of the Subscription: %d", len(got))
	}
	if got := attempts(AttemptFilter{Subscription: "other"}); got != nil {
		t.Errorf("of another: %v", got)
	}
	if got := attempts(AttemptFilter{Key: fhir.Key{Type: "Patient", ID: "p3"}, Limit: 2}); !slices.Equal(got, []int{n, n - 2}) {
		t.Errorf("of a resource: %v", got)
	}
	if got := attempts(AttemptFilter{Since: t0.Add(time.Duration(n-2) * time.Minute), Limit: 2000}); !slices.Equal(got, []int{n, n - 1}) {
		t.Errorf("since: %v", got)
	}
	if got := attempts(AttemptFilter{Code: record.Accepted}); got != nil {
		t.Errorf("accepted: %v", got)
	}
	page := must(q.Attempts(ctx, AttemptFilter{Limit: 1}))
	if a := page[0]; a.Number != 2 || a.Key.ID != "p3" || a.Status != 500 || a.Response != "oh" || a.Took != time.Second || a.Subscription != "s" || a.MatchID != id(3) {
		t.Errorf("line %+v", a)
	}
	if got := attempts(AttemptFilter{Before: page[0].Place, Limit: 2}); !slices.Equal(got, []int{n - 1, n - 2}) {
		t.Errorf("next page: %v", got)
	}
	if got := attempts(AttemptFilter{Subscription: "s", Before: page[0].Place, Limit: 1}); !slices.Equal(got, []int{n - 1}) {
		t.Errorf("next page of the Subscription: %v", got)
	}
}

func TestADeadLetterFollowsItsMatch(t *testing.T) {
	q := newQueue(t)
	state := func() DeadState {
		t.Helper()
		e, ok, err := q.DeadByID("s.1")
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		byMatch, ok, err := q.DeadByMatch(id(2))
		if err != nil || !ok || !reflect.DeepEqual(byMatch, e) {
			t.Fatalf("by match %+v, %v, %v; by id %+v", byMatch, ok, err, e)
		}
		return e.State
	}
	listed := func() int { return len(must(q.Dead(ctx, DeadFilter{}))) }
	expect := func(step string, want DeadState, shown int) {
		t.Helper()
		if got, n := state(), listed(); got != want || n != shown {
			t.Errorf("%s: %s, %d shown; want %s, %d", step, got, n, want, shown)
		}
	}
	dead := func(round int) {
		o := final(result(2, round, record.Timeout))
		o.Dead = true
		q.letter(2, 1, round)
		q.outcome(o)
	}
	q.match(2)
	dead(0)
	expect("given up", DeadLetter, 1)
	q.letter(2, 1, 0) // said twice
	expect("said twice", DeadLetter, 1)
	if e, _, _ := q.DeadByID("s.1"); e.Sequence != 1 || e.Reason != record.Timeout || e.Attempts != 3 || e.Endpoint != "https://h" || e.Key.ID != "p" {
		t.Errorf("entry %+v", e)
	}
	q.replay(2)
	expect("replayed", DeadReplayed, 1)
	dead(1)
	expect("given up again", DeadLetter, 1)
	if e, _, _ := q.DeadByID("s.1"); e.Round != 1 || e.Sequence != 3 {
		t.Errorf("newest letter %+v", e)
	}
	q.purge(2)
	expect("purged", DeadPurged, 0)
	if n := len(must(q.Dead(ctx, DeadFilter{Purged: true}))); n != 1 {
		t.Errorf("%d with the purged ones", n)
	}
	q.replay(2)
	dead(2)
	expect("given up after a purge", DeadLetter, 1)
	q.replay(2)
	q.outcome(result(2, 3, record.Accepted))
	expect("accepted", DeadAccepted, 1)
}

func TestALetterWhoseSenderLostItsLaneIsSettledByTheNextOwner(t *testing.T) {
	q := newQueue(t)
	q.match(2)
	q.letter(2, 1, 0) // its sender lost the lane before it could store that it gave up
	if e, _, err := q.DeadByID("s.1"); err != nil || e.State != DeadLetter {
		t.Fatalf("%s, %v; want it to lie there while nobody knows better", e.State, err)
	}
	q.outcome(result(2, 0, record.Accepted))
	if e, _, err := q.DeadByID("s.1"); err != nil || e.State != DeadAccepted {
		t.Errorf("%s, %v; want accepted: the next owner's attempt reached the endpoint", e.State, err)
	}
}

func TestDeadLettersAreFilteredNewestFirst(t *testing.T) {
	q := newQueue(t)
	err := q.ApplyDead(ctx, 1, &record.DeadLetter{MatchID: record.MatchID{Event: 7}, Subscription: Ingest, Reason: record.RenderError, LastFailure: t0})
	if err != nil {
		t.Fatal(err)
	}
	q.match(2, 3)
	q.letter(2, 1, 0)
	q.letter(3, 2, 0)
	ids := func(f DeadFilter) (out []string) {
		t.Helper()
		for _, e := range must(q.Dead(ctx, f)) {
			out = append(out, e.ID)
		}
		return out
	}
	for _, c := range []struct {
		name string
		f    DeadFilter
		want []string
	}{
		{"all", DeadFilter{}, []string{"s.2", "s.1", "ingest.7"}},
		{"a Subscription's", DeadFilter{Subscription: "s"}, []string{"s.2", "s.1"}},
		{"set aside at ingest", DeadFilter{Subscription: Ingest}, []string{"ingest.7"}},
		{"by reason", DeadFilter{Reason: record.RenderError}, []string{"ingest.7"}},
		{"since", DeadFilter{Since: t0.Add(time.Second)}, []string{"s.2", "s.1"}},
		{"until", DeadFilter{Until: t0.Add(time.Second)}, []string{"ingest.7"}},
		{"limit", DeadFilter{Limit: 1}, []string{"s.2"}},
		{"next page", DeadFilter{Before: 3, Limit: 1}, []string{"s.1"}},
		{"by state", DeadFilter{State: DeadAccepted}, nil},
	} {
		if got := ids(c.f); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for _, wrong := range []string{"", "s", "s.", "s.x", "s.3", "t.1", "ingest.8"} {
		if _, ok, err := q.DeadByID(wrong); ok || err != nil {
			t.Errorf("%q: %v, %v", wrong, ok, err)
		}
	}
	if _, ok, _ := q.DeadByMatch(record.MatchID{Event: 7}); !ok {
		t.Error("the record set aside at ingest is not found")
	}
	q.appendMatches(nil, &record.Job{Purge: []record.MatchID{{Event: 7}}})
	if got := ids(DeadFilter{}); !slices.Equal(got, []string{"s.2", "s.1"}) {
		t.Errorf("after its purge: %v", got)
	}
}

// Once letters were purged from DEAD, its first message is not 1. A feed that starts at the
// first that is there must be able to say so, else it waits for letters that are gone.
func TestDEADGoesOnAfterLettersThatWerePurgedFromTheLog(t *testing.T) {
	dir := t.TempDir()
	s := openStill(t, dir)
	w := &world{dead: []*record.DeadLetter{{MatchID: id(2), Subscription: "s", Number: 1, Reason: record.Timeout}}}
	w.apply(t, s, Dead, 1)
	seq, sum := s.LastRecord(Dead)

	if err := s.AdvanceDead(ctx, 40); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitApplied(ctx, Vector{Dead: 40}); err != nil {
		t.Fatal(err)
	}
	if err := s.AdvanceDead(ctx, 7); err != nil {
		t.Fatal(err)
	}
	if at := s.Position(); at != (Vector{Dead: 40}) {
		t.Errorf("position %+v, want DEAD at 40 and nothing else moved", at)
	}
	if q, c := s.LastRecord(Dead); q != seq || c != sum {
		t.Errorf("the last record is %d (%x) now, was %d (%x): nothing was read", q, c, seq, sum)
	}
	if n := len(must(s.Dead(ctx, DeadFilter{}))); n != 1 {
		t.Errorf("%d letters are listed, want the one folded before", n)
	}
	s.flush()
	s.kill()

	s = openStill(t, dir)
	defer s.kill()
	if at := s.Position().Dead; at != 40 {
		t.Errorf("goes on at %d after a start, want 40", at)
	}
	next := &record.DeadLetter{MatchID: id(3), Subscription: "s", Number: 2, Reason: record.Timeout}
	if err := s.ApplyDead(ctx, 41, next); err != nil {
		t.Fatal(err)
	}
	if n := len(must(s.Dead(ctx, DeadFilter{}))); n != 2 {
		t.Errorf("%d letters are listed after the next one, want 2", n)
	}
}

func TestWaitAppliedReturnsWhenEveryLogIsThere(t *testing.T) {
	q := newQueue(t)
	done := make(chan error)
	go func() { done <- q.WaitApplied(ctx, Vector{Events: 9, Matches: 1, Outcomes: 1}) }()
	q.match(2)
	select {
	case err := <-done:
		t.Fatalf("returned before the outcome: %v", err)
	default:
	}
	q.outcome(result(2, 0, record.Accepted))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	go func() { done <- q.WaitApplied(ctx, Vector{Dead: 1}) }()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Fatalf("after close: %v", err)
	}
}
