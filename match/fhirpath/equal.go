package fhirpath

import (
	"bytes"
	"unicode"
)

// equal is = between two items (N1 6.1.1): unknown where precisions or units leave it open.
func (m *Evaluator) equal(a, b *Value) truth {
	if !m.spend(1) {
		return unknown
	}
	if a.kind == kindNode && b.kind == kindNode {
		if a.prim == kindString && b.prim == kindString && a.node != 0 && b.node != 0 {
			return truthOf(m.sameText(m.text(a.tree, a.node), m.text(b.tree, b.node)))
		}
		if a.prim == kindNone || b.prim == kindNone {
			return m.equalElements(a, b)
		}
	}
	x, ok := m.convertBeside(a, b)
	if !ok {
		return m.equalElements(a, b)
	}
	y, ok := m.convertBeside(b, a)
	if !ok {
		return m.equalElements(a, b)
	}
	return m.equalValues(&x, &y)
}

// convertBeside gives an item as a System value; a Quantity only if the other is one too.
func (m *Evaluator) convertBeside(v, other *Value) (Value, bool) {
	if v.isQuantity() {
		if other.kind != kindQuantity && !other.isNumber() {
			return Value{}, false
		}
		return m.quantity(v)
	}
	return m.value(v)
}

// equalElements compares complex elements, and primitives that have only extensions: by what
// they hold, whatever its order.
func (m *Evaluator) equalElements(a, b *Value) truth {
	if a.kind == kindReferred && b.kind == kindReferred {
		return unknown // two resources that nobody has seen
	}
	if a.kind != kindNode || b.kind != kindNode {
		return no
	}
	if a.node == 0 || b.node == 0 {
		return truthOf(a.node == b.node && m.sameJSON(a.tree, a.ext, b.tree, b.ext, false))
	}
	return truthOf(a.tree == b.tree && a.node == b.node || m.sameJSON(a.tree, a.node, b.tree, b.node, false))
}

func (m *Evaluator) equalValues(a, b *Value) truth {
	if !m.weigh(a, b) {
		return unknown
	}
	switch {
	case a.kind == kindString && b.kind == kindString:
		return truthOf(m.sameText(a.text, b.text))
	case a.kind == kindQuantity || b.kind == kindQuantity:
		x, y, ok := bothQuantities(a, b)
		if !ok {
			return no
		}
		c, known := m.compareQuantities(&x, &y)
		if !known {
			return unknown
		}
		return truthOf(c == 0)
	case a.isNumber() && b.isNumber():
		return truthOf(a.decimal().compare(b.decimal()) == 0)
	case a.isMoment() && b.isMoment():
		if (a.kind == kindTime) != (b.kind == kindTime) {
			return no
		}
		c, known := comparing(a.moment(), b.moment())
		if !known {
			return unknown
		}
		return truthOf(c == 0)
	case a.kind != b.kind:
		return no
	case a.kind == kindTypeInfo:
		return truthOf(a.typ == b.typ && a.num == b.num)
	}
	return truthOf(a.num == b.num)
}

// bothQuantities converts a number beside a quantity, whose unit then is one (N1 5.5).
func bothQuantities(a, b *Value) (x, y Value, ok bool) {
	x, ok = asQuantity(a)
	if !ok {
		return x, y, false
	}
	y, ok = asQuantity(b)
	return x, y, ok
}

func asQuantity(v *Value) (Value, bool) {
	if v.kind == kindQuantity {
		return *v, true
	}
	q := number(v.decimal())
	q.kind, q.text = kindQuantity, unitOne
	return q, v.isNumber()
}

// equalSpans is = between collections: in order, and nothing if one of them is empty.
func (m *Evaluator) equalSpans(a, b span) truth {
	if a.empty() || b.empty() {
		return unknown
	}
	if a.len() != b.len() {
		return no
	}
	r := yes
	for i := range int32(a.len()) {
		switch m.equal(&m.items[a.from+i], &m.items[b.from+i]) {
		case no:
			return no
		case unknown:
			r = unknown
		}
	}
	return r
}

// equivalent is ~ between two items (N1 6.1.2), which always has an answer.
func (m *Evaluator) equivalent(a, b *Value) bool {
	if !m.spend(1) {
		return false
	}
	x, ok := m.convertBeside(a, b)
	y, ok2 := m.convertBeside(b, a)
	if !ok || !ok2 {
		return a.kind == kindNode && b.kind == kindNode && ok == ok2 && m.equivalentElements(a, b)
	}
	switch {
	case x.kind == kindString && y.kind == kindString:
		return m.spend((len(x.text)+len(y.text))/stride) && equivalentText(x.text, y.text)
	case x.kind == kindQuantity || y.kind == kindQuantity:
		x, y, ok := bothQuantities(&x, &y)
		return ok && m.spendUnits(&x, &y) && equivalentQuantities(&x, &y)
	case x.isNumber() && y.isNumber():
		return m.weigh(&x, &y) && equivalentNumbers(x.decimal(), y.decimal())
	}
	return m.equalValues(&x, &y) == yes
}

func (m *Evaluator) equivalentElements(a, b *Value) bool {
	if a.node == 0 || b.node == 0 {
		return a.node == b.node && m.sameJSON(a.tree, a.ext, b.tree, b.ext, true)
	}
	if a.isQuantity() && b.isQuantity() {
		x, ok := m.quantity(a)
		y, ok2 := m.quantity(b)
		if ok && ok2 {
			return m.spendUnits(&x, &y) && equivalentQuantities(&x, &y)
		}
	}
	return m.sameJSON(a.tree, a.node, b.tree, b.node, true)
}

// equivalentQuantities converts and compares at the precision of the less precise. A year is
// equivalent to one of UCUM, which it is not equal to.
func equivalentQuantities(a, b *Value) bool {
	x, y := *a, *b
	for _, q := range []*Value{&x, &y} {
		if q.calendar == calendarNone && !q.foreign {
			if c := ucumCalendar(q.text); c.long() {
				q.calendar = c
			}
		}
	}
	if coarser(&y, &x) {
		x, y = y, x
	}
	q, p, ok := commonUnit(&y, &x) // in the unit of the less precise
	if !ok {
		return false
	}
	q, ok = q.rounded(p.decimals(), halfUp)
	return ok && p.compare(q) == 0
}

// coarser reports whether a step of the last digit is greater for a than for b.
func coarser(a, b *Value) bool {
	x, step, ok := commonUnit(a, b)
	if !ok {
		return false
	}
	next := *a
	sum, ok := a.decimal().plus(decimal{coef: 1, scale: a.decimal().decimals()})
	next.num, next.scale, next.big = sum.coef, sum.scale, sum.big
	y, _, ok2 := commonUnit(&next, b)
	step = decimal{coef: 1, scale: step.decimals()}
	width, ok3 := y.plus(x.negative())
	return ok && ok2 && ok3 && width.compare(step) > 0
}

// equivalentSpans is ~ between collections: the same items in any order.
func (m *Evaluator) equivalentSpans(a, b span) bool {
	if a.len() != b.len() {
		return false
	}
	if a.len() == 1 {
		return m.equivalent(&m.items[a.from], &m.items[b.from])
	}
	used := make([]bool, b.len())
	for i := a.from; i < a.to; i++ {
		found := false
		for j := range used {
			if !m.spend(1) {
				return false
			}
			if !used[j] && m.equivalent(&m.items[i], &m.items[b.from+int32(j)]) {
				used[j], found = true, true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// has reports whether a collection has an item equal to v.
func (m *Evaluator) has(s span, v *Value) bool {
	for i := s.from; i < s.to; i++ {
		if m.err != nil {
			return false
		}
		if m.equal(&m.items[i], v) == yes {
			return true
		}
	}
	return false
}

// compare orders two items for < and its kind (N1 6.2). ok is false where there is no order:
// different types, or none that has one.
func (m *Evaluator) compare(a, b *Value) (c int, known, ok bool) {
	if !m.weigh(a, b) {
		return 0, false, true
	}
	switch {
	case a.kind == kindString && b.kind == kindString:
		m.spend(min(len(a.text), len(b.text)) / stride)
		return bytes.Compare(a.text, b.text), true, true
	case a.isNumber() && b.isNumber():
		return a.decimal().compare(b.decimal()), true, true
	case a.isMoment() && b.isMoment():
		if (a.kind == kindTime) != (b.kind == kindTime) {
			return 0, false, false
		}
		c, known = comparing(a.moment(), b.moment())
		return c, known, true
	case a.kind == kindQuantity || b.kind == kindQuantity:
		x, y, ok := bothQuantities(a, b)
		if !ok {
			return 0, false, false
		}
		c, known = m.compareQuantities(&x, &y)
		return c, known, true
	}
	return 0, false, false
}

func foldRune(r rune) rune { return unicode.ToLower(r) }
func isSpace(r rune) bool  { return unicode.IsSpace(r) }
