package node

import (
	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/resthook"
)

// makeChannels lists what notifications of each channel type are sent with, by its name in
// Subscription.channel.type.
func (n *Node) makeChannels() (map[string]deliver.Channel, error) {
	return map[string]deliver.Channel{
		resthook.Type: n.resthook,
	}, nil
}
