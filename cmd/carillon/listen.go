package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/deliver/resthook"
)

func listenCommand() *cli.Command {
	return &cli.Command{
		Name:  "listen",
		Usage: "receive notifications and print them, for trying things",
		Description: help(`Serves HTTP, prints one line for each request and answers as told, until interrupted.`,
			"carillon listen --body",
			"carillon listen --addr 127.0.0.1:9001 --status 503 --delay 2s",
			"carillon listen --fail 2 -o json",
			"carillon listen --verify-secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "addr", Usage: "`ADDR` to listen on; port 0 picks a free one", Value: "127.0.0.1:9000"},
			&cli.IntFlag{Name: "status", Usage: "HTTP status of the answers", Value: 200},
			&cli.DurationFlag{Name: "delay", Usage: "wait so long before each answer"},
			&cli.IntFlag{Name: "fail", Usage: "answer 500 to the first `N` requests"},
			&cli.BoolFlag{Name: "body", Usage: "print the bodies too"},
			&cli.StringFlag{Name: "verify-secret", Usage: "check signatures by this `SECRET`; what is wrong is answered 401"},
		},
		Action: action(0, 0, listen),
	}
}

func listen(c *call) error {
	r := &receiver{
		w: c.App.Writer, json: c.out.form == "json", bodies: c.Bool("body"), secret: c.String("verify-secret"),
		status: c.Int("status"), delay: c.Duration("delay"), fail: c.Int("fail"),
	}
	if r.status < 200 || r.status > 599 {
		return usage("--status %d is not between 200 and 599", r.status)
	}
	if c.out.form != "json" && c.out.form != "table" {
		return usage("listen prints lines of text or, with -o json, JSON objects; not %s", c.out.form)
	}
	ctx, stop := c.interruptible()
	defer stop()
	r.stop = ctx.Done()
	l, err := net.Listen("tcp", c.String("addr"))
	if err != nil {
		return err
	}
	c.note("listening on http://%s", l.Addr())
	return serveHTTP(ctx, l, r)
}

// serveHTTP serves until ctx ends, then waits for what is under way.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(graceful); err != nil {
		s.Close() // somebody keeps a connection busy; the process ends
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// receiver is an endpoint that prints what it gets.
type receiver struct {
	json   bool
	bodies bool
	secret string // by which signatures are checked; empty: they are not
	status int
	delay  time.Duration
	stop   <-chan struct{}

	mu   sync.Mutex // guards what follows: one line of output at a time
	w    io.Writer
	fail int // requests still to be answered 500
}

// received is one request, as it is printed.
type received struct {
	Time         time.Time       `json:"time"`
	Method       string          `json:"method"`
	Path         string          `json:"path"`
	Status       int             `json:"status"` // that it was answered with
	Resource     string          `json:"resource,omitempty"`
	Subscription string          `json:"subscription,omitempty"`
	Event        string          `json:"event,omitempty"`
	Attempt      string          `json:"attempt,omitempty"`
	ID           string          `json:"webhookId,omitempty"`
	Signature    string          `json:"signature,omitempty"` // valid, or what is wrong with it
	Bytes        int             `json:"bytes"`
	Body         json.RawMessage `json:"body,omitempty"`
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 64<<20))
	if err != nil {
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return
	}
	got := received{
		Time: time.Now(), Method: req.Method, Path: req.URL.Path, Status: r.answer(), Bytes: len(body),
		Resource:     resourceOf(req, body),
		Subscription: req.Header.Get("X-Carillon-Subscription"),
		Event:        req.Header.Get("X-Carillon-Event"),
		Attempt:      req.Header.Get("X-Carillon-Attempt"),
		ID:           req.Header.Get("webhook-id"),
	}
	if r.secret != "" {
		got.Signature = "valid"
		if err := resthook.Verify(r.secret, req.Header, body, got.Time); err != nil {
			got.Signature, got.Status = err.Error(), http.StatusUnauthorized
		}
	}
	r.print(got, body)
	if r.delay > 0 {
		select {
		case <-time.After(r.delay):
		case <-r.stop:
		case <-req.Context().Done():
		}
	}
	w.WriteHeader(got.Status)
}

func (r *receiver) answer() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail > 0 {
		r.fail--
		return http.StatusInternalServerError
	}
	return r.status
}

// resourceOf names the resource of a notification: from its body, else from where it was sent.
func resourceOf(req *http.Request, body []byte) string {
	if deleted := req.Header.Get("X-Medplum-Deleted-Resource"); deleted != "" {
		return deleted + " (deleted)"
	}
	if h, err := readHead(body); err == nil && h.ResourceType != "" {
		return h.ResourceType + "/" + h.ID
	}
	if req.Method == http.MethodPut || req.Method == http.MethodDelete {
		parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
		if len(parts) >= 2 {
			name := strings.Join(parts[len(parts)-2:], "/")
			if req.Method == http.MethodDelete {
				name += " (deleted)"
			}
			return name
		}
	}
	return ""
}

func (r *receiver) print(got received, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json {
		switch {
		case !r.bodies:
		case json.Valid(body):
			got.Body = body
		case printableText(body): // XML: as a string
			got.Body, _ = json.Marshal(string(body)) // of a string never fails
		}
		if b, err := json.Marshal(got); err == nil {
			fmt.Fprintf(r.w, "%s\n", b)
		}
		return
	}
	line := fmt.Sprintf("%s  %s %s  %s", got.Time.Format("15:04:05.000"), got.Method, got.Path, first(got.Resource, "(no resource)"))
	for _, f := range []struct{ name, value string }{
		{"subscription", got.Subscription}, {"event", got.Event}, {"attempt", got.Attempt}, {"signature", got.Signature},
	} {
		if f.value != "" {
			line += "  " + f.name + "=" + f.value
		}
	}
	fmt.Fprintln(r.w, oneLine(fmt.Sprintf("%s  %d bytes  answered %d", line, got.Bytes, got.Status)))
	var pretty bytes.Buffer
	switch {
	case !r.bodies || len(body) == 0:
	case json.Indent(&pretty, body, "", "  ") == nil:
		fmt.Fprintf(r.w, "%s\n", pretty.Bytes())
	case printableText(body): // XML
		fmt.Fprintf(r.w, "%s\n", body)
	}
}

// printableText reports whether a body may be shown on a terminal: anybody may have sent it.
func printableText(body []byte) bool {
	return len(body) > 0 && utf8.Valid(body) && bytes.IndexFunc(body, func(c rune) bool {
		return unicode.IsControl(c) && c != '\n' && c != '\t'
	}) < 0
}
