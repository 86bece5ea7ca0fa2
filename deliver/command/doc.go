// Package command sends notifications by a program that the operator has configured: our answer,
// beside a deliver.Channel in a program that embeds a node, to the deliverer classes of Smile CDR.
//
// Each notification is one process. It reads one JSON object (Envelope) on its standard input and
// says by its exit status what became of it:
//
//	0      accepted
//	65     refused for good (EX_DATAERR of sysexits.h): no further attempt, a dead letter
//	other  failed: the next attempt comes as the retry policy says
//
// The first bytes of its standard output are kept with the attempt, as those of an endpoint's
// answer are. Its standard error is not kept anywhere: a program that has something to say to its
// operator logs it.
//
// A process lives no longer than its notification. When the time is up, or the node stops, its
// whole process group is killed. It has an environment of its own (PATH and the variables that are
// listed), no open files but the three, and the root of the file system as its folder.
//
// Start reading at channel.go.
package command
