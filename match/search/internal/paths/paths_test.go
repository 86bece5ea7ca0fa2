package paths

import (
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

func start(v fhir.Version, typ, kind string) Start {
	m := model.For(v)
	return Start{Model: m, Resource: m.Type(typ), Kind: kind}
}

func TestExpressionsBecomePaths(t *testing.T) {
	const any = "extension[url='http://x']."
	for _, c := range []struct{ typ, kind, expr, want string }{
		{"Patient", "string", "Patient.name.given", "name.given:string"},
		{"Patient", "token", "Person.identifier | Patient.identifier", "identifier:Identifier"},
		{"Patient", "token", "Resource.id", "id:id"},
		{"Patient", "token", "DomainResource.id", "id:id"},
		{"Patient", "token", "Patient.telecom.where(system='email')", "telecom[system='email']:ContactPoint"},
		{"Patient", "token", "Patient.telecom.where( system = 'email' )", "telecom[system='email']:ContactPoint"},
		{"Patient", "date", "(Patient.deceased as dateTime)", "deceasedDateTime:dateTime"},
		{"Patient", "date", "Patient.deceased", "deceasedDateTime:dateTime"},
		{"Patient", "token", "Patient.deceased.exists() and Patient.deceased != false", "deceasedBoolean:truth|deceasedDateTime:truth"},
		{"Condition", "date", "Condition.onset.as(dateTime) | Condition.onset.as(Period)", "onsetDateTime:dateTime|onsetPeriod:Period"},
		{"Observation", "string", "(Observation.value as CodeableConcept).text", "valueCodeableConcept.text:string"},
		{"Observation", "reference", "Observation.subject.where(resolve() is Patient)", "subject[is Patient]:Reference"},
		{"Patient", "string", "Patient.`name`.given // the first names", "name.given:string"},
		{"Patient", "string", "(((Patient.name))).given | (Patient).name.family", "name.given:string|name.family:family"},
		{"Bundle", "reference", "Bundle.entry[0].resource", "entry[0].resource:Resource"},
		{"Bundle", "reference", "Bundle.entry[0].resource as Composition", "entry[0].resource[resourceType='Composition']:Resource"},
		{"Observation", "quantity", "Observation.component.value as Quantity", "component.valueQuantity:Quantity"},
		{"InsurancePlan", "string", "name | alias", "name:string|alias:string"},
		{"CodeSystem", "token", "CodeSystem.concept.concept.code", "concept.concept.code:code"},
		{"Patient", "string", "Patient.contact.first().name.given", "contact[0].name.given:string"},
		{"Patient", "string", "Patient.name.first().text", "name[0].text:string"},
		{"Patient", "string", "Patient.name[0].given.first()", "name[0].given[0]:string"},
		{"Patient", "string", "Patient.name.given.first()", "first name.given:string"},
		{"Patient", "date", "(Patient.birthDate | Patient.deceased.as(dateTime)).first()", "first birthDate:dateTime|deceasedDateTime:dateTime"},
		{"Patient", "date", "Patient.birthDate.extension('http://x').value", "_birthDate." + any + "valueDate:dateTime|_birthDate." + any +
			"valueDateTime:dateTime|_birthDate." + any + "valueInstant:instant|_birthDate." + any + "valuePeriod:Period|_birthDate." + any + "valueTiming:Timing"},
		{"Patient", "token", "Patient.extension('http://x').value.as(CodeableConcept)", any + "valueCodeableConcept:CodeableConcept"},
		{"Patient", "token", "Patient.extension.where(url='http://x').value.as(CodeableConcept)", any + "valueCodeableConcept:CodeableConcept"},
		{"Patient", "token", "Patient.extension.where(url = 'http://x').value.ofType(Coding)", any + "valueCoding:Coding"},
		{"Patient", "token", "Patient.extension('http://x').extension('y').value as code", any + "extension[url='y'].valueCode:code"},
		{"Patient", "number", "Patient.extension('http://x').value", any + "valueDecimal:decimal|" + any + "valueInteger:decimal|" +
			any + "valuePositiveInt:decimal|" + any + "valueUnsignedInt:decimal|" + any + "valueRange:Range"},
		{"Patient", "reference", "Patient.extension('http://x')", any + "valueCanonical:canonical|" + any + "valueOid:canonical|" + any +
			"valueUri:canonical|" + any + "valueUrl:canonical|" + any + "valueUuid:canonical|" + any + "valueReference:Reference"},
		{"QuestionnaireResponse", "token", "QuestionnaireResponse.item.where(hasExtension('http://x')).answer.value.ofType(Coding)",
			"item[extension='http://x'].answer.valueCoding:Coding"},
		{"QuestionnaireResponse", "token", "QuestionnaireResponse.item.where(linkId='1').answer.value.as(Coding)",
			"item[linkId='1'].answer.valueCoding:Coding"},
		{"Observation", "node", "Observation | Observation.component", ":node|component:node"},
	} {
		r, err := Compile(start(fhir.R4, c.typ, c.kind), c.expr)
		got := strings.Join(r.Paths, "|")
		if r.First {
			got = "first " + got
		}
		if err != nil || got != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.expr, got, err, c.want)
		}
	}
}

// What is right and more than a path is left to the general engine; what is wrong is named.
func TestWhatIsNoPathIsToldFromWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ expr, wrong string }{ // empty: not a path
		{"Patient.nope", "Patient has no element nope"},
		{"Patient.name.nope", "HumanName has no element nope"},
		{"Nope.name", "Nope is not a type of FHIR R4"},
		{"Patient.photo", "a string parameter cannot read Attachment"},
		{"Patient.contact", "a string parameter cannot read Patient.contact"},
		{"Patient.deceased.as(Quantity)", "Patient.deceased cannot be Quantity"},
		{"Patient.deceased.as(Nope)", "Nope is not a type"},
		{"Patient.multipleBirth.text", "no element text in any"},
		{"Patient.name.where(nope='x').given", "HumanName has no element nope"},
		{"Patient.name.given.where('x", "position 26"},
		{"Patient.name[0", "position 15"},
		{"", "empty"},
		{strings.Repeat("(", 1000) + "Patient" + strings.Repeat(")", 1000), "nested deeper"},
		{strings.Repeat("Patient.name|", 5000) + "Patient.name", "bytes long"},
		{"Patient.name.given.as(FHIR.string)", ""},
		{"Patient.name.given is string", ""},
		{"Patient.`name`.given.where($this = 'x')", ""},
		{"Patient.contact.name.given.first().extension('x')", ""},
		{"Patient.name.where(use != 'old').given", ""},
		{"Patient.name.where(use = 'official' and period.exists()).given", ""},
		{"Patient.name.where(use='official').where(text='x').given", ""},
		{"Patient.name.where(given='x').family", ""},
		{"Patient.name.where(period.start='2020').family", ""},
		{"Patient.name.where(use='a b').family", ""},
		{"Patient.name.where(use='a\\'b').family", ""},
		{"Patient.name[1].given", ""},
		{"Patient.name.given.lower()", ""},
		{"Patient.name.given | 'x'", ""},
		{"Patient.name.given & 'x'", ""},
		{"%context.name", ""},
	} {
		_, err := Compile(start(fhir.R4, "Patient", "string"), c.expr)
		if err == nil || IsNotAPath(err) != (c.wrong == "") || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%.60s: %v, want %q", c.expr, err, c.wrong)
		}
	}
}

func TestBranchesOfOtherTypesAreDropped(t *testing.T) {
	for _, expr := range []string{"Person.name", "Person.telecom.where(system='phone')", "(Person.name as HumanName)",
		"Observation.value.as(Quantity).value", "Bundle.entry[0].resource"} {
		if r, err := Compile(start(fhir.R4, "Patient", "string"), expr); err != nil || len(r.Paths) > 0 {
			t.Errorf("%s: %v, %v", expr, r.Paths, err)
		}
	}
	// R5 has types between DomainResource and the concrete ones.
	for _, of := range []string{"CanonicalResource", "MetadataResource", "DomainResource", "Resource", "ActivityDefinition"} {
		if r, err := Compile(start(fhir.R5, "ActivityDefinition", "token"), of+".id"); err != nil || len(r.Paths) != 1 {
			t.Errorf("%s: %v, %v", of, r.Paths, err)
		}
	}
	if r, err := Compile(start(fhir.R5, "Patient", "token"), "CanonicalResource.id"); err != nil || len(r.Paths) != 0 {
		t.Errorf("a Patient is no CanonicalResource: %v, %v", r.Paths, err)
	}
}

func TestTargetsComeFromTheElements(t *testing.T) {
	for expr, want := range map[string]string{
		"Patient.managingOrganization":                                 "Organization",
		"Patient.generalPractitioner | Patient.managingOrganization":   "Organization,Practitioner,PractitionerRole",
		"Patient.extension('http://x').value.as(Reference)":            "",
		"Patient.managingOrganization | Patient.extension('http://x')": "",
	} {
		r, err := Compile(start(fhir.R4, "Patient", "reference"), expr)
		if err != nil || strings.Join(r.Targets, ",") != want {
			t.Errorf("%s: %v, %v", expr, r.Targets, err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"Patient.name.given", "(Patient.deceased as dateTime) | Person.x.where(system='email')", "Patient.extension('u').value[0].first()",
		"Patient.where(resolve() is Patient)", "%resource.id", "Patient.deceased.exists() and Patient.deceased != false"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		for _, kind := range []string{"token", "string", "reference", "date", "node"} {
			r, err := Compile(start(fhir.R4, "Patient", kind), expr)
			if err != nil {
				continue
			}
			for _, p := range r.Paths {
				if !strings.Contains(p, ":") || strings.ContainsAny(p, "|\n$") {
					t.Fatalf("%q gives the path %q", expr, p)
				}
			}
		}
	})
}
