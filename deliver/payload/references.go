package payload

import (
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// writer writes the ids and references of one document for replication. It goes by the types of
// the model: a member called reference may be a uri (Expression), and a canonical or a url is no
// reference. Inside what the model does not know, an object with a text called reference is taken
// for one.
type writer struct {
	Shape
	model   *model.Model
	t       *json.Tree
	changes *json.Changes
	entries map[string]string // a Bundle's fullUrls that change, and what they become
	err     error             // the first
}

// resource writes one resource. The ids of contained ones are names within the whole and stay.
func (w *writer) resource(n json.Node, named bool) {
	t := w.t
	name := t.Str(t.Get(n, "resourceType"))
	if id := t.Get(n, "id"); named && t.Kind(id) == json.String {
		w.set(id, w.id(fhir.Key{Type: name, ID: fhir.ID(t.Str(id))}))
	}
	if name == "Bundle" && named {
		defer w.bundle(n)()
	}
	w.object(n, w.model.Type(name))
}

func (w *writer) id(k fhir.Key) string {
	to, err := w.Key(k)
	if err != nil && w.err == nil {
		w.err = err
	}
	return string(to.ID)
}

func (w *writer) set(n json.Node, value string) {
	if !w.t.Is(n, value) {
		w.changes.SetString(n, value)
	}
}

// object goes through the members of an object of a type, which is nil if it is not known.
func (w *writer) object(n json.Node, typ *model.Type) {
	t := w.t
	for m := range t.Children(n) {
		key := t.Key(m)
		of := w.member(typ, key)
		if t.Kind(m) != json.Array {
			w.value(m, of, key)
			continue
		}
		for item := range t.Children(m) {
			w.value(item, of, key)
		}
	}
}

func (w *writer) member(typ *model.Type, key string) *model.Type {
	if strings.HasPrefix(key, "_") {
		return w.model.Type("Element") // what a primitive has beside its value
	}
	if typ == nil {
		return nil
	}
	_, of := typ.Member(key)
	return of
}

func (w *writer) value(n json.Node, typ *model.Type, key string) {
	t := w.t
	if t.Kind(n) != json.Object {
		return
	}
	if t.Kind(t.Get(n, "resourceType")) == json.String && (typ == nil || typ.Kind == model.Resource) {
		w.resource(n, key != "contained")
		return
	}
	if ref := t.Get(n, "reference"); t.Kind(ref) == json.String && (typ == nil || typ.Is("Reference")) {
		w.set(ref, w.reference(t.Str(ref)))
	}
	w.object(n, typ)
}

// bundle writes the addresses of a Bundle's entries, and gives what undoes its part of the
// context. An entry whose fullUrl ends in the Type/id of its resource is found by it: the two
// change together, and so do references that name the fullUrl.
func (w *writer) bundle(n json.Node) (done func()) {
	t := w.t
	outer := w.entries
	w.entries = map[string]string{}
	for entry := range t.Children(t.Get(n, "entry")) {
		res, at := t.Get(entry, "resource"), t.Get(entry, "fullUrl")
		key := fhir.Key{Type: t.Str(t.Get(res, "resourceType")), ID: fhir.ID(t.Str(t.Get(res, "id")))}
		if url := t.Str(at); url != "" {
			to := w.stripped(url)
			if base, ok := strings.CutSuffix(to, key.String()); ok && key.ID != "" && (base == "" || strings.HasSuffix(base, "/")) {
				to = base + key.Type + "/" + w.id(key)
			}
			w.entries[url] = to
			w.set(at, to)
		}
		if url := t.Get(t.Get(entry, "request"), "url"); t.Kind(url) == json.String {
			w.set(url, w.reference(t.Str(url)))
		}
	}
	return func() { w.entries = outer }
}

// reference writes the text of a reference. A fragment, a urn, a search, and an absolute one whose base is not
// to be stripped point to what does not move, and stay.
func (w *writer) reference(ref string) string {
	if to, ok := w.entries[ref]; ok {
		return to
	}
	ref = w.stripped(ref)
	typ, rest, ok := strings.Cut(ref, "/")
	if t := w.model.Type(typ); !ok || t == nil || t.Kind != model.Resource || t.Abstract {
		return ref
	}
	end := strings.IndexAny(rest, "/#?|")
	if end < 0 {
		end = len(rest)
	}
	id, tail := rest[:end], rest[end:]
	history := strings.HasPrefix(tail, "/_history/")
	if !fhir.ID(id).Valid() || tail != "" && !history && tail[0] != '#' {
		return ref
	}
	return typ + "/" + w.id(fhir.Key{Type: typ, ID: fhir.ID(id)}) + tail
}

// stripped takes the base URL off that is to be stripped. Scheme and host are the same in capitals.
func (w *writer) stripped(ref string) string {
	base := w.replication.StripBaseURL
	if base == "" || len(ref) <= len(base)+1 || ref[len(base)] != '/' {
		return ref
	}
	host := len(base)
	if i := strings.Index(base, "://"); i >= 0 {
		if slash := strings.IndexByte(base[i+3:], '/'); slash >= 0 {
			host = i + 3 + slash
		}
	}
	if !strings.EqualFold(ref[:host], base[:host]) || ref[host:len(base)] != base[host:] {
		return ref
	}
	return ref[len(base)+1:]
}
