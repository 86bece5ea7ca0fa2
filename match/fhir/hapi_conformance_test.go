package fhir_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// HAPI FHIR's RestHookChannelValidatorTest (8.1), its values with what they mean here.
func TestHAPIRestHookChannelValidatorConformance(t *testing.T) {
	for _, row := range []struct {
		theirs, element, value string
		ok                     bool
		differs                string
	}{
		{"host", "endpoint", "https://acme.corp", true, ""},
		{"port", "endpoint", "https://acme.corp:8443", true, ""},
		{"port and path", "endpoint", "https://acme.corp:8443/fhir", true, ""},
		{"trailing slash", "endpoint", "https://acme.corp/fhir/", true, ""},
		{"localhost", "endpoint", "http://localhost:8080/fhir", true, ""},
		{"no scheme", "endpoint", "acme.corp", false, ""},
		{"ftp", "endpoint", "ftp://acme.corp", false, ""},
		{"htt", "endpoint", "htt://acme.corp", false, "HAPI 8.1 took it by mistake"},
		{"blank", "endpoint", " ", false, ""},
		{"anything, with the check off", "endpoint", "whatever", false, "there is no such switch: nothing could be sent there"},
		{"payload absent", "payload", "", true, ""},
		{"payload blank", "payload", " ", true, ""},
		{"payload application/json", "payload", "application/json", true, ""},
		{"payload garbage/fhir", "payload", "garbage/fhir", false, ""},
		{"payload turtle", "payload", "text/turtle", false, "HAPI recognises it; nothing here writes it"},
		{"payload ndjson", "payload", "application/fhir+ndjson", false, "HAPI recognises it; a notification is one resource"},
	} {
		name := row.theirs
		if row.differs != "" {
			name += " (differs: " + row.differs + ")"
		}
		t.Run(name, func(t *testing.T) {
			body := with(t, `"https://example.org/fhir"`, fmt.Sprintf("%q", row.value))
			if row.element == "payload" {
				body = with(t, `"application/fhir+json"`, fmt.Sprintf("%q", row.value))
			}
			allow := everything()
			allow.AllowHTTP = true
			if err := parse(t, body).Validate(allow); (err == nil) != row.ok {
				t.Errorf("%q: %v", row.value, err)
			}
		})
	}
}

// HAPI FHIR's SubscriptionCanonicalizerTest, CanonicalSubscriptionTest and the retry options of
// SubscriptionRegistryTest (8.1). Where HAPI reads an extension at one place of one FHIR version, here it
// is read at both.
func TestHAPISubscriptionCanonicalizerConformance(t *testing.T) {
	for _, row := range []struct {
		theirs, extensions string
		got                func(*fhir.Subscription) any
		want               any // a string that begins with "refused" names what the refusal says
		differs            string
	}{
		{"no retry count", "", attempts, 0, ""},
		{"retry count 2", x(fhir.ExtRetryCount, `"valueInteger":2`), attempts, 2, "HAPI makes one attempt more; its documents say the number of attempts"},
		{"retry count 0", x(fhir.ExtRetryCount, `"valueInteger":0`), attempts, 1, ""},
		{"retry count negative", x(fhir.ExtRetryCount, `"valueInteger":-1`), attempts, "refused whole number", "HAPI ignores it"},
		{"retry count given twice", x(fhir.ExtRetryCount, `"valueInteger":1`) + "," + x(fhir.ExtRetryCount, `"valueInteger":2`), attempts, "refused twice", "HAPI ignores both"},
		{"retry count a word", x(fhir.ExtRetryCount, `"valueString":"a"`), attempts, "refused whole number", "HAPI fails when it registers the Subscription"},
		{"send delete messages", x(fhir.ExtSendDelete, `"valueBoolean":true`), sendDelete, true, ""},
		{"send delete messages in R5", x(fhir.ExtSendDelete, `"valueBoolean":true`), sendDelete, true, "HAPI does not read it in R5"},
		{"send delete messages as a string", x(fhir.ExtSendDelete, `"valueString":"true"`), sendDelete, true, "HAPI wants a boolean in R4"},
		{"email details: from", x(fhir.ExtEmailFrom, `"valueString":"a@example.org"`), func(s *fhir.Subscription) any { return s.EmailFrom }, "a@example.org", ""},
		{"email details: subject", x(fhir.ExtEmailSubject, `"valueString":"News"`), func(s *fhir.Subscription) any { return s.EmailSubject }, "News", ""},
		{"rest-hook details: strip version", x(fhir.ExtStripVersion, `"valueBoolean":true`), func(s *fhir.Subscription) any { return s.StripVersion }, true, ""},
		{"rest-hook details: latest version as a string", x(fhir.ExtLatestVersion, `"valueString":"true"`), func(s *fhir.Subscription) any { return s.LatestVersion }, true, ""},
		{"payload search criteria", x(fhir.ExtPayloadSearch, `"valueString":"Patient?"`), func(s *fhir.Subscription) any { return s.PayloadSearch }, "Patient?", ""},
		{"cross-partition", x(fhir.ExtCrossPartition, `"valueBoolean":true`), func(s *fhir.Subscription) any { return s.CrossPartition }, true, ""},
		{"cross-partition that is no boolean", x(fhir.ExtCrossPartition, `"valueString":"maybe"`), func(s *fhir.Subscription) any { return s.CrossPartition }, "refused true or false", "HAPI takes it for false"},
		{"an extension that is not known", x("http://example.org/x", `"valueString":"y"`), style, fhir.Style(""), ""},
	} {
		name := row.theirs
		if row.differs != "" {
			name += " (differs: " + row.differs + ")"
		}
		for place, body := range map[string]string{
			"on the Subscription": withExtension(t, row.extensions),
			"on the channel":      with(t, `"type":"rest-hook",`, `"type":"rest-hook","extension":[`+row.extensions+`],`),
		} {
			t.Run(name+" "+place, func(t *testing.T) {
				s := parse(t, body)
				err := s.Validate(everything())
				if text, ok := row.want.(string); ok && strings.HasPrefix(text, "refused ") {
					if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(text, "refused ")) {
						t.Errorf("error is %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := row.got(s); !reflect.DeepEqual(got, row.want) {
					t.Errorf("got %v, want %v", got, row.want)
				}
			})
		}
	}
	t.Run("two tags of one system are tolerated", func(t *testing.T) {
		tag := `{"system":"http://hapifhir.io/fhir/StructureDefinition/subscription-matching-strategy","code":%q}`
		body := with(t, `"id":"s1",`, `"id":"s1","meta":{"tag":[`+fmt.Sprintf(tag, "DATABASE")+","+fmt.Sprintf(tag, "IN_MEMORY")+`]},`)
		if err := parse(t, body).Validate(everything()); err != nil {
			t.Error(err)
		}
	})
}
