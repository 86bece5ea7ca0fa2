package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func change(seq record.Sequence, body string) record.Change {
	return record.Change{Event: record.Event{Sequence: seq, Key: fhir.Key{Type: "Patient", ID: "p"}, Body: []byte(body)}, Interaction: fhir.Update}
}

func sequences(cs []record.Change) []record.Sequence {
	out := []record.Sequence{}
	for _, c := range cs {
		out = append(out, c.Sequence)
	}
	return out
}

// Whatever a reader asks for, it gets every change after its place or is told that it is
// behind; a gap would be an event that nobody matches.
func TestTheRingGivesEveryChangeAfterAPlaceOrSaysThatItIsBehind(t *testing.T) {
	for _, size := range []int{1, 2, 3, 7} {
		r := newRing(size, 1<<20, 10)
		all := []record.Sequence{}
		for seq := record.Sequence(11); seq < 60; seq++ {
			if seq%5 == 0 {
				r.add(nil, seq) // a control record
			} else {
				r.add([]record.Change{change(seq, "x")}, seq)
				all = append(all, seq)
			}
			for place := record.Sequence(10); place < seq; place++ {
				got, through, err := r.after(t.Context(), place, make([]record.Change, 0, 100))
				if errors.Is(err, errBehind) {
					continue
				}
				var want []record.Sequence
				for _, s := range all {
					if s > place && s <= seq {
						want = append(want, s)
					}
				}
				if err != nil || through != seq || len(got) != len(want) {
					t.Fatalf("size %d, at %d after %d: %v through %d, %v; want %v", size, seq, place, sequences(got), through, err, want)
				}
			}
			if _, _, err := r.after(t.Context(), seq-1, make([]record.Change, 0, 1)); err != nil {
				t.Fatalf("size %d: the newest place %d is gone: %v", size, seq-1, err)
			}
		}
	}
}

func TestAShortReadOfTheRingSaysHowFarItGot(t *testing.T) {
	r := newRing(10, 1<<20, 0)
	for seq := record.Sequence(1); seq <= 5; seq++ {
		r.add([]record.Change{change(seq, "x")}, seq)
	}
	got, through, err := r.after(t.Context(), 1, make([]record.Change, 0, 2))
	if err != nil || through != 3 || len(got) != 2 || got[0].Sequence != 2 {
		t.Errorf("got %v through %d, %v", sequences(got), through, err)
	}
}

func TestTheRingForgetsByBytesButKeepsTheNewest(t *testing.T) {
	r := newRing(100, 10, 0)
	r.add([]record.Change{change(1, "123456"), change(2, "123456")}, 2)
	if _, _, err := r.after(t.Context(), 0, nil); !errors.Is(err, errBehind) {
		t.Errorf("12 bytes in a ring of 10: %v", err)
	}
	r.add([]record.Change{change(3, "this alone is larger than the ring")}, 3)
	got, _, err := r.after(t.Context(), 2, make([]record.Change, 0, 1))
	if err != nil || len(got) != 1 {
		t.Errorf("the newest change is not there: %v", err)
	}
}

func TestAWriterIsAnsweredByTheFoldOfItsOwnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing(10, 1<<20, 0)
		answer := make(chan record.Change, 1)
		go func() {
			c, found, err := r.fold(t.Context(), 2)
			if err != nil || !found {
				t.Errorf("found %v, %v", found, err)
			}
			answer <- c
		}()
		synctest.Wait()
		r.add([]record.Change{change(1, "a")}, 1)
		synctest.Wait()
		if len(answer) != 0 {
			t.Fatal("answered before its event was folded")
		}
		r.add([]record.Change{change(2, "b"), change(3, "c")}, 3)
		if c := <-answer; c.Sequence != 2 {
			t.Errorf("answered by event %d", c.Sequence)
		}
	})
}

func TestAWaitOnTheRingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := newRing(1, 1, 0)
	if err := r.wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
	if _, _, err := r.after(ctx, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("after: %v", err)
	}
}

// Each waiter is woken by its own place and by no other; one that leaves takes its place along.
func TestWaitersOnTheRingAreWokenByTheirOwnPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing(10, 1<<20, 0)
		var woken [20]bool
		var gone [20]context.CancelFunc
		for i := range woken {
			ctx, cancel := context.WithCancel(t.Context())
			gone[i] = cancel
			go func() { woken[i] = r.wait(ctx, record.Sequence(i)) == nil }()
		}
		synctest.Wait()
		for i := 0; i < len(gone); i += 3 {
			gone[i]()
		}
		synctest.Wait()
		r.add(nil, 10)
		synctest.Wait()
		for i, is := range woken {
			want := i == 0 || i <= 10 && i%3 != 0
			if is != want {
				t.Errorf("waiter for %d woken: %v, want %v", i, is, want)
			}
		}
		r.add(nil, 20)
		synctest.Wait()
		if len(r.waiters) != 0 {
			t.Errorf("%d waiters are left", len(r.waiters))
		}
		for _, cancel := range gone {
			cancel()
		}
	})
}
