package index_test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

var all = []fhir.Interaction{fhir.Create, fhir.Update, fhir.Delete}

func compile(t testing.TB, criteria string) *search.Criteria {
	t.Helper()
	c, err := search.R4().Compile(criteria)
	if err != nil {
		t.Fatalf("%s: %v", criteria, err)
	}
	return c
}

// helper is what testing.T and rapid.T have in common here.
type helper interface {
	Helper()
	Fatal(...any)
}

func resource(t helper, body string) *search.Resource {
	t.Helper()
	tree, err := json.Parse([]byte(body), json.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return search.NewResource(search.R4(), tree)
}

func ids(hits []index.Hit) []fhir.ID {
	var out []fhir.ID
	for _, h := range hits {
		out = append(out, h.ID)
	}
	return out
}

func TestInvariant06AVersionMeetsTheEventsAfterItsOwnUpToTheOneThatEndedIt(t *testing.T) {
	c := compile(t, "Patient?")
	r := resource(t, `{"resourceType":"Patient","id":"a"}`)
	x := index.New()
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 10, Interactions: all, Criteria: c})
	x.Put(index.Entry{ID: "s", Birth: 10, Version: 20, Interactions: all, Criteria: c})
	x.Close("s", 30)
	x.Put(index.Entry{ID: "s", Birth: 40, Version: 40, Interactions: all, Criteria: c})
	for at, want := range map[record.Sequence][2]record.Sequence{ // birth and version; none is 0
		9: {}, 10: {}, 11: {10, 10}, 20: {10, 10}, 21: {10, 20}, 30: {10, 20}, 31: {}, 40: {}, 41: {40, 40}, index.Newest: {40, 40},
	} {
		var got [2]record.Sequence
		hits := x.Match(at, time.Time{}, fhir.Update, r, nil, nil)
		if len(hits) > 1 {
			t.Fatalf("event %d meets %v", at, hits)
		}
		for _, h := range hits {
			got = [2]record.Sequence{h.Birth, h.Version}
		}
		if got != want {
			t.Errorf("event %d meets %v, want %v", at, got, want)
		}
		e, ok := x.Get("s", at)
		if ok != (want[1] != 0) || e.Version != want[1] {
			t.Errorf("at %d version %d is in force (%v), want %d", at, e.Version, ok, want[1])
		}
	}
}

// A definition that a criteria uses may change while the Subscription does not. The version is
// then compiled anew and in force in that form from there on, under its own number.
func TestAVersionMayHaveSeveralFormsOneAfterTheOther(t *testing.T) {
	r := resource(t, `{"resourceType":"Patient","id":"a","gender":"male"}`)
	female, male := compile(t, "Patient?gender=female"), compile(t, "Patient?gender=male")
	x := index.New()
	x.Put(index.Entry{ID: "s", Birth: 1, Version: 5, Interactions: all, Criteria: female})
	x.Put(index.Entry{ID: "s", Birth: 1, Version: 5, From: 20, Basis: 20, Interactions: all, Criteria: male})
	x.Put(index.Entry{ID: "s", Birth: 1, Version: 5, From: 20, Basis: 20, Interactions: all, Criteria: female}) // folded again
	x.Put(index.Entry{ID: "s", Birth: 1, Version: 5, Interactions: all, Criteria: male})
	x.Put(index.Entry{ID: "other", Birth: 1, Version: 6, Interactions: all, Criteria: male})
	x.Close("s", 30)
	for at, want := range map[record.Sequence][]fhir.ID{10: {"other"}, 20: {"other"}, 21: {"other", "s"}, 30: {"other", "s"}, 31: {"other"}} {
		hits := x.Match(at, time.Time{}, fhir.Update, r, nil, nil)
		if !slices.Equal(ids(hits), want) || len(hits) == 2 && hits[1].Version != 5 {
			t.Errorf("event %d meets %v, want %v", at, hits, want)
		}
	}
	if versions, criteria := x.Size(); versions != 3 || criteria != 3 {
		t.Errorf("%d forms of %d criteria: equal texts on another basis are another criteria", versions, criteria)
	}
	if e, ok := x.Get("s", 25); !ok || e.From != 20 || e.Basis != 20 || e.Version != 5 || e.Criteria != male {
		t.Errorf("in force at 25: %+v", e)
	}
	x.Prune(30)
	if versions, criteria := x.Size(); versions != 1 || criteria != 1 {
		t.Errorf("%d versions, %d criteria after Prune", versions, criteria)
	}
}

// Criteria of one meaning are evaluated together, and each keeps the words of its author.
func TestEachVersionKeepsItsAuthorsWords(t *testing.T) {
	x := index.New()
	for i, s := range []string{"Patient?gender=male&_id=a", "Patient?_id=a&gender=male", "Patient?_id=a&gender=male"} {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprint(i)), Version: 1, Interactions: all, Criteria: compile(t, s)})
		if e, _ := x.Get(fhir.ID(fmt.Sprint(i)), 2); e.Criteria.String() != s {
			t.Errorf("%s became %s", s, e.Criteria)
		}
	}
	if _, n := x.Size(); n != 1 {
		t.Errorf("%d criteria", n)
	}
}

func TestAnEventThatIsAskedByTokensAllocatesNothing(t *testing.T) {
	x := index.New()
	for i := range 2000 {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprint(i)), Version: 1, Interactions: all,
			Criteria: compile(t, fmt.Sprintf("Observation?subject=Patient/p%d&status=final&code=http://loinc.org|c%d,http://loinc.org|c%d", i%500, i%7, i%11))})
	}
	body := []byte(`{"resourceType":"Observation","id":"o","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"c3"}]},"subject":{"reference":"Patient/p3"}}`)
	var tree json.Tree
	r := search.NewResource(search.R4(), nil)
	var hits []index.Hit
	event := func() {
		if err := tree.Parse(body, json.Limits{}); err != nil {
			t.Fatal(err)
		}
		r.Reset(&tree, search.Envelope{})
		hits = x.Match(index.Newest, time.Time{}, fhir.Create, r, nil, hits[:0])
	}
	for range 100 {
		event()
	}
	if n := testing.AllocsPerRun(1000, event); n != 0 || len(hits) == 0 {
		t.Errorf("%v allocations for %d matches", n, len(hits))
	}
}

func TestAnEventFromTheEndOnIsNotMet(t *testing.T) {
	end := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	r := resource(t, `{"resourceType":"Patient","id":"a"}`)
	x := index.New()
	x.Put(index.Entry{ID: "s", Version: 1, End: end, Interactions: all, Criteria: compile(t, "Patient")})
	for at, want := range map[time.Time]int{end.Add(-1): 1, end: 0, end.Add(1): 0} {
		if got := x.Match(2, at, fhir.Update, r, nil, nil); len(got) != want {
			t.Errorf("at %v it meets %v", at, got)
		}
	}
}

func TestOnlyInteractionsThatAreListenedToAreMet(t *testing.T) {
	r := resource(t, `{"resourceType":"Patient","id":"a"}`)
	x := index.New()
	for i, heard := range [][]fhir.Interaction{{fhir.Create}, {fhir.Update}, {fhir.Delete}, all, nil} {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprint(i)), Version: 1, Interactions: heard, Criteria: compile(t, "Patient")})
	}
	for i, want := range map[fhir.Interaction][]fhir.ID{
		fhir.Create: {"0", "3"}, fhir.Update: {"1", "3"}, fhir.Delete: {"2", "3"}, fhir.Unchanged: nil,
	} {
		if got := ids(x.Match(2, time.Time{}, i, r, nil, nil)); !slices.Equal(got, want) {
			t.Errorf("%s meets %v, want %v", i, got, want)
		}
	}
}

func TestFoldingTheLogAgainChangesNothing(t *testing.T) {
	c := compile(t, "Patient")
	x := index.New()
	fold := func() {
		x.Put(index.Entry{ID: "s", Birth: 1, Version: 1, Criteria: c})
		x.Put(index.Entry{ID: "s", Birth: 1, Version: 5, Criteria: c})
		x.Close("s", 7)
		x.Close("s", 9) // it is off already
		x.Put(index.Entry{ID: "t", Birth: 8, Version: 8, Until: 12, Criteria: c})
	}
	fold()
	s, u := x.Versions("s"), x.Versions("t")
	fold()
	if fmt.Sprint(x.Versions("s"), x.Versions("t")) != fmt.Sprint(s, u) {
		t.Errorf("became %v and %v, were %v and %v", x.Versions("s"), x.Versions("t"), s, u)
	}
	if s[0].Until != 5 || s[1].Until != 7 || u[0].Until != 12 {
		t.Errorf("the ends are %d, %d and %d", s[0].Until, s[1].Until, u[0].Until)
	}
	if n, _ := x.Size(); n != 3 {
		t.Errorf("%d versions", n)
	}
}

func TestSubscriptionsToAllTypesDoNotHearOfSubscriptions(t *testing.T) {
	x := index.New()
	x.Put(index.Entry{ID: "every", Version: 1, Interactions: all, Criteria: compile(t, "[*]")})
	x.Put(index.Entry{ID: "some", Version: 1, Interactions: all, Criteria: compile(t, "[Subscription,Patient]")})
	for typ, want := range map[string][]fhir.ID{"Patient": {"every", "some"}, "Group": {"every"}, "Subscription": {"some"}} {
		r := resource(t, fmt.Sprintf(`{"resourceType":%q,"id":"a"}`, typ))
		if got := ids(x.Match(2, time.Time{}, fhir.Create, r, nil, nil)); !slices.Equal(got, want) {
			t.Errorf("%s meets %v, want %v", typ, got, want)
		}
	}
}

func TestEqualCriteriaAreAskedOnce(t *testing.T) {
	x := index.New()
	for i := range 100 {
		criteria := []string{"Observation?code=a,b&status=final", "Observation?status=final&code=b,a"}[i%2]
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%02d", 99-i)), Version: record.Sequence(i + 1), Interactions: all, Criteria: compile(t, criteria)})
	}
	// Both values are there: the group is posted under either and still asked once.
	r := resource(t, `{"resourceType":"Observation","id":"o","status":"final","code":{"coding":[{"code":"a"},{"code":"b"},{"code":"a"}]}}`)
	asked := 0
	hits := x.Match(1000, time.Time{}, fhir.Create, r, func(c *search.Criteria, r *search.Resource) bool {
		asked++
		return c.Match(r)
	}, []index.Hit{{ID: "kept"}})
	if asked != 1 || len(hits) != 101 || hits[0].ID != "kept" {
		t.Errorf("asked %d times, %d hits", asked, len(hits))
	}
	if !slices.IsSorted(ids(hits[1:])) {
		t.Error("the hits are not in order of their ids")
	}
	if versions, criteria := x.Size(); versions != 100 || criteria != 1 {
		t.Errorf("%d versions, %d criteria", versions, criteria)
	}
}

func TestCostFollowsTheMatches(t *testing.T) {
	x := index.New()
	for i := range 10_000 {
		criteria := fmt.Sprintf("Observation?subject=Patient/p%d&status=final", i)
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: 1, Interactions: all, Criteria: compile(t, criteria)})
	}
	r := resource(t, `{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/p77"}}`)
	asked := 0
	hits := x.Match(2, time.Time{}, fhir.Create, r, func(c *search.Criteria, r *search.Resource) bool {
		asked++
		return c.Match(r)
	}, nil)
	if len(hits) != 1 || hits[0].ID != "s77" || asked > 3 {
		t.Errorf("asked %d criteria of 10,000, hits %v", asked, hits)
	}
}

func TestPruningLeavesNothingOfWhatEnded(t *testing.T) {
	x := index.New()
	r := resource(t, `{"resourceType":"Observation","id":"o","status":"final","code":{"coding":[{"code":"a"}]}}`)
	criteria := []string{"Observation?code=a", "Observation?code=a,b", "Observation", "[*]", "[Observation,Patient]"}
	for i, c := range criteria {
		id := fhir.ID(fmt.Sprint(i))
		x.Put(index.Entry{ID: id, Version: 1, Interactions: all, Criteria: compile(t, c)})
		x.Put(index.Entry{ID: id, Version: 10, Interactions: all, Criteria: compile(t, c+map[bool]string{true: "", false: "&status=final"}[i > 1])})
		x.Close(id, 20)
	}
	meets := func(at record.Sequence) int { return len(x.Match(at, time.Time{}, fhir.Update, r, nil, nil)) }
	x.Prune(9)
	if n, _ := x.Size(); n != 10 || meets(10) != 5 {
		t.Errorf("pruned too early: %d versions, event 10 meets %d", n, meets(10))
	}
	x.Prune(10)
	if n, _ := x.Size(); n != 5 || meets(10) != 0 || meets(20) != 5 {
		t.Errorf("after the first versions: %d versions, event 10 meets %d, event 20 %d", n, meets(10), meets(20))
	}
	x.Prune(20)
	if n, c := x.Size(); n != 0 || c != 0 || x.Versions("0") != nil {
		t.Errorf("after all: %d versions, %d criteria", n, c)
	}
	x.Put(index.Entry{ID: "0", Version: 30, Interactions: all, Criteria: compile(t, criteria[1])})
	if meets(31) != 1 {
		t.Error("a criteria that was pruned cannot come again")
	}
}

// pool is what the random tests draw from.
var pool = struct{ criteria, bodies []string }{
	criteria: []string{
		"Patient", "Patient?", "[*]", "[Patient,Observation]", "Patient?_id=a", "Patient?_id=a,b", "Patient?gender=female",
		"Patient?gender:not=female", "Patient?name=ann", "Patient?birthdate=gt1980", "Patient?identifier=s|1,s|2",
		"Observation?code=x", "Observation?code=x,y&status=final", "Observation?subject=Patient/a", "Observation?subject=a",
		"Observation?value-quantity=gt5", "Observation?status=final&subject=Patient/b", "Observation?code:not=x",
		"Observation?subject:missing=true", "Subscription", "Patient?_tag=t",
	},
	bodies: []string{
		`{"resourceType":"Patient","id":"a","gender":"female","name":[{"family":"Ann"}],"identifier":[{"system":"s","value":"1"},{"system":"s","value":"2"}]}`,
		`{"resourceType":"Patient","id":"b","birthDate":"1990-01-01","meta":{"tag":[{"code":"t"}]}}`,
		`{"resourceType":"Observation","id":"o","status":"final","code":{"coding":[{"code":"x"},{"code":"y"}]},"subject":{"reference":"Patient/a"},"valueQuantity":{"value":7}}`,
		`{"resourceType":"Observation","id":"p","status":"amended","code":{"coding":[{"code":"z"}]},"subject":{"reference":"Patient/b"}}`,
		`{"resourceType":"Observation","id":"q"}`,
		`{"resourceType":"Subscription","id":"s"}`,
		`{"resourceType":"Group","id":"g"}`,
	},
}

func TestTheIndexAnswersAsAListOfAllVersionsWould(t *testing.T) {
	resources := make([]*search.Resource, len(pool.bodies))
	for i, b := range pool.bodies {
		resources[i] = resource(t, b)
	}
	rapid.Check(t, func(t *rapid.T) {
		x := index.New()
		var model []*index.Entry
		var seq, pruned record.Sequence
		inForce := func(id fhir.ID) *index.Entry {
			for _, e := range model {
				if e.ID == id && e.Until == 0 {
					return e
				}
			}
			return nil
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			id := fhir.ID(fmt.Sprintf("s%d", rapid.IntRange(0, 9).Draw(t, "id")))
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1, 2:
				seq++
				c, err := search.R4().Compile(rapid.SampledFrom(pool.criteria).Draw(t, "criteria"))
				if err != nil {
					t.Fatal(err)
				}
				e := index.Entry{ID: id, Birth: 1, Version: seq, Interactions: all[:rapid.IntRange(0, 3).Draw(t, "hears")], Criteria: c}
				if old := inForce(id); old != nil {
					old.Until = seq
				}
				x.Put(e)
				model = append(model, &e)
			case 3:
				seq++
				if old := inForce(id); old != nil {
					old.Until = seq
				}
				x.Close(id, seq)
			case 4:
				if seq > pruned && rapid.Bool().Draw(t, "prune") {
					pruned = record.Sequence(rapid.Uint64Range(uint64(pruned), uint64(seq)).Draw(t, "below"))
					x.Prune(pruned)
				}
			default:
				at := record.Sequence(rapid.Uint64Range(uint64(pruned)+1, uint64(seq)+1).Draw(t, "at"))
				r := rapid.SampledFrom(resources).Draw(t, "resource")
				i := rapid.SampledFrom(all).Draw(t, "interaction")
				var want []index.Hit
				for _, e := range model {
					if e.InForce(at, time.Time{}) && slices.Contains(e.Interactions, i) && e.Criteria.Match(r) {
						want = append(want, index.Hit{ID: e.ID, Birth: e.Birth, Version: e.Version})
					}
				}
				slices.SortFunc(want, func(a, b index.Hit) int { return cmp.Compare(a.ID, b.ID) })
				if got := x.Match(at, time.Time{}, i, r, nil, nil); !slices.Equal(got, want) {
					t.Fatalf("event %d meets %v, want %v", at, got, want)
				}
			}
		}
	})
}

func TestReadersAreNotDisturbedByWriters(t *testing.T) {
	x := index.New()
	criteria := make([]*search.Criteria, 200)
	for i := range criteria {
		criteria[i] = compile(t, fmt.Sprintf("Observation?code=x,c%d&status=final", i))
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%03d", i)), Version: record.Sequence(i + 1), Interactions: all, Criteria: criteria[i]})
	}
	const body = `{"resourceType":"Observation","id":"o","status":"final","code":{"coding":[{"code":"x"},{"code":"c7"}]}}`
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		r := resource(t, body)
		wg.Go(func() {
			for {
				if got := x.Match(201, time.Time{}, fhir.Update, r, nil, nil); len(got) != 200 {
					t.Errorf("an event before all changes meets %d", len(got))
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for seq := record.Sequence(201); seq < 4000; seq++ {
		id := fhir.ID(fmt.Sprintf("s%03d", seq%250))
		switch {
		case seq%3 == 0:
			x.Close(id, seq)
		default:
			c := compile(t, fmt.Sprintf("Observation?code=x,n%d", seq))
			x.Put(index.Entry{ID: id, Version: seq, Interactions: all, Criteria: c})
		}
		if seq%100 == 0 {
			x.Prune(200)
			x.Versions(id)
		}
	}
	close(stop)
	wg.Wait()
}
