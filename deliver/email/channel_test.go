package email_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"

	"io"
	"log"
	"math/big"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/email"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// relay is a mail server of the test's own.
type relay struct {
	addr   string
	server *smtp.Server

	mu     sync.Mutex
	behave delivertest.Wanted
	refuse *smtp.SMTPError // for recipients
	mails  []taken
	logins int
	silent chan struct{}
}

type taken struct {
	from string
	to   []string
	msg  *mail.Message
	body string
}

// newRelay starts one. certificate is nil for a server without TLS.
func newRelay(t *testing.T, certificate *tls.Certificate, secure bool) *relay {
	r := &relay{silent: make(chan struct{})}
	r.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &session{relay: r}, nil }))
	r.server.Domain, r.server.ErrorLog = "relay.test", log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if certificate != nil {
		cfg := &tls.Config{Certificates: []tls.Certificate{*certificate}}
		if secure {
			l = tls.NewListener(l, cfg)
		} else {
			r.server.TLSConfig = cfg
		}
	}
	r.addr = l.Addr().String()
	var served sync.WaitGroup
	served.Go(func() { r.server.Serve(l) })
	t.Cleanup(func() {
		close(r.silent)
		r.server.Close()
		l.Close() // a server that is closed before it serves does not know it
		served.Wait()
	})
	return r
}

func (r *relay) all() []taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mails
}

type session struct {
	relay *relay
	from  string
	to    []string
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "carillon" || password != "canary-password" {
			return smtp.ErrAuthFailed
		}
		s.relay.mu.Lock()
		defer s.relay.mu.Unlock()
		s.relay.logins++
		return nil
	}), nil
}
func (s *session) Mail(from string, _ *smtp.MailOptions) error { s.from = from; return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.relay.mu.Lock()
	defer s.relay.mu.Unlock()
	if s.relay.refuse != nil {
		return s.relay.refuse
	}
	s.to = append(s.to, to)
	return nil
}
func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	msg, err := mail.ReadMessage(strings.NewReader(string(text)))
	if err != nil {
		return err
	}
	body, _ := io.ReadAll(decoded(msg))
	s.relay.mu.Lock()
	s.relay.mails = append(s.relay.mails, taken{s.from, s.to, msg, string(body)})
	behave := s.relay.behave
	s.relay.mu.Unlock()
	switch behave {
	case delivertest.Refuse:
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "try again canary-body"}
	case delivertest.Silence:
		<-s.relay.silent
	}
	return nil
}
func (s *session) Reset()        { s.from, s.to = "", nil }
func (s *session) Logout() error { return nil }

func options(addr string) email.Options {
	return email.Options{
		Server: addr, Security: email.None, From: "carillon@hospital.example", Subject: "Event ${event} of ${subscription}", Body: "${payload}",
	}
}

func newChannel(t *testing.T, o email.Options) *email.Channel {
	t.Helper()
	c, err := email.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func target(endpoint string) deliver.Target {
	return deliver.Target{
		ID: "s", Birth: 3, ChannelType: email.Type, Endpoint: endpoint, Payload: "application/fhir+json",
		Headers: []string{"X-Ward: canary-header"}, Subscription: &fhir.Subscription{},
	}
}

func notification() deliver.Notification {
	return deliver.Notification{
		MatchID: record.MatchID{Event: 7, Birth: 3}, Subscription: "s", Number: 9, Attempt: 2,
		Key: fhir.Key{Type: "Patient", ID: "p1"}, Interaction: fhir.Update, ContentType: "application/fhir+json",
		Body: []byte(`{"resourceType":"Patient","id":"p1","name":[{"family":"Müller"}]}`),
	}
}

func TestEmailKeepsWhatEveryChannelKeeps(t *testing.T) {
	delivertest.TestChannel(t, func(t *testing.T) delivertest.Subject {
		r := newRelay(t, nil, false)
		absent := false
		o := options(r.addr)
		o.Connections = 32
		c := newChannel(t, o)
		return delivertest.Subject{
			Channel: channelFunc(func(ctx context.Context, n deliver.Notification, tg deliver.Target) (deliver.Receipt, *deliver.Error) {
				if absent {
					o.Server = unused(t)
					return newChannel(t, o).Send(ctx, n, tg)
				}
				return c.Send(ctx, n, tg)
			}),
			Target: target("mailto:nurse@hospital.example"),
			Behave: func(w delivertest.Wanted) {
				absent = w == delivertest.Absent
				r.mu.Lock()
				defer r.mu.Unlock()
				r.behave = w
			},
			Received: func() int { return len(r.all()) },
			Names: func() []string {
				var names []string
				for _, m := range r.all() {
					id := strings.Trim(m.msg.Header.Get("Message-ID"), "<>")
					name, _, _ := strings.Cut(id, "@")
					names = append(names, name)
				}
				return names
			},
		}
	})
}

type channelFunc func(context.Context, deliver.Notification, deliver.Target) (deliver.Receipt, *deliver.Error)

func (f channelFunc) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	return f(ctx, n, t)
}

// unused is an address where nobody listens.
func unused(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func send(t *testing.T, c *email.Channel, n deliver.Notification, tg deliver.Target) *deliver.Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Send(ctx, n, tg)
	return err
}

func one(t *testing.T, r *relay) taken {
	t.Helper()
	all := r.all()
	if len(all) != 1 {
		t.Fatalf("%d mails were taken, want 1", len(all))
	}
	return all[0]
}

func TestAMailHoldsTheResourceAndSaysWhoseItIs(t *testing.T) {
	r := newRelay(t, nil, false)
	if err := send(t, newChannel(t, options(r.addr)), notification(), target("mailto:nurse@hospital.example, doctor@hospital.example")); err != nil {
		t.Fatal(err)
	}
	m := one(t, r)
	if want := "nurse@hospital.example,doctor@hospital.example"; strings.Join(m.to, ",") != want {
		t.Errorf("went to %s", m.to)
	}
	for name, want := range map[string]string{
		"From": "<carillon@hospital.example>", "Subject": "Event 9 of s", "X-FHIR-Subscription": "Subscription/s",
		"X-Carillon-Event": "9", "X-Carillon-Attempt": "2", "Message-ID": "<s.3.9@hospital.example>",
		"Auto-Submitted": "auto-generated", "X-Ward": "canary-header",
	} {
		if got := m.msg.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if strings.TrimRight(m.body, "\r\n") != string(notification().Body) {
		t.Errorf("body is %q", m.body)
	}
}

func TestTheSubscriptionSaysSenderAndSubject(t *testing.T) {
	r := newRelay(t, nil, false)
	tg := target("nurse@hospital.example")
	tg.Subscription = &fhir.Subscription{EmailFrom: "mailto:ward@hospital.example", EmailSubject: "A ${resource_type} was ${interaction}d"}
	if err := send(t, newChannel(t, options(r.addr)), notification(), tg); err != nil {
		t.Fatal(err)
	}
	m := one(t, r)
	if m.msg.Header.Get("From") != "<ward@hospital.example>" || m.msg.Header.Get("Subject") != "A Patient was updated" || m.from != "ward@hospital.example" {
		t.Errorf("from %q, subject %q, envelope %q", m.msg.Header.Get("From"), m.msg.Header.Get("Subject"), m.from)
	}
}

func TestWithoutPayloadTheResourceIsNowhereInTheMail(t *testing.T) {
	r := newRelay(t, nil, false)
	tg := target("nurse@hospital.example")
	tg.Payload = ""
	if err := send(t, newChannel(t, options(r.addr)), notification(), tg); err != nil {
		t.Fatal(err)
	}
	if m := one(t, r); m.body != "" || strings.Contains(m.msg.Header.Get("Subject"), "p1") {
		t.Errorf("body %q, subject %q", m.body, m.msg.Header.Get("Subject"))
	}
}

func TestATestMailSaysSoWhereItIsSeen(t *testing.T) {
	r := newRelay(t, nil, false)
	n := notification()
	n.Test, n.TestID, n.Number = true, "x", 0
	if err := send(t, newChannel(t, options(r.addr)), n, target("nurse@hospital.example")); err != nil {
		t.Fatal(err)
	}
	if m := one(t, r); m.msg.Header.Get("Subject") != "TEST: Event 0 of s" || m.msg.Header.Get("X-Carillon-Test") != "true" {
		t.Errorf("subject %q", m.msg.Header.Get("Subject"))
	}
}

func TestNoHeaderCanBeSmuggledIn(t *testing.T) {
	r := newRelay(t, nil, false)
	n := notification()
	n.Headers = []deliver.Header{{Name: "X-Family", Value: "Graham\r\nBcc: thief@example.org"}}
	tg := target("nurse@hospital.example")
	if err := send(t, newChannel(t, options(r.addr)), n, tg); err == nil {
		if m := one(t, r); m.msg.Header.Get("Bcc") != "" || len(m.to) != 1 {
			t.Errorf("Bcc %q, recipients %v", m.msg.Header.Get("Bcc"), m.to)
		}
	}
	for _, endpoint := range []string{
		"nurse@hospital.example\r\nBcc: thief@example.org", "nurse@hospital.example\nRCPT TO:<thief@example.org>",
		"<nurse@hospital.example> SIZE=1", "nurse@hospital.example>\r\nDATA", "",
	} {
		err := send(t, newChannel(t, options(r.addr)), notification(), target(endpoint))
		if err == nil || err.Code != record.RenderError {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

func TestARefusedRecipientIsAFailedAttemptWithTheServersCode(t *testing.T) {
	for _, code := range []int{450, 550} {
		r := newRelay(t, nil, false)
		r.refuse = &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 1}, Message: "nurse@hospital.example is not known"}
		err := send(t, newChannel(t, options(r.addr)), notification(), target("nurse@hospital.example"))
		if err == nil || err.Code != record.SMTPError || err.Status != code || err.Permanent {
			t.Fatalf("%d: %v", code, err)
		}
		if strings.Contains(err.Error(), "nurse") || strings.Contains(err.Response, "nurse") {
			t.Errorf("the address is in %q", err)
		}
	}
}

func TestSTARTTLSIsDemandedAndUsed(t *testing.T) {
	certificate, ca := newCertificate(t)
	t.Run("a server that has it takes the mail", func(t *testing.T) {
		r := newRelay(t, certificate, false)
		o := login(t, options(r.addr))
		o.Security, o.CA = email.StartTLS, ca
		if err := send(t, newChannel(t, o), notification(), target("nurse@hospital.example")); err != nil {
			t.Fatal(err)
		}
		if one(t, r); r.logins != 1 {
			t.Errorf("%d logins", r.logins)
		}
	})
	t.Run("one that has not gets nothing", func(t *testing.T) {
		r := newRelay(t, nil, false)
		o := options(r.addr)
		o.Security = email.StartTLS
		err := send(t, newChannel(t, o), notification(), target("nurse@hospital.example"))
		if err == nil || err.Code != record.TLSError || len(r.all()) != 0 {
			t.Errorf("%v, %d mails", err, len(r.all()))
		}
	})
	t.Run("one whose certificate is not trusted gets nothing", func(t *testing.T) {
		r := newRelay(t, certificate, false)
		o := options(r.addr)
		o.Security = email.StartTLS
		err := send(t, newChannel(t, o), notification(), target("nurse@hospital.example"))
		if err == nil || err.Code != record.TLSError || len(r.all()) != 0 {
			t.Errorf("%v, %d mails", err, len(r.all()))
		}
	})
}

func TestTLSFromTheFirstByte(t *testing.T) {
	certificate, ca := newCertificate(t)
	r := newRelay(t, certificate, true)
	o := login(t, options(r.addr))
	o.Security, o.CA = email.TLS, ca
	if err := send(t, newChannel(t, o), notification(), target("nurse@hospital.example")); err != nil {
		t.Fatal(err)
	}
	if one(t, r); r.logins != 1 {
		t.Errorf("%d logins", r.logins)
	}
}

func TestARefusedLoginIsNotTheReceiversFault(t *testing.T) {
	certificate, ca := newCertificate(t)
	r := newRelay(t, certificate, true)
	o := options(r.addr)
	o.Security, o.CA, o.User = email.TLS, ca, "carillon"
	o.PasswordFile = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(o.PasswordFile, []byte("canary-wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := send(t, newChannel(t, o), notification(), target("nurse@hospital.example"))
	if err == nil || err.Code != record.AuthError || err.Code.IsAttempt() {
		t.Fatalf("%v", err)
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the password is in %q", err)
	}
	o.PasswordFile += ".gone"
	if err := send(t, newChannel(t, o), notification(), target("nurse@hospital.example")); err == nil || err.Code != record.AuthError {
		t.Errorf("without its file: %v", err)
	}
}

func TestAPasswordIsNotSentInClear(t *testing.T) {
	r := newRelay(t, nil, false)
	r.server.AllowInsecureAuth = true // it offers PLAIN
	err := send(t, newChannel(t, login(t, options(r.addr))), notification(), target("nurse@hospital.example"))
	if err == nil || err.Code != record.AuthError || r.logins != 0 {
		t.Errorf("%v, %d logins", err, r.logins)
	}
}

func TestMoreMailsThanConnectionsWaitAndSpendNoAttempt(t *testing.T) {
	r := newRelay(t, nil, false)
	r.behave = delivertest.Silence
	o := options(r.addr)
	o.Connections = 1
	c := newChannel(t, o)
	first, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Send(first, notification(), target("nurse@hospital.example"))
	}()
	for len(r.all()) == 0 {
		select {
		case <-ended:
			t.Fatal("the first ended by itself")
		case <-time.After(time.Millisecond):
		}
	}
	second, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	_, err := c.Send(second, notification(), target("nurse@hospital.example"))
	if err == nil || err.Code != record.RateLimited || err.Code.IsAttempt() {
		t.Errorf("%v", err)
	}
	cancel()
	<-ended
	r.mu.Lock()
	r.behave = delivertest.Accept
	r.mu.Unlock()
	if err := send(t, c, notification(), target("nurse@hospital.example")); err != nil {
		t.Errorf("a connection was not given back: %v", err)
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	good := options("127.0.0.1:25")
	for name, change := range map[string]func(*email.Options){
		"server":  func(o *email.Options) { o.Server = "relay" },
		"port":    func(o *email.Options) { o.Server = "relay:smtp" },
		"from":    func(o *email.Options) { o.From = "nobody" },
		"subject": func(o *email.Options) { o.Subject = "${payload}" },
		"id":      func(o *email.Options) { o.Subject = "Patient ${resource_id}" },
		"lines":   func(o *email.Options) { o.Subject = "a\r\nBcc: b@example.org" },
		"body":    func(o *email.Options) { o.Body = "${nope}" },
		"ca":      func(o *email.Options) { o.CA = "/nowhere" },
	} {
		o := good
		change(&o)
		if _, err := email.New(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := email.New(good); err != nil {
		t.Error(err)
	}
}

func login(t *testing.T, o email.Options) email.Options {
	o.User, o.PasswordFile = "carillon", filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(o.PasswordFile, []byte("canary-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

// newCertificate makes one for 127.0.0.1 that signs itself, and the file of its authority.
func newCertificate(t *testing.T) (*tls.Certificate, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// decoded undoes the transfer encoding of a mail's body.
func decoded(m *mail.Message) io.Reader {
	switch strings.ToLower(m.Header.Get("Content-Transfer-Encoding")) {
	case "quoted-printable":
		return quotedprintable.NewReader(m.Body)
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, m.Body)
	}
	return m.Body
}
