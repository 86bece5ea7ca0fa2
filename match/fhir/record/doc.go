// Package record defines what the logs hold: the forms in which stream, match, deliver and
// store tell one another what happened, without importing one another.
//
// An Event is a resource change in EVENTS. A Block is a run of events with all their matches
// in MATCHES; a Job there is a replay asked for by hand. An OutcomeBlock in OUTCOMES says
// what became of attempts. A DeadLetter in DEAD is a notification that was given up.
//
// Everything but events is JSON: an operator can read a log with any NATS client. Readers
// must be deterministic: what they make of a record may depend on the records before it in
// its log and on nothing else (no clock, no configuration, no map order).
package record
