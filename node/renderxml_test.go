package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// rendered is a Renderer that always gives the same.
type rendered struct {
	body string
	err  error
}

func (r rendered) Render(context.Context, deliver.Pending, deliver.Target) (deliver.Notification, error) {
	return deliver.Notification{ContentType: fhir.ContentJSON, Body: []byte(r.body)}, r.err
}

func TestANotificationHasTheFormatThatItsSubscriptionAsksFor(t *testing.T) {
	const json, xml = `{"resourceType":"Patient","multipleBirthInteger":1,"id":"p"}`, `<Patient xmlns="http://hl7.org/fhir"><id value="p"/><multipleBirthInteger value="1"/></Patient>`
	for _, c := range []struct {
		name            string
		target          deliver.Target
		body            string
		wantType, wants string
	}{
		{"JSON", deliver.Target{ChannelType: "rest-hook", Style: deliver.StyleFHIR, Payload: fhir.ContentJSON}, json, fhir.ContentJSON, json},
		{"XML", deliver.Target{ChannelType: "rest-hook", Style: deliver.StyleFHIR, Payload: fhir.ContentXML}, json, fhir.ContentXML, xml},
		{"no payload", deliver.Target{ChannelType: "rest-hook", Style: deliver.StyleFHIR}, json, fhir.ContentJSON, json},
		{"webhook style, which is JSON", deliver.Target{ChannelType: "rest-hook", Style: deliver.StyleWebhook, Payload: fhir.ContentXML}, json, fhir.ContentJSON, json},
		{"webhook style of who delivers in place of the rest-hook", deliver.Target{ChannelType: classPrefix + "x", Style: deliver.StyleWebhook, Payload: fhir.ContentXML}, json, fhir.ContentJSON, json},
		{"another channel, whose style says nothing", deliver.Target{ChannelType: "message", Style: deliver.StyleWebhook, Payload: fhir.ContentXML}, json, fhir.ContentXML, xml},
		{"a delete", deliver.Target{ChannelType: "rest-hook", Style: deliver.StyleFHIR, Payload: fhir.ContentXML}, "", fhir.ContentXML, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := formats{rendered{body: c.body}, fhir.R4}.Render(t.Context(), deliver.Pending{}, c.target)
			if err != nil || n.ContentType != c.wantType || string(n.Body) != c.wants {
				t.Errorf("%v: %s %s, want %s %s", err, n.ContentType, n.Body, c.wantType, c.wants)
			}
		})
	}
	asXML := deliver.Target{ChannelType: "rest-hook", Payload: fhir.ContentXML}
	broken := errors.New("broken")
	if _, err := (formats{rendered{err: broken}, fhir.R4}).Render(t.Context(), deliver.Pending{}, asXML); !errors.Is(err, broken) {
		t.Errorf("got %v, want what went wrong before", err)
	}
	_, err := formats{rendered{body: `{"resourceType":"Patient","name":[{"nmae":"secret"}]}`}, fhir.R4}.Render(t.Context(), deliver.Pending{}, asXML)
	if err == nil || !strings.Contains(err.Error(), "Patient.name[0]") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want the place and no value", err)
	}
}

// xmlArrival is a request that an endpoint got.
type xmlArrival struct {
	method, path, contentType, body string
}

func TestXMLInXMLOut(t *testing.T) {
	arrivals := make(chan xmlArrival, 10)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrivals <- xmlArrival{r.Method, r.URL.Path, r.Header.Get("Content-Type"), string(body)}
	}))
	defer endpoint.Close()
	cfg := testConfig(t.TempDir())
	cfg.Delivery.Retry.Attempts = 1
	r := runNode(t, cfg)
	put := func(path, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+r.Addr()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/fhir+xml")
		req.Header.Set("Accept", "application/fhir+xml")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusCreated || res.Header.Get("Content-Type") != "application/fhir+xml; charset=utf-8" {
			t.Fatalf("PUT %s: %d %s: %s", path, res.StatusCode, res.Header.Get("Content-Type"), text)
		}
	}
	// In an order that is not FHIR's, as people write it.
	put("/fhir/Subscription/s", `<Subscription xmlns="http://hl7.org/fhir"><id value="s"/><criteria value="Observation?"/><status value="requested"/>`+
		`<channel><type value="rest-hook"/><endpoint value="`+endpoint.URL+`"/><payload value="application/xml"/></channel></Subscription>`)
	const observation = `<Observation xmlns="http://hl7.org/fhir"><id value="o"/><status value="final"/><code><text value="x"/></code><valueQuantity><value value="1.0"/></valueQuantity></Observation>`
	put("/fhir/Observation/o", observation)

	got := <-arrivals
	if got.method != "PUT" || got.path != "/Observation/o" || got.contentType != "application/fhir+xml" {
		t.Errorf("arrived %+v", got)
	}
	if !strings.HasPrefix(got.body, `<Observation xmlns="http://hl7.org/fhir"><id value="o"/><meta>`) || !strings.Contains(got.body, `<value value="1.0"/>`) {
		t.Errorf("arrived %s", got.body)
	}
	// What XML has no place for cannot be sent, and is dead at once rather than sent as something else.
	r.do(201, "PUT", "/fhir/Observation/odd", `{"resourceType":"Observation","id":"odd","status":"final","code":{"text":"x"},"vlaue":"secret"}`, nil)
	r.await("the dead letter", "/admin/api/v1/status", func(s map[string]any) bool { return s["pending"] == 0.0 && s["dead"] == 1.0 })
	var letters []struct{ Reason string }
	r.do(200, "GET", "/admin/api/v1/dlq", "", &letters)
	if len(letters) != 1 || letters[0].Reason != "render_error" {
		t.Errorf("dead letters %+v", letters)
	}
}

func TestXMLOverNATSIsRefusedWithTheWayOut(t *testing.T) {
	gate := &natsGate{size: 1 << 10}
	err := gate.check(fhir.Key{Type: "Patient", ID: "p"}, []byte(" <Patient xmlns=\"http://hl7.org/fhir\"/>"))
	if fe := fhir.AsError(err); fe == nil || fe.Issues[0].Type != fhir.IssueNotSupported || !strings.Contains(err.Error(), "over HTTP") {
		t.Errorf("got %v", err)
	}
}
