package match

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

func TestExplainNamesTheConditionThatIsNotMet(t *testing.T) {
	end := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	x := index.New()
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 10, End: end, Interactions: []fhir.Interaction{fhir.Create, fhir.Update}, Criteria: compile(t, "Patient?gender=female")})
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 20, End: end, Interactions: []fhir.Interaction{fhir.Create, fhir.Update}, Criteria: compile(t, "Patient?gender=female&active=true")})
	x.Close("s", 30)
	tree, err := json.Parse([]byte(`{"resourceType":"Patient","id":"a","gender":"female"}`), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := search.NewResource(search.R4(), tree)
	for _, test := range []struct {
		name        string
		at          record.Sequence
		time        time.Time
		interaction fhir.Interaction
		version     record.Sequence
		unmet       []string // beginnings of the unmet conditions' texts
		note        string
	}{
		{"it matches", 15, end.Add(-1), fhir.Update, 10, nil, ""},
		{"the version in force is asked", 25, time.Time{}, fhir.Update, 20, []string{"active"}, ""},
		{"an event before the Subscription", 10, time.Time{}, fhir.Update, 20, []string{"in force", "active"}, "written at 20, the event was at 10"},
		{"an event after it ended", 31, time.Time{}, fhir.Update, 20, []string{"in force", "active"}, "ended at 30"},
		{"an event after its end", 15, end, fhir.Update, 10, []string{"before its end"}, "2027-01-01T00:00:00Z"},
		{"an interaction it does not hear", 15, time.Time{}, fhir.Delete, 10, []string{"listens to delete"}, "create, update"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, err := Explain(t.Context(), x, Question{Subscription: "s", At: test.at, Time: test.time, Interaction: test.interaction, Resource: r})
			if err != nil {
				t.Fatal(err)
			}
			hits := x.Match(test.at, test.time, test.interaction, r, nil, nil)
			if e.Matches != (len(hits) == 1) || e.Matches != (test.unmet == nil) {
				t.Errorf("explained as %v, matched %v", e.Matches, hits)
			}
			if e.Version != test.version || e.Birth != 10 {
				t.Errorf("asked version %d of birth %d", e.Version, e.Birth)
			}
			var unmet []string
			said := test.note == ""
			for _, c := range e.Conditions {
				if !c.Met {
					unmet = append(unmet, c.Text)
				}
				said = said || strings.Contains(c.Note, test.note)
			}
			if len(unmet) != len(test.unmet) || !slices.EqualFunc(unmet, test.unmet, strings.HasPrefix) || !said {
				t.Errorf("unmet are %q, want %q; conditions %+v", unmet, test.unmet, e.Conditions)
			}
		})
	}
	_, err = Explain(t.Context(), x, Question{Subscription: "unknown", Resource: r})
	if refusal := fhir.AsError(err); refusal == nil || refusal.Issues[0].Type != fhir.IssueNotFound {
		t.Errorf("an unknown Subscription is answered with %v", err)
	}
}

// TestInvariant03 with the real index: Subscriptions come, change and go in the log that is
// matched, and each event meets those in force at its place.
func TestInvariant03EventsMeetTheSubscriptionsInForceAtTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := index.New()
		// The end of a fake subscription's version is a change of a Subscription resource;
		// the log has them as events like any other.
		l := newFakeLog(ack, lostAnswer, refused, late)
		female, everyone := compile(t, "Patient?gender=female"), compile(t, "[*]")
		subscription := func(id fhir.ID, criteria *search.Criteria, heard ...fhir.Interaction) {
			seq := l.write(record.Change{Interaction: fhir.Create, Event: record.Event{Key: fhir.Key{Type: "Subscription", ID: id}}})
			x.Put(index.Entry{ID: id, Birth: seq, Version: seq, Interactions: heard, Criteria: criteria})
		}
		patient := func(i fhir.Interaction, gender string, previous record.Sequence) record.Sequence {
			c := record.Change{Interaction: i, Previous: previous, Event: record.Event{Key: fhir.Key{Type: "Patient", ID: "a"}}}
			if i != fhir.Delete {
				c.Body = fmt.Appendf(nil, `{"resourceType":"Patient","id":"a","gender":%q}`, gender)
			}
			return l.write(c)
		}
		patient(fhir.Create, "female", 0)                                 // 1: nobody there
		subscription("b", female, fhir.Create, fhir.Update)               // 2
		subscription("a", everyone, fhir.Update, fhir.Delete)             // 3
		patient(fhir.Update, "female", 1)                                 // 4: a, b
		patient(fhir.Update, "male", 4)                                   // 5: a
		x.Close("a", l.write(record.Change{Interaction: fhir.Unchanged})) // 6
		v := patient(fhir.Update, "female", 5)                            // 7: b
		subscription("c", female, fhir.Delete)                            // 8
		patient(fhir.Delete, "", v)                                       // 9: c
		runThrough(l, x, 2, frameSize+2*(matchSize+12))
		var got []string
		for _, b := range l.chain() {
			for _, m := range b.Matches {
				got = append(got, fmt.Sprintf("%d%s", m.Event, m.Subscription))
			}
		}
		if want := []string{"4a", "4b", "5a", "7b", "9c"}; !slices.Equal(got, want) {
			t.Errorf("matched %v, want %v", got, want)
		}
	})
}

// BenchmarkRunner measures a partition from its events to its blocks, with a log that
// acknowledges at once.
func BenchmarkRunner(b *testing.B) {
	x := index.New()
	for i := range 1000 {
		c, err := search.R4().Compile(fmt.Sprintf("Observation?subject=Patient/p%d", i))
		if err != nil {
			b.Fatal(err)
		}
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Birth: 1, Version: 1, Interactions: []fhir.Interaction{fhir.Create}, Criteria: c})
	}
	l := newFakeLog()
	l.foreign(1)
	for i := range b.N {
		l.write(record.Change{Interaction: fhir.Create, Event: record.Event{
			Key:  fhir.Key{Type: "Observation", ID: fhir.ID(fmt.Sprint(i))},
			Body: fmt.Appendf(nil, `{"resourceType":"Observation","id":"%d","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8302-2"}]},"subject":{"reference":"Patient/p%d"},"valueQuantity":{"value":64.75,"unit":"cm"}}`, i, i%1000),
		}})
	}
	b.ReportAllocs()
	b.ResetTimer()
	stop := start(newRunner(l, x))
	l.await(l.complete)
	stop()
	b.ReportMetric(float64(len(l.chain())), "blocks")
}
