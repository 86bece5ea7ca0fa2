package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/payload"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// renderer makes notifications (deliver.Renderer): of the event's own version, unless the
// Subscription wants the newest one or the result of a search, in the shape that it asks for.
type renderer struct {
	versions *versions
	store    *store.Store
	search   *searcher
	fhir     fhir.Version
}

func (r renderer) Render(ctx context.Context, p deliver.Pending, t deliver.Target) (deliver.Notification, error) {
	e, err := r.event(ctx, p.Event)
	if err != nil {
		return deliver.Notification{}, err
	}
	n := deliver.Notification{
		MatchID:      p.ID(),
		Subscription: p.Subscription,
		Number:       p.Number,
		Round:        p.Round,
		FirstFailure: p.FirstFailure,
		Resend:       p.Round > 0 || p.Job != "",
		Key:          p.Key,
		Interaction:  p.Interaction,
		ContentType:  "application/fhir+json",
		Trace:        e.Trace,
	}
	shape := payload.Of(t.Subscription, r.fhir)
	switch wants := t.Subscription; {
	case !carries(t):
		if p.Interaction != fhir.Delete {
			err = r.resource(&n, e, payload.Shape{}) // for interceptors
		}
	case p.Interaction == fhir.Delete:
		n.Key, err = shape.Key(p.Key)
	case wants != nil && wants.PayloadSearch != "":
		err = r.found(ctx, &n, wants.PayloadSearch, shape)
	case wants != nil && wants.LatestVersion:
		if e, err = r.newest(ctx, e); err == nil {
			err = r.resource(&n, e, shape)
		}
	default:
		err = r.resource(&n, e, shape)
	}
	return n, err
}

// carries reports whether anybody is sent a resource. A ping and an SMS have nothing of it in them, so
// what a Subscription says of its payload cannot keep them back.
func carries(t deliver.Target) bool {
	return t.ChannelType != fhir.ChannelWebSocket && t.ChannelType != fhir.ChannelSMS || t.Subscription != nil && t.Subscription.NamedChannel != ""
}

// event reads a version. One that is not in the log any more is not there at a later attempt either.
func (r renderer) event(ctx context.Context, seq record.Sequence) (record.Event, error) {
	e, err := r.versions.Event(ctx, seq)
	if errors.Is(err, stream.ErrNotFound) {
		return e, fmt.Errorf("event %d is not in the log any more: %w", seq, err)
	}
	if err != nil {
		return e, fmt.Errorf("%w: read event %d: %w", deliver.ErrUnavailable, seq, err)
	}
	return e, nil
}

// newest is the version that the event's resource has by now. Of one that is deleted nothing is
// sent: who wants to know of the delete gets that as a notification of its own.
func (r renderer) newest(ctx context.Context, e record.Event) (record.Event, error) {
	res, known, err := r.store.Resource(e.Key)
	switch {
	case err != nil:
		return e, fmt.Errorf("%w: newest version of %s: %w", deliver.ErrUnavailable, e.Key, err)
	case !known || res.Deleted:
		return e, fmt.Errorf("%w: %s is deleted", deliver.ErrNothing, e.Key)
	case res.Version <= e.Sequence:
		return e, nil
	}
	return r.event(ctx, res.Version)
}

// resource lets a notification carry one version.
func (r renderer) resource(n *deliver.Notification, e record.Event, shape payload.Shape) error {
	body, err := shown(e)
	if err != nil {
		return err
	}
	sent, err := shape.Resource(payload.Resource{Key: n.Key, Body: body})
	n.Key, n.Body = sent.Key, sent.Body
	return err
}

// found lets a notification carry what a payload search finds. Where it finds nothing there is
// nothing to tell: an empty transaction would be an error to many receivers.
func (r renderer) found(ctx context.Context, n *deliver.Notification, search string, shape payload.Shape) error {
	found, err := r.search.payload(ctx, search, n.Key)
	if err != nil {
		return searchFailed(err)
	}
	if len(found) == 0 {
		return fmt.Errorf("%w: the payload search finds nothing", deliver.ErrNothing)
	}
	resources := make([]payload.Resource, len(found))
	for i, f := range found {
		resources[i] = payload.Resource{Key: f.Key, Body: f.Body}
	}
	n.Transaction = true
	if n.Key, err = shape.Key(n.Key); err != nil {
		return err
	}
	n.Body, err = shape.Transaction(bundleID(*n), resources)
	return err
}
