package fhirpath

import (
	"cmp"
	"strconv"
)

// precision of a date or time: the last part that is known.
type precision uint8

const (
	precYear precision = iota + 1
	precMonth
	precDay
	precHour
	precMinute
	precSecond
	precFraction
)

// moment is a date, a dateTime or a time as it was written. Seconds count from the first day of
// the year 1 (of the day, for a time) by the clock of its place; its zone is not taken off.
type moment struct {
	seconds int64
	nanos   int32
	zone    int16 // minutes, or noZone
	prec    precision
	digits  uint8 // of the fraction of a second
}

const noZone = -1 << 15

const (
	minuteSeconds = 60
	hourSeconds   = 60 * minuteSeconds
	daySeconds    = 24 * hourSeconds
)

// daysBefore counts the days from 0001-01-01 to a date of the Gregorian calendar.
func daysBefore(year, month, day int) int64 {
	y, m := int64(year), int64(month)
	if m <= 2 {
		y, m = y-1, m+12
	}
	return 365*y + floor(y, 4) - floor(y, 100) + floor(y, 400) + (153*(m-3)+2)/5 + int64(day) - 307
}

func floor(a, b int64) int64 {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}

// dateOf is the inverse of daysBefore.
func dateOf(days int64) (year, month, day int) {
	z := days + 306 // from 0000-03-01
	era := floor(z, 146097)
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day = int(doy - (153*mp+2)/5 + 1)
	month = int(mp) + 3
	y := yoe + era*400
	if month > 12 {
		month, y = month-12, y+1
	}
	return int(y), month, day
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// parseDate reads 2015, 2015-02 and 2015-02-04, and what follows a T if it may have a time.
func parseDate(s []byte, mayHaveTime bool) (moment, bool) {
	p := momentParser{rest: s}
	year, month, day := 1, 1, 1
	m := moment{zone: noZone, prec: precYear}
	ok := p.number(&year, 4, 1, 9999)
	if ok && p.is('-') {
		ok, m.prec = p.number(&month, 2, 1, 12), precMonth
		if ok && p.is('-') {
			ok, m.prec = p.number(&day, 2, 1, daysIn(year, month)), precDay
		}
	}
	if !ok {
		return m, false
	}
	m.seconds = daysBefore(year, month, day) * daySeconds
	if mayHaveTime && p.is('T') && len(p.rest) > 0 {
		if m.prec != precDay || !p.clock(&m) {
			return m, false
		}
		m.zone, ok = p.zone()
	}
	return m, ok && len(p.rest) == 0
}

// parseTime reads 14, 14:34, 14:34:28 and 14:34:28.123.
func parseTime(s []byte) (moment, bool) {
	p, m := momentParser{rest: s}, moment{zone: noZone}
	return m, p.clock(&m) && len(p.rest) == 0
}

type momentParser struct{ rest []byte }

func (p *momentParser) is(c byte) bool {
	if len(p.rest) > 0 && p.rest[0] == c {
		p.rest = p.rest[1:]
		return true
	}
	return false
}

func (p *momentParser) number(v *int, digits, lo, hi int) bool {
	if len(p.rest) < digits {
		return false
	}
	n := 0
	for _, c := range p.rest[:digits] {
		if !isDigit(c) {
			return false
		}
		n = 10*n + int(c-'0')
	}
	*v, p.rest = n, p.rest[digits:]
	return n >= lo && n <= hi
}

func (p *momentParser) clock(m *moment) bool {
	var hour, minute, second int
	if !p.number(&hour, 2, 0, 23) {
		return false
	}
	m.prec = precHour
	if p.is(':') {
		if !p.number(&minute, 2, 0, 59) {
			return false
		}
		m.prec = precMinute
		if p.is(':') {
			// A leap second is taken for the one after it.
			if !p.number(&second, 2, 0, 60) {
				return false
			}
			m.prec = precSecond
			if p.is('.') && !p.fraction(m) {
				return false
			}
		}
	}
	m.seconds += int64(hour*hourSeconds + minute*minuteSeconds + second)
	return true
}

// fraction reads the digits of a fraction; those beyond nanoseconds are passed.
func (p *momentParser) fraction(m *moment) bool {
	n := 0
	for n < len(p.rest) && isDigit(p.rest[n]) {
		if n < 9 {
			m.nanos = 10*m.nanos + int32(p.rest[n]-'0')
		}
		n++
	}
	for i := n; i < 9; i++ {
		m.nanos *= 10
	}
	m.prec, m.digits, p.rest = precFraction, uint8(min(n, 9)), p.rest[n:]
	return n > 0
}

func (p *momentParser) zone() (int16, bool) {
	if len(p.rest) == 0 {
		return noZone, true
	}
	if p.is('Z') {
		return 0, true
	}
	negative := p.is('-')
	var hours, minutes int
	if !negative && !p.is('+') || !p.number(&hours, 2, 0, 14) || !p.is(':') || !p.number(&minutes, 2, 0, 59) {
		return 0, false
	}
	z := int16(60*hours + minutes)
	if negative {
		z = -z
	}
	return z, true
}

// The zones that a place may have whose zone is not known, in seconds.
const (
	eastmost = 14 * hourSeconds
	westmost = 12 * hourSeconds
)

// instant is a point on the time line.
type instant struct {
	seconds int64
	nanos   int32
}

func (a instant) compare(b instant) int {
	if c := cmp.Compare(a.seconds, b.seconds); c != 0 {
		return c
	}
	return cmp.Compare(a.nanos, b.nanos)
}

// end is the first second behind what m covers. Seconds and their fractions are one precision
// (N1 6.2), so these are points and have none.
func (m moment) end() int64 {
	switch m.prec {
	case precYear, precMonth:
		y, mo, _ := dateOf(m.seconds / daySeconds)
		if mo++; m.prec == precYear || mo > 12 {
			y, mo = y+1, 1
		}
		return daysBefore(y, mo, 1) * daySeconds
	case precDay:
		return m.seconds + daySeconds
	case precHour:
		return m.seconds + hourSeconds
	case precMinute:
		return m.seconds + minuteSeconds
	}
	return m.seconds
}

// comparing says how two moments relate: known is false where precision or a missing zone leave
// it open. This is N1 6.1.1 and 6.2 (the parts are compared from the left, until one is there
// on one side alone) seen as ranges, which also hold zones that differ.
func comparing(a, b moment) (c int, known bool) {
	samePrecision := min(a.prec, precSecond) == min(b.prec, precSecond)
	if (a.zone == noZone) == (b.zone == noZone) && samePrecision {
		x, y := instant{a.seconds, a.nanos}, instant{b.seconds, b.nanos}
		if a.zone != noZone {
			x.seconds -= int64(a.zone) * 60
			y.seconds -= int64(b.zone) * 60
		}
		return x.compare(y), true
	}
	zoned := a.zone != noZone || b.zone != noZone
	alo, ahi := a.limits(zoned)
	blo, bhi := b.limits(zoned)
	switch {
	case before(ahi, blo, a, b):
		return -1, true
	case before(bhi, alo, b, a):
		return 1, true
	}
	return 0, false
}

// before reports whether the end of a lies before the beginning of b. A point ends where it
// begins, everything else before its end.
func before(end, begin instant, a, b moment) bool {
	c := end.compare(begin)
	return c < 0 || c == 0 && a.prec < precSecond
}

func (m moment) limits(zoned bool) (lo, hi instant) {
	lo, hi = instant{m.seconds, m.nanos}, instant{m.end(), m.nanos}
	switch {
	case !zoned:
	case m.zone == noZone:
		lo.seconds -= eastmost
		hi.seconds += westmost
	default:
		lo.seconds -= int64(m.zone) * 60
		hi.seconds -= int64(m.zone) * 60
	}
	return lo, hi
}

// append writes m as in a literal, without the @.
func (m moment) append(b []byte, k kind) []byte {
	if k != kindTime {
		b = m.appendDate(b)
		if m.prec < precHour {
			return b
		}
		b = append(b, 'T')
	}
	s := int(m.seconds % daySeconds)
	b = pad(b, s/hourSeconds, 2)
	if m.prec >= precMinute {
		b = pad(append(b, ':'), s/minuteSeconds%60, 2)
	}
	if m.prec >= precSecond {
		b = pad(append(b, ':'), s%60, 2)
	}
	if m.prec == precFraction {
		nanos := pad(nil, int(m.nanos), 9)
		b = append(append(b, '.'), nanos[:m.digits]...)
	}
	return m.appendZone(b)
}

func (m moment) appendDate(b []byte) []byte {
	y, mo, d := dateOf(m.seconds / daySeconds)
	b = pad(b, y, 4)
	if m.prec >= precMonth {
		b = pad(append(b, '-'), mo, 2)
	}
	if m.prec >= precDay {
		b = pad(append(b, '-'), d, 2)
	}
	return b
}

func (m moment) appendZone(b []byte) []byte {
	switch z := int(m.zone); {
	case z == noZone:
		return b
	case z == 0:
		return append(b, 'Z')
	case z < 0:
		return pad(append(pad(append(b, '-'), -z/60, 2), ':'), -z%60, 2)
	default:
		return pad(append(pad(append(b, '+'), z/60, 2), ':'), z%60, 2)
	}
}

func pad(b []byte, n, width int) []byte {
	var buf [20]byte
	s := strconv.AppendInt(buf[:0], int64(n), 10)
	for i := len(s); i < width; i++ {
		b = append(b, '0')
	}
	return append(b, s...)
}
