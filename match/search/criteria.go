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

	// What values are found by; see prepare.
	lookup lookup
	starts prefixes
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

// Match reports whether a resource meets the criteria. One that cannot be decided does not;
// who has to tell the two apart asks Decide.
func (c *Criteria) Match(r *Resource) bool {
	met, _ := c.Decide(r)
	return met
}

// Decide reports whether a resource meets the criteria. The error is ErrTooCostly where that
// takes more steps than one evaluation has; it is the same on every node. No resource that is
// somebody's record comes near it: it takes megabytes of values and hundreds of wanted ones.
func (c *Criteria) Decide(r *Resource) (met bool, err error) {
	if !c.hasType(r) {
		return false, nil
	}
	for i := range c.conditions {
		met, ok := c.conditions[i].met(r, c.share())
		switch {
		case !ok: // one that is not met still decides, so that the order of conditions does not
			err = ErrTooCostly
		case !met:
			return false, nil
		}
	}
	return err == nil, err
}

// share is the steps that each condition has.
func (c *Criteria) share() int { return maxSteps / max(1, len(c.conditions)) }

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

// met decides a condition; ok is false if that takes more steps than there are. Every value
// of the resource is held against every value that is asked for.
func (c *condition) met(r *Resource, steps int) (met, ok bool) {
	s := r.values(c.param)
	if c.missing {
		return s.present != c.wanted, true
	}
	r.spent, r.limit = 0, steps
	hit := c.hit(r, s)
	ok = r.spent <= r.limit
	return ok && hit != c.negate, ok
}

func (c *condition) hit(r *Resource, s *slot) bool {
	switch c.param.kind {
	case kindToken:
		return some(r, &c.lookup, c.tokens, r.tokens[s.from:s.to], (*Resource).tokenKey, (*wantToken).match)
	case kindString:
		return c.hitText(r, r.texts[s.from:s.to])
	case kindReference:
		values := r.references[s.from:s.to]
		if c.modifier == "identifier" {
			return some(r, &c.lookup, c.tokens, values, (*Resource).identifierKey, (*wantToken).matchIdentifier)
		}
		return some(r, &c.lookup, c.references, values, (*Resource).referenceKey, (*wantReference).match)
	case kindDate:
		return someInOrder(r, c.spans, r.spans[s.from:s.to], (*wantSpan).match, spanCost)
	case kindURI:
		return some(r, &c.lookup, c.uris, r.uris[s.from:s.to], (*Resource).uriKey, (*wantURI).match)
	}
	return someInOrder(r, c.amounts, r.amounts[s.from:s.to], (*wantAmount).match, amountCost)
}

func (c *condition) hitText(r *Resource, values []text) bool {
	switch c.modifier {
	case "exact":
		return some(r, &c.lookup, c.texts, values, (*Resource).textKey, (*wantText).equals)
	case "contains":
		return c.containsText(r, values)
	}
	return c.startsText(r, values)
}

// matchIdentifier compares the identifier of a reference that has one.
func (w *wantToken) matchIdentifier(v *reference) bool {
	id := &v.identifier
	return (id.system != nil || id.code != nil) && w.match(id)
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
		out = append(out, c.conditions[i].explain(r, c.share()))
	}
	return out
}

func (c *Criteria) typeText() string {
	if c.any {
		return "[*]"
	}
	return strings.Join(c.Types(), ",")
}

func (c *condition) explain(r *Resource, steps int) Condition {
	met, ok := c.met(r, steps)
	s := r.values(c.param)
	out := Condition{Text: c.source, Met: met, Found: c.found(r, s)}
	if met {
		return out
	}
	switch {
	case !ok:
		out.Note = ErrTooCostly.Error()
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
