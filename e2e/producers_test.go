package e2e

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// Beside HAPI or Smile CDR: their rest-hook Subscription [*] with send-delete-messages points
// at our /fhir. What it sends is PUT and DELETE Type/id, with If-Match where the resource
// carries a version, and its own content types.
func TestBesideHAPIItsRestHookRequestsAreAcceptedAsTheyAre(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", strings.Replace(subscription("s", "[*]", e.URL), `"channel":{`,
		`"channel":{"extension":[{"url":"http://hapifhir.io/fhir/StructureDefinition/subscription-send-delete-messages","valueBoolean":true}],`, 1))

	hapi := []string{"Content-Type", "application/fhir+json;charset=UTF-8", "Accept", "application/fhir+json;q=1.0, application/json+fhir;q=0.9",
		"User-Agent", "HAPI-FHIR/8.0.0 (FHIR Client; FHIR 4.0.1/R4; apache)", "Accept-Charset", "utf-8", "X-Carillon-Feed", "true"}
	v1 := `{"resourceType":"Patient","id":"17","meta":{"versionId":"1","lastUpdated":"2026-01-02T03:04:05.678+00:00"},"name":[{"family":"A"}]}`
	v2 := strings.Replace(strings.Replace(v1, `"versionId":"1"`, `"versionId":"2"`, 1), `"A"`, `"B"`, 1)
	// HAPI's client puts the resource's own version into If-Match, which is not ours.
	n.MustDo(201, "PUT", "/fhir/Patient/17", v1, append(hapi, "If-Match", `W/"1"`)...)
	n.MustDo(200, "PUT", "/fhir/Patient/17", v2, append(hapi, "If-Match", `"2"`)...)
	if a, err := n.Do(t.Context(), "DELETE", "/fhir/Patient/17", nil, hapi...); err != nil || a.Status/100 != 2 {
		t.Fatalf("DELETE: %v, status %d %s", err, a.Status, a.Body)
	}
	got := e.AwaitCount(t, 10*time.Second, 3)
	for i, want := range []string{"PUT /Patient/17", "PUT /Patient/17", "DELETE /Patient/17"} {
		if s := got[i].Method + " " + got[i].Path; s != want {
			t.Errorf("notification %d is %s, want %s", i+1, s, want)
		}
	}
}

// Beside Medplum: its webhook is accepted at $feed, deletes included, and a Subscription with
// Medplum's extensions is answered in Medplum's style.
func TestBesideMedplumItsWebhooksAreAcceptedAndItsSubscriptionsUnderstood(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", strings.Replace(subscription("s", "Patient?name=ada", e.URL+"/hook"), `"status"`,
		`"extension":[{"url":"https://medplum.com/fhir/StructureDefinition/subscription-max-attempts","valueInteger":3}],"status"`, 1))
	n.MustDo(200, "POST", "/fhir/$feed", patient("m1", "Ada"), "X-Medplum-Subscription", "x", "X-Medplum-Interaction", "create")
	a := e.AwaitCount(t, 10*time.Second, 1)[0]
	if a.Method != "POST" || a.Path != "/hook" || a.Header.Get("X-Medplum-Subscription") != "s" || a.Header.Get("X-Medplum-Interaction") != "create" {
		t.Errorf("arrived as %s %s with %q %q", a.Method, a.Path, a.Header.Get("X-Medplum-Subscription"), a.Header.Get("X-Medplum-Interaction"))
	}
	n.MustDo(200, "POST", "/fhir/$feed", "{}", "X-Medplum-Deleted-Resource", "Patient/m1", "X-Medplum-Interaction", "delete")
	n.MustDo(410, "GET", "/fhir/Patient/m1", "")
}

// A NATS producer publishes with any client library and gets a PubAck, or an error in its
// form with what is wrong; engine headers and internal subjects are closed to it.
func TestANATSProducerGetsAPubAckOrAnErrorThatSaysWhatIsWrong(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	nc, err := nats.Connect(n.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish("fhir.ingest.Patient.a_b", []byte(patient("a.b", "One")))
	if err != nil || ack.Sequence == 0 {
		t.Fatalf("publish: %v", err)
	}
	if a := e.AwaitCount(t, 10*time.Second, 1)[0]; a.Path != "/Patient/a.b" {
		t.Errorf("arrived as %s", a.Path)
	}
	again, err := js.Publish("fhir.ingest.Patient.a_b", []byte(patient("a.b", "Two")), nats.MsgId("one"))
	if err != nil {
		t.Fatal(err)
	}
	if dup, err := js.Publish("fhir.ingest.Patient.a_b", []byte(patient("a.b", "Two")), nats.MsgId("one")); err != nil || !dup.Duplicate || dup.Sequence != again.Sequence {
		t.Errorf("the same message id again: %+v, %v; want a duplicate of %d", dup, err, again.Sequence)
	}

	for _, c := range []struct {
		name, subject, body string
		opts                []nats.PubOpt
	}{
		{"no JSON", "fhir.ingest.Patient.x", "{", nil},
		{"another type than the subject's", "fhir.ingest.Observation.a", patient("a", "One"), nil},
		{"another id than the subject's", "fhir.ingest.Patient.b", patient("a", "One"), nil},
		{"an unknown type", "fhir.ingest.Patent.a", `{"resourceType":"Patent","id":"a"}`, nil},
		{"an expectation", "fhir.ingest.Patient.a", patient("a", "One"), []nats.PubOpt{nats.ExpectLastSequence(1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := js.Publish(c.subject, []byte(c.body), c.opts...)
			var api *nats.APIError
			if !errors.As(err, &api) || api.Description == "" {
				t.Errorf("got %v, want an API error with a description", err)
			}
		})
	}
	for _, h := range []string{"Nats-Rollup", "Nats-TTL", "Nats-Batch-Id", "Nats-Schedule"} {
		m := nats.NewMsg("fhir.ingest.Patient.h")
		m.Data = []byte(patient("h", "One"))
		m.Header.Set(h, "all")
		res, err := nc.RequestMsg(m, 5*time.Second)
		var answer struct {
			Error *struct{ Description string } `json:"error"`
		}
		if err != nil || json.Unmarshal(res.Data, &answer) != nil || answer.Error == nil {
			t.Errorf("%s was not refused: %v", h, err)
		}
	}
	n.MustDo(404, "GET", "/fhir/Patient/h", "")
	del := nats.NewMsg("fhir.ingest.Patient.a_b")
	del.Header.Set("Fhir-Interaction", "delete")
	if _, err := js.PublishMsg(del); err != nil {
		t.Errorf("delete with an empty body: %v", err)
	}
	n.MustDo(410, "GET", "/fhir/Patient/a.b", "")
}
