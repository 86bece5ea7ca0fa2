package match

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// patients is a Repository that has one Patient, whose gender may depend on the place. fails is
// taken one by one, and then there is no failure any more.
type patients struct {
	mu     sync.Mutex
	gender func(at record.Sequence) string
	fails  []error
	asked  []record.Sequence
}

func (p *patients) At(_ context.Context, at record.Sequence) search.Repository {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, at)
	return patientsAt{p, at}
}

type patientsAt struct {
	*patients
	at record.Sequence
}

func (p patientsAt) Read(fhir.Key) (search.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.fails) > 0 {
		err := p.fails[0]
		p.fails = p.fails[1:]
		return search.State{}, err
	}
	return search.State{Body: fmt.Appendf(nil, `{"resourceType":"Patient","id":"p","gender":%q}`, p.gender(p.at))}, nil
}

func (p patientsAt) Referrers(string, string, fhir.Key, fhir.ID, int) ([]fhir.ID, error) {
	return nil, nil
}

// chains runs a partition with a Subscription of all Observations and one of those of men.
func chains(t *testing.T, l *fakeLog, from Repository) *Runner {
	t.Helper()
	defs := search.R4().WithRepository()
	x := index.New()
	for id, criteria := range map[fhir.ID]string{"all": "Observation?", "men": "Observation?subject:Patient.gender=male"} {
		c, err := defs.Compile(criteria)
		if err != nil {
			t.Fatal(err)
		}
		x.Put(index.Entry{ID: id, Interactions: []fhir.Interaction{fhir.Create, fhir.Update, fhir.Delete}, Criteria: c})
	}
	r := newRunner(l, x)
	r.Definitions, r.Repository = defs, from
	return r
}

func observed(i fhir.Interaction, previous record.Sequence) record.Change {
	c := record.Change{Interaction: i, Previous: previous}
	c.Key = fhir.Key{Type: "Observation", ID: "o"}
	if i != fhir.Delete {
		c.Body = []byte(`{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"}}`)
	}
	return c
}

// met lists the matches of a chain as event:Subscription.
func met(l *fakeLog) []string {
	var out []string
	for _, b := range l.chain() {
		for _, m := range b.Matches {
			out = append(out, fmt.Sprintf("%d:%s", m.Event, m.Subscription))
		}
	}
	return out
}

func male(record.Sequence) string { return "male" }

func TestCriteriaSeeOtherResourcesAtThePlaceOfTheEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		p := &patients{gender: func(at record.Sequence) string {
			if at == 2 {
				return "male"
			}
			return "female"
		}}
		for _, c := range []record.Change{observed(fhir.Create, 0), observed(fhir.Update, 1), observed(fhir.Delete, 2), observed(fhir.Create, 0)} {
			l.write(c)
		}
		defer start(chains(t, l, p))()
		l.await(l.complete)
		// The delete at 3 is judged by the state before it, and so are the others.
		if got, want := met(l), []string{"1:all", "2:all", "2:men", "3:all", "3:men", "4:all"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if want := []record.Sequence{1, 2, 2, 4}; !slices.Equal(p.asked, want) {
			t.Errorf("asked at %v, want %v", p.asked, want)
		}
	})
}

func TestTheRepositoryIsAskedOnlyWhereACriteriaWantsToKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := newFakeLog(), &patients{gender: male}
		l.write(update()) // of a Patient
		defer start(chains(t, l, p))()
		l.await(l.complete)
		if len(p.asked) != 0 {
			t.Errorf("asked at %v", p.asked)
		}
	})
}

// A failure that may pass holds the partition up and loses nothing.
func TestAnEventWaitsForARepositoryThatIsNotAvailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		p := &patients{gender: male, fails: []error{errFault, errFault, errFault}}
		l.write(observed(fhir.Create, 0))
		l.write(observed(fhir.Update, 1))
		defer start(chains(t, l, p))()
		l.await(l.complete)
		if got, want := met(l), []string{"1:all", "1:men", "2:all", "2:men"}; !slices.Equal(got, want) || len(l.aside) != 0 {
			t.Errorf("%v, want %v; aside %v", got, want, l.aside)
		}
	})
}

// Where the Repository will not answer, the Subscription that asked loses the event, which is
// kept for an operator; nobody else does.
func TestAnEventThatIsNotAnsweredIsSetAsideForThoseWhoAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		p := &patients{gender: male, fails: []error{fmt.Errorf("%w: 503", search.ErrUnanswered)}}
		l.write(observed(fhir.Create, 0))
		l.write(observed(fhir.Update, 1))
		defer start(chains(t, l, p))()
		l.await(l.complete)
		if got, want := met(l), []string{"1:all", "2:all", "2:men"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if len(l.aside) != 1 || l.aside[0].event != 1 || !strings.Contains(l.aside[0].reason, "not asked: Subscription men") || strings.Contains(l.aside[0].reason, "all") {
			t.Errorf("aside %v", l.aside)
		}
	})
}

// sleeping answers late.
type sleeping struct{ *patients }

func (s sleeping) At(ctx context.Context, at record.Sequence) search.Repository {
	return sleepingAt{patientsAt{s.patients, at}}
}

type sleepingAt struct{ patientsAt }

func (s sleepingAt) Read(key fhir.Key) (search.State, error) {
	time.Sleep(4 * time.Second) // on the test's clock
	s2, err := s.patientsAt.Read(key)
	s2.Body = bytes.Replace(s2.Body, []byte(`"p"`), []byte(`"`+key.ID+`"`), 1)
	return s2, err
}

// What is read of other resources may take its time. It is not the time of those that need none.
func TestASlowRepositoryTakesTheEventFromNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		r := chains(t, l, sleeping{&patients{gender: male}})
		x := r.Index.(*index.Index)
		for i := range 40 {
			x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Interactions: []fhir.Interaction{fhir.Create}, Criteria: compile(t, fmt.Sprintf("Observation?_id=o,x%d", i))})
		}
		var subjects []string
		for i := range 10 { // which are read one after the other
			subjects = append(subjects, fmt.Sprintf(`{"reference":"Patient/p%d"}`, i))
		}
		c := observed(fhir.Create, 0)
		c.Body = []byte(`{"resourceType":"Observation","id":"o","performer":[` + strings.Join(subjects, ",") + `],"subject":{"reference":"Patient/p"}}`)
		for i := range 4 {
			criteria, err := r.Definitions.Compile(fmt.Sprintf("Observation?performer:Patient.gender=female&performer:Patient.birthdate=ne%d", 2000+i))
			if err != nil {
				t.Fatal(err)
			}
			x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("slow%d", i)), Interactions: []fhir.Interaction{fhir.Create}, Criteria: criteria})
		}
		l.write(c)
		defer start(r)()
		l.await(l.complete)
		got := met(l)
		if got = slices.DeleteFunc(got, func(s string) bool { return s == "1:men" }); len(got) != 41 { // s0 to s39, all
			t.Errorf("%d matches: %v", len(got), got)
		}
		for _, a := range l.aside {
			if strings.Contains(a.reason, "Subscription s0") || strings.Contains(a.reason, " all") {
				t.Errorf("set aside: %s", a.reason)
			}
		}
	})
}

func TestWithoutARepositoryNothingIsGuessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		l.write(observed(fhir.Create, 0))
		defer start(chains(t, l, nil))()
		l.await(l.complete)
		if got, want := met(l), []string{"1:all"}; !slices.Equal(got, want) || len(l.aside) != 1 {
			t.Errorf("%v, want %v; aside %v", got, want, l.aside)
		}
	})
}
