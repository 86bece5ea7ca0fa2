package match

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/fhirpath"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// Question asks why an event met a Subscription, or did not.
type Question struct {
	Subscription fhir.ID
	At           record.Sequence  // the event; index.Newest for one that has not happened yet
	Time         time.Time        // the log's time of the event; zero leaves the Subscription's end out of account
	Interaction  fhir.Interaction // what the event did
	Resource     *search.Resource // the state after it; for a delete the one before

	// Before reads the state before an update, for FHIRPath criteria; see Change.
	Before func(context.Context) ([]byte, error)
}

// Explanation answers a Question, condition by condition.
type Explanation struct {
	Subscription fhir.ID
	Birth        record.Sequence
	Version      record.Sequence // version of the Subscription that was asked
	Criteria     string
	Matches      bool
	Conditions   []search.Condition
}

// Explain evaluates one Subscription with the code that the matcher runs. The version asked is
// the one in force at the event, and where none was, the newest that there is: its conditions
// then say so. A Subscription that the index does not hold is refused with an *fhir.Error; any
// other error says that a state, or another resource, could not be read now.
func Explain(ctx context.Context, x *index.Index, q Question) (Explanation, error) {
	versions := x.Versions(q.Subscription)
	if len(versions) == 0 {
		return Explanation{}, fhir.Refuse(fhir.IssueNotFound, "",
			fmt.Sprintf("Subscription/%s is not in force: it does not exist, is off, or was never active", q.Subscription))
	}
	e := versions[len(versions)-1]
	for _, v := range versions {
		if v.InForce(q.At, time.Time{}) {
			e = v
		}
	}
	criteria, err := ExplainCriteria(ctx, e.Criteria, e.Path, q)
	if err != nil {
		return Explanation{}, err
	}
	out := Explanation{
		Subscription: e.ID, Birth: e.Birth, Version: e.Version, Criteria: e.Criteria.String(),
		Matches:    criteria.Matches,
		Conditions: append(circumstances(&e, q), criteria.Conditions...),
	}
	for _, c := range out.Conditions {
		out.Matches = out.Matches && c.Met
	}
	return out, nil
}

// ExplainCriteria explains criteria by themselves, such as those of a Subscription that is not
// stored. path may be nil. Its error says that a state could not be read now, or that another
// resource could not be had on which the answer depends: that is no "does not match".
func ExplainCriteria(ctx context.Context, criteria *search.Criteria, path *fhirpath.Expression, q Question) (Explanation, error) {
	met, err := criteria.Decide(q.Resource)
	if passing := (*search.Unavailable)(nil); errors.As(err, &passing) || errors.Is(err, search.ErrUnanswered) {
		return Explanation{}, err
	}
	out := Explanation{Criteria: criteria.String(), Matches: met, Conditions: criteria.Explain(q.Resource)}
	if path == nil {
		return out, nil
	}
	c, err := NewPaths().Explain(ctx, path, Change{Interaction: q.Interaction, State: q.Resource.Tree(), Time: q.moment(), Before: q.Before})
	if err != nil {
		return Explanation{}, err
	}
	out.Matches = out.Matches && c.Met
	out.Conditions = append(out.Conditions, c)
	return out, nil
}

// moment is the time of the event, or now for one that has not happened.
func (q *Question) moment() time.Time {
	if q.Time.IsZero() {
		return time.Now()
	}
	return q.Time
}

// circumstances are the conditions that do not depend on the resource.
func circumstances(e *index.Entry, q Question) []search.Condition {
	force := search.Condition{Text: "in force", Met: e.InForce(q.At, time.Time{})}
	switch {
	case force.Met:
	case e.Version >= q.At:
		force.Note = fmt.Sprintf("this version was written at %d, the event was at %d", e.Version, q.At)
	case e.From >= q.At:
		force.Note = fmt.Sprintf("a definition that it uses was changed at %d, the event was at %d", e.From, q.At)
	default:
		force.Note = fmt.Sprintf("it ended at %d", e.Until)
	}
	conditions := []search.Condition{force}
	if !e.End.IsZero() {
		end := search.Condition{Text: "before its end", Met: q.Time.IsZero() || q.Time.Before(e.End)}
		if !end.Met {
			end.Note = "it ended at " + e.End.Format(time.RFC3339)
		}
		conditions = append(conditions, end)
	}
	return append(conditions, Listens(e.Interactions, q.Interaction))
}

// Listens is the condition that a Subscription hears of an interaction.
func Listens(heard []fhir.Interaction, i fhir.Interaction) search.Condition {
	hears := search.Condition{Text: "listens to " + string(i), Met: slices.Contains(heard, i)}
	if !hears.Met {
		var names []string
		for _, h := range heard {
			names = append(names, string(h))
		}
		hears.Note = "it listens to " + strings.Join(names, ", ")
	}
	return hears
}
