package fhirpath

import (
	"time"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/ucum"
)

var momentFunctions = map[string]function{
	"now":          {0, 0, (*compiler).clock},
	"today":        {0, 0, (*compiler).clock},
	"timeOfDay":    {0, 0, (*compiler).clock},
	"lowBoundary":  {0, 1, (*compiler).boundary},
	"highBoundary": {0, 1, (*compiler).boundary},
	"precision":    {0, 0, (*compiler).precision},
	"comparable":   {1, 1, (*compiler).comparableFunction},
}

// clock is now(), today() and timeOfDay(): the time that the caller gave, so that all of an
// evaluation sees the same, and every node with it.
func (c *compiler) clock(n *Node, in code) (code, error) {
	k := map[string]kind{"now": kindDateTime, "today": kindDate, "timeOfDay": kindTime}[n.Name]
	c.uses.clock = true
	at := n.Position
	return on(in, systemShape(k), func(m *Evaluator, _ span) span {
		if m.now.IsZero() {
			m.fail(at, "what time it is was not said: an expression with now(), today() or timeOfDay() cannot be decided here")
			return m.none()
		}
		return m.result(momentValue(k, momentAt(m.now, k)))
	}), nil
}

func momentAt(t time.Time, k kind) moment {
	r := moment{zone: noZone, prec: precDay}
	if k != kindTime {
		r.seconds = daysBefore(t.Year(), int(t.Month()), t.Day()) * daySeconds
	}
	if k == kindDate {
		return r
	}
	const milli = int(time.Millisecond)
	r.seconds += int64(t.Hour()*hourSeconds + t.Minute()*minuteSeconds + t.Second())
	r.nanos, r.digits, r.prec = int32(t.Nanosecond()/milli*milli), 3, precFraction
	if k == kindDateTime {
		_, offset := t.Zone()
		r.zone = int16(offset / 60)
	}
	return r
}

// boundaries are what lowBoundary() and highBoundary() fill in.
const (
	defaultPlaces = 8  // digits behind the point of a boundary
	mostPlaces    = 31 // there is no boundary with more
)

func (c *compiler) boundary(n *Node, in code) (code, error) {
	if err := c.needs(n, in.shape, "the input of "+n.Name+"()",
		kindInteger, kindDecimal, kindQuantity, kindDate, kindDateTime, kindTime); err != nil {
		return code{}, err
	}
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	s := in.shape.one()
	if onlyIntegers(s) {
		s = systemShape(kindDecimal)
	}
	at, high := n.Position, n.Name == "highBoundary"
	return on(in, s, func(m *Evaluator, in span) span {
		v, ok := m.system(in, at)
		if !ok {
			return m.none()
		}
		digits := int64(-1)
		if len(args) == 1 {
			var given bool
			if digits, given = m.integerOf(args[0].run(m), args[0].at); !given || digits < 0 {
				return m.none()
			}
		}
		switch {
		case v.isMoment():
			v, ok = momentBoundary(v, digits, high)
		case v.isNumber() || v.kind == kindQuantity:
			v, ok = numberBoundary(v, digits, high)
		default:
			m.fail(at, "a number, a quantity, a date or a time is needed here")
		}
		if !ok || m.err != nil {
			return m.none()
		}
		return m.result(v)
	}), nil
}

// numberBoundary is half a step of the last digit away. It is cut to fewer digits towards zero
// on the side that is nearer to zero and rounded on the other, as HL7's tests have it.
func numberBoundary(v Value, digits int64, high bool) (Value, bool) {
	if digits < 0 {
		digits = defaultPlaces
	}
	if digits > mostPlaces {
		return v, false
	}
	d := v.decimal()
	half := decimal{coef: 5, scale: d.decimals() + 1}
	if !high {
		half = half.negative()
	}
	d, ok := d.plus(half)
	if !ok {
		return v, false
	}
	mode := apd.RoundHalfUp
	if (d.sign() > 0) != high {
		mode = apd.RoundDown
	}
	d, ok = d.rounded(int32(digits), mode)
	if v.kind == kindInteger {
		v.kind = kindDecimal
	}
	v.num, v.scale, v.big = d.coef, d.scale, d.big
	return v, ok
}

// momentDigits are the digits that each precision has, as precision() counts them.
var momentDigits = [...]int64{precYear: 4, precMonth: 6, precDay: 8, precHour: 10, precMinute: 12, precSecond: 14, precFraction: 17}

// timeDigits are those of a time, which has no date before it.
const timeDigits = 8

func precisionOf(digits int64, k kind) precision {
	if k == kindTime {
		digits += timeDigits
	}
	for p, d := range momentDigits {
		if d == digits && digits > 0 && (k != kindDate || precision(p) <= precDay) && (k != kindTime || precision(p) > precDay) {
			return precision(p)
		}
	}
	return 0
}

// momentBoundary is the first or last moment that v may be, with the zone that makes it so where
// none is known.
func momentBoundary(v Value, digits int64, high bool) (Value, bool) {
	want := precFraction
	if v.kind == kindDate {
		want = precDay
	}
	if digits >= 0 {
		if want = precisionOf(digits, v.kind); want == 0 {
			return v, false
		}
	}
	m := v.moment()
	if high && m.prec < precSecond {
		m.seconds = m.end() - 1
	}
	if m.prec < precFraction {
		m.nanos, m.digits = 0, 3
		if high {
			m.nanos = 999e6
		}
	}
	if want >= precHour && v.kind == kindDateTime && m.zone == noZone {
		m.zone = eastmost / minuteSeconds
		if high {
			m.zone = -westmost / minuteSeconds
		}
	}
	m.prec = want
	return momentValue(v.kind, m.cut()), true
}

// cut drops what is finer than the precision.
func (m moment) cut() moment {
	day, rest := m.seconds/daySeconds, m.seconds%daySeconds
	y, mo, d := dateOf(day)
	switch m.prec {
	case precYear:
		mo, d, rest = 1, 1, 0
	case precMonth:
		d, rest = 1, 0
	case precDay:
		rest = 0
	case precHour:
		rest -= rest % hourSeconds
	case precMinute:
		rest -= rest % minuteSeconds
	}
	m.seconds = daysBefore(y, mo, d)*daySeconds + rest
	if m.prec < precFraction {
		m.nanos, m.digits = 0, 0
	}
	if m.prec < precHour {
		m.zone = noZone
	}
	return m
}

// precision counts digits: behind the point of a number, and all of a date or time.
func (c *compiler) precision(n *Node, in code) (code, error) {
	if err := c.needs(n, in.shape, "the input of precision()", kindInteger, kindDecimal, kindDate, kindDateTime, kindTime); err != nil {
		return code{}, err
	}
	at := n.Position
	return on(in, systemShape(kindInteger), func(m *Evaluator, in span) span {
		v, ok := m.system(in, at)
		switch {
		case !ok:
			return m.none()
		case v.isNumber():
			return m.result(integer(int64(v.decimal().decimals())))
		case v.kind == kindTime:
			return m.result(integer(momentDigits[v.prec] - timeDigits))
		case v.isMoment():
			return m.result(integer(momentDigits[v.prec]))
		}
		m.fail(at, "a number, a date or a time is needed here")
		return m.none()
	}), nil
}

// comparableFunction says whether two quantities have units that convert into one another.
func (c *compiler) comparableFunction(n *Node, in code) (code, error) {
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	for _, s := range []shape{in.shape, args[0].shape} {
		if err := c.needs(n, s, "a side of comparable()", kindQuantity); err != nil {
			return code{}, err
		}
	}
	at := n.Position
	return asking(in, func(m *Evaluator, in span) truth {
		a, ok := m.system(in, at)
		b, ok2 := m.system(args[0].run(m), args[0].at)
		if !ok || !ok2 {
			return unknown
		}
		if a.kind != kindQuantity || b.kind != kindQuantity {
			m.fail(at, "a quantity is needed here")
			return unknown
		}
		return truthOf(m.spendUnits(&a, &b) && comparableUnits(&a, &b))
	}), nil
}

func comparableUnits(a, b *Value) bool {
	if !a.foreign && !b.foreign && !a.calendar.long() && !b.calendar.long() {
		var u, w ucum.Unit
		u, w, ok := twoUnits(a.code(), b.code())
		return ok && u.Comparable(w)
	}
	_, _, ok := commonUnit(a, b)
	return ok
}
