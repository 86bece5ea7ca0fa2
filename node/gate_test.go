package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

// Whether its client looks at the resource or not, a write is told the same of what became of it.
func TestAWriteIsAnsweredTheSameWithAndWithoutItsBody(t *testing.T) {
	cfg := config.Default()
	cfg.Node.Data, cfg.Node.HTTP, cfg.Node.NATS = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	n, err := New(cfg, slog.New(slog.DiscardHandler), "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-n.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}

	resource := func(id, status string) string {
		return fmt.Sprintf(`{"resourceType":"Observation","id":%q,"status":%q}`, id, status)
	}
	for _, prefer := range []string{"minimal", "representation"} {
		id := "o-" + prefer
		current := "" // the ETag that stands
		for _, step := range []struct {
			name, method, body string
			status             int
			same               bool // nothing new was made
		}{
			{"delete of what never was", "DELETE", "", 204, true},
			{"create", "PUT", resource(id, "preliminary"), 201, false},
			{"the same again", "PUT", resource(id, "preliminary"), 200, true},
			{"update", "PUT", resource(id, "final"), 200, false},
			{"delete", "DELETE", "", 204, false},
			{"delete again", "DELETE", "", 204, true},
			{"create again", "PUT", resource(id, "final"), 201, false},
		} {
			t.Run(prefer+": "+step.name, func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), step.method, "http://"+n.Addr()+"/fhir/Observation/"+id, strings.NewReader(step.body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Prefer", "return="+prefer)
				if step.body != "" {
					req.Header.Set("Content-Type", "application/fhir+json")
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				tag := res.Header.Get("ETag")
				if res.StatusCode != step.status || step.same != (tag == "" || tag == current) {
					t.Errorf("answered %d with ETag %s after %s", res.StatusCode, tag, current)
				}
				current = tag
				if shows := step.body != "" && prefer == "representation"; shows != (res.ContentLength > 0) {
					t.Fatalf("answered with %d bytes", res.ContentLength)
				} else if !shows {
					return
				}
				var got struct {
					ID   string
					Meta struct{ VersionID string }
				}
				if err := json.NewDecoder(res.Body).Decode(&got); err != nil || got.ID != id || `W/"`+got.Meta.VersionID+`"` != tag {
					t.Errorf("shows %+v (%v), ETag %s", got, err, tag)
				}
			})
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// What the gate takes everybody behind it can read, also where limits.resource_size is more than
// its default.
func TestAResourceAsLargeAsIsAllowedIsStoredMatchedAndFound(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits.ResourceSize = 16 << 20
	r := runNode(t, cfg)
	to, large := endpoint(t, 200), strings.Repeat("x", 9<<20)
	r.do(201, "PUT", "/fhir/ValueSet/vs", strings.Replace(valueSet("a"), `"status"`, `"description":"`+large+`","status"`, 1), nil)
	r.do(201, "PUT", "/fhir/Subscription/coded", subscriptionTo("coded", "Observation?code:in=http://example.org/vs", to), nil)
	r.do(201, "PUT", "/fhir/Subscription/all", subscriptionTo("all", "Patient?gender=male,female", to), nil)
	for i, gender := range []string{"male", "female"} {
		r.do(201-i, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p","gender":"`+gender+`","x":"`+large+`"}`, nil)
	}
	r.write("Observation/1", coded("1", "a"))
	r.events("all", 2)
	r.events("coded", 1)
	var found struct{ Total int }
	if r.do(200, "GET", "/fhir/Patient?gender=female&_elements=gender", "", &found); found.Total != 1 {
		t.Errorf("a search finds %d", found.Total)
	}
	var x api.Explanation
	if r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"all","resource":"Patient/p"}`, &x); !x.Matches {
		t.Errorf("explained as %+v", x)
	}
}
