package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func TestLaneForNeverAllowsFewerDeliveriesThanAttempts(t *testing.T) {
	byName := map[string]Lane{}
	for _, l := range Lanes() {
		byName[l.Name] = l
		if !validName(l.Name) {
			t.Errorf("lane %q is no subject token", l.Name)
		}
	}
	if len(byName) != len(laneClasses)*lanesPerClass {
		t.Errorf("%d lanes", len(byName))
	}
	for attempts := -1; attempts < 30; attempts++ {
		used := map[string]bool{}
		for i := range 100 {
			id := fhir.ID(fmt.Sprintf("sub-%d", i))
			name := LaneFor(attempts, id)
			l, ok := byName[name]
			if !ok {
				t.Fatalf("%d attempts: no lane %s", attempts, name)
			}
			unlimited := attempts < 1 || attempts > 18
			if unlimited != (l.MaxDeliver == -1) || !unlimited && l.MaxDeliver < attempts {
				t.Errorf("%d attempts: lane %s has %d deliveries", attempts, name, l.MaxDeliver)
			}
			if LaneFor(attempts, id) != name {
				t.Error("lane changes")
			}
			used[name] = true
		}
		if len(used) != lanesPerClass {
			t.Errorf("%d attempts: %d lanes used", attempts, len(used))
		}
	}
}

// pullLane runs Tokens in the background and returns the tokens; the owner is stopped with the
// test.
func pullLane(t *testing.T, s *Server, lane string) (<-chan Token, <-chan error) {
	t.Helper()
	tokens, ended := make(chan Token, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Tokens(ctx, lane, func(tok Token) { tokens <- tok })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return tokens, ended
}

func TestATokenIsDeliveredAsOftenAsItsLaneAllows(t *testing.T) {
	s := start(t)
	if err := s.DeclareLanes(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	lane := LaneFor(3, "s.1")
	tokens, _ := pullLane(t, s, lane)
	exhausted := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Exhausted(ctx, func(lane string) error { exhausted <- lane; return nil })
	}()
	defer func() { cancel(); <-done }()

	if err := s.PublishToken(t.Context(), lane, "s.1", []byte("head")); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		tok := <-tokens
		if tok.NumDelivered != n || tok.Subscription != "s.1" || tok.Lane != lane || string(tok.Data) != "head" || tok.Sequence != 1 {
			t.Fatalf("delivery %d is %+v", n, tok)
		}
		if err := tok.InProgress(); err != nil {
			t.Error(err)
		}
		if err := tok.NakWithDelay(20 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-exhausted; got != lane {
		t.Errorf("given up in lane %s, want %s", got, lane)
	}
	for _, end := range []func(Token) error{Token.Ack, func(tok Token) error { return tok.Term("dead letter") }} {
		if err := s.PublishToken(t.Context(), lane, "s.1", nil); err != nil {
			t.Fatal(err)
		}
		if tok := <-tokens; tok.NumDelivered != 1 {
			t.Errorf("a new token is at delivery %d", tok.NumDelivered)
		} else if err := end(tok); err != nil {
			t.Error(err)
		}
	}
}

func TestADelayIsKeptWithoutBackOff(t *testing.T) {
	s := start(t)
	if err := s.DeclareLanes(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	lane := LaneFor(0, "s")
	tokens, _ := pullLane(t, s, lane)
	if err := s.PublishToken(t.Context(), lane, "s", nil); err != nil {
		t.Fatal(err)
	}
	tok := <-tokens
	at := time.Now()
	if err := tok.NakWithDelay(150 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	tok = <-tokens
	if early := 150*time.Millisecond - time.Since(at); early > 0 {
		t.Errorf("delivered %s early", early)
	}
	tok.Ack()
}

func TestALaneMadeAnewTellsItsOwner(t *testing.T) {
	s := start(t)
	if err := s.Tokens(t.Context(), "3-0", func(Token) {}); !errors.Is(err, ErrReset) {
		t.Errorf("before the lanes are declared: %v", err)
	}
	if err := s.DeclareLanes(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if err := s.DeclareLanes(t.Context(), 9); err != nil {
		t.Errorf("more places: %v", err)
	}
	tokens, ended := pullLane(t, s, "3-0")
	if err := s.PublishToken(t.Context(), "3-0", "s", nil); err != nil {
		t.Fatal(err)
	}
	<-tokens
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrReset) {
		t.Errorf("after a restart: %v", err)
	}
	cons, err := s.js.Consumer(t.Context(), LanesName, "3-0")
	if err != nil || cons.CachedInfo().Config.MaxAckPending != 9 {
		t.Errorf("the lane after the restart: %v", err)
	}
}

func TestTheLanesOwnNoTokenOfAnother(t *testing.T) {
	s := start(t)
	if err := s.DeclareLanes(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range Lanes() {
		names = append(names, l.Name)
		if err := s.PublishToken(t.Context(), l.Name, "s", []byte(l.Name)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, l := range Lanes() {
		tokens, _ := pullLane(t, s, l.Name)
		tok := <-tokens
		tok.Ack()
		if tok.Lane != string(tok.Data) {
			t.Errorf("lane %s got the token of %s", tok.Lane, tok.Data)
		}
		got = append(got, tok.Lane)
	}
	if !slices.Equal(got, names) {
		t.Errorf("tokens of %v", got)
	}
	if err := s.PublishToken(t.Context(), "a.b", "s", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("lane that is no token: %v", err)
	}
	if err := s.DeclareLanes(t.Context(), 0); err == nil {
		t.Error("lanes without places")
	}
}
