package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// benchNode runs a node for a benchmark, and gives a client that writes to it.
func benchNode(b *testing.B) (write func(path, body string)) {
	b.Helper()
	cfg := testConfig(b.TempDir())
	n, err := New(cfg, slog.New(slog.DiscardHandler), "1.2.3-test")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-ended })
	<-n.Ready()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	b.Cleanup(client.CloseIdleConnections)
	return func(path, body string) {
		req, _ := http.NewRequest(http.MethodPut, "http://"+n.Addr()+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/fhir+json")
		resp, err := client.Do(req)
		if err != nil {
			b.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode > 299 {
			b.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func benchSubscription(id, criteria, endpoint string) string {
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"active","reason":"x","criteria":%q,"channel":{"type":"rest-hook","endpoint":%q,"payload":"application/fhir+json"}}`, id, criteria, endpoint)
}

// BenchmarkFanOut is events that each meet a thousand Subscriptions of one local sink, written by
// four clients; beside it what plain POSTs to the same sink achieve.
func BenchmarkFanOut(b *testing.B) {
	const subscriptions = 1000
	var arrived atomic.Int64
	all := make(chan struct{})
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if arrived.Add(1) == int64(b.N)*subscriptions {
			close(all)
		}
	}))
	b.Cleanup(sink.Close)
	write := benchNode(b)
	var subscribing sync.WaitGroup
	for part := range 8 {
		subscribing.Go(func() {
			for i := part; i < subscriptions; i += 8 {
				id := fmt.Sprintf("s%d", i)
				write("/fhir/Subscription/"+id, benchSubscription(id, "Patient?", sink.URL+"/"+id))
			}
		})
	}
	subscribing.Wait()
	body := `{"resourceType":"Patient","id":"p%d","name":[{"text":"` + strings.Repeat("x", 900) + `"}]}`
	var next atomic.Int64
	var writing sync.WaitGroup
	used := processorTime()
	b.ResetTimer()
	for range 4 {
		writing.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				write(fmt.Sprintf("/fhir/Patient/p%d", i), fmt.Sprintf(body, i))
			}
		})
	}
	writing.Wait()
	<-all
	b.StopTimer()
	b.ReportMetric(float64(b.N)*subscriptions/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64((processorTime()-used).Microseconds())/float64(b.N)/subscriptions, "cpu-µs/delivery")
	b.ReportMetric(plainRate(b, sink.URL, fmt.Sprintf(body, 0)), "plain/s")
}

// processorTime is what this process has used: on a machine that others use too it says more than
// the clock.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// plainRate is how many POSTs a second the sink takes from as many clients as a fan-out has
// connections.
func plainRate(b *testing.B, url, body string) float64 {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	const posts = 20_000
	var next atomic.Int64
	var posting sync.WaitGroup
	used, began := processorTime(), time.Now()
	for range 64 {
		posting.Go(func() {
			for next.Add(1) <= posts {
				resp, err := client.Post(url, "application/fhir+json", strings.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	posting.Wait()
	b.ReportMetric(float64((processorTime()-used).Microseconds())/posts, "cpu-µs/plain")
	return posts / time.Since(began).Seconds()
}

// BenchmarkHungEndpoints writes at 200 a second to 100 Subscriptions, each of an endpoint of its own,
// first with all of them well, then with 20 that never answer; the figures are of the 80.
func BenchmarkHungEndpoints(b *testing.B) {
	for _, hung := range []int{0, 20} {
		b.Run(fmt.Sprintf("hung=%d", hung), func(b *testing.B) { benchHung(b, hung) })
	}
}

func benchHung(b *testing.B, hung int) {
	const subscriptions, rate = 100, 200
	var mu sync.Mutex
	began, took := map[string]time.Time{}, []time.Duration{}
	release := make(chan struct{})
	healthy := make(chan struct{}, 1<<20)
	serve := func(hangs bool) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if hangs {
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return
			}
			mu.Lock()
			took = append(took, time.Since(began[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]))
			mu.Unlock()
			healthy <- struct{}{}
		}))
		s.Start()
		b.Cleanup(s.Close)
		return s
	}
	defer close(release) // before the servers are closed, which wait for their requests
	write := benchNode(b)
	for i := range subscriptions {
		id := fmt.Sprintf("s%d", i)
		write("/fhir/Subscription/"+id, benchSubscription(id, "Observation?code="+id, serve(i < hung).URL+"/x"))
	}
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	sent := 0
	var writing sync.WaitGroup
	b.ResetTimer()
	for i := range max(b.N, 10*rate) {
		<-tick.C
		id := fmt.Sprintf("o%d", i)
		if i%subscriptions >= hung {
			sent++
		}
		writing.Go(func() {
			body := fmt.Sprintf(`{"resourceType":"Observation","id":%q,"status":"final","code":{"coding":[{"code":"s%d"}]}}`, id, i%subscriptions)
			mu.Lock()
			began[id] = time.Now()
			mu.Unlock()
			write("/fhir/Observation/"+id, body)
		})
	}
	writing.Wait()
	for range sent {
		<-healthy
	}
	b.StopTimer()
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
}
