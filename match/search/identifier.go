package search

import "github.com/carillon-fhir/carillon/match/fhir/json"

// IdentifierToken is one Identifier of a resource. System or Value is empty where the resource
// has none.
type IdentifierToken struct {
	System string
	Value  string
}

// IdentifierTokens lists the identifiers of a resource: its top-level member "identifier",
// which is a list in most types and a single one in some. An index of them serves
// "?identifier=" and conditional writes.
func IdentifierTokens(t *json.Tree) []IdentifierToken {
	n := t.Find(t.Root(), nameIdentifier)
	if t.Kind(n) == json.Object {
		return appendIdentifier(nil, t, n)
	}
	var out []IdentifierToken
	for c := range t.Children(n) {
		out = appendIdentifier(out, t, c)
	}
	return out
}

func appendIdentifier(out []IdentifierToken, t *json.Tree, n json.Node) []IdentifierToken {
	id := IdentifierToken{System: t.Str(t.Find(n, nameSystem)), Value: t.Str(t.Find(n, nameValue))}
	if id == (IdentifierToken{}) {
		return out
	}
	return append(out, id)
}
