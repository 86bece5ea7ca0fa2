package record

import (
	"slices"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Job is one message of fhir.match.jobs: something done by hand. Without Order and Step it is
// done at once and by itself, as a $resend is. Otherwise it is part of a job that goes on for a
// while: the first record holds what was ordered, each further one a step, which is work together
// with how far the job is then. So who takes a job over goes on behind the last step that the log
// has, and none is done twice.
type Job struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	By     string    `json:"by,omitempty"`     // token id of who asked
	Replay []MatchID `json:"replay,omitempty"` // made pending again: old number, new round
	// Interaction is what the new rounds of Replay tell their endpoints; empty: what the event
	// did.
	Interaction fhir.Interaction `json:"interaction,omitempty"`
	// Matches are new matches, of events that the Subscription did not have.
	Matches []Match `json:"matches,omitempty"`
	// Purge lists dead letters that are removed from sight and from DEAD.
	Purge []MatchID `json:"purge,omitempty"`
	// Expire, where set, is a place in DEAD: letters up to it are gone.
	Expire Sequence `json:"expire,omitempty"`

	Order *Order `json:"order,omitempty"`
	Step  *Step  `json:"step,omitempty"`
}

// JobKind says what a job does.
type JobKind string

// The kinds of jobs.
const (
	JobReplay  JobKind = "replay"  // dead letters are made pending again
	JobPurge   JobKind = "purge"   // dead letters are removed
	JobExpire  JobKind = "expire"  // dead letters are removed for their age
	JobTrigger JobKind = "trigger" // resources are matched and sent by hand
)

// Order is what a job is to do. Which fields count depends on its kind.
type Order struct {
	Kind JobKind `json:"kind"`
	// At is the place of EVENTS up to which a node has folded what it needs: all that was written, by
	// whichever node, before the order was given.
	At Sequence `json:"at,omitempty"`
	// Subscription is the one that a trigger is for, or whose dead letters are meant; empty: all.
	Subscription fhir.ID `json:"subscription,omitempty"`

	// Of dead letters: those named, or those that the rest chooses. Through is the place in DEAD up
	// to which there were letters when it was ordered: what dies later is not meant.
	Letters []string  `json:"letters,omitempty"`
	Since   time.Time `json:"since,omitzero"` // letters whose last failure was at or after it
	Until   time.Time `json:"until,omitzero"` // and before it
	Reason  Code      `json:"reason,omitempty"`
	Dead    DeadKind  `json:"dead,omitempty"`
	Through Sequence  `json:"through,omitempty"`

	// Of a trigger: resources by Type/id, then searches, Type?query.
	Resources []string `json:"resources,omitempty"`
	Searches  []string `json:"searches,omitempty"`

	DryRun bool `json:"dryRun,omitempty"` // a trigger: count, and send nothing

	Rate  int `json:"rate,omitempty"`  // things a second at most; 0: no limit
	Total int `json:"total,omitempty"` // things that there are to do; 0 where that is not known
}

// JobState is how far a job is.
type JobState string

// The states of a job. A job begins queued and ends in one of the last three.
const (
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobDone      JobState = "done"
	JobCancelled JobState = "cancelled"
	JobFailed    JobState = "failed"
)

// JobStates lists all states, in the order in which a job may come to them.
func JobStates() []JobState {
	return []JobState{JobQueued, JobRunning, JobDone, JobCancelled, JobFailed}
}

// Ended reports whether a job in this state does nothing any more.
func (s JobState) Ended() bool { return s == JobDone || s == JobCancelled || s == JobFailed }

// Known reports whether there is such a state.
func (s JobState) Known() bool { return slices.Contains(JobStates(), s) }

// Step is how far a job is after the work that stands in the same record. The figures are of the
// whole job up to here.
type Step struct {
	// N counts the steps of a job from 1. A record whose N does not follow the job's last step is
	// one that was written twice, and is passed over with all that it holds.
	N       int      `json:"n"`
	State   JobState `json:"state"`
	Cursor  string   `json:"cursor,omitempty"`  // where the next step goes on; only its kind understands it
	Done    int      `json:"done,omitempty"`    // things done
	Skipped int      `json:"skipped,omitempty"` // things looked at for which there was nothing to do
	Sent    int      `json:"sent,omitempty"`    // notifications that became pending
	Total   int      `json:"total,omitempty"`   // 0 where it is not known
	Error   string   `json:"error,omitempty"`   // why it failed
}

// DeadKind tells dead letters apart by whose doing they are.
type DeadKind string

// The kinds of dead letters.
const (
	// DeadEndpoint: an endpoint did not take a notification.
	DeadEndpoint DeadKind = "endpoint"
	// DeadPipeline: we ourselves could not evaluate an event, or render a notification.
	DeadPipeline DeadKind = "pipeline"
)
