package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The expressions of the official SearchParameters use little of FHIRPath: unions of paths
// with as, ofType, where(resolve() is T), where(x='c'), extension('url'),
// where(hasExtension('url')) and [0]; and one exists() that is a form of its own.

// split divides an expression at the | that stand outside parentheses and quotes.
func split(expr string) []string {
	var out []string
	depth, quoted, from := 0, false, 0
	for i, c := range expr {
		switch {
		case c == '\'':
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == '|' && depth == 0:
			out = append(out, strings.TrimSpace(expr[from:i]))
			from = i + 1
		}
	}
	return append(out, strings.TrimSpace(expr[from:]))
}

// truth is the form "X.deceased.exists() and X.deceased != false": one boolean that is there
// whether the element is or not.
var truth = regexp.MustCompile(`^(\w+)\.(\w+)\.exists\(\) and (\w+)\.(\w+) != false$`)

// branch gives the paths of one branch of a union for one resource type: none if the branch is
// about another type, several where a choice element is read without naming its type.
func (in *input) branch(expr, kind, typ string) ([]string, error) {
	if m := truth.FindStringSubmatch(expr); m != nil && m[1] == m[3] && m[2] == m[4] {
		return in.truthPaths(typ, m[1], m[2])
	}
	w := &walk{in: in, kind: kind, typ: typ}
	switch mine, err := w.run(expr); {
	case err != nil:
		return nil, fmt.Errorf("expression %q: %w", expr, err)
	case !mine:
		return nil, nil
	}
	return w.finish(expr)
}

func (in *input) truthPaths(typ, of, name string) ([]string, error) {
	el, ok := in.model[typ].Elements[name+"[x]"]
	if of != typ || !ok {
		return nil, fmt.Errorf("%s.%s is no choice element of %s", of, name, typ)
	}
	var out []string
	for _, t := range el.Types {
		out = append(out, name+title(t)+":truth")
	}
	return out, nil
}

// walk follows one path through the type model and writes it down as it goes.
type walk struct {
	in   *input
	kind string
	typ  string

	path   []string // steps with their filters
	owner  string   // type whose elements are next
	prefix string   // path within owner, with a dot at its end
	el     element  // the element reached
	choice string   // name of a choice element whose type is still open
	of     string   // Type.element of the element reached
}

// token is an identifier, a call with its argument, an index, or "as T".
var token = regexp.MustCompile(`^(?:\.?(\w+)(\(([^()']*(?:\([^()]*\))?[^()']*(?:'[^']*'\)?)?)\))?|\[(\d+)\]| as (\w+))`)

// run reads the steps of expr; false if it is about another resource type.
func (w *walk) run(expr string) (bool, error) {
	expr = unwrap(expr)
	first := true
	for expr != "" {
		m := token.FindStringSubmatch(expr)
		if m == nil {
			return false, fmt.Errorf("%q is not understood", expr)
		}
		expr = expr[len(m[0]):]
		name, call, arg, index, as := m[1], m[2] != "", m[3], m[4], m[5]
		var err error
		switch {
		case index != "":
			err = w.filter(index)
		case as != "":
			err = w.as(as)
		case call:
			err = w.call(name, arg)
		case first && w.isType(name):
			if !w.in.is(w.typ, name) {
				return false, nil
			}
			w.owner = w.typ
		case first:
			w.owner = w.typ // an expression that does not repeat the type's name
			err = w.step(name)
		default:
			err = w.step(name)
		}
		if err != nil {
			return false, err
		}
		first = false
	}
	return true, nil
}

// unwrap takes the parentheses off "(X as T)" and "(X as T).y".
func unwrap(expr string) string {
	if !strings.HasPrefix(expr, "(") {
		return expr
	}
	end := strings.Index(expr, ")")
	return expr[1:end] + expr[end+1:]
}

func (w *walk) isType(name string) bool {
	_, ok := w.in.model[name]
	return ok && name[0] >= 'A' && name[0] <= 'Z'
}

// step goes to the child element of that name.
func (w *walk) step(name string) error {
	if w.choice != "" {
		return fmt.Errorf("the type of %s is open", w.choice)
	}
	elements := w.in.model[w.owner].Elements
	w.of = w.owner + "." + name
	if el, ok := elements[w.prefix+name]; ok {
		w.path = append(w.path, name)
		w.enter(el, w.prefix+name)
		return nil
	}
	if el, ok := elements[w.prefix+name+"[x]"]; ok {
		w.el, w.choice = el, name
		return nil
	}
	return fmt.Errorf("%s has no element %s", w.owner, w.prefix+name)
}

// enter makes an element the current one: what comes next is looked up in its type, in the
// element that it takes its content from, or below it.
func (w *walk) enter(el element, path string) {
	w.el = el
	switch {
	case el.Ref != "":
		w.owner, w.prefix, _ = strings.Cut(el.Ref, ".")
		w.prefix += "."
	case len(el.Types) == 1 && (el.Types[0] == "BackboneElement" || el.Types[0] == "Element"):
		w.prefix = path + "."
	case len(el.Types) == 1:
		w.owner, w.prefix = el.Types[0], ""
	}
}

// as narrows a choice element to one type. In SearchParameters it is a filter, like ofType:
// strict FHIRPath would fail on elements that repeat, and many official expressions do that.
func (w *walk) as(typ string) error {
	if w.choice == "" {
		if slices.Contains(w.el.Types, typ) {
			return nil
		}
		return fmt.Errorf("%s cannot be %s", w.of, typ)
	}
	if !slices.Contains(w.el.Types, typ) {
		return fmt.Errorf("%s cannot be %s", w.choice, typ)
	}
	w.path = append(w.path, w.choice+title(typ))
	el := w.el
	el.Types = []string{typ}
	w.choice = ""
	w.enter(el, "")
	return nil
}

var (
	resolveIs = regexp.MustCompile(`^resolve\(\) is (\w+)$`)
	equals    = regexp.MustCompile(`^(\w+)='([^']*)'$`)
	hasExt    = regexp.MustCompile(`^hasExtension\('([^']*)'\)$`)
	quoted    = regexp.MustCompile(`^'([^']*)'$`)
)

func (w *walk) call(name, arg string) error {
	switch name {
	case "as", "ofType":
		return w.as(arg)
	case "extension":
		m := quoted.FindStringSubmatch(arg)
		if m == nil {
			return fmt.Errorf("extension(%s)", arg)
		}
		if err := w.step("extension"); err != nil {
			return err
		}
		return w.filter("url='" + m[1] + "'")
	case "where":
		if m := resolveIs.FindStringSubmatch(arg); m != nil {
			return w.filter("is " + m[1])
		}
		if m := hasExt.FindStringSubmatch(arg); m != nil {
			return w.filter("extension='" + m[1] + "'")
		}
		if equals.MatchString(arg) {
			return w.filter(arg)
		}
	}
	return fmt.Errorf("%s(%s) is not understood", name, arg)
}

func (w *walk) filter(f string) error {
	if len(w.path) == 0 || w.choice != "" {
		return fmt.Errorf("[%s] stands on nothing", f)
	}
	w.path[len(w.path)-1] += "[" + f + "]"
	return nil
}

// finish names the leaf. A choice that is still open gives a path for each type that the kind
// of parameter can read; so does an extension without ".value", which is plainly meant.
func (w *walk) finish(expr string) ([]string, error) {
	if w.choice == "" && w.of[strings.LastIndex(w.of, ".")+1:] == "extension" {
		if err := w.step("value"); err != nil {
			return nil, err
		}
	}
	can := leaves[w.kind]
	var out []string
	for _, t := range w.el.Types {
		leaf, ok := can[t]
		if !ok {
			continue
		}
		switch {
		case w.of == "HumanName.family" && w.kind == "string":
			leaf = "family" // searched word by word
		case len(w.path) == 1 && w.path[0] == "id":
			leaf = "id" // the model says string, which is compared without case
		}
		path := strings.Join(w.path, ".")
		if w.choice != "" {
			path = strings.TrimPrefix(path+"."+w.choice+title(t), ".")
		}
		out = append(out, path+":"+leaf)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("expression %q: a %s parameter cannot read %v", expr, w.kind, w.el.Types)
	}
	return out, nil
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
