package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

const patchType = "Content-Type: application/json-patch+json"

// operations is a patch of n times the same operation.
func operations(n int, op string) string {
	return "[" + strings.Repeat(op+",", n-1) + op + "]"
}

func TestACostlyPatchIsRefusedWithAWayOut(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/small", patientNamed("small", "x"))
	s.must(201, "PUT", "/fhir/Patient/large", patientNamed("large", strings.Repeat("x", 300<<10)))
	flip := `{"op":"add","path":"/active","value":true}`
	grow := `{"op":"add","path":"/contact","value":[{"name":{"family":"` + strings.Repeat("x", 300<<10) + `"}}]}`
	for _, c := range []struct{ name, path, patch string }{
		{"operations", "/fhir/Patient/small", operations(patchOperations+1, flip)},
		{"operations times the resource", "/fhir/Patient/large", operations(1000, flip)},
		{"a resource that grows on the way", "/fhir/Patient/small", "[" + grow + "," + operations(999, flip)[1:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			if is := issue(t, s.must(422, "PATCH", c.path, c.patch, patchType)); !strings.Contains(is.Diagnostics, "too costly") || !strings.Contains(is.Diagnostics, "PUT") {
				t.Errorf("issue = %+v", is)
			}
		})
	}
	s.must(200, "PATCH", "/fhir/Patient/small", operations(patchOperations, flip), patchType)
	s.must(200, "PATCH", "/fhir/Patient/large", operations(100, flip), patchType)
}

func TestAPatchStopsWhenItsClientHasLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := applyPatch(ctx, []byte(patient), []byte(operations(1000, `{"op":"add","path":"/active","value":true}`)), 1<<20)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func TestAFailedPatchNamesItsOperation(t *testing.T) {
	ops := strings.TrimSuffix(operations(500, `{"op":"add","path":"/active","value":true}`), "]") + `,{"op":"remove","path":"/nothing"},{"op":"remove","path":"/active"}]`
	_, err := applyPatch(t.Context(), []byte(patient), []byte(ops), 1<<20)
	if err == nil || !strings.Contains(err.Error(), "operation 500 (remove /nothing)") {
		t.Errorf("err = %v", err)
	}
}

// endless packs blank lines for as long as somebody reads them, up to 4 GiB.
func endless(t *testing.T) io.Reader {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		z := gzip.NewWriter(w)
		blank := bytes.Repeat([]byte("\n"), 1<<20)
		for range 4096 {
			if _, err := z.Write(blank); err != nil {
				return
			}
		}
		w.CloseWithError(z.Close())
	}()
	t.Cleanup(func() { r.Close(); <-done })
	return r
}

func TestEndlessBlankLinesEnd(t *testing.T) {
	s := open(t)
	r := httptest.NewRequest("POST", "http://127.0.0.1:8080/fhir/$ingest", endless(t))
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Content-Encoding", "gzip")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != 413 || !strings.Contains(w.Body.String(), "unpacks to more than 200 times") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestABodyThatUnpacksOutOfProportionIsRefused(t *testing.T) {
	s := open(t)
	gz := "Content-Encoding: gzip"
	bomb := append(bytes.Repeat([]byte(" "), 8<<20), patient...)
	if is := issue(t, s.must(413, "PUT", "/fhir/Patient/p1", string(packed(t, bomb)), gz)); !strings.Contains(is.Diagnostics, "200 times") {
		t.Errorf("issue = %+v", is)
	}
	// As long as it is small, the proportion says nothing.
	small := append(bytes.Repeat([]byte(" "), 1000<<10), patient...)
	s.must(201, "PUT", "/fhir/Patient/p1", string(packed(t, small)), gz)
	// A long feed of like resources is what gzip is for.
	var lines bytes.Buffer
	for i := range 40_000 {
		fmt.Fprintln(&lines, patientNamed(fmt.Sprintf("n%d", i%50), "x"))
	}
	s.must(200, "POST", "/fhir/$ingest", string(packed(t, lines.Bytes())), gz)
}

func TestAClientThatWritesAllBeforeItReadsSeesTheRefusal(t *testing.T) {
	s := open(t, func(c *Config) { c.Limits = Limits{Resource: 10_000, Bundle: 20_000, Line: 10_000} })
	for _, length := range []string{"Content-Length: 8388608\r\n", "Transfer-Encoding: chunked\r\n"} {
		srv := httptest.NewServer(s.handler)
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		body := strings.Repeat("x", 8<<20)
		if strings.HasPrefix(length, "Transfer") {
			body = "800000\r\n" + body + "\r\n0\r\n\r\n"
		}
		if _, err := io.WriteString(conn, "PUT /fhir/Patient/p1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"+length+"\r\n"+body); err != nil {
			t.Errorf("%s: the body could not be written: %v", length, err)
		} else if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 413 {
			t.Errorf("%s: %v, %v", length, resp, err)
		}
		conn.Close()
		srv.Close()
	}
}

func TestAClientThatWaitsToBeToldToContinueIsNot(t *testing.T) {
	s := open(t, func(c *Config) { c.Limits = Limits{Resource: 10_000, Bundle: 20_000, Line: 10_000} })
	srv := httptest.NewServer(s.handler)
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PUT /fhir/Patient/p1 HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 8388608\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, " 413 ") {
		t.Errorf("%q, %v", line, err)
	}
}

func TestOneConditionInTwoSpellingsIsOneCondition(t *testing.T) {
	p := `resource={"resourceType":"Patient","identifier":[{"system":"urn:x","value":"1"}]}`
	for _, second := range []string{"identifier=urn:x|1", "identifier=urn%3Ax%7C1", "?identifier=urn:x%7c1", "Patient?identifier=urn:x|1"} {
		s := open(t)
		is := issue(t, s.must(422, "POST", "/fhir", bundleOf("transaction",
			request("POST", "Patient", "ifNoneExist=identifier=urn:x|1", p), request("POST", "Patient", "ifNoneExist="+second, p))))
		if !strings.Contains(is.Diagnostics, "same ifNoneExist") || len(s.fake.asked) != 0 {
			t.Errorf("%s: %+v", second, is)
		}
	}
	s := open(t)
	s.must(422, "POST", "/fhir", bundleOf("transaction",
		request("POST", "Patient", "ifNoneExist=identifier=1&_id=2", p), request("POST", "Patient", "ifNoneExist=_id=2&identifier=1", p)))
	s.must(200, "POST", "/fhir", bundleOf("transaction",
		request("POST", "Patient", "ifNoneExist=identifier=urn:x|2", p), request("POST", "Patient", "ifNoneExist=identifier=urn:x|3", p)))
}

func TestAnEmptyConditionIsNotTakenForNone(t *testing.T) {
	s := open(t)
	for _, v := range []string{"", " ", "?", "Patient?"} {
		s.must(400, "POST", "/fhir/Patient", patient, "If-None-Exist: "+v)
	}
	for _, member := range []string{"ifMatch", "ifNoneMatch", "ifNoneExist"} {
		for _, v := range []string{`""`, `" "`, `5`, `{}`} {
			e := `{"request":{"method":"POST","url":"Patient","` + member + `":` + v + `},"resource":` + patient + `}`
			s.must(422, "POST", "/fhir", bundleOf("transaction", e))
			if b := readBundle(t, s.must(200, "POST", "/fhir", bundleOf("batch", e))); statuses(b) != "422" {
				t.Errorf("batch with %s %s = %s", member, v, statuses(b))
			}
		}
	}
	if len(s.fake.asked) != 0 {
		t.Errorf("written: %+v", s.fake.asked)
	}
}

func TestPreconditionsOfAWrite(t *testing.T) {
	const patch = `[{"op":"add","path":"/active","value":false}]`
	binary := `{"resourceType":"Binary","contentType":"application/json-patch+json","data":"` + base64.StdEncoding.EncodeToString([]byte(patch)) + `"}`
	for _, c := range []struct {
		method, id, match, none string
		status                  int
	}{
		{"PUT", "new", "", "*", 201},
		{"PUT", "deleted", "", "*", 201},
		{"PUT", "there", "", "*", 412},
		{"PUT", "there", "", `W/"1"`, 400},
		{"PUT", "there", `W/"1"`, "*", 400},
		{"PUT", "there", `W/"1"`, "", 200},
		{"PUT", "there", `W/"9"`, "", 412},
		{"PUT", "there", "*", "", 400},
		{"DELETE", "there", "", "*", 400},
		{"DELETE", "there", `W/"9"`, "", 412},
		{"PATCH", "there", "", "*", 400},
		{"PATCH", "there", `W/"1"`, "", 200},
	} {
		t.Run(strings.TrimSpace(c.method+" "+c.id+" "+c.match+" "+c.none), func(t *testing.T) {
			site := func() *site {
				s := open(t)
				s.must(201, "PUT", "/fhir/Patient/there", `{"resourceType":"Patient","id":"there"}`)
				s.must(201, "PUT", "/fhir/Patient/deleted", `{"resourceType":"Patient","id":"deleted"}`)
				s.must(204, "DELETE", "/fhir/Patient/deleted", "")
				return s
			}
			body, more, headers := patientNamed(c.id, "x"), []string{}, []string{}
			switch c.method {
			case "PUT":
				more = append(more, "resource="+body)
			case "PATCH":
				body, headers = patch, append(headers, patchType)
				more = append(more, "resource="+binary)
			case "DELETE":
				body = ""
			}
			if c.match != "" {
				headers, more = append(headers, "If-Match: "+c.match), append(more, "ifMatch="+c.match)
			}
			if c.none != "" {
				headers, more = append(headers, "If-None-Match: "+c.none), append(more, "ifNoneMatch="+c.none)
			}
			site().must(c.status, c.method, "/fhir/Patient/"+c.id, body, headers...)
			e := request(c.method, "Patient/"+c.id, more...)
			if b := readBundle(t, site().must(200, "POST", "/fhir", bundleOf("batch", e))); statuses(b) != fmt.Sprint(c.status) {
				t.Errorf("batch = %s", statuses(b))
			}
			if c.status >= 300 {
				site().must(c.status, "POST", "/fhir", bundleOf("transaction", e))
			} else if b := readBundle(t, site().must(200, "POST", "/fhir", bundleOf("transaction", e))); statuses(b) != fmt.Sprint(c.status) {
				t.Errorf("transaction = %s", statuses(b))
			}
		})
	}
}

func TestAConditionThatIsNotEvaluatedIsRefused(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	for _, name := range []string{"If-Unmodified-Since", "If-Modified-Since", "If-Range"} {
		h := name + ": Sat, 31 Jan 2026 08:00:00 GMT"
		s.must(400, "PUT", "/fhir/Patient/p1", patientNamed("p1", "x"), h)
		s.must(400, "DELETE", "/fhir/Patient/p1", "", h)
		s.must(400, "PATCH", "/fhir/Patient/p1", `[]`, patchType, h)
	}
	if len(s.fake.asked) != 1 {
		t.Errorf("written: %+v", s.fake.asked)
	}
}

func TestACorrelationIDIsToldFromAnIdempotencyKey(t *testing.T) {
	line := `{"interaction":"delete","resource":{"resourceType":"Patient","id":"p1"}}`
	for _, c := range []struct {
		name       string
		headers    []string
		id         bool
		correlated bool
	}{
		{"neither", nil, false, false},
		{"request id", []string{"X-Request-Id: r1"}, true, true},
		{"key", []string{"Idempotency-Key: k1"}, true, false},
		{"both", []string{"Idempotency-Key: k1", "X-Request-Id: r1"}, true, false},
		{"a request id that was replaced", []string{"X-Request-Id: a b"}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			s.do("PUT", "/fhir/Patient/p1", patient, c.headers...)
			s.do("PATCH", "/fhir/Patient/p1", `[{"op":"remove","path":"/active"}]`, append(c.headers, patchType)...)
			s.do("DELETE", "/fhir/Patient/p1", "", c.headers...)
			s.do("POST", "/fhir/Patient", patient, c.headers...)
			s.do("POST", "/fhir/$feed", patientNamed("p2", "x"), c.headers...)
			s.do("POST", "/fhir/$ingest", line+"\n"+patientNamed("p3", "x"), c.headers...)
			s.do("POST", "/fhir", bundleOf("batch", request("PUT", "Patient/p4", "resource="+patientNamed("p4", "x"))), c.headers...)
			s.do("POST", "/fhir", bundleOf("transaction", request("POST", "Patient", "resource="+patient)), c.headers...)
			if len(s.fake.asked) != 9 {
				t.Fatalf("%d writes", len(s.fake.asked))
			}
			for _, w := range s.fake.asked {
				if (w.MessageID != "") != c.id || w.Correlated != c.correlated {
					t.Errorf("%s %s: message id %q, correlated %v", w.Interaction, w.Key, w.MessageID, w.Correlated)
				}
			}
		})
	}
}

func TestACreateThatIsRepeatedWithItsRequestIDMakesOneResource(t *testing.T) {
	s := open(t)
	first := s.must(201, "POST", "/fhir/Patient", patient, "X-Request-Id: r1")
	again := s.must(200, "POST", "/fhir/Patient", patient, "X-Request-Id: r1")
	if first.Header().Get("Location") != again.Header().Get("Location") || len(s.fake.asked) != 1 {
		t.Errorf("%s, then %s", first.Header().Get("Location"), again.Header().Get("Location"))
	}
	// What became of the resource since is the answer: the create is not made anew.
	key := s.fake.asked[0].Key
	s.must(200, "PUT", "/fhir/"+key.String(), patientNamed(string(key.ID), "later"))
	if w := s.must(200, "POST", "/fhir/Patient", patient, "X-Request-Id: r1"); !strings.Contains(w.Body.String(), "later") {
		t.Errorf("answer = %s", w.Body)
	}
}

func TestAFeedsOwnMetaMustBeFHIR(t *testing.T) {
	feed := "X-Carillon-Feed: true"
	for _, c := range []struct {
		meta string
		ok   bool
		at   string
	}{
		{`{"versionId":"7","lastUpdated":"2026-01-31T08:00:00Z"}`, true, ""},
		{`{"versionId":"a.B-9","lastUpdated":"2026-01-31T08:00:00.123456+01:00"}`, true, ""},
		{`{}`, true, ""},
		{`{"versionId":""}`, false, "Patient.meta.versionId"},
		{`{"versionId":"a b"}`, false, "Patient.meta.versionId"},
		{`{"versionId":"` + strings.Repeat("9", 65) + `"}`, false, "Patient.meta.versionId"},
		{`{"lastUpdated":""}`, false, "Patient.meta.lastUpdated"},
		{`{"lastUpdated":"yesterday"}`, false, "Patient.meta.lastUpdated"},
		{`{"lastUpdated":"2026-01-31"}`, false, "Patient.meta.lastUpdated"},
		{`{"lastUpdated":"2026-01-31T08:00:00"}`, false, "Patient.meta.lastUpdated"},
		{`{"lastUpdated":"2026-01-31T08:00:00,5Z"}`, false, "Patient.meta.lastUpdated"},
		{`{"lastUpdated":"2026-02-31T08:00:00Z"}`, false, "Patient.meta.lastUpdated"},
	} {
		t.Run(c.meta, func(t *testing.T) {
			s := open(t)
			body := `{"resourceType":"Patient","id":"p1","meta":` + c.meta + `}`
			patch := `[{"op":"add","path":"/meta","value":` + c.meta + `}]`
			s.must(201, "PUT", "/fhir/Patient/p2", `{"resourceType":"Patient","id":"p2"}`)
			answers := []*httptest.ResponseRecorder{
				s.do("PUT", "/fhir/Patient/p1", body, feed),
				s.do("POST", "/fhir/Patient", body, feed),
				s.do("PATCH", "/fhir/Patient/p2", patch, feed, patchType),
				s.do("POST", "/fhir/$feed", body),
			}
			for i, w := range answers {
				switch {
				case c.ok && w.Code >= 300:
					t.Errorf("answer %d = %d %s", i, w.Code, w.Body)
				case !c.ok && (w.Code != 422 || outcomeIn(t, w.Body.Bytes()).Issue[0].Expression[0] != c.at):
					t.Errorf("answer %d = %d %s", i, w.Code, w.Body)
				}
			}
			want := "accepted 1, refused 0"
			if !c.ok {
				want = "accepted 0, refused 1"
			}
			if w := s.must(200, "POST", "/fhir/$ingest", body, feed); issue(t, w).Diagnostics != want {
				t.Errorf("ingest = %s", w.Body)
			}
			// Of any other client it is replaced, and may be what it likes.
			s.must(201, "PUT", "/fhir/Patient/p3", strings.Replace(body, "p1", "p3", 1))
		})
	}
}

func TestAReferenceToNoEntryOfTheTransactionIsNamed(t *testing.T) {
	s := open(t)
	observation := `resource={"resourceType":"Observation","id":"o","subject":{"reference":"urn:uuid:missing-one"}}`
	is := issue(t, s.must(422, "POST", "/fhir", bundleOf("transaction",
		request("PUT", "Patient/p1", "fullUrl=urn:uuid:1", "resource="+patient),
		request("PUT", "Observation/o", observation))))
	if !strings.Contains(is.Diagnostics, "urn:uuid:missing-one") || is.Expression[0] != "Bundle.entry[1].resource" || len(s.fake.asked) != 0 {
		t.Errorf("issue = %+v", is)
	}
	// A stored Bundle refers to its own entries, and a patched resource has its fullUrl too.
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	patch := base64.StdEncoding.EncodeToString([]byte(`[{"op":"remove","path":"/active"}]`))
	s.must(200, "POST", "/fhir", bundleOf("transaction",
		request("PUT", "Bundle/b", `resource={"resourceType":"Bundle","id":"b","type":"collection","entry":[{"fullUrl":"urn:uuid:in","resource":{"resourceType":"Observation","subject":{"reference":"urn:uuid:in"}}}]}`),
		request("PATCH", "Patient/p1", "fullUrl=urn:uuid:patched", `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"`+patch+`"}`),
		request("PUT", "Observation/o", strings.Replace(observation, "missing-one", "patched", 1))))
	r, _ := s.fake.current(fhir.Key{Type: "Observation", ID: "o"})
	if !strings.Contains(string(r.Body), `"reference":"Patient/p1"`) {
		t.Errorf("body = %s", r.Body)
	}
}
