package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/stream"
)

// natsGate is the gate for NATS producers: it answers requests on fhir.ingest.{Type}.{id} with
// a PubAck, or with an error in its form that says what is wrong. What one producer sends is
// written in the order in which it was sent.
type natsGate struct {
	log     *slog.Logger
	server  *stream.Server
	gate    *gate
	defs    *search.Definitions
	tokens  *tokens
	size    int                  // largest resource in bytes
	refused func(fhir.IssueType) // for metrics
	slot    chan struct{}        // of producerSlots

	mu      sync.Mutex // guards closing, and open against a count that begins while it is waited for
	closing bool
	open    sync.WaitGroup // requests that are not answered yet
}

// Bounds of what producers have sent and the log has not taken. Up to producerSlots requests
// wait for the log and as many as the pending limits allow for their turn; what comes on top is
// dropped unanswered, so its producer knows that it was not accepted.
const (
	producerSlots   = 4096
	pendingRequests = 64 << 10
	pendingBytes    = 256 << 20
)

// errCodeRefused is the number of our refusals in the engine's error form; the engine's own
// are below 20000.
const errCodeRefused = 20000

// run serves producers until ctx ends, then answers those that it has begun with.
func (n *natsGate) run(ctx context.Context) error {
	sub, err := n.server.SubscribeIngest(func(m *nats.Msg) { n.serve(ctx, m) })
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(pendingRequests, pendingBytes); err != nil {
		return err
	}
	<-ctx.Done()
	err = sub.Unsubscribe()
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	n.open.Wait()
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}

// enter counts a request in, unless the gate is closing.
func (n *natsGate) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return false
	}
	n.open.Add(1)
	return true
}

// serve hands one request to the log. It returns when the request has its place in the order,
// not when it is durable. A request that makes us panic is refused like any other bad one.
func (n *natsGate) serve(ctx context.Context, m *nats.Msg) {
	if !n.enter() {
		return // unanswered, so its producer knows that it was not accepted
	}
	enqueued := false
	defer func() {
		if p := recover(); p != nil {
			n.log.Error("request of a producer panicked", "subject", m.Subject, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			n.refuse(m, fhir.Refuse(fhir.IssueException, "", "internal error"))
		}
		if !enqueued {
			n.open.Done()
		}
	}()
	w, err := n.read(m)
	if err == nil {
		err = n.gate.open()
	}
	if err != nil {
		n.refuse(m, err)
		return
	}
	p, err := n.gate.plan(ctx, w)
	switch {
	case err != nil:
		n.refuse(m, err)
	case p.done:
		n.answer(m, max(p.written.Version, p.expect), true) // nothing was stored: it is so already
	case len(p.messages) > 1: // a Subscription that goes live: rare, so its order costs a wait
		seq, duplicate, err := n.gate.publish(ctx, p)
		if errors.Is(err, stream.ErrDuplicate) {
			seq, duplicate, err = p.expect, true, nil
		}
		n.settle(m, stream.Ack{Sequence: seq, Duplicate: duplicate}, err)
	default:
		enqueued = n.enqueue(ctx, m, p)
	}
}

// enqueue hands a single message over in the order of the requests. It reports whether the
// answer is given later.
func (n *natsGate) enqueue(ctx context.Context, m *nats.Msg, p plan) bool {
	select {
	case n.slot <- struct{}{}:
	case <-ctx.Done():
		n.refuse(m, retryAfter(fhir.Refuse(fhir.IssueTransient, "", "this node is stopping; send the request again"), 0))
		return false
	}
	err := n.gate.events.Enqueue(ctx, p.messages[0], func(a stream.Ack, err error) {
		n.settle(m, a, err)
		<-n.slot
		n.open.Done()
	})
	if err != nil {
		n.refuse(m, refusal(err))
		<-n.slot
		return false
	}
	return true
}

// loginOwner is how a login of the NATS listener is named beside the tokens of the API, whose
// ids have no slash: as the owner of a Subscription, and of message ids.
func loginOwner(login string) string { return "nats/" + login }

// admit finds out in whose name a request is served. The rights of a login are the subjects that
// it may publish on; a Subscription that it may write is its own to change, as with a token.
func (n *natsGate) admit(m *nats.Msg, login string, key fhir.Key, s *subscription) (owner string, err error) {
	if login == "" {
		return n.token(m, key, s)
	}
	owner = loginOwner(login)
	if s != nil && !s.deleted && s.owner != owner {
		return "", fhir.Refuse(fhir.IssueForbidden, "", key.String()+" belongs to somebody else")
	}
	return owner, nil
}

// token finds who sends a request where the listener has no logins, once the API asks for one: a
// token in the header Authorization, as over HTTP, with a role that may write what the request
// writes.
func (n *natsGate) token(m *nats.Msg, key fhir.Key, s *subscription) (owner string, err error) {
	if !n.tokens.any() {
		return "", nil
	}
	secret, ok := strings.CutPrefix(m.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", fhir.Refuse(fhir.IssueSecurity, "", "a login is needed: send the header Authorization with Bearer and an API token")
	}
	t, ok := n.tokens.lookup(strings.TrimSpace(secret))
	if !ok {
		return "", fhir.Refuse(fhir.IssueSecurity, "", "the API token is not known")
	}
	may := []api.Role{api.Producer, api.Administer}
	switch key.Type {
	case "Subscription":
		may = []api.Role{api.Subscriber, api.Administer}
	case "SearchParameter", "SubscriptionTopic":
		may = []api.Role{api.Administer}
	}
	held := roles(t.Roles)
	if !slices.ContainsFunc(held, func(r api.Role) bool { return slices.Contains(may, r) }) {
		return "", fhir.Refuse(fhir.IssueForbidden, "", fmt.Sprintf("token %s may not write %s; it takes the role %s", t.Name, key.Type, may[0]))
	}
	if s != nil && !s.deleted && s.owner != t.ID && !slices.Contains(held, api.Administer) {
		return "", fhir.Refuse(fhir.IssueForbidden, "", key.String()+" belongs to another token")
	}
	return t.ID, nil
}

// read makes a Write of a request.
func (n *natsGate) read(m *nats.Msg) (api.Write, error) {
	login, key, err := n.server.Producer(m)
	if err != nil {
		return api.Write{}, fhir.Refuse(fhir.IssueValue, "", err.Error())
	}
	if err := stream.CheckHeaders(m.Header); err != nil {
		return api.Write{}, err
	}
	for _, h := range []string{"Fhir-Event", "Fhir-Previous"} {
		if m.Header.Get(h) != "" {
			return api.Write{}, fhir.Refuse(fhir.IssueNotSupported, "", "header "+h+" is not supported by this version: leave it out")
		}
	}
	var s *subscription
	if key.Type == "Subscription" {
		// Its producer may have been told of a version that is not folded yet.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := n.gate.upToDate(ctx)
		cancel()
		if err != nil {
			return api.Write{}, refusal(err)
		}
		s = n.gate.subs.get(key.ID)
	}
	owner, err := n.admit(m, login, key, s)
	if err != nil {
		return api.Write{}, err
	}
	w := api.Write{
		Key:         key,
		Owner:       owner,
		Interaction: fhir.Interaction(m.Header.Get(headerInteraction)),
		Body:        m.Data,
		MessageID:   m.Header.Get(nats.MsgIdHdr),
	}
	if key.Type == "Subscription" && owner != "" {
		// Whose it is was judged on what is folded here: the write holds for that version alone.
		w.IfMatch = new(record.Sequence)
		if s != nil && !s.deleted {
			*w.IfMatch = s.version
		}
	}
	if t := m.Header.Get(headerTrace); api.ValidTraceparent(t) {
		w.Trace = t
	}
	// Believed also for a resource that was never seen here: its own server deleted it.
	w.Feed = w.Interaction == fhir.Delete
	if w.MessageID != "" {
		w.MessageID = "nats/" + w.MessageID
	}
	switch w.Interaction {
	case "", fhir.Create, fhir.Update, fhir.Delete:
	default:
		return api.Write{}, fhir.Refuse(fhir.IssueValue, "", "header Fhir-Interaction must be create, update or delete")
	}
	if !n.defs.HasType(key.Type) {
		return api.Write{}, fhir.Refuse(fhir.IssueNotSupported, "", key.Type+" is no resource type of FHIR "+string(n.gate.subs.version))
	}
	if w.Interaction == fhir.Delete && len(m.Data) == 0 {
		return w, nil
	}
	if err := n.check(key, m.Data); err != nil {
		return api.Write{}, err
	}
	if w.Interaction == fhir.Delete {
		w.Body = nil
	}
	return w, nil
}

// check holds a body to what every resource must be.
func (n *natsGate) check(key fhir.Key, body []byte) error {
	t := json.Borrow()
	defer t.Release()
	if err := t.Parse(body, json.Limits{Bytes: n.size}); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) && syntax.TooLong {
			return fhir.Refuse(fhir.IssueTooLong, "", err.Error())
		}
		if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("<")) {
			return fhir.Refuse(fhir.IssueNotSupported, "", "over NATS a resource is JSON; XML is taken over HTTP alone")
		}
		return fhir.Refuse(fhir.IssueStructure, "", err.Error())
	}
	root := t.Root()
	if typ := t.Str(t.Get(root, "resourceType")); typ != key.Type {
		return fhir.Refuse(fhir.IssueValue, key.Type+".resourceType", "the subject names a "+key.Type+" and the body another type")
	}
	if id := t.Str(t.Get(root, "id")); id != string(key.ID) {
		return fhir.Refuse(fhir.IssueValue, key.Type+".id", "the subject names the id "+string(key.ID)+" and the body another one, or none")
	}
	return nil
}

func (n *natsGate) settle(m *nats.Msg, a stream.Ack, err error) {
	if errors.Is(err, stream.ErrConflict) {
		err = fhir.Refuse(fhir.IssueConflict, "", "the resource was changed by somebody else at the same time; nothing was written, send it again")
	}
	if err != nil {
		n.refuse(m, refusal(err))
		return
	}
	n.answer(m, a.Sequence, a.Duplicate)
}

func (n *natsGate) answer(m *nats.Msg, seq record.Sequence, duplicate bool) {
	if err := stream.RespondAck(m, seq, duplicate); err != nil {
		n.log.Debug("producer could not be answered", "sequence", seq, "err", err)
	}
}

func (n *natsGate) refuse(m *nats.Msg, err error) {
	code, text := http.StatusInternalServerError, "internal error"
	if fe := fhir.AsError(err); fe != nil {
		code, text = api.StatusOf(fe), fe.Error()
		n.refused(fe.Issues[0].Type)
	} else {
		n.log.Error("request of a producer failed", "subject", m.Subject, "err", err)
	}
	if err := stream.RespondError(m, code, errCodeRefused, text); err != nil {
		n.log.Debug("producer could not be answered", "err", err)
	}
}
