package search

import (
	stdjson "encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/fhirpath"
	"github.com/carillon-fhir/carillon/match/search/internal/paths"
)

// expression reads a parameter that paths cannot: FHIRPath is evaluated on each resource, and
// what it gives is read by its type. It takes some hundred nanoseconds where a path takes ten.
type expression struct {
	compiled *fhirpath.Expression
	model    *model.Model
	kind     string
	leaves   []leaf // in which what it gives may be read
}

// ErrNotEvaluable means that the expression of a SearchParameter that was added to the official
// ones gives an error for a resource: by FHIRPath's rules, such as a comparison of a text with a
// number, or because it takes too many steps.
var ErrNotEvaluable = errors.New("the expression of the search parameter cannot be evaluated on this resource")

// fails is the answer of a condition whose parameter cannot be read.
func (r *Resource) fails(steps int) (met, ok bool) {
	r.spent, r.limit, r.missed = 0, steps, ErrNotEvaluable
	return false, false
}

// mayFail reports whether reading the parameter can fail. Its values are then no way to find a
// criteria by: who fails has none.
func (p *param) mayFail() bool {
	return p.expression != nil || slices.ContainsFunc(p.parts, (*param).mayFail)
}

// evaluated makes a parameter of an expression that is more than a path. It is nil if the
// expression is about other types.
func (b *builder) evaluated(s paths.Start, expr string, targets []string, element string) (*param, string, error) {
	node := s.Resource
	if s.Node != nil {
		node = s.Node
	}
	mine, err := b.branches(node, expr, element)
	if err != nil || mine == "" {
		return nil, "", err
	}
	compiled, err := fhirpath.Compile(mine, fhirpath.Options{Version: b.definitions.version, Context: node.Name, Strict: true, AsFilters: true})
	if err != nil {
		return nil, "", elementError(err, element)
	}
	x := &param{kind: kinds[s.Kind], expression: &expression{compiled: compiled, model: b.model, kind: s.Kind}}
	if x.expression.leaves, err = x.expression.readable(); err != nil {
		return nil, "", refuseElement(fhir.IssueValue, element, "%v", err)
	}
	x.targets = b.targets(x.kind, targets)
	return x, s.Kind + " of " + node.Name + ": " + mine + " >" + strings.Join(x.targets, ","), nil
}

// elementError names the element that a refusal of an expression is about.
func elementError(err error, element string) error {
	e := fhir.AsError(err)
	if e == nil {
		return refuseElement(fhir.IssueValue, element, "%v", err)
	}
	out := &fhir.Error{}
	for _, i := range e.Issues {
		i.Expression = "SearchParameter." + element
		out.Issues = append(out.Issues, i)
	}
	return out
}

// branches takes out of a union the branches that are about other resource types: a strict
// compiler refuses them, and SearchParameters of several types are written so.
func (b *builder) branches(node *model.Type, expr, element string) (string, error) {
	n, err := fhirpath.Parse(expr)
	switch {
	case err != nil:
		return "", elementError(err, element)
	case takesClock(n):
		return "", refuseElement(fhir.IssueNotSupported, element, "now(), today() and timeOfDay() are not supported in a search parameter: every node must decide the same at any time")
	}
	all := union(nil, n)
	var mine []string
	for _, x := range all {
		if t := b.model.Type(head(x)); t == nil || t.Kind != model.Resource || paths.Is(b.model, node, t.Name) {
			mine = append(mine, "("+expr[x.Start-1:x.End-1]+")")
		}
	}
	if len(mine) == len(all) { // so that positions in messages are those of the whole
		return expr, nil
	}
	return strings.Join(mine, " | "), nil
}

// union lists the branches of a | b | c.
func union(all []*fhirpath.Node, n *fhirpath.Node) []*fhirpath.Node {
	if n.Kind != fhirpath.KindBinary || n.Name != "|" {
		return append(all, n)
	}
	return union(union(all, n.Args[0]), n.Args[1])
}

// head is the name that a path begins with; empty if there is none.
func head(n *fhirpath.Node) string {
	for {
		switch {
		case n.Input != nil:
			n = n.Input
		case n.Kind == fhirpath.KindType && len(n.Args) > 0:
			n = n.Args[0]
		case n.Kind == fhirpath.KindMember:
			return n.Name
		default:
			return ""
		}
	}
}

// takesClock reports whether an expression asks for the time.
func takesClock(n *fhirpath.Node) bool {
	if n == nil {
		return false
	}
	return n.Kind == fhirpath.KindCall && (n.Name == "now" || n.Name == "today" || n.Name == "timeOfDay") ||
		takesClock(n.Input) || slices.ContainsFunc(n.Args, takesClock)
}

// readable lists the leaves of all types that the expression may give, as far as that is known
// without a resource; those that the kind of parameter cannot read are refused, unless one of
// them can be.
func (e *expression) readable() ([]leaf, error) {
	names, known := e.compiled.Types()
	if !known {
		names = e.model.Types()
	}
	var out []leaf
	for _, name := range names {
		if l := e.leafOf(name); l != leafNone && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case len(names) == 0:
		return nil, refusal("the expression gives nothing, whatever the resource has")
	}
	return nil, refusal("a %s parameter cannot read %s", e.kind, strings.Join(names, ", "))
}

// leafOf says how an item of a type is read.
func (e *expression) leafOf(name string) leaf {
	switch name {
	case "CodeableReference":
		if e.kind == "reference" || e.kind == "token" {
			return leaves[map[string]string{"reference": "Reference", "token": "CodeableConcept"}[e.kind]]
		}
	case "Extension":
		return leafNone
	}
	t := e.model.Type(name)
	if rest, ok := strings.CutPrefix(name, "System."); ok {
		t = e.model.Type(systemTypes[rest])
	}
	if t == nil {
		return leafNone
	}
	l, _ := paths.Leaf(e.kind, t)
	return leaves[l]
}

// systemTypes are the types of FHIR that FHIRPath's own types are read like.
var systemTypes = map[string]string{"Boolean": "boolean", "String": "string", "Integer": "integer", "Decimal": "decimal",
	"Date": "date", "DateTime": "dateTime", "Quantity": "Quantity"}

// evaluate reads a parameter from what its expression gives at a node.
func (r *Resource) evaluate(p *param, n json.Node) {
	if r.evaluator == nil {
		r.evaluator = fhirpath.NewEvaluator()
	}
	e := p.expression
	items, err := r.evaluator.Evaluate(e.compiled, fhirpath.Input{Resource: r.tree, Node: n})
	steps := r.evaluator.Steps()
	r.work += uint64(steps)
	r.nodeSteps += steps
	if err != nil {
		r.reading.fault = true
		return
	}
	if p.kind == kindComposite {
		r.readTuples(items)
		return
	}
	for i := range items.Len() {
		v := items.At(i)
		l := e.leafOf(v.TypeName())
		if l == leafNone {
			continue
		}
		tree, node, ok := v.Node()
		switch {
		case !ok:
			r.readComputed(v, l)
		case tree != r.tree || node == 0: // only an extension stands there
		case v.TypeName() == "CodeableReference" && l == leafReference:
			r.readChild(node, nameReference, l)
		case v.TypeName() == "CodeableReference":
			r.readChild(node, nameConcept, l)
		default:
			r.read(node, l)
		}
	}
}

// readTuples reads a composite at the nodes that its expression gives. They are set aside first:
// parts may be expressions as well.
func (r *Resource) readTuples(items fhirpath.Collection) {
	var nodes []json.Node
	for i := range items.Len() {
		if tree, n, ok := items.At(i).Node(); ok && tree == r.tree && n != 0 {
			nodes = append(nodes, n)
		}
	}
	for _, n := range nodes {
		r.readTuple(n)
	}
}

var nameConcept = json.NewName("concept")

func (r *Resource) readChild(n json.Node, name json.Name, l leaf) {
	if m := r.tree.Find(n, name); m != 0 {
		r.read(m, l)
	}
}

// readComputed reads an item that is no part of the resource.
func (r *Resource) readComputed(v fhirpath.Value, l leaf) {
	text, ok := r.computed(v)
	if !ok {
		return
	}
	r.reading.present = true
	if r.view != viewElement {
		r.addView(text)
		return
	}
	switch r.param.kind {
	case kindToken:
		r.addPlain(text, tokenPlain, l != leafString)
	case kindString:
		r.addText(text, false)
	case kindDate:
		if s, ok := parseTime(text); ok {
			r.spans = append(r.spans, s)
		}
	case kindNumber, kindQuantity:
		r.addComputedAmount(v, text)
	}
}

// computed gives the text of an item: of a string what it says, of everything else its JSON. It
// is kept until Reset, as values point into it.
func (r *Resource) computed(v fhirpath.Value) ([]byte, bool) {
	from := len(r.made)
	r.made = v.AppendJSON(r.made)
	text := r.made[from:len(r.made):len(r.made)]
	if len(text) == 0 || text[0] != '"' {
		return text, len(text) > 0
	}
	var s string
	if err := stdjson.Unmarshal(text, &s); err != nil || s == "" {
		return nil, false
	}
	r.made = append(r.made[:from], s...)
	return r.made[from:len(r.made):len(r.made)], true
}

// addComputedAmount takes a number, or a Quantity that was computed.
func (r *Resource) addComputedAmount(v fhirpath.Value, text []byte) {
	if v.TypeName() == "System.Quantity" {
		t, err := json.Parse(text, json.Limits{})
		if err != nil {
			return
		}
		if d, ok := parseDecimal(t.Raw(t.Find(t.Root(), nameValue))); ok {
			a := amount{lo: d, hi: d, raw: text, system: t.Text(t.Find(t.Root(), nameSystem)),
				code: t.Text(t.Find(t.Root(), nameCode)), unit: t.Text(t.Find(t.Root(), nameUnit))}
			a.measure = r.measure(a.system, a.code)
			r.amounts = append(r.amounts, a)
		}
		return
	}
	if d, ok := parseDecimal(text); ok {
		r.amounts = append(r.amounts, amount{lo: d, hi: d, raw: text})
	}
}
