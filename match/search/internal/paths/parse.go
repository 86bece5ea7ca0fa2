package paths

import (
	"fmt"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/fhirpath"
)

// follower follows a parsed expression: each part gives the states that it reaches.
type follower struct{ start Start }

// follow gives what a part reaches. It is not mine if it is about another type; then nothing is
// followed, but what is no path is still told from what is one.
func (p follower) follow(n *fhirpath.Node) (set []state, mine bool, err error) {
	switch {
	case n.Kind == fhirpath.KindBinary && n.Name == "|":
		return p.union(n)
	case n.Kind == fhirpath.KindVariable && n.Name == "resource":
		return []state{{typ: p.start.Resource, root: true}}, true, nil
	case n.Kind == fhirpath.KindMember && n.Input == nil:
		return p.head(n.Name)
	}
	from := n.Input
	if n.Kind == fhirpath.KindType && n.Name == "as" {
		from = n.Args[0]
	}
	if from == nil {
		return nil, false, notAPath(what(n))
	}
	if set, mine, err = p.follow(from); err != nil {
		return nil, false, err
	}
	apply, err := p.step(n)
	if err != nil || !mine {
		return nil, mine, err
	}
	set, err = apply(set)
	return set, true, err
}

// what names a part for a message.
func what(n *fhirpath.Node) string {
	switch n.Kind {
	case fhirpath.KindCall:
		return n.Name + "()"
	case fhirpath.KindIndex:
		return "an index other than 0"
	case fhirpath.KindLiteral, fhirpath.KindEmpty:
		return "a constant"
	case fhirpath.KindVariable:
		return "%" + n.Name
	}
	return fmt.Sprintf("%q", n.Name)
}

// union follows a | b.
func (p follower) union(n *fhirpath.Node) ([]state, bool, error) {
	var all []state
	for _, branch := range n.Args {
		set, _, err := p.follow(branch)
		if err != nil {
			return nil, false, err
		}
		all = append(all, set...)
	}
	return all, len(all) > 0, nil
}

// head follows what an expression begins with: the name of a type or an element.
func (p follower) head(name string) (set []state, mine bool, err error) {
	here := state{typ: p.start.Node}
	switch t := p.start.Model.Type(name); {
	case name == "":
		return nil, false, notAPath("an empty name")
	case name[0] >= 'A' && name[0] <= 'Z':
		if t == nil {
			return nil, false, fmt.Errorf("%s is not a type of FHIR %s", name, p.start.Model.Version())
		}
		if !Is(p.start.Model, p.start.Node, name) {
			return nil, false, nil
		}
		return []state{here}, true, nil
	case p.start.Lenient && here.typ.Element(name) == nil && p.start.Node == p.start.Resource:
		return nil, false, nil
	}
	x, err := here.step(name)
	return []state{x}, true, err
}

// step gives what a part does with what the part before it has reached.
func (p follower) step(n *fhirpath.Node) (func([]state) ([]state, error), error) {
	switch {
	case n.Kind == fhirpath.KindMember:
		return each(func(x state) (state, error) { return x.step(n.Name) }), nil
	case n.Kind == fhirpath.KindIndex:
		if l := n.Args[0].Literal; l == nil || l.Text != "0" {
			return nil, notAPath(what(n))
		}
		return each(state.firstItem), nil
	case n.Kind == fhirpath.KindType && n.Name == "as":
		return p.as(n.Type)
	case n.Kind != fhirpath.KindCall:
		return nil, notAPath(what(n))
	}
	switch {
	case len(n.Args) == 0 && n.Name == "first":
		return first, nil
	case len(n.Args) != 1:
	case n.Name == "as" || n.Name == "ofType":
		if name, ok := n.Args[0].TypeName(); ok {
			return p.as(name)
		}
	case n.Name == "extension":
		url, ok := text(n.Args[0])
		return each(func(x state) (state, error) {
			y, err := x.step("extension")
			if err != nil {
				return state{}, err
			}
			return y.filter("url='" + url + "'")
		}), unless(ok, n)
	case n.Name == "where":
		return p.where(n)
	}
	return nil, notAPath(what(n))
}

// unless is the error of a part that is no path.
func unless(ok bool, n *fhirpath.Node) error {
	if ok {
		return nil
	}
	return notAPath(what(n))
}

// text gives a constant that can stand in a path.
func text(n *fhirpath.Node) (string, bool) {
	if n.Kind != fhirpath.KindLiteral || n.Literal.Kind != fhirpath.LiteralString {
		return "", false
	}
	return n.Literal.Text, plain(n.Literal.Text)
}

// first does first(). Of a union, or of elements within elements that repeat, it is the first
// of all that is reached, which only the whole of an expression can be.
func first(set []state) ([]state, error) {
	if len(set) == 1 {
		if x, err := set[0].firstItem(); err == nil {
			return []state{x}, nil
		}
	}
	return each(func(x state) (state, error) {
		x.first = true
		return x, nil
	})(set)
}

// where reads the condition of where() in one of the forms that a path can hold: resolve() is T,
// element = 'text', hasExtension('url'), extension('url').exists().
func (p follower) where(n *fhirpath.Node) (func([]state) ([]state, error), error) {
	is := n.Args[0]
	switch {
	case is.Kind == fhirpath.KindType && is.Name == "is" && calls(is.Args[0], "resolve", 0):
		return each(func(x state) (state, error) { return p.whereIs(x, is.Type) }), unless(!strings.Contains(is.Type, "."), n)
	case is.Kind == fhirpath.KindBinary && is.Name == "=" && is.Args[0].Kind == fhirpath.KindMember && is.Args[0].Input == nil:
		value, ok := text(is.Args[1])
		return each(func(x state) (state, error) { return x.whereEquals(is.Args[0].Name, value) }), unless(ok, n)
	case calls(is, "hasExtension", 1):
		return whereExtension(n, is)
	case is.Kind == fhirpath.KindCall && is.Name == "exists" && len(is.Args) == 0 && is.Input != nil && calls(is.Input, "extension", 1):
		return whereExtension(n, is.Input)
	}
	return nil, notAPath(what(n))
}

// calls reports whether a node is a call of a function on what where() looks at.
func calls(n *fhirpath.Node, name string, args int) bool {
	return n.Kind == fhirpath.KindCall && n.Input == nil && n.Name == name && len(n.Args) == args
}

func (p follower) whereIs(x state, typ string) (state, error) {
	if p.start.Model.Type(typ) == nil {
		return state{}, fmt.Errorf("%s is not a type of FHIR %s", typ, p.start.Model.Version())
	}
	if x.typ == nil || x.typ.Name != "Reference" {
		return state{}, notAPath("resolve() of what is no Reference")
	}
	return x.filter("is " + typ)
}

func whereExtension(n, call *fhirpath.Node) (func([]state) ([]state, error), error) {
	url, ok := text(call.Args[0])
	return each(func(x state) (state, error) { return x.filter("extension='" + url + "'") }), unless(ok, n)
}

// comparable types are equal to a text when their JSON is. Others (dates, numbers) have rules.
var comparable = map[string]bool{"string": true, "code": true, "id": true, "uri": true, "url": true,
	"canonical": true, "oid": true, "uuid": true, "markdown": true}

// whereEquals keeps items whose member is the text. What is no text (a CodeableConcept) equals
// none, in FHIRPath as here.
func (x state) whereEquals(name, value string) (state, error) {
	if x.typ == nil {
		return state{}, notAPath("where() on " + x.describe())
	}
	el := x.typ.Element(name)
	switch {
	case el == nil:
		return state{}, fmt.Errorf("%s has no element %s", x.typ.Name, name)
	case el.Many || el.Choice || el.Types[0].Kind == model.Primitive && !comparable[el.Types[0].Name]:
		return state{}, notAPath("where(" + name + " =)")
	}
	return x.filter(name + "='" + value + "'")
}

// as does as and ofType, which mean the same here.
func (p follower) as(typ string) (func([]state) ([]state, error), error) {
	if strings.Contains(typ, ".") {
		return nil, notAPath(typ)
	}
	return func(set []state) ([]state, error) {
		var out []state
		for _, x := range set {
			more, err := x.as(p.start, typ)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
		return out, nil
	}, nil
}

// each does the same to every state.
func each(f func(state) (state, error)) func([]state) ([]state, error) {
	return func(set []state) ([]state, error) {
		out := make([]state, 0, len(set))
		for _, x := range set {
			y, err := f(x)
			if err != nil {
				return nil, err
			}
			out = append(out, y)
		}
		return out, nil
	}
}
