package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

const (
	deliveryPath = adminPath + "/delivery"
	deliverySpec = "STOPPED=stopped SINCE=since BY=by REASON=reason PENDING=pending OPEN_BREAKERS=openBreakers"
	endpointSpec = "ENDPOINT=endpoint BREAKER=breaker NEXT_TRY=nextTry FAILURES=failures LAST_OUTCOME=lastOutcome OUT=out WAITING=waiting CONCURRENCY=concurrency RATE=rate"
)

func deliverCommand() *cli.Command {
	return &cli.Command{
		Name:  "deliver",
		Usage: "stop all sending, or let it go on; look at endpoints",
		Subcommands: []*cli.Command{
			{
				Name: "stop", Usage: "send nothing more, on all nodes",
				Description: help(`Halts all sending on all nodes within five seconds, until carillon deliver start, restarts included.
What is on its way to an endpoint ends. Changes are taken and matched as ever; notifications wait,
and no attempt is spent.`, "carillon deliver stop --reason 'moving the lab server'"),
				Flags:  []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "one line that every status shows"}},
				Action: action(0, 0, deliverStop),
			},
			{
				Name: "start", Usage: "send again",
				Description: help("Ends a stop. What has waited is sent, in order for each resource.", "carillon deliver start"),
				Action:      action(0, 0, deliverStart),
			},
			{
				Name: "status", Usage: "print whether anything is sent, and the endpoints",
				Description: help("Prints whether sending is stopped, by whom and why, how much waits, and the endpoints.", "carillon deliver status"),
				Action:      action(0, 0, deliverStatus),
			},
			{
				Name: "endpoints", Usage: "list endpoints with breaker, failures and limits",
				Description: help(`Lists the endpoints that are sent to, over all nodes. An open breaker means that an endpoint kept
failing: nothing but one try now and then is sent, and no attempt is spent meanwhile.`, "carillon deliver endpoints"),
				Action: action(0, 0, deliverEndpoints),
			},
			{
				Name: "reset", Usage: "close the breaker of an endpoint", ArgsUsage: "ENDPOINT",
				Description: help("Closes the breaker of an endpoint on all nodes, so that what waits for it is sent at once.",
					"carillon deliver reset https://lab.example.org:8443"),
				Action: action(1, 1, deliverReset),
			},
		},
	}
}

// deliverOrder sends an order and prints how sending is then.
func (c *call) deliverOrder(order string, body any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), deliveryPath+"/"+order, body)
	if err != nil {
		return err
	}
	return c.out.object(b, columns(deliverySpec))
}

func deliverStop(c *call) error {
	return c.deliverOrder("stop", map[string]string{"reason": c.String("reason")})
}

func deliverStart(c *call) error { return c.deliverOrder("start", nil) }

func deliverReset(c *call) error {
	return c.deliverOrder("reset", map[string]string{"endpoint": c.Args().First()})
}

// delivery reads how sending is.
func (c *call) delivery() ([]byte, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	return cl.get(c.ctx(), deliveryPath, nil)
}

func deliverStatus(c *call) error {
	b, err := c.delivery()
	if err != nil {
		return err
	}
	if err := c.out.object(b, columns(deliverySpec)); err != nil || c.out.form != "table" {
		return err
	}
	fmt.Fprintln(c.App.Writer)
	return c.printPart(b, "endpoints", endpointSpec)
}

func deliverEndpoints(c *call) error {
	b, err := c.delivery()
	if err != nil {
		return err
	}
	return c.printPart(b, "endpoints", endpointSpec)
}
