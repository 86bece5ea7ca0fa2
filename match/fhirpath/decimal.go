package fhirpath

import (
	"bytes"
	"cmp"
	"math"
	"math/bits"
	"strconv"

	"github.com/cockroachdb/apd/v3"
)

// decimal is an exact number: coef divided by 10 to the power of scale, or big if that is set.
// Nearly every number that a record holds fits into the first form, which needs no memory.
type decimal struct {
	coef  int64
	scale int32
	big   *apd.Decimal
}

// Bounds of a number, as for search: what exceeds them is no number.
const (
	maxDigits   = 400
	maxExponent = 1000
)

// exact computes with numbers that exceed 64 bits; what needs more than its digits is rounded.
// calculating is for results that are endless, with the digits of N1 and some to spare.
var (
	exact       = apd.Context{Precision: 2 * maxDigits, MaxExponent: 4 * maxExponent, MinExponent: -4 * maxExponent, Rounding: apd.RoundHalfUp}
	calculating = apd.Context{Precision: 34, MaxExponent: maxExponent, MinExponent: -maxExponent, Rounding: apd.RoundHalfUp}
	shortening  = apd.Context{Precision: 28, MaxExponent: maxExponent, MinExponent: -maxExponent, Rounding: apd.RoundHalfUp}
)

// powers of ten that fit into 64 bits.
var powers = func() (p [19]int64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = 10 * p[i-1]
	}
	return p
}()

// parseDecimal reads -1.50e3, the grammar of JSON without its refusal of leading zeros.
func parseDecimal(s []byte) (decimal, bool) {
	if len(s) == 0 || len(s) > maxDigits {
		return decimal{}, false
	}
	var d decimal
	i, digits, negative := 0, 0, s[0] == '-'
	if negative || s[0] == '+' {
		i++
	}
	fits, point := true, false
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && !point && digits > 0 {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		digits++
		if d.coef > (math.MaxInt64-9)/10 {
			fits = false
		} else {
			d.coef = 10*d.coef + int64(c-'0')
		}
		if point {
			d.scale++
		}
	}
	if digits == 0 || s[i-1] == '.' {
		return decimal{}, false
	}
	if i < len(s) {
		exp, ok := parseExponent(s[i:])
		if !ok {
			return decimal{}, false
		}
		d.scale -= exp
	}
	if d.scale > maxExponent || d.scale < -maxExponent {
		return decimal{}, false
	}
	if negative {
		d.coef = -d.coef
	}
	if !fits {
		big, _, err := apd.NewFromString(string(s))
		return decimal{big: big}, err == nil
	}
	return d, true
}

func parseExponent(s []byte) (int32, bool) {
	if s[0]|0x20 != 'e' || len(s) > 6 {
		return 0, false
	}
	exp, err := strconv.Atoi(string(s[1:]))
	return int32(exp), err == nil && exp >= -maxExponent && exp <= maxExponent
}

func whole(n int64) decimal { return decimal{coef: n} }

// apd gives d in the form of the library; it must not be changed.
func (d decimal) apd() *apd.Decimal {
	if d.big != nil {
		return d.big
	}
	return apd.New(d.coef, -d.scale)
}

// small gives the form without memory back to a result that has room in it.
func small(big *apd.Decimal) (decimal, bool) {
	if big.Form != apd.Finite || big.Exponent > maxExponent || big.Exponent < -2*maxExponent {
		return decimal{}, false
	}
	if big.Coeff.IsInt64() {
		n := big.Coeff.Int64()
		if big.Negative {
			n = -n
		}
		return decimal{coef: n, scale: -big.Exponent}, true
	}
	return decimal{big: big}, true
}

func (d decimal) sign() int {
	if d.big != nil {
		return d.big.Sign()
	}
	return cmp.Compare(d.coef, 0)
}

// decimals counts the digits behind the point, as they were written.
func (d decimal) decimals() int32 {
	if d.big != nil {
		return max(0, -d.big.Exponent)
	}
	return max(0, d.scale)
}

// scaled gives the coefficient at a scale that is not smaller than d's.
func (d decimal) scaled(scale int32) (int64, bool) {
	zeros := scale - d.scale
	if d.big != nil || zeros < 0 || zeros >= int32(len(powers)) {
		return 0, false
	}
	return multiply(d.coef, powers[zeros])
}

func multiply(a, b int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(abs(a)), uint64(abs(b)))
	if hi != 0 || lo > math.MaxInt64 || a == math.MinInt64 || b == math.MinInt64 {
		return 0, false
	}
	if (a < 0) != (b < 0) {
		return -int64(lo), true
	}
	return int64(lo), true
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

// aligned gives both coefficients at the greater scale.
func aligned(d, o decimal) (a, b int64, scale int32, ok bool) {
	scale = max(d.scale, o.scale)
	if d.big != nil || o.big != nil {
		return 0, 0, 0, false
	}
	a, ok1 := d.scaled(scale)
	b, ok2 := o.scaled(scale)
	return a, b, scale, ok1 && ok2
}

func (d decimal) compare(o decimal) int {
	if a, b, _, ok := aligned(d, o); ok {
		return cmp.Compare(a, b)
	}
	return d.apd().Cmp(o.apd())
}

func (d decimal) plus(o decimal) (decimal, bool) {
	if a, b, scale, ok := aligned(d, o); ok {
		if sum := a + b; (sum > a) == (b > 0) && sum != math.MinInt64 {
			return decimal{coef: sum, scale: scale}, true
		}
	}
	r := new(apd.Decimal)
	if _, err := exact.Add(r, d.apd(), o.apd()); err != nil {
		return decimal{}, false
	}
	return small(r)
}

func (d decimal) negative() decimal {
	if d.big != nil {
		return decimal{big: new(apd.Decimal).Neg(d.big)}
	}
	return decimal{coef: -d.coef, scale: d.scale} // coef is never the least int64
}

func (d decimal) times(o decimal) (decimal, bool) {
	if d.big == nil && o.big == nil {
		scale := d.scale + o.scale
		if p, ok := multiply(d.coef, o.coef); ok && -maxExponent <= scale && scale <= maxExponent {
			return decimal{coef: p, scale: scale}, true
		}
	}
	r := new(apd.Decimal)
	if _, err := exact.Mul(r, d.apd(), o.apd()); err != nil {
		return decimal{}, false
	}
	return small(r)
}

// over divides; there is no result for a divisor of zero.
func (d decimal) over(o decimal) (decimal, bool) {
	if o.sign() == 0 {
		return decimal{}, false
	}
	return calculate(func(r *apd.Decimal) error {
		_, err := calculating.Quo(r, d.apd(), o.apd())
		return err
	})
}

// calculate rounds an endless result to 28 digits and takes off the zeros behind the point.
func calculate(f func(r *apd.Decimal) error) (decimal, bool) {
	r := new(apd.Decimal)
	if f(r) != nil || r.Form != apd.Finite {
		return decimal{}, false
	}
	if _, err := shortening.Round(r, r); err != nil {
		return decimal{}, false
	}
	r.Reduce(r)
	if r.Exponent > 0 { // 1E+2 is written 100
		if _, err := exact.Quantize(r, r, 0); err != nil {
			return decimal{}, false
		}
	}
	return small(r)
}

// rounded gives d with that many digits behind the point.
func (d decimal) rounded(scale int32, mode apd.Rounder) (decimal, bool) {
	if d.big == nil && d.scale == scale {
		return d, true
	}
	c := exact
	c.Rounding = mode
	r := new(apd.Decimal)
	if _, err := c.Quantize(r, d.apd(), -scale); err != nil {
		return decimal{}, false
	}
	return small(r)
}

// integer gives d as a whole number if it is one that fits.
func (d decimal) integer() (int64, bool) {
	if d.big == nil && d.scale == 0 {
		return d.coef, true
	}
	r, ok := d.rounded(0, apd.RoundDown)
	if !ok || r.big != nil || r.compare(d) != 0 {
		return 0, false
	}
	return r.coef, true
}

// append writes d without an exponent and with the zeros it has.
func (d decimal) append(b []byte) []byte {
	if d.big != nil {
		return d.big.Append(b, 'f')
	}
	if d.scale <= 0 {
		b = strconv.AppendInt(b, d.coef, 10)
		if d.coef == 0 {
			return b
		}
		return append(b, bytes.Repeat([]byte{'0'}, int(-d.scale))...)
	}
	var digits [20]byte
	n := strconv.AppendInt(digits[:0], abs(d.coef), 10)
	if d.coef < 0 {
		b = append(b, '-')
	}
	whole := len(n) - int(d.scale)
	if whole <= 0 {
		b = append(b, '0', '.')
		b = append(b, bytes.Repeat([]byte{'0'}, -whole)...)
		return append(b, n...)
	}
	b = append(b, n[:whole]...)
	b = append(b, '.')
	return append(b, n[whole:]...)
}
