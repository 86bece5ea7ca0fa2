package fhirpath

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// outcome is all that a caller sees of an evaluation.
func outcome(m *Evaluator, e *Expression, in Input) string {
	c, err := m.Evaluate(e, in)
	s := fmt.Sprint(shownCollection(c), " ", err)
	steps := m.Steps()
	met, err := m.Test(e, in)
	return fmt.Sprint(s, " ", steps, " ", met, " ", err)
}

// suiteCases gives the expressions of the suites that compile, with their inputs.
func suiteCases(t *testing.T, use func(name, expr string, v fhir.Version, tree *json.Tree)) {
	for _, v := range fhir.Versions() {
		trees := map[string]*json.Tree{"": nil}
		for _, g := range readSuite(t, v).Groups {
			for _, test := range g.Tests {
				file := strings.TrimSuffix(test.Input, filepath.Ext(test.Input))
				if _, known := trees[file]; !known {
					body, err := os.ReadFile(filepath.Join("testdata", "suite", string(v), "input", file+".json"))
					if err != nil {
						continue // the CDA documents, which are no FHIR
					}
					trees[file] = parsed(t, string(body))
				}
				use(string(v)+" "+g.Name+"/"+test.Name, test.Expression.Text, v, trees[file])
			}
		}
	}
}

// Errors, variables and memory of one evaluation must not reach the next: all expressions of the
// suites go through one Evaluator, one after the other, and each gives what it gives in a new one.
// Steps are compared too, since nodes with other histories must give up at the same place.
func TestAnEvaluationLeavesNothingForTheNext(t *testing.T) {
	used := NewEvaluator()
	suiteCases(t, func(name, expr string, v fhir.Version, tree *json.Tree) {
		e, err := Compile(expr, Options{Version: v})
		if err != nil {
			return
		}
		in := Input{Resource: tree, Now: suiteNow}
		if got, want := outcome(used, e, in), outcome(NewEvaluator(), e, in); got != want {
			t.Errorf("%s: %s gives %s, and in a new Evaluator %s", name, strings.TrimSpace(expr), got, want)
		}
	})
}

// What the types say beforehand spares work and changes no result.
func TestTheTypeOfTheContextChangesNoResult(t *testing.T) {
	m := NewEvaluator()
	suiteCases(t, func(name, expr string, v fhir.Version, tree *json.Tree) {
		if tree == nil {
			return
		}
		told, err := Compile(expr, Options{Version: v, Context: tree.Str(tree.Get(tree.Root(), "resourceType"))})
		if err != nil {
			return
		}
		open, err := Compile(expr, Options{Version: v})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		in := Input{Resource: tree, Now: suiteNow}
		a, errA := m.Evaluate(told, in)
		got := shownCollection(a)
		b, errB := m.Evaluate(open, in)
		if want := shownCollection(b); got != want || (errA == nil) != (errB == nil) {
			t.Errorf("%s: %s gives %s (%v), and without the type %s (%v)", name, strings.TrimSpace(expr), got, errA, want, errB)
		}
	})
}
