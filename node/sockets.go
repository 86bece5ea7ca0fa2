package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/deliver/websocket"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/stream"
)

var (
	_ api.Sockets         = (*websocket.Hub)(nil)
	_ websocket.Announcer = (*socketPeers)(nil)
)

// makeSockets makes the hub of this node's websockets, and what pings those of the other nodes.
func (n *Node) makeSockets() {
	n.sockets = websocket.NewHub(websocket.Options{
		Bind:            n.bindSocket,
		Bound:           n.subs.bound,
		Login:           n.tokens.standing,
		Serving:         n.servingSockets(),
		Sockets:         n.cfg.Limits.Sockets,
		PerSubscription: n.cfg.Limits.SocketsPerSubscription,
		Log:             n.log,
		Observer:        n.observe.sockets(),
	})
	n.pings = &socketPeers{conn: n.server.Conn(), self: n.name, life: newRun(), hub: n.sockets, log: n.log,
		others: func() (names []string) {
			for _, name := range n.memberNames() {
				if name != n.name {
					names = append(names, name)
				}
			}
			return names
		},
		alone: !n.cfg.Clustered(), heard: map[string]announcement{}, asked: map[string]*question{},
	}
}

// startSockets comes before the lanes run: they ping.
func (n *Node) startSockets(context.Context) error {
	if err := n.pings.listen(); err != nil {
		return err
	}
	n.parts.all("sockets", []func(context.Context) error{n.sockets.Run, n.pings.run})
	return nil
}

// bindSocket finds the Subscription that a client wants to hear of. What was written by way of
// another node may not have come here yet.
func (n *Node) bindSocket(ctx context.Context, id fhir.ID) (record.Sequence, error) {
	birth, err := n.subs.bindable(id)
	if err == nil {
		return birth, nil
	}
	newest, lerr := n.gate.newest(ctx, stream.EventSubject(fhir.Key{Type: "Subscription", ID: id}))
	if lerr != nil || n.ring.wait(ctx, newest.Sequence) != nil {
		return 0, err
	}
	return n.subs.bindable(id)
}

// bindable is the life of a Subscription that sockets may be bound to now, or why they may not.
func (r *registry) bindable(id fhir.ID) (record.Sequence, error) {
	s := r.get(id)
	switch {
	case s == nil:
		return 0, unbindable(id, "is not known")
	case s.deleted:
		return 0, unbindable(id, "was deleted")
	case s.Channel.Type != websocket.Type:
		return 0, unbindable(id, "is not of channel type websocket")
	case s.Status == fhir.StatusOff:
		return 0, unbindable(id, "is off")
	case !s.End.IsZero() && !time.Now().Before(s.End):
		return 0, unbindable(id, "has ended")
	case !r.channelOn(websocket.Type):
		return 0, errors.New("websockets are not switched on here (delivery.channels)")
	case s.Status != fhir.StatusActive:
		return 0, unbindable(id, "is not active, its status is "+string(s.Status))
	case s.problem != "":
		return 0, unbindable(id, "cannot be evaluated")
	}
	return s.birth, nil
}

func unbindable(id fhir.ID, why string) error {
	return errors.New("Subscription/" + string(id) + " " + why)
}

// bound tells why sockets may no longer be bound to a life of a Subscription. One in error or
// paused keeps them, since it may go on.
func (r *registry) bound(id fhir.ID, birth record.Sequence) error {
	s := r.get(id)
	switch {
	case s == nil || s.deleted || s.birth != birth:
		return unbindable(id, "was deleted")
	case s.Channel.Type != websocket.Type:
		return unbindable(id, "is not of channel type websocket any more")
	case s.Status == fhir.StatusOff:
		return unbindable(id, "was switched off")
	case !s.End.IsZero() && !time.Now().Before(s.End):
		return unbindable(id, "has ended")
	}
	return nil
}

// standing tells why what a token opened must be closed. Whoever came without one may stay while
// nobody needs one.
func (t *tokens) standing(id string) error {
	all, _ := t.get()
	if id == "" && len(all) == 0 {
		return nil
	}
	for _, tok := range all {
		if tok.ID == id {
			return nil
		}
	}
	if id == "" {
		return errors.New("a login is needed by now: open the websocket again, with an API token")
	}
	return errors.New("the API token was revoked")
}

// cutOffAfter is how long a node may be without a lease before its clients are sent away. It is
// longer than the cluster takes to choose new leaders, when no other node would serve them better;
// what is missed meanwhile is made good (socketPeers).
const cutOffAfter = 30 * time.Second

// servingSockets tells, to one caller at a time or many, when this node hears of no changes.
func (n *Node) servingSockets() func() error {
	var mu sync.Mutex
	var since time.Time // when the lease was first seen to be gone
	return func() error {
		if n.members == nil || n.members.Held() {
			mu.Lock()
			since = time.Time{}
			mu.Unlock()
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < cutOffAfter {
			return nil
		}
		return errors.New("this node is cut off from its cluster: connect to another")
	}
}

// socketPeers pings the sockets of all nodes. The one that sends for a Subscription pings its own
// and announces it to the others in the account that is ours alone; each pings its own and answers
// how many, and one that has some is enough to know.
//
// The announcements of a node are counted, and it tells the count each second. Who hears that it
// missed some, because the nodes lost sight of one another for a moment, pings all its sockets once:
// a ping too many says nothing wrong, and a client that stays connected misses none.
type socketPeers struct {
	conn   *nats.Conn
	self   string
	life   string // this process
	alone  bool   // there are no others
	others func() []string
	hub    *websocket.Hub
	log    *slog.Logger

	subs []*nats.Subscription // from listen on

	mu    sync.Mutex
	inbox string
	count uint64                  // announcements made
	heard map[string]announcement // newest of each other node
	asked map[string]*question    // by the subject that answers come to
	next  uint64                  // of asked
}

const (
	announceSubject = "carillon.sockets"
	// announceWait is how long answers are awaited where none has told of a socket yet. A node that
	// takes longer pings its sockets all the same.
	announceWait = 300 * time.Millisecond
	countEvery   = time.Second
)

// announcement is one match to be pinged for, or, without a Subscription, the count alone.
type announcement struct {
	Node         string          `json:"node"`
	Run          string          `json:"run"`
	Count        uint64          `json:"count"` // announcements of this run, this one included
	Subscription fhir.ID         `json:"subscription,omitempty"`
	Birth        record.Sequence `json:"birth,omitempty"`
}

// pinged is the answer to an announcement.
type pinged struct {
	Node    string `json:"node"`
	Sockets int    `json:"sockets"`
}

// question is an announcement whose answers are awaited.
type question struct {
	missing map[string]bool // nodes that have not answered
	pinged  int
	done    chan struct{} // closed when one has pinged, or none is missing
}

// Ping is websocket.Announcer.
func (p *socketPeers) Ping(ctx context.Context, id fhir.ID, birth record.Sequence) (int, error) {
	here, err := p.hub.Ping(ctx, id, birth)
	if err != nil || p.alone {
		return here, err
	}
	if here > 0 { // the others are told, and nobody waits for them
		_, err := p.announce(id, birth, nil)
		p.failed(err)
		return here, nil
	}
	q := &question{missing: map[string]bool{}, done: make(chan struct{})}
	for _, name := range p.others() {
		q.missing[name] = true
	}
	nobody := len(q.missing) == 0
	reply, err := p.announce(id, birth, q) // from here on q is shared
	if err != nil {
		return 0, fmt.Errorf("ask the other nodes for websockets: %w", err)
	}
	defer func() {
		p.mu.Lock()
		delete(p.asked, reply)
		p.mu.Unlock()
	}()
	if !nobody {
		wait, cancel := context.WithTimeout(ctx, announceWait)
		defer cancel()
		select {
		case <-q.done:
		case <-wait.Done():
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return q.pinged, ctx.Err()
}

// announce tells the other nodes. Counted and published under one lock, announcements leave in
// the order of their counts.
func (p *socketPeers) announce(id fhir.ID, birth record.Sequence, q *question) (reply string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q != nil {
		if p.inbox == "" {
			return "", errors.New("this node is starting")
		}
		p.next++
		reply = fmt.Sprintf("%s.%d", p.inbox, p.next)
		p.asked[reply] = q
	}
	if id != "" {
		p.count++
	}
	data := record.Encode(announcement{Node: p.self, Run: p.life, Count: p.count, Subscription: id, Birth: birth})
	if err = p.conn.PublishMsg(&nats.Msg{Subject: announceSubject, Reply: reply, Data: data}); err != nil {
		delete(p.asked, reply)
	}
	return reply, err
}

func (p *socketPeers) failed(err error) {
	if err != nil {
		p.log.Debug("other nodes were not told of a ping", "err", err)
	}
}

// listen begins to hear the announcements of the others, and their answers. run ends it.
func (p *socketPeers) listen() error {
	if p.alone {
		return nil
	}
	inbox := nats.NewInbox()
	for subject, hear := range map[string]nats.MsgHandler{announceSubject: p.hear, inbox + ".*": p.answered} {
		sub, err := p.conn.Subscribe(subject, hear)
		if err != nil {
			return fmt.Errorf("hear of other nodes' websockets: %w", err)
		}
		p.subs = append(p.subs, sub)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inbox = inbox
	return nil
}

// run tells the other nodes the count until ctx ends.
func (p *socketPeers) run(ctx context.Context) error {
	defer func() {
		for _, sub := range p.subs {
			_ = sub.Unsubscribe() // the connection may be closed: there is nothing to be given up then
		}
	}()
	if p.alone {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_, err := p.announce("", 0, nil)
			p.failed(err)
		}
	}
}

// hear pings for an announcement of another node. One subscription hands them over one by one.
func (p *socketPeers) hear(m *nats.Msg) {
	var a announcement
	if err := json.Unmarshal(m.Data, &a); err != nil || a.Node == p.self {
		return
	}
	p.mu.Lock()
	before := p.heard[a.Node]
	p.heard[a.Node] = a
	p.mu.Unlock()
	if before.Run != a.Run {
		before.Count = 0
	}
	expected := before.Count
	if a.Subscription != "" {
		expected++
	}
	if a.Count != expected {
		p.hub.PingAll()
	}
	if a.Subscription == "" {
		return
	}
	sockets, err := p.hub.Ping(context.Background(), a.Subscription, a.Birth)
	if err == nil && m.Reply != "" {
		err = m.Respond(record.Encode(pinged{Node: p.self, Sockets: sockets}))
	}
	if err != nil {
		p.log.Debug("another node was not answered", "err", err)
	}
}

// answered takes an answer to an announcement of ours.
func (p *socketPeers) answered(m *nats.Msg) {
	var a pinged
	if json.Unmarshal(m.Data, &a) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.asked[m.Subject]
	if q == nil {
		return // too late
	}
	delete(q.missing, a.Node)
	q.pinged += a.Sockets
	if q.pinged > 0 || len(q.missing) == 0 {
		delete(p.asked, m.Subject)
		close(q.done)
	}
}

// socketsOp tells another node how many sockets are bound here to each of some Subscriptions.
func (n *Node) socketsOp(_ context.Context, body []byte) (any, error) {
	var ids []fhir.ID
	if err := json.Unmarshal(body, &ids); err != nil {
		return nil, err
	}
	counts := map[fhir.ID]int{}
	for _, id := range ids {
		if c := n.sockets.Bound(id); c > 0 {
			counts[id] = c
		}
	}
	return counts, nil
}

// countSockets adds how many sockets are bound on all nodes. Those of a node that does not answer
// are not counted.
func (a *admin) countSockets(ctx context.Context, list []api.SubscriptionStatus) {
	var ids []fhir.ID
	for _, st := range list {
		if st.Channel == websocket.Type {
			ids = append(ids, st.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	sum := map[fhir.ID]int{}
	for _, answer := range askAll[map[fhir.ID]int](ctx, a.peers, a.memberNames(), "sockets", func(string) any { return ids }) {
		for id, c := range answer.value {
			sum[id] += c
		}
	}
	for i := range list {
		if list[i].Channel == websocket.Type {
			list[i].Sockets = ptr(sum[list[i].ID])
		}
	}
}
