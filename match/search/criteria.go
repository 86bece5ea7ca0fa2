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
	any         bool         // every type but Subscription
	repository  bool         // one of the conditions is linked
	types       []*typeDef   // sorted by name; one if there are conditions
	conditions  []*condition // shared with other criteria
	// What is asked together lies together: a criteria that is asked once in a thousand events
	// is in no cache, and each piece of memory is waited for.
	room [2]*condition // of conditions, where it is enough
	own  condition     // one that was not shared when it was compiled; without source if there is none
}

// condition is one parameter of a criteria. It holds if one of its values is met, and with
// negate, if none is. What every evaluation looks at comes first, and a single token or reference
// lies in it: most criteria that an event finds have one, and are in no cache.
type condition struct {
	param    *param
	negate   bool
	missing  bool // :missing, with wantMissing
	wanted   bool
	view     view    // how the elements are read
	lookup   *lookup // what values are found by; nil: they are few; see prepare
	modifier string

	// Of these and those of wants one is filled, by the kind of the parameter and the modifier.
	tokens     []wantToken
	references []wantReference
	*wants     // never nil

	token     [1]wantToken     // of tokens, where it is enough
	reference [1]wantReference // of references, where it is enough
	source    string           // as its author wrote it
	text      string           // the same for all conditions of equal meaning
}

// wants is what a condition asks for that is neither tokens nor references.
type wants struct {
	texts   []wantText
	starts  *prefixes // of texts; see prepare
	spans   []wantSpan
	amounts []wantAmount
	uris    []wantURI
	tuples  []wantTuple // of a composite
	extra   *extra
	linked  linked      // of a condition on other resources
	filter  *filterTree // of _filter
}

// nothingElse is the wants of all conditions on tokens and references. It is not changed.
var nothingElse = &wants{}

// none reports whether nothing is filled.
func (w *wants) none() bool {
	return len(w.texts)+len(w.spans)+len(w.amounts)+len(w.uris)+len(w.tuples) == 0 &&
		w.starts == nil && w.extra == nil && w.linked == nil && w.filter == nil
}

// String is the criteria as it was written.
func (c *Criteria) String() string { return c.source }

// Canonical is the same text for all criteria of equal meaning, as far as their writing tells:
// the order of parameters and of values, encodings, repeated values, result parameters and the
// server's own base URLs are levelled. Whoever shares an evaluation shares it by this text. It is
// made anew at each call: a criteria lives long, and its text is asked for once or twice.
func (c *Criteria) Canonical() string {
	switch {
	case c.any:
		return "[*]"
	case len(c.types) > 1:
		return "[" + strings.Join(c.Types(), ",") + "]"
	case len(c.conditions) == 0:
		return c.types[0].name
	}
	texts := make([]string, len(c.conditions))
	for i := range c.conditions {
		texts[i] = c.conditions[i].text
	}
	slices.Sort(texts)
	return c.types[0].name + "?" + strings.Join(texts, "&")
}

// AnyType reports whether the criteria is [*]: every resource type except Subscription, and except the
// AuditEvents that this server itself writes (Resource.OwnAffair).
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
// It is ErrNotEvaluable where the expression of a SearchParameter fails on the resource. Of a
// criteria that asks for other resources it may also be an *Unavailable, or wrap ErrUnanswered.
func (c *Criteria) Decide(r *Resource) (met bool, err error) {
	if !c.hasType(r) {
		return false, nil
	}
	// Other resources are asked for only where all that is at hand allows it.
	for _, linked := range [2]bool{false, true} {
		if linked && !c.repository {
			break
		}
		r.others.begin()
		for i := range c.conditions {
			x := c.conditions[i]
			if x.elsewhere() != linked {
				continue
			}
			met, ok := x.met(r, c.share())
			switch {
			case !ok: // one that is not met still decides, so that the order of conditions does not
				err = worse(err, r.undecided())
			case !met:
				return false, nil
			}
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
		return !r.OwnAffair()
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
	switch {
	case c.linked != nil:
		return c.metElsewhere(r, steps)
	case c.filter != nil:
		return c.metFilter(r, steps)
	}
	s := r.valuesAs(c.param, c.view)
	if s.fault {
		return r.fails(steps)
	}
	if c.missing {
		return s.present != c.wanted, true
	}
	r.spent, r.limit = 0, steps
	hit := c.hit(r, s)
	ok = r.spent <= r.limit
	return ok && hit != c.negate, ok
}

func (c *condition) hit(r *Resource, s *slot) bool {
	if c.extra != nil || c.view != viewElement {
		return c.hitExtra(r, s)
	}
	switch c.param.kind {
	case kindToken:
		return some(r, c.lookup, c.tokens, r.tokens[s.from:s.to], (*Resource).tokenKey, (*wantToken).match)
	case kindString:
		return c.hitText(r, r.texts[s.from:s.to])
	case kindReference:
		values := r.references[s.from:s.to]
		if c.modifier == "identifier" {
			return some(r, c.lookup, c.tokens, values, (*Resource).identifierKey, (*wantToken).matchIdentifier)
		}
		return some(r, c.lookup, c.references, values, (*Resource).referenceKey, (*wantReference).match)
	case kindDate:
		return someInOrder(r, c.spans, r.spans[s.from:s.to], (*wantSpan).match, spanCost)
	case kindURI:
		if c.modifier != "" {
			return c.hitPartOfURI(r, r.uris[s.from:s.to])
		}
		return some(r, c.lookup, c.uris, r.uris[s.from:s.to], (*Resource).uriKey, (*wantURI).match)
	case kindComposite:
		return c.hitTuple(r, s)
	}
	return c.hitAmounts(r, r.amounts[s.from:s.to])
}

func (c *condition) hitText(r *Resource, values []text) bool {
	switch c.modifier {
	case "exact":
		return some(r, c.lookup, c.texts, values, (*Resource).textKey, (*wantText).equals)
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

// keep takes a condition over that is complete: a shared one that is equal, or else it is moved
// to where it lies well.
func (c *Criteria) keep(cond *condition, t *typeDef) {
	if c.own.source == "" {
		c.own = *cond
		cond = &c.own
	}
	if len(cond.tokens) == 1 {
		cond.token[0] = cond.tokens[0]
		cond.tokens = cond.token[:]
	}
	if len(cond.references) == 1 {
		cond.reference[0] = cond.references[0]
		cond.references = cond.reference[:]
	}
	if cond.none() {
		cond.wants = nothingElse
	}
	kept := c.definitions.pool.share(c.definitions, t, cond)
	if kept != cond && cond == &c.own {
		c.own = condition{}
	}
	c.conditions = append(c.conditions, kept)
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
		r.others.begin()
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
	switch {
	case c.linked != nil:
		return c.explainElsewhere(r, steps)
	case c.filter != nil:
		return c.explainFilter(r, steps)
	}
	met, ok := c.met(r, steps)
	s := r.valuesAs(c.param, c.view)
	out := Condition{Text: c.source, Met: met, Found: c.found(r, s)}
	if met {
		return out
	}
	switch {
	case !ok:
		out.Note = r.undecided().Error()
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
	if c.param.kind == kindComposite {
		return c.foundTuples(r, s)
	}
	var out []string
	if c.view != viewElement {
		return c.foundAs(r, s)
	}
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
