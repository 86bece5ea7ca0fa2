package fhir

import (
	"fmt"
	"mime"
	"strings"
)

// Envelope is the form of a message channel's messages.
type Envelope string

// The envelopes. A Subscription without one takes the configured one.
const (
	EnvelopePlain Envelope = "plain" // the resource
	EnvelopeHAPI  Envelope = "hapi"  // HAPI's ResourceModifiedMessage, with the resource as a string in it
)

// SplitMessageEndpoint takes the endpoint of a message channel apart: channel:NAME, as HAPI has it,
// gives the name; nats:SUBJECT the subject. ok is false for what is neither, or could be no token or
// no subject to publish on.
func SplitMessageEndpoint(endpoint string) (name, subject string, ok bool) {
	scheme, rest, _ := strings.Cut(endpoint, ":")
	switch {
	case scheme == "channel" && validName(rest):
		return rest, "", true
	case scheme == "nats" && validSubject(rest):
		return "", rest, true
	}
	return "", "", false
}

// validSubject keeps to tokens of letters, digits, '-' and '_', which every NATS client can name.
func validSubject(s string) bool {
	if len(s) > 256 {
		return false
	}
	for token := range strings.SplitSeq(s, ".") {
		if !validName(token) {
			return false
		}
	}
	return true
}

// validName keeps to what can be a token of a subject.
func validName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-'
	})
}

// messageChannel checks what a message channel publishes, and where.
func (c *check) messageChannel(ch Channel, rules Rules) {
	const at = "Subscription.channel.endpoint"
	if c.require(ch.Endpoint, at, "a message channel needs an endpoint, channel:NAME") {
		switch _, subject, ok := SplitMessageEndpoint(ch.Endpoint); {
		case !ok:
			c.refuse(IssueValue, at, "the endpoint of a message channel is channel:NAME, with a name of 1 to %d letters, digits, '-' and '_' (it is then published on fhir.message.NAME), or nats:SUBJECT where delivery.message.subjects allows it", maxName)
		case subject == "":
		case rules.MessageSubject == nil || !rules.MessageSubject(subject):
			c.refuse(IssueValue, at, "subject %s is not among delivery.message.subjects; give channel:NAME, or ask the operator for it", subject)
		}
	}
	if isXML(ch.Payload) {
		c.refuse(IssueNotSupported, "Subscription.channel.payload", "messages are JSON; give application/fhir+json")
	} else {
		c.payload(ch.Payload, rules.Version)
	}
	for i, line := range ch.Headers {
		name, _, _ := SplitHeader(line)
		if ReservedMessageHeader(name) && !ReservedHeader(name) {
			c.refuse(IssueValue, fmt.Sprintf("Subscription.channel.header[%d]", i), "header %s is set by this server or speaks to the message log, and cannot be given", clip(name))
		}
	}
}

// isXML reports whether a payload's MIME type is one of those of XML.
func isXML(payload string) bool {
	name, _, _ := mime.ParseMediaType(strings.TrimSpace(payload))
	return name == "xml" || strings.HasPrefix(name, "application/fhir xml") || strings.HasSuffix(name, "/xml") || strings.HasSuffix(name, "+xml") || strings.HasPrefix(name, "application/xml+")
}

// ReservedMessageHeader reports whether a message's header is set by the sender of notifications,
// or would be read by the log that takes the message.
func ReservedMessageHeader(name string) bool {
	lower := strings.ToLower(name)
	return ReservedHeader(name) || strings.HasPrefix(lower, "nats-") || strings.HasPrefix(lower, "fhir-") || lower == "kv-operation" || lower == "status"
}

// ValidHeaderName reports whether a header can have the name (RFC 9110 5.6.2).
func ValidHeaderName(name string) bool { return validToken(name) }

// ValidHeaderValue reports whether a header can have the value (RFC 9110 5.5): one without control
// characters but the tab, which could begin another header.
func ValidHeaderValue(value string) bool { return validFieldValue(value) }
