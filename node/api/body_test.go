package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
)

// However a body arrives, and whatever its sender says of its length, what is written is what came.
func TestABodyIsReadToItsEnd(t *testing.T) {
	const head, tail = `{"resourceType":"Patient","id":"p1","text":{"div":"`, `"}}`
	for _, size := range []int{len(head + tail), 511, 512, 513, growAhead - 1, growAhead, growAhead + 1, 300_000} {
		body := head + strings.Repeat("x", size-len(head+tail)) + tail
		for name, arriving := range map[string]func(io.Reader) io.Reader{
			"at once":        func(r io.Reader) io.Reader { return r },
			"with its end":   iotest.DataErrReader,
			"in small parts": iotest.HalfReader,
		} {
			for _, length := range []int64{int64(size), -1} {
				t.Run(fmt.Sprintf("%d %s, announced %d", size, name, length), func(t *testing.T) {
					s := open(t)
					r := httptest.NewRequest(http.MethodPut, "http://127.0.0.1:8080/fhir/Patient/p1", nil)
					r.RemoteAddr, r.ContentLength, r.Body = "127.0.0.1:50000", length, io.NopCloser(arriving(strings.NewReader(body)))
					w := httptest.NewRecorder()
					s.handler.ServeHTTP(w, r)
					if w.Code != http.StatusCreated || len(s.fake.asked) != 1 || string(s.fake.asked[0].Body) != body {
						t.Errorf("answered %d, %d writes", w.Code, len(s.fake.asked))
					}
				})
			}
		}
	}
}

// A target that is no path is answered like any other unknown one, with an OperationOutcome.
func TestATargetThatIsNoPathIsUnknown(t *testing.T) {
	s := open(t)
	r := httptest.NewRequest(http.MethodGet, "*", nil)
	r.RemoteAddr = "127.0.0.1:50000"
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != http.StatusNotFound || issue(t, w).Code != "not-found" {
		t.Errorf("answered %d: %s", w.Code, w.Body)
	}
}
