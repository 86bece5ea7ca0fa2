package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/e2e/harness"
	"github.com/carillon-fhir/carillon/stream"
)

var natsCLI struct {
	once sync.Once
	path string
	out  []byte
	err  error
}

// natsClient builds the nats command-line client, whose version testdata/natscli pins. Without
// its source (no network, nothing cached) the test is skipped.
func natsClient(t *testing.T) string {
	t.Helper()
	natsCLI.once.Do(func() {
		// Beside the binary of carillon, which goes with it.
		natsCLI.path = filepath.Join(filepath.Dir(harness.Binary(t)), "nats")
		cmd := exec.Command("go", "build", "-o", natsCLI.path, "github.com/nats-io/natscli/nats")
		cmd.Dir = filepath.Join("testdata", "natscli")
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
		natsCLI.out, natsCLI.err = cmd.CombinedOutput()
	})
	if natsCLI.err != nil {
		t.Skipf("the nats command-line client cannot be built: %v\n%s", natsCLI.err, natsCLI.out)
	}
	return natsCLI.path
}

// natsUser runs the client as one user knows it: with its defaults, an address and a login.
type natsUser struct {
	path, url, name, password, home string
}

func (u natsUser) run(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.path, append([]string{"--server", u.url, "--timeout", "1s"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "XDG_CONFIG_HOME=" + u.home}
	if u.name != "" {
		cmd.Env = append(cmd.Env, "NATS_USER="+u.name, "NATS_PASSWORD="+u.password)
	}
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		t.Errorf("nats %s goes on for ever:\n%s", strings.Join(args, " "), out)
	case cmd.ProcessState == nil:
		t.Errorf("nats: %v", err)
	default:
		return string(out), cmd.ProcessState.ExitCode()
	}
	return string(out), -1
}

// may runs a command that has to succeed, and returns what it printed.
func (u natsUser) may(t *testing.T, args ...string) string {
	t.Helper()
	out, code := u.run(t, args...)
	if code != 0 {
		t.Fatalf("nats %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// next pulls until a message comes: one that was just made may be on its way.
func (u natsUser) next(t *testing.T, streamName, consumer string) string {
	t.Helper()
	for range 20 {
		if out, code := u.run(t, "consumer", "next", streamName, consumer, "--ack"); code == 0 {
			return out
		}
	}
	t.Fatalf("nothing comes from %s/%s", streamName, consumer)
	return ""
}

const natsLogins = `
security:
  nats:
    users:
      - name: lab
        password: lab-secret
        publish: ["fhir.ingest.Patient.*"]
        subscribe: ["fhir.dead.>"]
        consumers: ["dead/lab", "events/lab", "messages/lab"]
      - name: ward
        password: ward-secret
        consumers: ["dead/ward"]
`

// A user of the nats command-line client, with its defaults and a login: publishes a resource
// and is told that it is stored, follows the changes and takes dead letters from where it
// stopped, and can do nothing else.
func TestTheNATSCommandLineDoesWhatItsLoginMayAndNothingElse(t *testing.T) {
	client := natsClient(t)
	n := harness.NewNode(t, "--config", config(t, shortRetries+natsLogins)).Start()
	e := harness.NewEndpoint(t)
	e.Answer(func(harness.Arrival) int { return http.StatusServiceUnavailable })
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	for _, c := range []string{"dead", "messages"} {
		n.MustDo(201, "POST", "/admin/api/v1/consumers", `{"stream":"`+c+`","name":"lab"}`, "Content-Type", "application/json")
	}
	n.MustDo(201, "POST", "/admin/api/v1/consumers", `{"stream":"dead","name":"ward"}`, "Content-Type", "application/json")
	n.MustDo(201, "POST", "/admin/api/v1/consumers", `{"stream":"events","name":"lab","filter":"fhir.event.Patient.>"}`, "Content-Type", "application/json")
	lab := natsUser{client, n.NATS, "lab", "lab-secret", t.TempDir()}
	ward := natsUser{client, n.NATS, "ward", "ward-secret", t.TempDir()}

	if out := lab.may(t, "pub", "--jetstream", "fhir.ingest.Patient.a", patient("a", "One")); !strings.Contains(out, "Stored in Stream: EVENTS") {
		t.Errorf("publish prints %s", out)
	}
	if out := lab.may(t, "request", "--raw", "fhir.ingest.Patient.b", "{"); !strings.Contains(out, `"error"`) {
		t.Errorf("what is no resource is answered with %s", out)
	}
	if out := lab.next(t, "EVENTS", "lab"); !strings.Contains(out, "subj: fhir.event.Patient.") || !strings.Contains(out, `"One"`) {
		t.Errorf("the change comes as %s", out)
	}
	if out := lab.next(t, "DEAD", "lab"); !strings.Contains(out, "subj: fhir.dead.s") || !strings.Contains(out, "Dead-Reason: http_status") {
		t.Errorf("the dead letter comes as %s", out)
	}
	// What was acknowledged does not come again, also after a kill; what comes next does.
	n.Kill()
	n.Start()
	n.MustDo(200, "PUT", "/fhir/Patient/a", patient("a", "Two"))
	if out := lab.next(t, "EVENTS", "lab"); !strings.Contains(out, `"Two"`) {
		t.Errorf("after a kill comes %s", out)
	}
	var listed []struct {
		Reference  string
		Pending    int
		AckPending int
	}
	if err := json.Unmarshal(n.MustDo(200, "GET", "/admin/api/v1/consumers", "").Body, &listed); err != nil || len(listed) != 4 || listed[2].Reference != "events/lab" || listed[2].Pending+listed[2].AckPending != 0 {
		t.Errorf("listed: %+v, %v", listed, err)
	}
	if out := ward.next(t, "DEAD", "ward"); !strings.Contains(out, "subj: fhir.dead.s") {
		t.Errorf("another login's own consumer gives %s", out)
	}
	denied(t, lab, ward)
}

// mayNot runs a command that has to be denied: the server says so, and nothing answers.
func (u natsUser) mayNot(t *testing.T, args ...string) {
	t.Helper()
	out, _ := u.run(t, args...)
	if !strings.Contains(strings.ToLower(out), "permissions violation") || strings.Contains(out, "Received with rtt") || strings.Contains(out, "Received on") {
		t.Errorf("%s may: nats %s\n%s", u.name, strings.Join(args, " "), out)
	}
}

// denied tries what a login may not do.
func denied(t *testing.T, lab, ward natsUser) {
	anyone := natsUser{path: lab.path, url: lab.url, home: lab.home}
	stranger := natsUser{lab.path, lab.url, "lab", "guessed", lab.home}
	for name, u := range map[string]natsUser{"without a login": anyone, "with a wrong password": stranger} {
		if out, code := u.run(t, "sub", "--count", "1", "fhir.dead.>"); code == 0 || !strings.Contains(out, "Authorization Violation") {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
	}
	// Most of them wait for an answer until their time is up, so they do it side by side.
	var tries sync.WaitGroup
	defer tries.Wait()
	room := make(chan struct{}, 12)
	for _, line := range []string{
		"pub --jetstream fhir.ingest.Observation.a {}",
		"pub --jetstream fhir.dead.s {}", "pub --jetstream fhir.message.m {}", "pub --jetstream fhir.event.Patient.1.a {}",
		"sub fhir.>", "sub >", "sub fhir.message.>", "sub fhir.event.>", "sub --queue gate fhir.ingest.*.*", "sub fhir.from.>", "sub $JS.>", "sub $SYS.>",
		"stream ls", "stream info EVENTS", "stream purge -f EVENTS", "stream rm -f DEAD", "stream get EVENTS 1", "stream add X --subjects x --defaults",
		"stream backup EVENTS " + filepath.Join(lab.home, "backup"),
		"consumer ls EVENTS", "consumer info LANES 3-0", "consumer next DEAD ward", "consumer rm -f EVENTS lab", "consumer pause -f EVENTS lab 1h",
		"consumer add EVENTS x --pull --defaults",
		"req $JS.API.STREAM.PURGE.EVENTS {}", "req $JS.API.STREAM.DELETE.EVENTS {}", "req $JS.API.STREAM.MSG.GET.EVENTS {\"seq\":1}",
		"req $JS.API.DIRECT.GET.EVENTS {\"seq\":1}", "req $JS.API.CONSUMER.DELETE.EVENTS.lab {}", "req $JS.API.CONSUMER.MSG.NEXT.DEAD.ward {}",
		"req $SYS.REQ.SERVER.PING {}", "req $SRV.PING {}", "server check jetstream", "kv ls", "object ls",
	} {
		tries.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			lab.mayNot(t, strings.Fields(line)...)
		})
	}
	ward.mayNot(t, "sub", "--count", "1", "fhir.dead.>")
}

// What is published for message channels, a client takes from its durable consumer, each message
// once, over a restart of the server.
func TestTheNATSCommandLineConsumesMessagesDurably(t *testing.T) {
	u := natsUser{path: natsClient(t), name: "lab", password: "lab-secret", home: t.TempDir()}
	s, err := stream.Start(t.Context(), stream.Config{
		Name: "n1", Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
		Logins: []stream.Login{{Name: u.name, Password: u.password, Subscribe: []string{"fhir.message.lab"}, Consumers: []string{"messages/lab"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(t.Context()))
	if err := s.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateConsumer(t.Context(), stream.ConsumerSpec{Stream: "messages", Name: "lab", Filter: "fhir.message.lab"}); err != nil {
		t.Fatal(err)
	}
	u.url = "nats://" + s.Addr()
	for _, subject := range []string{"fhir.message.lab", "fhir.message.other", "fhir.message.lab"} {
		if _, err := s.Publish(t.Context(), stream.Messages, stream.Msg{Subject: subject, Data: []byte(`{"resourceType":"Bundle"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if out := u.next(t, "MESSAGES", "lab"); !strings.Contains(out, "subj: fhir.message.lab") || !strings.Contains(out, "str seq: 1") {
		t.Errorf("first comes %s", out)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := u.next(t, "MESSAGES", "lab"); !strings.Contains(out, "tries: 1") || !strings.Contains(out, "str seq: 3 / pending: 0") {
		t.Errorf("then comes %s", out)
	}
}

// With logins a NATS producer needs no API token: what its login may publish on are its rights.
// It hears changes although tokens exist, owns the Subscriptions that it makes, and has message
// ids of its own.
func TestWithLoginsAProducersRightsAreItsSubjects(t *testing.T) {
	n := harness.NewNode(t, "--config", config(t, `
security:
  nats:
    users:
      - {name: feed, password: p1, publish: ["fhir.ingest.*.*"], subscribe: ["fhir.event.>"]}
      - {name: lab, password: p2, publish: ["fhir.ingest.Patient.*", "fhir.ingest.Subscription.*"]}
`)).Start()
	e := harness.NewEndpoint(t)
	var admin struct{ Secret string }
	if err := json.Unmarshal(n.MustDo(201, "POST", "/admin/api/v1/tokens", `{"name":"ops","roles":["admin"]}`, "Content-Type", "application/json").Body, &admin); err != nil {
		t.Fatal(err)
	}
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL), "Authorization", "Bearer "+admin.Secret)
	producer := func(name, password string) nats.JetStreamContext {
		nc, err := nats.Connect(n.NATS, nats.UserInfo(name, password))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	listener, err := nats.Connect(n.NATS, nats.UserInfo("feed", "p1"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	changes, err := listener.SubscribeSync("fhir.event.Patient.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	feed, lab := producer("feed", "p1"), producer("lab", "p2")

	first, err := feed.Publish("fhir.ingest.Patient.a", []byte(patient("a", "One")), nats.MsgId("1"))
	if err != nil || first.Duplicate {
		t.Fatalf("without a token: %+v, %v", first, err)
	}
	if m, err := changes.NextMsg(10 * time.Second); err != nil || !strings.Contains(string(m.Data), "One") {
		t.Errorf("the change is not told: %v", err)
	}
	if other, err := lab.Publish("fhir.ingest.Patient.a", []byte(patient("a", "Two")), nats.MsgId("1")); err != nil || other.Duplicate {
		t.Errorf("the same message id of another login: %+v, %v", other, err)
	}
	if again, err := feed.Publish("fhir.ingest.Patient.a", []byte(patient("a", "One")), nats.MsgId("1")); err != nil || !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("the same message id again: %+v, %v", again, err)
	}
	for _, c := range []struct {
		name, id string
		as       nats.JetStreamContext
		refused  bool
	}{
		{"an administrator's", "s", lab, true},
		{"a new one", "mine", lab, false},
		{"its own", "mine", lab, false},
		{"another login's", "mine", feed, true},
	} {
		_, err := c.as.Publish("fhir.ingest.Subscription."+c.id, []byte(subscription(c.id, "Observation?", e.URL)))
		var api *nats.APIError
		if c.refused != errors.As(err, &api) || (c.refused && (api.Code != 403 || !strings.Contains(api.Description, "belongs to"))) || (!c.refused && err != nil) {
			t.Errorf("Subscription, %s: %v", c.name, err)
		}
	}
	if _, err := lab.Publish("fhir.ingest.Observation.o", []byte("{}"), nats.AckWait(time.Second)); err == nil {
		t.Error("a login publishes what it may not")
	}
}
