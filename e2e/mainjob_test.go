package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// The promise of the product in one test: what matches arrives, whole and as it was written;
// what does not match stays away.
func TestAMatchingChangeArrivesAtTheEndpointAndNothingElseDoes(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/windsor", subscription("windsor", "Patient?family=Windsor", e.URL+"/base"))

	n.MustDo(201, "PUT", "/fhir/Patient/other", patient("other", "Chalmers"))
	a := n.MustDo(201, "PUT", "/fhir/Patient/ada", patient("ada", "Windsor"))
	got := e.AwaitCount(t, 10*time.Second, 1)[0]

	if got.Method != "PUT" || got.Path != "/base/Patient/ada" {
		t.Errorf("arrived as %s %s, want PUT /base/Patient/ada", got.Method, got.Path)
	}
	if ct := got.Header.Get("Content-Type"); ct != "application/fhir+json" {
		t.Errorf("Content-Type %q", ct)
	}
	var body struct {
		ID   string
		Meta struct{ VersionID string }
		Name []struct{ Family string }
	}
	if err := json.Unmarshal(got.Body, &body); err != nil {
		t.Fatal(err)
	}
	if body.ID != "ada" || body.Name[0].Family != "Windsor" {
		t.Errorf("body %s", got.Body)
	}
	if etag := a.Header.Get("ETag"); etag != `W/"`+body.Meta.VersionID+`"` {
		t.Errorf("the notification's version %q is not the acknowledged one %s", body.Meta.VersionID, etag)
	}
	if got.Number != 1 || got.Attempt != 1 {
		t.Errorf("event %d attempt %d, want 1 and 1", got.Number, got.Attempt)
	}

	// A later match proves that the ones before it in the log were decided: had "other" or the
	// unchanged write made a notification, it would have come before.
	n.MustDo(200, "PUT", "/fhir/Patient/ada", patient("ada", "Windsor"))
	n.MustDo(201, "PUT", "/fhir/Patient/last", patient("last", "Windsor"))
	all := e.AwaitCount(t, 10*time.Second, 2)
	if len(all) != 2 || all[1].Path != "/base/Patient/last" || all[1].Number != 2 {
		t.Errorf("arrived: %d, the second %s with number %d", len(all), all[1].Path, all[1].Number)
	}
}

// Every Subscription of a bad form is refused when it is written, with what is wrong and where.
func TestABadSubscriptionIsRefusedWithTheElementThatIsWrong(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	good := subscription("s", "Patient?family=a", e.URL)
	for _, c := range []struct{ name, body, says string }{
		{"unknown parameter", strings.Replace(good, "family=a", "famly=a", 1), "famly"},
		{"unknown type", strings.Replace(good, "Patient?family=a", "Patent?family=a", 1), "Patent"},
		{"unknown modifier", strings.Replace(good, "family=a", "family:sounds=a", 1), "sounds"},
		{"no status", strings.Replace(good, `"status":"requested",`, "", 1), "Subscription.status"},
		{"no endpoint", strings.Replace(good, `"endpoint":"`+e.URL+`",`, "", 1), "Subscription.channel.endpoint"},
		{"channel this build has not", strings.Replace(good, "rest-hook", "carrier-pigeon", 1), "this build has"},
		{"header without colon", strings.Replace(good, `"payload"`, `"header":["nonsense"],"payload"`, 1), "Subscription.channel.header"},
		{"end in the past", strings.Replace(good, `"reason"`, `"end":"2001-01-01T00:00:00Z","reason"`, 1), "Subscription.end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := n.MustDo(http.StatusUnprocessableEntity, "PUT", "/fhir/Subscription/s", c.body)
			if !strings.Contains(string(a.Body), c.says) || !strings.Contains(string(a.Body), `"OperationOutcome"`) {
				t.Errorf("the answer does not say %q:\n%s", c.says, a.Body)
			}
		})
	}
	n.MustDo(404, "GET", "/fhir/Subscription/s", "")
}

// A Subscription goes live by itself, as a second version that the server wrote.
func TestARequestedSubscriptionIsActiveAsItsSecondVersion(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	a := n.MustDo(200, "GET", "/fhir/Subscription/s", "")
	if !strings.Contains(string(a.Body), `"active"`) {
		t.Errorf("not active: %s", a.Body)
	}
	var h struct {
		Entry []struct{ Resource struct{ Status string } }
	}
	if err := json.Unmarshal(n.MustDo(200, "GET", "/fhir/Subscription/s/_history", "").Body, &h); err != nil {
		t.Fatal(err)
	}
	if len(h.Entry) != 2 || h.Entry[0].Resource.Status != "active" || h.Entry[1].Resource.Status != "requested" {
		t.Errorf("history %+v", h.Entry)
	}
}

// explain answers by its exit code, condition by condition, also for a Subscription that is off.
func TestExplainTellsWhyConditionByCondition(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	sub := subscription("s", "Patient?family=One&active=true", e.URL)
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One")) // before the Subscription
	n.MustDo(201, "PUT", "/fhir/Subscription/s", sub)
	inactive := n.MustDo(200, "PUT", "/fhir/Patient/a", strings.Replace(patient("a", "One"), `true`, `false`, 1))
	n.MustDo(200, "PUT", "/fhir/Patient/a", patient("a", "One"))
	e.AwaitCount(t, 10*time.Second, 1)
	explain := func(code int, says string, args ...string) {
		t.Helper()
		out, stderr, got := n.CLI(append([]string{"explain", "--subscription"}, args...)...)
		if got != code || !strings.Contains(out+stderr, says) {
			t.Errorf("explain %v: code %d, want %d with %q\n%s%s", args, got, code, says, out, stderr)
		}
	}
	explain(0, "family=One", "s", "Patient/a")
	explain(1, "active=true", "s", "Patient/a@"+version(inactive.Header.Get("ETag")))
	explain(3, "unknown", "unknown", "Patient/a")
	explain(3, "Patient/none", "s", "Patient/none")
	n.MustDo(200, "PUT", "/fhir/Subscription/s", strings.Replace(sub, "requested", "off", 1))
	n.MustDo(200, "PUT", "/fhir/Patient/a", strings.Replace(patient("a", "One"), `"id"`, `"gender":"female","id"`, 1))
	explain(1, "in force", "s", "Patient/a")
}

// Numbers, queue and history go on over a clean restart, and a Subscription put again with
// the same meaning changes nothing.
func TestARestartChangesNothing(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One"))
	e.AwaitCount(t, 10*time.Second, 1)
	if code := n.Stop(); code != 0 {
		t.Fatalf("a drained node ends with %d", code)
	}
	n.Start()
	n.MustDo(200, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	n.MustDo(200, "PUT", "/fhir/Patient/a", patient("a", "Two"))
	got := e.AwaitCount(t, 10*time.Second, 2)
	if len(got) != 2 || got[1].Number != 2 {
		t.Errorf("%d arrived, the last with number %d; want 2 and 2", len(got), got[len(got)-1].Number)
	}
}

// One endpoint is down while another gets its notifications, and a deleted Subscription gets
// no more.
func TestADeletedSubscriptionGetsNothingMore(t *testing.T) {
	n := harness.NewNode(t).Start()
	gone, stays := harness.NewEndpoint(t), harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/gone", subscription("gone", "Patient?", gone.URL))
	n.MustDo(201, "PUT", "/fhir/Subscription/stays", subscription("stays", "Patient?", stays.URL))
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One"))
	gone.AwaitCount(t, 10*time.Second, 1)
	if a, err := n.Do(t.Context(), "DELETE", "/fhir/Subscription/gone", nil); err != nil || a.Status/100 != 2 {
		t.Fatalf("delete: %v %d", err, a.Status)
	}
	n.MustDo(410, "GET", "/fhir/Subscription/gone", "")
	n.MustDo(200, "PUT", "/fhir/Patient/a", patient("a", "Two"))
	stays.AwaitCount(t, 10*time.Second, 2)
	if got := gone.Arrivals(); len(got) != 1 {
		t.Errorf("%d notifications to the deleted Subscription, want the 1 from before", len(got))
	}
}
