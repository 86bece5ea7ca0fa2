package node

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// jobEnded waits for a job.
func (r *running) jobEnded(id string) (j api.Job) {
	r.t.Helper()
	r.await("the end of job "+id, "/admin/api/v1/jobs/"+id, func(got map[string]any) bool {
		return record.JobState(got["state"].(string)).Ended()
	})
	r.do(200, "GET", "/admin/api/v1/jobs/"+id, "", &j)
	return j
}

// quiet waits until nothing is pending.
func (r *running) quiet() {
	r.t.Helper()
	r.await("the end of all attempts", "/admin/api/v1/status", func(s map[string]any) bool { return s["pending"] == 0.0 })
}

func parameters(pairs ...string) string {
	var parts []string
	for i := 0; i+1 < len(pairs); i += 2 {
		typ := map[string]string{"resourceId": "valueUri", "searchUrl": "valueString"}[pairs[i]]
		parts = append(parts, fmt.Sprintf(`{"name":%q,%q:%q}`, pairs[i], typ, pairs[i+1]))
	}
	return `{"resourceType":"Parameters","parameter":[` + strings.Join(parts, ",") + `]}`
}

// trigger orders by HAPI's operation and waits for the job that its answer names.
func (r *running) trigger(path string, pairs ...string) api.Job {
	r.t.Helper()
	var p struct {
		ResourceType string
		Parameter    []struct{ Name, ValueString string }
	}
	r.do(200, "POST", path, parameters(pairs...), &p)
	if p.ResourceType != "Parameters" || len(p.Parameter) != 1 || p.Parameter[0].Name != "information" {
		r.t.Fatalf("answered %+v", p)
	}
	_, id, found := strings.Cut(p.Parameter[0].ValueString, "JOB ID: ")
	if !found {
		r.t.Fatalf("answered %q", p.Parameter[0].ValueString)
	}
	return r.jobEnded(id)
}

const allTrigger, oneTrigger = "/fhir/Subscription/$trigger-subscription", "/fhir/Subscription/a/$trigger-subscription"

// HAPI's operation at both levels: criteria decide, searches may be several and have lists, _count
// caps the total, and who has the event gets it with its old number.
func TestATriggerSendsWhatIsNamedAndWhatItsSearchesFind(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	for i := range 250 {
		gender := []string{"male", "female"}[i%2]
		r.do(201, "PUT", fmt.Sprintf("/fhir/Patient/p%03d", i), fmt.Sprintf(`{"resourceType":"Patient","id":"p%03d","gender":%q}`, i, gender), nil)
	}
	a, b := newSink(t, 200), newSink(t, 200)
	r.do(201, "PUT", "/fhir/Subscription/a", webhookTo("a", "Patient?gender=male", a.URL), nil)
	r.do(201, "PUT", "/fhir/Subscription/b", webhookTo("b", "Patient?", b.URL), nil)
	r.do(200, "PUT", "/fhir/Patient/p000", `{"resourceType":"Patient","id":"p000","gender":"male","active":true}`, nil)
	a.await(t, 1)
	b.await(t, 1)
	r.quiet()

	for _, c := range []struct {
		name          string
		path          string
		order         []string
		toA, toB      int // notifications
		done, skipped int
		total         int
	}{
		{"a resource, to one", oneTrigger, []string{"resourceId", "Patient/p002"}, 1, 0, 1, 0, 1},
		{"a resource that does not meet it", oneTrigger, []string{"resourceId", "Patient/p001"}, 0, 0, 0, 1, 1},
		{"a resource, to all", allTrigger, []string{"resourceId", "Patient/p004"}, 1, 1, 1, 0, 1},
		{"resources, one of them twice", oneTrigger, []string{"resourceId", "Patient/p002", "resourceId", "Patient/p004", "resourceId", "Patient/p002"}, 2, 0, 2, 0, 2},
		{"all of a type", oneTrigger, []string{"searchUrl", "Patient?"}, 125, 0, 125, 125, 250},
		{"a search", oneTrigger, []string{"searchUrl", "Patient?gender=male"}, 125, 0, 125, 0, 125},
		{"a search with a list", allTrigger, []string{"searchUrl", "Patient?_id=p010,p011,p012"}, 2, 3, 3, 0, 3},
		{"_count caps the total", allTrigger, []string{"searchUrl", "Patient?gender=female&_count=10", "searchUrl", "Patient?gender=male&_count=120"}, 120, 130, 130, 0, 130},
		{"resources and searches", oneTrigger, []string{"searchUrl", "Patient?_id=p020", "resourceId", "Patient/p022"}, 2, 0, 2, 0, 2},
		{"nothing is found", oneTrigger, []string{"searchUrl", "Patient?_id=nobody"}, 0, 0, 0, 0, 0},
	} {
		beforeA, beforeB := len(a.await(t, 0)), len(b.await(t, 0))
		j := r.trigger(c.path, c.order...)
		if j.State != record.JobDone || j.Kind != record.JobTrigger || j.Done != c.done || j.Skipped != c.skipped || j.Sent != c.toA+c.toB || j.Total != c.total {
			t.Errorf("%s: %+v", c.name, j)
		}
		r.quiet()
		if gotA, gotB := len(a.await(t, 0))-beforeA, len(b.await(t, 0))-beforeB; gotA != c.toA || gotB != c.toB {
			t.Errorf("%s: %d and %d notifications, want %d and %d", c.name, gotA, gotB, c.toA, c.toB)
		}
	}

	// Each is told as an update of the resource that it is, marked as sent by hand; the one that it had is event 1.
	old := r.trigger(oneTrigger, "resourceId", "Patient/p000")
	r.quiet()
	got := a.await(t, 0)
	last := got[len(got)-1]
	if h := last.Header; h.Get("X-Carillon-Event") != "1" || h.Get("X-Medplum-Interaction") != "update" || h.Get("X-Carillon-Resend") != "true" || !strings.Contains(last.Body, `"active":true`) {
		t.Errorf("job %s sent %v: %s", old.ID, last.Header, last.Body)
	}
	numbers := map[string]bool{}
	for _, n := range got {
		numbers[n.Header.Get("X-Carillon-Event")] = true
	}
	var st api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions/a", "", &st)
	if len(numbers) != 125 || st.Events != 125 {
		t.Errorf("%d numbers were sent, the newest is %d; want each of the 125 resources to have one", len(numbers), st.Events)
	}
	var es []api.SubscriptionEvent
	r.do(200, "GET", "/admin/api/v1/subscriptions/a/events?limit=3", "", &es)
	if es[0].Job != "" || es[1].Job == "" {
		t.Errorf("events do not say which job made them: %+v", es)
	}

	// A dry run counts and sends nothing.
	var dry api.Job
	r.do(200, "POST", "/admin/api/v1/trigger", `{"searches":["Patient?_id=p001,p002"],"dryRun":true}`, &dry)
	if dry = r.jobEnded(dry.ID); dry.Done != 2 || dry.Sent != 3 || len(a.await(t, 0)) != len(got) {
		t.Errorf("dry run: %+v", dry)
	}

	for _, c := range []struct {
		status     int
		path, body string
	}{
		{400, oneTrigger, ""},
		{400, oneTrigger, parameters()},
		{400, oneTrigger, `{"resourceType":"Patient"}`},
		{400, oneTrigger, parameters("searchUrl", "Patient")},
		{400, oneTrigger, parameters("searchUrl", "?gender=male")},
		{400, oneTrigger, parameters("resourceId", "p000")},
		{400, oneTrigger, parameters("resourceId", "Patient/")},
		{400, oneTrigger, `{"resourceType":"Parameters","parameter":[{"name":"x","valueString":"y"}]}`},
		{404, oneTrigger, parameters("resourceId", "Patient/unknown")},
		{404, "/fhir/Subscription/unknown/$trigger-subscription", parameters("resourceId", "Patient/p000")},
		{422, oneTrigger, parameters("searchUrl", "Patient?nonsense=1")},
		{422, oneTrigger, parameters("searchUrl", "Patient?_include=Patient:link")},
		{422, oneTrigger, parameters("searchUrl", "Patient?_count=0")},
		{405, "GET " + oneTrigger, ""},
	} {
		method, path, found := strings.Cut(c.path, " ")
		if !found {
			method, path = "POST", c.path
		}
		r.do(c.status, method, path, c.body, nil)
	}
	off := strings.Replace(webhookTo("a", "Patient?gender=male", a.URL), `"active"`, `"off"`, 1)
	r.do(200, "PUT", "/fhir/Subscription/a", off, nil)
	r.do(422, "POST", oneTrigger, parameters("resourceId", "Patient/p000"), nil)
}

// A resource that thousands of Subscriptions hear of is done in several steps, none of them twice.
func TestATriggerGoesOnInTheMiddleOfAResource(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	at := triggerCursor{Rest: []string{"Patient/p"}}
	hook := newSink(t, 200)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	for i := range 7 {
		id := fmt.Sprintf("s%d", i)
		r.do(201, "PUT", "/fhir/Subscription/"+id, subscriptionTo(id, "Patient?", hook.URL), nil)
	}
	var next record.Step
	at.After = "s2"
	plan, err := r.jobs.planTrigger(t.Context(), store.Job{}, &at, &next)
	if err != nil || len(plan) != 4 || plan[0].ID != "s3" || len(at.Rest) != 0 || next.Done != 0 {
		t.Errorf("behind s2 it goes on with %+v, %v; left is %+v", plan, err, at)
	}
}

// deadLetters makes letters: one for each Patient, of the Subscription s.
func (r *running) deadLetters(hook *sink, n int) {
	r.t.Helper()
	r.do(201, "PUT", "/fhir/Subscription/s", webhookTo("s", "Patient?", hook.URL), nil)
	for i := range n {
		r.do(201, "PUT", fmt.Sprintf("/fhir/Patient/p%d", i), fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, i), nil)
	}
	r.await("dead letters", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["dead"] == float64(n) && s["pending"] == 0.0 })
}

func (r *running) listed(query string) (ids []string) {
	r.t.Helper()
	var ls []api.DeadLetter
	r.do(200, "GET", "/admin/api/v1/dlq?"+query, "", &ls)
	for _, l := range ls {
		ids = append(ids, l.ID)
	}
	return ids
}

func (r *running) deadJob(what, order string) (api.Done, api.Job) {
	r.t.Helper()
	var done api.Done
	r.do(200, "POST", "/admin/api/v1/dlq/"+what, order, &done)
	if done.Job == "" {
		return done, api.Job{}
	}
	return done, r.jobEnded(done.Job)
}

// What is purged is gone from the log, with the letters of earlier rounds; what is filtered out stays.
func TestAPurgeRemovesEveryLetterOfAMatchFromTheLog(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	hook := newSink(t, 500)
	r.deadLetters(hook, 3)
	_, j := r.deadJob("replay", `{"ids":["s.1"]}`) // dies once more
	if j.State != record.JobDone || j.Done != 1 {
		t.Fatalf("replay %+v", j)
	}
	r.await("another round", "/admin/api/v1/dlq/s.1", func(l map[string]any) bool { return l["state"] == "dead" })
	r.quiet()
	e, _, err := r.store.DeadByID("s.1")
	for until := time.Now().Add(time.Minute); err == nil && len(e.Messages) < 2 && time.Now().Before(until); {
		e, _, err = r.store.DeadByID("s.1")
	}
	if err != nil || len(e.Messages) != 2 || e.Round != 1 {
		t.Fatalf("the letter is %+v, %v", e, err)
	}
	if done, _ := r.deadJob("purge", `{"ids":["s.1","s.3"],"dryRun":true}`); done.Count != 2 || len(r.listed("")) != 3 {
		t.Errorf("a dry run gives %+v", done)
	}
	if _, j := r.deadJob("purge", `{"ids":["s.1","s.3"]}`); j.State != record.JobDone || j.Done != 2 || j.Kind != record.JobPurge {
		t.Errorf("purge %+v", j)
	}
	if got := r.listed(""); !slices.Equal(got, []string{"s.2"}) {
		t.Errorf("left are %v", got)
	}
	for _, seq := range e.Messages {
		if _, err := r.server.Get(t.Context(), stream.Dead, seq); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("letter %d is still in the log: %v", seq, err)
		}
	}
	r.do(404, "GET", "/admin/api/v1/dlq/s.1", "", nil)
	r.do(404, "POST", "/admin/api/v1/dlq/replay", `{"ids":["s.1"]}`, nil)
	if _, j := r.deadJob("purge", `{"ids":["s.1"]}`); j.State != record.JobDone { // may be repeated
		t.Errorf("a second purge %+v", j)
	}
	if done, j := r.deadJob("purge", `{"until":"2000-01-01T00:00:00Z"}`); done.Count != 0 || j.ID != "" {
		t.Errorf("a purge of nothing %+v %+v", done, j)
	}
	if _, j := r.deadJob("purge", `{"reason":"http_status"}`); j.Done != 1 || len(r.listed("")) != 0 {
		t.Errorf("a purge by reason %+v", j)
	}
}

// Letters of our own pipeline are told apart from those of endpoints: in lists, in counts, in orders.
func TestDeadLettersOfThePipelineAreKeptApart(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	r.deadLetters(newSink(t, 500), 2)
	err := deadIngest{r.server}.SetAside(t.Context(), record.Event{Sequence: 4, Key: fhir.Key{Type: "Patient", ID: "p"}, Time: time.Now(), Body: []byte("{}")}, "it was too much")
	if err != nil {
		t.Fatal(err)
	}
	r.await("the letter", "/admin/api/v1/status", func(s map[string]any) bool { return s["dead"] == 3.0 && s["deadPipeline"] == 1.0 })
	for query, want := range map[string][]string{
		"": {"ingest.4", "s.1", "s.2"}, "kind=endpoint": {"s.1", "s.2"}, "kind=pipeline": {"ingest.4"}, "subscription=ingest": {"ingest.4"},
	} {
		if got := slices.Sorted(slices.Values(r.listed(query))); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	r.do(400, "GET", "/admin/api/v1/dlq?kind=other", "", nil)
	r.do(422, "POST", "/admin/api/v1/dlq/replay", `{"ids":["ingest.4"]}`, nil)
	if _, j := r.deadJob("replay", `{"kind":"pipeline"}`); j.State != record.JobDone || j.Done != 0 || j.Skipped != 1 {
		t.Errorf("replay %+v", j)
	}
	if _, j := r.deadJob("purge", `{"kind":"pipeline"}`); j.Done != 1 {
		t.Errorf("purge %+v", j)
	}
	if got := slices.Sorted(slices.Values(r.listed(""))); !slices.Equal(got, []string{"s.1", "s.2"}) {
		t.Errorf("left are %v", got)
	}
}

// A deleted Subscription's letters stay until they expire, and cannot be replayed; nor can those of
// one of the same id that was born later be mistaken for them.
func TestLettersOutliveTheirSubscription(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Retention.Dead = time.Hour
	r := runNode(t, cfg)
	hook := newSink(t, 500)
	r.deadLetters(hook, 2)
	r.do(204, "DELETE", "/fhir/Subscription/s", "", nil)
	if got := r.listed("subscription=s"); len(got) != 2 {
		t.Errorf("after the delete: %v", got)
	}
	r.do(422, "POST", "/admin/api/v1/dlq/replay", `{"subscription":"s"}`, nil)
	r.do(422, "POST", "/admin/api/v1/dlq/replay", `{"ids":["s.1"]}`, nil)
	if _, j := r.deadJob("replay", `{"reason":"http_status"}`); j.Skipped != 2 || j.Sent != 0 {
		t.Errorf("replay of all: %+v", j)
	}
	r.do(201, "PUT", "/fhir/Subscription/s", webhookTo("s", "Patient?", hook.URL), nil)
	if _, j := r.deadJob("replay", `{"subscription":"s"}`); j.Skipped != 2 || j.Sent != 0 {
		t.Errorf("replay for its successor: %+v", j)
	}

	if err := r.jobs.orderExpiry(t.Context(), time.Now()); err != nil || len(r.listed("")) != 2 {
		t.Fatalf("nothing is old yet: %v", err)
	}
	r.do(201, "PUT", "/fhir/Patient/q", `{"resourceType":"Patient","id":"q"}`, nil)
	r.await("a third letter", "/admin/api/v1/status", func(s map[string]any) bool { return s["dead"] == 3.0 })
	third := r.listed("")[0]
	e, _, err := r.store.DeadByID(third)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.jobs.orderExpiry(t.Context(), e.LastFailure.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	var all []api.Job
	r.do(200, "GET", "/admin/api/v1/jobs?kind=expire", "", &all)
	if len(all) != 1 {
		t.Fatalf("%d jobs", len(all))
	}
	if j := r.jobEnded(all[0].ID); j.State != record.JobDone || j.Done != 2 {
		t.Errorf("expiry %+v", j)
	}
	if got := r.listed(""); !slices.Equal(got, []string{third}) {
		t.Errorf("left are %v, want %s alone", got, third)
	}
	if first, _, err := r.server.State(t.Context(), stream.Dead); err != nil || first != e.Sequence {
		t.Errorf("the log begins at %d, %v; want %d", first, err, e.Sequence)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	cfg.Run.Rebuild = true
	again := runNode(t, cfg)
	if got := again.listed(""); !slices.Equal(got, []string{third}) {
		t.Errorf("made again from the logs it lists %v", got)
	}
}

// A job that is told to go slowly holds up no other, and the number of those that wait is bounded.
func TestJobsTakeTurns(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	hook := newSink(t, 500)
	r.deadLetters(hook, 5)
	hook.answer(200)
	order := func(rate int) (api.Job, error) {
		return r.jobs.order(t.Context(), record.Order{Kind: record.JobTrigger, Searches: []string{"Patient?"}, Subscription: "s", Rate: rate, DryRun: true}, "")
	}
	slow, err := order(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, j := r.deadJob("replay", `{"subscription":"s"}`); j.Done != 5 {
		t.Errorf("behind a slow job: %+v", j)
	}
	var cancelled api.Job
	r.do(200, "POST", "/admin/api/v1/jobs/"+slow.ID+"/cancel", "", &cancelled)
	r.do(200, "POST", "/admin/api/v1/jobs/"+slow.ID+"/cancel", "", &cancelled) // doing it twice is no error
	if cancelled.State != record.JobCancelled || cancelled.Done == 5 {
		t.Errorf("cancelled: %+v", cancelled)
	}
	for range maxQueued {
		if _, err := order(1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := order(1); err == nil || fhir.AsError(err).Issues[0].Type != fhir.IssueThrottled {
		t.Errorf("one more than there may be: %v", err)
	}
}

// What cannot be done fails with its reason, which only the API tells.
func TestAJobThatCannotGoOnFails(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	r.create("Patient", "p", `"gender":"male"`)
	j, err := r.jobs.order(t.Context(), record.Order{Kind: record.JobTrigger, Searches: []string{"Patient?secret=" + url.QueryEscape("x")}}, "")
	if err != nil {
		t.Fatal(err)
	}
	if j = r.jobEnded(j.ID); j.State != record.JobFailed || !strings.Contains(j.Error, "secret") {
		t.Errorf("the job %+v", j)
	}
	if strings.Contains(r.logs.String(), "secret") {
		t.Error("the log tells what was searched for")
	}
	if j, err = r.jobs.order(t.Context(), record.Order{Kind: "other"}, ""); err != nil {
		t.Fatal(err)
	}
	if j = r.jobEnded(j.ID); j.State != record.JobFailed {
		t.Errorf("a job of an unknown kind is %+v", j)
	}
}

// What one node lists can be ordered of another at once.
func TestAnOrderAboutALetterWaitsUntilItsNodeHasReadIt(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	p := r.pauses
	hold := func(f func()) {
		p.mu.Lock()
		defer p.mu.Unlock()
		f()
		p.changed()
	}
	hold(func() { p.marks[stream.Dead] = 0 })
	err := deadIngest{r.server}.SetAside(t.Context(), record.Event{Sequence: 4, Key: fhir.Key{Type: "Patient", ID: "p"}, Time: time.Now(), Body: []byte("{}")}, "it was too much")
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		done api.Done
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		done, err := r.jobs.Purge(t.Context(), api.DeadSelection{IDs: []string{"ingest.4"}}, "")
		answered <- answer{done, err}
	}()
	r.do(200, "POST", "/admin/api/v1/trigger", `{"searches":["Patient?"]}`, nil) // time to answer at once
	hold(func() { clear(p.marks) })
	if a := <-answered; a.err != nil || a.done.Count != 1 || r.jobEnded(a.done.Job).Done != 1 {
		t.Errorf("answered %+v, %v", a.done, a.err)
	}
}

// Whoever does a job may be behind the node that it was ordered of: it waits for the letters that there
// were, and not for those that were purged before it could read them.
func TestAJobWaitsForLettersThatItsNodeHasNotReadYet(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	p := r.pauses
	p.mu.Lock()
	p.marks[stream.Dead] = 0
	p.changed()
	p.mu.Unlock()
	for n := range 3 {
		err := deadIngest{r.server}.SetAside(t.Context(), record.Event{Sequence: record.Sequence(4 + n), Key: fhir.Key{Type: "Patient", ID: "p"}, Time: time.Now(), Body: []byte("{}")}, "it was too much")
		if err != nil {
			t.Fatal(err)
		}
	}
	order := func(o record.Order) string {
		t.Helper()
		j, err := r.jobs.order(t.Context(), o, "")
		if err != nil {
			t.Fatal(err)
		}
		return j.ID
	}
	all := order(record.Order{Kind: record.JobPurge, Dead: record.DeadPipeline, Through: 3, Total: 3})
	named := order(record.Order{Kind: record.JobReplay, Letters: []string{"ingest.4"}, Through: 3, Total: 1})
	r.jobEnded(order(record.Order{Kind: record.JobTrigger, Searches: []string{"Patient?"}})) // by then a job that does not wait has ended too
	for _, id := range []string{all, named} {
		var j api.Job
		if r.do(200, "GET", "/admin/api/v1/jobs/"+id, "", &j); j.State != record.JobQueued {
			t.Errorf("before the letters are read it is %+v", j)
		}
	}
	// The newest is gone before it was read, as a purge by another node does it.
	st, err := r.server.JetStream().Stream(t.Context(), stream.Dead)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	clear(p.marks)
	p.changed()
	p.mu.Unlock()
	// It may have been on its way to the reader, who then lists it.
	if j := r.jobEnded(all); j.State != record.JobDone || j.Done < 2 {
		t.Errorf("purged %+v", j)
	}
	if j := r.jobEnded(named); j.State != record.JobDone || j.Done+j.Skipped != 1 {
		t.Errorf("replayed %+v", j)
	}
}

// A criteria that fails on a resource keeps its own Subscription from it, and no other.
func TestATriggerIsNotSpoiltByOneCriteriaThatCannotBeEvaluated(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	good, bad := newSink(t, 200), newSink(t, 200)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p","name":[{"given":["a","b"]}]}`, nil)
	r.do(201, "PUT", "/fhir/Patient/q", `{"resourceType":"Patient","id":"q","name":[{"given":["a"]}]}`, nil)
	fails := `"extension":[{"url":"https://medplum.com/fhir/StructureDefinition/fhir-path-criteria-expression","valueString":"%current.name.given.single() = 'a'"},`
	r.do(201, "PUT", "/fhir/Subscription/bad", strings.Replace(webhookTo("bad", "Patient?", bad.URL), `"extension":[`, fails, 1), nil)
	r.do(201, "PUT", "/fhir/Subscription/good", webhookTo("good", "Patient?", good.URL), nil)
	if j := r.trigger(allTrigger, "searchUrl", "Patient?"); j.State != record.JobDone || j.Done != 2 || j.Sent != 3 {
		t.Errorf("the job %+v", j)
	}
	r.quiet()
	if len(good.await(t, 2)) != 2 || len(bad.await(t, 1)) != 1 {
		t.Error("good hears of both, bad of the one that it can be asked about")
	}
	if logs := r.logs.String(); !strings.Contains(logs, "subscription=bad") {
		t.Error("the log does not name the Subscription that was left out")
	}
	r.do(422, "POST", "/admin/api/v1/resend", `{"resource":"Patient/p"}`, nil) // one who sends one resource is told instead
}
