// Package sms sends notifications as short messages, through a gateway that the operator has named.
//
// Gateways speak HTTP and agree on nothing else, so what is asked of one is a template; presets
// have those of Twilio's Messages resource and of Kannel's sendsms. The text is the operator's and
// tells of the event, never of what is in a resource: an SMS is read by whoever holds the telephone,
// and by every carrier on the way.
//
// A message is accepted when the gateway has answered 2xx. That it refuses our login is not the
// receiver's doing and spends no attempt.
//
// Start reading at channel.go (one send), then request.go (templates and presets).
package sms
