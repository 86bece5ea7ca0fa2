package search

import (
	"slices"
	"strings"
)

// Criteria is a compiled search criteria: a resource type, or several, and conditions that must
// all hold. It never changes and is shared by goroutines.
type Criteria struct {
	definitions *Definitions
	source      string
	any         bool       // every type but Subscription
	types       []*typeDef // sorted by name; one if there are conditions
	conditions  []condition
	canonical   string
	access      Access
}

// condition is one parameter of a criteria. It holds if one of its values is met, and with
// negate, if none is.
type condition struct {
	param    *param
	modifier string
	source   string // as its author wrote it
	text     string // the same for all conditions of equal meaning
	negate   bool
	missing  bool // :missing, with wantMissing
	wanted   bool

	// Of these one is filled, by the kind of the parameter and the modifier.
	tokens     []wantToken
	texts      []wantText
	references []wantReference
	spans      []wantSpan
	amounts    []wantAmount
	uris       []wantURI
}

// String is the criteria as it was written.
func (c *Criteria) String() string { return c.source }

// Canonical is the same text for all criteria of equal meaning, as far as their writing tells:
// the order of parameters and of values, encodings, repeated values, result parameters and the
// server's own base URLs are levelled. Whoever shares an evaluation shares it by this text.
func (c *Criteria) Canonical() string { return c.canonical }

// AnyType reports whether the criteria is [*]: every resource type except Subscription.
func (c *Criteria) AnyType() bool { return c.any }

// Types lists the resource types that the criteria is about, sorted; nil for AnyType.
func (c *Criteria) Types() []string {
	var out []string
	for _, t := range c.types {
		out = append(out, t.name)
	}
	return out
}

// Match reports whether a resource meets the criteria.
func (c *Criteria) Match(r *Resource) bool {
	if !c.hasType(r) {
		return false
	}
	for i := range c.conditions {
		if !c.conditions[i].met(r) {
			return false
		}
	}
	return true
}

func (c *Criteria) hasType(r *Resource) bool {
	switch {
	case r.typ == nil:
		return false
	case c.any:
		return r.name != "Subscription"
	}
	for _, t := range c.types {
		if t.name == r.name {
			return true
		}
	}
	return false
}

// met decides a condition. Every value of the resource is held against every value that is
// asked for.
func (c *condition) met(r *Resource) bool {
	s := r.values(c.param)
	if c.missing {
		return s.present != c.wanted
	}
	return c.hit(r, s) != c.negate
}

func (c *condition) hit(r *Resource, s *slot) bool {
	switch c.param.kind {
	case kindToken:
		return some(c.tokens, r.tokens[s.from:s.to], (*wantToken).match)
	case kindString:
		for i := s.from; i < s.to; i++ {
			for k := range c.texts {
				if c.texts[k].match(&r.texts[i], c.modifier) {
					return true
				}
			}
		}
		return false
	case kindReference:
		if c.modifier == "identifier" {
			return c.hitIdentifier(r.references[s.from:s.to])
		}
		return some(c.references, r.references[s.from:s.to], (*wantReference).match)
	case kindDate:
		return some(c.spans, r.spans[s.from:s.to], (*wantSpan).match)
	case kindURI:
		return some(c.uris, r.uris[s.from:s.to], (*wantURI).match)
	}
	return some(c.amounts, r.amounts[s.from:s.to], (*wantAmount).match)
}

func (c *condition) hitIdentifier(values []reference) bool {
	for i := range values {
		id := &values[i].identifier
		if id.system == nil && id.code == nil {
			continue
		}
		for k := range c.tokens {
			if c.tokens[k].match(id) {
				return true
			}
		}
	}
	return false
}

// some reports whether one of the wants is met by one of the values.
func some[W, V any](wants []W, values []V, match func(*W, *V) bool) bool {
	for i := range values {
		for k := range wants {
			if match(&wants[k], &values[i]) {
				return true
			}
		}
	}
	return false
}

// Condition is what Explain says about one condition of a criteria.
type Condition struct {
	Text string // as its author wrote it
	Met  bool
	Note string // why it is not met; empty if it is
	// Found lists what the resource has for the parameter, at most twenty values. It is health
	// data: for the answer to an authorised reader, never for a log.
	Found []string
}

// foundLimit bounds Condition.Found.
const foundLimit = 20

// Explain decides each condition by the same code as Match and says what it looked at. The
// first condition is the resource type; a resource of another type has none of the others.
func (c *Criteria) Explain(r *Resource) []Condition {
	first := Condition{Text: c.typeText(), Met: c.hasType(r), Found: []string{r.Type()}}
	if !first.Met {
		first.Note = "the resource is of another type"
		return []Condition{first}
	}
	out := []Condition{first}
	for i := range c.conditions {
		out = append(out, c.conditions[i].explain(r))
	}
	return out
}

func (c *Criteria) typeText() string {
	if c.any {
		return "[*]"
	}
	return strings.Join(c.Types(), ",")
}

func (c *condition) explain(r *Resource) Condition {
	met := c.met(r)
	s := r.values(c.param)
	out := Condition{Text: c.source, Met: met, Found: c.found(r, s)}
	if met {
		return out
	}
	switch {
	case c.missing && c.wanted:
		out.Note = "there is a value in the resource"
	case c.negate:
		out.Note = "a value in the resource is one that is excluded"
	case !s.present:
		out.Note = "no value in the resource"
	case len(out.Found) == 0:
		out.Note = "the resource has the element, but no value that this parameter can compare"
	default:
		out.Note = "no value in the resource meets it"
	}
	return out
}

// found lists the values in a readable form.
func (c *condition) found(r *Resource, s *slot) []string {
	var out []string
	for i := s.from; i < s.to && len(out) < foundLimit; i++ {
		var v string
		switch c.param.kind {
		case kindToken:
			v = r.tokens[i].text()
		case kindString:
			v = string(r.texts[i].raw)
		case kindReference:
			v = string(r.references[i].raw)
			if c.modifier == "identifier" {
				v = r.references[i].identifier.text()
			}
		case kindDate:
			v = string(r.spans[i].raw)
		case kindURI:
			v = string(r.uris[i].raw)
		default:
			v = string(r.amounts[i].raw)
		}
		if v != "" {
			out = append(out, v)
		}
	}
	return slices.Compact(out)
}

func (t *token) text() string {
	if t.system == nil {
		return string(t.code)
	}
	return string(t.system) + "|" + string(t.code)
}
