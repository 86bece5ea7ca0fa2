package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestPutCreatesThenUpdatesThenChangesNothing(t *testing.T) {
	s := open(t)
	w := s.must(201, "PUT", "/fhir/Patient/p1", patient)
	if got := w.Header().Get("ETag"); got != `W/"1"` {
		t.Errorf("ETag = %s", got)
	}
	if got := w.Header().Get("Location"); got != "http://127.0.0.1:8080/fhir/Patient/p1/_history/1" {
		t.Errorf("Location = %s", got)
	}
	if got := w.Header().Get("Last-Modified"); got != "Sat, 31 Jan 2026 08:00:00 GMT" {
		t.Errorf("Last-Modified = %s", got)
	}
	if got := w.Header().Get("Content-Type"); got != "application/fhir+json; charset=utf-8" {
		t.Errorf("Content-Type = %s", got)
	}
	w = s.must(200, "PUT", "/fhir/Patient/p1", patientNamed("p1", "Windsor"))
	if got := w.Header().Get("ETag"); got != `W/"2"` {
		t.Errorf("ETag after update = %s", got)
	}
	w = s.must(200, "PUT", "/fhir/Patient/p1", patientNamed("p1", "Windsor"))
	if got := w.Header().Get("ETag"); got != `W/"2"` {
		t.Errorf("ETag after an update that changes nothing = %s", got)
	}
}

func TestPostGivesItsOwnID(t *testing.T) {
	s := open(t)
	w := s.must(201, "POST", "/fhir/Patient", `{"resourceType":"Patient","id":"mine","multipleBirthInteger":1.50}`)
	key := s.fake.asked[0].Key
	if key.ID == "mine" || !key.ID.Valid() {
		t.Errorf("id = %s", key.ID)
	}
	if !strings.HasSuffix(w.Header().Get("Location"), "/fhir/"+key.String()+"/_history/1") {
		t.Errorf("Location = %s", w.Header().Get("Location"))
	}
	if !strings.Contains(w.Body.String(), `"multipleBirthInteger":1.50`) {
		t.Errorf("number text changed: %s", w.Body)
	}
	if s.fake.asked[0].Interaction != fhir.Create {
		t.Errorf("interaction = %s", s.fake.asked[0].Interaction)
	}
}

func TestReadGivesWhatWasWritten(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	w := s.must(200, "GET", "/fhir/Patient/p1", "")
	if !strings.Contains(w.Body.String(), `"versionId":"1"`) || w.Header().Get("ETag") != `W/"1"` {
		t.Errorf("read = %s, %v", w.Body, w.Header())
	}
	s.must(304, "GET", "/fhir/Patient/p1", "", `If-None-Match: W/"1"`)
	s.must(304, "GET", "/fhir/Patient/p1", "", `If-None-Match: W/"9", "1"`)
	s.must(200, "GET", "/fhir/Patient/p1", "", `If-None-Match: W/"9"`)
	w = s.must(200, "HEAD", "/fhir/Patient/p1", "")
	if w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" || w.Header().Get("ETag") != `W/"1"` {
		t.Errorf("HEAD = %q, %v", w.Body, w.Header())
	}
	s.must(404, "GET", "/fhir/Patient/unknown", "")
}

func TestDeletedResourceIsGoneButItsVersionsStay(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	w := s.must(204, "DELETE", "/fhir/Patient/p1", "")
	if w.Header().Get("ETag") != `W/"2"` || w.Body.Len() != 0 {
		t.Errorf("delete = %v %q", w.Header(), w.Body)
	}
	w = s.must(410, "GET", "/fhir/Patient/p1", "")
	if issue(t, w).Code != fhir.IssueDeleted {
		t.Errorf("issue = %+v", issue(t, w))
	}
	s.must(200, "GET", "/fhir/Patient/p1/_history/1", "")
	s.must(410, "GET", "/fhir/Patient/p1/_history/2", "")
	s.must(404, "GET", "/fhir/Patient/p1/_history/3", "")
	s.must(404, "GET", "/fhir/Patient/p1/_history/x", "")
	s.must(204, "DELETE", "/fhir/Patient/p1", "")
	s.must(204, "DELETE", "/fhir/Patient/never", "")
	s.must(200, "DELETE", "/fhir/Patient/never", "", "Prefer: return=OperationOutcome")
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
}

func TestIfMatchGuardsTheVersion(t *testing.T) {
	for _, c := range []struct {
		header string
		status int
	}{
		{`W/"1"`, 200}, {`"1"`, 200}, {`W/"2"`, 412}, {`W/"abc"`, 412}, {`W/"01"`, 412}, {`W/"0"`, 412},
		{`1`, 400}, {`*`, 400}, {`W/""`, 400}, {`W/"1", W/"2"`, 400},
	} {
		for _, method := range []string{"PUT", "DELETE", "PATCH"} {
			s := open(t)
			s.must(201, "PUT", "/fhir/Patient/p1", patient)
			body, ct := patientNamed("p1", "x"), "Content-Type: application/fhir+json"
			want := c.status
			switch {
			case method == "DELETE" && want == 200:
				want = 204
				body = ""
			case method == "PATCH":
				body, ct = `[{"op":"replace","path":"/active","value":false}]`, "Content-Type: application/json-patch+json"
			}
			w := s.do(method, "/fhir/Patient/p1", body, "If-Match: "+c.header, ct)
			if w.Code != want {
				t.Errorf("%s If-Match %s = %d, want %d: %s", method, c.header, w.Code, want, w.Body)
			}
		}
	}
	open(t).must(412, "PUT", "/fhir/Patient/p1", patient, `If-Match: W/"1"`)
}

// A HAPI server's rest-hook Subscription sends its own version in If-Match, with the resource
// that it is the version of.
func TestHAPIRequestsAreTaken(t *testing.T) {
	s := open(t)
	hapi := []string{
		"Content-Type: application/fhir+json; charset=UTF-8", "Accept-Charset: utf-8",
		"Accept: application/fhir+xml;q=1.0, application/fhir+json;q=1.0, application/xml+fhir;q=0.9, application/json+fhir;q=0.9",
		"Accept-Encoding: identity", "User-Agent: HAPI-FHIR/8.0.0 (FHIR Client; FHIR 4.0.1/R4; apache)",
		"X-Carillon-Feed: true",
	}
	body := `{"resourceType":"Patient","id":"123","meta":{"versionId":"7","lastUpdated":"2025-05-05T05:05:05.000+00:00"},"active":true}`
	w := s.must(201, "PUT", "/fhir/Patient/123", body, append(hapi, `If-Match: "7"`)...)
	if w.Header().Get("ETag") != `W/"1"` {
		t.Errorf("ETag = %s: the source's version must not stand in it", w.Header().Get("ETag"))
	}
	if !strings.Contains(w.Body.String(), `"versionId":"7","lastUpdated":"2025-05-05T05:05:05.000+00:00"`) {
		t.Errorf("the feed's meta was not kept: %s", w.Body)
	}
	if !s.fake.asked[0].Feed || s.fake.asked[0].IfMatch != nil {
		t.Errorf("write = %+v", s.fake.asked[0])
	}
	s.must(200, "PUT", "/fhir/Patient/123", strings.Replace(body, "true", "false", 1), append(hapi, `If-Match: W/"8"`)...)
	s.must(204, "DELETE", "/fhir/Patient/123", "", append(hapi, `If-Match: "8"`)...)
	s.must(410, "GET", "/fhir/Patient/123", "")

	w = s.must(412, "PUT", "/fhir/Patient/123", body, append(hapi[:5:5], `If-Match: "abc"`)...)
	if !strings.Contains(issue(t, w).Diagnostics, "X-Carillon-Feed") {
		t.Errorf("the refusal does not name the way out: %s", w.Body)
	}
}

func TestIfNoneExistCreatesOnce(t *testing.T) {
	s := open(t)
	body := `{"resourceType":"Patient","identifier":[{"system":"urn:x","value":"1"}]}`
	first := s.must(201, "POST", "/fhir/Patient", body, "If-None-Exist: identifier=urn:x|1")
	again := s.must(200, "POST", "/fhir/Patient", body, "If-None-Exist: Patient?identifier=urn:x|1")
	if first.Header().Get("Location") != again.Header().Get("Location") {
		t.Errorf("Location %s, then %s", first.Header().Get("Location"), again.Header().Get("Location"))
	}
	s.must(201, "POST", "/fhir/Patient", body)
	w := s.must(412, "POST", "/fhir/Patient", body, "If-None-Exist: identifier=urn:x|1")
	if issue(t, w).Code != fhir.IssueDuplicate {
		t.Errorf("issue = %+v", issue(t, w))
	}
	s.must(422, "POST", "/fhir/Patient", body, "If-None-Exist: name=x")
	s.must(400, "POST", "/fhir/Patient", body, "If-None-Exist: %zz")
}

func TestPreferDecidesTheAnswer(t *testing.T) {
	s := open(t)
	if w := s.must(201, "PUT", "/fhir/Patient/a", patientNamed("a", "x"), "Prefer: return=minimal"); w.Body.Len() != 0 {
		t.Errorf("minimal = %s", w.Body)
	}
	if w := s.must(201, "PUT", "/fhir/Patient/b", patientNamed("b", "x"), "Prefer: respond-async, return=representation"); !strings.Contains(w.Body.String(), `"id":"b"`) {
		t.Errorf("representation = %s", w.Body)
	}
	w := s.must(201, "PUT", "/fhir/Patient/c", patientNamed("c", "x"), `Prefer: return="OperationOutcome"`)
	if is := issue(t, w); is.Severity != "information" || is.Diagnostics != "Patient/c created, version 3" {
		t.Errorf("outcome = %+v", is)
	}
}

func TestWarningsAreShown(t *testing.T) {
	s := open(t)
	s.fake.warnings = []fhir.Issue{{Type: fhir.IssueNotSupported, Diagnostics: "this channel is switched off"}}
	w := s.must(201, "PUT", "/fhir/Subscription/s", `{"resourceType":"Subscription","id":"s"}`)
	if got := w.Header().Get("Warning"); got != `299 carillon "this channel is switched off"` {
		t.Errorf("Warning = %s", got)
	}
	w = s.must(201, "PUT", "/fhir/Subscription/s2", `{"resourceType":"Subscription","id":"s2"}`, "Prefer: return=OperationOutcome")
	if o := outcomeIn(t, w.Body.Bytes()); len(o.Issue) != 2 || o.Issue[1].Severity != "warning" {
		t.Errorf("outcome = %+v", o)
	}
}

func TestMalformedRequestsAreNamed(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     fhir.IssueType
		text                     string
	}{
		{"empty body", "PUT", "/fhir/Patient/p1", "", nil, 400, "structure", "empty"},
		{"white space", "PUT", "/fhir/Patient/p1", " \n", nil, 400, "structure", "empty"},
		{"no JSON", "PUT", "/fhir/Patient/p1", "{", nil, 400, "structure", "line 1"},
		{"duplicate key", "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","id":"p1"}`, nil, 400, "structure", "column"},
		{"too deep", "PUT", "/fhir/Patient/p1", deep, nil, 400, "structure", ""},
		{"array", "PUT", "/fhir/Patient/p1", `[]`, nil, 400, "structure", "object"},
		{"no resourceType", "PUT", "/fhir/Patient/p1", `{"id":"p1"}`, nil, 422, "required", "resourceType"},
		{"unknown resourceType", "PUT", "/fhir/Patient/p1", `{"resourceType":"Nothing","id":"p1"}`, nil, 422, "value", ""},
		{"resourceType is a number", "PUT", "/fhir/Patient/p1", `{"resourceType":1,"id":"p1"}`, nil, 422, "value", ""},
		{"other type", "PUT", "/fhir/Patient/p1", `{"resourceType":"Observation","id":"p1"}`, nil, 400, "value", "Observation"},
		{"other type on create", "POST", "/fhir/Patient", `{"resourceType":"Observation"}`, nil, 400, "value", ""},
		{"no id", "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient"}`, nil, 400, "value", "p1"},
		{"other id", "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p2"}`, nil, 400, "value", "p2"},
		{"bad id", "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p 2"}`, nil, 422, "value", ""},
		{"id is a number", "PUT", "/fhir/Patient/1", `{"resourceType":"Patient","id":1}`, nil, 422, "value", ""},
		{"meta is a string", "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","meta":"x"}`, nil, 422, "value", "meta"},
		{"versionId is a number", "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","meta":{"versionId":1}}`, nil, 422, "value", "versionId"},
		{"bad id in the address", "PUT", "/fhir/Patient/p_1", patient, nil, 404, "not-found", ""},
		{"slash in the id", "GET", "/fhir/Patient/a%2Fb", "", nil, 404, "not-found", ""},
		{"long id", "GET", "/fhir/Patient/" + strings.Repeat("a", 65), "", nil, 404, "not-found", ""},
		{"unknown type", "GET", "/fhir/Nothing/1", "", nil, 404, "not-found", "Nothing"},
		{"abstract type", "PUT", "/fhir/Resource/1", `{"resourceType":"Resource","id":"1"}`, nil, 404, "not-found", ""},
		{"unknown operation", "GET", "/fhir/Patient/$everything", "", nil, 404, "not-found", "$everything"},
		{"type history", "GET", "/fhir/Patient/_history", "", nil, 404, "not-found", "_history"},
		{"unknown address", "GET", "/nothing", "", nil, 404, "not-found", "/fhir"},
		{"unclean address", "PUT", "/fhir//Patient/p1", patient, nil, 404, "not-found", ""},
		{"dots", "GET", "/fhir/../fhir/Patient/p1", "", nil, 404, "not-found", ""},
		{"slash at the end", "GET", "/fhir/Patient/p1/", "", nil, 404, "not-found", ""},
		{"other release", "GET", "/fhir/R5/Patient/p1", "", nil, 404, "not-found", "R4"},
		{"other release alone", "GET", "/fhir/R4B", "", nil, 404, "not-found", "R4"},
		{"no such method", "PUT", "/fhir/Patient", patient, nil, 405, "not-supported", "POST"},
		{"TRACE", "TRACE", "/fhir/Patient/p1", "", nil, 405, "not-supported", "GET"},
		{"base is no resource", "GET", "/fhir", "", nil, 405, "not-supported", "POST"},
		{"a body of another type", "PUT", "/fhir/Patient/p1", "<Patient/>", []string{"Content-Type: text/html"}, 415, "not-supported", "application/fhir+xml"},
		{"turtle", "PUT", "/fhir/Patient/p1", "", []string{"Content-Type: text/turtle"}, 415, "not-supported", "application/fhir+json"},
		{"XML that is none", "PUT", "/fhir/Patient/p1", "<Patient", []string{"Content-Type: application/fhir+xml"}, 400, "structure", "line 1"},
		{"XML that is called JSON", "PUT", "/fhir/Patient/p1", " <Patient/>", []string{"Content-Type: application/fhir+json"}, 400, "structure", "application/fhir+xml"},
		{"XML in another charset", "PUT", "/fhir/Patient/p1", "<Patient/>", []string{"Content-Type: application/xml; charset=iso-8859-1"}, 415, "not-supported", "UTF-8"},
		{"a patch as XML", "PATCH", "/fhir/Patient/p1", "<Parameters/>", []string{"Content-Type: application/fhir+xml"}, 415, "not-supported", "application/json-patch+json"},
		{"lines as XML", "POST", "/fhir/$ingest", "<Patient/>", []string{"Content-Type: application/fhir+xml"}, 415, "not-supported", "application/fhir+ndjson"},
		{"form body", "POST", "/fhir/Patient", "a=b", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "not-supported", ""},
		{"bad Content-Type", "POST", "/fhir/Patient", "{}", []string{"Content-Type: ;"}, 415, "not-supported", ""},
		{"Latin 1", "PUT", "/fhir/Patient/p1", patient, []string{"Content-Type: application/json; charset=iso-8859-1"}, 415, "not-supported", "UTF-8"},
		{"brotli", "PUT", "/fhir/Patient/p1", patient, []string{"Content-Encoding: br"}, 415, "not-supported", "gzip"},
		{"not gzip", "PUT", "/fhir/Patient/p1", patient, []string{"Content-Encoding: gzip"}, 400, "structure", "gzip"},
		{"another answer", "GET", "/fhir/Patient/p1", "", []string{"Accept: text/html, application/xhtml+xml"}, 406, "not-supported", "JSON or XML"},
		{"another format", "GET", "/fhir/Patient/p1?_format=ttl", "", nil, 406, "not-supported", "JSON or XML"},
		{"JSON with weight 0", "GET", "/fhir/Patient/p1", "", []string{"Accept: application/json;q=0"}, 406, "not-supported", "JSON"},
		{"unknown parameter", "GET", "/fhir/Patient/p1?_elements=name", "", nil, 400, "not-supported", "_elements"},
		{"unknown parameter on write", "PUT", "/fhir/Patient/p1?x=1", patient, nil, 400, "not-supported", "x"},
		{"bad query", "GET", "/fhir/Patient/p1?%zz", "", nil, 400, "value", "escapes"},
		{"bad search query", "GET", "/fhir/Patient?%zz", "", nil, 400, "value", "escapes"},
		{"search not supported", "GET", "/fhir/Patient?name=x", "", nil, 422, "not-supported", "name"},
		{"bad feed", "PUT", "/fhir/Patient/p1", patient, []string{"X-Carillon-Feed: maybe"}, 400, "value", "X-Carillon-Feed"},
		{"long idempotency key", "PUT", "/fhir/Patient/p1", patient, []string{"Idempotency-Key: " + strings.Repeat("k", 256)}, 400, "value", "Idempotency-Key"},
		{"history count", "GET", "/fhir/Patient/p1/_history?_count=0", "", nil, 400, "value", "_count"},
		{"history since", "GET", "/fhir/Patient/p1/_history?_since=2020", "", nil, 400, "not-supported", "_since"},
		{"bundle at a type", "POST", "/fhir", patient, nil, 400, "value", "Bundle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			w := s.do(c.method, c.path, c.body, c.headers...)
			if w.Code != c.status {
				t.Fatalf("status = %d, want %d: %s", w.Code, c.status, w.Body)
			}
			is := issue(t, w)
			if is.Code != c.code || is.Severity != "error" || !strings.Contains(is.Diagnostics, c.text) {
				t.Errorf("issue = %+v, want %s with %q", is, c.code, c.text)
			}
			if len(s.fake.asked) != 0 {
				t.Errorf("something was written: %+v", s.fake.asked)
			}
			if c.status == 405 && w.Header().Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
}

func TestAllowListsTheMethodsOfAnAddress(t *testing.T) {
	w := open(t).must(405, "POST", "/fhir/Patient/p1", patient)
	if got := w.Header().Get("Allow"); got != "GET, HEAD, PUT, PATCH, DELETE" {
		t.Errorf("Allow = %s", got)
	}
}

func TestEveryIssueTypeHasItsStatus(t *testing.T) {
	for typ, want := range map[fhir.IssueType]int{
		fhir.IssueStructure: 400, fhir.IssueRequired: 422, fhir.IssueValue: 422, fhir.IssueInvariant: 422,
		fhir.IssueNotSupported: 422, fhir.IssueProcessing: 422, fhir.IssueNotFound: 404, fhir.IssueDeleted: 410,
		fhir.IssueConflict: 409, fhir.IssueDuplicate: 412, fhir.IssueTooLong: 413, fhir.IssueSecurity: 401,
		fhir.IssueForbidden: 403, fhir.IssueThrottled: 429, fhir.IssueTransient: 503, fhir.IssueNoStore: 507,
		fhir.IssueException: 500,
	} {
		s := open(t)
		s.fake.fail = func(Write) error { return fmt.Errorf("write: %w", fhir.Refuse(typ, "Patient.x", "secret cause")) }
		w := s.do("PUT", "/fhir/Patient/p1", patient)
		if w.Code != want {
			t.Errorf("%s = %d, want %d", typ, w.Code, want)
		}
		if is := issue(t, w); is.Code != typ || want == 500 == strings.Contains(is.Diagnostics, "secret") {
			t.Errorf("%s: issue = %+v", typ, is)
		}
		if got := w.Header().Get("Retry-After"); (want == 429 || want == 503) == (got == "") {
			t.Errorf("%s: Retry-After = %q", typ, got)
		}
		if w.Header().Get("ETag") != "" {
			t.Errorf("%s: a refusal with an ETag", typ)
		}
	}
}

type busy struct{ error }

func (busy) RetryAfter() time.Duration { return 7 * time.Second }
func (b busy) Unwrap() error           { return b.error }

func TestRetryAfterIsTheBackendsWish(t *testing.T) {
	s := open(t)
	s.fake.fail = func(Write) error { return busy{fhir.Refuse(fhir.IssueThrottled, "", "later")} }
	if w := s.must(429, "PUT", "/fhir/Patient/p1", patient); w.Header().Get("Retry-After") != "7" {
		t.Errorf("Retry-After = %s", w.Header().Get("Retry-After"))
	}
}

func TestFaultsOfOursAreNotShown(t *testing.T) {
	s := open(t)
	s.fake.fail = func(Write) error { return errors.New("bbolt: page 17 of /data is torn") }
	w := s.must(500, "PUT", "/fhir/Patient/p1", patient)
	if is := issue(t, w); is.Severity != "fatal" || strings.Contains(w.Body.String(), "bbolt") {
		t.Errorf("answer = %s", w.Body)
	}
	s.fake.fail = func(Write) error { return context.DeadlineExceeded }
	s.must(503, "PUT", "/fhir/Patient/p1", patient)
	s.fake.fail = func(Write) error { panic("a resource's text") }
	w = s.must(500, "PUT", "/fhir/Patient/p1", patient)
	if strings.Contains(w.Body.String(), "text") {
		t.Errorf("answer = %s", w.Body)
	}
}

func TestHistoryListsAllVersionsNewestFirst(t *testing.T) {
	s := open(t)
	s.must(201, "POST", "/fhir/Patient", `{"resourceType":"Patient"}`)
	key := s.fake.asked[0].Key
	s.must(200, "PUT", "/fhir/"+key.String(), patientNamed(string(key.ID), "x"))
	s.must(204, "DELETE", "/fhir/"+key.String(), "")
	b := readBundle(t, s.must(200, "GET", "/fhir/"+key.String()+"/_history", ""))
	if b.Type != "history" || len(b.Entry) != 3 {
		t.Fatalf("bundle = %+v", b)
	}
	for i, want := range []struct{ method, status string }{{"DELETE", "204 No Content"}, {"PUT", "200 OK"}, {"POST", "201 Created"}} {
		e := b.Entry[i]
		if e.Request.Method != want.method || e.Response.Status != want.status || e.FullURL != "http://127.0.0.1:8080/fhir/"+key.String() {
			t.Errorf("entry %d = %+v %+v", i, e.Request, e.Response)
		}
		if (len(e.Resource) == 0) != (want.method == "DELETE") {
			t.Errorf("entry %d has resource %s", i, e.Resource)
		}
	}
	var seen []string
	path := "/fhir/" + key.String() + "/_history?_count=1"
	for path != "" {
		b := readBundle(t, s.must(200, "GET", path, ""))
		seen = append(seen, b.Entry[0].Response.ETag)
		path = ""
		for _, l := range b.Link {
			if l.Relation == "next" {
				path = strings.TrimPrefix(l.URL, "http://127.0.0.1:8080")
			}
		}
	}
	if fmt.Sprint(seen) != `[W/"3" W/"2" W/"1"]` {
		t.Errorf("pages = %v", seen)
	}
	s.must(404, "GET", "/fhir/Patient/never/_history", "")
}

func TestSearchByAddressAndByForm(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","identifier":[{"system":"urn:x","value":"1"}],"height":1.50}`)
	s.must(201, "PUT", "/fhir/Patient/p2", patientNamed("p2", "x"))
	w := s.must(200, "GET", "/fhir/Patient?identifier=urn:x%7C1&_format=json", "")
	b := readBundle(t, w)
	if b.Type != "searchset" || *b.Total != 1 || b.Entry[0].Search.Mode != "match" || b.Entry[0].FullURL != "http://127.0.0.1:8080/fhir/Patient/p1" {
		t.Errorf("bundle = %s", w.Body)
	}
	if !strings.Contains(w.Body.String(), "1.50") {
		t.Errorf("number text changed: %s", w.Body)
	}
	form := []string{"Content-Type: application/x-www-form-urlencoded"}
	if b := readBundle(t, s.must(200, "POST", "/fhir/Patient/_search?identifier=urn:x%7C1", "_id=p1", form...)); *b.Total != 1 {
		t.Errorf("form = %+v", b)
	}
	if b := readBundle(t, s.must(200, "POST", "/fhir/Patient/_search", "_id=p3", form...)); *b.Total != 0 || b.Entry != nil {
		t.Errorf("nothing found = %+v", b)
	}
	s.must(406, "POST", "/fhir/Patient/_search", "_id=p3&_format=html", form...)
	s.must(415, "POST", "/fhir/Patient/_search", "{}", "Content-Type: application/json")
	s.must(404, "GET", "/fhir/Nothing", "")
}

func TestAliasesAndTrailingSlash(t *testing.T) {
	s := open(t)
	w := s.must(201, "PUT", "/fhir/R4/Patient/p1", patient)
	if got := w.Header().Get("Location"); got != "http://127.0.0.1:8080/fhir/R4/Patient/p1/_history/1" {
		t.Errorf("Location = %s", got)
	}
	s.must(200, "GET", "/fhir/Patient/p1", "")
	batch := `{"resourceType":"Bundle","type":"batch"}`
	for _, base := range []string{"/fhir", "/fhir/", "/fhir/R4", "/fhir/R4/"} {
		s.must(200, "POST", base, batch)
	}
	s.must(200, "GET", "/fhir/R4/metadata", "")
	s.must(404, "GET", "/fhir/R44/Patient", "")
	public := open(t, func(c *Config) { c.PublicURL = "https://fhir.example.org/" })
	if got := public.must(201, "PUT", "/fhir/Patient/p1", patient).Header().Get("Location"); got != "https://fhir.example.org/fhir/Patient/p1/_history/1" {
		t.Errorf("Location = %s", got)
	}
}

func TestMediaTypesOfAnswers(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	for accept, want := range map[string]string{
		"":                      mimeFHIR,
		"*/*":                   mimeFHIR,
		"application/json":      mimeJSON,
		"application/fhir+json": mimeFHIR,
		"text/html, */*;q=0.8":  mimeFHIR,
		"application/json+fhir": mimeFHIR,
		"application/xml, application/json;q=0.1":                         mimeXML,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": mimeXML,
		"application/fhir+xml":                                            mimeFHIRXML,
		"application/xml+fhir":                                            mimeFHIRXML,
		"text/xml":                                                        mimeTextXML,
		"*/*, application/fhir+xml":                                       mimeFHIRXML,
		"application/fhir+xml, */*":                                       mimeFHIRXML,
		"application/json, application/fhir+xml":                          mimeJSON,
		"application/fhir+json;q=0.5, text/xml;q=0.6":                     mimeTextXML,
		"application/fhir+xml;q=0, */*;q=0.1":                             mimeFHIR,
		"application/fhir+xml;q=1.0, application/fhir+json;q=1.0":         mimeFHIR,
		"application/fhir+json;fhirVersion=4.0, application/json;q=0.5":   mimeFHIR,
	} {
		w := s.must(200, "GET", "/fhir/Patient/p1", "", "Accept: "+accept)
		if got := w.Header().Get("Content-Type"); got != want+"; charset=utf-8" {
			t.Errorf("Accept %q = %s", accept, got)
		}
	}
	for _, f := range []string{"json", "application/json", "application/fhir+json", "application%2Ffhir%2Bjson", "text/json"} {
		s.must(200, "GET", "/fhir/Patient/p1?_format="+f, "", "Accept: application/fhir+xml")
	}
	if w := s.must(200, "GET", "/fhir/Patient/p1?_pretty=true", ""); !strings.Contains(w.Body.String(), "\n  \"") {
		t.Errorf("pretty = %s", w.Body)
	}
}

func TestRequestIDFollowsTheRequest(t *testing.T) {
	s := open(t)
	w := s.do("GET", "/fhir/Patient/none", "", "X-Request-Id: req-17")
	if w.Header().Get("X-Request-Id") != "req-17" || outcomeIn(t, w.Body.Bytes()).ID != "req-17" {
		t.Errorf("id not echoed: %v %s", w.Header(), w.Body)
	}
	w = s.do("GET", "/fhir/Patient/none", "", "X-Request-Id: a_b/c=")
	if o := outcomeIn(t, w.Body.Bytes()); o.ID != "" || o.Extension[0].ValueString != "a_b/c=" {
		t.Errorf("outcome = %+v", o)
	}
	for _, bad := range []string{"", "a b", strings.Repeat("x", 129), `a"b`, "ä"} {
		w = s.do("GET", "/fhir/Patient/none", "", "X-Request-Id: "+bad)
		if id := w.Header().Get("X-Request-Id"); id == bad || !fhir.ID(id).Valid() || outcomeIn(t, w.Body.Bytes()).ID != id {
			t.Errorf("%q became %q", bad, id)
		}
	}
}

func TestARepeatedWriteWithItsKeyIsOneWrite(t *testing.T) {
	s := open(t)
	key := "Idempotency-Key: order-1"
	first := s.must(201, "POST", "/fhir/Patient", patient, key)
	again := s.do("POST", "/fhir/Patient", patient, key)
	if first.Header().Get("Location") != again.Header().Get("Location") || again.Code/100 != 2 {
		t.Errorf("repeated create: %d %s, %s", again.Code, again.Header().Get("Location"), first.Header().Get("Location"))
	}
	// Also when the backend has forgotten the id.
	clear(s.fake.ids)
	again = s.must(200, "POST", "/fhir/Patient", patient, key)
	if first.Header().Get("Location") != again.Header().Get("Location") {
		t.Errorf("Location = %s", again.Header().Get("Location"))
	}
	// One id with several writes, as proxies and user interfaces send it, loses none.
	s.must(201, "POST", "/fhir/Patient", patientNamed("x", "other"), key)
	s.must(201, "PUT", "/fhir/Patient/a", patientNamed("a", "1"), "X-Request-Id: r1")
	s.must(200, "PUT", "/fhir/Patient/a", patientNamed("a", "2"), "X-Request-Id: r1")
	s.must(201, "PUT", "/fhir/Patient/b", patientNamed("b", "1"), "X-Request-Id: r1")
	for _, w := range s.fake.asked {
		if w.MessageID == "" {
			t.Errorf("%s without message id", w.Key)
		}
	}
	s.must(201, "PUT", "/fhir/Patient/c", patientNamed("c", "1"))
	if w := s.fake.asked[len(s.fake.asked)-1]; w.MessageID != "" {
		t.Errorf("our own request id became message id %s", w.MessageID)
	}
}

func TestTraceparentGoesOn(t *testing.T) {
	s := open(t)
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct{ header, want string }{
		{good, good}, {"", ""}, {"x", ""}, {strings.ToUpper(good), ""}, {"ff" + good[2:], ""}, {good[:52] + "\r01", ""},
		{"00-00000000000000000000000000000000-b7ad6b7169203331-01", ""},
	} {
		s.do("PUT", "/fhir/Patient/p", patientNamed("p", c.header+"!"), "Traceparent: "+c.header)
		if w := s.fake.asked[len(s.fake.asked)-1]; w.Trace != c.want {
			t.Errorf("%q = %q", c.header, w.Trace)
		}
	}
}

func TestPatchChangesWhatItNames(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", `{"resourceType":"Patient","id":"p1","active":true,"extension":[{"url":"x","valueDecimal":1.500}],"name":[{"family":"<A&B>"}]}`)
	ct := "Content-Type: application/json-patch+json"
	w := s.must(200, "PATCH", "/fhir/Patient/p1", `[{"op":"test","path":"/active","value":true},{"op":"replace","path":"/active","value":false}]`, ct)
	for _, want := range []string{`"active":false`, `1.500`, `<A&B>`, `"versionId":"2"`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing in %s", want, w.Body)
		}
	}
	if got := s.fake.asked[1]; got.IfMatch == nil || *got.IfMatch != 1 || got.Interaction != fhir.Update {
		t.Errorf("write = %+v", got)
	}
	for _, c := range []struct {
		name, patch string
		status      int
		text        string
	}{
		{"failing test", `[{"op":"test","path":"/active","value":true}]`, 422, "operation 0 (test /active) failed"},
		{"second fails", `[{"op":"test","path":"/active","value":false},{"op":"remove","path":"/nothing"}]`, 422, "operation 1 (remove /nothing)"},
		{"no array", `{"op":"test"}`, 400, "array"},
		{"no JSON", `[`, 400, "JSON"},
		{"unknown op", `[{"op":"frob","path":"/active"}]`, 400, "operation 0"},
		{"no path", `[{"op":"remove"}]`, 400, "path"},
		{"no value", `[{"op":"add","path":"/x"}]`, 400, "value"},
		{"no from", `[{"op":"move","path":"/x"}]`, 400, "from"},
		{"changes the id", `[{"op":"replace","path":"/id","value":"p2"}]`, 422, "id"},
		{"removes the id", `[{"op":"remove","path":"/id"}]`, 422, "id"},
		{"changes the type", `[{"op":"replace","path":"/resourceType","value":"Observation"}]`, 422, "resourceType"},
		{"replaces all", `[{"op":"replace","path":"","value":[]}]`, 400, "object"},
		{"negative index", `[{"op":"remove","path":"/name/-1"}]`, 422, "operation 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := s.must(c.status, "PATCH", "/fhir/Patient/p1", c.patch, ct)
			if is := issue(t, w); !strings.Contains(is.Diagnostics, c.text) {
				t.Errorf("issue = %+v", is)
			}
		})
	}
	s.must(404, "PATCH", "/fhir/Patient/none", `[]`, ct)
	s.must(415, "PATCH", "/fhir/Patient/p1", `{"resourceType":"Parameters"}`, "Content-Type: application/fhir+json")
	s.must(200, "PATCH", "/fhir/Patient/p1", `[]`, ct)
	s.must(204, "DELETE", "/fhir/Patient/p1", "")
	s.must(410, "PATCH", "/fhir/Patient/p1", `[]`, ct)
}

func TestPatchIsDoneAgainWhenAnotherWriterWasFaster(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	faster := func(f *fake) {
		f.apply(Write{Key: fhir.Key{Type: "Patient", ID: "p1"}, Body: []byte(`{"resourceType":"Patient","id":"p1","active":true,"gender":"male"}`)})
	}
	s.fake.beforeNext = faster
	w := s.must(200, "PATCH", "/fhir/Patient/p1", `[{"op":"replace","path":"/active","value":false}]`, "Content-Type: application/json-patch+json")
	if !strings.Contains(w.Body.String(), `"gender":"male"`) || !strings.Contains(w.Body.String(), `"active":false`) {
		t.Errorf("one of the changes is lost: %s", w.Body)
	}
	s.fake.fail = func(Write) error { return fhir.Refuse(fhir.IssueConflict, "", "always") }
	s.must(409, "PATCH", "/fhir/Patient/p1", `[{"op":"remove","path":"/gender"}]`, "Content-Type: application/json-patch+json")
}

func TestMedplumFeed(t *testing.T) {
	s := open(t)
	s.must(200, "POST", "/fhir/$feed", patient, "X-Medplum-Interaction: update", "Content-Type: application/fhir+json")
	if w := s.fake.asked[0]; !w.Feed || w.Interaction != fhir.Update || w.Key.ID != "p1" {
		t.Errorf("write = %+v", w)
	}
	s.must(200, "POST", "/fhir/$feed", patientNamed("p2", "x"), "X-Medplum-Interaction: create")
	s.must(200, "POST", "/fhir/$feed", patientNamed("p3", "x"))
	if w := s.fake.asked[2]; w.Interaction != "" {
		t.Errorf("write = %+v", w)
	}
	s.must(200, "POST", "/fhir/$feed", "{}", "X-Medplum-Interaction: delete", "X-Medplum-Deleted-Resource: Patient/p1")
	s.must(410, "GET", "/fhir/Patient/p1", "")
	s.must(200, "POST", "/fhir/$feed", "{}", "X-Medplum-Deleted-Resource: Patient/p2")
	s.must(410, "GET", "/fhir/Patient/p2", "")
	s.must(400, "POST", "/fhir/$feed", patient, "X-Medplum-Interaction: banana")
	s.must(400, "POST", "/fhir/$feed", "{}", "X-Medplum-Interaction: update", "X-Medplum-Deleted-Resource: Patient/p2")
	s.must(400, "POST", "/fhir/$feed", "{}", "X-Medplum-Deleted-Resource: p2")
	s.must(404, "POST", "/fhir/$feed", "{}", "X-Medplum-Deleted-Resource: Nothing/p2")
	s.must(422, "POST", "/fhir/$feed", "{}")
	s.must(422, "POST", "/fhir/$feed", `{"resourceType":"Patient"}`)
}

func TestParseVersionTakesOnlyWhatWeGive(t *testing.T) {
	for s, want := range map[string]record.Sequence{"1": 1, "17": 17, "": 0, "0": 0, "01": 0, "+1": 0, "-1": 0, "1.0": 0, "18446744073709551616": 0} {
		if got := parseVersion(s); got != want {
			t.Errorf("%q = %d, want %d", s, got, want)
		}
	}
}

func TestMetadataIsTrueToWhatWorks(t *testing.T) {
	s := open(t)
	w := s.must(200, "GET", "/fhir/metadata", "")
	for _, want := range []string{`"fhirVersion":"4.0.1"`, `"url":"http://127.0.0.1:8080/fhir"`, `"type":"Patient"`, `"version":"1.2.3"`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing in %s", want, w.Body)
		}
	}
	for _, not := range []string{`"DomainResource"`, `"Parameters"`} {
		if strings.Contains(w.Body.String(), not) {
			t.Errorf("%s is in metadata", not)
		}
	}
	s.must(400, "GET", "/fhir/metadata?mode=terminology", "")
	s.must(405, "POST", "/fhir/metadata/x", "")
}
