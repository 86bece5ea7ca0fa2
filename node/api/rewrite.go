package api

import (
	"bytes"
	"strings"

	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// linkKeys are the elements of type uri, url, oid and uuid that may name another entry of a
// Bundle. JSON alone does not tell them from canonicals, which must stand (FHIR R4 3.1.0.11.2),
// so they are listed; values that only look like links, such as Identifier.value, are not.
var linkKeys = map[string]bool{
	"url": true, "uri": true, "valueUri": true, "valueUrl": true, "valueOid": true, "valueUuid": true, "instantiatesUri": true,
}

// linker says what links of a resource become.
type linker struct {
	// reference resolves Reference.reference; ok is false where it stands as it is.
	reference func(value string) (target string, ok bool, err error)
	// link resolves every other kind of link, which name entries by urn alone: an http URL in
	// such an element is as a rule the resource's own canonical identity.
	link func(value string) (target string, ok bool)
}

// rewrite replaces links in a resource. Every other byte stays as it is, white space and the
// text of numbers included; without any link the document itself is returned.
func (l linker) rewrite(t *fhirjson.Tree) ([]byte, error) {
	r := rewriter{linker: l, t: t, text: t.Source()}
	if err := r.walk(t.Root(), ""); err != nil {
		return nil, err
	}
	if r.out == nil {
		return r.text, nil
	}
	return append(r.out, r.text[r.at:]...), nil
}

type rewriter struct {
	linker
	t    *fhirjson.Tree
	text []byte
	out  []byte // what is rewritten so far; nil while nothing is
	at   int    // text[:at] is in out
}

// walk goes through the document in its order. key is the member's name; items of an array
// have the array's.
func (r *rewriter) walk(n fhirjson.Node, key string) error {
	switch r.t.Kind(n) {
	case fhirjson.Object:
		for m := range r.t.Children(n) {
			if err := r.walk(m, r.t.Key(m)); err != nil {
				return err
			}
		}
	case fhirjson.Array:
		for m := range r.t.Children(n) {
			if err := r.walk(m, key); err != nil {
				return err
			}
		}
	case fhirjson.String:
		return r.value(n, key)
	}
	return nil
}

func (r *rewriter) value(n fhirjson.Node, key string) error {
	switch {
	case key == "reference":
		target, ok, err := r.reference(r.t.Str(n))
		if ok && err == nil {
			r.replace(n, encode(target))
		}
		return err
	case linkKeys[key]:
		if target, ok := r.link(r.t.Str(n)); ok {
			r.replace(n, encode(target))
		}
	case key == "div":
		if raw := r.t.Raw(n); bytes.Contains(raw, []byte("urn:")) {
			if div, changed := r.narrative(string(raw)); changed {
				r.replace(n, []byte(div))
			}
		}
	}
	return nil
}

func (r *rewriter) replace(n fhirjson.Node, value []byte) {
	start := r.t.Offset(n)
	if r.out == nil {
		r.out = make([]byte, 0, len(r.text)+64)
	}
	r.out = append(append(r.out, r.text[r.at:start]...), value...)
	r.at = start + len(r.t.Raw(n))
}

// narrative replaces links in href and src of a narrative, working on its JSON text: quotes of
// attributes are \" or ' there, and a urn needs no escape.
func (r *rewriter) narrative(raw string) (string, bool) {
	var out strings.Builder
	changed := false
	for {
		i := nextAttribute(raw)
		if i < 0 {
			break
		}
		out.WriteString(raw[:i])
		raw = raw[i:]
		quote := `\"`
		if raw[0] == '\'' {
			quote = "'"
		}
		end := strings.Index(raw[len(quote):], quote)
		if end < 0 {
			break
		}
		value := raw[len(quote) : len(quote)+end]
		if target, ok := r.link(value); ok {
			text := encode(target)
			value, changed = string(text[1:len(text)-1]), true
		}
		out.WriteString(quote + value + quote)
		raw = raw[end+2*len(quote):]
	}
	out.WriteString(raw)
	return out.String(), changed
}

// nextAttribute finds the opening quote of the next href or src; -1 if there is none.
func nextAttribute(raw string) int {
	for at := 0; ; {
		i := strings.IndexByte(raw[at:], '=')
		if i < 0 {
			return -1
		}
		at += i + 1
		name, value := raw[:at-1], raw[at:]
		if (strings.HasSuffix(name, "href") || strings.HasSuffix(name, "src")) &&
			(strings.HasPrefix(value, `\"`) || strings.HasPrefix(value, "'")) {
			return at
		}
	}
}
