package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Options of a Channel.
type Options struct {
	Command     []string // absolute path of the program, then its arguments
	Concurrency int      // processes at once; 0 is DefaultConcurrency
	Env         []string // names of variables that are passed on
}

// DefaultConcurrency is how many processes of one channel run at once where nothing is said.
const DefaultConcurrency = 4

// ExitRefused is the exit status by which a program refuses a notification for good: EX_DATAERR of
// sysexits.h.
const ExitRefused = 65

const (
	maxResponse = 512             // bytes of the program's output that are kept
	lastGasp    = 2 * time.Second // how long a killed process may keep its pipes open
)

// Channel runs a program for each notification.
type Channel struct {
	command []string
	env     []string
	slots   chan struct{}
}

var _ deliver.Channel = (*Channel)(nil)

// New makes a channel. The program is looked for when it is run.
func New(o Options) *Channel {
	n := o.Concurrency
	if n <= 0 {
		n = DefaultConcurrency
	}
	return &Channel{command: o.Command, env: environment(o.Env), slots: make(chan struct{}, n)}
}

// environment is all that a process gets of ours.
func environment(names []string) []string {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Envelope is what a program reads.
type Envelope struct {
	ID           string   `json:"id"` // the same on every attempt: the webhook-id of a rest-hook
	Subscription string   `json:"subscription"`
	Event        uint64   `json:"event"`   // event number
	Attempt      int      `json:"attempt"` // from 1
	Resend       bool     `json:"resend"`
	Test         bool     `json:"test"`
	Interaction  string   `json:"interaction"` // create, update or delete
	Resource     string   `json:"resource"`    // Type/id
	Endpoint     string   `json:"endpoint,omitempty"`
	Headers      []Header `json:"headers,omitempty"` // of channel.header, and of interceptors
	ContentType  string   `json:"contentType,omitempty"`
	Trace        string   `json:"traceparent,omitempty"`
	Body         string   `json:"body,omitempty"` // as text, so that no byte of it changes
}

// Header is one header line.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Send runs the program once.
func (c *Channel) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return deliver.Receipt{}, &deliver.Error{Code: record.Timeout, Err: context.Canceled}
		}
		// Our own limit, and no attempt of the program's.
		return deliver.Receipt{}, &deliver.Error{Code: record.RateLimited, Err: errors.New("as many processes as are allowed are running")}
	}
	input, err := envelope(n, t)
	if err != nil {
		return deliver.Receipt{}, &deliver.Error{Code: record.RenderError, Err: err, Permanent: true}
	}
	began := time.Now()
	output, err := c.run(ctx, input)
	if err != nil {
		return deliver.Receipt{}, classify(ctx, err, output)
	}
	return deliver.Receipt{Response: output, Took: time.Since(began)}, nil
}

// run runs the program and gives the beginning of its output.
func (c *Channel) run(ctx context.Context, input []byte) (string, error) {
	cmd := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	cmd.Env, cmd.Dir = c.env, "/"
	cmd.Stdin = bytes.NewReader(input)
	out := &head{}
	cmd.Stdout, cmd.Stderr = out, io.Discard
	ownGroup(cmd)
	cmd.WaitDelay = lastGasp
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has said that all is well; what it left running has no say in that
	}
	killGroup(cmd)
	return out.text(), err
}

// classify names the failure of a process. No word of the program is in its text.
func classify(ctx context.Context, err error, output string) *deliver.Error {
	failure := &deliver.Error{Code: record.PublishError, Response: output}
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		failure.Code, failure.Err = record.Timeout, context.Canceled
	case ctx.Err() != nil:
		failure.Code, failure.Err = record.Timeout, fmt.Errorf("the command did not end in time: %w", context.DeadlineExceeded)
	case errors.As(err, &exit) && exit.ExitCode() == ExitRefused:
		failure.Permanent, failure.Err = true, fmt.Errorf("the command refused it for good (exit status %d)", ExitRefused)
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		failure.Err = fmt.Errorf("the command failed with exit status %d", exit.ExitCode())
	case errors.As(err, &exit):
		failure.Err = errors.New("the command was killed by a signal")
	default:
		failure.Err = errors.New("the command cannot be run: " + cause(err))
	}
	return failure
}

// cause leaves out of an error what it was about: paths are the operator's.
func cause(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	var missing *exec.Error
	if errors.As(err, &missing) {
		return missing.Err.Error()
	}
	return "its input or output broke off"
}

func envelope(n deliver.Notification, t deliver.Target) ([]byte, error) {
	e := Envelope{
		ID: n.Name(), Subscription: string(n.Subscription), Event: uint64(n.Number), Attempt: n.Attempt,
		Resend: n.Resend, Test: n.Test, Interaction: string(n.Interaction), Resource: n.Key.String(),
		Endpoint: t.Endpoint, Trace: n.Trace,
	}
	for _, line := range t.Headers {
		if name, value, ok := fhir.SplitHeader(line); ok {
			e.Headers = append(e.Headers, Header{name, value})
		}
	}
	for _, h := range n.Headers {
		e.Headers = append(e.Headers, Header(h))
	}
	asked := t.Payload != "" || n.Transaction || t.Style == deliver.StyleWebhook // as with a rest-hook
	if asked && n.Interaction != fhir.Delete && len(n.Body) > 0 {
		e.ContentType, e.Body = n.ContentType, string(n.Body)
		if e.ContentType == "" {
			e.ContentType = "application/fhir+json"
		}
	}
	var out bytes.Buffer
	w := json.NewEncoder(&out)
	w.SetEscapeHTML(false)
	err := w.Encode(e)
	return out.Bytes(), err
}

// head keeps the beginning of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxResponse-len(h.kept))]...)
	return len(p), nil
}

// text is what was kept, fit for a record: valid UTF-8 without control characters.
func (h *head) text() string {
	var s strings.Builder
	for b := h.kept; len(b) > 0; {
		r, n := utf8.DecodeRune(b)
		b = b[n:]
		switch {
		case r == utf8.RuneError && n <= 1:
			r = '?'
		case !unicode.IsPrint(r):
			r = ' '
		}
		s.WriteRune(r)
	}
	return strings.TrimSpace(s.String())
}
