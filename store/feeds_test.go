package store

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Four feeds run side by side as in a node, each waiting only for what a record names, while
// others read and the writer writes. Readers see each record whole or not at all, and the end
// is what one feed after the other would have made.
func TestFeedsRunSideBySide(t *testing.T) {
	w := fullWorld(300)
	s := must(open(t.TempDir(), testOptions))
	s.flushRecords, s.flushEvery = 20, time.Millisecond
	s.maxRecords = 40
	go s.run()
	defer s.Close()

	reading, stop := context.WithCancel(ctx)
	var readers, feeds sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for reading.Err() == nil {
				page, err := s.PendingFrom(1, 0, 50)
				if err != nil {
					t.Error(err)
					return
				}
				for _, p := range page {
					if p.Key != w.events[p.Event-1].Key || p.Event != record.Sequence(p.Number) {
						t.Errorf("half a match: %+v", p)
						return
					}
				}
				n := must(s.Counter(1))
				if m, ok, err := s.MatchByNumber(1, n); n != 0 && (!ok || err != nil || m.Number != n) {
					t.Errorf("number %d: %+v, %v, %v", n, m, ok, err)
					return
				}
				if st := must(s.PendingStats(1)); (st.Count == 0) != (st.Oldest == 0) {
					t.Errorf("half a queue: %+v", st)
					return
				}
			}
		})
	}
	feed := func(st Stream, waitFor func(i int) Vector) {
		feeds.Go(func() {
			for i := range int(w.end().Of(st)) {
				if err := s.WaitApplied(ctx, waitFor(i)); err != nil {
					t.Error(err)
					return
				}
				w.apply(t, s, st, 1)
			}
		})
	}
	feed(Events, func(int) Vector { return Vector{} })
	feed(Matches, func(i int) Vector { return Vector{Events: w.matches[i].needs()} })
	feed(Outcomes, func(i int) Vector { return Vector{Matches: w.outcomes[i].After} })
	feed(Dead, func(int) Vector { return Vector{} })
	feeds.Wait()
	stop()
	readers.Wait()

	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got := must(s.Hash(ctx))
	if s.Saved() != w.end() {
		t.Errorf("flushed up to %+v, want %+v", s.Saved(), w.end())
	}
	alone := openStill(t, t.TempDir())
	defer alone.kill()
	w.inOrder(t, alone, w.end())
	if names := different(contents(t, alone), got); names != nil {
		t.Fatalf("side by side leaves other bytes in %v", names)
	}
	if n := must(s.Counter(1)); n != fhir.EventNumber(len(w.events)) {
		t.Errorf("counted %d", n)
	}
}
