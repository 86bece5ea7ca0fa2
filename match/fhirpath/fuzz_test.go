package fhirpath

import (
	"errors"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// FuzzParse: whatever the expression, the parser ends, refuses with a position or gives a tree
// whose places lie in the text.
func FuzzParse(f *testing.F) {
	for _, v := range fhir.Versions() {
		for _, g := range readSuite(f, v).Groups {
			for _, t := range g.Tests {
				f.Add(t.Expression.Text)
			}
		}
	}
	for _, expr := range hostileExpressions() {
		if len(expr) < 1000 {
			f.Add(expr)
		}
	}
	f.Fuzz(func(t *testing.T, expr string) {
		n, err := Parse(expr)
		if err != nil {
			if fhir.AsError(err) == nil {
				t.Fatalf("%q: the error is no refusal: %v", expr, err)
			}
			return
		}
		checkPlaces(t, expr, n)
	})
}

// checkPlaces holds that the text of each node is an expression that is read as that node.
func checkPlaces(t *testing.T, expr string, n *Node) {
	if n.Start < 1 || n.End > len(expr)+1 || n.Position < n.Start || n.Position >= n.End {
		t.Fatalf("a node at %d from %d to %d in %d bytes", n.Position, n.Start, n.End, len(expr))
	}
	part := expr[n.Start-1 : n.End-1]
	again, err := Parse(part)
	if err != nil || again.Kind != n.Kind || again.Name != n.Name || len(again.Args) != len(n.Args) {
		t.Fatalf("%q of %q is read differently by itself: %v", part, expr, err)
	}
	if len(expr) > 200 { // each part is read again, so only one level of a long one
		return
	}
	if n.Input != nil {
		checkPlaces(t, expr, n.Input)
	}
	for _, a := range n.Args {
		checkPlaces(t, expr, a)
	}
}

// FuzzEvaluate: whatever the expression and the resource, an evaluation ends with items that are
// JSON or with one of the two errors, twice with the same, and as a condition too.
func FuzzEvaluate(f *testing.F) {
	bodies := []string{observation}
	for _, tree := range hostileResources(f) {
		if len(tree.Source()) < 2000 {
			bodies = append(bodies, string(tree.Source()))
		}
	}
	for _, body := range bodies {
		f.Add("descendants().select(type().name | $this).distinct()", body)
	}
	for _, g := range readSuite(f, fhir.R5).Groups {
		for _, t := range g.Tests {
			f.Add(t.Expression.Text, observation)
		}
	}
	for _, x := range triggers {
		f.Add(x.expr, observation)
	}
	m := NewEvaluator()
	f.Fuzz(func(t *testing.T, expr, body string) {
		tree, err := json.Parse([]byte(body), json.Limits{})
		if err != nil {
			return
		}
		for _, o := range []Options{
			{Version: fhir.R4, Trigger: true, AsFilters: true},
			{Version: fhir.R5, Context: "Observation", Trigger: true, Strict: true},
		} {
			e, err := Compile(expr, o)
			if err != nil {
				if fhir.AsError(err) == nil {
					t.Fatalf("%q: the error is no refusal: %v", expr, err)
				}
				continue
			}
			in := Input{Resource: tree, Current: tree, Now: suiteNow}
			c, err := m.Evaluate(e, in)
			first := shownCollection(c)
			checkOutcome(t, expr, c, err)
			again, err2 := NewEvaluator().Evaluate(e, in)
			if shownCollection(again) != first || (err == nil) != (err2 == nil) {
				t.Fatalf("%q gives %s, and then %s (%v, %v)", expr, first, shownCollection(again), err, err2)
			}
			met, err3 := m.Test(e, in)
			if (err == nil) != (err3 == nil) || met != (err == nil && isTrue(again)) {
				t.Fatalf("%q gives %s (%v), and as a condition %v (%v)", expr, first, err, met, err3)
			}
		}
	})
}

func isTrue(c Collection) bool {
	if c.Len() != 1 {
		return false
	}
	b, ok := c.At(0).Boolean()
	return b && ok
}

func checkOutcome(t *testing.T, expr string, c Collection, err error) {
	var wrong *Error
	if err != nil && !errors.Is(err, ErrTooCostly) && !errors.As(err, &wrong) {
		t.Fatalf("%q: %v", expr, err)
	}
	for i := range c.Len() {
		v := c.At(i)
		if _, err := json.Parse(v.AppendJSON(nil), json.Limits{}); err != nil {
			t.Fatalf("%q: item %d is no JSON: %s", expr, i, v.AppendJSON(nil))
		}
		v.Equal(v)
	}
}
