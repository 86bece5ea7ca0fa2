package fhirpath

import (
	"bytes"
	"strings"
)

var conversions = map[string]function{
	"toBoolean": {0, 0, converting(toBoolean, kindBoolean)}, "convertsToBoolean": {0, 0, convertible(toBoolean)},
	"toInteger": {0, 0, converting(toInteger, kindInteger)}, "convertsToInteger": {0, 0, convertible(toInteger)},
	"toDecimal": {0, 0, converting(toDecimal, kindDecimal)}, "convertsToDecimal": {0, 0, convertible(toDecimal)},
	"toDate": {0, 0, converting(toDate, kindDate)}, "convertsToDate": {0, 0, convertible(toDate)},
	"toDateTime": {0, 0, converting(toDateTime, kindDateTime)}, "convertsToDateTime": {0, 0, convertible(toDateTime)},
	"toTime": {0, 0, converting(toTime, kindTime)}, "convertsToTime": {0, 0, convertible(toTime)},
	"toQuantity": {0, 1, converting(toQuantity, kindQuantity)}, "convertsToQuantity": {0, 1, convertible(toQuantity)},
	"toString": {0, 0, converting(nil, kindString)}, "convertsToString": {0, 0, convertible(isValue)},
}

// conversion makes a value of another type (N1 5.5); ok is false if there is none.
type conversion func(v *Value) (Value, bool)

func converting(f conversion, k kind) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		unit, err := c.unitArgument(n)
		if err != nil {
			return code{}, err
		}
		at := n.Position
		return on(in, systemShape(k), func(m *Evaluator, in span) span {
			v, ok := m.converted(in, at, f, unit)
			if !ok {
				return m.none()
			}
			return m.result(v)
		}), nil
	}
}

func convertible(f conversion) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		unit, err := c.unitArgument(n)
		if err != nil {
			return code{}, err
		}
		at := n.Position
		return asking(in, func(m *Evaluator, in span) truth {
			if in.empty() {
				return unknown
			}
			_, ok := m.converted(in, at, f, unit)
			return truthOf(ok)
		}), nil
	}
}

// unitArgument compiles the unit that toQuantity() may be asked for.
func (c *compiler) unitArgument(n *Node) (*code, error) {
	args, err := c.args(n)
	if err != nil || len(args) == 0 {
		return nil, err
	}
	return &args[0], c.needs(n.Args[0], args[0].shape, "a unit", kindString)
}

func (m *Evaluator) converted(in span, at int, f conversion, unit *code) (Value, bool) {
	item, ok := m.single(in, at)
	if !ok {
		return Value{}, false
	}
	v, ok := m.convert(item)
	if !ok {
		return v, false
	}
	if f == nil {
		return m.toString(&v)
	}
	v, ok = f(&v)
	if ok = m.weigh(&v, &v) && ok; !ok || unit == nil {
		return v, ok
	}
	code, ok := m.textOf(unit.run(m), unit.at)
	target := newQuantity(whole(1), code)
	if !ok || !m.spendUnits(&v, &target) {
		return v, m.err == nil
	}
	d, _, ok := commonUnit(&v, &target)
	target.num, target.scale, target.big = d.coef, d.scale, d.big
	return target, ok
}

func isValue(v *Value) (Value, bool) { return *v, v.kind != kindTypeInfo }

func (m *Evaluator) toString(v *Value) (Value, bool) {
	if v.kind == kindString || v.kind == kindTypeInfo {
		return *v, v.kind == kindString
	}
	const longest = maxDigits + 2*maxExponent
	if !m.produce(longest + len(v.text)) {
		return *v, false
	}
	from := len(m.bytes)
	m.bytes = v.append(m.bytes)
	return text(m.made(from)), true
}

func toBoolean(v *Value) (Value, bool) {
	switch v.kind {
	case kindBoolean:
		return *v, true
	case kindInteger, kindDecimal:
		d := v.decimal()
		one := d.compare(whole(1)) == 0
		return boolean(one), one || d.sign() == 0
	case kindString:
		switch strings.ToLower(string(v.text)) {
		case "true", "t", "yes", "y", "1", "1.0":
			return boolean(true), true
		case "false", "f", "no", "n", "0", "0.0":
			return boolean(false), true
		}
	}
	return Value{}, false
}

func toInteger(v *Value) (Value, bool) {
	switch v.kind {
	case kindInteger:
		return *v, true
	case kindBoolean:
		return integer(v.num), true
	case kindString:
		if plainNumber(v.text, false) {
			return readNumber(v.text, kindInteger)
		}
	}
	return Value{}, false
}

func toDecimal(v *Value) (Value, bool) {
	switch v.kind {
	case kindDecimal:
		return *v, true
	case kindInteger:
		return number(whole(v.num)), true
	case kindBoolean:
		return number(decimal{coef: 10 * v.num, scale: 1}), true
	case kindString:
		if plainNumber(v.text, true) {
			return readNumber(v.text, kindDecimal)
		}
	}
	return Value{}, false
}

// plainNumber reports whether a text is (\+|-)?\d+, with (\.\d+)? behind it if it may be one.
func plainNumber(s []byte, fraction bool) bool {
	n, length, point := numberPrefix(s)
	return n && length == len(s) && (fraction || !point)
}

// numberPrefix measures the number at the beginning of a text.
func numberPrefix(s []byte) (ok bool, length int, point bool) {
	i := 0
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		i++
	}
	start := i
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	if i == start {
		return false, 0, false
	}
	if i+1 < len(s) && s[i] == '.' && isDigit(s[i+1]) {
		point = true
		for i++; i < len(s) && isDigit(s[i]); i++ {
		}
	}
	return true, i, point
}

func toDate(v *Value) (Value, bool) {
	switch v.kind {
	case kindDate:
		return *v, true
	case kindDateTime:
		m := v.moment()
		m.seconds -= m.seconds % daySeconds
		m.nanos, m.digits, m.zone, m.prec = 0, 0, noZone, min(m.prec, precDay)
		return momentValue(kindDate, m), true
	case kindString:
		m, ok := parseDate(v.text, false)
		return momentValue(kindDate, m), ok
	}
	return Value{}, false
}

func toDateTime(v *Value) (Value, bool) {
	switch v.kind {
	case kindDate, kindDateTime:
		return momentValue(kindDateTime, v.moment()), true
	case kindString:
		m, ok := parseDate(v.text, true)
		return momentValue(kindDateTime, m), ok
	}
	return Value{}, false
}

func toTime(v *Value) (Value, bool) {
	switch v.kind {
	case kindTime:
		return *v, true
	case kindString:
		m, ok := parseTime(bytes.TrimPrefix(v.text, []byte("T")))
		return momentValue(kindTime, m), ok
	}
	return Value{}, false
}

func toQuantity(v *Value) (Value, bool) {
	switch v.kind {
	case kindQuantity:
		return *v, true
	case kindInteger, kindDecimal:
		return asQuantity(v)
	case kindBoolean:
		return newQuantity(decimal{coef: 10 * v.num, scale: 1}, unitOne), true
	case kindString:
		return quantityText(v.text)
	}
	return Value{}, false
}

// quantityText reads 1, 1.5 'mg' and 4 days.
func quantityText(s []byte) (Value, bool) {
	ok, length, _ := numberPrefix(s)
	if !ok {
		return Value{}, false
	}
	d, ok := parseDecimal(s[:length])
	unit := bytes.TrimLeft(s[length:], " \t\r\n")
	switch {
	case !ok:
		return Value{}, false
	case len(unit) == 0:
		return newQuantity(d, unitOne), true
	case len(unit) > 2 && unit[0] == '\'' && unit[len(unit)-1] == '\'':
		unit = unit[1 : len(unit)-1]
		return newQuantity(d, unit), bytes.IndexByte(unit, '\'') < 0
	}
	return newQuantity(d, unit), wordCalendar(unit) != calendarNone
}
