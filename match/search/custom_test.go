package search

import (
	stdjson "encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// parameter writes a SearchParameter; elements are added to what each has.
func parameter(code, base, typ, expr, elements string) string {
	quoted, _ := stdjson.Marshal(expr)
	bases, _ := stdjson.Marshal(strings.Split(base, ","))
	return fmt.Sprintf(`{"resourceType":"SearchParameter","url":"http://example.org/sp/%s","status":"active","code":"%s","base":%s,"type":"%s","expression":%s%s}`,
		code, code, bases, typ, quoted, elements)
}

// with gives definitions with parameters that must all be usable.
func with(t testing.TB, d *Definitions, params ...string) *Definitions {
	t.Helper()
	var bodies [][]byte
	for _, p := range params {
		bodies = append(bodies, []byte(p))
	}
	out, errs := d.WithParameters(bodies...)
	for i, err := range errs {
		if err != nil {
			t.Fatalf("%s: %v", params[i], err)
		}
	}
	if len(errs) != len(params) {
		t.Fatalf("%d answers for %d parameters", len(errs), len(params))
	}
	return out
}

const colour = "http://example.org/colour"

func TestCustomParametersAreReadByPath(t *testing.T) {
	patient := `{"resourceType":"Patient","id":"p","active":true,"maritalStatus":{"coding":[{"code":"M"}]},"birthDate":"1970-01-01","_birthDate":{"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/patient-birthTime","valueDateTime":"1970-01-01T05:06:07Z"}]},
		"extension":[{"url":"` + colour + `","valueCodeableConcept":{"coding":[{"system":"s","code":"red"}]}},{"url":"http://example.org/height","valueQuantity":{"value":1.8,"unit":"m"}},
		{"url":"http://example.org/doctor","valueReference":{"reference":"Practitioner/1"}},{"url":"http://example.org/nick","valueString":"Bob"},{"url":"http://example.org/count","valueInteger":3},
		{"url":"http://example.org/nested","extension":[{"url":"inner","valueCode":"x"}]}],
		"contact":[{"name":{"family":"Doe"},"telecom":[{"system":"phone","value":"1"},{"system":"email","value":"a@b"}]}]}`
	for _, c := range []struct{ param, yes, no string }{
		// HAPI's documentation writes parameters on extensions in these three ways.
		{parameter("colour", "Patient", "token", "Patient.extension('"+colour+"').value", ""), "colour=s|red", "colour=blue"},
		{parameter("colour", "Patient", "token", "Patient.extension('"+colour+"').value.as(CodeableConcept)", ""), "colour=red", "colour=t|red"},
		{parameter("colour", "Patient", "token", "Patient.extension.where(url='"+colour+"').value.as(CodeableConcept)", ""), "colour=red", "colour:not=red"},
		{parameter("colour", "Patient", "token", "(Patient.extension('"+colour+"').value as CodeableConcept)", ""), "colour:missing=false", "colour:missing=true"},
		{parameter("colour", "DomainResource", "token", "DomainResource.extension('"+colour+"').value", ""), "colour=red", "colour=blue"},
		{parameter("height", "Patient", "quantity", "Patient.extension('http://example.org/height').value", ""), "height=gt1.7||m", "height=gt1.9"},
		{parameter("doctor", "Patient", "reference", "Patient.extension('http://example.org/doctor').value", `,"target":["Practitioner"]`), "doctor=Practitioner/1", "doctor=2"},
		{parameter("nick", "Patient", "string", "Patient.extension('http://example.org/nick').value", ""), "nick=bo", "nick:exact=bob"},
		{parameter("count", "Patient", "number", "Patient.extension('http://example.org/count').value", ""), "count=3", "count=lt3"},
		{parameter("inner", "Patient", "token", "Patient.extension('http://example.org/nested').extension('inner').value", ""), "inner=x", "inner=y"},
		{parameter("birth-time", "Patient", "date", "Patient.birthDate.extension('http://hl7.org/fhir/StructureDefinition/patient-birthTime').value", ""),
			"birth-time=1970-01-01T05:06:07Z", "birth-time=lt1970"},
		{parameter("contact-family", "Patient", "string", "Patient.contact.name.family", ""), "contact-family=do", "contact-family=x"},
		{parameter("contact-mail", "Patient", "token", "Patient.contact.telecom.where(system='email')", ""), "contact-mail=a@b", "contact-mail=1"},
		{parameter("marital", "Patient,Person", "token", "Patient.maritalStatus | Person.active", ""), "marital=m", "marital=x"},
		// The code of an official parameter: the later counts.
		{parameter("gender", "Patient", "token", "Patient.maritalStatus", ""), "gender=M", "gender=male"},
	} {
		d := with(t, R4(), c.param)
		r := resource(t, d, patient)
		if x := compiled(t, d, "Patient?"+c.yes); !x.Match(r) {
			t.Errorf("%s is not met with %s", c.yes, c.param)
		}
		if x := compiled(t, d, "Patient?"+c.no); x.Match(r) {
			t.Errorf("%s is met with %s", c.no, c.param)
		}
		for _, q := range []string{c.yes, c.no} { // Match, Explain and index agree
			x := compiled(t, d, "Patient?"+q)
			found := true
			for _, e := range x.Explain(r) {
				found = found && e.Met
			}
			if found != x.Match(r) {
				t.Errorf("%s: explained as %v", q, found)
			}
			if found && !findable(x, r) {
				t.Errorf("%s would not be found", q)
			}
		}
		if _, err := R4().Compile("Patient?" + c.yes); err == nil && !strings.Contains(c.yes, "gender") {
			t.Errorf("%s is known without its definition", c.yes)
		}
	}
}

// findable reports whether an index finds the criteria by whatever way it takes.
func findable(c *Criteria, r *Resource) bool {
	for _, a := range c.Accesses() {
		if !finds(a, r) {
			return false
		}
	}
	return true
}

func TestCustomCompositesAreRead(t *testing.T) {
	d := with(t, R4(),
		parameter("bp", "Observation", "composite", "Observation.component",
			`,"component":[{"definition":"http://hl7.org/fhir/SearchParameter/clinical-code","expression":"code"},{"definition":"http://example.org/sp/reason","expression":"dataAbsentReason"}]`),
		parameter("reason", "Observation", "token", "Observation.component.dataAbsentReason", ""),
		parameter("site-code", "Observation", "composite", "Observation | Observation.component",
			`,"component":[{"definition":"http://hl7.org/fhir/SearchParameter/Observation-status","expression":"%resource.status"},{"definition":"http://hl7.org/fhir/SearchParameter/clinical-code","expression":"code"}]`))
	r := resource(t, d, `{"resourceType":"Observation","status":"final","code":{"coding":[{"code":"z"}]},"component":[{"code":{"coding":[{"code":"a"}]},"dataAbsentReason":{"coding":[{"code":"x"}]}},{"code":{"coding":[{"code":"b"}]}}]}`)
	for q, want := range map[string]bool{"bp=a$x": true, "bp=b$x": false, "site-code=final$a": true, "site-code=final$z": true, "site-code=amended$a": false} {
		if compiled(t, d, "Observation?"+q).Match(r) != want {
			t.Errorf("%s = %v", q, !want)
		}
	}
}

// The first of all nodes was once followed by the others: reading a node forgot that it was enough.
func TestACompositeOfTheFirstNodeReadsNoOther(t *testing.T) {
	d := with(t, R4(), parameter("range", "Observation", "string", "Observation.component.referenceRange.text", ""),
		parameter("first", "Observation", "composite", "Observation.component.referenceRange.first()",
			`,"component":[{"definition":"http://example.org/sp/range","expression":"text"},{"definition":"http://example.org/sp/range","expression":"text"}]`))
	r := resource(t, d, `{"resourceType":"Observation","component":[{"referenceRange":[{"text":"a"},{"text":"b"}]},{"referenceRange":[{"text":"c"}]}]}`)
	for q, want := range map[string]bool{"first=a$a": true, "first=b$b": false, "first=c$c": false} {
		if compiled(t, d, "Observation?"+q).Match(r) != want {
			t.Errorf("%s = %v", q, !want)
		}
	}
}

// What a custom parameter matches is found by an index, of whichever type the value is.
func TestCustomParametersReadEveryTypeOfAnExtension(t *testing.T) {
	d := with(t, R4(), parameter("u", "Patient", "uri", "Patient.extension('x').value", ""), parameter("s", "Patient", "string", "Patient.extension('x').value", ""),
		parameter("double", "Patient", "quantity", "Patient.extension('x').value.ofType(Quantity) * 2", ""))
	for _, c := range []struct{ value, yes, no string }{
		{`"valueUri":"http://x|y"`, "u=http://x|y", "u=http://x"}, // not versioned: compared whole
		{`"valueUri":"http://x|"`, "u=http://x|", "u=http://x"},
		{`"valueCanonical":"http://x|y"`, "u=http://x|y", "u=http://x|z"},
		{`"valueCanonical":"http://x|y"`, "u=http://x", "u=http://y"},
		{`"valueIdentifier":{"system":"s","value":"Abc"}`, "s=ab", "s=s"},
		{`"valueIdentifier":{"system":"s","value":"Abc"}`, "s:text=abc", "s:exact=abc"},
		{`"valueQuantity":{"value":1,"system":"http://unitsofmeasure.org","code":"g"}`, "double=2000|http://unitsofmeasure.org|mg", "double=2|http://unitsofmeasure.org|mg"},
	} {
		r := resource(t, d, `{"resourceType":"Patient","extension":[{"url":"x",`+c.value+`}]}`)
		for want, q := range map[bool]string{true: c.yes, false: c.no} {
			x := compiled(t, d, "Patient?"+q)
			if x.Match(r) != want {
				t.Errorf("%s: %s = %v", c.value, q, !want)
			}
			agrees(t, x, r)
		}
	}
}

// Whatever would make criteria mean something else than the parameter's author meant is
// refused, and the element is named.
func TestCustomParametersAreRefusedByElement(t *testing.T) {
	const no, bad, need = fhir.IssueNotSupported, fhir.IssueValue, fhir.IssueRequired
	plain := func(elements string) string { return parameter("x", "Patient", "token", "Patient.active", elements) }
	for _, c := range []struct {
		body    string
		typ     fhir.IssueType
		element string
		text    string
	}{
		{`{`, fhir.IssueStructure, "SearchParameter", "cannot be read"},
		{`{"resourceType":"SearchParameter","base":"Patient"}`, fhir.IssueStructure, "SearchParameter", "cannot be read"},
		{`{"resourceType":"Patient"}`, fhir.IssueStructure, "", "no SearchParameter"},
		{strings.Replace(plain(""), "active", "unknown", 1), bad, "SearchParameter.status", "draft or active"},
		{`{"resourceType":"SearchParameter"}`, bad, "SearchParameter.status", "draft or active"},
		{parameter("", "Patient", "token", "Patient.active", ""), bad, "SearchParameter.code", "must begin with a letter"},
		{parameter("a.b", "Patient", "token", "Patient.active", ""), bad, "SearchParameter.code", "must begin with a letter"},
		{parameter("_tag", "Patient", "token", "Patient.active", ""), bad, "SearchParameter.code", "the specification's own"},
		{parameter("_filter", "Patient", "token", "Patient.active", ""), bad, "SearchParameter.code", "the specification's own"},
		{parameter("x", "Patiant", "token", "Patient.active", ""), bad, "SearchParameter.base", "did you mean Patient?"},
		{parameter("x", "HumanName", "token", "HumanName.use", ""), bad, "SearchParameter.base", "not a resource type"},
		{strings.Replace(plain(""), `"base":["Patient"],`, "", 1), need, "SearchParameter.base", "must name"},
		{parameter("x", "Patient", "", "Patient.active", ""), need, "SearchParameter.type", "must have a type"},
		{parameter("x", "Patient", "resource", "Patient.active", ""), bad, "SearchParameter.type", `"resource" is not`},
		{parameter("x", "Patient", "special", "Patient.active", ""), no, "SearchParameter.type", "special"},
		{parameter("x", "Patient", "token", "", ""), need, "SearchParameter.expression", "must have an expression"},
		{parameter("x", "Patient", "token", "", `,"xpath":"f:Patient"`), need, "SearchParameter.expression", "XPath"},
		{parameter("x", "Patient", "token", "Patient.nope", ""), bad, "SearchParameter.expression", "Patient has no element nope"},
		{parameter("x", "Patient", "token", "Patient.name", ""), bad, "SearchParameter.expression", "a token parameter cannot read HumanName"},
		{parameter("x", "Patient", "date", "Patient.active", ""), bad, "SearchParameter.expression", "a date parameter cannot read boolean"},
		{parameter("x", "Patient", "date", "Patient.deceased.as(boolean)", ""), bad, "SearchParameter.expression", "a date parameter cannot read boolean"},
		{parameter("x", "Patient", "date", "Patient.deceased.as(Period)", ""), bad, "SearchParameter.expression", "cannot be Period"},
		{parameter("x", "Patient", "token", "Person.active", ""), bad, "SearchParameter.expression", "reads nothing of Patient"},
		{parameter("x", "Patient,Person", "token", "Person.active", ""), bad, "SearchParameter.expression", "reads nothing of Patient"},
		{parameter("x", "Resource", "token", "Patient.nope", ""), bad, "SearchParameter.expression", "no element nope"},
		{parameter("x", "Patient", "token", "DeviceUsage.id", ""), bad, "SearchParameter.expression", "DeviceUsage is not a type of FHIR R4"},
		{parameter("x", "Patient", "token", "Patient.active"+strings.Repeat(" ", maxExpression), ""), fhir.IssueTooLong, "SearchParameter.expression", "longer"},
		{plain(`,"xpathUsage":"phonetic"`), no, "SearchParameter.processingMode", "phonetic"},
		{plain(`,"processingMode":"other"`), no, "SearchParameter.processingMode", "other"},
		{plain(`,"constraint":"true"`), no, "SearchParameter.constraint", "constraint"},
		{plain(`,"modifierExtension":[{"url":"http://x"}]`), no, "SearchParameter.modifierExtension", "changes what"},
		{plain(`,"target":["Nope"]`), bad, "SearchParameter.target", "Nope"},
		{plain(`,"modifier":["nope"]`), bad, "SearchParameter.modifier", "nope"},
		{plain(`,"comparator":["xx"]`), bad, "SearchParameter.comparator", "xx"},
		{plain(`,"component":[{"definition":"http://x","expression":"y"}]`), bad, "SearchParameter.component", "only a composite"},
		{parameter("x", "Observation", "composite", "Observation.component", ""), bad, "SearchParameter.component", "2 to 8"},
		{parameter("x", "Observation", "composite", "Observation.component", `,"component":[{"definition":"http://x","expression":"code"},{"definition":"http://y","expression":"code"}]`),
			fhir.IssueNotFound, "SearchParameter.component[0].definition", `"http://x" is not known`},
		{parameter("x", "Observation", "composite", "Observation.component", `,"component":[{"definition":"http://hl7.org/fhir/SearchParameter/clinical-code","expression":"nope"},{"definition":"http://y","expression":"code"}]`),
			bad, "SearchParameter.component[0].expression", "Observation.component has no element nope"},
		{parameter("x", "Observation", "composite", "Observation.component", `,"component":[{"definition":"http://hl7.org/fhir/SearchParameter/clinical-code"},{"definition":"http://y","expression":"code"}]`),
			need, "SearchParameter.component[0].expression", "must have an expression"},
		{parameter("x", "Observation", "composite", "Observation.component", `,"component":[{"definition":"http://hl7.org/fhir/SearchParameter/Observation-value-quantity","expression":"code"},{"definition":"http://y","expression":"code"}]`),
			bad, "SearchParameter.component[0].expression", "cannot read CodeableConcept"},
		{parameter("x", "Observation", "composite", "Observation.component.repeat(code)", `,"component":[{"definition":"http://x","expression":"code"},{"definition":"http://y","expression":"code"}]`),
			no, "SearchParameter.expression", "must be told by a path"},
	} {
		d, errs := R4().WithParameters([]byte(c.body), []byte(parameter("fine", "Patient", "token", "Patient.active", "")))
		if errs[1] != nil {
			t.Errorf("%.80s takes another parameter with it: %v", c.body, errs[1])
		}
		if _, err := d.Compile("Patient?fine=true"); err != nil {
			t.Error(err)
		}
		e := fhir.AsError(errs[0])
		if e == nil || len(e.Issues) != 1 {
			t.Errorf("%.200s: %v", c.body, errs[0])
			continue
		}
		if i := e.Issues[0]; i.Type != c.typ || i.Expression != c.element || !strings.Contains(i.Diagnostics, c.text) {
			t.Errorf("%.200s: %+v", c.body, i)
		}
		if _, err := d.Compile("Patient?x=1"); err == nil {
			t.Errorf("%.80s is used all the same", c.body)
		}
	}
}

// What a SearchParameter says of its own use is kept to.
func TestTheLimitsOfAParameterAreKept(t *testing.T) {
	d := with(t, R4().WithRepository(),
		parameter("tok", "Patient", "token", "Patient.active", `,"modifier":["missing"],"multipleOr":false,"multipleAnd":false`),
		parameter("born", "Patient", "date", "Patient.birthDate", `,"comparator":["eq","ge","lt"]`),
		parameter("org", "Patient", "reference", "Patient.managingOrganization", `,"modifier":["type"],"target":["Organization"],"chain":["name"]`))
	for q, text := range map[string]string{
		"tok=true": "", "tok:missing=true": "", "tok:not=true": "does not allow the modifier", "tok=true,false": "a single value",
		"tok=true&tok=false": "does not allow it to be repeated", "born=2020": "", "born=ge2020&born=lt2021": "", "born=eq2020,ge2021": "",
		"born=gt2020": "does not allow the prefix gt", "born=ge2020,ap2020": "does not allow the prefix ap", "born:missing=true": "",
		"org:Organization.name=a": "", "org.name=a": "", "org.address=a": "does not allow a chain to", "_filter=born gt 2020": "does not allow the prefix gt", "_filter=born ge 2020": "",
		"org:Organization=1": "", "org:identifier=1": "does not allow the modifier", "org=1": "", "org=1,2&org=3": "",
	} {
		_, err := d.Compile("Patient?" + q)
		if (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", q, err, text)
		}
	}
	p := d.types["Patient"].params["org"]
	if !p.allowsChain("name") || p.allowsChain("address") || !d.types["Patient"].params["name"].allowsChain("address") {
		t.Error("chains that the definition allows")
	}
}

func TestRetiredAndBuiltInParametersDefineNothing(t *testing.T) {
	retired := strings.Replace(parameter("gender", "Patient", "token", "Patient.maritalStatus", ""), `"active"`, `"retired"`, 1)
	official := strings.Replace(parameter("gender", "Patient,Person", "token", "Patient.maritalStatus", ""), "http://example.org/sp/gender", officialURL+"individual-gender", 1)
	tag := strings.Replace(parameter("_tag", "Resource", "token", "Resource.meta.tag", ""), "http://example.org/sp/_tag", officialURL+"Resource-tag", 1)
	d := with(t, R4(), retired, official, tag)
	if !compiled(t, d, "Patient?gender=male").Match(resource(t, d, `{"resourceType":"Patient","gender":"male"}`)) {
		t.Error("gender has another meaning")
	}
	// The later of two counts, and a call replaces what an earlier one gave.
	d = with(t, d, parameter("x", "Patient", "token", "Patient.active", ""), parameter("x", "Patient", "token", "Patient.gender", ""))
	if !compiled(t, d, "Patient?x=male").Match(resource(t, d, `{"resourceType":"Patient","gender":"male"}`)) {
		t.Error("the earlier of two counts")
	}
	if _, err := with(t, d).Compile("Patient?x=male"); err == nil {
		t.Error("a parameter is left that nobody defines")
	}
}

// Definitions may change while criteria and resources of another age are in use: what they mean
// stays.
func TestAgesOfOneLineageMeet(t *testing.T) {
	old := R4()
	first := with(t, old, parameter("x", "Patient", "token", "Patient.active", ""), parameter("gender", "Patient", "token", "Patient.active", ""))
	second := with(t, first, parameter("x", "Patient", "token", "Patient.gender", ""))
	third := with(t, second, parameter("y", "Patient", "token", "Patient.gender", ""), parameter("x", "Patient", "token", "Patient.active", ""))
	criteria := map[*Criteria]bool{
		compiled(t, old, "Patient?gender=male"):    true,
		compiled(t, first, "Patient?gender=false"): false,
		compiled(t, first, "Patient?gender=true"):  true,
		compiled(t, first, "Patient?x=true"):       true,
		compiled(t, first, "Patient?x=false"):      false,
		compiled(t, second, "Patient?x=male"):      true,
		compiled(t, second, "Patient?x=true"):      false,
		compiled(t, second, "Patient?gender=male"): true,
		compiled(t, third, "Patient?x=true"):       true,
		compiled(t, third, "Patient?y=male"):       true,
	}
	for i, d := range []*Definitions{old, first, second, third} {
		r := resource(t, d, `{"resourceType":"Patient","active":true,"gender":"male"}`)
		for range 2 {
			for c, want := range criteria {
				if c.Match(r) != want {
					t.Errorf("age %d: %s = %v", i, c, !want)
				}
				if want && !findable(c, r) {
					t.Errorf("age %d: %s would not be found", i, c)
				}
			}
			r.Reset(r.Tree(), Envelope{})
		}
	}
	x := compiled(t, first, "Patient?x=true&name=a")
	for i, want := range map[*Definitions]bool{old: false, first: true, second: false, third: true} {
		if x.Current(i) != want {
			t.Errorf("current is %v", !want)
		}
	}
	if !compiled(t, old, "Patient?name=a&active=true").Current(third) || !compiled(t, old, "[*]").Current(third) || compiled(t, R4B(), "Patient?name=a").Current(old) {
		t.Error("criteria that use nothing changed are current")
	}
	// Through filters, chains and _has as well.
	linked := with(t, old.WithRepository(), parameter("x", "Patient", "token", "Patient.active", ""))
	changed := with(t, linked, parameter("x", "Patient", "token", "Patient.gender", ""))
	for _, q := range []string{"Patient?x=true", "Patient?_filter=x eq true or name eq a", "Observation?subject:Patient.x=true",
		"Group?_has:Observation:subject:patient.x=true", "Observation?_filter=subject.x eq true"} {
		a, b := compiled(t, linked, q), compiled(t, changed, q)
		if a.Identity() == b.Identity() || a.Canonical() != b.Canonical() || !a.Current(linked) || a.Current(changed) || !b.Current(changed) {
			t.Errorf("%s: %q and %q, current %v %v", q, a.Identity(), b.Identity(), a.Current(linked), a.Current(changed))
		}
	}
	// A chain leads to a type that has got the parameter since, and so means something else now. One
	// that names its type does not.
	more := with(t, linked, parameter("x", "Patient", "token", "Patient.active", ""), parameter("birthdate", "Group", "date", "Group.extension('b').value.as(date)", ""),
		parameter("near", "Location", "token", "Location.name", ""))
	for q, current := range map[string]bool{"Observation?subject.birthdate=2020": false, "Observation?_filter=subject.birthdate eq 2020": false, "Encounter?_has:Observation:encounter:subject.birthdate=2020": false,
		"Observation?subject:Patient.birthdate=2020": true, "Observation?subject.name=a": true, "Observation?subject.x=true": true, "Location?near=1|2": false} {
		if got := compiled(t, linked, q).Current(more); got != current {
			t.Errorf("%s: current is %v", q, got)
		}
		if x, err := more.Compile(q); err == nil && (!x.Current(more) || !current == (x.Identity() == compiled(t, linked, q).Identity())) {
			t.Errorf("%s: compiled again it is current: %v", q, x.Current(more))
		}
	}
	if n := with(t, third, parameter("x", "Patient", "token", "Patient.active", "")).types["Patient"].params["x"]; n != first.types["Patient"].params["x"] {
		t.Error("one meaning has two places")
	}
}

// One writer defines parameters while others compile and match.
func TestParametersAreDefinedWhileOthersMatch(t *testing.T) {
	var current sync.Map
	current.Store("d", R4())
	var workers sync.WaitGroup
	body := `{"resourceType":"Patient","active":true,"gender":"male"}`
	tree, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		workers.Go(func() {
			r := NewResource(R4(), tree)
			for range 200 {
				v, _ := current.Load("d")
				d := v.(*Definitions)
				r.Reset(tree, Envelope{})
				if c, err := d.Compile("Patient?x=true,male"); err == nil {
					if !c.Match(r) || !findable(c, r) {
						t.Error("not met")
					}
				}
			}
		})
	}
	for i := range 50 {
		expr := []string{"Patient.active", "Patient.gender"}[i%2]
		d, errs := R4().WithParameters([]byte(parameter("x", "Patient", "token", expr, fmt.Sprintf(`,"multipleAnd":%v`, i%3 == 0))))
		if errs[0] != nil {
			t.Fatal(errs[0])
		}
		current.Store("d", d)
	}
	workers.Wait()
}

// Each base is compiled for its types once. With every repetition this test would take minutes.
func TestABaseThatIsRepeatedCountsOnce(t *testing.T) {
	d := with(t, R4(), parameter("x", strings.Repeat("Resource,DomainResource,", 10_000)+"Patient", "token", "Resource.language", ""))
	for _, typ := range []string{"Patient", "Bundle"} {
		if !compiled(t, d, typ+"?x=de").Match(resource(t, d, `{"resourceType":"`+typ+`","language":"de"}`)) {
			t.Errorf("%s is not met", typ)
		}
	}
}

func TestCustomParametersOfR5Interfaces(t *testing.T) {
	d := with(t, R5(), parameter("label", "CanonicalResource", "string", "CanonicalResource.title", ""))
	if !compiled(t, d, "ValueSet?label=a").Match(resource(t, d, `{"resourceType":"ValueSet","title":"Abc"}`)) {
		t.Error("not met")
	}
	if _, err := d.Compile("Patient?label=a"); err == nil {
		t.Error("a Patient has no such parameter")
	}
}
