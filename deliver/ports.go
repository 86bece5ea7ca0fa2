package deliver

import (
	"context"
	"errors"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// ErrLost is returned by Outcomes when the lane belongs to another owner now. The lane stops at
// once and releases nothing.
var ErrLost = errors.New("the lane has another owner")

// ErrUnavailable is wrapped by a Renderer that cannot say just now: a log or a peer that does
// not answer. No attempt is counted, and the match is tried again a second later.
var ErrUnavailable = errors.New("not available just now")

// ErrNothing is wrapped by a Renderer that finds that nothing is to be sent any more. The match
// ends as skipped, without an attempt.
var ErrNothing = errors.New("nothing is to be sent")

// Subscriber names one life of a Subscription.
type Subscriber struct {
	ID    fhir.ID
	Birth record.Sequence
}

// Queue is the store's view of what is pending. It may lag behind the outcomes that the lane
// has appended, never behind those that others had before Take returned. An error means that
// the store cannot be read; it ends Run, since guessing would lose or repeat matches.
type Queue interface {
	// Subscribers are those of the lane that have something pending.
	Subscribers(lane string) ([]Subscriber, error)
	// PendingFrom gives up to limit pending matches with a number above after, in order of it.
	PendingFrom(birth record.Sequence, after fhir.EventNumber, limit int) ([]Pending, error)
	// MatchByID finds a match; the second result reports whether it is pending.
	MatchByID(id record.MatchID) (Pending, bool, error)
	// Last is the highest number given to a match of the birth so far; 0 when there is none.
	Last(birth record.Sequence) (fhir.EventNumber, error)
}

// Outcomes records what became of each attempt.
type Outcomes interface {
	// Append stores the outcomes, in order. On return they are durable, and the store has
	// folded them or will. The lane has one Append in progress at a time, and repeats one that
	// failed with the same outcomes first: one that was stored after all may be there twice.
	Append(ctx context.Context, lane string, outcomes ...record.Outcome) error
	// Take makes the caller the lane's owner, with a record that shuts the one before it out. On
	// return the store has folded the lane's outcomes up to that record and every match that
	// was in MATCHES. clean reports that nothing of the owner before can still be on its way:
	// it released the lane, or it was an earlier process of this same node.
	Take(ctx context.Context, lane string) (clean bool, err error)
	// Release says that nothing of the lane is in flight any more.
	Release(ctx context.Context, lane string) error
}

// Tokens is the lane's durable consumer, the hold on matches that wait for their next attempt.
type Tokens interface {
	// Publish makes a token for a match.
	Publish(ctx context.Context, lane string, subscription fhir.ID, id record.MatchID) error
	// Receive calls fn with each token that the consumer delivers, until ctx ends. fn does not
	// wait for anything. An error before that makes the lane call Receive again a second later.
	Receive(ctx context.Context, lane string, fn func(Token)) error
}

// Token is one delivery of a token. Every method may be called once and from any goroutine,
// InProgress many times. Their errors are logged and change nothing: the sweep repairs.
type Token interface {
	MatchID() record.MatchID
	NumDelivered() int
	Ack() error
	NakWithDelay(time.Duration) error
	Term() error
	InProgress() error // keeps the delivery from being repeated for another ack wait
}

// DeadLetters stores notifications that were given up.
type DeadLetters interface {
	// Publish is durable on return. The same letter may be published twice.
	Publish(ctx context.Context, letter record.DeadLetter) error
}

// Targets says how, and whether, to send for a Subscription now. It answers from memory. It is
// asked before every attempt, so nothing is sent for one that is off once it says so.
type Targets interface {
	Target(id fhir.ID, birth record.Sequence) (Target, State)
}

// Renderer makes the notification of a match.
type Renderer interface {
	// Render fills everything of a Notification but Attempt. An error is the match's own fault
	// and dead-letters it (render_error), unless it wraps ErrUnavailable or ErrNothing, or ctx
	// has ended.
	Render(ctx context.Context, p Pending, t Target) (Notification, error)
}

// Channel sends notifications of one channel type. It makes one attempt, within ctx, and is
// safe for concurrent use. delivertest has the tests that each of them must pass.
type Channel interface {
	// Send gives the endpoint's receipt when it accepted, else an error. One of code Skipped ends
	// the match as not to be sent: no attempt, no dead letter, and nothing against the endpoint.
	// One whose code is no attempt (see record.Code.IsAttempt), such as AuthError, says that the
	// endpoint was not reached for a reason that is not its own: the Subscription is tried again
	// after five seconds, then at growing intervals up to a minute, and no attempt is spent.
	Send(ctx context.Context, n Notification, t Target) (Receipt, *Error)
}

// Observer is told what happens, for metrics. Each function may be nil; none may wait.
type Observer struct {
	// Attempt: one attempt ended, after the time given.
	Attempt func(channel string, code record.Code, took time.Duration)
	// EndToEnd: a first-round match was accepted so long after its event was acknowledged.
	EndToEnd func(channel string, took time.Duration)
	// Dead: a match became a dead letter.
	Dead func(channel string, reason record.Code)
	// Failing: the attempts of a Subscription begin to fail; Recovered: they are accepted again.
	// Both are for transitions alone. They are called in the middle of the lane's work, and must
	// call neither it nor Endpoints.
	Failing   func(t Target, code record.Code)
	Recovered func(t Target)
	// Exhausted: a match of the Subscription became a dead letter.
	Exhausted func(t Target, reason record.Code)
	// Withdrawn: pending matches of a Subscription were withdrawn.
	Withdrawn func(id fhir.ID)
}
