// Package resthook sends notifications as HTTP requests (FHIR R4 Subscription channel type
// rest-hook).
//
// One attempt is one request: in style fhir PUT or DELETE of {endpoint}/{Type}/{id}, as HAPI
// and Smile CDR send it, in style webhook POST to the endpoint as written, as Medplum does. The
// status decides, 200 to 299 is accepted. Redirects are never followed: a followed POST becomes
// a GET without a body, and its 200 would be booked as delivered.
//
// An endpoint is named by whoever may write a Subscription, so it is not trusted. Every
// connection is checked against the address lists at the moment it is dialled, after the name
// was resolved, which also meets a name that resolves to another address the second time. What
// it answers is read up to 16 KiB and for a second, never decompressed, never followed.
//
// Start reading at channel.go (one attempt), then request.go (what is sent) and egress.go
// (where it may go).
package resthook
