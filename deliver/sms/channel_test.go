package sms_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/sms"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// gateway is one of the test's own.
type gateway struct {
	*httptest.Server

	mu       sync.Mutex
	behave   delivertest.Wanted
	status   int
	header   http.Header
	requests []asked
	silent   chan struct{}
}

type asked struct {
	*http.Request
	body string
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{silent: make(chan struct{}), status: http.StatusAccepted}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		g.requests = append(g.requests, asked{r, string(body)})
		behave, status := g.behave, g.status
		for name, values := range g.header {
			w.Header()[name] = values
		}
		g.mu.Unlock()
		switch behave {
		case delivertest.Refuse:
			status = http.StatusBadGateway
		case delivertest.Silence:
			<-g.silent
		}
		w.WriteHeader(status)
		io.WriteString(w, "0: Accepted for delivery to "+r.URL.RawQuery)
	}))
	t.Cleanup(func() {
		close(g.silent)
		g.Close()
	})
	return g
}

func (g *gateway) all() []asked {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests
}

func newChannel(t *testing.T, o sms.Options) *sms.Channel {
	t.Helper()
	if o.Text == "" {
		o.Text = "${resource_type}: event ${event}"
	}
	c, err := sms.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func notification() deliver.Notification {
	return deliver.Notification{
		MatchID: record.MatchID{Event: 7, Birth: 3}, Subscription: "s", Number: 9, Attempt: 1, Interaction: fhir.Update,
		Key: fhir.Key{Type: "Patient", ID: "canary-id"}, Body: []byte(`{"resourceType":"Patient","id":"canary-id"}`),
	}
}

var target = deliver.Target{ID: "s", Birth: 3, ChannelType: sms.Type, Endpoint: "tel:+49-30-123456"}

func send(t *testing.T, c *sms.Channel) *deliver.Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := c.Send(ctx, notification(), target)
	return err
}

func passwordFile(t *testing.T) string {
	f := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(f, []byte("canary&pass word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSMSKeepsWhatEveryChannelKeeps(t *testing.T) {
	delivertest.TestChannel(t, func(t *testing.T) delivertest.Subject {
		g := newGateway(t)
		return delivertest.Subject{
			Channel: newChannel(t, sms.Options{Preset: sms.Kannel, Gateway: sms.Gateway{URL: g.URL + "/cgi-bin/sendsms"}, Connections: 32}),
			Target:  target,
			Behave: func(w delivertest.Wanted) {
				if w == delivertest.Absent {
					g.Listener.Close()
				}
				g.mu.Lock()
				defer g.mu.Unlock()
				g.behave = w
			},
			Received: func() int { return len(g.all()) },
		}
	})
}

func TestKannelIsAskedAsItsGuideSays(t *testing.T) {
	g := newGateway(t)
	c := newChannel(t, sms.Options{
		Preset: sms.Kannel, Gateway: sms.Gateway{URL: g.URL + "/cgi-bin/sendsms"}, User: "tester", PasswordFile: passwordFile(t), From: "Ward 5",
		Text: "Neu: ${resource_type} ${event} für ${subscription}",
	})
	if err := send(t, c); err != nil {
		t.Fatal(err)
	}
	r := g.all()[0]
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	if r.Method != http.MethodGet || r.URL.Path != "/cgi-bin/sendsms" {
		t.Errorf("%s %s", r.Method, r.URL.Path)
	}
	for name, want := range map[string]string{
		"username": "tester", "password": "canary&pass word", "from": "Ward 5", "to": "+4930123456",
		"text": "Neu: Patient 9 für s", "charset": "UTF-8", "coding": "2",
	} {
		if q.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, q.Get(name), want)
		}
	}
}

func TestTwilioIsAskedAsItsPageSays(t *testing.T) {
	g := newGateway(t)
	c := newChannel(t, sms.Options{
		Preset: sms.Twilio, Gateway: sms.Gateway{URL: g.URL + "/2010-04-01/Accounts/${user}/Messages.json"},
		User: "AC1", PasswordFile: passwordFile(t), From: "+15005550006",
	})
	g.status = http.StatusCreated
	if err := send(t, c); err != nil {
		t.Fatal(err)
	}
	r := g.all()[0]
	user, password, _ := r.BasicAuth()
	form, err := url.ParseQuery(r.body)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/2010-04-01/Accounts/AC1/Messages.json" ||
		r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || user != "AC1" || password != "canary&pass word" {
		t.Errorf("%s %s, %q, %q:%q, %v", r.Method, r.URL.Path, r.Header.Get("Content-Type"), user, password, err)
	}
	if form.Get("To") != "+4930123456" || form.Get("From") != "+15005550006" || form.Get("Body") != "Patient: event 9" {
		t.Errorf("form is %v", form)
	}
}

func TestAnyGatewayCanBeDescribed(t *testing.T) {
	g := newGateway(t)
	c := newChannel(t, sms.Options{
		Preset: sms.Custom, From: `Ward "5"`,
		Gateway: sms.Gateway{URL: g.URL + "/send", ContentType: "application/json", Body: `{"to":["${to}"],"from":"${from}","text":"${text}"}`},
	})
	if err := send(t, c); err != nil {
		t.Fatal(err)
	}
	var body struct {
		To         []string
		From, Text string
	}
	if err := json.Unmarshal([]byte(g.all()[0].body), &body); err != nil {
		t.Fatal(err)
	}
	if body.To[0] != "+4930123456" || body.From != `Ward "5"` || body.Text != "Patient: event 9" {
		t.Errorf("body is %+v", body)
	}
}

func TestATestMessageSaysSo(t *testing.T) {
	g := newGateway(t)
	n := notification()
	n.Test, n.TestID, n.Number = true, "x", 0
	if _, err := newChannel(t, sms.Options{Preset: sms.Kannel, Gateway: sms.Gateway{URL: g.URL}}).Send(t.Context(), n, target); err != nil {
		t.Fatal(err)
	}
	if text := g.all()[0].URL.Query().Get("text"); text != "TEST: Patient: event 0" {
		t.Errorf("text %q", text)
	}
}

func TestWhatIsInTheResourceNeverReachesTheGateway(t *testing.T) {
	g := newGateway(t)
	if err := send(t, newChannel(t, sms.Options{Preset: sms.Kannel, Gateway: sms.Gateway{URL: g.URL}})); err != nil {
		t.Fatal(err)
	}
	if r := g.all()[0]; strings.Contains(r.URL.String()+r.body, "canary") {
		t.Errorf("%s %s", r.URL, r.body)
	}
}

func TestTheGatewaysStatusDecides(t *testing.T) {
	for _, c := range []struct {
		status  int
		code    record.Code
		attempt bool
	}{
		{http.StatusUnauthorized, record.AuthError, false},
		{http.StatusForbidden, record.AuthError, false},
		{http.StatusBadRequest, record.HTTPStatus, true},
		{http.StatusServiceUnavailable, record.HTTPStatus, true},
		{http.StatusFound, record.Redirect, true},
	} {
		g := newGateway(t)
		g.status, g.header = c.status, http.Header{"Retry-After": {"17"}, "Location": {"http://127.0.0.1:1/"}}
		err := send(t, newChannel(t, sms.Options{Preset: sms.Kannel, Gateway: sms.Gateway{URL: g.URL}, User: "u", PasswordFile: passwordFile(t)}))
		if err == nil || err.Code != c.code || err.Status != c.status || err.Code.IsAttempt() != c.attempt {
			t.Errorf("%d: %v", c.status, err)
			continue
		}
		if asks := err.RetryAfter; (asks == 17*time.Second) != (c.status == http.StatusServiceUnavailable) {
			t.Errorf("%d: waits %s", c.status, asks)
		}
		if text := err.Error() + err.Response; strings.Contains(text, "canary") || strings.Contains(text, "4930") {
			t.Errorf("%d: %q", c.status, text)
		}
		if len(g.all()) != 1 {
			t.Errorf("%d: %d requests", c.status, len(g.all()))
		}
	}
}

func TestAFailureDoesNotShowTheLogin(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	failure := send(t, newChannel(t, sms.Options{Preset: sms.Kannel, Gateway: sms.Gateway{URL: "http://" + l.Addr().String()}, User: "u", PasswordFile: passwordFile(t)}))
	if failure == nil || failure.Code != record.ConnectionRefused || strings.Contains(failure.Error(), "canary") {
		t.Errorf("%v", failure)
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	for name, o := range map[string]sms.Options{
		"preset":          {Preset: "smtp", Text: "x"},
		"no url":          {Preset: sms.Kannel, Text: "x"},
		"url":             {Preset: sms.Kannel, Gateway: sms.Gateway{URL: "gateway/send"}, Text: "x"},
		"login in url":    {Preset: sms.Kannel, Gateway: sms.Gateway{URL: "http://u:p@gateway/send"}, Text: "x"},
		"password in url": {Preset: sms.Custom, Gateway: sms.Gateway{URL: "http://gateway/${password}", Body: "x"}, Text: "x"},
		"variable":        {Preset: sms.Custom, Gateway: sms.Gateway{URL: "http://gateway/", Body: "${payload}"}, Text: "x"},
		"no body":         {Preset: sms.Custom, Gateway: sms.Gateway{URL: "http://gateway/"}, Text: "x"},
		"type":            {Preset: sms.Custom, Gateway: sms.Gateway{URL: "http://gateway/", Body: "x", ContentType: "text/xml"}, Text: "x"},
		"no text":         {Preset: sms.Kannel, Gateway: sms.Gateway{URL: "http://gateway/"}},
		"health data":     {Preset: sms.Kannel, Gateway: sms.Gateway{URL: "http://gateway/"}, Text: "${resource_id}"},
	} {
		if _, err := sms.New(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
