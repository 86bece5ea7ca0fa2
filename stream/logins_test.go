package stream

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/crypto/bcrypt"
)

// lab and ward are two logins that share a server and must not share anything else.
var (
	lab = Login{Name: "lab", Password: `s3cr"et \ ü`, Publish: []string{"fhir.ingest.Observation.*"},
		Subscribe: []string{"fhir.message.lab", "fhir.event.Patient.>"}, Consumers: []string{"messages/lab", "events/lab"}}
	ward = Login{Name: "ward", Password: "other", Publish: []string{"fhir.ingest.*.*"},
		Subscribe: []string{"fhir.dead.>"}, Consumers: []string{"messages/ward", "dead/ward"}}
	mute = Login{Name: "mute", Password: "nothing"}
)

func withLogins(logins ...Login) func(*Config) {
	return func(c *Config) { c.Listen, c.Logins = "127.0.0.1:0", logins }
}

func loginAs(t *testing.T, s *Server, l Login) *nats.Conn {
	t.Helper()
	return client(t, s, nats.UserInfo(l.Name, l.Password))
}

func TestWithLoginsNobodyEntersWithoutOne(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("hashed"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	key, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, withLogins(lab, Login{Name: "hash", Password: string(hash)}, Login{Name: "key", NKey: key.public}))
	for name, opt := range map[string]nats.Option{
		"none":             nats.Name("x"),
		"wrong password":   nats.UserInfo("lab", "s3cret"),
		"no password":      nats.UserInfo("lab", ""),
		"unknown":          nats.UserInfo("emr", "s3cret"),
		"hash as password": nats.UserInfo("hash", string(hash)),
		"token":            nats.Token("lab"),
		"guest":            nats.Nkey(s.guest.public, s.guest.pair.Sign),
		"core":             nats.Nkey(s.core.public, s.core.pair.Sign),
		"gate":             nats.Nkey(s.gate.public, s.gate.pair.Sign),
		"another key":      nats.Nkey(key.public, s.guest.pair.Sign),
		"key as name":      nats.UserInfo(key.public, ""),
	} {
		nc, err := nats.Connect("nats://"+s.Addr(), opt, nats.MaxReconnects(0))
		if err == nil {
			nc.Close()
			t.Errorf("%s: connected", name)
		} else if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, opt := range map[string]nats.Option{
		"password": nats.UserInfo(lab.Name, lab.Password),
		"bcrypt":   nats.UserInfo("hash", "hashed"),
		"nkey":     nats.Nkey(key.public, key.pair.Sign),
	} {
		if nc, err := nats.Connect("nats://"+s.Addr(), opt, nats.MaxReconnects(0)); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			nc.Close()
		}
	}
}

// denied are what nobody outside may publish on, whoever it is; operators are asked on the rest.
var denied = []string{
	"$JS.API.INFO", "$JS.API.ACCOUNT.PURGE.CORE", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.MESSAGES",
	"$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.MESSAGES", "$JS.API.STREAM.DELETE.MESSAGES", "$JS.API.STREAM.PURGE.EVENTS",
	"$JS.API.STREAM.MSG.GET.MESSAGES", "$JS.API.STREAM.MSG.DELETE.MESSAGES", "$JS.API.STREAM.SNAPSHOT.EVENTS",
	"$JS.API.STREAM.RESTORE.EVENTS", "$JS.API.STREAM.LEADER.STEPDOWN.EVENTS", "$JS.API.META.LEADER.STEPDOWN",
	"$JS.API.DIRECT.GET.MESSAGES", "$JS.API.DIRECT.GET.MESSAGES.fhir.message.lab",
	"$JS.API.CONSUMER.CREATE.MESSAGES", "$JS.API.CONSUMER.CREATE.MESSAGES.lab", "$JS.API.CONSUMER.CREATE.MESSAGES.lab.fhir.message.x",
	"$JS.API.CONSUMER.DURABLE.CREATE.MESSAGES.lab", "$JS.API.CONSUMER.DELETE.MESSAGES.lab", "$JS.API.CONSUMER.PAUSE.MESSAGES.lab",
	"$JS.API.CONSUMER.RESET.MESSAGES.lab", "$JS.API.CONSUMER.UNPIN.MESSAGES.lab", "$JS.API.CONSUMER.LEADER.STEPDOWN.MESSAGES.lab",
	"$JS.API.CONSUMER.NAMES.MESSAGES", "$JS.API.CONSUMER.LIST.MESSAGES", "$JS.FC.MESSAGES.lab.x",
	"$JS.API.CONSUMER.INFO.LANES.3-0", "$JS.API.CONSUMER.MSG.NEXT.LANES.3-0", "$JS.ACK.LANES.3-0.1.1.1.1.0",
	"$JS.API.CONSUMER.MSG.NEXT.MATCHES.x", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.LANES.3-0",
	"$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO", "$SYS.REQ.ACCOUNT.CORE.CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.ACCOUNT.CORE.CONNECT",
	"_R_.x.y", "_INBOX.x", "_INBOX.x.y",
	"fhir.event.Patient.1.a", "fhir.control.floor", "fhir.unique.h", "fhir.match.p", "fhir.match.jobs", "fhir.lane.3-0.s",
	"fhir.outcome.3-0", "fhir.dead.s", "fhir.message.lab", "fhir.timer.k", "fhir.due.k",
	"fhir.from.n1.lab.Observation.a", "fhir.from.n1.ward.Observation.a", "fhir.from.n2.lab.Observation.a", "fhir.ingest.Observation", "fhir.ingest.Observation.a.b", "other",
}

// deaf are what nobody outside may listen to, in a queue group or not.
var deaf = []string{
	">", "*", "*.>", "*.*", "*.*.*", "*.*.*.*", "fhir.>", "fhir.*.*", "fhir.*.>", "fhir.*.*.*", "fhir.ingest.>", "fhir.ingest.*.*", "fhir.from.>", "fhir.from.*.*.*.*", "fhir.from.n1.lab.>",
	"fhir.match.>", "fhir.lane.>", "fhir.outcome.>", "fhir.control.>", "fhir.unique.>", "fhir.timer.>", "fhir.due.>",
	"$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$JS.EVENT.ADVISORY.>", "$SYS.>", "$SRV.>", "$KV.>", "_R_.>", "_GR_.>", "other",
}

func TestALoginMayDoNothingElse(t *testing.T) {
	s := start(t, withLogins(lab, ward, mute))
	makeConsumers(t, s, "messages/lab", "messages/ward", "dead/ward", "events/lab", "events/ward")
	noticed, err := s.Conn().SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	defer noticed.Unsubscribe()
	asked := requests(t, s)
	if err := s.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	others := map[string][]string{
		"lab": {"fhir.ingest.Patient.a", "fhir.ingest.Subscription.a",
			"$JS.API.CONSUMER.INFO.MESSAGES.ward", "$JS.API.CONSUMER.MSG.NEXT.MESSAGES.ward", "$JS.ACK.MESSAGES.ward.1.1.1.1.0",
			"$JS.API.CONSUMER.MSG.NEXT.DEAD.ward", "$JS.API.CONSUMER.MSG.NEXT.DEAD.lab", "$JS.ACK.DEAD.ward.1.1.1.1.0",
			"$JS.API.CONSUMER.MSG.NEXT.EVENTS.ward", "$JS.ACK.EVENTS.ward.1.1.1.1.0"},
		"ward": {"$JS.API.CONSUMER.INFO.MESSAGES.lab", "$JS.API.CONSUMER.MSG.NEXT.MESSAGES.lab", "$JS.ACK.MESSAGES.lab.1.1.1.1.0",
			"$JS.API.CONSUMER.MSG.NEXT.EVENTS.lab", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.ward"},
		"mute": {"fhir.ingest.Observation.a", "$JS.API.CONSUMER.MSG.NEXT.MESSAGES.lab", "$JS.ACK.MESSAGES.lab.1.1.1.1.0"},
	}
	closed := map[string][]string{
		"lab":  {"fhir.message.>", "fhir.message.*", "fhir.message.ward", "fhir.dead.>", "fhir.dead.s", "fhir.event.>", "fhir.event.*.*.*", "fhir.event.Observation.>"},
		"ward": {"fhir.message.>", "fhir.message.lab", "fhir.event.>", "fhir.event.Patient.>"},
		"mute": {"fhir.message.>", "fhir.message.lab", "fhir.dead.>", "fhir.event.Patient.>"},
	}
	for _, l := range []Login{lab, ward, mute} {
		for _, subject := range slices.Concat(denied, []string{"$SRV.PING", "$SRV.PING.carillon", "carillon.admin.cluster.status"}, others[l.Name]) {
			t.Run(l.Name+" publish "+subject, func(t *testing.T) { mayNotPublish(t, loginAs(t, s, l), subject) })
		}
		for _, subject := range append(slices.Clone(deaf), closed[l.Name]...) {
			t.Run(l.Name+" subscribe "+subject, func(t *testing.T) { mayNotSubscribe(t, loginAs(t, s, l), subject) })
		}
	}
	for n, _, _ := noticed.Pending(); n > 0; n-- {
		if m, err := noticed.NextMsg(time.Second); err != nil || !strings.HasPrefix(m.Subject, "$JS.EVENT.ADVISORY.API") {
			t.Errorf("a message reached CORE: %v, %v", m, err)
		}
	}
	if n, _, _ := asked.Pending(); n > 0 {
		t.Errorf("%d requests reached the gate", n)
	}
}

func TestTheGuestMayNotSteerTheEngine(t *testing.T) {
	s := start(t, listening)
	makeConsumers(t, s, "messages/lab", "dead/lab", "events/lab")
	for _, subject := range denied {
		t.Run("publish "+subject, func(t *testing.T) { mayNotPublish(t, client(t, s), subject) })
	}
	for _, subject := range deaf {
		t.Run("subscribe "+subject, func(t *testing.T) { mayNotSubscribe(t, client(t, s), subject) })
	}
}

func mayNotPublish(t *testing.T, nc *nats.Conn, subject string) {
	t.Helper()
	if err := nc.PublishRequest(subject, nc.NewInbox(), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("publish is let through: %v", err)
	}
}

func mayNotSubscribe(t *testing.T, nc *nats.Conn, subject string) {
	t.Helper()
	plain, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	group, err := nc.QueueSubscribeSync(subject, "gate")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for what, sub := range map[string]*nats.Subscription{"subscription": plain, "queue subscription": group} {
		if _, err := sub.NextMsg(time.Second); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s is let through: %v", what, err)
		}
	}
}

// requests is the gate's place, where nobody answers.
func requests(t *testing.T, s *Server) *nats.Subscription {
	t.Helper()
	sub, err := s.Edge().SubscribeSync(s.fromHere() + "*.*.*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Unsubscribe() })
	if err := s.Edge().Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// answering is a gate that takes everything that Producer lets pass, and tells who asked.
func answering(t *testing.T, s *Server) <-chan string {
	t.Helper()
	who := make(chan string, 64)
	sub, err := s.SubscribeIngest(func(m *nats.Msg) {
		login, key, err := s.Producer(m)
		if err == nil {
			err = CheckHeaders(m.Header)
		}
		if err != nil {
			who <- "refused: " + err.Error()
			RespondError(m, 403, 20403, err.Error())
			return
		}
		who <- login + " " + key.String()
		RespondAck(m, 7, false)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Unsubscribe() })
	if err := s.Edge().Flush(); err != nil {
		t.Fatal(err)
	}
	return who
}

func TestTheGateLearnsFromTheEngineWhichLoginAsks(t *testing.T) {
	s := start(t, withLogins(lab, ward))
	who := answering(t, s)
	for _, l := range []Login{lab, ward} {
		js, err := jetstream.New(loginAs(t, s, l))
		if err != nil {
			t.Fatal(err)
		}
		// What the engine would say of a request is no use when the producer says it.
		m := &nats.Msg{Subject: "fhir.ingest.Observation.a_b", Data: []byte("{}"), Header: nats.Header{"Nats-Request-Info": {`{"acc":"CORE","user":"ward"}`}}}
		ack, err := js.PublishMsg(t.Context(), m)
		if err != nil || ack.Stream != Events || ack.Sequence != 7 {
			t.Fatalf("%s: %+v, %v", l.Name, ack, err)
		}
		if got := <-who; got != l.Name+" Observation/a.b" {
			t.Errorf("asked by %s, the gate learns %s", l.Name, got)
		}
	}
}

func TestTheGateAsksForTheRightToPublishOnceMore(t *testing.T) {
	s := start(t, withLogins(lab, ward))
	for subject, want := range map[string]string{
		"fhir.from.n1.lab.Observation.a":    "lab Observation/a",
		"fhir.from.n1.ward.Patient.a_b":     "ward Patient/a.b",
		"fhir.from.n1.lab.Patient.a":        "may not publish",
		"fhir.from.n1.nobody.Observation.a": "may not publish",
		"fhir.from.n2.lab.Observation.a":    "not of the form",
		"fhir.ingest.Observation.a":         "not of the form",
		"fhir.from.n1.lab.Observation":      "not of the form",
		"fhir.from.n1.lab.Observation.a.b":  "not a FHIR id",
	} {
		login, key, err := s.Producer(&nats.Msg{Subject: subject})
		if got := fmt.Sprint(login, " ", key, " ", err); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", subject, got, want)
		}
	}
}

func TestWithoutAGateAProducerLearnsItAtOnce(t *testing.T) {
	s := start(t, withLogins(lab))
	js, err := jetstream.New(loginAs(t, s, lab))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "fhir.ingest.Observation.a", nil, jetstream.WithRetryAttempts(0)); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("got %v", err)
	}
}

func TestALoginHearsWhatItMay(t *testing.T) {
	s := start(t, withLogins(lab, ward))
	subs := map[string]*nats.Subscription{}
	for f, l := range map[string]Login{"fhir.message.lab": lab, "fhir.event.Patient.>": lab, "fhir.dead.>": ward, "fhir.dead.s": ward} {
		nc := loginAs(t, s, l)
		sub, err := nc.SubscribeSync(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		subs[f] = sub
	}
	key := fhir.Key{Type: "Patient", ID: "p"}
	s.Notice(Message{Subject: EventSubject(key), Sequence: 2, Data: []byte("2")})
	for stream, subject := range map[string]string{Dead: "fhir.dead.s", Messages: "fhir.message.lab"} {
		if _, err := s.Publish(t.Context(), stream, Msg{Subject: subject, Data: []byte(subject)}); err != nil {
			t.Fatal(err)
		}
	}
	for f, want := range map[string]string{"fhir.message.lab": "fhir.message.lab", "fhir.event.Patient.>": EventSubject(key), "fhir.dead.>": "fhir.dead.s", "fhir.dead.s": "fhir.dead.s"} {
		m, err := subs[f].NextMsg(5 * time.Second)
		if err != nil || m.Subject != want {
			t.Errorf("%s: %v, %v", f, m, err)
		}
		if n, _, _ := subs[f].Pending(); n != 0 {
			t.Errorf("%s: %d messages too many", f, n)
		}
	}
}

// In one account for all, an inbox belongs to whoever subscribes to it.
func TestALoginSeesNoInboxOfAnother(t *testing.T) {
	s := start(t, withLogins(lab, ward))
	makeConsumers(t, s, "messages/ward")
	answering(t, s)
	spies := map[string]*nats.Subscription{}
	spy := loginAs(t, s, lab)
	for _, f := range []string{"_INBOX.>", "_INBOX.*", "_INBOX.*.*"} {
		sub, err := spy.SubscribeSync(f)
		if err != nil {
			t.Fatal(err)
		}
		spies[f] = sub
	}
	thief, err := spy.QueueSubscribeSync("_INBOX.>", "q")
	if err != nil {
		t.Fatal(err)
	}
	spies["queue"] = thief
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(t.Context(), Messages, Msg{Subject: "fhir.message.ward", Data: []byte("secret")}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(loginAs(t, s, ward))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "fhir.ingest.Patient.p", nil); err != nil {
		t.Fatal(err)
	}
	fetch(t, js, Messages, "ward", 1)
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	for f, sub := range spies {
		if n, _, _ := sub.Pending(); n != 0 {
			t.Errorf("%s heard %d answers to another login", f, n)
		}
	}
}

// The engine publishes an answer wherever the one who asked has said, without asking for a
// permission. So what a login may pull must not become a write, an ack or somebody's message.
func TestAReplySubjectGivesNoRights(t *testing.T) {
	s := start(t, withLogins(lab, ward))
	makeConsumers(t, s, "events/lab", "messages/ward", "messages/lab")
	who := answering(t, s)
	ears := loginAs(t, s, ward)
	dead, err := ears.SubscribeSync("fhir.dead.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := ears.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"lab", "ward"} {
		if _, err := s.Publish(t.Context(), Messages, Msg{Subject: "fhir.message." + m}); err != nil {
			t.Fatal(err)
		}
	}
	wards, err := jetstream.New(loginAs(t, s, ward))
	if err != nil {
		t.Fatal(err)
	}
	c, err := wards.Consumer(t.Context(), Messages, "ward")
	if err != nil {
		t.Fatal(err)
	}
	held := fetch(t, wards, Messages, "ward", 1)[0]
	key := fhir.Key{Type: "Patient", ID: "p"}
	if _, err := s.Publish(t.Context(), Events, Msg{Subject: IngestSubject(key), Data: []byte(`{"resourceType":"Patient","id":"p"}`)}); err != nil {
		t.Fatal(err)
	}
	nc := loginAs(t, s, lab)
	for _, reply := range []string{"fhir.ingest.Patient.p", "fhir.ingest.Observation.p", "fhir.from.n1.ward.Patient.p", "fhir.dead.s", "fhir.message.lab",
		"$JS.API.CONSUMER.MSG.NEXT.MESSAGES.ward", "$JS.API.STREAM.PURGE.MESSAGES", "fhir.control.floor", "$SYS.REQ.SERVER.PING"} {
		for _, ask := range []string{"$JS.API.CONSUMER.MSG.NEXT.EVENTS.lab", "$JS.API.CONSUMER.MSG.NEXT.MESSAGES.lab", "$JS.API.CONSUMER.INFO.EVENTS.lab"} {
			if err := nc.PublishRequest(ask, reply, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := nc.Flush(); err != nil || nc.LastError() != nil {
		t.Fatal(err, nc.LastError())
	}
	// The answers run through the server behind the requests; one more of each stands behind them.
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{Events, Messages} {
		lc, err := js.Consumer(t.Context(), stream, "lab")
		if err != nil {
			t.Fatal(err)
		}
		batch, err := lc.FetchNoWait(1)
		if err != nil {
			t.Fatal(err)
		}
		for range batch.Messages() {
		}
	}
	if _, err := js.Publish(t.Context(), "fhir.ingest.Observation.last", nil); err != nil {
		t.Fatal(err)
	}
	for got := ""; got != "lab Observation/last"; {
		if got = <-who; !strings.HasPrefix(got, "refused") && got != "lab Observation/p" && got != "lab Observation/last" {
			t.Errorf("the gate was asked: %s", got)
		}
	}
	if n, _, _ := dead.Pending(); n != 0 {
		t.Error("an answer was played to another login as a dead letter")
	}
	meta, err := held.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	forger := loginAs(t, s, lab)
	ack := fmt.Sprintf("$JS.ACK.MESSAGES.ward.%d.%d.%d.%d.0", meta.NumDelivered, meta.Sequence.Stream, meta.Sequence.Consumer, meta.Timestamp.UnixNano())
	if err := forger.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.MESSAGES.lab", ack, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
		t.Fatal(err)
	}
	if err := forger.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := forger.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("an ack as reply subject is taken: %v", err)
	}
	if info, err := c.Info(t.Context()); err != nil || info.NumAckPending != 1 {
		t.Errorf("the other login's message is no longer out: %+v, %v", info, err)
	}
}

func TestLoginsThatCannotBeMeantSoAreRefused(t *testing.T) {
	key, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		logins     []Login
	}{
		{"no name", "a name is made of", []Login{{Password: "x"}}},
		{"a name that is a subject", "a name is made of", []Login{{Name: "a.b", Password: "x"}}},
		{"nothing to open it", "password or an nkey", []Login{{Name: "a"}}},
		{"both", "password or an nkey", []Login{{Name: "a", Password: "x", NKey: key.public}}},
		{"a seed for an nkey", "public key of a user", []Login{{Name: "a", NKey: "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"}}},
		{"half a hash", "bcrypt", []Login{{Name: "a", Password: "$2a$11$abc"}}},
		{"the same name twice", "there twice", []Login{{Name: "a", Password: "x"}, {Name: "a", Password: "y"}}},
		{"the same nkey twice", "nkey of another", []Login{{Name: "a", NKey: key.public}, {Name: "b", NKey: key.public}}},
		{"publish on the stream", "fhir.ingest.{Type}.{id}", []Login{{Name: "a", Password: "x", Publish: []string{"fhir.event.Patient.1.a"}}}},
		{"publish on everything", "fhir.ingest.{Type}.{id}", []Login{{Name: "a", Password: "x", Publish: []string{">"}}}},
		{"publish on more tokens", "fhir.ingest.{Type}.{id}", []Login{{Name: "a", Password: "x", Publish: []string{"fhir.ingest.Patient.>"}}}},
		{"subscribe to everything", "is not within", []Login{{Name: "a", Password: "x", Subscribe: []string{"fhir.>"}}}},
		{"subscribe beside the trees", "is not within", []Login{{Name: "a", Password: "x", Subscribe: []string{"fhir.match.p"}}}},
		{"subscribe to all trees", "is not within", []Login{{Name: "a", Password: "x", Subscribe: []string{"fhir.*.lab"}}}},
		{"subscribe to the root", "is not within", []Login{{Name: "a", Password: "x", Subscribe: []string{"fhir.dead"}}}},
		{"subscribe to no subject", "is not within", []Login{{Name: "a", Password: "x", Subscribe: []string{"fhir.dead.a b"}}}},
		{"subscribe behind the end", "is not within", []Login{{Name: "a", Password: "x", Subscribe: []string{"fhir.dead.>.a"}}}},
		{"a queue in the subject", "is not within", []Login{{Name: "a", Password: "x", Subscribe: []string{"fhir.dead.> q"}}}},
		{"a consumer of another stream", "messages/NAME", []Login{{Name: "a", Password: "x", Consumers: []string{"lanes/3-0"}}}},
		{"a consumer with a wildcard", "messages/NAME", []Login{{Name: "a", Password: "x", Consumers: []string{"messages/*"}}}},
		{"a consumer without a stream", "messages/NAME", []Login{{Name: "a", Password: "x", Consumers: []string{"lab"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Config{Name: "n", Dir: t.TempDir(), Logins: c.logins}.complete()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "SUAIB") {
				t.Error("the error shows a secret")
			}
		})
	}
}

func TestAListenerThatOthersReachNeedsLoginsAndTLS(t *testing.T) {
	tls := &TLS{Cert: "c.pem", Key: "k.pem"}
	for _, c := range []struct {
		name, want string // want is part of the refusal; empty where it is let through
		change     Config
	}{
		{"loopback needs nothing", "", Config{Listen: "127.0.0.1:4222"}},
		{"localhost needs nothing", "", Config{Listen: "localhost:4222"}},
		{"loopback of the newer kind", "", Config{Listen: "[::1]:4222"}},
		{"loopback with logins", "", Config{Listen: "127.0.0.1:4222", Logins: []Login{lab}}},
		{"nothing", "logins (security.nats.users) and TLS (security.nats.tls)", Config{Listen: "0.0.0.0:4222"}},
		{"all addresses", "logins (security.nats.users) and TLS (security.nats.tls)", Config{Listen: ":4222"}},
		{"logins alone", "without TLS (security.nats.tls)", Config{Listen: "10.0.0.1:4222", Logins: []Login{lab}}},
		{"TLS alone", "without logins (security.nats.users)", Config{Listen: "10.0.0.1:4222", ClientTLS: tls}},
		{"both", "", Config{Listen: "10.0.0.1:4222", Logins: []Login{lab}, ClientTLS: tls}},
		{"by name", "", Config{Listen: "10.0.0.1:4222", Insecure: true}},
		{"half a certificate", "certificate and its key", Config{Listen: "127.0.0.1:4222", ClientTLS: &TLS{Cert: "c.pem"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change.Name, c.change.Dir = "n", t.TempDir()
			_, err := c.change.complete()
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			case strings.Contains(c.want, "security") && !strings.Contains(err.Error(), "--insecure-public"):
				t.Errorf("no way out in %v", err)
			}
		})
	}
}

func TestAListenerWithTLSTakesNoPasswordInClear(t *testing.T) {
	dir := t.TempDir()
	cert, pool := certificate(t, dir)
	s := start(t, withLogins(lab), func(c *Config) { c.ClientTLS = cert })
	if nc, err := nats.Connect("tls://"+s.Addr(), nats.UserInfo(lab.Name, lab.Password), nats.Secure(pool)); err != nil {
		t.Error(err)
	} else {
		nc.Close()
	}
	if nc, err := nats.Connect("nats://"+s.Addr(), nats.UserInfo(lab.Name, lab.Password), nats.MaxReconnects(0)); err == nil {
		nc.Close()
		t.Error("connected without knowing the server's certificate")
	}
	missing := &TLS{Cert: filepath.Join(dir, "none.pem"), Key: filepath.Join(dir, "none.pem")}
	if _, err := Start(t.Context(), Config{Name: "n2", Dir: t.TempDir(), Listen: "127.0.0.1:0", ClientTLS: missing}); err == nil || !strings.Contains(err.Error(), "none.pem") {
		t.Errorf("a missing certificate: %v", err)
	}
}
