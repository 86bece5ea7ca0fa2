package store

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

var ctx = context.Background()

// readBody stands for the JSON reader: a body is "content", "content id:system|value,…" or
// "content ref:Type/id,…"; "bad" cannot be read and "panic" is a reader's bug.
func readBody(body []byte) (c Content, err error) {
	text, refs, _ := strings.Cut(string(body), " ref:")
	text, list, _ := strings.Cut(text, " id:")
	switch text {
	case "bad":
		return c, errors.New("cannot be read")
	case "panic":
		panic("reader")
	}
	for part := range strings.SplitSeq(list, ",") {
		if system, value, ok := strings.Cut(part, "|"); ok {
			c.Identifiers = append(c.Identifiers, [2]string{system, value})
		}
	}
	if refs != "" {
		c.References = strings.Split(refs, ",")
	}
	c.Sum = md5.Sum(body)
	return c, nil
}

var testOptions = Options{Hash: readBody, LockWait: time.Millisecond, noSync: true}

var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// harness is what *testing.T and *rapid.T have in common.
type harness interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// openStill opens a store whose writer does not run: flush writes, and close without it is a
// kill.
func openStill(t harness, dir string) *Store {
	t.Helper()
	s, err := open(dir, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Store) kill() { s.layers.file.close() }

// openRunning opens a store as a node does, closed when the test ends.
func openRunning(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// world is a set of logs. Records of MATCHES and OUTCOMES may name what they like, within the
// one rule that the callers keep.
type world struct {
	events   []record.Event // sequence = index+1; an event without a key is a control record
	matches  []mrec
	outcomes []*record.OutcomeBlock
	dead     []*record.DeadLetter
}

type mrec struct {
	block *record.Block
	job   *record.Job
}

// needs says how far EVENTS must be folded for a record of MATCHES.
func (m mrec) needs() (seq record.Sequence) {
	ms, _, _ := contentOf(m.block, m.job)
	for _, x := range ms {
		seq = max(seq, x.Event)
	}
	return seq
}

func (w *world) end() Vector {
	return Vector{
		Events: record.Sequence(len(w.events)), Matches: record.Sequence(len(w.matches)),
		Outcomes: record.Sequence(len(w.outcomes)), Dead: record.Sequence(len(w.dead)),
	}
}

// can reports whether the next record of a log may be applied.
func (w *world) can(st Stream, at Vector) bool {
	i := int(at.Of(st))
	switch st {
	case Events:
		return i < len(w.events)
	case Matches:
		return i < len(w.matches) && w.matches[i].needs() <= at.Events
	case Outcomes:
		return i < len(w.outcomes) && (w.outcomes[i] == nil || w.outcomes[i].After <= at.Matches)
	default:
		return i < len(w.dead)
	}
}

// apply folds the next n events, or the next record of another log.
func (w *world) apply(t harness, s *Store, st Stream, n int) {
	t.Helper()
	i := int(s.Position().Of(st))
	seq := record.Sequence(i + 1)
	var err error
	switch st {
	case Events:
		last := min(i+n, len(w.events))
		var events []record.Event
		for _, e := range w.events[i:last] {
			if e.Key != (fhir.Key{}) {
				events = append(events, e)
			}
		}
		_, err = s.ApplyEvents(ctx, events, record.Sequence(last))
	case Matches:
		_, err = s.ApplyMatches(ctx, seq, w.matches[i].block, w.matches[i].job)
	case Outcomes:
		_, err = s.ApplyOutcomes(ctx, seq, w.outcomes[i])
	case Dead:
		err = s.ApplyDead(ctx, seq, w.dead[i])
	}
	if err != nil {
		t.Fatalf("apply %s %d: %v", st, seq, err)
	}
}

// inOrder folds one log after the other, up to a vector.
func (w *world) inOrder(t harness, s *Store, to Vector) {
	t.Helper()
	for st := range streamCount {
		for s.Position().Of(st) < to.Of(st) {
			w.apply(t, s, st, 1)
		}
	}
}

// contents flushes and returns the hash of every bucket.
func contents(t harness, s *Store) Hashes {
	t.Helper()
	s.flush()
	h, err := s.Hash(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// different names the buckets in which two contents differ.
func different(a, b Hashes) []string {
	var names []string
	for _, n := range slices.Sorted(maps.Keys(a.Buckets)) {
		if a.Buckets[n] != b.Buckets[n] {
			names = append(names, n)
		}
	}
	if a.Vector != b.Vector {
		names = append(names, fmt.Sprintf("position %+v %+v", a.Vector, b.Vector))
	}
	return names
}

// drawWorld makes logs of a few resources, two Subscriptions' births, and everything that may
// go wrong in a record.
func drawWorld(t *rapid.T) *world {
	w := new(world)
	ids := []fhir.ID{"a", "b", "c.d"}
	types := []string{"Patient", "Subscription"}
	bodies := []string{"one", "two", "three id:sys|1,|1", "three id:sys|2", "four ref:Patient/a,Patient/b,Patient/a", "bad", "panic", ""}
	asked := []fhir.Interaction{"", "", "", fhir.Create, fhir.Update, fhir.Delete, "patch"}
	births := []record.Sequence{1, 2}
	nEvents := rapid.IntRange(3, 25).Draw(t, "events")
	narrow := rapid.Bool().Draw(t, "narrow") // everything is about two matches
	for i := range nEvents {
		seq := record.Sequence(i + 1)
		if i >= 3 && rapid.IntRange(0, 9).Draw(t, "control") == 0 {
			w.events = append(w.events, record.Event{Sequence: seq})
			continue
		}
		if i < 3 { // so that there is something to match
			w.events = append(w.events, record.Event{Sequence: seq, Time: t0, Key: fhir.Key{Type: types[i%2], ID: ids[i]}, Body: []byte("first")})
			continue
		}
		w.events = append(w.events, record.Event{
			Sequence: seq, Time: t0.Add(time.Duration(i) * time.Second),
			Key:   fhir.Key{Type: rapid.SampledFrom(types).Draw(t, "type"), ID: rapid.SampledFrom(ids).Draw(t, "id")},
			Asked: rapid.SampledFrom(asked).Draw(t, "asked"),
			Feed:  rapid.Bool().Draw(t, "feed"),
			Owner: "token",
			Body:  []byte(rapid.SampledFrom(bodies).Draw(t, "body")),
		})
	}
	matchID := rapid.Custom(func(t *rapid.T) record.MatchID {
		if narrow {
			return record.MatchID{Event: record.Sequence(rapid.IntRange(1, 2).Draw(t, "event")), Birth: 1}
		}
		return record.MatchID{
			Event: record.Sequence(rapid.IntRange(1, min(nEvents, 6)).Draw(t, "event")),
			Birth: rapid.SampledFrom(births).Draw(t, "birth"),
		}
	})
	match := rapid.Custom(func(t *rapid.T) record.Match {
		id := matchID.Draw(t, "id")
		return record.Match{Event: id.Event, Birth: id.Birth, Subscription: ids[id.Birth-1], Version: id.Birth, Interaction: fhir.Update}
	})
	for i := range rapid.IntRange(0, 12).Draw(t, "matches") {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			w.matches = append(w.matches, mrec{})
		case 1, 2, 3, 4:
			w.matches = append(w.matches, mrec{job: &record.Job{
				ID:      fmt.Sprint("job", i),
				Replay:  rapid.SliceOfN(matchID, 0, 4).Draw(t, "replay"),
				Matches: rapid.SliceOfN(match, 0, 1).Draw(t, "new"),
				Purge:   rapid.SliceOfN(matchID, 0, 1).Draw(t, "purge"),

				Interaction: rapid.SampledFrom([]fhir.Interaction{"", fhir.Delete}).Draw(t, "as"),
				Expire:      record.Sequence(max(0, rapid.IntRange(-8, 6).Draw(t, "expire"))),
			}})
			if j := w.matches[i].job; rapid.Bool().Draw(t, "in steps") {
				j.ID, j.Matches = "steps", nil // whose matches count is TestAStepThatIsWrittenTwiceCountsOnce
				j.Step = &record.Step{N: rapid.IntRange(1, 3).Draw(t, "step"), State: rapid.SampledFrom(record.JobStates()).Draw(t, "state")}
				if rapid.Bool().Draw(t, "ordered") {
					j.Order = &record.Order{Kind: record.JobReplay, Subscription: "a", Letters: []string{"a.1"}}
				}
			}
		default:
			w.matches = append(w.matches, mrec{block: &record.Block{
				Partition: "p", Through: record.Sequence(nEvents),
				Matches: rapid.SliceOfN(match, 0, 5).Draw(t, "matches"),
			}})
		}
	}
	codes := []record.Code{record.Accepted, record.Timeout, record.HTTPStatus, record.Withdrawn, record.Skipped}
	outcome := rapid.Custom(func(t *rapid.T) record.Outcome {
		id := matchID.Draw(t, "id")
		o := record.Outcome{
			MatchID: id, Subscription: ids[id.Birth-1],
			Round: rapid.IntRange(0, 2).Draw(t, "round"), Attempt: rapid.IntRange(1, 3).Draw(t, "attempt"),
			Code: rapid.SampledFrom(codes).Draw(t, "code"), Status: 500, At: t0, Took: time.Millisecond,
			Final: rapid.IntRange(0, 2).Draw(t, "final") == 0,
		}
		if rapid.IntRange(0, 7).Draw(t, "range") == 0 {
			o.Event, o.Through = 0, fhir.EventNumber(rapid.IntRange(1, 6).Draw(t, "through"))
		}
		return o
	})
	for range rapid.IntRange(0, 16).Draw(t, "outcomes") {
		if rapid.IntRange(0, 15).Draw(t, "unreadable") == 0 {
			w.outcomes = append(w.outcomes, nil)
			continue
		}
		if n := len(w.outcomes); n > 0 && rapid.IntRange(0, 5).Draw(t, "stored twice") == 0 {
			w.outcomes = append(w.outcomes, w.outcomes[n-1])
			continue
		}
		w.outcomes = append(w.outcomes, &record.OutcomeBlock{
			Lane: "l", Owner: "n1",
			After:    record.Sequence(rapid.IntRange(0, len(w.matches)).Draw(t, "after")),
			Outcomes: rapid.SliceOfN(outcome, 0, 4).Draw(t, "outcomes"),
		})
	}
	for range rapid.IntRange(0, 6).Draw(t, "letters") {
		id := matchID.Draw(t, "id")
		sub, n := ids[id.Birth-1], fhir.EventNumber(rapid.IntRange(1, 3).Draw(t, "number"))
		if rapid.IntRange(0, 4).Draw(t, "ingest") == 0 {
			sub, id.Birth = Ingest, 0
		}
		w.dead = append(w.dead, &record.DeadLetter{
			MatchID: id, Subscription: sub, Number: n, Round: rapid.IntRange(0, 2).Draw(t, "round"),
			Reason: record.Timeout, Attempts: 3, LastFailure: t0, Body: []byte("body"),
		})
	}
	return w
}
