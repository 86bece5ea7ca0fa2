package deliver

import (
	"fmt"
	"strconv"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Pending is a match that is still to be delivered, with all that a lane must know of it.
type Pending struct {
	record.Match
	Number    fhir.EventNumber
	Round     int       // 0 first, one more for each replay
	Attempts  int       // attempts made in this round
	NotBefore time.Time // earliest time of the next attempt; zero before the first
	Key       fhir.Key  // the resource
	EventTime time.Time // the log's time of the event: when its write was acknowledged
	// FirstFailure is when the first failed attempt of this round began. Zero when there was
	// none or it is not remembered; a dead letter then names the earliest that the lane saw.
	FirstFailure time.Time
}

// ID is the identity of the match.
func (p Pending) ID() record.MatchID { return record.MatchID{Event: p.Event, Birth: p.Birth} }

// Notification is a match rendered for its Subscription: what a Channel sends.
type Notification struct {
	record.MatchID
	Subscription fhir.ID
	Number       fhir.EventNumber
	Attempt      int  // from 1 within the round
	Round        int  // 0 first, one more for each replay
	Resend       bool // a replay: the receiver may have it already
	Test         bool // sent by hand to try the endpoint: no match, Number is 0
	// TestID stands in Name in place of the number, so that no two tests are alike.
	TestID       string
	Key          fhir.Key         // of the resource, as the receiver is to know it
	Interaction  fhir.Interaction // Create, Update or Delete
	ContentType  string           // of Body; empty means application/fhir+json
	Body         []byte           // never changed by a Channel; empty where nothing is to be shown
	Transaction  bool             // Body is a transaction Bundle for the endpoint itself, wanted whatever the payload
	Trace        string           // traceparent of the writer; empty when it gave none
	FirstFailure time.Time        // when the round's first failed attempt began; zero before one
	// Headers are added to those of the Subscription, one for each value, where the channel has
	// headers: what an interceptor has put there.
	Headers []Header
}

// Header is one header line of a notification.
type Header struct{ Name, Value string }

// Name is the notification's identity towards its receiver, the same on every attempt and
// every replay: {subscription}.{birth}.{number}; of a test {subscription}.{birth}.test-{TestID}.
func (n Notification) Name() string {
	var room [128]byte // an id has up to 64 characters, a number up to 20
	name := append(append(room[:0], n.Subscription...), '.')
	name = append(strconv.AppendUint(name, uint64(n.Birth), 10), '.')
	if n.Test {
		return string(append(name, "test-"+n.TestID...))
	}
	return string(strconv.AppendUint(name, uint64(n.Number), 10))
}

// Receipt is an endpoint's answer, whether it accepted or not.
type Receipt struct {
	Status   int           // HTTP status, or 0 where the protocol has none or no answer came
	Response string        // first bytes of the answer, printable; may be empty
	Took     time.Duration // from the start of the attempt to the answer
	Disable  bool          // the receiver asks that its Subscription be turned off
}

// Error tells why an attempt failed and whether another may do better. Its text never holds
// a header, a query, or a body.
type Error struct {
	Code       record.Code
	Status     int           // HTTP status; zero when no answer came
	RetryAfter time.Duration // the endpoint's own wish, a minimum; zero when unstated
	Response   string        // first bytes of the answer, printable
	Err        error         // may be nil
	// Permanent failures are not tried again. Gone, BlockedAddress and RenderError always are.
	Permanent bool
	// Disable says that the receiver asks for its Subscription to be turned off. It goes with
	// Permanent.
	Disable bool
}

// Error gives the code, the status and the cause.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Status != 0 {
		s = fmt.Sprintf("%s %d", s, e.Status)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// final reports whether no later attempt can do better.
func (e *Error) final() bool {
	switch e.Code {
	case record.Gone, record.BlockedAddress, record.RenderError:
		return true
	}
	return e.Permanent
}
