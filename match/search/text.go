package search

import (
	"slices"
	"sync"
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
	d := decompositions.Get().(*norm.Iter)
	for d.Init(norm.NFD, s); !d.Done(); {
		for rest := d.Next(); len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			rest = rest[n:]
			f := folded(r)
			switch {
			case f.text != "": // letters
				dst = append(dst, f.text...)
			case unicode.IsSpace(f.rune):
				dst = addSpace(dst, from)
			case unicode.Is(unicode.Mn, f.rune), unicode.IsPunct(f.rune):
			default:
				dst = utf8.AppendRune(dst, f.rune)
			}
		}
	}
	d.Init(norm.NFD, nil) // so that it keeps no body alive
	decompositions.Put(d)
	return trimSpace(dst, from)
}

// decompositions take texts apart without memory of their own for each.
var decompositions = sync.Pool{New: func() any { return new(norm.Iter) }}

// foldedRune is a letter whose case is folded: itself, or the text that it becomes.
type foldedRune struct {
	rune rune
	text string // without marks; empty if it is one rune
}

// folded folds the case of a rune that comes out of decomposition.
func folded(r rune) foldedRune {
	switch {
	case 'A' <= r && r <= 'Z':
		return foldedRune{rune: r + ('a' - 'A')}
	case r >= utf8.RuneSelf:
		if f, ok := caseFolds()[r]; ok {
			return f
		}
	}
	return foldedRune{rune: r}
}

// caseFolds has what case folding changes. It is made when the first text that is not ASCII
// comes, since the library's own way allocates for each text.
var caseFolds = sync.OnceValue(func() map[rune]foldedRune {
	const last = 0x1FFFF // beyond are ideographs, tags and private use
	out := map[rune]foldedRune{}
	fold := cases.Fold()
	for r := rune(utf8.RuneSelf); r <= last; r++ {
		if !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsNumber(r) && !unicode.IsSymbol(r) {
			continue
		}
		s := []rune(fold.String(string(r)))
		s = slices.DeleteFunc(s, func(r rune) bool { return len(s) > 1 && unicode.Is(unicode.Mn, r) })
		switch c := cherokee(r); {
		case c != r || unicode.Is(unicode.Cherokee, r):
			out[r] = foldedRune{rune: c}
		case len(s) == 1 && s[0] != r:
			out[r] = foldedRune{rune: s[0]}
		case len(s) > 1:
			out[r] = foldedRune{text: string(s)}
		}
	}
	return out
})

// cherokee folds the letters that the library exchanges: it makes small ones of the capitals,
// and capitals of the small ones. By Unicode the capitals are the folded form.
func cherokee(r rune) rune {
	switch {
	case 0xAB70 <= r && r <= 0xABBF:
		return r - 0xAB70 + 0x13A0
	case 0x13F8 <= r && r <= 0x13FD:
		return r - 8
	}
	return r
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
