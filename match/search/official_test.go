package search

import (
	stdjson "encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// HL7's own SearchParameters, under URLs of somebody else and so defined anew at run time, mean
// what the generated tables say. The few that are refused are those whose expressions are not
// what they mean.
func TestOfficialParametersCanBeDefinedAnew(t *testing.T) {
	refused := map[fhir.Version][]string{}
	for _, v := range fhir.Versions() {
		d := For(v)
		var bodies [][]byte
		var of []searchParameter
		for _, sp := range officialParameters(t, v) {
			if sp.Expression == "" || sp.Code[0] == '_' || sp.Type == "special" {
				continue
			}
			sp.URL = "http://example.org/sp/" + strings.TrimPrefix(sp.URL, officialURL)
			sp.XPathUsage, sp.ProcessingMode = "", ""
			body, err := stdjson.Marshal(sp)
			if err != nil {
				t.Fatal(err)
			}
			bodies, of = append(bodies, body), append(of, sp)
		}
		own, errs := d.WithParameters(bodies...)
		for i, err := range errs {
			if err != nil {
				refused[v] = append(refused[v], strings.TrimPrefix(of[i].URL, "http://example.org/sp/"))
			}
		}
		k := newMaker(v)
		var tree json.Tree
		r := NewResource(own, nil)
		same := 0
		for _, name := range d.names {
			k.variant = 3
			if err := tree.Parse(k.resource(name), json.Limits{}); err != nil {
				t.Fatal(err)
			}
			r.Reset(&tree, Envelope{})
			for code, p := range d.types[name].params {
				q := own.types[name].params[code]
				if q == p || q == nil {
					continue
				}
				got, present, _ := read(r, q)
				want, expected, _ := read(r, p)
				if present != expected || !slices.Equal(got, want) {
					t.Errorf("%s %s?%s: %q (%v), and built in %q (%v)", v, name, code, got, present, want, expected)
				}
				same++
			}
		}
		if t.Logf("%s: %d refused, %d the same", v, len(refused[v]), same); same < 1700 {
			t.Errorf("%s: too few to compare", v)
		}
	}
	for v, want := range map[fhir.Version][]string{
		fhir.R4:  {"DocumentReference-relationship", "Observation-code-value-date"},
		fhir.R4B: {"DocumentReference-relationship", "Ingredient-manufacturer", "Observation-code-value-date"},
		fhir.R5: {"Composition-section-code-text", "Device-code-value-concept", "DeviceDefinition-specification-version",
			"DocumentReference-relationship", "Encounter-location-period", "Ingredient-strength-concentration-ratio",
			"Ingredient-strength-presentation-ratio", "MetadataResource-topic", "Observation-code-value-string",
			"Observation-component-value-canonical", "Observation-value-canonical", "Observation-value-markdown",
			"ResearchStudy-progress-status-state-actual", "ResearchStudy-progress-status-state-period",
			"ResearchStudy-progress-status-state-period-actual", "TestScript-scope-artifact-conformance",
			"TestScript-scope-artifact-phase", "clinical-date"},
	} {
		slices.Sort(refused[v])
		if !slices.Equal(refused[v], want) {
			t.Errorf("%s refuses %q", v, refused[v])
		}
	}
}

func FuzzParameter(f *testing.F) {
	for _, s := range []string{parameter("x", "Patient", "token", "Patient.name.where(use = 'official' and period.exists()).use", ""),
		parameter("x", "Observation,Patient", "composite", "Observation.component", `,"component":[{"definition":"http://hl7.org/fhir/SearchParameter/clinical-code","expression":"code"},{"definition":"http://hl7.org/fhir/SearchParameter/clinical-code","expression":"%resource.code"}]`),
		parameter("x", "Resource", "date", "Patient.birthDate | Observation.effective", `,"comparator":["gt"],"multipleOr":false`)} {
		f.Add(s)
	}
	tree, err := json.Parse([]byte(ana), json.Limits{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		// A place of its own: meanings are never forgotten.
		table, err := parseTable(fhir.R4, "Patient\n name string name:HumanName\nObservation\n code token code:CodeableConcept\n")
		if err != nil {
			t.Fatal(err)
		}
		d, errs := table.WithParameters([]byte(body))
		if e := fhir.AsError(errs[0]); errs[0] != nil && (e == nil || len(e.Issues) == 0 || e.Issues[0].Diagnostics == "") {
			t.Fatalf("%q: %v", body, errs[0])
		}
		r := NewResource(d, tree)
		for code, p := range d.types["Patient"].params {
			if c, err := d.Compile("Patient?" + code + "=" + plausibleValue(p)); err == nil {
				met, err := c.Decide(r)
				if again, err2 := c.Decide(r); again != met || err != err2 {
					t.Fatalf("%q: decided twice in two ways", body)
				}
			}
		}
	})
}
