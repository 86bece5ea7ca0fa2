package node

import (
	"slices"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

func TestReferencesOfAResourceAreThoseThatNameATypeAndAnID(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       []string
	}{
		{"relative", `{"subject":{"reference":"Patient/p1"}}`, []string{"Patient/p1"}},
		{"with a version", `{"subject":{"reference":"Patient/p1/_history/7"}}`, []string{"Patient/p1"}},
		{"on any server", `{"subject":{"reference":"https://h.example/fhir/Patient/p1"}}`, []string{"Patient/p1"}},
		{"in lists, deep down and in contained resources",
			`{"a":[{"b":[{"reference":"Practitioner/d"}]},{"reference":"Group/g"}],"contained":[{"managingOrganization":{"reference":"Organization/o"}}]}`,
			[]string{"Practitioner/d", "Group/g", "Organization/o"}},
		{"escaped", `{"subject":{"reference":"Patient\/p1"}}`, []string{"Patient/p1"}},
		{"none: a fragment, a urn, a canonical, a bare id, a lower-case type, no id",
			`{"a":{"reference":"#p1"},"b":{"reference":"urn:uuid:0b5d1d4c-3b9b-4b6a-8a0e-0c8f3c3b8f10"},"instantiatesCanonical":["http://x.example/PlanDefinition/p"],"c":{"reference":"p1"},"d":{"reference":"patient/p1"},"e":{"reference":"Patient/"},"f":{"reference":7},"g":{"reference":{"reference":"Patient/inner"}}}`,
			[]string{"Patient/inner"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, err := json.Parse([]byte(c.body), json.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if got := references(tree); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
