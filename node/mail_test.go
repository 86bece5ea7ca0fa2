package node

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// postbox is a mail server that refuses the first so many mails.
type postbox struct {
	addr string

	mu     sync.Mutex
	refuse int
	mails  chan *mail.Message
}

func newPostbox(t *testing.T, refuse int) *postbox {
	p := &postbox{refuse: refuse, mails: make(chan *mail.Message, 16)}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &postboxSession{p}, nil }))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	var served sync.WaitGroup
	served.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		l.Close() // a server that is closed before it serves does not know it
		served.Wait()
	})
	return p
}

type postboxSession struct{ *postbox }

func (s *postboxSession) Reset()                               {}
func (s *postboxSession) Logout() error                        { return nil }
func (s *postboxSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *postboxSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (s *postboxSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != 0 {
		s.refuse--
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "try again later"}
	}
	m, err := mail.ReadMessage(strings.NewReader(string(text)))
	s.mails <- m
	return err
}

func emailSubscription(extension string) string {
	return `{"resourceType":"Subscription","status":"requested","criteria":"Patient?","channel":{"type":"email",` + extension +
		`"endpoint":"mailto:nurse@hospital.example","payload":"application/fhir+json"}}`
}

func TestMailIsTriedAgainUntilTheServerTakesIt(t *testing.T) {
	p := newPostbox(t, 2)
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Schedule.Waits = []time.Duration{10 * time.Millisecond}
	cfg.Delivery.Email.Server, cfg.Delivery.Email.TLS, cfg.Delivery.Email.From = p.addr, "none", "carillon@hospital.example"
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", strings.Replace(emailSubscription(
		`"extension":[{"url":"http://hapifhir.io/fhir/StructureDefinition/subscription-email-from","valueString":"mailto:ward@hospital.example"}],`),
		`{`, `{"id":"s",`, 1), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	m := <-p.mails
	if m.Header.Get("X-FHIR-Subscription") != "Subscription/s" || m.Header.Get("From") != "<ward@hospital.example>" || m.Header.Get("X-Carillon-Attempt") != "3" {
		t.Errorf("header %v", m.Header)
	}
	r.await("the mail's outcome", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["pending"] == 0.0 && s["dead"] == 0.0 })
}

func TestMailThatIsNeverTakenBecomesADeadLetter(t *testing.T) {
	p := newPostbox(t, -1)
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Schedule.Waits = []time.Duration{10 * time.Millisecond}
	cfg.Delivery.Email.Server, cfg.Delivery.Email.TLS, cfg.Delivery.Email.From = p.addr, "none", "carillon@hospital.example"
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", strings.Replace(emailSubscription(""), `{`, `{"id":"s",`, 1), nil)
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	r.await("the dead letter", "/admin/api/v1/subscriptions/s", func(s map[string]any) bool { return s["dead"] == 1.0 })
	var letter map[string]any
	r.do(200, "GET", "/admin/api/v1/dlq/s.1", "", &letter)
	if letter["reason"] != "smtp_error" || letter["attempts"] != 3.0 {
		t.Errorf("letter %v", letter)
	}
}

func TestOperatorsAreToldByMail(t *testing.T) {
	p := newPostbox(t, 1) // the first try is refused
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Email.Server, cfg.Delivery.Email.TLS, cfg.Delivery.Email.From = p.addr, "none", "carillon@hospital.example"
	cfg.Delivery.OperatorEvents.Email.To = []string{"ops@hospital.example", "mailto:night@hospital.example"}
	r := runNode(t, cfg)
	r.do(200, "POST", "/admin/api/v1/delivery/stop", `{"reason":"maintenance"}`, nil)
	m := <-p.mails
	text, err := io.ReadAll(m.Body)
	if err != nil {
		t.Fatal(err)
	}
	if h := m.Header; h.Get("Subject") != "["+r.cluster+"] delivery.stopped" || h.Get("To") != "<ops@hospital.example>, <night@hospital.example>" ||
		h.Get("From") != "<carillon@hospital.example>" || h.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("header %v", h)
	}
	for _, line := range []string{"event         delivery.stopped", "node          n1", "reason        maintenance"} {
		if !strings.Contains(string(text), line) {
			t.Errorf("%q is not in %q", line, text)
		}
	}
}

func TestAShortMessageTellsOfTheEvent(t *testing.T) {
	asked := make(chan url.Values, 4)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Query()
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(gateway.Close)
	cfg := testConfig(t.TempDir())
	cfg.Delivery.SMS.Gateway.Preset, cfg.Delivery.SMS.Gateway.URL = "kannel", gateway.URL+"/cgi-bin/sendsms"
	r := runNode(t, cfg)
	r.do(201, "PUT", "/fhir/Subscription/s", `{"resourceType":"Subscription","id":"s","status":"requested","criteria":"Patient?",
		"channel":{"type":"sms","endpoint":"tel:+49-30-123456"}}`, nil)
	r.do(201, "PUT", "/fhir/Patient/canary", `{"resourceType":"Patient","id":"canary"}`, nil)
	if q := <-asked; q.Get("to") != "+4930123456" || q.Get("text") != "FHIR notification 1 of Subscription s" {
		t.Errorf("asked for %v", q)
	}
}

func TestWithoutAServerAMailSubscriptionStaysRequestedAndSaysWhy(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	var stored map[string]any
	r.do(201, "PUT", "/fhir/Subscription/s", strings.Replace(emailSubscription(""), `{`, `{"id":"s",`, 1), &stored)
	if stored["status"] != "requested" {
		t.Errorf("status %v", stored["status"])
	}
	var said struct {
		Issue []struct{ Severity, Diagnostics string }
	}
	r.do(200, "POST", "/fhir/Subscription/$validate", emailSubscription(""), &said)
	found := false
	for _, i := range said.Issue {
		found = found || i.Severity == "warning" && strings.Contains(i.Diagnostics, "delivery.email")
	}
	if !found {
		t.Errorf("$validate says %+v", said)
	}
}
