package xml

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Bounds of a document. What a resource has is far below.
const (
	maxDepth      = 256 // elements within one another, those of a narrative included
	maxAttributes = 64  // of one element
	maxNamespaces = 64  // declared by an element and those around it
)

// tokenKind is what the scanner has found.
type tokenKind uint8

const (
	endOfInput tokenKind = iota
	startTag
	endTag
	textToken    // character data, with references unresolved
	cdataToken   // a CDATA section
	ignoredToken // a comment or a processing instruction
)

// span is a part of the input.
type span struct{ from, to int }

// token is a piece of the document. Of a name both halves are given; without a prefix that is empty.
type token struct {
	kind   tokenKind
	at     span
	name   span // as it is written, prefix included
	prefix span
	local  span
	empty  bool // a start tag that is its own end
}

// attribute is one of the start tag that was scanned last.
type attribute struct {
	name, prefix, local span
	value               span // between the quotes
}

// scanner takes a document apart, by the grammar of XML 1.0 without document types and with ASCII
// names. It checks each token for itself; that tags match is the tree's business.
type scanner struct {
	src        []byte
	pos        int
	attributes []attribute
	html       bool // names of HTML's entities are references too
}

// badXML is a fault of grammar at a place in the input.
func (s *scanner) badXML(at int, format string, args ...any) error {
	return s.refuse(at, fhir.IssueStructure, "", "not well-formed XML: "+format, args...)
}

// refuse says what is wrong, and where.
func (s *scanner) refuse(at int, t fhir.IssueType, expression, format string, args ...any) error {
	line, column := position(s.src, at)
	return fhir.Refuse(t, expression, fmt.Sprintf(format, args...)+fmt.Sprintf(" at line %d column %d", line, column))
}

// position computes line and column, from 1, which only a failing document pays for.
func position(src []byte, at int) (line, column int) {
	at = min(at, len(src))
	begin := bytes.LastIndexByte(src[:at], '\n') + 1
	return bytes.Count(src[:at], []byte{'\n'}) + 1, utf8.RuneCount(src[begin:at]) + 1
}

// characters checks that the whole input is UTF-8 and holds only what XML allows (XML 1.0, Char).
func (s *scanner) characters() error {
	for i := 0; i < len(s.src); {
		c := s.src[i]
		if c >= ' ' && c < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(s.src[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return s.badXML(i, "not valid UTF-8")
		case !validChar(r):
			return s.badXML(i, "a character that XML does not allow")
		}
		i += n
	}
	return nil
}

func validChar(r rune) bool {
	switch {
	case r == '\t', r == '\n', r == '\r':
		return true
	}
	return r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 && r <= 0x10FFFF
}

// prolog reads what may stand before everything else: a byte order mark and the XML declaration.
func (s *scanner) prolog() error {
	if bytes.HasPrefix(s.src, []byte("\xEF\xBB\xBF")) {
		s.pos = 3
	}
	if !s.has("<?xml") || s.pos+5 < len(s.src) && isNameByte(s.src[s.pos+5]) {
		return nil
	}
	at := s.pos
	s.pos += len("<?xml")
	if err := s.readAttributes(); err != nil {
		return err
	}
	if !s.has("?>") {
		return s.badXML(s.pos, "the XML declaration is not closed")
	}
	s.pos += 2
	for i, a := range s.attributes {
		value := string(s.src[a.value.from:a.value.to])
		switch name := string(s.src[a.name.from:a.name.to]); {
		case name == "version" && i == 0 && value == "1.0":
		case name == "encoding" && i == 1 && bytes.EqualFold([]byte(value), []byte("utf-8")):
		case name == "standalone" && i > 0 && i == len(s.attributes)-1 && (value == "yes" || value == "no"):
		default:
			return s.badXML(at, "the XML declaration must be of version 1.0 and encoding UTF-8")
		}
	}
	if len(s.attributes) == 0 {
		return s.badXML(at, "the XML declaration has no version")
	}
	return nil
}

func (s *scanner) has(text string) bool { return bytes.HasPrefix(s.src[s.pos:], []byte(text)) }

// next reads a token.
func (s *scanner) next() (token, error) {
	at := s.pos
	switch {
	case at >= len(s.src):
		return token{kind: endOfInput, at: span{at, at}}, nil
	case s.src[at] != '<':
		return s.text()
	case s.has("<!--"):
		return s.comment()
	case s.has("<![CDATA["):
		end := bytes.Index(s.src[at:], []byte("]]>"))
		if end < 0 {
			return token{}, s.badXML(at, "a CDATA section is not closed")
		}
		s.pos += end + 3
		return token{kind: cdataToken, at: span{at, s.pos}}, nil
	case s.has("<!"):
		return token{}, s.badXML(at, "document types and entities are not accepted")
	case s.has("<?"):
		return s.instruction()
	case s.has("</"):
		return s.endTag()
	}
	return s.startTag()
}

// text reads character data up to the next tag, and checks its references.
func (s *scanner) text() (token, error) {
	at := s.pos
	end := bytes.IndexByte(s.src[at:], '<')
	if end < 0 {
		end = len(s.src) - at
	}
	s.pos += end
	t := token{kind: textToken, at: span{at, s.pos}}
	if i := bytes.Index(s.src[at:s.pos], []byte("]]>")); i >= 0 {
		return t, s.badXML(at+i, "]]> in text")
	}
	return t, s.references(t.at)
}

func (s *scanner) comment() (token, error) {
	at := s.pos
	end := bytes.Index(s.src[at+4:], []byte("--"))
	if end < 0 {
		return token{}, s.badXML(at, "a comment is not closed")
	}
	s.pos += 4 + end + 2
	if s.pos >= len(s.src) || s.src[s.pos] != '>' {
		return token{}, s.badXML(at, "a comment holds --")
	}
	s.pos++
	return token{kind: ignoredToken, at: span{at, s.pos}}, nil
}

func (s *scanner) instruction() (token, error) {
	at := s.pos
	s.pos += 2
	target := s.bareName()
	end := bytes.Index(s.src[s.pos:], []byte("?>"))
	switch {
	case target.from == target.to:
		return token{}, s.badXML(at, "a processing instruction without a name")
	case bytes.EqualFold(s.src[target.from:target.to], []byte("xml")):
		return token{}, s.badXML(at, "an XML declaration that is not at the beginning")
	case end < 0:
		return token{}, s.badXML(at, "a processing instruction is not closed")
	case end > 0 && !isSpace(s.src[s.pos]):
		return token{}, s.badXML(s.pos, "white space is expected")
	}
	s.pos += end + 2
	return token{kind: ignoredToken, at: span{at, s.pos}}, nil
}

func (s *scanner) endTag() (token, error) {
	t := token{kind: endTag, at: span{from: s.pos}}
	s.pos += 2
	if err := s.qualified(&t.name, &t.prefix, &t.local); err != nil {
		return t, err
	}
	s.space()
	if !s.has(">") {
		return t, s.badXML(s.pos, "> is expected")
	}
	s.pos++
	t.at.to = s.pos
	return t, nil
}

func (s *scanner) startTag() (token, error) {
	t := token{kind: startTag, at: span{from: s.pos}}
	s.pos++
	if err := s.qualified(&t.name, &t.prefix, &t.local); err != nil {
		return t, err
	}
	if err := s.readAttributes(); err != nil {
		return t, err
	}
	if s.has("/") {
		t.empty = true
		s.pos++
	}
	if !s.has(">") {
		return t, s.badXML(s.pos, "> is expected")
	}
	s.pos++
	t.at.to = s.pos
	return t, nil
}

// readAttributes reads attributes until something else comes.
func (s *scanner) readAttributes() error {
	s.attributes = s.attributes[:0]
	for {
		from := s.pos
		s.space()
		if s.pos >= len(s.src) || !isNameStart(s.src[s.pos]) {
			return nil
		}
		if s.pos == from {
			return s.badXML(s.pos, "white space is expected")
		}
		if len(s.attributes) == maxAttributes {
			return s.badXML(s.pos, "more than %d attributes", maxAttributes)
		}
		var a attribute
		if err := s.qualified(&a.name, &a.prefix, &a.local); err != nil {
			return err
		}
		if err := s.attributeValue(&a); err != nil {
			return err
		}
		for _, o := range s.attributes {
			if bytes.Equal(s.src[o.name.from:o.name.to], s.src[a.name.from:a.name.to]) {
				return s.badXML(a.name.from, "an attribute is given twice")
			}
		}
		s.attributes = append(s.attributes, a)
	}
}

func (s *scanner) attributeValue(a *attribute) error {
	s.space()
	if !s.has("=") {
		return s.badXML(s.pos, "= is expected")
	}
	s.pos++
	s.space()
	if !s.has(`"`) && !s.has("'") {
		return s.badXML(s.pos, "a value in quotes is expected")
	}
	from := s.pos + 1
	end := bytes.IndexByte(s.src[from:], s.src[s.pos])
	if end < 0 {
		return s.badXML(s.pos, "a value is not closed")
	}
	a.value = span{from, from + end}
	s.pos = from + end + 1
	if i := bytes.IndexByte(s.src[from:from+end], '<'); i >= 0 {
		return s.badXML(from+i, "< in a value")
	}
	return s.references(a.value)
}

// qualified reads a name with or without a prefix.
func (s *scanner) qualified(name, prefix, local *span) error {
	at := s.pos
	*local = s.bareName()
	*prefix = span{at, at}
	if local.from < local.to && s.has(":") {
		s.pos++
		*prefix, *local = *local, s.bareName()
	}
	*name = span{at, s.pos}
	if local.from == local.to {
		return s.badXML(s.pos, "a name is expected")
	}
	return nil
}

func (s *scanner) bareName() span {
	n := span{s.pos, s.pos}
	if s.pos < len(s.src) && isNameStart(s.src[s.pos]) {
		for s.pos < len(s.src) && isNameByte(s.src[s.pos]) {
			s.pos++
		}
	}
	n.to = s.pos
	return n
}

func isNameStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
}

func isNameByte(c byte) bool {
	return isNameStart(c) || '0' <= c && c <= '9' || c == '-' || c == '.'
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

func (s *scanner) space() {
	for s.pos < len(s.src) && isSpace(s.src[s.pos]) {
		s.pos++
	}
}

// references checks the references of a text or a value.
func (s *scanner) references(at span) error {
	for i := at.from; i < at.to; i++ {
		if s.src[i] != '&' {
			continue
		}
		name, _ := reference(s.src[i:at.to])
		_, ok := resolve(name)
		if !ok && s.html {
			_, ok = htmlEntity(name)
		}
		if !ok {
			return s.badXML(i, "a reference to something other than a character or one of lt, gt, amp, quot and apos")
		}
	}
	return nil
}

// reference cuts the reference that b begins with: the name between & and ;, and its whole
// length. Without a ; the name is empty.
func reference(b []byte) (name []byte, length int) {
	for i := 1; i < len(b) && i < 40; i++ {
		if b[i] == ';' {
			return b[1:i], i + 1
		}
	}
	return nil, 1
}

// resolve gives the character that a reference stands for.
func resolve(name []byte) (rune, bool) {
	switch string(name) {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "quot":
		return '"', true
	case "apos":
		return '\'', true
	}
	if len(name) < 2 || name[0] != '#' {
		return 0, false
	}
	digits, base := name[1:], 10
	if digits[0] == 'x' {
		digits, base = digits[1:], 16
	}
	if len(digits) == 0 || digits[0] == '+' || digits[0] == '-' || bytes.IndexByte(digits, '_') >= 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), base, 32)
	if err != nil || n > utf8.MaxRune || !validChar(rune(n)) {
		return 0, false
	}
	return rune(n), true
}

// unescaped gives the value of an attribute: references resolved, and white space that is written
// as such made spaces (XML 1.0 section 3.3.3). Without either it is the input's own bytes.
func unescaped(raw []byte) []byte {
	i := bytes.IndexAny(raw, "&\n\t\r")
	if i < 0 {
		return raw
	}
	out := append(make([]byte, 0, len(raw)), raw[:i]...)
	for i < len(raw) {
		switch c := raw[i]; {
		case c == '&':
			name, n := reference(raw[i:])
			r, _ := resolve(name) // the scanner has seen that it resolves
			out = utf8.AppendRune(out, r)
			i += n
			continue
		case c == '\r' && i+1 < len(raw) && raw[i+1] == '\n': // one end of line
		case isSpace(c):
			out = append(out, ' ')
		default:
			out = append(out, c)
		}
		i++
	}
	return out
}

func itoa(n int) string { return strconv.Itoa(n) }
