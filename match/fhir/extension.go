package fhir

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The extensions of a Subscription that this version honours, on the Subscription or on its
// channel alike: HAPI, Smile CDR and Medplum differ on where they belong, and their documents
// differ from their code.
const (
	// Of Medplum. The secret has three spellings: its documents have the first two, the second
	// being the older one, and clients wrote the third.
	ExtSupportedInteraction = medplum + "subscription-supported-interaction"
	ExtMaxAttempts          = medplum + "subscription-max-attempts"
	ExtPathCriteria         = medplum + "fhir-path-criteria-expression"
	ExtSuccessCodes         = medplum + "subscription-success-codes"
	ExtAuditDestination     = medplum + "subscription-audit-event-destination"
	ExtMedplumSecret        = "https://www.medplum.com/fhir/StructureDefinition/subscription-secret"
	ExtMedplumSecretOld     = "https://www.medplum.com/fhir/StructureDefinition-subscriptionSecret"
	ExtMedplumSecretBare    = medplum + "subscription-secret"

	// Of HAPI.
	ExtSendDelete    = hapi + "subscription-send-delete-messages"
	ExtRetryCount    = hapi + "subscription-delivery-retry-count"
	ExtPayloadSearch = hapi + "subscription-payload-search-criteria"
	ExtStripVersion  = hapi + "subscription-resthook-strip-version-ids"
	ExtLatestVersion = hapi + "subscription-resthook-deliver-latest-version"
	ExtEmailFrom     = hapi + "subscription-email-from"
	ExtEmailSubject  = hapi + "subscription-email-subject-template"

	// Of Smile CDR.
	ExtCrossPartition       = smile + "subscription-cross-partition"
	ExtReplicate            = smile + "subscription-channel-rest-replicate-mode"
	ExtReplicatePrefix      = smile + "subscription-channel-rest-replicate-id-prefix"
	ExtReplicateSelector    = smile + "subscription-channel-rest-replicate-id-prefix-selector"
	ExtReplicateStripPrefix = smile + "subscription-channel-rest-replicate-strip-id-prefix"
	ExtReplicateStripBase   = smile + "subscription-channel-rest-replicate-strip-reference-base-url"
	ExtDeliveryClass        = smile + "subscription-channel-rest-delivery-class"
	ExtNamedChannel         = smile + "subscription-named-channel-delivery"

	// Our own.
	ExtRestHookStyle   = carillon + "rest-hook-style"
	ExtOrder           = carillon + "order"
	ExtSecret          = carillon + "secret"
	ExtMessageEnvelope = carillon + "message-envelope"
)

const (
	medplum  = "https://medplum.com/fhir/StructureDefinition/"
	hapi     = "http://hapifhir.io/fhir/StructureDefinition/"
	smile    = "https://smilecdr.com/fhir/ns/StructureDefinition/"
	carillon = "https://carillon-fhir.github.io/StructureDefinition/"
	backport = "http://hl7.org/fhir/uv/subscriptions-backport/"
)

// unsupported are extensions whose meaning is known and which this version does not act on.
// They are refused: a Subscription that is accepted without its secret or its filter would
// send what its author did not want sent. A name that ends in '/' or '.' stands for all that
// begin with it.
var unsupported = []struct{ url, what string }{
	{medplum + "pre-commit-bot", "a bot that runs before the write is"},
	{"https://smilecdr.com/", "this delivery option of Smile CDR is"},
	{"http://smilecdr.com/", "this delivery option of Smile CDR is"},
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

// misspeltSecret reports whether an unknown extension is meant to be Medplum's secret: written with
// another scheme or host, in other letters, or with a slash behind it. An unknown extension has no
// effect, which its author would not see, and nobody would seal what it holds.
func misspeltSecret(url string) bool {
	url = strings.TrimRight(strings.ToLower(url), "/")
	return strings.Contains(url, "medplum") && (strings.HasSuffix(url, "subscription-secret") || strings.HasSuffix(url, "subscriptionsecret"))
}

func (r *reader) extension(x extension, honour bool) {
	if strings.HasPrefix(x.url, medplum) || strings.HasPrefix(x.url, "https://www.medplum.com/") {
		r.sub.Medplum = true
	}
	h, known := honoured[x.url]
	what := unsupportedExtension(x.url)
	switch {
	case known && honour:
		r.honour(x, h)
	case known:
		r.refuse(IssueValue, x.at, "extension %s has no effect here; put it into Subscription.extension or Subscription.channel.extension", x.url)
	case what != "" && x.members["valueBoolean"] == false:
		// Switched off: it asks for nothing.
	case what != "":
		r.refuse(IssueNotSupported, x.at, "extension %s: %s not supported by this version", clip(x.url), what)
	case misspeltSecret(x.url):
		r.refuse(IssueValue, x.at, "extension %s holds a secret, it seems, and is not known; write %s or %s: what it would sign would go out unsigned, and the secret would be kept in clear", clip(x.url), ExtMedplumSecret, ExtSecret)
	case strings.HasPrefix(x.url, carillon):
		r.refuse(IssueNotSupported, x.at, "extension %s is not known to this version; %s, %s, %s and %s are", clip(x.url), ExtRestHookStyle, ExtOrder, ExtSecret, ExtMessageEnvelope)
	case resemblesVendors(x.url) && len(r.sub.unknown) < maxUnknown:
		r.sub.unknown = append(r.sub.unknown, extension{at: x.at, url: x.url})
	}
}

// maxUnknown bounds the warnings about extensions.
const maxUnknown = 10

// resemblesVendors reports whether a URL that is not known looks like an extension that HAPI or
// Medplum puts on Subscriptions. Any extension may be there, as FHIR has it; but a misspelt one of
// these makes the Subscription mean something else than its author believes.
func resemblesVendors(url string) bool {
	_, path, _ := strings.Cut(url, "://")
	host, path, _ := strings.Cut(path, "/")
	switch strings.TrimPrefix(host, "www.") {
	case "hapifhir.io", "medplum.com":
		return strings.Contains(strings.ToLower(path), "subscription") || strings.Contains(path, "criteria")
	}
	return false
}

// honour applies an extension. Its value may be the typed element or the string that the
// products' documents show.
func (r *reader) honour(x extension, h honouring) {
	value, ok := r.value(x, h.types)
	if !ok {
		return
	}
	if !h.repeats {
		if before, given := r.given[x.url]; given && before != value {
			r.refuse(IssueInvariant, x.at, "extension %s is given twice with different values", x.url)
			return
		}
		r.given[x.url] = value
	}
	h.read(r, x, value)
}

// value finds the one value[x] of a simple extension and gives its text.
func (r *reader) value(x extension, types []string) (string, bool) {
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
	if !slices.Contains(types, kind) {
		r.refuse(IssueValue, x.at, "extension %s: the value must be one of %s", x.url, strings.Join(types, ", "))
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
