package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// total asks a search and returns how many it says match.
func total(t *testing.T, n *harness.Node, query string) int {
	t.Helper()
	var b struct{ Total *int }
	if err := json.Unmarshal(n.MustDo(200, "GET", "/fhir/"+query, "").Body, &b); err != nil || b.Total == nil {
		t.Fatalf("%s: no total, %v", query, err)
	}
	return *b.Total
}

func identified(id, value string) string {
	return `{"resourceType":"Patient","id":"` + id + `","identifier":[{"system":"http://h.example/mrn","value":"` + value + `"}]}`
}

// The criteria that match events search the current states, on the real node; what they do not
// know is refused.
func TestSearchAnswersWhatItKnowsAndRefusesTheRest(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?family=a", e.URL))
	for i := range 150 {
		n.MustDo(201, "PUT", fmt.Sprintf("/fhir/Patient/p%d", i), identified(fmt.Sprintf("p%d", i), "Shared"))
	}
	n.MustDo(201, "PUT", "/fhir/Patient/one", identified("one", "One"))
	for query, want := range map[string]int{
		"Patient?_id=one":                                1,
		"Patient?_id=one,p3":                             2,
		"Patient?_id=unknown":                            0,
		"Patient?identifier=http://h.example/mrn|Shared": 150,
		"Patient?identifier=shared":                      150, // criteria do not look at case either
		"Patient?identifier=http://other.example|Shared": 0,
		"Patient?identifier=http://h.example/mrn|":       151,
		"Patient?family=a":                               0,
		"Patient":                                        151,
		"Subscription?url=" + e.URL:                      1,
		"Subscription?status=active":                     1,
		"Subscription?status=off":                        0,
		"Subscription?criteria=Patient?f":                1,
	} {
		if got := total(t, n, query); got != want {
			t.Errorf("%s: %d, want %d", query, got, want)
		}
	}
	for _, query := range []string{"Patient?familly=a", "Observation?code:of=1", "Patient?_include=Patient:family", "Patient?_sort=x"} {
		n.MustDo(422, "GET", "/fhir/"+query, "")
	}
	n.MustDo(204, "DELETE", "/fhir/Patient/one", "")
	if got := total(t, n, "Patient?_id=one"); got != 0 {
		t.Errorf("a deleted resource is found")
	}
}

// Of many conditional creates at one time one creates; a condition that shapes the answer, or
// selects nothing, is refused.
func TestConditionalCreatesAtOneTimeMakeOneResource(t *testing.T) {
	n := harness.NewNode(t).Start()
	body := `{"resourceType":"Patient","identifier":[{"system":"http://h.example/mrn","value":"7"}]}`
	const condition = "identifier=http://h.example/mrn|7"
	var mu sync.Mutex
	statuses := map[int]int{}
	var all sync.WaitGroup
	for range 24 {
		all.Go(func() {
			a, err := n.Do(t.Context(), "POST", "/fhir/Patient", []byte(body), "If-None-Exist", condition)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			statuses[a.Status]++
		})
	}
	all.Wait()
	if statuses[201] != 1 || statuses[200] != 23 {
		t.Errorf("answers %v, want one 201 and 23 of 200", statuses)
	}
	if got := total(t, n, "Patient?identifier=7"); got != 1 {
		t.Errorf("%d resources", got)
	}
	for _, c := range []string{condition + "&_count=0", condition + "&_count=1", "_count=0", "familly=a", "general-practitioner.name=a"} {
		if a := n.MustDo(422, "POST", "/fhir/Patient", body, "If-None-Exist", c); !strings.Contains(string(a.Body), "condition") {
			t.Errorf("%s: %s", c, a.Body)
		}
	}
	bundle := `{"resourceType":"Bundle","type":"transaction","entry":[
		{"resource":{"resourceType":"Observation","status":"final","code":{"text":"x"},"subject":{"reference":"Patient?identifier=http://h.example/mrn|7"}},"request":{"method":"POST","url":"Observation"}}]}`
	a := n.MustDo(200, "POST", "/fhir", bundle)
	if !strings.Contains(string(a.Body), "201") {
		t.Errorf("a conditional reference: %s", a.Body)
	}
}

// A write is answered by what it made. The same request id on several writes is no reason to
// leave one out, and a used key is not taken for success once its write was overtaken.
func TestAMessageIDNeverMakesAnAcknowledgedWriteDisappear(t *testing.T) {
	n := harness.NewNode(t).Start()
	put := func(status int, family string, header ...string) harness.Answer {
		t.Helper()
		return n.MustDo(status, "PUT", "/fhir/Patient/a", patient("a", family), header...)
	}
	current := func() string { return string(n.MustDo(200, "GET", "/fhir/Patient/a", "").Body) }
	put(201, "A", "X-Request-Id", "same")
	put(200, "B", "X-Request-Id", "same")
	put(200, "A", "X-Request-Id", "same")
	if !strings.Contains(current(), `"A"`) {
		t.Errorf("the third write was acknowledged and is not there: %s", current())
	}
	first := put(200, "C", "Idempotency-Key", "k")
	again := put(200, "C", "Idempotency-Key", "k")
	if first.Header.Get("ETag") != again.Header.Get("ETag") {
		t.Errorf("the same key made versions %s and %s", first.Header.Get("ETag"), again.Header.Get("ETag"))
	}
	put(200, "D")
	put(409, "C", "Idempotency-Key", "k")
	if !strings.Contains(current(), `"D"`) {
		t.Errorf("an overtaken write came back: %s", current())
	}
	etag := n.MustDo(200, "GET", "/fhir/Patient/a", "").Header.Get("ETag")
	conditional := []string{"If-Match", etag, "Idempotency-Key", "k2"}
	made := put(200, "E", conditional...)
	if repeat := put(200, "E", conditional...); repeat.Header.Get("ETag") != made.Header.Get("ETag") {
		t.Errorf("a conditional write sent again gives %s, was %s", repeat.Header.Get("ETag"), made.Header.Get("ETag"))
	}
	n.MustDo(412, "PUT", "/fhir/Patient/a", patient("a", "F"), "If-None-Match", "*")
}

// A producer need not wait: what it sends is judged in the order in which it was sent.
func TestAPipelinedNATSProducerIsJudgedInItsOrder(t *testing.T) {
	n := harness.NewNode(t).Start()
	nc, err := nats.Connect(n.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream(nats.PublishAsyncMaxPending(1000))
	if err != nil {
		t.Fatal(err)
	}
	del := func(id string) *nats.Msg {
		m := nats.NewMsg("fhir.ingest.Patient." + id)
		m.Header.Set("Fhir-Interaction", "delete")
		return m
	}
	var acks []nats.PubAckFuture
	send := func(f nats.PubAckFuture, err error) {
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, f)
	}
	for i := range 50 {
		gone, back := fmt.Sprintf("gone%d", i), fmt.Sprintf("back%d", i)
		send(js.PublishAsync("fhir.ingest.Patient."+gone, []byte(patient(gone, "A"))))
		send(js.PublishMsgAsync(del(gone)))
		for _, family := range []string{"A", "B", "A"} {
			send(js.PublishAsync("fhir.ingest.Patient."+back, []byte(patient(back, family))))
		}
	}
	for _, f := range acks {
		select {
		case a := <-f.Ok():
			if a.Sequence == 0 {
				t.Error("an acknowledgement without a sequence")
			}
		case err := <-f.Err():
			t.Fatal(err)
		case <-time.After(20 * time.Second):
			t.Fatal("no acknowledgement")
		}
	}
	for i := range 50 {
		n.MustDo(410, "GET", fmt.Sprintf("/fhir/Patient/gone%d", i), "")
		if a := n.MustDo(200, "GET", fmt.Sprintf("/fhir/Patient/back%d", i), ""); !strings.Contains(string(a.Body), `"A"`) {
			t.Errorf("the last write of back%d is lost: %s", i, a.Body)
		}
	}
}

// Once the API asks for a login, so does the gate for NATS producers.
func TestTokensGuardNATSProducersToo(t *testing.T) {
	n := harness.NewNode(t).Start()
	secret := func(name, role string, header ...string) string {
		var tok struct{ Secret string }
		a := n.MustDo(201, "POST", "/admin/api/v1/tokens", `{"name":"`+name+`","roles":["`+role+`"]}`, append(header, "Content-Type", "application/json")...)
		if err := json.Unmarshal(a.Body, &tok); err != nil {
			t.Fatal(err)
		}
		return tok.Secret
	}
	admin := secret("admin", "admin")
	producer := secret("producer", "producer", "Authorization", "Bearer "+admin)
	nc, err := nats.Connect(n.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ask := func(subject, body, token string) string {
		m := nats.NewMsg(subject)
		m.Data = []byte(body)
		if token != "" {
			m.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := nc.RequestMsg(m, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Error *struct{ Code int }
		}
		if err := json.Unmarshal(res.Data, &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Error != nil {
			return fmt.Sprint(answer.Error.Code)
		}
		return "ok"
	}
	sub := subscription("s", "[*]", "http://127.0.0.1:9/x")
	for _, c := range []struct{ subject, body, token, want string }{
		{"fhir.ingest.Patient.a", patient("a", "A"), "", "401"},
		{"fhir.ingest.Patient.a", patient("a", "A"), "carillon_x_y", "401"},
		{"fhir.ingest.Patient.a", patient("a", "A"), producer, "ok"},
		{"fhir.ingest.Subscription.s", sub, producer, "403"},
		{"fhir.ingest.Subscription.s", sub, admin, "ok"},
	} {
		if got := ask(c.subject, c.body, c.token); got != c.want {
			t.Errorf("%s with %q: %s, want %s", c.subject, c.token, got, c.want)
		}
	}
}
