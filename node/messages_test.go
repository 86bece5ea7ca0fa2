package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/node/hook"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reader pulls from a durable consumer of MESSAGES, as any NATS client does.
type reader struct {
	t *testing.T
	c jetstream.Consumer
}

func (r *running) reads(name, filter string) reader {
	r.t.Helper()
	r.do(201, "POST", "/admin/api/v1/consumers", fmt.Sprintf(`{"stream":"messages","name":%q,"filter":%q}`, name, filter), nil)
	nc, err := nats.Connect("nats://" + r.NATSAddr())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := js.Consumer(r.t.Context(), "MESSAGES", name)
	if err != nil {
		r.t.Fatal(err)
	}
	return reader{r.t, c}
}

func (r reader) next() jetstream.Msg {
	r.t.Helper()
	m, err := r.c.Next(jetstream.FetchMaxWait(30 * time.Second))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := m.DoubleAck(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// nothing wants no message to be left.
func (r reader) nothing() {
	r.t.Helper()
	info, err := r.c.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if info.NumPending != 0 || info.NumAckPending != 0 {
		r.t.Errorf("%d messages are left", info.NumPending+uint64(info.NumAckPending))
	}
}

func messageSubscription(id, endpoint, more string) string {
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"active","criteria":"Patient?","channel":{"type":"message","endpoint":%q,"payload":"application/json"%s}}`, id, endpoint, more)
}

const wantsDeletes = `,"extension":[{"url":"http://hapifhir.io/fhir/StructureDefinition/subscription-send-delete-messages","valueBoolean":true}]`

func TestAMessageChannelIsReadWithADurableConsumer(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Message.Subjects = []string{"lab.*.results"}
	r := runNode(t, cfg)
	lab, outside := r.reads("lab", "fhir.message.lab"), r.reads("outside", "lab.*.results")
	r.do(201, "PUT", "/fhir/Subscription/m", messageSubscription("m", "channel:lab", wantsDeletes+`,"header":["X-Ward: 7"]`), nil)
	r.do(201, "PUT", "/fhir/Subscription/n", messageSubscription("n", "nats:lab.a.results", ""), nil)
	var created struct{ Meta struct{ VersionID string } }
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","multipleBirthInteger":1}`, &created)
	r.do(200, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","active":true}`, nil)
	r.do(204, "DELETE", "/fhir/Patient/p1", "", nil)
	var birth struct{ Meta struct{ VersionID string } }
	r.do(200, "GET", "/fhir/Subscription/m", "", &birth)
	for i, want := range []string{"create", "update", "delete"} {
		m := lab.next()
		var body struct {
			ID   string
			Meta struct{ VersionID string }
		}
		if err := json.Unmarshal(m.Data(), &body); (want == "delete") == (err == nil) || want == "delete" && len(m.Data()) != 0 {
			t.Errorf("%s: body %q, %v", want, m.Data(), err)
		}
		if want == "create" && body.Meta.VersionID != created.Meta.VersionID {
			t.Errorf("body %+v, version %s", body, created.Meta.VersionID)
		}
		h := m.Headers()
		got := []string{m.Subject(), h["Fhir-Interaction"][0], h["Fhir-Resource"][0], h["X-Carillon-Subscription"][0], h["X-Carillon-Event"][0], h["X-Carillon-Attempt"][0], h["X-Ward"][0]}
		if w := []string{"fhir.message.lab", want, "Patient/p1", "m", fmt.Sprint(i + 1), "1", "7"}; !reflect.DeepEqual(got, w) {
			t.Errorf("%v, want %v", got, w)
		}
		id := h["webhook-id"][0]
		if !strings.HasPrefix(id, "m.") || !strings.HasSuffix(id, fmt.Sprintf(".%d", i+1)) || h.Get("Nats-Msg-Id") != id {
			t.Errorf("named %q, id %q", id, h.Get("Nats-Msg-Id"))
		}
	}
	lab.nothing()
	for range 2 { // the second Subscription does not want deletes
		if m := outside.next(); m.Subject() != "lab.a.results" {
			t.Errorf("subject %s", m.Subject())
		}
	}
	outside.nothing()

	for name, tc := range map[string]struct{ endpoint, more, says string }{
		"a subject that is not allowed": {"nats:lab.a.other", "", "not among delivery.message.subjects"},
		"a tree of ours":                {"nats:fhir.event.Patient.0.x", "", "not among delivery.message.subjects"},
		"two tokens":                    {"channel:a.b", "", "channel:NAME"},
		"an address":                    {"https://example.org", "", "channel:NAME"},
		"a header of the engine":        {"channel:lab", `,"header":["Nats-Rollup: all"]`, "cannot be given"},
		"a header of ours":              {"channel:lab", `,"header":["Fhir-Resource: Patient/other"]`, "cannot be given"},
	} {
		var refused json.RawMessage
		r.do(422, "PUT", "/fhir/Subscription/bad", messageSubscription("bad", tc.endpoint, tc.more), &refused)
		if !strings.Contains(string(refused), tc.says) {
			t.Errorf("%s: %s", name, refused)
		}
	}
	var refused json.RawMessage
	r.do(422, "PUT", "/fhir/Subscription/bad", strings.Replace(messageSubscription("bad", "channel:lab", ""), "application/json", "application/fhir+xml", 1), &refused)
	if !strings.Contains(string(refused), "messages are JSON") {
		t.Errorf("XML: %s", refused)
	}
}

// Smile CDR's example of a payload search with a message channel: the Observation and its patient.
func TestAMessageCarriesWhatAPayloadSearchFinds(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	queue := r.reads("queue", "fhir.message.example-queue-name")
	r.do(201, "POST", "/fhir/Subscription", `{"resourceType":"Subscription","extension":[{"url":"http://hapifhir.io/fhir/StructureDefinition/subscription-payload-search-criteria",
"valueString":"Observation?_id=${matched_resource_id}&_include=Observation:subject"}],"status":"requested","criteria":"Observation?",
"channel":{"type":"message","endpoint":"channel:example-queue-name","payload":"application/json"}}`, nil)
	r.do(201, "PUT", "/fhir/Patient/2", `{"resourceType":"Patient","id":"2","active":true}`, nil)
	r.do(201, "PUT", "/fhir/Observation/3", `{"resourceType":"Observation","id":"3","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/2"}}`, nil)
	var b struct {
		ResourceType, Type string
		Entry              []struct{ Request struct{ Method, URL string } }
	}
	m := queue.next()
	if err := json.Unmarshal(m.Data(), &b); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, e := range b.Entry {
		urls = append(urls, e.Request.Method+" "+e.Request.URL)
	}
	if b.ResourceType != "Bundle" || b.Type != "transaction" || !reflect.DeepEqual(urls, []string{"PUT Observation/3", "PUT Patient/2"}) || m.Headers()["Fhir-Resource"][0] != "Observation/3" {
		t.Errorf("message %s", m.Data())
	}
}

func TestMessagesOfARestartAreStoredOnceAndReplaysAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	lab := r.reads("lab", "")
	r.do(201, "PUT", "/fhir/Subscription/m", messageSubscription("m", "channel:lab", ""), nil)
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1"}`, nil)
	first := lab.next().Headers().Get("Nats-Msg-Id")
	l := messageLog{r.server}
	if err := l.Publish(t.Context(), "fhir.message.lab", first, nil, []byte("again")); err != nil {
		t.Fatalf("the same id again: %v", err)
	}
	lab.nothing()
	r.do(200, "POST", "/fhir/Patient/p1/$resend", `{}`, nil)
	m := lab.next()
	if id := m.Headers().Get("Nats-Msg-Id"); id != first+"/1" || m.Headers()["webhook-id"][0] != first || m.Headers()["X-Carillon-Resend"][0] != "true" {
		t.Errorf("resent as %v, the first was %s", m.Headers(), first)
	}
	if err := l.Publish(t.Context(), "fhir.message.lab", "", nil, make([]byte, r.server.MaxPayload()+1)); !errors.Is(err, message.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, err := l.Subject("a b"); err == nil || l.Takes("lab.results") {
		t.Error("a subject that is none, or is not allowed")
	}
}

func TestTheCopyOfANamedChannelIsNotMadeAgainByRetries(t *testing.T) {
	var answers atomic.Int32
	at := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if answers.Add(1) < 3 {
			w.WriteHeader(500)
		}
	}))
	defer at.Close()
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Schedule = config.Schedule{Waits: []time.Duration{20 * time.Millisecond}}
	r := runNode(t, cfg)
	queue := r.reads("queue", "fhir.message.MyQueueName")
	const named = `{"extension":[{"url":"https://smilecdr.com/fhir/ns/StructureDefinition/subscription-named-channel-delivery","valueString":"MyQueueName"}],"type":`
	r.do(201, "PUT", "/fhir/Subscription/s", strings.Replace(subscriptionTo("s", "Patient?", at.URL), `{"type":`, named, 1), nil)
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1"}`, nil)
	m := queue.next()
	if m.Headers()["Fhir-Resource"][0] != "Patient/p1" || !strings.Contains(string(m.Data()), `"id":"p1"`) {
		t.Errorf("copied %v %s", m.Headers(), m.Data())
	}
	r.await("the third attempt", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["pending"] == 0.0 })
	var as []api.Attempt
	r.do(200, "GET", "/admin/api/v1/attempts?subscription=s", "", &as)
	if len(as) != 3 || as[0].Outcome != record.Accepted || answers.Load() != 3 {
		t.Errorf("attempts %+v", as)
	}
	queue.nothing()

	// Another process knows it by the endpoint's outcomes, however long ago the copy was made.
	sub := r.subs.get("s")
	p, err := r.store.PendingStats(sub.birth)
	if err != nil || p.Count != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	ms, err := r.store.Events(sub.birth, 1, 1, 1)
	if err != nil || len(ms) != 1 {
		t.Fatalf("%v, %v", ms, err)
	}
	n := deliver.Notification{MatchID: record.MatchID{Event: ms[0].Event, Birth: ms[0].Birth}, Attempt: 2}
	if anew := (&copies{store: r.store}); !anew.made(n) {
		t.Error("another process would make it again")
	}
	n.Round = 1
	if anew := (&copies{store: r.store}); anew.made(n) {
		t.Error("a replay would not be copied")
	}
	n.Round, n.Test = 0, true
	if anew := (&copies{store: r.store}); anew.made(n) {
		t.Error("a test would not be copied")
	}
}

func TestCopiesAreRememberedInABoundedMemory(t *testing.T) {
	c := &copies{}
	at := func(i int) deliver.Notification {
		return deliver.Notification{MatchID: record.MatchID{Event: record.Sequence(i), Birth: 1}, Attempt: 1}
	}
	for i := range 5 * maxCopies {
		c.note(at(i))
	}
	if len(c.now)+len(c.old) > 2*maxCopies {
		t.Errorf("%d are remembered", len(c.now)+len(c.old))
	}
	if !c.made(at(5*maxCopies-1)) || !c.made(at(4*maxCopies)) || c.made(at(0)) {
		t.Error("the newest are not those that are remembered")
	}
}

// exampleDeliverer is Smile CDR's example of a Subscription with a deliverer class, whose criteria's
// system is left as it is there.
const exampleDeliverer = `{"resourceType":"Subscription","id":"1","meta":{"versionId":"1","lastUpdated":"2017-08-19T16:52:11.041-04:00"},"status":"active",
"reason":"Monitor new neonatal function (note, age will be determined by the monitor)","criteria":"Patient?",
"channel":{"extension":[{"url":"https://smilecdr.com/fhir/ns/StructureDefinition/subscription-channel-rest-delivery-class","valueString":"org.example.ExampleDeliverer"}],
"type":"rest-hook","payload":"application/json","header":["Authorization: Bearer 123"]}}`

type received struct {
	n deliver.Notification
	t deliver.Target
}

// inbox is a channel of the program that embeds a node.
type inbox chan received

func (i inbox) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	select {
	case i <- received{n, t}:
		return deliver.Receipt{}, nil
	case <-ctx.Done():
		return deliver.Receipt{}, &deliver.Error{Code: record.Timeout, Err: ctx.Err()}
	}
}

func TestADeliveryClassIsAChannelOfTheProgramOrACommand(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "deliver")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncat > "+dir+"/new && mv "+dir+"/new "+dir+"/got\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(filepath.Join(dir, "data"))
	cfg.Delivery.Commands = map[string]config.Command{"to-lab": {Command: []string{program}, Timeout: 30 * time.Second}}
	cfg.Delivery.Retry.Schedule = config.Schedule{Waits: []time.Duration{20 * time.Millisecond}}
	box := make(inbox, 1)
	with := func(n *Node) {
		if err := WithChannel("org.example.ExampleDeliverer", box)(&n.added); err != nil {
			t.Error(err)
		}
	}
	r := runNode(t, cfg, with)
	r.do(201, "PUT", "/fhir/Subscription/1", exampleDeliverer, nil)
	toLab := strings.NewReplacer("org.example.ExampleDeliverer", "to-lab", `"id":"1"`, `"id":"2"`).Replace(exampleDeliverer)
	r.do(201, "PUT", "/fhir/Subscription/2", toLab, nil)
	r.do(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1"}`, nil)
	if got := <-box; got.n.Key.String() != "Patient/p1" || len(got.n.Body) == 0 || got.t.Headers[0] != "Authorization: Bearer 123" || got.t.Endpoint != "" {
		t.Errorf("the channel was given %+v", got)
	}
	for _, id := range []string{"1", "2"} {
		r.await("the end of its delivery", "/admin/api/v1/subscriptions/"+id, func(s map[string]any) bool { return s["pending"] == 0.0 && s["dead"] == 0.0 })
	}
	input, err := os.ReadFile(dir + "/got")
	if err != nil || !strings.Contains(string(input), `"resource":"Patient/p1"`) {
		t.Errorf("the command read %q, %v", input, err)
	}

	var refused json.RawMessage
	r.do(422, "PUT", "/fhir/Subscription/3", strings.NewReplacer("org.example.Example", "org.example.Other", `"id":"1"`, `"id":"3"`).Replace(exampleDeliverer), &refused)
	if s := string(refused); !strings.Contains(s, "there are org.example.ExampleDeliverer, to-lab") || !strings.Contains(s, "Java") {
		t.Errorf("an unknown class: %s", s)
	}
	message := strings.NewReplacer(`"id":"1"`, `"id":"3"`, `"rest-hook"`, `"message"`).Replace(exampleDeliverer)
	r.do(422, "PUT", "/fhir/Subscription/3", message, &refused)
	if !strings.Contains(string(refused), "is for channel type rest-hook") {
		t.Errorf("a class of a message channel: %s", refused)
	}

	// A node that has lost the class holds what is to be sent, and one that has it again goes on.
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	without := runNode(t, cfg)
	without.do(201, "PUT", "/fhir/Patient/p2", `{"resourceType":"Patient","id":"p2"}`, nil)
	without.await("the other's delivery", "/admin/api/v1/subscriptions/2", func(s map[string]any) bool { return s["events"] == 2.0 && s["pending"] == 0.0 })
	var held api.SubscriptionStatus
	without.do(200, "GET", "/admin/api/v1/subscriptions/1", "", &held)
	if held.Pending != 1 || held.Dead != 0 {
		t.Errorf("without the class: %+v", held)
	}
	if err := without.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, cfg, with)
	if got := <-box; got.n.Key.ID != "p2" {
		t.Errorf("the channel was given %+v", got)
	}
	again.await("its end", "/admin/api/v1/subscriptions/1", func(s map[string]any) bool { return s["pending"] == 0.0 })
}

func TestWhatANodeCannotSendForIsHeld(t *testing.T) {
	r := &registry{classes: classes{"to-lab": 0}, subjects: func(s string) bool { return s == "lab.a" }}
	for _, tc := range []struct {
		channel fhir.Channel
		class   string
		known   bool
	}{
		{fhir.Channel{Type: "rest-hook", Endpoint: "https://a.example"}, "", true},
		{fhir.Channel{Type: "rest-hook"}, "to-lab", true},
		{fhir.Channel{Type: "rest-hook", Endpoint: "https://a.example"}, "other", false},
		{fhir.Channel{Type: "message", Endpoint: "channel:q"}, "", true},
		{fhir.Channel{Type: "message", Endpoint: "nats:lab.a"}, "", true},
		{fhir.Channel{Type: "message", Endpoint: "nats:lab.b"}, "", false},
	} {
		s := &subscription{Subscription: fhir.Subscription{Channel: tc.channel, DeliveryClass: tc.class}}
		if r.channelKnown(s) != tc.known {
			t.Errorf("%+v, class %q: known %v", tc.channel, tc.class, !tc.known)
		}
	}
}

func TestAClassOfTwoOriginsIsRefused(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Commands = map[string]config.Command{"x": {Command: []string{"/bin/true"}}}
	n := &Node{cfg: cfg, added: additions{channels: map[string]deliver.Channel{"x": make(inbox)}}}
	if _, err := n.classes(); err == nil || !strings.Contains(err.Error(), "delivery.commands.x") {
		t.Errorf("%v", err)
	}
	if err := (classes{}).check("y"); fhir.AsError(err) == nil || !strings.Contains(err.Error(), "there is none here") {
		t.Errorf("%v", err)
	}
}

// What an interceptor withholds is not had by sending it again.
func TestHooksOnMatchingHoldForWhatIsSentByHand(t *testing.T) {
	var open atomic.Bool
	r := runNode(t, testConfig(t.TempDir()), func(n *Node) {
		objects := func(err error) error {
			if open.Load() {
				return nil
			}
			return err
		}
		n.added.interceptors = append(n.added.interceptors, hook.Interceptor{
			Name: "consent",
			BeforeMatch: func(_ context.Context, c *hook.Change) error {
				if c.Key.ID == "hidden" {
					return objects(hook.ErrVeto)
				}
				return nil
			},
			AfterMatch: func(_ context.Context, c hook.Change, m hook.Match) error {
				if c.Key.ID == "broken" {
					return objects(errors.New("no consent server"))
				}
				if m.Subscription == "s1" {
					return objects(hook.ErrVeto)
				}
				return nil
			},
		})
	})
	at := endpoint(t, 200)
	for _, id := range []string{"s1", "s2"} {
		r.do(201, "PUT", "/fhir/Subscription/"+id, subscriptionTo(id, "Patient?", at), nil)
	}
	for _, id := range []string{"shown", "hidden", "broken"} {
		r.do(201, "PUT", "/fhir/Patient/"+id, fmt.Sprintf(`{"resourceType":"Patient","id":%q}`, id), nil)
	}
	events := func(want1, want2 float64) {
		t.Helper()
		for id, want := range map[string]float64{"s1": want1, "s2": want2} {
			r.await("the end", "/admin/api/v1/subscriptions/"+id, func(s map[string]any) bool { return s["events"] == want && s["pending"] == 0.0 })
		}
	}
	r.await("the change set aside", "/admin/api/v1/status", func(s map[string]any) bool { return s["dead"] == 1.0 })
	events(0, 1)
	r.do(200, "POST", "/fhir/Patient/shown/$resend", `{}`, nil)
	r.do(422, "POST", "/fhir/Patient/broken/$resend", `{}`, nil)
	events(0, 1)
	open.Store(true)
	r.do(200, "POST", "/fhir/Patient/hidden/$resend", `{}`, nil)
	r.do(200, "POST", "/fhir/Patient/broken/$resend", `{}`, nil)
	events(2, 3)
}

func TestAVetoLeavesAsSkipped(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()), func(n *Node) {
		n.added.interceptors = append(n.added.interceptors, vetoing("p2"))
	})
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", endpoint(t, 200)), nil)
	for _, id := range []string{"p1", "p2", "p3"} {
		r.do(201, "PUT", "/fhir/Patient/"+id, fmt.Sprintf(`{"resourceType":"Patient","id":%q}`, id), nil)
	}
	r.await("the end", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["events"] == 3.0 && s["pending"] == 0.0 })
	var as []api.Attempt
	r.do(200, "GET", "/admin/api/v1/attempts?subscription=s", "", &as)
	codes := map[record.Code]int{}
	for _, a := range as {
		codes[a.Outcome]++
	}
	if codes[record.Accepted] != 2 || codes[record.Skipped] != 1 || len(as) != 3 {
		t.Errorf("outcomes %v", codes)
	}
	var sub api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions/s", "", &sub)
	if sub.Dead != 0 || sub.Status != "active" {
		t.Errorf("%+v", sub)
	}
}
