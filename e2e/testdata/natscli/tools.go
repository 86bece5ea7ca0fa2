//go:build tools

// Package natscli pins the nats command-line client that the tests build and run: a client that
// was not written by us.
package natscli

import _ "github.com/nats-io/natscli/nats"
