package fhir

import "strings"

// websocket refuses nothing. The classic protocol (FHIR R4 Subscription, channel type websocket)
// has the client come to the server and sends it "ping {id}" and nothing else, so neither an
// endpoint nor a payload means anything. HAPI accepts both, whatever they hold, and so do we;
// Unused says so in the answer.
func (c *check) websocket(Channel, Rules) {}

// Unused warns of elements of an accepted Subscription that its channel has no use for, where
// their author may think otherwise.
func (s *Subscription) Unused() (warnings []Issue) {
	if s.Channel.Type != ChannelWebSocket {
		return nil
	}
	warn := func(element, text string) {
		warnings = append(warnings, Issue{Type: IssueProcessing, Expression: "Subscription.channel." + element, Diagnostics: text})
	}
	if strings.TrimSpace(s.Channel.Endpoint) != "" {
		warn("endpoint", "the endpoint is not used: clients of a websocket connect to this server's /websocket and send bind ID")
	}
	if strings.TrimSpace(s.Channel.Payload) != "" {
		warn("payload", "the payload is not used: a websocket is sent ping ID, and its client reads the resources")
	}
	if len(s.Channel.Headers) > 0 {
		warn("header", "the headers are not used: there is nowhere to send them to")
	}
	return warnings
}
