// Package stream is the log: a NATS JetStream server inside the process, and everything that
// is known about its subjects, streams and consumers.
//
// What the rest of Carillon writes goes through here and is acknowledged only when it is
// synced to disk. A Publisher groups what many callers write at once into one atomic batch, so
// that they share a sync; Append writes one block of a chain that a stale owner cannot
// continue. Follow hands a log to a reader in order, each sequence once, and never before it
// is durable. Tokens and Due carry what is to be tried later.
//
// CORE is the account that holds the streams; it is ours alone, inside the process. In EDGE the
// gate waits for producers. Who connects to the listener is there too, as a guest, or in an
// account of its own where there are logins: they may ask the gate to ingest, listen to events,
// messages and dead letters, and pull from durable consumers that an administrator made. SYS
// belongs to the server.
//
// When the server loses its disk it says so through Healthy, writes fail with ErrFull or
// ErrUnavailable, and Restart starts it anew in place; connections find it again by themselves.
// A write without an answer is neither done nor failed: it is looked for in the log, and only
// where the log cannot tell is it ErrUnknown.
//
// Several nodes with routes to each other are one log. Whether it has a majority is Available, who
// is alive is in Members, and StepDown hands over before a stop, so that nobody waits for an
// election.
//
// Start reading at server.go (life), then subject.go and streams.go (what there is), publish.go
// (how it is written) and follow.go (how it is read); for several nodes cluster.go, leaders.go
// and members.go.
package stream
