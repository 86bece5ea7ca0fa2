package json

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"time"
)

// SpliceOptions says what Splice sets. An empty field leaves what the body has.
type SpliceOptions struct {
	ID          string    // the resource's logical id
	VersionID   string    // meta.versionId
	LastUpdated time.Time // meta.lastUpdated; written in UTC with milliseconds
	// KeepMeta lets a meta.versionId or meta.lastUpdated stand that the body has already; only
	// what is missing is added. A change feed brings its own.
	KeepMeta bool
}

// Splice gives body with its id and the server's part of its meta set: replaced where they
// are, added where they are missing. Every other byte stays as it is, white space and the text
// of numbers included. body must be an object, and its meta, where present, as well; the
// result never shares memory with it.
func Splice(body []byte, o SpliceOptions) ([]byte, error) {
	t := Borrow()
	defer t.Release()
	if err := t.parseStored(body); err != nil {
		return nil, err
	}
	return t.splice(&t.edits, o)
}

// Splice is the function of that name for a body that is parsed already.
func (t *Tree) Splice(o SpliceOptions) ([]byte, error) { return t.splice(new(edits), o) }

func (t *Tree) splice(e *edits, o SpliceOptions) ([]byte, error) {
	root := t.Root()
	if t.Kind(root) != Object {
		return nil, errors.New("splice: the document is no object")
	}
	e.begin(t)
	if o.ID != "" {
		e.set(root, "id", e.quote(o.ID), "resourceType")
	}
	var members [2]member
	n := 0
	if o.VersionID != "" {
		members[n] = member{"versionId", e.quote(o.VersionID)}
		n++
	}
	if !o.LastUpdated.IsZero() {
		members[n] = member{"lastUpdated", e.instant(o.LastUpdated)}
		n++
	}
	if err := e.meta(root, members[:n], o.KeepMeta); err != nil {
		return nil, err
	}
	return e.apply(), nil
}

// SetString gives body with the top-level member key set to a string: replaced, or added at
// the end where it is missing. Every other byte stays as it is.
func SetString(body []byte, key, value string) ([]byte, error) {
	t := Borrow()
	defer t.Release()
	if err := t.parseStored(body); err != nil {
		return nil, err
	}
	root := t.Root()
	if t.Kind(root) != Object {
		return nil, errors.New("set member: the document is no object")
	}
	e := &t.edits
	e.begin(t)
	last := ""
	for m := t.First(root); m != 0; m = t.Next(m) {
		last = t.Key(m)
	}
	e.set(root, key, e.quote(value), last)
	return e.apply(), nil
}

// storedDepth is beyond every limit that a body passed on its way in, whatever it was then.
const storedDepth = 10000

func (t *Tree) parseStored(body []byte) error {
	return t.Parse(body, Limits{Depth: storedDepth, Bytes: math.MaxInt})
}

type member struct {
	key  string
	text []byte
}

// edit replaces text[from:to]. Edits that meet in one place keep the order of their making.
type edit struct {
	from, to uint32
	text     []byte
}

// edits collects what is to be replaced. One that is used again keeps its memory.
type edits struct {
	t    *Tree
	list []edit
	buf  []byte // where the texts are put together; what stands there is not written again
}

func (e *edits) begin(t *Tree) {
	if e.buf == nil {
		e.list, e.buf = make([]edit, 0, 4), make([]byte, 0, 256) // what a usual Splice needs
	}
	e.t, e.list, e.buf = t, e.list[:0], e.buf[:0]
}

// join puts a text together.
func (e *edits) join(parts ...[]byte) []byte {
	from := len(e.buf)
	for _, p := range parts {
		e.buf = append(e.buf, p...)
	}
	return e.buf[from:len(e.buf):len(e.buf)]
}

// quote writes a JSON string.
func (e *edits) quote(s string) []byte {
	from := len(e.buf)
	if needsEscape(s) {
		b, err := json.Marshal(s)
		if err != nil {
			panic("json: " + err.Error()) // a string always has a JSON form
		}
		e.buf = append(e.buf, b...)
	} else {
		e.buf = append(append(append(e.buf, '"'), s...), '"')
	}
	return e.buf[from:len(e.buf):len(e.buf)]
}

// needsEscape reports whether encoding/json may write a string in another way than as it is.
func needsEscape(s string) bool {
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\', '<', '>', '&':
			return true
		default:
			if c < ' ' || c > '~' {
				return true
			}
		}
	}
	return false
}

// instant writes a time as a JSON string of FHIR's instant, in UTC with milliseconds.
func (e *edits) instant(t time.Time) []byte {
	from := len(e.buf)
	e.buf = t.UTC().AppendFormat(e.buf, `"2006-01-02T15:04:05.000Z"`)
	return e.buf[from:len(e.buf):len(e.buf)]
}

func (e *edits) replace(n Node, text []byte) {
	p := e.t.at(n)
	e.list = append(e.list, edit{p.start, p.end, text})
}

// set replaces the member key of the object n or adds it: behind the member after, and where
// there is none of that name, at the front.
func (e *edits) set(n Node, key string, text []byte, after string) {
	if m := e.t.Get(n, key); m != 0 {
		e.replace(m, text)
		return
	}
	name := e.quote(key)
	if a := e.t.Get(n, after); a != 0 {
		end := e.t.at(a).end
		e.list = append(e.list, edit{end, end, e.join([]byte{','}, name, []byte{':'}, text)})
		return
	}
	e.prepend(n, e.join(name, []byte{':'}, text))
}

func (e *edits) prepend(n Node, text []byte) {
	if e.t.First(n) != 0 {
		text = e.join(text, []byte{','})
	}
	at := e.t.at(n).start + 1
	e.list = append(e.list, edit{at, at, text})
}

// meta sets members of the resource's meta.
func (e *edits) meta(root Node, members []member, keep bool) error {
	n := e.t.Get(root, "meta")
	if n != 0 && e.t.Kind(n) != Object {
		return errors.New("splice: meta is no object")
	}
	var missing []byte
	for _, m := range members {
		switch at := e.t.Get(n, m.key); {
		case at == 0 && missing == nil:
			missing = e.join(e.quote(m.key), []byte{':'}, m.text)
		case at == 0:
			missing = e.join(missing, []byte{','}, e.quote(m.key), []byte{':'}, m.text)
		case !keep:
			e.replace(at, m.text)
		}
	}
	switch {
	case missing == nil:
	case n != 0:
		e.prepend(n, missing)
	default:
		e.addMeta(root, e.join([]byte{'{'}, missing, []byte{'}'}))
	}
	return nil
}

// addMeta puts a new meta behind the id, as is custom: behind the one in the body, or behind
// the one that is being added in the same place.
func (e *edits) addMeta(root Node, text []byte) {
	after := "id"
	if e.t.Get(root, "id") == 0 {
		after = "resourceType"
	}
	if e.t.Get(root, after) == 0 && len(e.list) > 0 {
		// Both go to the front of the object: the id has written the comma, if one is needed.
		id := &e.list[len(e.list)-1]
		if e.t.First(root) != 0 {
			id.text = e.join(id.text[:len(id.text)-1], []byte(`,"meta":`), text, []byte{','})
		} else {
			id.text = e.join(id.text, []byte(`,"meta":`), text)
		}
		return
	}
	e.set(root, "meta", text, after)
}

func (e *edits) apply() []byte {
	slices.SortStableFunc(e.list, func(a, b edit) int { return int(a.from) - int(b.from) })
	size := len(e.t.text)
	for _, d := range e.list {
		size += len(d.text) - int(d.to-d.from)
	}
	out, at := make([]byte, 0, size), uint32(0)
	for _, d := range e.list {
		out = append(append(out, e.t.text[at:d.from]...), d.text...)
		at = d.to
	}
	return append(out, e.t.text[at:]...)
}
