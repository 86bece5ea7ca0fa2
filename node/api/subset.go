package api

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"

	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

//go:embed definitions/r4.subset
var r4Subset string

//go:embed definitions/r4b.subset
var r4bSubset string

//go:embed definitions/r5.subset
var r5Subset string

// subsetTable knows of each resource type which of its elements a summary has, which every resource
// must have, and which change the meaning of the others. Nested elements are not told apart: what
// is shown of an element is all of it, which the specification leaves to servers.
type subsetTable struct {
	text string
	read sync.Once
	list map[string][]subsetElement
}

type subsetElement struct {
	name                         string // without [x]
	choice                       bool   // any value[x]
	summary, mandatory, modifier bool
}

func newSubsetTable(release string) *subsetTable {
	switch release {
	case "R4B":
		return &subsetTable{text: r4bSubset}
	case "R5":
		return &subsetTable{text: r5Subset}
	}
	return &subsetTable{text: r4Subset}
}

// elements lists the flagged elements of a type.
func (t *subsetTable) elements(typ string) []subsetElement {
	t.read.Do(func() {
		t.list = map[string][]subsetElement{}
		for line := range strings.Lines(t.text) {
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] == "#" {
				continue
			}
			for _, f := range fields[1:] {
				name, flags, _ := strings.Cut(f, ":")
				name, choice := strings.CutSuffix(name, "[x]")
				t.list[fields[0]] = append(t.list[fields[0]], subsetElement{
					name: name, choice: choice,
					summary: strings.Contains(flags, "s"), mandatory: strings.Contains(flags, "m"), modifier: strings.Contains(flags, "x"),
				})
			}
		}
	})
	return t.list[typ]
}

// is reports whether a member of the resource is the element.
func (e *subsetElement) is(member string) bool {
	rest, ok := strings.CutPrefix(member, e.name)
	return ok && (rest == "" && !e.choice || e.choice && rest != "" && rest[0] >= 'A' && rest[0] <= 'Z')
}

// always are the members that every subset has.
var always = []string{"resourceType", "id", "meta"}

// keeps says which members of a resource are shown. match is false for an included one: elements
// are chosen of the matches alone.
func (f *form) keeps(typ string, match bool) func(member string) bool {
	flagged := f.table.elements(typ)
	any := func(member string, flag func(*subsetElement) bool) bool {
		return slices.ContainsFunc(flagged, func(e subsetElement) bool { return e.is(member) && flag(&e) })
	}
	switch {
	case f.summary == "data":
		return func(m string) bool { return m != "text" }
	case f.summary == "text":
		return func(m string) bool {
			return m == "text" || any(m, func(e *subsetElement) bool { return e.mandatory })
		}
	case f.summary == "true":
		return func(m string) bool {
			return any(m, func(e *subsetElement) bool { return e.summary || e.mandatory || e.modifier })
		}
	case len(f.elements) > 0 && match:
		return func(m string) bool {
			return f.chosen(typ, m) || any(m, func(e *subsetElement) bool { return e.mandatory || e.modifier })
		}
	}
	return nil
}

// chosen reports whether _elements names a member: name, Type.name, or value for valueQuantity. Of
// a path into an element the whole element is shown.
func (f *form) chosen(typ, member string) bool {
	return slices.ContainsFunc(f.elements, func(name string) bool {
		first, rest, dotted := strings.Cut(name, ".")
		if dotted && first[0] >= 'A' && first[0] <= 'Z' {
			if first != typ {
				return false
			}
			first, _, _ = strings.Cut(rest, ".")
		}
		e := subsetElement{name: first}
		return e.is(member) || slices.ContainsFunc(f.table.elements(typ), func(t subsetElement) bool {
			return t.choice && t.name == first && t.is(member)
		})
	})
}

// subsetted marks a resource that was not shown in full, so that nobody writes it back
// (FHIR R4 search.html#summary).
const subsetted = `{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}`

// show is a resource as the form has it. What is shown keeps its text.
func (f *form) show(r Resource, match bool) ([]byte, error) {
	keeps := f.keeps(r.Key.Type, match)
	if keeps == nil {
		return r.Body, nil
	}
	t, err := fhirjson.Parse(r.Body, fhirjson.Limits{Bytes: max(1, len(r.Body))})
	if err != nil {
		return nil, fmt.Errorf("read %s version %d: %w", r.Key, r.Version, err)
	}
	var out bytes.Buffer
	sep, marked := byte('{'), false
	for n := range t.Children(t.Root()) {
		name := t.Key(n)
		if member := strings.TrimPrefix(name, "_"); !slices.Contains(always, member) && !keeps(member) {
			continue
		}
		out.WriteByte(sep)
		sep = ','
		out.Write(encode(name))
		out.WriteByte(':')
		if name == "meta" {
			out.Write(tagged(t, n))
			marked = true
			continue
		}
		out.Write(t.Raw(n))
	}
	if !marked { // a change feed may send none
		out.WriteByte(sep)
		out.WriteString(`"meta":{"tag":[` + subsetted + `]}`)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// tagged is the text of a meta with one tag more. What is no meta, or no list of tags, is replaced:
// the source is in charge of its resources, but a part that looks like a whole is dangerous.
func tagged(t *fhirjson.Tree, meta fhirjson.Node) []byte {
	text, tags := t.Raw(meta), t.Get(meta, "tag")
	from := t.Offset(tags) - t.Offset(meta)
	switch {
	case t.Kind(meta) != fhirjson.Object || t.Len(meta) == 0:
		return []byte(`{"tag":[` + subsetted + `]}`)
	case tags == 0:
		return slices.Concat(text[:len(text)-1], []byte(`,"tag":[`+subsetted+`]}`))
	case t.Kind(tags) != fhirjson.Array || t.Len(tags) == 0:
		return slices.Concat(text[:from], []byte("["+subsetted+"]"), text[from+len(t.Raw(tags)):])
	}
	end := from + len(t.Raw(tags)) - 1
	return slices.Concat(text[:end], []byte(","+subsetted), text[end:])
}
