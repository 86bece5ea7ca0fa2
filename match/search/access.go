package search

import (
	"hash/maphash"
	"slices"
	"strings"
)

// Access is the place where an index keeps a criteria: the equality that fewest resources are
// likely to have. A resource can meet the criteria only if Resource.Tokens(Param) has one of
// Hashes; whether it does, Match decides, for hashes are coarser than values (they leave out
// systems and types, and two values may share one).
//
// Hashes are seeded: they hold within one process and for one Definitions.
type Access struct {
	Param  string   // argument of Resource.Tokens; empty: there is no equality to go by
	Hashes []uint64 // sorted, without repetition; empty if Param is
}

// Access gives the criteria's place in an index. It is the same for all of its Types.
func (c *Criteria) Access() Access { return c.access }

// choose finds the most selective condition.
func (c *Criteria) choose() {
	best := 0
	for i := range c.conditions {
		x := &c.conditions[i]
		if w := x.selectivity(); w > best {
			best = w
			c.access = Access{Param: x.accessName(), Hashes: x.hashes(c.definitions)}
		}
	}
}

// selectivity guesses how few resources share a value of this condition: 0 for a condition
// that is no equality. Many alternatives make it worse.
func (c *condition) selectivity() int {
	if c.negate || c.missing {
		return 0
	}
	if slices.ContainsFunc(c.tokens, func(t wantToken) bool { return t.scope == systemOnly }) {
		return 0 // hashes are of codes
	}
	w := 0
	switch p := c.param; {
	case c.modifier == "identifier":
		w = 850
	case p.kind == kindToken:
		w = tokenSelectivity(p)
	case p.kind == kindReference:
		w = 800
	case p.kind == kindURI:
		w = 700
		if p.code == "_profile" || p.code == "_source" {
			w = 150
		}
	case p.kind == kindString && c.modifier == "exact":
		w = 650
	}
	return max(w-len(c.tokens)-len(c.references)-len(c.uris)-len(c.texts), min(w, 1))
}

func tokenSelectivity(p *param) int {
	switch {
	case p.code == "_id":
		return 2000
	case p.code == "_tag" || p.code == "_security":
		return 100
	case p.reads(leafIdentifier):
		return 900
	case p.reads(leafContactPoint):
		return 850
	case p.code == "category" || p.code == "class":
		return 200
	case p.reads(leafCodeableConcept, leafCoding):
		return 500
	case p.reads(leafString, leafURI, leafID):
		return 400
	case p.reads(leafCode):
		return 50
	}
	return 10
}

func (c *condition) accessName() string {
	switch c.modifier {
	case "identifier", "exact":
		return c.param.code + ":" + c.modifier
	}
	return c.param.code
}

func (c *condition) hashes(d *Definitions) []uint64 {
	var out []uint64
	salt := d.salt(c.accessName())
	for i := range c.tokens {
		out = append(out, d.hash(salt, foldKey(nil, []byte(c.tokens[i].code))))
	}
	for i := range c.references {
		for _, key := range c.references[i].keys(c.param) {
			out = append(out, d.hash(salt, key))
		}
	}
	for i := range c.uris {
		out = append(out, d.hash(salt, c.uris[i].url))
	}
	for i := range c.texts {
		out = append(out, d.hash(salt, []byte(c.texts[i].raw)))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (d *Definitions) salt(name string) uint64 { return maphash.String(d.seed, name) }

func (d *Definitions) hash(salt uint64, key []byte) uint64 {
	return (maphash.Bytes(d.seed, key) ^ salt) * 0x9E3779B97F4A7C15
}

// Tokens gives the hashes of a resource's values for one Access.Param, some perhaps more than
// once. They are void after Reset. A name that the resource's type has no parameter for, and
// one that no Access has, gives none.
func (r *Resource) Tokens(name string) []uint64 {
	if r.typ == nil {
		return nil
	}
	code, modifier, _ := strings.Cut(name, ":")
	p := r.typ.params[code]
	if p == nil || p.paths == nil {
		return nil
	}
	s, from, d := r.values(p), len(r.hashes), r.definitions
	salt := d.salt(name)
	for i := s.from; i < s.to; i++ {
		var key []byte
		switch p.kind {
		case kindToken:
			key = r.folding(r.tokens[i].code)
		case kindReference:
			key = r.references[i].key()
			if modifier == "identifier" {
				key = r.folding(r.references[i].identifier.code)
			}
		case kindURI:
			key = r.uris[i].url
		case kindString:
			key = r.texts[i].raw
		}
		if len(key) > 0 {
			r.hashes = append(r.hashes, d.hash(salt, key))
		}
	}
	return r.hashes[from:len(r.hashes):len(r.hashes)]
}

func (r *Resource) folding(code []byte) []byte {
	r.scratch = foldKey(r.scratch[:0], code)
	return r.scratch
}
