package node

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

// What the operator says of a host holds for its endpoints, and is read again with its files.
func TestRulesForEndpointsHoldAndAreReadAgain(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	password := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(password, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	cfg := testConfig(dir)
	cfg.Delivery.Endpoints = []config.Endpoint{{Match: strings.TrimPrefix(h.URL, "http://"), Basic: config.Basic{User: "carillon", PasswordFile: password}}}
	next := cfg
	r := runNode(t, cfg, func(n *Node) { n.Reloads(func() (config.Config, error) { return next, nil }, nil) })
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", h.URL), nil)
	login := func(patient string) string {
		t.Helper()
		r.do(201, "PUT", "/fhir/Patient/"+patient, `{"resourceType":"Patient","id":"`+patient+`"}`, nil)
		req, _ := h.next(t)
		user, password, _ := req.BasicAuth()
		return user + ":" + password
	}
	if got := login("a"); got != "carillon:first" {
		t.Errorf("login %q", got)
	}
	write("second")
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := login("b"); got != "carillon:second" {
		t.Errorf("after the file has changed: %q", got)
	}
	next.Delivery.Endpoints = nil
	if out, err := r.Reload(t.Context()); err != nil || strings.Join(out.Changed, " ") != "delivery.endpoints" {
		t.Fatal(out, err)
	}
	if got := login("c"); got != ":" {
		t.Errorf("without the rule: %q", got)
	}
	next.Delivery.Endpoints = []config.Endpoint{{Match: "*", Basic: config.Basic{User: "x", PasswordFile: password + ".none"}}}
	if _, err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "delivery.endpoints[0].basic.password_file") {
		t.Errorf("a file that is not there: %v", err)
	}
	if got := login("d"); got != ":" {
		t.Errorf("after a reload that failed: %q", got)
	}
}

func TestAnEndpointHasTheTimeOfItsRule(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Attempts = 1
	cfg.Delivery.Endpoints = []config.Endpoint{{Match: "127.0.0.1", Timeout: 100 * time.Millisecond}}
	gone := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	}))
	defer slow.Close()
	defer close(gone)
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", slow.URL), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	r.await("the end of the attempt", "/admin/api/v1/status", func(s map[string]any) bool { return s["dead"] == 1.0 && s["pending"] == 0.0 })
	var as []api.Attempt
	r.do(200, "GET", "/admin/api/v1/attempts?subscription=s", "", &as)
	if len(as) != 1 || as[0].Outcome != record.Timeout || as[0].TookMS > 5000 {
		t.Errorf("attempts %+v", as)
	}
}
