package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/stream"
)

// renderer makes notifications from the events' own versions (deliver.Renderer).
type renderer struct{ versions *versions }

func (r renderer) Render(ctx context.Context, p deliver.Pending, t deliver.Target) (deliver.Notification, error) {
	e, err := r.versions.Event(ctx, p.Event)
	if err != nil {
		if errors.Is(err, stream.ErrNotFound) {
			return deliver.Notification{}, fmt.Errorf("event %d is not in the log any more: %w", p.Event, err)
		}
		return deliver.Notification{}, fmt.Errorf("%w: read event %d: %w", deliver.ErrUnavailable, p.Event, err)
	}
	n := deliver.Notification{
		MatchID:      p.ID(),
		Subscription: p.Subscription,
		Number:       p.Number,
		Resend:       p.Round > 0 || p.Job != "",
		Key:          p.Key,
		Interaction:  p.Interaction,
		ContentType:  "application/fhir+json",
		Trace:        e.Trace,
	}
	if p.Interaction != fhir.Delete {
		n.Body, err = shown(e)
	}
	return n, err
}
