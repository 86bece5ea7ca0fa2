package json

import (
	"bytes"
	"iter"
	"sync"
)

// Kind is the JSON type of a node.
type Kind uint8

// The kinds. Invalid is the kind of no node.
const (
	Invalid Kind = iota
	Null
	False
	True
	Number
	String
	Array
	Object
)

// Node is a place in a Tree. The zero Node is no node: a missing member gives it, and every
// access to it gives nothing again, so a path needs no checks between its steps.
type Node int32

// node holds no pointers, so that a large tree costs the garbage collector nothing.
type node struct {
	start, end uint32 // the value's text, quotes and brackets included
	key        uint32 // start of the member's key without quotes: in text, or in keys if keyEscaped
	keyLen     uint32
	keyHash    uint32 // of the unescaped key; spares most comparisons
	first      Node
	next       Node
	kind       Kind
	flags      uint8
}

const (
	escaped    uint8 = 1 << iota // the string's text holds escapes
	keyEscaped                   // the key held escapes; it is unescaped in Tree.keys
)

// Tree is a parsed document. Its accessors may be called by many goroutines at once as long as
// nobody parses into it. It refers to the document's bytes, which must not change while the
// tree, or anything it returned, is in use.
type Tree struct {
	text  []byte
	nodes []node // nodes[0] is no node, nodes[1] the root
	keys  []byte // unescaped text of keys that were written with escapes

	// Scratch of the parser.
	hashes []uint32
	table  []Node
	edits  edits // of one who owns the tree alone
}

// trees holds trees that were given back, so that a document that is read once and forgotten
// costs no memory. It is a matter of memory alone: no call sees what another has parsed.
var trees = sync.Pool{New: func() any { return new(Tree) }}

// keptNodes bounds the memory that a tree brings back: that of a rare large document would stay
// for ever with the many small ones.
const keptNodes = 4096

// Borrow gives an empty tree for a short use. Who borrows it calls Release when nothing refers
// to its document any more, or leaves the tree to the garbage collector.
func Borrow() *Tree { return trees.Get().(*Tree) }

// Release gives a tree back. It must not be used afterwards, and neither must bytes that
// KeyText gave.
func (t *Tree) Release() {
	if cap(t.nodes) > keptNodes || cap(t.keys) > keptNodes || cap(t.edits.buf) > keptNodes {
		return
	}
	t.reset()
	trees.Put(t)
}

// Root is the document's value.
func (t *Tree) Root() Node {
	if len(t.nodes) < 2 {
		return 0
	}
	return 1
}

// Source is the document as it was given to Parse. It must not be changed.
func (t *Tree) Source() []byte { return t.text }

func (t *Tree) at(n Node) *node {
	if n <= 0 || int(n) >= len(t.nodes) {
		return &none
	}
	return &t.nodes[n]
}

var none node // what every access to no node reads; never written

// Kind gives the JSON type of n, Invalid for no node.
func (t *Tree) Kind(n Node) Kind { return t.at(n).kind }

// Get gives the member of the object n with that name, no node if n is no object or has none.
func (t *Tree) Get(n Node, key string) Node {
	if t.at(n).kind != Object {
		return 0
	}
	h := hashString(key)
	for m := t.nodes[n].first; m != 0; {
		p := &t.nodes[m]
		if p.keyHash == h && string(t.keyText(p)) == key {
			return m
		}
		m = p.next
	}
	return 0
}

// Name is a member name prepared for Find.
type Name struct {
	text string
	hash uint32
}

// NewName prepares a member name that is looked up often.
func NewName(key string) Name { return Name{key, hashString(key)} }

// String is the name itself.
func (k Name) String() string { return k.text }

// Find is Get for a prepared name.
func (t *Tree) Find(n Node, key Name) Node {
	if t.at(n).kind != Object {
		return 0
	}
	for m := t.nodes[n].first; m != 0; {
		p := &t.nodes[m]
		if p.keyHash == key.hash && string(t.keyText(p)) == key.text {
			return m
		}
		m = p.next
	}
	return 0
}

// Extension gives the sibling that carries the id and the extensions of the primitive member
// key of the object n: the member "_key" (FHIR R4, JSON representation of primitives). No node
// if there is none. Where key is an array, so is its sibling, item for item.
func (t *Tree) Extension(n Node, key string) Node { return t.Get(n, "_"+key) }

// First gives the first item of an array or member of an object, in the order of the text.
func (t *Tree) First(n Node) Node { return t.at(n).first }

// Next gives the item or member after n within the same array or object.
func (t *Tree) Next(n Node) Node { return t.at(n).next }

// Children ranges over the items of an array or the members of an object.
func (t *Tree) Children(n Node) iter.Seq[Node] {
	return func(yield func(Node) bool) {
		for c := t.First(n); c != 0; c = t.Next(c) {
			if !yield(c) {
				return
			}
		}
	}
}

// Len counts the items of an array or the members of an object; it walks them.
func (t *Tree) Len(n Node) int {
	k := 0
	for c := t.First(n); c != 0; c = t.Next(c) {
		k++
	}
	return k
}

// Key gives the unescaped name of the member n; empty for what is no member.
func (t *Tree) Key(n Node) string { return string(t.keyText(t.at(n))) }

// KeyText is Key without the copy: bytes that must not be changed.
func (t *Tree) KeyText(n Node) []byte { return t.keyText(t.at(n)) }

func (t *Tree) keyText(p *node) []byte {
	if p.flags&keyEscaped != 0 {
		return t.keys[p.key : p.key+p.keyLen]
	}
	return t.text[p.key : p.key+p.keyLen]
}

// Str gives the unescaped value of a string as a copy; empty for everything else.
func (t *Tree) Str(n Node) string { return string(t.Text(n)) }

// Text gives the unescaped value of a string, nil for everything else. Without escapes it is
// the document's own bytes, which must not be changed.
func (t *Tree) Text(n Node) []byte {
	p := t.at(n)
	if p.kind != String {
		return nil
	}
	s := t.text[p.start+1 : p.end-1]
	if p.flags&escaped == 0 {
		return s
	}
	return unescape(make([]byte, 0, len(s)), s)
}

// Raw gives the text of the value n as it was written; nil for no node. It is the document's
// own bytes, which must not be changed. For a number it is the number.
func (t *Tree) Raw(n Node) []byte {
	p := t.at(n)
	return t.text[p.start:p.end:p.end]
}

// Offset gives the place of the value n in the document.
func (t *Tree) Offset(n Node) int { return int(t.at(n).start) }

// Bool reports whether n is true. Callers that tell false from something else ask Kind.
func (t *Tree) Bool(n Node) bool { return t.at(n).kind == True }

// Is reports whether n is a string of that value; it copies nothing in the usual case.
func (t *Tree) Is(n Node, s string) bool {
	p := t.at(n)
	if p.kind != String {
		return false
	}
	if p.flags&escaped == 0 {
		return string(t.text[p.start+1:p.end-1]) == s
	}
	return string(t.Text(n)) == s
}

func (t *Tree) sameKey(a, b *node) bool {
	return a.keyHash == b.keyHash && bytes.Equal(t.keyText(a), t.keyText(b))
}
