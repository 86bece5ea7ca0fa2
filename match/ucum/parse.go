package ucum

import (
	"fmt"
	"math/big"
)

// SyntaxError tells why a code is no unit. Its text repeats a part of the code: codes out of
// resources belong into no log.
type SyntaxError struct {
	Position int // in bytes from 1
	Reason   string
}

// Error names the position and the reason.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("not a UCUM unit, at position %d: %s", e.Position, e.Reason)
}

// Parse reads a code in case-sensitive form (UCUM, sections 1 to 3), such as mg/dL, 10*3/uL or
// mL/min/{1.73_m2}. The empty code is refused; FHIR writes a plain number as 1. The error is a
// *SyntaxError.
func Parse(code string) (Unit, error) {
	if len(code) > maxCode {
		return Unit{}, &SyntaxError{maxCode, fmt.Sprintf("the code is longer than %d bytes", maxCode)}
	}
	f, err := parse(code, units().atom)
	if err != nil {
		return Unit{}, err
	}
	f.code = code
	return Unit{f}, nil
}

// parse reads a whole code; atom resolves its symbols.
func parse(code string, atom func(string) (*form, string)) (*form, error) {
	p := parser{code: code, atom: atom}
	f, err := p.mainTerm()
	if err == nil && p.at < len(code) {
		err = p.fail("%q does not belong here; units are joined by . or /", p.code[p.at:p.at+1])
	}
	if err != nil {
		return nil, err
	}
	c := *f // the table's own forms stay as they are
	return &c, nil
}

type parser struct {
	code  string
	at    int
	depth int
	atom  func(string) (*form, string)
}

func (p *parser) fail(format string, args ...any) error {
	return &SyntaxError{p.at + 1, fmt.Sprintf(format, args...)}
}

func (p *parser) peek() byte {
	if p.at < len(p.code) {
		return p.code[p.at]
	}
	return 0
}

func (p *parser) take(c byte) bool {
	if p.peek() != c || p.at == len(p.code) {
		return false
	}
	p.at++
	return true
}

// mainTerm is a term, which may begin with a division: /min.
func (p *parser) mainTerm() (*form, error) {
	if p.peek() == '/' {
		return p.rest(unity)
	}
	f, err := p.component()
	if err != nil {
		return nil, err
	}
	return p.rest(f)
}

// rest reads the . and / behind a component, from left to right.
func (p *parser) rest(f *form) (*form, error) {
	for {
		at, sign := p.at, 1
		switch {
		case p.take('.'):
		case p.take('/'):
			sign = -1
		default:
			return f, nil
		}
		o, err := p.component()
		if err != nil {
			return nil, err
		}
		if f, err = f.times(o, sign); err != nil {
			p.at = at
			return nil, p.fail("%v", err)
		}
	}
}

// component is a unit or number with an annotation or without, an annotation alone, or a term
// in parentheses.
func (p *parser) component() (*form, error) {
	switch c := p.peek(); {
	case c == '{':
		return unity, p.annotation()
	case c == '(':
		return p.parenthesis()
	case isDigit(c) && !p.powerOfTen():
		return p.annotated(p.number())
	}
	return p.annotated(p.unit())
}

func (p *parser) annotated(f *form, err error) (*form, error) {
	if err == nil && p.peek() == '{' {
		err = p.annotation()
	}
	return f, err
}

func (p *parser) parenthesis() (*form, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("parentheses are nested deeper than %d", maxDepth)
	}
	p.at++
	f, err := p.mainTerm()
	if err != nil {
		return nil, err
	}
	if !p.take(')') {
		return nil, p.fail("a closing parenthesis is missing")
	}
	p.depth--
	return f, nil
}

// annotation reads over {...}, which has no meaning (UCUM, section 2.1, paragraph 6).
func (p *parser) annotation() error {
	for p.at++; p.at < len(p.code); p.at++ {
		switch c := p.code[p.at]; {
		case c == '}':
			p.at++
			return nil
		case c == '{' || c < 0x21 || c > 0x7E:
			return p.fail("an annotation holds visible ASCII characters other than {")
		}
	}
	return p.fail("the closing } of an annotation is missing")
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// powerOfTen reports whether the symbol 10* or 10^ is next, which is a unit and no number.
func (p *parser) powerOfTen() bool {
	s := p.code[p.at:]
	return len(s) > 2 && s[:2] == "10" && (s[2] == '*' || s[2] == '^')
}

func (p *parser) number() (*form, error) {
	from := p.at
	for isDigit(p.peek()) {
		p.at++
	}
	text := p.code[from:p.at]
	v, ok := new(big.Int).SetString(text, 10)
	switch {
	case !ok || v.Sign() == 0:
		p.at = from
		return nil, p.fail("a number in a unit must be a positive integer")
	case v.IsInt64() && v.Int64() == 1:
		return unity, nil
	}
	f := &form{factor: new(big.Rat).SetInt(v), terms: []power{{v.String(), 1}}}
	if f, ok := f.finish(); ok == nil {
		return f, nil
	}
	p.at = from
	return nil, p.fail("%v", ErrTooLarge)
}

// unit reads a symbol, perhaps with a prefix, and its exponent.
func (p *parser) unit() (*form, error) {
	from := p.at
	symbol, err := p.symbol()
	if err != nil {
		return nil, err
	}
	f, reason := p.atom(symbol)
	if f == nil {
		p.at = from
		return nil, p.fail("%s", reason)
	}
	n, given, err := p.exponent()
	if err != nil || !given {
		return f, err
	}
	if f, err = f.pow(n); err != nil {
		p.at = from
		return nil, p.fail("%v", err)
	}
	return f, nil
}

// symbol reads to the end of a unit's symbol: brackets may hold what else ends one.
func (p *parser) symbol() (string, error) {
	from := p.at
	if p.powerOfTen() {
		p.at += 3
		return p.code[from:p.at], nil
	}
	for p.at < len(p.code) {
		switch c := p.code[p.at]; {
		case c == '[':
			for p.at < len(p.code) && p.code[p.at] != ']' {
				p.at++
			}
			if p.at == len(p.code) {
				return "", p.fail("the closing ] is missing")
			}
			p.at++
		case isDigit(c), c == '.', c == '/', c == '(', c == ')', c == '{', c == '}', c == '+', c == '-', c == ']':
			return p.end(from)
		case c < 0x21 || c > 0x7E:
			return "", p.fail("units are written in visible ASCII characters, without spaces")
		default:
			p.at++
		}
	}
	return p.end(from)
}

func (p *parser) end(from int) (string, error) {
	if p.at == from {
		return "", p.fail("a unit is missing")
	}
	return p.code[from:p.at], nil
}

// exponent reads an integer, perhaps with a sign.
func (p *parser) exponent() (n int, given bool, err error) {
	from, neg := p.at, false
	if c := p.peek(); c == '+' || c == '-' {
		neg = c == '-'
		p.at++
		given = true
	}
	digits := p.at
	for isDigit(p.peek()) {
		if n = n*10 + int(p.peek()-'0'); n > maxExponent {
			p.at = from
			return 0, false, p.fail("an exponent is larger than %d", maxExponent)
		}
		p.at++
	}
	switch {
	case p.at > digits:
		given = true
	case given:
		return 0, false, p.fail("a sign must be followed by an exponent")
	}
	if neg {
		n = -n
	}
	return n, given, nil
}
