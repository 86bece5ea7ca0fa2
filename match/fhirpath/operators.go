package fhirpath

import (
	"math"
	"slices"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/fhir"
)

const halfUp = apd.RoundHalfUp

func (c *compiler) unary(n *Node) (code, error) {
	in, err := c.scoped(n.Args[0])
	if err != nil {
		return code{}, err
	}
	if err := c.needs(n, in.shape, "what follows "+n.Name, kindInteger, kindDecimal, kindQuantity); err != nil {
		return code{}, err
	}
	if len(in.constants) == 1 && in.constants[0].isNumber() {
		v := in.constants[0]
		if n.Name == "-" {
			negate(&v)
		}
		return constant(v, in.shape), nil
	}
	at, negative := n.Position, n.Name == "-"
	return on(in, in.shape.one(), func(m *Evaluator, in span) span {
		v, ok := m.system(in, at)
		if !ok {
			return m.none()
		}
		if !v.isNumber() && v.kind != kindQuantity {
			m.fail(at, "only numbers and quantities have a sign")
			return m.none()
		}
		if negative {
			negate(&v)
		}
		return m.result(v)
	}), nil
}

func negate(v *Value) {
	d := v.decimal().negative()
	v.num, v.scale, v.big = d.coef, d.scale, d.big
}

func (c *compiler) binary(n *Node) (code, error) {
	left, err := c.scoped(n.Args[0])
	if err != nil {
		return code{}, err
	}
	right, err := c.scoped(n.Args[1])
	if err != nil {
		return code{}, err
	}
	switch n.Name {
	case "and", "or", "xor", "implies":
		return logic(n.Name, left.condition(), right.condition()), nil
	case "=", "!=":
		c.warnIfNeverEqual(n, left.shape, right.shape)
		return equality(left, right, n.Name == "!="), nil
	case "~", "!~":
		return equivalence(left, right, n.Name == "!~"), nil
	case "<", ">", "<=", ">=":
		return c.inequality(n, left, right)
	case "|":
		return c.union(n, left, right), nil
	case "in":
		return membership(left, right, n.Position), nil
	case "contains":
		return membership(right, left, n.Position), nil
	case "&":
		return c.concatenation(n, left, right)
	case "+", "-", "*", "/", "div", "mod":
		return c.arithmetic(n, left, right)
	}
	return code{}, refusal(fhir.IssueNotSupported, n, "the operator %s is not supported", shown(n.Name))
}

// logic has three values (N1 6.5). The right side is not looked at where the left one decides.
func logic(name string, left, right test) code {
	switch name {
	case "and":
		return deciding(func(m *Evaluator) truth {
			m.steps--
			l := left(m)
			if l == no {
				return no
			}
			r := right(m)
			if l == yes || r == no {
				return r
			}
			return unknown
		})
	case "or":
		return deciding(func(m *Evaluator) truth {
			m.steps--
			l := left(m)
			if l == yes {
				return yes
			}
			r := right(m)
			if l == no || r == yes {
				return r
			}
			return unknown
		})
	case "implies":
		return deciding(func(m *Evaluator) truth {
			m.steps--
			l := left(m)
			if l == no {
				return yes
			}
			r := right(m)
			if l == yes || r == yes {
				return r
			}
			return unknown
		})
	}
	return deciding(func(m *Evaluator) truth { // xor
		m.steps--
		l, r := left(m), right(m)
		if l == unknown || r == unknown {
			return unknown
		}
		return truthOf(l != r)
	})
}

func (t truth) not() truth {
	switch t {
	case yes:
		return no
	case no:
		return yes
	}
	return unknown
}

// kindsInCommon are the kinds that are compared with one another.
var kindsInCommon = [][]kind{{kindString}, {kindInteger, kindDecimal, kindQuantity}, {kindDate, kindDateTime}, {kindTime}}

// warnIfNeverEqual finds what is legal and cannot be meant, such as a.status = 'x' | a.status = 'y':
// | binds closer than =, so a boolean is compared with a text there.
func (c *compiler) warnIfNeverEqual(n *Node, left, right shape) {
	for _, kinds := range append(kindsInCommon[:len(kindsInCommon):len(kindsInCommon)], []kind{kindBoolean}, []kind{kindTypeInfo}, []kind{kindNone, kindQuantity}) {
		if left.may(kinds...) && right.may(kinds...) {
			return
		}
	}
	hint := ""
	if n.Args[0].Kind == KindBinary && left.booleans() {
		hint = `: "|" binds closer, so parentheses may be missing`
	}
	c.warn(n, "%s and %s are never equal%s", left, right, hint)
}

func equality(left, right code, negative bool) code {
	l, r := left.run, right.run
	return deciding(func(m *Evaluator) truth {
		m.steps--
		mark := m.top()
		t := m.equalSpans(l(m), r(m))
		m.items = m.items[:mark]
		if negative {
			t = t.not()
		}
		return t
	})
}

func equivalence(left, right code, negative bool) code {
	l, r := left.run, right.run
	return deciding(func(m *Evaluator) truth {
		m.steps--
		mark := m.top()
		same := m.equivalentSpans(l(m), r(m))
		m.items = m.items[:mark]
		return truthOf(same != negative)
	})
}

func (c *compiler) inequality(n *Node, left, right code) (code, error) {
	if err := c.comparable(n, left.shape, right.shape); err != nil {
		return code{}, err
	}
	l, r, name, at := left.run, right.run, n.Name, n.Position
	return deciding(func(m *Evaluator) truth {
		m.steps--
		mark := m.top()
		t := m.inequality(l(m), r(m), name, at)
		m.items = m.items[:mark]
		return t
	}), nil
}

// comparable checks that two shapes have kinds in common that are ordered.
func (c *compiler) comparable(n *Node, left, right shape) error {
	for _, kinds := range kindsInCommon {
		if left.may(kinds...) && right.may(kinds...) {
			return nil
		}
	}
	return c.problem(n, "%s and %s are not in an order with one another", left, right)
}

func (m *Evaluator) inequality(left, right span, name string, at int) truth {
	a, ok := m.system(left, at)
	b, ok2 := m.system(right, at)
	if !ok || !ok2 {
		return unknown
	}
	c, known, ok := m.compare(&a, &b)
	if !ok {
		m.fail(at, "a "+a.kind.String()+" and a "+b.kind.String()+" are not in an order with one another")
		return unknown
	}
	if !known {
		return unknown
	}
	switch name {
	case "<":
		return truthOf(c < 0)
	case ">":
		return truthOf(c > 0)
	case "<=":
		return truthOf(c <= 0)
	}
	return truthOf(c >= 0)
}

// maxFolded bounds the lists that are made when the expression is compiled.
const maxFolded = 64

// union is | (N1 6.4.1). Of two booleans in a trigger it is "or": the examples of topics that HL7
// publishes mean that, and a set of true and false would never be met.
func (c *compiler) union(n *Node, left, right code) code {
	if c.options.Trigger && left.shape.booleans() && right.shape.booleans() && !left.shape.many && !right.shape.many {
		c.warn(n, `"|" between two booleans is read as "or": write "or"`)
		return logic("or", left.condition(), right.condition())
	}
	switch {
	case left.shape.never():
		return unique(right)
	case right.shape.never():
		return unique(left)
	}
	if left.constants != nil && right.constants != nil && len(left.constants) < maxFolded {
		return constants(union(left.constants, right.constants), left.shape.with(right.shape))
	}
	parts := append(left.union, right.run)
	if left.union == nil {
		parts = []op{left.run, right.run}
	}
	return code{shape: left.shape.with(right.shape), union: parts, run: func(m *Evaluator) span {
		return m.unite(parts)
	}}
}

// union gives every one of some constants once.
func union(a, b []Value) []Value {
	m := Evaluator{steps: maxSteps}
	for _, v := range slices.Concat(a, b) {
		m.push(v)
	}
	s := m.once(span{0, m.top()})
	return m.items[s.from:s.to:s.to]
}

// unite gives every item of several collections once. A chain of unions is one of many parts,
// so that what is known to be unique is not compared again.
func (m *Evaluator) unite(parts []op) span {
	u := m.beginUniques()
	for _, part := range parts {
		mark := m.top()
		m.place(mark, part(m))
		m.dropKnown(u, mark)
	}
	m.endUniques()
	return span{u.at, m.top()}
}

// dropKnown takes off the items from mark on that are there before.
func (m *Evaluator) dropKnown(u *uniques, mark int32) {
	kept := mark
	for i := mark; i < m.top() && m.err == nil; i++ {
		if m.add(u, &m.items[i]) {
			m.items[kept] = m.items[i]
			kept++
		}
	}
	m.items = m.items[:kept]
}

// once gives every item of collections that are there already.
func (m *Evaluator) once(spans ...span) span {
	u := m.beginUniques()
	for _, s := range spans {
		for i := s.from; i < s.to && m.err == nil; i++ {
			if m.add(u, &m.items[i]) {
				m.push(m.items[i])
			}
		}
	}
	m.endUniques()
	return span{u.at, m.top()}
}

// unique takes every item once, which is what is left of a union with nothing.
func unique(in code) code {
	return on(in, in.shape, func(m *Evaluator, in span) span {
		if in.len() < 2 {
			return in
		}
		return m.once(in)
	})
}

// membership is "item in collection", and "collection contains item" turned round.
func membership(item, collection code, at int) code {
	l, r := item.run, collection.run
	return deciding(func(m *Evaluator) truth {
		m.steps--
		mark := m.top()
		t := unknown
		a := l(m)
		b := r(m)
		if v, ok := m.single(a, at); ok {
			t = truthOf(m.has(b, v))
		}
		m.items = m.items[:mark]
		return t
	})
}

// concatenation is &, which takes nothing for an empty text.
func (c *compiler) concatenation(n *Node, left, right code) (code, error) {
	for i, s := range []shape{left.shape, right.shape} {
		if err := c.needs(n.Args[i], s, "a side of &", kindString); err != nil {
			return code{}, err
		}
	}
	l, r, at := left.run, right.run, n.Position
	return code{shape: systemShape(kindString), run: func(m *Evaluator) span {
		mark := m.top()
		a, _ := m.textOf(l(m), at)
		b, _ := m.textOf(r(m), at)
		m.items = m.items[:mark]
		return m.joined(a, b)
	}}, nil
}

func (m *Evaluator) joined(a, b []byte) span {
	if !m.produce(len(a) + len(b)) {
		return m.none()
	}
	from := len(m.bytes)
	m.bytes = append(append(m.bytes, a...), b...)
	return m.result(text(m.made(from)))
}

// arithmeticKinds are the kinds that each operator takes on its left and right side.
func arithmeticKinds(op string) (left, right []kind) {
	left = []kind{kindInteger, kindDecimal, kindQuantity}
	right = left
	switch op {
	case "+":
		left = append(left, kindString, kindDate, kindDateTime, kindTime)
		right = append(right, kindString)
	case "-":
		left = append(left, kindDate, kindDateTime, kindTime)
	case "div", "mod":
		left, right = left[:2], right[:2]
	}
	return left, right
}

func (c *compiler) arithmetic(n *Node, left, right code) (code, error) {
	lk, rk := arithmeticKinds(n.Name)
	if err := c.needs(n.Args[0], left.shape, "the left side of "+n.Name, lk...); err != nil {
		return code{}, err
	}
	if err := c.needs(n.Args[1], right.shape, "the right side of "+n.Name, rk...); err != nil {
		return code{}, err
	}
	s, err := c.arithmeticShape(n, left.shape, right.shape)
	if err != nil {
		return code{}, err
	}
	l, r, op, at := left.run, right.run, n.Name, n.Position
	return code{shape: s, run: func(m *Evaluator) span {
		mark := m.top()
		a, ok := m.system(l(m), at)
		b, ok2 := m.system(r(m), at)
		m.items = m.items[:mark]
		if !ok || !ok2 || m.err != nil {
			return m.none()
		}
		v, ok, legal := m.calculate(op, &a, &b)
		switch {
		case !legal:
			m.fail(at, "a "+a.kind.String()+" "+op+" a "+b.kind.String()+" means nothing")
			return m.none()
		case !ok || m.err != nil:
			return m.none()
		}
		return m.result(v)
	}}, nil
}

// arithmeticShape says what comes out, and refuses a sum of a date and a number.
func (c *compiler) arithmeticShape(n *Node, left, right shape) (shape, error) {
	if left.any || right.any || len(left.types) != 1 || len(right.types) != 1 {
		return shape{any: true}, nil
	}
	l, r := left.types[0].value(), right.types[0].value()
	moment := l == kindDate || l == kindDateTime || l == kindTime
	switch {
	case moment && r != kindQuantity && r != kindNone:
		return shape{any: true}, c.problem(n, "a %s %s a %s means nothing: write the duration with its unit, such as 7 days", l, n.Name, r)
	case moment || l == kindString:
		return systemShape(l), nil
	case l == kindQuantity || r == kindQuantity:
		return systemShape(kindQuantity), nil
	case n.Name == "/" || n.Name != "div" && (l == kindDecimal || r == kindDecimal):
		return systemShape(kindDecimal), nil
	case l == kindInteger && r == kindInteger || n.Name == "div":
		return systemShape(kindInteger), nil
	}
	return shape{any: true}, nil
}

// calculate does arithmetic (N1 6.6). legal is false for operands that the operator does not
// take; ok is false where there is no result: a division by zero, an overflow, or units that do
// not convert.
func (m *Evaluator) calculate(op string, a, b *Value) (v Value, ok, legal bool) {
	if !m.weigh(a, b) {
		return v, false, true
	}
	switch {
	case a.kind == kindString && b.kind == kindString && op == "+":
		if !m.produce(len(a.text) + len(b.text)) {
			return v, false, true
		}
		from := len(m.bytes)
		m.bytes = append(append(m.bytes, a.text...), b.text...)
		return text(m.made(from)), true, true
	case a.isMoment() && b.kind == kindQuantity && (op == "+" || op == "-"):
		r, ok, legal := shift(a.moment(), a.kind, b, op == "-")
		return momentValue(a.kind, r), ok, legal
	case a.kind == kindInteger && b.kind == kindInteger && op != "/":
		return integerArithmetic(op, a.num, b.num)
	case a.isNumber() && b.isNumber():
		return decimalArithmetic(op, a.decimal(), b.decimal())
	}
	x, y, ok := bothQuantities(a, b)
	if !ok {
		return v, false, false
	}
	if !m.spendUnits(&x, &y) {
		return v, false, true
	}
	return quantityArithmetic(op, a, b, &x, &y)
}

func integerArithmetic(op string, a, b int64) (v Value, ok, legal bool) {
	r := int64(0)
	switch op {
	case "+":
		if r = a + b; (r > a) != (b > 0) && b != 0 || r == math.MinInt64 {
			return v, false, true
		}
	case "-":
		if r = a - b; (r < a) != (b > 0) && b != 0 || r == math.MinInt64 {
			return v, false, true
		}
	case "*":
		if r, ok = multiply(a, b); !ok {
			return v, false, true
		}
	case "div", "mod":
		if b == 0 {
			return v, false, true
		}
		if r = a / b; op == "mod" {
			r = a % b
		}
	}
	return integer(r), true, true
}

func decimalArithmetic(op string, a, b decimal) (v Value, ok, legal bool) {
	var r decimal
	switch op {
	case "+":
		r, ok = a.plus(b)
	case "-":
		r, ok = a.plus(b.negative())
	case "*":
		r, ok = a.times(b)
	case "/":
		r, ok = a.over(b)
	default:
		return divide(op, a, b)
	}
	return number(r), ok, true
}

// divide is div and mod: the quotient is cut to a whole number.
func divide(op string, a, b decimal) (v Value, ok, legal bool) {
	if b.sign() == 0 {
		return v, false, true
	}
	q, r := new(apd.Decimal), new(apd.Decimal)
	if _, err := exact.QuoInteger(q, a.apd(), b.apd()); err != nil {
		return v, false, true
	}
	if op == "div" {
		d, ok := small(q)
		n, whole := d.integer()
		return integer(n), ok && whole, true
	}
	if _, err := exact.Rem(r, a.apd(), b.apd()); err != nil {
		return v, false, true
	}
	d, ok := small(r)
	return number(d), ok, true
}

func quantityArithmetic(op string, a, b, x, y *Value) (v Value, ok, legal bool) {
	switch op {
	case "+", "-":
		if op == "-" {
			negate(y)
		}
		v, ok = addQuantities(x, y)
		return v, ok, true
	case "*", "/":
		// A factor without a unit leaves the other's as it is written.
		if b.isNumber() || op == "*" && a.isNumber() {
			q, factor := *x, *b
			if !b.isNumber() {
				q, factor = *y, *a
			}
			d, ok := q.decimal().times(factor.decimal())
			if op == "/" {
				d, ok = q.decimal().over(factor.decimal())
			}
			q.num, q.scale, q.big = d.coef, d.scale, d.big
			return q, ok, true
		}
		v, ok = multiplyQuantities(x, y, op == "/")
		return v, ok, true
	}
	return v, false, false
}
