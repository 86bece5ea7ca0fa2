package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
)

// What the matcher knows beside the body, explain knows as well.
func TestExplainSeesAnEventAsItsMatcherDid(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	to := endpoint(t, 200)
	hears := func(id, criteria string, interactions ...string) {
		t.Helper()
		var more []string
		for _, i := range interactions {
			more = append(more, fmt.Sprintf(`{"url":%q,"valueCode":%q}`, fhir.ExtSupportedInteraction, i))
		}
		r.do(201, "PUT", "/fhir/Subscription/"+id, strings.Replace(subscriptionTo(id, criteria, to), `"resourceType"`, `"extension":[`+strings.Join(more, ",")+`],"resourceType"`, 1), nil)
	}
	feed := func(key fhir.Key, i fhir.Interaction, body string) record.Sequence {
		t.Helper()
		w, err := r.gate.Write(t.Context(), api.Write{Key: key, Interaction: i, Feed: true, Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		return w.Version
	}
	p, q := fhir.Key{Type: "Patient", ID: "p"}, fhir.Key{Type: "Patient", ID: "q"}
	created := r.create("Patient", "p", `"active":true`)
	e, err := r.versions.Event(t.Context(), created)
	if err != nil {
		t.Fatal(err)
	}
	hears("later", "Patient?_lastUpdated=gt"+e.Time.UTC().Format(time.RFC3339Nano), "create", "delete")
	hears("old", "Patient?_lastUpdated=lt2001", "create", "delete")
	hears("any", "Patient?", "create", "delete")
	var want []string
	met := func(seq record.Sequence, ids ...string) {
		for _, id := range ids {
			want = append(want, fmt.Sprintf("%d:%s", seq, id))
		}
	}
	r.do(204, "DELETE", "/fhir/Patient/p", "", nil)
	gone, _, err := r.store.Resource(p)
	if err != nil {
		t.Fatal(err)
	}
	met(gone.Version, "later", "any")
	met(feed(q, fhir.Create, `{"resourceType":"Patient","id":"q","meta":{"lastUpdated":"2000-01-01T00:00:00Z"}}`), "old", "any")
	met(feed(fhir.Key{Type: "Patient", ID: "never.seen"}, fhir.Delete, ""), "later", "any")
	slices.Sort(want)
	if got := r.matchedAgain(); !slices.Equal(got, want) {
		t.Fatalf("matched %v, want %v", got, want)
	}
	var explained []string
	for _, w := range want {
		var seq record.Sequence
		if _, err := fmt.Sscanf(w, "%d:", &seq); err != nil {
			t.Fatal(err)
		}
		v, _, err := r.store.Before(seq)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"later", "old", "any"} {
			var x api.Explanation
			r.do(200, "POST", "/admin/api/v1/explain", fmt.Sprintf(`{"subscription":%q,"resource":"%s@%d"}`, id, v.Key, seq), &x)
			if x.Matches {
				explained = append(explained, fmt.Sprintf("%d:%s", seq, id))
			}
		}
	}
	slices.Sort(explained)
	if explained = slices.Compact(explained); !slices.Equal(explained, want) {
		t.Errorf("explained as %v, matched were %v", explained, want)
	}

	// A body that is not stored is a create, and one that is an update.
	for body, matches := range map[string]bool{
		`{"resourceType":"Patient","id":"new"}`: true,
		`{"resourceType":"Patient"}`:            true,
		`{"resourceType":"Patient","id":"p"}`:   true, // which is deleted
		`{"resourceType":"Patient","id":"q"}`:   false,
	} {
		var x api.Explanation
		if r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"later","body":`+body+`}`, &x); x.Matches != matches {
			t.Errorf("written now, %s is explained as %+v", body, x)
		}
		if r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"any","body":`+body+`}`, &x); x.Matches != matches {
			t.Errorf("%s is explained as %+v", body, x)
		}
	}
}

// A Subscription may be accepted while another node deletes what it uses.
func TestExplainSaysWhyAVersionThatCannotBeCompiledHearsNothing(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	r.write("Subscription/s", subscriptionTo("s", "Patient?active=true", endpoint(t, 200)))
	body := subscriptionTo("s", "Patient?gender:in=http://example.org/deleted", endpoint(t, 200))
	at := r.store.Position().Events
	r.subs.apply(record.Change{Interaction: fhir.Update, Birth: r.subs.get("s").birth, Event: record.Event{
		Sequence: at + 1, Time: time.Now(), Key: fhir.Key{Type: "Subscription", ID: "s"}, Body: []byte(strings.Replace(body, "requested", "active", 1))}})
	var x api.Explanation
	r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"s","body":{"resourceType":"Patient","active":true}}`, &x)
	if x.Matches || len(x.Conditions) != 1 || !strings.Contains(x.Conditions[0].Note, "http://example.org/deleted") {
		t.Errorf("explained as %+v", x)
	}
}

// away is a repository that does not answer.
type away struct{ err error }

func (a away) At(context.Context, record.Sequence) search.Repository { return a }
func (a away) Read(fhir.Key) (search.State, error)                   { return search.State{}, a.err }
func (a away) Referrers(string, string, fhir.Key, fhir.ID, int) ([]fhir.ID, error) {
	return nil, a.err
}

var _ match.Repository = away{}

// A version that is sent again is asked about with the resources beside it, as it was when it was
// written. Where these cannot be had the answer is neither "none" nor "does not match".
func TestResendAndExplainAskForOtherResources(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	r.create("Patient", "p", `"gender":"male"`)
	r.create("Observation", "o", `"status":"final","subject":{"reference":"Patient/p"}`)
	r.do(201, "PUT", "/fhir/Subscription/chain", subscriptionTo("chain", "Observation?subject:Patient.gender=male", endpoint(t, 200)), nil)
	r.do(201, "PUT", "/fhir/Subscription/plain", subscriptionTo("plain", "Observation?status=final", endpoint(t, 200)), nil)
	const resend = "/admin/api/v1/resend"
	var done api.Done
	if r.do(200, "POST", resend, `{"resource":"Observation/o"}`, &done); done.Count != 2 {
		t.Errorf("sent again to %d Subscriptions, want 2", done.Count)
	}
	for _, err := range []error{errors.New("a moment"), search.ErrUnanswered} {
		r.gate.others = away{err}
		r.do(503, "POST", resend, `{"resource":"Observation/o"}`, nil)
		r.do(503, "POST", resend, `{"resource":"Observation/o","subscription":"chain"}`, nil)
		if r.do(200, "POST", resend, `{"resource":"Observation/o","subscription":"plain"}`, &done); done.Count != 1 {
			t.Errorf("sent again to %d Subscriptions, want 1", done.Count)
		}
		r.do(503, "POST", "/admin/api/v1/explain", `{"subscription":"chain","resource":"Observation/o"}`, nil)
		r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"plain","resource":"Observation/o"}`, nil)
	}
}
