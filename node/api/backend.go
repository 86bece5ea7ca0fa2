package api

import (
	"context"
	"encoding/json"
	"net/url"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Backend writes and reads resources. Its refusals are *fhir.Error; an error with a method
// RetryAfter() time.Duration in its chain says when to come again. Any other error is taken
// for a fault of ours, unless the request's context has ended.
type Backend interface {
	// Write makes one change. It returns when the change is durable.
	Write(ctx context.Context, w Write) (Written, error)

	// Transaction makes all changes or none, in the order given, and answers in that order.
	// No two of them are of one resource. A refusal that is about one of them is, or wraps, an
	// *EntryError that says which.
	Transaction(ctx context.Context, ws []Write) ([]Written, error)

	// Read returns the current version, also of a deleted resource (Deleted is set then).
	// A resource that never was is refused with IssueNotFound.
	Read(ctx context.Context, key fhir.Key) (Resource, error)

	// VRead returns one version; IssueNotFound if there is none of that number.
	VRead(ctx context.Context, key fhir.Key, version record.Sequence) (Resource, error)

	// History returns at most count versions, newest first, starting with the newest one
	// below before (0: the current one); more says that older ones follow. A resource that
	// never was is refused with IssueNotFound.
	History(ctx context.Context, key fhir.Key, count int, before record.Sequence) (versions []Resource, more bool, err error)

	// Search finds current resources of a type. The query is the client's, without _format,
	// _pretty, _summary and _elements. A parameter that cannot be answered is refused; with
	// lenient it is left out, and Found.Warnings names it. A search that takes too long is refused
	// with IssueTooCostly.
	Search(ctx context.Context, typ string, query url.Values, lenient bool) (Found, error)

	// UpToDate returns when Select and Read see every write that was acknowledged before the
	// call, by whichever node.
	UpToDate(ctx context.Context) error

	// Select finds the resources that the condition of a conditional interaction or reference
	// means (a search query without the type), at most two, since more make no difference. A
	// condition that shapes an answer, selects nothing or looks at other resources is refused.
	Select(ctx context.Context, typ, condition string) ([]Resource, error)

	// Parameters lists the search parameters of a type that Search answers, by name.
	Parameters(typ string) []SearchParameter

	// ValidateSubscription says whether a Subscription would be accepted: the error is what
	// writing it would give, the issues are warnings.
	ValidateSubscription(ctx context.Context, body []byte) ([]fhir.Issue, error)

	// Explain says why a Subscription matches a resource or does not, by the code that
	// matches. An unknown Subscription, resource or version is IssueNotFound; a Subscription that
	// is not stored is refused as writing it would be, but for its end and its endpoint.
	Explain(ctx context.Context, q ExplainQuery) (Explanation, error)
}

// EntryError is the refusal of one write of a transaction, and so of the whole.
type EntryError struct {
	Index int // in the writes as they were given
	Err   error
}

// Error is the refusal's own text.
func (e *EntryError) Error() string { return e.Err.Error() }

// Unwrap returns the refusal.
func (e *EntryError) Unwrap() error { return e.Err }

// Write is one change that a client asks for.
type Write struct {
	Key fhir.Key // complete: for a POST the id was made here

	// Interaction is what the client says happens: Create for a POST, Delete, or what a change
	// feed named. Empty (a PUT) lets the fold of the log decide between create and update.
	Interaction fhir.Interaction

	// Body is the resource, checked: strict JSON, a type of the version, its id equal to
	// Key.ID. Empty for a delete.
	Body []byte

	// IfMatch, where set, is the version that must be the current one, and 0 that the resource
	// must not exist (unknown or deleted); otherwise the write is refused with IssueConflict.
	IfMatch *record.Sequence

	// IfNoneExist, on a create, is a search query. If one resource matches, Write changes
	// nothing and returns it with Unchanged, while Transaction refuses with IssueConflict,
	// since the ids in the other entries were made on the ground that none did. Several are
	// refused with IssueDuplicate. Two such creates at one time must not both succeed.
	IfNoneExist string
	// MustCreate, with IfNoneExist, says that a resource that matches is not to be the answer: it
	// is refused with IssueConflict, as in a Transaction.
	MustCreate bool

	Feed      bool   // of a change feed: the body's own meta is kept
	MessageID string // of the client, made unique to this write; empty if it gave none
	// Correlated says that MessageID comes from an X-Request-Id, which may be one of many
	// writes: where the first with it is no longer the current state, the write is made anew. A
	// write whose Idempotency-Key was used, and overtaken since, is refused (IssueConflict).
	Correlated bool
	Trace      string // traceparent; empty if none
	Owner      string // id of the token that writes; empty where no login is asked

	// Brief says that nobody will look at Written.Body, so it may be left out.
	Brief bool
}

// Written is what became of a Write.
type Written struct {
	Key fhir.Key

	// Version is the current version after the write: the one made, or with Unchanged the one
	// that stands. 0 where a delete found nothing.
	Version     record.Sequence
	Time        time.Time        // of that version
	Interaction fhir.Interaction // Create, Update, Delete or Unchanged
	Gone        bool             // the resource is deleted, now or before, or never was
	Body        []byte           // as a read would return it; empty if Gone, and may be if Brief
	Warnings    []fhir.Issue     // of a write that was accepted all the same
}

// Resource is one version of a resource.
type Resource struct {
	Key         fhir.Key
	Version     record.Sequence
	Time        time.Time
	Interaction fhir.Interaction // what made this version
	Deleted     bool
	Owner       string // of a Subscription: the token that wrote it first; may be empty
	Body        []byte // with id, meta.versionId and meta.lastUpdated set; empty if Deleted
}

// Found is the answer to a search.
type Found struct {
	Matches  []Resource
	Included []Resource   // by _include and _revinclude; none twice, and none of Matches
	Total    *int         // of all pages; nil where it was not asked for or not found out
	Self     url.Values   // the parameters that were understood
	Next     url.Values   // the query of the next page; nil on the last
	Warnings []fhir.Issue // what was left out: parameters, included resources
}

// SearchParameter is a parameter that a search of a type may have.
type SearchParameter struct {
	Name    string
	Type    string   // of http://hl7.org/fhir/search-param-type
	Include bool     // _include and _revinclude follow it
	Targets []string // if so: the types that it may refer to; none: any
}

// ExplainQuery asks why a Subscription matches a resource or does not.
type ExplainQuery struct {
	Subscription fhir.ID
	Unsaved      []byte          // a Subscription that is not stored, in place of Subscription
	Key          fhir.Key        // a stored resource; empty if Body is given
	Version      record.Sequence // of the resource; 0 for the current one
	Body         []byte          // a resource that is not stored
}

// Explanation is the answer, condition by condition. It holds values out of the resource, and
// goes only to those who may read it.
type Explanation struct {
	Subscription fhir.ID          `json:"subscription,omitempty"` // empty for one that is not stored
	Status       string           `json:"status,omitempty"`       // of the Subscription
	Resource     string           `json:"resource,omitempty"`     // Type/id
	Version      record.Sequence  `json:"version,omitempty"`
	Interaction  fhir.Interaction `json:"interaction,omitempty"` // that made this version
	Matches      bool             `json:"matches"`
	Conditions   []Condition      `json:"conditions"`
}

// Condition is one thing that must be so for a match.
type Condition struct {
	Text  string   `json:"text"` // as the Subscription's author wrote it, or what else is demanded
	Met   bool     `json:"met"`
	Note  string   `json:"note,omitempty"`  // such as "no value in the resource"
	Found []string `json:"found,omitempty"` // values that were compared
}

// Admin is what the administration API asks for. Errors are as with Backend. By is the id of
// the token that asks, empty where no login is asked.
type Admin interface {
	Subscriptions(ctx context.Context, f SubscriptionFilter) ([]SubscriptionStatus, error)
	Subscription(ctx context.Context, id fhir.ID) (SubscriptionStatus, error)
	// Pause and Resume return the state that they lead to; doing it twice is no error.
	Pause(ctx context.Context, id fhir.ID, by string) (SubscriptionStatus, error)
	Resume(ctx context.Context, id fhir.ID, by string) (SubscriptionStatus, error)
	// RotateSecret gives a Subscription another secret for its signatures; IssueConflict if it has none.
	RotateSecret(ctx context.Context, id fhir.ID, o SecretRotation, by string) (RotatedSecret, error)
	// RotateKeys has all secrets kept under the first master key; IssueConflict if there is none.
	RotateKeys(ctx context.Context, by string) (RotatedKeys, error)
	// Test sends one notification that is marked as a test, of a resource or, where none is named, of
	// the newest that matches, and returns how it was answered. Nothing is counted.
	Test(ctx context.Context, id fhir.ID, about fhir.Key, by string) (TestResult, error)
	// Events returns a Subscription's matches by number, lowest first.
	Events(ctx context.Context, id fhir.ID, f EventFilter) ([]SubscriptionEvent, error)

	DeadLetters(ctx context.Context, f DeadFilter) ([]DeadLetter, error)
	DeadLetter(ctx context.Context, id string) (DeadLetter, error) // with its Notification
	// Replay orders dead letters to be made pending again; Purge orders them to be removed from
	// sight and from the log. Each is a job. With DryRun they only count.
	Replay(ctx context.Context, s DeadSelection, by string) (Done, error)
	Purge(ctx context.Context, s DeadSelection, by string) (Done, error)

	// Attempts returns the troubleshooting log, newest first.
	Attempts(ctx context.Context, f AttemptFilter) ([]Attempt, error)

	// Resend matches a stored version again and sends it to those that it matches.
	Resend(ctx context.Context, r Resend, by string) (Done, error)

	Tokens(ctx context.Context) ([]TokenInfo, error)
	// CreateToken returns the token with its Secret, which is shown this once. The first token
	// must have the role admin (IssueInvariant), since only an admin can make more.
	CreateToken(ctx context.Context, name string, roles []Role, by string) (TokenInfo, error)
	// RevokeToken takes an id or a name. While other tokens exist the last one with the role
	// admin stays (IssueConflict): nobody could make another.
	RevokeToken(ctx context.Context, idOrName string, by string) error

	Jobs
	Consumers
	ClusterAdmin
	DeliveryAdmin

	Status(ctx context.Context) (Status, error)
	// Config is the effective configuration with secrets masked, as JSON.
	Config(ctx context.Context) (json.RawMessage, error)
}

// SubscriptionFilter chooses Subscriptions. Limit is at least 1.
type SubscriptionFilter struct {
	Status string
	Limit  int
}

// SubscriptionStatus is a Subscription as its operator sees it.
type SubscriptionStatus struct {
	ID                   fhir.ID          `json:"id"`
	Status               string           `json:"status"`
	Paused               bool             `json:"paused"`
	Criteria             string           `json:"criteria"`
	Channel              string           `json:"channel"`
	Endpoint             string           `json:"endpoint"` // scheme and host only
	Owner                string           `json:"owner,omitempty"`
	Version              record.Sequence  `json:"version"`
	Birth                record.Sequence  `json:"birth"`
	End                  time.Time        `json:"end,omitzero"`
	Events               fhir.EventNumber `json:"events"` // newest event number
	Pending              int              `json:"pending"`
	Sockets              *int             `json:"sockets,omitempty"` // bound on all nodes; nil where the channel has none
	OldestPending        time.Time        `json:"oldestPending,omitzero"`
	OldestPendingSeconds float64          `json:"oldestPendingSeconds,omitempty"`
	Dead                 int              `json:"dead"`
	LastSuccess          time.Time        `json:"lastSuccess,omitzero"`
	LastError            *LastError       `json:"lastError,omitempty"`
	Reason               string           `json:"reason,omitempty"` // why it is in error or off
	// Sending is why nothing is sent at this moment although it is active: stopped (all sending),
	// paused, or breaker open. Empty where nothing is in the way.
	Sending string `json:"sending,omitempty"`
}

// LastError is the newest failed attempt of a Subscription, if none succeeded since.
type LastError struct {
	Time    time.Time   `json:"time"`
	Outcome record.Code `json:"outcome"`
	Status  int         `json:"status,omitempty"` // HTTP status
}

// EventFilter chooses events by number, both ends included; Until 0 is the newest.
type EventFilter struct {
	Since, Until fhir.EventNumber
	Limit        int
}

// SubscriptionEvent is one match of a Subscription.
type SubscriptionEvent struct {
	Number      fhir.EventNumber `json:"number"`
	Event       record.Sequence  `json:"event"`
	Resource    string           `json:"resource"`
	Interaction fhir.Interaction `json:"interaction"`
	Time        time.Time        `json:"time"`
	State       string           `json:"state"` // pending, accepted, dead, withdrawn, expired, skipped
	Attempts    int              `json:"attempts"`
	Round       int              `json:"round,omitempty"`
	Outcome     record.Code      `json:"outcome,omitempty"` // of the newest attempt
	NotBefore   time.Time        `json:"notBefore,omitzero"`
	Job         string           `json:"job,omitempty"`
}

// DeadFilter chooses dead letters. Zero fields choose all. Since is included, Until is not.
type DeadFilter struct {
	Subscription fhir.ID
	Since, Until time.Time
	Reason       record.Code
	Kind         record.DeadKind
	Limit        int
}

// DeadLetter is a notification that was given up.
type DeadLetter struct {
	ID           string           `json:"id"` // {subscription}.{number} or ingest.{sequence}
	Subscription fhir.ID          `json:"subscription"`
	Number       fhir.EventNumber `json:"number,omitempty"`
	Event        record.Sequence  `json:"event"`
	Resource     string           `json:"resource"`
	Reason       record.Code      `json:"reason"`
	Attempts     int              `json:"attempts"`
	FirstFailure time.Time        `json:"firstFailure,omitzero"`
	LastFailure  time.Time        `json:"lastFailure,omitzero"`
	Endpoint     string           `json:"endpoint,omitempty"` // scheme and host only
	State        string           `json:"state"`              // dead, replayed, accepted, purged
	Kind         record.DeadKind  `json:"kind"`               // whose doing it is
	ContentType  string           `json:"contentType,omitempty"`
	Notification []byte           `json:"notification,omitempty"` // base64 in JSON; only when one letter is asked for
}

// DeadSelection names dead letters: by id, or by the rest, of which something is set. Rate is
// letters a second, 0 for no limit.
type DeadSelection struct {
	IDs          []string        `json:"ids,omitempty"`
	Subscription fhir.ID         `json:"subscription,omitempty"`
	Since        time.Time       `json:"since,omitzero"`
	Until        time.Time       `json:"until,omitzero"`
	Reason       record.Code     `json:"reason,omitempty"`
	Kind         record.DeadKind `json:"kind,omitempty"`
	DryRun       bool            `json:"dryRun,omitempty"`
	Rate         int             `json:"rate,omitempty"`
}

// Done tells how many things an order concerned.
type Done struct {
	Count  int    `json:"count"`
	Job    string `json:"job,omitempty"` // id of the job, or of the record where it is done already
	DryRun bool   `json:"dryRun,omitempty"`
}

// AttemptFilter chooses attempts. Zero fields choose all.
type AttemptFilter struct {
	Subscription fhir.ID
	Resource     fhir.Key
	Outcome      record.Code
	Since        time.Time
	Limit        int
}

// Attempt is one line of the troubleshooting log.
type Attempt struct {
	Time         time.Time        `json:"time"`
	Subscription fhir.ID          `json:"subscription"`
	Number       fhir.EventNumber `json:"number"`
	Event        record.Sequence  `json:"event"`
	Resource     string           `json:"resource"`
	Attempt      int              `json:"attempt"`
	Round        int              `json:"round,omitempty"`
	Outcome      record.Code      `json:"outcome"`
	Status       int              `json:"status,omitempty"` // HTTP status
	TookMS       float64          `json:"tookMs"`
	NotBefore    time.Time        `json:"notBefore,omitzero"`
	Final        bool             `json:"final,omitempty"`
	Dead         bool             `json:"dead,omitempty"`
	Response     string           `json:"response,omitempty"` // first bytes, cleaned
}

// Resend asks for a resource to be matched and sent again.
type Resend struct {
	Key          fhir.Key
	Version      record.Sequence  // 0 for the current one
	Interaction  fhir.Interaction // Update unless said
	Subscription fhir.ID          // empty for all that it matches
	Verbose      bool             // log the evaluation
}

// TokenInfo is an API token. Secret is set in the answer to its creation alone.
type TokenInfo struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Roles   []Role    `json:"roles"`
	Created time.Time `json:"created"`
	Secret  string    `json:"secret,omitempty"`
}

// Status is the state of the node that was asked.
type Status struct {
	Cluster       string           `json:"cluster"`
	Node          string           `json:"node"`
	Version       string           `json:"version"`
	FHIR          string           `json:"fhir"`
	Started       time.Time        `json:"started"`
	Ready         bool             `json:"ready"`
	Warnings      []string         `json:"warnings"`
	Sending       Sending          `json:"sending"`
	Logs          []LogStatus      `json:"logs"`
	Partitions    []PartitionState `json:"partitions"`
	Subscriptions map[string]int   `json:"subscriptions"` // by status
	Pending       int              `json:"pending"`
	Dead          int              `json:"dead"`
	DeadPipeline  int              `json:"deadPipeline"` // of Dead: not an endpoint's doing but ours
	SetAside      uint64           `json:"setAside"`     // records that could not be read or evaluated
	DiskFree      uint64           `json:"diskFree"`     // bytes
	DiskTotal     uint64           `json:"diskTotal"`
	StoreBytes    int64            `json:"storeBytes"`
}

// LogStatus is the state of one log.
type LogStatus struct {
	Name    string          `json:"name"`
	First   record.Sequence `json:"first"`
	Last    record.Sequence `json:"last"`
	Applied record.Sequence `json:"applied"` // by this node's projection
	Bytes   uint64          `json:"bytes"`
}

// PartitionState tells how far a partition is matched.
type PartitionState struct {
	Name string          `json:"name"`
	Mark record.Sequence `json:"mark"`
	Lag  uint64          `json:"lag"` // places of the log behind its end
}

// Tokens knows the API tokens.
type Tokens interface {
	// Lookup finds the token that a secret opens. It must take the same time whatever the
	// secret is: it compares hashes, in constant time.
	Lookup(ctx context.Context, secret string) (Token, bool)
	// Any reports whether a token exists. Without one no login is asked, and only this
	// machine is served.
	Any() bool
}

// Token is who asks.
type Token struct {
	ID    string
	Name  string
	Roles []Role
}
