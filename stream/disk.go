package stream

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DiskFree tells how many bytes an unprivileged process may still write to the file system of
// a folder, and how large that file system is.
func DiskFree(dir string) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("read free disk space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// Reserve is what ingest must leave free on a file system of the given size: 2 %, at least
// 256 MiB. Outcomes, matches and dead letters of what is already accepted live in it.
func Reserve(total uint64) uint64 { return max(total/50, 256<<20) }

// maxStore is the engine's own limit where none is configured: what it has and what is free,
// less a quarter of the reserve, so that the engine refuses before the disk does, and ingest
// (which keeps the whole reserve) before the engine.
func maxStore(dir string) (int64, error) {
	free, total, err := DiskFree(dir)
	if err != nil {
		return 0, err
	}
	limit := int64(free) - int64(Reserve(total)/4) + folderSize(dir)
	return max(limit, 64<<20), nil
}

// folderSize adds up the files under a folder. What vanishes meanwhile is not counted.
func folderSize(dir string) int64 {
	var n int64
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
