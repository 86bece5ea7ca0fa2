package api

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

const admin = "/admin/api/v1"

func TestListsAreArraysAlsoWhenEmpty(t *testing.T) {
	s := open(t)
	for _, path := range []string{"/subscriptions", "/subscriptions/s/events", "/dlq", "/attempts", "/tokens"} {
		w := s.must(200, "GET", admin+path, "")
		if strings.TrimSpace(w.Body.String()) != "[]" || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s = %s %s", path, w.Body, w.Header().Get("Content-Type"))
		}
	}
}

func TestFiltersReachTheAdmin(t *testing.T) {
	at := time.Date(2026, 1, 31, 7, 0, 0, 0, time.UTC)
	for path, want := range map[string]any{
		"/subscriptions":                                     SubscriptionFilter{Limit: 100},
		"/subscriptions?status=off&limit=5":                  SubscriptionFilter{Status: "off", Limit: 5},
		"/subscriptions/s/events":                            EventFilter{Since: 1, Limit: 100},
		"/subscriptions/s/events?since=3&until=9&limit=1000": EventFilter{Since: 3, Until: 9, Limit: 1000},
		"/dlq?subscription=s&since=2026-01-31T08:00:00%2B01:00&until=2026-01-31T07:00:00Z&reason=timeout": DeadFilter{Subscription: "s", Since: at, Until: at, Reason: "timeout", Limit: 100},
		"/dlq?kind=pipeline":                    DeadFilter{Kind: record.DeadPipeline, Limit: 100},
		"/jobs":                                 JobFilter{Limit: 100},
		"/jobs?kind=trigger&state=done&limit=7": JobFilter{Kind: record.JobTrigger, State: record.JobDone, Limit: 7},
		"/attempts?subscription=s&resource=Patient/p&status=timeout&since=2026-01-31T07:00:00Z": AttemptFilter{Subscription: "s", Resource: fhir.Key{Type: "Patient", ID: "p"}, Outcome: "timeout", Since: at, Limit: 100},
	} {
		s := open(t)
		s.must(200, "GET", admin+path, "")
		got := s.fake.filters[0]
		// Times are compared as instants.
		if d, ok := got.(DeadFilter); ok {
			d.Since, d.Until = d.Since.UTC(), d.Until.UTC()
			got = d
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %+v, want %+v", path, got, want)
		}
	}
}

func TestMalformedOrdersAreRefused(t *testing.T) {
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/subscriptions?statsu=off", ""},
		{"GET", "/subscriptions?status=paused", ""},
		{"GET", "/subscriptions?limit=0", ""},
		{"GET", "/subscriptions?limit=10001", ""},
		{"GET", "/subscriptions?limit=1&limit=2", ""},
		{"GET", "/subscriptions?%zz", ""},
		{"GET", "/subscriptions/s/events?since=-1", ""},
		{"GET", "/dlq?since=yesterday", ""},
		{"GET", "/dlq?subscription=a_b", ""},
		{"GET", "/attempts?resource=p", ""},
		{"GET", "/config?x=1", ""},
		{"GET", "/status?x=1", ""},
		{"GET", "/dlq?kind=x", ""},
		{"GET", "/jobs?kind=x", ""},
		{"GET", "/jobs?state=x", ""},
		{"GET", "/jobs?limit=0", ""},
		{"POST", "/trigger", `{}`},
		{"POST", "/trigger", `{"subscription":"a_b","resources":["Patient/p"]}`},
		{"POST", "/trigger", `{"resources":["Patient"]}`},
		{"POST", "/trigger", `{"searches":["Patient"]}`},
		{"POST", "/trigger", `{"searches":["Nothing?x=1"]}`},
		{"POST", "/trigger", `{"searches":["Patient?"],"rate":-1}`},
		{"POST", "/dlq/replay", `{"kind":"x"}`},
		{"POST", "/dlq/replay", `{"ids":["a.1"],"kind":"pipeline"}`},
		{"POST", "/dlq/replay", ``},
		{"POST", "/dlq/replay", `{}`},
		{"POST", "/dlq/purge", `{}`},
		{"POST", "/dlq/purge", `{"ids":[]}`},
		{"POST", "/dlq/replay", `{"ids":["a.1"],"subscription":"a"}`},
		{"POST", "/dlq/replay", `{"ids":["a.1"],"reason":"timeout"}`},
		{"POST", "/dlq/replay", `{"subscription":"a","raeson":"timeout"}`},
		{"POST", "/dlq/replay", `{"subscription":"a_b"}`},
		{"POST", "/dlq/replay", `{"subscription":"a","rate":-1}`},
		{"POST", "/dlq/replay", `{"subscription":"a","rate":"1"}`},
		{"POST", "/dlq/replay", `{"subscription":"a"} x`},
		{"POST", "/dlq/replay", `{"subscription":"a","subscription":"b"}`},
		{"POST", "/tokens", `{"name":"","roles":["admin"]}`},
		{"POST", "/tokens", `{"name":"a"}`},
		{"POST", "/tokens", `{"name":"a","roles":["root"]}`},
		{"POST", "/tokens", `{"name":"a\nb","roles":["admin"]}`},
		{"POST", "/explain", `{"subscription":"s"}`},
		{"POST", "/explain", `{"resource":"Patient/p"}`},
		{"POST", "/explain", `{"subscription":"s","resource":"Patient"}`},
		{"POST", "/explain", `{"subscription":"s","resource":"Patient/p@x"}`},
		{"POST", "/explain", `{"subscription":"s","resource":"Patient/p","body":{}}`},
		{"POST", "/resend", `{}`},
		{"POST", "/resend", `{"resource":"Patient/p","interaction":"banana"}`},
		{"POST", "/resend", `{"resource":"Patient/p","subscription":"a_b"}`},
		{"POST", "/resend", `{"resource":"Patient/p@3","version":4}`},
	} {
		s := open(t)
		w := s.do(c.method, admin+c.path, c.body)
		if w.Code != 400 {
			t.Errorf("%s %s %s = %d: %s", c.method, c.path, c.body, w.Code, w.Body)
			continue
		}
		issue(t, w)
		if len(s.fake.selected)+len(s.fake.filters)+len(s.fake.resent)+len(s.fake.triggered) != 0 {
			t.Errorf("%s %s %s reached the admin", c.method, c.path, c.body)
		}
	}
	s := open(t)
	s.must(404, "GET", admin+"/subscriptions/unknown", "")
	s.must(404, "GET", admin+"/subscriptions/a_b", "")
	s.must(404, "DELETE", admin+"/tokens/unknown", "")
	s.must(404, "POST", admin+"/explain", `{"subscription":"s","resource":"Nothing/p"}`)
	s.must(404, "GET", admin+"/jobs/unknown", "")
	s.must(404, "GET", admin+"/nothing", "")
	s.must(405, "DELETE", admin+"/dlq", "")
	s.must(415, "POST", admin+"/dlq/purge", `{}`, "Content-Type: text/plain")
	s.must(406, "GET", admin+"/status", "", "Accept: text/csv")
}

func TestOrdersReachTheAdmin(t *testing.T) {
	s := open(t)
	w := s.must(200, "POST", admin+"/dlq/replay", `{"subscription":"a","since":"2026-01-31T07:00:00Z","reason":"timeout","dryRun":true,"rate":5}`)
	if got := strings.TrimSpace(w.Body.String()); got != `{"count":1,"job":"j1"}` {
		t.Errorf("answer = %s", got)
	}
	if got := s.fake.selected[0]; got.Subscription != "a" || !got.DryRun || got.Rate != 5 || got.Since.IsZero() {
		t.Errorf("selection = %+v", got)
	}
	s.must(200, "POST", admin+"/resend", `{"resource":"Patient/p@3","subscription":"Subscription/s","interaction":"create","verbose":true}`)
	if got, want := s.fake.resent[0], (Resend{Key: fhir.Key{Type: "Patient", ID: "p"}, Version: 3, Subscription: "s", Interaction: "create", Verbose: true}); got != want {
		t.Errorf("resend = %+v", got)
	}
	s.must(200, "POST", admin+"/resend", `{"resource":"Patient/p","version":4}`)
	if got := s.fake.resent[1]; got.Version != 4 || got.Interaction != "update" {
		t.Errorf("resend = %+v", got)
	}
	w = s.must(200, "GET", admin+"/status", "")
	for _, want := range []string{`"warnings":[]`, `"logs":[]`, `"partitions":[]`, `"subscriptions":{}`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("status lacks %s: %s", want, w.Body)
		}
	}
	if w := s.must(200, "GET", admin+"/config", ""); w.Body.String() != `{"cluster":{"name":"c"}}` {
		t.Errorf("config = %s", w.Body)
	}
	var x Explanation
	w = s.must(200, "POST", admin+"/explain", `{"subscription":"s","body":{"resourceType":"Patient","id":"p"}}`)
	if err := json.Unmarshal(w.Body.Bytes(), &x); err != nil || !x.Matches || x.Conditions[0].Text != "gender=male" {
		t.Errorf("explain = %s", w.Body)
	}
}

func TestATokensSecretIsShownOnceAndKeptByNobody(t *testing.T) {
	s := open(t)
	w := s.must(201, "POST", admin+"/tokens", `{"name":"a","roles":["admin","reader","admin"]}`)
	if !strings.Contains(w.Body.String(), `"secret":"s3cret"`) || !strings.Contains(w.Body.String(), `"roles":["admin","reader"]`) || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("token = %s %v", w.Body, w.Header())
	}
	s = closed(t)
	s.fake.tokens = &fakeTokens{}
	s.must(204, "DELETE", admin+"/tokens/reader", "", "Authorization: Bearer admin")
	s.must(404, "DELETE", admin+"/tokens/unknown", "", "Authorization: Bearer admin")
}

func TestResendTakesMedplumsBodyParametersOrNone(t *testing.T) {
	want := Resend{Key: fhir.Key{Type: "Patient", ID: "p1"}, Interaction: "create", Subscription: "s", Verbose: true}
	s := open(t)
	w := s.must(200, "POST", "/fhir/Patient/p1/$resend", `{"verbose":true,"interaction":"create","subscription":"Subscription/s"}`)
	const ok = `{"resourceType":"OperationOutcome","id":"ok","issue":[{"severity":"information","code":"informational","details":{"text":"All OK"}}]}`
	if got := strings.TrimSpace(w.Body.String()); got != ok {
		t.Errorf("answer = %s, want what Medplum's page shows: %s", got, ok)
	}
	s.must(200, "POST", "/fhir/Patient/p1/$resend", `{"resourceType":"Parameters","parameter":[{"name":"verbose","valueBoolean":true},{"name":"interaction","valueCode":"create"},{"name":"subscription","valueReference":{"reference":"Subscription/s"}}]}`)
	for i, got := range s.fake.resent {
		if got != want {
			t.Errorf("resend %d = %+v", i, got)
		}
	}
	s.must(200, "POST", "/fhir/Patient/p1/$resend", "")
	if got := s.fake.resent[2]; got.Interaction != "update" || got.Subscription != "" {
		t.Errorf("resend = %+v", got)
	}
	for _, bad := range []string{`{"interaction":"banana"}`, `{"x":1}`, `[]`, `{"resourceType":"Parameters","parameter":[{"name":"x"}]}`, `{"subscription":"Patient/p"}`} {
		s.must(400, "POST", "/fhir/Patient/p1/$resend", bad)
	}
}

func TestExplainOfASubscriptionThatIsNotStored(t *testing.T) {
	s := open(t)
	const sub, pat = `{"resourceType":"Subscription","status":"active"}`, `{"resourceType":"Patient","id":"p"}`
	ask := func(parameters string) string {
		return `{"resourceType":"Parameters","parameter":[` + parameters + `]}`
	}
	const unsaved, body = `{"name":"subscription","resource":` + sub + `}`, `{"name":"resource","resource":` + pat + `}`
	s.must(200, "POST", "/fhir/Subscription/$explain", ask(unsaved+","+body))
	s.must(200, "POST", "/fhir/Subscription/$explain", ask(`{"name":"reference","valueReference":{"reference":"Patient/p1/_history/7"}},`+unsaved))
	s.must(200, "POST", admin+"/explain", `{"unsaved":`+sub+`,"resource":"Patient/p1@7"}`)
	for i, f := range s.fake.filters {
		q := f.(ExplainQuery)
		if string(q.Unsaved) != sub || q.Subscription != "" || i == 0 && string(q.Body) != pat || i > 0 && (q.Key.ID != "p1" || q.Version != 7) {
			t.Errorf("asked %+v", q)
		}
	}
	for _, test := range []struct {
		status     int
		parameters string
	}{
		{422, unsaved},
		{422, body},
		{422, unsaved + "," + body + `,{"name":"reference","valueString":"Patient/p1"}`},
		{422, `{"name":"subscription"},` + body},
		{400, `{"name":"subscription","resource":` + pat + `},` + body},
		{400, unsaved + `,{"name":"reference","valueString":"p1"}`},
		{400, unsaved + `,{"name":"colour","valueString":"blue"}`},
	} {
		s.must(test.status, "POST", "/fhir/Subscription/$explain", ask(test.parameters))
	}
	s.must(400, "POST", "/fhir/Subscription/$explain", sub)
	s.must(400, "POST", "/fhir/Subscription/$explain", `{`)
	s.must(400, "POST", admin+"/explain", `{"unsaved":`+sub+`,"subscription":"s","resource":"Patient/p1"}`)
	s.must(400, "POST", admin+"/explain", `{"resource":"Patient/p1"}`)
	s.must(400, "POST", admin+"/explain", `{"unsaved":`+pat+`,"resource":"Patient/p1"}`)
}

func TestExplainInFHIR(t *testing.T) {
	s := open(t)
	w := s.must(200, "GET", "/fhir/Subscription/s/$explain?resource=Patient/p1@7", "")
	if q := s.fake.filters[0].(ExplainQuery); q.Subscription != "s" || q.Key.ID != "p1" || q.Version != 7 {
		t.Errorf("query = %+v", q)
	}
	for _, want := range []string{`"resourceType":"Parameters"`, `{"name":"matches","valueBoolean":true}`, `"valueString":"Patient/p1/_history/7"`, `{"name":"met","valueBoolean":true}`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing in %s", want, w.Body)
		}
	}
	s.must(200, "POST", "/fhir/Subscription/s/$explain", patient)
	s.must(200, "POST", "/fhir/Subscription/s/$explain", `{"resourceType":"Parameters","parameter":[{"name":"resource","resource":`+patient+`}]}`)
	for _, q := range s.fake.filters[1:] {
		if string(q.(ExplainQuery).Body) != patient {
			t.Errorf("query = %+v", q)
		}
	}
	s.must(400, "GET", "/fhir/Subscription/s/$explain", "")
	s.must(400, "POST", "/fhir/Subscription/s/$explain?resource=Patient/p1", patient)
	s.must(400, "GET", "/fhir/Subscription/s/$explain?resource=p1", "")
	s.must(422, "POST", "/fhir/Subscription/s/$explain", `{"resourceType":"Parameters"}`)
	s.must(404, "GET", "/fhir/Patient/s/$explain?resource=Patient/p1", "")
}

func TestValidateSaysWhatWouldBeAccepted(t *testing.T) {
	body := `{"resourceType":"Subscription"}`
	s := open(t)
	if is := issue(t, s.must(200, "POST", "/fhir/Subscription/$validate", body)); is.Severity != "information" {
		t.Errorf("issue = %+v", is)
	}
	s.fake.validate = &fhir.Error{Issues: []fhir.Issue{{Type: fhir.IssueRequired, Expression: "Subscription.criteria", Diagnostics: "missing"}}}
	s.fake.warnings = []fhir.Issue{{Type: fhir.IssueProcessing, Diagnostics: "careful"}}
	w := s.must(200, "POST", "/fhir/Subscription/$validate", `{"resourceType":"Parameters","parameter":[{"name":"resource","resource":`+body+`}]}`)
	if o := outcomeIn(t, w.Body.Bytes()); len(o.Issue) != 2 || o.Issue[0].Severity != "error" || o.Issue[0].Expression[0] != "Subscription.criteria" || o.Issue[1].Severity != "warning" {
		t.Errorf("outcome = %s", w.Body)
	}
	s.must(400, "POST", "/fhir/Subscription/$validate", patient)
	s.must(400, "POST", "/fhir/Subscription/$validate", `{`)
	s.fake.validate = errors.New("fault")
	s.must(500, "POST", "/fhir/Subscription/$validate", body)
	s.fake.validate = fhir.Refuse(fhir.IssueTransient, "", "stopping")
	s.must(503, "POST", "/fhir/Subscription/$validate", body)
}

func TestReadinessTellsWhyAndWarns(t *testing.T) {
	var warnings []string
	var err error
	s := open(t, func(c *Config) {
		c.Ready = func(context.Context) ([]string, error) { return warnings, err }
	})
	if w := s.must(200, "GET", "/readyz", ""); strings.TrimSpace(w.Body.String()) != `{"ready":true,"warnings":[]}` {
		t.Errorf("ready = %s", w.Body)
	}
	warnings = []string{"under 10 % of disk left"}
	if w := s.must(200, "GET", "/readyz", "", "Accept: text/plain"); !strings.Contains(w.Body.String(), "10 %") {
		t.Errorf("ready = %s", w.Body)
	}
	err = errors.New("no quorum")
	if w := s.must(503, "GET", "/readyz", ""); !strings.Contains(w.Body.String(), `"reason":"no quorum"`) {
		t.Errorf("ready = %s", w.Body)
	}
	s.must(200, "HEAD", "/livez", "")
}
