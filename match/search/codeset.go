package search

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
)

// codeSet is a set of codes of several systems. It never changes once it is made, and is
// shared by all criteria that name the same value set.
type codeSet struct {
	systems map[string]*codes
	order   []string // the systems, sorted
	digest  string   // the same for equal sets
}

// codes are those of one system: the listed ones, or with all, every one but the listed.
type codes struct {
	exact  bool // the code system says that case counts; else codes are kept folded
	all    bool
	listed map[string]struct{}
}

func (c *codes) key(scratch, code []byte) []byte {
	if c.exact {
		return code
	}
	return foldKey(scratch, code)
}

func (c *codes) has(key []byte) bool {
	_, listed := c.listed[string(key)]
	return listed != c.all
}

// union, without and common combine two sets of codes of one system.
func (c *codes) union(o *codes) *codes {
	switch {
	case c.all && o.all:
		return c.with(true, func(k string) bool { return isIn(o.listed, k) })
	case c.all:
		return c.with(true, func(k string) bool { return !isIn(o.listed, k) })
	case o.all:
		return o.union(c)
	}
	out := &codes{exact: c.exact, listed: maps.Clone(c.listed)}
	maps.Copy(out.listed, o.listed)
	return out
}

// take is union for a set that is nobody else's yet: it changes c where it can.
func (c *codes) take(o *codes) *codes {
	if c.all || o.all {
		return c.union(o)
	}
	maps.Copy(c.listed, o.listed)
	return c
}

func (c *codes) common(o *codes) *codes { return c.not().union(o.not()).not() }

func (c *codes) without(o *codes) *codes { return c.common(o.not()) }

func (c *codes) not() *codes { return &codes{c.exact, !c.all, c.listed} }

func (c *codes) with(all bool, keep func(string) bool) *codes {
	out := &codes{exact: c.exact, all: all, listed: map[string]struct{}{}}
	for k := range c.listed {
		if keep(k) {
			out.listed[k] = struct{}{}
		}
	}
	return out
}

func isIn(m map[string]struct{}, k string) bool {
	_, ok := m[k]
	return ok
}

// seal makes a set ready to be shared.
func seal(systems map[string]*codes) *codeSet {
	s := &codeSet{systems: systems, order: slices.Sorted(maps.Keys(systems))}
	h := sha256.New()
	for _, name := range s.order {
		c := systems[name]
		h.Write([]byte{'\n', flag(c.exact), flag(c.all)})
		h.Write([]byte(name))
		for _, k := range slices.Sorted(maps.Keys(c.listed)) {
			h.Write([]byte{0})
			h.Write([]byte(k))
		}
	}
	s.digest = hex.EncodeToString(h.Sum(nil)[:16])
	return s
}

func flag(b bool) byte {
	if b {
		return '1'
	}
	return '0'
}

// size counts the codes that are listed.
func (s *codeSet) size() int {
	n := 0
	for _, c := range s.systems {
		n += len(c.listed)
	}
	return n
}

// appendCodes lists the set's codes for an index; nil if they cannot be listed, or if they are
// too many to be posted.
func (s *codeSet) appendCodes(out []string) []string {
	if len(out)+s.size() > maxPosted {
		return nil
	}
	for _, name := range s.order {
		c := s.systems[name]
		if c.all {
			return nil
		}
		out = slices.AppendSeq(out, maps.Keys(c.listed))
	}
	return out
}

// inSets decides :in, :not-in, :above and :below.
func (c *condition) inSets(r *Resource, values []token) bool {
	for i := range values {
		for _, s := range c.extra.sets {
			if !r.spend(1 + len(values[i].code)/stride + len(s.order)) {
				return false
			}
			if s.matches(r, &values[i]) {
				return true
			}
		}
	}
	return false
}

// matches reports whether the set has a value's code. A code element does not name its system:
// of it the code alone is compared, as for a search without a modifier.
func (s *codeSet) matches(r *Resource, v *token) bool {
	if v.code == nil {
		return false
	}
	switch v.form {
	case tokenSystem:
		c := s.systems[string(v.system)]
		return c != nil && v.system != nil && s.keyed(r, c, v.code)
	case tokenImplied:
		for _, name := range s.order {
			if s.keyed(r, s.systems[name], v.code) {
				return true
			}
		}
	}
	return false
}

func (s *codeSet) keyed(r *Resource, c *codes, code []byte) bool {
	key := code
	if !c.exact {
		key = r.folding(code)
	}
	return c.has(key)
}
