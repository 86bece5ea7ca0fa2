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
func TestInvariant01APowerCutLosesNothingThatWasAcknowledged(t *testing.T) {
	if os.Getenv("E2E_CHAOS") == "" {
		t.Skip("power cuts run with make chaos")
	}
	d := newLoopDisk(t)
	n := harness.NewNode(t)
	n.Dir = filepath.Join(d.mount, "data")
	n.Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))

	acks := &acknowledged{versions: map[string]bool{}}
	cuts := envInt("E2E_CUTS", 5)
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
	checkNumbers(t, e.Await(t, 2*time.Minute, "every acknowledged write", func(as []harness.Arrival) bool {
		return len(as) >= len(acks.versions) && len(missing(acks, as)) == 0
	}))
	n.Kill() // before the disk goes
}

// A disk that fills up refuses new changes before anything of them is written, goes on to
// serve reads and deliveries, and takes changes again when there is space, without a restart.
func TestAFullDiskRefusesNewChangesAndRecoversWithoutARestart(t *testing.T) {
	if os.Getenv("E2E_CHAOS") == "" {
		t.Skip("full disks run with make chaos")
	}
	d := newLoopDisk(t)
	n := harness.NewNode(t)
	n.Dir = filepath.Join(d.mount, "data")
	n.Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))
	n.MustDo(201, "PUT", "/fhir/Patient/before", patient("before", "A"))

	filler := filepath.Join(d.mount, "filler")
	fill(t, filler, d.mount, 200<<20)
	accepted, id := 1, ""
	await(t, n, "refusal", func() bool { // the node looks at the disk once a second
		id = fmt.Sprintf("full-%d", accepted)
		a, err := n.Do(t.Context(), "PUT", "/fhir/Patient/"+id, []byte(patient(id, "A")))
		if err == nil && a.Status == 201 {
			accepted++
		}
		return err == nil && a.Status == 507
	})
	n.MustDo(404, "GET", "/fhir/Patient/"+id, "")
	n.MustDo(200, "GET", "/fhir/Patient/before", "")
	await(t, n, "not ready", func() bool { // readiness looks once a second, the write's own check at once
		a, err := n.Do(t.Context(), "GET", "/readyz", nil)
		return err == nil && a.Status == 503
	})
	e.AwaitCount(t, 10*time.Second, accepted)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	await(t, n, "acceptance", func() bool {
		a, err := n.Do(t.Context(), "PUT", "/fhir/Patient/after", []byte(patient("after", "A")))
		return err == nil && a.Status == 201
	})
	e.AwaitCount(t, 10*time.Second, accepted+1)
	await(t, n, "ready", func() bool {
		a, err := n.Do(t.Context(), "GET", "/readyz", nil)
		return err == nil && a.Status == 200
	})
	n.Kill()
}

// fill writes a file until only so many bytes are free.
func fill(t *testing.T, path, mount string, leave uint64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 8<<20)
	for {
		var st unix.Statfs_t
		if err := unix.Statfs(mount, &st); err != nil {
			t.Fatal(err)
		}
		if st.Bavail*uint64(st.Bsize) < leave {
			return
		}
		if _, err := f.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
}

// await repeats a question to the node until it is answered as wanted.
func await(t *testing.T, n *harness.Node, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s\n%s", what, n.Logs())
		}
	}
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
		err = f.Truncate(1 << 30)
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
