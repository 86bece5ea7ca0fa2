package fhir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// IssueInformational is the type of what is no fault: how something is understood.
const IssueInformational IssueType = "informational"

// TagOwnRecord is the system of the meta.tag by which AuditEvents are known that this server wrote itself.
const TagOwnRecord = carillon + "own-record"

// Origin is the product that a Subscription was written for.
type Origin string

// The origins. Where it is not said, it is judged by the extensions that a Subscription has.
const (
	OriginUnknown Origin = ""
	OriginHAPI    Origin = "hapi" // HAPI FHIR and Smile CDR
	OriginMedplum Origin = "medplum"
)

// Usage is how this server is configured, as far as it decides what a Subscription means.
type Usage struct {
	Style    Style // where a Subscription says none
	Attempts int   // where a Subscription says none
}

// Notes lists in what a Subscription that is accepted here means something else than on the server it was
// written for: each an issue of type informational, with the way to have it as it was, where there is one.
// What that server would do is what its source code does, where that and its documents differ.
func Notes(body []byte, from Origin, usage Usage) []Issue {
	s, err := ParseSubscription(body)
	if err != nil {
		return nil
	}
	n := &notes{Subscription: s, usage: usage, given: extensionsOf(body), from: from}
	if n.from == OriginUnknown {
		n.from = n.judged()
	}
	n.attempts()
	n.criteria()
	switch n.from {
	case OriginMedplum:
		n.medplum()
	case OriginHAPI:
		n.hapi()
	}
	if s.CrossPartition {
		n.add("Subscription.extension", "%s has no effect: there are no partitions here, and every resource is matched", ExtCrossPartition)
	}
	return n.issues
}

type notes struct {
	*Subscription
	usage  Usage
	given  map[string]string // value of each extension, by its url
	from   Origin
	issues []Issue
}

func (n *notes) add(at, format string, args ...any) {
	n.issues = append(n.issues, Issue{Type: IssueInformational, Expression: at, Diagnostics: fmt.Sprintf(format, args...)})
}

// extensionsOf reads the extensions of a Subscription and of its channel.
func extensionsOf(body []byte) map[string]string {
	type holder struct {
		Extension []map[string]any `json:"extension"`
	}
	var s struct {
		holder
		Channel holder `json:"channel"`
	}
	given := map[string]string{}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if dec.Decode(&s) != nil {
		return given
	}
	for _, x := range append(s.Extension, s.Channel.Extension...) {
		name, _ := x["url"].(string)
		for key, v := range x {
			if strings.HasPrefix(key, "value") {
				given[name] = fmt.Sprint(v)
			}
		}
		if _, ok := given[name]; !ok {
			given[name] = ""
		}
	}
	return given
}

// judged tells the origin by the extensions, which no other product writes. One that has those of both
// was written for HAPI: Medplum would not have acted on HAPI's.
func (n *notes) judged() Origin {
	for name := range n.given {
		if strings.HasPrefix(name, hapi) || strings.HasPrefix(name, smile) {
			return OriginHAPI
		}
	}
	if n.Medplum {
		return OriginMedplum
	}
	return OriginUnknown
}

func (n *notes) attempts() {
	_, max := n.given[ExtMaxAttempts]
	_, count := n.given[ExtRetryCount]
	switch {
	case max:
		n.add("Subscription.extension", "subscription-max-attempts %d means so many attempts in all, as Medplum's documents say; its server makes one more", n.Attempts)
	case count:
		given, _ := strconv.Atoi(n.given[ExtRetryCount])
		n.add("Subscription.channel.extension", "subscription-delivery-retry-count %d means %d attempts in all; HAPI and Smile CDR make %d: give that number to have as many", given, n.Attempts, given+1)
	case n.from == OriginHAPI:
		n.add("Subscription.channel", "after %d attempts (delivery.retry.attempts) a notification becomes a dead letter, which can be replayed, and later ones go on; "+
			"without a retry count Smile CDR tries until it is accepted, and HAPI for about a minute", n.usage.Attempts)
	case n.from == OriginMedplum:
		n.add("Subscription.channel", "after %d attempts (delivery.retry.attempts) a notification becomes a dead letter, which can be replayed; Medplum makes five and drops it", n.usage.Attempts)
	}
}

// withoutEffect are parameters of a criteria that shape the answer to a search and select nothing.
var withoutEffect = []string{"_sort", "_count", "_offset", "_total", "_summary", "_include", "_revinclude", "_elements", "_format", "_pretty", "_fields", "_cursor"}

func (n *notes) criteria() {
	const at = "Subscription.criteria"
	_, query, _ := strings.Cut(n.Criteria, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return
	}
	var idle []string
	for name := range values {
		if base, _, _ := strings.Cut(name, ":"); slices.Contains(withoutEffect, base) {
			idle = append(idle, base)
		}
	}
	slices.Sort(idle)
	if idle = slices.Compact(idle); len(idle) > 0 {
		n.add(at, "%s has no effect: it selects no events", strings.Join(idle, ", "))
	}
}

func (n *notes) medplum() {
	const at = "Subscription.channel"
	if len(n.Interactions) == 0 && !n.SendDelete {
		n.add("Subscription.extension", "deletes are not sent: Medplum sends them where no %s is given; add it with create, update and delete to have them", ExtSupportedInteraction)
	}
	if n.Channel.Type == ChannelRestHook {
		if !n.Medplum && n.style() == StyleFHIR {
			n.add(at, "requests are PUT {endpoint}/{Type}/{id}; Medplum posts to the endpoint as it stands: add the extension %s with webhook, or configure delivery.rest_hook.style", ExtRestHookStyle)
		}
		if len(n.SuccessCodes) == 0 {
			n.add(at, "only the statuses 200 to 299 count as delivered, and redirects are not followed; Medplum takes 200 to 399: add %s to have others", ExtSuccessCodes)
		}
	}
	for i, line := range n.Channel.Headers {
		if _, value, ok := SplitHeader(line); ok && strings.Contains(value, ":") {
			n.add(fmt.Sprintf("Subscription.channel.header[%d]", i), "the value is sent whole; Medplum cuts it at its first colon")
		}
	}
	if strings.Contains(n.Criteria, "?") && !strings.HasSuffix(n.Criteria, "?") {
		n.add("Subscription.criteria", "parameters are matched as FHIR has it: strings by their beginning, references by bare ids too, numbers and quantities as well; "+
			"Medplum matches any part of a string and never a number: use :contains for a part. Try it with carillon explain")
	}
	if !n.End.IsZero() {
		n.add("Subscription.end", "the Subscription ends then; Medplum does not look at end")
	}
}

// style is the dialect of the requests.
func (n *notes) style() Style {
	if n.Style != "" {
		return n.Style
	}
	return n.usage.Style
}

func (n *notes) hapi() {
	const at = "Subscription.channel"
	switch n.Channel.Type {
	case ChannelRestHook:
		switch {
		case n.style() == StyleWebhook:
			n.add(at, "requests are POST to the endpoint as it stands, in webhook style; HAPI puts to {endpoint}/{Type}/{id}: add the extension %s with fhir, or configure delivery.rest_hook.style", ExtRestHookStyle)
		case n.Channel.ContentType() == "":
			n.add(at, "the status of the answer is looked at; HAPI takes any answer to a notification without payload for success")
		default:
			n.add(at, "no If-Match is sent, which HAPI sends with the version: a receiver that has another version of the resource takes the new one")
		}
	case ChannelEmail:
		n.add(at, "no part of the resource is in the subject of a mail, and none in its text unless it is asked for by payload")
	}
	if !n.End.IsZero() {
		n.add("Subscription.end", "the Subscription ends then; HAPI does not look at end")
	}
}
