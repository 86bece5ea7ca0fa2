package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
)

// ext writes extensions, each a URL and its value as a string.
func ext(values ...string) string {
	var list []string
	for i := 0; i < len(values); i += 2 {
		list = append(list, fmt.Sprintf(`{"url":%q,"valueString":%q}`, values[i], values[i+1]))
	}
	return `"extension":[` + strings.Join(list, ",") + `],`
}

// hears writes a Subscription with extensions, to an endpoint of its own.
func (r *running) hears(id, criteria, extensions string, script ...delivertest.Answer) *delivertest.Endpoint {
	r.t.Helper()
	e := delivertest.NewEndpoint(r.t, script...)
	body := strings.Replace(subscriptionTo(id, criteria, e.URL), `"reason"`, extensions+`"reason"`, 1)
	r.do(201, "PUT", "/fhir/Subscription/"+id, body, nil)
	return e
}

func (r *running) pause(id string) {
	r.do(200, "POST", "/admin/api/v1/subscriptions/"+id+"/pause", "", nil)
}
func (r *running) resume(id string) {
	r.do(200, "POST", "/admin/api/v1/subscriptions/"+id+"/resume", "", nil)
}

// ended waits until all that is due of a Subscription has ended, n matches in all, and gives their outcomes, the oldest first.
func (r *running) ended(id string, n int) []api.Attempt {
	r.t.Helper()
	r.await(fmt.Sprintf("the end of %d notifications of %s", n, id), "/admin/api/v1/subscriptions/"+id, func(s map[string]any) bool {
		return s["events"] == float64(n) && s["pending"] == 0.0
	})
	var all []api.Attempt
	r.do(200, "GET", "/admin/api/v1/attempts?subscription="+id, "", &all)
	slices.SortStableFunc(all, func(a, b api.Attempt) int { return a.Time.Compare(b.Time) })
	return all
}

// arrived waits for n requests and gives them as method, path and body, where the stamps of this run
// are replaced: versions by v1, v2 in the order in which they come, times by "then".
func arrived(t *testing.T, e *delivertest.Endpoint, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all := e.Await(ctx, n)
	if len(all) != n {
		t.Fatalf("%d requests, want %d", len(all), n)
	}
	var out []string
	seen := map[string]string{}
	for _, r := range all {
		body := stampedTime.ReplaceAllString(string(r.Body), `"lastUpdated":"then"`)
		body = stampedVersion.ReplaceAllStringFunc(body, func(s string) string {
			m := stampedVersion.FindStringSubmatch(s)
			if seen[m[2]] == "" {
				seen[m[2]] = fmt.Sprintf("v%d", len(seen)+1)
			}
			return m[1] + seen[m[2]] + m[3]
		})
		body = stampedID.ReplaceAllString(body, `"Bundle","id":"one of its own"`)
		out = append(out, strings.TrimSpace(r.Method+" "+r.URI+" "+body))
	}
	return out
}

var (
	stampedTime    = regexp.MustCompile(`"lastUpdated":"[^"]*"`)
	stampedVersion = regexp.MustCompile(`("versionId":"|/_history/)(\d+)(")`)
	stampedID      = regexp.MustCompile(`"Bundle","id":"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"`)
)

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func quietClients(t *testing.T) { t.Cleanup(http.DefaultClient.CloseIdleConnections) }

func TestWhatIsSentInPlaceOfTheEventsVersion(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))

	t.Run("the newest version, once for each event", func(t *testing.T) {
		e := r.hears("latest", "Patient?active=true", ext(fhir.ExtLatestVersion, "true"))
		r.pause("latest")
		r.put(201, `{"resourceType":"Patient","id":"l","active":true,"gender":"male"}`)
		r.put(200, `{"resourceType":"Patient","id":"l","active":true,"gender":"female"}`)
		r.put(200, `{"resourceType":"Patient","id":"l","active":false}`) // matches no more, and is what there is
		r.resume("latest")
		newest := `PUT /Patient/l {"resourceType":"Patient","id":"l","meta":{"versionId":"v1","lastUpdated":"then"},"active":false}`
		want(t, arrived(t, e, 2), newest, newest)
		r.ended("latest", 2)
	})

	t.Run("nothing, where it is deleted by then", func(t *testing.T) {
		e := r.hears("latest-gone", "Basic?", ext(fhir.ExtLatestVersion, "true", fhir.ExtSendDelete, "true"))
		r.pause("latest-gone")
		r.put(201, `{"resourceType":"Basic","id":"g","code":{"text":"x"}}`)
		r.do(204, "DELETE", "/fhir/Basic/g", "", nil)
		r.resume("latest-gone")
		want(t, arrived(t, e, 1), "DELETE /Basic/g")
		got := r.ended("latest-gone", 2)
		if len(got) != 2 || got[0].Outcome != record.Skipped && got[1].Outcome != record.Skipped {
			t.Errorf("outcomes %+v", got)
		}
	})

	t.Run("no version", func(t *testing.T) {
		e := r.hears("strip", "Group?", ext(fhir.ExtStripVersion, "true"))
		r.put(201, `{"resourceType":"Group","id":"s","type":"person","actual":false,"quantity":1,"characteristic":[{"valueQuantity":{"value":1.50}}]}`)
		want(t, arrived(t, e, 1), `PUT /Group/s {"resourceType":"Group","id":"s","meta":{"lastUpdated":"then"},"type":"person","actual":false,"quantity":1,"characteristic":[{"valueQuantity":{"value":1.50}}]}`)
		if h := e.Requests()[0].Header; h.Get("If-Match") != "" {
			t.Error("a version stands in If-Match")
		}
	})

	t.Run("other ids, in the address too", func(t *testing.T) {
		e := r.hears("replicate", "Location?", ext(fhir.ExtReplicate, "true", fhir.ExtReplicatePrefix, "CDR1-", fhir.ExtSendDelete, "true"))
		r.put(201, `{"resourceType":"Location","id":"r","partOf":{"reference":"Location/ward"}}`)
		arrived(t, e, 1)
		r.do(204, "DELETE", "/fhir/Location/r", "", nil)
		want(t, arrived(t, e, 2), `PUT /Location/CDR1-r {"resourceType":"Location","id":"CDR1-r","meta":{"versionId":"v1","lastUpdated":"then"},"partOf":{"reference":"Location/CDR1-ward"}}`,
			"DELETE /Location/CDR1-r")
	})

	t.Run("an id that would be none ends the match", func(t *testing.T) {
		long := strings.Repeat("x", 60)
		e := r.hears("too-long", "Device?", ext(fhir.ExtReplicate, "true", fhir.ExtReplicatePrefix, "CDR1-"))
		r.put(201, `{"resourceType":"Device","id":"`+long+`"}`)
		got := r.ended("too-long", 1)
		if len(got) != 1 || got[0].Outcome != record.RenderError || len(e.Requests()) != 0 {
			t.Errorf("outcomes %+v, %d requests", got, len(e.Requests()))
		}
	})
}

func TestAPayloadSearchIsSentAsATransaction(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runWard(t)
	const o6 = `{"resourceType":"Observation","id":"o6","status":"final","code":{"coding":[{"code":"1"}]},"subject":{"reference":"Patient/p1"},"valueQuantity":{"value":1.50}}`
	entry := func(typ, id, version, rest string) string {
		return fmt.Sprintf(`{"fullUrl":"%[1]s/%[2]s/_history/%[3]s","resource":{"resourceType":"%[1]s","id":"%[2]s","meta":{"versionId":"%[3]s","lastUpdated":"then"},%[4]s},"request":{"method":"PUT","url":"%[1]s/%[2]s"}}`, typ, id, version, rest)
	}
	bundle := func(entries ...string) string {
		return `POST / {"resourceType":"Bundle","id":"one of its own","type":"transaction","entry":[` + strings.Join(entries, ",") + `]}`
	}
	observation := entry("Observation", "o6", "v1", `"status":"final","code":{"coding":[{"code":"1"}]},"subject":{"reference":"Patient/p1"},"valueQuantity":{"value":1.50}`)
	patient := entry("Patient", "p1", "v2", `"identifier":[{"system":"urn:mrn","value":"One"}],"gender":"male","birthDate":"1980-05-01","name":[{"family":"Adams"}],"managingOrganization":{"reference":"Organization/ward"}`)

	one := r.hears("one", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}"))
	included := r.hears("included", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}&_include=*"))
	iterated := r.hears("iterated", "Observation?code=1", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id_part}&_include=Observation:subject&_include:iterate=Patient:organization&_include:iterate=Organization:partof"))
	reversed := r.hears("reversed", "[Observation]", ext(fhir.ExtPayloadSearch, "Patient?_has:Observation:subject:_id=${matched_resource_id_part}&_revinclude=Encounter:subject"))
	limited := r.hears("limited", "Observation?", ext(fhir.ExtPayloadSearch, "Patient?_sort=-_lastUpdated&_count=1"))
	nothing := r.hears("nothing", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}&status=cancelled"))
	deletes := r.hears("deletes", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}", fhir.ExtSendDelete, "true"))
	webhook := r.hears("webhook", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}", fhir.ExtRestHookStyle, "webhook"))
	shaped := r.hears("shaped", "Observation?", ext(fhir.ExtPayloadSearch, "Observation?_id=${matched_resource_id}", fhir.ExtStripVersion, "true", fhir.ExtReplicate, "true", fhir.ExtReplicatePrefix, "A."))
	r.put(201, o6)

	want(t, arrived(t, one, 1), bundle(observation))
	want(t, arrived(t, webhook, 1), bundle(observation))
	want(t, arrived(t, included, 1), bundle(observation, patient))
	if got := arrived(t, iterated, 1)[0]; strings.Count(got, `"method":"PUT"`) != 4 || !strings.Contains(got, "Organization/hospital") {
		t.Errorf("iterated: %s", got)
	}
	if got := arrived(t, reversed, 1)[0]; strings.Count(got, `"method":"PUT"`) != 2 || !strings.Contains(got, `"Encounter/e1"`) || !strings.Contains(got, `"Patient/p1"`) {
		t.Errorf("reversed: %s", got)
	}
	if got := arrived(t, limited, 1)[0]; strings.Count(got, `"method":"PUT"`) != 1 || !strings.Contains(got, `"Patient/p1"`) {
		t.Errorf("limited: %s", got)
	}
	want(t, arrived(t, shaped, 1), `POST / {"resourceType":"Bundle","id":"one of its own","type":"transaction","entry":[{"fullUrl":"Observation/A.o6","resource":{"resourceType":"Observation","id":"A.o6","meta":{"lastUpdated":"then"},"status":"final","code":{"coding":[{"code":"1"}]},"subject":{"reference":"Patient/A.p1"},"valueQuantity":{"value":1.50}},"request":{"method":"PUT","url":"Observation/A.o6"}}]}`)
	if got := r.ended("nothing", 1); len(got) != 1 || got[0].Outcome != record.Skipped || got[0].Attempt != 0 || len(nothing.Requests()) != 0 {
		t.Errorf("of a search that finds nothing: %+v, %d requests", got, len(nothing.Requests()))
	}

	arrived(t, deletes, 1)
	r.do(204, "DELETE", "/fhir/Observation/o6", "", nil)
	if got := arrived(t, deletes, 2); got[1] != "DELETE /Observation/o6" {
		t.Errorf("a delete is sent as %s", got[1])
	}
}

// The names of a transaction are the same at each attempt.
func TestAPayloadSearchThatIsTriedAgainHasItsName(t *testing.T) {
	t.Parallel()
	quietClients(t)
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Schedule.Waits = []time.Duration{time.Millisecond}
	r := runNode(t, cfg)
	e := r.hears("again", "Patient?", ext(fhir.ExtPayloadSearch, "Patient?_id=${matched_resource_id}"), delivertest.Answer{Status: 500}, delivertest.Answer{})
	r.put(201, `{"resourceType":"Patient","id":"p"}`)
	arrived(t, e, 2)
	all := e.Requests()
	if string(all[0].Body) != string(all[1].Body) || all[0].Header.Get("Webhook-Id") != all[1].Header.Get("Webhook-Id") {
		t.Errorf("%s\n%s", all[0].Body, all[1].Body)
	}
}

func TestAPayloadSearchThatFindsTooMuchIsADeadLetter(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	var lines strings.Builder
	for i := range maxCount + 1 {
		fmt.Fprintf(&lines, `{"resourceType":"Basic","id":"b%d","code":{"text":"x"}}`+"\n", i)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.Addr()+"/fhir/$ingest", strings.NewReader(lines.String()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/fhir+ndjson")
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	res.Body.Close()
	e := r.hears("all", "Patient?", ext(fhir.ExtPayloadSearch, "Basic?"))
	r.put(201, `{"resourceType":"Patient","id":"p"}`)
	if got := r.ended("all", 1); len(got) != 1 || got[0].Outcome != record.RenderError || len(e.Requests()) != 0 {
		t.Errorf("outcomes %+v", got)
	}
	if !strings.Contains(r.logs.String(), "finds more than one notification carries") {
		t.Error("the log does not say why")
	}
}

func TestAPayloadSearchThatCannotBeAnsweredIsRefused(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	for _, test := range []struct{ criteria, search, says string }{
		{"Observation?", "Observation?_id=${matched_resource_id}", ""},
		{"Observation?", "Observation?_id=${matched_resource_id}&_include=*", ""},
		{"Observation?", "Observation?_id=${matched_resource_id}&_include:iterate=Observation:has-member&_revinclude=Provenance:target&_format=json", ""},
		{"[Observation,Patient]", "${matched_resource_type}?_id=${matched_resource_id}", ""},
		{"[*]", "${matched_resource_type}?_id=${matched_resource_id_part}", ""},
		{"[*]", "Observation?_id=${matched_resource_id}", "about a Patient"},
		{"Observation?", "Observation?_id=${matched_id}", "${matched_id} is no placeholder"},
		{"Observation?", "_id=${matched_resource_id}", "resource type"},
		{"Observation?", "Observations?_id=${matched_resource_id}", "resource type"},
		{"Observation?", "Observation?nope=1", "nope"},
		{"Observation?", "Observation?_include=Observation:nope", "nope"},
		{"Observation?", "Observation?_id=${matched_resource_id}&_summary=true", "_summary"},
		{"Observation?", "Observation?_id=${matched_resource_id}&_elements=id", "_elements"},
		{"Observation?", "Observation?_count=0", "_count"},
		{"Observation?", "Observation?_id=%zz", "%"},
		{"Patient?", "Encounter?patient=${matched_resource_id}", ""},
	} {
		body := strings.Replace(subscriptionTo("s", test.criteria, "http://127.0.0.1:1"), `"reason"`, ext(fhir.ExtPayloadSearch, test.search)+`"reason"`, 1)
		var got struct {
			Issue []struct{ Severity, Diagnostics string }
		}
		r.do(200, "POST", "/fhir/Subscription/$validate", body, &got)
		var errors []string
		for _, i := range got.Issue {
			if i.Severity == "error" || i.Severity == "fatal" {
				errors = append(errors, i.Diagnostics)
			}
		}
		text, _ := json.Marshal(got)
		if (test.says == "") != (len(errors) == 0) || !strings.Contains(strings.Join(errors, " "), test.says) {
			t.Errorf("%s with %s: %s", test.criteria, test.search, text)
		}
	}
}

// readSeeds reads the Subscriptions of the vendors' documents, by name.
func readSeeds(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../match/fhir/testdata/seeds/*.json")
	if err != nil {
		t.Fatal(err)
	}
	seeds := map[string][]byte{}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		seeds[strings.TrimSuffix(filepath.Base(file), ".json")] = body
	}
	return seeds
}
