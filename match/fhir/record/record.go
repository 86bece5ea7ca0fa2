package record

import (
	"encoding/json"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Sequence is a place in one of the logs, from 1. Which log is said by the field's name.
type Sequence uint64

// Event is one record of EVENTS: a write of a resource as its producer sent it.
type Event struct {
	Sequence Sequence
	Time     time.Time // the log's time of the record, the same for every reader
	Key      fhir.Key
	Shard    uint8
	// Asked is what the writer says happened. Empty lets the fold of the log decide between
	// create and update; a given create or update is believed, since a producer beside an
	// older server knows better.
	Asked fhir.Interaction
	Feed  bool   // of a change feed: its own meta.lastUpdated is kept
	Trace string // traceparent of the writer; may be empty
	Owner string // for Subscriptions: the token that wrote it; empty where no login is asked
	Body  []byte // the resource as it came; empty for a delete. Shared: never changed
}

// Change is an event after the fold: what it did to the resource.
type Change struct {
	Event
	Interaction fhir.Interaction // Create, Update, Delete or Unchanged
	Previous    Sequence         // version before this one; 0 on create and after a delete
	Birth       Sequence         // sequence of the create that this version descends from
}

// Match says that an event met a Subscription. (Event, Birth) is its identity everywhere.
type Match struct {
	Event        Sequence         `json:"e"`
	Subscription fhir.ID          `json:"s"`
	Birth        Sequence         `json:"b"`           // sequence of the Subscription's create
	Version      Sequence         `json:"v"`           // version of the Subscription that matched
	Interaction  fhir.Interaction `json:"i"`           // what the event did
	Job          string           `json:"j,omitempty"` // set when a job, not the matcher, made it
}

// Block is one message of fhir.match.{partition}: the events after the partition's previous
// block up to Through, with all their matches in order of event and Subscription id.
// It is published with the previous block's sequence as expected last sequence of the
// subject, so blocks of a partition form one chain whoever writes them.
type Block struct {
	Partition string   `json:"p"`
	Through   Sequence `json:"t"` // complete up to and including this event
	// Cut is set when the next event's matches did not fit: the block holds those of event
	// Through+... named here, up to Subscription id After.
	Cut     *Cut    `json:"c,omitempty"`
	Matches []Match `json:"m,omitempty"`
}

// Cut marks an event whose matches continue in the partition's next block.
type Cut struct {
	Event Sequence `json:"e"`
	After fhir.ID  `json:"a"` // last Subscription id that this block holds for the event
}

// MatchID is the identity of a match.
type MatchID struct {
	Event Sequence `json:"e"`
	Birth Sequence `json:"b"`
}

// Code is the outcome code of an attempt, or of a match that needed none.
type Code string

// The outcome codes (see the outside face in README). Accepted, Expired, Withdrawn and
// Skipped end a match; so does any other code together with Final.
const (
	Accepted          Code = "accepted"
	HTTPStatus        Code = "http_status"
	Timeout           Code = "timeout"
	DNSError          Code = "dns_error"
	ConnectionRefused Code = "connection_refused"
	ConnectionReset   Code = "connection_reset"
	TLSError          Code = "tls_error"
	BlockedAddress    Code = "blocked_address"
	Redirect          Code = "redirect"
	ResponseTooLarge  Code = "response_too_large"
	Gone              Code = "gone"
	RateLimited       Code = "rate_limited"
	BreakerOpen       Code = "breaker_open"
	ProxyError        Code = "proxy_error"
	AuthError         Code = "auth_error"
	SMTPError         Code = "smtp_error"
	PublishError      Code = "publish_error"
	RenderError       Code = "render_error"
	Expired           Code = "expired"
	Withdrawn         Code = "withdrawn"
	Skipped           Code = "skipped"
)

// IsAttempt reports whether the code spends one of the match's attempts. What is not the
// endpoint's doing spends none: a limit of our own, our egress proxy, our token server.
func (c Code) IsAttempt() bool {
	switch c {
	case Withdrawn, Skipped, Expired, RateLimited, BreakerOpen, ProxyError, AuthError:
		return false
	}
	return true
}

// Outcome says what became of one attempt of a match.
type Outcome struct {
	MatchID
	Subscription fhir.ID       `json:"s"`
	Round        int           `json:"r,omitempty"` // 0 first, then one for each replay
	Attempt      int           `json:"n"`           // from 1 within the round
	Code         Code          `json:"c"`
	Status       int           `json:"http,omitempty"` // HTTP status; 0 when no answer came
	At           time.Time     `json:"at"`             // when the attempt began, by the sender's clock
	Took         time.Duration `json:"d"`              // nanoseconds
	Response     string        `json:"resp,omitempty"` // first bytes of the answer, cleaned
	NotBefore    time.Time     `json:"nb,omitzero"`    // earliest time of the next attempt
	// Final ends the round: accepted, dead or withdrawn. Without it the match stays pending.
	Final bool `json:"f,omitempty"`
	// Dead says that a final failure left a dead letter.
	Dead bool `json:"dead,omitempty"`
	// Through, where set, ends every pending match of Birth up to this number in one record
	// (Event is 0 then): a Subscription that was deleted or switched off.
	Through fhir.EventNumber `json:"through,omitempty"`
}

// OutcomeBlock is one message of fhir.outcome.{lane}, written by the lane's owner alone.
type OutcomeBlock struct {
	Lane     string    `json:"lane"`
	Owner    string    `json:"owner"`              // node name
	Own      bool      `json:"own,omitempty"`      // the owner takes the lane over with this record
	Released bool      `json:"released,omitempty"` // the owner leaves it cleanly: nothing is in flight
	After    Sequence  `json:"after"`              // MATCHES position that the writer had applied
	Outcomes []Outcome `json:"o,omitempty"`
}

// DeadLetter is one message of fhir.dead.{subscription}: the notification is its body, the
// rest its headers. For fhir.dead.ingest, Subscription is "ingest" and Event the sequence of
// the record that was set aside.
type DeadLetter struct {
	MatchID
	Subscription fhir.ID
	Number       fhir.EventNumber
	Round        int
	Key          fhir.Key // the resource
	Reason       Code
	Attempts     int
	FirstFailure time.Time
	LastFailure  time.Time
	Endpoint     string // scheme and host only
	ContentType  string
	Body         []byte
}

// Partitions is the record of fhir.control.partitions: which events belong together. It is
// in force from its own position on; a partition's name carries that position.
type Partitions struct {
	Groups []PartitionGroup `json:"groups"`
	Shards int              `json:"shards"` // number of shards of an id, fixed when the cluster is made
}

// PartitionGroup divides the events of some types, by shard, among Count partitions. The
// group without types takes every type that no other names.
type PartitionGroup struct {
	Types []string `json:"types,omitempty"`
	Count int      `json:"count"`
}

// Encode is the JSON of a record. It cannot fail for the types of this package.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("record: " + err.Error())
	}
	return b
}
