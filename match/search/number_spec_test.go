package search

import (
	"strings"
	"testing"

	"github.com/cockroachdb/apd/v3"
	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// The rules of the specification on numbers and on prefixes as numbers have them: R4 and R4B
// 3.1.1.4.5 (prefixes) and 3.1.1.4.6 (number), R5 3.2.1.5.6 and 3.2.1.5.10, whose texts on these
// points are the same.

// specCase is one rule with criteria that a resource meets and others that it does not.
type specCase struct {
	rule string
	typ  string
	body string
	meets
}

// checkSpec checks rules in R4, by all that decides, and in R4B and R5 where these have the
// parameters.
func checkSpec(t *testing.T, cases []specCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(strings.NewReplacer("/", " ", "=", " ").Replace(c.rule), func(t *testing.T) {
			c.check(t, c.typ, c.body)
			for _, v := range []fhir.Version{fhir.R4B, fhir.R5} {
				c.checkIn(t, For(v).WithBaseURLs(base))
			}
		})
	}
}

func (c *specCase) checkIn(t *testing.T, d *Definitions) {
	if d.Version() == fhir.R5 && strings.Contains(c.body, "probabilityRange") {
		return // R5's expression of RiskAssessment probability takes the decimals alone
	}
	r := resource(t, d, `{"resourceType":"`+c.typ+`"`+c.body+`}`)
	for _, want := range []bool{true, false} {
		list := c.yes
		if !want {
			list = c.no
		}
		for _, q := range list {
			code, _, _ := strings.Cut(q, "=")
			code, _, _ = strings.Cut(code, ":")
			if d.types[c.typ] == nil || d.types[c.typ].params[code] == nil {
				if renamed[code] {
					continue
				}
				t.Fatalf("%s has no %s?%s", d.Version(), c.typ, code)
			}
			if x := compiled(t, d, c.typ+"?"+q); x.Match(r) != want {
				t.Errorf("%s: %s: %s = %v", d.Version(), c.body, q, !want)
			}
		}
	}
}

// renamed are parameters of R4 that a later version does not have.
var renamed = map[string]bool{"variant-start": true}

func TestNumberRulesOfTheSpecification(t *testing.T) {
	risk := func(v string) string { return `,"prediction":[{"probabilityDecimal":` + v + `}]` }
	between := func(lo, hi string) string {
		return `,"prediction":[{"probabilityRange":{"low":{"value":` + lo + `},"high":{"value":` + hi + `}}}]`
	}
	start := func(v string) string { return `,"variant":[{"start":` + v + `}]` }
	checkSpec(t, []specCase{
		// The table of 3.1.1.4.6.
		{"3.1.1.4.6: 100 is [99.5 ... 100.5), lower end", "RiskAssessment", risk("99.5"), meets{yes: []string{"probability=100"}}},
		{"3.1.1.4.6: 100 is [99.5 ... 100.5), upper end", "RiskAssessment", risk("100.5"), meets{no: []string{"probability=100"}}},
		{"3.1.1.4.6: 100 is [99.5 ... 100.5), below the upper end", "RiskAssessment", risk("100.499999999999999999999999"), meets{yes: []string{"probability=100"}}},
		{"3.1.1.4.6: 100.00 is [99.995 ... 100.005), lower end", "RiskAssessment", risk("99.995"), meets{yes: []string{"probability=100.00"}}},
		{"3.1.1.4.6: 100.00 is [99.995 ... 100.005), upper end", "RiskAssessment", risk("100.005"), meets{no: []string{"probability=100.00"}}},
		{"3.1.1.4.6: 1e2 is [95 ... 105), lower end", "RiskAssessment", risk("95"), meets{yes: []string{"probability=1e2"}}},
		{"3.1.1.4.6: 1e2 is [95 ... 105), upper end", "RiskAssessment", risk("105"), meets{no: []string{"probability=1e2"}, yes: []string{"probability=ne1e2"}}},
		{"3.1.1.4.6: lt100 is less than exactly 100", "RiskAssessment", risk("99.9999"), meets{yes: []string{"probability=lt100", "probability=le100"}, no: []string{"probability=gt100", "probability=ge100"}}},
		{"3.1.1.4.6: gt100 is greater than exactly 100", "RiskAssessment", risk("100.0001"), meets{yes: []string{"probability=gt100", "probability=ge100"}, no: []string{"probability=lt100", "probability=le100"}}},
		{"3.1.1.4.6: le100 and ge100 take in exactly 100", "RiskAssessment", risk("100"), meets{yes: []string{"probability=le100", "probability=ge100"}, no: []string{"probability=gt100", "probability=lt100"}}},
		{"3.1.1.4.6: ne100 is outside of 99.5 to 100.5", "RiskAssessment", risk("100.2"), meets{no: []string{"probability=ne100"}, yes: []string{"probability=ne100.0"}}},
		// The notes of 3.1.1.4.6.
		{"3.1.1.4.6 notes: integers match exactly without digits behind the point", "MolecularSequence", start("2"), meets{yes: []string{"variant-start=2", "variant-start=2.0", "variant-start=2.00"}, no: []string{"variant-start=3", "variant-start=1"}}},
		{"3.1.1.4.6 notes: no integer equals a number with digits other than zero behind the point", "MolecularSequence", start("2"), meets{no: []string{"variant-start=2.1", "variant-start=1.9", "variant-start=2.01"}}},
		{"3.1.1.4.6 notes: precision does not count for gt lt ge le sa eb", "RiskAssessment", risk("100"),
			meets{yes: []string{"probability=gt99.9999", "probability=ge100.00", "probability=ge1e2", "probability=sa99.99999", "probability=eb100.000001"}, no: []string{"probability=gt1e2", "probability=lt1e2", "probability=sa100", "probability=eb100.0"}}},
		{"3.1.1.4.6 notes: significant digits leave out leading zeros: 100 and 1.00e2 are alike", "RiskAssessment", risk("99.5"), meets{yes: []string{"probability=1.00e2", "probability=100", "probability=0100"}, no: []string{"probability=1.000e2"}}},
		{"3.1.1.4.6 example: gt0.8", "RiskAssessment", risk("0.81"), meets{yes: []string{"probability=gt0.8", "probability=gt8e-1"}}},
		// 3.1.1.4.5.
		{"3.1.1.4.5: no prefix is eq", "RiskAssessment", risk("2.0"), meets{yes: []string{"probability=2.0", "probability=eq2.0"}, no: []string{"probability=2.1", "probability=eq2.1"}}},
		{"3.1.1.4.5: 2.0 is 1.95 to 2.05", "RiskAssessment", risk("1.95"), meets{yes: []string{"probability=2.0"}, no: []string{"probability=2.00"}}},
		{"3.1.1.4.5: ap is within 10 per cent", "RiskAssessment", risk("90"), meets{yes: []string{"probability=ap100", "probability=ap81.9"}, no: []string{"probability=ap101", "probability=ap81"}}},
		{"3.1.1.4.5: eq of a Range: the searched range contains it", "RiskAssessment", between("1.96", "2.04"), meets{yes: []string{"probability=2.0", "probability=2"}, no: []string{"probability=2.00"}}},
		{"3.1.1.4.5: ne of a Range: the searched range does not contain it", "RiskAssessment", between("1.96", "2.05"), meets{yes: []string{"probability=ne2.0"}, no: []string{"probability=ne2"}}},
		{"3.1.1.4.5: gt and lt of a Range: it reaches beyond", "RiskAssessment", between("2", "4"), meets{yes: []string{"probability=gt3", "probability=lt3", "probability=ge4", "probability=le2"}, no: []string{"probability=gt4", "probability=lt2", "probability=ge4.1", "probability=le1.9"}}},
		{"3.1.1.4.5: sa and eb of a Range: it lies beyond as a whole", "RiskAssessment", between("2", "4"), meets{yes: []string{"probability=sa1.9", "probability=eb4.1"}, no: []string{"probability=sa2", "probability=eb4", "probability=sa3", "probability=eb3"}}},
		{"3.1.1.4.5: ap of a Range: they overlap", "RiskAssessment", between("2", "4"), meets{yes: []string{"probability=ap4.4", "probability=ap1.9"}, no: []string{"probability=ap4.5", "probability=ap1.8"}}},
		{"Range: a missing end is open", "RiskAssessment", `,"prediction":[{"probabilityRange":{"low":{"value":2}}}]`, meets{yes: []string{"probability=gt1e30", "probability=sa1"}, no: []string{"probability=lt2", "probability=eb1e30", "probability=2"}}},
		{"Range rng-2: ends the wrong way round hold nothing", "RiskAssessment", between("4", "2"), meets{yes: []string{"probability:missing=false"}, no: []string{"probability=3", "probability=ne3", "probability=gt0", "probability=lt9", "probability=ap3"}}},
		// Exactness.
		{"decimals are exact", "RiskAssessment", risk("0.1"), meets{yes: []string{"probability=0.1000000000000000000000000000000", "probability=ge0.1", "probability=gt0.0999999999999999999999999999999"}, no: []string{"probability=gt0.1", "probability=gt0.1000000000000000000000000000001"}}},
		{"digits beyond 64 bits count", "RiskAssessment", risk("123456789012345678901234567890.1"), meets{yes: []string{"probability=gt123456789012345678901234567890", "probability=123456789012345678901234567890.1"}, no: []string{"probability=123456789012345678901234567890.2"}}},
		{"negative numbers", "RiskAssessment", risk("-0.5"), meets{yes: []string{"probability=-0.5", "probability=lt0", "probability=gt-0.6", "probability=ap-0.5", "probability=eb0"}, no: []string{"probability=0.5", "probability=lt-0.5"}}},
		{"zero", "RiskAssessment", risk("0"), meets{yes: []string{"probability=0", "probability=-0", "probability=0.00", "probability=ge0", "probability=ap0", "probability=0e5"}, no: []string{"probability=gt0", "probability=1"}}},
		{"exponents in resources", "RiskAssessment", risk("8E-1"), meets{yes: []string{"probability=0.8", "probability=0.80"}}},
		{"a + that was not encoded arrives as a space", "RiskAssessment", risk("100"), meets{yes: []string{"probability=1.0e+2", "probability=1.0e%2B2", "probability=1.0E+2"}}},
		{"a comma joins values by or, a repetition by and", "RiskAssessment", risk("5"), meets{yes: []string{"probability=4,5", "probability=gt4&probability=lt6"}, no: []string{"probability=gt4&probability=lt5"}}},
		{"ne is met by any value that is unequal", "RiskAssessment", `,"prediction":[{"probabilityDecimal":1},{"probabilityDecimal":2}]`, meets{yes: []string{"probability=ne1", "probability=ne2"}}},
		{"what is no number has no value", "RiskAssessment", risk(`"0.5"`), meets{yes: []string{"probability:missing=false"}, no: []string{"probability=0.5", "probability=ne1"}}},
		{"no value meets nothing", "RiskAssessment", ``, meets{yes: []string{"probability:missing=true"}, no: []string{"probability=ne1", "probability=lt1"}}},
	})
}

// The arithmetic of 64 bits says the same as that of any length.
func TestDecimalsAreExact(t *testing.T) {
	text := rapid.Custom(func(t *rapid.T) string {
		return rapid.StringMatching(`-?[0-9]{1,22}(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
	})
	rapid.Check(t, func(t *rapid.T) {
		s, u := text.Draw(t, "a"), text.Draw(t, "b")
		a, okA := parseDecimal([]byte(s))
		b, okB := parseDecimal([]byte(u))
		x, _, errX := apd.NewFromString(s)
		y, _, errY := apd.NewFromString(u)
		if !okA || !okB || errX != nil || errY != nil {
			t.Fatalf("%s, %s: %v %v %v %v", s, u, okA, okB, errX, errY)
		}
		if got, want := a.compare(b), x.Cmp(y); got != want {
			t.Errorf("%s and %s compare as %d, want %d", s, u, got, want)
		}
		var sum, product apd.Decimal
		if _, err := exact.Add(&sum, x, y); err != nil || a.plus(b).apd().Cmp(&sum) != 0 {
			t.Errorf("%s + %s = %v, want %v", s, u, a.plus(b).apd(), &sum)
		}
		if _, err := exact.Mul(&product, x, y); err != nil || a.mul(b).apd().Cmp(&product) != 0 {
			t.Errorf("%s × %s = %v, want %v", s, u, a.mul(b).apd(), &product)
		}
		if a.exponent() != x.Exponent {
			t.Errorf("%s has its last digit at %d, want %d", s, a.exponent(), x.Exponent)
		}
	})
}

// FuzzNumber: what is read as a number is one by JSON's grammar but for leading zeros, has the
// value that an independent reader finds, and lies within its own precision.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"100", "100.00", "1e2", "-5.40e-3", "0", "-0.0", "00012", "1.", ".5", "1e", "9223372036854775807", "9223372036854775808", "1e1000", "1E+9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseDecimal([]byte(s))
		if !ok {
			return
		}
		x, _, err := apd.NewFromString(s)
		if err != nil || d.apd().Cmp(x) != 0 {
			t.Fatalf("%q: %v, %v (%v)", s, d.apd(), x, err)
		}
		w := wantAmount{exact: d, number: s}
		w.lo, w.hi = w.precision()
		if w.lo.compare(d) >= 0 || w.hi.compare(d) <= 0 || !w.match(&amount{lo: d, hi: d}) {
			t.Fatalf("%q: from %v to %v", s, w.lo.apd(), w.hi.apd())
		}
		if d.plus(d.times(-1, 0)).sign() != 0 {
			t.Fatalf("%q less itself is not zero", s)
		}
	})
}
