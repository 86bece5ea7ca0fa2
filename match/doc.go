// Package match decides which Subscriptions an event meets, and writes that down exactly once.
//
// A Table divides the events among partitions. The Runner of a partition reads its events in
// the order of the log, asks the index for the Subscriptions in force at each, and appends
// what it finds to MATCHES as a chain of blocks: each is published under the condition that
// the one before it is still the partition's newest. So two runners of one partition cannot
// both write, a late answer cannot write twice, and whoever comes next reads how far the chain
// is complete and goes on from there.
//
// Nothing here touches a network or a file. Events, bodies and blocks come through interfaces;
// an event whose evaluation fails is set aside through one, and matching goes on.
//
// What search criteria leave open a FHIRPath expression may decide, over the state and the one
// before it: Paths asks those of the Subscriptions that an event has met otherwise.
//
// Start reading at runner.go (the chain), then block.go (how blocks are filled), matcher.go
// (one event), path.go (FHIRPath criteria), others.go (the resources beside the event's own).
// table.go and explain.go stand by themselves. The index is in package index, the criteria in
// package search, expressions in package fhirpath.
package match
