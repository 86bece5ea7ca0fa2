package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// toLab is a Subscription of a message channel.
func toLab(id, more string) string {
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"active","criteria":"Patient?","channel":{"type":"message","endpoint":"channel:lab","payload":"application/fhir+json"%s}}`, id, more)
}

// The nats command-line client takes what a message channel publishes from a durable consumer, from
// where it stopped, in either form.
func TestTheNATSCommandLineReadsWhatAMessageChannelPublishes(t *testing.T) {
	client := natsClient(t)
	n := harness.NewNode(t, "--config", config(t, natsLogins)).Start()
	n.MustDo(201, "POST", "/admin/api/v1/consumers", `{"stream":"messages","name":"lab","filter":"fhir.message.lab"}`, "Content-Type", "application/json")
	n.MustDo(201, "PUT", "/fhir/Subscription/s", toLab("s", `,"header":["X-Ward: 7"]`))
	lab := natsUser{client, n.NATS, "lab", "lab-secret", t.TempDir()}
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One"))
	out := lab.next(t, "MESSAGES", "lab")
	for _, want := range []string{"subj: fhir.message.lab", "Fhir-Interaction: create", "Fhir-Resource: Patient/a", "X-Ward: 7", "webhook-id: s.", `"One"`} {
		if !strings.Contains(out, want) {
			t.Errorf("the message comes without %q:\n%s", want, out)
		}
	}
	n.MustDo(200, "PUT", "/fhir/Patient/a", patient("a", "Two"))
	n.Kill()
	n.Start()
	lab.url = n.NATS
	if out := lab.next(t, "MESSAGES", "lab"); !strings.Contains(out, `"Two"`) || !strings.Contains(out, "Fhir-Interaction: update") {
		t.Errorf("after a kill comes\n%s", out)
	}
	n.MustDo(200, "PUT", "/fhir/Subscription/s", toLab("s", `,"extension":[{"url":"https://carillon-fhir.github.io/StructureDefinition/message-envelope","valueCode":"hapi"}]`))
	n.MustDo(200, "PUT", "/fhir/Patient/a", patient("a", "Three"))
	if out := lab.next(t, "MESSAGES", "lab"); !strings.Contains(out, `"operationType":"UPDATE"`) || !strings.Contains(out, `\"Three\"`) {
		t.Errorf("in HAPI's envelope comes\n%s", out)
	}
}

// Killed again and again while it publishes: every notification is a message, and the log's memory
// of ids keeps what was published and not recorded from being there twice.
func TestKilledWhileItPublishesEveryMessageIsThereOnce(t *testing.T) {
	const rounds, each = 4, 100
	n := harness.NewNode(t).Start()
	n.MustDo(201, "POST", "/admin/api/v1/consumers", `{"stream":"messages","name":"lab"}`, "Content-Type", "application/json")
	n.MustDo(201, "PUT", "/fhir/Subscription/s", toLab("s", ""))
	for round := range rounds {
		var lines strings.Builder
		for i := range each {
			lines.WriteString(patient(fmt.Sprintf("p%d-%d", round, i), "x") + "\n")
		}
		n.MustDo(200, "POST", "/fhir/$ingest", lines.String(), "Content-Type", "application/ndjson")
		n.Kill()
		n.Start()
	}
	nc, err := nats.Connect(n.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), "MESSAGES", "lab")
	if err != nil {
		t.Fatal(err)
	}
	resources, names := map[string]int{}, map[string]int{}
	for len(resources) < rounds*each {
		m, err := c.Next(jetstream.FetchMaxWait(30 * time.Second))
		if err != nil {
			t.Fatalf("%d of %d came: %v", len(resources), rounds*each, err)
		}
		resources[m.Headers()["Fhir-Resource"][0]]++
		names[m.Headers()["webhook-id"][0]]++
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for !strings.Contains(string(n.MustDo(200, "GET", "/admin/api/v1/subscriptions/s", "").Body), `"pending":0`) {
		time.Sleep(20 * time.Millisecond) // what comes after the last of them would be a double
	}
	if left, err := c.FetchNoWait(10); err != nil {
		t.Error(err)
	} else {
		for m := range left.Messages() {
			names[m.Headers()["webhook-id"][0]]++
		}
	}
	for name, count := range names {
		if count != 1 {
			t.Errorf("%s is there %d times", name, count)
		}
	}
	if len(names) != rounds*each {
		t.Errorf("%d names of %d messages", len(names), rounds*each)
	}
	for i := range rounds * each {
		found := false
		for name := range names {
			found = found || strings.HasSuffix(name, fmt.Sprintf(".%d", i+1))
		}
		if !found {
			t.Errorf("number %d is missing", i+1)
		}
	}
}
