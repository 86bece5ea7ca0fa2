package search

import (
	"bytes"
	"cmp"
	"math/bits"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/ucum"
)

// comparator is the prefix of an ordered value (R4 3.1.1.4.5).
type comparator uint8

const (
	opEqual comparator = iota
	opNotEqual
	opGreater
	opLess
	opGreaterEqual
	opLessEqual
	opStartsAfter
	opEndsBefore
	opApproximately
)

var comparators = [...]string{"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"}

func (o comparator) String() string { return comparators[o] }

// cutComparator takes the prefix off a value.
func cutComparator(s string) (comparator, string, error) {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return opEqual, s, nil
	}
	for i, p := range comparators {
		if len(s) > 2 && s[:2] == p {
			return comparator(i), s[2:], nil
		}
	}
	return 0, s, refusal("the prefix must be one of eq, ne, gt, lt, ge, le, sa, eb, ap")
}

// decimal is an exact decimal number: coef × 10^exp, or big where 64 bits are too few.
type decimal struct {
	coef int64
	exp  int32
	big  *apd.Decimal
}

// Bounds of what is read as a number. FHIR asks for 18 digits; what is beyond these bounds is
// nobody's measurement and would only cost time.
const (
	maxDigits   = 400
	maxExponent = 1000
)

// parseDecimal reads a number by JSON's grammar, leading zeros allowed.
func parseDecimal(s []byte) (decimal, bool) {
	d, i, digits := decimal{}, 0, 0
	neg := i < len(s) && s[i] == '-'
	if neg {
		i++
	}
	start, point, fits := i, -1, true
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.' && point < 0:
			point = i
			continue
		case '0' <= c && c <= '9':
			digits++
			if d.coef > (1<<63-10)/10 {
				fits = false
			} else if fits {
				d.coef = d.coef*10 + int64(c-'0')
			}
			continue
		}
		break
	}
	mantissa := i
	if digits == 0 || digits > maxDigits || point == start || point == i-1 {
		return decimal{}, false
	}
	if point >= 0 {
		d.exp = -int32(mantissa - point - 1)
	}
	if i < len(s) {
		if s[i] != 'e' && s[i] != 'E' {
			return decimal{}, false
		}
		e, err := strconv.Atoi(string(s[i+1:]))
		if err != nil || e > maxExponent || e < -maxExponent {
			return decimal{}, false
		}
		d.exp += int32(e)
	}
	if neg {
		d.coef = -d.coef
	}
	if !fits {
		b, _, err := apd.NewFromString(string(s))
		return decimal{big: b}, err == nil
	}
	return d, true
}

func (d decimal) apd() *apd.Decimal {
	if d.big != nil {
		return d.big
	}
	return apd.New(d.coef, d.exp)
}

// exponent is that of the last digit that was written.
func (d decimal) exponent() int32 {
	if d.big != nil {
		return d.big.Exponent
	}
	return d.exp
}

func (d decimal) sign() int {
	if d.big != nil {
		return d.big.Sign()
	}
	return cmp.Compare(d.coef, 0)
}

// compare orders two numbers by value, exactly.
func (d decimal) compare(o decimal) int {
	switch {
	case d.big != nil || o.big != nil:
		return d.apd().Cmp(o.apd())
	case d.exp == o.exp:
		return cmp.Compare(d.coef, o.coef)
	case d.sign() != o.sign() || d.sign() == 0:
		return cmp.Compare(d.sign(), o.sign())
	}
	a, b := magnitude(d.coef), magnitude(o.coef)
	// Numbers of different size are told apart by the place of their first digit; of the same
	// size, at most 18 zeros bring them to one exponent, which 128 bits hold.
	c := cmp.Compare(width(a)+int(d.exp), width(b)+int(o.exp))
	if c == 0 {
		if d.exp > o.exp {
			c = compareScaled(a, d.exp-o.exp, b)
		} else {
			c = -compareScaled(b, o.exp-d.exp, a)
		}
	}
	return c * d.sign()
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return uint64(-v)
	}
	return uint64(v)
}

// width counts decimal digits.
func width(v uint64) int {
	n := 1
	for v >= 10 {
		v /= 10
		n++
	}
	return n
}

// compareScaled compares a × 10^zeros with b.
func compareScaled(a uint64, zeros int32, b uint64) int {
	hi, lo := bits.Mul64(a, powers[zeros])
	if hi != 0 {
		return 1
	}
	return cmp.Compare(lo, b)
}

var powers = func() (p [20]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

// times multiplies exactly by n × 10^exp.
func (d decimal) times(n int64, exp int32) decimal {
	if d.big == nil {
		hi, lo := bits.Mul64(magnitude(d.coef), magnitude(n))
		if hi == 0 && lo < 1<<63 {
			c := int64(lo)
			if (d.coef < 0) != (n < 0) {
				c = -c
			}
			return decimal{coef: c, exp: d.exp + exp}
		}
	}
	out := new(apd.Decimal)
	_, _ = exact.Mul(out, d.apd(), apd.New(n, exp)) // cannot fail: bounded digits, wide context
	return decimal{big: out}
}

// plus adds exactly.
func (d decimal) plus(o decimal) decimal {
	if s, ok := d.plusSmall(o); ok {
		return s
	}
	out := new(apd.Decimal)
	_, _ = exact.Add(out, d.apd(), o.apd()) // cannot fail: bounded digits, wide context
	return decimal{big: out}.reduce()
}

// plusSmall adds where 64 bits hold everything.
func (d decimal) plusSmall(o decimal) (decimal, bool) {
	if d.big != nil || o.big != nil {
		return d, false
	}
	if d.exp < o.exp {
		d, o = o, d
	}
	if d.coef != 0 && d.exp != o.exp {
		zeros := d.exp - o.exp
		if width(magnitude(d.coef))+int(zeros) > 18 {
			return d, false
		}
		d.coef *= int64(powers[zeros])
	}
	d.exp = o.exp
	sum := d.coef + o.coef
	if (sum > d.coef) != (o.coef > 0) {
		return d, false // beyond 64 bits
	}
	d.coef = sum
	return d, true
}

// mul multiplies exactly.
func (d decimal) mul(o decimal) decimal {
	if o.big == nil && d.big == nil {
		return d.times(o.coef, o.exp)
	}
	out := new(apd.Decimal)
	_, _ = exact.Mul(out, d.apd(), o.apd())
	return decimal{big: out}.reduce()
}

// exact has room for every digit of two bounded numbers.
var exact = apd.BaseContext.WithPrecision(4*maxDigits + 4*maxExponent)

// reduce brings a number back to 64 bits where it fits.
func (d decimal) reduce() decimal {
	if d.big.Coeff.IsInt64() && d.big.Form == apd.Finite {
		c := d.big.Coeff.Int64()
		if d.big.Negative {
			c = -c
		}
		return decimal{coef: c, exp: d.big.Exponent}
	}
	return d
}

// amount is a value that number and quantity parameters compare: a number or a range of
// numbers, with its unit.
type amount struct {
	lo, hi          decimal
	noLo, noHi      bool // there is no such end
	overLo, belowHi bool // the end itself is not part of it
	system          []byte
	code            []byte
	unit            []byte
	raw             []byte
	measure         *measure // of system and code, where they are UCUM's
}

// currencies is the system of Money.currency (R4 datatypes, Money).
var currencies = []byte("urn:iso:std:iso:4217")

func (r *Resource) readAmount(n json.Node, l leaf) {
	a := amount{raw: r.tree.Raw(n)}
	ok := false
	switch l {
	case leafDecimal:
		ok = r.number(n, &a.lo)
		a.hi = a.lo
	case leafQuantity:
		ok = r.quantity(n, &a)
	case leafMoney:
		ok = r.number(r.tree.Find(n, nameValue), &a.lo)
		a.hi, a.system, a.code = a.lo, currencies, r.str(n, nameCurrency)
	case leafRange:
		ok = r.bounds(n, &a)
	case leafSampledData:
		ok = r.sampled(n, &a)
	}
	if ok {
		r.amounts = append(r.amounts, a)
	}
}

func (r *Resource) number(n json.Node, d *decimal) bool {
	if r.tree.Kind(n) != json.Number {
		return false
	}
	v, ok := parseDecimal(r.tree.Raw(n))
	*d = v
	return ok
}

// quantity reads a Quantity; its comparator makes it a range that is open at one end.
func (r *Resource) quantity(n json.Node, a *amount) bool {
	if !r.number(r.tree.Find(n, nameValue), &a.lo) {
		return false
	}
	a.hi = a.lo
	r.units(n, a)
	switch string(r.str(n, nameComparator)) {
	case "":
	case "<":
		a.noLo, a.belowHi = true, true
	case "<=":
		a.noLo = true
	case ">":
		a.noHi, a.overLo = true, true
	case ">=":
		a.noHi = true
	default:
		return false // a comparator of a later version may mean anything
	}
	return true
}

func (r *Resource) units(n json.Node, a *amount) {
	a.system, a.code, a.unit = r.str(n, nameSystem), r.str(n, nameCode), r.str(n, nameUnit)
	a.measure = r.measure(a.system, a.code)
}

// bounds reads a Range; a missing end is open. Ends in different units, or the wrong way round,
// are no range (R4 datatypes, Range: the units shall match, rng-2).
func (r *Resource) bounds(n json.Node, a *amount) bool {
	low, high := r.tree.Find(n, nameLow), r.tree.Find(n, nameHigh)
	a.noLo = !r.number(r.tree.Find(low, nameValue), &a.lo)
	a.noHi = !r.number(r.tree.Find(high, nameValue), &a.hi)
	if a.noLo || a.noHi {
		if a.noLo {
			low = high
		}
		r.units(low, a)
		return !a.noLo || !a.noHi
	}
	other := *a
	r.units(low, a)
	r.units(high, &other)
	return a.sameUnit(&other) && a.lo.compare(a.hi) <= 0
}

// sameUnit reports whether two quantities name one unit. One that names none is taken to have
// the other's, and gets it.
func (a *amount) sameUnit(o *amount) bool {
	switch {
	case o.code == nil && o.unit == nil:
		return true
	case a.code == nil && a.unit == nil:
		a.system, a.code, a.unit, a.measure = o.system, o.code, o.unit, o.measure
		return true
	case a.code == nil || o.code == nil:
		return bytes.Equal(a.unit, o.unit)
	}
	return bytes.Equal(a.code, o.code) && bytes.Equal(a.system, o.system)
}

// sampled reads the bounds of the values of SampledData, which is what the parameters that
// allow it ask for (Observation value-quantity: "just search on the bounds").
func (r *Resource) sampled(n json.Node, a *amount) bool {
	origin := r.tree.Find(n, nameOrigin)
	r.units(origin, a)
	var zero, factor decimal
	if !r.number(r.tree.Find(origin, nameValue), &zero) {
		return false
	}
	if !r.number(r.tree.Find(n, nameFactor), &factor) {
		factor = decimal{coef: 1}
	}
	found := false
	widen := func(v decimal) {
		if !found || v.compare(a.lo) < 0 {
			a.lo = v
		}
		if !found || v.compare(a.hi) > 0 {
			a.hi = v
		}
		found = true
	}
	lo, hi, any := decimal{}, decimal{}, false
	for f := range bytes.FieldsSeq(r.str(n, nameData)) {
		var limit decimal
		switch v, ok := parseDecimal(f); {
		case ok && (!any || v.compare(lo) < 0 || v.compare(hi) > 0):
			if !any || v.compare(lo) < 0 {
				lo = v
			}
			if !any || v.compare(hi) > 0 {
				hi = v
			}
			any = true
		case string(f) == "L" && r.number(r.tree.Find(n, nameLower), &limit),
			string(f) == "U" && r.number(r.tree.Find(n, nameUpper), &limit):
			widen(limit) // below or above what could be measured: the limit is all that is known
		}
	}
	if any {
		widen(lo.mul(factor).plus(zero))
		widen(hi.mul(factor).plus(zero))
	}
	return found
}

// wantAmount is one value of a number or quantity condition.
type wantAmount struct {
	op     comparator
	exact  decimal
	lo, hi decimal // what the value's precision covers: from lo up to but without hi
	units  units
	system string
	code   string
	number string // as written, for the canonical form

	measure *ucum.Unit // of system and code, where they are UCUM's
}

type units uint8

const (
	anyUnit    units = iota
	systemUnit       // number|system|code
	namedUnit        // number||code: code or unit
	systemAny        // number|system|
)

func (w *wantAmount) match(v *amount) bool {
	var rel *relation
	switch w.units {
	case systemUnit:
		switch {
		case string(v.system) != w.system:
			return false
		case string(v.code) == w.code:
		case !w.converts(v):
			return false
		default:
			if rel = v.measure.to(w.code, w.measure); rel == nil {
				return false
			}
		}
	case namedUnit:
		if string(v.code) != w.code && string(v.unit) != w.code {
			return false
		}
	case systemAny:
		if string(v.system) != w.system {
			return false
		}
	}
	switch w.op {
	case opEqual:
		return w.contains(v, rel)
	case opNotEqual:
		return !w.contains(v, rel)
	case opGreater:
		return v.noHi || rel.compare(&v.hi, &w.exact) > 0
	case opLess:
		return v.noLo || rel.compare(&v.lo, &w.exact) < 0
	case opGreaterEqual:
		return v.noHi || atLeast(rel.compare(&v.hi, &w.exact), v.belowHi)
	case opLessEqual:
		return v.noLo || atLeast(-rel.compare(&v.lo, &w.exact), v.overLo)
	case opStartsAfter:
		return !v.noLo && atLeast(rel.compare(&v.lo, &w.exact), !v.overLo)
	case opEndsBefore:
		return !v.noHi && atLeast(-rel.compare(&v.hi, &w.exact), !v.belowHi)
	}
	return (v.noHi || atLeast(rel.compare(&v.hi, &w.lo), v.belowHi)) &&
		(v.noLo || atLeast(-rel.compare(&v.lo, &w.hi), v.overLo))
}

// atLeast is > where the end is left out, else >=.
func atLeast(c int, without bool) bool { return c > 0 || c == 0 && !without }

// contains is equality: the value lies within what the searched number's precision covers.
func (w *wantAmount) contains(v *amount, rel *relation) bool {
	return !v.noLo && !v.noHi && rel.compare(&v.lo, &w.lo) >= 0 && rel.compare(&v.hi, &w.hi) < 0
}

// amount reads one value of a number or quantity condition.
func (c *compiler) amount(raw string) (wantAmount, error) {
	parts := splitEscaped(raw, '|')
	for i, p := range parts {
		s, err := unescape(p)
		if err != nil {
			return wantAmount{}, err
		}
		parts[i] = s
	}
	w := wantAmount{}
	var err error
	if w.op, w.number, err = cutComparator(parts[0]); err != nil {
		return w, err
	}
	// The + of an exponent arrives as a space where its author did not encode it.
	w.number = strings.NewReplacer("e ", "e+", "E ", "E+").Replace(w.number)
	var ok bool
	if w.exact, ok = parseDecimal([]byte(w.number)); !ok {
		return w, refusal("the value must be a number such as 5.4, with a prefix such as gt before it if wanted")
	}
	w.lo, w.hi = w.precision()
	switch {
	case len(parts) == 1:
		return w, nil
	case c.param.kind == kindNumber:
		return w, refusal("a number has no unit: the value must be written without |")
	case len(parts) != 3:
		return w, refusal("the value must be number, number|system|code or number||unit")
	}
	w.system, w.code = parts[1], parts[2]
	switch {
	case w.system != "" && w.code != "":
		w.units = systemUnit
		if w.system == ucum.System && len(w.code) <= maxUnitCode {
			if u, err := ucum.Parse(w.code); err == nil {
				w.measure = &u
			}
		}
	case w.code != "":
		w.units = namedUnit
	case w.system != "":
		w.units = systemAny
	}
	return w, nil
}

// precision gives the range that a number stands for: half a unit of its last digit to both
// sides (R4 3.1.1.4.6), or a tenth of its value for "approximately" (R4 3.1.1.4.5).
//
// The specification prints [95 ... 105) for 1e2, one digit finer than the rule gives. So a
// single digit with a positive exponent counts as two: 1e2 as 1.0e2.
func (w *wantAmount) precision() (lo, hi decimal) {
	v := w.exact
	if w.op == opApproximately {
		lo, hi = v.times(9, -1), v.times(11, -1)
		if v.sign() < 0 {
			lo, hi = hi, lo
		}
		return lo, hi
	}
	last := v.exponent()
	if e := bytes.IndexAny([]byte(w.number), "eE"); e >= 0 && last > 0 && len(bytes.Trim([]byte(w.number[:e]), "-.")) == 1 {
		last--
	}
	half := decimal{coef: 5, exp: last - 1}
	return v.plus(half.times(-1, 0)), v.plus(half)
}

func (w *wantAmount) text() string {
	s := w.op.String() + w.number
	if w.units == anyUnit {
		return s
	}
	return s + "|" + escape(w.system) + "|" + escape(w.code)
}
