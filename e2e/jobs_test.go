package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// counter is an endpoint for thousands of notifications: it counts those that it takes, by number.
type counter struct {
	URL string

	mu     sync.Mutex
	status int
	taken  map[uint64]int
	came   chan struct{} // closed with the next
}

func newCounter(t *testing.T, status int) *counter {
	c := &counter{status: status, taken: map[uint64]int{}, came: make(chan struct{})}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseUint(r.Header.Get("X-Carillon-Event"), 10, 64)
		c.mu.Lock()
		status := c.status
		if status < 300 {
			c.taken[n]++
			close(c.came)
			c.came = make(chan struct{})
		}
		c.mu.Unlock()
		w.WriteHeader(status)
	}))
	c.URL = srv.URL
	t.Cleanup(srv.Close)
	return c
}

func (c *counter) answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// await waits until so many different notifications were taken.
func (c *counter) await(t *testing.T, limit time.Duration, n int) {
	t.Helper()
	for over := time.After(limit); ; {
		c.mu.Lock()
		got, came := len(c.taken), c.came
		c.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-came:
		case <-over:
			t.Fatalf("%d notifications were taken in %s, want %d", got, limit, n)
		}
	}
}

type job struct {
	ID, Kind, State            string
	Done, Skipped, Sent, Total int
}

func awaitJob(t *testing.T, n *harness.Node, id, what string, ok func(job) bool) (j job) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err := json.Unmarshal(n.MustDo(200, "GET", "/admin/api/v1/jobs/"+id, "").Body, &j); err != nil {
			t.Fatal(err)
		}
		if ok(j) {
			return j
		}
	}
	t.Fatalf("the job is never %s: %+v", what, j)
	return j
}

func jobEnded(j job) bool { return j.State == "done" || j.State == "failed" || j.State == "cancelled" }

// failing is a node with so many dead letters of one Subscription, whose endpoint it is.
func failing(t *testing.T, letters int) (*harness.Node, *counter) {
	t.Helper()
	n := harness.NewNode(t, "--config", config(t, "delivery:\n  concurrency: 64\n  breaker:\n    failures: 0\n  retry:\n    attempts: 1\n")).Start()
	c := newCounter(t, http.StatusServiceUnavailable)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", c.URL))
	var lines strings.Builder
	for i := range letters {
		fmt.Fprintln(&lines, patient(fmt.Sprintf("p%d", i), "One"))
	}
	n.MustDo(200, "POST", "/fhir/$ingest", lines.String(), "Content-Type", "application/fhir+ndjson")
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var s struct{ Events, Pending int }
		if err := json.Unmarshal(n.MustDo(200, "GET", "/admin/api/v1/subscriptions/s", "").Body, &s); err != nil {
			t.Fatal(err)
		}
		if s.Events == letters && s.Pending == 0 {
			return n, c
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all letters are dead: %+v", s)
		}
	}
}

func orderReplay(t *testing.T, n *harness.Node, order string) string {
	t.Helper()
	var done struct {
		Count int
		Job   string
	}
	if err := json.Unmarshal(n.MustDo(200, "POST", "/admin/api/v1/dlq/replay", order).Body, &done); err != nil || done.Job == "" {
		t.Fatalf("%+v, %v", done, err)
	}
	return done.Job
}

// A replay of thousands goes on after kill -9 where it was: each letter is made pending once and
// arrives. E2E_LETTERS sets how many there are.
func TestAReplayOfThousandsGoesOnAfterKillNine(t *testing.T) {
	letters := envInt("E2E_LETTERS", 3000)
	n, c := failing(t, letters)
	if out, stderr, code := n.CLI("dlq", "replay", "--subscription", "s", "--dry-run", "-o", "json"); code != 0 || !strings.Contains(out, fmt.Sprintf(`"count": %d`, letters)) {
		t.Fatalf("dry run: code %d\n%s%s", code, out, stderr)
	}
	c.answer(http.StatusOK)
	began := time.Now()
	id := orderReplay(t, n, fmt.Sprintf(`{"subscription":"s","rate":%d}`, letters))
	for _, share := range []int{4, 2} {
		awaitJob(t, n, id, "on its way", func(j job) bool { return j.Done >= letters/share })
		n.Kill()
		n.Start()
	}
	j := awaitJob(t, n, id, "ended", jobEnded)
	if j.State != "done" || j.Done != letters || j.Sent != letters || j.Skipped != 0 || j.Total != letters {
		t.Errorf("the job ended as %+v", j)
	}
	c.await(t, 5*time.Minute, letters)
	t.Logf("%d letters in %s", letters, time.Since(began).Round(time.Millisecond))
	var again int
	for _, times := range c.taken {
		again += times - 1
	}
	t.Logf("%d arrived twice, since they were at the endpoint when the node was killed", again)
	// Each had one round more, which is what the job promises: none was made pending twice.
	var events []struct {
		Number, Round int
		State         string
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if err := json.Unmarshal(n.MustDo(200, "GET", fmt.Sprintf("/admin/api/v1/subscriptions/s/events?limit=%d", min(letters, 10_000)), "").Body, &events); err != nil {
			t.Fatal(err)
		}
		bad := 0
		for _, e := range events {
			if e.State != "accepted" || e.Round != 1 {
				bad++
			}
		}
		if bad == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d are not accepted in their second round", bad, len(events))
		}
	}
	if out, _, _ := n.CLI("dlq", "list", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("letters are left: %s", out)
	}
	if out, _, code := n.CLI("dlq", "replay", "--subscription", "s"); code != 0 || !strings.Contains(out, "count") {
		t.Errorf("a replay of nothing: code %d\n%s", code, out)
	}
}

// A cancelled job stays cancelled over a crash; what it did not come to stays dead.
func TestACancelledJobStaysCancelled(t *testing.T) {
	n, c := failing(t, 200)
	c.answer(http.StatusOK)
	id := orderReplay(t, n, `{"subscription":"s","rate":20}`)
	awaitJob(t, n, id, "on its way", func(j job) bool { return j.Done > 0 })
	if out, stderr, code := n.CLI("jobs", "cancel", id); code != 0 || !strings.Contains(out, "cancelled") {
		t.Fatalf("cancel: code %d\n%s%s", code, out, stderr)
	}
	before := awaitJob(t, n, id, "cancelled", jobEnded)
	n.Kill()
	n.Start()
	after := awaitJob(t, n, id, "cancelled", jobEnded)
	if after != before || after.State != "cancelled" || after.Done == 200 {
		t.Errorf("before %+v, after the crash %+v", before, after)
	}
	c.await(t, 20*time.Second, after.Done)
	var list []any
	out, _, _ := n.CLI("dlq", "list", "--limit", "1000", "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 200-after.Done {
		t.Errorf("%d letters are left, want %d (%v)", len(list), 200-after.Done, err)
	}
	if _, stderr, code := n.CLI("jobs", "cancel", "unknown"); code != 3 || !strings.Contains(stderr, "no job") {
		t.Errorf("cancel of an unknown job: code %d, %s", code, stderr)
	}
	// The rest, by the command line, which waits for it.
	if out, stderr, code := n.CLI("dlq", "replay", "--subscription", "s"); code != 0 || !strings.Contains(out, "done") {
		t.Errorf("replay of the rest: code %d\n%s%s", code, out, stderr)
	}
	c.await(t, 20*time.Second, 200)
	if _, stderr, code := n.CLI("jobs", "cancel", orderReplayed(t, n)); code != 2 || !strings.Contains(stderr, "has ended") {
		t.Errorf("cancel of what is done: code %d, %s", code, stderr)
	}
}

// orderReplayed is the id of the newest job.
func orderReplayed(t *testing.T, n *harness.Node) string {
	t.Helper()
	var all []job
	out, _, _ := n.CLI("jobs", "list", "-o", "json")
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	return all[0].ID
}

// Each node of three is killed in turn while a job goes on, so the one that does it among them: the
// others take it over where it was, and no Subscription has a resource twice.
func TestAJobIsTakenOverByAnotherNode(t *testing.T) {
	const resources = 1500
	c := harness.NewCluster(t, 3).Start(t)
	var lines strings.Builder
	for i := range resources {
		fmt.Fprintln(&lines, patient(fmt.Sprintf("p%d", i), "One"))
	}
	c.Nodes[0].MustDo(200, "POST", "/fhir/$ingest", lines.String(), "Content-Type", "application/fhir+ndjson")
	hook := newCounter(t, http.StatusOK)
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", hook.URL))
	var j job
	body := c.Nodes[0].MustDo(200, "POST", "/admin/api/v1/trigger", `{"subscription":"s","searches":["Patient?"],"rate":150}`).Body
	if err := json.Unmarshal(body, &j); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.Nodes {
		other := c.Nodes[(i+1)%3]
		from := awaitJob(t, other, j.ID, "running", func(j job) bool { return j.Done > 0 })
		n.Kill()
		awaitJob(t, other, j.ID, "further", func(j job) bool { return j.Done > from.Done || jobEnded(j) })
		n.Start()
		n.AwaitReady(time.Minute)
	}
	if j = awaitJob(t, c.Nodes[0], j.ID, "ended", jobEnded); j.State != "done" || j.Done != resources || j.Sent != resources || j.Skipped != 0 {
		t.Errorf("the job ended as %+v", j)
	}
	hook.await(t, time.Minute, resources)
	var s struct{ Events int }
	if err := json.Unmarshal(c.Nodes[1].MustDo(200, "GET", "/admin/api/v1/subscriptions/s", "").Body, &s); err != nil || s.Events != resources {
		t.Errorf("%d event numbers were given, want %d (%v)", s.Events, resources, err)
	}
}
