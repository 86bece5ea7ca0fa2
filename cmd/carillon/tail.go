package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/urfave/cli/v2"
)

func tailCommand() *cli.Command {
	return &cli.Command{
		Name:      "tail",
		Usage:     "follow notifications, events or dead letters over NATS",
		ArgsUsage: "[SUBJECT]",
		Description: help(`Prints messages as they come, until interrupted. Without a subject these are the dead letters
and what message channels publish; fhir.dead.a1 are the dead letters of one Subscription,
fhir.event.Patient.> the changes of a type, while no API token exists.`,
			"carillon tail",
			"carillon tail 'fhir.dead.>' -o json"),
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "body", Usage: "print the bodies too"}},
		Action: action(0, 1, tail),
	}
}

func tail(c *call) error {
	if c.out.form != "json" && c.out.form != "table" {
		return usage("tail prints lines of text or, with -o json, JSON objects; not %s", c.out.form)
	}
	subjects := []string{"fhir.dead.>", "fhir.message.>"}
	if c.NArg() > 0 {
		subjects = c.Args().Slice()
	}
	denied := make(chan error, 8)
	nc, err := connectNATS(c, denied)
	if err != nil {
		return err
	}
	defer nc.Close()
	messages := make(chan *nats.Msg, 1024) // a slow terminal loses messages, and the library says so on denied
	for _, s := range subjects {
		if _, err := nc.ChanSubscribe(s, messages); err != nil {
			return usage("subject %q: %v", s, err)
		}
	}
	if err := nc.Flush(); err != nil {
		return exit(exitUnreachable, "NATS: %v", err)
	}
	ctx, stop := c.interruptible()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-denied:
			if errors.Is(err, nats.ErrPermissionViolation) {
				return exit(exitForbidden, "NATS: %v", err)
			}
			c.warn("NATS: %v", err)
		case m := <-messages:
			if err := printMessage(c, m); err != nil {
				return err
			}
		}
	}
}

func connectNATS(c *call, problems chan<- error) (*nats.Conn, error) {
	to, err := c.target()
	if err != nil {
		return nil, err
	}
	options := []nats.Option{
		nats.Name("carillon tail"),
		nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case problems <- err:
			default: // it repeats what is waiting to be told
			}
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				select {
				case problems <- fmt.Errorf("connection lost, trying again: %w", err):
				default:
				}
			}
		}),
	}
	if to.Creds != "" {
		options = append(options, nats.UserCredentials(to.Creds))
	}
	nc, err := nats.Connect(to.NATS, options...)
	switch {
	case err == nil:
		return nc, nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return nil, exit(exitForbidden, "NATS: %v", err)
	}
	return nil, exit(exitUnreachable, "NATS cannot be reached: %v", err)
}

func printMessage(c *call, m *nats.Msg) error {
	if c.out.form == "json" {
		line := struct {
			Time    time.Time       `json:"time"`
			Subject string          `json:"subject"`
			Header  nats.Header     `json:"header,omitempty"`
			Body    json.RawMessage `json:"body,omitempty"`
			Data    []byte          `json:"data,omitempty"` // base64, when it is not JSON
		}{Time: time.Now().UTC(), Subject: m.Subject, Header: m.Header}
		if json.Valid(m.Data) {
			line.Body = m.Data
		} else {
			line.Data = m.Data
		}
		b, err := json.Marshal(line)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.App.Writer, "%s\n", b)
		return err
	}
	line := fmt.Sprintf("%s  %s  %d bytes", time.Now().Format("15:04:05.000"), m.Subject, len(m.Data))
	for _, name := range []string{"Dead-Reason", "Dead-Attempts", "Dead-Endpoint", "Fhir-Interaction"} {
		if v := m.Header.Get(name); v != "" {
			line += "  " + name + "=" + v
		}
	}
	if _, err := fmt.Fprintln(c.App.Writer, oneLine(line)); err != nil {
		return err
	}
	if c.Bool("body") && len(m.Data) > 0 {
		_, err := fmt.Fprintf(c.App.Writer, "%s\n", m.Data)
		return err
	}
	return nil
}
