package fhir

import (
	"strings"
	"testing"
	"time"
)

func TestTheEndpointOfAMessageChannel(t *testing.T) {
	for _, tc := range []struct {
		endpoint, name, subject string
		ok                      bool
	}{
		{"channel:example-queue-name", "example-queue-name", "", true},
		{"channel:A_1", "A_1", "", true},
		{"nats:lab.results-1.a_b", "", "lab.results-1.a_b", true},
		{"nats:lab", "", "lab", true},
		{endpoint: "channel:"}, {endpoint: "channel:a.b"}, {endpoint: "channel:a b"}, {endpoint: "channel:*"}, {endpoint: "channel:ä"},
		{endpoint: "channel:" + strings.Repeat("x", 65)}, {endpoint: "Channel:a"}, {endpoint: "channel"}, {endpoint: "a"}, {endpoint: ""},
		{endpoint: "nats:"}, {endpoint: "nats:a..b"}, {endpoint: "nats:.a"}, {endpoint: "nats:a.>"}, {endpoint: "nats:a.*"}, {endpoint: "nats:a\r\nPUB x"},
		{endpoint: "nats:" + strings.Repeat("x.", 200) + "x"}, {endpoint: "nats://host/a"},
	} {
		name, subject, ok := SplitMessageEndpoint(tc.endpoint)
		if name != tc.name || subject != tc.subject || ok != tc.ok {
			t.Errorf("%q: %q, %q, %v", tc.endpoint, name, subject, ok)
		}
	}
}

func TestAMessageChannelIsRefusedForWhatItCannotDo(t *testing.T) {
	rules := Rules{Now: time.Now(), Compile: func(string) error { return nil }, MessageSubject: func(s string) bool { return s == "lab.a" },
		DeliveryClass: func(string) error { return nil }}
	const class = `"extension":[{"url":"https://smilecdr.com/fhir/ns/StructureDefinition/subscription-channel-rest-delivery-class","valueString":"x"}],`
	for _, tc := range []struct{ name, channel, says string }{
		{"as HAPI's examples", `"type":"message","endpoint":"channel:q","payload":"application/json"`, ""},
		{"without payload", `"type":"message","endpoint":"channel:q"`, ""},
		{"an allowed subject", `"type":"message","endpoint":"nats:lab.a"`, ""},
		{"HAPI's envelope", `"extension":[{"url":"https://carillon-fhir.github.io/StructureDefinition/message-envelope","valueCode":"hapi"}],"type":"message","endpoint":"channel:q"`, ""},
		{"no endpoint", `"type":"message"`, "needs an endpoint, channel:NAME"},
		{"another subject", `"type":"message","endpoint":"nats:lab.b"`, "lab.b is not among delivery.message.subjects"},
		{"no name", `"type":"message","endpoint":"q"`, "is channel:NAME"},
		{"XML", `"type":"message","endpoint":"channel:q","payload":"application/fhir+xml"`, "messages are JSON"},
		{"XML with parameters", `"type":"message","endpoint":"channel:q","payload":"text/xml; charset=utf-8"`, "messages are JSON"},
		{"no type of content", `"type":"message","endpoint":"channel:q","payload":"pigeon"`, "no MIME type"},
		{"another envelope", `"extension":[{"url":"https://carillon-fhir.github.io/StructureDefinition/message-envelope","valueCode":"soap"}],"type":"message","endpoint":"channel:q"`, "must be plain or hapi"},
		{"a header of the engine", `"type":"message","endpoint":"channel:q","header":["nats-msg-id: 1"]`, "cannot be given"},
		{"a header of ours", `"type":"message","endpoint":"channel:q","header":["Fhir-Interaction: create"]`, "cannot be given"},
		{"a header with a line", `"type":"message","endpoint":"channel:q","header":["X: canary\r\nY: 1"]`, "control character"},

		{"a class without endpoint", class + `"type":"rest-hook","payload":"application/json"`, ""},
		{"a class with an endpoint of its own", class + `"type":"rest-hook","endpoint":"queue:x"`, ""},
		{"a class of another type", class + `"type":"message","endpoint":"channel:q"`, "is for channel type rest-hook"},
		{"a class and lines in the endpoint", class + `"type":"rest-hook","endpoint":"a\nb"`, "control character"},
		{"no class and no endpoint", `"type":"rest-hook"`, "needs an endpoint"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := ParseSubscription([]byte(`{"resourceType":"Subscription","status":"active","criteria":"Patient?","channel":{` + tc.channel + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			err = s.Validate(rules)
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("refused with %v, want %q", err, tc.says)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the refusal repeats a header's value: %v", err)
			}
		})
	}
}

func TestAnEnvelopeWithoutMessagesIsDoubted(t *testing.T) {
	const envelope = `{"url":"https://carillon-fhir.github.io/StructureDefinition/message-envelope","valueCode":"hapi"}`
	const named = `{"url":"https://smilecdr.com/fhir/ns/StructureDefinition/subscription-named-channel-delivery","valueString":"q"}`
	for channel, doubts := range map[string]int{
		`"extension":[` + envelope + `],"type":"rest-hook","endpoint":"https://a.example"`:               1,
		`"extension":[` + envelope + `,` + named + `],"type":"rest-hook","endpoint":"https://a.example"`: 0,
		`"extension":[` + envelope + `],"type":"message","endpoint":"channel:q"`:                         0,
	} {
		s, err := ParseSubscription([]byte(`{"resourceType":"Subscription","status":"active","criteria":"Patient?","channel":{` + channel + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if s.Envelope != EnvelopeHAPI || len(s.Doubts()) != doubts {
			t.Errorf("%s: envelope %q, doubts %v", channel, s.Envelope, s.Doubts())
		}
	}
}
