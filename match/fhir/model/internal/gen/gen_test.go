package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

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
