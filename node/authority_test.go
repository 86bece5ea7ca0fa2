package node

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
)

// as makes a request with a token and wants a status.
func (r *running) as(secret string, status int, method, path, body string, into any) {
	r.t.Helper()
	header := []string{"Authorization: Bearer " + secret}
	if strings.HasPrefix(path, "/admin") && body != "" {
		header = append(header, "Content-Type: application/json")
	}
	got, text := r.send(method, path, body, header...)
	if got != status {
		r.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, status, text)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			r.t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
}

// awaitAs asks with a token until an answer is as it should be.
func awaitAs[T any](r *running, secret, what, path string, ok func(T) bool) T {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var got T
		r.as(secret, 200, "GET", path, "", &got)
		if ok(got) {
			return got
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waiting for %s: %+v", what, got)
		}
	}
}

func (r *running) token(admin, name string, roles ...string) api.TokenInfo {
	r.t.Helper()
	var t api.TokenInfo
	body := string(record.Encode(map[string]any{"name": name, "roles": roles}))
	if admin == "" {
		r.do(201, "POST", "/admin/api/v1/tokens", body, &t)
	} else {
		r.as(admin, 201, "POST", "/admin/api/v1/tokens", body, &t)
	}
	return t
}

func TestRevokingATokenSwitchesItsSubscriptionsOffAndSkipsWhatIsPending(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.Delivery.Retry.Schedule.Waits = []time.Duration{time.Hour}
	r := runNode(t, cfg)
	admin := r.token("", "root", "admin")
	mine := r.token(admin.Secret, "lab", "subscriber")
	r.as(mine.Secret, 201, "PUT", "/fhir/Subscription/mine", subscriptionTo("mine", "Patient?", endpoint(t, 503)), nil)
	r.as(admin.Secret, 201, "PUT", "/fhir/Subscription/other", subscriptionTo("other", "Patient?", endpoint(t, 200)), nil)
	r.as(admin.Secret, 201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	awaitAs(r, admin.Secret, "a failed attempt", "/admin/api/v1/attempts?subscription=mine", func(as []api.Attempt) bool { return len(as) == 1 })

	r.as(admin.Secret, 204, "DELETE", "/admin/api/v1/tokens/lab", "", nil)
	isOff := func(s api.SubscriptionStatus) bool { return s.Status == "off" && s.Pending == 0 }
	st := awaitAs(r, admin.Secret, "its end", "/admin/api/v1/subscriptions/mine", isOff)
	if !strings.Contains(st.Reason, "the API token "+mine.ID+", which owns the Subscription, was revoked") || st.Owner != revokedPrefix+mine.ID {
		t.Errorf("it is %+v", st)
	}
	events := func(r *running, state string) {
		t.Helper()
		awaitAs(r, admin.Secret, state, "/admin/api/v1/subscriptions/mine/events", func(es []api.SubscriptionEvent) bool { return len(es) == 1 && es[0].State == state })
	}
	events(r, "skipped")
	var other api.SubscriptionStatus
	r.as(admin.Secret, 200, "GET", "/admin/api/v1/subscriptions/other", "", &other)
	if other.Status != "active" || other.Owner != admin.ID {
		t.Errorf("the administrator's is %+v", other)
	}

	// A restart changes nothing of it.
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, cfg)
	events(again, "skipped")
	awaitAs(again, admin.Secret, "off", "/admin/api/v1/subscriptions/mine", isOff)

	// An administrator switches it on again, owns it, and it stays on.
	again.as(admin.Secret, 200, "PUT", "/fhir/Subscription/mine", subscriptionTo("mine", "Patient?", endpoint(t, 200)), nil)
	again.as(admin.Secret, 201, "PUT", "/fhir/Patient/q", `{"resourceType":"Patient","id":"q"}`, nil)
	awaitAs(again, admin.Secret, "what is new is sent", "/admin/api/v1/attempts?subscription=mine&status=accepted", func(as []api.Attempt) bool { return len(as) == 1 })
	var on api.SubscriptionStatus
	again.as(admin.Secret, 200, "GET", "/admin/api/v1/subscriptions/mine", "", &on)
	if on.Status != "active" || on.Owner != admin.ID || on.Events != 2 {
		t.Errorf("switched on it is %+v", on)
	}
}

// A node that ends between the revocation and what follows from it does that when it starts.
func TestARevocationIsFollowedAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := runNode(t, testConfig(dir))
	admin := r.token("", "root", "admin")
	_, err := r.gate.Write(t.Context(), api.Write{
		Key: fhir.Key{Type: "Subscription", ID: "mine"}, Owner: "revoked1",
		Body: []byte(subscriptionTo("mine", "Patient?", endpoint(t, 200))),
	})
	if err := errors.Join(err, r.wait()); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, testConfig(dir))
	awaitAs(again, admin.Secret, "off", "/admin/api/v1/subscriptions/mine", func(s api.SubscriptionStatus) bool { return s.Status == "off" })
}

func TestASubscriptionOfAnIdThatWasUsedBeforeIsBornAnew(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.Delivery.Retry.Attempts = 1
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", endpoint(t, 500)), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	r.await("the dead letter", "/admin/api/v1/status", func(s map[string]any) bool { return s["dead"] == 1.0 })
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/pause", "", nil)
	r.do(201, "PUT", "/fhir/Patient/q", `{"resourceType":"Patient","id":"q"}`, nil)
	r.await("what waits", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["pending"] == 1.0 })
	r.do(204, "DELETE", "/fhir/Subscription/s", "", nil)
	r.await("its withdrawal", "/admin/api/v1/status", func(s map[string]any) bool { return s["pending"] == 0.0 && s["dead"] == 1.0 })

	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", endpoint(t, 200)), nil)
	r.do(201, "PUT", "/fhir/Patient/n", `{"resourceType":"Patient","id":"n"}`, nil)
	check := func(r *running) {
		t.Helper()
		var es []api.SubscriptionEvent
		for deadline := time.Now().Add(30 * time.Second); len(es) != 1 || es[0].State != "accepted"; time.Sleep(10 * time.Millisecond) {
			r.do(200, "GET", "/admin/api/v1/subscriptions/s/events", "", &es)
			if time.Now().After(deadline) {
				t.Fatalf("its events are %+v", es)
			}
		}
		var st api.SubscriptionStatus
		r.do(200, "GET", "/admin/api/v1/subscriptions/s", "", &st)
		if es[0].Number != 1 || es[0].Resource != "Patient/n" || st.Events != 1 || st.Paused || st.Pending != 0 {
			t.Errorf("born anew it is %+v with %+v", st, es)
		}
		var dead []api.DeadLetter
		r.do(200, "GET", "/admin/api/v1/dlq", "", &dead)
		if len(dead) != 1 || dead[0].Resource != "Patient/p" {
			t.Errorf("the dead letters are %+v", dead)
		}
	}
	check(r)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	check(runNode(t, cfg))
}

func TestWhoDidWhatIsTold(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	admin := r.token("", "root", "admin")
	lab := r.token(admin.Secret, "lab", "subscriber")
	r.as(lab.Secret, 201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "AuditEvent?type=rest", endpoint(t, 200)), nil)
	r.as(lab.Secret, 200, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "AuditEvent?", endpoint(t, 200)), nil)
	r.as(lab.Secret, 200, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "AuditEvent?", endpoint(t, 200)), nil) // it changes something: the endpoint
	r.as(admin.Secret, 200, "POST", "/admin/api/v1/subscriptions/s/pause", "", nil)
	r.as(admin.Secret, 200, "POST", "/admin/api/v1/subscriptions/s/resume", "", nil)
	r.as(admin.Secret, 200, "POST", "/admin/api/v1/dlq/purge", `{"subscription":"s","dryRun":true}`, nil)
	r.as(admin.Secret, 200, "POST", "/admin/api/v1/dlq/purge", `{"subscription":"s"}`, nil)
	r.as(lab.Secret, 403, "POST", "/admin/api/v1/dlq/purge", `{"subscription":"s"}`, nil)
	r.as(lab.Secret, 422, "PUT", "/fhir/Subscription/t", subscriptionTo("t", "Nothing?", endpoint(t, 200)), nil)
	r.as(lab.Secret, 204, "DELETE", "/fhir/Subscription/s", "", nil)
	r.as(admin.Secret, 204, "DELETE", "/admin/api/v1/tokens/lab", "", nil)

	var b bundleOf
	r.as(admin.Secret, 200, "GET", "/fhir/AuditEvent?type=rest&_count=100", "", &b)
	var got []string
	for _, e := range b.Entry {
		var a auditOf
		if err := json.Unmarshal(e.Resource, &a); err != nil {
			t.Fatal(err)
		}
		about := ""
		for _, n := range a.Entity {
			about += n.What.Reference + n.Name
		}
		got = append(got, strings.Join([]string{a.Agent[0].Name, a.Action, a.Subtype[0].Code, about, a.Outcome}, " "))
		for _, secret := range []string{admin.Secret, lab.Secret} {
			if strings.Contains(string(e.Resource), secret) {
				t.Error("an AuditEvent holds a secret")
			}
		}
	}
	slices.Reverse(got)
	want := []string{
		"without login C create-token token root 0",
		"root C create-token token lab 0",
		"lab C create Subscription/s 0",
		"lab U update Subscription/s 0",
		"lab U update Subscription/s 0",
		"root U pause Subscription/s 0",
		"root U resume Subscription/s 0",
		"root D purge Subscription/s 0",
		"lab D purge  8",
		"lab U update Subscription/t 4",
		"lab D delete Subscription/s 0",
		"root D revoke-token token lab 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("told was\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A Subscription about AuditEvents hears of orders and not of attempts, its own included.
func TestASubscriptionAboutAuditEventsDoesNotFeedItself(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/siem", subscriptionTo("siem", "AuditEvent?", endpoint(t, 200)), nil)
	r.do(201, "PUT", "/fhir/Subscription/gone", subscriptionTo("gone", "AuditEvent?", endpoint(t, 410)), nil)
	r.await("the end of gone", "/admin/api/v1/subscriptions/gone", func(s map[string]any) bool { return s["status"] == "off" })
	// Heard: the creation of gone, perhaps its own, and that gone was switched off.
	r.do(200, "POST", "/admin/api/v1/subscriptions/siem/pause", "", nil)
	r.do(200, "POST", "/admin/api/v1/subscriptions/siem/resume", "", nil)
	r.await("all that it heard", "/admin/api/v1/subscriptions/siem", func(s map[string]any) bool {
		return s["pending"] == 0.0 && s["events"].(float64) >= 4
	})
	var es []api.SubscriptionEvent
	r.do(200, "GET", "/admin/api/v1/subscriptions/siem/events", "", &es)
	all, _ := r.audits("?type=rest&_count=100")
	if len(es) > len(all) || len(all) != 5 {
		t.Errorf("%d AuditEvents are stored, and it heard %d", len(all), len(es))
	}
}
