package store

import (
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Stream names one of the logs that feed the projection.
type Stream uint8

// The logs, in the order of a Vector.
const (
	Events Stream = iota
	Matches
	Outcomes
	Dead
	streamCount
)

// String is the log's name as an operator knows it.
func (s Stream) String() string {
	switch s {
	case Events:
		return "EVENTS"
	case Matches:
		return "MATCHES"
	case Outcomes:
		return "OUTCOMES"
	case Dead:
		return "DEAD"
	}
	return fmt.Sprintf("stream %d", uint8(s))
}

// Vector is a position: for each log the last sequence that has been folded, 0 where none.
type Vector struct {
	Events, Matches, Outcomes, Dead record.Sequence
}

// Of is the position in one log.
func (v Vector) Of(s Stream) record.Sequence {
	switch s {
	case Events:
		return v.Events
	case Matches:
		return v.Matches
	case Outcomes:
		return v.Outcomes
	default:
		return v.Dead
	}
}

// Covers reports whether v is at or beyond w in every log.
func (v Vector) Covers(w Vector) bool {
	return v.Events >= w.Events && v.Matches >= w.Matches && v.Outcomes >= w.Outcomes && v.Dead >= w.Dead
}

func (v *Vector) set(s Stream, seq record.Sequence) {
	switch s {
	case Events:
		v.Events = seq
	case Matches:
		v.Matches = seq
	case Outcomes:
		v.Outcomes = seq
	default:
		v.Dead = seq
	}
}

// Resource is what EVENTS says about a resource now.
type Resource struct {
	Key     fhir.Key
	Version record.Sequence // last change that had an effect; 0 while there was none
	// Last is the last message on the resource's subject, with or without effect. It is what
	// a conditional append expects, and is set also for a resource that is not found.
	Last    record.Sequence
	Birth   record.Sequence // the create that Version descends from
	Deleted bool
	Hash    [16]byte  // content hash of Version; zero when deleted
	Time    time.Time // the log's time of Version (meta.lastUpdated)
}

// Version is one effective change of a resource, named by its sequence in EVENTS.
type Version struct {
	Sequence    record.Sequence
	Key         fhir.Key
	Interaction fhir.Interaction // create, update or delete
	Previous    record.Sequence  // the state before it: 0 on create and after a delete
	// Chain is the version before this one in the resource's history, deletes included; 0 at
	// its start.
	Chain record.Sequence
	Birth record.Sequence // the create that it descends from
	Time  time.Time       // the log's time
}

// SubscriptionVersion is one version of a Subscription, with its body. For a delete the body
// is empty.
type SubscriptionVersion struct {
	ID          fhir.ID
	Sequence    record.Sequence
	Interaction fhir.Interaction
	Birth       record.Sequence
	Time        time.Time
	Owner       string // token that wrote it; may be empty
	Body        []byte // as it came; the caller's own copy
}

// Pending is a match that is to be sent, with all that a lane needs for it.
type Pending struct {
	record.Match
	Number    fhir.EventNumber
	Round     int       // 0 first; one more for each replay that took effect
	Attempts  int       // made in this round
	NotBefore time.Time // earliest time of the next attempt; zero: at once
	Key       fhir.Key  // the resource
	Time      time.Time // the log's time of the event
}

// Match is a match and what has become of it.
type Match struct {
	// Pending holds the match, its number, and its round. For a match that is not pending,
	// Round and Attempts are those of the round that ended last.
	Pending
	Sequence record.Sequence // its record in MATCHES
	Open     bool            // it is pending
	Ended    record.Code     // how the last round that ended did so; empty where none has
	Dead     bool            // that round left a dead letter
	Code     record.Code     // last outcome, with its HTTP status and time; empty where none
	Status   int
	At       time.Time
}

// PendingStats sums up the queue of one birth.
type PendingStats struct {
	Count  int
	Oldest fhir.EventNumber // lowest number that is pending; 0 where none is
	Since  time.Time        // the log's time of its event
}

// Place is where an outcome stands in OUTCOMES. Its zero value is before all of them.
type Place struct {
	Sequence record.Sequence
	Index    int
}

// Attempt is one line of the troubleshooting log.
type Attempt struct {
	Place
	record.Outcome
	Number fhir.EventNumber // 0 where the outcome is for a range (Through)
	Key    fhir.Key         // the resource; empty for a range
}

// AttemptFilter chooses lines of the troubleshooting log. Zero fields choose everything.
type AttemptFilter struct {
	Subscription fhir.ID
	Key          fhir.Key
	Code         record.Code
	Since        time.Time // attempts that began at or after it, by the sender's clock
	Before       Place     // older than this line, for paging
	Limit        int       // at most so many; 0 means 100
}

// DeadState says where a dead letter stands.
type DeadState string

// The states of a dead letter.
const (
	DeadLetter   DeadState = "dead"     // it lies there
	DeadReplayed DeadState = "replayed" // a replay made its match pending again
	DeadAccepted DeadState = "accepted" // a replay, or the next owner of the lane, reached the endpoint
	DeadPurged   DeadState = "purged"   // removed from sight by hand
)

// DeadEntry is a dead letter without its body, which stays in DEAD at Sequence.
type DeadEntry struct {
	// ID is {subscription}.{number}, or ingest.{sequence in EVENTS}. Of a Subscription id that
	// was born twice, it names the newest; MatchID is the identity that never repeats.
	ID           string
	Sequence     record.Sequence // its message in DEAD
	MatchID      record.MatchID
	Subscription fhir.ID
	Number       fhir.EventNumber
	Round        int
	Key          fhir.Key
	Reason       record.Code
	Attempts     int
	FirstFailure time.Time
	LastFailure  time.Time
	Endpoint     string // scheme and host
	ContentType  string
	State        DeadState
	// Messages are all letters of this match that DEAD had, this one first: earlier rounds left
	// theirs, and a sender that died may have written one twice.
	Messages []record.Sequence
}

// Kind says whose doing it is.
func (e *DeadEntry) Kind() record.DeadKind {
	if e.Subscription == Ingest || e.Reason == record.RenderError {
		return record.DeadPipeline
	}
	return record.DeadEndpoint
}

// DeadFilter chooses dead letters. Zero fields choose everything that is not purged.
type DeadFilter struct {
	Subscription fhir.ID
	Reason       record.Code
	Kind         record.DeadKind
	State        DeadState
	Since        time.Time       // last failure at or after it
	Until        time.Time       // last failure before it
	Before       record.Sequence // older in DEAD than this, for paging (Dead)
	Limit        int             // at most so many; 0 means 100
	Purged       bool            // purged letters too
}

// Counters counts records of one log that changed nothing. They are part of the projection:
// equal on every node at the same position.
type Counters struct {
	SetAside uint64 // could not be read
	Repeated uint64 // had been said before: a match twice, an outcome of a round that had ended
	Unknown  uint64 // named a match, round or letter that does not exist
}

// Stats describes the projection.
type Stats struct {
	FileBytes   int64 // size of the file
	FreeBytes   int64 // of it, pages without content
	Rows        map[string]uint64
	Position    Vector
	Saved       Vector
	Unsaved     int // records folded in memory and not yet in the file
	Counters    [4]Counters
	Pending     int // matches pending, of all births
	FlushErrors uint64
}
