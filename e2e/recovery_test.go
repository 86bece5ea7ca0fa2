package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// The logs hold everything that the projection is made of: a damaged projection is refused
// with the way out, and made again from the logs it gives the same answers, goes on with the
// same numbers, and sends nothing that was accepted a second time.
func TestInvariant12ADamagedProjectionIsRefusedAndMadeAgainFromTheLogs(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "Patient?", e.URL))
	for _, family := range []string{"One", "Two", "Three"} {
		n.MustDo(map[bool]int{true: 201, false: 200}[family == "One"], "PUT", "/fhir/Patient/a", patient("a", family))
	}
	e.AwaitCount(t, 10*time.Second, 3)
	awaitAttempts(t, n, 3)
	before := n.MustDo(200, "GET", "/fhir/Patient/a/_history", "").Body
	if code := n.Stop(); code != 0 {
		t.Fatalf("stop: exit code %d", code)
	}

	damage(t, filepath.Join(n.Dir, "projection"))
	err := n.TryStart()
	var refused *harness.Refused
	if !errors.As(err, &refused) || refused.Code != 1 {
		t.Fatalf("a damaged projection was not refused with exit code 1: %v", err)
	}
	if msg := refused.Error(); !strings.Contains(msg, "carillon serve --rebuild") {
		t.Errorf("the refusal does not say the way out: %s", msg)
	}

	n.Args = append(n.Args, "--rebuild")
	n.Start()
	if after := n.MustDo(200, "GET", "/fhir/Patient/a/_history", "").Body; string(after) != string(before) {
		t.Errorf("history before:\n%s\nand after:\n%s", before, after)
	}
	n.MustDo(200, "PUT", "/fhir/Patient/a", patient("a", "Four"))
	got := e.AwaitCount(t, 10*time.Second, 4)
	if last := got[len(got)-1]; len(got) != 4 || last.Number != 4 {
		t.Errorf("%d arrived, the last with number %d; want 4 and 4", len(got), last.Number)
	}
}

// damage overwrites the middle of every file below a folder.
func damage(t *testing.T, dir string) {
	t.Helper()
	damaged := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".db" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := 4096 / 2; i < len(b); i += 512 {
			b[i] ^= 0xff
		}
		damaged++
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil || damaged == 0 {
		t.Fatalf("damaged %d files: %v", damaged, err)
	}
}

// One process a data folder: the second one says so in one line and leaves the first alone.
func TestADataFolderInUseIsRefusedInOneLine(t *testing.T) {
	n := harness.NewNode(t).Start()
	other := harness.NewNode(t)
	other.Dir = n.Dir
	var refused *harness.Refused
	if err := other.TryStart(); !errors.As(err, &refused) || refused.Code != 1 || !strings.Contains(refused.Error(), "in use") {
		t.Errorf("got %v, want exit code 1 and a line that says in use", err)
	}
	n.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "One"))
}

// A listener that other machines reach is refused without TLS and login, unless the operator
// insists.
func TestAPublicListenerWithoutTLSAndLoginRefusesToStart(t *testing.T) {
	n := harness.NewNode(t, "--http", "0.0.0.0:0")
	var refused *harness.Refused
	if err := n.TryStart(); !errors.As(err, &refused) || refused.Code != 2 {
		t.Errorf("got %v, want exit code 2", err)
	}
	n.Args = append(n.Args, "--insecure-public")
	n.Start()
}
