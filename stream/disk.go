package stream

import (
	"fmt"

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

// noLimit is the engine's own limit where none is configured: none. It is fixed when the server
// starts and one for all streams, so it would refuse outcomes together with events, and for ever,
// after a disk was enlarged or something else made room on it. The disk itself is asked instead:
// by Publisher for the whole reserve, by Server.Publish for a quarter of it.
const noLimit = 1 << 60

// limit is the engine's bound on the bytes of all streams.
func (c Config) limit() int64 {
	if c.MaxStore > 0 {
		return c.MaxStore
	}
	return noLimit
}

// checkReserve refuses a write that would bring the engine near the end of the disk: there it
// shuts the stream. With a limit configured the engine refuses by itself.
func (s *Server) checkReserve() error {
	if s.cfg.MaxStore > 0 {
		return nil
	}
	free, total, err := DiskFree(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if keep := Reserve(total) / 4; free < keep {
		return fmt.Errorf("%w: %d bytes free, %d kept for the engine", ErrFull, free, keep)
	}
	return nil
}

// checkRoom reports an engine that has refused a write for want of space while the disk has
// some. A limit that was configured is no such case.
func (s *Server) checkRoom() error {
	if !s.answers.noRoom.Load() || s.cfg.MaxStore > 0 || s.checkReserve() != nil {
		return nil
	}
	return fmt.Errorf("%w: the embedded NATS server refuses writes for want of space, and the disk has it", ErrUnavailable)
}
