package node

import (
	"context"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// startSharing makes what all lanes of this node have in common. run names this process.
func (n *Node) startSharing(run string) error {
	n.events = newOperatorEvents(n.log, n.cfg.Delivery.OperatorEvents, n.cluster, n.name)
	if err := n.mailOperators(); err != nil {
		return err
	}
	n.breakers = newBreakers(n)
	if n.cfg.Clustered() {
		n.turns = newTurns(n.name, run, n.log, n.longestAttempt)
	}
	n.makeEndpoints()
	if t := n.turns; t != nil {
		t.ends = n.endpoints
		t.book = &turnBucket{js: n.server.JetStream(), replicas: n.cfg.Replicas()}
		t.alive = n.alive
		t.held = func() bool { return n.members.Held() }
		t.publish = func(to string, ask turnAsk) {
			if err := n.server.Conn().Publish(turnSubject(to), record.Encode(ask)); err != nil {
				n.log.Debug("other nodes were not told of a turn", "endpoint", ask.Endpoint, "err", err)
			}
		}
	}
	n.silent = &silence{
		log: n.log, after: n.cfg.Delivery.DisableAfter, store: n.store, watched: n.watchSilence,
		known: map[record.Sequence]*hearing{},
		warn: func(s *subscription, percent int, since time.Time) {
			n.log.Warn("a Subscription is without success for long", "subscription", s.id, "endpoint", s.host(), "since", since, "percent", percent)
			n.events.tell(operatorEvent{Kind: eventWarning, Subscription: s.id, Endpoint: s.host(), Percent: percent,
				Reason: fmt.Sprintf("no notification was accepted since %s", since.UTC().Format(time.RFC3339))})
		},
		stop: func(ctx context.Context, s *subscription, reason string) error {
			return n.stopped(ctx, s.id, s.birth, fhir.StatusError, reason)
		},
	}
	return nil
}

// longestAttempt bounds how long an attempt of a node that is gone can still be under way.
func (n *Node) longestAttempt() time.Duration {
	d := n.inForce().Delivery
	longest := d.RestHook.Timeout
	for _, rule := range d.Endpoints {
		longest = max(longest, rule.Timeout)
	}
	for _, program := range d.Commands {
		longest = max(longest, program.Timeout)
	}
	return longest
}

// runSharing starts it, before the lanes.
func (n *Node) runSharing() {
	n.parts.run("operator events", n.events.run)
	n.parts.run("breakers", n.breakers.run)
	n.parts.run("silence", n.silent.run)
	if t := n.turns; t != nil {
		n.parts.all("turns", []func(context.Context) error{
			t.run,
			func(ctx context.Context) error { return t.hear(ctx, n.server.Conn()) },
		})
	}
}

// stopped turns a Subscription off or to error, and tells operators why.
func (n *Node) stopped(ctx context.Context, id fhir.ID, birth record.Sequence, status fhir.Status, reason string) error {
	before := n.subs.get(id)
	if err := n.gate.setStatus(ctx, id, birth, status, reason); err != nil {
		return err
	}
	if after := n.subs.get(id); before != nil && after != nil && before.Status == fhir.StatusActive && after.Status == status && after.birth == birth {
		n.events.tell(operatorEvent{Kind: eventDisabled, Subscription: id, Endpoint: after.host(), Reason: reason})
	}
	return nil
}

// delivering is what the lanes tell: metrics, and transitions for operators.
func (n *Node) delivering() deliver.Observer {
	o := n.observe.delivering()
	tell := func(kind string, t deliver.Target, code record.Code) {
		n.events.tell(operatorEvent{Kind: kind, Subscription: t.ID, Endpoint: t.Host(), Outcome: code})
	}
	o.Failing = func(t deliver.Target, code record.Code) { tell(eventFailing, t, code) }
	o.Recovered = func(t deliver.Target) { tell(eventRecovered, t, "") }
	o.Exhausted = func(t deliver.Target, reason record.Code) { tell(eventExhausted, t, reason) }
	return o
}
