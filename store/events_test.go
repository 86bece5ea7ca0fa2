package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// said is an event of Patient/p in short: what the writer asked, whether it is a change feed,
// and the body.
type said struct {
	asked fhir.Interaction
	feed  bool
	body  string
}

func TestTheFoldSaysWhatAnEventDid(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []said
		// of the last event: what it did, the version before it and its birth, as sequences
		did             fhir.Interaction
		previous, birth record.Sequence
		history         []record.Sequence // newest first
		aside           uint64
	}{
		{name: "first write creates", events: []said{{body: "1"}}, did: fhir.Create, birth: 1, history: []record.Sequence{1}},
		{name: "second write updates", events: []said{{body: "1"}, {body: "2"}}, did: fhir.Update, previous: 1, birth: 1, history: []record.Sequence{2, 1}},
		{name: "equal content changes nothing", events: []said{{body: "1"}, {body: "1"}}, did: fhir.Unchanged, previous: 1, birth: 1, history: []record.Sequence{1}},
		{name: "equal content asked as an update changes nothing", events: []said{{body: "1"}, {fhir.Update, true, "1"}}, did: fhir.Unchanged, previous: 1, birth: 1, history: []record.Sequence{1}},
		{name: "content of an older version is a change", events: []said{{body: "1"}, {body: "2"}, {body: "1"}}, did: fhir.Update, previous: 2, birth: 1, history: []record.Sequence{3, 2, 1}},
		{name: "delete", events: []said{{body: "1"}, {asked: fhir.Delete}}, did: fhir.Delete, previous: 1, birth: 1, history: []record.Sequence{2, 1}},
		{name: "delete of what is not there", events: []said{{asked: fhir.Delete}}, did: fhir.Unchanged},
		{name: "delete of what is deleted", events: []said{{body: "1"}, {asked: fhir.Delete}, {asked: fhir.Delete}}, did: fhir.Unchanged, birth: 1, history: []record.Sequence{2, 1}},
		{name: "a feed's delete of what is not there is believed", events: []said{{fhir.Delete, true, ""}}, did: fhir.Delete, history: []record.Sequence{1}},
		{name: "a feed's delete of what is deleted changes nothing", events: []said{{body: "1"}, {asked: fhir.Delete}, {fhir.Delete, true, ""}}, did: fhir.Unchanged, birth: 1, history: []record.Sequence{2, 1}},
		{name: "a feed's delete that is said twice is one", events: []said{{fhir.Delete, true, ""}, {fhir.Delete, true, ""}}, did: fhir.Unchanged, history: []record.Sequence{1}},
		{name: "write after a delete is a new birth", events: []said{{body: "1"}, {asked: fhir.Delete}, {body: "1"}}, did: fhir.Create, birth: 3, history: []record.Sequence{3, 2, 1}},
		{name: "update asked of what is not there is believed", events: []said{{fhir.Update, false, "1"}}, did: fhir.Update, birth: 1, history: []record.Sequence{1}},
		{name: "update asked after a delete is believed, without a previous state", events: []said{{body: "1"}, {asked: fhir.Delete}, {fhir.Update, false, "2"}}, did: fhir.Update, birth: 3, history: []record.Sequence{3, 2, 1}},
		{name: "create asked of what is there is believed, and its life goes on", events: []said{{body: "1"}, {fhir.Create, false, "2"}}, did: fhir.Create, birth: 1, history: []record.Sequence{2, 1}},
		{name: "what cannot be read is set aside", events: []said{{body: "1"}, {body: "bad"}}, did: fhir.Unchanged, previous: 1, birth: 1, history: []record.Sequence{1}, aside: 1},
		{name: "what makes the reader panic is set aside", events: []said{{body: "panic"}}, did: fhir.Unchanged, aside: 1},
		{name: "an interaction that is none is set aside", events: []said{{"patch", false, "1"}}, did: fhir.Unchanged, aside: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openRunning(t, t.TempDir())
			key := fhir.Key{Type: "Patient", ID: "p"}
			var events []record.Event
			for i, e := range c.events {
				events = append(events, record.Event{
					Sequence: record.Sequence(i + 1), Time: t0.Add(time.Duration(i) * time.Minute),
					Key: key, Asked: e.asked, Feed: e.feed, Body: []byte(e.body),
				})
			}
			last := record.Sequence(len(events))
			changes, err := s.ApplyEvents(ctx, events, last)
			if err != nil {
				t.Fatal(err)
			}
			got := changes[len(changes)-1]
			if got.Interaction != c.did || got.Previous != c.previous || got.Birth != c.birth {
				t.Errorf("did %s, previous %d, birth %d; want %s, %d, %d", got.Interaction, got.Previous, got.Birth, c.did, c.previous, c.birth)
			}
			var history []record.Sequence
			for v, err := range s.History(key) {
				if err != nil {
					t.Fatal(err)
				}
				history = append(history, v.Sequence)
			}
			if !slices.Equal(history, c.history) {
				t.Errorf("history %v, want %v", history, c.history)
			}
			res, ok, err := s.Resource(key)
			if err != nil || ok != (len(c.history) > 0) || res.Last != last {
				t.Errorf("resource %+v, %v, %v; last message is %d", res, ok, err, last)
			}
			if ok && (res.Version != c.history[0] || !res.Time.Equal(events[res.Version-1].Time)) {
				t.Errorf("version %d of %s, want %d", res.Version, res.Time, c.history[0])
			}
			if n := s.Stats().Counters[Events].SetAside; n != c.aside {
				t.Errorf("%d set aside, want %d", n, c.aside)
			}
			before, ok, err := s.Before(last)
			if err != nil || ok != (c.did != fhir.Unchanged) || ok && (before.Previous != c.previous || before.Key != key) {
				t.Errorf("before %+v, %v, %v", before, ok, err)
			}
		})
	}
}

func TestEventsBeforeThePositionAreFoldedOnce(t *testing.T) {
	s := openRunning(t, t.TempDir())
	e := func(seq record.Sequence, body string) record.Event {
		return record.Event{Sequence: seq, Time: t0, Key: fhir.Key{Type: "Patient", ID: "p"}, Body: []byte(body)}
	}
	must(s.ApplyEvents(ctx, []record.Event{e(1, "1"), e(2, "2")}, 3)) // 3 is a control record
	changes := must(s.ApplyEvents(ctx, []record.Event{e(1, "1"), e(2, "2"), e(4, "4")}, 4))
	if len(changes) != 1 || changes[0].Sequence != 4 || changes[0].Previous != 2 {
		t.Fatalf("got %+v", changes)
	}
	must(s.ApplyEvents(ctx, nil, 9))
	if p := s.Position(); p.Events != 9 {
		t.Fatalf("position %d after control records up to 9", p.Events)
	}
	seq, sum := s.LastRecord(Events)
	last, other := e(4, "4"), e(4, "replaced")
	if seq != 4 || sum != SumEvent(&last) || sum == SumEvent(&other) {
		t.Fatalf("last record %d with %x", seq, sum)
	}
}

func TestIdentifiersFindTheCurrentVersionOnly(t *testing.T) {
	s := openRunning(t, t.TempDir())
	seq := record.Sequence(0)
	write := func(typ string, id fhir.ID, asked fhir.Interaction, body string) {
		seq++
		must(s.ApplyEvents(ctx, []record.Event{{Sequence: seq, Time: t0, Key: fhir.Key{Type: typ, ID: id}, Asked: asked, Body: []byte(body)}}, seq))
	}
	write("Patient", "a", "", "x id:sys|1,other|1,sys|2")
	write("Patient", "b", "", "x id:|1")
	write("Group", "c", "", "x id:sys|1")
	find := func(system, value string, want ...fhir.ID) {
		t.Helper()
		got := must(s.IdentifierLookup("Patient", system, value, 0))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q|%q finds %v, want %v", system, value, got, want)
		}
	}
	find("sys", "1", "a")
	find("", "1", "b")
	find(AnySystem, "1", "a", "b")
	find("sys", "3")
	write("Patient", "a", "", "y id:sys|2,sys|3")
	find("sys", "1")
	find("sys", "2", "a")
	find("sys", "3", "a")
	write("Patient", "a", fhir.Delete, "")
	find("sys", "3")
	write("Patient", "a", "", "y id:sys|3")
	find("sys", "3", "a")
}

func TestListPagesThroughATypeById(t *testing.T) {
	s := openRunning(t, t.TempDir())
	var events []record.Event
	for i := range 30 {
		events = append(events, record.Event{Sequence: record.Sequence(i + 1), Time: t0, Key: fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprintf("p%d", i))}, Body: []byte("1")})
	}
	events = append(events,
		record.Event{Sequence: 31, Key: fhir.Key{Type: "Patient", ID: "p10"}, Asked: fhir.Delete},
		record.Event{Sequence: 32, Key: fhir.Key{Type: "PatientX", ID: "z"}, Body: []byte("1")},
		record.Event{Sequence: 33, Key: fhir.Key{Type: "Patient", ID: "unread"}, Body: []byte("bad")})
	must(s.ApplyEvents(ctx, events, 33))
	var got []string
	for after := fhir.ID(""); ; {
		page := must(s.List("Patient", after, 7))
		for _, r := range page {
			got = append(got, string(r.Key.ID))
			after = r.Key.ID
		}
		if len(page) < 7 {
			break
		}
	}
	if len(got) != 29 || !slices.IsSorted(got) || slices.Contains(got, "p10") {
		t.Fatalf("listed %d: %v", len(got), got)
	}
}

func TestSubscriptionVersionsAreKeptUntilPruned(t *testing.T) {
	s := openRunning(t, t.TempDir())
	var events []record.Event
	add := func(id fhir.ID, asked fhir.Interaction) {
		seq := record.Sequence(len(events) + 1)
		events = append(events, record.Event{Sequence: seq, Time: t0, Key: fhir.Key{Type: "Subscription", ID: id}, Asked: asked, Owner: "t1", Body: fmt.Append(nil, seq)})
	}
	add("a", "")          // 1
	add("b", "")          // 2
	add("a", "")          // 3
	add("b", fhir.Delete) // 4
	add("a", "")          // 5
	add("c", "")          // 6
	must(s.ApplyEvents(ctx, events, 6))
	versions := func() (out []string) {
		if err := s.SubscriptionVersions(func(v SubscriptionVersion) error {
			out = append(out, fmt.Sprintf("%s/%d %s %q", v.ID, v.Sequence, v.Interaction, v.Body))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := []string{`a/1 create "1"`, `a/3 update "3"`, `a/5 update "5"`, `b/2 create "2"`, `b/4 delete ""`, `c/6 create "6"`}
	if got := versions(); !slices.Equal(got, all) {
		t.Fatalf("got %q", got)
	}
	if n := must(s.PruneSubscriptions(ctx, 4)); n != 3 {
		t.Errorf("pruned %d, want 3", n)
	}
	// An event after 4 may still meet a/3, which was in force there.
	if got, want := versions(), []string{all[1], all[2], all[5]}; !slices.Equal(got, want) {
		t.Fatalf("after pruning got %q, want %q", got, want)
	}
}

func TestManySubscriptionsAreShownOnceEach(t *testing.T) {
	s := openRunning(t, t.TempDir())
	var events []record.Event
	n := 2*scanChunk + 3
	for i := range n {
		events = append(events, record.Event{Sequence: record.Sequence(i + 1), Key: fhir.Key{Type: "Subscription", ID: fhir.ID(fmt.Sprintf("s.%d", i/2))}, Body: fmt.Append(nil, i)})
	}
	must(s.ApplyEvents(ctx, events, record.Sequence(n)))
	seen := map[record.Sequence]bool{}
	if err := s.SubscriptionVersions(func(v SubscriptionVersion) error {
		if seen[v.Sequence] {
			t.Fatalf("%d shown twice", v.Sequence)
		}
		seen[v.Sequence] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != n {
		t.Fatalf("%d shown, want %d", len(seen), n)
	}
}
