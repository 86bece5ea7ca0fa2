package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Damage that bbolt would not survive is found before bbolt sees it, also in a file that is
// too large to be read whole.
func TestASkeletonThatBoltWouldNotSurviveIsRefused(t *testing.T) {
	dir := t.TempDir()
	full(t, dir)
	path := filepath.Join(dir, fileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newestMeta(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	page := func(b []byte, n uint64) []byte { return b[n*uint64(m.pageSize):] }
	branch := uint64(0)
	for n := uint64(2); n < m.pages; n++ {
		if b := page(good, n); order.Uint16(b[8:]) == branchPage && order.Uint64(b) == n && n != m.root {
			branch = n // one that is in use: free pages keep their old content
			if err := damagedBy(t, dir, good, func(b []byte) { order.PutUint64(page(b, n)[headerLen+8:], n) }); err != nil {
				break
			}
			branch = 0
		}
	}
	if branch == 0 {
		t.Fatal("no branch of the file leads anywhere: the test needs a larger file")
	}
	child := order.Uint64(page(good, branch)[headerLen+8:])
	if order.Uint16(page(good, m.freelist)[10:]) == 0 {
		t.Fatal("the file has no free page: the test needs more transactions")
	}
	for name, do := range map[string]func(b []byte){
		"a branch that leads to itself":       func(b []byte) { order.PutUint64(page(b, branch)[headerLen+8:], branch) },
		"a branch that leads out of the file": func(b []byte) { order.PutUint64(page(b, branch)[headerLen+8:], 1<<40) },
		"a branch that leads to a meta page":  func(b []byte) { order.PutUint64(page(b, branch)[headerLen+8:], 1) },
		"two branches that lead to one page":  func(b []byte) { order.PutUint64(page(b, branch)[headerLen+elementLen+8:], child) },
		"a page that is listed as free":       func(b []byte) { order.PutUint64(page(b, m.freelist)[headerLen:], branch) },
		"a leaf that is listed as free":       func(b []byte) { order.PutUint64(page(b, m.freelist)[headerLen:], child) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := damagedBy(t, dir, good, do); !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// damagedBy opens a damaged copy of a file, without reading it whole.
func damagedBy(t *testing.T, dir string, good []byte, do func([]byte)) error {
	t.Helper()
	b := bytes.Clone(good)
	do(b)
	if err := os.WriteFile(filepath.Join(dir, fileName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	o := testOptions
	o.VerifyUpTo = -1
	s, err := open(dir, o)
	if err == nil {
		s.kill()
	}
	return err
}

// crashDir tells a copy of the test program to be the process that is killed.
const crashDir = "CARILLON_STORE_CRASH_DIR"

// A process that folds at full speed is killed at a moment of its own. The file it leaves is
// the fold of the vector that it names.
func TestAKilledProcessLeavesTheFoldOfItsVector(t *testing.T) {
	w := fullWorld(3000)
	if dir := os.Getenv(crashDir); dir != "" {
		foldUntilKilled(t, dir, w)
		return
	}
	kills := 3
	if testing.Short() {
		kills = 1
	}
	for range kills {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The process says each record that it folds; after some of them it is killed.
		if _, err := io.CopyN(io.Discard, out, 1+rand.Int64N(6000)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()

		left := openStill(t, dir)
		if err := left.Verify(ctx); err != nil {
			t.Fatal(err)
		}
		fresh := openStill(t, t.TempDir())
		w.inOrder(t, fresh, left.Saved())
		if names := different(contents(t, fresh), contents(t, left)); names != nil {
			t.Errorf("killed at %+v: the file differs in %v", left.Saved(), names)
		}
		t.Logf("killed at %+v", left.Saved())
		fresh.kill()
		left.kill()
	}
}

func foldUntilKilled(t *testing.T, dir string, w *world) {
	s, err := open(dir, Options{Hash: readBody})
	if err != nil {
		t.Fatal(err)
	}
	s.flushRecords, s.flushEvery = 50, time.Millisecond
	go s.run()
	for s.Position() != w.end() {
		for st := range streamCount {
			if w.can(st, s.Position()) {
				w.apply(t, s, st, 1)
				os.Stdout.WriteString(".")
			}
		}
	}
	select {} // until it is killed
}

func BenchmarkApplyEvents(b *testing.B) {
	for _, size := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s := openBench(b)
			body := bytes.Repeat([]byte("x"), 1024)
			seq := record.Sequence(0)
			events := make([]record.Event, size)
			b.ReportAllocs()
			for n := 0; n < b.N; n += size {
				for i := range events {
					seq++
					events[i] = record.Event{
						Sequence: seq, Time: t0, Body: fmt.Appendf(body[:0:0], "%d %s id:sys|%d", seq, body[:8], seq%50000),
						Key: fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprintf("%08x", uint32(seq%50000)*2654435761))},
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

func BenchmarkApplyMatches(b *testing.B) {
	for _, c := range []struct{ perBlock, births int }{{1, 1}, {100, 1}, {100, 10000}, {1000, 10000}} {
		b.Run(fmt.Sprintf("matches=%d/births=%d", c.perBlock, c.births), func(b *testing.B) {
			s := openBench(b)
			events := max(2, b.N/c.births+2)
			var evs []record.Event
			for i := range events {
				evs = append(evs, record.Event{Sequence: record.Sequence(i + 1), Time: t0, Key: fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprint(i))}, Body: []byte("x")})
			}
			must(s.ApplyEvents(ctx, evs, record.Sequence(events)))
			if err := s.Flush(ctx); err != nil {
				b.Fatal(err)
			}
			made, seq := 0, record.Sequence(0)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += c.perBlock {
				blk := &record.Block{Partition: "p"}
				for range c.perBlock {
					birth := record.Sequence(made%c.births + 1)
					blk.Matches = append(blk.Matches, record.Match{
						Event: record.Sequence(made/c.births%events + 1), Birth: birth, Version: birth,
						Subscription: fhir.ID(fmt.Sprint("s", birth)), Interaction: fhir.Create,
					})
					made++
				}
				seq++
				if _, err := s.ApplyMatches(ctx, seq, blk, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			reportFlush(b, s)
		})
	}
}

// What a node folds for events that are each matched once and delivered at once.
func BenchmarkDelivered(b *testing.B) {
	const size = 16
	s := openBench(b)
	events, matches, outcomes := make([]record.Event, size), make([]record.Match, size), make([]record.Outcome, size)
	body := bytes.Repeat([]byte("x"), 1024)
	var seq, at record.Sequence
	b.ReportAllocs()
	for n := 0; n < b.N; n += size {
		at++
		for i := range size {
			seq++
			id := record.MatchID{Event: seq, Birth: 1}
			events[i] = record.Event{
				Sequence: seq, Time: t0, Body: body, Asked: fhir.Create,
				Key: fhir.Key{Type: "Observation", ID: fhir.ID("o" + strconv.FormatUint(uint64(seq), 10))},
			}
			matches[i] = record.Match{Event: seq, Birth: 1, Version: 1, Subscription: "s", Interaction: fhir.Create}
			outcomes[i] = record.Outcome{MatchID: id, Subscription: "s", Attempt: 1, Code: record.Accepted, Status: 200, At: t0}
		}
		if _, err := s.ApplyEvents(ctx, events, seq); err != nil {
			b.Fatal(err)
		}
		if p, err := s.ApplyMatches(ctx, at, &record.Block{Partition: "p", Through: seq, Matches: matches}, nil); err != nil || len(p) != size {
			b.Fatal(len(p), err)
		}
		if _, err := s.ApplyOutcomes(ctx, at, &record.OutcomeBlock{Lane: "l", Owner: "o", After: at, Outcomes: outcomes}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	reportFlush(b, s)
}

func BenchmarkPendingFrom(b *testing.B) {
	s := openBench(b)
	w := fullWorld(20000)
	w.outcomes, w.dead = nil, nil
	w.inOrder(b, s, w.end())
	if err := s.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if p, err := s.PendingFrom(1, fhir.EventNumber(i%19000), 64); err != nil || len(p) != 64 {
			b.Fatal(len(p), err)
		}
	}
}

func openBench(b *testing.B) *Store {
	s, err := Open(b.TempDir(), Options{Hash: readBody})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// reportFlush adds what the file still had to take after the last fold.
func reportFlush(b *testing.B, s *Store) {
	start := time.Now()
	if err := s.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/(b.Elapsed()+time.Since(start)).Seconds(), "durable/s")
}
