package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// Resend matches a stored version again, by the Subscriptions that are in force now, and sends
// it to those that it meets. A Subscription that has the event already gets it with its old
// number; to another it is a new match with a new number, marked with the job.
func (a *admin) Resend(ctx context.Context, r api.Resend, by string) (api.Done, error) {
	if err := a.gate.upToDate(ctx); err != nil {
		return api.Done{}, refusal(err)
	}
	v, err := a.resendVersion(r)
	if err != nil {
		return api.Done{}, err
	}
	hits, interaction, err := a.resendHits(ctx, r, v)
	if err != nil || len(hits) == 0 {
		return api.Done{}, err
	}
	if err := a.passed(ctx, v); err != nil {
		return api.Done{}, err
	}
	plan := make([]resent, len(hits))
	for i, h := range hits {
		plan[i] = resent{v.Sequence, h}
		if r.Subscription == "" {
			continue // one that is on its way to somebody as something else must not keep the others waiting
		}
		if err := a.settled(ctx, plan[i], interaction); err != nil {
			return api.Done{}, err
		}
	}
	job, err := a.job(ctx, func() (record.Job, error) {
		// A new round tells what was asked for, whatever the event did.
		j := record.Job{By: by, Interaction: interaction}
		return j, a.again(&j, plan, "resend")
	})
	if err != nil {
		return api.Done{}, err
	}
	a.log.Info("resource sent again", "resource", r.Key.String(), "event", v.Sequence, "subscriptions", len(hits), "by", by)
	return api.Done{Count: len(hits), Job: job}, nil
}

// settleTime is how long a $resend waits for a notification of the same event that goes out as
// another interaction.
const settleTime = 5 * time.Second

// settled waits until a notification can be sent as an interaction: one of the same event that is on
// its way as another must have ended, since a match has one round at a time. One that is on its way
// as the same is what was asked for; so is a create where nothing but an update was, which is what is
// asked for where nothing is said.
func (a *admin) settled(ctx context.Context, p resent, as fhir.Interaction) error {
	for until := time.Now().Add(settleTime); ; {
		m, has, err := a.store.MatchByID(record.MatchID{Event: p.event, Birth: p.Birth})
		if err != nil || !has || !m.Open || m.Interaction == as || m.Interaction == fhir.Create && as == fhir.Update {
			return err
		}
		if time.Now().After(until) {
			return fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf(
				"this version is still to be sent to Subscription/%s as %s, so it cannot be sent as %s now: send it again once it was accepted or given up", p.ID, m.Interaction, as))
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// resendVersion is the version that is to be sent: the one named, or the current one.
func (a *admin) resendVersion(r api.Resend) (store.Version, error) {
	at := r.Version
	if at == 0 {
		res, known, err := a.store.Resource(r.Key)
		if err != nil {
			return store.Version{}, err
		}
		if !known {
			return store.Version{}, notFound(r.Key)
		}
		at = res.Version
	}
	v, ok, err := a.store.Before(at)
	if err == nil && (!ok || v.Key != r.Key) {
		err = fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("%s has no version %d", r.Key, at))
	}
	return v, err
}

// resendHits evaluates the version with the code that matches events. A delete is evaluated
// by the state before it, and is always sent as a delete.
func (a *admin) resendHits(ctx context.Context, r api.Resend, v store.Version) ([]index.Hit, fhir.Interaction, error) {
	interaction := r.Interaction
	if v.Interaction == fhir.Delete {
		interaction = fhir.Delete
	}
	meant := func(index.Hit) bool { return true }
	if r.Subscription != "" {
		s, err := a.subscription(r.Subscription)
		if err != nil {
			return nil, "", err
		}
		meant = func(h index.Hit) bool { return h.ID == s.id }
	}
	res, err := backend{a.gate}.stateOf(ctx, v)
	if err != nil {
		return nil, "", err
	}
	if r.Verbose {
		a.logEvaluation(ctx, r, v, interaction, res)
	}
	hits, err := a.met(interaction, res, meant)
	if err != nil {
		return nil, "", err
	}
	hits, err = a.resendPaths(ctx, v, interaction, res, hits)
	return hits, interaction, err
}

// maxEvaluated bounds the Subscriptions whose evaluation one verbose $resend logs.
const maxEvaluated = 100

// logEvaluation writes to the log what each Subscription that is meant makes of a version: how many
// of its conditions are met, and not which, since a criteria may name a patient. $explain tells
// those who may read the resource.
func (a *admin) logEvaluation(ctx context.Context, r api.Resend, v store.Version, i fhir.Interaction, res *search.Resource) {
	logged := 0
	for _, s := range a.subs.all() {
		if r.Subscription != "" && s.id != r.Subscription || r.Subscription == "" && !s.about(v.Key.Type) {
			continue
		}
		if logged++; logged > maxEvaluated {
			a.log.Info("evaluation of further Subscriptions is not logged", "resource", v.Key.String(), "event", v.Sequence, "logged", maxEvaluated)
			return
		}
		q := match.Question{Subscription: s.id, At: index.Newest, Time: time.Now(), Interaction: i, Resource: res}
		if i == fhir.Update {
			q.Before = backend{a.gate}.bodyBefore(v.Previous)
		}
		x, err := match.Explain(ctx, a.subs.index, q)
		met := 0
		for _, c := range x.Conditions {
			if c.Met {
				met++
			}
		}
		a.log.Info("resend evaluated", "resource", v.Key.String(), "event", v.Sequence, "interaction", i, "subscription", s.id,
			"matches", x.Matches, "conditions", len(x.Conditions), "met", met, "decided", err == nil)
	}
}

// about reports whether a Subscription could hear of resources of a type.
func (s *subscription) about(typ string) bool {
	return s.criteria != nil && (s.criteria.AnyType() || slices.Contains(s.criteria.Types(), typ))
}

// met lists those that are meant and whose search criteria a resource meets. Where that cannot
// be decided nothing is sent: who resends would take it for "does not match".
func (a *admin) met(i fhir.Interaction, r *search.Resource, meant func(index.Hit) bool) ([]index.Hit, error) {
	undecided := false
	hits := a.subs.index.Match(index.Newest, time.Now(), i, r, func(c *search.Criteria, r *search.Resource) bool {
		met, err := c.Decide(r)
		undecided = undecided || err != nil
		return met || err != nil
	}, nil)
	var kept []index.Hit
	for _, h := range hits {
		if !meant(h) {
			continue
		}
		if e, ok := a.subs.index.Get(h.ID, index.Newest); undecided && ok {
			met, err := e.Criteria.Decide(r)
			if err != nil {
				return nil, undecidable(h.ID, err)
			}
			if !met {
				continue
			}
		}
		kept = append(kept, h)
	}
	return kept, nil
}

// undecidable is the refusal of a request that depends on what a Subscription's criteria says.
func undecidable(id fhir.ID, err error) error {
	if unavailable(err) {
		return unanswered(fmt.Errorf("criteria of Subscription/%s: %w", id, err))
	}
	return fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf("Subscription/%s: %s", id, err))
}

// resendPaths leaves out those whose FHIRPath criteria is not true. As with Medplum, one who
// resends as a create is told of a resource that had no state before.
func (a *admin) resendPaths(ctx context.Context, v store.Version, i fhir.Interaction, r *search.Resource, hits []index.Hit) ([]index.Hit, error) {
	change := match.Change{Interaction: i, State: r.Tree(), Time: v.Time}
	if i == fhir.Update {
		change.Before = backend{a.gate}.bodyBefore(v.Previous)
	}
	kept, undecided, err := match.NewPaths().Filter(ctx, change, hits, nil)
	if err != nil {
		return nil, err
	}
	if len(undecided) > 0 {
		return nil, undecidable(undecided[0].ID, undecided[0].Err)
	}
	return a.hooks().resending(ctx, record.Change{
		Event:       record.Event{Sequence: v.Sequence, Time: v.Time, Key: v.Key},
		Interaction: i, Previous: v.Previous,
	}, r.Tree().Source(), kept)
}
