package fhirpath

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// op evaluates a part of an expression. The collection it gives lies at the end of the arena,
// or is one that somebody before it left there.
type op func(m *Evaluator) span

// test evaluates a part that gives a boolean or nothing, without putting it into the arena.
type test func(m *Evaluator) truth

// code is a compiled part of an expression.
type code struct {
	run   op
	test  test // nil unless the part is a boolean by itself
	shape shape
	at    int // position in the expression
	// defines says that variables of defineVariable() are in the arena among the results, for the
	// part that follows. Whoever ends their scope takes them away.
	defines   bool
	constants []Value // of a literal, or a union of literals: what it gives
	union     []op    // of a chain of |: its parts
}

// compiler compiles one expression.
type compiler struct {
	options Options
	model   *model.Model
	this    shape // of $this, which paths begin with
	total   shape
	inLoop  bool // $index means something
	inTotal bool // $total means something
	scope   []variable
	slots   int
	uses    uses
	notes   []string
}

// variable is one of defineVariable().
type variable struct {
	name  string
	slot  int
	shape shape
}

func (e *Expression) compile(n *Node, o Options) error {
	c := &compiler{options: o, model: e.model, this: shape{any: true}}
	if e.start != nil {
		c.this = shape{types: []typ{{fhir: e.start}}}
	}
	root, err := c.node(n)
	if err != nil {
		return err
	}
	e.root, e.variables, e.uses, e.warnings = root, c.slots, c.uses, c.notes
	return nil
}

// problem is something that can never work: refused if the caller is strict, else a warning.
func (c *compiler) problem(n *Node, format string, args ...any) error {
	if c.options.Strict {
		return refusal(fhir.IssueValue, n, format, args...)
	}
	c.warn(n, format, args...)
	return nil
}

const maxWarnings = 20

func (c *compiler) warn(n *Node, format string, args ...any) {
	if len(c.notes) < maxWarnings {
		c.notes = append(c.notes, fmt.Sprintf("FHIRPath at position %d: ", n.Position)+fmt.Sprintf(format, args...))
	}
}

// node compiles a part; the variables that it defines stay in scope for what follows.
func (c *compiler) node(n *Node) (code, error) {
	var r code
	var err error
	switch n.Kind {
	case KindEmpty:
		r = code{run: (*Evaluator).none}
	case KindLiteral:
		r, err = c.literal(n)
	case KindVariable:
		r, err = c.variable(n)
	case KindSpecial:
		r, err = c.special(n)
	case KindMember:
		r, err = c.member(n)
	case KindCall:
		r, err = c.call(n)
	case KindIndex:
		r, err = c.indexer(n)
	case KindUnary:
		r, err = c.unary(n)
	case KindBinary:
		r, err = c.binary(n)
	case KindType:
		r, err = c.typeOperator(n)
	}
	r.at = n.Position
	return r, err
}

// scoped compiles a part by itself: the variables that it defines end with it.
func (c *compiler) scoped(n *Node) (code, error) {
	visible := len(c.scope)
	r, err := c.node(n)
	c.scope = c.scope[:visible]
	if r.defines {
		run := r.run
		r.run = func(m *Evaluator) span {
			mark := m.top()
			return m.keep(mark, run(m))
		}
		r.defines = false
	}
	return r, err
}

// each compiles an argument that is evaluated for every item of a collection.
func (c *compiler) each(n *Node, item shape) (code, error) {
	this, loop := c.this, c.inLoop
	c.this, c.inLoop = item, true
	r, err := c.scoped(n)
	c.this, c.inLoop = this, loop
	return r, err
}

// on makes code that reads an input and gives what f makes of it.
func on(in code, s shape, f func(m *Evaluator, in span) span) code {
	run := in.run
	if in.defines {
		return code{shape: s, defines: true, run: func(m *Evaluator) span { return f(m, run(m)) }}
	}
	return code{shape: s, run: func(m *Evaluator) span {
		m.steps--
		mark := m.top()
		return m.keep(mark, f(m, run(m)))
	}}
}

// asking makes code that reads an input and answers with a boolean or nothing.
func asking(in code, f func(m *Evaluator, in span) truth) code {
	run := in.run
	if in.defines {
		return code{shape: systemShape(kindBoolean), defines: true, run: func(m *Evaluator) span { return m.truth(f(m, run(m))) }}
	}
	return deciding(func(m *Evaluator) truth {
		m.steps--
		mark := m.top()
		t := f(m, run(m))
		m.items = m.items[:mark]
		return t
	})
}

func deciding(t test) code {
	return code{shape: systemShape(kindBoolean), test: t, run: func(m *Evaluator) span { return m.truth(t(m)) }}
}

// condition gives a part as a boolean, as operators of logic and where() need it.
func (r code) condition() test {
	if r.test != nil {
		return r.test
	}
	run, at := r.run, r.at
	return func(m *Evaluator) truth {
		mark := m.top()
		t := m.condition(run(m), at)
		m.items = m.items[:mark]
		return t
	}
}

func constant(v Value, s shape) code {
	return code{constants: []Value{v}, shape: s, run: func(m *Evaluator) span { return m.result(v) }}
}

// constants gives items that were known when the expression was compiled.
func constants(items []Value, s shape) code {
	return code{constants: items, shape: s, run: func(m *Evaluator) span {
		at := m.top()
		for i := range items {
			m.push(items[i])
		}
		return span{at, m.top()}
	}}
}

func (c *compiler) literal(n *Node) (code, error) {
	v, ok := literalValue(n.Literal)
	if !ok {
		return code{}, refusal(fhir.IssueValue, n, "%s is no %s that FHIRPath can hold", shown(n.Literal.Text), literalKinds[n.Literal.Kind])
	}
	r := constant(v, systemShape(v.kind))
	if v.kind == kindBoolean {
		t := truthOf(v.num != 0)
		r.test = func(*Evaluator) truth { return t }
	}
	return r, nil
}

var literalKinds = [...]string{"Boolean", "Integer", "Decimal", "String", "Date", "DateTime", "Time", "Quantity"}

func literalValue(l *Literal) (v Value, ok bool) {
	s := []byte(l.Text)
	switch l.Kind {
	case LiteralBoolean:
		return boolean(l.Text == "true"), true
	case LiteralInteger:
		return readNumber(s, kindInteger)
	case LiteralDecimal:
		return readNumber(s, kindDecimal)
	case LiteralQuantity:
		d, ok := parseDecimal(s)
		return newQuantity(d, []byte(l.Unit)), ok
	case LiteralDate:
		m, ok := parseDate(s, false)
		return momentValue(kindDate, m), ok
	case LiteralDateTime:
		m, ok := parseDate(s, true)
		return momentValue(kindDateTime, m), ok
	case LiteralTime:
		m, ok := parseTime(s)
		return momentValue(kindTime, m), ok
	}
	return text(s), true
}

// Prefixes of variables that stand for a URL (FHIR, fhirpath.html, "Variables").
const (
	valueSetPrefix  = "http://hl7.org/fhir/ValueSet/"
	extensionPrefix = "http://hl7.org/fhir/StructureDefinition/"
)

func (c *compiler) variable(n *Node) (code, error) {
	for i := len(c.scope) - 1; i >= 0; i-- {
		if v := c.scope[i]; v.name == n.Name {
			return code{shape: v.shape, run: func(m *Evaluator) span { return m.variables[v.slot] }}, nil
		}
	}
	state := shape{any: c.options.Context == ""}
	if t := c.model.Type(c.options.Context); t != nil {
		state.types = []typ{{fhir: t}}
	}
	switch n.Name {
	case "ucum":
		return stringConstant(ucumSystem), nil
	case "loinc":
		return stringConstant(loincSystem), nil
	case "sct":
		return stringConstant(sctSystem), nil
	case "context":
		c.uses.input = true
		return code{shape: state, run: func(m *Evaluator) span { return m.context }}, nil
	case "resource":
		c.uses.input = true
		return held(resourceShape(state), func(m *Evaluator) *Value { return &m.resource }), nil
	case "rootResource":
		c.uses.input = true
		// Of any type: the context may be a resource that another one contains.
		return held(shape{any: true}, func(m *Evaluator) *Value { return &m.rootResource }), nil
	case "previous", "current":
		if !c.options.Trigger {
			return code{}, refusal(fhir.IssueValue, n, "%%%s is known in the criteria of a topic or Subscription only", n.Name)
		}
		c.uses.states = true
		if n.Name == "previous" {
			c.uses.before = true
			return held(state, func(m *Evaluator) *Value { return &m.before }), nil
		}
		return held(state, func(m *Evaluator) *Value { return &m.after }), nil
	case "terminologies", "factory", "server":
		return code{}, refusal(fhir.IssueNotSupported, n, "%%%s is not supported: expressions are decided from the resource alone", n.Name)
	}
	if name, ok := strings.CutPrefix(n.Name, "vs-"); ok {
		return stringConstant(valueSetPrefix + name), nil
	}
	if name, ok := strings.CutPrefix(n.Name, "ext-"); ok {
		return stringConstant(extensionPrefix + name), nil
	}
	return code{}, refusal(fhir.IssueValue, n, "there is no variable %s here", shown("%"+n.Name))
}

// resourceShape is the shape of %resource: that of the context if it is a resource itself.
func resourceShape(context shape) shape {
	if len(context.types) == 1 && context.types[0].fhir.Kind == model.Resource {
		return context
	}
	return shape{any: true}
}

func stringConstant(s string) code {
	return constant(text([]byte(s)), systemShape(kindString))
}

// held gives an item that the Evaluator has, or nothing.
func held(s shape, of func(m *Evaluator) *Value) code {
	return code{shape: s, run: func(m *Evaluator) span {
		if v := of(m); v.kind != kindNone {
			return m.result(*v)
		}
		return m.none()
	}}
}

func (c *compiler) special(n *Node) (code, error) {
	switch n.Name {
	case "this":
		return c.self(), nil
	case "index":
		if !c.inLoop {
			return code{}, refusal(fhir.IssueValue, n, "$index is known only in the arguments of where(), select() and the like")
		}
		return code{shape: systemShape(kindInteger), run: func(m *Evaluator) span { return m.result(integer(int64(m.index))) }}, nil
	}
	if !c.inTotal {
		return code{}, refusal(fhir.IssueValue, n, "$total is known only in the arguments of aggregate()")
	}
	return code{shape: c.total, run: func(m *Evaluator) span { return m.total }}, nil
}

// self is $this, and what a path begins with.
func (c *compiler) self() code {
	c.uses.input = true
	return code{shape: c.this, run: func(m *Evaluator) span { return m.this }}
}

// member compiles a name of a path.
func (c *compiler) member(n *Node) (code, error) {
	if n.Input == nil {
		if t := c.model.Type(n.Name); t != nil && c.beginsWithType(n.Name) {
			return c.root(n, t)
		}
		return c.step(n, c.self())
	}
	in, err := c.node(n.Input)
	if err != nil {
		return code{}, err
	}
	return c.step(n, in)
}

// beginsWithType reports whether the first name of a path is that of a type and not of an
// element: those never begin with a capital in FHIR's resources.
func (c *compiler) beginsWithType(name string) bool {
	r, _ := utf8.DecodeRuneInString(name)
	_, element := c.this.member(name, true)
	return unicode.IsUpper(r) && (c.this.any || !element)
}

// root compiles a path's leading type name, which keeps what is of that type.
func (c *compiler) root(n *Node, t *model.Type) (code, error) {
	of := typeTest{fhir: t}
	if !of.possible(c.this) && len(c.this.types) > 0 {
		// The official SearchParameters unite paths of all the types that they are for.
		if !c.options.AsFilters {
			if err := c.problem(n, "the path begins with %s, and this is a %s: it gives nothing", t.Name, c.this); err != nil {
				return code{}, err
			}
		}
		return code{run: (*Evaluator).none}, nil
	}
	c.uses.input = true
	s := shape{types: []typ{{fhir: t}}, many: c.this.many}
	if !c.this.any && len(c.this.types) == 1 && c.this.types[0].fhir.Is(t.Name) {
		s = c.this // the more special type
	}
	return code{shape: s, run: func(m *Evaluator) span {
		if m.this.len() == 1 {
			if of.holds(&m.items[m.this.from]) {
				return m.this
			}
			return m.none()
		}
		at := m.top()
		for i := m.this.from; i < m.this.to; i++ {
			if of.holds(&m.items[i]) {
				m.push(m.items[i])
			}
		}
		return span{at, m.top()}
	}}, nil
}

func (c *compiler) step(n *Node, in code) (code, error) {
	s, ok := in.shape.member(n.Name, !c.options.Strict)
	if !ok {
		if err := c.problem(n, "%s has no element %s%s", in.shape, shown(n.Name), choiceHint(in.shape, n.Name)); err != nil {
			return code{}, err
		}
		// What is known by the way that leads there is not asked again when the resource comes.
		r := on(in, shape{}, func(m *Evaluator, _ span) span { return m.none() })
		return r, nil
	}
	e, st := c.model, stepNamed(c.model, n.Name)
	if !in.shape.any && len(in.shape.types) == 1 && in.shape.types[0].fhir != nil {
		st = st.expecting(in.shape.types[0].fhir)
	}
	return on(in, s, func(m *Evaluator, in span) span {
		at := m.top()
		for i := in.from; i < in.to && m.err == nil; i++ {
			m.children(i, st, e)
			m.spend(1)
		}
		return span{at, m.top()}
	}), nil
}

// choiceHint tells how an element of many types is written in FHIRPath.
func choiceHint(s shape, name string) string {
	for _, t := range s.types {
		if t.fhir == nil {
			continue
		}
		if e, of := t.fhir.Member(name); e != nil {
			return fmt.Sprintf(": write %s.ofType(%s)", e.Name, of.Name)
		}
	}
	return ""
}

func (c *compiler) indexer(n *Node) (code, error) {
	in, err := c.node(n.Input)
	if err != nil {
		return code{}, err
	}
	index, err := c.scoped(n.Args[0])
	if err != nil {
		return code{}, err
	}
	if err := c.needs(n.Args[0], index.shape, "an index", kindInteger); err != nil {
		return code{}, err
	}
	if err := c.ordered(n, in.shape, "[]"); err != nil {
		return code{}, err
	}
	return on(in, in.shape.one(), func(m *Evaluator, in span) span {
		i, ok := m.integerOf(index.run(m), index.at)
		if !ok || i < 0 || i >= int64(in.len()) {
			return m.none()
		}
		return span{in.from + int32(i), in.from + int32(i) + 1}
	}), nil
}

// ordered refuses to pick by place from what has no order.
func (c *compiler) ordered(n *Node, s shape, what string) error {
	if s.unordered {
		return c.problem(n, "%s picks by place, and what it picks from has no order", what)
	}
	return nil
}

// needs checks that a part may be what is needed of it.
func (c *compiler) needs(n *Node, s shape, what string, kinds ...kind) error {
	if s.may(kinds...) {
		return nil
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.String()
	}
	return c.problem(n, "%s must be %s, and this is %s", what, strings.Join(names, " or "), s)
}

func (c *compiler) typeOperator(n *Node) (code, error) {
	in, err := c.scoped(n.Args[0])
	if err != nil {
		return code{}, err
	}
	return c.typeTest(n, in, n.Name, n.Type)
}

// typeTest compiles is, as and ofType, as operators and functions.
func (c *compiler) typeTest(n *Node, in code, what, name string) (code, error) {
	t, ok := typeNamed(c.model, name)
	if !ok {
		return code{}, refusal(fhir.IssueValue, n, "%s is not a type of FHIR %s or of FHIRPath", shown(name), c.model.Version())
	}
	at := n.Position
	if !t.possible(in.shape) && len(in.shape.types) > 0 {
		c.warn(n, "%s is never %s", in.shape, name)
	}
	if what == "is" {
		return asking(in, func(m *Evaluator, in span) truth {
			v, ok := m.single(in, at)
			if !ok {
				return unknown
			}
			return truthOf(t.holds(v))
		}), nil
	}
	s := t.shape()
	s.many, s.unordered = in.shape.many, in.shape.unordered
	single := what == "as" && !c.options.AsFilters
	return on(in, s, func(m *Evaluator, in span) span {
		if single && in.len() > 1 {
			m.fail(at, `"as" needs one item, and there are several: use ofType()`)
			return m.none()
		}
		return m.filter(in, func(v *Value) bool { return t.holds(v) })
	}), nil
}

// filter pushes the items that pass; what passes whole is not copied.
func (m *Evaluator) filter(in span, pass func(v *Value) bool) span {
	if in.len() == 1 {
		if pass(&m.items[in.from]) {
			return in
		}
		return m.none()
	}
	at := m.top()
	for i := in.from; i < in.to && m.err == nil; i++ {
		if pass(&m.items[i]) {
			m.push(m.items[i])
		}
	}
	return span{at, m.top()}
}

func (c *compiler) defined(name string) bool {
	return slices.ContainsFunc(c.scope, func(v variable) bool { return v.name == name })
}
