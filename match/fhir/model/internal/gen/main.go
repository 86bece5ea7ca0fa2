// Command gen makes the tables of types that package model embeds.
//
// It is run by "go generate" in match/fhir/model and reads the type models that lie in its
// definitions folder. A test in this package fails when a table is not what its input gives.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var versions = []string{"r4", "r4b", "r5"}

func main() {
	for _, v := range versions {
		table, err := generate("definitions", v)
		if err == nil {
			err = os.WriteFile(filepath.Join("definitions", v+".table.gz"), table, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "gen:", err)
			os.Exit(1)
		}
	}
}

// typeModel is a type as the input has it: its elements by their path within it.
type typeModel struct {
	Kind     string
	Abstract bool
	Base     string
	Elements elements
}

// elements are those of a type. Their order is that of the StructureDefinition, which is the
// order that FHIR's XML has them in.
type elements struct {
	paths  []string
	byPath map[string]element
}

// UnmarshalJSON reads an object and keeps the order of its members.
func (e *elements) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &e.byPath); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil { // {
		return err
	}
	for d.More() {
		path, err := d.Token()
		if err != nil {
			return err
		}
		e.paths = append(e.paths, path.(string)) // the key of an object is a string
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return err
		}
	}
	return nil
}

type element struct {
	Types   []string
	Targets []string
	Many    bool
	Ref     string // Type.path of the element whose content this one has
}

func (e element) equal(o element) bool {
	return e.Many == o.Many && e.Ref == o.Ref && slices.Equal(e.Types, o.Types) && slices.Equal(e.Targets, o.Targets)
}

// read reads the types of one version.
func read(dir, version string) (map[string]typeModel, error) {
	data, err := os.ReadFile(filepath.Join(dir, "type-model-"+version+".json.gz"))
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var in struct{ Types map[string]typeModel }
	err = json.NewDecoder(z).Decode(&in)
	return in.Types, err
}

// generate makes the table of one version, compressed.
func generate(dir, version string) ([]byte, error) {
	types, err := read(dir, version)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	fmt.Fprintf(w, "# Types of FHIR %s. Made by internal/gen; model.go says how it is written.\n", strings.ToUpper(version))
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if err := write(w, types, name); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", version, name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// write writes a type and the types of its nested elements.
func write(w *gzip.Writer, types map[string]typeModel, name string) error {
	t := types[name]
	kind, ok := map[string]string{"resource": "r", "complex-type": "c", "primitive-type": "p"}[t.Kind]
	if !ok {
		return fmt.Errorf("kind %q", t.Kind)
	}
	if t.Abstract {
		kind = strings.ToUpper(kind)
	}
	// nested are the paths that have elements of their own; the empty path is the type itself.
	nested := map[string][]string{"": nil}
	for _, path := range t.Elements.paths {
		parent, _ := cut(path)
		nested[parent] = append(nested[parent], path)
	}
	for _, parent := range slices.Sorted(maps.Keys(nested)) {
		base := t.Base
		if parent != "" {
			kind, base = "c", t.Elements.byPath[parent].Types[0]
		}
		fmt.Fprintf(w, "%s %s %s\n", join(name, parent), kind, base)
		if kind == "p" {
			continue // the value of a primitive is the primitive
		}
		for _, path := range nested[parent] {
			e := t.Elements.byPath[path]
			_, last := cut(path)
			if name == "Resource" && last == "id" {
				e.Types = []string{"id"} // R4 says string, its own text and later versions id
			}
			if has, ok := inherited(types, base, last); ok && has.equal(e) || ok && last == "id" {
				continue
			}
			writeElement(w, name, path, last, e, nested[path] != nil)
		}
	}
	return nil
}

func writeElement(w *gzip.Writer, typ, path, last string, e element, nested bool) {
	codes := e.Types
	switch {
	case nested:
		codes = []string{join(typ, path)}
	case e.Ref != "":
		codes = []string{e.Ref}
	}
	many := ""
	if e.Many {
		many = "*"
	}
	fmt.Fprintf(w, " %s%s %s", last, many, strings.Join(codes, "|"))
	if len(e.Targets) > 0 {
		fmt.Fprintf(w, " >%s", strings.Join(e.Targets, ","))
	}
	fmt.Fprintln(w)
}

// inherited is what a type's ancestors say of an element.
func inherited(types map[string]typeModel, base, name string) (element, bool) {
	for base != "" {
		if e, ok := types[base].Elements.byPath[name]; ok {
			return e, true
		}
		base = types[base].Base
	}
	return element{}, false
}

func cut(path string) (parent, last string) {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)], path[i+1:]
}

func join(a, b string) string { return strings.TrimSuffix(a+"."+b, ".") }
