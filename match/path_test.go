package match

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/fhirpath"
	"github.com/carillon-fhir/carillon/match/index"
)

func expression(t testing.TB, text string) *fhirpath.Expression {
	t.Helper()
	e, err := fhirpath.Compile(text, fhirpath.Options{Version: fhir.R4, Context: "Patient", Trigger: true})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func tree(t testing.TB, body string) *json.Tree {
	t.Helper()
	out, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What Medplum's fhir-path-criteria-expression says of each kind of change.
func TestAPathIsAskedOfTheStateAndTheOneBefore(t *testing.T) {
	const male, female = `{"resourceType":"Patient","id":"p","gender":"male"}`, `{"resourceType":"Patient","id":"p","gender":"female"}`
	for _, test := range []struct {
		name          string
		i             fhir.Interaction
		before, state string
		path          string
		met           bool
	}{
		{"an update is compared", fhir.Update, male, female, "%previous.gender != %current.gender", true},
		{"an update that leaves it alone", fhir.Update, male, male, "%previous.gender != %current.gender", false},
		{"the context is the state after", fhir.Update, male, female, "gender = 'female'", true},
		{"a create has no state before, so a comparison is empty", fhir.Create, "", female, "%previous.gender != %current.gender", false},
		{"a create has no state before, whatever is offered", fhir.Create, male, female, "%previous.exists()", false},
		{"nothing implies anything", fhir.Create, "", female, "%previous.exists() implies %previous.gender != %current.gender", true},
		{"an update of what was never seen has no state before", fhir.Update, "", female, "%previous.empty()", true},
		{"a delete is asked on what was deleted", fhir.Delete, "", female, "%previous.gender = 'female' and %current.gender = 'female' and gender = 'female'", true},
		{"of a delete nothing has changed", fhir.Delete, "", female, "%previous.gender != %current.gender", false},
		{"a name may be written with escapes", fhir.Update, male, female, `%'\u0070revious'.gender = 'male'`, true},
		{"and in backquotes", fhir.Update, male, female, "%`previou\\u0073`.exists()", true},
		{"only true counts", fhir.Update, male, female, "gender", false},
		{"only a single value counts", fhir.Update, male, female, "true.combine(true)", false},
		{"booleans united by | are either", fhir.Update, male, female, "(gender = 'male') | (gender = 'female')", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Change{Interaction: test.i, State: tree(t, test.state), Time: time.Unix(1, 0)}
			if test.before != "" {
				c.Before = func(context.Context) ([]byte, error) { return []byte(test.before), nil }
			}
			hits := []index.Hit{{ID: "a", Path: expression(t, test.path)}, {ID: "b"}}
			kept, undecided, err := NewPaths().Filter(t.Context(), c, hits, nil)
			if err != nil || len(undecided) > 0 {
				t.Fatal(undecided, err)
			}
			if met := len(kept) == 2; met != test.met || kept[len(kept)-1].ID != "b" {
				t.Errorf("kept %v", kept)
			}
			x, err := NewPaths().Explain(t.Context(), expression(t, test.path), c)
			if err != nil || x.Met != test.met || (x.Note == "") != test.met {
				t.Errorf("explained as %+v, %v", x, err)
			}
		})
	}
}

func TestTheStateBeforeIsReadOnceAndOnlyWhereItIsAskedFor(t *testing.T) {
	reads := 0
	c := Change{Interaction: fhir.Update, State: tree(t, `{"resourceType":"Patient","id":"p"}`),
		Before: func(context.Context) ([]byte, error) { reads++; return []byte(`{"resourceType":"Patient"}`), nil }}
	p := NewPaths()
	for _, test := range []struct {
		paths []string
		reads int
	}{
		{[]string{"id.exists()"}, 0},
		{[]string{"id.exists()", "%previous.exists()", "%previous.id.empty()"}, 1},
	} {
		reads = 0
		var hits []index.Hit
		for _, path := range test.paths {
			hits = append(hits, index.Hit{Path: expression(t, path)})
		}
		kept, _, err := p.Filter(t.Context(), c, hits, nil)
		if err != nil || len(kept) != len(test.paths) || reads != test.reads {
			t.Errorf("%v: kept %d, read %d times, %v", test.paths, len(kept), reads, err)
		}
	}
}

func TestWhatAPathCannotDecideIsUndecidedForItsOwnSubscriptionsAlone(t *testing.T) {
	state := tree(t, `{"resourceType":"Patient","id":"p","name":[{"family":"secret"},{"family":"b"}]}`)
	before := func(body string, err error) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(body), err }
	}
	fails := expression(t, "(name.family | name.family).toInteger() = 1")
	speaks, silent := expression(t, "%previous.exists()"), expression(t, "id = 'p'")
	for _, test := range []struct {
		name   string
		before func(context.Context) ([]byte, error)
		hits   []index.Hit
		late   error
		kept   string
		reason string
	}{
		{"an expression that fails", nil, []index.Hit{{ID: "a", Path: fails}, {ID: "b", Path: silent}, {ID: "c"}}, nil, "bc", "cannot be evaluated"},
		{"a state before that is gone", before("", ErrGone), []index.Hit{{ID: "a", Path: speaks}, {ID: "b", Path: silent}}, nil, "b", "gone"},
		{"a state before that is no JSON", before("{", nil), []index.Hit{{ID: "a", Path: speaks}, {ID: "b", Path: silent}}, nil, "b", "cannot be read"},
		{"no time is left", nil, []index.Hit{{ID: "a", Path: silent}, {ID: "b"}}, errors.New("no time"), "b", "no time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Change{Interaction: fhir.Update, State: state, Before: test.before}
			kept, undecided, err := NewPaths().Filter(t.Context(), c, test.hits, func() error { return test.late })
			if err != nil {
				t.Fatal(err)
			}
			ids := ""
			for _, h := range kept {
				ids += string(h.ID)
			}
			if ids != test.kept || len(undecided) != 1 || undecided[0].ID != "a" || !strings.Contains(undecided[0].Err.Error(), test.reason) {
				t.Errorf("kept %s, undecided %v", ids, undecided)
			}
			if strings.Contains(undecided[0].Err.Error(), "secret") {
				t.Error("the reason repeats the resource")
			}
		})
	}
	_, _, err := NewPaths().Filter(t.Context(), Change{Interaction: fhir.Update, State: state, Before: before("", errors.New("passing"))},
		[]index.Hit{{Path: speaks}}, nil)
	if err == nil {
		t.Error("an error that passes is no error of the evaluation")
	}
}

// In the runner: an event whose state before cannot be read for a while is not lost; one that an
// expression cannot be evaluated for is set aside, naming who missed it.
func TestARunnerEvaluatesPathsAndSetsAsideWhatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := index.New()
		for id, path := range map[fhir.ID]string{
			"changed": "%previous.active != %current.active",
			"fails":   "%previous.exists() and (name.family | name.family).toInteger() = 1",
		} {
			x.Put(index.Entry{ID: id, Birth: 1, Version: 1, Interactions: []fhir.Interaction{fhir.Update},
				Criteria: compile(t, "Patient?"), Path: expression(t, path)})
		}
		l := newFakeLog()
		l.foreign(1)
		key := fhir.Key{Type: "Patient", ID: "p"}
		body := func(active string) []byte {
			return []byte(`{"resourceType":"Patient","id":"p","name":[{"family":"a"},{"family":"b"}],"active":` + active + `}`)
		}
		v1 := l.write(record.Change{Event: record.Event{Key: key, Body: body("true")}, Interaction: fhir.Create})
		v2 := l.write(record.Change{Event: record.Event{Key: key, Body: body("false")}, Interaction: fhir.Update, Previous: v1})
		l.write(record.Change{Event: record.Event{Key: key, Body: body("false")}, Interaction: fhir.Update, Previous: v2})
		l.fail[readFails] = true
		defer start(newRunner(l, x))()
		l.await(l.complete)
		var matched []record.MatchID
		for _, b := range l.chain() {
			for _, m := range b.Matches {
				matched = append(matched, record.MatchID{Event: m.Event, Birth: 1})
				if m.Subscription != "changed" {
					t.Errorf("%s has matched", m.Subscription)
				}
			}
		}
		if !slices.Equal(matched, []record.MatchID{{Event: v2, Birth: 1}}) {
			t.Errorf("matched %v", matched)
		}
		if len(l.aside) != 2 || !strings.Contains(l.aside[0].reason, "Subscription fails") {
			t.Errorf("set aside %v", l.aside)
		}
	})
}

// BenchmarkPath is the whole of a FHIRPath criteria, with the reading of the state before.
func BenchmarkPath(b *testing.B) {
	before := []byte(`{"resourceType":"Patient","id":"p","gender":"male","active":true,"birthDate":"1974-12-25"}`)
	c := Change{Interaction: fhir.Update, State: tree(b, string(before)), Before: func(context.Context) ([]byte, error) { return before, nil }}
	hits := []index.Hit{{ID: "a", Path: expression(b, "%previous.exists() implies %previous.gender != %current.gender")}}
	p := NewPaths()
	b.ReportAllocs()
	for b.Loop() {
		if _, undecided, err := p.Filter(b.Context(), c, hits, nil); err != nil || undecided != nil {
			b.Fatal(undecided, err)
		}
	}
}
