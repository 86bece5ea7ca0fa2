package match

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// answer is what the fake log does with a publish.
type answer int

const (
	ack          answer = iota
	refused             // not stored, and an error
	lostAnswer          // stored, and an error
	late                // an error, and stored later if the expectation still holds then
	readFails           // the next reading of the newest block fails
	eventsFail          // the next reading of events fails
	stopsBefore         // the runner is stopped before the block is stored
	stopsAfter          // the runner is stopped between the block's storing and its answer
	answersCount        // how many there are
)

var errFault = errors.New("fault made by the test")

// fakeLog is a partition's events and its chain of blocks. Faults are taken from a script;
// when it is used up everything succeeds.
type fakeLog struct {
	mu      sync.Mutex
	changes []record.Change
	last    record.Sequence // of the log, foreign events included
	blocks  []stored
	seq     record.Sequence
	delayed []stored // may still come
	script  []answer
	fail    map[answer]bool
	stop    func()        // stops the runner in use
	moved   chan struct{} // closed and replaced when events or blocks are added

	// hold, where set, keeps a publish waiting until it can receive.
	hold chan struct{}

	bodies map[record.Sequence][]byte
	gone   map[record.Sequence]bool

	aside     []aside
	asideFail int
}

type stored struct {
	seq, expect record.Sequence
	block       record.Block
}

type aside struct {
	event  record.Sequence
	reason string
}

func newFakeLog(script ...answer) *fakeLog {
	return &fakeLog{
		script: script, fail: map[answer]bool{}, moved: make(chan struct{}), stop: func() {},
		bodies: map[record.Sequence][]byte{}, gone: map[record.Sequence]bool{},
	}
}

// write adds a change of a resource to the partition.
func (l *fakeLog) write(c record.Change) record.Sequence {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	c.Sequence = l.last
	c.Time = time.Unix(int64(l.last), 0).UTC()
	if c.Key.ID == "" {
		c.Key = fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprintf("r%d", l.last))}
	}
	if c.Body == nil && c.Interaction != fhir.Delete {
		c.Body = fmt.Appendf(nil, `{"resourceType":%q,"id":%q}`, c.Key.Type, c.Key.ID)
	}
	l.bodies[c.Sequence] = c.Body
	l.changes = append(l.changes, c)
	l.wake()
	return c.Sequence
}

// foreign adds events that belong to other partitions.
func (l *fakeLog) foreign(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last += record.Sequence(n)
	l.wake()
}

func (l *fakeLog) wake() {
	close(l.moved)
	l.moved = make(chan struct{})
}

// await returns when a condition on the log holds, which is looked at whenever it moves.
func (l *fakeLog) await(holds func() bool) {
	for {
		l.mu.Lock()
		ok, moved := holds(), l.moved
		l.mu.Unlock()
		if ok {
			return
		}
		<-moved
	}
}

// through is the place up to which the chain is complete. Called with mu held.
func (l *fakeLog) through() record.Sequence {
	if len(l.blocks) == 0 {
		return 0
	}
	return l.blocks[len(l.blocks)-1].block.Through
}

// complete reports whether the chain has reached the end of the log. Called with mu held.
func (l *fakeLog) complete() bool {
	return l.through() == l.last && l.blocks[len(l.blocks)-1].block.Cut == nil
}

func (l *fakeLog) chain() []record.Block {
	l.mu.Lock()
	defer l.mu.Unlock()
	var blocks []record.Block
	for _, s := range l.blocks {
		blocks = append(blocks, s.block)
	}
	return blocks
}

// Next gives changes a few at a time.
func (l *fakeLog) Next(ctx context.Context, _ string, after record.Sequence, dst []record.Change) ([]record.Change, record.Sequence, error) {
	for {
		l.mu.Lock()
		if l.fail[eventsFail] {
			delete(l.fail, eventsFail)
			l.mu.Unlock()
			return nil, 0, errFault
		}
		if l.last > after {
			defer l.mu.Unlock()
			dst = dst[:0]
			for _, c := range l.changes {
				if c.Sequence > after && len(dst) < cap(dst) {
					dst = append(dst, c)
				}
			}
			if len(dst) == cap(dst) {
				return dst, dst[len(dst)-1].Sequence, nil
			}
			return dst, l.last, nil
		}
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (l *fakeLog) Body(_ context.Context, seq record.Sequence) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail[readFails] {
		delete(l.fail, readFails)
		return nil, errFault
	}
	if l.gone[seq] {
		return nil, fmt.Errorf("version %d: %w", seq, ErrGone)
	}
	return l.bodies[seq], nil
}

func (l *fakeLog) Newest(context.Context, string) (record.Block, record.Sequence, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail[readFails] {
		delete(l.fail, readFails)
		return record.Block{}, 0, false, errFault
	}
	if len(l.blocks) == 0 {
		return record.Block{}, 0, false, nil
	}
	s := l.blocks[len(l.blocks)-1]
	return s.block, s.seq, true, nil
}

func (l *fakeLog) Publish(ctx context.Context, _ string, b record.Block, expect record.Sequence) (record.Sequence, error) {
	if l.hold != nil {
		select {
		case <-l.hold:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.delayed { // what was on its way arrives before what is sent later
		l.store(d.block, d.expect)
	}
	l.delayed = nil
	var a answer
	if len(l.script) > 0 {
		a, l.script = l.script[0], l.script[1:]
	}
	switch a {
	case refused:
		return 0, errFault
	case late:
		l.delayed = append(l.delayed, stored{block: b, expect: expect})
		return 0, errFault
	case stopsBefore:
		l.stop()
		return 0, errFault
	case lostAnswer:
		l.store(b, expect)
		return 0, errFault
	case stopsAfter:
		l.store(b, expect)
		l.stop()
		return 0, errFault
	case readFails, eventsFail:
		l.fail[a] = true
		l.store(b, expect)
		return 0, errFault
	}
	if !l.store(b, expect) {
		return 0, errors.New("wrong last sequence")
	}
	return l.seq, nil
}

// store appends a block if the expectation holds. Called with mu held.
func (l *fakeLog) store(b record.Block, expect record.Sequence) bool {
	newest := record.Sequence(0)
	if len(l.blocks) > 0 {
		newest = l.blocks[len(l.blocks)-1].seq
	}
	if expect != newest {
		return false
	}
	l.seq += 3 // other subjects of the stream move on meanwhile
	l.blocks = append(l.blocks, stored{seq: l.seq, block: b})
	l.wake()
	return true
}

func (l *fakeLog) SetAside(_ context.Context, e record.Event, reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asideFail > 0 {
		l.asideFail--
		return errFault
	}
	l.aside = append(l.aside, aside{e.Sequence, reason})
	return nil
}

// fakeIndex says what an event meets without looking at any criteria.
type fakeIndex func(at record.Sequence, r *search.Resource, verify index.Verify) []index.Hit

func (f fakeIndex) Match(at record.Sequence, _ time.Time, _ fhir.Interaction, r *search.Resource, v index.Verify, dst []index.Hit) []index.Hit {
	return append(dst, f(at, r, v)...)
}

// subscriptions meets n Subscriptions with every event.
func subscriptions(n int) fakeIndex {
	hits := make([]index.Hit, n)
	for i := range hits {
		hits[i] = index.Hit{ID: fhir.ID(fmt.Sprintf("s%05d", i)), Birth: record.Sequence(i + 1), Version: record.Sequence(i + 1)}
	}
	return func(record.Sequence, *search.Resource, index.Verify) []index.Hit { return hits }
}

func newRunner(l *fakeLog, x Index) *Runner {
	return &Runner{
		Partition: "p0-0", Definitions: search.R4(), Index: x,
		Events: l, Bodies: l, Blocks: l, Dead: l, Log: slog.New(slog.DiscardHandler),
	}
}

// naive is what the chain must hold when it is complete.
func naive(l *fakeLog, x Index) []record.Match {
	var all []record.Match
	for _, c := range l.changes {
		if c.Interaction == fhir.Unchanged {
			continue
		}
		for _, h := range x.Match(c.Sequence, c.Time, c.Interaction, nil, nil, nil) {
			all = append(all, record.Match{Event: c.Sequence, Subscription: h.ID, Birth: h.Birth, Version: h.Version, Interaction: c.Interaction})
		}
	}
	return all
}

// checkChain says what is wrong with a chain of blocks over a log whose matches are known.
// Invariant 2: what a block calls complete is complete in it and those before it.
// Invariant 3: no match is there twice.
func checkChain(blocks []record.Block, want []record.Match, base record.Sequence) error {
	var have []record.Match
	through := base
	for i, b := range blocks {
		if b.Through < through {
			return fmt.Errorf("block %d goes back from %d to %d", i, through, b.Through)
		}
		through = b.Through
		have = append(have, b.Matches...)
		complete := func(m record.Match) bool {
			return m.Event <= through || b.Cut != nil && m.Event == b.Cut.Event && m.Subscription <= b.Cut.After
		}
		n := 0
		for n < len(want) && complete(want[n]) {
			n++
		}
		if !slices.Equal(have, want[:n]) {
			return fmt.Errorf("after block %d (through %d, cut %v) the chain holds %d matches, want the first %d", i, through, b.Cut, len(have), n)
		}
	}
	return nil
}
