// Package fhir is the vocabulary that every other package speaks: resource ids and keys,
// interactions, event numbers, issues, and a Subscription as its author wrote it.
//
// It knows nothing of logs, files or networks and imports nothing of ours but its own
// sub-packages: json (the strict resource tree) and record (what the logs hold). Names are
// the specification's own.
//
// Start reading at resource.go, then subscription.go.
package fhir
