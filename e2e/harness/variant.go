package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Variant builds cmd/carillon with build tags, into a folder of the test that asks for it.
func Variant(t testing.TB, tags string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "carillon-"+tags)
	args := []string{"build", "-tags", tags, "-o", path}
	if os.Getenv("E2E_RACE") != "" {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "github.com/carillon-fhir/carillon/cmd/carillon")...).CombinedOutput(); err != nil {
		t.Fatalf("build carillon with tags %s: %v\n%s", tags, err, out)
	}
	return path
}
