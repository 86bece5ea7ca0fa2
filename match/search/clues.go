package search

import "github.com/carillon-fhir/carillon/match/fhir"

// Clue names resources that an index can find, one of which a resource must be to meet a
// criteria. Of its fields one is filled.
type Clue struct {
	IDs         []fhir.ID         // the resource has one of these ids
	Identifiers []IdentifierToken // one of its top-level identifiers has this value, without regard to case
	// Targets are resources: it has a Reference to one with this type and id, on whichever server.
	Targets []fhir.Key
}

// Clues lists what an index can find candidates by: the resources that meet the criteria are among
// those of every clue. A criteria without clues is decided by looking at every resource of its
// type. Whatever is found, Decide decides: an index that finds too much does no harm.
//
// The system of an identifier clue is left out where the criteria names none or says that there is
// none, so an index that knows systems asks for any.
func (c *Criteria) Clues() []Clue {
	var out []Clue
	for i := range c.conditions {
		if clue, ok := c.conditions[i].clue(); ok {
			out = append(out, clue)
		}
	}
	return out
}

func (c *condition) clue() (clue Clue, ok bool) {
	if c.param == nil || c.linked != nil || c.filter != nil || c.view != viewElement || c.negate || c.missing {
		return clue, false
	}
	switch {
	case c.param.code == "_id" && c.param.kind == kindToken && c.modifier == "":
		for _, w := range c.tokens {
			clue.IDs = append(clue.IDs, fhir.ID(w.code))
		}
		return clue, len(clue.IDs) > 0
	case c.param.kind == kindToken && c.modifier == "" && c.param.readsIdentifiers():
		for _, w := range c.tokens {
			if w.scope == systemOnly {
				return clue, false
			}
			clue.Identifiers = append(clue.Identifiers, IdentifierToken{System: w.system, Value: w.code})
		}
		return clue, len(clue.Identifiers) > 0
	case c.param.kind == kindReference && typeModifier(c.modifier) && c.param.readsOnly(leafReference):
		return c.targets()
	}
	return clue, false
}

// typeModifier reports whether a reference is compared by type and id: without a modifier, or with
// one that names a type. Every other modifier begins with a small letter.
func typeModifier(m string) bool { return m == "" || m[0] >= 'A' && m[0] <= 'Z' }

// readsIdentifiers reports whether the parameter reads the top-level identifiers and no more:
// DocumentReference "identifier", for one, reads masterIdentifier as well.
func (p *param) readsIdentifiers() bool {
	return len(p.paths) == 1 && p.paths[0].leaf == leafIdentifier && len(p.paths[0].steps) == 1 &&
		p.paths[0].steps[0].name.String() == "identifier" && p.paths[0].steps[0].filter == filterNone
}

// targets is the clue of a reference condition: none where a value is no type and id, or an id
// alone that may be of any type.
func (c *condition) targets() (clue Clue, ok bool) {
	for i := range c.references {
		w := &c.references[i]
		switch {
		case !w.named(), w.bare && len(c.param.targets) == 0:
			return Clue{}, false
		case w.bare:
			for _, typ := range c.param.targets {
				clue.Targets = append(clue.Targets, fhir.Key{Type: typ, ID: fhir.ID(w.logicalID())})
			}
		default:
			clue.Targets = append(clue.Targets, fhir.Key{Type: w.typeName(), ID: fhir.ID(w.logicalID())})
		}
	}
	return clue, len(clue.Targets) > 0
}

// Links lists the resources of this server that a reference parameter of the resource leads to,
// as its elements have them, some perhaps more than once: for _include (R4 search.html#include). Versions are
// left out, and so are canonicals, which name no id, references elsewhere, and what is contained.
// A name that is no reference parameter of the type gives none.
func (r *Resource) Links(code string) []fhir.Key {
	if r.typ == nil {
		return nil
	}
	p := r.typ.params[code]
	if p == nil || p.kind != kindReference || p.paths == nil {
		return nil
	}
	s := r.values(p)
	var out []fhir.Key
	for i := s.from; i < s.to; i++ {
		if l := &r.references[i]; l.id != nil && l.base == nil && !l.canonical {
			out = append(out, fhir.Key{Type: string(l.typ), ID: fhir.ID(l.id)})
		}
	}
	return out
}
