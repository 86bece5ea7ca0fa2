package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhirpath"
)

func fhirpathCommand() *cli.Command {
	return &cli.Command{
		Name:      "fhirpath",
		Usage:     "evaluate a FHIRPath expression on a resource, without a server",
		ArgsUsage: "EXPR [FILE|-]",
		Description: help(`Prints the result collection as a JSON array. The resource of the file (- is standard input) is
the context and %current; --previous gives the state before it. Without a file, --previous alone is
a delete: %previous is the context and %current is empty. (The criteria of a Subscription in the
extension fhir-path-criteria-expression sees the deleted state as %current too, as with Medplum:
carillon explain tells what it gives.)`,
			"carillon fhirpath 'name.given' patient.json",
			"carillon fhirpath '%previous.exists() implies %previous.active != %current.active' patient.json --previous patient.json"),
		Flags: []cli.Flag{
			fhirFlag(),
			&cli.StringFlag{Name: "previous", Usage: "`FILE` with the state before"},
		},
		Action: action(1, 2, evaluatePath),
	}
}

// maxResource bounds the resources that are read whole.
const maxResource = 64 << 20

func evaluatePath(c *call) error {
	version, err := c.fhirVersion()
	if err != nil {
		return err
	}
	name, previous := c.Args().Get(1), c.String("previous")
	switch {
	case name == "" && previous == "":
		return usage("name the file with the resource, - for standard input; --previous alone is a delete")
	case name == "-" && previous == "-":
		return usage("only one of the two states can come from standard input")
	}
	var in fhirpath.Input
	if in.Current, err = c.readResource(name); err != nil {
		return err
	}
	if in.Previous, err = c.readResource(previous); err != nil {
		return err
	}
	if in.Resource = in.Current; in.Resource == nil {
		in.Resource = in.Previous
	}
	in.Now = time.Now()
	about := in.Resource.Str(in.Resource.Get(in.Resource.Root(), "resourceType"))
	e, err := fhirpath.Compile(c.Args().First(), fhirpath.Options{Version: version, Context: about, Trigger: true})
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	for _, w := range e.Warnings() {
		c.warn("%s", w)
	}
	values, err := fhirpath.NewEvaluator().Evaluate(e, in)
	if err != nil {
		return &exitError{code: exitFailed, err: err}
	}
	out := []byte{'['}
	for i := range values.Len() {
		if i > 0 {
			out = append(out, ',')
		}
		out = values.At(i).AppendJSON(out)
	}
	return c.out.raw(append(out, ']'))
}

// readResource reads a file that holds one resource; nil without a name.
func (c *call) readResource(name string) (*json.Tree, error) {
	if name == "" {
		return nil, nil
	}
	body, err := c.readInput(name, maxResource)
	if err != nil {
		return nil, err
	}
	t, err := json.Parse(body, json.Limits{Bytes: maxResource})
	if err != nil {
		return nil, usage("%s: %v", name, err)
	}
	if t.Kind(t.Get(t.Root(), "resourceType")) != json.String {
		return nil, usage("%s holds no resource: it has no resourceType", name)
	}
	return t, nil
}
