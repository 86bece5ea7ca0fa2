package fhir_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// everything is rules that know a search and a deliverer.
func everything() fhir.Rules {
	r := rules
	r.PayloadSearch = func(search, criteria string) error {
		_, err := fhir.ExpandPayloadSearch(search, fhir.Key{Type: "Patient", ID: "1"})
		return err
	}
	r.DeliveryClass = func(name string) error {
		if name != "org.example.Known" {
			return fhir.Refuse(fhir.IssueNotSupported, "", "there is no deliverer of that name")
		}
		return nil
	}
	return r
}

func x(url, value string) string { return fmt.Sprintf(`{"url":%q,%s}`, url, value) }

// Every extension of the vendors, at both places, as the typed value and as the string that their
// documents show.
func TestVendorsExtensionsAreHonoured(t *testing.T) {
	replicate := x(fhir.ExtReplicate, `"valueBoolean":true`)
	for _, test := range []struct {
		name       string
		extensions string
		got        func(*fhir.Subscription) any
		want       any
	}{
		{"no secret", "", secrets, []string(nil)},
		{"Medplum's secret", x(fhir.ExtMedplumSecret, `"valueString":"abc"`), secrets, []string{"abc"}},
		{"Medplum's secret in the old spelling", x(fhir.ExtMedplumSecretOld, `"valueString":"abc"`), secrets, []string{"abc"}},
		{"Medplum's secret without www", x(fhir.ExtMedplumSecretBare, `"valueString":"abc"`), secrets, []string{"abc"}},
		{"one secret in all spellings", x(fhir.ExtMedplumSecretOld, `"valueString":"abc"`) + "," + x(fhir.ExtMedplumSecret, `"valueString":"abc"`) + "," + x(fhir.ExtSecret, `"valueString":"abc"`), secrets, []string{"abc"}},
		{"several secrets, as written", x(fhir.ExtSecret, `"valueString":"new"`) + "," + x(fhir.ExtMedplumSecret, `"valueString":"abc"`) + "," + x(fhir.ExtSecret, `"valueString":"older"`), secrets, []string{"new", "abc", "older"}},
		{"Medplum's secret makes a webhook", x(fhir.ExtMedplumSecretOld, `"valueString":"abc"`), style, fhir.StyleWebhook},
		{"our own secret makes none", x(fhir.ExtSecret, `"valueString":"abc"`), style, fhir.Style("")},
		{"Medplum is known by its extensions", x(fhir.ExtAuditDestination, `"valueCode":"log"`), isMedplum, true},
		{"and by nothing else", replicate, isMedplum, false},

		{"no success codes", "", codes, []fhir.StatusRange(nil)},
		{"success codes as documented", x(fhir.ExtSuccessCodes, `"valueString":"200-399,404"`), codes, []fhir.StatusRange{{From: 200, To: 399}, {From: 404, To: 404}}},
		{"success codes with spaces", x(fhir.ExtSuccessCodes, `"valueString":" 200 , 201,410 - 600 "`), codes, []fhir.StatusRange{{From: 200, To: 200}, {From: 201, To: 201}, {From: 410, To: 600}}},
		{"no audit destination", "", audit, []string(nil)},
		{"an audit destination", x(fhir.ExtAuditDestination, `"valueCode":"log"`), audit, []string{"log"}},
		{"both, one of them twice", x(fhir.ExtAuditDestination, `"valueCode":"resource"`) + "," + x(fhir.ExtAuditDestination, `"valueString":"log"`) + "," + x(fhir.ExtAuditDestination, `"valueCode":"log"`), audit, []string{"resource", "log"}},

		{"a payload search", x(fhir.ExtPayloadSearch, `"valueString":"Patient?_id=${matched_resource_id}&_include=*"`), func(s *fhir.Subscription) any { return s.PayloadSearch }, "Patient?_id=${matched_resource_id}&_include=*"},
		{"no version", x(fhir.ExtStripVersion, `"valueBoolean":true`), func(s *fhir.Subscription) any { return s.StripVersion }, true},
		{"no version, as a string", x(fhir.ExtStripVersion, `"valueString":"true"`), func(s *fhir.Subscription) any { return s.StripVersion }, true},
		{"with the version", x(fhir.ExtStripVersion, `"valueBoolean":"false"`), func(s *fhir.Subscription) any { return s.StripVersion }, false},
		{"the latest version", x(fhir.ExtLatestVersion, `"valueBoolean":"true"`), func(s *fhir.Subscription) any { return s.LatestVersion }, true},
		{"cross-partition", x(fhir.ExtCrossPartition, `"valueBoolean":true`), func(s *fhir.Subscription) any { return s.CrossPartition }, true},
		{"not cross-partition", x(fhir.ExtCrossPartition, `"valueBoolean":false`), func(s *fhir.Subscription) any { return s.CrossPartition }, false},
		{"email from", x(fhir.ExtEmailFrom, `"valueString":"mailto:a@example.org"`), func(s *fhir.Subscription) any { return s.EmailFrom }, "mailto:a@example.org"},
		{"email subject", x(fhir.ExtEmailSubject, `"valueString":"News"`), func(s *fhir.Subscription) any { return s.EmailSubject }, "News"},
		{"a named channel", x(fhir.ExtNamedChannel, `"valueString":"MyQueueName"`), func(s *fhir.Subscription) any { return s.NamedChannel }, "MyQueueName"},
		{"a delivery class that there is", x(fhir.ExtDeliveryClass, `"valueString":"org.example.Known"`), func(s *fhir.Subscription) any { return s.DeliveryClass }, "org.example.Known"},

		{"no replication", "", replication, "none"},
		{"replication off", x(fhir.ExtReplicate, `"valueBoolean":false`), replication, "none"},
		{"replication off, options and all", x(fhir.ExtReplicate, `"valueBoolean":false`) + "," + x(fhir.ExtReplicatePrefix, `"valueString":"P-"`), replication, "none"},
		{"replication by itself", replicate, replication, "+ - -base"},
		{"a prefix", replicate + "," + x(fhir.ExtReplicatePrefix, `"valueString":"CDR1-"`), replication, "+CDR1- - -base"},
		{"a prefix with its selector", replicate + "," + x(fhir.ExtReplicatePrefix, `"valueString":"P-"`) + "," + x(fhir.ExtReplicateSelector, `"valueString":"[a-zA-Z]+/[0-9]+"`), replication, `+P- \A(?:[a-zA-Z]+/[0-9]+)\z - -base`},
		{"prefixes to strip", x(fhir.ExtReplicateStripPrefix, `"valueString":"P-"`) + "," + replicate, replication, "+ -P- -base"},
		{"a base to strip", replicate + "," + x(fhir.ExtReplicateStripBase, `"valueUri":"https://a.example/fhir//"`), replication, "+ - -basehttps://a.example/fhir"},
	} {
		bodies := map[string]string{
			"on the Subscription": withExtension(t, test.extensions),
			"on the channel":      with(t, `"type":"rest-hook",`, `"type":"rest-hook","extension":[`+test.extensions+`],`),
		}
		for place, body := range bodies {
			t.Run(test.name+" "+place, func(t *testing.T) {
				s := parse(t, body)
				if err := s.Validate(everything()); err != nil {
					t.Fatal(err)
				}
				if got := test.got(s); !reflect.DeepEqual(got, test.want) {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		}
	}
}

func secrets(s *fhir.Subscription) any   { return s.Secrets }
func codes(s *fhir.Subscription) any     { return s.SuccessCodes }
func audit(s *fhir.Subscription) any     { return s.AuditTo }
func isMedplum(s *fhir.Subscription) any { return s.Medplum }

func replication(s *fhir.Subscription) any {
	r := s.Replication
	if r == nil {
		return "none"
	}
	selector := ""
	if r.Selector != nil {
		selector = " " + r.Selector.String()
	}
	return fmt.Sprintf("+%s%s -%s -base%s", r.IDPrefix, selector, r.StripIDPrefix, r.StripBaseURL)
}

func TestVendorsExtensionsWithBadValuesAreRefused(t *testing.T) {
	replicate := x(fhir.ExtReplicate, `"valueBoolean":true`) + ","
	for _, test := range []struct {
		name, extensions string
		kind             fhir.IssueType
		at               int
		says             string
	}{
		{"secret empty", x(fhir.ExtSecret, `"valueString":""`), fhir.IssueValue, 0, "empty"},
		{"secret no string", x(fhir.ExtMedplumSecret, `"valueCode":"hush"`), fhir.IssueValue, 0, "valueString"},
		{"secret too long", x(fhir.ExtSecret, `"valueString":"`+strings.Repeat("hush", 300)+`"`), fhir.IssueValue, 0, "longer"},
		{"too many secrets", x(fhir.ExtSecret, `"valueString":"1"`) + "," + x(fhir.ExtSecret, `"valueString":"2"`) + "," + x(fhir.ExtSecret, `"valueString":"3"`) + "," + x(fhir.ExtSecret, `"valueString":"4"`) + "," + x(fhir.ExtSecret, `"valueString":"hush"`), fhir.IssueValue, 4, "at most 4"},

		{"success codes empty", x(fhir.ExtSuccessCodes, `"valueString":""`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes with a word", x(fhir.ExtSuccessCodes, `"valueString":"200,ok"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes with an empty part", x(fhir.ExtSuccessCodes, `"valueString":"200,,201"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes with a comma at the end", x(fhir.ExtSuccessCodes, `"valueString":"200,"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes backwards", x(fhir.ExtSuccessCodes, `"valueString":"299-200"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes half a range", x(fhir.ExtSuccessCodes, `"valueString":"200-"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes of three ends", x(fhir.ExtSuccessCodes, `"valueString":"200-300-400"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes of two digits", x(fhir.ExtSuccessCodes, `"valueString":"20"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes of four digits", x(fhir.ExtSuccessCodes, `"valueString":"2000"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes below the first", x(fhir.ExtSuccessCodes, `"valueString":"099"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes with a sign", x(fhir.ExtSuccessCodes, `"valueString":"+20"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes as a number", x(fhir.ExtSuccessCodes, `"valueInteger":200`), fhir.IssueValue, 0, "valueString"},
		{"success codes without end", x(fhir.ExtSuccessCodes, `"valueString":"200`+strings.Repeat(",201", 100)+`"`), fhir.IssueValue, 0, "200-399,404"},
		{"success codes twice", x(fhir.ExtSuccessCodes, `"valueString":"200"`) + "," + x(fhir.ExtSuccessCodes, `"valueString":"201"`), fhir.IssueInvariant, 1, "twice"},
		{"audit destination unknown", x(fhir.ExtAuditDestination, `"valueCode":"both"`), fhir.IssueValue, 0, "resource or log"},

		{"payload search empty", x(fhir.ExtPayloadSearch, `"valueString":" "`), fhir.IssueValue, 0, "empty"},
		{"payload search with an unknown placeholder", x(fhir.ExtPayloadSearch, `"valueString":"Patient?_id=${id}"`), fhir.IssueValue, 0, "${id} is no placeholder"},
		{"strip version a word", x(fhir.ExtStripVersion, `"valueString":"yes"`), fhir.IssueValue, 0, "true or false"},
		{"latest version a number", x(fhir.ExtLatestVersion, `"valueInteger":1`), fhir.IssueValue, 0, "valueBoolean"},
		{"cross-partition a word", x(fhir.ExtCrossPartition, `"valueString":"all"`), fhir.IssueValue, 0, "true or false"},
		{"email from with a line break", x(fhir.ExtEmailFrom, `"valueString":"a@example.org\r\nBcc: b@example.org"`), fhir.IssueValue, 0, "control"},
		{"email subject with a line break", x(fhir.ExtEmailSubject, `"valueString":"News\nBcc: b@example.org"`), fhir.IssueValue, 0, "control"},
		{"email subject without end", x(fhir.ExtEmailSubject, `"valueString":"`+strings.Repeat("x", 1001)+`"`), fhir.IssueValue, 0, "longer"},
		{"named channel of two parts", x(fhir.ExtNamedChannel, `"valueString":"a.b"`), fhir.IssueValue, 0, "letters"},
		{"named channel a wildcard", x(fhir.ExtNamedChannel, `"valueString":">"`), fhir.IssueValue, 0, "letters"},
		{"named channel empty", x(fhir.ExtNamedChannel, `"valueString":""`), fhir.IssueValue, 0, "letters"},
		{"delivery class unknown", x(fhir.ExtDeliveryClass, `"valueString":"org.example.ExampleDeliverer"`), fhir.IssueNotSupported, 0, "no deliverer"},
		{"an option of Smile CDR that nobody documents", x("https://smilecdr.com/fhir/ns/StructureDefinition/subscription-partition", `"valueString":"1"`), fhir.IssueNotSupported, 0, "not supported"},

		{"prefix without the mode", x(fhir.ExtReplicatePrefix, `"valueString":"P-"`), fhir.IssueInvariant, 0, fhir.ExtReplicate},
		{"selector without the mode", x(fhir.ExtReplicateSelector, `"valueString":".*"`), fhir.IssueInvariant, 0, fhir.ExtReplicate},
		{"strip prefix without the mode", x(fhir.ExtReplicateStripPrefix, `"valueString":"P-"`), fhir.IssueInvariant, 0, fhir.ExtReplicate},
		{"strip base without the mode", x(fhir.ExtReplicateStripBase, `"valueString":"http://a.example"`), fhir.IssueInvariant, 0, fhir.ExtReplicate},
		{"mode a word", x(fhir.ExtReplicate, `"valueString":"on"`), fhir.IssueValue, 0, "true or false"},
		{"prefix no part of an id", replicate + x(fhir.ExtReplicatePrefix, `"valueString":"P/"`), fhir.IssueValue, 1, "letters"},
		{"prefix that leaves no room", replicate + x(fhir.ExtReplicatePrefix, `"valueString":"`+strings.Repeat("P", 64)+`"`), fhir.IssueValue, 1, "63"},
		{"selector with a look-ahead", replicate + x(fhir.ExtReplicateSelector, `"valueString":"(?!Patient).*"`), fhir.IssueValue, 1, "regular expression"},
		{"selector that breaks out of its anchors", replicate + x(fhir.ExtReplicateSelector, `"valueString":"a)|(b"`), fhir.IssueValue, 1, "regular expression"},
		{"selector empty", replicate + x(fhir.ExtReplicateSelector, `"valueString":""`), fhir.IssueValue, 1, "regular expression"},
		{"strip base relative", replicate + x(fhir.ExtReplicateStripBase, `"valueString":"/fhir"`), fhir.IssueValue, 1, "base URL"},
		{"strip base with a query", replicate + x(fhir.ExtReplicateStripBase, `"valueString":"https://a.example/fhir?x=1"`), fhir.IssueValue, 1, "base URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refusal := fhir.AsError(parse(t, withExtension(t, test.extensions)).Validate(everything()))
			if refusal == nil {
				t.Fatal("accepted")
			}
			at := fmt.Sprintf("Subscription.extension[%d]", test.at)
			said := func(i fhir.Issue) bool {
				return i.Type == test.kind && i.Expression == at && strings.Contains(i.Diagnostics, test.says)
			}
			if !slices.ContainsFunc(refusal.Issues, said) {
				t.Errorf("refused with %+v, want a %s at %s that says %q", refusal.Issues, test.kind, at, test.says)
			}
			if strings.Contains(refusal.Error(), "hush") {
				t.Errorf("a secret is repeated: %v", refusal)
			}
		})
	}
}

func TestWhatNobodyHereCanDoIsRefused(t *testing.T) {
	for url, value := range map[string]string{fhir.ExtPayloadSearch: "Patient?", fhir.ExtDeliveryClass: "org.example.ExampleDeliverer"} {
		refusal := fhir.AsError(parse(t, withExtension(t, x(url, fmt.Sprintf(`"valueString":%q`, value)))).Validate(rules))
		if refusal == nil || refusal.Issues[0].Type != fhir.IssueNotSupported || refusal.Issues[0].Expression != "Subscription.extension[0]" {
			t.Errorf("%s: %v", url, refusal)
		}
	}
}

func TestExtensionsWithoutEffectAreDoubted(t *testing.T) {
	for _, test := range []struct {
		name, extensions string
		doubts           int
	}{
		{"an email's subject on a rest-hook", x(fhir.ExtEmailSubject, `"valueString":"News"`), 1},
		{"an email's sender on a rest-hook", x(fhir.ExtEmailFrom, `"valueString":"a@example.org"`), 1},
		{"cross-partition", x(fhir.ExtCrossPartition, `"valueBoolean":true`), 1},
		{"not cross-partition", x(fhir.ExtCrossPartition, `"valueBoolean":false`), 0},
		{"a selector of no prefix", x(fhir.ExtReplicate, `"valueBoolean":true`) + "," + x(fhir.ExtReplicateSelector, `"valueString":".*"`), 1},
		{"a selector of a prefix", x(fhir.ExtReplicate, `"valueBoolean":true`) + "," + x(fhir.ExtReplicatePrefix, `"valueString":"P-"`) + "," + x(fhir.ExtReplicateSelector, `"valueString":".*"`), 0},
		{"success codes on a rest-hook", x(fhir.ExtSuccessCodes, `"valueString":"200"`), 0},
		{"a secret on a rest-hook", x(fhir.ExtSecret, `"valueString":"hush"`), 0},
		{"a secret where a program delivers", x(fhir.ExtSecret, `"valueString":"hush"`) + "," + x(fhir.ExtDeliveryClass, `"valueString":"org.example.Known"`), 1},
		{"misspelt ones of the vendors'", x("https://medplum.com/fhir/StructureDefinition/subscription-max-attemps", `"valueInteger":2`) + "," +
			x("https://www.medplum.com/fhir/StructureDefinition/subscription-max-attempts", `"valueInteger":2`) + "," +
			x("https://hapifhir.io/fhir/StructureDefinition/subscription-send-delete-messages", `"valueBoolean":true`), 3},
		{"others of theirs, and others'", x("https://medplum.com/fhir/StructureDefinition/tracing", `"valueString":"x"`) + "," + x("http://example.org/subscription-x", `"valueString":"x"`), 0},
	} {
		s := parse(t, withExtension(t, test.extensions))
		if err := s.Validate(everything()); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if got := s.Doubts(); len(got) != test.doubts {
			t.Errorf("%s: doubts %+v", test.name, got)
		}
	}
}

func TestExtensionsOfRestHooksAreDoubtedOnOtherChannels(t *testing.T) {
	all := x(fhir.ExtMedplumSecretOld, `"valueString":"hush"`) + "," + x(fhir.ExtRestHookStyle, `"valueCode":"webhook"`) + "," + x(fhir.ExtSuccessCodes, `"valueString":"200"`) + "," + x(fhir.ExtStripVersion, `"valueBoolean":true`) + "," + x(fhir.ExtReplicate, `"valueBoolean":true`) + "," + x(fhir.ExtEmailSubject, `"valueString":"News"`)
	for channel, doubts := range map[string]int{"rest-hook": 1, "websocket": 6, "message": 4, "email": 3, "sms": 6} {
		s := parse(t, strings.Replace(withExtension(t, all), `"type":"rest-hook"`, `"type":"`+channel+`"`, 1))
		if got := s.Doubts(); len(got) != doubts {
			t.Errorf("%s: doubts %+v", channel, got)
		}
	}
}

func TestDeliveredIs2xxUnlessCodesSayOtherwise(t *testing.T) {
	listed := &fhir.Subscription{SuccessCodes: []fhir.StatusRange{{From: 300, To: 399}, {From: 404, To: 404}}}
	for status, want := range map[int][2]bool{199: {false, false}, 200: {true, false}, 299: {true, false}, 300: {false, true}, 399: {false, true}, 400: {false, false}, 404: {false, true}} {
		if got := [2]bool{(*fhir.Subscription)(nil).Delivered(status), listed.Delivered(status)}; got != want {
			t.Errorf("%d: %v, want %v", status, got, want)
		}
	}
}

func TestPlaceholdersOfAPayloadSearch(t *testing.T) {
	got, err := fhir.ExpandPayloadSearch("${matched_resource_type}?_id=${matched_resource_id_part}&x=${matched_resource_id},${matched_resource_id}", fhir.Key{Type: "Patient", ID: "a.1"})
	if want := "Patient?_id=a.1&x=Patient/a.1,Patient/a.1"; got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := fhir.ExpandPayloadSearch("Patient?_id=${matched", fhir.Key{Type: "Patient", ID: "1"}); err == nil {
		t.Error("half a placeholder was taken")
	}
}
