package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExitCodesFollowTheStatus(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for status, want := range map[int]int{
		400: exitUsage, 401: exitForbidden, 403: exitForbidden, 404: exitNotFound, 405: exitUsage, 409: exitUsage, 410: exitNotFound,
		412: exitUsage, 413: exitUsage, 422: exitUsage, 429: exitFailed, 500: exitFailed, 503: exitFailed, 507: exitFailed, 302: exitFailed,
	} {
		fake.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
			outcome(w, status, "no\x1b[31m thanks")
			return true
		}
		code, stdout, stderr := carillon(t, "", "sub", "list", "--server", fake.url())
		if code != want || stdout != "" || stderr != "carillon: no [31m thanks\n" {
			t.Errorf("%d: code %d, want %d; stdout %q, stderr %q", status, code, want, stdout, stderr)
		}
	}
	if code, _, _ := carillon(t, "", "sub", "list", "--server", "http://127.0.0.1:1"); code != exitUnreachable {
		t.Errorf("unreachable: code %d", code)
	}
	if code, _, _ := carillon(t, "", "tail", "--nats", "nats://127.0.0.1:1"); code != exitUnreachable {
		t.Errorf("NATS unreachable: code %d", code)
	}
}

func TestSubscriptionCreateTellsWhatTheServerDoubts(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	fake.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Add("Warning", `299 carillon "the criteria can never match: it says \"a\" and \u00fc"`)
		w.Header().Add("Warning", `110 - "Response is stale" "Sun, 22 Nov 2026 08:00:00 GMT"`) // a proxy's
		return false
	}
	code, stdout, stderr := carillon(t, `{"resourceType":"Subscription","status":"requested","criteria":"Patient"}`,
		"sub", "create", "-f", "-", "--server", fake.url())
	if want := "carillon: the criteria can never match: it says \"a\" and ü\n"; code != exitDone || stderr != want || !strings.Contains(stdout, "made") {
		t.Errorf("code %d, stdout %q, stderr %q, want %q", code, stdout, stderr, want)
	}
}

func TestExplainNeverSaysNoWhenItDoesNotKnow(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ask := func(resource string) int {
		code, _, _ := carillon(t, "", "explain", "--subscription", "a1", resource, "--server", fake.url())
		return code
	}
	if code := ask("Patient/p"); code != 0 {
		t.Errorf("match: code %d", code)
	}
	if code := ask("Patient/other"); code != 1 {
		t.Errorf("no match: code %d", code)
	}
	for _, status := range []int{400, 401, 404, 429, 500, 503} {
		fake.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
			outcome(w, status, "no")
			return true
		}
		if code := ask("Patient/p"); code < 2 || code > 5 {
			t.Errorf("%d: code %d", status, code)
		}
	}
	fake.refuse = func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("{}")); return true }
	if code := ask("Patient/p"); code != exitUnreachable {
		t.Errorf("no explanation: code %d", code)
	}
	if code := ask("none.json"); code != exitUsage {
		t.Errorf("no file: code %d", code)
	}
}

// TestTokensStayWithTheirServer looks at which token a server is shown.
func TestTokensStayWithTheirServer(t *testing.T) {
	shown := ""
	note := func(_ http.ResponseWriter, r *http.Request) bool {
		shown = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		return false
	}
	home, other := newFakeServer(), newFakeServer()
	defer home.close()
	defer other.close()
	home.refuse, other.refuse = note, note
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("filed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range [][]string{
		{"context", "save", "home", "--server", home.url(), "--token", "saved"}, {"context", "use", "home"},
	} {
		if code, _, stderr := carillon(t, "", line...); code != 0 {
			t.Fatal(stderr)
		}
	}
	tests := []struct {
		name  string
		env   map[string]string
		flags []string
		want  string
	}{
		{"the context in use", nil, nil, "saved"},
		{"the context by name", nil, []string{"--context", "home"}, "saved"},
		{"a flag", nil, []string{"--token", "flag"}, "flag"},
		{"a file", nil, []string{"--token-file", file}, "filed"},
		{"a variable", map[string]string{"CARILLON_TOKEN": "env"}, nil, "env"},
		{"a file by variable", map[string]string{"CARILLON_TOKEN_FILE": file}, nil, "filed"},
		{"another server gets no saved token", nil, []string{"--server", other.url()}, ""},
		{"nor one by variable", map[string]string{"CARILLON_SERVER": other.url()}, nil, ""},
		{"another server and a variable", map[string]string{"CARILLON_TOKEN": "env"}, []string{"--server", other.url()}, "env"},
		{"a named context wins over variables", map[string]string{"CARILLON_SERVER": other.url(), "CARILLON_TOKEN": "env"}, []string{"--context", "home"}, "saved"},
		{"its server named again", nil, []string{"--server", home.url()}, "saved"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			shown = "nobody asked"
			if code, _, stderr := carillon(t, "", append([]string{"sub", "list"}, tt.flags...)...); code != 0 {
				t.Fatal(stderr)
			}
			if shown != tt.want {
				t.Errorf("the server was shown token %q, want %q", shown, tt.want)
			}
		})
	}
}

func TestContextsAreReadByTheirOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	if code, _, stderr := carillon(t, "", "context", "save", "x", "--token", "secret"); code != 0 {
		t.Fatal(stderr)
	}
	info, err := os.Stat(filepath.Join(dir, "carillon", "contexts.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "carillon", "contexts.yaml"), []byte("token: secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := carillon(t, "", "context", "list")
	if code != exitUsage || strings.Contains(stderr, "secret") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	fake, other := newFakeServer(), newFakeServer()
	defer fake.close()
	defer other.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	fake.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, other.url()+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}
	code, _, _ := carillon(t, "", "sub", "list", "--server", fake.url(), "--token", "t")
	if code != exitFailed || len(other.seen()) != 0 {
		t.Errorf("code %d, the other server saw %q", code, other.seen())
	}
}
