package fhir

import "strings"

// classChannel checks the channel of a Subscription that a deliverer of its own sends for. What its
// endpoint says, if there is one, is that deliverer's business, as with Smile CDR.
func (c *check) classChannel(ch Channel, rules Rules) {
	const at = "Subscription.channel."
	if c.require(ch.Type, at+"type", "channel.type is missing; give rest-hook") && ch.Type != ChannelRestHook {
		c.refuse(IssueInvariant, at+"type", "extension %s is for channel type rest-hook; give that, or leave the extension out", ExtDeliveryClass)
	}
	if len(ch.Endpoint) > maxEndpoint || strings.ContainsFunc(ch.Endpoint, isControl) {
		c.refuse(IssueValue, at+"endpoint", "the endpoint is longer than %d bytes or holds a control character", maxEndpoint)
	}
	c.payload(ch.Payload, rules.Version)
	c.headers(ch.Headers)
}
