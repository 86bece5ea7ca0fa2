package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/node/api"
)

// What the tables show of a cluster. For -o json and yaml the answer is printed as it is.
const (
	clusterSpec = "CLUSTER=cluster LEADER=leader WRITABLE=quorum FHIR=fhir SUBSCRIPTIONS=subscriptions PENDING=pending STOPPED=sending.stopped DEAD=dead SET_ASIDE=setAside"
	memberSpec  = "NODE=name READY=ready LEASED=leased DRAINING=draining VERSION=version HTTP=http SKEW=clockSkewSeconds " +
		"DISK_FREE=diskFree PARTITIONS=partitions LANES=lanes LAG=lag.events"
	streamSpec    = "STREAM=name LEADER=leader FIRST=first LAST=last MESSAGES=messages BYTES=bytes LACK=lack"
	partitionSpec = "PARTITION=name MARK=mark LAG=lag"
	verifiedSpec  = "NODE=name EVENTS=at.events MATCHES=at.matches OUTCOMES=at.outcomes DEAD=at.dead HASH=hash DIFFERS=differs ERROR=error"
)

func clusterCommand() *cli.Command {
	return &cli.Command{
		Name:  "cluster",
		Usage: "set up and administer a cluster",
		Subcommands: []*cli.Command{clusterInitCommand(), {
			Name: "status", Usage: "print nodes, logs, lag, backlog, disk and warnings",
			Description: help(`Prints the state of all nodes, as the node that is asked sees it: who holds a lease, what each
runs and how far it is, leaders and copies of the logs, and warnings with the command that helps.
It is an answer whatever it says: the exit code is 0 also where nodes are missing. -o csv prints
the nodes.`,
				"carillon cluster status", "carillon cluster status -o json"),
			Action: action(0, 0, clusterStatus),
		}, {
			Name: "members", Usage: "list the nodes",
			Description: help(`Lists the nodes of the configuration and those that are there, each with whether it holds a
lease, what it runs, and how far its clock is off that of the node that is asked. The exit code is 0
also where nodes are missing.`,
				"carillon cluster members", "carillon cluster members -o csv"),
			Action: action(0, 0, clusterMembers),
		}, {
			Name: "drain", Usage: "take the work from a node, before it is stopped", ArgsUsage: "NODE",
			Description: help(`Takes partitions, lanes and the lead of the logs from a node, which the others take over, and
waits until it has given them up. It goes on answering requests. That lasts until it is started
again, or until --undo. If every node is drained, all of them work.`,
				"carillon cluster drain n2", "carillon cluster drain n2 --undo"),
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "undo", Usage: "let the node work again"},
				&cli.DurationFlag{Name: "wait", Usage: "how `LONG` to wait for it; 0 does not wait", Value: time.Minute},
			},
			Action: action(1, 1, clusterDrain),
		}, {
			Name: "verify", Usage: "compare what the nodes have made of the logs",
			Description: help(`Compares the projections of all nodes at one place of the logs: for each its place and a hash of
all that it holds. The exit code is 1, with the names, if one is different or could not be compared.
What is different is damaged: stop that node and start it with --rebuild, which makes it anew from
the logs. All nodes go on working; folding stands still for a moment.`,
				"carillon cluster verify", "carillon cluster verify -o json"),
			Action: action(0, 0, clusterVerify),
		}},
	}
}

// cluster asks how the cluster is, for programs and for people.
func (c *call) cluster(ctx context.Context) (raw []byte, cluster api.Cluster, err error) {
	cl, err := c.client()
	if err != nil {
		return nil, cluster, err
	}
	if raw, err = cl.get(ctx, adminPath+"/cluster", nil); err != nil {
		return nil, cluster, err
	}
	if err := decode(raw, &cluster); err != nil {
		return nil, cluster, fmt.Errorf("the server's answer is not the state of a cluster: %w", err)
	}
	return raw, cluster, nil
}

func clusterStatus(c *call) error {
	raw, cluster, err := c.cluster(c.ctx())
	switch {
	case err != nil:
		return err
	case c.out.form == "csv":
		return c.printPart(raw, "nodes", memberSpec)
	case c.out.form != "table":
		return c.out.raw(raw)
	}
	if err := c.out.object(raw, columns(clusterSpec)); err != nil {
		return err
	}
	for _, t := range []struct{ part, spec string }{{"nodes", memberSpec}, {"streams", streamSpec}, {"partitions", partitionSpec}} {
		fmt.Fprintln(c.App.Writer)
		if err := c.printPart(raw, t.part, t.spec); err != nil {
			return err
		}
	}
	if len(cluster.Problems) > 0 {
		fmt.Fprintln(c.App.Writer)
	}
	for _, p := range cluster.Problems {
		fmt.Fprintln(c.App.Writer, "warning: "+strings.Map(printable, p.String()))
	}
	return nil
}

func clusterMembers(c *call) error {
	raw, _, err := c.cluster(c.ctx())
	if err != nil {
		return err
	}
	return c.printPart(raw, "nodes", memberSpec)
}

// printPart prints a list that is a member of an object, with its numbers and order as they came.
func (c *call) printPart(raw []byte, name, spec string) error {
	list, err := part(raw, name)
	if err != nil {
		return err
	}
	return c.out.list(list, columns(spec))
}

func clusterDrain(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	name, undo := c.Args().First(), c.Bool("undo")
	b, err := cl.send(c.ctx(), adminPath+"/cluster/drain", api.DrainOrder{Node: name, Undo: undo})
	if err != nil {
		return err
	}
	if !undo && c.Duration("wait") > 0 {
		if b, err = c.awaitDrained(name, b); err != nil {
			return err
		}
	}
	return c.out.object(b, columns(memberSpec))
}

// drainPoll is how often a node is asked whether it has given up its work.
const drainPoll = 250 * time.Millisecond

// awaitDrained waits until a node runs nothing any more, and gives its last state. It does not
// wait where every node is draining, since all of them go on then.
func (c *call) awaitDrained(name string, state []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx(), c.Duration("wait"))
	defer cancel()
	for {
		raw, cluster, err := c.cluster(ctx)
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
		left, working := 0, false
		for i, n := range cluster.Nodes {
			working = working || !n.Draining && n.Leased
			if n.Name == name {
				left = len(n.Partitions) + len(n.Lanes)
				if state, err = element(raw, "nodes", i); err != nil {
					return nil, err
				}
			}
		}
		switch {
		case err == nil && left == 0 && len(cluster.Nodes) > 0:
			c.note("node %s has no work any more; it can be stopped", name)
			return state, nil
		case err == nil && !working:
			c.note("no other node can take over the work of %s, so it goes on", name)
			return state, nil
		}
		select {
		case <-ctx.Done():
			return nil, exit(exitFailed, "node %s has not given up all its work after %s; see carillon cluster status", name, c.Duration("wait"))
		case <-time.After(drainPoll):
		}
	}
}

func clusterVerify(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), adminPath+"/cluster/verify", nil)
	if err != nil {
		return err
	}
	var v api.Verification
	if err := decode(b, &v); err != nil {
		return fmt.Errorf("the server's answer is not a comparison: %w", err)
	}
	if c.out.form == "json" || c.out.form == "yaml" {
		err = c.out.raw(b)
	} else {
		err = c.printPart(b, "nodes", verifiedSpec)
	}
	if err != nil {
		return err
	}
	if len(v.Left) > 0 {
		c.note("not compared: %s, since %s", strings.Join(v.Left, ", "), v.Why)
	}
	return verdict(v)
}

// verdict names the nodes that are different, and those that were not compared.
func verdict(v api.Verification) error {
	var lines []string
	for _, n := range v.Nodes {
		switch {
		case n.Error != "":
			lines = append(lines, fmt.Sprintf("node %s was not compared: %s", n.Name, strings.Map(printable, n.Error)))
		case len(n.Differs) > 0:
			lines = append(lines, fmt.Sprintf("node %s differs in %s: stop it, and start it with carillon serve … --rebuild", n.Name, strings.Join(n.Differs, ", ")))
		}
	}
	switch {
	case len(lines) > 0:
		return &exitError{code: exitFailed, err: errors.New(strings.Join(lines, "\n"))}
	case !v.Equal:
		return exit(exitFailed, "the projections are not the same")
	}
	return nil
}

// part is a member of a JSON object, as its text.
func part(raw []byte, name string) (json.RawMessage, error) {
	var o map[string]json.RawMessage
	if err := json.Unmarshal(raw, &o); err != nil || o[name] == nil {
		return nil, fmt.Errorf("the server's answer has no %s", name)
	}
	return o[name], nil
}

// element is one of a list that is a member of a JSON object, as its text.
func element(raw []byte, name string, i int) (json.RawMessage, error) {
	text, err := part(raw, name)
	if err != nil {
		return nil, err
	}
	var items []json.RawMessage
	if err := json.Unmarshal(text, &items); err != nil || i >= len(items) {
		return nil, fmt.Errorf("the server's answer has no list of %s", name)
	}
	return items[i], nil
}
