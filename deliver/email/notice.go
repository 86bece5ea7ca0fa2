package email

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/wneessen/go-mail"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Notice is a mail to the operator's own people, outside of all Subscriptions.
type Notice struct {
	ID      string // unique; it becomes a part of Message-ID
	To      []string
	Subject string
	Text    string
}

// Notify hands a notice to the server. It is tried once; the error holds no address.
func (c *Channel) Notify(ctx context.Context, n Notice) error {
	to, err := fhir.Recipients(strings.Join(n.To, ","))
	if err != nil {
		return fmt.Errorf("to: %w", err)
	}
	m, err := c.begin(c.options.From, n.ID)
	if err != nil {
		return err
	}
	m.ToMailAddress(to...)
	m.Subject(n.Subject)
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetBodyString(mail.TypeTextPlain, n.Text)
	select {
	case c.free <- struct{}{}:
		defer func() { <-c.free }()
	case <-ctx.Done():
		return errors.New("all connections to the mail server were in use")
	}
	if failure := c.hand(ctx, m); failure != nil {
		return failure
	}
	return nil
}
