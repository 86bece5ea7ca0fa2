package search

import (
	"strings"
	"testing"
)

// Two resources with a value of every kind that the other servers' tests ask about.
const (
	vendorsObservation = `,"id":"o1","meta":{"source":"http://x.example/s#req","profile":["http://x.example/profile"],"tag":[{"system":"http://t","code":"a"}]},"status":"final",
		"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"Pulse"},
		"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-03-02T10:00:00Z",
		"valueQuantity":{"value":72,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}`
	vendorsPatient = `,"id":"p1","active":true,"name":[{"family":"Müller","given":["Ada"]}],"birthDate":"1980-05-01","gender":"female",
		"identifier":[{"system":"urn:mrn","value":"42"},{"value":"bare"}],"managingOrganization":{"reference":"Organization/o"}`
)

// vendorsRow is one criteria of another server's matrix, asked of those resources. What differs from
// that server says how it is there.
type vendorsRow struct {
	criteria string
	want     any    // true or false: whether it matches; a string: it is refused, and the refusal says so
	differs  string // how it is there; empty: the same
}

func vendorsMatrix(t *testing.T, rows []vendorsRow) {
	t.Helper()
	d := local()
	bodies := map[string]string{"Observation": vendorsObservation, "Patient": vendorsPatient}
	for _, row := range rows {
		name := row.criteria
		if row.differs != "" {
			name += " (differs: " + row.differs + ")"
		}
		t.Run(name, func(t *testing.T) {
			path, _, _ := strings.Cut(row.criteria, "?")
			typ := path[strings.LastIndex(path, "/")+1:]
			c, err := d.Compile(row.criteria)
			says, refused := row.want.(string)
			switch {
			case refused && (err == nil || !strings.Contains(err.Error(), says)):
				t.Errorf("refused with %v, want %q", err, says)
			case !refused && err != nil:
				t.Errorf("refused: %v", err)
			case !refused:
				if got := c.Match(resource(t, d, `{"resourceType":"`+typ+`"`+bodies[typ]+`}`)); got != row.want {
					t.Errorf("matches: %v", got)
				}
			}
		})
	}
}

// HAPI FHIR's InMemorySubscriptionMatcherR4Test and SubscriptionStrategyEvaluatorTest (8.1): what is matched in
// memory there, and what is not. Nothing goes to a database here. Chains and _has, which take other resources
// to decide, are asked in TestChainsFollowTheSpecification and TestReverseChainsFollowTheSpecification.
func TestHAPIInMemoryMatcherConformance(t *testing.T) {
	vendorsMatrix(t, []vendorsRow{
		{"Observation?code=8867-4", true, ""},
		{"Observation?code=http://loinc.org|8867-4", true, ""},
		{"Observation?code=http://loinc.org|", true, ""},
		{"Observation?code=|8867-4", false, "any system there"},
		{"Patient?identifier=|bare", true, ""},
		{"Observation?code=http://LOINC.org|8867-4", false, "systems are compared without case there"},
		{"Observation?code:not=1234-5", true, ""},
		{"Observation?code:not=8867-4,1234-5", false, ""},
		{"Patient?language:not=de", true, ""},
		{"Observation?_security:not=R", true, "8.1: not where there are no labels at all"},
		{"Observation?code:text=heart", true, "the database there"},
		{"Observation?code:missing=false", true, "fails in 8.1"},
		{"Observation?code:in=http://x.example/vs", "is not stored", "the database, or a terminology service, there"},
		{"Patient?name=mull", true, ""},
		{"Patient?name=ller", false, ""},
		{"Patient?name:exact=Müller", true, "the database there"},
		{"Patient?name:exact=müller", false, "the database there"},
		{"Patient?name:contains=LLE", true, "the database there"},
		{"Patient?name=" + strings.Repeat("a", 500), false, ""},
		{"Patient?birthdate=1980-05-01", true, ""},
		{"Patient?birthdate=1980", true, ""},
		{"Patient?birthdate=gt1980-05-01", false, ""},
		{"Patient?birthdate=ge1980-05-01&birthdate=lt1980-05-02", true, ""},
		{"Patient?birthdate=ne1981", true, "the database there"},
		{"Observation?date=sa2026-03-01", true, "the database there"},
		{"Observation?date=ap2026-03-02", true, "the database there"},
		{"Observation?value-quantity=72", true, ""},
		{"Observation?value-quantity=72|http://unitsofmeasure.org|/min", true, ""},
		{"Observation?value-quantity=gt70", true, "the database there"},
		{"Observation?value-quantity=71.6", false, ""},
		{"Observation?subject=Patient/p1", true, ""},
		{"Observation?subject=p1", true, ""},
		{"Observation?subject:Patient=p1", true, ""},
		{"Observation?subject:Group=p1", false, ""},
		{"Observation?subject=" + base + "/Patient/p1", true, ""},
		{"Observation?subject=https://elsewhere.example/Patient/p1", false, ""},
		{"Observation?subject=urn:uuid:6a5be3a8-04d0-4c9a-b179-161fced75ab7", false, ""},
		{"Observation?subject:missing=false", true, "never tells (#3350)"},
		{"Observation?subject:identifier=urn:mrn|42", false, "taken for a type there; here the identifier of the reference is asked, and it has none"},
		{"Observation?subject:mdm=Patient/p1", "not supported", "the database there"},
		{"Observation?code-value-quantity=8867-4$72", true, "the database there"},
		{"Observation?_filter=code eq 8867-4", true, "ignored there until 2026, so that everything matched"},
		{"Observation?_id=o1", true, ""},
		{"Observation?_id=o2,o1", true, ""},
		{"Observation?_lastUpdated=gt2020", false, "the database there; this one has no time"},
		{"Observation?_tag=http://t|a", true, ""},
		{"Observation?_tag:not=http://t|a", false, ""},
		{"Observation?_profile=http://x.example/profile", true, ""},
		{"Observation?_source=http://x.example/s#req", true, ""},
		{"Observation?_source:missing=true", false, ""},
		{"Observation?status=final,amended&code=8867-4", true, ""},
		{"Observation?status=final&code=1234-5", false, ""},
		{"Observation?_sort=date&_format=json&_include=*&_summary=true&_count=1&_offset=5&_total=none", true, ""},
		{"Observation?_tga=x", "did you mean _tag", "ignored there, so that everything matches"},
		{"Observation?code=", "empty", "the parameter is skipped there"},
		{"Observation?", true, ""},
	})
}

// Medplum's matcher (packages/core/src/search/match.test.ts and what was seen of 5.0.10), by its rows. What can never
// match there says nothing; here it matches, or is refused when it is written.
func TestMedplumMatcherConformance(t *testing.T) {
	vendorsMatrix(t, []vendorsRow{
		{"Observation?code=8867-4", true, ""},
		{"Observation?code=http://loinc.org|8867-4", true, ""},
		{"Observation?code=http://loinc.org|", true, ""},
		{"Observation?code=|8867-4", false, ""},
		{"Patient?active=true", true, ""},
		{"Patient?gender:not=male", true, ""},
		{"Observation?code=1234-5,8867-4", true, ""},
		{"Observation?code:text=heart", true, "compared with the code there"},
		{"Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|42", false, "never matches there"},
		{"Patient?name=Müll", true, ""},
		{"Patient?name=üller", false, "any part matches there; :contains does so here"},
		{"Patient?name:contains=üller", true, ""},
		{"Patient?name:exact=müller", false, "matches there"},
		{"Patient?phonetic=mull", true, ""},
		{"Observation?subject=Patient/p1", true, ""},
		{"Observation?subject=p1", true, "never matches there"},
		{"Observation?subject:Patient=p1", true, "never matches there"},
		{"Observation?patient=Patient/p1", true, ""},
		{"Patient?_compartment=Patient/p1", "no such search parameter", "a compartment's members there"},
		{"Patient?birthdate=eq1980-05-01", true, ""},
		{"Patient?birthdate=ne1980-05-01", false, ""},
		{"Observation?date=gt2026-03-01", true, ""},
		{"Observation?date=le2026-03", true, ""},
		{"Observation?date=sa2026-04", false, ""},
		{"Observation?date=eb2026-04", true, ""},
		{"Observation?date=ap2026-03-02", true, "the same as eq there"},
		{"Observation?subject:missing=true", false, ""},
		{"Patient?address:missing=true", true, ""},
		{"Patient?address:present=true", "not supported", ":missing the other way round there"},
		{"Patient?_id=p1", true, ""},
		{"Observation?_tag=http://t|a", true, ""},
		{"Observation?_profile=http://x.example/profile", true, ""},
		{"Observation?value-quantity=gt70", true, "never matches there"},
		{"Observation?code-value-quantity=8867-4$gt70", true, "the Subscription is skipped there"},
		{"Observation?_filter=status eq final", true, "never matches there"},
		{"Patient?_content=ada", true, "never matches there"},
		{"Patient?nope=1", "no such search parameter", "never matches there"},
		{"NotAType?x=1", "not a resource type", "never matches there"},
		{"Patient", true, ""},
		{"Patient?", true, ""},
		{"fhir/R4/Patient?active=true", true, ""},
		{"Patient?_fields=id&_elements=id&_pretty=true&_cursor=x", true, ""},
		{"Patient?_type=Patient", "write [A,B]", "has no effect there"},
	})
}
