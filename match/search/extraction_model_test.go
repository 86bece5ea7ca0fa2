package search

import (
	stdjson "encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/search/internal/paths"
)

// maker makes resources out of the type model, with every element that a type has, so that no
// parameter is left without a value. Each variant takes other types for the choices.
type maker struct {
	model     *model.Model
	constants map[string][]string // of where(name = 'constant'), by name
	urls      map[string][]string // of the extensions that parameters of a type read
	variant   int
	words     int
	stack     []*model.Type
}

// variants is how many resources of a type are made: more than any choice that a parameter reads
// has types.
const variants = 12

func newMaker(v fhir.Version) *maker {
	k := &maker{model: model.For(v), urls: map[string][]string{}, constants: map[string][]string{"comparator": {"<", ">="}}}
	for _, t := range For(v).types {
		for _, p := range t.family.official {
			for _, x := range p.paths {
				for _, st := range x.steps {
					k.take(t.name, st)
				}
			}
		}
	}
	for name := range k.constants {
		slices.Sort(k.constants[name])
	}
	return k
}

func (k *maker) take(typ string, st step) {
	switch {
	case st.filter == filterExtension, st.filter == filterEquals && st.key.String() == "url":
		if !slices.Contains(k.urls[typ], st.value) {
			k.urls[typ] = append(k.urls[typ], st.value)
		}
	case st.filter == filterEquals:
		if name := st.key.String(); !slices.Contains(k.constants[name], st.value) {
			k.constants[name] = append(k.constants[name], st.value)
		}
	}
}

// resource makes one resource.
func (k *maker) resource(name string) []byte {
	o := k.object(k.model.Type(name), 0)
	o["resourceType"], o["id"] = name, fmt.Sprintf("made%d", k.variant)
	body, err := stdjson.Marshal(o)
	if err != nil {
		panic(err)
	}
	return body
}

func (k *maker) object(t *model.Type, item int) map[string]any {
	k.stack = append(k.stack, t)
	defer func() { k.stack = k.stack[:len(k.stack)-1] }()
	o := map[string]any{}
	for i, e := range t.Elements() {
		switch e.Name {
		case "contained", "modifierExtension", "id":
			continue
		case "extension":
			if urls := k.urls[k.stack[0].Name]; len(k.stack) <= 2 && len(urls) > 0 {
				o["extension"] = k.extensions(urls)
			}
			continue
		}
		typ := e.Types[(k.variant+item+i)%len(e.Types)]
		if ref := k.model.Type("Reference"); len(e.Types) > 20 && k.variant%3 == 0 && slices.Contains(e.Types, ref) {
			typ = ref
		}
		if k.tooDeep(typ) {
			continue
		}
		key := e.Key(typ)
		if !e.Many {
			o[key] = k.value(e, typ, item)
			continue
		}
		list := []any{k.value(e, typ, 2*item)}
		if len(k.stack) < 3 {
			list = append(list, k.value(e, typ, 2*item+1))
		}
		o[key] = list
	}
	return o
}

// tooDeep keeps types that hold themselves from going on for ever.
func (k *maker) tooDeep(t *model.Type) bool {
	same := 0
	for _, s := range k.stack {
		if s == t {
			same++
		}
	}
	return len(k.stack) > 7 || len(k.stack) > 2 && !strings.Contains(t.Name, ".") && !shallow[t.Name] && t.Kind != model.Primitive || same > 1 || t.Name == "Extension" || t.Kind == model.Resource && len(k.stack) > 2
}

// shallow are the data types that hold no large ones.
var shallow = map[string]bool{"CodeableConcept": true, "Coding": true, "Identifier": true, "Reference": true, "Quantity": true,
	"Period": true, "Range": true, "Ratio": true, "Money": true, "Age": true, "Duration": true, "CodeableReference": true,
	"SimpleQuantity": true, "Timing": true, "ContactPoint": true, "Narrative": true}

// extensions makes some of each URL that a parameter reads, of several types.
func (k *maker) extensions(urls []string) []any {
	var types []*model.Type
	for _, t := range k.model.Type("Extension").Element("value").Types {
		for kind := range kinds {
			if _, ok := paths.Leaf(kind, t); ok || t.Name == "CodeableReference" {
				types = append(types, t)
				break
			}
		}
	}
	var out []any
	for _, url := range urls {
		for n := range 5 {
			t := types[(k.variant*5+n)%len(types)]
			out = append(out, map[string]any{"url": url, "value" + strings.ToUpper(t.Name[:1]) + t.Name[1:]: k.value(&model.Element{Name: "value"}, t, n)})
		}
	}
	return out
}

func (k *maker) value(e *model.Element, t *model.Type, item int) any {
	n := k.variant + item
	switch {
	case t.Kind == model.Resource: // in a Bundle
		name := []string{"Composition", "MessageHeader", "Patient"}[n%3]
		return map[string]any{"resourceType": name, "id": fmt.Sprintf("in%d", n)}
	case t.Name == "Reference":
		target := "Patient"
		if len(e.Targets) > 0 && (len(e.Targets) < variants || n%2 == 0) && e.Targets[0] != "Resource" {
			target = e.Targets[n%len(e.Targets)]
		}
		return map[string]any{"reference": fmt.Sprintf("%s/r%d", target, n), "display": "Somebody", "identifier": map[string]any{"value": fmt.Sprint(n)}}
	case t.Kind != model.Primitive:
		return k.object(t, item)
	}
	if c := k.constants[e.Name]; len(c) > 0 && t.Name == "code" {
		return c[n%len(c)]
	}
	switch t.Name {
	case "boolean":
		return n%2 == 0
	case "integer", "positiveInt", "unsignedInt":
		return n
	case "integer64":
		return fmt.Sprint(n)
	case "decimal":
		return stdjson.Number(fmt.Sprintf("%d.50", n))
	case "date":
		return fmt.Sprintf("2020-05-%02d", n%28+1)
	case "dateTime", "instant":
		return fmt.Sprintf("2020-05-%02dT10:00:00Z", n%28+1)
	case "time":
		return "10:00:00"
	case "base64Binary":
		return "aGVsbG8="
	case "uri", "url", "canonical", "oid", "uuid":
		return fmt.Sprintf("http://example.org/u%d|%d", n, n)
	case "xhtml":
		k.words++ // no two alike: a union takes equal texts for one
		return fmt.Sprintf("<div>word%d</div>", k.words)
	}
	return fmt.Sprintf("text%d", n)
}

// unreachable are parameters that no resource can have a value for, with the reason.
var unreachable = map[string]string{
	"Device?serial-number":                  "R5 compares Identifier.type, which is no text, with a text",
	"Observation?value-canonical":           "R5's choice has no canonical",
	"Observation?component-value-canonical": "R5's choice has no canonical",
	"Composition?section-text":              "read as words, which found shows as one",
	"Location?contains":                     "the boundary must be GeoJSON",
}

// Every parameter of every version reads, from resources that have every element, what FHIRPath
// gives for its official expression, and each has a value in one of them.
func TestEveryParameterReadsWhatItsExpressionSays(t *testing.T) {
	for _, v := range fhir.Versions() {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			k, d, seen := newMaker(v), For(v), map[*param]int{}
			both := pairs(t, v)
			var tree json.Tree
			r := NewResource(d, nil)
			for _, name := range d.names {
				for k.variant = range variants {
					if testing.Short() && k.variant%4 > 0 {
						continue
					}
					if err := tree.Parse(k.resource(name), json.Limits{}); err != nil {
						t.Fatal(err)
					}
					r.Reset(&tree, Envelope{})
					compare(t, r, both[name], seen)
					if t.Failed() {
						return
					}
				}
			}
			var bare []string
			for name, list := range both {
				for _, x := range list {
					if seen[x.path] == 0 && unreachable[name+"?"+x.path.code] == "" {
						bare = append(bare, name+"?"+x.path.code)
					}
				}
			}
			slices.Sort(bare)
			if len(bare) > 0 && !testing.Short() {
				t.Errorf("no resource has a value for %v", bare)
			}
			t.Logf("%d parameters with a value", len(seen))
		})
	}
}
