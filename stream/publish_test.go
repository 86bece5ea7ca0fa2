package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go"
)

// outcome is what one message's writer was told.
type outcome struct {
	ack Ack
	err error
}

// together writes messages as one group, whatever its size, and returns the answers.
func together(t *testing.T, p *Publisher, ms ...Msg) []outcome {
	t.Helper()
	got := make([]outcome, len(ms))
	var g []*unit
	for i, m := range ms {
		u := p.unitOf(t, m)
		u.done = func(acks []Ack, err error) {
			got[i].err = err
			if err == nil {
				got[i].ack = acks[0]
			}
		}
		g = append(g, u)
	}
	p.commit(g)
	return got
}

func TestManyWritersShareBatchesAndEachGetsItsOwnSequence(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	const writers, each = 50, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	bodies := map[record.Sequence]string{}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				body := fmt.Sprintf("%d-%d", w, i)
				a, err := p.Publish(t.Context(), ingest(fhir.ID(body), []byte(body)))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				bodies[a.Sequence] = body
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(bodies) != writers*each {
		t.Fatalf("%d sequences for %d messages", len(bodies), writers*each)
	}
	for seq, body := range bodies {
		m, err := s.Get(t.Context(), Events, seq)
		if err != nil || string(m.Data) != body {
			t.Errorf("sequence %d holds %q, want %q: %v", seq, m.Data, body, err)
		}
	}
	if p.Durable() != writers*each+1 {
		t.Errorf("durable up to %d", p.Durable())
	}
}

func TestMessagesOfOneCallerKeepTheirOrder(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	const n = 3000
	var mu sync.Mutex
	var seqs []record.Sequence
	var wg sync.WaitGroup
	wg.Add(n)
	for i := range n {
		err := p.Enqueue(t.Context(), ingest("same", []byte(strconv.Itoa(i))), func(a Ack, err error) {
			defer wg.Done()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			seqs = append(seqs, a.Sequence)
			mu.Unlock()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for i, seq := range seqs {
		if seq != record.Sequence(i+2) { // after the seal
			t.Fatalf("message %d has sequence %d", i, seq)
		}
	}
}

func TestInAGroupOnlyTheGuiltyMessageIsRefused(t *testing.T) {
	for _, form := range []struct {
		name string
		n    int
	}{{"singles", batchFrom - 1}, {"batch", 40}} {
		t.Run(form.name, func(t *testing.T) {
			s := start(t)
			p := publisher(t, s, Events, Options{})
			first, err := p.Publish(t.Context(), Msg{Subject: ingest("known", nil).Subject, Data: []byte("1"), MsgID: "id-1"})
			if err != nil {
				t.Fatal(err)
			}
			ms := make([]Msg, form.n)
			for i := range ms {
				ms[i] = ingest(fhir.ID("o"+strconv.Itoa(i)), []byte(strconv.Itoa(i)))
			}
			duplicate, conflict, fits, again := 3, 5, 7, 9
			ms[duplicate].MsgID = "id-1"
			ms[conflict].ExpectLast = Expect(77)
			ms[fits].ExpectLast = Expect(0)
			ms[again].MsgID = "id-2"
			ms[again+1].MsgID = "id-2" // within the same batch
			got := together(t, p, ms...)
			last := first.Sequence
			for i, o := range got {
				switch i {
				case duplicate:
					if o.err != nil || o.ack != (Ack{first.Sequence, true}) {
						t.Errorf("duplicate: %+v", o)
					}
					continue
				case conflict:
					if !errors.Is(o.err, ErrConflict) {
						t.Errorf("conflict: %+v", o)
					}
					continue
				case again + 1:
					if o.err != nil || o.ack != (Ack{got[again].ack.Sequence, true}) {
						t.Errorf("duplicate within the batch: %+v, first is %+v", o, got[again])
					}
					continue
				}
				if o.err != nil || o.ack.Duplicate || o.ack.Sequence != last+1 {
					t.Errorf("message %d: %+v, want sequence %d", i, o, last+1)
				}
				last = o.ack.Sequence
			}
			if _, end, err := s.State(t.Context(), Events); err != nil || end != last {
				t.Errorf("log ends at %d, want %d: %v", end, last, err)
			}
		})
	}
}

func TestABatchRefusedForOneConditionIsHalved(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	for _, guilty := range [][]int{{0}, {39}, {17, 18}} {
		ms := make([]Msg, 40)
		for i := range ms {
			ms[i] = ingest(fhir.ID("o"+strconv.Itoa(i)), nil)
		}
		for _, i := range guilty {
			ms[i].ExpectLast = Expect(1 << 40)
		}
		for i, o := range together(t, p, ms...) {
			if bad := slices.Contains(guilty, i); bad != errors.Is(o.err, ErrConflict) || !bad && o.err != nil {
				t.Errorf("guilty %v: message %d: %v", guilty, i, o.err)
			}
		}
	}
}

func TestConditionalWritesOfOneSubjectGoIntoSeparateBatches(t *testing.T) {
	s := start(t)
	p := &Publisher{s: s, stream: Events, batches: true} // without its loop
	conditional := ingest("o7", nil)
	conditional.ExpectLast = Expect(9)
	byOther := ingest("x", nil)
	byOther.ExpectLast, byOther.ExpectSubject = Expect(1), EventSubject(fhir.Key{Type: "Observation", ID: "y"})
	for i := range 30 {
		p.queue = append(p.queue, p.unitOf(t, ingest(fhir.ID("o"+strconv.Itoa(i)), nil)))
	}
	for _, m := range []Msg{conditional, ingest("o7", nil), ingest("y", nil), byOther, ingest("z", nil)} {
		p.queue = append(p.queue, p.unitOf(t, m))
	}
	p.queue = append(p.queue, p.unitOf(t, ingest("a", nil), ingest("b", nil)), p.unitOf(t, ingest("c", nil)))
	for i, want := range []int{30, 3, 4, 0} {
		if g := p.next(); len(g) != want {
			t.Errorf("group %d has %d units, want %d", i, len(g), want)
		}
	}
}

func TestAConditionMeansTheSubjectAsStored(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	a, err := p.Publish(t.Context(), ingest("c", []byte("1")))
	if err != nil {
		t.Fatal(err)
	}
	write := func(expect record.Sequence, subject string) error {
		m := ingest("c", []byte("2"))
		if subject != "" {
			m = Msg{Subject: UniqueSubject("h"), ExpectSubject: subject}
		}
		m.ExpectLast = &expect
		_, err := p.Publish(t.Context(), m)
		return err
	}
	stored := EventSubject(fhir.Key{Type: "Observation", ID: "c"})
	if err := write(0, ""); !errors.Is(err, ErrConflict) {
		t.Errorf("expectation 0 of a subject with a message: %v", err)
	}
	if err := write(a.Sequence+1, stored); !errors.Is(err, ErrConflict) {
		t.Errorf("wrong expectation of another subject: %v", err)
	}
	if err := write(a.Sequence, stored); err != nil {
		t.Errorf("right expectation of another subject: %v", err)
	}
	if err := write(a.Sequence, ""); err != nil {
		t.Errorf("right expectation: %v", err)
	}
}

func TestATransactionIsWrittenWholeOrNotAtAll(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	transaction := func(n int, change func(ms []Msg)) ([]Ack, error) {
		ms := make([]Msg, n)
		for i := range ms {
			ms[i] = ingest(fhir.ID(fmt.Sprintf("t%d", i)), []byte("t"))
		}
		change(ms)
		return p.PublishAtomic(t.Context(), ms)
	}
	nothing := func([]Msg) {}
	for _, n := range []int{1, 2, 999, 1000} {
		acks, err := transaction(n, nothing)
		if err != nil || len(acks) != n || acks[n-1].Sequence != acks[0].Sequence+record.Sequence(n-1) {
			t.Fatalf("transaction of %d: %d answers, %v", n, len(acks), err)
		}
	}
	_, before, _ := s.State(t.Context(), Events)
	if _, err := transaction(3, func(ms []Msg) { ms[0].MsgID = "tx" }); err != nil {
		t.Fatal(err)
	}
	before += 3
	tests := []struct {
		name   string
		n      int
		change func([]Msg)
		want   error
	}{
		{"too many", 1001, nothing, ErrTooLarge},
		{"conflict at the end", 30, func(ms []Msg) { ms[29].ExpectLast = Expect(1) }, ErrConflict},
		{"known id", 30, func(ms []Msg) { ms[12].MsgID = "tx" }, ErrDuplicate},
		{"wildcard", 2, func(ms []Msg) { ms[1].Subject = "fhir.ingest.Patient.*" }, ErrRefused},
	}
	for _, tt := range tests {
		if _, err := transaction(tt.n, tt.change); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, end, _ := s.State(t.Context(), Events); end != before {
		t.Errorf("refused transactions left messages: log ends at %d, want %d", end, before)
	}
	if acks, err := p.PublishAtomic(t.Context(), nil); err != nil || acks != nil {
		t.Errorf("empty transaction: %v, %v", acks, err)
	}
	if _, err := publisher(t, s, Dead, Options{}).PublishAtomic(t.Context(), make([]Msg, 2)); !errors.Is(err, ErrRefused) {
		t.Errorf("transaction on a stream without batches: %v", err)
	}
}

// Else each change of a Subscription, which has its AuditEvent with it, would pay for a batch of its own.
func TestSmallTransactionsAreWrittenTogether(t *testing.T) {
	p := &Publisher{s: start(t), stream: Events, batches: true} // without its loop
	transaction := func(n int, id string) *unit {
		ms := make([]Msg, n)
		for i := range ms {
			ms[i] = ingest(fhir.ID(id+strconv.Itoa(i)), nil)
		}
		return p.unitOf(t, ms...)
	}
	for i := range 200 {
		p.queue = append(p.queue, transaction(2, fmt.Sprint("t", i)), p.unitOf(t, ingest("s", nil)))
	}
	p.queue = append(p.queue, transaction(maxShared+1, "large"))
	for i := range 501 {
		p.queue = append(p.queue, transaction(2, fmt.Sprint("u", i)))
	}
	for i, want := range []int{400, 1, 500, 1, 0} {
		if g := p.next(); len(g) != want {
			t.Errorf("group %d has %d units, want %d", i, len(g), want)
		}
	}
	// One whose condition is about what the group writes waits for the next group.
	conditional := transaction(2, "t")
	conditional.src[1].ExpectLast = Expect(7)
	p.queue = append(p.queue, p.unitOf(t, ingest("t1", nil)), conditional)
	if g := p.next(); len(g) != 1 {
		t.Errorf("a condition on what the group writes is in a group of %d", len(g))
	}
}

// Each of a group is answered for itself: what one of them is refused for costs the others nothing.
func TestInAGroupOnlyTheGuiltyTransactionIsRefused(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	named := func(id string, ms ...Msg) []Msg { ms[0].MsgID = id; return ms }
	conflict := ingest("c", nil)
	conflict.ExpectLast = Expect(1 << 40)
	units := []struct {
		ms   []Msg
		want error
	}{
		{[]Msg{ingest("s1", nil)}, nil},
		{named("one", ingest("a", nil), ingest("a2", nil)), nil},
		{[]Msg{ingest("b", nil), conflict}, ErrConflict},
		{named("one", ingest("a", nil), ingest("a2", nil)), ErrDuplicate},
		{[]Msg{ingest("s2", nil)}, nil},
		{[]Msg{ingest("d", nil), ingest("d2", nil), ingest("d3", nil)}, nil},
	}
	var g []*unit
	got := make([][]Ack, len(units))
	for i, u := range units {
		unit := p.unitOf(t, u.ms...)
		unit.done = func(acks []Ack, err error) {
			if got[i] = acks; !errors.Is(err, u.want) {
				t.Errorf("unit %d: %v, want %v", i, err, u.want)
			}
		}
		g = append(g, unit)
	}
	_, before, err := s.State(t.Context(), Events)
	if err != nil {
		t.Fatal(err)
	}
	p.commit(g)
	next := before + 1
	for i, u := range units {
		if u.want != nil {
			continue
		}
		for k, m := range u.ms {
			stored, err := s.Get(t.Context(), Events, next)
			if err != nil || len(got[i]) != len(u.ms) || got[i][k].Sequence != next || stored.Subject != StoredSubject(m.Subject) {
				t.Errorf("unit %d is answered %v, and %d holds %s: %v", i, got[i], next, stored.Subject, err)
			}
			next++
		}
	}
	if _, last, err := s.State(t.Context(), Events); err != nil || last != next-1 {
		t.Errorf("the log ends at %d, want %d: %v", last, next-1, err)
	}
}

func TestTransactionsAmongSinglesAreNeverMixed(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := range 5 {
				if w%2 == 0 {
					if _, err := p.Publish(t.Context(), ingest(fhir.ID(fmt.Sprintf("s%d-%d", w, i)), nil)); err != nil {
						t.Error(err)
					}
					continue
				}
				acks, err := p.PublishAtomic(t.Context(), []Msg{ingest("a", nil), ingest("b", nil), ingest("c", nil)})
				if err != nil || acks[2].Sequence != acks[0].Sequence+2 {
					t.Errorf("transaction lies at %v: %v", acks, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestLargeMessagesPassUpToTheLimit(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	large := bytes.Repeat([]byte("x"), 8<<20)
	a, err := p.Publish(t.Context(), ingest("large", large))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Get(t.Context(), Events, a.Sequence); err != nil || !bytes.Equal(m.Data, large) {
		t.Errorf("8 MiB came back as %d bytes: %v", len(m.Data), err)
	}
	if _, err := p.Publish(t.Context(), ingest("larger", bytes.Repeat([]byte("x"), 9<<20))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := p.Publish(t.Context(), Msg{Subject: "fhir.control.x", Header: nats.Header{"H": {strings.Repeat("x", 64<<10)}}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("headers over the limit: %v", err)
	}
	five := make([]Msg, 5)
	for i := range five {
		five[i] = ingest("large", large)
	}
	if acks, err := p.PublishAtomic(t.Context(), five); err != nil || len(acks) != 5 {
		t.Errorf("transaction of 40 MiB: %v", err)
	}
	if _, err := p.PublishAtomic(t.Context(), append(append(five, five...), five[0])); !errors.Is(err, ErrTooLarge) {
		t.Errorf("transaction of 88 MiB: %v", err)
	}
	var wg sync.WaitGroup // what is collected is cut at 8 MiB
	for i := range 30 {
		wg.Go(func() {
			if _, err := p.Publish(t.Context(), ingest(fhir.ID(strconv.Itoa(i)), large[:1<<20])); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestWhatSpeaksToTheEngineIsRefused(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	for _, h := range []string{"Nats-Rollup", "nats-rollup", "Nats-TTL", "Nats-Batch-Id", "Nats-Expected-Last-Sequence", "Nats-Schedule", "Nats-Msg-Id"} {
		if _, err := p.Publish(t.Context(), Msg{Subject: "fhir.control.x", Header: nats.Header{h: {"1"}}}); !errors.Is(err, ErrRefused) {
			t.Errorf("header %s: %v", h, err)
		}
		err := CheckHeaders(nats.Header{h: {"1"}, "Fhir-Interaction": {"update"}})
		if own := h == "Nats-Msg-Id"; own != (err == nil) || !own && fhir.AsError(err) == nil {
			t.Errorf("producer's header %s: %v", h, err)
		}
	}
	if _, err := p.Publish(t.Context(), Msg{Subject: "fhir.match.p"}); err == nil {
		t.Error("a subject of another stream was taken")
	}
}

func TestAFullDiskIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{MinFree: 1 << 62})
	if _, err := p.Publish(t.Context(), ingest("a", nil)); !errors.Is(err, ErrFull) {
		t.Errorf("below the reserve: %v", err)
	}
	if _, last, _ := s.State(t.Context(), Events); last != 1 {
		t.Errorf("log ends at %d", last)
	}
}

func TestTheEnginesLimitIsErrFullAndReadsGoOn(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxStore = 4 << 20 })
	p := publisher(t, s, Events, Options{Wait: time.Second})
	var last record.Sequence
	for i := 0; ; i++ {
		a, err := p.Publish(t.Context(), ingest(fhir.ID(strconv.Itoa(i)), bytes.Repeat([]byte("x"), 512<<10)))
		if err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatalf("full store: %v", err)
			}
			break
		}
		if last = a.Sequence; i > 100 {
			t.Fatal("the store is never full")
		}
	}
	if _, err := p.PublishAtomic(t.Context(), []Msg{ingest("a", nil), ingest("b", nil)}); !errors.Is(err, ErrFull) {
		t.Errorf("transaction into a full store: %v", err)
	}
	if _, err := s.Get(t.Context(), Events, last); err != nil {
		t.Error(err)
	}
}

func TestAWriterThatLeavesBeforeItsTurnWritesNothing(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.mu.Lock()
	u := p.unitOf(t, ingest("a", nil))
	u.state.Store(withdrawn)
	p.queue, p.msgs = append(p.queue, u), p.msgs+1
	p.mu.Unlock()
	p.signal()
	if _, err := p.Publish(t.Context(), ingest("b", nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LastFor(t.Context(), Events, EventSubject(fhir.Key{Type: "Observation", ID: "a"})); !errors.Is(err, ErrNotFound) {
		t.Errorf("withdrawn message: %v", err)
	}
	if _, err := p.Publish(ctx, ingest("c", nil)); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestACloseAnswersWhatIsQueuedAndRefusesTheRest(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	var answered atomic.Int32
	for i := range 200 {
		if err := p.Enqueue(t.Context(), ingest(fhir.ID(strconv.Itoa(i)), nil), func(_ Ack, err error) {
			if err == nil {
				answered.Add(1)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := answered.Load(); n != 200 {
		t.Errorf("%d of 200 written", n)
	}
	if _, err := p.Publish(t.Context(), ingest("late", nil)); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

func TestALostAnswerIsLookedUpInTheLog(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	mark := p.Durable()
	pair := []Msg{ingest("x", []byte("1")), ingest("y", []byte("2"))}
	acks, err := p.PublishAtomic(t.Context(), pair)
	if err != nil {
		t.Fatal(err)
	}
	single, err := p.Publish(t.Context(), Msg{Subject: ingest("z", nil).Subject, Data: []byte("3"), MsgID: "id"})
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]outcome{}
	made := func(name string, ms ...Msg) *unit {
		u := p.unitOf(t, ms...)
		u.done = func(acks []Ack, err error) {
			if err != nil {
				answers[name] = outcome{err: err}
				return
			}
			answers[name] = outcome{ack: acks[0]}
		}
		return u
	}
	absent := made("absent", ingest("never", []byte("4")))
	open := p.resolve([]*unit{
		made("pair", pair...),
		made("single", Msg{Subject: ingest("z", nil).Subject, Data: []byte("3"), MsgID: "id"}),
		made("part", ingest("y", []byte("2")), ingest("q", nil)), // its first message is taken by the pair
		absent,
	}, mark, errNoAnswer)
	if answers["pair"].ack != acks[0] || answers["single"].ack != single {
		t.Errorf("found %+v, want %v and %v", answers, acks[0], single)
	}
	if len(open) != 2 || open[1] != absent {
		t.Errorf("%d units are open", len(open))
	}
	open = p.resolve([]*unit{made("broken", ingest("y", []byte("2")), ingest("q", nil))}, mark, errNoAnswer)
	if len(open) != 0 || !errors.Is(answers["broken"].err, ErrUnknown) {
		t.Errorf("transaction that is there in part: %v", answers["broken"].err)
	}
	// A stream without batches has another fence.
	d := publisher(t, s, Dead, Options{})
	gone := d.unitOf(t, Msg{Subject: "fhir.dead.a"})
	if open := d.resolve([]*unit{gone}, d.Durable(), errNoAnswer); len(open) != 1 {
		t.Errorf("absent dead letter: %d open", len(open))
	}
	if _, last, _ := s.State(t.Context(), Dead); last != 0 {
		t.Error("the fence was stored")
	}
}

func TestAWriteWhoseAnswerIsLostIsAcknowledgedAndNotRepeated(t *testing.T) {
	for _, n := range []int{1, 3, 40} {
		s := start(t)
		p := publisher(t, s, Events, Options{Wait: time.Second})
		// Every answer to the group is lost: one for a batch, one for each single message.
		var lose atomic.Int32
		if lose.Store(1); n < batchFrom {
			lose.Store(int32(n))
		}
		if err := s.answers.sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		var err error
		s.answers.sub, err = s.nc.nc.Subscribe(s.answers.prefix+"*", func(m *nats.Msg) {
			if lose.Add(-1) < 0 {
				s.answers.take(m)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		ms := make([]Msg, n)
		for i := range ms {
			ms[i] = ingest(fhir.ID("o"+strconv.Itoa(i)), []byte(strconv.Itoa(i)))
		}
		for i, o := range together(t, p, ms...) {
			if o.err != nil || o.ack.Sequence != record.Sequence(i+2) {
				t.Errorf("of %d, message %d: %+v", n, i, o)
			}
		}
		if _, last, _ := s.State(t.Context(), Events); last != record.Sequence(n+2) { // seal, messages, seal
			t.Errorf("of %d: log ends at %d", n, last)
		}
	}
}

// TestWritesOverARestartAreAnsweredTruly restarts the server under writers: each write is
// answered, what is acknowledged is in the log, and nothing is in it twice.
func TestWritesOverARestartAreAnsweredTruly(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]record.Sequence{}
	enough := make(chan struct{}, 1000)
	for w := range 30 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				body := fmt.Sprintf("%d-%d", w, i)
				a, err := p.Publish(t.Context(), ingest(fhir.ID(body), []byte(body)))
				if err != nil {
					t.Errorf("%s: %v", body, err)
					return
				}
				mu.Lock()
				acked[body] = a.Sequence
				mu.Unlock()
				select {
				case enough <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 3 {
		for range 300 {
			<-enough
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	end, err := s.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]record.Sequence{}
	err = s.Follow(t.Context(), Events, 1, []string{FilterEvents, FilterControl}, func(ms []Message) error {
		for _, m := range ms {
			if _, _, err := ParseEvent(m.Subject); err == nil {
				if seen[string(m.Data)] != 0 {
					t.Errorf("%s is at %d and %d", m.Data, seen[string(m.Data)], m.Sequence)
				}
				seen[string(m.Data)] = m.Sequence
			}
			if m.Sequence == end {
				return errEnough
			}
		}
		return nil
	})
	if err != errEnough {
		t.Fatal(err)
	}
	for body, seq := range acked {
		if seen[body] != seq {
			t.Errorf("%s was acknowledged at %d and is at %d", body, seq, seen[body])
		}
	}
	t.Logf("%d writes", len(acked))
}

func TestOfTwoWritersOfAChainOneGetsAConflict(t *testing.T) {
	s := start(t)
	last := record.Sequence(0)
	for range 20 {
		errs := make([]error, 2)
		seqs := make([]record.Sequence, 2)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { seqs[i], errs[i] = s.Append(t.Context(), Matches, MatchSubject("p"), []byte("{}"), last) })
		}
		wg.Wait()
		win := 0
		if errs[0] != nil {
			win = 1
		}
		if errs[win] != nil || !errors.Is(errs[1-win], ErrConflict) && !errors.Is(errs[1-win], ErrBusy) {
			t.Fatalf("answers %v", errs)
		}
		last = seqs[win]
		if m, err := s.LastFor(t.Context(), Matches, MatchSubject("p")); err != nil || m.Sequence != last {
			t.Fatalf("newest block is %d, want %d: %v", m.Sequence, last, err)
		}
	}
	if s.Durable(Matches) != last {
		t.Errorf("durable up to %d, want %d", s.Durable(Matches), last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Append(ctx, Matches, MatchSubject("p"), nil, last); err != nil && !errors.Is(err, ErrUnknown) {
		t.Errorf("append without waiting: %v", err)
	}
}

func TestLastForAsksTheLeaderInAForm(t *testing.T) {
	s := start(t)
	a, err := s.Publish(t.Context(), Dead, Msg{Subject: "fhir.dead.s", Header: nats.Header{"Dead-Reason": {"gone"}}, Data: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.LastFor(t.Context(), Dead, "fhir.dead.s")
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.leader(t.Context(), Dead, map[string]any{"last_by_subj": "fhir.dead.s"})
	if err != nil || got.Sequence != a.Sequence || !got.Time.Equal(want.Time) || got.Header.Get("Dead-Reason") != "gone" ||
		want.Header.Get("Dead-Reason") != "gone" || string(got.Data) != string(want.Data) || got.Subject != want.Subject {
		t.Errorf("leader says %+v, store says %+v: %v", got, want, err)
	}
	if _, err := s.leader(t.Context(), Dead, map[string]any{"last_by_subj": "fhir.dead.t"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown subject: %v", err)
	}
	if _, err := s.Get(t.Context(), Dead, 99); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown sequence: %v", err)
	}
}
