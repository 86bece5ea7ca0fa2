package index_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

var linked = search.R4().WithRepository()

// people is a Repository of bodies; it counts what is read of it.
type people struct {
	bodies map[string]string
	err    error
	broken bool
	reads  int
}

func (p *people) Read(key fhir.Key) (search.State, error) {
	p.reads++
	if p.broken {
		panic("broken")
	}
	if body, ok := p.bodies[key.String()]; ok {
		return search.State{Body: []byte(body)}, p.err
	}
	return search.State{}, p.err
}

func (p *people) Referrers(string, string, fhir.Key, fhir.ID, int) ([]fhir.ID, error) {
	return nil, nil
}

func linkedCriteria(t testing.TB, s string) *search.Criteria {
	c, err := linked.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func among(t testing.TB, p search.Repository, body string) *search.Resource {
	tree, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := search.NewResource(linked, tree)
	r.SetRepository(p)
	return r
}

const (
	ofPatient7 = `{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/7"}}`
	patient7   = `{"resourceType":"Patient","id":"7","identifier":[{"system":"http://x","value":"i7"}]}`
)

// manyChains are criteria that each ask the Patient for another identifier.
func manyChains(t testing.TB, form string) *index.Index {
	x := index.New()
	for i := range 1000 {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: 1, Interactions: all, Criteria: linkedCriteria(t, fmt.Sprintf(form, i))})
	}
	return x
}

func TestAChainIsFoundByWhatTheResourceThatItLeadsToHas(t *testing.T) {
	p := &people{bodies: map[string]string{"Patient/7": patient7}}
	r := among(t, p, ofPatient7)
	x := manyChains(t, "Observation?subject:Patient.identifier=http://x|i%d")
	asked := 0
	hits := x.Match(index.Newest, time.Time{}, fhir.Create, r, func(c *search.Criteria, r *search.Resource) bool { asked++; return c.Match(r) }, nil)
	if len(hits) != 1 || hits[0].ID != "s7" || asked != 1 || p.reads != 1 {
		t.Errorf("%v, %d asked, %d read", hits, asked, p.reads)
	}
}

// Each of them then says what is the matter, as if nothing had been sought.
func TestChainsAreAllAskedWhereTheOtherResourceCannotBeRead(t *testing.T) {
	for name, p := range map[string]*people{
		"error":  {err: errors.New("not now")},
		"panic":  {broken: true},
		"absent": {},
	} {
		r := among(t, p, ofPatient7)
		x := manyChains(t, "Observation?subject:Patient.identifier=i%d,http://x|i%[1]d,j%[1]d")
		asked := map[*search.Criteria]int{}
		hits := x.Match(index.Newest, time.Time{}, fhir.Create, r, func(c *search.Criteria, r *search.Resource) bool { asked[c]++; return false }, nil)
		want := 1000
		if name == "absent" { // is known to meet nothing
			want = 0
		}
		if len(hits) != 0 || len(asked) != want {
			t.Errorf("%s: %d asked", name, len(asked))
		}
		for c, n := range asked {
			if n != 1 {
				t.Fatalf("%s: %s was asked %d times", name, c, n)
			}
		}
	}
}

func TestNothingIsReadOnceTheLastChainIsGone(t *testing.T) {
	p := &people{bodies: map[string]string{"Patient/7": patient7}}
	x := manyChains(t, "Observation?subject:Patient.identifier=a%d,b")
	match := func() { x.Match(index.Newest, time.Time{}, fhir.Create, among(t, p, ofPatient7), nil, nil) }
	if match(); p.reads != 1 {
		t.Errorf("%d reads", p.reads)
	}
	for i := range 1000 {
		x.Close(fhir.ID(fmt.Sprintf("s%d", i)), 2)
	}
	x.Prune(2)
	if match(); p.reads != 1 {
		t.Error("the Patient was read for nobody")
	}
}

// A chain beside a condition at hand is found by that, until it turns out to be of no use.
func TestAChainBesideAnOrdinaryStatusIsMovedToTheChain(t *testing.T) {
	p := &people{bodies: map[string]string{"Patient/7": patient7}}
	x := manyChains(t, "Observation?status=final&subject:Patient.identifier=http://x|i%d")
	asked := 0
	event := func() []index.Hit {
		asked = 0
		return x.Match(index.Newest, time.Time{}, fhir.Create, among(t, p, ofPatient7), func(c *search.Criteria, r *search.Resource) bool { asked++; return c.Match(r) }, nil)
	}
	for range 200 {
		if hits := event(); len(hits) != 1 || hits[0].ID != "s7" {
			t.Fatal(hits)
		}
	}
	if asked > 10 {
		t.Errorf("%d are asked", asked)
	}
}

func TestTheIndexFindsWhatAskingEveryChainFinds(t *testing.T) {
	p := &people{bodies: map[string]string{
		"Patient/1": `{"resourceType":"Patient","id":"1","gender":"male","name":[{"family":"Müller-Lang","given":["Ann"]}],"identifier":[{"value":"A"}],"generalPractitioner":[{"reference":"Practitioner/1"}]}`,
		"Patient/2": `{"resourceType":"Patient","id":"2","gender":"female","birthDate":"1980-01-01","identifier":[{"system":"s","value":"a"}]}`,
		"Group/1":   `{"resourceType":"Group","id":"1","type":"person","member":[{"entity":{"reference":"Patient/1"}}],"identifier":[{"value":"a"}]}`,
	}}
	var criteria []*search.Criteria
	x := index.New()
	for i, q := range []string{
		"Observation?subject:Patient.name=ann", "Observation?subject:Patient.family=lang", "Observation?subject:Patient.gender=male",
		"Observation?subject:Patient.identifier=a", "Observation?subject:Patient.identifier=|a,s|a", "Observation?patient.identifier=a",
		"Observation?subject.identifier=a", "Observation?subject:Group.identifier=a", "Observation?subject:Group.member=Patient/1",
		"Observation?subject:Patient._id=1,2", "Observation?subject:Patient.gender:not=male", "Observation?subject:Patient.birthdate=1980",
		"Observation?subject:Patient.name:missing=true", "Observation?subject:Patient.general-practitioner=1", "Observation?status=final&patient.gender=female",
		"Patient?link:Patient.identifier=a", "Patient?link:Patient.gender=male&gender=male", "Observation?has-member:Observation.status=final",
	} {
		criteria = append(criteria, linkedCriteria(t, q))
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%02d", i)), Version: 1, Interactions: all, Criteria: criteria[i]})
	}
	found := 0
	for _, body := range []string{
		`{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/1"}}`,
		`{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/2"}}`,
		`{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/3"}}`,
		`{"resourceType":"Observation","id":"o","subject":{"reference":"Group/1"}}`,
		`{"resourceType":"Observation","id":"o","subject":{"reference":"https://elsewhere/Patient/1"}}`,
		`{"resourceType":"Observation","id":"o","subject":{"reference":"#p"},"contained":[{"resourceType":"Patient","id":"p","gender":"male","identifier":[{"value":"a"}]}]}`,
		`{"resourceType":"Observation","id":"o","status":"final","hasMember":[{"reference":"Observation/o"}]}`,
		`{"resourceType":"Patient","id":"1","gender":"male","identifier":[{"value":"a"}],"link":[{"other":{"reference":"Patient/1"},"type":"seealso"},{"other":{"reference":"Patient/2"},"type":"seealso"}]}`,
	} {
		var want []fhir.ID
		for i, c := range criteria {
			if c.Match(among(t, p, body)) {
				want = append(want, fhir.ID(fmt.Sprintf("s%02d", i)))
			}
		}
		found += len(want)
		if got := ids(x.Match(index.Newest, time.Time{}, fhir.Create, among(t, p, body), nil, nil)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", body, got, want)
		}
	}
	if found < 20 {
		t.Errorf("%d matches are a weak test", found)
	}
}

// BenchmarkLinked measures an event of a Patient that a hundred thousand chains ask for.
func BenchmarkLinked(b *testing.B) {
	x := index.New()
	for i := range 100_000 {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprint(i)), Version: 1, Interactions: all, Criteria: linkedCriteria(b, fmt.Sprintf("Observation?subject:Patient.identifier=http://x|i%d", i))})
	}
	r := among(b, &people{bodies: map[string]string{"Patient/7": patient7}}, ofPatient7)
	var hits []index.Hit
	began, n := cpu(), 0
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(r.Tree(), search.Envelope{})
		hits = x.Match(index.Newest, time.Time{}, fhir.Create, r, nil, hits[:0])
		n++
	}
	measured(b, began, n)
}
