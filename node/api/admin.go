package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Lists of the administration API.
const (
	listDefault = 100
	listMax     = 10_000
)

// params reads a query; the first thing that is wrong with it is kept.
type params struct {
	q   url.Values
	err error
}

// params refuses a query with names that the route does not know: a misspelt filter would
// select everything.
func (c *call) params(known ...string) *params {
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return &params{q: url.Values{}, err: badRequest("the query cannot be read: check its % escapes")}
	}
	p := &params{q: q}
	for name, values := range q {
		if !slices.Contains(known, name) && name != "_pretty" {
			p.fail("parameter %q is not known here", printable(name))
		} else if len(values) > 1 {
			p.fail("parameter %q is given more than once", name)
		}
	}
	return p
}

func (p *params) fail(format string, args ...any) {
	if p.err == nil {
		p.err = badRequest(fmt.Sprintf(format, args...))
	}
}

func (p *params) text(name string) string { return p.q.Get(name) }

func (p *params) id(name string) fhir.ID {
	id := fhir.ID(p.q.Get(name))
	if id != "" && !id.Valid() {
		p.fail("%s is not an id", name)
	}
	return id
}

func (p *params) number(name string, otherwise, least, most uint64) uint64 {
	v := p.q.Get(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil || n < least || n > most {
		p.fail("%s is a number from %d to %d", name, least, most)
	}
	return n
}

func (p *params) limit() int { return int(p.number("limit", listDefault, 1, listMax)) }

func (p *params) time(name string) time.Time {
	v := p.q.Get(name)
	if v == "" {
		return time.Time{}
	}
	// A plus sign in a query means a space.
	t, err := time.Parse(time.RFC3339, strings.ReplaceAll(v, " ", "+"))
	if err != nil {
		p.fail("%s is a time such as 2026-01-31T12:00:00Z", name)
	}
	return t
}

// list answers with an array, also where there is nothing.
func list[T any](c *call, items []T, err error) error {
	if err != nil {
		return err
	}
	if items == nil {
		items = []T{}
	}
	return c.sendJSON(http.StatusOK, items)
}

// one answers with an object.
func one(c *call, item any, err error) error {
	if err != nil {
		return err
	}
	return c.sendJSON(http.StatusOK, item)
}

// idOf reads the id of an administration address.
func (c *call) idOf() (fhir.ID, error) {
	id := fhir.ID(c.r.PathValue("id"))
	if !id.Valid() {
		return "", fhir.Refuse(fhir.IssueNotFound, "", "no Subscription has such an id")
	}
	return id, c.params().err
}

func (s *server) adminSubscriptions(c *call) error {
	p := c.params("status", "limit")
	f := SubscriptionFilter{Status: p.text("status"), Limit: p.limit()}
	switch f.Status {
	case "", "requested", "active", "error", "off":
	default:
		p.fail("status is requested, active, error or off")
	}
	if p.err != nil {
		return p.err
	}
	items, err := s.admin.Subscriptions(c.r.Context(), f)
	return list(c, items, err)
}

func (s *server) adminSubscription(c *call) error {
	id, err := c.idOf()
	if err != nil {
		return err
	}
	item, err := s.admin.Subscription(c.r.Context(), id)
	return one(c, item, err)
}

func (s *server) adminPause(c *call) error {
	id, err := c.idOf()
	if err != nil {
		return err
	}
	item, err := s.admin.Pause(c.r.Context(), id, c.token.ID)
	return one(c, item, err)
}

func (s *server) adminResume(c *call) error {
	id, err := c.idOf()
	if err != nil {
		return err
	}
	item, err := s.admin.Resume(c.r.Context(), id, c.token.ID)
	return one(c, item, err)
}

func (s *server) adminEvents(c *call) error {
	id := fhir.ID(c.r.PathValue("id"))
	if !id.Valid() {
		return fhir.Refuse(fhir.IssueNotFound, "", "no Subscription has such an id")
	}
	p := c.params("since", "until", "limit")
	f := EventFilter{
		Since: fhir.EventNumber(p.number("since", 1, 0, 1<<63-1)),
		Until: fhir.EventNumber(p.number("until", 0, 0, 1<<63-1)),
		Limit: p.limit(),
	}
	if p.err != nil {
		return p.err
	}
	items, err := s.admin.Events(c.r.Context(), id, f)
	return list(c, items, err)
}

func (s *server) adminDeadLetters(c *call) error {
	p := c.params("subscription", "since", "until", "reason", "kind", "limit")
	f := DeadFilter{
		Subscription: p.id("subscription"), Since: p.time("since"), Until: p.time("until"),
		Reason: record.Code(p.text("reason")), Kind: record.DeadKind(p.text("kind")), Limit: p.limit(),
	}
	if !knownDeadKind(f.Kind) {
		p.fail("kind is endpoint or pipeline")
	}
	if p.err != nil {
		return p.err
	}
	items, err := s.admin.DeadLetters(c.r.Context(), f)
	return list(c, items, err)
}

func (s *server) adminDeadLetter(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	item, err := s.admin.DeadLetter(c.r.Context(), c.r.PathValue("id"))
	return one(c, item, err)
}

// readSelection reads an order about dead letters. One that names nothing is refused: it would
// mean all.
func (s *server) readSelection(c *call) (DeadSelection, error) {
	var sel DeadSelection
	if err := c.params().err; err != nil {
		return sel, err
	}
	if err := s.readObject(c, &sel); err != nil {
		return sel, err
	}
	chosen := sel.Subscription != "" || !sel.Since.IsZero() || !sel.Until.IsZero() || sel.Reason != "" || sel.Kind != ""
	switch {
	case len(sel.IDs) > 0 == chosen:
		return sel, badRequest("name the dead letters by ids, or choose them by at least one of subscription, since, until, reason and kind")
	case len(sel.IDs) > maxSelected:
		return sel, badRequest(fmt.Sprintf("at most %d dead letters can be named at a time, these are %d; subscription, since and until choose more", maxSelected, len(sel.IDs)))
	case !knownDeadKind(sel.Kind):
		return sel, badRequest("kind is endpoint or pipeline")
	case sel.Subscription != "" && !sel.Subscription.Valid():
		return sel, badRequest("subscription is not an id")
	case sel.Rate < 0:
		return sel, badRequest("rate is a number of replays a second, or 0 for no limit")
	}
	c.untold = sel.DryRun
	if sel.Subscription != "" {
		c.about("Subscription/" + string(sel.Subscription))
	}
	for _, id := range sel.IDs {
		c.about("dead letter " + printable(id))
	}
	return sel, nil
}

// maxSelected bounds the dead letters that one order names.
const maxSelected = 10_000

// knownDeadKind reports whether there is such a kind; none is all.
func knownDeadKind(k record.DeadKind) bool {
	return k == "" || k == record.DeadEndpoint || k == record.DeadPipeline
}

func (s *server) adminReplay(c *call) error {
	sel, err := s.readSelection(c)
	if err != nil {
		return err
	}
	done, err := s.admin.Replay(c.r.Context(), sel, c.token.ID)
	return one(c, done, err)
}

func (s *server) adminPurge(c *call) error {
	sel, err := s.readSelection(c)
	if err != nil {
		return err
	}
	done, err := s.admin.Purge(c.r.Context(), sel, c.token.ID)
	return one(c, done, err)
}

func (s *server) adminAttempts(c *call) error {
	p := c.params("subscription", "resource", "status", "since", "limit")
	f := AttemptFilter{
		Subscription: p.id("subscription"), Outcome: record.Code(p.text("status")), Since: p.time("since"), Limit: p.limit(),
	}
	if ref := p.text("resource"); ref != "" {
		key, err := fhir.ParseKey(ref)
		if err != nil {
			p.fail("resource is of the form Type/id")
		}
		f.Resource = key
	}
	if p.err != nil {
		return p.err
	}
	items, err := s.admin.Attempts(c.r.Context(), f)
	return list(c, items, err)
}

func (s *server) adminTokens(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	items, err := s.admin.Tokens(c.r.Context())
	return list(c, items, err)
}

func (s *server) adminCreateToken(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var body struct {
		Name  string `json:"name"`
		Roles []Role `json:"roles"`
	}
	if err := s.readObject(c, &body); err != nil {
		return err
	}
	if body.Name == "" || len(body.Name) > 64 || body.Name != printable(body.Name) || strings.TrimSpace(body.Name) != body.Name {
		return badRequest("name is 1 to 64 bytes of text that tells what the token is for")
	}
	if len(body.Roles) == 0 {
		return badRequest("roles is at least one of " + joinRoles(Roles()))
	}
	for _, r := range body.Roles {
		if !slices.Contains(Roles(), r) {
			return badRequest(fmt.Sprintf("there is no role %q; there are %s", printable(string(r)), joinRoles(Roles())))
		}
	}
	c.about("token " + body.Name)
	slices.Sort(body.Roles)
	token, err := s.admin.CreateToken(c.r.Context(), body.Name, slices.Compact(body.Roles), c.token.ID)
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", "no-store") // the secret is shown this once
	return c.sendJSON(http.StatusCreated, token)
}

func (s *server) adminRevokeToken(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	c.about("token " + printable(c.r.PathValue("id")))
	if err := s.admin.RevokeToken(c.r.Context(), c.r.PathValue("id"), c.token.ID); err != nil {
		return err
	}
	c.send(http.StatusNoContent, c.mime, nil)
	return nil
}

func (s *server) adminStatus(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	st, err := s.admin.Status(c.r.Context())
	return one(c, st.complete(), err)
}

func (st Status) complete() Status {
	st.Warnings, st.Logs, st.Partitions = full(st.Warnings), full(st.Logs), full(st.Partitions)
	if st.Subscriptions == nil {
		st.Subscriptions = map[string]int{}
	}
	return st
}

func (s *server) adminConfig(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	cfg, err := s.admin.Config(c.r.Context())
	return one(c, cfg, err)
}

func (s *server) adminExplain(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var body struct {
		Subscription fhir.ID         `json:"subscription"`
		Unsaved      json.RawMessage `json:"unsaved"` // a Subscription, in place of the id of a stored one
		Resource     string          `json:"resource"`
		Body         json.RawMessage `json:"body"`
	}
	if err := s.readObject(c, &body); err != nil {
		return err
	}
	q := ExplainQuery{Subscription: body.Subscription}
	var err error
	if len(body.Unsaved) > 0 {
		if q.Unsaved, err = s.explainSubscription(body.Unsaved); err != nil {
			return err
		}
	}
	switch {
	case (q.Unsaved != nil) == (q.Subscription != ""):
		return badRequest("give subscription, the id of a stored Subscription, or unsaved, a Subscription")
	case q.Unsaved == nil && !body.Subscription.Valid():
		return badRequest("subscription is the id of the Subscription")
	case (body.Resource == "") == (len(body.Body) == 0):
		return badRequest("name the resource as resource, or send it as body")
	case body.Resource != "":
		q.Key, q.Version, err = s.parseReference(body.Resource)
	default:
		q.Body, err = s.explainBody(body.Body)
	}
	if err != nil {
		return err
	}
	x, err := s.backend.Explain(c.r.Context(), q)
	if x.Conditions == nil {
		x.Conditions = []Condition{}
	}
	return one(c, x, err)
}

func (s *server) adminResend(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var body struct {
		Resource string `json:"resource"`
		resendBody
	}
	if err := s.readObject(c, &body); err != nil {
		return err
	}
	key, version, err := s.parseReference(body.Resource)
	if err != nil {
		return err
	}
	r, err := body.resend()
	if err != nil {
		return err
	}
	if version != 0 && r.Version != 0 && version != r.Version {
		return badRequest("resource and version name two versions")
	}
	r.Key, r.Version = key, max(version, r.Version)
	c.aboutResend(r)
	done, err := s.admin.Resend(c.r.Context(), r, c.token.ID)
	return one(c, done, err)
}

// parseReference reads Type/id or Type/id@version.
func (s *server) parseReference(ref string) (fhir.Key, record.Sequence, error) {
	ref, version, versioned := strings.Cut(ref, "@")
	key, err := fhir.ParseKey(ref)
	if err != nil {
		return key, 0, badRequest("resource is of the form Type/id or Type/id@version")
	}
	v := parseVersion(version)
	if versioned && v == 0 {
		return key, 0, badRequest("the version behind @ is a number as ETag shows it")
	}
	return key, v, s.hasType(key.Type)
}

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }
