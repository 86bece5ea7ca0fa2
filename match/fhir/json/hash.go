package json

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
)

// ContentHash is equal for resources of equal meaning: white space, the order of members and
// the way strings are escaped do not count; the order of items, the text of numbers (1.0 and
// 1 differ in precision) and everything else does, id and resourceType included. Left out are
// meta.versionId and meta.lastUpdated, which the server sets, and a meta that holds nothing
// else is taken as absent. The server fills those in on its own, so a body that comes back
// with them means what it meant before.
//
// It is the first half of the SHA-256 of a canonical form, and the same in every process and
// every version of Carillon, since projections on different nodes are compared by it. The
// canonical form is, value by value: a byte for the kind; for strings and numbers the length
// as a varint and the unescaped text; for arrays the items and an end mark; for objects the
// members sorted by the bytes of their unescaped keys, each as a member mark, length, key and
// value, and an end mark. No two trees share one form.
func ContentHash(t *Tree) [16]byte {
	h := hashers.Get().(*hasher)
	h.t = t
	h.value(t.Root(), resource)
	sum := sha256.Sum256(h.buf)
	h.release()
	return [16]byte(sum[:16])
}

// hashers holds the memory of hashes that were made, as trees does that of trees.
var hashers = sync.Pool{New: func() any { return new(hasher) }}

// keptForm bounds the memory that a hasher brings back.
const keptForm = 64 << 10

func (h *hasher) release() {
	if cap(h.buf) > keptForm || cap(h.order) > keptNodes {
		return
	}
	h.t, h.buf, h.order = nil, h.buf[:0], h.order[:0]
	hashers.Put(h)
}

// place says which members of an object are left out.
type place uint8

const (
	elsewhere place = iota
	resource
	meta
)

// The marks are no kinds, so that what follows a value can always be told from another value.
const (
	memberMark = 0xFE
	endMark    = 0xFF
)

type hasher struct {
	t     *Tree
	buf   []byte
	order []Node // a stack: each open object's members in canonical order
}

func (h *hasher) value(n Node, in place) {
	k := h.t.Kind(n)
	h.buf = append(h.buf, byte(k))
	switch k {
	case String:
		h.text(h.t.Text(n))
	case Number:
		h.text(h.t.Raw(n))
	case Array:
		for c := h.t.First(n); c != 0; c = h.t.Next(c) {
			h.value(c, elsewhere)
		}
		h.buf = append(h.buf, endMark)
	case Object:
		h.object(n, in)
	}
}

func (h *hasher) object(n Node, in place) {
	base := len(h.order)
	for c := h.t.First(n); c != 0; c = h.t.Next(c) {
		if !h.leftOut(c, in) {
			h.order = append(h.order, c)
		}
	}
	members := h.order[base:]
	slices.SortFunc(members, func(a, b Node) int {
		return bytes.Compare(h.t.keyText(h.t.at(a)), h.t.keyText(h.t.at(b)))
	})
	for i := range members {
		m := h.order[base+i] // by index: a deeper object may have moved the stack
		key := h.t.keyText(h.t.at(m))
		h.buf = append(h.buf, memberMark)
		h.text(key)
		if in == resource && string(key) == "meta" {
			h.value(m, meta)
		} else {
			h.value(m, elsewhere)
		}
	}
	h.order = h.order[:base]
	h.buf = append(h.buf, endMark)
}

// leftOut reports whether a member is none of the resource's meaning.
func (h *hasher) leftOut(m Node, in place) bool {
	switch key := h.t.keyText(h.t.at(m)); {
	case in == meta:
		return string(key) == "versionId" || string(key) == "lastUpdated"
	case in == resource && string(key) == "meta" && h.t.Kind(m) == Object:
		for c := h.t.First(m); c != 0; c = h.t.Next(c) {
			if !h.leftOut(c, meta) {
				return false
			}
		}
		return true
	}
	return false
}

func (h *hasher) text(s []byte) {
	h.buf = binary.AppendUvarint(h.buf, uint64(len(s)))
	h.buf = append(h.buf, s...)
}
