package search

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/ucum"
)

// The rules of the specification on quantities: R4 and R4B 3.1.1.4.11, R5 3.2.1.5.11, whose texts
// on these points are the same, and datatypes (Quantity, Range, Money, Age, SampledData).

func quantityOf(value, system, code string) string {
	return fmt.Sprintf(`,"valueQuantity":{"value":%s,"system":%q,"code":%q}`, value, system, code)
}

func TestQuantityRulesOfTheSpecification(t *testing.T) {
	const u, v = "http://unitsofmeasure.org", "value-quantity="
	mg := func(value string) string { return quantityOf(value, u, "mg") }
	checkSpec(t, []specCase{
		// The table of examples.
		{"3.1.1.4.11: 5.4|ucum|mg is 5.4(+/-0.05) mg, lower end", "Observation", mg("5.35"), meets{yes: []string{v + "5.4|" + u + "|mg"}}},
		{"3.1.1.4.11: 5.4|ucum|mg is 5.4(+/-0.05) mg, upper end", "Observation", mg("5.45"), meets{no: []string{v + "5.4|" + u + "|mg"}}},
		{"3.1.1.4.11: 5.40e-3|ucum|g is 0.0054(+/-0.000005) g, lower end", "Observation", quantityOf("0.005395", u, "g"), meets{yes: []string{v + "5.40e-3|" + u + "|g"}}},
		{"3.1.1.4.11: 5.40e-3|ucum|g is 0.0054(+/-0.000005) g, upper end", "Observation", quantityOf("0.005405", u, "g"), meets{no: []string{v + "5.40e-3|" + u + "|g"}}},
		{"3.1.1.4.11: 5.4||mg looks at the code", "Observation", `,"valueQuantity":{"value":5.4,"code":"mg","unit":"milligram"}`, meets{yes: []string{v + "5.4||mg"}, no: []string{v + "5.4||g"}}},
		{"3.1.1.4.11: 5.4||mg looks at the human unit", "Observation", `,"valueQuantity":{"value":5.4,"unit":"mg"}`, meets{yes: []string{v + "5.4||mg"}, no: []string{v + "5.4|" + u + "|mg"}}},
		{"3.1.1.4.11: 5.4||g converts nothing", "Observation", mg("5400"), meets{no: []string{v + "5.4||g"}}},
		{"3.1.1.4.11: 5.4 irrespective of the unit", "Observation", mg("5.4"), meets{yes: []string{v + "5.4", v + "gt5"}}},
		{"3.1.1.4.11: le5.4 is exactly that", "Observation", mg("5.41"), meets{no: []string{v + "le5.4|" + u + "|mg"}, yes: []string{v + "5.4|" + u + "|mg"}}},
		{"3.1.1.4.11: ap5.4 is within 10 per cent", "Observation", mg("4.86"), meets{yes: []string{v + "ap5.4|" + u + "|mg"}, no: []string{v + "ap5.5|" + u + "|mg"}}},
		{"3.1.1.4.11: system and code are those of a token: the system alone", "Observation", mg("5.4"), meets{yes: []string{v + "5.4|" + u + "|"}, no: []string{v + "5.4|http://other|"}}},
		{"3.1.1.4.11: a precise match looks at no display", "Observation", `,"valueQuantity":{"value":5.4,"system":"http://other","code":"x","unit":"mg"}`, meets{no: []string{v + "5.4|http://other|mg"}, yes: []string{v + "5.4|http://other|x"}}},
		// Canonical units: "any value where the units can be converted".
		{"3.1.1.4.11: 23 mm/h in canonical units", "Observation", quantityOf("23", u, "mm/h"), meets{yes: []string{v + "0.023|" + u + "|m/h", v + "lt6.4e-6|" + u + "|m/s", v + "6.389e-6|" + u + "|m/s"}, no: []string{v + "0.23|" + u + "|m/h"}}},
		{"3.1.1.4.11: gt5.4 g is met by 5500 mg", "Observation", mg("5500"), meets{yes: []string{v + "gt5.4|" + u + "|g", v + "ge5.5|" + u + "|g", v + "le5.5|" + u + "|g", v + "eb6|" + u + "|g", v + "sa5|" + u + "|g", v + "ap5|" + u + "|g", v + "ne5.4|" + u + "|g"},
			no: []string{v + "gt5.5|" + u + "|g", v + "lt5.5|" + u + "|g", v + "gt5.4|" + u + "|kg", v + "ne5.5|" + u + "|g", v + "gt1|" + u + "|mL", v + "ne1|" + u + "|mL", v + "5500|http://other|mg"}}},
		{"precision is that of the searched number, in its unit: lower end", "Observation", mg("5350"), meets{yes: []string{v + "5.4|" + u + "|g"}, no: []string{v + "5.40|" + u + "|g"}}},
		{"precision is that of the searched number, in its unit: upper end", "Observation", mg("5450"), meets{no: []string{v + "5.4|" + u + "|g"}}},
		{"precision is that of the searched number, in its unit: below the upper end", "Observation", mg("5449.99999999999999999999999"), meets{yes: []string{v + "5.4|" + u + "|g"}}},
		{"a conversion without a finite decimal is exact", "Observation", quantityOf("60", u, "/min"), meets{yes: []string{v + "ge1|" + u + "|/s", v + "le1|" + u + "|/s", v + "1.000000000000000000000|" + u + "|/s"}, no: []string{v + "gt1|" + u + "|/s", v + "lt1|" + u + "|/s"}}},
		{"temperatures have their zeros", "Observation", quantityOf("98.6", u, "[degF]"), meets{yes: []string{v + "ge37|" + u + "|Cel", v + "37.0|" + u + "|Cel", v + "310.15|" + u + "|K"}, no: []string{v + "gt37|" + u + "|Cel", v + "38|" + u + "|Cel"}}},
		{"temperatures below zero", "Observation", quantityOf("-40", u, "Cel"), meets{yes: []string{v + "-40|" + u + "|[degF]", v + "lt0|" + u + "|[degF]", v + "gt233|" + u + "|K"}}},
		{"amount of substance is no mass", "Observation", quantityOf("5", u, "mmol/L"), meets{no: []string{v + "gt0|" + u + "|mg/dL", v + "ne1|" + u + "|mg/dL"}, yes: []string{v + "gt4.9|" + u + "|mol/m3"}}},
		{"arbitrary units convert to themselves alone", "Observation", quantityOf("5", u, "k[IU]/L"), meets{yes: []string{v + "5000|" + u + "|[IU]/L", v + "5|" + u + "|m[iU]/uL"}, no: []string{v + "gt0|" + u + "|U/L", v + "gt0|" + u + "|/L"}}},
		{"annotations mean nothing", "Observation", quantityOf("90", u, "mL/min/{1.73_m2}"), meets{yes: []string{v + "90|" + u + "|mL/min", v + "gt5.3|" + u + "|L/h"}}},
		{"codes are case sensitive", "Observation", quantityOf("5", u, "mg"), meets{no: []string{v + "5|" + u + "|MG", v + "5|" + u + "|Mg"}}},
		{"a code that UCUM does not have is compared as it is", "Observation", quantityOf("2", u, "TAB"), meets{yes: []string{v + "2|" + u + "|TAB", v + "gt1|" + u + "|TAB"}, no: []string{v + "gt1|" + u + "|tab", v + "gt1|" + u + "|1"}}},
		{"other systems convert nothing", "Observation", quantityOf("5500", "http://other", "mg"), meets{yes: []string{v + "5500|http://other|mg"}, no: []string{v + "gt5.4|http://other|g", v + "gt5.4|" + u + "|g"}}},
		{"one of several values may be in another unit", "Observation", mg("5500"), meets{yes: []string{v + "9|" + u + "|mL,gt5.4|" + u + "|g", v + "5500|" + u + "|mg,1|" + u + "|mL"}}},
		{"composites convert as well", "Observation", `,"code":{"coding":[{"code":"a"}]}` + mg("5500"), meets{yes: []string{"code-value-quantity=a$gt5.4|" + u + "|g"}, no: []string{"code-value-quantity=a$gt5.5|" + u + "|g", "code-value-quantity=b$gt5.4|" + u + "|g"}}},
		// Quantity.comparator.
		{"Quantity.comparator <: the value lies somewhere below", "Observation", `,"valueQuantity":{"value":5500,"comparator":"<","system":"` + u + `","code":"mg"}`, meets{yes: []string{v + "lt6|" + u + "|g", v + "lt1|" + u + "|g", v + "eb5.5|" + u + "|g", v + "le5.5|" + u + "|g", v + "ne5.5|" + u + "|g"}, no: []string{v + "ge5.5|" + u + "|g", v + "gt5.5|" + u + "|g", v + "5.5|" + u + "|g", v + "sa0|" + u + "|g"}}},
		{"Quantity.comparator >=: that, or above", "Observation", `,"valueQuantity":{"value":5.5,"comparator":">=","system":"` + u + `","code":"g"}`, meets{yes: []string{v + "le5500|" + u + "|mg", v + "gt9e9|" + u + "|mg", v + "sa5499|" + u + "|mg"}, no: []string{v + "lt5500|" + u + "|mg", v + "sa5500|" + u + "|mg", v + "5500|" + u + "|mg"}}},
		{"R5 Quantity.comparator ad: how much it is is not said", "Observation", `,"valueQuantity":{"value":5,"comparator":"ad"}`, meets{yes: []string{v[:len(v)-1] + ":missing=false"}, no: []string{v + "gt0", v + "lt9", v + "ne1", v + "5"}}},
		// The other types that quantity parameters read.
		{"Range: its unit is that of its ends", "Condition", `,"onsetRange":{"low":{"value":2,"system":"` + u + `","code":"wk"},"high":{"value":3,"system":"` + u + `","code":"wk"}}`, meets{yes: []string{"onset-age=gt20|" + u + "|d", "onset-age=ge21|" + u + "|d", "onset-age=sa13|" + u + "|d"}, no: []string{"onset-age=gt21|" + u + "|d", "onset-age=sa14|" + u + "|d"}}},
		{"Range: one end without a unit has that of the other", "Condition", `,"onsetRange":{"low":{"value":2},"high":{"value":3,"system":"` + u + `","code":"wk"}}`, meets{yes: []string{"onset-age=gt20|" + u + "|d"}}},
		{"Range: ends in different units are none", "Condition", `,"onsetRange":{"low":{"value":2,"system":"` + u + `","code":"d"},"high":{"value":3,"system":"` + u + `","code":"wk"}}`, meets{yes: []string{"onset-age:missing=false"}, no: []string{"onset-age=gt0", "onset-age=ne1|" + u + "|d"}}},
		{"Age", "Condition", `,"onsetAge":{"value":2,"system":"` + u + `","code":"a"}`, meets{yes: []string{"onset-age=24|" + u + "|mo", "onset-age=2|" + u + "|a", "onset-age=gt1"}, no: []string{"onset-age=gt24|" + u + "|mo"}}},
		{"Money: the currency is its code", "Invoice", `,"totalGross":{"value":10.00,"currency":"EUR"}`, meets{yes: []string{"totalgross=10|urn:iso:std:iso:4217|EUR", "totalgross=10||EUR", "totalgross=gt9"}, no: []string{"totalgross=10||USD", "totalgross=10|" + u + "|EUR"}}},
		{"SampledData: the bounds of its values", "Observation", `,"valueSampledData":{"origin":{"value":2,"system":"` + u + `","code":"mV"},"factor":2,"data":"1 E -4 8 3 U L","upperLimit":30,"lowerLimit":-20}`, meets{yes: []string{v + "gt0.029|" + u + "|V", v + "lt-0.019|" + u + "|V", v + "ge30||mV"}, no: []string{v + "gt0.030|" + u + "|V", v + "lt-0.020|" + u + "|V"}}},
		{"a + that was not encoded arrives as a space", "Observation", quantityOf("100", u, "mg"), meets{yes: []string{v + "1.0e+2|" + u + "|mg"}}},
		{"system and code with escapes", "Observation", quantityOf("1", `http://a|b`, `c,d`), meets{yes: []string{v + `1|http://a\|b|c\,d`}, no: []string{v + `1|http://a\|b|c`}}},
	})
}

// Units that records have often are read once: a resource with them costs no allocation.
func TestQuantitiesAllocateNothingInSteadyState(t *testing.T) {
	d := local()
	const u = "http://unitsofmeasure.org"
	r := resource(t, d, `{"resourceType":"Observation"`+quantityOf("98.6", u, "[degF]")+`,"component":[{"valueQuantity":{"value":5500,"system":"`+u+`","code":"mg"}}]}`)
	tree := r.Tree()
	met, not := compiled(t, d, "Observation?value-quantity=ge37|"+u+"|Cel&combo-value-quantity=gt5.4|"+u+"|g"), compiled(t, d, "Observation?value-quantity=gt1|"+u+"|g,9|"+u+"|K")
	if n := testing.AllocsPerRun(100, func() {
		r.Reset(tree, Envelope{})
		if !met.Match(r) || not.Match(r) {
			t.Fatal("wrong")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What a worker remembers of units is bounded, and decides nothing.
func TestUnitsOfHostileResourcesAreForgotten(t *testing.T) {
	d := local()
	const u = "http://unitsofmeasure.org"
	var body strings.Builder
	body.WriteString(`{"resourceType":"Observation","component":[`)
	for i := range 5000 {
		fmt.Fprintf(&body, `{"valueQuantity":{"value":1,"system":%q,"code":"mg{%d}"}},`, u, i)
	}
	body.WriteString(`{"valueQuantity":{"value":5500,"system":"` + u + `","code":"mg"}}]}`)
	tree, err := json.Parse([]byte(body.String()), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := NewResource(d, tree)
	c := compiled(t, d, "Observation?component-value-quantity=gt5.4|"+u+"|g")
	for range 3 {
		r.Reset(tree, Envelope{})
		if !c.Match(r) {
			t.Error("no match")
		}
	}
	if len(r.measures) > keptMeasures {
		t.Errorf("%d units are kept", len(r.measures))
	}
	m := r.measure([]byte(u), []byte("mg"))
	for i := range 5000 {
		compiled(t, d, fmt.Sprintf("Observation?value-quantity=1|%s|g{%d}", u, i)).Match(resource(t, d, `{"resourceType":"Observation"`+quantityOf("1", u, "mg")+`}`))
		w, err := (&compiler{definitions: d, param: d.types["Observation"].params["value-quantity"]}).amount(fmt.Sprintf("1|%s|g{%d}", u, i))
		if err != nil || m.to(w.code, w.measure) == nil {
			t.Fatal(err)
		}
	}
	if len(m.relations) > keptRelations {
		t.Errorf("%d relations are kept", len(m.relations))
	}
}

// A conversion costs the same whether its unit is remembered or not, so that every node decides
// the same; and many of them run out of steps.
func TestConversionsAreCounted(t *testing.T) {
	d := local()
	const u = "http://unitsofmeasure.org"
	var body strings.Builder
	body.WriteString(`{"resourceType":"Observation","component":[`)
	for i := range 60000 {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"valueQuantity":{"value":1,"system":%q,"code":"mg{%d}"}}`, u, i)
	}
	body.WriteString(`]}`)
	tree, err := json.Parse([]byte(body.String()), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	c := compiled(t, d, "Observation?component-value-quantity=gt5.4|"+u+"|g")
	r := NewResource(d, tree)
	for range 2 {
		r.Reset(tree, Envelope{})
		if met, err := c.Decide(r); met || err != ErrTooCostly {
			t.Errorf("%v %v", met, err)
		}
	}
	small := resource(t, d, `{"resourceType":"Observation"`+quantityOf("5500", u, "mg")+`}`)
	first := compiled(t, d, "Observation?value-quantity=gt5.4|"+u+"|g")
	var work [3]uint64
	for i := range work {
		small.Reset(small.Tree(), Envelope{})
		before := small.Work()
		first.Match(small)
		work[i] = small.Work() - before
	}
	if work[0] != work[1] || work[1] != work[2] {
		t.Errorf("the same evaluation costs %v", work)
	}
}

func BenchmarkQuantity(b *testing.B) {
	d := local()
	const u = "http://unitsofmeasure.org"
	for name, q := range map[string]string{"same unit": "gt5.4|" + u + "|mg", "converted": "gt5.4|" + u + "|g", "with offset": "gt5.4|" + u + "|Cel"} {
		body := quantityOf("5500", u, "mg")
		if name == "with offset" {
			body = quantityOf("98.6", u, "[degF]")
		}
		r := resource(b, d, `{"resourceType":"Observation"`+body+`}`)
		c := compiled(b, d, "Observation?value-quantity="+q)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !c.Match(r) {
					b.Fatal("no match")
				}
			}
		})
	}
}

// Conversions say what exact rational arithmetic says.
func TestConvertedQuantitiesCompareExactly(t *testing.T) {
	families := [][]string{{"mg", "g", "kg", "[lb_av]", "ug", "10.mg"}, {"Cel", "[degF]", "K", "mK", "[degRe]"}, {"/min", "/s", "Hz", "/h", "/(7.d)"},
		{"mm[Hg]", "kPa", "cm[H2O]", "[psi]"}, {"deg", "rad", "[pi].rad"}, {"mmol/L", "mol/m3", "nmol/mL"}}
	number := rapid.StringMatching(`-?[0-9]{1,12}(\.[0-9]{1,12})?([eE]-?[0-9])?`)
	r := resource(t, local(), `{"resourceType":"Observation"}`)
	c := &compiler{definitions: local(), param: local().types["Observation"].params["value-quantity"]}
	rapid.Check(t, func(t *rapid.T) {
		units := rapid.SampledFrom(families).Draw(t, "family")
		from, to := rapid.SampledFrom(units).Draw(t, "from"), rapid.SampledFrom(units).Draw(t, "to")
		value, wanted := number.Draw(t, "value"), number.Draw(t, "wanted")
		have, err := ucum.Parse(from)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ucum.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		v, _ := parseDecimal([]byte(value))
		a := amount{lo: v, hi: v, system: []byte(ucum.System), code: []byte(from), measure: r.measure([]byte(ucum.System), []byte(from))}
		for op, holds := range map[string]func(c int) bool{
			"gt": func(c int) bool { return c > 0 }, "lt": func(c int) bool { return c < 0 }, "ge": func(c int) bool { return c >= 0 },
			"le": func(c int) bool { return c <= 0 }, "sa": func(c int) bool { return c > 0 }, "eb": func(c int) bool { return c < 0 },
		} {
			w, err := c.amount(op + wanted + "|" + ucum.System + "|" + to)
			if err != nil {
				t.Fatal(err)
			}
			order, err := ucum.Compare(v.apd(), have, w.exact.apd(), want)
			if err != nil {
				t.Fatal(err)
			}
			if w.match(&a) != holds(order) {
				t.Errorf("%s %s is %s%s %s: %v", value, from, op, wanted, to, w.match(&a))
			}
		}
		w, err := c.amount(wanted + "|" + ucum.System + "|" + to)
		if err != nil {
			t.Fatal(err)
		}
		low, err1 := ucum.Compare(v.apd(), have, w.lo.apd(), want)
		high, err2 := ucum.Compare(v.apd(), have, w.hi.apd(), want)
		if err1 != nil || err2 != nil || w.match(&a) != (low >= 0 && high < 0) {
			t.Errorf("%s %s is %s %s: %v (%v %v)", value, from, wanted, to, w.match(&a), err1, err2)
		}
	})
}
