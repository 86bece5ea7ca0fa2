package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
)

// scanGap is how far apart the events of one run of a search may be: a message costs about twice as
// much by itself as in a run.
const scanGap = 2

// several shows the events at rising sequences, each once, in that order. Those that are not in the
// cache are read from the log in runs, and not kept: one search must not drive out what deliveries
// ask for next.
func (v *versions) several(ctx context.Context, seqs []record.Sequence, show func(record.Event) error) error {
	for len(seqs) > 0 {
		v.mu.Lock()
		e, ok := v.find(seqs[0])
		v.mu.Unlock()
		if ok {
			if err := show(e); err != nil {
				return err
			}
			seqs = seqs[1:]
			continue
		}
		n, err := v.together(ctx, seqs, show)
		if err != nil {
			return err
		}
		seqs = seqs[n:]
	}
	return nil
}

// together reads the run that the sequences begin with and shows those of its events that are asked
// for. It returns how many it showed, at least one.
func (v *versions) together(ctx context.Context, seqs []record.Sequence, show func(record.Event) error) (n int, err error) {
	from, last := seqs[0], seqs[0]
	for _, seq := range seqs[1:] {
		if seq-last > scanGap || seq-from >= maxRun {
			break
		}
		last = seq
	}
	if last > from {
		// Where it fails, the first event is read by itself, and says why it cannot be.
		events, _ := v.readRun(ctx, from, int(last-from)+1)
		for _, e := range events {
			if n == len(seqs) || e.Sequence != seqs[n] {
				continue
			}
			if err := show(e); err != nil {
				return n, err
			}
			n++
		}
		if n > 0 {
			return n, nil
		}
	}
	e, err := v.read(ctx, from)
	if err != nil {
		return 0, err
	}
	return 1, show(e)
}

// item is a resource at the position of a search.
type item struct {
	key     fhir.Key
	version record.Sequence
}

func (i item) spot() spot { return spot{i.version, i.key.ID} }

// state finds the version that a resource had at a position; ok is false where it had none, or is
// deleted now. A position long ago may have thousands of versions after it, so the time is looked at.
func (s *searcher) state(res store.Resource, at record.Sequence, d *deadline) (it item, ok bool, err error) {
	if res.Version == 0 || res.Deleted {
		return it, false, nil
	}
	it = item{key: res.Key, version: res.Version}
	if res.Version <= at {
		return it, true, nil
	}
	for v, err := range s.store.History(res.Key) {
		if err != nil {
			return it, false, err
		}
		if v.Sequence <= at {
			it.version = v.Sequence
			return it, v.Interaction != fhir.Delete, nil
		}
		if d.passed() {
			return it, false, errLate
		}
	}
	return it, false, nil
}

// view is what one search looks at resources with. It is used by one goroutine.
type view struct {
	s      *searcher
	at     record.Sequence
	others search.Repository // as of at
	until  *deadline         // of the decision that is being made; others ends with it
	kept   int               // bytes of the bodies that hits of this page hold
	tree   json.Tree
	res    *search.Resource
}

// timely is the Repository of a search. One resource may ask for thousands of others, so that the
// time between two of those that are decided is no bound.
type timely struct {
	search.Repository
	view *view
}

func (t timely) late() error {
	if d := t.view.until; d != nil && d.passed() {
		return errLate
	}
	return nil
}

// Read is of the repository, as long as there is time.
func (t timely) Read(key fhir.Key) (search.State, error) {
	if err := t.late(); err != nil {
		return search.State{}, err
	}
	return t.Repository.Read(key)
}

// Referrers is of the repository, as long as there is time.
func (t timely) Referrers(typ, param string, target fhir.Key, after fhir.ID, limit int) ([]fhir.ID, error) {
	if err := t.late(); err != nil {
		return nil, err
	}
	return t.Repository.Referrers(typ, param, target, after, limit)
}

// open makes an event's body the resource that criteria and links are read from. Its time is the
// one that a read shows: the log's, but for a change feed that brings its own.
func (v *view) open(ctx context.Context, e record.Event) (*search.Resource, error) {
	if err := v.tree.Parse(e.Body, sizeOf(e.Body)); err != nil {
		return nil, fmt.Errorf("read %s version %d: %w", e.Key, e.Sequence, err)
	}
	if v.res == nil {
		v.res = search.NewResource(v.s.defs.now(), nil)
		v.res.SetRepository(v.others)
	}
	envelope := search.Envelope{ID: string(e.Key.ID), LastUpdated: e.Time}
	if e.Feed && v.tree.Get(v.tree.Get(v.tree.Root(), "meta"), "lastUpdated") != 0 {
		envelope.LastUpdated = time.Time{}
	}
	v.res.Reset(&v.tree, envelope)
	return v.res, nil
}

// hit is an item that a search found. Its event is the zero one where it was not kept.
type hit struct {
	item
	event record.Event
}

// keptBytes is how much of bodies a page keeps between deciding on them and answering with them;
// what is more is read again.
const keptBytes = 8 << 20

// decide reads the items and gives those that meet the criteria, in the order of the items.
func (v *view) decide(ctx context.Context, c *search.Criteria, items []item, d *deadline, count *tally) ([]hit, error) {
	rising := make([]int, len(items))
	for i := range rising {
		rising[i] = i
	}
	slices.SortFunc(rising, func(a, b int) int {
		if items[a].version < items[b].version {
			return -1
		}
		return 1
	})
	seqs := make([]record.Sequence, len(items))
	for i, at := range rising {
		seqs[i] = items[at].version
	}
	v.until = d
	found, met, next := make([]hit, len(items)), make([]bool, len(items)), 0
	// The store keeps the bodies of Subscriptions, at a tenth of the price of the log: clients look
	// for their own by url at each start. Of a change feed it does not know which time counts.
	read, whole := v.s.versions.several, true
	if items[0].key.Type == "Subscription" && !strings.Contains(c.Canonical(), "_lastUpdated") {
		read, whole = v.s.subscriptions(items, rising), false
	}
	err := read(ctx, seqs, func(e record.Event) error {
		at := rising[next]
		next++
		if d.passed() {
			return errLate
		}
		r, err := v.open(ctx, e)
		if err != nil {
			return err
		}
		if met[at], err = c.Decide(r); err != nil {
			return undecided(e.Key, err)
		}
		count.seen++
		if met[at] {
			count.hits++
		}
		found[at].item = items[at]
		if met[at] && whole && v.kept+len(e.Body) <= keptBytes {
			found[at].event = e
			v.kept += len(e.Body)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := found[:0]
	for i := range found {
		if met[i] {
			out = append(out, found[i])
		}
	}
	return out, nil
}

// undecided words why it is not known whether a resource matches. A search that left it out, or
// took it in, would be wrong without a sign of it.
func undecided(key fhir.Key, err error) error {
	var later *search.Unavailable
	switch {
	case errors.Is(err, errLate):
		return errLate
	case errors.As(err, &later):
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", fmt.Sprintf("whether %s matches cannot be found out now: a resource that the search asks about is not available", key)), 5*time.Second)
	case errors.Is(err, search.ErrUnanswered):
		return fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf("whether %s matches cannot be found out: a resource that the search asks about could not be had", key))
	}
	return fhir.Refuse(fhir.IssueTooCostly, "", fmt.Sprintf("whether %s matches costs too much to find out; search for fewer or shorter values", key))
}

// subscriptions reads the versions of items, which are Subscriptions, from the store: those that it
// keeps. rising is their order in the log.
func (s *searcher) subscriptions(items []item, rising []int) func(context.Context, []record.Sequence, func(record.Event) error) error {
	return func(ctx context.Context, seqs []record.Sequence, show func(record.Event) error) error {
		for i, seq := range seqs {
			if err := ctx.Err(); err != nil {
				return err
			}
			key := items[rising[i]].key
			v, ok, err := s.store.SubscriptionVersion(key.ID, seq)
			if err != nil {
				return err
			}
			e := record.Event{Sequence: seq, Key: key, Time: v.Time, Body: v.Body}
			if !ok {
				if e, err = s.versions.Event(ctx, seq); err != nil {
					return fmt.Errorf("read %s version %d: %w", key, seq, err)
				}
			}
			if err := show(e); err != nil {
				return err
			}
		}
		return nil
	}
}

// render makes the answer's resources of hits, as reads show them. It ends before the one with
// which they would be larger than maxPageBytes, but not before the first.
func (s *searcher) render(ctx context.Context, hits []hit) ([]api.Resource, error) {
	var out []api.Resource
	size := 0
	for _, h := range hits {
		e := h.event
		if e.Sequence == 0 {
			var err error
			if e, err = s.versions.Event(ctx, h.version); err != nil {
				return nil, fmt.Errorf("read %s version %d: %w", h.key, h.version, err)
			}
		}
		if size += len(e.Body); size > maxPageBytes && len(out) > 0 {
			break
		}
		body, err := s.vault.shown(ctx, e)
		if err != nil {
			return nil, err
		}
		out = append(out, api.Resource{Key: h.key, Version: h.version, Time: e.Time, Body: body})
	}
	return out, nil
}
