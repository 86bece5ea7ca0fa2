package search

import (
	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/ucum"
)

// Quantities whose units are both of UCUM are compared by what they measure: gt5.4 g is met by
// 5500 mg (R4 3.1.1.4.11 leaves the conversion to the server). All others are compared by the
// text of their units.

// Bounds of what is converted. A unit in use has some twenty bytes, and its factor some tens of
// digits; beyond these bounds units are compared as texts.
const (
	maxUnitCode   = 64
	maxUnitDigits = 300
	keptMeasures  = 256 // units that a worker remembers
	keptRelations = 64  // for each of them: units that it was converted to
)

// measure is a unit that the resources of one worker have. It is read when a value in it is held
// against one in another unit, and remembered from resource to resource: records have few units.
type measure struct {
	code      string
	read      bool
	unit      ucum.Unit
	known     bool                 // the code is a unit of UCUM
	relations map[string]*relation // by the code that was asked for; nil: does not convert
	based     *scale               // nil until an index asks
}

// relation brings a resource's value v and a wanted value w to numbers that compare as they do:
// mul × v + add, and div × w.
type relation struct{ mul, add, div decimal }

// measure gives what is known of a quantity's unit, nil for one that does not convert.
func (r *Resource) measure(system, code []byte) *measure {
	if len(code) == 0 || len(code) > maxUnitCode || string(system) != ucum.System {
		return nil
	}
	if m := r.measures[string(code)]; m != nil {
		return m
	}
	if r.measures == nil || len(r.measures) >= keptMeasures {
		r.measures = map[string]*measure{}
	}
	m := &measure{code: string(code)}
	r.measures[m.code] = m
	return m
}

// parse reads the code, once, and reports whether it is a unit of UCUM.
func (m *measure) parse() bool {
	if !m.read {
		u, err := ucum.Parse(m.code)
		m.unit, m.known, m.read = u, err == nil, true
	}
	return m.known
}

// to gives the relation to a wanted unit, nil if there is none.
func (m *measure) to(code string, wanted *ucum.Unit) *relation {
	if rel, seen := m.relations[code]; seen {
		return rel
	}
	m.parse()
	if m.relations == nil || len(m.relations) >= keptRelations {
		m.relations = map[string]*relation{}
	}
	var rel *relation
	if m.known {
		rel = relate(m.unit, *wanted)
	}
	m.relations[code] = rel
	return rel
}

func relate(from, to ucum.Unit) *relation {
	r, err := ucum.Relate(from, to)
	if err != nil {
		return nil
	}
	for _, d := range []*apd.Decimal{r.Mul, r.Add, r.Div} {
		if d.NumDigits() > maxUnitDigits {
			return nil
		}
	}
	small := func(d *apd.Decimal) decimal { return decimal{big: d}.reduce() }
	return &relation{small(r.Mul), small(r.Add), small(r.Div)}
}

// compare orders a resource's value and a wanted one; without a relation they have one unit.
func (rel *relation) compare(v, w *decimal) int {
	if rel == nil {
		return v.compare(*w)
	}
	return v.mul(rel.mul).plus(rel.add).compare(w.mul(rel.div))
}

// converts reports whether a value has to be converted to be held against w, which both allow.
func (w *wantAmount) converts(v *amount) bool {
	return w.measure != nil && v.measure != nil && w.code != v.measure.code
}

// hitAmounts decides a number or quantity condition.
func (c *condition) hitAmounts(r *Resource, values []amount) bool {
	for i := range values {
		v := &values[i]
		cost := 0
		for k := range c.amounts {
			cost += amountCost(&c.amounts[k], v)
		}
		if !r.spend(cost) {
			return false
		}
		for k := range c.amounts {
			if c.amounts[k].match(v) {
				return true
			}
		}
	}
	return false
}

// amountCost is what one comparison costs. A conversion counts as if the unit were read for the
// first time: what a worker remembers must not decide whether the steps suffice.
func amountCost(w *wantAmount, v *amount) int {
	cost := 1 + max(w.exact.cost(), w.lo.cost(), w.hi.cost()) + max(v.lo.cost(), v.hi.cost())
	if w.converts(v) {
		cost += 256 + 32*len(v.code)
	}
	return cost
}

// cost is what it takes to compare with a number: one beyond 64 bits is compared digit by digit,
// whichever side it is on.
func (d decimal) cost() int {
	if d.big == nil {
		return 0
	}
	return 16 + int(d.big.NumDigits())/8
}
