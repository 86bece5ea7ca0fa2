package index_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// asked counts the criteria that an event is held against.
func asked(x *index.Index, r *search.Resource) (n, met int) {
	met = len(x.Match(index.Newest, time.Time{}, fhir.Update, r, func(c *search.Criteria, r *search.Resource) bool {
		n++
		return c.Match(r)
	}, nil))
	return n, met
}

// Where a value turns out to be in every event, criteria that are found by it, and have a
// better condition, are found by that before long: the cost of an event must not follow the
// number of Subscriptions for ever because a guess was wrong.
func TestGroupsLeaveAConditionThatEveryEventMeets(t *testing.T) {
	const n = 5_000
	for _, test := range []struct {
		name     string
		criteria string
		body     func(i int) string
		before   string // where the guess puts them
		after    string
		met      int
	}{
		{"a reference that all have, and a rare class",
			"Encounter?service-provider=Organization/only&class=c%d",
			func(i int) string {
				return fmt.Sprintf(`{"resourceType":"Encounter","id":"e","class":{"code":"c%d"},"serviceProvider":{"reference":"Organization/only"}}`, i)
			}, "service-provider", "class", 1},
		{"a day that all have, and a rare status",
			"Appointment?date=2026-11-22&status=s%d",
			func(i int) string {
				return fmt.Sprintf(`{"resourceType":"Appointment","id":"a","status":"s%d","start":"2026-11-22T10:00:00Z"}`, i)
			}, "date:order", "status", 1},
		{"one code in most lists, and rare ones beside it",
			"Observation?code=everywhere,other%d&value-quantity=%[1]d",
			func(i int) string {
				return fmt.Sprintf(`{"resourceType":"Observation","id":"o","code":{"coding":[{"code":"everywhere"}]},"valueQuantity":{"value":%d}}`, i)
			}, "code", "value-quantity:order", 1},
		{"a beginning that all have, and a rare tag",
			"Patient?name=everybody&_tag=t%d",
			func(i int) string {
				return fmt.Sprintf(`{"resourceType":"Patient","id":"p","name":[{"family":"Everybody"}],"meta":{"tag":[{"code":"t%d"}]}}`, i)
			}, "name:start8", "_tag", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := index.New()
			for i := range n {
				x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: record.Sequence(i + 1), Interactions: all, Criteria: compile(t, fmt.Sprintf(test.criteria, 10_000+i))})
			}
			r := rand.New(rand.NewPCG(3, 4))
			first, met := asked(x, resource(t, test.body(10_000+r.IntN(n))))
			if typ := resource(t, test.body(0)).Type(); first != n || met != test.met || x.Found(typ)[test.before] != n {
				t.Fatalf("at first %d are asked, %d met: %v", first, met, x.Found(typ))
			}
			last := 0
			for range 200 {
				if last, met = asked(x, resource(t, test.body(10_000+r.IntN(n)))); met != test.met {
					t.Fatalf("%d met", met)
				}
			}
			typ := resource(t, test.body(0)).Type()
			if last > n/50 || x.Found(typ)[test.after] < n-n/50 {
				t.Errorf("after 200 events %d are asked: %v", last, x.Found(typ))
			}
		})
	}
}

// Of two conditions that tell little a group settles for one, and stays.
func TestGroupsThatHaveNowhereBetterToGoStay(t *testing.T) {
	x := index.New()
	const n = 500
	for i := range n {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: record.Sequence(i + 1), Interactions: all,
			Criteria: compile(t, fmt.Sprintf("Observation?status=final&category=laboratory&value-string:contains=word%d", i))})
	}
	r := resource(t, `{"resourceType":"Observation","id":"o","status":"final","category":[{"coding":[{"code":"laboratory"}]}],"valueString":"word7"}`)
	for range 500 {
		asked(x, r)
	}
	settled := x.Moves()
	for range 5000 {
		if _, met := asked(x, r); met != 1 {
			t.Fatalf("%d met", met)
		}
	}
	if more := x.Moves() - settled; more != 0 {
		t.Errorf("%d moves after the first %d", more, settled)
	}
}

// Who meets what they are asked about costs what matches cost, and has no reason to move.
func TestGroupsThatAreMetStay(t *testing.T) {
	x := index.New()
	for i := range 100 {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: record.Sequence(i + 1), Interactions: all,
			Criteria: compile(t, fmt.Sprintf("Observation?status=final&code=x,n%d", i))})
	}
	r := resource(t, `{"resourceType":"Observation","id":"o","status":"final","code":{"coding":[{"code":"x"}]}}`)
	for range 1000 {
		if _, met := asked(x, r); met != 100 {
			t.Fatalf("%d met", met)
		}
	}
	if x.Moves() != 0 {
		t.Errorf("%d moves", x.Moves())
	}
}

// A version that has moved can be pruned, replaced and put again like any other.
func TestWhatHasMovedCanBePruned(t *testing.T) {
	x := index.New().Impatient()
	const n = 50
	put := func(from int) {
		for i := range n {
			x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: record.Sequence(from + i), Interactions: all,
				Criteria: compile(t, fmt.Sprintf("Observation?subject=Patient/a&code=c%d,d%[1]d&date=2020-01-%02d", i, 1+i%28))})
		}
	}
	r := resource(t, `{"resourceType":"Observation","id":"o","code":{"coding":[{"code":"d7"}]},"subject":{"reference":"Patient/a"},"effectiveDateTime":"2020-01-08"}`)
	put(1)
	for range 20 {
		if _, met := asked(x, r); met != 1 {
			t.Fatalf("%d met", met)
		}
	}
	if x.Moves() == 0 {
		t.Error("nobody has moved")
	}
	for i := range n {
		x.Close(fhir.ID(fmt.Sprintf("s%d", i)), 1000)
	}
	x.Prune(1000)
	if versions, groups := x.Size(); versions != 0 || groups != 0 {
		t.Errorf("%d versions, %d groups are left", versions, groups)
	}
	if n, met := asked(x, r); n != 0 || met != 0 {
		t.Errorf("%d asked, %d met of nothing", n, met)
	}
	put(2000)
	if _, met := asked(x, r); met != 1 {
		t.Errorf("%d met after it came again", met)
	}
}

// A reader must find a group at one place or the other while it moves, even if it has passed by
// where the group goes before it came, and comes to where it was after it left.
func TestAGroupIsFoundWhileItMoves(t *testing.T) {
	const n, rounds = 600, 40
	var criteria []*search.Criteria
	for i := range n {
		criteria = append(criteria, compile(t, fmt.Sprintf("Observation?subject=Patient/hot&code=common,c%d", i)))
	}
	const body = `{"resourceType":"Observation","id":"o","code":{"coding":[{"code":%q}]},"subject":{"reference":"Patient/hot"}}`
	vain, meant := fmt.Sprintf(body, "other"), fmt.Sprintf(body, "common")
	moves := 0
	for range rounds {
		x := index.New().Impatient()
		// This one makes the place where the others go come first.
		x.Put(index.Entry{ID: "code", Version: 1, Interactions: all, Criteria: compile(t, "Observation?code=common")})
		for i, c := range criteria {
			x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: record.Sequence(i + 2), Interactions: all, Criteria: c})
		}
		var wg sync.WaitGroup
		var stop atomic.Bool
		for range 2 {
			r := resource(t, meant)
			wg.Go(func() {
				for !stop.Load() {
					if hits := x.Match(index.Newest, time.Time{}, fhir.Update, r, nil, nil); len(hits) != n+1 {
						t.Errorf("%d of %d are met", len(hits), n+1)
						return
					}
				}
			})
		}
		r := resource(t, vain)
		for range 100 {
			if hits := x.Match(index.Newest, time.Time{}, fhir.Update, r, nil, nil); len(hits) != 0 {
				t.Errorf("%v are met", hits)
			}
			if x.Found("Observation")["subject"] == 0 {
				break
			}
		}
		stop.Store(true)
		wg.Wait()
		moves += int(x.Moves())
	}
	if moves < n*rounds/2 {
		t.Errorf("%d moves", moves)
	}
}
