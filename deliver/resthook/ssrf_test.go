package resthook_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// forbidden are addresses that no notification goes to unless the operator opened them: all that
// the IANA special-purpose registries list (RFC 6890 and after), forms that embed an IPv4 address,
// and the metadata services of clouds.
var forbidden = []string{
	"0.0.0.0", "0.0.0.1", "0.255.255.255", // this network
	"10.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255", // private
	"100.64.0.1", "100.100.100.200", "100.127.255.255", // shared; Alibaba's metadata
	"127.0.0.1", "127.0.0.53", "127.1.2.3", "127.255.255.255", // loopback
	"169.254.0.1", "169.254.169.254", "169.254.170.2", // link-local; metadata of most clouds
	"192.0.0.1", "192.0.0.8", "192.0.0.170", "192.0.0.192", // protocol assignments; Oracle's metadata
	"192.0.2.1", "198.51.100.1", "203.0.113.1", // documentation
	"192.88.99.1",                  // 6to4 relay, deprecated
	"198.18.0.1", "198.19.255.255", // benchmarking
	"224.0.0.1", "239.255.255.255", "233.252.0.1", // multicast
	"240.0.0.1", "255.255.255.254", "255.255.255.255", // reserved, broadcast
	"168.63.129.16", // Azure's wire server, in public space
	"::", "::1", "::2",
	"::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", // of IPv4
	"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", // NAT64
	"100::1",                             // discard-only
	"2001::1", "2001:2::1", "2001:10::1", // Teredo, benchmarking, ORCHID
	"2001:db8::1", "3fff::1", // documentation
	"2002:7f00:1::", "2002:a9fe:a9fe::1", // 6to4
	"5f00::1",                                             // SRv6 SIDs
	"fc00::1", "fd00::1", "fdff:ffff::1", "fd00:ec2::254", // unique local; Amazon's metadata
	"fe80::1", "febf::1", "fec0::1", // link-local, site-local
	"ff00::1", "ff02::1", "ff05::2", // multicast
}

// Each is refused when a Subscription is written, when it is dialled as an address, and when a
// name has come to stand for it.
func TestForbiddenAddressesAreRefusedAtCreateAndAtDial(t *testing.T) {
	if len(forbidden) < 60 {
		t.Errorf("the table has %d addresses", len(forbidden))
	}
	names := resolver{}
	for i, a := range forbidden {
		names[fmt.Sprintf("n%d.test", i)] = addrs(a)
	}
	c := newChannel(t, resthook.Options{Egress: resthook.Egress{AllowHTTP: true}, Resolver: names, Connect: 100 * time.Millisecond})
	for i, text := range forbidden {
		host := text
		if netip.MustParseAddr(text).Is6() {
			host = "[" + text + "]"
		}
		if err := c.CheckURL("https://" + host + "/hook"); err == nil {
			t.Errorf("%s is taken at create", text)
		}
		for _, where := range []string{host, fmt.Sprintf("n%d.test", i)} {
			for _, scheme := range []string{"http", "https"} {
				failure := send(t, c, scheme+"://"+where)
				if failure == nil || failure.Code != record.BlockedAddress || !failure.Permanent {
					t.Errorf("%s://%s (%s): %v", scheme, where, text, failure)
				}
			}
		}
	}
	for _, text := range []string{"8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "[2a00:1450:4001:80e::200e]", "[2606:4700::1111]"} {
		if err := c.CheckURL("https://" + text); err != nil {
			t.Errorf("%s is public, and refused: %v", text, err)
		}
	}
}

// written says whether a Subscription with a header line may be stored.
func written(t *testing.T, line string) error {
	t.Helper()
	header, err := json.Marshal([]string{line})
	if err != nil {
		t.Fatal(err)
	}
	s, err := fhir.ParseSubscription(fmt.Appendf(nil, `{"resourceType":"Subscription","status":"active","criteria":"Patient?","channel":{"type":"rest-hook","endpoint":"https://example.org","header":%s}}`, header))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(fhir.Rules{Compile: func(string) error { return nil }})
}

// A header line of a Subscription cannot become two, nor replace one of ours.
func TestHeadersCannotBeInjected(t *testing.T) {
	for _, line := range []string{
		"X-A: b\r\nX-B: canary", "X-A: b\nX-B: canary", "X-A: b\rX-B: canary", "X-A\r\nX-B: canary", "X-A: \x00canary", "X-A: \x7fcanary", "X-A: b\x0bcanary",
		"X A: canary", ":canary", "X-Ä: canary", "X-A(: canary", "Transfer-Encoding: chunked", "Content-Length: 0", "Host: canary",
		"Webhook-Signature: v1,canary", "x-signature: canary", "Connection: X-A", "Trailer: canary", "Upgrade: canary", "Expect: canary", "TE: canary",
	} {
		to := target("http://127.0.0.1:1", deliver.StyleWebhook)
		to.Headers = []string{line}
		c := newChannel(t, resthook.Options{Egress: dev})
		_, failure := c.Send(t.Context(), update(), to)
		if failure == nil || failure.Code != record.RenderError || strings.Contains(failure.Error(), "canary") {
			t.Errorf("%q: %v", line, failure)
		}
		if err := written(t, line); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q at create: %v", line, err)
		}
	}
}

// An endpoint that sends its answer's head a byte at a time holds an attempt no longer than its
// time.
func TestAHeadThatTricklesEndsWithTheAttempt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nX-Slow: ")[min(i, 24) : min(i, 24)+1]); err != nil {
				return
			}
			<-tick.C
		}
	}()
	defer func() { l.Close(); <-ended }()
	c := newChannel(t, resthook.Options{Egress: dev})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, failure := c.Send(ctx, update(), target("http://"+l.Addr().String(), deliver.StyleWebhook))
	if failure == nil || failure.Code != record.Timeout {
		t.Errorf("failure %v", failure)
	}
}
