package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestCommandLinesOfTheDistributionAreUnderstood(t *testing.T) {
	unit, err := os.ReadFile(filepath.Join("dist", "carillon.service"))
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for _, m := range regexp.MustCompile(`(?m)^ExecStart(?:Pre)?=/usr/local/bin/carillon (.*)$`).FindAllStringSubmatch(string(unit), -1) {
		lines = append(lines, strings.Fields(m[1]))
	}
	text, err := os.ReadFile(filepath.Join("dist", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Hostname string
			Command  []string
			Ports    []string
		}
	}
	if err := yaml.Unmarshal(text, &compose); err != nil {
		t.Fatal(err)
	}
	ports := map[string]bool{}
	for name, s := range compose.Services {
		lines = append(lines, s.Command)
		if s.Hostname != name || !slices.Contains(s.Command, name) {
			t.Errorf("service %s has host name %s and runs %q", name, s.Hostname, s.Command)
		}
		for _, p := range s.Ports {
			if ports[p] || !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("service %s publishes %s", name, p)
			}
			ports[p] = true
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d command lines, want those of the unit's two and of three services", len(lines))
	}
	for _, line := range lines {
		if _, err := arrange(newApp(), line); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// drainingNode stands for carillon in cluster.sh: it says what it was started with, and, when it
// is told to stop, that it had the time to.
const drainingNode = `#!/usr/bin/env bash
trap 'echo "stopped by one signal"; exit 0' TERM
echo "started $*"
while :; do sleep 0.05; done
`

func TestClusterScriptRunsAndEndsEveryNode(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	dir := filepath.Join(t.TempDir(), "c")
	if code, _, stderr := command(t, "cluster", "init", "--dir", dir, "--local", "3"); code != exitDone {
		t.Fatal(stderr)
	}
	fake := filepath.Join(t.TempDir(), "carillon")
	if err := os.WriteFile(fake, []byte(drainingNode), 0o700); err != nil {
		t.Fatal(err)
	}
	script := exec.CommandContext(t.Context(), bash, filepath.Join("dist", "cluster.sh"), fake, dir)
	script.Cancel = func() error { return script.Process.Signal(syscall.SIGTERM) }
	out, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	var started, stopped []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		node, what, _ := strings.Cut(lines.Text(), " | ")
		switch what {
		case "started serve --config " + dir + "/cluster.yaml --node " + node + " --dev":
			if started = append(started, node); len(started) == 3 {
				if err := script.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
		case "stopped by one signal":
			stopped = append(stopped, node)
		default:
			t.Errorf("unexpected: %s", lines.Text())
		}
	}
	_ = script.Wait() // it ends as the signal wanted
	slices.Sort(started)
	slices.Sort(stopped)
	if want := []string{"n1", "n2", "n3"}; !slices.Equal(started, want) || !slices.Equal(stopped, want) {
		t.Errorf("started %q, stopped %q", started, stopped)
	}
}
