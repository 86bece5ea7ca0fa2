package fhir_test

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// rules accept every criteria but "Nope", and every endpoint but those of blocked.example.
var rules = fhir.Rules{
	Now: now,
	Compile: func(criteria string) error {
		if strings.HasPrefix(criteria, "Nope") {
			return &fhir.Error{Issues: []fhir.Issue{
				{Type: fhir.IssueNotSupported, Diagnostics: "first fault"},
				{Type: fhir.IssueValue, Diagnostics: "second fault"},
			}}
		}
		return nil
	},
	CompilePath: func(path, criteria string) error {
		if path == "nope" {
			return fhir.Refuse(fhir.IssueValue, "", "the expression has a fault about "+criteria)
		}
		return nil
	},
	Endpoint: func(u *url.URL) error {
		if u.Hostname() == "blocked.example" {
			return fhir.Refuse(fhir.IssueValue, "", "the address is blocked")
		}
		return nil
	},
}

const good = `{"resourceType":"Subscription","id":"s1","status":"requested","reason":"why",
	"criteria":"Patient?","channel":{"type":"rest-hook","endpoint":"https://example.org/fhir",
	"payload":"application/fhir+json","header":["Authorization: Bearer a:b"]}}`

func parse(t *testing.T, body string) *fhir.Subscription {
	t.Helper()
	s, err := fhir.ParseSubscription([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// with returns the good Subscription with the first old replaced by new.
func with(t *testing.T, old, new string) string {
	t.Helper()
	if !strings.Contains(good, old) {
		t.Fatalf("the good Subscription has no %s", old)
	}
	return strings.Replace(good, old, new, 1)
}

func withExtension(t *testing.T, extensions string) string {
	t.Helper()
	return with(t, `"id":"s1",`, `"id":"s1","extension":[`+extensions+`],`)
}

func TestSubscriptionIsReadAsItsAuthorWroteIt(t *testing.T) {
	s := parse(t, with(t, `"reason":"why"`, `"reason":"why","end":"2027-01-31T12:00:00.5+01:00"`))
	if err := s.Validate(rules); err != nil {
		t.Fatal(err)
	}
	want := &fhir.Subscription{
		ID: "s1", Status: fhir.StatusRequested, Reason: "why", Criteria: "Patient?",
		End: s.End,
		Channel: fhir.Channel{
			Type: "rest-hook", Endpoint: "https://example.org/fhir", Payload: "application/fhir+json",
			Headers: []string{"Authorization: Bearer a:b"},
		},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("read %+v, want %+v", s, want)
	}
	if end := time.Date(2027, 1, 31, 11, 0, 0, 5e8, time.UTC); !s.End.Equal(end) {
		t.Errorf("end is %v, want %v", s.End, end)
	}
}

func TestHeaderValuesAreKeptWhole(t *testing.T) {
	name, value, ok := fhir.SplitHeader("X-Url:  https://a.example:8443/x ")
	if name != "X-Url" || value != "https://a.example:8443/x" || !ok {
		t.Errorf("split into %q, %q, %v", name, value, ok)
	}
	if _, _, ok := fhir.SplitHeader("no colon"); ok {
		t.Error("a line without a colon was split")
	}
}

func TestEverySpellingOfAFormatIsSentAsThatFormat(t *testing.T) {
	for sent, payloads := range map[string][]string{
		"application/fhir+json": {"application/fhir+json", "application/json", "application/json+fhir", "application/json fhir",
			"text/json", "json", "Application/FHIR+JSON", "application/fhir json", " application/fhir+json ",
			"application/fhir+json; fhirVersion=4.0; charset=UTF-8"},
		"application/fhir+xml": {"application/fhir+xml", "application/xml", "application/xml+fhir", "application/xml fhir",
			"text/xml", "xml", "Application/FHIR+XML", "application/fhir xml",
			"application/fhir+xml; fhirVersion=4.0; charset=UTF-8"},
	} {
		for _, payload := range payloads {
			s := parse(t, with(t, `"application/fhir+json"`, fmt.Sprintf("%q", payload)))
			if err := s.Validate(rules); err != nil {
				t.Errorf("%s: %v", payload, err)
			}
			if got := s.Channel.ContentType(); got != sent {
				t.Errorf("%s is sent as %q, want %q", payload, got, sent)
			}
		}
	}
}

func TestWithoutAPayloadOrWithABlankOneNoBodyIsSent(t *testing.T) {
	for _, payload := range []string{"", `"payload":"",`, `"payload":"  ",`} {
		s := parse(t, with(t, `"payload":"application/fhir+json",`, payload))
		if err := s.Validate(rules); err != nil || s.Channel.ContentType() != "" {
			t.Errorf("with %s: %v, sent as %q", payload, err, s.Channel.ContentType())
		}
	}
}

// Servers that keep an ended Subscription do so as off or error, and so does a mirror of them.
func TestAnEndedSubscriptionMayBeKeptButNotSwitchedOn(t *testing.T) {
	for status, ok := range map[string]bool{"off": true, "error": true, "requested": false, "active": false} {
		body := with(t, `"status":"requested"`, fmt.Sprintf(`"status":%q,"end":"2020-01-01T00:00:00Z"`, status))
		if err := parse(t, body).Validate(rules); (err == nil) != ok {
			t.Errorf("%s: %v", status, err)
		}
	}
}

func TestAnUnsupportedExtensionThatIsSwitchedOffIsAccepted(t *testing.T) {
	const bot = "https://medplum.com/fhir/StructureDefinition/pre-commit-bot"
	for value, ok := range map[string]bool{
		`"valueBoolean":false`: true, `"valueBoolean":true`: false, `"valueString":"false"`: false, `"valueBoolean":"false"`: false,
	} {
		err := parse(t, withExtension(t, fmt.Sprintf(`{"url":%q,%s}`, bot, value))).Validate(rules)
		if (err == nil) != ok {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestInteractionsHeard(t *testing.T) {
	interaction := func(codes ...string) string {
		var x []string
		for _, c := range codes {
			x = append(x, fmt.Sprintf(`{"url":%q,"valueCode":%q}`, fhir.ExtSupportedInteraction, c))
		}
		return strings.Join(x, ",")
	}
	sendDelete := fmt.Sprintf(`{"url":%q,"valueBoolean":true}`, fhir.ExtSendDelete)
	C, U, D := fhir.Create, fhir.Update, fhir.Delete
	for _, test := range []struct {
		name       string
		extensions string
		want       []fhir.Interaction
	}{
		{"nothing said: no deletes", "", []fhir.Interaction{C, U}},
		{"HAPI's send-delete-messages adds deletes", sendDelete, []fhir.Interaction{C, U, D}},
		{"Medplum's list is the whole", interaction("create"), []fhir.Interaction{C}},
		{"Medplum's list may be deletes only", interaction("delete"), []fhir.Interaction{D}},
		{"Medplum's list repeats", interaction("update", "delete", "update"), []fhir.Interaction{U, D}},
		{"both together", interaction("create") + "," + sendDelete, []fhir.Interaction{C, D}},
		{"another extension of Medplum's adds no deletes",
			fmt.Sprintf(`{"url":%q,"valueInteger":3}`, fhir.ExtMaxAttempts), []fhir.Interaction{C, U}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := parse(t, withExtension(t, test.extensions))
			if err := s.Validate(rules); err != nil {
				t.Fatal(err)
			}
			if got := s.Heard(); !slices.Equal(got, test.want) {
				t.Errorf("hears %v, want %v", got, test.want)
			}
			if s.Hears(fhir.Unchanged) {
				t.Error("hears of writes that changed nothing")
			}
		})
	}
}

func TestExtensionsAreHonoured(t *testing.T) {
	x := func(url, value string) string { return fmt.Sprintf(`{"url":%q,%s}`, url, value) }
	for _, test := range []struct {
		name       string
		extensions string
		got        func(*fhir.Subscription) any
		want       any
	}{
		{"Medplum's attempts", x(fhir.ExtMaxAttempts, `"valueInteger":18`), attempts, 18},
		{"Medplum's attempts as a string", x(fhir.ExtMaxAttempts, `"valueString":"5"`), attempts, 5},
		{"HAPI's attempts as a quoted number", x(fhir.ExtRetryCount, `"valueInteger":"10"`), attempts, 10},
		{"HAPI's attempts of 0 are one", x(fhir.ExtRetryCount, `"valueInteger":0`), attempts, 1},
		{"Medplum's attempts win", x(fhir.ExtRetryCount, `"valueInteger":10`) + "," + x(fhir.ExtMaxAttempts, `"valueInteger":2`), attempts, 2},
		{"equal values twice", x(fhir.ExtMaxAttempts, `"valueInteger":2`) + "," + x(fhir.ExtMaxAttempts, `"valueInteger":2`), attempts, 2},
		{"send-delete as a string", x(fhir.ExtSendDelete, `"valueString":"true"`), sendDelete, true},
		{"send-delete as a string in a boolean", x(fhir.ExtSendDelete, `"valueBoolean":"true"`), sendDelete, true},
		{"send-delete false", x(fhir.ExtSendDelete, `"valueBoolean":false`), sendDelete, false},
		{"style", x(fhir.ExtRestHookStyle, `"valueCode":"webhook"`), style, fhir.StyleWebhook},
		{"no style", "", style, fhir.Style("")},
		{"HAPI's extensions make no webhook", x(fhir.ExtRetryCount, `"valueInteger":3`), style, fhir.Style("")},
		{"Medplum's make a webhook", x(fhir.ExtMaxAttempts, `"valueInteger":3`), style, fhir.StyleWebhook},
		{"an unknown one of Medplum's too", x("https://medplum.com/fhir/StructureDefinition/tracing", `"extension":[]`), style, fhir.StyleWebhook},
		{"a style said wins", x(fhir.ExtMaxAttempts, `"valueInteger":3`) + "," + x(fhir.ExtRestHookStyle, `"valueCode":"fhir"`), style, fhir.StyleFHIR},
		{"order", x(fhir.ExtOrder, `"valueCode":"strict"`), order, fhir.OrderStrict},
		{"an unknown extension is ignored", x("https://example.org/x", `"valueString":"y"`), order, fhir.Order("")},
	} {
		bodies := map[string]string{
			"on the Subscription": withExtension(t, test.extensions),
			"on the channel":      with(t, `"type":"rest-hook",`, `"type":"rest-hook","extension":[`+test.extensions+`],`),
		}
		for place, body := range bodies {
			t.Run(test.name+" "+place, func(t *testing.T) {
				s := parse(t, body)
				if err := s.Validate(rules); err != nil {
					t.Fatal(err)
				}
				if got := test.got(s); got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		}
	}
}

func attempts(s *fhir.Subscription) any   { return s.Attempts }
func sendDelete(s *fhir.Subscription) any { return s.SendDelete }
func style(s *fhir.Subscription) any      { return s.Style }
func order(s *fhir.Subscription) any      { return s.Order }

func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	ext := func(url, value string) string {
		return withExtension(t, fmt.Sprintf(`{"url":%q,%s}`, url, value))
	}
	channel := func(old, new string) string { return with(t, old, new) }
	const header = `"Authorization: Bearer a:b"`
	const endpoint = `"https://example.org/fhir"`
	for _, test := range []struct {
		name, body string
		kind       fhir.IssueType
		expression string
		says       string
	}{
		{"status missing", with(t, `"status":"requested",`, ""), fhir.IssueRequired, "Subscription.status", "missing"},
		{"status unknown", with(t, `"requested"`, `"entered-in-error"`), fhir.IssueValue, "Subscription.status", "requested, active"},
		{"status of another type", with(t, `"requested"`, `1`), fhir.IssueValue, "Subscription.status", "string"},
		{"status empty", with(t, `"requested"`, `""`), fhir.IssueValue, "Subscription.status", "empty"},
		{"off skips nothing", strings.Replace(with(t, `"requested"`, `"off"`), `"Patient?"`, `""`, 1), fhir.IssueValue, "Subscription.criteria", "empty"},
		{"criteria missing", with(t, `"criteria":"Patient?",`, ""), fhir.IssueRequired, "Subscription.criteria", "missing"},
		{"criteria of a topic", with(t, `"Patient?"`, `"http://example.org/topic"`), fhir.IssueNotSupported, "Subscription.criteria", "topic"},
		{"id reserved", with(t, `"s1"`, `"ingest"`), fhir.IssueValue, "Subscription.id", "reserved"},
		{"id malformed", with(t, `"s1"`, `"a b"`), fhir.IssueValue, "Subscription.id", "letters"},
		{"end past", with(t, `"id":"s1"`, `"id":"s1","end":"2026-11-22T12:00:00Z"`), fhir.IssueValue, "Subscription.end", "past"},
		{"end without zone", with(t, `"id":"s1"`, `"id":"s1","end":"2027-11-22T12:00:00"`), fhir.IssueValue, "Subscription.end", "instant"},
		{"end a date", with(t, `"id":"s1"`, `"id":"s1","end":"2027-11-22"`), fhir.IssueValue, "Subscription.end", "instant"},
		{"end with a comma", with(t, `"id":"s1"`, `"id":"s1","end":"2027-11-22T12:00:00,5Z"`), fhir.IssueValue, "Subscription.end", "instant"},
		{"modifier extension", with(t, `"id":"s1"`, `"id":"s1","modifierExtension":[]`), fhir.IssueNotSupported, "Subscription.modifierExtension", "modifier"},
		{"modifier extension on the channel", channel(`"type":"rest-hook"`, `"type":"rest-hook","modifierExtension":[]`), fhir.IssueNotSupported, "Subscription.channel.modifierExtension", "modifier"},
		{"implicit rules", with(t, `"id":"s1"`, `"id":"s1","implicitRules":"http://x"`), fhir.IssueNotSupported, "Subscription.implicitRules", "implicitRules"},
		{"misspelt element", with(t, `"criteria"`, `"critera"`), fhir.IssueValue, "Subscription", "critera"},
		{"element of another case", with(t, `"criteria"`, `"Criteria"`), fhir.IssueValue, "Subscription", "Criteria"},
		{"element of R5", with(t, `"id":"s1"`, `"id":"s1","channelType":{}`), fhir.IssueNotSupported, "Subscription.channelType", "R5"},
		{"channel missing", `{"resourceType":"Subscription","status":"active","criteria":"Patient?"}`, fhir.IssueRequired, "Subscription.channel.type", "missing"},
		{"channel an array", `{"resourceType":"Subscription","status":"active","criteria":"Patient?","channel":[]}`, fhir.IssueValue, "Subscription.channel", "object"},
		{"channel type unknown", channel(`"rest-hook"`, `"carrier-pigeon"`), fhir.IssueValue, "Subscription.channel.type", "this build has email"},
		{"endpoint missing", channel(`"endpoint":`+endpoint+`,`, ""), fhir.IssueRequired, "Subscription.channel.endpoint", "needs an endpoint"},
		{"endpoint relative", channel(endpoint, `"/fhir"`), fhir.IssueValue, "Subscription.channel.endpoint", "absolute"},
		{"endpoint opaque", channel(endpoint, `"https:example.org"`), fhir.IssueValue, "Subscription.channel.endpoint", "absolute"},
		{"endpoint without host", channel(endpoint, `"https:///x"`), fhir.IssueValue, "Subscription.channel.endpoint", "host"},
		{"endpoint of another scheme", channel(endpoint, `"ftp://example.org"`), fhir.IssueValue, "Subscription.channel.endpoint", "scheme"},
		{"endpoint http", channel(endpoint, `"http://example.org"`), fhir.IssueValue, "Subscription.channel.endpoint", "http"},
		{"endpoint a bot", channel(endpoint, `"Bot/1"`), fhir.IssueNotSupported, "Subscription.channel.endpoint", "bots"},
		{"endpoint with userinfo", channel(endpoint, `"https://me:pw@example.org"`), fhir.IssueValue, "Subscription.channel.endpoint", "Authorization"},
		{"endpoint with fragment", channel(endpoint, `"https://example.org/#"`), fhir.IssueValue, "Subscription.channel.endpoint", "fragment"},
		{"endpoint with port 0", channel(endpoint, `"https://example.org:0"`), fhir.IssueValue, "Subscription.channel.endpoint", "port"},
		{"endpoint with no port after the colon", channel(endpoint, `"https://example.org:/"`), fhir.IssueValue, "Subscription.channel.endpoint", "port"},
		{"endpoint with a line break", channel(endpoint, `"https://example.org/\nx"`), fhir.IssueValue, "Subscription.channel.endpoint", "absolute"},
		{"endpoint too long", channel(endpoint, `"https://example.org/`+strings.Repeat("x", 5000)+`"`), fhir.IssueValue, "Subscription.channel.endpoint", "longer"},
		{"endpoint blocked", channel(endpoint, `"https://blocked.example"`), fhir.IssueValue, "Subscription.channel.endpoint", "blocked"},
		{"payload turtle", channel(`"application/fhir+json"`, `"text/turtle"`), fhir.IssueValue, "Subscription.channel.payload", "application/fhir+xml"},
		{"payload XML in another charset", channel(`"application/fhir+json"`, `"application/fhir+xml; charset=iso-8859-1"`), fhir.IssueNotSupported, "Subscription.channel.payload", "utf-8"},
		{"payload unknown", channel(`"application/fhir+json"`, `"text/plain"`), fhir.IssueValue, "Subscription.channel.payload", "MIME"},
		{"payload of another version", channel(`"application/fhir+json"`, `"application/fhir+json;fhirVersion=4.3"`), fhir.IssueNotSupported, "Subscription.channel.payload", "fhirVersion"},
		{"header not a list", channel(`[`+header+`]`, header), fhir.IssueValue, "Subscription.channel.header", "array"},
		{"header without a colon", channel(header, `"Bearer"`), fhir.IssueValue, "Subscription.channel.header[0]", "Name: value"},
		{"header with a bad name", channel(header, `"X Y: 1"`), fhir.IssueValue, "Subscription.channel.header[0]", "Name: value"},
		{"header with a line break", channel(header, `"X-Y: 1\r\nZ: 2"`), fhir.IssueValue, "Subscription.channel.header[0]", "control"},
		{"header not a string", channel(header, header+`,1`), fhir.IssueValue, "Subscription.channel.header[1]", "string"},
		{"header of the host", channel(header, `"host: example.org"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"header content length", channel(header, `"Content-Length: 1"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"header content type", channel(header, `"Content-Type: a/b"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"header hop by hop", channel(header, `"Connection: close"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"header of ours", channel(header, `"x-carillon-event: 1"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"header of webhooks", channel(header, `"webhook-id: 1"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"header of Medplum's", channel(header, `"X-Medplum-Interaction: x"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"header of the signature", channel(header, `"X-Signature: x"`), fhir.IssueValue, "Subscription.channel.header[0]", "cannot be given"},
		{"too many headers", channel(header, header+strings.Repeat(`,"X: y"`, 64)), fhir.IssueValue, "Subscription.channel.header", "at most"},

		{"attempts 0", ext(fhir.ExtMaxAttempts, `"valueInteger":0`), fhir.IssueValue, "Subscription.extension[0]", "1 to 18"},
		{"attempts 19", ext(fhir.ExtMaxAttempts, `"valueInteger":19`), fhir.IssueValue, "Subscription.extension[0]", "1 to 18"},
		{"attempts of the wrong type", ext(fhir.ExtMaxAttempts, `"valueBoolean":true`), fhir.IssueValue, "Subscription.extension[0]", "valueInteger"},
		{"attempts with a fraction", ext(fhir.ExtMaxAttempts, `"valueInteger":3.0`), fhir.IssueValue, "Subscription.extension[0]", "whole"},
		{"attempts without a value", ext(fhir.ExtMaxAttempts, `"id":"x"`), fhir.IssueValue, "Subscription.extension[0]", "exactly one value"},
		{"attempts with two values", ext(fhir.ExtMaxAttempts, `"valueInteger":3,"valueString":"3"`), fhir.IssueValue, "Subscription.extension[0]", "exactly one value"},
		{"attempts twice", ext(fhir.ExtMaxAttempts, `"valueInteger":3},{"url":"`+fhir.ExtMaxAttempts+`","valueInteger":4`), fhir.IssueInvariant, "Subscription.extension[1]", "twice"},
		{"retry count negative", ext(fhir.ExtRetryCount, `"valueInteger":-1`), fhir.IssueValue, "Subscription.extension[0]", "whole"},
		{"retry count a word", ext(fhir.ExtRetryCount, `"valueString":"many"`), fhir.IssueValue, "Subscription.extension[0]", "whole"},
		{"FHIRPath criteria at fault", ext(fhir.ExtPathCriteria, `"valueString":"nope"`), fhir.IssueValue, "Subscription.extension[0]", "fault about Patient?"},
		{"FHIRPath criteria empty", ext(fhir.ExtPathCriteria, `"valueString":" "`), fhir.IssueValue, "Subscription.extension[0]", "empty"},
		{"FHIRPath criteria of the wrong type", ext(fhir.ExtPathCriteria, `"valueCode":"true"`), fhir.IssueValue, "Subscription.extension[0]", "valueString"},
		{"FHIRPath criteria twice", ext(fhir.ExtPathCriteria, `"valueString":"true"},{"url":"`+fhir.ExtPathCriteria+`","valueString":"false"`), fhir.IssueInvariant, "Subscription.extension[1]", "twice"},
		{"interaction unknown", ext(fhir.ExtSupportedInteraction, `"valueCode":"banana"`), fhir.IssueValue, "Subscription.extension[0]", "create, update or delete"},
		{"send-delete a word", ext(fhir.ExtSendDelete, `"valueString":"yes"`), fhir.IssueValue, "Subscription.extension[0]", "true or false"},
		{"send-delete a number", ext(fhir.ExtSendDelete, `"valueBoolean":1`), fhir.IssueValue, "Subscription.extension[0]", "valueBoolean"},
		{"style unknown", ext(fhir.ExtRestHookStyle, `"valueCode":"soap"`), fhir.IssueValue, "Subscription.extension[0]", "fhir or webhook"},
		{"order unknown", ext(fhir.ExtOrder, `"valueCode":"none"`), fhir.IssueValue, "Subscription.extension[0]", "resource or strict"},
		{"ours, misspelt", ext("https://carillon-fhir.github.io/StructureDefinition/ordre", `"valueCode":"strict"`), fhir.IssueNotSupported, "Subscription.extension[0]", "not known"},
		{"extension without url", withExtension(t, `{"valueCode":"x"}`), fhir.IssueValue, "Subscription.extension[0]", "url"},
		{"extension not a list", with(t, `"id":"s1"`, `"id":"s1","extension":{}`), fhir.IssueValue, "Subscription.extension", "array"},
		{"honoured extension in meta", with(t, `"id":"s1"`, `"id":"s1","meta":{"extension":[{"url":"`+fhir.ExtSupportedInteraction+`","valueCode":"create"}]}`),
			fhir.IssueValue, "Subscription.meta.extension[0]", "no effect here"},
		{"topic profile", with(t, `"id":"s1"`, `"id":"s1","meta":{"profile":["http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription"]}`),
			fhir.IssueNotSupported, "Subscription.meta.profile[0]", "topic"},
		{"topic filter", with(t, `"id":"s1"`, `"id":"s1","_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria","valueString":"x"}]}`),
			fhir.IssueNotSupported, "Subscription.criteria.extension[0]", "backport-filter-criteria"},
		{"topic content", channel(`"type":"rest-hook"`, `"type":"rest-hook","_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"empty"}]}`),
			fhir.IssueNotSupported, "Subscription.channel.payload.extension[0]", "backport-payload-content"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := parse(t, test.body).Validate(rules)
			refusal := fhir.AsError(err)
			if refusal == nil {
				t.Fatalf("accepted (%v)", err)
			}
			for _, i := range refusal.Issues {
				if i.Type == test.kind && i.Expression == test.expression && strings.Contains(i.Diagnostics, test.says) {
					return
				}
			}
			t.Errorf("refused with %+v, want a %s at %s that says %q", refusal.Issues, test.kind, test.expression, test.says)
		})
	}
}

func TestKnownExtensionsThatAreNotSupportedAreRefusedByName(t *testing.T) {
	for _, url := range []string{
		"https://medplum.com/fhir/StructureDefinition/pre-commit-bot",
		"https://smilecdr.com/fhir/ns/StructureDefinition/subscription-of-tomorrow",
		"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-timeout",
		"http://hl7.org/fhir/subscription/topics",
	} {
		err := parse(t, withExtension(t, fmt.Sprintf(`{"url":%q,"valueString":"hush"}`, url))).Validate(rules)
		refusal := fhir.AsError(err)
		if refusal == nil || len(refusal.Issues) != 1 || refusal.Issues[0].Type != fhir.IssueNotSupported {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if text := refusal.Issues[0].Diagnostics; !strings.Contains(text, url) || strings.Contains(text, "hush") {
			t.Errorf("%s is refused with %q", url, text)
		}
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	err := parse(t, `{"resourceType":"Subscription","id":"ingest","status":"x","criteria":"Nope?",
		"channel":{"type":"rest-hook","endpoint":"ftp://me:pw@example.org/#x","payload":"a/b","header":["a","Host: x"]}}`).Validate(rules)
	var got []string
	for _, i := range fhir.AsError(err).Issues {
		got = append(got, i.Expression)
	}
	want := []string{"Subscription.id", "Subscription.status", "Subscription.criteria", "Subscription.criteria",
		"Subscription.channel.endpoint", "Subscription.channel.endpoint", "Subscription.channel.endpoint",
		"Subscription.channel.payload", "Subscription.channel.header[0]", "Subscription.channel.header[1]"}
	if !slices.Equal(got, want) {
		t.Errorf("said %v, want %v (%v)", got, want, err)
	}
}

func TestNothingSecretIsRepeatedInARefusal(t *testing.T) {
	err := parse(t, `{"resourceType":"Subscription","status":"active","criteria":"Patient?",
		"channel":{"type":"rest-hook","endpoint":"http://me:hush@example.org/hush?key=hush#hush",
		"payload":"hush","header":["hush","Host: hush","X-A: hush\u0001","hush hush: x"]}}`).Validate(rules)
	if err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("the refusal is %v", err)
	}
}

func TestHTTPIsTakenWhereAllowed(t *testing.T) {
	allow := rules
	allow.AllowHTTP = true
	if err := parse(t, with(t, "https://", "HTTP://")).Validate(allow); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoSubscriptionCannotBeRead(t *testing.T) {
	for _, body := range []string{``, `null`, `[]`, `{}`, `{"resourceType":"Patient"}`, `{"resourceType":1}`, `{"resourceType":"Subscription"`} {
		_, err := fhir.ParseSubscription([]byte(body))
		var refusal *fhir.Error
		if !errors.As(err, &refusal) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func FuzzSubscriptionIsReadOrRefused(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"resourceType":"Subscription","_x":[null,{"extension":[1,{"url":1}]}],"meta":1,"channel":{"header":{}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := fhir.ParseSubscription(body)
		if err != nil {
			if fhir.AsError(err) == nil {
				t.Fatalf("%T instead of a refusal", err)
			}
			return
		}
		if err := s.Validate(rules); err != nil && fhir.AsError(err) == nil {
			t.Fatalf("%T instead of a refusal", err)
		}
	})
}

func TestASecretInAMisspeltExtensionIsRefused(t *testing.T) {
	for url, refused := range map[string]bool{
		"https://medplum.com/fhir/StructureDefinition-subscriptionSecret":       true,
		"http://www.medplum.com/fhir/StructureDefinition/subscription-secret":   true,
		"https://www.medplum.com/fhir/StructureDefinition/subscription-secret/": true,
		"https://www.medplum.com/fhir/StructureDefinition/Subscription-Secret":  true,
		fhir.ExtMedplumSecret: false, fhir.ExtMedplumSecretOld: false, fhir.ExtMedplumSecretBare: false, fhir.ExtSecret: false,
		"https://example.org/subscription-secret": false,
	} {
		s, err := fhir.ParseSubscription([]byte(`{"resourceType":"Subscription","status":"requested","criteria":"Patient?","channel":{"type":"rest-hook","endpoint":"https://example.org/"},
"extension":[{"url":"` + url + `","valueString":"canary"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		compile := func(string) error { return nil }
		err = s.Validate(fhir.Rules{Compile: compile})
		if (err != nil) != refused {
			t.Errorf("%s: %v", url, err)
		}
		if err != nil && (strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), fhir.ExtSecret)) {
			t.Errorf("%s: %v", url, err)
		}
	}
}
