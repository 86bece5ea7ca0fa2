package websocket

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	ws "github.com/coder/websocket"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Options configure a Hub. Bind and Log must be given.
type Options struct {
	// Bind finds the life of a Subscription that a client may be bound to now. An error tells the
	// client why it may not, in a sentence. It may wait until this node knows what was written
	// before, within ctx.
	Bind func(ctx context.Context, id fhir.ID) (record.Sequence, error)
	// Bound looks at a Subscription that sockets are bound to: an error tells why they are no
	// longer. It answers from memory. Nil: they stay.
	Bound func(id fhir.ID, birth record.Sequence) error
	// Login looks at the token that a socket was opened with, by its id (empty: without one): an
	// error tells why that opens nothing any more. Nil: it does.
	Login func(token string) error
	// Serving tells why this node hears of no changes now, if so, such as a node that is cut off
	// from its cluster: clients are better off at another. Nil: it always does.
	Serving func() error
	// Log is told of clients that are cut off. Observer, for metrics, may have nil functions.
	Log      *slog.Logger
	Observer Observer

	Sockets         int // most that are open at once; 0: 10,000
	PerSubscription int // most that are bound to one Subscription here; 0: 1,000

	KeepAlive time.Duration // between the protocol's own pings; 0: 25 s
	PongWait  time.Duration // how long a client may take to answer one; 0: 10 s
	WriteWait time.Duration // how long a client may take to take a message; 0: 10 s
	Sweep     time.Duration // between looks at tokens and Subscriptions; 0: 1 s
}

// Observer is told what happens. Neither function may wait.
type Observer struct {
	Pinged func()             // a ping was put into the queue of a socket
	Ended  func(cause string) // a socket ended; the cause is one of a few words
}

// Limits that are not configured.
const (
	maxBinds   = 1000            // Subscriptions of one socket
	maxQueued  = 256             // messages that wait for one socket, but for one ping of each Subscription
	maxMessage = 1 << 10         // bytes of what a client says
	bindWait   = 5 * time.Second // of Options.Bind
	farewell   = 2 * time.Second // that clients have to answer a close at a stop
)

// Hub holds the sockets of one node. It is safe for concurrent use.
type Hub struct {
	o Options

	// mu guards what follows. It is held while messages are queued, and never while one is sent.
	mu     sync.RWMutex
	open   int // sockets, and those that are about to be
	all    map[*socket]struct{}
	bound  map[fhir.ID]map[*socket]record.Sequence // with the birth that each is bound to
	closed bool

	work sync.WaitGroup // sockets
}

// NewHub makes a Hub. Close ends it.
func NewHub(o Options) *Hub {
	def(&o.Sockets, 10_000)
	def(&o.PerSubscription, 1000)
	def(&o.KeepAlive, 25*time.Second)
	def(&o.PongWait, 10*time.Second)
	def(&o.WriteWait, 10*time.Second)
	def(&o.Sweep, time.Second)
	if o.Bound == nil {
		o.Bound = func(fhir.ID, record.Sequence) error { return nil }
	}
	if o.Login == nil {
		o.Login = func(string) error { return nil }
	}
	if o.Serving == nil {
		o.Serving = func() error { return nil }
	}
	return &Hub{o: o, all: map[*socket]struct{}{}, bound: map[fhir.ID]map[*socket]record.Sequence{}}
}

func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Serve makes a websocket of a request that was let in with a token, by its id, and returns when
// it has ended. The caller has judged the request's origin. An error is a refusal before there was
// a socket; where the request is no proper opening of a websocket it has been answered.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, token string) error {
	if err := h.enter(); err != nil {
		return err
	}
	defer h.leave()
	conn, err := ws.Accept(w, r, &ws.AcceptOptions{Subprotocols: []string{Subprotocol}, InsecureSkipVerify: true})
	if err != nil {
		return nil // it is answered, with what the protocol says of it
	}
	newSocket(h, conn, token).run()
	return nil
}

// Subprotocol is agreed on with a client that offers it. One that offers any must find one of its
// own in the answer (RFC 6455 4.1), and a browser has no other place for its token.
const Subprotocol = "carillon"

// enter takes a place for a socket.
func (h *Hub) enter() error {
	if err := h.o.Serving(); err != nil {
		return fhir.Refuse(fhir.IssueTransient, "", err.Error())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return fhir.Refuse(fhir.IssueTransient, "", stopping)
	case h.open >= h.o.Sockets:
		return fhir.Refuse(fhir.IssueThrottled, "", "this node has "+strconv.Itoa(h.open)+" websockets open, which is its limit (limits.sockets)")
	}
	h.open++
	h.work.Add(1)
	return nil
}

const stopping = "the node is stopping"

func (h *Hub) leave() {
	h.mu.Lock()
	h.open--
	h.mu.Unlock()
	h.work.Done()
}

// add makes a socket known. It is false when the Hub was closed meanwhile.
func (h *Hub) add(s *socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.all[s] = struct{}{}
	return true
}

// remove forgets a socket: nothing is queued for it any more.
func (h *Hub) remove(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, s)
	for id := range s.binds {
		delete(h.bound[id], s)
		if len(h.bound[id]) == 0 {
			delete(h.bound, id)
		}
	}
	s.binds = nil
}

// bind binds a socket and queues what tells its client so, before any ping. A reason is why not.
func (h *Hub) bind(s *socket, id fhir.ID, birth record.Sequence) (reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.all[s]; !known {
		return "" // it has ended
	}
	there := h.bound[id]
	if _, again := there[s]; !again {
		switch {
		case len(there) >= h.o.PerSubscription:
			return "Subscription/" + string(id) + " has " + strconv.Itoa(len(there)) + " sockets at this node, its limit"
		case len(s.binds) >= maxBinds:
			return "a socket may be bound to " + strconv.Itoa(maxBinds) + " Subscriptions"
		case there == nil:
			there = map[*socket]record.Sequence{}
			h.bound[id] = there
		}
	}
	there[s] = birth
	if s.binds == nil {
		s.binds = map[fhir.ID]struct{}{}
	}
	s.binds[id] = struct{}{}
	if !s.say("bound " + string(id)) {
		return unread
	}
	return ""
}

// Ping pings the sockets that are bound to a life of a Subscription here, and gives how many there
// are. It does not wait for any of them.
func (h *Hub) Ping(_ context.Context, id fhir.ID, birth record.Sequence) (int, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	pinged := 0
	for s, b := range h.bound[id] {
		if b == birth {
			h.ping(s, id)
			pinged++
		}
	}
	return pinged, nil
}

func (h *Hub) ping(s *socket, id fhir.ID) {
	s.ping(id)
	if f := h.o.Observer.Pinged; f != nil {
		f()
	}
}

// PingAll pings every socket for everything that it is bound to: this node may have missed
// something, and a ping for nothing does no harm.
func (h *Hub) PingAll() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for id, there := range h.bound {
		for s := range there {
			h.ping(s, id)
		}
	}
}

// Changed looks again whether sockets may stay bound to a Subscription.
func (h *Hub) Changed(id fhir.ID) {
	h.mu.RLock()
	there := make(map[*socket]record.Sequence, len(h.bound[id]))
	for s, birth := range h.bound[id] {
		there[s] = birth
	}
	h.mu.RUnlock()
	for s, birth := range there {
		if err := h.o.Bound(id, birth); err != nil {
			s.end(ws.StatusNormalClosure, err.Error(), "subscription")
		}
	}
}

// Open is how many sockets take a place of the limit: one that is ending does until it has ended.
func (h *Hub) Open() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.open
}

// Bound is how many sockets are bound to a Subscription here.
func (h *Hub) Bound(id fhir.ID) int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.bound[id])
}

// Run looks, time and again, whether tokens, Subscriptions and this node still are what the sockets
// were opened for, until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	tick := time.NewTicker(h.o.Sweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.sweep()
		}
	}
}

func (h *Hub) sweep() {
	if err := h.o.Serving(); err != nil {
		for _, s := range h.sockets() {
			s.end(ws.StatusTryAgainLater, err.Error(), "cut-off")
		}
		return
	}
	logins := map[string]error{} // many sockets may have one token
	for _, s := range h.sockets() {
		err, known := logins[s.token]
		if !known {
			err = h.o.Login(s.token)
			logins[s.token] = err
		}
		if err != nil {
			s.end(ws.StatusPolicyViolation, err.Error(), "login")
		}
	}
	h.mu.RLock()
	ids := make([]fhir.ID, 0, len(h.bound))
	for id := range h.bound {
		ids = append(ids, id)
	}
	h.mu.RUnlock()
	for _, id := range ids {
		h.Changed(id)
	}
}

func (h *Hub) sockets() []*socket {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := make([]*socket, 0, len(h.all))
	for s := range h.all {
		list = append(list, s)
	}
	return list
}

// Close ends all sockets, since the node stops, and waits until they are gone. Those whose clients
// do not answer are cut after two seconds. Afterwards Serve refuses everybody.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	ending := h.sockets()
	for _, s := range ending {
		s.end(ws.StatusGoingAway, stopping, "stop")
	}
	patience := time.AfterFunc(farewell, func() {
		for _, s := range ending {
			s.cut()
		}
	})
	defer patience.Stop()
	h.work.Wait()
}
