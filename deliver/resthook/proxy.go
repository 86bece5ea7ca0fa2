package resthook

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Proxy is what all requests go through.
type Proxy struct {
	URL *url.URL // http or https: asked with CONNECT (RFC 9110 9.3.6); socks5 (RFC 1928)
	// User and Password log in there; no User, no login. They are never in an error.
	User, Password string
}

// proxyError is a fault of the proxy, which is not charged to the endpoint.
type proxyError struct{ text string }

func (e *proxyError) Error() string { return "the egress proxy " + e.text }

func proxyFault(format string, args ...any) error {
	return &proxyError{fmt.Sprintf(format, args...)}
}

// unreached says that the proxy does its work, and did not reach the endpoint.
func unreached(timeout bool) error {
	cause := error(syscall.ECONNREFUSED)
	if timeout {
		cause = context.DeadlineExceeded
	}
	return &net.OpError{Op: "dial", Net: "tcp", Err: cause}
}

// address is host:port of the proxy.
func (p *Proxy) address() string {
	port := p.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[p.URL.Scheme]
	}
	return net.JoinHostPort(p.URL.Hostname(), port)
}

// dialThrough connects to host:port by the proxy. Where a connection may lead is judged here as far
// as the name resolves here: by every address that it has, since the proxy will choose one. A name
// that only the proxy can resolve is left to the proxy's own rules.
func (d *dialer) dialThrough(ctx context.Context, host, port string) (net.Conn, error) {
	addrs, err := d.resolve(ctx, host)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	for _, a := range addrs {
		if err := d.guard.check(a); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d.connect)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.proxy.address())
	if err != nil {
		if ctx.Err() != nil {
			return nil, proxyFault("gave no connection in time")
		}
		return nil, proxyFault("cannot be connected to")
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	through, err := d.proxy.open(ctx, conn, host, port)
	if !stop() && err == nil {
		err = proxyFault("did not answer in time")
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = proxyFault("did not answer in time")
		}
		return nil, err
	}
	return through, nil
}

// open asks for the connection to the endpoint over one to the proxy.
func (p *Proxy) open(ctx context.Context, conn net.Conn, host, port string) (net.Conn, error) {
	if p.URL.Scheme == "socks5" {
		return conn, p.socks(conn, host, port)
	}
	if p.URL.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: p.URL.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, proxyFault("failed in the TLS handshake")
		}
		conn = secure
	}
	return conn, p.connect(conn, net.JoinHostPort(host, port))
}

// connect is HTTP's CONNECT.
func (p *Proxy) connect(conn net.Conn, address string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if p.User != "" {
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(p.User+":"+p.Password)))
	}
	if err := req.Write(conn); err != nil {
		return proxyFault("closed the connection")
	}
	// A byte at a time: what comes behind the answer is the endpoint's, and must not be read away.
	resp, err := http.ReadResponse(bufio.NewReaderSize(&oneByOne{r: conn, left: maxAnswerHeader}, 16), req)
	if err != nil {
		return proxyFault("gave no HTTP answer")
	}
	resp.Body.Close()
	switch s := resp.StatusCode; s {
	case http.StatusOK:
		return nil
	case http.StatusBadGateway:
		return unreached(false)
	case http.StatusGatewayTimeout:
		return unreached(true)
	case http.StatusProxyAuthRequired:
		return proxyFault("asks for another login (407)")
	default:
		return proxyFault("refused with %d", s)
	}
}

// oneByOne reads no more than is asked for, and no more than left in all.
type oneByOne struct {
	r    io.Reader
	left int
}

func (o *oneByOne) Read(b []byte) (int, error) {
	if o.left--; o.left < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return o.r.Read(b[:min(1, len(b))])
}

// Numbers of SOCKS 5 (RFC 1928, RFC 1929).
const (
	socksVersion   = 5
	socksNoLogin   = 0
	socksLogin     = 2
	socksConnect   = 1
	socksIPv4      = 1
	socksName      = 3
	socksIPv6      = 4
	socksLoginForm = 1
)

// socks asks a SOCKS 5 proxy. Names are given as names, so that its own rules can go by them.
func (p *Proxy) socks(conn net.Conn, host, port string) error {
	method := byte(socksNoLogin)
	if p.User != "" {
		method = socksLogin
	}
	answer, err := ask(conn, []byte{socksVersion, 1, method}, 2)
	if err != nil || answer[0] != socksVersion {
		return proxyFault("does not speak SOCKS 5")
	}
	if answer[1] != method {
		return proxyFault("asks for another login")
	}
	if method == socksLogin {
		if len(p.User) > 255 || len(p.Password) > 255 {
			return proxyFault("takes logins of up to 255 bytes")
		}
		login := append([]byte{socksLoginForm, byte(len(p.User))}, p.User...)
		login = append(append(login, byte(len(p.Password))), p.Password...)
		if answer, err = ask(conn, login, 2); err != nil || answer[1] != 0 {
			return proxyFault("refused the login")
		}
	}
	request, err := socksRequest(host, port)
	if err != nil {
		return err
	}
	if answer, err = ask(conn, request, 4); err != nil {
		return proxyFault("gave no answer")
	}
	switch answer[1] {
	case 0:
	case 3, 4, 5: // network, host unreachable, refused
		return unreached(false)
	case 6: // TTL expired
		return unreached(true)
	default:
		return proxyFault("refused with SOCKS code %d", answer[1])
	}
	// The address that the proxy speaks from, which nobody needs.
	rest := map[byte]int{socksIPv4: net.IPv4len, socksIPv6: net.IPv6len}[answer[3]]
	if answer[3] == socksName {
		length, err := ask(conn, nil, 1)
		if err != nil {
			return proxyFault("gave no answer")
		}
		rest = int(length[0])
	}
	if _, err := ask(conn, nil, rest+2); err != nil {
		return proxyFault("gave no answer")
	}
	return nil
}

func socksRequest(host, port string) ([]byte, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	request := []byte{socksVersion, socksConnect, 0}
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		kind := byte(socksIPv6)
		if a.Is4() {
			kind = socksIPv4
		}
		request = append(append(request, kind), a.AsSlice()...)
	} else {
		host = strings.TrimSuffix(host, ".")
		if len(host) > 255 {
			return nil, fmt.Errorf("%w: its name is too long", errResolve)
		}
		request = append(append(request, socksName, byte(len(host))), host...)
	}
	return binary.BigEndian.AppendUint16(request, uint16(n)), nil
}

// ask writes and reads an answer of n bytes.
func ask(conn net.Conn, text []byte, n int) ([]byte, error) {
	if len(text) > 0 {
		if _, err := conn.Write(text); err != nil {
			return nil, err
		}
	}
	answer := make([]byte, n)
	_, err := io.ReadFull(conn, answer)
	return answer, err
}
