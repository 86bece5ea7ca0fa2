package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// The tests of Medplum's subscription worker (packages/server/src/workers/subscription.test.ts, 5.0.10
// and newer) about criteria, interactions, payload, headers, signatures, deletes and retries, row by row.
// AuditEvents, sockets and jobs have tests of their own (e2e/DESIGN.md names them); there are no projects,
// accounts and bots.
func TestMedplumWorkerConformance(t *testing.T) {
	// Any of Medplum's extensions makes the receiver one of Medplum's.
	tracing := `"extension":[{"url":"https://medplum.com/fhir/StructureDefinition/tracing","extension":[]}],`
	interactions := func(codes ...string) string {
		var list []string
		for _, c := range codes {
			list = append(list, fhir.ExtSupportedInteraction, c)
		}
		return ext(list...)
	}
	patient := func(id, rest string) string {
		return fmt.Sprintf(`{"resourceType":"Patient","id":%q,"name":[{"family":%q}]}`, id, rest)
	}
	sent := func(id, rest string) string {
		return fmt.Sprintf(`POST / {"resourceType":"Patient","id":%q,"meta":{"versionId":"v1","lastUpdated":"then"},"name":[{"family":%q}]}`, id, rest)
	}
	told := func(e *delivertest.Endpoint) (all []string) {
		for _, r := range e.Requests() {
			all = append(all, r.Header.Get("X-Medplum-Interaction"))
		}
		return all
	}
	conform(t, []row{
		{"send subscription: a matching create, update and delete each post the resource's JSON", "a delete is told where it is asked for: the extension says so, or HAPI's", func(s scenario) {
			e := s.hears("all", "Patient?name=Alice", interactions("create", "update", "delete"))
			quiet := s.hears("quiet", "Patient?name=Alice", tracing)
			s.put(201, patient("all", "Alice"))
			s.put(200, patient("all", "Alice B"))
			arrived(s.t, e, 2)
			s.do(204, "DELETE", "/fhir/Patient/all", "", nil)
			want(s.t, arrived(s.t, e, 3), sent("all", "Alice"), strings.Replace(sent("all", "Alice B"), "v1", "v2", 1), "POST / {}")
			want(s.t, told(e), "create", "update", "delete")
			if got := s.ended("quiet", 2); len(got) != 2 || len(quiet.Requests()) != 2 {
				s.t.Errorf("%+v", got)
			}
		}},
		{"send subscription with a 201: a success", "", func(s scenario) {
			s.hears("made", "Patient?", tracing, delivertest.Answer{Status: 201})
			s.put(201, patient("made", "x"))
			if got := s.ended("made", 1); len(got) != 1 || got[0].Outcome != record.Accepted || got[0].Status != 201 {
				s.t.Errorf("%+v", got)
			}
		}},
		{"send subscription with custom headers: those and Medplum's arrive, and no others", "values arrive whole (Medplum cuts at a second colon); ours name the event and the attempt", func(s scenario) {
			e := delivertest.NewEndpoint(s.t)
			body := strings.Replace(subscriptionTo("headers", "Patient?", e.URL), `"reason"`, tracing+`"reason"`, 1)
			s.do(201, "PUT", "/fhir/Subscription/headers", strings.Replace(body, `"payload"`, `"header":["Authorization: Basic xyz","X-Callback: https://a.example:8443/x"],"payload"`, 1), nil)
			s.put(201, patient("headers", "x"))
			arrived(s.t, e, 1)
			h := e.Requests()[0].Header
			want(s.t, slices.Sorted(maps.Keys(h)), "Authorization", "Content-Length", "Content-Type", "User-Agent", "Webhook-Id", "Webhook-Timestamp",
				"X-Callback", "X-Carillon-Attempt", "X-Carillon-Event", "X-Carillon-Subscription", "X-Medplum-Interaction", "X-Medplum-Subscription")
			for name, value := range map[string]string{"Authorization": "Basic xyz", "X-Callback": "https://a.example:8443/x", "Content-Type": "application/fhir+json",
				"X-Medplum-Subscription": "headers", "X-Medplum-Interaction": "create"} {
				if h.Get(name) != value {
					s.t.Errorf("%s is %q", name, h.Get(name))
				}
			}
		}},
		{"create-only ignores updates and deletes", "", func(s scenario) {
			e := s.hears("create", "Patient?", interactions("create"))
			s.put(201, patient("create1", "x"))
			s.put(200, patient("create1", "y"))
			s.do(204, "DELETE", "/fhir/Patient/create1", "", nil)
			s.put(201, patient("create1", "z"))
			arrived(s.t, e, 2)
			s.ended("create", 2)
			want(s.t, told(e), "create", "create")
		}},
		{"update-only ignores creates and deletes (#6704)", "", func(s scenario) {
			e := s.hears("update", "Patient?", interactions("update"))
			s.put(201, patient("update1", "x"))
			s.do(204, "DELETE", "/fhir/Patient/update1", "", nil)
			s.put(201, patient("update1", "y"))
			s.put(200, patient("update1", "z"))
			arrived(s.t, e, 1)
			s.ended("update", 1)
			want(s.t, told(e), "update")
		}},
		{"several interactions: any one fits (#9854)", "", func(s scenario) {
			e := s.hears("several", "Patient?", interactions("update", "delete"))
			s.put(201, patient("several", "x"))
			s.put(200, patient("several", "y"))
			s.do(204, "DELETE", "/fhir/Patient/several", "", nil)
			arrived(s.t, e, 2)
			s.ended("several", 2)
			want(s.t, told(e), "update", "delete")
		}},
		{"delete-only posts {} with X-Medplum-Deleted-Resource", "", func(s scenario) {
			e := s.hears("delete", "Patient?name=Alice", interactions("delete"))
			s.put(201, patient("delete", "Alice"))
			s.do(204, "DELETE", "/fhir/Patient/delete", "", nil)
			want(s.t, arrived(s.t, e, 1), "POST / {}")
			h := e.Requests()[0].Header
			if h.Get("X-Medplum-Deleted-Resource") != "Patient/delete" || h.Get("Content-Type") != "application/fhir+json" || h.Get("X-Medplum-Interaction") != "delete" {
				s.t.Errorf("headers %v", h)
			}
			s.ended("delete", 1)
		}},
		{"signature with the current extension, with the legacy one, and with the one that only an unmerged branch reads; over {} on delete", "", func(s scenario) {
			for i, spelling := range []string{fhir.ExtMedplumSecret, fhir.ExtMedplumSecretOld, fhir.ExtMedplumSecretBare} {
				id := fmt.Sprintf("signed%d", i)
				e := s.hears(id, "Patient?_id="+id, ext(spelling, "hush", fhir.ExtSupportedInteraction, "create", fhir.ExtSupportedInteraction, "delete"))
				s.put(201, patient(id, "x"))
				s.do(204, "DELETE", "/fhir/Patient/"+id, "", nil)
				want(s.t, arrived(s.t, e, 2), sent(id, "x"), "POST / {}")
				for _, r := range e.Requests() {
					mac := hmac.New(sha256.New, []byte("hush"))
					mac.Write(r.Body)
					if got := r.Header.Get("X-Signature"); got != hex.EncodeToString(mac.Sum(nil)) {
						s.t.Errorf("%s: the signature is %q", spelling, got)
					}
				}
			}
		}},
		{"payload is ignored: the resource is posted without one too", "", func(s scenario) {
			e := delivertest.NewEndpoint(s.t)
			body := strings.NewReplacer(`"reason"`, tracing+`"reason"`, `,"payload":"application/fhir+json"`, "").Replace(subscriptionTo("none", "Patient?", e.URL))
			s.do(201, "PUT", "/fhir/Subscription/none", body, nil)
			s.put(201, patient("none", "x"))
			want(s.t, arrived(s.t, e, 1), sent("none", "x"))
		}},
		{"ignore subscriptions missing criteria", "refused when it is written", func(s scenario) {
			s.refused(strings.Replace(subscriptionTo("refused", "Patient?", "https://example.org"), `"criteria":"Patient?",`, "", 1), "Subscription.criteria", "missing")
		}},
		{"ignore rest-hooks missing an endpoint", "refused when it is written", func(s scenario) {
			s.refused(strings.Replace(subscriptionTo("refused", "Patient?", "https://example.org"), `,"endpoint":"https://example.org"`, "", 1), "Subscription.channel.endpoint", "needs")
		}},
		{"ignore email, message and sms channels", "they are channels like any other; those that need a server of the operator's stay requested without one", func(s scenario) {
			for channel, status := range map[string]string{"email": "requested", "sms": "requested", "message": "active"} {
				body := strings.NewReplacer("rest-hook", channel, "https://example.org", map[string]string{"email": "mailto:a@example.org", "sms": "tel:+4930123456", "message": "channel:q"}[channel],
					`,"payload":"application/fhir+json"`, "", `"active"`, `"requested"`).Replace(subscriptionTo("to-"+channel, "Patient?", "https://example.org"))
				s.do(201, "PUT", "/fhir/Subscription/to-"+channel, body, nil)
				var got struct{ Status string }
				if s.do(200, "GET", "/fhir/Subscription/to-"+channel, "", &got); got.Status != status {
					s.t.Errorf("%s is %s", channel, got.Status)
				}
			}
		}},
		{"ignore other channel types", "refused when it is written", func(s scenario) {
			s.refused(strings.Replace(subscriptionTo("refused", "Patient?", "https://example.org"), "rest-hook", "carrier-pigeon", 1), "Subscription.channel.type", "carrier-pigeon")
		}},
		{"section 1.3: criteria that can never match are kept", "refused when it is written", func(s scenario) {
			for _, criteria := range []string{"NotAType?x=1", "Patient?nope=1"} {
				s.refused(subscriptionTo("refused", criteria, "https://example.org"), "Subscription.criteria", "")
			}
		}},
		{"section 1.5: bots and addresses that are none", "refused when it is written", func(s scenario) {
			s.refused(subscriptionTo("refused", "Patient?", "Bot/123"), "Subscription.channel.endpoint", "bots")
			s.refused(subscriptionTo("refused", "Patient?", "ftp://x"), "Subscription.channel.endpoint", "scheme")
		}},
		{"ignore non-matching resource types and values", "", func(s scenario) {
			e := s.hears("other", "Observation?status=final", tracing)
			s.put(201, patient("other", "x"))
			s.put(201, `{"resourceType":"Observation","id":"other","status":"preliminary","code":{"text":"x"}}`)
			s.put(200, `{"resourceType":"Observation","id":"other","status":"final","code":{"text":"x"}}`)
			arrived(s.t, e, 1)
			s.ended("other", 1)
		}},
		{"ignore subscriptions with status off", "", func(s scenario) {
			e := delivertest.NewEndpoint(s.t)
			s.do(201, "PUT", "/fhir/Subscription/off", strings.Replace(subscriptionTo("off", "Patient?", e.URL), `"active"`, `"off"`, 1), nil)
			witness := s.hears("witness", "Patient?", tracing)
			s.put(201, patient("off", "x"))
			arrived(s.t, witness, 1)
			s.ended("off", 0)
		}},
		{"section 1.3: status requested never becomes active", "it does, and is told of what follows", func(s scenario) {
			e := delivertest.NewEndpoint(s.t)
			s.do(201, "PUT", "/fhir/Subscription/requested", strings.Replace(subscriptionTo("requested", "Patient?", e.URL), `"active"`, `"requested"`, 1), nil)
			s.put(201, patient("requested", "x"))
			arrived(s.t, e, 1)
		}},
		{"retry on 429", "", func(s scenario) {
			e := s.hears("throttled", "Patient?", tracing, delivertest.Answer{Status: 429}, delivertest.Answer{})
			s.put(201, patient("throttled", "x"))
			want(s.t, arrived(s.t, e, 2), sent("throttled", "x"), sent("throttled", "x"))
		}},
		{"retry on an exception of the network", "", func(s scenario) {
			e := s.hears("reset", "Patient?", tracing, delivertest.Answer{Reset: true}, delivertest.Answer{})
			s.put(201, patient("reset", "x"))
			arrived(s.t, e, 2)
			if got := s.ended("reset", 1); len(got) != 2 || got[0].Outcome != record.ConnectionReset || got[1].Outcome != record.Accepted {
				s.t.Errorf("%+v", got)
			}
		}},
		{"stop retries if the maximum of attempts is reached", "N means N posts (Medplum makes N+1), and a dead letter is kept", func(s scenario) {
			e := s.hears("spent", "Patient?", ext(fhir.ExtMaxAttempts, "3"), delivertest.Answer{Status: 500})
			s.put(201, patient("spent", "x"))
			if got := s.ended("spent", 1); len(got) != 3 || len(e.Requests()) != 3 {
				s.t.Errorf("%d attempts, %d requests", len(got), len(e.Requests()))
			}
			var dead []any
			if s.do(200, "GET", "/admin/api/v1/dlq?subscription=spent", "", &dead); len(dead) != 1 {
				s.t.Errorf("dead letters %v", dead)
			}
		}},
		{"stop retries if the subscription status is changed away from active, or it is deleted", "", func(s scenario) {
			for _, deleted := range []bool{false, true} {
				id := fmt.Sprintf("stopped-%v", deleted)
				e := s.hears(id, "Patient?", tracing, delivertest.Answer{Status: 503, Header: map[string][]string{"Retry-After": {"3600"}}})
				s.put(201, patient(id, "x"))
				arrived(s.t, e, 1)
				if deleted {
					s.do(204, "DELETE", "/fhir/Subscription/"+id, "", nil)
				} else {
					s.do(200, "PUT", "/fhir/Subscription/"+id, strings.Replace(subscriptionTo(id, "Patient?", e.URL), `"active"`, `"off"`, 1), nil)
				}
				s.await("the withdrawal", "/admin/api/v1/status", func(m map[string]any) bool { return m["pending"] == 0.0 })
				arrived(s.t, e, 1)
			}
		}},
		{"stop retries if the resource is deleted, or was changed since", "the version that failed is sent all the same: no event is dropped", func(s scenario) {
			e := s.hears("kept", "Patient?", interactions("create", "update"), delivertest.Answer{Status: 500}, delivertest.Answer{})
			s.pause("kept")
			s.put(201, patient("kept", "v1"))
			s.put(200, patient("kept", "v2"))
			s.do(204, "DELETE", "/fhir/Patient/kept", "", nil)
			s.resume("kept")
			want(s.t, arrived(s.t, e, 3), sent("kept", "v1"), sent("kept", "v1"), strings.Replace(sent("kept", "v2"), `"v1"`, `"v2"`, 1))
		}},
		{"outcome 0 for a status of 200,201,410-600", "", func(s scenario) {
			for i, status := range []int{200, 201, 410, 515} {
				id := fmt.Sprintf("listed%d", i)
				e := s.hears(id, "Patient?_id="+id, ext(fhir.ExtSuccessCodes, "200,201,410-600"), delivertest.Answer{Status: status})
				s.put(201, patient(id, "x"))
				if got := s.ended(id, 1); len(got) != 1 || got[0].Outcome != record.Accepted || got[0].Status != status || len(e.Requests()) != 1 {
					s.t.Errorf("%d: %+v", status, got)
				}
			}
		}},
		{"section 1.5: a redirect is followed by a GET and counts as delivered", "it is never followed, and no success unless success-codes list it", func(s scenario) {
			away := map[string][]string{"Location": {"/landing"}}
			failed := s.hears("redirected", "Patient?", ext(fhir.ExtMaxAttempts, "1"), delivertest.Answer{Status: 302, Header: away})
			taken := s.hears("listed", "Patient?", ext(fhir.ExtSuccessCodes, "200-399"), delivertest.Answer{Status: 302, Header: away})
			s.put(201, patient("redirected", "x"))
			if got := s.ended("redirected", 1); len(got) != 1 || got[0].Outcome != record.Redirect || len(failed.Requests()) != 1 {
				s.t.Errorf("%+v", got)
			}
			if got := s.ended("listed", 1); len(got) != 1 || got[0].Outcome != record.Accepted || len(taken.Requests()) != 1 {
				s.t.Errorf("%+v", got)
			}
		}},
		{"section 1.6: a malformed list of success codes falls back to the default", "refused when it is written", func(s scenario) {
			s.refused(strings.Replace(subscriptionTo("refused", "Patient?", "https://example.org"), `"reason"`, ext(fhir.ExtSuccessCodes, "200,ok")+`"reason"`, 1), "Subscription.extension[0]", "200-399,404")
		}},
		{"section 1.2: max-attempts outside 1 to 18 is kept", "refused when it is written", func(s scenario) {
			for _, n := range []string{"0", "19"} {
				s.refused(strings.Replace(subscriptionTo("refused", "Patient?", "https://example.org"), `"reason"`, ext(fhir.ExtMaxAttempts, n)+`"reason"`, 1), "Subscription.extension[0]", "1 to 18")
			}
		}},
		{"section 1.5: a header without a colon stops everything, unseen", "refused when it is written", func(s scenario) {
			s.refused(strings.Replace(subscriptionTo("refused", "Patient?", "https://example.org"), `"payload"`, `"header":["Authorization"],"payload"`, 1), "Subscription.channel.header[0]", "Name: value")
		}},
		{"FHIRPath: true fires, false does not; a change of status, updates only", "", func(s scenario) {
			e := s.hears("path", "Task", ext(fhir.ExtPathCriteria, "%previous.status != %current.status", fhir.ExtSupportedInteraction, "update"))
			task := func(status, more string) string {
				return fmt.Sprintf(`{"resourceType":"Task","id":"path","status":%q,"intent":"order"%s}`, status, more)
			}
			s.put(201, task("ready", ""))
			s.put(200, task("ready", `,"priority":"stat"`))
			s.put(200, task("completed", `,"priority":"stat"`))
			if got := arrived(s.t, e, 1); !strings.Contains(got[0], `"completed"`) {
				s.t.Error(got)
			}
			s.ended("path", 1)
		}},
		{"FHIRPath: an expression that fails does not stop the next Subscription", "", func(s scenario) {
			s.hears("throws", "Patient?", ext(fhir.ExtPathCriteria, "%current.name.family.single() = 'x'"))
			e := s.hears("next", "Patient?", tracing)
			s.put(201, `{"resourceType":"Patient","id":"throws","name":[{"family":"a"},{"family":"b"}]}`)
			arrived(s.t, e, 1)
			s.ended("throws", 0)
		}},
		{"section 1.1: an update that changes nothing fires nothing", "", func(s scenario) {
			e := s.hears("noop", "Patient?", tracing)
			s.put(201, patient("noop", "x"))
			s.put(200, patient("noop", "x"))
			s.put(200, patient("noop", "y"))
			arrived(s.t, e, 2)
			s.ended("noop", 2)
		}},
		{"section 1.1: each write of a transaction fires on its own", "those of one resource come in order", func(s scenario) {
			e := s.hears("each", "Patient?", tracing)
			s.do(200, "POST", "/fhir", `{"resourceType":"Bundle","type":"transaction","entry":[
				{"resource":{"resourceType":"Patient"},"request":{"method":"POST","url":"Patient"}},
				{"resource":{"resourceType":"Patient"},"request":{"method":"POST","url":"Patient"}}]}`, nil)
			arrived(s.t, e, 2)
		}},
	})
}
