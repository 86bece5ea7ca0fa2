package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Node is one member of the cluster: a process on a host with a disk, both of which outlive it.
type Node struct {
	Name string
	URL  string // http://127.0.0.1:port, inside the host
	NATS string // 127.0.0.1:port, inside the host
	Disk *Disk
	Host *Host

	binary string
	config string
	env    []string
	log    string // file of what the process writes to stderr

	client *http.Client

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd  // nil while it does not run
	done   chan struct{}
	paused bool
}

// errDown is the answer of a node that does not run.
var errDown = errors.New("the process has ended")

// errUnsent says that nothing of a request was written to any connection.
var errUnsent = errors.New("not sent")

// Start runs the process. It returns when the process runs; AwaitReady tells when it serves.
func (n *Node) Start(args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil && n.runs() {
		return nil
	}
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.binary, append([]string{"serve", "--config", n.config, "--node", n.Name, "--log-format", "json"}, args...)...)
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is the run's to handle
	if err := n.Host.within(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.cmd, n.done, n.paused = cmd, make(chan struct{}), false
	go func(done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(n.done)
	return nil
}

func (n *Node) runs() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Running reports whether the process lives.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil && n.runs()
}

// PID is the process id, 0 if there is none.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil || !n.runs() {
		return 0
	}
	return n.cmd.Process.Pid
}

// Kill ends the process with SIGKILL and waits for it.
func (n *Node) Kill() { n.end(syscall.SIGKILL) }

// Stop asks the process to drain and waits; after a minute it is killed, and that is an error.
func (n *Node) Stop() error {
	n.mu.Lock()
	cmd, done := n.cmd, n.done
	n.mu.Unlock()
	if cmd == nil {
		return nil
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	<-done
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with code %d after SIGTERM", n.Name, code)
	}
	return nil
}

func (n *Node) end(s syscall.Signal) {
	n.mu.Lock()
	cmd, done := n.cmd, n.done
	n.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(s)
	<-done
}

// Pause stops the process without ending it (SIGSTOP); Continue lets it go on.
func (n *Node) Pause() error { return n.signal(syscall.SIGSTOP, true) }

// Continue undoes Pause.
func (n *Node) Continue() error { return n.signal(syscall.SIGCONT, false) }

func (n *Node) signal(s syscall.Signal, paused bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil || !n.runs() {
		return errDown
	}
	n.paused = paused
	return n.cmd.Process.Signal(s)
}

// Restart starts the process and waits until it serves. A projection that the node refuses is
// made again, as the refusal tells its operator; rebuilt says so.
func (n *Node) Restart(ctx context.Context, limit time.Duration) (rebuilt bool, err error) {
	from := n.logSize()
	if err := n.Start(); err != nil {
		return false, err
	}
	err = n.AwaitReady(ctx, limit)
	if errors.Is(err, errDown) && strings.Contains(n.logFrom(from), "--rebuild") {
		if err := n.Start("--rebuild"); err != nil {
			return true, err
		}
		return true, n.AwaitReady(ctx, limit)
	}
	return false, err
}

// AwaitReady waits until /readyz says that the node serves.
func (n *Node) AwaitReady(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last string
	for {
		switch a, err := n.Do(ctx, "GET", "/readyz", nil); {
		case err == nil && a.Status == http.StatusOK:
			return nil
		case err == nil:
			last = fmt.Sprintf("status %d: %s", a.Status, bytes.TrimSpace(a.Body))
		case errors.Is(err, errDown):
			return fmt.Errorf("%s: %w (%s): %s", n.Name, errDown, n.ending(), n.lastLine())
		default:
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s not ready after %s: %s", n.Name, limit, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ending is how the process ended.
func (n *Node) ending() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil || n.runs() {
		return "not ended"
	}
	return n.cmd.ProcessState.String()
}

// Answer is what came back from one request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends one request with the headers given as name, value pairs.
func (n *Node) Do(ctx context.Context, method, path string, body []byte, header ...string) (Answer, error) {
	if !n.Running() {
		return Answer{}, errors.Join(errUnsent, errDown)
	}
	var sent atomic.Bool // on any connection: the client may try again on another by itself
	trace := &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { sent.Store(true) }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, n.URL+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := n.client.Do(req)
	if err != nil {
		if !sent.Load() {
			err = errors.Join(errUnsent, err)
		}
		return Answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return Answer{res.StatusCode, res.Header, b}, err
}

// JSON asks for an object or an array of the administration API.
func (n *Node) JSON(ctx context.Context, path string, into any) error {
	a, err := n.Do(ctx, "GET", path, nil)
	if err != nil {
		return fmt.Errorf("%s: GET %s: %w", n.Name, path, err)
	}
	if a.Status != http.StatusOK {
		return fmt.Errorf("%s: GET %s: status %d: %s", n.Name, path, a.Status, bytes.TrimSpace(a.Body))
	}
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("%s: GET %s: %w", n.Name, path, err)
	}
	return nil
}

// CLI runs a command of the binary against the node, from the node's own host.
func (n *Node) CLI(ctx context.Context, args ...string) (out string, code int, err error) {
	cmd := exec.CommandContext(ctx, n.binary, append([]string{"--server", n.URL}, args...)...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := n.Host.within(cmd.Start); err != nil {
		return "", 0, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return b.String(), cmd.ProcessState.ExitCode(), err
}

func (n *Node) logSize() int64 {
	st, err := os.Stat(n.log)
	if err != nil {
		return 0
	}
	return st.Size()
}

func (n *Node) logFrom(offset int64) string {
	f, err := os.Open(n.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	_, _ = f.Seek(offset, io.SeekStart)
	b, _ := io.ReadAll(f)
	return string(b)
}

func (n *Node) lastLine() string {
	lines := strings.Split(strings.TrimSpace(n.logFrom(max(0, n.logSize()-4096))), "\n")
	return lines[len(lines)-1]
}

// logFindings are lines of the log that no run may hold: panics, data races, and the marker
// that stands in every resource.
func (n *Node) logFindings() (found []string) {
	f, err := os.Open(n.log)
	if err != nil {
		return nil
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for line := 1; s.Scan(); line++ {
		for _, bad := range []string{"DATA RACE", "panic:", "panicked", "fatal error:", canary} {
			if strings.Contains(s.Text(), bad) {
				found = append(found, fmt.Sprintf("log of %s, line %d: %s", n.Name, line, clip(s.Text(), 300)))
				break
			}
		}
	}
	return found
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// httpClient reaches a node from its own host.
func (h *Host) httpClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return h.Dial(ctx, network, address)
			},
			MaxIdleConnsPerHost: 64,
		},
		Timeout: 20 * time.Second,
	}
}

// newNode places a node on a host; cluster.go writes its configuration.
func newNode(m *Machine, h *Host, name, binary, config string, disk *Disk, env []string) *Node {
	return &Node{
		Name: name, Host: h, Disk: disk, binary: binary, config: config, env: env,
		URL:  fmt.Sprintf("http://127.0.0.1:%d", httpPort(h)),
		NATS: fmt.Sprintf("127.0.0.1:%d", natsPort(h)),
		log:  filepath.Join(m.Dir, name, "log.json"), client: h.httpClient(),
	}
}
