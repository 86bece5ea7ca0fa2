package search

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// chained are definitions whose criteria may ask for other resources.
var chained = R4().WithBaseURLs("https://example.org/fhir").WithRepository()

// world is a Repository over resources in memory, each with its versions in order. A version
// without a body is a delete.
type world struct {
	at       int // place in time
	versions map[fhir.Key][]version
	fail     map[fhir.Key]error // what Read says of a key
	listFail error
	reads    int
	lists    int
}

type version struct {
	at   int
	body string
}

// newWorld makes a world of bodies, all written at place 1.
func newWorld(bodies ...string) *world {
	w := &world{at: 1, versions: map[fhir.Key][]version{}, fail: map[fhir.Key]error{}}
	for _, b := range bodies {
		w.write(1, b)
	}
	return w
}

func (w *world) write(at int, body string) fhir.Key {
	t, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		panic(err)
	}
	key := fhir.Key{Type: t.Str(t.Get(t.Root(), "resourceType")), ID: fhir.ID(t.Str(t.Get(t.Root(), "id")))}
	w.versions[key] = append(w.versions[key], version{at, body})
	return key
}

func (w *world) remove(at int, key fhir.Key) {
	w.versions[key] = append(w.versions[key], version{at, ""})
}

func (w *world) Read(key fhir.Key) (s State, err error) {
	w.reads++
	if err := w.fail[key]; err != nil {
		return s, err
	}
	for _, v := range w.versions[key] {
		if v.at <= w.at {
			s.Body = nil
			if v.body != "" {
				s.Body = []byte(v.body)
			}
		}
	}
	return s, nil
}

// Referrers lists every resource of the type that has ever named the target, as an index does
// from which nothing is removed.
func (w *world) Referrers(typ, _ string, target fhir.Key, after fhir.ID, limit int) ([]fhir.ID, error) {
	w.lists++
	if w.listFail != nil {
		return nil, w.listFail
	}
	var ids []fhir.ID
	for key, versions := range w.versions {
		names := slices.ContainsFunc(versions, func(v version) bool { return strings.Contains(v.body, `"`+target.String()+`"`) })
		if key.Type == typ && key.ID > after && names {
			ids = append(ids, key.ID)
		}
	}
	slices.Sort(ids)
	return ids[:min(limit, len(ids))], nil
}

// beside is a resource with a world around it.
func beside(t rapid.TB, w Repository, body string) *Resource {
	t.Helper()
	tree, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := NewResource(chained, tree)
	r.SetRepository(w)
	return r
}

func decide(t testing.TB, r *Resource, criteria string) (bool, error) {
	t.Helper()
	c, err := chained.Compile(criteria)
	if err != nil {
		t.Fatalf("%s: %v", criteria, err)
	}
	met, err := c.Decide(r)
	if explained := c.Explain(r); err == nil {
		all := !slices.ContainsFunc(explained, func(c Condition) bool { return !c.Met })
		if all != met {
			t.Errorf("%s: decided %v, explained %+v", criteria, met, explained)
		}
	}
	return met, err
}

// chainRule is one rule or example of the specification.
type chainRule struct {
	section  string
	criteria string
	resource string
	others   []string
	want     bool
}

func checkRules(t *testing.T, rules []chainRule) {
	t.Helper()
	for _, rule := range rules {
		r := beside(t, newWorld(rule.others...), rule.resource)
		met, err := decide(t, r, rule.criteria)
		if err != nil || met != rule.want {
			t.Errorf("%s: %s is %v (%v), want %v\n%s\n%s", rule.section, rule.criteria, met, err, rule.want, rule.resource, strings.Join(rule.others, "\n"))
		}
	}
}

var errDown = errors.New("down")

func patient(id, rest string) string {
	if rest != "" {
		rest = "," + rest
	}
	return fmt.Sprintf(`{"resourceType":"Patient","id":%q%s}`, id, rest)
}

func observation(id, subject, rest string) string {
	if rest != "" {
		rest = "," + rest
	}
	return fmt.Sprintf(`{"resourceType":"Observation","id":%q,"subject":{"reference":%q}%s}`, id, subject, rest)
}

// What cannot be found out is neither met nor unmet. A reason that may pass comes before one
// that stays, since asking again may show that the criteria is not met.
func TestWhatARepositoryDoesNotAnswerIsNotDecided(t *testing.T) {
	unanswered := fmt.Errorf("%w: 503", ErrUnanswered)
	one, two := fhir.Key{Type: "Patient", ID: "1"}, fhir.Key{Type: "Patient", ID: "2"}
	group := `{"resourceType":"Group","id":"g","type":"person","member":[{"entity":{"reference":"Patient/1"}},{"entity":{"reference":"Patient/2"}}]}`
	male, female := patient("1", `"gender":"male"`), patient("2", `"gender":"female"`)
	for _, c := range []struct {
		name     string
		criteria string
		fail     map[fhir.Key]error
		met      bool
		passing  bool // the error is one that may pass
		final    bool // the error is one that stays
	}{
		{"all is answered", "Group?member:Patient.gender=female", nil, true, false, false},
		{"what fails was not needed", "Group?member:Patient.gender=male", map[fhir.Key]error{two: errDown}, true, false, false},
		{"what fails stays unknown, another one meets it", "Group?member:Patient.gender=female", map[fhir.Key]error{one: unanswered}, true, false, false},
		{"what fails may be the one", "Group?member:Patient.gender=female", map[fhir.Key]error{two: unanswered}, false, false, true},
		{"what fails may be the one, and pass", "Group?member:Patient.gender=female", map[fhir.Key]error{two: errDown}, false, true, false},
		{"none meets it, and one is unknown", "Group?member:Patient.gender=other", map[fhir.Key]error{one: unanswered}, false, false, true},
		{"another condition is not met", "Group?member:Patient.gender=other&type=animal", map[fhir.Key]error{one: unanswered}, false, false, false},
		{"another chain is not met", "Group?member:Patient.gender=male&member:Patient._id=3", map[fhir.Key]error{one: nil}, false, false, false},
		{"both kinds", "Group?member:Patient.gender=other", map[fhir.Key]error{one: unanswered, two: errDown}, false, true, false},
		{"a negation of the unknown", "Group?member:Patient.gender:not=male,female", map[fhir.Key]error{one: unanswered}, false, false, true},
	} {
		w := newWorld(male, female)
		w.fail = c.fail
		met, err := decide(t, beside(t, w, group), c.criteria)
		var passing *Unavailable
		if met != c.met || errors.As(err, &passing) != c.passing || errors.Is(err, ErrUnanswered) != c.final || (err != nil) != (c.passing || c.final) {
			t.Errorf("%s: %v, %v", c.name, met, err)
		}
		if c.passing && !errors.Is(err, errDown) {
			t.Errorf("%s: %v does not say why", c.name, err)
		}
	}
}

func TestReferrersThatAreNotAnsweredAreNotDecided(t *testing.T) {
	w := newWorld(observation("o", "Patient/1", `"status":"final"`))
	for _, fail := range []error{errDown, fmt.Errorf("%w: 503", ErrUnanswered)} {
		w.listFail = fail
		met, err := decide(t, beside(t, w, patient("1", "")), "Patient?_has:Observation:subject:status=final")
		if met || !errors.Is(err, fail) {
			t.Errorf("%v, %v", met, err)
		}
	}
}

func TestWithoutARepositoryAChainIsNotDecided(t *testing.T) {
	c, err := chained.Compile("Observation?subject:Patient.gender=male")
	if err != nil || !c.NeedsRepository() {
		t.Fatal(err)
	}
	tree, err := json.Parse([]byte(observation("o", "Patient/1", "")), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := NewResource(chained, tree)
	if met, err := c.Decide(r); met || !errors.Is(err, ErrUnanswered) {
		t.Errorf("%v, %v", met, err)
	}
	if x := c.Explain(r); x[1].Met || !strings.Contains(x[1].Note, "no repository") {
		t.Errorf("%+v", x)
	}
}

// What stands inside of the body needs no Repository.
func TestAContainedResourceIsAskedWithoutARepository(t *testing.T) {
	tree, err := json.Parse([]byte(`{"resourceType":"Observation","contained":[{"resourceType":"Patient","id":"x","gender":"male"}],"subject":{"reference":"#x"}}`), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for gender, want := range map[string]bool{"male": true, "female": false} {
		if met, err := chainedCriteria(t, "Observation?subject:Patient.gender="+gender).Decide(NewResource(chained, tree)); met != want || err != nil {
			t.Errorf("%s: %v, %v", gender, met, err)
		}
	}
}

// Other resources are read once for an event, however many criteria ask, and only where what is
// at hand allows a match.
func TestAResourceIsReadOnceAndOnlyWhereItMatters(t *testing.T) {
	w := newWorld(patient("1", `"gender":"male","birthDate":"1974-12-25"`))
	r := beside(t, w, observation("o", "Patient/1", `"status":"final"`))
	for criteria, want := range map[string]bool{
		"Observation?subject:Patient.gender=male&status=amended": false,
		"Observation?status=amended&subject:Patient.gender=male": false,
	} {
		if met, err := chainedCriteria(t, criteria).Decide(r); met != want || err != nil || w.reads != 0 {
			t.Errorf("%s: %v, %v after %d reads", criteria, met, err, w.reads)
		}
	}
	for _, criteria := range []string{
		"Observation?subject:Patient.gender=male", "Observation?patient.gender=male", "Observation?subject.birthdate=1974&status=final",
	} {
		if met, err := chainedCriteria(t, criteria).Decide(r); !met || err != nil || w.reads != 1 {
			t.Errorf("%s: %v, %v after %d reads", criteria, met, err, w.reads)
		}
	}
	r.Reset(r.Tree(), Envelope{})
	if met, _ := chainedCriteria(t, "Observation?patient.gender=male").Decide(r); !met || w.reads != 2 {
		t.Errorf("after Reset: %v after %d reads", met, w.reads)
	}
}

func chainedCriteria(t rapid.TB, criteria string) *Criteria {
	t.Helper()
	c, err := chained.Compile(criteria)
	if err != nil {
		t.Fatalf("%s: %v", criteria, err)
	}
	return c
}

// A Repository speaks of a place of the log: what was written later does not count, and what
// was deleted later is there.
func TestOtherResourcesAreAsTheyWereAtThePlaceOfTheEvent(t *testing.T) {
	w := newWorld()
	key := w.write(10, patient("1", `"gender":"male"`))
	w.write(20, patient("1", `"gender":"female"`))
	w.remove(30, key)
	w.write(10, observation("o1", "Patient/1", `"status":"final"`))
	w.write(20, observation("o1", "Patient/2", `"status":"final"`))
	o, p := beside(t, w, observation("x", "Patient/1", "")), beside(t, w, patient("1", ""))
	for _, c := range []struct {
		at                int
		male, female, has bool
	}{{9, false, false, false}, {10, true, false, true}, {19, true, false, true}, {20, false, true, false}, {29, false, true, false}, {30, false, false, false}} {
		w.at = c.at
		for _, r := range []*Resource{o, p} {
			r.Reset(r.Tree(), Envelope{})
		}
		male, err1 := decide(t, o, "Observation?subject:Patient.gender=male")
		female, err2 := decide(t, o, "Observation?subject:Patient.gender=female")
		has, err3 := decide(t, p, "Patient?_has:Observation:subject:status=final")
		if err := errors.Join(err1, err2, err3); err != nil || male != c.male || female != c.female || has != c.has {
			t.Errorf("at %d: %v %v %v, %v", c.at, male, female, has, err)
		}
	}
}

// A criteria and a body that together ask for very many resources end at a count of steps, at
// the same one however often they are asked and whatever was kept from before.
func TestAChainEndsAtACountOfSteps(t *testing.T) {
	const many = maxSteps/visitCost + 10
	w := newWorld(patient("1", `"gender":"male"`))
	var members strings.Builder
	for i := range many {
		if i > 0 {
			members.WriteString(",")
		}
		fmt.Fprintf(&members, `{"entity":{"reference":"Patient/n%d"}}`, i)
	}
	r := beside(t, w, `{"resourceType":"Group","id":"g","member":[`+members.String()+`,{"entity":{"reference":"Patient/1"}}]}`)
	c := chainedCriteria(t, "Group?member:Patient.gender=male")
	for range 3 {
		if met, err := c.Decide(r); met || !errors.Is(err, ErrTooCostly) {
			t.Fatalf("%v, %v", met, err)
		}
	}
	if len(r.others.byKey) > maxKept {
		t.Errorf("%d resources are kept", len(r.others.byKey))
	}
	r = beside(t, w, `{"resourceType":"Group","id":"g","member":[{"entity":{"reference":"Patient/1"}},`+members.String()+`]}`)
	if met, err := c.Decide(r); !met || err != nil {
		t.Errorf("the first member meets it, and it is %v, %v", met, err)
	}
}

// Resources that once referred and do so no more are read, and count for each criteria by itself:
// how many others were asked before does not matter.
func TestWhatOnceReferredCountsForEachCriteria(t *testing.T) {
	w := newWorld()
	for i := range 200 {
		id := fmt.Sprintf("o%03d", i)
		w.write(1, observation(id, "Patient/p", `"status":"final"`))
		w.write(2, observation(id, "Patient/q", `"status":"final"`))
	}
	w.write(1, observation("z", "Patient/p", `"status":"amended"`))
	w.at = 2
	r := beside(t, w, patient("p", ""))
	for i := range maxCandidates/200 + 2 {
		met, err := chainedCriteria(t, "Patient?_has:Observation:subject:status=amended").Decide(r)
		if !met || err != nil {
			t.Fatalf("%d: %v, %v", i, met, err)
		}
	}
	if r.others.candidates != 200 {
		t.Errorf("%d candidates were counted", r.others.candidates)
	}
}

// Rings of references end where the criteria ends.
func TestAChainThroughARingOfReferencesEnds(t *testing.T) {
	a := `{"resourceType":"Observation","id":"a","status":"final","hasMember":[{"reference":"Observation/b"},{"reference":"Observation/a"}]}`
	b := `{"resourceType":"Observation","id":"b","status":"amended","hasMember":[{"reference":"Observation/a"}]}`
	r := beside(t, newWorld(a, b), a)
	for criteria, want := range map[string]bool{
		"Observation?has-member.has-member.has-member.status=final":                          true,
		"Observation?has-member:Observation.has-member:Observation.status=amended":           true, // a, a, b
		"Observation?has-member:Observation.has-member:Observation.status=unknown":           false,
		"Observation?_has:Observation:has-member:_has:Observation:has-member:status=amended": true,
		"Observation?_has:Observation:has-member:status=final":                               true, // itself
	} {
		if met, err := decide(t, r, criteria); met != want || err != nil {
			t.Errorf("%s: %v, %v", criteria, met, err)
		}
	}
}

// A body that cannot be read is no reason to say that the criteria is not met.
func TestAnotherResourceThatCannotBeReadIsNotDecided(t *testing.T) {
	w := newWorld()
	for id, body := range map[fhir.ID]string{"1": `{"resourceType":"Patient"`, "2": `{"resourceType":"Device","id":"2"}`} {
		w.versions[fhir.Key{Type: "Patient", ID: id}] = []version{{1, body}}
		met, err := decide(t, beside(t, w, observation("o", "Patient/"+string(id), "")), "Observation?subject:Patient.gender=male")
		if met || !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), "Patient/"+string(id)) {
			t.Errorf("%s: %v, %v", body, met, err)
		}
	}
}
