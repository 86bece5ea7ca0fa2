package api

import (
	"testing"
)

// A body that nobody sees is not rendered: the backend is told, and the answer is the same.
func TestABackendIsAskedForABodyOnlyWhereTheAnswerShowsIt(t *testing.T) {
	const resource = `{"resourceType":"Patient","id":"p1","active":true}`
	inBundle := func(typ string) string {
		return `{"resourceType":"Bundle","type":"` + typ + `","entry":[{"resource":` + resource + `,"request":{"method":"PUT","url":"Patient/p1"}}]}`
	}
	for _, c := range []struct {
		name, method, path, body, prefer string
		brief                            bool
		length                           bool // the answer has a body
	}{
		{"put", "PUT", "/fhir/Patient/p1", resource, "", false, true},
		{"put, representation", "PUT", "/fhir/Patient/p1", resource, "return=representation", false, true},
		{"put, minimal", "PUT", "/fhir/Patient/p1", resource, "return=minimal", true, false},
		{"put, outcome", "PUT", "/fhir/Patient/p1", resource, "return=OperationOutcome", true, true},
		{"create", "POST", "/fhir/Patient", resource, "", false, true},
		{"create, minimal", "POST", "/fhir/Patient", resource, "return=minimal", true, false},
		{"batch", "POST", "/fhir", inBundle("batch"), "", true, true},
		{"batch, representation", "POST", "/fhir", inBundle("batch"), "return=representation", false, true},
		{"transaction", "POST", "/fhir", inBundle("transaction"), "return=minimal", true, true},
		{"transaction, representation", "POST", "/fhir", inBundle("transaction"), "return=representation", false, true},
		{"feed", "POST", "/fhir/$feed", resource, "return=representation", true, true},
		{"ingest", "POST", "/fhir/$ingest", resource + "\n", "return=representation", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			headers := []string{}
			if c.prefer != "" {
				headers = append(headers, "Prefer: "+c.prefer)
			}
			if c.path == "/fhir/$ingest" {
				headers = append(headers, "Content-Type: application/x-ndjson")
			}
			w := s.do(c.method, c.path, c.body, headers...)
			if w.Code >= 300 || w.Code == 204 || (w.Body.Len() > 0) != c.length {
				t.Errorf("answered %d with %d bytes", w.Code, w.Body.Len())
			}
			if len(s.fake.asked) != 1 || s.fake.asked[0].Brief != c.brief {
				t.Errorf("asked for %d writes, brief is not %v: %+v", len(s.fake.asked), c.brief, s.fake.asked)
			}
		})
	}
}
