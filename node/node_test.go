package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/node/config"
)

// running is a node inside the test's process.
type running struct {
	*Node
	t    *testing.T
	logs *syncBuffer
	end  chan error
	stop context.CancelFunc
	once sync.Once
	err  error
}

// testConfig is for a node on a folder of the test, with any ports.
func testConfig(dir string) config.Config {
	cfg := config.Default()
	cfg.Node = config.Node{Data: dir, HTTP: "127.0.0.1:0", NATS: "127.0.0.1:0"}
	cfg.Delivery.Egress.AllowPrivate, cfg.Delivery.Egress.AllowHTTP = true, true
	return cfg
}

// runNode starts a node, prepared by whoever gives one, and waits until it is ready. It is stopped
// with the test.
func runNode(t *testing.T, cfg config.Config, prepare ...func(*Node)) *running {
	t.Helper()
	r := &running{t: t, logs: new(syncBuffer), end: make(chan error, 1)}
	n, err := New(cfg, slog.New(slog.NewTextHandler(r.logs, nil)), "1.2.3-test")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prepare {
		p(n)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	r.Node = n
	go func() { r.end <- n.Run(ctx) }()
	t.Cleanup(func() {
		if err := r.wait(); err != nil {
			t.Errorf("the node ended with %v", err)
		}
		if t.Failed() {
			t.Log(r.logs)
		}
	})
	select {
	case <-n.Ready():
	case err := <-r.end:
		r.once.Do(func() { r.stop() })
		t.Fatalf("the node did not start: %v\n%s", err, r.logs)
	}
	return r
}

// wait stops the node if it runs still, and gives the error that it ended with, once.
func (r *running) wait() error {
	r.once.Do(func() {
		r.stop()
		r.err = <-r.end
	})
	err := r.err
	r.err = nil
	return err
}

// do asks the node over HTTP and reads the answer into a value, where there is one.
func (r *running) do(status int, method, path, body string, into any) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.Addr()+path, bytes.NewReader([]byte(body)))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode != status {
		r.t.Fatalf("%s %s: %d, want %d: %s", method, path, res.StatusCode, status, text)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(text, into); err != nil {
		r.t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
}

// await asks until an answer is as it should be.
func (r *running) await(what, path string, ok func(map[string]any) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		var got map[string]any
		r.do(200, "GET", path, "", &got)
		if ok(got) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s does not come: %v", what, got)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// endpoint answers notifications with a status.
func endpoint(t *testing.T, status int) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(s.Close)
	return s.URL
}

func subscriptionTo(id, criteria, endpoint string) string {
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"active","reason":"test","criteria":%q,"channel":{"type":"rest-hook","endpoint":%q,"payload":"application/fhir+json"}}`, id, criteria, endpoint)
}

// syncBuffer takes what several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
