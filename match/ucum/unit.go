package ucum

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// System is the URI by which FHIR names UCUM.
const System = "http://unitsofmeasure.org"

// Unit is a unit of measure. The zero Unit is the unit 1. Units are immutable; equality by ==
// means nothing, use Comparable and Compare, or Key.
type Unit struct {
	f *form
}

// form is what a unit comes down to. A value v in it is factor × (v + shift) in the product of
// its dimensions.
type form struct {
	code   string
	terms  []power // what it is written with, for the codes of products
	dims   []power // by name; none has the exponent 0
	key    string
	factor *big.Rat
	shift  *big.Rat // nil: zero is zero
}

// power is a unit symbol, or a dimension, with its exponent.
type power struct {
	name string
	exp  int
}

// Bounds. A code in use has at most some tens of bytes, and a factor some tens of digits.
const (
	maxCode     = 256  // bytes of a code
	maxDepth    = 16   // parentheses within one another
	maxExponent = 99   // of a symbol and of a dimension
	maxBits     = 4096 // of a factor's numerator or denominator
)

var (
	// ErrIncomparable means that a value of one unit says nothing about a value of the other.
	ErrIncomparable = errors.New("the units do not convert into one another")

	// ErrTooLarge means that a number is beyond what this package reckons with: some thousand
	// digits, or exponents of that size.
	ErrTooLarge = errors.New("the number, or the unit's factor, has too many digits")

	// ErrNotRatio means that a unit whose zero is not zero (Cel, [degF], [degRe]) was to be
	// multiplied, divided or raised.
	ErrNotRatio = errors.New("a unit of temperature with a zero of its own takes no part in products; use K")
)

var (
	one   = big.NewRat(1, 1)
	unity = &form{code: "1", key: "1", factor: one}
)

func (u Unit) form() *form {
	if u.f == nil {
		return unity
	}
	return u.f
}

// String is the unit's code: as it was parsed, or for products a code of that meaning.
func (u Unit) String() string { return u.form().code }

// Key names the product of base units that Canonical converts to, such as "g.m-3"; it is equal
// for units that convert into one another, and only for them. It is "1" for a plain number.
func (u Unit) Key() string { return u.form().key }

// Comparable reports whether values of the two units convert into one another.
func (u Unit) Comparable(o Unit) bool { return u.form().key == o.form().key }

// Mul gives the product of two units. The error is ErrNotRatio or ErrTooLarge.
func (u Unit) Mul(o Unit) (Unit, error) { return combine(u.form(), o.form(), 1) }

// Div gives the quotient of two units. The error is ErrNotRatio or ErrTooLarge.
func (u Unit) Div(o Unit) (Unit, error) { return combine(u.form(), o.form(), -1) }

// Pow raises a unit to the power n, which may be negative. The error is ErrNotRatio or
// ErrTooLarge.
func (u Unit) Pow(n int) (Unit, error) {
	switch {
	case n == 1:
		return u, nil
	case n > maxExponent || n < -maxExponent:
		return Unit{}, ErrTooLarge
	}
	f, err := u.form().pow(n)
	if err != nil {
		return Unit{}, err
	}
	return f.named()
}

func combine(a, b *form, sign int) (Unit, error) {
	switch {
	case b.plain():
		return Unit{a}, nil
	case a.plain() && sign > 0:
		return Unit{b}, nil
	}
	f, err := a.times(b, sign)
	if err != nil {
		return Unit{}, err
	}
	return f.named()
}

// plain reports whether a unit is the number 1 and nothing else.
func (f *form) plain() bool {
	return len(f.dims) == 0 && f.shift == nil && f.factor.Cmp(one) == 0
}

// named writes a code for a product. A product within the limits may have parts beyond them,
// which cancel out; nobody could read its code again, so it counts as too large.
func (f *form) named() (Unit, error) {
	if f.code = writeTerms(f.terms); len(f.code) > maxCode {
		return Unit{}, ErrTooLarge
	}
	if _, err := Parse(f.code); err != nil {
		return Unit{}, ErrTooLarge
	}
	return Unit{f}, nil
}

// times multiplies by the b-th power of o, where b is 1 or -1. The result has no code.
func (f *form) times(o *form, b int) (*form, error) {
	if f.shift != nil || o.shift != nil {
		return nil, ErrNotRatio
	}
	factor := o.factor
	if b < 0 {
		factor = new(big.Rat).Inv(factor)
	}
	out := &form{factor: new(big.Rat).Mul(f.factor, factor)}
	var err error
	if out.dims, err = merge(f.dims, o.dims, b); err != nil {
		return nil, err
	}
	if out.terms, err = merge(f.terms, o.terms, b); err != nil {
		return nil, err
	}
	return out.finish()
}

// pow raises to the power n. The result has no code.
func (f *form) pow(n int) (*form, error) {
	if f.shift != nil {
		return nil, ErrNotRatio
	}
	k := max(n, -n)
	// The power has more than (bits-1)*k bits; finish counts them.
	if (bits(f.factor)-1)*k >= maxBits {
		return nil, ErrTooLarge
	}
	e := big.NewInt(int64(k))
	num := new(big.Int).Exp(f.factor.Num(), e, nil)
	den := new(big.Int).Exp(f.factor.Denom(), e, nil)
	if n < 0 {
		num, den = den, num
	}
	out := &form{factor: new(big.Rat).SetFrac(num, den)}
	var err error
	if out.dims, err = merge(nil, f.dims, n); err != nil {
		return nil, err
	}
	if out.terms, err = merge(nil, f.terms, n); err != nil {
		return nil, err
	}
	return out.finish()
}

func (f *form) finish() (*form, error) {
	if bits(f.factor) > maxBits {
		return nil, ErrTooLarge
	}
	f.key = writeKey(f.dims)
	return f, nil
}

func bits(r *big.Rat) int { return max(r.Num().BitLen(), r.Denom().BitLen()) }

// merge adds the exponents of b, times n, to those of a. The result is sorted by name.
func merge(a, b []power, n int) ([]power, error) {
	out := slices.Clone(a)
	for _, p := range b {
		i, found := slices.BinarySearchFunc(out, p.name, func(q power, name string) int { return strings.Compare(q.name, name) })
		if !found {
			out = slices.Insert(out, i, power{name: p.name})
		}
		out[i].exp += p.exp * n
		switch e := out[i].exp; {
		case e > maxExponent || e < -maxExponent:
			return nil, ErrTooLarge
		case e == 0:
			out = slices.Delete(out, i, i+1)
		}
	}
	return out, nil
}

func writeKey(dims []power) string {
	if len(dims) == 0 {
		return "1"
	}
	var b strings.Builder
	for i, d := range dims {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(d.name)
		if d.exp != 1 {
			b.WriteString(strconv.Itoa(d.exp))
		}
	}
	return b.String()
}

// writeTerms writes a product as UCUM does: mg/kg/d.
func writeTerms(terms []power) string {
	var over, under strings.Builder
	for _, t := range terms {
		b, sep, e := &over, byte('.'), t.exp
		if e < 0 {
			b, sep, e = &under, '/', -e
		}
		n := 1
		if isNumber(t.name) { // a number takes no exponent, so it is repeated
			n, e = e, 1
		}
		for range n {
			if b.Len() > 0 || sep == '/' {
				b.WriteByte(sep)
			}
			b.WriteString(t.name)
			if e != 1 {
				b.WriteString(strconv.Itoa(e))
			}
		}
	}
	if over.Len() == 0 && under.Len() == 0 {
		return "1"
	}
	return over.String() + under.String()
}

func isNumber(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

// mismatch names two units that do not convert.
func mismatch(a, b Unit) error {
	return fmt.Errorf("%w: %s is a unit of %s, %s of %s", ErrIncomparable, a, a.Key(), b, b.Key())
}
