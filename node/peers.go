package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// peers are the requests of nodes to one another: carillon.node.{name}.{op} in the account that is
// ours alone, with JSON both ways. Nobody at a listener reaches it. They are for administration;
// nothing that a change goes through on its way depends on them.
type peers struct {
	conn *nats.Conn
	self string
	log  *slog.Logger
	ops  map[string]peerOp
}

// peerOp answers one kind of request. What it returns is made JSON.
type peerOp func(ctx context.Context, body []byte) (any, error)

const (
	// peerTimeout bounds a request to a node, its work included.
	peerTimeout = 3 * time.Second
	// peerSlots is how many requests of others a node answers at once; more are told that it is
	// busy.
	peerSlots = 16
)

// errSilent: a node gives no answer.
var errSilent = errors.New("no answer: the node is down, starting, or cut off from this one")

// peerAnswer is the answer to a request.
type peerAnswer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

func peerSubject(node, op string) string { return "carillon.node." + node + "." + op }

// run answers requests of other nodes until ctx ends, and then those that it has begun with.
func (p *peers) run(ctx context.Context) error {
	var open sync.WaitGroup
	slots := make(chan struct{}, peerSlots)
	var subs []*nats.Subscription
	defer func() {
		for _, s := range subs {
			s.Drain() // the connection may be closed: there is nothing to be drained then
		}
		open.Wait()
	}()
	for op, serve := range p.ops {
		sub, err := p.conn.Subscribe(peerSubject(p.self, op), func(m *nats.Msg) {
			select {
			case slots <- struct{}{}:
			default:
				p.respond(m, nil, errors.New("the node is busy with other requests"))
				return
			}
			open.Add(1)
			go func() {
				defer open.Done()
				defer func() { <-slots }()
				result, err := p.serve(ctx, op, serve, m.Data)
				p.respond(m, result, err)
			}()
		})
		if err != nil {
			return fmt.Errorf("answer other nodes: %w", err)
		}
		subs = append(subs, sub)
	}
	<-ctx.Done()
	return nil
}

// serve answers a request, and survives a fault in doing so.
func (p *peers) serve(ctx context.Context, op string, serve peerOp, body []byte) (result any, err error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	defer func() {
		if fault := recover(); fault != nil {
			p.log.Error("request of another node panicked", "op", op, "panic", fmt.Sprintf("%T", fault), "stack", string(debug.Stack()))
			err = errors.New("internal error")
		}
	}()
	return serve(ctx, body)
}

func (p *peers) respond(m *nats.Msg, result any, err error) {
	var a peerAnswer
	if err == nil {
		a.Result, err = json.Marshal(result)
	}
	if err != nil {
		a = peerAnswer{Error: err.Error()}
	}
	data, err := json.Marshal(a)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		p.log.Debug("another node was not answered", "err", err)
	}
}

// call asks one node, this one too, and reads its answer into result, a pointer or nil.
func (p *peers) call(ctx context.Context, node, op string, body, result any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var a peerAnswer
	if node == p.self { // also while the log cannot be reached
		own, err := p.serve(ctx, op, p.ops[op], data)
		if err != nil {
			return err
		}
		if a.Result, err = json.Marshal(own); err != nil {
			return err
		}
	} else if a, err = p.request(ctx, node, op, data); err != nil {
		return err
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("answer of node %s cannot be read: %w", node, err)
	}
	return nil
}

func (p *peers) request(ctx context.Context, node, op string, data []byte) (a peerAnswer, err error) {
	m, err := p.conn.RequestWithContext(ctx, peerSubject(node, op), data)
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return a, errSilent
	}
	if err != nil {
		return a, fmt.Errorf("ask node %s: %w", node, err)
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("answer of node %s cannot be read: %w", node, err)
	}
	return a, nil
}

// said is what one node answered.
type said[T any] struct {
	node  string
	value T
	err   error
	asked time.Time
	took  time.Duration
}

// askAll asks nodes side by side, each with its own body, and gives the answers in their order.
func askAll[T any](ctx context.Context, p *peers, nodes []string, op string, body func(node string) any) []said[T] {
	answers := make([]said[T], len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		asking.Go(func() {
			a := &answers[i]
			a.node, a.asked = node, time.Now()
			a.err = p.call(ctx, node, op, body(node), &a.value)
			a.took = time.Since(a.asked)
		})
	}
	asking.Wait()
	return answers
}
