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
	t, err := parseStored(body)
	if err != nil {
		return nil, err
	}
	return t.Splice(o)
}

// Splice is the function of that name for a body that is parsed already.
func (t *Tree) Splice(o SpliceOptions) ([]byte, error) {
	root := t.Root()
	if t.Kind(root) != Object {
		return nil, errors.New("splice: the document is no object")
	}
	e := edits{t: t}
	if o.ID != "" {
		e.set(root, "id", quote(o.ID), "resourceType")
	}
	var members []member
	if o.VersionID != "" {
		members = append(members, member{"versionId", quote(o.VersionID)})
	}
	if !o.LastUpdated.IsZero() {
		members = append(members, member{"lastUpdated", quote(o.LastUpdated.UTC().Format("2006-01-02T15:04:05.000Z"))})
	}
	if err := e.meta(root, members, o.KeepMeta); err != nil {
		return nil, err
	}
	return e.apply(), nil
}

// SetString gives body with the top-level member key set to a string: replaced, or added at
// the end where it is missing. Every other byte stays as it is.
func SetString(body []byte, key, value string) ([]byte, error) {
	t, err := parseStored(body)
	if err != nil {
		return nil, err
	}
	root := t.Root()
	if t.Kind(root) != Object {
		return nil, errors.New("set member: the document is no object")
	}
	e := edits{t: t}
	last := ""
	for m := t.First(root); m != 0; m = t.Next(m) {
		last = t.Key(m)
	}
	e.set(root, key, quote(value), last)
	return e.apply(), nil
}

// storedDepth is beyond every limit that a body passed on its way in, whatever it was then.
const storedDepth = 10000

func parseStored(body []byte) (*Tree, error) {
	return Parse(body, Limits{Depth: storedDepth, Bytes: math.MaxInt})
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

type edits struct {
	t    *Tree
	list []edit
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
	text = slices.Concat(quote(key), []byte{':'}, text)
	if a := e.t.Get(n, after); a != 0 {
		end := e.t.at(a).end
		e.list = append(e.list, edit{end, end, slices.Concat([]byte{','}, text)})
		return
	}
	e.prepend(n, text)
}

func (e *edits) prepend(n Node, text []byte) {
	if e.t.First(n) != 0 {
		text = append(text, ',')
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
		case at == 0:
			if missing != nil {
				missing = append(missing, ',')
			}
			missing = slices.Concat(missing, quote(m.key), []byte{':'}, m.text)
		case !keep:
			e.replace(at, m.text)
		}
	}
	switch {
	case missing == nil:
	case n != 0:
		e.prepend(n, missing)
	default:
		e.addMeta(root, slices.Concat([]byte{'{'}, missing, []byte{'}'}))
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
		comma := e.t.First(root) != 0
		if comma {
			id.text = id.text[:len(id.text)-1]
		}
		id.text = slices.Concat(id.text, []byte(`,"meta":`), text)
		if comma {
			id.text = append(id.text, ',')
		}
		return
	}
	e.set(root, "meta", text, after)
}

func (e *edits) apply() []byte {
	slices.SortStableFunc(e.list, func(a, b edit) int { return int(a.from) - int(b.from) })
	size := len(e.t.text)
	for _, d := range e.list {
		size += len(d.text)
	}
	out, at := make([]byte, 0, size), uint32(0)
	for _, d := range e.list {
		out = append(append(out, e.t.text[at:d.from]...), d.text...)
		at = d.to
	}
	return append(out, e.t.text[at:]...)
}

// quote writes a JSON string.
func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("json: " + err.Error()) // a string always has a JSON form
	}
	return b
}
