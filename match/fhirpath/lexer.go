package fhirpath

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Bounds of an expression. They keep the price of compiling it small whoever writes it, and
// with it the depth of every recursion over it.
const (
	maxLength = 16 << 10 // bytes
	maxNested = 100      // parentheses, arguments and operators within one another
	maxNodes  = 4096
)

type tokenKind uint8

const (
	tokenEnd       tokenKind = iota
	tokenName                // an identifier without delimiters, words such as "and" included
	tokenDelimited           // `an identifier`
	tokenString              // 'text'
	tokenNumber              // 1, 1.0
	tokenDate                // @2015-02
	tokenDateTime            // @2015-02T, @2015-02-04T14:34:28.123+10:00
	tokenTime                // @T14:34
	tokenVariable            // %name, %`name`, %'name', %"name"
	tokenSpecial             // $this, $index, $total
	tokenSymbol              // operators and punctuation
)

type token struct {
	kind tokenKind
	text string // unescaped where escapes are possible, without delimiters and leading @, @T, % and $
	at   int    // in bytes from 0
	end  int
}

// lexer reads the tokens of an expression one after the other.
type lexer struct {
	text string
	pos  int
}

// symbols longer than one byte; each begins with a byte that is a symbol too, except "!".
var symbols = []string{"<=", ">=", "!=", "!~"}

const singles = ".()[]{},+-*/&|<>=~"

func (l *lexer) next() (token, error) {
	if err := l.skip(); err != nil {
		return token{}, err
	}
	at := l.pos
	if at >= len(l.text) {
		return token{kind: tokenEnd, at: at, end: at}, nil
	}
	t, err := l.read(l.text[at])
	t.at, t.end = at, l.pos
	return t, err
}

func (l *lexer) read(c byte) (token, error) {
	switch {
	case isLetter(c):
		return token{kind: tokenName, text: l.word()}, nil
	case isDigit(c):
		return l.number()
	case c == '\'':
		s, err := l.quoted('\'')
		return token{kind: tokenString, text: s}, err
	case c == '`':
		s, err := l.quoted('`')
		return token{kind: tokenDelimited, text: s}, err
	case c == '@':
		return l.moment()
	case c == '%':
		return l.variable()
	case c == '$':
		l.pos++
		word := l.word()
		if word != "this" && word != "index" && word != "total" {
			return token{}, syntax(l.pos-len(word)-1, "after $ one of this, index and total must follow")
		}
		return token{kind: tokenSpecial, text: word}, nil
	}
	for _, s := range symbols {
		if strings.HasPrefix(l.text[l.pos:], s) {
			l.pos += len(s)
			return token{kind: tokenSymbol, text: s}, nil
		}
	}
	if strings.IndexByte(singles, c) >= 0 {
		l.pos++
		return token{kind: tokenSymbol, text: l.text[l.pos-1 : l.pos]}, nil
	}
	r, _ := utf8.DecodeRuneInString(l.text[l.pos:])
	return token{}, syntax(l.pos, fmt.Sprintf("%q begins nothing that FHIRPath knows", r))
}

// skip passes white space and comments.
func (l *lexer) skip() error {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\n' || rest[0] == '\r':
			l.pos++
		case strings.HasPrefix(rest, "//"):
			if end := strings.IndexAny(rest, "\n\r"); end >= 0 {
				l.pos += end
			} else {
				l.pos = len(l.text)
			}
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return syntax(l.pos, "the comment has no end: close it with */")
			}
			l.pos += end + 4
		default:
			return nil
		}
	}
	return nil
}

func isLetter(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

func (l *lexer) word() string {
	at := l.pos
	for l.pos < len(l.text) && (isLetter(l.text[l.pos]) || isDigit(l.text[l.pos])) {
		l.pos++
	}
	return l.text[at:l.pos]
}

func (l *lexer) digits() int {
	at := l.pos
	for l.pos < len(l.text) && isDigit(l.text[l.pos]) {
		l.pos++
	}
	return l.pos - at
}

// number reads 1 and 1.0. The dot of 1.toString() belongs to what follows.
func (l *lexer) number() (token, error) {
	at := l.pos
	l.digits()
	if rest := l.text[l.pos:]; len(rest) > 1 && rest[0] == '.' && isDigit(rest[1]) {
		l.pos++
		l.digits()
	}
	t := token{kind: tokenNumber, text: l.text[at:l.pos]}
	if l.pos < len(l.text) && isLetter(l.text[l.pos]) {
		return t, syntax(l.pos, "a number ends here, and a letter cannot follow: separate them by a space")
	}
	return t, nil
}

// quoted reads text up to the delimiter (N1, STRING and DELIMITEDIDENTIFIER). \" is read as
// well, which the grammar lacks and HL7's tests use.
func (l *lexer) quoted(delimiter byte) (string, error) {
	at := l.pos
	l.pos++
	var b []byte
	for start := l.pos; l.pos < len(l.text); {
		switch c := l.text[l.pos]; c {
		case delimiter:
			plain := l.text[start:l.pos]
			l.pos++
			if b == nil {
				return plain, nil
			}
			return string(append(b, plain...)), nil
		case '\\':
			b = append(b, l.text[start:l.pos]...)
			var err error
			if b, err = l.escape(b); err != nil {
				return "", err
			}
			if b == nil {
				b = []byte{}
			}
			start = l.pos
		default:
			l.pos++
		}
	}
	return "", syntax(at, fmt.Sprintf("the text has no end: close it with %c", delimiter))
}

func (l *lexer) escape(b []byte) ([]byte, error) {
	at := l.pos
	if l.pos+1 >= len(l.text) {
		return b, syntax(at, "the text has no end")
	}
	c := l.text[l.pos+1]
	l.pos += 2
	switch c {
	case '\'', '"', '`', '\\', '/':
		return append(b, c), nil
	case 'n':
		return append(b, '\n'), nil
	case 'r':
		return append(b, '\r'), nil
	case 't':
		return append(b, '\t'), nil
	case 'f':
		return append(b, '\f'), nil
	case 'u':
		high, err := l.unit(at)
		if err != nil {
			return b, err
		}
		if high < 0xD800 || high > 0xDFFF {
			return utf8.AppendRune(b, high), nil
		}
		if high < 0xDC00 && strings.HasPrefix(l.text[l.pos:], `\u`) {
			l.pos += 2
			low, err := l.unit(at)
			if err != nil {
				return b, err
			}
			if low >= 0xDC00 && low <= 0xDFFF {
				return utf8.AppendRune(b, (high-0xD800)<<10+(low-0xDC00)+0x10000), nil
			}
		}
		return b, syntax(at, "the escape is half of a character: \\u needs both surrogates")
	}
	return b, syntax(at, `an escape must be one of \' \" \`+"\\`"+` \\ \/ \f \n \r \t and \uXXXX`)
}

func (l *lexer) unit(at int) (rune, error) {
	if l.pos+4 <= len(l.text) {
		if n, err := strconv.ParseUint(l.text[l.pos:l.pos+4], 16, 32); err == nil {
			l.pos += 4
			return rune(n), nil
		}
	}
	return 0, syntax(at, "four hexadecimal digits must follow \\u")
}

// variable reads %name. Names in double quotes are those of FHIR before R4.
func (l *lexer) variable() (token, error) {
	at := l.pos
	l.pos++
	t := token{kind: tokenVariable}
	if l.pos < len(l.text) {
		switch c := l.text[l.pos]; c {
		case '`', '\'', '"':
			var err error
			t.text, err = l.quoted(c)
			if err != nil || t.text != "" {
				return t, err
			}
		default:
			t.text = l.word()
		}
	}
	if t.text == "" {
		return t, syntax(at, "a name must follow %")
	}
	return t, nil
}

// moment reads @2015-02-04, @2015-02-04T14:34:28.123+10:00 and @T14:34. Whether the day and
// the hour exist is looked at by the parser.
func (l *lexer) moment() (token, error) {
	at := l.pos
	l.pos++
	if strings.HasPrefix(l.text[l.pos:], "T") {
		l.pos++
		start := l.pos
		l.clock()
		if rest := l.text[l.pos:]; rest != "" && (rest[0] == 'Z' || rest[0] == '+' && len(rest) > 5 && rest[3] == ':') {
			return token{}, syntax(l.pos, "a time has no time zone")
		}
		return token{kind: tokenTime, text: l.text[start:l.pos]}, l.needs(at, start)
	}
	start := l.pos
	l.digits()
	for range 2 { // month and day
		if rest := l.text[l.pos:]; len(rest) > 2 && rest[0] == '-' && isDigit(rest[1]) && isDigit(rest[2]) {
			l.pos += 3
		}
	}
	if !strings.HasPrefix(l.text[l.pos:], "T") {
		return token{kind: tokenDate, text: l.text[start:l.pos]}, l.needs(at, start)
	}
	l.pos++
	if l.clock() {
		l.zone()
	}
	return token{kind: tokenDateTime, text: l.text[start:l.pos]}, nil
}

func (l *lexer) needs(at, start int) error {
	if l.pos == start {
		return syntax(at, "after @ a date such as @2015-02-04 or a time such as @T14:30 must follow")
	}
	return nil
}

// clock passes 14, 14:34, 14:34:28 and 14:34:28.123.
func (l *lexer) clock() bool {
	if l.digits() == 0 {
		return false
	}
	for range 2 {
		if rest := l.text[l.pos:]; len(rest) > 1 && rest[0] == ':' && isDigit(rest[1]) {
			l.pos++
			l.digits()
		}
	}
	if rest := l.text[l.pos:]; len(rest) > 1 && rest[0] == '.' && isDigit(rest[1]) {
		l.pos++
		l.digits()
	}
	return true
}

func (l *lexer) zone() {
	rest := l.text[l.pos:]
	switch {
	case strings.HasPrefix(rest, "Z"):
		l.pos++
	case len(rest) >= 6 && (rest[0] == '+' || rest[0] == '-') &&
		isDigit(rest[1]) && isDigit(rest[2]) && rest[3] == ':' && isDigit(rest[4]) && isDigit(rest[5]):
		l.pos += 6
	}
}

// syntax makes a refusal that names a position, counted in bytes from 1.
func syntax(at int, msg string) error {
	return fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("FHIRPath at position %d: %s", at+1, msg))
}
