package model

import (
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func TestEveryVersionHasItsTypes(t *testing.T) {
	concrete := map[fhir.Version]int{fhir.R4: 146, fhir.R4B: 141, fhir.R5: 158}
	for _, v := range fhir.Versions() {
		m, n := For(v), 0
		for _, name := range m.Types() {
			if x := m.Type(name); x.Kind == Resource && !x.Abstract {
				n++
				if !x.Is("Resource") || x.Element("id") == nil || x.Element("meta") == nil {
					t.Errorf("%s: %s does not inherit from Resource", v, name)
				}
			}
		}
		if n != concrete[v] {
			t.Errorf("%s has %d resource types, want %d", v, n, concrete[v])
		}
	}
	if For("R3") != nil {
		t.Error("R3 is not known and has a model")
	}
}

func TestMembersLeadToElementsAndTypes(t *testing.T) {
	for _, x := range []struct {
		v                    fhir.Version
		typ, key             string
		element, typeOfValue string
		many                 bool
	}{
		{fhir.R4, "Observation", "valueQuantity", "value", "Quantity", false},
		{fhir.R4, "Observation", "component", "component", "Observation.component", true},
		{fhir.R4, "Observation.component", "valueQuantity", "value", "Quantity", false},
		{fhir.R4, "Observation.component", "referenceRange", "referenceRange", "Observation.referenceRange", true},
		{fhir.R4, "Observation.component", "extension", "extension", "Extension", true},
		{fhir.R4, "Observation", "id", "id", "id", false},
		{fhir.R4, "HumanName", "id", "id", "string", false},
		{fhir.R4, "Age", "value", "value", "decimal", false},
		{fhir.R4, "Extension", "valueCodeableConcept", "value", "CodeableConcept", false},
		{fhir.R4, "Bundle.entry", "link", "link", "Bundle.link", true},
		{fhir.R4B, "SubscriptionTopic", "resourceTrigger", "resourceTrigger", "SubscriptionTopic.resourceTrigger", true},
		{fhir.R5, "Subscription", "filterBy", "filterBy", "Subscription.filterBy", true},
		{fhir.R5, "Observation", "instantiatesCanonical", "instantiates", "canonical", false},
		{fhir.R5, "ValueSet", "url", "url", "uri", false},
		{fhir.R4, "Observation", "value", "", "", false},
		{fhir.R4, "Observation", "_status", "", "", false},
	} {
		e, typ := For(x.v).Type(x.typ).Member(x.key)
		if e == nil || typ == nil {
			if x.element != "" {
				t.Errorf("%s %s has no member %s", x.v, x.typ, x.key)
			}
			continue
		}
		if e.Name != x.element || typ.Name != x.typeOfValue || e.Many != x.many || e.Key(typ) != x.key {
			t.Errorf("%s %s.%s is %s (%s), repeats %v; want %s (%s), %v", x.v, x.typ, x.key, e.Name, typ.Name, e.Many, x.element, x.typeOfValue, x.many)
		}
	}
}

func TestTypesKnowTheirAncestorsAndTargets(t *testing.T) {
	m := For(fhir.R4)
	if !m.Type("Age").Is("Quantity") || !m.Type("Age").Is("Element") || m.Type("Quantity").Is("Age") {
		t.Error("an Age is a Quantity, not the other way round")
	}
	if !m.Type("code").Is("string") || m.Type("code").Kind != Primitive {
		t.Error("a code is a string and a primitive")
	}
	subject := m.Type("Observation").Element("subject")
	if len(subject.Targets) != 4 {
		t.Errorf("Observation.subject refers to %v", subject.Targets)
	}
	seen := map[string]bool{}
	for _, e := range m.Type("Patient").Elements() {
		if seen[e.Name] {
			t.Errorf("Patient.%s is listed twice", e.Name)
		}
		seen[e.Name] = true
	}
	if !seen["id"] || !seen["extension"] || !seen["deceased"] {
		t.Error("Patient's elements lack inherited or own ones")
	}
}

func BenchmarkRead(b *testing.B) {
	for b.Loop() {
		if _, err := read(fhir.R5, r5Table); err != nil {
			b.Fatal(err)
		}
	}
}
