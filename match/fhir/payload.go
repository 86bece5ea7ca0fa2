package fhir

import (
	"mime"
	"strings"
)

// The MIME types of notification bodies.
const (
	ContentJSON = "application/fhir+json"
	ContentXML  = "application/fhir+xml"
)

// payloadType reads a payload's MIME type: what is sent for it, empty if that is none that is
// sent, its parameters, and what is wrong with those. Every spelling of JSON and XML that HAPI
// takes is taken: generic and legacy names, and a blank in place of the plus sign.
func payloadType(payload string) (content string, parameters map[string]string, err error) {
	payload = strings.ToLower(strings.TrimSpace(payload))
	for _, name := range []string{"fhir json", "fhir xml", "json fhir", "xml fhir"} {
		payload = strings.ReplaceAll(payload, name, strings.ReplaceAll(name, " ", "+"))
	}
	name, parameters, err := mime.ParseMediaType(payload)
	switch name {
	case ContentJSON, "application/json", "application/json+fhir", "text/json", "json":
		return ContentJSON, parameters, err
	case ContentXML, "application/xml", "application/xml+fhir", "text/xml", "xml":
		return ContentXML, parameters, err
	}
	return "", parameters, err
}

// ContentType is the MIME type of notification bodies: application/fhir+json for every JSON
// spelling and application/fhir+xml for every XML spelling, since a receiver is told what the
// body is and not how the Subscription spelled it (HAPI does the same). It is empty where the
// Subscription asks for no body.
func (c Channel) ContentType() string {
	switch {
	case c.Payload == ContentJSON: // as nearly all do
		return ContentJSON
	case strings.TrimSpace(c.Payload) == "":
		return ""
	}
	if content, _, _ := payloadType(c.Payload); content != "" {
		return content
	}
	return ContentJSON // of a Subscription that was stored unchecked
}
