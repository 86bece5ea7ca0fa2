package main

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

const (
	dlqPath     = adminPath + "/dlq"
	dlqSpec     = "ID=id RESOURCE=resource REASON=reason ATTEMPTS=attempts LAST_FAILURE=lastFailure ENDPOINT=endpoint STATE=state KIND=kind"
	letterSpec  = "ID=id SUBSCRIPTION=subscription NUMBER=number EVENT=event RESOURCE=resource KIND=kind REASON=reason ATTEMPTS=attempts FIRST_FAILURE=firstFailure LAST_FAILURE=lastFailure ENDPOINT=endpoint STATE=state CONTENT_TYPE=contentType"
	doneSpec    = "COUNT=count JOB=job DRY_RUN=dryRun"
	attemptSpec = "TIME=time SUBSCRIPTION=subscription NUMBER=number RESOURCE=resource ATTEMPT=attempt OUTCOME=outcome STATUS=status TOOK_MS=tookMs NOT_BEFORE=notBefore"
)

func dlqCommand() *cli.Command {
	subscription := &cli.StringFlag{Name: "subscription", Usage: "of this `ID` alone"}
	since := &cli.StringFlag{Name: "since", Usage: "not older than this `TIME`: RFC 3339, a date, or an age such as 2h"}
	until := &cli.StringFlag{Name: "until", Usage: "older than this `TIME`"}
	reason := &cli.StringFlag{Name: "reason", Usage: "with this outcome `CODE`, such as http_status"}
	kind := &cli.StringFlag{Name: "kind", Usage: "endpoint: what an endpoint did not take; pipeline: what could not be evaluated or rendered here"}
	dryRun := &cli.BoolFlag{Name: "dry-run", Usage: "count them alone"}
	rate := &cli.IntFlag{Name: "rate", Usage: "at most so many a second"}
	selection := []cli.Flag{subscription, since, until, reason, kind, dryRun, rate, noWaitFlag()}
	return &cli.Command{
		Name:  "dlq",
		Usage: "dead letters: notifications that were given up",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list dead letters, newest first",
				Description: help("Lists dead letters.", "carillon dlq list", "carillon dlq list --subscription a1 --since 24h --reason http_status"),
				Flags:       []cli.Flag{subscription, since, until, reason, kind, &cli.IntFlag{Name: "limit", Usage: "at most so many", Value: 100}},
				Action:      action(0, 0, dlqList),
			},
			{
				Name: "show", Usage: "print a dead letter with its notification", ArgsUsage: "ID",
				Description: help("Prints a dead letter and the notification that was not accepted.", "carillon dlq show a1.17"),
				Action:      action(1, 1, dlqShow),
			},
			{
				Name: "replay", Usage: "send dead letters again", ArgsUsage: "[ID…]",
				Description: help(`Makes dead letters pending again, with their old event number and a new round of attempts:
those named, or all that the flags choose, oldest first. It is a job: it goes on when the command is
interrupted, and after a restart of the server. Letters of a Subscription that is off or was deleted
are skipped.`,
					"carillon dlq replay a1.17 a1.18",
					"carillon dlq replay --subscription a1 --since 24h --dry-run",
					"carillon dlq replay --reason timeout --since 2h --rate 100"),
				Flags:  selection,
				Action: action(0, -1, dlqOrder("replay")),
			},
			{
				Name: "purge", Usage: "remove dead letters for good", ArgsUsage: "[ID…]",
				Description: help("Removes dead letters with the notifications in them: those named, or all that the flags choose. It is a job.",
					"carillon dlq purge a1.17",
					"carillon dlq purge --until 720h --dry-run"),
				Flags:  selection,
				Action: action(0, -1, dlqOrder("purge")),
			},
		},
	}
}

// timeArg reads a point in time: RFC 3339, a date, or an age such as 2h.
func timeArg(flag, s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d).UTC().Truncate(time.Second), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, usage("--%s %q is not a time such as 2026-01-31T08:00:00Z, a date, or an age such as 2h", flag, s)
}

// filters reads the flags that choose by Subscription, time and code into a query.
func (c *call) filters(texts, times []string) (url.Values, error) {
	q := url.Values{}
	for _, name := range texts {
		if v := c.String(name); v != "" {
			q.Set(name, v)
		}
	}
	for _, name := range times {
		if v := c.String(name); v != "" {
			t, err := timeArg(name, v, time.Now())
			if err != nil {
				return nil, err
			}
			q.Set(name, t.Format(time.RFC3339))
		}
	}
	if c.IsSet("limit") {
		q.Set("limit", strconv.Itoa(c.Int("limit")))
	}
	return q, nil
}

// outcomeCodes are the codes that an attempt or a dead letter may have.
var outcomeCodes = []string{
	string(record.Accepted), string(record.HTTPStatus), string(record.Timeout), string(record.DNSError),
	string(record.ConnectionRefused), string(record.ConnectionReset), string(record.TLSError), string(record.BlockedAddress),
	string(record.Redirect), string(record.ResponseTooLarge), string(record.Gone), string(record.RateLimited),
	string(record.BreakerOpen), string(record.ProxyError), string(record.AuthError), string(record.SMTPError), string(record.PublishError),
	string(record.RenderError), string(record.Expired), string(record.Withdrawn), string(record.Skipped),
}

// outcomeCode checks a flag that chooses by code: a misspelt one would find nothing, which looks
// like good news. The reason of an event that could not be matched is no code but a sentence.
func (c *call) outcomeCode(flag string) error {
	v := c.String(flag)
	if v == "" && !c.IsSet(flag) || slices.Contains(outcomeCodes, v) || flag == "reason" && strings.Contains(v, " ") {
		return nil
	}
	return usage("--%s %q is no outcome code%s; these are: %s", flag, v, didYouMean(v, outcomeCodes), strings.Join(outcomeCodes, ", "))
}

func dlqList(c *call) error {
	if err := c.outcomeCode("reason"); err != nil {
		return err
	}
	q, err := c.filters([]string{"subscription", "reason", "kind"}, []string{"since", "until"})
	if err != nil {
		return err
	}
	return c.listFrom(dlqPath, q, dlqSpec)
}

func dlqShow(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.get(c.ctx(), dlqPath+"/"+url.PathEscape(c.Args().First()), nil)
	if err != nil {
		return err
	}
	if err := c.out.object(b, columns(letterSpec)); err != nil || c.out.form != "table" {
		return err
	}
	var letter struct {
		Notification string `json:"notification"`
	}
	if err := decode(b, &letter); err != nil {
		return err
	}
	body, err := base64.StdEncoding.DecodeString(letter.Notification)
	if err != nil {
		return fmt.Errorf("the notification in the server's answer is not base64: %w", err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "\n%s\n", body)
	return err
}

// selection is what replay and purge order.
type selection struct {
	IDs          []string `json:"ids,omitempty"`
	Subscription string   `json:"subscription,omitempty"`
	Since        string   `json:"since,omitempty"`
	Until        string   `json:"until,omitempty"`
	Reason       string   `json:"reason,omitempty"`
	Kind         string   `json:"kind,omitempty"`
	DryRun       bool     `json:"dryRun,omitempty"`
	Rate         int      `json:"rate,omitempty"`
}

func dlqOrder(order string) func(*call) error {
	return func(c *call) error {
		q, err := c.filters([]string{"subscription", "reason", "kind"}, []string{"since", "until"})
		if err != nil {
			return err
		}
		s := selection{
			IDs: c.Args().Slice(), Subscription: q.Get("subscription"), Since: q.Get("since"), Until: q.Get("until"),
			Reason: q.Get("reason"), Kind: q.Get("kind"), DryRun: c.Bool("dry-run"), Rate: c.Int("rate"),
		}
		switch {
		case len(s.IDs) > 0 && len(q) > 0:
			return usage("name dead letters by their ids, or choose them with --subscription and the other flags, not both")
		case len(s.IDs) == 0 && len(q) == 0:
			return usage("%s needs ids of dead letters, or --subscription, --since, --until, --reason or --kind", c.Command.HelpName)
		case s.Rate < 0:
			return usage("--rate %d is below 0", s.Rate)
		}
		if err := c.outcomeCode("reason"); err != nil {
			return err
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		b, err := cl.send(c.ctx(), dlqPath+"/"+order, s)
		if err != nil {
			return err
		}
		var done struct {
			Job string `json:"job"`
		}
		if err := decode(b, &done); err != nil {
			return fmt.Errorf("the server's answer cannot be read: %w", err)
		}
		if done.Job == "" || c.Bool("no-wait") { // a dry run, or there are none
			return c.out.object(b, columns(doneSpec))
		}
		if b, err = cl.get(c.ctx(), jobsPath+"/"+url.PathEscape(done.Job), nil); err != nil {
			return err
		}
		return c.finish(cl, b)
	}
}

func attemptsCommand() *cli.Command {
	return &cli.Command{
		Name:  "attempts",
		Usage: "the troubleshooting log: every attempt with its outcome",
		Description: help("Lists attempts of delivery, newest first.",
			"carillon attempts --subscription a1 --status timeout --since 1h",
			"carillon attempts --resource Patient/example -o csv"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "subscription", Usage: "of this `ID` alone"},
			&cli.StringFlag{Name: "resource", Usage: "of this `TYPE/ID` alone"},
			&cli.StringFlag{Name: "status", Usage: "with this outcome `CODE`, such as accepted or timeout"},
			&cli.StringFlag{Name: "since", Usage: "not older than this `TIME`: RFC 3339, a date, or an age such as 2h"},
			&cli.IntFlag{Name: "limit", Usage: "at most so many", Value: 100},
		},
		Action: action(0, 0, func(c *call) error {
			if err := c.outcomeCode("status"); err != nil {
				return err
			}
			q, err := c.filters([]string{"subscription", "resource", "status"}, []string{"since"})
			if err != nil {
				return err
			}
			if r := q.Get("resource"); r != "" {
				if _, err := fhir.ParseKey(r); err != nil {
					return usage("--resource: %v", err)
				}
			}
			return c.listFrom(adminPath+"/attempts", q, attemptSpec)
		}),
	}
}

func resendCommand() *cli.Command {
	return &cli.Command{
		Name:      "resend",
		Usage:     "match a resource again and send it to those that it matches",
		ArgsUsage: "TYPE/ID",
		Description: help("Takes a stored resource as if it had just changed, for all Subscriptions or for one.",
			"carillon resend Patient/example",
			"carillon resend Patient/example --subscription a1 --interaction create --version 12"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "subscription", Usage: "for this `ID` alone"},
			&cli.StringFlag{Name: "interaction", Usage: "as an update, a create or a delete (default update)"},
			&cli.Uint64Flag{Name: "version", Usage: "this version rather than the current one"},
		},
		Action: action(1, 1, resend),
	}
}

func resend(c *call) error {
	key, err := fhir.ParseKey(c.Args().First())
	if err != nil {
		return usage("%v", err)
	}
	order := struct {
		Resource     string `json:"resource"`
		Version      uint64 `json:"version,omitempty"`
		Interaction  string `json:"interaction,omitempty"`
		Subscription string `json:"subscription,omitempty"`
	}{key.String(), c.Uint64("version"), c.String("interaction"), c.String("subscription")}
	switch order.Interaction {
	case "", "update", "create", "delete":
	default:
		return usage("--interaction %q is not update, create or delete", order.Interaction)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), adminPath+"/resend", order)
	if err != nil {
		return err
	}
	return c.out.object(b, columns(doneSpec))
}

var versionedKey = regexp.MustCompile(`^[A-Z][A-Za-z]*/[A-Za-z0-9.-]{1,64}(@[0-9]+)?$`)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "tell why a Subscription matches a resource, or does not",
		ArgsUsage: "TYPE/ID[@VERSION] | FILE",
		Description: help(`Asks the server condition by condition. The resource is a stored one, or that of a file (- for
standard input). The Subscription is a stored one by its id, or that of a file, which need not be
stored: where there is a file of that name, it is the file. The exit code is 0 if it matches and 1 if
it does not; if that could not be found out it is 2 to 5.`,
			"carillon explain --subscription a1 Patient/example",
			"carillon explain --subscription a1 patient.json",
			"carillon explain --subscription subscription.json patient.json"),
		Flags:  []cli.Flag{&cli.StringFlag{Name: "subscription", Usage: "`ID` of the Subscription, or a file that holds one"}},
		Action: action(1, 1, explain),
	}
}

func explain(c *call) error {
	if err := c.need("subscription"); err != nil {
		return err
	}
	matches, err := askExplain(c)
	switch {
	case err != nil && exitCode(err) == exitFailed:
		return &exitError{code: exitUnreachable, err: err} // 1 would say that it does not match
	case err != nil:
		return err
	case !matches:
		return &exitError{code: exitFailed}
	}
	return nil
}

func askExplain(c *call) (bool, error) {
	question, err := aboutSubscription(c)
	if err != nil {
		return false, err
	}
	if what := c.Args().First(); versionedKey.MatchString(what) {
		question["resource"] = what
	} else {
		body, err := c.readInput(what, 64<<20)
		if err != nil {
			return false, err
		}
		if _, err := readHead(body); err != nil {
			return false, usage("%s: %v", what, err)
		}
		question["body"] = rawJSON(body)
	}
	cl, err := c.client()
	if err != nil {
		return false, err
	}
	b, err := cl.send(c.ctx(), adminPath+"/explain", question)
	if err != nil {
		return false, err
	}
	return printExplanation(c, b)
}

// aboutSubscription begins a question with the Subscription that is asked: that of a file, where
// there is one of that name, else a stored one.
func aboutSubscription(c *call) (map[string]any, error) {
	name := c.String("subscription")
	if info, err := os.Stat(name); err == nil && !info.IsDir() {
		body, err := c.readInput(name, 64<<20)
		if err != nil {
			return nil, err
		}
		head, err := readHead(body)
		switch {
		case err != nil:
			return nil, usage("%s: %v", name, err)
		case head.ResourceType != "Subscription":
			return nil, usage("%s holds a %s, not a Subscription", name, first(head.ResourceType, "thing without resourceType"))
		}
		return map[string]any{"unsaved": rawJSON(body)}, nil
	}
	id, err := idArg(name)
	return map[string]any{"subscription": id}, err
}

// rawJSON goes into a question as it stands.
type rawJSON []byte

// MarshalJSON gives the text itself.
func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

func printExplanation(c *call, b []byte) (bool, error) {
	var e struct {
		Matches    *bool `json:"matches"`
		Conditions []struct {
			Text  string   `json:"text"`
			Met   bool     `json:"met"`
			Note  string   `json:"note"`
			Found []string `json:"found"`
		} `json:"conditions"`
	}
	if err := decode(b, &e); err != nil || e.Matches == nil {
		return false, exit(exitUnreachable, "the server's answer is no explanation")
	}
	if c.out.form != "table" {
		return *e.Matches, c.out.object(b, columns("SUBSCRIPTION=subscription RESOURCE=resource VERSION=version MATCHES=matches"))
	}
	for _, cond := range e.Conditions {
		mark := "no "
		if cond.Met {
			mark = "yes"
		}
		line := mark + "  " + cond.Text
		if cond.Note != "" {
			line += "  (" + cond.Note + ")"
		}
		if len(cond.Found) > 0 {
			line += fmt.Sprintf("  found: %q", cond.Found)
		}
		fmt.Fprintln(c.App.Writer, oneLine(line))
	}
	verdict := "does not match"
	if *e.Matches {
		verdict = "matches"
	}
	_, err := fmt.Fprintln(c.App.Writer, verdict)
	return *e.Matches, err
}
