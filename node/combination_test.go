package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/node/api"
)

// What one Subscription asks for at once must hold together.

// inXML writes a Subscription that asks for XML, with extensions, and gives its endpoint.
func (r *running) inXML(id, criteria, extensions string, header ...string) *delivertest.Endpoint {
	r.t.Helper()
	e := delivertest.NewEndpoint(r.t)
	lines, _ := json.Marshal(append([]string{}, header...))
	body := strings.NewReplacer(`"reason"`, extensions+`"reason"`, "application/fhir+json", "application/fhir+xml", `"payload"`, `"header":`+string(lines)+`,"payload"`).
		Replace(subscriptionTo(id, criteria, e.URL))
	r.do(201, "PUT", "/fhir/Subscription/"+id, body, nil)
	return e
}

// Messages are JSON, in the envelope and without it, whatever the endpoint is sent.
func TestTheCopyOfAnXMLNotificationIsJSON(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	plain, hapi := r.reads("plain", "fhir.message.plain"), r.reads("hapi", "fhir.message.hapi")
	shape := []string{fhir.ExtReplicate, "true", fhir.ExtReplicatePrefix, "A-", fhir.ExtStripVersion, "true", fhir.ExtSendDelete, "true"}
	one := r.inXML("one", "Observation?", ext(append(shape, fhir.ExtNamedChannel, "plain")...))
	two := r.inXML("two", "Observation?", ext(append(shape, fhir.ExtNamedChannel, "hapi", fhir.ExtMessageEnvelope, "hapi")...))
	r.put(201, `{"resourceType":"Observation","id":"o","status":"final","code":{"text":"<x> & \"y\""},"subject":{"reference":"Patient/p"},"valueQuantity":{"value":1.50}}`)
	r.do(204, "DELETE", "/fhir/Observation/o", "", nil)

	for _, e := range []*delivertest.Endpoint{one, two} {
		if got := arrived(t, e, 2); !strings.HasPrefix(got[0], `PUT /Observation/A-o <Observation xmlns="http://hl7.org/fhir"><id value="A-o"/>`) || got[1] != "DELETE /Observation/A-o" {
			t.Errorf("the endpoint was sent %q", got)
		}
	}
	sent := func(data []byte) {
		t.Helper()
		var o struct {
			ID            string
			Meta          map[string]string
			Subject       struct{ Reference string }
			ValueQuantity struct{ Value json.RawMessage }
		}
		if err := json.Unmarshal(data, &o); err != nil || o.ID != "A-o" || o.Subject.Reference != "Patient/A-p" || string(o.ValueQuantity.Value) != "1.50" || o.Meta["versionId"] != "" {
			t.Errorf("copied %s: %+v, %v", data, o, err)
		}
	}
	m := plain.next()
	sent(m.Data())
	if got := m.Headers().Get("Content-Type"); got != "application/fhir+json" {
		t.Errorf("the copy's type is %q", got)
	}
	if m := plain.next(); len(m.Data()) != 0 || m.Headers().Get("Fhir-Interaction") != "delete" {
		t.Errorf("a delete is copied as %v %s", m.Headers(), m.Data())
	}
	var w struct {
		Payload struct{ Payload, PayloadID string }
	}
	if err := json.Unmarshal(hapi.next().Data(), &w); err != nil || w.Payload.PayloadID != "Observation/A-o" {
		t.Errorf("the envelope is %+v, %v", w, err)
	}
	sent([]byte(w.Payload.Payload))
}

// channel.header is what the endpoint is sent, often a key to it. Readers of a queue have no use for
// it, and a name that the log reserves for itself must not end in a dead letter.
func TestTheCopyOfANamedChannelHasNoHeadersOfTheEndpoint(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	queue := r.reads("queue", "fhir.message.queue")
	e := r.inXML("s", "Patient?", ext(fhir.ExtNamedChannel, "queue"), "Authorization: Bearer canary", "Fhir-Version: 4.0", "Status: ok")
	r.put(201, `{"resourceType":"Patient","id":"p"}`)
	arrived(t, e, 1)
	if got := e.Requests()[0].Header; got.Get("Authorization") != "Bearer canary" || got.Get("Fhir-Version") != "4.0" {
		t.Errorf("the endpoint was sent %v", got)
	}
	if m := queue.next(); strings.Contains(fmt.Sprint(m.Headers(), string(m.Data())), "canary") || m.Headers()["Status"] != nil {
		t.Errorf("copied with %v", m.Headers())
	}
}

// Everything that shapes a payload, at once: a search, ids and references, no version, XML, and a
// signature over what is sent.
func TestAPayloadSearchInXMLIsShapedAndSigned(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	r.put(201, `{"resourceType":"Patient","id":"p","active":true}`)
	e := r.inXML("all", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}&_include=*", fhir.ExtReplicate, "true", fhir.ExtReplicatePrefix, "A-",
		fhir.ExtStripVersion, "true", fhir.ExtLatestVersion, "true", fhir.ExtSecret, "key", fhir.ExtSendDelete, "true"))
	r.put(201, `{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p"}}`)
	arrived(t, e, 1)
	q := e.Requests()[0]
	got := string(q.Body)
	for _, part := range []string{`<Bundle xmlns="http://hl7.org/fhir"><id value="`, `<type value="transaction"/>`, `<fullUrl value="Observation/A-o"/>`, `<reference value="Patient/A-p"/>`,
		`<request><method value="PUT"/><url value="Patient/A-p"/></request>`} {
		if !strings.Contains(got, part) {
			t.Errorf("%s is not in %s", part, got)
		}
	}
	if strings.Contains(got, "versionId") || strings.Contains(got, "_history") || q.Method != "POST" || q.Header.Get("Content-Type") != fhir.ContentXML {
		t.Errorf("%s %v: %s", q.Method, q.Header, got)
	}
	signed := func(q delivertest.Request) {
		t.Helper()
		h := hmac.New(sha256.New, []byte("key"))
		h.Write(q.Body)
		if q.Header.Get("X-Signature") != hex.EncodeToString(h.Sum(nil)) || q.Header.Get("Webhook-Signature") == "" {
			t.Errorf("the signature is not over what was sent: %v", q.Header)
		}
	}
	signed(q)
	r.do(204, "DELETE", "/fhir/Observation/o", "", nil)
	if got := arrived(t, e, 2); got[1] != "DELETE /Observation/A-o" {
		t.Errorf("the delete is %s", got[1])
	}
	signed(e.Requests()[1])
}

func TestATestNotificationIsSentByTheDeliveryClass(t *testing.T) {
	t.Parallel()
	quietClients(t)
	box := make(inbox, 1)
	r := runNode(t, testConfig(t.TempDir()), func(n *Node) {
		if err := WithChannel("org.example.ExampleDeliverer", box)(&n.added); err != nil {
			t.Error(err)
		}
	})
	r.do(201, "PUT", "/fhir/Subscription/1", exampleDeliverer, nil)
	var got api.TestResult
	r.do(200, "POST", "/admin/api/v1/subscriptions/1/test", "", &got)
	if got.Outcome != "accepted" {
		t.Fatalf("the test is %+v", got)
	}
	if n := (<-box).n; !n.Test || n.Key.String() != "Patient/example" {
		t.Errorf("the deliverer was given %+v", n)
	}
}

func TestAnExampleIsSentInTheFormatThatIsAskedFor(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	e := r.inXML("s", "Patient?", ext(fhir.ExtStripVersion, "true"))
	var got api.TestResult
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/test", "", &got)
	want(t, arrived(t, e, 1), `PUT /Patient/example <Patient xmlns="http://hl7.org/fhir"><id value="example"/></Patient>`)
	found := r.hears("found", "Patient?", ext(fhir.ExtPayloadSearch, "Patient?_id=${matched_resource_id}"))
	r.do(200, "POST", "/admin/api/v1/subscriptions/found/test", "", nil)
	want(t, arrived(t, found, 1), `POST / {"resourceType":"Bundle","id":"example","type":"transaction","entry":[{"fullUrl":"Patient/example","resource":{"resourceType":"Patient","id":"example"},"request":{"method":"PUT","url":"Patient/example"}}]}`)
	if q := e.Requests()[0]; !got.Example || q.Header.Get("Content-Type") != fhir.ContentXML {
		t.Errorf("%+v, sent as %v", got, q.Header)
	}
}

// A ping has nothing of the resource in it, so nothing that shapes a payload can keep it back.
func TestAPingIsNotKeptBackByThePayloadThatItDoesNotHave(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	for id, change := range map[string][2]string{
		"xml":       {"application/fhir+json", "application/fhir+xml"},
		"search":    {`"reason"`, ext(fhir.ExtPayloadSearch, "Patient?_id=nobody") + `"reason"`},
		"replicate": {`"reason"`, ext(fhir.ExtReplicate, "true", fhir.ExtReplicatePrefix, strings.Repeat("x", 63)) + `"reason"`},
		"latest":    {`"reason"`, ext(fhir.ExtLatestVersion, "true") + `"reason"`},
	} {
		t.Run(id, func(t *testing.T) {
			on := r.within(t)
			on.do(201, "PUT", "/fhir/Subscription/"+id, strings.Replace(socketSubscription(id, "Patient?_id=odd-"+id, "active"), change[0], change[1], 1), nil)
			client := on.socket(nil).bind(id)
			on.pause(id)
			on.put(201, `{"resourceType":"Patient","id":"odd-`+id+`","nmae":"x"}`)
			on.do(204, "DELETE", "/fhir/Patient/odd-"+id, "", nil)
			on.resume(id)
			client.hear("ping " + id)
			on.ended(id, 1)
		})
	}
}
