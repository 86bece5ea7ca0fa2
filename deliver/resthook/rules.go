package resthook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
)

// Settings are what may be replaced while the Channel is in use.
type Settings struct {
	Egress Egress
	Rules  []Rule // the first that matches an endpoint holds
	Proxy  *Proxy // nil: none
}

// Rule is what the operator knows of the endpoints of some hosts.
type Rule struct {
	Matches func(*url.URL) bool
	HTTP1   bool // keep to HTTP/1.1
	// Roots are the authorities that its certificate may be signed by. Nil: the usual ones.
	Roots *x509.CertPool
	// Certificate is shown where the endpoint asks for one. Nil: none.
	Certificate *tls.Certificate
	// Login makes us known. Nil: by what the Subscription's own headers say. A Subscription that
	// has an Authorization header goes with that.
	Login Login
}

// Login sets the Authorization header of requests. It is safe for concurrent use.
type Login interface {
	// Authorize sets the header, by a request of its own through the client if need be. fresh says
	// that the login was not used for any request before.
	Authorize(req *http.Request, client *http.Client) (fresh bool, err error)
	// Refused is told that an endpoint answered 401 to a request with this header.
	Refused(authorization string)
}

// errLogin marks a login that could not be had. It is our own fault, or a token server's.
var errLogin = errors.New("no login could be had")

// route is a Rule with its connections.
type route struct {
	Rule
	transport *http.Transport
}

// pick is the way to a host: that of its rule, or the usual one.
func (w *way) pick(u *url.URL) (*http.Transport, Login) {
	for i := range w.routes {
		if r := &w.routes[i]; r.Matches(u) {
			return r.transport, r.Login
		}
	}
	return w.transport, nil
}

// exchange makes a request as the host's rule has it. A login that the endpoint does not take any
// more is had anew, once: a token may have been revoked before its time.
func (w *way) exchange(c *Channel, req *http.Request) (*http.Response, error) {
	transport, login := w.pick(req.URL)
	if login == nil || req.Header.Get("Authorization") != "" {
		return transport.RoundTrip(req)
	}
	client := c.Client()
	fresh, err := login.Authorize(req, client)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	login.Refused(req.Header.Get("Authorization"))
	if fresh {
		return resp, nil
	}
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		again.Body, _ = req.GetBody()
	}
	read(resp)
	if _, err = login.Authorize(again, client); err != nil {
		return nil, err
	}
	return transport.RoundTrip(again)
}

// Client asks token servers: by the rules of egress, and with the connections of their hosts'
// rules. It follows no redirect.
func (c *Channel) Client() *http.Client {
	return &http.Client{
		Transport:     c.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Apply puts other settings in force, as SetEgress does. On an error nothing changes.
func (c *Channel) Apply(s Settings) error {
	w, err := c.newWay(s)
	if err != nil {
		return err
	}
	c.way.Swap(w).closeIdle()
	return nil
}

func (w *way) closeIdle() {
	w.transport.CloseIdleConnections()
	for _, r := range w.routes {
		r.transport.CloseIdleConnections()
	}
}

// transportOf gives a rule connections of its own where it needs them: one that was made with
// another certificate must not serve.
func (c *Channel) transportOf(r Rule, d *dialer, usual *http.Transport) *http.Transport {
	if !r.HTTP1 && r.Roots == nil && r.Certificate == nil {
		return usual
	}
	t := c.newTransport(d)
	if r.Roots != nil {
		t.TLSClientConfig.RootCAs = r.Roots
	}
	if r.Certificate != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*r.Certificate}
	}
	if r.HTTP1 {
		t.ForceAttemptHTTP2 = false
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	return t
}
