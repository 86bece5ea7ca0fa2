package fhirpath

import (
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// observation is a resource of the size that records hold.
const observation = `{"resourceType":"Observation","id":"f001","meta":{"versionId":"2","lastUpdated":"2026-03-01T08:00:00Z"},
"identifier":[{"use":"official","system":"http://www.bmc.nl/zorgportal/identifiers/observations","value":"6323"}],
"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],
"code":{"coding":[{"system":"http://loinc.org","code":"15074-8","display":"Glucose [Moles/volume] in Blood"}]},
"subject":{"reference":"Patient/f001","display":"P. van de Heuvel"},"effectivePeriod":{"start":"2013-04-02T09:30:10+01:00"},
"issued":"2013-04-03T15:30:10+01:00","performer":[{"reference":"Practitioner/f005","display":"A. Langeveld"}],
"valueQuantity":{"value":6.3,"unit":"mmol/l","system":"http://unitsofmeasure.org","code":"mmol/L"},
"interpretation":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation","code":"H"}]}]}`

func parsed(t testing.TB, body string) *json.Tree {
	t.Helper()
	tree, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func compiled(t testing.TB, expr string, o Options) *Expression {
	t.Helper()
	e, err := Compile(expr, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// triggers are expressions as topics have them.
var triggers = []struct{ name, expr string }{
	{"status changes", "%previous.exists() implies %previous.status != %current.status"},
	{"status becomes", "(%previous.id.empty() or (%previous.status != 'final')) and (%current.status = 'final')"},
	{"value above", "%current.value.ofType(Quantity).value > 6.0"},
	{"code in list", "%current.code.coding.where(system = 'http://loinc.org' and code in ('1-8' | '15074-8')).exists()"},
	{"subject", "Observation.subject.where(resolve() is Patient).exists()"},
	{"quantity", "%current.value > 5 'mmol/L'"},
	{"quantity in another unit", "%current.value > 5 'umol/L'"},
	{"date", "%current.issued > @2013-01-01T00:00:00Z"},
}

func BenchmarkTest(b *testing.B) {
	current := parsed(b, observation)
	previous := parsed(b, observation)
	for _, x := range triggers {
		b.Run(x.name, func(b *testing.B) {
			e := compiled(b, x.expr, Options{Version: fhir.R4, Context: "Observation", Trigger: true, Strict: true})
			m := NewEvaluator()
			in := Input{Previous: previous, Current: current}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Test(e, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEvaluate(b *testing.B) {
	tree := parsed(b, observation)
	for _, expr := range []string{
		"Observation.status", "Observation.effective", "Observation.code.coding.code",
		"(Observation.value as Quantity) | (Observation.value as SampledData)", "descendants().count()",
	} {
		b.Run(expr, func(b *testing.B) {
			e := compiled(b, expr, Options{Version: fhir.R4, Context: "Observation", AsFilters: true})
			m := NewEvaluator()
			in := Input{Resource: tree}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Evaluate(e, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(triggers[0].expr, Options{Context: "Observation", Trigger: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTriggersCostNoMemory(t *testing.T) {
	in := Input{Previous: parsed(t, observation), Current: parsed(t, observation)}
	for _, x := range triggers {
		e := compiled(t, x.expr, Options{Context: "Observation", Trigger: true, Strict: true})
		m := NewEvaluator()
		if n := testing.AllocsPerRun(100, func() { m.Test(e, in) }); n != 0 {
			t.Errorf("%s: %v allocations", x.name, n)
		}
	}
}
