package search

import (
	"bytes"
	"errors"
	"math/bits"
	"slices"
)

// ErrTooCostly means that a criteria could not be decided for a resource within the steps that
// one evaluation may take.
var ErrTooCostly = errors.New("the resource has too many values, or too long ones, for this criteria")

// maxSteps bounds what one criteria may cost one resource: comparisons, weighted by the length
// of what is compared. It is some tenths of a second, and thousands of times what a resource
// of a record needs. Steps are counted rather than timed, so every node decides the same.
const maxSteps = 1 << 24

// spend counts steps of the condition at hand before they are taken, and reports whether they
// may be.
func (r *Resource) spend(steps int) bool {
	if r.spent += steps; r.spent > r.limit {
		return false
	}
	r.work += uint64(steps)
	return true
}

// Work counts the steps of all that was asked of r since it was made, reading included. It
// only grows; a caller that bounds the time of an evaluation knows by it when to look at the
// clock.
func (r *Resource) Work() uint64 { return r.work }

// few wanted values are compared one after the other; more are looked up.
const few = 8

// lookup finds among many wanted values the few that a value of a resource could meet. Whoever
// writes a criteria with a thousand values and whoever writes a resource with a million could
// otherwise together keep a matcher busy for hours.
type lookup struct {
	keyed map[string][]int32 // places of wanted values by their key
	rest  []int32            // of those without a key, which are compared with every value
}

func (l *lookup) add(key []byte, place int) {
	if l.keyed == nil {
		l.keyed = map[string][]int32{}
	}
	if at := l.keyed[string(key)]; !slices.Contains(at, int32(place)) {
		l.keyed[string(key)] = append(at, int32(place))
	}
}

// prepare makes ready what a condition's values are found by.
func (c *condition) prepare() {
	if c.modifier != "exact" && c.modifier != "contains" && len(c.texts) > 0 {
		starts := newPrefixes(c.texts)
		c.starts = &starts
		return
	}
	if len(c.tokens)+len(c.references)+len(c.uris)+len(c.texts)+len(c.extra.identifiers()) <= few {
		return
	}
	c.lookup = &lookup{}
	for i := range c.tokens {
		if c.tokens[i].scope == systemOnly {
			c.lookup.rest = append(c.lookup.rest, int32(i))
			continue
		}
		c.lookup.add(foldKey(nil, []byte(c.tokens[i].code)), i)
	}
	for i := range c.references {
		for _, key := range c.references[i].keys() {
			c.lookup.add(key, i)
		}
	}
	for i := range c.uris { // a uri is found by the whole of it, a canonical by what precedes the version
		c.lookup.add(c.uris[i].raw, i)
		c.lookup.add(c.uris[i].url, i)
	}
	c.prepareExtra()
	if c.modifier == "exact" {
		for i := range c.texts {
			c.lookup.add([]byte(c.texts[i].raw), i)
		}
	}
}

// some reports whether one of the wants is met by one of the values. A want that is looked up
// must have the key of every value that meets it. What a value costs does not depend on the
// order of the wants: criteria of equal meaning must run out of steps at the same resources.
func some[W, V any](r *Resource, l *lookup, wants []W, values []V, key func(*Resource, *V) []byte, match func(*W, *V) bool) bool {
	for i := range values {
		if l == nil {
			if !r.spend(len(wants)) {
				return false
			}
			for k := range wants {
				if match(&wants[k], &values[i]) {
					return true
				}
			}
			continue
		}
		sought := key(r, &values[i])
		found := l.keyed[string(sought)]
		if !r.spend(1 + len(sought)/stride + len(found) + len(l.rest)) {
			return false
		}
		for _, places := range [2][]int32{found, l.rest} {
			for _, k := range places {
				if match(&wants[k], &values[i]) {
					return true
				}
			}
		}
	}
	return false
}

// stride is how many bytes of text count as a step.
const stride = 64

func (r *Resource) tokenKey(v *token) []byte          { return r.folding(v.code) }
func (r *Resource) identifierKey(v *reference) []byte { return r.folding(v.identifier.code) }
func (r *Resource) referenceKey(v *reference) []byte  { return v.key() }
func (r *Resource) uriKey(v *uri) []byte              { return v.url }
func (r *Resource) textKey(v *text) []byte            { return v.raw }

// someInOrder is some for values that are not equal or unequal but greater and less.
func someInOrder[W, V any](r *Resource, wants []W, values []V, match func(*W, *V) bool, cost func(*V) int) bool {
	for i := range values {
		if !r.spend(len(wants) * cost(&values[i])) {
			return false
		}
		for k := range wants {
			if match(&wants[k], &values[i]) {
				return true
			}
		}
	}
	return false
}

func spanCost(*span) int { return 1 }

// prefixes are wanted beginnings of a text, sorted, none of them the beginning of another.
type prefixes struct {
	list [][]byte
	cost int // steps of one search
}

func newPrefixes(wants []wantText) prefixes {
	var all [][]byte
	for i := range wants {
		all = append(all, wants[i].folded)
	}
	slices.SortFunc(all, bytes.Compare)
	p, longest := prefixes{}, 0
	for _, w := range all {
		if n := len(p.list); n > 0 && bytes.HasPrefix(w, p.list[n-1]) {
			continue // met only where the shorter one is
		}
		p.list = append(p.list, w)
		longest = max(longest, len(w))
	}
	p.cost = (1 + bits.Len(uint(len(p.list)))) * (1 + longest/stride)
	return p
}

// begin reports whether s begins with one of the prefixes. Since none begins another, that can
// only be the one that sorts right before s, or is s.
func (p *prefixes) begin(s []byte) bool {
	i, same := slices.BinarySearchFunc(p.list, s, bytes.Compare)
	return same || i > 0 && bytes.HasPrefix(s, p.list[i-1])
}

// startsText decides a string condition without a modifier.
func (c *condition) startsText(r *Resource, values []text) bool {
	for i := range values {
		for rest := values[i].folded; ; {
			if !r.spend(c.starts.cost) {
				return false
			}
			if c.starts.begin(rest) {
				return true
			}
			next := bytes.IndexByte(rest, ' ')
			if !values[i].words || next < 0 {
				break
			}
			rest = rest[next+1:]
		}
	}
	return false
}

// containsText decides :contains.
func (c *condition) containsText(r *Resource, values []text) bool {
	const scanned = 8 // bytes a step: the worst texts are searched no faster
	for i := range values {
		if !r.spend(len(c.texts) * (1 + len(values[i].folded)/scanned)) {
			return false
		}
		for k := range c.texts {
			if bytes.Contains(values[i].folded, c.texts[k].folded) {
				return true
			}
		}
	}
	return false
}
