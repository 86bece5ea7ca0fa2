package node

import (
	"context"
	"strings"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	fhirxml "github.com/carillon-fhir/carillon/match/fhir/xml"
)

// formats lets a notification have the format that its Subscription asks for (deliver.Renderer).
// It comes last, so that whatever is sent is made of JSON, and before signing, so that a signature
// is over the bytes that are sent.
type formats struct {
	deliver.Renderer
	version fhir.Version
}

// Render makes XML of what the Renderer within has made. A resource that XML has no place for
// cannot be sent as asked; its error says where in it.
func (f formats) Render(ctx context.Context, p deliver.Pending, t deliver.Target) (deliver.Notification, error) {
	n, err := f.Renderer.Render(ctx, p, t)
	if err != nil {
		return n, err
	}
	return inFormat(n, t, f.version)
}

// inFormat gives a notification whose body is JSON in the format that its Subscription asks for.
func inFormat(n deliver.Notification, t deliver.Target, v fhir.Version) (deliver.Notification, error) {
	if !wantsXML(t) {
		return n, nil
	}
	n.ContentType = fhir.ContentXML
	if len(n.Body) == 0 {
		return n, nil
	}
	body, err := fhirxml.Marshal(v, n.Body)
	n.Body = body
	return n, err
}

// inJSON gives a notification for those who are sent JSON whatever the Subscription asks for. What an
// interceptor has changed is in it.
func inJSON(v fhir.Version, n deliver.Notification) (deliver.Notification, error) {
	if n.ContentType != fhir.ContentXML {
		return n, nil
	}
	n.ContentType = fhir.ContentJSON
	if len(n.Body) == 0 {
		return n, nil
	}
	body, err := fhirxml.Unmarshal(v, n.Body)
	n.Body = body
	return n, err
}

// wantsXML reports whether a Subscription is sent XML. Webhook style is JSON whatever the payload
// says, as with Medplum.
func wantsXML(t deliver.Target) bool {
	styled := t.ChannelType == fhir.ChannelRestHook || strings.HasPrefix(t.ChannelType, classPrefix)
	return t.Payload == fhir.ContentXML && carries(t) && !(styled && t.Style == deliver.StyleWebhook)
}
