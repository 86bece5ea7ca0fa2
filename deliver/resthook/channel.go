package resthook

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/internal/far"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Type is the channel type that this package serves.
const Type = "rest-hook"

// Options configure a Channel. The zero value is the safe one: https only, public addresses
// only.
type Options struct {
	Version string // of Carillon, for User-Agent
	Egress  Egress
	Rules   []Rule
	Proxy   *Proxy
	// Own signs every notification, beside the secrets of its Subscription. Nil: none does.
	Own ed25519.PrivateKey

	// Connect, DNS and TLS bound the phases of a new connection. Zero: 5 s each. The whole
	// attempt is bound by the context that Send gets.
	Connect, DNS, TLS time.Duration

	// TLSConfig is for a private certificate authority; it is cloned, and TLS 1.2 is the least.
	TLSConfig *tls.Config
	Resolver  Resolver // nil: net.DefaultResolver
}

// Resolver finds the addresses of a host name. net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Limits of connections and answers.
const (
	phaseTimeout = 5 * time.Second
	// connsPerHost bounds the connections to one scheme, host and port, so that a slow endpoint
	// can use up no more than its own. It is far above k times the Subscriptions that one
	// endpoint usually has.
	connsPerHost = 256
	// As many are kept for a while: a thousand Subscriptions of one endpoint use them all for each
	// event, and a new connection, above all with TLS, costs more than the request.
	idleConnsPerHost = connsPerHost
	idleConns        = 1024
	idleTimeout      = 60 * time.Second
	// maxAnswer bytes of an answer are read. A longer one costs its connection; the status
	// decides all the same.
	maxAnswer       = 16 << 10
	maxAnswerHeader = 32 << 10
	// answerPatience is how long an answer's body may take once its status is here.
	answerPatience = time.Second
	// maxResponse bytes of an answer are recorded, made of its first headLength: a character has
	// up to four, and its place may be taken by one.
	maxResponse = 512
	headLength  = 4*maxResponse + utf8.UTFMax
)

// Channel makes rest-hook requests. It is safe for concurrent use.
type Channel struct {
	way       atomic.Pointer[way]
	dial      dialer // but for its guard
	tls       *tls.Config
	handshake time.Duration
	userAgent string
	own       ed25519.PrivateKey
}

// way is the settings with the connections that were made by them. Other ones get other
// connections: one that is busy at that moment would go back into the pool and be used again,
// wherever it leads.
type way struct {
	settings  Settings
	guard     *guard
	transport *http.Transport
	routes    []route // by rule
}

var _ deliver.Channel = (*Channel)(nil)

// New makes a Channel. Close it to give its idle connections back.
func New(o Options) (*Channel, error) {
	c := &Channel{
		dial:      dialer{resolver: o.Resolver, dns: orDefault(o.DNS), connect: orDefault(o.Connect)},
		tls:       o.TLSConfig.Clone(),
		handshake: orDefault(o.TLS),
		userAgent: "carillon/" + cmp.Or(o.Version, "dev"),
		own:       o.Own,
	}
	if c.dial.resolver == nil {
		c.dial.resolver = net.DefaultResolver
	}
	if c.tls == nil {
		c.tls = &tls.Config{}
	}
	c.tls.MinVersion = max(c.tls.MinVersion, tls.VersionTLS12)
	w, err := c.newWay(Settings{o.Egress, o.Rules, o.Proxy})
	if err != nil {
		return nil, err
	}
	c.way.Store(w)
	return c, nil
}

func (c *Channel) newWay(s Settings) (*way, error) {
	g, err := newGuard(s.Egress)
	if err != nil {
		return nil, err
	}
	d := c.dial
	d.guard, d.proxy = g, s.Proxy
	w := &way{settings: s, guard: g, transport: c.newTransport(&d)}
	for _, r := range s.Rules {
		w.routes = append(w.routes, route{Rule: r, transport: c.transportOf(r, &d, w.transport)})
	}
	return w, nil
}

func (c *Channel) newTransport(d *dialer) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // never from the environment; ours is asked by the dialer
		DialContext:            d.DialContext,
		TLSClientConfig:        c.tls.Clone(),
		TLSHandshakeTimeout:    c.handshake,
		DisableCompression:     true, // a small answer must not unfold into a big one
		ForceAttemptHTTP2:      true,
		MaxConnsPerHost:        connsPerHost,
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    idleConnsPerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
}

func orDefault(d time.Duration) time.Duration {
	if d <= 0 {
		return phaseTimeout
	}
	return d
}

// Close closes the idle connections. Attempts in progress go on.
func (c *Channel) Close() { c.way.Load().closeIdle() }

// Send makes one request and judges its answer.
func (c *Channel) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	began := time.Now()
	now := c.way.Load()
	u, err := endpoint(now.guard, t)
	if err != nil {
		return deliver.Receipt{}, unsendable(err)
	}
	var handshake *atomic.Bool
	if u.Scheme == "https" {
		ctx, handshake = traceTLS(ctx)
	}
	req, err := c.request(ctx, u, n, t)
	if err != nil {
		return deliver.Receipt{}, unsendable(err)
	}
	// The transport itself, not a Client: it follows nothing and keeps no cookies.
	resp, err := now.exchange(c, req)
	if err != nil {
		return deliver.Receipt{}, classify(ctx, err, handshake != nil && handshake.Load())
	}
	// The login of a rule is the operator's; what a Subscription sends with is taken out by who knows it.
	text := deliver.Masked(read(resp), resp.Request.Header.Get("Authorization"))
	if failure := judge(resp, text, t.Subscription); failure != nil {
		return deliver.Receipt{}, failure
	}
	return deliver.Receipt{Status: resp.StatusCode, Response: text, Took: time.Since(began), Disable: wishes(resp.Header).disable}, nil
}

func unsendable(err error) *deliver.Error {
	return &deliver.Error{Code: record.RenderError, Err: err, Permanent: true}
}

// traceTLS gives a context that notes whether a TLS handshake failed, which the transport's
// errors do not always say. The note is made by a dialling goroutine.
func traceTLS(ctx context.Context) (context.Context, *atomic.Bool) {
	failed := new(atomic.Bool)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) { failed.Store(err != nil) },
	}), failed
}

// read takes the beginning of the answer. A short one is read to its end, so that the
// connection can serve again; one that is long, or slow, is cut off: a body that is closed
// before its end costs its connection, and ends a read that waits.
func read(resp *http.Response) string {
	defer resp.Body.Close()
	if resp.ContentLength == 0 {
		return ""
	}
	patience := time.AfterFunc(answerPatience, func() { resp.Body.Close() })
	defer patience.Stop()
	// An error here changes nothing: the status was given.
	head, _ := io.ReadAll(io.LimitReader(resp.Body, headLength))
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer+1-headLength))
	return clean(head)
}

// judge is nil when the endpoint accepted: by 200 to 299, or by what the Subscription's success
// codes list, which then decide alone. A redirect that they list is not followed either.
func judge(resp *http.Response, text string, sub *fhir.Subscription) *deliver.Error {
	status := resp.StatusCode
	if sub.Delivered(status) {
		return nil
	}
	failure := &deliver.Error{Code: record.HTTPStatus, Status: status, Response: text}
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		failure.RetryAfter = far.RetryAfter(resp.Header, time.Now())
	case status >= 300 && status <= 399:
		failure.Code = record.Redirect
		failure.Err = errors.New("redirects are not followed")
	case status == http.StatusGone:
		failure.Code, failure.Permanent = record.Gone, true
	}
	wish := wishes(resp.Header)
	failure.Permanent = failure.Permanent || wish.abort || wish.disable
	failure.Disable = wish.disable
	return failure
}

// wish is what a receiver asks for beside its status, by the header webhook-delivery: not to be
// sent this message again (abort-message), or nothing any more (disable).
type wish struct{ abort, disable bool }

func wishes(h http.Header) (w wish) {
	for _, line := range h.Values("Webhook-Delivery") {
		for word := range strings.SplitSeq(line, ",") {
			switch strings.ToLower(strings.TrimSpace(word)) {
			case "abort-message":
				w.abort = true
			case "disable":
				w.disable = true
			}
		}
	}
	return w
}

// describe names a phase without repeating what the other side sent.
func describe(what string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", what, context.DeadlineExceeded)
	}
	return errors.New(what)
}
