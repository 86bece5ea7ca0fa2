package deliver_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// BenchmarkLane is the lane alone: a channel that accepts at once, outcomes in memory. With
// synced outcomes each append takes a millisecond, as one does on a disk.
func BenchmarkLane(b *testing.B) {
	for _, subs := range []int{1, 100, 10000} {
		for _, sync := range []time.Duration{0, time.Millisecond} {
			b.Run(fmt.Sprintf("subscriptions=%d/append=%v", subs, sync), func(b *testing.B) { benchLane(b, subs, sync) })
		}
	}
}

// plain is the least that a lane needs, without the locks and checks of delivertest.World.
type plain struct {
	mu       sync.Mutex
	pending  map[record.Sequence][]deliver.Pending // by birth; index is number-1
	append   time.Duration
	accepted atomic.Int64
	all      int64
	done     chan struct{}
}

func (p *plain) Subscribers(string) ([]deliver.Subscriber, error) { return nil, nil }
func (p *plain) PendingFrom(birth record.Sequence, after fhir.EventNumber, limit int) ([]deliver.Pending, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.pending[birth]
	return append([]deliver.Pending(nil), all[min(int(after), len(all)):min(int(after)+limit, len(all))]...), nil
}
func (p *plain) MatchByID(record.MatchID) (deliver.Pending, bool, error) {
	return deliver.Pending{}, false, nil
}
func (p *plain) Last(birth record.Sequence) (fhir.EventNumber, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fhir.EventNumber(len(p.pending[birth])), nil
}
func (p *plain) Append(_ context.Context, _ string, o ...record.Outcome) error {
	time.Sleep(p.append) // the price of the append that is measured
	if p.accepted.Add(int64(len(o))) == p.all {
		close(p.done)
	}
	return nil
}
func (p *plain) Take(context.Context, string) (bool, error)                     { return true, nil }
func (p *plain) Release(context.Context, string) error                          { return nil }
func (p *plain) Publish(context.Context, string, fhir.ID, record.MatchID) error { return nil }
func (p *plain) Receive(ctx context.Context, _ string, _ func(deliver.Token)) error {
	<-ctx.Done()
	return nil
}
func (p *plain) Target(id fhir.ID, b record.Sequence) (deliver.Target, deliver.State) {
	return deliver.Target{ID: id, Birth: b, ChannelType: "plain"}, deliver.Sendable
}
func (p *plain) Render(_ context.Context, m deliver.Pending, _ deliver.Target) (deliver.Notification, error) {
	return deliver.Notification{MatchID: m.ID(), Subscription: m.Subscription, Number: m.Number}, nil
}
func (p *plain) Send(context.Context, deliver.Notification, deliver.Target) (deliver.Receipt, *deliver.Error) {
	return deliver.Receipt{Status: 200}, nil
}

type noLetters struct{}

func (noLetters) Publish(context.Context, record.DeadLetter) error { return nil }

func benchLane(b *testing.B, subs int, append_ time.Duration) {
	p := &plain{pending: make(map[record.Sequence][]deliver.Pending), append: append_, all: int64(b.N), done: make(chan struct{})}
	lane, err := deliver.NewLane(deliver.Config{
		Name: "bench", Queue: p, Outcomes: p, Tokens: p, DeadLetters: noLetters{}, Targets: p, Renderer: p,
		Channels: map[string]deliver.Channel{"plain": p}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- lane.Run(ctx) }()
	for lane.Status().Capacity == 0 { // until it runs
		time.Sleep(time.Millisecond) // outside of what is measured
	}
	b.ReportAllocs()
	b.ResetTimer()
	const block = 100
	for i := 0; i < b.N; i += block {
		var made []deliver.Pending
		p.mu.Lock()
		for j := i; j < min(i+block, b.N); j++ {
			birth := record.Sequence(j%subs + 1)
			m := deliver.Pending{
				Match:  record.Match{Event: record.Sequence(j + 1), Subscription: fhir.ID(fmt.Sprintf("s%d", birth)), Birth: birth, Interaction: fhir.Update},
				Number: fhir.EventNumber(len(p.pending[birth]) + 1), Key: fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprintf("p%d", j))},
				EventTime: time.Now(),
			}
			p.pending[birth] = append(p.pending[birth], m)
			made = append(made, m)
		}
		p.mu.Unlock()
		lane.Offer(made)
	}
	<-p.done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
