package fhir

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The extensions of a Subscription that this version honours, on the Subscription or on its
// channel alike: HAPI, Smile CDR and Medplum differ on where they belong, and their documents
// differ from their code.
const (
	ExtSupportedInteraction = medplum + "subscription-supported-interaction"
	ExtMaxAttempts          = medplum + "subscription-max-attempts"
	ExtPathCriteria         = medplum + "fhir-path-criteria-expression"
	ExtSendDelete           = hapi + "subscription-send-delete-messages"
	ExtRetryCount           = hapi + "subscription-delivery-retry-count"
	ExtRestHookStyle        = carillon + "rest-hook-style"
	ExtOrder                = carillon + "order"
)

const (
	medplum  = "https://medplum.com/fhir/StructureDefinition/"
	hapi     = "http://hapifhir.io/fhir/StructureDefinition/"
	carillon = "https://carillon-fhir.github.io/StructureDefinition/"
	backport = "http://hl7.org/fhir/uv/subscriptions-backport/"
)

// unsupported are extensions whose meaning is known and which this version does not act on.
// They are refused: a Subscription that is accepted without its secret or its filter would
// send what its author did not want sent. A name that ends in '/' or '.' stands for all that
// begin with it.
var unsupported = []struct{ url, what string }{
	{"https://www.medplum.com/fhir/StructureDefinition/subscription-secret", "signed notifications are"},
	{"https://www.medplum.com/fhir/StructureDefinition-subscriptionSecret", "signed notifications are"},
	{medplum + "subscription-secret", "signed notifications are"},
	{medplum + "subscription-success-codes", "own success codes are"},
	{medplum + "subscription-audit-event-destination", "a choice of where attempts are recorded is"},
	{medplum + "pre-commit-bot", "a bot that runs before the write is"},
	{hapi + "subscription-payload-search-criteria", "a search result as payload is"},
	{hapi + "subscription-resthook-strip-version-ids", "leaving out the version is"},
	{hapi + "subscription-resthook-deliver-latest-version", "sending the newest version is"},
	{hapi + "subscription-email-from", "the email channel is"},
	{hapi + "subscription-email-subject-template", "the email channel is"},
	{"https://smilecdr.com/", "Smile CDR's own delivery options are"},
	{"http://smilecdr.com/", "Smile CDR's own delivery options are"},
	{backport, "a topic-based Subscription is"},
	{"http://hl7.org/fhir/subscription/topics", "a topic-based Subscription is"},
	{"http://hl7.org/fhir/5.0/StructureDefinition/extension-Subscription.", "a topic-based Subscription is"},
}

// unsupportedExtension says what of an extension this version does not do; empty if it is not
// one of those.
func unsupportedExtension(url string) string {
	for _, u := range unsupported {
		prefix := strings.HasSuffix(u.url, "/") || strings.HasSuffix(u.url, ".")
		if url == u.url || prefix && strings.HasPrefix(url, u.url) {
			return u.what
		}
	}
	return ""
}

func honouredExtension(url string) bool {
	switch url {
	case ExtSupportedInteraction, ExtMaxAttempts, ExtPathCriteria, ExtSendDelete, ExtRetryCount, ExtRestHookStyle, ExtOrder:
		return true
	}
	return false
}

// extensions reads the extensions of an element. Honoured ones count only where honour is set;
// elsewhere they are refused, since they would have no effect there.
func (r *reader) extensions(obj map[string]any, at string, honour bool) {
	if _, ok := obj["modifierExtension"]; ok {
		r.refuse(IssueNotSupported, at+".modifierExtension", "a modifier extension changes the meaning of the resource, and none is understood here; leave it out")
	}
	v, present := obj["extension"]
	if !present {
		return
	}
	list, ok := v.([]any)
	if !ok {
		r.refuse(IssueValue, at+".extension", "extension must be an array of objects with url and a value")
		return
	}
	for i, e := range list {
		at := fmt.Sprintf("%s.extension[%d]", at, i)
		x, _ := e.(map[string]any)
		url, _ := x["url"].(string)
		if url == "" {
			r.refuse(IssueValue, at, "an extension needs a url")
			continue
		}
		r.extension(extension{at: at, url: url, members: x}, honour)
	}
}

// siblings reads the extensions of primitive elements, which stand in members with a leading
// underscore (FHIR R4 2.6.2.3).
func (r *reader) siblings(obj map[string]any, at string) {
	for _, key := range sortedKeys(obj) {
		name, ok := strings.CutPrefix(key, "_")
		if !ok {
			continue
		}
		elements := []any{obj[key]}
		if list, ok := obj[key].([]any); ok {
			elements = list
		}
		for _, e := range elements {
			if m, ok := e.(map[string]any); ok {
				r.extensions(m, at+"."+name, false)
			}
		}
	}
}

// meta refuses what makes the Subscription one of another kind, and extensions that somebody
// put there by mistake, where every server ignores them.
func (r *reader) meta(root map[string]any) {
	meta, ok := root["meta"].(map[string]any)
	if !ok {
		return
	}
	r.extensions(meta, "Subscription.meta", false)
	profiles, _ := meta["profile"].([]any)
	for i, p := range profiles {
		if url, _ := p.(string); strings.HasPrefix(url, backport) {
			r.refuse(IssueNotSupported, fmt.Sprintf("Subscription.meta.profile[%d]", i),
				"profile %s: a topic-based Subscription is not supported by this version; write a search criteria", clip(url))
		}
	}
}

// extension is one extension in its place.
type extension struct {
	at      string
	url     string
	members map[string]any
}

func (r *reader) extension(x extension, honour bool) {
	if strings.HasPrefix(x.url, medplum) || strings.HasPrefix(x.url, "https://www.medplum.com/") {
		r.medplum = true
	}
	switch what := unsupportedExtension(x.url); {
	case what != "" && x.members["valueBoolean"] == false:
		// Switched off: it asks for nothing.
	case what != "":
		r.refuse(IssueNotSupported, x.at, "extension %s: %s not supported by this version", clip(x.url), what)
	case !honouredExtension(x.url):
		if strings.HasPrefix(x.url, carillon) {
			r.refuse(IssueNotSupported, x.at, "extension %s is not known to this version; %s and %s are", clip(x.url), ExtRestHookStyle, ExtOrder)
		}
	case !honour:
		r.refuse(IssueValue, x.at, "extension %s has no effect here; put it into Subscription.extension or Subscription.channel.extension", x.url)
	default:
		r.honour(x)
	}
}

// honour applies an extension. Its value may be the typed element or the string that the
// products' documents show.
func (r *reader) honour(x extension) {
	s := r.sub
	value, ok := r.value(x)
	if !ok {
		return
	}
	if x.url != ExtSupportedInteraction {
		if before, given := r.given[x.url]; given && before != value {
			r.refuse(IssueInvariant, x.at, "extension %s is given twice with different values", x.url)
			return
		}
		r.given[x.url] = value
	}
	switch x.url {
	case ExtSupportedInteraction:
		switch i := Interaction(value); {
		case i != Create && i != Update && i != Delete:
			r.refuse(IssueValue, x.at, "extension %s: the value must be create, update or delete", x.url)
		case !slices.Contains(s.Interactions, i):
			s.Interactions = append(s.Interactions, i)
		}
	case ExtPathCriteria:
		s.Path, s.pathAt = value, x.at
		if strings.TrimSpace(value) == "" {
			r.refuse(IssueValue, x.at, "extension %s: the expression is empty", x.url)
		}
	case ExtMaxAttempts:
		s.Attempts = r.integer(x, value, 1, 18)
	case ExtRetryCount:
		r.hapiTry = max(1, r.integer(x, value, 0, math.MaxInt32))
	case ExtSendDelete:
		if value != "true" && value != "false" {
			r.refuse(IssueValue, x.at, "extension %s: the value must be true or false", x.url)
		}
		s.SendDelete = value == "true"
	case ExtRestHookStyle:
		s.Style = Style(r.code(x, value, string(StyleFHIR), string(StyleWebhook)))
	case ExtOrder:
		s.Order = Order(r.code(x, value, string(OrderResource), string(OrderStrict)))
	}
}

// value finds the one value[x] of a simple extension and gives its text.
func (r *reader) value(x extension) (string, bool) {
	var kind string
	values := 0
	for key := range x.members {
		if strings.HasPrefix(key, "value") {
			kind, values = key, values+1
		}
	}
	if values != 1 {
		r.refuse(IssueValue, x.at, "extension %s needs exactly one value", x.url)
		return "", false
	}
	if !slices.Contains(valueTypes(x.url), kind) {
		r.refuse(IssueValue, x.at, "extension %s: the value must be one of %s", x.url, strings.Join(valueTypes(x.url), ", "))
		return "", false
	}
	switch v := x.members[kind].(type) {
	case string:
		return v, true
	case bool:
		if kind == "valueBoolean" {
			return strconv.FormatBool(v), true
		}
	case fmt.Stringer: // json.Number
		if kind != "valueBoolean" && kind != "valueCode" && kind != "valueString" {
			return v.String(), true
		}
	}
	r.refuse(IssueValue, x.at, "extension %s: the JSON value does not fit %s", x.url, kind)
	return "", false
}

// valueTypes are the forms in which an honoured extension's value may come.
func valueTypes(url string) []string {
	switch url {
	case ExtMaxAttempts, ExtRetryCount:
		return []string{"valueInteger", "valuePositiveInt", "valueUnsignedInt", "valueString"}
	case ExtSendDelete:
		return []string{"valueBoolean", "valueString"}
	case ExtPathCriteria:
		return []string{"valueString"}
	}
	return []string{"valueCode", "valueString"}
}

func (r *reader) integer(x extension, value string, lo, hi int) int {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || int(n) < lo || int(n) > hi {
		r.refuse(IssueValue, x.at, "extension %s: the value must be a whole number from %d to %d", x.url, lo, hi)
		return 0
	}
	return int(n)
}

func (r *reader) code(x extension, value string, codes ...string) string {
	if !slices.Contains(codes, value) {
		r.refuse(IssueValue, x.at, "extension %s: the value must be %s", x.url, strings.Join(codes, " or "))
		return ""
	}
	return value
}

// clip keeps an error line readable where its author wrote a very long name.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
