package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Options of a Store. Hash is required.
type Options struct {
	Log *slog.Logger // nil: none

	// Hash reads a resource's body. It must be a function of the body alone, the same in every
	// release that reads the same logs. An error (or a panic) sets the record aside.
	Hash func(body []byte) (Content, error)

	// VerifyUpTo is the size in bytes up to which Open reads the whole file and checks every
	// row; of a larger one it checks the skeleton, and Verify does the rest when it is asked.
	// 0 means 64 MiB, less than 0 none.
	VerifyUpTo int64

	// LockWait is how long Open waits for another process to let go of the file. 0 means one
	// second.
	LockWait time.Duration

	noSync bool // tests of logic that write thousands of files
}

// Content is what the projection wants to know of a resource's body.
type Content struct {
	Sum         [16]byte    // equal for bodies of equal meaning
	Identifiers [][2]string // system (empty where there is none) and value

	// References names, as Type/id, each resource that the body refers to, on whichever server
	// it is; one may stand there several times.
	References []string
}

// Store is the projection of a node. Reads may come from any goroutine. Each log is applied
// by one goroutine, in the order of the log.
type Store struct {
	*layers
	dir  string
	hash func([]byte) (Content, error)

	// feeds keeps records of one log in order, and those of MATCHES and OUTCOMES apart: both
	// settle what is pending.
	feeds [streamCount]*sync.Mutex

	// Guarded by layers.mu, changed with commits.
	streams [streamCount]streamRow
	pending map[record.Sequence]int // of each birth, how many matches are pending
}

// streamRow is what the projection knows of one log. It is stored as a row of meta.
type streamRow struct {
	position record.Sequence
	last     record.Sequence // newest record with a checksum; for EVENTS, newest resource change
	sum      uint32
	Counters
}

func (s Stream) key() string { return "stream/" + s.String() }

func (r *streamRow) encode() []byte {
	e := sized(6 * numSize)
	e.uint(uint64(r.position))
	e.uint(uint64(r.last))
	e.uint(uint64(r.sum))
	e.uint(r.SetAside)
	e.uint(r.Repeated)
	e.uint(r.Unknown)
	return e
}

func (r *streamRow) decode(v []byte) error {
	d := decoder{b: v}
	r.position = record.Sequence(d.uint())
	r.last = record.Sequence(d.uint())
	r.sum = uint32(d.uint())
	r.SetAside, r.Repeated, r.Unknown = d.uint(), d.uint(), d.uint()
	return d.end()
}

// Open opens the projection in a folder and makes both if they are not there. It fails with
// ErrDamaged, ErrLocked, ErrNewer or ErrOlder where those are the reason.
func Open(dir string, o Options) (*Store, error) {
	s, err := open(dir, o)
	if err != nil {
		return nil, err
	}
	go s.layers.run()
	return s, nil
}

// open is Open without the writer.
func open(dir string, o Options) (*Store, error) {
	if o.Hash == nil {
		return nil, errors.New("open projection: Options.Hash is missing")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.VerifyUpTo == 0 {
		o.VerifyUpTo = 64 << 20
	}
	if o.LockWait == 0 {
		o.LockWait = time.Second
	}
	f, err := openFile(dir, o.LockWait, o.VerifyUpTo, o.noSync)
	if err != nil {
		return nil, err
	}
	matching := new(sync.Mutex)
	s := &Store{
		layers: newLayers(f, o.Log), dir: dir, hash: o.Hash,
		feeds:   [streamCount]*sync.Mutex{Events: new(sync.Mutex), Matches: matching, Outcomes: matching, Dead: new(sync.Mutex)},
		pending: map[record.Sequence]int{},
	}
	if err := s.load(o.VerifyUpTo); err != nil {
		f.close()
		return nil, err
	}
	return s, nil
}

// load reads what is kept in memory. The writer does not run yet.
func (s *Store) load(verifyUpTo int64) error {
	if size, err := s.fileSize(); err != nil {
		return err
	} else if size <= verifyUpTo {
		if err := s.Verify(context.Background()); err != nil {
			return err
		}
	}
	return s.view(func(r *reader) error {
		for st := range streamCount {
			if v, ok := r.get(bMeta, st.key()); ok {
				if err := s.streams[st].decode(v); err != nil {
					r.malformed(bMeta, err)
				}
				s.saved.set(st, s.streams[st].position)
			}
		}
		s.active.at = s.saved
		r.scan(bPending, "", "", func(key string, _ []byte) bool {
			birth, _, ok := cutPair(key)
			if !ok {
				r.malformed(bPending, errMalformed)
				return false
			}
			s.pending[birth]++
			return true
		})
		return nil
	})
}

// Close writes what is folded and not yet in the file, and closes it. An error says that the
// file lacks the newest rows; they are folded again from the logs at the next start.
func (s *Store) Close() error { return s.layers.close() }

// Err is nil while the projection can be written. Otherwise Apply methods fail with it, reads
// go on, and the way out is to close the store and open it again.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.err
}

// Position is how far each log is folded in memory, where reads see it.
func (s *Store) Position() Vector {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.vector()
}

func (s *Store) vector() (v Vector) {
	for st := range streamCount {
		v.set(st, s.streams[st].position)
	}
	return v
}

// Saved is how far each log is folded in the file: where a new start goes on.
func (s *Store) Saved() Vector {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.saved
}

// Flush waits until all that was folded before the call is in the file, synced.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.sync(ctx); err != nil {
		return fmt.Errorf("flush projection: %w", err)
	}
	return nil
}

// WaitApplied returns once every log is folded up to v, in memory. It fails when ctx ends or
// the store is closed.
func (s *Store) WaitApplied(ctx context.Context, v Vector) error {
	s.mu.RLock()
	done := s.vector().Covers(v)
	s.mu.RUnlock()
	if done { // as it mostly is
		return nil
	}
	for {
		moved, err := s.nextCommit(v)
		if moved == nil {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextCommit gives what is closed at the next commit; nil with what there is to say where v is
// applied already, or nobody commits any more.
func (s *Store) nextCommit(v Vector) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.vector().Covers(v):
		return nil, nil
	case s.closed:
		return nil, ErrClosed
	}
	if s.moved == nil {
		s.moved = make(chan struct{})
	}
	return s.moved, nil
}

// LastRecord names the newest record of a log that was folded, with its checksum (SumEvent
// and its like); 0, 0 where there was none. If the log now ends before it, or holds another
// record there, it lost its tail or was replaced: the projection must be rebuilt. Of EVENTS it
// is the newest resource change, since control records are not folded.
func (s *Store) LastRecord(st Stream) (record.Sequence, uint32) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.streams[st].last, s.streams[st].sum
}

// fold commits one step of a log: fn's writes, and the log's new position. Called with the
// log's feed locked.
func (s *Store) fold(ctx context.Context, st Stream, seq record.Sequence, records int, fn func(*folding)) error {
	s.mu.RLock()
	f := &folding{streamRow: s.streams[st]}
	s.mu.RUnlock()
	f.position = seq
	err := s.update(ctx, records, func(b *batch) {
		f.batch = b
		fn(f)
		b.put(bMeta, st.key(), f.encode())
	}, func(active *overlay) {
		s.streams[st] = f.streamRow
		active.at = s.vector()
		s.countPending(f.pendingDelta)
	})
	if err != nil {
		return fmt.Errorf("fold %s %d: %w", st, seq, err)
	}
	return nil
}

// folding is one step of a log in the making.
type folding struct {
	*batch
	streamRow
	pendingDelta map[record.Sequence]int // nil while there is none
}

// pend notes that so many more matches of a birth are pending.
func (f *folding) pend(birth record.Sequence, n int) {
	if f.pendingDelta == nil {
		f.pendingDelta = map[record.Sequence]int{}
	}
	f.pendingDelta[birth] += n
}

func (s *Store) countPending(delta map[record.Sequence]int) {
	for birth, n := range delta {
		if s.pending[birth] += n; s.pending[birth] == 0 {
			delete(s.pending, birth)
		}
	}
}

// Verify reads the whole file and checks every row, that keys are in order, and that no row
// is missing or stale. It fails with ErrDamaged on the first that is wrong. Folding goes on
// meanwhile, but may have to wait for it where the file outgrows its mapping.
func (s *Store) Verify(ctx context.Context) error {
	return s.layers.file.scan(ctx, func(sn *snapshot, b bucket, got sum) error {
		if b == bMeta {
			return nil
		}
		var want sum
		v, ok, err := s.layers.file.get(sn, bMeta, sumKey(b))
		if err != nil {
			return err
		}
		if ok {
			d := decoder{b: v}
			want = sum{rows: d.uint(), seals: d.uint()}
		}
		if got != want {
			return s.layers.file.damaged(fmt.Errorf("bucket %s: has %d rows, should have %d (or another content)", b, got.rows, want.rows))
		}
		return nil
	})
}

// Hashes is the content of a projection in short.
type Hashes struct {
	Vector  Vector
	Buckets map[string][sha256.Size]byte
}

// Hash computes what two nodes compare: at equal vectors, every bucket has the same hash (but for
// those of DEAD where letters were purged from it, see DESIGN.md). It writes what is folded first,
// and reads one state of the file.
func (s *Store) Hash(ctx context.Context) (Hashes, error) {
	f, err := s.Freeze(ctx)
	if err != nil {
		return Hashes{}, err
	}
	defer f.Close()
	return f.Hash(ctx)
}

// Frozen is one state of the projection's file, which stays as it is while folding goes on. It
// keeps pages of the file from being used again, so it is closed soon.
type Frozen struct {
	store *Store
	sn    *snapshot
}

// Freeze writes what is folded and takes hold of the state that the file then has. Who wants it
// to be of a certain place keeps the logs from being folded meanwhile. The caller closes it.
func (s *Store) Freeze(ctx context.Context) (*Frozen, error) {
	if err := s.Flush(ctx); err != nil {
		return nil, err
	}
	sn, err := s.layers.file.begin()
	if err != nil {
		return nil, fmt.Errorf("freeze projection: %w", err)
	}
	return &Frozen{store: s, sn: sn}, nil
}

// Close lets go of the state. It may be called again. Not while Hash runs.
func (f *Frozen) Close() {
	if f.sn != nil {
		f.store.layers.file.end(f.sn)
		f.sn = nil
	}
}

// Vector is the place in the logs that the state is of.
func (f *Frozen) Vector() (v Vector, err error) {
	file := f.store.layers.file
	for st := range streamCount {
		var row streamRow
		val, ok, err := file.get(f.sn, bMeta, st.key())
		if err != nil {
			return v, err
		}
		if ok && row.decode(val) != nil {
			return v, file.damaged(errMalformed)
		}
		v.set(st, row.position)
	}
	return v, nil
}

// Hash reads the whole state. It fails with ErrDamaged where a row cannot be trusted.
func (f *Frozen) Hash(ctx context.Context) (out Hashes, err error) {
	if out.Vector, err = f.Vector(); err != nil {
		return out, err
	}
	out.Buckets = map[string][sha256.Size]byte{}
	for b := range bucketCount {
		sum := sha256.New()
		_, err := f.store.layers.file.scanBucket(ctx, f.sn, b, func(_ bucket, key string, val []byte) {
			var e encoder
			e.string(key)
			e.bytes(val)
			sum.Write(e)
		})
		if err != nil {
			return out, fmt.Errorf("hash projection: %w", err)
		}
		out.Buckets[b.String()] = [sha256.Size]byte(sum.Sum(nil))
	}
	return out, nil
}

// Stats describes the projection.
func (s *Store) Stats() Stats {
	st := Stats{Rows: map[string]uint64{}}
	size, free, sums := s.layers.file.stats()
	st.FileBytes, st.FreeBytes = size, free
	for b := bMeta + 1; b < bucketCount; b++ {
		st.Rows[b.String()] = sums[b].rows
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	st.Position, st.Saved, st.FlushErrors = s.vector(), s.saved, s.failures
	st.Unsaved = s.active.records
	if s.flushing != nil {
		st.Unsaved += s.flushing.records
	}
	for i := range s.streams {
		st.Counters[i] = s.streams[i].Counters
	}
	for _, n := range s.pending {
		st.Pending += n
	}
	return st
}

func (s *Store) fileSize() (int64, error) { return s.layers.file.size() }

// PendingBirths lists the births that have pending matches, in rising order.
func (s *Store) PendingBirths() []record.Sequence {
	s.mu.RLock()
	defer s.mu.RUnlock()
	births := make([]record.Sequence, 0, len(s.pending))
	for b := range s.pending {
		births = append(births, b)
	}
	slices.Sort(births)
	return births
}
