package fhirpath

import (
	"bytes"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/ucum"
)

// calendar is the unit of a calendar duration.
type calendar uint8

const (
	calendarNone calendar = iota
	calendarYear
	calendarMonth
	calendarWeek
	calendarDay
	calendarHour
	calendarMinute
	calendarSecond
	calendarMillisecond
)

// calendarWords are the words of each unit; the plural is the word with an s.
var calendarWords = [...]string{
	calendarYear: "year", calendarMonth: "month", calendarWeek: "week", calendarDay: "day", calendarHour: "hour",
	calendarMinute: "minute", calendarSecond: "second", calendarMillisecond: "millisecond",
}

// calendarCodes are the units of UCUM for them. From weeks down they mean the same; a year of
// UCUM is 365.25 days and a month its twelfth, which no calendar has (N1 6.1.1).
var calendarCodes = [...]string{
	calendarYear: "a", calendarMonth: "mo", calendarWeek: "wk", calendarDay: "d", calendarHour: "h",
	calendarMinute: "min", calendarSecond: "s", calendarMillisecond: "ms",
}

// wordCalendar finds the unit that a word stands for.
func wordCalendar(word []byte) calendar {
	word = bytes.TrimSuffix(word, []byte("s"))
	for c, w := range calendarWords {
		if w != "" && string(word) == w {
			return calendar(c)
		}
	}
	return calendarNone
}

// ucumCalendar finds the unit that a code of UCUM stands for.
func ucumCalendar(code []byte) calendar {
	for c, w := range calendarCodes {
		if w != "" && string(code) == w {
			return calendar(c)
		}
	}
	return calendarNone
}

// written reports whether a unit was written as a word, without quotes.
func (c calendar) written(unit []byte) bool { return c != calendarNone && wordCalendar(unit) == c }

// newQuantity makes a quantity of a number and a unit as it is written in a literal: a word of
// the calendar, or a code between quotes. The word between quotes means the same as without.
func newQuantity(d decimal, unit []byte) Value {
	q := number(d)
	q.kind, q.text, q.calendar = kindQuantity, unit, wordCalendar(unit)
	return q
}

// long reports whether the duration is of years or months, whose length differs.
func (c calendar) long() bool { return c == calendarYear || c == calendarMonth }

// code is the unit of UCUM.
func (v *Value) code() []byte {
	if v.calendar != calendarNone {
		return []byte(calendarCodes[v.calendar])
	}
	return v.text
}

// compareQuantities converts to one unit and compares. There is no answer where the units do
// not convert: of different dimensions, unknown, or a calendar's year against one of UCUM.
func (m *Evaluator) compareQuantities(a, b *Value) (c int, known bool) {
	if a.foreign || b.foreign || a.calendar.long() || b.calendar.long() {
		x, y, ok := commonUnit(a, b)
		return x.compare(y), ok
	}
	x, y := a.decimal(), b.decimal()
	from, to := a.code(), b.code()
	if bytes.Equal(from, to) {
		return x.compare(y), true
	}
	if !m.spendUnits(a, b) { // remembered or not: what is decided must not depend on what was before
		return 0, false
	}
	r := m.relation(from, to)
	if !r.known {
		return 0, false
	}
	// Both sides are multiplied, so that nothing is divided and nothing rounded.
	x, ok := x.times(r.mul)
	x, ok2 := x.plus(r.add)
	y, ok3 := y.times(r.div)
	return x.compare(y), ok && ok2 && ok3
}

// relation is a conversion from one unit of UCUM to another: (mul * x + add) / div. known is
// false if they do not convert.
type relation struct {
	mul, add, div decimal
	known         bool
}

// Bounds of the conversions that an Evaluator remembers: resources and expressions use a few.
const (
	keptRelations = 64
	maxUnit       = 100 // bytes of a code; what is longer converts to nothing
	relateSteps   = 500 // what a conversion counts for
	unitByteSteps = 20  // and each byte of its units, which may be factors of many digits
)

// spendUnits spends what it takes to read two units and to convert between them.
func (m *Evaluator) spendUnits(a, b *Value) bool {
	return m.spend(relateSteps + unitByteSteps*min(len(a.text)+len(b.text), 2*maxUnit))
}

// relation gives a conversion, which is remembered: to read two units takes microseconds.
func (m *Evaluator) relation(from, to []byte) relation {
	if len(from) > maxUnit || len(to) > maxUnit { // nor are they remembered
		return relation{}
	}
	m.unitKey = append(append(append(m.unitKey[:0], from...), 0), to...)
	if r, ok := m.relations[string(m.unitKey)]; ok {
		return r
	}
	if m.relations == nil || len(m.relations) >= keptRelations {
		m.relations = make(map[string]relation, keptRelations)
	}
	r := relate(from, to)
	m.relations[string(m.unitKey)] = r
	return r
}

func relate(from, to []byte) relation {
	u, w, ok := twoUnits(from, to)
	if !ok {
		return relation{}
	}
	between, err := ucum.Relate(u, w)
	if err != nil {
		return relation{}
	}
	var r relation
	var ok1, ok2, ok3 bool
	r.mul, ok1 = small(between.Mul)
	r.add, ok2 = small(between.Add)
	r.div, ok3 = small(between.Div)
	r.known = ok1 && ok2 && ok3
	return r
}

// commonUnit gives the numbers of two quantities in the unit of the second.
func commonUnit(a, b *Value) (x, y decimal, ok bool) {
	x, y = a.decimal(), b.decimal()
	if a.foreign || b.foreign {
		return x, y, a.foreign == b.foreign && bytes.Equal(a.text, b.text)
	}
	if a.calendar.long() || b.calendar.long() {
		if a.calendar == b.calendar {
			return x, y, true
		}
		if !a.calendar.long() || !b.calendar.long() {
			return x, y, false
		}
		if a.calendar == calendarYear {
			x, ok = x.times(whole(12))
		} else {
			y, ok = y.times(whole(12))
		}
		return x, y, ok
	}
	return converted(x, y, a.code(), b.code())
}

// converted brings x from one unit of UCUM to the other.
func converted(x, y decimal, from, to []byte) (decimal, decimal, bool) {
	if bytes.Equal(from, to) {
		return x, y, true
	}
	u, w, ok := twoUnits(from, to)
	if !ok || !u.Comparable(w) {
		return x, y, false
	}
	big, err := ucum.Convert(x.apd(), u, w)
	if err != nil {
		return x, y, false
	}
	x, ok = small(new(apd.Decimal).Set(big))
	return x, y, ok
}

func twoUnits(a, b []byte) (u, w ucum.Unit, ok bool) {
	if len(a) > maxUnit || len(b) > maxUnit {
		return u, w, false
	}
	u, err := ucum.Parse(string(a))
	if err != nil {
		return u, w, false
	}
	w, err = ucum.Parse(string(b))
	return u, w, err == nil
}

// addQuantities adds in the unit of the first.
func addQuantities(a, b *Value) (Value, bool) {
	y, x, ok := commonUnit(b, a)
	if !ok {
		return Value{}, false
	}
	sum, ok := x.plus(y)
	q := *a
	q.num, q.scale, q.big = sum.coef, sum.scale, sum.big
	return q, ok
}

// multiplyQuantities multiplies or divides; the unit is that of UCUM for both.
func multiplyQuantities(a, b *Value, divide bool) (Value, bool) {
	if a.foreign || b.foreign || a.calendar.long() || b.calendar.long() {
		return Value{}, false
	}
	u, w, ok := twoUnits(a.code(), b.code())
	if !ok {
		return Value{}, false
	}
	var unit ucum.Unit
	var d decimal
	var err error
	if divide {
		unit, err = u.Div(w)
		d, ok = a.decimal().over(b.decimal())
	} else {
		unit, err = u.Mul(w)
		d, ok = a.decimal().times(b.decimal())
	}
	if err != nil || !ok {
		return Value{}, false
	}
	q := number(d)
	q.kind, q.text = kindQuantity, []byte(unit.String())
	return q, true
}

// Days in the units of the calendar where a date does not say them (N1 6.7.1).
const (
	daysOfYear  = 365
	daysOfMonth = 30
)

// shift adds a duration to a moment. ok is false where the result is beyond the years 1 to
// 9999; legal is false where the unit is none that can be added: a date has no 'cm', and a year
// of UCUM is no year of the calendar.
func shift(m moment, k kind, q *Value, negative bool) (r moment, ok, legal bool) {
	unit := q.calendar
	if unit == calendarNone && !q.foreign {
		if unit = ucumCalendar(q.text); unit.long() {
			return m, false, false
		}
	}
	if unit == calendarNone || k == kindTime && unit < calendarHour {
		return m, false, false
	}
	d := q.decimal()
	if negative {
		d = d.negative()
	}
	if unit >= calendarSecond {
		r, ok = m.plusSeconds(d, unit, k)
		return r, ok, true
	}
	cut, ok := d.rounded(0, apd.RoundDown) // a fraction counts for seconds alone
	n, fits := cut.integer()
	if !ok || !fits || n > 1e9 || n < -1e9 {
		return m, false, true
	}
	r, ok = m.plus(n, unit, k)
	return r, ok, true
}

// plus adds whole units. What is finer than the moment's own precision is counted in that
// first, so a year plus 13 months is the next year.
func (m moment) plus(n int64, unit calendar, k kind) (moment, bool) {
	switch {
	case unit == calendarYear:
		return m.plusMonths(12 * n)
	case unit == calendarMonth && m.prec == precYear:
		return m.plusMonths(n / 12 * 12)
	case unit == calendarMonth:
		return m.plusMonths(n)
	}
	seconds := n * map[calendar]int64{
		calendarWeek: 7 * daySeconds, calendarDay: daySeconds, calendarHour: hourSeconds, calendarMinute: minuteSeconds,
	}[unit]
	return m.plusWhole(seconds, 0, k)
}

// plusWhole adds seconds, cut to the precision of the moment.
func (m moment) plusWhole(seconds int64, nanos int32, k kind) (moment, bool) {
	switch m.prec {
	case precYear:
		return m.plusMonths(seconds / (daysOfYear * daySeconds) * 12)
	case precMonth:
		return m.plusMonths(seconds / (daysOfMonth * daySeconds))
	case precDay:
		seconds -= seconds % daySeconds
	case precHour:
		seconds -= seconds % hourSeconds
	case precMinute:
		seconds -= seconds % minuteSeconds
	default:
		m.nanos += nanos
		if m.nanos >= 1e9 {
			m.nanos, seconds = m.nanos-1e9, seconds+1
		} else if m.nanos < 0 {
			m.nanos, seconds = m.nanos+1e9, seconds-1
		}
		if nanos != 0 && m.digits < 3 {
			m.prec, m.digits = precFraction, 3
		}
	}
	m.seconds += seconds
	if k == kindTime { // the clock goes round
		m.seconds -= floor(m.seconds, daySeconds) * daySeconds
		return m, true
	}
	return m, m.seconds >= 0 && m.seconds < daysBefore(10000, 1, 1)*daySeconds
}

// plusMonths keeps the day, or takes the last of a month that is shorter.
func (m moment) plusMonths(n int64) (moment, bool) {
	y, mo, d := dateOf(m.seconds / daySeconds)
	months := int64(y)*12 + int64(mo) - 1 + n
	if months < 12 || months >= 10000*12 {
		return m, false
	}
	y, mo = int(months/12), int(months%12)+1
	m.seconds = daysBefore(y, mo, min(d, daysIn(y, mo)))*daySeconds + m.seconds%daySeconds
	return m, true
}

func (m moment) plusSeconds(d decimal, unit calendar, k kind) (moment, bool) {
	places := int32(9)
	if unit == calendarMillisecond {
		places = 6
	}
	scaled, ok := d.rounded(places, apd.RoundDown)
	if !ok {
		return m, false
	}
	nanos, ok := scaled.scaled(places)
	if !ok {
		return m, false
	}
	return m.plusWhole(nanos/1e9, int32(nanos%1e9), k)
}
