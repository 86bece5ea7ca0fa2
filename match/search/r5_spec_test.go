package search

import "testing"

// What R4B and R5 share with R4, and what R5's search page (3.2.1.5) adds or changes.
func TestTheRulesHoldInEveryVersion(t *testing.T) {
	for _, d := range []*Definitions{R4(), R4B(), R5()} {
		d := d.WithBaseURLs(base)
		holds(t, d, []rule{
			{"token", `Observation{"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"Pulse"}}`,
				"code=8867-4\ncode=http://loinc.org|8867-4\ncode:text=pulse\ncode:text=heart\ncode:text-advanced=rate\ncode:code-text=8867\nstatus=final\nstatus:not=amended\ncode:missing=false",
				"code=|8867-4\ncode:text=rate\nstatus:not=final\ncode:missing=true"},
			{"token :of-type", `Patient{"identifier":[{"type":{"coding":[{"system":"s","code":"MR"}]},"system":"t","value":"1"}]}`, "identifier:of-type=s|MR|1", "identifier:of-type=t|MR|1"},
			{"string", `Patient{"name":[{"family":"Carreño"}]}`, "family=carren\nfamily:exact=Carre%C3%B1o\nfamily:contains=reno\nfamily:text=carreno\nphonetic=car", "family=reno\nfamily:exact=Carreno"},
			{"reference", `Observation{"subject":{"reference":"Patient/1","display":"Ann"}}`, "subject=Patient/1\nsubject:Patient=1\nsubject=" + base + "/Patient/1\nsubject:text=an", "subject=Group/1\nsubject:identifier=1"},
			{"uri", `ValueSet{"url":"http://acme.org/fhir/ValueSet/1"}`, "url:below=http://acme.org/fhir\nurl:above=http://acme.org/fhir/ValueSet/1/2\nurl:contains=valueset", "url:below=http://acme.org/fhi"},
			{"common parameters", `Patient{"language":"de-CH","text":{"div":"<p>heart rate</p>"},"meta":{"tag":[{"code":"a"}],"security":[{"code":"R"}],"profile":["http://p|1"],"source":"http://s#1"}}`,
				"_language=de-ch\n_language:not=en\n_text=heart\n_content=rate\n_tag=a\n_security=R\n_security:not=x\n_profile=http://p\n_profile=http://p|1\n_source=http://s%231\n_source:below=http://s\n_tag:missing=false",
				"_language=de\n_text=liver\n_profile=http://p|2\n_profile:missing=true\n_source:missing=true\n_tag:not=a"},
			{"near", `Location{"position":{"latitude":1,"longitude":2}}`, "near=1|2|1|km\nnear:missing=false", "near=3|2|1|km"},
		})
	}
}

func TestR5HasItsOwn(t *testing.T) {
	d := R5().WithBaseURLs(base)
	holds(t, d, []rule{
		{"R5 _profile: a reference to a canonical, with any version unless one is named", `Patient{"meta":{"profile":["http://acme.org/fhir/StructureDefinition/p|1.0","http://acme.org/q"]}}`,
			"_profile=http://acme.org/fhir/StructureDefinition/p\n_profile=http://acme.org/fhir/StructureDefinition/p|1.0\n_profile=http://acme.org/q\n_profile=x,http://acme.org/q",
			"_profile=http://acme.org/fhir/StructureDefinition/p|2.0\n_profile=http://acme.org/q|1\n_profile=http://acme.org\n_profile=p"},
		{"R5 _profile: one of this server, in each of its forms", `Patient{"meta":{"profile":["` + base + `/StructureDefinition/p"]}}`,
			"_profile=StructureDefinition/p\n_profile=p\n_profile=" + base + "/StructureDefinition/p\n_profile:StructureDefinition=p", "_profile=StructureDefinition/q"},
		{"R5 CodeableReference: the concept is a token, the reference a reference", `MedicationRequest{"medication":{"concept":{"text":"Aspirin 500","coding":[{"system":"s","code":"c","display":"ASS"}]}}}`,
			"code=s|c\ncode:text=aspirin\ncode:text=ass\ncode:text-advanced=500\nmedication:missing=true", "code:text=500"},
		{"R5 CodeableReference with a reference", `MedicationRequest{"medication":{"reference":{"reference":"Medication/1","display":"Aspirin"}}}`,
			"medication=Medication/1\nmedication:text=asp", "code=s|c\nmedication=2"},
	})
	refuses(t, d, []refuse{
		{"R5 below: version searches of unknown schemes SHALL be ignored or rejected", "Patient?_profile:below=http://acme.org/p|1", "version scheme"},
		{"R5 identifier is not supported on canonical elements", "Patient?_profile:identifier=x", "no identifier"},
		{"R5 below follows a hierarchy of resources", "Procedure?location:below=A", "hierarchy of other resources"},
	})
}
