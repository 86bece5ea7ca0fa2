package node

import (
	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/email"
	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/deliver/sms"
	"github.com/carillon-fhir/carillon/deliver/websocket"
)

// makeChannels lists what notifications of each channel type are sent with, by its name in
// Subscription.channel.type, and the deliverers that Subscriptions ask for by name. Those that
// need a server of the operator's are there if one is named.
func (n *Node) makeChannels() (map[string]deliver.Channel, error) {
	messages := n.messageChannel(n.hooks())
	channels := map[string]deliver.Channel{
		resthook.Type:  n.resthook,
		websocket.Type: websocket.NewChannel(n.pings),
		message.Type:   messages,
	}
	d := n.cfg.Delivery
	if d.Configured(email.Type) {
		c, err := email.New(d.Email.Options(n.version))
		if err != nil {
			return nil, n.cfg.Refuse("delivery.email", "%v", err)
		}
		channels[email.Type] = c
	}
	if d.Configured(sms.Type) {
		c, err := sms.New(d.SMS.Options(n.version))
		if err != nil {
			return nil, n.cfg.Refuse("delivery.sms", "%v", err)
		}
		channels[sms.Type] = c
	}
	n.addClasses(channels)
	return n.hook(channels, n.hooks(), messages), nil
}
