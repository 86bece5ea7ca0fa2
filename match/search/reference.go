package search

import (
	"bytes"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// link is a reference's text taken apart. Of a resource on this server it has type and id, of
// one elsewhere also the base; whatever else (a urn, a fragment, any other URL) is kept whole.
type link struct {
	raw     []byte // as written
	base    []byte // base URL with a slash at the end; nil: this server
	typ     []byte
	id      []byte // nil if the text names no type and id
	version []byte // after /_history/
	whole   []byte // raw without this server's base
}

// parseLink takes a reference apart. Resources and criteria both go through it, so that the
// two forms of one reference compare as equal (R4 3.1.1.4.12).
func (d *Definitions) parseLink(raw []byte) link {
	l := link{raw: raw, whole: raw}
	for _, b := range d.bases {
		if len(raw) > len(b) && string(raw[:len(b)]) == b {
			l.whole = raw[len(b):]
			break
		}
	}
	rest, version := l.whole, []byte(nil)
	if i := bytes.LastIndex(rest, []byte("/_history/")); i >= 0 {
		rest, version = rest[:i], rest[i+len("/_history/"):]
	}
	slash := bytes.LastIndexByte(rest, '/')
	if slash < 0 {
		return l
	}
	typeAt := bytes.LastIndexByte(rest[:slash], '/') + 1
	typ, id := rest[typeAt:slash], rest[slash+1:]
	if !validID(id) || d.types[string(typ)] == nil {
		return l
	}
	if typeAt > 0 {
		if !bytes.Contains(rest[:typeAt], []byte("://")) {
			return l
		}
		l.base = rest[:typeAt]
	}
	l.typ, l.id, l.version = typ, id, version
	return l
}

// validID is fhir.ID.Valid for bytes: a conversion would allocate for each reference.
func validID(id []byte) bool {
	for _, c := range id {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return 0 < len(id) && len(id) <= 64
}

// key is what an index posts a reference under: the forms of one reference, and the same id
// of different types, share it.
func (l *link) key() []byte {
	if l.id != nil {
		return l.id
	}
	return l.whole
}

// cutVersion takes the business version off a canonical reference: url|version.
func cutVersion(s []byte) (url, version []byte) {
	if i := bytes.LastIndexByte(s, '|'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, nil
}

// readReference takes a Reference, a canonical, or a resource that stands where a reference
// could (Bundle.entry.resource).
func (r *Resource) readReference(n json.Node, l leaf) {
	switch l {
	case leafReference:
		v := reference{link: r.definitions.parseLink(r.str(n, nameReference))}
		if id := r.tree.Find(n, nameIdentifier); id != 0 {
			v.identifier = token{system: r.str(id, nameSystem), code: r.str(id, nameValue)}
		}
		r.references = append(r.references, v)
	case leafCanonical:
		s := r.tree.Text(n)
		if len(s) == 0 {
			return
		}
		url, version := cutVersion(s)
		v := reference{link: r.definitions.parseLink(url), canonical: true}
		v.raw, v.version = s, version
		r.references = append(r.references, v)
	case leafResource:
		typ, id := r.str(n, nameTypeName), r.str(n, nameID)
		if typ != nil && id != nil {
			r.references = append(r.references, reference{link: r.definitions.parseLink(
				slices.Concat(typ, []byte{'/'}, id))})
		}
	}
}

// isTarget reports whether a resource that stands where a reference could is of a type that the
// parameter is about: Bundle "composition" and "message" read the same element.
func (r *Resource) isTarget(n json.Node) bool {
	t := r.param.targets
	return len(t) == 0 || slices.Contains(t, string(r.str(n, nameTypeName)))
}

// refersTo decides "resolve() is typ" without fetching anything: by the reference's text, by a
// contained resource, by Reference.type. What tells no type (a urn, a logical reference) is
// none: in R4 every element that is asked this allows other types as well.
func (r *Resource) refersTo(n json.Node, typ string) bool {
	ref := r.str(n, nameReference)
	if len(ref) > 1 && ref[0] == '#' {
		return r.containedIs(ref[1:], typ)
	}
	if l := r.definitions.parseLink(ref); l.id != nil {
		return string(l.typ) == typ
	}
	if to, found := r.inBundle(ref); found {
		return string(to.typ) == typ
	}
	t := r.str(n, nameType)
	return string(t[bytes.LastIndexByte(t, '/')+1:]) == typ
}

// containedID is a contained resource and its id.
type containedID struct {
	id   []byte
	node json.Node
}

// containedIs decides for a reference to a contained resource.
func (r *Resource) containedIs(id []byte, typ string) bool {
	if r.container != nil { // contained resources stand side by side (R4 2.3.0.2)
		r = r.container
	}
	return r.tree.Is(r.tree.Find(r.containedNode(id), nameTypeName), typ)
}

// containedNode finds a contained resource; no node if there is none. Their ids are sorted at
// the first such reference: a body may have a hundred thousand of both.
func (r *Resource) containedNode(id []byte) json.Node {
	if !r.containedRead {
		for c := r.tree.First(r.tree.Find(r.tree.Root(), nameContained)); c != 0; c = r.tree.Next(c) {
			r.contained = append(r.contained, containedID{r.str(c, nameID), c})
		}
		// Of several with one id the first counts.
		slices.SortStableFunc(r.contained, func(a, b containedID) int { return bytes.Compare(a.id, b.id) })
		r.containedRead = true
	}
	i, ok := slices.BinarySearchFunc(r.contained, id, func(c containedID, id []byte) int { return bytes.Compare(c.id, id) })
	if !ok {
		return 0
	}
	return r.contained[i].node
}

// wantReference is one value of a reference condition.
type wantReference struct {
	bare      bool  // an id alone: of any type, on this server
	link            // of the criteria's text
	canonical *link // of the text without |version; nil unless the element may be a canonical
	business  []byte
}

func (w *wantReference) match(v *reference) bool {
	if v.canonical {
		if w.bare {
			return v.base == nil && bytes.Equal(v.key(), w.id)
		}
		return bytes.Equal(v.whole, w.canonical.whole) &&
			(w.business == nil || bytes.Equal(v.version, w.business))
	}
	if v.id == nil || w.id == nil {
		// A fragment points into its own resource and equals nothing that can be asked for.
		return v.id == nil && w.id == nil && len(v.whole) > 0 && v.whole[0] != '#' &&
			bytes.Equal(v.whole, w.whole)
	}
	return bytes.Equal(v.id, w.id) && bytes.Equal(v.base, w.base) &&
		(w.typ == nil || bytes.Equal(v.typ, w.typ)) &&
		(w.version == nil || bytes.Equal(v.version, w.version))
}

// reference reads one value of a reference condition. typ is the type given as a modifier.
func (c *compiler) reference(raw, typ string) (wantReference, error) {
	s, err := unescape(raw)
	if err != nil {
		return wantReference{}, err
	}
	p := c.param
	if typ != "" {
		if s = strings.TrimPrefix(s, typ+"/"); !fhir.ID(s).Valid() {
			return wantReference{}, refusal("with :%s the value must be an id", typ)
		}
		s = typ + "/" + s
	}
	w := wantReference{link: c.definitions.parseLink([]byte(s))}
	if p.reads(leafCanonical) {
		url, version := cutVersion([]byte(s))
		l := c.definitions.parseLink(url)
		w.canonical, w.business = &l, version
	}
	switch {
	case w.id != nil:
		if w.base == nil && len(p.targets) > 0 && !slices.Contains(p.targets, string(w.typ)) {
			return w, refusal("it cannot refer to %s, only to %s", w.typ, strings.Join(p.targets, ", "))
		}
	case fhir.ID(s).Valid():
		w.bare, w.id = true, []byte(s)
	case p.reads(leafCanonical), strings.Contains(s, ":"):
		// A canonical or an absolute URI: compared whole.
	default:
		return w, refusal("the value must be an id, Type/id or an absolute URL")
	}
	return w, nil
}

// text is the value in the one form that all its spellings share.
func (w *wantReference) text() string {
	switch {
	case w.bare:
		return string(w.id)
	case w.id != nil && w.business == nil:
		s := string(w.base) + string(w.typ) + "/" + string(w.id)
		if w.version != nil {
			s += "/_history/" + string(w.version)
		}
		return s
	}
	return string(w.whole)
}

// keys is what the condition is posted under; see link.key. A canonical in a resource loses its
// version before it is posted, so a value with one is posted in both forms.
func (w *wantReference) keys(p *param) [][]byte {
	keys := [][]byte{w.link.key()}
	if p.reads(leafCanonical) && !w.bare {
		keys = append(keys, w.canonical.key())
	}
	return keys
}
