package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// The channels whose servers others wrote are tried against those: a mail server and an SMS gateway
// as Debian packages them. Each runs in a network of the test's own, since neither can be told to
// keep all its ports to this machine, and ends with the test.

// inOwnNetwork runs the calling test a second time, in a network namespace that has nothing but a
// loopback device, and reports whether this is that second time.
func inOwnNetwork(t *testing.T, needs ...string) bool {
	t.Helper()
	if os.Getenv("E2E_NETWORK") == t.Name() {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("loopback device: %v %s", err, out)
		}
		return true
	}
	if testing.Short() {
		t.Skip("starts servers of other projects")
	}
	for _, file := range append(needs, "ip") {
		if _, err := exec.LookPath(file); err != nil {
			t.Skipf("%s is not installed", file)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), "E2E_NETWORK="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Skipf("no network of its own: %v", err)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// program starts a server of another project, which ends with the test.
func program(t *testing.T, name string, args ...string) {
	t.Helper()
	var log lockedBuffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		ended := make(chan struct{})
		go func() {
			cmd.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.String())
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// awaitPort waits until somebody listens.
func awaitPort(t *testing.T, addr string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nobody listens on %s", addr)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAMailServerOfAnotherProjectTakesOurMail(t *testing.T) {
	if !inOwnNetwork(t, "smtpd") {
		return
	}
	// What OpenSMTPD has taken it passes on to a mailbox of ours.
	box := make(chan *mail.Message, 4)
	sink := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return mailbox{box}, nil }))
	sink.Addr = "127.0.0.1:2526"
	go sink.ListenAndServe()
	t.Cleanup(func() { sink.Close() })
	awaitPort(t, sink.Addr)

	dir := t.TempDir()
	program(t, "smtpd", "-d", "-f", writeFile(t, dir, "smtpd.conf", `
listen on 127.0.0.1 port 2525
action "pass on" relay host "smtp://127.0.0.1:2526"
match from any for domain "hospital.example" action "pass on"
`))
	awaitPort(t, "127.0.0.1:2525")

	config := writeFile(t, dir, "cluster.yaml", `
delivery:
  retry: {schedule: [200ms]}
  email: {server: "127.0.0.1:2525", tls: none, from: carillon@hospital.example}
`)
	n := harness.NewNode(t, "--config", config).Start()
	n.MustDo(201, "PUT", "/fhir/Subscription/mail", `{"resourceType":"Subscription","id":"mail","status":"requested","criteria":"Patient?",
		"channel":{"type":"email","endpoint":"mailto:nurse@hospital.example","payload":"application/fhir+json"}}`)
	n.MustDo(201, "PUT", "/fhir/Subscription/elsewhere", `{"resourceType":"Subscription","id":"elsewhere","status":"requested","criteria":"Patient?",
		"channel":{"type":"email","endpoint":"mailto:somebody@elsewhere.example"}}`)
	n.MustDo(201, "PUT", "/fhir/Patient/ada", patient("ada", "Müller"))

	m := <-box
	if m.Header.Get("X-FHIR-Subscription") != "Subscription/mail" || m.Header.Get("Subject") != "FHIR notification" {
		t.Errorf("header %v", m.Header)
	}
	// A domain that it does not relay for is refused by its code, and ends as a dead letter.
	await(t, n, "the dead letter", func() bool { return object(n, "/admin/api/v1/subscriptions/elsewhere")["dead"] == 1.0 })
	letter := object(n, "/admin/api/v1/dlq/elsewhere.1")
	if letter["reason"] != "smtp_error" {
		t.Errorf("letter %v", letter)
	}
}

// object reads one object of the administration API.
func object(n *harness.Node, path string) (o map[string]any) {
	json.Unmarshal(n.MustDo(200, "GET", path, "").Body, &o)
	return o
}

type mailbox struct{ mails chan<- *mail.Message }

func (mailbox) Reset()                               {}
func (mailbox) Logout() error                        { return nil }
func (mailbox) Mail(string, *smtp.MailOptions) error { return nil }
func (mailbox) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (m mailbox) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	msg, err := mail.ReadMessage(strings.NewReader(string(text)))
	if err == nil {
		m.mails <- msg
	}
	return err
}

const fakesmsc = "/usr/lib/kannel/test/fakesmsc"

func TestAnSMSGatewayOfAnotherProjectSendsOurMessage(t *testing.T) {
	if !inOwnNetwork(t, "bearerbox", "smsbox", fakesmsc) {
		return
	}
	dir := t.TempDir()
	conf := writeFile(t, dir, "kannel.conf", `
group = core
admin-port = 13000
admin-interface = 127.0.0.1
admin-password = none
smsbox-port = 13001
smsbox-interface = 127.0.0.1
box-allow-ip = 127.0.0.1

group = smsc
smsc = fake
smsc-id = FAKE
host = 127.0.0.1
port = 10000
connect-allow-ip = 127.0.0.1

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = 13013
sendsms-interface = 127.0.0.1

group = sendsms-user
username = carillon
password = gateway-password

group = sms-service
keyword = default
text = "none"
`)
	program(t, "bearerbox", conf)
	awaitPort(t, "127.0.0.1:13001")
	program(t, "smsbox", conf)
	awaitPort(t, "127.0.0.1:13013")
	awaitPort(t, "127.0.0.1:10000")
	// The telephone network: it prints what it is to send.
	network := exec.Command(fakesmsc, "-H", "127.0.0.1", "-r", "10000", "-m", "0")
	var heard lockedBuffer
	network.Stdout, network.Stderr = &heard, &heard
	stdin, err := network.StdinPipe() // it ends with its input
	if err != nil {
		t.Fatal(err)
	}
	if err := network.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		network.Process.Kill()
		network.Wait()
	})

	password := writeFile(t, dir, "password", "gateway-password\n")
	config := writeFile(t, dir, "cluster.yaml", fmt.Sprintf(`
delivery:
  retry: {schedule: [500ms], attempts: 18}
  sms:
    gateway: {preset: kannel, url: "http://127.0.0.1:13013/cgi-bin/sendsms", user: carillon, password_file: %q, from: "12345"}
    text: "New ${resource_type}, event ${event}"
`, password))
	n := harness.NewNode(t, "--config", config).Start()
	n.MustDo(201, "PUT", "/fhir/Subscription/sms", `{"resourceType":"Subscription","id":"sms","status":"requested","criteria":"Patient?",
		"channel":{"type":"sms","endpoint":"tel:+49-30-123456"}}`)
	n.MustDo(201, "PUT", "/fhir/Patient/ada", patient("ada", "Müller"))
	await(t, n, "the message's outcome", func() bool {
		s := object(n, "/admin/api/v1/subscriptions/sms")
		return s["pending"] == 0.0 && s["lastSuccess"] != nil
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if text := heard.String(); strings.Contains(text, "4930123456") && strings.Contains(text, "New+Patient%2C+event+1") || strings.Contains(text, "New Patient, event 1") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the network heard:\n%s", heard.String())
		}
	}
}
