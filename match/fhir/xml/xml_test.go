package xml

import (
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// A case holds both representations of a resource. XML and JSON say what the other is made into.
func TestBothRepresentationsOfAResource(t *testing.T) {
	const ns, xhtml = ` xmlns="http://hl7.org/fhir"`, ` xmlns="http://www.w3.org/1999/xhtml"`
	for _, c := range []struct{ name, json, xml string }{
		{"nothing but a type", `{"resourceType":"Patient"}`, `<Patient` + ns + `/>`},
		{"an empty object", `{"resourceType":"Patient","name":[{}]}`, `<Patient` + ns + `><name/></Patient>`},
		{"the id of a resource is an element, with extensions if need be",
			`{"resourceType":"Patient","id":"p","_id":{"extension":[{"url":"u","valueBoolean":true}]}}`,
			`<Patient` + ns + `><id value="p"><extension url="u"><valueBoolean value="true"/></extension></id></Patient>`},
		{"ids of elements and urls of extensions are attributes",
			`{"resourceType":"Patient","extension":[{"id":"x","url":"u","valueString":"s"}],"name":[{"id":"n","family":"F"}]}`,
			`<Patient` + ns + `><extension id="x" url="u"><valueString value="s"/></extension><name id="n"><family value="F"/></name></Patient>`},
		{"a primitive with value, id and extension",
			`{"resourceType":"Patient","birthDate":"1970-03-30","_birthDate":{"id":"314159","extension":[{"url":"u","valueString":"Easter 1970"}]}}`,
			`<Patient` + ns + `><birthDate id="314159" value="1970-03-30"><extension url="u"><valueString value="Easter 1970"/></extension></birthDate></Patient>`},
		{"a primitive with an extension alone",
			`{"resourceType":"Patient","_active":{"extension":[{"url":"u","valueCode":"unknown"}]}}`,
			`<Patient` + ns + `><active><extension url="u"><valueCode value="unknown"/></extension></active></Patient>`},
		{"repeating primitives, some with extensions and some without value",
			`{"resourceType":"Patient","name":[{"given":["au",null,"nz"],"_given":[null,{"id":"b"},{"id":"c"}]}]}`,
			`<Patient` + ns + `><name><given value="au"/><given id="b"/><given id="c" value="nz"/></name></Patient>`},
		{"repeating primitives of which none has a value",
			`{"resourceType":"Patient","name":[{"_given":[{"id":"a"},{"id":"b"}]}]}`,
			`<Patient` + ns + `><name><given id="a"/><given id="b"/></name></Patient>`},
		{"one value of what repeats is an array", `{"resourceType":"Patient","name":[{"given":["a"]}]}`, `<Patient` + ns + `><name><given value="a"/></name></Patient>`},
		{"decimals keep their digits, numbers and booleans their type",
			`{"resourceType":"Observation","valueQuantity":{"value":1.00},"component":[{"valueInteger":-3},{"valueBoolean":false},{"valueQuantity":{"value":1e3}},{"valueQuantity":{"value":0.10E-22}}]}`,
			`<Observation` + ns + `><valueQuantity><value value="1.00"/></valueQuantity><component><valueInteger value="-3"/></component><component><valueBoolean value="false"/></component>` +
				`<component><valueQuantity><value value="1e3"/></valueQuantity></component><component><valueQuantity><value value="0.10E-22"/></valueQuantity></component></Observation>`},
		{"contained resources",
			`{"resourceType":"Observation","contained":[{"resourceType":"Patient","id":"p"},{"resourceType":"Device"}]}`,
			`<Observation` + ns + `><contained><Patient><id value="p"/></Patient></contained><contained><Device/></contained></Observation>`},
		{"a Bundle", `{"resourceType":"Bundle","type":"collection","entry":[{"link":[{"relation":"self","url":"u"}],"resource":{"resourceType":"Patient","active":true}}]}`,
			`<Bundle` + ns + `><type value="collection"/><entry><link><relation value="self"/><url value="u"/></link><resource><Patient><active value="true"/></Patient></resource></entry></Bundle>`},
		{"Parameters with a resource", `{"resourceType":"Parameters","parameter":[{"name":"a","resource":{"resourceType":"Basic"}},{"name":"b","part":[{"name":"c","valueInteger":1}]}]}`,
			`<Parameters` + ns + `><parameter><name value="a"/><resource><Basic/></resource></parameter><parameter><name value="b"/><part><name value="c"/><valueInteger value="1"/></part></parameter></Parameters>`},
		{"what XML and JSON escape", `{"resourceType":"Patient","language":"<a href=\"x\">&amp;'\t\r\n\\ é 💉 \u007f"}`,
			`<Patient` + ns + `><language value="&lt;a href=&quot;x&quot;&gt;&amp;amp;'&#x9;&#xD;&#xA;\ é 💉 ` + "\x7f" + `"/></Patient>`},
		{"a narrative keeps every byte",
			`{"resourceType":"Patient","text":{"status":"generated","div":"<div` + jsonText(xhtml) + ` id='a'>\r\n <!-- c --><p class=\"x\">a &lt; b &#160; &amp;<br/><![CDATA[<x>]]></p> </div>"}}`,
			`<Patient` + ns + `><text><status value="generated"/><div` + xhtml + " id='a'>\r\n" + ` <!-- c --><p class="x">a &lt; b &#160; &amp;<br/><![CDATA[<x>]]></p> </div></text></Patient>`},
		{"a narrative with a prefix of its own",
			`{"resourceType":"Patient","text":{"div":"<h:div xmlns:h='http://www.w3.org/1999/xhtml'><h:p/><svg xmlns='http://www.w3.org/2000/svg'/></h:div>"}}`,
			`<Patient` + ns + `><text><h:div xmlns:h='http://www.w3.org/1999/xhtml'><h:p/><svg xmlns='http://www.w3.org/2000/svg'/></h:div></text></Patient>`},
	} {
		t.Run(c.name, func(t *testing.T) {
			xml, err := Marshal(fhir.R4, []byte(c.json))
			if err != nil || string(xml) != c.xml {
				t.Errorf("to XML: %v\n%s, want\n%s", err, xml, c.xml)
			}
			json, err := Unmarshal(fhir.R4, []byte(c.xml))
			if err != nil || difference(meaning(t, json), meaning(t, []byte(c.json))) != "" {
				t.Errorf("to JSON: %v\n%s, want\n%s", err, json, c.json)
			}
		})
	}
}

func jsonText(s string) string {
	text := string(appendString(nil, []byte(s)))
	return text[1 : len(text)-1]
}

func TestXMLIsReadInOtherFormsToo(t *testing.T) {
	for _, c := range []struct{ name, xml, json string }{
		{"declaration, comments and instructions", "\xEF\xBB\xBF<?xml version=\"1.0\" encoding='utf-8' standalone=\"yes\" ?>\n<!-- a --><?b c?><Patient xmlns=\"http://hl7.org/fhir\"><!-- < & --><active value='true' /><?d?></Patient >\n<!-- e -->",
			`{"resourceType":"Patient","active":true}`},
		{"a prefix", `<f:Patient xmlns:f="http://hl7.org/fhir"><f:active value="true"/></f:Patient>`, `{"resourceType":"Patient","active":true}`},
		{"hints to a schema", `<Patient xmlns="http://hl7.org/fhir" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="a b"/>`, `{"resourceType":"Patient"}`},
		{"another order", `<Subscription xmlns="http://hl7.org/fhir"><criteria value="Patient?"/><contact><value value="a"/></contact><status value="active"/><contact><value value="b"/></contact></Subscription>`,
			`{"resourceType":"Subscription","status":"active","contact":[{"value":"a"},{"value":"b"}],"criteria":"Patient?"}`},
		{"white space in a value, as XML has it", "<Patient xmlns=\"http://hl7.org/fhir\"><language value=\" a\r\nb\tc\nd&#10;e \"/></Patient>", `{"resourceType":"Patient","language":" a b c d\ne "}`},
		{"white space around a number", `<Patient xmlns="http://hl7.org/fhir"><multipleBirthInteger value=" +2 "/></Patient>`, `{"resourceType":"Patient","multipleBirthInteger":2}`},
		{"references", `<Patient xmlns="http://hl7.org/fhir"><language value="&#65;&#x1F489;&apos;&gt;"/></Patient>`, `{"resourceType":"Patient","language":"A💉'>"}`},
		{"a narrative whose prefix is declared outside", `<Patient xmlns="http://hl7.org/fhir" xmlns:h="http://www.w3.org/1999/xhtml"><text><h:div id="x">a<h:p>b</h:p><h:br/></h:div></text></Patient>`,
			`{"resourceType":"Patient","text":{"div":"<div xmlns=\"http://www.w3.org/1999/xhtml\" id=\"x\">a<p>b</p><br/></div>"}}`},
		{"a narrative whose namespace is declared outside", `<f:Patient xmlns:f="http://hl7.org/fhir" xmlns="http://www.w3.org/1999/xhtml"><f:text><div><p>b</p></div></f:text></f:Patient>`,
			`{"resourceType":"Patient","text":{"div":"<div xmlns=\"http://www.w3.org/1999/xhtml\"><p>b</p></div>"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			json, err := Unmarshal(fhir.R4, []byte(c.xml))
			if err != nil || string(json) != c.json {
				t.Errorf("%v\n%s, want\n%s", err, json, c.json)
			}
		})
	}
}

func TestJSONIsWrittenFromOtherFormsToo(t *testing.T) {
	const head, tail = `<Patient xmlns="http://hl7.org/fhir">`, `</Patient>`
	for _, c := range []struct{ name, json, xml string }{
		{"another order", `{"active":true,"id":"a","resourceType":"Patient"}`, head + `<id value="a"/><active value="true"/>` + tail},
		{"what says nothing", `{"resourceType":"Patient","active":null,"_active":null,"name":[],"birthDate":"2020","_birthDate":null}`, head + `<birthDate value="2020"/>` + tail},
		{"siblings shorter than their values", `{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[{"id":"x"}]}]}`, head + `<name><given id="x" value="a"/><given value="b"/></name>` + tail},
		{"a narrative without a namespace", `{"resourceType":"Patient","text":{"div":" <div>a</div> "}}`, head + `<text><div xmlns="http://www.w3.org/1999/xhtml">a</div></text>` + tail},
		{"entities of HTML", `{"resourceType":"Patient","text":{"div":"<div title='&eacute;'>a&nbsp;&amp;&copy;</div>"}}`, head + `<text><div xmlns="http://www.w3.org/1999/xhtml" title='é'>a` + "\u00a0" + `&amp;©</div></text>` + tail},
	} {
		t.Run(c.name, func(t *testing.T) {
			xml, err := Marshal(fhir.R4, []byte(c.json))
			if err != nil || string(xml) != c.xml {
				t.Errorf("%v\n%s, want\n%s", err, xml, c.xml)
			}
		})
	}
}

func TestIndentedXMLHasAnElementOnEachLine(t *testing.T) {
	xml, err := MarshalIndent(fhir.R4, []byte(`{"resourceType":"Patient","text":{"status":"empty","div":"<div>a <b>c</b></div>"},"contained":[{"resourceType":"Device","id":"d"}]}`))
	want := `<Patient xmlns="http://hl7.org/fhir">
  <text>
    <status value="empty"/>
    <div xmlns="http://www.w3.org/1999/xhtml">a <b>c</b></div>
  </text>
  <contained>
    <Device>
      <id value="d"/>
    </Device>
  </contained>
</Patient>`
	if err != nil || string(xml) != want {
		t.Errorf("%v\n%s, want\n%s", err, xml, want)
	}
}

func TestAnUnknownVersionIsNoPanic(t *testing.T) {
	if _, err := Marshal("R3", []byte(`{}`)); err == nil {
		t.Error("Marshal knows R3")
	}
	if _, err := Unmarshal("R3", []byte(`<a/>`)); err == nil {
		t.Error("Unmarshal knows R3")
	}
}
