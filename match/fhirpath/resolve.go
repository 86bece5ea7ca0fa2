package fhirpath

import (
	"bytes"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

var fhirFunctions = map[string]function{
	"extension":    {1, 1, (*compiler).extension},
	"hasExtension": {1, 1, (*compiler).hasExtension},
	"hasValue":     {0, 0, (*compiler).hasValue},
	"getValue":     {0, 0, (*compiler).getValue},
	"resolve":      {0, 0, (*compiler).resolve},
}

var (
	nameExtension = json.NewName("extension")
	nameURL       = json.NewName("url")
	nameReference = json.NewName("reference")
	nameType      = json.NewName("type")
	nameContained = json.NewName("contained")
	nameID        = json.NewName("id")
	nameEntry     = json.NewName("entry")
	nameFullURL   = json.NewName("fullUrl")
	nameResource  = json.NewName("resource")
)

// extension gives the extensions with a URL, of elements and of primitives.
func (c *compiler) extension(n *Node, in code) (code, error) {
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	if err := c.needs(n.Args[0], args[0].shape, "the argument of extension()", kindString); err != nil {
		return code{}, err
	}
	url, t := args[0], c.model.Type("Extension")
	s := shape{types: []typ{{fhir: t}}, many: true}
	return on(in, s, func(m *Evaluator, in span) span {
		want, ok := m.textOf(url.run(m), url.at)
		at := m.top()
		for i := in.from; ok && i < in.to && m.spend(1); i++ {
			m.extensions(i, want, t)
		}
		return span{at, m.top()}
	}), nil
}

// hasExtension is extension(url).exists(). FHIR does not define it; a SearchParameter of R4
// (QuestionnaireResponse item-subject) needs it.
func (c *compiler) hasExtension(n *Node, in code) (code, error) {
	found, err := c.extension(n, in)
	if err != nil {
		return code{}, err
	}
	return c.existsFunction(&Node{Kind: KindCall, Name: n.Name, Position: n.Position}, found)
}

func (m *Evaluator) extensions(i int32, url []byte, t *model.Type) {
	v := m.items[i]
	if v.kind != kindNode {
		return
	}
	n := v.node
	if v.prim != kindNone {
		n = v.ext
	}
	for x := v.tree.First(m.find(v.tree, n, nameExtension)); x != 0; x = v.tree.Next(x) {
		if !m.spend(1) {
			return
		}
		if bytes.Equal(m.text(v.tree, m.find(v.tree, x, nameURL)), url) {
			m.push(Value{kind: kindNode, tree: v.tree, node: x, root: v.root, typ: t})
		}
	}
}

// hasValue tells a primitive with a value from one that has only extensions.
func (c *compiler) hasValue(_ *Node, in code) (code, error) {
	return asking(in, func(m *Evaluator, in span) truth {
		if in.len() != 1 {
			return no
		}
		v := &m.items[in.from]
		return truthOf(v.kind > kindReferred || v.kind == kindNode && v.prim != kindNone && v.node != 0)
	}), nil
}

func (c *compiler) getValue(_ *Node, in code) (code, error) {
	s := shape{any: in.shape.any}
	for _, t := range in.shape.types {
		if k := t.value(); k != kindNone {
			s.types = append(s.types, typ{system: k})
		}
	}
	return on(in, s, func(m *Evaluator, in span) span {
		if in.len() == 1 {
			if v, ok := m.value(&m.items[in.from]); ok {
				return m.result(v)
			}
		}
		return m.none()
	}), nil
}

// resolve finds the resource that a reference, a canonical or a URL leads to without leaving the
// document: what is contained, and the entries of a Bundle around it. Of another resource only
// the type is known, from the text or from Reference.type; it has no elements. A reference that
// tells no type gives nothing.
func (c *compiler) resolve(_ *Node, in code) (code, error) {
	e := c.model
	s := anything
	s.many = in.shape.many
	return on(in, s, func(m *Evaluator, in span) span {
		at := m.top()
		for i := in.from; i < in.to && m.spend(1); i++ {
			m.resolved(m.items[i], e)
		}
		return span{at, m.top()}
	}), nil
}

func (m *Evaluator) resolved(v Value, e *model.Model) {
	var ref, typeName []byte
	switch {
	case v.kind == kindString:
		ref = v.text
	case v.kind != kindNode || v.node == 0:
		return
	case v.prim == kindString:
		ref = m.text(v.tree, v.node)
	case v.typ != nil && v.typ.Is("Reference"):
		ref = m.text(v.tree, m.find(v.tree, v.node, nameReference))
		typeName = m.text(v.tree, m.find(v.tree, v.node, nameType))
	}
	if v.tree != nil && m.local(&v, ref, e) {
		return
	}
	t := referredType(e, ref)
	if t == nil && (len(ref) == 0 || ref[0] != '#') {
		t = concreteResource(e, typeName)
	}
	if t != nil {
		m.push(Value{kind: kindReferred, typ: t})
	}
}

// local pushes what a reference finds in its own document.
func (m *Evaluator) local(v *Value, ref []byte, e *model.Model) bool {
	t := v.tree
	if fragment, ok := bytes.CutPrefix(ref, []byte("#")); ok {
		if len(fragment) == 0 { // the resource that contains this one
			return m.found(t, v.root, v.root, e)
		}
		for c := t.First(m.find(t, v.root, nameContained)); c != 0 && m.spend(1); c = t.Next(c) {
			if bytes.Equal(m.text(t, m.find(t, c, nameID)), fragment) {
				return m.found(t, c, v.root, e)
			}
		}
		return false
	}
	if len(ref) == 0 || !bytes.Equal(m.text(t, m.find(t, t.Root(), nameResourceType)), []byte("Bundle")) {
		return false
	}
	for entry := t.First(m.find(t, t.Root(), nameEntry)); entry != 0 && m.spend(1); entry = t.Next(entry) {
		r := m.find(t, entry, nameResource)
		if r != 0 && m.entryIs(t, entry, r, ref) {
			return m.found(t, r, r, e)
		}
	}
	return false
}

// find is Tree.Find with a step for every member that is looked at: an object may have a million,
// and references that look into it as many.
func (m *Evaluator) find(t *json.Tree, n json.Node, name json.Name) json.Node {
	for c := t.First(n); c != 0 && m.spend(1); c = t.Next(c) {
		if string(t.KeyText(c)) == name.String() {
			return c
		}
	}
	return 0
}

func (m *Evaluator) found(t *json.Tree, n, root json.Node, e *model.Model) bool {
	m.push(Value{kind: kindNode, tree: t, node: n, root: root, typ: resourceType(e, t, n)})
	return true
}

// entryIs compares a reference with an entry: its fullUrl, and for a relative reference the end
// of it or the type and id of the resource (FHIR, "Resolving references in Bundles").
func (m *Evaluator) entryIs(t *json.Tree, entry, resource json.Node, ref []byte) bool {
	full := m.text(t, m.find(t, entry, nameFullURL))
	if bytes.Equal(full, ref) {
		return true
	}
	if bytes.Contains(ref, []byte(":")) {
		return false
	}
	if head, ok := bytes.CutSuffix(full, ref); ok && bytes.HasSuffix(head, []byte("/")) {
		return true
	}
	name, id, ok := bytes.Cut(ref, []byte("/"))
	return ok && bytes.Equal(m.text(t, m.find(t, resource, nameResourceType)), name) && bytes.Equal(m.text(t, m.find(t, resource, nameID)), id)
}

// referredType reads the type out of Patient/1, http://server/fhir/Patient/1 and either with
// /_history/2 behind it.
func referredType(e *model.Model, ref []byte) *model.Type {
	ref, _, _ = bytes.Cut(ref, []byte("?"))
	if before, _, ok := bytes.Cut(ref, []byte("/_history/")); ok {
		ref = before
	}
	slash := bytes.LastIndexByte(ref, '/')
	if slash < 0 || slash == len(ref)-1 {
		return nil
	}
	ref = ref[:slash]
	return concreteResource(e, ref[bytes.LastIndexByte(ref, '/')+1:])
}

func concreteResource(e *model.Model, name []byte) *model.Type {
	if t := e.Type(string(name)); t != nil && t.Kind == model.Resource && !t.Abstract {
		return t
	}
	return nil
}
