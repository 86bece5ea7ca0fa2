package xml

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// Marshal turns a resource of a version from JSON into XML without white space between elements
// and without an XML declaration. An error is a *fhir.Error: the JSON is not strict, or it holds
// what FHIR's XML has no place for. What the version's StructureDefinitions allow always has its
// XML, but for control characters in strings.
func Marshal(v fhir.Version, json []byte) ([]byte, error) { return marshal(v, json, false) }

// MarshalIndent is Marshal with every element on a line of its own, indented by two spaces.
// Narratives stay as they are.
func MarshalIndent(v fhir.Version, json []byte) ([]byte, error) { return marshal(v, json, true) }

// jsonDepth is how deep the JSON may be: a Bundle of resources that are as deep as they may be.
const jsonDepth = 2 * fhirjson.DefaultDepth

// The XML may be this many times as long as its JSON, or freeBytes. Names of elements take more
// room than names of members, twice that of usual resources; what is far beyond was made for it.
const (
	growth    = 8
	freeBytes = 1 << 20
)

func marshal(v fhir.Version, json []byte, indent bool) ([]byte, error) {
	m := model.For(v)
	if m == nil {
		return nil, fmt.Errorf("xml: no types of FHIR version %q", v)
	}
	t := fhirjson.Borrow()
	defer t.Release()
	if err := t.Parse(json, fhirjson.Limits{Depth: jsonDepth, Bytes: max(1, len(json))}); err != nil {
		return nil, fhir.Refuse(fhir.IssueStructure, "", "not strict JSON: "+err.Error())
	}
	e := encoder{
		tree: t, model: m, indent: indent,
		out: make([]byte, 0, len(json)+len(json)/2), most: max(freeBytes, growth*len(json)),
	}
	if err := e.resource(t.Root(), true); err != nil {
		return nil, err
	}
	return e.out, nil
}

// encoder writes XML from a tree of JSON.
type encoder struct {
	tree   *fhirjson.Tree
	model  *model.Model
	out    []byte
	most   int
	indent bool
	depth  int
	path   path
	kids   []encoded // of the objects that are being written, the innermost last
}

// encoded is a member of an object with what it is. Of a primitive it is also the member that
// holds ids and extensions.
type encoded struct {
	field     *field
	value     fhirjson.Node
	extension fhirjson.Node
}

func (e *encoder) refuse(format string, args ...any) error {
	return fhir.Refuse(fhir.IssueProcessing, e.path.String(), "cannot be written as XML: "+fmt.Sprintf(format, args...))
}

// resource writes a resource. The outermost element says the namespace for all.
func (e *encoder) resource(n fhirjson.Node, outermost bool) error {
	if e.tree.Kind(n) != fhirjson.Object {
		return e.refuse("a resource is a JSON object")
	}
	t := e.model.Type(e.tree.Str(e.tree.Get(n, "resourceType")))
	if t == nil || t.Kind != model.Resource || t.Abstract {
		return e.refuse("the resourceType is no resource type of FHIR %s", e.model.Version())
	}
	namespace := ""
	if outermost {
		e.path = append(e.path, step{t.Name, -1})
		namespace = ` xmlns="` + namespaceFHIR + `"`
	}
	return e.object(t.Name, namespace, n, 0, nil, shapeOf(t))
}

// object writes an element of a complex type or of a primitive. n is the object that holds its
// members, no node for a primitive that is its value alone.
func (e *encoder) object(name, namespace string, n, value fhirjson.Node, f *field, s *shape) error {
	base := len(e.kids)
	if err := e.collect(n, s); err != nil {
		return err
	}
	e.line()
	e.out = append(append(append(e.out, '<'), name...), namespace...)
	from := base
	for ; from < len(e.kids) && e.kids[from].field.attribute; from++ {
		if err := e.attribute(e.kids[from]); err != nil {
			return err
		}
	}
	if value != 0 {
		if err := e.value("value", f, value); err != nil {
			return err
		}
	}
	mark := len(e.out)
	e.out = append(e.out, '>')
	e.depth++
	for i := from; i < len(e.kids); i++ {
		if err := e.field(e.kids[i]); err != nil {
			return err
		}
	}
	e.depth--
	e.kids = e.kids[:base]
	switch empty := len(e.out) == mark+1; {
	case empty && from == base && value == 0 && s.typ.Kind == model.Primitive:
		return e.refuse("it has neither value nor extension")
	case empty:
		e.out = append(e.out[:mark], "/>"...)
	default:
		e.close(name)
	}
	if len(e.out) > e.most {
		return fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf("the XML is more than %d times as long as the JSON", growth))
	}
	return nil
}

func (e *encoder) close(name string) {
	e.line()
	e.out = append(append(append(e.out, "</"...), name...), '>')
}

// line begins a line where the output is indented.
func (e *encoder) line() {
	if !e.indent || len(e.out) == 0 {
		return
	}
	e.out = append(e.out, '\n')
	for range e.depth {
		e.out = append(e.out, "  "...)
	}
}

// collect finds out what the members of an object are, joins those that belong together, and puts
// them in the order of the XML. Attributes come first, since id and url are first in their types
// but for extension, which has to be after them.
func (e *encoder) collect(n fhirjson.Node, s *shape) error {
	base, t := len(e.kids), e.tree
	for m := t.First(n); m != 0; m = t.Next(m) {
		key := t.KeyText(m)
		if s.typ.Kind == model.Resource && string(key) == "resourceType" {
			continue
		}
		sibling := len(key) > 0 && key[0] == '_'
		if sibling {
			key = key[1:]
		}
		f := s.fields[string(key)]
		if f == nil || sibling && (!f.form.primitive() || f.attribute) {
			return e.refuse("it has a member that FHIR %s does not have", e.model.Version())
		}
		if t.Kind(m) == fhirjson.Null {
			continue // it says nothing
		}
		i := base
		for i < len(e.kids) && e.kids[i].field != f {
			i++
		}
		if i == len(e.kids) {
			e.kids = append(e.kids, encoded{field: f})
		}
		if sibling {
			e.kids[i].extension = m
		} else {
			e.kids[i].value = m
		}
	}
	slices.SortFunc(e.kids[base:], func(a, b encoded) int {
		if a.field.attribute != b.field.attribute {
			if a.field.attribute {
				return -1
			}
			return 1
		}
		return a.field.place - b.field.place
	})
	return nil
}

func (e *encoder) attribute(k encoded) error {
	e.enter(k.field)
	defer e.leave()
	return e.value(k.field.name, k.field, k.value)
}

func (e *encoder) enter(f *field) { e.path = append(e.path, step{f.name, -1}) }
func (e *encoder) leave()         { e.path = e.path[:len(e.path)-1] }

// field writes the elements of a member.
func (e *encoder) field(k encoded) error {
	e.enter(k.field)
	defer e.leave()
	t := e.tree
	for _, n := range []fhirjson.Node{k.value, k.extension} {
		if n != 0 && k.field.many != (t.Kind(n) == fhirjson.Array) {
			if k.field.many {
				return e.refuse("it repeats, so its JSON is an array")
			}
			return e.refuse("it does not repeat, so its JSON is no array")
		}
	}
	if !k.field.many {
		return e.element(k.field, k.value, k.extension)
	}
	last := len(e.path) - 1
	value, extension := t.First(k.value), t.First(k.extension)
	for i := 0; value != 0 || extension != 0; i++ {
		e.path[last].index = i
		if err := e.element(k.field, value, extension); err != nil {
			return err
		}
		value, extension = t.Next(value), t.Next(extension)
	}
	return nil
}

// element writes one value of a member.
func (e *encoder) element(f *field, value, extension fhirjson.Node) error {
	switch f.form {
	case xhtmlForm:
		return e.narrative(value)
	case resourceForm:
		return e.wrapped(f, value)
	case complexForm:
		if e.tree.Kind(value) != fhirjson.Object {
			return e.refuse("its JSON is an object")
		}
		return e.object(f.name, "", value, 0, f, shapeOf(f.typ))
	}
	// In arrays null keeps the place of what is not there.
	if e.tree.Kind(value) == fhirjson.Null {
		value = 0
	}
	switch e.tree.Kind(extension) {
	case fhirjson.Null:
		extension = 0
	case fhirjson.Object, fhirjson.Invalid:
	default:
		return e.refuse("id and extensions of a primitive are a JSON object")
	}
	return e.object(f.name, "", extension, value, f, shapeOf(f.typ))
}

// wrapped writes an element that holds a resource.
func (e *encoder) wrapped(f *field, n fhirjson.Node) error {
	e.line()
	e.out = append(append(append(e.out, '<'), f.name...), '>')
	e.depth++
	if err := e.resource(n, false); err != nil {
		return err
	}
	e.depth--
	e.close(f.name)
	return nil
}

func (e *encoder) narrative(n fhirjson.Node) error {
	if e.tree.Kind(n) != fhirjson.String {
		return e.refuse("a narrative is a string in JSON")
	}
	div, err := readNarrative(e.tree.Text(n))
	if err != nil {
		return e.refuse("the narrative: %s", err)
	}
	e.line()
	e.out = append(e.out, div...)
	return nil
}

// value writes a primitive as an attribute.
func (e *encoder) value(name string, f *field, n fhirjson.Node) error {
	t := e.tree
	text := t.Raw(n)
	ok, what := false, ""
	switch kind := t.Kind(n); f.form {
	case booleanForm:
		ok, what = kind == fhirjson.True || kind == fhirjson.False, "true or false"
	case numberForm:
		ok, what = kind == fhirjson.Number, "a number"
	case integerForm:
		ok, what = kind == fhirjson.Number && isInteger(text), "an integer"
	default:
		ok, what = kind == fhirjson.String, "a string"
		switch {
		case ok:
			text = t.Text(n)
		case f.typ.Name == "integer64": // a string by R5's text, a number in HL7's own examples
			ok = kind == fhirjson.Number && isInteger(text)
		}
	}
	if !ok {
		return e.refuse("its JSON is %s", what)
	}
	e.out = append(append(append(append(e.out, ' '), name...), '='), '"')
	if e.out, ok = appendValue(e.out, text); !ok {
		return e.refuse("it holds a character that XML does not allow")
	}
	e.out = append(e.out, '"')
	return nil
}

// appendValue writes the value of an attribute; ok is false if XML cannot carry it. White space
// other than the space is escaped, since a reader would take it for a space.
func appendValue(out, text []byte) (_ []byte, ok bool) {
	from := 0
	for i, c := range text {
		escape := ""
		switch c {
		case '&':
			escape = "&amp;"
		case '<':
			escape = "&lt;"
		case '>':
			escape = "&gt;"
		case '"':
			escape = "&quot;"
		case '\n':
			escape = "&#xA;"
		case '\r':
			escape = "&#xD;"
		case '\t':
			escape = "&#x9;"
		default:
			// Of what is UTF-8 beyond ASCII, U+FFFE and U+FFFF alone are no characters of XML.
			if c < ' ' || c == 0xEF && (bytes.HasPrefix(text[i:], []byte("\uFFFE")) || bytes.HasPrefix(text[i:], []byte("\uFFFF"))) {
				return out, false
			}
			continue
		}
		out = append(append(out, text[from:i]...), escape...)
		from = i + 1
	}
	return append(out, text[from:]...), true
}
