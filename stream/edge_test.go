package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// client connects as any NATS user does.
func client(t *testing.T, s *Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	opts = append(opts, nats.PermissionErrOnSubscribe(true), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	nc, err := nats.Connect("nats://"+s.Addr(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestAProducersJetStreamPublishIsAnsweredByTheGate(t *testing.T) {
	s := start(t, listening)
	nc := client(t, s)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	subject := IngestSubject(fhir.Key{Type: "Patient", ID: "a.1"})
	if _, err := js.Publish(t.Context(), subject, []byte("{}"), jetstream.WithRetryAttempts(0)); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("without a gate: %v", err)
	}
	p := publisher(t, s, Events, Options{})
	sub, err := s.SubscribeIngest(func(m *nats.Msg) {
		_, key, err := s.Producer(m)
		if err != nil || string(m.Data) == "bad" {
			RespondError(m, 422, 20422, "cannot be read")
			return
		}
		p.Enqueue(context.Background(), Msg{Subject: IngestSubject(key), Data: m.Data, MsgID: m.Header.Get(nats.MsgIdHdr)},
			func(a Ack, err error) {
				if err != nil {
					RespondError(m, 503, 20503, err.Error())
					return
				}
				RespondAck(m, a.Sequence, a.Duplicate)
			})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := s.Edge().Flush(); err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(t.Context(), subject, []byte("{}"), jetstream.WithMsgID("m1"))
	if err != nil || ack.Stream != Events || ack.Duplicate {
		t.Fatalf("acknowledgement %+v, %v", ack, err)
	}
	if again, err := js.Publish(t.Context(), subject, []byte("{}"), jetstream.WithMsgID("m1")); err != nil || !again.Duplicate || again.Sequence != ack.Sequence {
		t.Errorf("the same message id: %+v, %v", again, err)
	}
	if m, err := s.LastFor(t.Context(), Events, EventSubject(fhir.Key{Type: "Patient", ID: "a.1"})); err != nil || uint64(m.Sequence) != ack.Sequence {
		t.Errorf("stored at %d: %v", m.Sequence, err)
	}
	var api *jetstream.APIError
	if _, err := js.Publish(t.Context(), subject, []byte("bad")); !errors.As(err, &api) || api.Code != 422 || api.ErrorCode != 20422 || api.Description != "cannot be read" {
		t.Errorf("refusal: %v", err)
	}
	old, err := nc.JetStream() // the older API of the client library, which most producers use
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := old.Publish(subject, []byte("{}")); err != nil || ack.Stream != Events {
		t.Errorf("older client: %+v, %v", ack, err)
	}
}

func TestEdgeUsersMayDoNothingElse(t *testing.T) {
	s := start(t, listening)
	if err := s.DeclareLanes(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	// Somebody in CORE who would notice.
	noticed, err := s.Conn().SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	defer noticed.Unsubscribe()
	if err := s.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{
		"$JS.API.INFO", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.MSG.GET.EVENTS", "$JS.API.DIRECT.GET.EVENTS",
		"$JS.API.CONSUMER.MSG.NEXT.LANES.3-0", "$JS.ACK.LANES.3-0.1.1.1.1.0", "$JS.FC.x",
		"$SYS.REQ.SERVER.PING", "$SYS.ACCOUNT.CORE.CONNECT", "$SYS.REQ.USER.INFO", "carillon.node.n1.state",
		"fhir.event.Patient.1.a", "fhir.control.floor", "fhir.unique.h", "fhir.match.p", "fhir.match.jobs", "fhir.lane.3-0.s",
		"fhir.outcome.3-0", "fhir.dead.s", "fhir.message.m", "fhir.timer.k", "fhir.due.k",
		"fhir.ingest.Patient", "fhir.ingest.Patient.a.b", "_INBOX.x", "other", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.LANES.3-0",
	} {
		t.Run("publish "+subject, func(t *testing.T) {
			nc := client(t, s)
			if err := nc.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("publish is let through: %v", err)
			}
		})
	}
	for _, subject := range []string{
		">", "*", "fhir.>", "fhir.*.*.*", "$SYS.>", "$JS.>", "$JS.API.>", "$SRV.>", "$JS.EVENT.>",
		"fhir.ingest.>", "fhir.ingest.*.*", "fhir.match.>", "fhir.lane.>", "fhir.outcome.>", "fhir.control.>", "fhir.unique.>",
		"fhir.timer.>", "fhir.due.>", "other",
	} {
		t.Run("subscribe "+subject, func(t *testing.T) {
			nc := client(t, s)
			sub, err := nc.SubscribeSync(subject)
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			if _, err := sub.NextMsg(time.Second); !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("subscription is let through: %v", err)
			}
		})
	}
	for n, _, _ := noticed.Pending(); n > 0; n-- {
		if m, err := noticed.NextMsg(time.Second); err != nil || m.Subject != "$JS.EVENT.ADVISORY.API" {
			t.Errorf("a message reached CORE: %v, %v", m, err)
		}
	}
}

func TestUsersInsideTheProcessCannotBePlayedFromOutside(t *testing.T) {
	s := start(t, listening)
	for name, id := range map[string]identity{"core": s.core, "gate": s.gate} {
		nc, err := nats.Connect("nats://"+s.Addr(), nats.Nkey(id.public, id.pair.Sign), nats.MaxReconnects(0))
		if err == nil {
			nc.Close()
			t.Errorf("%s connected over TCP, with the very key", name)
		}
	}
	for _, opt := range []nats.Option{nats.UserInfo("core", "x"), nats.Token("x"), nats.UserInfo("edge", "")} {
		nc, err := nats.Connect("nats://"+s.Addr(), opt, nats.MaxReconnects(0))
		if err != nil {
			continue // refused is as good as being the guest
		}
		if err := nc.Publish("fhir.match.p", nil); err != nil {
			t.Fatal(err)
		}
		nc.Flush()
		if !errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
			t.Error("a login gave rights")
		}
		nc.Close()
	}
}

func TestEdgeUsersHearEventsMessagesAndDeadLetters(t *testing.T) {
	s := start(t, listening)
	nc := client(t, s)
	subs := map[string]*nats.Subscription{}
	for _, f := range []string{"fhir.event.>", "fhir.event.Patient.>", "fhir.dead.*", "fhir.message.m"} {
		sub, err := nc.SubscribeSync(f)
		if err != nil {
			t.Fatal(err)
		}
		subs[f] = sub
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	key := fhir.Key{Type: "Patient", ID: "p"}
	for i, body := range []string{"1", "2"} {
		s.Notice(Message{Subject: EventSubject(key), Sequence: record.Sequence(i + 2), Data: []byte(body)})
	}
	for _, f := range []string{"fhir.event.>", "fhir.event.Patient.>"} {
		for i, body := range []string{"1", "2"} {
			m, err := subs[f].NextMsg(5 * time.Second)
			if err != nil || m.Subject != EventSubject(key) || string(m.Data) != body {
				t.Fatalf("%s: message %d is %v, %v", f, i, m, err)
			}
			if seq := m.Header.Get("Nats-Sequence"); seq != fmt.Sprint(i+2) {
				t.Errorf("event %d tells sequence %q", i, seq)
			}
		}
	}
	if _, err := s.Publish(t.Context(), Dead, Msg{Subject: DeadSubject("s"), Data: []byte("letter"), Header: nats.Header{"Dead-Reason": {"gone"}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := subs["fhir.dead.*"].NextMsg(5 * time.Second); err != nil || m.Header.Get("Dead-Reason") != "gone" {
		t.Errorf("dead letter: %v, %v", m, err)
	}
	if _, err := s.Publish(t.Context(), Messages, Msg{Subject: "fhir.message.m"}); err != nil {
		t.Fatal(err)
	}
	if _, err := subs["fhir.message.m"].NextMsg(5 * time.Second); err != nil {
		t.Errorf("message: %v", err)
	}
}

func TestTheGateAnswersInboxesOnly(t *testing.T) {
	s := start(t, listening)
	nc := client(t, s)
	spy, err := nc.SubscribeSync("fhir.dead.*")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	sub, err := s.SubscribeIngest(func(m *nats.Msg) {
		refused <- RespondAck(m, 1, false)
		m.Respond([]byte("forged")) // the server refuses it, too
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := errors.Join(nc.Flush(), s.Edge().Flush()); err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("fhir.ingest.Patient.a", "fhir.dead.forged", nil); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; err == nil || !strings.Contains(err.Error(), "no inbox") {
		t.Errorf("answer to a subject of others: %v", err)
	}
	if err := errors.Join(s.Edge().Flush(), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := spy.Pending(); n != 0 {
		t.Error("the answer was forged into a dead letter")
	}
	if err := RespondAck(&nats.Msg{Subject: "fhir.ingest.Patient.a"}, 1, false); err != nil {
		t.Errorf("publish without a reply subject: %v", err)
	}
}
