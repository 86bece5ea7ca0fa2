package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// ward are resources that refer to one another, in the order in which they are written:
//
//	Organization/hospital ← Organization/ward (partOf) ← Practitioner-less Patients p1, p2 (managingOrganization)
//	Encounter/e1 of p1; Observations o1 (p1, e1), o2 (p1), o3 (p2), o4 (a Group), o5 (p1 on another server)
var ward = []string{
	`{"resourceType":"Organization","id":"hospital","name":"General Hospital"}`,
	`{"resourceType":"Organization","id":"ward","name":"Ward 7","partOf":{"reference":"Organization/hospital"}}`,
	`{"resourceType":"Patient","id":"p2","identifier":[{"system":"urn:mrn","value":"Two"}],"gender":"female","birthDate":"1970-02-03","name":[{"family":"Björk"}],"managingOrganization":{"reference":"Organization/ward"}}`,
	`{"resourceType":"Patient","id":"p1","identifier":[{"system":"urn:mrn","value":"One"}],"gender":"male","birthDate":"1980-05-01","name":[{"family":"Adams"}],"managingOrganization":{"reference":"Organization/ward"}}`,
	`{"resourceType":"Encounter","id":"e1","status":"finished","class":{"code":"AMB"},"subject":{"reference":"Patient/p1"}}`,
	`{"resourceType":"Observation","id":"o3","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p2"},"valueQuantity":{"value":90}}`,
	`{"resourceType":"Observation","id":"o1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"},"encounter":{"reference":"Encounter/e1"},"valueQuantity":{"value":60}}`,
	`{"resourceType":"Observation","id":"o2","status":"amended","code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"subject":{"reference":"Patient/p1"},"hasMember":[{"reference":"Observation/o1"}]}`,
	`{"resourceType":"Observation","id":"o4","status":"final","code":{"text":"x"},"subject":{"reference":"Group/g"}}`,
	`{"resourceType":"Observation","id":"o5","status":"final","code":{"text":"x"},"subject":{"reference":"https://other.example/fhir/Patient/p1"}}`,
}

func runWard(t *testing.T) *running {
	t.Helper()
	r := runNode(t, testConfig(t.TempDir()))
	for _, body := range ward {
		r.put(201, body)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return r
}

// put writes a resource under its own id.
func (r *running) put(status int, body string) {
	r.t.Helper()
	var res struct{ ResourceType, ID string }
	if err := json.Unmarshal([]byte(body), &res); err != nil {
		r.t.Fatal(err)
	}
	r.do(status, "PUT", "/fhir/"+res.ResourceType+"/"+res.ID, body, nil)
}

// searchset is a searchset as its client sees it.
type searchset struct {
	Total *int
	Link  []struct{ Relation, URL string }
	Entry []struct {
		FullURL  string
		Search   struct{ Mode string }
		Resource struct {
			ResourceType, ID string
			Meta             struct{ VersionID string }
			Issue            []struct{ Severity, Code, Diagnostics string }
		}
	}
}

// names lists the entries: matches as Type/id, included ones with + before them.
func (p *searchset) names() string {
	var out []string
	for _, e := range p.Entry {
		name := e.Resource.ResourceType + "/" + e.Resource.ID
		switch e.Search.Mode {
		case "include":
			name = "+" + name
		case "outcome":
			name = "!" + e.Resource.Issue[0].Code
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func (p *searchset) link(relation string) string {
	for _, l := range p.Link {
		if l.Relation == relation {
			u, err := url.Parse(l.URL)
			if err != nil {
				return err.Error()
			}
			return u.RequestURI()
		}
	}
	return ""
}

func (r *running) page(query string) (p searchset) {
	r.t.Helper()
	r.do(200, "GET", "/fhir/"+query, "", &p)
	return p
}

// send makes a request with headers and gives status and body.
func (r *running) send(method, path, body string, header ...string) (int, string) {
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.Addr()+path, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(text)
}

func TestSearchFindsByAnyCriteria(t *testing.T) {
	r := runWard(t)
	for _, c := range []struct {
		query, want string
		total       int
	}{
		// by id, by identifier, by reference: what has an index
		{"Patient?_id=p1", "Patient/p1", 1},
		{"Patient?_id=Patient/p2", "Patient/p2", 1},
		{"Patient?_id=p2,p1,none", "Patient/p1 Patient/p2", 2},
		{"Patient?identifier=urn:mrn%7Cone", "Patient/p1", 1},
		{"Patient?identifier=two", "Patient/p2", 1},
		{"Patient?identifier=urn:mrn%7C", "Patient/p1 Patient/p2", 2},
		{"Patient?identifier=urn:other%7Cone", "", 0},
		{"Observation?subject=Patient/p1", "Observation/o1 Observation/o2", 2},
		{"Observation?patient=p1", "Observation/o1 Observation/o2", 2},
		{"Observation?subject:Patient=p2", "Observation/o3", 1},
		{"Observation?subject=p1", "Observation/o1 Observation/o2", 2},
		{"Observation?subject=Group/g", "Observation/o4", 1},
		{"Observation?subject=https://other.example/fhir/Patient/p1", "Observation/o5", 1},
		{"Observation?patient=p1&code=8867-4", "Observation/o1", 1},
		{"Observation?patient=p1,p2&code=8867-4", "Observation/o1 Observation/o3", 2},
		{"Observation?patient=p1&encounter=Encounter/e1", "Observation/o1", 1},
		// by looking at each
		{"Observation?status=final", "Observation/o1 Observation/o3 Observation/o4 Observation/o5", 4},
		{"Observation?status:not=final", "Observation/o2", 1},
		{"Observation?value-quantity=gt80", "Observation/o3", 1},
		{"Observation?encounter:missing=true&code=8867-4", "Observation/o3", 1},
		{"Patient?family=bjork", "Patient/p2", 1},
		{"Patient?birthdate=ge1975", "Patient/p1", 1},
		{"Patient?_lastUpdated=lt2020", "", 0},
		{"Patient?_lastUpdated=gt2020", "Patient/p1 Patient/p2", 2},
		{"Organization?partof=Organization/hospital", "Organization/ward", 1},
		{"Observation?code:missing=false&_id=o1,o9", "Observation/o1", 1},
		{"Observation?_filter=status%20eq%20amended", "Observation/o2", 1},
		// by what other resources say
		{"Observation?subject:Patient.family=adams", "Observation/o1 Observation/o2", 2},
		{"Observation?patient.organization.name=ward&code=8867-4", "Observation/o1 Observation/o3", 2},
		{"Patient?_has:Observation:patient:value-quantity=gt80", "Patient/p2", 1},
		{"Patient", "Patient/p1 Patient/p2", 2},
		{"Device", "", 0},
		// the order
		{"Observation?_sort=_id&patient=p1", "Observation/o1 Observation/o2", 2},
		{"Observation?_sort=-_id&patient=p1", "Observation/o2 Observation/o1", 2},
		{"Observation?_sort=_lastUpdated&status=final", "Observation/o3 Observation/o1 Observation/o4 Observation/o5", 4},
		{"Observation?_sort=-_lastUpdated,_id&status=final", "Observation/o5 Observation/o4 Observation/o1 Observation/o3", 4},
		// counts
		{"Observation?_count=0", "", 5},
		{"Observation?_summary=count&status=final", "", 4},
		{"Observation?_count=1&_total=accurate&status=final", "Observation/o1", 4},
		{"Observation?_count=1&_offset=2&status=final", "Observation/o4", 4},
		{"Observation?_count=9&_offset=9", "", 5},
	} {
		p := r.page(c.query)
		if p.names() != c.want || p.Total == nil || *p.Total != c.total {
			t.Errorf("%s: %q of %v, want %q of %d", c.query, p.names(), p.Total, c.want, c.total)
		}
	}
	if p := r.page("Observation?_total=none"); p.Total != nil {
		t.Errorf("a total that nobody asked for: %d", *p.Total)
	}
	if p := r.page("Observation?_total=estimate"); p.Total == nil || *p.Total != 5 {
		t.Errorf("estimate is %v", p.Total)
	}

	// An index knows more than is so: references that were taken back, resources that are gone.
	r.put(200, `{"resourceType":"Observation","id":"o2","status":"amended","code":{"text":"x"},"subject":{"reference":"Patient/p2"}}`)
	r.do(204, "DELETE", "/fhir/Observation/o1", "", nil)
	r.put(200, `{"resourceType":"Patient","id":"p1","identifier":[{"system":"urn:mrn","value":"Uno"}]}`)
	for query, want := range map[string]string{
		"Observation?patient=p1":       "",
		"Observation?patient=p2":       "Observation/o2 Observation/o3",
		"Patient?identifier=one":       "",
		"Patient?identifier=uno":       "Patient/p1",
		"Observation?_id=o1":           "",
		"Observation?status=final":     "Observation/o3 Observation/o4 Observation/o5",
		"Observation?_sort=-_id":       "Observation/o5 Observation/o4 Observation/o3 Observation/o2",
		"Patient?_sort=-_lastUpdated":  "Patient/p1 Patient/p2",
		"DocumentReference?identifier": "",
	} {
		if strings.HasSuffix(query, "identifier") {
			continue
		}
		if p := r.page(query); p.names() != want {
			t.Errorf("%s: %q, want %q", query, p.names(), want)
		}
	}
}

// The identifier index holds top-level identifiers; a parameter that reads more is looked for in
// every resource.
func TestAParameterThatReadsMoreThanAnIndexHoldsIsNotTakenFromIt(t *testing.T) {
	r := runWard(t)
	r.put(201, `{"resourceType":"DocumentReference","id":"d1","status":"current","masterIdentifier":{"system":"urn:doc","value":"7"},"content":[{"attachment":{"title":"x"}}]}`)
	r.put(201, `{"resourceType":"DocumentReference","id":"d2","status":"current","identifier":[{"system":"urn:doc","value":"7"}],"content":[{"attachment":{"title":"x"}}]}`)
	if p := r.page("DocumentReference?identifier=urn:doc%7C7"); p.names() != "DocumentReference/d1 DocumentReference/d2" {
		t.Errorf("found %q", p.names())
	}
	r.put(201, `{"resourceType":"Bundle","id":"b1","type":"document","entry":[{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Composition","id":"c1"}}]}`)
	if p := r.page("Bundle?composition=Composition/c1"); p.names() != "Bundle/b1" {
		t.Errorf("found %q", p.names())
	}
}

func TestIncludesBringWhatMatchesReferToAndWhatRefersToThem(t *testing.T) {
	r := runWard(t)
	for _, c := range []struct{ query, want string }{
		{"Observation?_id=o1&_include=Observation:subject", "Observation/o1 +Patient/p1"},
		{"Observation?_id=o1&_include=Observation:patient&_include=Observation:encounter", "Observation/o1 +Patient/p1 +Encounter/e1"},
		{"Observation?_id=o1,o2,o3&_include=Observation:subject", "Observation/o1 Observation/o2 Observation/o3 +Patient/p1 +Patient/p2"}, // each once
		{"Observation?_id=o1,o4&_include=Observation:subject:Group", "Observation/o1 Observation/o4"},                                     // the Group is not here
		{"Observation?_id=o1&_include=Observation:subject:Patient", "Observation/o1 +Patient/p1"},
		{"Observation?_id=o5&_include=Observation:subject", "Observation/o5"}, // on another server
		{"Observation?_id=o1,o2&_include=Observation:has-member", "Observation/o1 Observation/o2"},
		{"Observation?_id=o2&_include=Observation:has-member", "Observation/o2 +Observation/o1"},
		{"Observation?_id=o1&_include=*", "Observation/o1 +Encounter/e1 +Patient/p1"},
		{"Observation?_id=o1&_include=Observation:*", "Observation/o1 +Encounter/e1 +Patient/p1"},
		{"Observation?_id=o1&_include=Encounter:subject", "Observation/o1"}, // of matches alone
		{"Observation?_id=o1&_include=Observation:encounter&_include:iterate=Encounter:subject", "Observation/o1 +Encounter/e1 +Patient/p1"},
		{"Observation?_id=o3&_include=Observation:subject&_include:iterate=Patient:organization&_include:recurse=Organization:partof",
			"Observation/o3 +Patient/p2 +Organization/ward +Organization/hospital"},
		{"Observation?_id=o3&_include=Observation:subject&_include=Patient:organization", "Observation/o3 +Patient/p2"},
		{"Patient?_id=p1&_revinclude=Observation:subject", "Patient/p1 +Observation/o1 +Observation/o2"},
		{"Patient?_id=p1&_revinclude=Observation:patient&_revinclude=Encounter:*", "Patient/p1 +Observation/o1 +Observation/o2 +Encounter/e1"},
		{"Patient?_id=p1&_revinclude=Observation:subject:Group", "Patient/p1"},
		{"Patient?_id=p1&_revinclude=Observation:performer", "Patient/p1"}, // refers to it, but not so
		{"Organization?_id=hospital&_revinclude=Organization:partof&_revinclude:iterate=Patient:organization",
			"Organization/hospital +Organization/ward +Patient/p1 +Patient/p2"},
		{"Organization?_id=hospital&_count=0&_revinclude=Organization:partof", ""},
	} {
		if p := r.page(c.query); p.names() != c.want {
			t.Errorf("%s:\n     %s\nwant %s", c.query, p.names(), c.want)
		} else if p.Total == nil || *p.Total != strings.Count(" "+c.want, " ")-strings.Count(c.want, "+") && !strings.Contains(c.query, "_count=0") {
			t.Errorf("%s: total %v counts matches alone", c.query, p.Total)
		}
	}

	// What was taken back or deleted is in no answer.
	r.put(200, `{"resourceType":"Observation","id":"o2","status":"amended","code":{"text":"x"}}`)
	r.do(204, "DELETE", "/fhir/Encounter/e1", "", nil)
	if p := r.page("Patient?_id=p1&_revinclude=Observation:subject&_revinclude=Encounter:subject"); p.names() != "Patient/p1 +Observation/o1" {
		t.Errorf("found %s", p.names())
	}
	if p := r.page("Observation?_id=o1&_include=*"); p.names() != "Observation/o1 +Patient/p1" {
		t.Errorf("found %s", p.names())
	}
}

// Pages are of the state at the first of them: each resource once, none that came later, none
// twice because it changed, and what is deleted meanwhile left out.
func TestPagesShowEachResourceOnceWhateverIsWrittenMeanwhile(t *testing.T) {
	for _, sort := range []string{"_id", "-_id", "_lastUpdated", "-_lastUpdated"} {
		for _, filter := range []string{"", "&active=true"} {
			t.Run(sort+filter, func(t *testing.T) {
				t.Parallel()
				r := runNode(t, testConfig(t.TempDir()))
				version := map[string]string{}
				for i := range 12 {
					r.put(201, fmt.Sprintf(`{"resourceType":"Patient","id":"p%02d","active":true}`, (i*5)%12))
				}
				all := r.page("Patient?_count=100")
				for _, e := range all.Entry {
					version[e.Resource.ID] = e.Resource.Meta.VersionID
				}
				var want []string
				for i := range 12 {
					want = append(want, fmt.Sprintf("p%02d", i))
				}
				if strings.HasSuffix(sort, "_lastUpdated") {
					for i := range 12 {
						want[i] = fmt.Sprintf("p%02d", (i*5)%12)
					}
				}
				if sort[0] == '-' {
					slices.Reverse(want)
				}
				want = slices.DeleteFunc(want, func(id string) bool { return id == "p06" })

				p := r.page("Patient?_count=5&_sort=" + sort + filter)
				var got []string
				for pages := 1; ; pages++ {
					for _, e := range p.Entry {
						got = append(got, e.Resource.ID)
						if e.Resource.Meta.VersionID != version[e.Resource.ID] {
							t.Errorf("page %d shows version %s of %s, at the first it was %s", pages, e.Resource.Meta.VersionID, e.Resource.ID, version[e.Resource.ID])
						}
					}
					if p.Total == nil || *p.Total != 12 {
						t.Errorf("total of page %d is %v", pages, p.Total)
					}
					next := p.link("next")
					if next == "" {
						break
					}
					if pages == 1 {
						// p06 is on no first page of five.
						r.do(204, "DELETE", "/fhir/Patient/p06", "", nil)
						for _, id := range []string{"p00", "p01", "p07", "p11"} {
							r.put(200, `{"resourceType":"Patient","id":"`+id+`","active":false}`)
						}
						r.put(201, `{"resourceType":"Patient","id":"p03a","active":true}`)
						r.put(201, `{"resourceType":"Patient","id":"zz","active":true}`)
					}
					p = searchset{}
					r.do(200, "GET", next, "", &p)
				}
				if !slices.Equal(got, want) {
					t.Errorf("pages show %v\n        want %v", got, want)
				}
			})
		}
	}
}

func TestWhatASearchCannotAnswerIsRefusedByName(t *testing.T) {
	r := runWard(t)
	for query, says := range map[string]string{
		"Patient?familly=a":                                "familly",
		"Patient?_tga=a":                                   "_tga",
		"Patient?family:near=a":                            "near",
		"Patient?_fields=name":                             "_fields",
		"Patient?_sort=family":                             "family",
		"Patient?_sort=_id,-birthdate":                     "birthdate",
		"Patient?_count=many":                              "_count",
		"Patient?_sort=_id&_sort=-_id":                     "more than once",
		"Patient?_count=-1":                                "_count",
		"Patient?_total=some":                              "_total",
		"Patient?_cursor=abc":                              "_cursor",
		"Patient?_cursor:x=abc":                            "_cursor",
		"Patient?_include=Patient":                         "Type:parameter",
		"Patient?_include=Nothing:subject":                 "Nothing",
		"Patient?_include=Patient:family":                  "family",
		"Patient?_include=Patient:organization:Patient":    "Organization",
		"Patient?_include:down=Patient:organization":       "down",
		"Patient?_revinclude=*":                            "name the types",
		"Patient?_revinclude=Observation:subject:Nonsense": "Nonsense",
	} {
		status, body := r.send("GET", "/fhir/"+query, "")
		if status != 422 || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
}

// A client that would rather have an answer to less is told what was left out.
func TestALenientSearchNamesWhatItLeftOut(t *testing.T) {
	r := runWard(t)
	status, body := r.send("GET", "/fhir/Patient?familly=a&gender=male&_sort=family&_count=5000", "", "Prefer: handling=lenient")
	var p searchset
	if err := json.Unmarshal([]byte(body), &p); status != 200 || err != nil {
		t.Fatal(status, body, err)
	}
	if p.names() != "Patient/p1 !not-supported" {
		t.Errorf("found %s", p.names())
	}
	if self := p.link("self"); self != "/fhir/Patient?_count=1000&gender=male" {
		t.Errorf("self says %s", self)
	}
	if issues := p.Entry[1].Resource.Issue; len(issues) != 2 || issues[0].Severity != "warning" || !strings.Contains(body, "familly") || !strings.Contains(body, "_sort") {
		t.Errorf("issues %+v", issues)
	}
	if status, body := r.send("GET", "/fhir/Patient?familly=a", "", "Prefer: handling=strict"); status != 422 {
		t.Errorf("strict: %d %s", status, body)
	}
}

func TestASearchThatTakesTooLongSaysHowToNarrowIt(t *testing.T) {
	r := runWard(t)
	s := *r.gate.search
	s.budget = 1 // a nanosecond
	for _, query := range []string{"status=final", "_sort=-_lastUpdated", "_count=0"} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.find(t.Context(), "Observation", q, false)
		fe := fhir.AsError(err)
		if fe == nil || fe.Issues[0].Type != fhir.IssueTooCostly || !strings.Contains(err.Error(), "narrow it") {
			t.Errorf("%s: %v", query, err)
		}
	}
	// Where all room is taken the index still answers.
	s.scans = make(chan struct{})
	for query, want := range map[string]fhir.IssueType{"status=final": fhir.IssueThrottled, "_sort=-_id": fhir.IssueThrottled, "_id=o1": fhir.IssueTooCostly} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.find(t.Context(), "Observation", q, false); fhir.AsError(err) == nil || fhir.AsError(err).Issues[0].Type != want {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	// So does one of a place of the log that thousands of versions follow.
	res, known, err := s.store.Resource(fhir.Key{Type: "Observation", ID: "o1"})
	if err != nil || !known {
		t.Fatal(known, err)
	}
	if _, _, err := s.state(res, res.Version-1, &deadline{}); !errors.Is(err, errLate) {
		t.Errorf("the state before %s: %v", res.Key, err)
	}
	if _, ok, err := s.state(res, res.Version-1, &deadline{time.Now().Add(time.Hour)}); ok || err != nil {
		t.Errorf("the state before %s: %v %v", res.Key, ok, err)
	}
	// What was found stands where only its frame takes too long.
	a, err := s.understand("Observation", url.Values{"_count": {"1"}, "_include": {"Observation:subject"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	f := &finding{view: &view{s: &s, at: s.store.Position().Events}, asked: a, deadline: &deadline{time.Now().Add(time.Hour)}, budget: 1}
	f.source, _ = s.candidates(a.typ, a.criteria)
	page, err := f.page(t.Context())
	if err != nil || len(page.matches) != 1 || page.next == nil {
		t.Fatal(page, err)
	}
	if total, err := f.count(t.Context(), page); total != -1 || err != nil {
		t.Errorf("total %d, %v", total, err)
	}
	f.deadline = &deadline{}
	included, warnings, err := f.includes(t.Context(), page.matches)
	if err != nil || included != nil || len(warnings) != 1 || warnings[0].Type != fhir.IssueIncomplete {
		t.Errorf("included %v, warned %v, %v", included, warnings, err)
	}
}

// One resource may ask for all that ever referred to it, so its own decision ends with the time.
func TestASearchEndsWhileOneResourceAsksForManyOthers(t *testing.T) {
	r := runWard(t)
	s := r.gate.search
	a, err := s.understand("Patient", url.Values{"_has:Observation:subject:status": {"cancelled"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	v := &view{s: s, at: s.store.Position().Events}
	late := &deadline{time.Now().Add(time.Hour)}
	asked := 0
	v.others = timely{repositoryFunc(func(key fhir.Key) (search.State, error) {
		asked++
		late.until = time.Time{} // while the first of the Observations is read
		return s.others.At(t.Context(), v.at).Read(key)
	}), v}
	res, known, err := s.store.Resource(fhir.Key{Type: "Patient", ID: "p1"})
	if err != nil || !known {
		t.Fatal(known, err)
	}
	it := item{key: res.Key, version: res.Version}
	if _, err := v.decide(t.Context(), a.criteria, []item{it}, late, &tally{}); !errors.Is(err, errLate) || asked != 1 {
		t.Errorf("%v after %d resources, want %v after 1", err, asked, errLate)
	}
}

// Estimated by the part that was decided before the end, not by the run that it was decided in.
func TestAnEstimateIsOfWhatWasLookedAt(t *testing.T) {
	r := runWard(t)
	s := r.gate.search
	for _, c := range []struct {
		name  string
		reads int // before the time is over
		want  int
	}{
		{"o3 and o1 of 5, the second matches", 2, 2},
		{"none", 0, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := s.understand("Observation", url.Values{"subject:Patient.gender": {"male"}, "_total": {"estimate"}}, false)
			if err != nil {
				t.Fatal(err)
			}
			v := &view{s: s, at: s.store.Position().Events}
			f := &finding{view: v, asked: a, deadline: &deadline{time.Now().Add(time.Hour)}, budget: time.Hour}
			left := c.reads
			end := func() {
				if left--; left <= 0 {
					f.deadline.until = time.Time{}
				}
			}
			v.others = timely{repositoryFunc(func(key fhir.Key) (search.State, error) {
				end()
				return s.others.At(t.Context(), v.at).Read(key)
			}), v}
			source, _ := s.candidates(a.typ, a.criteria)
			f.source = func(after fhir.ID, n int) ([]store.Resource, error) {
				if c.reads == 0 {
					end()
				}
				return source(after, n)
			}
			got, err := f.count(t.Context(), result{next: &cursor{}})
			if got != c.want || err != nil {
				t.Errorf("estimate %d, %v, want %d", got, err, c.want)
			}
		})
	}
}

// Another node may have acknowledged a definition that this one has not folded yet: a conditional
// create waits for it, and searches by it.
func TestAConditionMeansWhatTheNewestDefinitionsSay(t *testing.T) {
	r := runWard(t)
	define := func(expression string) string {
		return `{"resourceType":"SearchParameter","id":"kin","url":"http://x.example/kin","name":"kin","status":"active","description":"d","code":"kin","base":["Patient"],"type":"string","expression":"` + expression + `"}`
	}
	lagging := *r.gate
	create := func(id fhir.ID) api.Written {
		t.Helper()
		out, err := lagging.Write(t.Context(), api.Write{
			Key: fhir.Key{Type: "Patient", ID: id}, Interaction: fhir.Create, IfNoneExist: "kin=adams",
			Body: []byte(`{"resourceType":"Patient","id":"` + string(id) + `","contact":[{"name":{"family":"Adams"}}]}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	lagging.fence = func(context.Context) error { // what waits for the others brings the definition
		r.put(201, define("Patient.contact.name.family"))
		lagging.fence = nil
		return nil
	}
	if out := create("p3"); out.Key.ID != "p3" || out.Interaction != fhir.Create {
		t.Errorf("with a new definition %+v", out)
	}
	lagging.fence = func(context.Context) error {
		r.put(200, define("Patient.name.family")) // now it is p1 that has this name
		lagging.fence = nil
		return nil
	}
	if out := create("p4"); out.Key.ID != "p1" || out.Interaction != fhir.Unchanged {
		t.Errorf("with a definition that was changed %+v", out)
	}
}

func TestListsOfIDsMergeToAllOfThemOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		lists := make([][]fhir.ID, 1+random.IntN(40))
		all := map[fhir.ID]bool{}
		for i := range lists {
			for range random.IntN(200) {
				id := fhir.ID(strconv.Itoa(random.IntN(900)))
				lists[i], all[id] = append(lists[i], id), true
			}
			slices.Sort(lists[i])
			lists[i] = slices.Compact(lists[i])
		}
		rows := 0
		m := merge{lists: make([]merged, len(lists)), read: func(i int, after fhir.ID, n int) ([]fhir.ID, error) {
			ids, err := fixed(lists[i])(after, n)
			rows += len(ids)
			return ids, err
		}}
		want := slices.Sorted(maps.Keys(all))
		from := func(after fhir.ID) (got []fhir.ID) {
			for {
				some, err := m.next(after, 1+random.IntN(60))
				if err != nil {
					t.Fatal(err)
				}
				if len(some) == 0 {
					return got
				}
				got, after = append(got, some...), some[len(some)-1]
			}
		}
		if got := from(""); !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		once := 0
		for _, l := range lists {
			once += len(l)
		}
		if rows != once {
			t.Fatalf("%d rows were read of %d", rows, once)
		}
		// A page begins anywhere, and counting at the beginning again.
		middle := fhir.ID(strconv.Itoa(random.IntN(900)))
		behind := slices.DeleteFunc(slices.Clone(want), func(id fhir.ID) bool { return id <= middle })
		if got := from(middle); !slices.Equal(got, behind) {
			t.Fatalf("behind %s %v, want %v", middle, got, behind)
		}
		if got := from(""); !slices.Equal(got, want) {
			t.Fatalf("again %v, want %v", got, want)
		}
	}
}

// repositoryFunc reads by a function; o1, o2 and o5 refer to whatever is asked for.
type repositoryFunc func(fhir.Key) (search.State, error)

func (f repositoryFunc) Read(key fhir.Key) (search.State, error) { return f(key) }
func (repositoryFunc) Referrers(_, _ string, _ fhir.Key, after fhir.ID, _ int) ([]fhir.ID, error) {
	if after != "" {
		return nil, nil
	}
	return []fhir.ID{"o1", "o2", "o5"}, nil
}

func TestIncludesAreBoundedAndSayWhenTheyAreCut(t *testing.T) {
	r := runWard(t)
	var entries []string
	for i := range maxIncluded + 5 {
		entries = append(entries, fmt.Sprintf(`{"request":{"method":"PUT","url":"Observation/x%d"},"resource":{"resourceType":"Observation","id":"x%d","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p2"}}}`, i, i))
	}
	r.do(200, "POST", "/fhir", `{"resourceType":"Bundle","type":"batch","entry":[`+strings.Join(entries, ",")+`]}`, nil)
	p := r.page("Patient?_id=p2&_revinclude=Observation:subject")
	last := p.Entry[len(p.Entry)-1]
	if len(p.Entry) != 1+maxIncluded+1 || last.Search.Mode != "outcome" || last.Resource.Issue[0].Code != "incomplete" || last.Resource.Issue[0].Severity != "warning" {
		t.Errorf("%d entries, the last is %+v", len(p.Entry), last)
	}
	// Larger than one look ahead and several pages.
	seen := map[string]bool{}
	for p = r.page("Observation?_count=300&_sort=-_lastUpdated&status=final&patient=p2"); ; {
		for _, e := range p.Entry {
			if seen[e.Resource.ID] {
				t.Fatalf("%s is shown twice", e.Resource.ID)
			}
			seen[e.Resource.ID] = true
		}
		next := p.link("next")
		if next == "" {
			break
		}
		p = searchset{}
		r.do(200, "GET", next, "", &p)
	}
	if len(seen) != maxIncluded+6 {
		t.Errorf("%d shown, want %d", len(seen), maxIncluded+6)
	}
}

// Of many conditional updates at one time, by whatever criteria, one creates and the others update
// what it made; however the condition is spelled.
func TestConditionalUpdatesAtOneTimeMakeOneResource(t *testing.T) {
	r := runWard(t)
	spelled := []string{"family=Nova&gender=female", "gender=female&family=nova", "gender=female&family=n%C3%B6va"}
	var mu sync.Mutex
	statuses := map[int]int{}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			status, body := r.send("PUT", "/fhir/Patient?"+spelled[i%len(spelled)], `{"resourceType":"Patient","gender":"female","name":[{"family":"Nova"}],"multipleBirthInteger":`+fmt.Sprint(i%5)+`}`)
			mu.Lock()
			defer mu.Unlock()
			if statuses[status]++; status != 200 && status != 201 {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	wg.Wait()
	if statuses[201] != 1 || statuses[200] != 23 {
		t.Errorf("answers %v, want one 201 and 23 of 200", statuses)
	}
	if p := r.page("Patient?family=nova"); *p.Total != 1 {
		t.Errorf("%d resources: %s", *p.Total, p.names())
	}
}

func TestConditionalInteractionsAreOfOneResource(t *testing.T) {
	r := runWard(t)
	patch := func(path, value string) (int, string) {
		return r.send("PATCH", path, `[{"op":"add","path":"/deceasedBoolean","value":`+value+`}]`, "Content-Type: application/json-patch+json")
	}
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"update of the one that matches", "PUT", "/fhir/Patient?birthdate=1980-05-01", `{"resourceType":"Patient","birthDate":"1980-05-01","gender":"other"}`, 200, `"id":"p1"`},
		{"update under the id that it has", "PUT", "/fhir/Patient?birthdate=1980-05-01", `{"resourceType":"Patient","id":"p1","birthDate":"1980-05-01","gender":"male"}`, 200, `"id":"p1"`},
		{"update under another id", "PUT", "/fhir/Patient?birthdate=1980-05-01", `{"resourceType":"Patient","id":"p9","birthDate":"1980-05-01"}`, 400, "p9"},
		{"update of several", "PUT", "/fhir/Observation?status=final", `{"resourceType":"Observation","status":"final"}`, 412, "several"},
		{"update of none, with an id", "PUT", "/fhir/Patient?birthdate=1999", `{"resourceType":"Patient","id":"p9","birthDate":"1999"}`, 201, `"id":"p9"`},
		{"update of none, with the id of another", "PUT", "/fhir/Patient?birthdate=1998", `{"resourceType":"Patient","id":"p9","birthDate":"1998"}`, 409, "p9"},
		{"by another resource", "PUT", "/fhir/Observation?subject:Patient.family=a", `{"resourceType":"Observation","status":"final"}`, 422, "other resources"},
		{"by nothing that selects", "DELETE", "/fhir/Observation?_count=1", "", 422, "_count"},
		{"by what there is not", "DELETE", "/fhir/Observation?colour=red", "", 422, "colour"},
		{"delete of several", "DELETE", "/fhir/Observation?status=final", "", 412, "several"},
		{"delete of none", "DELETE", "/fhir/Observation?status=cancelled", "", 204, ""},
		{"delete of one", "DELETE", "/fhir/Observation?value-quantity=gt80", "", 204, ""},
		{"it is gone", "GET", "/fhir/Observation/o3", "", 410, ""},
		{"create where one matches", "POST", "/fhir/Patient", `{"resourceType":"Patient"}`, 200, `"id":"p2"`},
		{"a transaction with conditional references and entries", "POST", "/fhir", `{"resourceType":"Bundle","type":"transaction","entry":[
			{"request":{"method":"POST","url":"Observation"},"resource":{"resourceType":"Observation","id":"x","status":"registered","code":{"text":"x"},"subject":{"reference":"Patient?birthdate=1999"}}},
			{"request":{"method":"PUT","url":"Organization?name=ward"},"resource":{"resourceType":"Organization","name":"Ward 8"}},
			{"request":{"method":"DELETE","url":"Encounter?subject=Patient/p1"}}]}`, 200, "201 Created"},
		{"the reference is resolved", "GET", "/fhir/Observation?subject=Patient/p9", "", 200, `"Patient/p9"`},
		{"the organization is updated", "GET", "/fhir/Organization/ward", "", 200, "Ward 8"},
		{"the encounter is deleted", "GET", "/fhir/Encounter/e1", "", 410, ""},
	} {
		header := []string{}
		if strings.HasPrefix(c.name, "create where") {
			header = append(header, "If-None-Exist: family=bjork")
		}
		if status, body := r.send(c.method, c.path, c.body, header...); status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s, want %d and %q", c.name, status, body, c.status, c.says)
		}
	}
	if status, body := patch("/fhir/Patient?family=bjork", "true"); status != 200 || !strings.Contains(body, "deceasedBoolean") {
		t.Errorf("patch of one: %d %s", status, body)
	}
	if status, body := patch("/fhir/Patient?family=nobody", "true"); status != 404 {
		t.Errorf("patch of none: %d %s", status, body)
	}
	if status, body := patch("/fhir/Patient?birthdate=gt1960", "true"); status != 412 {
		t.Errorf("patch of several: %d %s", status, body)
	}
}

// What the CapabilityStatement lists is what a search takes.
func TestTheCapabilityStatementListsWhatWorks(t *testing.T) {
	r := runWard(t)
	var st struct {
		Rest []struct {
			Resource []struct {
				Type                            string
				SearchParam                     []struct{ Name, Type string }
				SearchInclude, SearchRevInclude []string
				ConditionalUpdate               bool
				ConditionalDelete               string
			}
		}
	}
	r.do(200, "GET", "/fhir/metadata", "", &st)
	s := r.gate.search
	types := 0
	for _, res := range st.Rest[0].Resource {
		types++
		if !res.ConditionalUpdate || res.ConditionalDelete != "single" {
			t.Errorf("%s: %+v", res.Type, res)
		}
		for _, i := range append(slices.Clone(res.SearchInclude), res.SearchRevInclude...) {
			if _, err := s.parseInclude(res.Type, false, "", i); err != nil {
				t.Errorf("%s: include %s: %v", res.Type, i, err)
			}
		}
		if res.Type != "Observation" {
			continue
		}
		names := map[string]string{}
		for _, p := range res.SearchParam {
			names[p.Name] = p.Type
		}
		for name, kind := range map[string]string{"_id": "token", "code": "token", "patient": "reference", "value-quantity": "quantity", "date": "date", "_lastUpdated": "date"} {
			if names[name] != kind {
				t.Errorf("Observation lists %s as %q", name, names[name])
			}
		}
		if !slices.Contains(res.SearchInclude, "Observation:subject") || !slices.Contains(res.SearchRevInclude, "Observation:has-member") || slices.Contains(res.SearchRevInclude, "Encounter:subject") {
			t.Errorf("includes %v, %v", res.SearchInclude, res.SearchRevInclude)
		}
	}
	if types < 140 {
		t.Errorf("%d types", types)
	}
}

// Whoever renders a search sees all of it, whatever the size of its pages.
func TestEachShowsAllPagesWithWhatTheyInclude(t *testing.T) {
	r := runWard(t)
	var shown []string
	see := func(res api.Resource, included bool) error {
		name := res.Key.String()
		if included {
			name = "+" + name
		}
		shown = append(shown, name)
		return nil
	}
	if err := r.gate.search.each(t.Context(), "Observation?status=final&_count=2&_include=Observation:subject&_sort=-_id", see); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(shown, " "); got != "Observation/o5 Observation/o4 Observation/o3 Observation/o1 +Patient/p2 +Patient/p1" {
		t.Errorf("shown %s", got)
	}
	if err := r.gate.search.each(t.Context(), "Observation?", func(api.Resource, bool) error { return io.EOF }); err != io.EOF {
		t.Errorf("ended with %v", err)
	}
	for _, wrong := range []string{"", "Nothing?x=1", "Patient?familly=a", "Patient?%zz"} {
		if err := r.gate.search.each(t.Context(), wrong, see); fhir.AsError(err) == nil {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// However a search finds its candidates, orders and pages them, its matches are those of a look at
// every resource.
func TestASearchIsALookAtEveryResource(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 4))
	r := runNode(t, testConfig(t.TempDir()))
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	bodies := map[string]string{}
	for range 4 { // rounds, so that there are updates and deletes
		var entries []string
		for range 40 {
			id := fmt.Sprintf("o%d", rnd.IntN(60))
			if rnd.IntN(5) == 0 {
				delete(bodies, id)
				entries = append(entries, `{"request":{"method":"DELETE","url":"Observation/`+id+`"}}`)
				continue
			}
			bodies[id] = fmt.Sprintf(`{"resourceType":"Observation","id":%q,"identifier":[{"system":"urn:s%d","value":"V%d"}],"status":%q,"code":{"coding":[{"code":"c%d"}]},"subject":{"reference":%q},"performer":[{"reference":"Practitioner/d%d"}],"valueQuantity":{"value":%d}}`,
				id, rnd.IntN(2), rnd.IntN(8), []string{"final", "amended"}[rnd.IntN(2)], rnd.IntN(4),
				[]string{"Patient/p1", "Patient/p2", "Group/p1", "https://other.example/fhir/Patient/p1"}[rnd.IntN(4)], rnd.IntN(3), rnd.IntN(20))
			entries = append(entries, `{"request":{"method":"PUT","url":"Observation/`+id+`"},"resource":`+bodies[id]+`}`)
		}
		r.do(200, "POST", "/fhir", `{"resourceType":"Bundle","type":"batch","entry":[`+strings.Join(entries, ",")+`]}`, nil)
	}
	conditions := []string{
		"identifier=v1", "identifier=urn:s0|v1,urn:s1|V2", "identifier:not=v1", "subject=Patient/p1", "subject=p1", "patient=p1,p2",
		"subject:Group=p1", "subject=https://other.example/fhir/Patient/p1", "performer=Practitioner/d1", "status=final", "code=c1,c2",
		"value-quantity=gt9", "_id=o1,o2,o3,o4,o5,o6,o7", "encounter:missing=true", "_lastUpdated=gt2020",
	}
	for range 60 {
		picked := map[string]bool{}
		for range rnd.IntN(4) {
			picked[conditions[rnd.IntN(len(conditions))]] = true
		}
		query := strings.Join(slices.Sorted(maps.Keys(picked)), "&")
		criteria, err := r.defs.Compile("Observation?" + query)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for id, body := range bodies {
			tree, err := fhirjson.Parse([]byte(body), fhirjson.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			resource := search.NewResource(r.defs, tree)
			resource.Reset(tree, search.Envelope{ID: id, LastUpdated: time.Now()})
			if criteria.Match(resource) {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		sort := []string{"_id", "-_id", "_lastUpdated", "-_lastUpdated"}[rnd.IntN(4)]
		ask := fmt.Sprintf("Observation?%s&_sort=%s&_count=%d", strings.ReplaceAll(query, "|", "%7C"), sort, 1+rnd.IntN(30))
		var got []string
		version := []int{}
		p := r.page(ask)
		for {
			for _, e := range p.Entry {
				got = append(got, e.Resource.ID)
				v, err := strconv.Atoi(e.Resource.Meta.VersionID)
				if err != nil {
					t.Fatal(err)
				}
				version = append(version, v)
			}
			next := p.link("next")
			if next == "" {
				break
			}
			p = searchset{}
			r.do(200, "GET", next, "", &p)
		}
		if strings.HasPrefix(sort, "-") {
			slices.Reverse(got)
			slices.Reverse(version)
		}
		if strings.HasSuffix(sort, "_id") && !slices.IsSorted(got) || strings.HasSuffix(sort, "_lastUpdated") && !slices.IsSorted(version) {
			t.Errorf("%s: not in order: %v", ask, got)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || p.Total == nil || *p.Total != len(want) {
			t.Errorf("%s:\n     %v of %v\nwant %v", ask, got, p.Total, want)
		}
	}
}

// Subscriptions are searched in the store, which knows less of them than the log: what they are
// found by and what is shown is the same.
func TestSubscriptionsAreFoundAsTheyStand(t *testing.T) {
	r := runWard(t)
	to := endpoint(t, 200)
	for i, id := range []string{"s1", "s2", "s3"} {
		r.do(201, "PUT", "/fhir/Subscription/"+id, subscriptionTo(id, []string{"Patient?", "Observation?", "Patient?gender=male"}[i], to), nil)
	}
	r.do(204, "DELETE", "/fhir/Subscription/s3", "", nil)
	r.do(200, "PUT", "/fhir/Subscription/s1", subscriptionTo("s1", "Encounter?", to), nil)
	for query, want := range map[string]string{
		"Subscription?url=" + url.QueryEscape(to): "Subscription/s1 Subscription/s2",
		"Subscription?criteria=Enc":               "Subscription/s1",
		"Subscription?criteria=Patient":           "",
		"Subscription?status=active&_count=1":     "Subscription/s1",
		"Subscription?_sort=-_lastUpdated":        "Subscription/s1 Subscription/s2",
		"Subscription?_lastUpdated=gt2020&_id=s2": "Subscription/s2",
	} {
		p := r.page(query)
		if p.names() != want {
			t.Errorf("%s: %s, want %s", query, p.names(), want)
		}
		for _, e := range p.Entry {
			if e.Resource.Meta.VersionID == "" {
				t.Errorf("%s: %+v has no version", query, e)
			}
		}
	}
}
