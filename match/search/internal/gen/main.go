// Command gen makes the table of search parameters that package search embeds.
//
// It is run by "go generate" in match/search and reads the definitions that HL7 publishes,
// which lie in match/search/definitions. A test in this package fails when the table there is
// not what the inputs give.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := "definitions"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	out, err := generate(dir)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "r4.table"), out, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// generate makes the table out of the inputs in dir.
func generate(dir string) ([]byte, error) {
	in, err := load(dir)
	if err != nil {
		return nil, err
	}
	return in.table()
}

// input is what the definitions say.
type input struct {
	parameters []parameter
	model      map[string]typeModel
	types      []string // the concrete resource types
}

// parameter is the part of a SearchParameter that counts.
type parameter struct {
	ID         string   `json:"id"`
	Code       string   `json:"code"`
	Base       []string `json:"base"`
	Type       string   `json:"type"`
	Expression string   `json:"expression"`
	Target     []string `json:"target"`
}

// typeModel lists the elements of a type by their path within it.
type typeModel struct {
	Base     string             `json:"base"`
	Elements map[string]element `json:"elements"`
}

type element struct {
	Types []string `json:"types"`
	Ref   string   `json:"ref"` // the element whose content this one has, as Type.path
}

func load(dir string) (*input, error) {
	var bundle struct {
		Entry []struct {
			Resource parameter `json:"resource"`
		} `json:"entry"`
	}
	var model struct {
		Types map[string]typeModel `json:"types"`
	}
	in := new(input)
	for name, into := range map[string]any{
		"search-parameters-r4.json.gz": &bundle,
		"type-model-r4.json.gz":        &model,
		"resource-types-r4.json":       &in.types,
	} {
		if err := read(filepath.Join(dir, name), into); err != nil {
			return nil, err
		}
	}
	for _, e := range bundle.Entry {
		in.parameters = append(in.parameters, e.Resource)
	}
	in.model = model.Types
	return in, nil
}

func read(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if filepath.Ext(path) != ".gz" {
		return json.Unmarshal(data, into)
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
