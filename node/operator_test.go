package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/config"
)

// pager is a notifier that notes what it is told, and fails as often as asked.
type pager struct {
	mu    sync.Mutex
	fails int
	told  []operatorEvent
}

func (p *pager) notify(_ context.Context, e operatorEvent) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails > 0 {
		p.fails--
		return errors.New("not now")
	}
	p.told = append(p.told, e)
	return nil
}

func (p *pager) kinds() (kinds []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.told {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func paged(t *testing.T, p *pager, act func(*operatorEvents)) {
	synctest.Test(t, func(t *testing.T) {
		o := newOperatorEvents(slog.New(slog.DiscardHandler), config.OperatorEvents{Suppress: 10 * time.Minute}, "c", "n1")
		o.notifiers = []notifier{p}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = o.run(ctx) })
		act(o)
		cancel()
		running.Wait()
	})
}

// mute is a notifier whose server never answers.
type mute struct{}

func (mute) notify(ctx context.Context, _ operatorEvent) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestANotifierWithoutAnswerKeepsNoOtherFromTelling(t *testing.T) {
	p := &pager{}
	synctest.Test(t, func(t *testing.T) {
		o := newOperatorEvents(slog.New(slog.DiscardHandler), config.OperatorEvents{Suppress: 10 * time.Minute}, "c", "n1")
		o.notifiers = []notifier{mute{}, p}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = o.run(ctx) })
		for range 5 {
			o.tell(operatorEvent{Kind: eventStopped})
			synctest.Wait()
		}
		if n := len(p.kinds()); n != 5 {
			t.Errorf("told of %d, want 5", n)
		}
		cancel()
		running.Wait()
	})
}

func TestOperatorsAreToldOnceForEachChangeAndOfWhatLasts(t *testing.T) {
	failing := operatorEvent{Kind: eventFailing, Subscription: "s", Outcome: record.Timeout}
	recovered := operatorEvent{Kind: eventRecovered, Subscription: "s"}
	for _, tc := range []struct {
		name string
		act  func(tell func(operatorEvent), after func(time.Duration))
		want []string
	}{
		{"failing and recovered", func(tell func(operatorEvent), after func(time.Duration)) {
			tell(failing)
			after(time.Minute)
			tell(recovered)
		}, []string{eventFailing, eventRecovered}},
		{"the same again is not told", func(tell func(operatorEvent), after func(time.Duration)) {
			for range 20 {
				tell(failing)
				after(10 * time.Second)
			}
		}, []string{eventFailing}},
		{"flapping is told once", func(tell func(operatorEvent), after func(time.Duration)) {
			for range 20 {
				tell(failing)
				after(5 * time.Second)
				tell(recovered)
				after(5 * time.Second)
			}
		}, []string{eventFailing, eventRecovered}},
		{"what fails again for good is told when the suppression is over", func(tell func(operatorEvent), after func(time.Duration)) {
			tell(failing)
			after(time.Minute)
			tell(recovered)
			after(time.Minute)
			tell(failing)
			after(time.Hour)
		}, []string{eventFailing, eventRecovered, eventFailing}},
		{"another Subscription is another thing", func(tell func(operatorEvent), after func(time.Duration)) {
			tell(failing)
			tell(operatorEvent{Kind: eventFailing, Subscription: "t"})
		}, []string{eventFailing, eventFailing}},
		{"each stop and start is told", func(tell func(operatorEvent), after func(time.Duration)) {
			for range 2 {
				tell(operatorEvent{Kind: eventStopped})
				tell(operatorEvent{Kind: eventStarted})
			}
		}, []string{eventStopped, eventStarted, eventStopped, eventStarted}},
		{"dead letters are told of once", func(tell func(operatorEvent), after func(time.Duration)) {
			for range 1000 {
				tell(operatorEvent{Kind: eventExhausted, Subscription: "s"})
			}
		}, []string{eventExhausted}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &pager{}
			paged(t, p, func(o *operatorEvents) {
				tc.act(o.tell, func(d time.Duration) { time.Sleep(d); synctest.Wait() })
				synctest.Wait()
			})
			if got := p.kinds(); !slices.Equal(got, tc.want) {
				t.Errorf("told %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAnOperatorWhoDoesNotAnswerIsTriedSomeTimesAndHoldsUpNobody(t *testing.T) {
	p := &pager{fails: 3}
	paged(t, p, func(o *operatorEvents) {
		for i := range 3000 { // more than the queue holds
			o.tell(operatorEvent{Kind: eventStopped, Percent: i})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
	})
	if n := len(p.kinds()); n < 1000 || n > 1100 {
		t.Errorf("%d of 3000 were told", n)
	}
	p = &pager{fails: 4}
	paged(t, p, func(o *operatorEvents) {
		o.tell(operatorEvent{Kind: eventStopped})
		time.Sleep(time.Minute)
		o.tell(operatorEvent{Kind: eventStarted})
		time.Sleep(time.Minute)
	})
	if got := p.kinds(); !slices.Equal(got, []string{eventStarted}) {
		t.Errorf("told %v, want what came after the one that was given up", got)
	}
}

func TestOperatorEventsArePostedSignedWithoutAnyAddressInErrors(t *testing.T) {
	var got http.Header
	var body []byte
	status := http.StatusNoContent
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, body = r.Header.Clone(), nil
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newOperatorWebhook(config.OperatorWebhook{URL: s.URL + "/hook?key=s3cret", SecretFile: file})
	defer w.client.CloseIdleConnections()
	e := operatorEvent{ID: "evt_1", Kind: eventBreakerOpen, Endpoint: "https://h:443", Cluster: "c", Node: "n"}
	if err := w.notify(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	want := signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "evt_1", got.Get("webhook-timestamp"), body)
	if got.Get("webhook-id") != "evt_1" || got.Get("webhook-signature") != want || !strings.HasPrefix(want, "v1,") {
		t.Errorf("headers %v", got)
	}
	var back operatorEvent
	if err := json.Unmarshal(body, &back); err != nil || back.Endpoint != e.Endpoint || back.Kind != e.Kind {
		t.Errorf("%s: %v", body, err)
	}
	status = http.StatusFound
	if err := w.notify(t.Context(), e); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a redirect gave %v", err)
	}
	s.Close()
	if err := w.notify(t.Context(), e); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("no answer gave %v", err)
	}
}

// The example of Standard Webhooks' own libraries.
func TestSignaturesAreThoseOfStandardWebhooks(t *testing.T) {
	got := signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
