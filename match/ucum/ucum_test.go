package ucum

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/apd/v3"
)

func unit(t testing.TB, code string) Unit {
	t.Helper()
	u, err := Parse(code)
	if err != nil {
		t.Fatalf("%s: %v", code, err)
	}
	return u
}

func number(t testing.TB, s string) *apd.Decimal {
	t.Helper()
	d, _, err := apd.NewFromString(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return d
}

func TestTheTableCanBeRead(t *testing.T) {
	table, err := readTable(unitsTable)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.units) < 300 || len(table.prefixes) != 24 {
		t.Errorf("%d units, %d prefixes", len(table.units), len(table.prefixes))
	}
	for code := range table.units {
		if u, err := Parse(code); err != nil || u.String() != code {
			t.Errorf("%s: %v, %v", code, u, err)
		}
	}
}

func TestATableThatIsWrongIsRefused(t *testing.T) {
	for _, text := range []string{
		"unit\tx\t-\t1\ty",
		"unit\tx\t-\t1\ty\nunit\ty\t-\t1\tx", // in a circle
		"unit\tx\t-\t1\tx",
		"unit\tx\t-\tone\t1",
		"unit\tx\t-\t1",
		"scale\tx\t-\t1\t1\tone",
		"prefix\tk\tthree",
		"something",
	} {
		if _, err := readTable(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// The codes of the sample data, of the FHIR specification's list of common UCUM units, and of
// UCUM's own examples.
func TestUnitsInUseAreRead(t *testing.T) {
	for code, key := range map[string]string{
		"1": "1", "%": "1", "{score}": "1", "10*3/uL": "m-3", "10*6/uL": "m-3", "10*12/L": "m-3", "10^3/uL": "m-3",
		"mm[Hg]": "g.m-1.s-2", "mg/dL": "g.m-3", "mmol/L": "m-3.mol", "cm": "m", "kg/m2": "g.m-2", "fL": "m3", "g/dL": "g.m-3",
		"pg": "g", "mL/min/{1.73_m2}": "m3.s-1", "d": "s", "Cel": "K", "[degF]": "K", "kU/L": "m-3.mol.s-1", "a": "s",
		"ml": "m3", "U": "mol.s-1", "mg/kg": "1", "[diop]": "m-1", "[lb_av]": "g", "mEq": "", "meq": "eq", "meq/L": "eq.m-3",
		"kPa": "g.m-1.s-2", "cal/mL": "g.m-1.s-2", "[foz_us]": "m3", "[in_i]": "m", "/min": "s-1", "{beats}/min": "s-1",
		"deg": "rad", "b": "m2", "[IU]": "[iU]", "[iU]/L": "[iU].m-3", "m[IU]/mL": "[iU].m-3", "u[IU]/mL": "[iU].m-3", "cal/[foz_us]": "g.m-1.s-2",
		"g/cm-2": "g.m2", "mosm/kg": "g-1.osm", "/100{WBC}": "1", "/[HPF]": "1", "10.L/(min.m2)": "m.s-1",
		"kg.m/s2": "g.m.s-2", "m/s2": "m.s-2", "m+2": "m2", "s-1": "s-1", "(m)": "m", "kg/(s2.m)": "g.m-1.s-2",
		"dar": "m2", "cd": "cd", "dag": "g", "KiBy": "1", "B[10.nV]": "B[10.nV]", "dB": "B", "%[slope]": "%[slope]", "[in_i'H2O]": "g.m-1.s-2",
		"[m/s2/Hz^(1/2)]": "[m/s2/Hz^(1/2)]", "''": "rad", "ug/kg/h": "s-1", "nmol/mg{creat}": "g-1.mol", "mg{total}/dL": "g.m-3",
		"[arb'U]/mL": "[arb'U].m-3", "24.h": "s", "mL/(24.h)": "m3.s-1", "a_g": "s", "10*-6": "1", "m0": "1",
		"((((m))))": "m", "/(/m)": "m", "{}": "1", "mmol/mol{Hb}": "1",
	} {
		u, err := Parse(code)
		switch {
		case key == "" && err == nil:
			t.Errorf("%s is read as %s", code, u.Key())
		case key != "" && err != nil:
			t.Errorf("%s: %v", code, err)
		case key != "" && u.Key() != key:
			t.Errorf("%s is a unit of %s, want %s", code, u.Key(), key)
		}
	}
}

func TestWhatIsNoUnitIsRefusedAtItsPlace(t *testing.T) {
	for code, want := range map[string]string{
		"":                             "position 1: a unit is missing",
		"month":                        `position 1: "month" is not a unit`,
		"ml/hr":                        `position 4: "hr" is not a unit`,
		"mcg":                          `position 1: "mcg"`,
		"kmin":                         `"min" takes no prefix`,
		"(score)":                      `position 2: "score"`,
		"mg dL":                        "position 3: units are written in visible ASCII",
		"µg":                           "position 1: units are written in visible ASCII",
		"mg/":                          "position 4: a unit is missing",
		"mg//dL":                       "position 4: a unit is missing",
		".mg":                          "position 1: a unit is missing",
		"mg)":                          `position 3: ")" does not belong here`,
		"(mg":                          "position 4: a closing parenthesis",
		"[in_i":                        "position 6: the closing ]",
		"in_i]":                        "position 1",
		"{a":                           "position 3: the closing }",
		"{ä}":                          "position 2: an annotation holds",
		"{a{b}}":                       "position 3",
		"m100":                         "position 2: an exponent is larger than 99",
		"m-":                           "position 3: a sign must be followed",
		"m2.m98":                       "too many digits",
		"0.m":                          "position 1: a number in a unit must be a positive integer",
		"m^2":                          `"m^"`,
		"Cel/d":                        "position 4: a unit of temperature",
		"Cel2":                         "position 1: a unit of temperature",
		"2.Cel":                        "position 2: a unit of temperature",
		"10mg":                         `position 3: "m" does not belong here`,
		"Ym99.pc99":                    "too many digits",
		"{a}b":                         `position 4: "b" does not belong`,
		"10*1000":                      "larger than 99",
		strings.Repeat("(", 17):        "nested deeper",
		strings.Repeat("m.", 200):      "longer than",
		"1" + strings.Repeat("0", 255): "",
	} {
		u, err := Parse(code)
		var syntax *SyntaxError
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", code, err)
		case want != "" && (!errors.As(err, &syntax) || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v (%v), want %s", code, u, err, want)
		}
	}
}

func TestValuesConvert(t *testing.T) {
	for _, x := range []struct{ v, from, to, want string }{
		{"5.5", "g", "mg", "5500"},
		{"5500", "mg", "g", "5.5"},
		{"1", "[in_i]", "cm", "2.54"},
		{"1", "[lb_av]", "g", "453.59237"},
		{"1", "[mi_i]", "m", "1609.344"},
		{"1", "wk", "d", "7"},
		{"1", "mo", "d", "30.4375"},
		{"1", "a", "d", "365.25"},
		{"1", "mm[Hg]", "Pa", "133.322"},
		{"1", "bar", "kPa", "100"},
		{"1", "atm", "Pa", "101325"},
		{"1", "[psi]", "Pa", "6894.757293168361336722673445346890693781"},
		{"1", "cal", "J", "4.184"},
		{"1", "[Cal]", "kJ", "4.184"},
		{"1", "[gal_us]", "L", "3.785411784"},
		{"1", "[foz_us]", "mL", "29.5735295625"},
		{"100", "mg/dL", "g/L", "1"},
		{"4.5", "10*6/uL", "10*12/L", "4.5"},
		{"4.5", "10*12/L", "/L", "4500000000000"},
		{"1", "U", "nkat", "16.66666666666666666666666666666666666667"},
		{"37", "Cel", "K", "310.15"},
		{"37", "Cel", "[degF]", "98.6"},
		{"98.6", "[degF]", "Cel", "37"},
		{"-40", "[degF]", "Cel", "-40"},
		{"80", "[degRe]", "Cel", "100"},
		{"1000", "mCel", "Cel", "1"},
		{"0", "K", "Cel", "-273.15"},
		{"1", "m", "[ft_i]", "3.280839895013123359580052493438320209974"},
		{"180", "deg", "[pi].rad", "1"},
		{"1", "{score}", "%", "100"},
		{"1", "k[IU]", "[iU]", "1000"},
		{"30", "dB", "B", "3"},
		{"7.4", "[pH]", "[pH]", "7.4"},
		{"1", "By", "bit", "8"},
		{"1", "Oe.[pi]", "A/m", "250"},
		{"2", "[S]", "s", "2E-13"},
		{"1", "[LPF]", "[HPF]", "100"},
		{"2", "[diop]", "/m", "2"},
		{"1", "[car_Au]", "24", "0.001736111111111111111111111111111111111111"},
		{"-0", "g", "kg", "0"},
		{"123456789012345678901234567890.5", "g", "mg", "123456789012345678901234567890500"},
		{"1E+60", "g", "kg", "1E+57"},
	} {
		v := number(t, x.v)
		got, err := Convert(v, unit(t, x.from), unit(t, x.to))
		if err != nil || got.String() != x.want {
			t.Errorf("%s %s = %v %s (%v), want %s", x.v, x.from, got, x.to, err, x.want)
		}
		if v.Cmp(number(t, x.v)) != 0 {
			t.Errorf("%s was changed", x.v)
		}
	}
}

func TestWhatDoesNotConvertIsRefused(t *testing.T) {
	for _, x := range [][2]string{
		{"g", "m"}, {"g", "mol"}, {"mmol/L", "mg/dL"}, {"[IU]", "[arb'U]"}, {"[IU]", "U"}, {"[IU]", "1"}, {"mol", "1"},
		{"meq", "mmol"}, {"mosm", "mmol"}, {"[pH]", "mol/L"}, {"B", "1"}, {"B[V]", "V"}, {"Np", "B"}, {"[hp_X]", "[hp_C]"},
		{"Cel", "1"}, {"1", "rad"}, {"[GPL'U]", "[MPL'U]"}, {"mL/min", "mL"}, {"g/m2", "g/m3"},
	} {
		a, b := unit(t, x[0]), unit(t, x[1])
		if a.Comparable(b) || b.Comparable(a) {
			t.Errorf("%s and %s are comparable", a, b)
		}
		_, err := Convert(apd.New(1, 0), a, b)
		_, cmpErr := Compare(apd.New(1, 0), a, apd.New(1, 0), b)
		_, relErr := Relate(a, b)
		for _, err := range []error{err, cmpErr, relErr} {
			if !errors.Is(err, ErrIncomparable) {
				t.Errorf("%s and %s: %v", a, b, err)
			}
		}
	}
}

func TestValuesBeyondTheBoundsAreRefused(t *testing.T) {
	g, kg := unit(t, "g"), unit(t, "kg")
	for _, v := range []*apd.Decimal{
		apd.New(1, maxValueScale+1), apd.New(1, -maxValueScale-1), number(t, strings.Repeat("9", 3000)), {Form: apd.NaN}, {Form: apd.Infinite},
	} {
		_, err := Convert(v, g, kg)
		_, cmpErr := Compare(apd.New(1, 0), g, v, kg)
		_, _, canErr := Canonical(v, g)
		for _, err := range []error{err, cmpErr, canErr} {
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("%.20s...: %v", v, err)
			}
		}
	}
	if _, err := Convert(apd.New(1, -maxValueScale), kg, g); err != nil {
		t.Error(err)
	}
}

func TestComparisonNeverRounds(t *testing.T) {
	perMinute, perSecond := unit(t, "/min"), unit(t, "/s")
	// A sixtieth has no decimal; 60 of them are a whole all the same.
	for _, x := range []struct {
		a, b string
		want int
	}{
		{"60", "1", 0}, {"1", "0.016666666666666666666666666666666666666666666666666666666667", -1},
		{"1", "0.016666666666666666666666666666666666666666666666666666666666", 1},
	} {
		if got, err := Compare(number(t, x.a), perMinute, number(t, x.b), perSecond); got != x.want || err != nil {
			t.Errorf("%s /min and %s /s: %d %v, want %d", x.a, x.b, got, err, x.want)
		}
	}
}

func TestCanonicalFormsOfEqualValuesAreEqual(t *testing.T) {
	for _, x := range []struct{ v, code, want, key string }{
		{"5500", "mg", "5.5", "g"},
		{"0.0055", "kg", "5.5", "g"},
		{"5.500", "g", "5.5", "g"},
		{"100", "mg/dL", "1000", "g.m-3"},
		{"37.0", "Cel", "310.15", "K"},
		{"98.6", "[degF]", "310.15", "K"},
		{"60", "/min", "1", "s-1"},
		{"5", "%", "0.05", "1"},
	} {
		d, key, err := Canonical(number(t, x.v), unit(t, x.code))
		if err != nil || d.String() != x.want || key != x.key {
			t.Errorf("%s %s: %v %s %v, want %s %s", x.v, x.code, d, key, err, x.want, x.key)
		}
	}
}

func TestProductsHaveCodes(t *testing.T) {
	for _, x := range []struct{ a, op, b, want string }{
		{"cm", "*", "m", "cm.m"}, {"m", "*", "m", "m2"}, {"g", "/", "m", "g/m"}, {"m", "/", "m", "1"},
		{"kg.m", "/", "s2", "kg.m/s2"}, {"1", "/", "s", "/s"}, {"m/s", "/", "m/s", "1"}, {"mg/dL", "*", "dL", "mg"},
		{"Cel", "*", "1", "Cel"}, {"1", "*", "Cel", "Cel"}, {"Cel", "/", "1", "Cel"}, {"{score}", "*", "mg{x}", "mg{x}"},
		{"10*3/uL", "*", "uL", "10*3"}, {"12.h", "/", "24.h", "12/24"}, {"a/(b.t)", "*", "b", "a/t"},
	} {
		op := Unit.Mul
		if x.op == "/" {
			op = Unit.Div
		}
		got, err := op(unit(t, x.a), unit(t, x.b))
		if err != nil || got.String() != x.want {
			t.Errorf("%s %s %s = %v (%v), want %s", x.a, x.op, x.b, got, err, x.want)
			continue
		}
		if again := unit(t, got.String()); again.Key() != got.Key() || again.form().factor.Cmp(got.form().factor) != 0 {
			t.Errorf("%s means something else when it is read", got)
		}
	}
	for _, x := range []struct {
		code string
		n    int
		want string
	}{{"m", 2, "m2"}, {"m/s", -1, "s/m"}, {"m/s", 0, "1"}, {"Cel", 1, "Cel"}, {"100.m", 2, "100.100.m2"}, {"cm2", -2, "/cm4"}} {
		if got, err := unit(t, x.code).Pow(x.n); err != nil || got.String() != x.want {
			t.Errorf("%s to the power %d = %v (%v), want %s", x.code, x.n, got, err, x.want)
		}
	}
	if _, err := unit(t, "Cel").Mul(unit(t, "m")); !errors.Is(err, ErrNotRatio) {
		t.Error(err)
	}
	if _, err := unit(t, "Cel").Pow(2); !errors.Is(err, ErrNotRatio) {
		t.Error(err)
	}
	for _, n := range []int{100, -100, 1 << 62, -1 << 63} {
		if _, err := unit(t, "m").Pow(n); !errors.Is(err, ErrTooLarge) {
			t.Errorf("to the power %d: %v", n, err)
		}
	}
	if _, err := unit(t, "m99").Mul(unit(t, "m")); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if u := (Unit{}); u.String() != "1" || u.Key() != "1" || !u.Comparable(unit(t, "%")) {
		t.Errorf("the zero Unit is %v", u)
	}
}

func TestARelationSaysTheSameAsAConversion(t *testing.T) {
	for _, x := range []struct{ from, to, mul, add, div string }{
		{"g", "mg", "1000", "0", "1"},
		{"mg", "g", "1", "0", "1000"},
		{"/min", "/s", "1", "0", "60"},
		{"Cel", "[degF]", "9", "160", "5"},
		{"[degF]", "Cel", "5", "-160", "9"},
		{"Cel", "K", "20", "5463", "20"},
		{"m", "m", "1", "0", "1"},
	} {
		r, err := Relate(unit(t, x.from), unit(t, x.to))
		if err != nil || r.Mul.Text('f') != x.mul || r.Add.Text('f') != x.add || r.Div.Text('f') != x.div {
			t.Errorf("%s to %s: %v %v", x.from, x.to, r, err)
		}
	}
}

// FuzzUCUM: whatever is read has a code of equal meaning, converts to base units and back, and
// costs little.
func FuzzUCUM(f *testing.F) {
	for _, s := range []string{"mg/dL", "10*3/uL", "mL/min/{1.73_m2}", "Cel", "[degF]", "B[10.nV]", "((m2.s-1)/kg)3", "/100{WBC}",
		"m[IU]/mL", "24.h", "Ym99", "1/(/m)", "[m/s2/Hz^(1/2)]", "dar", "%", "10^-3", "[pi].rad/360", "'", "{", "m0"} {
		f.Add(s, int64(55), int32(-1))
	}
	f.Fuzz(func(t *testing.T, code string, coef int64, exp int32) {
		u, err := Parse(code)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Position < 1 || syntax.Position > len(code)+1 {
				t.Fatalf("%q: %v", code, err)
			}
			return
		}
		base, err := Parse(u.Key())
		if err != nil || !base.Comparable(u) {
			t.Fatalf("%q: key %s: %v", code, u.Key(), err)
		}
		v := apd.New(coef, exp)
		if c, err := Compare(v, u, v, u); err == nil && c != 0 {
			t.Fatalf("%q: %v is not itself", code, v)
		}
		if d, err := Convert(v, u, u); err == nil && d.Cmp(v) != 0 {
			t.Fatalf("%q: %v in its own unit is %v", code, v, d)
		}
		d, key, err := Canonical(v, u)
		if err != nil {
			return
		}
		if key != u.Key() {
			t.Fatalf("%q: keys %s, %s", code, key, u.Key())
		}
		if same, err := Convert(v, u, base); err != nil || same.Cmp(d) != 0 {
			t.Fatalf("%q: %v is %v and %v (%v)", code, v, d, same, err)
		}
		square, err := u.Mul(u)
		if err != nil {
			return
		}
		again, err := Parse(square.String())
		if err != nil || again.Key() != square.Key() || again.form().factor.Cmp(square.form().factor) != 0 {
			t.Fatalf("%q: its square %s: %v", code, square, err)
		}
		if root, err := square.Div(u); err != nil || root.form().factor.Cmp(u.form().factor) != 0 || root.Key() != u.Key() {
			t.Fatalf("%q: %s through %s is %v (%v)", code, square, code, root, err)
		}
	})
}
