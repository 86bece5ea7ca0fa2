package search

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// wantToken is one value of a token condition (R4 3.1.1.4.10).
type wantToken struct {
	scope  scope
	system string
	code   string
}

type scope uint8

const (
	anySystem  scope = iota // code
	oneSystem               // system|code
	noSystem                // |code
	systemOnly              // system|
)

func (w *wantToken) match(v *token) bool {
	switch v.form {
	case tokenImplied:
		// A code element has its system from the value set it is bound to. No table of
		// bindings is kept: whatever system the criteria names is taken to be that one.
		if w.scope == systemOnly {
			return true
		}
	case tokenPlain:
		if w.scope == oneSystem || w.scope == systemOnly {
			return false
		}
	default:
		switch w.scope {
		case oneSystem:
			if string(v.system) != w.system {
				return false
			}
		case noSystem:
			if v.system != nil {
				return false
			}
		case systemOnly:
			return string(v.system) == w.system
		}
	}
	// Where the case of a code counts is often unknown, and R4 3.1.1.4.10 then asks for a
	// comparison without case: too much is safer than too little.
	if v.exact {
		return string(v.code) == w.code
	}
	return v.code != nil && bytes.EqualFold(v.code, []byte(w.code))
}

// token reads one value of a token condition.
func (c *compiler) token(raw string) (wantToken, error) {
	parts := splitEscaped(raw, '|')
	for i, p := range parts {
		s, err := unescape(p)
		if err != nil {
			return wantToken{}, err
		}
		parts[i] = s
	}
	if c.param.code == "_id" && c.modifier != "identifier" {
		// As the search of the REST interface: an id may be written as a reference to it.
		parts[0] = strings.TrimPrefix(parts[0], c.typ.name+"/")
	}
	if err := c.tokenForm(parts); err != nil {
		return wantToken{}, err
	}
	switch {
	case len(parts) == 1:
		return wantToken{scope: anySystem, code: parts[0]}, nil
	case len(parts) > 2:
		return wantToken{}, refusal(`the value must be code, system|code, |code or system|; a | within one is written \|`)
	case parts[0] == "" && parts[1] == "":
		return wantToken{}, refusal("the value is empty")
	case parts[1] == "":
		return wantToken{scope: systemOnly, system: parts[0]}, nil
	case parts[0] == "":
		return wantToken{scope: noSystem, code: parts[1]}, nil
	}
	return wantToken{scope: oneSystem, system: parts[0], code: parts[1]}, nil
}

// tokenForm refuses what the element could never equal.
func (c *compiler) tokenForm(parts []string) error {
	p := c.param
	switch {
	case c.modifier == "identifier":
		return nil
	case len(parts) > 1 && p.readsOnly(leafContactPoint, leafURI, leafBoolean, leafTruth, leafID):
		return refusal("this element has no system: the value must be written without |")
	case p.readsOnly(leafBoolean, leafTruth) && parts[0] != "true" && parts[0] != "false":
		return refusal("the value must be true or false")
	case p.code == "_id" && !fhir.ID(parts[0]).Valid():
		return refusal("the value must be an id, which has 1 to 64 letters, digits, '-' and '.'; %s/ may stand before it", c.typ.name)
	}
	return nil
}

func (w *wantToken) text() string {
	switch w.scope {
	case oneSystem, systemOnly:
		return escape(w.system) + "|" + escape(w.code)
	case noSystem:
		return "|" + escape(w.code)
	}
	return escape(w.code)
}

// typedIdentifier is an Identifier under one of the codings of its type.
type typedIdentifier struct {
	system []byte // of the type's coding; nil if it has none
	code   []byte
	value  []byte
}

func (t *typedIdentifier) text() string {
	return string(t.system) + "|" + string(t.code) + "|" + string(t.value)
}

// readTyped takes an Identifier once for each coding of its type.
func (r *Resource) readTyped(n json.Node) {
	value := r.str(n, nameValue)
	if value == nil {
		return
	}
	codings := r.tree.Find(r.tree.Find(n, nameType), nameCoding)
	for c := r.tree.First(codings); c != 0; c = r.tree.Next(c) {
		if code := r.str(c, nameCode); code != nil {
			r.identifiers = append(r.identifiers, typedIdentifier{r.str(c, nameSystem), code, value})
		}
	}
}

// wantTyped is one value of an :of-type condition.
type wantTyped struct{ system, code, value string }

// match compares codes and values without case, like those of any identifier; systems are URIs.
func (w *wantTyped) match(v *typedIdentifier) bool {
	return string(v.system) == w.system && bytes.EqualFold(v.code, []byte(w.code)) && bytes.EqualFold(v.value, []byte(w.value))
}

func (w *wantTyped) text() string {
	return escape(w.system) + "|" + escape(w.code) + "|" + escape(w.value)
}

func (r *Resource) typedKey(v *typedIdentifier) []byte { return r.folding(v.value) }

// ofType reads one value of an :of-type condition; all three parts must be there (R4
// 3.1.1.4.10).
func (c *compiler) ofType(raw string) (wantTyped, error) {
	parts := splitEscaped(raw, '|')
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return wantTyped{}, refusal("with :of-type the value must be system|code|value, where system and code are those of the identifier's type; all three parts must be present")
	}
	for i := range parts {
		s, err := unescape(parts[i])
		if err != nil {
			return wantTyped{}, err
		}
		parts[i] = s
	}
	return wantTyped{parts[0], parts[1], parts[2]}, nil
}

// foldKey appends a form of a code that is the same for all that differ by case alone.
func foldKey(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		i += n
		// The least of the runes that fold into one another: what bytes.EqualFold compares by.
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		dst = utf8.AppendRune(dst, least)
	}
	return dst
}
