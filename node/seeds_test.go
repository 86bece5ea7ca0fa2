package node

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/node/config"
)

var updateWire = flag.Bool("update-wire", false, "write testdata/wire anew from what is sent")

// world is where the vendors' examples send to: host names and ports as their documents have
// them. It is the resolver of the names, and the proxy by which a port such as 443 leads to a server of the test.
type world struct {
	t     *testing.T
	plain *httptest.Server
	tls   *httptest.Server // its certificate is for example.com
	proxy *httptest.Server

	mu    sync.Mutex
	asked map[string]bool           // host:port of connections
	names map[string]string         // Subscriptions by id
	sent  map[string][]*sentRequest // by Subscription
}

// sentRequest is a request or a message as it arrived.
type sentRequest struct {
	line   string // method and address
	header http.Header
	body   []byte
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, asked: map[string]bool{}, names: map[string]string{}, sent: map[string][]*sentRequest{}}
	w.plain = httptest.NewServer(w.endpoint("http"))
	w.tls = httptest.NewTLSServer(w.endpoint("https"))
	w.proxy = httptest.NewServer(http.HandlerFunc(w.connect))
	t.Cleanup(func() { w.proxy.Close(); w.tls.Close(); w.plain.Close() })
	return w
}

// config is of a node that finds its endpoints in w.
func (w *world) config(dir string) config.Config {
	cfg := testConfig(dir)
	ca := filepath.Join(w.t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.tls.Certificate().Raw}), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cfg.Delivery.Retry.Schedule = config.Schedule{Waits: []time.Duration{time.Millisecond}}
	cfg.Delivery.Egress.Proxy = w.proxy.URL
	cfg.Delivery.Endpoints = []config.Endpoint{{Match: "example.com", CA: ca}}
	return cfg
}

var _ resthook.Resolver = (*world)(nil)

// LookupNetIP answers for the names of the documents. Nothing is sent to the public address: the
// proxy is asked for names.
func (w *world) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	switch host {
	case "example.com":
		return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
	case "localhost":
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// connect is the proxy: it leads each address to the server of its scheme.
func (w *world) connect(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked[r.Host] = true
	w.mu.Unlock()
	to := w.plain
	if strings.HasSuffix(r.Host, ":443") {
		to = w.tls
	}
	out, err := net.Dial("tcp", to.Listener.Addr().String())
	if err != nil {
		http.Error(rw, "", http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go func() {
		io.Copy(out, buffered)
		out.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(in, out)
}

// endpoint notes what comes, by the Subscription that it says it is of, and answers what each example is about.
func (w *world) endpoint(scheme string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		name := w.note(r.Header.Get("X-Carillon-Subscription"), &sentRequest{r.Method + " " + scheme + "://" + r.Host + r.RequestURI, r.Header.Clone(), body})
		switch name {
		case "medplum-max-attempts", "medplum-extension-added", "smile-retry-count":
			rw.WriteHeader(http.StatusServiceUnavailable)
		case "medplum-success-codes":
			rw.WriteHeader(http.StatusNotFound)
		}
	})
}

func (w *world) note(id string, s *sentRequest) (name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name = w.names[id]
	w.sent[name] = append(w.sent[name], s)
	return name
}

// made gives the id of a Subscription that was made, and knows it by a name from now on.
func (w *world) made(answer, name string) string {
	w.t.Helper()
	var s struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &s); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[s.ID] = name
	return s.ID
}

// The 22 Subscriptions of the vendors' documents, each as it stands there, posted to one server,
// and what it sends for each on the wire while resources are written: testdata/wire/{name}.txt has the
// requests, or the refusal of one that lacks what nobody can guess.
func TestTheVendorsOwnSubscriptionsOnTheWire(t *testing.T) {
	t.Parallel()
	quietClients(t)
	w := newWorld(t)
	cfg := w.config(t.TempDir())
	cfg.Observability.AuditLog = filepath.Join(t.TempDir(), "audit.jsonl")
	r := runNode(t, cfg, func(n *Node) { n.resolver = w })
	messages := w.listen(r)
	r.put(201, `{"resourceType":"Patient","id":"2","active":true}`)

	seeds, ids := readSeeds(t), map[string]string{}
	if len(seeds) != 22 {
		t.Fatalf("%d documents, want 22", len(seeds))
	}
	for name, body := range seeds {
		status, answer := r.send("POST", "/fhir/Subscription", string(body))
		if status != 201 {
			golden(t, name, fmt.Sprintf("%d\n%s\n", status, indented(t, []byte(answer))))
			continue
		}
		ids[name] = w.made(answer, name)
	}
	r.lifeOfEachResource(ids)

	for name, events := range map[string]int{
		"medplum-plain": 2, "medplum-extension-added": 2, "medplum-create-only": 1, "medplum-update-only": 1, "medplum-delete-only": 1,
		"medplum-audit-log": 2, "medplum-audit-both": 2, "medplum-expression-array": 1, "medplum-expression": 1,
		"medplum-max-attempts": 1, "medplum-secret": 1, "medplum-success-codes": 1,
		"smile-plain": 2, "smile-retry-count": 2, "smile-payload-search": 2, "smile-payload-search-message": 2,
		"smile-replication": 2, "smile-strip-version": 2, "smile-latest-version": 2, "smile-named-channel": 2,
	} {
		if ids[name] == "" {
			t.Errorf("%s was refused", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			r.within(t).until(ids, name, events)
			if strings.HasPrefix(name, "smile-payload-search-message") || name == "smile-named-channel" {
				messages(t, name, events)
			}
			golden(t, name, w.text(t, name))
			switch name {
			case "medplum-plain":
				r.within(t).audited(ids[name], cfg.Observability.AuditLog, events, 0)
			case "medplum-audit-log":
				r.within(t).audited(ids[name], cfg.Observability.AuditLog, 0, events)
			case "medplum-audit-both":
				r.within(t).audited(ids[name], cfg.Observability.AuditLog, events, events)
			}
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, address := range []string{"example.com:443", "example.com:80", "example.com:8080", "localhost:1234", "localhost:40243"} {
		if !w.asked[address] {
			t.Errorf("no connection was made to %s", address)
		}
		delete(w.asked, address)
	}
	if len(w.asked) > 0 || len(w.sent[""]) > 0 {
		t.Errorf("sent to others: %v, %v", w.asked, w.sent[""])
	}
}

// Medplum's plain example has nothing by which it could be told from one for HAPI. Where a server's style is
// webhook it is sent what its author expects.
func TestMedplumsPlainSubscriptionOnAServerInWebhookStyle(t *testing.T) {
	t.Parallel()
	quietClients(t)
	w := newWorld(t)
	cfg := w.config(t.TempDir())
	cfg.Delivery.RestHook.Style = "webhook"
	r := runNode(t, cfg, func(n *Node) { n.resolver = w })
	status, answer := r.send("POST", "/fhir/Subscription", string(readSeeds(t)["medplum-plain"]))
	if status != 201 {
		t.Fatalf("%d %s", status, answer)
	}
	const name = "medplum-plain-in-webhook-style"
	id := w.made(answer, name)
	r.put(201, `{"resourceType":"Patient","id":"1","name":[{"family":"Smith","given":["Ada"]}]}`)
	r.put(200, `{"resourceType":"Patient","id":"1","name":[{"family":"Jones","given":["Ada"]}]}`)
	r.do(204, "DELETE", "/fhir/Patient/1", "", nil)
	r.until(map[string]string{name: id}, name, 2)
	golden(t, name, w.text(t, name))
}

// lifeOfEachResource writes one resource of each type that the examples look at, so that what comes
// of it has one order.
func (r *running) lifeOfEachResource(ids map[string]string) {
	r.pause(ids["smile-latest-version"])
	observation := `{"resourceType":"Observation","id":"3","status":"STATUS","code":{"coding":[{"system":"SNOMED-CT","code":"1000000050"}]},` +
		`"subject":{"reference":"Patient/2"},"valueQuantity":{"value":7.20,"unit":"d"}}`
	r.put(201, strings.Replace(observation, "STATUS", "preliminary", 1))
	r.until(ids, "smile-payload-search", 1) // both of them read what there is then
	r.until(ids, "smile-payload-search-message", 1)
	r.put(200, strings.Replace(observation, "STATUS", "final", 1))
	r.until(ids, "smile-payload-search", 2)
	r.until(ids, "smile-payload-search-message", 2)
	r.resume(ids["smile-latest-version"])

	report := `{"resourceType":"DiagnosticReport","id":"1","status":"STATUS","code":{"text":"blood count"},"conclusion":"Größer als 5 < 7 & \"normal\""}`
	r.put(201, strings.Replace(report, "STATUS", "registered", 1))
	r.put(200, strings.Replace(report, "STATUS", "completed", 1))

	task := `{"resourceType":"Task","id":"1","status":"STATUS","intent":"order"}`
	r.put(201, strings.Replace(task, "STATUS", "requested", 1)) // no status was before it
	r.put(200, strings.Replace(task, "STATUS", "accepted", 1))
	r.put(200, strings.NewReplacer("STATUS", "accepted", `"intent"`, `"priority":"urgent","intent"`).Replace(task))

	r.put(201, `{"resourceType":"Patient","id":"1","name":[{"family":"Smith","given":["Ada"]}]}`)
	r.put(200, `{"resourceType":"Patient","id":"1","name":[{"family":"Smith","given":["Ada"]},{"family":"Jones"}]}`)
	r.do(204, "DELETE", "/fhir/Patient/1", "", nil)
}

// until waits for the end of all that n events of an example were for.
func (r *running) until(ids map[string]string, name string, n int) {
	r.t.Helper()
	r.await(fmt.Sprintf("the end of %d notifications of %s", n, name), "/admin/api/v1/subscriptions/"+ids[name], func(s map[string]any) bool {
		return s["events"] == float64(n) && s["pending"] == 0.0
	})
}

// audited waits for the AuditEvents of a Subscription's attempts: so many found by a search, and so many
// lines of the log.
func (r *running) audited(id, log string, resources, lines int) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var found struct{ Total int }
		r.do(200, "GET", "/fhir/AuditEvent?type=transmit&entity=Subscription/"+id+"&_summary=count", "", &found)
		text, err := os.ReadFile(log)
		if err != nil {
			r.t.Fatal(err)
		}
		logged := 0
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "Subscription/"+id) {
				logged++
			}
		}
		if found.Total == resources && logged == lines {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d AuditEvents and %d lines, want %d and %d", found.Total, logged, resources, lines)
		}
	}
}

// listen follows what message channels publish. The function that it returns takes the next n
// messages of an example.
func (w *world) listen(r *running) func(t *testing.T, name string, n int) {
	w.t.Helper()
	nc, err := nats.Connect("nats://" + r.server.Addr())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	subs := map[string]*nats.Subscription{}
	for name, subject := range map[string]string{"smile-payload-search-message": "fhir.message.example-queue-name", "smile-named-channel": "fhir.message.MyQueueName"} {
		if subs[name], err = nc.SubscribeSync(subject); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		w.t.Fatal(err)
	}
	return func(t *testing.T, name string, n int) {
		t.Helper()
		for range n {
			m, err := subs[name].NextMsg(30 * time.Second)
			if err != nil {
				t.Fatalf("message for %s: %v", name, err)
			}
			header := http.Header(m.Header)
			var id string
			for k, v := range header {
				if strings.EqualFold(k, "X-Carillon-Subscription") {
					id = v[0]
				}
			}
			if got := w.note(id, &sentRequest{"PUBLISH " + m.Subject, header, m.Data}); got != name {
				t.Errorf("%s: a message of %q", name, got)
			}
		}
	}
}

// Of the machine's making, and not the server's.
var transport = []string{"Accept-Encoding", "Content-Length", "Connection"}

// text writes what came for an example as a file has it. What differs from run to run is checked
// here, and has its meaning in its place.
func (w *world) text(t *testing.T, name string) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]string{}
	var b strings.Builder
	for i, s := range w.sent[name] {
		if i > 0 {
			b.WriteString("\n---\n\n")
		}
		fmt.Fprintln(&b, s.line)
		var lines []string
		for k, values := range s.header {
			for _, v := range values {
				if !slices.Contains(transport, k) {
					lines = append(lines, k+": "+stamped(t, name, k, v, s))
				}
			}
		}
		slices.Sort(lines)
		for _, l := range lines {
			fmt.Fprintln(&b, w.anonymous(l))
		}
		if len(s.body) > 0 {
			fmt.Fprintf(&b, "\n%s\n", unstamped(string(s.body), seen))
		}
	}
	return b.String()
}

// anonymous puts a name in place of ids that a run gave.
func (w *world) anonymous(line string) string {
	for id, name := range w.names {
		if strings.Contains(line, id) {
			return birth.ReplaceAllString(strings.ReplaceAll(line, id, "{"+name+"}"), "$1.{birth}.$2")
		}
	}
	return line
}

var birth = regexp.MustCompile(`(\})\.\d+\.(\d+)`)

// stamped checks the value of a header that is of its time.
func stamped(t *testing.T, name, key, value string, s *sentRequest) string {
	t.Helper()
	const secret = "abc" // as Medplum's page has it
	switch strings.ToLower(key) {
	case "webhook-timestamp":
		return "{unix time}"
	case "x-signature":
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(s.body)
		if value != hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("%s: X-Signature %s is not that of the body", name, value)
		}
		return "{hex HMAC-SHA256 of the body under abc}"
	case "webhook-signature":
		mac := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(mac, "%s.%s.%s", s.header.Get("webhook-id"), s.header.Get("webhook-timestamp"), s.body)
		if value != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
			t.Errorf("%s: webhook-signature %s is not that of the message", name, value)
		}
		return "{v1 of id, time and body under abc}"
	}
	return value
}

// unstamped puts names in place of versions and times.
func unstamped(body string, seen map[string]string) string {
	body = stampedTime.ReplaceAllString(body, `"lastUpdated":"then"`)
	body = stampedVersion.ReplaceAllStringFunc(body, func(s string) string {
		m := stampedVersion.FindStringSubmatch(s)
		if seen[m[2]] == "" {
			seen[m[2]] = fmt.Sprintf("v%d", len(seen)+1)
		}
		return m[1] + seen[m[2]] + m[3]
	})
	return stampedID.ReplaceAllString(body, `"Bundle","id":"one of its own"`)
}

// indented writes an OperationOutcome for people.
func indented(t *testing.T, body []byte) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	delete(v, "id") // of the request
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// golden compares with testdata/wire, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "wire", name+".txt")
	if *updateWire {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: sent\n%s\nwant, as %s has it,\n%s", name, got, file, want)
	}
}
