package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// header explains the table to whoever opens it.
const header = `# Search parameters of FHIR R4 (4.0.1), reduced to paths. Made by internal/gen, see README.md.
#
# Type
#  code kind path:leaf|path:leaf... >target,target
#
# A path is a list of member names. [0] takes the first item, [a='b'] the items whose member a
# is b, [extension='url'] those that have such an extension, [is T] references to a T.
# "-" stands for what cannot be evaluated here.
`

// leaves gives, for each kind of parameter, the element types it can read and what the table
// calls them: types that are read in the same way share a name.
var leaves = map[string]map[string]string{
	"token": {"CodeableConcept": "CodeableConcept", "Coding": "Coding", "Identifier": "Identifier",
		"ContactPoint": "ContactPoint", "code": "code", "boolean": "boolean", "id": "id",
		"string": "string", "uri": "uri", "canonical": "uri", "url": "uri", "oid": "uri", "uuid": "uri"},
	"string": {"string": "string", "markdown": "string", "HumanName": "HumanName",
		"Address": "Address", "CodeableConcept": "CodeableConcept"},
	"reference": {"Reference": "Reference", "canonical": "canonical", "uri": "canonical", "Resource": "Resource"},
	"date": {"date": "dateTime", "dateTime": "dateTime", "instant": "instant", "Period": "Period",
		"Timing": "Timing"},
	"number": {"integer": "decimal", "positiveInt": "decimal", "unsignedInt": "decimal",
		"decimal": "decimal", "Range": "Range"},
	"quantity": {"Quantity": "Quantity", "Age": "Quantity", "Duration": "Quantity", "Count": "Quantity",
		"Distance": "Quantity", "Money": "Money", "Range": "Range", "SampledData": "SampledData"},
	"uri": {"uri": "uri", "url": "uri", "oid": "uri", "uuid": "uri", "canonical": "canonical"},
}

// table writes the parameters of every resource type, sorted.
func (in *input) table() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(header)
	for _, typ := range in.types {
		fmt.Fprintln(&out, typ)
		lines := map[string]string{}
		for _, p := range in.parameters {
			if !in.applies(p, typ) {
				continue
			}
			line, err := in.line(p, typ)
			if err != nil {
				return nil, fmt.Errorf("%s of %s: %w", p.ID, typ, err)
			}
			if old, twice := lines[p.Code]; twice && old != line {
				return nil, fmt.Errorf("%s has two parameters %s", typ, p.Code)
			}
			lines[p.Code] = line
		}
		for _, code := range sortedKeys(lines) {
			fmt.Fprintln(&out, " "+lines[code])
		}
	}
	return out.Bytes(), nil
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
func (in *input) applies(p parameter, typ string) bool {
	return slices.ContainsFunc(p.Base, func(b string) bool { return in.is(typ, b) })
}

func (in *input) is(typ, ancestor string) bool {
	for t := typ; t != ""; t = in.model[t].Base {
		if t == ancestor {
			return true
		}
	}
	return false
}

// line writes one parameter. Composite and special ones, and those without an expression, are
// listed without a path so that a criteria that uses them can be refused by name.
func (in *input) line(p parameter, typ string) (string, error) {
	if p.Type == "composite" || p.Type == "special" || p.Expression == "" {
		return p.Code + " " + p.Type + " -", nil
	}
	var paths []string
	for _, branch := range split(p.Expression) {
		more, err := in.branch(branch, p.Type, typ)
		if err != nil {
			return "", err
		}
		paths = append(paths, more...)
	}
	if len(paths) == 0 {
		return "", fmt.Errorf("expression %q reads nothing", p.Expression)
	}
	line := p.Code + " " + p.Type + " " + strings.Join(paths, "|")
	// A few parameters list every type there is: that is no restriction.
	if n := len(p.Target); p.Type == "reference" && 0 < n && n < len(in.types)/2 {
		targets := slices.Sorted(slices.Values(p.Target))
		line += " >" + strings.Join(slices.Compact(targets), ",")
	}
	return line, nil
}
