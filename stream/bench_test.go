package stream

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

var kilobyte = []byte(`{"resourceType":"Observation","text":"` + string(make1k()) + `"}`)

func make1k() []byte { return slices.Repeat([]byte("x"), 980) }

// BenchmarkPublisher is the rate of durable writes of 1 KB by concurrent callers, each of whom
// waits for its answer before it writes again.
func BenchmarkPublisher(b *testing.B) {
	for _, callers := range []int{1, 8, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			p := publisher(b, start(b), Events, Options{})
			benchmarkCallers(b, p, callers)
		})
	}
}

// BenchmarkCrossover compares a group of n messages sent as singles and as one batch. The
// constant batchFrom lies near where they meet.
func BenchmarkCrossover(b *testing.B) {
	for _, n := range []int{2, 4, 6, 8, 10, 12, 16, 24} {
		for _, form := range []string{"singles", "batch"} {
			b.Run(fmt.Sprintf("n=%d/%s", n, form), func(b *testing.B) {
				p := publisher(b, start(b), Events, Options{})
				for b.Loop() {
					var g []*unit
					for i := range n {
						g = append(g, p.unitOf(b, ingest(fhir.ID("o"+strconv.Itoa(i)), kilobyte)))
					}
					write := p.singles
					if form == "batch" {
						write = p.batch
					}
					if open, why := write(g); len(open) > 0 {
						b.Fatal(why)
					}
				}
				b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "msgs/s")
			})
		}
	}
}

func (p *Publisher) unitOf(t testing.TB, ms ...Msg) *unit {
	u := &unit{src: ms, done: func(_ []Ack, err error) {
		if err != nil {
			t.Error(err)
		}
	}}
	for _, m := range ms {
		wire, size, err := p.s.prepare(m)
		if err != nil {
			t.Fatal(err)
		}
		u.wire, u.size = append(u.wire, wire), u.size+size
		u.subjects = append(u.subjects, StoredSubject(m.Subject))
	}
	return u
}

func ingest(id fhir.ID, data []byte) Msg {
	return Msg{Subject: IngestSubject(fhir.Key{Type: "Observation", ID: id}), Data: data}
}

func benchmarkCallers(b *testing.B, p *Publisher, callers int) {
	var mu sync.Mutex
	var took []time.Duration
	work := make(chan int)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range work {
				began := time.Now()
				if _, err := p.Publish(b.Context(), ingest(fhir.ID(strconv.Itoa(i%1000)), kilobyte)); err != nil {
					b.Error(err)
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
			}
		})
	}
	n := 0
	for b.Loop() {
		work <- n
		n++
	}
	close(work)
	wg.Wait()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msgs/s")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkFollow is the rate at which a reader catches up with a log of 1 KB messages.
func BenchmarkFollow(b *testing.B) {
	s := start(b)
	p := publisher(b, s, Events, Options{})
	const n = 20_000
	fillEvents(b, p, n)
	for b.Loop() {
		got := 0
		err := s.Follow(b.Context(), Events, 1, []string{FilterEvents}, func(ms []Message) error {
			if got += len(ms); got >= n {
				return errEnough
			}
			return nil
		})
		if err != errEnough {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "msgs/s")
}

var errEnough = fmt.Errorf("enough")

// fillEvents writes n messages and returns the last sequence.
func fillEvents(t testing.TB, p *Publisher, n int) record.Sequence {
	t.Helper()
	var wg sync.WaitGroup
	wg.Add(n)
	for i := range n {
		err := p.Enqueue(t.Context(), ingest(fhir.ID("f"+strconv.Itoa(i%500)), kilobyte), func(_ Ack, err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	return p.Durable()
}

// BenchmarkNotice is the price of telling plain subscribers of a change that nobody hears.
func BenchmarkNotice(b *testing.B) {
	s := start(b, listening)
	m := Message{Subject: EventSubject(fhir.Key{Type: "Patient", ID: "p"}), Sequence: 1, Data: kilobyte}
	for b.Loop() {
		s.Notice(m)
	}
}

// BenchmarkFollowLatency is the time from a lone write's call to its arrival at a reader.
func BenchmarkFollowLatency(b *testing.B) {
	s := start(b)
	p := publisher(b, s, Events, Options{})
	got := make(chan record.Sequence, 1)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Follow(ctx, Events, 1, nil, func(ms []Message) error { got <- ms[len(ms)-1].Sequence; return nil })
	}()
	<-got
	var took, after []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := p.Publish(b.Context(), ingest("a", kilobyte)); err != nil {
			b.Fatal(err)
		}
		acked := time.Now()
		<-got
		took, after = append(took, time.Since(began)), append(after, time.Since(acked))
	}
	cancel()
	<-done
	slices.Sort(took)
	slices.Sort(after)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(after[len(after)/2].Microseconds())/1000, "after-ack-p50-ms")
}

// BenchmarkTokens is the rate of tokens through one lane: published, delivered, acknowledged.
func BenchmarkTokens(b *testing.B) {
	s := start(b)
	if err := s.DeclareLanes(b.Context(), 1000); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	got, done := make(chan struct{}, 1000), make(chan struct{})
	go func() {
		defer close(done)
		s.Tokens(ctx, "3-0", func(t Token) { t.Ack(); got <- struct{}{} })
	}()
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			for range work {
				if err := s.PublishToken(b.Context(), "3-0", "s", kilobyte[:200]); err != nil {
					b.Error(err)
				}
			}
		})
	}
	n := 0
	for b.Loop() {
		work <- struct{}{}
		if n++; n > 500 {
			<-got
		}
	}
	close(work)
	wg.Wait()
	cancel()
	<-done
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
}
