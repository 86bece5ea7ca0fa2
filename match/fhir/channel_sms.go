package fhir

import (
	"errors"
	"strings"
)

// Telephone reads the endpoint of an sms channel: one number in international form, with or
// without "tel:" or "sms:" in front and with the separators of RFC 3966. It gives the number as
// ITU-T E.164 writes it, + and digits. Its errors do not repeat the number.
func Telephone(endpoint string) (string, error) {
	s := strings.TrimSpace(endpoint)
	for _, scheme := range []string{"tel:", "sms:"} {
		if len(s) >= len(scheme) && strings.EqualFold(s[:len(scheme)], scheme) {
			s = s[len(scheme):]
			break
		}
	}
	if strings.ContainsAny(s, ",;") {
		return "", errors.New("the endpoint of an sms channel is one number; make a Subscription for each receiver, so that one who cannot be reached does not make the others hear twice")
	}
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune("-.() ", r) {
			return -1
		}
		return r
	}, s)
	number, international := strings.CutPrefix(digits, "+")
	if !international || len(number) < 7 || len(number) > 15 || strings.Trim(number, "0123456789") != "" || number[0] == '0' {
		return "", errors.New("the endpoint of an sms channel is a number in international form, such as tel:+4930123456")
	}
	return digits, nil
}

// sms checks an sms channel. What is sent is a short text that the operator has written, so a
// payload would have no effect.
func (c *check) sms(ch Channel, _ Rules) {
	const at = "Subscription.channel.endpoint"
	if c.require(ch.Endpoint, at, "an sms channel needs an endpoint, such as tel:+4930123456") {
		if _, err := Telephone(ch.Endpoint); err != nil {
			c.refuse(IssueValue, at, "%s", err)
		}
	}
	if strings.TrimSpace(ch.Payload) != "" {
		c.refuse(IssueNotSupported, "Subscription.channel.payload", "an SMS has no room for a resource; leave the payload out, a short text tells of the event")
	}
	for _, line := range ch.Headers {
		if strings.TrimSpace(line) != "" {
			c.refuse(IssueValue, "Subscription.channel.header", "an SMS has no headers; leave them out")
			return
		}
	}
}
