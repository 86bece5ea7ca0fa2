package search

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// fold appends the form in which strings are compared (R4 3.1.1.4.8): without case, combining
// marks and punctuation, and with every run of white space as one space.
func fold(dst, s []byte) []byte {
	from := len(dst)
	for i, c := range s {
		switch {
		case c >= utf8.RuneSelf:
			return foldUnicode(dst[:from], s)
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c+('a'-'A'))
		case c == ' ' || '\t' <= c && c <= '\r':
			dst = addSpace(dst, from)
		case punctuation[c]:
		default:
			dst = append(dst, s[i])
		}
	}
	return trimSpace(dst, from)
}

// punctuation tells of an ASCII character what unicode.IsPunct tells of any.
var punctuation = func() (t [utf8.RuneSelf]bool) {
	for i := range t {
		t[i] = unicode.IsPunct(rune(i))
	}
	return t
}()

func foldUnicode(dst, s []byte) []byte {
	from := len(dst)
	for _, r := range string(cases.Fold().Bytes(norm.NFD.Bytes(s))) {
		switch {
		case unicode.IsSpace(r):
			dst = addSpace(dst, from)
		case unicode.Is(unicode.Mn, r), unicode.IsPunct(r):
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return trimSpace(dst, from)
}

func addSpace(dst []byte, from int) []byte {
	if len(dst) > from && dst[len(dst)-1] != ' ' {
		dst = append(dst, ' ')
	}
	return dst
}

func trimSpace(dst []byte, from int) []byte {
	if len(dst) > from && dst[len(dst)-1] == ' ' {
		dst = dst[:len(dst)-1]
	}
	return dst
}

// wantText is one value of a string condition.
type wantText struct {
	raw    string
	folded []byte
}

func (w *wantText) equals(v *text) bool { return string(v.raw) == w.raw }

// text reads one value of a string condition.
func (c *compiler) text(raw string) (wantText, error) {
	s, err := unescape(raw)
	if err != nil {
		return wantText{}, err
	}
	w := wantText{raw: s, folded: fold(nil, []byte(s))}
	if len(w.folded) == 0 && c.modifier != "exact" {
		return w, refusal("the value has no letter or digit, so it would match every text; use :exact or :missing")
	}
	return w, nil
}

// newURI takes the version off a canonical.
func newURI(raw []byte, canonical bool) uri {
	v := uri{raw: raw, url: raw, canonical: canonical}
	if canonical {
		v.url, v.version = cutVersion(raw)
	}
	return v
}

// wantURI is one value of a uri condition. A canonical element is found with any version by
// a value without one, and by its own by a value with one (R4 3.1.1.4.9).
type wantURI struct{ uri }

func (w *wantURI) match(v *uri) bool {
	if !v.canonical {
		return bytes.Equal(v.raw, w.raw)
	}
	return bytes.Equal(v.url, w.url) && (w.version == nil || bytes.Equal(v.version, w.version))
}

func (c *compiler) uri(raw string) (wantURI, error) {
	s, err := unescape(raw)
	if err != nil {
		return wantURI{}, err
	}
	return wantURI{newURI([]byte(s), c.param.reads(leafCanonical))}, nil
}
