package search

import (
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// plausible is a value of each kind.
var plausible = map[kind]string{kindToken: "true", kindString: "a", kindReference: "1", kindDate: "ge2020", kindNumber: "5",
	kindQuantity: "lt5||mg", kindURI: "http://x", kindSpecial: "words"}

// plausibleValue is a value that suits a parameter.
func plausibleValue(p *param) string {
	if p.view == viewArea {
		return "42.3|-83.7"
	}
	if p.kind != kindComposite {
		return plausible[p.kind]
	}
	var parts []string
	for _, x := range p.parts {
		parts = append(parts, plausible[x.kind])
	}
	return strings.Join(parts, "$")
}

// bare are the official parameters that HL7 publishes without an expression, or whose
// expression has no branch for one of their types. They are evaluated by their name or refused.
var bare = map[fhir.Version][]string{
	fhir.R4:  {"Patient?age", "Patient?birthOrderBoolean", "_content", "_filter", "_query", "_text", "near"},
	fhir.R4B: {"Patient?age", "Patient?birthOrderBoolean", "_content", "_filter", "_has", "_list", "_query", "_text", "_type", "near"},
	fhir.R5: {"CareTeam?date", "EvidenceVariable?topic", "ImagingStudy?reason", "Medication?form",
		"MedicationKnowledge?packaging-cost", "MedicationKnowledge?packaging-cost-concept",
		"_content", "_filter", "_has", "_in", "_list", "_query", "_text", "_type", "near"},
}

// A value of its kind compiles for every parameter that has an expression.
func TestEveryParameterCompiles(t *testing.T) {
	for _, v := range fhir.Versions() {
		d, n := For(v), 0
		var without []string
		for name, typ := range d.types {
			r := resource(t, d, `{"resourceType":"`+name+`"}`)
			for code, p := range typ.params {
				if p.paths == nil {
					if code[0] != '_' && code != "near" {
						code = name + "?" + code
					}
					without = append(without, code)
					continue
				}
				q := name + "?" + code + "=" + plausibleValue(p)
				c, err := d.Compile(q)
				if err != nil {
					t.Errorf("%s %s: %v", v, q, err)
					continue
				}
				n++
				if c.Match(r) {
					t.Errorf("%s %s: met by an empty resource", v, q)
				}
				if c = compiled(t, d, name+"?"+code+":missing=true"); !c.Match(r) && code != "deceased" {
					t.Errorf("%s %s:%s is not missing in an empty resource", v, name, code)
				}
			}
		}
		slices.Sort(without)
		if got := slices.Compact(without); !slices.Equal(got, bare[v]) {
			t.Errorf("%s without an expression: %v", v, got)
		}
		t.Logf("%s: %d parameters of %d types", v, n, len(d.types))
	}
}

func TestVersionsHaveTheirOwnTypes(t *testing.T) {
	for v, want := range map[fhir.Version]int{fhir.R4: 146, fhir.R4B: 141, fhir.R5: 158} {
		d := For(v)
		if n := len(d.Types()); n != want || d.Version() != v {
			t.Errorf("%s: %d types, version %s", v, n, d.Version())
		}
		_, err := d.Compile("Nope?_id=1")
		if err == nil || !strings.Contains(err.Error(), "of FHIR "+string(v)) {
			t.Errorf("%s: %v", v, err)
		}
	}
	if R4() != For(fhir.R4) || R4B() != For(fhir.R4B) || R5() != For(fhir.R5) || For("R3") != nil {
		t.Error("a version is found by its name, and no other")
	}
	for typ, in := range map[string][]bool{"DeviceUseStatement": {true, true, false}, "DeviceUsage": {false, false, true},
		"Citation": {false, true, true}, "CanonicalResource": {false, false, false}} {
		for i, v := range fhir.Versions() {
			if For(v).HasType(typ) != in[i] {
				t.Errorf("%s in %s: %v", typ, v, !in[i])
			}
		}
	}
}

// What a parameter means depends on the version.
func TestParametersDifferByVersion(t *testing.T) {
	const profile = `{"resourceType":"Patient","language":"de","meta":{"profile":["http://example.org/p|1.0"]},"deceasedDateTime":"2020"}`
	for _, c := range []struct {
		criteria string
		want     map[fhir.Version]bool // absent: it is refused there
		body     string
	}{
		{"Patient?_profile=http://example.org/p", map[fhir.Version]bool{fhir.R4: true, fhir.R4B: true, fhir.R5: true}, profile},
		{"Patient?_profile:identifier=x", nil, profile},
		{"Patient?deceased=true", map[fhir.Version]bool{fhir.R4: true, fhir.R4B: true, fhir.R5: true}, profile},
		{"Practitioner?deceased=true", map[fhir.Version]bool{fhir.R5: true}, `{"resourceType":"Practitioner","deceasedBoolean":true}`},
		// CodeableReference: the parameter's kind tells which half is read.
		{"MedicationRequest?medication=1", map[fhir.Version]bool{fhir.R4: false, fhir.R4B: false, fhir.R5: true},
			`{"resourceType":"MedicationRequest","medication":{"reference":{"reference":"Medication/1"}}}`},
		{"MedicationRequest?code=c", map[fhir.Version]bool{fhir.R4: false, fhir.R4B: false, fhir.R5: true},
			`{"resourceType":"MedicationRequest","medication":{"concept":{"coding":[{"code":"c"}]}}}`},
		// The first of what is there: Appointment's start, else what was asked for.
		{"Appointment?date=2020-05-05", map[fhir.Version]bool{fhir.R4: true, fhir.R4B: true, fhir.R5: true},
			`{"resourceType":"Appointment","start":"2020-05-05T10:00:00Z","requestedPeriod":[{"start":"2021-01-01"}]}`},
		{"Appointment?date=2021-01-01", map[fhir.Version]bool{fhir.R4: false, fhir.R4B: false, fhir.R5: false},
			`{"resourceType":"Appointment","start":"2020-05-05T10:00:00Z","requestedPeriod":[{"start":"2021-01-01"}]}`},
		{"Appointment?date=2022", map[fhir.Version]bool{fhir.R4: false, fhir.R4B: false, fhir.R5: false},
			`{"resourceType":"Appointment","requestedPeriod":[{"start":"2021-01-01"},{"start":"2022-01-01"}]}`},
		// Nothing to read where the extension would be.
		{"Ingredient?manufacturer=1", map[fhir.Version]bool{fhir.R4B: true, fhir.R5: true},
			`{"resourceType":"Ingredient","manufacturer":[{"manufacturer":{"reference":"Organization/1"}}]}`},
		// A resource that stands where a reference could.
		{"Bundle?composition=1", map[fhir.Version]bool{fhir.R4: true, fhir.R4B: true, fhir.R5: true},
			`{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Composition","id":"1"}}]}`},
		{"Bundle?composition=1", map[fhir.Version]bool{fhir.R4: false, fhir.R4B: true, fhir.R5: false}, // R4B names no target
			`{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"MessageHeader","id":"1"}}]}`},
	} {
		for _, v := range fhir.Versions() {
			d := For(v)
			want, known := c.want[v]
			criteria, err := d.Compile(c.criteria)
			if (err == nil) != known {
				t.Errorf("%s %s: %v", v, c.criteria, err)
				continue
			}
			if known && criteria.Match(resource(t, d, c.body)) != want {
				t.Errorf("%s %s of %s = %v", v, c.criteria, c.body, !want)
			}
		}
	}
}
