package fhir

import (
	"strings"
	"testing"
)

func TestNotesTellWhatMeansSomethingElseHere(t *testing.T) {
	sub := func(extension, channel, rest string) string {
		return `{"resourceType":"Subscription","status":"active","criteria":"Patient?",` + rest + `"extension":[` + extension + `],"channel":{"type":"rest-hook","endpoint":"https://x.example.org","payload":"application/fhir+json",` + channel + `"extension":[]}}`
	}
	hapiCount := `{"url":"` + ExtRetryCount + `","valueString":"3"}`
	medplumMax := `{"url":"` + ExtMaxAttempts + `","valueInteger":3}`
	deletes := `{"url":"` + ExtSupportedInteraction + `","valueCode":"delete"}`
	codes := `{"url":"` + ExtSuccessCodes + `","valueString":"200-399"}`
	for _, c := range []struct {
		name, body string
		from       Origin
		usage      Usage
		want       []string // each is in one note; there are no others
	}{
		{name: "a plain one is what R4 says", body: sub("", "", "")},
		{name: "HAPI's retry count counts otherwise", body: sub(hapiCount, "", ""), want: []string{"make 4", "If-Match"}},
		{name: "one with extensions of both was HAPI's", body: sub(hapiCount+","+deletes, "", ""), want: []string{"make 4", "webhook style"}},
		{name: "Smile CDR without one tries for ever", body: sub("", "", ""), from: OriginHAPI, want: []string{"dead letter", "If-Match"}},
		{name: "HAPI does not look at end", body: sub("", "", `"end":"2099-01-01T00:00:00Z",`), from: OriginHAPI, want: []string{"dead letter", "If-Match", "HAPI does not look at end"}},
		{name: "HAPI's style against a configured one", body: sub("", "", ""), from: OriginHAPI, usage: Usage{Style: StyleWebhook}, want: []string{"dead letter", "webhook style"}},
		{name: "Medplum's limit counts otherwise", body: sub(medplumMax+","+deletes+","+codes, "", ""), want: []string{"makes one more"}},
		{name: "Medplum sends deletes unasked", body: sub(medplumMax+","+codes, "", ""), want: []string{"makes one more", "deletes are not sent"}},
		{name: "Medplum takes redirects", body: sub(medplumMax+","+deletes, "", ""), want: []string{"makes one more", "200 to 299"}},
		{name: "Medplum without its extensions is not known for it", body: sub("", "", ""), from: OriginMedplum, want: []string{"makes five", "deletes are not sent", "requests are PUT", "200 to 299"}},
		{name: "Medplum cuts headers", body: sub(medplumMax+","+deletes+","+codes, `"header":["X-Url: http://x:1"],`, ""), want: []string{"makes one more", "first colon"}},
		{name: "what selects nothing", body: strings.Replace(sub("", "", ""), "Patient?", "Patient?_sort=name&active=true&_include=Patient:link", 1), want: []string{"_include, _sort has no effect"}},
		{name: "what is no Subscription has none", body: `{}`},
	} {
		if c.usage.Style == "" {
			c.usage.Style = StyleFHIR
		}
		got := Notes([]byte(c.body), c.from, c.usage)
		if len(got) != len(c.want) {
			t.Errorf("%s: %d notes, want %d: %+v", c.name, len(got), len(c.want), got)
			continue
		}
		for i, n := range got {
			if n.Type != IssueInformational || !strings.Contains(n.Diagnostics, c.want[i]) {
				t.Errorf("%s: %+v, want %q", c.name, n, c.want[i])
			}
		}
	}
}
