// Package delivertest has what tests of deliver need: World, which stands in for the logs, the
// store and the token consumer of a lane; Receiver, a scripted channel that watches for what
// must never happen; Endpoint, a scripted HTTP server; and TestChannel, the tests that every
// channel must pass.
//
// World and Receiver use no clock but package time and no network, so that they run under
// testing/synctest.
package delivertest
