package fhirpath

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Parse reads an expression of the grammar of FHIRPath N1 without asking what its names mean.
// An error is a *fhir.Error that names the position.
func Parse(expr string) (*Node, error) {
	switch {
	case len(expr) > maxLength:
		return nil, fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf(
			"the FHIRPath expression is %d bytes long, the limit is %d", len(expr), maxLength))
	case !utf8.ValidString(expr):
		return nil, fhir.Refuse(fhir.IssueValue, "", "the FHIRPath expression is not valid UTF-8")
	}
	p := parser{lexer: lexer{text: expr}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.token.kind == tokenEnd {
		return nil, syntax(p.token.at, "the expression is empty")
	}
	n, err := p.expression(0)
	if err != nil {
		return nil, err
	}
	if p.token.kind != tokenEnd {
		return nil, p.unexpected("an operator or the end must follow")
	}
	return n, nil
}

type parser struct {
	lexer  lexer
	token  token // the next one
	end    int   // of the one before
	nested int
	nodes  int
}

// precedences of the operators, from N1: what binds closer is higher.
var precedences = map[string]int{
	"implies": 1,
	"or":      2, "xor": 2,
	"and": 3,
	"in":  4, "contains": 4,
	"=": 5, "~": 5, "!=": 5, "!~": 5,
	"<": 6, ">": 6, "<=": 6, ">=": 6,
	"|":  7,
	"is": 8, "as": 8,
	"+": 9, "-": 9, "&": 9,
	"*": 10, "/": 10, "div": 10, "mod": 10,
}

const unaryPrecedence = 11

func (p *parser) advance() error {
	p.end = p.token.end
	t, err := p.lexer.next()
	p.token = t
	return err
}

func (p *parser) symbol(s string) bool { return p.token.kind == tokenSymbol && p.token.text == s }

func (p *parser) unexpected(want string) error {
	if p.token.kind == tokenEnd {
		return syntax(p.token.at, "the expression ends here; "+want)
	}
	return syntax(p.token.at, fmt.Sprintf("%s is not expected; %s", shown(p.lexer.text[p.token.at:p.token.end]), want))
}

func (p *parser) expect(s string) error {
	if !p.symbol(s) {
		return p.unexpected(s + " must follow")
	}
	return p.advance()
}

// make counts the nodes, so that no recursion over them grows deep.
func (p *parser) make(n Node, start int) (*Node, error) {
	if p.nodes++; p.nodes > maxNodes {
		return nil, syntax(n.Position-1, fmt.Sprintf("the expression has more than %d parts", maxNodes))
	}
	n.Start, n.End = start+1, p.end+1
	return &n, nil
}

// expression reads operators that bind at least as close as least.
func (p *parser) expression(least int) (*Node, error) {
	if p.nested++; p.nested > maxNested {
		return nil, syntax(p.token.at, fmt.Sprintf("the expression is nested deeper than %d", maxNested))
	}
	defer func() { p.nested-- }()
	start := p.token.at
	left, err := p.unary()
	for err == nil {
		op := p.token
		binds, known := precedences[op.text]
		if !known || op.kind != tokenSymbol && op.kind != tokenName || binds < least {
			break
		}
		if err = p.advance(); err != nil {
			break
		}
		left, err = p.operator(left, op, binds, start)
	}
	return left, err
}

func (p *parser) operator(left *Node, op token, binds, start int) (*Node, error) {
	if op.text == "is" || op.text == "as" {
		name, err := p.typeName()
		if err != nil {
			return nil, err
		}
		return p.make(Node{Kind: KindType, Name: op.text, Type: name, Args: []*Node{left}, Position: op.at + 1}, start)
	}
	right, err := p.expression(binds + 1)
	if err != nil {
		return nil, err
	}
	return p.make(Node{Kind: KindBinary, Name: op.text, Args: []*Node{left, right}, Position: op.at + 1}, start)
}

func (p *parser) typeName() (string, error) {
	name := ""
	for {
		if p.token.kind != tokenName && p.token.kind != tokenDelimited {
			return "", p.unexpected("the name of a type must follow")
		}
		name += p.token.text
		if err := p.advance(); err != nil {
			return "", err
		}
		if !p.symbol(".") || strings.Contains(name, ".") {
			return name, nil
		}
		if err := p.advance(); err != nil {
			return "", err
		}
		name += "."
	}
}

func (p *parser) unary() (*Node, error) {
	op := p.token
	if !p.symbol("-") && !p.symbol("+") {
		return p.path()
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	operand, err := p.expression(unaryPrecedence)
	if err != nil {
		return nil, err
	}
	return p.make(Node{Kind: KindUnary, Name: op.text, Args: []*Node{operand}, Position: op.at + 1}, op.at)
}

// path reads a term and the members, calls and indexes that follow it.
func (p *parser) path() (*Node, error) {
	start := p.token.at
	n, err := p.term()
	for err == nil {
		switch {
		case p.symbol("."):
			if err = p.advance(); err != nil {
				return nil, err
			}
			if p.token.kind == tokenSpecial {
				return nil, p.unexpected("a name must follow the dot")
			}
			n, err = p.invocation(n, start)
		case p.symbol("["):
			at := p.token.at
			if err = p.advance(); err != nil {
				return nil, err
			}
			var index *Node
			if index, err = p.expression(0); err != nil {
				return nil, err
			}
			if err = p.expect("]"); err == nil {
				n, err = p.make(Node{Kind: KindIndex, Input: n, Args: []*Node{index}, Position: at + 1}, start)
			}
		default:
			return n, nil
		}
	}
	return nil, err
}

// invocation reads name and name(arguments).
func (p *parser) invocation(input *Node, start int) (*Node, error) {
	name := p.token
	if name.kind != tokenName && name.kind != tokenDelimited {
		return nil, p.unexpected("a name must follow")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if !p.symbol("(") {
		return p.make(Node{Kind: KindMember, Name: name.text, Input: input, Position: name.at + 1}, start)
	}
	args, err := p.arguments()
	if err != nil {
		return nil, err
	}
	return p.make(Node{Kind: KindCall, Name: name.text, Input: input, Args: args, Position: name.at + 1}, start)
}

func (p *parser) arguments() ([]*Node, error) {
	if err := p.advance(); err != nil { // the opening parenthesis
		return nil, err
	}
	if p.symbol(")") {
		return nil, p.advance()
	}
	var args []*Node
	for {
		a, err := p.expression(0)
		if err != nil {
			return nil, err
		}
		args = append(args, a)
		if !p.symbol(",") {
			return args, p.expect(")")
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
}

func (p *parser) term() (*Node, error) {
	t := p.token
	switch t.kind {
	case tokenName, tokenDelimited:
		if t.kind == tokenName && (t.text == "true" || t.text == "false") {
			return p.literal(Literal{Kind: LiteralBoolean, Text: t.text})
		}
		return p.invocation(nil, t.at)
	case tokenString:
		return p.literal(Literal{Kind: LiteralString, Text: t.text})
	case tokenNumber:
		return p.number()
	case tokenDate:
		return p.literal(Literal{Kind: LiteralDate, Text: t.text})
	case tokenDateTime:
		return p.literal(Literal{Kind: LiteralDateTime, Text: t.text})
	case tokenTime:
		return p.literal(Literal{Kind: LiteralTime, Text: t.text})
	case tokenVariable, tokenSpecial:
		if err := p.advance(); err != nil {
			return nil, err
		}
		kind := KindVariable
		if t.kind == tokenSpecial {
			kind = KindSpecial
		}
		return p.make(Node{Kind: kind, Name: t.text, Position: t.at + 1}, t.at)
	}
	switch {
	case p.symbol("("):
		if err := p.advance(); err != nil {
			return nil, err
		}
		n, err := p.expression(0)
		if err != nil {
			return nil, err
		}
		return n, p.expect(")")
	case p.symbol("{"):
		if err := p.advance(); err != nil {
			return nil, err
		}
		if err := p.expect("}"); err != nil {
			return nil, err
		}
		return p.make(Node{Kind: KindEmpty, Position: t.at + 1}, t.at)
	}
	return nil, p.unexpected("a value must follow")
}

func (p *parser) literal(l Literal) (*Node, error) {
	at := p.token.at
	if err := p.advance(); err != nil {
		return nil, err
	}
	return p.make(Node{Kind: KindLiteral, Literal: &l, Position: at + 1}, at)
}

// calendarUnits are the words that make a calendar duration of a number (N1 4.1.8).
var calendarUnits = []string{
	"year", "years", "month", "months", "week", "weeks", "day", "days", "hour", "hours",
	"minute", "minutes", "second", "seconds", "millisecond", "milliseconds",
}

func (p *parser) number() (*Node, error) {
	at, l := p.token.at, Literal{Kind: LiteralInteger, Text: p.token.text}
	if strings.Contains(l.Text, ".") {
		l.Kind = LiteralDecimal
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	switch {
	case p.token.kind == tokenString:
		l.Kind, l.Unit = LiteralQuantity, p.token.text
	case p.token.kind == tokenName && slices.Contains(calendarUnits, p.token.text):
		l.Kind, l.Unit, l.Calendar = LiteralQuantity, p.token.text, true
	default:
		return p.make(Node{Kind: KindLiteral, Literal: &l, Position: at + 1}, at)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	return p.make(Node{Kind: KindLiteral, Literal: &l, Position: at + 1}, at)
}

// shown quotes what an author wrote, shortened.
func shown(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}
