// Package fhir is the vocabulary that every other package speaks: resource ids and keys,
// interactions, event numbers, issues, and a Subscription as its author wrote it.
//
// It knows nothing of logs, files or networks and imports nothing of ours but its own
// sub-packages: json (the strict resource tree) and record (what the logs hold). Beside those
// are model (the types of each version) and xml (FHIR's other representation). Names are the
// specification's own.
//
// Start reading at resource.go, then subscription.go and honoured.go (the vendors' extensions).
package fhir
