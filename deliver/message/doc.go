// Package message publishes notifications as messages of a log, for durable consumers: the
// channel type message of FHIR, with HAPI's endpoint channel:NAME, and the copies of Smile CDR's
// named channels.
//
// A message is stored before it counts as delivered. Its id is the notification's identity, the
// same on every attempt, so that an attempt which is made again within the log's memory of ids is
// not stored twice; a replay asked for by hand has an id of its own and is. What comes twice all
// the same is known by its header webhook-id.
//
// The body is the resource as JSON, or HAPI's envelope around it (envelope.go); the headers say
// the rest (headers.go), so that a consumer can tell what it has without reading a body.
//
// Start reading at channel.go.
package message
