package search

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// The rules of the page on _filter (R4 and R4B 3.1.3, R5 3.2.3, of equal text), one by one.

type filterCase struct {
	rule    string
	typ     string
	body    string // the elements of the resource
	yes, no []string
}

func (c filterCase) check(t *testing.T) {
	t.Helper()
	d := local()
	for _, want := range []bool{true, false} {
		list := c.yes
		if !want {
			list = c.no
		}
		for _, f := range list {
			x := compiled(t, d, c.typ+"?_filter="+url.QueryEscape(f))
			r := resource(t, d, `{"resourceType":"`+c.typ+`"`+c.body+`}`)
			if got := x.Match(r); got != want {
				t.Errorf("%s: %s = %v, want %v", c.rule, f, got, want)
			}
			agrees(t, x, r)
		}
	}
}

const (
	filterPatient = `,"name":[{"family":"Peterson","given":["Peter","James"]},{"text":"Jim Ärger"}],"gender":"male","active":true,
		"birthDate":"2014-10-12","identifier":[{"system":"http://mrn","value":"A1"}],"generalPractitioner":[{"reference":"Practitioner/7"}]`
	filterObservation = `,"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"1234-5"},{"system":"http://snomed.info/sct","code":"99"}]},
		"subject":{"reference":"Patient/1"},"effectivePeriod":{"start":"2014-10-10","end":"2014-10-12"},"valueQuantity":{"value":5.4,"system":"http://unitsofmeasure.org","code":"mg"}`
)

func TestFilterExamplesOfTheSpecification(t *testing.T) {
	for _, c := range []filterCase{
		{"3.1.3: all patients with the characters \"pet\" in a given or family name", "Patient", filterPatient, []string{`name co "pet"`, `name co "ETE"`}, []string{`name co "xyz"`}},
		{"3.1.3: a given name of peter, born on or after 10-Oct 2014", "Patient", filterPatient,
			[]string{`given eq "peter" and birthdate ge 2014-10-10`}, []string{`given eq "peter" and birthdate ge 2014-10-13`, `given eq "pete" and birthdate ge 2014-10-10`}},
		{"3.1.3: observations with the LOINC code", "Observation", filterObservation, []string{`code eq http://loinc.org|1234-5`}, []string{`code eq http://loinc.org|1234-6`}},
	} {
		c.check(t)
	}
}

func TestFilterSyntaxIsThatOfTheSpecification(t *testing.T) {
	for _, c := range []filterCase{
		{"3.1.3: a filter can be a logical one, and hold others in parentheses", "Patient", filterPatient,
			[]string{`gender eq male or gender eq female`, `not (gender eq female)`, `not(gender eq female)`, `(gender eq male)`, `((gender eq male) and (active eq true))`,
				`not (gender eq female and active eq true)`, `gender eq female or (active eq true and birthdate le 2015)`, `not (not (gender eq male))`},
			[]string{`gender eq male and gender eq female`, `not (gender eq male)`, `gender eq female or not (active eq true)`}},
		{"3.1.3.1: from left to right, no precedence between and and or", "Patient", filterPatient,
			// (true or false) and false; with the usual precedence it would be true or (false and false).
			[]string{`gender eq male or (gender eq female and active eq false)`}, []string{`gender eq male or gender eq female and active eq false`}},
		{"3.1.3: values are never case sensitive", "Patient", filterPatient, []string{`gender eq MALE`, `given eq PETER`, `identifier eq http://mrn|a1`}, []string{`gender eq mal`}},
		{"3.1.3: a string can hold spaces and ) and ], a token not; otherwise they are alike", "Patient", filterPatient,
			[]string{`name eq "Jim Ärger"`, `(gender eq male)`, `gender eq "male"`, `name eq "jim\u0020arger"`}, []string{`name eq "Jim) Arger]x"`, `gender eq "male)"`}},
		{"3.1.3.1: white space", "Patient", filterPatient, []string{"  gender  eq \u2003 male  ", "(  gender eq male  )"}, nil},
		{"3.1.3: a comma and a $ divide nothing in a value", "Patient", `,"name":[{"text":"a,b$c|d\\e"}],"identifier":[{"value":"1,2"}]`,
			[]string{`name eq "a,b$c|d\\e"`, `name sw a,b$c`, `identifier eq 1,2`, `identifier eq "1,2"`, `identifier eq "1\\,2"`}, []string{`identifier eq 1`, `name eq a,c`}},
		{"R4 3.1.1.4.7: a + that was not encoded arrives as a space", "Patient", `,"meta":{"lastUpdated":"2020-01-01T12:00:00Z"}`,
			[]string{`_lastUpdated gt 2020-01-01T12:00:00 01:00`, `(_lastUpdated gt 2020-01-01T12:00:00 01:00)`, `_lastUpdated gt 2020-01-01T12:00:00+01:00 and _lastUpdated pr true`},
			[]string{`_lastUpdated gt 2020-01-01T13:00:00 01:00`, `_lastUpdated gt 2020-01-01T12:00:00Z`}},
	} {
		c.check(t)
	}
}

func TestFilterOperatorsAreThoseOfTheSpecification(t *testing.T) {
	range5 := `,"prediction":[{"probabilityRange":{"low":{"value":0.2},"high":{"value":0.5}}},{"probabilityDecimal":0.80}]`
	for _, c := range []filterCase{
		// The set of values; the operators say whether one of them is so.
		{"3.1.3.2 string eq: the same characters, case-insensitive", "Patient", filterPatient, []string{`given eq peter`, `name eq peterson`}, []string{`given eq pete`, `name eq "peter james"`}},
		{"3.1.3.2 string ne: an item is unequal", "Patient", filterPatient, []string{`given ne peter`, `family ne x`}, []string{`family ne PETERSON`}},
		{"3.1.3.2 string ne: no item, none unequal", "Patient", ``, nil, []string{`family ne x`}},
		{"3.1.3.2 string co, sw, ew: anywhere, at the start, at the end", "Patient", filterPatient,
			[]string{`family co ters`, `family sw PET`, `family ew SON`, `name sw jim`, `name ew arger`}, []string{`family co xx`, `family sw son`, `family ew pet`, `name sw arger`}},
		{"3.1.3.2 string gt, lt, ge, le: by code points", "Patient", `,"name":[{"family":"Miller"}]`,
			[]string{`family gt Mill`, `family ge MILLER`, `family le miller`, `family lt N`, `family gt a`}, []string{`family gt miller`, `family lt miller`, `family ge n`, `family le mi`}},
		{"3.1.3.2 number: by the prefixes", "RiskAssessment", range5,
			[]string{`probability eq 0.8`, `probability gt 0.7`, `probability ge 0.80`, `probability lt 0.3`, `probability le 0.2`, `probability sa 0.7`, `probability eb 0.6`, `probability ap 0.75`, `probability ne 0.8`},
			[]string{`probability eq 0.7`, `probability gt 0.8`, `probability lt 0.2`, `probability sa 0.8`, `probability eb 0.5`}},
		{"3.1.3.2 number co: an item's implicit imprecision includes the value", "RiskAssessment", range5,
			[]string{`probability co 0.8`, `probability co 0.804`, `probability co 0.3`, `probability co 0.5`, `probability co 0.795`}, []string{`probability co 0.81`, `probability co 0.805`, `probability co 0.1`}},
		{"3.1.3.2 date: by the prefixes", "Observation", filterObservation,
			[]string{`date eq 2014-10`, `date ge 2014-10-11`, `date gt 2014-10-11`, `date lt 2014-10-11`, `date sa 2014-10-09`, `date eb 2014-10-13`, `date ap 2014-10-12`, `date ne 2014-10-11`},
			[]string{`date eq 2014-10-11`, `date gt 2014-10-12`, `date sa 2014-10-10`, `date eb 2014-10-12`, `date ne 2014`, `date ap 2014-10-13`}},
		{"3.1.3.2 date co: an item's implicit period includes the value", "Observation", filterObservation, []string{`date co 2014-10-11`, `date co 2014-10-11T10:00:00Z`}, []string{`date co 2014-10`, `date co 2014-10-13`}},
		{"3.1.3.2 po: periods overlap", "Observation", filterObservation, []string{`date po 2014-10-12`, `date po 2014`}, []string{`date po 2014-10-13`, `date po 2013`}},
		{"3.1.3.2 token eq: with the namespace if it is given", "Observation", filterObservation,
			[]string{`code eq 1234-5`, `code eq http://loinc.org|1234-5`, `code eq http://loinc.org|`}, []string{`code eq http://loinc.org|99`, `code eq |1234-5`}},
		{"3.1.3.2 token ne: an item is unequal", "Observation", filterObservation, []string{`code ne 1234-5`, `status ne amended`}, []string{`status ne FINAL`}},
		{"3.1.3.2 token ne: no item, none unequal", "Observation", ``, nil, []string{`code ne 1234-5`}},
		{"3.1.3.2 notes: short names of code systems", "Observation", filterObservation,
			[]string{`code eq loinc|1234-5`, `code eq "snomed|99"`, `value-quantity eq 5.4|ucum|mg`}, []string{`code eq snomed|1234-5`, `code eq rxnorm|99`, `code eq LOINC|1234-5`}},
		{"3.1.3.2 quantity: by the prefixes, units canonicalised", "Observation", filterObservation,
			[]string{`value-quantity eq 5.4|http://unitsofmeasure.org|mg`, `value-quantity gt 5.3`, `value-quantity gt 0.0053|ucum|g`, `value-quantity le 5.4`, `value-quantity ne 6`, `value-quantity ap 5`},
			[]string{`value-quantity gt 5.4`, `value-quantity eq 5.4|ucum|kg`, `value-quantity sa 5.4`, `value-quantity eb 5.4`}},
		{"3.1.3.2 re: a reference points to the URL", "Observation", filterObservation,
			[]string{`subject re Patient/1`, `subject re "` + base + `/Patient/1"`, `subject eq Patient/1`, `subject ne Patient/2`, `patient re Patient/1`}, []string{`subject re Patient/2`, `subject ne Patient/1`}},
		{"3.1.3.2 pr: the set is empty or not", "Observation", filterObservation,
			[]string{`subject pr true`, `encounter pr false`, `value-quantity pr "true"`, `date pr true`}, []string{`subject pr false`, `encounter pr true`}},
		{"uri", "ValueSet", `,"url":"http://x/a"`, []string{`url eq http://x/a`, `url ne http://x/b`, `url pr true`}, []string{`url eq http://x/A`, `url ne http://x/a`}},
	} {
		c.check(t)
	}
}

func TestFiltersThatAreNotUnderstoodAreRefused(t *testing.T) {
	for _, c := range []struct {
		filter string
		typ    fhir.IssueType
		want   string
	}{
		{``, fhir.IssueValue, "position 1 of the filter: a comparison must begin"},
		{`name`, fhir.IssueValue, "position 5 of the filter: an operator must follow name"},
		{`name is pet`, fhir.IssueValue, "position 6 of the filter: an operator must follow name"},
		{`name EQ pet`, fhir.IssueValue, "position 6"},
		{`name co`, fhir.IssueValue, "position 8 of the filter: a value is missing"},
		{`name co "pet`, fhir.IssueValue, "position 9 of the filter: a value in double quotes"},
		{`name co "p\et"`, fhir.IssueValue, "position 9 of the filter: a value in double quotes"},
		{`name co ""`, fhir.IssueValue, "the value is empty"},
		{`name co "..."`, fhir.IssueValue, "position 9 of the filter: the value has no letter"},
		{`name co pet x`, fhir.IssueValue, "position 13 of the filter: only \"and\" or \"or\""},
		{`name co pet AND gender eq male`, fhir.IssueValue, "position 13"},
		{`name co pet)`, fhir.IssueValue, "position 12"},
		{`(name co pet`, fhir.IssueValue, "position 13 of the filter: a closing parenthesis"},
		{`not name co pet`, fhir.IssueValue, "position 1 of the filter: what \"not\" denies"},
		{`name co pet and`, fhir.IssueValue, "position 16"},
		{`nam co pet`, fhir.IssueNotSupported, "position 1 of the filter: Patient has no such search parameter; did you mean name?"},
		{`gender eq male and nope eq 1`, fhir.IssueNotSupported, "position 20"},
		{`organization.name co "pet"`, fhir.IssueNotSupported, "position 1 of the filter: chained parameters need other resources, and there are none here"},
		{`_list eq 42`, fhir.IssueNotSupported, "position 1 of the filter: _list cannot stand in a filter"},
		{`link[type eq x].other re Patient/1`, fhir.IssueNotSupported, "in brackets"},
		{`name:exact eq pet`, fhir.IssueValue, "no modifier"},
		{`gender co male`, fhir.IssueNotSupported, "position 8 of the filter: operator co does not apply to gender, which is a token"},
		{`birthdate sw 2014`, fhir.IssueNotSupported, "operator sw does not apply to birthdate"},
		{`birthdate eq soon`, fhir.IssueValue, "position 14 of the filter: the value must be a date"},
		{`birthdate eq ge2014`, fhir.IssueValue, "must be a date"},
		{`general-practitioner co x`, fhir.IssueNotSupported, "operator co does not apply"},
		{`active eq maybe`, fhir.IssueValue, "true or false"},
		{`active pr maybe`, fhir.IssueValue, "true or false"},
		{`_filter eq x`, fhir.IssueNotSupported, "no name within a filter"},
		{`_text eq "x"`, fhir.IssueNotSupported, "position 1 of the filter: _text is a search for words"},
		{`_content co "x"`, fhir.IssueNotSupported, "position 1 of the filter: _content is a search for words"},
		{`birthdate co gt2014`, fhir.IssueValue, "must be a date"},
		{strings.Repeat("(", 17) + "active eq true" + strings.Repeat(")", 17), fhir.IssueValue, "nested deeper than 16"},
		{strings.Repeat("active eq true or ", 64) + "active eq true", fhir.IssueTooLong, "more than 64 comparisons"},
	} {
		_, err := local().Compile("Patient?_filter=" + url.QueryEscape(c.filter))
		e := fhir.AsError(err)
		if e == nil || e.Issues[0].Type != c.typ || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "_filter") {
			t.Errorf("%s: %v, want %s", c.filter, err, c.want)
		}
	}
	if _, err := local().Compile("Patient?_filter:not=" + url.QueryEscape("active eq true")); err == nil || !strings.Contains(err.Error(), "no modifier") {
		t.Error(err)
	}
}

// How one parameter was read once was how the filter behind it read its own, which then crashed.
func TestAFilterIsWhatItIsWhateverStandsBeforeIt(t *testing.T) {
	d := local()
	r := resource(t, d, `{"resourceType":"Patient"`+filterPatient+`,"text":{"div":"<div>seen</div>"}}`)
	filter := "&_filter=" + url.QueryEscape(`name eq "peterson" and gender eq male and _text pr true`)
	for _, before := range []string{"name:text=peter", "_text=seen", "_content=peter", "gender:code-text=m", "birthdate=2014", "name:missing=false"} {
		c := compiled(t, d, "Patient?"+before+filter)
		if !c.Match(r) {
			t.Errorf("%s: %+v", before, c.Explain(r))
		}
		agrees(t, c, r)
	}
}

func TestFiltersOfEqualMeaningHaveOneCanonicalForm(t *testing.T) {
	for _, group := range [][]string{
		{`gender eq male and active eq true`, `active eq true and gender eq "male"`, `(active eq true) and (gender eq male)`, `gender eq male and active eq true and gender eq male`},
		{`gender eq male or (active eq true or birthdate pr true)`, `(birthdate pr true or gender eq male) or active eq true`},
		{`identifier eq loinc|1`, `identifier eq http://loinc.org|1`},
		{`gender eq male and active eq true or birthdate pr true`, `birthdate pr true or (gender eq male and active eq true)`},
		{`not (active eq true)`, `not(  active eq "true" )`},
	} {
		want := ""
		for _, f := range group {
			got := compiled(t, local(), "Patient?_filter="+url.QueryEscape(f)).Canonical()
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("%s: %s, want %s", f, got, want)
			}
		}
	}
}

// firstAccess names what a criteria is found by first; empty if it is always asked.
func firstAccess(c *Criteria) string {
	for _, a := range c.Accesses() {
		return a.Feature.String()
	}
	return ""
}

func TestAnIndexFindsFiltersByAComparisonThatMustHold(t *testing.T) {
	for f, want := range map[string]string{
		`identifier eq A1`:                                        "identifier",
		`gender eq male and identifier eq A1`:                     "identifier",
		`gender eq male and (identifier eq A1 or active eq true)`: "gender",
		`not (identifier eq A1)`:                                  "",
		`identifier ne A1`:                                        "",
		`identifier eq A1 or gender eq male`:                      "",
		`general-practitioner re Practitioner/7`:                  "general-practitioner",
		`name eq Peterson`:                                        "name:start8",
		`name co eters`:                                           "",
		`birthdate gt 1990-01-01`:                                 "birthdate:order",
		`identifier pr true`:                                      "",
	} {
		c := compiled(t, local(), "Patient?_filter="+url.QueryEscape(f))
		if got := firstAccess(c); got != want {
			t.Errorf("%s is found under %q, want %q", f, got, want)
		}
		agrees(t, c, resource(t, local(), `{"resourceType":"Patient"`+filterPatient+`}`))
	}
	if got := firstAccess(compiled(t, local(), "Patient?gender=male&_filter="+url.QueryEscape(`identifier eq A1`))); got != "identifier" {
		t.Errorf("found under %q", got)
	}
}

// firstFeature is what an index would find the criteria by first.
func firstFeature(c *Criteria) string {
	if all := c.Accesses(); len(all) > 0 {
		return all[0].Feature.String()
	}
	return ""
}

func TestExplainShowsWhatAFilterLookedAt(t *testing.T) {
	c := compiled(t, local(), "Patient?_filter="+url.QueryEscape(`gender eq female or (birthdate gt 2020 and name co x)`))
	got := c.Explain(resource(t, local(), `{"resourceType":"Patient"`+filterPatient+`}`))[1]
	if got.Met || got.Note == "" || !strings.HasPrefix(got.Text, "_filter=") ||
		!slices.Contains(got.Found, "gender: male") || !slices.Contains(got.Found, "birthdate: 2014-10-12") || !slices.Contains(got.Found, "name: Peterson") {
		t.Errorf("%+v", got)
	}
}

func TestAFilterThatIsTooCostlySaysSoUnlessItIsDecided(t *testing.T) {
	var body strings.Builder
	body.WriteString(`{"resourceType":"Patient","active":true,"name":[`)
	for i := range 160000 {
		if i > 0 {
			body.WriteByte(',')
		}
		body.WriteString(`{"text":"a"}`)
	}
	body.WriteString(`]}`)
	d := local()
	tree, err := json.Parse([]byte(body.String()), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := NewResource(d, tree)
	costly := `name ew ` + strings.Repeat("x", 7000)
	for f, want := range map[string]struct {
		met bool
		err error
	}{
		costly:                                    {false, ErrTooCostly},
		`not (` + costly + `)`:                    {false, ErrTooCostly},
		costly + ` and active eq true`:            {false, ErrTooCostly},
		`active eq true or ` + costly:             {true, nil},
		costly + ` or active eq true`:             {true, nil},
		costly + ` and active eq false`:           {false, nil},
		`not (active eq true or ` + costly + `)`:  {false, nil},
		`not (active eq false or ` + costly + `)`: {false, ErrTooCostly},
	} {
		c := compiled(t, d, "Patient?_filter="+url.QueryEscape(f))
		if met, err := c.Decide(r); met != want.met || err != want.err {
			t.Errorf("%.60s...: %v %v, want %v", f, met, err, want)
		}
	}
}

func TestFiltersAllocateNothingInSteadyState(t *testing.T) {
	d := local()
	r := resource(t, d, `{"resourceType":"Observation"`+filterObservation+`}`)
	tree := r.Tree()
	c := compiled(t, d, "Observation?_filter="+url.QueryEscape(`status eq Final and not (code eq x) and (date gt 2015 or value-quantity lt 1|ucum|g)`))
	if n := testing.AllocsPerRun(100, func() {
		r.Reset(tree, Envelope{})
		if !c.Match(r) {
			t.Fatal("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzFilter: what is accepted has a canonical form of the same meaning, and what is not is
// refused with one issue that says why.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{`name co "pet"`, `given eq "peter" and birthdate ge 2014-10-10`, `code eq loinc|1 or not (status eq final)`, `date po 2014`,
		`value-quantity gt 5.4|ucum|mg`, `subject re Patient/1`, `((status pr true))`, `status eq "a\"b" or status ne x,y`, `date gt 2020-01-01T10:00:00 01:00`, `code ss loinc|1`, `related[type eq x].target re y`} {
		f.Add(s)
	}
	d := local()
	tree, err := json.Parse([]byte(`{"resourceType":"Observation"`+filterObservation+`}`), json.Limits{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := d.Compile("Observation?_filter=" + url.QueryEscape(s))
		if err != nil {
			if e := fhir.AsError(err); e == nil || len(e.Issues) != 1 || e.Issues[0].Diagnostics == "" {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		agrees(t, c, NewResource(d, tree))
	})
}

// 3.1.3.1: "chained searches done by name.name". The rest of the path is a filter of its own on
// each type that the reference may lead to and that has the parameter.
func TestFiltersFollowReferences(t *testing.T) {
	w := newWorld(patient("1", `"name":[{"family":"Peterson"}],"gender":"male","generalPractitioner":[{"reference":"Practitioner/7"}]`),
		`{"resourceType":"Practitioner","id":"7","name":[{"family":"House"}]}`)
	o := observation("o", "Patient/1", `"status":"final"`)
	for _, f := range []string{
		`subject.name co "pet"`, `patient.gender eq MALE`, `patient.general-practitioner.name eq house`, `status eq final and patient.gender eq male`,
		`status eq amended or subject.name ew SON`, `not (patient.gender eq female)`, `patient.birthdate pr false`, `performer.name co x or subject.name sw pet`,
	} {
		if met, err := decide(t, beside(t, w, o), "Observation?_filter="+url.QueryEscape(f)); !met || err != nil {
			t.Errorf("%s: %v %v", f, met, err)
		}
	}
	for _, f := range []string{`subject.name co "xyz"`, `patient.gender eq female`, `not (patient.gender eq male)`, `patient.general-practitioner.name eq hous`, `patient.birthdate pr true`, `encounter.status eq final`} {
		if met, err := decide(t, beside(t, w, o), "Observation?_filter="+url.QueryEscape(f)); met || err != nil {
			t.Errorf("%s: %v %v", f, met, err)
		}
	}
	// At the end of an ordinary chain and of _has.
	for _, q := range []string{"subject:Patient._filter=" + url.QueryEscape("gender eq male and name co pet")} {
		if met, err := decide(t, beside(t, w, o), "Observation?"+q); !met || err != nil {
			t.Errorf("%s: %v %v", q, met, err)
		}
	}
	for f, want := range map[string]string{
		`status.name eq x`:                           "position 1 of the filter: status is no reference",
		`subject.nope eq x`:                          "position 1 of the filter: none of the types that subject may refer to",
		`patient.gender co x`:                        "position 1 of the filter: for Patient: operator co does not apply to gender",
		`subject.name eq "."`:                        "the value has no letter",
		`patient.link.link.link.link.link.link eq x`: "links from one resource to another",
	} {
		if _, err := chained.Compile("Observation?_filter=" + url.QueryEscape(f)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", f, err, want)
		}
	}
}

// What is at hand decides before other resources are asked for, and what cannot be found out is
// no answer.
func TestFiltersAskForOtherResourcesOnlyWhereItMatters(t *testing.T) {
	w := newWorld(patient("1", `"gender":"male"`))
	o := observation("o", "Patient/1", `"status":"final"`)
	for f, want := range map[string]bool{
		`patient.gender eq male or status eq final`:                  true,
		`patient.gender eq male and status eq amended`:               false,
		`(patient.gender eq male) and not (status eq final)`:         false,
		`not (patient.gender eq male and status eq amended)`:         true,
		`status eq amended and (patient.gender eq male or _id eq x)`: false,
	} {
		c := chainedCriteria(t, "Observation?_filter="+url.QueryEscape(f))
		if met, err := c.Decide(beside(t, w, o)); met != want || err != nil || w.reads > 0 {
			t.Errorf("%s: %v %v, %d read", f, met, err, w.reads)
		}
	}
	c := chainedCriteria(t, "Observation?status=amended&_filter="+url.QueryEscape(`patient.gender eq male`))
	if met, err := c.Decide(beside(t, w, o)); met || err != nil || w.reads > 0 || !c.NeedsRepository() {
		t.Errorf("%v %v, %d read", met, err, w.reads)
	}
	w.fail[fhir.Key{Type: "Patient", ID: "1"}] = errors.New("away")
	for _, f := range []string{`patient.gender eq male`, `not (patient.gender eq male)`, `patient.gender eq male and status eq final`, `status eq amended or patient.gender eq male`} {
		c := chainedCriteria(t, "Observation?_filter="+url.QueryEscape(f))
		met, err := c.Decide(beside(t, w, o))
		var passing *Unavailable
		if met || !errors.As(err, &passing) {
			t.Errorf("%s: %v %v", f, met, err)
		}
		if x := c.Explain(beside(t, w, o)); !strings.Contains(x[1].Note, "not available") {
			t.Errorf("%s: %+v", f, x)
		}
	}
}

// 3.1.3.2: ss, sb and in, by the stored terminology, as :below, :above and :in.
func TestFiltersAskTheTerminology(t *testing.T) {
	terms, err := NewTerminology(
		[]byte(`{"resourceType":"CodeSystem","id":"c","url":"http://c","content":"complete","hierarchyMeaning":"is-a","concept":[{"code":"a","concept":[{"code":"b","concept":[{"code":"c"}]}]}]}`),
		[]byte(`{"resourceType":"ValueSet","id":"v","url":"http://v","compose":{"include":[{"system":"http://c","concept":[{"code":"b"}]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	d := local().WithTerminology(terms)
	r := resource(t, d, `{"resourceType":"Observation","code":{"coding":[{"system":"http://c","code":"b"}]}}`)
	for f, want := range map[string]bool{
		`code ss http://c|a`: true, `code ss http://c|b`: true, `code ss http://c|c`: false,
		`code sb http://c|c`: true, `code sb http://c|b`: true, `code sb http://c|a`: false,
		`code in http://v`: true, `code ni http://v`: false, `not (code ni "http://v")`: true,
	} {
		c := compiled(t, d, "Observation?_filter="+url.QueryEscape(f))
		if got := c.Match(r); got != want {
			t.Errorf("%s = %v", f, got)
		}
		if len(c.Uses()) == 0 || c.Identity() == c.Canonical() {
			t.Errorf("%s does not say what it depends on: %v, %s", f, c.Uses(), c.Identity())
		}
	}
	if _, err := d.Compile("Observation?_filter=" + url.QueryEscape(`code in http://unknown`)); err == nil || !strings.Contains(err.Error(), "position 9 of the filter") {
		t.Error(err)
	}
}

// Trees of any shape are decided as their comparisons are one by one, by Match, by Explain, in
// the canonical form and at the place in an index.
func TestFiltersAreWhatTheirComparisonsAre(t *testing.T) {
	d := local()
	r := resource(t, d, `{"resourceType":"Patient"`+filterPatient+`}`)
	leaves := map[string]bool{}
	for _, f := range []string{`gender eq male`, `gender eq female`, `identifier eq a1`, `identifier ne A1`, `name sw pet`, `name co x`, `birthdate gt 2014`,
		`birthdate lt 2015-01`, `active pr true`, `email pr true`, `general-practitioner re Practitioner/7`, `general-practitioner ne Practitioner/7`} {
		leaves[f] = compiled(t, d, "Patient?_filter="+url.QueryEscape(f)).Match(r)
	}
	names := slices.Sorted(maps.Keys(leaves))
	// text is left without parentheses at the top, where operators bind from left to right.
	var tree func(t *rapid.T, depth int) (text string, met bool)
	tree = func(t *rapid.T, depth int) (string, bool) {
		operand := func() (string, bool) {
			if depth == 0 || rapid.Bool().Draw(t, "leaf") {
				f := rapid.SampledFrom(names).Draw(t, "comparison")
				return f, leaves[f]
			}
			text, met := tree(t, depth-1)
			if rapid.Bool().Draw(t, "not") {
				return "not (" + text + ")", !met
			}
			return "(" + text + ")", met
		}
		text, met := operand()
		for range rapid.IntRange(0, 3).Draw(t, "joined") {
			o, m := operand()
			if rapid.Bool().Draw(t, "and") {
				text, met = text+" and "+o, met && m
			} else {
				text, met = text+" or "+o, met || m
			}
		}
		return text, met
	}
	rapid.Check(t, func(rt *rapid.T) {
		f, want := tree(rt, 3)
		c, err := d.Compile("Patient?_filter=" + url.QueryEscape(f))
		if err != nil {
			if strings.Contains(err.Error(), "more than 64 comparisons") || strings.Contains(err.Error(), "bytes long") {
				return
			}
			rt.Fatal(err)
		}
		if got := c.Match(r); got != want {
			rt.Errorf("%s = %v, want %v", f, got, want)
		}
		agrees(t, c, r)
	})
}

// A comparison whose parameter cannot be evaluated on the resource leaves the filter open, unless
// another one decides it.
func TestAFilterThatCannotBeEvaluatedSaysSoUnlessItIsDecided(t *testing.T) {
	d := with(t, R4(), parameter("x", "Patient", "token", "Patient.name.given.single() = 'Ana'", ""))
	r := resource(t, d, `{"resourceType":"Patient"`+filterPatient+`}`)
	for f, want := range map[string]struct {
		met bool
		err error
	}{
		`x eq true`: {false, ErrNotEvaluable}, `x ne true`: {false, ErrNotEvaluable}, `not (x eq true)`: {false, ErrNotEvaluable}, `x pr false`: {false, ErrNotEvaluable},
		`x eq true and active eq true`: {false, ErrNotEvaluable}, `active eq false or x eq true`: {false, ErrNotEvaluable},
		`x eq true or active eq true`: {true, nil}, `x eq true and active eq false`: {false, nil}, `not (active eq false and x eq true)`: {true, nil},
	} {
		c := compiled(t, d, "Patient?_filter="+url.QueryEscape(f))
		if met, err := c.Decide(r); met != want.met || err != want.err {
			t.Errorf("%s: %v %v", f, met, err)
		}
		if x := c.Explain(r)[1]; x.Met != want.met || want.err != nil && x.Note != want.err.Error() {
			t.Errorf("%s: %+v", f, x)
		}
	}
}
