package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// registry knows every Subscription as of the newest change folded: how it is to be sent, and,
// through the index, what it wants to hear. The feed applies changes in the order of the log;
// everybody else reads.
//
// It is derived state: at a start it is made from the store's versions.
type registry struct {
	log      *slog.Logger
	defs     *search.Definitions
	index    *index.Index
	delivery config.Delivery
	endpoint func(*url.URL) error // refuses addresses that may not be sent to
	paused   *control[pausedSet]
	attempts int // that choose the lane of a Subscription which asks for none; from laneAttempts

	mu    sync.RWMutex
	byID  map[fhir.ID]*subscription // deleted ones too
	homes map[record.Sequence]home  // of every birth: what is pending of a former life is still to be withdrawn
}

// home says whose birth it is and which lane sends for it. It is decided by the first version
// and, where that asks for no number of attempts, by a record of the log: every node names the
// same lane, whatever its configuration says, so that one lane alone decides about a match.
type home struct {
	id   fhir.ID
	lane string
}

// subscription is the newest version of a Subscription. It is replaced, never changed.
type subscription struct {
	fhir.Subscription
	id       fhir.ID
	birth    record.Sequence
	version  record.Sequence
	time     time.Time
	owner    string // token of the first version
	deleted  bool
	problem  string // why the stored version cannot be evaluated; empty if it can
	errorMsg string // Subscription.error as stored
}

// pausedSet holds the Subscriptions that an operator has paused, with the birth that was meant.
type pausedSet map[fhir.ID]record.Sequence

func newRegistry(log *slog.Logger, defs *search.Definitions, cfg config.Delivery, endpoint func(*url.URL) error) *registry {
	return &registry{
		log:      log,
		defs:     defs,
		index:    index.New(),
		delivery: cfg,
		endpoint: endpoint,
		paused:   &control[pausedSet]{name: "paused"},
		byID:     map[fhir.ID]*subscription{},
		homes:    map[record.Sequence]home{},
	}
}

// laneAttempts reads the number of attempts that chooses the lane of Subscriptions without one of
// their own, or proposes the configured one to a new cluster. Another number in a configuration
// later changes how often is tried, not the lanes: a token that the engine gives up too early is
// made again.
func laneAttempts(ctx context.Context, log controlLog, configured int) (int, error) {
	type settings struct {
		Attempts int `json:"attempts"`
	}
	m, err := settled(ctx, log, "lanes", record.Encode(settings{configured}))
	if err != nil {
		return 0, err
	}
	var r settings
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return 0, fmt.Errorf("record of the lanes at %d: %w", m.Sequence, err)
	}
	return r.Attempts, nil
}

// load applies what the store has of Subscriptions.
func (r *registry) load(s *store.Store) error {
	return s.SubscriptionVersions(func(v store.SubscriptionVersion) error {
		r.apply(record.Change{
			Event: record.Event{
				Sequence: v.Sequence, Time: v.Time, Owner: v.Owner, Body: v.Body,
				Key: fhir.Key{Type: "Subscription", ID: v.ID},
			},
			Interaction: v.Interaction,
			Birth:       v.Birth,
		})
		return nil
	})
}

// apply takes a change of a Subscription over. It returns the Subscription as it is now, and
// nil for a change that altered nothing.
func (r *registry) apply(c record.Change) *subscription {
	if c.Interaction == fhir.Unchanged {
		return nil
	}
	now := &subscription{id: c.Key.ID, birth: c.Birth, version: c.Sequence, time: c.Time, owner: c.Owner}
	if c.Interaction == fhir.Delete {
		now.deleted = true
	} else {
		r.read(now, c.Body)
	}
	r.mu.Lock()
	old := r.byID[now.id]
	if old != nil && (old.birth == now.birth || now.deleted) {
		now.birth, now.owner = old.birth, old.owner
	}
	if _, ok := r.homes[now.birth]; !ok {
		r.homes[now.birth] = home{now.id, stream.LaneFor(cmp.Or(now.Attempts, r.attempts), now.id)}
	}
	r.byID[now.id] = now
	r.mu.Unlock()

	if mutant("stale-registry") && now.version > now.birth+1 { // the create is two records
		return now
	}
	if criteria := r.inForce(now); criteria != nil {
		r.index.Put(index.Entry{
			ID: now.id, Birth: now.birth, Version: now.version, End: now.End,
			Interactions: now.Heard(), Criteria: criteria,
		})
	} else {
		r.index.Close(now.id, now.version)
	}
	return now
}

// read parses a stored version. What the gate accepted can be read; what an older or newer
// release accepted perhaps not: it is kept, hears nothing, and shows why.
func (r *registry) read(now *subscription, body []byte) {
	// A version that makes us panic must not stop the feed, now and at every start.
	defer func() {
		if p := recover(); p != nil {
			now.problem = "cannot be read"
			r.log.Error("reading a stored Subscription panicked, it hears nothing", "subscription", now.id, "sequence", now.version, "panic", fmt.Sprintf("%T", p))
		}
	}()
	sub, err := fhir.ParseSubscription(body)
	if err != nil {
		now.problem = err.Error()
		r.log.Error("stored Subscription cannot be read, it hears nothing", "subscription", now.id, "sequence", now.version, "err", err)
		return
	}
	now.Subscription = *sub
	var shown struct{ Error string }
	if json.Unmarshal(body, &shown) == nil {
		now.errorMsg = shown.Error
	}
}

// inForce is the criteria by which a version is matched; nil if it hears nothing. A
// Subscription in error is still matched: its numbers go on, and its owner can see what it
// has missed.
func (r *registry) inForce(s *subscription) (c *search.Criteria) {
	defer func() {
		if p := recover(); p != nil {
			s.problem, c = "its criteria cannot be evaluated", nil
			r.log.Error("compiling stored criteria panicked, the Subscription hears nothing", "subscription", s.id, "sequence", s.version, "panic", fmt.Sprintf("%T", p))
		}
	}()
	if s.deleted || s.problem != "" || (s.Status != fhir.StatusActive && s.Status != fhir.StatusError) {
		return nil
	}
	criteria, err := r.defs.Compile(s.Criteria)
	if err != nil {
		s.problem = err.Error()
		r.log.Error("stored criteria cannot be evaluated, the Subscription hears nothing", "subscription", s.id, "sequence", s.version, "err", err)
		return nil
	}
	return criteria
}

// get returns the newest version of a Subscription; nil if there never was one.
func (r *registry) get(id fhir.ID) *subscription {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[id]
}

// all lists the Subscriptions that are not deleted, in order of their ids.
func (r *registry) all() []*subscription {
	r.mu.RLock()
	list := make([]*subscription, 0, len(r.byID))
	for _, s := range r.byID {
		if !s.deleted {
			list = append(list, s)
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(list, func(a, b *subscription) int { return compareIDs(a.id, b.id) })
	return list
}

// home is where the matches of a birth are sent from.
func (r *registry) home(birth record.Sequence) (home, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h, ok := r.homes[birth]
	return h, ok
}

// validate checks a Subscription that is to be written.
func (r *registry) validate(body []byte) (*fhir.Subscription, error) {
	sub, err := fhir.ParseSubscription(body)
	if err != nil {
		return nil, err
	}
	return sub, sub.Validate(fhir.Rules{
		Now:       time.Now(),
		AllowHTTP: r.delivery.Egress.AllowHTTP,
		Compile:   func(c string) error { _, err := r.defs.Compile(c); return err },
		Endpoint:  r.endpoint,
	})
}

// channelOn reports whether a channel type is switched on in this cluster.
func (r *registry) channelOn(channel string) bool {
	return slices.Contains(r.delivery.Channels, channel)
}

// isPaused reports whether an operator holds a Subscription.
func (r *registry) isPaused(s *subscription) bool {
	paused, _ := r.paused.get()
	birth, ok := paused[s.id]
	return ok && birth == s.birth
}

// Target says how, and whether, to send for a Subscription now (deliver.Targets).
func (r *registry) Target(id fhir.ID, birth record.Sequence) (deliver.Target, deliver.State) {
	s := r.get(id)
	switch {
	case s == nil || s.deleted || s.birth != birth || s.Status == fhir.StatusOff:
		return deliver.Target{ID: id, Birth: birth}, deliver.Withdrawn
	case !s.End.IsZero() && !time.Now().Before(s.End):
		return r.target(s), deliver.Withdrawn
	case s.Status != fhir.StatusActive || s.problem != "" || !r.channelOn(s.Channel.Type) || r.isPaused(s):
		return r.target(s), deliver.Held
	}
	return r.target(s), deliver.Sendable
}

func (r *registry) target(s *subscription) deliver.Target {
	style, order := deliver.Style(s.Style), deliver.Order(s.Order)
	if style == "" {
		style = deliver.Style(r.delivery.RestHook.Style)
	}
	if order == "" {
		order = deliver.Order(r.delivery.Order)
	}
	return deliver.Target{
		ID:          s.id,
		Birth:       s.birth,
		ChannelType: s.Channel.Type,
		Endpoint:    s.Channel.Endpoint,
		Headers:     s.Channel.Headers,
		Payload:     s.Channel.ContentType(),
		Style:       style,
		SendDelete:  s.Hears(fhir.Delete),
		Policy:      r.policy(s),
		OnExhausted: deliver.Exhaustion(r.delivery.OnExhausted),
		Order:       order,
		MaxInFlight: r.delivery.Concurrency,
		Timeout:     r.delivery.RestHook.Timeout,
	}
}

// policy is the retry policy: the configured one, with the attempts that the Subscription
// asks for.
func (r *registry) policy(s *subscription) deliver.Policy {
	c := r.delivery.Retry
	p := deliver.Policy{
		Attempts: int(c.Attempts),
		Schedule: c.Schedule.Waits,
		Exponential: deliver.Exponential{
			Initial: c.Schedule.Initial, Factor: c.Schedule.Factor, Max: c.Schedule.Max,
		},
		Jitter: c.Jitter,
		MaxAge: c.MaxAge,
	}
	if s.Attempts > 0 {
		p.Attempts = s.Attempts
	}
	return p
}

// host is scheme and host of the endpoint: all that an operator is shown of it, since the
// rest may hold a secret.
func (s *subscription) host() string {
	u, err := url.Parse(s.Channel.Endpoint)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func compareIDs(a, b fhir.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// String names the Subscription for errors.
func (s *subscription) String() string { return fmt.Sprintf("Subscription/%s", s.id) }
