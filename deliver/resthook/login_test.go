package resthook_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func everywhere(*url.URL) bool { return true }

// not says that a rule is for all but one server, so that a token server is not asked by itself.
func at(server string) func(*url.URL) bool {
	return func(u *url.URL) bool { return "http://"+u.Host == server || "https://"+u.Host == server }
}

// tokenServer gives tokens t1, t2, …, and notes what it was asked.
type tokenServer struct {
	*httptest.Server
	mu     sync.Mutex
	forms  []url.Values
	basic  []string
	answer func(w http.ResponseWriter, n int)
}

func newTokenServer(t *testing.T, answer func(w http.ResponseWriter, n int)) *tokenServer {
	s := &tokenServer{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r.ParseForm()
		user, password, _ := r.BasicAuth()
		s.forms, s.basic = append(s.forms, r.PostForm), append(s.basic, user+":"+password)
		w.Header().Set("Content-Type", "application/json")
		s.answer(w, len(s.forms))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.forms)
}

func token(life int) func(http.ResponseWriter, int) {
	return func(w http.ResponseWriter, n int) {
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":%d}`, n, life)
	}
}

// send makes an attempt without an Authorization of the Subscription's own.
func send(t *testing.T, c *resthook.Channel, endpoint string) *deliver.Error {
	t.Helper()
	to := target(endpoint, deliver.StyleWebhook)
	to.Headers = nil
	_, failure := c.Send(t.Context(), update(), to)
	return failure
}

func TestALoginIsSentUnlessTheSubscriptionHasItsOwn(t *testing.T) {
	e := delivertest.NewEndpoint(t)
	c := newChannel(t, resthook.Options{Egress: dev, Rules: []resthook.Rule{
		{Matches: func(u *url.URL) bool { return u.Path == "/other" }, Login: resthook.Basic{User: "x", Password: "y"}},
		{Matches: everywhere, Login: resthook.Basic{User: "carillon", Password: "p:w"}},
	}})
	if failure := send(t, c, e.URL); failure != nil {
		t.Fatal(failure)
	}
	if _, failure := c.Send(t.Context(), update(), target(e.URL, deliver.StyleWebhook)); failure != nil {
		t.Fatal(failure)
	}
	rs := e.Requests()
	if got := rs[0].Header.Get("Authorization"); got != "Basic Y2FyaWxsb246cDp3" {
		t.Errorf("Authorization %q", got)
	}
	if got := rs[1].Header["Authorization"]; len(got) != 1 || got[0] != "Bearer canary:secret" {
		t.Errorf("the Subscription's own Authorization came as %q", got)
	}
}

func TestAnAccessTokenIsHadOnceForAll(t *testing.T) {
	s, e := newTokenServer(t, token(3600)), delivertest.NewEndpoint(t)
	login := resthook.OAuth2{TokenURL: s.URL + "/token", ClientID: "me", Secret: "hunter2", Scopes: []string{"a", "b"}, Audience: "https://x"}.NewLogin()
	c := newChannel(t, resthook.Options{Egress: dev, Rules: []resthook.Rule{{Matches: at(e.URL), Login: login}}})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if failure := send(t, c, e.URL); failure != nil {
				t.Error(failure)
			}
		})
	}
	all.Wait()
	for _, r := range e.Requests() {
		if r.Header.Get("Authorization") != "Bearer t1" {
			t.Errorf("Authorization %q", r.Header.Get("Authorization"))
		}
	}
	if s.asked() != 1 {
		t.Errorf("the token server was asked %d times", s.asked())
	}
	f := s.forms[0]
	if f.Get("grant_type") != "client_credentials" || f.Get("scope") != "a b" || f.Get("audience") != "https://x" || s.basic[0] != "me:hunter2" {
		t.Errorf("asked with %v as %s", f, s.basic[0])
	}
}

func TestATokenIsHadAnewBeforeItEnds(t *testing.T) {
	s, e := newTokenServer(t, token(300)), delivertest.NewEndpoint(t)
	now := time.Now()
	login := resthook.OAuth2{TokenURL: s.URL, ClientID: "me", Secret: "x"}.NewLoginAt(func() time.Time { return now })
	c := newChannel(t, resthook.Options{Egress: dev, Rules: []resthook.Rule{{Matches: at(e.URL), Login: login}}})
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "t1"}, {4 * time.Minute, "t1"}, {31 * time.Second, "t2"}, {0, "t2"}, {time.Hour, "t3"}} {
		now = now.Add(step.after)
		if failure := send(t, c, e.URL); failure != nil {
			t.Fatal(failure)
		}
		rs := e.Requests()
		if got := rs[len(rs)-1].Header.Get("Authorization"); got != "Bearer "+step.want {
			t.Errorf("%v later it is %q, want %s", step.after, got, step.want)
		}
	}
}

func TestATokenThatIsAlmostOverServesWhileItsServerIsDown(t *testing.T) {
	down := false
	s := newTokenServer(t, func(w http.ResponseWriter, n int) {
		if down {
			w.WriteHeader(503)
			return
		}
		token(300)(w, n)
	})
	e := delivertest.NewEndpoint(t)
	now := time.Now()
	login := resthook.OAuth2{TokenURL: s.URL, ClientID: "me", Secret: "x"}.NewLoginAt(func() time.Time { return now })
	c := newChannel(t, resthook.Options{Egress: dev, Rules: []resthook.Rule{{Matches: at(e.URL), Login: login}}})
	if failure := send(t, c, e.URL); failure != nil {
		t.Fatal(failure)
	}
	down, now = true, now.Add(290*time.Second)
	if failure := send(t, c, e.URL); failure != nil {
		t.Errorf("a token with ten seconds left: %v", failure)
	}
	now = now.Add(time.Minute)
	if failure := send(t, c, e.URL); failure == nil || failure.Code != record.AuthError {
		t.Errorf("a token that is over: %v", failure)
	}
}

func TestATokenThatIsRefusedIsHadAnewOnce(t *testing.T) {
	s := newTokenServer(t, token(3600))
	revoked := map[string]bool{}
	e := delivertest.NewEndpoint(t)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if revoked[r.Header.Get("Authorization")] || revoked["all"] {
			w.WriteHeader(401)
			return
		}
		e.ServeHTTP(w, r)
	}))
	t.Cleanup(endpoint.Close)
	login := resthook.OAuth2{TokenURL: s.URL, ClientID: "me", Secret: "x"}.NewLogin()
	c := newChannel(t, resthook.Options{Egress: dev, Rules: []resthook.Rule{{Matches: at(endpoint.URL), Login: login}}})
	if failure := send(t, c, endpoint.URL); failure != nil {
		t.Fatal(failure)
	}
	revoked["Bearer t1"] = true
	if failure := send(t, c, endpoint.URL); failure != nil {
		t.Fatal(failure)
	}
	if rs := e.Requests(); len(rs) != 2 || rs[1].Header.Get("Authorization") != "Bearer t2" || string(rs[1].Body) != string(update().Body) {
		t.Errorf("after the token was revoked came %+v", rs)
	}
	revoked["all"] = true
	if failure := send(t, c, endpoint.URL); failure == nil || failure.Code != record.HTTPStatus || failure.Status != 401 {
		t.Errorf("an endpoint that takes no token: %v", failure)
	}
	if s.asked() != 3 {
		t.Errorf("the token server was asked %d times, want 3", s.asked())
	}
}

func TestAFaultOfTheTokenServerIsNoFaultOfTheEndpoint(t *testing.T) {
	refused := httptest.NewServer(nil)
	refused.Close()
	for _, tc := range []struct {
		name   string
		answer func(http.ResponseWriter, int)
		url    string
		egress resthook.Egress
		says   string
	}{
		{"500", func(w http.ResponseWriter, _ int) { w.WriteHeader(500); w.Write([]byte("canary")) }, "", dev, "answered 500"},
		{"a wrong secret", func(w http.ResponseWriter, _ int) {
			w.WriteHeader(401)
			w.Write([]byte(`{"error":"invalid_client","error_description":"canary"}`))
		}, "", dev, "answered 401 invalid_client"},
		{"another error", func(w http.ResponseWriter, _ int) { w.WriteHeader(400); w.Write([]byte(`{"error":"canary"}`)) }, "", dev, "answered 400"},
		{"a redirect", func(w http.ResponseWriter, _ int) { w.Header().Set("Location", "/canary"); w.WriteHeader(307) }, "", dev, "answered 307"},
		{"no token", func(w http.ResponseWriter, _ int) { w.Write([]byte(`{"canary":1}`)) }, "", dev, "gave no token"},
		{"nobody there", nil, refused.URL, dev, "gave no token"},
		{"an address that is not allowed", nil, "http://169.254.169.254/token", dev, "address is not allowed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, e := newTokenServer(t, tc.answer), delivertest.NewEndpoint(t)
			if tc.url == "" {
				tc.url = s.URL
			}
			login := resthook.OAuth2{TokenURL: tc.url, ClientID: "me", Secret: "hunter2"}.NewLogin()
			c := newChannel(t, resthook.Options{Egress: tc.egress, Rules: []resthook.Rule{{Matches: at(e.URL), Login: login}}})
			var asked int
			for range 2 { // the second time at once: the server is left alone for a moment
				failure := send(t, c, e.URL)
				if failure == nil || failure.Code != record.AuthError || failure.Permanent || !strings.Contains(failure.Error(), tc.says) {
					t.Fatalf("failure %v", failure)
				}
				if strings.Contains(failure.Error(), "canary") || strings.Contains(failure.Error(), "hunter2") {
					t.Errorf("the error repeats what was said: %v", failure)
				}
				if asked != 0 && s.asked() != asked {
					t.Error("a server that failed is asked again at once")
				}
				asked = s.asked()
			}
			if len(e.Requests()) != 0 {
				t.Error("the endpoint was asked without a token")
			}
		})
	}
}

func TestAnAssertionIsSignedWithTheClientsKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, private := range map[jose.SignatureAlgorithm]any{jose.RS384: rsaKey, jose.ES384: ecKey} {
		t.Run(string(alg), func(t *testing.T) {
			der, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			key, err := resthook.ReadClientKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "")
			if err != nil {
				t.Fatal(err)
			}
			s, e := newTokenServer(t, token(300)), delivertest.NewEndpoint(t)
			login := resthook.OAuth2{TokenURL: s.URL + "/token", ClientID: "carillon", Key: key, Scopes: []string{"system/*.c"}}.NewLogin()
			c := newChannel(t, resthook.Options{Egress: dev, Rules: []resthook.Rule{{Matches: at(e.URL), Login: login}}})
			if failure := send(t, c, e.URL); failure != nil {
				t.Fatal(failure)
			}
			f := s.forms[0]
			if f.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || f.Get("scope") != "system/*.c" || f.Get("client_secret") != "" {
				t.Errorf("asked with %v", f)
			}
			parsed, err := jwt.ParseSigned(f.Get("client_assertion"), []jose.SignatureAlgorithm{alg})
			if err != nil {
				t.Fatal(err)
			}
			public := c.ClientKeys()
			if len(public) != 1 || !public[0].IsPublic() || parsed.Headers[0].KeyID != public[0].KeyID || public[0].KeyID == "" {
				t.Fatalf("key %q, public keys %+v", parsed.Headers[0].KeyID, public)
			}
			var claims jwt.Claims
			if err := parsed.Claims(public[0].Key, &claims); err != nil {
				t.Fatal(err)
			}
			if err := claims.Validate(jwt.Expected{Issuer: "carillon", Subject: "carillon", AnyAudience: jwt.Audience{s.URL + "/token"}, Time: time.Now()}); err != nil {
				t.Error(err)
			}
			if life := time.Until(claims.Expiry.Time()); life > 5*time.Minute || claims.ID == "" {
				t.Errorf("it holds for %v, id %q", life, claims.ID)
			}
		})
	}
}

func TestKeysThatSMARTDoesNotTakeAreRefused(t *testing.T) {
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for want, private := range map[string]any{"under 2048 bits": small, "another curve": p256} {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := resthook.ReadClientKey(pem.EncodeToMemory(&pem.Block{Bytes: der}), "k"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, text := range []string{"", "canary", "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n"} {
		if _, err := resthook.ReadClientKey([]byte(text), ""); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// authority makes certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, _ = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, tls.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer := key
	if parent == nil {
		parent = template
	} else {
		signer = a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) issue(use x509.ExtKeyUsage) *tls.Certificate {
	_, _, pair := a.sign(&x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, a.cert)
	return &pair
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func TestAPrivateAuthorityAndAClientCertificateAreOfOneHost(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	e := delivertest.NewEndpoint(t)
	secure := httptest.NewUnstartedServer(e)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{*ours.issue(x509.ExtKeyUsageServerAuth)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool()}
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	client := ours.issue(x509.ExtKeyUsageClientAuth)
	for _, tc := range []struct {
		name  string
		rule  resthook.Rule
		proto string // empty: tls_error
	}{
		{"both", resthook.Rule{Matches: at(secure.URL), Roots: ours.pool(), Certificate: client}, "HTTP/2.0"},
		{"both, with HTTP/1.1", resthook.Rule{Matches: at(secure.URL), Roots: ours.pool(), Certificate: client, HTTP1: true}, "HTTP/1.1"},
		{"no certificate", resthook.Rule{Matches: at(secure.URL), Roots: ours.pool()}, ""},
		{"a certificate of somebody else", resthook.Rule{Matches: at(secure.URL), Roots: ours.pool(), Certificate: other.issue(x509.ExtKeyUsageClientAuth)}, ""},
		{"another authority", resthook.Rule{Matches: at(secure.URL), Roots: other.pool(), Certificate: client}, ""},
		{"a rule for another host", resthook.Rule{Matches: at("https://127.0.0.2"), Roots: ours.pool(), Certificate: client}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(e.Requests())
			c := newChannel(t, resthook.Options{Egress: dev, Rules: []resthook.Rule{tc.rule}})
			failure := send(t, c, secure.URL)
			if tc.proto == "" {
				// A server turns a client's certificate away after the handshake of TLS 1.3, and may have
				// closed the connection before its reason is read.
				late := failure != nil && failure.Code == record.ConnectionReset && tc.rule.Roots != nil
				if failure == nil || failure.Code != record.TLSError && !late || len(e.Requests()) != before {
					t.Errorf("failure %v", failure)
				}
				return
			}
			if failure != nil {
				t.Fatal(failure)
			}
			if got := e.Requests()[before].Proto; got != tc.proto {
				t.Errorf("%s, want %s", got, tc.proto)
			}
		})
	}
}
