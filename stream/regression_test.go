package stream

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
)

// following hands over what Follow delivers, call by call, and ends with the test.
func following(t *testing.T, s *Server, from record.Sequence) <-chan []record.Sequence {
	t.Helper()
	got := make(chan []record.Sequence, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Follow(ctx, Events, from, nil, func(ms []Message) error {
			var seqs []record.Sequence
			for _, m := range ms {
				seqs = append(seqs, m.Sequence)
			}
			got <- seqs
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("follow ended with %v", err)
		}
	})
	return got
}

// awaitSequence reads until the sequence was handed over.
func awaitSequence(t *testing.T, got <-chan []record.Sequence, seq record.Sequence) {
	t.Helper()
	for {
		select {
		case seqs := <-got:
			if seqs[len(seqs)-1] >= seq {
				return
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("sequence %d was not handed over", seq)
		}
	}
}

func TestAWriteWhoseWriterLeftDoesNotStopReadersForEver(t *testing.T) {
	s := start(t)
	got := following(t, s, 1)
	awaitSequence(t, got, 1)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Append(gone, Events, ControlSubject("tokens"), []byte("[]"), 0); err == nil {
		t.Skip("the answer came before the writer left")
	}
	awaitSequence(t, got, 2) // only a seal proves it
	if d := s.Durable(Events); d < 2 {
		t.Errorf("durable up to %d", d)
	}
}

func TestAcknowledgedWritesAreReadWithoutWaitingForWhatComesAfterThem(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	for _, id := range []fhir.ID{"a", "b"} {
		if _, err := p.Publish(t.Context(), ingest(id, nil)); err != nil {
			t.Fatal(err)
		}
	}
	// Past the publisher: nobody notes its acknowledgement.
	if _, err := s.js.PublishMsg(t.Context(), &nats.Msg{Subject: ControlSubject("abandoned")}); err != nil {
		t.Fatal(err)
	}
	batch := []Message{{Sequence: 2}, {Sequence: 3}, {Sequence: 4}}
	var calls [][]record.Sequence
	f := &follower{s: s, stream: Events, next: 2, fn: func(ms []Message) error {
		var seqs []record.Sequence
		for _, m := range ms {
			seqs = append(seqs, m.Sequence)
		}
		if len(calls) == 0 && s.Durable(Events) != 3 {
			t.Errorf("the acknowledged were handed over when durable was %d", s.Durable(Events))
		}
		calls = append(calls, seqs)
		return nil
	}}
	if err := f.deliver(t.Context(), batch, false); err != nil {
		t.Fatal(err)
	}
	if len(calls) != 2 || len(calls[0]) != 2 || len(calls[1]) != 1 || f.next != 5 {
		t.Errorf("handed over %v, next is %d", calls, f.next)
	}
}

func TestPendingIsTrueUntilTheAnswer(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	stored := EventSubject(fhir.Key{Type: "Observation", ID: "a"})
	if p.Pending(stored) {
		t.Error("pending before anything was written")
	}
	// Two messages of the subject behind one whose answer is held up.
	hold, held := make(chan struct{}), make(chan struct{})
	if err := p.Enqueue(t.Context(), ingest("first", nil), func(Ack, error) { close(held); <-hold }); err != nil {
		t.Fatal(err)
	}
	<-held
	answered := make(chan bool, 2)
	for range 2 {
		if err := p.Enqueue(t.Context(), ingest("a", nil), func(Ack, error) { answered <- p.Pending(stored) }); err != nil {
			t.Fatal(err)
		}
	}
	if !p.Pending(stored) {
		t.Error("not pending while it is queued")
	}
	if p.Pending(EventSubject(fhir.Key{Type: "Observation", ID: "b"})) {
		t.Error("another subject is pending")
	}
	close(hold)
	if !<-answered {
		t.Error("not pending while the second is on its way")
	}
	if <-answered || p.Pending(stored) {
		t.Error("pending after the last answer")
	}
}

func TestPendingForgetsAWriterThatLeft(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	hold, held := make(chan struct{}), make(chan struct{})
	if err := p.Enqueue(t.Context(), ingest("first", nil), func(Ack, error) { close(held); <-hold }); err != nil {
		t.Fatal(err)
	}
	<-held
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Publish(gone, ingest("a", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("writer that left: %v", err)
	}
	close(hold)
	if _, err := p.Publish(t.Context(), ingest("b", nil)); err != nil {
		t.Fatal(err)
	}
	if p.Pending(EventSubject(fhir.Key{Type: "Observation", ID: "a"})) {
		t.Error("pending though nobody writes it")
	}
}

func TestATransactionThatCannotBeWrittenIsRefusedBeforeItHoldsUpOthers(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	unique, a := UniqueSubject("aa"), ingest("a", nil)
	conditional := func(m Msg, about string) Msg {
		m.ExpectLast, m.ExpectSubject = Expect(0), about
		return m
	}
	stored := StoredSubject(a.Subject)
	tests := []struct {
		name string
		ms   []Msg
		want error
	}{
		{"two creates of one unique key", []Msg{conditional(Msg{Subject: unique}, ""), a, conditional(Msg{Subject: unique}, "")}, ErrRefused},
		{"condition after a write", []Msg{a, conditional(a, "")}, ErrRefused},
		{"condition on a subject written before", []Msg{a, conditional(ingest("b", nil), stored)}, ErrRefused},
		{"two conditions on one other subject", []Msg{conditional(ingest("b", nil), stored), conditional(ingest("c", nil), stored)}, ErrRefused},
		{"condition before the write", []Msg{conditional(a, ""), a, conditional(ingest("d", nil), "")}, nil},
	}
	for _, tt := range tests {
		// A refusal that takes Options.Wait would not be ErrRefused but ErrUnavailable.
		if _, err := p.PublishAtomic(t.Context(), tt.ms); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestALaterMessageOfASubjectNeverOvertakesAnEarlierOne(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Dead, Options{Wait: 5 * time.Second})
	// The engine refuses the first message for now and would take what is on its way behind it.
	first := true
	if err := s.answers.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	var err error
	s.answers.sub, err = s.nc.nc.Subscribe(s.answers.prefix+"*", func(m *nats.Msg) {
		if first {
			first = false
			m.Data = []byte(`{"error":{"code":429,"err_code":10167,"description":"too many requests"},"stream":"DEAD"}`)
		}
		s.answers.take(m)
	})
	if err != nil {
		t.Fatal(err)
	}
	letter := func(subject, data string) Msg { return Msg{Subject: DeadSubject(fhir.ID(subject)), Data: []byte(data)} }
	for _, o := range together(t, p, letter("x", "0"), letter("y", "0"), letter("x", "1"), letter("y", "1"), letter("x", "2")) {
		if o.err != nil {
			t.Error(o.err)
		}
	}
	// The refused message is in this log too, since only its answer was changed: what counts is
	// that the second was sent after the first was repeated.
	_, last, err := s.State(t.Context(), Dead)
	if err != nil {
		t.Fatal(err)
	}
	var order string
	for seq := record.Sequence(1); seq <= last; seq++ {
		m, err := s.Get(t.Context(), Dead, seq)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject == DeadSubject("x") {
			order += string(m.Data)
		}
	}
	if order != "0012" {
		t.Errorf("messages of one subject were stored as %s", order)
	}
}

func TestARestartWhoseCallerHasLeftStopsNothing(t *testing.T) {
	s := start(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Restart(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("restart: %v", err)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

func TestAStopThatIsGivenUpLeavesTheServerKnown(t *testing.T) {
	s := start(t)
	srv := s.running()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for s.stop(gone) == nil { // both ends may be there at once
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		srv = s.running()
	}
	if s.running() != srv && srv.Running() {
		t.Error("a server that has its files open is forgotten")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if srv.Running() || s.running() == srv {
		t.Error("the server before was not stopped")
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

func TestARestartThatFailedHalfWayIsNotHealthy(t *testing.T) {
	s := start(t)
	s.cfg.Replicas = 3 // the stored streams have one: Declare refuses them when the server runs again
	if err := s.Restart(t.Context()); err == nil {
		t.Fatal("restarted on streams that are not as declared")
	}
	if s.running() == nil {
		t.Fatal("the server was not started at all")
	}
	if err := s.Healthy(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after half a restart: %v", err)
	}
	s.cfg.Replicas = 1
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

func TestTheEngineHasNoLimitOfItsOwnAndOneItMeetsIsNotHealthy(t *testing.T) {
	s := start(t)
	o, err := s.options()
	if err != nil {
		t.Fatal(err)
	}
	if _, total, err := DiskFree(s.Dir()); err != nil || uint64(o.JetStreamMaxStore) < total {
		t.Errorf("the engine stops at %d bytes of a disk of %d: %v", o.JetStreamMaxStore, total, err)
	}
	if err := s.checkReserve(); err != nil {
		t.Skipf("this machine's disk is nearly full: %v", err)
	}
	for code, counts := range map[int]bool{errInsufficient: true, errStorageResources: true, errWrongLast: false} {
		for _, name := range []string{Outcomes, LanesName} {
			s.answers.noRoom.Store(false)
			answer := make(chan *nats.Msg, 1)
			q := &asked{answers: s.answers, ch: answer}
			answer <- &nats.Msg{Data: mustJSON(t, pubAck{Stream: name, Error: &apiError{Code: 503, ErrCode: code}})}
			if _, err := q.await(t.Context(), time.Second); err == nil {
				t.Fatal("refusal was taken for an acknowledgement")
			}
			if bad := s.Healthy() != nil; bad != (counts && name == Outcomes) {
				t.Errorf("error %d of %s: unhealthy is %v", code, name, bad)
			}
		}
	}
	s.answers.noRoom.Store(true)
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

func TestABlipOfAConnectionIsHealthyAndALongOutageIsNot(t *testing.T) {
	s := start(t)
	nowhere, err := nats.Connect("nats://127.0.0.1:1", nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.SetCustomDialer(noDialer{}))
	if err != nil {
		t.Fatal(err)
	}
	defer nowhere.Close()
	feed := s.feed
	defer func() { s.feed = feed }()
	s.feed = &link{nc: nowhere, down: make(chan struct{})}
	s.feed.lost()
	if err := s.Healthy(); err != nil {
		t.Errorf("a connection that has just gone: %v", err)
	}
	s.feed.lack = time.Now().Add(-outage)
	s.feed.lost() // what is lost again was not there in between
	if err := s.Healthy(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no connection for 3s") {
		t.Errorf("a connection that stays away: %v", err)
	}
	s.feed.back()
	s.feed.lost()
	if err := s.Healthy(); err != nil {
		t.Errorf("a connection that came back in between: %v", err)
	}
}

type noDialer struct{}

func (noDialer) Dial(string, string) (net.Conn, error) { return nil, errors.New("nobody there") }

func TestOutcomesKeepSomeOfTheDiskForTheEngine(t *testing.T) {
	dir := smallDisk(t, "32m") // less than a quarter of the smallest reserve
	s := start(t, func(c *Config) { c.Dir = filepath.Join(dir, "data") })
	if _, err := s.Append(t.Context(), Outcomes, OutcomeSubject("1"), nil, 0); !errors.Is(err, ErrFull) {
		t.Errorf("below the reserve: %v", err)
	}
	if err := s.Healthy(); err != nil {
		t.Errorf("a full disk is not the engine's fault: %v", err)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
