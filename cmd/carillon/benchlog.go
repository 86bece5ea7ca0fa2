package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/stream"
)

// benchLogCommand is a node's log and nothing else, in a process of its own. bench starts one for
// each node, and speaks to it over stdin and stdout.
func benchLogCommand() *cli.Command {
	return &cli.Command{
		Name: "bench-log", Hidden: true,
		Usage: "the log of a node alone, for bench",
		Description: help(`Runs the embedded server of a node and nothing else, and prints "ready". For the line that
it then reads it publishes its share of the messages to EVENTS, as fast as its writers can, and
prints what that took as JSON. It ends with its standard input.`,
			"carillon bench-log --config cluster.yaml --node n1"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` of the cluster"},
			&cli.StringFlag{Name: "node", Usage: "`NAME` of the node"},
			&cli.IntFlag{Name: "events", Usage: "messages", Value: 1000},
			&cli.IntFlag{Name: "writers", Usage: "callers of the publisher at a time", Value: 1},
			&cli.IntFlag{Name: "size", Usage: "bytes of a message", Value: 1024},
		},
		Action: action(0, 0, benchLog),
	}
}

// published is what a bench-log prints.
type published struct {
	Events  int     `json:"events"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpuSeconds"`
	Error   string  `json:"error,omitempty"` // of the first message that was not stored
}

func benchLog(c *call) error {
	ctx, stop := c.interruptible()
	defer stop()
	cfg, err := loadConfig(c.String("config"), c.String("node"))
	if err != nil {
		return err
	}
	log, _, err := newLogger(c.App.ErrWriter, "warn", "json", true)
	if err != nil {
		return err
	}
	tls := cfg.Cluster.TLS
	s, err := stream.Start(ctx, stream.Config{
		Name: c.String("node"), Cluster: cfg.Cluster.Name, Dir: cfg.Node.Data, Listen: cfg.Node.NATS, Log: log,
		Replicas: cfg.Replicas(), Route: cfg.Node.Route, Routes: cfg.Routes(),
		TLS: &stream.RouteTLS{CA: tls.CA, Cert: tls.Cert, Key: tls.Key},
	})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close(context.WithoutCancel(ctx)) }() // the folder is removed next
	if err := s.Declare(ctx); err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, "ready")
	stdin := bufio.NewReader(c.App.Reader)
	if _, err := stdin.ReadString('\n'); err != nil {
		return nil // it is not needed after all
	}
	result, err := publishAll(ctx, s, c)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(c.App.Writer).Encode(result); err != nil {
		return err
	}
	_, _ = stdin.ReadString('\n') // the others need it until they are done too
	return nil
}

// publishAll publishes the messages and returns when all were answered.
func publishAll(ctx context.Context, s *stream.Server, c *call) (published, error) {
	p, err := stream.NewPublisher(ctx, s, stream.Events, stream.Options{})
	if err != nil {
		return published{}, err
	}
	w := &writes{byID: map[string]written{}}
	began, used := time.Now(), ownCPU()
	each(ctx, c.Int("writers"), c.Int("events"), func(_, i int) {
		id, asked := c.String("node")+"-"+strconv.Itoa(i), time.Now()
		_, err := p.Publish(ctx, stream.Msg{
			Subject: stream.IngestSubject(fhir.Key{Type: "Observation", ID: fhir.ID(id)}),
			Data:    paddedObservation(id, "log", c.Int("size")),
		})
		w.add(id, asked, err)
	})
	result := published{Events: len(w.byID), Seconds: time.Since(began).Seconds(), CPU: ownCPU() - used}
	if w.err != nil {
		result.Error = w.err.Error()
	}
	return result, p.Close(ctx)
}

// ownCPU is what this process has used, in seconds.
func ownCPU() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// barePublishing measures what the log does by itself: as many writers as at full speed, spread
// over as many servers, publish as many messages of the same size.
func (b *benchmark) barePublishing(ctx context.Context) error {
	dir := filepath.Join(b.dir, "log")
	file, names, err := localCluster(dir, b.plan.nodes)
	if err != nil {
		return err
	}
	var logs []*child
	defer func() {
		for _, p := range logs {
			p.end(syscall.SIGKILL, time.Minute) // nothing of it is kept
		}
	}()
	for i, name := range names {
		p := &child{args: []string{
			"bench-log", "--config", file, "--node", name, "--size", strconv.Itoa(b.plan.size),
			"--writers", strconv.Itoa(max(1, share(b.plan.writers, i, len(names)))),
			"--events", strconv.Itoa(share(b.plan.events, i, len(names))),
		}}
		if err := p.start(); err != nil {
			return err
		}
		logs = append(logs, p)
	}
	all, err := publishTogether(ctx, logs)
	if err != nil {
		return err
	}
	b.result.BareRate, b.result.BareCPU = round(float64(all.Events)/all.Seconds), perEvent(all.CPU, all.Events)
	return os.RemoveAll(dir)
}

// publishTogether has the logs publish at the same time and sums up what they did. The slowest
// counts: all of the messages are there only then.
func publishTogether(ctx context.Context, logs []*child) (all published, err error) {
	for _, p := range logs {
		line, err := p.line(ctx, startLimit)
		if err != nil {
			return all, fmt.Errorf("a log did not start: %w", err)
		}
		if line != "ready" {
			return all, fmt.Errorf("a log printed %q instead of that it is ready", line)
		}
	}
	for _, p := range logs {
		if _, err := fmt.Fprintln(p.stdin, "publish"); err != nil {
			return all, err
		}
	}
	for _, p := range logs {
		line, err := p.line(ctx, time.Hour)
		if err != nil {
			return all, err
		}
		var one published
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			return all, fmt.Errorf("a log printed %q: %w", line, err)
		}
		if one.Error != "" {
			return all, errors.New(one.Error)
		}
		all.Events += one.Events
		all.CPU += one.CPU
		all.Seconds = max(all.Seconds, one.Seconds)
	}
	return all, nil
}

// share is the part of n that falls to one of several.
func share(n, one, several int) int {
	s := n / several
	if one < n%several {
		s++
	}
	return s
}
