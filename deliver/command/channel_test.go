//go:build unix

package command_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/command"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// script writes a program of the shell.
func script(t *testing.T, path, text string) string {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "deliver")
	}
	// Written aside: a program that is open for writing cannot be run, and another test's process
	// may hold it open between its start and its exec.
	aside := path + ".new"
	if err := os.WriteFile(aside, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// runnable waits until a script can be run: its text may be open in a process that was forked
// while it was written.
func runnable(c *command.Channel) deliver.Channel { return patient{c} }

type patient struct{ *command.Channel }

func (p patient) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	for {
		r, err := p.Channel.Send(ctx, n, t)
		if err == nil || !strings.Contains(err.Error(), "text file busy") {
			return r, err
		}
	}
}

func notification() deliver.Notification {
	return deliver.Notification{
		MatchID: record.MatchID{Event: 40, Birth: 12}, Subscription: "sub-1", Number: 5, Attempt: 2,
		Key: fhir.Key{Type: "Observation", ID: "o.1"}, Interaction: fhir.Update,
		ContentType: "application/fhir+json", Trace: "00-1-2-01",
		Body: []byte(`{"resourceType":"Observation","id":"o.1","note":"<a & b>","value":1.50}`),
	}
}

func target() deliver.Target {
	return deliver.Target{ID: "sub-1", Birth: 12, Endpoint: "queue:lab", Payload: "application/json",
		Headers: []string{"Authorization: Bearer canary:secret", "", "X-A:one"}}
}

func TestTheCommandChannelsPromises(t *testing.T) {
	delivertest.TestChannel(t, func(t *testing.T) delivertest.Subject {
		dir := t.TempDir()
		program := filepath.Join(dir, "deliver")
		note := `sed 's/.*"id":"\([^"]*\)".*/\1/' | head -1 >> ` + dir + `/names.$$`
		script(t, program, note)
		names := func() []string {
			files, _ := filepath.Glob(dir + "/names.*")
			var all []string
			for _, f := range files {
				text, err := os.ReadFile(f)
				if err != nil {
					t.Error(err)
				}
				all = append(all, strings.Fields(string(text))...)
			}
			return all
		}
		return delivertest.Subject{
			Channel: runnable(command.New(command.Options{Command: []string{program}})),
			Target:  target(),
			Behave: func(w delivertest.Wanted) {
				switch w {
				case delivertest.Accept:
					script(t, program, note)
				case delivertest.Refuse:
					script(t, program, note+"\necho canary-stderr >&2\nexit 1")
				case delivertest.Silence:
					script(t, program, "sleep 600")
				case delivertest.Absent:
					os.Remove(program)
				}
			},
			Received: func() int { return len(names()) },
			Names: func() []string {
				var ids []string
				for _, n := range names() {
					ids = append(ids, strings.TrimSuffix(n, `",`))
				}
				return ids
			},
		}
	})
}

func TestTheExitStatusSaysWhatBecameOfIt(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		code       record.Code // empty: accepted
		permanent  bool
		response   string
	}{
		{"zero", "echo stored as 17", "", false, "stored as 17"},
		{"zero, and nothing was read", "exit 0", "", false, ""},
		{"refused for good", "echo no such ward; exit 65", record.PublishError, true, "no such ward"},
		{"failed", "exit 1", record.PublishError, false, ""},
		{"any other", "exit 75", record.PublishError, false, ""},
		{"killed", "kill -9 $$", record.PublishError, false, ""},
		{"output is cut, and cleaned", `printf 'a\033b\tc\n'; head -c 100000 /dev/zero | tr '\0' x`, "", false, "a b c " + strings.Repeat("x", 506)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := runnable(command.New(command.Options{Command: []string{script(t, "", tc.text)}}))
			receipt, err := c.Send(t.Context(), notification(), target())
			if tc.code == "" {
				if err != nil || receipt.Response != tc.response {
					t.Errorf("%v, response %q", err, receipt.Response)
				}
				return
			}
			if err == nil || err.Code != tc.code || err.Permanent != tc.permanent || err.Response != tc.response {
				t.Errorf("%+v", err)
			}
		})
	}
}

func TestAProgramReadsOneObjectAndHasAnEnvironmentOfItsOwn(t *testing.T) {
	t.Setenv("CARILLON_TEST_PASSED", "yes")
	t.Setenv("CARILLON_TEST_SECRET", "no")
	dir := t.TempDir()
	program := script(t, "", `cat > "$1/input"; env > "$1/env"; pwd > "$1/pwd"; ls /proc/self/fd 2>/dev/null | wc -l > "$1/fds"`)
	c := runnable(command.New(command.Options{Command: []string{program, dir, "a b"}, Env: []string{"CARILLON_TEST_PASSED", "CARILLON_TEST_UNSET"}}))
	n, to := notification(), target()
	n.Headers = []deliver.Header{{Name: "X-B", Value: "2"}}
	if _, err := c.Send(t.Context(), n, to); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var got command.Envelope
	if err := json.Unmarshal([]byte(read("input")), &got); err != nil || strings.Count(read("input"), "\n") != 1 {
		t.Errorf("input %q: %v", read("input"), err)
	}
	want := command.Envelope{ID: "sub-1.12.5", Subscription: "sub-1", Event: 5, Attempt: 2, Interaction: "update", Resource: "Observation/o.1",
		Endpoint: "queue:lab", Headers: []command.Header{{Name: "Authorization", Value: "Bearer canary:secret"}, {Name: "X-A", Value: "one"}, {Name: "X-B", Value: "2"}},
		ContentType: "application/fhir+json", Trace: "00-1-2-01", Body: string(n.Body)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("input\n%+v\nwant\n%+v", got, want)
	}
	env := read("env")
	if !strings.Contains(env, "CARILLON_TEST_PASSED=yes") || strings.Contains(env, "SECRET") || strings.Contains(env, "HOME") || strings.Contains(env, "UNSET") {
		t.Errorf("environment %q", env)
	}
	if strings.TrimSpace(read("pwd")) != "/" {
		t.Errorf("folder %q", read("pwd"))
	}
	n.Interaction, n.Body, to.Payload = fhir.Delete, nil, ""
	if _, err := c.Send(t.Context(), n, to); err != nil {
		t.Fatal(err)
	}
	if in := read("input"); strings.Contains(in, "body") || !strings.Contains(in, `"interaction":"delete"`) {
		t.Errorf("input of a delete %q", in)
	}
}

// What a program has started lives no longer than its notification.
func TestTheWholeGroupOfAProcessIsKilledWhenTimeIsUp(t *testing.T) {
	dir := t.TempDir()
	program := script(t, "", `sleep 600 & echo $! > "$1/child"; mv "$1/child" "$1/started"; wait`)
	c := runnable(command.New(command.Options{Command: []string{program, dir}}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan *deliver.Error, 1)
	go func() { _, err := c.Send(ctx, notification(), target()); done <- err }()
	var child int
	for child == 0 {
		if b, err := os.ReadFile(dir + "/started"); err == nil {
			if err := json.Unmarshal(b, &child); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond) // the file is the event, and has no other way to tell of itself
	}
	cancel()
	if err := <-done; err == nil || err.Code != record.Timeout || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for syscall.Kill(child, 0) == nil && !zombie(child) { // the kill is on its way
		time.Sleep(time.Millisecond)
	}
}

// zombie reports whether a process has ended and nobody has asked for its status: who inherits an
// orphan may take its time.
func zombie(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", jsonOf(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

func jsonOf(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestMoreThanAreAllowedWaitTheirTurnAndSpendNothing(t *testing.T) {
	dir := t.TempDir()
	program := script(t, "", `mv "$1/go" "$1/gone" 2>/dev/null; touch "$1/up"; while [ ! -e "$1/end" ]; do sleep 0.01; done`)
	c := runnable(command.New(command.Options{Command: []string{program, dir}, Concurrency: 1}))
	first := make(chan *deliver.Error, 1)
	go func() { _, err := c.Send(t.Context(), notification(), target()); first <- err }()
	for {
		if _, err := os.Stat(dir + "/up"); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.Send(ctx, notification(), target())
	if err == nil || err.Code != record.RateLimited || err.Code.IsAttempt() {
		t.Errorf("the second: %v", err)
	}
	if err := os.WriteFile(dir+"/end", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	if _, err := c.Send(t.Context(), notification(), target()); err != nil {
		t.Errorf("the third: %v", err)
	}
}

func TestAProgramThatCannotBeRunIsAFailureThatMayPass(t *testing.T) {
	for _, path := range []string{"/nonexistent/canary", "/etc/passwd", "/"} {
		_, err := command.New(command.Options{Command: []string{path}}).Send(t.Context(), notification(), target())
		if err == nil || err.Code != record.PublishError || err.Permanent || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
