package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/node/seal"
	"github.com/carillon-fhir/carillon/stream"
)

// signedHook is an endpoint that keeps what it gets.
type signedHook struct {
	URL string
	got chan *http.Request
}

func newHook(t *testing.T) *signedHook {
	h := &signedHook{got: make(chan *http.Request, 100)}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.got <- r
	}))
	t.Cleanup(s.Close)
	h.URL = s.URL
	return h
}

// next is the next notification, with its body.
func (h *signedHook) next(t *testing.T) (*http.Request, []byte) {
	t.Helper()
	select {
	case r := <-h.got:
		body, _ := io.ReadAll(r.Body)
		return r, body
	case <-time.After(30 * time.Second):
		t.Fatal("no notification comes")
		return nil, nil
	}
}

const (
	canarySecret = "canarysecret7f3a"
	canaryHeader = "canaryheader9c1d"
)

// secretive is a Subscription with both kinds of secrets.
func secretive(id, endpoint, secret, header string) string {
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"active","criteria":"Patient?",
"extension":[{"url":"https://www.medplum.com/fhir/StructureDefinition/subscription-secret","valueString":%q}],
"channel":{"type":"rest-hook","endpoint":%q,"payload":"application/fhir+json","header":["Authorization: Bearer %s","X-Empty:"]}}`, id, secret, endpoint, header)
}

// ask asks as the holder of a token, and gives the answer's text.
func (r *running) ask(token string, status int, method, path, body string) string {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.Addr()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status {
		r.t.Fatalf("%s %s: %d, want %d: %s", method, path, res.StatusCode, status, text)
	}
	return string(text)
}

// grep lists the files below a folder that hold a text.
func grep(t *testing.T, dir string, marks ...string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, mark := range marks {
			if bytes.Contains(text, []byte(mark)) {
				found = append(found, path+": "+mark)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// stored is the newest version of a Subscription as the log has it.
func (r *running) stored(id fhir.ID) string {
	r.t.Helper()
	m, err := r.server.LastFor(r.t.Context(), stream.Events, stream.EventSubject(fhir.Key{Type: "Subscription", ID: id}))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(m.Data)
}

// keys are the records of SECRETS.
func (r *running) keys() (records []keyRecord) {
	r.t.Helper()
	err := secretsLog{r.server}.all(r.t.Context(), func(m stream.Message) error {
		var k keyRecord
		records = append(records, k)
		return json.Unmarshal(m.Data, &records[len(records)-1])
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return records
}

func TestSecretsAreInNoFileAndInEveryRequest(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	sub := secretive("s", h.URL, canarySecret, canaryHeader)
	check := func(r *running, patient string) {
		t.Helper()
		r.do(201, "PUT", "/fhir/Patient/"+patient, fmt.Sprintf(`{"resourceType":"Patient","id":%q}`, patient), nil)
		req, body := h.next(t)
		if got := req.Header.Get("Authorization"); got != "Bearer "+canaryHeader {
			t.Errorf("Authorization %q", got)
		}
		if err := resthook.Verify(canarySecret, req.Header, body, time.Now()); err != nil {
			t.Error(err)
		}
	}
	r := runNode(t, testConfig(dir))
	r.do(201, "PUT", "/fhir/Subscription/s", sub, nil)
	check(r, "a")
	if text := r.ask("", 200, "GET", "/fhir/Subscription/s", ""); !strings.Contains(text, `"Authorization: Bearer `+canaryHeader+`"`) || !strings.Contains(text, `"`+canarySecret+`"`) || !strings.Contains(text, `"X-Empty:"`) {
		t.Errorf("its owner reads %s", text)
	}
	var before, after struct{ Meta struct{ VersionID string } }
	r.do(200, "GET", "/fhir/Subscription/s", "", &before)
	r.do(200, "PUT", "/fhir/Subscription/s", sub, &after)
	if before != after || len(r.keys()) != 1 {
		t.Errorf("writing the same again made version %s of %s, with %d keys", after.Meta.VersionID, before.Meta.VersionID, len(r.keys()))
	}
	r.do(200, "PUT", "/fhir/Subscription/s", strings.Replace(sub, "Patient?", "Patient?_id=a,b,c", 1), &after)
	if before == after || len(r.keys()) != 1 {
		t.Errorf("another version has another key: %d", len(r.keys()))
	}
	check(r, "b")
	if m, err := r.server.LastFor(t.Context(), stream.Events, stream.EventSubject(fhir.Key{Type: "Subscription", ID: "s"})); err != nil || m.Header.Get(headerFormat) != "2" {
		t.Errorf("a sealed version has format %q, %v: an older release would take it for clear text", m.Header.Get(headerFormat), err)
	}
	if stored := r.stored("s"); !strings.Contains(stored, `"Authorization: `+seal.Prefix) || strings.Contains(stored, "canary") {
		t.Errorf("the log has %s", stored)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if found := grep(t, dir, canarySecret, canaryHeader); found != nil {
		t.Errorf("secrets stand in %q", found)
	}
	if info, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the master key's file: %v, %v", info, err)
	}
	cfg := testConfig(dir)
	cfg.Run.Rebuild = true // the projection is made again of sealed versions
	again := runNode(t, cfg)
	check(again, "c")
	if strings.Contains(r.logs.String()+again.logs.String(), "canary") {
		t.Error("a secret is in the log of the program")
	}
}

func TestOthersSeeAMaskAndCannotWriteItBack(t *testing.T) {
	r, h := runNode(t, testConfig(t.TempDir())), newHook(t)
	token := func(admin, name, role string) string {
		var made struct{ Secret string }
		text := r.ask(admin, 201, "POST", "/admin/api/v1/tokens", fmt.Sprintf(`{"name":%q,"roles":[%q]}`, name, role))
		if err := json.Unmarshal([]byte(text), &made); err != nil {
			t.Fatal(err)
		}
		return made.Secret
	}
	admin := token("", "root", "admin")
	owner, other, reader, operator := token(admin, "o", "subscriber"), token(admin, "p", "subscriber"), token(admin, "r", "reader"), token(admin, "op", "operator")
	written := r.ask(owner, 201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader))
	r.ask(owner, 200, "PUT", "/fhir/Subscription/s", strings.Replace(secretive("s", h.URL, canarySecret, canaryHeader), "Patient?", "Patient?active=true", 1))
	if !strings.Contains(written, canarySecret) {
		t.Errorf("the answer to its owner's write: %s", written)
	}
	paths := []string{"/fhir/Subscription/s", "/fhir/Subscription?_id=s", "/fhir/Subscription/s/_history"}
	for who, sees := range map[string]bool{admin: true, owner: true, other: false, reader: false, operator: false} {
		for _, path := range paths {
			text := r.ask(who, 200, "GET", path, "")
			for _, mark := range []string{canarySecret, canaryHeader} {
				if strings.Contains(text, mark) != sees {
					t.Errorf("%s: shown %v, want %v: %s", path, !sees, sees, text)
				}
			}
			if strings.Contains(text, mask) == sees || strings.Contains(text, seal.Prefix) {
				t.Errorf("%s: %s", path, text)
			}
		}
		batch := r.ask(who, 200, "POST", "/fhir", `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Subscription/s"}}]}`)
		if strings.Contains(batch, canarySecret) != sees {
			t.Errorf("in a batch: %s", batch)
		}
	}
	masked := r.ask(reader, 200, "GET", "/fhir/Subscription/s", "")
	if text := r.ask(owner, 422, "PUT", "/fhir/Subscription/s", masked); !strings.Contains(text, "write the secret itself") {
		t.Errorf("the mask is refused with %s", text)
	}
	r.ask(owner, 422, "PUT", "/fhir/Subscription/s", r.stored("s"))
	// A patch of something else by its owner keeps the secrets.
	req, _ := http.NewRequest("PATCH", "http://"+r.Addr()+"/fhir/Subscription/s", strings.NewReader(`[{"op":"add","path":"/reason","value":"x"}]`))
	req.Header = http.Header{"Authorization": {"Bearer " + owner}, "Content-Type": {"application/json-patch+json"}}
	if res, err := http.DefaultClient.Do(req); err != nil || res.StatusCode != 200 {
		t.Fatalf("patch: %v %v", res, err)
	}
	if text := r.ask(owner, 200, "GET", "/fhir/Subscription/s", ""); !strings.Contains(text, canarySecret) || !strings.Contains(text, `"reason"`) {
		t.Errorf("after a patch: %s", text)
	}
}

func TestASubscriptionAboutSubscriptionsIsSentNoSecrets(t *testing.T) {
	r, h := runNode(t, testConfig(t.TempDir())), newHook(t)
	r.do(201, "PUT", "/fhir/Subscription/watcher", subscriptionTo("watcher", "Subscription?", h.URL), nil)
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	_, body := h.next(t)
	if !strings.Contains(string(body), mask) || strings.Contains(string(body), "canary") || strings.Contains(string(body), seal.Prefix) {
		t.Errorf("sent was %s", body)
	}
}

func TestWhoReadsTheLogSeesSealedTexts(t *testing.T) {
	r, h := runNode(t, testConfig(t.TempDir())), newHook(t)
	nc, err := nats.Connect(r.NATSAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync("fhir.event.Subscription.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.SubscribeSync("fhir.secret.>"); err == nil {
		nc.Flush()
		if nc.LastError() == nil {
			t.Error("a guest may hear of wrapped keys")
		}
	}
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	m, err := sub.NextMsg(30 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(m.Data); strings.Contains(text, "canary") || !strings.Contains(text, seal.Prefix) {
		t.Errorf("it hears %s", text)
	}
}

func TestDeletingASubscriptionErasesItsSecrets(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	r := runNode(t, testConfig(dir))
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	r.do(201, "PUT", "/fhir/Subscription/t", secretive("t", h.URL, "another", "one"), nil)
	first := r.keys()
	sealed := r.stored("s")
	r.do(204, "DELETE", "/fhir/Subscription/s", "", nil)
	if left := r.keys(); len(first) != 2 || len(left) != 1 || left[0].Subscription != "t" {
		t.Fatalf("keys before %+v, after %+v", first, left)
	}
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, "newborn", "bearer"), nil)
	if stored := r.stored("s"); stored == sealed {
		t.Error("the new life is sealed by the old key")
	}
	text := r.ask("", 200, "GET", "/fhir/Subscription/s/_history", "")
	if strings.Contains(text, "canary") || !strings.Contains(text, mask) || !strings.Contains(text, "newborn") {
		t.Errorf("the history shows %s", text)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, testConfig(dir))
	again.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	for range 2 {
		req, body := h.next(t)
		secret := map[string]string{"s": "newborn", "t": "another"}[req.Header.Get("X-Carillon-Subscription")]
		if err := resthook.Verify(secret, req.Header, body, time.Now()); err != nil {
			t.Error(err)
		}
	}
}

// A delete that nobody was left to finish is finished at the next start; a key that was made and
// never used is left alone while its Subscription may still be written.
func TestKeysOfDeletedSubscriptionsAreErasedAtTheNextStart(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	r := runNode(t, testConfig(dir))
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	record := r.keys()[0]
	r.do(204, "DELETE", "/fhir/Subscription/s", "", nil)
	put := func(k keyRecord) {
		t.Helper()
		data, _ := json.Marshal(k)
		if _, err := r.server.Append(t.Context(), stream.Secrets, stream.SecretSubject(k.ID), data, 0); err != nil {
			t.Fatal(err)
		}
	}
	put(record) // as if the node had been killed before it was erased
	unused, err := r.vault.keyFor(t.Context(), "unborn", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, testConfig(dir))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := again.keys()
		if len(left) == 1 && left[0].ID == unused.ID {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("keys %+v are left", left)
		}
	}
}

func TestWithoutItsMasterKeyANodeDoesNotStart(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	r := runNode(t, testConfig(dir))
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	master := r.keys()[0].Master
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.Rename(filepath.Join(dir, keyFile), kept); err != nil {
		t.Fatal(err)
	}
	n, err := New(testConfig(dir), r.log, "test")
	if err != nil {
		t.Fatal(err)
	}
	err = n.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), master) || !strings.Contains(err.Error(), "security.secrets_key") {
		t.Fatalf("the node says %v", err)
	}
	os.Remove(filepath.Join(dir, keyFile)) // that the start has made
	cfg := testConfig(dir)
	cfg.Security.SecretsKeyFile = kept
	runNode(t, cfg).do(200, "GET", "/fhir/Subscription/s", "", nil)
}

func TestAKeyFileThatOthersCanReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	r := runNode(t, testConfig(dir))
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	n, err := New(testConfig(dir), r.log, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("the node says %v", err)
	}
}

func base64Key(c string) string { return string(bytes.Repeat([]byte(c), 43)) + "=" }

func TestMasterKeysAreReplacedWhileTheNodeRuns(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	cfg := testConfig(dir)
	cfg.Security.SecretsKey = []string{base64Key("A")}
	next := cfg
	r := runNode(t, cfg, func(n *Node) { n.Reloads(func() (config.Config, error) { return next, nil }, nil) })
	if _, err := os.Stat(filepath.Join(dir, keyFile)); err == nil {
		t.Error("a node with a master key made another")
	}
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	old, sealed := r.keys()[0], r.stored("s")
	next.Security.SecretsKey = []string{base64Key("B")}
	if _, err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), old.Master) {
		t.Errorf("a key that is still needed was taken away: %v", err)
	}
	next.Security.SecretsKey = []string{base64Key("B"), base64Key("A")}
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	var rotated api.RotatedKeys
	r.do(200, "POST", "/admin/api/v1/keys/rotate", "", &rotated)
	if now := r.keys(); rotated.Rewrapped != 1 || rotated.Sealed != 0 || len(now) != 1 || now[0].ID != old.ID || now[0].Master == old.Master || now[0].Master != rotated.Master {
		t.Errorf("%+v; key %+v became %+v", rotated, old, now)
	}
	if r.stored("s") != sealed {
		t.Error("a Subscription was written again")
	}
	r.do(200, "POST", "/admin/api/v1/keys/rotate", "", &rotated)
	if rotated.Rewrapped != 0 {
		t.Errorf("again: %+v", rotated)
	}
	next.Security.SecretsKey = []string{base64Key("B")}
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if found := grep(t, dir, old.Master); found != nil {
		t.Errorf("what the old key wrapped still stands in %q", found)
	}
	again := runNode(t, next)
	again.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	req, body := h.next(t)
	if err := resthook.Verify(canarySecret, req.Header, body, time.Now()); err != nil {
		t.Error(err)
	}
}

// Logs of before there were keys are read as they are, and sealed by keys rotate.
func TestWhatStoodInClearIsSealedByARotation(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	r := runNode(t, testConfig(dir))
	var none seal.Ring
	ring := r.vault.ring.Swap(&none) // as a cluster without a master key
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	if stored := r.stored("s"); !strings.Contains(stored, canarySecret) {
		t.Fatalf("without a master key is stored %s", stored)
	}
	var st api.Status
	r.do(200, "GET", "/admin/api/v1/status", "", &st)
	if !strings.Contains(strings.Join(st.Warnings, " "), "security.secrets_key") {
		t.Errorf("warnings %q", st.Warnings)
	}
	r.ask("", 409, "POST", "/admin/api/v1/keys/rotate", "")
	r.vault.ring.Store(ring)
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/pause", "", nil)
	var rotated api.RotatedKeys
	r.do(200, "POST", "/admin/api/v1/keys/rotate", "", &rotated)
	if stored := r.stored("s"); rotated.Sealed != 1 || strings.Contains(stored, "canary") {
		t.Errorf("%+v; stored is %s", rotated, stored)
	}
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/resume", "", nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	req, body := h.next(t)
	if err := resthook.Verify(canarySecret, req.Header, body, time.Now()); err != nil || req.Header.Get("Authorization") != "Bearer "+canaryHeader {
		t.Errorf("%v, Authorization %q", err, req.Header.Get("Authorization"))
	}
}

func TestASecretIsReplacedWithAnOverlapThatOutlivesARestart(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	r := runNode(t, testConfig(dir))
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	r.do(201, "PUT", "/fhir/Subscription/plain", subscriptionTo("plain", "Observation?", h.URL), nil)
	var first, second api.RotatedSecret
	r.do(200, "POST", "/admin/api/v1/subscriptions/s/secret", `{}`, &first)
	if !strings.HasPrefix(first.Secret, "whsec_") || time.Until(first.Until) < 23*time.Hour {
		t.Fatalf("rotated to %+v", first)
	}
	verify := func(r *running, patient string, good, bad []string) {
		t.Helper()
		r.do(201, "PUT", "/fhir/Patient/"+patient, fmt.Sprintf(`{"resourceType":"Patient","id":%q}`, patient), nil)
		req, body := h.next(t)
		for _, s := range good {
			if err := resthook.Verify(s, req.Header, body, time.Now()); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
		for _, s := range bad {
			if resthook.Verify(s, req.Header, body, time.Now()) == nil {
				t.Errorf("%s still signs", s)
			}
		}
		if req.Header.Get("Authorization") != "Bearer "+canaryHeader {
			t.Errorf("Authorization %q", req.Header.Get("Authorization"))
		}
	}
	verify(r, "a", []string{first.Secret, canarySecret}, nil)
	if text := r.ask("", 200, "GET", "/fhir/Subscription/s", ""); !strings.Contains(text, first.Secret) || strings.Contains(text, canarySecret) {
		t.Errorf("it reads %s", text)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if found := grep(t, dir, canarySecret, first.Secret); found != nil {
		t.Errorf("secrets stand in %q", found)
	}
	again := runNode(t, testConfig(dir))
	verify(again, "b", []string{first.Secret, canarySecret}, nil)
	again.do(200, "POST", "/admin/api/v1/subscriptions/s/secret", `{"secret":"mine","overlap":"1h"}`, &second)
	verify(again, "c", []string{"mine", first.Secret, canarySecret}, nil)
	again.do(200, "POST", "/admin/api/v1/subscriptions/s/secret", `{"secret":"only","overlap":"0s"}`, &second)
	verify(again, "d", []string{"only"}, []string{"mine", first.Secret, canarySecret})

	for body, want := range map[string]string{
		`{"secret":"only"}`: "has already", `{"secret":"whsec_!"}`: "base64", `{"overlap":"-1s"}`: "overlap is a duration", `{"overlap":"1000h"}`: "overlap is a duration", `{"overlap":"x"}`: "overlap is a duration",
	} {
		status := map[bool]int{true: 409}[strings.Contains(want, "already")]
		if strings.Contains(want, "base64") {
			status = 422
		}
		if status == 0 {
			status = 400
		}
		if text := again.ask("", status, "POST", "/admin/api/v1/subscriptions/s/secret", body); !strings.Contains(text, want) {
			t.Errorf("%s: %s", body, text)
		}
	}
	if text := again.ask("", 409, "POST", "/admin/api/v1/subscriptions/plain/secret", `{}`); !strings.Contains(text, fhir.ExtSecret) {
		t.Errorf("without a secret: %s", text)
	}
	again.ask("", 404, "POST", "/admin/api/v1/subscriptions/none/secret", `{}`)
	for i := range maxRetired {
		again.do(200, "POST", "/admin/api/v1/subscriptions/s/secret", fmt.Sprintf(`{"secret":"r%d"}`, i), nil)
	}
	if text := again.ask("", 409, "POST", "/admin/api/v1/subscriptions/s/secret", `{}`); !strings.Contains(text, "no overlap") {
		t.Errorf("too many at once: %s", text)
	}
}

func TestTheClustersOwnKeyIsMadeOnceAndShown(t *testing.T) {
	dir, h := t.TempDir(), newHook(t)
	cfg := testConfig(dir)
	cfg.Delivery.Signatures.Ed25519 = true
	var sets [2]struct {
		Keys []struct{ Kty, Crv, X, Kid, Use, Alg, D string }
	}
	for i := range sets {
		r := runNode(t, cfg)
		r.do(200, "GET", "/.well-known/jwks.json", "", &sets[i])
		r.do(map[int]int{0: 201, 1: 200}[i], "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", h.URL), nil)
		r.do(201, "PUT", fmt.Sprintf("/fhir/Patient/p%d", i), fmt.Sprintf(`{"resourceType":"Patient","id":"p%d"}`, i), nil)
		if req, _ := h.next(t); !strings.HasPrefix(req.Header.Get("webhook-signature"), "v1a,") {
			t.Errorf("signature %q", req.Header.Get("webhook-signature"))
		}
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
	}
	k := sets[0].Keys
	if len(k) != 1 || k[0].Kty != "OKP" || k[0].Crv != "Ed25519" || k[0].Kid == "" || k[0].X == "" || k[0].D != "" || k[0] != sets[1].Keys[0] {
		t.Errorf("keys %+v", sets)
	}
	cfg.Delivery.Signatures.Ed25519 = false
	var none struct{ Keys []any }
	runNode(t, cfg).do(200, "GET", "/.well-known/jwks.json", "", &none)
	if none.Keys == nil || len(none.Keys) != 0 {
		t.Errorf("without a key: %+v", none)
	}
}

// A version whose key is not here yet is matched, and sent when the key has come: never without
// what its author wanted.
func TestAnEndpointThatAnswersWithWhatItWasSentLeavesNoSecretBehind(t *testing.T) {
	dir := t.TempDir()
	for _, status := range []int{200, 500} {
		at := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, "you sent %s by %s", req.Header.Get("Authorization"), canarySecret)
		}))
		defer at.Close()
		cfg := testConfig(filepath.Join(dir, strconv.Itoa(status)))
		cfg.Delivery.Retry.Attempts = 1
		r := runNode(t, cfg)
		r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", at.URL, canarySecret, canaryHeader), nil)
		r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
		r.sent("s", 1)
		for _, text := range []string{r.ask("", 200, "GET", "/admin/api/v1/attempts", ""), r.ask("", 200, "POST", "/admin/api/v1/subscriptions/s/test", "{}")} {
			if strings.Contains(text, "canary") || !strings.Contains(text, "you sent "+mask+" by "+mask) {
				t.Errorf("shown %s", text)
			}
		}
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range grep(t, dir, canarySecret, canaryHeader) {
		t.Errorf("found %s", f)
	}
}

func TestASubscriptionWaitsForItsKey(t *testing.T) {
	r, h := runNode(t, testConfig(t.TempDir())), newHook(t)
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	// As on a node that folds a version which another one wrote.
	s := r.subs.get("s")
	r.vault.mu.Lock()
	key := r.vault.known[s.sealedBy]
	delete(r.vault.known, s.sealedBy)
	r.vault.mu.Unlock()
	e, err := r.readEvent(t.Context(), s.version)
	if err != nil {
		t.Fatal(err)
	}
	locked := &subscription{id: "s", version: s.version}
	r.subs.read(locked, e.Body)
	if locked.problem != "" || locked.locked == nil || locked.sealedBy != s.sealedBy || locked.Status != fhir.StatusActive {
		t.Fatalf("without its key it is %+v", locked)
	}
	if why := locked.lockedBy(); why != "" && !strings.Contains(why, "not here yet") {
		t.Errorf("it is locked because %s", why)
	}
	for deadline := time.Now().Add(30 * time.Second); locked.form() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the key does not come")
		}
	}
	if form := locked.form(); form.Secrets[0] != canarySecret || form.Channel.Headers[0] != "Authorization: Bearer "+canaryHeader {
		t.Errorf("it is sent by %+v", form)
	}
	if k := r.vault.cached(s.sealedBy); k == nil || k.ID != key.ID {
		t.Error("the key was not kept")
	}
}

func TestAKeyOfAnotherMasterKeyIsToldOnceAndStandsInTheStatus(t *testing.T) {
	r, h := runNode(t, testConfig(t.TempDir())), newHook(t)
	foreign, err := seal.NewRing([][]byte{bytes.Repeat([]byte{9}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	r.do(201, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	s := r.subs.get("s")
	e, err := r.readEvent(t.Context(), s.version)
	if err != nil {
		t.Fatal(err)
	}
	// A node of the same cluster with another master key.
	var log bytes.Buffer
	v := newVault(slog.New(slog.NewTextHandler(&log, nil)), secretsLog{r.server}, foreign)
	v.subs = r.subs.get
	locked := &lockedForm{vault: v, id: "s", body: e.Body}
	v.want(s.sealedBy, "s")
	for range 2 {
		if again := v.fetchWanted(t.Context()); !again {
			t.Fatal("it is not tried again")
		}
	}
	if form := locked.open(); form != nil || !strings.Contains(locked.problem.Error(), "security.secrets_key") {
		t.Errorf("opened %v, %v", form, locked.problem)
	}
	if n := strings.Count(log.String(), "cannot be opened"); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
	if w := v.warnings(); len(w) != 1 || !strings.Contains(w[0], "security.secrets_key") {
		t.Errorf("warnings %q", w)
	}

	away := *s
	away.locked = locked
	if _, _, err := (&admin{r.Node}).trial(t.Context(), &away, deliver.Target{}, fhir.Key{}); err == nil || !strings.Contains(err.Error(), "security.secrets_key") {
		t.Errorf("a test is sent with sealed texts: %v", err)
	}

	v.ring.Store(r.vault.ring.Load()) // as a reload does
	if again := v.fetchWanted(t.Context()); again || locked.open() == nil || len(v.warnings()) != 0 {
		t.Errorf("with the right key: %v, %v, %q", again, locked.problem, v.warnings())
	}
}

func TestWhatIsRefusedOrWrittenAgainLeavesNoKeysBehind(t *testing.T) {
	r, h := runNode(t, testConfig(t.TempDir())), newHook(t)
	entry := func(id, body string) string {
		return `{"resource":` + body + `,"request":{"method":"PUT","url":"Subscription/` + id + `"}}`
	}
	bundle := func(entries ...string) string {
		return `{"resourceType":"Bundle","type":"transaction","entry":[` + strings.Join(entries, ",") + `]}`
	}
	good := entry("s", secretive("s", h.URL, canarySecret, canaryHeader))
	bad := entry("t", strings.Replace(secretive("t", h.URL, canarySecret, canaryHeader), "Patient?", "Patient?no-such=1", 1))
	r.do(422, "POST", "/fhir", bundle(good, bad), nil)
	if left := r.keys(); len(left) != 0 {
		t.Errorf("a refused transaction leaves %+v", left)
	}
	r.do(200, "POST", "/fhir", bundle(good), nil)
	for range 3 { // with secrets and without
		r.do(200, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", h.URL), nil)
		r.do(200, "PUT", "/fhir/Subscription/s", secretive("s", h.URL, canarySecret, canaryHeader), nil)
	}
	if left := r.keys(); len(left) > 2 { // the one of its birth, and one of later
		t.Errorf("one Subscription has the keys %+v", left)
	}
	if s := r.subs.get("s"); s.lockedBy() != "" || s.form().Secrets[0] != canarySecret {
		t.Errorf("it is locked: %s", s.lockedBy())
	}
	r.do(204, "DELETE", "/fhir/Subscription/s", "", nil)
	if left := r.keys(); len(left) != 0 {
		t.Errorf("deleted it leaves %+v", left)
	}
}
