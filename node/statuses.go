package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/stream"
)

// setStatus writes the server's own version of a Subscription: off after a 410 or its end,
// error after its attempts were spent. It changes nothing if the Subscription has been born
// again, deleted, or is not active any more: its owner was faster. The reason is kept in
// Subscription.error.
func (g *gate) setStatus(ctx context.Context, id fhir.ID, birth record.Sequence, status fhir.Status, reason string) error {
	key := fhir.Key{Type: "Subscription", ID: id}
	for {
		s := g.subs.get(id)
		if s == nil || s.deleted || s.birth != birth || (s.Status != fhir.StatusActive && s.Status != fhir.StatusError) || s.Status == status {
			return nil
		}
		e, err := g.versions.Event(ctx, s.version)
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", key, status, err)
		}
		body, err := json.SetString(e.Body, "status", string(status))
		if err == nil {
			body, err = json.SetString(body, "error", reason)
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", key, status, err)
		}
		res, _, err := g.store.Resource(key)
		if err != nil {
			return err
		}
		if res.Version != s.version {
			if err := g.ring.wait(ctx, res.Version); err != nil {
				return err
			}
			continue
		}
		m := eventMessage(record.Event{Key: key, Owner: s.owner, Body: body})
		m.ExpectLast = stream.Expect(res.Last)
		ack, err := g.events.Publish(ctx, m)
		if errors.Is(err, stream.ErrConflict) {
			if err := g.catchUp(ctx, plan{messages: []stream.Msg{m}}); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", key, status, err)
		}
		g.log.Info("Subscription status changed", "subscription", id, "status", status, "reason", reason)
		return g.ring.wait(ctx, ack.Sequence)
	}
}

// endReached switches a Subscription off whose end has passed. Timers fire at the engine's
// time; whether the end is really reached is read from the Subscription.
func (g *gate) endReached(ctx context.Context, id fhir.ID, birth, version record.Sequence) error {
	if g.store.Position().Events < version {
		return fmt.Errorf("timer of Subscription/%s is of a version that is not folded here yet", id)
	}
	s := g.subs.get(id)
	if s == nil || s.deleted || s.birth != birth || s.End.IsZero() {
		return nil
	}
	switch early := time.Until(s.End); {
	case early > 5*time.Second:
		return nil // the end was moved, and has a timer of its own
	case early > 0: // the clock was set back a little: the timer comes again in a second
		return fmt.Errorf("timer of %s fired %s early", s, early)
	}
	return g.setStatus(ctx, id, birth, fhir.StatusOff, "the end of the Subscription, "+s.End.Format(time.RFC3339)+", was reached")
}
