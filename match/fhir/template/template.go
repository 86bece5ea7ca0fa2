// Package template fills variables of the form ${name} into a text that an operator or the author
// of a Subscription wrote: the subject of a mail, the text of an SMS, the request to a gateway.
//
// There is no logic in a template and no way to run any: such a text comes from outside. A variable
// that is not known is refused when the template is read, so that no receiver ever sees one.
package template

import (
	"fmt"
	"slices"
	"strings"
)

// Template is a text with variables. The zero value is the empty text. It is immutable.
type Template struct {
	// pieces are plain text at even places and names of variables at odd ones.
	pieces []string
}

// Parse reads a template whose variables are among allowed. Its errors name the variable and
// those that there are, and repeat nothing else of the text.
func Parse(text string, allowed ...string) (Template, error) {
	var t Template
	for {
		plain, rest, found := strings.Cut(text, "${")
		t.pieces = append(t.pieces, plain)
		if !found {
			return t, nil
		}
		name, behind, closed := strings.Cut(rest, "}")
		if !closed {
			return Template{}, fmt.Errorf("a ${ has no closing }")
		}
		if !slices.Contains(allowed, name) {
			return Template{}, fmt.Errorf("there is no variable ${%s}; there are %s", clip(name), list(allowed))
		}
		t.pieces = append(t.pieces, name)
		text = behind
	}
}

// Expand puts value(name) in place of each variable.
func (t Template) Expand(value func(name string) string) string {
	var b strings.Builder
	for i, piece := range t.pieces {
		if i%2 == 1 {
			piece = value(piece)
		}
		b.WriteString(piece)
	}
	return b.String()
}

// Uses reports whether a variable is in the text.
func (t Template) Uses(name string) bool {
	for i := 1; i < len(t.pieces); i += 2 {
		if t.pieces[i] == name {
			return true
		}
	}
	return false
}

func list(names []string) string {
	if len(names) == 0 {
		return "none here"
	}
	return "${" + strings.Join(names, "}, ${") + "}"
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
