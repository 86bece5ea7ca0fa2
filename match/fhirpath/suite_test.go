package fhirpath

import (
	"bufio"
	"compress/gzip"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// The suites as testdata/suite/README.md describes them.
type suiteFile struct {
	Groups []struct {
		Name  string      `xml:"name,attr"`
		Tests []suiteTest `xml:"test"`
	} `xml:"group"`
}

type suiteTest struct {
	Name            string `xml:"name,attr"`
	Input           string `xml:"inputfile,attr"`
	Mode            string `xml:"mode,attr"`
	Predicate       bool   `xml:"predicate,attr"`
	SkipStaticCheck bool   `xml:"skipStaticCheck,attr"`
	Unordered       string `xml:"ordered,attr"`
	Expression      struct {
		Text    string `xml:",chardata"`
		Invalid string `xml:"invalid,attr"`
	} `xml:"expression"`
	Outputs []struct {
		Type string `xml:"type,attr"`
		Text string `xml:",chardata"`
	} `xml:"output"`
}

// suiteNow is when the suites run.
var suiteNow = time.Date(2026, 11, 21, 10, 30, 15, 0, time.UTC)

// wanted is how many tests of each suite must pass.
var wanted = map[fhir.Version]struct{ total, pass int }{
	fhir.R4: {935, 900}, fhir.R4B: {933, 900}, fhir.R5: {1051, 1000},
}

func TestOfficialSuites(t *testing.T) {
	skipped := readSkipped(t)
	for _, v := range fhir.Versions() {
		t.Run(string(v), func(t *testing.T) {
			passed, total := 0, 0
			for _, g := range readSuite(t, v).Groups {
				t.Run(g.Name, func(t *testing.T) {
					for _, test := range g.Tests {
						total++
						name := string(v) + " " + g.Name + "/" + test.Name
						t.Run(test.Name, func(t *testing.T) {
							reason, skip := skipped[name]
							delete(skipped, name)
							problem := runSuiteTest(v, &test)
							switch {
							case skip && problem == "":
								t.Errorf("is left out in testdata/skipped.txt and passes")
							case skip:
								t.Skip(reason + ": " + problem)
							case problem != "":
								t.Errorf("%s: %s", strings.TrimSpace(test.Expression.Text), problem)
							default:
								passed++
							}
						})
					}
				})
			}
			t.Logf("%d of %d pass", passed, total)
			if total != wanted[v].total || passed < wanted[v].pass {
				t.Errorf("%d of %d pass, want %d of %d", passed, total, wanted[v].pass, wanted[v].total)
			}
		})
	}
	if !t.Failed() {
		for name := range skipped {
			t.Errorf("testdata/skipped.txt names %s, which is not in the suite", name)
		}
	}
}

func readSuite(t testing.TB, v fhir.Version) *suiteFile {
	f, err := os.Open(filepath.Join("testdata", "suite", string(v), "tests.xml.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	s := new(suiteFile)
	if err := xml.NewDecoder(z).Decode(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// readSkipped reads lines "version group/test: reason".
func readSkipped(t *testing.T) map[string]string {
	f, err := os.Open(filepath.Join("testdata", "skipped.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	skipped := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, ok := strings.Cut(line, ": ")
		versions, test, ok2 := strings.Cut(name, " ")
		if !ok || !ok2 {
			t.Fatalf("testdata/skipped.txt: %q is not \"versions group/test: reason\"", line)
		}
		for v := range strings.SplitSeq(versions, ",") {
			skipped[v+" "+test] = reason
		}
	}
	return skipped
}

// runSuiteTest gives what went wrong.
func runSuiteTest(v fhir.Version, test *suiteTest) string {
	var tree *json.Tree
	o := Options{Version: v, Strict: !test.SkipStaticCheck && !strings.HasPrefix(test.Mode, "lenient")}
	if test.Input != "" {
		name := strings.TrimSuffix(test.Input, filepath.Ext(test.Input)) + ".json"
		body, err := os.ReadFile(filepath.Join("testdata", "suite", string(v), "input", name))
		if err != nil {
			return err.Error()
		}
		if tree, err = json.Parse(body, json.Limits{}); err != nil {
			return err.Error()
		}
		o.Context = tree.Str(tree.Get(tree.Root(), "resourceType"))
	}
	e, err := Compile(test.Expression.Text, o)
	invalid := test.Expression.Invalid
	if err != nil {
		if invalid == "" {
			return err.Error()
		}
		if _, syntax := Parse(test.Expression.Text); invalid == "syntax" && syntax == nil {
			return "is refused, and not by the parser: " + err.Error()
		}
		return ""
	}
	if invalid == "syntax" || invalid == "semantic" {
		return "is not refused, though it is invalid by " + invalid
	}
	got, err := NewEvaluator().Evaluate(e, Input{Resource: tree, Now: suiteNow})
	if invalid != "" {
		if err == nil {
			return "no error, and one is expected"
		}
		return ""
	}
	if err != nil {
		return err.Error()
	}
	return compareOutputs(test, got)
}

func compareOutputs(test *suiteTest, got Collection) string {
	if test.Predicate {
		want := len(test.Outputs) == 1 && test.Outputs[0].Text == "true"
		met := got.Len() > 0
		if got.Len() == 1 {
			if b, ok := got.At(0).Boolean(); ok {
				met = b
			}
		}
		if met != want {
			return "as a condition it is not " + test.Outputs[0].Text
		}
		return ""
	}
	if got.Len() != len(test.Outputs) {
		return "gives " + shownCollection(got)
	}
	used := make([]bool, got.Len())
	for i, want := range test.Outputs {
		found := false
		for k := range got.Len() {
			if !used[k] && (k == i || test.Unordered == "false") && isOutput(got.At(k), want.Type, want.Text) {
				used[k], found = true, true
				break
			}
		}
		if !found {
			return "gives " + shownCollection(got)
		}
	}
	return ""
}

func shownCollection(c Collection) string {
	var b []byte
	for i := range c.Len() {
		v := c.At(i)
		b = append(append(append(append(b, ' '), v.TypeName()...), ':'), v.AppendJSON(nil)...)
	}
	return "[" + string(b) + " ]"
}

// outputKinds are the System types of the suites' names for types; a FHIR type is compared by
// its own name as well.
var outputKinds = map[string]kind{
	"boolean": kindBoolean, "integer": kindInteger, "decimal": kindDecimal, "string": kindString, "date": kindDate,
	"dateTime": kindDateTime, "time": kindTime, "Quantity": kindQuantity, "code": kindString, "id": kindString,
}

// isOutput compares by value and type.
func isOutput(v Value, typeName, text string) bool {
	sys, ok := v.system()
	if v.isQuantity() {
		sys, ok = v.quantity()
	}
	if !ok {
		return false
	}
	if typeName != "" {
		if sys.kind != outputKinds[typeName] || v.kind == kindNode && v.typ.Name != typeName {
			return false
		}
	}
	text = strings.TrimPrefix(text, "@")
	var want Value
	switch sys.kind {
	case kindBoolean:
		want, ok = boolean(text == "true"), text == "true" || text == "false"
	case kindInteger, kindDecimal:
		want, ok = readNumber([]byte(text), sys.kind)
		ok = ok && want.decimal().decimals() <= sys.decimal().decimals()
	case kindDate, kindDateTime:
		var m moment
		m, ok = parseDate([]byte(text), sys.kind == kindDateTime)
		want = momentValue(sys.kind, m)
		ok = ok && m.prec == sys.prec
	case kindTime:
		var m moment
		m, ok = parseTime([]byte(strings.TrimPrefix(text, "T")))
		want = momentValue(kindTime, m)
		ok = ok && m.prec == sys.prec
	case kindQuantity:
		want, ok = quantityText([]byte(text))
		ok = ok && string(want.text) == string(sys.text)
	default:
		return string(sys.text) == text
	}
	return ok && sys.Equal(want)
}
