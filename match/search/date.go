package search

import (
	"math"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// moment is a point in time, in nanoseconds over all years of FHIR (0001 to 9999), which 64
// bits of nanoseconds would not hold.
type moment struct {
	sec  int64 // since 1970
	nano int32
}

var (
	earliest = moment{sec: math.MinInt64}
	latest   = moment{sec: math.MaxInt64}
)

func (m moment) before(o moment) bool {
	return m.sec < o.sec || m.sec == o.sec && m.nano < o.nano
}

func (m moment) plus(nanos int64) moment {
	t := int64(m.nano) + nanos
	return moment{m.sec + t/1e9, int32(t % 1e9)}
}

// span is a range of time from lo up to but without hi: what a date's precision covers, or a
// period. A missing end of a period lies beyond every date (R4 3.1.1.4.7).
type span struct {
	lo, hi moment
	raw    []byte // the element's text; nil for what has none of its own
}

func (s span) contains(o span) bool { return !o.lo.before(s.lo) && !s.hi.before(o.hi) }
func (s span) overlaps(o span) bool { return s.lo.before(o.hi) && o.lo.before(s.hi) }

// parseTime reads a date, dateTime or instant as the range that its precision covers. A time
// without a zone is taken as UTC. 24:00 and a leap second are the beginning of what follows.
func parseTime(b []byte) (span, bool) {
	p := timeParser{b: b}
	year, ok := p.digits(4)
	if !ok || year == 0 {
		return span{}, false
	}
	month, day := 1, 1
	switch {
	case len(p.b) == 0:
		return days(year, 1, 1, year+1, 1, 1, b), true
	case !p.sep('-') || !p.within(&month, 2, 1, 12):
		return span{}, false
	case len(p.b) == 0:
		return days(year, month, 1, year, month+1, 1, b), true
	case !p.sep('-') || !p.within(&day, 2, 1, daysIn(year, month)):
		return span{}, false
	case len(p.b) == 0:
		return days(year, month, day, year, month, day+1, b), true
	case !p.sep('T'):
		return span{}, false
	}
	return p.clock(year, month, day, b)
}

func days(y, m, d, y2, m2, d2 int, raw []byte) span {
	return span{
		moment{sec: time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC).Unix()},
		moment{sec: time.Date(y2, time.Month(m2), d2, 0, 0, 0, 0, time.UTC).Unix()},
		raw,
	}
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month+1), 0, 0, 0, 0, 0, time.UTC).Day()
}

type timeParser struct{ b []byte }

func (p *timeParser) digits(n int) (int, bool) {
	if len(p.b) < n {
		return 0, false
	}
	v := 0
	for _, c := range p.b[:n] {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	p.b = p.b[n:]
	return v, true
}

func (p *timeParser) within(v *int, n, lo, hi int) bool {
	x, ok := p.digits(n)
	*v = x
	return ok && lo <= x && x <= hi
}

func (p *timeParser) sep(c byte) bool {
	if len(p.b) == 0 || p.b[0] != c {
		return false
	}
	p.b = p.b[1:]
	return true
}

// clock reads the time of day and the zone.
func (p *timeParser) clock(year, month, day int, raw []byte) (span, bool) {
	var hour, minute, second int
	if !p.within(&hour, 2, 0, 24) || !p.sep(':') || !p.within(&minute, 2, 0, 59) {
		return span{}, false
	}
	width, nano := int64(60e9), int64(0)
	if p.sep(':') {
		if !p.within(&second, 2, 0, 60) {
			return span{}, false
		}
		width = 1e9
		if p.sep('.') {
			var ok bool
			if nano, width, ok = p.fraction(); !ok {
				return span{}, false
			}
		}
	}
	if hour == 24 && (minute != 0 || second != 0 || nano != 0) {
		return span{}, false
	}
	offset, ok := p.zone()
	if !ok {
		return span{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	lo := moment{t.Unix() - offset, int32(nano)}
	return span{lo, lo.plus(width), raw}, true
}

// fraction reads the digits after the point: nanoseconds, and how many their precision covers.
func (p *timeParser) fraction() (nano, width int64, ok bool) {
	n := 0
	width = 1e9
	for ; n < len(p.b) && '0' <= p.b[n] && p.b[n] <= '9'; n++ {
		if width > 1 { // digits beyond the nanosecond are let go
			width /= 10
			nano += int64(p.b[n]-'0') * width
		}
	}
	p.b = p.b[n:]
	return nano, width, n > 0
}

// zone reads Z, +hh:mm, -hh:mm or nothing, in seconds east of UTC.
func (p *timeParser) zone() (int64, bool) {
	if len(p.b) == 0 {
		return 0, true
	}
	sign := p.b[0]
	p.b = p.b[1:]
	if sign == 'Z' {
		return 0, len(p.b) == 0
	}
	var hour, minute int
	if sign != '+' && sign != '-' || !p.within(&hour, 2, 0, 14) || !p.sep(':') ||
		!p.within(&minute, 2, 0, 59) || len(p.b) > 0 || hour == 14 && minute > 0 {
		return 0, false
	}
	offset := int64(hour*3600 + minute*60)
	if sign == '-' {
		offset = -offset
	}
	return offset, true
}

func (r *Resource) readSpan(n json.Node, l leaf) {
	switch l {
	case leafDateTime:
		if s, ok := parseTime(r.tree.Text(n)); ok {
			r.spans = append(r.spans, s)
		}
	case leafInstant: // a point, whatever its precision (R4 3.1.1.4.7)
		if s, ok := parseTime(r.tree.Text(n)); ok {
			s.hi = s.lo.plus(1)
			r.spans = append(r.spans, s)
		}
	case leafPeriod:
		if s, ok := r.period(n); ok {
			r.spans = append(r.spans, s)
		}
	case leafTiming:
		if s, ok := r.timing(n); ok {
			r.spans = append(r.spans, s)
		}
	}
}

func (r *Resource) period(n json.Node) (span, bool) {
	start, hasStart := parseTime(r.str(n, nameStart))
	end, hasEnd := parseTime(r.str(n, nameEnd))
	s := span{lo: earliest, hi: latest, raw: r.tree.Raw(n)}
	if hasStart {
		s.lo = start.lo
	}
	if hasEnd {
		s.hi = end.hi
	}
	// One that ends before it starts (against R4 datatypes, per-1) holds no time at all.
	return s, (hasStart || hasEnd) && s.lo.before(s.hi)
}

// timing gives the outer limits of a schedule: the rest of it is not looked at (R4 3.1.1.4.7).
func (r *Resource) timing(n json.Node) (span, bool) {
	out := span{lo: latest, hi: earliest, raw: r.tree.Raw(n)}
	found := false
	widen := func(s span, ok bool) {
		if !ok {
			return
		}
		found = true
		if s.lo.before(out.lo) {
			out.lo = s.lo
		}
		if out.hi.before(s.hi) {
			out.hi = s.hi
		}
	}
	for e := r.tree.First(r.tree.Find(n, nameEvent)); e != 0; e = r.tree.Next(e) {
		widen(parseTime(r.tree.Text(e)))
	}
	if b := r.tree.Find(r.tree.Find(n, nameRepeat), nameBounds); b != 0 {
		widen(r.period(b))
	}
	return out, found
}

// wantSpan is one value of a date condition.
type wantSpan struct {
	op comparator
	span
}

// match compares ranges as R4 3.1.1.4.5 has it. "Approximately" is an overlap: widening it by
// a tenth of the distance from now would let the same event match on one node and not on
// another, and no clock takes part in matching.
func (w *wantSpan) match(v *span) bool {
	switch w.op {
	case opEqual:
		return w.contains(*v)
	case opNotEqual:
		return !w.contains(*v)
	case opGreater:
		return w.hi.before(v.hi)
	case opLess:
		return v.lo.before(w.lo)
	case opGreaterEqual:
		return w.hi.before(v.hi) || w.contains(*v)
	case opLessEqual:
		return v.lo.before(w.lo) || w.contains(*v)
	case opStartsAfter:
		return !v.lo.before(w.hi)
	case opEndsBefore:
		return !w.lo.before(v.hi)
	}
	return w.overlaps(*v)
}

// date reads one value of a date condition.
func (c *compiler) date(raw string) (wantSpan, error) {
	s, err := unescape(raw)
	if err != nil {
		return wantSpan{}, err
	}
	op, s, err := cutComparator(s)
	if err != nil {
		return wantSpan{}, err
	}
	// The + of a time zone arrives as a space where its author did not encode it.
	s = strings.Replace(s, " ", "+", 1)
	v, ok := parseTime([]byte(s))
	if !ok {
		return wantSpan{}, refusal("the value must be a date or time such as 2025-03, 2025-03-14 or " +
			"2025-03-14T10:00:00Z, with a prefix such as ge before it if wanted")
	}
	return wantSpan{op, v}, nil
}

func (w *wantSpan) text() string { return w.op.String() + string(w.raw) }
