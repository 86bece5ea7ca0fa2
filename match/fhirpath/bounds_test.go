package fhirpath

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func TestAPatternThatGrowsByItsRepetitionsIsRefused(t *testing.T) {
	long := strings.Repeat("a?", 400)
	for _, pattern := range []string{"(" + long + "){1000}", "(" + long + "){1000,}b", "(" + long + "){2,900}", "((" + long[:80] + "){30}){30}"} {
		_, err := Compile("id.matches('"+pattern+"')", Options{})
		if err == nil || !strings.Contains(err.Error(), "written out is longer than 4096") {
			t.Errorf("%.10s...%s: %v", pattern, pattern[len(pattern)-10:], err)
		}
		// One that only the resource gives fails when it is met.
		in := Input{Resource: parsed(t, fmt.Sprintf(`{"resourceType":"Patient","id":%q}`, pattern))}
		if got := evaluated(t, "'aaaa'.matches(id)", Options{}, in); !strings.HasPrefix(got, "error: FHIRPath at position 16: the pattern") {
			t.Errorf("as a pattern of the resource it gives %s", got)
		}
	}
	for _, pattern := range []string{"^[A-Z]{3}[0-9]{2,10}$", "(a{1,30}){1,30}", `\\p{L}{0,200}`, "(" + strings.Repeat("abc|", 200) + "d)*"} {
		if _, err := Compile("id.matches('"+pattern+"')", Options{}); err != nil {
			t.Errorf("%.20s: %v", pattern, err)
		}
	}
}

// Expressions whose price neither their own steps nor those of the items showed: each is given
// up before it takes the memory or the time.
func TestWhatLooksCheapAndIsNotIsGivenUp(t *testing.T) {
	patient := func(id string) string { return `{"resourceType":"Patient","id":"` + id + `"}` }
	names := `{"resourceType":"Patient","name":[` + strings.Repeat(`{"family":"`+strings.Repeat("9", 390)+`"},`, 3000) + `{}]}`
	for name, x := range map[string]struct{ expr, body string }{
		"a template that names a long match many times":  {"id.replaceMatches('(.*)', '" + strings.Repeat("$1", 4000) + "')", patient(strings.Repeat("a", 1_000_000))},
		"groups of every match":                          {"id.replaceMatches('" + strings.Repeat("()", 400) + "', 'x')", patient(strings.Repeat("a", 30_000))},
		"searches that each read to the end of the text": {"id.replaceMatches('a*b|a', '')", patient(strings.Repeat("a", 100_000))},
		"more matches than items":                        {"id.replaceMatches('a', '')", patient(strings.Repeat("a", 200_000))},
		"text that is made again for every item":         {"name.select(%resource.name.first().family.replace('9', '999'))", names},
		"operators that are many":                        {"name.where(%resource.name.where(" + strings.Repeat("false or ", 1500) + "false).exists())", names},
		"products of many digits":                        {"name.where(" + strings.Repeat("1.1 * ", 1500) + "1.1 = 2)", names},
		"collections in any order":                       {"name ~ %resource.name", names},
		"powers of many digits":                          {"name.family.select(toDecimal().power(3.3333))", names},
	} {
		e := compiled(t, x.expr, Options{})
		m := NewEvaluator()
		if _, err := m.Evaluate(e, Input{Resource: parsed(t, x.body)}); !errors.Is(err, ErrTooCostly) {
			t.Errorf("%s: %v, want ErrTooCostly", name, err)
		}
		if cap(m.bytes) > 4*maxText {
			t.Errorf("%s: %d bytes are held", name, cap(m.bytes))
		}
	}
}

func TestEveryMatchIsReplaced(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Patient","id":"`+strings.Repeat("ab ", 500)+`"}`)}
	for expr, want := range map[string]string{
		`id.replaceMatches('a', '')`:                     strings.Repeat("b ", 500),
		`id.replaceMatches('(a)(b)', '$2$1$1x')`:         strings.Repeat("baax ", 500),
		`id.replaceMatches('\\b', '|')`:                  strings.Repeat("|ab| ", 500),
		`id.replace('ab', 'c').replaceMatches(' ', 'd')`: strings.Repeat("cd", 500),
	} {
		if got := evaluated(t, expr, Options{}, in); got != `["`+want+`"]` {
			t.Errorf("%s: %.60s", expr, got)
		}
	}
}

// 1e1000 squared twenty times was 1 with a thousand million zeros, written out by toString().
func TestAProductBeyondTheExponentsIsNone(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Observation","valueQuantity":{"value":1e1000}}`)}
	square := strings.Repeat(".select($this * $this)", 20)
	if got := evaluated(t, "value.value"+square+".toString()", Options{}, in); got != "[]" {
		t.Errorf("%.80s", got)
	}
	if got := evaluated(t, "value.value * 10", Options{}, in); got != "[1"+strings.Repeat("0", 1001)+"]" && got != "[]" {
		t.Errorf("%.80s", got)
	}
}

func TestTheLeastIntegerIsAnOverflow(t *testing.T) {
	for _, expr := range []string{"(-9223372036854775807 - 1).abs()", "-9223372036854775807 - 1", "-9223372036854775807 + -1", "9223372036854775807 + 1"} {
		if got := evaluated(t, expr, Options{}, Input{}); got != "[]" {
			t.Errorf("%s = %s", expr, got)
		}
	}
	if got := evaluated(t, "-9223372036854775807.0 - 1.0", Options{}, Input{}); got != "[-9223372036854775808.0]" {
		t.Error(got)
	}
}

// A primitive beside an array of extensions once took the members that follow it for its items.
func TestAnElementIsNotMixedWithTheMembersBesideIt(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Patient","name":[{"given":"a","_given":[{"id":"1"},{"id":"2"}],"family":"F","text":"T"},
		{"given":["b","c"],"_given":{"id":"3"},"family":"G"}]}`)}
	for expr, want := range map[string]string{
		"name.given.where(hasValue())":                             `["a","b","c"]`,
		"name.given.where($this = 'F' or $this = 'T').exists()":    "[false]",
		"name.children().where($this = 'T').count()":               "[1]",
		"name.given.where($this = 'G' or id.exists()).id.count()":  "[3]",
		"name[1].given.select(iif(id.exists(), id, 'none') & ' ')": `["3 ","none "]`,
	} {
		if got := evaluated(t, expr, Options{}, in); got != want {
			t.Errorf("%s gives %s, want %s", expr, got, want)
		}
	}
}

func TestABooleanWithoutAValueIsUnknown(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Patient","_active":{"extension":[{"url":"u","valueCode":"unknown"}]},"name":[{"family":"x"}]}`)}
	for expr, want := range map[string]string{
		"active.exists()":                 "[true]",
		"active and true":                 "[]",
		"active.not()":                    "[]",
		"Patient.where(active).exists()":  "[false]",
		"iif(active, 1, 2)":               "[2]",
		"active implies false":            "[]",
		"name and true":                   "[true]", // no boolean: a single item counts as true (N1 4.5)
		"Patient.where(name).exists()":    "[true]",
		"(active | name.family).exists()": "[true]",
	} {
		if got := evaluated(t, expr, Options{}, in); got != want {
			t.Errorf("%s gives %s, want %s", expr, got, want)
		}
	}
}

// The union of elements that repeat is no condition, even in a trigger.
func TestAUnionOfSeveralBooleansInATriggerStaysAUnion(t *testing.T) {
	const expr = "(%current.communication.preferred | %previous.communication.preferred).anyTrue()"
	e := compiled(t, expr, Options{Context: "Patient", Trigger: true})
	if w := e.Warnings(); len(w) > 0 {
		t.Errorf("warnings %q", w)
	}
	current := parsed(t, `{"resourceType":"Patient","communication":[{"preferred":false},{"preferred":true}]}`)
	if met, err := NewEvaluator().Test(e, Input{Current: current}); !met || err != nil {
		t.Error(met, err)
	}
}

// "|" binds closer than "=": such a trigger compares a boolean with a text, and is never met.
func TestAComparisonThatNeverHoldsIsAWarning(t *testing.T) {
	for expr, want := range map[string]string{
		"%current.status = 'final' | %current.status = 'amended'": `position 45: Boolean and String are never equal: "|" binds closer`,
		"%current.status = 5":                `position 17: code and Integer are never equal`,
		"%current.code != 'x'":               `position 15: CodeableConcept and String are never equal`,
		"%current.status = 'final'":          "",
		"%current.value = 5 'mg'":            "",
		"%current.effective = @2020":         "",
		"%current.code = %previous.code":     "",
		"%current.value = 'x'":               "",
		"%current.subject = %current.focus":  "",
		"%current.component.value = 7":       "",
		"%current.extension.value = 'x'":     "",
		"%current.contained.id = 'x'":        "",
		"%current.type() = %previous.type()": "",
		"%current.status.empty() = true":     "",
	} {
		w := strings.Join(compiled(t, expr, Options{Context: "Observation", Trigger: true}).Warnings(), "; ")
		if want == "" && w != "" || !strings.Contains(w, want) {
			t.Errorf("%s: warnings %q", expr, w)
		}
	}
}

func TestATypeOfTheSystemThatThereIsNotIsRefused(t *testing.T) {
	for _, expr := range []string{"id is System.Strng", "id.ofType(System.Text)", "1.as(System.Number)"} {
		if _, err := Compile(expr, Options{}); fhir.AsError(err) == nil {
			t.Errorf("%s: %v", expr, err)
		}
	}
}
