package search

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// bundled is a resource in a Bundle, and the URL that the Bundle knows it by.
type bundled struct {
	url  []byte
	node json.Node
}

// inBundle finds the resource that a reference leads to among those of the Bundle that r stands
// in (R4 and R5, Bundle, "Resolving references in Bundles"): the one whose fullUrl is the
// reference or, for a relative one, the reference behind the base of r's own fullUrl. What is
// not there is looked for elsewhere.
func (r *Resource) inBundle(ref []byte) (to destination, found bool) {
	if r.bundle == nil || len(ref) == 0 || ref[0] == '#' {
		return to, false
	}
	if i := bytes.Index(ref, []byte("/_history/")); i >= 0 {
		ref = ref[:i]
	}
	if bytes.IndexByte(ref, ':') < 0 { // relative
		base := baseOf(r.bundle.urlOf(r.entry))
		if base == nil {
			return to, false
		}
		ref = slices.Concat(base, ref)
	}
	n := r.bundle.entryOf(ref)
	if n == 0 {
		return to, false
	}
	return destination{typ: r.bundle.str(n, nameTypeName), outer: r.bundle, node: n}, true
}

// baseOf is what precedes Type/id in the URL of a resource; nil for a urn.
func baseOf(url []byte) []byte {
	if !bytes.Contains(url, []byte("://")) {
		return nil
	}
	id := bytes.LastIndexByte(url, '/')
	return url[:bytes.LastIndexByte(url[:max(0, id)], '/')+1]
}

// readEntries lists what a Bundle holds, in its order and by URL, once: a body may have a
// hundred thousand entries, and as many references between them.
func (r *Resource) readEntries() {
	if r.entriesRead {
		return
	}
	r.entriesRead = true
	for e := r.tree.First(r.tree.Find(r.tree.Root(), nameEntry)); e != 0; e = r.tree.Next(e) {
		if n := r.tree.Find(e, nameResource); n != 0 {
			r.entries = append(r.entries, bundled{r.str(e, nameFullURL), n})
		}
	}
	r.entriesByURL = append(r.entriesByURL, r.entries...)
	// Of several with one URL the first counts.
	slices.SortStableFunc(r.entriesByURL, func(a, b bundled) int { return bytes.Compare(a.url, b.url) })
}

// urlOf is the fullUrl of a resource in the Bundle r.
func (r *Resource) urlOf(n json.Node) []byte {
	r.readEntries()
	// Nodes have the order of the document.
	i, ok := slices.BinarySearchFunc(r.entries, n, func(b bundled, n json.Node) int { return cmp.Compare(b.node, n) })
	if !ok {
		return nil
	}
	return r.entries[i].url
}

// entryOf is the resource of a fullUrl in the Bundle r; no node if there is none.
func (r *Resource) entryOf(url []byte) json.Node {
	r.readEntries()
	i, ok := slices.BinarySearchFunc(r.entriesByURL, url, func(b bundled, url []byte) int { return bytes.Compare(b.url, url) })
	if !ok {
		return 0
	}
	return r.entriesByURL[i].node
}

var (
	nameEntry    = json.NewName("entry")
	nameFullURL  = json.NewName("fullUrl")
	nameResource = json.NewName("resource")
)
