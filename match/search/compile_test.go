package search

import (
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// Whatever is not understood is refused, with the place and the way out: a condition that was
// ignored would notify of resources that nobody asked for.
func TestCompileRefusesWhatItDoesNotUnderstand(t *testing.T) {
	const no, bad, long = fhir.IssueNotSupported, fhir.IssueValue, fhir.IssueTooLong
	for _, c := range []struct {
		criteria string
		typ      fhir.IssueType
		text     string
	}{
		{"", bad, "names no resource type"},
		{"?x=1", bad, "names no resource type"},
		{"Patiant", bad, `"Patiant" is not a resource type of FHIR R4; did you mean Patient?`},
		{"patient?x=1", bad, "did you mean Patient?"},
		{"DomainResource?_id=1", bad, "not a resource type"},
		{"[Patient", bad, "must end with ]"},
		{"[Patient]?gender=male", bad, "takes no parameters"},
		{"[]", bad, "names no resource type"},
		{"[Patient,]", bad, "names no resource type"},
		{"[Patient,Nope]", bad, `"Nope" is not`},
		{"http://example.org/topics/admission", no, "topic"},
		{"http://elsewhere.example/fhir/Patient?gender=male", no, "topic"},
		{"urn:uuid:1", no, "topic"},
		{"Patient/123/Observation?status=final", no, "compartment of Patient"},
		{"Encounter/*/Observation?status=final", no, "compartment of Encounter"},
		{"Patient/_search?gender=male", bad, `"_search" is not a resource type`},
		{"Patient\xff", bad, "UTF-8"},
		{"Patient?_id=Observation/o1", bad, "must be an id"},
		{"Patient?_id=a_b", bad, "must be an id"},
		{"Patient?_id:not=Patient/", bad, "must be an id"},
		{"Patient?gendre=male", no, `parameter "gendre" at position 9: Patient has no such search parameter; did you mean gender?`},
		{"Patient?gender=male&nope=1", no, `"nope" at position 21: Patient has no such`},
		{"  Patient?nope=1", no, "at position 11"},
		{"/fhir/Patient?nope=1", no, "at position 15"},
		{"Patient?_tga=1", no, "did you mean _tag?"},
		{"Patient?gender", bad, "value is empty"},
		{"Patient?gender=", bad, "value is empty"},
		{"Patient?gender=male,", bad, "one of the values is empty"},
		{"Patient?gender=,", bad, "one of the values is empty"},
		{"Patient?gender:exact=x", no, `modifier "exact" is not supported for a token parameter; supported are :missing, :not, :text`},
		{"Patient?gender:in=http://vs", no, `ValueSet "http://vs" is not stored; write it to this server first`},
		{"Patient?gender:text=x", no, "no text beside its value"},
		{"Observation?code:above=x", bad, "system|code"},
		{"Observation?code:above=s|x", no, `the hierarchy of "s" is not known here`},
		{"Patient?gender:=x", no, "modifier"},
		{"Patient?name:not=x", no, "modifier"},
		{"Patient?birthdate:exact=2020", no, "modifier"},
		{"ValueSet?url:below=urn:oid:1.2", bad, "path of a URL"},
		{"Observation?subject:Device.name=x", no, "chained"},
		{"Observation?subject.name=x", no, "as in subject=Type/id"},
		{"Observation?subject:Practitioner=1", bad, "cannot refer to Practitioner, only to Device, Group, Location, Patient"},
		{"Observation?subject=Practitioner/1", bad, "cannot refer to Practitioner"},
		{"Observation?patient=Observation/1", bad, "cannot refer to Observation"},
		{"Observation?subject:Patient=Group/1", bad, "must be an id"},
		{"Observation?subject:Patient=http://x/Patient/1", bad, "must be an id"},
		{"Observation?subject=Patient/", bad, "id, Type/id or an absolute URL"},
		{"Observation?subject=a/b/c", bad, "id, Type/id or an absolute URL"},
		{"Observation?subject=Nope/1", bad, "id, Type/id or an absolute URL"},
		{"QuestionnaireResponse?questionnaire:identifier=x", no, "no identifier"},
		{"Patient?_has:Observation:patient:code=1", no, "reverse chaining"},
		{"Patient?_filter=name is x", bad, "an operator must follow"},
		{"Patient?_text:exact=x", no, "no modifier but :missing"},
		{"Patient?_content=()", bad, "lacks a word"},
		{"Patient?_list=1", no, "List"},
		{"Patient?_query=x", no, "named queries"},
		{"Patient?_type=Patient", no, "[A,B]"},
		{"Patient?age=5", no, "gives no expression"},
		{"Location?near=1", bad, "latitude|longitude|distance|units"},
		{"Patient?near=1|2", no, "no such search parameter"},
		{"Patient?_sort:missing=true", no, "_sort takes no modifier"},
		{"Patient?_count:exact=3", no, "_count takes no modifier"},
		{"Patient?gender:missing=yes", bad, "true or false"},
		{"Patient?gender:missing=true,false", bad, "true or false"},
		{"Patient?active=yes", bad, "true or false"},
		{"Patient?active=x|true", bad, "without |"},
		{"Patient?telecom=phone|1", bad, "without |"},
		{"Patient?identifier=a|b|c", bad, "system|code"},
		{"Patient?identifier=|", bad, "empty"},
		{"Patient?name=--", bad, "no letter or digit"},
		{`Patient?name=a\x`, bad, "backslash"},
		{`Patient?name=a\`, bad, "backslash"},
		{"Patient?name=%zz", bad, "hexadecimal"},
		{"Patient?name=%4", bad, "hexadecimal"},
		{"Patient?name=%ff", bad, "UTF-8"},
		{"Patient?name=a%00b", bad, "control character"},
		{"Patient?birthdate=2020-13", bad, "date or time"},
		{"Patient?birthdate=2020-02-30", bad, "date or time"},
		{"Patient?birthdate=20", bad, "date or time"},
		{"Patient?birthdate=2020-01-01T", bad, "date or time"},
		{"Patient?birthdate=2020-01-01T10", bad, "date or time"},
		{"Patient?birthdate=2020-01-01T25:00", bad, "date or time"},
		{"Patient?birthdate=2020-01-01T24:01", bad, "date or time"},
		{"Patient?birthdate=2020-01-01T10:00:00X", bad, "date or time"},
		{"Patient?birthdate=0000", bad, "date or time"},
		{"Patient?birthdate=zz2020", bad, "prefix"},
		{"Patient?birthdate=gt", bad, "prefix"},
		{"Observation?value-quantity=abc", bad, "prefix"},
		{"Observation?value-quantity=1.", bad, "number"},
		{"Observation?value-quantity=.5", bad, "number"},
		{"Observation?value-quantity=1e99999", bad, "number"},
		{"Observation?value-quantity=1|mg", bad, "number|system|code"},
		{"Observation?value-quantity=|x|mg", bad, "number"},
		{"Observation?value-quantity=--1", bad, "number"},
		{"RiskAssessment?probability=0.8|x|y", bad, "no unit"},
		{"Patient?name=" + strings.Repeat("a", maxLength), long, "limit is 8192"},
		{"Patient?name=" + strings.Repeat("a,", maxValues) + "a", long, "values"},
	} {
		_, err := R4().Compile(c.criteria)
		e := fhir.AsError(err)
		if e == nil || len(e.Issues) != 1 {
			t.Errorf("%.60s: %v", c.criteria, err)
			continue
		}
		i := e.Issues[0]
		if i.Type != c.typ || i.Expression != "" || !strings.Contains(i.Diagnostics, c.text) {
			t.Errorf("%.60s: %+v, want %s with %q", c.criteria, i, c.typ, c.text)
		}
	}
	many := "Patient?"
	for i := range maxConditions + 1 {
		many += "name=a" + strings.Repeat("b", i) + "&"
	}
	if e := fhir.AsError(func() error { _, err := R4().Compile(many); return err }()); e == nil || e.Issues[0].Type != long {
		t.Error("too many parameters accepted")
	}
}

func TestResultParametersHaveNoEffect(t *testing.T) {
	d := R4()
	plain := compiled(t, d, "Patient?gender=male")
	for _, q := range []string{"_format=json", "_pretty=true", "_summary=data", "_elements=id", "_sort=-date", "_sort:desc=date",
		"_count=1", "_total=none", "_include=Patient:organization", "_include:iterate=*", "_revinclude=Observation:patient",
		"_revinclude:recurse=x", "_count=", "_offset=20", "_fields=name", "_cursor=abc"} {
		if got := compiled(t, d, "Patient?"+q+"&gender=male").Canonical(); got != plain.Canonical() {
			t.Errorf("%s: %s", q, got)
		}
	}
}

func TestOneMeaningHasOneCanonicalForm(t *testing.T) {
	d := local()
	for _, group := range [][]string{
		{"Patient", "Patient?", " Patient ", "/Patient", "fhir/Patient?", "[Patient]", base + "/Patient", "Patient?_count=5", "Patient?&"},
		{"[Patient,Observation]", "[Observation, Patient]", "[Patient,Observation,Patient]"},
		{"[*]", "[Patient,*]"},
		{"Patient?gender=male&active=true", "Patient?active=true&gender=male", "Patient?active=true&gender=male&active=true"},
		{"Patient?gender=male,female", "Patient?gender=female,male,male", "Patient?gender=female%2Cmale"},
		{"Observation?subject=Patient/1", "Observation?subject:Patient=1", "Observation?subject=" + base + "/Patient/1", "Observation?subject:Patient=Patient/1"},
		{"Patient?name=Ana", "Patient?name=ANA", "Patient?name=%41na"},
		{"Patient?birthdate=2020", "Patient?birthdate=eq2020"},
		{"Patient?birthdate=2020-01-01T10:00%2B01:00", "Patient?birthdate=2020-01-01T10:00+01:00"},
		{"Observation?value-quantity=5.4", "Observation?value-quantity=eq5.4"},
		{`Patient?identifier=a\,b`}, {"Patient?identifier=a,b"}, {`Patient?identifier=a\|b`}, {"Patient?identifier=a|b"},
		{"Patient?name:exact=Ana"}, {"Patient?name:contains=Ana"}, {"Patient?gender:not=male"}, {"Patient?gender=male"},
		{"Patient?gender:missing=true"}, {"Patient?gender:missing=false"}, {"Observation?subject=1"}, {"Observation?value-quantity=5.40"},
		{"Observation?subject=Patient/1/_history/2"}, {"Observation?subject:identifier=1"}, {"Patient?identifier=|a"}, {"Patient?identifier=a|"},
		{"Observation?value-quantity=5.4||mg"}, {"Observation?value-quantity=5.4|s|mg"}, {"Observation?value-quantity=gt5.4"},
	} {
		want := compiled(t, d, group[0]).Canonical()
		for _, q := range group {
			c := compiled(t, d, q)
			if c.Canonical() != want || c.String() != q {
				t.Errorf("%s: canonical form %s, want %s", q, c.Canonical(), want)
			}
			if again := compiled(t, d, c.Canonical()); again.Canonical() != want {
				t.Errorf("%s: canonical form of %s is %s", q, want, again.Canonical())
			}
		}
	}
	seen := map[string]string{}
	for _, q := range []string{"Patient?identifier=a|b", `Patient?identifier=a\|b`, "Patient?identifier=a,b", `Patient?identifier=a\,b`,
		"Patient?identifier=|a", "Patient?identifier=a|", "Patient?identifier=a", "Patient?name=a", "Patient?name:exact=a", "Patient?name:exact=A"} {
		c := compiled(t, d, q).Canonical()
		if other, twice := seen[c]; twice {
			t.Errorf("%s and %s are one: %s", q, other, c)
		}
		seen[c] = q
	}
}

func TestEveryTypeHasTheCommonParameters(t *testing.T) {
	d := R4()
	if n := len(d.Types()); n != 146 {
		t.Errorf("%d resource types", n)
	}
	for _, name := range d.Types() {
		if !d.HasType(name) {
			t.Errorf("%s is no type", name)
		}
		for _, q := range []string{"_id=1", "_lastUpdated=gt2020", "_tag=a|b", "_profile=http://p", "_security=x", "_source=http://s"} {
			if _, err := d.Compile(name + "?" + q); err != nil {
				t.Errorf("%s?%s: %v", name, q, err)
			}
		}
	}
	if d.HasType("DomainResource") || d.HasType("") {
		t.Error("an abstract type counts as one")
	}
}

// Whatever is written as a criteria is refused with a reason, or compiles, and then Match,
// Explain and the place in an index agree, and the canonical form is its own canonical form.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"Patient?name=a", "[*]", "Observation?code=http://loinc.org|1,2&value-quantity=gt5.4|u|mg&date=ge2020-01-01T00:00:00%2B01:00",
		"Observation?subject:Patient=1&subject:identifier=a|b", `Patient?name:exact=a\,b&gender:not=x&active:missing=true`,
		"RiskAssessment?probability=ap1e-9", "QuestionnaireResponse?questionnaire=http://x|1", "Patient?_has:a:b=c", "a%20b?c=%",
		"Observation?code:text=heart&code:code-text=1&code:text-advanced=(a OR \"b c\") NOT d*", "Patient?identifier:of-type=s|MR|1",
		"Observation?code:in=http://v.example/x,ValueSet/x&status:not-in=http://loinc.org/vs&code:below=http://a.example/animals|cat",
		"ValueSet?url:below=http://x/y&url:above=http://x/y/z&url:contains=Y", "Location?near=1.5|-2|3|km,0|0", "Patient?_text=x-ray or \"not\"*&_content=a,b&_language=de",
		"Patient?name:text=(a b) or c", "Patient?name:text=a&_filter=name eq \"b\" and _text pr true or not (birthdate co 2020)", "Observation?_filter=code in http://loinc.org/vs and value-quantity gt 5.4||mg", "Observation?subject:text=peter&_profile:below=http://p&_source:missing=true", "Organization?name=%C3%9F%E1%BE%B3%CC%81"} {
		f.Add(s)
	}
	terminology := terms(f, animals, vs("x", `{"include":[{"system":"http://loinc.org"},{"valueSet":["http://a.example/vs/all-animals"]}]}`))
	d := local().WithTerminology(terminology)
	trees := map[string]*json.Tree{}
	for _, body := range []string{
		`{"resourceType":"Observation","id":"1","language":"de","status":"final","text":{"div":"<p>a b c x-ray</p>"},"code":{"coding":[{"system":"http://loinc.org","code":"1","display":"Heart rate"},{"system":"http://a.example/animals","code":"cat"}],"text":"a"},"subject":{"reference":"Patient/1","display":"Peter","identifier":{"system":"a","value":"b"}},"valueQuantity":{"value":5.4,"system":"u","code":"mg"},"effectiveDateTime":"2020-05-05"}`,
		`{"resourceType":"Patient","id":"1","meta":{"profile":["http://p/q|1"],"source":"http://s#1"},"active":true,"gender":"male","name":[{"family":"Müller-Lüdenscheidt","given":["Ana"]}],"identifier":[{"type":{"coding":[{"system":"s","code":"MR"}],"text":"Record"},"system":"a","value":"1"}]}`,
		`{"resourceType":"Location","position":{"latitude":1.5,"longitude":-2},"name":"ß"}`,
		`{"resourceType":"ValueSet","url":"http://x/y/z"}`,
	} {
		tree, err := json.Parse([]byte(body), json.Limits{})
		if err != nil {
			f.Fatal(err)
		}
		trees[tree.Str(tree.Get(tree.Root(), "resourceType"))] = tree
	}
	f.Fuzz(func(t *testing.T, criteria string) {
		c, err := d.Compile(criteria)
		if err != nil {
			if e := fhir.AsError(err); e == nil || len(e.Issues) != 1 || e.Issues[0].Diagnostics == "" {
				t.Fatalf("%q: %v", criteria, err)
			}
			return
		}
		tree := trees["Observation"]
		if types := c.Types(); len(types) > 0 && trees[types[0]] != nil {
			tree = trees[types[0]]
		}
		agrees(t, c, NewResource(d, tree))
	})
}
