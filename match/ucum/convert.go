package ucum

import (
	"math/big"

	"github.com/cockroachdb/apd/v3"
)

// Bounds of the values that are converted.
const (
	maxValueBits  = 8192 // of a coefficient: some 2,400 digits
	maxValueScale = 4096 // of an exponent, to both sides
)

// Digits is the number of significant digits to which a result is rounded, half to even, that
// no decimal number equals. FHIR asks for 18.
const Digits = 40

// Convert gives v of the unit from as a value of the unit to, exactly, or rounded to Digits
// significant digits where no decimal number is exact. v is not changed. The error is
// ErrIncomparable (wrapped, with the units) or ErrTooLarge; v must be finite.
func Convert(v *apd.Decimal, from, to Unit) (*apd.Decimal, error) {
	if !from.Comparable(to) {
		return nil, mismatch(from, to)
	}
	r, err := from.toBase(v)
	if err != nil {
		return nil, err
	}
	f := to.form()
	r.Quo(r, f.factor)
	if f.shift != nil {
		r.Sub(r, f.shift)
	}
	return decimal(r)
}

// Canonical gives v in base units, and their key (see Unit.Key). Values of equal size have equal
// results however they are written: 1000 mg and 1 g. Rounding is as in Convert.
func Canonical(v *apd.Decimal, u Unit) (*apd.Decimal, string, error) {
	r, err := u.toBase(v)
	if err != nil {
		return nil, "", err
	}
	d, err := decimal(r)
	return d, u.Key(), err
}

// Compare orders two values: -1 if a is less than b, 0 if they are equal, 1 if it is greater. It
// never rounds. Errors are those of Convert.
func Compare(a *apd.Decimal, ua Unit, b *apd.Decimal, ub Unit) (int, error) {
	if !ua.Comparable(ub) {
		return 0, mismatch(ua, ub)
	}
	ra, err := ua.toBase(a)
	if err != nil {
		return 0, err
	}
	rb, err := ub.toBase(b)
	if err != nil {
		return 0, err
	}
	return ra.Cmp(rb), nil
}

// Relation is a conversion made ready: v of the one unit is (Mul × v + Add) / Div of the other.
// Mul and Div are positive and have no common divisor together with Add; all are integers, so
// that values can be compared without a division.
type Relation struct {
	Mul, Add, Div *apd.Decimal
}

// Relate makes a conversion ready, for those who compare many values. The error is
// ErrIncomparable (wrapped, with the units).
func Relate(from, to Unit) (Relation, error) {
	if !from.Comparable(to) {
		return Relation{}, mismatch(from, to)
	}
	f, t := from.form(), to.form()
	mul := new(big.Rat).Quo(f.factor, t.factor)
	add := new(big.Rat)
	if f.shift != nil {
		add.Mul(mul, f.shift)
	}
	if t.shift != nil {
		add.Sub(add, t.shift)
	}
	// The least common denominator.
	g := new(big.Int).GCD(nil, nil, mul.Denom(), add.Denom())
	div := new(big.Int).Div(mul.Denom(), g)
	div.Mul(div, add.Denom())
	scaled := func(r *big.Rat) *apd.Decimal {
		n := new(big.Int).Div(div, r.Denom())
		return integer(n.Mul(n, r.Num()))
	}
	return Relation{Mul: scaled(mul), Add: scaled(add), Div: integer(div)}, nil
}

// toBase gives a value in the product of the unit's dimensions.
func (u Unit) toBase(v *apd.Decimal) (*big.Rat, error) {
	r, err := rat(v)
	if err != nil {
		return nil, err
	}
	f := u.form()
	if f.shift != nil {
		r.Add(r, f.shift)
	}
	return r.Mul(r, f.factor), nil
}

// rat makes a rational number of a decimal one.
func rat(v *apd.Decimal) (*big.Rat, error) {
	if v.Form != apd.Finite || v.Coeff.BitLen() > maxValueBits || v.Exponent > maxValueScale || v.Exponent < -maxValueScale {
		return nil, ErrTooLarge
	}
	c := new(big.Int).Set(v.Coeff.MathBigInt())
	if v.Negative {
		c.Neg(c)
	}
	p := ten(max(v.Exponent, -v.Exponent))
	if v.Exponent < 0 {
		return new(big.Rat).SetFrac(c, p), nil
	}
	return new(big.Rat).SetInt(c.Mul(c, p)), nil
}

func ten(n int32) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

func integer(v *big.Int) *apd.Decimal {
	return apd.NewWithBigInt(new(apd.BigInt).SetMathBigInt(v), 0)
}

// decimal gives the decimal number that equals r, or if there is none, the nearest of Digits
// significant digits.
func decimal(r *big.Rat) (*apd.Decimal, error) {
	if k, ok := places(r.Denom()); ok {
		if k > 2*maxValueScale {
			return nil, ErrTooLarge
		}
		n := new(big.Int).Mul(r.Num(), ten(k))
		return trimmed(integer(n.Div(n, r.Denom())), -k), nil
	}
	ctx := apd.BaseContext.WithPrecision(Digits)
	ctx.Rounding = apd.RoundHalfEven
	out := new(apd.Decimal)
	if _, err := ctx.Quo(out, integer(r.Num()), integer(r.Denom())); err != nil {
		return nil, ErrTooLarge
	}
	return trimmed(out, out.Exponent), nil
}

// places gives the number of decimal places that a fraction in lowest terms with this
// denominator takes; ok is false if there are infinitely many.
func places(den *big.Int) (n int32, ok bool) {
	d := new(big.Int).Set(den)
	twos := d.TrailingZeroBits()
	d.Rsh(d, twos)
	fives := uint(0)
	five, q, m := big.NewInt(5), new(big.Int), new(big.Int)
	for d.BitLen() > 1 {
		if q.DivMod(d, five, m); m.Sign() != 0 {
			return 0, false
		}
		d, q = q, d
		fives++
	}
	return int32(max(twos, fives)), true
}

// trimmed takes the zeros off behind the point, and off the end of what is too long to write
// out: 5500 stays, 5500.00 and 6E+40 become 5500 and 6E+40.
func trimmed(d *apd.Decimal, exponent int32) *apd.Decimal {
	d.Exponent = exponent
	if d.IsZero() {
		d.Exponent, d.Negative = 0, false
		return d
	}
	d, _ = new(apd.Decimal).Reduce(d)
	if d.Exponent > 0 && d.NumDigits()+int64(d.Exponent) <= Digits {
		d.Coeff.Mul(&d.Coeff, new(apd.BigInt).Exp(apd.NewBigInt(10), apd.NewBigInt(int64(d.Exponent)), nil))
		d.Exponent = 0
	}
	return d
}
