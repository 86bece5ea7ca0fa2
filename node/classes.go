package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/command"
	"github.com/carillon-fhir/carillon/deliver/message"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// classPrefix tells the names of delivery classes apart from channel types, among the channels of
// the lanes. No channel type holds a colon.
const classPrefix = "class:"

// classes are the delivery classes that Subscriptions may ask for, each with the time that one
// attempt may take; 0 is the configured one.
type classes map[string]time.Duration

// classes lists those of the configuration and those of the program that embeds the node.
func (n *Node) classes() (classes, error) {
	c := classes{}
	for name, o := range n.cfg.Delivery.Commands {
		c[name] = o.Timeout
	}
	for name := range n.added.channels {
		if _, both := c[name]; both {
			return nil, n.cfg.Refuse("delivery.commands."+name, "the program that runs this node brings a channel of that name; choose another name")
		}
		c[name] = 0
	}
	return c, nil
}

// check refuses a delivery class that there is not (fhir.Rules.DeliveryClass).
func (c classes) check(name string) error {
	if _, ok := c[name]; ok {
		return nil
	}
	have := "there is none here"
	if len(c) > 0 {
		have = "there are " + strings.Join(slices.Sorted(maps.Keys(c)), ", ")
	}
	return fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf(
		"extension %s names a deliverer that this server does not have: %s. Java classes cannot be run: configure a command of that name (delivery.commands), or leave the extension out and give an endpoint",
		fhir.ExtDeliveryClass, have))
}

// addClasses adds the channels of the delivery classes.
func (n *Node) addClasses(channels map[string]deliver.Channel) {
	for name, o := range n.cfg.Delivery.Commands {
		channels[classPrefix+name] = command.New(command.Options{Command: o.Command, Concurrency: o.Concurrency, Env: o.Env})
	}
	for name, c := range n.added.channels {
		channels[classPrefix+name] = c
	}
}

// toClass sends through the deliverer that a Subscription asks for, if it does.
func (r *registry) toClass(s *subscription, t *deliver.Target) {
	if s.DeliveryClass == "" {
		return
	}
	t.ChannelType, t.Aside = classPrefix+s.DeliveryClass, true
	if d := r.classes[s.DeliveryClass]; d > 0 {
		t.Timeout = d
	}
}

// channelKnown reports whether this node can send for a Subscription at all: the configuration may
// have lost its deliverer, or its subject.
func (r *registry) channelKnown(s *subscription) bool {
	if s.DeliveryClass != "" {
		return r.classes.check(s.DeliveryClass) == nil
	}
	_, subject, _ := fhir.SplitMessageEndpoint(s.Channel.Endpoint)
	return s.Channel.Type != message.Type || subject == "" || r.subjects(subject)
}

// messageChannel is what message channels, and the copies of named channels, publish through.
func (n *Node) messageChannel(h *hooks) *message.Channel {
	o := message.Options{Log: messageLog{n.server}, Envelope: fhir.Envelope(n.cfg.Delivery.Message.Envelope)}
	if len(h.list) > 0 {
		o.Before = h.beforeMessage
	}
	return message.New(o)
}
