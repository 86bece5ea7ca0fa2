package fhirpath

import (
	"encoding/binary"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// uniques finds out which items of a growing collection are there already. The collection lies
// in the arena from at on. A few items are compared one by one, many are found by a hash: a
// Questionnaire has thousands of linkIds, and comparing each with each would cost too much.
type uniques struct {
	at, count int32
	hashed    int32 // how many of the items are in the table
	hashes    []uint64
	loose     []int32 // places of items that may be equal to one of another hash
	slots     []int32 // open addressing: 1 + place, 0 is free
}

const fewItems = 16

// beginUniques takes a set of scratch for a collection that begins at the end of the arena.
// Sets are nested as the expressions are, and given back in turn.
func (m *Evaluator) beginUniques() *uniques {
	if m.sets == len(m.uniques) {
		m.uniques = append(m.uniques, new(uniques))
	}
	u := m.uniques[m.sets]
	m.sets++
	u.at, u.count, u.hashed, u.hashes, u.loose, u.slots = m.top(), 0, 0, u.hashes[:0], u.loose[:0], u.slots[:0]
	return u
}

func (m *Evaluator) endUniques() { m.sets-- }

// add reports whether an item is a new one, which then must be the next of the collection.
func (m *Evaluator) add(u *uniques, v *Value) bool {
	if u.count < fewItems {
		if m.has(span{u.at, u.at + u.count}, v) || m.err != nil {
			return false
		}
		u.count++
		return true
	}
	m.rehash(u)
	h, exact := m.hash(v)
	if m.known(u, v, h, exact) || m.err != nil {
		return false
	}
	m.note(u, h, exact)
	u.count++
	return true
}

// known looks where an equal item would be.
func (m *Evaluator) known(u *uniques, v *Value, h uint64, exact bool) bool {
	if !exact {
		return m.has(span{u.at, u.at + u.count}, v)
	}
	mask := uint64(len(u.slots) - 1)
	for i := h & mask; u.slots[i] != 0; i = (i + 1) & mask {
		if !m.spend(1) {
			return false
		}
		if place := u.slots[i] - 1; u.hashes[place] == h && m.equal(&m.items[u.at+place], v) == yes {
			return true
		}
	}
	for _, place := range u.loose {
		if m.equal(&m.items[u.at+place], v) == yes {
			return true
		}
	}
	return false
}

// rehash puts the items into the table that are not, and keeps it at most half full.
func (m *Evaluator) rehash(u *uniques) {
	if 2*int(u.count+1) > len(u.slots) || u.hashed == 0 {
		size := 4 * fewItems // and never what an evaluation before has left: its steps would differ
		for size < 4*int(u.count+1) {
			size *= 2
		}
		if !m.spend(size / stride) {
			return
		}
		if cap(u.slots) < size {
			u.slots = make([]int32, size)
		}
		u.slots = u.slots[:size]
		clear(u.slots)
		m.refill(u)
	}
	for u.hashed < u.count {
		h, exact := m.hash(&m.items[u.at+u.hashed])
		m.note(u, h, exact)
	}
}

func (m *Evaluator) refill(u *uniques) {
	hashes, loose := u.hashes, u.loose
	u.hashed, u.hashes = 0, hashes[:0]
	for place := range hashes {
		if len(loose) > 0 && loose[0] == int32(place) {
			loose = loose[1:]
			u.hashes, u.hashed = append(u.hashes, 0), u.hashed+1
			continue
		}
		u.insert(hashes[place])
	}
}

// note puts the next item into the table.
func (m *Evaluator) note(u *uniques, h uint64, exact bool) {
	if exact {
		u.insert(h)
		return
	}
	u.loose = append(u.loose, u.hashed)
	u.hashes = append(u.hashes, 0)
	u.hashed++
}

func (u *uniques) insert(h uint64) {
	mask := uint64(len(u.slots) - 1)
	i := h & mask
	for u.slots[i] != 0 {
		i = (i + 1) & mask
	}
	u.hashed++
	u.hashes = append(u.hashes, h)
	u.slots[i] = u.hashed
}

// FNV-1a, which does for a table whose work is counted.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func hashBytes(h uint64, s []byte) uint64 {
	for _, c := range s {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return h
}

func hashNumber(h, n uint64) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	return hashBytes(h, b[:])
}

// hash is equal for items that are equal. exact is false for an item that may be equal to one
// with another hash: quantities, dates, and what is not what its type says.
func (m *Evaluator) hash(v *Value) (h uint64, exact bool) {
	if v.isQuantity() || v.kind == kindReferred {
		return 0, false
	}
	if v.kind == kindNode && (v.prim == kindNone || v.node == 0) {
		n := v.node
		if n == 0 {
			n = v.ext
		}
		if v.tree.Kind(n) != json.Object {
			return 0, false
		}
		return m.hashJSON(v.tree, n), true
	}
	sys, ok := m.value(v)
	if !ok {
		return 0, false
	}
	switch sys.kind {
	case kindString:
		m.spend(len(sys.text) / stride)
		return hashBytes(fnvOffset, sys.text), true
	case kindInteger, kindDecimal:
		return hashDecimal(sys.decimal()), true
	case kindBoolean:
		return hashNumber(fnvOffset, uint64(sys.num)), true
	}
	return 0, false
}

// hashDecimal is equal for numbers of equal value, whatever zeros they have.
func hashDecimal(d decimal) uint64 {
	if d.big != nil {
		r := new(apd.Decimal)
		r.Reduce(d.big)
		d, _ = small(r)
		if d.big != nil {
			return fnvOffset
		}
	}
	for d.coef != 0 && d.coef%10 == 0 {
		d.coef, d.scale = d.coef/10, d.scale-1
	}
	if d.coef == 0 {
		d.scale = 0
	}
	return hashNumber(hashNumber(fnvOffset, uint64(d.coef)), uint64(d.scale))
}

// hashJSON does not depend on the order of members.
func (m *Evaluator) hashJSON(t *json.Tree, n json.Node) uint64 {
	if !m.spend(1) {
		return 0
	}
	k := t.Kind(n)
	h := hashNumber(fnvOffset, uint64(k))
	switch k {
	case json.String:
		return hashBytes(h, m.text(t, n))
	case json.Number:
		if d, ok := parseDecimal(t.Raw(n)); ok {
			return h ^ hashDecimal(d)
		}
		return hashBytes(h, t.Raw(n))
	case json.Array:
		for c := t.First(n); c != 0; c = t.Next(c) {
			h = hashNumber(h, m.hashJSON(t, c))
		}
	case json.Object:
		for c := t.First(n); c != 0; c = t.Next(c) {
			h += hashNumber(hashBytes(fnvOffset, t.KeyText(c)), m.hashJSON(t, c))
		}
	}
	return h
}
