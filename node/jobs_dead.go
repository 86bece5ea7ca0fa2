package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// Replay orders dead letters to be made pending again: with their old number, in a new round of
// attempts.
func (a *admin) Replay(ctx context.Context, sel api.DeadSelection, by string) (api.Done, error) {
	if err := a.allLetters(ctx); err != nil {
		return api.Done{}, err
	}
	if sel.Subscription != "" && sel.Subscription != ingestID {
		if a.subs.get(sel.Subscription) == nil {
			return api.Done{}, notFound(fhir.Key{Type: "Subscription", ID: sel.Subscription})
		}
		if s := a.subs.get(sel.Subscription); s.deleted || s.Status == fhir.StatusOff {
			return api.Done{}, fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf(
				"%s is off, or was deleted, so nothing would be sent; switch it on first", s))
		}
	}
	for _, id := range sel.IDs {
		e, err := a.deadEntry(id, false)
		if err != nil {
			return api.Done{}, err
		}
		if why := a.unsendable(e); why != "" {
			return api.Done{}, fhir.Refuse(fhir.IssueProcessing, "", why)
		}
	}
	return a.deadJob(ctx, record.JobReplay, sel, by)
}

// allLetters waits until this node has read every letter that there is: the one who orders may have seen
// it in another node's list.
func (a *admin) allLetters(ctx context.Context) error {
	newest, err := a.newestLetter(ctx)
	if err != nil {
		return err
	}
	return a.readLetters(ctx, newest)
}

// unsendable says why a replay of a letter would send nothing; empty if it would.
func (a *admin) unsendable(e store.DeadEntry) string {
	if e.Subscription == ingestID {
		return e.ID + " is a record that could not be evaluated and belongs to no Subscription; send its resource again instead"
	}
	if s := a.subs.get(e.Subscription); s == nil || s.deleted || s.birth != e.MatchID.Birth || s.Status == fhir.StatusOff {
		return fmt.Sprintf("Subscription/%s of %s is off, or was deleted since, so nothing would be sent; switch it on first", e.Subscription, e.ID)
	}
	return ""
}

// Purge orders dead letters to be removed from the log, and from sight.
func (a *admin) Purge(ctx context.Context, sel api.DeadSelection, by string) (api.Done, error) {
	if err := a.allLetters(ctx); err != nil {
		return api.Done{}, err
	}
	for _, id := range sel.IDs {
		// Purged ones too: what another release began to remove is to be removed from the log.
		if _, err := a.deadEntry(id, true); err != nil {
			return api.Done{}, err
		}
	}
	return a.deadJob(ctx, record.JobPurge, sel, by)
}

// deadJob orders a job about dead letters, or counts what it would be about.
func (a *admin) deadJob(ctx context.Context, kind record.JobKind, sel api.DeadSelection, by string) (api.Done, error) {
	o := record.Order{
		Kind: kind, Subscription: sel.Subscription, Letters: sel.IDs,
		Since: sel.Since, Until: sel.Until, Reason: sel.Reason, Dead: sel.Kind, Rate: sel.Rate,
		Through: a.store.Position().Dead, Total: len(sel.IDs),
	}
	if len(sel.IDs) == 0 {
		for at := record.Sequence(0); at < o.Through; {
			es, through, err := a.store.DeadFrom(ctx, lettersOf(o, 1000), at, o.Through)
			if err != nil {
				return api.Done{}, err
			}
			o.Total, at = o.Total+len(es), through
		}
	}
	if sel.DryRun || o.Total == 0 {
		return api.Done{Count: o.Total, DryRun: sel.DryRun}, nil
	}
	job, err := a.jobs.order(ctx, o, by)
	return api.Done{Count: o.Total, Job: job.ID}, err
}

// lettersOf chooses the letters that an order means.
func lettersOf(o record.Order, limit int) store.DeadFilter {
	return store.DeadFilter{Subscription: o.Subscription, Since: o.Since, Until: o.Until, Reason: o.Reason, Kind: o.Dead,
		State: store.DeadLetter, Limit: limit}
}

// letters gives the dead letters of a job's next step, and the step without figures. Letters that
// an order names and that are not there any more count as skipped. A job's cursor is the number of
// names that it is done with, or the place in DEAD.
func (j *jobs) letters(ctx context.Context, job store.Job, most int) (es []store.DeadEntry, next record.Step, err error) {
	o, size := job.Order, stepSize(most, job.Order.Rate)
	next = job.Step
	next.State = record.JobRunning
	at, _ := strconv.ParseUint(job.Cursor, 10, 64) // empty is 0
	if len(o.Letters) > 0 {
		from := min(int(at), len(o.Letters))
		to := min(from+size, len(o.Letters))
		for _, id := range o.Letters[from:to] {
			e, known, err := j.store.DeadByID(id)
			if err != nil {
				return nil, next, err
			}
			if known {
				es = append(es, e)
			} else {
				next.Skipped++
			}
		}
		next.Cursor = strconv.Itoa(to)
		if to == len(o.Letters) {
			next.State = record.JobDone
		}
		return es, next, nil
	}
	es, through, err := j.store.DeadFrom(ctx, lettersOf(o, size), record.Sequence(at), o.Through)
	next.Cursor = strconv.FormatUint(uint64(through), 10)
	if through >= o.Through {
		next.State = record.JobDone
	}
	return es, next, err
}

func (j *jobs) replayStep(ctx context.Context, job store.Job) (record.Step, func(*record.Job) error, error) {
	es, next, err := j.letters(ctx, job, replaySteps)
	var ids []record.MatchID
	for _, e := range es {
		if e.State == store.DeadPurged || j.unsendable(e) != "" {
			next.Skipped++
			continue
		}
		ids = append(ids, e.MatchID)
	}
	next.Done, next.Sent = next.Done+len(ids), next.Sent+len(ids)
	return next, func(r *record.Job) error { r.Replay = ids; return nil }, err
}

// purgeStep removes letters from the log, then has them hidden. Cut short between the two it is
// made again: letters without a body are listed for a moment, and none keeps one for good.
func (j *jobs) purgeStep(ctx context.Context, job store.Job) (record.Step, func(*record.Job) error, error) {
	es, next, err := j.letters(ctx, job, purgeSteps)
	if err != nil {
		return next, nil, err
	}
	ids := make([]record.MatchID, len(es))
	for i, e := range es {
		ids[i] = e.MatchID
	}
	if err := j.erase(ctx, es, job.Order.Total <= overwritten); err != nil {
		return next, nil, err
	}
	next.Done += len(es)
	return next, func(r *record.Job) error { r.Purge = ids; return nil }, nil
}

// overwritten is how many letters a purge overwrites on the disk one by one, for which the engine
// writes a block of 8 MiB anew each time. The bytes of a larger purge leave the disk when their
// blocks are empty, or are compacted because half of them is gone.
const overwritten = 100

// erase removes letters, those of earlier rounds too, from DEAD. It may be repeated.
func (j *jobs) erase(ctx context.Context, es []store.DeadEntry, overwrite bool) error {
	if len(es) == 0 {
		return nil
	}
	st, err := j.server.JetStream().Stream(ctx, stream.Dead)
	if err != nil {
		return fmt.Errorf("open %s: %w", stream.Dead, err)
	}
	for _, e := range es {
		for _, seq := range e.Messages {
			remove := st.DeleteMsg
			if overwrite {
				remove = st.SecureDeleteMsg
			}
			err := remove(ctx, uint64(seq))
			if err != nil {
				if _, gerr := j.server.Get(ctx, stream.Dead, seq); errors.Is(gerr, stream.ErrNotFound) {
					continue // removed before
				}
			}
			if err != nil {
				return fmt.Errorf("remove a dead letter at %d from the log: %w", seq, err)
			}
		}
	}
	return nil
}

// expireStep has letters removed from the projection, then removes them from the log: so no node
// that starts in between misses what others list.
func (j *jobs) expireStep(ctx context.Context, job store.Job) (record.Step, func(*record.Job) error, error) {
	next := job.Step
	next.State = record.JobRunning
	at, _ := strconv.ParseUint(job.Cursor, 10, 64)
	if at > 0 {
		st, err := j.server.JetStream().Stream(ctx, stream.Dead)
		if err == nil {
			err = st.Purge(ctx, jetstream.WithPurgeSequence(at+1))
		}
		if err != nil {
			return next, nil, fmt.Errorf("remove dead letters up to %d from the log: %w", at, err)
		}
	}
	if record.Sequence(at) >= job.Order.Through {
		next.State = record.JobDone
		return next, nil, nil
	}
	es, through, err := j.store.DeadFrom(ctx, store.DeadFilter{Purged: true, Limit: expireSteps}, record.Sequence(at), job.Order.Through)
	next.Cursor = strconv.FormatUint(uint64(through), 10)
	next.Done += len(es)
	return next, func(r *record.Job) error { r.Expire = through; return nil }, err
}
