package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const inputs = "../../definitions"

func TestTheTableIsWhatTheInputsGive(t *testing.T) {
	want, err := generate(inputs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(inputs, "r4.table"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("definitions/r4.table is out of date: run go generate in match/search")
	}
}

// Every parameter of a kind that criteria may use has a path, but for those that HL7 publishes
// without an expression.
func TestEveryParameterWithAnExpressionIsCovered(t *testing.T) {
	in, err := load(inputs)
	if err != nil {
		t.Fatal(err)
	}
	var bare []string
	count := 0
	for _, p := range in.parameters {
		if p.Type == "composite" || p.Type == "special" {
			continue
		}
		used := false
		for _, typ := range in.types {
			if !in.applies(p, typ) {
				continue
			}
			line, err := in.line(p, typ)
			if err != nil {
				t.Errorf("%s of %s: %v", p.ID, typ, err)
			}
			used = used || !strings.HasSuffix(line, " -")
		}
		if used {
			count++
		} else {
			bare = append(bare, p.ID)
		}
	}
	t.Logf("%d parameters covered, %d without an expression", count, len(bare))
	slices.Sort(bare)
	want := []string{
		"DomainResource-text", "Resource-content", "Resource-query",
		"codesystem-extensions-CodeSystem-author", "codesystem-extensions-CodeSystem-effective",
		"codesystem-extensions-CodeSystem-end", "codesystem-extensions-CodeSystem-keyword",
		"codesystem-extensions-CodeSystem-workflow", "patient-extensions-Patient-age",
		"patient-extensions-Patient-birthOrderBoolean", "valueset-extensions-ValueSet-author",
		"valueset-extensions-ValueSet-effective", "valueset-extensions-ValueSet-end",
		"valueset-extensions-ValueSet-keyword", "valueset-extensions-ValueSet-workflow",
	}
	if !slices.Equal(bare, want) {
		t.Errorf("without a path: %v", bare)
	}
}

func TestExpressionsBecomePaths(t *testing.T) {
	in, err := load(inputs)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ typ, kind, expr, want string }{
		{"Patient", "string", "Patient.name.given", "name.given:string"},
		{"Patient", "token", "Person.identifier | Patient.identifier", "identifier:Identifier"},
		{"Patient", "token", "Resource.id", "id:id"},
		{"Patient", "token", "Patient.telecom.where(system='email')", "telecom[system='email']:ContactPoint"},
		{"Patient", "date", "(Patient.deceased as dateTime)", "deceasedDateTime:dateTime"},
		{"Condition", "date", "Condition.onset.as(dateTime) | Condition.onset.as(Period)", "onsetDateTime:dateTime|onsetPeriod:Period"},
		{"Observation", "string", "(Observation.value as CodeableConcept).text", "valueCodeableConcept.text:string"},
		{"Observation", "reference", "Observation.subject.where(resolve() is Patient)", "subject[is Patient]:Reference"},
		{"Bundle", "reference", "Bundle.entry[0].resource", "entry[0].resource:Resource"},
		{"Observation", "quantity", "Observation.component.value as Quantity", "component.valueQuantity:Quantity"},
		{"InsurancePlan", "string", "name | alias", "name:string|alias:string"},
		{"CodeSystem", "token", "CodeSystem.concept.concept.code", "concept.concept.code:code"},
	} {
		var got []string
		for _, b := range split(c.expr) {
			paths, err := in.branch(b, c.kind, c.typ)
			if err != nil {
				t.Errorf("%s: %v", c.expr, err)
			}
			got = append(got, paths...)
		}
		if g := strings.Join(got, "|"); g != c.want {
			t.Errorf("%s: got %s, want %s", c.expr, g, c.want)
		}
	}
	for _, bad := range []string{"Patient.nope", "Patient.name.first()", "Patient.name.where(use != 'old')",
		"Patient.name[0", "Patient.photo", "Patient.deceased.where(x='y')"} {
		if got, err := in.branch(bad, "string", "Patient"); err == nil {
			t.Errorf("%s: got %v", bad, got)
		}
	}
}
