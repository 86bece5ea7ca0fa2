// Package seal encrypts the secrets of Subscriptions before they go into a log.
//
// There are keys of two kinds. A Key seals the values of one Subscription for as long as that
// lives; whoever erases it makes all that it sealed unreadable, in old records and in copies of
// them. Keys are kept wrapped by a master key out of a Ring: the first of the ring wraps, each
// unwraps, so that changing master keys touches no sealed value.
//
// Sealing the same value again gives the same text (the nonce is a keyed hash of the value, as in
// SIV modes, RFC 5297): an update that changes nothing is seen to change nothing, and nodes that
// seal the same write agree. What that gives away is whether two values under one key and name
// are equal. A sealed text opens only under the name that it was sealed for, so it cannot be moved
// to another Subscription or field.
//
// AES-256-GCM throughout. No error holds a value or a key.
//
// Start reading at key.go (values), then ring.go (keys).
package seal
