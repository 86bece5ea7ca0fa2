package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestReferrersAreThoseOfAnyVersion(t *testing.T) {
	s := openRunning(t, t.TempDir())
	obs := func(id string) fhir.Key { return fhir.Key{Type: "Observation", ID: fhir.ID(id)} }
	events := []record.Event{
		{Key: obs("b"), Body: []byte("one ref:Patient/p,Patient/p,Encounter/e")},
		{Key: obs("a"), Body: []byte("one ref:Patient/p")},
		{Key: obs("c"), Body: []byte("one ref:Patient/other")},
		{Key: fhir.Key{Type: "ObservationDefinition", ID: "x"}, Body: []byte("one ref:Patient/p")},
		{Key: obs("a"), Body: []byte("two ref:Patient/other")}, // taken back
		{Key: obs("d"), Body: []byte("one ref:Patient/p")},
		{Key: obs("d"), Asked: fhir.Delete},
		{Key: obs("e"), Body: []byte("bad")},
	}
	for i := range events {
		events[i].Sequence, events[i].Time = record.Sequence(i+1), t0
	}
	must(s.ApplyEvents(ctx, events, record.Sequence(len(events))))
	patient := func(id string) fhir.Key { return fhir.Key{Type: "Patient", ID: fhir.ID(id)} }
	for round, flush := range []bool{false, true} { // from memory, and from the file
		if flush {
			if err := s.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			name   string
			target fhir.Key
			typ    string
			after  fhir.ID
			limit  int
			want   []fhir.ID
		}{
			{"in order of id, those that take it back and are deleted included", patient("p"), "Observation", "", 0, []fhir.ID{"a", "b", "d"}},
			{"another type whose name begins alike", patient("p"), "ObservationDefinition", "", 0, []fhir.ID{"x"}},
			{"another target", patient("other"), "Observation", "", 0, []fhir.ID{"a", "c"}},
			{"a target that begins alike", patient("o"), "Observation", "", 0, nil},
			{"at most so many", patient("p"), "Observation", "", 2, []fhir.ID{"a", "b"}},
			{"those after an id", patient("p"), "Observation", "b", 2, []fhir.ID{"d"}},
			{"none", patient("p"), "Encounter", "", 0, nil},
		} {
			if got := must(s.Referrers(c.target, c.typ, c.after, c.limit)); !slices.Equal(got, c.want) {
				t.Errorf("%s (round %d): %v, want %v", c.name, round, got, c.want)
			}
		}
	}
}

// A file from before there were references is not filled up in part: it says that it is older.
func TestAFileOfAnOlderFormatIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	s := openStill(t, dir)
	s.kill()
	db, err := bolt.Open(filepath.Join(dir, fileName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		var v encoder
		v.uint(1)
		return errors.Join(
			tx.DeleteBucket([]byte(bReference.String())),
			tx.Bucket([]byte(bMeta.String())).Put([]byte(formatKey), sealed(bMeta, formatKey, v)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := open(dir, testOptions); !errors.Is(err, ErrOlder) {
		t.Fatalf("opens with %v", err)
	}
	kept, err := Rebuild(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	openStill(t, dir).kill()
}

// BenchmarkApplyReferences is BenchmarkApplyEvents with the three references of a usual event:
// many resources of one patient and one encounter.
func BenchmarkApplyReferences(b *testing.B) {
	const size = 64
	for _, refs := range []int{0, 3} {
		b.Run(fmt.Sprintf("references=%d", refs), func(b *testing.B) {
			s := openBench(b)
			seq := record.Sequence(0)
			events := make([]record.Event, size)
			b.ReportAllocs()
			for n := 0; n < b.N; n += size {
				for i := range events {
					seq++
					body := fmt.Appendf(make([]byte, 0, 128), "%d", seq)
					if refs > 0 {
						body = fmt.Appendf(body, " ref:Patient/p%d,Encounter/e%d,Practitioner/d%d", seq/100, seq/20, seq%50)
					}
					events[i] = record.Event{
						Sequence: seq, Time: t0, Body: body,
						Key: fhir.Key{Type: "Observation", ID: fhir.ID(fmt.Sprintf("%08x", uint32(seq)*2654435761))},
					}
				}
				if _, err := s.ApplyEvents(ctx, events, seq); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			reportFlush(b, s)
		})
	}
}

func TestAVersionOfASubscriptionIsReadByItself(t *testing.T) {
	s := openRunning(t, t.TempDir())
	key := fhir.Key{Type: subscriptionType, ID: "s"}
	must(s.ApplyEvents(ctx, []record.Event{
		{Sequence: 1, Time: t0, Key: key, Body: []byte("one")},
		{Sequence: 2, Time: t0, Key: key, Body: []byte("two"), Owner: "o"},
	}, 2))
	for seq, want := range map[record.Sequence]string{1: "one", 2: "two", 3: ""} {
		v, ok, err := s.SubscriptionVersion("s", seq)
		if err != nil || ok != (want != "") || string(v.Body) != want {
			t.Errorf("version %d: %q, %v, %v", seq, v.Body, ok, err)
		}
	}
}
