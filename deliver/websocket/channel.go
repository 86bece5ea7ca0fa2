package websocket

import (
	"context"
	"errors"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Type is the channel type that this package serves.
const Type = fhir.ChannelWebSocket

// Announcer pings the sockets of a life of a Subscription, on all nodes. It gives how many it
// knows to have been pinged, which may be fewer than were: one is enough to know. An error means
// that some nodes could not be asked, and nobody else was pinged.
type Announcer interface {
	Ping(ctx context.Context, id fhir.ID, birth record.Sequence) (pinged int, err error)
}

// Channel sends notifications as pings.
type Channel struct{ announcer Announcer }

var _ deliver.Channel = (*Channel)(nil)

// NewChannel makes a Channel. A Hub is the Announcer of a node that is alone.
func NewChannel(a Announcer) *Channel { return &Channel{a} }

// errUnbound says why a match was skipped.
var errUnbound = errors.New("nobody is bound")

// Send pings once. Nobody bound is no failure: the code is record.Skipped, and the match ends.
func (c *Channel) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	began := time.Now()
	pinged, err := c.announcer.Ping(ctx, t.ID, n.Birth)
	receipt := deliver.Receipt{Took: time.Since(began)}
	switch {
	case pinged > 0:
		return receipt, nil
	case ctx.Err() != nil:
		return receipt, &deliver.Error{Code: record.Timeout, Err: ctx.Err()}
	case err != nil:
		return receipt, &deliver.Error{Code: record.PublishError, Err: err}
	}
	return receipt, &deliver.Error{Code: record.Skipped, Err: errUnbound}
}
