package search

import (
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

func TestAnyTypeIsNotAboutTheServersOwnRecords(t *testing.T) {
	d := For(fhir.R4)
	own := `{"resourceType":"AuditEvent","id":"a","meta":{"tag":[{"system":"` + fhir.TagOwnRecord + `","code":"rest"}]}}`
	for _, c := range []struct {
		criteria, body string
		want           bool
	}{
		{"[*]", own, false},
		{"AuditEvent?", own, true},
		{"[AuditEvent,Patient]", own, true},
		{"[*]", `{"resourceType":"AuditEvent","id":"a","meta":{"tag":[{"system":"urn:x"}]}}`, true},
		{"[*]", `{"resourceType":"Subscription","id":"a"}`, false},
		{"[*]", `{"resourceType":"Patient","id":"a","meta":{"tag":[{"system":"` + fhir.TagOwnRecord + `"}]}}`, true},
	} {
		criteria, err := d.Compile(c.criteria)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := json.Parse([]byte(c.body), json.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := criteria.Match(NewResource(d, tree)); got != c.want {
			t.Errorf("%s about %s: %v", c.criteria, c.body, got)
		}
	}
}
