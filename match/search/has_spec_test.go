package search

import (
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// The rules and examples of "Reverse chaining" (R4 3.1.1.4.14; in R5 "Reverse Chaining") and of
// searching by List (R4 3.1.1.4.16), one by one.
func TestReverseChainsFollowTheSpecification(t *testing.T) {
	const has, list = "R4 3.1.1.4.14", "R4 3.1.1.4.16"
	code := func(c string) string { return `"code":{"coding":[{"system":"http://loinc.org","code":"` + c + `"}]}` }
	one, other := observation("o1", "Patient/p", code("1234-5")), observation("o2", "Patient/q", code("9999-9"))
	two := observation("o3", "Patient/p", code("456")+`,"performer":[{"reference":"Practitioner/joe"}]`)
	audit := `{"resourceType":"AuditEvent","id":"e","agent":[{"who":{"reference":"Practitioner/MyUserId"}}],"entity":[{"what":{"reference":"Observation/o1"}}]}`
	joe := `{"resourceType":"Practitioner","id":"joe","name":[{"text":"Joe"}]}`
	l42 := `{"resourceType":"List","id":"42","entry":[{"item":{"reference":"Patient/q"}},{"item":{"reference":"Patient/p"}}]}`
	p := patient("p", `"gender":"male"`)
	all := []string{one, other, two, audit, joe, l42}
	checkRules(t, []chainRule{
		// "referred to by at least one Observation with a code of 1234-5 ... in the patient parameter"
		{has, "Patient?_has:Observation:patient:code=1234-5", p, all, true},
		{has, "Patient?_has:Observation:patient:code=http://loinc.org|1234-5", p, all, true},
		{has, "Patient?_has:Observation:patient:code=9999-9", p, all, false}, // another Patient's
		{has, "Patient?_has:Observation:performer:code=1234-5", p, all, false},
		{has, "Patient?_has:Observation:subject:code=1234-5", p, all, true},
		// "'or' searches are allowed, and multiple _has parameters are allowed"
		{has, "Patient?_has:Observation:patient:code=123,456", p, all, true},
		{has, "Patient?_has:Observation:patient:code=123,457", p, all, false},
		{has, "Patient?_has:Observation:patient:code=1234-5&_has:Observation:patient:code=456", p, all, true},
		{has, "Patient?_has:Observation:patient:code=1234-5&_has:Observation:patient:code=457", p, all, false},
		{has, "Patient?_has:Observation:patient:code=1234-5&gender=female", p, all, false},
		// "can be nested"
		{has, "Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=MyUserId", p, all, true},
		{has, "Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=Other", p, all, false},
		{has, "Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=MyUserId", patient("q", ""), all, false},
		// with a chain behind it
		{has, "Patient?_has:Observation:patient:performer:Practitioner.name=joe", p, all, true},
		{has, "Patient?_has:Observation:patient:performer:Practitioner.name=bill", p, all, false},
		// with modifiers
		{has, "Patient?_has:Observation:patient:code:not=1234-5", p, all, true}, // o3
		{has, "Patient?_has:Observation:patient:code:not=1234-5,456", p, all, false},
		{has, "Patient?_has:Observation:patient:performer:missing=true", p, all, true},
		{has, "Patient?_has:Observation:patient:status:missing=false", p, all, false},
		{has, "Patient?_has:Group:member:_id=102", p, all, false},
		{has, "Patient?_has:Group:member:_id=102", p, []string{`{"resourceType":"Group","id":"102","member":[{"entity":{"reference":"https://example.org/fhir/Patient/p"}},{"entity":{"reference":"Patient/p"}}]}`}, true},
		// a resource without an id is referred to by none
		{has, "Patient?_has:Observation:patient:code=1234-5", `{"resourceType":"Patient"}`, all, false},
		// "resources that are referenced by a List"
		{list, "Patient?_list=42", p, all, true},
		{list, "Patient?_list=List/42", p, all, true},
		{list, "Patient?_list=41,42", p, all, true},
		{list, "Patient?_list=41", p, all, false},
		{list, "Patient?_list=42", patient("x", ""), all, false},
		{list, "Patient?_list=42&gender=male", p, all, true},
		{list, "Patient?_list=42&gender=female", p, all, false},
		{list, "Observation?patient._list=42", one, append(all, p), true},
		{list, "Patient?_has:List:item:_id=42", p, all, true}, // the same question
	})
}

func TestReverseChainsThatAreNotUnderstoodAreRefused(t *testing.T) {
	const no, bad = fhir.IssueNotSupported, fhir.IssueValue
	for _, c := range []struct {
		criteria string
		typ      fhir.IssueType
		text     string
	}{
		{"Patient?_has=x", bad, "_has:Type:reference:parameter=value"},
		{"Patient?_has:Observation=x", bad, "_has:Type:reference:parameter=value"},
		{"Patient?_has:Observation:patient=x", bad, "_has:Type:reference:parameter=value"},
		{"Patient?_has:Observation:patient:=x", bad, "_has:Type:reference:parameter=value"},
		{"Patient?_has:Observatoin:patient:code=x", bad, "did you mean Observation?"},
		{"Patient?_has:Observation:pateint:code=x", no, "did you mean patient?"},
		{"Patient?_has:Observation:code:code=x", no, "no reference"},
		{"Patient?_has:Observation:device:code=x", bad, "cannot refer to Patient, only to Device, DeviceMetric"},
		{"Patient?_has:Observation:patient:cod=x", no, "did you mean code?"},
		{"Patient?_has:Observation:patient:code", bad, "value is empty"},
		{"Patient?_has:Observation:patient:code:exact=x", no, "modifier"},
		{"Patient?_has:Observation:patient:_sort=x", no, "selects nothing"},
		{"Questionnaire?_has:QuestionnaireResponse:questionnaire:status=x", no, "no reference by type and id"},
		{"Composition?_has:Bundle:composition:type=x", no, "no reference by type and id"},
		{"Observation?" + strings.Repeat("_has:Observation:has-member:", 6) + "status=x", no, "more than 5 links"},
		{"Patient?_list=$current-problems", no, "functional lists"},
		{"Patient?_list=", bad, "the id of a List"},
		{"Patient?_list=a/b", bad, "the id of a List"},
		{"Patient?_list=Patient/b", bad, "the id of a List"},
		{"Patient?_list:not=1", no, "no modifier"},
	} {
		_, err := chained.Compile(c.criteria)
		e := fhir.AsError(err)
		if e == nil || e.Issues[0].Type != c.typ || !strings.Contains(e.Issues[0].Diagnostics, c.text) {
			t.Errorf("%s: %v, want %s with %q", c.criteria, err, c.typ, c.text)
		}
	}
}

func TestExplainSaysWhoRefers(t *testing.T) {
	w := newWorld(observation("o1", "Patient/p", `"status":"final"`), observation("o2", "Patient/p", `"status":"amended"`))
	c := chainedCriteria(t, "Patient?_has:Observation:subject:status=unknown")
	x := c.Explain(beside(t, w, patient("p", "")))[1]
	if x.Met || strings.Join(x.Found, ";") != "Observation/o1: final;Observation/o2: amended" || !strings.Contains(x.Note, "no Observation that refers to it meets") {
		t.Errorf("%+v", x)
	}
	x = c.Explain(beside(t, w, patient("q", "")))[1]
	if x.Met || x.Found != nil || !strings.Contains(x.Note, "no Observation refers to it by subject") {
		t.Errorf("%+v", x)
	}
}
