package message

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Type is the channel's name in Subscription.channel.type.
const Type = fhir.ChannelMessage

// Options of a Channel.
type Options struct {
	Log      Log           // required
	Envelope fhir.Envelope // where a Subscription names none; empty is plain
	// Before, where set, may change a message before it is published, or object. Its error ends the
	// attempt as it says.
	Before func(ctx context.Context, n deliver.Notification, t deliver.Target, m *Message) *deliver.Error
}

// Channel publishes the notifications of message channels.
type Channel struct{ opts Options }

var _ deliver.Channel = (*Channel)(nil)

// New makes a channel.
func New(o Options) *Channel { return &Channel{opts: o} }

// Send publishes one notification where the endpoint says.
func (c *Channel) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	subject, err := c.subject(t.Endpoint)
	if err != nil {
		// Not for good: the operator may allow the subject again.
		return deliver.Receipt{}, &deliver.Error{Code: record.PublishError, Err: err}
	}
	return c.publish(ctx, subject, n, t, false)
}

// Copy publishes a copy of a rest-hook's notification, whose body is JSON, under a name, as
// channel:NAME would. It has a body where the notification has one, and none of the channel.header
// lines: they are for the endpoint, and may hold the key to it.
func (c *Channel) Copy(ctx context.Context, name string, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	subject, err := c.opts.Log.Subject(name)
	if err != nil {
		return deliver.Receipt{}, &deliver.Error{Code: record.PublishError, Err: err}
	}
	return c.publish(ctx, subject, n, t, true)
}

// subject reads an endpoint, which was checked when the Subscription was written. What the
// operator allows may have changed since.
func (c *Channel) subject(endpoint string) (string, error) {
	name, subject, ok := fhir.SplitMessageEndpoint(endpoint)
	switch {
	case !ok:
		return "", errors.New("the endpoint is neither channel:NAME nor nats:SUBJECT")
	case name != "":
		return c.opts.Log.Subject(name)
	case !c.opts.Log.Takes(subject):
		return "", errors.New("the endpoint's subject is not among delivery.message.subjects")
	}
	return subject, nil
}

func (c *Channel) publish(ctx context.Context, subject string, n deliver.Notification, t deliver.Target, copied bool) (deliver.Receipt, *deliver.Error) {
	m, data, failure := c.message(ctx, subject, n, t, copied)
	if failure != nil {
		return deliver.Receipt{}, failure
	}
	header := m.headers()
	if err := c.opts.Log.Publish(ctx, subject, id(n), header, data); err != nil {
		return deliver.Receipt{}, classify(ctx, err)
	}
	return deliver.Receipt{}, nil
}

// message makes what is published. A failure here is of the notification, and no attempt can do
// better, unless the hook says otherwise.
func (c *Channel) message(ctx context.Context, subject string, n deliver.Notification, t deliver.Target, copied bool) (*Message, []byte, *deliver.Error) {
	unsendable := func(err error) (*Message, []byte, *deliver.Error) {
		return nil, nil, &deliver.Error{Code: record.RenderError, Err: err, Permanent: true}
	}
	m := &Message{Subject: subject}
	if (t.Payload != "" || n.Transaction || copied && t.Style == deliver.StyleWebhook) && n.Interaction != fhir.Delete {
		m.Body, m.contentType = n.Body, n.ContentType
	}
	lines := t.Headers
	if copied {
		// The headers of a rest-hook are meant for its endpoint, often its login there. Who reads the
		// queue must not learn them, and the log must not keep them.
		lines = nil
	}
	var err error
	if m.Header, err = header(n, lines); err != nil {
		return unsendable(err)
	}
	for _, h := range n.Headers {
		m.Add(h.Name, h.Value)
	}
	if c.opts.Before != nil {
		if failure := c.opts.Before(ctx, n, t, m); failure != nil {
			return nil, nil, failure
		}
	}
	if err := m.check(); err != nil {
		return unsendable(err)
	}
	if c.envelope(t) != fhir.EnvelopeHAPI {
		return m, m.Body, nil
	}
	data, err := envelope(n, t, m)
	if err != nil {
		return unsendable(err)
	}
	m.Header["Content-Type"] = []string{"application/json"}
	return m, data, nil
}

// envelope is the form that a Subscription asks for, else the configured one.
func (c *Channel) envelope(t deliver.Target) fhir.Envelope {
	if t.Subscription != nil && t.Subscription.Envelope != "" {
		return t.Subscription.Envelope
	}
	return c.opts.Envelope
}

// id is what the log knows a message by: the same on every attempt of a round, another one for
// each replay, none for a message that was asked for as a test.
func id(n deliver.Notification) string {
	switch {
	case n.Test:
		return ""
	case n.Round > 0:
		return n.Name() + "/" + strconv.Itoa(n.Round)
	}
	return n.Name()
}

// classify names the failure of a publish. The log's errors hold subjects and sizes, and nothing
// of the message.
func classify(ctx context.Context, err error) *deliver.Error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &deliver.Error{Code: record.Timeout, Err: context.Canceled}
	case ctx.Err() != nil:
		return &deliver.Error{Code: record.Timeout, Err: fmt.Errorf("no acknowledgement of the log in time: %w", context.DeadlineExceeded)}
	case errors.Is(err, ErrTooLarge):
		return &deliver.Error{Code: record.PublishError, Err: err, Permanent: true}
	}
	return &deliver.Error{Code: record.PublishError, Err: err}
}
