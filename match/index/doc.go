// Package index finds the Subscriptions that an event meets, at a cost that follows the number
// of matches and not the number of Subscriptions.
//
// It holds versions, not Subscriptions: each is in force from the place in the log where it
// was written to the place where it was replaced, so readers at different places of the log
// (partitions run apart from one another, and a restarted one goes back) all get the answer
// of their own place. That is also what makes reading free of locks: a change of the index
// concerns only events after it, and nobody asks about those before the change is in.
//
// Versions with equal criteria form a group and are evaluated once. A group is found by what
// its criteria's most selective condition asks for (search.Access): a hash of a whole value or of
// a text's beginning, or a range of dates or numbers. An event's own values select the
// candidates, and the criteria decides. Groups that nothing can be found by, such as those that
// ask for the absence of something, are looked at for every event of their types.
//
// Which condition is the most selective is a guess, and is corrected by what events show:
// groups that are asked in vain too often move to another of their conditions. That changes
// costs and no answers; a reader that a move overtakes looks again.
//
// Start reading at index.go (versions), then shelf.go (how candidates are found), relieve.go (how
// groups move); lists.go and intervals.go are what they are kept in.
package index
