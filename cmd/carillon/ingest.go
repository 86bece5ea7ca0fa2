package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

const (
	ndjson = "application/fhir+ndjson"
	// maxLine is the longest line that is read at all; the server's own limit is lower.
	maxLine = 64 << 20
	// A chunk is one request to $ingest. The server lists its first 1,000 refusals, so with no
	// more lines than that each one is told.
	chunkLines = 1000
	chunkBytes = 16 << 20
	// patience is how often a server that is busy is asked again for the same chunk.
	patience = 20
)

func ingestCommand() *cli.Command {
	return &cli.Command{
		Name:      "ingest",
		Usage:     "send resources at full speed",
		ArgsUsage: "FILE…|-",
		Description: help(`Sends the resources of files, - for standard input. A line holds a resource, a change
{"interaction","resource","previous"} or a Bundle; a file whose name ends in .json holds one
of these in all. A resource with an id is created or updated, one without an id is created.
Batch and transaction Bundles are sent as such, the entries of other collections one by one,
the oldest first. Of "previous" only the id is used: the server knows the state before from
its own log.

Lines that the server refuses are told with their numbers, and the rest goes on. With
--resume FILE a run that was interrupted goes on where it stopped; lines of its last, unfinished
chunk may be sent again, which changes nothing for resources with an id. The exit code is 0 if
all was accepted, 2 if lines were refused, 1 if it stopped before the end.`,
			"carillon ingest resources.ndjson",
			"carillon ingest resources.ndjson --resume ingest.state"),
		Flags:  []cli.Flag{&cli.StringFlag{Name: "resume", Usage: "`FILE` that remembers how far it got"}},
		Action: action(1, -1, ingest),
	}
}

func ingest(c *call) error {
	if c.String("resume") != "" && slices.Contains(c.Args().Slice(), "-") {
		return usage("--resume needs files; standard input cannot be read again")
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	state, err := readResume(c.String("resume"))
	if err != nil {
		return err
	}
	// A signal is heeded between two chunks: what became of a chunk that is cut off would not
	// be known.
	stopped, stop := c.interruptible()
	defer stop()
	context.AfterFunc(stopped, stop) // the second signal ends the process
	in := &ingester{c: c, cl: cl, resume: state, stopped: stopped, began: time.Now()}
	in.meter = c.newMeter("ingest", totalSize(c.Args().Slice()))
	err = in.files(c.Args().Slice())
	in.meter.close()
	if serr := in.summary(); err == nil {
		err = serr
	}
	if err == nil && in.refused > 0 {
		err = &exitError{code: exitUsage}
	}
	return err
}

// totalSize sums up the files; 0 if one is no plain file, for then the total is unknown.
func totalSize(names []string) int64 {
	var total int64
	for _, name := range names {
		info, err := os.Stat(name)
		if name == "-" || err != nil || !info.Mode().IsRegular() {
			return 0
		}
		total += info.Size()
	}
	return total
}

// place is where a resource stands in the input.
type place struct {
	file  string
	line  int
	entry int // of a Bundle, from 1; 0 for a resource on a line of its own
}

func (p place) String() string {
	s := p.file + ":" + strconv.Itoa(p.line)
	if p.entry > 0 {
		s += " entry " + strconv.Itoa(p.entry)
	}
	return s
}

// ingester sends lines in chunks, one after the other, so that changes of one resource keep
// their order.
type ingester struct {
	c       *call
	cl      *client
	resume  *resumeState
	meter   meter
	stopped context.Context
	began   time.Time

	chunk  bytes.Buffer
	places []place // of the chunk's lines

	bytes             int64 // of the files that are done
	accepted, refused int
	refusals          []refusal // the first of them, for -o json
}

// refusal is a line that was not accepted.
type refusal struct {
	Place string `json:"place"`
	Text  string `json:"text"`
}

func (in *ingester) files(names []string) error {
	for _, name := range names {
		r, err := in.c.open(name)
		if err != nil {
			return err
		}
		var n int64
		if strings.HasSuffix(name, ".json") {
			n, err = in.whole(name, r)
		} else {
			n, err = in.lines(name, r)
		}
		r.Close()
		if err != nil {
			return err
		}
		in.bytes += n
	}
	return nil
}

// whole takes a file that is one JSON text, on however many lines.
func (in *ingester) whole(name string, r io.Reader) (int64, error) {
	if in.resume.done(name) > 0 {
		return 0, nil
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil {
		in.refuse(place{file: name, line: 1}, "not one JSON text; a file of lines should be named .ndjson")
		return int64(len(b)), nil
	}
	if err := in.take(place{file: name, line: 1}, line.Bytes()); err != nil {
		return 0, err
	}
	return int64(len(b)), in.checkpoint(name, 1, int64(len(b)))
}

func (in *ingester) lines(name string, r io.Reader) (int64, error) {
	lines := newLineReader(r, maxLine)
	skip := in.resume.done(name)
	for {
		line, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			if lines.line < skip {
				return 0, usage("%s has %d lines, but %s says that %d of them were sent; it is another file", name, lines.line, in.c.String("resume"), skip)
			}
			return lines.read, in.checkpoint(name, lines.line, lines.read)
		case errors.Is(err, errLineTooLong):
			if lines.line > skip {
				in.refuse(place{file: name, line: lines.line}, fmt.Sprintf("the line is longer than %d MiB", maxLine>>20))
			}
			continue
		case err != nil:
			return 0, fmt.Errorf("read %s: %w", name, err)
		case lines.line <= skip:
			continue
		}
		if err := in.take(place{file: name, line: lines.line}, line); err != nil {
			return 0, err
		}
		if in.full() {
			if err := in.checkpoint(name, lines.line, lines.read); err != nil {
				return 0, err
			}
		}
	}
}

func (in *ingester) full() bool { return len(in.places) >= chunkLines || in.chunk.Len() >= chunkBytes }

// checkpoint sends what is collected and remembers that the file is done up to a line.
func (in *ingester) checkpoint(name string, line int, read int64) error {
	if err := in.flush(); err != nil {
		return err
	}
	in.meter.set(in.bytes+read, in.progress())
	return in.resume.mark(name, line)
}

func (in *ingester) progress() string {
	rate := float64(in.accepted) / time.Since(in.began).Seconds()
	return fmt.Sprintf("%d accepted, %d refused, %.0f/s", in.accepted, in.refused, rate)
}

// inputLine is as much of a line as decides what is done with it.
type inputLine struct {
	ResourceType string          `json:"resourceType"`
	Type         string          `json:"type"`
	Interaction  string          `json:"interaction"`
	Resource     json.RawMessage `json:"resource"`
	Previous     json.RawMessage `json:"previous"`
	Entry        []bundleEntry   `json:"entry"`
}

type bundleEntry struct {
	Resource json.RawMessage `json:"resource"`
	Request  struct {
		Method string `json:"method"`
		URL    string `json:"url"`
	} `json:"request"`
	Response struct {
		Status  string          `json:"status"`
		Outcome json.RawMessage `json:"outcome"`
	} `json:"response"`
}

// take does what one line asks for. What is no JSON of a known form goes to the server as a
// resource, which says what is wrong with it.
func (in *ingester) take(at place, line []byte) error {
	var l inputLine
	if err := json.Unmarshal(line, &l); err != nil {
		l = inputLine{}
	}
	switch {
	case l.ResourceType == "" && (l.Interaction != "" || l.Resource != nil || l.Previous != nil):
		if why := notAChange(line); why != "" {
			in.refuse(at, why)
			return nil
		}
		return in.takeChange(at, l)
	case l.ResourceType != "Bundle":
		return in.add(at, line)
	}
	switch l.Type {
	case "batch", "transaction":
		return in.sendBundle(at, line)
	case "collection", "searchset":
		return in.takeEntries(at, l.Entry, false)
	case "history":
		return in.takeEntries(at, l.Entry, true) // a history is newest first
	}
	return in.add(at, line) // a document or a message is a resource of its own
}

var changeMembers = []string{"interaction", "resource", "previous"}

// notAChange says why a line is no change. A member that is misspelt must not be passed over:
// without its interaction a delete would be taken for an update.
func notAChange(line []byte) string {
	t, err := fhirjson.Parse(line, fhirjson.Limits{Bytes: len(line) + 1, Depth: fhirjson.DefaultDepth + 1})
	if err != nil {
		return "not strict JSON: " + err.Error()
	}
	for m := range t.Children(t.Root()) {
		if name := t.Key(m); !slices.Contains(changeMembers, name) {
			return fmt.Sprintf("a change has the members interaction, resource and previous, not %q%s", name, didYouMean(name, changeMembers))
		}
	}
	return ""
}

func (in *ingester) takeChange(at place, l inputLine) error {
	switch l.Interaction {
	case "", "create", "update":
		if l.Resource == nil {
			in.refuse(at, "a change needs its resource")
			return nil
		}
		return in.add(at, l.Resource)
	case "delete":
		source := l.Resource
		if source == nil {
			source = l.Previous
		}
		h, err := readHead(source)
		key := fhir.Key{Type: h.ResourceType, ID: fhir.ID(h.ID)}
		if err != nil || key.Type == "" || !key.ID.Valid() {
			in.refuse(at, "a delete needs resourceType and id of its resource")
			return nil
		}
		return in.sendDelete(at, key)
	}
	in.refuse(at, fmt.Sprintf("interaction %q is not create, update or delete", l.Interaction))
	return nil
}

func (in *ingester) takeEntries(at place, entries []bundleEntry, backwards bool) error {
	for i := range entries {
		n := i
		if backwards {
			n = len(entries) - 1 - i
		}
		at.entry = n + 1
		if err := in.takeEntry(at, entries[n]); err != nil {
			return err
		}
		if in.full() {
			if err := in.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *ingester) takeEntry(at place, e bundleEntry) error {
	if e.Request.Method == http.MethodDelete {
		key, err := fhir.ParseKey(e.Request.URL)
		if err != nil {
			in.refuse(at, "a deleted entry needs request.url of the form Type/id")
			return nil
		}
		return in.sendDelete(at, key)
	}
	if e.Resource == nil {
		in.refuse(at, "the entry has no resource")
		return nil
	}
	return in.add(at, e.Resource)
}

func (in *ingester) add(at place, resource []byte) error {
	in.chunk.Write(resource)
	in.chunk.WriteByte('\n')
	in.places = append(in.places, at)
	return nil
}

func (in *ingester) refuse(at place, text string) {
	in.refused++
	in.c.warn("%s: %s", at, text)
	if len(in.refusals) < 1000 {
		in.refusals = append(in.refusals, refusal{at.String(), text})
	}
}

// flush sends the chunk, again and again while the server is busy, each time without the lines
// that it has taken already.
func (in *ingester) flush() error {
	for try := 0; len(in.places) > 0; try++ {
		if in.stopped.Err() != nil {
			return exit(exitFailed, "interrupted; %s", in.wayOn())
		}
		a, err := in.cl.do(in.c.ctx(), request{method: http.MethodPost, path: "/fhir/$ingest", contentType: ndjson, body: bytes.Clone(in.chunk.Bytes())}) // a server that answers early leaves the transport reading
		if err != nil {
			return in.cannot(err)
		}
		if a.status == http.StatusOK {
			in.settle(len(in.places), a.issues())
			return nil
		}
		taken := in.settle(lastAccepted(a), a.issues())
		switch a.status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		default:
			return in.cannot(a.refusal())
		}
		if taken > 0 {
			try = 0
		}
		if try == patience {
			return in.cannot(a.refusal())
		}
		if err := in.wait(a.retryAfter(time.Second)); err != nil {
			return err
		}
	}
	return nil
}

func (in *ingester) wait(d time.Duration) error {
	select {
	case <-in.stopped.Done():
		return exit(exitFailed, "interrupted; %s", in.wayOn())
	case <-time.After(d):
		return nil
	}
}

// cannot adds to an error how to go on.
func (in *ingester) cannot(err error) error {
	return exit(exitCode(err), "%w\nstopped after %d accepted; %s", err, in.accepted, in.wayOn())
}

func (in *ingester) wayOn() string {
	if in.resume.path != "" {
		return "the same command goes on from there"
	}
	return "with --resume FILE a later run can go on from where it stopped"
}

var lineIssue = regexp.MustCompile(`^line (\d+): `)

// settle counts the first done lines of the chunk as answered, tells those that were refused,
// and takes them out of the chunk.
func (in *ingester) settle(done int, issues []string) int {
	done = min(done, len(in.places))
	texts := map[int]string{} // a line may have several issues
	for _, text := range issues {
		m := lineIssue.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		if n, err := strconv.Atoi(m[1]); err == nil && n >= 1 && n <= done {
			text = strings.TrimPrefix(text, m[0])
			if texts[n] != "" {
				text = texts[n] + "; " + text
			}
			texts[n] = text
		}
	}
	for _, n := range slices.Sorted(maps.Keys(texts)) {
		in.refuse(in.places[n-1], texts[n])
	}
	in.accepted += done - len(texts)
	for range done {
		if _, err := in.chunk.ReadBytes('\n'); err != nil {
			break // cannot be: every line ends with one
		}
	}
	in.places = in.places[done:]
	if len(in.places) == 0 {
		in.chunk.Reset()
		in.places = nil
	}
	return done
}

// issues lists the diagnostics of an OperationOutcome.
func (a answer) issues() []string {
	var o operationOutcome
	if json.Unmarshal(a.body, &o) != nil {
		return nil
	}
	var texts []string
	for _, is := range o.Issue {
		texts = append(texts, first(is.Diagnostics, is.Details.Text))
	}
	return texts
}

var lastAcceptedLine = regexp.MustCompile(`last line accepted:? (\d+)`)

// lastAccepted reads from the answer of a server that stopped which line it got to.
func lastAccepted(a answer) int {
	for _, text := range a.issues() {
		if m := lastAcceptedLine.FindStringSubmatch(text); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil {
				return n
			}
		}
	}
	return 0
}

// sendDelete deletes a resource, after everything that stands before it.
func (in *ingester) sendDelete(at place, key fhir.Key) error {
	a, err := in.one(request{method: http.MethodDelete, path: "/fhir/" + key.Type + "/" + string(key.ID)})
	if err != nil {
		return err
	}
	if err := a.refusal(); err != nil {
		in.refuse(at, err.Error())
		return nil
	}
	in.accepted++
	return nil
}

// sendBundle sends a batch or a transaction and counts its entries.
func (in *ingester) sendBundle(at place, bundle []byte) error {
	a, err := in.one(request{method: http.MethodPost, path: "/fhir", contentType: fhirJSON, body: bundle})
	if err != nil {
		return err
	}
	if err := a.refusal(); err != nil {
		in.refuse(at, err.Error())
		return nil
	}
	var answered inputLine
	if err := json.Unmarshal(a.body, &answered); err != nil {
		return exit(exitFailed, "%s: the server's answer to a Bundle cannot be read", at)
	}
	for i, e := range answered.Entry {
		if strings.HasPrefix(e.Response.Status, "2") {
			in.accepted++
			continue
		}
		at.entry = i + 1
		text := answer{body: e.Response.Outcome}.outcome()
		in.refuse(at, first(text, "the server answered "+e.Response.Status))
	}
	return nil
}

// one sends what does not fit into a chunk, in its place of the order, and has patience with a
// busy server. Answers that concern the run rather than the line end the run.
func (in *ingester) one(r request) (answer, error) {
	if err := in.flush(); err != nil {
		return answer{}, err
	}
	for try := 0; ; try++ {
		a, err := in.cl.do(in.c.ctx(), r)
		if err != nil {
			return a, in.cannot(err)
		}
		switch a.status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			if try < patience {
				if err := in.wait(a.retryAfter(time.Second)); err != nil {
					return a, err
				}
				continue
			}
			return a, in.cannot(a.refusal())
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusInsufficientStorage:
			return a, in.cannot(a.refusal())
		}
		return a, nil
	}
}

func (in *ingester) summary() error {
	took := time.Since(in.began)
	result := struct {
		Accepted int       `json:"accepted"`
		Refused  int       `json:"refused"`
		Seconds  float64   `json:"seconds"`
		Rate     float64   `json:"rate"` // accepted a second
		Refusals []refusal `json:"refusals"`
	}{in.accepted, in.refused, round(took.Seconds()), round(float64(in.accepted) / took.Seconds()), in.refusals}
	if in.c.out.form == "table" {
		_, err := fmt.Fprintf(in.c.App.Writer, "accepted %d, refused %d in %.1f s (%.0f/s)\n", result.Accepted, result.Refused, result.Seconds, result.Rate)
		return err
	}
	if result.Refusals == nil {
		result.Refusals = []refusal{}
	}
	b, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return in.c.out.object(b, columns("ACCEPTED=accepted REFUSED=refused SECONDS=seconds RATE=rate"))
}

// round keeps three places: what is behind them is noise.
func round(x float64) float64 { return float64(int64(x*1000+0.5)) / 1000 }

// resumeState remembers how many lines of each file the server has answered.
type resumeState struct {
	path  string // empty: nothing is remembered
	Files map[string]int
}

func readResume(path string) (*resumeState, error) {
	s := &resumeState{path: path, Files: map[string]int{}}
	if path == "" {
		return s, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	if err := json.Unmarshal(b, &s.Files); err != nil {
		return nil, usage("%s was not written by carillon ingest --resume; name another file", path)
	}
	return s, nil
}

func (s *resumeState) done(file string) int {
	if s.path == "" {
		return 0
	}
	return s.Files[absolute(file)]
}

// mark stores that a file is done up to a line.
func (s *resumeState) mark(file string, line int) error {
	if s.path == "" {
		return nil
	}
	s.Files[absolute(file)] = line
	b, err := json.Marshal(s.Files)
	if err != nil {
		return err
	}
	if err := replaceFile(s.path, append(b, '\n')); err != nil {
		return fmt.Errorf("remember how far it got: %w", err)
	}
	return nil
}

func absolute(file string) string {
	if a, err := filepath.Abs(file); err == nil {
		return a
	}
	return file
}
