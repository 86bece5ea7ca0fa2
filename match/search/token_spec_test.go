package search

import (
	stdjson "encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// The section on token of R4's search page (3.1.1.4.10) and the modifiers of R5's (3.2.1.5.5).
func TestTokensAsTheSpecificationSays(t *testing.T) {
	d := local()
	const (
		condition = `Condition{"code":{"coding":[{"system":"http://acme.org/conditions/codes","code":"ha125","display":"Headache, acute"}],"text":"Violent headache"}}`
		patient   = `Patient{"gender":"male","active":true,"identifier":[{"type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v2-0203","code":"MR"},{"code":"X"}],"text":"Medical record"},"system":"http://acme.org/patient","value":"446053"}]}`
	)
	holds(t, d, []rule{
		{"R4 3.1.1.4.10: [parameter]=[code] matches a code irrespective of the system", condition,
			"code=ha125\ncode=other,ha125", "code=ha12\ncode=ha1255"},
		{"R4 3.1.1.4.10: [parameter]=[system]|[code] matches a code of that system", condition,
			"code=http://acme.org/conditions/codes|ha125", "code=http://acme.org/conditions|ha125\ncode=http://acme.org/conditions/codes|ha126"},
		{"R4 3.1.1.4.10: [parameter]=|[code] matches a code that has no system", condition, "", "code=|ha125"},
		{"R4 3.1.1.4.10: |[code], of a code without a system", `Condition{"code":{"coding":[{"code":"ha125"}]}}`,
			"code=|ha125\ncode=ha125", "code=http://acme.org/conditions/codes|ha125"},
		{"R4 3.1.1.4.10: [parameter]=[system]| matches any code of that system", condition,
			"code=http://acme.org/conditions/codes|", "code=http://acme.org/|"},
		{"R4 3.1.1.4.10: the example of an identifier", patient,
			"identifier=http://acme.org/patient|446053\nidentifier=446053", "identifier=http://acme.org/patient|2345"},
		{"R4 3.1.1.4.10: the example of a gender", patient, "gender=male", "gender=female"},
		{"R4 3.1.1.4.10: the example of :not, which includes resources without a value", patient, "gender:not=female", "gender:not=male"},
		{"R5 not: records without a value are matched", `Patient{}`, "gender:not=male\ngender:not=male,female", ""},
		{"R4 3.1.1.4.10: the example active=true", patient, "active=true", "active=false"},
		{"R4 3.1.1.4.10: a code element has an implicit system, which may be named", patient,
			"gender=http://hl7.org/fhir/administrative-gender|male\ngender=http://hl7.org/fhir/administrative-gender|", ""},
		{"R4 3.1.1.4.10: when in doubt, codes are compared without case", condition, "code=HA125\nidentifier:missing=true", ""},
		{"R4 3.1.1.4.10: systems are URIs, whose case counts", condition, "", "code=http://ACME.org/conditions/codes|ha125"},
		{"R4 3.1.1.4.10: code elements have the case of their value set", patient, "", "gender=MALE"},
		{"R4 3.1.1.4.10: ContactPoint has no system to compare, its value is found", `Patient{"telecom":[{"system":"phone","value":"555-1234","use":"home"}]}`,
			"telecom=555-1234\nphone=555-1234", "telecom=555\nemail=555-1234"},
		{"R4 3.1.1.4.4 / R5 missing: true asks for absence, false for presence", condition,
			"code:missing=false\nbody-site:missing=true", "code:missing=true\nbody-site:missing=false"},
		{"R4 3.1.1.4.4: an element with extensions alone has no value", `Condition{"code":{"extension":[{"url":"http://x","valueString":"y"}]}}`, "code:missing=true", "code:missing=false"},

		{"R4 3.1.1.4.10 :text: a string match on CodeableConcept.text and Coding.display", condition,
			"code:text=headache\ncode:text=violent\ncode:text=HEADACHE,x\ncode:text=headache%2Dacute,headache%20acute", "code:text=acute\ncode:text=ha125\ncode:text=head%20x"},
		{"R5 text: begins with or is, without case and combining characters", `Condition{"code":{"text":"Écoulement nasal"}}`,
			"code:text=ecoul\ncode:text=%C3%89COULEMENT%20%20NASAL", "code:text=nasal"},
		{"R4 3.1.1.4.10 :text: Coding.display of a Coding", `Patient{"meta":{"tag":[{"code":"t","display":"Needs review"}]}}`,
			"_tag:text=needs\n_security:missing=true", "_tag:text=review\n_security:text=needs"},
		{"R4 3.1.1.4.10 :text: Identifier.type.text", patient, "identifier:text=medical", "identifier:text=446053\nidentifier:text=MR"},
		{"R4 3.1.1.4.10 :text: nothing to compare, nothing matches", `Condition{}`, "", "code:text=a"},

		{"R5 text-advanced: a word anywhere", condition,
			"code:text-advanced=headache\ncode:text-advanced=acute\ncode:text-advanced=headache NOT chronic\ncode:text-advanced=violent and (x or ACUTE)", "code:text-advanced=chronic\ncode:text-advanced=head\ncode:text-advanced=\"acute headache\""},
		{"R5 code-text: starts with or is a code, without case", `Patient{"communication":[{"language":{"coding":[{"system":"urn:ietf:bcp:47","code":"en-AU"}]}}]}`,
			"language:code-text=en\nlanguage:code-text=EN-au", "language:code-text=de\nlanguage:code-text=au"},
		{"R5 code-text: of a code element", patient, "gender:code-text=ma", "gender:code-text=fe"},

		{"R4 3.1.1.4.10 :of-type: [system]|[code]|[value] of the identifier and its type", patient,
			"identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|446053\nidentifier:of-type=a|b|c,http://terminology.hl7.org/CodeSystem/v2-0203|MR|446053",
			"identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|446054\nidentifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|DL|446053\nidentifier:of-type=http://acme.org/patient|MR|446053\nidentifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|X|446053"},
		{"R4 3.1.1.4.10 :of-type: type and value belong to one identifier", `Patient{"identifier":[{"type":{"coding":[{"system":"s","code":"MR"}]},"value":"1"},{"type":{"coding":[{"system":"s","code":"DL"}]},"value":"2"}]}`,
			"identifier:of-type=s|MR|1\nidentifier:of-type=s|DL|2", "identifier:of-type=s|MR|2\nidentifier:of-type=s|DL|1"},

		{"R5 _language: the language of the resource's text, in every version", `Patient{"language":"de-CH"}`,
			"_language=de-CH\n_language=de-ch\n_language=en,de-CH\n_language=urn:ietf:bcp:47|de-CH\n_language:not=de\n_language:missing=false\n_language:code-text=de", "_language=de\n_language:not=de-CH\n_language:missing=true"},
		{"R5 _language, without one", `Patient{}`, "_language:missing=true\n_language:not=de", "_language=de"},
		{"R4 search, _tag and _security are tokens", `Patient{"meta":{"tag":[{"system":"http://t","code":"a"}],"security":[{"system":"http://s","code":"R"}]}}`,
			"_tag=http://t|a\n_tag=a\n_tag=http://t|\n_security=http://s|R\n_tag:not=b\n_tag:missing=false", "_tag=R\n_tag:not=a\n_security=|R\n_security:missing=true"},
		{"R4 search, _tag of a resource without meta", `Patient{}`, "_tag:not=a\n_tag:missing=true\n_security:not=R\n_profile:missing=true\n_source:missing=true", "_tag=a\n_profile:missing=false"},
	})
	refuses(t, d, []refuse{
		{"R4 3.1.1.4.10 :of-type: all three parts must be present", "Patient?identifier:of-type=a|b", "all three parts"},
		{"R4 3.1.1.4.10 :of-type: all three parts must be present", "Patient?identifier:of-type=a||c", "all three parts"},
		{"R4 3.1.1.4.10 :of-type is for Identifier", "Patient?gender:of-type=a|b|c", "no Identifier"},
		{"R4 3.1.1.4.10 :text, without a text", "Patient?telecom:text=a", "no text beside"},
		{"R5 code-text, without a code", "Patient?identifier:code-text=a", "no code"},
		{"R4 3.1.1.4.10 :in is for codes", "Patient?identifier:in=http://v", "no code"},
		{"R4 3.1.1.4.10 :below is for codes", "Patient?active:below=a|b", "no code"},
		{"R4 3.1.1.4.4: an unknown modifier SHALL be rejected", "Patient?gender:ni=a", `modifier "ni"`},
		{"R4 3.1.1.4.4: a modifier of another type SHALL be rejected", "Patient?gender:contains=a", `modifier "contains"`},
	})
}

func TestIdentifiersOfATypeAreFoundByTheirValues(t *testing.T) {
	d := R4()
	c := compiled(t, d, "Patient?identifier:of-type=s|MR|1&gender=male")
	r := resource(t, d, `{"resourceType":"Patient","gender":"male","identifier":[{"type":{"coding":[{"system":"s","code":"mr"}]},"value":"1"}]}`)
	if codes := c.conditions[0].extra.accessCodes(); !slices.Equal(codes, []string{"1"}) || !c.Match(r) {
		t.Errorf("posted under %v", codes)
	}
	agrees(t, c, r)
	many := "Patient?identifier:of-type=" + fillers(20, "s|MR|%s") + ",s|MR|1"
	if !compiled(t, d, many).Match(r) {
		t.Error("not met among others")
	}
}

// Over real resources: what :text and full text find is what a naive reading of the JSON finds.
func TestTextsAgreeWithANaiveReading(t *testing.T) {
	d := R4()
	text := func(m object, path, prefix string) bool {
		return starts(m, path+".text", prefix) || starts(m, path+".coding.display", prefix)
	}
	word := func(m object, path, word string) bool {
		return slices.ContainsFunc(at(m, path), func(v any) bool {
			s, _ := v.(string)
			return slices.Contains(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }), word)
		})
	}
	for q, naive := range map[string]func(object) bool{
		"Observation?code:text=body":            func(m object) bool { return text(m, "code", "body") },
		"Observation?category:text=vital":       func(m object) bool { return text(m, "category", "vital") },
		"Condition?code:text=acute":             func(m object) bool { return text(m, "code", "acute") },
		"Observation?code:text-advanced=weight": func(m object) bool { return word(m, "code.text", "weight") || word(m, "code.coding.display", "weight") },
		"DiagnosticReport?result:text=pla":      func(m object) bool { return starts(m, "result.display", "pla") },
		"Patient?name:text=mrs":                 func(m object) bool { return word(m, "name.prefix", "mrs") },
		"Observation?code:code-text=83":         func(m object) bool { return starts(m, "code.coding.code", "83") },
	} {
		c, found := compiled(t, d, q), 0
		typ, _, _ := strings.Cut(q, "?")
		for _, line := range lines(t) {
			r := resource(t, d, string(line))
			if r.Type() != typ {
				continue
			}
			var m object
			if err := stdjson.Unmarshal(line, &m); err != nil {
				t.Fatal(err)
			}
			want := naive(m)
			if want {
				found++
			}
			if c.Match(r) != want {
				t.Errorf("%s on %s/%s: %v", q, typ, r.ID(), !want)
			}
		}
		t.Log(q, found)
		if found == 0 {
			t.Errorf("%s meets nothing in the sample", q)
		}
	}
}
