package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

const (
	person = `{"resourceType":"Patient","id":"p1","meta":{"tag":[{"code":"own"}]},"implicitRules":"http://x.example/rules","text":{"status":"generated","div":"<div>x</div>"},"identifier":[{"system":"urn:x","value":"1"}],"active":true,"_birthDate":{"extension":[{"url":"u","valueCode":"c"}]},"birthDate":"1980-01-01","deceasedBoolean":false,"maritalStatus":{"text":"m"},"photo":[{"title":"t"}],"height":1.50}`
	vitals = `{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"c"},"subject":{"reference":"Patient/p1"},"valueQuantity":{"value":70.0},"note":[{"text":"n"}]}`
)

// membersOf lists what a resource in an answer shows.
func membersOf(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(raw)))
	var names []string
	depth, key := 0, false
	for {
		tok, err := d.Token()
		if err != nil {
			return strings.Join(names, " ")
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
			key = depth == 1
			continue
		case json.Delim('}'), json.Delim(']'):
			depth--
			key = depth == 1
			continue
		}
		if depth == 1 {
			if key {
				names = append(names, tok.(string))
			}
			key = !key
		}
	}
}

func TestSummariesAndElementsShowAPartAndSaySo(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", person)
	s.must(201, "PUT", "/fhir/Observation/o1", vitals)
	for _, c := range []struct{ query, want string }{
		// R4 search.html#summary
		{"Patient?_summary=true", "resourceType id meta implicitRules identifier active _birthDate birthDate deceasedBoolean"},
		{"Patient?_summary=text", "resourceType id meta text"},
		{"Patient?_summary=data", "resourceType id meta implicitRules identifier active _birthDate birthDate deceasedBoolean maritalStatus photo height"},
		{"Observation?_summary=true", "resourceType id meta status code subject valueQuantity"},
		{"Observation?_summary=text", "resourceType id meta status code"}, // the mandatory ones
		// R4 search.html#elements: mandatory elements and modifiers are always there
		{"Patient?_elements=maritalStatus,photo", "resourceType id meta implicitRules active deceasedBoolean maritalStatus photo"},
		{"Patient?_elements=birthDate", "resourceType id meta implicitRules active _birthDate birthDate deceasedBoolean"},
		{"Observation?_elements=value", "resourceType id meta status code valueQuantity"},
		{"Observation?_elements=Observation.note.text,Patient.photo", "resourceType id meta status code note"},
	} {
		w := s.must(200, "GET", "/fhir/"+c.query, "")
		var b struct {
			Link  []struct{ URL string }
			Entry []struct{ Resource json.RawMessage }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || len(b.Entry) != 1 {
			t.Fatal(c.query, err, w.Body)
		}
		if got := membersOf(t, b.Entry[0].Resource); got != c.want {
			t.Errorf("%s:\n     %s\nwant %s", c.query, got, c.want)
		}
		if raw := string(b.Entry[0].Resource); strings.Count(raw, `"code":"SUBSETTED"`) != 1 || strings.Contains(c.query, "Patient?") && !strings.Contains(raw, `[{"code":"own"},{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue"`) {
			t.Errorf("%s is not marked beside its own tags: %s", c.query, raw)
		}
		if name, _, _ := strings.Cut(c.query[strings.Index(c.query, "?")+1:], "="); !strings.Contains(b.Link[0].URL, name+"=") {
			t.Errorf("%s: self says %s", c.query, b.Link[0].URL)
		}
	}
	if body := s.must(200, "GET", "/fhir/Patient?_summary=data", "").Body.String(); !strings.Contains(body, "1.50") {
		t.Errorf("number text changed: %s", body)
	}
	for _, whole := range []string{"Patient", "Patient?_summary=false"} {
		if body := s.must(200, "GET", "/fhir/"+whole, "").Body.String(); strings.Contains(body, "SUBSETTED") || !strings.Contains(body, "photo") {
			t.Errorf("%s: %s", whole, body)
		}
	}
	count := readBundle(t, s.must(200, "GET", "/fhir/Patient?_summary=count", ""))
	if *count.Total != 1 || count.Entry != nil || count.Link[0].URL != "http://127.0.0.1:8080/fhir/Patient?_summary=count" {
		t.Errorf("count = %+v", count)
	}
	for query, says := range map[string]string{
		"_summary=some":                                   "_summary",
		"_summary=true&_summary=data":                     "once",
		"_summary=true&_elements=id":                      "contradict",
		"_elements=":                                      "_elements",
		"_elements=a;b":                                   "escapes",
		"_summary=text&_include=Observation:subject":      "_summary=text",
		"_summary=text&_revinclude:iterate=Observation:x": "_summary=text",
	} {
		if w := s.do("GET", "/fhir/Patient?"+query, ""); w.Code != 422 && w.Code != 400 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

// What a search answers beside its matches is marked, and its links carry what was understood.
func TestEntriesOfASearchSayWhatTheyAre(t *testing.T) {
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/p1", person)
	s.must(201, "PUT", "/fhir/Patient/p2", patientNamed("p2", "x"))
	s.fake.included = []Resource{{Key: fhir.Key{Type: "Observation", ID: "o1"}, Version: 7, Time: testTime, Body: []byte(vitals)}}
	b := readBundle(t, s.must(200, "GET", "/fhir/Patient?_count=1&colour=red&_summary=true&_elements=%3B&_format=json", "", "Prefer: return=minimal, handling=lenient"))
	var modes []string
	for _, e := range b.Entry {
		modes = append(modes, e.Search.Mode)
	}
	if fmt.Sprint(modes) != "[match include outcome]" {
		t.Errorf("modes %v", modes)
	}
	if len(b.Link) != 2 || b.Link[0].URL != "http://127.0.0.1:8080/fhir/Patient?_count=1&_summary=true" ||
		b.Link[1].URL != "http://127.0.0.1:8080/fhir/Patient?_count=1&_cursor=c&_summary=true" {
		t.Errorf("links %+v", b.Link)
	}
	var o struct {
		Issue []struct{ Severity, Diagnostics string }
	}
	if err := json.Unmarshal(b.Entry[2].Resource, &o); err != nil || len(o.Issue) != 2 || o.Issue[0].Severity != "warning" ||
		!strings.Contains(o.Issue[0].Diagnostics, "_elements") || !strings.Contains(o.Issue[1].Diagnostics, "colour") {
		t.Errorf("outcome %+v %v", o, err)
	}
	s.must(422, "GET", "/fhir/Patient?colour=red", "")
	s.must(422, "GET", "/fhir/Patient?colour=red", "", "Prefer: handling=strict")
	// The same in a batch, and for HEAD.
	batch := readBundle(t, s.must(200, "POST", "/fhir", bundleOf("batch", request("GET", "Patient?_count=1"), request("HEAD", "Patient?_id=p1"), request("GET", "Patient?colour=red"))))
	if statuses(batch) != "200 200 422" || len(batch.Entry[1].Resource) != 0 || !strings.Contains(string(batch.Entry[0].Resource), "_cursor=c") {
		t.Errorf("batch = %+v", batch)
	}
	if w := s.must(200, "HEAD", "/fhir/Patient?_id=p1", ""); w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" {
		t.Errorf("HEAD: %s %v", w.Body, w.Header())
	}
}

const mrn = `{"resourceType":"Patient","identifier":[{"system":"urn:x","value":"7"}],"name":[{"family":"%s"}]}`

func withMRN(family string) string { return fmt.Sprintf(mrn, family) }

func TestConditionalInteractionsAreOfTheOneThatMatches(t *testing.T) {
	s := open(t)
	const where = "/fhir/Patient?identifier=urn:x%7C7"
	made := s.must(201, "PUT", where, withMRN("a"))
	location := made.Header().Get("Location")
	if !strings.HasPrefix(location, "http://127.0.0.1:8080/fhir/Patient/") {
		t.Fatalf("Location = %s", location)
	}
	again := s.must(200, "PUT", where, withMRN("b"))
	if got, _, _ := strings.Cut(again.Header().Get("Location"), "/_history"); !strings.HasPrefix(location, got+"/") {
		t.Errorf("the second is of %s, the first of %s", got, location)
	}
	// Preconditions go with the condition.
	s.must(412, "PUT", where, withMRN("c"), `If-Match: W/"1"`)
	s.must(412, "PUT", where, withMRN("c"), "If-None-Match: *")
	s.must(200, "PUT", where, withMRN("c"), "If-Match: "+again.Header().Get("ETag"))
	s.must(412, "PUT", "/fhir/Patient?identifier=urn:x%7Cnone", withMRN("c"), `If-Match: W/"1"`)
	s.must(412, "DELETE", "/fhir/Patient?identifier=urn:x%7Cnone", "", `If-Match: W/"1"`)
	s.must(400, "PUT", where, withMRN("c"), "X-Carillon-Feed: true")
	s.must(400, "DELETE", where, "", "X-Carillon-Feed: true")
	s.must(400, "PUT", where, `{"resourceType":"Patient","id":"other"}`)
	s.must(422, "PUT", "/fhir/Patient?colour=red", withMRN("c"))
	s.must(405, "DELETE", "/fhir/Patient", "")
	s.must(405, "PATCH", "/fhir/Patient?_format=json", `[]`, "Content-Type: application/json-patch+json")
	s.must(404, "DELETE", "/fhir/Nothing?identifier=1", "")
	// A patch needs one to patch.
	const family = `[{"op":"replace","path":"/name/0/family","value":"d"}]`
	patch := []string{"Content-Type: application/json-patch+json"}
	if w := s.must(200, "PATCH", where, family, patch...); !strings.Contains(w.Body.String(), `"d"`) {
		t.Errorf("patched = %s", w.Body)
	}
	s.must(404, "PATCH", "/fhir/Patient?identifier=none", family, patch...)
	s.must(412, "PATCH", where, family, append(patch, `If-Match: W/"1"`)...)
	// Several are none.
	s.must(201, "POST", "/fhir/Patient", withMRN("e"))
	s.must(412, "PUT", where, withMRN("f"))
	s.must(412, "DELETE", where, "")
	s.must(412, "PATCH", where, family, patch...)
	// The same request sent again is the same resource.
	first := s.must(201, "PUT", "/fhir/Patient?identifier=urn:x%7C8", strings.ReplaceAll(withMRN("g"), `"7"`, `"8"`), "Idempotency-Key: k")
	same := s.do("PUT", "/fhir/Patient?identifier=urn:x%7C8", strings.ReplaceAll(withMRN("g"), `"7"`, `"8"`), "Idempotency-Key: k")
	if first.Header().Get("ETag") != same.Header().Get("ETag") {
		t.Errorf("sent again it made %s, was %s", same.Header().Get("ETag"), first.Header().Get("ETag"))
	}
	s.must(204, "DELETE", "/fhir/Patient?identifier=urn:x%7C8", "")
	s.must(204, "DELETE", "/fhir/Patient?identifier=urn:x%7C8", "")
}

// Between the search of a condition and its write somebody else may be at work: it is all done
// anew, on what is so then.
func TestAConditionalInteractionThatIsOvertakenIsDoneAnew(t *testing.T) {
	const where = "/fhir/Patient?identifier=urn:x%7C7"
	other := func(key fhir.Key, body string) func(*fake) {
		return func(f *fake) { f.apply(Write{Key: key, Body: []byte(body)}) }
	}
	withID := func(id, family string) string {
		return strings.Replace(withMRN(family), `"Patient",`, `"Patient","id":"`+id+`",`, 1)
	}
	key := fhir.Key{Type: "Patient", ID: "o"}
	t.Run("one was made", func(t *testing.T) {
		s := open(t)
		s.fake.afterNext = other(key, withID("o", "theirs"))
		if w := s.must(200, "PUT", where, withMRN("ours")); !strings.Contains(w.Header().Get("Location"), "/Patient/o/") {
			t.Errorf("made another: %v", w.Header())
		}
	})
	t.Run("it was changed", func(t *testing.T) {
		s := open(t)
		s.must(201, "PUT", "/fhir/Patient/o", withID("o", "old"))
		s.fake.afterNext = other(key, withID("o", "theirs"))
		s.must(200, "PUT", where, withMRN("ours"))
		if w := s.must(200, "GET", "/fhir/Patient/o/_history/2", ""); !strings.Contains(w.Body.String(), "theirs") {
			t.Errorf("theirs is lost: %s", w.Body)
		}
	})
	t.Run("it matches no more, so it is not deleted", func(t *testing.T) {
		s := open(t)
		s.must(201, "PUT", "/fhir/Patient/o", withID("o", "old"))
		s.fake.afterNext = other(key, patientNamed("o", "no identifier"))
		s.must(204, "DELETE", where, "")
		s.must(200, "GET", "/fhir/Patient/o", "")
	})
	t.Run("with a version it is refused", func(t *testing.T) {
		s := open(t)
		s.must(201, "PUT", "/fhir/Patient/o", withID("o", "old"))
		s.fake.afterNext = other(key, withID("o", "theirs"))
		s.must(412, "PUT", where, withMRN("ours"), `If-Match: W/"1"`)
	})
	t.Run("in a transaction", func(t *testing.T) {
		s := open(t)
		s.fake.afterNext = other(key, withID("o", "theirs"))
		b := readBundle(t, s.must(200, "POST", "/fhir", bundleOf("transaction", request("PUT", "Patient?identifier=urn:x%7C7", "resource="+withMRN("ours")))))
		if statuses(b) != "200" || !strings.Contains(b.Entry[0].Response.Location, "/Patient/o/") {
			t.Errorf("%+v", b.Entry[0])
		}
	})
}

func TestConditionalEntriesOfBundles(t *testing.T) {
	for _, kind := range []string{"batch", "transaction"} {
		t.Run(kind, func(t *testing.T) {
			s := open(t)
			ids := func(id string) string {
				return `{"resourceType":"Patient","id":"` + id + `","identifier":[{"value":"` + id + `"}]}`
			}
			for _, id := range []string{"a", "b", "c"} {
				s.must(201, "PUT", "/fhir/Patient/"+id, ids(id))
			}
			b := readBundle(t, s.must(200, "POST", "/fhir", bundleOf(kind,
				request("PUT", "Patient?identifier=a", `resource={"resourceType":"Patient","active":true,"identifier":[{"value":"a"}]}`),
				request("PUT", "Patient?identifier=new", `resource={"resourceType":"Patient","identifier":[{"value":"new"}]}`),
				request("DELETE", "Patient?identifier=b"),
				request("DELETE", "Patient?identifier=none"),
				request("PATCH", "Patient?identifier=c", `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"W3sib3AiOiJhZGQiLCJwYXRoIjoiL2FjdGl2ZSIsInZhbHVlIjpmYWxzZX1d"}`),
			)))
			if got := statuses(b); got != "200 201 204 204 200" {
				t.Fatalf("statuses = %s: %+v", got, b)
			}
			s.must(410, "GET", "/fhir/Patient/b", "")
			if w := s.must(200, "GET", "/fhir/Patient/c", ""); !strings.Contains(w.Body.String(), `"active":false`) {
				t.Errorf("c = %s", w.Body)
			}
			if w := s.must(200, "GET", "/fhir/Patient/a", ""); !strings.Contains(w.Body.String(), `"active":true`) {
				t.Errorf("a = %s", w.Body)
			}
		})
	}
	// All or nothing, and one resource by two names is one resource.
	s := open(t)
	s.must(201, "PUT", "/fhir/Patient/a", `{"resourceType":"Patient","id":"a","identifier":[{"value":"a"},{"value":"both"}]}`)
	s.must(201, "PUT", "/fhir/Patient/b", `{"resourceType":"Patient","id":"b","identifier":[{"value":"both"}]}`)
	good := request("POST", "Observation", `resource={"resourceType":"Observation","status":"final","code":{"text":"x"}}`)
	named := `resource={"resourceType":"Patient","id":"a","identifier":[{"value":"a"}]}`
	for _, c := range []struct {
		name    string
		entries []string
		status  int
	}{
		{"several match", []string{good, request("DELETE", "Patient?identifier=both")}, 412},
		{"nothing to patch", []string{good, request("PATCH", "Patient?identifier=none", `resource={"resourceType":"Binary","contentType":"application/json-patch+json","data":"W10="}`)}, 404},
		{"one resource by two names", []string{good, request("PUT", "Patient?identifier=a", named), request("DELETE", "Patient/a")}, 422},
		{"one resource by two conditions", []string{good, request("PUT", "Patient?identifier=a", named), request("DELETE", "Patient?_id=a")}, 422},
		{"another id than the one that matches", []string{good, request("PUT", "Patient?identifier=a", strings.ReplaceAll(named, `"id":"a"`, `"id":"z"`))}, 400},
		{"no condition", []string{good, request("DELETE", "Patient")}, 422},
	} {
		if w := s.do("POST", "/fhir", bundleOf("transaction", c.entries...)); w.Code != c.status || !strings.Contains(w.Body.String(), "Bundle.entry[") {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	if b := readBundle(t, s.must(200, "GET", "/fhir/Observation", "")); *b.Total != 0 {
		t.Errorf("%d Observations of transactions that failed", *b.Total)
	}
	// Links to a conditional entry become links to what it finds.
	w := s.must(200, "POST", "/fhir", bundleOf("transaction",
		`{"fullUrl":"urn:uuid:1","request":{"method":"PUT","url":"Patient?identifier=a"},"resource":{"resourceType":"Patient","identifier":[{"value":"a"}]}}`,
		`{"request":{"method":"PUT","url":"Observation/o"},"resource":{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"subject":{"reference":"urn:uuid:1"}}}`))
	if o := s.must(200, "GET", "/fhir/Observation/o", ""); !strings.Contains(o.Body.String(), `"Patient/a"`) {
		t.Errorf("%s\n%s", o.Body, w.Body)
	}
}

// Search parameters come from the backend at the time of the question.
func TestMetadataListsSearchParametersAndIncludes(t *testing.T) {
	s := open(t)
	var st struct {
		Rest []struct {
			Resource []struct {
				Type                            string
				SearchParam                     []struct{ Name, Type string }
				SearchInclude, SearchRevInclude []string
			}
		}
	}
	if err := json.Unmarshal(s.must(http.StatusOK, "GET", "/fhir/metadata", "").Body.Bytes(), &st); err != nil {
		t.Fatal(err)
	}
	for _, r := range st.Rest[0].Resource {
		got := fmt.Sprint(r.SearchParam, r.SearchInclude, r.SearchRevInclude)
		want := "[{_id token} {identifier token}] [] [Binary:about]"
		switch r.Type {
		case "Observation":
			want = "[{_id token} {patient reference}] [* Observation:patient] [Binary:about]"
		case "Binary":
			want = "[{about reference}] [* Binary:about] [Binary:about]"
		case "Patient":
			want = "[{_id token} {identifier token}] [] [Binary:about Observation:patient]"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", r.Type, got, want)
		}
	}
}
