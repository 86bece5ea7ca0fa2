package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func TestEveryRouteHasAPolicy(t *testing.T) {
	s := New(Config{Backend: newFake(), Admin: newFake(), Tokens: &fakeTokens{}, Metrics: http.NotFoundHandler(), Sockets: noSockets{}}).(*server)
	routed := map[string]bool{}
	for _, rt := range s.routes() {
		routed[rt.pattern] = true
		r, ok := policy[rt.pattern]
		if !ok {
			t.Errorf("route %s has no policy", rt.pattern)
		}
		if _, granted := grants[r]; !granted && r != anyone && r != visitor && r != scraper {
			t.Errorf("route %s asks for %q, which nobody is granted", rt.pattern, r)
		}
	}
	for pattern := range policy {
		if !routed[pattern] {
			t.Errorf("policy for %s, which is no route", pattern)
		}
	}
}

func TestARouteWithoutPolicyIsClosed(t *testing.T) {
	s := New(Config{Backend: newFake(), Admin: newFake(), Tokens: &fakeTokens{none: true}, InsecurePublic: true}).(*server)
	if err := s.admit(&call{}, "GET /forgotten"); !isIssue(err, fhir.IssueForbidden) {
		t.Errorf("admit = %v", err)
	}
}

// The whole table, route by route and role by role, as it is promised outside.
func TestPolicyRouteByRole(t *testing.T) {
	all := []Role{Reader, Producer, Subscriber, Operator, Administer}
	subscription := `{"resourceType":"Subscription","id":"s"}`
	for _, c := range []struct {
		method, path, body string
		roles              []Role
	}{
		{"GET", "/fhir/Patient/p1", "", all},
		{"GET", "/fhir/Patient/p1/_history", "", all},
		{"GET", "/fhir/Patient/p1/_history/1", "", all},
		{"GET", "/fhir/Patient?_id=p1", "", all},
		{"POST", "/fhir/Patient/_search", "", all},
		{"GET", "/fhir/Subscription/s/$explain?resource=Patient/p1", "", all},
		{"POST", "/fhir/Subscription/s/$explain?resource=Patient/p1", "", all},
		{"POST", "/fhir/Subscription/$validate", subscription, all},
		{"POST", "/fhir", `{"resourceType":"Bundle","type":"batch"}`, all},
		{"POST", "/fhir/Patient", patient, []Role{Producer, Administer}},
		{"PUT", "/fhir/Patient/p1", patient, []Role{Producer, Administer}},
		{"PATCH", "/fhir/Patient/p1", `[]`, []Role{Producer, Administer}},
		{"DELETE", "/fhir/Patient/p1", "", []Role{Producer, Administer}},
		{"POST", "/fhir/$feed", patient, []Role{Producer, Administer}},
		{"POST", "/fhir/Subscription", subscription, []Role{Subscriber, Administer}},
		{"PUT", "/fhir/Subscription/new", `{"resourceType":"Subscription","id":"new"}`, []Role{Subscriber, Administer}},
		{"PUT", "/fhir/SearchParameter/x", `{"resourceType":"SearchParameter","id":"x"}`, []Role{Administer}},
		{"PUT", "/fhir/SubscriptionTopic/x", `{"resourceType":"SubscriptionTopic","id":"x"}`, []Role{Administer}},
		{"POST", "/fhir/Patient/p1/$resend", "", []Role{Administer}},
		{"GET", "/admin/api/v1/subscriptions", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/subscriptions/s", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/subscriptions/s/pause", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/subscriptions/s/resume", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/subscriptions/s/events", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/dlq", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/dlq/s.1", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/dlq/replay", `{"ids":["s.1"]}`, []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/dlq/purge", `{"ids":["s.1"]}`, []Role{Administer}},
		{"POST", "/fhir/Subscription/$trigger-subscription", triggerPatient, []Role{Operator, Administer}},
		{"POST", "/fhir/Subscription/s/$trigger-subscription", triggerPatient, []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/trigger", `{"resources":["Patient/p1"]}`, []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/jobs", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/jobs/j1", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/jobs/j1/cancel", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/attempts", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/tokens", "", []Role{Administer}},
		{"POST", "/admin/api/v1/tokens", `{"name":"n","roles":["reader"]}`, []Role{Administer}},
		{"DELETE", "/admin/api/v1/tokens/reader", "", []Role{Administer}},
		{"GET", "/admin/api/v1/consumers", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/consumers", `{"stream":"messages","name":"lab"}`, []Role{Administer}},
		{"DELETE", "/admin/api/v1/consumers/messages/lab", "", []Role{Administer}},
		{"GET", "/admin/api/v1/status", "", []Role{Operator, Administer}},
		{"GET", "/admin/api/v1/config", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/config/reload", "", []Role{Administer}},
		{"GET", "/admin/api/v1/cluster", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/cluster/drain", `{"node":"n1"}`, []Role{Administer}},
		{"POST", "/admin/api/v1/cluster/verify", "", []Role{Operator, Administer}},
		{"POST", "/admin/api/v1/explain", `{"subscription":"s","resource":"Patient/p1"}`, all},
		{"POST", "/admin/api/v1/resend", `{"resource":"Patient/p1"}`, []Role{Administer}},
	} {
		for _, role := range all {
			s := closed(t)
			s.must(201, "PUT", "/fhir/Patient/p1", patientNamed("p1", "x"), "Authorization: Bearer admin")
			ct := "Content-Type: application/json"
			switch {
			case c.method == "PATCH":
				ct = "Content-Type: application/json-patch+json"
			case strings.HasSuffix(c.path, "_search"):
				ct = "Content-Type: application/x-www-form-urlencoded"
			}
			w := s.do(c.method, c.path, c.body, ct, "Authorization: Bearer "+string(role))
			if allowed := slices.Contains(c.roles, role); allowed && w.Code/100 != 2 || !allowed && w.Code != 403 {
				t.Errorf("%s as %s = %d: %s", c.method+" "+c.path, role, w.Code, w.Body)
			}
		}
		w := closed(t).must(401, c.method, c.path, c.body)
		if w.Header().Get("WWW-Authenticate") == "" || issue(t, w).Code != "security" {
			t.Errorf("401 = %v %s", w.Header(), w.Body)
		}
	}
}

func TestLoginForms(t *testing.T) {
	s := closed(t)
	s.must(401, "GET", "/fhir/Patient?_id=x", "", "Authorization: Bearer wrong")
	s.must(401, "GET", "/fhir/Patient?_id=x", "", "Authorization: Bearer")
	s.must(401, "GET", "/fhir/Patient?_id=x", "", "Authorization: Basic reader")
	s.must(200, "GET", "/fhir/Patient?_id=x", "", "Authorization: bearer reader")
	for _, path := range []string{"/livez", "/readyz", "/fhir/metadata"} {
		s.must(200, "GET", path, "", "Remote: 10.0.0.1:1", "Host: carillon.example.org")
	}
}

// Rights hold inside of Bundles, streams and feeds as they do for single requests.
func TestRightsHoldForEachResourceOfMany(t *testing.T) {
	subscription := `{"resourceType":"Subscription","id":"s"}`
	s := closed(t)
	as := func(role Role) string { return "Authorization: Bearer " + string(role) }
	batch := bundleOf("batch",
		request("PUT", "Patient/p1", "resource="+patient),
		request("PUT", "Subscription/s", "resource="+subscription),
		request("GET", "Patient/p1"),
		request("DELETE", "Patient/p1"),
		request("PATCH", "Patient/p1", `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"W10="}`))
	for role, want := range map[Role]string{
		Reader:     "403 403 404 403 403",
		Operator:   "403 403 404 403 403",
		Producer:   "201 403 200 204 410",
		Subscriber: "403 201 404 403 403",
	} {
		if got := statuses(readBundle(t, closed(t).must(200, "POST", "/fhir", batch, as(role)))); got != want {
			t.Errorf("batch as %s = %s, want %s", role, got, want)
		}
	}
	tx := bundleOf("transaction", request("PUT", "Patient/p1", "resource="+patient), request("PUT", "Subscription/s", "resource="+subscription))
	for _, role := range []Role{Reader, Producer, Subscriber, Operator} {
		s.must(403, "POST", "/fhir", tx, as(role))
	}
	if len(s.fake.asked) != 0 {
		t.Errorf("written: %+v", s.fake.asked)
	}
	w := s.must(200, "POST", "/fhir/$ingest", patient+"\n"+subscription, as(Producer))
	if o := outcomeIn(t, w.Body.Bytes()); o.Issue[0].Diagnostics != "accepted 1, refused 1" || o.Issue[1].Code != "forbidden" {
		t.Errorf("ingest = %s", w.Body)
	}
	s.must(403, "POST", "/fhir/$feed", subscription, as(Producer))
	s.must(200, "POST", "/fhir", tx, as(Administer))
}

func TestASubscriptionBelongsToTheTokenThatMadeIt(t *testing.T) {
	mine, other, admin := "Authorization: Bearer subscriber", "Authorization: Bearer other", "Authorization: Bearer admin"
	body := func(reason string) string {
		return fmt.Sprintf(`{"resourceType":"Subscription","id":"s","reason":%q}`, reason)
	}
	s := closed(t)
	s.must(201, "PUT", "/fhir/Subscription/s", body("1"), mine)
	if s.fake.asked[0].Owner != "t-subscriber" {
		t.Errorf("owner = %s", s.fake.asked[0].Owner)
	}
	s.must(200, "PUT", "/fhir/Subscription/s", body("2"), mine)
	s.must(403, "PUT", "/fhir/Subscription/s", body("3"), other)
	s.must(403, "DELETE", "/fhir/Subscription/s", "", other)
	s.must(403, "PATCH", "/fhir/Subscription/s", `[]`, other, "Content-Type: application/json-patch+json")
	s.must(403, "POST", "/fhir", bundleOf("transaction", request("DELETE", "Subscription/s")), other)
	if b := readBundle(t, s.must(200, "POST", "/fhir", bundleOf("batch", request("DELETE", "Subscription/s")), other)); statuses(b) != "403" {
		t.Errorf("batch = %s", statuses(b))
	}
	s.must(200, "PUT", "/fhir/Subscription/s", body("4"), admin)
	s.must(200, "PUT", "/fhir/Subscription/s", body("5"), mine)
	s.must(204, "DELETE", "/fhir/Subscription/s", "", mine)
	s.must(201, "PUT", "/fhir/Subscription/s", body("6"), other)
	s.must(403, "PUT", "/fhir/Subscription/s", body("7"), mine)
}

// Between the check of the owner and the write another token may take the id.
func TestOwnerCheckHoldsAgainstARace(t *testing.T) {
	s := closed(t)
	s.fake.beforeNext = func(f *fake) {
		f.apply(Write{Key: fhir.Key{Type: "Subscription", ID: "s"}, Owner: "t-other", Body: []byte(`{"resourceType":"Subscription","id":"s","reason":"theirs"}`)})
	}
	s.must(403, "PUT", "/fhir/Subscription/s", `{"resourceType":"Subscription","id":"s"}`, "Authorization: Bearer subscriber")
	s.fake.beforeNext = func(f *fake) {
		f.apply(Write{Key: fhir.Key{Type: "Subscription", ID: "t"}, Owner: "t-other", Body: []byte(`{"resourceType":"Subscription","id":"t","reason":"theirs"}`)})
	}
	s.must(403, "POST", "/fhir", bundleOf("transaction", request("PUT", "Subscription/t", `resource={"resourceType":"Subscription","id":"t"}`)), "Authorization: Bearer subscriber")
}

func TestWithoutTokensOnlyThisMachineIsServed(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"by address", nil, 200},
		{"by name", []string{"Host: localhost:8080"}, 200},
		{"by IPv6", []string{"Host: [::1]:8080", "Remote: [::1]:5"}, 200},
		{"mapped", []string{"Remote: [::ffff:127.0.0.1]:5"}, 200},
		{"other of 127/8", []string{"Host: 127.9.9.9", "Remote: 127.9.9.9:5"}, 200},
		{"from elsewhere", []string{"Remote: 10.0.0.1:5"}, 403},
		{"rebound name", []string{"Host: evil.example.org"}, 403},
		{"rebound name with our port", []string{"Host: evil.example.org:8080"}, 403},
		{"name that begins like ours", []string{"Host: localhost.example.org"}, 403},
		{"number as name", []string{"Host: 2130706433"}, 403},
		{"no name", []string{"Host: "}, 403},
		{"through a proxy", []string{"X-Forwarded-For: 10.0.0.1"}, 403},
		{"through a new proxy", []string{"Forwarded: for=10.0.0.1"}, 403},
		{"through a cache", []string{"Via: 1.1 cache"}, 403},
		{"peer unknown", []string{"Remote: @"}, 403},
	} {
		s := open(t)
		s.must(201, "PUT", "/fhir/Patient/p1", patient)
		if w := s.do("GET", "/fhir/Patient/p1", "", c.headers...); w.Code != c.status {
			t.Errorf("%s = %d, want %d", c.name, w.Code, c.status)
		}
		for _, path := range []string{"/livez", "/readyz"} {
			s.must(200, "GET", path, "", c.headers...)
		}
		public := open(t, func(c *Config) { c.InsecurePublic = true })
		public.must(201, "PUT", "/fhir/Patient/p1", patient, c.headers...)
	}
}

// A page in a browser on this machine can reach a loopback address, also without reading the
// answer.
func TestWithoutTokensPagesOfOtherOriginsAreRefused(t *testing.T) {
	s := open(t)
	for _, h := range [][]string{
		{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example.org"},
		{"Sec-Fetch-Site: same-site"},
		{"Origin: https://evil.example.org"},
		{"Origin: null"},
	} {
		s.must(403, "POST", "/admin/api/v1/subscriptions/s/pause", "", h...)
		s.must(403, "PUT", "/fhir/Patient/p1", patient, h...)
	}
	s.must(200, "POST", "/admin/api/v1/subscriptions/s/pause", "", "Sec-Fetch-Site: same-origin", "Origin: http://127.0.0.1:8080")
}

func TestMetricsNeedNoLoginOnThisMachine(t *testing.T) {
	s := open(t, func(c *Config) {
		c.Tokens = &fakeTokens{}
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "carillon_up 1") })
	})
	s.must(200, "GET", "/metrics", "")
	s.must(401, "GET", "/metrics", "", "Remote: 10.0.0.1:5")
	s.must(401, "GET", "/metrics", "", "X-Forwarded-For: 10.0.0.1")
	s.must(403, "GET", "/metrics", "", "Remote: 10.0.0.1:5", "Authorization: Bearer reader")
	s.must(200, "GET", "/metrics", "", "Remote: 10.0.0.1:5", "Authorization: Bearer operator")
	open(t).must(404, "GET", "/metrics", "")
}
