package api

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirxml "github.com/carillon-fhir/carillon/match/fhir/xml"
)

const (
	sendsXML = "Content-Type: application/fhir+xml; charset=utf-8"
	wantsXML = "Accept: application/fhir+xml"
)

// patientXML is a Patient with what JSON and XML write differently.
const patientXML = `<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment -->
<Patient xmlns="http://hl7.org/fhir">
	<id value="p1"/>
	<text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml">a &lt; b</div></text>
	<extension url="urn:x"><valueDecimal value="1.50"/></extension>
	<active value="true"/>
	<name><given value="Jim"><extension url="urn:y"><valueBoolean value="false"/></extension></given></name>
</Patient>`

const patientJSON = `{"resourceType":"Patient","id":"p1","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">a &lt; b</div>"},` +
	`"extension":[{"url":"urn:x","valueDecimal":1.50}],"active":true,"name":[{"given":["Jim"],"_given":[{"extension":[{"url":"urn:y","valueBoolean":false}]}]}]}`

// fromXML reads an answer that must be FHIR's XML, and gives it as JSON.
func fromXML(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "application/fhir+xml; charset=utf-8" {
		t.Fatalf("Content-Type = %q: %s", got, w.Body)
	}
	json, err := fhirxml.Unmarshal(fhir.R4, w.Body.Bytes())
	if err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return string(json)
}

func asXML(t *testing.T, json string) string {
	t.Helper()
	xml, err := fhirxml.Marshal(fhir.R4, []byte(json))
	if err != nil {
		t.Fatal(err)
	}
	return string(xml)
}

func TestAResourceSentAsXMLIsStoredAsItsJSON(t *testing.T) {
	for _, contentType := range []string{"application/fhir+xml", "application/xml", "text/xml; charset=UTF-8", "application/xml+fhir"} {
		s := open(t)
		s.must(201, "PUT", "/fhir/Patient/p1", patientXML, "Content-Type: "+contentType)
		if got := string(s.fake.asked[0].Body); got != patientJSON {
			t.Errorf("%s: stored %s", contentType, got)
		}
	}
}

// Every kind of answer, asked for as XML with a body that is XML where there is one.
func TestEveryAnswerOfFHIRComesAsXML(t *testing.T) {
	const xml = "application/fhir+xml"
	parameters := asXML(t, `{"resourceType":"Parameters","parameter":[{"name":"resource","resource":{"resourceType":"Subscription","status":"active"}}]}`)
	ask := asXML(t, `{"resourceType":"Parameters","parameter":[{"name":"subscription","resource":{"resourceType":"Subscription","status":"active"}},{"name":"resource","resource":{"resourceType":"Patient","id":"p"}}]}`)
	entries := []string{request("PUT", "Patient/p2", "resource="+patientNamed("p2", "x")), request("GET", "Patient/p1"), request("GET", "Patient?_id=p1")}
	for _, c := range []struct {
		name               string
		status             int
		method, path, body string
		contentType, says  string
		another            string // header
	}{
		{name: "create", status: 201, method: "POST", path: "/fhir/Patient", body: `<Patient xmlns="http://hl7.org/fhir"/>`, says: `{"resourceType":"Patient","id":"`},
		{name: "update", status: 200, method: "PUT", path: "/fhir/Patient/p1", body: strings.Replace(patientXML, "true", "false", 1), says: `"active":false`},
		{name: "conditional update", status: 200, method: "PUT", path: "/fhir/Patient?_id=p1", body: strings.Replace(patientXML, "Jim", "Tim", 1), says: "Tim"},
		{name: "an outcome in place of the resource", status: 200, method: "PUT", path: "/fhir/Patient/p1", body: patientXML, another: "Prefer: return=OperationOutcome", says: `"severity":"information"`},
		{name: "patch, whose body stays JSON", status: 200, method: "PATCH", path: "/fhir/Patient/p1", body: `[{"op":"remove","path":"/active"}]`, contentType: "application/json-patch+json", says: `"resourceType":"Patient"`},
		{name: "read", status: 200, method: "GET", path: "/fhir/Patient/p1", says: `"valueDecimal":1.50`},
		{name: "a version", status: 200, method: "GET", path: "/fhir/Patient/p1/_history/1", says: `"versionId":"1"`},
		{name: "history", status: 200, method: "GET", path: "/fhir/Patient/p1/_history", says: `"type":"history"`},
		{name: "search", status: 200, method: "GET", path: "/fhir/Patient?_id=p1", says: `"search":{"mode":"match"}`},
		{name: "search by form", status: 200, method: "POST", path: "/fhir/Patient/_search", body: "_id=p1", contentType: "application/x-www-form-urlencoded", says: `"type":"searchset"`},
		{name: "batch", status: 200, method: "POST", path: "/fhir", body: asXML(t, bundleOf("batch", entries...)), says: `"type":"batch-response"`},
		{name: "transaction", status: 200, method: "POST", path: "/fhir", body: asXML(t, bundleOf("transaction", entries...)), says: `"type":"transaction-response"`},
		{name: "metadata", status: 200, method: "GET", path: "/fhir/metadata", says: `"format":["application/fhir+json","application/json","application/fhir+xml","application/xml"]`},
		{name: "validate", status: 200, method: "POST", path: "/fhir/Subscription/$validate", body: parameters, says: "would be accepted"},
		{name: "explain", status: 200, method: "POST", path: "/fhir/Subscription/$explain", body: ask, says: `"name":"matches","valueBoolean":true`},
		{name: "resend", status: 200, method: "POST", path: "/fhir/Patient/p1/$resend", body: asXML(t, `{"resourceType":"Parameters","parameter":[{"name":"interaction","valueCode":"create"}]}`), says: "All OK"},
		{name: "lines", status: 200, method: "POST", path: "/fhir/$ingest", body: `{"resourceType":"Patient","id":"l"}`, contentType: "application/fhir+ndjson", says: "accepted 1"},
		{name: "feed", status: 200, method: "POST", path: "/fhir/$feed", body: `<Patient xmlns="http://hl7.org/fhir"><id value="f"/></Patient>`, says: "created"},
		{name: "a refusal", status: 404, method: "GET", path: "/fhir/Patient/none", says: `"code":"not-found"`},
		{name: "an unknown type", status: 404, method: "GET", path: "/fhir/Nothing", says: `"code":"not-found"`},
		{name: "an unknown address", status: 404, method: "GET", path: "/fhir/a/b/c/d/e", says: `"code":"not-found"`},
		{name: "a method that is not allowed", status: 405, method: "DELETE", path: "/fhir", says: "not allowed"},
		{name: "XML that is none", status: 400, method: "PUT", path: "/fhir/Patient/p1", body: "<Patient", says: "at line 1"},
		{name: "an element that is none of FHIR's", status: 400, method: "PUT", path: "/fhir/Patient/p1", body: "<Patient xmlns=\"http://hl7.org/fhir\">\n<nmae/></Patient>", says: "the element nmae is not one that FHIR R4 has here at line 2 column 1"},
		{name: "a value of another type", status: 422, method: "PUT", path: "/fhir/Patient/p1", body: `<Patient xmlns="http://hl7.org/fhir"><active value="yes"/></Patient>`, says: `"expression":["Patient.active"]`},
		{name: "an external entity", status: 400, method: "PUT", path: "/fhir/Patient/p1", body: `<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><Patient xmlns="http://hl7.org/fhir"><language value="&b;"/></Patient>`, says: "document types"},
		{name: "another type than the address", status: 400, method: "PUT", path: "/fhir/Patient/p1", body: `<Observation xmlns="http://hl7.org/fhir"/>`, says: "address"},
		{name: "nothing", status: 400, method: "PUT", path: "/fhir/Patient/p1", body: " ", says: "the body is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			s.must(201, "PUT", "/fhir/Patient/p1", patientXML, sendsXML)
			headers := []string{wantsXML, "Content-Type: " + xml}
			if c.contentType != "" {
				headers[1] = "Content-Type: " + c.contentType
			}
			if c.another != "" {
				headers = append(headers, c.another)
			}
			if got := fromXML(t, s.must(c.status, c.method, c.path, c.body, headers...)); !strings.Contains(got, c.says) {
				t.Errorf("%s does not say %s", got, c.says)
			}
		})
	}
	if got := fromXML(t, closed(t).must(401, "GET", "/fhir/Patient/p1", "", wantsXML)); !strings.Contains(got, `"code":"security"`) {
		t.Errorf("without login: %s", got)
	}
}

func TestFormatGoesBeforeAcceptAndStaysInTheLinks(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patientNamed("p1", "a"))
	s.must(200, "PUT", "/fhir/Patient/p1", patientNamed("p1", "b"))
	for _, f := range []string{"xml", "application/fhir+xml", "application%2Ffhir%2Bxml"} {
		fromXML(t, s.must(200, "GET", "/fhir/Patient/p1?_format="+f, "", "Accept: application/json"))
	}
	for _, f := range []string{"text/xml", "application/xml"} {
		if got := s.must(200, "GET", "/fhir/Patient/p1?_format="+f, "").Header().Get("Content-Type"); got != f+"; charset=utf-8" {
			t.Errorf("_format=%s = %s", f, got)
		}
	}
	for _, path := range []string{"/fhir/Patient?_count=1&_format=xml", "/fhir/Patient/p1/_history?_count=1&_format=xml"} {
		got := fromXML(t, s.must(200, "GET", path, ""))
		if n := len(regexp.MustCompile(`"url":"[^"]*_format=xml`).FindAllString(got, -1)); n != strings.Count(got, `"relation":`) || n == 0 {
			t.Errorf("%s: links without the format: %s", path, got)
		}
	}
}

func TestXMLIsIndentedAndPackedOnRequest(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patientNamed("p1", strings.Repeat("x", 2000)))
	w := s.must(200, "GET", "/fhir/Patient/p1?_pretty=true", "", wantsXML, "Accept-Encoding: gzip")
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	xml, err := io.ReadAll(z)
	if err != nil || !bytes.HasPrefix(xml, []byte("<Patient xmlns=\"http://hl7.org/fhir\">\n  <id value=\"p1\"/>\n")) {
		t.Errorf("%v: %.100s", err, xml)
	}
	if w := s.must(200, "HEAD", "/fhir/Patient/p1", "", wantsXML); w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" {
		t.Errorf("HEAD = %v", w.Header())
	}
	if w := s.must(304, "GET", "/fhir/Patient/p1", "", wantsXML, `If-None-Match: W/"1"`); w.Body.Len() != 0 {
		t.Errorf("304 has a body: %s", w.Body)
	}
	s.must(204, "DELETE", "/fhir/Patient/p1", "", wantsXML)
}

func TestTheLimitsHoldForXMLAndForWhatItBecomes(t *testing.T) {
	s := open(t, func(c *Config) { c.Limits.Resource = 300 })
	long := `<Patient xmlns="http://hl7.org/fhir"><id value="p1"/><language value="` + strings.Repeat("x", 300) + `"/></Patient>`
	s.must(413, "PUT", "/fhir/Patient/p1", long, sendsXML)
	quotes := `<Patient xmlns="http://hl7.org/fhir"><id value="p1"/><language value='` + strings.Repeat(`"`, 150) + `'/></Patient>`
	s.must(413, "PUT", "/fhir/Patient/p1", quotes, sendsXML)
	deep := strings.Repeat(`<extension url="u">`, 100) + strings.Repeat(`</extension>`, 100)
	open(t).must(400, "PUT", "/fhir/Patient/p1", `<Patient xmlns="http://hl7.org/fhir"><id value="p1"/>`+deep+`</Patient>`, sendsXML)
}

// A source may store what is no FHIR; JSON hands it on as it is, XML has no place for it.
func TestAResourceThatXMLHasNoPlaceForIsNotShownAsSomethingElse(t *testing.T) {
	const odd = `{"resourceType":"Patient","id":"odd","name":[{"nmae":"secret"}]}`
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patientNamed("p1", "fine"))

	// The write was done, and its answer says so.
	got := fromXML(t, s.must(201, "PUT", "/fhir/Patient/odd", odd, wantsXML))
	if !strings.Contains(got, `"severity":"warning"`) || !strings.Contains(got, "Patient.name[0]") || !strings.Contains(got, "application/fhir+json") {
		t.Errorf("write: %s", got)
	}
	got = fromXML(t, s.must(406, "GET", "/fhir/Patient/odd", "", wantsXML))
	if !strings.Contains(got, `"severity":"error"`) || !strings.Contains(got, "Patient.name[0]") || strings.Contains(got, "secret") {
		t.Errorf("read: %s", got)
	}
	s.must(200, "GET", "/fhir/Patient/odd", "")

	// Among others it hides none of them.
	got = fromXML(t, s.must(200, "GET", "/fhir/Patient", "", wantsXML))
	if !strings.Contains(got, "fine") || !strings.Contains(got, `"mode":"outcome"`) || !strings.Contains(got, "Patient/odd cannot be written as XML") || strings.Contains(got, "secret") {
		t.Errorf("search: %s", got)
	}
	got = fromXML(t, s.must(200, "GET", "/fhir/Patient/odd/_history", "", wantsXML))
	if !strings.Contains(got, "cannot be written as XML") || !strings.Contains(got, `"status":"201 Created"`) {
		t.Errorf("history: %s", got)
	}
	got = fromXML(t, s.must(200, "POST", "/fhir", bundleOf("batch", request("GET", "Patient/odd"), request("GET", "Patient/p1")), wantsXML))
	if !strings.Contains(got, "cannot be written as XML") || !strings.Contains(got, "fine") {
		t.Errorf("batch: %s", got)
	}
}

func TestTheAdministrationIsJSONAlone(t *testing.T) {
	s := open(t)
	if got := issue(t, s.must(406, "GET", admin+"/tokens", "", "Accept: application/xml")); !strings.Contains(got.Diagnostics, "application/json") {
		t.Errorf("issue = %+v", got)
	}
	s.must(415, "POST", admin+"/resend", `<a/>`, "Content-Type: application/xml")
	s.must(200, "GET", "/livez", "", "Accept: application/xml")
}
