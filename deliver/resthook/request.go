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
		if n.Key.ID == "." || n.Key.ID == ".." {
			return nil, errDots
		}
		addInstance(u, n.Key)
	}
	header, err := c.header(n, t, body)
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

// errDots refuses an id that FHIR's grammar allows and that no address can hold: as a segment of a path
// it means another place (RFC 3986 5.2.4), escaped or not, so that the endpoint's server would take a
// delete of Patient/.. for one of all that is above.
var errDots = errors.New("the resource's id stands for another place in an address; webhook style can send it")

// action is the table of styles: the method, whether it goes to the resource's own address
// below the endpoint, and the body.
func action(n deliver.Notification, t deliver.Target) (method string, toInstance bool, body []byte) {
	switch {
	case n.Transaction:
		return http.MethodPost, false, n.Body
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
	plainHeaders     = 7
	medplumHeaders   = 3
	signatureHeaders = 2
)

// header makes room for all names and values at once: a dozen small pieces of memory for each
// notification would be much of what a send allocates.
func (c *Channel) header(n deliver.Notification, t deliver.Target, body []byte) (http.Header, error) {
	own := plainHeaders
	if len(t.Secrets) > 0 || c.own != nil {
		own += signatureHeaders
	}
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
	if err := add(h, n.Headers); err != nil {
		return nil, err
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
	id, timestamp := n.Name(), strconv.FormatInt(time.Now().Unix(), 10)
	set("Webhook-Id", id)
	set("Webhook-Timestamp", timestamp)
	if len(t.Secrets) > 0 || c.own != nil {
		signed, err := signatures(t.Secrets, c.own, id, timestamp, body)
		if err != nil {
			return nil, fmt.Errorf("a secret %w", err)
		}
		set("Webhook-Signature", signed)
	}
	if len(t.Secrets) > 0 {
		set("X-Signature", medplumSignature(t.Secrets[0], body))
	}
	set("X-Carillon-Subscription", string(n.Subscription))
	set("X-Carillon-Event", strconv.FormatUint(uint64(n.Number), 10))
	set("X-Carillon-Attempt", strconv.Itoa(n.Attempt))
	if n.Test {
		set("X-Carillon-Test", "true")
	}
	if n.Resend {
		set("X-Carillon-Resend", "true")
	}
	if n.Trace != "" && fhir.ValidHeaderValue(n.Trace) {
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
	case !fhir.ValidHeaderName(name):
		return "", "", errors.New("has a name that HTTP does not allow")
	case !fhir.ValidHeaderValue(value):
		return "", "", errors.New("has a character in its value that HTTP does not allow")
	case fhir.ReservedHeader(name):
		return "", "", fmt.Errorf("names %s, which is set by the sender", textproto.CanonicalMIMEHeaderKey(name))
	}
	return name, value, nil
}
