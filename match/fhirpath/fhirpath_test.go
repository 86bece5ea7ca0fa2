package fhirpath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// shownJSON renders a result as the command line does.
func shownJSON(c Collection) string {
	items := make([]string, c.Len())
	for i := range items {
		items[i] = string(c.At(i).AppendJSON(nil))
	}
	return "[" + strings.Join(items, ",") + "]"
}

func evaluated(t *testing.T, expr string, o Options, in Input) string {
	t.Helper()
	c, err := NewEvaluator().Evaluate(compiled(t, expr, o), in)
	if err != nil {
		return "error: " + err.Error()
	}
	return shownJSON(c)
}

func TestATriggerComparesTheStatesOfAChange(t *testing.T) {
	const final, amended, bare = `{"resourceType":"Observation","status":"final"}`, `{"resourceType":"Observation","status":"amended"}`, `{"resourceType":"Observation"}`
	for _, x := range []struct {
		name, expr, previous, current string
		met                           bool
	}{
		{"an update that changes the status", triggers[0].expr, final, amended, true},
		{"an update that leaves it", triggers[0].expr, final, final, false},
		{"a create: nothing implies anything", triggers[0].expr, "", final, true},
		{"no status before: the comparison is empty, and so is the result", triggers[0].expr, bare, final, false},
		{"a delete has no current state", "%current.empty() and %previous.status = 'final'", final, "", true},
		{"an empty result", "%current.issued", bare, bare, false},
		{"a result that is no boolean", "%current.status", final, final, false},
		{"several results", "true.combine(true)", final, final, false},
		{"a path begins at the current state", "Observation.status = 'amended'", final, amended, true},
		{"and after a delete at the previous one", "Observation.status = 'final'", final, "", true},
		{"HL7's | between booleans is or", "(%previous.empty() | (%previous.status != 'final')) and (%current.status = 'final')", amended, final, true},
		{"HL7's | between booleans is not met by two that are false", "%previous.empty() | (%previous.status != 'final')", final, final, false},
	} {
		e := compiled(t, x.expr, Options{Context: "Observation", Trigger: true, Strict: true})
		var in Input
		if x.previous != "" {
			in.Previous = parsed(t, x.previous)
		}
		if x.current != "" {
			in.Current = parsed(t, x.current)
		}
		met, err := NewEvaluator().Test(e, in)
		if met != x.met || err != nil {
			t.Errorf("%s: %v, %v; want %v", x.name, met, err, x.met)
		}
	}
}

func TestAUnionOfBooleansInATriggerIsReadAsOrWithAWarning(t *testing.T) {
	e := compiled(t, "%current.exists() | %previous.exists()", Options{Context: "Observation", Trigger: true})
	if w := e.Warnings(); len(w) != 1 || !strings.Contains(w[0], `position 19: "|" between two booleans is read as "or"`) {
		t.Errorf("warnings %q", w)
	}
	if got := evaluated(t, "true | false", Options{}, Input{}); got != "[true,false]" {
		t.Errorf("outside of a trigger it gives %s", got)
	}
}

func TestWhatCannotBeDecidedIsRefusedWithItsPosition(t *testing.T) {
	for _, x := range []struct{ expr, want string }{
		{"", "position 1: the expression is empty"},
		{"a.b.", "position 5: the expression ends here; a name must follow"},
		{"a and", "position 6: the expression ends here"},
		{"(1 + 2", "position 7: the expression ends here; ) must follow"},
		{"1 2", `position 3: "2" is not expected`},
		{"'abc", "position 1: the text has no end"},
		{"a /* b", "position 3: the comment has no end"},
		{`'\q'`, "position 2: an escape must be one of"},
		{"$that", "position 1: after $ one of"},
		{"a # b", "position 3: '#' begins nothing"},
		{"12abc", "position 3: a number ends here"},
		{"@2015-13-01", `position 1: "2015-13-01" is no Date`},
		{"@2015-02-30T10:00", `is no DateTime`},
		{"@T25:00", `is no Time`},
		{"99999999999999999999", `is no Integer`},
		{"a is", "the name of a type must follow"},
		{"a is Nothing", `position 3: "Nothing" is not a type of FHIR R4`},
		{"a.ofType('x')", "position 10: the argument of ofType() must be the name of a type"},
		{"a.nothing()", `position 3: there is no function "nothing"`},
		{"a.exists(b, c)", "position 3: exists() takes 0 to 1 arguments, and there are 2"},
		{"a.count(b)", "count() takes no argument"},
		{"%nothing", `position 1: there is no variable "%nothing" here`},
		{"%previous.exists()", "%previous is known in the criteria of a topic"},
		{"$index", "$index is known only in"},
		{"$total", "$total is known only in"},
		{"code.memberOf('http://x')", "position 6: memberOf() is not supported: it needs a terminology server"},
		{"code.subsumes(code)", "subsumes() is not supported"},
		{"conformsTo('http://x')", "conformsTo() is not supported"},
		{"%terminologies.exists()", "%terminologies is not supported"},
		{"%factory.string('a')", "string"},
		{"id.matches('(?=a)')", "position 12: the pattern is not one that RE2 knows"},
		{"id.encode('rot13')", "encode() knows the formats 'base64'"},
		{"defineVariable(id)", "the name of a variable must be written"},
		{"trace(id)", "the first argument of trace() must be a text"},
		{strings.Repeat("a ", 10000), "is 20000 bytes long, the limit is 16384"},
		{"\xff", "is not valid UTF-8"},
	} {
		_, err := Compile(x.expr, Options{})
		if refused := fhir.AsError(err); refused == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%.40s: %v, want %s", x.expr, err, x.want)
		}
	}
	if _, err := Compile("a", Options{Version: "R3"}); fhir.AsError(err) == nil {
		t.Errorf("R3: %v", err)
	}
	if _, err := Compile("a", Options{Context: "Nothing"}); fhir.AsError(err) == nil {
		t.Errorf("a context that is no type: %v", err)
	}
}

func TestWhatCanNeverWorkIsRefusedIfStrictAndElseAWarning(t *testing.T) {
	for _, x := range []struct{ expr, want string }{
		{"name.given1", `position 6: HumanName has no element "given1"`},
		{"Encounter.status", "position 1: the path begins with Encounter, and this is a Patient"},
		{"deceasedBoolean", `write deceased.ofType(boolean)`},
		{"name.startsWith('a')", "the input of startsWith() must be String, and this is HumanName"},
		{"birthDate + 7", "write the duration with its unit"},
		{"birthDate < 'a'", "are not in an order with one another"},
		{"iif(name, 1, 2)", "the criteria of iif() must be Boolean"},
		{"where(name.given)", "a criteria must be Boolean, and this is string"},
		{"children().first()", "first() picks by place, and what it picks from has no order"},
		{"id & 1", "a side of & must be String"},
		{"name + 1", "the left side of + must be"},
		{"name['a']", "an index must be Integer"},
		{"-name", "what follows - must be"},
		{"name.allTrue()", "the input of allTrue() must be Boolean"},
	} {
		_, err := Compile(x.expr, Options{Context: "Patient", Strict: true})
		if fhir.AsError(err) == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", x.expr, err, x.want)
		}
		e, err := Compile(x.expr, Options{Context: "Patient"})
		if err != nil {
			t.Errorf("%s without Strict: %v", x.expr, err)
			continue
		}
		if w := e.Warnings(); x.want != "write deceased.ofType(boolean)" && (len(w) == 0 || !strings.Contains(w[0], x.want)) {
			t.Errorf("%s: warnings %q, want %s", x.expr, w, x.want)
		}
	}
}

func TestAnErrorOfAnEvaluationNamesItsPlaceAndNoValue(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Patient","name":[{"family":"Secret"},{"family":"Secret"}],"birthDate":"1974-12-25"}`)}
	for _, x := range []struct {
		expr     string
		position int
	}{
		{"name.single()", 6},
		{"name.family.length()", 13},
		{"name.family & 'a'", 13},
		{"birthDate < 'a'", 11},
		{"(name | 1) and true", 7},
		{"name.family as string", 13},
		{"birthDate + 1 'cm'", 11},
		{"now()", 1},
		{"name.where(family | given | 'a')", 27},
		{"'a'.matches(name.first().family & '(')", 33},
	} {
		_, err := NewEvaluator().Evaluate(compiled(t, x.expr, Options{}), in)
		var e *Error
		if !errors.As(err, &e) || e.Position != x.position || strings.Contains(err.Error(), "Secret") {
			t.Errorf("%s: %v, want an error at position %d", x.expr, err, x.position)
		}
	}
}

func TestAsPicksAsAFilterWhereThatIsAskedFor(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"ValueSet","useContext":[{"valueQuantity":{"value":1}},{"valueCodeableConcept":{"text":"a"}},{"valueCodeableConcept":{"text":"b"}}]}`)}
	const expr = "(ValueSet.useContext.value as CodeableConcept).text | Patient.name"
	if got := evaluated(t, expr, Options{Context: "ValueSet", AsFilters: true}, in); got != `["a","b"]` {
		t.Errorf("as a filter: %s", got)
	}
	e := compiled(t, expr, Options{Context: "ValueSet", AsFilters: true})
	if w := e.Warnings(); len(w) != 0 {
		t.Errorf("a branch of another type is a matter of course: %q", w)
	}
	if got := evaluated(t, "ValueSet.useContext.value as CodeableConcept", Options{Context: "ValueSet"}, in); !strings.HasPrefix(got, "error") {
		t.Errorf("otherwise: %s", got)
	}
}

func TestPrimitivesHaveTheirExtensions(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Patient","_gender":{"extension":[{"url":"u","valueCode":"x"}]},"birthDate":"1974-12-25",
"_birthDate":{"id":"b","extension":[{"url":"t","valueDateTime":"1974-12-25T14:35:45-05:00"}]},
"name":[{"given":["A",null,"C"],"_given":[null,{"id":"2"},{"id":"3"}]}],"_deceasedBoolean":{"extension":[{"url":"u","valueCode":"y"}]}}`)}
	for _, x := range []struct{ expr, want string }{
		{"gender.exists()", "[true]"}, // FHIR, fhirpath.html: an element is there even without a value
		{"gender.hasValue()", "[false]"},
		{"birthDate.hasValue()", "[true]"},
		{"gender.extension('u').value", `["x"]`},
		{"birthDate.extension('t').value", `["1974-12-25T14:35:45-05:00"]`},
		{"birthDate.id", `["b"]`},
		{"birthDate.getValue().type().name", `["Date"]`},
		{"birthDate.value", `["1974-12-25"]`},
		{"gender = 'male'", "[false]"},
		{"gender.getValue()", "[]"},
		{"gender.length()", "[]"},
		{"name.given", `["A",{"id":"2"},"C"]`},
		{"name.given.id", `["2","3"]`},
		{"name.given.select(hasValue())", "[true,false,true]"},
		{"deceased.exists() and deceased.hasValue().not()", "[true]"},
		{"deceased is boolean", "[true]"},
		{"children().count()", "[4]"},
		{"hasExtension('u')", "[false]"},
		{"gender.hasExtension('u')", "[true]"},
	} {
		for _, context := range []string{"Patient", ""} {
			if got := evaluated(t, x.expr, Options{Context: context}, in); got != x.want {
				t.Errorf("%s in %q gives %s, want %s", x.expr, context, got, x.want)
			}
		}
	}
}

func TestResolveFindsWhatIsInTheDocumentAndElseTheTypeAlone(t *testing.T) {
	patient := Input{Resource: parsed(t, `{"resourceType":"Observation","contained":[{"resourceType":"Patient","id":"p","active":true,"link":[{"other":{"reference":"#"}}]}],"subject":{"reference":"#p"}}`)}
	bundle := Input{Resource: parsed(t, `{"resourceType":"Bundle","entry":[
{"fullUrl":"http://a/fhir/Patient/1","resource":{"resourceType":"Patient","id":"1","active":true}},
{"fullUrl":"urn:uuid:2","resource":{"resourceType":"Patient","id":"2","active":false}},
{"resource":{"resourceType":"Observation","subject":{"reference":"Patient/1"}}},
{"resource":{"resourceType":"Observation","subject":{"reference":"urn:uuid:2"}}},
{"resource":{"resourceType":"Observation","subject":{"reference":"Patient/9"}}}]}`)}
	for _, x := range []struct {
		in         Input
		expr, want string
	}{
		{patient, "subject.resolve().active", "[true]"},
		{patient, "subject.resolve() is Patient", "[true]"},
		{patient, "subject.reference.resolve().id", `["p"]`},
		{patient, "contained.link.other.resolve().subject.reference", `["#p"]`},
		{bundle, "entry.resource.subject.resolve().active", "[true,false]"},
		{bundle, "entry.resource.subject.resolve().ofType(Patient).count()", "[3]"},
		{bundle, "entry.resource.where(subject.resolve() is Patient).count()", "[3]"},
	} {
		if got := evaluated(t, x.expr, Options{}, x.in); got != x.want {
			t.Errorf("%s gives %s, want %s", x.expr, got, x.want)
		}
	}
	for _, x := range []struct{ reference, want string }{
		{`{"reference":"Patient/1"}`, `[{"type":"Patient"}]`},
		{`{"reference":"Patient/1/_history/2"}`, `[{"type":"Patient"}]`},
		{`{"reference":"http://a/fhir/Patient/1"}`, `[{"type":"Patient"}]`},
		{`{"reference":"urn:uuid:1","type":"Patient"}`, `[{"type":"Patient"}]`},
		{`{"identifier":{"value":"1"},"type":"Patient"}`, `[{"type":"Patient"}]`},
		{`{"reference":"urn:uuid:1"}`, `[]`},
		{`{"reference":"#nobody","type":"Patient"}`, `[]`},
		{`{"reference":"Nothing/1"}`, `[]`},
		{`{"reference":"Resource/1"}`, `[]`},
		{`{"display":"somebody"}`, `[]`},
	} {
		in := Input{Resource: parsed(t, `{"resourceType":"Observation","subject":`+x.reference+`}`)}
		if got := evaluated(t, "subject.resolve()", Options{Context: "Observation"}, in); got != x.want {
			t.Errorf("%s: %s, want %s", x.reference, got, x.want)
		}
		is := evaluated(t, "subject.where(resolve() is Patient).exists()", Options{Context: "Observation"}, in)
		if want := fmt.Sprintf("[%v]", x.want != "[]"); is != want {
			t.Errorf("%s is a Patient: %s, want %s", x.reference, is, want)
		}
	}
}

func TestNumbersAreExact(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Observation","valueQuantity":{"value":0.1000000000000000000000000000000001},"component":[{"valueQuantity":{"value":1.50}},{"valueQuantity":{"value":1e2}},{"valueInteger":7}]}`)}
	for _, x := range []struct{ expr, want string }{
		{"0.1 + 0.2 = 0.3", "[true]"},
		{"0.1 + 0.2", "[0.3]"},
		{"1.10 + 2.2", "[3.30]"},
		{"value.ofType(Quantity).value = 0.1", "[false]"},
		{"value.ofType(Quantity).value > 0.1", "[true]"},
		{"value.ofType(Quantity).value - 0.1", "[0.0000000000000000000000000000000001]"},
		{"component.value.ofType(Quantity).value", "[1.50,1e2]"},
		{"component.value.ofType(Quantity).value.select($this + 0)", "[1.50,100]"},
		{"component.value.ofType(integer) = 7.0", "[true]"},
		{"9223372036854775807 + 1", "[]"}, // an Integer that overflows is empty
		{"9223372036854775807.0 + 1", "[9223372036854775808.0]"},
		{"9223372036854775807 * 2.0", "[18446744073709551614.0]"},
		{"-9223372036854775807 - 2", "[]"},
		{"1 / 3", "[0.3333333333333333333333333333]"},
		{"10 / 4", "[2.5]"},
		{"7 div 2", "[3]"}, {"-7 div 2", "[-3]"}, {"-7 mod 2", "[-1]"}, {"7.5 mod 2", "[1.5]"},
		{"1 / 0", "[]"}, {"1 mod 0", "[]"}, {"1.0 div 0", "[]"},
		{"2.5.round()", "[3]"}, {"(-2.5).round()", "[-3]"}, {"2.345.round(2)", "[2.35]"},
		{"2.power(62)", "[4611686018427387904]"}, {"2.power(-1)", "[0.5]"}, {"2.power(64)", "[]"},
		{"2.sqrt()", "[1.414213562373095048801688724]"},
		{"'1.50'.toDecimal()", "[1.50]"}, {"'+5'.toInteger()", "[5]"}, {"'5.'.toDecimal()", "[]"}, {"'1e3'.toDecimal()", "[]"},
		{"1.50.toString()", `["1.50"]`},
		{"1.0 = 1", "[true]"}, {"1.0 ~ 1.04", "[true]"}, {"1.00 ~ 1.04", "[false]"},
		{"(1 | 1.0 | 1.00).count()", "[1]"},
	} {
		if got := evaluated(t, x.expr, Options{Context: "Observation"}, in); got != x.want {
			t.Errorf("%s gives %s, want %s", x.expr, got, x.want)
		}
	}
}

func TestDatesAreComparedAsFarAsTheyAreKnown(t *testing.T) {
	for _, x := range []struct{ expr, want string }{
		{"@2012 = @2012", "[true]"},
		{"@2012 = @2012-01", "[]"},
		{"@2012 = @2013-01", "[false]"},
		{"@2012 < @2013-01", "[true]"},
		{"@2012-12 < @2013-01-01", "[true]"},
		{"@2012-12-31T23:59:59.999999999 < @2013-01-01T00:00:00", "[true]"},
		{"@2012-01-01T10 < @2012-01-01T10:59", "[]"},
		{"@2012-01-01T10 < @2012-01-01T11:00", "[true]"},
		{"@2012-01-01T10:00:00 = @2012-01-01T10:00:00.000", "[true]"},
		{"@2012-01-01T10:00:00.5 = @2012-01-01T10:00:00.500", "[true]"},
		{"@2012-01-01T10:00:00Z = @2012-01-01T12:00:00+02:00", "[true]"},
		// Without a zone a time may lie within 26 hours.
		{"@2012-01-01T10:00:00Z = @2012-01-01T10:00:00", "[]"},
		{"@2012-01-01T10:00:00Z < @2012-01-03T00:00:01", "[true]"},
		{"@2012-01-01T10:00:00Z < @2012-01-02T00:00:00", "[]"},
		{"@2012-01-01T10:00:00Z = @2012-01-03T00:00:01", "[false]"},
		{"@2012-01-01 < @2012-01-03T10:00:00Z", "[true]"},
		{"@T10 = @T10:00", "[]"}, {"@T10:00 < @T11", "[true]"},
		{"@2012-01-31 + 1 month", `["2012-02-29"]`},
		{"@2012-02-29 + 1 year", `["2013-02-28"]`},
		{"@2012 + 13 months", `["2013"]`},
		{"@2012-01 + 40 days", `["2012-02"]`},
		{"@2012-01-01 + 25 hours", `["2012-01-02"]`},
		{"@2012-01-01T10:00:00Z - 90 minutes", `["2012-01-01T08:30:00Z"]`},
		{"@2012-01-01T00:00:00.000Z - 1 millisecond", `["2011-12-31T23:59:59.999Z"]`},
		{"@0001-01-01 - 1 day", `[]`}, {"@9999-12-31 + 1 day", `[]`},
		{"now()", `["2026-11-21T10:30:15.000Z"]`}, {"today()", `["2026-11-21"]`}, {"timeOfDay()", `["10:30:15.000"]`},
		{"@2012-02.lowBoundary()", `["2012-02-01"]`}, {"@2012-02.highBoundary()", `["2012-02-29"]`},
		{"@2012-02-01T.highBoundary()", `["2012-02-01T23:59:59.999-12:00"]`},
		{"'2012-02-30'.convertsToDate()", "[false]"}, {"'2012-02-29'.convertsToDate()", "[true]"},
		{"'2012-02-29T10:00:00Z'.toDateTime().toDate()", `["2012-02-29"]`},
	} {
		if got := evaluated(t, x.expr, Options{}, Input{Now: suiteNow}); got != x.want {
			t.Errorf("%s gives %s, want %s", x.expr, got, x.want)
		}
	}
}

func TestQuantitiesAreComparedInOneUnit(t *testing.T) {
	in := Input{Resource: parsed(t, `{"resourceType":"Observation","valueQuantity":{"value":1,"unit":"year","system":"http://unitsofmeasure.org","code":"a"},
"component":[{"valueQuantity":{"value":5,"unit":"mg"}},{"valueQuantity":{"value":5,"system":"http://x","code":"mg"}},{"valueQuantity":{"value":5,"comparator":"<","system":"http://unitsofmeasure.org","code":"mg"}},{"valueQuantity":{"value":5}}]}`)}
	for _, x := range []struct{ expr, want string }{
		{"1 'g' = 1000 'mg'", "[true]"},
		{"1 'g' > 999 'mg'", "[true]"},
		{"1 'g' = 1 'm'", "[]"}, // another dimension: no answer
		{"1 'g' ~ 1 'm'", "[false]"},
		{"1 'nonsense' = 1 'nonsense'", "[true]"},
		{"1 'nonsense' = 1 'g'", "[]"},
		{"1 year = 12 months", "[true]"},
		{"1 year = 1 'a'", "[]"}, {"1 year ~ 1 'a'", "[true]"},
		{"1 day = 24 hours", "[true]"}, {"1 day = 24 'h'", "[true]"},
		{"1 year = 365 days", "[]"},
		{"1 'g' + 500 'mg'", `[{"value":1.5,"unit":"g","system":"http://unitsofmeasure.org","code":"g"}]`},
		{"2 'm' * 3", `[{"value":6,"unit":"m","system":"http://unitsofmeasure.org","code":"m"}]`},
		{"1 'm' + 1 's'", "[]"},
		{"4 days", `[{"value":4,"unit":"days"}]`},
		{"value = 1 year", "[true]"}, // the table of time-valued quantities in fhirpath.html
		{"component.value[0] = 5 'mg'", "[]"},
		{"component.value[1] = 5 'mg'", "[]"},
		{"component.value[2] = 5 'mg'", "[false]"}, // less than 5 mg is no quantity that equals one
		{"component.value[2] < 6 'mg'", "[]"},
		{"component.value[3] = 5", "[true]"},
		{"5 'mg' = 5", "[]"}, {"5 '1' = 5", "[true]"},
		{"'5 \\'mg\\''.toQuantity('g')", `[{"value":0.005,"unit":"g","system":"http://unitsofmeasure.org","code":"g"}]`},
	} {
		if got := evaluated(t, x.expr, Options{Context: "Observation"}, in); got != x.want {
			t.Errorf("%s gives %s, want %s", x.expr, got, x.want)
		}
	}
}

func TestAnEvaluationStartsAtTheNodeItIsGiven(t *testing.T) {
	tree := parsed(t, `{"resourceType":"Observation","id":"o","contained":[{"resourceType":"Patient","id":"p","name":[{"given":["A","B"],"_given":[null,{"id":"x"}]}]}],
"component":[{"code":{"text":"a"}},{"code":{"text":"b"},"valueQuantity":{"value":2}}]}`)
	component := tree.Next(tree.First(tree.Get(tree.Root(), "component")))
	given := tree.Next(tree.First(tree.Get(tree.First(tree.Get(tree.First(tree.Get(tree.Root(), "contained")), "name")), "given")))
	for _, x := range []struct {
		expr, context string
		node          json.Node
		want          string
	}{
		{"code.text", "Observation.component", component, `["b"]`},
		{"value", "", component, `[{"value":2}]`},
		{"type().name", "", component, `["Observation.component"]`},
		{"%context.code.text & %resource.id", "Observation.component", component, `["bo"]`},
		{"$this & %resource.id & %rootResource.id", "", given, `["Bpo"]`},
		{"id", "", given, `["x"]`},
		{"%rootResource.component.exists()", "Patient", tree.First(tree.Get(tree.Root(), "contained")), `[true]`},
		{"id", "Observation", 0, `["o"]`},
		{"id", "Observation", tree.Root(), `["o"]`},
	} {
		if got := evaluated(t, x.expr, Options{Context: x.context}, Input{Resource: tree, Node: x.node}); got != x.want {
			t.Errorf("%s gives %s, want %s", x.expr, got, x.want)
		}
	}
	bundle := parsed(t, `{"resourceType":"Bundle","id":"b","entry":[{"resource":{"resourceType":"Patient","id":"p","contained":[{"resourceType":"Device","id":"d"}]}}]}`)
	patient := bundle.Get(bundle.First(bundle.Get(bundle.Root(), "entry")), "resource")
	device := bundle.First(bundle.Get(patient, "contained"))
	for node, want := range map[json.Node]string{patient: `["ppp"]`, device: `["ddp"]`, 0: `["bbb"]`} {
		if got := evaluated(t, "id & %resource.id & %rootResource.id", Options{}, Input{Resource: bundle, Node: node}); got != want {
			t.Errorf("in a Bundle %s, want %s", got, want)
		}
	}
}

func TestValuesTellTheirTypes(t *testing.T) {
	tree := parsed(t, observation)
	for _, x := range []struct{ expr, want string }{
		{"status", "code"}, {"value", "Quantity"}, {"$this", "Observation"}, {"subject.resolve()", "Patient"}, {"subject", "Reference"},
		{"1", "System.Integer"}, {"1.0", "System.Decimal"}, {"'a'", "System.String"}, {"@2012", "System.Date"}, {"@T10", "System.Time"},
		{"@2012T", "System.DateTime"}, {"1 'mg'", "System.Quantity"}, {"true", "System.Boolean"}, {"type()", "System.TypeInfo"},
	} {
		c, err := NewEvaluator().Evaluate(compiled(t, x.expr, Options{}), Input{Resource: tree})
		if err != nil || c.Len() != 1 || c.At(0).TypeName() != x.want {
			t.Errorf("%s: %v %v, want %s", x.expr, shownCollection(c), err, x.want)
		}
	}
	c, _ := NewEvaluator().Evaluate(compiled(t, "code.coding", Options{}), Input{Resource: tree})
	if from, n, ok := c.At(0).Node(); !ok || from != tree || tree.Str(tree.Get(n, "code")) != "15074-8" {
		t.Error("an item that is part of a resource does not tell its place")
	}
	if !c.At(0).Equal(c.At(0)) || (Value{}).Equal(c.At(0)) {
		t.Error("an item equals itself, and nothing equals an item")
	}
}

// TestDuplicatesAreFoundHoweverManyThereAre compares the table of hashes with the comparison of
// each item with each other.
func TestDuplicatesAreFoundHoweverManyThereAre(t *testing.T) {
	pool := []string{
		"1", "1.0", "1.00", "2", "10", "1e1", `"a"`, `"b"`, `"\u0061"`, "true", "false", `{"a":1,"b":2}`, `{"b":2.0,"a":1}`, `{"a":[1,2]}`,
		`{"a":[2,1]}`, `{"a":{"c":"x"}}`, "100000000000000000000000000000", "1E29", `{"value":1}`, `"2012"`, `[1]`, `{}`,
	}
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		items := make([]string, 1+random.IntN(200))
		for i := range items {
			k := random.IntN(len(pool))
			items[i] = pool[k]
			if random.IntN(3) == 0 {
				items[i] = fmt.Sprint(random.IntN(300))
			}
		}
		tree := parsed(t, `{"resourceType":"Nothing","a":[`+strings.Join(items, ",")+`]}`)
		m := NewEvaluator()
		all, err := m.Evaluate(compiled(t, "a", Options{}), Input{Resource: tree})
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for i := range all.Len() {
			fresh := true
			for k := range i {
				fresh = fresh && !all.At(k).Equal(all.At(i))
			}
			if fresh {
				want++
			}
		}
		if got := evaluated(t, "a.distinct().count()", Options{}, Input{Resource: tree}); got != fmt.Sprintf("[%d]", want) {
			t.Fatalf("round %d: %s of %v, want %d", round, got, items, want)
		}
	}
}

func TestAnExpressionMayBeSharedByWorkers(t *testing.T) {
	e := compiled(t, triggers[3].expr, Options{Context: "Observation", Trigger: true})
	tree := parsed(t, observation)
	done := make(chan error)
	for range 4 {
		go func() {
			m := NewEvaluator()
			for range 200 {
				if met, err := m.Test(e, Input{Current: tree}); !met || err != nil {
					done <- fmt.Errorf("%v, %v", met, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestParseGivesATreeToReadPathsFrom(t *testing.T) {
	n, err := Parse("(Observation.value as Quantity) | Patient.telecom.where(system = 'email')[0]")
	if err != nil {
		t.Fatal(err)
	}
	if n.Kind != KindBinary || n.Name != "|" || n.Args[0].Kind != KindType || n.Args[0].Type != "Quantity" {
		t.Fatalf("%+v", n)
	}
	member := n.Args[0].Args[0]
	if name, ok := member.TypeName(); !ok || name != "Observation.value" || member.Start != 2 || member.Position != 14 || member.End != 19 {
		t.Errorf("%+v", member)
	}
	index := n.Args[1]
	if index.Kind != KindIndex || index.Input.Kind != KindCall || index.Input.Name != "where" || index.Args[0].Literal.Text != "0" {
		t.Errorf("%+v", index)
	}
	criteria := index.Input.Args[0]
	if criteria.Kind != KindBinary || criteria.Args[1].Literal.Kind != LiteralString || criteria.Args[1].Literal.Text != "email" {
		t.Errorf("%+v", criteria)
	}
}

func TestTheTimeIsThatOfTheCaller(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	in := Input{Now: time.Date(2026, 1, 1, 0, 30, 0, 123456789, zone)}
	if got := evaluated(t, "now() | today()", Options{}, in); got != `["2026-01-01T00:30:00.123+02:00","2026-01-01"]` {
		t.Error(got)
	}
}

func TestAnExpressionTellsWhatItAsksFor(t *testing.T) {
	for _, x := range []struct {
		expr            string
		previous, clock bool
	}{
		{"%previous.status = 'final'", true, false},
		{"%current.id = 'previous'", false, false},
		{"%current.issued > now() - 1 day", false, true},
		{"name.where(today() > %previous.birthDate)", true, true},
	} {
		e := compiled(t, x.expr, Options{Trigger: true})
		if e.ReadsPrevious() != x.previous || e.TakesClock() != x.clock || e.String() != x.expr || e.Version() != fhir.R4 {
			t.Errorf("%s: previous %v, clock %v", x.expr, e.ReadsPrevious(), e.TakesClock())
		}
	}
}

// TestStrictAcceptsWhatAuthorsWrite keeps the static pass from refusing what works.
func TestStrictAcceptsWhatAuthorsWrite(t *testing.T) {
	for context, exprs := range map[string][]string{
		"Patient": {
			"birthDate > today() - 18 years", "name.given.first() + ' ' + name.family.first()", "active and name.exists() and gender = 'male'",
			"iif(active, 1, 2) = 1", "name.where($this.use = 'official').exists()", "birthDate.toString().substring(0, 4) = '1974'",
			"deceased.ofType(boolean) or deceased.ofType(dateTime) < now()", "deceased = true", "contained.ofType(Observation).value.exists()",
			"extension('u').value.ofType(Coding).code in ('a' | 'b')", "meta.tag.where(code = 'x').exists() and meta.lastUpdated > @2020",
			"generalPractitioner.where(resolve() is Practitioner).exists()", "generalPractitioner.all(resolve().name.exists())",
			"telecom.where(system = 'email').value.matches('@example.org$')", "descendants().where($this is Coding).code.exists()",
			"%previous.name.family.exclude(%current.name.family).exists()", "name.family contains 'x'", "link.other.reference.endsWith('/1')",
			"Patient.name.exists() | Patient.telecom.exists()", "Resource.id.exists()", "DomainResource.text.status = 'generated'",
		},
		"Observation": {
			"value > 5 'mg'", "value.ofType(Quantity).value > 5", "(value as Quantity).unit = 'mg'", "effective <= now()", "effective.start < today()",
			"component.where(code.coding.exists(code = 'x')).value.ofType(Quantity).value.first() > 5", "value is string or value is Quantity",
			"%previous.value.ofType(Quantity) < %current.value.ofType(Quantity)", "code.coding.code.intersect('a' | 'b').exists()",
			"referenceRange.low.value.sort().first() < 5", "interpretation.coding.code.aggregate($this & $total, '') = 'HL'",
		},
		"Bundle": {"entry.resource.ofType(Patient).name.exists()", "entry.where(resource is Patient).count() > 1", "entry[0].resource.id = '1'"},
		"":       {"Patient.name.exists() or Observation.status = 'final'", "id.exists()"},
	} {
		for _, expr := range exprs {
			for _, v := range fhir.Versions() {
				e, err := Compile(expr, Options{Version: v, Context: context, Strict: true, Trigger: true})
				if err != nil {
					t.Errorf("%s in %s %s: %v", expr, v, context, err)
				} else if w := e.Warnings(); len(w) > 0 && !strings.Contains(w[0], "two booleans") {
					t.Errorf("%s in %s %s: warnings %q", expr, v, context, w)
				}
			}
		}
	}
}
