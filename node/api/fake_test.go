package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

var testTime = time.Date(2026, 1, 31, 8, 0, 0, 250e6, time.UTC)

// fake is a Backend and an Admin in memory, with the promises of the real ones: versions that
// rise over all resources, conflicts, deletes that leave a version, no-op updates.
type fake struct {
	mu       sync.Mutex
	seq      record.Sequence
	versions map[fhir.Key][]Resource
	sending  Sending
	hash     map[fhir.Key][16]byte
	owner    map[fhir.Key]string
	ids      map[string]Written
	asked    []Write // everything that was written, in its order

	fail       func(Write) error // before a write; nil lets it pass
	beforeNext func(*fake)       // once, in the middle of the next write
	afterNext  func(*fake)       // once, after the next condition was looked up
	included   []Resource        // of every search
	validate   error
	warnings   []fhir.Issue
	resent     []Resend
	triggered  []Trigger
	selected   []DeadSelection
	filters    []any
	tokens     *fakeTokens
}

func newFake() *fake {
	return &fake{versions: map[fhir.Key][]Resource{}, hash: map[fhir.Key][16]byte{}, owner: map[fhir.Key]string{}, ids: map[string]Written{}}
}

func (f *fake) current(key fhir.Key) (Resource, bool) {
	vs := f.versions[key]
	if len(vs) == 0 {
		return Resource{}, false
	}
	return vs[len(vs)-1], true
}

func (f *fake) Write(_ context.Context, w Write) (Written, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if hook := f.beforeNext; hook != nil {
		f.beforeNext = nil
		hook(f)
	}
	if w.IfNoneExist != "" {
		found, err := f.pick(w.Key.Type, w.IfNoneExist)
		switch {
		case err != nil:
			return Written{}, err
		case len(found) > 1:
			return Written{}, fhir.Refuse(fhir.IssueDuplicate, "", "several resources match If-None-Exist")
		case len(found) == 1 && w.MustCreate:
			return Written{}, fhir.Refuse(fhir.IssueConflict, "", "one has come to match")
		case len(found) == 1:
			r := found[0]
			return Written{Key: r.Key, Version: r.Version, Time: r.Time, Interaction: fhir.Unchanged, Body: r.Body}, nil
		}
	}
	if err := f.check(w); err != nil {
		return Written{}, err
	}
	return f.brief(w), nil
}

// brief applies a write and answers with no more than it must.
func (f *fake) brief(w Write) Written {
	done := f.apply(w)
	if w.Brief {
		done.Body = nil
	}
	return done
}

func (f *fake) Transaction(_ context.Context, ws []Write) ([]Written, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if hook := f.beforeNext; hook != nil {
		f.beforeNext = nil
		hook(f)
	}
	for i, w := range ws {
		err := f.check(w)
		if err == nil && w.IfNoneExist != "" {
			if found, _ := f.pick(w.Key.Type, w.IfNoneExist); len(found) > 0 {
				err = fhir.Refuse(fhir.IssueConflict, "", "somebody created it meanwhile")
			}
		}
		if err != nil {
			return nil, &EntryError{Index: i, Err: err}
		}
	}
	var out []Written
	for _, w := range ws {
		out = append(out, f.brief(w))
	}
	return out, nil
}

func (f *fake) check(w Write) error {
	if f.fail != nil {
		if err := f.fail(w); err != nil {
			return err
		}
	}
	if w.Key.Type == "Subscription" && w.Interaction != fhir.Delete && f.validate != nil {
		return f.validate
	}
	if w.Interaction != fhir.Delete {
		t, err := fhirjson.Parse(w.Body, fhirjson.Limits{})
		if err != nil || t.Str(t.Get(t.Root(), "id")) != string(w.Key.ID) || t.Str(t.Get(t.Root(), "resourceType")) != w.Key.Type {
			panic(fmt.Sprintf("the body of %s is not of that key", w.Key))
		}
	}
	if w.IfMatch == nil {
		return nil
	}
	cur, ok := f.current(w.Key)
	v := cur.Version
	if !ok || cur.Deleted {
		v = 0
	}
	if v != *w.IfMatch {
		return fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("%s has another version", w.Key))
	}
	return nil
}

func (f *fake) apply(w Write) Written {
	if w.MessageID != "" {
		if done, ok := f.ids[w.MessageID]; ok {
			return done
		}
	}
	f.asked = append(f.asked, w)
	cur, known := f.current(w.Key)
	exists := known && !cur.Deleted
	unchanged := Written{Key: w.Key, Version: cur.Version, Time: cur.Time, Interaction: fhir.Unchanged, Gone: !exists, Body: cur.Body, Warnings: f.warnings}
	var hash [16]byte
	if w.Interaction == fhir.Delete {
		if !exists {
			return unchanged
		}
	} else {
		t, err := fhirjson.Parse(w.Body, fhirjson.Limits{})
		if err != nil {
			panic(err)
		}
		if hash = fhirjson.ContentHash(t); exists && hash == f.hash[w.Key] {
			return unchanged
		}
	}
	f.seq++
	r := Resource{Key: w.Key, Version: f.seq, Time: testTime, Interaction: w.Interaction}
	switch {
	case w.Interaction == fhir.Delete:
		r.Deleted = true
	default:
		if r.Interaction == "" {
			r.Interaction = fhir.Create
			if exists {
				r.Interaction = fhir.Update
			}
		}
		var err error
		r.Body, err = fhirjson.Splice(w.Body, fhirjson.SpliceOptions{ID: string(w.Key.ID), VersionID: fmt.Sprint(f.seq), LastUpdated: r.Time, KeepMeta: w.Feed})
		if err != nil {
			panic(err)
		}
		if !exists {
			f.owner[w.Key] = w.Owner
		}
		r.Owner = f.owner[w.Key]
		f.hash[w.Key] = hash
	}
	f.versions[w.Key] = append(f.versions[w.Key], r)
	done := Written{Key: w.Key, Version: r.Version, Time: r.Time, Interaction: r.Interaction, Gone: r.Deleted, Body: r.Body, Warnings: f.warnings}
	if w.MessageID != "" {
		f.ids[w.MessageID] = done
	}
	return done
}

func (f *fake) Read(_ context.Context, key fhir.Key) (Resource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r, ok := f.current(key); ok {
		return r, nil
	}
	return Resource{}, fhir.Refuse(fhir.IssueNotFound, "", key.String()+" is not known")
}

func (f *fake) VRead(_ context.Context, key fhir.Key, v record.Sequence) (Resource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.versions[key] {
		if r.Version == v {
			return r, nil
		}
	}
	return Resource{}, fhir.Refuse(fhir.IssueNotFound, "", "no such version")
}

func (f *fake) History(_ context.Context, key fhir.Key, count int, before record.Sequence) ([]Resource, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Clone(f.versions[key])
	if len(all) == 0 {
		return nil, false, fhir.Refuse(fhir.IssueNotFound, "", "not known")
	}
	slices.Reverse(all)
	all = slices.DeleteFunc(all, func(r Resource) bool { return before != 0 && r.Version >= before })
	if len(all) > count {
		return all[:count], true, nil
	}
	return all, false, nil
}

func (f *fake) Search(_ context.Context, typ string, q url.Values, lenient bool) (Found, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	self := url.Values{}
	var out Found
	for name, values := range q {
		switch {
		case name == "_id" || name == "identifier" || name == "_count":
			self[name] = values
		case lenient:
			out.Warnings = append(out.Warnings, fhir.Issue{Type: fhir.IssueNotSupported, Diagnostics: name + " was ignored"})
		default:
			return Found{}, fhir.Refuse(fhir.IssueNotSupported, "", "search by "+name+" is not supported")
		}
	}
	matches, err := f.search(typ, self)
	total := len(matches)
	out.Matches, out.Included, out.Total, out.Self = matches, f.included, &total, self
	if self.Get("_count") == "0" {
		out.Matches = nil
	}
	if self.Get("_count") == "1" && total > 1 {
		out.Matches = matches[:1]
		out.Next = url.Values{"_count": {"1"}, "_cursor": {"c"}}
	}
	return out, err
}

func (f *fake) UpToDate(context.Context) error { return nil }

func (f *fake) Select(_ context.Context, typ, condition string) ([]Resource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if hook := f.afterNext; hook != nil {
		f.afterNext = nil
		defer hook(f)
	}
	return f.pick(typ, condition)
}

func (f *fake) Parameters(typ string) []SearchParameter {
	switch typ {
	case "Observation":
		return []SearchParameter{{Name: "_id", Type: "token"}, {Name: "patient", Type: "reference", Include: true, Targets: []string{"Patient"}}}
	case "Binary":
		return []SearchParameter{{Name: "about", Type: "reference", Include: true}}
	}
	return []SearchParameter{{Name: "_id", Type: "token"}, {Name: "identifier", Type: "token"}}
}

// pick answers a condition.
func (f *fake) pick(typ, condition string) ([]Resource, error) {
	q, err := url.ParseQuery(condition)
	if err != nil {
		return nil, err
	}
	for name := range q {
		if name != "_id" && name != "identifier" {
			return nil, fhir.Refuse(fhir.IssueNotSupported, "", name+" cannot stand in a condition")
		}
	}
	found, err := f.search(typ, q)
	return found[:min(2, len(found))], err
}

func (f *fake) search(typ string, q url.Values) (out []Resource, err error) {
	for key := range f.versions {
		r, _ := f.current(key)
		if key.Type != typ || r.Deleted {
			continue
		}
		var body struct {
			Identifier []struct{ System, Value string }
		}
		_ = json.Unmarshal(r.Body, &body)
		ok := true
		if id := q.Get("_id"); id != "" && id != string(key.ID) {
			ok = false
		}
		if want := q.Get("identifier"); want != "" {
			found := false
			for _, i := range body.Identifier {
				found = found || i.System+"|"+i.Value == want || i.Value == want
			}
			ok = ok && found
		}
		if ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Resource) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out, nil
}

func (f *fake) ValidateSubscription(context.Context, []byte) ([]fhir.Issue, error) {
	return f.warnings, f.validate
}

func (f *fake) Explain(_ context.Context, q ExplainQuery) (Explanation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filters = append(f.filters, q)
	x := Explanation{Subscription: q.Subscription, Status: "active", Matches: true, Conditions: []Condition{{Text: "gender=male", Met: true, Found: []string{"male"}}}}
	if q.Body == nil {
		x.Resource, x.Version = q.Key.String(), q.Version
	}
	return x, nil
}

func (f *fake) Subscriptions(_ context.Context, fl SubscriptionFilter) ([]SubscriptionStatus, error) {
	f.filters = append(f.filters, fl)
	return nil, nil
}
func (f *fake) Subscription(_ context.Context, id fhir.ID) (SubscriptionStatus, error) {
	if id == "unknown" {
		return SubscriptionStatus{}, fhir.Refuse(fhir.IssueNotFound, "", "there is no Subscription unknown")
	}
	return SubscriptionStatus{ID: id, Status: "active"}, nil
}
func (f *fake) Delivery(context.Context) (Delivery, error) {
	return Delivery{Sending: f.sending}, nil
}

func (f *fake) StopDelivery(_ context.Context, reason, by string) (Delivery, error) {
	f.sending = Sending{Stopped: true, Reason: reason, By: by}
	return Delivery{Sending: f.sending}, nil
}

func (f *fake) StartDelivery(_ context.Context, by string) (Delivery, error) {
	f.sending = Sending{By: by}
	return Delivery{Sending: f.sending}, nil
}

func (f *fake) ResetBreaker(_ context.Context, endpoint, by string) (Delivery, error) {
	if endpoint == "https://unknown:443" {
		return Delivery{}, fhir.Refuse(fhir.IssueNotFound, "", "no breaker is open for it")
	}
	return Delivery{}, nil
}

func (f *fake) Pause(_ context.Context, id fhir.ID, by string) (SubscriptionStatus, error) {
	return SubscriptionStatus{ID: id, Paused: true}, nil
}
func (f *fake) RotateSecret(_ context.Context, id fhir.ID, o SecretRotation, by string) (RotatedSecret, error) {
	if _, err := f.Subscription(context.Background(), id); err != nil {
		return RotatedSecret{}, err
	}
	return RotatedSecret{Subscription: id, Secret: cmp.Or(o.Secret, "whsec_made"), Until: time.Unix(0, 0).UTC().Add(o.Overlap)}, nil
}

func (f *fake) RotateKeys(context.Context, string) (RotatedKeys, error) {
	return RotatedKeys{Master: "01234567", Rewrapped: 2, Sealed: 1}, nil
}

func (f *fake) Resume(_ context.Context, id fhir.ID, by string) (SubscriptionStatus, error) {
	return SubscriptionStatus{ID: id}, nil
}
func (f *fake) Test(_ context.Context, id fhir.ID, about fhir.Key, by string) (TestResult, error) {
	return TestResult{Subscription: id, Resource: about.String(), Outcome: record.Accepted}, nil
}
func (f *fake) Events(_ context.Context, id fhir.ID, fl EventFilter) ([]SubscriptionEvent, error) {
	f.filters = append(f.filters, fl)
	return nil, nil
}
func (f *fake) DeadLetters(_ context.Context, fl DeadFilter) ([]DeadLetter, error) {
	f.filters = append(f.filters, fl)
	return nil, nil
}
func (f *fake) DeadLetter(_ context.Context, id string) (DeadLetter, error) {
	return DeadLetter{ID: id, Notification: []byte("{}")}, nil
}
func (f *fake) Replay(_ context.Context, s DeadSelection, by string) (Done, error) {
	f.selected = append(f.selected, s)
	return Done{Count: 1, Job: "j1"}, nil
}
func (f *fake) Purge(_ context.Context, s DeadSelection, by string) (Done, error) {
	f.selected = append(f.selected, s)
	return Done{Count: 1}, nil
}
func (f *fake) Jobs(_ context.Context, fl JobFilter) ([]Job, error) {
	f.filters = append(f.filters, fl)
	return []Job{{ID: "j1", Kind: record.JobReplay, State: record.JobRunning}}, nil
}
func (f *fake) Job(_ context.Context, id string) (Job, error) {
	if id == "unknown" {
		return Job{}, fhir.Refuse(fhir.IssueNotFound, "", "there is no job unknown")
	}
	return Job{ID: id, Kind: record.JobReplay, State: record.JobDone}, nil
}
func (f *fake) CancelJob(_ context.Context, id, by string) (Job, error) {
	return Job{ID: id, Kind: record.JobReplay, State: record.JobCancelled}, nil
}
func (f *fake) Trigger(_ context.Context, t Trigger, by string) (Job, error) {
	if t.Subscription == "unknown" {
		return Job{}, fhir.Refuse(fhir.IssueNotFound, "", "there is no Subscription unknown")
	}
	f.triggered = append(f.triggered, t)
	return Job{ID: "j3", Kind: record.JobTrigger, State: record.JobQueued}, nil
}
func (f *fake) Attempts(_ context.Context, fl AttemptFilter) ([]Attempt, error) {
	f.filters = append(f.filters, fl)
	return nil, nil
}
func (f *fake) Resend(_ context.Context, r Resend, by string) (Done, error) {
	f.resent = append(f.resent, r)
	return Done{Count: 2, Job: "j2"}, nil
}
func (f *fake) Tokens(context.Context) ([]TokenInfo, error) {
	if f.tokens == nil {
		return nil, nil
	}
	return f.tokens.infos(), nil
}
func (f *fake) CreateToken(_ context.Context, name string, roles []Role, by string) (TokenInfo, error) {
	return TokenInfo{ID: "t1", Name: name, Roles: roles, Secret: "s3cret"}, nil
}
func (f *fake) RevokeToken(_ context.Context, idOrName, by string) error {
	if idOrName == "unknown" {
		return fhir.Refuse(fhir.IssueNotFound, "", "there is no token unknown")
	}
	return nil
}
func (f *fake) Status(context.Context) (Status, error) { return Status{Node: "n1"}, nil }
func (f *fake) Config(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"cluster":{"name":"c"}}`), nil
}

// fakeTokens opens the token of role R with the secret "R", and a second subscriber's with
// "other".
type fakeTokens struct{ none bool }

func (f *fakeTokens) Any() bool { return !f.none }
func (f *fakeTokens) Lookup(_ context.Context, secret string) (Token, bool) {
	if f.none {
		return Token{}, false
	}
	if secret == "other" {
		return Token{ID: "t-other", Roles: []Role{Subscriber}}, true
	}
	if !slices.Contains(Roles(), Role(secret)) {
		return Token{}, false
	}
	return Token{ID: "t-" + secret, Roles: []Role{Role(secret)}}, true
}
func (f *fakeTokens) infos() []TokenInfo {
	var out []TokenInfo
	for _, r := range Roles() {
		out = append(out, TokenInfo{ID: "t-" + string(r), Name: string(r), Roles: []Role{r}})
	}
	return out
}

var testTypes = []string{"Patient", "Observation", "Subscription", "SearchParameter", "SubscriptionTopic", "Binary", "Bundle", "DocumentReference", "Resource", "DomainResource", "Parameters"}

// site is a server under test.
type site struct {
	t       testing.TB
	fake    *fake
	handler http.Handler
	cfg     Config
}

// open is a site without tokens, asked from its own machine.
func open(t testing.TB, change ...func(*Config)) *site {
	t.Helper()
	f := newFake()
	cfg := Config{Backend: f, Admin: f, Tokens: &fakeTokens{none: true}, Types: testTypes, Version: "1.2.3"}
	for _, ch := range change {
		ch(&cfg)
	}
	return &site{t: t, fake: f, handler: New(cfg), cfg: cfg}
}

// closed is a site that asks for login.
func closed(t testing.TB) *site {
	return open(t, func(c *Config) { c.Tokens = &fakeTokens{} })
}

// do sends a request with headers given as "Name: value".
func (s *site) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1:8080"+path, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, "http://127.0.0.1:8080"+path, nil)
	}
	r.RemoteAddr = "127.0.0.1:50000"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		if name == "Remote" {
			r.RemoteAddr = value
			continue
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// must sends a request and checks its status.
func (s *site) must(status int, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	w := s.do(method, path, body, headers...)
	if w.Code != status {
		s.t.Fatalf("%s %s = %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	return w
}

// issue reads the first issue of an OperationOutcome.
func issue(t testing.TB, w *httptest.ResponseRecorder) outcomeIssue {
	t.Helper()
	return outcomeIn(t, w.Body.Bytes()).Issue[0]
}

func outcomeIn(t testing.TB, body []byte) outcome {
	t.Helper()
	var o outcome
	if err := json.Unmarshal(body, &o); err != nil || o.ResourceType != "OperationOutcome" || len(o.Issue) == 0 {
		t.Fatalf("no OperationOutcome: %v: %s", err, body)
	}
	return o
}

const patient = `{"resourceType":"Patient","id":"p1","active":true}`

func patientNamed(id, name string) string {
	return fmt.Sprintf(`{"resourceType":"Patient","id":%q,"name":[{"family":%q}]}`, id, name)
}

type jsonBundle struct {
	ResourceType string
	Type         string
	Total        *int
	Link         []struct{ Relation, URL string }
	Entry        []struct {
		FullURL  string
		Resource json.RawMessage
		Request  *entryRequest
		Response *entryResponse
		Search   *struct{ Mode string }
	}
}

func readBundle(t testing.TB, w *httptest.ResponseRecorder) jsonBundle {
	t.Helper()
	var b jsonBundle
	d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	if err := d.Decode(&b); err != nil || b.ResourceType != "Bundle" {
		t.Fatalf("no Bundle: %v: %s", err, w.Body)
	}
	return b
}
