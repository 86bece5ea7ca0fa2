package node

import (
	"bytes"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

var nameReference = json.NewName("reference")

// references lists what a resource refers to, as Type/id, for the store's index: every string
// member "reference" that ends in Type/id or Type/id/_history/version, wherever it stands,
// contained resources included. Which servers are our own is configuration, and the index must be
// the same on every node and after every change of that; so the server is left out here, and
// whoever uses the index compares it.
func references(t *json.Tree) []string {
	return appendReferences(nil, t, t.Root())
}

func appendReferences(out []string, t *json.Tree, n json.Node) []string {
	for c := t.First(n); c != 0; c = t.Next(c) {
		switch t.Kind(c) {
		case json.Object:
			if r := t.Find(c, nameReference); r != 0 && t.Kind(r) == json.String {
				if target := targetOf(t.Text(r)); target != nil {
					out = append(out, string(target))
				}
			}
			out = appendReferences(out, t, c)
		case json.Array:
			out = appendReferences(out, t, c)
		}
	}
	return out
}

var history = []byte("/_history/")

// targetOf cuts Type/id out of a reference; nil if it has none, as a fragment or a urn.
func targetOf(ref []byte) []byte {
	if i := bytes.LastIndex(ref, history); i >= 0 {
		ref = ref[:i]
	}
	slash := bytes.LastIndexByte(ref, '/')
	if slash < 0 || !fhir.ID(ref[slash+1:]).Valid() {
		return nil
	}
	at := bytes.LastIndexByte(ref[:slash], '/') + 1
	typ := ref[at:slash]
	if len(typ) == 0 || len(typ) > 64 || typ[0] < 'A' || typ[0] > 'Z' {
		return nil
	}
	for _, c := range typ {
		if c|0x20 < 'a' || c|0x20 > 'z' {
			return nil
		}
	}
	return ref[at:]
}
