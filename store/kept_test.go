package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// What criteria mean is made again after a start from these versions, in their order.
func TestSubscriptionsAndDefinitionsAreShownInTheOrderOfTheLog(t *testing.T) {
	dir := t.TempDir()
	s := openRunning(t, dir)
	var events []record.Event
	add := func(typ string, id fhir.ID, asked fhir.Interaction) {
		seq := record.Sequence(len(events) + 1)
		events = append(events, record.Event{Sequence: seq, Time: t0, Key: fhir.Key{Type: typ, ID: id}, Asked: asked, Owner: "t1", Body: fmt.Append(nil, seq)})
	}
	add("ValueSet", "z", "")
	add("Subscription", "b", "")
	add("Patient", "a", "")
	add("SearchParameter", "a", "")
	add("Subscription", "a", "")
	add("ValueSet", "z", "")
	add("CodeSystem", "a", "")
	add("ValueSet", "z", fhir.Delete)
	add("ConceptMap", "a", "")
	for range 2 * scanChunk {
		add("Subscription", fhir.ID(fmt.Sprintf("s.%d", len(events)%100)), "")
	}
	must(s.ApplyEvents(ctx, events, record.Sequence(len(events))))
	shown := func() (out []string) {
		t.Helper()
		if err := s.KeptVersions(func(v KeptVersion) error {
			out = append(out, fmt.Sprintf("%d %s %s %q", v.Sequence, v.Key, v.Interaction, v.Body))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	got := shown()
	want := []string{
		`1 ValueSet/z create "1"`, `2 Subscription/b create "2"`, `4 SearchParameter/a create "4"`, `5 Subscription/a create "5"`,
		`6 ValueSet/z update "6"`, `7 CodeSystem/a create "7"`, `8 ValueSet/z delete ""`,
	}
	if len(got) != len(want)+2*scanChunk || !slices.Equal(got[:len(want)], want) {
		t.Fatalf("shown are %d, first %q", len(got), got[:min(len(got), len(want))])
	}
	if !slices.IsSortedFunc(got, func(a, b string) int {
		var m, n int
		fmt.Sscan(a, &m)
		fmt.Sscan(b, &n)
		return m - n
	}) {
		t.Error("they are not in the order of the log")
	}
	// Definitions are no Subscriptions, and outlive the pruning of those.
	subscriptions := 0
	if err := s.SubscriptionVersions(func(v SubscriptionVersion) error { subscriptions++; return nil }); err != nil {
		t.Fatal(err)
	}
	if subscriptions != len(got)-5 {
		t.Errorf("%d versions of Subscriptions, want %d", subscriptions, len(got)-5)
	}
	must(s.PruneSubscriptions(ctx, record.Sequence(len(events))))
	kept := 0
	for _, v := range shown() {
		if !slices.Contains(got, v) {
			t.Errorf("%s was not there before", v)
		}
		if slices.Contains(want, v) {
			kept++
		}
	}
	if kept != 7 {
		t.Errorf("%d of the first are left, want 7", kept)
	}
}
