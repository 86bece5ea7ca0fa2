package api

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

const triggerPatient = `{"resourceType":"Parameters","parameter":[{"name":"resourceId","valueUri":"Patient/p1"}]}`

// HAPI's $trigger-subscription: its input, its output, its errors.
func TestTriggerSubscriptionIsHAPIsOperation(t *testing.T) {
	parameters := func(parts ...string) string {
		return `{"resourceType":"Parameters","parameter":[` + strings.Join(parts, ",") + `]}`
	}
	resource := func(id string) string { return fmt.Sprintf(`{"name":"resourceId","valueUri":%q}`, id) }
	search := func(url string) string { return fmt.Sprintf(`{"name":"searchUrl","valueString":%q}`, url) }
	key := func(id fhir.ID) fhir.Key { return fhir.Key{Type: "Patient", ID: id} }
	const one, all = "/fhir/Subscription/s/$trigger-subscription", "/fhir/Subscription/$trigger-subscription"

	for _, c := range []struct {
		path, body string
		want       Trigger
	}{
		{one, parameters(resource("Patient/a")), Trigger{Subscription: "s", Resources: []fhir.Key{key("a")}}},
		{all, parameters(resource("Patient/a"), resource("Patient/b"), resource("Patient/a")), Trigger{Resources: []fhir.Key{key("a"), key("b")}}},
		{all, parameters(search("Patient?name=a,b&_count=5"), search("Patient?")), Trigger{Searches: []string{"Patient?name=a,b&_count=5", "Patient?"}}},
		{one, parameters(search("Patient?"), resource("http://127.0.0.1:8080/fhir/Patient/a")), Trigger{Subscription: "s", Searches: []string{"Patient?"}, Resources: []fhir.Key{key("a")}}},
		{"/fhir/R4/Subscription/s/$trigger-subscription", parameters(`{"name":"resourceId","valueString":"Patient/a"}`), Trigger{Subscription: "s", Resources: []fhir.Key{key("a")}}},
	} {
		s := open(t, func(c *Config) { c.FHIR = "R4" })
		w := s.must(200, "POST", c.path, c.body)
		const answer = `{"parameter":[{"name":"information","valueString":"Subscription triggering job submitted as JOB ID: j3"}],"resourceType":"Parameters"}`
		if got := strings.TrimSpace(w.Body.String()); got != answer {
			t.Errorf("%s answers %s", c.body, got)
		}
		if got := s.fake.triggered[0]; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s = %+v, want %+v", c.body, got, c.want)
		}
	}

	for _, c := range []struct {
		status     int
		path, body string
		tells      string
	}{
		{400, all, "", "resourceId"},
		{400, all, parameters(), "searchUrl"},
		{400, all, patient, "Parameters"},
		{400, all, `{`, "JSON"},
		{400, one, parameters(search("Patient")), "question mark"},
		{400, one, parameters(search("name=x")), "question mark"},
		{400, one, parameters(search("Nothing?name=x")), "resource type"},
		{400, one, parameters(resource("a")), "Type/id"},
		{400, one, parameters(resource("Patient")), "Type/id"},
		{400, one, parameters(resource("Patient/a/_history/3")), "Type/id"},
		{400, one, parameters(resource("http://elsewhere.example/fhir/Patient/a")), "Type/id"},
		{404, one, parameters(resource("Nothing/a")), "Nothing"},
		{400, one, parameters(`{"name":"resourceId"}`), "no value"},
		{400, one, parameters(`{"name":"resource","valueUri":"Patient/a"}`), "resource is not known"},
		{400, one + "?x=1", parameters(resource("Patient/a")), "x"},
		{404, "/fhir/Subscription/unknown/$trigger-subscription", parameters(resource("Patient/a")), "unknown"},
		{400, one, parameters(strings.TrimSuffix(strings.Repeat(resource("Patient/a")+",", maxTriggerResources+1), ",")), "at most 10000"},
		{400, one, parameters(strings.TrimSuffix(strings.Repeat(search("Patient?")+",", maxTriggerSearches+1), ",")), "at most 100"},
		{405, "GET " + one, "", "POST"},
	} {
		s := open(t)
		method, path, found := strings.Cut(c.path, " ")
		if !found {
			method, path = "POST", c.path
		}
		w := s.do(method, path, c.body)
		if w.Code != c.status || !strings.Contains(issue(t, w).Diagnostics, c.tells) {
			t.Errorf("%s %.80s = %d, want %d and %q: %s", path, c.body, w.Code, c.status, c.tells, w.Body)
		}
		if len(s.fake.triggered) != 0 {
			t.Errorf("%.80s was ordered", c.body)
		}
	}
}
