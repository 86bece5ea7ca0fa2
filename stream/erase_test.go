package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatIsErasedIsOnNoDisk(t *testing.T) {
	dir := t.TempDir()
	s := start(t, func(c *Config) { c.Dir = dir })
	put := func(name, text string) {
		t.Helper()
		m := Msg{Subject: SecretSubject(name), Data: []byte(text)}
		if _, err := s.Publish(t.Context(), Secrets, m); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "canary-one-7f3a")
	put("b", "keeper-one-9c1d")
	put("a", "canary-two-5b2e")
	put("b", "keeper-two-8d4f")
	if err := s.Erase(t.Context(), Secrets, SecretSubject("b"), 2); err != nil {
		t.Fatal(err)
	}
	if err := s.Erase(t.Context(), Secrets, SecretSubject("a"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // of what is not there nothing is erased
		if err := s.Erase(t.Context(), Secrets, SecretSubject("a"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.LastFor(t.Context(), Secrets, SecretSubject("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("the subject still has a message: %v", err)
	}
	if m, err := s.LastFor(t.Context(), Secrets, SecretSubject("b")); err != nil || string(m.Data) != "keeper-two-8d4f" {
		t.Errorf("another subject has %q, %v", m.Data, err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := onDisk(dir, "canary-one-7f3a", "canary-two-5b2e", "keeper-one-9c1d", "keeper-two-8d4f")
	if err != nil || found["canary-one-7f3a"] || found["canary-two-5b2e"] || found["keeper-one-9c1d"] || !found["keeper-two-8d4f"] {
		t.Errorf("on the disk are %v, %v", found, err)
	}
}

// onDisk tells which marks are in the files of a folder. Files that go away meanwhile have none.
func onDisk(dir string, marks ...string) (map[string]bool, error) {
	found := map[string]bool{}
	return found, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || d.IsDir():
			return err
		}
		text, err := os.ReadFile(path)
		for _, mark := range marks {
			found[mark] = found[mark] || bytes.Contains(text, []byte(mark))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func TestWhatIsErasedIsInNoProposalOfAClusterEither(t *testing.T) {
	dirs := map[string]string{}
	servers := startCluster(t, 3, func(c *Config) { dirs[c.Name] = c.Dir })
	put := func(name, text string) {
		t.Helper()
		if _, err := servers[0].Publish(t.Context(), Secrets, Msg{Subject: SecretSubject(name), Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "canary-one-7f3a")
	put("b", "keeper-one-9c1d")
	for i, s := range servers {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if err := s.Erase(t.Context(), Secrets, SecretSubject("a"), 0); err != nil {
				t.Fatal(err)
			}
			found, err := onDisk(dirs[fmt.Sprintf("n%d", i+1)], "canary-one-7f3a")
			if err != nil {
				t.Fatal(err)
			}
			if !found["canary-one-7f3a"] {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("node %d still has it", i+1)
			}
		}
	}
	put("c", "keeper-two-8d4f")
	for i, s := range servers {
		for name, want := range map[string]string{"b": "keeper-one-9c1d", "c": "keeper-two-8d4f"} {
			if m, err := s.LastFor(t.Context(), Secrets, SecretSubject(name)); err != nil || string(m.Data) != want {
				t.Errorf("node %d reads %q, %v", i+1, m.Data, err)
			}
		}
	}
}
