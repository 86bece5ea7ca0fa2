package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// ingestRun sends text as a file and returns what the command said.
type ingestRun struct {
	t     *testing.T
	fake  *fakeServer
	dir   string
	flags []string
}

func newIngest(t *testing.T, flags ...string) *ingestRun {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	fake := newFakeServer()
	t.Cleanup(fake.close)
	return &ingestRun{t: t, fake: fake, dir: t.TempDir(), flags: append(flags, "--server", fake.url())}
}

func (r *ingestRun) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *ingestRun) run(files ...string) (code int, stdout, stderr string) {
	r.t.Helper()
	code, stdout, stderr = carillon(r.t, "", append(append([]string{"ingest"}, r.flags...), files...)...)
	return code, stdout, strings.ReplaceAll(stderr, r.dir+"/", "")
}

func patients(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, `{"resourceType":"Patient","id":"p%d"}`+"\n", i)
	}
	return b.String()
}

func TestIngestSendsEveryLineInOrder(t *testing.T) {
	r := newIngest(t)
	text := patients(1, 2*chunkLines+5)
	code, stdout, stderr := r.run(r.file("a.ndjson", strings.TrimSuffix(text, "\n")))
	if code != 0 || !strings.HasPrefix(stdout, "accepted 2005, refused 0 in ") {
		t.Fatalf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if got := strings.Join(r.fake.lines, "\n") + "\n"; got != text {
		t.Error("the server got other lines, or in another order")
	}
	if n := len(r.fake.seen()); n != 3 {
		t.Errorf("%d requests", n)
	}
}

func TestIngestTellsRefusedLinesByNumber(t *testing.T) {
	r := newIngest(t)
	first := r.file("a.ndjson", patients(1, 2)+"\n\n"+`{"bad":1}`+"\n"+patients(3, 3))
	second := r.file("b.ndjson", strings.Repeat(patients(1, 1), chunkLines)+`{"bad":1}`+"\n")
	code, stdout, stderr := r.run(first, second, "-o", "json")
	want := "carillon: a.ndjson:5: nothing is called bad; and it is wrong\ncarillon: b.ndjson:1001: nothing is called bad; and it is wrong\n"
	if code != exitUsage || stderr != want {
		t.Errorf("code %d, stderr\n%s", code, stderr)
	}
	var result struct {
		Accepted, Refused int
		Refusals          []refusal
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || result.Accepted != 1003 || result.Refused != 2 || len(result.Refusals) != 2 {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestIngestReadsChangesAndBundles(t *testing.T) {
	r := newIngest(t)
	text := strings.Join([]string{
		`{"interaction":"create","resource":{"resourceType":"Patient","id":"1"}}`,
		`{"interaction":"delete","resource":{"resourceType":"Patient","id":"1"},"previous":{}}`,
		`{"interaction":"delete","previous":{"resourceType":"Patient","id":"2"}}`,
		`{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Patient","id":"3"}},{}]}`,
		`{"resourceType":"Bundle","type":"history","entry":[{"request":{"method":"DELETE","url":"Patient/4"}},{"resource":{"resourceType":"Patient","id":"4"}}]}`,
		`{"resourceType":"Bundle","type":"transaction","entry":[]}`,
		`{"resourceType":"Bundle","type":"document","id":"5"}`,
		`{"interaction":"upsert","resource":{}}`,
		`{"interaction":"delete"}`,
		`{"interaction":"update"}`,
		`not json`,
	}, "\n")
	code, stdout, stderr := r.run(r.file("a.ndjson", text))
	wantRequests := []string{
		"POST /fhir/$ingest", "DELETE /fhir/Patient/1", "DELETE /fhir/Patient/2", "POST /fhir/$ingest", "DELETE /fhir/Patient/4", "POST /fhir", "POST /fhir/$ingest",
	}
	if got := r.fake.seen(); !reflect.DeepEqual(got, wantRequests) {
		t.Errorf("requests %q", got)
	}
	wantLines := []string{
		`{"resourceType":"Patient","id":"1"}`, `{"resourceType":"Patient","id":"3"}`, `{"resourceType":"Patient","id":"4"}`,
		`{"resourceType":"Bundle","type":"document","id":"5"}`, `not json`,
	}
	if !reflect.DeepEqual(r.fake.lines, wantLines) {
		t.Errorf("lines %q", r.fake.lines)
	}
	wantErrors := `carillon: a.ndjson:4 entry 2: the entry has no resource
carillon: a.ndjson:6 entry 2: no such code
carillon: a.ndjson:8: interaction "upsert" is not create, update or delete
carillon: a.ndjson:9: a delete needs resourceType and id of its resource
carillon: a.ndjson:10: a change needs its resource
`
	if stderr != wantErrors || code != exitUsage {
		t.Errorf("code %d, stderr\n%s", code, stderr)
	}
	if !strings.HasPrefix(stdout, "accepted 9, refused 5 in ") {
		t.Errorf("stdout %q", stdout)
	}
}

func TestIngestReadsAFileThatIsOneBundle(t *testing.T) {
	r := newIngest(t)
	code, _, stderr := r.run(r.file("a.json", "{\n \"resourceType\": \"Bundle\",\n \"type\": \"collection\",\n \"entry\": [{\"resource\": {\"resourceType\": \"Patient\"}}]\n}\n"))
	if code != 0 || !reflect.DeepEqual(r.fake.lines, []string{`{"resourceType":"Patient"}`}) {
		t.Errorf("code %d, lines %q, stderr %q", code, r.fake.lines, stderr)
	}
}

func TestIngestHasPatienceWithABusyServer(t *testing.T) {
	r := newIngest(t)
	answers := []int{http.StatusServiceUnavailable, http.StatusTooManyRequests}
	r.fake.refuse = func(w http.ResponseWriter, req *http.Request) bool {
		if len(answers) == 0 {
			return false
		}
		status := answers[0]
		answers = answers[1:]
		w.Header().Set("Retry-After", "0.001")
		if status == http.StatusServiceUnavailable {
			// It has taken two lines and refused the second.
			outcome(w, status, "stopped at line 3, last line accepted 2 (accepted 1, refused 1): no quorum", "line 2: no good")
			return true
		}
		outcome(w, status, "come again")
		return true
	}
	code, stdout, stderr := r.run(r.file("a.ndjson", patients(1, 4)))
	if code != exitUsage || stderr != "carillon: a.ndjson:2: no good\n" || !strings.HasPrefix(stdout, "accepted 3, refused 1 in ") {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if want := strings.Split(strings.TrimSpace(patients(3, 4)), "\n"); !reflect.DeepEqual(r.fake.lines, want) {
		t.Errorf("the server got %q again", r.fake.lines)
	}
}

func TestIngestGoesOnWhereItStopped(t *testing.T) {
	r := newIngest(t)
	r.flags = append(r.flags, "--resume", filepath.Join(r.dir, "state"))
	file := r.file("a.ndjson", patients(1, 3*chunkLines))
	calls := 0
	r.fake.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		if calls++; calls == 3 {
			outcome(w, http.StatusInsufficientStorage, "stopped at line 1, last line accepted 0 (accepted 0, refused 0): the disk is full")
			return true
		}
		return false
	}
	code, _, stderr := r.run(file)
	if code != exitFailed || !strings.Contains(stderr, "the disk is full") || !strings.Contains(stderr, "stopped after 2000 accepted; the same command goes on from there") {
		t.Fatalf("code %d, stderr %q", code, stderr)
	}
	code, stdout, stderr := r.run(file)
	if code != 0 || !strings.HasPrefix(stdout, "accepted 1000, refused 0") {
		t.Fatalf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if got := strings.Join(r.fake.lines, "\n") + "\n"; got != patients(1, 3*chunkLines) {
		t.Error("lines are missing, doubled or out of order")
	}
	code, stdout, _ = r.run(file)
	if code != 0 || !strings.HasPrefix(stdout, "accepted 0, refused 0") {
		t.Errorf("a third run sent something: code %d, %q", code, stdout)
	}
	code, _, stderr = r.run(r.file("a.ndjson", patients(1, 5)))
	if code != exitUsage || !strings.Contains(stderr, "it is another file") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

func TestIngestStopsWhenTheRunCannotGoOn(t *testing.T) {
	for status, want := range map[int]int{401: exitForbidden, 403: exitForbidden, 507: exitFailed, 500: exitFailed} {
		r := newIngest(t)
		r.fake.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
			outcome(w, status, "no")
			return true
		}
		code, _, stderr := r.run(r.file("a.ndjson", patients(1, chunkLines+1)))
		if code != want || len(r.fake.seen()) != 1 || !strings.Contains(stderr, "with --resume FILE") {
			t.Errorf("%d: code %d, %d requests, stderr %q", status, code, len(r.fake.seen()), stderr)
		}
	}
}

func TestLineReaderPassesOverWhatIsTooLong(t *testing.T) {
	text := "a\n" + strings.Repeat("x", 1<<20) + "\r\n\nb\r\n" + strings.Repeat("y", 10) + "\nc"
	l := newLineReader(strings.NewReader(text), 9)
	var got []string
	for {
		line, err := l.next()
		switch {
		case err == errLineTooLong:
			got = append(got, fmt.Sprintf("%d too long", l.line))
			continue
		case err != nil:
			want := []string{"1 a", "2 too long", "4 b", "5 too long", "6 c"}
			if !slices.Equal(got, want) || l.read != int64(len(text)) {
				t.Errorf("got %q, read %d of %d", got, l.read, len(text))
			}
			return
		}
		got = append(got, fmt.Sprintf("%d %s", l.line, line))
	}
}
