package search

import (
	"errors"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

const ana = `{"resourceType":"Patient","active":true,"birthDate":"1970-01-01","name":[{"use":"official","given":["Ana","Maria"],"family":"Núñez","period":{"start":"2000"}},{"use":"nickname","given":["Nina"]}],
	"contact":[{"name":{"family":"X"}},{"name":{"family":"Y"}}],"managingOrganization":{"reference":"Organization/1"},"identifier":[{"system":"s","value":"1"},{"system":"t","value":"2"}]}`

// What is more than a path is evaluated, and read by the type of what it gives.
func TestExpressionsAreEvaluated(t *testing.T) {
	observation := `{"resourceType":"Observation","status":"final","valueQuantity":{"value":5,"system":"http://unitsofmeasure.org","code":"mg"},"component":[
		{"code":{"coding":[{"code":"a"}]},"valueQuantity":{"value":10,"unit":"mg"}},{"code":{"coding":[{"code":"b"}]},"valueQuantity":{"value":20,"unit":"mg"}},{"code":{"coding":[{"code":"a"}]},"valueString":"x"}]}`
	for _, c := range []struct{ body, typ, expr, yes, no string }{
		{ana, "string", "Patient.name.given.first() + ' ' + Patient.name.family.first()", "x=ana nunez;x:exact=Ana Núñez;x:contains=a n;x:missing=false", "x=maria;x:exact=ana nunez;x:missing=true"},
		{ana, "string", "Patient.name.where(use = 'official' and period.exists()).given", "x=maria;x=an", "x=nina"},
		{ana, "string", "Patient.name.where(use = 'none' and period.exists()).given", "x:missing=true", "x=a"},
		{ana, "token", "Patient.name.exists(use = 'official')", "x=true;x:not=false", "x=false"},
		{ana, "token", "Patient.identifier.where(system.startsWith('s'))", "x=s|1;x=1;x:not=t|2", "x=2;x=t|2"},
		{ana, "token", "Patient.name.use.select($this & '!')", "x=official!", "x=official"},
		{ana, "number", "Patient.contact.count()", "x=2;x=gt1", "x=3;x=lt2"},
		{ana, "number", "Patient.contact.count() / 3", "x=gt0.6;x=lt0.7", "x=2"},
		{ana, "number", "Patient.contact.count() | Person.link.count()", "x=2", "x=0"},
		{ana, "number", "Patient.contact.count() // | Patient.name.count() | 7 | Person.link.count()", "x=2", "x=7"},
		{ana, "number", "Person.link.count() | (Patient.contact.count() + 1)", "x=3", "x=2"},
		{ana, "token", "Person.active | (Patient.active | Patient.name.exists()) and Patient.contact.empty()", "x=false", "x=true"},
		{ana, "date", "Patient.birthDate + 1 year", "x=1971;x=1971-01-01", "x=1970"},
		{ana, "date", "Patient.name.period.where(start > @1999)", "x=gt2001;x=sa1999", "x=lt1999"},
		{ana, "reference", "Patient.managingOrganization.where(reference.matches('Org.*'))", "x=Organization/1;x=1;x:Organization=1", "x=2"},
		{ana, "uri", "Patient.identifier.system.where($this != 't')", "x=s", "x=t"},
		{observation, "quantity", "Observation.component.where(code.coding.code = 'a').value", "x=10||mg;x=gt5", "x=20;x=5"},
		{observation, "quantity", "Observation.component.value.ofType(Quantity).where(value > 15)", "x=20", "x=10"},
		{observation, "quantity", "Observation.value * 2", "x=10|http://unitsofmeasure.org|mg", "x=5"},
		{observation, "string", "Observation.component.where(code.coding.code = 'a').value", "x=x", "x=1"},
	} {
		typ := "Patient"
		if c.body == observation {
			typ = "Observation"
		}
		d := with(t, R4(), parameter("x", typ, c.typ, c.expr, ""))
		r := resource(t, d, c.body)
		for want, list := range map[bool]string{true: c.yes, false: c.no} {
			for q := range strings.SplitSeq(list, ";") {
				x := compiled(t, d, typ+"?"+q)
				if met, err := x.Decide(r); met != want || err != nil || x.Explain(r)[1].Met != want {
					t.Errorf("%s: %s = %v, %v", c.expr, q, met, err)
				}
			}
		}
	}
}

func TestExpressionsAreRefusedBeforeTheyAreUsed(t *testing.T) {
	for _, c := range []struct{ typ, expr, text string }{
		{"date", "Patient.birthDate.where($this < today())", "every node must decide the same"},
		{"token", "Patient.exists(birthDate < now())", "every node must decide the same"},
		{"token", "Patient.name.nope.exists()", "nope"},
		{"token", "Patient.name.frobnicate()", "frobnicate"},
		{"token", "Patient.name.where(use = ", "position"},
		{"token", "%previous.active.not()", "previous"},
		{"token", "Patient.maritalStatus.where(memberOf('http://vs'))", "memberOf"},
		{"date", "Patient.name.count()", "a date parameter cannot read System.Integer"},
		{"quantity", "Patient.name.where(use != 'old').given", "a quantity parameter cannot read string"},
		{"reference", "Patient.identifier.where(use != 'old')", "a reference parameter cannot read Identifier"},
		{"token", "Person.name.count()", "reads nothing of Patient"},
		{"token", "{}", "gives nothing"},
	} {
		_, errs := R4().WithParameters([]byte(parameter("x", "Patient", c.typ, c.expr, "")))
		e := fhir.AsError(errs[0])
		if e == nil || !strings.Contains(e.Error(), c.text) || e.Issues[0].Expression != "SearchParameter.expression" {
			t.Errorf("%s: %v, want %q", c.expr, errs[0], c.text)
		}
	}
}

// An expression that fails on a resource decides nothing, whatever is asked of it, and says so;
// and what another condition decides stays decided.
func TestFailuresOfExpressionsAreSeen(t *testing.T) {
	d := with(t, R4(), parameter("x", "Patient", "token", "Patient.name.given.single() = 'Ana'", ""))
	r := resource(t, d, ana)
	for q, want := range map[string]error{"x=true": ErrNotEvaluable, "x:not=true": ErrNotEvaluable, "x:missing=true": ErrNotEvaluable, "x:missing=false": ErrNotEvaluable,
		"x=true&active=true": ErrNotEvaluable, "x=true&active=false": nil, "active=false&x=true": nil} {
		c := compiled(t, d, "Patient?"+q)
		met, err := c.Decide(r)
		if met || !errors.Is(err, want) || err != nil && want == nil {
			t.Errorf("%s: %v, %v", q, met, err)
		}
		for _, a := range c.Accesses() {
			if a.Feature.String() != "active" {
				t.Errorf("%s is posted under %s", q, a.Feature)
			}
		}
		for _, e := range c.Explain(r)[1:] {
			if strings.HasPrefix(e.Text, "x") && (e.Met || e.Note != ErrNotEvaluable.Error()) {
				t.Errorf("%s: explained as %+v", q, e)
			}
		}
	}
	if met, err := compiled(t, d, "Patient?x=true").Decide(resource(t, d, `{"resourceType":"Patient","name":[{"given":["Ana"]}]}`)); !met || err != nil {
		t.Errorf("%v, %v", met, err)
	}
}

func TestPartsOfCompositesMayBeExpressions(t *testing.T) {
	d := with(t, R4(), parameter("x", "Observation", "composite", "Observation.component",
		`,"component":[{"definition":"http://hl7.org/fhir/SearchParameter/Observation-component-code","expression":"code.where(coding.count() > 1)"},{"definition":"http://hl7.org/fhir/SearchParameter/Observation-component-value-quantity","expression":"value.ofType(Quantity)"}]`))
	r := resource(t, d, `{"resourceType":"Observation"`+pressure+`}`)
	for q, want := range map[string]bool{"x=sys$107": true, "x=8480-6$107": true, "x=8462-4$60": false} {
		if met, err := compiled(t, d, "Observation?"+q).Decide(r); met != want || err != nil {
			t.Errorf("%s = %v, %v", q, met, err)
		}
	}
	many := `{"resourceType":"Observation","component":[` + strings.Repeat(`{"valueQuantity":{"value":1}},`, maxNodes) + `{"valueQuantity":{"value":1}}]}`
	if met, err := compiled(t, d, "Observation?x=a$1").Decide(resource(t, d, many)); met || !errors.Is(err, ErrNotEvaluable) {
		t.Errorf("%d nodes: %v, %v", maxNodes+1, met, err)
	}
}

func TestExpressionsAllocateNothing(t *testing.T) {
	d := with(t, R4(), parameter("x", "Patient", "string", "Patient.name.where(use = 'official' and period.exists()).given", ""))
	tree, err := json.Parse([]byte(ana), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r, c := NewResource(d, tree), compiled(t, d, "Patient?x=maria")
	if n := testing.AllocsPerRun(100, func() {
		r.Reset(tree, Envelope{})
		if !c.Match(r) {
			t.Error("not met")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
