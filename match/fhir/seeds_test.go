package fhir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// What the vendors' documents show is accepted as it stands and means what they say, or is refused
// for its own fault.
func TestTheVendorsOwnSubscriptions(t *testing.T) {
	webhook := func(more string) string { return strings.TrimSpace("medplum style=webhook " + more) }
	for _, test := range []struct {
		file    string
		want    string   // what differs from a plain Subscription
		refused []string // elements at fault; none: accepted
	}{
		{"medplum-plain", "", nil},
		{"medplum-extension-added", webhook("attempts=3"), nil},
		{"medplum-max-attempts", webhook("attempts=3"), nil},
		{"medplum-create-only", webhook("hears=[create]"), nil},
		{"medplum-update-only", webhook("hears=[update]"), nil},
		{"medplum-delete-only", webhook("hears=[delete]"), nil},
		{"medplum-secret", webhook("secrets=1"), nil},
		{"medplum-success-codes", webhook("codes=[{200 399} {404 404}]"), nil},
		{"medplum-audit-log", webhook("audit=[log]"), nil},
		{"medplum-audit-both", webhook("audit=[resource log]"), nil},
		{"medplum-expression", webhook("path=%previous.status != %current.status"), nil},
		{"medplum-expression-array", webhook("path=%previous.name != %current.name"), nil},

		{"smile-plain", "", nil},
		{"smile-retry-count", "attempts=5", nil},
		{"smile-payload-search", "search=Observation?_id=${matched_resource_id}&_include=*", nil},
		{"smile-payload-search-message", "search=Observation?_id=${matched_resource_id}&_include=Observation:subject", nil},
		{"smile-replication", "prefix=CDR1-", nil},
		{"smile-strip-version", "strip-version", nil},
		{"smile-latest-version", "latest-version", nil},
		{"smile-deletes", "hears=[create update delete]", []string{"Subscription.channel.endpoint"}},
		{"smile-delivery-class", "class=org.example.ExampleDeliverer", []string{"Subscription.channel.extension[0]"}},
		{"smile-named-channel", "named=MyQueueName", nil},
	} {
		t.Run(test.file, func(t *testing.T) {
			body, err := os.ReadFile(filepath.Join("testdata", "seeds", test.file+".json"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := fhir.ParseSubscription(body)
			if err != nil {
				t.Fatal(err)
			}
			if got := meaning(s); got != test.want {
				t.Errorf("read as %q, want %q", got, test.want)
			}
			r := everything()
			r.AllowHTTP = true
			var at []string
			if refusal := fhir.AsError(s.Validate(r)); refusal != nil {
				for _, i := range refusal.Issues {
					at = append(at, i.Expression)
				}
			}
			if s.Channel.Type == fhir.ChannelMessage && len(at) == 1 && at[0] == "Subscription.channel.type" {
				at = nil // whether a build has the channel is told by another test
			}
			missing := func(element string) bool { return !slices.Contains(at, element) }
			if (len(at) == 0) != (len(test.refused) == 0) || slices.ContainsFunc(test.refused, missing) {
				t.Errorf("refused at %v, want %v", at, test.refused)
			}
		})
	}
}

// meaning says what differs from a plain Subscription.
func meaning(s *fhir.Subscription) string {
	var out []string
	say := func(is bool, format string, args ...any) {
		if is {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	say(s.Medplum, "medplum")
	say(s.Style != "", "style=%s", s.Style)
	say(s.Attempts > 0, "attempts=%d", s.Attempts)
	say(fmt.Sprint(s.Heard()) != "[create update]", "hears=%v", s.Heard())
	say(len(s.Secrets) > 0, "secrets=%d", len(s.Secrets))
	say(len(s.SuccessCodes) > 0, "codes=%v", s.SuccessCodes)
	say(len(s.AuditTo) > 0, "audit=%v", s.AuditTo)
	say(s.Path != "", "path=%s", s.Path)
	say(s.PayloadSearch != "", "search=%s", s.PayloadSearch)
	say(s.StripVersion, "strip-version")
	say(s.LatestVersion, "latest-version")
	say(s.Replication != nil, "prefix=%s", prefixOf(s))
	say(s.DeliveryClass != "", "class=%s", s.DeliveryClass)
	say(s.NamedChannel != "", "named=%s", s.NamedChannel)
	return strings.Join(out, " ")
}

func prefixOf(s *fhir.Subscription) string {
	if s.Replication == nil {
		return ""
	}
	return s.Replication.IDPrefix
}
