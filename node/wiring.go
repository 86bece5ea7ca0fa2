package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// Where the parts meet: each says in an interface what it needs, and these fill them.
var (
	_ match.Events     = partitionEvents{}
	_ match.Bodies     = matchBodies{}
	_ match.Blocks     = blocks{}
	_ match.DeadIngest = deadIngest{}

	_ deliver.Queue       = queue{}
	_ deliver.Outcomes    = (*outcomes)(nil)
	_ deliver.Tokens      = laneTokens{}
	_ deliver.DeadLetters = deadLetters{}
	_ deliver.Targets     = (*registry)(nil)
	_ deliver.Renderer    = renderer{}
	_ deliver.Renderer    = formats{}

	_ api.Backend = backend{}
	_ api.Admin   = (*admin)(nil)
	_ api.Tokens  = logins{}

	_ controlLog = controls{}
)

// makeLanes builds the lanes. They do not run yet.
func (n *Node) makeLanes() error {
	run := newRun()
	if err := n.startSharing(run); err != nil {
		return err
	}
	out := &outcomes{server: n.server, store: n.store, node: n.name, run: run, alive: n.alive, last: map[string]record.Sequence{}}
	n.owner = out.owner()
	n.lanes = map[string]*deliver.Lane{}
	var err error
	if n.channels, err = n.makeChannels(); err != nil {
		return err
	}
	for _, l := range stream.Lanes() {
		lane, err := deliver.NewLane(deliver.Config{
			Name:        l.Name,
			Queue:       queue{store: n.store, subs: n.subs, versions: n.versions},
			Outcomes:    out,
			Tokens:      laneTokens{n.server},
			DeadLetters: deadLetters{n.server},
			Targets:     n.subs,
			Renderer:    n.renderer(),
			Channels:    n.channels,
			Log:         n.log,
			Observer:    n.delivering(),
			Endpoints:   n.endpoints,
			Allowed:     func() bool { return n.members.Held() },
			Halted:      n.halted,
			OnGone: func(ctx context.Context, id fhir.ID, birth record.Sequence) error {
				return n.stopped(ctx, id, birth, fhir.StatusOff, "the endpoint answered 410 Gone")
			},
			OnDisabled: func(ctx context.Context, id fhir.ID, birth record.Sequence) error {
				return n.stopped(ctx, id, birth, fhir.StatusOff, "the receiver asked for it (webhook-delivery: disable)")
			},
			OnExhausted: func(ctx context.Context, id fhir.ID, birth record.Sequence) error {
				return n.stopped(ctx, id, birth, fhir.StatusError, "the attempts to deliver a notification were spent")
			},
		})
		if err != nil {
			return err
		}
		n.lanes[l.Name] = lane
	}
	return nil
}

// lanePlaces bounds the tokens of a lane that are out or wait: two for each Subscription.
func (n *Node) lanePlaces() int { return max(1024, 2*len(n.subs.all())) }

// growLanes gives the lanes' consumers more places when there are more Subscriptions. Tokens
// beyond the places would wait in the stream and never be delivered.
func (n *Node) growLanes(ctx context.Context) {
	places := n.lanePlaces()
	if places <= n.places {
		return
	}
	places *= 2 // not for each new Subscription
	if err := n.server.DeclareLanes(ctx, places); err != nil {
		n.log.Warn("lanes were not given more places", "places", places, "err", err)
		return
	}
	n.places = places
}

func (n *Node) startDelivery(ctx context.Context) error {
	n.places = n.lanePlaces()
	if err := n.server.DeclareLanes(ctx, n.places); err != nil {
		return err
	}
	n.runSharing()
	var tasks []task
	for _, l := range stream.Lanes() {
		tasks = append(tasks, task{kind: "lane", group: l.Class, name: l.Name, run: n.lanes[l.Name].Run})
	}
	n.own("delivery", n.delivery, tasks)
	return nil
}

// laneTokens is the lanes' durable consumers (deliver.Tokens).
type laneTokens struct{ server *stream.Server }

func (t laneTokens) Publish(ctx context.Context, lane string, subscription fhir.ID, id record.MatchID) error {
	return t.server.PublishToken(ctx, lane, subscription, record.Encode(id))
}

func (t laneTokens) Receive(ctx context.Context, lane string, fn func(deliver.Token)) error {
	return t.server.Tokens(ctx, lane, func(st stream.Token) {
		var id record.MatchID
		if err := json.Unmarshal(st.Data, &id); err != nil {
			st.Term("not a token")
			return
		}
		fn(laneToken{st, id})
	})
}

type laneToken struct {
	stream.Token
	id record.MatchID
}

func (t laneToken) MatchID() record.MatchID { return t.id }
func (t laneToken) NumDelivered() int       { return t.Token.NumDelivered }
func (t laneToken) Term() error             { return t.Token.Term("attempts are spent") }

// subscriptionChanged is called by the feed, in the order of the log.
func (n *Node) subscriptionChanged(s *subscription) {
	for _, l := range n.lanes {
		l.Changed(s.id)
	}
	n.ends.set(s)
	n.sockets.Changed(s.id)
	n.authority.changed(s)
}

// tokensChanged takes over the API tokens, and looks at whose Subscriptions they leave.
func (n *Node) tokensChanged(seq record.Sequence, data []byte) error {
	err := n.tokens.apply(seq, data)
	n.authority.look()
	return err
}

func (n *Node) startTimers(context.Context) error {
	n.parts.all("timers", []func(context.Context) error{
		n.ends.run,
		n.authority.run,
		func(ctx context.Context) error {
			return n.server.Due(ctx, func(t stream.Timer) error {
				var end ending
				if err := json.Unmarshal(t.Data, &end); err != nil {
					n.log.Error("timer cannot be read", "key", t.Key, "err", err)
					return nil
				}
				if err := n.gate.endReached(ctx, end.Subscription, end.Birth, end.Version); err != nil {
					return err
				}
				// An earlier end that a node set late may have replaced the timer of this one.
				if s := n.subs.get(end.Subscription); s != nil && time.Until(s.End) > 0 {
					n.ends.set(s)
				}
				return nil
			})
		},
		func(ctx context.Context) error {
			return n.server.Exhausted(ctx, func(lane string) error {
				n.log.Warn("the engine gave up a token, the lane's sweep will see to its match", "lane", lane)
				return nil
			})
		},
	})
	return nil
}

func (n *Node) startProducers(context.Context) error {
	g := &natsGate{log: n.log, server: n.server, tokens: n.tokens, gate: n.gate, defs: n.defs, size: int(n.cfg.Limits.ResourceSize),
		refused: n.observe.refused, slot: make(chan struct{}, producerSlots)}
	n.parts.run("producers", g.run)
	return nil
}

// pausedChanged takes over who is paused and tells the lanes.
func (n *Node) pausedChanged(seq record.Sequence, data []byte) error {
	before, _ := n.subs.paused.get()
	if err := n.subs.paused.apply(seq, data); err != nil {
		return err
	}
	after, _ := n.subs.paused.get()
	for _, set := range []pausedSet{before, after} {
		for id := range set {
			for _, l := range n.lanes {
				l.Changed(id)
			}
		}
	}
	return nil
}

// controls writes and reads control records in EVENTS.
type controls struct{ server *stream.Server }

func (c controls) newest(ctx context.Context, subject string) (stream.Message, error) {
	m, err := c.server.LastFor(ctx, stream.Events, subject)
	if err == nil {
		err = readable(m)
	}
	return m, err
}

func (c controls) append(ctx context.Context, subject string, data []byte, expect record.Sequence) (record.Sequence, error) {
	return c.server.Append(ctx, stream.Events, subject, data, expect)
}

// differs says why a projection cannot have been folded from these logs; empty if it can.
func differs(ctx context.Context, server *stream.Server, s *store.Store) (string, error) {
	at := s.Position()
	for _, l := range []struct {
		name  string
		which store.Stream
		at    record.Sequence
		sum   func(stream.Message) (uint32, error)
	}{
		{stream.Events, store.Events, at.Events, func(m stream.Message) (uint32, error) {
			e, _, err := parseEvent(m)
			return store.SumEvent(&e), err
		}},
		{stream.Matches, store.Matches, at.Matches, func(m stream.Message) (uint32, error) {
			b, j, _ := parseMatches(m) // what cannot be read now could not be read then
			return store.SumMatches(b, j), nil
		}},
		{stream.Outcomes, store.Outcomes, at.Outcomes, func(m stream.Message) (uint32, error) {
			var b record.OutcomeBlock
			if json.Unmarshal(m.Data, &b) != nil {
				return store.SumOutcomes(nil), nil
			}
			return store.SumOutcomes(&b), nil
		}},
		{stream.Dead, store.Dead, at.Dead, func(m stream.Message) (uint32, error) {
			d, err := parseDead(m)
			if err != nil {
				return store.SumDead(nil), nil
			}
			return store.SumDead(&d), nil
		}},
	} {
		_, last, err := server.State(ctx, l.name)
		if err != nil {
			return "", err
		}
		if last < l.at {
			return fmt.Sprintf("%s ends at %d, and %d of it were folded", l.name, last, l.at), nil
		}
		seq, sum := s.LastRecord(l.which)
		if seq == 0 {
			continue
		}
		m, err := server.Get(ctx, l.name, seq)
		if errors.Is(err, stream.ErrNotFound) {
			continue // purged by hand; its place in the log is still there
		}
		if err != nil {
			return "", err
		}
		if err := readable(m); err != nil {
			return "", err
		}
		if have, err := l.sum(m); err != nil || have != sum {
			return fmt.Sprintf("%s has another record at %d than the one that was folded", l.name, seq), nil
		}
	}
	return "", nil
}
