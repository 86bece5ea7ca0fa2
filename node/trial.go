package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/payload"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
)

// trialSearch bounds the search for a resource to try a Subscription with.
const trialSearch = time.Second

// Test sends one notification that is marked as a test, through the Subscription's own channel and from this
// node, and tells how it was answered. It stands outside of everything that is counted: it has no event
// number, no outcome, no second attempt, and nothing of it is in the logs but who asked for it. So it can
// be done for a Subscription that is paused or off as well, but not while all sending is stopped.
func (a *admin) Test(ctx context.Context, id fhir.ID, about fhir.Key, by string) (api.TestResult, error) {
	s, err := a.subscription(id)
	if err != nil {
		return api.TestResult{}, err
	}
	if s.problem != "" && s.Channel.Type == "" {
		return api.TestResult{}, fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf("%s cannot be read: %s", s, s.problem))
	}
	if warning := a.haltWarning(); warning != "" {
		return api.TestResult{}, fhir.Refuse(fhir.IssueConflict, "", "nothing is sent, tests neither: "+warning)
	}
	t := a.subs.target(s)
	channel := a.channels[t.ChannelType]
	if channel == nil {
		return api.TestResult{}, fhir.Refuse(fhir.IssueNotSupported, "Subscription.channel.type", fmt.Sprintf("no channel of type %s is running here", t.ChannelType))
	}
	n, out, err := a.trial(ctx, s, t, about)
	if err != nil {
		return api.TestResult{}, err
	}
	out.Subscription, out.Status = id, string(s.Status)
	limit := t.Timeout
	if limit <= 0 {
		limit = deliver.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, min(limit, deliver.MaxTimeout))
	defer cancel()
	began := time.Now()
	receipt, failure := channel.Send(ctx, n, t)
	out.TookMS = float64(time.Since(began)) / float64(time.Millisecond)
	out.Outcome, out.HTTPStatus, out.Response = record.Accepted, receipt.Status, receipt.Response
	if failure != nil {
		out.Outcome, out.HTTPStatus, out.Response = failure.Code, failure.Status, failure.Response
		if failure.Err != nil {
			out.Error = failure.Err.Error()
		}
	}
	a.log.Info("test notification sent", "subscription", id, "outcome", out.Outcome, "by", by)
	return out, nil
}

// trial makes the notification: of the resource that is asked for, else of the newest one that meets the
// criteria, else of an example that says no more than what it is.
func (a *admin) trial(ctx context.Context, s *subscription, t deliver.Target, about fhir.Key) (n deliver.Notification, out api.TestResult, err error) {
	if why := s.lockedBy(); why != "" {
		return n, out, retryAfter(fhir.Refuse(fhir.IssueTransient, "", why), 5*time.Second)
	}
	if about == (fhir.Key{}) {
		about = a.newestMatch(ctx, s)
	}
	if about == (fhir.Key{}) {
		n, err = a.example(s, t)
		out.Example = true
	} else {
		n, err = a.trialOf(ctx, s, t, about)
		if err == nil {
			out.Matches, err = a.matchesNow(ctx, s, about)
		}
	}
	if errors.Is(err, deliver.ErrNothing) {
		return n, out, fhir.Refuse(fhir.IssueProcessing, "", "nothing would be sent: "+err.Error())
	}
	if err != nil {
		return n, out, err
	}
	out.Resource = n.Key.String()
	n.Subscription, n.MatchID.Birth, n.Number, n.Attempt, n.Resend = s.id, s.birth, 0, 1, false
	n.Test, n.TestID = true, strings.ToLower(rand.Text()[:12])
	out.WebhookID = n.Name()
	return n, out, nil
}

// trialOf renders the newest version of a resource as if it had just been written.
func (a *admin) trialOf(ctx context.Context, s *subscription, t deliver.Target, key fhir.Key) (n deliver.Notification, err error) {
	res, known, err := a.store.Resource(key)
	switch {
	case err != nil:
		return n, err
	case !known || res.Version == 0:
		return n, notFound(key)
	case res.Deleted:
		return n, fhir.Refuse(fhir.IssueDeleted, "", key.String()+" is deleted; name another resource")
	}
	v, _, err := a.store.Before(res.Version)
	if err != nil {
		return n, err
	}
	p := deliver.Pending{Key: key, EventTime: v.Time, Match: record.Match{
		Event: res.Version, Subscription: s.id, Birth: s.birth, Version: s.version, Interaction: v.Interaction,
	}}
	n, err = a.renderer().Render(ctx, p, t)
	if errors.Is(err, deliver.ErrUnavailable) {
		return n, retryAfter(fhir.Refuse(fhir.IssueTransient, "", "the resource cannot be read now; ask again in a moment"), 2*time.Second)
	}
	return n, err
}

// example is a notification about a resource that does not exist, of the criteria's type.
func (a *admin) example(s *subscription, t deliver.Target) (n deliver.Notification, err error) {
	key := fhir.Key{Type: "Patient", ID: "example"}
	if types := a.trialTypes(s); len(types) > 0 {
		key.Type = types[0]
	}
	body := record.Encode(struct {
		ResourceType string `json:"resourceType"`
		ID           string `json:"id"`
	}{key.Type, string(key.ID)})
	about, shape := payload.Resource{Key: key, Body: body}, payload.Of(t.Subscription, a.fhir)
	sent, err := shape.Resource(about)
	if err != nil {
		return n, err
	}
	n = deliver.Notification{Key: sent.Key, Interaction: fhir.Create, ContentType: fhir.ContentJSON, Body: sent.Body}
	if t.Subscription != nil && t.Subscription.PayloadSearch != "" { // its receiver takes transactions
		n.Transaction = true
		if n.Body, err = shape.Transaction("example", []payload.Resource{about}); err != nil {
			return n, err
		}
	}
	return inFormat(n, t, a.fhir)
}

func (a *admin) trialCriteria(s *subscription) *search.Criteria {
	if s.criteria != nil {
		return s.criteria
	}
	criteria, _, err := a.subs.compiled(&s.Subscription)
	if err != nil {
		return nil
	}
	return criteria
}

func (a *admin) trialTypes(s *subscription) []string {
	if c := a.trialCriteria(s); c != nil && !c.AnyType() {
		return c.Types()
	}
	return nil
}

// newestMatch finds the newest resource that meets the search criteria, where that is found quickly;
// else the zero key.
func (a *admin) newestMatch(ctx context.Context, s *subscription) fhir.Key {
	criteria := a.trialCriteria(s)
	quick := *a.gate.search
	quick.budget = trialSearch
	for _, typ := range a.trialTypes(s) {
		found, err := quick.search(ctx, &asked{
			typ: typ, criteria: criteria, filtered: true, count: 1, total: totalNone, order: order{byTime: true, down: true},
		})
		if err == nil && len(found.matches) > 0 {
			return found.matches[0].Key
		}
	}
	return fhir.Key{}
}

// matchesNow reports whether the Subscription would hear of the resource's newest version; nil where that
// cannot be found out.
func (a *admin) matchesNow(ctx context.Context, s *subscription, key fhir.Key) (*bool, error) {
	res, _, err := a.store.Resource(key)
	if err != nil {
		return nil, err
	}
	x, err := (backend{a.gate}).Explain(ctx, api.ExplainQuery{Subscription: s.id, Key: key, Version: res.Version})
	if err != nil {
		return nil, nil // it is no more than a remark
	}
	// Whether it was in force when the resource was written says nothing about its criteria: it may be off
	// now, or younger than the resource.
	met := true
	for _, c := range x.Conditions {
		met = met && (c.Met || c.Text == "in force")
	}
	return &met, nil
}

func (n *Node) renderer() deliver.Renderer {
	return formats{renderer{n.versions, n.store, n.gate.search, n.subs.version}, n.fhir}
}
