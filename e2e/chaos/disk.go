package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disk is where one node keeps its data: an ext4 in a file of its own, or a plain folder where
// that cannot be made.
type Disk struct {
	Path  string // folder for the data
	image string // empty: a plain folder
	why   string // why it is one
	cut   bool
}

// NewDisk makes a disk of so many bytes. The file is sparse: it takes what is written.
func (m *Machine) NewDisk(name string, size int64) (*Disk, error) {
	dir := filepath.Join(m.Dir, name)
	d := &Disk{Path: filepath.Join(dir, "disk")}
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return nil, err
	}
	if err := d.format(filepath.Join(dir, "disk.img"), size); err != nil {
		d.why = err.Error()
		return d, nil
	}
	m.disks = append(m.disks, d)
	return d, nil
}

func (d *Disk) format(image string, size int64) error {
	if os.Geteuid() != 0 {
		return errors.New("this is not root")
	}
	if err := need("mkfs.ext4", "e2fsprogs"); err != nil {
		return err
	}
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(size), f.Close())
	if err == nil {
		err = run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", image)
	}
	if err == nil {
		err = run("mount", "-o", "loop", image, d.Path)
	}
	if err == nil {
		d.image = image
	}
	return err
}

// Own is nil, or why the disk is only a folder.
func (d *Disk) Own() error {
	if d.image == "" {
		return &Unavailable{"no file system of its own: " + d.why}
	}
	return nil
}

// Cut takes the power: later writes fail, and what was not synced is lost (EXT4_IOC_SHUTDOWN
// with EXT4_GOING_FLAGS_NOLOGFLUSH). The node that uses the disk has to be killed, then the
// disk mounted again with Repower.
func (d *Disk) Cut() error {
	if err := d.Own(); err != nil {
		return err
	}
	f, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	const shutdown, noLogFlush = 0x8004587d, 2
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		return &Unavailable{fmt.Sprintf("this file system cannot be shut down: %v", err)}
	}
	d.cut = true
	return nil
}

// Repower mounts the disk again. It does nothing for one that has power.
func (d *Disk) Repower() error {
	if !d.cut {
		return nil
	}
	if err := run("umount", d.Path); err != nil {
		return err
	}
	if err := run("mount", "-o", "loop", d.image, d.Path); err != nil {
		return err
	}
	d.cut = false
	return nil
}

// Fill leaves only so many bytes free; Empty gives the rest back.
func (d *Disk) Fill(leave uint64) error {
	if err := d.Own(); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(d.Path, "filler"))
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(d.Path, &st); err != nil {
		return err
	}
	free := st.Bavail * uint64(st.Bsize)
	if free <= leave {
		return nil
	}
	// Space is taken without being written, so that the disk is full at once.
	return unix.Fallocate(int(f.Fd()), 0, 0, int64(free-leave))
}

// Empty undoes Fill.
func (d *Disk) Empty() error { return os.Remove(filepath.Join(d.Path, "filler")) }

func (d *Disk) unmount() {
	if d.image != "" {
		_ = run("umount", "-l", d.Path)
	}
}
