package xml

import (
	"bytes"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// namespace is what a name's namespace is to us.
type namespace uint8

const (
	noNamespace namespace = iota
	fhirNamespace
	xhtmlNamespace
	xsiNamespace
	otherNamespace
)

func namespaceOf(uri []byte) namespace {
	switch string(uri) {
	case "":
		return noNamespace
	case namespaceFHIR:
		return fhirNamespace
	case namespaceXHTML:
		return xhtmlNamespace
	case namespaceXSI:
		return xsiNamespace
	}
	return otherNamespace
}

// nodeKind is what a node of the tree is.
type nodeKind uint8

const (
	elementNode nodeKind = iota
	attributeNode
	narrativeNode // a div of XHTML with all that is in it
)

// node is an element or one of its attributes, which come before its elements. It holds no
// pointers and is small, since a document of tiny elements has many.
type node struct {
	at          uint32 // its place in the input
	name        uint32 // without prefix
	nameLen     uint16
	kind        nodeKind
	ns          namespace
	value       uint32 // of an attribute, as it is written; of a narrative its number
	valueLen    uint32
	first, next int32
}

// tree is a document without what says nothing: comments, white space, namespace declarations.
// nodes[0] is no node, nodes[1] the document element.
type tree struct {
	scanner
	nodes      []node
	narratives [][]byte
	open       []openElement
	bindings   []binding
}

// openElement is an element whose end has not come.
type openElement struct {
	name     span
	node     int32
	last     int32 // of its children
	bindings int   // how many there were before its own
}

// binding is a namespace declaration in force.
type binding struct {
	prefix span // empty: the default
	ns     namespace
}

// read makes a tree of a document.
func read(src []byte) (*tree, error) {
	t := &tree{scanner: scanner{src: src}, nodes: make([]node, 1, 64)}
	if err := t.characters(); err != nil {
		return nil, err
	}
	if err := t.prolog(); err != nil {
		return nil, err
	}
	for {
		tok, err := t.next()
		if err != nil {
			return nil, err
		}
		switch tok.kind {
		case ignoredToken:
		case textToken, cdataToken:
			err = t.betweenElements(tok)
		case startTag:
			err = t.start(tok)
		case endTag:
			err = t.end(tok)
		case endOfInput:
			return t, t.complete()
		}
		if err != nil {
			return nil, err
		}
	}
}

// complete refuses a document that ends too soon.
func (t *tree) complete() error {
	switch {
	case len(t.open) > 0:
		return t.badXML(t.pos, "unexpected end of the document")
	case len(t.nodes) < 2:
		return t.badXML(t.pos, "there is no element")
	}
	return nil
}

// betweenElements allows white space alone: FHIR has its values in attributes.
func (t *tree) betweenElements(tok token) error {
	for i := tok.at.from; i < tok.at.to; i++ {
		if isSpace(t.src[i]) {
			continue
		}
		if len(t.open) == 0 {
			return t.badXML(i, "text outside of the document element")
		}
		return t.refuse(i, fhir.IssueStructure, "", "text between elements: FHIR has values in the attribute value")
	}
	return nil
}

func (t *tree) start(tok token) error {
	if len(t.open) == 0 && len(t.nodes) > 1 {
		return t.badXML(tok.at.from, "more than one document element")
	}
	if len(t.open) >= maxDepth {
		return t.badXML(tok.at.from, "nested too deeply")
	}
	before := len(t.bindings)
	if err := t.bind(); err != nil {
		return err
	}
	ns, _, err := t.lookup(tok.prefix)
	if err != nil {
		return err
	}
	if ns == xhtmlNamespace && string(t.src[tok.local.from:tok.local.to]) == "div" {
		return t.addNarrative(tok, before)
	}
	n, err := t.add(node{at: uint32(tok.at.from), ns: ns}, tok.local)
	if err != nil {
		return err
	}
	o := openElement{name: tok.name, node: n, bindings: before}
	for _, a := range t.attributes {
		if err := t.addAttribute(&o, a); err != nil {
			return err
		}
	}
	if tok.empty {
		t.bindings = t.bindings[:before]
		return nil
	}
	t.open = append(t.open, o)
	return nil
}

func (t *tree) end(tok token) error {
	if len(t.open) == 0 {
		return t.badXML(tok.at.from, "an end tag without its element")
	}
	o := t.open[len(t.open)-1]
	if !t.same(o.name, tok.name) {
		return t.badXML(tok.at.from, "an end tag of another element than the one that is open")
	}
	t.open = t.open[:len(t.open)-1]
	t.bindings = t.bindings[:o.bindings]
	return nil
}

func (t *tree) same(a, b span) bool {
	return bytes.Equal(t.src[a.from:a.to], t.src[b.from:b.to])
}

// maxName is the length of the longest name that a node can hold; no name of FHIR is near it.
const maxName = 1 << 10

// add puts a node with a name into the tree, as the last child of the element that is open.
func (t *tree) add(n node, name span) (int32, error) {
	if name.to-name.from > maxName {
		return 0, t.badXML(name.from, "a name longer than %d characters", maxName)
	}
	n.name, n.nameLen = uint32(name.from), uint16(name.to-name.from)
	t.nodes = append(t.nodes, n)
	i := int32(len(t.nodes) - 1)
	if len(t.open) > 0 {
		t.append(&t.open[len(t.open)-1], i)
	}
	return i, nil
}

func (t *tree) append(parent *openElement, child int32) {
	if parent.last == 0 {
		t.nodes[parent.node].first = child
	} else {
		t.nodes[parent.last].next = child
	}
	parent.last = child
}

// addAttribute keeps an attribute, if it is no namespace declaration and no hint to a schema: those
// HL7's own examples have, although its text does not want them.
func (t *tree) addAttribute(o *openElement, a attribute) error {
	if t.isDeclaration(a) {
		return nil
	}
	if a.prefix.from < a.prefix.to {
		ns, _, err := t.lookup(a.prefix)
		if err != nil {
			return err
		}
		switch local := string(t.src[a.local.from:a.local.to]); {
		case ns == xsiNamespace && (local == "schemaLocation" || local == "noNamespaceSchemaLocation"):
			return nil
		}
		return t.refuse(a.name.from, fhir.IssueStructure, "", "an attribute of another namespace, which FHIR does not have,")
	}
	if a.local.to-a.local.from > maxName {
		return t.badXML(a.local.from, "a name longer than %d characters", maxName)
	}
	t.nodes = append(t.nodes, node{
		at: uint32(a.name.from), kind: attributeNode,
		name: uint32(a.local.from), nameLen: uint16(a.local.to - a.local.from),
		value: uint32(a.value.from), valueLen: uint32(a.value.to - a.value.from),
	})
	t.append(o, int32(len(t.nodes)-1))
	return nil
}

func (t *tree) addNarrative(tok token, outer int) error {
	at := node{at: uint32(tok.at.from), kind: narrativeNode, ns: xhtmlNamespace, value: uint32(len(t.narratives))}
	if _, err := t.add(at, tok.local); err != nil {
		return err
	}
	text, err := t.narrative(tok, outer)
	t.narratives = append(t.narratives, text)
	return err
}

// isDeclaration reports whether an attribute declares a namespace.
func (t *tree) isDeclaration(a attribute) bool {
	head := a.prefix
	if head.from == head.to {
		head = a.local
	}
	return string(t.src[head.from:head.to]) == "xmlns"
}

// bind takes up the namespaces that the start tag scanned last declares (Namespaces in XML 1.0).
func (t *tree) bind() error {
	for _, a := range t.attributes {
		if !t.isDeclaration(a) {
			continue
		}
		ns := namespaceOf(unescaped(t.src[a.value.from:a.value.to]))
		var prefix span // of the default
		if a.prefix.from < a.prefix.to {
			prefix = a.local
			name := string(t.src[prefix.from:prefix.to])
			if ns == noNamespace || name == "xml" || name == "xmlns" {
				return t.badXML(a.name.from, "a namespace declaration that is not allowed")
			}
		}
		if len(t.bindings) == maxNamespaces {
			return t.badXML(a.name.from, "more than %d namespaces", maxNamespaces)
		}
		t.bindings = append(t.bindings, binding{prefix, ns})
	}
	return nil
}

// lookup finds what a prefix stands for, and the number of its declaration; -1 if there is none,
// as of the prefix xml, and of no prefix where there is no default.
func (t *tree) lookup(prefix span) (namespace, int, error) {
	for i := len(t.bindings) - 1; i >= 0; i-- {
		if t.same(t.bindings[i].prefix, prefix) {
			return t.bindings[i].ns, i, nil
		}
	}
	switch {
	case prefix.from == prefix.to:
		return noNamespace, -1, nil
	case string(t.src[prefix.from:prefix.to]) == "xml":
		return otherNamespace, -1, nil
	}
	return noNamespace, -1, t.badXML(prefix.from, "a prefix that is not declared")
}
