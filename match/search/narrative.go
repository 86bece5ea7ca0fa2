package search

import (
	"bytes"
	"html"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// Full text: _text, _content, :text of a string and :text-advanced. R4 and R5 leave to the
// server how texts are compared, and expect words and logical operators.
//
// A text is a row of words: letters and digits, without case and accents; whatever else stands
// between divides them. A query has words, which must all be there in any order; OR, AND, NOT
// and parentheses; "quoted words" that follow one another, as do the parts of a word like
// x-ray; and a * at the end of a word for any ending. Nothing is stemmed, and no synonym is
// known. A stream holds its texts so that a query is answered by searching for bytes: every
// word has a space on both sides, and a line feed divides texts, so that no phrase reaches
// from one into the next.

// addWords appends a text to the stream at hand.
func (r *Resource) addWords(raw []byte) {
	if len(raw) > 0 {
		r.words = append(r.words, '\n', ' ')
		r.words = appendWords(r.words, raw)
	}
}

// appendWords appends each word and a space behind it. dst ends with a space.
func appendWords(dst, s []byte) []byte {
	from := len(dst)
	for _, c := range s {
		switch {
		case c >= utf8.RuneSelf:
			return appendUnicodeWords(dst[:from], s)
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c+('a'-'A'))
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			dst = append(dst, c)
		default:
			dst = endWord(dst)
		}
	}
	return endWord(dst)
}

func appendUnicodeWords(dst, s []byte) []byte {
	d := decompositions.Get().(*norm.Iter)
	for d.Init(norm.NFD, s); !d.Done(); {
		for rest := d.Next(); len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			rest = rest[n:]
			f := folded(r)
			switch {
			case f.text != "": // letters
				dst = append(dst, f.text...)
			case unicode.Is(unicode.Mn, f.rune):
			case unicode.IsLetter(f.rune), unicode.IsDigit(f.rune), unicode.IsMark(f.rune):
				dst = utf8.AppendRune(dst, f.rune)
			default:
				dst = endWord(dst)
			}
		}
	}
	d.Init(norm.NFD, nil) // so that it keeps no body alive
	decompositions.Put(d)
	return endWord(dst)
}

func endWord(dst []byte) []byte {
	if len(dst) > 0 && dst[len(dst)-1] != ' ' {
		dst = append(dst, ' ')
	}
	return dst
}

// addStrings appends every string and number below a node, of the narrative what a reader
// sees. The depth is bounded by the parser.
func (r *Resource) addStrings(n json.Node) {
	for m := r.tree.First(n); m != 0; m = r.tree.Next(m) {
		switch r.tree.Kind(m) {
		case json.Object, json.Array:
			r.addStrings(m)
		case json.String:
			s := r.tree.Text(m)
			switch key := r.tree.KeyText(m); {
			case string(key) == "div":
				r.addNarrative(s)
			case string(key) != "resourceType":
				r.addWords(s)
			}
		case json.Number:
			r.addWords(r.tree.Raw(m))
		}
	}
}

// addNarrative appends the text of an XHTML fragment. Tags within a line of text divide
// nothing, all others divide texts: no phrase reaches from one cell of a table into the next.
func (r *Resource) addNarrative(s []byte) {
	r.scratch = r.scratch[:0]
	end := bytes.LastIndexByte(s, '>') // no tag begins behind it: to look for its end again and again would take hours
	for len(s) > 0 {
		open := bytes.IndexByte(s, '<')
		if open < 0 || open > end {
			break
		}
		r.addVisible(s[:open])
		rest := s[open:]
		length, divides := tagEnd(rest)
		if divides {
			r.addWords(r.scratch)
			r.scratch = r.scratch[:0]
		}
		s, end = rest[length:], end-open-length
	}
	r.addVisible(s)
	r.addWords(r.scratch)
}

// tagEnd finds the end of the tag or comment that s begins with, and tells whether it divides
// the texts before and after it. There is a > in s.
func tagEnd(s []byte) (length int, divides bool) {
	if bytes.HasPrefix(s, []byte("<!--")) {
		if i := bytes.Index(s, []byte("-->")); i >= 0 {
			return i + len("-->"), false
		}
		return len(s), false
	}
	i := closing(s)
	name := bytes.TrimPrefix(s[1:i], []byte{'/'})
	if j := bytes.IndexAny(name, " \t\r\n/"); j >= 0 {
		name = name[:j]
	}
	return i + 1, !inline[string(name)]
}

// closing finds the > that ends a tag: the first outside the values of attributes or, if quotes
// are not closed, the first at all.
func closing(s []byte) int {
	quote := byte(0)
	for i, c := range s {
		switch {
		case c == quote:
			quote = 0
		case quote != 0:
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			return i
		}
	}
	return bytes.IndexByte(s, '>')
}

// inline lists the elements of XHTML that stand within a line of text.
var inline = map[string]bool{"a": true, "abbr": true, "acronym": true, "b": true, "big": true, "cite": true, "code": true,
	"dfn": true, "em": true, "font": true, "i": true, "kbd": true, "q": true, "samp": true, "small": true, "span": true,
	"strong": true, "sub": true, "sup": true, "tt": true, "u": true, "var": true}

// addVisible appends text with its entities decoded to the scratch.
func (r *Resource) addVisible(s []byte) {
	for {
		amp := bytes.IndexByte(s, '&')
		if amp < 0 {
			r.scratch = append(r.scratch, s...)
			return
		}
		r.scratch = append(r.scratch, s[:amp]...)
		s = s[amp:]
		const longest = 33 // of the names that HTML knows
		end := bytes.IndexByte(s[:min(len(s), longest)], ';')
		if end < 0 {
			r.scratch, s = append(r.scratch, '&'), s[1:]
			continue
		}
		r.scratch = append(r.scratch, html.UnescapeString(string(s[:end+1]))...)
		s = s[end+1:]
	}
}

// query is a compiled full-text query.
type query struct {
	op   queryOp
	term []byte // as it is found in a stream
	kids []query
}

type queryOp uint8

const (
	queryTerm queryOp = iota
	queryAnd
	queryOr
	queryNot
)

// findsWords decides a full-text condition on a stream.
func (c *condition) findsWords(r *Resource, stream []byte) bool {
	for i := range c.extra.queries {
		if met, ok := c.extra.queries[i].met(r, stream); !ok || met {
			return ok
		}
	}
	return false
}

// met decides a query; ok is false once there are no steps left.
func (q *query) met(r *Resource, stream []byte) (met, ok bool) {
	if q.op == queryTerm {
		const scanned = 8 // bytes a step, as for :contains
		return bytes.Contains(stream, q.term), r.spend(1 + len(stream)/scanned)
	}
	for i := range q.kids {
		met, ok = q.kids[i].met(r, stream)
		switch {
		case !ok:
			return false, false
		case q.op == queryNot:
			return !met, true
		case met == (q.op == queryOr):
			return met, true
		}
	}
	return met, true
}

// text is the query in the one form that all its spellings share.
func (q *query) text() string {
	var parts []string
	for i := range q.kids {
		kid := &q.kids[i]
		s := kid.text()
		if kid.op == queryOr && q.op != queryOr || kid.op == queryAnd && q.op == queryNot {
			s = "(" + s + ")"
		}
		parts = append(parts, s)
	}
	switch q.op {
	case queryAnd:
		return strings.Join(parts, " ")
	case queryOr:
		return strings.Join(parts, " OR ")
	case queryNot:
		return "NOT " + parts[0]
	}
	words := strings.TrimSpace(string(q.term))
	if strings.Contains(words, " ") || operators[words] {
		words = `"` + words + `"`
	}
	if len(q.term) > 0 && q.term[len(q.term)-1] != ' ' {
		words += "*"
	}
	return words
}

var operators = map[string]bool{"and": true, "or": true, "not": true}

// query reads one value of a full-text condition.
func (c *compiler) query(raw string) (query, error) {
	s, err := unescape(raw)
	if err != nil {
		return query{}, err
	}
	p := queryParser{rest: s}
	p.next()
	q, err := p.any(0)
	switch {
	case err != nil:
		return query{}, err
	case p.token != "":
		return query{}, refusal("a ) in the query closes nothing")
	}
	if c.values += p.terms - 1; c.values > maxValues { // the first is counted like every value
		return query{}, tooManyValues()
	}
	return q, nil
}

// queryParser reads a query. token is the next piece: a parenthesis, an operator or a term;
// empty at the end.
type queryParser struct {
	rest   string
	token  string
	quoted bool // token is a phrase in quotes
	open   bool // a quote was not closed
	terms  int
}

// next moves on by one piece.
func (p *queryParser) next() {
	p.rest = strings.TrimLeft(p.rest, " ")
	p.token, p.quoted = "", false
	switch {
	case p.rest == "":
	case p.rest[0] == '(' || p.rest[0] == ')':
		p.take(1)
	case p.rest[0] == '"':
		end := strings.IndexByte(p.rest[1:], '"')
		if p.open = end < 0; p.open {
			end = len(p.rest) - 2
		}
		n := end + 2
		if n < len(p.rest) && p.rest[n] == '*' {
			n++
		}
		p.take(n)
		p.quoted = true
	default:
		n := strings.IndexAny(p.rest, ` ()"`)
		if n < 0 {
			n = len(p.rest)
		}
		p.take(n)
	}
}

func (p *queryParser) take(n int) { p.token, p.rest = p.rest[:n], p.rest[n:] }

// is reports whether the next piece is an operator. Case makes no difference: the
// specification's own example writes "(bone OR liver) and metastases".
func (p *queryParser) is(operator string) bool {
	return !p.quoted && strings.EqualFold(p.token, operator)
}

// maxQueryDepth bounds parentheses within parentheses.
const maxQueryDepth = 32

// any reads alternatives.
func (p *queryParser) any(depth int) (query, error) {
	if depth > maxQueryDepth {
		return query{}, refusal("the query has more than %d levels of parentheses and NOT", maxQueryDepth)
	}
	out := query{op: queryOr}
	for {
		q, err := p.all(depth)
		if err != nil {
			return query{}, err
		}
		out.add(q)
		if !p.is("or") {
			return out.simple(), nil
		}
		p.next()
	}
}

// all reads what must be met together.
func (p *queryParser) all(depth int) (query, error) {
	out := query{op: queryAnd}
	for {
		q, err := p.one(depth)
		if err != nil {
			return query{}, err
		}
		out.add(q)
		if p.is("and") {
			p.next()
			continue
		}
		if p.token == "" || p.token == ")" || p.is("or") {
			return out.simple(), nil
		}
	}
}

// one reads a term, a negation or what stands in parentheses.
func (p *queryParser) one(depth int) (query, error) {
	switch {
	case p.token == "" || p.token == ")" || p.is("or") || p.is("and"):
		return query{}, refusal(`the query lacks a word; the words and, or, not are written in quotes, as in "or"`)
	case p.is("not"):
		if depth == maxQueryDepth {
			return query{}, refusal("the query has more than %d levels of parentheses and NOT", maxQueryDepth)
		}
		p.next()
		q, err := p.one(depth + 1)
		return query{op: queryNot, kids: []query{q}}, err
	case p.token == "(":
		p.next()
		q, err := p.any(depth + 1)
		if err == nil && p.token != ")" {
			err = refusal("a ( in the query is not closed")
		}
		p.next()
		return q, err
	}
	return p.term()
}

// term reads a word or a phrase.
func (p *queryParser) term() (query, error) {
	if p.open {
		return query{}, refusal("a quote in the query is not closed")
	}
	term := appendWords([]byte{' '}, []byte(p.token))
	if len(term) == 1 {
		return query{}, refusal("a word of the query has no letter or digit")
	}
	if strings.HasSuffix(p.token, "*") {
		term = term[:len(term)-1]
	}
	p.terms++
	p.next()
	return query{term: term}, nil
}

// add takes a part in, or its parts if it is of the same kind.
func (q *query) add(part query) {
	if part.op == q.op {
		q.kids = append(q.kids, part.kids...)
		return
	}
	q.kids = append(q.kids, part)
}

// simple is the query without a level that has a single part.
func (q query) simple() query {
	if len(q.kids) == 1 {
		return q.kids[0]
	}
	return q
}
