package match

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// readAhead is how many changes are asked for at a time. Their bodies stay in memory until all
// of them are evaluated.
const readAhead = 64

// matcher evaluates a partition's events one after the other. It owns the memory that they
// are parsed into.
type matcher struct {
	r        *Runner
	tree     *json.Tree
	resource *search.Resource
	envelope search.Envelope
	hits     []index.Hit
	paths    *Paths
	others   others

	// State of the evaluation under way.
	began  time.Time
	beside time.Duration // of the time since, on criteria that ask for other resources, but not in waiting for these
	asked  int
	seen   uint64                     // work that was done when the clock was last read
	over   bool                       // the budget is used up
	failed map[*search.Criteria]error // what could not be decided, and why
}

func newMatcher(r *Runner) *matcher {
	m := &matcher{r: r, paths: NewPaths()}
	m.fresh()
	return m
}

// fresh gives the matcher new memory.
func (m *matcher) fresh() {
	m.tree = &json.Tree{}
	m.resource = search.NewResource(m.r.Definitions, m.tree)
	m.resource.SetRepository(&m.others)
}

// run evaluates the events after a place and adds what they meet to the collector, until
// something goes wrong or ctx ends. Of the event that a cut names, only what comes after the
// cut is added.
func (m *matcher) run(ctx context.Context, from record.Sequence, cut *record.Cut, c *collector) error {
	buf := make([]record.Change, 0, readAhead)
	for {
		changes, through, err := m.r.Events.Next(ctx, m.r.Partition, from, buf)
		if err != nil {
			return fmt.Errorf("read events of %s after %d: %w", m.r.Partition, from, err)
		}
		for i := range changes {
			change := &changes[i]
			hits, err := m.event(ctx, change)
			if err != nil {
				return err
			}
			if cut != nil && cut.Event == change.Sequence {
				hits = after(hits, cut.After)
			}
			if mutant("double-match") && change.Sequence%20 == 0 {
				hits = append(hits, hits...)
			}
			if err := c.add(ctx, change, hits); err != nil {
				return err
			}
		}
		clear(changes) // lets the bodies go
		c.pass(through)
		from = max(from, through)
	}
}

// after leaves out the hits that a cut block holds already.
func after(hits []index.Hit, id fhir.ID) []index.Hit {
	i := slices.IndexFunc(hits, func(h index.Hit) bool { return h.ID > id })
	if i < 0 {
		return nil
	}
	return hits[i:]
}

// event finds what a change meets. Where it cannot be found out the event is set aside, and
// meets what could be found out; an error means that neither was possible now.
func (m *matcher) event(ctx context.Context, c *record.Change) ([]index.Hit, error) {
	if c.Interaction == fhir.Unchanged {
		return nil, nil
	}
	body, err := m.body(ctx, c)
	if errors.Is(err, ErrGone) {
		return nil, m.setAside(ctx, c, "the state before the delete is gone")
	}
	if err != nil {
		return nil, err
	}
	body, ok, reason, err := m.before(ctx, c, body)
	if err != nil || reason == "" && !ok {
		return nil, err
	}
	if reason != "" {
		return nil, m.setAside(ctx, c, reason)
	}
	if err := m.parse(c, body); err != nil {
		return nil, m.setAside(ctx, c, "the resource cannot be read: "+err.Error())
	}
	if m.r.Hooks.Before != nil && !m.isOf(c.Key) {
		return nil, m.setAside(ctx, c, "an interceptor gave a resource of another type")
	}
	m.others.begin(ctx, m.r.Repository, c)
	began := time.Now()
	hits, reason := m.evaluate(c)
	hits, reason, err = m.evaluatePaths(ctx, c, hits, reason)
	if err == nil {
		hits, reason, err = m.keep(ctx, c, body, hits, reason)
	}
	if err != nil {
		return nil, err
	}
	if m.r.Observer.Matched != nil {
		m.r.Observer.Matched(len(hits), time.Since(began))
	}
	if reason != "" {
		if err := m.unavailable(c); err != nil {
			return nil, err
		}
		err = m.setAside(ctx, c, reason)
	}
	return hits, err
}

// body is the state that criteria are asked about: the one after a create or update. A delete
// leaves none, so it is the one before. Of a resource that was never seen (a change feed may
// delete one) the type and the id are known, and criteria that ask for no more are met.
func (m *matcher) body(ctx context.Context, c *record.Change) ([]byte, error) {
	switch {
	case c.Interaction != fhir.Delete:
		return c.Body, nil
	case c.Previous == 0:
		return Unseen(c.Key), nil
	}
	body, err := m.r.Bodies.Body(ctx, c.Previous)
	if err != nil {
		return nil, fmt.Errorf("read %s before its delete at %d: %w", c.Key, c.Sequence, err)
	}
	return body, nil
}

// Unseen is the state by which the delete of a resource is matched that was never seen.
func Unseen(key fhir.Key) []byte {
	return fmt.Appendf(nil, `{"resourceType":%q,"id":%q}`, key.Type, key.ID)
}

// EnvelopeOf is what criteria are told of a change beside the state that they are asked about.
// The log's time is the version's lastUpdated, but for a change feed that brings its own.
func EnvelopeOf(e *record.Event, state *json.Tree) search.Envelope {
	updated := e.Time
	if e.Feed && state.Get(state.Get(state.Root(), "meta"), "lastUpdated") != 0 {
		updated = time.Time{}
	}
	return search.Envelope{ID: string(e.Key.ID), LastUpdated: updated}
}

// parse makes the body the matcher's resource. Its size was the gate's business when it was
// accepted; a limit that was changed since must not make it unreadable.
func (m *matcher) parse(c *record.Change, body []byte) error {
	if err := m.tree.Parse(body, json.Limits{Bytes: max(1, len(body))}); err != nil {
		return err
	}
	m.envelope = EnvelopeOf(&c.Event, m.tree)
	m.reset()
	return nil
}

// reset makes the resource forget the values that were read from it. After a panic it may hold
// half of them.
func (m *matcher) reset() { m.resource.Reset(m.tree, m.envelope) }

// evaluate asks the index. A criteria that panics must not take the event from the others, and
// a pause of the machine must not be blamed on the event; so after a fault everything is asked
// once more, each criteria for itself. reason says what is wrong if that fails too. A criteria
// that takes more steps than it has is a failure of its own, and stays one.
func (m *matcher) evaluate(c *record.Change) (hits []index.Hit, reason string) {
	m.failed = map[*search.Criteria]error{}
	hits, fault := m.ask(c, m.check)
	if fault != nil {
		m.r.Log.Error("evaluation failed, trying each criteria alone", "partition", m.r.Partition, "event", c.Sequence, "err", fault)
		clear(m.failed)
		hits, fault = m.ask(c, m.checkAlone)
	}
	if fault != nil {
		return nil, fault.Error()
	}
	if len(m.failed) == 0 {
		return hits, ""
	}
	hits = slices.Clone(hits) // blame asks again, into the same memory
	return hits, m.blame(c)
}

// evaluatePaths leaves out the hits whose FHIRPath criteria is not true of the change. What cannot
// be decided goes into the reason for setting the event aside.
func (m *matcher) evaluatePaths(ctx context.Context, c *record.Change, hits []index.Hit, reason string) ([]index.Hit, string, error) {
	if !slices.ContainsFunc(hits, hasPath) {
		return hits, reason, nil
	}
	change := Change{Interaction: c.Interaction, State: m.tree, Time: c.Time}
	if c.Previous != 0 && c.Interaction == fhir.Update {
		change.Before = func(ctx context.Context) ([]byte, error) { return m.r.Bodies.Body(ctx, c.Previous) }
	}
	began := time.Time{} // reading the state before is not the expressions' time
	late := func() error {
		if began.IsZero() {
			began = time.Now()
		}
		if time.Since(began) > m.budget() {
			return m.fault(errBudget)
		}
		return nil
	}
	kept, undecided, err := m.paths.Filter(ctx, change, hits, late)
	if err != nil {
		return nil, "", fmt.Errorf("%s before its change at %d: %w", c.Key, c.Sequence, err)
	}
	if len(undecided) == 0 {
		return kept, reason, nil
	}
	var causes, ids []string
	for _, u := range undecided {
		causes, ids = append(causes, u.Err.Error()), append(ids, string(u.ID))
	}
	if reason != "" {
		reason += "; "
	}
	return kept, reason + notAsked(causes, ids), nil
}

// notAsked says why Subscriptions could not be asked, and which.
func notAsked(causes, ids []string) string {
	slices.Sort(causes)
	if len(ids) > 10 {
		ids = append(ids[:10:10], fmt.Sprintf("and %d more", len(ids)-10))
	}
	return fmt.Sprintf("%s; not asked: Subscription %s", strings.Join(slices.Compact(causes), "; "), strings.Join(ids, ", "))
}

// blame says which Subscriptions could not be asked.
func (m *matcher) blame(c *record.Change) string {
	var causes []string
	for _, err := range m.failed {
		causes = append(causes, err.Error())
	}
	failed := func(criteria *search.Criteria, _ *search.Resource) bool { return m.failed[criteria] != nil }
	var ids []string
	hits, fault := m.ask(c, failed)
	for _, h := range hits {
		ids = append(ids, string(h.ID))
	}
	if fault != nil {
		slices.Sort(causes)
		return strings.Join(slices.Compact(causes), "; ")
	}
	return notAsked(causes, ids)
}

// ask finds what an event meets, and turns a panic into a fault.
func (m *matcher) ask(c *record.Change, verify index.Verify) (hits []index.Hit, fault error) {
	defer func() {
		if p := recover(); p != nil {
			hits, fault = nil, m.fault(p)
			m.reset()
		}
	}()
	m.began, m.beside, m.others.waited, m.asked, m.seen, m.over = time.Now(), 0, 0, 0, m.resource.Work(), false
	m.hits = m.r.Index.Match(c.Sequence, c.Time, c.Interaction, m.resource, verify, m.hits[:0])
	return m.hits, nil
}

// errBudget is what check panics with: there is no other way out of the index, nor should
// there be one on its way to its ordinary answers.
var errBudget = errors.New("the evaluation exceeded its time")

// check asks a criteria, while the budget lasts.
func (m *matcher) check(c *search.Criteria, r *search.Resource) bool {
	if m.late(c) {
		panic(errBudget)
	}
	return m.decide(c, r)
}

// late reports whether the budget for a criteria is used up. Criteria that ask for other resources
// wait for disks and networks, and have a budget of their own: they must not take the event from
// those that need nothing but the event.
//
// Reading the clock costs as much as an ordinary criteria, so it is read at some of them only, and
// whenever much was done since the last time.
func (m *matcher) late(c *search.Criteria) bool {
	const often, much = 16, 1 << 16
	if c.NeedsRepository() {
		return m.beside+m.others.waited > m.budget()
	}
	work := m.resource.Work()
	if m.asked++; m.over || m.asked%often != 0 && work-m.seen < much {
		return m.over
	}
	m.seen = work
	m.over = time.Since(m.began)-m.beside-m.others.waited > m.budget()
	return m.over
}

// decide asks a criteria and notes if it cannot be decided.
func (m *matcher) decide(c *search.Criteria, r *search.Resource) bool {
	if c.NeedsRepository() {
		began, waited := time.Now(), m.others.waited
		defer func() { m.beside += time.Since(began) - (m.others.waited - waited) }()
	}
	met, err := c.Decide(r)
	if err != nil {
		m.failed[c] = err
	}
	return met
}

// checkAlone asks a criteria and notes a panic of its own. Those that the budget does not reach
// are noted as well, without being asked: what was found until then is found.
func (m *matcher) checkAlone(c *search.Criteria, r *search.Resource) (met bool) {
	defer func() {
		if p := recover(); p != nil {
			met, m.failed[c] = false, m.fault(p)
			m.reset()
		}
	}()
	if m.late(c) {
		m.failed[c] = m.fault(errBudget)
		return false
	}
	return m.decide(c, r)
}

func (m *matcher) budget() time.Duration {
	if m.r.Budget > 0 {
		return m.r.Budget
	}
	return 10 * time.Second
}

// fault makes an error of a panic.
func (m *matcher) fault(p any) error {
	if p == errBudget {
		return fmt.Errorf("%w of %s", errBudget, m.budget())
	}
	m.r.Log.Error("evaluation panicked", "partition", m.r.Partition, "stack", string(debug.Stack()))
	return panicked("the evaluation", p)
}

// setAside keeps an event that could not be evaluated, before the chain passes it.
func (m *matcher) setAside(ctx context.Context, c *record.Change, reason string) error {
	if err := m.r.Dead.SetAside(ctx, c.Event, reason); err != nil {
		return fmt.Errorf("set event %d aside: %w", c.Sequence, err)
	}
	m.r.Log.Error("event set aside", "partition", m.r.Partition, "event", c.Sequence, "resource", c.Key.String(), "reason", reason)
	if m.r.Observer.SetAside != nil {
		m.r.Observer.SetAside()
	}
	m.fresh() // whatever state the evaluation left behind
	return nil
}
