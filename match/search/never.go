package search

import (
	"fmt"
	"slices"

	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/ucum"
)

// Never says why no resource can meet the criteria, for a warning to its author; it is empty
// where that cannot be told. What it says is certain, and much that can never match is not found:
// it compares conditions in pairs, on one parameter each.
func (c *Criteria) Never() string {
	if len(c.types) != 1 {
		return ""
	}
	for i := range c.conditions {
		for j := range c.conditions[:i] {
			if why := c.contradiction(c.conditions[j], c.conditions[i]); why != "" {
				return why
			}
		}
	}
	return ""
}

// Unconverted lists the units in the criteria that are said to be of UCUM and that package ucum does
// not read (mmHg for mm[Hg]), for a warning to its author: values are met of the very same code
// alone. Those within _filter, chains and _has are not looked for.
func (c *Criteria) Unconverted() (codes []string) {
	for _, cond := range c.conditions {
		codes = cond.unconverted(codes)
	}
	return codes
}

func (c *condition) unconverted(codes []string) []string {
	for i := range c.amounts {
		w := &c.amounts[i]
		if w.units == systemUnit && w.system == ucum.System && w.measure == nil && !slices.Contains(codes, w.code) {
			codes = append(codes, w.code)
		}
	}
	for _, t := range c.tuples {
		for i := range t {
			codes = t[i].unconverted(codes)
		}
	}
	return codes
}

// contradiction says why two conditions cannot both hold.
func (c *Criteria) contradiction(a, b *condition) string {
	if a.param == nil || a.param != b.param || a.filter != nil || b.filter != nil || a.linked != nil || b.linked != nil {
		return ""
	}
	both := fmt.Sprintf("%s and %s cannot both hold", a.source, b.source)
	switch {
	case a.absent() && b.demandsValue(), b.absent() && a.demandsValue():
		return both + ": the one asks for no value, the other for one"
	case a.missing || b.missing:
		return ""
	case a.excludes(b), b.excludes(a):
		return both + ": the one excludes what the other asks for"
	case a.modifier != "" || b.modifier != "" || !c.single(a.param):
		return ""
	case a.param.kind == kindToken && !canMeet(a.tokens, b.tokens, (*wantToken).agrees):
		return both + ": the element has one value"
	case a.param.kind == kindDate:
		width := a.param.widest()
		if !canMeet(a.spans, b.spans, func(x, y *wantSpan) bool { return x.agrees(y, width) }) {
			return both + ": no time lies in both"
		}
	}
	return ""
}

// canMeet reports whether any two of two lists of alternatives can hold at once.
func canMeet[T any](as, bs []T, agrees func(a, b *T) bool) bool {
	for i := range as {
		for j := range bs {
			if agrees(&as[i], &bs[j]) {
				return true
			}
		}
	}
	return len(as) == 0 || len(bs) == 0
}

// absent reports whether the condition holds only without a value.
func (c *condition) absent() bool { return c.missing && c.wanted }

// demandsValue reports whether the condition holds only with a value.
func (c *condition) demandsValue() bool { return c.missing && !c.wanted || !c.missing && !c.negate }

// excludes reports whether a condition with :not excludes every value that another asks for.
func (c *condition) excludes(o *condition) bool {
	if c.modifier != "not" || o.modifier != "" || c.param.kind != kindToken || len(o.tokens) == 0 {
		return false
	}
	excluded := func(w wantToken) bool {
		return slices.ContainsFunc(c.tokens, func(n wantToken) bool { return n == w || n.scope == anySystem && n.code == w.code })
	}
	return !slices.ContainsFunc(o.tokens, func(w wantToken) bool { return !excluded(w) })
}

// agrees reports whether one value can be what two ask for.
func (w *wantToken) agrees(o *wantToken) bool {
	if w.scope == systemOnly || o.scope == systemOnly {
		return true // systems are not always compared
	}
	return string(foldKey(nil, []byte(w.code))) == string(foldKey(nil, []byte(o.code)))
}

// single reports whether a resource has at most one value for a parameter.
func (c *Criteria) single(p *param) bool {
	types := model.For(c.definitions.Version())
	if types == nil || len(p.paths) == 0 {
		return false
	}
	var one *model.Element // that all paths lead to, by one of its types each
	for _, x := range p.paths {
		if !x.leaf.single() {
			return false
		}
		e := singleElement(types.Type(c.types[0].name), x.steps)
		if e == nil || one != nil && e != one {
			return false
		}
		one = e
	}
	return true
}

// singleElement follows a path; nil where something on it repeats.
func singleElement(t *model.Type, steps []step) (e *model.Element) {
	for _, s := range steps {
		if t == nil {
			return nil
		}
		if e, t = t.Member(s.name.String()); e == nil || e.Many && s.filter != filterFirst {
			return nil
		}
	}
	return e
}

// single reports whether an element of that kind holds at most one value.
func (l leaf) single() bool {
	switch l {
	case leafCoding, leafIdentifier, leafContactPoint, leafCode, leafBoolean, leafID, leafURI, leafTruth,
		leafDateTime, leafInstant, leafPeriod, leafTiming:
		return true
	}
	return false
}

// endless is the width of what may last for ever.
const endless = 1 << 62

// widest is how many seconds a value of a date parameter may last.
func (p *param) widest() int64 {
	switch {
	case p.readsOnly(leafInstant):
		return 1
	case p.readsOnly(leafInstant, leafDateTime):
		return 366 * 24 * 3600 // a year
	}
	return endless
}

// bounds are where an element that meets a condition begins and ends, at the earliest and at the
// latest, in seconds.
type bounds struct{ minStart, maxStart, minEnd, maxEnd int64 }

func (w *wantSpan) bounds() bounds {
	b := bounds{earliest.sec, latest.sec, earliest.sec, latest.sec}
	switch w.op {
	case opEqual:
		b.minStart, b.maxEnd = w.lo.sec, up(w.hi)
	case opGreater:
		b.minEnd = w.hi.sec
	case opGreaterEqual:
		b.minEnd = w.lo.sec
	case opLess:
		b.maxStart = up(w.lo)
	case opLessEqual:
		b.maxStart = up(w.hi)
	case opStartsAfter:
		b.minStart = w.hi.sec
	case opEndsBefore:
		b.maxEnd = up(w.lo)
	}
	return b
}

// up is the first whole second that is not before a moment.
func up(m moment) int64 {
	if m.nano > 0 && m.sec < latest.sec {
		return m.sec + 1
	}
	return m.sec
}

// agrees reports whether an element of at most that width may meet both. Bounds are rounded away
// from one another, so that what is said to be impossible is.
func (w *wantSpan) agrees(o *wantSpan, width int64) bool {
	a, b := w.bounds(), o.bounds()
	minStart, maxStart := max(a.minStart, b.minStart), min(a.maxStart, b.maxStart)
	minEnd, maxEnd := max(a.minEnd, b.minEnd), min(a.maxEnd, b.maxEnd)
	switch {
	case minStart >= maxEnd, minStart > maxStart, minEnd > maxEnd:
		return false
	case width == endless || minEnd == earliest.sec || maxStart == latest.sec:
		return true
	}
	return minEnd-width <= maxStart
}
