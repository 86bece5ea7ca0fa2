package paths

import (
	"fmt"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/model"
)

type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenName             // an identifier or keyword
	tokenString           // 'text', without its quotes
	tokenSign             // ( ) [ ] . | = , and whatever else is one character
)

type token struct {
	kind tokenKind
	text string
}

// maxTokens bounds what is read as a path: the longest official expression has about 700.
const maxTokens = 4096

// parser reads an expression and follows it at once: each part gives the states that it reaches.
type parser struct {
	start  Start
	tokens []token
	at     int
	depth  int
}

// scan divides the expression into tokens. What it does not know becomes a sign of its own and
// is met by nobody.
func (p *parser) scan(s string) error {
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
			continue
		case letter(c) || c == '%':
			n := i + 1
			for n < len(s) && (letter(s[n]) || '0' <= s[n] && s[n] <= '9') {
				n++
			}
			p.tokens = append(p.tokens, token{tokenName, s[i:n]})
			i = n
		case '0' <= c && c <= '9':
			n := i + 1
			for n < len(s) && '0' <= s[n] && s[n] <= '9' {
				n++
			}
			p.tokens = append(p.tokens, token{tokenSign, s[i:n]})
			i = n
		case c == '\'':
			n := strings.IndexByte(s[i+1:], '\'')
			if n < 0 {
				return fmt.Errorf("a text begins at position %d and has no end", i+1)
			}
			text := s[i+1 : i+1+n]
			if strings.Contains(text, `\`) {
				return notAPath("an escape")
			}
			p.tokens = append(p.tokens, token{tokenString, text})
			i += n + 2
		default:
			p.tokens = append(p.tokens, token{tokenSign, s[i : i+1]})
			i++
		}
		if len(p.tokens) > maxTokens {
			return notAPath("an expression of this length")
		}
	}
	return nil
}

func letter(c byte) bool { return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' }

func (p *parser) next() token {
	if p.at < len(p.tokens) {
		return p.tokens[p.at]
	}
	return token{}
}

// sign takes a sign if it is next.
func (p *parser) sign(s string) bool {
	if t := p.next(); t.kind == tokenSign && t.text == s {
		p.at++
		return true
	}
	return false
}

// keyword takes a name if it is next.
func (p *parser) keyword(s string) bool {
	if t := p.next(); t.kind == tokenName && t.text == s {
		p.at++
		return true
	}
	return false
}

func (p *parser) name() (string, bool) {
	if t := p.next(); t.kind == tokenName {
		p.at++
		return t.text, true
	}
	return "", false
}

func (p *parser) text() (string, bool) {
	if t := p.next(); t.kind == tokenString {
		p.at++
		return t.text, true
	}
	return "", false
}

// want takes a sign that must be next in what is still a path.
func (p *parser) want(s string) error {
	if p.sign(s) {
		return nil
	}
	return notAPath(fmt.Sprintf("%q", p.next().text))
}

const maxDepth = 32

// union reads a | b | c.
func (p *parser) union() ([]state, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, notAPath("an expression nested as deep as this")
	}
	defer func() { p.depth-- }()
	var all []state
	for {
		set, err := p.branch()
		if err != nil {
			return nil, err
		}
		all = append(all, set...)
		if !p.sign("|") {
			return all, nil
		}
	}
}

// branch reads a path and what may stand behind it: as T.
func (p *parser) branch() ([]state, error) {
	set, err := p.path()
	for err == nil && p.keyword("as") {
		name, ok := p.name()
		if !ok {
			return nil, notAPath("as")
		}
		set, err = p.as(set, name)
	}
	return set, err
}

// path reads what an expression begins with, and the steps that follow.
func (p *parser) path() ([]state, error) {
	set, mine, err := p.head()
	for err == nil {
		switch {
		case p.sign("."):
			var name string
			var ok bool
			if name, ok = p.name(); !ok {
				return nil, notAPath(fmt.Sprintf("%q", p.next().text))
			}
			set, err = p.step(set, name, mine)
		case p.sign("["):
			if !p.sign("0") {
				return nil, notAPath("an index other than 0")
			}
			if err = p.want("]"); err == nil {
				set, err = each(set, state.firstItem)
			}
		default:
			return set, nil
		}
	}
	return nil, err
}

// head reads the beginning: a parenthesis, the name of a type, %resource or an element. It is
// not mine if it is about another type; then the rest is read without being followed.
func (p *parser) head() (set []state, mine bool, err error) {
	if p.sign("(") {
		set, err = p.union()
		if err == nil {
			err = p.want(")")
		}
		return set, len(set) > 0, err
	}
	name, ok := p.name()
	if !ok {
		return nil, false, notAPath(fmt.Sprintf("%q", p.next().text))
	}
	here := state{typ: p.start.Node}
	switch t := p.start.Model.Type(name); {
	case name == "%resource":
		return []state{{typ: p.start.Resource, root: true}}, true, nil
	case name[0] == '%':
		return nil, false, notAPath(name)
	case name[0] >= 'A' && name[0] <= 'Z':
		if t == nil {
			return nil, false, fmt.Errorf("%s is not a type of FHIR %s", name, p.start.Model.Version())
		}
		if !Is(p.start.Model, p.start.Node, name) {
			return nil, false, nil
		}
		return []state{here}, true, nil
	}
	if p.start.Lenient && here.typ.Element(name) == nil && p.start.Node == p.start.Resource {
		return nil, false, nil
	}
	set, err = p.step([]state{here}, name, true)
	return set, true, err
}

// step reads the rest of a step whose name has been taken.
func (p *parser) step(set []state, name string, mine bool) ([]state, error) {
	if !p.sign("(") {
		if !mine {
			return nil, nil
		}
		return each(set, func(x state) (state, error) { return x.step(name) })
	}
	var apply func(state) (state, error)
	var err error
	switch name {
	case "as", "ofType":
		typ, ok := p.name()
		if !ok {
			return nil, notAPath(name)
		}
		if err := p.want(")"); err != nil || !mine {
			return nil, err
		}
		return p.as(set, typ)
	case "extension":
		url, ok := p.text()
		if !ok || !plain(url) {
			return nil, notAPath("extension()")
		}
		apply = func(x state) (state, error) {
			y, err := x.step("extension")
			if err != nil {
				return state{}, err
			}
			return y.filter("url='" + url + "'")
		}
	case "where":
		apply, err = p.where()
	case "first":
		return p.first(set)
	default:
		return nil, notAPath(name + "()")
	}
	if err == nil {
		err = p.want(")")
	}
	if err != nil || !mine {
		return nil, err
	}
	return each(set, apply)
}

// first reads first(). Of a union, or of elements within elements that repeat, it is the first
// of all that is reached, which only the whole of an expression can be.
func (p *parser) first(set []state) ([]state, error) {
	if err := p.want(")"); err != nil {
		return nil, err
	}
	if len(set) == 1 {
		if x, err := set[0].firstItem(); err == nil {
			return []state{x}, nil
		}
	}
	return each(set, func(x state) (state, error) {
		x.first = true
		return x, nil
	})
}

// where reads the condition of where( in one of the forms that a path can hold.
func (p *parser) where() (func(state) (state, error), error) {
	name, ok := p.name()
	if !ok {
		return nil, notAPath("where()")
	}
	switch {
	case name == "resolve" && p.sign("("):
		if !p.sign(")") || !p.keyword("is") {
			return nil, notAPath("where(resolve())")
		}
		typ, ok := p.name()
		if !ok {
			return nil, notAPath("where(resolve() is)")
		}
		return p.whereIs(typ), nil
	case name == "hasExtension" && p.sign("("):
		return p.whereExtension()
	case name == "extension" && p.sign("("):
		f, err := p.whereExtension()
		if err == nil && !(p.sign(".") && p.keyword("exists") && p.sign("(") && p.sign(")")) {
			err = notAPath("where(extension())")
		}
		return f, err
	case p.sign("="):
		value, ok := p.text()
		if !ok || !plain(value) {
			return nil, notAPath("where(" + name + " =)")
		}
		return func(x state) (state, error) { return x.whereEquals(name, value) }, nil
	}
	return nil, notAPath("where(" + name + ")")
}

func (p *parser) whereIs(typ string) func(state) (state, error) {
	return func(x state) (state, error) {
		if t := p.start.Model.Type(typ); t == nil {
			return state{}, fmt.Errorf("%s is not a type of FHIR %s", typ, p.start.Model.Version())
		}
		if x.typ == nil || x.typ.Name != "Reference" {
			return state{}, notAPath("resolve() of what is no Reference")
		}
		return x.filter("is " + typ)
	}
}

func (p *parser) whereExtension() (func(state) (state, error), error) {
	url, ok := p.text()
	if !ok || !plain(url) || !p.sign(")") {
		return nil, notAPath("an extension's URL")
	}
	return func(x state) (state, error) { return x.filter("extension='" + url + "'") }, nil
}

// comparable types are equal to a text when their JSON is. Others (dates, numbers) have rules.
var comparable = map[string]bool{"string": true, "code": true, "id": true, "uri": true, "url": true,
	"canonical": true, "oid": true, "uuid": true, "markdown": true}

// whereEquals keeps items whose member is the text. What is no text (a CodeableConcept) equals
// none, in FHIRPath as here.
func (x state) whereEquals(name, value string) (state, error) {
	if x.typ == nil {
		return state{}, notAPath("where() on " + x.describe())
	}
	el := x.typ.Element(name)
	switch {
	case el == nil:
		return state{}, fmt.Errorf("%s has no element %s", x.typ.Name, name)
	case el.Many || el.Choice || el.Types[0].Kind == model.Primitive && !comparable[el.Types[0].Name]:
		return state{}, notAPath("where(" + name + " =)")
	}
	return x.filter(name + "='" + value + "'")
}

func (p *parser) as(set []state, typ string) ([]state, error) {
	var out []state
	for _, x := range set {
		more, err := x.as(p.start, typ)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

func each(set []state, f func(state) (state, error)) ([]state, error) {
	out := make([]state, 0, len(set))
	for _, x := range set {
		y, err := f(x)
		if err != nil {
			return nil, err
		}
		out = append(out, y)
	}
	return out, nil
}
