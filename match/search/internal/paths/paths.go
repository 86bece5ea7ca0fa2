// Package paths turns the FHIRPath expressions of SearchParameters into paths of member names.
//
// Nearly all of them use little of the language: unions of element paths with as, ofType,
// where(resolve() is T), where(x = 'c'), extension('url'), where(hasExtension('url')), [0] and
// first(). Compile follows such an expression through the type model, so that reading it takes
// no interpreter and nothing is guessed from JSON: branches about other types are dropped,
// choice elements become member names (valueQuantity), and every path ends in the way its
// element is read. What else FHIRPath knows is answered with NotAPath, and package fhirpath
// evaluates it.
//
// A path is a text: members divided by dots, each perhaps with one filter, and after a colon the
// leaf.
//
//	telecom[system='email']:ContactPoint
//
// [0] takes the first item, [a='b'] the items whose member a is b, [extension='url'] those that
// have such an extension, [is T] references to a T. A path that begins with / starts at the
// resource wherever the rest of its parameter does.
//
// Start reading at Compile, then follow.go.
package paths

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/fhirpath"
)

// Start is where an expression begins and what it is read for.
type Start struct {
	Model    *model.Model
	Resource *model.Type // the resource's type
	Node     *model.Type // the type of what a composite's component is relative to; nil: the resource
	Kind     string      // type of the parameter: token, string, ...; "node" for the base of a composite

	part bool // Node was given

	// Lenient drops branches whose first element the type does not have, instead of refusing
	// them: some official parameters list many types and do not name them in each branch.
	Lenient bool
}

// Result is the paths of an expression.
type Result struct {
	Paths   []string // none: the expression is about other types
	First   bool     // only the first element that they reach counts
	Targets []string // what the reached references may refer to, sorted; none: any
	Nodes   []*model.Type
}

// NotAPath means that an expression is more than paths can say. It may be right all the same.
type NotAPath struct {
	What string // the part that is more
}

func (e *NotAPath) Error() string { return e.What + " is more than a path" }

func notAPath(what string) error { return &NotAPath{what} }

// IsNotAPath reports whether an expression is beyond paths rather than wrong.
func IsNotAPath(err error) bool {
	var n *NotAPath
	return errors.As(err, &n)
}

// truth is the form "X.deceased.exists() and X.deceased != false": one boolean that is there
// whether the element is or not.
var truth = regexp.MustCompile(`^(\w+)\.(\w+)\.exists\(\) and (\w+)\.(\w+) != false$`)

// Compile follows an expression. An error other than NotAPath names what is wrong with it: an
// element or type that there is not, or one that the kind of parameter cannot read. It is that of
// fhirpath.Parse where the expression is none.
func Compile(s Start, expr string) (Result, error) {
	if s.part = s.Node != nil; !s.part {
		s.Node = s.Resource
	}
	if m := truth.FindStringSubmatch(expr); m != nil && m[1] == m[3] && m[2] == m[4] && s.Kind == "token" {
		return s.truth(m[1], m[2])
	}
	n, err := fhirpath.Parse(expr)
	if err != nil {
		return Result{}, err
	}
	set, _, err := follower{s}.follow(n)
	if err != nil {
		return Result{}, err
	}
	return s.finish(set)
}

func (s Start) truth(of, name string) (Result, error) {
	if !s.Resource.Is(of) {
		return Result{}, nil
	}
	el := s.Resource.Element(name)
	if el == nil {
		return Result{}, fmt.Errorf("%s has no element %s", of, name)
	}
	var out Result
	for _, t := range el.Types {
		out.Paths = append(out.Paths, el.Key(t)+":truth")
	}
	return out, nil
}

// Leaf gives the way in which a kind of parameter reads an element of a type; false if it
// cannot. The name of a primitive's FHIRPath type (System.String) counts as its own.
func Leaf(kind string, t *model.Type) (string, bool) {
	for ; t != nil; t = t.Base {
		if l, ok := leaves[kind][t.Name]; ok {
			return l, true
		}
	}
	return "", false
}

// leaves gives, for each kind of parameter, the element types it can read and what a path calls
// them: types that are read in the same way share a name. A type that is not here is read as
// the one it descends from.
var leaves = map[string]map[string]string{
	"token": {"CodeableConcept": "CodeableConcept", "Coding": "Coding", "Identifier": "Identifier",
		"ContactPoint": "ContactPoint", "code": "code", "boolean": "boolean", "id": "id",
		"string": "string", "uri": "uri"},
	"string": {"string": "string", "HumanName": "HumanName", "Address": "Address", "CodeableConcept": "CodeableConcept",
		"Identifier": "Identifier"},
	"reference": {"Reference": "Reference", "canonical": "canonical", "uri": "canonical", "Resource": "Resource"},
	"date": {"date": "dateTime", "dateTime": "dateTime", "instant": "instant", "Period": "Period",
		"Timing": "Timing"},
	"number":   {"integer": "decimal", "integer64": "decimal", "decimal": "decimal", "Range": "Range"},
	"quantity": {"Quantity": "Quantity", "Money": "Money", "Range": "Range", "SampledData": "SampledData"},
	"uri":      {"uri": "uri", "canonical": "canonical"},
	"special":  {"Location.position": "position", "Narrative": "Narrative", "Attachment": "Attachment"},
}

// finish names the leaves. A choice whose type is still open gives a path for each type that the
// kind of parameter can read; so does an extension without ".value", which is plainly meant.
func (s Start) finish(set []state) (Result, error) {
	var out Result
	var unread []string
	anyTarget := false
	for _, x := range set {
		all, err := s.implied(x)
		if err != nil {
			return Result{}, err
		}
		out.First = out.First || x.first
		for _, x := range all {
			leaf, ok := s.leaf(x, x.typ)
			if !ok {
				unread = append(unread, x.typ.Name)
				continue
			}
			if path := x.text(s) + ":" + leaf; !slices.Contains(out.Paths, path) {
				out.Paths = append(out.Paths, path)
				out.Nodes = append(out.Nodes, x.typ)
			}
			if leaf == "Reference" || leaf == "canonical" {
				anyTarget = anyTarget || x.element == nil || len(x.element.Targets) == 0
				if x.element != nil {
					out.Targets = append(out.Targets, x.element.Targets...)
				}
			}
		}
	}
	if len(out.Paths) == 0 && len(unread) > 0 {
		slices.Sort(unread)
		return Result{}, fmt.Errorf("a %s parameter cannot read %s", s.Kind, strings.Join(slices.Compact(unread), ", "))
	}
	if out.First && slices.ContainsFunc(set, func(x state) bool { return !x.first }) {
		return Result{}, notAPath("first() of a part of a union")
	}
	slices.Sort(out.Targets)
	out.Targets = slices.Compact(out.Targets)
	if anyTarget {
		out.Targets = nil
	}
	return out, nil
}

// implied closes what is open and adds the step that an expression leaves out: to the value of
// an extension, and to the part of a CodeableReference that the kind of parameter reads.
func (s Start) implied(x state) ([]state, error) {
	if x.open == nil && x.name == "extension" && s.Kind != "node" {
		var err error
		if x, err = x.step("value"); err != nil {
			return nil, err
		}
	}
	var out []state
	for _, t := range x.types() {
		y := x.close(t)
		if half := map[string]string{"reference": "reference", "token": "concept"}[s.Kind]; half != "" && t.Name == "CodeableReference" && !x.first {
			var err error
			if y, err = y.step(half); err != nil {
				return nil, err
			}
		}
		out = append(out, y)
	}
	return out, nil
}

func (s Start) leaf(x state, t *model.Type) (string, bool) {
	switch {
	case s.Kind == "node":
		return "node", t.Kind != model.Primitive
	case x.owner == "HumanName" && x.name == "family" && s.Kind == "string":
		return "family", true // searched word by word
	case len(x.steps) == 1 && x.steps[0] == "id" && s.Kind == "token":
		return "id", true // the model says string, which is compared without case
	}
	return Leaf(s.Kind, t)
}

// Distinct refuses paths of which one member would be read in two ways: they come from nodes of
// several types, and the member's name does not tell which.
func Distinct(all []string) error {
	seen := map[string]string{}
	for _, p := range all {
		steps, leaf := p[:strings.LastIndexByte(p, ':')], p[strings.LastIndexByte(p, ':')+1:]
		if other, twice := seen[steps]; twice && other != leaf {
			return fmt.Errorf("%s is %s of one node and %s of another", steps, other, leaf)
		}
		seen[steps] = leaf
	}
	return nil
}

// interfaces are abstract types of R5 that other types have the elements of without descending
// from them (R5 2.1.27.3): each with the elements that all of these types share.
var interfaces = map[string][]string{
	"CanonicalResource": {"url", "version", "versionAlgorithm", "name", "title", "status", "experimental", "date",
		"publisher", "contact", "description", "useContext"},
	"MetadataResource": {"url", "version", "versionAlgorithm", "name", "title", "status", "experimental", "date",
		"publisher", "contact", "description", "useContext", "approvalDate", "lastReviewDate", "author", "editor", "reviewer",
		"endorser", "relatedArtifact"},
}

// Is reports whether a type is the named one, descends from it, or has its elements as those of
// an interface.
func Is(m *model.Model, t *model.Type, name string) bool {
	if t.Is(name) {
		return true
	}
	elements := interfaces[name]
	return elements != nil && m.Type(name) != nil && t.Kind == model.Resource && !slices.ContainsFunc(elements, func(e string) bool {
		return t.Element(e) == nil
	})
}
