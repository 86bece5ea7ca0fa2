package fhir

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/template"
)

// maxRecipients bounds the receivers of one mail.
const maxRecipients = 50

// SubjectVariables are those that the subject of a mail and the text of an SMS may have. None of
// them tells what is in a resource, nor which resource it is: subjects are shown on locked screens
// and kept in the logs of every relay on the way.
func SubjectVariables() []string {
	return []string{"subscription", "event", "interaction", "resource_type"}
}

// BodyVariables are those that the body of a mail may have: those of its subject, the resource's
// id, and the payload, which is empty where the Subscription asks for none.
func BodyVariables() []string {
	return append(SubjectVariables(), "resource_id", "payload")
}

// Recipients reads the endpoint of an email channel: addresses separated by commas, each with or
// without "mailto:" in front (HAPI takes both). Its errors do not repeat an address.
func Recipients(endpoint string) ([]*mail.Address, error) {
	var all []*mail.Address
	for part := range strings.SplitSeq(endpoint, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		a, err := mailAddress(part)
		if err != nil {
			return nil, fmt.Errorf("address %d %w", len(all)+1, err)
		}
		all = append(all, a)
	}
	switch {
	case len(all) == 0:
		return nil, errors.New("no address is given")
	case len(all) > maxRecipients:
		return nil, fmt.Errorf("more than %d addresses are given", maxRecipients)
	}
	return all, nil
}

// Sender reads the address that a mail comes from, with or without "mailto:" in front.
func Sender(s string) (*mail.Address, error) {
	a, err := mailAddress(s)
	if err != nil {
		return nil, fmt.Errorf("the address %w", err)
	}
	return a, nil
}

func mailAddress(s string) (*mail.Address, error) {
	s = strings.TrimSpace(s)
	if len(s) >= 7 && strings.EqualFold(s[:7], "mailto:") {
		s = s[7:]
		if strings.ContainsAny(s, "?%") {
			return nil, errors.New("is a mailto: link with parameters or escapes; write the bare address")
		}
	}
	a, err := mail.ParseAddress(s)
	if err != nil || !validFieldValue(s) {
		return nil, errors.New("is not one like somebody@example.org")
	}
	return a, nil
}

// email checks an email channel: whom it goes to, and what is to be in it.
func (c *check) email(ch Channel, rules Rules) {
	const at = "Subscription.channel.endpoint"
	if c.require(ch.Endpoint, at, "an email channel needs an endpoint, such as mailto:somebody@example.org") {
		if _, err := Recipients(ch.Endpoint); err != nil {
			c.refuse(IssueValue, at, "%s", err)
		}
	}
	c.payload(ch.Payload, rules.Version)
	for i, line := range ch.Headers {
		name, _, _ := SplitHeader(line)
		if len(name) < 2 || !strings.EqualFold(name[:2], "x-") {
			if strings.TrimSpace(line) != "" {
				c.refuse(IssueValue, fmt.Sprintf("Subscription.channel.header[%d]", i),
					"a header of a mail must have a name that begins with X-; the subject is set by the extension %s", ExtEmailSubject)
			}
		}
	}
}

// emailOptions checks what HAPI's extensions say of a mail.
func (c *check) emailOptions(s *Subscription) {
	if s.EmailFrom != "" {
		if _, err := Sender(s.EmailFrom); err != nil {
			c.refuse(IssueValue, "Subscription.channel.extension", "extension %s: %s", ExtEmailFrom, err)
		}
	}
	if s.EmailSubject != "" {
		if _, err := EmailSubject(s.EmailSubject); err != nil {
			c.refuse(IssueValue, "Subscription.channel.extension", "extension %s: %s", ExtEmailSubject, err)
		}
	}
}

// EmailSubject reads the subject of a mail, which may have SubjectVariables.
func EmailSubject(s string) (template.Template, error) {
	if !validFieldValue(s) || strings.TrimSpace(s) == "" {
		return template.Template{}, errors.New("a subject is one line of text")
	}
	return template.Parse(s, SubjectVariables()...)
}
