package search

import (
	_ "embed"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

//go:generate go run ./internal/gen

//go:embed definitions/r4.table
var r4Table string

// Definitions are the resource types and search parameters of one FHIR version, and the base
// URLs under which the server's own resources are known. They never change and are shared by
// goroutines.
type Definitions struct {
	types map[string]*typeDef
	names []string
	seed  maphash.Seed // of the hashes in Access and Tokens: an author must not be able to make them collide
	bases []string     // with a slash at the end
}

var r4 = sync.OnceValue(func() *Definitions {
	d, err := parseTable(r4Table)
	if err != nil {
		panic("search: embedded table: " + err.Error()) // a test keeps this from being shipped
	}
	return d
})

// R4 gives the definitions of FHIR R4 (4.0.1). They are read once in a process.
func R4() *Definitions { return r4() }

// WithBaseURLs gives the same definitions for a server that is known under these base URLs
// (such as https://example.org/fhir): references to them are taken as relative ones, in
// criteria and in resources alike. Criteria and Resources that meet must come from the same
// base URLs.
func (d *Definitions) WithBaseURLs(urls ...string) *Definitions {
	c := *d
	c.bases = nil
	for _, u := range urls {
		if u = strings.TrimRight(u, "/"); u != "" {
			c.bases = append(c.bases, u+"/")
		}
	}
	// The longest first: one base may begin with another.
	slices.SortFunc(c.bases, func(a, b string) int { return len(b) - len(a) })
	return &c
}

// HasType reports whether the version has a concrete resource type of that name.
func (d *Definitions) HasType(name string) bool { return d.types[name] != nil }

// Types lists the concrete resource types, sorted.
func (d *Definitions) Types() []string { return slices.Clone(d.names) }

// typeDef is one resource type.
type typeDef struct {
	name   string
	params map[string]*param
	count  int // of params that can be evaluated: param.index is below it
}

// kind is the type of a search parameter.
type kind uint8

const (
	kindToken kind = iota
	kindString
	kindReference
	kindDate
	kindNumber
	kindQuantity
	kindURI
	kindComposite
	kindSpecial
)

var kinds = map[string]kind{
	"token": kindToken, "string": kindString, "reference": kindReference, "date": kindDate,
	"number": kindNumber, "quantity": kindQuantity, "uri": kindURI, "composite": kindComposite,
	"special": kindSpecial,
}

func (k kind) String() string {
	for name, v := range kinds {
		if v == k {
			return name
		}
	}
	return "?"
}

// param is one search parameter of one resource type.
type param struct {
	code    string
	kind    kind
	index   int      // place of its values in a Resource
	paths   []path   // none: it cannot be evaluated here
	targets []string // types that it may refer to, sorted; none: any
}

// path leads from a resource to the elements that a parameter reads.
type path struct {
	steps []step
	leaf  leaf
}

// step goes to a member and, where that repeats, to those of its items that pass the filter.
type step struct {
	name   json.Name
	filter filter
	key    json.Name // of filterEquals
	value  string    // constant, extension URL or resource type
}

type filter uint8

const (
	filterNone      filter = iota
	filterFirst            // [0]
	filterEquals           // [key='value']
	filterExtension        // [extension='url']
	filterIs               // [is Type]
)

// leaf says how the element at the end of a path is read.
type leaf uint8

const (
	leafNone leaf = iota
	leafCodeableConcept
	leafCoding
	leafIdentifier
	leafContactPoint
	leafCode
	leafBoolean
	leafID
	leafString
	leafURI
	leafTruth // one boolean for the parameter: is there an element, and is it not false
	leafHumanName
	leafFamily
	leafAddress
	leafReference
	leafCanonical
	leafResource
	leafDateTime
	leafInstant
	leafPeriod
	leafTiming
	leafDecimal
	leafRange
	leafQuantity
	leafMoney
	leafSampledData
)

var leaves = map[string]leaf{
	"CodeableConcept": leafCodeableConcept, "Coding": leafCoding, "Identifier": leafIdentifier,
	"ContactPoint": leafContactPoint, "code": leafCode, "boolean": leafBoolean, "id": leafID,
	"string": leafString, "uri": leafURI, "truth": leafTruth, "HumanName": leafHumanName,
	"family": leafFamily, "Address": leafAddress, "Reference": leafReference,
	"canonical": leafCanonical, "Resource": leafResource, "dateTime": leafDateTime,
	"instant": leafInstant, "Period": leafPeriod, "Timing": leafTiming, "decimal": leafDecimal,
	"Range": leafRange, "Quantity": leafQuantity, "Money": leafMoney, "SampledData": leafSampledData,
}

// reads reports whether one of the parameter's paths ends in one of these leaves.
func (p *param) reads(l ...leaf) bool {
	return slices.ContainsFunc(p.paths, func(x path) bool { return slices.Contains(l, x.leaf) })
}

// readsOnly reports whether all of the parameter's paths end in these leaves.
func (p *param) readsOnly(l ...leaf) bool {
	return !slices.ContainsFunc(p.paths, func(x path) bool { return !slices.Contains(l, x.leaf) })
}

// parseTable reads the table; its header says how it is written.
func parseTable(table string) (*Definitions, error) {
	d := &Definitions{types: make(map[string]*typeDef, 160), seed: maphash.MakeSeed()}
	var t *typeDef
	for line := range strings.Lines(table) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case line[0] != ' ':
			t = &typeDef{name: line, params: make(map[string]*param, 24)}
			d.types[line] = t
			d.names = append(d.names, line)
		default:
			p, err := parseParam(line[1:])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			if p.paths != nil {
				p.index = t.count
				t.count++
			}
			t.params[p.code] = p
		}
	}
	slices.Sort(d.names)
	return d, nil
}

func parseParam(line string) (*param, error) {
	code, rest, _ := strings.Cut(line, " ")
	kindName, rest, ok := strings.Cut(rest, " ")
	k, known := kinds[kindName]
	if !ok || !known {
		return nil, fmt.Errorf("no kind")
	}
	p := &param{code: code, kind: k}
	if rest == "-" {
		return p, nil
	}
	if i := strings.LastIndex(rest, " >"); i >= 0 {
		p.targets = strings.Split(rest[i+2:], ",")
		rest = rest[:i]
	}
	for s := range strings.SplitSeq(rest, "|") {
		x, err := parsePath(s)
		if err != nil {
			return nil, err
		}
		p.paths = append(p.paths, x)
	}
	return p, nil
}

func parsePath(s string) (path, error) {
	colon := strings.LastIndexByte(s, ':')
	x := path{leaf: leaves[s[colon+1:]]}
	if colon < 0 || x.leaf == leafNone {
		return path{}, fmt.Errorf("path %q has no leaf", s)
	}
	for s = s[:colon]; s != ""; {
		end := strings.IndexAny(s, ".[")
		if end < 0 {
			end = len(s)
		}
		st := step{name: json.NewName(s[:end])}
		s = s[end:]
		if strings.HasPrefix(s, "[") {
			close := strings.IndexByte(s, ']')
			if close < 0 || !st.setFilter(s[1:close]) {
				return path{}, fmt.Errorf("filter of %q", s)
			}
			s = s[close+1:]
		}
		s = strings.TrimPrefix(s, ".")
		x.steps = append(x.steps, st)
	}
	return x, nil
}

func (st *step) setFilter(f string) bool {
	switch {
	case f == "0":
		st.filter = filterFirst
	case strings.HasPrefix(f, "is "):
		st.filter, st.value = filterIs, f[3:]
	default:
		key, value, ok := strings.Cut(f, "=")
		if !ok || len(value) < 2 {
			return false
		}
		st.filter, st.key, st.value = filterEquals, json.NewName(key), value[1:len(value)-1]
		if key == "extension" {
			st.filter = filterExtension
		}
	}
	return true
}
