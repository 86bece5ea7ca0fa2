package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// deadline is when a search has to end. It is looked at between resources.
type deadline struct{ until time.Time }

func (d *deadline) passed() bool { return time.Now().After(d.until) }

// errLate says that a search's time was over before it was done.
var errLate = errors.New("the search took too long")

// search runs a search that was understood. It serves whoever looks for resources by criteria: the
// HTTP face by find, conditions by a count of two, and others by walking through the pages that
// result.next leads to. Bodies are held for one page at a time.
func (s *searcher) search(ctx context.Context, a *asked) (result, error) {
	budget := s.budget
	if budget == 0 {
		budget = searchBudget
	}
	v := &view{s: s, at: s.store.Position().Events}
	if a.cursor != nil {
		v.at = a.cursor.at
		if err := s.reach(ctx, v.at, budget); err != nil {
			return result{}, err
		}
	}
	if s.others != nil {
		v.others = timely{s.others.At(ctx, v.at), v}
	}
	f := &finding{view: v, asked: a, budget: budget}
	var indexed bool
	if f.source, indexed = s.candidates(a.typ, a.criteria); !indexed && (a.filtered || !a.order.rising()) {
		if err := s.enter(ctx, budget); err != nil {
			return result{}, err
		}
		defer s.leave()
	}
	f.deadline = &deadline{time.Now().Add(budget)}
	out, err := f.page(ctx)
	if err != nil {
		return out, f.explained(err)
	}
	if out.total, err = f.count(ctx, out); err != nil {
		return out, f.explained(err)
	}
	if out.next != nil {
		out.next.total = out.total
		if a.total == totalEstimate {
			out.next.total = -1
		}
	}
	if out.total >= 0 && a.total == totalNone {
		out.total = -1
	}
	if len(a.include) > 0 && len(out.matches) > 0 {
		out.included, out.warnings, err = f.includes(ctx, out.matches)
	}
	return out, err
}

// enter waits for room among the searches that look at every resource of a type.
func (s *searcher) enter(ctx context.Context, budget time.Duration) error {
	if s.scans == nil {
		return nil
	}
	select {
	case s.scans <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(budget)
	defer timer.Stop()
	select {
	case s.scans <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	return retryAfter(fhir.Refuse(fhir.IssueThrottled, "", "too many searches look at every resource of a type now: send the request again in a moment, or narrow it by _id, identifier or a reference, which have an index"), 5*time.Second)
}

func (s *searcher) leave() {
	if s.scans != nil {
		<-s.scans
	}
}

// reach waits until a position is folded here: a page's link may come from another node.
func (s *searcher) reach(ctx context.Context, at record.Sequence, budget time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	err := s.ring.wait(waiting, at)
	if err != nil && ctx.Err() == nil {
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", "this node has not yet read as far as the _cursor says: send the request again in a moment, or begin at the first page"), 2*time.Second)
	}
	return err
}

// finding is a search at work.
type finding struct {
	*view
	*asked
	*deadline
	budget time.Duration
	source source

	behind *spot  // the last item that was taken; nil at the beginning
	ahead  []item // next items of an order that is not the store's
	ended  bool   // the source has no more than is in ahead
	taken  int    // items that were taken in the order of the store
	tally
}

// tally counts what was decided. Where the time ends among items that are decided together, those
// before the end count.
type tally struct {
	seen int // items that were looked at
	hits int // of them, those that matched
}

// explained words the end of a search that took too long.
func (f *finding) explained(err error) error {
	if !errors.Is(err, errLate) {
		return err
	}
	return fhir.Refuse(fhir.IssueTooCostly, "", fmt.Sprintf(
		"the search was ended after %v, when %d resources of type %s had been looked at: narrow it by _id, identifier or a reference such as patient=Patient/id, which have an index, ask for a smaller _count, or leave out _total=accurate",
		f.budget, f.seen, f.typ))
}

// source gives the resources that may match, in order of id, those after an id, at most n. Fewer
// than there is room for do not mean an end; none do.
type source func(after fhir.ID, n int) ([]store.Resource, error)

// candidates chooses where the matches of a criteria are looked for: by the clue that leads to the
// fewest as a rule (indexed), or among all resources of the type.
func (s *searcher) candidates(typ string, c *search.Criteria) (from source, indexed bool) {
	var best search.Clue
	rank := 0
	for _, clue := range c.Clues() {
		switch {
		case clue.IDs != nil:
			return s.among(typ, fixed(clue.IDs)), true
		case clue.Identifiers != nil && rank < 2:
			best, rank = clue, 2
		case clue.Targets != nil && rank < 1:
			best, rank = clue, 1
		}
	}
	switch rank {
	case 2:
		return s.among(typ, s.identified(typ, best.Identifiers)), true
	case 1:
		return s.among(typ, s.referring(typ, best.Targets)), true
	}
	return func(after fhir.ID, n int) ([]store.Resource, error) { return s.store.List(typ, after, n) }, false
}

// ids gives ids in rising order, those after one, at most n.
type ids func(after fhir.ID, n int) ([]fhir.ID, error)

// among makes a source of ids. Ids that are of no resource are passed over.
func (s *searcher) among(typ string, from ids) source {
	return func(after fhir.ID, n int) ([]store.Resource, error) {
		for {
			list, err := from(after, n)
			if err != nil || len(list) == 0 {
				return nil, err
			}
			var out []store.Resource
			for _, id := range list {
				res, known, err := s.store.Resource(fhir.Key{Type: typ, ID: id})
				if err != nil {
					return nil, err
				}
				if known {
					out = append(out, res)
				}
			}
			if len(out) > 0 {
				return out, nil
			}
			after = list[len(list)-1]
		}
	}
}

// fixed are ids that are known beforehand.
func fixed(list []fhir.ID) ids {
	list = slices.Clone(list)
	slices.Sort(list)
	list = slices.Compact(list)
	return func(after fhir.ID, n int) ([]fhir.ID, error) {
		from := sort.Search(len(list), func(i int) bool { return list[i] > after })
		return list[from:min(from+n, len(list))], nil
	}
}

// identified are the ids of the resources that have one of these identifiers now.
func (s *searcher) identified(typ string, wanted []search.IdentifierToken) ids {
	var list ids
	return func(after fhir.ID, n int) ([]fhir.ID, error) {
		if list == nil {
			var all []fhir.ID
			for _, w := range wanted {
				system := w.System
				if system == "" {
					system = store.AnySystem
				}
				some, err := s.store.IdentifierLookup(typ, system, foldIdentifier(w.Value), math.MaxInt32)
				if err != nil {
					return nil, err
				}
				all = append(all, some...)
			}
			list = fixed(all)
		}
		return list(after, n)
	}
}

// referring are the ids of the resources that ever referred to one of the targets.
func (s *searcher) referring(typ string, targets []fhir.Key) ids {
	m := merge{
		lists: make([]merged, len(targets)),
		read: func(target int, after fhir.ID, n int) ([]fhir.ID, error) {
			return s.store.Referrers(targets[target], typ, after, n)
		},
	}
	return m.next
}

// merge joins lists of ids, each of them in rising order, into one. What it has read of a list and
// not given yet it keeps, so that a walk reads each row once, however many lists there are.
type merge struct {
	lists []merged
	read  func(list int, after fhir.ID, n int) ([]fhir.ID, error)
	after fhir.ID // of the last call
}

type merged struct {
	ids []fhir.ID // that were read and not given
	end bool      // there are no more than these
}

// next gives ids after one, at most n, each once; none at the end.
func (m *merge) next(after fhir.ID, n int) ([]fhir.ID, error) {
	if after < m.after { // from the beginning again
		clear(m.lists)
	}
	m.after = after
	// Up to the least of the places that the lists are read to, everything is known.
	var known fhir.ID
	bounded := false
	for i := range m.lists {
		l := &m.lists[i]
		if err := m.fill(i, after, max(16, min(n, 4*n/len(m.lists)))); err != nil {
			return nil, err
		}
		if last := len(l.ids) - 1; !l.end && (!bounded || l.ids[last] < known) {
			known, bounded = l.ids[last], true
		}
	}
	var out []fhir.ID
	for i := range m.lists {
		for _, id := range m.lists[i].ids {
			if bounded && id > known {
				break
			}
			out = append(out, id)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(n, len(out))], nil
}

// fill drops what was given of a list, and reads on where nothing is left.
func (m *merge) fill(list int, after fhir.ID, n int) (err error) {
	l := &m.lists[list]
	given := sort.Search(len(l.ids), func(i int) bool { return l.ids[i] > after })
	if l.ids = l.ids[given:]; len(l.ids) > 0 || l.end {
		return nil
	}
	l.ids, err = m.read(list, after, n)
	l.end = err == nil && len(l.ids) < n
	return err
}

// aheadMax is how many items of an order that is not the store's are held at once. For each so many
// the candidates are gone through anew, without their bodies.
const aheadMax = 4096

// next gives the items that follow, at most n, in the order that is asked for; none at the end.
func (f *finding) next(ctx context.Context, n int) ([]item, error) {
	if f.order.rising() {
		return f.nextRising(ctx, n)
	}
	if len(f.ahead) == 0 && !f.ended {
		if err := f.lookAhead(ctx); err != nil {
			return nil, err
		}
	}
	n = min(n, len(f.ahead))
	items := f.ahead[:n]
	f.ahead = f.ahead[n:]
	if n > 0 {
		last := items[n-1].spot()
		f.behind = &last
	}
	return items, nil
}

func (f *finding) nextRising(ctx context.Context, n int) ([]item, error) {
	for {
		after := fhir.ID("")
		if f.behind != nil {
			after = f.behind.id
		}
		list, err := f.source(after, n)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		f.behind = &spot{id: list[len(list)-1].Key.ID}
		items, err := f.states(ctx, list)
		if err != nil || len(items) > 0 {
			f.taken += len(items)
			return items, err
		}
	}
}

// states gives the items of resources, of those that existed at the search's position.
func (f *finding) states(ctx context.Context, list []store.Resource) ([]item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.passed() {
		return nil, errLate
	}
	items := make([]item, 0, len(list))
	for _, res := range list {
		it, ok, err := f.s.state(res, f.at, f.deadline)
		if err != nil {
			return nil, err
		}
		if ok {
			items = append(items, it)
		}
	}
	return items, nil
}

// lookAhead goes through all candidates and keeps those that come next.
func (f *finding) lookAhead(ctx context.Context) error {
	var best []item
	cut := false
	byPlace := func(a, b item) int { return f.order.compare(a.spot(), b.spot()) }
	keep := func() {
		slices.SortFunc(best, byPlace)
		if len(best) > aheadMax {
			best, cut = best[:aheadMax], true
		}
	}
	for after := fhir.ID(""); ; {
		list, err := f.source(after, 1000)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		after = list[len(list)-1].Key.ID
		items, err := f.states(ctx, list)
		if err != nil {
			return err
		}
		for _, it := range items {
			if f.behind == nil || f.order.compare(it.spot(), *f.behind) > 0 {
				best = append(best, it)
			}
		}
		if len(best) >= 2*aheadMax {
			keep()
		}
	}
	keep()
	f.ahead, f.ended = best, !cut
	return nil
}

// hitsOf gives those of the items that match.
func (f *finding) hitsOf(ctx context.Context, items []item) ([]hit, error) {
	if !f.filtered {
		hits := make([]hit, len(items))
		for i := range items {
			hits[i].item = items[i]
		}
		f.seen, f.hits = f.seen+len(hits), f.hits+len(hits)
		return hits, nil
	}
	return f.decide(ctx, f.criteria, items, f.deadline, &f.tally)
}

// Items that are looked at together: few at first, since a page may be full soon; then many, since
// of many more stand side by side in the log.
const (
	firstItems = 64
	mostItems  = 2048
)

// page finds the matches of one page. Its next is set where there are more.
func (f *finding) page(ctx context.Context) (out result, err error) {
	if f.asked.count == 0 {
		return out, nil
	}
	if f.cursor != nil {
		after := f.cursor.after
		f.behind = &after
	}
	var found []hit
	skip := f.offset
	if f.cursor != nil {
		skip = 0
	}
	for n := firstItems; len(found) <= f.asked.count; n = min(2*n, mostItems) {
		items, err := f.next(ctx, n)
		if err != nil {
			return out, err
		}
		if len(items) == 0 {
			break
		}
		hits, err := f.hitsOf(ctx, items)
		if err != nil {
			return out, err
		}
		passed := min(skip, len(hits))
		skip -= passed
		found = append(found, hits[passed:]...)
	}
	wanted := found[:min(len(found), f.asked.count)]
	if out.matches, err = f.s.render(ctx, wanted); err != nil {
		return out, err
	}
	if n := len(out.matches); n < len(found) {
		out.next = &cursor{at: f.at, total: -1, after: wanted[n-1].spot()}
	}
	return out, nil
}

// count gives the total that is asked for; -1 where none is, or it is not found out.
func (f *finding) count(ctx context.Context, page result) (int, error) {
	wanted := f.asked.total
	if f.asked.count == 0 {
		wanted = totalAccurate // it is all that is asked for
	}
	switch {
	case wanted == totalNone:
		return -1, nil
	case f.cursor != nil && f.cursor.total >= 0:
		return f.cursor.total, nil
	case f.cursor == nil && page.next == nil && f.asked.count > 0:
		return f.hits, nil // the first page is the only one
	}
	until := f.deadline
	if wanted == totalIfCheap {
		until = &deadline{time.Now().Add(f.budget / 10)}
	}
	all := &finding{view: f.view, asked: f.asked, deadline: until, budget: f.budget, source: f.source}
	total, err := all.countAll(ctx)
	if !errors.Is(err, errLate) || wanted == totalAccurate {
		f.seen = max(f.seen, all.seen)
		return total, err
	}
	if wanted == totalIfCheap {
		return -1, nil
	}
	return all.extrapolated(ctx)
}

// countAll counts all matches, in the order of the store, whatever is asked for.
func (f *finding) countAll(ctx context.Context) (int, error) {
	for {
		items, err := f.nextRising(ctx, mostItems)
		if err != nil {
			return 0, err
		}
		if len(items) == 0 {
			return f.hits, nil
		}
		if _, err := f.hitsOf(ctx, items); err != nil {
			return 0, err
		}
	}
}

// extrapolated estimates the total by the part of the candidates that was looked at, once more for
// half of the budget: without their bodies they are counted a hundred times as fast. Where none was
// looked at nothing is known.
func (f *finding) extrapolated(ctx context.Context) (int, error) {
	if f.seen == 0 {
		return -1, nil
	}
	f.deadline = &deadline{time.Now().Add(f.budget / 2)}
	for {
		items, err := f.nextRising(ctx, 1000)
		if errors.Is(err, errLate) {
			break // of the rest nothing is known
		}
		if err != nil {
			return -1, err
		}
		if len(items) == 0 {
			break
		}
	}
	return int(float64(f.hits) * float64(f.taken) / float64(f.seen)), nil
}

// each shows every resource that a search finds, page by page, with what each page includes: for
// whoever renders a search rather than answers it. url is Type?query as a client of the HTTP face
// would ask; a _count in it is the size of a page. All pages are of one state, and each of them has
// the whole budget. A resource that several pages include is shown for each of them.
//
// It ends with the first error of show.
func (s *searcher) each(ctx context.Context, query string, show func(r api.Resource, included bool) error) error {
	typ, rest, _ := strings.Cut(query, "?")
	if !s.defs.now().HasType(typ) {
		return fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("a search begins with a resource type and a question mark, as Patient?, not with %q", shortened(typ)))
	}
	values, err := url.ParseQuery(rest)
	if err != nil {
		return fhir.Refuse(fhir.IssueValue, "", "the query of the search cannot be read: check its % escapes")
	}
	a, err := s.understand(typ, values, false)
	if err != nil {
		return err
	}
	for a.total = totalNone; ; {
		page, err := s.search(ctx, a)
		if err != nil {
			return err
		}
		for i, r := range append(page.matches, page.included...) {
			if err := show(r, i >= len(page.matches)); err != nil {
				return err
			}
		}
		if page.next == nil {
			return nil
		}
		a.cursor = page.next
	}
}
