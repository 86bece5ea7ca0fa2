// Command gen reduces the unit definitions of the npm package @lhncbc/ucum-lhc to the table that
// package ucum embeds:
//
//	npm pack @lhncbc/ucum-lhc@7.1.9 && tar xzf lhncbc-ucum-lhc-7.1.9.tgz
//	go run ./internal/gen package/data/ucumDefs.min.json > units.table
//
// It keeps code, kind, factor and defining unit of everything that UCUM itself defines, and puts
// right what that package computes with floating point or by a function. The notice that UCUM's
// licence asks for stands at the head of the table.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen ucumDefs.min.json > units.table")
		os.Exit(2)
	}
	data, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = generate(os.Stdout, data)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// source is the layout of ucumDefs.min.json: rows, and the names of their columns.
type source struct {
	Prefixes, Units struct {
		Config []any   `json:"config"`
		Data   [][]any `json:"data"`
	}
}

const header = `# Units and prefixes of UCUM, from @lhncbc/ucum-lhc 7.1.9; see README.md. Generated: do not edit.
#
# This product includes all or a portion of the UCUM table, UCUM codes, and UCUM definitions or is
# derived from it, subject to a license from Regenstrief Institute, Inc. and The UCUM Organization.
# Your use of the UCUM table, UCUM codes, UCUM definitions also is subject to this license, a copy
# of which is available at http://unitsofmeasure.org. The current complete UCUM table, UCUM
# Specification are available for download at http://unitsofmeasure.org. The UCUM table and UCUM
# codes are copyright (c) 1995-2009, Regenstrief Institute, Inc. and the Unified Codes for Units of
# Measures (UCUM) Organization. All rights reserved.
#
# THE UCUM TABLE (IN ALL FORMATS), UCUM DEFINITIONS, AND SPECIFICATION ARE PROVIDED "AS IS." ANY
# EXPRESS OR IMPLIED WARRANTIES ARE DISCLAIMED, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED
# WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE.
#
# prefix <tab> code <tab> power of ten, or factor behind =
# base, own or unit <tab> code <tab> m if it takes prefixes, else - <tab> factor <tab> unit
# scale <tab> code <tab> m or - <tab> factor <tab> unit <tab> what is added before multiplying
# "base" is one of the dimensions; "own" is a unit that converts to no other, each a dimension by
# itself; "scale" has a zero of its own. A unit that is defined by a number alone names 1.
`

// repaired holds what the package has in another form: the leading number of a definition, which
// it keeps as a rounded product, and units that it computes by a function (1/x, an offset).
var repaired = map[string]string{
	"[mu_0]":   "unit\t[mu_0]\tm\t4e-7\t[pi].N/A2",
	"Oe":       "unit\tOe\tm\t250\tA/m/[pi]",
	"[S]":      "unit\t[S]\t-\t1e-13\ts",
	"[diop]":   "unit\t[diop]\t-\t1\tm-1",
	"[mesh_i]": "unit\t[mesh_i]\t-\t1\t[in_i]-1",
	"Bd":       "unit\tBd\tm\t1\ts-1",
	"Cel":      "scale\tCel\tm\t1\tK\t273.15",
	"[degF]":   "scale\t[degF]\t-\t5/9\tK\t459.67",
	"[degRe]":  "scale\t[degRe]\t-\t5/4\tK\t218.52",
	// The amount of substance is a dimension of its own here, and so are equivalents and
	// osmoles: UCUM makes plain numbers of all three, by which 1 mmol/L of calcium would equal
	// 1 meq/L, and 6e23 of anything a mole.
	"mol": "base\tmol\tm",
	"eq":  "base\teq\tm",
	"osm": "base\tosm\tm",
	// Another spelling of the same arbitrary unit.
	"[IU]": "unit\t[IU]\tm\t1\t[iU]",
}

// row is one row with the names of its columns.
type row map[string]any

func (r row) text(name string) string { s, _ := r[name].(string); return s }
func (r row) is(name string) bool     { b, _ := r[name].(bool); return b }

func rows(config []any, data [][]any) ([]row, error) {
	var out []row
	for _, d := range data {
		if len(d) != len(config) {
			return nil, errors.New("a row has another number of columns than the heading")
		}
		r := row{}
		for i, c := range config {
			if pair, ok := c.([]any); ok { // a column that is called differently in its object
				c = pair[0]
			}
			name, ok := c.(string)
			if !ok {
				return nil, errors.New("a column has no name")
			}
			r[name] = d[i]
		}
		out = append(out, r)
	}
	return out, nil
}

func generate(w io.Writer, data []byte) error {
	var in source
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	prefixes, err := rows(in.Prefixes.Config, in.Prefixes.Data)
	if err != nil {
		return err
	}
	units, err := rows(in.Units.Config, in.Units.Data)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(header)
	for _, p := range prefixes {
		power := p.text("exp_")
		if power == "" {
			power = fmt.Sprintf("=%.0f", p["value_"])
		}
		fmt.Fprintf(&b, "prefix\t%s\t%s\n", p.text("code_"), power)
	}
	for _, u := range units {
		if u.text("source_") != "UCUM" { // combinations of units that LOINC uses: the grammar makes them
			continue
		}
		line, err := unit(u)
		if err != nil {
			return fmt.Errorf("%s: %w", u.text("csCode_"), err)
		}
		b.WriteString(line + "\n")
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func unit(u row) (string, error) {
	code, metric := u.text("csCode_"), "-"
	if u.is("isMetric_") || u.is("isBase_") {
		metric = "m"
	}
	switch line := repaired[code]; {
	case line != "":
		return line, nil
	case u.is("isBase_"):
		return "base\t" + code + "\t" + metric, nil
	case u.is("isArbitrary_"), u.is("isSpecial_"):
		return "own\t" + code + "\t" + metric, nil
	}
	factor, of := u.text("baseFactorStr_"), u.text("csUnitString_")
	if factor == "" || of == "" {
		return "", errors.New("neither a definition nor a repair")
	}
	return "unit\t" + code + "\t" + metric + "\t" + factor + "\t" + of, nil
}
