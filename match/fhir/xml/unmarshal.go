package xml

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// Unmarshal turns a resource of a version from XML into compact JSON. Members come in the order of
// the StructureDefinition, whatever order the document has. How large a document may be is the
// caller's affair; the JSON is about twice as long at most. An error is a *fhir.Error.
func Unmarshal(v fhir.Version, src []byte) ([]byte, error) {
	m := model.For(v)
	if m == nil {
		return nil, fmt.Errorf("xml: no types of FHIR version %q", v)
	}
	if len(src) > math.MaxInt32 {
		return nil, fhir.Refuse(fhir.IssueTooLong, "", "the document is longer than 2 GiB")
	}
	t, err := read(src)
	if err != nil {
		return nil, err
	}
	d := decoder{tree: t, model: m, out: make([]byte, 0, len(src))}
	if err := d.resource(1); err != nil {
		return nil, err
	}
	return d.out, nil
}

// decoder writes JSON from a tree.
type decoder struct {
	*tree
	model *model.Model
	out   []byte
	path  path
	kids  []decoded // of the elements that are being written, the innermost last
}

// decoded is a child of an element with what it is.
type decoded struct {
	field *field
	node  int32
}

// refuse says what is wrong with a node.
func (d *decoder) refuse(n int32, t fhir.IssueType, format string, args ...any) error {
	return d.scanner.refuse(int(d.nodes[n].at), t, d.path.String(), format, args...)
}

func (d *decoder) text(from, length uint32) []byte { return d.src[from : from+length] }

func (d *decoder) name(n int32) []byte {
	return d.text(d.nodes[n].name, uint32(d.nodes[n].nameLen))
}

// called names an element or attribute of a client in what is said to it, if that can be one.
func (d *decoder) called(n int32) string {
	name := d.name(n)
	if len(name) > 40 || slices.ContainsFunc(name, func(c byte) bool { return c|0x20 < 'a' || c|0x20 > 'z' }) {
		return ""
	}
	return " " + string(name)
}

// resource writes a resource from its element.
func (d *decoder) resource(n int32) error {
	e := &d.nodes[n]
	if e.kind != elementNode || e.ns != fhirNamespace {
		return d.refuse(n, fhir.IssueStructure, "the element of a resource must be in the namespace "+namespaceFHIR)
	}
	t := d.model.Type(string(d.name(n)))
	if t == nil || t.Kind != model.Resource || t.Abstract {
		return d.refuse(n, fhir.IssueStructure, "the element%s is no resource type of FHIR %s", d.called(n), d.model.Version())
	}
	if len(d.path) == 0 {
		d.path = append(d.path, step{t.Name, -1})
	}
	d.out = append(d.out, `{"resourceType":"`...)
	d.out = append(d.out, t.Name...)
	d.out = append(d.out, '"')
	return d.members(n, shapeOf(t), false)
}

// object writes an element of a complex type, or of a primitive what it has beside its value.
func (d *decoder) object(n int32, s *shape) error {
	d.out = append(d.out, '{')
	return d.members(n, s, true)
}

// members writes what an element holds, and closes its object.
func (d *decoder) members(n int32, s *shape, first bool) error {
	base := len(d.kids)
	if err := d.collect(n, s); err != nil {
		return err
	}
	for from := base; from < len(d.kids); {
		f, to := d.kids[from].field, from+1
		for to < len(d.kids) && d.kids[to].field == f {
			to++
		}
		if !first {
			d.out = append(d.out, ',')
		}
		first = false
		if err := d.field(f, from, to); err != nil {
			return err
		}
		from = to
	}
	d.kids = d.kids[:base]
	d.out = append(d.out, '}')
	return nil
}

// collect finds out what the children of an element are, and puts them in order.
func (d *decoder) collect(n int32, s *shape) error {
	base := len(d.kids)
	for c := d.nodes[n].first; c != 0; c = d.nodes[c].next {
		f := s.fields[string(d.name(c))]
		switch kid := &d.nodes[c]; {
		case kid.kind == attributeNode && s.typ.Kind == model.Primitive && string(d.name(c)) == "value":
			continue // its reader has seen it
		case kid.kind == attributeNode && (f == nil || !f.attribute):
			return d.refuse(c, fhir.IssueStructure, "the attribute%s is not one that FHIR %s has here", d.called(c), d.model.Version())
		case kid.kind == narrativeNode && (f == nil || f.form != xhtmlForm):
			return d.refuse(c, fhir.IssueStructure, "XHTML has its place in the div of a narrative, and not")
		case kid.kind == elementNode && kid.ns != fhirNamespace:
			return d.refuse(c, fhir.IssueStructure, "the element%s is not in the namespace %s", d.called(c), namespaceFHIR)
		case kid.kind == elementNode && f != nil && f.form == xhtmlForm:
			return d.refuse(c, fhir.IssueStructure, "the div of a narrative must be in the namespace "+namespaceXHTML)
		case kid.kind == elementNode && (f == nil || f.attribute):
			return d.refuse(c, fhir.IssueStructure, "the element%s is not one that FHIR %s has here", d.called(c), d.model.Version())
		}
		d.kids = append(d.kids, decoded{f, c})
	}
	byPlace := func(a, b decoded) int { return a.field.place - b.field.place }
	if kids := d.kids[base:]; !slices.IsSortedFunc(kids, byPlace) {
		slices.SortStableFunc(kids, byPlace)
	}
	return nil
}

// field writes a member with all values that the element has of it: d.kids[from:to].
func (d *decoder) field(f *field, from, to int) error {
	d.path = append(d.path, step{f.name, -1})
	defer func() { d.path = d.path[:len(d.path)-1] }()
	if to > from+1 && !f.many {
		return d.refuse(d.kids[from+1].node, fhir.IssueStructure, "an element that does not repeat is given again")
	}
	if f.form.primitive() && !f.attribute {
		return d.primitives(f, from, to)
	}
	d.key("", f)
	return d.list(f, from, to, func(n int32) error {
		switch {
		case f.attribute:
			return d.value(f, n, n)
		case f.form == xhtmlForm:
			d.out = appendString(d.out, d.narratives[d.nodes[n].value])
			return nil
		case f.form == resourceForm:
			return d.wrapped(n)
		}
		return d.object(n, shapeOf(f.typ))
	})
}

func (d *decoder) key(prefix string, f *field) {
	d.out = append(append(append(append(d.out, '"'), prefix...), f.name...), `":`...)
}

// list writes the values of a field, as an array if it repeats.
func (d *decoder) list(f *field, from, to int, write func(n int32) error) error {
	if !f.many {
		return write(d.kids[from].node)
	}
	last := len(d.path) - 1
	for i := from; i < to; i++ {
		d.out = append(d.out, "[,"[min(i-from, 1)])
		d.path[last].index = i - from
		if err := write(d.kids[i].node); err != nil {
			return err
		}
	}
	d.out = append(d.out, ']')
	return nil
}

// wrapped writes the resource within an element such as contained.
func (d *decoder) wrapped(n int32) error {
	only := d.nodes[n].first
	switch {
	case only == 0:
		return d.refuse(n, fhir.IssueStructure, "an element that holds a resource is empty")
	case d.nodes[only].kind == attributeNode:
		return d.refuse(only, fhir.IssueStructure, "an element that holds a resource has no attributes, but one is")
	case d.nodes[only].next != 0:
		return d.refuse(d.nodes[only].next, fhir.IssueStructure, "an element that holds a resource has another element")
	}
	return d.resource(only)
}

// primitives writes the values of a primitive, and beside them, under a name with _ before it,
// their ids and extensions (FHIR R4 json.html#primitive).
func (d *decoder) primitives(f *field, from, to int) error {
	values, more := false, false
	for i := from; i < to; i++ {
		d.at(f, i-from)
		value, other := d.parts(d.kids[i].node)
		if value == 0 && !other {
			return d.refuse(d.kids[i].node, fhir.IssueStructure, "an element without value, id and extension")
		}
		values, more = values || value != 0, more || other
	}
	if values {
		d.key("", f)
		if err := d.list(f, from, to, func(n int32) error { return d.valueOrNull(f, n) }); err != nil {
			return err
		}
	}
	if !more {
		return nil
	}
	if values {
		d.out = append(d.out, ',')
	}
	d.key("_", f)
	return d.list(f, from, to, func(n int32) error {
		if _, other := d.parts(n); !other {
			d.out = append(d.out, "null"...)
			return nil
		}
		return d.object(n, shapeOf(f.typ))
	})
}

func (d *decoder) at(f *field, index int) {
	if f.many {
		d.path[len(d.path)-1].index = index
	}
}

// parts finds the value of a primitive, and whether it has anything else.
func (d *decoder) parts(n int32) (value int32, other bool) {
	for c := d.nodes[n].first; c != 0; c = d.nodes[c].next {
		if d.nodes[c].kind == attributeNode && string(d.name(c)) == "value" {
			value = c
			continue
		}
		other = true
	}
	return value, other
}

func (d *decoder) valueOrNull(f *field, n int32) error {
	value, _ := d.parts(n)
	if value == 0 {
		d.out = append(d.out, "null"...)
		return nil
	}
	return d.value(f, n, value)
}

// value writes the value of an attribute in the JSON type of its field.
func (d *decoder) value(f *field, n, attribute int32) error {
	a := &d.nodes[attribute]
	text := unescaped(d.text(a.value, a.valueLen))
	if f.form == textForm {
		d.out = appendString(d.out, text)
		return nil
	}
	text = bytes.Trim(text, " ") // as XML Schema does for these types
	if f.form == integerForm {
		text = bytes.TrimPrefix(text, []byte("+")) // FHIR allows it and JSON does not
	}
	ok, what := false, ""
	switch f.form {
	case booleanForm:
		ok, what = string(text) == "true" || string(text) == "false", "true or false"
	case numberForm:
		ok, what = isNumber(text), "a decimal such as 1.0"
	case integerForm:
		ok, what = isNumber(text) && isInteger(text), "an integer"
	}
	if !ok {
		return d.refuse(n, fhir.IssueValue, "the value must be %s", what)
	}
	d.out = append(d.out, text...)
	return nil
}

// isInteger reports whether a number has neither fraction nor exponent.
func isInteger(number []byte) bool { return !bytes.ContainsAny(number, ".eE") }

// isNumber is JSON's grammar of a number, which is that of FHIR's decimal (RFC 8259 section 6).
func isNumber(b []byte) bool {
	b = bytes.TrimPrefix(b, []byte("-"))
	whole, b := digits(b)
	if len(whole) == 0 || len(whole) > 1 && whole[0] == '0' {
		return false
	}
	if len(b) > 0 && b[0] == '.' {
		var fraction []byte
		if fraction, b = digits(b[1:]); len(fraction) == 0 {
			return false
		}
	}
	if len(b) > 0 && b[0]|0x20 == 'e' {
		b = b[1:]
		if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		var exponent []byte
		if exponent, b = digits(b); len(exponent) == 0 {
			return false
		}
	}
	return len(b) == 0
}

func digits(b []byte) (digits, rest []byte) {
	i := 0
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return b[:i], b[i:]
}

// appendString writes text, which is UTF-8, as a string of JSON.
func appendString(out, text []byte) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	from := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		out = append(out, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(out, text[from:]...), '"')
}
