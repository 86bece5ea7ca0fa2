package node

import (
	"context"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// Resend matches a stored version again, by the Subscriptions that are in force now, and sends
// it to those that it meets. A Subscription that has the event already gets it with its old
// number; to another it is a new match with a new number, marked with the job.
func (a *admin) Resend(ctx context.Context, r api.Resend, by string) (api.Done, error) {
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
	job, err := a.job(ctx, func() (record.Job, error) {
		j := record.Job{By: by}
		for _, h := range hits {
			id := record.MatchID{Event: v.Sequence, Birth: h.Birth}
			_, has, err := a.store.MatchByID(id)
			switch {
			case err != nil:
				return j, err
			case has:
				j.Replay = append(j.Replay, id)
			default:
				j.Matches = append(j.Matches, record.Match{
					Event: v.Sequence, Subscription: h.ID, Birth: h.Birth, Version: h.Version, Interaction: interaction, Job: "resend",
				})
			}
		}
		return j, nil
	})
	if err != nil {
		return api.Done{}, err
	}
	a.log.Info("resource sent again", "resource", r.Key.String(), "event", v.Sequence, "subscriptions", len(hits), "by", by)
	return api.Done{Count: len(hits), Job: job}, nil
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
	hits, err := a.met(interaction, res, meant)
	if err != nil {
		return nil, "", err
	}
	hits, err = a.resendPaths(ctx, v, interaction, res, hits)
	return hits, interaction, err
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
	return kept, nil
}

// passed waits until the event's partition has decided about it: only then is it known which
// Subscriptions do not have it.
func (a *admin) passed(ctx context.Context, v store.Version) error {
	partition := a.table.Of(v.Key.Type, stream.ShardOf(v.Key.ID))
	for {
		b, at, found, err := blocks{a.server}.Newest(ctx, partition)
		if err != nil {
			return refusal(err)
		}
		if found && b.Through >= v.Sequence {
			return a.store.WaitApplied(ctx, store.Vector{Matches: at})
		}
		// A partition without matches writes its mark once a second.
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
