package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/search/internal/paths"
)

// header explains the table to whoever opens it.
const header = `# Search parameters of FHIR %s, reduced to paths. Made by internal/gen, see README.md.
#
# Type
#  code kind path:leaf|path:leaf... >target,target
#  code composite path:node|... $code kind path:leaf|... $code kind path:leaf|...
#
# A path is a list of member names. [0] takes the first item, [a='b'] the items whose member a
# is b, [extension='url'] those that have such an extension, [is T] references to a T. "first"
# before the paths takes the first element of all that they reach. The parts of a composite
# begin at each node of its own paths, and at the resource where they begin with /.
# "-" stands for what cannot be evaluated here.
`

// table writes the parameters of every resource type, sorted.
func (in *input) table() ([]byte, error) {
	var out bytes.Buffer
	var errs []error // all of them: each wants its own answer
	fmt.Fprintf(&out, header, in.version)
	for _, typ := range in.types {
		fmt.Fprintln(&out, typ.Name)
		lines := map[string]string{}
		for _, p := range in.parameters {
			if !in.applies(p, typ) {
				continue
			}
			line, err := in.line(p, typ)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s of %s: %w", p.ID, typ.Name, err))
			}
			old, twice := lines[p.Code]
			switch {
			case !twice:
			case strings.HasSuffix(line, " -"):
				// R4B and R5 define some codes twice, none of them with an expression. The one of
				// the resource type or the first counts; both are refused or evaluated by name.
				line = old
			case old != line:
				return nil, fmt.Errorf("%s has two parameters %s", typ.Name, p.Code)
			}
			lines[p.Code] = line
		}
		for _, code := range sortedKeys(lines) {
			fmt.Fprintln(&out, " "+lines[code])
		}
	}
	return out.Bytes(), errors.Join(errs...)
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// applies reports whether a parameter is one of typ: defined on it or on what it descends from.
func (in *input) applies(p parameter, typ *model.Type) bool {
	return slices.ContainsFunc(p.Base, func(b string) bool { return paths.Is(in.model, typ, b) })
}

// line writes one parameter. Those without an expression, and those whose expression has none
// for this type, are listed without a path so that a criteria that uses them can be refused by
// name.
func (in *input) line(p parameter, typ *model.Type) (string, error) {
	var text string
	var err error
	switch {
	case corrected(p) == "", p.Code == "near": // near is evaluated by its name
	case p.Type == "composite":
		text, err = in.composite(p, typ)
	default:
		var r paths.Result
		r, err = paths.Compile(in.start(typ, p.Type), corrected(p))
		text = in.paths(r, p)
	}
	if err != nil {
		return "", fmt.Errorf("expression %q: %w", p.Expression, err)
	}
	if text == "" {
		text = " -"
	}
	return p.Code + " " + p.Type + text, nil
}

// corrections are expressions that HL7 published with a step too few: the element that they end
// at can be read by no parameter.
var corrections = map[string]string{
	"Ingredient-manufacturer": "Ingredient.manufacturer.manufacturer", // R4B; R5 has it so
	"Resource-in":             "",                                     // R5: not the id that its expression reads, but the groups that list it
}

func corrected(p parameter) string {
	if better, ok := corrections[p.ID]; ok {
		return better
	}
	return p.Expression
}

func (in *input) start(typ *model.Type, kind string) paths.Start {
	return paths.Start{Model: in.model, Resource: typ, Kind: kind, Lenient: true}
}

// paths writes a parameter's paths and targets.
func (in *input) paths(r paths.Result, p parameter) string {
	if len(r.Paths) == 0 {
		return ""
	}
	line := " " + strings.Join(r.Paths, "|")
	if r.First {
		line = " first" + line
	}
	// A few parameters list every type there is: that is no restriction.
	if n := len(p.Target); p.Type == "reference" && 0 < n && n < len(in.types)/2 {
		targets := slices.Sorted(slices.Values(p.Target))
		line += " >" + strings.Join(slices.Compact(targets), ",")
	}
	return line
}

// composite writes the nodes of a composite and its parts.
func (in *input) composite(p parameter, typ *model.Type) (string, error) {
	base, err := paths.Compile(in.start(typ, "node"), p.Expression)
	if err != nil || len(base.Paths) == 0 {
		return "", err
	}
	var defs []parameter
	for _, c := range p.Component {
		def, ok := in.byURL[c.Definition]
		if !ok { // R5 refers to a few parameters that it does not define
			def = parameter{Code: c.Definition[strings.LastIndexByte(c.Definition, '-')+1:], Type: in.kindOf(typ, base, c.Expression)}
		}
		defs = append(defs, def)
	}
	line := " " + strings.Join(base.Paths, "|")
	for i, c := range p.Component {
		// The definitions of two parts have changed places in DocumentReference's relationship:
		// the expression tells which is which.
		order := append([]parameter{defs[i]}, defs...)
		var part string
		for _, def := range order {
			if part, err = in.part(typ, base, c.Expression, def); err == nil {
				break
			}
		}
		if err != nil {
			if part, err = in.partByDefinition(typ, base, defs[i]); err != nil {
				return "", err
			}
		}
		line += part
	}
	return line, nil
}

// kindOf gives the kind of parameter that the expression of a part suits.
func (in *input) kindOf(typ *model.Type, base paths.Result, expr string) string {
	for _, kind := range []string{"token", "reference", "date", "quantity", "number", "uri", "string"} {
		s := in.start(typ, kind)
		s.Node = base.Nodes[0]
		r, err := paths.Compile(s, expr)
		if err == nil && (kind != "token" || !strings.HasSuffix(r.Paths[0], ":string") && !strings.HasSuffix(r.Paths[0], ":uri")) {
			return kind
		}
	}
	return ""
}

// part follows the expression of a part from every node of the base.
func (in *input) part(typ *model.Type, base paths.Result, expr string, def parameter) (string, error) {
	var all paths.Result
	for _, node := range base.Nodes {
		s := in.start(typ, def.Type)
		s.Node = node
		r, err := paths.Compile(s, expr)
		if err != nil {
			return "", fmt.Errorf("component %s: %w", def.Code, err)
		}
		for _, path := range r.Paths {
			if !slices.Contains(all.Paths, path) {
				all.Paths = append(all.Paths, path)
			}
		}
	}
	if err := paths.Distinct(all.Paths); err != nil {
		return "", fmt.Errorf("component %s: %w", def.Code, err)
	}
	return in.partText(all, def)
}

// partByDefinition takes the expression of the parameter that defines a part, as far as it lies
// below the nodes. A few official parts name elements that their node does not have.
func (in *input) partByDefinition(typ *model.Type, base paths.Result, def parameter) (string, error) {
	whole, err := paths.Compile(in.start(typ, def.Type), def.Expression)
	if err != nil {
		return "", err
	}
	var all paths.Result
	for _, b := range base.Paths {
		prefix := strings.TrimSuffix(b, ":node")
		if prefix != "" {
			prefix += "."
		}
		for _, path := range whole.Paths {
			if rest, ok := strings.CutPrefix(path, prefix); ok {
				all.Paths = append(all.Paths, rest)
			}
		}
	}
	return in.partText(all, def)
}

func (in *input) partText(r paths.Result, def parameter) (string, error) {
	if len(r.Paths) == 0 {
		return "", fmt.Errorf("component %s reads nothing", def.Code)
	}
	return " $" + def.Code + " " + def.Type + in.paths(r, def), nil
}
