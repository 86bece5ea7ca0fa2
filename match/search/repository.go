package search

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// Repository tells of resources beside the one that is evaluated: what chains, _has and _list
// ask about. It speaks of one moment, so that all that an evaluation asks belongs together.
//
// A Repository over the log speaks of one place in it: of each resource it knows the newest
// version at or before that place, whatever was written since. All that is asked of it has then
// one answer on every node and at any time. One over another server gives what that server
// says now.
//
// An error that wraps ErrUnanswered is final for what is being evaluated. Any other is taken for
// passing: the same question may be answered later. A Repository is used by one goroutine at a
// time.
type Repository interface {
	// Read returns the state of a resource. Its Body is nil where there is none: it was never
	// seen, or is deleted.
	Read(key fhir.Key) (State, error)

	// Referrers lists resources of a type that refer to target by a search parameter of that
	// type, in rising order of their ids: those after an id, at most limit. Fewer than limit are
	// the rest. All that refer to it are listed; others may be among them, so whoever asks looks
	// at each.
	Referrers(typ, param string, target fhir.Key, after fhir.ID, limit int) ([]fhir.ID, error)
}

// State is a resource as a Repository knows it.
type State struct {
	Body        []byte    // not changed by anybody while the evaluation lasts
	LastUpdated time.Time // of this version; zero: what the body says
	Feed        bool      // of a change feed, whose own meta.lastUpdated counts where it has one
}

// ErrUnanswered says that a Repository did not answer and will not for this evaluation: the
// criteria is not evaluable for this resource.
var ErrUnanswered = errors.New("not evaluable: a resource that the criteria asks for could not be had")

var errNoRepository = fmt.Errorf("%w: there is no repository here", ErrUnanswered)

// Unavailable is why a criteria could not be decided now. Asked again later it may be: nothing
// is known of the criteria, neither that it is met nor that it is not.
type Unavailable struct {
	Err error // of the Repository
}

// Error says what was not available.
func (e *Unavailable) Error() string {
	return "a resource that the criteria asks for is not available: " + e.Err.Error()
}

// Unwrap is the Repository's error.
func (e *Unavailable) Unwrap() error { return e.Err }

// worse chooses which of two reasons to report, the same in whatever order they are met. One
// that may pass comes first: whoever is told of it asks again, and may then learn that the
// criteria is not met after all.
func worse(a, b error) error {
	if a == nil || b != nil && gravity(b) > gravity(a) {
		return b
	}
	return a
}

func gravity(err error) int {
	var passing *Unavailable
	switch {
	case errors.As(err, &passing):
		return 3
	case errors.Is(err, ErrTooCostly):
		return 2
	case errors.Is(err, ErrNotEvaluable):
		return 1
	}
	return 0
}

// WithRepository gives definitions whose criteria may ask for other resources: by chains
// (subject:Patient.name=), _has and _list. Each Resource that meets them is to have a
// Repository; without one such conditions are refused when compiled.
func (d *Definitions) WithRepository() *Definitions {
	c := *d
	c.repository = true
	return &c
}

// NeedsRepository reports whether the criteria asks for other resources than the one that it is
// held against.
func (c *Criteria) NeedsRepository() bool { return c.repository }

// SetRepository says who tells of other resources. What was read from an earlier one is
// forgotten; Reset keeps the Repository and forgets what was read from it, so a Repository may
// move on between two resources.
func (r *Resource) SetRepository(from Repository) {
	if r.others == nil {
		r.others = &others{root: r}
	}
	r.others.forget(r)
	r.others.repository = from
}

// Bounds of what an evaluation keeps of other resources. What does not fit is read again when
// it is asked for again.
const (
	maxKept      = 4096     // resources
	maxKeptBytes = 8 << 20  // of their bodies
	maxFree      = 16       // whose memory is used again
	freeBytes    = 64 << 10 // of a body, so that a rare large one does not stay
)

// visitCost is the steps of looking at another resource, besides its length. It allows one
// condition some thirty thousand of them.
const visitCost = 512

// maxCandidates bounds the resources that are read for one criteria only to find that they do
// not refer to the target any more. They are not counted as steps: how many there are
// depends on how far the projection is, and a decision must not.
const maxCandidates = 1 << 17

// others are the resources beside one resource, as far as criteria have asked for them. They
// are read once, however many criteria ask; so is one that cannot be had.
type others struct {
	root       *Resource
	repository Repository

	byKey      map[fhir.Key]*Resource // nil: there is none of that key
	failed     map[fhir.Key]error     // what could not be had is not asked for again either
	lists      map[question]*referrers
	bytes      int
	candidates int // of the criteria at hand; see maxCandidates
	free       []*Resource
}

// question is what is asked of Referrers.
type question struct {
	typ, param string
	target     fhir.Key
}

// referrers is the answer, as far as it was read.
type referrers struct {
	ids []fhir.ID
	all bool
}

// forget lets go of what was read, if it was for r.
func (o *others) forget(r *Resource) {
	if o == nil || o.root != r {
		return
	}
	for _, other := range o.byKey {
		o.release(other)
	}
	clear(o.byKey)
	clear(o.failed)
	clear(o.lists)
	o.bytes = 0
}

// begin is called when a criteria is asked.
func (o *others) begin() {
	if o != nil {
		o.candidates = 0
	}
}

// release takes back the memory of a resource that nobody looks at any more.
func (o *others) release(r *Resource) {
	if r == nil || r == o.root || len(o.free) == maxFree || len(r.tree.Source()) > freeBytes {
		return
	}
	r.container, r.bundle, r.entry = nil, nil, 0
	o.free = append(o.free, r)
}

// discard gives up a resource that is not kept.
func (o *others) discard(r *Resource, kept bool) {
	if r != nil && !kept {
		o.release(r)
	}
}

// fresh gives a resource for a body, with its own memory.
func (o *others) fresh(body []byte, e Envelope) (*Resource, error) {
	var r *Resource
	if n := len(o.free); n > 0 {
		r, o.free = o.free[n-1], o.free[:n-1]
	} else {
		r = &Resource{definitions: o.root.definitions, tree: &json.Tree{}, others: o}
	}
	err := r.tree.Parse(body, json.Limits{Bytes: max(1, len(body))})
	if err != nil {
		o.release(r)
		return nil, err
	}
	r.Reset(r.tree, e)
	return r, nil
}

// read gives a resource as the repository knows it, nil where there is none. One that is not
// kept is released by the caller.
func (o *others) read(key fhir.Key) (r *Resource, kept bool, err error) {
	if o == nil || o.repository == nil {
		return nil, false, errNoRepository
	}
	if string(key.ID) == o.root.ID() && key.Type == o.root.name {
		return o.root, true, nil // also before it is written, and while its delete is matched
	}
	if r, known := o.byKey[key]; known {
		return r, true, nil
	}
	if err, known := o.failed[key]; known {
		return nil, false, err
	}
	s, err := o.repository.Read(key)
	if err != nil {
		return nil, false, o.fail(key, judged(err))
	}
	if s.Body != nil {
		if r, err = o.parse(key, s); err != nil {
			return nil, false, o.fail(key, err)
		}
	}
	if len(o.byKey) >= maxKept || o.bytes+len(s.Body) > maxKeptBytes {
		return r, false, nil
	}
	if o.byKey == nil {
		o.byKey = map[fhir.Key]*Resource{}
	}
	o.byKey[key] = r
	o.bytes += len(s.Body)
	return r, true, nil
}

// fail remembers why a resource could not be had: all that is asked in one evaluation gets one
// answer, and a server that does not answer is not asked by each of a thousand criteria.
func (o *others) fail(key fhir.Key, err error) error {
	if len(o.failed) < maxKept {
		if o.failed == nil {
			o.failed = map[fhir.Key]error{}
		}
		o.failed[key] = err
	}
	return err
}

// parse makes a resource of a state.
func (o *others) parse(key fhir.Key, s State) (*Resource, error) {
	r, err := o.fresh(s.Body, Envelope{ID: string(key.ID), LastUpdated: s.LastUpdated})
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be read: %w", ErrUnanswered, key, err)
	}
	if r.name != key.Type {
		o.release(r)
		return nil, fmt.Errorf("%w: what is stored as %s is of another type", ErrUnanswered, key)
	}
	if t := r.tree; s.Feed && t.Find(t.Find(t.Root(), nameMeta), nameLastUpdated) != 0 {
		r.envelope.LastUpdated = time.Time{}
	}
	return r, nil
}

// within gives a resource that stands inside another one's body: a contained one, whose
// references to fragments mean the container's, or one of a Bundle. The caller releases it.
func (o *others) within(outer *Resource, n json.Node, contained bool) (*Resource, error) {
	r, err := o.fresh(outer.tree.Raw(n), Envelope{})
	if err != nil {
		return nil, fmt.Errorf("%w: a resource inside %s cannot be read: %w", ErrUnanswered, outer.name, err)
	}
	if contained {
		r.container, r.bundle, r.entry = outer, outer.bundle, outer.entry
	} else {
		r.bundle, r.entry = outer, n
	}
	return r, nil
}

// listed gives a page of the resources that may refer to a target, and whether more may follow.
func (o *others) listed(q question, from int) (ids []fhir.ID, err error) {
	const page = 256
	l := o.lists[q]
	if l == nil {
		l = &referrers{}
		if o.lists == nil {
			o.lists = map[question]*referrers{}
		}
		o.lists[q] = l
	}
	if from == len(l.ids) && !l.all {
		after := fhir.ID("")
		if from > 0 {
			after = l.ids[from-1]
		}
		more, err := o.repository.Referrers(q.typ, q.param, q.target, after, page)
		if err != nil {
			return nil, judged(err)
		}
		if len(more) > 0 && (more[0] <= after || !slices.IsSorted(more)) {
			return nil, fmt.Errorf("%w: the repository lists resources out of order", ErrUnanswered)
		}
		l.ids, l.all = append(l.ids, more...), len(more) < page
	}
	return l.ids[from:], nil
}

// judged tells errors that are final from those that may pass.
func judged(err error) error {
	if errors.Is(err, ErrUnanswered) {
		return err
	}
	return &Unavailable{err}
}

var (
	nameMeta        = json.NewName("meta")
	nameLastUpdated = json.NewName("lastUpdated")
)
