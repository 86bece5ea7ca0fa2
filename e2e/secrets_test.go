package e2e

import (
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// Marks are put where health data and secrets go: into a resource, a channel header, the path
// and query of an endpoint. After deliveries, failures and refusals none of them is in a log
// line (at the finest level), a metric, an error, or the name of a file.
func TestInvariant10NoSecretAndNoHealthDataInLogsMetricsErrorsOrFileNames(t *testing.T) {
	const body, header, path, query = "canarybody7f3a", "canaryheader9c1d", "canarypath5b2e", "canaryquery8d4f"
	marks := []string{body, header, path, query}
	n := harness.NewNode(t, "--config", config(t, shortRetries), "--log-level", "debug").Start()
	e := harness.NewEndpoint(t)
	sub := strings.Replace(subscription("s", "Patient?", e.URL+"/"+path+"?key="+query), `"payload"`, `"header":["Authorization: Bearer `+header+`"],"payload"`, 1)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", sub)

	n.MustDo(201, "PUT", "/fhir/Patient/good", patient("good", body))
	got := e.AwaitCount(t, 10*time.Second, 1)[0]
	if got.Header.Get("Authorization") != "Bearer "+header || !strings.Contains(got.Path, path) || !strings.Contains(got.Path, query) {
		t.Fatalf("the endpoint did not get what is its own: %s", got.Path)
	}
	e.Answer(func(harness.Arrival) int { return http.StatusInternalServerError })
	n.MustDo(201, "PUT", "/fhir/Patient/bad", patient("bad", body))
	e.AwaitCount(t, 10*time.Second, 4)
	awaitAttempts(t, n, 4)

	refusals := []string{
		`{"resourceType":"Patient","id":"x","name":[{"family":"` + body + `"}`,
		`{"resourceType":"Patient","id":"other","name":[{"family":"` + body + `"}]}`,
		`{"resourceType":"Patient","id":"x","active":true,"active":"` + body + `"}`,
	}
	var said strings.Builder
	for _, r := range refusals {
		a, err := n.Do(t.Context(), "PUT", "/fhir/Patient/x", []byte(r))
		if err != nil || a.Status < 400 {
			t.Fatalf("accepted: %v %d", err, a.Status)
		}
		said.Write(a.Body)
	}
	bad, err := n.Do(t.Context(), "PUT", "/fhir/Subscription/bad", []byte(strings.Replace(strings.Replace(sub, `"id":"s"`, `"id":"bad"`, 1), "Bearer ", "Bearer\\n", 1)))
	if err != nil || bad.Status != 422 {
		t.Fatalf("a header with a line break: %v %d", err, bad.Status)
	}
	said.Write(bad.Body)
	said.Write(n.MustDo(200, "GET", "/metrics", "").Body)
	n.Stop()

	for _, m := range marks {
		if i := strings.Index(n.Logs(), m); i >= 0 {
			t.Errorf("%s is in the log: …%s", m, n.Logs()[max(0, i-200):i+len(m)])
		}
		if strings.Contains(said.String(), m) {
			t.Errorf("%s is in an error or a metric", m)
		}
	}
	filepath.WalkDir(n.Dir, func(p string, _ fs.DirEntry, err error) error {
		for _, m := range marks {
			if strings.Contains(p, m) {
				t.Errorf("%s is in the name of a file: %s", m, p)
			}
		}
		return err
	})
}
