package fhirpath

import (
	"strings"
	"testing"
)

// TestFunctions goes beyond the official suites: functions of the draft, and the corners of others.
func TestFunctions(t *testing.T) {
	in := Input{Now: suiteNow, Resource: parsed(t, `{"resourceType":"Patient","id":"p","active":true,"name":[
{"use":"official","family":"Chalmers","given":["Peter","James"]},{"family":"CHALMERS","given":["James","Peter"],"use":"OFFICIAL"},{"family":"Windsor"}],
"extension":[{"url":"u","valueQuantity":{"value":1.0,"system":"http://unitsofmeasure.org","code":"g"}},{"url":"w","valueQuantity":{"value":1000,"system":"http://unitsofmeasure.org","code":"mg"}}],
"contact":[{"name":{"text":"a\"\\\n\tb"}}],"multipleBirthInteger":2,"telecom":[{"rank":1},{"rank":2},{"rank":3}]}`)}
	for _, x := range []struct{ expr, want string }{
		{"coalesce(name.suffix, name.prefix, 'none')", `["none"]`},
		{"coalesce(name.suffix, id)", `["p"]`},
		{"coalesce({}, {})", "[]"},
		{"telecom.rank.aggregate($total + $this, 0)", "[6]"},
		{"telecom.rank.aggregate($total.combine($this))", "[1,2,3]"},
		{"telecom.select($index)", "[0,1,2]"},
		{"telecom.where($index > 0).rank", "[2,3]"},
		{"telecom.rank.allTrue()", "error"},
		{"(true | false).allTrue()", "[false]"}, {"(true | false).anyTrue()", "[true]"},
		{"(true | false).allFalse()", "[false]"}, {"(true | false).anyFalse()", "[true]"},
		{"{}.allTrue()", "[true]"}, {"{}.anyTrue()", "[false]"}, {"{}.allFalse()", "[true]"}, {"{}.anyFalse()", "[false]"},
		{"{}.all(false)", "[true]"}, {"{}.exists(true)", "[false]"},
		{"(1 | 2 | 3).repeatAll(iif($this < 3, $this + 1)).count()", "[3]"},
		{"(1 | 2).repeat(iif($this < 4, $this + 1))", "[2,3,4]"},
		{"name[0] = name[1]", "[false]"}, {"name[0] ~ name[1]", "[true]"}, {"name[0] !~ name[2]", "[true]"},
		{"name[0] ~ name[0].given", "[false]"},
		{"extension[0].value ~ extension[1].value", "[true]"},
		{"extension[0].value = extension[1].value", "[false]"}, // two elements, compared by their parts
		{"extension[0].value = 1000 'mg'", "[true]"},
		{"extension('u').value.toQuantity('mg')", `[{"value":1000,"unit":"mg","system":"http://unitsofmeasure.org","code":"mg"}]`},
		{"extension('u').value + extension('w').value", `[{"value":2.0,"unit":"g","system":"http://unitsofmeasure.org","code":"g"}]`},
		{"multipleBirth + 1", "[3]"}, {"multipleBirth.ofType(integer) = 2", "[true]"}, {"multipleBirth is boolean", "[false]"},
		{"'aBc'.matches('abc')", "[false]"}, {"'aBc'.matches('abc', 'i')", "[true]"}, {"'aBc'.matchesFull('b', 'i')", "[false]"},
		{"'2012-05-06'.replaceMatches('(\\\\d+)-(\\\\d+)-(\\\\d+)', '$3x$2')", `["06x05"]`},
		{"'a1'.matches(%`ext-x` & '|a')", "[true]"},
		{"'abc'.replaceMatches('B', 'x', 'i')", `["axc"]`},
		{"'ab'.lastIndexOf('b')", "[1]"}, {"'äbä'.lastIndexOf('ä')", "[2]"}, {"'äb'.indexOf('b')", "[1]"}, {"'äb'.length()", "[2]"},
		{"'äbc'.substring(1, 1)", `["b"]`}, {"'abc'.substring(1, -1)", `[""]`}, {"'abc'.substring(3)", "[]"},
		{"'abc'.split('')", `["a","b","c"]`}, {"''.split(',')", `[""]`}, {"{}.join(',')", "[]"}, {"'a'.combine('b').join()", `["ab"]`},
		{"'zz'.decode('hex')", "[]"}, {"'!'.decode('base64')", "[]"}, {"'ÿ'.encode('hex').decode('hex')", `["ÿ"]`},
		{"'<a>&\"'.escape('html').unescape('html')", `["<a>&\""]`}, {"'\\\\u0041'.unescape('json')", `["A"]`},
		{"'\\u00e4'.upper()", `["Ä"]`}, {"'\\ud83d\\ude00'.length()", "[1]"},
		{"contact.name.text", `["a\"\\\n\tb"]`}, {"contact.name.text & ''", `["a\"\\\n\tb"]`},
		{"'YES'.toBoolean()", "[true]"}, {"'n'.toBoolean()", "[false]"}, {"2.0.toBoolean()", "[]"}, {"0.0.toBoolean()", "[false]"},
		{"true.toDecimal()", "[1.0]"}, {"true.toQuantity()", `[{"value":1.0,"unit":"1","system":"http://unitsofmeasure.org","code":"1"}]`},
		{"'T10:30'.toTime()", `["10:30"]`}, {"@2012-01-01.toDateTime() is DateTime", "[true]"}, {"name[0].convertsToString()", "[false]"},
		{"name[0].toString()", "[]"}, {"'10:30'.toTime() = @T10:30", "[true]"},
		{"1.0.type()", `[{"namespace":"System","name":"Decimal"}]`}, {"active.type()", `[{"namespace":"FHIR","name":"boolean"}]`},
		{"name.type().name.distinct()", `["HumanName"]`}, {"1 is System.Patient", "[false]"},
		{"defineVariable('a', name.first()).active.not() | defineVariable('b').exists().not()", "[false]"},
		{"defineVariable('a', id).exists().select(%a)", `["p"]`}, {"defineVariable('a', id).active.not().select(%a)", `["p"]`},
		{"defineVariable('a', id).name.where(use = 'official').given.select(%a & $this)", `["pPeter","pJames"]`},
		{"1 in {}", "[false]"}, {"(1 | 2) contains 2", "[true]"}, {"('a' | 'b') contains 'c'", "[false]"},
		{"1.comparable('a')", "error"}, {"1 year.comparable(1 month)", "[true]"}, {"1 year.comparable(1 'd')", "[false]"},
		{"2 year * 2", `[{"value":4,"unit":"year"}]`}, {"6 'm' / 2 's'", `[{"value":3,"unit":"m/s","system":"http://unitsofmeasure.org","code":"m/s"}]`},
		{"2 * 3 'm'", `[{"value":6,"unit":"m","system":"http://unitsofmeasure.org","code":"m"}]`}, {"-(5 'm')", `[{"value":-5,"unit":"m","system":"http://unitsofmeasure.org","code":"m"}]`},
		{"-5.abs()", "[-5]"}, {"+id", "error"}, {"'a' * 2", "error"}, {"true and 'a'", "[true]"}, {"name and true", "error"},
		{"1.0.exp()", "[2.718281828459045235360287471]"}, {"100.log(10)", "[2]"}, {"(-1).ln()", "[]"}, {"0.log(2)", "[]"},
		{"1.5.precision()", "[1]"}, {"5.precision()", "[0]"}, {"@2012-01.precision()", "[6]"}, {"'a'.precision()", "error"},
		{"@T10.lowBoundary(2)", `["10"]`}, {"@T10:30.highBoundary()", `["10:30:59.999"]`}, {"@2012.highBoundary(10)", "[]"}, {"'a'.lowBoundary()", "error"},
		{"@2012-05T.highBoundary(8)", `["2012-05-31"]`}, {"@2012-01-01T10:30:00.5Z.lowBoundary(12)", `["2012-01-01T10:30Z"]`},
		{"telecom.sort(-rank).rank", "[3,2,1]"}, {"name.sort(family, use).family", `["CHALMERS","Chalmers","Windsor"]`}, {"(1 | 'a').sort()", "error"},
		{"name.intersect(name.first()).count()", "[1]"}, {"name.given.distinct().exclude('Peter')", `["James"]`}, {"name.given.union('x').count()", "[3]"},
		{"name.tail().family", `["CHALMERS","Windsor"]`}, {"name.last().family", `["Windsor"]`}, {"name.skip(-1).count()", "[3]"}, {"name.take(9).count()", "[3]"},
		{"name[5]", "[]"}, {"name[-1]", "[]"}, {"name.trace('x', given).count()", "[3]"},
		{"Patient.name.given.first() = %context.name[0].given[0]", "[true]"},
		{"%rootResource.id = %resource.id", "[true]"}, {"%`vs-a`", `["http://hl7.org/fhir/ValueSet/a"]`}, {"%'ext-a' = %\"ext-a\"", "[true]"},
	} {
		for _, o := range []Options{{}, {Context: "Patient"}} {
			got := evaluated(t, x.expr, o, in)
			if got != x.want && !(x.want == "error" && strings.HasPrefix(got, "error")) {
				t.Errorf("%s in %q gives %s, want %s", x.expr, o.Context, got, x.want)
			}
		}
	}
}
