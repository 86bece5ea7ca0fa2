package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// makeConsumers makes durable consumers by their references.
func makeConsumers(t *testing.T, s *Server, references ...string) {
	t.Helper()
	for _, r := range references {
		stream, name, err := parseConsumer(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: stream, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
}

// fetch pulls n messages with the plainest of the client library's ways.
func fetch(t *testing.T, js jetstream.JetStream, stream, name string, n int) []jetstream.Msg {
	t.Helper()
	c, err := js.Consumer(t.Context(), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var got []jetstream.Msg
	for m := range batch.Messages() {
		got = append(got, m)
	}
	if batch.Error() != nil || len(got) != n {
		t.Fatalf("%d messages of %d: %v", len(got), n, batch.Error())
	}
	return got
}

func publishMessages(t *testing.T, s *Server, subject string, bodies ...string) {
	t.Helper()
	for _, b := range bodies {
		if _, err := s.Publish(t.Context(), Messages, Msg{Subject: subject, Data: []byte(b), Header: nats.Header{"X": {b}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryWayToPullReachesTheConsumersOfALogin(t *testing.T) {
	for name, connect := range map[string]func(*testing.T) (*Server, *nats.Conn){
		"login": func(t *testing.T) (*Server, *nats.Conn) {
			s := start(t, withLogins(lab, ward))
			return s, loginAs(t, s, lab)
		},
		"guest": func(t *testing.T) (*Server, *nats.Conn) {
			s := start(t, listening)
			return s, client(t, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, nc := connect(t)
			made, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: "messages", Name: "lab", Filter: "fhir.message.lab"})
			if err != nil || made.Stream != Messages || made.Filter != "fhir.message.lab" || made.Reference() != "messages/lab" {
				t.Fatalf("%+v, %v", made, err)
			}
			publishMessages(t, s, "fhir.message.other", "no")
			publishMessages(t, s, "fhir.message.lab", "1", "2")
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			c, err := js.Consumer(t.Context(), Messages, "lab")
			if err != nil {
				t.Fatal(err)
			}
			is := func(m jetstream.Msg, want string) {
				t.Helper()
				if m.Subject() != "fhir.message.lab" || string(m.Data()) != want || m.Headers().Get("X") != want {
					t.Errorf("got %s %q, want %s", m.Subject(), m.Data(), want)
				}
			}

			m := fetch(t, js, Messages, "lab", 1)[0]
			is(m, "1")
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}

			m, err = c.Next(jetstream.FetchMaxWait(5 * time.Second))
			if err != nil {
				t.Fatal(err)
			}
			is(m, "2")
			if err := m.Nak(); err != nil {
				t.Fatal(err)
			}
			if m, err = c.Next(jetstream.FetchMaxWait(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			is(m, "2")
			if meta, err := m.Metadata(); err != nil || meta.NumDelivered != 2 {
				t.Errorf("after a Nak: %+v, %v", meta, err)
			}
			if err := errors.Join(m.InProgress(), m.DoubleAck(t.Context())); err != nil {
				t.Fatal(err)
			}

			// The older API of the client library comes before what keeps a pull open: one that was stopped
			// may still be given a message, which then comes again after AckWait only.
			old, err := nc.JetStream()
			if err != nil {
				t.Fatal(err)
			}
			sub, err := old.PullSubscribe("fhir.message.lab", "lab", nats.Bind(Messages, "lab"))
			if err != nil {
				t.Fatal(err)
			}
			publishMessages(t, s, "fhir.message.lab", "3")
			ms, err := sub.Fetch(1, nats.MaxWait(5*time.Second))
			if err != nil || string(ms[0].Data) != "3" {
				t.Fatalf("older API: %v, %v", ms, err)
			}
			if err := ms[0].AckSync(); err != nil {
				t.Error(err)
			}
			publishMessages(t, s, "fhir.message.lab", "4", "5", "6", "7")
			it, err := c.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(time.Second), jetstream.PullHeartbeat(500*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"4", "5"} {
				if m, err = it.Next(); err != nil {
					t.Fatal(err)
				}
				is(m, want)
				if err := m.DoubleAck(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			it.Stop()

			got := make(chan jetstream.Msg)
			cc, err := c.Consume(func(m jetstream.Msg) { got <- m }, jetstream.PullMaxMessages(1))
			if err != nil {
				t.Fatal(err)
			}
			m = <-got
			is(m, "6")
			if err := m.TermWithReason("no good"); err != nil {
				t.Fatal(err)
			}
			m = <-got
			is(m, "7")
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
			cc.Stop()
			<-cc.Closed()

			info, err := c.Info(t.Context())
			if err != nil || info.NumAckPending != 0 || info.NumPending != 0 || info.AckFloor.Stream != 8 {
				t.Errorf("at the end: %+v, %v", info, err)
			}
		})
	}
}

func TestAConsumerOfEventsNeverHoldsControlRecords(t *testing.T) {
	s := start(t, listening)
	made, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: "events", Name: "all"})
	if err != nil || made.Filter != FilterEvents {
		t.Fatalf("%+v, %v", made, err)
	}
	if _, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: "events", Name: "patients", Filter: "fhir.event.Patient.>"}); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{ControlSubject("floor"), IngestSubject(fhir.Key{Type: "Observation", ID: "o"}), UniqueSubject("h"), IngestSubject(fhir.Key{Type: "Patient", ID: "p"})} {
		if _, err := s.Publish(t.Context(), Events, Msg{Subject: subject, Data: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(client(t, s))
	if err != nil {
		t.Fatal(err)
	}
	ms := fetch(t, js, Events, "all", 2)
	if !strings.HasPrefix(ms[0].Subject(), "fhir.event.Observation.") || !strings.HasPrefix(ms[1].Subject(), "fhir.event.Patient.") {
		t.Errorf("got %s and %s", ms[0].Subject(), ms[1].Subject())
	}
	fetch(t, js, Events, "patients", 1)
	all, err := s.Consumers(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if all[0].Pending != 0 || all[0].AckPending != 2 || all[1].AckPending != 1 {
		t.Errorf("what is left: %+v", all)
	}
}

func TestAConsumerBeginsWithAllOrWithWhatIsNew(t *testing.T) {
	s := start(t, listening)
	publishMessages(t, s, "fhir.message.lab", "old")
	makeConsumers(t, s, "messages/all")
	made, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: Messages, Name: "new", FromNew: true})
	if err != nil || !made.FromNew {
		t.Fatalf("%+v, %v", made, err)
	}
	publishMessages(t, s, "fhir.message.lab", "new")
	js, err := jetstream.New(client(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if m := fetch(t, js, Messages, "all", 2); string(m[0].Data()) != "old" {
		t.Errorf("all begins with %s", m[0].Data())
	}
	if m := fetch(t, js, Messages, "new", 1); string(m[0].Data()) != "new" {
		t.Errorf("new begins with %s", m[0].Data())
	}
}

func TestConsumersThatMustNotBeMadeAreRefused(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		name, want string
		spec       ConsumerSpec
	}{
		{"an internal stream", "not messages, dead or events", ConsumerSpec{Stream: "lanes", Name: "x"}},
		{"no stream", "not messages, dead or events", ConsumerSpec{Name: "x"}},
		{"no name", "consumer name", ConsumerSpec{Stream: "dead"}},
		{"a name that is two tokens", "consumer name", ConsumerSpec{Stream: "dead", Name: "a.b"}},
		{"a wildcard", "consumer name", ConsumerSpec{Stream: "dead", Name: "*"}},
		{"a name of our own", "follow-", ConsumerSpec{Stream: "events", Name: "follow-1"}},
		{"control records", "not within fhir.event.>", ConsumerSpec{Stream: "events", Name: "x", Filter: "fhir.control.*"}},
		{"control records by wildcard", "not within fhir.event.>", ConsumerSpec{Stream: "events", Name: "x", Filter: "fhir.*.>"}},
		{"everything", "not within fhir.event.>", ConsumerSpec{Stream: "events", Name: "x", Filter: ">"}},
		{"requests", "not within fhir.event.>", ConsumerSpec{Stream: "events", Name: "x", Filter: FilterIngest}},
		{"the subjects of another stream", "not within fhir.dead.>", ConsumerSpec{Stream: "dead", Name: "x", Filter: "fhir.message.a"}},
		{"no pattern", "not within fhir.dead.>", ConsumerSpec{Stream: "dead", Name: "x", Filter: "fhir.dead.a*"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.CreateConsumer(t.Context(), c.spec)
			if fe := fhir.AsError(err); fe == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestOnlyWhatAnAdministratorMadeIsListedAndDeleted(t *testing.T) {
	s := start(t)
	ours := jetstream.ConsumerConfig{Durable: "ours", AckPolicy: jetstream.AckExplicitPolicy}
	if _, err := s.js.CreateConsumer(t.Context(), Messages, ours); err != nil {
		t.Fatal(err)
	}
	makeConsumers(t, s, "messages/lab", "dead/lab", "messages/lab")
	if _, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: Messages, Name: "lab", Filter: "fhir.message.x"}); fhir.AsError(err) == nil || !strings.Contains(err.Error(), "made otherwise") {
		t.Errorf("the same name with another filter: %v", err)
	}
	if _, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: Messages, Name: "ours"}); fhir.AsError(err) == nil {
		t.Errorf("a name of ours: %v", err)
	}
	all, err := s.Consumers(t.Context())
	if err != nil || len(all) != 2 || all[0].Reference() != "dead/lab" || all[1].Reference() != "messages/lab" {
		t.Fatalf("listed: %+v, %v", all, err)
	}
	for _, c := range [][2]string{{"messages", "ours"}, {"messages", "none"}, {"events", "lab"}, {"lanes", "3-0"}, {"messages", "a.b"}} {
		if err := s.DeleteConsumer(t.Context(), c[0], c[1]); fhir.AsError(err) == nil || fhir.AsError(err).Issues[0].Type != fhir.IssueNotFound {
			t.Errorf("delete %v: %v", c, err)
		}
	}
	if err := s.DeleteConsumer(t.Context(), "messages", "lab"); err != nil {
		t.Error(err)
	}
	if all, err := s.Consumers(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("after deleting: %+v, %v", all, err)
	}
}

func TestAConsumerKeepsItsPlaceOverARestart(t *testing.T) {
	s := start(t, withLogins(lab))
	makeConsumers(t, s, "messages/lab")
	publishMessages(t, s, "fhir.message.lab", "1", "2")
	js, err := jetstream.New(loginAs(t, s, lab))
	if err != nil {
		t.Fatal(err)
	}
	if err := fetch(t, js, Messages, "lab", 1)[0].DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := jetstream.New(loginAs(t, s, lab))
	if err != nil {
		t.Fatal(err)
	}
	if m := fetch(t, again, Messages, "lab", 1)[0]; string(m.Data()) != "2" {
		t.Errorf("after a restart comes %s", m.Data())
	}
}

// certificate writes one for 127.0.0.1 that signs itself.
func certificate(t *testing.T, dir string) (*TLS, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := &TLS{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for path, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return files, &tls.Config{RootCAs: pool}
}
