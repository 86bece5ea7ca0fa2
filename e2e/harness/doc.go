// Package harness runs the real carillon binary for the end-to-end tests: it builds it once,
// starts and kills nodes as processes of their own, and listens as a subscriber's endpoint.
//
// Nothing here looks inside a node. A test says what a user would say, over HTTP, NATS or the
// command line, and waits for what a user would see.
package harness
