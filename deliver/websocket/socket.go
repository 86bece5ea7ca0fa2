package websocket

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	ws "github.com/coder/websocket"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// socket is one connection. Its reader runs in the goroutine of the request, its writer has one of
// its own, and whoever ends it leaves the parting to another.
type socket struct {
	hub   *Hub
	conn  *ws.Conn
	token string          // id of the one that opened it; empty without login
	ctx   context.Context // ends when the connection is to be cut
	cut   context.CancelFunc
	ended atomic.Bool
	over  chan struct{} // closed when whoever ended it, if not its client, is through with it

	binds map[fhir.ID]struct{} // guarded by the hub's mu

	// mu guards the queue, of which the writer takes.
	mu      sync.Mutex
	queue   []message
	waiting map[fhir.ID]int // pings in the queue
	wake    chan struct{}   // one waiting signal for the writer
}

// message is a ping of a Subscription, or something else to be said.
type message struct {
	id   fhir.ID // of a ping; empty for text
	text string
}

// unread is why a client is cut off that talks and does not listen.
const unread = "too many answers wait to be read"

func newSocket(h *Hub, conn *ws.Conn, token string) *socket {
	s := &socket{hub: h, conn: conn, token: token, waiting: map[fhir.ID]int{}, wake: make(chan struct{}, 1), over: make(chan struct{})}
	s.ctx, s.cut = context.WithCancel(context.Background())
	return s
}

// run serves the connection until it has ended.
func (s *socket) run() {
	defer s.cut()
	s.conn.SetReadLimit(maxMessage)
	if !s.hub.add(s) {
		s.end(ws.StatusGoingAway, stopping, "stop")
		defer time.AfterFunc(farewell, s.cut).Stop() // Close does not know of it
	}
	var writer sync.WaitGroup
	writer.Go(s.write)
	s.read()
	if !s.finish("client") {
		<-s.over
	}
	s.cut()
	writer.Wait()
	_ = s.conn.CloseNow() // it is closed, whatever ended the reading; the library wants it said
}

// finish takes the socket out of the hub, once, and tells the cause.
func (s *socket) finish(cause string) bool {
	if s.ended.Swap(true) {
		return false
	}
	s.hub.remove(s)
	if f := s.hub.o.Observer.Ended; f != nil {
		f(cause)
	}
	return true
}

// end closes the connection with a reason, once, and does not wait for the client to agree.
func (s *socket) end(code ws.StatusCode, reason, cause string) {
	if !s.finish(cause) {
		return
	}
	s.hub.o.Log.Debug("websocket closed", "cause", cause, "reason", reason)
	go func() { // run waits for it
		defer close(s.over)
		// An error is the client's: there is nobody left to tell.
		_ = s.conn.Close(code, clip(reason, maxReason))
		s.cut()
	}()
}

// maxReason is how long the reason of a close may be, in bytes (RFC 6455 5.5).
const maxReason = 123

// clip shortens a text to at most n bytes, between characters.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

// read hears the client out until the connection ends. The library answers its pings meanwhile.
func (s *socket) read() {
	for {
		kind, data, err := s.conn.Read(s.ctx)
		switch {
		case err != nil:
			return
		case s.ended.Load(): // the close is on its way, and the client has not seen it yet
		case kind != ws.MessageText:
			s.end(ws.StatusUnsupportedData, "say bind ID, as text", "protocol")
		default:
			s.hear(string(data))
		}
	}
}

// hear answers one message of the client.
func (s *socket) hear(text string) {
	wish, ok := strings.CutPrefix(strings.TrimSpace(text), "bind")
	if !ok || wish != "" && wish[0] != ' ' && wish[0] != '\t' {
		// In these words HAPI answers once a socket is bound; before, it says nothing.
		if !s.say("Unexpected client message: " + clip(text, 200)) {
			s.end(ws.StatusPolicyViolation, unread, "protocol")
		}
		return
	}
	id := fhir.ID(strings.TrimPrefix(strings.TrimSpace(wish), "Subscription/"))
	switch {
	case id == "":
		s.refuse("bind names no Subscription: say bind ID")
		return
	case !id.Valid():
		s.refuse("bind takes the id of a Subscription: bind ID, or bind Subscription/ID")
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, bindWait)
	defer cancel()
	birth, err := s.hub.o.Bind(ctx, id)
	if err != nil {
		s.refuse(err.Error())
		return
	}
	if reason := s.hub.bind(s, id, birth); reason != "" {
		s.end(ws.StatusTryAgainLater, reason, "limit")
		return
	}
	// What was switched off between the look and the binding has told nobody here.
	if err := s.hub.o.Bound(id, birth); err != nil {
		s.end(ws.StatusNormalClosure, err.Error(), "subscription")
	}
}

// refuse closes for a bind that cannot be (HAPI closes with the same code).
func (s *socket) refuse(reason string) { s.end(ws.StatusProtocolError, reason, "bind") }

// say queues a text. It is false where too many wait already.
func (s *socket) say(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) >= maxQueued {
		return false
	}
	s.put(message{text: text})
	return true
}

// ping queues a ping. Where many messages wait, one ping of a Subscription is enough.
func (s *socket) ping(id fhir.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) >= maxQueued && s.waiting[id] > 0 {
		return
	}
	s.waiting[id]++
	s.put(message{id: id, text: "ping " + string(id)})
}

func (s *socket) put(m message) {
	s.queue = append(s.queue, m)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take gives what waits, if anything does.
func (s *socket) take() []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.queue
	s.queue = nil
	clear(s.waiting)
	return all
}

// write sends what is queued, and sees that the client is still there, until the connection ends.
func (s *socket) write() {
	var probes sync.WaitGroup
	defer probes.Wait()
	keepAlive := time.NewTicker(s.hub.o.KeepAlive)
	defer keepAlive.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-keepAlive.C:
			probes.Go(s.probe)
		case <-s.wake:
			for _, m := range s.take() {
				if !s.send(m.text) {
					return
				}
			}
		}
	}
}

// send writes one message, which its client has to take in time.
func (s *socket) send(text string) bool {
	late := time.AfterFunc(s.hub.o.WriteWait, s.slow)
	defer late.Stop()
	if s.conn.Write(s.ctx, ws.MessageText, []byte(text)) == nil {
		return true
	}
	s.cut()
	return false
}

// slow cuts the connection of a client that takes nothing: with so much before it unread, no reason
// would get through either, so the log alone has it. The cause is told before the cut, which ends the
// reading too: that would otherwise say that the client had left.
func (s *socket) slow() {
	if s.finish("slow") {
		s.hub.o.Log.Warn("websocket cut: its client takes nothing", "token", s.token, "waited", s.hub.o.WriteWait)
		close(s.over)
	}
	s.cut()
}

// probe asks the client for a sign of life. One that reads nothing gives none, and is told so: the
// reason waits for it behind what it has not read.
func (s *socket) probe() {
	ctx, cancel := context.WithTimeout(s.ctx, s.hub.o.PongWait)
	defer cancel()
	if !errors.Is(s.conn.Ping(ctx), context.DeadlineExceeded) {
		return // it answered, or its connection has ended
	}
	s.end(ws.StatusPolicyViolation, "no answer to a ping within "+s.hub.o.PongWait.String()+": the client is gone, or reads too slowly", "silent")
}
