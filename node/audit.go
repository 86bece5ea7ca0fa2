package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// audits shows each attempt of a delivery as an AuditEvent, in the form that Medplum gives them.
// They are not stored: the log of outcomes has all that they say, and they are made when somebody
// reads them. So they cost a delivery nothing, there is one for exactly each attempt, and none of
// them is an event that Subscriptions could hear, which is why attempts cannot feed on themselves.
//
// The id of one is its place in the log of outcomes, which every node names alike and which never
// changes: attempt.{sequence}.{index}.
type audits struct {
	store   *store.Store
	version fhir.Version

	mu   sync.Mutex
	subs map[subscriptionAt]audited
}

// subscriptionAt names a version of a Subscription.
type subscriptionAt struct {
	id      fhir.ID
	version record.Sequence
}

// audited is what an AuditEvent needs of the Subscription's version that was matched.
type audited struct {
	criteria string
	resource bool // attempts are shown as resources
	log      bool // attempts are written to the audit log
}

// auditToLog is where subscription-audit-event-destination lets a Subscription have its attempts.
const auditToLog = "log"

// auditedMax bounds the versions of Subscriptions that are remembered.
const auditedMax = 4096

func newAudits(s *store.Store, v fhir.Version) *audits {
	return &audits{store: s, version: v, subs: map[subscriptionAt]audited{}}
}

// auditKey is the key of the AuditEvent of an attempt.
func auditKey(at store.Place) fhir.Key {
	return fhir.Key{Type: "AuditEvent", ID: fhir.ID(fmt.Sprintf("%s%d.%d", api.AttemptID, at.Sequence, at.Index))}
}

// auditPlace reads such a key.
func auditPlace(key fhir.Key) (at store.Place, ok bool) {
	if !api.IsAttempt(key) {
		return at, false
	}
	seq, index, _ := strings.Cut(strings.TrimPrefix(string(key.ID), api.AttemptID), ".")
	n, err1 := strconv.ParseUint(seq, 10, 64)
	i, err2 := strconv.ParseUint(index, 10, 32)
	at = store.Place{Sequence: record.Sequence(n), Index: int(i)}
	return at, err1 == nil && err2 == nil && auditKey(at) == key
}

// read is the AuditEvent of a key.
func (a *audits) read(key fhir.Key) (api.Resource, error) {
	if at, ok := auditPlace(key); ok {
		t, ok, err := a.store.AttemptAt(at)
		if err != nil {
			return api.Resource{}, err
		}
		if ok {
			if r, ok, err := a.render(t); ok || err != nil {
				return r, err
			}
		}
	}
	return api.Resource{}, notFound(key)
}

// render makes the AuditEvent of an attempt; ok is false for what is no attempt, and where the
// Subscription does not want them as resources.
func (a *audits) render(t store.Attempt) (r api.Resource, ok bool, err error) {
	about, started, ok, err := a.about(t)
	if err != nil || !ok || !about.resource {
		return r, false, err
	}
	return a.resource(t, about, started), true, nil
}

// about finds what is told of an attempt besides: the version of the Subscription that was matched,
// and when the change was made that it is about. ok is false for what is no attempt.
func (a *audits) about(t store.Attempt) (about audited, started time.Time, ok bool, err error) {
	if t.Event == 0 || !t.Code.IsAttempt() {
		return about, started, false, nil
	}
	m, ok, err := a.store.MatchByID(t.MatchID)
	if err != nil || !ok {
		return about, started, false, err
	}
	about, err = a.subscription(t.Subscription, m.Version)
	return about, m.Time, err == nil, err
}

func (a *audits) subscription(id fhir.ID, version record.Sequence) (audited, error) {
	at := subscriptionAt{id, version}
	a.mu.Lock()
	known, ok := a.subs[at]
	a.mu.Unlock()
	if ok {
		return known, nil
	}
	v, ok, err := a.store.SubscriptionVersion(id, version)
	if err != nil {
		return audited{}, err
	}
	known = audited{resource: true}
	if s, err := fhir.ParseSubscription(v.Body); ok && err == nil {
		known.criteria = s.Criteria
		to := s.AuditTo
		known.log = slices.Contains(to, auditToLog)
		known.resource = len(to) == 0 || slices.Contains(to, "resource")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.subs) >= auditedMax {
		clear(a.subs)
	}
	a.subs[at] = known
	return known, nil
}

// Codes of AuditEvent.outcome (http://terminology.hl7.org/CodeSystem/audit-event-outcome).
const (
	auditSuccess = "0"
	auditMinor   = "4"
	auditSerious = "8"
)

const (
	systemOutcome = "http://terminology.hl7.org/CodeSystem/audit-event-outcome"
	systemRole    = "http://terminology.hl7.org/CodeSystem/object-role"
)

// coding, concept and reference are those data types of FHIR, as far as they are used here.
type coding struct {
	System  string `json:"system,omitempty"`
	Code    string `json:"code,omitempty"`
	Display string `json:"display,omitempty"`
}

type concept struct {
	Coding []coding `json:"coding,omitempty"`
	Text   string   `json:"text,omitempty"`
}

type reference struct {
	Reference  string      `json:"reference,omitempty"`
	Identifier *identifier `json:"identifier,omitempty"`
	Display    string      `json:"display,omitempty"`
}

type identifier struct {
	System string `json:"system,omitempty"`
	Value  string `json:"value"`
}

type period struct {
	Start string `json:"start"`
	End   string `json:"end"`
}

// auditEvent is an AuditEvent as R4 and R4B have it. What R5 has otherwise is in the second half, so
// that one value can be written for either.
type auditEvent struct {
	ResourceType string        `json:"resourceType"`
	ID           string        `json:"id"`
	Meta         *auditMeta    `json:"meta,omitempty"`
	Type         *coding       `json:"type,omitempty"`
	Subtype      []coding      `json:"subtype,omitempty"`
	Category     []concept     `json:"category,omitempty"` // R5: of type
	Code         *concept      `json:"code,omitempty"`     // R5: of type, or subtype
	Action       string        `json:"action,omitempty"`
	Period       *period       `json:"period,omitempty"`
	Occurred     *period       `json:"occurredPeriod,omitempty"` // R5: of period
	Recorded     string        `json:"recorded"`
	Outcome      any           `json:"outcome,omitempty"` // a code; R5: a BackboneElement
	OutcomeDesc  string        `json:"outcomeDesc,omitempty"`
	Agent        []auditAgent  `json:"agent"`
	Source       auditSource   `json:"source"`
	Entity       []auditEntity `json:"entity,omitempty"`
}

type auditMeta struct {
	VersionID   string   `json:"versionId,omitempty"`
	LastUpdated string   `json:"lastUpdated,omitempty"`
	Tag         []coding `json:"tag,omitempty"`
}

type auditAgent struct {
	Type      *concept   `json:"type,omitempty"`
	Who       *reference `json:"who,omitempty"`
	Name      string     `json:"name,omitempty"` // not in R5
	Requestor bool       `json:"requestor"`
}

type auditSource struct {
	Observer reference `json:"observer"`
}

type auditEntity struct {
	What   *reference    `json:"what,omitempty"`
	Role   any           `json:"role,omitempty"` // a coding; R5: a concept
	Name   string        `json:"name,omitempty"` // not in R5
	Detail []auditDetail `json:"detail,omitempty"`
}

type auditDetail struct {
	Type  any    `json:"type"` // a string; R5: a concept
	Value string `json:"valueString"`
}

// audit5 is the outcome as R5 has it.
type audit5 struct {
	Code   coding    `json:"code"`
	Detail []concept `json:"detail,omitempty"`
}

// encode writes the resource as a version has it.
func (e auditEvent) encode(v fhir.Version) []byte {
	if v == fhir.R5 {
		e = e.asR5()
	}
	return record.Encode(e)
}

func (e auditEvent) asR5() auditEvent {
	kind := concept{Coding: []coding{*e.Type}}
	e.Code, e.Type = &kind, nil
	if len(e.Subtype) > 0 {
		e.Category, e.Code, e.Subtype = []concept{kind}, &concept{Coding: e.Subtype}, nil
	}
	e.Occurred, e.Period = e.Period, nil
	outcome := audit5{Code: coding{System: systemOutcome, Code: e.Outcome.(string)}}
	if e.OutcomeDesc != "" {
		outcome.Detail = []concept{{Text: e.OutcomeDesc}}
	}
	e.Outcome, e.OutcomeDesc = outcome, ""
	e.Agent = slices.Clone(e.Agent)
	for i := range e.Agent {
		a := &e.Agent[i]
		if a.Who == nil {
			a.Who = &reference{}
			*a.Who = e.Source.Observer
		}
		a.Name = ""
	}
	e.Entity = slices.Clone(e.Entity)
	for i := range e.Entity {
		n := &e.Entity[i]
		if c, ok := n.Role.(coding); ok {
			n.Role = concept{Coding: []coding{c}}
		}
		if n.What == nil && n.Name != "" {
			n.What = &reference{Display: n.Name}
		}
		n.Name, n.Detail = "", slices.Clone(n.Detail)
		for d := range n.Detail {
			n.Detail[d].Type = concept{Text: n.Detail[d].Type.(string)}
		}
	}
	return e
}

// resource is the AuditEvent itself. It has one version for ever.
func (a *audits) resource(t store.Attempt, about audited, started time.Time) api.Resource {
	ended := t.At.Add(t.Took)
	key := auditKey(t.Place)
	subscription := reference{Reference: "Subscription/" + string(t.Subscription)}
	observer := subscription
	observer.Display = about.criteria
	role := coding{System: systemRole, Code: "4", Display: "Domain Resource"}
	if t.Key.Type == "Patient" {
		role = coding{System: systemRole, Code: "1", Display: "Patient"}
	}
	e := auditEvent{
		ResourceType: key.Type,
		ID:           string(key.ID),
		Meta:         &auditMeta{VersionID: "1", LastUpdated: fhirInstant(ended)},
		Type:         &coding{Code: "transmit"},
		Period:       &period{fhirInstant(started), fhirInstant(ended)},
		Recorded:     fhirInstant(ended),
		Outcome:      attemptOutcome(t.Code),
		OutcomeDesc:  attemptText(t.Outcome),
		Agent:        []auditAgent{{Type: &concept{Text: "Subscription"}}},
		Source:       auditSource{observer},
		Entity: []auditEntity{
			{What: &reference{Reference: t.Key.String()}, Role: role},
			{What: &subscription, Role: coding{System: systemRole, Code: "9", Display: "Subscriber"},
				Detail: []auditDetail{{Type: "eventNumber", Value: strconv.FormatUint(uint64(t.Number), 10)}}},
		},
	}
	return api.Resource{Key: key, Version: 1, Time: ended, Interaction: fhir.Create, Body: e.encode(a.version)}
}

func attemptOutcome(c record.Code) string {
	if c == record.Accepted {
		return auditSuccess
	}
	return auditMinor
}

// attemptText says what became of an attempt, as Medplum words it. The number is the one that
// X-Carillon-Attempt carries, from 1 in each round; Medplum's counts from 0.
func attemptText(o record.Outcome) string {
	text := fmt.Sprintf("Attempt %d ", o.Attempt)
	switch {
	case o.Status != 0:
		return text + fmt.Sprintf("received status %d", o.Status)
	case o.Code == record.Accepted:
		return text + "was accepted"
	}
	return text + "received error " + string(o.Code)
}

// fhirInstant writes a time as FHIR's instant.
func fhirInstant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// logged writes the attempts of a block to the audit log, those of Subscriptions that ask for it. It is
// called by the node that made them, once they are folded, so no attempt is told of by two nodes; what a
// node did not come to before it was killed stays in the log of outcomes alone. The store is read for
// births alone of which some version wants the log: nobody else's attempts cost anything here.
func (a *audits) logged(seq record.Sequence, b *record.OutcomeBlock, wanted func(birth record.Sequence) bool, write func(line json.RawMessage)) error {
	for i := range b.Outcomes {
		o := &b.Outcomes[i]
		if o.Event == 0 || !o.Code.IsAttempt() || !wanted(o.Birth) {
			continue
		}
		t, ok, err := a.store.AttemptAt(store.Place{Sequence: seq, Index: i})
		if err != nil {
			return err
		}
		if !ok { // said before
			continue
		}
		about, started, ok, err := a.about(t)
		if err != nil {
			return err
		}
		if ok && about.log {
			write(a.resource(t, about, started).Body)
		}
	}
	return nil
}

// attemptRun gives the AuditEvents of some lines of the log, newest first, and where to go on.
func (a *audits) attemptRun(ctx context.Context, f store.AttemptFilter, n int) (out []audit, before store.Place, err error) {
	if err := ctx.Err(); err != nil {
		return nil, before, err
	}
	run, before, err := a.store.AttemptRun(f, n)
	if err != nil {
		return nil, before, err
	}
	for _, t := range run {
		r, ok, err := a.render(t)
		if err != nil {
			return nil, before, err
		}
		if ok {
			out = append(out, audit{r, t.Place})
		}
	}
	return out, before, nil
}

// audit is a rendered AuditEvent and its place.
type audit struct {
	api.Resource
	at store.Place
}
