package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/config"
)

// ehr is another FHIR server. What it answers is chosen by path and query.
type ehr struct {
	mu     sync.Mutex
	asked  []string
	header http.Header // of the newest request
	answer func(path string, n int, w http.ResponseWriter)
	calls  map[string]int
}

func (e *ehr) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	path := r.URL.RequestURI()
	e.asked, e.header = append(e.asked, path), r.Header
	if e.calls == nil {
		e.calls = map[string]int{}
	}
	e.calls[path]++
	e.answer(path, e.calls[path], w)
}

func (e *ehr) requests() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.asked)
}

// inProcess hands requests to a handler without a network, so that time is the test's.
type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	t.h.ServeHTTP(w, r)
	return w.Result(), nil
}

func upstreamConfig() config.Config {
	cfg := config.Default()
	cfg.Match.Repository.Source, cfg.Match.Repository.URL = config.Upstream, "https://ehr.example/fhir/"
	return cfg
}

func newTestUpstream(t *testing.T, cfg config.Config, e *ehr) *upstream {
	t.Helper()
	u, err := newUpstream(cfg, "test", inProcess{e})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

var patientP = fhir.Key{Type: "Patient", ID: "p"}

func TestWhatTheUpstreamServerAnswers(t *testing.T) {
	const body = `{"resourceType":"Patient","id":"p"}`
	big := `{"x":"` + strings.Repeat("x", 2000) + `"}`
	for _, c := range []struct {
		name     string
		answer   func(n int, w http.ResponseWriter)
		want     string // body; empty: there is none
		err      string // the evaluation's end; empty: none
		requests int
	}{
		{"a resource", func(_ int, w http.ResponseWriter) { fmt.Fprint(w, body) }, body, "", 1},
		{"not found", func(_ int, w http.ResponseWriter) { w.WriteHeader(404); fmt.Fprint(w, big) }, "", "", 1},
		{"deleted", func(_ int, w http.ResponseWriter) { w.WriteHeader(410) }, "", "", 1},
		{"no right", func(_ int, w http.ResponseWriter) { w.WriteHeader(403) }, "", "HTTP status 403", 1},
		{"no login", func(_ int, w http.ResponseWriter) { w.WriteHeader(401) }, "", "HTTP status 401", 1},
		{"elsewhere", func(_ int, w http.ResponseWriter) { w.Header().Set("Location", "/other"); w.WriteHeader(302) }, "", "HTTP status 302", 1},
		{"a moment of trouble", func(n int, w http.ResponseWriter) {
			if n < 3 {
				w.WriteHeader(503)
				return
			}
			fmt.Fprint(w, body)
		}, body, "", 3},
		{"lasting trouble", func(_ int, w http.ResponseWriter) { w.WriteHeader(500) }, "", "within 2s: HTTP status 500", 5},
		{"too many requests, and a wait that is possible", func(n int, w http.ResponseWriter) {
			if n == 1 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(429)
				return
			}
			fmt.Fprint(w, body)
		}, body, "", 2},
		{"too many requests, and a wait that is too long", func(_ int, w http.ResponseWriter) { w.Header().Set("Retry-After", "60"); w.WriteHeader(429) }, "", "HTTP status 429", 1},
		{"too large", func(_ int, w http.ResponseWriter) { fmt.Fprint(w, big) }, "", "larger than 1KiB", 1},
		{"empty", func(int, http.ResponseWriter) {}, "", "empty", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &ehr{answer: func(_ string, n int, w http.ResponseWriter) { c.answer(n, w) }}
				cfg := upstreamConfig()
				cfg.Limits.ResourceSize = 1 << 10
				s, err := newTestUpstream(t, cfg, e).At(t.Context(), 1).Read(patientP)
				if string(s.Body) != c.want || (err != nil) != (c.err != "") {
					t.Fatalf("%q, %v", s.Body, err)
				}
				if err != nil && (!errors.Is(err, search.ErrUnanswered) || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("%v, want %q", err, c.err)
				}
				if got := e.requests(); len(got) != c.requests || got[0] != "/fhir/Patient/p" {
					t.Errorf("asked %q", got)
				}
			})
		})
	}
}

// A server that does not answer costs one change its time, and the others nothing: for a while
// they are decided without it.
func TestAServerThatDoesNotAnswerIsLeftAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := true
		e := &ehr{answer: func(_ string, _ int, w http.ResponseWriter) {
			if down {
				w.WriteHeader(503)
				return
			}
			fmt.Fprint(w, `{"resourceType":"Patient","id":"p"}`)
		}}
		u := newTestUpstream(t, upstreamConfig(), e)
		ask := func() (took time.Duration, err error) {
			began := time.Now()
			_, err = u.At(t.Context(), 1).Read(patientP)
			return time.Since(began), err
		}
		if took, err := ask(); !errors.Is(err, search.ErrUnanswered) || took > 2*time.Second {
			t.Errorf("%v after %s", err, took)
		}
		before := len(e.requests())
		if took, err := ask(); !errors.Is(err, search.ErrUnanswered) || took != 0 || len(e.requests()) != before {
			t.Errorf("%v after %s", err, took)
		}
		down = false
		time.Sleep(upstreamRest) // on the test's clock
		if took, err := ask(); err != nil || took != 0 {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// The time is for all that one change asks. A change that asks for much does not shut the server
// off for others.
func TestTheTimeIsForAllThatOneChangeAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ehr{answer: func(path string, _ int, w http.ResponseWriter) {
			time.Sleep(300 * time.Millisecond) // on the test's clock: the server is slow
			fmt.Fprintf(w, `{"resourceType":"Patient","id":%q}`, path[strings.LastIndexByte(path, '/')+1:])
		}}
		u := newTestUpstream(t, upstreamConfig(), e)
		began, view, answered := time.Now(), u.At(t.Context(), 1), 0
		for i := range 20 {
			if _, err := view.Read(fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprint(i))}); err == nil {
				answered++
			} else if !errors.Is(err, search.ErrUnanswered) {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > 2500*time.Millisecond || answered < 6 || answered > 7 {
			t.Errorf("%d answers in %s", answered, took)
		}
		if _, err := u.At(t.Context(), 2).Read(fhir.Key{Type: "Patient", ID: "next"}); err != nil {
			t.Errorf("the next change: %v", err)
		}
	})
}

// A stop of the node is no answer: the change is evaluated again.
func TestAStopIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		e := &ehr{answer: func(_ string, _ int, w http.ResponseWriter) { cancel(); w.WriteHeader(503) }}
		_, err := newTestUpstream(t, upstreamConfig(), e).At(ctx, 1).Read(patientP)
		if !errors.Is(err, context.Canceled) || errors.Is(err, search.ErrUnanswered) {
			t.Errorf("%v", err)
		}
	})
}

func TestAnswersAreUsedAgainForAShortWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ehr{answer: func(path string, _ int, w http.ResponseWriter) {
			if strings.HasSuffix(path, "none") {
				w.WriteHeader(404)
				return
			}
			fmt.Fprint(w, `{"resourceType":"Patient","id":"p"}`)
		}}
		u := newTestUpstream(t, upstreamConfig(), e)
		read := func(want int) {
			t.Helper()
			for _, id := range []fhir.ID{"p", "none"} {
				if _, err := u.At(t.Context(), 1).Read(fhir.Key{Type: "Patient", ID: id}); err != nil {
					t.Fatal(err)
				}
			}
			if got := e.requests(); len(got) != want {
				t.Errorf("asked %q", got)
			}
		}
		read(2)
		time.Sleep(999 * time.Millisecond) // on the test's clock: not yet a second old
		read(2)
		time.Sleep(time.Millisecond)
		read(4)
	})
}

func TestTheCacheIsBounded(t *testing.T) {
	c, now := newAnswers(100_000, time.Second), time.Now()
	for i := range 1000 {
		c.put(fmt.Sprintf("Patient/%d", i%300), answer{body: make([]byte, i)}, now)
		total := 0
		for name, a := range c.said {
			total += a.size(name)
		}
		if total != c.bytes || total > c.max || len(c.order) != len(c.said) {
			t.Fatalf("%d bytes in %d answers (%d in order), counted %d", total, len(c.said), len(c.order), c.bytes)
		}
	}
	c.put("Patient/large", answer{body: make([]byte, 50_000)}, now)
	if _, ok := c.get("Patient/large", now); ok || len(c.said) == 0 {
		t.Error("one large answer drove out the others")
	}
	c.put("Patient/late", answer{}, now.Add(time.Hour))
	if len(c.said) != 1 {
		t.Errorf("%d answers are kept for ever", len(c.said)-1)
	}
}

func bundlePage(next string, resources ...string) string {
	var entries []string
	for _, r := range resources {
		entries = append(entries, `{"resource":`+r+`}`)
	}
	link := ""
	if next != "" {
		link = fmt.Sprintf(`"link":[{"relation":"self","url":"x"},{"relation":"next","url":%q}],`, next)
	}
	return `{"resourceType":"Bundle","type":"searchset",` + link + `"entry":[` + strings.Join(entries, ",") + `]}`
}

func TestASearchOfTheUpstreamServerIsReadToItsEnd(t *testing.T) {
	obs := func(id string) string { return `{"resourceType":"Observation","id":"` + id + `"}` }
	const first = "/fhir/Observation?_count=200&patient=Patient%2Fp"
	e := &ehr{answer: func(path string, _ int, w http.ResponseWriter) {
		switch path {
		case first:
			fmt.Fprint(w, bundlePage("https://ehr.example/fhir?page=2", obs("c"), obs("a"), `{"resourceType":"OperationOutcome"}`))
		case "/fhir?page=2":
			fmt.Fprint(w, bundlePage("?page=3", obs("b"), `{"resourceType":"Patient","id":"p"}`))
		default:
			fmt.Fprint(w, bundlePage("", obs("a"), `{"resourceType":"Observation"}`))
		}
	}}
	cfg := upstreamConfig()
	cfg.Match.Repository.CacheAge = 0 // the pieces of one list are one answer all the same
	view := newTestUpstream(t, cfg, e).At(t.Context(), 1)
	var got []fhir.ID
	for after := fhir.ID(""); ; after = got[len(got)-1] {
		ids, err := view.Referrers("Observation", "patient", patientP, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, ids...); len(ids) < 2 {
			break
		}
	}
	if !slices.Equal(got, []fhir.ID{"a", "b", "c"}) {
		t.Errorf("found %q", got)
	}
	// The bodies came with the pages.
	asked := e.requests()
	if s, err := view.Read(fhir.Key{Type: "Observation", ID: "b"}); err != nil || string(s.Body) != obs("b") || len(e.requests()) != len(asked) {
		t.Errorf("%s, %v after %q", s.Body, err, e.requests())
	}
	if want := []string{first, "/fhir?page=2", "/fhir/?page=3"}; len(asked) != 3 || asked[0] != want[0] || asked[1] != want[1] {
		t.Errorf("asked %q", asked)
	}
}

func TestASearchThatCannotBeReadToItsEndIsNoAnswer(t *testing.T) {
	for name, c := range map[string]struct{ body, err string }{
		"another server": {bundlePage("https://evil.example/fhir?page=2"), "another server"},
		"another scheme": {bundlePage("http://ehr.example/fhir?page=2"), "another server"},
		"a login":        {bundlePage("https://me:hunter2@ehr.example/fhir?page=2"), "another server"},
		"no Bundle":      {`{"resourceType":"OperationOutcome"}`, "no Bundle"},
		"no JSON":        {`<Bundle/>`, "no Bundle"},
		"no end":         {bundlePage("https://ehr.example/fhir/Observation?again"), "more than 10000"},
	} {
		e := &ehr{answer: func(_ string, _ int, w http.ResponseWriter) { fmt.Fprint(w, c.body) }}
		_, err := newTestUpstream(t, upstreamConfig(), e).At(t.Context(), 1).Referrers("Observation", "patient", patientP, "", 10)
		if !errors.Is(err, search.ErrUnanswered) || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheUpstreamServerIsAskedWithTheSecretOfTheMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("Bearer one\n")
	cfg := upstreamConfig()
	cfg.Match.Repository.AuthorizationFile, cfg.Match.Repository.CacheAge = path, 0
	e := &ehr{answer: func(_ string, _ int, w http.ResponseWriter) { w.WriteHeader(404) }}
	u := newTestUpstream(t, cfg, e)
	for _, secret := range []string{"Bearer one", "Bearer two"} {
		write(secret + "\n")
		if _, err := u.At(t.Context(), 1).Read(patientP); err != nil {
			t.Fatal(err)
		}
		if got := e.header.Get("Authorization"); got != secret || e.header.Get("Accept") != "application/fhir+json" {
			t.Errorf("asked with %q", e.header)
		}
	}
	os.Remove(path)
	if _, err := u.At(t.Context(), 1).Read(patientP); !errors.Is(err, search.ErrUnanswered) || !strings.Contains(err.Error(), "match.repository.authorization_file") {
		t.Errorf("without its file: %v", err)
	}
	if _, err := newUpstream(cfg, "test", inProcess{e}); err == nil {
		t.Error("a node starts without its secret")
	}
}

// The server is dialled by the rules of delivery.egress, which are looked at when the node starts.
func TestAnUpstreamServerIsWhereEgressAllows(t *testing.T) {
	for address, want := range map[string]string{"http://192.0.2.1/fhir": "allow_http", "https://10.0.0.1/fhir": "private or reserved"} {
		cfg := testConfig(t.TempDir())
		cfg.Match.Repository.Source, cfg.Match.Repository.URL = config.Upstream, address
		cfg.Delivery.Egress = config.Egress{}
		n, err := New(cfg, slog.New(slog.DiscardHandler), "test")
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "match.repository.url") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// The whole way: a node whose criteria ask another server, which fails for a while.
func TestCriteriaAskTheUpstreamServer(t *testing.T) {
	var mu sync.Mutex
	gender := "female"
	e := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case gender == "":
			w.WriteHeader(403)
		case r.URL.Path == "/fhir/Patient/p":
			fmt.Fprintf(w, `{"resourceType":"Patient","id":"p","gender":%q}`, gender)
		case r.URL.RequestURI() == "/fhir/Observation?_count=200&subject=Patient%2Fq":
			fmt.Fprint(w, bundlePage("", `{"resourceType":"Observation","id":"x","status":"final","subject":{"reference":"Patient/q"}}`))
		default:
			w.WriteHeader(404)
		}
	}))
	t.Cleanup(e.Close)
	set := func(g string) {
		mu.Lock()
		defer mu.Unlock()
		gender = g
	}
	cfg := testConfig(t.TempDir())
	cfg.Match.Repository.Source, cfg.Match.Repository.URL, cfg.Match.Repository.CacheAge = config.Upstream, e.URL+"/fhir", 0
	r := runNode(t, cfg)
	to := endpoint(t, 200)
	r.do(201, "PUT", "/fhir/Subscription/men", subscriptionTo("men", "Observation?subject:Patient.gender=male", to), nil)
	r.do(201, "PUT", "/fhir/Subscription/all", subscriptionTo("all", "Observation?", to), nil)
	r.do(201, "PUT", "/fhir/Subscription/has", subscriptionTo("has", "Patient?_has:Observation:subject:status=final", to), nil)
	subject := `"subject":{"reference":"Patient/p"}`
	var want []string
	settled := func(aside int, hits ...string) {
		t.Helper()
		want = append(want, hits...)
		slices.Sort(want)
		r.await("all matches", "/admin/api/v1/status", func(s map[string]any) bool {
			return s["pending"] == 0.0 && len(r.accepted()) == len(want) && r.store.Position().Dead >= record.Sequence(aside)
		})
		if got := r.accepted(); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	hit := func(seq any, id string) string { return fmt.Sprintf("%d:%s", seq, id) }
	one := r.create("Observation", "1", subject)
	settled(0, hit(one, "all"))
	set("male")
	two := r.create("Observation", "2", subject)
	three := r.create("Patient", "q", `"active":true`)
	settled(0, hit(two, "all"), hit(two, "men"), hit(three, "has"))
	set("")
	four := r.create("Observation", "4", subject)
	settled(1, hit(four, "all"))
	for _, health := range []string{"male", "Observation/4: "} {
		if strings.Contains(r.logs.String(), health) {
			t.Errorf("the log has %q", health)
		}
	}
	if !strings.Contains(r.logs.String(), "not asked: Subscription men") {
		t.Error("the log does not say who lost the event")
	}
}
