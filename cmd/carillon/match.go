package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node"
)

func matchCommand() *cli.Command {
	return &cli.Command{
		Name:      "match",
		Usage:     "try criteria against resources, without a server",
		ArgsUsage: "CRITERIA FILE…|-",
		Description: help(`Prints Type/id of each resource that meets the criteria, a line each, and a count on stderr.
Files hold a resource a line (NDJSON), - is standard input; a file whose name ends in .json holds
one resource in all. Criteria that are wrong or not supported are refused with exit code 2, as
writing the Subscription would be. SearchParameters, ValueSets and CodeSystems that the criteria uses
are read with --definitions, from a file or a folder; they are resources by themselves, in Bundles,
or a line each.

Each resource is looked at by itself. So chains (subject:Patient.name=), _has and _list are refused
here, while a server takes them: carillon subscription check tells what it would say, and carillon
explain --subscription FILE tries them on what it has stored.`,
			"carillon match 'Observation?code=http://loinc.org|2093-3' resources.ndjson",
			"carillon match 'Observation?code:in=http://example.org/lipids' --definitions valueset.json resources.ndjson",
			"carillon match --fhir R5 'Encounter?date-start=ge2025' encounter.json"),
		Flags: []cli.Flag{
			fhirFlag(),
			&cli.StringFlag{Name: "definitions", Usage: "`FILE` or folder of SearchParameters, ValueSets and CodeSystems"},
		},
		Action: action(2, -1, matchFiles),
	}
}

func fhirFlag() cli.Flag {
	return &cli.StringFlag{Name: "fhir", Usage: "`VERSION` of FHIR: R4, R4B or R5", Value: string(fhir.R4)}
}

// fhirVersion is the version that --fhir names.
func (c *call) fhirVersion() (fhir.Version, error) {
	v := fhir.Version(c.String("fhir"))
	if !v.Known() {
		return "", usage("--fhir %q is not R4, R4B or R5", v)
	}
	return v, nil
}

func matchFiles(c *call) (err error) {
	version, err := c.fhirVersion()
	if err != nil {
		return err
	}
	defs, err := c.definitions(version)
	if err != nil {
		return err
	}
	// Compiled as a server does, so that an error within a chain is told rather than the chain itself.
	criteria, err := defs.WithRepository().Compile(c.Args().First())
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	if criteria.NeedsRepository() {
		return usage("the criteria asks for other resources than the one that it is held against (a chain, _has or _list), and here each is looked at by itself; ask a server: carillon explain --subscription FILE TYPE/ID")
	}
	t := tryout{c: c, version: version, defs: defs, criteria: criteria,
		resource: search.NewResource(defs, nil), out: bufio.NewWriterSize(c.App.Writer, 64<<10)}
	for _, name := range c.Args().Tail() {
		if err = t.file(name); err != nil {
			break
		}
	}
	// What was found before an error is printed all the same.
	if err = errors.Join(err, t.out.Flush()); err != nil {
		return err
	}
	c.note("%d of %d match", t.matched, t.read)
	if never := criteria.Never(); never != "" {
		c.warn("the criteria can never match: %s", never)
	}
	for _, code := range criteria.Unconverted() {
		c.warn("%q is no unit of UCUM that is known here, so only values of this very code are met and none is converted", code)
	}
	if t.refused > 0 {
		return usage("%d could not be read as resources", t.refused)
	}
	return nil
}

// definitions are those of a version, with what --definitions adds.
func (c *call) definitions(version fhir.Version) (*search.Definitions, error) {
	name := c.String("definitions")
	if name == "" {
		return search.For(version), nil
	}
	ds, err := node.ReadDefinitions(name)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	defs, err := node.Together(version, ds)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return defs, nil
}

// tryout counts what criteria do to resources.
type tryout struct {
	c                      *call
	version                fhir.Version
	defs                   *search.Definitions
	criteria               *search.Criteria
	tree                   json.Tree
	resource               *search.Resource
	out                    *bufio.Writer
	read, matched, refused int
}

func (t *tryout) file(name string) error {
	r, err := t.c.open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	if strings.HasSuffix(name, ".json") {
		return t.whole(name, r)
	}
	lines := newLineReader(r, maxLine)
	for {
		line, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errLineTooLong):
			t.refuse(name, lines.line, err)
			continue
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := t.one(line); err != nil {
			t.refuse(name, lines.line, err)
		}
	}
}

// whole takes a file that is one resource, on however many lines.
func (t *tryout) whole(name string, r io.Reader) error {
	body, err := io.ReadAll(io.LimitReader(r, maxLine+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if len(body) > maxLine {
		return usage("%s is larger than %d MiB", name, maxLine>>20)
	}
	err = t.one(body)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		err = fmt.Errorf("not one JSON text; a file of lines should be named .ndjson: %w", err)
	}
	if err != nil {
		t.refused++
		t.c.warn("%s: %v", name, err)
	}
	return nil
}

func (t *tryout) refuse(name string, line int, err error) {
	t.refused++
	t.c.warn("%s:%d: %v", name, line, err)
}

func (t *tryout) one(line []byte) error {
	if err := t.tree.Parse(line, json.Limits{}); err != nil {
		return err
	}
	t.resource.Reset(&t.tree, search.Envelope{})
	if !t.defs.HasType(t.resource.Type()) {
		return fmt.Errorf("not a resource of FHIR %s", t.version)
	}
	met, err := t.criteria.Decide(t.resource)
	if err != nil {
		return err
	}
	t.read++
	if !met {
		return nil
	}
	t.matched++
	t.out.WriteString(t.resource.Type())
	t.out.WriteByte('/')
	t.out.WriteString(t.resource.ID())
	return t.out.WriteByte('\n') // an error of the writer stays until it is flushed
}
