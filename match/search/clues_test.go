package search

import (
	"fmt"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

func TestCluesNameWhatAnIndexFindsAllMatchesBy(t *testing.T) {
	defs := R4().WithBaseURLs("https://h.example/fhir").WithRepository()
	for criteria, want := range map[string]string{
		"Patient?_id=a,b":                                       "[{[a b] [] []}]",
		"Patient?identifier=urn:x|1,2":                          "[{[] [{urn:x 1} { 2}] []}]",
		"Patient?identifier=|2":                                 "[{[] [{ 2}] []}]",
		"Observation?subject=Patient/p,Group/g/_history/3":      "[{[] [] [Patient/p Group/g]}]",
		"Observation?subject:Patient=p":                         "[{[] [] [Patient/p]}]",
		"Observation?subject=https://h.example/fhir/Patient/p":  "[{[] [] [Patient/p]}]",
		"Observation?subject=https://other.example/f/Patient/p": "[{[] [] [Patient/p]}]",
		"Observation?patient=p":                                 "[{[] [] [Group/p Patient/p]}]",
		"Observation?subject=p":                                 "[{[] [] [Device/p Group/p Location/p Patient/p]}]",
		"Observation?patient=p&status=final&_id=o":              "[{[] [] [Group/p Patient/p]} {[o] [] []}]",
		// what an index would not find all of
		"Observation?status=final":                        "[]",
		"Patient?identifier=urn:x|":                       "[]",
		"Patient?identifier:not=1":                        "[]",
		"Patient?identifier:missing=true":                 "[]",
		"Observation?subject=Patient/p,urn:uuid:1":        "[]",
		"Observation?subject:identifier=urn:x|1":          "[]",
		"Observation?subject:Patient.family=a":            "[]",
		"Observation?subject:missing=true":                "[]",
		"Observation?_filter=subject eq Patient/p":        "[]",
		"Patient?_has:Observation:patient:code=1":         "[]",
		"DocumentReference?identifier=1":                  "[]", // masterIdentifier as well
		"Bundle?composition=Composition/1":                "[]", // the resource itself
		"Provenance?target=p":                             "[]", // of any type
		"PlanDefinition?composed-of=http://x.example/p|1": "[]",
	} {
		c, err := defs.Compile(criteria)
		if err != nil {
			t.Errorf("%s: %v", criteria, err)
			continue
		}
		if got := fmt.Sprint(c.Clues()); got != want {
			t.Errorf("%s: %s, want %s", criteria, got, want)
		}
	}
}

func TestLinksAreTheResourcesOfThisServerThatAParameterLeadsTo(t *testing.T) {
	defs := R4().WithBaseURLs("https://h.example/fhir")
	tree, err := json.Parse([]byte(`{"resourceType":"Observation","contained":[{"resourceType":"Patient","id":"c"}],
		"subject":{"reference":"https://h.example/fhir/Patient/p"},
		"performer":[{"reference":"Practitioner/d/_history/7"},{"reference":"https://other.example/fhir/Practitioner/d"},{"reference":"#c"},{"display":"x"},{"reference":"Organization/o"}]}`), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := NewResource(defs, tree)
	for param, want := range map[string]string{
		"subject": "[Patient/p]", "patient": "[Patient/p]", "performer": "[Practitioner/d Organization/o]",
		"encounter": "[]", "code": "[]", "nonsense": "[]",
	} {
		if got := fmt.Sprint(r.Links(param)); got != want {
			t.Errorf("%s leads to %s, want %s", param, got, want)
		}
	}
	if _, ok := defs.Reference("Observation", "code"); ok || len(defs.References("Nothing")) != 0 || defs.Parameters("Nothing") != nil {
		t.Error("there are references that there are not")
	}
	if targets, ok := defs.Reference("Observation", "patient"); !ok || fmt.Sprint(targets) != "[Group Patient]" {
		t.Errorf("patient refers to %v", targets)
	}
}

// Every parameter that is listed compiles, and every one that compiles with :missing is listed.
func TestParametersListsWhatCompiles(t *testing.T) {
	defs := R4()
	for _, typ := range defs.Types() {
		listed := map[string]bool{}
		for _, p := range defs.Parameters(typ) {
			listed[p.Code] = true
			if _, known := kinds[p.Type]; !known {
				t.Errorf("%s %s is of type %q", typ, p.Code, p.Type)
			}
		}
		for code := range defs.types[typ].params {
			if _, err := defs.Compile(typ + "?" + code + ":missing=true"); (err == nil) && !listed[code] {
				t.Errorf("%s %s compiles and is not listed", typ, code)
			}
		}
	}
}
