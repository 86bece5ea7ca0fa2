package resthook_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// proxy is a proxy of a test. It leads every connection to one address, whatever it is asked for,
// and notes what that was.
type proxy struct {
	net.Listener
	to string // host:port
	// talk reads what it is asked for and says whether to go on.
	talk func(p *proxy, conn net.Conn) (asked string, ok bool)

	mu    sync.Mutex
	asked []string
	busy  sync.WaitGroup
	conns []net.Conn
}

func newProxy(t *testing.T, to string, talk func(*proxy, net.Conn) (string, bool)) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to, talk: talk}
	p.busy.Go(p.serve)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.busy.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		conn, err := p.Accept()
		if err != nil {
			return
		}
		p.keep(conn)
		p.busy.Go(func() { p.lead(conn) })
	}
}

func (p *proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
}

func (p *proxy) lead(conn net.Conn) {
	defer conn.Close()
	asked, ok := p.talk(p, conn)
	p.mu.Lock()
	p.asked = append(p.asked, asked)
	p.mu.Unlock()
	if !ok {
		return
	}
	there, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	p.keep(there)
	p.busy.Go(func() { io.Copy(there, conn); there.Close() })
	io.Copy(conn, there)
}

func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// connecting is a proxy for CONNECT that wants a login and answers a status.
func connecting(login string, status int) func(*proxy, net.Conn) (string, bool) {
	return func(_ *proxy, conn net.Conn) (string, bool) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return err.Error(), false
		}
		answer := status
		if r.Header.Get("Proxy-Authorization") != login {
			answer = 407
		}
		fmt.Fprintf(conn, "HTTP/1.1 %d canary\r\nX-Canary: canary\r\n\r\n", answer)
		return r.Method + " " + r.Host, answer == 200
	}
}

// socks is a SOCKS 5 proxy (RFC 1928) that wants a login and answers a code.
func socks(login string, code byte) func(*proxy, net.Conn) (string, bool) {
	return func(_ *proxy, conn net.Conn) (string, bool) {
		read := func(n int) []byte {
			b := make([]byte, n)
			io.ReadFull(conn, b)
			return b
		}
		method := read(int(read(2)[1]))[0]
		want := byte(0)
		if login != "" {
			want = 2
		}
		if method != want {
			conn.Write([]byte{5, 0xff})
			return "method", false
		}
		conn.Write([]byte{5, method})
		if login != "" {
			user := string(read(int(read(2)[1])))
			password := string(read(int(read(1)[0])))
			if user+":"+password != login {
				conn.Write([]byte{1, 1})
				return "login", false
			}
			conn.Write([]byte{1, 0})
		}
		var host string
		switch kind := read(4)[3]; kind {
		case 1:
			host = net.IP(read(4)).String()
		case 3:
			host = string(read(int(read(1)[0])))
		case 4:
			host = net.IP(read(16)).String()
		}
		port := binary.BigEndian.Uint16(read(2))
		conn.Write(append([]byte{5, code, 0, 3, 5}, "canar\x00\x50"...))
		return fmt.Sprintf("%s:%d", host, port), code == 0
	}
}

func through(t *testing.T, scheme, address, login string) *resthook.Proxy {
	t.Helper()
	u, err := url.Parse(scheme + "://" + address)
	if err != nil {
		t.Fatal(err)
	}
	p := &resthook.Proxy{URL: u}
	p.User, p.Password, _ = strings.Cut(login, ":")
	return p
}

func TestEverythingGoesThroughTheProxy(t *testing.T) {
	e := delivertest.NewEndpoint(t)
	to := e.Listener.Addr().String()
	names := resolver{"known.test": addrs("127.0.0.1")}
	for _, tc := range []struct {
		name, scheme, login string
		talk                func(*proxy, net.Conn) (string, bool)
		url, asked          string
	}{
		{"CONNECT", "http", "", connecting("", 200), "http://known.test/x", "CONNECT known.test:80"},
		{"CONNECT with a login", "http", "user:pass:word", connecting("Basic dXNlcjpwYXNzOndvcmQ=", 200), "http://known.test:8080/x", "CONNECT known.test:8080"},
		{"a name that only the proxy knows", "http", "", connecting("", 200), "http://inside.test:81", "CONNECT inside.test:81"},
		{"an address", "http", "", connecting("", 200), "http://127.0.0.1:99", "CONNECT 127.0.0.1:99"},
		{"SOCKS 5", "socks5", "", socks("", 0), "http://known.test:82", "known.test:82"},
		{"SOCKS 5 with a login", "socks5", "user:pw", socks("user:pw", 0), "http://[::1]:83", "::1:83"},
		{"SOCKS 5 with an address", "socks5", "", socks("", 0), "http://127.0.0.1:84", "127.0.0.1:84"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(e.Requests())
			p := newProxy(t, to, tc.talk)
			c := newChannel(t, resthook.Options{Egress: dev, Resolver: names, Proxy: through(t, tc.scheme, p.Addr().String(), tc.login)})
			if failure := send(t, c, tc.url); failure != nil {
				t.Fatal(failure)
			}
			if got := e.Requests(); len(got) != before+1 {
				t.Fatalf("%d requests", len(got)-before)
			}
			c.Close()
			if got := p.requests(); len(got) != 1 || got[0] != tc.asked {
				t.Errorf("the proxy was asked for %q, want %q", got, tc.asked)
			}
		})
	}
}

func TestTLSIsWithTheEndpointAndNotWithTheProxy(t *testing.T) {
	ours := newAuthority(t)
	e := delivertest.NewTLSEndpoint(t)
	p := newProxy(t, e.Listener.Addr().String(), connecting("", 200))
	c := newChannel(t, resthook.Options{Egress: dev, Proxy: through(t, "http", p.Addr().String(), ""), Resolver: resolver{"example.com": addrs("127.0.0.1")},
		Rules: []resthook.Rule{{Matches: everywhere, Roots: ours.pool()}}})
	if failure := send(t, c, "https://example.com"); failure == nil || failure.Code != record.TLSError {
		t.Errorf("failure %v", failure)
	}
}

func TestAFaultOfTheProxyIsNoFaultOfTheEndpoint(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent := func(_ *proxy, conn net.Conn) (string, bool) { io.Copy(io.Discard, conn); return "", false }
	for _, tc := range []struct {
		name, scheme, login string
		talk                func(*proxy, net.Conn) (string, bool) // nil: nobody is there
		code                record.Code
		says                string
	}{
		{"nobody there", "http", "", nil, record.ProxyError, "cannot be connected to"},
		{"another login", "http", "a:b", connecting("Basic x", 200), record.ProxyError, "another login (407)"},
		{"forbidden", "http", "", connecting("", 403), record.ProxyError, "refused with 403"},
		{"its own failure", "http", "", connecting("", 500), record.ProxyError, "refused with 500"},
		{"a redirect", "http", "", connecting("", 302), record.ProxyError, "refused with 302"},
		{"no HTTP", "http", "", func(_ *proxy, conn net.Conn) (string, bool) { conn.Write([]byte("canary\r\n\r\n")); return "", false }, record.ProxyError, "no HTTP answer"},
		{"no TLS", "https", "", connecting("", 200), record.ProxyError, "TLS handshake"},
		{"silence", "http", "", silent, record.ProxyError, "in time"},
		{"no SOCKS", "socks5", "", func(_ *proxy, conn net.Conn) (string, bool) { conn.Write([]byte("canary")); return "", false }, record.ProxyError, "SOCKS 5"},
		{"SOCKS login", "socks5", "a:c", socks("a:b", 0), record.ProxyError, "refused the login"},
		{"SOCKS wants a login", "socks5", "", socks("a:b", 0), record.ProxyError, "another login"},
		{"SOCKS forbidden", "socks5", "", socks("", 2), record.ProxyError, "code 2"},
		{"SOCKS silence", "socks5", "", silent, record.ProxyError, ""},

		{"the endpoint is away", "http", "", connecting("", 502), record.ConnectionRefused, ""},
		{"the endpoint is silent", "http", "", connecting("", 504), record.Timeout, ""},
		{"the endpoint is away by SOCKS", "socks5", "", socks("", 5), record.ConnectionRefused, ""},
		{"the endpoint is silent by SOCKS", "socks5", "", socks("", 6), record.Timeout, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := closed.Addr().String()
			if tc.talk != nil {
				address = newProxy(t, "127.0.0.1:1", tc.talk).Addr().String()
			}
			c := newChannel(t, resthook.Options{Egress: dev, Connect: 500 * time.Millisecond, Resolver: resolver{"host.test": addrs("127.0.0.1")},
				Proxy: through(t, tc.scheme, address, tc.login)})
			failure := send(t, c, "http://host.test")
			if failure == nil || failure.Code != tc.code || failure.Permanent || !strings.Contains(failure.Error(), tc.says) || strings.Contains(failure.Error(), "canary") {
				t.Errorf("failure %v, want %s: …%s…", failure, tc.code, tc.says)
			}
			if failure != nil && failure.Code.IsAttempt() == (tc.code == record.ProxyError) {
				t.Errorf("%s is an attempt: %v", failure.Code, failure.Code.IsAttempt())
			}
		})
	}
}

func TestAnAddressIsJudgedBeforeTheProxyIsAsked(t *testing.T) {
	p := newProxy(t, "127.0.0.1:1", connecting("", 200))
	c := newChannel(t, resthook.Options{Egress: resthook.Egress{AllowHTTP: true}, Proxy: through(t, "http", p.Addr().String(), ""),
		Resolver: resolver{"local.test": addrs("127.0.0.1"), "mixed.test": addrs("8.8.8.8", "10.0.0.1")}})
	for _, host := range []string{"local.test", "mixed.test", "169.254.169.254", "[::1]"} {
		if failure := send(t, c, "http://"+host); failure == nil || failure.Code != record.BlockedAddress || !failure.Permanent {
			t.Errorf("%s: %v", host, failure)
		}
	}
	if len(p.requests()) != 0 {
		t.Errorf("the proxy was asked for %q", p.requests())
	}
}

func TestAProxyThatIsSilentEndsWithItsAttempt(t *testing.T) {
	p := newProxy(t, "127.0.0.1:1", func(_ *proxy, conn net.Conn) (string, bool) { io.Copy(io.Discard, conn); return "", false })
	c := newChannel(t, resthook.Options{Egress: dev, Proxy: through(t, "http", p.Addr().String(), "")})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	to := target("http://127.0.0.1:5", deliver.StyleWebhook)
	if _, failure := c.Send(ctx, update(), to); failure == nil {
		t.Error("a request that nobody answered was accepted")
	}
}
