package node

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// backend reads and writes resources for the HTTP face (api.Backend). Reads see everything
// that this node has acknowledged, also what a NATS producer wrote a moment ago.
type backend struct{ *gate }

// current waits until the projection holds all that was acknowledged here.
func (b backend) current(ctx context.Context) error { return b.ring.wait(ctx, b.events.Durable()) }

func (b backend) Read(ctx context.Context, key fhir.Key) (api.Resource, error) {
	if err := b.current(ctx); err != nil {
		return api.Resource{}, err
	}
	if api.IsAttempt(key) {
		return b.search.audits.read(key)
	}
	res, known, err := b.store.Resource(key)
	if err != nil {
		return api.Resource{}, err
	}
	if !known {
		return api.Resource{}, notFound(key)
	}
	return b.version(ctx, key, res.Version)
}

func (b backend) VRead(ctx context.Context, key fhir.Key, version record.Sequence) (api.Resource, error) {
	if err := b.current(ctx); err != nil {
		return api.Resource{}, err
	}
	if api.IsAttempt(key) && version == 1 {
		return b.search.audits.read(key)
	}
	v, ok, err := b.store.Before(version)
	if err != nil {
		return api.Resource{}, err
	}
	if !ok || v.Key != key {
		return api.Resource{}, fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("%s has no version %d", key, version))
	}
	return b.version(ctx, key, version)
}

// version reads one effective version.
func (b backend) version(ctx context.Context, key fhir.Key, version record.Sequence) (api.Resource, error) {
	v, ok, err := b.store.Before(version)
	if err != nil {
		return api.Resource{}, err
	}
	if !ok {
		return api.Resource{}, fmt.Errorf("%s version %d is not in the store", key, version)
	}
	e, err := b.versions.Event(ctx, version)
	if err != nil {
		return api.Resource{}, fmt.Errorf("read %s version %d: %w", key, version, err)
	}
	out := api.Resource{Key: key, Version: version, Time: v.Time, Interaction: v.Interaction, Deleted: v.Interaction == fhir.Delete}
	if key.Type == "Subscription" {
		if s := b.subs.get(key.ID); s != nil {
			out.Owner = s.owner
		}
	}
	if !out.Deleted {
		out.Body, err = b.vault.shown(ctx, e)
	}
	return out, err
}

func (b backend) History(ctx context.Context, key fhir.Key, count int, before record.Sequence) (versions []api.Resource, more bool, err error) {
	if err := b.current(ctx); err != nil {
		return nil, false, err
	}
	if api.IsAttempt(key) {
		r, err := b.search.audits.read(key)
		if err != nil || before == 1 {
			return nil, false, err
		}
		return []api.Resource{r}, false, nil
	}
	known := false
	for v, err := range b.store.History(key) {
		if err != nil {
			return nil, false, err
		}
		known = true
		if before != 0 && v.Sequence >= before {
			continue
		}
		if len(versions) == count {
			return versions, true, nil
		}
		r, err := b.version(ctx, key, v.Sequence)
		if err != nil {
			return nil, false, err
		}
		versions = append(versions, r)
	}
	if !known {
		return nil, false, notFound(key)
	}
	return versions, false, nil
}

func (b backend) Search(ctx context.Context, typ string, query url.Values, lenient bool) (api.Found, error) {
	if err := b.current(ctx); err != nil {
		return api.Found{}, err
	}
	if typ == "AuditEvent" {
		return b.search.findAudits(ctx, query, lenient)
	}
	return b.search.find(ctx, typ, query, lenient)
}

func (b backend) UpToDate(ctx context.Context) error {
	if err := b.upToDate(ctx); err != nil {
		return refusal(err)
	}
	return nil
}

func (b backend) Select(ctx context.Context, typ, condition string) ([]api.Resource, error) {
	a, err := b.search.condition(typ, condition)
	if err != nil {
		return nil, err
	}
	found, err := b.search.search(ctx, a)
	return found.matches, err
}

func (b backend) Parameters(typ string) []api.SearchParameter { return b.search.parameters(typ) }

func (b backend) ValidateSubscription(ctx context.Context, body []byte) ([]fhir.Issue, error) {
	sub, warnings, err := b.validate(ctx, body)
	if err == nil && !b.subs.channelOn(sub.Channel.Type) {
		warnings = append(warnings, b.subs.channelOff(sub.Channel.Type))
	}
	return warnings, err
}

// Explain asks the compiled criteria that match events, at the place of the event.
func (b backend) Explain(ctx context.Context, q api.ExplainQuery) (api.Explanation, error) {
	if err := b.current(ctx); err != nil {
		return api.Explanation{}, err
	}
	var sub *subscription
	if q.Unsaved == nil {
		if sub = b.subs.get(q.Subscription); sub == nil || sub.deleted {
			return api.Explanation{}, notFound(fhir.Key{Type: "Subscription", ID: q.Subscription})
		}
	}
	ask, version, err := b.question(ctx, q)
	if err != nil {
		return api.Explanation{}, err
	}
	var answer match.Explanation
	if sub == nil {
		answer, err = b.explainUnsaved(ctx, q.Unsaved, ask)
	} else {
		answer, err = b.explainStored(ctx, sub, ask)
	}
	if err != nil {
		return api.Explanation{}, unanswered(err)
	}
	out := api.Explanation{
		Subscription: q.Subscription,
		Version:      version,
		Interaction:  ask.Interaction,
		Matches:      answer.Matches,
	}
	if sub != nil {
		out.Status = string(sub.Status)
	}
	if q.Body == nil {
		out.Resource = q.Key.String()
	}
	for _, c := range answer.Conditions {
		out.Conditions = append(out.Conditions, api.Condition{Text: c.Text, Met: c.Met, Note: c.Note, Found: c.Found})
	}
	return out, nil
}

func (b backend) explainStored(ctx context.Context, sub *subscription, q match.Question) (match.Explanation, error) {
	if sub.problem != "" && q.At > sub.version { // the index may hold what was in force before it
		return b.explainIdle(ctx, sub, q)
	}
	answer, err := match.Explain(ctx, b.subs.index, q)
	if fhir.AsError(err) != nil {
		return b.explainIdle(ctx, sub, q)
	}
	if err == nil && sub.stale != "" {
		note := search.Condition{Text: "compiled with the definitions of its time", Met: true, Note: sub.stale}
		answer.Conditions = append([]search.Condition{note}, answer.Conditions...)
	}
	return answer, err
}

// explainIdle answers for a Subscription that the index does not hold because it hears nothing:
// that it is not in force comes first, then what its criteria says all the same.
func (b backend) explainIdle(ctx context.Context, sub *subscription, q match.Question) (match.Explanation, error) {
	idle := search.Condition{Text: "in force", Note: "the Subscription is " + string(sub.Status) + " now"}
	if sub.problem != "" {
		idle.Note = sub.problem
		return match.Explanation{Conditions: []search.Condition{idle}}, nil
	}
	criteria, path, err := b.subs.compiled(&sub.Subscription)
	if err != nil {
		return match.Explanation{}, err
	}
	answer, err := match.ExplainCriteria(ctx, criteria, path, q)
	answer.Matches, answer.Conditions = false, append([]search.Condition{idle}, answer.Conditions...)
	return answer, err
}

// explainUnsaved answers for a Subscription as if it were in force.
func (b backend) explainUnsaved(ctx context.Context, body []byte, q match.Question) (match.Explanation, error) {
	sub, err := fhir.ParseSubscription(body)
	if err != nil {
		return match.Explanation{}, err
	}
	criteria, path, err := b.subs.compiled(sub)
	if err != nil {
		if err = b.upToDate(ctx); err != nil {
			return match.Explanation{}, refusal(err)
		}
		criteria, path, err = b.subs.compiled(sub)
	}
	if err != nil {
		return match.Explanation{}, err
	}
	answer, err := match.ExplainCriteria(ctx, criteria, path, q)
	if q.At == index.Newest || err != nil {
		return answer, err // what has not happened may come about by any interaction
	}
	hears := match.Listens(sub.Heard(), q.Interaction)
	answer.Matches = answer.Matches && hears.Met
	answer.Conditions = append([]search.Condition{hears}, answer.Conditions...)
	return answer, nil
}

// question finds the state that is asked about: a body that is given, or a stored version; of
// a delete the state before it, which is what a delete is matched by.
func (b backend) question(ctx context.Context, q api.ExplainQuery) (ask match.Question, version record.Sequence, err error) {
	if q.Body != nil {
		ask, err = b.questionOf(ctx, q)
		return ask, 0, err
	}
	version = q.Version
	if version == 0 {
		res, known, err := b.store.Resource(q.Key)
		if err != nil {
			return ask, 0, err
		}
		if !known {
			return ask, 0, notFound(q.Key)
		}
		version = res.Version
	}
	v, ok, err := b.store.Before(version)
	if err != nil {
		return ask, 0, err
	}
	if !ok || v.Key != q.Key {
		return ask, 0, fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("%s has no version %d", q.Key, version))
	}
	ask = match.Question{Subscription: q.Subscription, At: version, Time: v.Time, Interaction: v.Interaction}
	if ask.Resource, err = b.stateOf(ctx, v); err != nil {
		return ask, 0, err
	}
	if v.Interaction == fhir.Update {
		ask.Before = b.bodyBefore(v.Previous)
	}
	return ask, version, nil
}

// stateOf is what criteria were asked about when a version was matched: of a delete the state
// before it.
func (b backend) stateOf(ctx context.Context, v store.Version) (*search.Resource, error) {
	e, err := b.versions.Event(ctx, v.Sequence)
	if err != nil {
		return nil, err
	}
	state := e.Body
	switch {
	case v.Interaction != fhir.Delete:
	case v.Previous == 0:
		state = match.Unseen(v.Key)
	default:
		if state, err = b.versions.Body(ctx, v.Previous); err != nil {
			return nil, err
		}
	}
	t, err := parsed(state)
	if err != nil {
		return nil, err
	}
	r := b.asked(t, match.EnvelopeOf(&e, t))
	b.beside(ctx, r, v.Sequence, v.Interaction)
	return r, nil
}

// questionOf asks about a body as if it were written now: as an update of the stored resource
// of its id, if there is one, else as a create.
func (b backend) questionOf(ctx context.Context, q api.ExplainQuery) (ask match.Question, err error) {
	t, err := parsed(q.Body)
	if err != nil {
		return ask, err
	}
	now := record.Event{Time: time.Now(), Feed: true} // whose own time it would have, if it has one
	ask = match.Question{Subscription: q.Subscription, At: index.Newest, Interaction: fhir.Create, Resource: b.asked(t, match.EnvelopeOf(&now, t))}
	res, known, err := b.store.Resource(fhir.Key{Type: ask.Resource.Type(), ID: fhir.ID(ask.Resource.ID())})
	if err == nil && known && !res.Deleted {
		ask.Interaction, ask.Before = fhir.Update, b.bodyBefore(res.Version)
	}
	b.beside(ctx, ask.Resource, ask.At, ask.Interaction)
	return ask, err
}

// bodyBefore reads a version for FHIRPath criteria; nil where there is none.
func (b backend) bodyBefore(version record.Sequence) func(context.Context) ([]byte, error) {
	if version == 0 {
		return nil
	}
	return func(ctx context.Context) ([]byte, error) { return matchBodies{b.versions}.Body(ctx, version) }
}

// unavailable reports whether an error says that criteria could not be told now of another
// resource.
func unavailable(err error) bool {
	passing := (*search.Unavailable)(nil)
	return errors.As(err, &passing) || errors.Is(err, search.ErrUnanswered)
}

// unanswered makes a refusal of such an error, and leaves others.
func unanswered(err error) error {
	if unavailable(err) {
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", err.Error()), 5*time.Second)
	}
	return err
}

func parsed(body []byte) (*json.Tree, error) {
	t, err := json.Parse(body, sizeOf(body))
	if err != nil {
		return nil, fhir.Refuse(fhir.IssueStructure, "", err.Error())
	}
	return t, nil
}

// asked is a state as criteria are asked about it.
func (b backend) asked(t *json.Tree, e search.Envelope) *search.Resource {
	r := search.NewResource(b.subs.defs.now(), t)
	r.Reset(t, e)
	return r
}

func notFound(key fhir.Key) error {
	return fhir.Refuse(fhir.IssueNotFound, "", key.String()+" is not known here")
}
