package email

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/internal/far"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/fhir/template"
)

// Type is the channel type that this package serves.
const Type = fhir.ChannelEmail

// Security says how a connection to the server is protected.
type Security string

// The values of Security. StartTLS demands it: a server that does not offer it is not used.
const (
	StartTLS Security = "starttls" // plain at first, then TLS; port 587 as a rule
	TLS      Security = "tls"      // TLS from the first byte; port 465 as a rule
	None     Security = "none"     // in clear: for a relay on this machine
)

// Options configure a Channel.
type Options struct {
	Server   string   // host:port
	Security Security // StartTLS if empty
	CA       string   // PEM file of a private authority; empty: those of the system
	User     string   // empty: no login
	// PasswordFile holds the password of User. It is read at every connection, so it may be
	// replaced at any time; a line end behind the password is no part of it.
	PasswordFile string
	From         string // where a Subscription does not say
	Subject      string // template with fhir.SubjectVariables, where a Subscription does not say
	Body         string // template with fhir.BodyVariables
	Connections  int    // open at once; 4 if zero
	Version      string // of Carillon, for User-Agent
}

// Channel sends mail. It is safe for concurrent use.
type Channel struct {
	options       Options
	host          string
	port          int
	tls           *tls.Config
	subject, body template.Template
	free          chan struct{} // one element for each connection that may be opened
	dial          func(ctx context.Context, network, address string) (net.Conn, error)
}

var _ deliver.Channel = (*Channel)(nil)

const (
	connections = 4
	// patience is the library's own bound of a connection. It is above every attempt's, whose
	// context ends first.
	patience = 2 * deliver.MaxTimeout
)

// New makes a Channel. It opens no connection; an error says what of the options cannot be.
func New(o Options) (*Channel, error) {
	c := &Channel{options: o, free: make(chan struct{}, cmp.Or(o.Connections, connections)), dial: (&net.Dialer{}).DialContext}
	host, port, err := net.SplitHostPort(o.Server)
	if err != nil || host == "" {
		return nil, errors.New("the server is not host:port")
	}
	c.host = host
	if c.port, err = strconv.Atoi(port); err != nil || c.port < 1 || c.port > 65535 {
		return nil, errors.New("the server's port is not a number from 1 to 65535")
	}
	c.options.Security = cmp.Or(o.Security, StartTLS)
	if _, err := fhir.Sender(o.From); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if c.subject, err = fhir.EmailSubject(o.Subject); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	if c.body, err = template.Parse(o.Body, fhir.BodyVariables()...); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	c.tls, err = tlsConfig(o.CA, host)
	return c, err
}

func tlsConfig(ca, host string) (*tls.Config, error) {
	roots, err := far.Authority(ca)
	return &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, RootCAs: roots}, err
}

// Send hands one mail to the server.
func (c *Channel) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	began := time.Now()
	msg, err := c.message(n, t)
	if err != nil {
		return deliver.Receipt{}, &deliver.Error{Code: record.RenderError, Err: err}
	}
	select {
	case c.free <- struct{}{}:
		defer func() { <-c.free }()
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return deliver.Receipt{}, &deliver.Error{Code: record.RateLimited, Err: context.Canceled}
		}
		return deliver.Receipt{}, &deliver.Error{Code: record.RateLimited, Err: errors.New("all connections to the mail server were in use")}
	}
	if failure := c.hand(ctx, msg); failure != nil {
		return deliver.Receipt{}, failure
	}
	return deliver.Receipt{Status: 250, Took: time.Since(began)}, nil
}

// hand opens a connection, gives the mail over, and says good-bye. Only what comes before the
// server has taken the mail can fail: an error at the end would send it a second time.
func (c *Channel) hand(ctx context.Context, msg *mail.Msg) *deliver.Error {
	l := line{channel: c, ctx: ctx}
	defer l.close()
	client, err := l.client()
	if err != nil {
		return failed(ctx, err)
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return failed(ctx, err)
	}
	if err := client.SendWithSMTPClient(session, msg); err != nil {
		return failed(ctx, err)
	}
	_ = client.CloseWithSMTPClient(session)
	return nil
}

// line is one connection to the server. The library bounds its reads by a time of its own and knows
// no context once it is connected, so the connection is closed under it when ctx ends.
type line struct {
	channel *Channel
	ctx     context.Context
	conn    net.Conn
	stop    func() bool
}

func (l *line) client() (*mail.Client, error) {
	c := l.channel
	options := []mail.Option{
		mail.WithPort(c.port), mail.WithTLSConfig(c.tls), mail.WithDialContextFunc(l.dial), mail.WithTimeout(patience),
		mail.WithoutNoop(), mail.WithoutRset(),
	}
	switch c.options.Security {
	case None:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	case TLS: // the connection has it already; the library looks and finds that it has
		options = append(options, mail.WithTLSPolicy(mail.TLSOpportunistic))
	default:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if c.options.User != "" {
		password, err := os.ReadFile(c.options.PasswordFile)
		if err != nil {
			return nil, errLogin
		}
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(c.options.User),
			mail.WithPassword(strings.TrimRight(string(password), "\r\n")))
	}
	return mail.NewClient(c.host, options...)
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := l.channel.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if l.channel.options.Security == TLS {
		secure := tls.Client(conn, l.channel.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secure
	}
	l.conn, l.stop = conn, context.AfterFunc(l.ctx, func() { conn.Close() })
	return conn, nil
}

func (l *line) close() {
	if l.conn != nil {
		l.stop()
		l.conn.Close() // closed already after a good-bye; nobody is told a second time
	}
}

// failed names a failure. The texts of servers may hold an address, so only their codes are kept.
func failed(ctx context.Context, err error) *deliver.Error {
	var send *mail.SendError
	if errors.As(err, &send) && send.ErrorCode() != 0 {
		return answered(send.ErrorCode(), send.EnhancedStatusCode(), stage(send.Reason))
	}
	var protocol *textproto.Error
	if errors.As(err, &protocol) {
		if isAuth(protocol.Code) {
			return &deliver.Error{Code: record.AuthError, Status: protocol.Code, Err: fmt.Errorf("the mail server refused the login (%d)", protocol.Code)}
		}
		return answered(protocol.Code, "", "at the beginning")
	}
	if errors.Is(err, errLogin) {
		return &deliver.Error{Code: record.AuthError, Err: errLogin}
	}
	if fault := far.Fault(ctx, err); fault != nil {
		return fault
	}
	switch {
	case errors.Is(err, mail.ErrNoSupportedAuthDiscovered), strings.Contains(err.Error(), "does not support SMTP AUTH"): // it has no type for the second
		return &deliver.Error{Code: record.AuthError, Err: errors.New("the mail server offers no way to log in that can be used over this connection")}
	case strings.Contains(err.Error(), "does not support STARTTLS"): // nor for this
		return &deliver.Error{Code: record.TLSError, Err: errors.New("the mail server does not offer STARTTLS")}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &deliver.Error{Code: record.ConnectionReset, Err: errors.New("the connection ended before an answer")}
	}
	return &deliver.Error{Code: record.SMTPError, Err: errors.New("the mail server's answer was not understood")}
}

func answered(code int, enhanced, stage string) *deliver.Error {
	text := strings.TrimSpace(strconv.Itoa(code) + " " + enhanced)
	return &deliver.Error{Code: record.SMTPError, Status: code, Err: fmt.Errorf("the mail server answered %s %s", text, stage)}
}

func stage(r mail.SendErrReason) string {
	switch r {
	case mail.ErrSMTPMailFrom:
		return "to the sender"
	case mail.ErrSMTPRcptTo:
		return "to a recipient"
	}
	return "to the mail"
}

// isAuth reports whether a code of SMTP is about the login (RFC 4954 section 6).
func isAuth(code int) bool {
	return code == 530 || code == 534 || code == 535 || code == 538 || code == 454
}

var errLogin = errors.New("the file with the password of the mail server cannot be read")
