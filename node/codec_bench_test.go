package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// observation is a resource of a kilobyte.
func observation() []byte {
	return fmt.Appendf(nil, `{"resourceType":"Observation","id":"o1","identifier":[{"system":"http://example.org/obs","value":"1"}],"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"},"note":[{"text":"%s"}]}`,
		strings.Repeat("x", 800))
}

// BenchmarkHashBody is what the fold pays for each event, and the gate for each update.
func BenchmarkHashBody(b *testing.B) {
	body := observation()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := hashBody(body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkShown is a body as a read, or a notification, returns it.
func BenchmarkShown(b *testing.B) {
	e := record.Event{Key: fhir.Key{Type: "Observation", ID: "o1"}, Sequence: 4711, Time: time.Unix(1, 0), Body: observation()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := shown(e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEventMessage is a change on its way into the log, and out of it.
func BenchmarkEventMessage(b *testing.B) {
	e := record.Event{Key: fhir.Key{Type: "Observation", ID: "o1"}, Body: observation()}
	b.ReportAllocs()
	for b.Loop() {
		if m := eventMessage(e); len(m.Data) == 0 {
			b.Fatal("the message has no body")
		}
	}
}
