package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/search"
)

func matchCommand() *cli.Command {
	return &cli.Command{
		Name:      "match",
		Usage:     "try criteria against resources, without a server",
		ArgsUsage: "CRITERIA FILE…|-",
		Description: help(`Prints Type/id of each resource that meets the criteria, a line each, and a count on stderr.
Files hold a resource a line (NDJSON); - is standard input. Criteria that are wrong or not
supported are refused with exit code 2, as writing the Subscription would be.`,
			"carillon match 'Observation?code=http://loinc.org|2093-3' resources.ndjson"),
		Flags:  []cli.Flag{&cli.StringFlag{Name: "fhir", Usage: "`VERSION` of FHIR", Value: "R4"}},
		Action: action(2, -1, matchFiles),
	}
}

func matchFiles(c *call) error {
	if v := c.String("fhir"); v != "R4" {
		return usage("--fhir %q: R4 is the only version yet", v)
	}
	defs := search.R4()
	criteria, err := defs.Compile(c.Args().First())
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	t := tryout{c: c, defs: defs, criteria: criteria}
	for _, name := range c.Args().Tail() {
		if err := t.file(name); err != nil {
			return err
		}
	}
	c.note("%d of %d match", t.matched, t.read)
	if t.refused > 0 {
		return usage("%d lines could not be read as resources", t.refused)
	}
	return nil
}

// tryout counts what criteria do to resources.
type tryout struct {
	c                      *call
	defs                   *search.Definitions
	criteria               *search.Criteria
	tree                   json.Tree
	resource               *search.Resource
	read, matched, refused int
}

func (t *tryout) file(name string) error {
	r, err := t.c.open(name)
	if err != nil {
		return err
	}
	defer r.Close()
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

func (t *tryout) refuse(name string, line int, err error) {
	t.refused++
	t.c.warn("%s:%d: %v", name, line, err)
}

func (t *tryout) one(line []byte) error {
	if err := t.tree.Parse(line, json.Limits{}); err != nil {
		return err
	}
	if t.resource == nil {
		t.resource = search.NewResource(t.defs, &t.tree)
	} else {
		t.resource.Reset(&t.tree, search.Envelope{})
	}
	if !t.defs.HasType(t.resource.Type()) {
		return errors.New("not a resource of FHIR R4")
	}
	t.read++
	if !t.criteria.Match(t.resource) {
		return nil
	}
	t.matched++
	_, err := fmt.Fprintf(t.c.App.Writer, "%s/%s\n", t.resource.Type(), t.resource.ID())
	return err
}
