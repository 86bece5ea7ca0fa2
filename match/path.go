package match

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhirpath"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// Change is what a FHIRPath criteria is asked about: a state, and the one before it.
//
// As Medplum has it, %current and the context are the state that the search criteria was asked
// about, and %previous is the state before, which a create does not have. A delete leaves no
// state, so both are the one that was deleted: an expression that compares the two says of a
// delete that nothing has changed.
type Change struct {
	Interaction fhir.Interaction
	State       *json.Tree
	Time        time.Time // now() of the expressions: the log's time of the event, the same on every node

	// Before reads the state before an update. It is called at most once, and only for an
	// expression that speaks of it. nil where there was none; an error that wraps ErrGone is
	// final, any other passing.
	Before func(context.Context) ([]byte, error)
}

// Paths decides the FHIRPath criteria of those whose search criteria a change has met. It owns
// the memory of its evaluations and is used by one goroutine at a time.
type Paths struct {
	evaluator *fhirpath.Evaluator
	previous  json.Tree
	input     fhirpath.Input
	read      bool  // of this change, the state before was read, or there is none
	gone      error // why there should be one and is none
	decided   map[*fhirpath.Expression]verdict
}

// verdict is what an expression says about a change.
type verdict struct {
	met bool
	err error // it could not be decided; final
}

// NewPaths returns a Paths.
func NewPaths() *Paths {
	return &Paths{evaluator: fhirpath.NewEvaluator(), decided: map[*fhirpath.Expression]verdict{}}
}

// Filter keeps of the hits, in their own memory, those without an expression and those whose
// expression is true of the change. Equal expressions are asked once if they are one in memory.
// undecided holds those whose expression could not be evaluated, with the reason: an expression
// that fails, panics, or costs too much takes the event from its own Subscriptions alone. late,
// if it is not nil, is asked before each expression and ends the evaluation with its error; the
// rest is undecided. err is passing, and says that nothing was decided.
func (p *Paths) Filter(ctx context.Context, c Change, hits []index.Hit, late func() error) (kept []index.Hit, undecided []Undecided, err error) {
	if !slices.ContainsFunc(hits, hasPath) {
		return hits, nil, nil
	}
	p.begin(&c)
	defer p.end()
	for _, h := range hits {
		if h.Path != nil {
			if err := p.before(ctx, &c, h.Path); err != nil {
				return nil, nil, err
			}
		}
	}
	kept = hits[:0]
	for _, h := range hits {
		v := verdict{met: true}
		if h.Path != nil {
			v = p.decide(h.Path, late)
		}
		switch {
		case v.err != nil:
			undecided = append(undecided, Undecided{h.ID, v.err})
		case v.met:
			kept = append(kept, h)
		}
	}
	return kept, undecided, nil
}

func hasPath(h index.Hit) bool { return h.Path != nil }

// Undecided names a Subscription whose expression could not be evaluated.
type Undecided struct {
	ID  fhir.ID
	Err error // holds nothing of the resource
}

func (p *Paths) begin(c *Change) {
	clear(p.decided)
	p.read, p.gone = c.Interaction == fhir.Create || c.Before == nil, nil
	p.input = fhirpath.Input{Resource: c.State, Current: c.State, Now: c.Time}
	if c.Interaction == fhir.Delete {
		p.input.Previous, p.read = c.State, true
	}
}

// end lets the bodies go.
func (p *Paths) end() {
	p.input = fhirpath.Input{}
	_ = p.previous.Parse(nothing, json.Limits{})
}

// nothing is a document that a tree holds in place of one that it is to let go.
var nothing = []byte("null")

// before reads the state before the change, if an expression speaks of it.
func (p *Paths) before(ctx context.Context, c *Change, e *fhirpath.Expression) error {
	if p.read || !e.ReadsPrevious() {
		return nil
	}
	body, err := c.Before(ctx)
	switch {
	case errors.Is(err, ErrGone):
		p.gone = errors.New("the state before the event is gone")
	case err != nil:
		return fmt.Errorf("read the state before the event: %w", err)
	default:
		if err := p.previous.Parse(body, json.Limits{Bytes: max(1, len(body))}); err != nil {
			p.gone = fmt.Errorf("the state before the event cannot be read: %w", err)
		}
	}
	p.read = true
	if p.gone == nil {
		p.input.Previous = &p.previous
	}
	return nil
}

// decide asks an expression, unless it was asked already.
func (p *Paths) decide(e *fhirpath.Expression, late func() error) verdict {
	if v, ok := p.decided[e]; ok {
		return v
	}
	if p.gone != nil && e.ReadsPrevious() {
		return verdict{err: p.gone}
	}
	if late != nil {
		if err := late(); err != nil {
			return verdict{err: err}
		}
	}
	v := p.test(e)
	p.decided[e] = v
	return v
}

// test evaluates an expression. One that panics is one that cannot be decided.
func (p *Paths) test(e *fhirpath.Expression) (v verdict) {
	defer func() {
		if f := recover(); f != nil {
			v = verdict{err: panicked("the FHIRPath criteria", f)}
			p.evaluator = fhirpath.NewEvaluator() // the old one may hold half of something
		}
	}()
	met, err := p.evaluator.Test(e, p.input)
	if err != nil {
		return verdict{err: fmt.Errorf("the FHIRPath criteria cannot be evaluated: %w", err)}
	}
	return verdict{met: met}
}

// Explain asks an expression and shows the values that it gives. An error is passing.
func (p *Paths) Explain(ctx context.Context, e *fhirpath.Expression, c Change) (out search.Condition, err error) {
	out = search.Condition{Text: "FHIRPath " + e.String()}
	p.begin(&c)
	defer p.end()
	if err := p.before(ctx, &c, e); err != nil {
		return out, err
	}
	v := p.decide(e, nil)
	if v.err != nil {
		out.Note = "not evaluable: " + v.err.Error()
		return out, nil
	}
	if out.Met = v.met; !v.met {
		out.Note = "the expression gives nothing; only a single true counts"
	}
	out.Found = p.values(e)
	if !v.met && len(out.Found) > 0 {
		out.Note = "the expression does not give a single true"
	}
	return out, nil
}

// shownValues bounds what Explain shows of an expression's values.
const shownValues = 20

// values are what an expression gives, as JSON.
func (p *Paths) values(e *fhirpath.Expression) (out []string) {
	defer func() {
		if recover() != nil {
			out, p.evaluator = nil, fhirpath.NewEvaluator()
		}
	}()
	values, err := p.evaluator.Evaluate(e, p.input)
	if err != nil {
		return nil
	}
	for i := range min(values.Len(), shownValues) {
		out = append(out, string(values.At(i).AppendJSON(nil)))
	}
	return out
}

// panicked makes an error of a panic. Only the runtime's own texts are repeated: any other value
// might hold something of the resource.
func panicked(what string, p any) error {
	if err, ok := p.(runtime.Error); ok {
		return fmt.Errorf("%s panicked: %s", what, err)
	}
	return fmt.Errorf("%s panicked with a %T", what, p)
}
