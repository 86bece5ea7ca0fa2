package node

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/node/api"
)

// arrival is one notification as an endpoint saw it.
type arrival struct {
	Method, Path, Body string
	Header             http.Header
}

// sink takes notifications and remembers them.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	got    []arrival
	came   chan struct{} // closed with the next
}

func newSink(t *testing.T, status int) *sink {
	t.Helper()
	s := &sink{status: status, came: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.got = append(s.got, arrival{r.Method, r.URL.Path, string(body), r.Header})
		status := s.status
		close(s.came)
		s.came = make(chan struct{})
		s.mu.Unlock()
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// await waits until there are n notifications and gives them.
func (s *sink) await(t *testing.T, n int) []arrival {
	t.Helper()
	for limit := time.After(time.Minute); ; {
		s.mu.Lock()
		got, came := s.got, s.came
		s.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-came:
		case <-limit:
			t.Fatalf("%d notifications came, want %d", len(got), n)
		}
	}
}

func webhookTo(id, criteria, endpoint string, interactions ...string) string {
	ext := `{"url":"https://medplum.com/fhir/StructureDefinition/subscription-max-attempts","valueInteger":1}`
	for _, i := range interactions {
		ext += fmt.Sprintf(`,{"url":"https://medplum.com/fhir/StructureDefinition/subscription-supported-interaction","valueCode":%q}`, i)
	}
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"active","reason":"test","criteria":%q,"extension":[%s],"channel":{"type":"rest-hook","endpoint":%q,"payload":"application/fhir+json"}}`, id, criteria, ext, endpoint)
}

// Medplum's page: the option says which interaction is sent, whatever the event did; a delete that
// was missed can be sent, which Medplum itself answers 410.
func TestResendSendsTheInteractionThatIsAskedFor(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	hook := newSink(t, 200)
	r.do(201, "PUT", "/fhir/Subscription/s", webhookTo("s", "Patient?", hook.URL, "create", "update", "delete"), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p","gender":"male"}`, nil)
	hook.await(t, 1)
	n := 1
	// What is on its way is not sent twice, so each waits for the outcome of the one before.
	settled := func() {
		t.Helper()
		r.await("the outcome", "/admin/api/v1/status", func(s map[string]any) bool { return s["pending"] == 0.0 })
	}
	resend := func(body, interaction, number, holds string) {
		t.Helper()
		settled()
		r.do(200, "POST", "/fhir/R4/Patient/p/$resend", body, nil)
		n++
		got := hook.await(t, n)[n-1]
		if i := got.Header.Get("X-Medplum-Interaction"); i != interaction || got.Header.Get("X-Carillon-Event") != number || !strings.Contains(got.Body, holds) || got.Header.Get("X-Carillon-Resend") != "true" {
			t.Errorf("%s: sent as %q, event %s: %s", body, i, got.Header.Get("X-Carillon-Event"), got.Body)
		}
	}
	resend("", "update", "1", `"male"`)
	resend(`{}`, "update", "1", `"male"`)
	resend(`{"verbose":true,"interaction":"create","subscription":"Subscription/s"}`, "create", "1", `"male"`)
	resend(`{"interaction":"delete"}`, "delete", "1", `{}`)
	r.do(200, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p","gender":"female"}`, nil)
	n++
	hook.await(t, n)
	version := 0
	var h struct {
		Entry []struct {
			Resource struct{ Meta struct{ VersionId string } }
		}
	}
	r.do(200, "GET", "/fhir/Patient/p/_history", "", &h)
	fmt.Sscan(h.Entry[1].Resource.Meta.VersionId, &version)
	resend(fmt.Sprintf(`{"version":%d}`, version), "update", "1", `"male"`)
	resend("", "update", "2", `"female"`)

	r.do(204, "DELETE", "/fhir/Patient/p", "", nil)
	n++
	hook.await(t, n)
	resend("", "delete", "3", `{}`)
	resend(`{"interaction":"update"}`, "delete", "3", `{}`)

	// What was evaluated is in the log, and nothing of the resource.
	if logs := r.logs.String(); strings.Count(logs, "resend evaluated") != 1 || strings.Contains(logs, "male") {
		t.Errorf("the verbose one is not logged once, or with health data")
	}

	for _, c := range []struct {
		status     int
		path, body string
	}{
		{404, "/fhir/Patient/unknown/$resend", ""},
		{404, "/fhir/Nothing/p/$resend", ""},
		{404, "/fhir/Patient/p/$resend", `{"subscription":"Subscription/unknown"}`},
		{404, "/fhir/Patient/p/$resend", `{"version":1}`},
		{400, "/fhir/Patient/p/$resend", `{"interaction":"banana"}`},
		{400, "/fhir/Patient/p/$resend", `{"subscription":"Patient/p"}`},
	} {
		var o struct {
			Issue []struct{ Diagnostics string }
		}
		r.do(c.status, "POST", c.path, c.body, &o)
		if c.body == `{"interaction":"banana"}` && !strings.Contains(o.Issue[0].Diagnostics, "update, create or delete") {
			t.Errorf("the refusal does not name the three: %s", o.Issue[0].Diagnostics)
		}
	}
	var es []api.SubscriptionEvent
	r.do(200, "GET", "/admin/api/v1/subscriptions/s/events", "", &es)
	if len(es) != 3 {
		t.Errorf("sending again gave new numbers: %+v", es)
	}
}

// Who is no administrator learns nothing, not even whether a resource exists.
func TestResendIsForAdministratorsAlone(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	var admin, operator api.TokenInfo
	r.do(201, "POST", "/admin/api/v1/tokens", `{"name":"a","roles":["admin"]}`, &admin)
	as := func(token string, status int, path string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.Addr()+path, nil)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, status)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.Addr()+"/admin/api/v1/tokens", strings.NewReader(`{"name":"o","roles":["operator","producer"]}`))
	req.Header.Set("Authorization", "Bearer "+admin.Secret)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	_, secret, _ := strings.Cut(string(text), `"secret":"`)
	operator.Secret, _, _ = strings.Cut(secret, `"`)
	as(operator.Secret, 403, "/fhir/Patient/unknown/$resend")
	as(operator.Secret, 403, "/fhir/Nothing/unknown/$resend")
	as("nonsense", 401, "/fhir/Patient/unknown/$resend")
	as(admin.Secret, 404, "/fhir/Patient/unknown/$resend")
	as(operator.Secret, 400, "/fhir/Subscription/$trigger-subscription") // operators may, and this names nothing
}

// A version that is still on its way as something else cannot be sent as another interaction at the
// same time; who sends it to all is not held up by that.
func TestResendAsAnotherInteractionWaitsForWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	hook := newSink(t, 500)
	r.do(201, "PUT", "/fhir/Subscription/s", strings.Replace(webhookTo("s", "Patient?", hook.URL, "create", "update", "delete"), `"valueInteger":1`, `"valueInteger":3`, 1), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	hook.await(t, 1) // the next attempt is in 5 s
	r.do(200, "POST", "/fhir/Patient/p/$resend", "", nil)
	r.do(200, "POST", "/fhir/Patient/p/$resend", `{"subscription":"Subscription/s"}`, nil)
	r.do(200, "POST", "/fhir/Patient/p/$resend", `{"interaction":"delete"}`, nil)
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/pause", "", nil) // it stays on its way
	r.do(409, "POST", "/fhir/Patient/p/$resend", `{"interaction":"delete","subscription":"Subscription/s"}`, nil)
}
