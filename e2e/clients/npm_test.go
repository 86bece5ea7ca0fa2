package clients

import (
	"encoding/json"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// counted is the address of a node by way of a proxy that notes requests.
type counted struct {
	URL string
	mu  sync.Mutex
	all []string // method and path
}

func newCounted(t *testing.T, n *harness.Node) *counted {
	to, err := url.Parse(n.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, r.In.Method+" "+r.In.URL.Path)
	}}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	c.URL = s.URL
	return c
}

// since takes what was asked since the last time.
func (c *counted) since() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

// An app of @bonfhir/subscriptions registers its webhooks at each start. It writes once, also over
// restarts of the server and where a login masks secrets of others, and goes on hearing.
func TestBonfhirRegistersItsWebhooksOnce(t *testing.T) {
	installed(t, packagesDir)
	for _, login := range []bool{false, true} {
		t.Run(map[bool]string{false: "open", true: "with a token"}[login], func(t *testing.T) {
			n := harness.NewNode(t, "--config", config(t, "fhir:\n  version: R4B\ndelivery:\n  rest_hook:\n    style: webhook\n")).Start()
			e, c := harness.NewEndpoint(t), newCounted(t, n)
			env := []string{"BASE=" + c.URL + "/fhir", "APP=" + e.URL}
			var bearer []string
			if login {
				var token struct{ Secret string }
				if err := json.Unmarshal(n.MustDo(201, "POST", "/admin/api/v1/tokens", `{"name":"app","roles":["admin"]}`, "Content-Type", "application/json").Body, &token); err != nil {
					t.Fatal(err)
				}
				bearer = []string{"Authorization", "Bearer " + token.Secret}
				env = append(env, "AUTHORIZATION="+bearer[1])
			}
			register := func(want ...string) {
				t.Helper()
				npm(t, nil, "bonfhir.mjs", env...)
				if got := slices.DeleteFunc(c.since(), func(s string) bool { return strings.HasPrefix(s, "GET ") }); !slices.Equal(got, want) {
					t.Errorf("wrote %v, want %v", got, want)
				}
			}
			register("POST /fhir/Subscription", "POST /fhir/Subscription")
			register()
			n.MustDo(201, "PUT", "/fhir/Patient/a", `{"resourceType":"Patient","id":"a","active":true}`, bearer...)
			e.AwaitCount(t, 10*time.Second, 1)
			register()
			n.Kill()
			n.Start()
			register()
			n.MustDo(200, "PUT", "/fhir/Patient/a", `{"resourceType":"Patient","id":"a","active":false}`, bearer...)
			for i, a := range e.AwaitCount(t, 20*time.Second, 2) {
				var body struct{ ResourceType, ID string }
				if err := json.Unmarshal(a.Body, &body); err != nil || body.ResourceType != "Patient" || body.ID != "a" {
					t.Errorf("the body is %s", a.Body)
				}
				if a.Method != "POST" || a.Path != "/patients" || a.Header.Get("X-Subscription-Auth") != "shared" || a.Number != uint64(i+1) {
					t.Errorf("arrived: %s %s, number %d, %v", a.Method, a.Path, a.Number, a.Header)
				}
			}
		})
	}
}

// fhir-kit-client does what a program does with a FHIR server, by each address that the base has.
func TestFHIRKitClientWorksAsItIs(t *testing.T) {
	installed(t, packagesDir)
	for _, version := range []string{"R4", "R4B"} {
		t.Run(version, func(t *testing.T) {
			n := harness.NewNode(t, "--config", config(t, "fhir:\n  version: "+version+"\n")).Start()
			e, c := harness.NewEndpoint(t), newCounted(t, n)
			for _, base := range []string{"/fhir", "/fhir/" + version} {
				npm(t, nil, "kit.mjs", "BASE="+c.URL+base, "ENDPOINT="+e.URL, "FHIR_VERSION="+map[string]string{"R4": "4.0.1", "R4B": "4.3.0"}[version])
				if asked := c.since(); !slices.Contains(asked, "POST "+base+"/") {
					t.Errorf("no transaction at %s/: %v", base, asked)
				}
			}
			e.AwaitCount(t, 10*time.Second, 2)
		})
	}
}

// The SMART client, which browsers' apps use, brings 700 packages, so it is not asked every time.
func TestSMARTFHIRClientWorksAsItIs(t *testing.T) {
	if os.Getenv("E2E_FHIRCLIENT") == "" {
		t.Skip("skipped: fhirclient brings 700 packages; E2E_FHIRCLIENT=1 runs it")
	}
	dir := filepath.Join("testdata", "fhirclient")
	installed(t, dir)
	n := harness.NewNode(t).Start()
	script(t, nil, []string{"BASE=" + n.URL + "/fhir"}, "node", filepath.Join(dir, "smart.mjs"))
}

// The reference library of Standard Webhooks accepts each notification, with either kind of secret
// and with two of them, and none that was changed.
func TestStandardWebhooksVerifiesOurNotifications(t *testing.T) {
	installed(t, packagesDir)
	const encoded, text, older = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "a secret in words", "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk"
	n := harness.NewNode(t).Start()
	for _, c := range []struct {
		name, use, format string
		secrets           []string
	}{
		{"encoded", encoded, "", []string{ownSecret, encoded}},
		{"words", text, "raw", []string{ownSecret, text}},
		{"medplum", text, "raw", []string{medplumSecret, text}},
		{"new-of-two", encoded, "", []string{ownSecret, encoded, ownSecret, older}},
		{"old-of-two", older, "", []string{ownSecret, encoded, ownSecret, older}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := harness.NewEndpoint(t)
			n.MustDo(201, "PUT", "/fhir/Subscription/"+c.name, subscription(c.name, "Patient?identifier="+c.name, e.URL, c.secrets...))
			n.MustDo(201, "PUT", "/fhir/Patient/"+c.name, `{"resourceType":"Patient","id":"`+c.name+`","identifier":[{"value":"`+c.name+`"}],"name":[{"family":"Größe \u2028"}]}`)
			npm(t, receivedOf(e.AwaitCount(t, 10*time.Second, 1)[0]), "standardwebhooks.mjs", "SECRET="+c.use, "FORMAT="+c.format)
		})
	}
}

// $resend as Medplum's documentation calls it: by their client, with its own paths.
func TestMedplumsClientResends(t *testing.T) {
	installed(t, packagesDir)
	n := harness.NewNode(t).Start()
	e, other := harness.NewEndpoint(t), harness.NewEndpoint(t)
	token := func(role, by string) string {
		t.Helper()
		header := []string{"Content-Type", "application/json"}
		if by != "" { // the first of all is made by nobody
			header = append(header, "Authorization", "Bearer "+by)
		}
		var made struct{ Secret string }
		if err := json.Unmarshal(n.MustDo(201, "POST", "/admin/api/v1/tokens", `{"name":"`+role+`","roles":["`+role+`"]}`, header...).Body, &made); err != nil {
			t.Fatal(err)
		}
		return made.Secret
	}
	n.MustDo(201, "PUT", "/fhir/Subscription/123", subscription("123", "Patient?", e.URL, "https://medplum.com/fhir/StructureDefinition/subscription-max-attempts", "3"))
	n.MustDo(201, "PUT", "/fhir/Subscription/other", subscription("other", "Patient?", other.URL))
	n.MustDo(201, "PUT", "/fhir/Patient/a", `{"resourceType":"Patient","id":"a","active":true}`)
	e.AwaitCount(t, 10*time.Second, 1)
	other.AwaitCount(t, 10*time.Second, 1)
	admin := token("admin", "")
	reader := token("reader", admin)
	npm(t, nil, "medplum.mjs", "BASE="+n.URL+"/", "ADMIN="+admin, "READER="+reader)
	all := e.AwaitCount(t, 10*time.Second, 3)
	if got := all[1].Header.Get("X-Medplum-Interaction"); got != "update" || string(all[1].Body) != string(all[0].Body) {
		t.Errorf("resent as %q: %s", got, all[1].Body)
	}
	if len(all) != 3 || len(other.AwaitCount(t, 10*time.Second, 2)) != 2 {
		t.Errorf("%d and %d arrived, want 3 and 2: the first resend names one Subscription, the second none", len(all), len(other.Arrivals()))
	}
}

// Both recipes of Medplum's page for X-Signature. The one for JavaScript signs what JSON.stringify
// makes of the parsed body, which is the body only where it has no 1.0, escapes and spaces.
func TestMedplumsRecipesVerifyOurSignature(t *testing.T) {
	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/s", subscription("s", "DiagnosticReport?status=completed", e.URL, medplumSecret, "abc"))
	n.MustDo(201, "PUT", "/fhir/DiagnosticReport/d", `{"resourceType":"DiagnosticReport","id":"d","status":"completed","code":{"text":"bloodcount"}}`)
	n.MustDo(201, "PUT", "/fhir/DiagnosticReport/e", `{"resourceType":"DiagnosticReport","id":"e","status":"completed","code":{"text":"Blut\u0062ild, 1.0"},"presentedForm":[{"size":1.0}]}`)
	all := e.AwaitCount(t, 10*time.Second, 2)
	slices.SortFunc(all, func(a, b harness.Arrival) int { return int(a.Number) - int(b.Number) })
	for _, program := range [][]string{{"node", "recipe.mjs"}, {"python3", "recipe.py"}} {
		t.Run(program[0], func(t *testing.T) {
			run := func(a harness.Arrival) string {
				return script(t, receivedOf(a), []string{"SECRET=abc"}, program[0], filepath.Join("testdata", program[1]))
			}
			if got := run(all[0]); got != "verified\n" {
				t.Errorf("a plain body: %s", got)
			}
			forged := all[0]
			forged.Body = []byte(strings.Replace(string(forged.Body), "bloodcount", "bloodCount", 1))
			if got := run(forged); got != "refused\n" {
				t.Errorf("a changed body: %s", got)
			}
			want := map[string]string{"node": "refused\n", "python3": "verified\n"}[program[0]]
			if got := run(all[1]); got != want {
				t.Errorf("a body that a parser does not keep: %s, want %s", got, want)
			}
		})
	}
}
