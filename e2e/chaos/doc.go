// Package chaos proves the cluster by breaking it. A run starts real nodes, each in a network
// namespace and on a file system of its own, writes through them, breaks things in an order
// that a seed gives, heals everything, waits until all is quiet, and then holds what was
// written down meanwhile to what the product promises.
//
//	machine.go   namespaces, links, what this machine can and cannot do
//	disk.go      an ext4 in a file: power cuts, full disks
//	node.go      a node as a process, and the cluster of them
//	history.go   what happened, one line each, written by one goroutine
//	endpoint.go  the subscribers' endpoints, which record what arrives
//	workload.go  the writers, and what the Subscriptions are to receive
//	nemesis.go   the faults and their schedule
//	checker.go   the promises, as functions of the history
//	run.go       all of it together
//
// Nothing here looks inside a node: clients, endpoints and the tools of the operating system
// see what a user sees. The checker reads criteria by itself, in plain Go. Where a fault
// cannot be made on a machine, the run says so and goes on; without root it is left with the
// faults of processes and endpoints.
//
// See DESIGN.md in e2e for the faults, the checks, and the seeded bugs that show that the
// checker can fail.
package chaos
