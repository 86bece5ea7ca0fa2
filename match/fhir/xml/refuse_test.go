package xml

import (
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// inPatient puts content into a Patient.
func inPatient(content string) string {
	return `<Patient xmlns="http://hl7.org/fhir">` + content + `</Patient>`
}

func TestWhatIsNotFHIRsXMLIsRefusedWithItsPlace(t *testing.T) {
	const structure, value = fhir.IssueStructure, fhir.IssueValue
	for _, c := range []struct {
		name, doc string
		issue     fhir.IssueType
		at, says  string
	}{
		{"nothing", "", structure, "", "there is no element"},
		{"white space alone", " \n", structure, "", "no element at line 2 column 1"},
		{"JSON", `{"resourceType":"Patient"}`, structure, "", "text outside of the document element at line 1 column 1"},
		{"a document type", `<!DOCTYPE Patient><Patient xmlns="http://hl7.org/fhir"/>`, structure, "", "document types and entities are not accepted"},
		{"an external entity", `<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/passwd">]>` + inPatient(`<language value="&x;"/>`), structure, "", "document types"},
		{"the billion laughs", `<!DOCTYPE p [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>` + inPatient(`<language value="&b;"/>`), structure, "", "document types"},
		{"an entity that nobody declared", inPatient(`<language value="&nbsp;"/>`), structure, "", "reference to something other"},
		{"an entity of HTML in a narrative", inPatient(`<text><div xmlns="http://www.w3.org/1999/xhtml">&nbsp;</div></text>`), structure, "", "reference to something other"},
		{"a reference to no character", inPatient(`<language value="&#0;"/>`), structure, "", "reference"},
		{"a reference to half a surrogate pair", inPatient(`<language value="&#xD800;"/>`), structure, "", "reference"},
		{"an ampersand", inPatient(`<language value="a & b"/>`), structure, "", "reference"},
		{"a raw control character", inPatient("<language value=\"a\x01\"/>"), structure, "", "a character that XML does not allow"},
		{"broken UTF-8", inPatient("<language value=\"a\xff\"/>"), structure, "", "not valid UTF-8"},
		{"UTF-16", "\xff\xfe<\x00P\x00", structure, "", "not valid UTF-8"},
		{"another encoding", `<?xml version="1.0" encoding="ISO-8859-1"?>` + inPatient(""), structure, "", "encoding UTF-8"},
		{"XML 1.1", `<?xml version="1.1"?>` + inPatient(""), structure, "", "version 1.0"},
		{"a declaration in the middle", inPatient(`<?xml version="1.0"?>`), structure, "", "not at the beginning"},
		{"an open element", `<Patient xmlns="http://hl7.org/fhir"><name>`, structure, "", "unexpected end"},
		{"an open tag", `<Patient xmlns="http://hl7.org/fhir"`, structure, "", "> is expected"},
		{"a wrong end tag", `<Patient xmlns="http://hl7.org/fhir"></patient>`, structure, "", "end tag of another element"},
		{"an end tag alone", `</Patient>`, structure, "", "end tag without"},
		{"two documents", inPatient("") + inPatient(""), structure, "", "more than one document element"},
		{"text after the end", inPatient("") + "x", structure, "", "text outside"},
		{"an attribute twice", inPatient(`<language value="a" value="b"/>`), structure, "", "given twice"},
		{"an attribute without quotes", inPatient(`<language value=a/>`), structure, "", "in quotes"},
		{"< in a value", inPatient(`<language value="<"/>`), structure, "", "< in a value"},
		{"attributes without a space", inPatient(`<birthDate id="a"value="2020"/>`), structure, "", "white space"},
		{"an open comment", inPatient(`<!-- x`), structure, "", "comment is not closed"},
		{"-- in a comment", inPatient(`<!-- a -- b -->`), structure, "", "comment holds"},
		{"a CDATA section", inPatient(`<![CDATA[x]]>`), structure, "", "text between elements"},
		{"a prefix that is not declared", `<f:Patient/>`, structure, "", "prefix that is not declared"},
		{"no namespace", `<Patient><active value="true"/></Patient>`, structure, "", "namespace http://hl7.org/fhir"},
		{"another namespace", `<Patient xmlns="http://hl7.org/fhir/"/>`, structure, "", "namespace"},
		{"no resource type", `<Person2 xmlns="http://hl7.org/fhir"/>`, structure, "", "no resource type of FHIR R4"},
		{"an abstract type", `<DomainResource xmlns="http://hl7.org/fhir"/>`, structure, "", "DomainResource is no resource type"},
		{"a data type", `<HumanName xmlns="http://hl7.org/fhir"/>`, structure, "", "no resource type"},
		{"text", inPatient("\n<active>true</active>"), structure, "", "text between elements: FHIR has values in the attribute value at line 2 column 9"},
		{"an unknown element", inPatient("<name>\n <nmae value=\"x\"/></name>"), structure, "Patient.name[0]", "the element nmae is not one that FHIR R4 has here at line 2 column 2"},
		{"an unknown attribute", inPatient(`<active vlaue="true"/>`), structure, "Patient.active", "the attribute vlaue is not one"},
		{"a value on what has none", inPatient(`<name value="x"/>`), structure, "Patient.name[0]", "the attribute value"},
		{"an id of a resource as an attribute", `<Patient xmlns="http://hl7.org/fhir" id="x"/>`, structure, "Patient", "the attribute id"},
		{"an id of an element as an element", inPatient(`<name><id value="x"/></name>`), structure, "Patient.name[0]", "the element id"},
		{"a url as an element", inPatient(`<extension><url value="x"/></extension>`), structure, "Patient.extension[0]", "the element url"},
		{"an element of another namespace", inPatient(`<x:active xmlns:x="urn:x" value="true"/>`), structure, "Patient", "not in the namespace"},
		{"an attribute of another namespace", inPatient(`<active x:y="" xmlns:x="urn:x" value="true"/>`), structure, "", "of another namespace"},
		{"xsi:type", inPatient(`<active xsi:type="x" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" value="true"/>`), structure, "", "of another namespace"},
		{"xml:lang", inPatient(`<active xml:lang="x" value="true"/>`), structure, "", "of another namespace"},
		{"an element that does not repeat, twice", inPatient(`<active value="true"/><active value="false"/>`), structure, "Patient.active", "given again at line 1 column 60"},
		{"a primitive with nothing", inPatient(`<name><given/></name>`), structure, "Patient.name[0].given[0]", "without value"},
		{"a boolean", inPatient(`<active value="1"/>`), value, "Patient.active", "true or false"},
		{"an integer", inPatient(`<multipleBirthInteger value="1.0"/>`), value, "Patient.multipleBirthInteger", "an integer"},
		{"a decimal", `<Observation xmlns="http://hl7.org/fhir"><valueQuantity><value value=".5"/></valueQuantity></Observation>`, value, "Observation.valueQuantity.value", "a decimal"},
		{"an element that holds no resource", inPatient(`<contained/>`), structure, "Patient.contained[0]", "is empty"},
		{"an element that holds two resources", inPatient(`<contained><Patient/><Patient/></contained>`), structure, "Patient.contained[0]", "has another"},
		{"a narrative elsewhere", inPatient(`<name><div xmlns="http://www.w3.org/1999/xhtml"/></name>`), structure, "Patient.name[0]", "XHTML"},
		{"a narrative in no namespace", inPatient(`<text><div/></text>`), structure, "Patient.text", "http://www.w3.org/1999/xhtml"},
		{"a narrative that is none", inPatient(`<text><p xmlns="http://www.w3.org/1999/xhtml"/></text>`), structure, "Patient.text", "not in the namespace"},
		{"FHIR in a narrative", `<f:Patient xmlns:f="http://hl7.org/fhir"><f:text><div xmlns="http://www.w3.org/1999/xhtml"><f:active/></div></f:text></f:Patient>`, structure, "", "not XHTML"},
		{"a narrative that ends too soon", inPatient(`<text><div xmlns="http://www.w3.org/1999/xhtml"></text>`), structure, "", "another element"},
		{"too deep", inPatient(strings.Repeat(`<contained><Patient>`, maxDepth)), structure, "", "nested too deeply"},
		{"a narrative too deep", inPatient(`<text><div xmlns="http://www.w3.org/1999/xhtml">` + strings.Repeat("<p>", maxDepth)), structure, "", "nested too deeply"},
		{"too many attributes", inPatient(`<active ` + manyAttributes(maxAttributes+1) + `/>`), structure, "", "more than 64 attributes"},
		{"too many namespaces", strings.Repeat(`<a xmlns:a="urn:a" xmlns:b="urn:b">`, maxNamespaces), structure, "", "more than 64 namespaces"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Unmarshal(fhir.R4, []byte(c.doc))
			fe := fhir.AsError(err)
			if fe == nil || len(fe.Issues) != 1 {
				t.Fatalf("accepted, or no *fhir.Error: %v", err)
			}
			is := fe.Issues[0]
			if is.Type != c.issue || is.Expression != c.at || !strings.Contains(is.Diagnostics, c.says) {
				t.Errorf("got %s at %q: %s; want %s at %q: … %s …", is.Type, is.Expression, is.Diagnostics, c.issue, c.at, c.says)
			}
		})
	}
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("a" + itoa(i) + `="" `)
	}
	return b.String()
}

func TestJSONThatXMLHasNoPlaceForIsRefused(t *testing.T) {
	patient := func(members string) string { return `{"resourceType":"Patient",` + members + `}` }
	for _, c := range []struct{ name, doc, at, says string }{
		{"no JSON", `{`, "", "not strict JSON"},
		{"no resource", `{}`, "", "no resource type"},
		{"a type of another version", `{"resourceType":"SubscriptionTopic"}`, "", "no resource type of FHIR R4"},
		{"an unknown member", patient(`"name":[{"secret":1}]`), "Patient.name[0]", "a member that FHIR R4 does not have"},
		{"comments of DSTU2", patient(`"fhir_comments":["x"]`), "Patient", "does not have"},
		{"a sibling of what is no primitive", patient(`"_name":[{"id":"x"}]`), "Patient", "does not have"},
		{"a sibling of an id of an element", patient(`"name":[{"_id":{"id":"x"}}]`), "Patient.name[0]", "does not have"},
		{"an object for an array", patient(`"name":{"family":"x"}`), "Patient.name", "is an array"},
		{"an array for an object", patient(`"maritalStatus":[{"text":"x"}]`), "Patient.maritalStatus", "is no array"},
		{"a string for an object", patient(`"maritalStatus":"x"`), "Patient.maritalStatus", "is an object"},
		{"a string for a boolean", patient(`"active":"true"`), "Patient.active", "true or false"},
		{"a number for a string", patient(`"birthDate":2020`), "Patient.birthDate", "a string"},
		{"a string for a number", `{"resourceType":"Observation","valueQuantity":{"value":"1"}}`, "Observation.valueQuantity.value", "a number"},
		{"a fraction for an integer", patient(`"multipleBirthInteger":1.5`), "Patient.multipleBirthInteger", "an integer"},
		{"null in an array of objects", patient(`"name":[null]`), "Patient.name[0]", "is an object"},
		{"null on both sides", patient(`"name":[{"given":["a",null]}]`), "Patient.name[0].given[1]", "neither value nor extension"},
		{"a sibling that says nothing", patient(`"_active":{"extension":[]}`), "Patient.active", "neither value nor extension"},
		{"extensions that are no object", patient(`"active":true,"_active":[{}]`), "Patient.active", "no array"},
		{"a control character", patient(`"language":"a\u0001"`), "Patient.language", "a character that XML does not allow"},
		{"a code point that is none", patient(`"language":"a\uffff"`), "Patient.language", "a character that XML does not allow"},
		{"a contained that is no resource", patient(`"contained":[{"id":"x"}]`), "Patient.contained[0]", "no resource type"},
		{"a narrative that is no XML", patient(`"text":{"div":"<div>a<br></div>"}`), "Patient.text.div", "the narrative: not well-formed XML"},
		{"a narrative without an element", patient(`"text":{"div":"text"}`), "Patient.text.div", "text outside"},
		{"an empty narrative", patient(`"text":{"div":""}`), "Patient.text.div", "there is no element"},
		{"a narrative that breaks out", patient(`"text":{"div":"<div/><active value='true'/>"}`), "Patient.text.div", "more than one element"},
		{"a narrative that closes what is around it", patient(`"text":{"div":"<div></div></text><active/><text>"}`), "Patient.text.div", "end tag without"},
		{"a narrative with an entity", patient(`"text":{"div":"<!DOCTYPE div [<!ENTITY a 'b'>]><div>&a;</div>"}`), "Patient.text.div", "document types"},
		{"a narrative in FHIR's namespace", patient(`"text":{"div":"<div xmlns='http://hl7.org/fhir'/>"}`), "Patient.text.div", "is a div of XHTML"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Marshal(fhir.R4, []byte(c.doc))
			fe := fhir.AsError(err)
			if fe == nil || len(fe.Issues) != 1 {
				t.Fatalf("accepted, or no *fhir.Error: %v", err)
			}
			if is := fe.Issues[0]; is.Expression != c.at || !strings.Contains(is.Diagnostics, c.says) || strings.Contains(is.Diagnostics, "secret") {
				t.Errorf("got %q: %s; want %q: … %s …", is.Expression, is.Diagnostics, c.at, c.says)
			}
		})
	}
}

func TestXMLThatGrowsBeyondMeasureIsRefused(t *testing.T) {
	doc := `{"resourceType":"Procedure","instantiatesCanonical":[` + strings.Repeat(`"",`, 100_000) + `""]}`
	_, err := Marshal(fhir.R4, []byte(doc))
	if fe := fhir.AsError(err); fe == nil || fe.Issues[0].Type != fhir.IssueTooLong {
		t.Errorf("got %v, want too-long", err)
	}
}
