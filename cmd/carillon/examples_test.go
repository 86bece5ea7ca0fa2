package main

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// parsedAlone are commands that run until they are stopped or take long; of their examples it
// is tested that the command line is understood.
var parsedAlone = []string{"subscription import", "serve", "listen", "tail", "bench", "bench-log", "subscription watch"}

// TestExamplesOfHelpWork runs what --help shows, in the order of the help, against a fake node.
func TestExamplesOfHelpWork(t *testing.T) {
	manifest, err := os.ReadFile(filepath.Join("..", "..", "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	fake := newFakeServer()
	defer fake.close()
	fake.resources["Subscription/a1"] = []byte(`{"resourceType":"Subscription","id":"a1"}`)
	t.Setenv("CARILLON_SERVER", fake.url())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"subscription.json": `{"resourceType":"Subscription","status":"active","criteria":"Patient"}`,
		"resources.ndjson":  `{"resourceType":"Patient","id":"p"}` + "\n",
		"patient.json":      `{"resourceType":"Patient","id":"p"}`,
		"encounter.json":    `{"resourceType":"Encounter","id":"e"}`,
		"valueset.json":     `{"resourceType":"ValueSet","id":"lipids","url":"http://example.org/lipids","compose":{"include":[{"system":"http://loinc.org","concept":[{"code":"2093-3"}]}]}}`,
		"token.txt":         "carillon_x_y\n",
		"cluster.yaml":      string(manifest),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	paths := slices.SortedFunc(maps.Keys(leaves(newApp().Commands, nil)), func(a, b string) int {
		return strings.Compare(order(a), order(b))
	})
	for _, path := range paths {
		lines := examples(leaves(newApp().Commands, nil)[path])
		if len(lines) == 0 {
			t.Errorf("the help of carillon %s has no example", path)
		}
		for _, line := range lines {
			t.Run(line, func(t *testing.T) { runExample(t, path, line) })
		}
	}
}

// order puts commands behind those whose effect they need; the rest may come as it likes.
func order(path string) string {
	return strings.NewReplacer("context save", "context 1", "context list", "context 2", "context use", "context 3",
		"subscription delete", "subscription zz").Replace(path)
}

func examples(c *cli.Command) []string {
	var lines []string
	for line := range strings.SplitSeq(c.Description, "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
			lines = append(lines, rest)
		}
	}
	return lines
}

func runExample(t *testing.T, path, line string) {
	args := shellWords(line)
	if args[0] != "carillon" {
		t.Fatalf("the example does not begin with carillon")
	}
	app := newApp()
	var out, errs bytes.Buffer
	app.Reader, app.Writer, app.ErrWriter = strings.NewReader(""), &out, &errs
	ran := ""
	for name, c := range leaves(app.Commands, nil) {
		real := c.Action
		c.Action = func(c *cli.Context) error {
			ran = name
			if slices.Contains(parsedAlone, name) {
				return nil
			}
			return real(c)
		}
	}
	arranged, err := arrange(app, args[1:])
	if err == nil {
		err = app.RunContext(context.Background(), append([]string{"carillon"}, arranged...))
	}
	if err != nil {
		t.Errorf("%v\n%s", err, errs.String())
	}
	if ran != path {
		t.Errorf("the example ran %q, not %q", ran, path)
	}
}

// shellWords splits a line at blanks outside of single quotes.
func shellWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}
