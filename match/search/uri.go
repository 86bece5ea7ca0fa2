package search

import (
	"bytes"
	"strings"
)

// newURI takes the version off a canonical.
func newURI(raw []byte, canonical bool) uri {
	v := uri{raw: raw, url: raw, canonical: canonical}
	if canonical {
		v.url, v.version = cutVersion(raw)
	}
	return v
}

// wantURI is one value of a uri condition. A canonical element is found with any version by
// a value without one, and by its own by a value with one (R4 3.1.1.4.9). With :contains, url
// is what is looked for without case.
type wantURI struct{ uri }

func (w *wantURI) match(v *uri) bool {
	if !v.canonical {
		return bytes.Equal(v.raw, w.raw)
	}
	return bytes.Equal(v.url, w.url) && (w.version == nil || bytes.Equal(v.version, w.version))
}

// uri reads one value of a uri condition.
func (c *compiler) uri(raw string) (wantURI, error) {
	s, err := unescape(raw)
	if err != nil {
		return wantURI{}, err
	}
	w := wantURI{newURI([]byte(s), c.param.reads(leafCanonical))}
	switch c.modifier {
	case "contains":
		w.url = foldKey(nil, []byte(s))
	case "above", "below":
		// R4 3.1.1.4.9: they "only apply to URLs, and not URNs such as OIDs".
		scheme, rest, ok := strings.Cut(s, "://")
		if !ok || scheme == "" || rest == "" {
			return w, refusal(":%s goes by the path of a URL, and the value is none", c.modifier)
		}
		if w.version != nil {
			return w, refusal(":%s goes by the path of a URL; leave the version behind the | out", c.modifier)
		}
		if path := strings.TrimRight(s, "/"); len(path) > len(scheme)+len("://") {
			w.raw, w.url = []byte(path), []byte(path)
		}
	}
	return w, nil
}

// hitPartOfURI decides :above, :below and :contains.
func (c *condition) hitPartOfURI(r *Resource, values []uri) bool {
	for i := range values {
		v := &values[i]
		sought := v.url
		if c.modifier == "contains" {
			sought = r.folding(v.raw)
		}
		const scanned = 8 // bytes a step, as for :contains of a string
		if !r.spend(len(c.uris) * (1 + len(sought)/scanned)) {
			return false
		}
		for k := range c.uris {
			w := &c.uris[k]
			if c.modifier == "contains" && bytes.Contains(sought, w.url) ||
				c.modifier == "below" && within(sought, w.url) ||
				c.modifier == "above" && bytes.Contains(sought, []byte("://")) && within(w.url, trimSlashes(sought)) {
				return true
			}
		}
	}
	return false
}

// within reports whether a URL is another one or lies below it: what follows is divided from
// it as a segment of the path, a query or a fragment.
func within(url, root []byte) bool {
	if !bytes.HasPrefix(url, root) {
		return false
	}
	return len(url) == len(root) || bytes.IndexByte([]byte("/?#"), url[len(root)]) >= 0
}

// trimSlashes takes the slashes at the end off a URL, but not those of its scheme.
func trimSlashes(url []byte) []byte {
	if t := bytes.TrimRight(url, "/"); !bytes.HasSuffix(t, []byte{':'}) {
		return t
	}
	return url
}
