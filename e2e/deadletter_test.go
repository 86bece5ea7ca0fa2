package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// config writes a configuration file for tests that need short waits between attempts.
func config(t *testing.T, yaml string) string {
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const shortRetries = "delivery:\n  retry:\n    attempts: 3\n    schedule: [300ms, 600ms]\n    jitter: 0\n"

// A failing endpoint sees exactly the attempts of the policy, not before their times, then
// one dead letter that a plain NATS subscriber and the command line see. A replay sends it
// again with its old number.
func TestAFailingEndpointGetsItsAttemptsThenOneDeadLetterThatCanBeReplayed(t *testing.T) {
	n := harness.NewNode(t, "--config", config(t, shortRetries)).Start()
	e := harness.NewEndpoint(t)
	e.Answer(func(harness.Arrival) int { return http.StatusServiceUnavailable })
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))

	nc, err := nats.Connect(n.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	letters, err := nc.SubscribeSync("fhir.dead.s")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One"))
	m, err := letters.NextMsg(30 * time.Second)
	if err != nil {
		t.Fatalf("no dead letter: %v", err)
	}
	got := e.Arrivals()
	if len(got) != 3 {
		t.Fatalf("%d attempts, want 3", len(got))
	}
	for i, wait := range []time.Duration{300 * time.Millisecond, 600 * time.Millisecond} {
		if got[i+1].Attempt != i+2 {
			t.Errorf("attempt %d calls itself %d", i+2, got[i+1].Attempt)
		}
		if d := got[i+1].At.Sub(got[i].At); d < wait {
			t.Errorf("attempt %d came after %s, before its time %s", i+2, d, wait)
		}
	}
	if id := got[0].Header.Get("webhook-id"); id == "" || id != got[2].Header.Get("webhook-id") {
		t.Errorf("webhook-id is %q on the first and %q on the last attempt", id, got[2].Header.Get("webhook-id"))
	}
	for k, want := range map[string]string{"Dead-Reason": "http_status", "Dead-Attempts": "3"} {
		if v := m.Header.Get(k); v != want {
			t.Errorf("header %s is %q, want %q", k, v, want)
		}
	}
	if !strings.Contains(string(m.Data), `"Patient"`) {
		t.Errorf("the dead letter does not hold the notification")
	}
	if m, err := letters.NextMsg(500 * time.Millisecond); err == nil {
		t.Errorf("a second dead letter: %v", m.Header)
	}

	out, stderr, code := n.CLI("dlq", "list", "-o", "json")
	var list []struct {
		ID, Reason string
		Attempts   int
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || len(list) != 1 {
		t.Fatalf("dlq list: %v, code %d\n%s%s", err, code, out, stderr)
	}
	if list[0].ID != "s.1" || list[0].Reason != "http_status" || list[0].Attempts != 3 {
		t.Errorf("dlq list says %+v", list[0])
	}

	e.Answer(func(harness.Arrival) int { return http.StatusOK })
	if _, stderr, code := n.CLI("dlq", "replay", "s.1"); code != 0 {
		t.Fatalf("dlq replay: code %d\n%s", code, stderr)
	}
	all := e.AwaitCount(t, 10*time.Second, 4)
	if a := all[3]; a.Number != 1 || a.Attempt != 1 || a.Header.Get("X-Carillon-Resend") != "true" {
		t.Errorf("replayed as event %d attempt %d resend %q", a.Number, a.Attempt, a.Header.Get("X-Carillon-Resend"))
	}
}

// The waits of the schedule go on over a crash: attempts that were made are not made again.
func TestAttemptsAndWaitsSurviveKillNine(t *testing.T) {
	n := harness.NewNode(t, "--config", config(t, "delivery:\n  retry:\n    attempts: 2\n    schedule: [2s]\n    jitter: 0\n")).Start()
	e := harness.NewEndpoint(t)
	e.Answer(func(harness.Arrival) int { return http.StatusServiceUnavailable })
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One"))
	// The attempt counts when its outcome is in the log; attempts shows it from there.
	awaitAttempts(t, n, 1)
	n.Kill()
	n.Start()
	got := e.AwaitCount(t, 30*time.Second, 2)
	if got[1].Attempt != 2 {
		t.Errorf("after the crash came attempt %d, want 2", got[1].Attempt)
	}
	if d := got[1].At.Sub(got[0].At); d < 2*time.Second {
		t.Errorf("attempt 2 came after %s, before its time", d)
	}
	awaitAttempts(t, n, 2)
	if out, _, _ := n.CLI("dlq", "list", "-o", "json"); !strings.Contains(out, `"s.1"`) {
		t.Errorf("no dead letter after the last attempt: %s", out)
	}
	if got := e.Arrivals(); len(got) != 2 {
		t.Errorf("%d attempts, want 2", len(got))
	}
}

// awaitAttempts asks the command line until it lists n attempts.
func awaitAttempts(t *testing.T, n *harness.Node, want int) {
	t.Helper()
	var out string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		out, _, _ = n.CLI("attempts", "-o", "json")
		var list []json.RawMessage
		if json.Unmarshal([]byte(out), &list) == nil && len(list) >= want {
			return
		}
	}
	t.Fatalf("never saw %d attempts:\n%s", want, out)
}

// A dead endpoint keeps its own notifications waiting and nobody else's.
func TestADeadEndpointHurtsNobodyElse(t *testing.T) {
	n := harness.NewNode(t).Start()
	dead, healthy := harness.NewEndpoint(t), harness.NewEndpoint(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	dead.Answer(func(harness.Arrival) int { <-release; return http.StatusOK })
	n.MustDo(201, "PUT", "/fhir/Subscription/dead", subscription("dead", "Patient?", dead.URL))
	n.MustDo(201, "PUT", "/fhir/Subscription/healthy", subscription("healthy", "Patient?", healthy.URL))
	for i := range 100 {
		id := "p" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		n.MustDo(201, "PUT", "/fhir/Patient/"+id, patient(id, "One"))
	}
	healthy.AwaitCount(t, 10*time.Second, 100) // while the dead one has not answered once
}

// 410 Gone switches the Subscription off, with the reason kept.
func TestGoneTurnsTheSubscriptionOff(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	e.Answer(func(harness.Arrival) int { return http.StatusGone })
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One"))
	e.AwaitCount(t, 10*time.Second, 1)
	var body string
	for deadline := time.Now().Add(20 * time.Second); ; {
		body = string(n.MustDo(200, "GET", "/fhir/Subscription/s", "").Body)
		if strings.Contains(body, `"off"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not off: %s", body)
		}
	}
	if !strings.Contains(body, "410") {
		t.Errorf("the reason is not kept: %s", body)
	}
}

// Purged letters are gone from the list and from the log, and a node without them starts, also
// when its projection is made again.
func TestANodeStartsAfterDeadLettersWerePurged(t *testing.T) {
	n := harness.NewNode(t, "--config", config(t, "delivery:\n  retry:\n    attempts: 1\n")).Start()
	e := harness.NewEndpoint(t)
	e.Answer(func(harness.Arrival) int { return http.StatusServiceUnavailable })
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	for _, id := range []string{"a", "b", "c"} {
		n.MustDo(201, "PUT", "/fhir/Patient/"+id, patient(id, "canary"+id))
		awaitAttempts(t, n, int(id[0]-'a')+1)
	}
	for _, purged := range []string{"s.1", "s.3"} { // the first of the log, and the last
		if out, stderr, code := n.CLI("dlq", "purge", purged); code != 0 {
			t.Fatalf("purge %s: code %d\n%s%s", purged, code, out, stderr)
		}
	}
	n.Args = append(n.Args, "--rebuild")
	n.Kill()
	n.Start()
	out, _, _ := n.CLI("dlq", "list", "-o", "json")
	if !strings.Contains(out, `"s.2"`) || strings.Contains(out, `"s.1"`) || strings.Contains(out, `"s.3"`) {
		t.Errorf("dlq list: %s", out)
	}
	e.Answer(func(harness.Arrival) int { return http.StatusOK })
	if out, stderr, code := n.CLI("dlq", "replay", "s.2"); code != 0 {
		t.Fatalf("replay: code %d\n%s%s", code, out, stderr)
	}
	e.AwaitCount(t, 10*time.Second, 4)
	if _, _, code := n.CLI("dlq", "replay", "--subscription", "nosuch"); code != 3 {
		t.Errorf("replay of an unknown Subscription ends with %d, want 3", code)
	}
	n.MustDo(204, "DELETE", "/fhir/Subscription/s", "")
	if _, stderr, code := n.CLI("dlq", "replay", "s.2"); code == 0 || !strings.Contains(stderr, "deleted") {
		t.Errorf("replay for a deleted Subscription: code %d, %s", code, stderr)
	}
}
