// Package api is Carillon's face over HTTP: FHIR on /fhir, the administration API on
// /admin/api/v1, health and metrics.
//
// It reads requests, decides who may ask them, and words the answers; it keeps nothing. What
// is asked goes to a Backend (resources) and an Admin (everything else), which the node fills.
// A refusal of any layer is a *fhir.Error and becomes an OperationOutcome and a status by one
// table; any other error is our own fault, answered 500 without detail and logged.
//
// A 2xx to a write means what the Backend promises: the change is durable. Nothing here
// answers earlier, and what is unknown to the Backend is never reported as done.
//
// Start reading at api.go (the way of a request), then policy.go (who may do what) and
// resource.go (the verbs), search.go and conditional.go. bundle.go and ingest.go are the two ways to send many at once.
package api
