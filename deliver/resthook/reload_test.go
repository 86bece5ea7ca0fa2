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
