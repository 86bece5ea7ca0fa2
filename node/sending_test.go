package node

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/node/api"
)

func TestAllSendingStaysStoppedUntilItIsStartedRestartsIncluded(t *testing.T) {
	var arrived atomic.Int64
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer sink.Close()
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", sink.URL), nil)
	r.do(201, "PUT", "/fhir/Patient/before", `{"resourceType":"Patient","id":"before"}`, nil)
	r.await("the first notification", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["events"] == 1.0 && s["pending"] == 0.0 })

	var d api.Delivery
	for range 2 { // the second time changes nothing
		r.do(200, "POST", "/admin/api/v1/delivery/stop", `{"reason":"the lab moves"}`, &d)
		if !d.Stopped || d.Reason != "the lab moves" || d.Since.IsZero() {
			t.Fatalf("delivery is %+v", d)
		}
	}
	since := d.Since
	for i := range 5 {
		r.do(201, "PUT", fmt.Sprintf("/fhir/Patient/p%d", i), fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, i), nil)
	}
	matched := func(s map[string]any) bool {
		return s["pending"] == 5.0 && s["sending"] == "stopped" && s["status"] == "active"
	}
	r.await("the matches", "/admin/api/v1/subscriptions/s", matched)
	var ready struct {
		Ready    bool
		Warnings []string
	}
	r.do(200, "GET", "/readyz", "", &ready)
	if !ready.Ready || !strings.Contains(strings.Join(ready.Warnings, ";"), "all sending is stopped") {
		t.Errorf("readyz says %+v", ready)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}

	again := runNode(t, cfg)
	again.await("the matches", "/admin/api/v1/subscriptions/s", matched)
	var st api.Status
	again.do(200, "GET", "/admin/api/v1/status", "", &st)
	if !st.Sending.Stopped || st.Sending.Reason != "the lab moves" || !st.Sending.Since.Equal(since) {
		t.Errorf("after the restart sending is %+v", st.Sending)
	}
	if n := arrived.Load(); n != 1 {
		t.Errorf("%d arrived while all sending was stopped", n-1)
	}
	again.do(200, "POST", "/admin/api/v1/delivery/start", "", &d)
	again.await("what has waited", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["pending"] == 0.0 })
	if n := arrived.Load(); n != 6 || d.Stopped {
		t.Errorf("%d arrived, delivery is %+v", n, d)
	}
	var as []api.Attempt
	again.do(200, "GET", "/admin/api/v1/attempts?subscription=s", "", &as)
	if len(as) != 6 {
		t.Errorf("%d attempts for 6 notifications: a stop spends none", len(as))
	}
}

func TestABreakerIsShownAndResetByOperators(t *testing.T) {
	var well atomic.Bool
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !well.Load() {
			w.WriteHeader(503)
		}
	}))
	defer sink.Close()
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Breaker.Failures, cfg.Delivery.Breaker.After, cfg.Delivery.Breaker.Open = 3, 0, cfg.Delivery.Breaker.Window
	cfg.Delivery.Retry.Attempts = 0
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", sink.URL), nil)
	for i := range 8 {
		r.do(201, "PUT", fmt.Sprintf("/fhir/Patient/p%d", i), fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, i), nil)
	}
	r.await("the breaker", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool {
		e, is := s["lastError"].(map[string]any)
		return s["sending"] == "breaker open" && is && e["outcome"] == "http_status"
	})
	var d api.Delivery
	r.do(200, "GET", "/admin/api/v1/delivery", "", &d)
	name := deliver.EndpointName(sink.URL)
	if d.OpenBreakers != 1 || len(d.Endpoints) != 1 || d.Endpoints[0].Endpoint != name || d.Endpoints[0].Breaker != "open" || d.Endpoints[0].NextTry.IsZero() {
		t.Errorf("delivery is %+v", d)
	}
	r.await("the note of what waits", "/admin/api/v1/status", func(map[string]any) bool {
		var as []api.Attempt
		r.do(200, "GET", "/admin/api/v1/attempts?subscription=s&status=breaker_open", "", &as)
		return len(as) == 1
	})
	r.do(404, "POST", "/admin/api/v1/delivery/reset", `{"endpoint":"https://nobody.example"}`, nil)
	r.do(400, "POST", "/admin/api/v1/delivery/reset", `{}`, nil)
	well.Store(true)
	r.do(200, "POST", "/admin/api/v1/delivery/reset", `{"endpoint":"`+name+`"}`, &d)
	if d.OpenBreakers != 0 {
		t.Errorf("after the reset %+v", d)
	}
	// What was not tried yet goes at once; what failed waits for its next attempt.
	r.await("what has waited", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["pending"].(float64) <= 5 && s["sending"] == nil })
}

func TestAReceiverTurnsItsSubscriptionOff(t *testing.T) {
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("webhook-delivery", "disable")
	}))
	defer sink.Close()
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", sink.URL), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	r.await("the end of the Subscription", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool {
		reason, _ := s["reason"].(string)
		return s["status"] == "off" && strings.Contains(reason, "the receiver asked for it")
	})
}

// TestAFloodToADeadEndpointOnARunningNode is what deliver's floods are, smaller, with the logs and
// the store of a node: all are delivered or dead, a second Subscription gets its own meanwhile, and
// one replay delivers the rest.
func TestAFloodToADeadEndpointOnARunningNode(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	const events = 3000
	var well atomic.Bool
	var healthy atomic.Int64
	var mu sync.Mutex
	versions := map[string]int{} // newest arrival of each resource
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !well.Load() {
			w.WriteHeader(503)
			return
		}
		var p struct {
			ID   string
			Meta struct{ VersionID string }
		}
		body, _ := io.ReadAll(r.Body)
		v := 0
		if json.Unmarshal(body, &p) == nil {
			v, _ = strconv.Atoi(p.Meta.VersionID)
		}
		mu.Lock()
		defer mu.Unlock()
		if v < versions[p.ID] {
			t.Errorf("version %d of %s came after %d", v, p.ID, versions[p.ID])
		}
		versions[p.ID] = v
	}))
	defer sink.Close()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { healthy.Add(1) }))
	defer other.Close()
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Schedule.Waits = []time.Duration{50 * time.Millisecond, time.Second}
	cfg.Delivery.Breaker.Failures, cfg.Delivery.Breaker.After, cfg.Delivery.Breaker.Open = 1000, 0, 500*time.Millisecond
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/dead", subscriptionTo("dead", "Patient?", sink.URL), nil)
	r.do(201, "PUT", "/fhir/Subscription/other", subscriptionTo("other", "Patient?", other.URL), nil)
	var lines strings.Builder
	for i := range events {
		fmt.Fprintf(&lines, `{"resourceType":"Patient","id":"p%d","birthDate":"%04d-01-01"}`+"\n", i%100, 1000+i)
	}
	r.ingest(lines.String())
	r.await("the other Subscription's", "/admin/api/v1/subscriptions/other", func(s map[string]any) bool {
		return s["pending"] == 0.0 && s["events"] == float64(events)
	})
	if n := healthy.Load(); n < events {
		t.Errorf("the other endpoint received %d of %d", n, events)
	}
	r.await("a dead letter", "/admin/api/v1/subscriptions/dead", func(s map[string]any) bool { return s["dead"].(float64) > 0 })
	for name, l := range r.lanes {
		if st := l.Status(); st.Loaded > 4096+256 {
			t.Errorf("lane %s has %d matches in memory", name, st.Loaded)
		}
	}
	well.Store(true)
	r.await("the end of all attempts", "/admin/api/v1/subscriptions/dead", func(s map[string]any) bool { return s["pending"] == 0.0 })
	var st api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions/dead", "", &st)
	if st.Events != events || st.Dead == 0 || st.Dead >= events {
		t.Errorf("status %+v", st)
	}
	mu.Lock()
	clear(versions) // what was dead is older than what was delivered
	mu.Unlock()
	var done api.Done
	r.do(200, "POST", "/admin/api/v1/dlq/replay", `{"subscription":"dead"}`, &done)
	if done.Count != st.Dead {
		t.Errorf("%d of %d dead letters are replayed", done.Count, st.Dead)
	}
	r.await("the rest", "/admin/api/v1/subscriptions/dead", func(s map[string]any) bool { return s["pending"] == 0.0 && s["dead"] == 0.0 })
}

// ingest sends NDJSON.
func (r *running) ingest(lines string) {
	r.t.Helper()
	resp, err := http.Post("http://"+r.Addr()+"/fhir/$ingest", "application/fhir+ndjson", strings.NewReader(lines))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
		r.t.Fatalf("ingest: %s %s", resp.Status, body)
	}
}
