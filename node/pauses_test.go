package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// foldingTest is a projection whose readers are held.
type foldingTest struct {
	p *pauses
	s *store.Store

	mu   sync.Mutex
	seen []record.Sequence
}

func newFoldingTest(t *testing.T, limit time.Duration) *foldingTest {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{Hash: hashBody})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &foldingTest{p: newPauses(limit), s: s}
}

// events gives a reader control records up to a sequence, as many at once as there are.
func (f *foldingTest) events(ctx context.Context, from, to record.Sequence) error {
	var ms []stream.Message
	for seq := from; seq <= to; seq++ {
		ms = append(ms, stream.Message{Sequence: seq})
	}
	return f.p.fold(ctx, stream.Events, ms, func(ctx context.Context, ms []stream.Message) error {
		last := ms[len(ms)-1].Sequence
		_, err := f.s.ApplyEvents(ctx, nil, last)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.seen = append(f.seen, last)
		return err
	})
}

func TestAPausedReaderGoesOnToThePlaceAndNoFurther(t *testing.T) {
	f := newFoldingTest(t, time.Minute)
	ctx := t.Context()
	if err := f.events(ctx, 1, 5); err != nil {
		t.Fatal(err)
	}
	if err := f.p.begin(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := f.p.begin(ctx, "b"); !errors.Is(err, errPaused) {
		t.Errorf("a second pause: %v", err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		if err := f.events(ctx, 6, 20); err != nil {
			t.Error(err)
		}
	})
	if err := f.p.advance(ctx, "a", f.s, store.Vector{Events: 9}); err != nil {
		t.Fatal(err)
	}
	if at := f.s.Position(); at.Events != 9 {
		t.Errorf("stopped at %d, want 9", at.Events)
	}
	if err := f.p.advance(ctx, "a", f.s, store.Vector{Events: 8}); !errors.Is(err, errBadPlace) {
		t.Errorf("to a place that was passed: %v", err)
	}
	f.p.end("b") // not theirs
	f.p.end("a")
	reader.Wait()
	if want := []record.Sequence{5, 9, 20}; !slices.Equal(f.seen, want) {
		t.Errorf("folded up to %v, want %v", f.seen, want)
	}
	if err := f.p.advance(ctx, "a", f.s, store.Vector{Events: 20}); !errors.Is(err, errNoPause) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAPauseThatNobodyEndsEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPauses(time.Minute)
		if err := p.begin(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err := p.fold(t.Context(), stream.Events, []stream.Message{{Sequence: 1}}, func(context.Context, []stream.Message) error { return nil })
		if err != nil || time.Since(began) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if err := p.begin(t.Context(), "b"); err != nil {
			t.Errorf("another pause afterwards: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.fold(ctx, stream.Dead, []stream.Message{{Sequence: 1}}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("a reader that is stopped: %v", err)
		}
		p.end("b")
	})
}

// A pause waits for the records that a reader has begun with, which may have to wait for those of
// another log.
func TestAPauseWaitsForWhatIsBeingFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPauses(time.Hour)
		ctx, needed := t.Context(), make(chan struct{})
		var readers sync.WaitGroup
		readers.Go(func() {
			p.fold(ctx, stream.Matches, []stream.Message{{Sequence: 1}}, func(context.Context, []stream.Message) error { <-needed; return nil })
		})
		synctest.Wait() // it has begun
		began := make(chan error)
		go func() { began <- p.begin(ctx, "a") }()
		synctest.Wait()
		readers.Go(func() {
			p.fold(ctx, stream.Events, []stream.Message{{Sequence: 1}}, func(context.Context, []stream.Message) error { close(needed); return nil })
		})
		if err := <-began; err != nil {
			t.Error(err)
		}
		readers.Wait()
		p.end("a")
	})
}
