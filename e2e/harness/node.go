package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var build struct {
	once sync.Once
	path string
	dir  string
	err  error
}

// Binary builds cmd/carillon once for the test process and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		build.dir, build.err = os.MkdirTemp("", "carillon-e2e-")
		if build.err != nil {
			return
		}
		build.path = filepath.Join(build.dir, "carillon")
		args := []string{"build", "-o", build.path}
		if os.Getenv("E2E_RACE") != "" {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "github.com/carillon-fhir/carillon/cmd/carillon")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build carillon: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// Clean removes the binary; TestMain calls it at the end.
func Clean() {
	if build.dir != "" {
		os.RemoveAll(build.dir)
	}
}

// Node is one carillon process with a data folder that outlives it.
type Node struct {
	t    testing.TB
	Dir  string   // data folder
	Args []string // further flags of serve; --dev is given unless NoDev
	// NoDev leaves --dev away.
	NoDev bool
	// Env are further environment variables, NAME=value.
	Env []string

	URL  string // http://127.0.0.1:port, set by Start
	NATS string // nats://127.0.0.1:port

	cmd  *exec.Cmd
	logs *tailBuffer
	done chan struct{}
}

// NewNode prepares a node with an empty data folder. It is stopped when the test ends.
func NewNode(t testing.TB, args ...string) *Node {
	n := &Node{t: t, Dir: t.TempDir(), Args: args, logs: &tailBuffer{max: 8 << 20}}
	t.Cleanup(func() {
		if n.cmd != nil {
			n.Kill()
		}
		if t.Failed() {
			logs := n.Logs()
			t.Logf("last log lines of the node:\n%s", logs[max(0, len(logs)-8<<10):])
		}
	})
	return n
}

// Start runs the process and waits for its ready line. The ports chosen at the first start
// are kept, so that clients and endpoints find a restarted node where it was.
func (n *Node) Start() *Node {
	n.t.Helper()
	if err := n.TryStart(); err != nil {
		n.t.Fatalf("start node: %v\n%s", err, n.logs)
	}
	return n
}

// TryStart is Start for tests that expect a refusal.
func (n *Node) TryStart() error {
	httpAddr, natsAddr := "127.0.0.1:0", "127.0.0.1:0"
	if n.URL != "" {
		httpAddr, natsAddr = strings.TrimPrefix(n.URL, "http://"), strings.TrimPrefix(n.NATS, "nats://")
	}
	args := []string{"serve", "--data", n.Dir, "--http", httpAddr, "--nats", natsAddr, "--log-format", "json"}
	if !n.NoDev {
		args = append(args, "--dev")
	}
	cmd := exec.Command(Binary(n.t), append(args, n.Args...)...)
	cmd.Env = append(os.Environ(), n.Env...)
	cmd.Stderr = n.logs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.done = cmd, make(chan struct{})
	lines := bufio.NewReader(out)
	ready := make(chan string, 1)
	go func(cmd *exec.Cmd, done chan struct{}) {
		line, _ := lines.ReadString('\n')
		ready <- line
		io.Copy(io.Discard, lines)
		cmd.Wait()
		close(done)
	}(cmd, n.done)
	select {
	case line := <-ready:
		if !strings.HasPrefix(line, "ready ") {
			<-n.done
			n.cmd = nil
			return &Refused{Code: cmd.ProcessState.ExitCode(), Logs: n.Logs()}
		}
		for _, f := range strings.Fields(line)[1:] {
			k, v, _ := strings.Cut(f, "=")
			switch { // a later start has the addresses of the first, and writers may be reading them
			case k == "http" && n.URL == "":
				n.URL = v
			case k == "nats" && n.NATS == "":
				n.NATS = v
			}
		}
		return nil
	case <-time.After(60 * time.Second):
		n.Kill()
		return errors.New("not ready after a minute")
	}
}

// Kill ends the process as a power switch would, without a word (SIGKILL), and waits for it.
func (n *Node) Kill() {
	n.cmd.Process.Signal(syscall.SIGKILL)
	<-n.done
	n.cmd = nil
}

// Stop asks the process to drain (SIGTERM) and returns its exit code.
func (n *Node) Stop() int {
	cmd := n.cmd
	cmd.Process.Signal(syscall.SIGTERM)
	<-n.done
	n.cmd = nil
	return cmd.ProcessState.ExitCode()
}

// Refused is a process that ended instead of getting ready.
type Refused struct {
	Code int
	Logs string // all that the node's processes wrote to stderr so far
}

// Error gives the exit code and the last line.
func (r *Refused) Error() string {
	lines := strings.Split(strings.TrimSpace(r.Logs), "\n")
	return fmt.Sprintf("exit code %d: %s", r.Code, lines[len(lines)-1])
}

// PID is the process id, for tests that read /proc.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Logs are the newest lines that the node logged.
func (n *Node) Logs() string { return n.logs.String() }

// Answer is what came back from one HTTP request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends one request with the headers given as name, value pairs.
func (n *Node) Do(ctx context.Context, method, path string, body []byte, header ...string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.URL+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return Answer{res.StatusCode, res.Header, b}, err
}

// client keeps enough idle connections for the writers of a load test.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: 60 * time.Second}

// MustDo is Do for requests that have to give the status.
func (n *Node) MustDo(status int, method, path, body string, header ...string) Answer {
	n.t.Helper()
	a, err := n.Do(n.t.Context(), method, path, []byte(body), header...)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.Status != status {
		n.t.Fatalf("%s %s: status %d, want %d\n%s", method, path, a.Status, status, a.Body)
	}
	return a
}

// CLI runs a command of the binary against the node and returns what it printed and its code.
func (n *Node) CLI(args ...string) (stdout, stderr string, code int) {
	n.t.Helper()
	cmd := exec.Command(Binary(n.t), append([]string{"--server", n.URL, "--nats", n.NATS}, args...)...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatalf("run carillon %s: %v", strings.Join(args, " "), err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// tailBuffer keeps the last bytes written to it.
type tailBuffer struct {
	mu  sync.Mutex
	b   []byte
	max int
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	if over := len(b.b) - b.max; over > 0 {
		b.b = append(b.b[:0], b.b[over:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}
