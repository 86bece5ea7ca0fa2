package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

// halting is the record that stops all sending on all nodes, or lets it go on.
type halting struct {
	Stopped bool      `json:"stopped"`
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// haltChanged takes it over. Lanes ask before every send, and once a second when none is due.
func (n *Node) haltChanged(seq record.Sequence, data []byte) error {
	if err := n.halt.apply(seq, data); err != nil {
		return err
	}
	n.sayHalt()
	return nil
}

// sayHalt logs a change, once whoever sees it first: the feed, or who has written it.
func (n *Node) sayHalt() {
	if now, _ := n.halt.get(); n.haltSaid.Swap(now.Stopped) != now.Stopped {
		n.log.Warn("all sending is stopped, or goes on", "stopped", now.Stopped, "by", now.By, "reason", now.Reason)
	}
}

// halted reports whether all sending is stopped by hand.
func (n *Node) halted() bool {
	h, _ := n.halt.get()
	return h.Stopped
}

// haltWarning tells operators that nothing is sent; empty while it is.
func (n *Node) haltWarning() string {
	h, _ := n.halt.get()
	if !h.Stopped {
		return ""
	}
	text := "all sending is stopped since " + h.At.UTC().Format(time.RFC3339)
	if h.Reason != "" {
		text += " (" + h.Reason + ")"
	}
	return text + "; it goes on with: carillon deliver start"
}

// makeEndpoints is what the lanes of this node share about endpoints.
func (n *Node) makeEndpoints() {
	b := n.cfg.Delivery.Breaker
	cfg := deliver.EndpointsConfig{
		Breaker: deliver.Breaker{Failures: b.Failures, Window: b.Window, After: b.After, Open: b.Open},
		Limits:  limitsOf(n.cfg.Delivery),
		Opened:  n.breakers.opened,
		Tried:   n.breakers.tried,
		Closed:  n.breakers.closed,
	}
	if n.cfg.Clustered() {
		cfg.Turns = n.turns
	}
	n.endpoints = deliver.NewEndpoints(cfg)
}

// limitsOf gives the limits that the operator's rules have for an endpoint.
func limitsOf(d config.Delivery) func(*url.URL) deliver.Limits {
	return func(u *url.URL) deliver.Limits {
		rule := d.EndpointFor(u)
		if rule == nil {
			return deliver.Limits{}
		}
		return deliver.Limits{Concurrency: rule.Concurrency, Rate: rule.Rate}
	}
}

// breakers tells the other nodes when a breaker opens here, when a try fails and when one succeeds,
// and takes over what they tell. Only transitions are told, never an attempt, and by messages that
// may get lost: a node that hears nothing finds out by itself.
type breakers struct {
	node *Node
	told chan breakerNews
}

// breakerNews is what one node tells of an endpoint. How long it lasts is a duration, so that no
// clock is compared with another's.
type breakerNews struct {
	Node     string        `json:"node"`
	Endpoint string        `json:"endpoint"`
	Open     bool          `json:"open"`
	For      time.Duration `json:"for,omitempty"` // until the teller's next try
	Row      time.Duration `json:"row,omitempty"` // how long the endpoint has been failing for the teller
}

const breakerSubject = "carillon.breaker"

// elsewhere is how much longer a breaker that another node opened keeps this one from trying: the
// try is the other's, and its answer is heard first.
const elsewhere = 5 * time.Second

func newBreakers(n *Node) *breakers { return &breakers{node: n, told: make(chan breakerNews, 1024)} }

func (b *breakers) opened(s deliver.EndpointStatus) {
	b.node.log.Warn("an endpoint keeps failing and is left alone for now", "endpoint", s.Name, "failures", s.Failures, "outcome", s.Last)
	b.node.events.tell(operatorEvent{Kind: eventBreakerOpen, Endpoint: s.Name, Outcome: s.Last})
	b.tried(s)
}

func (b *breakers) tried(s deliver.EndpointStatus) {
	b.tell(breakerNews{Endpoint: s.Name, Open: true, For: time.Until(s.Until), Row: time.Since(s.Began)})
}

func (b *breakers) closed(s deliver.EndpointStatus) {
	b.node.log.Info("an endpoint answers again", "endpoint", s.Name)
	b.node.events.tell(operatorEvent{Kind: eventBreakerClosed, Endpoint: s.Name})
	b.tell(breakerNews{Endpoint: s.Name})
}

// tell never waits: it is called in the middle of a lane's work.
func (b *breakers) tell(news breakerNews) {
	news.Node = b.node.name
	select {
	case b.told <- news:
	default: // the others find out by themselves
	}
}

// run passes news on, in both directions, until ctx ends.
func (b *breakers) run(ctx context.Context) error {
	conn := b.node.server.Conn()
	sub, err := conn.Subscribe(breakerSubject, func(m *nats.Msg) {
		var news breakerNews
		if json.Unmarshal(m.Data, &news) == nil && news.Node != b.node.name {
			b.take(news)
		}
	})
	if err != nil {
		return fmt.Errorf("hear of endpoints from other nodes: %w", err)
	}
	defer sub.Unsubscribe()
	for {
		select {
		case <-ctx.Done():
			return nil
		case news := <-b.told:
			if err := conn.Publish(breakerSubject, record.Encode(news)); err != nil {
				b.node.log.Debug("other nodes were not told of an endpoint", "endpoint", news.Endpoint, "err", err)
			}
		}
	}
}

func (b *breakers) take(news breakerNews) {
	if !news.Open {
		b.node.endpoints.Reset(news.Endpoint)
		return
	}
	now := time.Now()
	if !b.node.endpoints.OpenedElsewhere(news.Endpoint, now, now.Add(min(news.For, time.Hour)+elsewhere), news.Row) {
		// The endpoint answers this node's Subscriptions, so it is not to be left alone.
		b.tell(breakerNews{Endpoint: news.Endpoint})
	}
}

// endpointOps are the requests of other nodes about endpoints.
func (n *Node) endpointOps() map[string]peerOp {
	return map[string]peerOp{
		"endpoints": func(context.Context, []byte) (any, error) { return n.endpoints.Status(), nil },
		"reset": func(_ context.Context, body []byte) (any, error) {
			var name string
			if err := json.Unmarshal(body, &name); err != nil {
				return nil, errors.New("not the name of an endpoint")
			}
			return n.endpoints.Reset(name), nil
		},
	}
}

func (a *admin) sending() api.Sending {
	h, _ := a.halt.get()
	return api.Sending{Stopped: h.Stopped, Since: h.At, By: h.By, Reason: h.Reason}
}

// Delivery asks all nodes how their endpoints are.
func (a *admin) Delivery(ctx context.Context) (api.Delivery, error) {
	d := api.Delivery{Sending: a.sending(), Pending: a.store.Stats().Pending}
	all := map[string]*api.EndpointState{}
	for _, s := range askAll[[]deliver.EndpointStatus](ctx, a.peers, a.askable(), "endpoints", func(string) any { return nil }) {
		if s.err != nil {
			d.Errors = append(d.Errors, s.node+": "+s.err.Error())
			continue
		}
		for _, e := range s.value {
			mergeEndpoint(all, e)
		}
	}
	for _, e := range all {
		d.Endpoints = append(d.Endpoints, *e)
		if e.Breaker == breakerOpen {
			d.OpenBreakers++
		}
	}
	slices.SortFunc(d.Endpoints, func(x, y api.EndpointState) int { return strings.Compare(x.Endpoint, y.Endpoint) })
	return d, ctx.Err()
}

const (
	breakerOpen   = "open"
	breakerClosed = "closed"
)

func mergeEndpoint(all map[string]*api.EndpointState, e deliver.EndpointStatus) {
	s := all[e.Name]
	if s == nil {
		s = &api.EndpointState{Endpoint: e.Name, Breaker: breakerClosed, Concurrency: e.Limits.Concurrency, Rate: e.Limits.Rate}
		all[e.Name] = s
	}
	s.Out, s.Waiting = s.Out+e.Out, s.Waiting+e.Waiting
	if e.Failures >= s.Failures && e.Last != "" {
		s.Failures, s.LastOutcome = e.Failures, e.Last
	}
	if !e.Open {
		return
	}
	if s.Breaker != breakerOpen || e.Since.Before(s.Since) {
		s.Since = e.Since.UTC()
	}
	if s.Breaker != breakerOpen || e.Until.Before(s.NextTry) {
		s.NextTry = e.Until.UTC()
	}
	s.Breaker = breakerOpen
}

func (a *admin) askable() []string {
	names := []string{a.name}
	for _, m := range a.members.View() {
		if m.Name != a.name {
			names = append(names, m.Name)
		}
	}
	return names
}

func (a *admin) StopDelivery(ctx context.Context, reason, by string) (api.Delivery, error) {
	return a.setHalt(ctx, halting{Stopped: true, Reason: reason, By: by})
}

func (a *admin) StartDelivery(ctx context.Context, by string) (api.Delivery, error) {
	return a.setHalt(ctx, halting{By: by})
}

// setHalt writes the record. The nodes follow as soon as they have folded it, this one at once.
func (a *admin) setHalt(ctx context.Context, to halting) (api.Delivery, error) {
	if now, _ := a.halt.get(); now.Stopped != to.Stopped {
		to.At = time.Now().UTC()
		err := a.halt.change(ctx, controls{a.server}, func(old halting) (halting, error) {
			if old.Stopped == to.Stopped {
				return old, nil
			}
			return to, nil
		})
		if err != nil {
			return api.Delivery{}, refusal(err)
		}
		a.sayHalt()
		kind := eventStarted
		if to.Stopped {
			kind = eventStopped
		}
		a.events.tell(operatorEvent{Kind: kind, By: to.By, Reason: to.Reason})
	}
	return a.Delivery(ctx)
}

// ResetBreaker closes a breaker on all nodes.
func (a *admin) ResetBreaker(ctx context.Context, endpoint, by string) (api.Delivery, error) {
	name := deliver.EndpointName(endpoint)
	open := false
	for _, s := range askAll[bool](ctx, a.peers, a.askable(), "reset", func(string) any { return name }) {
		open = open || s.err == nil && s.value
	}
	if !open {
		return api.Delivery{}, fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf(
			"no breaker is open for %q; carillon deliver endpoints shows those that there are", endpoint))
	}
	a.log.Info("a breaker was reset", "endpoint", name, "by", by)
	return a.Delivery(ctx)
}

// hindrance is why nothing is sent for a Subscription at this moment although it is active; empty
// where nothing is in the way.
func (a *admin) hindrance(s *subscription) string {
	switch st, known := a.endpoints.Find(deliver.EndpointName(s.Channel.Endpoint)); {
	case s.Status != fhir.StatusActive:
	case a.halted():
		return "stopped"
	case a.subs.isPaused(s):
		return "paused"
	case known && st.Open:
		return "breaker open"
	}
	return ""
}
