package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"
)

const (
	consumersPath = adminPath + "/consumers"
	consumerSpec  = "REFERENCE=reference STREAM=stream NAME=name FILTER=filter FROM=from PENDING=pending ACK_PENDING=ackPending WAITING=waiting CREATED=created"
)

func consumerCommand() *cli.Command {
	return &cli.Command{
		Name:  "consumer",
		Usage: "durable consumers for NATS clients of others",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a durable consumer and print what its user needs", ArgsUsage: "NAME",
				Description: help(`Makes a durable pull consumer on a stream: messages (what message channels publish), dead (dead
letters) or events (the changes themselves). It remembers what was acknowledged, so its client may
come and go. A message that is not acknowledged within 30 seconds comes again; at most 1,000 are
out at once. To make the same again changes nothing.

What is printed is what its user needs: stream and durable name, the line for a login in
cluster.yaml, and a command that pulls a message.`,
					"carillon consumer create lab --stream messages --filter fhir.message.lab",
					"carillon consumer create patients --stream events --filter 'fhir.event.Patient.>' --from new"),
				Flags: []cli.Flag{
					consumerStreamFlag(),
					&cli.StringFlag{Name: "filter", Usage: "`SUBJECT` that it delivers, wildcards allowed (default: all of the stream)"},
					&cli.StringFlag{Name: "from", Usage: "all: begin with what the stream holds; new: with what comes from now on", Value: "all"},
				},
				Action: action(1, 1, consumerCreate),
			},
			{
				Name: "list", Usage: "list them, with what is pending",
				Description: help("Lists the consumers that were made with create, on all streams.", "carillon consumer list"),
				Action:      action(0, 0, func(c *call) error { return c.listFrom(consumersPath, nil, consumerSpec) }),
			},
			{
				Name: "delete", Usage: "remove one, and its place in the stream", ArgsUsage: "NAME",
				Description: help("Removes a consumer. What it had not delivered yet stays in the stream.", "carillon consumer delete lab --stream messages"),
				Flags:       []cli.Flag{consumerStreamFlag()},
				Action:      action(1, 1, consumerDelete),
			},
		},
	}
}

func consumerStreamFlag() cli.Flag {
	return &cli.StringFlag{Name: "stream", Usage: "messages, dead or events"}
}

// consumerStream reads --stream.
func consumerStream(c *call) (string, error) {
	if err := c.need("stream"); err != nil {
		return "", err
	}
	switch s := strings.ToLower(c.String("stream")); s {
	case "messages", "dead", "events":
		return s, nil
	}
	return "", usage("--stream %q is not messages, dead or events", c.String("stream"))
}

func consumerCreate(c *call) error {
	stream, err := consumerStream(c)
	if err != nil {
		return err
	}
	from := c.String("from")
	if from != "all" && from != "new" {
		return usage("--from %q is not all or new", from)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), consumersPath, map[string]any{
		"stream": stream, "name": c.Args().First(), "filter": c.String("filter"), "from": from,
	})
	if err != nil {
		return err
	}
	if c.out.form != "table" {
		return c.out.object(b, columns(consumerSpec))
	}
	var made struct {
		Reference, Stream, Name, Filter, From string
		Subjects                              []string
	}
	if err := decode(b, &made); err != nil {
		return fmt.Errorf("the server's answer is no consumer: %w", err)
	}
	to, err := c.target()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, `stream   %s
durable  %s
filter   %s
from     %s

A login may use it with this line in cluster.yaml, under security.nats.users, from the next start
of each node on (without logins every client on the node's own machine may use it):
  consumers: [%q]
which lets it publish on
  %s

For example:
  nats --server %s consumer next %s %s --ack
`, made.Stream, made.Name, made.Filter, made.From, made.Reference, strings.Join(made.Subjects, "\n  "), withoutPassword(to.NATS), made.Stream, made.Name)
	return err
}

// withoutPassword is a URL as it may be shown.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return defaultNATS
	}
	u.User = nil
	return u.String()
}

func consumerDelete(c *call) error {
	stream, err := consumerStream(c)
	if err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	name := c.Args().First()
	if _, err := cl.ask(c.ctx(), request{method: http.MethodDelete, path: consumersPath + "/" + stream + "/" + url.PathEscape(name)}); err != nil {
		return err
	}
	c.note("deleted %s/%s", stream, name)
	return nil
}
