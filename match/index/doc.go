// Package index finds the Subscriptions that an event meets, at a cost that follows the number
// of matches and not the number of Subscriptions.
//
// It holds versions, not Subscriptions: each is in force from the place in the log where it
// was written to the place where it was replaced, so readers at different places of the log
// (partitions run apart from one another, and a restarted one goes back) all get the answer
// of their own place. That is also what makes reading free of locks: a change of the index
// concerns only events after it, and nobody asks about those before the change is in.
//
// Versions with equal criteria form a group and are evaluated once. A group is posted under
// the hashes of its criteria's most selective equality; an event's own hashes select the
// candidates, and the criteria decides. Groups without an equality are looked at for every
// event of their types.
//
// Start reading at index.go (versions), then shelf.go (how candidates are found).
package index
