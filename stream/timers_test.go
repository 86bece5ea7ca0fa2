package stream

import (
	"context"
	"errors"
	"testing"
	"time"
)

// due runs Due in the background, stopped with the test.
func due(t *testing.T, s *Server, fn func(Timer) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Due(ctx, fn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestATimerFiresNotBeforeItsTimeAndLeavesNothing(t *testing.T) {
	s := start(t)
	fired := make(chan Timer, 10)
	due(t, s, func(tm Timer) error { fired <- tm; return nil })
	at := time.Now().Add(350 * time.Millisecond)
	if err := s.Schedule(t.Context(), "end."+IDToken("s.1"), at, []byte("x")); err != nil {
		t.Fatal(err)
	}
	tm := <-fired
	if tm.Key != "end.s_1" || string(tm.Data) != "x" {
		t.Errorf("fired %+v", tm)
	}
	if tm.Fired.Before(at) {
		t.Errorf("fired %s early", at.Sub(tm.Fired))
	}
	if err := s.Schedule(t.Context(), "past", time.Now().Add(-time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	if tm := <-fired; tm.Key != "past" {
		t.Errorf("fired %s", tm.Key)
	}
	awaitEmpty(t, s, Timers)
}

// awaitEmpty waits until a stream holds nothing.
func awaitEmpty(t *testing.T, s *Server, stream string) {
	t.Helper()
	for t.Context().Err() == nil {
		first, last, err := s.State(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if first > last {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

func TestATimerIsReplacedAndCancelled(t *testing.T) {
	s := start(t)
	fired := make(chan Timer, 10)
	due(t, s, func(tm Timer) error { fired <- tm; return nil })
	now := time.Now()
	for key, in := range map[string]time.Duration{"cancelled": 300, "replaced": 200, "last": 900} {
		if err := s.Schedule(t.Context(), key, now.Add(in*time.Millisecond), []byte("first")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Cancel(t.Context(), "cancelled"); err != nil {
		t.Fatal(err)
	}
	if err := s.Cancel(t.Context(), "unknown"); err != nil {
		t.Errorf("cancel what is not there: %v", err)
	}
	if err := s.Schedule(t.Context(), "replaced", now.Add(500*time.Millisecond), []byte("second")); err != nil {
		t.Fatal(err)
	}
	if tm := <-fired; tm.Key != "replaced" || string(tm.Data) != "second" {
		t.Errorf("fired %s with %s", tm.Key, tm.Data)
	}
	if tm := <-fired; tm.Key != "last" {
		t.Errorf("fired %s", tm.Key)
	}
}

func TestATimerComesAgainUntilItIsWorkedOff(t *testing.T) {
	s := start(t)
	tries := make(chan int, 10)
	n := 0
	due(t, s, func(Timer) error {
		n++
		tries <- n
		if n < 2 {
			return errors.New("not now")
		}
		return nil
	})
	if err := s.Schedule(t.Context(), "k", time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	<-tries
	if got := <-tries; got != 2 {
		t.Errorf("try %d", got)
	}
	awaitEmpty(t, s, Timers)
}

func TestTimersOutliveARestart(t *testing.T) {
	s := start(t)
	if err := s.Schedule(t.Context(), "k", time.Now().Add(400*time.Millisecond), []byte("x")); err != nil {
		t.Fatal(err)
	}
	fired := make(chan Timer, 1)
	due(t, s, func(tm Timer) error { fired <- tm; return nil })
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tm := <-fired; tm.Key != "k" || string(tm.Data) != "x" {
		t.Errorf("fired %+v", tm)
	}
}

func TestTimerKeysOutsideTheGrammarAreRefused(t *testing.T) {
	s := start(t)
	for _, key := range []string{"", "a..b", "a.*", ">", "a b", ".a"} {
		if err := s.Schedule(t.Context(), key, time.Now(), nil); !errors.Is(err, ErrRefused) {
			t.Errorf("schedule %q: %v", key, err)
		}
		if err := s.Cancel(t.Context(), key); !errors.Is(err, ErrRefused) {
			t.Errorf("cancel %q: %v", key, err)
		}
	}
}
