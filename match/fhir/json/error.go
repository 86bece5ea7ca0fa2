package json

import (
	"fmt"
	"unicode/utf8"
)

// SyntaxError says where a document stops being what this package accepts. Its text names the
// position and the rule, never a key or a value out of the document.
type SyntaxError struct {
	Offset  int // in bytes, from 0
	Line    int // from 1
	Column  int // in characters, from 1
	Msg     string
	TooLong bool // the document exceeds Limits.Bytes: a matter of size, not of grammar
}

// Error gives the rule and the position, such as "duplicate key at line 3 column 7".
func (e *SyntaxError) Error() string {
	if e.TooLong {
		return e.Msg
	}
	return fmt.Sprintf("%s at line %d column %d", e.Msg, e.Line, e.Column)
}

// syntaxError computes line and column, which only a failing document pays for.
func syntaxError(text []byte, offset int, msg string) *SyntaxError {
	e := &SyntaxError{Offset: offset, Line: 1, Column: 1, Msg: msg}
	for i := 0; i < offset && i < len(text); {
		if text[i] == '\n' {
			e.Line++
			e.Column = 1
			i++
			continue
		}
		_, n := utf8.DecodeRune(text[i:])
		e.Column++
		i += n
	}
	return e
}
