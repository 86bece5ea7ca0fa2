package fhirpath

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// hostileExpressions are refused, or are decided or given up within the steps of an evaluation.
func hostileExpressions() map[string]string {
	deep := func(open, inner, end string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	union := make([]string, 800)
	for i := range union {
		union[i] = fmt.Sprint(i)
	}
	return map[string]string{
		"parentheses":             deep("(", "1", ")", 7000),
		"a few parentheses":       deep("(", "1", ")", 90),
		"signs":                   strings.Repeat("-", 10000) + "1",
		"calls":                   deep("iif(true,", "1", ")", 90),
		"a path of members":       "a" + strings.Repeat(".a", 8000),
		"a shorter path":          "a" + strings.Repeat(".a", 4000),
		"operators":               "1" + strings.Repeat("+1", 8000),
		"fewer operators":         "1" + strings.Repeat("+1", 2000),
		"unions":                  "(" + strings.Join(union, "|") + ").count()",
		"union of unions":         "(" + strings.Join(union, "|") + ").select(" + strings.Join(union[:300], "|") + ").distinct().count()",
		"combinations":            "descendants().combine(descendants()).combine(descendants()).distinct().count()",
		"squares":                 "descendants().select(%resource.descendants()).count()",
		"cubes":                   "descendants().select(%resource.descendants().select(%resource.descendants())).count()",
		"cubes that keep little":  "descendants().where(%resource.descendants().where(%resource.descendants().exists(id = '1')).exists()).exists()",
		"repeat of constants":     "repeat('a')",
		"repeat that grows":       "'a'.repeat($this + 'a')",
		"repeat that counts":      "(1).repeat($this + 1)",
		"repeatAll of itself":     "repeatAll($this)",
		"repeatAll that counts":   "(1).repeatAll($this + 1).count()",
		"text that doubles":       "'aaaaaaaa'" + strings.Repeat(".replace('a', 'aaaaaaaa')", 60) + ".length()",
		"text between characters": "'aaaaaaaa'" + strings.Repeat(".replace('', 'aaaaaaaa')", 60) + ".length()",
		"encoding":                "'aaaaaaaa'" + strings.Repeat(".encode('hex')", 60) + ".length()",
		"joined text":             "descendants().select('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' & toString()).join('').length()",
		"aggregated text":         "descendants().aggregate(iif($total.empty(), 'a', $total + $total)).length()",
		"aggregated items":        "descendants().aggregate($total.combine(%resource.descendants())).count()",
		"long number":             strings.Repeat("9", 10000) + ".0",
		"power":                   "10.power(999999999)",
		"power of power":          "9.9.power(9.9).power(9.9).power(9.9)",
		"factorial":               "(1|2|3|4|5|6|7|8|9).aggregate(iif($total.empty(), 99999999999999.9, $total * $total * $total * $total))",
		"exp":                     "999999999.exp()",
		"ln":                      "0.ln()",
		"log":                     "10.log(1)",
		"many digits":             "1.5.round(400).round(400) * 1.5.round(400)",
		"too many digits":         "1.5.round(100000000)",
		"regex that repeats":      `'aaaaaaaaaaaaaaaaaaaaaaaaaaaa'.matches('((a{0,100}){0,100}){0,100}')`,
		"regex that is long":      "'a'.matches('" + strings.Repeat("(a|b)*", 1000) + "')",
		"regex that backtracks":   "descendants().select(toString()).join('a').matches('(a*)*(a*)*b$')",
		"regex of the resource":   "descendants().where(toString().matches(%resource.id & $this.toString())).count()",
		"matches everywhere":      "descendants().select(toString()).join('a').replaceMatches('', 'aaaaaaaaaaaaaaaaaaaa').length()",
		"template that multiplies": "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'" +
			strings.Repeat(".replaceMatches('(.*)', '$1$1$1$1')", 30) + ".length()",
		"sorts":               "descendants().sort(id, %resource.descendants().count())",
		"variables":           "defineVariable('a', descendants()).select(%a.select(%a)).count()",
		"dates":               "@9999-12-31 + 9999999999 years",
		"dates of seconds":    "@9999-12-31T23:59:59 + 999999999999999999 seconds",
		"units":               "1 '" + strings.Repeat("m.", 2000) + "m' = 1 'm'",
		"texts of a resource": "descendants().where(%resource.id = $this or %resource.id < toString()).exists()",
		"members":             "descendants().where(%resource.m7 = 8).exists()",
		"references":          "entry.resource.participant.actor.resolve().count()",
		"units of a resource": "component.value.where($this > 1 'km').count() + component.value.distinct().count()",
		"surrogates":          `'\ud800'`,
		"line noise":          "\x00\xff%$`'",
	}
}

// hostileResources are deep, wide and wrong.
func hostileResources(t testing.TB) map[string]*json.Tree {
	wide := make([]string, 3000)
	for i := range wide {
		wide[i] = fmt.Sprintf(`{"linkId":"%d","text":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","item":[{"linkId":"x"},{"linkId":"x"}]}`, i)
	}
	members := make([]string, 30000)
	for i := range members {
		members[i] = fmt.Sprintf(`"m%d":%d`, i, i)
	}
	references := strings.Repeat(`{"actor":{"reference":"#x"}},{"actor":{"reference":"Patient/1"}},`, 2000) + `{}`
	deep := strings.Repeat(`{"item":[`, 25) + strings.Repeat(`]}`, 25)
	bodies := map[string]string{
		"plain":           observation,
		"wide":            `{"resourceType":"Questionnaire","id":"1","item":[` + strings.Join(wide, ",") + `]}`,
		"deep":            `{"resourceType":"Questionnaire","id":"1","item":[` + deep + `]}`,
		"many members":    `{"resourceType":"Nothing",` + strings.Join(members, ",") + `}`,
		"long text":       `{"resourceType":"Patient","id":"` + strings.Repeat(`\u0061`, 50000) + `","name":[` + strings.Repeat(`{"family":"x"},`, 5000) + `{}]}`,
		"long unit":       `{"resourceType":"Observation","component":[` + strings.Repeat(`{"valueQuantity":{"value":1,"system":"http://unitsofmeasure.org","code":"`+strings.Repeat("m.", 40)+`m"}},`, 3000) + `{}]}`,
		"many entries":    `{"resourceType":"Bundle","entry":[` + strings.Repeat(`{"fullUrl":"http://a/fhir/Patient/2","resource":{"resourceType":"Patient","id":"2"}},`, 3000) + `{"resource":{"resourceType":"Appointment","contained":[` + strings.Repeat(`{"id":"y"},`, 2000) + `{}],"participant":[` + references + `]}}]}`,
		"wrong types":     `{"resourceType":"Observation","id":{"a":[1]},"status":[1,[2],{"a":null}],"code":"x","_code":[{}],"valueQuantity":[[]],"issued":7,"contained":5}`,
		"unknown type":    `{"resourceType":"Nothing","a":{"a":{"a":[1,"x",null]}},"_a":{"extension":[{"url":"u"}]}}`,
		"no resource":     `[1,2,3]`,
		"only extensions": `{"resourceType":"Patient","_birthDate":{"extension":[{"url":"u","valueString":"s"}]},"name":[{"given":[null,"a"],"_given":[{"id":"1"},null,{"id":"2"}]}]}`,
		"huge numbers":    `{"resourceType":"Observation","valueQuantity":{"value":1` + strings.Repeat("0", 500) + `},"component":[{"valueQuantity":{"value":1e999}},{"valueQuantity":{"value":-1E-1000}}]}`,
		"references":      `{"resourceType":"Bundle","entry":[{"fullUrl":"","resource":{"resourceType":"Observation","subject":{"reference":"#"},"contained":[{"resourceType":"Observation","id":"","subject":{"reference":"#"}}]}},{"resource":7},7]}`,
	}
	trees := map[string]*json.Tree{}
	for name, body := range bodies {
		trees[name] = parsed(t, body)
	}
	return trees
}

// TestHostileInputIsBounded passes if it ends: each evaluation takes its steps at most, and
// what it holds is bounded by items and text.
func TestHostileInputIsBounded(t *testing.T) {
	trees := hostileResources(t)
	m := NewEvaluator()
	expressions := hostileExpressions()
	for _, name := range slices.Sorted(maps.Keys(expressions)) {
		expr := expressions[name]
		if _, err := Compile(expr, Options{Strict: true, Trigger: true, Context: "Questionnaire"}); err != nil && fhir.AsError(err) == nil {
			t.Errorf("%s: the error is no refusal: %v", name, err)
		}
		e, err := Compile(expr, Options{Trigger: true})
		if err != nil {
			if fhir.AsError(err) == nil {
				t.Errorf("%s: the error is no refusal: %v", name, err)
			}
			continue
		}
		costly := 0
		for _, resource := range slices.Sorted(maps.Keys(trees)) {
			tree := trees[resource]
			c, err := m.Evaluate(e, Input{Resource: tree, Current: tree, Now: suiteNow})
			checkOutcome(t, name+" on "+resource, c, err)
			if errors.Is(err, ErrTooCostly) {
				costly++
			}
			if costly > 1 { // what is given up on any resource takes its time on all
				break
			}
			if cap(m.items) > 2*maxItems || cap(m.bytes) > 4*maxText {
				t.Fatalf("%s on %s: %d items and %d bytes are held", name, resource, cap(m.items), cap(m.bytes))
			}
		}
	}
}

func TestWhatGrowsWithoutEndIsGivenUp(t *testing.T) {
	tree := hostileResources(t)["wide"]
	for _, name := range []string{"squares", "cubes", "cubes that keep little", "repeat that grows", "repeat that counts", "repeatAll that counts", "text that doubles"} {
		e := compiled(t, hostileExpressions()[name], Options{})
		if _, err := NewEvaluator().Evaluate(e, Input{Resource: tree}); !errors.Is(err, ErrTooCostly) {
			t.Errorf("%s: %v, want ErrTooCostly", name, err)
		}
		if met, err := NewEvaluator().Test(e, Input{Resource: tree}); met || !errors.Is(err, ErrTooCostly) {
			t.Errorf("%s as a condition: %v, %v", name, met, err)
		}
	}
}

func TestAnEvaluatorServesAgainAfterAnError(t *testing.T) {
	m := NewEvaluator()
	costly := compiled(t, "(1).repeat($this + 1)", Options{})
	tree := parsed(t, observation)
	if _, err := m.Evaluate(costly, Input{Resource: tree}); !errors.Is(err, ErrTooCostly) {
		t.Fatal(err)
	}
	met, err := m.Test(compiled(t, "Observation.status = 'final'", Options{}), Input{Resource: tree})
	if !met || err != nil {
		t.Error(met, err)
	}
}
