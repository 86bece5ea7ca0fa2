package search

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// What R4 3.1.1.4.13 and 3.1.1.4.14 say, R4B repeats, and R5 says under "Chaining" and "Reverse
// Chaining". The parameters are those of the version.
func TestChainsOfEveryVersion(t *testing.T) {
	p := patient("p", `"name":[{"given":["Peter"]}]`)
	others := []string{p,
		observation("o", "Patient/p", `"status":"final","code":{"coding":[{"code":"1234-5"}]}`),
		`{"resourceType":"AuditEvent","id":"e","agent":[{"who":{"reference":"Practitioner/MyUserId"}}],"entity":[{"what":{"reference":"Observation/o"}}]}`,
		`{"resourceType":"Group","id":"102","member":[{"entity":{"reference":"Patient/p"}}]}`,
		`{"resourceType":"Organization","id":"maker","name":"Maker"}`,
		`{"resourceType":"BodyStructure","id":"b","patient":{"reference":"Patient/p"}}`,
		`{"resourceType":"List","id":"42","entry":[{"item":{"reference":"Patient/p"}}]}`,
	}
	report := `{"resourceType":"DiagnosticReport","id":"d","subject":{"reference":"Patient/p"},"result":[{"reference":"Observation/o"}]}`
	for _, c := range []struct {
		versions string
		criteria string
		resource string
		want     bool
	}{
		{"R4 R4B R5", "DiagnosticReport?subject.name=peter", report, true},
		{"R4 R4B R5", "DiagnosticReport?subject:Patient.name=peter", report, true},
		{"R4 R4B R5", "DiagnosticReport?subject:Patient.name=anna", report, false},
		{"R4 R4B R5", "DiagnosticReport?result.code=1234-5", report, true},
		{"R4 R4B R5", "DiagnosticReport?result.subject:Patient.name=peter", report, true},
		{"R4 R4B R5", "Encounter?patient._has:Group:member:_id=102", `{"resourceType":"Encounter","subject":{"reference":"Patient/p"}}`, true},
		{"R4 R4B R5", "Patient?_has:Observation:patient:code=1234-5", p, true},
		{"R4 R4B R5", "Patient?_has:Observation:patient:code=1", p, false},
		{"R4 R4B R5", "Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=MyUserId", p, true},
		{"R4 R4B R5", "Patient?_list=42", p, true},
		{"R5", "Specimen?bodysite.patient.name=peter", `{"resourceType":"Specimen","collection":{"bodySite":{"reference":{"reference":"BodyStructure/b"}}}}`, true},
		{"R5", "Specimen?bodysite.patient.name=anna", `{"resourceType":"Specimen","collection":{"bodySite":{"reference":{"reference":"BodyStructure/b"}}}}`, false},
		{"R5", "Medication?marketingauthorizationholder.name=maker", `{"resourceType":"Medication","marketingAuthorizationHolder":{"reference":"Organization/maker"}}`, true},
	} {
		for _, v := range strings.Fields(c.versions) {
			defs := For(fhir.Version(v)).WithRepository()
			criteria, err := defs.Compile(c.criteria)
			if err != nil {
				t.Errorf("%s: %v", v, err)
				continue
			}
			tree, err := json.Parse([]byte(c.resource), json.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			r := NewResource(defs, tree)
			r.SetRepository(newWorld(others...))
			if met, err := criteria.Decide(r); met != c.want || err != nil {
				t.Errorf("%s: %s is %v, %v", v, c.criteria, met, err)
			}
		}
	}
}

// The ValueSets that a criteria depends on are also those that it asks other resources about.
func TestAChainUsesWhatItsEndUses(t *testing.T) {
	const set = `{"resourceType":"ValueSet","id":"v","url":"http://example.org/vs","status":"active","compose":{"include":[{"system":"http://loinc.org","concept":[{"code":"1234-5"}]}]}}`
	terms, err := NewTerminology([]byte(set))
	if err != nil {
		t.Fatal(err)
	}
	defs := chained.WithTerminology(terms)
	for _, criteria := range []string{
		"DiagnosticReport?result.code:in=http://example.org/vs",
		"Patient?_has:Observation:patient:code:in=http://example.org/vs",
		"Patient?_has:Observation:patient:_has:DiagnosticReport:result:result.code:in=http://example.org/vs",
	} {
		c, err := defs.Compile(criteria)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(c.Uses(), "http://example.org/vs") || c.Identity() == c.Canonical() {
			t.Errorf("%s uses %q and is %q", criteria, c.Uses(), c.Identity())
		}
	}
	w := newWorld(observation("o", "Patient/p", `"code":{"coding":[{"system":"http://loinc.org","code":"1234-5"}]}`))
	c, err := defs.Compile("Patient?_has:Observation:patient:code:in=http://example.org/vs")
	if err != nil {
		t.Fatal(err)
	}
	if met, err := c.Decide(beside(t, w, patient("p", ""))); !met || err != nil {
		t.Errorf("%v, %v", met, err)
	}
}

// A parameter whose expression fails on another resource leaves the chain undecided.
func TestAnExpressionThatFailsOnAnotherResourceIsSeen(t *testing.T) {
	d := with(t, chained, parameter("one", "Patient", "token", "Patient.name.given.single() = 'Ana'", ""))
	ana, many := patient("a", `"name":[{"given":["Ana"]}]`), patient("m", `"name":[{"given":["Ana","Maria"]}]`)
	for _, c := range []struct {
		criteria, subject string
		met               bool
		err               error
	}{
		{"Observation?subject:Patient.one=true", "Patient/a", true, nil},
		{"Observation?subject:Patient.one=false", "Patient/a", false, nil},
		{"Observation?subject:Patient.one=true", "Patient/m", false, ErrNotEvaluable},
		{"Observation?subject:Patient.one:not=true", "Patient/m", false, ErrNotEvaluable},
		{"Observation?subject:Patient.one=true&status=amended", "Patient/m", false, nil},
		{"Observation?subject:Patient._has:Observation:subject:subject:Patient.one=true", "Patient/m", false, ErrNotEvaluable},
	} {
		body := observation("o", c.subject, `"status":"final"`)
		tree, err := json.Parse([]byte(body), json.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		r := NewResource(d, tree)
		r.SetRepository(newWorld(ana, many, body))
		met, err := compiled(t, d, c.criteria).Decide(r)
		if met != c.met || !errors.Is(err, c.err) || (err != nil) != (c.err != nil) {
			t.Errorf("%s of %s: %v, %v", c.criteria, c.subject, met, err)
		}
	}
}
