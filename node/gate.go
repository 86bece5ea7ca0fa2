package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// gate is the one door for changes: HTTP writes and the requests of NATS producers pass it,
// and nothing else writes events. What it answers is durable, and is what the fold of the log
// made of the change.
type gate struct {
	log    *slog.Logger
	store  *store.Store
	events *stream.Publisher // of EVENTS
	newest func(ctx context.Context, subject string) (stream.Message, error)
	// fence returns when everything that any node has acknowledged before is folded here, and a
	// majority of the nodes has witnessed it; nil on a single node, which acknowledges alone.
	fence    func(context.Context) error
	ring     *ring
	versions *versions
	subs     *registry
	vault    *vault
	search   *searcher
	others   match.Repository // what criteria are told of other resources
	disk     *disk
	draining func() bool
	agent    func(id string) string // name of a token; empty where it has none
	self     string                 // this node, as AuditEvents name it
	refusals *allowance             // refused orders that are told of
	// ready says why nothing can be written now; nil when it can.
	ready func() error
}

// Write makes one change and returns when it is durable.
func (g *gate) Write(ctx context.Context, w api.Write) (api.Written, error) {
	if err := g.open(); err != nil {
		return api.Written{}, err
	}
	for {
		p, err := g.plan(ctx, w)
		if mutant("body-in-log") {
			g.log.Info("change planned", "body", string(w.Body))
		}
		if err != nil {
			if out, ok := g.madeBefore(ctx, w); ok {
				return out, nil
			}
			return api.Written{}, err
		}
		if p.done {
			return p.written, nil
		}
		seq, duplicate, err := g.publish(ctx, p)
		if errors.Is(err, stream.ErrConflict) {
			if err := g.catchUp(ctx, p); err != nil {
				return api.Written{}, err
			}
			continue // the plan was made on a state that is no longer the newest
		}
		if duplicate || errors.Is(err, stream.ErrDuplicate) {
			again, out, err := g.repeated(ctx, w, p, seq)
			if again {
				w.MessageID = ""
				continue
			}
			return out, err
		}
		if err != nil {
			return api.Written{}, refusal(err)
		}
		return g.written(ctx, w, p, seq)
	}
}

// Transaction makes all changes or none.
func (g *gate) Transaction(ctx context.Context, ws []api.Write) ([]api.Written, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	for {
		var all plan
		plans := make([]plan, len(ws))
		for i, w := range ws {
			p, err := g.plan(ctx, w)
			if err != nil {
				return nil, &api.EntryError{Index: i, Err: err}
			}
			if p.done && w.IfNoneExist != "" {
				return nil, &api.EntryError{Index: i, Err: fhir.Refuse(fhir.IssueConflict, "", "a resource that matches ifNoneExist exists")}
			}
			if p.done && len(p.messages) == 0 { // a delete of what is not there
				plans[i] = p
				continue
			}
			// An entry that changes nothing is written too: only so does its place in the
			// transaction carry an expectation, and the fold knows it for what it is.
			p.expectAll()
			p.first = len(all.messages)
			plans[i] = p
			all.messages = append(all.messages, p.messages...)
			all.keys = append(all.keys, p.keys...)
		}
		var first record.Sequence
		if len(all.messages) > 0 {
			var err error
			first, _, err = g.publish(ctx, all)
			if errors.Is(err, stream.ErrConflict) {
				if err := g.catchUp(ctx, all); err != nil {
					return nil, err
				}
				continue
			}
			if err != nil {
				return nil, refusal(err)
			}
		}
		out := make([]api.Written, len(ws))
		for i, w := range ws {
			if plans[i].done && len(plans[i].messages) == 0 {
				out[i] = plans[i].written
				continue
			}
			var err error
			out[i], err = g.written(ctx, w, plans[i], first+record.Sequence(plans[i].first))
			if err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

// plan is what a change would write, as the projection stands.
type plan struct {
	messages []stream.Msg
	keys     []*dataKey      // that the messages are sealed by
	expect   record.Sequence // last sequence of the resource's subject, as the projection has it
	event    int             // index in messages of the event that answers the client
	first    int             // index of messages[0] in the transaction that it is part of
	done     bool            // nothing has to be written
	written  api.Written     // the answer if done
	warnings []fhir.Issue
}

// expectAll makes the event conditional on the state that the plan was made on.
func (p *plan) expectAll() {
	p.messages[p.event].ExpectLast = stream.Expect(p.expect)
}

func (g *gate) plan(ctx context.Context, w api.Write) (plan, error) {
	var p plan
	if api.IsAttempt(w.Key) {
		return p, api.ErrAttempt(w.Key)
	}
	if w.IfNoneExist != "" {
		found, unique, err := g.unique(ctx, w)
		if err != nil || found.done {
			return found, err
		}
		p.messages, p.event = append(p.messages, unique), 1
	}
	res, known, err := g.resource(ctx, w)
	if err != nil {
		return plan{}, err
	}
	p.expect = res.Last
	bodies, warnings, err := g.bodies(ctx, w)
	if err != nil {
		return plan{}, err
	}
	p.warnings = warnings
	bodies, key, err := g.seal(ctx, w, bodies, res.Last)
	if err != nil {
		return plan{}, err
	}
	if key != nil {
		p.keys = append(p.keys, key)
	}
	same, err := g.changesNothing(ctx, w, bodies[len(bodies)-1], res, known)
	if err != nil {
		return plan{}, err
	}
	if same {
		p.done = true
		if p.written, err = g.standing(ctx, w, res, known); err != nil {
			return plan{}, err
		}
		if w.Interaction == fhir.Delete {
			return p, nil
		}
	}
	order := api.IsOrder(w.Key)
	if order && known && !same {
		return plan{}, fhir.Refuse(fhir.IssueForbidden, "", w.Key.String()+" tells who did what here; it can be read, and neither changed nor deleted")
	}
	for i, body := range bodies {
		m := eventMessage(record.Event{
			Key: w.Key, Asked: w.Interaction, Feed: w.Feed, Trace: w.Trace, Owner: g.owner(w), Body: body,
		})
		if w.MessageID != "" {
			m.MsgID = messageID(w, i)
		}
		p.messages = append(p.messages, m)
	}
	if w.Key.Type == "Subscription" && !same {
		p.messages = append(p.messages, g.changed(w, known && !res.Deleted))
	}
	if w.IfMatch != nil || key != nil || order {
		p.expectAll()
	}
	return p, nil
}

// seal gives the versions of a Subscription as they go into the log. What is sealed must be written
// on the state that it was planned on: the key is of that life of the Subscription.
func (g *gate) seal(ctx context.Context, w api.Write, bodies [][]byte, last record.Sequence) ([][]byte, *dataKey, error) {
	if w.Key.Type != "Subscription" || w.Interaction == fhir.Delete || g.vault == nil {
		return bodies, nil, nil
	}
	return g.vault.seal(ctx, w.Key.ID, bodies, last)
}

// upToDate returns when everything that was acknowledged is folded, by whichever node it was.
func (g *gate) upToDate(ctx context.Context) error {
	if g.fence != nil {
		return g.fence(ctx)
	}
	return g.ring.wait(ctx, g.events.Durable())
}

// resource is the resource as the projection has it, once that fulfils the client's If-Match. A
// version that another node has acknowledged may not be folded here yet: before a client is told
// of a conflict, everything that the log has of the resource is.
func (g *gate) resource(ctx context.Context, w api.Write) (res store.Resource, known bool, err error) {
	res, known, err = g.store.Resource(w.Key)
	if err != nil {
		return res, known, err
	}
	conflict := ifMatch(w, res, known)
	if conflict == nil {
		return res, known, nil
	}
	newest, err := g.newest(ctx, stream.EventSubject(w.Key))
	switch {
	case errors.Is(err, stream.ErrNotFound):
		return res, known, conflict
	case err != nil:
		return res, known, refusal(err)
	case newest.Sequence <= res.Last:
		return res, known, conflict
	}
	if err := g.ring.wait(ctx, newest.Sequence); err != nil {
		return res, known, err
	}
	if res, known, err = g.store.Resource(w.Key); err != nil {
		return res, known, err
	}
	return res, known, ifMatch(w, res, known)
}

// ifMatch compares the version that the client names with the current one.
func ifMatch(w api.Write, res store.Resource, known bool) error {
	if w.IfMatch == nil {
		return nil
	}
	exists := known && !res.Deleted
	switch {
	case *w.IfMatch == 0 && exists:
		return fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("%s exists, in version %d", w.Key, res.Version))
	case *w.IfMatch != 0 && !exists:
		return fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("%s does not exist, so its version is not %d", w.Key, *w.IfMatch))
	case *w.IfMatch != 0 && *w.IfMatch != res.Version:
		return fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf(
			"the current version of %s is %d, not %d: read it again (a server that sends its own versions adds the header X-Carillon-Feed: true)", w.Key, res.Version, *w.IfMatch))
	}
	return nil
}

// bodies are the versions that the change makes: one, or two for a Subscription that goes
// live with it. Both are in one batch, so that an answer means that it is in force.
func (g *gate) bodies(ctx context.Context, w api.Write) ([][]byte, []fhir.Issue, error) {
	if w.Interaction == fhir.Delete {
		return [][]byte{w.Body}, nil, nil
	}
	switch w.Key.Type {
	case "SearchParameter":
		return [][]byte{w.Body}, nil, g.checkParameter(ctx, w)
	case "Subscription":
	default:
		return [][]byte{w.Body}, nil, nil
	}
	sub, warnings, err := g.validate(ctx, w.Body)
	if err != nil {
		return nil, nil, err
	}
	if sub.Status != fhir.StatusRequested {
		return [][]byte{w.Body}, warnings, nil
	}
	if !g.subs.channelOn(sub.Channel.Type) {
		return [][]byte{w.Body}, append(warnings, g.subs.channelOff(sub.Channel.Type)), nil
	}
	active, err := json.SetString(w.Body, "status", string(fhir.StatusActive))
	if err != nil {
		return nil, nil, fmt.Errorf("activate %s: %w", w.Key, err)
	}
	return [][]byte{w.Body, active}, warnings, nil
}

// validate checks a Subscription that is to be written. Before one is refused, this node knows
// every definition that any node has acknowledged: its criteria may use one that is a moment old.
func (g *gate) validate(ctx context.Context, body []byte) (*fhir.Subscription, []fhir.Issue, error) {
	sub, warnings, err := g.subs.validate(body)
	if err == nil {
		return sub, warnings, nil
	}
	if behind := g.upToDate(ctx); behind != nil {
		return nil, nil, refusal(behind)
	}
	return g.subs.validate(body)
}

// checkParameter checks a SearchParameter as validate does a Subscription: a composite may be made
// of ones that are a moment old.
func (g *gate) checkParameter(ctx context.Context, w api.Write) error {
	if g.subs.defs.check(w.Key, w.Body) == nil {
		return nil
	}
	if err := g.upToDate(ctx); err != nil {
		return refusal(err)
	}
	return g.subs.defs.check(w.Key, w.Body)
}

// owner is who a Subscription belongs to. An update by somebody else who may (an operator)
// leaves it with its owner; who that is the registry knows from the first version.
func (g *gate) owner(w api.Write) string {
	if w.Key.Type != "Subscription" {
		return ""
	}
	return w.Owner
}

// changesNothing reports whether the log already says what the client says. It is judged on
// the projection and holds only if that has seen the newest record of the resource.
func (g *gate) changesNothing(ctx context.Context, w api.Write, body []byte, res store.Resource, known bool) (bool, error) {
	exists := known && !res.Deleted
	deletes := w.Interaction == fhir.Delete
	if deletes && (exists || w.Feed && !known) || !deletes && !exists {
		return false, nil
	}
	// What is on its way decides first: a delete behind a create must not be judged by the state
	// before both. Asked before the log is, so that nothing slips in between.
	subject := stream.EventSubject(w.Key)
	if g.events.Pending(subject) {
		return false, nil
	}
	if !deletes {
		sum, err := contentHash(body)
		if err != nil {
			return false, fhir.Refuse(fhir.IssueStructure, "", err.Error())
		}
		if sum != res.Hash {
			return false, nil
		}
	}
	last, err := g.newest(ctx, subject)
	if errors.Is(err, stream.ErrNotFound) {
		return res.Last == 0, nil
	}
	if err != nil {
		return false, refusal(err)
	}
	if last.Sequence != res.Last || g.fence == nil {
		return last.Sequence == res.Last, nil
	}
	// A leader that is cut off from the others goes on believing that it leads, for some seconds.
	// What it says is so only if it was so when a majority took a record.
	if err := g.fence(ctx); err != nil {
		return false, refusal(err)
	}
	now, _, err := g.store.Resource(w.Key)
	return now.Last == res.Last, err
}

// standing is the answer to a change that changes nothing.
func (g *gate) standing(ctx context.Context, w api.Write, res store.Resource, known bool) (api.Written, error) {
	out := api.Written{Key: w.Key, Interaction: fhir.Unchanged}
	if !known || res.Deleted {
		out.Gone = true
		return out, nil
	}
	out.Version, out.Time = res.Version, res.Time
	if w.Brief {
		return out, nil
	}
	e, err := g.versions.Event(ctx, res.Version)
	if err != nil {
		return api.Written{}, fmt.Errorf("read %s version %d: %w", w.Key, res.Version, err)
	}
	out.Body, err = g.vault.shown(ctx, e)
	return out, err
}

// unique prepares a conditional create: it finds what matches, or gives the record that lets
// only one of two creates with the same criteria succeed.
func (g *gate) unique(ctx context.Context, w api.Write) (plan, stream.Msg, error) {
	var (
		condition *asked
		subject   string
		expect    record.Sequence
		err       error
	)
	for {
		defs := g.search.defs.now()
		if condition, err = g.condition(ctx, w); err != nil {
			return plan{}, stream.Msg{}, err
		}
		subject = uniqueSubject(condition)
		if expect, err = g.lastOf(ctx, subject); err != nil {
			return plan{}, stream.Msg{}, err
		}
		// What a producer was told, here or by another node, is in the log and may not be folded yet.
		if err := g.upToDate(ctx); err != nil {
			return plan{}, stream.Msg{}, refusal(err)
		}
		if g.search.defs.now() == defs {
			break // else the condition may mean something else by now
		}
	}
	result, err := g.search.search(ctx, condition)
	if err != nil {
		return plan{}, stream.Msg{}, err
	}
	switch found := result.matches; {
	case len(found) == 0:
		return plan{}, stream.Msg{Subject: subject, Data: []byte(w.Key.String()), ExpectLast: stream.Expect(expect)}, nil
	case len(found) > 1:
		return plan{}, stream.Msg{}, fhir.Refuse(fhir.IssueDuplicate, "", "several resources match If-None-Exist; it must find at most one")
	case w.MustCreate:
		return plan{}, stream.Msg{}, fhir.Refuse(fhir.IssueConflict, "", found[0].Key.String()+" has come to match the condition")
	}
	m := result.matches[0]
	return plan{done: true, written: api.Written{Key: m.Key, Version: m.Version, Time: m.Time, Interaction: fhir.Unchanged, Body: m.Body}}, stream.Msg{}, nil
}

// condition understands the condition of a write. Before one is refused, this node knows every
// definition that any node has acknowledged, as in validate.
func (g *gate) condition(ctx context.Context, w api.Write) (*asked, error) {
	a, err := g.search.condition(w.Key.Type, w.IfNoneExist)
	if err == nil {
		return a, nil
	}
	if behind := g.upToDate(ctx); behind != nil {
		return nil, refusal(behind)
	}
	return g.search.condition(w.Key.Type, w.IfNoneExist)
}

// uniqueSubject is where the record of a condition stands: the same however it is spelled.
func uniqueSubject(condition *asked) string {
	sum := sha256.Sum256([]byte(condition.criteria.Canonical()))
	return stream.UniqueSubject(hex.EncodeToString(sum[:16]))
}

// lastOf is the place of the newest record of a condition, 0 where there is none, once it is folded
// here. It is read before the search: a create that slips in between moves the record.
func (g *gate) lastOf(ctx context.Context, subject string) (record.Sequence, error) {
	switch m, err := g.newest(ctx, subject); {
	case err == nil:
		return m.Sequence, g.ring.wait(ctx, m.Sequence)
	case !errors.Is(err, stream.ErrNotFound):
		return 0, refusal(err)
	}
	return 0, nil
}

// publish appends a plan's messages and returns the sequence of the first. duplicate says that
// a single message was in the log already, at that sequence.
func (g *gate) publish(ctx context.Context, p plan) (first record.Sequence, duplicate bool, err error) {
	for _, k := range p.keys {
		if err := g.vault.store(ctx, k); err != nil {
			return 0, false, err
		}
	}
	if len(p.messages) == 1 {
		ack, err := g.events.Publish(ctx, p.messages[0])
		return ack.Sequence, ack.Duplicate, err
	}
	acks, err := g.events.PublishAtomic(ctx, p.messages)
	if err != nil {
		return 0, false, err
	}
	return acks[0].Sequence, false, nil
}

// madeBefore finds the answer to a conditional write that is sent again: its condition fails
// because the write itself has met it. The newest record of the resource then bears its id.
func (g *gate) madeBefore(ctx context.Context, w api.Write) (api.Written, bool) {
	if w.IfMatch == nil || w.MessageID == "" {
		return api.Written{}, false
	}
	newest, err := g.newest(ctx, stream.EventSubject(w.Key))
	if err != nil || newest.Header.Get(nats.MsgIdHdr) != messageID(w, 0) {
		return api.Written{}, false
	}
	out, err := g.written(ctx, w, plan{messages: make([]stream.Msg, 1)}, newest.Sequence)
	return out, err == nil && out.Interaction != fhir.Unchanged
}

// messageID is the id of the n-th message of a write, within the name of who sends it.
func messageID(w api.Write, n int) string {
	id := w.Owner + "/" + w.MessageID
	if n > 0 {
		id += "/" + strconv.Itoa(n)
	}
	return id
}

// repeated answers a write whose message id is in the log already: with what it made, as long
// as that is the resource's current state. If it has been replaced since, a 2xx would say what
// is not so: a correlation id that came with several writes is then no id of this one (again),
// and a key that its client gave for one write is refused.
func (g *gate) repeated(ctx context.Context, w api.Write, p plan, seq record.Sequence) (again bool, out api.Written, err error) {
	if err := g.ring.wait(ctx, seq); err != nil {
		return false, out, err
	}
	if err := g.upToDate(ctx); err != nil {
		return false, out, refusal(err)
	}
	res, known, err := g.store.Resource(w.Key)
	if err != nil {
		return false, out, err
	}
	made := known && res.Version == seq
	if seq == 0 { // both versions of a Subscription: the second is what stands
		bodies, _, err := g.bodies(ctx, w)
		if err == nil {
			bodies, _, err = g.seal(ctx, w, bodies, res.Last)
		}
		if err != nil {
			return false, out, err
		}
		sum, err := contentHash(bodies[len(bodies)-1])
		made = err == nil && known && !res.Deleted && sum == res.Hash
	}
	switch {
	case made && seq != 0:
		out, err := g.written(ctx, w, p, seq)
		return false, out, err
	case made:
		out, err := g.standing(ctx, w, res, known)
		return false, out, err
	case w.Correlated:
		return true, out, nil
	}
	return false, out, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf(
		"the change with this Idempotency-Key was made before, and %s has been changed since; nothing was written", w.Key))
}

// catchUp waits until the projection has seen what a refused plan did not know of.
func (g *gate) catchUp(ctx context.Context, p plan) error {
	for _, m := range p.messages {
		if m.ExpectLast == nil {
			continue
		}
		last, err := g.newest(ctx, stream.StoredSubject(m.Subject))
		if errors.Is(err, stream.ErrNotFound) {
			continue
		}
		if err != nil {
			return refusal(err)
		}
		if err := g.ring.wait(ctx, last.Sequence); err != nil {
			return err
		}
	}
	return nil
}

// written says what the fold made of a change whose first message is at a sequence.
func (g *gate) written(ctx context.Context, w api.Write, p plan, first record.Sequence) (api.Written, error) {
	seq := first + record.Sequence(p.event)
	// Until the last message of the change: a Subscription is in force when this returns.
	if err := g.ring.wait(ctx, first+record.Sequence(len(p.messages)-1)); err != nil {
		return api.Written{}, err
	}
	out := api.Written{Key: w.Key, Version: seq, Interaction: fhir.Unchanged, Warnings: p.warnings}
	c, found, err := g.ring.fold(ctx, seq)
	if err != nil {
		return api.Written{}, err
	}
	if found {
		out.Interaction, out.Time = c.Interaction, c.Time
	} else { // a message id that was used long ago, or a very busy moment
		v, effective, err := g.store.Before(seq)
		if err != nil {
			return api.Written{}, err
		}
		if effective {
			out.Interaction, out.Time = v.Interaction, v.Time
		}
	}
	switch out.Interaction {
	case fhir.Delete:
		out.Gone = true
		if w.Key.Type == "Subscription" {
			g.vault.eraseNow(ctx, w.Key.ID, seq)
		}
		return out, nil
	case fhir.Unchanged:
		res, known, err := g.store.Resource(w.Key)
		if err != nil {
			return api.Written{}, err
		}
		standing, err := g.standing(ctx, w, res, known)
		standing.Warnings = p.warnings
		return standing, err
	}
	if w.Brief {
		return out, nil
	}
	e, err := g.versions.Event(ctx, seq)
	if err != nil {
		return api.Written{}, err
	}
	out.Body, err = g.vault.shown(ctx, e)
	return out, err
}

// open says why nothing may be written now.
func (g *gate) open() error {
	switch {
	case g.draining():
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", "this node is stopping; send the request to another one or again in a moment"), 2*time.Second)
	case g.disk.full():
		return fhir.Refuse(fhir.IssueNoStore, "", "the disk of the data folder is nearly full, so new changes are refused; free some space, then send it again")
	}
	if err := g.ready(); err != nil {
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", "the log cannot be written now: "+err.Error()), 5*time.Second)
	}
	return nil
}

// shown is a version as a read returns it, without secrets; vault.shown has them for whoever may
// see them.
func shown(e record.Event) (body []byte, err error) {
	if e.Key.Type == "Subscription" && len(e.Body) > 0 {
		if e.Body, err = masked(e.Body, e.Key.ID); err != nil {
			return nil, err
		}
	}
	return spliced(e)
}

// spliced is a version with the server's own elements. A change feed's own meta stands.
func spliced(e record.Event) ([]byte, error) {
	if len(e.Body) == 0 {
		return nil, nil
	}
	return json.Splice(e.Body, json.SpliceOptions{
		ID:          string(e.Key.ID),
		VersionID:   strconv.FormatUint(uint64(e.Sequence), 10),
		LastUpdated: e.Time,
		KeepMeta:    e.Feed,
	})
}

// sizeOf lets a body of any size be read that is in the log: how large it may be was judged when it
// came, and limits.resource_size may be more than what readers take by default, or less by now.
func sizeOf(body []byte) json.Limits { return json.Limits{Bytes: max(1, len(body))} }

// hashBody reads the content hash, the identifiers and the references of a resource, as the store
// keeps them.
func hashBody(body []byte) (store.Content, error) {
	t := json.Borrow()
	defer t.Release()
	if err := t.Parse(body, sizeOf(body)); err != nil {
		return store.Content{}, err
	}
	return store.Content{Sum: json.ContentHash(t), Identifiers: identifiers(t), References: references(t)}, nil
}

// contentHash is hashBody for who asks only whether a change changes anything.
func contentHash(body []byte) ([16]byte, error) {
	t := json.Borrow()
	defer t.Release()
	if err := t.Parse(body, sizeOf(body)); err != nil {
		return [16]byte{}, err
	}
	return json.ContentHash(t), nil
}

// refusal turns what the log says of a write into what a client is told.
func refusal(err error) error {
	switch {
	case errors.Is(err, stream.ErrFull):
		return fhir.Refuse(fhir.IssueNoStore, "", "the log is full, so new changes are refused")
	case errors.Is(err, stream.ErrTooLarge):
		return fhir.Refuse(fhir.IssueTooLong, "", "the change is too large for one atomic write of the log, which takes at most 1,000 records and 80 MiB: a Subscription is two or three of them, its versions and its AuditEvent; send several transactions, or a batch")
	case errors.Is(err, stream.ErrRefused):
		return fhir.Refuse(fhir.IssueInvariant, "", "two entries depend on the same condition or resource, so they cannot be in one transaction")
	case errors.Is(err, stream.ErrDuplicate):
		return fhir.Refuse(fhir.IssueConflict, "", "a change with this Idempotency-Key is in the log already; this request wrote nothing")
	case errors.Is(err, stream.ErrUnavailable), errors.Is(err, stream.ErrClosed):
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", "the log is not available; nothing was written"), 5*time.Second)
	case errors.Is(err, stream.ErrUnknown):
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", "the log gave no answer, so the change may or may not be in it; send it again"), 5*time.Second)
	}
	return err
}

// laterError is a refusal that says when to come again.
type laterError struct {
	error
	after time.Duration
}

func (e laterError) Unwrap() error             { return e.error }
func (e laterError) RetryAfter() time.Duration { return e.after }

func retryAfter(err error, d time.Duration) error { return laterError{err, d} }
