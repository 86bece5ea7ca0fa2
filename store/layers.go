package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("projection is closed")

// layers is an ordered key-value map in three layers: an overlay that takes what is folded,
// an overlay that is being written, and the file. A commit is one step for every reader and
// in one transaction of the file with all that it holds, its position included; so whatever
// prefix of the writes a crash leaves in the file is a state that once was.
//
// The writer goroutine belongs to layers: open starts it, close waits for it.
type layers struct {
	file  *file
	write func(*overlay) error // file.write; a test puts a failing disk here
	log   *slog.Logger

	// The writer's rhythm, and how much may be folded ahead of it before commits wait.
	flushRecords int
	flushEvery   time.Duration
	maxRecords   int
	maxBytes     int

	// mu guards all below. Readers hold it for reading over a whole view, so that they see a
	// commit whole or not at all; views are short. It is never held over a write to the file.
	mu       sync.RWMutex
	active   *overlay
	flushing *overlay // nil while nothing is being written
	saved    Vector   // position in the file
	err      error    // why nothing can be written any more
	closed   bool
	failures uint64        // writes that failed and were tried again
	turned   chan struct{} // closed and replaced when active turns, a write ends, or all ends
	moved    chan struct{} // closed at the next commit, and when all ends; nil while nobody waits

	batches sync.Pool // of *overlay, empty: what a batch collects its rows in

	dirty chan struct{} // active has something
	hurry chan struct{} // it should be written now
	stop  chan struct{}
	done  chan struct{}
}

// The rhythm of the writer: a transaction costs two syncs and a copy of each page that it
// touches, and what is not yet in the file after a crash is folded again, so there is no hurry
// but memory. A row that comes and goes between two transactions, as that of a match which is
// delivered at once, costs the file nothing.
const (
	flushRecords = 4000
	flushEvery   = 200 * time.Millisecond
	maxRecords   = 4 * flushRecords
	maxBytes     = 64 << 20
	retryWrite   = time.Second
)

func newLayers(f *file, log *slog.Logger) *layers {
	return &layers{
		file: f, write: f.write, log: log,
		flushRecords: flushRecords, flushEvery: flushEvery, maxRecords: maxRecords, maxBytes: maxBytes,
		active: newOverlay(),
		turned: make(chan struct{}),
		dirty:  make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// view runs fn on one state of the map. What fn keeps of values it must copy.
func (l *layers) view(fn func(*reader) error) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	r := l.reader(nil)
	defer r.done()
	if err := fn(r); err != nil && r.err == nil {
		return err
	}
	return r.err
}

// reader looks through the layers, a batch's rows (where there are) on top. Called with mu held,
// which must stay so while it is used.
func (l *layers) reader(rows *overlay) *reader {
	r := &reader{file: l.file}
	r.over = r.room[:0]
	if rows != nil {
		r.over = append(r.over, rows)
	}
	r.over = append(r.over, l.active)
	if l.flushing != nil {
		r.over = append(r.over, l.flushing)
	}
	return r
}

// batch collects writes that will be seen together. It reads through to the layers with its
// own writes on top.
type batch struct {
	*reader
	rows *overlay
}

func (b *batch) put(bk bucket, key string, val []byte) { b.rows.set(bk, key, val, false) }
func (b *batch) delete(bk bucket, key string)          { b.rows.set(bk, key, nil, true) }

// update lets fn read and collect writes, then commits them as so many records. seen runs
// with the commit, as one step with it for every reader.
//
// Two updates may run side by side only where neither reads what the other writes. While the
// writer is too far behind, the commit waits for it or for ctx.
func (l *layers) update(ctx context.Context, records int, fn func(*batch), seen func(*overlay)) error {
	rows, err := l.collect(fn)
	if err != nil {
		return err
	}
	if err := l.lockWithRoom(ctx); err != nil {
		return err
	}
	defer l.mu.Unlock()
	fresh := l.active.records == 0
	l.active.take(rows)
	l.batches.Put(rows)
	l.active.records += records
	seen(l.active)
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
	if fresh {
		wake(l.dirty)
	}
	if l.crowded(l.flushRecords, l.maxBytes/2) {
		wake(l.hurry)
	}
	return nil
}

// collect runs fn against the present state.
func (l *layers) collect(fn func(*batch)) (*overlay, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return nil, ErrClosed
	}
	rows, _ := l.batches.Get().(*overlay)
	if rows == nil {
		rows = newOverlay()
	}
	b := &batch{reader: l.reader(rows), rows: rows}
	defer b.done()
	fn(b)
	return b.rows, b.err
}

// lockWithRoom takes mu as soon as the active overlay may grow.
func (l *layers) lockWithRoom(ctx context.Context) error {
	for {
		l.mu.Lock()
		switch {
		case l.closed:
			l.mu.Unlock()
			return ErrClosed
		case l.err != nil:
			defer l.mu.Unlock()
			return l.err
		case !l.crowded(l.maxRecords, l.maxBytes):
			return nil
		}
		turned := l.turned
		l.mu.Unlock()
		select {
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *layers) crowded(records, bytes int) bool {
	return l.active.records >= records || l.active.bytes >= bytes
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// turn tells all who wait that something moved. Called with mu held.
func (l *layers) turn() {
	close(l.turned)
	l.turned = make(chan struct{})
}

// run writes what was folded, flushEvery after the first of it or as soon as there is much.
func (l *layers) run() {
	defer close(l.done)
	for {
		select {
		case <-l.dirty:
		case <-l.stop:
			for l.flush() {
				// What an earlier write left comes first, and then what was folded since.
			}
			return
		}
		t := time.NewTimer(l.flushEvery)
		select {
		case <-t.C:
		case <-l.hurry:
		case <-l.stop:
		}
		t.Stop()
		l.flush()
	}
}

// flush turns the active overlay and writes it, and reports whether it did. A full disk is
// waited for, since nothing is lost meanwhile, but not when the store is being closed; any
// other failure ends writing, for after it the file's state is unknown.
func (l *layers) flush() bool {
	o := l.turnActive()
	if o == nil {
		return false
	}
	for {
		err := l.write(o)
		if err == nil {
			break
		}
		if !isFull(err) {
			l.fail(err)
			return false
		}
		if l.countFailure() == 1 {
			l.log.Warn("projection cannot be written, will retry", "file", l.file.path, "err", err)
		}
		if !l.pause(retryWrite) {
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushing, l.saved = nil, o.at
	l.turn()
	return true
}

// turnActive makes the active overlay the one that is written; nil if it is empty or writing
// has ended. An overlay that could not be written goes first: a newer one carries a newer
// position, and in the file that would say that the rows of the older are there.
func (l *layers) turnActive() *overlay {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return nil
	case l.flushing != nil:
		return l.flushing
	case l.active.records == 0:
		return nil
	}
	l.flushing, l.active = l.active, newOverlay()
	l.active.at = l.flushing.at
	l.turn()
	return l.flushing
}

// isFull reports whether a write failed for want of space.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (l *layers) countFailure() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures++
	return l.failures
}

// pause waits, and reports false when the store is being closed meanwhile.
func (l *layers) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.stop:
		return false
	}
}

// fail ends writing. Reads go on: the overlays hold what the file does not.
func (l *layers) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = fmt.Errorf("write projection %s: %w", l.file.path, err)
	l.log.Error("projection cannot be written any more; restart this node", "file", l.file.path, "err", err)
	l.turn()
}

// sync waits until everything folded before the call is in the file.
func (l *layers) sync(ctx context.Context) error {
	l.mu.RLock()
	want := l.active.at
	l.mu.RUnlock()
	for {
		wake(l.hurry)
		l.mu.RLock()
		saved, err, closed, turned := l.saved, l.err, l.closed, l.turned
		l.mu.RUnlock()
		switch {
		case saved.Covers(want):
			return nil
		case closed:
			return ErrClosed
		case err != nil:
			return err
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close writes what is left, ends the writer and closes the file. What could not be written
// is in the logs.
func (l *layers) close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.turn()
	if l.moved != nil {
		close(l.moved) // whoever asks after this sees closed
		l.moved = nil
	}
	l.mu.Unlock()
	close(l.stop)
	<-l.done
	err := l.file.close()
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.err != nil {
		return l.err
	}
	if l.flushing != nil {
		return fmt.Errorf("projection %s was closed without its newest rows: no space", l.file.path)
	}
	return err
}
