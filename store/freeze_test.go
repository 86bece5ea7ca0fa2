package store

import (
	"fmt"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// A frozen state stays what it is while the logs go on, and is the same bytes as another store's
// that was frozen at that place.
func TestAFrozenStateIsOfOnePlaceWhateverIsFoldedMeanwhile(t *testing.T) {
	w := new(world)
	for i := range 40 {
		w.events = append(w.events, record.Event{
			Sequence: record.Sequence(i + 1), Time: t0, Key: fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprint("p", i%7))}, Body: fmt.Appendf(nil, "text %d", i),
		})
	}
	half := Vector{Events: 20}
	a, b := openRunning(t, t.TempDir()), openRunning(t, t.TempDir())
	w.inOrder(t, a, half)
	frozen := must(a.Freeze(ctx))
	defer frozen.Close()
	w.inOrder(t, a, w.end())
	if err := a.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if at := must(frozen.Vector()); at != half {
		t.Errorf("frozen at %+v, want %+v", at, half)
	}
	w.inOrder(t, b, half)
	got, want := must(frozen.Hash(ctx)), must(b.Hash(ctx))
	if names := different(got, want); names != nil {
		t.Errorf("other bytes than those of a store that is there, in %v", names)
	}
	if len(different(got, must(a.Hash(ctx)))) == 0 {
		t.Error("what was folded since does not show in a hash made now")
	}
	frozen.Close()
	frozen.Close()
}
