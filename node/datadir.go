package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dataDir is the folder of one node, held by one process at a time.
//
//	lock          held with flock while the process lives
//	name          the node's name, which must never change: its logs are kept under it
//	cluster       the cluster's name, likewise
//	kind          single or cluster: the logs of one are no logs of the other
//	log/          the embedded server's files
//	projection/   what is folded from them
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir makes the folder if there is none and takes its lock. A folder that another
// process holds is refused: two writers would tear its files.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data folder %s is in use by another carillon; stop it or give another folder with --data", path)
		}
		return nil, fmt.Errorf("lock data folder %s: %w", path, err)
	}
	return &dataDir{path: path, lock: f}, nil
}

// close gives the lock back. The operating system does the same for a process that is killed.
func (d *dataDir) close() error { return d.lock.Close() }

func (d *dataDir) logs() string       { return filepath.Join(d.path, "log") }
func (d *dataDir) projection() string { return filepath.Join(d.path, "projection") }

// nodeName returns the name this folder was made under, or keeps the one given. The engine
// knows a node's files by its name, so a folder does not change it.
func (d *dataDir) nodeName(given, fallback string) (string, error) {
	return d.keep("name", given, fallback, "the node's name")
}

// clusterName is kept for the same reason: a folder belongs to one cluster.
func (d *dataDir) clusterName(given string) (string, error) {
	return d.keep("cluster", given, given, "the cluster's name")
}

// errOtherFolder: the data folder is not that of the node that is configured.
var errOtherFolder = errors.New("data folder of another node")

// kind refuses the folder of a single node in a cluster, and the other way round: its logs would
// meet others of the same names.
func (d *dataDir) kind(clustered bool) error {
	kind := map[bool]string{false: "single", true: "cluster"}[clustered]
	path := filepath.Join(d.path, "kind")
	old, err := os.ReadFile(path)
	made := strings.TrimSpace(string(old))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(d.logs()); err != nil {
			return writeFileSynced(path, []byte(kind+"\n"))
		}
		made, err = "single", nil // from before there were clusters
	}
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	case made == kind:
		return nil
	case clustered:
		return fmt.Errorf("%w: %s is that of a single node and cannot join a cluster; give an empty folder", errOtherFolder, d.path)
	}
	return fmt.Errorf("%w: %s is that of a node of a cluster; give its configuration with --config, or another folder", errOtherFolder, d.path)
}

func (d *dataDir) keep(file, given, fallback, what string) (string, error) {
	path := filepath.Join(d.path, file)
	old, err := os.ReadFile(path)
	switch {
	case err == nil:
		kept := strings.TrimSpace(string(old))
		if given != "" && given != kept {
			return "", fmt.Errorf("%w: %s was made with %s %q and cannot be used as %q; give the name or another folder", errOtherFolder, d.path, what, kept, given)
		}
		return kept, nil
	case !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if given == "" {
		given = fallback
	}
	return given, writeFileSynced(path, []byte(given+"\n"))
}

// writeFileSynced replaces a file so that after a power cut it is the old one or the new one.
func writeFileSynced(path string, data []byte) error {
	tmp := fmt.Sprintf("%s.%s", path, rand.Text()[:8])
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
