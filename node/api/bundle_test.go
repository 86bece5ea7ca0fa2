package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// request is an entry of a Bundle.
func request(method, url string, more ...string) string {
	out := fmt.Sprintf(`{"request":{"method":%q,"url":%q`, method, url)
	var outer string
	for _, m := range more {
		name, value, _ := strings.Cut(m, "=")
		switch name {
		case "resource":
			outer += `,"resource":` + value
		case "fullUrl":
			outer += fmt.Sprintf(`,"fullUrl":%q`, value)
		default:
			out += fmt.Sprintf(`,%q:%q`, name, value)
		}
	}
	return out + "}" + outer + "}"
}

func bundleOf(typ string, entries ...string) string {
	return fmt.Sprintf(`{"resourceType":"Bundle","type":%q,"entry":[%s]}`, typ, strings.Join(entries, ","))
}

func statuses(b jsonBundle) string {
	var out []string
	for _, e := range b.Entry {
		out = append(out, e.Response.Status[:3])
	}
	return strings.Join(out, " ")
}

func TestBatchEntriesFailOneByOne(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/old", patientNamed("old", "x"))
	w := s.must(200, "POST", "/fhir", bundleOf("batch",
		request("PUT", "Patient/p1", "resource="+patient),
		request("PUT", "Patient/p1", "resource="+patientNamed("p2", "x")),
		request("POST", "Patient", "resource="+`{"resourceType":"Patient","x":1.0}`),
		request("GET", "Patient/old"),
		request("GET", "Patient/old", `ifNoneMatch=W/"1"`),
		request("GET", "Patient/none"),
		request("GET", "Patient?_id=old"),
		request("GET", "Patient/old/_history"),
		request("GET", "Patient/old/_history/1"),
		request("HEAD", "Patient/old"),
		request("DELETE", "Patient/none"),
		request("PUT", "Patient/old", `ifMatch=W/"99"`, "resource="+patientNamed("old", "y")),
		request("FROB", "Patient/old"),
		request("PUT", "Patient?name=x", "resource="+patient),
		request("POST", "Subscription/$validate", "resource="+patient),
		request("PUT", "Patient/p9"),
		`{"resource":{}}`,
		`7`,
		request("GET", "http://127.0.0.1:8080/fhir/Patient/old"),
		request("PUT", "Nothing/p9", "resource="+patient),
	))
	b := readBundle(t, w)
	want := "201 400 201 200 304 404 200 200 200 200 204 412 422 422 422 422 422 422 200 404"
	if b.Type != "batch-response" || statuses(b) != want {
		t.Fatalf("statuses = %s\n   want    %s\n%s", statuses(b), want, w.Body)
	}
	if e := b.Entry[0]; e.Response.Location != "http://127.0.0.1:8080/fhir/Patient/p1/_history/2" && e.Response.Location != "http://127.0.0.1:8080/fhir/Patient/p1/_history/3" ||
		e.Response.ETag == "" || e.Response.LastModified != "2026-01-31T08:00:00.250Z" || e.Resource != nil {
		t.Errorf("entry 0 = %+v", e.Response)
	}
	if o := b.Entry[1].Response.Outcome; o == nil || o.Issue[0].Expression[0] != "Bundle.entry[1]" {
		t.Errorf("entry 1 = %+v", o)
	}
	if b.Entry[3].Resource == nil || b.Entry[9].Resource != nil || b.Entry[6].Resource == nil {
		t.Error("GET gives a resource, HEAD none")
	}
}

func TestBatchKeepsTheOrderOfOneResource(t *testing.T) {
	s := open(t)
	var entries []string
	for i := range 200 {
		entries = append(entries, request("PUT", "Patient/p", "resource="+patientNamed("p", fmt.Sprint(i))))
	}
	s.must(200, "POST", "/fhir", bundleOf("batch", entries...))
	for i, w := range s.fake.asked {
		if want := patientNamed("p", fmt.Sprint(i)); string(w.Body) != want {
			t.Fatalf("write %d is %s", i, w.Body)
		}
	}
}

func TestBatchSurvivesAPanic(t *testing.T) {
	s := open(t)
	s.fake.fail = func(w Write) error {
		if w.Key.ID == "bad" {
			panic("in the backend")
		}
		return nil
	}
	b := readBundle(t, s.must(200, "POST", "/fhir", bundleOf("batch",
		request("PUT", "Patient/bad", "resource="+patientNamed("bad", "x")),
		request("PUT", "Patient/p1", "resource="+patient))))
	if statuses(b) != "500 201" {
		t.Errorf("statuses = %s", statuses(b))
	}
}

func TestTransactionRunsInFHIRsOrderAndAnswersInItsOwn(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/old", patientNamed("old", "x"))
	s.must(201, "PUT", "/fhir/Patient/patched", patientNamed("patched", "x"))
	s.fake.asked = nil
	patch := base64.StdEncoding.EncodeToString([]byte(`[{"op":"add","path":"/active","value":true}]`))
	w := s.must(200, "POST", "/fhir", bundleOf("transaction",
		request("GET", "Patient/p1"),
		request("PUT", "Patient/p1", "resource="+patient),
		request("PATCH", "Patient/patched", `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"`+patch+`"}`),
		request("POST", "Patient", "resource="+`{"resourceType":"Patient"}`),
		request("DELETE", "Patient/old"),
		request("GET", "Patient/none"),
	))
	b := readBundle(t, w)
	if got := statuses(b); got != "200 201 200 201 204 404" || b.Type != "transaction-response" {
		t.Errorf("statuses = %s: %s", got, w.Body)
	}
	var order []string
	for _, a := range s.fake.asked {
		order = append(order, string(a.Interaction)+" "+a.Key.Type)
	}
	if got := fmt.Sprint(order); got != "[delete Patient create Patient  Patient update Patient]" {
		t.Errorf("order = %s", got)
	}
}

func TestTransactionIsAllOrNothing(t *testing.T) {
	good := request("PUT", "Patient/p1", "resource="+patient)
	for _, c := range []struct {
		name    string
		entries []string
		status  int
		at      string
	}{
		{"bad resource", []string{good, request("PUT", "Patient/p2", "resource="+patient)}, 400, "Bundle.entry[1]"},
		{"bad element", []string{good, request("PUT", "Patient/p2", `resource={"resourceType":"Patient","id":"p2","meta":7}`)}, 422, "Bundle.entry[1].resource.meta"},
		{"no request", []string{good, `{"resource":{}}`}, 422, "Bundle.entry[1].request"},
		{"bad method", []string{request("FROB", "Patient/x"), good}, 422, "Bundle.entry[0].request.method"},
		{"stale version", []string{good, request("DELETE", "Patient/p2", `ifMatch=W/"5"`)}, 412, "Bundle.entry[1]"},
		{"same resource twice", []string{good, request("DELETE", "Patient/p1")}, 422, "Bundle.entry[1]"},
		{"same fullUrl twice", []string{
			request("POST", "Patient", "fullUrl=urn:uuid:1", `resource={"resourceType":"Patient"}`),
			request("POST", "Patient", "fullUrl=urn:uuid:1", `resource={"resourceType":"Patient"}`)}, 422, "Bundle.entry[1]"},
		{"same condition twice", []string{
			request("POST", "Patient", "ifNoneExist=identifier=1", `resource={"resourceType":"Patient"}`),
			request("POST", "Patient", "ifNoneExist=identifier=1", `resource={"resourceType":"Patient"}`)}, 422, "Bundle.entry[1]"},
		{"patch of nothing", []string{good, request("PATCH", "Patient/p2", `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"W10="}`)}, 404, "Bundle.entry[1]"},
		{"patch without Binary", []string{good, request("PATCH", "Patient/p2", "resource=[]")}, 422, "Bundle.entry[1].resource"},
		{"patch that is no base64", []string{good, request("PATCH", "Patient/p2", `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"!"}`)}, 422, "Bundle.entry[1].resource.data"},
		{"conditional reference to nothing", []string{good, request("PUT", "Observation/o", `resource={"resourceType":"Observation","id":"o","subject":{"reference":"Patient?identifier=none"}}`)}, 422, "Bundle.entry[1].resource"},
		{"conditional reference that search cannot answer", []string{good, request("PUT", "Observation/o", `resource={"resourceType":"Observation","id":"o","subject":{"reference":"Patient?name=x"}}`)}, 422, "Bundle.entry[1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			w := s.must(c.status, "POST", "/fhir", bundleOf("transaction", c.entries...))
			if is := issue(t, w); len(is.Expression) != 1 || is.Expression[0] != c.at {
				t.Errorf("issue = %+v, want it at %s", is, c.at)
			}
			if len(s.fake.asked) != 0 {
				t.Errorf("something was written: %+v", s.fake.asked)
			}
		})
	}
}

func TestTransactionNamesAllThatIsWrong(t *testing.T) {
	w := open(t).must(422, "POST", "/fhir", bundleOf("transaction", request("FROB", "Patient/x"), request("PUT", "Patient/p2"), request("PUT", "Patient/p2", "resource="+patient)))
	if o := outcomeIn(t, w.Body.Bytes()); len(o.Issue) != 3 {
		t.Errorf("issues = %+v", o.Issue)
	}
}

func TestBundleBounds(t *testing.T) {
	s := open(t, func(c *Config) { c.Limits = Limits{BundleEntries: 2, Resource: 200, Bundle: 2000} })
	e := func(i int) string {
		return request("PUT", fmt.Sprintf("Patient/p%d", i), "resource="+patientNamed(fmt.Sprintf("p%d", i), "x"))
	}
	s.must(200, "POST", "/fhir", bundleOf("transaction", e(1), e(2)))
	s.must(413, "POST", "/fhir", bundleOf("transaction", e(1), e(2), e(3)))
	s.must(200, "POST", "/fhir", bundleOf("batch", e(1), e(2), e(3)))
	b := readBundle(t, s.must(200, "POST", "/fhir", bundleOf("batch", e(4), request("PUT", "Patient/big", "resource="+patientNamed("big", strings.Repeat("x", 200))))))
	if statuses(b) != "201 413" {
		t.Errorf("statuses = %s", statuses(b))
	}
	s.must(413, "POST", "/fhir", bundleOf("batch", request("PUT", "Patient/big", "resource="+patientNamed("big", strings.Repeat("x", 2000)))))
	s.must(422, "POST", "/fhir", bundleOf("history"))
	s.must(422, "POST", "/fhir", `{"resourceType":"Bundle","type":"batch","entry":{}}`)
	s.must(400, "POST", "/fhir", `{"resourceType":"Bundle"`)
	s.must(400, "POST", "/fhir", "")
	for _, typ := range []string{"batch", "transaction"} {
		if b := readBundle(t, s.must(200, "POST", "/fhir", `{"resourceType":"Bundle","type":"`+typ+`"}`)); b.Type != typ+"-response" || b.Entry != nil {
			t.Errorf("empty %s = %+v", typ, b)
		}
	}
}

func TestBundlePrefersAreHonoured(t *testing.T) {
	s := open(t)
	body := bundleOf("transaction", request("PUT", "Patient/p1", "resource="+patient))
	if b := readBundle(t, s.must(200, "POST", "/fhir", body, "Prefer: return=representation")); b.Entry[0].Resource == nil || b.Entry[0].FullURL != "http://127.0.0.1:8080/fhir/Patient/p1" {
		t.Errorf("representation = %+v", b.Entry[0])
	}
	if b := readBundle(t, s.must(200, "POST", "/fhir", body, "Prefer: return=OperationOutcome")); b.Entry[0].Response.Outcome == nil {
		t.Errorf("outcome = %+v", b.Entry[0])
	}
}

func TestTransactionResolvesItsLinks(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/known", `{"resourceType":"Patient","id":"known","identifier":[{"system":"urn:x","value":"k"}]}`)
	s.fake.asked = nil
	doc := `{"resourceType":"DocumentReference",` +
		`"text":{"div":"<div><a href=\"urn:uuid:11\">urn:uuid:11</a><img src='urn:uuid:11'/></div>"},` +
		`"identifier":[{"system":"urn:ietf:rfc:3986","value":"urn:uuid:11"}],` +
		`"instantiatesCanonical":["urn:uuid:11"],` +
		`"subject" : { "reference" : "urn:uuid:11", "display":"urn:uuid:11" },` +
		`"author":[{"reference":"Patient?identifier=urn:x|k"},{"reference":"Patient/known"},{"reference":"Patient/7"},{"reference":"#c"},{"reference":"urn:oid:1.2.3"}],` +
		`"size":1.500,"content":[{"attachment":{"url":"urn:uuid:11"}}],` +
		`"extension":[{"url":"u","valueUri":"urn:uuid:11"},{"url":"v","valueString":"urn:uuid:11"},{"url":"w","valueUri":"http://source/fhir/Patient/7"}]}`
	w := s.must(200, "POST", "/fhir", bundleOf("transaction",
		request("POST", "DocumentReference", "fullUrl=http://source/fhir/DocumentReference/1", "resource="+doc),
		request("POST", "Patient", "fullUrl=urn:uuid:11", `resource={"resourceType":"Patient","id":"ignored"}`),
		request("POST", "Patient", "fullUrl=http://source/fhir/Patient/7", `resource={"resourceType":"Patient"}`),
		request("PUT", "Observation/o", "fullUrl=urn:uuid:22", `resource={"resourceType":"Observation","id":"o","subject":{"reference":"urn:uuid:11"},"derivedFrom":[{"reference":"urn:uuid:22"}]}`),
	))
	b := readBundle(t, w)
	if statuses(b) != "201 201 201 201" {
		t.Fatalf("statuses = %s", w.Body)
	}
	p11, p7 := s.fake.asked[1].Key.String(), s.fake.asked[2].Key.String()
	if !strings.Contains(b.Entry[1].Response.Location, p11) {
		t.Fatalf("entry 1 is at %s, not %s", b.Entry[1].Response.Location, p11)
	}
	id := string(s.fake.asked[0].Key.ID)
	want := strings.Replace(doc, `{"resourceType":"DocumentReference",`, `{"resourceType":"DocumentReference","id":"`+id+`",`, 1)
	for _, r := range [][2]string{
		{`href=\"urn:uuid:11\"`, `href=\"` + p11 + `\"`},
		{`src='urn:uuid:11'`, `src='` + p11 + `'`},
		{`"reference" : "urn:uuid:11"`, `"reference" : "` + p11 + `"`},
		{`"Patient?identifier=urn:x|k"`, `"Patient/known"`},
		{`"reference":"Patient/7"`, `"reference":"` + p7 + `"`},
		{`"attachment":{"url":"urn:uuid:11"}`, `"attachment":{"url":"` + p11 + `"}`},
		{`"valueUri":"urn:uuid:11"`, `"valueUri":"` + p11 + `"`},
	} {
		if !strings.Contains(want, r[0]) {
			t.Fatalf("the test's document lacks %s", r[0])
		}
		want = strings.ReplaceAll(want, r[0], r[1])
	}
	if got := string(s.fake.asked[0].Body); got != want {
		t.Errorf("body = %s\nwant   %s", got, want)
	}
	if got := string(s.fake.asked[3].Body); !strings.Contains(got, `"subject":{"reference":"`+p11+`"}`) || !strings.Contains(got, `[{"reference":"Observation/o"}]`) {
		t.Errorf("observation = %s", got)
	}
}

func TestTransactionConditionalCreate(t *testing.T) {
	s := open(t)
	tx := bundleOf("transaction",
		request("POST", "Patient", "fullUrl=urn:uuid:1", "ifNoneExist=identifier=urn:x|1", `resource={"resourceType":"Patient","identifier":[{"system":"urn:x","value":"1"}]}`),
		request("PUT", "Observation/o", `resource={"resourceType":"Observation","id":"o","subject":{"reference":"urn:uuid:1"}}`))
	first := readBundle(t, s.must(200, "POST", "/fhir", tx))
	again := readBundle(t, s.must(200, "POST", "/fhir", tx))
	if statuses(first) != "201 201" || statuses(again) != "200 200" || first.Entry[0].Response.Location != again.Entry[0].Response.Location {
		t.Errorf("first %s %s, again %s %s", statuses(first), first.Entry[0].Response.Location, statuses(again), again.Entry[0].Response.Location)
	}
	s.must(201, "POST", "/fhir/Patient", `{"resourceType":"Patient","identifier":[{"system":"urn:x","value":"1"}]}`)
	s.must(412, "POST", "/fhir", tx)
}

func TestTransactionIsPreparedAgainWhenItsGroundMoved(t *testing.T) {
	s := open(t)
	tx := bundleOf("transaction",
		request("POST", "Patient", "fullUrl=urn:uuid:1", "ifNoneExist=identifier=urn:x|1", `resource={"resourceType":"Patient","identifier":[{"system":"urn:x","value":"1"}]}`),
		request("PUT", "Observation/o", `resource={"resourceType":"Observation","id":"o","subject":{"reference":"urn:uuid:1"}}`))
	s.fake.beforeNext = func(f *fake) {
		f.apply(Write{Key: fhir.Key{Type: "Patient", ID: "rival"}, Body: []byte(`{"resourceType":"Patient","id":"rival","identifier":[{"system":"urn:x","value":"1"}]}`)})
	}
	b := readBundle(t, s.must(200, "POST", "/fhir", tx))
	if statuses(b) != "200 201" || !strings.Contains(b.Entry[0].Response.Location, "Patient/rival/") {
		t.Errorf("answer = %+v", b.Entry[0].Response)
	}
	if got := string(s.fake.asked[len(s.fake.asked)-1].Body); !strings.Contains(got, `"Patient/rival"`) {
		t.Errorf("the link does not name the rival: %s", got)
	}
}

// Fifty clients that update one resource by its identifier all get it done: of those that are ready
// at a time each waits for all others.
func TestATransactionIsPreparedAgainAsOftenAsOthersAreFaster(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	update := func(more ...string) string {
		return bundleOf("transaction", request("PUT", "Patient?identifier=urn:x|1", append(more,
			`resource={"resourceType":"Patient","identifier":[{"system":"urn:x","value":"1"}],"active":true}`)...))
	}
	tries := 0
	var rival func(*fake)
	rival = func(f *fake) {
		if tries++; tries <= 50 {
			f.apply(Write{Key: fhir.Key{Type: "Patient", ID: "p1"}, Body: fmt.Appendf(nil, `{"resourceType":"Patient","id":"p1","identifier":[{"system":"urn:x","value":"1"}],"multipleBirthInteger":%d}`, tries)})
			f.beforeNext = rival
		}
	}
	s.fake.beforeNext = rival
	s.must(200, "POST", "/fhir", update())
	if tries != 51 {
		t.Errorf("done after %d tries", tries)
	}
	// What the client demands itself does not come true by trying.
	tries, s.fake.beforeNext = 0, nil
	s.must(412, "POST", "/fhir", update(`ifMatch=W/"1"`))
}

func TestFeedInABundleKeepsItsVersions(t *testing.T) {
	s := open(t)
	s.must(200, "POST", "/fhir", bundleOf("transaction", request("PUT", "Patient/p1", `ifMatch=W/"7"`, "resource="+patient)), "X-Carillon-Feed: true")
	if w := s.fake.asked[0]; !w.Feed || w.IfMatch != nil {
		t.Errorf("write = %+v", w)
	}
}

func TestPatchOfAStaleVersionInABundle(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", patient)
	e := request("PATCH", "Patient/p1", `ifMatch=W/"9"`, `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"W10="}`)
	s.must(412, "POST", "/fhir", bundleOf("transaction", e))
	if b := readBundle(t, s.must(200, "POST", "/fhir", bundleOf("batch", e))); statuses(b) != "412" {
		t.Errorf("batch = %s", statuses(b))
	}
}

// FuzzRewrite holds the rewriting of links against an independent one on decoded values: same
// values, valid JSON, and nothing touched where there is no link.
func FuzzRewrite(f *testing.F) {
	f.Add(`{"subject":{"reference":"urn:uuid:1"},"x":1.50}`)
	f.Add(`{"url":"urn:uuid:1","a":[{"reference":"http://x/P/1"},"urn:uuid:1"]}`)
	f.Add(`{"r\u0065ference":"\u0075rn:uuid:1","text":{"div":"<a href=\"urn:uuid:1\" src='urn:uuid:1'> href=\"urn:"}}`)
	f.Add(`[{"div":"href=\"urn:uuid:1\"src=\"href='urn:uuid:1'"}]`)
	targets := map[string]string{"urn:uuid:1": `Patient/"1"`, "http://x/P/1": "Patient/2"}
	l := linker{
		reference: func(v string) (string, bool, error) { target, ok := targets[v]; return target, ok, nil },
		link: func(v string) (string, bool) {
			target, ok := targets[v]
			return target, ok && strings.HasPrefix(v, "urn:")
		},
	}
	f.Fuzz(func(t *testing.T, doc string) {
		tree, err := fhirjson.Parse([]byte(doc), fhirjson.Limits{})
		if err != nil {
			return
		}
		out, err := l.rewrite(tree)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fhirjson.Parse(out, fhirjson.Limits{Bytes: len(out) + 1}); err != nil {
			t.Fatalf("%s became %s: %v", doc, out, err)
		}
		var before, after any
		if json.Unmarshal([]byte(doc), &before) != nil {
			return
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatal(err)
		}
		if want := naiveRewrite(before, "", targets); !reflect.DeepEqual(maskDiv(after), maskDiv(want)) {
			t.Fatalf("%s became %s, want %v", doc, out, want)
		}
		if !bytes.Contains([]byte(doc), []byte("urn")) && !bytes.Contains([]byte(doc), []byte("http")) && !strings.Contains(doc, `\u`) && !strings.Contains(doc, `\/`) && doc != string(out) {
			t.Fatalf("%s became %s", doc, out)
		}
	})
}

func naiveRewrite(v any, key string, targets map[string]string) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, m := range v {
			out[k] = naiveRewrite(m, k, targets)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, m := range v {
			out[i] = naiveRewrite(m, key, targets)
		}
		return out
	case string:
		target, ok := targets[v]
		if ok && (key == "reference" || linkKeys[key] && strings.HasPrefix(v, "urn:")) {
			return target
		}
	}
	return v
}

// maskDiv leaves narratives out of a comparison.
func maskDiv(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, m := range v {
			if _, text := m.(string); text && k == "div" {
				m = ""
			}
			v[k] = maskDiv(m)
		}
	case []any:
		for i, m := range v {
			v[i] = maskDiv(m)
		}
	}
	return v
}

func TestLinksOfALargeNarrativeAreFoundInOnePass(t *testing.T) {
	var b strings.Builder
	for range 100_000 {
		b.WriteString(`<a href=\"urn:uuid:1\">x</a>`)
	}
	tree, err := fhirjson.Parse([]byte(`{"text":{"div":"`+b.String()+`"}}`), fhirjson.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	l := linker{link: func(string) (string, bool) { return "Patient/1", true }}
	out, err := l.rewrite(tree)
	if err != nil || bytes.Contains(out, []byte("urn:")) || bytes.Count(out, []byte("Patient/1")) != 100_000 {
		t.Errorf("links left: %v", err)
	}
}
