package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/stream"
)

// eventLog is EVENTS with records of one size, of which some are no events.
type eventLog struct {
	mu      sync.Mutex
	last    record.Sequence
	size    int
	most    int // events in a run
	none    []record.Sequence
	broken  error // of runs
	singles []record.Sequence
	runs    []string
}

func (l *eventLog) event(seq record.Sequence) record.Event {
	return record.Event{Sequence: seq, Body: fmt.Appendf(nil, "%*d", l.size, seq)}
}

func (l *eventLog) read(_ context.Context, seq record.Sequence) (record.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.singles = append(l.singles, seq)
	if seq > l.last || slices.Contains(l.none, seq) {
		return record.Event{}, stream.ErrNotFound
	}
	return l.event(seq), nil
}

func (l *eventLog) readRun(_ context.Context, from record.Sequence, n int) (out []record.Event, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs = append(l.runs, fmt.Sprintf("%d+%d", from, n))
	for seq := from; seq <= l.last && seq < from+record.Sequence(n) && len(out) < l.most; seq++ {
		if !slices.Contains(l.none, seq) {
			out = append(out, l.event(seq))
		}
	}
	return out, l.broken
}

func pageOf(seqs ...record.Sequence) (ps []deliver.Pending) {
	for _, seq := range seqs {
		ps = append(ps, deliver.Pending{Match: record.Match{Event: seq}})
	}
	return ps
}

func upTo(from, to record.Sequence) (seqs []record.Sequence) {
	for ; from <= to; from++ {
		seqs = append(seqs, from)
	}
	return seqs
}

func TestABacklogIsReadInRuns(t *testing.T) {
	failed := errors.New("not now")
	for _, tc := range []struct {
		name    string
		log     *eventLog
		expect  []record.Sequence
		runs    []string
		singles []record.Sequence
	}{
		{"one after the other", &eventLog{last: 100, most: 64}, upTo(1, 10), []string{"1+10"}, nil},
		{"what is between them is read in vain", &eventLog{last: 100, most: 64}, []record.Sequence{3, 7, 9}, []string{"3+7"}, nil},
		{"but not much of it", &eventLog{last: 100, most: 64}, []record.Sequence{3, 8, 13}, nil, []record.Sequence{3, 8, 13}},
		{"a long one in several", &eventLog{last: 100, most: 64}, upTo(1, 70), []string{"1+64", "65+6"}, nil},
		{"large bodies in pieces", &eventLog{last: 100, most: 4}, upTo(1, 10), []string{"1+10", "5+6", "9+2"}, nil},
		{"a replay between others", &eventLog{last: 100, most: 64}, []record.Sequence{8, 9, 2, 3}, []string{"8+2", "2+2"}, nil},
		{"one that is no event says so", &eventLog{last: 100, most: 64, none: []record.Sequence{4}}, upTo(3, 5), []string{"3+3"}, []record.Sequence{4}},
		{"a run that fails", &eventLog{last: 100, broken: failed}, upTo(1, 3), []string{"1+3"}, []record.Sequence{1, 2, 3}},
		{"nothing was expected", &eventLog{last: 100, most: 64}, nil, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := tc.log
			v := newVersions(1<<20, log.read, log.readRun)
			v.expect(pageOf(tc.expect...))
			for _, seq := range tc.expect {
				e, err := v.Event(t.Context(), seq)
				if slices.Contains(log.none, seq) {
					if !errors.Is(err, stream.ErrNotFound) {
						t.Errorf("%d: %v", seq, err)
					}
				} else if err != nil || e.Sequence != seq || string(e.Body) != string(log.event(seq).Body) {
					t.Errorf("%d: %+v, %v", seq, e, err)
				}
			}
			if !slices.Equal(log.runs, tc.runs) || !slices.Equal(log.singles, tc.singles) {
				t.Errorf("runs %v and single reads %v, want %v and %v", log.runs, log.singles, tc.runs, tc.singles)
			}
			if len(v.due) != 0 {
				t.Errorf("still expected: %v", v.due)
			}
		})
	}
}

func TestARunIsReadOnceForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &eventLog{last: 10, most: 64}
		gate := make(chan struct{})
		v := newVersions(1<<20, log.read, func(ctx context.Context, from record.Sequence, n int) ([]record.Event, error) {
			<-gate
			return log.readRun(ctx, from, n)
		})
		v.expect(pageOf(upTo(1, 8)...))
		var all sync.WaitGroup
		for seq := range record.Sequence(8) {
			all.Go(func() {
				if e, err := v.Event(t.Context(), seq+1); err != nil || e.Sequence != seq+1 {
					t.Errorf("%d: %+v, %v", seq+1, e, err)
				}
			})
		}
		synctest.Wait() // one reads, seven wait
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := v.Event(ended, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("one that is cut waits on: %v", err)
		}
		close(gate)
		all.Wait()
		if len(log.runs) != 1 || len(log.singles) != 0 {
			t.Errorf("runs %v, single reads %v", log.runs, log.singles)
		}
	})
}

func TestTheNewestEventsAreKeptWhateverIsReadAgain(t *testing.T) {
	log := &eventLog{last: 2000, most: 64, size: 512}
	const room = 1 << 20 // some 900 of the newest
	v := newVersions(room, log.read, log.readRun)
	for _, seq := range upTo(1, 2000) {
		if seq%7 != 0 { // those are no events
			v.put(log.event(seq))
		}
	}
	for _, seq := range upTo(1, 1000) {
		if e, err := v.Event(t.Context(), seq); err != nil || e.Sequence != seq {
			t.Fatalf("%d: %+v, %v", seq, e, err)
		}
	}
	log.singles = nil
	for _, seq := range upTo(1200, 2000) {
		if _, err := v.Event(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	for _, seq := range log.singles {
		if seq%7 != 0 {
			t.Errorf("%d was driven out", seq)
		}
	}
	if used := v.written.bytes + v.reread.bytes; used > room {
		t.Errorf("%d bytes are in use of %d", used, room)
	}
	if held := len(v.reread.bySeq); held != len(v.reread.order) {
		t.Errorf("%d events read again, %d in their order", held, len(v.reread.order))
	}
}

func TestWhatIsExpectedAndNeverAskedForIsForgotten(t *testing.T) {
	log := &eventLog{}
	v := newVersions(1<<20, log.read, log.readRun)
	for from := record.Sequence(1); from < 4*maxDue; from += 64 {
		v.expect(pageOf(upTo(from, from+63)...))
		if len(v.due) > maxDue {
			t.Fatalf("%d are remembered", len(v.due))
		}
	}
}
