package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
)

const (
	fhirJSON          = "application/fhir+json"
	subscriptionsPath = adminPath + "/subscriptions"
	subscriptionSpec  = "ID=id STATUS=status CRITERIA=criteria CHANNEL=channel ENDPOINT=endpoint PENDING=pending OLDEST_PENDING=oldestPending DEAD=dead LAST_ERROR=lastError.outcome SENDING=sending"
	statusSpec        = "ID=id STATUS=status PAUSED=paused SENDING=sending REASON=reason CRITERIA=criteria CHANNEL=channel ENDPOINT=endpoint OWNER=owner VERSION=version END=end EVENTS=events SOCKETS=sockets PENDING=pending OLDEST_PENDING=oldestPending DEAD=dead LAST_SUCCESS=lastSuccess LAST_ERROR=lastError.outcome LAST_ERROR_STATUS=lastError.status LAST_ERROR_TIME=lastError.time"
	eventSpec         = "NUMBER=number RESOURCE=resource INTERACTION=interaction TIME=time STATE=state ATTEMPTS=attempts OUTCOME=outcome NOT_BEFORE=notBefore"
)

func subscriptionCommand() *cli.Command {
	file := &cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "`FILE` with the Subscription, - for standard input"}
	limit := &cli.IntFlag{Name: "limit", Usage: "at most so many", Value: 100}
	return &cli.Command{
		Name:    "subscription",
		Aliases: []string{"sub"},
		Usage:   "administer Subscriptions",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "store a Subscription",
				Description: help(`Stores the Subscription of a file. One with an id is stored under it, which changes the one
that is there; without an id the server gives one.`, "carillon subscription create -f subscription.json"),
				Flags: []cli.Flag{file}, Action: action(0, 0, subscriptionCreate),
			},
			{
				Name: "check", Usage: "tell what the server would say to a Subscription",
				Description: help(`Asks whether a Subscription would be accepted, and in what it would mean something else than on the
server that it was written for. Nothing is stored. The file may hold a Bundle, or one resource a line, too. The exit code is 0 if all would
be accepted, else 2.`,
					"carillon subscription check -f subscription.json"),
				Flags: []cli.Flag{file, fromFlag()}, Action: action(0, 0, subscriptionCheck),
			},
			importCommand(),
			{
				Name: "test", Usage: "send one notification that is marked as a test", ArgsUsage: "ID [TYPE/ID]",
				Description: help(`Sends a notification about a resource, or about the newest one that matches, through the Subscription's
own channel, and prints how it was answered. It has the header X-Carillon-Test: true and no event number, and is
not tried again. A Subscription that is off or paused can be tried too. The exit code is 0 if it was accepted, else 1.`,
					"carillon subscription test a1", "carillon subscription test a1 Patient/example"),
				Action: action(1, 2, subscriptionTest),
			},
			{
				Name: "list", Usage: "list Subscriptions with backlog and last error",
				Description: help("Lists Subscriptions.", "carillon subscription list", "carillon sub list --status active -o json"),
				Flags:       []cli.Flag{&cli.StringFlag{Name: "status", Usage: "requested, active, error or off alone"}, limit},
				Action:      action(0, 0, subscriptionList),
			},
			{
				Name: "get", Usage: "print a Subscription as it is stored", ArgsUsage: "ID",
				Description: help("Prints the resource.", "carillon subscription get a1"),
				Action:      action(1, 1, subscriptionGet),
			},
			{
				Name: "status", Usage: "print how a Subscription is doing", ArgsUsage: "ID",
				Description: help("Prints status, backlog, last success and last error.", "carillon subscription status a1"),
				Action:      action(1, 1, subscriptionStatus),
			},
			{
				Name: "pause", Usage: "send nothing; what matches waits", ArgsUsage: "ID",
				Description: help("Halts the sending of one Subscription. Matches are kept and wait.", "carillon subscription pause a1"),
				Action:      action(1, 1, subscriptionOrder("pause")),
			},
			{
				Name: "resume", Usage: "send again", ArgsUsage: "ID",
				Description: help("Ends a pause. What has waited is sent.", "carillon subscription resume a1"),
				Action:      action(1, 1, subscriptionOrder("resume")),
			},
			{
				Name: "delete", Usage: "delete a Subscription; what is pending is withdrawn", ArgsUsage: "ID",
				Description: help("Deletes a Subscription. Notifications that are pending are not sent.", "carillon subscription delete a1"),
				Action:      action(1, 1, subscriptionDelete),
			},
			{
				Name: "events", Usage: "list what matched, by event number", ArgsUsage: "ID",
				Description: help("Lists the matches of a Subscription and what became of them.", "carillon subscription events a1 --since 10 --until 20"),
				Flags: []cli.Flag{
					&cli.Uint64Flag{Name: "since", Usage: "from this event number"},
					&cli.Uint64Flag{Name: "until", Usage: "to this event number, included"}, limit,
				},
				Action: action(1, 1, subscriptionEvents),
			},
			secretCommand(),
			{
				Name: "watch", Usage: "follow a Subscription's events", ArgsUsage: "ID",
				Description: help("Prints events as they match and as their state changes, until interrupted.", "carillon subscription watch a1"),
				Flags:       []cli.Flag{&cli.DurationFlag{Name: "every", Usage: "how often to look", Value: time.Second}},
				Action:      action(1, 1, subscriptionWatch),
			},
		},
	}
}

// idArg reads an argument as the id of a resource; Subscription/ID is understood too.
func idArg(s string) (string, error) {
	if k, err := fhir.ParseKey(s); err == nil && k.Type == "Subscription" {
		return string(k.ID), nil
	}
	if !fhir.ID(s).Valid() {
		return "", usage("%q is not an id: 1 to 64 letters, digits, '-' and '.'", s)
	}
	return s, nil
}

// withID gives a command its client and the id that its argument names.
func withID(f func(c *call, cl *client, id string) error) func(*call) error {
	return func(c *call) error {
		id, err := idArg(c.Args().First())
		if err != nil {
			return err
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		return f(c, cl, id)
	}
}

func subscriptionCreate(c *call) error {
	if err := c.need("file"); err != nil {
		return err
	}
	body, err := c.readInput(c.String("file"), 64<<20)
	if err != nil {
		return err
	}
	head, err := readHead(body)
	if err != nil {
		return usage("%s: %v", c.String("file"), err)
	}
	if head.ResourceType != "Subscription" {
		return usage("%s holds a %s, not a Subscription", c.String("file"), first(head.ResourceType, "thing without resourceType"))
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	r := request{method: http.MethodPost, path: "/fhir/Subscription", contentType: fhirJSON, body: body}
	if head.ID != "" {
		if !fhir.ID(head.ID).Valid() {
			return usage("%s: the id is not 1 to 64 letters, digits, '-' and '.'", c.String("file"))
		}
		r.method, r.path = http.MethodPut, "/fhir/Subscription/"+head.ID
	}
	a, err := cl.do(c.ctx(), r)
	if err != nil {
		return err
	}
	if err := a.refusal(); err != nil {
		return err
	}
	for _, w := range a.warnings() {
		c.warn("%s", w)
	}
	return c.out.object(a.body, columns("ID=id STATUS=status CRITERIA=criteria CHANNEL=channel.type"))
}

// resourceHead is what the command line needs to know of a resource.
type resourceHead struct {
	ResourceType string          `json:"resourceType"`
	ID           string          `json:"id"`
	Type         json.RawMessage `json:"type"` // of a Bundle
}

func readHead(body []byte) (resourceHead, error) {
	var h resourceHead
	if err := json.Unmarshal(body, &h); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return h, fmt.Errorf("not JSON at byte %d", syntax.Offset)
		}
		return h, errors.New("not a JSON object that is a resource")
	}
	return h, nil
}

func subscriptionList(c *call) error {
	q := url.Values{"limit": {strconv.Itoa(c.Int("limit"))}}
	if s := c.String("status"); s != "" {
		q.Set("status", s)
	}
	return c.listFrom(subscriptionsPath, q, subscriptionSpec)
}

// listFrom prints a list of the administration API.
func (c *call) listFrom(path string, q url.Values, spec string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.get(c.ctx(), path, q)
	if err != nil {
		return err
	}
	return c.out.list(b, columns(spec))
}

var subscriptionGet = withID(func(c *call, cl *client, id string) error {
	b, err := cl.get(c.ctx(), "/fhir/Subscription/"+id, nil)
	if err != nil {
		return err
	}
	if c.out.form == "table" {
		c.out.form = "json" // a resource has no columns
	}
	return c.out.object(b, columns("ID=id STATUS=status CRITERIA=criteria"))
})

var subscriptionStatus = withID(func(c *call, cl *client, id string) error {
	b, err := cl.get(c.ctx(), subscriptionsPath+"/"+id, nil)
	if err != nil {
		return err
	}
	return c.out.object(b, columns(statusSpec))
})

func subscriptionOrder(order string) func(*call) error {
	return withID(func(c *call, cl *client, id string) error {
		b, err := cl.send(c.ctx(), subscriptionsPath+"/"+id+"/"+order, nil)
		if err != nil {
			return err
		}
		return c.out.object(b, columns(statusSpec))
	})
}

var subscriptionDelete = withID(func(c *call, cl *client, id string) error {
	// The server answers a delete of what never was with success, as FHIR has it; who types an
	// id that does not exist wants to know.
	if _, err := cl.get(c.ctx(), "/fhir/Subscription/"+id, nil); err != nil {
		return err
	}
	if _, err := cl.ask(c.ctx(), request{method: http.MethodDelete, path: "/fhir/Subscription/" + id}); err != nil {
		return err
	}
	c.note("deleted Subscription/%s", id)
	return nil
})

var subscriptionEvents = withID(func(c *call, cl *client, id string) error {
	q := url.Values{"limit": {strconv.Itoa(c.Int("limit"))}}
	for _, name := range []string{"since", "until"} {
		if n := c.Uint64(name); n > 0 {
			q.Set(name, strconv.FormatUint(n, 10))
		}
	}
	b, err := cl.get(c.ctx(), subscriptionsPath+"/"+id+"/events", q)
	if err != nil {
		return err
	}
	return c.out.list(b, columns(eventSpec))
})

// subscriptionWatch looks again and again, from the lowest event that was still pending.
var subscriptionWatch = withID(func(c *call, cl *client, id string) error {
	ctx, stop := c.interruptible()
	defer stop()
	w := watcher{seen: map[string]string{}}
	tick := time.NewTicker(max(c.Duration("every"), 50*time.Millisecond))
	defer tick.Stop()
	if err := w.start(ctx, cl, id); err != nil {
		return err
	}
	for {
		if err := w.look(ctx, c, cl, id); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
})

// watcher remembers what was printed of the events from number from on.
type watcher struct {
	from uint64
	seen map[string]string // number → state and attempts
}

// watchWindow bounds how far behind the newest event a pending one is still watched.
const watchWindow = 1000

// start begins behind the newest event: watch shows what happens from now on.
func (w *watcher) start(ctx context.Context, cl *client, id string) error {
	b, err := cl.get(ctx, subscriptionsPath+"/"+id, nil)
	if err != nil {
		return err
	}
	var s struct {
		Events uint64 `json:"events"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("the server's answer is not the status of a Subscription: %w", err)
	}
	w.from = s.Events + 1
	return nil
}

func (w *watcher) look(ctx context.Context, c *call, cl *client, id string) error {
	q := url.Values{"since": {strconv.FormatUint(w.from, 10)}, "limit": {strconv.Itoa(watchWindow)}}
	b, err := cl.get(ctx, subscriptionsPath+"/"+id+"/events", q)
	if err != nil {
		return err
	}
	var events []json.RawMessage
	if err := json.Unmarshal(b, &events); err != nil {
		return fmt.Errorf("the server's answer is not a list of events: %w", err)
	}
	next, settled := w.from, true
	for _, raw := range events {
		var e map[string]any
		if err := decode(raw, &e); err != nil {
			return fmt.Errorf("the server's answer is not a list of events: %w", err)
		}
		number, state := text(e, "number"), text(e, "state")+" "+text(e, "attempts")
		if w.seen[number] != state {
			w.seen[number] = state
			if err := c.printEvent(raw, e); err != nil {
				return err
			}
		}
		// Everything up to the first pending event is done with, and so is what would make
		// the window run full.
		settled = settled && text(e, "state") != "pending" || len(events) == watchWindow
		if n, err := strconv.ParseUint(number, 10, 64); err == nil && settled {
			delete(w.seen, number)
			next = n + 1
		}
	}
	w.from = next
	return nil
}

func (c *call) printEvent(raw []byte, e map[string]any) error {
	if c.out.form == "json" {
		_, err := fmt.Fprintf(c.App.Writer, "%s\n", raw)
		return err
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s  %s  %s  %s  %s attempts=%s %s\n",
		text(e, "time"), text(e, "number"), text(e, "resource"), text(e, "interaction"), text(e, "state"), text(e, "attempts"), text(e, "outcome"))
	return err
}
