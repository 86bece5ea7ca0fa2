package match

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
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
// then say so. A Subscription that the index does not hold is refused with an *fhir.Error.
func Explain(x *index.Index, q Question) (Explanation, error) {
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
	conditions := circumstances(&e, q)
	unmet := slices.ContainsFunc(conditions, func(c search.Condition) bool { return !c.Met })
	return Explanation{
		Subscription: e.ID, Birth: e.Birth, Version: e.Version, Criteria: e.Criteria.String(),
		Matches:    !unmet && e.Criteria.Match(q.Resource),
		Conditions: append(conditions, e.Criteria.Explain(q.Resource)...),
	}, nil
}

// circumstances are the conditions that do not depend on the resource.
func circumstances(e *index.Entry, q Question) []search.Condition {
	force := search.Condition{Text: "in force", Met: e.InForce(q.At, time.Time{})}
	switch {
	case force.Met:
	case e.Version >= q.At:
		force.Note = fmt.Sprintf("this version was written at %d, the event was at %d", e.Version, q.At)
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
	hears := search.Condition{Text: "listens to " + string(q.Interaction), Met: slices.Contains(e.Interactions, q.Interaction)}
	if !hears.Met {
		var heard []string
		for _, i := range e.Interactions {
			heard = append(heard, string(i))
		}
		hears.Note = "it listens to " + strings.Join(heard, ", ")
	}
	return append(conditions, hears)
}
