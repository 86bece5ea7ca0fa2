package hook

import (
	"context"
	"errors"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// ErrVeto, or an error that wraps it, is what a hook returns to stop what it was asked about.
var ErrVeto = errors.New("an interceptor objects")

// ErrRetry, or an error that wraps it, is what BeforeDelivery and BeforeMessage return when they
// cannot say now: the attempt has failed (publish_error), and the next is made as after any failure.
var ErrRetry = errors.New("an interceptor cannot say now")

// Interceptor is a set of hooks; those that are nil are left out. The package comment says in
// which order they are called and what their errors mean. A hook is called from many goroutines
// at once.
type Interceptor struct {
	// Name tells the interceptor's failures apart in the log.
	Name string

	// BeforeMatch is asked once for each change, before any criteria is. It may replace c.Body,
	// the state that criteria are asked about, by another state of the same resource; what is
	// delivered stays what was written. With a veto the change meets no Subscription.
	BeforeMatch func(ctx context.Context, c *Change) error
	// AfterMatch is asked for each Subscription that a change meets, before it has a number for
	// it. With a veto the Subscription never has the event.
	AfterMatch func(ctx context.Context, c Change, m Match) error

	// BeforeDelivery is asked before each attempt. It may replace Key (under which the receiver is
	// to know the resource), Body, ContentType, Headers and Target.Endpoint, for this attempt;
	// other changes are ignored. A new endpoint is held to the
	// rules for endpoints as the Subscription's own is. With a veto the match leaves as skipped,
	// without an attempt and without a dead letter.
	BeforeDelivery func(ctx context.Context, d *Delivery) error
	// BeforeMessage is asked before a message is published, of a message channel or as the copy of
	// a named channel, after BeforeDelivery. It may add to m.Custom and replace m.Body. With a veto
	// a match of a message channel leaves as skipped; a copy is not made.
	BeforeMessage func(ctx context.Context, d Delivery, m *message.Message) error
	// AfterDelivery is told of each attempt that was accepted.
	AfterDelivery func(ctx context.Context, d Delivery, r deliver.Receipt)
	// AfterFailure is told of each attempt that failed, and says whether there may be another.
	AfterFailure func(ctx context.Context, d Delivery, failure *deliver.Error) Verdict
}

// Change is a resource change as criteria are asked about it.
type Change struct {
	Sequence    record.Sequence // its place in the log, which is its version
	Time        time.Time       // the log's time of it
	Key         fhir.Key
	Interaction fhir.Interaction // Create, Update or Delete
	// Body is the state after a create or update, and before a delete. It is shared: a hook that
	// wants another one replaces the slice and leaves its bytes.
	Body []byte
}

// Match names a Subscription that a change meets.
type Match struct {
	Subscription fhir.ID
	Birth        record.Sequence // sequence of its create
	Version      record.Sequence // of the version that matched
}

// Delivery is one attempt. Body, Headers and Target.Headers are shared: a hook that wants others
// replaces the slices and leaves what they hold.
type Delivery struct {
	deliver.Notification
	Target deliver.Target
}

// Verdict is what follows a failed attempt.
type Verdict int

// The verdicts.
const (
	// AsUsual: the policy says whether there is another attempt.
	AsUsual Verdict = iota
	// GiveUp: there is no other; the match becomes a dead letter.
	GiveUp
	// Swallow: there is no other, and no dead letter; the match leaves as skipped. This is what
	// false means for HAPI's SUBSCRIPTION_AFTER_DELIVERY_FAILED.
	Swallow
)
