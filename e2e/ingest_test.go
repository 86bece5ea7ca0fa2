package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// reading is one line of the sample as this test reads it, with nothing of ours.
type reading struct {
	ResourceType string
	ID           string
	Status       string
	Code         struct {
		Coding []struct{ System, Code string }
	}
	Subject struct{ Reference string }
}

// The whole sample is accepted, and three Subscriptions receive exactly what an independent
// reading of the file says they should.
func TestIngestOfTheSampleDeliversExactlyTheMatches(t *testing.T) {
	n := harness.NewNode(t).Start()
	lines := sample(t)
	someone := lines[0].Subject.Reference
	for _, r := range lines {
		if strings.HasPrefix(r.Subject.Reference, "Patient/") {
			someone = r.Subject.Reference
			break
		}
	}
	subs := []struct {
		id, criteria string
		wants        func(reading) bool
	}{
		{"bmi", "Observation?code=http://loinc.org|39156-5", func(r reading) bool {
			if r.ResourceType != "Observation" {
				return false
			}
			for _, c := range r.Code.Coding {
				if c.System == "http://loinc.org" && c.Code == "39156-5" {
					return true
				}
			}
			return false
		}},
		{"someone", "Observation?subject=" + someone, func(r reading) bool {
			return r.ResourceType == "Observation" && r.Subject.Reference == someone
		}},
		{"finished", "Encounter?status=finished,in-progress", func(r reading) bool {
			return r.ResourceType == "Encounter" && (r.Status == "finished" || r.Status == "in-progress")
		}},
	}
	endpoints := make([]*harness.Endpoint, len(subs))
	for i, s := range subs {
		endpoints[i] = harness.NewEndpoint(t)
		n.MustDo(201, "PUT", "/fhir/Subscription/"+s.id, subscription(s.id, s.criteria, endpoints[i].URL))
	}
	stdout, stderr, code := n.CLI("ingest", "testdata/sample-r4.ndjson")
	if code != 0 {
		t.Fatalf("ingest: code %d\n%s%s", code, stdout, stderr)
	}
	for i, s := range subs {
		want := map[string]bool{}
		for _, r := range lines {
			if s.wants(r) {
				want["/"+r.ResourceType+"/"+r.ID] = true
			}
		}
		if len(want) == 0 {
			t.Fatalf("%s: the sample has no match, the test shows nothing", s.id)
		}
		got := map[string]bool{}
		for _, a := range endpoints[i].AwaitCount(t, 30*time.Second, len(want)) {
			got[a.Path] = true
		}
		for p := range want {
			if !got[p] {
				t.Errorf("%s: %s did not arrive", s.id, p)
			}
		}
		for p := range got {
			if !want[p] {
				t.Errorf("%s: %s arrived and does not match", s.id, p)
			}
		}
		t.Logf("%s: %d of %d resources", s.criteria, len(want), len(lines))
	}
}

// One bad line is refused with its number, the lines around it are accepted.
func TestABadLineIsRefusedWithItsNumberAndTheRestIsAccepted(t *testing.T) {
	n := harness.NewNode(t).Start()
	body := patient("a", "A") + "\n" + `{"resourceType":"Patient","id":"b",` + "\n\n" + patient("c", "C") + "\n" + `{"resourceType":"Nonsense","id":"d"}` + "\n"
	a := n.MustDo(200, "POST", "/fhir/$ingest", body, "Content-Type", "application/fhir+ndjson")
	for _, says := range []string{"accepted 2, refused 2", "line 2: ", "line 5: "} {
		if !strings.Contains(string(a.Body), says) {
			t.Errorf("the answer does not say %q:\n%s", says, a.Body)
		}
	}
	n.MustDo(200, "GET", "/fhir/Patient/a", "")
	n.MustDo(200, "GET", "/fhir/Patient/c", "")
	n.MustDo(404, "GET", "/fhir/Patient/b", "")
}

func sample(t *testing.T) []reading {
	f, err := os.Open("testdata/sample-r4.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []reading
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		// Not every type's code is a CodeableConcept; what cannot be read is no match.
		var r reading
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			var head struct{ ResourceType, ID string }
			if err := json.Unmarshal(sc.Bytes(), &head); err != nil {
				t.Fatal(err)
			}
			r = reading{ResourceType: head.ResourceType, ID: head.ID}
		}
		out = append(out, r)
	}
	return out
}
