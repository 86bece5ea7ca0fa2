package model

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir"
)

//go:generate go run ./internal/gen

//go:embed definitions/r4.table.gz
var r4Table []byte

//go:embed definitions/r4b.table.gz
var r4bTable []byte

//go:embed definitions/r5.table.gz
var r5Table []byte

// Kind is what sort of type a Type is.
type Kind uint8

// The kinds. The type of a nested element, such as Observation.component, is Complex.
const (
	Resource Kind = iota + 1
	Complex
	Primitive
)

// Model is the types of one FHIR version.
type Model struct {
	version fhir.Version
	types   map[string]*Type
	names   []string
}

// Type is a resource type, a data type, or the type of a nested element.
type Type struct {
	Name     string // Patient, HumanName, string; of a nested element its path: Observation.component
	Kind     Kind
	Abstract bool
	Base     *Type // nil: the root of its family

	elements []*Element // its own
	members  map[string]member
}

// Element is a child of a type.
type Element struct {
	Name    string // of a choice without [x]: value
	Choice  bool   // its JSON member is the name followed by the type: valueQuantity
	Many    bool   // it may repeat
	Types   []*Type
	Targets []string // types that a Reference or canonical may refer to; none: any, or it is no reference
}

// member is what a JSON member name stands for.
type member struct {
	element *Element
	typ     *Type
}

var loaded = map[fhir.Version]func() *Model{
	fhir.R4:  sync.OnceValue(func() *Model { return mustRead(fhir.R4, r4Table) }),
	fhir.R4B: sync.OnceValue(func() *Model { return mustRead(fhir.R4B, r4bTable) }),
	fhir.R5:  sync.OnceValue(func() *Model { return mustRead(fhir.R5, r5Table) }),
}

// For gives the types of a version; nil for one that is not known.
func For(v fhir.Version) *Model {
	if load := loaded[v]; load != nil {
		return load()
	}
	return nil
}

func mustRead(v fhir.Version, table []byte) *Model {
	m, err := read(v, table)
	if err != nil {
		panic("model: embedded table of " + string(v) + ": " + err.Error()) // a test keeps this from being shipped
	}
	return m
}

// Version is the version that the types belong to.
func (m *Model) Version() fhir.Version { return m.version }

// Type finds a type by its name; nil if there is none.
func (m *Model) Type(name string) *Type { return m.types[name] }

// Types lists the names of all types, sorted, those of nested elements included.
func (m *Model) Types() []string { return slices.Clone(m.names) }

// Is reports whether t is the named type or descends from it.
func (t *Type) Is(name string) bool {
	for ; t != nil; t = t.Base {
		if t.Name == name {
			return true
		}
	}
	return false
}

// Elements lists the elements of the type in the order of its StructureDefinition, which begins
// with those that it inherits. It is the order of its XML.
func (t *Type) Elements() []*Element {
	if t.Base == nil {
		return slices.Clone(t.elements)
	}
	all := t.Base.Elements()
	for _, e := range t.elements {
		if i := slices.IndexFunc(all, func(o *Element) bool { return o.Name == e.Name }); i >= 0 {
			all[i] = e
			continue
		}
		all = append(all, e)
	}
	return all
}

// Element finds an element by its name, its own or inherited; nil if there is none.
func (t *Type) Element(name string) *Element {
	for ; t != nil; t = t.Base {
		for _, e := range t.elements {
			if e.Name == name {
				return e
			}
		}
	}
	return nil
}

// Member says which element a JSON member holds, and in which of its types: valueQuantity is
// the element value as a Quantity. Both are nil if the type has no such member. The member that
// carries the extensions of a primitive (_birthDate) is that of the primitive to its readers
// and not known here.
func (t *Type) Member(key string) (*Element, *Type) {
	for ; t != nil; t = t.Base {
		if m, ok := t.members[key]; ok {
			return m.element, m.typ
		}
	}
	return nil, nil
}

// Key is the name of the JSON member that holds the element when it is of that type.
func (e *Element) Key(t *Type) string {
	if !e.Choice {
		return e.Name
	}
	return e.Name + strings.ToUpper(t.Name[:1]) + t.Name[1:]
}

// read reads a table. A line is a type: name, kind (r, c, p; in capitals if it is abstract) and
// base. Lines that begin with a space are its elements: name with [x] if it is a choice and * if
// it repeats, types, and after > what it may refer to. They stand in the order of the
// StructureDefinition, without those that the base has alike.
func read(v fhir.Version, table []byte) (*Model, error) {
	z, err := gzip.NewReader(bytes.NewReader(table))
	if err != nil {
		return nil, err
	}
	m := &Model{version: v, types: make(map[string]*Type, 1024)}
	var t *Type
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, " "):
			e, err := m.element(line[1:])
			if err != nil {
				return nil, err
			}
			t.elements = append(t.elements, e)
		default:
			if t, err = m.declare(line); err != nil {
				return nil, err
			}
		}
	}
	return m, m.link(lines.Err())
}

// declare reads the line of a type. Bases and types of elements may come later in the table,
// so a type is made when its name is first met.
func (m *Model) declare(line string) (*Type, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 {
		return nil, fmt.Errorf("line %q", line)
	}
	t := m.named(fields[0])
	t.Kind = map[string]Kind{"r": Resource, "c": Complex, "p": Primitive}[strings.ToLower(fields[1])]
	t.Abstract = fields[1] != strings.ToLower(fields[1])
	if t.Kind == 0 {
		return nil, fmt.Errorf("kind %q of %s", fields[1], t.Name)
	}
	if fields[2] != "" {
		t.Base = m.named(fields[2])
	}
	return t, nil
}

func (m *Model) named(name string) *Type {
	t := m.types[name]
	if t == nil {
		t = &Type{Name: name}
		m.types[name] = t
	}
	return t
}

func (m *Model) element(line string) (*Element, error) {
	line, targets, _ := strings.Cut(line, " >")
	name, types, ok := strings.Cut(line, " ")
	if !ok {
		return nil, fmt.Errorf("element %q", line)
	}
	e := new(Element)
	if targets != "" {
		e.Targets = strings.Split(targets, ",")
	}
	name, e.Many = strings.CutSuffix(name, "*")
	e.Name, e.Choice = strings.CutSuffix(name, "[x]")
	for t := range strings.SplitSeq(types, "|") {
		e.Types = append(e.Types, m.named(t))
	}
	return e, nil
}

// link makes the tables of members, and checks that every type that was named is there.
func (m *Model) link(err error) error {
	if err != nil {
		return err
	}
	for name, t := range m.types {
		if t.Kind == 0 {
			return fmt.Errorf("type %s is named and not there", name)
		}
		m.names = append(m.names, name)
		t.members = make(map[string]member, len(t.elements))
		for _, e := range t.elements {
			for _, typ := range e.Types {
				t.members[e.Key(typ)] = member{e, typ}
			}
		}
	}
	slices.Sort(m.names)
	return nil
}
