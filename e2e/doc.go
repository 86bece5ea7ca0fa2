// Package e2e shows Carillon's promises on the real binary: each test starts nodes as
// processes, does what a user does, breaks something, and waits for what a user sees.
//
//	mainjob_test.go     a change in, a notification out; what must not arrive
//	crash_test.go       kill -9 under load: nothing acknowledged is lost, numbers have no gaps
//	deadletter_test.go  a failing endpoint: the schedule, one dead letter, its replay
//	jobs_test.go        replays of thousands and triggers over kill -9, cancels, takeovers
//	ingest_test.go      bulk ingest, compared with an independent reading of the file
//	producers_test.go   beside HAPI, beside Medplum, beside a NATS producer
//	natscli_test.go     the nats command line with a login: what it may, and nothing else
//	messages_test.go    message channels: read by the nats command line, killed while publishing
//	clients/            clients that others wrote, Medplum's recipes, the receivers of the documentation
//	power_test.go       power cuts on a disk of its own (make chaos)
//
// The helpers are in e2e/harness.
package e2e
