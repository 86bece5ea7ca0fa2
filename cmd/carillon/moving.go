package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// Subscriptions of another server are looked at, and taken over, one by one: what is wrong with one
// of them does not keep the others.

const (
	movingLimit = 256 << 20 // bytes of a file, or of one page
	movingPages = 10_000
	movingWait  = 2 * time.Minute // for a page of the other server
)

// judgement says what the server makes of a Subscription.
type judgement struct {
	ID      string   `json:"id,omitempty"`
	Verdict string   `json:"verdict"`         // accepted, changed or refused
	Done    string   `json:"done,omitempty"`  // created, replaced, unchanged, or exists
	Notes   []string `json:"notes"`           // why it is refused, or what it means otherwise here
	Entry   string   `json:"entry,omitempty"` // where it stood, if it has no id
}

// The verdicts.
const (
	verdictAccepted = "accepted" // it means here what it meant there
	verdictChanged  = "changed"  // it is accepted, and something of it has another meaning
	verdictRefused  = "refused"
)

func fromFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "from", Usage: "the product that they were written for, `hapi` (and Smile CDR) or medplum; else judged by their extensions"}
}

func importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "take over the Subscriptions of another server", ArgsUsage: "FILE|URL",
		Description: help(`Reads Subscriptions from a file (one resource, a Bundle, or NDJSON; - for standard input) or from the
answer to a search on another server, with its further pages, and stores each under its own id. Of each it says
whether it is accepted, accepted with another meaning (and which), or refused (and why). One whose id
exists here already is left alone unless --replace is given. Nothing is taken from the other server but the
Subscriptions themselves: switch them off there before both send. The exit code is 2 if one was refused.`,
			"carillon subscription import --dry-run 'https://old.example.org/fhir/Subscription?status=active'",
			"carillon subscription import --from hapi --off subscriptions.json"),
		Flags: []cli.Flag{
			fromFlag(),
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would happen and store nothing"},
			&cli.BoolFlag{Name: "off", Usage: "store them with status off; without it they are as they were"},
			&cli.BoolFlag{Name: "replace", Usage: "replace those that exist here already"},
			&cli.StringSliceFlag{Name: "header", Usage: "`NAME: VALUE` that is sent to the other server, such as Authorization"},
		},
		Action: action(1, 1, subscriptionImport),
	}
}

func subscriptionImport(c *call) error {
	all, err := c.readSubscriptions(c.Args().First())
	if err != nil {
		return err
	}
	return c.judge(all, !c.Bool("dry-run"))
}

// subscriptionCheck tells what the server would say, and stores nothing.
func subscriptionCheck(c *call) error {
	if err := c.need("file"); err != nil {
		return err
	}
	all, err := c.readSubscriptions(c.String("file"))
	if err != nil {
		return err
	}
	return c.judge(all, false)
}

// judge asks the server about each Subscription, stores those that it accepts where that is wanted, and
// prints what it said.
func (c *call) judge(all []json.RawMessage, store bool) error {
	switch c.String("from") {
	case "", string(fhir.OriginHAPI), string(fhir.OriginMedplum):
	default:
		return usage("--from %q is not hapi or medplum", c.String("from"))
	}
	if len(all) == 0 {
		return exit(exitNotFound, "there is no Subscription in it")
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	verdicts := make([]judgement, 0, len(all))
	counts := map[string]int{}
	for i, body := range all {
		v, err := c.judgeOne(cl, body, store)
		if err != nil {
			if len(verdicts) > 0 {
				_ = c.printVerdicts(verdicts)
			}
			return err
		}
		if v.ID == "" {
			v.Entry = fmt.Sprintf("number %d", i+1)
		}
		verdicts = append(verdicts, v)
		counts[v.Verdict]++
	}
	if err := c.printVerdicts(verdicts); err != nil {
		return err
	}
	if len(all) > 1 {
		c.note("%d accepted, %d of them with another meaning, %d refused", counts[verdictAccepted]+counts[verdictChanged], counts[verdictChanged], counts[verdictRefused])
	}
	if counts[verdictRefused] > 0 {
		return &exitError{code: exitUsage}
	}
	return nil
}

func (c *call) judgeOne(cl *client, body json.RawMessage, store bool) (judgement, error) {
	head, err := readHead(body)
	if err != nil {
		return judgement{Verdict: verdictRefused, Notes: []string{err.Error()}}, nil
	}
	v := judgement{ID: head.ID, Notes: []string{}}
	if c.Bool("off") {
		if body, err = fhirjson.SetString(body, "status", string(fhir.StatusOff)); err != nil {
			return judgement{ID: head.ID, Verdict: verdictRefused, Notes: []string{err.Error()}}, nil
		}
	}
	q := url.Values{}
	if from := c.String("from"); from != "" {
		q.Set("from", from)
	}
	a, err := cl.do(c.ctx(), request{method: http.MethodPost, path: "/fhir/Subscription/$validate", query: q, contentType: fhirJSON, body: body})
	if err != nil {
		return v, err
	}
	if a.status >= 300 && statusExit(a.status) != exitUsage {
		return v, a.refusal()
	}
	v.Verdict, v.Notes = a.judged()
	if !store || v.Verdict == verdictRefused {
		return v, nil
	}
	return c.storeOne(cl, v, body)
}

// judged reads the answer of $validate.
func (a answer) judged() (string, []string) {
	var o operationOutcome
	if json.Unmarshal(a.body, &o) != nil || o.ResourceType != "OperationOutcome" {
		return verdictRefused, []string{fmt.Sprintf("the server answered %d", a.status)}
	}
	word, notes, errs := verdictAccepted, []string{}, []string{}
	for i, is := range o.Issue {
		text := strings.Map(printable, first(is.Diagnostics, is.Details.Text, is.Code))
		if len(is.Expression) > 0 {
			text = strings.Join(is.Expression, ", ") + ": " + text
		}
		switch is.Severity {
		case "error", "fatal":
			errs = append(errs, text)
		case "warning":
			notes = append(notes, "warning: "+text)
		default:
			if i == 0 {
				continue // that it would be accepted
			}
			word = verdictChanged
			notes = append(notes, text)
		}
	}
	if len(errs) > 0 || a.status >= 300 {
		return verdictRefused, append(errs, slices.DeleteFunc(notes, func(s string) bool { return !strings.HasPrefix(s, "warning: ") })...)
	}
	return word, notes
}

// storeOne stores a Subscription that would be accepted, under its id where it has one.
func (c *call) storeOne(cl *client, v judgement, body []byte) (judgement, error) {
	r := request{method: http.MethodPost, path: "/fhir/Subscription", contentType: fhirJSON, body: body}
	if v.ID != "" {
		r.method, r.path, r.create = http.MethodPut, "/fhir/Subscription/"+v.ID, !c.Bool("replace")
	}
	a, err := cl.do(c.ctx(), r)
	switch {
	case err != nil:
		return v, err
	case a.status == http.StatusCreated:
		v.Done = "created"
		if head, err := readHead(a.body); err == nil {
			v.ID = head.ID
		}
	case a.status == http.StatusPreconditionFailed && r.create:
		v.Done = "exists"
		v.Notes = append(v.Notes, "there is one with this id here, which was left as it is; --replace replaces it")
	case a.status < 300:
		v.Done = "replaced"
	case statusExit(a.status) == exitUsage:
		v.Verdict, v.Notes = verdictRefused, []string{first(a.outcome(), fmt.Sprintf("the server answered %d", a.status))}
	default:
		return v, a.refusal()
	}
	return v, nil
}

func (c *call) printVerdicts(vs []judgement) error {
	if c.out.form != "table" {
		b, err := json.Marshal(vs)
		if err != nil {
			return err
		}
		return c.out.list(b, columns("ID=id VERDICT=verdict DONE=done NOTES=notes"))
	}
	var b strings.Builder
	for _, v := range vs {
		line := first(v.ID, v.Entry) + "  " + v.Verdict
		if v.Done != "" {
			line += "  " + v.Done
		}
		fmt.Fprintln(&b, oneLine(line))
		for _, n := range v.Notes {
			fmt.Fprintln(&b, "    "+oneLine(n))
		}
	}
	_, err := io.WriteString(c.App.Writer, b.String())
	return err
}

// readSubscriptions reads those of a file, or of a search on another server.
func (c *call) readSubscriptions(from string) ([]json.RawMessage, error) {
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		return c.fetchSubscriptions(from)
	}
	body, err := c.readInput(from, movingLimit)
	if err != nil {
		return nil, err
	}
	var all []json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(body))
	for n := 1; ; n++ {
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, usage("%s: resource %d cannot be read as JSON: %v", from, n, err)
		}
		some, next, err := subscriptionsIn(raw)
		if err != nil {
			return nil, usage("%s: resource %d %v", from, n, err)
		}
		if next != "" {
			c.warn("%s: resource %d is one page of a search that goes on; its further pages are read only if they are in the file too", from, n)
		}
		all = append(all, some...)
	}
}

// subscriptionsIn gives the Subscriptions of a resource, and where a Bundle goes on.
func subscriptionsIn(raw []byte) (all []json.RawMessage, next string, err error) {
	var b struct {
		ResourceType string `json:"resourceType"`
		Link         []struct {
			Relation string `json:"relation"`
			URL      string `json:"url"`
		} `json:"link"`
		Entry []struct {
			Resource json.RawMessage `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, "", errors.New("is no JSON object that is a resource")
	}
	switch b.ResourceType {
	case "Subscription":
		return []json.RawMessage{raw}, "", nil
	case "Bundle":
	default:
		return nil, "", fmt.Errorf("is a %s, not a Subscription or a Bundle of them", first(b.ResourceType, "thing without resourceType"))
	}
	for _, e := range b.Entry {
		var kind struct { // of one whose rest cannot be read it is said which it is
			ResourceType string `json:"resourceType"`
		}
		if json.Unmarshal(e.Resource, &kind) == nil && kind.ResourceType == "Subscription" {
			all = append(all, e.Resource)
		}
	}
	for _, l := range b.Link {
		if l.Relation == "next" {
			next = l.URL
		}
	}
	return all, next, nil
}

// fetchSubscriptions reads the pages of a search.
func (c *call) fetchSubscriptions(from string) ([]json.RawMessage, error) {
	start, err := url.Parse(from)
	if err != nil || start.Host == "" {
		return nil, usage("%q is not a URL such as https://old.example.org/fhir/Subscription?status=active", from)
	}
	var header []([2]string)
	for _, line := range c.StringSlice("header") {
		name, value, ok := fhir.SplitHeader(line)
		if !ok || name == "" {
			return nil, usage("--header needs NAME: VALUE")
		}
		header = append(header, [2]string{name, value})
	}
	var all []json.RawMessage
	seen := map[string]bool{}
	for at := start; at != nil; {
		if seen[at.String()] || len(seen) == movingPages {
			return nil, exit(exitFailed, "the pages of %s do not end", start.Host)
		}
		seen[at.String()] = true
		page, err := fetchPage(c.ctx(), at, start.Host, header)
		if err != nil {
			return nil, err
		}
		some, next, err := subscriptionsIn(page)
		if err != nil {
			return nil, exit(exitFailed, "the answer of %s %v", at.Host, err)
		}
		if all = append(all, some...); next == "" {
			return all, nil
		}
		if at, err = at.Parse(next); err != nil || at.Scheme != start.Scheme || at.Host != start.Host {
			return nil, exit(exitFailed, "the next page of %s is on another server, which is not followed; save the search result to a file and import that", start.Host)
		}
	}
	return all, nil
}

func fetchPage(ctx context.Context, at *url.URL, host string, header [][2]string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, movingWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, usage("%s: %v", host, err)
	}
	req.Header.Set("Accept", fhirJSON)
	req.Header.Set("User-Agent", "carillon/"+version())
	for _, h := range header {
		req.Header.Set(h[0], h[1])
	}
	cl := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := cl.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, exit(exitUnreachable, "%s cannot be reached: %v", host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, movingLimit+1))
	switch {
	case err != nil:
		return nil, exit(exitUnreachable, "%s: %v", host, err)
	case len(body) > movingLimit:
		return nil, exit(exitFailed, "a page of %s is larger than %d MiB; ask for fewer with _count", host, movingLimit>>20)
	case resp.StatusCode != http.StatusOK:
		return nil, exit(statusExit(resp.StatusCode), "%s answered %s", host, resp.Status)
	}
	return body, nil
}

// subscriptionTest sends a test notification.
func subscriptionTest(c *call) error {
	id, err := idArg(c.Args().First())
	if err != nil {
		return err
	}
	var body any
	if about := c.Args().Get(1); about != "" {
		key, err := fhir.ParseKey(about)
		if err != nil {
			return usage("%v", err)
		}
		body = map[string]string{"resource": key.String()}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), subscriptionsPath+"/"+id+"/test", body)
	if err != nil {
		return err
	}
	if err := c.out.object(b, columns(testSpec)); err != nil {
		return err
	}
	var res struct {
		Outcome string `json:"outcome"`
		Example bool   `json:"example"`
		Matches *bool  `json:"matches"`
	}
	if err := json.Unmarshal(b, &res); err != nil {
		return fmt.Errorf("the server's answer is not the result of a test: %w", err)
	}
	switch {
	case res.Example:
		c.note("no resource here matches, so an example was sent")
	case res.Matches != nil && !*res.Matches:
		c.note("the Subscription does not match this resource; it was sent all the same")
	}
	if res.Outcome != "accepted" {
		return &exitError{code: exitFailed}
	}
	return nil
}

const testSpec = "SUBSCRIPTION=subscription STATUS=status RESOURCE=resource EXAMPLE=example MATCHES=matches WEBHOOK_ID=webhookId OUTCOME=outcome HTTP_STATUS=httpStatus TOOK_MS=tookMs RESPONSE=response ERROR=error"
