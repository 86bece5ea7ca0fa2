package search

import (
	"strconv"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

const pressure = `,"code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"component":[
	{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"},{"system":"http://mine","code":"sys"}]},"valueQuantity":{"value":107,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},
	{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},"valueQuantity":{"value":60,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},
	{"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"dataAbsentReason":{"text":"?"}}]`

// R4 3.1.1.4.15 and R5 3.2.1.5.14.3: the values of a composite are tied to one another.
func TestCompositesTieValuesToOneNode(t *testing.T) {
	// "GET [base]/Observation?component-code-value-quantity=http://loinc.org|8480-6$lt60"
	meets{
		yes: []string{
			"component-code-value-quantity=http://loinc.org|8480-6$107", "component-code-value-quantity=http://loinc.org|8480-6$gt100",
			"component-code-value-quantity=8462-4$lt60.5||mmHg", "component-code-value-quantity=http://mine|$107",
			"component-code-value-quantity=8480-6$gt100&component-code-value-quantity=8462-4$lt100",
			"component-code-value-quantity=8480-6$lt60,8462-4$ge60", // a comma is or, as everywhere
			"component-code-value-quantity=SYS$107|http://unitsofmeasure.org|mm[Hg]",
			"component-code-value-quantity:missing=false", "code-value-quantity:missing=true",
			"combo-code-value-quantity=8480-6$107", "combo-code-value-quantity:missing=false",
		},
		no: []string{
			"component-code-value-quantity=http://loinc.org|8480-6$lt60", // the other component has such a value
			"component-code-value-quantity=8462-4$107", "component-code-value-quantity=8867-4$gt0",
			"component-code-value-quantity=8480-6$lt60,8462-4$gt60", "component-code-value-quantity=85354-9$107",
			"component-code-value-quantity=8480-6$107||kPa", "component-code-value-quantity:missing=true",
			"code-value-quantity=85354-9$107", "code-value-quantity=8480-6$107", "code-value-quantity:missing=false",
			"component-code-value-concept=8480-6$107", "component-code-value-concept:missing=false",
			"combo-code-value-quantity=85354-9$107",
		},
	}.check(t, "Observation", pressure)

	// Values of every kind, and several of them at the one node.
	meets{
		yes: []string{"code-value-concept=a$x", "code-value-concept=b$y", "code-value-concept=s|b$y", "combo-code-value-concept=a$y"},
		no:  []string{"code-value-concept=x$a", "code-value-concept=a$b", "code-value-quantity=a$1", "code-value-string=a$x"},
	}.check(t, "Observation", `,"code":{"coding":[{"code":"a"},{"system":"s","code":"b"}]},"valueCodeableConcept":{"coding":[{"code":"x"},{"code":"y"}]}`)
	meets{
		yes: []string{"code-value-string=a$positive", `code-value-string=a$posi`, `code-value-string=a$positive 5\$ x`},
		no:  []string{"code-value-string=a$5", "code-value-string=b$positive"},
	}.check(t, "Observation", `,"code":{"coding":[{"code":"a"}]},"valueString":"Positive, 5$ (x)"`)
	meets{
		yes: []string{"code-value-date=a$2020", "code-value-date=a$ge2020-05-05", "code-value-date=a$lt2021"},
		no:  []string{"code-value-date=a$2021", "code-value-date=b$2020"},
	}.check(t, "Observation", `,"code":{"coding":[{"code":"a"}]},"valueDateTime":"2020-05-05"`)
	meets{yes: []string{"code-value-date=a$sa2019", "code-value-date=a$2020"}, no: []string{"code-value-date=a$2019"}}.
		check(t, "Observation", `,"code":{"coding":[{"code":"a"}]},"valuePeriod":{"start":"2020-05-05","end":"2020-06"}`)

	// "GET [base]/Group?characteristic-value=gender$mixed"
	meets{
		yes: []string{"characteristic-value=gender$mixed", "characteristic-value=old$true", "characteristic-value=gender$mixed&characteristic-value=old$true"},
		no:  []string{"characteristic-value=gender$true", "characteristic-value=old$mixed", "characteristic-value=old$false"},
	}.check(t, "Group", `,"characteristic":[{"code":{"coding":[{"code":"gender"}]},"valueCodeableConcept":{"coding":[{"code":"mixed"}]}},
		{"code":{"coding":[{"code":"old"}]},"valueBoolean":true}]`)

	// "GET [base]/Questionnaire?context-type-value=focus$http://snomed.info/sct|408934002"
	meets{
		yes: []string{"context-type-value=focus$http://snomed.info/sct|408934002", "context-type-quantity=age$gt17", "context-type-quantity=age$18"},
		no:  []string{"context-type-value=age$http://snomed.info/sct|408934002", "context-type-quantity=focus$18", "context-type-value=focus$http://loinc.org|408934002"},
	}.check(t, "Questionnaire", `,"useContext":[{"code":{"code":"focus"},"valueCodeableConcept":{"coding":[{"system":"http://snomed.info/sct","code":"408934002"}]}},
		{"code":{"code":"age"},"valueQuantity":{"value":18}},{"code":{"code":"venue"}}]`)

	// A reference, and a code whose two parts HL7 defines the wrong way round in R4.
	meets{
		yes: []string{"relationship=replaces$DocumentReference/1", "relationship=replaces$1", "relationship=http://hl7.org/fhir/document-relationship-type|replaces$1",
			"relationship=appends$2", "relationship=replaces$https://here.example/fhir/DocumentReference/1"},
		no: []string{"relationship=replaces$2", "relationship=appends$DocumentReference/1"},
	}.check(t, "DocumentReference", `,"relatesTo":[{"code":"replaces","target":{"reference":"DocumentReference/1"}},{"code":"appends","target":{"reference":"DocumentReference/2"}}]`)

	// %resource: a part that is the same for every node; and three parts with numbers.
	meets{
		yes: []string{"chromosome-variant-coordinate=7$5$9", "chromosome-variant-coordinate=7$gt100$lt200", "chromosome-window-coordinate=7$1$2"},
		no:  []string{"chromosome-variant-coordinate=7$5$lt9", "chromosome-variant-coordinate=8$5$9", "chromosome-variant-coordinate=7$lt6$gt100"},
	}.check(t, "MolecularSequence", `,"referenceSeq":{"chromosome":{"coding":[{"code":"7"}]},"windowStart":1,"windowEnd":2},"variant":[{"start":5,"end":9},{"start":101},{"start":150,"end":160}]`)
	meets{
		no: []string{"chromosome-variant-coordinate=7$5$9"}, yes: []string{"chromosome-variant-coordinate:missing=true"},
	}.check(t, "MolecularSequence", `,"variant":[{"start":5,"end":9},{"start":101,"end":200}]`)
}

// R5: values of one node, with its own shapes of elements.
func TestCompositesOfR5(t *testing.T) {
	for _, c := range []struct {
		typ, elements string
		yes, no       []string
	}{
		{"Encounter", `,"location":[{"location":{"reference":"Location/1"},"period":{"start":"2020-01-01","end":"2020-01-31"}},{"location":{"reference":"Location/2"}}]`,
			[]string{"location-period=Location/1$2020", "location-period=1$gt2020-01-15"}, []string{"location-period=2$2020", "location-period=1$2021"}},
		{"ResearchStudy", `,"progressStatus":[{"state":{"coding":[{"code":"active"}]},"actual":true,"period":{"start":"2020","end":"2021"}},{"state":{"coding":[{"code":"closed"}]},"actual":false}]`,
			[]string{"progress-status-state-actual=active$true", "progress-status-state-period-actual=active$ge2020$true"},
			[]string{"progress-status-state-actual=closed$true", "progress-status-state-period-actual=closed$ge2020$false"}},
		{"Device", `,"conformsTo":[{"specification":{"coding":[{"code":"a"}]},"version":"1"},{"specification":{"coding":[{"code":"b"}]},"version":"2"}]`,
			[]string{"specification-version=a$1"}, []string{"specification-version=a$2"}},
		{"Ingredient", `,"substance":{"strength":[{"concentrationRatio":{"numerator":{"value":5},"denominator":{"value":1}}}]}`,
			[]string{"strength-concentration-ratio=5$1"}, []string{"strength-concentration-ratio=1$5", "strength-presentation-ratio=5$1"}},
		{"DocumentReference", `,"relatesTo":[{"code":{"coding":[{"code":"replaces"}]},"target":{"reference":"DocumentReference/1"}}]`,
			[]string{"relationship=replaces$1"}, []string{"relationship=appends$1"}},
	} {
		r := resource(t, R5(), `{"resourceType":"`+c.typ+`"`+c.elements+`}`)
		for want, list := range map[bool][]string{true: c.yes, false: c.no} {
			for _, q := range list {
				if compiled(t, R5(), c.typ+"?"+q).Match(r) != want {
					t.Errorf("%s?%s = %v", c.typ, q, !want)
				}
			}
		}
	}
}

func TestCompositesAreRefusedByPart(t *testing.T) {
	for q, text := range map[string]string{
		"code-value-quantity=a":                                            "the value must be code$value-quantity",
		"code-value-quantity=a$5$6":                                        "the value must be code$value-quantity",
		`code-value-quantity=a\$5`:                                         "the value must be code$value-quantity",
		"code-value-quantity=$5":                                           "the value is empty for code",
		"code-value-quantity=a$":                                           "the value is empty for value-quantity",
		"code-value-quantity=a$5,":                                         "one of the values is empty",
		"code-value-quantity=a$x":                                          "its part value-quantity: the prefix",
		"code-value-quantity=a|b|c$5":                                      "its part code: the value must be code, system|code",
		"code-value-quantity=a$5|mg":                                       "its part value-quantity: the value must be number",
		"code-value-date=a$20":                                             "its part value-date: the value must be a date",
		"code-value-quantity:not=a$5":                                      `modifier "not" is not supported for a composite parameter; supported are :missing`,
		"code-value-quantity:exact=a$5":                                    "modifier",
		"component-code-value-quantity:missing=a$5":                        "true or false",
		"component-code-value-quantity.x=a$5":                              "chained",
		`component-code-value-concept=a\x$b`:                               "backslash",
		"component-code-value-concept=a$b&nope=1":                          "no such search parameter",
		"code-value-quantity=" + strings.Repeat("a$5,", maxValues) + "a$5": "values",
	} {
		_, err := R4().Compile("Observation?" + q)
		e := fhir.AsError(err)
		if e == nil || len(e.Issues) != 1 || !strings.Contains(e.Error(), text) {
			t.Errorf("%.60s: %v, want %q", q, err, text)
		}
	}
}

func TestOneMeaningOfACompositeHasOneCanonicalForm(t *testing.T) {
	d := local()
	for _, group := range [][]string{
		{"Observation?code-value-quantity=a$5,b$6", "Observation?code-value-quantity=b$6,a$eq5,b$6"},
		{`Observation?code-value-string=a$x\$y`, `Observation?code-value-string=a$X\$y`, `Observation?code-value-string=a%24x%5C%24Y`},
		{`Observation?code-value-concept=a\$b$c`, `Observation?code-value-concept=a%5C$b$c`},
		{"DocumentReference?relationship=replaces$DocumentReference/1", "DocumentReference?relationship=replaces$" + base + "/DocumentReference/1"},
		{"Observation?code-value-quantity=a$5"}, {"Observation?code-value-quantity=a$5.0"}, {`Observation?code-value-concept=a$b\$c`},
	} {
		want := compiled(t, d, group[0]).Canonical()
		for _, q := range group {
			c := compiled(t, d, q)
			if c.Canonical() != want {
				t.Errorf("%s: %s, want %s", q, c.Canonical(), want)
			}
			if again := compiled(t, d, c.Canonical()); again.Canonical() != want {
				t.Errorf("%s: canonical form of %s is %s", q, want, again.Canonical())
			}
		}
	}
}

func TestExplainShowsTuples(t *testing.T) {
	r := resource(t, R4(), `{"resourceType":"Observation"`+pressure+`}`)
	x := compiled(t, R4(), "Observation?component-code-value-quantity=8480-6$lt60").Explain(r)[1]
	if x.Met || x.Note != "no value in the resource meets it" || len(x.Found) != 2 ||
		!strings.HasPrefix(x.Found[0], `http://loinc.org|8480-6,http://mine|sys$`) || !strings.Contains(x.Found[0], "107") {
		t.Errorf("%+v", x)
	}
	x = compiled(t, R4(), "Observation?code-value-quantity=8480-6$lt60").Explain(r)[1]
	if x.Met || x.Note != "no value in the resource" || x.Found != nil {
		t.Errorf("%+v", x)
	}
}

// The cost of a composite is bounded by steps like that of any condition, and does not depend
// on the order of what is asked for.
func TestCompositesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"resourceType":"Observation","component":[`)
	for i := range 50_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"code":{"coding":[{"code":"c` + strconv.Itoa(i) + `"}]},"valueQuantity":{"value":1}}`)
	}
	b.WriteString(`]}`)
	r := resource(t, R4(), b.String())
	var wanted []string
	for i := range maxValues / 2 {
		wanted = append(wanted, "x"+strconv.Itoa(i)+"$1")
	}
	q := "Observation?component-code-value-quantity="
	if met, err := compiled(t, R4(), q+strings.Join(wanted, ",")).Decide(r); met || err == nil {
		t.Errorf("%v, %v", met, err)
	}
	if met, err := compiled(t, R4(), q+"c49999$1").Decide(r); !met || err != nil {
		t.Errorf("%v, %v", met, err)
	}
	// A part at the resource is read once, however many nodes there are.
	b.Reset()
	b.WriteString(`{"resourceType":"MolecularSequence","referenceSeq":{"chromosome":{"coding":[` + strings.Repeat(`{"code":"7"},`, 20_000) + `{"code":"8"}]}},"variant":[`)
	b.WriteString(strings.Repeat(`{"start":1},`, 50_000) + `{"start":5,"end":9}]}`)
	r = resource(t, R4(), b.String())
	if !compiled(t, R4(), "MolecularSequence?chromosome-variant-coordinate=7$5$9").Match(r) || len(r.tokens) != 20_001 {
		t.Errorf("%d tokens", len(r.tokens))
	}
}

func TestCompositesAllocateNothing(t *testing.T) {
	tree, err := json.Parse([]byte(`{"resourceType":"Observation"`+pressure+`}`), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := NewResource(R4(), tree)
	c := compiled(t, R4(), "Observation?component-code-value-quantity=http://loinc.org|8480-6$lt60,8462-4$gt50&combo-code-value-quantity=8480-6$107")
	if n := testing.AllocsPerRun(100, func() {
		r.Reset(tree, Envelope{})
		if !c.Match(r) {
			t.Error("not met")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// An index finds a composite by the codes of one of its parts.
func TestCompositesAreFoundByACode(t *testing.T) {
	r := resource(t, R4(), `{"resourceType":"Observation"`+pressure+`}`)
	for q, want := range map[string]string{
		"component-code-value-quantity=8480-6$gt1":             "component-code-value-quantity$component-code",
		"component-code-value-quantity=SYS$gt1,x$2":            "component-code-value-quantity$component-code",
		"component-code-value-quantity=8480-6$gt1,http://a|$1": "", // of a system without a code there is no hash
		"component-code-value-quantity:missing=false":          "",
		"combo-code-value-concept=a$b":                         "combo-code-value-concept$combo-code",
	} {
		c := compiled(t, R4(), "Observation?"+q)
		if got := firstFeature(c); got != want {
			t.Errorf("%s is found by %q, want %q", q, got, want)
		}
		agrees(t, c, r)
	}
	if a := compiled(t, R4(), "Observation?component-code-value-quantity=x$1").Accesses()[0]; finds(a, r) {
		t.Error("a code that is not there is found")
	}
}
