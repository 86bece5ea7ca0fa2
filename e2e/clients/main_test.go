package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Clean()
	os.Exit(code)
}

// program finds a program, or skips the test.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("skipped: %s is not installed", name)
	}
	return path
}

// packages are the folders of npm packages that cannot be installed, and why; nobody asks twice.
var packages struct {
	sync.Mutex // held while npm writes
	missing    map[string]string
}

// installed puts the packages beside the lock file of a folder of testdata that pins them, unless
// they are there. Where they cannot be had the test is skipped.
func installed(t *testing.T, dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: npm packages are not installed with -short")
	}
	program(t, "node")
	npm := program(t, "npm")
	packages.Lock()
	defer packages.Unlock()
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(lock)
	want, stamp := hex.EncodeToString(sum[:]), filepath.Join(dir, "node_modules", ".carillon-lock")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return
	}
	if why, ok := packages.missing[dir]; ok {
		t.Skip(why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		why := fmt.Sprintf("skipped: the npm packages of %s cannot be installed: %v: %s", dir, err, first)
		if packages.missing == nil {
			packages.missing = map[string]string{}
		}
		packages.missing[dir] = why
		t.Skip(why)
	}
	if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// script runs a program with variables and input, and returns what it printed. It fails the test
// with the program's own words if that fails.
func script(t *testing.T, input any, env []string, name string, args ...string) string {
	t.Helper()
	stdin, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, name), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String()
}

// packagesDir has the scripts and packages that all tests but one need.
var packagesDir = filepath.Join("testdata", "npm")

// npm runs a script of packagesDir.
func npm(t *testing.T, input any, name string, env ...string) string {
	t.Helper()
	return script(t, input, env, "node", filepath.Join(packagesDir, name))
}

// received is a notification as the scripts read it.
type received struct {
	Headers map[string]string `json:"headers"` // names in lower case, as Node has them
	Body    string            `json:"body"`    // in base64
}

func receivedOf(a harness.Arrival) received {
	r := received{map[string]string{}, base64.StdEncoding.EncodeToString(a.Body)}
	for name, values := range a.Header {
		r.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return r
}

// config writes a configuration file.
func config(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// subscription is a rest-hook Subscription with extensions, given as URL and string.
func subscription(id, criteria, endpoint string, extensions ...string) string {
	list := []map[string]string{}
	for i := 0; i+1 < len(extensions); i += 2 {
		list = append(list, map[string]string{"url": extensions[i], "valueString": extensions[i+1]})
	}
	s := map[string]any{
		"resourceType": "Subscription", "id": id, "status": "requested", "reason": "test", "criteria": criteria,
		"channel": map[string]any{"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"},
	}
	if len(list) > 0 {
		s["extension"] = list
	}
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and maps of them
	}
	return string(text)
}

const (
	ownSecret     = "https://carillon-fhir.github.io/StructureDefinition/secret"
	medplumSecret = "https://www.medplum.com/fhir/StructureDefinition/subscription-secret"
)
