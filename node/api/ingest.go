package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

const (
	// refusedShown is how many refused lines an answer lists.
	refusedShown = 1000
	// throttleWait is how long a line waits for a throttled backend before the stream stops.
	throttleWait = 30 * time.Second
)

// ingest is POST /fhir/$ingest: resources as lines, written as they arrive. The reader is held
// up by the writes, and through it the sender. Lines of one resource are written in their
// order; a line that is refused leaves the others alone.
func (s *server) ingest(c *call) error {
	if err := c.onlyQuery(); err != nil {
		return err
	}
	if err := c.bodyIs(linesTypes); err != nil {
		return err
	}
	if _, err := c.feed(); err != nil {
		return err
	}
	body, err := c.stream()
	if err != nil {
		return err
	}
	c.brief = true
	in := &ingest{s: s, c: c, pool: newPool(sideBySide, sideBySideBytes)}
	in.readAll(c.r.Context(), bufio.NewReaderSize(body, 64<<10))
	in.pool.wait()
	in.answer()
	return nil
}

// ingest is one stream of lines.
type ingest struct {
	s    *server
	c    *call
	pool *pool
	tree fhirjson.Tree // of the reader alone

	mu       sync.Mutex
	accepted int
	refused  int
	lines    []refusedLine // the lowest of those refused, in no order
	stopped  error         // why no further line is written
	stopLine int           // the first line that is not settled
}

type refusedLine struct {
	n   int
	err error
}

// readAll reads until the end, or until the stream has to stop.
func (in *ingest) readAll(ctx context.Context, r *bufio.Reader) {
	for n := 1; !in.done(); n++ {
		line, err := readLine(r, in.s.limits.Line)
		switch {
		case errors.Is(err, errLine):
			in.refuse(n, tooLong("line", in.s.limits.Line))
			continue
		case err != nil && err != io.EOF:
			// What was read of the line is not the line: its sender was cut off.
			in.stop(n, unreadable(err))
			return
		}
		if len(bytes.TrimSpace(line)) > 0 {
			in.line(ctx, n, line)
		}
		if err == io.EOF {
			return
		}
	}
}

var errLine = errors.New("the line is too long")

// readLine reads a line of at most limit bytes into memory of its own; the last one may end
// without a newline and comes with io.EOF. A longer one is skipped and gives errLine.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for long := false; ; {
		part, err := r.ReadSlice('\n')
		if long = long || len(line)+len(bytes.TrimRight(part, "\r\n")) > limit; !long {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && err != io.EOF:
			return nil, err
		case long:
			return nil, errLine
		default:
			return line, err
		}
		if long {
			line = nil
		}
	}
}

// line checks a line and hands it to the pool.
func (in *ingest) line(ctx context.Context, n int, line []byte) {
	w, err := in.prepare(n, line)
	if err != nil {
		in.settle(n, err)
		return
	}
	order := w.Key.String()
	if w.Interaction == fhir.Create {
		order = "" // its id was made for it: nothing else is of that resource
	}
	in.pool.do(order, len(line), func() {
		defer func() {
			if p := recover(); p != nil {
				in.stop(n, panicked(p))
			}
		}()
		if in.behindStop(n) {
			return
		}
		in.settle(n, in.write(ctx, w))
	})
}

// prepare makes the write of a line: an update, or a create where there is no id.
func (in *ingest) prepare(n int, line []byte) (Write, error) {
	if err := in.tree.Parse(line, fhirjson.Limits{Bytes: len(line) + 1}); err != nil {
		return Write{}, notJSON(err, in.s.limits.Line)
	}
	t := &in.tree
	if t.Get(t.Root(), "resourceType") == 0 && t.Get(t.Root(), "resource") != 0 {
		return in.prepareChange(n, line)
	}
	if len(line) > in.s.limits.Resource {
		return Write{}, tooLong("resource", in.s.limits.Resource)
	}
	key, err := in.s.identify(t)
	if err != nil {
		return Write{}, err
	}
	res, place := resource{key: key, body: line, tree: t}, fmt.Sprintf("line %d", n)
	if key.ID == "" {
		return in.c.prepareCreate(res, place, "")
	}
	return in.c.prepareUpdate(res, key.ID, place, unconditional)
}

// prepareChange makes the write of a line that says what happened:
// {"interaction":"create|update|delete","resource":{…}}.
func (in *ingest) prepareChange(n int, line []byte) (Write, error) {
	t := &in.tree
	asked := fhir.Interaction(t.Str(t.Get(t.Root(), "interaction")))
	for m := range t.Children(t.Root()) {
		switch k := t.Key(m); k {
		case "interaction", "resource":
		case "previous":
			return Write{}, fhir.Refuse(fhir.IssueNotSupported, "", "previous is not supported by this version: the state before a change is taken from the log")
		default:
			return Write{}, fhir.Refuse(fhir.IssueValue, "", "a change has the members interaction and resource, and no other")
		}
	}
	switch asked {
	case fhir.Create, fhir.Update, fhir.Delete:
	default:
		return Write{}, fhir.Refuse(fhir.IssueValue, "", "interaction is create, update or delete")
	}
	res, err := in.s.parseResource(bytes.Clone(t.Raw(t.Get(t.Root(), "resource"))))
	if err != nil {
		return Write{}, err
	}
	if res.key.ID == "" {
		return Write{}, fhir.Refuse(fhir.IssueRequired, res.key.Type+".id", "a change of a resource needs its id")
	}
	place := fmt.Sprintf("line %d", n)
	if asked == fhir.Delete {
		return in.c.prepareDelete(res.key, place, unconditional)
	}
	w, err := in.c.prepareUpdate(res, res.key.ID, place, unconditional)
	w.Interaction = asked
	return w, err
}

// write writes a line, and waits where the backend is busy: the sender of a stream is slowed
// down rather than sent away.
func (in *ingest) write(ctx context.Context, w Write) error {
	deadline := time.Now().Add(throttleWait)
	for {
		_, err := in.s.write(ctx, in.c, w)
		if !isIssue(err, fhir.IssueThrottled) {
			return err
		}
		wait := retryAfter(err)
		if time.Now().Add(wait).After(deadline) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// settle records what became of a line. A refusal concerns the line; that nothing can be
// stored, or a fault, concerns all that follow.
func (in *ingest) settle(n int, err error) {
	switch {
	case err == nil:
		in.mu.Lock()
		in.accepted++
		in.mu.Unlock()
	case fhir.AsError(err) == nil,
		isIssue(err, fhir.IssueNoStore), isIssue(err, fhir.IssueTransient),
		isIssue(err, fhir.IssueThrottled), isIssue(err, fhir.IssueException):
		in.stop(n, err)
	default:
		in.refuse(n, err)
	}
}

func (in *ingest) refuse(n int, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.refused++
	if fe := fhir.AsError(err); fe != nil && len(fe.Issues) > 0 {
		in.s.refused(fe.Issues[0].Type)
	}
	in.lines = append(in.lines, refusedLine{n, err})
	if len(in.lines) >= 2*refusedShown {
		in.trim()
	}
}

// trim keeps the lowest refused lines. Called with mu held.
func (in *ingest) trim() {
	slices.SortFunc(in.lines, func(a, b refusedLine) int { return a.n - b.n })
	in.lines = in.lines[:min(len(in.lines), refusedShown)]
}

// stop ends the stream at a line. Lines that are on their way are waited for; the lowest one
// that did not succeed counts.
func (in *ingest) stop(n int, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopped == nil || n < in.stopLine {
		in.stopped, in.stopLine = err, n
	}
}

// behindStop reports whether a line comes after the one where the stream stopped. Such a line
// is not written: it might overtake one of the same resource that was not. Lines before it are,
// however late they get their turn, since the answer says so.
func (in *ingest) behindStop(n int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stopped != nil && n > in.stopLine
}

func (in *ingest) done() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stopped != nil
}

// answer tells what became of the lines. Called when none is on its way any more.
func (in *ingest) answer() {
	in.trim()
	count := fmt.Sprintf("accepted %d, refused %d", in.accepted, in.refused)
	issues := []outcomeIssue{{Severity: severityInformation, Code: informational, Diagnostics: count}}
	status := http.StatusOK
	if in.stopped != nil {
		j := judge(in.c.r.Context(), in.stopped, false)
		if j.fault {
			in.s.log.Error("ingest stopped", "id", in.c.id, "route", in.c.pattern, "line", in.stopLine, "err", in.stopped)
		}
		status = j.status
		for k, v := range j.header {
			in.c.w.Header()[k] = v
		}
		issues[0] = issuesOf(severityError, j.issues[:1])[0]
		// Every line before the one where it stopped is either written or listed as refused.
		issues[0].Diagnostics = fmt.Sprintf("stopped at line %d, last line accepted %d (%s): %s",
			in.stopLine, in.stopLine-1, count, j.issues[0].Diagnostics)
	}
	for _, l := range in.lines {
		for _, is := range issuesOf(severityError, fhir.AsError(l.err).Issues) {
			is.Diagnostics = fmt.Sprintf("line %d: %s", l.n, is.Diagnostics)
			issues = append(issues, is)
		}
	}
	in.c.send(status, in.c.mime, encode(newOutcome(in.c.id, issues...)))
}
