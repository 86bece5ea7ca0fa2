package search

import (
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// rule is one statement of the specification, with the place that makes it.
type rule struct {
	says string // section and rule
	on   string // Type{"member": ...}: the resource, without its resourceType
	yes  string // queries that it meets, one a line
	no   string // queries that it does not meet
}

// holds checks rules. Match, Explain, the place in an index and the canonical form must agree.
func holds(t *testing.T, d *Definitions, rules []rule) {
	t.Helper()
	for _, rule := range rules {
		typ, members, _ := strings.Cut(rule.on, "{")
		body := `{"resourceType":"` + typ + `"`
		if members = strings.TrimSpace(members); members != "}" {
			body += ","
		}
		body += members
		for want, list := range map[bool]string{true: rule.yes, false: rule.no} {
			for q := range strings.Lines(list) {
				if q = strings.TrimSpace(q); q == "" {
					continue
				}
				c, err := d.Compile(typ + "?" + q)
				if err != nil {
					t.Errorf("%s\n%s: %v", rule.says, q, err)
					continue
				}
				r := resource(t, d, body)
				if c.Match(r) != want {
					t.Errorf("%s\n%s on %s: %v", rule.says, q, rule.on, !want)
				}
				agrees(t, c, r)
			}
		}
	}
}

// refusal of one criteria: where the specification says so, or lets a server, and what the
// message must name.
type refuse struct{ says, criteria, text string }

func refuses(t *testing.T, d *Definitions, list []refuse) {
	t.Helper()
	for _, x := range list {
		c, err := d.Compile(x.criteria)
		if err == nil {
			t.Errorf("%s\n%s is taken as %s", x.says, x.criteria, c.Canonical())
			continue
		}
		e := fhir.AsError(err)
		if e == nil || len(e.Issues) != 1 || !strings.Contains(e.Issues[0].Diagnostics, x.text) {
			t.Errorf("%s\n%s: %v, want %q", x.says, x.criteria, err, x.text)
		}
	}
}
