package fhirpath

import (
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// Bounds of one evaluation. Steps are counted and not timed, so that every node decides the same.
const (
	maxSteps = 1 << 22 // items looked at, operators and pieces of text; a second or so at most
	maxItems = 1 << 17 // held at once, intermediate results included
	maxText  = 1 << 20 // bytes of text produced
	stride   = 64      // bytes of text that count as a step
)

// truth is a boolean of three values. An empty collection is unknown.
type truth uint8

const (
	unknown truth = iota
	no
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// span is a collection: a run of items in the Evaluator's arena.
type span struct{ from, to int32 }

func (s span) len() int    { return int(s.to - s.from) }
func (s span) empty() bool { return s.from == s.to }

// Evaluator is the scratch of one worker: the arena that all collections of an evaluation lie
// in, and the text that it produces. Its memory is used again by the next evaluation. It must
// not be used by several goroutines at once.
//
// A step pushes its result on the arena and takes away what it needed for it (keep), so the
// arena holds no more than what is still to be read. Failing is sticky: once err is set, the
// steps that remain see empty collections, and nothing they give is used.
type Evaluator struct {
	items []Value
	bytes []byte
	steps int
	err   error

	now                     time.Time
	resource, before, after Value // %resource and the states of a change; kindNone if not there
	rootResource            Value
	context                 span
	this                    span // $this, which a path begins with
	index                   int
	total                   span
	variables               []span
	uniques                 []*uniques
	sets                    int // how many of uniques are in use
	regexes                 regexCache
	relations               map[string]relation
	unitKey                 []byte
}

// NewEvaluator makes the scratch for one worker.
func NewEvaluator() *Evaluator { return new(Evaluator) }

// Evaluate gives the result of an expression. An error is ErrTooCostly, or an *Error that says
// which rule of FHIRPath the expression breaks on this resource.
func (m *Evaluator) Evaluate(e *Expression, in Input) (Collection, error) {
	m.begin(e, in)
	s := e.root.run(m)
	if m.err != nil {
		return Collection{}, m.err
	}
	return Collection{m.items[s.from:s.to:s.to]}, nil
}

// Test reports whether the result is a single true. An empty result is not, and neither is
// anything but a boolean: a criteria that gives the name of a patient is no condition that holds.
func (m *Evaluator) Test(e *Expression, in Input) (met bool, err error) {
	m.begin(e, in)
	if e.root.test != nil {
		met = e.root.test(m) == yes
		return met && m.err == nil, m.err
	}
	s := e.root.run(m)
	if m.err != nil || s.len() != 1 {
		return false, m.err
	}
	met, ok := m.items[s.from].Boolean()
	return met && ok, nil
}

// What an Evaluator keeps for the next evaluation. A rare large resource would otherwise leave
// its memory with the worker for ever.
const (
	keptItems = 8 << 10
	keptText  = 64 << 10
	keptSets  = 8
)

func (m *Evaluator) begin(e *Expression, in Input) {
	if cap(m.items) > keptItems {
		m.items, m.uniques = nil, nil
	}
	if cap(m.bytes) > keptText {
		m.bytes = nil
	}
	if len(m.uniques) > keptSets {
		m.uniques = nil
	}
	m.items, m.bytes, m.steps, m.err = m.items[:0], m.bytes[:0], maxSteps, nil
	m.sets = 0
	m.now, m.index, m.total = in.Now, 0, span{}
	if cap(m.variables) < e.variables {
		m.variables = make([]span, e.variables)
	}
	m.variables = m.variables[:e.variables]
	clear(m.variables)
	m.this, m.context = span{}, span{}
	if e.uses.states {
		m.before, m.after = e.whole(in.Previous), e.whole(in.Current)
	}
	if e.uses.input {
		m.beginAt(e, in)
	}
}

// beginAt puts the node that the expression starts at into the arena.
func (m *Evaluator) beginAt(e *Expression, in Input) {
	tree := in.Resource
	if tree == nil {
		if tree = in.Current; tree == nil {
			tree = in.Previous
		}
	}
	if e.uses.states && tree != nil && tree == in.Current {
		m.rootResource = m.after
	} else {
		m.rootResource = e.whole(tree)
	}
	m.resource = m.rootResource
	start := m.rootResource
	if tree != nil && in.Node != 0 && in.Node != tree.Root() {
		start, m.resource, m.rootResource = e.locate(tree, in.Node)
	}
	at := m.top()
	if start.kind != kindNone {
		m.push(start)
	}
	m.this = span{at, m.top()}
	m.context = m.this
}

// whole is the resource that a document holds.
func (e *Expression) whole(t *json.Tree) Value {
	if t == nil || t.Root() == 0 {
		return Value{}
	}
	root := t.Root()
	v := Value{kind: kindNode, tree: t, node: root, root: root, typ: e.start}
	name := t.Find(root, nameResourceType)
	if name == 0 || e.start != nil && t.Is(name, e.start.Name) { // it is what was said, without a look-up
		v.prim = primitiveKind(v.typ)
		return v
	}
	if v.typ = resourceType(e.model, t, root); v.typ == nil && e.start != nil && !e.start.Is("Resource") {
		v.typ = e.start
	}
	return v
}

var nameResourceType = json.NewName("resourceType")

// maxTypeName bounds what is looked up: no type has so long a name, however it is escaped.
const maxTypeName = 400

// resourceType finds the type that a resource says it has; nil if the version has none.
func resourceType(m *model.Model, t *json.Tree, n json.Node) *model.Type {
	name := t.Find(n, nameResourceType)
	if name == 0 || len(t.Raw(name)) > maxTypeName {
		return nil
	}
	return m.Type(string(t.Text(name))) // a look-up in a map, without a copy
}

// locate finds the type of a node inside a document, and the resource that it belongs to, by
// going down to it from the root. The container of that is itself unless it is a contained one:
// a resource in a Bundle stands alone (FHIR, fhirpath.html, "Variables").
func (e *Expression) locate(t *json.Tree, n json.Node) (v, resource, container Value) {
	v = e.whole(t)
	resource, container = v, v
	target := t.Offset(n)
	for v.node != n {
		child := holding(t, v.node, target)
		if child == 0 {
			return Value{}, resource, container
		}
		element, typ := v.typ.Member(string(t.KeyText(child)))
		ext := json.Node(0)
		if k := primitiveKind(typ); k != kindNone {
			ext = t.Extension(v.node, t.Key(child))
		}
		if t.Kind(child) == json.Array {
			child, ext = itemHolding(t, child, ext, target)
		}
		root := v.root
		v = Value{kind: kindNode, tree: t, node: child, ext: ext, root: root, typ: typ, prim: primitiveKind(typ)}
		if found := resourceType(e.model, t, child); found != nil && (typ == nil || typ.Kind == model.Resource) {
			v.typ = found
			if element == nil || element.Name != "contained" {
				v.root, container = child, v
				container.root = child
			}
			resource = v
		}
	}
	if v.typ == nil {
		v.typ, v.prim = e.start, primitiveKind(e.start)
	}
	return v, resource, container
}

// holding finds the member or item whose text holds a place in the document.
func holding(t *json.Tree, n json.Node, offset int) json.Node {
	for c := t.First(n); c != 0; c = t.Next(c) {
		if at := t.Offset(c); at <= offset && offset < at+len(t.Raw(c)) {
			return c
		}
	}
	return 0
}

func itemHolding(t *json.Tree, array, ext json.Node, offset int) (item, sibling json.Node) {
	sibling = t.First(ext)
	for c := t.First(array); c != 0; c = t.Next(c) {
		if at := t.Offset(c); at <= offset && offset < at+len(t.Raw(c)) {
			if t.Kind(sibling) != json.Object {
				sibling = 0
			}
			return c, sibling
		}
		sibling = t.Next(sibling)
	}
	return 0, 0
}

func (m *Evaluator) top() int32 { return int32(len(m.items)) }

// spend counts steps before they are taken, and reports whether they may be.
func (m *Evaluator) spend(steps int) bool {
	if m.steps -= steps; m.steps < 0 && m.err == nil {
		m.err = ErrTooCostly
	}
	return m.err == nil
}

func (m *Evaluator) push(v Value) {
	if len(m.items) >= maxItems {
		m.spend(maxSteps)
		return
	}
	m.steps--
	m.items = append(m.items, v)
}

// keep takes everything above mark off the arena but s, which it moves there. What lies below
// mark belongs to somebody else and stays.
func (m *Evaluator) keep(mark int32, s span) span {
	if m.err != nil {
		m.items = m.items[:mark]
		return span{mark, mark}
	}
	if s.from < mark {
		m.items = m.items[:mark]
		return s
	}
	if s.from != mark {
		copy(m.items[mark:], m.items[s.from:s.to])
	}
	n := s.to - s.from
	m.items = m.items[:mark+n]
	return span{mark, mark + n}
}

// place is keep for a result that must lie at mark: next to the ones before it.
func (m *Evaluator) place(mark int32, s span) {
	if s = m.keep(mark, s); s.from < mark {
		for i := s.from; i < s.to; i++ {
			m.push(m.items[i])
		}
	}
}

// result pushes a single item.
func (m *Evaluator) result(v Value) span {
	at := m.top()
	m.push(v)
	return span{at, m.top()}
}

// none is the empty collection.
func (m *Evaluator) none() span { return span{m.top(), m.top()} }

func (m *Evaluator) truth(t truth) span {
	if t == unknown {
		return m.none()
	}
	return m.result(boolean(t == yes))
}

// fail records the first thing that went wrong.
func (m *Evaluator) fail(position int, msg string) {
	if m.err == nil {
		m.err = &Error{Position: position, Msg: msg}
	}
}

// single gives the only item of a collection; several are an error (N1 4.5).
func (m *Evaluator) single(s span, at int) (*Value, bool) {
	if s.len() == 1 && m.err == nil {
		return &m.items[s.from], true
	}
	if s.len() > 1 {
		m.fail(at, "one item is needed here, and there are several: choose one by first(), or use where(), exists() or all()")
	}
	return nil, false
}

// condition reads a collection as a boolean: a single item that is none counts as true (N1 4.5).
// A boolean that has only extensions is one whose value nobody knows.
func (m *Evaluator) condition(s span, at int) truth {
	v, ok := m.single(s, at)
	if !ok {
		return unknown
	}
	switch sys, ok := m.value(v); {
	case ok && sys.kind == kindBoolean:
		return truthOf(sys.num != 0)
	case !ok && v.kind == kindNode && v.prim == kindBoolean:
		return unknown
	}
	return yes
}

// system gives the only item as a value of a System type, converting elements.
func (m *Evaluator) system(s span, at int) (Value, bool) {
	v, ok := m.single(s, at)
	if !ok {
		return Value{}, false
	}
	sys, ok := m.convert(v)
	if !ok && (v.kind != kindNode || v.prim == kindNone && !v.isQuantity()) {
		m.fail(at, "a value is needed here, and this is an element with parts of its own: name the part that is meant")
	}
	return sys, ok
}

// convert gives the value of a primitive or a Quantity.
func (m *Evaluator) convert(v *Value) (Value, bool) {
	if v.isQuantity() {
		return m.quantity(v)
	}
	return m.value(v)
}

// value is system() of an item, with the steps that reading its text takes: a text with escapes
// is made anew each time, and a resource may hold a megabyte of it.
func (m *Evaluator) value(v *Value) (Value, bool) {
	if v.kind == kindNode && v.prim != kindNone && !m.spend(len(v.tree.Raw(v.node))/stride) {
		return Value{}, false
	}
	r, ok := v.system()
	return r, m.weigh(&r, &r) && ok
}

func (m *Evaluator) quantity(v *Value) (Value, bool) {
	if !m.spend(len(v.tree.Raw(v.node)) / stride) {
		return Value{}, false
	}
	r, ok := v.quantity()
	return r, m.weigh(&r, &r) && ok
}

// heavySteps is what reckoning with a number of hundreds of digits counts for.
const heavySteps = 100

// weigh spends what it takes to reckon with two numbers: nearly all are light.
func (m *Evaluator) weigh(a, b *Value) bool {
	d := a.scale - b.scale
	if a.big != nil || b.big != nil || a.isNumber() && (d >= int32(len(powers)) || -d >= int32(len(powers))) {
		return m.spend(heavySteps)
	}
	m.steps--
	return m.err == nil
}

// text is the text of a node, with the steps of reading it.
func (m *Evaluator) text(t *json.Tree, n json.Node) []byte {
	if !m.spend(len(t.Raw(n)) / stride) {
		return nil
	}
	return t.Text(n)
}

// textOf gives the only item as a String.
func (m *Evaluator) textOf(s span, at int) ([]byte, bool) {
	v, ok := m.system(s, at)
	if ok && v.kind != kindString {
		m.fail(at, "a String is needed here: use toString()")
		return nil, false
	}
	return v.text, ok && m.spend(len(v.text)/stride)
}

// integerOf gives the only item as an Integer.
func (m *Evaluator) integerOf(s span, at int) (int64, bool) {
	v, ok := m.system(s, at)
	if ok && v.kind != kindInteger {
		m.fail(at, "an Integer is needed here")
		return 0, false
	}
	return v.num, ok
}

// produce counts bytes of text before they are made.
func (m *Evaluator) produce(n int) bool {
	if len(m.bytes)+n > maxText {
		return m.spend(maxSteps + 1)
	}
	return m.spend(n / stride)
}

// made gives what was appended to the text since from. Appending may move the text; what was
// given before stays where it was.
func (m *Evaluator) made(from int) []byte { return m.bytes[from:len(m.bytes):len(m.bytes)] }
