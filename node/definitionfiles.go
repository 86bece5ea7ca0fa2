package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

// Definition is a SearchParameter, ValueSet or CodeSystem out of a file.
type Definition struct {
	Key  fhir.Key // the id may be empty
	Body []byte
	File string // and the place in it, for errors
}

// ReadDefinitions reads the SearchParameters, ValueSets and CodeSystems of a file, or of the files
// of a folder whose names end in .json or .ndjson, in the order of their names. A .json file holds
// a resource, or a Bundle of them, a .ndjson file one a line. Anything else in them is an error
// that names the file: a definition that is passed over would be missed later, without a trace.
func ReadDefinitions(name string) ([]Definition, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	files := []string{name}
	if info.IsDir() {
		if files, err = definitionFiles(name); err != nil {
			return nil, err
		}
	}
	var all []Definition
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		ds, err := definitionsIn(f, body)
		if err != nil {
			return nil, err
		}
		all = append(all, ds...)
	}
	return all, nil
}

func definitionFiles(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".json" || ext == ".ndjson") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(files)
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no file whose name ends in .json or .ndjson", dir)
	}
	return files, nil
}

func definitionsIn(file string, body []byte) (ds []Definition, err error) {
	if filepath.Ext(file) != ".ndjson" {
		return definitionsOf(nil, file, body)
	}
	line := 0
	for text := range bytes.Lines(body) {
		line++
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if ds, err = definitionsOf(ds, fmt.Sprintf("%s:%d", file, line), text); err != nil {
			return nil, err
		}
	}
	return ds, nil
}

// definitionsOf appends the definition, or those of the Bundle, that a text is.
func definitionsOf(ds []Definition, place string, body []byte) ([]Definition, error) {
	t, err := json.Parse(body, json.Limits{Bytes: max(1, len(body))})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	typ := t.Str(t.Get(t.Root(), "resourceType"))
	switch {
	case defines(typ):
		id := fhir.ID(t.Str(t.Get(t.Root(), "id")))
		return append(ds, Definition{Key: fhir.Key{Type: typ, ID: id}, Body: body, File: place}), nil
	case typ != "Bundle":
		return nil, fmt.Errorf("%s: holds %s; definitions are SearchParameter, ValueSet and CodeSystem, by themselves or in a Bundle", place, named(typ))
	}
	i := 0
	for entry := range t.Children(t.Get(t.Root(), "entry")) {
		raw := t.Raw(t.Get(entry, "resource"))
		if ds, err = definitionsOf(ds, fmt.Sprintf("%s, entry %d", place, i), bytes.Clone(raw)); err != nil {
			return nil, err
		}
		i++
	}
	return ds, nil
}

func named(typ string) string {
	if typ == "" {
		return "no resource"
	}
	if len(typ) > 64 || strings.ContainsFunc(typ, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "an unknown resource"
	}
	return "a " + typ
}

// Together gives the definitions of a version with those that were read added, as a node has them
// that stores them. Its error names the file of each SearchParameter that cannot be used.
func Together(version fhir.Version, ds []Definition) (*search.Definitions, error) {
	var files []string
	var parameters, terminology [][]byte
	for _, d := range ds {
		if d.Key.Type != "SearchParameter" {
			terminology = append(terminology, d.Body)
			continue
		}
		files, parameters = append(files, d.File), append(parameters, d.Body)
	}
	defs, errs := search.For(version).WithParameters(parameters...)
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("%s: %w", files[i], err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t, err := search.NewTerminology(terminology...)
	if err != nil {
		return nil, err
	}
	return defs.WithTerminology(t), nil
}

// configuredDefinitions reads what fhir.definitions names, in the order in which it can be written:
// a parameter may be a component of another.
func configuredDefinitions(cfg config.Config) ([]Definition, error) {
	if cfg.FHIR.Definitions == "" {
		return nil, nil
	}
	ds, err := ReadDefinitions(cfg.FHIR.Definitions)
	if err != nil {
		return nil, cfg.Refuse("fhir.definitions", "%s", err)
	}
	seen := map[fhir.Key]string{}
	for _, d := range ds {
		if !d.Key.ID.Valid() {
			return nil, cfg.Refuse("fhir.definitions", "%s: the %s has no id that it could be stored under", d.File, d.Key.Type)
		}
		if before, ok := seen[d.Key]; ok {
			return nil, cfg.Refuse("fhir.definitions", "%s: %s is in %s already", d.File, d.Key, before)
		}
		seen[d.Key] = d.File
	}
	slices.SortStableFunc(ds, func(a, b Definition) int { return boolOrder(composite(a.Body), composite(b.Body)) })
	return ds, nil
}

// CheckDefinitions says, as a *config.Error, what of fhir.definitions would keep a node from
// starting that has stored none before.
func CheckDefinitions(cfg config.Config) error {
	ds, err := configuredDefinitions(cfg)
	if err != nil {
		return err
	}
	if _, err := Together(fhir.Version(cfg.FHIR.Version), ds); err != nil {
		return cfg.Refuse("fhir.definitions", "%s", err)
	}
	return nil
}

// loadDefinitions writes the definitions of the configuration, as a client would: those that the
// log does not say already. So all nodes of a cluster have them from the log, each at one place,
// whatever their own files hold; where files differ, those of the node that started last count.
func (n *Node) loadDefinitions(ctx context.Context) error {
	ds, err := configuredDefinitions(n.cfg)
	if err != nil {
		return err
	}
	for _, d := range ds {
		if err := n.writeDefinition(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// composite reports whether a definition is a SearchParameter that has others as components.
func composite(body []byte) bool {
	t := json.Borrow()
	defer t.Release()
	return t.Parse(body, json.Limits{Bytes: max(1, len(body))}) == nil && t.Is(t.Get(t.Root(), "type"), "composite")
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// writeDefinition writes one definition. While the log cannot be written, as in a cluster that is
// still coming up, it waits.
func (n *Node) writeDefinition(ctx context.Context, d Definition) error {
	for {
		out, err := n.gate.Write(ctx, api.Write{Key: d.Key, Body: d.Body, Brief: true})
		refused := fhir.AsError(err)
		switch {
		case err == nil:
			if out.Interaction != fhir.Unchanged {
				n.log.Info("definition written", "resource", d.Key.String(), "version", out.Version)
			}
			return nil
		case refused != nil && refused.Issues[0].Type != fhir.IssueTransient:
			return n.cfg.Refuse("fhir.definitions", "%s: %s", d.File, err)
		case refused == nil:
			return fmt.Errorf("write %s of %s: %w", d.Key, d.File, err)
		}
		n.log.Warn("a definition cannot be written yet, will try again", "resource", d.Key.String(), "err", err)
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}
