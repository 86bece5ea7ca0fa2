// Package payload shapes the resources that notifications carry: it writes ids and references for
// a receiver that holds resources under other ids (Smile CDR's replication mode), leaves out
// versions (HAPI), and makes the transaction Bundle of a payload search (HAPI).
//
// Its functions are pure: bytes in, bytes out. What they do not have to change stays byte for
// byte, so the text of numbers, white space and the order of members are those of the source.
// Errors name types, ids and rules, never another value of a resource.
//
// Start reading at shape.go, then references.go.
package payload
