package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/stream"
)

// messageLog is MESSAGES as message channels see it (message.Log).
type messageLog struct{ server *stream.Server }

func (l messageLog) Publish(ctx context.Context, subject, id string, header map[string][]string, data []byte) error {
	_, err := l.server.Publish(ctx, stream.Messages, stream.Msg{Subject: subject, Header: header, Data: data, MsgID: id})
	switch {
	case errors.Is(err, stream.ErrTooLarge):
		return fmt.Errorf("%w: %w (limits.resource_size bounds what a message may be)", message.ErrTooLarge, err)
	case errors.Is(err, stream.ErrUnknown):
		return fmt.Errorf("%w: %w", message.ErrUnknown, err)
	}
	return err
}

func (l messageLog) Subject(name string) (string, error) { return stream.MessageSubject(name) }
func (l messageLog) Takes(subject string) bool           { return l.server.TakesMessage(subject) }
