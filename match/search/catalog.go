package search

import (
	"slices"
	"strings"
)

// Parameter is a search parameter of a resource type.
type Parameter struct {
	Code    string
	Type    string   // of http://hl7.org/fhir/search-param-type: token, string, ...
	Targets []string // of a reference: the types that it may refer to, sorted; none: any
}

// trials are values for the parameters that take no :missing.
var trials = []string{"%s:missing=true", "%s=a", "%s=_id%20eq%20a", "%s=1"}

// Parameters lists the search parameters of a type that Compile takes, sorted by code; nil for
// a type that the version does not have. Whether one is taken is tried, so that the list is true.
func (d *Definitions) Parameters(typ string) []Parameter {
	t := d.types[typ]
	if t == nil {
		return nil
	}
	var out []Parameter
	for code, p := range t.params {
		works := slices.ContainsFunc(trials, func(trial string) bool {
			_, err := d.Compile(typ + "?" + strings.Replace(trial, "%s", code, 1))
			return err == nil
		})
		if works {
			out = append(out, Parameter{Code: code, Type: p.kind.String(), Targets: slices.Clone(p.targets)})
		}
	}
	slices.SortFunc(out, func(a, b Parameter) int { return strings.Compare(a.Code, b.Code) })
	return out
}

// Reference gives the types that a reference parameter of a type may refer to (none: any); ok is
// false where the type has no such parameter that can be evaluated.
func (d *Definitions) Reference(typ, code string) (targets []string, ok bool) {
	t := d.types[typ]
	if t == nil {
		return nil, false
	}
	p := t.params[code]
	if p == nil || p.kind != kindReference || !p.reads(leafReference) {
		return nil, false
	}
	return slices.Clone(p.targets), true
}

// References lists the codes of a type's parameters for which Reference is ok, sorted.
func (d *Definitions) References(typ string) []string {
	t := d.types[typ]
	if t == nil {
		return nil
	}
	var out []string
	for code := range t.params {
		if _, ok := d.Reference(typ, code); ok {
			out = append(out, code)
		}
	}
	slices.Sort(out)
	return out
}
