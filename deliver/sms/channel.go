package sms

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/internal/far"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/fhir/template"
)

// Type is the channel type that this package serves.
const Type = fhir.ChannelSMS

// Options configure a Channel.
type Options struct {
	Preset  Preset
	Gateway Gateway // what differs from the preset
	CA      string  // PEM file of a private authority; empty: those of the system
	User    string  // of the gateway; empty: no login
	// PasswordFile holds the password of User. It is read at every request, so it may be
	// replaced at any time; a line end behind the password is no part of it.
	PasswordFile string
	From         string // sender as the gateway knows it: a number, or a name
	Text         string // template with fhir.SubjectVariables
	Connections  int    // requests at once; 4 if zero
	Version      string // of Carillon, for User-Agent
}

// Bounds of what is sent and read.
const (
	connections = 4
	maxText     = 1000    // characters; a message of several parts
	maxAnswer   = 4 << 10 // bytes of an answer that are read, so that its connection can be used again
)

// Channel sends short messages. It is safe for concurrent use.
type Channel struct {
	options   Options
	request   *request
	text      template.Template
	transport *http.Transport
	free      chan struct{} // one element for each request that may be made
}

var _ deliver.Channel = (*Channel)(nil)

// New makes a Channel. It makes no request; an error says what of the options cannot be.
func New(o Options) (*Channel, error) {
	c := &Channel{options: o, free: make(chan struct{}, cmp.Or(o.Connections, connections))}
	var err error
	if c.request, err = read(o.Preset, o.Gateway); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if c.text, err = template.Parse(o.Text, fhir.SubjectVariables()...); err != nil {
		return nil, fmt.Errorf("text: %w", err)
	}
	if strings.TrimSpace(o.Text) == "" || len([]rune(o.Text)) > maxText {
		return nil, fmt.Errorf("text: it has 1 to %d characters", maxText)
	}
	c.transport = &http.Transport{
		Proxy:                  nil, // never from the environment
		DialContext:            (&net.Dialer{Timeout: phase}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    phase,
		DisableCompression:     true, // a small answer must not unfold into a big one
		ForceAttemptHTTP2:      true,
		MaxConnsPerHost:        cap(c.free),
		MaxIdleConnsPerHost:    cap(c.free),
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 32 << 10,
	}
	c.transport.TLSClientConfig.RootCAs, err = far.Authority(o.CA)
	return c, err
}

// phase bounds the parts of a new connection.
const phase = 5 * time.Second

// Close gives idle connections back.
func (c *Channel) Close() { c.transport.CloseIdleConnections() }

// Send asks the gateway to send one message.
func (c *Channel) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	began := time.Now()
	to, err := fhir.Telephone(t.Endpoint)
	if err != nil {
		return deliver.Receipt{}, &deliver.Error{Code: record.RenderError, Err: err}
	}
	select {
	case c.free <- struct{}{}:
		defer func() { <-c.free }()
	case <-ctx.Done():
		return deliver.Receipt{}, busy(ctx)
	}
	password, err := c.password()
	if err != nil {
		return deliver.Receipt{}, &deliver.Error{Code: record.AuthError, Err: err}
	}
	req, err := c.request.build(ctx, c.values(n, to, password))
	if err != nil {
		return deliver.Receipt{}, &deliver.Error{Code: record.RenderError, Err: err}
	}
	req.Header.Set("User-Agent", "carillon/"+cmp.Or(c.options.Version, "dev"))
	// Not followed: a redirect would carry the login and the number somewhere else.
	answer, err := c.transport.RoundTrip(req)
	if err != nil {
		return deliver.Receipt{}, unanswered(ctx, err)
	}
	defer answer.Body.Close()
	// What a gateway says may repeat the number and the text, so nothing of it is kept.
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer)
	if failure := judged(answer); failure != nil {
		return deliver.Receipt{}, failure
	}
	return deliver.Receipt{Status: answer.StatusCode, Took: time.Since(began)}, nil
}

func busy(ctx context.Context) *deliver.Error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &deliver.Error{Code: record.RateLimited, Err: context.Canceled}
	}
	return &deliver.Error{Code: record.RateLimited, Err: errors.New("all connections to the gateway were in use")}
}

func (c *Channel) password() (string, error) {
	if c.options.PasswordFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(c.options.PasswordFile)
	if err != nil {
		return "", errors.New("the file with the password of the gateway cannot be read")
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

func (c *Channel) values(n deliver.Notification, to, password string) func(string) string {
	text := c.text.Expand(func(name string) string {
		switch name {
		case "subscription":
			return string(n.Subscription)
		case "event":
			return strconv.FormatUint(uint64(n.Number), 10)
		case "interaction":
			return string(n.Interaction)
		}
		return n.Key.Type // resource_type
	})
	if n.Test {
		text = "TEST: " + text
	}
	return func(name string) string {
		switch name {
		case "to":
			return to
		case "from":
			return c.options.From
		case "text":
			return text
		case "user":
			return c.options.User
		case "password":
			return password
		}
		return coding(text)
	}
}

func unanswered(ctx context.Context, err error) *deliver.Error {
	if fault := far.Fault(ctx, err); fault != nil {
		return fault
	}
	return &deliver.Error{Code: record.ConnectionReset, Err: errors.New("the connection ended before an answer")}
}

// judged says what a gateway's status means. 401 and 403 are about our login.
func judged(answer *http.Response) *deliver.Error {
	status := answer.StatusCode
	failure := &deliver.Error{Code: record.HTTPStatus, Status: status, Err: errors.New("the gateway refused the message")}
	switch {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		failure.Code, failure.Err = record.AuthError, errors.New("the gateway refused the login")
	case status >= 300 && status < 400:
		failure.Code, failure.Err = record.Redirect, errors.New("the gateway answered with a redirect, which is not followed")
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		failure.RetryAfter = far.RetryAfter(answer.Header, time.Now())
	}
	return failure
}
