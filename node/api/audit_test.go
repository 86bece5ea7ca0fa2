package api

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func TestEveryRouteThatChangesSomethingIsToldOf(t *testing.T) {
	exempt := append(slices.Clone(unchanging), "POST /fhir", "POST /fhir/$feed", "POST /fhir/$ingest") // of these the Backend tells
	for pattern := range policy {
		method, _, _ := strings.Cut(pattern, " ")
		_, order := auditedRoutes[pattern]
		_, write := writesOf[pattern]
		if method == "GET" && (order || write) {
			t.Errorf("%s reads, and is told of", pattern)
		}
		if method != "GET" && !order && !write && !slices.Contains(exempt, pattern) {
			t.Errorf("%s leaves no AuditEvent: it needs a line in auditedRoutes, or in unchanging", pattern)
		}
	}
}

func TestOrdersAreToldOfBeforeTheyAreAnswered(t *testing.T) {
	var told []Audit
	s := open(t, func(c *Config) {
		c.Tokens = &fakeTokens{}
		c.Audit = func(_ context.Context, a Audit) { told = append(told, a) }
	})
	one := func(status int, token, method, path, body string) *Audit {
		t.Helper()
		told = nil
		s.must(status, method, path, body, "Authorization: Bearer "+token)
		if len(told) > 1 {
			t.Errorf("%s %s is told of %d times", method, path, len(told))
		}
		if len(told) == 0 {
			return nil
		}
		return &told[0]
	}
	for _, c := range []struct {
		status                    int
		token, method, path, body string
		want                      string // operation, outcome, entities
	}{
		{200, "operator", "POST", "/admin/api/v1/subscriptions/a/pause", "", "pause 0 Subscription/a"},
		{200, "operator", "POST", "/admin/api/v1/dlq/replay", `{"ids":["a.1","b.2"]}`, "replay 0 dead letter a.1,dead letter b.2"},
		{200, "operator", "POST", "/admin/api/v1/dlq/replay", `{"subscription":"a","dryRun":true}`, ""},
		{403, "operator", "POST", "/admin/api/v1/dlq/purge", `{"subscription":"a"}`, "purge 8 "},
		{400, "admin", "POST", "/admin/api/v1/dlq/purge", `{}`, ""},
		{404, "admin", "DELETE", "/admin/api/v1/tokens/unknown", "", ""},
		{204, "admin", "DELETE", "/admin/api/v1/tokens/t1", "", "revoke-token 0 token t1"},
		{200, "admin", "POST", "/fhir/Patient/p/$resend", `{"subscription":"Subscription/a"}`, "resend 0 Patient/p,Subscription/a"},
		{403, "reader", "POST", "/fhir/Patient/p/$resend", "", "resend 8 Patient/p"},
		{200, "admin", "POST", "/admin/api/v1/subscriptions/a/test", `{"resource":"Patient/p"}`, "test 0 Subscription/a,Patient/p"},
		{403, "reader", "PUT", "/fhir/Subscription/a", `{}`, "update 8 Subscription/a"},
		{403, "reader", "PUT", "/fhir/Patient/a", `{}`, ""},
		{200, "operator", "GET", "/admin/api/v1/subscriptions", "", ""},
		{401, "nobody", "POST", "/admin/api/v1/subscriptions/a/pause", "", ""},
	} {
		got := ""
		if a := one(c.status, c.token, c.method, c.path, c.body); a != nil {
			got = a.Operation + " " + a.Outcome + " " + strings.Join(a.Entities, ",")
			if a.Agent != "t-"+c.token {
				t.Errorf("%s %s is told of %q", c.method, c.path, a.Agent)
			}
		}
		if got != c.want {
			t.Errorf("%s %s %s: told %q, want %q", c.method, c.path, c.body, got, c.want)
		}
	}
	s.fake.validate = fhir.Refuse(fhir.IssueValue, "Subscription.criteria", "no")
	if a := one(422, "subscriber", "PUT", "/fhir/Subscription/a", `{"resourceType":"Subscription","id":"a"}`); a == nil || a.Outcome != "4" {
		t.Errorf("a refused Subscription is told as %+v", a)
	}
}

func TestIsAttempt(t *testing.T) {
	for key, want := range map[string]bool{
		"AuditEvent/attempt.1.0": true, "AuditEvent/attempt.1": false, "AuditEvent/attempt.1.x": false, "AuditEvent/attempt..": false,
		"AuditEvent/a": false, "Patient/attempt.1.0": false,
	} {
		k, err := fhir.ParseKey(key)
		if err != nil || IsAttempt(k) != want {
			t.Errorf("%s: %v, %v", key, IsAttempt(k), err)
		}
	}
}

func TestValidateTellsWhatMeansSomethingElse(t *testing.T) {
	s := open(t, func(c *Config) {
		c.Notes = func(_ []byte, from fhir.Origin) []fhir.Issue {
			return []fhir.Issue{{Type: fhir.IssueInformational, Diagnostics: "from " + string(from)}}
		}
	})
	body := `{"resourceType":"Subscription","status":"active","criteria":"Patient?"}`
	w := s.must(200, "POST", "/fhir/Subscription/$validate?from=hapi", body)
	o := outcomeIn(t, w.Body.Bytes())
	if len(o.Issue) != 2 || o.Issue[1].Severity != "information" || o.Issue[1].Diagnostics != "from hapi" {
		t.Errorf("it says %+v", o)
	}
	s.must(400, "POST", "/fhir/Subscription/$validate?from=other", body)
}
