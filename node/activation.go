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

// startActivation lets Subscriptions go live that were written while their channel type was switched
// off (delivery.channels) and stayed requested. Those that are written later go live with their write.
func (n *Node) startActivation(context.Context) error {
	n.parts.run("activation", func(ctx context.Context) error {
		for _, s := range n.subs.all() {
			for n.gate.awaitsActivation(s) {
				err := n.gate.activate(ctx, s.id, s.birth)
				if err == nil {
					break
				}
				if fhir.AsError(err) != nil { // it is what the operator's rules no longer allow
					n.log.Warn("Subscription stays requested", "subscription", s.id, "err", err)
					break
				}
				if pause(ctx, time.Second) != nil {
					return nil
				}
			}
		}
		<-ctx.Done() // a part lives as long as its node
		return nil
	})
	return nil
}

// awaitsActivation reports whether a Subscription is requested and could be in force.
func (g *gate) awaitsActivation(s *subscription) bool {
	return s != nil && !s.deleted && s.Status == fhir.StatusRequested && s.problem == "" && g.subs.channelOn(s.Channel.Type)
}

// activate makes a requested Subscription active, if it is still the same one and still requested: another
// node may do the same. A refusal is an *fhir.Error.
func (g *gate) activate(ctx context.Context, id fhir.ID, birth record.Sequence) error {
	key := fhir.Key{Type: "Subscription", ID: id}
	for {
		s := g.subs.get(id)
		if !g.awaitsActivation(s) || s.birth != birth {
			return nil
		}
		e, err := g.versions.Event(ctx, s.version)
		if err != nil {
			return fmt.Errorf("activate %s: %w", key, err)
		}
		if _, _, err := g.validate(ctx, e.Body); err != nil {
			return err
		}
		body, err := json.SetString(e.Body, "status", string(fhir.StatusActive))
		if err != nil {
			return fmt.Errorf("activate %s: %w", key, err)
		}
		res, _, err := g.store.Resource(key)
		if err != nil {
			return err
		}
		if res.Version != s.version { // the registry is behind
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
			return fmt.Errorf("activate %s: %w", key, err)
		}
		g.log.Info("Subscription goes live: its channel is switched on now", "subscription", id)
		return g.ring.wait(ctx, ack.Sequence)
	}
}
