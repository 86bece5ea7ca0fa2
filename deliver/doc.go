// Package deliver carries matched events to subscribers' endpoints.
//
// A Lane owns the pending matches of many Subscriptions. It sends up to k at once for each,
// never two of the same resource, and stores an outcome before it acknowledges: every match
// arrives at least once, and a receiver recognises a repeat by its webhook-id.
//
// A failing or slow endpoint is sent one notification at a time and keeps few places of its
// lane; what is behind it waits in the store. Once its attempts are spent a match becomes a
// dead letter, and its Subscription goes on or is stopped, as it asks.
//
// The store is the authority, and memory is a window on it: a lane that starts anew reads what
// is pending, with the attempts made and the time of the next, and goes on from there. A token
// is the durable consumer's hold on a match that waits for its next attempt. Tokens only wake;
// two of them, none, an early or a late one change nothing that a receiver could see.
//
// Lanes of one node share Endpoints: a breaker that leaves a dead endpoint alone, and limits that
// hold for all Subscriptions of it. Who waits there takes no place in a lane and spends no attempt.
//
// Start reading at lane.go (ownership), then backlog.go (what a Subscription has waiting),
// dispatch.go (what goes next), admission.go and endpoints.go (whether the endpoint may be sent to),
// attempt.go (one send) and token.go (waiting for the next).
// What callers fill in is in ports.go. Channels are in folders of their own, and so is payload,
// which shapes what they carry.
package deliver
