package resthook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Egress says where requests may go. The zero value allows https to public addresses.
//
// An address is judged in this order: Deny refuses, Allow permits, cloud metadata is refused,
// AllowPrivate permits private and loopback addresses, and everything that the IANA
// special-purpose registries list is refused.
type Egress struct {
	AllowHTTP bool
	// AllowPrivate opens loopback (127.0.0.0/8, ::1), RFC 1918 and fc00::/7. Link-local addresses
	// and cloud metadata stay shut.
	AllowPrivate bool
	Allow        []netip.Prefix
	Deny         []netip.Prefix
}

var errBlocked = errors.New("the endpoint's address is not allowed")

// guard applies an Egress.
type guard struct {
	rules  Egress
	public *ssrf.Guardian
}

func newGuard(e Egress) (*guard, error) {
	for _, list := range [][]netip.Prefix{e.Allow, e.Deny} {
		for _, p := range list {
			if !p.IsValid() || p.Addr().Is4In6() {
				return nil, fmt.Errorf("egress: %s is not a prefix such as 10.1.0.0/16 or 2001:db8::/32", p)
			}
		}
	}
	options := []ssrf.Option{ssrf.WithAnyPort()}
	if e.AllowPrivate {
		options = append(options,
			ssrf.WithAllowedV4Prefixes(
				netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"),
				netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16")),
			ssrf.WithAllowedV6Prefixes(netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7")))
	}
	return &guard{rules: e, public: ssrf.New(options...)}, nil
}

// metadata reports whether an address serves the secrets of a cloud's machines to whoever asks
// from one of them, outside of the ranges that the registries list: Azure's wire server, which
// is in public space, and Amazon's IPv6 one, which is in private space.
func metadata(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{168, 63, 129, 16}) || a == netip.MustParseAddr("fd00:ec2::254")
}

// check is nil for an address that may be dialled.
func (g *guard) check(a netip.Addr) error {
	a = a.Unmap() // ::ffff:127.0.0.1 is 127.0.0.1
	switch {
	case contains(g.rules.Deny, a):
		return fmt.Errorf("%w: %s is denied by configuration", errBlocked, a)
	case contains(g.rules.Allow, a):
		return nil
	case metadata(a):
		return fmt.Errorf("%w: %s is a cloud's metadata service", errBlocked, a)
	}
	if err := g.public.SafeAddr(a); err != nil {
		return fmt.Errorf("%w: %s is private or reserved; egress.allow or egress.allow_private would open it", errBlocked, a)
	}
	return nil
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// scheme refuses what is not http or https, and http where it is not allowed.
func (g *guard) scheme(u *url.URL) error {
	switch strings.ToLower(u.Scheme) {
	case "https":
		return nil
	case "http":
		if g.rules.AllowHTTP {
			return nil
		}
		return errors.New("the endpoint's scheme is http; use https, or allow http with egress.allow_http")
	}
	return errors.New("the endpoint's scheme must be https")
}

// control is net.Dialer.Control: the last look, at the very address that is about to be
// connected to.
func (g *guard) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: not an address and port", errBlocked)
	}
	return g.check(ap.Addr())
}

// CheckURL judges an endpoint when a Subscription is written, by the rules that hold when it is
// dialled. It resolves nothing: what a name stands for is judged at each dial.
func (c *Channel) CheckURL(raw string) *fhir.Error {
	refuse := func(t fhir.IssueType, format string, args ...any) *fhir.Error {
		return fhir.Refuse(t, "Subscription.channel.endpoint", fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return refuse(fhir.IssueRequired, "a rest-hook needs an endpoint")
	case err != nil || strings.ContainsAny(raw, " \t\r\n\\"):
		return refuse(fhir.IssueValue, "the endpoint is not a URL")
	case u.Opaque != "" || u.Host == "":
		return refuse(fhir.IssueValue, "the endpoint is not an absolute URL such as https://host.example/path")
	case u.User != nil:
		return refuse(fhir.IssueValue, "the endpoint holds a user or password; send it with channel.header instead")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return refuse(fhir.IssueValue, "the endpoint has a fragment (#…), which is never sent; leave it out")
	}
	if err := c.way.Load().guard.scheme(u); err != nil {
		return refuse(fhir.IssueValue, "%s", err.Error())
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return refuse(fhir.IssueValue, "the endpoint's port must be a number from 1 to 65535")
		}
	}
	if err := c.way.Load().guard.checkHost(u.Hostname()); err != nil {
		if errors.Is(err, errBlocked) {
			return refuse(fhir.IssueValue, "%s", err.Error())
		}
		return refuse(fhir.IssueValue, "the endpoint %s", err.Error())
	}
	return nil
}

// checkHost judges a host without resolving it: an address in any of the forms that some
// resolver reads as one, or a name.
func (g *guard) checkHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return errors.New("names an address with a zone, which means nothing to others")
		}
		return g.check(a)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return errors.New("has a host with characters that no DNS name has; write an international name in its xn-- form")
		}
	}
	if name == "" || strings.Contains(name, "..") || strings.HasPrefix(name, ".") || len(name) > 253 {
		return errors.New("has a host that is no DNS name")
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761 6.3
		return g.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	if !endsInNumber(name) {
		return nil
	}
	// 2130706433, 0x7f.1, 0177.0.0.1: what was meant is unclear, and where it goes depends on
	// the resolver.
	if a, ok := looseIPv4(name); ok {
		if err := g.check(a); err != nil {
			return err
		}
		return fmt.Errorf("has a host that is an address in an unusual form; write %s", a)
	}
	return errors.New("has a host that looks like an address and is none")
}

// endsInNumber is the test of the URL standard (WHATWG, "ends in a number checker").
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x")
}

// looseIPv4 reads an IPv4 address as inet_aton does: one to four parts, each decimal, octal
// with a leading 0, or hexadecimal with 0x; the last part fills the bytes that are left.
func looseIPv4(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, p := range parts {
		n, err := loosePart(p)
		if err != nil {
			return netip.Addr{}, false
		}
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		if n >= 1<<bits {
			return netip.Addr{}, false
		}
		v = v<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

func loosePart(p string) (uint64, error) {
	base := 10
	switch {
	case strings.HasPrefix(p, "0x"):
		p, base = p[2:], 16
		if p == "" {
			return 0, nil
		}
	case len(p) > 1 && p[0] == '0':
		p, base = p[1:], 8
	}
	return strconv.ParseUint(p, base, 64)
}

// dialer resolves a name, checks what it stands for, and connects.
type dialer struct {
	guard        *guard
	resolver     Resolver
	proxy        *Proxy // nil: none
	dns, connect time.Duration
}

// errResolve marks a failure to find an address.
var errResolve = errors.New("the host name was not resolved")

// DialContext connects to the first address that answers, among those that are allowed.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if d.proxy != nil {
		return d.dialThrough(ctx, host, port)
	}
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.connect)
	defer cancel()
	var firstErr, blocked error
	tried := 0
	for i, a := range addrs {
		if err := d.guard.check(a); err != nil {
			blocked = err
			continue
		}
		tried++
		conn, err := d.dialOne(ctx, network, a.String(), port, len(addrs)-i)
		if err == nil {
			return conn, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if tried == 0 {
		return nil, blocked
	}
	return nil, firstErr
}

// dialOne gives one address its part of the time that is left.
func (d *dialer) dialOne(ctx context.Context, network, host, port string, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		part := max(time.Until(deadline)/time.Duration(left), min(2*time.Second, d.connect))
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, part)
		defer cancel()
	}
	nd := net.Dialer{Control: d.guard.control, FallbackDelay: -1}
	return nd.DialContext(ctx, network, net.JoinHostPort(host, port))
}

func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.dns)
	defer cancel()
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errResolve, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: it has no address", errResolve)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}
