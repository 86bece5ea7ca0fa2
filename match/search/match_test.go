package search

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

const base = "https://here.example/fhir"

// local are the definitions of a server that is known as base.
func local() *Definitions { return R4().WithBaseURLs(base) }

func resource(t testing.TB, d *Definitions, body string) *Resource {
	t.Helper()
	tree, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return NewResource(d, tree)
}

func compiled(t testing.TB, d *Definitions, criteria string) *Criteria {
	t.Helper()
	c, err := d.Compile(criteria)
	if err != nil {
		t.Fatalf("%s: %v", criteria, err)
	}
	return c
}

// meets tells which criteria a resource meets. Everything that decides is held against one
// another: Match, Explain, and the place in an index.
type meets struct {
	yes, no []string
}

func (m meets) check(t *testing.T, typ, elements string) {
	t.Helper()
	d := local()
	body := `{"resourceType":"` + typ + `"` + elements + `}`
	for _, want := range []bool{true, false} {
		list := m.yes
		if !want {
			list = m.no
		}
		for _, q := range list {
			c := compiled(t, d, typ+"?"+q)
			r := resource(t, d, body)
			if got := c.Match(r); got != want {
				t.Errorf("%s: %s = %v, want %v", body, q, got, want)
			}
			agrees(t, c, r)
		}
	}
}

// agrees checks that Explain and Access say what Match says.
func agrees(t *testing.T, c *Criteria, r *Resource) {
	t.Helper()
	all := true
	for _, x := range c.Explain(r) {
		all = all && x.Met
		if x.Met != (x.Note == "") || x.Text == "" {
			t.Errorf("%s: explained as %+v", c, x)
		}
	}
	got := c.Match(r)
	if all != got {
		t.Errorf("%s: Explain says %v, Match %v", c, all, got)
	}
	for _, a := range c.Accesses() {
		if got && !finds(a, r) {
			t.Errorf("%s matches and would not be found by %s", c, a.Feature)
		}
	}
	// A criteria in its canonical form means the same and has the same canonical form.
	again, err := c.definitions.Compile(c.Canonical())
	if err != nil {
		t.Errorf("%s: canonical form %s: %v", c, c.Canonical(), err)
		return
	}
	if again.Canonical() != c.Canonical() || again.Match(r) != got {
		t.Errorf("%s: canonical form %s, again %s", c, c.Canonical(), again.Canonical())
	}
}

func TestTokensMatch(t *testing.T) {
	const code = `,"code":{"coding":[{"system":"http://loinc.org","code":"718-7","display":"Hb"},{"code":"local"},{"system":"http://a","display":"no code"}],"text":"Hemoglobin"}`
	meets{
		yes: []string{"code=718-7", "code=http://loinc.org|718-7", "code=http://loinc.org|", "code=|local", "code=local",
			"code=x,718-7", "code=http://loinc.org%7C718-7", "code=http%3A%2F%2Floinc.org|718-7", "code=LOCAL", "code=http://a|",
			"code:not=x", "code:not=x,y", "code=718-7&code=local", "code:missing=false", "code:not=http://loinc.org|local"},
		no: []string{"code=718", "code=http://loinc.org|local", "code=|718-7", "code=http://snomed.info/sct|", "code=x",
			"code=718-7&code=x", "code=Hb", "code=Hemoglobin", "code:not=718-7", "code:not=x,local", "code:missing=true",
			"code=http://LOINC.org|718-7", "code=718-7\\,local", "status=final"},
	}.check(t, "Observation", code)
	// No value at all: every equality fails, every negation holds.
	meets{yes: []string{"code:not=718-7", "code:missing=true"}, no: []string{"code=718-7", "code:missing=false"}}.
		check(t, "Observation", ``)
	// Text alone is a value, but none that can be equal.
	meets{yes: []string{"code:missing=false", "code:not=x"}, no: []string{"code=Hb"}}.check(t, "Observation", `,"code":{"text":"Hb"}`)
	// An element with only extensions has no value.
	meets{yes: []string{"code:missing=true"}}.check(t, "Observation", `,"code":{"id":"1","extension":[{"url":"http://x"}]}`)
	meets{yes: []string{"status:missing=true"}, no: []string{"status:missing=false"}}.check(t, "Observation", `,"_status":{"extension":[{"url":"http://x"}]}`)
	// code elements: the system is implied, and case counts.
	meets{yes: []string{"status=final", "status=http://hl7.org/fhir/observation-status|final", "status=amended,final", "status=http://hl7.org/fhir/observation-status|"},
		no: []string{"status=FINAL", "status=fin", "status:not=final"}}.check(t, "Observation", `,"status":"final"`)
	// An element of another JSON type than its own has no value that can be compared.
	meets{yes: []string{"status:not=5"}, no: []string{"status=5"}}.check(t, "Observation", `,"status":5`)

	meets{yes: []string{"identifier=http://mrn|1", "identifier=1", "identifier=http://mrn|", "identifier=|2", "identifier=A|B,x", "identifier=http://mrn|1&identifier=|2"},
		no: []string{"identifier=|1", "identifier=http://mrn|2", "identifier=http://mrn|1&identifier=|3"}}.
		check(t, "Patient", `,"identifier":[{"system":"http://mrn","value":"1"},{"value":"2"},{"system":"A","value":"b"}]`)
	meets{yes: []string{"telecom=555", "phone=555", "email=A@B.c", "email:missing=false", "phone=555&email=a@b.c"},
		no: []string{"phone=a@b.c", "email=555", "telecom=55"}}.
		check(t, "Patient", `,"telecom":[{"system":"phone","value":"555"},{"system":"email","value":"a@b.c"}]`)
	meets{yes: []string{"active=true", "active:not=false"}, no: []string{"active=false", "active:not=true"}}.check(t, "Patient", `,"active":true`)
	meets{yes: []string{"_tag=http://t|a", "_tag=a", "_security=R", "_tag=a&_tag=b"}, no: []string{"_tag=R", "_security:not=r"}}.
		check(t, "Patient", `,"meta":{"tag":[{"system":"http://t","code":"a"},{"code":"b"}],"security":[{"code":"R"}]}`)
	meets{yes: []string{"_id=Ab-1", "_id=x,Ab-1", "_id:not=x"}, no: []string{"_id=ab-1", "_id=Ab"}}.check(t, "Patient", `,"id":"Ab-1"`)
	// The case of units counts.
	meets{yes: []string{"code=mg", "code=http://unitsofmeasure.org|mg"}, no: []string{"code=Mg"}}.
		check(t, "Observation", `,"code":{"coding":[{"system":"http://unitsofmeasure.org","code":"mg"}]}`)
	// What folds into one another is found, also by the index.
	meets{yes: []string{"code=%E2%84%AA", "code=K", "code=k"}}.check(t, "Observation", `,"code":{"coding":[{"code":"k"}]}`)
	meets{yes: []string{`code=a\,b`, `code=a\|b\\c\$`, `code=http://x\|y|z`}, no: []string{"code=a"}}.
		check(t, "Observation", `,"code":{"coding":[{"code":"a,b"},{"code":"a|b\\c$"},{"system":"http://x|y","code":"z"}]}`)
}

func TestDeceasedIsABooleanOfItsOwn(t *testing.T) {
	alive := meets{yes: []string{"deceased=false", "deceased:not=true", "deceased:missing=false"}, no: []string{"deceased=true"}}
	dead := meets{yes: []string{"deceased=true", "deceased:not=false"}, no: []string{"deceased=false"}}
	alive.check(t, "Patient", ``)
	alive.check(t, "Patient", `,"deceasedBoolean":false`)
	dead.check(t, "Patient", `,"deceasedBoolean":true`)
	dead.check(t, "Patient", `,"deceasedDateTime":"2020-01-01"`)
}

func TestStringsMatch(t *testing.T) {
	const name = `,"name":[{"family":"Carreño Quiñones","given":["Ana-María","J."],"prefix":["Dr."],"text":"Ana  the   Great"},{"family":"Smith-Jones"}]`
	meets{
		yes: []string{"name=ana", "name=CARRENO", "name=quinones", "family=quin", "family=carre%C3%B1o", "given=anamar", "given=ANA-MARIA",
			"name=dr", "name=dr.", "given=j", "name=ana%20the%20great", "name=ana+the", "family=jones", "family=smithjones", "family=smith-j",
			"family:exact=Carre%C3%B1o%20Qui%C3%B1ones", "family:contains=reno", "name:contains=great", "name=jones&name=ana", "given=x,ana",
			"family:missing=false", "phonetic=quin", "name=carren%CC%83o"},
		no: []string{"name=aria", "family=ana", "given=great", "family:exact=Carreno%20Quinones", "family:exact=carre%C3%B1o%20qui%C3%B1ones",
			"family:exact=Jones", "name:exact=Ana", "family:contains=xyz", "given=mar", "family=carreno%20smith", "family:missing=true"},
	}.check(t, "Patient", name)
	meets{
		yes: []string{"address=12%20main", "address=spring", "address-city=SPRINGFIELD", "address=us", "address-postalcode=123", "address-country:exact=US"},
		no:  []string{"address=field", "address=main", "address-city=123", "address-use=work"},
	}.check(t, "Patient", `,"address":[{"use":"home","line":["12, Main St."],"city":"Springfield","postalCode":"12345","country":"US"}]`)
	meets{yes: []string{"name=strasse", "name=STRASSE", "name=stra%C3%9Fe"}}.check(t, "Organization", `,"name":"Straße"`)
	meets{yes: []string{"value-string=high"}, no: []string{"value-string=low"}}.check(t, "Observation", `,"valueString":"High grade"`)
	meets{yes: []string{"value-string=high"}}.check(t, "Observation", `,"valueCodeableConcept":{"text":"High grade"}`)
}

// A text of hyphens alone must not make a copy of itself for each of them.
func TestFamilyPartsAreBounded(t *testing.T) {
	d := R4()
	r := resource(t, d, `{"resourceType":"Patient","name":[{"family":"`+strings.Repeat("a-", 100)+`z"}]}`)
	s := r.values(d.types["Patient"].params["family"])
	if n := s.to - s.from; n != 1+maxFamilyParts {
		t.Errorf("%d parts", n)
	}
}

func TestReferencesMatch(t *testing.T) {
	meets{
		yes: []string{"subject=Patient/1", "subject=1", "subject:Patient=1", "subject:Patient=Patient/1", "patient=1", "patient=Patient/1",
			"subject=https://here.example/fhir/Patient/1", "subject=Group/1,Patient/1", "subject=https%3A%2F%2Fhere.example%2Ffhir%2FPatient%2F1", "subject:missing=false"},
		no: []string{"subject=Group/1", "subject=2", "subject:Group=1", "subject=Patient/1/_history/2", "subject=https://there.example/fhir/Patient/1",
			"subject=Patient/11", "subject:identifier=1", "subject=urn:uuid:1"},
	}.check(t, "Observation", `,"subject":{"reference":"Patient/1","display":"x"}`)
	// The server's own base is no difference, on either side.
	meets{yes: []string{"subject=Patient/1", "subject=1", "patient=1"}, no: []string{"subject=https://there.example/fhir/Patient/1"}}.
		check(t, "Observation", `,"subject":{"reference":"https://here.example/fhir/Patient/1"}`)
	// A foreign resource is found by its whole URL alone; its type is known all the same.
	meets{yes: []string{"subject=https://there.example/fhir/Patient/1", "patient=https://there.example/fhir/Patient/1", "patient:missing=false"},
		no: []string{"subject=Patient/1", "subject=1", "patient=1", "subject=https://other.example/fhir/Patient/1"}}.
		check(t, "Observation", `,"subject":{"reference":"https://there.example/fhir/Patient/1"}`)
	// A version counts only where the criteria has one.
	meets{yes: []string{"subject=Patient/1", "subject=1", "subject=Patient/1/_history/2", "subject=https://here.example/fhir/Patient/1/_history/2"},
		no: []string{"subject=Patient/1/_history/3"}}.
		check(t, "Observation", `,"subject":{"reference":"Patient/1/_history/2"}`)
	// Fragments and urns name no resource of a server.
	meets{yes: []string{"subject:missing=false", "patient:missing=false"}, no: []string{"subject=Patient/p", "subject=p", "patient=p"}}.
		check(t, "Observation", `,"contained":[{"resourceType":"Group","id":"g"},{"resourceType":"Patient","id":"p"}],"subject":{"reference":"#p"}`)
	meets{yes: []string{"patient:missing=true"}}.
		check(t, "Observation", `,"contained":[{"resourceType":"Group","id":"g"}],"subject":{"reference":"#g"}`)
	meets{yes: []string{"subject=urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7", "patient:missing=true"}, no: []string{"subject=53fefa32-fcbb-4ff8-8a92-55ee120877b7"}}.
		check(t, "Observation", `,"subject":{"reference":"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"}`)
	// The type may be told beside the reference.
	meets{yes: []string{"patient:missing=false", "subject:identifier=http://mrn|7", "patient:identifier=7", "subject:identifier=http://mrn|"},
		no: []string{"subject:identifier=|7", "subject:identifier=8", "subject=7"}}.
		check(t, "Observation", `,"subject":{"type":"Patient","identifier":{"system":"http://mrn","value":"7"}}`)
	meets{yes: []string{"performer=Practitioner/1&performer=Organization/2", "performer=1", "performer=2,3"}, no: []string{"performer=Practitioner/2"}}.
		check(t, "Observation", `,"performer":[{"reference":"Practitioner/1"},{"reference":"Organization/2"}]`)
	meets{yes: []string{"patient=Patient/1"}, no: []string{"patient=2"}}.
		check(t, "Appointment", `,"participant":[{"actor":{"reference":"Practitioner/2"}},{"actor":{"reference":"Patient/1"}}]`)
	// Canonicals: a version in the criteria counts, none takes any.
	meets{yes: []string{"questionnaire=http://x.example/Questionnaire/q", "questionnaire=http://x.example/Questionnaire/q|1.0"},
		no: []string{"questionnaire=http://x.example/Questionnaire/q|2.0", "questionnaire=q", "questionnaire=http://x.example/Questionnaire/r"}}.
		check(t, "QuestionnaireResponse", `,"questionnaire":"http://x.example/Questionnaire/q|1.0"`)
	meets{yes: []string{"questionnaire=Questionnaire/q", "questionnaire=q", "questionnaire=https://here.example/fhir/Questionnaire/q"}}.
		check(t, "QuestionnaireResponse", `,"questionnaire":"https://here.example/fhir/Questionnaire/q"`)
	// A resource that stands where a reference could, and only the first of the list.
	meets{yes: []string{"composition=Composition/c", "composition=c"}, no: []string{"composition=d", "message=c"}}.
		check(t, "Bundle", `,"entry":[{"resource":{"resourceType":"Composition","id":"c"}},{"resource":{"resourceType":"Composition","id":"d"}}]`)
	meets{yes: []string{"item-subject=Patient/1"}, no: []string{"item-subject=Patient/2"}}.
		check(t, "QuestionnaireResponse", `,"item":[{"answer":[{"valueReference":{"reference":"Patient/2"}}]},{"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/questionnaireresponse-isSubject"}],"answer":[{"valueReference":{"reference":"Patient/1"}}]}]`)
}

func TestDatesMatch(t *testing.T) {
	for _, c := range []struct {
		value string // of Observation.effective[x]
		meets
	}{
		{`"effectiveDateTime":"2013-01-14"`, meets{
			yes: []string{"date=2013-01-14", "date=2013-01", "date=2013", "date=eq2013", "date=gt2013-01-14T10:00", "date=lt2013-01-14T10:00",
				"date=ge2013-01-14", "date=le2013-01-14", "date=gt2012", "date=sa2013-01-13", "date=eb2013-01-15", "date=ap2013-01-14",
				"date=ap2013", "date=ne2013-01-15", "date=ne2013-01-14T10:00", "date=2012,2013", "date=ge2013-01-14&date=le2013-01-14"},
			no: []string{"date=2013-01-15", "date=2013-01-14T00:00", "date=gt2013-01-14", "date=lt2013-01-14", "date=gt2013", "date=sa2013-01-14",
				"date=eb2013-01-14", "date=ne2013-01", "date=ap2014", "date=sa2013", "date=lt2013"},
		}},
		{`"effectiveDateTime":"2013-01-14T00:00:00Z"`, meets{
			yes: []string{"date=2013-01-14", "date=2013-01-14T00:00Z", "date=2013-01-14T00:00:00", "date=2013-01-14T01:00:00%2B01:00", "date=2013-01-14T01:00:00+01:00",
				"date=2013-01-13T23:00-01:00", "date=lt2013-01-14T00:00:00.5"},
			no: []string{"date=2013-01-15", "date=2013-01-14T00:00:01Z", "date=2013-01-14T00:00:00.0Z"},
		}},
		{`"effectiveDateTime":"2013-01-15T00:00:00Z"`, meets{yes: []string{"date=ne2013-01-14"}, no: []string{"date=2013-01-14"}}},
		{`"effectiveDateTime":"2013-01-15T00:00:00Z"`, meets{yes: []string{"date=2013-01-14T24:00", "date=2013-01-14T24:00:00Z"}}},
		{`"effectivePeriod":{"start":"2013-01-21"}`, meets{ // from then on: the specification's examples
			yes: []string{"date=ge2013-03-14", "date=le2013-03-14", "date=gt9998", "date=ne2013", "date:missing=false", "date=ap2020"},
			no:  []string{"date=sa2013-03-14", "date=eb2013-03-14", "date=2013", "date=lt2013-01-21"},
		}},
		{`"effectivePeriod":{"end":"2013-01-21"}`, meets{
			yes: []string{"date=eb2013-03-14", "date=lt1800", "date=eb2013-01-22"}, no: []string{"date=sa2013-03-14", "date=gt2013-01-21", "date=2013", "date=eb2013-01-21"},
		}},
		{`"effectivePeriod":{"start":"2013-03-15","end":"2013-03-16"}`, meets{
			yes: []string{"date=sa2013-03-14", "date=2013-03", "date=ap2013-03-16", "date=gt2013-03-15"}, no: []string{"date=2013-03-15", "date=gt2013-03-16"},
		}},
		{`"effectiveTiming":{"event":["2013-02-01","2013-01-01"]}`, meets{yes: []string{"date=2013", "date=ge2013-01-31", "date=le2013-01-02", "date=ap2013-01-15"}, no: []string{"date=2013-01"}}},
		{`"effectiveTiming":{"repeat":{"boundsPeriod":{"start":"2013-01-31","end":"2013-03-24"}}}`, meets{yes: []string{"date=ap2013-02-01", "date=2013"}, no: []string{"date=ap2013-01-30"}}},
		{`"effectiveInstant":"2013-01-14T10:00:00.123Z"`, meets{yes: []string{"date=2013-01-14T10:00:00Z", "date=2013-01-14T10:00:00.1", "date=2013-01-14T10:00:00.123", "date=gt2013-01-14T09:59"}, no: []string{"date=2013-01-14T10:00:00.2"}}},
		{`"effectiveDateTime":"0001-01-01"`, meets{yes: []string{"date=0001", "date=lt0002", "date=lt1500"}}},
		{`"effectiveDateTime":"9999-12-31T23:59:60Z"`, meets{yes: []string{"date=gt9999-12-31", "date=gt2000"}}},
		{`"effectiveDateTime":"2013-02-30"`, meets{yes: []string{"date:missing=false"}, no: []string{"date=2013", "date=ne2013"}}},
		{`"effectiveDateTime":"soon"`, meets{no: []string{"date=ne2013", "date=gt0001"}}},
		{`"effectivePeriod":{}`, meets{yes: []string{"date:missing=true"}, no: []string{"date=gt0001"}}},
	} {
		c.check(t, "Observation", ","+c.value)
	}
	meets{yes: []string{"birthdate=1970-05", "birthdate=ge1970", "birthdate=lt1971", "birthdate=1970-05-12"}, no: []string{"birthdate=1971"}}.
		check(t, "Patient", `,"birthDate":"1970-05-12"`)
	meets{yes: []string{"_lastUpdated=2026-01-02", "_lastUpdated=gt2026-01-02T03:04:04Z", "_lastUpdated=le2026-01-02T03:04:05.006Z"}, no: []string{"_lastUpdated=gt2026-01-03"}}.
		check(t, "Patient", `,"meta":{"lastUpdated":"2026-01-02T03:04:05.006Z"}`)
}

func TestNumbersMatch(t *testing.T) {
	probability := func(v string) string { return `,"prediction":[{"probabilityDecimal":` + v + `}]` }
	meets{yes: []string{"probability=0.8", "probability=8e-1", "probability=0.80", "probability=gt0.79", "probability=ge0.8", "probability=le0.8", "probability=lt0.81",
		"probability=ap0.75", "probability=ne0.7", "probability=0.7,0.8", "probability=sa0.7", "probability=eb0.9", "probability=1", "probability=lt0.8000000000000000000000001", "probability=gt-1"},
		no: []string{"probability=0.8000000000000000000000001", "probability=0.7", "probability=gt0.8", "probability=lt0.8", "probability=ne0.8", "probability=sa0.8", "probability=eb0.8", "probability=ap0.7", "probability=0"}}.
		check(t, "RiskAssessment", probability("0.8"))
	meets{yes: []string{"probability=0.85", "probability=0.8"}, no: []string{"probability=0.80"}}.check(t, "RiskAssessment", probability("0.845"))
	meets{yes: []string{"probability=gt100000000000000000000", "probability=1e30"}, no: []string{"probability=lt1e29"}}.
		check(t, "RiskAssessment", probability("1000000000000000000000000000000.1"))
	meets{yes: []string{"probability=ge0.5", "probability=ge0.2", "probability=lt0.3", "probability=le0.2"},
		no: []string{"probability=gt0.5", "probability=sa0.2", "probability=eb0.5", "probability=0.20", "probability=0.5"}}.
		check(t, "RiskAssessment", `,"prediction":[{"probabilityRange":{"low":{"value":0.2},"high":{"value":0.5}}}]`)
	meets{yes: []string{"probability=0.4", "probability=sa0.37"}, no: []string{"probability=0.40"}}.
		check(t, "RiskAssessment", `,"prediction":[{"probabilityRange":{"low":{"value":0.38},"high":{"value":0.42}}}]`)
	meets{yes: []string{"variant-start=2", "variant-start=2.0"}, no: []string{"variant-start=2.3", "variant-start=3"}}.
		check(t, "MolecularSequence", `,"variant":[{"start":2}]`)
}

// The ranges that R4 3.1.1.4.6 and 3.1.1.4.11 print.
func TestImpliedPrecisionIsThatOfTheSpecification(t *testing.T) {
	for _, c := range []struct{ search, lo, hi string }{
		{"100", "99.5", "100.5"}, {"100.00", "99.995", "100.005"}, {"1e2", "95", "105"}, {"-100", "-100.5", "-99.5"},
		{"5.4", "5.35", "5.45"}, {"5.40e-3", "0.005395", "0.005405"}, {"2.0", "1.95", "2.05"}, {"1.00e2", "99.5", "100.5"},
		{"5", "4.5", "5.5"}, {"8e-1", "0.75", "0.85"}, {"0", "-0.5", "0.5"}, {"1.1e2", "105", "115"},
		{"ap100", "90.0", "110.0"}, {"ap-100", "-110.0", "-90.0"},
	} {
		k := compiler{definitions: R4(), param: R4().types["RiskAssessment"].params["probability"]}
		w, err := k.amount(c.search)
		if err != nil {
			t.Fatal(err)
		}
		lo, _ := parseDecimal([]byte(c.lo))
		hi, _ := parseDecimal([]byte(c.hi))
		if w.lo.compare(lo) != 0 || w.hi.compare(hi) != 0 {
			t.Errorf("%s is from %s to %s, want %s to %s", c.search, w.lo.apd(), w.hi.apd(), c.lo, c.hi)
		}
	}
}

func TestQuantitiesMatch(t *testing.T) {
	const u = "http://unitsofmeasure.org"
	meets{yes: []string{"value-quantity=5.4", "value-quantity=5.4|" + u + "|mg", "value-quantity=5.4||mg", "value-quantity=5.4||milligram", "value-quantity=gt5|" + u + "|mg",
		"value-quantity=le5.4", "value-quantity=5.4|" + u + "|", "value-quantity=5", "value-quantity=5.40", "combo-value-quantity=5.4", "value-quantity=ap5|" + u + "|mg", "value-quantity=3,5.4", "value-quantity=ne6|" + u + "|g"},
		no: []string{"value-quantity=5.4|" + u + "|g", "value-quantity=5.4||MG", "value-quantity=5.3", "value-quantity=gt5.4", "value-quantity=5.4|http://other|mg",
			"value-quantity=ne6|" + u + "|mmol", "value-quantity=ge5.41", "component-value-quantity=5.4"}}.
		check(t, "Observation", `,"valueQuantity":{"value":5.4,"unit":"milligram","system":"`+u+`","code":"mg"}`)
	// A comparator in the resource makes it a range.
	meets{yes: []string{"value-quantity=lt5", "value-quantity=lt1", "value-quantity=le5", "value-quantity=ne5", "value-quantity=eb5", "value-quantity=ap5"},
		no: []string{"value-quantity=5", "value-quantity=gt5", "value-quantity=ge5", "value-quantity=sa1"}}.
		check(t, "Observation", `,"valueQuantity":{"value":5,"comparator":"<"}`)
	meets{yes: []string{"value-quantity=ge5", "value-quantity=gt9", "value-quantity=le5"}, no: []string{"value-quantity=lt5", "value-quantity=5", "value-quantity=sa5", "value-quantity=eb9"}}.
		check(t, "Observation", `,"valueQuantity":{"value":5,"comparator":">="}`)
	meets{yes: []string{"value-quantity=sa5", "value-quantity=gt5"}, no: []string{"value-quantity=le5", "value-quantity=lt5"}}.
		check(t, "Observation", `,"valueQuantity":{"value":5,"comparator":">"}`)
	meets{no: []string{"value-quantity=gt0", "value-quantity=ne1"}, yes: []string{"value-quantity:missing=false"}}.
		check(t, "Observation", `,"valueQuantity":{"value":5,"comparator":"ad"}`)
	meets{no: []string{"value-quantity=gt0"}, yes: []string{"value-quantity:missing=false"}}.check(t, "Observation", `,"valueQuantity":{"value":"5"}`)
	// Two conditions may be met by two components: only a composite ties values together.
	meets{yes: []string{"component-code=a&component-value-quantity=2", "combo-value-quantity=gt1"}}.
		check(t, "Observation", `,"component":[{"code":{"coding":[{"code":"a"}]},"valueQuantity":{"value":1}},{"code":{"coding":[{"code":"b"}]},"valueQuantity":{"value":2}}]`)
	meets{yes: []string{"value-quantity=ge18||mV", "value-quantity=lt0", "value-quantity=sa-7"}, no: []string{"value-quantity=gt18", "value-quantity=lt-6", "value-quantity=5"}}.
		check(t, "Observation", `,"valueSampledData":{"origin":{"value":2,"unit":"mV"},"factor":2,"period":1,"dimensions":1,"data":"1 E -4 8 3"}`)
	meets{yes: []string{"totalgross=10|urn:iso:std:iso:4217|EUR", "totalgross=10||EUR", "totalgross=10"}, no: []string{"totalgross=10||USD"}}.
		check(t, "Invoice", `,"totalGross":{"value":10.00,"currency":"EUR"}`)
	meets{yes: []string{"onset-age=40||a", "onset-age=gt30"}, no: []string{"onset-age=41"}}.check(t, "Condition", `,"onsetAge":{"value":40,"code":"a"}`)
	meets{yes: []string{"onset-age=ge50", "onset-age=ge40"}, no: []string{"onset-age=gt50", "onset-age=sa40"}}.check(t, "Condition", `,"onsetRange":{"low":{"value":40},"high":{"value":50}}`)
}

func TestURIsMatch(t *testing.T) {
	meets{yes: []string{"url=http://acme.org/fhir/ValueSet/123", "url=urn:oid:1.2,http://acme.org/fhir/ValueSet/123", "_source=http://s%23r"},
		no: []string{"url=http://acme.org/fhir/ValueSet", "url=http://ACME.org/fhir/ValueSet/123", "_source=http://s"}}.
		check(t, "ValueSet", `,"url":"http://acme.org/fhir/ValueSet/123","meta":{"source":"http://s#r"}`)
	meets{yes: []string{"_profile=http://p", "_profile=http://p|1", "_profile=http://q"}, no: []string{"_profile=http://p|2", "_profile=http://q|1", "_profile=http://"}}.
		check(t, "Patient", `,"meta":{"profile":["http://p|1","http://q"]}`)
}

func TestTheEnvelopeKnowsBetterThanTheBody(t *testing.T) {
	d := R4()
	r := resource(t, d, `{"resourceType":"Patient"}`)
	id, updated := compiled(t, d, "Patient?_id=p1"), compiled(t, d, "Patient?_lastUpdated=2026-05-06")
	if id.Match(r) || updated.Match(r) || r.ID() != "" {
		t.Error("a body without id and meta matches")
	}
	r.Reset(r.Tree(), Envelope{ID: "p1", LastUpdated: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)})
	if !id.Match(r) || !updated.Match(r) || r.ID() != "p1" {
		t.Error("the envelope is not looked at")
	}
	agrees(t, id, r)
}

func TestTypesDecideFirst(t *testing.T) {
	d := R4()
	patient := resource(t, d, `{"resourceType":"Patient"}`)
	subscription := resource(t, d, `{"resourceType":"Subscription"}`)
	unknown := resource(t, d, `{"resourceType":"Nonsense"}`)
	none := resource(t, d, `[]`)
	for q, want := range map[string][2]bool{
		"Patient": {true, false}, "Patient?": {true, false}, "[Patient,Observation]": {true, false}, "[*]": {true, false},
		"[Subscription, *]": {true, false}, "[Subscription]": {false, true}, "Subscription?status=": {}, "Observation": {false, false},
		"/Patient": {true, false}, "fhir/Patient?": {true, false}, "Patient/?_format=json": {true, false},
	} {
		c, err := d.Compile(q)
		if err != nil {
			if want != [2]bool{} {
				t.Errorf("%s: %v", q, err)
			}
			continue
		}
		if got := [2]bool{c.Match(patient), c.Match(subscription)}; got != want {
			t.Errorf("%s: %v, want %v", q, got, want)
		}
		if c.Match(unknown) || c.Match(none) {
			t.Errorf("%s matches what is no R4 resource", q)
		}
	}
	if c := compiled(t, d, "[*]"); !c.AnyType() || c.Types() != nil {
		t.Error("[*] has types")
	}
	if c := compiled(t, d, "[Patient, Observation,Patient]"); c.AnyType() || !slices.Equal(c.Types(), []string{"Observation", "Patient"}) {
		t.Errorf("types %v", c.Types())
	}
}

func TestExplainTellsWhy(t *testing.T) {
	d := R4()
	r := resource(t, d, `{"resourceType":"Observation","status":"final","code":{"text":"x"}}`)
	got := compiled(t, d, "Observation?status=amended&code=718-7&subject=Patient/1&status:not=final&status:missing=true&_format=json").Explain(r)
	want := []string{
		"Observation true ",
		"status=amended false no value in the resource meets it [final]",
		"code=718-7 false the resource has the element, but no value that this parameter can compare []",
		"subject=Patient/1 false no value in the resource []",
		"status:not=final false a value in the resource is one that is excluded [final]",
		"status:missing=true false there is a value in the resource [final]",
	}
	if len(got) != len(want) {
		t.Fatalf("%d conditions: %+v", len(got), got)
	}
	for i, c := range got {
		met := "false "
		if c.Met {
			met = "true "
		}
		line := c.Text + " " + met + c.Note
		if i > 0 {
			line += " [" + strings.Join(c.Found, " ") + "]"
		}
		if line != want[i] {
			t.Errorf("got  %s\nwant %s", line, want[i])
		}
	}
	other := compiled(t, d, "Patient?gender=male").Explain(r)
	if len(other) != 1 || other[0].Met || other[0].Note == "" {
		t.Errorf("another type: %+v", other)
	}
}

func TestIDsAreThoseOfTheVocabulary(t *testing.T) {
	for i := range 256 {
		id := "a" + string([]byte{byte(i)})
		if validID([]byte(id)) != fhir.ID(id).Valid() {
			t.Errorf("%q", id)
		}
	}
	for _, n := range []int{0, 1, 64, 65} {
		if id := strings.Repeat("a", n); validID([]byte(id)) != fhir.ID(id).Valid() {
			t.Errorf("%d letters", n)
		}
	}
}

func TestMatchingAllocatesNothingOnceItsMemoryHasGrown(t *testing.T) {
	d := R4()
	r := resource(t, d, `{"resourceType":"Observation","id":"1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"718-7"}]},"subject":{"reference":"Patient/0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"},"valueQuantity":{"value":5.4,"unit":"mg"},"effectiveDateTime":"2020-01-01T10:00:00+01:00"}`)
	c := compiled(t, d, "Observation?status=final&code=http://loinc.org|718-7&subject:missing=false&value-quantity=gt5&date=ge2020")
	n := testing.AllocsPerRun(100, func() {
		r.Reset(r.Tree(), Envelope{})
		if !c.Match(r) || len(r.Hashes(feature(r, "subject"))) != 1 || len(r.Hashes(feature(r, "code"))) != 1 {
			t.Error("no match")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestIdentifiersAreListed(t *testing.T) {
	for body, want := range map[string][]IdentifierToken{
		`{"identifier":[{"system":"s","value":"v"},{"value":"w"},{"system":"t"},{},5]}`: {{"s", "v"}, {"", "w"}, {"t", ""}},
		`{"identifier":{"system":"s","value":"v"}}`:                                     {{"s", "v"}},
		`{"identifier":"x"}`: nil, `{}`: nil, `[]`: nil,
	} {
		tree, err := json.Parse([]byte(body), json.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := IdentifierTokens(tree); !slices.Equal(got, want) {
			t.Errorf("%s: %v", body, got)
		}
	}
}
