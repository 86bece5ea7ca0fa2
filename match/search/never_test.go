package search

import (
	"slices"
	"testing"
)

func TestCriteriaThatCanNeverMatchAreToldApart(t *testing.T) {
	for _, test := range []struct {
		criteria string
		never    bool
	}{
		{"Observation?status=final&status=amended", true},
		{"Observation?status=final&status=final,amended", false},
		{"Observation?status=final,registered&status=amended,preliminary", true},
		{"Observation?status=http://hl7.org/fhir/observation-status|final&status=final", false},
		{"Observation?status=final&status:not=final", true},
		{"Observation?status=final,amended&status:not=final", false},
		{"Observation?status:not=final&status:not=amended", false},
		{"Observation?status:missing=true&status=final", true},
		{"Observation?status:missing=true&status:missing=false", true},
		{"Observation?status:missing=true&status:not=final", false},
		{"Observation?status:missing=false&status=final", false},
		{"Observation?code=a&code=b", false},         // a CodeableConcept has many codings
		{"Patient?identifier=a&identifier=b", false}, // it repeats
		{"Patient?name=a&name=b", false},
		{"Patient?_id=a&_id=b", true},
		{"Patient?gender=male&gender=MALE", false}, // not worth a warning
		{"Patient?active=true&active=false", true},
		{"Patient?birthdate=gt2020&birthdate=lt2010", true},
		{"Patient?birthdate=gt2020-06&birthdate=lt2020-03", false}, // 2020 alone reaches beyond both
		{"Patient?birthdate=2019&birthdate=2020", true},
		{"Patient?birthdate=ge2019&birthdate=le2019", false},
		{"Patient?birthdate=sa2019&birthdate=eb2019", true},
		{"Patient?_lastUpdated=gt2020-06&_lastUpdated=lt2020-03", true}, // an instant is a point
		{"Encounter?date=gt2020&date=lt2010", false},                    // a period reaches beyond both
		{"Encounter?date=sa2020&date=eb2010", true},
		{"Observation?date=gt2020&date=lt2010", false}, // it may be a period
		{"Observation?subject:Patient.name=a&subject:Patient.name=b", false},
		{"Observation?subject:missing=true&subject:Patient.name=b", false},
		{"Observation?_filter=status eq final&_filter=status eq amended", false},
		{"Observation?code-value-quantity=a$1&code-value-quantity=b$1", false},
		{"Patient?_has:Observation:patient:code=a&_has:Observation:patient:code=b", false},
		{"Patient?_text=a&_text=b", false},
		{"Patient?birthdate:missing=true&birthdate=2020", true},
		{"[Patient,Observation]", false},
		{"[*]", false},
		{"Patient?", false},
	} {
		c, err := R4().WithRepository().Compile(test.criteria)
		if err != nil {
			t.Errorf("%s: %v", test.criteria, err)
			continue
		}
		if why := c.Never(); (why != "") != test.never {
			t.Errorf("%s: can never match: %q", test.criteria, why)
		}
	}
}

// mmHg is no unit of UCUM (mm[Hg] is): such a criteria finds nothing that a laboratory sends, and
// was accepted without a word.
func TestAUnitThatIsNoneOfUCUMIsToldToItsAuthor(t *testing.T) {
	const ucum = "|http://unitsofmeasure.org|"
	for criteria, want := range map[string][]string{
		"Observation?value-quantity=gt140" + ucum + "mmHg":                                           {"mmHg"},
		"Observation?value-quantity=gt140" + ucum + "mmHg,gt1" + ucum + "mmHg,gt2" + ucum + "mm[Hg]": {"mmHg"},
		"Observation?component-code-value-quantity=8480-6$gt140" + ucum + "mmHg":                     {"mmHg"},
		"Observation?value-quantity=gt140" + ucum + "mm[Hg]":                                         nil,
		"Observation?value-quantity=gt140" + ucum + "{score}":                                        nil,
		"Observation?value-quantity=gt140||mmHg":                                                     nil, // the unit as text
		"Observation?value-quantity=gt1|http://snomed.info/sct|258813002":                            nil,
		"Observation?value-quantity=gt140":                                                           nil,
		"Observation?code=mmHg":                                                                      nil,
	} {
		c, err := R4().Compile(criteria)
		if err != nil {
			t.Errorf("%s: %v", criteria, err)
			continue
		}
		if got := c.Unconverted(); !slices.Equal(got, want) {
			t.Errorf("%s: not converted are %q, want %q", criteria, got, want)
		}
	}
}
