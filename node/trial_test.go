package node

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/node/api"
)

func TestATestNotificationIsMarkedAndCountsNowhere(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	type seen struct {
		method, path, body string
		header             http.Header
	}
	got := make(chan seen, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		got <- seen{q.Method, q.URL.Path, string(body), q.Header}
		w.WriteHeader(503)
		io.WriteString(w, "not today")
	}))
	t.Cleanup(s.Close)
	r.do(201, "PUT", "/fhir/Patient/no", `{"resourceType":"Patient","id":"no"}`, nil)
	r.do(201, "PUT", "/fhir/Subscription/s", strings.Replace(subscriptionTo("s", "Patient?active=true", s.URL), `"active","reason"`, `"off","reason"`, 1), nil)

	try := func(body string) (res api.TestResult, at seen) {
		t.Helper()
		r.do(200, "POST", "/admin/api/v1/subscriptions/s/test", body, &res)
		return res, <-got
	}
	res, at := try("")
	if !res.Example || res.Resource != "Patient/example" || at.path != "/Patient/example" || at.body != `{"resourceType":"Patient","id":"example"}` || res.Status != "off" {
		t.Errorf("an example is %+v, sent as %+v", res, at)
	}
	if res.Outcome != "http_status" || res.HTTPStatus != 503 || res.Response != "not today" || res.TookMS <= 0 {
		t.Errorf("it was answered %+v", res)
	}
	if at.header.Get("X-Carillon-Test") != "true" || at.header.Get("X-Carillon-Event") != "0" || at.header.Get("Webhook-Id") != res.WebhookID || !strings.Contains(res.WebhookID, ".test-") {
		t.Errorf("its headers are %v", at.header)
	}
	r.do(201, "PUT", "/fhir/Patient/a", `{"resourceType":"Patient","id":"a","active":true}`, nil)
	r.do(201, "PUT", "/fhir/Patient/b", `{"resourceType":"Patient","id":"b","active":true}`, nil)
	again, at := try("")
	if again.Resource != "Patient/b" || at.path != "/Patient/b" || again.Matches == nil || !*again.Matches || again.WebhookID == res.WebhookID {
		t.Errorf("the newest that matches is %+v", again)
	}
	if named, _ := try(`{"resource":"Patient/no"}`); named.Resource != "Patient/no" || named.Matches == nil || *named.Matches {
		t.Errorf("one that does not match is %+v", named)
	}
	// One that is active hears of what it matches, also where that is older than itself.
	r.do(201, "PUT", "/fhir/Subscription/young", subscriptionTo("young", "Patient?active=true", s.URL), nil)
	var young api.TestResult
	r.do(200, "POST", "/admin/api/v1/subscriptions/young/test", "", &young)
	if <-got; young.Resource != "Patient/b" || young.Matches == nil || !*young.Matches {
		t.Errorf("a young one is tried with %+v", young)
	}
	r.do(404, "POST", "/admin/api/v1/subscriptions/s/test", `{"resource":"Patient/unknown"}`, nil)
	r.do(404, "POST", "/admin/api/v1/subscriptions/unknown/test", "", nil)
	r.do(400, "POST", "/admin/api/v1/subscriptions/s/test", `{"resource":"Patient"}`, nil)

	var st api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions/s", "", &st)
	var as []api.Attempt
	r.do(200, "GET", "/admin/api/v1/attempts?subscription=s", "", &as)
	if st.Status != "off" || st.Events != 0 || st.Pending != 0 || st.Dead != 0 || len(as) != 0 {
		t.Errorf("the tests count: %+v, %+v", st, as)
	}
}

// Who stops all sending wants nothing to arrive, whoever sends it.
func TestNoTestIsSentWhileAllSendingIsStopped(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	hook := newSink(t, 200)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", hook.URL), nil)
	r.do(200, "POST", "/admin/api/v1/delivery/stop", `{"reason":"an incident"}`, nil)
	if status, body := r.send("POST", "/admin/api/v1/subscriptions/s/test", ""); status != 409 || !strings.Contains(body, "carillon deliver start") || len(hook.await(t, 0)) != 0 {
		t.Errorf("a test is answered %d: %s", status, body)
	}
	r.do(200, "POST", "/admin/api/v1/delivery/start", "", nil)
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/test", "", nil)
}
