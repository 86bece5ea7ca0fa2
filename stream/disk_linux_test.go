package stream

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of its own, or skips the test where that is not allowed.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("this machine does not let a test mount a file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// TestADiskThatRunsFullLosesNothingAcknowledged lets the engine meet ENOSPC, which no reserve
// prevents when something else fills the disk.
func TestADiskThatRunsFullLosesNothingAcknowledged(t *testing.T) {
	dir := smallDisk(t, "64m")
	ballast := filepath.Join(dir, "ballast")
	s := start(t, func(c *Config) { c.Dir, c.MaxStore = filepath.Join(dir, "data"), 1<<30 })
	if err := os.WriteFile(ballast, make([]byte, 40<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, s, Events, Options{Wait: 300 * time.Millisecond})
	acked := map[string]record.Sequence{}
	body := bytes.Repeat([]byte("x"), 256<<10)
	for i := 0; ; i++ {
		id := fhir.ID(strconv.Itoa(i))
		a, err := p.Publish(t.Context(), ingest(id, body))
		if err != nil {
			if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrFull) && !errors.Is(err, ErrUnavailable) {
				t.Errorf("full disk: %v", err)
			}
			t.Logf("full after %d: %v", i, err)
			break
		}
		acked[string(id)] = a.Sequence
	}
	if err := s.Healthy(); err == nil {
		t.Error("healthy on a full disk")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
	for id, seq := range acked {
		m, err := s.Get(t.Context(), Events, seq)
		if err != nil || m.Subject != EventSubject(fhir.Key{Type: "Observation", ID: fhir.ID(id)}) || !bytes.Equal(m.Data, body) {
			t.Errorf("message %s at %d: %v", id, seq, err)
		}
	}
	if _, err := p.Publish(t.Context(), ingest("after", nil)); err != nil {
		t.Errorf("with space again: %v", err)
	}
}
