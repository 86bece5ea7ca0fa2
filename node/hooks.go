package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/node/hook"
	"github.com/carillon-fhir/carillon/stream"
)

// hooks calls the interceptors, in their order, and keeps what goes wrong in them from everybody
// else. Package hook has the rules.
type hooks struct {
	list []hook.Interceptor
	log  *slog.Logger
}

// hooks are those of the interceptors that the node was given.
func (n *Node) hooks() *hooks { return &hooks{list: n.added.interceptors, log: n.log} }

// errPanicked stands for a panic of a hook.
var errPanicked = errors.New("panicked")

// call calls one hook of one interceptor. What it panicked with may hold a piece of the resource,
// so it is not repeated; the stack is.
func (h *hooks) call(i *hook.Interceptor, name string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("an interceptor panicked", "interceptor", i.Name, "hook", name, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = errPanicked
		}
		if err != nil && !errors.Is(err, hook.ErrVeto) {
			err = fmt.Errorf("interceptor %s, %s: %w", i.Name, name, err)
		}
	}()
	return f()
}

// matching gives the runners what they ask; nothing where no interceptor takes part in it.
func (h *hooks) matching() match.Hooks {
	var m match.Hooks
	for i := range h.list {
		if h.list[i].BeforeMatch != nil {
			m.Before = h.beforeMatch
		}
		if h.list[i].AfterMatch != nil {
			m.Keep = h.afterMatch
		}
	}
	return m
}

func changeOf(c *record.Change, body []byte) hook.Change {
	return hook.Change{Sequence: c.Sequence, Time: c.Time, Key: c.Key, Interaction: c.Interaction, Body: body}
}

func (h *hooks) beforeMatch(ctx context.Context, c *record.Change, body []byte) (state []byte, ok bool, err error) {
	for i := range h.list {
		f := h.list[i].BeforeMatch
		if f == nil {
			continue
		}
		change := changeOf(c, body)
		if err := h.call(&h.list[i], "BeforeMatch", func() error { return f(ctx, &change) }); err != nil {
			return nil, false, unlessVeto(err)
		}
		body = change.Body
	}
	return body, true, nil
}

func (h *hooks) afterMatch(ctx context.Context, c *record.Change, body []byte, hit index.Hit) (bool, error) {
	m := hook.Match{Subscription: hit.ID, Birth: hit.Birth, Version: hit.Version}
	for i := range h.list {
		if f := h.list[i].AfterMatch; f != nil {
			if err := h.call(&h.list[i], "AfterMatch", func() error { return f(ctx, changeOf(c, body), m) }); err != nil {
				return false, unlessVeto(err)
			}
		}
	}
	return true, nil
}

// resending lets the hooks on matching object to what is sent by hand, as they do to a change. The
// criteria were asked about the state that is stored, so another one that a hook gives is of no use.
func (h *hooks) resending(ctx context.Context, c record.Change, body []byte, hits []index.Hit) ([]index.Hit, error) {
	ask := h.matching()
	if len(hits) == 0 {
		return hits, nil
	}
	if ask.Before != nil {
		if _, ok, err := ask.Before(ctx, &c, body); err != nil {
			return nil, undecidable(hits[0].ID, err)
		} else if !ok {
			return nil, nil
		}
	}
	if ask.Keep == nil {
		return hits, nil
	}
	kept := hits[:0]
	for _, hit := range hits {
		ok, err := ask.Keep(ctx, &c, body, hit)
		if err != nil {
			return nil, undecidable(hit.ID, err)
		}
		if ok {
			kept = append(kept, hit)
		}
	}
	return kept, nil
}

func unlessVeto(err error) error {
	if errors.Is(err, hook.ErrVeto) {
		return nil
	}
	return err
}

// beforeDelivery lets the interceptors change what is sent, and where to. What else they have
// changed of what they were shown is put back.
func (h *hooks) beforeDelivery(ctx context.Context, n *deliver.Notification, t *deliver.Target) *deliver.Error {
	for i := range h.list {
		f := h.list[i].BeforeDelivery
		if f == nil {
			continue
		}
		d := hook.Delivery{Notification: *n, Target: *t}
		if err := h.call(&h.list[i], "BeforeDelivery", func() error { return f(ctx, &d) }); err != nil {
			return objection(ctx, err)
		}
		if !stream.ValidKey(d.Key) { // it becomes a part of an address
			return objection(ctx, fmt.Errorf("interceptor %s, BeforeDelivery: the key is not of a resource", h.list[i].Name))
		}
		n.Key, n.Body, n.ContentType, n.Headers = d.Key, d.Body, d.ContentType, d.Headers
		t.Endpoint = d.Target.Endpoint
	}
	return nil
}

func (h *hooks) beforeMessage(ctx context.Context, n deliver.Notification, t deliver.Target, m *message.Message) *deliver.Error {
	for i := range h.list {
		f := h.list[i].BeforeMessage
		if f == nil {
			continue
		}
		shown := message.Message{Subject: m.Subject, Header: copyHeader(m.Header), Custom: copyHeader(m.Custom), Body: m.Body}
		if err := h.call(&h.list[i], "BeforeMessage", func() error {
			return f(ctx, hook.Delivery{Notification: n, Target: t}, &shown)
		}); err != nil {
			return objection(ctx, err)
		}
		m.Custom, m.Body = shown.Custom, shown.Body
	}
	return nil
}

func copyHeader(h map[string][]string) map[string][]string {
	out := make(map[string][]string, len(h))
	for name, values := range h {
		out[name] = append([]string(nil), values...)
	}
	return out
}

// objection is what becomes of an attempt that a hook ends before anything was sent.
func objection(ctx context.Context, err error) *deliver.Error {
	switch {
	case errors.Is(err, hook.ErrVeto):
		return &deliver.Error{Code: record.Skipped, Err: err}
	case ctx.Err() != nil: // no timeout of an endpoint, which was not asked
		return &deliver.Error{Code: record.PublishError, Err: fmt.Errorf("the time ran out in an interceptor: %w", ctx.Err())}
	case errors.Is(err, hook.ErrRetry):
		return &deliver.Error{Code: record.PublishError, Err: err}
	}
	return &deliver.Error{Code: record.RenderError, Err: err, Permanent: true}
}

func (h *hooks) afterDelivery(ctx context.Context, n deliver.Notification, t deliver.Target, r deliver.Receipt) {
	for i := range h.list {
		if f := h.list[i].AfterDelivery; f != nil {
			h.call(&h.list[i], "AfterDelivery", func() error { f(ctx, hook.Delivery{Notification: n, Target: t}, r); return nil })
		}
	}
}

// afterFailure gives what the failure counts as. What is no attempt, and what we broke off
// ourselves, nobody is asked about.
func (h *hooks) afterFailure(ctx context.Context, n deliver.Notification, t deliver.Target, failure *deliver.Error) *deliver.Error {
	if !failure.Code.IsAttempt() || errors.Is(ctx.Err(), context.Canceled) {
		return failure
	}
	for i := range h.list {
		f := h.list[i].AfterFailure
		if f == nil {
			continue
		}
		verdict, told := hook.AsUsual, *failure
		h.call(&h.list[i], "AfterFailure", func() error {
			verdict = f(ctx, hook.Delivery{Notification: n, Target: t}, &told)
			return nil
		})
		switch verdict {
		case hook.GiveUp:
			final := *failure
			final.Permanent = true
			return &final
		case hook.Swallow:
			h.log.Info("a failed delivery is dropped, as an interceptor wants", "interceptor", h.list[i].Name,
				"subscription", n.Subscription, "event", n.Number, "attempt", n.Attempt, "err", failure)
			return &deliver.Error{Code: record.Skipped, Err: failure}
		}
	}
	return failure
}

// hooked is a channel with the interceptors around it, and the copies of named channels.
type hooked struct {
	deliver.Channel
	hooks    *hooks
	messages *message.Channel
	copies   *copies
	version  fhir.Version
}

// hook puts every channel among the interceptors.
func (n *Node) hook(channels map[string]deliver.Channel, h *hooks, m *message.Channel) map[string]deliver.Channel {
	copies := &copies{store: n.store}
	for name, c := range channels {
		channels[name] = &hooked{Channel: c, hooks: h, messages: m, copies: copies, version: n.fhir}
	}
	return channels
}

// Send makes one attempt: the interceptors, the copy, the notification, the interceptors.
func (c *hooked) Send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	if len(c.hooks.list) == 0 {
		return c.send(ctx, n, t)
	}
	if failure := c.hooks.beforeDelivery(ctx, &n, &t); failure != nil {
		return deliver.Receipt{}, failure
	}
	receipt, failure := c.send(ctx, n, t)
	if failure != nil {
		return receipt, c.hooks.afterFailure(ctx, n, t, failure)
	}
	c.hooks.afterDelivery(ctx, n, t, receipt)
	return receipt, nil
}

// send makes the copy first, where there is one to be made: who reads it should not have to wait
// until an endpoint works again.
func (c *hooked) send(ctx context.Context, n deliver.Notification, t deliver.Target) (deliver.Receipt, *deliver.Error) {
	if t.Subscription != nil && t.Subscription.NamedChannel != "" && !c.copies.made(n) {
		copied, err := inJSON(c.version, n)
		if err != nil { // an interceptor has made something else of it
			return deliver.Receipt{}, objection(ctx, fmt.Errorf("copy for a named channel: %w", err))
		}
		_, failure := c.messages.Copy(ctx, t.Subscription.NamedChannel, copied, t)
		if failure != nil && failure.Code != record.Skipped { // then an interceptor wants none
			if failure.Code == record.Timeout {
				failure.Code = record.PublishError // of our log: a timeout says that the endpoint was asked, so the copy made
			}
			return deliver.Receipt{}, failure
		}
		c.copies.note(n)
	}
	return c.guarded(ctx, n, t)
}

// guarded keeps a channel that panics, such as one of the program that embeds the node, from taking
// the node down: the match is at fault, and would do so again and again.
func (c *hooked) guarded(ctx context.Context, n deliver.Notification, t deliver.Target) (r deliver.Receipt, failure *deliver.Error) {
	defer func() {
		if p := recover(); p != nil {
			c.hooks.log.Error("a channel panicked", "channel", t.ChannelType, "subscription", n.Subscription, "event", n.Number,
				"panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			r, failure = deliver.Receipt{}, &deliver.Error{Code: record.RenderError, Err: errors.New("the channel panicked"), Permanent: true}
		}
	}()
	r, failure = c.Channel.Send(ctx, n, t)
	return unechoed(r, failure, n, t)
}
