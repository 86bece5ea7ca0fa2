package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A secret is one line; what is wrong with its file is told without it.
func TestASecretIsOneLineOfAFile(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want, problem string }{
		"line":      {"Bearer abc\n", "Bearer abc", ""},
		"no end":    {"Bearer abc", "Bearer abc", ""},
		"two lines": {"Bearer abc\nBearer hunter2\n", "", "one line"},
		"binary":    {"Bearer \x00hunter2", "", "printable"},
		"empty":     {" \n", "", "empty"},
		"missing":   {"", "", "no such file"},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if name != "missing" {
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := ReadSecret(path)
		if got != c.want || (err != nil) != (c.problem != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.problem) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", name, err)
		}
		cfg := Default()
		cfg.Match.Repository.AuthorizationFile = path
		if err := cfg.CheckFiles(); (err != nil) != (c.problem != "") {
			t.Errorf("%s: the check says %v", name, err)
		}
	}
}
