package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

const inputs = "../../definitions"

func TestTheTablesAreWhatTheInputsGive(t *testing.T) {
	for _, v := range fhir.Versions() {
		want, err := generate(inputs, v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(inputs, file(v)))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("definitions/%s is out of date: run go generate in match/search", file(v))
		}
	}
}

// Every parameter has a path, but for those that HL7 publishes without an expression, and two
// whose expression is not what the parameter means.
func TestEveryParameterWithAnExpressionIsCovered(t *testing.T) {
	extensions := []string{"codesystem-extensions-CodeSystem-author", "codesystem-extensions-CodeSystem-effective",
		"codesystem-extensions-CodeSystem-end", "codesystem-extensions-CodeSystem-keyword",
		"codesystem-extensions-CodeSystem-workflow", "patient-extensions-Patient-age",
		"patient-extensions-Patient-birthOrderBoolean", "valueset-extensions-ValueSet-author",
		"valueset-extensions-ValueSet-effective", "valueset-extensions-ValueSet-end",
		"valueset-extensions-ValueSet-keyword", "valueset-extensions-ValueSet-workflow"}
	for v, own := range map[fhir.Version][]string{
		fhir.R4: append([]string{"DomainResource-text", "Location-near", "Resource-content", "Resource-query", "filter"}, extensions...),
		fhir.R4B: append([]string{"DomainResource-text", "Location-near", "Resource-content", "Resource-filter", "Resource-has",
			"Resource-list", "Resource-query", "Resource-text", "Resource-type", "filter"}, extensions...),
		fhir.R5: {"DomainResource-text", "ImagingStudy-reason", "Location-near", "Medication-form",
			"MedicationKnowledge-packaging-cost", "MedicationKnowledge-packaging-cost-concept", "Resource-content", "Resource-filter",
			"Resource-has", "Resource-in", "Resource-list", "Resource-query", "Resource-text", "Resource-type", "filter"},
	} {
		in, err := load(inputs, v)
		if err != nil {
			t.Fatal(err)
		}
		var bare []string
		count := 0
		for _, p := range in.parameters {
			used := false
			for _, typ := range in.types {
				if !in.applies(p, typ) {
					continue
				}
				line, err := in.line(p, typ)
				if err != nil {
					t.Errorf("%s of %s: %v", p.ID, typ.Name, err)
				}
				used = used || !strings.HasSuffix(line, " -")
			}
			if used {
				count++
			} else {
				bare = append(bare, p.ID)
			}
		}
		t.Logf("%s: %d parameters covered, %d not", v, count, len(bare))
		slices.Sort(bare)
		slices.Sort(own)
		if !slices.Equal(bare, own) {
			t.Errorf("%s without a path: %v", v, bare)
		}
	}
}
