package resthook_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dev is what a laptop wants.
var dev = resthook.Egress{AllowHTTP: true, AllowPrivate: true}

func newChannel(t testing.TB, o resthook.Options) *resthook.Channel {
	t.Helper()
	c, err := resthook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func update() deliver.Notification {
	return deliver.Notification{
		MatchID: record.MatchID{Event: 40, Birth: 12}, Subscription: "sub-1", Number: 5, Attempt: 2,
		Key: fhir.Key{Type: "Observation", ID: "o.1"}, Interaction: fhir.Update,
		ContentType: "application/fhir+json", Body: []byte(`{"resourceType":"Observation","id":"o.1","value":1.50}`),
	}
}

func removal() deliver.Notification {
	n := update()
	n.Interaction, n.Body = fhir.Delete, nil
	return n
}

func target(endpoint string, style deliver.Style) deliver.Target {
	return deliver.Target{ID: "sub-1", Birth: 12, ChannelType: resthook.Type, Endpoint: endpoint,
		Style: style, Payload: "application/json", Headers: []string{"Authorization: Bearer canary:secret"}}
}

func TestEveryChannelsPromises(t *testing.T) {
	for _, style := range []deliver.Style{deliver.StyleFHIR, deliver.StyleWebhook} {
		t.Run(string(style), func(t *testing.T) {
			delivertest.TestChannel(t, func(t *testing.T) delivertest.Subject {
				e := delivertest.NewEndpoint(t)
				return delivertest.Subject{
					Channel: newChannel(t, resthook.Options{Egress: dev}),
					Target:  target(e.URL, style),
					Behave: func(w delivertest.Wanted) {
						switch w {
						case delivertest.Accept:
							e.Script()
						case delivertest.Refuse:
							e.Script(delivertest.Answer{Status: 500, Body: []byte("no")})
						case delivertest.Silence:
							e.Script(delivertest.Answer{Hang: true})
						case delivertest.Absent:
							e.Listener.Close()
						}
					},
					Received: func() int { return len(e.Requests()) },
					Names: func() []string {
						var names []string
						for _, r := range e.Requests() {
							names = append(names, r.Header.Get("webhook-id"))
						}
						return names
					},
				}
			})
		})
	}
}

func TestRequestsByStyle(t *testing.T) {
	body := string(update().Body)
	for _, tc := range []struct {
		name         string
		style        deliver.Style
		payload      string
		path         string // of the endpoint
		n            deliver.Notification
		method, uri  string
		body         string
		medplum      bool
		deletedValue string
	}{
		{"fhir update", deliver.StyleFHIR, "application/json", "/fhir", update(), "PUT", "/fhir/Observation/o.1", body, false, ""},
		{"fhir, slash at the end", deliver.StyleFHIR, "application/json", "/fhir/", update(), "PUT", "/fhir/Observation/o.1", body, false, ""},
		{"fhir, no path", deliver.StyleFHIR, "application/json", "", update(), "PUT", "/Observation/o.1", body, false, ""},
		{"fhir, query and escapes stay", deliver.StyleFHIR, "application/json", "/a%2Fb/c?code=x%20y&z", update(), "PUT", "/a%2Fb/c/Observation/o.1?code=x%20y&z", body, false, ""},
		{"fhir delete", deliver.StyleFHIR, "application/json", "/fhir", removal(), "DELETE", "/fhir/Observation/o.1", "", false, ""},
		{"fhir without payload", deliver.StyleFHIR, "", "/ping?x=1", update(), "POST", "/ping?x=1", "", false, ""},
		{"fhir delete without payload", deliver.StyleFHIR, "", "/ping", removal(), "POST", "/ping", "", false, ""},
		{"webhook update", deliver.StyleWebhook, "application/json", "/hook/?a=b", update(), "POST", "/hook/?a=b", body, true, ""},
		{"webhook ignores payload", deliver.StyleWebhook, "", "/hook", update(), "POST", "/hook", body, true, ""},
		{"webhook delete", deliver.StyleWebhook, "", "/hook", removal(), "POST", "/hook", "{}", true, "Observation/o.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := delivertest.NewEndpoint(t)
			c := newChannel(t, resthook.Options{Egress: dev, Version: "1.2.3"})
			to := target(e.URL+tc.path, tc.style)
			to.Payload = tc.payload
			if _, err := c.Send(t.Context(), tc.n, to); err != nil {
				t.Fatal(err)
			}
			r := e.Requests()[0]
			if r.Method != tc.method || r.URI != tc.uri || string(r.Body) != tc.body || r.Length != int64(len(tc.body)) && tc.method != "DELETE" {
				t.Errorf("%s %s %q (length %d), want %s %s %q", r.Method, r.URI, r.Body, r.Length, tc.method, tc.uri, tc.body)
			}
			want := map[string]string{
				"Content-Type": "application/fhir+json", "User-Agent": "carillon/1.2.3",
				"webhook-id": "sub-1.12.5", "X-Carillon-Subscription": "sub-1", "X-Carillon-Event": "5",
				"X-Carillon-Attempt": "2", "X-Carillon-Resend": "", "traceparent": "", "If-Match": "", "Accept-Encoding": "",
				"Authorization": "Bearer canary:secret", "X-Medplum-Subscription": "", "X-Medplum-Interaction": "",
				"X-Medplum-Deleted-Resource": tc.deletedValue,
			}
			if tc.medplum {
				want["X-Medplum-Subscription"], want["X-Medplum-Interaction"] = "sub-1", string(tc.n.Interaction)
			}
			for name, value := range want {
				if got := r.Header.Get(name); got != value {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			}
			at, err := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64)
			if err != nil || time.Since(time.Unix(at, 0)) > time.Minute {
				t.Errorf("webhook-timestamp is %q", r.Header.Get("webhook-timestamp"))
			}
		})
	}
}

func TestAReplayAndATraceAreTold(t *testing.T) {
	e := delivertest.NewEndpoint(t)
	n := update()
	n.Resend, n.Trace = true, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	if _, err := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), n, target(e.URL, deliver.StyleFHIR)); err != nil {
		t.Fatal(err)
	}
	h := e.Requests()[0].Header
	if h.Get("X-Carillon-Resend") != "true" || h.Get("traceparent") != n.Trace {
		t.Errorf("headers %v", h)
	}
}

func TestAnswersAndTheirOutcomes(t *testing.T) {
	at := time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat)
	for _, tc := range []struct {
		name   string
		answer delivertest.Answer
		code   record.Code // empty: accepted
		status int
		after  time.Duration // Retry-After, to the minute
		perm   bool
	}{
		{"200", delivertest.Answer{Status: 200}, "", 200, 0, false},
		{"201 with a body", delivertest.Answer{Status: 201, Body: []byte("made")}, "", 201, 0, false},
		{"204", delivertest.Answer{Status: 204}, "", 204, 0, false},
		{"299", delivertest.Answer{Status: 299}, "", 299, 0, false},
		{"302", delivertest.Answer{Status: 302, Header: http.Header{"Location": {"/landing"}}}, record.Redirect, 302, 0, false},
		{"307", delivertest.Answer{Status: 307, Header: http.Header{"Location": {"/landing"}}}, record.Redirect, 307, 0, false},
		{"304", delivertest.Answer{Status: 304}, record.Redirect, 304, 0, false},
		{"400", delivertest.Answer{Status: 400}, record.HTTPStatus, 400, 0, false},
		{"404", delivertest.Answer{Status: 404}, record.HTTPStatus, 404, 0, false},
		{"410", delivertest.Answer{Status: 410}, record.Gone, 410, 0, true},
		{"429 with seconds", delivertest.Answer{Status: 429, Header: http.Header{"Retry-After": {"120"}}}, record.HTTPStatus, 429, 2 * time.Minute, false},
		{"503 with a date", delivertest.Answer{Status: 503, Header: http.Header{"Retry-After": {at}}}, record.HTTPStatus, 503, 2 * time.Hour, false},
		{"503 with more seconds than can be said", delivertest.Answer{Status: 503, Header: http.Header{"Retry-After": {"4294967296"}}}, record.HTTPStatus, 503, deliver.MaxRetryAfter, false},
		{"503 with nonsense", delivertest.Answer{Status: 503, Header: http.Header{"Retry-After": {"-5"}}}, record.HTTPStatus, 503, 0, false},
		{"Retry-After counts with 429 and 503 alone", delivertest.Answer{Status: 500, Header: http.Header{"Retry-After": {"120"}}}, record.HTTPStatus, 500, 0, false},
		{"the receiver wants this message no more", delivertest.Answer{Status: 422, Header: http.Header{"Webhook-Delivery": {"abort-message"}}}, record.HTTPStatus, 422, 0, true},
		{"the receiver wants nothing any more", delivertest.Answer{Status: 500, Header: http.Header{"Webhook-Delivery": {"x, Disable"}}}, record.HTTPStatus, 500, 0, true},
		{"the receiver says something else", delivertest.Answer{Status: 500, Header: http.Header{"Webhook-Delivery": {"disabled"}}}, record.HTTPStatus, 500, 0, false},
		{"500 with a huge body", delivertest.Answer{Status: 500, Body: bytes.Repeat([]byte("x"), 1000), Endless: true}, record.HTTPStatus, 500, 0, false},
		{"200 with a huge body", delivertest.Answer{Body: bytes.Repeat([]byte("x"), 1000), Endless: true}, "", 200, 0, false},
		{"200 with a body that trickles", delivertest.Answer{Trickle: true}, "", 200, 0, false},
		{"200 that says gzip and is not", delivertest.Answer{Header: http.Header{"Content-Encoding": {"gzip"}}, Body: []byte("plain")}, "", 200, 0, false},
		{"a reset", delivertest.Answer{Reset: true}, record.ConnectionReset, 0, 0, false},
		{"no HTTP", delivertest.Answer{Raw: []byte("220 canary ESMTP\r\n")}, record.ConnectionReset, 0, 0, false},
		{"an end in the middle of the header", delivertest.Answer{Raw: []byte("HTTP/1.1 200 OK\r\nX-A")}, record.ConnectionReset, 0, 0, false},
		{"too large a header", delivertest.Answer{Raw: []byte("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n")}, record.ResponseTooLarge, 0, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := delivertest.NewEndpoint(t, tc.answer)
			c := newChannel(t, resthook.Options{Egress: dev})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			receipt, failure := c.Send(ctx, update(), target(e.URL, deliver.StyleFHIR))
			if tc.code == "" {
				if failure != nil || receipt.Status != tc.status {
					t.Fatalf("receipt %+v, failure %v", receipt, failure)
				}
			} else {
				if failure == nil || failure.Code != tc.code || failure.Status != tc.status || failure.Permanent != tc.perm {
					t.Fatalf("failure %+v", failure)
				}
				if failure.RetryAfter.Round(time.Minute) != tc.after {
					t.Errorf("Retry-After %v, want %v", failure.RetryAfter, tc.after)
				}
				if strings.Contains(failure.Error(), "canary") {
					t.Errorf("the error repeats what was sent: %v", failure)
				}
			}
			if n := len(e.Requests()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestAReceiverMayAskToBeLeftAloneWhateverItsStatus(t *testing.T) {
	for _, status := range []int{200, 204, 404, 500} {
		e := delivertest.NewEndpoint(t, delivertest.Answer{Status: status, Header: http.Header{"Webhook-Delivery": {"disable"}}})
		receipt, failure := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), update(), target(e.URL, deliver.StyleFHIR))
		if disable := receipt.Disable || failure != nil && failure.Disable; !disable {
			t.Errorf("%d: receipt %+v, failure %+v", status, receipt, failure)
		}
	}
}

func TestTheHeadOfAnAnswerIsKeptClean(t *testing.T) {
	e := delivertest.NewEndpoint(t, delivertest.Answer{Status: 422, Body: []byte("bad\r\n\x00\xff thing ü" + strings.Repeat("é", 5000))})
	_, failure := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), update(), target(e.URL, deliver.StyleFHIR))
	if failure == nil || !strings.HasPrefix(failure.Response, "bad   ? thing üéé") || len(failure.Response) > 512 {
		t.Fatalf("failure %+v", failure)
	}
}

func TestShortAnswersLeaveTheConnectionToTheNext(t *testing.T) {
	e := delivertest.NewEndpoint(t, delivertest.Answer{Body: []byte("thanks")}, delivertest.Answer{Status: 500, Body: []byte("no")}, delivertest.Answer{Status: 204})
	c := newChannel(t, resthook.Options{Egress: dev})
	for range 20 {
		c.Send(t.Context(), update(), target(e.URL, deliver.StyleFHIR))
	}
	if n := e.Connections(); n != 1 {
		t.Errorf("%d connections for 20 requests, one after the other", n)
	}
}

func TestASilentEndpointTimesOutInEachPhase(t *testing.T) {
	hole, err := net.Listen("tcp", "127.0.0.1:0") // accepts by the kernel's queue, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	for _, tc := range []struct {
		name, url string
		options   resthook.Options
		code      record.Code
	}{
		{"no answer", "http://" + hole.Addr().String(), resthook.Options{Egress: dev}, record.Timeout},
		{"no TLS handshake", "https://" + hole.Addr().String(), resthook.Options{Egress: dev, TLS: 50 * time.Millisecond}, record.Timeout},
		{"no DNS answer", "http://slow.test", resthook.Options{Egress: dev, DNS: 50 * time.Millisecond, Resolver: resolver(nil)}, record.DNSError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, failure := newChannel(t, tc.options).Send(ctx, update(), target(tc.url, deliver.StyleFHIR))
			if failure == nil || failure.Code != tc.code || failure.Permanent {
				t.Errorf("failure %v", failure)
			}
		})
	}
}

// resolver answers from a table; a nil one never answers.
type resolver map[string][]netip.Addr

func (r resolver) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if r == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if a, ok := r[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func addrs(s ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range s {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestNamesAreResolvedAndJudgedAtTheDial(t *testing.T) {
	e := delivertest.NewEndpoint(t)
	_, port, _ := net.SplitHostPort(e.Listener.Addr().String())
	names := resolver{
		"local.test":    addrs("127.0.0.1"),
		"mapped.test":   addrs("::ffff:127.0.0.1"),
		"metadata.test": addrs("169.254.169.254"),
		"azure.test":    addrs("168.63.129.16"),
		"mixed.test":    addrs("169.254.1.1", "127.0.0.1"),
		"nothing.test":  {},
	}
	strict := resthook.Egress{AllowHTTP: true}
	for _, tc := range []struct {
		name, host string
		egress     resthook.Egress
		code       record.Code
	}{
		{"a name for loopback is blocked", "local.test", strict, record.BlockedAddress},
		{"in its mapped form too", "mapped.test", strict, record.BlockedAddress},
		{"it is open where configured", "local.test", dev, ""},
		{"by prefix too", "local.test", resthook.Egress{AllowHTTP: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, ""},
		{"deny wins", "local.test", resthook.Egress{AllowHTTP: true, AllowPrivate: true, Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, record.BlockedAddress},
		{"metadata stays shut", "metadata.test", dev, record.BlockedAddress},
		{"Azure's too", "azure.test", dev, record.BlockedAddress},
		{"one allowed address is enough, and only it is dialled", "mixed.test", dev, ""},
		{"an unknown name", "unknown.test", dev, record.DNSError},
		{"a name without an address", "nothing.test", dev, record.DNSError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := e.Connections()
			c := newChannel(t, resthook.Options{Egress: tc.egress, Resolver: names})
			_, failure := c.Send(t.Context(), update(), target("http://"+tc.host+":"+port, deliver.StyleFHIR))
			if tc.code == "" {
				if failure != nil {
					t.Fatal(failure)
				}
				return
			}
			if failure == nil || failure.Code != tc.code || failure.Permanent != (tc.code == record.BlockedAddress) {
				t.Errorf("failure %+v", failure)
			}
			if e.Connections() != before {
				t.Error("a connection was made")
			}
		})
	}
}

func TestTLSFailures(t *testing.T) {
	e := delivertest.NewTLSEndpoint(t)
	plain := delivertest.NewEndpoint(t)
	roots := x509.NewCertPool()
	roots.AddCert(e.Certificate())
	trusting := &tls.Config{RootCAs: roots}
	old := delivertest.NewTLSEndpoint(t)
	old.TLS.MaxVersion = tls.VersionTLS11
	old.TLS.MinVersion = tls.VersionTLS10
	_, port, _ := net.SplitHostPort(e.Listener.Addr().String())
	for _, tc := range []struct {
		name, url string
		config    *tls.Config
		says      string // empty: accepted
	}{
		{"trusted", e.URL, trusting, ""},
		{"unknown authority", e.URL, nil, "unknown authority"},
		{"another host's certificate", "https://other.test:" + port, trusting, "another host"},
		{"no TLS over there", strings.Replace(plain.URL, "http:", "https:", 1), trusting, "handshake failed"},
		{"TLS 1.1 only", old.URL, trusting, "handshake failed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newChannel(t, resthook.Options{Egress: resthook.Egress{AllowPrivate: true}, TLSConfig: tc.config,
				Resolver: resolver{"other.test": addrs("127.0.0.1")}})
			_, failure := c.Send(t.Context(), update(), target(tc.url, deliver.StyleFHIR))
			if tc.says == "" {
				if failure != nil {
					t.Fatal(failure)
				}
				if r := e.Requests()[0]; r.Proto != "HTTP/2.0" {
					t.Errorf("%s, want HTTP/2", r.Proto)
				}
				return
			}
			if failure == nil || failure.Code != record.TLSError || failure.Permanent || !strings.Contains(failure.Error(), tc.says) {
				t.Errorf("failure %v, want tls_error: …%s…", failure, tc.says)
			}
		})
	}
}

func TestASlowEndpointTakesNoOthersConnections(t *testing.T) {
	slow, fast := delivertest.NewEndpoint(t, delivertest.Answer{Hang: true}), delivertest.NewEndpoint(t)
	c := newChannel(t, resthook.Options{Egress: dev})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 300)
	for range 300 { // more than one endpoint may have
		go func() {
			c.Send(ctx, update(), target(slow.URL, deliver.StyleFHIR))
			done <- struct{}{}
		}()
	}
	slow.Await(t.Context(), 256)
	for range 50 {
		if _, failure := c.Send(t.Context(), update(), target(fast.URL, deliver.StyleFHIR)); failure != nil {
			t.Fatal(failure)
		}
	}
	if n := slow.Connections(); n > 256 {
		t.Errorf("%d connections to the slow one", n)
	}
	cancel()
	for range 300 {
		<-done
	}
}

// The next event of many Subscriptions comes before a burst's connections are old.
func TestTheConnectionsOfABurstServeTheNext(t *testing.T) {
	const burst = 256 // connections that one endpoint may have
	var opened, here atomic.Int32
	all := make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if here.Add(1) == burst {
			close(all)
		}
		<-all // of the first burst, so that each request needs a connection of its own
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	c := newChannel(t, resthook.Options{Egress: dev})
	for range 2 {
		var sends sync.WaitGroup
		for range burst {
			sends.Go(func() {
				if _, err := c.Send(t.Context(), update(), target(s.URL, deliver.StyleFHIR)); err != nil {
					t.Error(err)
				}
			})
		}
		sends.Wait()
	}
	if n := opened.Load(); n != burst {
		t.Errorf("two bursts of %d opened %d connections", burst, n)
	}
}

func TestNoProxyFromTheEnvironment(t *testing.T) {
	proxy, e := delivertest.NewEndpoint(t), delivertest.NewEndpoint(t)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	c := newChannel(t, resthook.Options{Egress: dev, Resolver: resolver{"host.test": addrs("127.0.0.1")}})
	_, port, _ := net.SplitHostPort(e.Listener.Addr().String())
	if _, failure := c.Send(t.Context(), update(), target("http://host.test:"+port, deliver.StyleFHIR)); failure != nil {
		t.Fatal(failure)
	}
	if len(proxy.Requests()) != 0 || len(e.Requests()) != 1 {
		t.Error("the request went through a proxy")
	}
}

func TestWhatCannotBeSentIsTheNotificationsFault(t *testing.T) {
	c := newChannel(t, resthook.Options{Egress: resthook.Egress{AllowPrivate: true}})
	for _, tc := range []struct {
		name    string
		url     string
		headers []string
	}{
		{"no URL", "::", nil},
		{"no host", "/relative", nil},
		{"http where it is not allowed", "http://127.0.0.1", nil},
		{"another scheme", "ftp://127.0.0.1", nil},
		{"a header with a line end", "https://127.0.0.1", []string{"X-A: canary\r\nX-B: canary"}},
		{"one of our headers", "https://127.0.0.1", []string{"webhook-id: canary"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			to := target(tc.url, deliver.StyleFHIR)
			to.Headers = tc.headers
			_, failure := c.Send(t.Context(), update(), to)
			if failure == nil || failure.Code != record.RenderError || !failure.Permanent || strings.Contains(failure.Error(), "canary") {
				t.Errorf("failure %v", failure)
			}
		})
	}
}

func TestCheckURL(t *testing.T) {
	c := newChannel(t, resthook.Options{Egress: resthook.Egress{AllowHTTP: true, Deny: []netip.Prefix{netip.MustParsePrefix("8.8.4.0/24")}}})
	for _, ok := range []string{
		"https://example.org", "https://example.org/fhir?x=y", "HTTPS://EXAMPLE.org:8443/", "http://example.org.",
		"https://8.8.8.8/x", "https://[2a00:1450:4001:80e::200e]:443/", "https://xn--bcher-kva.example/", "https://a_b.example", "https://1.2.3.example",
	} {
		if err := c.CheckURL(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{
		"", "example.org", "/fhir", "https:example.org", "https://", "https:///x", "ftp://example.org", "javascript:alert(1)", "file:///etc/passwd",
		"https://user@example.org", "https://user:pw@example.org", "https://example.org#f", "https://example.org/#", "https://exa mple.org", "https://example.org\\@127.0.0.1/",
		"https://example.org:0", "https://example.org:65536", "https://example.org:", "https://example.org:x",
		"https://127.0.0.1", "https://127.1", "https://2130706433", "https://0x7f000001", "https://0x7f.1", "https://0177.0.0.1", "https://017700000001", "https://127.0.0.1.",
		"https://0", "https://0.0.0.0", "https://[::]", "https://[::1]", "https://[::ffff:127.0.0.1]", "https://[::ffff:7f00:1]", "https://[::127.0.0.1]",
		"https://[64:ff9b::7f00:1]", "https://[2002:7f00:1::]", "https://[fe80::1%25eth0]", "https://[fc00::1]", "https://[fd00:ec2::254]",
		"https://10.0.0.1", "https://172.16.0.1", "https://192.168.1.1", "https://100.64.0.1", "https://169.254.169.254", "https://192.0.2.1", "https://198.18.0.1",
		"https://224.0.0.1", "https://255.255.255.255", "https://[ff02::1]", "https://168.63.129.16", "https://8.8.4.4",
		"https://localhost", "https://LOCALHOST:80", "https://localhost.", "https://a.localhost",
		"https://134744072", "https://010.8.8.8", "https://256.1.1.1", "https://1.2.3.4.5", "https://example.0x1", "https://1e3.0xzz",
		"https://büch.example", "https://１２７.0.0.1", "https://a..b", "https://.a", "https://%31%32%37.0.0.1",
	} {
		if err := c.CheckURL(bad); err == nil {
			t.Errorf("%q was allowed", bad)
		} else if err.Issues[0].Expression != "Subscription.channel.endpoint" || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	open := newChannel(t, resthook.Options{Egress: dev})
	for _, ok := range []string{"http://127.0.0.1:9000/x", "http://localhost:9000", "https://10.1.2.3", "http://[::1]:80", "https://[fd12::1]"} {
		if err := open.CheckURL(ok); err != nil {
			t.Errorf("%s with private addresses allowed: %v", ok, err)
		}
	}
	for _, bad := range []string{"http://169.254.169.254", "http://[fd00:ec2::254]", "http://168.63.129.16", "http://0.0.0.0", "http://[::]:80", "http://127.1"} {
		if open.CheckURL(bad) == nil {
			t.Errorf("%s was allowed with private addresses", bad)
		}
	}
	if err := newChannel(t, resthook.Options{}).CheckURL("http://example.org"); err == nil {
		t.Error("http was allowed by default")
	}
}

func TestEgressListsAreChecked(t *testing.T) {
	if _, err := resthook.New(resthook.Options{Egress: resthook.Egress{Allow: []netip.Prefix{{}}}}); err == nil {
		t.Error("an empty prefix was taken")
	}
}

func TestRedirectsAreNeverFollowed(t *testing.T) {
	landing := delivertest.NewEndpoint(t)
	e := delivertest.NewEndpoint(t, delivertest.Answer{Status: 302, Header: http.Header{"Location": {landing.URL}}})
	_, failure := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), update(), target(e.URL, deliver.StyleWebhook))
	if failure == nil || failure.Code != record.Redirect || len(landing.Requests()) != 0 {
		t.Errorf("failure %v, %d requests at the landing page", failure, len(landing.Requests()))
	}
}

func TestARefusedConnectionSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	_, failure := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), update(), target(url, deliver.StyleFHIR))
	if failure == nil || failure.Code != record.ConnectionRefused {
		t.Errorf("failure %v", failure)
	}
	if !slices.Contains([]string{"connection_refused: connection refused"}, failure.Error()) || errors.Is(failure, context.Canceled) {
		t.Errorf("it says %v", failure)
	}
}

func TestAnIDThatMeansAnotherPlaceInAnAddressIsNotSentThere(t *testing.T) {
	for _, id := range []fhir.ID{".", ".."} {
		for _, n := range []deliver.Notification{update(), removal()} {
			e := delivertest.NewEndpoint(t)
			c := newChannel(t, resthook.Options{Egress: dev})
			n.Key.ID = id
			_, failure := c.Send(t.Context(), n, target(e.URL+"/fhir", deliver.StyleFHIR))
			if failure == nil || failure.Code != record.RenderError || !failure.Permanent || len(e.Requests()) != 0 {
				t.Errorf("%s %s: %v, %d requests", n.Interaction, id, failure, len(e.Requests()))
			}
			if _, failure := c.Send(t.Context(), n, target(e.URL+"/fhir", deliver.StyleWebhook)); failure != nil {
				t.Errorf("%s %s in webhook style: %v", n.Interaction, id, failure)
			}
		}
	}
}
