package node

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/config"
)

// scenario is a node for one row of a conformance list.
type scenario struct {
	*running
	t *testing.T
}

// row is one test of another server's suite, as it goes here. What differs from theirs says why, and is
// tested as it is here.
type row struct {
	theirs  string // class and what it shows
	differs string // why the same input has another effect here; empty: it has the same
	run     func(s scenario)
}

func conform(t *testing.T, rows []row) {
	t.Helper()
	t.Parallel()
	quietClients(t)
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Schedule = config.Schedule{Waits: []time.Duration{time.Millisecond}}
	r := runNode(t, cfg)
	for i, row := range rows {
		name := row.theirs
		if row.differs != "" {
			name += " (differs: " + row.differs + ")"
		}
		t.Run(fmt.Sprintf("%02d %s", i, name), func(t *testing.T) {
			on := r.within(t)
			row.run(scenario{on, t})
			on.clear()
		})
	}
}

// within gives the node to a test within the one that runs it.
func (r *running) within(t *testing.T) *running {
	return &running{Node: r.Node, t: t, logs: r.logs}
}

// clear deletes all Subscriptions, so that rows do not hear of one another.
func (r *running) clear() {
	r.t.Helper()
	for _, s := range r.subs.all() {
		r.do(204, "DELETE", "/fhir/Subscription/"+string(s.id), "", nil)
	}
}

// refused writes a Subscription that is not taken, and is not there afterwards.
func (r *running) refused(body, at, says string) {
	r.t.Helper()
	var got struct {
		Issue []struct {
			Diagnostics string
			Expression  []string
		}
	}
	r.do(422, "PUT", "/fhir/Subscription/refused", body, &got)
	text, _ := json.Marshal(got)
	if !strings.Contains(string(text), at) || !strings.Contains(string(text), says) {
		r.t.Errorf("refused with %s, want %s: %s", text, at, says)
	}
	r.do(404, "GET", "/fhir/Subscription/refused", "", nil)
}

// The tests of HAPI FHIR (8.1) about rest-hooks, row by row: hapi-fhir-jpaserver-test-*, package
// ca.uhn.fhir.jpa.subscription.resthook, and the delivery tests of hapi-fhir-jpaserver-subscription.
// XML, manual triggers, interceptors, messages, mail and websockets have tests of their own, which
// e2e/DESIGN.md names; topics are not built.
func TestHAPIRestHookConformance(t *testing.T) {
	observation := func(id, status string) string {
		return fmt.Sprintf(`{"resourceType":"Observation","id":%q,"status":%q,"code":{"coding":[{"system":"SNOMED-CT","code":"1000000050"}]}}`, id, status)
	}
	sent := func(id, rest string) string {
		return fmt.Sprintf(`PUT /Observation/%[1]s {"resourceType":"Observation","id":"%[1]s","meta":{"versionId":"%[2]s","lastUpdated":"then"},"status":"%[3]s","code":{"coding":[{"system":"SNOMED-CT","code":"1000000050"}]}}`, id, "v1", rest)
	}
	conform(t, []row{
		{"RestHookTestR4Test: JSON in every spelling arrives as PUT with the canonical content type, zero creates", "", func(s scenario) {
			for i, payload := range []string{"application/json", "application/fhir+json", "application/json+fhir", "text/json", "json"} {
				id := fmt.Sprintf("spelling%d", i)
				e := delivertest.NewEndpoint(s.t)
				s.do(201, "PUT", "/fhir/Subscription/"+id, strings.Replace(subscriptionTo(id, "Observation?code=SNOMED-CT|1000000050", e.URL), "application/fhir+json", payload, 1), nil)
				s.put(201, observation(id, "final"))
				want(s.t, arrived(s.t, e, 1), sent(id, "final"))
				if got := e.Requests()[0].Header.Get("Content-Type"); got != "application/fhir+json" {
					s.t.Errorf("%s is sent as %s", payload, got)
				}
				s.do(204, "DELETE", "/fhir/Subscription/"+id, "", nil)
			}
		}},
		{"RestHookTestR4Test: of two Subscriptions the one that matches; the other once it is edited to match", "", func(s scenario) {
			one := s.hears("one", "Observation?code=SNOMED-CT|1000000050", "")
			two := s.hears("two", "Observation?code=SNOMED-CT|1000000051", "")
			s.put(201, observation("two1", "final"))
			arrived(s.t, one, 1)
			s.do(200, "PUT", "/fhir/Subscription/two", subscriptionTo("two", "Observation?code=SNOMED-CT|1000000050", two.URL), nil)
			s.put(201, observation("two2", "final"))
			want(s.t, arrived(s.t, two, 1), sent("two2", "final"))
			arrived(s.t, one, 2)
		}},
		{"RestHookTestR4Test: payload metadata equals what was stored, for plain and transaction writes", "", func(s scenario) {
			e := s.hears("meta", "Patient?", "")
			var stored [2]json.RawMessage
			s.put(201, `{"resourceType":"Patient","id":"meta1","identifier":[{"system":"urn:x","value":"1"}]}`)
			s.do(200, "GET", "/fhir/Patient/meta1", "", &stored[0])
			var answer struct {
				Entry []struct{ Response struct{ Location string } }
			}
			s.do(200, "POST", "/fhir", `{"resourceType":"Bundle","type":"transaction","entry":[{"resource":{"resourceType":"Patient","identifier":[{"system":"urn:x","value":"2"}]},"request":{"method":"POST","url":"Patient"}}]}`, &answer)
			_, place, _ := strings.Cut(answer.Entry[0].Response.Location, "Patient/")
			id, _, _ := strings.Cut(place, "/")
			s.do(200, "GET", "/fhir/Patient/"+id, "", &stored[1])
			arrived(s.t, e, 2)
			for _, r := range e.Requests() {
				if got := string(r.Body); got != string(stored[0]) && got != string(stored[1]) {
					s.t.Errorf("sent %s, stored %s and %s", got, stored[0], stored[1])
				}
			}
		}},
		{"RestHookTestR4Test: a placeholder reference of a transaction arrives resolved", "", func(s scenario) {
			e := s.hears("placeholder", "Observation?", "")
			s.do(200, "POST", "/fhir", `{"resourceType":"Bundle","type":"transaction","entry":[
				{"fullUrl":"urn:uuid:6a5be3a8-04d0-4c9a-b179-161fced75ab7","resource":{"resourceType":"Patient"},"request":{"method":"POST","url":"Patient"}},
				{"resource":{"resourceType":"Observation","status":"final","code":{"text":"x"},"subject":{"reference":"urn:uuid:6a5be3a8-04d0-4c9a-b179-161fced75ab7"}},"request":{"method":"POST","url":"Observation"}}]}`, nil)
			if got := arrived(s.t, e, 1)[0]; !strings.Contains(got, `"subject":{"reference":"Patient/`) {
				s.t.Error(got)
			}
		}},
		{"RestHookTestR4Test: 100 quick creates give 100 deliveries", "", func(s scenario) {
			e := s.hears("hundred", "Observation?", "")
			for i := range 100 {
				s.put(201, observation(fmt.Sprintf("hundred%d", i), "final"))
			}
			got := map[string]bool{}
			for _, line := range arrived(s.t, e, 100) {
				got[line[:strings.Index(line, "{")]] = true
			}
			if len(got) != 100 {
				s.t.Errorf("%d different resources", len(got))
			}
		}},
		{"RestHookTestR4Test: five more syncs re-activate nothing", "", func(s scenario) {
			e := s.hears("synced", "Observation?", "")
			var before, after struct{ Meta struct{ VersionID string } }
			s.do(200, "GET", "/fhir/Subscription/synced", "", &before)
			for range 5 {
				s.do(200, "PUT", "/fhir/Subscription/synced", subscriptionTo("synced", "Observation?", e.URL), nil)
			}
			if s.do(200, "GET", "/fhir/Subscription/synced", "", &after); after != before {
				s.t.Errorf("version %+v after %+v", after, before)
			}
		}},
		{"RestHookTestR4Test: $meta-add and $meta-delete do not deliver", "there is no $meta-add; a write that changes tags is an update like any other, since criteria may ask for tags", func(s scenario) {
			e := s.hears("tagged", "Patient?", "")
			s.put(201, `{"resourceType":"Patient","id":"tagged"}`)
			s.put(200, `{"resourceType":"Patient","id":"tagged","meta":{"tag":[{"code":"t"}]}}`)
			arrived(s.t, e, 2)
			s.do(404, "POST", "/fhir/Patient/tagged/$meta-add", `{"resourceType":"Parameters"}`, nil)
		}},
		{"RestHookTestR4Test: an identical update delivers nothing", "", func(s scenario) {
			e := s.hears("noop", "Observation?", "")
			s.put(201, observation("noop", "final"))
			s.put(200, observation("noop", "final"))
			s.put(200, observation("noop", "amended"))
			got := arrived(s.t, e, 2)
			s.ended("noop", 2)
			if !strings.Contains(got[1], "amended") {
				s.t.Error(got)
			}
		}},
		{"RestHookTestR4Test: with strip-version-ids no version is sent", "", func(s scenario) {
			e := s.hears("stripped", "Observation?", ext(fhir.ExtStripVersion, "true"))
			s.put(201, observation("stripped", "final"))
			s.put(200, observation("stripped", "amended"))
			for _, got := range arrived(s.t, e, 2) {
				if strings.Contains(got, "versionId") {
					s.t.Error(got)
				}
			}
		}},
		{"RestHookTestR4Test: paused, created and updated: v1 and v2 are sent; with deliver-latest-version v2 twice", "", func(s scenario) {
			each := s.hears("each", "Observation?", "")
			latest := s.hears("latest", "Observation?", ext(fhir.ExtLatestVersion, "true"))
			s.pause("each")
			s.pause("latest")
			s.put(201, observation("paused", "final"))
			s.put(200, observation("paused", "amended"))
			s.resume("each")
			s.resume("latest")
			want(s.t, arrived(s.t, each, 2), sent("paused", "final"), strings.Replace(sent("paused", "amended"), "v1", "v2", 1))
			want(s.t, arrived(s.t, latest, 2), sent("paused", "amended"), sent("paused", "amended"))
		}},
		{"RestHookTestR4Test: send-delete-messages: one PUT and one DELETE, for [*], [Observation] and Observation?", "criteria with attributes hear of deletes too, by the state before: HAPI's did not until 8.8", func(s scenario) {
			for i, criteria := range []string{"[*]", "[Observation]", "Observation?", "Observation?status=final", "Observation?code=SNOMED-CT|1000000050"} {
				id := fmt.Sprintf("deleted%d", i)
				e := s.hears(id, criteria, ext(fhir.ExtSendDelete, "true"))
				s.put(201, observation(id, "final"))
				arrived(s.t, e, 1)
				s.do(204, "DELETE", "/fhir/Observation/"+id, "", nil)
				want(s.t, arrived(s.t, e, 2), sent(id, "final"), "DELETE /Observation/"+id)
				s.do(204, "DELETE", "/fhir/Subscription/"+id, "", nil)
			}
		}},
		{"SubscriptionMatchingSubscriberTest: each Subscription's own flag decides about deletes, and one that wants none does not end the round (#3887)", "", func(s scenario) {
			var wanted, others []*delivertest.Endpoint
			for i := range 6 {
				if i%2 == 0 {
					others = append(others, s.hears(fmt.Sprintf("d%d", i), "Observation?", ""))
				} else {
					wanted = append(wanted, s.hears(fmt.Sprintf("d%d", i), "Observation?", ext(fhir.ExtSendDelete, "true")))
				}
			}
			s.put(201, observation("flags", "final"))
			s.do(204, "DELETE", "/fhir/Observation/flags", "", nil)
			for _, e := range wanted {
				want(s.t, arrived(s.t, e, 2), sent("flags", "final"), "DELETE /Observation/flags")
			}
			for i, e := range others {
				s.ended(fmt.Sprintf("d%d", 2*i), 1)
				arrived(s.t, e, 1)
			}
		}},
		{"RestHookTestR4Test: without send-delete-messages a delete is not told", "", func(s scenario) {
			e := s.hears("silent", "Observation?", "")
			s.put(201, observation("silent", "final"))
			arrived(s.t, e, 1)
			s.do(204, "DELETE", "/fhir/Observation/silent", "", nil)
			s.put(201, observation("silent", "amended"))
			if got := arrived(s.t, e, 2); !strings.Contains(got[1], "amended") {
				s.t.Error(got)
			}
		}},
		{"RestHookTestR4Test: [*] delivers Observation and Patient, [Observation,Patient] no Organization", "", func(s scenario) {
			all := s.hears("star", "[*]", "")
			two := s.hears("types", "[Observation,Patient]", "")
			s.put(201, observation("star", "final"))
			s.put(201, `{"resourceType":"Organization","id":"star","name":"x"}`)
			s.put(201, `{"resourceType":"Patient","id":"star"}`)
			arrived(s.t, all, 3)
			for _, got := range arrived(s.t, two, 2) {
				if strings.HasPrefix(got, "PUT /Organization") {
					s.t.Error(got)
				}
			}
			s.ended("types", 2)
		}},
		{"RestHookTestR4Test: headers X-Foo and X-Bar arrive; status put back to requested is activated again", "", func(s scenario) {
			e := delivertest.NewEndpoint(s.t)
			body := strings.Replace(subscriptionTo("headers", "Observation?", e.URL), `"payload"`, `"header":["X-Foo: FOO","X-Bar: BAR","X-Bar: a:b"," "],"payload"`, 1)
			s.do(201, "PUT", "/fhir/Subscription/headers", body, nil)
			s.put(201, observation("headers", "final"))
			arrived(s.t, e, 1)
			s.do(200, "PUT", "/fhir/Subscription/headers", strings.Replace(body, `"active"`, `"requested"`, 1), nil)
			s.await("activation", "/fhir/Subscription/headers", func(m map[string]any) bool { return m["status"] == "active" })
			s.put(200, observation("headers", "amended"))
			arrived(s.t, e, 2)
			for _, r := range e.Requests() {
				if r.Header.Get("X-Foo") != "FOO" || fmt.Sprint(r.Header["X-Bar"]) != "[BAR a:b]" {
					s.t.Errorf("headers %v", r.Header)
				}
			}
		}},
		{"RestHookTestR4Test: status off stops delivery", "", func(s scenario) {
			e := s.hears("off", "Observation?", "")
			s.put(201, observation("off1", "final"))
			arrived(s.t, e, 1)
			off := strings.Replace(subscriptionTo("off", "Observation?", e.URL), `"active"`, `"off"`, 1)
			s.do(200, "PUT", "/fhir/Subscription/off", off, nil)
			witness := s.hears("witness", "Observation?", "")
			s.put(201, observation("off2", "final"))
			arrived(s.t, witness, 1)
			s.ended("off", 1)
			arrived(s.t, e, 1)
		}},
		{"RestHookTestR4Test: unknown parameters are 422 and not stored, a good criteria is stored", "", func(s scenario) {
			for _, criteria := range []string{"Provenance?activity=http%3A%2F%2Fx%7CWRITE", "ProcedureRequest?intent=instance-order", "BodySite?accessType=x", "Observation?foo=http://x"} {
				s.refused(subscriptionTo("refused", criteria, "https://example.org"), "Subscription.criteria", "")
			}
			s.hears("good", "Observation?patient=Patient/1&_lastUpdated=gt2020", "")
		}},
		{"RestHookTestR4Test: a missing status is refused", "", func(s scenario) {
			s.refused(strings.Replace(subscriptionTo("refused", "Observation?", "https://example.org"), `"status":"active",`, "", 1), "Subscription.status", "missing")
		}},
		{"RestHookTestR4Test: a custom search parameter with a list of alternatives matches two of four", "", func(s scenario) {
			s.do(201, "PUT", "/fhir/SearchParameter/accessType", `{"resourceType":"SearchParameter","id":"accessType","url":"http://example.org/sp","name":"accessType","description":"x","status":"active","code":"accessType","base":["Observation"],"type":"token","expression":"Observation.extension('http://example.org/access').value"}`, nil)
			e := s.hears("custom", "Observation?accessType=Bluetooth,WiFi", "")
			for i, access := range []string{"Bluetooth", "USB", "WiFi", "None"} {
				s.put(201, fmt.Sprintf(`{"resourceType":"Observation","id":"custom%d","extension":[{"url":"http://example.org/access","valueCode":%q}],"status":"final","code":{"text":"x"}}`, i, access))
			}
			for _, got := range arrived(s.t, e, 2) {
				if !strings.Contains(got, "Bluetooth") && !strings.Contains(got, "WiFi") {
					s.t.Error(got)
				}
			}
			s.ended("custom", 2)
		}},
		{"RestHookTestR4Test: payload search with _include=*: one transaction of two entries", "", func(s scenario) {
			e := s.hears("searched", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}&_include=*"))
			s.put(201, `{"resourceType":"Patient","id":"searched","active":true}`)
			s.put(201, strings.Replace(observation("searched", "final"), `"status"`, `"subject":{"reference":"Patient/searched"},"status"`, 1))
			var got struct {
				Type  string
				Entry []struct{ Request struct{ Method, URL string } }
			}
			arrived(s.t, e, 1)
			if err := json.Unmarshal(e.Requests()[0].Body, &got); err != nil || got.Type != "transaction" ||
				fmt.Sprint(got.Entry) != "[{{PUT Observation/searched}} {{PUT Patient/searched}}]" {
				s.t.Errorf("%+v, %v", got, err)
			}
		}},
		{"RestHookTestR4Test: an id used again after a delete has the strategy of its new criteria", "no strategy tag is written: nothing is added to a resource that its client would see as a difference", func(s scenario) {
			s.hears("reused", "Observation?_has:Provenance:target:agent=Practitioner/1", "")
			s.do(204, "DELETE", "/fhir/Subscription/reused", "", nil)
			e := s.hears("reused", "Observation?", "")
			s.put(201, observation("reused", "final"))
			arrived(s.t, e, 1)
			var got struct{ Meta map[string]any }
			if s.do(200, "GET", "/fhir/Subscription/reused", "", &got); got.Meta["tag"] != nil {
				s.t.Errorf("meta is %v", got.Meta)
			}
		}},

		{"RestHookTestDstu3Test: strategy tags", "a tag of that system that a copied Subscription brings is kept and means nothing", func(s scenario) {
			e := delivertest.NewEndpoint(s.t)
			s.do(201, "PUT", "/fhir/Subscription/strategy", strings.Replace(subscriptionTo("strategy", "Observation?", e.URL), `"reason"`,
				`"meta":{"tag":[{"system":"http://hapifhir.io/fhir/StructureDefinition/subscription-matching-strategy","code":"DATABASE"},{"system":"http://hapifhir.io/fhir/StructureDefinition/subscription-matching-strategy","code":"IN_MEMORY"}]},"reason"`, 1), nil)
			s.put(201, observation("strategy", "final"))
			arrived(s.t, e, 1)
		}},
		{"RestHookTestDstu3Test: a chained criterion is refused where only the resource is looked at", "chains are answered by the projection, so there is no such mode", func(s scenario) {
			s.put(201, `{"resourceType":"Patient","id":"chain","name":[{"family":"Smith"}]}`)
			e := s.hears("chain", "Observation?subject:Patient.name=smith", "")
			s.put(201, strings.Replace(observation("chain", "final"), `"status"`, `"subject":{"reference":"Patient/chain"},"status"`, 1))
			arrived(s.t, e, 1)
		}},
		{"RestHookTestDstu3Test: _source is a criterion", "", func(s scenario) {
			e := s.hears("source", "Observation?_source=http://example.org/s", "")
			s.put(201, strings.Replace(observation("source", "final"), `"status"`, `"meta":{"source":"http://example.org/s"},"status"`, 1))
			arrived(s.t, e, 1)
		}},
		{"RestHookTestDstu3Test: a blank payload delivers no resource", "", func(s scenario) {
			for i, payload := range []string{"", `"payload":"",`, `"payload":" ",`} {
				id := fmt.Sprintf("blank%d", i)
				e := delivertest.NewEndpoint(s.t)
				s.do(201, "PUT", "/fhir/Subscription/"+id, fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"active","criteria":"Observation?_id=%s","channel":{"type":"rest-hook",%s"endpoint":%q}}`, id, id, payload, e.URL+"/ping?x=1"), nil)
				s.put(201, observation(id, "final"))
				want(s.t, arrived(s.t, e, 1), "POST /ping?x=1")
			}
		}},
		{"RestHookTestDstu3Test: a list of references is a criterion", "", func(s scenario) {
			e := s.hears("either", "Observation?subject=Patient/a,Patient/b", "")
			for _, subject := range []string{"a", "b", "c"} {
				s.put(201, strings.Replace(observation("either-"+subject, "final"), `"status"`, `"subject":{"reference":"Patient/`+subject+`"},"status"`, 1))
			}
			arrived(s.t, e, 2)
			s.ended("either", 2)
		}},

		{"BaseSubscriptionDeliverySubscriberTest: a success calls PUT once", "", func(s scenario) {
			e := s.hears("success", "Observation?", "")
			s.put(201, observation("success", "final"))
			if got := s.ended("success", 1); len(got) != 1 || got[0].Outcome != record.Accepted || len(e.Requests()) != 1 {
				s.t.Errorf("%+v", got)
			}
		}},
		{"BaseSubscriptionDeliverySubscriberTest: a failure is tried again, and its text holds no patient data", "", func(s scenario) {
			s.hears("failure", "Patient?", ext(fhir.ExtRetryCount, "2"), delivertest.Answer{Status: 500})
			s.put(201, `{"resourceType":"Patient","id":"failure","name":[{"family":"Canary"}]}`)
			got := s.ended("failure", 1)
			if len(got) != 2 || got[1].Outcome != record.HTTPStatus || got[1].Status != 500 {
				s.t.Errorf("%+v", got)
			}
			if strings.Contains(s.logs.String(), "Canary") {
				s.t.Error("a log line holds patient data")
			}
		}},
		{"Retry of section 1.12: any answer but 2xx is tried again, 4xx too", "410 is final here: it turns the Subscription off", func(s scenario) {
			for i, status := range []int{400, 404, 422, 429, 500, 503} {
				id := fmt.Sprintf("again%d", i)
				e := s.hears(id, "Observation?_id="+id, "", delivertest.Answer{Status: status}, delivertest.Answer{})
				s.put(201, observation(id, "final"))
				arrived(s.t, e, 2)
			}
			s.hears("gone", "Observation?_id=gone", "", delivertest.Answer{Status: 410})
			s.put(201, observation("gone", "final"))
			s.await("the end", "/fhir/Subscription/gone", func(m map[string]any) bool { return m["status"] == "off" })
		}},
		{"section 1.2: what waits is sent as the Subscription is now", "", func(s scenario) {
			before := s.hears("moved", "Observation?", "")
			after := delivertest.NewEndpoint(s.t)
			s.pause("moved")
			s.put(201, observation("moved", "final"))
			s.do(200, "PUT", "/fhir/Subscription/moved", strings.Replace(subscriptionTo("moved", "Observation?", after.URL), `"payload"`, `"header":["X-Foo: new"],"payload"`, 1), nil)
			s.resume("moved")
			want(s.t, arrived(s.t, after, 1), sent("moved", "final"))
			if len(before.Requests()) != 0 || after.Requests()[0].Header.Get("X-Foo") != "new" {
				s.t.Errorf("%d requests to the old endpoint, headers %v", len(before.Requests()), after.Requests()[0].Header)
			}
		}},
		{"section 1.2: a changed retry count is not picked up", "it is, by what waits too", func(s scenario) {
			e := s.hears("count", "Observation?", ext(fhir.ExtRetryCount, "1"), delivertest.Answer{Status: 500})
			s.pause("count")
			s.put(201, observation("count", "final"))
			s.do(200, "PUT", "/fhir/Subscription/count", strings.Replace(subscriptionTo("count", "Observation?", e.URL), `"reason"`, ext(fhir.ExtRetryCount, "4")+`"reason"`, 1), nil)
			s.resume("count")
			if got := s.ended("count", 1); len(got) != 4 {
				s.t.Errorf("%d attempts, want 4", len(got))
			}
		}},
		{"section 1.2: a deleted Subscription's queued notifications are sent", "they are withdrawn", func(s scenario) {
			e := s.hears("withdrawn", "Observation?", "")
			s.pause("withdrawn")
			s.put(201, observation("withdrawn", "final"))
			s.await("the match", "/admin/api/v1/subscriptions/withdrawn", func(m map[string]any) bool { return m["pending"] == 1.0 })
			s.do(204, "DELETE", "/fhir/Subscription/withdrawn", "", nil)
			s.await("the withdrawal", "/admin/api/v1/status", func(m map[string]any) bool { return m["pending"] == 0.0 })
			if len(e.Requests()) != 0 {
				s.t.Error("it was sent")
			}
		}},
		{"section 1.6: the empty POST's status is not checked", "it is: a 500 is tried again", func(s scenario) {
			e := delivertest.NewEndpoint(s.t, delivertest.Answer{Status: 500}, delivertest.Answer{})
			s.do(201, "PUT", "/fhir/Subscription/checked", strings.Replace(subscriptionTo("checked", "Observation?", e.URL), `,"payload":"application/fhir+json"`, "", 1), nil)
			s.put(201, observation("checked", "final"))
			want(s.t, arrived(s.t, e, 2), "POST /", "POST /")
		}},
		{"section 1.6: an answer that is no FHIR resource is a success, to transactions too", "HAPI tries a transaction again whose answer is no Bundle", func(s scenario) {
			e := s.hears("odd", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}"), delivertest.Answer{Body: []byte("thanks")})
			s.put(201, observation("odd", "final"))
			if got := s.ended("odd", 1); len(got) != 1 || got[0].Outcome != record.Accepted || len(e.Requests()) != 1 {
				s.t.Errorf("%+v", got)
			}
		}},
		{"section 1.6: If-Match is sent with the version", "it is not: a receiver that keeps its own versions would refuse", func(s scenario) {
			e := s.hears("ifmatch", "Observation?", "")
			s.put(201, observation("ifmatch", "final"))
			arrived(s.t, e, 1)
			if h := e.Requests()[0].Header.Get("If-Match"); h != "" {
				s.t.Error(h)
			}
		}},
	})
}

// What needs a start of its own.
func TestHAPIRestHookConformanceOverARestart(t *testing.T) {
	t.Parallel()
	quietClients(t)
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Channels = []string{}
	e := delivertest.NewEndpoint(t)
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", strings.Replace(subscriptionTo("s", "Patient?", e.URL), `"active"`, `"requested"`, 1), nil)
	var got struct{ Status string }
	// RestHookTestR4Test: rest-hook not enabled, the Subscription stays requested.
	if r.do(200, "GET", "/fhir/Subscription/s", "", &got); got.Status != "requested" {
		t.Errorf("status is %s", got.Status)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	// RestHookActivatesPreExistingSubscriptionsR4Test: stored before the module starts, activated after.
	cfg.Delivery.Channels = config.Default().Delivery.Channels
	again := runNode(t, cfg)
	again.await("activation", "/fhir/Subscription/s", func(m map[string]any) bool { return m["status"] == "active" })
	again.put(201, `{"resourceType":"Patient","id":"p1"}`)
	arrived(t, e, 1)
	if err := again.wait(); err != nil {
		t.Fatal(err)
	}
	// RestHookTestR4Test: registry emptied, then reloaded from the database: delivery works.
	third := runNode(t, cfg)
	third.put(201, `{"resourceType":"Patient","id":"p2"}`)
	arrived(t, e, 2)
}

// SubscriptionValidatingInterceptorTest: the conditions of section 1.4, by their codes, asked of a
// server. All are refused when the Subscription is written, with status off too.
func TestHAPIValidatingInterceptorConformance(t *testing.T) {
	good := subscriptionTo("refused", "Patient?", "https://example.org/fhir")
	with := func(old, new string) func() string {
		return func() string {
			if !strings.Contains(good, old) {
				panic(old)
			}
			return strings.Replace(good, old, new, 1)
		}
	}
	check := func(at, says string, body func() string) func(scenario) {
		return func(s scenario) { s.refused(body(), at, says) }
	}
	const criteria = "Subscription.criteria"
	conform(t, []row{
		{"HAPI-0008 status missing", "", check("Subscription.status", "missing", with(`"status":"active",`, ""))},
		{"HAPI-2009 cross-partition without the feature", "there are no partitions: it asks for what is so anyway", func(s scenario) {
			for _, v := range []string{"true", "false"} {
				s.hears("cross-"+v, "Patient?", ext(fhir.ExtCrossPartition, v))
			}
		}},
		{"HAPI-0011 criteria blank", "", check(criteria, "missing", with(`"Patient?"`, `" "`))},
		{"HAPI-0011 payload search blank", "", check("Subscription.extension", "empty", with(`"reason"`, ext(fhir.ExtPayloadSearch, " ")+`"reason"`))},
		{"HAPI-0012 criteria cannot be parsed", "", check(criteria, "", with("Patient?", "[Patient"))},
		{"HAPI-0012 criteria begins with no letter", "", check(criteria, "", with("Patient?", "?name=x"))},
		{"HAPI-0013 no resource type", "", check(criteria, "Patients", with("Patient?", "Patients?"))},
		{"HAPI-0013 no resource type in a list", "", check(criteria, "Foo", with("Patient?", "[Patient,Foo]"))},
		{"HAPI-0014 no question mark", "Type by itself means every resource of the type, as with Medplum and in Smile CDR's own examples", func(s scenario) {
			s.hears("bare", "Patient", "")
		}},
		{"HAPI-0015 a slash in the type", "", check(criteria, "", with("Patient?", "Patient/1?"))},
		{"HAPI-0009 criteria refused by the search parser", "", check(criteria, "nope", with("Patient?", "Patient?nope=1"))},
		{"HAPI-0488 a misspelt _parameter", "HAPI ignores it, and matches everything", check(criteria, "_tga", with("Patient?", "Patient?_tga=x"))},
		{"HAPI-0020 channel type missing", "", check("Subscription.channel.type", "missing", with(`"type":"rest-hook",`, ""))},
		{"HAPI-0021 rest-hook without an endpoint", "", check("Subscription.channel.endpoint", "needs an endpoint", with(`"endpoint":"https://example.org/fhir",`, ""))},
		{"HAPI-1985 payload no MIME type", "", check("Subscription.channel.payload", "MIME", with("application/fhir+json", "garbage/fhir"))},
		{"HAPI-2545 endpoint acme.corp", "", check("Subscription.channel.endpoint", "absolute", with("https://example.org/fhir", "acme.corp"))},
		{"HAPI-2545 endpoint ftp://acme.corp", "", check("Subscription.channel.endpoint", "scheme", with("https://example.org/fhir", "ftp://acme.corp"))},
		{"HAPI-2545 endpoint htt://acme.corp", "HAPI took it until 2026", check("Subscription.channel.endpoint", "scheme", with("https://example.org/fhir", "htt://acme.corp"))},
		{"HAPI-2545 endpoint with spaces and %%", "", check("Subscription.channel.endpoint", "absolute", with("https://example.org/fhir", "https://acme corp/%%fhir"))},
		{"FhirResourceDaoR4InvalidSubscriptionTest: bad criteria may be stored as off and not be switched on", "it is refused at once, so that switching it on cannot bring to light what was wrong all along",
			check(criteria, "nope", func() string {
				return strings.NewReplacer(`"active"`, `"off"`, "Patient?", "Patient?nope=1").Replace(good)
			})},
		{"SubscriptionsR4Test: active may not be given by a client", "it may, as by HAPI's default: requested is activated at once, so nothing would be gained", func(s scenario) {
			s.hears("active", "Patient?", "")
		}},
		{"section 1.2: end is not honoured", "it is: what is past is refused", check("Subscription.end", "past", with(`"reason"`, `"end":"2020-01-01T00:00:00Z","reason"`))},
	})
}
