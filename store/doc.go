// Package store is the projection of a node: one bbolt file with what the logs mean, folded
// from EVENTS, MATCHES, OUTCOMES and DEAD.
//
// EVENTS makes resources, their history and the Subscriptions' versions. MATCHES makes the
// queue of each Subscription and gives event numbers. OUTCOMES takes matches out of the queue
// and fills the troubleshooting log. DEAD lists what was given up. Nothing in the file is
// known from anywhere else, so it may be thrown away (Rebuild) and folded again, and two nodes
// at the same Vector hold the same bytes (Hash). The one exception are letters that were purged
// from DEAD after some node had read them.
//
// Reads see a record as soon as its Apply method returns. The file follows within 200 ms, data
// and position in one transaction: what a crash takes from it is folded again, exactly once.
// Nobody waits for the file on the way to an endpoint, since the logs are durable already.
//
// No record can stop the projection. One that cannot be read is counted and set aside, one
// that says what was said before changes nothing. What stops it is a file that cannot be read
// (ErrDamaged: every row has a checksum) or written (Err).
//
// Start reading at layers.go (memory over file), then events.go, matches.go (rounds and what
// is pending) and outcomes.go. DESIGN.md has the buckets and why the order in which the logs
// are read leaves no trace.
package store
