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
	if i := bytes.LastIndex(rest, []byte(historySegment)); i >= 0 {
		rest, version = rest[:i], rest[i+len(historySegment):]
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

// wantReference is one value of a reference condition: a link as places in its text, which is a
// part of the criteria's where nothing is encoded.
type wantReference struct {
	whole string // link.whole; of an id alone the id
	// whole[:typ] is the base, whole[typ:id-1] the type, whole[id:end] the id, and a version
	// follows. All 0 if the text names no type and id; of an id alone only end is not.
	typ, id, end uint16
	bare         bool           // an id alone: of any type, on this server
	canonical    *wantCanonical // nil unless the element may be a canonical
}

// wantCanonical is a value as a canonical element may have it.
type wantCanonical struct {
	link           // of the text without |version
	version []byte // nil if there is none
}

const historySegment = "/_history/"

// take keeps a link that was parsed of s.
func (w *wantReference) take(l *link, s string) {
	w.whole = s[len(s)-len(l.whole):]
	if l.id != nil {
		w.typ = uint16(len(l.base))
		w.id = w.typ + uint16(len(l.typ)) + 1
		w.end = w.id + uint16(len(l.id))
	}
}

// named reports whether there is an id.
func (w *wantReference) named() bool { return w.end > 0 }

func (w *wantReference) base() string { return w.whole[:w.typ] }

// typeName is for what has a name and is not bare.
func (w *wantReference) typeName() string { return w.whole[w.typ : w.id-1] }

func (w *wantReference) logicalID() string { return w.whole[w.id:w.end] }

// version reports whether there is one, and which.
func (w *wantReference) version() (version string, ok bool) {
	if !w.named() || int(w.end) == len(w.whole) {
		return "", false
	}
	return w.whole[int(w.end)+len(historySegment):], true
}

// key is link.key.
func (w *wantReference) key() string {
	if w.named() {
		return w.logicalID()
	}
	return w.whole
}

func (w *wantReference) match(v *reference) bool {
	if v.canonical {
		return w.matchCanonical(v)
	}
	if v.id == nil || !w.named() {
		// A fragment points into its own resource and equals nothing that can be asked for.
		return v.id == nil && !w.named() && len(v.whole) > 0 && v.whole[0] != '#' &&
			string(v.whole) == w.whole
	}
	if string(v.id) != w.logicalID() || string(v.base) != w.base() || !w.bare && string(v.typ) != w.typeName() {
		return false
	}
	version, versioned := w.version()
	return !versioned || string(v.version) == version
}

func (w *wantReference) matchCanonical(v *reference) bool {
	if w.bare {
		return v.base == nil && string(v.key()) == w.whole
	}
	c := w.canonical
	return bytes.Equal(v.whole, c.whole) && (c.version == nil || bytes.Equal(v.version, c.version))
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
	l := c.definitions.parseLink([]byte(s))
	w := wantReference{}
	w.take(&l, s)
	if p.reads(leafCanonical) {
		url, version := cutVersion([]byte(s))
		w.canonical = &wantCanonical{c.definitions.parseLink(url), version}
	}
	switch {
	case w.named():
		if l.base == nil && len(p.targets) > 0 && !slices.Contains(p.targets, w.typeName()) {
			return w, refusal("it cannot refer to %s, only to %s", w.typeName(), strings.Join(p.targets, ", "))
		}
	case fhir.ID(s).Valid():
		w.bare, w.end = true, uint16(len(s))
	case p.reads(leafCanonical), strings.Contains(s, ":"):
		// A canonical or an absolute URI: compared whole.
	default:
		return w, refusal("the value must be an id, Type/id or an absolute URL")
	}
	return w, nil
}

// text is the value in the one form that all its spellings share: without this server's base.
func (w *wantReference) text() string { return w.whole }

// keys is what the condition is posted under; see link.key. A canonical in a resource loses its
// version before it is posted, so a value with one is posted in both forms.
func (w *wantReference) keys() [][]byte {
	keys := [][]byte{[]byte(w.key())}
	if w.canonical != nil && !w.bare {
		keys = append(keys, w.canonical.key())
	}
	return keys
}
