package node

import (
	"context"
	"errors"
	"strings"

	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/stream"
)

func (a *admin) Consumers(ctx context.Context) ([]api.Consumer, error) {
	all, err := a.server.Consumers(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	out := make([]api.Consumer, len(all))
	for i, c := range all {
		out[i] = consumerState(c)
	}
	return out, nil
}

func (a *admin) CreateConsumer(ctx context.Context, o api.ConsumerOrder, by string) (api.Consumer, error) {
	c, err := a.server.CreateConsumer(ctx, stream.ConsumerSpec{Stream: o.Stream, Name: o.Name, Filter: o.Filter, FromNew: o.From == api.FromNew})
	if err != nil {
		return api.Consumer{}, consumerRefusal(err)
	}
	a.log.Info("consumer for NATS clients created", "consumer", c.Reference(), "filter", c.Filter, "by", by)
	return consumerState(c), nil
}

func (a *admin) DeleteConsumer(ctx context.Context, streamName, name, by string) error {
	if err := a.server.DeleteConsumer(ctx, streamName, name); err != nil {
		return consumerRefusal(err)
	}
	a.log.Info("consumer for NATS clients deleted", "consumer", strings.ToLower(streamName)+"/"+name, "by", by)
	return nil
}

// consumerRefusal leaves to the log what the engine refuses for reasons of its own: refusal would
// take it for a write's.
func consumerRefusal(err error) error {
	if errors.Is(err, stream.ErrRefused) {
		return err
	}
	return refusal(err)
}

func consumerState(c stream.Consumer) api.Consumer {
	from := api.FromAll
	if c.FromNew {
		from = api.FromNew
	}
	return api.Consumer{
		Reference: c.Reference(), Stream: c.Stream, Name: c.Name, Filter: c.Filter, From: from, Created: c.Created.UTC(),
		Pending: c.Pending, AckPending: c.AckPending, Waiting: c.Waiting, Subjects: c.Subjects(),
	}
}
