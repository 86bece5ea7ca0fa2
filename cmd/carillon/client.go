package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/node/config"
)

const (
	defaultServer = "http://127.0.0.1:8080"
	defaultNATS   = "nats://127.0.0.1:4222"
	adminPath     = "/admin/api/v1"
	maxAnswer     = 256 << 20
)

// client asks one node over HTTP.
type client struct {
	base  string // without a slash at its end
	token string
	http  *http.Client
}

// client makes a client for the server that the command line names.
func (c *call) client() (*client, error) {
	to, err := c.target()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(to.Server)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		return nil, usage("--server is not a URL such as %s", defaultServer)
	}
	if to.Token != "" && u.Scheme == "http" && !config.Loopback(withPort(u.Host)) {
		c.warn("the token travels to %s unprotected; use https", u.Host)
	}
	return &client{
		base:  strings.TrimSuffix(strings.TrimSuffix(u.String(), "/"), "/fhir"),
		token: to.Token,
		http: &http.Client{
			// The token must not follow a redirect to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func withPort(host string) string {
	if u := (&url.URL{Host: host}); u.Port() == "" {
		return host + ":80"
	}
	return host
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// answer is what a server said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// request is one question to the server. Body and type are empty where there is none.
type request struct {
	method      string
	path        string // below the server's root, beginning with a slash; ids in it are escaped
	query       url.Values
	contentType string
	body        []byte
	create      bool   // a PUT must not find a resource: If-None-Match: *
	minimal     bool   // the answer to a write need not hold the resource
	key         string // Idempotency-Key, by which a write that is sent again is known; empty for none
}

// do asks, and returns whatever the server answers. An error means that there was no answer.
func (cl *client) do(ctx context.Context, r request) (answer, error) {
	u := cl.base + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, bytes.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", "carillon/"+version())
	req.Header.Set("Accept", "application/fhir+json, application/json")
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.minimal {
		req.Header.Set("Prefer", "return=minimal")
	}
	if r.create {
		req.Header.Set("If-None-Match", "*")
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if cl.token != "" {
		req.Header.Set("Authorization", "Bearer "+cl.token)
	}
	resp, err := cl.http.Do(req)
	if err != nil {
		return answer{}, cl.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, cl.unreachable(ctx, err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

func (cl *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return exit(exitFailed, "interrupted")
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL may hold ids; the server's address is said once, below
	}
	return exit(exitUnreachable, "%s cannot be reached: %v", cl.base, err)
}

// ask asks and takes only success for an answer. Anything else becomes an error with the exit
// code that fits the status and the text of the OperationOutcome.
func (cl *client) ask(ctx context.Context, r request) ([]byte, error) {
	a, err := cl.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := a.refusal(); err != nil {
		return nil, err
	}
	return a.body, nil
}

func (cl *client) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	return cl.ask(ctx, request{method: http.MethodGet, path: path, query: query})
}

// send posts a JSON value to the administration API.
func (cl *client) send(ctx context.Context, path string, v any) ([]byte, error) {
	r := request{method: http.MethodPost, path: path}
	if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		r.body, r.contentType = b, "application/json"
	}
	return cl.ask(ctx, r)
}

// refusal is the error of an answer that is no success.
func (a answer) refusal() error {
	if a.status >= 200 && a.status < 300 {
		return nil
	}
	text := a.outcome()
	if text == "" {
		text = fmt.Sprintf("the server answered %d %s", a.status, http.StatusText(a.status))
	}
	return &exitError{code: statusExit(a.status), err: errors.New(text)}
}

// statusExit is the exit code for an HTTP status.
func statusExit(status int) int {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return exitForbidden
	case status == http.StatusNotFound, status == http.StatusGone:
		return exitNotFound
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return exitFailed
	case status >= 400 && status < 500:
		return exitUsage
	}
	return exitFailed
}

// operationOutcome is as much of the resource as is printed.
type operationOutcome struct {
	ResourceType string `json:"resourceType"`
	Issue        []struct {
		Severity    string   `json:"severity"`
		Code        string   `json:"code"`
		Diagnostics string   `json:"diagnostics"`
		Expression  []string `json:"expression"`
		Details     struct {
			Text string `json:"text"`
		} `json:"details"`
	} `json:"issue"`
}

// outcome joins the issues of an OperationOutcome, one a line; empty if the answer is none.
func (a answer) outcome() string {
	var o operationOutcome
	if json.Unmarshal(a.body, &o) != nil || o.ResourceType != "OperationOutcome" {
		return ""
	}
	var lines []string
	for _, is := range o.Issue {
		line := first(is.Diagnostics, is.Details.Text, is.Code)
		if len(is.Expression) > 0 {
			line = strings.Join(is.Expression, ", ") + ": " + line
		}
		lines = append(lines, strings.Map(printable, line))
	}
	return strings.Join(lines, "\n")
}

// warnings lists what the server doubts in a write that it accepted: the texts of its Warning
// headers (RFC 7234 section 5.5) with code 299. Proxies add others, which say nothing of the resource.
func (a answer) warnings() []string {
	var texts []string
	for _, h := range a.header.Values("Warning") {
		if _, quoted, ok := strings.Cut(h, ` "`); ok && strings.HasPrefix(h, "299 ") {
			if text, err := strconv.Unquote(`"` + quoted); err == nil {
				texts = append(texts, strings.Map(printable, text))
			}
		}
	}
	return texts
}

// retryAfter is how long the server asks to wait; fallback if it says nothing. Waits over a
// minute are cut: the server is asked again rather than trusted that far.
func (a answer) retryAfter(fallback time.Duration) time.Duration {
	if d, err := time.ParseDuration(a.header.Get("Retry-After") + "s"); err == nil && d > 0 {
		return min(d, time.Minute)
	}
	return fallback
}
