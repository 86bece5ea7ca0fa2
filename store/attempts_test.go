package store

import (
	"slices"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// A walk by runs sees each line once, whoever asks for what, and no run looks at more than it may.
func TestTheAttemptsOfAResourceAreFoundRunByRun(t *testing.T) {
	q := newQueue(t)
	q.match(2, 3)
	for i := range 40 {
		o := result(2+record.Sequence(i%2), 0, record.Timeout)
		o.Attempt, o.At = i+1, t0.Add(time.Duration(i)*time.Hour)
		q.outcome(o)
	}
	walk := func(f AttemptFilter, n int) (out []int, runs int) {
		t.Helper()
		for {
			run, before, err := q.AttemptRun(f, n)
			if err != nil {
				t.Fatal(err)
			}
			if len(run) > n {
				t.Fatalf("a run of %d, which may look at %d", len(run), n)
			}
			for _, a := range run {
				out = append(out, a.Attempt)
			}
			runs++
			if f.Before = before; before == (Place{}) {
				return out, runs
			}
		}
	}
	p3 := fhir.Key{Type: "Patient", ID: "p3"}
	got, runs := walk(AttemptFilter{Key: p3}, 7)
	if len(got) != 20 || got[0] != 40 || got[19] != 2 || runs != 3 {
		t.Errorf("of a resource: %v in %d runs", got, runs)
	}
	if got, _ := walk(AttemptFilter{Key: p3, Subscription: "other"}, 7); got != nil {
		t.Errorf("of a resource and another Subscription: %v", got)
	}
	if got, _ := walk(AttemptFilter{Key: fhir.Key{Type: "Patient", ID: "none"}}, 7); got != nil {
		t.Errorf("of a resource without any: %v", got)
	}
	if got, _ := walk(AttemptFilter{Subscription: "s"}, 8); len(got) != 40 || !slices.IsSortedFunc(got, func(a, b int) int { return b - a }) {
		t.Errorf("of a Subscription: %v", got)
	}

	for hours, newest := range map[int]int{-5: 0, 0: 2, 10: 12, 38: 40, 100: 40} {
		before, err := q.AttemptsUntil(t0.Add(time.Duration(hours) * time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := walk(AttemptFilter{Before: before}, 100)
		switch {
		case newest == 0 && before == (Place{}):
			t.Error("a time before all attempts is no bound")
		case newest > 0 && (len(got) == 0 || got[0] != newest):
			t.Errorf("until %d hours the newest is %v, want %d", hours, got, newest)
		case newest == 0 && got != nil:
			t.Errorf("before all there is %v", got)
		}
	}

	all := must(q.Attempts(ctx, AttemptFilter{Limit: 1}))
	a, ok, err := q.AttemptAt(all[0].Place)
	if err != nil || !ok || a.Attempt != 40 || a.Key != p3 {
		t.Errorf("at its place stands %+v, %v, %v", a, ok, err)
	}
	if _, ok, err := q.AttemptAt(Place{Sequence: 1, Index: 9}); ok || err != nil {
		t.Errorf("at no place: %v, %v", ok, err)
	}
}
