package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// TestMutants shows that the checker can fail: it runs a build for each seeded bug and demands
// that the bug is found, and the same build without a bug, in which nothing must be found.
// E2E_MUTANTS=all or a list of names; make mutants.
func TestMutants(t *testing.T) {
	only := os.Getenv("E2E_MUTANTS")
	if only == "" {
		t.Skip("runs with make mutants")
	}
	o := options(t)
	o.Writers, o.Pace, o.Patience = 6, 15*time.Millisecond, 20*time.Second
	if o.Binary == "" {
		o.Binary = harness.Variant(t, "mutant")
	}
	all := mutants()
	control := Mutant{Name: "none", Bug: "no bug", Least: 1}
	for _, m := range all {
		if m.Least == 1 {
			control.Steps = append(control.Steps, m.Steps[len(m.Steps)-1])
		}
	}
	var table strings.Builder
	for _, m := range append([]Mutant{control}, all...) {
		if only != "all" && !slices.Contains(strings.Split(only, ","), m.Name) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			if o.Nodes < m.Least {
				t.Skipf("takes %d nodes: E2E_NODES=%d", m.Least, m.Least)
			}
			o := o
			o.Steps, o.Env, o.Log = m.Steps, []string{"E2E_MUTANT=" + m.Name}, t.Logf
			o.Keep = filepath.Join(t.TempDir(), "kept")
			report, err := Run(t.Context(), o)
			var found []string
			for _, v := range report.Violations {
				if !slices.Contains(found, v.Check) {
					found = append(found, v.Check)
				}
			}
			fmt.Fprintf(&table, "%-22s %-30s %s\n", m.Name, strings.Join(found, " "), firstOf(report.Violations))
			if m.Name == "none" {
				told(t, report, 100)
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !slices.ContainsFunc(found, func(c string) bool { return slices.Contains(m.Caught, c) }) {
				t.Errorf("not caught: found %v, run ended with %v\n%s", found, err, report)
			}
		})
	}
	t.Logf("seed %d, %d nodes\n%s", o.Seed, o.Nodes, &table)
}

func firstOf(v []Violation) string {
	if len(v) == 0 {
		return ""
	}
	return v[0].Text
}
