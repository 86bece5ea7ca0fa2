package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// The states in which a projection cannot be used.
var (
	// ErrDamaged says that the file does not hold what was written to it. The way out is to
	// fold the logs again (Rebuild).
	ErrDamaged = errors.New("projection is damaged; `carillon serve --rebuild` folds it again from the logs")
	// ErrLocked says that another process has the file open.
	ErrLocked = errors.New("projection is in use by another process")
	// ErrNewer says that a later release wrote the file.
	ErrNewer = errors.New("projection was written by a newer carillon; use that release, or `carillon serve --rebuild`")
	// ErrOlder says that an earlier release wrote the file, which lacks what this one folds. The
	// way out is to fold the logs again (Rebuild).
	ErrOlder = errors.New("projection was written by an older carillon; `carillon serve --rebuild` folds it again from the logs")
)

const (
	fileName = "projection.db"
	// oldName is what Rebuild leaves of the file before it.
	oldName = "projection.db.old"
	// newPrefix is the beginning of a file that is being made.
	newPrefix = "projection.db.new-"

	// format 2 has the bucket of references; format 3 has jobs, all letters of a match, what the rounds
	// of a replay tell their endpoints, and the outcomes of an event.
	format    = 3
	formatKey = "format"
)

// castagnoli is the checksum of rows: most processors compute it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal is the checksum of a row, whose head is its bucket and its key. It covers them, so that
// a value under another's key is found out too.
func seal(head, val []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, head), castagnoli, val)
}

// appendHead appends what a row's checksum begins with.
func appendHead(to []byte, b bucket, key string) []byte {
	return append(append(to, byte(b)), key...)
}

// file is the bbolt file: rows with a checksum in front. All that touches bbolt is here, for
// a damaged file makes bbolt panic or read outside of its mapping; each entry turns that into
// ErrDamaged. No byte of the mapping is returned, only copies.
type file struct {
	db   *bolt.DB
	path string
	// sums says of each bucket how many rows it has and what their seals add up to. It is
	// what tells a lost row, or an old page in the place of a new one, which each have seals
	// in order. Only the writer changes it.
	sums [bucketCount]sum

	handle *os.File    // the open file, which holds the lock
	stuck  atomic.Bool // bbolt may hold its own locks for ever
}

// sum is the content of a bucket in sixteen bytes, whatever the order in which it came about.
type sum struct {
	rows  uint64
	seals uint64
}

func (f *file) damaged(detail error) error {
	if errors.Is(detail, ErrDamaged) {
		return detail
	}
	return fmt.Errorf("%s: %w (%v)", f.path, ErrDamaged, detail)
}

// guard turns a panic inside bbolt into ErrDamaged. Deferred.
func (f *file) guard(err *error) {
	if p := recover(); p != nil {
		*err = f.damaged(fmt.Errorf("reading it failed: %v", p))
	}
}

// guardLocks is guard for calls that hold bbolt's own locks: after a panic there, bbolt may
// wait for itself when it is closed.
func (f *file) guardLocks(err *error) {
	if p := recover(); p != nil {
		f.stuck.Store(true)
		*err = f.damaged(fmt.Errorf("using it failed: %v", p))
	}
}

// openFile opens the projection's file in a folder, and makes it if there is none.
func openFile(dir string, lockWait time.Duration, verifyUpTo int64, noSync bool) (*file, error) {
	path := filepath.Join(dir, fileName)
	if err := dropUnfinished(dir); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := createFile(dir, noSync); err != nil {
			return nil, fmt.Errorf("create %s: %w", path, err)
		}
		info, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open projection: %w", err)
	}
	f := &file{path: path}
	if err := f.inspect(lockWait, info.Size() <= verifyUpTo); err != nil {
		return nil, err
	}
	if err := f.openBolt(lockWait, info.Size(), noSync); err != nil {
		return nil, err
	}
	if err := f.readSums(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// createFile makes an empty projection beside its place and moves it there when it is whole
// and synced: a power cut during bbolt's own initialisation leaves a file it cannot open.
func createFile(dir string, noSync bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, newPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // there only if something failed
	if err := tmp.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(tmp.Name(), 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType, NoSync: noSync})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for b := range bucketCount {
			if _, err := tx.CreateBucket([]byte(b.String())); err != nil {
				return err
			}
		}
		var v encoder
		v.uint(format)
		return tx.Bucket([]byte(bMeta.String())).Put([]byte(formatKey), sealed(bMeta, formatKey, v))
	})
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), filepath.Join(dir, fileName)); err != nil {
		return err
	}
	return syncDir(dir)
}

// dropUnfinished removes what a crash left of createFile.
func dropUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open projection: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove unfinished projection: %w", err)
			}
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// inspect checks the file's page structure before bbolt sees it, under the lock.
func (f *file) inspect(lockWait time.Duration, thorough bool) error {
	h, err := os.Open(f.path)
	if err != nil {
		return fmt.Errorf("open projection: %w", err)
	}
	defer h.Close()
	if err := lock(h, lockWait); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if err := checkPages(h, thorough); err != nil {
		return f.damaged(err)
	}
	return nil
}

// lock takes the lock that bbolt takes, for as long as h is open.
func lock(h *os.File, wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; time.Sleep(lockRetry) {
		err := unix.Flock(int(h.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return ErrLocked
		}
	}
}

// lockRetry is how often a lock that is held is asked for again, as bbolt does it.
const lockRetry = 50 * time.Millisecond

func (f *file) openBolt(lockWait time.Duration, size int64, noSync bool) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer f.guard(&err)
	db, err := bolt.Open(f.path, 0o600, &bolt.Options{
		Timeout:      max(lockWait, lockRetry),
		FreelistType: bolt.FreelistMapType,
		NoSync:       noSync,
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			h, err := os.OpenFile(path, flag&^os.O_CREATE, mode)
			f.handle = h
			return h, err
		},
		// Address space only. When the mapping is outgrown it is made anew, and that waits
		// for every reader.
		InitialMmapSize: mapping(size),
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s: %w", f.path, ErrLocked)
	case errors.As(err, new(*os.PathError)), errors.As(err, new(syscall.Errno)):
		return fmt.Errorf("open projection: %w", err)
	case err != nil:
		return f.damaged(err)
	}
	f.db = db
	return nil
}

// readSums checks the format, that every bucket is there, and loads the sums.
func (f *file) readSums() error {
	sn, err := f.begin()
	if err != nil {
		return err
	}
	defer f.end(sn)
	v, ok, err := f.get(sn, bMeta, formatKey)
	switch {
	case err != nil:
		return err
	case !ok:
		return f.damaged(errors.New("it does not say its format"))
	}
	d := decoder{b: v}
	if n := d.uint(); d.end() != nil || n == 0 {
		return f.damaged(errors.New("its format cannot be read"))
	} else if n > format {
		return fmt.Errorf("%s: %w (format %d; this release knows %d)", f.path, ErrNewer, n, format)
	} else if n < format {
		return fmt.Errorf("%s: %w (format %d; this release writes %d)", f.path, ErrOlder, n, format)
	}
	for b := bMeta + 1; b < bucketCount; b++ {
		if err := f.readSum(sn, b); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) readSum(sn *snapshot, b bucket) error {
	if _, _, err := f.get(sn, b, "\x00"); err != nil { // is the bucket there?
		return err
	}
	v, ok, err := f.get(sn, bMeta, sumKey(b))
	if err != nil || !ok {
		return err
	}
	d := decoder{b: v}
	f.sums[b] = sum{rows: d.uint(), seals: d.uint()}
	if d.end() != nil {
		return f.damaged(fmt.Errorf("sum of bucket %s cannot be read", b))
	}
	return nil
}

func sumKey(b bucket) string { return "sum/" + b.String() }

// close gives the file and its lock back. Where bbolt is stuck its mapping stays until the
// process ends, which is the lesser evil beside a process that cannot stop.
func (f *file) close() error {
	if f.stuck.Load() {
		return f.handle.Close()
	}
	return f.db.Close()
}

// snapshot is a read transaction. It keeps a cursor for each bucket that was asked for a row:
// bbolt looks a bucket up by name in the file, and would do so for every row.
type snapshot struct {
	tx      *bolt.Tx
	cursors [bucketCount]*bolt.Cursor
}

// begin opens a read transaction.
func (f *file) begin() (sn *snapshot, err error) {
	defer f.guardLocks(&err)
	tx, err := f.db.Begin(false)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return nil, ErrClosed
	}
	if err != nil {
		return nil, err
	}
	return &snapshot{tx: tx}, nil
}

func (f *file) end(sn *snapshot) { _ = sn.tx.Rollback() }

// cursor is the snapshot's own cursor of a bucket, which get moves.
func (f *file) cursor(sn *snapshot, b bucket) (*bolt.Cursor, error) {
	if sn.cursors[b] == nil {
		bk, err := f.bucket(sn.tx, b)
		if err != nil {
			return nil, err
		}
		sn.cursors[b] = bk.Cursor()
	}
	return sn.cursors[b], nil
}

var errNoBucket = errors.New("a bucket is missing")

func (f *file) bucket(tx *bolt.Tx, b bucket) (*bolt.Bucket, error) {
	bk := tx.Bucket([]byte(b.String()))
	if bk == nil {
		return nil, f.damaged(fmt.Errorf("%s: %w", b, errNoBucket))
	}
	return bk, nil
}

// get finds a row and returns a copy of its value.
func (f *file) get(sn *snapshot, b bucket, key string) (val []byte, ok bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer f.guard(&err)
	cur, err := f.cursor(sn, b)
	if err != nil {
		return nil, false, err
	}
	k, row := cur.Seek([]byte(key))
	if row == nil || string(k) != key {
		return nil, false, nil
	}
	val, err = f.open(b, key, row)
	return val, err == nil, err
}

// seek stands a cursor at the first row not before at, or, back, at the last one before it
// (of all, if at is empty).
func (f *file) seek(sn *snapshot, b bucket, back bool, at string) (cur *bolt.Cursor, key string, row []byte, ok bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer f.guard(&err)
	cur, err = f.cursor(sn, b)
	if err != nil {
		return nil, "", nil, false, err
	}
	cur = cur.Bucket().Cursor() // one of its own: it must stay where it stands
	var k []byte
	switch {
	case back && at == "":
		k, row = cur.Last()
	case back:
		if k, _ = cur.Seek([]byte(at)); k == nil {
			k, row = cur.Last()
		} else {
			k, row = cur.Prev()
		}
	default:
		k, row = cur.Seek([]byte(at))
	}
	return cur, string(k), row, k != nil, nil
}

// step moves a cursor on. Keys that do not go on in order are damage: a page that stands in
// another's place could otherwise be walked for ever.
func (f *file) step(cur *bolt.Cursor, b bucket, back bool, last string) (key string, row []byte, ok bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer f.guard(&err)
	var k []byte
	if back {
		k, row = cur.Prev()
	} else {
		k, row = cur.Next()
	}
	if k == nil {
		return "", nil, false, nil
	}
	key = string(k)
	if key == last || (key < last) != back {
		return "", nil, false, f.damaged(fmt.Errorf("bucket %s: keys are out of order", b))
	}
	return key, row, true, nil
}

// sealLen is the length of the checksum in front of a value.
const sealLen = 4

// sealed is a row as the file holds it.
func sealed(b bucket, key string, val []byte) []byte {
	return appendSealed(nil, appendHead(nil, b, key), val)
}

// appendSealed appends a row: the checksum of a value, and the value.
func appendSealed(rows, head, val []byte) []byte {
	rows = binary.LittleEndian.AppendUint32(rows, seal(head, val))
	return append(rows, val...)
}

// open checks a row's seal and returns a copy of its value.
func (f *file) open(b bucket, key string, row []byte) (val []byte, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer f.guard(&err)
	if len(row) < sealLen {
		return nil, f.damaged(fmt.Errorf("bucket %s: row without checksum", b))
	}
	// Copied first: what is checked is what is returned. The head lies in front of it, so that
	// both are one piece of memory.
	head := 1 + len(key)
	own := appendHead(make([]byte, 0, head+len(row)-sealLen), b, key)
	own = append(own, row[sealLen:]...)
	if binary.LittleEndian.Uint32(row) != seal(own[:head], own[head:]) {
		return nil, f.damaged(fmt.Errorf("bucket %s: checksum of a row is wrong", b))
	}
	return own[head:], nil
}

// write puts an overlay into the file in one transaction, synced when it returns. The overlay
// is only read, for readers look through it at the same time.
func (f *file) write(o *overlay) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer f.guardLocks(&err)
	sums := f.sums
	err = f.db.Update(func(tx *bolt.Tx) error {
		for b := range bucketCount {
			if err := f.writeBucket(tx, b, &o.lists[b], &sums[b]); err != nil {
				return err
			}
		}
		return f.writeSums(tx, &sums)
	})
	if err == nil {
		f.sums = sums
	}
	return err
}

// writeSums stores what the buckets now hold. meta has no sum: it holds the others'.
func (f *file) writeSums(tx *bolt.Tx, sums *[bucketCount]sum) error {
	var rows skiplist
	for b := bMeta + 1; b < bucketCount; b++ {
		if sums[b] != f.sums[b] {
			var v encoder
			v.uint(sums[b].rows)
			v.uint(sums[b].seals)
			rows.set(sumKey(b), v, sums[b] == sum{}) // an emptied bucket is as one never used
		}
	}
	return f.writeBucket(tx, bMeta, &rows, &sums[bMeta])
}

func (f *file) writeBucket(tx *bolt.Tx, b bucket, rows *skiplist, s *sum) error {
	if rows.first() == nil {
		return nil
	}
	bk, err := f.bucket(tx, b)
	if err != nil {
		return err
	}
	if appended[b] {
		bk.FillPercent = 0.95
	}
	// bbolt copies the keys that it is given. The values it keeps until the commit, so they lie
	// in memory of this transaction, in one piece.
	var head []byte
	sealed := make([]byte, 0, rows.sealedSize())
	present := presence{cur: bk.Cursor()}
	for e := rows.first(); e != nil; e = e.next[0] {
		head = appendHead(head[:0], b, e.key)
		key := head[1:]
		old := present.find(key)
		if old != nil {
			if len(old) < sealLen {
				return f.damaged(fmt.Errorf("bucket %s: row without checksum", b))
			}
			s.rows--
			s.seals -= uint64(binary.LittleEndian.Uint32(old))
		}
		if e.gone {
			if old != nil {
				err = present.cur.Delete() // it stands there
			}
		} else {
			at := len(sealed)
			sealed = appendSealed(sealed, head, e.val)
			row := sealed[at:len(sealed):len(sealed)]
			s.rows++
			s.seals += uint64(binary.LittleEndian.Uint32(row))
			if !bytes.Equal(old, row) {
				err = bk.Put(key, row)
			}
		}
		if err != nil {
			return fmt.Errorf("bucket %s: %w", b, err)
		}
	}
	return nil
}

// sealedSize is how many bytes the rows' values take with their checksums.
func (s *skiplist) sealedSize() (n int) {
	for e := s.first(); e != nil; e = e.next[0] {
		if !e.gone {
			n += sealLen + len(e.val)
		}
	}
	return n
}

// presence tells which of the keys that are about to be written a bucket holds. They are asked
// for in rising order, each before it is written; so up to the key at which a search ended there
// are none but those written since, and most new rows need no search.
type presence struct {
	cur   *bolt.Cursor
	known bool   // a search was made
	end   bool   // it found nothing
	next  []byte // else the first key that it found; a copy
}

// find returns the row of a key, nil where there is none.
func (p *presence) find(key []byte) []byte {
	if p.known && (p.end || bytes.Compare(key, p.next) < 0) {
		return nil
	}
	k, row := p.cur.Seek(key)
	p.known, p.end, p.next = true, k == nil, append(p.next[:0], k...)
	if !bytes.Equal(k, key) {
		return nil
	}
	return row
}

// scan reads every row of one state of the file, with its checks. each sees a bucket when it
// has been read.
func (f *file) scan(ctx context.Context, each func(*snapshot, bucket, sum) error) error {
	sn, err := f.begin()
	if err != nil {
		return err
	}
	defer f.end(sn)
	for b := range bucketCount {
		got, err := f.scanBucket(ctx, sn, b, nil)
		if err != nil {
			return err
		}
		if err := each(sn, b, got); err != nil {
			return err
		}
	}
	return nil
}

// scanBucket reads every row of a bucket; row, where given, sees each with the value that it must
// not keep.
func (f *file) scanBucket(ctx context.Context, sn *snapshot, b bucket, row func(b bucket, key string, val []byte)) (s sum, err error) {
	var head []byte
	cur, key, sealedVal, ok, err := f.seek(sn, b, false, "")
	for ; ok && err == nil; key, sealedVal, ok, err = f.step(cur, b, false, key) {
		if s.rows%1024 == 0 && ctx.Err() != nil {
			return s, ctx.Err()
		}
		val, err := f.open(b, key, sealedVal)
		if err != nil {
			return s, err
		}
		s.rows++
		head = appendHead(head[:0], b, key)
		s.seals += uint64(seal(head, val))
		if row != nil {
			row(b, key, val)
		}
	}
	return s, err
}

func (f *file) size() (int64, error) {
	info, err := f.handle.Stat()
	if err != nil {
		return 0, fmt.Errorf("projection: %w", err)
	}
	return info.Size(), nil
}

// stats gives the file's size, how much of it holds nothing, and the sums. Zero where the
// file is closed.
func (f *file) stats() (size, free int64, sums [bucketCount]sum) {
	size, _ = f.size()
	sn, err := f.begin()
	if err != nil {
		return size, 0, sums
	}
	defer f.end(sn)
	for b := bMeta + 1; b < bucketCount; b++ {
		if v, ok, err := f.get(sn, bMeta, sumKey(b)); err == nil && ok {
			d := decoder{b: v}
			sums[b] = sum{rows: d.uint(), seals: d.uint()}
		}
	}
	return size, int64(f.db.Stats().FreeAlloc), sums
}

// Remove deletes the projection in a folder, and what Rebuild kept of an older one. It is
// folded again from the logs at the next start. A folder without one is fine; one that is in
// use gives ErrLocked.
func Remove(dir string) error {
	path := filepath.Join(dir, fileName)
	if err := whileLocked(path, func() error { return os.Remove(path) }); err != nil {
		return fmt.Errorf("remove projection: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, oldName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove projection: %w", err)
	}
	return nil
}

// Rebuild moves the projection in a folder aside, so that the next Open starts empty and the
// logs are folded again from their beginning. It returns where the old file was kept (in
// place of one kept before), empty when there was none. The new file is made by Open.
func Rebuild(dir string) (kept string, err error) {
	path, old := filepath.Join(dir, fileName), filepath.Join(dir, oldName)
	err = whileLocked(path, func() error {
		if err := os.Rename(path, old); err != nil {
			return err
		}
		kept = old
		return syncDir(dir)
	})
	if err != nil {
		return "", fmt.Errorf("set projection aside: %w", err)
	}
	return kept, nil
}

// whileLocked runs fn holding the lock of a file, and does nothing if there is no such file.
func whileLocked(path string, fn func() error) error {
	h, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if err := lock(h, 0); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return fn()
}

// mapping is how many bytes of address space are taken for a file at first. Making it anew, when it
// is outgrown, waits for every reader, a comparison of projections too: a large file, whose reading
// takes long, gets far more than it will need soon. A small one is better mapped anew, since that
// gives back the pages that were touched once.
func mapping(size int64) int {
	const small = 512 << 20
	if size < small || strconv.IntSize < 64 {
		return int(min(max(2*size, 64<<20), 1<<30))
	}
	return int(min(4*size, 64<<30))
}
