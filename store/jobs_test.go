package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func (q *queue) order(id string, o record.Order) {
	q.t.Helper()
	q.appendMatches(nil, &record.Job{ID: id, By: "token", Time: t0, Order: &o})
}

func (q *queue) step(id string, n int, state record.JobState, j record.Job) []Pending {
	q.t.Helper()
	j.ID, j.Time = id, t0.Add(time.Duration(n)*time.Second)
	j.Step = &record.Step{N: n, State: state, Cursor: fmt.Sprint("c", n), Done: n, Total: 9}
	return q.appendMatches(nil, &j)
}

// A sender that does not know whether its step was stored writes it again. The second does
// nothing: no match, no round, no purge.
func TestAStepThatIsWrittenTwiceCountsOnce(t *testing.T) {
	q := newQueue(t)
	q.match(2)
	q.outcome(final(result(2, 0, record.Timeout)))
	q.order("j", record.Order{Kind: record.JobReplay, Subscription: "s", Total: 9})
	work := record.Job{Replay: []record.MatchID{id(2)}, Matches: []record.Match{{Event: 3, Birth: 1, Subscription: "s", Version: 1, Job: "j"}}}
	if got := q.step("j", 1, record.JobRunning, work); len(got) != 2 {
		t.Fatalf("the first made %d matches pending, want 2", len(got))
	}
	q.outcome(final(result(2, 1, record.Accepted)), final(result(3, 0, record.Accepted)))
	for name, again := range map[string]int{"the same step": 1, "one too far": 3} {
		if got := q.step("j", again, record.JobRunning, work); len(got) != 0 {
			t.Errorf("%s made %d matches pending", name, len(got))
		}
	}
	if got := q.step("unknown", 1, record.JobRunning, work); len(got) != 0 {
		t.Errorf("the step of a job that was never ordered made %d matches pending", len(got))
	}
	if got := q.step("j", 2, record.JobCancelled, record.Job{}); len(got) != 0 {
		t.Errorf("a cancel made %d matches pending", len(got))
	}
	if got := q.step("j", 3, record.JobRunning, work); len(got) != 0 {
		t.Errorf("a step behind the end made %d matches pending", len(got))
	}
	j, ok, err := q.Job("j")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	want := Job{
		Step: record.Step{N: 2, State: record.JobCancelled, Cursor: "c2", Done: 2, Total: 9},
		ID:   "j", Kind: record.JobReplay, Subscription: "s", By: "token", Sequence: 2, Last: 7,
		Created: t0, Started: t0.Add(time.Second), Updated: t0.Add(2 * time.Second),
	}
	if order := j.Order; order.Kind != record.JobReplay || order.Subscription != "s" || order.Total != 9 {
		t.Errorf("order %+v", order)
	}
	if j.Order = (record.Order{}); fmt.Sprint(j) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", j, want)
	}
	q.order("j", record.Order{Kind: record.JobPurge}) // said twice
	if again, _, _ := q.Job("j"); again.Kind != record.JobReplay {
		t.Errorf("a second order replaced the first: %+v", again)
	}
}

func TestJobsThatEndedAreKeptUpToABound(t *testing.T) {
	q := newQueue(t)
	q.order("long", record.Order{Kind: record.JobTrigger, Resources: []string{strings.Repeat("x", keptOrderLen)}})
	q.order("open", record.Order{Kind: record.JobTrigger, Resources: []string{strings.Repeat("x", keptOrderLen)}})
	q.step("long", 1, record.JobDone, record.Job{})
	for name, kept := range map[string]bool{"long": false, "open": true} {
		if j, ok, err := q.Job(name); err != nil || !ok || (len(j.Order.Resources) > 0) != kept {
			t.Errorf("%s: %v, %v, %d resources", name, ok, err, len(j.Order.Resources))
		}
	}
	for i := range keptJobs {
		name := fmt.Sprint("j", i)
		q.order(name, record.Order{Kind: record.JobReplay})
		q.step(name, 1, record.JobDone, record.Job{})
	}
	all := must(q.Jobs())
	if len(all) != keptJobs+1 || all[0].ID != fmt.Sprint("j", keptJobs-1) || all[len(all)-1].ID != "open" {
		t.Errorf("%d jobs, from %s to %s", len(all), all[0].ID, all[len(all)-1].ID)
	}
	if _, ok, _ := q.Job("long"); ok {
		t.Error("the oldest that ended is still there")
	}
}

// The new round of a match says what its replay asked for; what is not asked for stays.
func TestARoundTellsWhatItsReplayAskedFor(t *testing.T) {
	q := newQueue(t)
	q.match(2)
	told := func(as fhir.Interaction) fhir.Interaction {
		t.Helper()
		p := q.appendMatches(nil, &record.Job{ID: "r", Replay: []record.MatchID{id(2)}, Interaction: as})
		if len(p) != 1 {
			t.Fatalf("%d became pending", len(p))
		}
		listed, m := must(q.PendingFrom(1, 0, 0)), must(q.Events(1, 1, 1, 1))
		if listed[0].Interaction != p[0].Interaction || m[0].Interaction != p[0].Interaction {
			t.Errorf("told %s, listed as %s and %s", p[0].Interaction, listed[0].Interaction, m[0].Interaction)
		}
		return p[0].Interaction
	}
	q.outcome(final(result(2, 0, record.Accepted)))
	if got := told(fhir.Delete); got != fhir.Delete {
		t.Errorf("asked for a delete, it is told %s", got)
	}
	// While it is on its way another replay changes nothing.
	q.appendMatches(nil, &record.Job{ID: "r", Replay: []record.MatchID{id(2)}, Interaction: fhir.Update})
	if got := must(q.PendingFrom(1, 0, 0))[0].Interaction; got != fhir.Delete {
		t.Errorf("a replay of what is pending made it %s", got)
	}
	q.outcome(final(result(2, 1, record.Accepted)))
	if got := told(""); got != fhir.Create {
		t.Errorf("nothing is asked for, and it is told %s", got)
	}
}

func (q *queue) places(f DeadFilter) (at []record.Sequence) {
	q.t.Helper()
	for _, e := range must(q.Dead(ctx, f)) {
		at = append(at, e.Sequence)
	}
	return at
}

// Letters are listed once for each match, by Subscription or all, from the old or from the new
// end, and what expired is gone for a node that read the letter before and for one that did not.
func TestLettersExpireWhicheverLogIsReadFirst(t *testing.T) {
	build := func(t *testing.T, expireFirst bool) *queue {
		q := newQueue(t)
		q.match(2, 3, 4)
		expire := func() { q.appendMatches(nil, &record.Job{ID: "x", Expire: 3}) }
		if expireFirst {
			expire()
		}
		q.letter(2, 1, 0) // 1
		q.letter(3, 2, 1) // 2: of round 1
		q.letter(4, 3, 0) // 3
		q.letter(3, 2, 1) // 4: the same, written twice
		q.letter(3, 2, 0) // 5: of an earlier round, late
		q.letter(2, 1, 1) // 6: of a later round
		if !expireFirst {
			if got := q.places(DeadFilter{Subscription: "s"}); !slices.Equal(got, []record.Sequence{6, 3, 2}) {
				t.Errorf("before: %v", got)
			}
			expire()
		}
		return q
	}
	first, last := build(t, true), build(t, false)
	for _, q := range []*queue{first, last} {
		for _, f := range []DeadFilter{{}, {Subscription: "s"}} {
			if got := q.places(f); !slices.Equal(got, []record.Sequence{6, 4}) {
				t.Errorf("listed: %v", got)
			}
			var rising []record.Sequence
			f.Limit = 1
			for after, to := record.Sequence(0), record.Sequence(6); after < to; {
				es, through, err := q.DeadFrom(ctx, f, after, to)
				if err != nil || through <= after {
					t.Fatal(through, err)
				}
				for _, e := range es {
					rising = append(rising, e.Sequence)
				}
				after = through
			}
			if !slices.Equal(rising, []record.Sequence{4, 6}) {
				t.Errorf("rising: %v", rising)
			}
		}
		e, ok, err := q.DeadByMatch(id(3))
		if err != nil || !ok || !slices.Equal(e.Messages, []record.Sequence{4, 5}) {
			t.Errorf("letters of a match: %v, %v, %v", e.Messages, ok, err)
		}
		if _, ok, _ := q.DeadByID("s.3"); ok {
			t.Error("a letter that expired is found by its id")
		}
		q.flush()
	}
	a, b := must(first.Hash(ctx)), must(last.Hash(ctx))
	if names := different(a, b); names != nil {
		t.Errorf("the order of reading shows in %v", names)
	}
}
