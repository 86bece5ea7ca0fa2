package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

func TestElementsAreInTheOrderOfTheirStructureDefinition(t *testing.T) {
	for _, v := range versions {
		in, err := read("../../definitions", v)
		if err != nil {
			t.Fatal(err)
		}
		m := model.For(fhir.Version(strings.ToUpper(v)))
		for name, typ := range in {
			want := map[string][]string{"": nil}
			for _, path := range typ.Elements.paths {
				parent, last := cut(path)
				want[parent] = append(want[parent], strings.TrimSuffix(last, "[x]"))
			}
			for parent, names := range want {
				var have []string
				for _, e := range m.Type(join(name, parent)).Elements() {
					have = append(have, e.Name)
				}
				if typ.Kind != "primitive-type" && !slices.Equal(have, names) {
					t.Errorf("%s %s has %v, want %v", v, join(name, parent), have, names)
				}
			}
		}
	}
}

func TestTablesAreWhatTheInputsGive(t *testing.T) {
	for _, v := range versions {
		dir := filepath.Join("..", "..", "definitions")
		want, err := generate(dir, v)
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(filepath.Join(dir, v+".table.gz"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, have) {
			t.Errorf("%s.table.gz is out of date: run go generate ./match/fhir/model", v)
		}
	}
}
