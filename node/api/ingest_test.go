package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func TestIngestTakesGoodLinesAndNamesBadOnes(t *testing.T) {
	s := open(t, func(c *Config) { c.Limits = Limits{Line: 300, Resource: 200} })
	lines := []string{
		patient,
		`{"resourceType":"Patient","name":[{"family":"no id"}]}`,
		`{"resourceType":`,
		``,
		`{"resourceType":"Nothing","id":"x"}`,
		patientNamed("long", strings.Repeat("x", 400)),
		patientNamed("large", strings.Repeat("x", 190)),
		`{"interaction":"delete","resource":{"resourceType":"Patient","id":"p1"}}`,
		`{"interaction":"create","resource":{"resourceType":"Patient","id":"p2"}}`,
		`{"interaction":"frob","resource":{"resourceType":"Patient","id":"p2"}}`,
		`{"interaction":"update","resource":{"resourceType":"Patient","id":"p2"},"previous":{}}`,
		`{"interaction":"update","resource":{"resourceType":"Patient"}}`,
		`[]`,
		patientNamed("last", "without newline"),
	}
	w := s.must(200, "POST", "/fhir/$ingest", strings.Join(lines, "\r\n"), "Content-Type: application/fhir+ndjson")
	o := outcomeIn(t, w.Body.Bytes())
	if o.Issue[0].Severity != "information" || o.Issue[0].Diagnostics != "accepted 5, refused 8" {
		t.Errorf("first issue = %+v", o.Issue[0])
	}
	var refused []string
	for _, is := range o.Issue[1:] {
		line, _, _ := strings.Cut(is.Diagnostics, ": ")
		refused = append(refused, line+" "+string(is.Code))
		if is.Severity != "error" {
			t.Errorf("issue = %+v", is)
		}
	}
	want := "[line 3 structure line 5 value line 6 too-long line 7 too-long line 10 value line 11 not-supported line 12 required line 13 structure]"
	if got := fmt.Sprint(refused); got != want {
		t.Errorf("refused = %s\n   want = %s", got, want)
	}
	s.must(410, "GET", "/fhir/Patient/p1", "")
	s.must(200, "GET", "/fhir/Patient/last", "")
}

func TestIngestKeepsTheOrderOfOneResource(t *testing.T) {
	s := open(t)
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintln(&b, patientNamed(fmt.Sprintf("p%d", i%7), fmt.Sprint(i)))
	}
	s.must(200, "POST", "/fhir/$ingest", b.String())
	last := map[fhir.ID]int{}
	for _, w := range s.fake.asked {
		var n int
		if _, err := fmt.Sscanf(string(w.Body[strings.Index(string(w.Body), `"family":"`)+10:]), "%d", &n); err != nil {
			t.Fatal(err)
		}
		if n < last[w.Key.ID] {
			t.Fatalf("%s: %d came after %d", w.Key, n, last[w.Key.ID])
		}
		last[w.Key.ID] = n
	}
	if len(s.fake.asked) != 2000 {
		t.Errorf("%d writes", len(s.fake.asked))
	}
}

func TestIngestListsTheFirstThousandRefusals(t *testing.T) {
	s := open(t)
	w := s.must(200, "POST", "/fhir/$ingest", strings.Repeat("x\n", 5000))
	o := outcomeIn(t, w.Body.Bytes())
	if len(o.Issue) != 1001 || o.Issue[0].Diagnostics != "accepted 0, refused 5000" || !strings.HasPrefix(o.Issue[1000].Diagnostics, "line 1000: ") {
		t.Errorf("%d issues, first %q, last %q", len(o.Issue), o.Issue[0].Diagnostics, o.Issue[len(o.Issue)-1].Diagnostics)
	}
}

func TestIngestStopsWhenNothingCanBeStored(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{fhir.Refuse(fhir.IssueNoStore, "", "the disk is full"), 507},
		{fhir.Refuse(fhir.IssueTransient, "", "no quorum"), 503},
		{errors.New("a fault"), 500},
	} {
		s := open(t)
		s.fake.fail = func(w Write) error {
			if w.Key.ID == "p500" {
				return c.err
			}
			return nil
		}
		var b strings.Builder
		fmt.Fprintln(&b, "bad line")
		for i := 2; i <= 3000; i++ {
			fmt.Fprintln(&b, patientNamed(fmt.Sprintf("p%d", i), "x"))
		}
		w := s.must(c.status, "POST", "/fhir/$ingest", b.String())
		o := outcomeIn(t, w.Body.Bytes())
		if !strings.HasPrefix(o.Issue[0].Diagnostics, "stopped at line 500, last line accepted 499 (accepted ") || strings.Contains(w.Body.String(), "a fault") {
			t.Errorf("first issue = %+v", o.Issue[0])
		}
		if len(o.Issue) != 2 || !strings.HasPrefix(o.Issue[1].Diagnostics, "line 1: ") {
			t.Errorf("issues = %+v", o.Issue)
		}
		for i := 2; i < 500; i++ {
			s.must(200, "GET", fmt.Sprintf("/fhir/Patient/p%d", i), "")
		}
	}
}

func TestIngestDoesNotLetALineOvertakeAFailedOne(t *testing.T) {
	s := open(t)
	s.fake.fail = func(w Write) error {
		if strings.Contains(string(w.Body), "first") {
			return fhir.Refuse(fhir.IssueNoStore, "", "full")
		}
		return nil
	}
	s.must(507, "POST", "/fhir/$ingest", patientNamed("p", "first")+"\n"+patientNamed("p", "second"))
	if len(s.fake.asked) != 0 {
		t.Errorf("written: %+v", s.fake.asked)
	}
}

func TestIngestSurvivesAPanic(t *testing.T) {
	s := open(t)
	s.fake.fail = func(Write) error { panic("in the backend") }
	s.must(500, "POST", "/fhir/$ingest", patient)
}

func TestIngestWaitsForAThrottledBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		n := 0
		s.fake.fail = func(Write) error {
			if n++; n < 4 {
				return busy{fhir.Refuse(fhir.IssueThrottled, "", "later")}
			}
			return nil
		}
		start := time.Now()
		s.must(200, "POST", "/fhir/$ingest", patient)
		if took := time.Since(start); took != 21*time.Second {
			t.Errorf("took %v, want three waits of 7 s", took)
		}
		s.fake.fail = func(Write) error { return busy{fhir.Refuse(fhir.IssueThrottled, "", "later")} }
		w := s.must(429, "POST", "/fhir/$ingest", patientNamed("p2", "x"))
		if w.Header().Get("Retry-After") != "7" {
			t.Errorf("headers = %v", w.Header())
		}
	})
}

func TestIngestOfACutStreamKeepsWhatCameWhole(t *testing.T) {
	s := open(t)
	r := httptest.NewRequest("POST", "http://127.0.0.1:8080/fhir/$ingest",
		io.MultiReader(strings.NewReader(patient+"\n"+`{"resourceType":"Patient"}`), iotest.ErrReader(io.ErrUnexpectedEOF)))
	r.RemoteAddr = "127.0.0.1:1"
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "stopped at line 2, last line accepted 1 (accepted 1, refused 0)") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(s.fake.asked) != 1 {
		t.Errorf("written: %+v", s.fake.asked)
	}
}

func TestIngestTakesGzipAndRefusesOtherTypes(t *testing.T) {
	s := open(t)
	s.must(200, "POST", "/fhir/$ingest", string(packed(t, []byte(patient+"\n"))), "Content-Encoding: gzip", "Content-Type: application/x-ndjson")
	s.must(415, "POST", "/fhir/$ingest", patient, "Content-Type: text/plain")
	s.must(400, "POST", "/fhir/$ingest", patient, "X-Carillon-Feed: what")
	s.must(200, "POST", "/fhir/$ingest", patient, "X-Carillon-Feed: true")
	if w := s.must(200, "POST", "/fhir/$ingest", ""); issue(t, w).Diagnostics != "accepted 0, refused 0" {
		t.Errorf("empty = %s", w.Body)
	}
}

func packed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
