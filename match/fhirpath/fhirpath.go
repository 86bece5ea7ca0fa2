package fhirpath

import (
	"errors"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// ErrTooCostly means that an evaluation needed more steps, items or text than one may take.
var ErrTooCostly = errors.New("the expression takes too many steps on this resource")

// Options say what an expression is written for.
type Options struct {
	// Version of FHIR whose types are meant. R4 if empty.
	Version fhir.Version
	// Context is the type of the node that the expression starts at, such as Patient; empty if
	// it is not known. It lets Compile drop branches that belong to other types.
	Context string
	// Trigger allows %previous and %current, which then are resources of the type Context, and
	// reads | between two booleans as "or", with a warning: HL7's own examples of topics do that.
	Trigger bool
	// Strict refuses what the types say can never work: unknown elements, other resource types,
	// arguments of a wrong type. Otherwise these give nothing, and Warnings tells.
	Strict bool
	// AsFilters lets "as" pick the items of the type out of several, as ofType() does. The official
	// SearchParameters of R4 and R4B are written so; elsewhere "as" of several items is an error.
	AsFilters bool
}

// Input is what an expression is evaluated on.
type Input struct {
	// Resource is %resource; if it is nil, Current or else Previous.
	Resource *json.Tree
	// Previous and Current are the states before and after a change; nil is empty.
	Previous, Current *json.Tree
	// Node of Resource to start at; 0 is its root.
	Node json.Node
	// Now is the time of now(), today() and timeOfDay(); if it is zero, they are an error.
	Now time.Time
}

// Expression is a compiled expression. It is immutable.
type Expression struct {
	source    string
	version   fhir.Version
	model     *model.Model
	root      code
	variables int
	uses      uses
	start     *model.Type // of the input, nil if not known
	warnings  []string
}

// uses says what an expression reads, so that nothing else is prepared for it.
type uses struct {
	input  bool // the node it starts at, or the resource around it
	states bool // %previous or %current
	before bool // %previous
	clock  bool // now() and its like
}

// Compile compiles an expression. An error is a *fhir.Error that names the position, counted in
// bytes from 1, and the way out.
func Compile(expr string, o Options) (*Expression, error) {
	n, err := Parse(expr)
	if err != nil {
		return nil, err
	}
	if o.Version == "" {
		o.Version = fhir.R4
	}
	m := model.For(o.Version)
	if m == nil {
		return nil, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("FHIR version %s is not one of R4, R4B and R5", shown(string(o.Version))))
	}
	e := &Expression{source: expr, version: o.Version, model: m}
	if o.Context != "" {
		if e.start = m.Type(o.Context); e.start == nil {
			return nil, fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("%s is not a type of FHIR %s", shown(o.Context), o.Version))
		}
	}
	return e, e.compile(n, o)
}

// Warnings lists what is legal and probably not meant, each with its position.
func (e *Expression) Warnings() []string { return e.warnings }

// String is the expression as it was written.
func (e *Expression) String() string { return e.source }

// Version is the FHIR version that the expression was compiled for.
func (e *Expression) Version() fhir.Version { return e.version }

// ReadsPrevious reports whether the expression asks for %previous: a caller that has to fetch the
// state before a change spares that otherwise.
func (e *Expression) ReadsPrevious() bool { return e.uses.before }

// TakesClock reports whether the expression asks what time it is, so that its result changes
// without the resource.
func (e *Expression) TakesClock() bool { return e.uses.clock }

// Collection is the result of an evaluation, in order. It is valid until the Evaluator is used
// again or the document it was taken from changes.
type Collection struct{ items []Value }

// Len counts the items.
func (c Collection) Len() int { return len(c.items) }

// At gives an item, counted from 0.
func (c Collection) At(i int) Value { return c.items[i] }

// Error says that an evaluation failed by the rules of FHIRPath, such as a comparison of a text
// with a number. It names the place in the expression and holds nothing of the resource.
type Error struct {
	Position int // in bytes of the expression, from 1
	Msg      string
}

// Error gives rule and position.
func (e *Error) Error() string { return fmt.Sprintf("FHIRPath at position %d: %s", e.Position, e.Msg) }
