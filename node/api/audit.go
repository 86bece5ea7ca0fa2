package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// AttemptID is how the ids of those AuditEvents begin that are made of the log of outcomes: two
// numbers with a point between them follow.
const AttemptID = "attempt."

// IsAttempt reports whether a key is that of the AuditEvent of an attempt, or would be: these are read
// and searched, and nobody writes them.
func IsAttempt(key fhir.Key) bool {
	numbers, ok := strings.CutPrefix(string(key.ID), AttemptID)
	if key.Type != "AuditEvent" || !ok {
		return false
	}
	seq, index, ok := strings.Cut(numbers, ".")
	return ok && digits(seq) && digits(index)
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// ErrAttempt refuses to write one.
func ErrAttempt(key fhir.Key) *fhir.Error {
	return fhir.Refuse(fhir.IssueNotSupported, "", key.String()+" is the record of an attempt, which this server keeps: it can be read, and not written")
}

// unwritable refuses a write of what is only read (405).
func unwritable(key fhir.Key) error {
	if !IsAttempt(key) {
		return nil
	}
	return &refusal{status: http.StatusMethodNotAllowed, err: ErrAttempt(key), header: http.Header{"Allow": {"GET, HEAD"}}}
}

// OrderID is how the ids of those AuditEvents begin that tell of an order: 26 letters and digits of
// base32 follow, which are random.
const OrderID = "rest-"

// IsOrder reports whether a key is that of the AuditEvent of an order, or could be.
func IsOrder(key fhir.Key) bool {
	id, ok := strings.CutPrefix(string(key.ID), OrderID)
	return ok && key.Type == "AuditEvent" && len(id) == 26 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// Audit is what an AuditEvent tells of an order: who gave it, what it was about, what became of it. It
// holds no secret and nothing of a body.
type Audit struct {
	Agent     string   // id of the token; empty where no login was asked
	Action    string   // of http://hl7.org/fhir/audit-event-action: C, U, D or E
	Operation string   // such as create, pause or replay
	Entities  []string // Type/id where it is a resource, else a name such as "token lab"
	Outcome   string   // of http://terminology.hl7.org/CodeSystem/audit-event-outcome: 0, 4 or 8
	Text      string   // why it was refused, in one of our own words; may be empty
}

// audited is an order of the administration API that is told of.
type audited struct{ action, operation string }

// auditedRoutes are the routes whose requests change something: each leaves an AuditEvent, whether it was
// done or refused. Of writes of Subscriptions the log has one already, written with them, so that of
// these routes only refusals are told of here (writesOf).
var auditedRoutes = map[string]audited{
	"POST /fhir/{Type}/{id}/$resend":                     {"E", "resend"},
	"POST /fhir/Subscription/$trigger-subscription":      {"E", "trigger"},
	"POST /fhir/Subscription/{id}/$trigger-subscription": {"E", "trigger"},

	"POST /admin/api/v1/subscriptions/{id}/pause":    {"U", "pause"},
	"POST /admin/api/v1/subscriptions/{id}/resume":   {"U", "resume"},
	"POST /admin/api/v1/subscriptions/{id}/secret":   {"U", "rotate-secret"},
	"POST /admin/api/v1/subscriptions/{id}/test":     {"E", "test"},
	"POST /admin/api/v1/dlq/replay":                  {"E", "replay"},
	"POST /admin/api/v1/dlq/purge":                   {"D", "purge"},
	"POST /admin/api/v1/resend":                      {"E", "resend"},
	"POST /admin/api/v1/trigger":                     {"E", "trigger"},
	"POST /admin/api/v1/jobs/{id}/cancel":            {"U", "cancel-job"},
	"POST /admin/api/v1/delivery/stop":               {"E", "stop-delivery"},
	"POST /admin/api/v1/delivery/start":              {"E", "start-delivery"},
	"POST /admin/api/v1/delivery/reset":              {"E", "reset-breaker"},
	"POST /admin/api/v1/tokens":                      {"C", "create-token"},
	"DELETE /admin/api/v1/tokens/{id}":               {"D", "revoke-token"},
	"POST /admin/api/v1/keys/rotate":                 {"E", "rotate-keys"},
	"POST /admin/api/v1/consumers":                   {"C", "create-consumer"},
	"DELETE /admin/api/v1/consumers/{stream}/{name}": {"D", "delete-consumer"},
	"POST /admin/api/v1/config/reload":               {"E", "reload"},
	"POST /admin/api/v1/cluster/drain":               {"E", "drain"},
}

// unchanging are the requests that could change something by their method and do not.
var unchanging = []string{
	"POST /fhir/{Type}/_search", "POST /fhir/Subscription/{id}/$explain", "POST /fhir/Subscription/$explain",
	"POST /fhir/Subscription/$validate", "POST /admin/api/v1/explain", "POST /admin/api/v1/cluster/verify",
}

// writesOf are the routes that write resources.
var writesOf = map[string]audited{
	"POST /fhir/{Type}":        {"C", "create"},
	"PUT /fhir/{Type}":         {"U", "update"},
	"PATCH /fhir/{Type}":       {"U", "update"},
	"DELETE /fhir/{Type}":      {"D", "delete"},
	"PUT /fhir/{Type}/{id}":    {"U", "update"},
	"PATCH /fhir/{Type}/{id}":  {"U", "update"},
	"DELETE /fhir/{Type}/{id}": {"D", "delete"},
}

// Outcomes of an AuditEvent.
const (
	auditDone    = "0"
	auditRefused = "4" // minor failure: what was asked for is not possible
	auditDenied  = "8" // serious failure: who asked may not
)

// watch arranges that the request is told of when it is answered, and before its client knows.
func (s *server) watch(c *call, pattern string) {
	if s.audit == nil {
		return
	}
	what, order := auditedRoutes[pattern]
	if !order {
		var write bool
		if what, write = writesOf[pattern]; !write || c.r.PathValue("Type") != "Subscription" {
			return
		}
	}
	c.about(c.named(pattern))
	c.answering = func(status int) {
		a := Audit{Agent: c.token.ID, Action: what.action, Operation: what.operation, Entities: c.entities}
		switch {
		case status < 300 && order:
			a.Outcome = auditDone
		case status == http.StatusForbidden:
			a.Outcome, a.Text = auditDenied, "refused: the caller may not"
		case status == http.StatusUnprocessableEntity:
			a.Outcome, a.Text = auditRefused, "refused: it is not possible so"
		default:
			return
		}
		if !c.untold {
			s.audit(c.r.Context(), a)
		}
	}
}

// named is what the address of a request is about; empty where that is nothing by itself.
func (c *call) named(pattern string) string {
	id := fhir.ID(c.r.PathValue("id"))
	typ := c.r.PathValue("Type")
	switch {
	case typ == "" && (strings.Contains(pattern, "/Subscription/{id}") || strings.Contains(pattern, "/subscriptions/{id}")):
		typ = "Subscription"
	case strings.Contains(pattern, "/jobs/{id}"):
		typ = "job"
	}
	switch {
	case typ != printable(typ):
		return ""
	case typ == "" || !id.Valid():
		return typ
	}
	return typ + "/" + string(id)
}

// about says what a request is about, for its AuditEvent.
func (c *call) about(entities ...string) {
	const most = 100
	for _, e := range entities {
		if len(c.entities) < most && e != "" && !slices.Contains(c.entities, e) {
			c.entities = append(c.entities, e)
		}
	}
}

func (c *call) aboutResend(r Resend) {
	c.about(r.Key.String())
	if r.Subscription != "" {
		c.about("Subscription/" + string(r.Subscription))
	}
}
