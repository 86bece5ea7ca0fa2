package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
)

const (
	jobsPath = adminPath + "/jobs"
	jobsSpec = "ID=id KIND=kind STATE=state SUBSCRIPTION=subscription DONE=done SKIPPED=skipped TOTAL=total SENT=sent CREATED=created"
	jobSpec  = "ID=id KIND=kind STATE=state SUBSCRIPTION=subscription BY=by CREATED=created STARTED=started ENDED=ended DONE=done SKIPPED=skipped TOTAL=total SENT=sent PER_SECOND=perSecond ERROR=error"
)

func jobsCommand() *cli.Command {
	return &cli.Command{
		Name:  "jobs",
		Usage: "work that goes on for a while: replays, purges, triggers",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list jobs, newest first",
				Description: help("Lists jobs that go on, and those that ended lately.", "carillon jobs list", "carillon jobs list --state running"),
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "state", Usage: "in this `STATE` alone: queued, running, done, cancelled or failed"},
					&cli.StringFlag{Name: "kind", Usage: "of this `KIND` alone: replay, purge, expire or trigger"},
					&cli.IntFlag{Name: "limit", Usage: "at most so many", Value: 100},
				},
				Action: action(0, 0, func(c *call) error {
					q, err := c.filters([]string{"state", "kind"}, nil)
					if err != nil {
						return err
					}
					return c.listFrom(jobsPath, q, jobsSpec)
				}),
			},
			{
				Name: "show", Usage: "print a job, and what was ordered", ArgsUsage: "ID",
				Description: help("Prints how far a job is. With -o json or yaml also what was ordered.", "carillon jobs show k3v9x0aq2m1c"),
				Action: action(1, 1, func(c *call) error {
					cl, err := c.client()
					if err != nil {
						return err
					}
					b, err := cl.get(c.ctx(), jobsPath+"/"+url.PathEscape(c.Args().First()), nil)
					if err != nil {
						return err
					}
					return c.out.object(b, columns(jobSpec))
				}),
			},
			{
				Name: "cancel", Usage: "end a job; what it did stays done", ArgsUsage: "ID",
				Description: help("Ends a job. What it did so far stays done: what it made pending is sent.", "carillon jobs cancel k3v9x0aq2m1c"),
				Action: action(1, 1, func(c *call) error {
					cl, err := c.client()
					if err != nil {
						return err
					}
					b, err := cl.send(c.ctx(), jobsPath+"/"+url.PathEscape(c.Args().First())+"/cancel", nil)
					if err != nil {
						return err
					}
					return c.out.object(b, columns(jobSpec))
				}),
			},
		},
	}
}

func triggerCommand() *cli.Command {
	return &cli.Command{
		Name:      "trigger",
		Usage:     "send resources to a Subscription as if they had just been updated",
		ArgsUsage: "SUBSCRIPTION",
		Description: help(`Matches the resources named and those that the searches find, and sends those that meet the
Subscription's criteria. A _count in a search caps how many it finds. It is a job: it goes on when the
command is interrupted, and after a restart of the server.`,
			"carillon trigger a1 --resource Patient/example",
			"carillon trigger a1 --search 'Patient?active=true' --search 'Patient?gender=female&_count=10' --rate 50",
			"carillon trigger a1 --search 'Patient?active=true' --dry-run"),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "resource", Usage: "this `TYPE/ID`; may be given several times"},
			&cli.StringSliceFlag{Name: "search", Usage: "what this search finds, `'TYPE?…'`; may be given several times"},
			&cli.BoolFlag{Name: "dry-run", Usage: "count what would be sent"},
			&cli.IntFlag{Name: "rate", Usage: "at most so many resources a second"},
			noWaitFlag(),
		},
		Action: action(1, 1, trigger),
	}
}

func noWaitFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-wait", Usage: "order it and leave; carillon jobs tells how far it is"}
}

func trigger(c *call) error {
	id, err := idArg(c.Args().First())
	if err != nil {
		return err
	}
	order := struct {
		Subscription string   `json:"subscription"`
		Resources    []string `json:"resources,omitempty"`
		Searches     []string `json:"searches,omitempty"`
		DryRun       bool     `json:"dryRun,omitempty"`
		Rate         int      `json:"rate,omitempty"`
	}{id, c.StringSlice("resource"), c.StringSlice("search"), c.Bool("dry-run"), c.Int("rate")}
	switch {
	case len(order.Resources)+len(order.Searches) == 0:
		return usage("%s needs what to send: --resource TYPE/ID or --search 'TYPE?…'", c.Command.HelpName)
	case order.Rate < 0:
		return usage("--rate %d is below 0", order.Rate)
	}
	for _, r := range order.Resources {
		if _, err := fhir.ParseKey(r); err != nil {
			return usage("--resource: %v", err)
		}
	}
	for _, s := range order.Searches {
		if !strings.Contains(s, "?") {
			return usage("--search %q has no question mark; it is of the form TYPE?parameters", s)
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), adminPath+"/trigger", order)
	if err != nil {
		return err
	}
	return c.finish(cl, b)
}

// jobAnswer is as much of a job as waiting for it needs.
type jobAnswer struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Done    int64  `json:"done"`
	Skipped int64  `json:"skipped"`
	Total   int64  `json:"total"`
	Error   string `json:"error"`
}

func (j jobAnswer) ended() bool {
	return j.State == "done" || j.State == "cancelled" || j.State == "failed"
}

// finish waits for the job that a server's answer shows, unless it is not to be waited for, and
// prints it. The exit code tells whether all of it was done.
func (c *call) finish(cl *client, b []byte) error {
	var job jobAnswer
	if err := decode(b, &job); err != nil || job.ID == "" {
		return fmt.Errorf("the server's answer is no job: %w", err)
	}
	if !c.Bool("no-wait") && !job.ended() {
		var err error
		if b, job, err = c.follow(cl, job); err != nil {
			return err
		}
	}
	if err := c.out.object(b, columns(jobSpec)); err != nil {
		return err
	}
	switch job.State {
	case "failed":
		return exit(exitFailed, "job %s failed: %s", job.ID, strings.Map(printable, job.Error))
	case "cancelled":
		return exit(exitFailed, "job %s was cancelled after %d", job.ID, job.Done)
	}
	return nil
}

// Waiting for a job: it is asked about at growing intervals, and a server that cannot be reached is
// given time to start again, since the job goes on with it.
const (
	firstLook  = 50 * time.Millisecond
	lastLook   = time.Second
	awayAtMost = time.Minute
)

func (c *call) follow(cl *client, job jobAnswer) (b []byte, _ jobAnswer, err error) {
	ctx, stop := c.interruptible()
	defer stop()
	m := c.newCountMeter("job "+job.ID, job.Total)
	defer m.close()
	goesOn := func(err error) error {
		m.close()
		c.warn("job %s goes on; carillon jobs show %s tells how far it is, carillon jobs cancel %s ends it", job.ID, job.ID, job.ID)
		return err
	}
	var away time.Time // since when there was no answer
	for every := firstLook; !job.ended(); every = min(every*3/2, lastLook) {
		if !wait(ctx, every) {
			return nil, job, goesOn(exit(exitFailed, "interrupted"))
		}
		now := jobAnswer{}
		b, err = cl.get(ctx, jobsPath+"/"+url.PathEscape(job.ID), nil)
		if err == nil {
			err = decode(b, &now)
		}
		var e *exitError
		switch {
		case err == nil:
			job, away = now, time.Time{}
			m.set(job.Done+job.Skipped, fmt.Sprintf("%s, %d done, %d skipped%s", job.State, job.Done, job.Skipped, ofTotal(job.Total)))
		case ctx.Err() != nil:
			return nil, job, goesOn(exit(exitFailed, "interrupted"))
		case !errors.As(err, &e) || e.code != exitUnreachable && e.code != exitFailed:
			return nil, job, goesOn(err)
		case away.IsZero():
			away = time.Now()
		case time.Since(away) > awayAtMost:
			return nil, job, goesOn(err)
		}
	}
	return b, job, nil
}

func ofTotal(total int64) string {
	if total == 0 {
		return ""
	}
	return fmt.Sprintf(" of %d", total)
}

// wait waits, and reports whether ctx is still there.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// newCountMeter begins to show work of a total of things; 0 if that is unknown.
func (c *call) newCountMeter(what string, total int64) meter {
	if c.Bool("quiet") || !isTerminal(c.App.ErrWriter) {
		return c.newMeter(what, total)
	}
	return newBar(c.App.ErrWriter, what, total, progress.UnitsDefault)
}
