package store

import (
	"fmt"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Two nodes read four logs in whatever order they come, each waiting only for what a record
// names. One of them is killed now and then, and goes on from what its file holds. At the end
// both hold the same bytes.
func TestInvariant08TheProjectionIsAFunctionOfTheLogs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := drawWorld(rt)
		calm := openStill(rt, t.TempDir())
		defer calm.kill()
		w.inOrder(rt, calm, w.end())
		want := contents(rt, calm)

		dir := t.TempDir()
		s := openStill(rt, dir)
		defer func() { s.kill() }()
		for s.Position() != w.end() {
			switch st := Stream(rapid.IntRange(0, int(streamCount)+1).Draw(rt, "next")); {
			case st < streamCount && w.can(st, s.Position()):
				w.apply(rt, s, st, rapid.IntRange(1, 4).Draw(rt, "events"))
			case st == streamCount:
				s.flush()
			case st == streamCount+1 && rapid.IntRange(0, 3).Draw(rt, "kill") == 0:
				saved := s.Saved()
				s.kill()
				s = openStill(rt, dir)
				if s.Position() != saved {
					rt.Fatalf("goes on at %+v, the file was at %+v", s.Position(), saved)
				}
			}
		}
		if names := different(want, contents(rt, s)); names != nil {
			rt.Fatalf("another order of reading leaves other bytes in %v", names)
		}
		if err := s.Verify(ctx); err != nil {
			rt.Fatal(err)
		}
		if calm.Stats().Pending != s.Stats().Pending {
			rt.Fatalf("pending: %d and %d", calm.Stats().Pending, s.Stats().Pending)
		}
	})
}

// Whatever part of the folds a crash leaves in the file, it is the state at the file's vector.
func TestInvariant08AKilledFileIsTheFoldOfItsVector(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := drawWorld(rt)
		dir := t.TempDir()
		s := openStill(rt, dir)
		for s.Position() != w.end() {
			st := Stream(rapid.IntRange(0, int(streamCount)).Draw(rt, "next"))
			if st == streamCount {
				s.flush()
			} else if w.can(st, s.Position()) {
				w.apply(rt, s, st, 2)
			}
		}
		s.kill()

		after := openStill(rt, dir)
		defer after.kill()
		fresh := openStill(rt, t.TempDir())
		defer fresh.kill()
		w.inOrder(rt, fresh, after.Saved())
		if names := different(contents(rt, fresh), contents(rt, after)); names != nil {
			rt.Fatalf("the file is not the fold of its vector in %v", names)
		}
	})
}

// Numbers of a birth rise by one in the order of MATCHES, also when a match is said twice, and
// a number never comes to mean another match.
func TestInvariant04NumbersRiseByOneAndKeepTheirMeaning(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := drawWorld(rt)
		s := openStill(rt, t.TempDir())
		defer s.kill()
		meaning := map[record.Sequence][]record.MatchID{} // of each birth, by number-1
		seen := map[record.MatchID]bool{}
		for s.Position().Events < w.end().Events {
			w.apply(rt, s, Events, 10)
		}
		for i, m := range w.matches {
			fresh, err := s.ApplyMatches(ctx, record.Sequence(i+1), m.block, m.job)
			if err != nil {
				rt.Fatal(err)
			}
			ms, _, _ := contentOf(m.block, m.job)
			for _, x := range ms {
				// A match of an event without effect is none.
				if _, ok, _ := s.Before(x.Event); !ok {
					continue
				}
				if id := (record.MatchID{Event: x.Event, Birth: x.Birth}); !seen[id] {
					seen[id] = true
					meaning[x.Birth] = append(meaning[x.Birth], id)
				}
			}
			for _, p := range fresh {
				if want := meaning[p.Birth][p.Number-1]; want.Event != p.Event {
					rt.Fatalf("number %d of birth %d came with event %d, want %d", p.Number, p.Birth, p.Event, want.Event)
				}
			}
		}
		for s.Position() != w.end() {
			for _, st := range []Stream{Outcomes, Dead} {
				if w.can(st, s.Position()) {
					w.apply(rt, s, st, 1)
				}
			}
		}
		for birth, ids := range meaning {
			if n := must(s.Counter(birth)); n != fhir.EventNumber(len(ids)) {
				rt.Fatalf("birth %d counts %d, want %d", birth, n, len(ids))
			}
			for i, id := range ids {
				m, ok, err := s.MatchByNumber(birth, fhir.EventNumber(i+1))
				if err != nil || !ok || m.Event != id.Event {
					rt.Fatalf("number %d of birth %d is event %d (%v, %v), want %d", i+1, birth, m.Event, ok, err, id.Event)
				}
				back, ok, err := s.MatchByID(id)
				if err != nil || !ok || back.Number != m.Number {
					rt.Fatalf("event %d of birth %d has number %d (%v, %v), want %d", id.Event, birth, back.Number, ok, err, m.Number)
				}
			}
		}
	})
}

// What a caller was handed stays as it is while the file underneath is written over and over,
// and even after it is closed.
func TestInvariant09BytesLeaveTransactionsOnlyAsCopies(t *testing.T) {
	dir := t.TempDir()
	s := openStill(t, dir)
	var events []record.Event
	for i := range 50 {
		events = append(events, record.Event{
			Sequence: record.Sequence(i + 1), Time: t0, Owner: "owner",
			Key:  fhir.Key{Type: "Subscription", ID: fhir.ID(fmt.Sprintf("s%02d", i))},
			Body: fmt.Appendf(nil, "body of %02d id:system|value%02d", i, i),
		})
	}
	if _, err := s.ApplyEvents(ctx, events, 50); err != nil {
		t.Fatal(err)
	}
	s.flush()
	var held []SubscriptionVersion
	if err := s.SubscriptionVersions(func(v SubscriptionVersion) error { held = append(held, v); return nil }); err != nil {
		t.Fatal(err)
	}
	listed := must(s.List("Subscription", "", 50))
	found := must(s.IdentifierLookup("Subscription", "system", "value07", 0))
	for round := range 5 {
		for i := range events {
			events[i].Sequence += 50
			events[i].Body = fmt.Appendf(nil, "%s%d", "XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX", round)
		}
		if _, err := s.ApplyEvents(ctx, events, events[49].Sequence); err != nil {
			t.Fatal(err)
		}
		s.flush()
		if _, err := s.PruneSubscriptions(ctx, events[0].Sequence); err != nil {
			t.Fatal(err)
		}
		s.flush()
	}
	s.kill()
	if err := os.Truncate(s.layers.file.path, 0); err != nil {
		t.Fatal(err)
	}
	for i, v := range held {
		if want := fmt.Sprintf("body of %02d id:system|value%02d", i, i); string(v.Body) != want || v.Owner != "owner" {
			t.Fatalf("body of %s became %q", v.ID, v.Body)
		}
		if listed[i].Key.ID != v.ID {
			t.Fatalf("key became %q", listed[i].Key)
		}
	}
	if len(found) != 1 || found[0] != "s07" {
		t.Fatalf("found %q", found)
	}
}

// A rebuild gives every match the number that it had; a Subscription that is born again gets
// another birth and starts at 1 without meeting the numbers of its former life.
func TestInvariant11NothingIsNamedTwice(t *testing.T) {
	dir := t.TempDir()
	key := fhir.Key{Type: "Subscription", ID: "s"}
	sub := func(seq record.Sequence, asked fhir.Interaction) record.Event {
		return record.Event{Sequence: seq, Time: t0, Key: key, Asked: asked, Body: fmt.Appendf(nil, "version %d", seq)}
	}
	patient := func(seq record.Sequence) record.Event {
		return record.Event{Sequence: seq, Time: t0, Key: fhir.Key{Type: "Patient", ID: "p"}, Body: fmt.Appendf(nil, "%d", seq)}
	}
	w := &world{
		events: []record.Event{sub(1, ""), patient(2), sub(3, fhir.Delete), sub(4, ""), patient(5), sub(6, ""), patient(7)},
		matches: []mrec{
			{block: &record.Block{Matches: []record.Match{{Event: 2, Subscription: "s", Birth: 1, Version: 1}}}},
			{block: &record.Block{Matches: []record.Match{{Event: 5, Subscription: "s", Birth: 4, Version: 4}}}},
			{block: &record.Block{Matches: []record.Match{{Event: 7, Subscription: "s", Birth: 4, Version: 6}}}},
		},
	}
	numbers := func(s *Store) (out []string) {
		for _, id := range []record.MatchID{{Event: 2, Birth: 1}, {Event: 5, Birth: 4}, {Event: 7, Birth: 4}} {
			m, ok, err := s.MatchByID(id)
			if !ok || err != nil {
				t.Fatalf("match %v: %v, %v", id, ok, err)
			}
			out = append(out, fmt.Sprintf("birth %d event %d number %d", m.Birth, m.Event, m.Number))
		}
		return out
	}
	s := openStill(t, dir)
	w.inOrder(t, s, w.end())
	before, beforeBytes := numbers(s), contents(t, s)
	var births []record.Sequence
	for v, err := range s.History(key) {
		if err != nil {
			t.Fatal(err)
		}
		births = append(births, v.Birth)
	}
	if fmt.Sprint(births) != "[4 4 1 1]" {
		t.Fatalf("births, newest version first: %v", births)
	}
	if want := []string{"birth 1 event 2 number 1", "birth 4 event 5 number 1", "birth 4 event 7 number 2"}; fmt.Sprint(before) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", before, want)
	}
	s.kill()

	if _, err := Rebuild(dir); err != nil {
		t.Fatal(err)
	}
	s = openStill(t, dir)
	defer s.kill()
	if s.Position() != (Vector{}) {
		t.Fatalf("a rebuilt projection starts at %+v", s.Position())
	}
	w.inOrder(t, s, w.end())
	if after := numbers(s); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatalf("after a rebuild %v, before %v", after, before)
	}
	if names := different(beforeBytes, contents(t, s)); names != nil {
		t.Fatalf("a rebuild differs in %v", names)
	}
}
