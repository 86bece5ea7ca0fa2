package node

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/stream"
)

// Who did what is told by AuditEvents of type rest, which are resources like any other: they are in the log,
// are found by search, and may be heard by a Subscription whose criteria is about AuditEvent.
//
// A change of a Subscription and its AuditEvent are one atomic write: neither is there without the
// other. Other orders (a pause, a token, dead letters) are written first, and told of before their
// client is answered: after an answer the AuditEvent is there; a node that is killed between the two has
// done what was asked and told nobody, its client included.
//
// They stay as they were written: nobody may change or delete one, administrators included. One that is
// not there may be written, since another Carillon may be told of them.
//
// They cannot go on for ever: what is delivered leaves no event, and of the server's own changes a
// Subscription sees at most one for each time that it is switched off.

const systemAuditType = "http://terminology.hl7.org/CodeSystem/audit-event-type"

// restful are the operations that have a code of FHIR's own.
const systemRestful = "http://hl7.org/fhir/restful-interaction"

// theServer is the agent of what nobody asked for: a Subscription whose endpoint is gone.
const theServer = "carillon"

// auditMessage is the write of an AuditEvent.
func (g *gate) auditMessage(a api.Audit, now time.Time) stream.Msg {
	key := fhir.Key{Type: "AuditEvent", ID: fhir.ID(api.OrderID + strings.ToLower(rand.Text()))}
	operation := coding{Code: a.Operation}
	switch a.Operation {
	case "create", "update", "delete":
		operation.System = systemRestful
	}
	e := auditEvent{
		ResourceType: key.Type,
		ID:           string(key.ID),
		Meta:         &auditMeta{Tag: []coding{{System: fhir.TagOwnRecord, Code: "rest"}}},
		Type:         &coding{System: systemAuditType, Code: "rest", Display: "Restful Operation"},
		Subtype:      []coding{operation},
		Action:       a.Action,
		Recorded:     fhirInstant(now),
		Outcome:      a.Outcome,
		OutcomeDesc:  a.Text,
		Agent:        []auditAgent{g.auditAgent(a.Agent)},
		Source:       auditSource{reference{Display: g.self}},
	}
	for _, name := range a.Entities {
		n := auditEntity{Name: name}
		if k, err := fhir.ParseKey(name); err == nil && g.subs.defs.now().HasType(k.Type) {
			n = auditEntity{What: &reference{Reference: name}}
		}
		e.Entity = append(e.Entity, n)
	}
	return eventMessage(record.Event{Key: key, Asked: fhir.Create, Body: e.encode(g.subs.version)})
}

// auditAgent names who did it: by the id of its token, or its NATS login.
func (g *gate) auditAgent(id string) auditAgent {
	switch id {
	case theServer:
		return auditAgent{Type: &concept{Text: "server"}, Who: &reference{Display: g.self}, Name: g.self}
	case "":
		return auditAgent{Who: &reference{Display: "without login"}, Name: "without login", Requestor: true}
	}
	name := id
	if g.agent != nil {
		if known := g.agent(id); known != "" {
			name = known
		}
	}
	return auditAgent{Who: &reference{Identifier: &identifier{Value: id}, Display: name}, Name: name, Requestor: true}
}

// changed tells of a change of a Subscription; it goes into the same write.
func (g *gate) changed(w api.Write, existed bool) stream.Msg {
	a := api.Audit{Agent: w.Owner, Action: "C", Operation: "create", Outcome: auditSuccess, Entities: []string{w.Key.String()}}
	switch {
	case w.Interaction == fhir.Delete:
		a.Action, a.Operation = "D", "delete"
	case existed:
		a.Action, a.Operation = "U", "update"
	}
	return g.auditMessage(a, time.Now())
}

// recordTimeout bounds how long an answer waits for its AuditEvent.
const recordTimeout = 10 * time.Second

// recorded writes the AuditEvent of an order. It is durable on return. Where it cannot be written the
// operator is told: what was done is done.
func (g *gate) recorded(ctx context.Context, a api.Audit) {
	if a.Outcome != auditSuccess && !g.refusals.allow(time.Now()) {
		return // a flood of refused requests must not fill the log
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if _, err := g.events.Publish(ctx, g.auditMessage(a, time.Now())); err != nil {
		g.log.Error("the AuditEvent of an order was not written", "operation", a.Operation, "entity", strings.Join(a.Entities, " "), "by", a.Agent, "err", err)
	}
}

// refusalsPerSecond, and so many at once, are told of by a node. Beyond them refused orders are counted by
// the metrics alone.
const (
	refusalsPerSecond = 1
	refusalsAtOnce    = 50
)

// allowance lets so many things happen in a time.
type allowance struct {
	mu   sync.Mutex
	left float64
	at   time.Time
}

func (a *allowance) allow(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at.IsZero() {
		a.left = refusalsAtOnce
	} else {
		a.left = min(refusalsAtOnce, a.left+refusalsPerSecond*now.Sub(a.at).Seconds())
	}
	a.at = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}
