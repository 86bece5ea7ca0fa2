package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/e2e/harness"
)

// signed is a Subscription with a secret for signatures and a token in a header.
func signed(id, endpoint, secret, token string) string {
	return strings.NewReplacer(`"payload"`, `"header":["Authorization: Bearer `+token+`"],"payload"`,
		`"status"`, `"extension":[{"url":"https://carillon-fhir.github.io/StructureDefinition/secret","valueString":"`+secret+`"}],"status"`,
	).Replace(subscription(id, "Patient?", endpoint))
}

// inFiles lists the files below a folder that hold one of the marks.
func inFiles(t *testing.T, dir string, marks ...string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range marks {
			if bytes.Contains(text, []byte(m)) {
				found = append(found, path+": "+m)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func verify(t *testing.T, a harness.Arrival, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if err := resthook.Verify(s, a.Header, a.Body, a.At); err != nil {
			t.Errorf("%s by %s: %v", a.Header.Get("webhook-id"), s, err)
		}
	}
}

// A node that is killed leaves no secret in any of its files, and signs as before when it is back.
func TestSecretsAreInNoFileOfANodeThatWasKilled(t *testing.T) {
	const secret, token = "canarysecret3c7e", "canarytoken8b1f"
	e := harness.NewEndpoint(t)
	n := harness.NewNode(t).Start()
	n.MustDo(201, "PUT", "/fhir/Subscription/s", signed("s", e.URL, secret, token))
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "A"))
	verify(t, e.AwaitCount(t, 10*time.Second, 1)[0], secret)
	n.MustDo(200, "PUT", "/fhir/Subscription/s", strings.Replace(signed("s", e.URL, secret, token), "Patient?", "Patient?active=true", 1))
	n.Kill()
	if found := inFiles(t, n.Dir, secret, token); found != nil {
		t.Errorf("secrets stand in %q", found)
	}
	n.Start()
	n.MustDo(201, "PUT", "/fhir/Patient/b", patient("b", "B"))
	got := e.AwaitCount(t, 10*time.Second, 2)[1]
	verify(t, got, secret)
	if got.Header.Get("Authorization") != "Bearer "+token {
		t.Errorf("Authorization %q", got.Header.Get("Authorization"))
	}
	n.MustDo(204, "DELETE", "/fhir/Subscription/s", "")
	n.Kill()
	n.Start()
	if text := string(n.MustDo(200, "GET", "/fhir/Subscription/s/_history", "").Body); strings.Contains(text, "canary") || !strings.Contains(text, "(masked)") {
		t.Errorf("after it was deleted its history shows %s", text)
	}
	if found := inFiles(t, n.Dir, secret, token); found != nil {
		t.Errorf("secrets stand in %q", found)
	}
}

// Every node of a cluster opens what another one has sealed, signs alike while a secret is
// replaced, and refuses to start without the master key.
func TestAClusterSignsAlikeOnEveryNode(t *testing.T) {
	const secret, next, token = "canarysecret5d2a", "canarysecret6e9b", "canarytoken4f0c"
	key := "CARILLON_SECURITY_SECRETS_KEY=" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	c := harness.NewCluster(t, 3)
	for _, n := range c.Nodes {
		n.Env = []string{key}
	}
	c.Start(t)
	e := harness.NewEndpoint(t)
	const subs = 8 // of several lanes, so of all nodes
	for i := range subs {
		id := fmt.Sprintf("s%d", i)
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/Subscription/"+id, signed(id, e.URL, secret, token))
	}
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "A"))
	for _, a := range e.AwaitCount(t, 30*time.Second, subs) {
		verify(t, a, secret)
	}
	for i := range subs {
		stdout, stderr, code := c.Nodes[1].CLI("subscription", "secret", "rotate", fmt.Sprintf("s%d", i), "--secret", next, "--overlap", "1h", "-o", "json")
		if code != 0 || !strings.Contains(stdout, next) {
			t.Fatalf("rotate: %d %s %s", code, stdout, stderr)
		}
	}
	c.Nodes[0].Kill()
	c.Nodes[2].MustDo(201, "PUT", "/fhir/Patient/b", patient("b", "B"))
	for _, a := range e.AwaitCount(t, 60*time.Second, 2*subs)[subs:] {
		verify(t, a, next, secret)
		if a.Header.Get("Authorization") != "Bearer "+token {
			t.Errorf("Authorization %q", a.Header.Get("Authorization"))
		}
	}
	c.Nodes[2].MustDo(204, "DELETE", "/fhir/Subscription/s0", "")

	c.Nodes[0].Env = nil
	if err := c.Nodes[0].TryStart(); err == nil || !strings.Contains(c.Nodes[0].Logs(), "security.secrets_key") && !strings.Contains(err.Error(), "security.secrets_key") {
		t.Errorf("a node without the master key starts: %v", err)
	}
	c.Nodes[0].Env = []string{key}
	c.Nodes[0].Start().AwaitReady(30 * time.Second)
	c.Nodes[0].MustDo(200, "PUT", "/fhir/Patient/b", patient("b", "C"))
	for _, a := range e.AwaitCount(t, 60*time.Second, 3*subs-1)[2*subs:] {
		verify(t, a, next, secret)
	}
	c.Kill()
	for _, n := range c.Nodes {
		if found := inFiles(t, n.Dir, secret, next, token); found != nil {
			t.Errorf("secrets stand in %q", found)
		}
	}
}
