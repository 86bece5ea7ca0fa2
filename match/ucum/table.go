package ucum

import (
	_ "embed"
	"fmt"
	"math/big"
	"strings"
	"sync"
)

//go:embed units.table
var unitsTable string

// table is what UCUM defines: its prefixes, and its units reduced to dimensions.
type table struct {
	prefixes map[string]*big.Rat
	units    map[string]*atom
}

type atom struct {
	*form
	metric bool // takes prefixes

	// As the table has it; form is nil until it is resolved.
	factor, of, shift string
	busy              bool // being resolved: a definition must not lead back to itself
}

var units = sync.OnceValue(func() *table {
	t, err := readTable(unitsTable)
	if err != nil {
		panic("ucum: embedded table: " + err.Error()) // a test keeps this from being shipped
	}
	return t
})

// readTable reads the table; its header says how it is written.
func readTable(text string) (*table, error) {
	t := &table{map[string]*big.Rat{}, map[string]*atom{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := t.readLine(strings.Split(line, "\t")); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
	}
	for code := range t.units {
		if err := t.resolve(code); err != nil {
			return nil, fmt.Errorf("%s: %w", code, err)
		}
	}
	return t, nil
}

func (t *table) readLine(cells []string) error {
	switch {
	case cells[0] == "prefix" && len(cells) == 3:
		text, plain := strings.CutPrefix(cells[2], "=")
		if !plain {
			text = "1e" + text
		}
		v, err := rational(text)
		t.prefixes[cells[1]] = v
		return err
	case (cells[0] == "base" || cells[0] == "own") && len(cells) == 3:
		f := &form{code: cells[1], dims: []power{{cells[1], 1}}, factor: one}
		t.units[cells[1]] = &atom{form: spelled(f, cells[1]), metric: cells[2] == "m"}
	case cells[0] == "unit" && len(cells) == 5:
		t.units[cells[1]] = &atom{metric: cells[2] == "m", factor: cells[3], of: cells[4]}
	case cells[0] == "scale" && len(cells) == 6:
		t.units[cells[1]] = &atom{metric: cells[2] == "m", factor: cells[3], of: cells[4], shift: cells[5]}
	default:
		return fmt.Errorf("no line of this table")
	}
	return nil
}

// spelled makes a form that is written with one symbol.
func spelled(f *form, symbol string) *form {
	f.code, f.terms, f.key = symbol, []power{{symbol, 1}}, writeKey(f.dims)
	return f
}

// resolve reduces a unit's definition, and before it those that it is made of.
func (t *table) resolve(code string) error {
	a := t.units[code]
	if a == nil || a.form != nil {
		return nil
	}
	if a.busy {
		return fmt.Errorf("it is defined by itself")
	}
	a.busy = true
	var failed error
	of, err := parse(a.of, func(symbol string) (*form, string) {
		for _, c := range t.candidates(symbol) {
			if err := t.resolve(c); err != nil && failed == nil {
				failed = err
			}
		}
		if failed != nil {
			return nil, failed.Error()
		}
		return t.atom(symbol)
	})
	if err != nil {
		return err
	}
	factor, err := rational(a.factor)
	if err != nil {
		return err
	}
	f := &form{dims: of.dims, factor: new(big.Rat).Mul(factor, of.factor)}
	if a.shift != "" {
		if f.shift, err = rational(a.shift); err != nil {
			return err
		}
	}
	a.form = spelled(f, code)
	return nil
}

// candidates lists the units that a symbol may be, a prefix taken off or not.
func (t *table) candidates(symbol string) []string {
	out := []string{symbol}
	for n := 1; n <= 2 && n < len(symbol); n++ {
		if t.prefixes[symbol[:n]] != nil {
			out = append(out, symbol[n:])
		}
	}
	return out
}

// atom gives the unit of a symbol: one of the table, or a prefix and one that takes prefixes.
// If there is none, it says why.
func (t *table) atom(symbol string) (*form, string) {
	if a := t.units[symbol]; a != nil {
		return a.form, ""
	}
	reason := fmt.Sprintf("%q is not a unit that is known here", symbol)
	for n := 1; n <= 2 && n < len(symbol); n++ {
		p, a := t.prefixes[symbol[:n]], t.units[symbol[n:]]
		switch {
		case p == nil || a == nil:
		case !a.metric:
			reason = fmt.Sprintf("%q takes no prefix, so %q is no unit", symbol[n:], symbol)
		default:
			return prefixed(p, a.form, symbol), ""
		}
	}
	return nil, reason
}

// prefixed multiplies a unit by a prefix. Where zero is not zero the prefix applies to the
// value before the offset: 1000 mCel are 1 Cel.
func prefixed(p *big.Rat, u *form, symbol string) *form {
	f := &form{dims: u.dims, factor: new(big.Rat).Mul(p, u.factor)}
	if u.shift != nil {
		f.shift = new(big.Rat).Quo(u.shift, p)
	}
	return spelled(f, symbol)
}

// rational reads a decimal number or a fraction.
func rational(s string) (*big.Rat, error) {
	v, ok := new(big.Rat).SetString(s)
	if !ok || v.Sign() <= 0 {
		return nil, fmt.Errorf("%q is not a positive number", s)
	}
	return v, nil
}
