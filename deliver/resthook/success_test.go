package resthook_test

import (
	"net/http"
	"testing"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/delivertest"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Medplum's own list is 200-399; ours decides alone where a Subscription has one, and a redirect
// that counts as delivered is a status like any other.
func TestSuccessCodesDecideAlone(t *testing.T) {
	redirect := http.Header{"Location": {"/landing"}}
	medplum := []fhir.StatusRange{{From: 200, To: 399}, {From: 404, To: 404}}
	for _, tc := range []struct {
		name   string
		codes  []fhir.StatusRange
		answer delivertest.Answer
		code   record.Code // empty: accepted
	}{
		{"a status in a range", medplum, delivertest.Answer{Status: 201}, ""},
		{"the last of a range", medplum, delivertest.Answer{Status: 399}, ""},
		{"a redirect in a range", medplum, delivertest.Answer{Status: 302, Header: redirect}, ""},
		{"a status by itself", medplum, delivertest.Answer{Status: 404}, ""},
		{"one that is not listed", medplum, delivertest.Answer{Status: 400}, record.HTTPStatus},
		{"200 where it is not listed", []fhir.StatusRange{{From: 202, To: 202}}, delivertest.Answer{Status: 200}, record.HTTPStatus},
		{"a redirect that is not listed", []fhir.StatusRange{{From: 200, To: 301}}, delivertest.Answer{Status: 302, Header: redirect}, record.Redirect},
		{"410 where it is listed", []fhir.StatusRange{{From: 410, To: 600}}, delivertest.Answer{Status: 410}, ""},
		{"410 where it is not", medplum, delivertest.Answer{Status: 410}, record.Gone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := delivertest.NewEndpoint(t, tc.answer)
			to := target(e.URL, deliver.StyleWebhook)
			to.Subscription = &fhir.Subscription{SuccessCodes: tc.codes}
			receipt, failure := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), update(), to)
			switch {
			case tc.code == "" && (failure != nil || receipt.Status != tc.answer.Status):
				t.Errorf("receipt %+v, failure %v", receipt, failure)
			case tc.code != "" && (failure == nil || failure.Code != tc.code || failure.Status != tc.answer.Status):
				t.Errorf("failure %+v", failure)
			}
			if n := len(e.Requests()); n != 1 {
				t.Errorf("%d requests: a redirect was followed", n)
			}
		})
	}
}

// A transaction goes to the endpoint itself in every style, and whether or not a payload is wanted:
// the search was asked for.
func TestATransactionIsPostedToTheEndpoint(t *testing.T) {
	n := update()
	n.Transaction, n.Body = true, []byte(`{"resourceType":"Bundle","type":"transaction"}`)
	for _, style := range []deliver.Style{deliver.StyleFHIR, deliver.StyleWebhook} {
		for _, payload := range []string{"application/fhir+json", ""} {
			e := delivertest.NewEndpoint(t)
			to := target(e.URL+"/fhir?x=1", style)
			to.Payload = payload
			if _, failure := newChannel(t, resthook.Options{Egress: dev}).Send(t.Context(), n, to); failure != nil {
				t.Fatal(failure)
			}
			if r := e.Requests()[0]; r.Method != "POST" || r.URI != "/fhir?x=1" || string(r.Body) != string(n.Body) || r.Header.Get("Content-Type") != "application/fhir+json" {
				t.Errorf("%s, payload %q: %s %s %q", style, payload, r.Method, r.URI, r.Body)
			}
		}
	}
}
