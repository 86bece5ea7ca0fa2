package delivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Wanted is how the far end of a channel is to behave.
type Wanted int

// The behaviours.
const (
	Accept  Wanted = iota // takes what comes
	Refuse                // says no to it
	Silence               // says nothing
	Absent                // is not there at all
)

// Subject is a channel under test, with its far end.
type Subject struct {
	Channel deliver.Channel
	Target  deliver.Target
	// Behave sets what the far end does from now on.
	Behave func(Wanted)
	// Received counts the notifications that reached the far end.
	Received func() int
	// Names are the identities (Notification.Name) that the far end could read off what it
	// received, in order. Nil where the channel's form has no place for one.
	Names func() []string
	// Skips says that the channel takes nobody at the far end for nothing to do: a far end that is
	// absent, or refuses by leaving, ends the match as skipped.
	Skips bool
}

// TestChannel runs what every channel must keep. setUp makes a fresh subject for each test.
func TestChannel(t *testing.T, setUp func(t *testing.T) Subject) {
	const body = `{"resourceType":"Patient","id":"p1","note":"canary-body"}`
	notification := func(number fhir.EventNumber, attempt int) deliver.Notification {
		return deliver.Notification{
			MatchID: record.MatchID{Event: 7, Birth: 3}, Subscription: "s", Number: number, Attempt: attempt,
			Key: fhir.Key{Type: "Patient", ID: "p1"}, Interaction: fhir.Update,
			ContentType: "application/fhir+json", Body: []byte(body),
		}
	}
	within := func(t *testing.T, d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		t.Cleanup(cancel)
		return ctx
	}

	t.Run("what the far end takes is accepted", func(t *testing.T) {
		s := setUp(t)
		n := notification(1, 1)
		if _, err := s.Channel.Send(within(t, 10*time.Second), n, s.Target); err != nil {
			t.Fatalf("Send: %v", err)
		}
		if s.Received() != 1 {
			t.Errorf("the far end received %d", s.Received())
		}
		if !bytes.Equal(n.Body, []byte(body)) {
			t.Error("the notification was changed")
		}
	})
	t.Run("what it refuses is a failed attempt", func(t *testing.T) {
		s := setUp(t)
		s.Behave(Refuse)
		_, err := s.Channel.Send(within(t, 10*time.Second), notification(1, 1), s.Target)
		if s.Skips {
			checkSkipped(t, s, err)
			return
		}
		checkFailure(t, s, err)
		if s.Received() != 1 {
			t.Errorf("one attempt made %d sends", s.Received())
		}
	})
	t.Run("silence ends with the context and is a timeout", func(t *testing.T) {
		s := setUp(t)
		s.Behave(Silence)
		_, err := s.Channel.Send(within(t, 200*time.Millisecond), notification(1, 1), s.Target)
		checkFailure(t, s, err)
		if err != nil && err.Code != record.Timeout {
			t.Errorf("code %s, want timeout", err.Code)
		}
	})
	t.Run("a far end that is not there is a failed attempt", func(t *testing.T) {
		s := setUp(t)
		s.Behave(Absent)
		_, err := s.Channel.Send(within(t, 10*time.Second), notification(1, 1), s.Target)
		if s.Skips {
			checkSkipped(t, s, err)
			return
		}
		checkFailure(t, s, err)
		if err != nil && err.Permanent {
			t.Error("it may come back: the failure must not be permanent")
		}
	})
	t.Run("a cancelled context ends it", func(t *testing.T) {
		s := setUp(t)
		s.Behave(Silence)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan *deliver.Error, 1)
		go func() {
			_, err := s.Channel.Send(ctx, notification(1, 1), s.Target)
			done <- err
		}()
		cancel()
		if err := <-done; err == nil || !errors.Is(err, context.Canceled) {
			t.Errorf("Send gave %v, want an error that wraps context.Canceled", err)
		}
	})
	t.Run("every attempt bears the same identity", func(t *testing.T) {
		s := setUp(t)
		if s.Names == nil {
			t.Skip("this channel's form has no place for it")
		}
		for attempt := 1; attempt <= 3; attempt++ {
			if _, err := s.Channel.Send(within(t, 10*time.Second), notification(9, attempt), s.Target); err != nil {
				t.Fatalf("Send: %v", err)
			}
		}
		for i, name := range s.Names() {
			if name != "s.3.9" {
				t.Errorf("attempt %d is named %q", i+1, name)
			}
		}
	})
	t.Run("many may be sent at once", func(t *testing.T) {
		s := setUp(t)
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() {
				if _, err := s.Channel.Send(within(t, 20*time.Second), notification(fhir.EventNumber(i+1), 1), s.Target); err != nil {
					t.Errorf("Send: %v", err)
				}
			})
		}
		all.Wait()
		if s.Received() != 32 {
			t.Errorf("received %d of 32", s.Received())
		}
	})
}

// checkFailure wants an error that counts as an attempt and betrays nothing.
func checkFailure(t *testing.T, s Subject, err *deliver.Error) {
	t.Helper()
	if err == nil {
		t.Fatal("Send reports success")
	}
	if !err.Code.IsAttempt() || err.Code == record.Accepted {
		t.Errorf("code %q is not that of a failed attempt", err.Code)
	}
	for _, h := range s.Target.Headers {
		if _, value, ok := strings.Cut(h, ":"); ok && strings.Contains(err.Error(), strings.TrimSpace(value)) {
			t.Errorf("the error repeats a header's value: %v", err)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the error repeats the body: %v", err)
	}
}

// checkSkipped wants the end of the match, without an attempt, a dead letter or a send.
func checkSkipped(t *testing.T, s Subject, err *deliver.Error) {
	t.Helper()
	if err == nil || err.Code != record.Skipped {
		t.Errorf("Send gave %v, want it skipped", err)
	}
	if n := s.Received(); n != 0 {
		t.Errorf("the far end received %d", n)
	}
}

// quietLog keeps the noise of provoked failures out of the tests' output.
func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }
