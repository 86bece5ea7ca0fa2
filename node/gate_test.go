package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

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
