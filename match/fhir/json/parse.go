package json

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// Default limits of a document.
const (
	DefaultDepth = 64
	DefaultBytes = 8 << 20
)

// A new tree begins with room for a resource of usual density, which spares it growing step by
// step; the room is bounded, since the length of a document says little of one that is mostly text.
const (
	bytesPerNode = 40
	firstNodes   = 256
)

// Limits bound what a document may ask of the parser. A zero field means its default.
type Limits struct {
	Depth int // objects and arrays within one another; DefaultDepth if zero
	Bytes int // length of the document; DefaultBytes if zero
}

// Parse reads a document into a new tree. The tree refers to data, which must not change
// afterwards. An error is a *SyntaxError.
func Parse(data []byte, limits Limits) (*Tree, error) {
	t := new(Tree)
	if err := t.Parse(data, limits); err != nil {
		return nil, err
	}
	return t, nil
}

// Parse reads a document into t in place of what it held; its memory is used again, and nodes
// and text of the document before are void. After an error the tree is empty.
func (t *Tree) Parse(data []byte, limits Limits) error {
	depth, size := limits.Depth, limits.Bytes
	if depth <= 0 {
		depth = DefaultDepth
	}
	if size <= 0 {
		size = DefaultBytes
	}
	if t.nodes == nil {
		t.nodes = make([]node, 0, min(2+len(data)/bytesPerNode, firstNodes))
	}
	t.text, t.keys, t.nodes, t.hashes = data, t.keys[:0], append(t.nodes[:0], node{}), t.hashes[:0]
	// Offsets are 32 bits wide, and a document has fewer nodes than bytes.
	if len(data) > size || len(data) > math.MaxInt32-1 {
		t.reset()
		return &SyntaxError{Line: 1, Column: 1, TooLong: true,
			Msg: fmt.Sprintf("document of %d bytes is longer than the limit of %d", len(data), size)}
	}
	p := parser{Tree: t, depth: depth}
	p.document()
	if p.msg != "" {
		err := syntaxError(data, p.errAt, p.msg)
		t.reset()
		return err
	}
	return nil
}

func (t *Tree) reset() { t.text, t.nodes, t.keys = nil, t.nodes[:0], t.keys[:0] }

// parser reads by recursive descent; Limits.Depth bounds the recursion. A method that meets an
// error records the first one and returns false.
type parser struct {
	*Tree
	pos   int
	depth int
	errAt int
	msg   string
}

func (p *parser) fail(at int, msg string) bool {
	if p.msg == "" {
		p.errAt, p.msg = at, msg
	}
	return false
}

func (p *parser) document() {
	if len(p.text) >= 3 && p.text[0] == 0xEF && p.text[1] == 0xBB && p.text[2] == 0xBF {
		p.fail(0, "byte order mark")
		return
	}
	p.space()
	if _, ok := p.value(0, 0, 0, 0); !ok {
		return
	}
	p.space()
	if p.pos < len(p.text) {
		p.fail(p.pos, "text after the end of the document")
	}
}

func (p *parser) space() {
	for p.pos < len(p.text) {
		switch p.text[p.pos] {
		case ' ', '\n', '\t', '\r':
			p.pos++
		default:
			return
		}
	}
}

// value reads one value into a new node that carries the given key.
func (p *parser) value(key, keyLen, keyHash uint32, flags uint8) (Node, bool) {
	if p.pos >= len(p.text) {
		return 0, p.fail(p.pos, "unexpected end of the document")
	}
	n := Node(len(p.nodes))
	p.nodes = append(p.nodes, node{start: uint32(p.pos), key: key, keyLen: keyLen, keyHash: keyHash, flags: flags})
	kind, ok := Invalid, false
	switch c := p.text[p.pos]; {
	case c == '"':
		var esc bool
		esc, ok = p.str()
		kind = String
		if esc {
			p.nodes[n].flags |= escaped
		}
	case c == '{':
		kind, ok = Object, p.object(n)
	case c == '[':
		kind, ok = Array, p.array(n)
	case c == '-' || '0' <= c && c <= '9':
		kind, ok = Number, p.number()
	case c == 't':
		kind, ok = True, p.word("true")
	case c == 'f':
		kind, ok = False, p.word("false")
	case c == 'n':
		kind, ok = Null, p.word("null")
	default:
		p.fail(p.pos, "a value is expected")
	}
	p.nodes[n].kind, p.nodes[n].end = kind, uint32(p.pos)
	return n, ok
}

func (p *parser) word(w string) bool {
	if len(p.text)-p.pos < len(w) || string(p.text[p.pos:p.pos+len(w)]) != w {
		return p.fail(p.pos, "a value is expected")
	}
	p.pos += len(w)
	return true
}

func (p *parser) array(n Node) bool {
	if p.depth--; p.depth < 0 {
		return p.fail(p.pos, "nested too deeply")
	}
	p.pos++
	p.space()
	if p.pos < len(p.text) && p.text[p.pos] == ']' {
		p.pos++
		p.depth++
		return true
	}
	for last := Node(0); ; {
		item, ok := p.value(0, 0, 0, 0)
		if !ok {
			return false
		}
		p.link(n, last, item)
		last = item
		p.space()
		if p.pos >= len(p.text) {
			return p.fail(p.pos, "unexpected end of the document")
		}
		switch p.text[p.pos] {
		case ',':
			p.pos++
			p.space()
		case ']':
			p.pos++
			p.depth++
			return true
		default:
			return p.fail(p.pos, "',' or ']' is expected")
		}
	}
}

func (p *parser) object(n Node) bool {
	if p.depth--; p.depth < 0 {
		return p.fail(p.pos, "nested too deeply")
	}
	p.pos++
	p.space()
	if p.pos < len(p.text) && p.text[p.pos] == '}' {
		p.pos++
		p.depth++
		return true
	}
	base := len(p.hashes)
	for last := Node(0); ; {
		m, ok := p.member()
		if !ok {
			return false
		}
		p.link(n, last, m)
		last = m
		if !p.fresh(n, m, base) {
			return false
		}
		p.space()
		if p.pos >= len(p.text) {
			return p.fail(p.pos, "unexpected end of the document")
		}
		switch p.text[p.pos] {
		case ',':
			p.pos++
			p.space()
		case '}':
			p.pos++
			p.depth++
			many := len(p.hashes)-base > fewMembers
			p.hashes = p.hashes[:base]
			return !many || p.allFresh(n)
		default:
			return p.fail(p.pos, "',' or '}' is expected")
		}
	}
}

func (p *parser) link(parent, last, n Node) {
	if last == 0 {
		p.nodes[parent].first = n
	} else {
		p.nodes[last].next = n
	}
}

// member reads a key, a colon and a value.
func (p *parser) member() (Node, bool) {
	if p.pos >= len(p.text) {
		return 0, p.fail(p.pos, "unexpected end of the document")
	}
	if p.text[p.pos] != '"' {
		return 0, p.fail(p.pos, "a key in quotes is expected")
	}
	start := p.pos + 1
	esc, ok := p.str()
	if !ok {
		return 0, false
	}
	key, flags := p.text[start:p.pos-1], uint8(0)
	at := uint32(start)
	if esc {
		from := len(p.keys)
		p.keys = unescape(p.keys, key)
		key, at, flags = p.keys[from:], uint32(from), keyEscaped
	}
	p.space()
	if p.pos >= len(p.text) || p.text[p.pos] != ':' {
		return 0, p.fail(p.pos, "':' is expected")
	}
	p.pos++
	p.space()
	return p.value(at, uint32(len(key)), hashBytes(key), flags)
}

// fewMembers is up to how many members an object's keys are compared with one another. Beyond
// it they go through a table once, so that an object of many keys stays near linear.
const fewMembers = 24

// fresh reports whether the key of m is new in the object n.
func (p *parser) fresh(n, m Node, base int) bool {
	h := p.nodes[m].keyHash
	if seen := p.hashes[base:]; len(seen) <= fewMembers {
		for _, s := range seen {
			if s == h && p.repeats(n, m) {
				return p.duplicate(m)
			}
		}
	}
	p.hashes = append(p.hashes, h)
	return true
}

func (p *parser) repeats(n, m Node) bool {
	for c := p.nodes[n].first; c != m; c = p.nodes[c].next {
		if p.sameKey(&p.nodes[c], &p.nodes[m]) {
			return true
		}
	}
	return false
}

func (p *parser) duplicate(m Node) bool {
	at := int(p.nodes[m].start)
	if p.nodes[m].flags&keyEscaped == 0 {
		at = int(p.nodes[m].key) - 1
	}
	return p.fail(at, "duplicate key")
}

// allFresh checks the keys of a large object by an open-addressed table. Its hash is seeded,
// because an author who knew it could choose keys that all collide.
func (p *parser) allFresh(n Node) bool {
	seed := maphash.MakeSeed()
	size := 1 << bits.Len(uint(2*p.Len(n)))
	if cap(p.table) < size {
		p.table = make([]Node, size)
	}
	p.table = p.table[:size]
	clear(p.table)
	mask := uint64(size - 1)
	for m := p.nodes[n].first; m != 0; m = p.nodes[m].next {
		i := maphash.Bytes(seed, p.keyText(&p.nodes[m])) & mask
		for p.table[i] != 0 {
			if p.sameKey(&p.nodes[p.table[i]], &p.nodes[m]) {
				return p.duplicate(m)
			}
			i = (i + 1) & mask
		}
		p.table[i] = m
	}
	return true
}

// number reads by the grammar of RFC 8259 section 6.
func (p *parser) number() bool {
	s, i := p.text, p.pos
	if s[i] == '-' {
		i++
	}
	switch {
	case i < len(s) && s[i] == '0':
		i++
	case i < len(s) && '1' <= s[i] && s[i] <= '9':
		i = digits(s, i)
	default:
		return p.fail(i, "a digit is expected")
	}
	if i < len(s) && s[i] == '.' {
		j := digits(s, i+1)
		if j == i+1 {
			return p.fail(j, "a digit is expected")
		}
		i = j
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		j := digits(s, i)
		if j == i {
			return p.fail(j, "a digit is expected")
		}
		i = j
	}
	if i < len(s) && '0' <= s[i] && s[i] <= '9' {
		return p.fail(i, "a number has a leading zero")
	}
	p.pos = i
	return true
}

func digits(s []byte, i int) int {
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain reports whether eight bytes are all ASCII text that needs no look: no quote, no
// backslash, no control character.
func plain(w uint64) bool {
	quote := w ^ ('"' * ones)
	slash := w ^ ('\\' * ones)
	return (w|(w-0x20*ones)|(quote-ones)|(slash-ones))&highs == 0
}

// str reads a string, quotes included, and reports whether it holds escapes.
func (p *parser) str() (esc, ok bool) {
	s, i := p.text, p.pos+1
	for {
		for i+8 <= len(s) && plain(binary.LittleEndian.Uint64(s[i:])) {
			i += 8
		}
		if i >= len(s) {
			return esc, p.fail(i, "unexpected end of the document")
		}
		switch c := s[i]; {
		case c == '"':
			p.pos = i + 1
			return esc, true
		case c == '\\':
			esc = true
			if i, ok = p.escape(i); !ok {
				return esc, false
			}
		case c < 0x20:
			return esc, p.fail(i, "a control character in a string is not escaped")
		case c < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n == 1 {
				return esc, p.fail(i, "not valid UTF-8")
			}
			i += n
		}
	}
}

// escape checks the escape at i and gives the place after it. A surrogate needs its other half.
func (p *parser) escape(i int) (int, bool) {
	s := p.text
	if i+1 >= len(s) {
		return i, p.fail(i+1, "unexpected end of the document")
	}
	switch s[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, true
	case 'u':
		r := hex4(s, i+2)
		switch {
		case r < 0:
			return i, p.fail(i, "an escape needs four hexadecimal digits")
		case !utf16.IsSurrogate(r):
			return i + 6, true
		case i+7 < len(s) && s[i+6] == '\\' && s[i+7] == 'u' &&
			utf16.DecodeRune(r, hex4(s, i+8)) != utf8.RuneError:
			return i + 12, true
		}
		return i, p.fail(i, "half a surrogate pair")
	}
	return i, p.fail(i, "unknown escape")
}

func hex4(s []byte, i int) rune {
	if i+4 > len(s) {
		return -1
	}
	var r rune
	for _, c := range s[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return -1
		}
	}
	return r
}

// unescape appends the text of a string that the parser has checked.
func unescape(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			dst = append(dst, s[i])
			i++
			continue
		}
		switch c := s[i+1]; c {
		case 'u':
			r := hex4(s, i+2)
			i += 6
			if utf16.IsSurrogate(r) {
				r = utf16.DecodeRune(r, hex4(s, i+2))
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
			continue
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		default:
			dst = append(dst, c)
		}
		i += 2
	}
	return dst
}

// hashBytes tells most keys of one object apart. It need not be strong: an equal hash is
// always followed by a comparison, and large objects are checked by a seeded one.
func hashBytes(k []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range k {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

func hashString(k string) uint32 {
	h := uint32(2166136261)
	for i := 0; i < len(k); i++ {
		h = (h ^ uint32(k[i])) * 16777619
	}
	return h
}
