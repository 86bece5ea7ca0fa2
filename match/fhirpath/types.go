package fhirpath

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// typ is a type of the static pass: one of FHIR, or one of the System namespace.
type typ struct {
	system kind
	fhir   *model.Type
}

func (t typ) String() string {
	if t.fhir != nil {
		return t.fhir.Name
	}
	return t.system.String()
}

// value is the System type that items of the type convert to; kindNone for complex ones.
func (t typ) value() kind {
	if t.fhir == nil {
		return t.system
	}
	if t.fhir.Is("Quantity") {
		return kindQuantity
	}
	return primitiveKind(t.fhir)
}

// open reports whether items may be of a descendant that has more elements.
func (t typ) open() bool { return t.fhir != nil && t.fhir.Abstract }

// shape is what the static pass knows of a collection.
type shape struct {
	any       bool  // the type is not known
	types     []typ // one of these; none of them and not any: it is always empty
	many      bool  // there may be several
	unordered bool  // the order means nothing
}

// never reports whether the collection is known to be empty.
func (s shape) never() bool { return !s.any && len(s.types) == 0 }

func systemShape(k kind) shape { return shape{types: []typ{{system: k}}} }

var anything = shape{any: true, many: true}

// booleans reports whether every item is a boolean.
func (s shape) booleans() bool {
	return !s.any && len(s.types) > 0 && !slices.ContainsFunc(s.types, func(t typ) bool { return t.value() != kindBoolean })
}

// may reports whether an item may convert to one of the kinds.
func (s shape) may(kinds ...kind) bool {
	if s.any || len(s.types) == 0 {
		return true
	}
	return slices.ContainsFunc(s.types, func(t typ) bool { return t.open() || slices.Contains(kinds, t.value()) })
}

func (s shape) one() shape {
	s.many, s.unordered = false, false
	return s
}

func (s shape) with(o shape) shape {
	r := shape{any: s.any || o.any, many: true, unordered: s.unordered || o.unordered, types: slices.Clone(s.types)}
	for _, t := range o.types {
		if !slices.Contains(r.types, t) {
			r.types = append(r.types, t)
		}
	}
	return r
}

func (s shape) String() string {
	names := make([]string, 0, 4)
	for i, t := range s.types {
		if i == 3 {
			names = append(names, "...")
			break
		}
		names = append(names, t.String())
	}
	return strings.Join(names, " or ")
}

// member gives the shape of the elements of that name, and whether there is such an element.
func (s shape) member(name string, lenient bool) (shape, bool) {
	if s.any {
		return shape{any: true, many: true}, true
	}
	r, found := shape{many: s.many, unordered: s.unordered}, len(s.types) == 0
	for _, t := range s.types {
		switch e := t.element(name, lenient); {
		case e != nil:
			found = true
			r.many = r.many || e.Many
			for _, of := range e.Types {
				r.types = append(r.types, typ{fhir: of})
			}
		case t.open():
			return shape{any: true, many: true}, true
		case t.system == kindTypeInfo && (name == "name" || name == "namespace"):
			found = true
			r.types = append(r.types, typ{system: kindString})
		case t.fhir != nil && t.fhir.Kind == model.Primitive && name == "value":
			found = true
			r.types = append(r.types, typ{system: t.value()})
		}
	}
	slices.SortStableFunc(r.types, func(a, b typ) int { return strings.Compare(a.String(), b.String()) })
	r.types = slices.Compact(r.types)
	return r, found
}

func (t typ) element(name string, lenient bool) *model.Element {
	if t.fhir == nil {
		return nil
	}
	if e := t.fhir.Element(name); e != nil || !lenient {
		return e
	}
	if e, of := t.fhir.Member(name); e != nil {
		return &model.Element{Name: e.Name, Many: e.Many, Types: []*model.Type{of}, Targets: e.Targets}
	}
	return nil
}

// typeTest is what a type name in an expression stands for: Quantity without a namespace is
// FHIR's, and FHIRPath's own as well.
type typeTest struct {
	system kind
	fhir   *model.Type
}

// typeNamed finds the type that a name stands for: FHIR is asked before System (N1 6.3).
func typeNamed(m *model.Model, name string) (typeTest, bool) {
	namespace, rest, qualified := strings.Cut(name, ".")
	if !qualified {
		t := typeTest{system: systemKind(name), fhir: m.Type(name)}
		return t, t.system != kindNone || t.fhir != nil
	}
	switch namespace {
	case "System":
		// System.Patient is the name of no type, and nothing is of it: HL7's tests ask for that.
		k := systemKind(rest)
		return typeTest{system: k}, k != kindNone || m.Type(rest) != nil
	case "FHIR":
		t := m.Type(rest)
		return typeTest{fhir: t}, t != nil
	}
	return typeTest{}, false
}

// holds reports whether an item is of the type or a descendant.
func (t typeTest) holds(v *Value) bool {
	if v.kind > kindReferred {
		return t.system == v.kind
	}
	return t.fhir != nil && v.typ != nil && v.typ.Is(t.fhir.Name)
}

// shape is that of items that were found to be of the type.
func (t typeTest) shape() shape {
	var s shape
	if t.fhir != nil {
		s.types = append(s.types, typ{fhir: t.fhir})
	}
	if t.system != kindNone {
		s.types = append(s.types, typ{system: t.system})
	}
	return s
}

// possible reports whether items of the shape may be of the type.
func (t typeTest) possible(s shape) bool {
	if s.any {
		return true
	}
	return slices.ContainsFunc(s.types, func(x typ) bool {
		if x.fhir == nil {
			return x.system == t.system
		}
		return t.fhir != nil && (x.fhir.Is(t.fhir.Name) || t.fhir.Is(x.fhir.Name))
	})
}

// refusal makes the error of an expression that cannot be compiled.
func refusal(issue fhir.IssueType, n *Node, format string, args ...any) error {
	return fhir.Refuse(issue, "", fmt.Sprintf("FHIRPath at position %d: ", n.Position)+fmt.Sprintf(format, args...))
}
