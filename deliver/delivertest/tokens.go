package delivertest

import (
	"context"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// engine stands in for the token stream and its durable consumer. All is guarded by World.mu.
type engine struct {
	held      []*message
	receiver  func(deliver.Token)
	published int
	delivered int
	lose      int           // tokens still to be lost
	copies    int           // more of each token
	early     time.Duration // how much too early a delayed token comes back
}

const ackWait = 25 * time.Second

type message struct {
	id        record.MatchID
	delivered int
	done      bool
	timer     *time.Timer
}

// LoseTokens makes the next n tokens vanish after they were published.
func (w *World) LoseTokens(n int) { w.tokens(func(e *engine) { e.lose = n }) }

// CopyTokens makes n more of each token.
func (w *World) CopyTokens(n int) { w.tokens(func(e *engine) { e.copies = n }) }

// HurryTokens makes delayed tokens come back too early.
func (w *World) HurryTokens(d time.Duration) { w.tokens(func(e *engine) { e.early = d }) }

// ForgetTokens empties the stream, as a restart does that keeps it in memory.
func (w *World) ForgetTokens() {
	w.tokens(func(e *engine) {
		for _, m := range e.held {
			m.done = true
			m.timer.Stop()
		}
		e.held = nil
	})
}

// Tokens gives how many were ever published, and how many the stream holds now.
func (w *World) Tokens() (published, held int) {
	w.tokens(func(e *engine) {
		published = e.published
		for _, m := range e.held {
			if !m.done {
				held++
			}
		}
	})
	return published, held
}

// TokenDeliveries counts every delivery of every token.
func (w *World) TokenDeliveries() (n int) {
	w.tokens(func(e *engine) { n = e.delivered })
	return n
}

func (w *World) tokens(f func(*engine)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.engine)
}

// Tokens is the owner's deliver.Tokens.
func (o *Owner) Tokens() deliver.Tokens { return tokens{o} }

type tokens struct{ *Owner }

func (t tokens) Publish(_ context.Context, _ string, _ fhir.ID, id record.MatchID) error {
	w := t.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.dead {
		return deliver.ErrLost
	}
	w.engine.published++
	if w.engine.lose > 0 {
		w.engine.lose--
		return nil
	}
	for range 1 + w.engine.copies {
		m := &message{id: id}
		m.timer = time.AfterFunc(0, func() { w.deliver(m) })
		w.engine.held = append(w.engine.held, m)
	}
	return nil
}

func (t tokens) Receive(ctx context.Context, _ string, fn func(deliver.Token)) error {
	w := t.world
	w.tokens(func(e *engine) { e.receiver = fn })
	<-ctx.Done()
	w.tokens(func(e *engine) { e.receiver = nil })
	return ctx.Err()
}

// deliver gives a token to the receiver, and again after the ack wait if it is not answered.
func (w *World) deliver(m *message) {
	w.mu.Lock()
	fn := w.engine.receiver
	if m.done {
		w.mu.Unlock()
		return
	}
	if fn == nil { // nobody pulls
		m.timer = time.AfterFunc(time.Second, func() { w.deliver(m) })
		w.mu.Unlock()
		return
	}
	m.delivered++
	w.engine.delivered++
	n := m.delivered
	m.timer = time.AfterFunc(ackWait, func() { w.deliver(m) })
	w.mu.Unlock()
	fn(token{w, m, n})
}

type token struct {
	world *World
	m     *message
	n     int
}

func (t token) MatchID() record.MatchID { return t.m.id }
func (t token) NumDelivered() int       { return t.n }
func (t token) Ack() error              { return t.end() }
func (t token) Term() error             { return t.end() }

func (t token) end() error {
	t.world.mu.Lock()
	defer t.world.mu.Unlock()
	t.m.done = true
	t.m.timer.Stop()
	return nil
}

func (t token) NakWithDelay(d time.Duration) error {
	t.world.mu.Lock()
	defer t.world.mu.Unlock()
	t.m.timer.Stop()
	if d > t.world.engine.early {
		d -= t.world.engine.early
	}
	t.m.timer = time.AfterFunc(d, func() { t.world.deliver(t.m) })
	return nil
}

func (t token) InProgress() error {
	t.world.mu.Lock()
	defer t.world.mu.Unlock()
	t.m.timer.Reset(ackWait)
	return nil
}
