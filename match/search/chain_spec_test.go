package search

import (
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// The rules and examples of "Chained parameters" (R4 3.1.1.4.13; in R5 "Chaining"), one by one.
func TestChainsFollowTheSpecification(t *testing.T) {
	// A document whose author, subject and their organization are given by these URLs.
	document := func(composition, patient, reference string) string {
		return `{"resourceType":"Bundle","type":"document","entry":[` +
			`{"fullUrl":"` + composition + `","resource":{"resourceType":"Composition","id":"1","subject":{"reference":"` + reference + `"}}},` +
			`{"fullUrl":"urn:uuid:9","resource":{"resourceType":"Organization","name":"Inner"}},` +
			`{"fullUrl":"` + patient + `","resource":{"resourceType":"Patient","id":"p","name":[{"text":"Peter"}],"managingOrganization":{"reference":"urn:uuid:9"}}}]}`
	}
	const bundles = "R4 Bundle, Resolving references in Bundles"
	const chaining, modifiers, contained = "R4 3.1.1.4.13", "R4 3.1.1.4.4", "R4 3.1.1.5.7"
	peter, anna := patient("p", `"gender":"male","name":[{"family":"Chalmers","given":["Peter"]}],"managingOrganization":{"reference":"Organization/org"}`),
		patient("a", `"gender":"female","name":[{"given":["Anna"]}]`)
	org := `{"resourceType":"Organization","id":"org","name":"Good Health","partOf":{"reference":"Organization/top"}}`
	top := `{"resourceType":"Organization","id":"top","name":"Top"}`
	report := func(subject string) string {
		return `{"resourceType":"DiagnosticReport","id":"d","status":"final","subject":` + subject + `}`
	}
	to := func(ref string) string { return report(`{"reference":"` + ref + `"}`) }
	group := `{"resourceType":"Group","id":"g","type":"person","actual":true,"code":{"text":"x"}}`
	device := `{"resourceType":"Device","id":"v","deviceName":[{"name":"Peter's meter","type":"user-friendly-name"}]}`
	joe := `{"resourceType":"Practitioner","id":"joe","name":[{"text":"Joe"}],"address":[{"state":"NY"}]}`
	bill := `{"resourceType":"Practitioner","id":"bill","name":[{"text":"Bill"}],"address":[{"state":"MN"}]}`
	cared := `{"resourceType":"Patient","id":"c","generalPractitioner":[{"reference":"Practitioner/joe"},{"reference":"Practitioner/bill"}]}`
	all := []string{peter, anna, org, top, group, device, joe, bill}
	checkRules(t, []chainRule{
		// "all the lab reports that have a subject whose name includes peter"
		{chaining, "DiagnosticReport?subject.name=peter", to("Patient/p"), all, true},
		{chaining, "DiagnosticReport?subject.name=peter", to("Patient/a"), all, false},
		{chaining, "DiagnosticReport?subject:Patient.name=peter", to("Patient/p"), all, true},
		{chaining, "DiagnosticReport?subject:Patient.name=peter", to("Patient/a"), all, false},
		{chaining, "DiagnosticReport?patient.name=peter", to("Patient/p"), all, true},
		// Without a type every type counts that the reference may name and that has the parameter.
		{chaining, "DiagnosticReport?subject.identifier:missing=true", to("Patient/p"), all, true},
		{chaining, "DiagnosticReport?subject.identifier:missing=true", to("Group/g"), all, true},
		{chaining, "DiagnosticReport?subject.identifier:missing=true", to("Device/v"), all, true},
		{chaining, "DiagnosticReport?subject:Group.identifier:missing=true", to("Patient/p"), all, false},
		{chaining, "DiagnosticReport?subject.type=person", to("Group/g"), all, true},
		{chaining, "DiagnosticReport?subject._language=de", to("Patient/l"), []string{patient("l", `"language":"de"`)}, true},
		{chaining, "DiagnosticReport?subject._language=fr", to("Patient/l"), []string{patient("l", `"language":"de"`)}, false},
		{chaining, "DiagnosticReport?subject:Device.device-name=peter", to("Device/v"), all, true},
		{chaining, "DiagnosticReport?subject:Patient.name=peter", to("Device/v"), all, false},
		// Several links.
		{chaining, "DiagnosticReport?subject:Patient.organization.name=good", to("Patient/p"), all, true},
		{chaining, "DiagnosticReport?subject:Patient.organization:Organization.name=good", to("Patient/p"), all, true},
		{chaining, "DiagnosticReport?subject:Patient.organization.partof.name=top", to("Patient/p"), all, true},
		{chaining, "DiagnosticReport?subject:Patient.organization.partof.name=good", to("Patient/p"), all, false},
		{chaining, "DiagnosticReport?patient.organization.name=good", to("Patient/a"), all, false},
		// A chain is a set of conditions on one resource each; two chains may meet two.
		{chaining, "Patient?general-practitioner.name=Joe&general-practitioner.address-state=MN", cared, all, true},
		{chaining, "Patient?general-practitioner:Practitioner.name=Joe&general-practitioner:Practitioner.address-state=MN", cared, all, true},
		{chaining, "Patient?general-practitioner.name=Joe&general-practitioner.address-state=CA", cared, all, false},
		// Values of a list are alternatives, as everywhere (R4 3.1.1.3).
		{"R4 3.1.1.3", "DiagnosticReport?subject:Patient.name=anna,peter", to("Patient/p"), all, true},
		{"R4 3.1.1.3", "DiagnosticReport?subject:Patient.name=anna,joe", to("Patient/p"), all, false},
		{"R4 3.1.1.3", "DiagnosticReport?subject:Patient.name=peter&subject:Patient.gender=female", to("Patient/p"), all, false},
		// Modifiers belong to the last link.
		{modifiers, "DiagnosticReport?subject:Patient.name:exact=Peter", to("Patient/p"), all, true},
		{modifiers, "DiagnosticReport?subject:Patient.name:exact=peter", to("Patient/p"), all, false},
		{modifiers, "DiagnosticReport?subject:Patient.name:contains=ete", to("Patient/p"), all, true},
		{modifiers, "DiagnosticReport?subject:Patient.gender:not=male", to("Patient/a"), all, true},
		{modifiers, "DiagnosticReport?subject:Patient.gender:not=male", to("Patient/p"), all, false},
		{modifiers, "DiagnosticReport?subject:Patient.gender:not=male", to("Group/g"), all, false}, // no Patient
		{modifiers, "DiagnosticReport?subject:Patient.birthdate:missing=true", to("Patient/p"), all, true},
		{modifiers, "DiagnosticReport?subject:Patient.birthdate:missing=false", to("Patient/p"), all, false},
		{modifiers, "DiagnosticReport?subject:Patient.organization:missing=true", to("Patient/a"), all, true},
		{modifiers, "DiagnosticReport?subject:Patient.organization:Organization=org", to("Patient/p"), all, true},
		{modifiers, "DiagnosticReport?subject:Patient._id=p", to("Patient/p"), all, true},
		// What a reference may look like: R4 3.1.1.4.12.
		{"R4 3.1.1.4.12", "DiagnosticReport?subject:Patient.name=peter", to("https://example.org/fhir/Patient/p"), all, true},
		{"R4 3.1.1.4.12", "DiagnosticReport?subject:Patient.name=peter", to("Patient/p/_history/7"), all, true},
		{"R4 3.1.1.4.12", "DiagnosticReport?subject:Patient.name=peter", to("https://elsewhere.example/fhir/Patient/p"), all, false},
		{"R4 3.1.1.4.12", "DiagnosticReport?subject:Patient.name=peter", to("urn:uuid:c757873d-ec9a-4326-a141-556f43239520"), all, false},
		{"R4 3.1.1.4.12", "DiagnosticReport?subject:Patient.name=peter", report(`{"identifier":{"value":"p"},"type":"Patient"}`), all, false},
		{"R4 3.1.1.4.12", "DiagnosticReport?subject:Patient.name:missing=true", to("Patient/nobody"), all, false}, // no resource, no match
		{"R4 3.1.1.4.12", "DiagnosticReport?subject:Patient.name:missing=true", `{"resourceType":"DiagnosticReport"}`, all, false},
		// A contained resource is asked where it stands.
		{contained, "DiagnosticReport?subject:Patient.name=peter", strings.Replace(to("#x"), "{", `{"contained":[{"resourceType":"Patient","id":"x","name":[{"text":"Peter"}]}],`, 1), nil, true},
		{contained, "DiagnosticReport?subject:Patient.name=anna", strings.Replace(to("#x"), "{", `{"contained":[{"resourceType":"Patient","id":"x","name":[{"text":"Peter"}]}],`, 1), nil, false},
		{contained, "DiagnosticReport?subject:Patient.name=peter", to("#x"), nil, false},
		{contained, "DiagnosticReport?subject:Patient.organization.name=inner", strings.Replace(to("#x"), "{",
			`{"contained":[{"resourceType":"Patient","id":"x","managingOrganization":{"reference":"#y"}},{"resourceType":"Organization","id":"y","name":"Inner"}],`, 1), nil, true},
		{contained, "DiagnosticReport?subject:Patient.organization.name=good", strings.Replace(to("#x"), "{",
			`{"contained":[{"resourceType":"Patient","id":"x","managingOrganization":{"reference":"Organization/org"}}],`, 1), all, true},
		{contained, "Observation?derived-from:Observation.derived-from:Observation.status=final",
			`{"resourceType":"Observation","id":"o","status":"final","contained":[{"resourceType":"Observation","id":"x","status":"amended","derivedFrom":[{"reference":"#"}]}],"derivedFrom":[{"reference":"#x"}]}`, nil, true},
		// A resource inside of a Bundle is the one that a chain on composition or message asks.
		{"R4 3.1.1.4.13", "Bundle?composition.title=letter", `{"resourceType":"Bundle","type":"document","entry":[{"resource":{"resourceType":"Composition","title":"Letter"}}]}`, nil, true},
		{"R4 3.1.1.4.13", "Bundle?composition.patient.name=peter", `{"resourceType":"Bundle","type":"document","entry":[{"resource":{"resourceType":"Composition","subject":{"reference":"Patient/p"}}}]}`, all, true},
		{"R4 3.1.1.4.13", "Bundle?message.event=x", `{"resourceType":"Bundle","type":"message","entry":[{"resource":{"resourceType":"MessageHeader","eventCoding":{"code":"x"}}}]}`, nil, true},
		{bundles, "Bundle?composition.patient.name=peter", document("urn:uuid:1", "urn:uuid:2", "urn:uuid:2"), nil, true},
		{bundles, "Bundle?composition.patient.name=anna", document("urn:uuid:1", "urn:uuid:2", "urn:uuid:2"), nil, false},
		{bundles, "Bundle?composition.patient.name=peter", document("urn:uuid:1", "urn:uuid:2", "urn:uuid:3"), nil, false},
		{bundles, "Bundle?composition.patient.name=peter", document("http://x.example/r/Composition/1", "http://x.example/r/Patient/p", "Patient/p"), nil, true},
		{bundles, "Bundle?composition.patient.name=peter", document("http://x.example/r/Composition/1", "http://x.example/r/Patient/p", "http://x.example/r/Patient/p/_history/2"), nil, true},
		{bundles, "Bundle?composition.patient.name=peter", document("http://x.example/r/Composition/1", "http://y.example/r/Patient/p", "Patient/p"), nil, false},
		{bundles, "Bundle?composition.patient.name=peter", document("urn:uuid:1", "http://y.example/r/Patient/p", "Patient/p"), all, true}, // this server's
		{bundles, "Bundle?composition.patient.organization.name=inner", document("urn:uuid:1", "urn:uuid:2", "urn:uuid:2"), nil, true},
		// _has at the end of a chain.
		{"R4 3.1.1.4.14", "Encounter?patient._has:Group:member:_id=102", `{"resourceType":"Encounter","subject":{"reference":"Patient/p"}}`,
			append([]string{`{"resourceType":"Group","id":"102","member":[{"entity":{"reference":"Patient/p"}}]}`}, all...), true},
		{"R4 3.1.1.4.14", "Encounter?patient._has:Group:member:_id=102", `{"resourceType":"Encounter","subject":{"reference":"Patient/a"}}`,
			append([]string{`{"resourceType":"Group","id":"102","member":[{"entity":{"reference":"Patient/p"}}]}`}, all...), false},
	})
}

func TestChainsThatAreNotUnderstoodAreRefused(t *testing.T) {
	const no, bad = fhir.IssueNotSupported, fhir.IssueValue
	for _, c := range []struct {
		criteria string
		typ      fhir.IssueType
		text     string
	}{
		{"Observation?subjet.name=x", no, "did you mean subject?"},
		{"Observation?subject:Patiant.name=x", no, `"Patiant" is not a resource type`},
		{"Observation?subject:Practitioner.name=x", bad, "cannot refer to Practitioner, only to Device, Group, Location, Patient"},
		{"Observation?subject:Patient.nme=x", no, "Patient has no such search parameter; did you mean name?"},
		{"Observation?subject.nme=x", no, `none of the types that subject may refer to has a search parameter "nme": Device, Group, Location, Patient`},
		{"Observation?subject.name=--", bad, "for Location: "},
		{"Observation?subject.birthdate=x", bad, "date"},
		{"Observation?code.name=x", no, "code is no reference"},
		{"Observation?subject:Patient.=x", no, "no such search parameter"},
		{"Observation?.name=x", no, "no such search parameter"},
		{"Observation?subject:Patient.name", bad, "value is empty"},
		{"Observation?subject:Patient.name=", bad, "value is empty"},
		{"Observation?subject:Patient.name:nope=x", no, "modifier"},
		{"Observation?subject:Patient._count=3", no, "selects nothing"},
		{"Observation?subject:Patient.age=3", no, "no expression"},
		{"QuestionnaireResponse?questionnaire.title=x", no, "canonical"},
		{"Observation?has-member:Observation.has-member:Observation.has-member:Observation.has-member:Observation.has-member:Observation.has-member:Observation.status=final", no, "more than 5 links"},
		{"List?item.focus.item.focus.status=x", no, "name the types"},
		{"List?item.identifier=" + strings.Repeat("a,", 900) + "a", no, "too many values"},
	} {
		_, err := chained.Compile(c.criteria)
		e := fhir.AsError(err)
		if e == nil || e.Issues[0].Type != c.typ || !strings.Contains(e.Issues[0].Diagnostics, c.text) {
			t.Errorf("%.200s: %v, want %s with %q", c.criteria, err, c.typ, c.text)
		}
	}
	if _, err := chained.Compile("List?item:Patient.identifier=" + strings.Repeat("a,", 900) + "a"); err != nil {
		t.Error(err)
	}
}

// Chains of equal meaning share a canonical text, which means the same when it is compiled.
func TestChainsOfEqualMeaningShareATextThatMeansTheSame(t *testing.T) {
	for _, c := range [][2]string{
		{"Observation?patient.name=Peter", "Observation?patient:Patient.name=peter"},
		{"Observation?subject.birthdate=2020", "Observation?subject:Patient.birthdate=2020"},
		{"Observation?status=final&subject:Patient.name=b,a", "Observation?subject:Patient.name=a,b&status=final"},
		{"Patient?_has:Observation:patient:code=b,a", "Patient?_has:Observation:patient:code=a,b"},
		{"Observation?subject.identifier=b,a,b", "Observation?subject.identifier=a,b"}, // of four types
		{"DiagnosticReport?subject.identifier=b,a&result.status=final", "DiagnosticReport?result.status=final&subject.identifier=a,b"},
		{"Patient?_list=b,List/a", "Patient?_list=a,b"},
		{"Observation?patient._has:Group:member:_id=1", "Observation?patient:Patient._has:Group:member:_id=1"},
		{"DiagnosticReport?subject.identifier=a%7Cb", "DiagnosticReport?subject.identifier=a|b"},
	} {
		a, b := chainedCriteria(t, c[0]).Canonical(), chainedCriteria(t, c[1]).Canonical()
		if a != b {
			t.Errorf("%s is %s, %s is %s", c[0], a, c[1], b)
		}
		if again := chainedCriteria(t, a).Canonical(); again != a {
			t.Errorf("%s becomes %s", a, again)
		}
	}
	if a, b := chainedCriteria(t, "Observation?subject.name=x").Canonical(), chainedCriteria(t, "Observation?subject:Patient.name=x").Canonical(); a == b {
		t.Errorf("both are %s", a)
	}
}

// Explain shows what was reached, and why it did not do.
func TestExplainSaysWhatAChainReached(t *testing.T) {
	w := newWorld(patient("p", `"gender":"male"`), patient("q", ""))
	for _, c := range []struct{ subject, found, note string }{
		{`{"reference":"Patient/p"}`, "Patient/p: male", "no resource that is referred to meets it"},
		{`{"reference":"Patient/q"}`, "Patient/q: no value", "no resource that is referred to meets it"},
		{`{"reference":"Patient/x"}`, "Patient/x: not known here", "leads to one that is known here"},
		{`{"reference":"Group/g"}`, "Group/g: not asked", "leads to one that is known here"},
		{`{}`, "", "no value in the resource"},
	} {
		r := beside(t, w, `{"resourceType":"Observation","subject":`+c.subject+`}`)
		x := chainedCriteria(t, "Observation?subject:Patient.gender=female").Explain(r)[1]
		if x.Met || !strings.Contains(x.Note, c.note) || strings.Join(x.Found, ";") != c.found {
			t.Errorf("%s: %+v", c.subject, x)
		}
	}
	w.fail[fhir.Key{Type: "Patient", ID: "p"}] = errDown
	r := beside(t, w, observation("o", "Patient/p", ""))
	if x := chainedCriteria(t, "Observation?subject:Patient.gender=female").Explain(r)[1]; x.Met || !strings.Contains(x.Note, "not available: down") {
		t.Errorf("%+v", x)
	}
}
