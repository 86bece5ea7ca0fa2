package clients

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// receiver is one of the programs of receivers/, running, behind a network that the test may spoil.
type receiver struct {
	URL   string
	lines chan string // what it printed

	mu     sync.Mutex
	spoil  func(*http.Request, []byte) []byte // the body that gets through
	answer func(status int) int               // the answer that gets back
	past   []int                              // answers as the receiver gave them
}

func startReceiver(t *testing.T, secret, name string, args ...string) *receiver {
	t.Helper()
	path := program(t, name)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("PORT=%d", port), "WEBHOOK_SECRET="+secret)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &receiver{lines: make(chan string, 100)}
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-printed
		cmd.Wait()
	})
	target := fmt.Sprintf("127.0.0.1:%d", port)
	listening(t, target)
	network := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) { r.pass(target, w, in) }))
	t.Cleanup(network.Close)
	r.URL = network.URL
	return r
}

// listening waits until a program takes connections: it says nothing when it does.
func listening(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// pass hands a request on, and its answer back.
func (r *receiver) pass(target string, w http.ResponseWriter, in *http.Request) {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return
	}
	out := in.Clone(context.WithoutCancel(in.Context()))
	r.mu.Lock()
	spoil, answer := r.spoil, r.answer
	r.mu.Unlock()
	if spoil != nil {
		body = spoil(out, body)
	}
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", target
	out.Body, out.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
	res, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	res.Body.Close()
	r.mu.Lock()
	r.past = append(r.past, res.StatusCode)
	r.mu.Unlock()
	if answer != nil {
		res.StatusCode = answer(res.StatusCode)
	}
	w.WriteHeader(res.StatusCode)
}

// between sets what the network does from now on.
func (r *receiver) between(spoil func(*http.Request, []byte) []byte, answer func(int) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoil, r.answer, r.past = spoil, answer, nil
}

func (r *receiver) statuses() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.past)
}

func (r *receiver) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-r.lines:
		return line
	case <-time.After(20 * time.Second):
		t.Fatalf("the receiver prints nothing; it answered %v", r.statuses())
		return ""
	}
}

// The receivers that the documentation shows take each notification once, whatever gets lost on the
// way, and none that was changed, has the wrong secret or is old.
func TestTheReceiversOfTheDocumentation(t *testing.T) {
	const secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	n := harness.NewNode(t, "--config", config(t, "delivery:\n  retry:\n    attempts: unlimited\n    schedule: [50ms]\n")).Start()
	binary := filepath.Join(t.TempDir(), "receiver")
	if out, err := exec.Command("go", "build", "-o", binary, "./receivers/go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, command := range map[string][]string{
		"go": {binary}, "javascript": {"node", "receivers/receiver.mjs"}, "python": {"python3", "receivers/receiver.py"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReceiver(t, secret, command[0], command[1:]...)
			n.MustDo(201, "PUT", "/fhir/Subscription/"+name, subscription(name, "Patient?identifier="+name, r.URL+"/in", ownSecret, secret))
			defer n.MustDo(204, "DELETE", "/fhir/Subscription/"+name, "")
			put := func(id string) {
				t.Helper()
				n.MustDo(201, "PUT", "/fhir/Patient/"+name+id, `{"resourceType":"Patient","id":"`+name+id+`","identifier":[{"value":"`+name+`"}],"name":[{"family":"Größe"}]}`)
			}
			took := func(id string) {
				t.Helper()
				if line := r.next(t); !strings.HasPrefix(line, "PUT /in/Patient/"+name+id+" {") || !strings.Contains(line, "Größe") {
					t.Errorf("took %s, want that of %s%s", line, name, id)
				}
			}
			settled := func() { // or an attempt of before would meet what is spoilt next
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					if strings.Contains(string(n.MustDo(200, "GET", "/admin/api/v1/subscriptions/"+name, "").Body), `"pending":0`) {
						return
					}
					if time.Now().After(deadline) {
						t.Fatal("notifications are pending for ever")
					}
				}
			}
			put("-plain")
			took("-plain")
			settled()

			lost := 2 // answers that do not get back, so that it comes again
			r.between(nil, func(status int) int {
				if lost--; lost >= 0 {
					return http.StatusServiceUnavailable
				}
				return status
			})
			put("-answer-lost")
			took("-answer-lost") // once: what comes next is that of another
			settled()

			bad := 0
			r.between(func(h *http.Request, body []byte) []byte {
				bad++
				switch bad {
				case 1:
					return append(body, ' ')
				case 2:
					h.Header.Set("webhook-id", h.Header.Get("webhook-id")+"0")
				case 3:
					h.Header.Set("webhook-timestamp", "1000000000")
				case 4:
					h.Header.Del("webhook-signature")
				case 5:
					h.Header.Del("webhook-timestamp")
				}
				return body
			}, nil)
			put("-changed")
			took("-changed")
			settled()
			if got := r.statuses(); len(got) < 5 || slices.ContainsFunc(got[:5], func(s int) bool { return s != http.StatusUnauthorized }) {
				t.Errorf("what was changed on the way is answered with %v", got)
			}
			r.between(nil, nil)
			put("-last")
			took("-last")
		})
	}
}

// The page shows the programs that the test above runs.
func TestThePageForReceiversShowsThePrograms(t *testing.T) {
	page, err := os.ReadFile("receivers/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for language, file := range map[string]string{"go": "receivers/go/main.go", "js": "receivers/receiver.mjs", "python": "receivers/receiver.py"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(page), "```"+language+"\n"+string(text)+"```\n") {
			t.Errorf("the page does not show %s as it is", file)
		}
	}
}
