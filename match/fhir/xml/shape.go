package xml

import (
	"strings"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// The namespaces of FHIR's XML.
const (
	namespaceFHIR  = "http://hl7.org/fhir"
	namespaceXHTML = "http://www.w3.org/1999/xhtml"
	namespaceXSI   = "http://www.w3.org/2001/XMLSchema-instance"
)

// form is how a field is written.
type form uint8

const (
	complexForm  form = iota // an object; an element with children
	resourceForm             // an object with a resourceType; an element around that of the resource
	textForm                 // a primitive that is a string in JSON
	numberForm               // a decimal
	integerForm              // a number without fraction
	booleanForm              // true or false
	xhtmlForm                // a string in JSON; the div itself in XML
)

// primitive reports whether the value stands in an attribute of the element.
func (f form) primitive() bool { return f >= textForm && f <= booleanForm }

// field is an element of a type; of a choice there is one for each of its types.
type field struct {
	name      string // the JSON member and the XML element
	place     int    // in the order of the type's XML
	form      form
	many      bool
	attribute bool // an attribute in XML: the id of an element, the url of an extension
	typ       *model.Type
}

// shape is what both directions know of a type. It never changes.
type shape struct {
	typ    *model.Type
	fields map[string]*field
}

// shapes holds the shape of each type, made when it is first met.
var shapes sync.Map // *model.Type -> *shape

func shapeOf(t *model.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{typ: t, fields: map[string]*field{}}
	for _, e := range t.Elements() {
		for _, of := range e.Types {
			f := &field{name: e.Key(of), place: len(s.fields), form: formOf(of), many: e.Many, typ: of}
			// The id of a resource is an element, that of everything else an attribute
			// (FHIR R4 xml.html).
			f.attribute = f.name == "id" && t.Kind != model.Resource || f.name == "url" && t.Name == "Extension"
			s.fields[f.name] = f
		}
	}
	kept, _ := shapes.LoadOrStore(t, s)
	return kept.(*shape)
}

func formOf(t *model.Type) form {
	switch {
	case t.Kind == model.Resource:
		return resourceForm
	case t.Kind == model.Complex:
		return complexForm
	case t.Name == "xhtml":
		return xhtmlForm
	case t.Name == "boolean":
		return booleanForm
	case t.Name == "decimal":
		return numberForm
	case t.Is("integer"): // and unsignedInt and positiveInt; an integer64 is a string in JSON
		return integerForm
	}
	return textForm
}

// step is a place on the way to an element, for errors.
type step struct {
	name  string
	index int // among the values of a repeating element; -1 if it does not repeat
}

// path is the way to the element that is worked on.
type path []step

// String writes the path as a FHIRPath expression.
func (p path) String() string {
	var b strings.Builder
	for i, s := range p {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s.name)
		if s.index >= 0 {
			b.WriteByte('[')
			b.WriteString(itoa(s.index))
			b.WriteByte(']')
		}
	}
	return b.String()
}
