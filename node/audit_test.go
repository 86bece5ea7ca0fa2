package node

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// bundleOf is a search's answer as far as these tests look at it.
type bundleOf struct {
	Total *int
	Link  []struct{ Relation, URL string }
	Entry []struct {
		FullURL  string
		Resource json.RawMessage
	}
}

func (b bundleOf) next() string {
	for _, l := range b.Link {
		if l.Relation == "next" {
			return l.URL[strings.Index(l.URL, "/fhir/"):]
		}
	}
	return ""
}

// auditOf is an AuditEvent of R4 as Medplum writes them.
type auditOf struct {
	ID          string
	Type        struct{ System, Code string }
	Subtype     []struct{ Code string }
	Action      string
	Recorded    time.Time
	Period      struct{ Start, End time.Time }
	Outcome     string
	OutcomeDesc string
	Agent       []struct {
		Type      struct{ Text string }
		Who       struct{ Identifier struct{ Value string } }
		Name      string
		Requestor bool
	}
	Source struct {
		Observer struct{ Reference, Display string }
	}
	Entity []struct {
		What   struct{ Reference string }
		Name   string
		Role   struct{ Code string }
		Detail []struct{ Type, ValueString string }
	}
}

func (r *running) audits(query string) (all []auditOf, b bundleOf) {
	r.t.Helper()
	r.do(200, "GET", "/fhir/AuditEvent"+query, "", &b)
	for _, e := range b.Entry {
		var a auditOf
		if err := json.Unmarshal(e.Resource, &a); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, a)
	}
	return all, b
}

// sent waits until an accepted or failed attempt of so many events is told of.
func (r *running) sent(subscription string, n int) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		var as []api.Attempt
		r.do(200, "GET", "/admin/api/v1/attempts?subscription="+subscription, "", &as)
		if len(as) >= n {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d attempts of %s, want %d", len(as), subscription, n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestEachAttemptIsAnAuditEventAsMedplumWritesThem(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Attempts = 2
	cfg.Delivery.Retry.Schedule.Waits = []time.Duration{time.Millisecond}
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/good", subscriptionTo("good", "Patient?active=true", endpoint(t, 200)), nil)
	r.do(201, "PUT", "/fhir/Subscription/bad", subscriptionTo("bad", "Observation?", endpoint(t, 503)), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p","active":true}`, nil)
	r.do(201, "PUT", "/fhir/Observation/o", `{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"}}`, nil)
	r.sent("good", 1)
	r.sent("bad", 2)

	all, _ := r.audits("?entity=Subscription/good")
	if len(all) != 2 { // and the one of its creation
		t.Fatalf("%d AuditEvents of good", len(all))
	}
	a := all[0]
	if a.Type.Code != "transmit" || a.Type.System != "" || a.Recorded.IsZero() || a.Period.Start.After(a.Period.End) || a.Outcome != "0" || a.OutcomeDesc != "Attempt 1 received status 200" {
		t.Errorf("it is %+v", a)
	}
	if len(a.Agent) != 1 || a.Agent[0].Type.Text != "Subscription" || a.Agent[0].Requestor || a.Source.Observer.Reference != "Subscription/good" || a.Source.Observer.Display != "Patient?active=true" {
		t.Errorf("agent and source are %+v", a)
	}
	if len(a.Entity) != 2 || a.Entity[0].What.Reference != "Patient/p" || a.Entity[0].Role.Code != "1" || a.Entity[1].What.Reference != "Subscription/good" || a.Entity[1].Role.Code != "9" {
		t.Errorf("entities are %+v", a.Entity)
	}
	failed, _ := r.audits("?entity=Subscription/bad&type=transmit")
	if len(failed) != 2 || failed[0].Outcome != "4" || failed[0].OutcomeDesc != "Attempt 2 received status 503" || failed[1].OutcomeDesc != "Attempt 1 received status 503" || failed[0].Entity[0].Role.Code != "4" {
		t.Errorf("failed attempts are %+v", failed)
	}

	var again auditOf
	r.do(200, "GET", "/fhir/AuditEvent/"+a.ID, "", &again)
	if again.ID != a.ID || again.OutcomeDesc != a.OutcomeDesc {
		t.Errorf("read by its id it is %+v", again)
	}
	r.do(200, "GET", "/fhir/AuditEvent/"+a.ID+"/_history/1", "", nil)
	r.do(404, "GET", "/fhir/AuditEvent/attempt.999999.0", "", nil)
	r.do(405, "PUT", "/fhir/AuditEvent/"+a.ID, `{"resourceType":"AuditEvent","id":"`+a.ID+`"}`, nil)
	r.do(405, "DELETE", "/fhir/AuditEvent/"+a.ID, "", nil)
	if status, body := r.send("PATCH", "/fhir/AuditEvent/"+a.ID, `[{"op":"remove","path":"/outcome"}]`, "Content-Type: application/json-patch+json"); status != 405 {
		t.Errorf("a patch is answered %d: %s", status, body)
	}

	for query, want := range map[string]int{
		"?entity=Patient/p&type=transmit&_include=AuditEvent:entity":  3, // with the patient and the Subscription
		"?entity=Patient/p&type=transmit":                             1,
		"?entity=Patient/p,Observation/o&type=transmit":               3,
		"?patient=Patient/p":                                          1,
		"?entity=Patient/q":                                           0,
		"?outcome=4&type=transmit":                                    2,
		"?outcome=0&type=transmit":                                    1,
		"?type=transmit":                                              3,
		"?type=transmit&_sort=-date":                                  3,
		"?_id=" + a.ID:                                                1,
		"?type=transmit&date=ge2020-01-01":                            3,
		"?type=transmit&date=lt2020-01-01":                            0,
		"?type=transmit&date=" + time.Now().UTC().Format("2006"):      3,
		"?entity=Subscription/bad&type=transmit&date=gt2020&_count=1": 1,
	} {
		if got, _ := r.audits(query); len(got) != want {
			t.Errorf("%s finds %d, want %d", query, len(got), want)
		}
	}
	var count bundleOf
	r.do(200, "GET", "/fhir/AuditEvent?type=transmit&_summary=count", "", &count)
	if count.Total == nil || *count.Total != 3 || len(count.Entry) != 0 {
		t.Errorf("counted it is %+v", count)
	}
	for _, query := range []string{"?_sort=date", "?_sort=_id", "?_offset=3", "?_cursor=x", "?date=yesterday"} {
		if status, _ := r.send("GET", "/fhir/AuditEvent"+query, ""); status != 422 {
			t.Errorf("%s is %d", query, status)
		}
	}
}

func TestAWalkThroughAuditEventsShowsEachOnceNewestFirst(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", endpoint(t, 200)), nil)
	for i := range 7 {
		r.do(201, "PUT", fmt.Sprintf("/fhir/Patient/p%d", i), fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, i), nil)
		r.sent("s", i+1)
		r.do(201, "PUT", fmt.Sprintf("/fhir/AuditEvent/a%d", i), fmt.Sprintf(
			`{"resourceType":"AuditEvent","id":"a%d","type":{"code":"object"},"recorded":"2026-01-01T00:00:00Z","agent":[{"requestor":true}],"source":{"observer":{"display":"x"}},"entity":[{"what":{"reference":"Subscription/s"}}]}`, i), nil)
	}
	want := 7 + 7 + 1
	for _, query := range []string{"?_count=1", "?_count=4", "?_count=100", "?_count=3&entity=Subscription/s", "?_count=2&date=ge2026"} {
		var seen []string
		for path := "/fhir/AuditEvent" + query; path != ""; {
			var b bundleOf
			r.do(200, "GET", path, "", &b)
			for _, e := range b.Entry {
				var a auditOf
				if err := json.Unmarshal(e.Resource, &a); err != nil {
					t.Fatal(err)
				}
				seen = append(seen, a.ID)
			}
			path = b.next()
		}
		unique := slices.Clone(seen)
		slices.Sort(unique)
		if len(slices.Compact(unique)) != want || len(seen) != want {
			t.Errorf("%s shows %d, want %d: %v", query, len(seen), want, seen)
		}
		if len(seen) > 2 && (seen[0] != "a6" || !strings.HasPrefix(seen[1], api.AttemptID) || seen[2] != "a5") {
			t.Errorf("%s begins with %v", query, seen[:3])
		}
	}
	// What comes meanwhile is not in the walk.
	var b bundleOf
	r.do(200, "GET", "/fhir/AuditEvent?_count=5", "", &b)
	r.do(201, "PUT", "/fhir/Patient/late", `{"resourceType":"Patient","id":"late"}`, nil)
	r.sent("s", 8)
	n := len(b.Entry)
	for path := b.next(); path != ""; path = b.next() {
		b = bundleOf{}
		r.do(200, "GET", path, "", &b)
		n += len(b.Entry)
	}
	if n != want {
		t.Errorf("the walk shows %d, want %d", n, want)
	}
	// Nor where the first page has none of the attempts.
	b = bundleOf{}
	r.do(200, "GET", "/fhir/AuditEvent?_count=1&entity=Subscription/s", "", &b) // the newest is an attempt
	r.do(201, "PUT", "/fhir/AuditEvent/newest", `{"resourceType":"AuditEvent","id":"newest","type":{"code":"object"},"recorded":"2026-01-01T00:00:00Z","agent":[{"requestor":true}],"source":{"observer":{"display":"x"}},"entity":[{"what":{"reference":"Subscription/s"}}]}`, nil)
	b = bundleOf{}
	r.do(200, "GET", "/fhir/AuditEvent?_count=1&entity=Subscription/s", "", &b)
	if len(b.Entry) != 1 || !strings.HasSuffix(b.Entry[0].FullURL, "/newest") {
		t.Fatalf("the first page is %+v", b.Entry)
	}
	r.do(201, "PUT", "/fhir/Patient/later", `{"resourceType":"Patient","id":"later"}`, nil)
	r.sent("s", 9)
	n = len(b.Entry)
	for path := b.next(); path != ""; path = b.next() {
		b = bundleOf{}
		r.do(200, "GET", path, "", &b)
		n += len(b.Entry)
	}
	if n != want+2 { // the late attempt and the newest
		t.Errorf("the walk shows %d, want %d", n, want+2)
	}
}

func TestWhereTheTimeOfAPageEndsItsLinkGoesOn(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", endpoint(t, 200)), nil)
	for i := range 3 {
		r.do(201, "PUT", fmt.Sprintf("/fhir/Patient/p%d", i), fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, i), nil)
	}
	r.sent("s", 3)
	s := *r.gate.search
	s.budget = time.Hour
	a, err := s.understand("AuditEvent", url.Values{"type": {"transmit"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	a.order = order{byTime: true, down: true}
	f, err := s.newAuditFinding(t.Context(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.done() // the next one needs the place
	var out api.Found
	f.from.ended = true
	// Of the three, one was given when the time was over.
	first, ok, err := f.matching(t.Context())
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	f.from.before = first.at
	f.heads[0].ready, f.heads[0].filter.Before, f.heads[0].end = nil, first.at, false
	f.deadline.until = time.Now().Add(-time.Second)
	next, err := f.merge(t.Context(), nil, &out)
	if err != nil || next == nil || len(out.Matches) != 0 || next.before != first.at {
		t.Fatalf("it goes on at %+v with %d given: %v", next, len(out.Matches), err)
	}
	read, err := parseAuditCursor(next.String())
	if err != nil || *read != *next {
		t.Fatalf("%+v is read as %+v, %v", next, read, err)
	}
	rest, err := s.newAuditFinding(t.Context(), a, read)
	if err != nil {
		t.Fatal(err)
	}
	defer rest.done()
	out = api.Found{}
	if next, err = rest.merge(t.Context(), nil, &out); err != nil || next != nil || len(out.Matches) != 2 {
		t.Errorf("the rest is %d, then %+v, %v", len(out.Matches), next, err)
	}
}

const toLog = `"extension":[{"url":"https://medplum.com/fhir/StructureDefinition/subscription-audit-event-destination","valueCode":%q}],`

func TestAttemptsGoWhereTheirSubscriptionWantsThem(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Observability.AuditLog = filepath.Join(t.TempDir(), "audit.jsonl")
	r := runNode(t, cfg)
	for id, to := range map[string]string{"a": fmt.Sprintf(toLog, "log"), "b": fmt.Sprintf(toLog, "resource"), "c": ""} {
		body := strings.Replace(subscriptionTo(id, "Patient?", endpoint(t, 200)), `"id"`, to+`"id"`, 1)
		r.do(201, "PUT", "/fhir/Subscription/"+id, body, nil)
	}
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p","name":[{"family":"Sesame"}]}`, nil)
	for id, want := range map[string]int{"a": 0, "b": 1, "c": 1} {
		r.sent(id, 1)
		if got, _ := r.audits("?type=transmit&entity=Subscription/" + id); len(got) != want {
			t.Errorf("%s: %d AuditEvents, want %d", id, len(got), want)
		}
	}
	var lines []string
	for deadline := time.Now().Add(30 * time.Second); len(lines) == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(cfg.Observability.AuditLog)
		if err != nil {
			t.Fatal(err)
		}
		lines = strings.Split(strings.TrimSpace(string(text)), "\n")
		if lines[0] == "" {
			lines = nil
		}
	}
	var a auditOf
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &a) != nil || a.Source.Observer.Reference != "Subscription/a" || a.Outcome != "0" || strings.Contains(lines[0], "Sesame") {
		t.Errorf("the log holds %q", lines)
	}
}

// Most Subscriptions have their attempts shown as resources: those of a fan-out must not each be read
// again only to find that nobody wants them in the log.
func TestAttemptsThatNobodyWantsLoggedAreNotRead(t *testing.T) {
	a := audits{} // without a store
	b := &record.OutcomeBlock{Outcomes: []record.Outcome{
		{MatchID: record.MatchID{Event: 3, Birth: 1}, Subscription: "a", Attempt: 1, Code: record.Accepted},
	}}
	never := func(record.Sequence) bool { return false }
	if err := a.logged(7, b, never, func(json.RawMessage) { t.Error("logged") }); err != nil {
		t.Error(err)
	}
}

// A match that is sent late is told of as its own version of the Subscription wanted it.
func TestTheLogIsKnownToBeWantedByAVersionThatWasReplaced(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	plain := subscriptionTo("a", "Patient?", endpoint(t, 200))
	r.do(201, "PUT", "/fhir/Subscription/a", strings.Replace(plain, `"id"`, fmt.Sprintf(toLog, "log")+`"id"`, 1), nil)
	r.do(200, "PUT", "/fhir/Subscription/a", plain, nil)
	r.do(201, "PUT", "/fhir/Subscription/b", subscriptionTo("b", "Patient?", endpoint(t, 200)), nil)
	if s := r.subs; !s.logs(s.get("a").birth) || s.logs(s.get("b").birth) {
		t.Error("not known of the one, or said of the other")
	}
}

// Without a file it is an entry of the node's log, and says no more than that.
func TestAttemptsAreLoggedWithoutAFile(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/a", strings.Replace(subscriptionTo("a", "Patient?", endpoint(t, 500)), `"id"`, fmt.Sprintf(toLog, "log")+`"id"`, 1), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if text := r.logs.String(); strings.Contains(text, "msg=attempt") && strings.Contains(text, "Attempt 1 received status 500") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is logged")
		}
	}
}

func TestR5HasItsOwnShapeOfAuditEvents(t *testing.T) {
	a := audits{version: fhir.R5}
	body := a.resource(store.Attempt{Outcome: record.Outcome{Subscription: "s", Attempt: 2, Code: record.Timeout}, Key: fhir.Key{Type: "Patient", ID: "p"}}, audited{criteria: "Patient?"}, time.Time{}).Body
	var got struct {
		Code    struct{ Coding []struct{ Code string } }
		Outcome struct {
			Code   struct{ Code string }
			Detail []struct{ Text string }
		}
		OccurredPeriod *period
		Agent          []struct{ Who struct{ Reference string } }
		Entity         []struct {
			Role struct{ Coding []struct{ Code string } }
		}
		Type, Period any
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if got.Code.Coding[0].Code != "transmit" || got.Outcome.Code.Code != "4" || got.Outcome.Detail[0].Text != "Attempt 2 received error timeout" ||
		got.OccurredPeriod == nil || got.Agent[0].Who.Reference != "Subscription/s" || got.Entity[0].Role.Coding[0].Code != "1" || got.Type != nil || got.Period != nil {
		t.Errorf("it is %s", body)
	}
}

// Each Subscription of a transaction takes its AuditEvent with it, so fewer fit; who sends too many is told why.
func TestATransactionOfTooManySubscriptionsIsToldWhatTheyTake(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	bundle := func(n int) string {
		var entries []string
		for i := range n {
			body := strings.Replace(subscriptionTo(fmt.Sprintf("s%d", i), "Patient?", "http://127.0.0.1:1/x"), `"status":"active"`, `"status":"requested"`, 1)
			entries = append(entries, fmt.Sprintf(`{"resource":%s,"request":{"method":"PUT","url":"Subscription/s%d"}}`, body, i))
		}
		return `{"resourceType":"Bundle","type":"transaction","entry":[` + strings.Join(entries, ",") + `]}`
	}
	if status, body := r.send("POST", "/fhir", bundle(334)); status != 413 || !strings.Contains(body, "its AuditEvent") {
		t.Errorf("334: %d: %s", status, body)
	}
	if status, body := r.send("POST", "/fhir", bundle(333)); status != 200 {
		t.Errorf("333: %d: %s", status, body)
	}
	var count bundleOf
	r.do(200, "GET", "/fhir/AuditEvent?type=rest&_summary=count", "", &count)
	if count.Total == nil || *count.Total != 333 {
		t.Errorf("there are %v AuditEvents, want one for each that was written and none for those that were refused", count.Total)
	}
}
