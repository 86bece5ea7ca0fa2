package search_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// Hashes select, values decide: with hashes of one or two bits an index asks far more criteria
// than it should, and finds the same.
func TestCollisionsOfHashesCostTimeAndNothingElse(t *testing.T) {
	const n = 300
	type result struct {
		met   []string
		asked int
	}
	run := func(d *search.Definitions) (results []result) {
		x := index.New()
		for i := range n {
			for k, criteria := range []string{"Patient?identifier=s|%d", "Patient?_id=p%d,q%[1]d", "Patient?name=name%d", "Patient?family:exact=Name%d",
				"Patient?general-practitioner=Practitioner/d%d", "Patient?_profile=http://p/%d"} {
				c, err := d.Compile(fmt.Sprintf(criteria, i))
				if err != nil {
					t.Fatal(err)
				}
				x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d-%d", i, k)), Version: record.Sequence(i + 1), Interactions: []fhir.Interaction{fhir.Create}, Criteria: c})
			}
		}
		for i := range n {
			tree, err := json.Parse(fmt.Appendf(nil, `{"resourceType":"Patient","id":"p%d","meta":{"profile":["http://p/%[1]d"]},"identifier":[{"system":"s","value":"%[1]d"}],`+
				`"name":[{"family":"Name%[1]d"}],"generalPractitioner":[{"reference":"Practitioner/d%[1]d"}]}`, i), json.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			var r result
			hits := x.Match(index.Newest, time.Time{}, fhir.Create, search.NewResource(d, tree), func(c *search.Criteria, s *search.Resource) bool {
				r.asked++
				return c.Match(s)
			}, nil)
			for _, h := range hits {
				r.met = append(r.met, string(h.ID))
			}
			results = append(results, r)
		}
		return results
	}
	sharp := run(search.R4())
	for _, bits := range []int{0, 1, 2} {
		for i, got := range run(search.R4().Blunt(bits)) {
			if !slices.Equal(got.met, sharp[i].met) {
				t.Fatalf("with %d bits event %d meets %v, want %v", bits, i, got.met, sharp[i].met)
			}
			if got.asked < 10*sharp[i].asked {
				t.Errorf("with %d bits event %d asks %d, with all %d", bits, i, got.asked, sharp[i].asked)
			}
		}
	}
}
