package resthook

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/carillon-fhir/carillon/deliver"
)

// Rules that are replaced hold for the next request, also where a connection was open.
func TestNewEgressRulesHoldForTheNextRequest(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer endpoint.Close()
	c, err := New(Options{Egress: Egress{AllowHTTP: true, AllowPrivate: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func() *deliver.Error {
		_, failure := c.Send(t.Context(), deliver.Notification{}, deliver.Target{Endpoint: endpoint.URL})
		return failure
	}
	if failure := send(); failure != nil {
		t.Fatal(failure)
	}
	if err := c.SetEgress(Egress{Deny: []netip.Prefix{{}}}); err == nil {
		t.Error("rules that mean nothing are taken")
	}
	if failure := send(); failure != nil {
		t.Errorf("rules that were refused changed something: %v", failure)
	}
	if err := c.SetEgress(Egress{AllowHTTP: true}); err != nil {
		t.Fatal(err)
	}
	if failure := send(); failure == nil || failure.Code != "blocked_address" {
		t.Errorf("sent by rules that hold no more: %v", failure)
	}
	if c.CheckURL(endpoint.URL) == nil {
		t.Error("an endpoint that may not be sent to is taken")
	}
}

// Under load there always is a connection that is busy while rules are replaced. What it does is
// finished, and nothing else goes over it.
func TestAConnectionThatIsBusyWhileRulesAreReplacedCarriesNothingMore(t *testing.T) {
	entered, release := make(chan bool, 1), make(chan bool)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			entered <- true
			<-release
		}
	}))
	defer endpoint.Close()
	c, err := New(Options{Egress: Egress{AllowHTTP: true, AllowPrivate: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(url string) *deliver.Error {
		_, failure := c.Send(t.Context(), deliver.Notification{}, deliver.Target{Endpoint: url})
		return failure
	}
	done := make(chan *deliver.Error)
	go func() { done <- send(endpoint.URL + "/wait") }()
	<-entered
	denied := Egress{AllowHTTP: true, AllowPrivate: true, Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	if err := c.SetEgress(denied); err != nil {
		t.Fatal(err)
	}
	send("http://192.0.2.1.invalid:1/") // any other attempt
	close(release)
	if failure := <-done; failure != nil {
		t.Errorf("the attempt in progress failed: %v", failure)
	}
	if failure := send(endpoint.URL); failure == nil || failure.Code != "blocked_address" {
		t.Errorf("sent to an address that is denied now: %v", failure)
	}
}
