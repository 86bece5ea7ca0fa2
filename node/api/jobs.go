package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Jobs is what the administration API asks about work that goes on for a while. A job is durable
// when the method that orders it returns: it goes on after a restart, on whichever node, behind
// the last step that it made.
type Jobs interface {
	// Jobs lists the jobs that are kept, newest first.
	Jobs(ctx context.Context, f JobFilter) ([]Job, error)
	// Job returns one, with its Order; IssueNotFound if there is none of that id.
	Job(ctx context.Context, id string) (Job, error)
	// CancelJob ends a job behind the step that it is making. What it did stays done. One that was
	// cancelled before is no error, one that ended by itself is IssueConflict.
	CancelJob(ctx context.Context, id, by string) (Job, error)
	// Trigger orders resources to be matched and sent by hand. A Subscription or a resource that
	// is not known is IssueNotFound; searches are refused as Search refuses them.
	Trigger(ctx context.Context, t Trigger, by string) (Job, error)
}

// JobFilter chooses jobs. Zero fields choose all. Limit is at least 1.
type JobFilter struct {
	Kind  record.JobKind
	State record.JobState
	Limit int
}

// Job is work that goes on for a while: a replay or purge of dead letters, a trigger.
type Job struct {
	ID           string          `json:"id"`
	Kind         record.JobKind  `json:"kind"`
	State        record.JobState `json:"state"`
	Subscription fhir.ID         `json:"subscription,omitempty"`
	By           string          `json:"by,omitempty"` // token id of who asked
	Created      time.Time       `json:"created"`
	Started      time.Time       `json:"started,omitzero"`
	Ended        time.Time       `json:"ended,omitzero"`
	Done         int             `json:"done"`                // dead letters or resources that were done with
	Skipped      int             `json:"skipped"`             // those looked at for which there was nothing to do
	Sent         int             `json:"sent"`                // notifications that became pending
	Total        int             `json:"total,omitempty"`     // 0 where it is not known beforehand
	PerSecond    float64         `json:"perSecond,omitempty"` // so far, of Done and Skipped
	Error        string          `json:"error,omitempty"`     // why it failed
	Order        *record.Order   `json:"order,omitempty"`     // only where one job is asked for
}

// Trigger asks for resources to be matched and sent, as if they had just been updated.
type Trigger struct {
	Subscription fhir.ID    `json:"subscription,omitempty"` // empty: every Subscription that they meet
	Resources    []fhir.Key `json:"-"`
	Searches     []string   `json:"searches,omitempty"` // Type?query; a _count in it caps the total
	DryRun       bool       `json:"dryRun,omitempty"`   // count what would be sent
	Rate         int        `json:"rate,omitempty"`     // resources a second at most; 0: no limit
}

// Bounds of one trigger.
const (
	maxTriggerResources = 10_000
	maxTriggerSearches  = 100
)

func (s *server) adminJobs(c *call) error {
	p := c.params("kind", "state", "limit")
	f := JobFilter{Kind: record.JobKind(p.text("kind")), State: record.JobState(p.text("state")), Limit: p.limit()}
	switch f.Kind {
	case "", record.JobReplay, record.JobPurge, record.JobExpire, record.JobTrigger:
	default:
		p.fail("kind is replay, purge, expire or trigger")
	}
	if f.State != "" && !f.State.Known() {
		p.fail("state is queued, running, done, cancelled or failed")
	}
	if p.err != nil {
		return p.err
	}
	items, err := s.admin.Jobs(c.r.Context(), f)
	return list(c, items, err)
}

func (s *server) adminJob(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	item, err := s.admin.Job(c.r.Context(), c.r.PathValue("id"))
	return one(c, item, err)
}

func (s *server) adminCancelJob(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	item, err := s.admin.CancelJob(c.r.Context(), c.r.PathValue("id"), c.token.ID)
	return one(c, item, err)
}

func (s *server) adminTrigger(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var body struct {
		Trigger
		Resources []string `json:"resources"`
	}
	if err := s.readObject(c, &body); err != nil {
		return err
	}
	if body.Subscription != "" && !body.Subscription.Valid() {
		return badRequest("subscription is not an id")
	}
	if body.Rate < 0 {
		return badRequest("rate is a number of resources a second, or 0 for no limit")
	}
	t := body.Trigger
	if err := s.triggered(c, &t, body.Resources); err != nil {
		return err
	}
	job, err := s.admin.Trigger(c.r.Context(), t, c.token.ID)
	return one(c, job, err)
}

// triggered checks what is to be triggered.
func (s *server) triggered(c *call, t *Trigger, resources []string) error {
	switch {
	case len(resources)+len(t.Searches) == 0:
		return badRequest("name what to send: resourceId, as Patient/123, or searchUrl, as Patient?identifier=123, each as often as needed")
	case len(resources) > maxTriggerResources:
		return badRequest(fmt.Sprintf("at most %d resources can be named at a time, these are %d; a search can find more", maxTriggerResources, len(resources)))
	case len(t.Searches) > maxTriggerSearches:
		return badRequest(fmt.Sprintf("at most %d searches can be given at a time, these are %d", maxTriggerSearches, len(t.Searches)))
	}
	seen := map[fhir.Key]bool{}
	for _, ref := range resources {
		key, err := fhir.ParseKey(strings.TrimPrefix(ref, c.base+"/"))
		if err != nil {
			return badRequest(fmt.Sprintf("the resource %q is not of the form Type/id", printable(ref)))
		}
		if err := s.checkKey(key); err != nil {
			return err
		}
		if !seen[key] {
			seen[key] = true
			t.Resources = append(t.Resources, key)
		}
	}
	for _, search := range t.Searches {
		typ, _, found := strings.Cut(search, "?")
		if !found {
			return badRequest(fmt.Sprintf("the search %q has no question mark; it is of the form Type?parameters", printable(search)))
		}
		if err := s.hasType(typ); err != nil {
			return badRequest(fmt.Sprintf("the search %q does not begin with a resource type of %s", printable(search), s.release))
		}
	}
	return nil
}

// trigger is POST /fhir/Subscription/$trigger-subscription, or of one Subscription: HAPI's
// operation, with Parameters of resourceId (uri) and searchUrl (string).
func (s *server) trigger(c *call) error {
	var t Trigger
	if c.r.PathValue("id") != "" {
		key, err := s.key(c)
		if err != nil {
			return err
		}
		t.Subscription = key.ID
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	body, err := s.readOptional(c)
	if err != nil {
		return err
	}
	resources, err := readTrigger(body, &t)
	if err != nil {
		return err
	}
	if err := s.triggered(c, &t, resources); err != nil {
		return err
	}
	job, err := s.admin.Trigger(c.r.Context(), t, c.token.ID)
	if err != nil {
		return err
	}
	return c.sendJSON(http.StatusOK, map[string]any{
		"resourceType": "Parameters",
		"parameter":    []any{map[string]string{"name": "information", "valueString": "Subscription triggering job submitted as JOB ID: " + job.ID}},
	})
}

// readTrigger reads the operation's parameters. HAPI's own clients send the declared types, others
// what is at hand, so a value may be of any type that holds text.
func readTrigger(body []byte, to *Trigger) (resources []string, err error) {
	if len(body) == 0 {
		return nil, nil
	}
	t, err := parseStrict(body, len(body)+1, 0)
	if err != nil {
		return nil, err
	}
	if !t.Is(t.Get(t.Root(), "resourceType"), "Parameters") {
		return nil, badRequest("the body is a Parameters resource with the parameters resourceId and searchUrl")
	}
	for p := range t.Children(t.Get(t.Root(), "parameter")) {
		name, value := t.Str(t.Get(p, "name")), ""
		for _, typ := range []string{"valueUri", "valueString", "valueUrl", "valueCanonical", "valueId"} {
			if value == "" {
				value = t.Str(t.Get(p, typ))
			}
		}
		switch {
		case name != "resourceId" && name != "searchUrl":
			return nil, badRequest("parameter " + printable(name) + " is not known here; they are resourceId and searchUrl")
		case value == "":
			return nil, badRequest("parameter " + name + " has no value: resourceId is a valueUri, searchUrl a valueString")
		case name == "resourceId":
			resources = append(resources, value)
		default:
			to.Searches = append(to.Searches, value)
		}
	}
	return resources, nil
}
