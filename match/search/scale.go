package search

import (
	"math"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/ucum"
)

// An index finds quantities in different units of one kind by their size in base units, in float64
// and rounded outwards like everything that has an order. Match decides, exactly.

// maxMeasured bounds the quantities of one resource whose units are read to find criteria. With
// more, whoever asks for quantities of a unit is asked.
const maxMeasured = 256

// ends gives the outermost ends of what the value can mean: as written, or with a unit in its
// base units.
func (w *wantAmount) ends() (low, high float64, unit string, ok bool) {
	read := func(d decimal) (Range, bool) { return outwards(d), true }
	if w.units == systemUnit && w.measure != nil {
		unit = w.measure.Key()
		read = func(d decimal) (Range, bool) {
			v, _, err := ucum.Canonical(d.apd(), *w.measure)
			if err != nil {
				return Range{}, false
			}
			return outwards(decimal{big: v}), true
		}
	}
	low, high = math.Inf(1), math.Inf(-1)
	for _, d := range [...]decimal{w.lo, w.exact, w.hi} {
		r, ok := read(d)
		if !ok {
			return 0, 0, "", false
		}
		low, high = min(low, r.Low), max(high, r.High)
	}
	return low, high, unit, true
}

// scale brings the values of a unit to base units: factor × v + zero.
type scale struct {
	unit         string // ucum.Unit.Key; empty: the code is no unit
	factor, zero float64
}

// scale is read once for a unit, like all that is known of it.
func (m *measure) scale() *scale {
	if m.based != nil {
		return m.based
	}
	m.based = &scale{}
	if !m.parse() {
		return m.based
	}
	zero, _, err := ucum.Canonical(apd.New(0, 0), m.unit)
	if err != nil {
		zero = apd.New(0, 0)
	}
	one, unit, err2 := ucum.Canonical(apd.New(1, 0), m.unit)
	m.based.unit = m.unit.Key()
	if err != nil || err2 != nil {
		m.based.factor = math.NaN() // nothing is known of the size, but that it is one
		return m.based
	}
	m.based.unit = unit
	z := decimal{big: zero}
	m.based.factor = decimal{big: one}.plus(z.times(-1, 0)).float()
	m.based.zero = z.float()
	return m.based
}

// of gives a range that holds a number of the unit, in base units.
func (s *scale) of(d decimal) Range {
	v := d.float()
	base := s.factor*v + s.zero
	room := (math.Abs(s.factor*v)+math.Abs(s.zero))*1e-11 + 1e-280
	// What is too small for a float64 may be of a unit that is too large for one.
	lost := math.Abs(s.factor) < 1e-290 || math.Abs(v) < 1e-290 && d.sign() != 0
	if lost || math.IsNaN(base) || math.IsInf(base, 0) || math.IsInf(room, 0) {
		return Range{math.Inf(-1), math.Inf(1)}
	}
	return Range{base - room, base + room}
}

// baseRange is Range for quantities of one kind.
func (r *Resource) baseRange(unit string, values []amount) (hull Range, ok bool) {
	if len(values) > maxMeasured {
		return Range{math.Inf(-1), math.Inf(1)}, true
	}
	r.work += uint64(len(values))
	hull = Range{math.Inf(1), math.Inf(-1)}
	for i := range values {
		v := &values[i]
		if v.measure == nil {
			continue
		}
		s := v.measure.scale()
		if s.unit != unit {
			continue
		}
		low, high := math.Inf(-1), math.Inf(1)
		if !v.noLo {
			low = s.of(v.lo).Low
		}
		if !v.noHi {
			high = s.of(v.hi).High
		}
		hull, ok = hull.with(low, high), true
	}
	return hull, ok
}
