package search

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// fillers are n values that nothing has.
func fillers(n int, form string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(form, fmt.Sprintf("zz%dz", i)))
	}
	return strings.Join(list, ",")
}

// More than a few wanted values are looked up and not compared one by one; what they match
// must not depend on it.
func TestAmongManyWantedValuesEachIsMetAsByItself(t *testing.T) {
	const (
		observation = `{"resourceType":"Observation","id":"o1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"ab-7"},{"code":"bare"},{"system":"http://alone.example"}]},` +
			`"subject":{"reference":"Patient/p1","identifier":{"system":"http://mrn","value":"m1"}},"performer":[{"reference":"https://elsewhere.example/fhir/Practitioner/x"},{"reference":"` + base + `/Practitioner/y"}],` +
			`"valueString":"High grade","effectiveDateTime":"2020-02-03","meta":{"profile":["http://p.example/a|1"]}}`
		patient  = `{"resourceType":"Patient","id":"o1","active":true,"gender":"male","name":[{"family":"van der Smith-Jones","given":["Ana-María"]}],"identifier":[{"system":"http://mrn","value":"Ünïq"}]}`
		valueset = `{"resourceType":"ValueSet","url":"http://v.example/a|1"}`
		device   = `{"resourceType":"RiskAssessment","prediction":[{"probabilityDecimal":0.5}]}`
	)
	d := local()
	for _, c := range []struct{ body, param, filler, yes, no string }{
		{observation, "code", "%s", "AB-7 http://loinc.org|ab-7 http://loinc.org| bare |bare http://alone.example|", "ab |ab-7 http://other|ab-7 http://other| http://loinc.org|bare"},
		{observation, "code", "http://zz|%s", "AB-7 http://loinc.org|AB-7", "http://zz|ab-7"},
		{observation, "code", "%s|", "ab-7 http://loinc.org|", "http://loinc|"},
		{observation, "code:not", "%s", "x http://other|ab-7", "AB-7 http://loinc.org|ab-7"},
		{observation, "status", "%s", "final any|final any|", "Final preliminary"},
		{observation, "_id", "%s", "o1 Observation/o1", "O1 o2"},
		{observation, "subject", "%s", "p1 Patient/p1 " + base + "/Patient/p1", "p2 Group/p1 https://elsewhere.example/fhir/Patient/p1"},
		{observation, "performer", "Practitioner/%s", "y Practitioner/y https://elsewhere.example/fhir/Practitioner/x", "Practitioner/x x urn:uuid:1"},
		{observation, "subject:identifier", "%s", "m1 M1 http://mrn|m1 http://mrn|", "m2 http://other|m1 http://other|"},
		{observation, "_profile", "http://zz/%s", "http://p.example/a http://p.example/a|1", "http://p.example/a|2 http://p.example/b"},
		{observation, "value-string", "%s", "high HIGH%20GR h", "grade highest i"},
		{observation, "date", "lt1900-01-01,eb%.0s1900", "2020-02 ge2020 sa2019", "2021 gt2020-02-03"},
		{patient, "family:exact", "%s", "van%20der%20Smith-Jones", "Jones van van%20der%20smith-jones"},
		{patient, "family:contains", "%s", "smith N%20DER der derr,mith", "ana smithx"},
		{patient, "family", "%s", "van der smith smith-jo smithjones jones van%20der v", "an mith vanx ones joness"},
		{patient, "identifier", "%s", "ünÏQ http://mrn|üNÏq", "uniq"},
		{patient, "active", "false%.0s", "true", "false"},
		{valueset, "url", "http://zz/%s", "http://v.example/a|1", "http://v.example/a http://v.example/a|2"},
		{device, "probability", "gt9%.0s", "0.5 lt1", "0.6 gt0.5"},
	} {
		r := resource(t, d, c.body)
		for want, list := range map[bool]string{true: c.yes, false: c.no} {
			for _, v := range strings.Fields(list) {
				want, filled := want, fillers(2*few, c.filler)
				if c.param == "date" {
					filled = strings.ReplaceAll(filled, "eb1900", "eb1900-01")
				}
				if alone := compiled(t, d, r.Type()+"?"+c.param+"="+v).Match(r); alone != want {
					t.Errorf("%s=%s alone: %v, want %v", c.param, v, alone, want)
				}
				for _, q := range []string{v + "," + filled, filled + "," + v} {
					x := compiled(t, d, r.Type()+"?"+c.param+"="+q)
					if got := x.Match(r); got != want {
						t.Errorf("%s=%s among others: %v, want %v", c.param, v, got, want)
					}
					agrees(t, x, r)
				}
			}
		}
	}
}

// words are n distinct beginnings.
func words(n int) string {
	var list []string
	for i := range n {
		list = append(list, string([]byte{'b' + byte(i/600), 'b' + byte(i/25%24), 'b' + byte(i%25)}))
	}
	return strings.Join(list, ",")
}

// A long text of short words and a criteria of many values once kept a partition busy for
// minutes. The steps are counted, so the test needs no clock.
func TestACriteriaThatIsTooCostlyForAResourceIsToldAndNotGuessed(t *testing.T) {
	d := R4()
	const megabyte = 1 << 20
	family := func(text string) string {
		return `{"resourceType":"Patient","gender":"male","name":[{"family":"` + text + `"}]}`
	}
	many := func(item string) string { return strings.Repeat(item+",", 40_000) + item }
	short := family(strings.Repeat("a ", 2*megabyte) + "zz")
	resources := map[string]*Resource{}
	for _, c := range []struct {
		name, body, criteria string
		met, costly          bool
	}{
		{"many values", short, "Patient?family=" + words(915), false, true},
		{"one value", short, "Patient?family=b", false, false},
		{"the last word", short, "Patient?family=zz", true, false},
		{"another condition fails, before", short, "Patient?gender=female&family=" + words(915), false, false},
		{"another condition fails, behind", short, "Patient?family=" + words(915) + "&gender=female", false, false},
		{"another condition holds", short, "Patient?family=" + words(915) + "&gender=male", false, true},
		{"a long value that fits nearly", family(strings.Repeat("a ", 2*megabyte)), "Patient?family=" + strings.Repeat("a+", 3000) + "b", false, true},
		{"contained values", short, "Patient?name:contains=" + words(915), false, true},
		{"a contained value", short, "Patient?name:contains=zz", true, false},
		{"tokens with many systems", `{"resourceType":"Patient","identifier":[` + many(`{"system":"s","value":"v"}`) + `]}`, "Patient?identifier=" + fillers(900, "%s|v"), false, true},
		{"tokens with many codes", `{"resourceType":"Patient","identifier":[` + many(`{"system":"s","value":"v"}`) + `]}`, "Patient?identifier=" + fillers(900, "s|%s"), false, false},
		{"dates", `{"resourceType":"Patient","birthDate":[` + many(`"2020"`) + `]}`, "Patient?birthdate=" + numbers(900), false, true},
		{"numbers of more than 64 bits", `{"resourceType":"RiskAssessment","prediction":[` + many(`{"probabilityDecimal":0.5}`) + `]}`, "RiskAssessment?probability=" + strings.ReplaceAll(numbers(300), "gt", "gt12345678901234567890"), false, true},
		{"fewer of them", `{"resourceType":"RiskAssessment","prediction":[` + many(`{"probabilityDecimal":0.5}`) + `]}`, "RiskAssessment?probability=" + numbers(300), false, false},
		{"numbers", `{"resourceType":"RiskAssessment","prediction":[` + many(`{"probabilityDecimal":0.5}`) + `]}`, "RiskAssessment?probability=" + numbers(900), false, true},
	} {
		r := resources[c.body]
		if r == nil {
			r = resource(t, d, c.body)
			resources[c.body] = r
		}
		x := compiled(t, d, c.criteria)
		before := r.Work()
		met, err := x.Decide(r)
		if met != c.met || errors.Is(err, ErrTooCostly) != c.costly {
			t.Errorf("%s: %v, %v", c.name, met, err)
		}
		if spent := r.Work() - before; spent > maxSteps+uint64(len(c.body)) {
			t.Errorf("%s: %d steps", c.name, spent)
		}
		if !c.costly {
			continue
		}
		told := false
		for _, part := range x.Explain(r) {
			told = told || part.Note == ErrTooCostly.Error()
		}
		if !told {
			t.Errorf("%s: Explain does not tell", c.name)
		}
	}
}

// numbers are n values that work as years too.
func numbers(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint("gt", 3000+i))
	}
	return strings.Join(list, ",")
}

// The parts of a long name at its hyphens once were copies of nearly all of it.
func TestALongFamilyNameIsNotCopiedForEachHyphen(t *testing.T) {
	d := R4()
	r := resource(t, d, `{"resourceType":"Patient","name":[{"family":"`+strings.Repeat("a-", 6)+"Quiñones "+strings.Repeat("é garcia ", 1<<17)+`"}]}`)
	for criteria, want := range map[string]bool{
		"family=quinones": true, "family=quinones%20e%20garcia%20e": true, "family=garcia": true, "family=uinones": false,
	} {
		if got := compiled(t, d, "Patient?"+criteria).Match(r); got != want {
			t.Errorf("%s = %v", criteria, got)
		}
	}
	if n, whole := len(r.folded), len(r.Tree().Source()); n > whole+8*maxPart {
		t.Errorf("%d bytes for comparisons, of a body of %d", n, whole)
	}
}

// References into the resource are resolved by a sorted list of what it contains. With a
// search for each of them this test would take a minute.
func TestManyReferencesIntoAResourceAreResolved(t *testing.T) {
	const n = 60_000
	var contained, subjects []string
	for i := range n {
		contained = append(contained, fmt.Sprintf(`{"resourceType":"Group","id":"c%d"}`, i))
		subjects = append(subjects, `{"reference":"#c1x"}`)
	}
	contained = append(contained, `{"resourceType":"Patient","id":"p"}`, `{"resourceType":"Group","id":"p"}`)
	body := func(more string) string {
		return `{"resourceType":"Observation","contained":[` + strings.Join(contained, ",") + `],"subject":[` + strings.Join(subjects, ",") + more + `]}`
	}
	d := R4()
	for _, c := range []struct {
		more string
		want bool
	}{{"", false}, {`,{"reference":"#c77"}`, false}, {`,{"reference":"#p"}`, true}} {
		r := resource(t, d, body(c.more))
		if got := compiled(t, d, "Observation?patient:missing=false").Match(r); got != c.want {
			t.Errorf("%s: %v", c.more, got)
		}
	}
}

func TestAResourceWithoutATreeIsEmptyUntilReset(t *testing.T) {
	d := R4()
	r := NewResource(d, nil)
	if r.Type() != "" || r.ID() != "" || compiled(t, d, "[*]").Match(r) || r.Hashes(feature(r, "_id")) != nil {
		t.Errorf("an empty resource is %s/%s", r.Type(), r.ID())
	}
	tree, err := json.Parse([]byte(`{"resourceType":"Patient","id":"p"}`), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Reset(tree, Envelope{}); !compiled(t, d, "Patient?_id=p").Match(r) {
		t.Error("no match after Reset")
	}
}
