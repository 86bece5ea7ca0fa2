package index_test

import (
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/fhirpath"
	"github.com/carillon-fhir/carillon/match/index"
)

// A Subscription whose criteria is compiled anew keeps its version: what is sent for it and what
// its owner sees is that of the Subscription, and only the criteria is another.
func TestAFormOfAVersionIsInForceFromTheChangeThatMadeIt(t *testing.T) {
	r := resource(t, `{"resourceType":"Patient","id":"a","gender":"male"}`)
	male, female := compile(t, "Patient?gender=male"), compile(t, "Patient?gender=female")
	path, err := fhirpath.Compile("active", fhirpath.Options{Version: fhir.R4, Context: "Patient"})
	if err != nil {
		t.Fatal(err)
	}
	x := index.New()
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 10, Interactions: all, Criteria: male, Path: path})
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 10, From: 20, Interactions: all, Criteria: female})
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 10, From: 20, Interactions: all, Criteria: male}) // the log is folded again
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 10, From: 30, Interactions: all, Criteria: male})
	x.Close("s", 25) // behind what is there already
	x.Close("s", 40)
	for at, met := range map[record.Sequence]bool{10: false, 11: true, 20: true, 21: false, 30: false, 31: true, 40: true, 41: false} {
		hits := x.Match(at, time.Time{}, fhir.Update, r, nil, nil)
		if (len(hits) == 1) != met {
			t.Errorf("event %d meets %v", at, hits)
		}
		for _, h := range hits {
			if h.Version != 10 || h.Birth != 10 || (h.Path == path) != (at <= 20) {
				t.Errorf("event %d meets %+v", at, h)
			}
		}
	}
	if e, ok := x.Get("s", 25); !ok || e.From != 20 || e.Criteria != female {
		t.Errorf("in force at 25 is %+v", e)
	}
	x.Prune(20)
	if versions, _ := x.Size(); versions != 2 {
		t.Errorf("%d forms are left", versions)
	}
	if hits := x.Match(31, time.Time{}, fhir.Update, r, nil, nil); len(hits) != 1 {
		t.Errorf("after pruning event 31 meets %v", hits)
	}
}

// Two criteria of one text may mean different things, by the definitions of their time.
func TestCriteriaOfOneTextAndDifferentBasisAreNotShared(t *testing.T) {
	r := resource(t, `{"resourceType":"Patient","id":"a","gender":"male"}`)
	x := index.New()
	x.Put(index.Entry{ID: "a", Birth: 10, Version: 10, Interactions: all, Criteria: compile(t, "Patient?gender=male")})
	x.Put(index.Entry{ID: "b", Birth: 20, Version: 20, Interactions: all, Criteria: compile(t, "Patient?gender=male"), Basis: 15})
	x.Put(index.Entry{ID: "c", Birth: 30, Version: 30, Interactions: all, Criteria: compile(t, "Patient?gender=male"), Basis: 15})
	if _, criteria := x.Size(); criteria != 2 {
		t.Errorf("the index has %d criteria, want 2", criteria)
	}
	if hits := x.Match(31, time.Time{}, fhir.Update, r, nil, nil); len(hits) != 3 {
		t.Errorf("met are %v", hits)
	}
	x.Close("a", 40)
	x.Prune(40)
	if hits := x.Match(41, time.Time{}, fhir.Update, r, nil, nil); len(hits) != 2 {
		t.Errorf("after pruning met are %v", hits)
	}
}
