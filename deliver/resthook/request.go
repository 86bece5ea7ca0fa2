package resthook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
)

const fhirJSON = "application/fhir+json"

// endpoint reads a target's endpoint. Its errors do not hold the path.
func endpoint(g *guard, t deliver.Target) (*url.URL, error) {
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Host == "" {
		return nil, errors.New("the endpoint is not an absolute URL")
	}
	if err := g.scheme(u); err != nil {
		return nil, err
	}
	u.Host = strings.TrimSuffix(u.Host, ":") // an empty port is the scheme's own
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// request builds what is sent to an endpoint, whose URL it takes over. Its errors hold no header
// values.
func (c *Channel) request(ctx context.Context, u *url.URL, n deliver.Notification, t deliver.Target) (*http.Request, error) {
	method, toInstance, body := action(n, t)
	if toInstance {
		addInstance(u, n.Key)
	}
	header, err := c.header(n, t)
	if err != nil {
		return nil, err
	}
	req := (&http.Request{
		Method: method, URL: u, Host: u.Host, Header: header, Body: http.NoBody,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	// An empty body has a length of zero rather than an unknown one. GetBody lets the transport
	// go to another connection when the idle one that it took turned out to be closed.
	if len(body) > 0 {
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	}
	return req, nil
}

// action is the table of styles: the method, whether it goes to the resource's own address
// below the endpoint, and the body.
func action(n deliver.Notification, t deliver.Target) (method string, toInstance bool, body []byte) {
	switch {
	case t.Style == deliver.StyleWebhook && n.Interaction == fhir.Delete:
		return http.MethodPost, false, []byte("{}")
	case t.Style == deliver.StyleWebhook: // Medplum ignores payload
		return http.MethodPost, false, n.Body
	case t.Payload == "":
		return http.MethodPost, false, nil
	case n.Interaction == fhir.Delete:
		return http.MethodDelete, true, nil
	}
	return http.MethodPut, true, n.Body
}

// addInstance makes {endpoint}/{Type}/{id} of an endpoint, whose own path and query stay byte
// for byte.
func addInstance(u *url.URL, key fhir.Key) {
	// Neither needs escaping: FHIR's grammar of names and ids. RawPath is set where the path is
	// written in another way than the usual escapes.
	if u.RawPath != "" {
		u.RawPath = strings.TrimRight(u.RawPath, "/") + "/" + key.Type + "/" + string(key.ID)
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" + key.Type + "/" + string(key.ID)
}

// How many headers are usually ours. With one more of the Subscription the plain ones make eight,
// up to which a map is small.
const (
	plainHeaders   = 7
	medplumHeaders = 3
)

// header makes room for all names and values at once: a dozen small pieces of memory for each
// notification would be much of what a send allocates.
func (c *Channel) header(n deliver.Notification, t deliver.Target) (http.Header, error) {
	own := plainHeaders
	if t.Style == deliver.StyleWebhook {
		own += medplumHeaders
	}
	h := make(http.Header, own+len(t.Headers))
	for i, line := range t.Headers {
		name, value, err := splitHeader(line)
		if err != nil {
			return nil, fmt.Errorf("channel.header[%d] %w", i, err)
		}
		if name != "" {
			h.Add(name, value)
		}
	}
	values := make([]string, 0, own)
	set := func(canonical, value string) {
		values = append(values, value)
		i := len(values)
		h[canonical] = values[i-1 : i : i]
	}
	contentType := n.ContentType
	if contentType == "" {
		contentType = fhirJSON
	}
	set("Content-Type", contentType)
	set("User-Agent", c.userAgent)
	set("Webhook-Id", n.Name())
	set("Webhook-Timestamp", strconv.FormatInt(time.Now().Unix(), 10))
	set("X-Carillon-Subscription", string(n.Subscription))
	set("X-Carillon-Event", strconv.FormatUint(uint64(n.Number), 10))
	set("X-Carillon-Attempt", strconv.Itoa(n.Attempt))
	if n.Resend {
		set("X-Carillon-Resend", "true")
	}
	if n.Trace != "" && validValue(n.Trace) {
		set("Traceparent", n.Trace)
	}
	if t.Style == deliver.StyleWebhook {
		set("X-Medplum-Subscription", string(n.Subscription))
		set("X-Medplum-Interaction", string(n.Interaction))
		if n.Interaction == fhir.Delete {
			set("X-Medplum-Deleted-Resource", n.Key.String())
		}
	}
	return h, nil
}

// splitHeader reads one channel.header, Name: value. The value is everything after the first
// colon. A blank one has no name.
func splitHeader(line string) (name, value string, err error) {
	if strings.TrimSpace(line) == "" {
		return "", "", nil
	}
	name, value, ok := strings.Cut(line, ":")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	switch {
	case !ok:
		return "", "", errors.New("is not of the form Name: value")
	case !validName(name):
		return "", "", errors.New("has a name that HTTP does not allow")
	case !validValue(value):
		return "", "", errors.New("has a character in its value that HTTP does not allow")
	case reserved(name):
		return "", "", fmt.Errorf("names %s, which is set by the sender", textproto.CanonicalMIMEHeaderKey(name))
	}
	return name, value, nil
}

// validName is the token of RFC 9110 5.6.2.
func validName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// validValue refuses control characters (RFC 9110 5.5): a line end would begin another header.
func validValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// reserved reports whether a header is ours to set, or belongs to the connection.
func reserved(name string) bool {
	name = strings.ToLower(name)
	switch name {
	case "content-type", "user-agent", "x-signature", "traceparent",
		"x-medplum-subscription", "x-medplum-interaction", "x-medplum-deleted-resource",
		"host", "content-length",
		"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect":
		return true
	}
	return strings.HasPrefix(name, "webhook-") || strings.HasPrefix(name, "x-carillon-") || strings.HasPrefix(name, "proxy-")
}

// CheckHeaders refuses channel.header entries that could not be sent as written, when a
// Subscription is written. Their values are not repeated.
func CheckHeaders(headers []string) *fhir.Error {
	var issues []fhir.Issue
	for i, line := range headers {
		if _, _, err := splitHeader(line); err != nil {
			issues = append(issues, fhir.Issue{
				Type:        fhir.IssueValue,
				Diagnostics: "the header " + err.Error(),
				Expression:  fmt.Sprintf("Subscription.channel.header[%d]", i),
			})
		}
	}
	if issues == nil {
		return nil
	}
	return &fhir.Error{Issues: issues}
}
