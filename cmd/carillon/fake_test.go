package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
)

// fakeServer answers as a node does, from memory, as far as the commands go: it stores
// resources, delivers Observations to the Subscriptions of bench, and refuses ingest lines
// that hold "bad".
type fakeServer struct {
	server *httptest.Server
	client *http.Client

	mu        sync.Mutex
	resources map[string][]byte
	requests  []string // method and path, in order
	lines     []string // that $ingest accepted
	bodies    []string // of administrative orders
	refuse    func(w http.ResponseWriter, r *http.Request) bool
	lose      func(id string) bool // Observations that are not delivered
	delivery  sync.WaitGroup
}

func newFakeServer() *fakeServer {
	f := &fakeServer{resources: map[string][]byte{}, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	mux := http.NewServeMux()
	mux.HandleFunc("/fhir/{type}/{id}", f.resource)
	mux.HandleFunc("POST /fhir/{type}", f.create)
	mux.HandleFunc("POST /fhir/Subscription/$validate", f.validate)
	mux.HandleFunc("POST /fhir/$ingest", f.ingest)
	mux.HandleFunc("POST /fhir", f.bundle)
	mux.HandleFunc(adminPath+"/", f.admin)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP x\nprocess_resident_memory_bytes 1.048576e+08\nprocess_cpu_seconds_total 2.5\n")
	})
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
		refuse := f.refuse
		f.mu.Unlock()
		if refuse != nil && refuse(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return f
}

func (f *fakeServer) url() string { return f.server.URL }

func (f *fakeServer) close() {
	f.delivery.Wait()
	f.client.CloseIdleConnections()
	f.server.Close()
}

func outcome(w http.ResponseWriter, status int, issues ...string) {
	list := []map[string]any{}
	for _, text := range issues {
		severity := "error"
		if status == http.StatusOK && strings.HasPrefix(text, "accepted") {
			severity = "information"
		}
		list = append(list, map[string]any{"severity": severity, "code": "processing", "diagnostics": text})
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"resourceType": "OperationOutcome", "issue": list})
}

func (f *fakeServer) resource(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("type") + "/" + r.PathValue("id")
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.Method {
	case http.MethodGet:
		if f.resources[key] == nil {
			outcome(w, http.StatusNotFound, key+" is not known")
			return
		}
		_, _ = w.Write(f.resources[key])
	case http.MethodPut:
		f.resources[key] = body
		f.notify(key, body)
		_, _ = w.Write(body)
	case http.MethodDelete:
		delete(f.resources, key)
		w.WriteHeader(http.StatusNoContent)
	}
}

// notify sends an Observation to the Subscription whose code it has.
func (f *fakeServer) notify(key string, body []byte) {
	var o struct {
		Code struct {
			Coding []struct{ Code string }
		}
	}
	if !strings.HasPrefix(key, "Observation/") || json.Unmarshal(body, &o) != nil || len(o.Code.Coding) == 0 {
		return
	}
	if f.lose != nil && f.lose(key) {
		return
	}
	for name, text := range f.resources {
		var s struct {
			Criteria string
			Channel  struct{ Endpoint string }
		}
		if !strings.HasPrefix(name, "Subscription/") || json.Unmarshal(text, &s) != nil || !strings.HasSuffix(s.Criteria, "|"+o.Code.Coding[0].Code) {
			continue
		}
		f.delivery.Go(func() {
			req, _ := http.NewRequest(http.MethodPut, s.Channel.Endpoint+"/"+key, strings.NewReader(string(body)))
			req.Header.Set("webhook-id", name+key)
			if resp, err := f.client.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
}

func (f *fakeServer) create(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	body = []byte(strings.Replace(string(body), "{", `{"id":"made",`, 1))
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(body)
}

func (f *fakeServer) validate(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.Contains(string(body), "bad") {
		outcome(w, http.StatusOK, "Subscription.criteria: nothing is called bad")
		return
	}
	outcome(w, http.StatusOK, "accepted: all is well")
}

func (f *fakeServer) ingest(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	scan := bufio.NewScanner(r.Body)
	scan.Buffer(nil, 1<<20)
	var issues []string
	n, accepted := 0, 0
	for scan.Scan() {
		n++
		if strings.Contains(scan.Text(), "bad") {
			issues = append(issues, fmt.Sprintf("line %d: nothing is called bad", n), fmt.Sprintf("line %d: and it is wrong", n))
			continue
		}
		accepted++
		f.lines = append(f.lines, scan.Text())
	}
	outcome(w, http.StatusOK, append([]string{fmt.Sprintf("accepted %d, refused %d", accepted, n-accepted)}, issues...)...)
}

func (f *fakeServer) bundle(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	fmt.Fprint(w, `{"resourceType":"Bundle","type":"batch-response","entry":[{"response":{"status":"201 Created"}},
		{"response":{"status":"422","outcome":{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"value","diagnostics":"no such code"}]}}}]}`)
}

const fakeSubscription = `{"id":"a1","status":"active","paused":false,"criteria":"Patient","channel":"rest-hook","endpoint":"http://x:1","version":3,"birth":3,"events":17,"pending":1,"dead":0,"lastError":{"time":"2026-01-02T03:04:05Z","outcome":"timeout"}}`

const fakeJob = `{"id":"j1","kind":"replay","state":"done","created":"2026-01-02T03:04:05Z","done":2,"skipped":0,"sent":2,"total":2}`

const fakeConsumer = `{"reference":"messages/lab","stream":"MESSAGES","name":"lab","filter":"fhir.message.lab","from":"all","created":"2026-01-02T03:04:05Z","pending":2,"ackPending":1,"waiting":0,"subjects":["$JS.API.CONSUMER.INFO.MESSAGES.lab","$JS.API.CONSUMER.MSG.NEXT.MESSAGES.lab","$JS.ACK.MESSAGES.lab.>"]}`

const fakeCluster = `{"cluster":"c","node":"n1","fhir":"R4","ready":true,"leader":"n1","quorum":true,"subscriptions":{"active":1},"pending":2,"dead":0,
	"logs":[{"name":"EVENTS","last":9}],"partitions":[{"name":"p7-0","mark":9,"lag":0}],
	"nodes":[{"name":"n1","leased":true,"draining":false,"version":"1.2.3","http":"10.0.0.1:8080","clockSkewSeconds":0,"ready":true,"partitions":["p7-0"],"lanes":["3-0"],"lag":{"events":3}},
		{"name":"n2","leased":true,"draining":true,"ready":true,"clockSkewSeconds":31.5,"partitions":[],"lanes":[],"lag":{"events":0}}],
	"streams":[{"name":"EVENTS","leader":"n1","messages":9,"bytes":900,"first":1,"last":9,"replicas":[{"node":"n1","current":true}]}],
	"lanes":[],"problems":[{"node":"n2","text":"its clock is 32s off that of n1","command":"timedatectl set-ntp true"}],"warnings":["x"]}`

const fakeDelivery = `{"stopped":true,"since":"2026-01-02T03:04:05Z","reason":"x","pending":3,"openBreakers":1,"errors":[],"endpoints":[
	{"endpoint":"https://lab.example.org:8443","breaker":"open","failures":21,"lastOutcome":"timeout","out":1,"waiting":2,"nextTry":"2026-01-02T03:04:15Z"}]}`

const fakeVerification = `{"equal":true,"at":{"events":9,"matches":1,"outcomes":1,"dead":0},"nodes":[
	{"name":"n1","at":{"events":9,"matches":1,"outcomes":1,"dead":0},"hash":"aa","differs":[],"tookMs":1.5},
	{"name":"n2","at":{"events":9,"matches":1,"outcomes":1,"dead":0},"hash":"aa","differs":[],"tookMs":1.5}]}`

func (f *fakeServer) admin(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path := strings.TrimPrefix(r.URL.Path, adminPath)
	f.mu.Lock()
	f.bodies = append(f.bodies, string(body))
	f.mu.Unlock()
	answers := map[string]string{
		"GET /subscriptions":             "[" + fakeSubscription + "]",
		"GET /subscriptions/a1":          fakeSubscription,
		"POST /subscriptions/a1/pause":   fakeSubscription,
		"POST /subscriptions/a1/resume":  fakeSubscription,
		"GET /subscriptions/a1/events":   `[{"number":17,"event":40,"resource":"Patient/p","interaction":"update","time":"2026-01-02T03:04:05Z","state":"accepted","attempts":1,"outcome":"accepted"}]`,
		"GET /dlq":                       `[{"id":"a1.17","subscription":"a1","number":17,"event":40,"resource":"Patient/p","kind":"endpoint","reason":"http_status","attempts":3,"state":"dead"}]`,
		"GET /dlq/a1.17":                 `{"id":"a1.17","subscription":"a1","number":17,"resource":"Patient/p","reason":"http_status","attempts":3,"state":"dead","contentType":"application/fhir+json","notification":"eyJhIjoxfQ=="}`,
		"POST /dlq/replay":               `{"count":2,"job":"j1"}`,
		"GET /jobs":                      "[" + fakeJob + "]",
		"GET /jobs/j1":                   fakeJob,
		"GET /jobs/k3v9x0aq2m1c":         fakeJob,
		"POST /jobs/k3v9x0aq2m1c/cancel": fakeJob,
		"POST /trigger":                  `{"id":"j1","kind":"trigger","state":"queued","done":0,"skipped":0,"sent":0}`,
		"POST /dlq/purge":                `{"count":2,"dryRun":true}`,
		"GET /attempts":                  `[{"time":"2026-01-02T03:04:05Z","subscription":"a1","number":17,"event":40,"resource":"Patient/p","attempt":1,"outcome":"timeout","tookMs":15000.5}]`,
		"GET /tokens":                    `[{"id":"t1","name":"lab","roles":["reader","producer"],"created":"2026-01-02T03:04:05Z"}]`,
		"POST /tokens":                   `{"id":"t1","name":"lab","roles":["reader"],"created":"2026-01-02T03:04:05Z","secret":"carillon_t1_s3cret"}`,
		"GET /consumers":                 "[" + fakeConsumer + "]",
		"POST /consumers":                fakeConsumer,
		"GET /cluster":                   fakeCluster,
		"POST /cluster/drain":            `{"name":"n2","draining":true,"partitions":[],"lanes":[]}`,
		"POST /cluster/verify":           fakeVerification,
		"POST /config/reload":            `{"node":"n1","changed":["observability.log.level"],"restart":["node.http"]}`,
		"GET /status":                    `{"cluster":"c","node":"n1","ready":true,"logs":[{"name":"EVENTS","last":9}],"subscriptions":{"active":1}}`,
		"GET /config":                    `{"node":{"http":"127.0.0.1:8080"}}`,
		"POST /explain":                  `{"subscription":"a1","matches":true,"conditions":[{"text":"code=x","met":true,"found":["x"]}]}`,
		"POST /resend":                   `{"count":1,"job":"j2"}`,
		"POST /subscriptions/a1/secret":  `{"subscription":"a1","secret":"whsec_bmV3","until":"2026-01-02T03:04:05Z"}`,
		"POST /keys/rotate":              `{"master":"0a1b2c3d","rewrapped":3,"sealed":1}`,
		"GET /delivery":                  fakeDelivery,
		"POST /delivery/stop":            fakeDelivery,
		"POST /delivery/start":           fakeDelivery,
		"POST /delivery/reset":           fakeDelivery,
		"POST /subscriptions/a1/test":    `{"subscription":"a1","status":"active","resource":"Patient/p","matches":true,"webhookId":"a1.3.test-x","outcome":"accepted","httpStatus":200,"tookMs":1.5}`,
	}
	if r.Method == http.MethodDelete && (path == "/tokens/lab" || path == "/consumers/messages/lab") {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if r.Method == http.MethodPost && path == "/explain" && strings.Contains(string(body), "other") {
		fmt.Fprint(w, `{"subscription":"a1","matches":false,"conditions":[{"text":"code=x","met":false,"note":"no value in the resource"}]}`)
		return
	}
	answer, known := answers[r.Method+" "+path]
	if !known {
		outcome(w, http.StatusNotFound, path+" is not known")
		return
	}
	fmt.Fprint(w, answer)
}

func (f *fakeServer) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// leaves gives every command that does something, by its words.
func leaves(commands []*cli.Command, path []string) map[string]*cli.Command {
	all := map[string]*cli.Command{}
	for _, c := range commands {
		words := append(slices.Clone(path), c.Name)
		if len(c.Subcommands) == 0 {
			all[strings.Join(words, " ")] = c
		}
		maps.Copy(all, leaves(c.Subcommands, words))
	}
	return all
}
