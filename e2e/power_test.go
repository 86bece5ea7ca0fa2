package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// A power cut, simulated: the data folder is on an ext4 of its own, which is shut down without
// flushing its journal while writers run, so that what was not synced is gone. After mounting
// it again everything acknowledged is there and arrives.
func TestAPowerCutLosesNothingThatWasAcknowledged(t *testing.T) {
	if os.Getenv("CARILLON_CHAOS") == "" {
		t.Skip("power cuts run with make chaos")
	}
	d := newLoopDisk(t)
	n := harness.NewNode(t)
	n.Dir = filepath.Join(d.mount, "data")
	n.Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))

	acks := &acknowledged{versions: map[string]bool{}}
	cuts := envInt("CARILLON_CUTS", 5)
	for cut := range cuts {
		ctx, stop := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() { write(ctx, n, acks, fmt.Sprintf("c%d-%d", cut, w)) })
		}
		time.Sleep(time.Duration(500+cut*300) * time.Millisecond) // the moment of the cut, not a wait
		d.cut(t)
		n.Kill()
		stop()
		writers.Wait()
		d.remount(t)
		n.Start()
	}
	t.Logf("%d writes acknowledged over %d power cuts", len(acks.versions), cuts)
	if len(acks.versions) < 10*cuts {
		t.Fatal("too few writes: the test shows nothing")
	}
	e.Await(t, 2*time.Minute, "every acknowledged write", func(as []harness.Arrival) bool {
		return len(as) >= len(acks.versions) && len(missing(acks, as)) == 0
	})
	n.Kill() // before the disk goes
}

// loopDisk is an ext4 in a file.
type loopDisk struct{ image, mount string }

func newLoopDisk(t *testing.T) *loopDisk {
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	dir := t.TempDir()
	d := &loopDisk{image: filepath.Join(dir, "disk.img"), mount: filepath.Join(dir, "mnt")}
	f, err := os.Create(d.image)
	if err == nil {
		err = f.Truncate(4 << 30)
		f.Close()
	}
	if err == nil {
		err = os.Mkdir(d.mount, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=1", d.image).CombinedOutput(); err != nil {
		t.Skipf("no ext4 here: %v %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.mount).CombinedOutput(); err != nil {
		t.Skipf("no loop device here: %v %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", d.mount).Run() })
	return d
}

// cut stops the file system at once: later writes fail, and what the journal had not flushed
// is lost (EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH).
func (d *loopDisk) cut(t *testing.T) {
	t.Helper()
	f, err := os.Open(d.mount)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const shutdown, noLogFlush = 0x8004587d, 2
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		t.Skipf("this file system cannot be shut down: %v", err)
	}
}

func (d *loopDisk) remount(t *testing.T) {
	t.Helper()
	for _, c := range [][]string{{"umount", d.mount}, {"mount", "-o", "loop", d.image, d.mount}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", c, err, out)
		}
	}
}
