package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/node/config"
)

func TestProf(t *testing.T) {
	if os.Getenv("PROF") == "" {
		t.Skip()
	}
	cfg := config.Default()
	cfg.Node.Data = t.TempDir()
	cfg.Node.HTTP, cfg.Node.NATS = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Delivery.Egress.AllowPrivate, cfg.Delivery.Egress.AllowHTTP = true, true
	n, err := New(cfg, slog.New(slog.DiscardHandler), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	<-n.Ready()
	var got atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); got.Add(1) }))
	base := "http://" + n.Addr()
	tr := &http.Transport{MaxIdleConnsPerHost: 200}
	cl := &http.Client{Transport: tr}
	put := func(p, b string) int {
		req, _ := http.NewRequest("PUT", base+p, bytes.NewReader([]byte(b)))
		req.Header.Set("Content-Type", "application/fhir+json")
		res, err := cl.Do(req)
		if err != nil {
			t.Error(err)
			return 0
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode
	}
	put("/fhir/Subscription/s", `{"resourceType":"Subscription","id":"s","status":"requested","criteria":"Observation?status=final","channel":{"type":"rest-hook","endpoint":"`+srv.URL+`","payload":"application/fhir+json"}}`)
	pad := string(bytes.Repeat([]byte("x"), 800))
	N, _ := strconv.Atoi(os.Getenv("PROF"))
	W := 64
	if w := os.Getenv("W"); w != "" {
		W, _ = strconv.Atoi(w)
	}
	start := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range W {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(N) {
					return
				}
				if c := put(fmt.Sprintf("/fhir/Observation/o%d", i), fmt.Sprintf(`{"resourceType":"Observation","id":"o%d","status":"final","code":{"text":"%s"}}`, i, pad)); c != 201 {
					t.Error(c)
					return
				}
			}
		})
	}
	wg.Wait()
	w := time.Since(start)
	for got.Load() < int64(N) {
		time.Sleep(time.Millisecond)
	}
	d := time.Since(start)
	fmt.Printf("%d writes %.0f/s delivered %.0f/s\n", N, float64(N)/w.Seconds(), float64(N)/d.Seconds())
	cancel()
	<-done
}
