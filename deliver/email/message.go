package email

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
)

// message makes the mail of a notification. Its errors hold no address.
func (c *Channel) message(n deliver.Notification, t deliver.Target) (*mail.Msg, error) {
	to, err := fhir.Recipients(t.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	from, subject := c.options.From, c.subject
	if s := t.Subscription; s != nil {
		from = cmp.Or(s.EmailFrom, from)
		if s.EmailSubject != "" {
			if subject, err = fhir.EmailSubject(s.EmailSubject); err != nil {
				return nil, fmt.Errorf("subject: %w", err)
			}
		}
	}
	m, err := c.begin(from, n.Name())
	if err != nil {
		return nil, err
	}
	m.ToMailAddress(to...)
	line := subject.Expand(value(n, t))
	if n.Test { // people do not look at headers
		line = "TEST: " + line
	}
	m.Subject(line)
	for _, h := range headers(n, t) {
		m.SetGenHeader(mail.Header(h.Name), h.Value)
	}
	m.SetBodyString(mail.TypeTextPlain, c.body.Expand(value(n, t)))
	return m, nil
}

// begin makes a mail with its sender, its date, and a Message-ID of its name.
func (c *Channel) begin(from, name string) (*mail.Msg, error) {
	sender, err := fhir.Sender(from)
	if err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	m.FromMailAddress(sender)
	m.SetDateWithValue(time.Now())
	_, domain, _ := strings.Cut(sender.Address, "@")
	m.SetMessageIDWithValue(name + "@" + domain)
	m.SetUserAgent("carillon/" + cmp.Or(c.options.Version, "dev"))
	return m, nil
}

// headers are those of HAPI, ours, and the Subscription's own. Auto-Submitted (RFC 3834) keeps
// absence notes from coming back.
func headers(n deliver.Notification, t deliver.Target) []deliver.Header {
	all := []deliver.Header{
		{Name: "Auto-Submitted", Value: "auto-generated"},
		{Name: "X-FHIR-Subscription", Value: "Subscription/" + string(n.Subscription)},
		{Name: "X-Carillon-Event", Value: strconv.FormatUint(uint64(n.Number), 10)},
		{Name: "X-Carillon-Attempt", Value: strconv.Itoa(n.Attempt)},
	}
	if n.Resend {
		all = append(all, deliver.Header{Name: "X-Carillon-Resend", Value: "true"})
	}
	if n.Test {
		all = append(all, deliver.Header{Name: "X-Carillon-Test", Value: "true"})
	}
	for _, line := range t.Headers {
		if name, value, ok := fhir.SplitHeader(line); ok {
			all = append(all, deliver.Header{Name: name, Value: value})
		}
	}
	return append(all, n.Headers...)
}

// value gives the variables of a notification. The payload is empty where the Subscription asks
// for none, and for a delete.
func value(n deliver.Notification, t deliver.Target) func(string) string {
	return func(name string) string {
		switch name {
		case "subscription":
			return string(n.Subscription)
		case "event":
			return strconv.FormatUint(uint64(n.Number), 10)
		case "interaction":
			return string(n.Interaction)
		case "resource_type":
			return n.Key.Type
		case "resource_id":
			return string(n.Key.ID)
		case "payload":
			if t.Payload != "" {
				return string(n.Body)
			}
		}
		return ""
	}
}
