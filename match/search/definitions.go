package search

import (
	_ "embed"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

//go:generate go run ./internal/gen

// The tables of the versions. Each is read at its first use: nobody pays for the others.
var (
	//go:embed definitions/r4.table
	r4Table string
	//go:embed definitions/r4b.table
	r4bTable string
	//go:embed definitions/r5.table
	r5Table string
)

// Definitions are the resource types and search parameters of one FHIR version, and the base
// URLs under which the server's own resources are known. They never change and are shared by
// goroutines.
//
// The With methods give changed copies. All copies of one origin are of one lineage: Criteria
// and Resources of a lineage may meet, of whatever age their Definitions are, since a search
// parameter that is defined anew has a place of its own in a Resource and in an index.
type Definitions struct {
	version fhir.Version
	types   map[string]*typeDef
	names   []string
	seed    maphash.Seed // of the hashes in Access and Resource.Hashes: an author must not be able to make them collide
	blunt   uint64       // bits that hashes lack; of a test that makes them collide
	bases   []string     // with a slash at the end
	pool    *pool        // of conditions; shared by the lineage

	terminology *Terminology // of the stored ValueSets and CodeSystems; nil: none

	repository bool // criteria may ask for other resources
}

var loaded = map[fhir.Version]func() *Definitions{
	fhir.R4:  sync.OnceValue(func() *Definitions { return mustParse(fhir.R4, r4Table) }),
	fhir.R4B: sync.OnceValue(func() *Definitions { return mustParse(fhir.R4B, r4bTable) }),
	fhir.R5:  sync.OnceValue(func() *Definitions { return mustParse(fhir.R5, r5Table) }),
}

func mustParse(v fhir.Version, table string) *Definitions {
	d, err := parseTable(v, table)
	if err != nil {
		panic("search: embedded table of " + string(v) + ": " + err.Error()) // a test keeps this from being shipped
	}
	return d
}

// For gives the definitions of a version; nil for one that is not known. They are read once in
// a process, in about a millisecond.
func For(v fhir.Version) *Definitions {
	if load := loaded[v]; load != nil {
		return load()
	}
	return nil
}

// R4 gives the definitions of FHIR R4 (4.0.1).
func R4() *Definitions { return For(fhir.R4) }

// R4B gives the definitions of FHIR R4B (4.3.0).
func R4B() *Definitions { return For(fhir.R4B) }

// R5 gives the definitions of FHIR R5 (5.0.0).
func R5() *Definitions { return For(fhir.R5) }

// Version is the version that the definitions belong to. Criteria and resources of different
// versions have nothing to say about each other and must not meet.
func (d *Definitions) Version() fhir.Version { return d.version }

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
	own    bool // params belong to these Definitions alone
	family *family
	self   [1]*typeDef
}

// alone is a list of the type, shared by all criteria about it.
func (t *typeDef) alone() []*typeDef {
	if t.self[0] != t { // a changed copy
		return []*typeDef{t}
	}
	return t.self[:]
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
	key     string // names it in Access; of an official one its code
	kind    kind
	index   int      // place of its values in a Resource
	paths   []path   // none: it cannot be evaluated here
	first   bool     // only the first element that the paths reach counts
	targets []string // types that it may refer to, sorted; none: any
	view    view     // how its elements are read without a modifier
	parts   []*param // of a composite; their paths begin at the nodes that its own reach

	// Of parameters that are not the specification's own:
	expression *expression // instead of paths, where it is more than these can say
	limits     *limits     // nil: there are none
	home       *family     // of the type that it belongs to; nil for what is no parameter of one type
}

// evaluable reports whether the parameter can be read.
func (p *param) evaluable() bool { return p.paths != nil || p.expression != nil }

// path leads from a resource, or from a node of a composite, to the elements that a parameter
// reads.
type path struct {
	steps []step
	root  bool // it begins at the resource, wherever the composite's node is
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
	leafNode // of a composite: where its parts begin
	leafNarrative
	leafAttachment
)

var leaves = map[string]leaf{
	"CodeableConcept": leafCodeableConcept, "Coding": leafCoding, "Identifier": leafIdentifier,
	"ContactPoint": leafContactPoint, "code": leafCode, "boolean": leafBoolean, "id": leafID,
	"string": leafString, "uri": leafURI, "truth": leafTruth, "HumanName": leafHumanName,
	"family": leafFamily, "Address": leafAddress, "Reference": leafReference,
	"canonical": leafCanonical, "Resource": leafResource, "dateTime": leafDateTime,
	"instant": leafInstant, "Period": leafPeriod, "Timing": leafTiming, "decimal": leafDecimal,
	"Range": leafRange, "Quantity": leafQuantity, "Money": leafMoney, "SampledData": leafSampledData,
	"node": leafNode, "Narrative": leafNarrative, "Attachment": leafAttachment,
}

// reads reports whether one of the parameter's paths ends in one of these leaves.
func (p *param) reads(l ...leaf) bool {
	if p.expression != nil {
		return slices.ContainsFunc(p.expression.leaves, func(x leaf) bool { return slices.Contains(l, x) })
	}
	return slices.ContainsFunc(p.paths, func(x path) bool { return slices.Contains(l, x.leaf) })
}

// readsOnly reports whether all of the parameter's paths end in these leaves.
func (p *param) readsOnly(l ...leaf) bool {
	if p.expression != nil {
		return !slices.ContainsFunc(p.expression.leaves, func(x leaf) bool { return !slices.Contains(l, x) })
	}
	return !slices.ContainsFunc(p.paths, func(x path) bool { return !slices.Contains(l, x.leaf) })
}

// parseTable reads the table; its header says how it is written.
func parseTable(v fhir.Version, table string) (*Definitions, error) {
	d := &Definitions{version: v, types: make(map[string]*typeDef, 160), seed: maphash.MakeSeed(), pool: &pool{}}
	var t *typeDef
	known := make(map[string]path, 2048)
	for line := range strings.Lines(table) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case line[0] != ' ':
			t = &typeDef{name: line, params: make(map[string]*param, 24)}
			t.family = &family{name: line, official: t.params}
			t.self[0] = t
			d.types[line] = t
			d.names = append(d.names, line)
		default:
			p, err := parseParam(line[1:], known)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			if p.paths != nil {
				p.index = t.family.count
				t.family.count++
			}
			p.home = t.family
			t.params[p.code] = p
		}
	}
	slices.Sort(d.names)
	return d, nil
}

// parseParam reads "code kind paths", and of a composite also its parts. Most paths are those of
// many parameters: known shares them.
func parseParam(line string, known map[string]path) (*param, error) {
	line, parts, composite := strings.Cut(line, " $")
	code, rest, _ := strings.Cut(line, " ")
	kindName, rest, ok := strings.Cut(rest, " ")
	k, isKind := kinds[kindName]
	if !ok || !isKind || composite != (k == kindComposite) && rest != "-" {
		return nil, fmt.Errorf("no kind")
	}
	p := &param{code: code, key: code, kind: k}
	if rest == "-" {
		return p, nil
	}
	if composite {
		for part := range strings.SplitSeq(parts, " $") {
			x, err := parseParam(part, known)
			if err != nil {
				return nil, err
			}
			p.parts = append(p.parts, x)
		}
	}
	rest, p.first = strings.CutPrefix(rest, "first ")
	if i := strings.LastIndex(rest, " >"); i >= 0 {
		p.targets = strings.Split(rest[i+2:], ",")
		rest = rest[:i]
	}
	for s := range strings.SplitSeq(rest, "|") {
		x, ok := known[s]
		if !ok {
			var err error
			if x, err = parsePath(s); err != nil {
				return nil, err
			}
			known[s] = x
		}
		p.paths = append(p.paths, x)
	}
	switch {
	case k != kindSpecial:
	case p.reads(leafNarrative):
		p.view = viewNarrative
	case p.reads(leafAttachment):
		p.view = viewArea
	}
	return p, nil
}

func parsePath(s string) (path, error) {
	colon := strings.LastIndexByte(s, ':')
	x := path{leaf: leaves[s[colon+1:]]}
	if colon < 0 || x.leaf == leafNone {
		return path{}, fmt.Errorf("path %q has no leaf", s)
	}
	s, x.root = strings.CutPrefix(s[:colon], "/")
	for s != "" {
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
