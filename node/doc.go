// Package node is one running member: it builds the parts, joins them, starts them in one
// visible order and stops them in reverse.
//
// Follow one change. It enters through the gate (gate.go), over HTTP or from a NATS producer,
// and is answered when the log holds it, synced. The feed (feed.go) folds the log into the
// store and into the registry of Subscriptions, and shows each change to the partitions'
// runners (package match), which append blocks of matches. The feed of those blocks makes
// pending entries in the store and offers them to the lanes (package deliver), which send
// them and append outcomes; the feed of the outcomes settles them in the store.
//
// Criteria that ask for other resources are told of them by the projection, as they were at the
// event (repository.go), or by another FHIR server where the configuration says so (upstream.go).
//
// Secrets of Subscriptions are sealed before the log has them (vault.go). What became of each attempt
// is shown as AuditEvents made of the log of outcomes (audit.go, auditsearch.go); who ordered what is
// written as AuditEvents like any resource (recorded.go). Replays, purges and triggers go on for a
// while: they are jobs of the log (jobs.go).
//
// What a lane sends is made by render.go and goes out by what channels.go lists. A program that embeds
// a node may bring channels and interceptors along (options.go, package hook); hooks.go puts them
// around what is sent and into what is matched. All sending can be stopped (sending.go).
//
// stream, match, deliver and store do not know one another. Each says in an interface of its
// own what it needs; wiring.go holds the few lines that fill them.
//
// A node that is killed at any moment loses nothing that it acknowledged: the logs are synced
// before an answer is given, and everything else is folded from them again.
//
// Start reading at node.go (the order of start and stop), then gate.go and feed.go.
package node
