package main

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"
)

const nodeSpec = "CLUSTER=cluster NODE=node VERSION=version FHIR=fhir STARTED=started READY=ready WARNINGS=warnings SUBSCRIPTIONS=subscriptions " +
	"PENDING=pending DEAD=dead SET_ASIDE=setAside DISK_FREE=diskFree DISK_TOTAL=diskTotal STORE_BYTES=storeBytes"

func clusterCommand() *cli.Command {
	return &cli.Command{
		Name:  "cluster",
		Usage: "set up a cluster, and the state of the running node",
		Subcommands: []*cli.Command{clusterInitCommand(), {
			Name: "status", Usage: "print logs, lag, backlog and disk",
			Description: help("Prints the state of the node that is asked.", "carillon cluster status", "carillon cluster status -o json"),
			Action:      action(0, 0, clusterStatus),
		}},
	}
}

func clusterStatus(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.get(c.ctx(), adminPath+"/status", nil)
	if err != nil {
		return err
	}
	if err := c.out.object(b, columns(nodeSpec)); err != nil || c.out.form != "table" {
		return err
	}
	var parts struct {
		Logs       json.RawMessage `json:"logs"`
		Partitions json.RawMessage `json:"partitions"`
	}
	if err := decode(b, &parts); err != nil {
		return fmt.Errorf("the server's answer is not the state of a node: %w", err)
	}
	for _, t := range []struct {
		rows json.RawMessage
		spec string
	}{
		{parts.Logs, "LOG=name FIRST=first LAST=last APPLIED=applied BYTES=bytes"},
		{parts.Partitions, "PARTITION=name MARK=mark LAG=lag"},
	} {
		if len(t.rows) == 0 {
			continue
		}
		fmt.Fprintln(c.App.Writer)
		if err := c.out.list(t.rows, columns(t.spec)); err != nil {
			return err
		}
	}
	return nil
}
