package fhirpath

import (
	"bytes"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// step is a name of a path, prepared for every type that has such an element.
type step struct {
	name  string
	plans map[*model.Type]*plan
	raw   member // for nodes of which FHIR knows no type
	// The type that the static pass expects, if there is one: spares the look-up.
	expected *model.Type
	plan     *plan
}

// plan says where an element of one type is found.
type plan struct {
	members []member
	// choice finds the members of an element with many types by their names, in one pass over
	// the object instead of one for every type.
	choice map[string]*member
}

// member is a JSON member that holds an element.
type member struct {
	key, ext json.Name // ext is its sibling with the extensions
	typ      *model.Type
	prim     kind
	resource bool // the type is in resourceType
	own      bool // and it is no contained one
}

const fewMembers = 2

func newMember(e *model.Element, t *model.Type) member {
	key := e.Key(t)
	return member{
		key: json.NewName(key), ext: json.NewName("_" + key), typ: t, prim: primitiveKind(t),
		resource: t.Kind == model.Resource, own: e.Name != "contained",
	}
}

func newPlan(e *model.Element) *plan {
	p := &plan{members: make([]member, len(e.Types))}
	for i, t := range e.Types {
		p.members[i] = newMember(e, t)
	}
	if len(p.members) > fewMembers {
		p.choice = make(map[string]*member, 2*len(p.members))
		for i := range p.members {
			p.choice[p.members[i].key.String()] = &p.members[i]
			if p.members[i].prim != kindNone {
				p.choice[p.members[i].ext.String()] = &p.members[i]
			}
		}
	}
	return p
}

type stepKey struct {
	version fhir.Version
	name    string
}

// steps holds the steps of names that FHIR knows, so that a hundred thousand expressions share
// them. Other names are not kept: an author could fill the memory with them.
var steps sync.Map // stepKey -> *step

// names holds for each version the names that its elements and their JSON members have.
var names sync.Map // fhir.Version -> map[string]bool

func namesOf(m *model.Model) map[string]bool {
	if known, ok := names.Load(m.Version()); ok {
		return known.(map[string]bool)
	}
	known := map[string]bool{}
	for _, typeName := range m.Types() {
		for _, e := range m.Type(typeName).Elements() {
			known[e.Name] = true
			for _, t := range e.Types {
				known[e.Key(t)] = true
			}
		}
	}
	kept, _ := names.LoadOrStore(m.Version(), known)
	return kept.(map[string]bool)
}

// stepNamed prepares a name.
func stepNamed(m *model.Model, name string) *step {
	raw := member{key: json.NewName(name), ext: json.NewName("_" + name), own: name != "contained", resource: true}
	if !namesOf(m)[name] {
		return &step{name: name, raw: raw}
	}
	key := stepKey{m.Version(), name}
	if s, ok := steps.Load(key); ok {
		return s.(*step)
	}
	s := &step{name: name, plans: map[*model.Type]*plan{}, raw: raw}
	for _, typeName := range m.Types() {
		t := m.Type(typeName)
		if e := t.Element(name); e != nil {
			s.plans[t] = newPlan(e)
		} else if e, typ := t.Member(name); e != nil { // valueQuantity, which only lenient expressions reach
			s.plans[t] = &plan{members: []member{newMember(e, typ)}}
		}
	}
	kept, _ := steps.LoadOrStore(key, s)
	return kept.(*step)
}

// expecting gives the step with the type prepared that it will mostly meet.
func (s *step) expecting(t *model.Type) *step {
	c := *s
	c.expected, c.plan = t, s.plans[t]
	return &c
}

// children pushes the elements that s names of the item at i.
func (m *Evaluator) children(i int32, s *step, e *model.Model) {
	v := m.items[i] // a copy, because pushing may move the arena
	switch {
	case v.kind == kindTypeInfo:
		m.typeInfoPart(&v, s.name)
		return
	case v.kind != kindNode:
		return
	case v.prim != kindNone:
		if s.name == "value" {
			if sys, ok := m.value(&v); ok {
				m.push(sys)
			}
			return
		}
		if v.node = v.ext; v.node == 0 {
			return
		}
	case v.typ == nil:
		if m.scan(&v) {
			m.memberOf(&v, &s.raw, e)
		}
		return
	}
	if !m.scan(&v) {
		return
	}
	p := s.plan
	if v.typ != s.expected || p == nil {
		if p = s.plans[v.typ]; p == nil {
			return
		}
	}
	if p.choice != nil {
		m.choice(&v, s, p, e)
		return
	}
	for i := range p.members {
		m.memberOf(&v, &p.members[i], e)
	}
}

// scanned is how many bytes of an object count as a step when a member is sought in it. Members
// are found one after the other, and only the length of the object bounds how many there are.
const scanned = 256

// scan spends what it takes to find a member of a node.
func (m *Evaluator) scan(v *Value) bool {
	return m.spend(len(v.tree.Raw(v.node)) / scanned)
}

func (m *Evaluator) typeInfoPart(v *Value, name string) {
	namespace, typ := v.typeInfo()
	switch name {
	case "namespace":
		m.push(text([]byte(namespace)))
	case "name":
		m.push(text([]byte(typ)))
	}
}

// memberOf pushes what one JSON member of an object holds.
func (m *Evaluator) memberOf(v *Value, p *member, e *model.Model) {
	t := v.tree
	n := t.Find(v.node, p.key)
	ext := json.Node(0)
	if p.prim != kindNone || p.typ == nil {
		ext = t.Find(v.node, p.ext)
	}
	m.steps--
	if n|ext != 0 {
		m.element(v, p, n, ext, e)
	}
}

// choice pushes what an object holds of an element with many types.
func (m *Evaluator) choice(v *Value, s *step, p *plan, e *model.Model) {
	t := v.tree
	for n := t.First(v.node); n != 0; n = t.Next(n) {
		m.steps--
		key := t.KeyText(n)
		alone := len(key) > 0 && key[0] == '_'
		if alone {
			key = key[1:]
		}
		if !bytes.HasPrefix(key, []byte(s.name)) {
			continue
		}
		found := p.choice[string(key)]
		switch {
		case found == nil:
		case alone:
			// A sibling is read with its value, and by itself only where that is missing.
			if m.scan(v) && t.Find(v.node, found.key) == 0 && found.prim != kindNone {
				m.element(v, found, 0, n, e)
			}
		case found.prim != kindNone && m.scan(v):
			m.element(v, found, n, t.Find(v.node, found.ext), e)
		default:
			m.element(v, found, n, 0, e)
		}
	}
}

// element pushes the items of one member: n and its sibling with extensions, each an array
// where the element repeats. Where one of them is none though it should be, it is the only item:
// what stands next to it belongs to other members.
func (m *Evaluator) element(v *Value, p *member, n, ext json.Node, e *model.Model) {
	t := v.tree
	if t.Kind(n) != json.Array && t.Kind(ext) != json.Array {
		m.item(v, p, n, ext, e)
		return
	}
	several, siblings := t.Kind(n) == json.Array, t.Kind(ext) == json.Array
	if several {
		n = t.First(n)
	}
	if siblings {
		ext = t.First(ext)
	}
	for n != 0 || ext != 0 {
		if m.err != nil {
			return
		}
		m.item(v, p, n, ext, e)
		n, ext = nextIf(several, t, n), nextIf(siblings, t, ext)
	}
}

func nextIf(array bool, t *json.Tree, n json.Node) json.Node {
	if !array {
		return 0
	}
	return t.Next(n)
}

// item pushes one element. A null stands for nothing (FHIR, JSON representation of primitives).
func (m *Evaluator) item(v *Value, p *member, n, ext json.Node, e *model.Model) {
	t := v.tree
	if t.Kind(n) == json.Null {
		n = 0
	}
	if t.Kind(ext) != json.Object {
		ext = 0
	}
	if n|ext == 0 {
		return
	}
	child := Value{kind: kindNode, prim: p.prim, node: n, ext: ext, root: v.root, typ: p.typ, tree: t}
	if p.resource {
		if found := resourceType(e, t, n); found != nil {
			child.typ = found
			if p.own {
				child.root = n
			}
		} else if p.typ != nil {
			child.typ = nil // a resource of a type that this version does not know
		}
	}
	m.push(child)
}

// allChildren pushes every element of the item at i, in the order of the document.
func (m *Evaluator) allChildren(i int32, e *model.Model) {
	v := m.items[i]
	if v.kind != kindNode {
		return
	}
	if v.prim != kindNone {
		v.node = v.ext
	}
	t := v.tree
	for n := t.First(v.node); n != 0 && t.Kind(v.node) == json.Object; n = t.Next(n) {
		if m.err != nil {
			return
		}
		key := t.KeyText(n)
		m.steps--
		switch {
		case string(key) == "resourceType":
		case len(key) > 0 && key[0] == '_':
			if m.member(t, v.node, key[1:]) == 0 {
				m.element(&v, m.memberNamed(&v, key[1:]), 0, n, e)
			}
		default:
			p := m.memberNamed(&v, key)
			ext := json.Node(0)
			if (p.prim != kindNone || p.typ == nil) && m.scan(&v) {
				ext = t.Find(v.node, p.ext)
			}
			m.element(&v, p, n, ext, e)
		}
	}
}

// memberTables holds for each type what its JSON members are, made when they are first needed.
var memberTables sync.Map // *model.Type -> map[string]*member

func membersOf(t *model.Type) map[string]*member {
	if table, ok := memberTables.Load(t); ok {
		return table.(map[string]*member)
	}
	table := map[string]*member{}
	for _, e := range t.Elements() {
		for _, of := range e.Types {
			p := newMember(e, of)
			table[p.key.String()] = &p
		}
	}
	kept, _ := memberTables.LoadOrStore(t, table)
	return kept.(map[string]*member)
}

// memberNamed finds what a JSON member of a node is.
func (m *Evaluator) memberNamed(v *Value, key []byte) *member {
	if v.typ != nil {
		if p := membersOf(v.typ)[string(key)]; p != nil {
			return p
		}
	}
	return &member{ext: json.NewName("_" + string(key)), resource: true, own: string(key) != "contained"}
}
