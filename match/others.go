package match

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
)

// others shows criteria the resources beside the event's own, at the event's place in the log
// (search.Repository). The Repository is asked for a view only when a criteria wants one, so an
// event that meets none of those costs nothing.
type others struct {
	ctx  context.Context // of the evaluation under way; nobody asks outside of one
	from Repository
	at   record.Sequence
	view search.Repository // nil until it is asked for

	waited time.Duration // for answers, since the matcher set it to 0
}

// begin says which event comes. Criteria are asked about the state before a delete, so the
// others are seen as they were then: a moment before, when the deleted one was still there.
func (o *others) begin(ctx context.Context, from Repository, c *record.Change) {
	*o = others{ctx: ctx, from: from, at: c.Sequence}
	if c.Interaction == fhir.Delete {
		o.at--
	}
}

func (o *others) Read(key fhir.Key) (search.State, error) {
	v, err := o.open()
	if err != nil {
		return search.State{}, err
	}
	defer o.wait(time.Now())
	return v.Read(key)
}

func (o *others) Referrers(typ, param string, target fhir.Key, after fhir.ID, limit int) ([]fhir.ID, error) {
	v, err := o.open()
	if err != nil {
		return nil, err
	}
	defer o.wait(time.Now())
	return v.Referrers(typ, param, target, after, limit)
}

func (o *others) wait(since time.Time) { o.waited += time.Since(since) }

func (o *others) open() (search.Repository, error) {
	if o.from == nil {
		return nil, fmt.Errorf("%w: there is no repository here", search.ErrUnanswered)
	}
	if o.view == nil {
		o.view = o.from.At(o.ctx, o.at)
	}
	return o.view, nil
}

// unavailable is set where a criteria could not be decided for a reason that may pass. The event
// then has to be evaluated again: nothing is lost, and nothing is set aside that can be known in
// a moment.
func (m *matcher) unavailable(c *record.Change) error {
	for _, err := range m.failed {
		if passing := (*search.Unavailable)(nil); errors.As(err, &passing) {
			return fmt.Errorf("evaluate event %d: %w", c.Sequence, err)
		}
	}
	return nil
}
