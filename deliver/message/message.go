package message

import (
	"context"
	"errors"
)

// Message is a notification as it is about to be published.
type Message struct {
	Subject string // where it goes; not changed by anyone
	// Header holds what this package says of the notification, with the channel.header lines of
	// the Subscription. Names are written as they stand here.
	Header map[string][]string
	// Custom holds headers besides: each name becomes as many headers as it has values. In HAPI's
	// envelope they stand in customHeaders too.
	Custom map[string][]string
	// Body is the notification's body as JSON, empty where there is none to be shown. It is what is
	// published, or what HAPI's envelope holds as payload.
	Body []byte

	contentType string // of Body; empty is application/fhir+json
}

// Add gives a custom header more values.
func (m *Message) Add(name string, values ...string) {
	if m.Custom == nil {
		m.Custom = map[string][]string{}
	}
	m.Custom[name] = append(m.Custom[name], values...)
}

// What a Log can say besides that it cannot take a message now.
var (
	// ErrTooLarge: the message is larger than the log takes. No later attempt can do better.
	ErrTooLarge = errors.New("larger than a message may be")
	// ErrUnknown: no answer came. The message may be in the log.
	ErrUnknown = errors.New("no answer came")
)

// Log is where messages are published.
type Log interface {
	// Publish is durable on return. A message with an id that came a short while ago is answered
	// as if it were stored, and is not stored twice; an empty id is no id. Errors that wrap
	// ErrTooLarge are final.
	Publish(ctx context.Context, subject, id string, header map[string][]string, data []byte) error
	// Subject says where the messages of a name go, channel:NAME in an endpoint.
	Subject(name string) (string, error)
	// Takes reports whether the log takes messages on a subject, nats:SUBJECT in an endpoint.
	Takes(subject string) bool
}
