package fhirpath

import (
	"github.com/cockroachdb/apd/v3"
)

var mathFunctions = map[string]function{
	"abs":      {0, 0, (*compiler).abs},
	"ceiling":  {0, 0, rounding(apd.RoundCeiling)},
	"floor":    {0, 0, rounding(apd.RoundFloor)},
	"truncate": {0, 0, rounding(apd.RoundDown)},
	"round":    {0, 1, (*compiler).round},
	"sqrt":     {0, 0, (*compiler).sqrt},
	"exp":      {0, 0, (*compiler).exp},
	"ln":       {0, 0, (*compiler).ln},
	"log":      {1, 1, (*compiler).log},
	"power":    {1, 1, (*compiler).power},
}

// What an endless calculation counts for, and one with a number of hundreds of digits.
const (
	calculationSteps = 2000
	heavyCalculation = 50000
)

func (c *compiler) numbers(n *Node, in code, kinds ...kind) ([]code, error) {
	kinds = append(kinds, kindInteger, kindDecimal)
	if err := c.needs(n, in.shape, "the input of "+n.Name+"()", kinds...); err != nil {
		return nil, err
	}
	args, err := c.args(n)
	if err != nil {
		return nil, err
	}
	for i, a := range args {
		if err := c.needs(n.Args[i], a.shape, "the argument of "+n.Name+"()", kindInteger, kindDecimal); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// numberOf gives the only item as a number.
func (m *Evaluator) numberOf(s span, at int) (Value, bool) {
	v, ok := m.system(s, at)
	if ok && !v.isNumber() {
		m.fail(at, "a number is needed here")
		return v, false
	}
	return v, ok
}

func (c *compiler) abs(n *Node, in code) (code, error) {
	if _, err := c.numbers(n, in, kindQuantity); err != nil {
		return code{}, err
	}
	at := n.Position
	return on(in, in.shape.one(), func(m *Evaluator, in span) span {
		v, ok := m.system(in, at)
		if !ok {
			return m.none()
		}
		if !v.isNumber() && v.kind != kindQuantity {
			m.fail(at, "a number or a quantity is needed here")
			return m.none()
		}
		if v.decimal().sign() < 0 {
			negate(&v)
		}
		return m.result(v)
	}), nil
}

// rounding makes a function that gives a whole number.
func rounding(mode apd.Rounder) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		if _, err := c.numbers(n, in); err != nil {
			return code{}, err
		}
		at := n.Position
		return on(in, systemShape(kindInteger), func(m *Evaluator, in span) span {
			v, ok := m.numberOf(in, at)
			if !ok {
				return m.none()
			}
			d, ok := v.decimal().rounded(0, mode)
			i, fits := d.integer()
			if !ok || !fits {
				return m.none()
			}
			return m.result(integer(i))
		}), nil
	}
}

// round rounds halves away from zero, to the given number of digits.
func (c *compiler) round(n *Node, in code) (code, error) {
	args, err := c.numbers(n, in)
	if err != nil {
		return code{}, err
	}
	at := n.Position
	return on(in, systemShape(kindDecimal), func(m *Evaluator, in span) span {
		v, ok := m.numberOf(in, at)
		places := int64(0)
		if len(args) == 1 {
			var given bool
			if places, given = m.integerOf(args[0].run(m), args[0].at); !given {
				return m.none()
			}
		}
		if places < 0 || places > maxDigits {
			m.fail(at, "the number of digits must be from 0 to 400")
		}
		if !ok || !m.spend(int(places)) || !m.weigh(&v, &v) {
			return m.none()
		}
		d, ok := v.decimal().rounded(int32(places), halfUp)
		if !ok {
			return m.none()
		}
		return m.result(number(d))
	}), nil
}

// calculation makes a function of one or two numbers whose result may be endless.
func (c *compiler) calculation(n *Node, in code, f func(r, x, y *apd.Decimal) error) (code, error) {
	args, err := c.numbers(n, in)
	if err != nil {
		return code{}, err
	}
	at := n.Position
	s := systemShape(kindDecimal)
	if n.Name == "power" {
		s.types = append(s.types, typ{system: kindInteger})
	}
	return on(in, s, func(m *Evaluator, in span) span {
		v, ok := m.numberOf(in, at)
		var other Value
		if len(args) == 1 {
			var given bool
			other, given = m.numberOf(args[0].run(m), args[0].at)
			ok = ok && given
		}
		steps := calculationSteps
		if v.big != nil || other.big != nil {
			steps = heavyCalculation
		}
		if !ok || !m.spend(steps) {
			return m.none()
		}
		d, ok := calculate(func(r *apd.Decimal) error { return f(r, v.decimal().apd(), other.decimal().apd()) })
		if !ok {
			return m.none()
		}
		if i, fits := d.integer(); integral(n.Name, &v, &other) {
			if !fits {
				return m.none()
			}
			return m.result(integer(i))
		}
		return m.result(number(d))
	}), nil
}

func (c *compiler) sqrt(n *Node, in code) (code, error) {
	return c.calculation(n, in, func(r, x, _ *apd.Decimal) error {
		_, err := calculating.Sqrt(r, x)
		return err
	})
}

func (c *compiler) exp(n *Node, in code) (code, error) {
	return c.calculation(n, in, func(r, x, _ *apd.Decimal) error {
		_, err := calculating.Exp(r, x)
		return err
	})
}

func (c *compiler) ln(n *Node, in code) (code, error) {
	return c.calculation(n, in, func(r, x, _ *apd.Decimal) error {
		_, err := calculating.Ln(r, x)
		return err
	})
}

func (c *compiler) log(n *Node, in code) (code, error) {
	return c.calculation(n, in, func(r, x, base *apd.Decimal) error {
		b := new(apd.Decimal)
		if _, err := calculating.Ln(r, x); err != nil {
			return err
		}
		if _, err := calculating.Ln(b, base); err != nil {
			return err
		}
		_, err := calculating.Quo(r, r, b)
		return err
	})
}

// power keeps Integers where the exponent is not negative (N1 5.7.7); integral says so.
func (c *compiler) power(n *Node, in code) (code, error) {
	return c.calculation(n, in, func(r, x, y *apd.Decimal) error {
		_, err := calculating.Pow(r, x, y)
		return err
	})
}

// integral reports whether the result of a calculation is an Integer.
func integral(name string, x, y *Value) bool {
	return name == "power" && x.kind == kindInteger && y.kind == kindInteger && y.num >= 0
}

func onlyIntegers(s shape) bool {
	return !s.any && len(s.types) == 1 && s.types[0].value() == kindInteger
}
