package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// collect follows until it has seen the sequence, and returns all it was given.
func collect(t *testing.T, s *Server, stream string, from record.Sequence, filters []string, until record.Sequence) []Message {
	t.Helper()
	var all []Message
	err := s.Follow(t.Context(), stream, from, filters, func(ms []Message) error {
		if all = append(all, ms...); all[len(all)-1].Sequence >= until {
			return errEnough
		}
		return nil
	})
	if err != errEnough {
		t.Fatal(err)
	}
	return all
}

func TestFollowGivesEachSequenceOnceAndInOrder(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	half := fillEvents(t, p, 3000)
	written := make(chan record.Sequence, 1)
	go func() { written <- fillEvents(t, p, 3000) }() // the reader catches up while this goes on
	for _, from := range []record.Sequence{0, 1, 2, half, half + 1} {
		all := collect(t, s, Events, from, nil, 6001)
		for i, m := range all {
			if want := max(from, 1) + record.Sequence(i); m.Sequence != want || m.Stream != Events || m.Time.IsZero() {
				t.Fatalf("from %d: message %d is %s %d, want %d", from, i, m.Stream, m.Sequence, want)
			}
		}
	}
	if last := <-written; last != 6001 {
		t.Errorf("log ends at %d", last)
	}
}

func TestFollowWithFiltersSkipsTheRest(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	var want []record.Sequence
	var last record.Sequence
	for i := range 60 {
		typ := []string{"Patient", "Observation", "Encounter"}[i%3]
		a, err := p.Publish(t.Context(), Msg{Subject: IngestSubject(fhir.Key{Type: typ, ID: fhir.ID(strconv.Itoa(i))})})
		if err != nil {
			t.Fatal(err)
		}
		if typ != "Patient" {
			want, last = append(want, a.Sequence), a.Sequence
		}
	}
	got := collect(t, s, Events, 1, []string{"fhir.event.Observation.*.*", "fhir.event.Encounter.*.*"}, last)
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i, m := range got {
		if m.Sequence != want[i] {
			t.Fatalf("message %d has sequence %d, want %d", i, m.Sequence, want[i])
		}
	}
}

func TestFollowGoesOnOverARestart(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	got := make(chan record.Sequence, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Follow(ctx, Events, 1, nil, func(ms []Message) error {
			for _, m := range ms {
				got <- m.Sequence
			}
			return nil
		})
	}()
	next := record.Sequence(1)
	await := func(until record.Sequence) {
		t.Helper()
		for ; next <= until; next++ {
			if seq := <-got; seq != next {
				t.Fatalf("sequence %d, want %d", seq, next)
			}
		}
	}
	for i := range 3 {
		a, err := p.Publish(t.Context(), ingest(fhir.ID(strconv.Itoa(i)), nil))
		if err != nil {
			t.Fatal(err)
		}
		await(a.Sequence)
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_, last, err := s.State(t.Context(), Events)
	if err != nil {
		t.Fatal(err)
	}
	await(last)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("follow ended with %v", err)
	}
}

func TestFollowHandsNothingOverBeforeItIsSynced(t *testing.T) {
	s := start(t)
	got := make(chan record.Sequence, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		s.Follow(ctx, Events, 2, nil, func(ms []Message) error {
			got <- ms[len(ms)-1].Sequence
			return nil
		})
	})
	// Past the publisher, so nobody notes the acknowledgement: as a batch that is visible and not
	// yet synced.
	m := ingest("a", nil)
	if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), Events, 2); err != nil {
		t.Fatal(err)
	}
	select {
	case seq := <-got:
		t.Fatalf("sequence %d was handed over", seq)
	case <-time.After(100 * time.Millisecond):
	}
	s.advance(Events, 2)
	if seq := <-got; seq != 2 {
		t.Errorf("sequence %d", seq)
	}
}

func TestFollowRefusesALogThatIsNotTheReaders(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	last := fillEvents(t, p, 20)
	never := func([]Message) error { t.Error("a message was handed over"); return errEnough }
	if err := s.Follow(t.Context(), Events, last+2, nil, never); !errors.Is(err, ErrGap) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := s.Follow(t.Context(), "NONE", 1, nil, never); !errors.Is(err, ErrGap) {
		t.Errorf("no such stream: %v", err)
	}
	st, err := s.js.Stream(t.Context(), Events)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Purge(t.Context(), jetstream.WithPurgeSequence(10)); err != nil {
		t.Fatal(err)
	}
	if err := s.Follow(t.Context(), Events, 9, nil, never); !errors.Is(err, ErrGap) || !strings.Contains(err.Error(), "begins at 10") {
		t.Errorf("before the beginning: %v", err)
	}
	if got := collect(t, s, Events, 10, nil, last); got[0].Sequence != 10 {
		t.Errorf("from the beginning: starts at %d", got[0].Sequence)
	}
}

func TestFollowAsksForTheSealFirst(t *testing.T) {
	dir := t.TempDir()
	s := start(t, func(c *Config) { c.Dir = dir })
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = startBare(t, func(c *Config) { c.Dir = dir })
	err := s.Follow(t.Context(), Events, 1, nil, func([]Message) error { return nil })
	if !errors.Is(err, ErrNotSealed) {
		t.Errorf("follow before the seal: %v", err)
	}
}

func TestFollowEndsWithTheErrorOfItsReader(t *testing.T) {
	s := start(t)
	want := errors.New("projection is damaged")
	if err := s.Follow(t.Context(), Events, 1, nil, func([]Message) error { return want }); !errors.Is(err, want) {
		t.Errorf("ended with %v", err)
	}
	// The next one begins where it is told, whatever the one before made of it.
	if got := collect(t, s, Events, 1, nil, 1); len(got) != 1 {
		t.Errorf("%d messages", len(got))
	}
}

func TestAReaderThatMissesAMessageStartsAnew(t *testing.T) {
	s := start(t)
	f := &follower{s: s, stream: Matches, next: 5}
	var got []record.Sequence
	f.fn = func(ms []Message) error {
		for _, m := range ms {
			got = append(got, m.Sequence)
		}
		return nil
	}
	push := func(seq, count int) *nats.Msg {
		return &nats.Msg{Subject: "fhir.match.p", Reply: fmt.Sprintf("$JS.ACK.MATCHES.c.1.%d.%d.1700000000000000000.0", seq, count)}
	}
	_, err := f.handle(t.Context(), []*nats.Msg{push(5, 1), push(7, 2), push(9, 4)}, 0, true)
	if !errors.Is(err, errFollowAgain) || f.next != 8 || len(got) != 2 {
		t.Errorf("after the hole: next %d, got %v, %v", f.next, got, err)
	}
	if _, err := f.handle(t.Context(), []*nats.Msg{{Subject: "fhir.match.p", Reply: "$JS.ACK.x"}}, 0, true); err == nil || errors.Is(err, errFollowAgain) {
		t.Errorf("message without a place: %v", err)
	}
}

func TestAStoredMessageMayHaveAnyHeader(t *testing.T) {
	s := start(t)
	var last record.Sequence
	for _, status := range []string{"100", "404", "503"} {
		a, err := s.Publish(t.Context(), Dead, Msg{Subject: "fhir.dead.s", Header: nats.Header{"Status": {status}}})
		if err != nil {
			t.Fatal(err)
		}
		if m, err := s.Get(t.Context(), Dead, a.Sequence); err != nil || m.Header.Get("Status") != status {
			t.Errorf("status %s: %v", status, err)
		}
		last = a.Sequence
	}
	if got := collect(t, s, Dead, 1, nil, last); len(got) != 3 {
		t.Errorf("%d of 3 handed over", len(got))
	}
}
