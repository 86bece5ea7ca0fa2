package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// Bounds of a step of a trigger.
const (
	triggerPage    = 100              // resources that are found at a time
	triggerSent    = 2000             // notifications of a step, so that a record keeps to a part of what the log takes
	triggerTime    = 20 * time.Second // for one page of a search
	maxTriggerText = 4 << 10          // bytes of a search
)

// Trigger orders resources to be sent as if they had just been updated (HAPI's
// $trigger-subscription). Criteria still decide.
func (a *admin) Trigger(ctx context.Context, t api.Trigger, by string) (api.Job, error) {
	if err := a.gate.upToDate(ctx); err != nil {
		return api.Job{}, refusal(err)
	}
	if t.Subscription != "" {
		s, err := a.subscription(t.Subscription)
		if err != nil {
			return api.Job{}, err
		}
		if s.Status == fhir.StatusOff {
			return api.Job{}, fhir.Refuse(fhir.IssueProcessing, "", s.String()+" is off, so nothing would be sent; switch it on first")
		}
	}
	o := record.Order{Kind: record.JobTrigger, Subscription: t.Subscription, Searches: t.Searches, Rate: t.Rate, DryRun: t.DryRun}
	for _, key := range t.Resources {
		res, known, err := a.store.Resource(key)
		if err != nil {
			return api.Job{}, err
		}
		if !known || res.Deleted {
			return api.Job{}, notFound(key)
		}
		o.Resources = append(o.Resources, key.String())
	}
	for _, text := range t.Searches {
		if _, _, err := a.gate.search.triggered(text); err != nil {
			return api.Job{}, err
		}
	}
	if len(o.Searches) == 0 {
		o.Total = len(o.Resources)
	}
	return a.jobs.order(ctx, o, by)
}

// triggered understands a search of a trigger. A _count in it caps what it finds, as with HAPI; 0
// is no cap.
func (s *searcher) triggered(text string) (a *asked, most int, err error) {
	typ, query, _ := strings.Cut(text, "?")
	if !s.defs.now().HasType(typ) {
		return nil, 0, fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("the search %q does not begin with a resource type and a question mark", shortened(text)))
	}
	if len(text) > maxTriggerText {
		return nil, 0, fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf("a search has at most %d bytes, one has %d", maxTriggerText, len(text)))
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, 0, fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf("the search %q cannot be read: check its %% escapes", shortened(text)))
	}
	for name := range values {
		switch base, _, _ := strings.Cut(name, ":"); base {
		case "_include", "_revinclude", "_cursor", "_offset":
			return nil, 0, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("%s makes no sense here: what is sent are the matches of the search, all of them up to _count", base))
		}
	}
	if cap := values.Get("_count"); cap != "" {
		if most, err = strconv.Atoi(cap); err != nil || most < 1 {
			return nil, 0, fhir.Refuse(fhir.IssueValue, "", "_count must be a number from 1 on: it caps how many resources are sent")
		}
		values.Del("_count")
	}
	a, err = s.understand(typ, values, false)
	return a, most, err
}

// triggerCursor is how far a trigger is.
type triggerCursor struct {
	Resources int      `json:"r,omitempty"` // of the order that were taken up
	Search    int      `json:"s,omitempty"` // that goes on now
	Found     int      `json:"f,omitempty"` // by it so far
	Next      string   `json:"n,omitempty"` // its next page; empty: the first
	Rest      []string `json:"q,omitempty"` // taken up and not done yet, Type/id
	After     fhir.ID  `json:"a,omitempty"` // of the first of Rest: the last Subscription that was done
	Unknown   bool     `json:"u,omitempty"` // how many there are in all cannot be told
}

func (j *jobs) triggerStep(ctx context.Context, job store.Job) (next record.Step, work func(*record.Job) error, err error) {
	at := triggerCursor{}
	if job.Cursor != "" {
		if err := json.Unmarshal([]byte(job.Cursor), &at); err != nil {
			return next, nil, fhir.Refuse(fhir.IssueProcessing, "", "the job's cursor cannot be read")
		}
	}
	if id := job.Subscription; id != "" {
		if s := j.subs.get(id); s == nil || s.deleted || s.Status == fhir.StatusOff {
			return next, nil, fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf("Subscription/%s was deleted or switched off meanwhile", id))
		}
	}
	next = job.Step
	next.State = record.JobRunning
	more := true
	if len(at.Rest) == 0 {
		if more, err = j.takeUp(ctx, job.Order, &at, &next); err != nil {
			return next, nil, err
		}
	}
	plan, err := j.planTrigger(ctx, job, &at, &next)
	if err != nil {
		return next, nil, err
	}
	if !more && len(at.Rest) == 0 {
		next.State = record.JobDone
	}
	next.Cursor = string(record.Encode(at))
	next.Sent += len(plan)
	if job.Order.DryRun {
		return next, nil, nil
	}
	return next, func(r *record.Job) error {
		r.Interaction = fhir.Update
		return j.again(r, plan, job.ID)
	}, nil
}

// takeUp fills the rest with what comes next: resources that the order names, then a page of a
// search. more says that there may be something behind it.
func (j *jobs) takeUp(ctx context.Context, o record.Order, at *triggerCursor, next *record.Step) (more bool, err error) {
	size := stepSize(triggerPage, o.Rate)
	if at.Resources < len(o.Resources) {
		at.Rest = o.Resources[at.Resources:min(at.Resources+size, len(o.Resources))]
		if at.Resources == 0 {
			next.Total = len(o.Resources)
		}
		at.Resources += len(at.Rest)
	} else if at.Search < len(o.Searches) {
		if err := j.nextPage(ctx, o.Searches[at.Search], size, at, next); err != nil {
			return false, err
		}
	}
	return at.Resources < len(o.Resources) || at.Search < len(o.Searches), nil
}

// nextPage finds the next resources of a search. All pages are of one position of the log, which
// the cursor carries: so none is missed and none comes twice, whatever is written meanwhile and
// whichever node goes on.
func (j *jobs) nextPage(ctx context.Context, text string, size int, at *triggerCursor, next *record.Step) error {
	finder := *j.gate.search
	finder.budget, finder.scans = triggerTime, j.scan // nobody waits with a connection open, and nobody else's place is taken
	a, most, err := finder.triggered(text)
	if err != nil {
		return err
	}
	a.count, a.total = size, totalNone
	if most > 0 {
		a.count = min(size, most-at.Found)
	}
	if at.Next == "" {
		a.total = totalIfCheap
	} else if a.cursor, err = parseCursor(at.Next); err != nil {
		return err
	}
	page, err := finder.search(ctx, a)
	if err != nil {
		return err
	}
	if at.Next == "" {
		at.Unknown = at.Unknown || page.total < 0
		if next.Total += page.total; most > 0 && page.total > most {
			next.Total += most - page.total
		}
	}
	if at.Unknown {
		next.Total = 0
	}
	for _, r := range page.matches {
		at.Rest = append(at.Rest, r.Key.String())
	}
	at.Found += len(page.matches)
	if page.next == nil || most > 0 && at.Found >= most {
		at.Search, at.Found, at.Next = at.Search+1, 0, ""
	} else {
		at.Next = page.next.String()
	}
	return nil
}

// resent is one notification that is to be sent once more, or for the first time.
type resent struct {
	event record.Sequence
	index.Hit
}

// planTrigger finds out who is to hear of what was taken up. What it is done with leaves the rest.
func (j *jobs) planTrigger(ctx context.Context, job store.Job, at *triggerCursor, next *record.Step) (plan []resent, err error) {
	for len(at.Rest) > 0 && len(plan) < triggerSent {
		key, err := fhir.ParseKey(at.Rest[0])
		if err != nil {
			return nil, fhir.Refuse(fhir.IssueProcessing, "", "the job's cursor cannot be read")
		}
		event, hits, err := j.hearers(ctx, key, job.Subscription)
		if err != nil {
			return nil, err
		}
		if at.After != "" {
			for len(hits) > 0 && hits[0].ID <= at.After {
				hits = hits[1:]
			}
		} else if len(hits) == 0 {
			next.Skipped++
		} else {
			next.Done++
		}
		room := min(len(hits), triggerSent-len(plan))
		for _, h := range hits[:room] {
			plan = append(plan, resent{event, h})
		}
		if room < len(hits) {
			at.After = hits[room-1].ID
			break
		}
		at.Rest, at.After = at.Rest[1:], ""
	}
	return plan, nil
}

// hearers are the Subscriptions, or the one that is meant, that the current version of a resource
// meets as an update, in order of their ids; none where it was deleted meanwhile.
func (j *jobs) hearers(ctx context.Context, key fhir.Key, meant fhir.ID) (record.Sequence, []index.Hit, error) {
	res, known, err := j.store.Resource(key)
	if err != nil || !known || res.Deleted {
		return 0, nil, err
	}
	v, known, err := j.store.Before(res.Version)
	if err != nil || !known {
		return 0, nil, err
	}
	if err := j.passed(ctx, v); err != nil {
		return 0, nil, err
	}
	state, err := (backend{j.gate}).stateOf(ctx, v)
	if err != nil {
		return 0, nil, err
	}
	hits, err := j.heard(ctx, v, state, meant)
	if lasting(err) {
		hits, err = j.heardApart(ctx, v, state, meant)
	}
	return v.Sequence, hits, err
}

// heardApart asks the Subscriptions one by one, where the criteria of one of those that are meant cannot
// be evaluated on a resource: that one is left out, and neither the others nor the rest of the job.
func (j *jobs) heardApart(ctx context.Context, v store.Version, state *search.Resource, meant fhir.ID) (hits []index.Hit, err error) {
	for _, s := range j.subs.all() {
		if meant != "" && s.id != meant || !s.about(v.Key.Type) {
			continue
		}
		one, err := j.heard(ctx, v, state, s.id)
		switch {
		case lasting(err):
			j.log.Warn("a resource is left out of a trigger, since the Subscription's criteria cannot be evaluated on it", "resource", v.Key.String(), "subscription", s.id)
		case err != nil:
			return nil, err
		}
		hits = append(hits, one...)
	}
	return hits, nil
}

func (j *jobs) heard(ctx context.Context, v store.Version, state *search.Resource, meant fhir.ID) ([]index.Hit, error) {
	var hits []index.Hit
	if meant == "" {
		var err error
		if hits, err = j.met(fhir.Update, state, func(index.Hit) bool { return true }); err != nil {
			return nil, err
		}
	} else {
		// One is asked by itself: the index would ask all of them.
		e, ok := j.subs.index.Get(meant, index.Newest)
		if !ok || !e.InForce(index.Newest, time.Now()) || !match.Listens(e.Interactions, fhir.Update).Met {
			return nil, nil
		}
		met, err := e.Criteria.Decide(state)
		if err != nil {
			return nil, undecidable(meant, err)
		}
		if met {
			hits = []index.Hit{{ID: e.ID, Birth: e.Birth, Version: e.Version, Path: e.Path}}
		}
	}
	return j.resendPaths(ctx, v, fhir.Update, state, hits)
}

// again fills a job's record: those that have the event get it once more, with its old number in a
// new round; to the others it is a new match.
func (a *admin) again(r *record.Job, plan []resent, job string) error {
	for _, p := range plan {
		id := record.MatchID{Event: p.event, Birth: p.Birth}
		_, has, err := a.store.MatchByID(id)
		switch {
		case err != nil:
			return err
		case has:
			r.Replay = append(r.Replay, id)
		default:
			r.Matches = append(r.Matches, record.Match{
				Event: p.event, Subscription: p.ID, Birth: p.Birth, Version: p.Version, Interaction: r.Interaction, Job: job,
			})
		}
	}
	return nil
}

// passed waits until the event's partition has decided about it, and this node knows what: only
// then is it known which Subscriptions do not have it.
func (a *admin) passed(ctx context.Context, v store.Version) error {
	partition := a.table.Of(v.Key.Type, stream.ShardOf(v.Key.ID))
	for a.marks.of(partition) < v.Sequence {
		b, at, found, err := blocks{a.server}.Newest(ctx, partition)
		if err != nil {
			return refusal(err)
		}
		if found && b.Through >= v.Sequence {
			return a.store.WaitApplied(ctx, store.Vector{Matches: at})
		}
		// A partition without matches writes its mark once a second.
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
