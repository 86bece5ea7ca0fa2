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

// request builds what is sent. Its errors hold neither header values nor the endpoint's path.
func (c *Channel) request(ctx context.Context, n deliver.Notification, t deliver.Target) (*http.Request, error) {
	endpoint, err := url.Parse(t.Endpoint)
	if err != nil || endpoint.Host == "" {
		return nil, errors.New("the endpoint is not an absolute URL")
	}
	if err := c.egress.scheme(endpoint); err != nil {
		return nil, err
	}
	method, target, body := action(n, t, endpoint)
	req, err := http.NewRequestWithContext(ctx, method, target.String(), reader(body))
	if err != nil {
		return nil, errors.New("the endpoint cannot be made a request of")
	}
	if err := c.header(req.Header, n, t); err != nil {
		return nil, err
	}
	return req, nil
}

// action is the table of styles: method, target and body.
func action(n deliver.Notification, t deliver.Target, endpoint *url.URL) (method string, target *url.URL, body []byte) {
	switch {
	case t.Style == deliver.StyleWebhook && n.Interaction == fhir.Delete:
		return http.MethodPost, endpoint, []byte("{}")
	case t.Style == deliver.StyleWebhook: // Medplum ignores payload
		return http.MethodPost, endpoint, n.Body
	case t.Payload == "":
		return http.MethodPost, endpoint, nil
	case n.Interaction == fhir.Delete:
		return http.MethodDelete, instance(endpoint, n.Key), nil
	}
	return http.MethodPut, instance(endpoint, n.Key), n.Body
}

// instance is {endpoint}/{Type}/{id}. The endpoint's own path and query stay byte for byte.
func instance(endpoint *url.URL, key fhir.Key) *url.URL {
	u := *endpoint
	tail := "/" + key.Type + "/" + string(key.ID) // neither needs escaping: FHIR's grammar of names and ids
	u.RawPath = strings.TrimRight(endpoint.EscapedPath(), "/") + tail
	u.Path = strings.TrimRight(endpoint.Path, "/") + tail
	u.Fragment, u.RawFragment = "", ""
	return &u
}

// reader gives a length of zero rather than an unknown one to an empty body.
func reader(body []byte) io.Reader {
	if len(body) == 0 {
		return http.NoBody
	}
	return bytes.NewReader(body)
}

func (c *Channel) header(h http.Header, n deliver.Notification, t deliver.Target) error {
	for i, line := range t.Headers {
		name, value, err := splitHeader(line)
		if err != nil {
			return fmt.Errorf("channel.header[%d] %w", i, err)
		}
		if name != "" {
			h.Add(name, value)
		}
	}
	contentType := n.ContentType
	if contentType == "" {
		contentType = fhirJSON
	}
	h.Set("Content-Type", contentType)
	h.Set("User-Agent", c.userAgent)
	h.Set("Webhook-Id", n.Name())
	h.Set("Webhook-Timestamp", strconv.FormatInt(time.Now().Unix(), 10))
	h.Set("X-Carillon-Subscription", string(n.Subscription))
	h.Set("X-Carillon-Event", strconv.FormatUint(uint64(n.Number), 10))
	h.Set("X-Carillon-Attempt", strconv.Itoa(n.Attempt))
	if n.Resend {
		h.Set("X-Carillon-Resend", "true")
	}
	if n.Trace != "" && validValue(n.Trace) {
		h.Set("Traceparent", n.Trace)
	}
	if t.Style == deliver.StyleWebhook {
		h.Set("X-Medplum-Subscription", string(n.Subscription))
		h.Set("X-Medplum-Interaction", string(n.Interaction))
		if n.Interaction == fhir.Delete {
			h.Set("X-Medplum-Deleted-Resource", n.Key.String())
		}
	}
	return nil
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
