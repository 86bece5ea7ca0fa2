package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Job is a job that is done in steps, as of the newest of its records that is folded.
type Job struct {
	record.Step
	ID           string
	Kind         record.JobKind
	Subscription fhir.ID         // that the order names; may be empty
	By           string          // token id of who asked
	Sequence     record.Sequence // of the order in MATCHES
	Last         record.Sequence // of the newest record in MATCHES
	Created      time.Time       // times are by the clocks of those who wrote the records
	Started      time.Time       // of the first step; zero while it is queued
	Updated      time.Time       // of the newest record: for a job that has ended, its end
	// Order is set where one job is asked for. Of a job that has ended a long one is dropped; its
	// kind and Subscription are still here.
	Order record.Order
}

// Bounds of what is kept of jobs that have ended.
const (
	keptJobs     = 1000    // jobs; the oldest goes first
	keptOrderLen = 4 << 10 // bytes of an order
)

// job takes over the order or the step that a record of fhir.match.jobs holds, and reports
// whether what else is in it counts: of a step that was written twice, or of a job that has
// ended, it does not.
func (f *folding) job(seq record.Sequence, j *record.Job) bool {
	switch {
	case j.Order == nil && j.Step == nil:
		return true
	case !keyable(j.ID):
		f.Unknown++
		return false
	case j.Order != nil:
		return f.jobOrdered(seq, j)
	}
	row, ok := f.jobRow(j.ID)
	switch {
	case !ok:
		f.Unknown++
		return false
	case row.State.Ended() || j.Step.N != row.N+1 || !j.Step.State.Known():
		f.Repeated++
		return false
	}
	row.Step, row.Last, row.Updated = *j.Step, seq, j.Time
	if row.Started.IsZero() {
		row.Started = j.Time
	}
	f.put(bJob, j.ID, row.encode())
	if row.State.Ended() {
		f.jobEnded(j.ID)
	}
	return true
}

// jobOrdered notes a new job. Its id was never used before, so one that is there is a record that
// was written twice.
func (f *folding) jobOrdered(seq record.Sequence, j *record.Job) bool {
	if f.has(bJob, j.ID) {
		f.Repeated++
		return false
	}
	row := Job{
		Step: record.Step{State: record.JobQueued, Total: j.Order.Total},
		Kind: j.Order.Kind, Subscription: j.Order.Subscription, By: j.By,
		Sequence: seq, Last: seq, Created: j.Time, Updated: j.Time,
	}
	f.put(bJob, j.ID, row.encode())
	f.put(bOrder, j.ID, record.Encode(j.Order))
	return true
}

// jobEnded drops what is not needed of a job that has ended, and the oldest of too many.
func (f *folding) jobEnded(id string) {
	if v, ok := f.get(bOrder, id); ok && len(v) > keptOrderLen {
		f.delete(bOrder, id)
	}
	type ended struct {
		id string
		at record.Sequence
	}
	var all []ended
	f.scan(bJob, "", "", func(key string, v []byte) bool {
		row, err := decodeJob(v)
		if err != nil {
			f.malformed(bJob, err)
			return false
		}
		if row.State.Ended() {
			all = append(all, ended{strings.Clone(key), row.Sequence})
		}
		return true
	})
	if len(all) <= keptJobs {
		return
	}
	oldest := slices.MinFunc(all, func(a, b ended) int { return int(int64(a.at) - int64(b.at)) })
	f.delete(bJob, oldest.id)
	f.delete(bOrder, oldest.id)
}

func (j *Job) encode() []byte {
	var e encoder
	e.string(string(j.Kind))
	e.string(string(j.Subscription))
	e.string(j.By)
	e.uint(uint64(j.Sequence))
	e.uint(uint64(j.Last))
	e.time(j.Created)
	e.time(j.Started)
	e.time(j.Updated)
	e.int(int64(j.N))
	e.string(string(j.State))
	e.string(j.Cursor)
	e.int(int64(j.Done))
	e.int(int64(j.Skipped))
	e.int(int64(j.Sent))
	e.int(int64(j.Total))
	e.string(j.Error)
	return e
}

func decodeJob(v []byte) (j Job, err error) {
	d := decoder{b: v}
	j.Kind, j.Subscription, j.By = record.JobKind(d.string()), fhir.ID(d.string()), d.string()
	j.Sequence, j.Last = record.Sequence(d.uint()), record.Sequence(d.uint())
	j.Created, j.Started, j.Updated = d.time(), d.time(), d.time()
	j.N, j.State, j.Cursor = int(d.int()), record.JobState(d.string()), d.string()
	j.Done, j.Skipped, j.Sent, j.Total = int(d.int()), int(d.int()), int(d.int()), int(d.int())
	j.Error = d.string()
	return j, d.end()
}

func (r *reader) jobRow(id string) (Job, bool) {
	v, ok := r.get(bJob, id)
	if !ok {
		return Job{}, false
	}
	j, err := decodeJob(v)
	if err != nil {
		r.malformed(bJob, err)
		return Job{}, false
	}
	j.ID = id
	return j, true
}

// Job finds a job by its id, with its Order.
func (s *Store) Job(id string) (j Job, ok bool, err error) {
	err = s.view(func(r *reader) error {
		if j, ok = r.jobRow(id); !ok {
			return nil
		}
		if v, kept := r.get(bOrder, id); kept {
			if err := json.Unmarshal(v, &j.Order); err != nil {
				r.malformed(bOrder, err)
			}
		}
		return nil
	})
	if err != nil {
		return Job{}, false, fmt.Errorf("job %s: %w", id, err)
	}
	return j, ok, nil
}

// Jobs lists the jobs that are kept, newest first, without their orders.
func (s *Store) Jobs() (all []Job, err error) {
	err = s.view(func(r *reader) error {
		r.scan(bJob, "", "", func(key string, v []byte) bool {
			j, err := decodeJob(v)
			if err != nil {
				r.malformed(bJob, err)
				return false
			}
			j.ID = strings.Clone(key)
			all = append(all, j)
			return true
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	slices.SortFunc(all, func(a, b Job) int { return int(int64(b.Sequence) - int64(a.Sequence)) })
	return all, nil
}
