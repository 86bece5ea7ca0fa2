package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/stream"
)

// setStatus writes the server's own version of a Subscription: off after a 410 or its end,
// error after its attempts were spent. It changes nothing if the Subscription has been born
// again, deleted, or is not active any more: its owner was faster. The reason is kept in
// Subscription.error.
func (g *gate) setStatus(ctx context.Context, id fhir.ID, birth record.Sequence, status fhir.Status, reason string) error {
	return g.switchStatus(ctx, id, birth, serverVersion{status: status, reason: reason, owner: func(s *subscription) string { return s.owner }}, func(s *subscription) bool {
		return (s.Status == fhir.StatusActive || s.Status == fhir.StatusError) && s.Status != status
	})
}

// serverVersion is what the server writes into a Subscription that it switches.
type serverVersion struct {
	status fhir.Status
	reason string
	owner  func(*subscription) string
}

// switchStatus writes the server's own version of a Subscription as long as it is to be switched, with the
// AuditEvent that tells of it.
func (g *gate) switchStatus(ctx context.Context, id fhir.ID, birth record.Sequence, v serverVersion, meant func(*subscription) bool) error {
	key := fhir.Key{Type: "Subscription", ID: id}
	for {
		s := g.subs.get(id)
		if s == nil || s.deleted || s.birth != birth || !meant(s) {
			return nil
		}
		e, err := g.versions.Event(ctx, s.version)
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", key, v.status, err)
		}
		body, err := json.SetString(e.Body, "status", string(v.status))
		if err == nil {
			body, err = json.SetString(body, "error", v.reason)
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", key, v.status, err)
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
		m := eventMessage(record.Event{Key: key, Owner: v.owner(s), Body: body})
		m.ExpectLast = stream.Expect(res.Last)
		told := g.auditMessage(api.Audit{Agent: theServer, Action: "U", Operation: "update", Entities: []string{key.String()}, Outcome: auditSerious, Text: v.reason}, time.Now())
		p := plan{messages: []stream.Msg{m, told}}
		seq, _, err := g.publish(ctx, p)
		if errors.Is(err, stream.ErrConflict) {
			if err := g.catchUp(ctx, p); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", key, v.status, err)
		}
		g.log.Info("Subscription status changed", "subscription", id, "status", v.status, "reason", v.reason)
		return g.ring.wait(ctx, seq)
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
