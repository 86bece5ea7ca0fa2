// Command gen makes the tables of search parameters that package search embeds, one for each
// FHIR version.
//
// It is run by "go generate" in match/search and reads the definitions that HL7 publishes,
// which lie in match/search/definitions. A test in this package fails when a table there is
// not what the inputs give.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

func main() {
	dir := "definitions"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	failed := false
	for _, v := range fhir.Versions() {
		out, err := generate(dir, v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file(v)), out, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "gen: %s: %v\n", v, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// file is the name of a version's table.
func file(v fhir.Version) string { return strings.ToLower(string(v)) + ".table" }

// generate makes the table of a version out of the inputs in dir.
func generate(dir string, v fhir.Version) ([]byte, error) {
	in, err := load(dir, v)
	if err != nil {
		return nil, err
	}
	return in.table()
}

// input is what the definitions say.
type input struct {
	version    fhir.Version
	model      *model.Model
	parameters []parameter
	byURL      map[string]parameter
	types      []*model.Type // the concrete resource types
}

// parameter is the part of a SearchParameter that counts.
type parameter struct {
	ID         string   `json:"id"`
	URL        string   `json:"url"`
	Code       string   `json:"code"`
	Base       []string `json:"base"`
	Type       string   `json:"type"`
	Expression string   `json:"expression"`
	Target     []string `json:"target"`
	Component  []struct {
		Definition string `json:"definition"`
		Expression string `json:"expression"`
	} `json:"component"`
}

func load(dir string, v fhir.Version) (*input, error) {
	var bundle struct {
		Entry []struct {
			Resource parameter `json:"resource"`
		} `json:"entry"`
	}
	name := "search-parameters-" + strings.ToLower(string(v)) + ".json.gz"
	if err := read(filepath.Join(dir, name), &bundle); err != nil {
		return nil, err
	}
	in := &input{version: v, model: model.For(v), byURL: map[string]parameter{}}
	for _, e := range bundle.Entry {
		in.parameters = append(in.parameters, e.Resource)
		in.byURL[e.Resource.URL] = e.Resource
	}
	for _, name := range in.model.Types() {
		if t := in.model.Type(name); t.Kind == model.Resource && !t.Abstract {
			in.types = append(in.types, t)
		}
	}
	return in, nil
}

func read(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
