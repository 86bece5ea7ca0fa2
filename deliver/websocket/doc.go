// Package websocket pings the clients of a Subscription whose channel is a websocket, in the
// classic way of FHIR R4: the client connects, says "bind ID" and hears "bound ID", and then "ping
// ID" each time that something matched. A ping carries nothing; the client reads what it wants to
// know.
//
// A Hub holds the sockets of one node. Many of them may be bound to one Subscription, and one of
// them to many Subscriptions. What is bound stays so while the Subscription is changed; when it is
// switched off or deleted, or the token that opened the socket is revoked, the socket is closed
// with a reason.
//
// Channel is the deliver.Channel: a match is accepted when a socket was pinged, on whichever node
// it is. Where nobody is bound the match ends as skipped, since nothing would be in a ping that
// comes later: a client reads when it has bound, and misses nothing.
//
// Nobody waits for a client. Pings stand in a bounded queue of their socket; where it is full, a
// ping that would be the second of its Subscription there is left out, for one says as much as two.
// A client that takes nothing for a while, or does not answer the protocol's own pings, is cut off.
//
// Start reading at hub.go (who is bound), then socket.go (one connection) and channel.go.
package websocket
