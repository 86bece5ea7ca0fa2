package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// instantBackend accepts every write at once, so that a benchmark sees what the HTTP face costs.
type instantBackend struct {
	Backend
	shown []byte
}

func (b instantBackend) Write(_ context.Context, w Write) (Written, error) {
	out := Written{Key: w.Key, Version: 4711, Time: testTime, Interaction: fhir.Create}
	if !w.Brief {
		out.Body = b.shown
	}
	return out, nil
}

// nowhere is a response that goes nowhere.
type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header              { return n.h }
func (n *nowhere) Write(b []byte) (int, error)      { return len(b), nil }
func (n *nowhere) WriteHeader(int)                  {}
func (n *nowhere) SetReadDeadline(time.Time) error  { return nil }
func (n *nowhere) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkPut is one PUT of a resource of a kilobyte through the handler, without the work of
// net/http and of the log.
func BenchmarkPut(b *testing.B) {
	body := fmt.Appendf(nil, `{"resourceType":"Observation","id":"o1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"},"note":[{"text":"%s"}]}`,
		strings.Repeat("x", 800))
	for _, prefer := range []string{"minimal", "representation"} {
		b.Run(prefer, func(b *testing.B) {
			f := newFake()
			h := New(Config{
				Backend: instantBackend{shown: body}, Admin: f, Tokens: &fakeTokens{none: true}, Log: slog.New(slog.DiscardHandler),
				Types: []string{"Observation"}, Limits: Limits{},
			})
			in := bytes.NewReader(body)
			r, err := http.NewRequest(http.MethodPut, "http://localhost/fhir/Observation/o1", nil)
			if err != nil {
				b.Fatal(err)
			}
			r.RemoteAddr = "127.0.0.1:4711"
			r.Header = http.Header{
				"Content-Type": {"application/fhir+json"}, "Accept": {"application/fhir+json, application/json"},
				"Prefer": {"return=" + prefer}, "User-Agent": {"bench"},
			}
			r.ContentLength = int64(len(body))
			w := &nowhere{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				in.Reset(body)
				r.Body = io.NopCloser(in)
				clear(w.h)
				h.ServeHTTP(w, r)
				if len(w.h["Etag"]) != 1 {
					b.Fatal("the write was not answered")
				}
			}
		})
	}
}
