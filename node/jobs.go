package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// jobs does what was ordered by hand and takes a while: replays and purges of dead letters,
// triggers. An order and each step towards it are records of fhir.match.jobs, and a step holds its
// work together with how far the job is then. So nothing of a job is in the memory of a node: after
// a kill, or on the next owner, it goes on behind the last step that the log has.
//
// One node of the cluster does all jobs (a task of owners). Two that do them for a moment do no
// harm: each record is written with the one before it as expectation, and a step counts only if it
// follows the job's last.
type jobs struct {
	*admin
	turn chan struct{} // whoever holds it writes the next record of the chain: more at a time would refuse one another
	wake chan struct{} // a job was ordered
	scan chan struct{} // one search of a trigger looks at every resource of a type at a time
}

func newJobs(n *Node) *jobs {
	return &jobs{admin: &admin{n}, turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), scan: make(chan struct{}, 1)}
}

// Bounds of jobs.
const (
	maxJobs     = 16  // that go on at a time; further ones wait in the order in which they came
	maxQueued   = 100 // that have not ended
	replaySteps = 500 // dead letters that one step makes pending
	purgeSteps  = 200 // dead letters that one step removes
	expireSteps = 1000
)

// Waits before a step that failed in passing is tried again; they double.
const (
	firstJobWait = 100 * time.Millisecond
	lastJobWait  = 10 * time.Second
)

var (
	errJobEnded = errors.New("the job has ended")
	errJobMoved = errors.New("the job is further than this step")
)

// startJobs has this node do jobs whenever they fall to it.
func (n *Node) startJobs(context.Context) error {
	n.own("jobs", n.working, []task{{kind: "jobs", name: "jobs", run: n.jobs.run}})
	return nil
}

// ordered tells that a job was ordered. It never waits.
func (j *jobs) ordered() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// run does jobs until ctx ends, then waits for the steps that are being made.
func (j *jobs) run(ctx context.Context) error {
	var working sync.WaitGroup
	defer working.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	working.Go(func() { j.expireDead(ctx) })
	at, ended := map[string]bool{}, make(chan string, maxJobs)
	for {
		waiting, err := j.unfinished()
		if err != nil {
			return err
		}
		for _, job := range waiting {
			if !at[job.ID] && len(at) < maxJobs {
				at[job.ID] = true
				working.Go(func() { j.do(ctx, job.ID); ended <- job.ID })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.wake:
		case id := <-ended:
			delete(at, id)
		}
	}
}

// unfinished lists the jobs that have not ended, oldest first.
func (j *jobs) unfinished() (list []store.Job, err error) {
	all, err := j.store.Jobs()
	for i := len(all) - 1; i >= 0; i-- {
		if !all[i].State.Ended() {
			list = append(list, all[i])
		}
	}
	return list, err
}

// do makes the steps of a job until it ends, here or elsewhere, or ctx does.
func (j *jobs) do(ctx context.Context, id string) {
	wait := firstJobWait
	for ctx.Err() == nil {
		job, known, err := j.store.Job(id)
		if err == nil && (!known || job.State.Ended()) {
			return
		}
		next := record.Step{}
		if err == nil {
			err = j.seen(ctx, job.Order)
		}
		if err == nil {
			next, err = j.step(ctx, job)
		}
		switch {
		case errors.Is(err, errJobEnded), errors.Is(err, errJobMoved):
			continue
		case err == nil && next.State.Ended():
			j.log.Info("job has ended", "job", id, "kind", job.Kind, "state", next.State, "done", next.Done, "skipped", next.Skipped, "sent", next.Sent)
			return
		case err == nil:
			wait = firstJobWait
			_ = pause(ctx, pace(job, next))
		case lasting(err):
			j.fail(ctx, job, fhir.AsError(err).Error())
		case ctx.Err() == nil:
			j.log.Warn("step of a job failed, will be tried again", "job", id, "kind", job.Kind, "err", err)
			_ = pause(ctx, wait)
			wait = min(2*wait, lastJobWait)
		}
	}
}

// deadPoll is how often a job looks whether the letters that it waits for came.
const deadPoll = 10 * time.Millisecond

// seen waits until this node has folded what the order is about: the writes up to it, and the letters
// that there were.
func (j *jobs) seen(ctx context.Context, o record.Order) error {
	if err := j.ring.wait(ctx, o.At); err != nil {
		return err
	}
	return j.readLetters(ctx, o.Through)
}

// readLetters waits until this node has read the letters up to a place in DEAD. Those at the end may be
// gone, which never come: waited for is what is there.
func (a *admin) readLetters(ctx context.Context, through record.Sequence) error {
	for {
		at := a.store.Position().Dead
		if at >= through {
			return nil
		}
		newest, err := a.newestLetter(ctx)
		if err != nil || newest <= at {
			return err
		}
		if err := pause(ctx, deadPoll); err != nil {
			return err
		}
	}
}

// newestLetter is the place of the newest letter that is in DEAD, 0 where there is none.
func (a *admin) newestLetter(ctx context.Context) (record.Sequence, error) {
	m, err := a.server.LastFor(ctx, stream.Dead, stream.FilterDead)
	if err != nil && !errors.Is(err, stream.ErrNotFound) {
		return 0, refusal(err)
	}
	return m.Sequence, nil
}

// pace is how long the next step waits, so that the job keeps to its rate.
func pace(job store.Job, next record.Step) time.Duration {
	if job.Order.Rate <= 0 {
		return 0
	}
	made := next.Done + next.Skipped - job.Done - job.Skipped
	return time.Duration(made) * time.Second / time.Duration(job.Order.Rate)
}

// stepSize is how many things a step does: fewer where a rate is asked for, so that they come at
// an even pace.
func stepSize(most, rate int) int {
	if rate <= 0 {
		return most
	}
	return min(most, max(1, rate/4))
}

// lasting reports whether trying again is of no use.
func lasting(err error) bool {
	refused := fhir.AsError(err)
	if refused == nil || len(refused.Issues) == 0 {
		return false
	}
	switch refused.Issues[0].Type {
	case fhir.IssueTransient, fhir.IssueThrottled, fhir.IssueNoStore, fhir.IssueException:
		return false
	}
	return true
}

// fail ends a job for good. If that cannot be written now, its next step fails again.
func (j *jobs) fail(ctx context.Context, job store.Job, why string) {
	next := job.Step
	next.State, next.Error = record.JobFailed, why
	if err := j.record(ctx, job, next, nil); err != nil {
		_ = pause(ctx, lastJobWait)
		return
	}
	// The reason may repeat what the order said, such as a patient's identifier: the API tells it.
	j.log.Warn("job failed", "job", job.ID, "kind", job.Kind, "done", next.Done)
}

// step makes the next step of a job, and gives what is recorded of it.
func (j *jobs) step(ctx context.Context, job store.Job) (next record.Step, err error) {
	var work func(*record.Job) error
	switch job.Kind {
	case record.JobReplay:
		next, work, err = j.replayStep(ctx, job)
	case record.JobPurge:
		next, work, err = j.purgeStep(ctx, job)
	case record.JobExpire:
		next, work, err = j.expireStep(ctx, job)
	case record.JobTrigger:
		next, work, err = j.triggerStep(ctx, job)
	default:
		err = fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("this release does not know jobs of kind %q", job.Kind))
	}
	if err != nil {
		return next, err
	}
	return next, j.record(ctx, job, next, work)
}

// record writes a step with its work, if the job is still where the step was planned.
func (j *jobs) record(ctx context.Context, job store.Job, next record.Step, work func(*record.Job) error) error {
	next.N = job.N + 1
	return j.write(ctx, job.ID, func() (record.Job, error) {
		r := record.Job{Step: &next}
		now, known, err := j.store.Job(job.ID)
		switch {
		case err != nil:
			return r, err
		case !known || now.State.Ended():
			return r, errJobEnded
		case now.N != job.N:
			return r, errJobMoved
		case work != nil:
			err = work(&r)
		}
		return r, err
	}, func() (bool, error) {
		now, known, err := j.store.Job(job.ID)
		return known && now.N >= next.N, err
	})
}

// write appends a record to the chain of jobs. It is built on a projection that holds every record
// before it, which the expectation confirms: so a job and the matcher, or two jobs, never write the
// same match. An append whose answer was lost is looked for with stored.
func (j *jobs) write(ctx context.Context, id string, build func() (record.Job, error), stored func() (bool, error)) error {
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for tried := false; ; tried = true {
		newest, err := j.newestJob(ctx)
		if err != nil {
			return err
		}
		if tried && stored != nil {
			if is, err := stored(); is || err != nil {
				return err
			}
		}
		if tried && newest.id == id && stored == nil {
			return nil
		}
		r, err := build()
		if err != nil {
			return err
		}
		r.ID, r.Time = id, time.Now().UTC()
		at, err := j.server.Append(ctx, stream.Matches, stream.SubjectJobs, record.Encode(r), newest.at)
		if errors.Is(err, stream.ErrConflict) || errors.Is(err, stream.ErrBusy) || errors.Is(err, stream.ErrUnknown) {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return refusal(err)
		}
		return j.store.WaitApplied(ctx, store.Vector{Matches: at})
	}
}

type newestJob struct {
	id string
	at record.Sequence // 0 while there is none
}

// newestJob reads the newest record of the chain and waits until it is folded.
func (j *jobs) newestJob(ctx context.Context) (newest newestJob, err error) {
	m, err := j.server.LastFor(ctx, stream.Matches, stream.SubjectJobs)
	switch {
	case err == nil:
		newest = newestJob{id: jobID(m), at: m.Sequence}
	case !errors.Is(err, stream.ErrNotFound):
		return newest, refusal(err)
	}
	return newest, j.store.WaitApplied(ctx, store.Vector{Matches: newest.at})
}

// order writes a job's order. It is durable, and known to this node, when order returns.
func (j *jobs) order(ctx context.Context, o record.Order, by string) (api.Job, error) {
	waiting, err := j.unfinished()
	if err != nil {
		return api.Job{}, err
	}
	if len(waiting) >= maxQueued {
		return api.Job{}, retryAfter(fhir.Refuse(fhir.IssueThrottled, "", fmt.Sprintf(
			"%d jobs have not ended yet, which is as many as there may be: wait, or cancel some (carillon jobs list --state running)", len(waiting))), time.Minute)
	}
	// Whichever node does the job sees what the one who orders it has seen.
	if err := j.gate.upToDate(ctx); err != nil {
		return api.Job{}, refusal(err)
	}
	o.At = j.ring.position()
	id := newRun()
	err = j.write(ctx, id, func() (record.Job, error) { return record.Job{By: by, Order: &o}, nil }, func() (bool, error) {
		_, known, err := j.store.Job(id)
		return known, err
	})
	if err != nil {
		return api.Job{}, err
	}
	j.log.Info("job ordered", "job", id, "kind", o.Kind, "subscription", o.Subscription, "total", o.Total, "by", by)
	return j.Job(ctx, id)
}

func (a *admin) Jobs(_ context.Context, f api.JobFilter) ([]api.Job, error) {
	all, err := a.store.Jobs()
	var out []api.Job
	for _, job := range all {
		if len(out) < f.Limit && (f.Kind == "" || job.Kind == f.Kind) && (f.State == "" || job.State == f.State) {
			out = append(out, jobOf(job))
		}
	}
	return out, err
}

func (a *admin) Job(_ context.Context, id string) (api.Job, error) {
	job, known, err := a.store.Job(id)
	if err != nil {
		return api.Job{}, err
	}
	if !known {
		return api.Job{}, fhir.Refuse(fhir.IssueNotFound, "", "there is no job of this id, or it ended long ago; carillon jobs list shows those that there are")
	}
	out := jobOf(job)
	if job.Order.Kind != "" {
		out.Order = &job.Order
	}
	return out, nil
}

func (a *admin) CancelJob(ctx context.Context, id, by string) (api.Job, error) {
	for {
		job, known, err := a.store.Job(id)
		switch {
		case err != nil:
			return api.Job{}, err
		case !known || job.State == record.JobCancelled:
			return a.Job(ctx, id)
		case job.State.Ended():
			return api.Job{}, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("the job has ended, it is %s: what it did cannot be taken back by cancelling it", job.State))
		}
		next := job.Step
		next.State = record.JobCancelled
		err = a.jobs.record(ctx, job, next, func(r *record.Job) error { r.By = by; return nil })
		switch {
		case err == nil:
			a.log.Info("job cancelled", "job", id, "kind", job.Kind, "done", job.Done, "by", by)
		case !errors.Is(err, errJobEnded) && !errors.Is(err, errJobMoved):
			return api.Job{}, err
		}
	}
}

func jobOf(j store.Job) api.Job {
	out := api.Job{
		ID: j.ID, Kind: j.Kind, State: j.State, Subscription: j.Subscription, By: j.By, Created: j.Created, Started: j.Started,
		Done: j.Done, Skipped: j.Skipped, Sent: j.Sent, Total: j.Total, Error: j.Error,
	}
	if j.State.Ended() {
		out.Ended = j.Updated
	}
	// The first step's work came before its record, so the order's time is where it began.
	if took := j.Updated.Sub(j.Created).Seconds(); took > 0 {
		out.PerSecond = float64(j.Done+j.Skipped) / took
	}
	return out
}

// expireDead orders the removal of dead letters that are older than the configuration keeps them,
// once an hour. Only the node that does the jobs does it.
func (j *jobs) expireDead(ctx context.Context) {
	for wait := time.Duration(0); pause(ctx, wait) == nil; wait = time.Hour {
		if err := j.orderExpiry(ctx, time.Now()); err != nil && ctx.Err() == nil {
			j.log.Warn("removal of old dead letters could not be ordered, will be tried again", "err", err)
		}
	}
}

// orderExpiry orders it where there is something to remove and no such job yet.
func (j *jobs) orderExpiry(ctx context.Context, now time.Time) error {
	keep := j.cfg.Retention.Dead
	if keep <= 0 {
		return nil
	}
	waiting, err := j.unfinished()
	if err != nil {
		return err
	}
	for _, job := range waiting {
		if job.Kind == record.JobExpire {
			return nil
		}
	}
	through, count, err := j.olderThan(ctx, now.Add(-keep))
	if err != nil || count == 0 {
		return err
	}
	_, err = j.order(ctx, record.Order{Kind: record.JobExpire, Through: through, Total: count}, "")
	return err
}

// olderThan finds the place in DEAD up to which every letter is older than a point in time, and
// how many there are.
func (j *jobs) olderThan(ctx context.Context, cut time.Time) (through record.Sequence, count int, err error) {
	end := j.store.Position().Dead
	for at := record.Sequence(0); at < end; {
		var es []store.DeadEntry
		es, at, err = j.store.DeadFrom(ctx, store.DeadFilter{Purged: true, Limit: 1000}, at, end)
		if err != nil {
			return 0, 0, err
		}
		for _, e := range es {
			if !e.LastFailure.Before(cut) {
				return through, count, nil
			}
			through, count = e.Sequence, count+1
		}
	}
	return through, count, nil
}
