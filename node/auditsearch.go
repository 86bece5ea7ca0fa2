package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// A search of AuditEvents has two sources: those that are stored, which are resources like any other, and
// those of attempts, which are made of the log of outcomes (audits). The same criteria decides on both. Each
// is walked from the newest to the oldest, and a page takes from both what comes next by time: of a stored
// one the time of its version, of an attempt when it ended.
//
// An attempt is looked for by its Subscription or its resource, where the search names one, else among all
// from the newest time that the search allows. Where the time of a page is over before it is full, it ends
// there, and its link goes on.

// auditScan is how many lines of the log of outcomes are looked at together.
const auditScan = 128

// findAudits answers a search of AuditEvents.
func (s *searcher) findAudits(ctx context.Context, query url.Values, lenient bool) (api.Found, error) {
	q, from, err := auditQuery(query)
	if err != nil {
		return api.Found{}, err
	}
	a, err := s.understand("AuditEvent", q, lenient)
	if err != nil {
		return api.Found{}, err
	}
	a.order = order{byTime: true, down: true}
	for _, name := range []string{"_sort", "_cursor"} {
		if v := query[name]; len(v) > 0 {
			a.self[name] = v
		}
	}
	f, err := s.newAuditFinding(ctx, a, from)
	if err != nil {
		return api.Found{}, err
	}
	defer f.done()
	found, err := f.answer(ctx)
	if err != nil {
		return api.Found{}, f.explained(err)
	}
	return found, nil
}

// auditQuery takes out of a query what is meant otherwise than in other searches: the order, which is the
// newest first alone, and the place where a page begins.
func auditQuery(query url.Values) (q url.Values, from *auditCursor, err error) {
	q = maps.Clone(query)
	q.Del("_sort")
	q.Del("_cursor")
	if len(query["_offset"]) > 0 {
		return nil, nil, fhir.Refuse(fhir.IssueNotSupported, "", "_offset is not supported in a search of AuditEvent: follow the next links")
	}
	if len(query["_sort"]) > 1 || len(query["_cursor"]) > 1 {
		return nil, nil, fhir.Refuse(fhir.IssueValue, "", "_sort or _cursor is given more than once")
	}
	switch v := query.Get("_sort"); v {
	case "", "-date", "-_lastUpdated":
	default:
		return nil, nil, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf(
			"_sort by %q is not supported in a search of AuditEvent, whose results come newest first: leave it out, or give -date", shortened(v)))
	}
	if v := query.Get("_cursor"); v != "" {
		if from, err = parseAuditCursor(v); err != nil {
			return nil, nil, err
		}
	}
	return q, from, nil
}

// auditCursor is where a page begins.
type auditCursor struct {
	at     record.Sequence // position of EVENTS: which stored ones there are, in which versions
	behind *spot           // the last stored one that was given; nil where none was
	ended  bool            // there are no more stored ones
	before store.Place     // attempts before it come next; zero: from the newest on
	closed bool            // there are no more attempts
}

// String is the cursor as a link carries it: opaque to clients, and valid on every node.
func (c *auditCursor) String() string {
	behind := spot{id: "-"}
	if c.behind != nil {
		behind = *c.behind
	}
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "a1 %d %d %s %t %d %d %t",
		c.at, behind.version, behind.id, c.ended, c.before.Sequence, c.before.Index, c.closed))
}

func parseAuditCursor(value string) (*auditCursor, error) {
	refused := fhir.Refuse(fhir.IssueValue, "", "_cursor is not one that this server gave: take it from the next link of a page")
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(text) > 256 {
		return nil, refused
	}
	var c auditCursor
	var kind string
	var behind spot
	if n, err := fmt.Sscanf(string(text), "%s %d %d %s %t %d %d %t", &kind, &c.at, &behind.version, &behind.id, &c.ended, &c.before.Sequence, &c.before.Index, &c.closed); err != nil || n != 8 || kind != "a1" || c.before.Index < 0 {
		return nil, refused
	}
	if behind.version != 0 {
		if !behind.id.Valid() {
			return nil, refused
		}
		c.behind = &behind
	}
	return &c, nil
}

// auditFinding is such a search at work.
type auditFinding struct {
	*finding
	from     auditCursor
	tries    []store.AttemptFilter // attempts are among those of any of these
	none     bool                  // no attempt can meet the criteria
	heads    []attemptHead
	first    bool // the first page, which settles from which attempt on the walk goes back
	occupies bool // one of the places for searches that look at all resources of the type
}

// attemptHead is what was read of the attempts of one filter and not given yet.
type attemptHead struct {
	filter store.AttemptFilter
	ready  []audit
	end    bool
}

func (s *searcher) newAuditFinding(ctx context.Context, a *asked, from *auditCursor) (*auditFinding, error) {
	budget := s.budget
	if budget == 0 {
		budget = searchBudget
	}
	at := s.store.Position().Events
	if from != nil {
		at = from.at
		if err := s.reach(ctx, at, budget); err != nil {
			return nil, err
		}
	}
	v := &view{s: s, at: at}
	if s.others != nil {
		v.others = timely{s.others.At(ctx, at), v}
	}
	f := &auditFinding{finding: &finding{view: v, asked: a, budget: budget}, first: from == nil, from: auditCursor{at: at}}
	if from != nil {
		f.from = *from
	}
	var indexed bool
	if f.source, indexed = s.candidates(a.typ, a.criteria); !indexed && a.filtered {
		if err := s.enter(ctx, budget); err != nil {
			return nil, err
		}
		f.occupies = true
	}
	f.deadline = &deadline{time.Now().Add(budget)}
	f.view.until = f.deadline
	err := f.attempts(ctx)
	if err != nil {
		f.done()
	}
	return f, err
}

func (f *auditFinding) done() {
	if f.occupies {
		f.s.leave()
		f.occupies = false
	}
}

// attempts decides where attempts are looked for.
func (f *auditFinding) attempts(ctx context.Context) error {
	possible, err := f.possible(ctx)
	if err != nil {
		return err
	}
	if f.none = !possible || f.from.closed; f.none {
		return nil
	}
	since, until := timesAsked(f.self)
	if f.first {
		if f.from.before, err = f.begin(until); err != nil {
			return err
		}
	}
	start := store.AttemptFilter{Since: since, Before: f.from.before}
	ids, targets := auditClues(f.criteria)
	switch {
	case ids != nil:
		f.heads = []attemptHead{{ready: f.named(ids), end: true}}
		return nil
	case targets == nil:
		f.tries = []store.AttemptFilter{start}
	}
	for _, target := range targets {
		by := start
		by.Key = target
		f.tries = append(f.tries, by)
		if target.Type == "Subscription" {
			by = start
			by.Subscription = target.ID
			f.tries = append(f.tries, by)
		}
	}
	for _, by := range f.tries {
		f.heads = append(f.heads, attemptHead{filter: by})
	}
	return nil
}

// begin is the place behind the newest attempt of a walk: those that are made while it goes on are not in
// it, also where its first pages have none of the attempts.
func (f *auditFinding) begin(until time.Time) (store.Place, error) {
	newest := store.Place{Sequence: f.s.store.Position().Outcomes + 1}
	if until.IsZero() {
		return newest, nil
	}
	at, err := f.s.store.AttemptsUntil(until)
	if at == (store.Place{}) || comparePlaces(at, newest) > 0 {
		at = newest
	}
	return at, err
}

// auditClues are the clues of a criteria that lead to attempts: ids, else the targets of the clue that has
// fewest of them.
func auditClues(c *search.Criteria) (ids []fhir.ID, targets []fhir.Key) {
	for _, clue := range c.Clues() {
		if clue.IDs != nil {
			return clue.IDs, nil
		}
		if clue.Targets != nil && (targets == nil || len(clue.Targets) < len(targets)) {
			targets = clue.Targets
		}
	}
	return nil, targets
}

// named are the attempts with these ids, newest first, after the place where the page begins.
func (f *auditFinding) named(ids []fhir.ID) []audit {
	var out []audit
	for _, id := range ids {
		at, ok := auditPlace(fhir.Key{Type: "AuditEvent", ID: id})
		if !ok || f.from.before != (store.Place{}) && comparePlaces(at, f.from.before) >= 0 {
			continue
		}
		if r, err := f.s.audits.read(auditKey(at)); err == nil {
			out = append(out, audit{r, at})
		}
	}
	slices.SortFunc(out, func(a, b audit) int { return comparePlaces(b.at, a.at) })
	return slices.CompactFunc(out, func(a, b audit) bool { return a.at == b.at })
}

func comparePlaces(a, b store.Place) int {
	if a.Sequence != b.Sequence {
		if a.Sequence < b.Sequence {
			return -1
		}
		return 1
	}
	return a.Index - b.Index
}

// sameForAll are the parameters whose values are the same in the AuditEvents of all attempts, so that one
// of them tells whether any can match.
var sameForAll = []string{"type", "subtype", "action", "agent", "agent-name", "agent-role", "altid", "address", "policy", "site",
	"entity-name", "entity-type", "_tag", "_profile", "_security", "_source", "code", "category", "purpose", "based-on", "encounter"}

// possible reports whether the AuditEvent of any attempt could meet the criteria. Without it a search for
// what none of them has would go through the whole log, page by empty page.
func (f *auditFinding) possible(ctx context.Context) (bool, error) {
	var terms []string
	for name, values := range f.self {
		base, _, _ := strings.Cut(name, ":")
		if !slices.Contains(sameForAll, base) {
			continue
		}
		for _, v := range values {
			terms = append(terms, url.QueryEscape(name)+"="+url.QueryEscape(v))
		}
	}
	if len(terms) == 0 {
		return true, nil
	}
	c, err := f.s.defs.now().Compile("AuditEvent?" + strings.Join(terms, "&"))
	if err != nil {
		return false, err
	}
	sample := f.s.audits.resource(store.Attempt{Outcome: record.Outcome{Subscription: "a", Attempt: 1, Code: record.Accepted}, Key: fhir.Key{Type: "Patient", ID: "a"}}, audited{}, time.Time{})
	return f.meets(ctx, c, sample)
}

func (f *auditFinding) meets(ctx context.Context, c *search.Criteria, r api.Resource) (bool, error) {
	res, err := f.open(ctx, record.Event{Key: r.Key, Sequence: r.Version, Time: r.Time, Body: r.Body})
	if err != nil {
		return false, err
	}
	met, err := c.Decide(res)
	if err != nil {
		return false, undecided(r.Key, err)
	}
	return met, nil
}

// timesAsked bounds the times that a search may find, generously: the criteria decides.
func timesAsked(q url.Values) (since, until time.Time) {
	const slack = 2 * 24 * time.Hour // time zones, and the length of an attempt
	for _, name := range []string{"date", "_lastUpdated"} {
		for _, v := range q[name] {
			if strings.Contains(v, ",") {
				continue
			}
			prefix, text := "eq", v
			if len(v) > 2 && v[0] >= 'a' && v[0] <= 'z' {
				prefix, text = v[:2], v[2:]
			}
			first, last, ok := span(text)
			if !ok {
				continue
			}
			switch prefix {
			case "eq", "ge", "gt", "sa":
				if t := first.Add(-slack); t.After(since) {
					since = t
				}
			}
			switch prefix {
			case "eq", "le", "lt", "eb":
				if t := last.Add(slack); until.IsZero() || t.Before(until) {
					until = t
				}
			}
		}
	}
	return since, until
}

// span is the first and the last moment of a date as FHIR writes it.
func span(s string) (first, last time.Time, ok bool) {
	s = strings.ReplaceAll(s, " ", "+")
	for _, form := range []struct {
		layout              string
		years, months, days int
	}{{"2006", 1, 0, 0}, {"2006-01", 0, 1, 0}, {"2006-01-02", 0, 0, 1}, {"2006-01-02T15:04", 0, 0, 1}, {"2006-01-02T15:04:05", 0, 0, 1}, {time.RFC3339, 0, 0, 1}} {
		if t, err := time.Parse(form.layout, s); err == nil {
			return t, t.AddDate(form.years, form.months, form.days), true
		}
	}
	return first, last, false
}

// nextAttempt gives the newest attempt that was not given yet; ok is false where there is none. It may
// end with errLate between two runs of the log; what was read is kept.
func (f *auditFinding) nextAttempt(ctx context.Context) (next audit, ok bool, err error) {
	if f.none {
		return next, false, nil
	}
	best := -1
	for i := range f.heads {
		h := &f.heads[i]
		for len(h.ready) == 0 && !h.end {
			if f.passed() {
				return next, false, errLate
			}
			if err := f.fillHead(ctx, h); err != nil {
				return next, false, err
			}
		}
		if len(h.ready) > 0 && (best < 0 || comparePlaces(h.ready[0].at, f.heads[best].ready[0].at) > 0) {
			best = i
		}
	}
	if best < 0 {
		return next, false, nil
	}
	next = f.heads[best].ready[0]
	for i := range f.heads { // an attempt may be of two filters
		if h := &f.heads[i]; len(h.ready) > 0 && h.ready[0].at == next.at {
			h.ready = h.ready[1:]
		}
	}
	return next, true, nil
}

func (f *auditFinding) fillHead(ctx context.Context, h *attemptHead) error {
	run, before, err := f.s.audits.attemptRun(ctx, h.filter, auditScan)
	h.ready, h.filter.Before, h.end = run, before, before == store.Place{}
	return err
}

// reached is the place from which attempts are still to be looked for, when a page ends before it is full: the
// newest of the places to which the filters were read, since nothing behind it was given.
func (f *auditFinding) reached() store.Place {
	var newest store.Place
	for i := range f.heads {
		h := &f.heads[i]
		at := h.filter.Before
		if len(h.ready) == 0 && !h.end && at == (store.Place{}) {
			return f.from.before // it was not read at all, so nothing was given yet
		}
		if len(h.ready) > 0 {
			at = h.ready[0].at
			at.Index++
		}
		if (len(h.ready) > 0 || !h.end) && comparePlaces(at, newest) > 0 {
			newest = at
		}
	}
	return newest
}

// answer finds a page, with what it includes and its total.
func (f *auditFinding) answer(ctx context.Context) (api.Found, error) {
	out := api.Found{Self: f.self, Warnings: f.ignored}
	if f.asked.count == 0 || f.asked.total == totalAccurate {
		total, err := f.countBoth(ctx)
		if err != nil {
			return out, err
		}
		out.Total = &total
		if f.asked.count == 0 {
			return out, nil
		}
	}
	stored, err := f.stored(ctx)
	if err != nil {
		return out, err
	}
	next, err := f.merge(ctx, stored, &out)
	if err != nil {
		return out, err
	}
	if next != nil {
		out.Next = maps.Clone(f.self)
		out.Next.Set("_cursor", next.String())
	}
	if len(f.include) > 0 && len(out.Matches) > 0 {
		var warnings []fhir.Issue
		out.Included, warnings, err = f.includes(ctx, out.Matches)
		out.Warnings = append(out.Warnings, warnings...)
	}
	return out, err
}

// stored finds the stored ones that a page may need: one more than it holds says that there are more.
func (f *auditFinding) stored(ctx context.Context) ([]api.Resource, error) {
	if f.from.ended {
		return nil, nil
	}
	one := *f.asked
	one.count, one.total, one.cursor = f.asked.count+1, totalNone, nil
	if f.from.behind != nil {
		one.cursor = &cursor{at: f.at, total: -1, after: *f.from.behind}
	}
	by := &finding{view: f.view, asked: &one, deadline: f.deadline, budget: f.budget, source: f.source}
	page, err := by.page(ctx)
	f.seen += by.seen
	if page.next == nil && err == nil {
		f.from.ended = true
	}
	return page.matches, err
}

// merge takes what comes next from both until the page is full. It gives where the next page begins; nil
// where there is none.
func (f *auditFinding) merge(ctx context.Context, stored []api.Resource, out *api.Found) (*auditCursor, error) {
	at := f.from
	more := !at.ended // of the stored ones, beyond those that are here
	attempt, have, err := f.matching(ctx)
	size := 0
	for len(out.Matches) < f.asked.count && size < maxPageBytes && err == nil && (have || len(stored) > 0) {
		if have && (len(stored) == 0 || !attempt.Time.Before(stored[0].Time)) {
			out.Matches, size = append(out.Matches, attempt.Resource), size+len(attempt.Body)
			at.before = attempt.at
			attempt, have, err = f.matching(ctx)
			continue
		}
		if len(stored) == 0 {
			break
		}
		r := stored[0]
		stored = stored[1:]
		out.Matches, size = append(out.Matches, r), size+len(r.Body)
		at.behind = &spot{r.Version, r.Key.ID}
		if len(stored) == 0 && more {
			break // those after it may be newer than the next attempt
		}
	}
	late := errors.Is(err, errLate)
	if err != nil && !late {
		return nil, err
	}
	at.ended = !more && len(stored) == 0
	at.closed = !have && !late
	if late {
		at.before = f.reached()
	}
	if at.ended && at.closed {
		return nil, nil
	}
	return &at, nil
}

// matching gives the next attempt that meets the criteria.
func (f *auditFinding) matching(ctx context.Context) (audit, bool, error) {
	for {
		next, ok, err := f.nextAttempt(ctx)
		if err != nil || !ok {
			return next, false, err
		}
		f.seen++
		met := !f.filtered
		if !met {
			if met, err = f.meets(ctx, f.criteria, next.Resource); err != nil {
				return next, false, err
			}
		}
		if met {
			return next, true, nil
		}
	}
}

// countBoth counts all that match.
func (f *auditFinding) countBoth(ctx context.Context) (int, error) {
	all := &finding{view: f.view, asked: f.asked, deadline: f.deadline, budget: f.budget, source: f.source}
	total, err := all.countAll(ctx)
	if err != nil {
		return 0, err
	}
	heads := slices.Clone(f.heads)
	defer func() { f.heads = heads }()
	if !f.first { // the total is of all pages
		first := *f
		first.first, first.from = true, auditCursor{at: f.at}
		if err := first.attempts(ctx); err != nil {
			return 0, err
		}
		f.heads = first.heads
	}
	for {
		_, ok, err := f.matching(ctx)
		if err != nil || !ok {
			return total, err
		}
		total++
	}
}
