package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

// forms are what the index holds of the Subscriptions, in a comparable shape.
func (r *running) forms() (out []string) {
	for _, s := range r.subs.all() {
		for _, e := range r.subs.index.Versions(s.id) {
			out = append(out, fmt.Sprintf("%s birth %d version %d from %d until %d basis %d path %v %s",
				e.ID, e.Birth, e.Version, e.From, e.Until, e.Basis, e.Path, e.Criteria.Identity()))
		}
		if s.stale != "" || s.problem != "" {
			out = append(out, string(s.id)+" "+s.stale+s.problem)
		}
	}
	return out
}

// events waits until everything is matched, and compares how many events a Subscription has.
func (r *running) events(id string, want int) {
	r.t.Helper()
	at := r.store.Position().Events
	for deadline := time.Now().Add(time.Minute); r.marks.lowest() < at; {
		if err := pause(r.t.Context(), 5*time.Millisecond); err != nil || time.Now().After(deadline) {
			r.t.Fatalf("what was written up to %d is not matched (%v)", at, err)
		}
	}
	var s api.SubscriptionStatus
	if r.do(200, "GET", "/admin/api/v1/subscriptions/"+id, "", &s); int(s.Events) != want {
		r.t.Fatalf("%s has %d events, want %d", id, s.Events, want)
	}
}

// write puts a resource.
func (r *running) write(key, body string) {
	r.t.Helper()
	r.do(r.putStatus(key), "PUT", "/fhir/"+key, body, nil)
}

// putStatus is the status that a PUT is to give.
func (r *running) putStatus(key string) int {
	k, err := fhir.ParseKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	res, known, err := r.store.Resource(k)
	if err != nil {
		r.t.Fatal(err)
	}
	if known && !res.Deleted {
		return 200
	}
	return 201
}

// reason is what the administration shows of a Subscription.
func (r *running) reason(id string) string {
	r.t.Helper()
	var s api.SubscriptionStatus
	r.do(200, "GET", "/admin/api/v1/subscriptions/"+id, "", &s)
	return s.Reason
}

func valueSet(codes ...string) string {
	var list []string
	for _, c := range codes {
		list = append(list, fmt.Sprintf(`{"code":%q}`, c))
	}
	return `{"resourceType":"ValueSet","id":"vs","url":"http://example.org/vs","status":"active","compose":{"include":[{"system":"http://example.org/cs","concept":[` +
		strings.Join(list, ",") + `]}]}}`
}

func coded(id, code string) string {
	return fmt.Sprintf(`{"resourceType":"Observation","id":%q,"status":"final","code":{"coding":[{"system":"http://example.org/cs","code":%q}]}}`, id, code)
}

// A status that the cluster writes by itself is a version of its own. Compiled with what stands
// then, a Subscription whose ValueSet is gone heard nothing from there on.
func TestASubscriptionWhoseValueSetIsGoneIsStillHeardAfterItsStatusTurnsToError(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Delivery.OnExhausted, cfg.Delivery.Retry.Attempts = "error", 1
	r := runNode(t, cfg)
	r.write("ValueSet/vs", valueSet("a"))
	r.write("Subscription/s", subscriptionTo("s", "Observation?code:in=http://example.org/vs", endpoint(t, 500)))
	r.do(204, "DELETE", "/fhir/ValueSet/vs", "", nil)
	gone := r.reason("s")
	r.write("ValueSet/other", strings.ReplaceAll(valueSet("a"), "vs", "other"))
	if reason := r.reason("s"); gone == "" || reason != gone {
		t.Errorf("after a change of another ValueSet the status says %q, before it %q", reason, gone)
	}
	r.write("Observation/1", coded("1", "a"))
	r.await("the status error", "/fhir/Subscription/s", func(s map[string]any) bool { return s["status"] == "error" })
	r.write("Observation/2", coded("2", "a"))
	r.events("s", 2)
	forms := r.forms()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}

	again := runNode(t, cfg)
	if got := again.forms(); !slices.Equal(got, forms) {
		t.Errorf("after a restart the index holds %q, before it %q", got, forms)
	}
	again.write("Observation/3", coded("3", "a"))
	again.events("s", 3)
	again.write("ValueSet/vs", valueSet("b"))
	again.write("Observation/4", coded("4", "a"))
	again.write("Observation/5", coded("5", "b"))
	again.events("s", 4)
}

// A Subscription is matched by the ValueSet as it stands at the place of each event; what cannot
// be used any more leaves it as it was; and a restart changes nothing about it.
func TestACriteriaFollowsTheValueSetThatItUses(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	to := endpoint(t, 200)
	r.do(422, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Observation?code:in=http://example.org/vs", to), nil)
	r.write("ValueSet/vs", valueSet("a"))
	r.write("Subscription/s", subscriptionTo("s", "Observation?code:in=http://example.org/vs", to))
	r.write("Observation/1", coded("1", "a"))
	r.write("Observation/2", coded("2", "b"))
	r.events("s", 1)

	r.write("ValueSet/vs", valueSet("b"))
	r.write("Observation/3", coded("3", "a"))
	r.write("Observation/4", coded("4", "b"))
	r.events("s", 2)

	r.do(204, "DELETE", "/fhir/ValueSet/vs", "", nil)
	if reason := r.reason("s"); !strings.Contains(reason, "http://example.org/vs") || !strings.Contains(reason, "as before") {
		t.Errorf("without the ValueSet the status says %q", reason)
	}
	// Another definition has nothing to do with it, and is not blamed.
	deleted := r.reason("s")
	r.write("ValueSet/other", strings.NewReplacer(`"id":"vs"`, `"id":"other"`, "org/vs", "org/other").Replace(valueSet("b")))
	if reason := r.reason("s"); reason != deleted {
		t.Errorf("with another ValueSet the status says %q, before it %q", reason, deleted)
	}
	var x map[string]any
	r.do(200, "GET", "/fhir/Subscription/s/$explain?resource=Observation/4", "", &x)
	if text := fmt.Sprint(x); !strings.Contains(text, "as before") || !strings.Contains(text, "matches") {
		t.Errorf("explained as %s", text)
	}
	r.write("Observation/5", coded("5", "b"))
	r.events("s", 3)
	forms := r.forms()
	if len(forms) != 3 { // the form with a, the one with b, and that it is stale
		t.Errorf("the index holds %q", forms)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}

	again := runNode(t, cfg)
	if got := again.forms(); !slices.Equal(got, forms) {
		t.Errorf("after a restart the index holds %q, before it %q", got, forms)
	}
	again.write("Observation/6", coded("6", "b"))
	again.events("s", 4)
	again.write("ValueSet/vs", valueSet("a"))
	if reason := again.reason("s"); reason != "" {
		t.Errorf("with the ValueSet again the status says %q", reason)
	}
	again.write("Observation/7", coded("7", "b"))
	again.write("Observation/8", coded("8", "a"))
	again.events("s", 5)

	cfg.Run.Rebuild = true
	if err := again.wait(); err != nil {
		t.Fatal(err)
	}
	rebuilt := runNode(t, cfg)
	if got := rebuilt.forms(); len(got) != 3 {
		t.Errorf("a projection that is made again gives %q", got)
	}
}

// A ValueSet may fail for want of another that it includes; that one mends it when it comes.
func TestAnyDefinitionMayMendWhatCouldNotBeCompiled(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	r.write("ValueSet/vs", valueSet("a"))
	r.write("Subscription/s", subscriptionTo("s", "Observation?code:in=http://example.org/vs", endpoint(t, 200)))
	r.write("ValueSet/vs", `{"resourceType":"ValueSet","id":"vs","url":"http://example.org/vs","status":"active","compose":{"include":[{"valueSet":["http://example.org/inner"]}]}}`)
	if reason := r.reason("s"); !strings.Contains(reason, "http://example.org/inner") {
		t.Errorf("the status says %q", reason)
	}
	r.write("ValueSet/inner", strings.NewReplacer(`"id":"vs"`, `"id":"inner"`, "org/vs", "org/inner").Replace(valueSet("b")))
	if reason := r.reason("s"); reason != "" {
		t.Errorf("the status says %q", reason)
	}
	r.write("Observation/1", coded("1", "b"))
	r.write("Observation/2", coded("2", "a"))
	r.events("s", 1)
	// And a change of the inner one reaches it.
	r.write("ValueSet/inner", strings.NewReplacer(`"id":"vs"`, `"id":"inner"`, "org/vs", "org/inner").Replace(valueSet("a")))
	r.write("Observation/3", coded("3", "b"))
	r.write("Observation/4", coded("4", "a"))
	r.events("s", 2)
	forms := r.forms()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if got := runNode(t, cfg).forms(); !slices.Equal(got, forms) {
		t.Errorf("after a restart the index holds %q, before it %q", got, forms)
	}
}

// The server writes versions of its own, such as one in error once its attempts are spent. The
// criteria is the same, and so is what it means.
func TestAStatusOfTheServerLeavesACriteriaWithoutItsDefinitionInForce(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	r.write("ValueSet/vs", valueSet("a"))
	r.write("Subscription/s", subscriptionTo("s", "Observation?code:in=http://example.org/vs", endpoint(t, 200)))
	r.do(204, "DELETE", "/fhir/ValueSet/vs", "", nil)
	r.write("Observation/1", coded("1", "a"))
	r.events("s", 1)
	if err := r.gate.setStatus(t.Context(), "s", r.subs.get("s").birth, fhir.StatusError, "its attempts are spent"); err != nil {
		t.Fatal(err)
	}
	r.write("Observation/2", coded("2", "a"))
	r.events("s", 2)
	if reason := r.reason("s"); !strings.Contains(reason, "as before") {
		t.Errorf("the status says %q", reason)
	}
	forms := r.forms()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, cfg)
	if got := again.forms(); !slices.Equal(got, forms) {
		t.Errorf("after a restart the index holds %q, before it %q", got, forms)
	}
	// Mended, it follows its definition again.
	again.write("ValueSet/vs", valueSet("b"))
	again.write("Observation/3", coded("3", "a"))
	again.write("Observation/4", coded("4", "b"))
	again.events("s", 3)
	if sub := again.subs.get("s"); sub.stale != "" {
		t.Errorf("it is still %q", sub.stale)
	}
}

const shoeSize = `{"resourceType":"SearchParameter","id":"shoe","url":"http://example.org/shoe","name":"shoe","status":"active","code":"shoe-size","base":["Patient"],
	"type":"number","description":"x","expression":"Patient.extension('http://example.org/shoe').value"}`

func walker(id string, size int) string {
	return fmt.Sprintf(`{"resourceType":"Patient","id":%q,"extension":[{"url":"http://example.org/shoe","valueDecimal":%d}]}`, id, size)
}

func TestACustomSearchParameterWorksAtOnceAndAfterARestart(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	to := endpoint(t, 200)
	r.do(422, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?shoe-size=gt42", to), nil)
	r.do(201, "PUT", "/fhir/SearchParameter/shoe", shoeSize, nil)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?shoe-size=gt42", to), nil)
	r.write("Patient/1", walker("1", 43))
	r.write("Patient/2", walker("2", 42))
	r.events("s", 1)
	var found struct{ Total int }
	if r.do(200, "GET", "/fhir/Patient?shoe-size=gt42", "", &found); found.Total != 1 {
		t.Errorf("a search finds %d", found.Total)
	}

	// A change of the parameter reaches the Subscription that uses it.
	r.write("SearchParameter/shoe", strings.Replace(shoeSize, "/shoe').value", "/boot').value", 1))
	r.write("Patient/3", walker("3", 44))
	r.write("Patient/4", strings.Replace(walker("4", 44), "/shoe", "/boot", 1))
	r.events("s", 2)
	forms := r.forms()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, cfg)
	if got := again.forms(); !slices.Equal(got, forms) {
		t.Errorf("after a restart the index holds %q, before it %q", got, forms)
	}
	again.write("Patient/5", strings.Replace(walker("5", 50), "/shoe", "/boot", 1))
	again.write("Patient/6", walker("6", 50))
	again.events("s", 3)
	// Events of before are explained by what was in force then.
	for id, matches := range map[string]bool{"1": true, "2": false, "3": false, "4": true, "5": true, "6": false} {
		var x api.Explanation
		again.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"s","resource":"Patient/`+id+`"}`, &x)
		if x.Matches != matches {
			t.Errorf("Patient/%s is explained as %+v", id, x)
		}
	}
	// Retired, it is not there for the next Subscription; those that use it go on.
	again.write("SearchParameter/shoe", strings.Replace(shoeSize, `"active"`, `"retired"`, 1))
	again.do(422, "PUT", "/fhir/Subscription/s2", subscriptionTo("s2", "Patient?shoe-size=gt42", to), nil)
	if again.reason("s") == "" {
		t.Error("the Subscription does not tell that its parameter is gone")
	}
}

func TestASearchParameterThatCannotBeEvaluatedIsRefused(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	for _, broken := range []string{
		strings.Replace(shoeSize, "/shoe').value", "/shoe').where(", 1),
		strings.Replace(shoeSize, "Patient.extension", "Patient.nosuchelement.extension", 1),
		strings.Replace(shoeSize, `"code":"shoe-size",`, "", 1),
	} {
		var outcome struct {
			Issue []struct{ Diagnostics string }
		}
		r.do(422, "PUT", "/fhir/SearchParameter/shoe", broken, &outcome)
		if len(outcome.Issue) == 0 || outcome.Issue[0].Diagnostics == "" {
			t.Errorf("refused without a reason: %+v", outcome)
		}
	}
	// A retired one is not meant to be evaluated.
	r.do(201, "PUT", "/fhir/SearchParameter/shoe", strings.NewReplacer(`"active"`, `"retired"`, "').value", "').where(").Replace(shoeSize), nil)
}

// Over NATS the same holds: a bad parameter is refused with the reason, and a good one counts for
// the Subscription that is sent behind it.
func TestSearchParametersOverNATSAreJudgedAsOverHTTP(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	nc, err := nats.Connect("nats://" + r.NATSAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ask := func(key, body string) string {
		t.Helper()
		m, err := nc.Request("fhir.ingest."+strings.Replace(key, "/", ".", 1), []byte(body), 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return string(m.Data)
	}
	if got := ask("SearchParameter/shoe", strings.Replace(shoeSize, "Patient.extension", "Patient.nosuchelement.extension", 1)); !strings.Contains(got, "nosuchelement") || !strings.Contains(got, "422") {
		t.Errorf("a bad parameter is answered with %s", got)
	}
	sub := subscriptionTo("s", "Patient?shoe-size=gt42", endpoint(t, 200))
	if got := ask("Subscription/s", sub); !strings.Contains(got, "shoe-size") {
		t.Errorf("a Subscription without its parameter is answered with %s", got)
	}
	for _, one := range [][2]string{{"SearchParameter/shoe", shoeSize}, {"Subscription/s", sub}} {
		if got := ask(one[0], one[1]); strings.Contains(got, "error") {
			t.Errorf("%s is answered with %s", one[0], got)
		}
	}
	r.write("Patient/1", walker("1", 43))
	r.events("s", 1)
}

// medplum is a Subscription with a FHIRPath criteria.
func medplum(id, criteria, path, to string, more ...string) string {
	extensions := append([]string{fmt.Sprintf(`{"url":%q,"valueString":%q}`, fhir.ExtPathCriteria, path)}, more...)
	return strings.Replace(subscriptionTo(id, criteria, to), `"resourceType"`, `"extension":[`+strings.Join(extensions, ",")+`],"resourceType"`, 1)
}

func TestMedplumsCriteriaComparesTheStateWithTheOneBefore(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	r := runNode(t, cfg)
	to := endpoint(t, 200)
	on := func(i string) string {
		return fmt.Sprintf(`{"url":%q,"valueCode":%q}`, fhir.ExtSupportedInteraction, i)
	}
	r.do(201, "PUT", "/fhir/Subscription/changed", medplum("changed", "Patient?", "%previous.exists() and %previous.gender != %current.gender", to), nil)
	r.do(201, "PUT", "/fhir/Subscription/implies", medplum("implies", "Patient?", "%previous.exists() implies %previous.gender != %current.gender", to), nil)
	r.do(201, "PUT", "/fhir/Subscription/both", medplum("both", "Patient?active=true", "gender = 'female'", to), nil)
	r.do(201, "PUT", "/fhir/Subscription/deleted", medplum("deleted", "Patient?", "%previous.gender = 'female' and %current.gender = 'female'", to, on("update"), on("delete")), nil)
	patient := func(gender string, active bool) {
		t.Helper()
		r.write("Patient/p", fmt.Sprintf(`{"resourceType":"Patient","id":"p","gender":%q,"active":%v}`, gender, active))
	}
	patient("male", true)
	patient("female", true)
	patient("female", false)
	patient("male", false)
	r.write("Patient/q", `{"resourceType":"Patient","id":"q","gender":"female"}`)
	r.do(204, "DELETE", "/fhir/Patient/q", "", nil)
	r.write("Patient/last", `{"resourceType":"Patient","id":"last"}`)
	r.events("changed", 2)
	r.events("implies", 5) // three creates, two changes
	r.events("both", 1)
	r.events("deleted", 2) // the update that left it female, and the delete

	var x api.Explanation
	r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"changed","resource":"Patient/p"}`, &x)
	last := x.Conditions[len(x.Conditions)-1]
	if !x.Matches || !last.Met || !slices.Equal(last.Found, []string{"true"}) || !strings.Contains(last.Text, "%previous.exists()") {
		t.Errorf("explained as %+v", x)
	}
	r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"changed","body":{"resourceType":"Patient","id":"p","gender":"male"}}`, &x)
	if x.Matches {
		t.Errorf("a body that changes nothing is explained as %+v", x)
	}
	r.do(200, "POST", "/admin/api/v1/explain", `{"subscription":"changed","body":{"resourceType":"Patient","id":"p","gender":"other"}}`, &x)
	if !x.Matches {
		t.Errorf("a body that changes the gender is explained as %+v", x)
	}
	var refused struct {
		Issue []struct {
			Diagnostics string
			Expression  []string
		}
	}
	r.do(422, "PUT", "/fhir/Subscription/bad", medplum("bad", "Patient?", "gender = ", to), &refused)
	if !slices.Equal(refused.Issue[0].Expression, []string{"Subscription.extension[0]"}) || refused.Issue[0].Diagnostics == "" {
		t.Errorf("refused with %+v", refused)
	}
	r.do(422, "PUT", "/fhir/Subscription/bad", medplum("bad", "Patient?", "memberOf('http://x')", to), nil)
}

func TestAnUnsavedSubscriptionIsExplained(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	r.write("Patient/p", `{"resourceType":"Patient","id":"p","gender":"male"}`)
	ask := func(status int, parameters string) string {
		t.Helper()
		var x map[string]any
		r.do(status, "POST", "/fhir/Subscription/$explain", `{"resourceType":"Parameters","parameter":[`+parameters+`]}`, &x)
		return fmt.Sprint(x)
	}
	sub := func(criteria string) string {
		return `{"name":"subscription","resource":` + subscriptionTo("x", criteria, "https://example.org") + `}`
	}
	const reference, body = `{"name":"reference","valueReference":{"reference":"Patient/p"}}`, `{"name":"resource","resource":{"resourceType":"Patient","gender":"female"}}`
	for _, test := range []struct {
		parameters string
		says       string
	}{
		{sub("Patient?gender=male") + "," + reference, "name:matches valueBoolean:true"},
		{sub("Patient?gender=female") + "," + reference, "name:matches valueBoolean:false"},
		{sub("Patient?gender=female") + "," + body, "name:matches valueBoolean:true"},
	} {
		if got := ask(200, test.parameters); !strings.Contains(got, test.says) {
			t.Errorf("%s gives %s", test.parameters, got)
		}
	}
	ask(422, sub("Patient?colour=blue")+","+reference)
	ask(422, sub("Patient?"))
	ask(422, reference)
	ask(400, sub("Patient?")+`,{"name":"colour","valueString":"x"}`)
	r.do(400, "POST", "/fhir/Subscription/$explain", `{"resourceType":"Patient"}`, nil)
	if r.subs.get("x") != nil {
		t.Error("explaining has stored the Subscription")
	}
}

func TestCriteriaThatCanNeverMatchAreAcceptedWithAWarning(t *testing.T) {
	t.Parallel()
	r := runNode(t, testConfig(t.TempDir()))
	to := endpoint(t, 200)
	var outcome struct {
		Issue []struct{ Severity, Diagnostics string }
	}
	r.do(200, "POST", "/fhir/Subscription/$validate", subscriptionTo("s", "Observation?status=final&status=amended", to), &outcome)
	if n := len(outcome.Issue); n != 2 || outcome.Issue[1].Severity != "warning" || !strings.Contains(outcome.Issue[1].Diagnostics, "never") {
		t.Errorf("validated as %+v", outcome)
	}
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Observation?status=final&status=amended", to), nil)
}

func TestTheVersionOfAClusterIsForGood(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.FHIR.Version = "R4B"
	r := runNode(t, cfg)
	var statement struct{ FHIRVersion string }
	r.do(200, "GET", "/fhir/R4B/metadata", "", &statement)
	if statement.FHIRVersion != "4.3.0" {
		t.Errorf("the CapabilityStatement says %q", statement.FHIRVersion)
	}
	r.do(404, "GET", "/fhir/R4/metadata", "", nil)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?gender=male", endpoint(t, 200)), nil)
	r.write("Patient/p", `{"resourceType":"Patient","id":"p","gender":"male"}`)
	r.events("s", 1)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	cfg.FHIR.Version = "R4"
	if err := startError(t, cfg); err == nil || !strings.Contains(err.Error(), "R4B") {
		t.Errorf("another version is answered with %v", err)
	}
}

// A data folder that has no record of its version was written by a release that knew R4 alone.
func TestAnOldDataFolderIsOfR4(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unpack(t, fixture, dir)
	cfg := testConfig(dir)
	cfg.FHIR.Version = "R4B"
	if err := startError(t, cfg); err == nil || !strings.Contains(err.Error(), "speaks FHIR R4,") {
		t.Errorf("started as R4B: %v", err)
	}
}

// startError is what a node that cannot start says.
func startError(t *testing.T, cfg config.Config) error {
	t.Helper()
	n, err := New(cfg, slog.New(slog.DiscardHandler), "1.2.3-test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		<-n.Ready()
		stop()
	}()
	return n.Run(ctx)
}

func TestDefinitionsOfTheConfigurationAreWrittenAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.json", `{"resourceType":"Bundle","type":"collection","entry":[{"resource":`+valueSet("a")+`}]}`)
	write("b.ndjson", strings.ReplaceAll(shoeSize, "\n", " ")+"\n")
	write("readme.txt", "not read")
	cfg := testConfig(t.TempDir())
	cfg.FHIR.Definitions = dir
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Observation?code:in=http://example.org/vs", endpoint(t, 200)), nil)
	r.do(201, "PUT", "/fhir/Subscription/s2", subscriptionTo("s2", "Patient?shoe-size=42", endpoint(t, 200)), nil)
	r.write("Observation/1", coded("1", "a"))
	r.events("s", 1)
	var before struct{ Meta struct{ VersionID string } }
	r.do(200, "GET", "/fhir/ValueSet/vs", "", &before)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, cfg)
	var after struct{ Meta struct{ VersionID string } }
	again.do(200, "GET", "/fhir/ValueSet/vs", "", &after)
	if before != after {
		t.Errorf("what has not changed was written again: version %v, then %v", before, after)
	}
	if err := again.wait(); err != nil {
		t.Fatal(err)
	}
	write("c.json", `{"resourceType":"StructureDefinition","id":"x"}`)
	if err := startError(t, cfg); err == nil || !strings.Contains(err.Error(), "c.json") {
		t.Errorf("another resource is answered with %v", err)
	}
	write("c.json", strings.Replace(shoeSize, `"shoe-size"`, `""`, 1))
	if err := startError(t, cfg); err == nil {
		t.Error("a bad definition was passed over")
	}
}
