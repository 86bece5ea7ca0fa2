package fhir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status is a code of http://hl7.org/fhir/subscription-status as R4 has it.
type Status string

// The statuses of an R4 Subscription.
const (
	StatusRequested Status = "requested" // asked for, not yet in force
	StatusActive    Status = "active"    // in force
	StatusError     Status = "error"     // stopped by the server because of failures
	StatusOff       Status = "off"       // stopped by its owner, by its end, or for good
)

// Style is the dialect of a rest-hook request.
type Style string

// The rest-hook styles. A Subscription without a style takes the configured one.
const (
	StyleFHIR    Style = "fhir"    // PUT and DELETE {endpoint}/{Type}/{id}: the R4 text, HAPI
	StyleWebhook Style = "webhook" // POST {endpoint}: Medplum
)

// Order says what a notification that waits for another attempt holds back.
type Order string

// The orders. A Subscription without one takes the configured order.
const (
	OrderResource Order = "resource" // later notifications of the same resource
	OrderStrict   Order = "strict"   // every later notification of the Subscription
)

// The channel types of http://hl7.org/fhir/subscription-channel-type.
const (
	ChannelRestHook  = "rest-hook"
	ChannelWebSocket = "websocket"
	ChannelEmail     = "email"
	ChannelSMS       = "sms"
	ChannelMessage   = "message"
)

// Channel is Subscription.channel as its author wrote it.
type Channel struct {
	Type     string
	Endpoint string
	Payload  string   // MIME type as written; ContentType is what is sent
	Headers  []string // "Name: value" as written; SplitHeader takes them apart
}

// Subscription is a classic R4 Subscription as its author wrote it, with the extensions that
// this version honours. It is read by ParseSubscription; what Validate has not accepted may
// hold anything.
type Subscription struct {
	ID       ID
	Status   Status
	Reason   string
	Criteria string
	End      time.Time // zero where there is none
	Channel  Channel

	// Attempts is the number of attempts in all; 0 takes the configured number. Medplum's
	// subscription-max-attempts wins over HAPI's subscription-delivery-retry-count. Both are
	// read as "n attempts in all": it is what both products' documents say, although both
	// servers make n+1. HAPI's 0 (no retry) is one attempt.
	Attempts int

	// Interactions lists what Medplum's subscription-supported-interaction asks for; empty
	// where the extension is absent. Hears has the meaning.
	Interactions []Interaction

	// Path is the expression of Medplum's fhir-path-criteria-expression, which must be true
	// besides the criteria; empty where the extension is absent.
	Path string

	SendDelete bool  // HAPI's subscription-send-delete-messages
	Style      Style // empty: as configured
	Order      Order // empty: as configured

	Envelope Envelope // of messages, by our own message-envelope; empty: as configured

	// Secrets are the keys that notifications are signed with, in the order written and none
	// twice: the first is the current one, the others are those of a rotation. They come from
	// Medplum's subscription-secret in its three spellings and from our own, and are not to be
	// shown or logged.
	Secrets []string

	// SuccessCodes are the HTTP statuses that count as delivered, by Medplum's
	// subscription-success-codes; then they alone do. Empty: 200 to 299. Delivered has the
	// meaning.
	SuccessCodes []StatusRange

	// AuditTo says where the AuditEvents of attempts go, by Medplum's
	// subscription-audit-event-destination: "resource", "log" or both; empty means resource.
	AuditTo []string

	// PayloadSearch is the search of HAPI's subscription-payload-search-criteria, whose result
	// is sent in place of the resource. ExpandPayloadSearch fills its placeholders.
	PayloadSearch string

	StripVersion  bool // HAPI's resthook-strip-version-ids: resources are sent without meta.versionId
	LatestVersion bool // HAPI's resthook-deliver-latest-version: the newest version is sent, not the event's

	// CrossPartition is Smile CDR's subscription-cross-partition. It has no effect: there is
	// one partition, which the Subscription hears all of whatever it says.
	CrossPartition bool

	EmailFrom    string // HAPI's subscription-email-from as written; empty: as configured
	EmailSubject string // HAPI's subscription-email-subject-template as written; empty: as configured

	Replication *Replication // Smile CDR's replication mode; nil where it is off

	// NamedChannel is the queue of Smile CDR's subscription-named-channel-delivery that each
	// notification goes to as well; empty for none.
	NamedChannel string

	// DeliveryClass is the name of who sends in place of the rest-hook channel, by Smile CDR's
	// subscription-channel-rest-delivery-class; empty for none.
	DeliveryClass string

	Medplum bool // an extension of Medplum's is there, so the receiver is one of Medplum's

	// issues are what reading found wrong. They do not stop ParseSubscription, since a stored
	// Subscription must stay readable for every version; Validate reports them with its own.
	issues []Issue
	at     map[string]string // the places of extensions that Validate or Doubts looks at, by URL

	unknown []extension // of the vendors, that mean nothing here
}

// Hears reports whether the Subscription wants notifications of an interaction: creates and
// updates unless supported-interaction names others, and deletes only if they are asked for,
// by supported-interaction or by send-delete-messages. (Medplum itself notifies of deletes
// where nothing is said. Receivers written for R4's text cannot tell a delete in webhook style
// from an update, so here it takes a word of the author.)
func (s *Subscription) Hears(i Interaction) bool {
	switch i {
	case Create, Update:
		return len(s.Interactions) == 0 || slices.Contains(s.Interactions, i)
	case Delete:
		return s.SendDelete || slices.Contains(s.Interactions, i)
	}
	return false
}

// Heard lists the interactions that the Subscription hears, in the order create, update,
// delete.
func (s *Subscription) Heard() []Interaction {
	var heard []Interaction
	for _, i := range []Interaction{Create, Update, Delete} {
		if s.Hears(i) {
			heard = append(heard, i)
		}
	}
	return heard
}

// SplitHeader takes a channel header apart at its first colon and trims both halves; ok is
// false where there is no colon. Everything after that colon is the value, further colons
// included.
func SplitHeader(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, ":")
	return strings.TrimSpace(name), strings.TrimSpace(value), ok
}

// ParseSubscription reads a Subscription from a body that the strict JSON parser has accepted.
// It fails, with an *Error, only where the body is no Subscription at all; everything else
// that is wrong is kept for Validate.
func ParseSubscription(body []byte) (*Subscription, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var root map[string]any
	if err := dec.Decode(&root); err != nil || root == nil {
		return nil, Refuse(IssueStructure, "", "the body is not a JSON object")
	}
	if t, _ := root["resourceType"].(string); t != "Subscription" {
		return nil, Refuse(IssueValue, "Subscription.resourceType", `resourceType must be "Subscription"`)
	}
	r := reader{sub: &Subscription{}, given: map[string]string{}}
	r.resource(root)
	r.sub.issues = r.issues
	return r.sub, nil
}

// reader carries the Subscription being read and what was found wrong with it.
type reader struct {
	sub     *Subscription
	issues  []Issue
	given   map[string]string // value of each extension that may be given once
	hapiTry int               // attempts by HAPI's extension
	replica replica           // Smile CDR's replication options
}

func (r *reader) refuse(t IssueType, expression, format string, args ...any) {
	r.issues = append(r.issues, Issue{Type: t, Expression: expression, Diagnostics: fmt.Sprintf(format, args...)})
}

// The elements of an R4 Subscription. Others are refused: a misspelt element that is silently
// dropped makes a Subscription mean something else than its author believes.
var (
	rootElements = []string{"resourceType", "id", "meta", "implicitRules", "language", "text", "contained",
		"extension", "modifierExtension", "status", "contact", "end", "reason", "criteria", "error", "channel"}
	channelElements = []string{"id", "extension", "modifierExtension", "type", "endpoint", "payload", "header"}
	r5Elements      = []string{"topic", "channelType", "filterBy", "endpoint", "parameter", "contentType", "content",
		"heartbeatPeriod", "timeout", "maxCount", "identifier", "name", "managingEntity"}
)

func (r *reader) resource(root map[string]any) {
	const at = "Subscription"
	s := r.sub
	r.elements(root, at, rootElements)
	if _, ok := root["implicitRules"]; ok {
		r.refuse(IssueNotSupported, at+".implicitRules", "implicitRules changes the meaning of the resource and is not supported; leave it out")
	}
	s.ID = ID(r.text(root, "id", at))
	s.Status = Status(r.text(root, "status", at))
	s.Reason = r.text(root, "reason", at)
	s.Criteria = r.text(root, "criteria", at)
	s.End = r.instant(root, "end", at)
	r.meta(root)
	r.extensions(root, at, true)
	r.siblings(root, at)
	r.channel(root)
	r.settle()
}

// settle decides between extensions that say the same thing in different words.
func (r *reader) settle() {
	s := r.sub
	if s.Attempts == 0 {
		s.Attempts = r.hapiTry
	}
	r.replicate()
	if s.Style == "" && s.Medplum {
		s.Style = StyleWebhook // only Medplum's receivers know its extensions
	}
}

func (r *reader) channel(root map[string]any) {
	const at = "Subscription.channel"
	v, present := root["channel"]
	if !present {
		return // Validate asks for the type
	}
	channel, ok := v.(map[string]any)
	if !ok {
		r.refuse(IssueValue, at, "channel must be an object with type, endpoint, payload and header")
		return
	}
	r.elements(channel, at, channelElements)
	c := &r.sub.Channel
	c.Type = r.text(channel, "type", at)
	c.Endpoint = r.text(channel, "endpoint", at)
	if channel["payload"] != "" { // as with HAPI, a blank one asks for no body
		c.Payload = r.text(channel, "payload", at)
	}
	c.Headers = r.headers(channel)
	r.extensions(channel, at, true)
	r.siblings(channel, at)
}

func (r *reader) headers(channel map[string]any) []string {
	const at = "Subscription.channel.header"
	v, present := channel["header"]
	if !present {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		r.refuse(IssueValue, at, `header must be an array of strings such as "Name: value"`)
		return nil
	}
	var headers []string
	for i, e := range list {
		switch h, ok := e.(string); {
		case !ok:
			r.refuse(IssueValue, fmt.Sprintf("%s[%d]", at, i), `a header must be a string such as "Name: value"`)
			headers = append(headers, "") // keeps the places of the rest
		default:
			headers = append(headers, h)
		}
	}
	return headers
}

// elements refuses members that an R4 Subscription does not have.
func (r *reader) elements(obj map[string]any, at string, known []string) {
	for _, key := range sortedKeys(obj) {
		if slices.Contains(known, strings.TrimPrefix(key, "_")) {
			continue
		}
		switch {
		case at == "Subscription" && slices.Contains(r5Elements, key):
			r.refuse(IssueNotSupported, at+"."+key, "%s belongs to an R5 Subscription; this version takes R4 Subscriptions with criteria and channel", key)
		case len(key) > 64:
			r.refuse(IssueValue, at, "unknown element with a name of %d characters", len(key))
		default:
			r.refuse(IssueValue, at, "unknown element %q; the elements are %s", key, strings.Join(known, ", "))
		}
	}
}

// text reads a string element. FHIR has no empty strings: an element without a value is left
// out.
func (r *reader) text(obj map[string]any, key, at string) string {
	v, present := obj[key]
	if !present {
		return ""
	}
	s, ok := v.(string)
	switch {
	case !ok:
		r.refuse(IssueValue, at+"."+key, "%s must be a string", key)
	case s == "":
		r.refuse(IssueValue, at+"."+key, "%s is empty; give it a value or leave it out", key)
	}
	return s
}

// instant reads an element of FHIR's type instant: a time to the second or finer, with zone.
func (r *reader) instant(obj map[string]any, key, at string) time.Time {
	s := r.text(obj, key, at)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || strings.Contains(s, ",") { // Go takes a comma before the fraction, FHIR does not
		r.refuse(IssueValue, at+"."+key, "%s must be an instant with seconds and time zone, such as 2027-01-31T12:00:00Z", key)
		return time.Time{}
	}
	return t
}

func sortedKeys(obj map[string]any) []string {
	keys := make([]string, 0, len(obj))
	for k := range obj {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
