package search

import "testing"

// The section on reference of R4's search page (3.1.1.4.12) and the modifiers of R5's
// (3.2.1.5.5).
func TestReferencesAsTheSpecificationSays(t *testing.T) {
	d := local()
	const (
		observation = `Observation{"subject":{"reference":"Patient/23","display":"Peter Chalmers","identifier":{"system":"http://acme.org/fhir/identifier/mrn","value":"123456"}}}`
		absolute    = `Observation{"subject":{"reference":"http://acme.org/fhir/Patient/23"}}`
		own         = `Observation{"subject":{"reference":"` + base + `/Patient/23"}}`
		versioned   = `Observation{"subject":{"reference":"Patient/23/_history/4"}}`
		canonical   = `QuestionnaireResponse{"questionnaire":"http://acme.org/fhir/Questionnaire/q|3.0"}`
	)
	holds(t, d, []rule{
		{"R4 3.1.1.4.12: [parameter]=[id], of any type", observation, "subject=23\npatient=23", "subject=2\nsubject=24"},
		{"R4 3.1.1.4.12: [parameter]=[type]/[id]", observation, "subject=Patient/23", "subject=Group/23"},
		{"R4 3.1.1.4.12: [parameter]=[url], an absolute URL", absolute, "subject=http://acme.org/fhir/Patient/23", "subject=http://acme.org/fhir/Patient/2\nsubject=https://acme.org/fhir/Patient/23"},
		{"R4 3.1.1.4.12: a relative one is relative to this server", absolute, "", "subject=Patient/23\nsubject=23"},
		{"R4 3.1.1.4.12: \"if the reference is to a resource on the same server\", both forms are one", own,
			"subject=Patient/23\nsubject=23\nsubject=" + base + "/Patient/23\nsubject:Patient=23", "subject=Patient/24"},
		{"R4 3.1.1.4.12: both forms are one, the other way round", observation, "subject=" + base + "/Patient/23", "subject=https://there.example/fhir/Patient/23"},
		{"R4 3.1.1.4.12: subject:Patient=23 is subject=Patient/23", observation, "subject:Patient=23\nsubject:Patient=Patient/23", "subject:Group=23\nsubject:Device=23"},
		{"R4 3.1.1.4.12: a versioned reference is found without its version", versioned, "subject=Patient/23\nsubject=23\nsubject=Patient/23/_history/4", "subject=Patient/23/_history/5"},
		{"R4 3.1.1.4.12: a version that is asked for must be there", observation, "", "subject=Patient/23/_history/4"},
		{"R4 3.1.1.4.12 :identifier, the example", observation,
			"subject:identifier=http://acme.org/fhir/identifier/mrn|123456\nsubject:identifier=123456\nsubject:identifier=http://acme.org/fhir/identifier/mrn|", "subject:identifier=http://acme.org/fhir/identifier/mrn|1\nsubject:identifier=|123456\nsubject:identifier=23"},
		{"R4 3.1.1.4.12 :identifier looks at Reference.identifier and not at the resource", absolute, "", "subject:identifier=23"},
		{"R4 3.1.1.4.12: a canonical without a version meets any", canonical, "questionnaire=http://acme.org/fhir/Questionnaire/q", "questionnaire=http://acme.org/fhir/Questionnaire/r"},
		{"R4 3.1.1.4.12: |version is the business version", canonical, "questionnaire=http://acme.org/fhir/Questionnaire/q|3.0", "questionnaire=http://acme.org/fhir/Questionnaire/q|3\nquestionnaire=http://acme.org/fhir/Questionnaire/q|3.0.1"},
		{"R4 3.1.1.4.12: a version that is asked for must be there, of canonicals", `QuestionnaireResponse{"questionnaire":"http://acme.org/fhir/Questionnaire/q"}`,
			"questionnaire=http://acme.org/fhir/Questionnaire/q", "questionnaire=http://acme.org/fhir/Questionnaire/q|3.0"},
		{"R4 3.1.1.4.12: a contained resource is no Type/id", `Observation{"contained":[{"resourceType":"Patient","id":"23"}],"subject":{"reference":"#23"}}`,
			"subject:missing=false\npatient:missing=false", "subject=23\nsubject=Patient/23\npatient=23"},
		{"R4 references: a urn is compared whole", `Observation{"subject":{"reference":"urn:uuid:c757873d-ec9a-4326-a141-556f43239520"}}`,
			"subject=urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "subject=c757873d-ec9a-4326-a141-556f43239520\npatient:missing=false"},
		{"R5 text: Reference.display begins with the value", observation, "subject:text=peter\nsubject:text=PETER chal", "subject:text=chalmers\nsubject:text=23"},
		{"R5 text-advanced: a word of Reference.display", observation, "subject:text-advanced=chalmers", "subject:text-advanced=chalmer"},
		{"R5 missing", observation, "subject:missing=false\nencounter:missing=true", "subject:missing=true"},
		{"R4 3.1.1.4.3: a comma is OR, a repetition AND", `Observation{"performer":[{"reference":"Practitioner/1"},{"reference":"Organization/2"}]}`,
			"performer=Practitioner/1&performer=Organization/2\nperformer=x,2", "performer=Practitioner/1&performer=Patient/3"},
	})
	refuses(t, d, []refuse{
		{"R4 3.1.1.4.12 :below follows a hierarchy of resources", "Procedure?location:below=BuildingA", "hierarchy of other resources"},
		{"R4 3.1.1.4.12 :above follows a hierarchy of resources", "Procedure?location:above=A101", "hierarchy of other resources"},
		{"R5 below: version searches of unknown schemes SHALL be ignored or rejected", "QuestionnaireResponse?questionnaire:below=http://x|1", "version scheme"},
		{"R5 identifier is not supported on canonical elements", "QuestionnaireResponse?questionnaire:identifier=a|b", "no identifier"},
		{"R5 text on canonical elements", "QuestionnaireResponse?questionnaire:text=a", "no text beside it"},
		{"R4 3.1.1.4.12: a type that cannot be the target", "Observation?subject:Practitioner=1", "cannot refer to Practitioner"},
		{"R4 3.1.1.4.12: a fragment names nothing outside its resource", "Observation?subject=%23p1", "id, Type/id or an absolute URL"},
	})
}
