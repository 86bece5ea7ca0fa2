package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/deliver/email"
)

// operatorMail tells operators by mail.
type operatorMail struct {
	mail *email.Channel
	to   []string
}

// mailOperators adds it where the configuration names somebody. Its connections are its own: the
// mails of Subscriptions may be many.
func (n *Node) mailOperators() error {
	d := n.cfg.Delivery
	if len(d.OperatorEvents.Email.To) == 0 {
		return nil
	}
	options := d.Email.Options(n.version)
	options.Connections = 1
	c, err := email.New(options)
	if err != nil {
		return n.cfg.Refuse("delivery.email", "%v", err)
	}
	n.events.notifiers = append(n.events.notifiers, operatorMail{mail: c, to: d.OperatorEvents.Email.To})
	return nil
}

func (m operatorMail) notify(ctx context.Context, e operatorEvent) error {
	subject := fmt.Sprintf("[%s] %s", e.Cluster, e.Kind)
	if e.Subscription != "" {
		subject += " Subscription/" + string(e.Subscription)
	} else if e.Endpoint != "" {
		subject += " " + e.Endpoint
	}
	if err := m.mail.Notify(ctx, email.Notice{ID: e.ID, To: m.to, Subject: subject, Text: e.text()}); err != nil {
		return fmt.Errorf("mail to operators: %w", err)
	}
	return nil
}

// text is the event for people, a line for each thing that there is to be said.
func (e operatorEvent) text() string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-13s %s\n", name, value)
		}
	}
	line("event", e.Kind)
	line("time", e.Time.Format(time.RFC3339))
	line("cluster", e.Cluster)
	line("node", e.Node)
	line("subscription", string(e.Subscription))
	line("endpoint", e.Endpoint)
	line("outcome", string(e.Outcome))
	if e.Percent > 0 {
		line("percent", fmt.Sprint(e.Percent)+" of delivery.disable_after")
	}
	line("by", e.By)
	line("reason", e.Reason)
	return b.String()
}

var _ notifier = operatorMail{}
