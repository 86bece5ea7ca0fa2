// Package resthook sends notifications as HTTP requests (FHIR R4 Subscription channel type
// rest-hook).
//
// One attempt is one request: in style fhir PUT or DELETE of {endpoint}/{Type}/{id}, as HAPI
// and Smile CDR send it, in style webhook POST to the endpoint as written, as Medplum does. The
// status decides: 200 to 299 is accepted, unless the Subscription's success codes say otherwise.
// Redirects are never followed: a followed POST becomes a GET without a body, and its 200 would be
// booked as delivered. A request is signed with the
// secrets of its Subscription (Standard Webhooks, and Medplum's X-Signature).
//
// An endpoint is named by whoever may write a Subscription, so it is not trusted. Every
// connection is checked against the address lists at the moment it is dialled, after the name
// was resolved, which also meets a name that resolves to another address the second time. What
// it answers is read up to 16 KiB and for a second, never decompressed, never followed.
//
// What the operator knows of a host comes in between: certificates, a login, a proxy. Their
// failures are our own, and not counted as attempts.
//
// Start reading at channel.go (one attempt), then request.go and sign.go (what is sent), egress.go
// (where it may go), rules.go, login.go and proxy.go (how it gets there).
package resthook
