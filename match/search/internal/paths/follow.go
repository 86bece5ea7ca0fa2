package paths

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// state is an element that a part of an expression reaches.
type state struct {
	steps   []string       // members with their filters, from where the expression began
	root    bool           // it began at %resource
	typ     *model.Type    // of the element; nil while a choice is open
	open    *model.Element // a choice whose type is not said yet
	element *model.Element // the element reached; nil: the start
	owner   string         // type that the element belongs to
	name    string         // of the element
	many    bool           // there may be several of the element's owner
	first   bool           // only the first of all that the expression reaches
}

// types lists the types that the element may have.
func (x state) types() []*model.Type {
	if x.open != nil {
		return x.open.Types
	}
	return []*model.Type{x.typ}
}

// close settles an open choice.
func (x state) close(t *model.Type) state {
	if x.open != nil {
		x.steps = append(slices.Clone(x.steps), x.open.Key(t))
		x.open = nil
	}
	x.typ = t
	return x
}

func (x state) text(s Start) string {
	t := strings.Join(x.steps, ".")
	if x.root && s.part {
		t = "/" + t
	}
	return t
}

// step goes to a child element. Of an open choice, to those of its types that have it.
func (x state) step(name string) (state, error) {
	if x.open != nil {
		var has []*model.Type
		for _, t := range x.open.Types {
			if t.Element(name) != nil {
				has = append(has, t)
			}
		}
		switch len(has) {
		case 0:
			return state{}, fmt.Errorf("%s has no element %s in any of its types", x.name, name)
		case 1:
			x = x.close(has[0])
		default:
			return state{}, notAPath(name + " of several types of " + x.name)
		}
	}
	if x.first {
		return state{}, notAPath("a step after first()")
	}
	el := x.typ.Element(name)
	if el == nil {
		return state{}, fmt.Errorf("%s has no element %s", x.typ.Name, name)
	}
	y := state{root: x.root, element: el, owner: x.typ.Name, name: name, many: x.many || x.element != nil && x.element.Many && !x.single()}
	y.steps = slices.Clone(x.steps)
	if x.typ.Kind == model.Primitive {
		if err := y.besidePrimitive(); err != nil {
			return state{}, err
		}
	}
	if el.Choice {
		y.open = el
		return y, nil
	}
	if len(el.Types) != 1 {
		return state{}, notAPath(name)
	}
	y.typ = el.Types[0]
	y.steps = append(y.steps, name)
	return y, nil
}

// single reports whether a filter has left one item of the element.
func (x state) single() bool {
	return len(x.steps) > 0 && strings.HasSuffix(x.steps[len(x.steps)-1], "[0]")
}

// besidePrimitive goes to where JSON keeps the id and extensions of a primitive: its member's
// name with a line before it.
func (x *state) besidePrimitive() error {
	last := &x.steps[len(x.steps)-1]
	if strings.Contains(*last, "[") {
		return notAPath("the extension of a filtered primitive")
	}
	*last = "_" + *last
	return nil
}

// filter puts a filter on the element reached: a member has place for one.
func (x state) filter(f string) (state, error) {
	if len(x.steps) == 0 || x.open != nil || x.first || strings.HasSuffix(x.steps[len(x.steps)-1], "]") {
		return state{}, notAPath("where() here")
	}
	x.steps = slices.Clone(x.steps)
	x.steps[len(x.steps)-1] += "[" + f + "]"
	return x, nil
}

// firstItem takes the first of what is reached. Where only the element itself repeats that is
// the first of its list.
func (x state) firstItem() (state, error) {
	switch {
	case x.many, x.open != nil && x.open.Many:
		return state{}, notAPath("the first of several lists")
	case x.element == nil || !x.element.Many:
		return x, nil
	}
	return x.filter("0")
}

// as keeps an element if it is of the type or of one that descends from it: of a choice that may
// be several. In SearchParameters as is a filter, like ofType: strict FHIRPath would fail on
// elements that repeat, and many official expressions do that.
func (x state) as(s Start, name string) ([]state, error) {
	t := s.Model.Type(name)
	switch {
	case t == nil:
		return nil, fmt.Errorf("%s is not a type of FHIR %s", name, s.Model.Version())
	case x.first && x.open != nil:
		return nil, notAPath("as after first()")
	}
	var out []state
	for _, o := range x.types() {
		if o.Is(name) {
			out = append(out, x.close(o))
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case x.open == nil && x.typ.Kind == model.Resource && t.Is(x.typ.Name):
		x.typ = t
		y, err := x.filterType(name)
		return []state{y}, err
	case s.Lenient && x.open != nil:
		// R5 has parameters for types that R6 adds to a choice.
		return []state{x.close(t)}, nil
	}
	return nil, fmt.Errorf("%s cannot be %s", x.describe(), name)
}

// filterType keeps resources of one type: Bundle.entry[0].resource as Composition.
func (x state) filterType(name string) (state, error) { return x.filter("resourceType='" + name + "'") }

func (x state) describe() string {
	if x.owner == "" {
		return x.typ.Name
	}
	return x.owner + "." + x.name
}

// plain reports whether a constant can stand in the text of a path.
func plain(s string) bool {
	return s != "" && !strings.ContainsAny(s, "[]|'$") && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7F }) < 0
}
