package resthook_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

const whsec = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// sent is what an endpoint gets of a notification.
func sent(t *testing.T, o resthook.Options, n deliver.Notification, change func(*deliver.Target)) delivertest.Request {
	t.Helper()
	e := delivertest.NewEndpoint(t)
	o.Egress = dev
	to := target(e.URL+"/hook", deliver.StyleWebhook)
	change(&to)
	if _, failure := newChannel(t, o).Send(t.Context(), n, to); failure != nil {
		t.Fatal(failure)
	}
	return e.Requests()[0]
}

// referee is the library of the Standard Webhooks project, as a receiver uses it.
func referee(t *testing.T, secret string) *standardwebhooks.Webhook {
	t.Helper()
	var w *standardwebhooks.Webhook
	var err error
	if strings.HasPrefix(secret, "whsec_") {
		w, err = standardwebhooks.NewWebhook(secret)
	} else {
		w, err = standardwebhooks.NewWebhookRaw([]byte(secret))
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAReceiverVerifiesWhatItGetsAndNothingElse(t *testing.T) {
	nothing := update()
	for _, tc := range []struct {
		name    string
		secret  string
		n       deliver.Notification
		style   deliver.Style
		payload string
		body    string
	}{
		{"update", whsec, update(), deliver.StyleWebhook, "", string(update().Body)},
		{"update in the style of FHIR", whsec, update(), deliver.StyleFHIR, "application/json", string(update().Body)},
		{"a secret of plain text", "abc123", update(), deliver.StyleWebhook, "", string(update().Body)},
		{"Medplum's delete, whose body is {}", "abc123", removal(), deliver.StyleWebhook, "", "{}"},
		{"delete without a body", whsec, removal(), deliver.StyleFHIR, "application/json", ""},
		{"no payload", whsec, nothing, deliver.StyleFHIR, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := sent(t, resthook.Options{}, tc.n, func(to *deliver.Target) {
				to.Secrets, to.Style, to.Payload = []string{tc.secret}, tc.style, tc.payload
			})
			if string(r.Body) != tc.body {
				t.Fatalf("body %q", r.Body)
			}
			w := referee(t, tc.secret)
			if err := w.Verify(r.Body, r.Header); err != nil {
				t.Errorf("the referee: %v", err)
			}
			if err := resthook.Verify(tc.secret, r.Header, r.Body, time.Now()); err != nil {
				t.Errorf("our own: %v", err)
			}
			m := hmac.New(sha256.New, []byte(tc.secret))
			m.Write([]byte(tc.body))
			if got := r.Header.Get("X-Signature"); got != hex.EncodeToString(m.Sum(nil)) {
				t.Errorf("X-Signature %q", got)
			}
			changes := map[string]func(h http.Header, body []byte) []byte{
				"body": func(_ http.Header, body []byte) []byte { return append([]byte("x"), body...) },
				"id":   func(h http.Header, b []byte) []byte { h.Set("webhook-id", h.Get("webhook-id")+"0"); return b },
				"time": func(h http.Header, b []byte) []byte {
					at, _ := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
					h.Set("webhook-timestamp", strconv.FormatInt(at+1, 10))
					return b
				},
				"signature": func(h http.Header, b []byte) []byte {
					h.Set("webhook-signature", strings.Replace(h.Get("webhook-signature"), "v1,", "v1,A", 1))
					return b
				},
			}
			for what, change := range changes {
				h := r.Header.Clone()
				body := change(h, r.Body)
				if w.Verify(body, h) == nil || resthook.Verify(tc.secret, h, body, time.Now()) == nil {
					t.Errorf("with another %s it is still taken", what)
				}
			}
			if resthook.Verify(tc.secret+"x", r.Header, r.Body, time.Now()) == nil {
				t.Error("another secret takes it")
			}
			if resthook.Verify(tc.secret, r.Header, r.Body, time.Now().Add(6*time.Minute)) == nil {
				t.Error("a replay after six minutes is taken")
			}
		})
	}
}

func TestWhileASecretIsReplacedBothVerify(t *testing.T) {
	secrets := []string{whsec, "the one before", "the one before that"}
	r := sent(t, resthook.Options{}, update(), func(to *deliver.Target) { to.Secrets = secrets })
	for _, s := range secrets {
		if err := referee(t, s).Verify(r.Body, r.Header); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if err := resthook.Verify(s, r.Header, r.Body, time.Now()); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	m := hmac.New(sha256.New, []byte(whsec))
	m.Write(r.Body)
	if r.Header.Get("X-Signature") != hex.EncodeToString(m.Sum(nil)) {
		t.Error("X-Signature is not of the newest secret")
	}
}

func TestTheClustersOwnKeySignsToo(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, secrets := range [][]string{nil, {whsec}} {
		r := sent(t, resthook.Options{Own: private}, update(), func(to *deliver.Target) { to.Secrets = secrets })
		all := strings.Split(r.Header.Get("webhook-signature"), " ")
		encoded, ok := strings.CutPrefix(all[len(all)-1], "v1a,")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		signed := r.Header.Get("webhook-id") + "." + r.Header.Get("webhook-timestamp") + "." + string(r.Body)
		if !ok || err != nil || len(all) != len(secrets)+1 || !ed25519.Verify(public, []byte(signed), signature) {
			t.Errorf("signatures %q", all)
		}
		if (r.Header.Get("X-Signature") != "") != (secrets != nil) {
			t.Errorf("X-Signature %q with %d secrets", r.Header.Get("X-Signature"), len(secrets))
		}
	}
	k := resthook.PublicKey(private)
	if !k.IsPublic() || !k.Valid() || k.KeyID == "" || k.Algorithm != "EdDSA" || !public.Equal(k.Key) {
		t.Errorf("the public key is shown as %+v", k)
	}
}

func TestWithoutASecretNothingIsSigned(t *testing.T) {
	r := sent(t, resthook.Options{}, update(), func(*deliver.Target) {})
	if r.Header.Get("webhook-signature") != "" || r.Header.Get("X-Signature") != "" {
		t.Errorf("headers %v", r.Header)
	}
}

func TestASecretThatItsReceiverCannotDecodeIsRefused(t *testing.T) {
	for secret, good := range map[string]bool{whsec: true, "whsec": true, "päss": true, "whsec_": false, "whsec_canary!": false, "whsec_YWJj": true, "whsec_YWI": false} {
		err := resthook.CheckSecrets([]string{"fine", secret})
		if (err == nil) != good || err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", secret, err)
		}
	}
	e := delivertest.NewEndpoint(t)
	to := target(e.URL, deliver.StyleWebhook)
	to.Secrets = []string{"whsec_canary!"}
	_, failure := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), update(), to)
	if failure == nil || failure.Code != record.RenderError || strings.Contains(failure.Error(), "canary") || len(e.Requests()) != 0 {
		t.Errorf("failure %v", failure)
	}
}

func TestAnEndpointWithoutASignatureIsToldSo(t *testing.T) {
	if err := resthook.Verify(whsec, http.Header{}, nil, time.Now()); err == nil || !strings.Contains(err.Error(), "no signature") {
		t.Error(err)
	}
	h := http.Header{"X-Signature": {"00"}}
	if err := resthook.Verify("s", h, []byte("x"), time.Now()); err == nil || !strings.Contains(err.Error(), "X-Signature") {
		t.Error(err)
	}
}
