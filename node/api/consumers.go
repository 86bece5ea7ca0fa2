package api

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Consumers keeps the durable consumers that NATS clients pull from.
type Consumers interface {
	// Consumers lists those that were made here, by reference.
	Consumers(ctx context.Context) ([]Consumer, error)
	// CreateConsumer makes one. To make the same again changes nothing; a name that is taken is
	// refused (IssueConflict).
	CreateConsumer(ctx context.Context, o ConsumerOrder, by string) (Consumer, error)
	// DeleteConsumer removes one with its place in the stream (IssueNotFound).
	DeleteConsumer(ctx context.Context, stream, name, by string) error
}

// Where a consumer begins.
const (
	FromAll = "all" // with what the stream holds
	FromNew = "new" // with what is stored from now on
)

// ConsumerOrder says which consumer is to be made.
type ConsumerOrder struct {
	Stream string `json:"stream"` // messages, dead or events
	Name   string `json:"name"`
	Filter string `json:"filter,omitempty"` // subjects; empty: all of the stream's
	From   string `json:"from,omitempty"`   // all (default) or new
}

// Consumer is a durable consumer as its administrator sees it.
type Consumer struct {
	Reference  string    `json:"reference"` // as security.nats.users[].consumers names it
	Stream     string    `json:"stream"`    // as NATS clients name it
	Name       string    `json:"name"`
	Filter     string    `json:"filter"`
	From       string    `json:"from"`
	Created    time.Time `json:"created"`
	Pending    uint64    `json:"pending"`    // messages that were not delivered yet
	AckPending int       `json:"ackPending"` // delivered, and not acknowledged yet
	Waiting    int       `json:"waiting"`    // pulls that are open
	Subjects   []string  `json:"subjects"`   // what a client publishes on to use it
}

func (s *server) adminConsumers(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	items, err := s.admin.Consumers(c.r.Context())
	return list(c, items, err)
}

func (s *server) adminCreateConsumer(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var o ConsumerOrder
	if err := s.readObject(c, &o); err != nil {
		return err
	}
	switch o.From {
	case "", FromAll, FromNew:
	default:
		return badRequest(fmt.Sprintf("from is %s or %s", FromAll, FromNew))
	}
	made, err := s.admin.CreateConsumer(c.r.Context(), o, c.token.ID)
	if err != nil {
		return err
	}
	return c.sendJSON(http.StatusCreated, made)
}

func (s *server) adminDeleteConsumer(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	if err := s.admin.DeleteConsumer(c.r.Context(), c.r.PathValue("stream"), c.r.PathValue("name"), c.token.ID); err != nil {
		return err
	}
	c.send(http.StatusNoContent, c.mime, nil)
	return nil
}
