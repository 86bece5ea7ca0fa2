package deliver

import (
	"net/url"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Target is how to send for a Subscription, as its newest version has it.
type Target struct {
	ID          fhir.ID
	Birth       record.Sequence
	ChannelType string // key of Config.Channels, such as rest-hook
	// Subscription is the newest version as its author wrote it, for what a channel needs beyond
	// the fields here. It is shared and never changed; nil only in tests of the lane.
	Subscription *fhir.Subscription
	Endpoint     string
	Headers      []string // channel.header as written, Name: value
	// Secrets are what notifications are signed with, the newest first. They are in no log and no error.
	Secrets []string
	Payload string // MIME type of channel.payload; empty: no payload is wanted
	Style   Style
	// SendDelete says that deletes are wanted. A pending delete of a Subscription that does not
	// want them (any more) leaves as skipped.
	SendDelete  bool
	Policy      Policy
	OnExhausted Exhaustion
	Order       Order
	// MaxInFlight is k, how many notifications may be out at once while the endpoint is
	// healthy. Zero means DefaultMaxInFlight. A strict order makes it one.
	MaxInFlight int
	// Withdrawal is the code with which pending matches leave a Subscription that is Withdrawn:
	// Skipped where its owner lost the right to it. Empty means Withdrawn.
	Withdrawal record.Code
	// Aside says that the channel is a deliverer of its own, which may never ask the endpoint: what
	// becomes of its attempts says nothing of that to others.
	Aside bool
	// Timeout bounds a whole attempt. Zero means DefaultTimeout; more than MaxTimeout is cut.
	Timeout time.Duration
}

// Limits of a Target.
const (
	DefaultMaxInFlight = 8
	DefaultTimeout     = 15 * time.Second
	MaxTimeout         = 120 * time.Second
)

// timeout is the bound of one attempt.
func (t Target) timeout() time.Duration {
	if t.Timeout <= 0 {
		return DefaultTimeout
	}
	return min(t.Timeout, MaxTimeout)
}

// inFlight is k.
func (t Target) inFlight() int {
	switch {
	case t.Order == OrderStrict:
		return 1
	case t.MaxInFlight <= 0:
		return DefaultMaxInFlight
	}
	return t.MaxInFlight
}

// Host is the endpoint's scheme and host, which is all that may be shown of it.
func (t Target) Host() string { return t.host() }

// host is the endpoint's scheme and host. The rest of an endpoint may hold a secret, so no log
// line and no dead letter has more.
func (t Target) host() string {
	if _, _, ok := fhir.SplitMessageEndpoint(t.Endpoint); ok {
		return t.Endpoint // a name or a subject, and no secret
	}
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// Style is the dialect of rest-hook requests.
type Style string

// The styles. StyleFHIR is that of the R4 text, HAPI and Smile CDR: PUT and DELETE of
// {endpoint}/{Type}/{id}. StyleWebhook is Medplum's: POST to the endpoint as written.
const (
	StyleFHIR    Style = "fhir"
	StyleWebhook Style = "webhook"
)

// Order is what must not overtake what.
type Order string

// The orders. OrderResource, the default, keeps the notifications of one resource in order.
// OrderStrict keeps all of a Subscription: one at a time, and one that waits for its next
// attempt holds back the rest.
const (
	OrderResource Order = "resource"
	OrderStrict   Order = "strict"
)

// Exhaustion is what happens to a Subscription when the attempts of a match are spent. The
// match becomes a dead letter either way.
type Exhaustion string

// The exhaustions. With ExhaustedDeadLetter, the default, the Subscription goes on with its
// other matches. With ExhaustedError it is held until Changed, and Config.OnExhausted is told.
const (
	ExhaustedDeadLetter Exhaustion = "dead-letter"
	ExhaustedError      Exhaustion = "error"
)

// State says what may be done with a Subscription's pending matches now.
type State int

// The states.
const (
	// Held: wait, without spending anything. The Subscription is requested, paused or in error.
	Held State = iota
	// Sendable: active, and within its end.
	Sendable
	// Withdrawn: off, deleted, of another birth, or past its end. What is pending leaves as
	// withdrawn.
	Withdrawn
)

// String names the state for a log line.
func (s State) String() string {
	switch s {
	case Sendable:
		return "sendable"
	case Withdrawn:
		return "withdrawn"
	}
	return "held"
}
