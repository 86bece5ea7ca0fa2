package fhir_test

import (
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// HAPI asks nothing of a websocket's endpoint and payload.
func TestAWebsocketNeedsNothingAndSaysWhatItDoesNotUse(t *testing.T) {
	for _, tc := range []struct {
		name, channel string
		unused        []string
	}{
		{"nothing more", `"type":"websocket"`, nil},
		{"as HAPI's users write it", `"type":"websocket","payload":"application/json"`, []string{"Subscription.channel.payload"}},
		{"anything", `"type":"websocket","endpoint":"no URL","payload":"no/type;","header":["X-A: b"]`,
			[]string{"Subscription.channel.endpoint", "Subscription.channel.payload", "Subscription.channel.header"}},
		{"another channel uses all", `"type":"rest-hook","endpoint":"https://x.example","payload":"application/json","header":["X-A: b"]`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := fhir.ParseSubscription([]byte(`{"resourceType":"Subscription","id":"s","status":"requested","criteria":"Patient?","channel":{` + tc.channel + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			err = s.Validate(fhir.Rules{Now: time.Now(), Compile: func(string) error { return nil }, CompilePath: func(string, string) error { return nil }})
			if err != nil {
				t.Fatal(err)
			}
			warnings := s.Unused()
			if len(warnings) != len(tc.unused) {
				t.Fatalf("warnings %v", warnings)
			}
			for i, w := range warnings {
				if w.Expression != tc.unused[i] {
					t.Errorf("warning about %s, want %s", w.Expression, tc.unused[i])
				}
			}
		})
	}
}
