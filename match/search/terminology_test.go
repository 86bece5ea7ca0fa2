package search

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// animals is a code system with a hierarchy: nested, and by the properties parent and child.
const animals = `{"resourceType":"CodeSystem","id":"animals","url":"http://a.example/animals","version":"1.0","valueSet":"http://a.example/vs/all-animals",
 "content":"complete","caseSensitive":true,"property":[{"code":"legs","type":"integer"},{"code":"kin","type":"Coding"}],
 "concept":[
  {"code":"animal","display":"Animal","concept":[
   {"code":"mammal","concept":[
    {"code":"cat","display":"House cat","property":[{"code":"legs","valueInteger":4}]},
    {"code":"whale","property":[{"code":"legs","valueInteger":0},{"code":"inactive","valueBoolean":true}]}]},
   {"code":"bird","display":"Bird","property":[{"code":"legs","valueInteger":2},{"code":"child","valueCode":"bat"}],"concept":[{"code":"owl","display":"Owl"}]}]},
  {"code":"bat","property":[{"code":"parent","valueCode":"mammal"},{"code":"legs","valueInteger":2},{"code":"kin","valueCoding":{"system":"http://a.example/animals","code":"cat"}}]},
  {"code":"stone","property":[{"code":"parent","valueCode":"pebble"},{"code":"status","valueCode":"retired"}]},
  {"code":"pebble","property":[{"code":"parent","valueCode":"stone"}]}]}`

// vs makes a ValueSet with a compose.
func vs(id, compose string) string {
	return `{"resourceType":"ValueSet","id":"` + id + `","url":"http://v.example/` + id + `","compose":` + compose + `}`
}

func terms(t testing.TB, bodies ...string) *Terminology {
	t.Helper()
	var list [][]byte
	for _, b := range bodies {
		list = append(list, []byte(b))
	}
	x, err := NewTerminology(list...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// members tells which codes of animals, as system|code, meet a criteria on Observation.code.
func members(t *testing.T, d *Definitions, query string) string {
	t.Helper()
	c := compiled(t, d, "Observation?"+query)
	var out []string
	for _, code := range strings.Fields("animal mammal cat whale bird owl bat stone pebble CAT unicorn") {
		r := resource(t, d, `{"resourceType":"Observation","code":{"coding":[{"system":"http://a.example/animals","code":"`+code+`"}]}}`)
		if c.Match(r) {
			out = append(out, code)
		}
		agrees(t, c, r)
	}
	return strings.Join(out, " ")
}

func TestValueSetsAreExpanded(t *testing.T) {
	const s = `"system":"http://a.example/animals"`
	filter := func(property, op, value string) string {
		return `{"include":[{` + s + `,"filter":[{"property":"` + property + `","op":"` + op + `","value":"` + value + `"}]}]}`
	}
	for _, c := range []struct{ name, compose, want string }{
		{"listed codes", `{"include":[{` + s + `,"concept":[{"code":"cat"},{"code":"unicorn"}]}]}`, "cat unicorn"},
		{"a whole system that is stored", `{"include":[{` + s + `}]}`, "animal mammal cat whale bird owl bat stone pebble"},
		{"without inactive codes", `{"inactive":false,"include":[{` + s + `}]}`, "animal mammal cat bird owl bat pebble"},
		{"another value set without inactive codes", `{"inactive":false,"include":[{"valueSet":["http://v.example/mammals"]}]}`, "mammal cat bat"},
		{"listed codes without inactive ones", `{"inactive":false,"include":[{` + s + `,"concept":[{"code":"cat"},{"code":"whale"}]}]}`, "cat"},
		{"is-a", filter("concept", "is-a", "mammal"), "mammal cat whale bat"},
		{"is-a by a property child", filter("concept", "is-a", "bird"), "bird owl bat"},
		{"is-a in a circle", filter("concept", "is-a", "stone"), "stone pebble"},
		{"descendent-of", filter("concept", "descendent-of", "mammal"), "cat whale bat"},
		{"descendent-leaf", filter("concept", "descendent-leaf", "animal"), "cat whale owl bat"},
		{"child-of", filter("concept", "child-of", "animal"), "mammal bird"},
		{"generalizes", filter("concept", "generalizes", "bat"), "animal mammal bird bat"},
		{"is-not-a", filter("concept", "is-not-a", "animal"), "stone pebble"},
		{"=", filter("legs", "=", "2"), "bird bat"},
		{"= of a Coding", filter("kin", "=", "cat"), "bat"},
		{"= of the code", filter("code", "=", "owl"), "owl"},
		{"= of a parent", filter("parent", "=", "bird"), "owl bat"},
		{"= of what is false where nothing is said", filter("inactive", "=", "false"), "animal mammal cat bird owl bat stone pebble"},
		{"in", filter("legs", "in", "0, 4"), "cat whale"},
		{"in, of codes", filter("concept", "in", "cat,owl"), "cat owl"},
		{"not-in", filter("legs", "not-in", "0,4"), "animal mammal bird owl bat stone pebble"},
		{"exists", filter("legs", "exists", "true"), "cat whale bird bat"},
		{"exists not", filter("display", "exists", "false"), "mammal whale bat stone pebble"},
		{"regex matches the whole value", filter("code", "regex", "b.*|owl|nima"), "bird owl bat"},
		{"several filters must all hold", `{"include":[{` + s + `,"filter":[{"property":"concept","op":"is-a","value":"mammal"},{"property":"legs","op":"=","value":"2"}]}]}`, "bat"},
		{"several includes are united", `{"include":[{` + s + `,"concept":[{"code":"cat"}]},{` + s + `,"concept":[{"code":"owl"}]}]}`, "cat owl"},
		{"exclude", `{"include":[{` + s + `}],"exclude":[{` + s + `,"filter":[{"property":"concept","op":"is-a","value":"animal"}]},{` + s + `,"concept":[{"code":"stone"}]}]}`, "pebble"},
		{"another value set", `{"include":[{"valueSet":["http://v.example/mammals"]}]}`, "mammal cat whale bat"},
		{"several value sets in one include are intersected", `{"include":[{"valueSet":["http://v.example/mammals","http://v.example/two"]}]}`, "bat"},
		{"system and value set are intersected", `{"include":[{` + s + `,"filter":[{"property":"legs","op":"=","value":"4"}],"valueSet":["http://v.example/mammals"]}]}`, "cat"},
		{"exclude by value set", `{"include":[{` + s + `}],"exclude":[{"valueSet":["http://v.example/mammals"]}]}`, "animal bird owl stone pebble"},
		{"the implicit value set of a code system", `{"include":[{"valueSet":["http://a.example/vs/all-animals"]}]}`, "animal mammal cat whale bird owl bat stone pebble"},
		{"a value set by its id", `{"include":[{"valueSet":["ValueSet/two"]}]}`, "bird bat"},
		{"a system elsewhere", `{"include":[{"system":"http://other","concept":[{"code":"cat"}]}]}`, ""},
	} {
		d := local().WithTerminology(terms(t, animals, vs("x", c.compose), vs("mammals", filter("concept", "is-a", "mammal")), vs("two", filter("legs", "=", "2"))))
		for _, ref := range []string{"http://v.example/x", "ValueSet/x", base + "/ValueSet/x"} {
			if got := members(t, d, "code:in="+ref); got != c.want {
				t.Errorf("%s: %s has %q, want %q", c.name, ref, got, c.want)
			}
		}
		in := strings.Fields(c.want)
		for _, code := range strings.Fields(members(t, d, "code:not-in=http://v.example/x")) {
			if slices.Contains(in, code) {
				t.Errorf("%s: %s is in and not in", c.name, code)
			}
		}
	}
}

// A system that is included whole and not stored has every code that names it.
func TestAWholeSystemNeedsNoCodeSystem(t *testing.T) {
	const some = `{"include":[{"system":"http://loinc.org"},{"system":"http://s","concept":[{"code":"a"}]}],"exclude":[{"system":"http://loinc.org","concept":[{"code":"1-8"}]},{"system":"http://t"}]}`
	d := R4().WithTerminology(terms(t, vs("some", some), vs("both", `{"include":[{"valueSet":["http://v.example/some","http://loinc.org/vs"]}]}`),
		vs("rest", `{"include":[{"system":"http://loinc.org"}],"exclude":[{"valueSet":["http://v.example/some"]}]}`),
		vs("union", `{"include":[{"valueSet":["http://v.example/some"]},{"system":"http://loinc.org","concept":[{"code":"1-8"}]}]}`)))
	holds(t, d, []rule{
		{"any code but the excluded", `Observation{"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]}}`,
			"code:in=http://v.example/some\ncode:in=http://loinc.org/vs\ncode:in=http://v.example/both\ncode:in=http://v.example/union", "code:not-in=http://v.example/some\ncode:in=http://v.example/rest"},
		{"the excluded one", `Observation{"code":{"coding":[{"system":"http://loinc.org","code":"1-8"}]}}`,
			"code:not-in=http://v.example/some\ncode:in=http://v.example/rest\ncode:in=http://v.example/union\ncode:in=http://loinc.org/vs\ncode:in=http://v.example/rest,http://v.example/some", "code:in=http://v.example/some\ncode:in=http://v.example/both"},
		{"another system", `Observation{"code":{"coding":[{"system":"http://t","code":"8867-4"}]}}`, "code:not-in=http://v.example/some", "code:in=http://v.example/some"},
		{"no system, or no code", `Observation{"code":{"coding":[{"code":"a"},{"system":"http://loinc.org"}],"text":"a"}}`, "code:not-in=http://v.example/some", "code:in=http://v.example/some"},
		{"any of the codings", `Observation{"code":{"coding":[{"system":"http://t","code":"x"},{"system":"http://s","code":"a"}]}}`, "code:in=http://v.example/some", "code:not-in=http://v.example/some"},
		{"no value", `Observation{}`, "code:not-in=http://v.example/some", "code:in=http://v.example/some"},
		{"case counts only where a code system says so", `Observation{"code":{"coding":[{"system":"http://s","code":"A"}]}}`, "code:in=http://v.example/some", ""},
		{"SNOMED CT's value set of everything", `Observation{"code":{"coding":[{"system":"http://snomed.info/sct","code":"1"}]}}`, "code:in=http://snomed.info/sct?fhir_vs", "code:in=http://loinc.org/vs"},
	})
}

// A code element does not name its system: of it the code is compared.
func TestCodeElementsAreMembersByTheirCode(t *testing.T) {
	d := R4().WithTerminology(terms(t, vs("done", `{"include":[{"system":"http://hl7.org/fhir/observation-status","concept":[{"code":"final"},{"code":"amended"}]}]}`)))
	holds(t, d, []rule{
		{"R4 3.1.1.4.10 :in on a code", `Observation{"status":"final"}`, "status:in=http://v.example/done", "status:not-in=http://v.example/done"},
		{"R4 3.1.1.4.10 :in on a code", `Observation{"status":"registered"}`, "status:not-in=http://v.example/done", "status:in=http://v.example/done"},
	})
}

func TestHierarchiesAreThoseOfStoredCodeSystems(t *testing.T) {
	d := R4().WithTerminology(terms(t, animals))
	for query, want := range map[string]string{
		"code:below=http://a.example/animals|mammal":                                         "mammal cat whale bat",
		"code:above=http://a.example/animals|owl":                                            "animal bird owl",
		"code:above=http://a.example/animals|bat":                                            "animal mammal bird bat",
		"code:below=http://a.example/animals|owl,http://a.example/animals|cat":               "cat owl",
		"code:below=http://a.example/animals|animal&code:above=http://a.example/animals|cat": "animal mammal cat",
	} {
		if got := members(t, d, query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	// SNOMED CT as far as somebody has stored it.
	snomed := `{"resourceType":"CodeSystem","id":"sct","url":"http://snomed.info/sct","content":"complete","concept":[{"code":"235862008","concept":[{"code":"773113008"}]}]}`
	holds(t, R4().WithTerminology(terms(t, snomed)), []rule{
		{"R5 in, second example", `Condition{"code":{"coding":[{"system":"http://snomed.info/sct","code":"773113008"}]}}`,
			"code:in=http://snomed.info/sct?fhir_vs=isa/235862008\ncode:below=http://snomed.info/sct|235862008", "code:in=http://snomed.info/sct?fhir_vs=isa/773113008&code:not-in=http://snomed.info/sct?fhir_vs\ncode:above=http://snomed.info/sct|235862008"},
	})
}

func TestAnExpansionIsUsedIfItIsComplete(t *testing.T) {
	const contains = `"contains":[{"system":"http://a.example/animals","code":"cat"},{"system":"http://a.example/animals","abstract":true,"code":"bird","contains":[{"system":"http://a.example/animals","code":"owl"}]},{"display":"group"}]`
	body := func(more, compose string) string {
		return `{"resourceType":"ValueSet","id":"x","url":"http://v.example/x"` + compose + `,"expansion":{` + more + contains + `}}`
	}
	const compose = `,"compose":{"include":[{"system":"http://a.example/animals","concept":[{"code":"stone"}]}]}`
	for _, c := range []struct{ name, body, want string }{
		{"alone", body("", ""), "cat owl"},
		{"with its total", body(`"total":4,`, ""), "cat owl"},
		{"before the definition", body("", compose), "cat owl"},
		{"a page of it", body(`"offset":10,`, compose), "stone"},
		{"fewer than its total", body(`"total":100,`, compose), "stone"},
		{"filtered", body(`"parameter":[{"name":"filter","valueString":"c"}],`, compose), "stone"},
		{"of the limited sort", body(`"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/valueset-toocostly","valueBoolean":true}],`, compose), "stone"},
		{"of the limited sort, as a parameter says", body(`"parameter":[{"name":"limitedExpansion","valueBoolean":true}],`, compose), "stone"},
		{"a page of it, as a parameter says", body(`"parameter":[{"name":"offset","valueInteger":4}],`, compose), "stone"},
		{"with a next page (R5)", body(`"next":"http://x?page=2",`, compose), "stone"},
		{"cut at a number of codes", body(`"parameter":[{"name":"count","valueInteger":4}],`, compose), "stone"},
		{"not reaching a number of codes", body(`"parameter":[{"name":"count","valueInteger":5}],`, compose), "cat owl"},
		{"of just a number of codes, as the total says", body(`"total":4,"parameter":[{"name":"count","valueInteger":4},{"name":"offset","valueInteger":0}],`, compose), "cat owl"},
		{"with another parameter", body(`"parameter":[{"name":"displayLanguage","valueCode":"de"}],"offset":0,`, compose), "cat owl"},
	} {
		d := local().WithTerminology(terms(t, animals, c.body))
		if got := members(t, d, "code:in=http://v.example/x"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	refuses(t, local().WithTerminology(terms(t, body(`"offset":10,`, ""))), []refuse{{"an expansion that cannot be used", "Observation?code:in=http://v.example/x", "page of a larger one"}})
}

func TestWhatCannotBeDecidedIsRefusedByName(t *testing.T) {
	const s = `"system":"http://a.example/animals"`
	filter := func(system, property, op, value string) string {
		return `{"include":[{"system":"` + system + `","filter":[{"property":"` + property + `","op":"` + op + `","value":"` + value + `"}]}]}`
	}
	const a = "http://a.example/animals"
	partOf := strings.Replace(strings.ReplaceAll(animals, "animals", "parts"), `"content"`, `"hierarchyMeaning":"part-of","content"`, 1)
	fragment := strings.Replace(strings.ReplaceAll(animals, "animals", "some"), "complete", "fragment", 1)
	bodies := []string{animals, partOf, fragment}
	var list []refuse
	for name, c := range map[string][2]string{
		"unstored":   {filter("http://nowhere", "concept", "is-a", "x"), `the filter "concept" "is-a" needs a CodeSystem "http://nowhere"`},
		"fragment":   {filter("http://a.example/some", "concept", "is-a", "cat"), "content = complete"},
		"property":   {filter(a, "wings", "=", "2"), `has no property "wings"`},
		"code":       {filter(a, "concept", "is-a", "dragon"), `has no code "dragon"`},
		"operator":   {filter(a, "concept", "like", "x"), `filter operator "like"`},
		"regex":      {filter(a, "code", "regex", `(?=a)`), "linear time"},
		"unbalanced": {filter(a, "code", "regex", `a)|(b`), "linear time"},
		"large":      {filter(a, "code", "regex", `((a|b){100}){9}`), "too large"},
		"exists":     {filter(a, "legs", "exists", "yes"), "true or false"},
		"meaning":    {filter("http://a.example/parts", "concept", "is-a", "cat"), `means "part-of"`},
		"by":         {filter(a, "legs", "is-a", "4"), "only understood for the property concept"},
		"inactive":   {`{"inactive":false,"include":[{"system":"http://nowhere"}]}`, "inactive"},
		"unknown":    {`{"inactive":false,"include":[{"valueSet":["http://loinc.org/vs"]}]}`, `"http://loinc.org" are inactive is not known`},
		"nested":     {`{"include":[{"valueSet":["http://nowhere/vs"]}]}`, `ValueSet "http://v.example/nested": ValueSet "http://nowhere/vs" is not stored`},
		"self":       {`{"include":[{"valueSet":["http://v.example/self"]}]}`, "includes itself"},
		"one":        {`{"include":[{"valueSet":["http://v.example/other"]}]}`, "includes itself"},
		"other":      {`{"exclude":[{"valueSet":["ValueSet/one"]}],"include":[{` + s + `}]}`, "includes itself"},
		"empty-part": {`{"include":[{}]}`, "neither a system nor a value set"},
		"both":       {`{"include":[{` + s + `,"concept":[{"code":"cat"}],"filter":[{"property":"legs","op":"=","value":"4"}]}]}`, "vsd-3"},
		"modified":   {`{"include":[{` + s + `,"modifierExtension":[{"url":"http://x"}]}]}`, "modifierExtension"},
		"excluded":   {`{"include":[{` + s + `}],"exclude":[{"valueSet":["http://nowhere/vs"]}]}`, "is not stored"},
	} {
		bodies = append(bodies, vs(name, c[0]))
		list = append(list, refuse{name, "Observation?code:in=http://v.example/" + name, c[1]})
	}
	bodies = append(bodies, `{"resourceType":"ValueSet","id":"void","url":"http://v.example/void"}`)
	d := R4().WithTerminology(terms(t, bodies...))
	refuses(t, d, append(list,
		refuse{"nothing to expand", "Observation?code:in=http://v.example/void", "neither a compose nor an expansion"},
		refuse{"unknown", "Observation?code:in=http://v.example/nope", `ValueSet "http://v.example/nope" is not stored`},
		refuse{"unknown id", "Observation?code:in=ValueSet/nope", `ValueSet "ValueSet/nope" is not stored`},
		refuse{"unknown version", "Observation?code:in=http://v.example/by|9", `"http://v.example/by|9" is not stored`},
		refuse{"not-in", "Observation?code:not-in=http://v.example/nope", "is not stored"},
		refuse{"nothing", "Observation?code:in=|", "canonical URL of a ValueSet"},
		refuse{"a refset", "Observation?code:in=http://snomed.info/sct?fhir_vs=refset/1", "is not stored"},
		refuse{"below without a code system", "Observation?code:below=http://snomed.info/sct|1", "hierarchy of \"http://snomed.info/sct\" is not known here"},
		refuse{"below in a fragment", "Observation?code:below=http://a.example/some|cat", "content = complete"},
		refuse{"below without a system", "Observation?code:below=cat", "system|code"},
		refuse{"below a system", "Observation?code:below=" + a + "|", "system|code"},
		refuse{"below an unknown code", "Observation?code:below=" + a + "|dragon", `has no code "dragon"`},
	))
	// R4's :below is "is-a, or hierarchical relationships": of any meaning.
	compiled(t, d, "Observation?code:below=http://a.example/parts|cat")
}

func TestTheNewestVersionCountsUnlessOneIsNamed(t *testing.T) {
	version := func(id, version, code string) string {
		return `{"resourceType":"ValueSet","id":"` + id + `","url":"http://v.example/x","version":"` + version + `","compose":{"include":[{"system":"http://a.example/animals","concept":[{"code":"` + code + `"}]}]}}`
	}
	d := local().WithTerminology(terms(t, animals, version("a", "1.2.0", "cat"), version("b", "1.10.0", "owl"), version("c", "1.9.0", "bat"), version("d", "1.10.0-beta", "stone")))
	for query, want := range map[string]string{"code:in=http://v.example/x": "owl", "code:in=http://v.example/x|1.2.0": "cat", "code:in=http://v.example/x|1.10.0-beta": "stone",
		"code:in=http://v.example/x|1.2.0,http://v.example/x|1.9.0": "cat bat", "code:in=ValueSet/c": "bat"} {
		if got := members(t, d, query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	order := []string{"", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc", "1.0.0", "1.0.1", "1.2", "1.2.0", "1.10", "2", "02.1", "2.x", "20210901", "draft"}
	for i, a := range order {
		for j, b := range order {
			if got := compareVersions(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q to %q: %d", a, b, got)
			}
		}
	}
}

// Whoever compiles again when a ValueSet or CodeSystem changes goes by Uses and Names, and
// whoever shares evaluations by Identity.
func TestACriteriaTellsWhatItWasMadeOf(t *testing.T) {
	x := terms(t, animals, vs("mammals", `{"include":[{"system":"http://a.example/animals","filter":[{"property":"concept","op":"is-a","value":"mammal"}]}]}`),
		vs("x", `{"include":[{"valueSet":["http://v.example/mammals"]},{"system":"http://other"}]}`))
	d := R4().WithTerminology(x)
	for q, want := range map[string]string{
		"code:in=http://v.example/x":                         "http://a.example/animals http://other http://v.example/mammals http://v.example/x",
		"code:in=http://v.example/mammals&status=final":      "http://a.example/animals http://v.example/mammals",
		"code:not-in=ValueSet/mammals":                       "ValueSet/mammals http://a.example/animals",
		"code:below=http://a.example/animals|cat":            "http://a.example/animals",
		"code:in=http://a.example/vs/all-animals":            "http://a.example/animals http://a.example/vs/all-animals",
		"code:text=cat&code=http://a.example/animals|cat":    "",
		"code:in=http://loinc.org/vs&category:in=ValueSet/x": "ValueSet/x http://a.example/animals http://loinc.org http://loinc.org/vs http://other http://v.example/mammals",
	} {
		c := compiled(t, d, "Observation?"+q)
		if got := strings.Join(c.Uses(), " "); got != want {
			t.Errorf("%s uses %s, want %s", q, got, want)
		}
		if (c.Identity() == c.Canonical()) != (want == "") {
			t.Errorf("%s: identity %q", q, c.Identity())
		}
		if again := compiled(t, R4().WithTerminology(x), "Observation?"+q); again.Identity() != c.Identity() {
			t.Errorf("%s: another identity", q)
		}
	}
	// By the server's own URL the one with this id is meant, unless another one is stored with this URL.
	own := compiled(t, local().WithTerminology(x), "Observation?code:in="+base+"/ValueSet/mammals")
	if got := strings.Join(own.Uses(), " "); got != "ValueSet/mammals http://a.example/animals "+base+"/ValueSet/mammals" {
		t.Errorf("by the server's own URL: %s", got)
	}
	for key, want := range map[string]string{"CodeSystem/animals": "CodeSystem/animals http://a.example/animals http://a.example/vs/all-animals", "ValueSet/x": "ValueSet/x http://v.example/x", "ValueSet/nope": ""} {
		typ, id, _ := strings.Cut(key, "/")
		if got := strings.Join(x.Names(typ, fhir.ID(id)), " "); got != want {
			t.Errorf("names of %s: %s", key, got)
		}
	}
	if (*Terminology)(nil).Names("ValueSet", "x") != nil {
		t.Error("nothing has names")
	}

	// A change makes another set, and leaves what was compiled before as it was.
	before := compiled(t, d, "Observation?code:in=http://v.example/x")
	changed, err := x.With("mammals", []byte(strings.Replace(vs("gone", `{"include":[{"system":"http://a.example/animals","concept":[{"code":"owl"}]}]}`), "example/gone", "example/mammals", 1)))
	if err != nil {
		t.Fatal(err)
	}
	after := compiled(t, R4().WithTerminology(changed), "Observation?code:in=http://v.example/x")
	owl := `{"resourceType":"Observation","code":{"coding":[{"system":"http://a.example/animals","code":"owl"}]}}`
	d2 := R4().WithTerminology(changed)
	if before.Match(resource(t, d2, owl)) || !after.Match(resource(t, d, owl)) || before.Identity() == after.Identity() || before.Canonical() != after.Canonical() {
		t.Error("the change shows in what was compiled before, or not at all")
	}
	refuses(t, R4().WithTerminology(changed.Without("ValueSet", "mammals")), []refuse{{"deleted", "Observation?code:in=http://v.example/x", "is not stored"}})
	if got := members(t, local().WithTerminology(x), "code:in=http://v.example/mammals"); got != "mammal cat whale bat" {
		t.Errorf("the collection that was copied has %s now", got)
	}
}

// What is remembered of other resources outlives a change: two criteria hold one set.
func TestAChangeForgetsOnlyWhatItConcerns(t *testing.T) {
	x := terms(t, animals, vs("a", `{"include":[{"system":"http://a.example/animals","filter":[{"property":"concept","op":"is-a","value":"cat"}]}]}`), vs("b", `{"include":[{"system":"http://s"}]}`))
	sets := func(x *Terminology) (out []*codeSet) {
		for _, q := range []string{"code:in=ValueSet/a", "code:in=http://v.example/b", "code:below=http://a.example/animals|cat"} {
			out = append(out, compiled(t, R4().WithTerminology(x), "Observation?"+q).conditions[0].extra.sets...)
		}
		return out
	}
	with := func(body string) *Terminology {
		next, err := x.With("", []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	before := sets(x)
	for name, c := range map[string]struct {
		now  *Terminology
		same [3]bool
	}{
		"nothing":                      {x, [3]bool{true, true, true}},
		"another value set":            {with(vs("c", `{"include":[{"system":"http://t"}]}`)), [3]bool{true, true, true}},
		"the value set":                {with(vs("a", `{"include":[{"system":"http://t"}]}`)), [3]bool{false, true, true}},
		"its code system":              {with(strings.Replace(animals, "1.0", "1.1", 1)), [3]bool{false, true, false}},
		"a system that was not stored": {with(`{"resourceType":"CodeSystem","id":"s","url":"http://s","content":"complete"}`), [3]bool{true, false, true}},
	} {
		for i, s := range sets(c.now) {
			if (s == before[i]) != c.same[i] {
				t.Errorf("%s changed: set %d is the same: %v", name, i, s == before[i])
			}
		}
	}
}

func TestManyResourcesComeAndGoOneByOne(t *testing.T) {
	const n = 700
	var x *Terminology
	id := func(i int) fhir.ID { return fhir.ID(fmt.Sprintf("v%d", i)) }
	for i := range n {
		next, err := x.With("", []byte(vs(string(id(i)), `{"include":[{"system":"http://s"}]}`)))
		if err != nil {
			t.Fatal(err)
		}
		if x = next; i%3 == 2 {
			x = x.Without("ValueSet", id(i-1))
		}
	}
	for i := range n {
		there := i%3 != 1 || i == n-1
		if (x.Names("ValueSet", id(i)) != nil) != there || (x.find("ValueSet", "http://v.example/"+string(id(i)), "") != nil) != there {
			t.Errorf("%s: there %v", id(i), !there)
		}
	}
	if len(x.byID.base)+len(x.byID.recent) > n {
		t.Errorf("%d and %d places for %d resources", len(x.byID.base), len(x.byID.recent), n)
	}
}

func TestTerminologyTakesOnlyItsResources(t *testing.T) {
	for body, text := range map[string]string{
		`{"resourceType":"Patient","id":"x"}`: "neither a ValueSet nor a CodeSystem",
		`{"resourceType":"ValueSet"}`:         "no valid id",
		`{`:                                   "no JSON",
		`[]`:                                  "neither",
	} {
		if _, err := NewTerminology([]byte(body)); fhir.AsError(err) == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", body, err)
		}
	}
	x, err := (*Terminology)(nil).With("y", []byte(`{"resourceType":"ValueSet","id":"x","compose":{"include":[{"system":"http://s"}]}}`))
	if err != nil || x.Names("ValueSet", "y") == nil {
		t.Errorf("the server's id does not count: %v", err)
	}
}

// Small sets are posted under their codes; large ones and whole systems cannot be.
func TestSmallSetsAreFoundByTheirCodes(t *testing.T) {
	var many []string
	for i := range maxPosted + 1 {
		many = append(many, fmt.Sprintf(`{"code":"c%d"}`, i))
	}
	d := R4().WithTerminology(terms(t, vs("small", `{"include":[{"system":"http://s","concept":[{"code":"a"},{"code":"b"}]}]}`),
		vs("large", `{"include":[{"system":"http://s","concept":[`+strings.Join(many, ",")+`]}]}`), vs("whole", `{"include":[{"system":"http://s"}]}`)))
	for q, want := range map[string]int{"code:in=http://v.example/small": 2, "code:in=http://v.example/large": 0, "code:in=http://v.example/whole": 0,
		"code:in=http://v.example/small,http://v.example/whole": 0, "code:in=http://v.example/small,http://v.example/small": 2} {
		codes := compiled(t, d, "Observation?"+q).conditions[0].extra.accessCodes()
		slices.Sort(codes)
		if got := len(slices.Compact(codes)); got != want {
			t.Errorf("%s: %d codes", q, got)
		}
	}
}

// What an expansion may cost is bounded, and does not depend on what was expanded before.
func TestExpansionsAreBounded(t *testing.T) {
	chain := func(n int) []string {
		out := []string{vs("v0", `{"include":[{"system":"http://s"}]}`)}
		for i := 1; i <= n; i++ {
			out = append(out, vs(fmt.Sprintf("v%d", i), fmt.Sprintf(`{"include":[{"valueSet":["http://v.example/v%d"]},{"valueSet":["http://v.example/v%d"]}]}`, i-1, i-1)))
		}
		return out
	}
	// Each level names the one below twice: without memory that is a million expansions.
	deep := terms(t, chain(maxNested+1)...)
	d := R4().WithTerminology(deep)
	compiled(t, d, fmt.Sprintf("Observation?code:in=http://v.example/v%d", maxNested-1))
	for range 2 { // the second time most of it is remembered
		refuses(t, d, []refuse{{"too deep", fmt.Sprintf("Observation?code:in=http://v.example/v%d", maxNested), "levels deep"}})
		refuses(t, d, []refuse{{"too deep", fmt.Sprintf("Observation?code:in=http://v.example/v%d", maxNested+1), "levels deep"}})
	}
	refuses(t, R4().WithTerminology(terms(t, chain(maxNested+1)...)), []refuse{{"too deep, from the start", fmt.Sprintf("Observation?code:in=http://v.example/v%d", maxNested+1), "levels deep"}})

	var big strings.Builder
	for i := range maxCodes + 1 {
		fmt.Fprintf(&big, `,{"code":"c%d"}`, i)
	}
	sets := []string{
		`{"resourceType":"CodeSystem","id":"big","url":"http://big","content":"complete","concept":[{"code":"root","concept":[` + big.String()[1:] + `]}]}`,
		vs("big", `{"include":[{"system":"http://big","filter":[{"property":"code","op":"exists","value":"true"}]}]}`),
		vs("whole", `{"include":[{"system":"http://big"}],"exclude":[{"system":"http://big","concept":[{"code":"c1"}]}]}`),
		vs("few", `{"include":[{"system":"http://big","filter":[{"property":"code","op":"regex","value":"c1+"}]}]}`),
	}
	var part, refs []string
	for i := range 1000 {
		part = append(part, fmt.Sprintf(`{"system":"http://big","filter":[{"property":"concept","op":"is-a","value":"c%d"},{"property":"code","op":"regex","value":"c.*"}]}`, i))
	}
	sets = append(sets, vs("parts", `{"include":[`+strings.Join(part, ",")+`]}`))
	const each = 3 * (maxCodes + 2) // concepts, a filter for each, and the value that it looks at
	for i := range maxHandled/each + 1 {
		id := fmt.Sprintf("few%d", i)
		sets = append(sets, vs(id, `{"include":[{"system":"http://big","filter":[{"property":"code","op":"=","value":"c1"}]}]}`))
		refs = append(refs, "http://v.example/"+id)
	}
	d = R4().WithTerminology(terms(t, sets...))
	refuses(t, d, []refuse{
		{"too many codes", "Observation?code:in=http://v.example/big", "more than 100000 codes"},
		{"too many codes", "Observation?code:below=http://big|root", "more than 100000 codes"},
		{"too many together", "Observation?code:in=" + strings.Join(refs, ","), "codes together"},
	})
	compiled(t, d, "Observation?code:in=http://v.example/few")
	holds(t, d.WithBaseURLs(base), []rule{{"a whole system of too many codes has every code", `Observation{"code":{"coding":[{"system":"http://big","code":"c2"}]}}`, "code:in=http://v.example/whole", "code:in=http://v.example/few"}})
	compiled(t, d, "Observation?code:in="+strings.Join(refs[1:], ","))
	refuses(t, d, []refuse{{"too many together, though remembered", "Observation?code:in=" + strings.Join(refs, ","), "codes together"}})
	// What goes by the hierarchy costs what it finds and not what the system has.
	if n := compiled(t, d, "Observation?code:in=http://v.example/parts").conditions[0].extra.sets[0].size(); n != 1000 {
		t.Errorf("%d codes", n)
	}
}

func TestOneTerminologyServesManyGoroutines(t *testing.T) {
	d := R4().WithTerminology(terms(t, animals, vs("x", `{"include":[{"system":"http://a.example/animals","filter":[{"property":"concept","op":"is-a","value":"mammal"}]}]}`)))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 20 {
				c, err := d.Compile("Observation?code:in=http://v.example/x&code:below=http://a.example/animals|cat")
				if err != nil || !c.Match(resource(t, d, `{"resourceType":"Observation","code":{"coding":[{"system":"http://a.example/animals","code":"cat"}]}}`)) {
					t.Error("no match:", err)
				}
			}
		})
	}
	group.Wait()
}

func TestMembershipAllocatesNothing(t *testing.T) {
	d := R4().WithTerminology(terms(t, animals, vs("x", `{"include":[{"system":"http://s","concept":[{"code":"A"}]}]}`)))
	r := resource(t, d, `{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://s","code":"a"}],"text":"Heart rate"},"text":{"div":"<p>one two</p>"}}`)
	c := compiled(t, d, "Observation?code:in=http://v.example/x&status:not-in=http://v.example/x&code:text=heart&_text=two&_content=rate")
	n := testing.AllocsPerRun(100, func() {
		r.Reset(r.Tree(), Envelope{})
		if !c.Match(r) {
			t.Error("no match")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Stored resources are what anybody may have written.
func FuzzTerminology(f *testing.F) {
	f.Add(vs("x", `{"inactive":false,"include":[{"system":"http://a.example/animals","filter":[{"property":"concept","op":"is-a","value":"mammal"}]},{"valueSet":["ValueSet/x","http://loinc.org/vs"]}],"exclude":[{"system":"http://s"}]}`), animals)
	f.Add(`{"resourceType":"ValueSet","id":"x","expansion":{"total":1,"contains":[{"system":"http://s","code":"a","contains":[{"abstract":true}]}]}}`, `{"resourceType":"CodeSystem","id":"animals","url":"http://a.example/animals","content":"complete","concept":[{"code":"cat","concept":[{"code":"cat"}]}]}`)
	tree, err := json.Parse([]byte(`{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://a.example/animals","code":"cat"},{"system":"http://s","code":"a"}]}}`), json.Limits{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, err := NewTerminology([]byte(a), []byte(b))
		if err != nil {
			if fhir.AsError(err) == nil {
				t.Fatal(err)
			}
			return
		}
		d := local().WithTerminology(x)
		for _, q := range []string{"code:in=ValueSet/x", "status:not-in=ValueSet/x", "code:below=http://a.example/animals|cat", "code:above=http://a.example/animals|cat"} {
			c, err := d.Compile("Observation?" + q)
			if err != nil {
				if fhir.AsError(err) == nil {
					t.Fatalf("%s: %v", q, err)
				}
				continue
			}
			agrees(t, c, NewResource(d, tree))
		}
	})
}
