package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/fhirpath"
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
// A criteria is compiled with the definitions that stand at its Subscription's place in the log.
// Where one that it uses changes later, it is compiled again and is in force in its new form from
// there on; if that fails, the form that it had stays in force, also for later versions that say
// the same.
//
// It is derived state: at a start it is made from the store's versions, in the order of the log.
type registry struct {
	log       *slog.Logger
	version   fhir.Version
	defs      *definitions
	vault     *vault // opens their secrets
	index     *index.Index
	delivery  config.Delivery
	endpoint  func(*url.URL) error // refuses addresses that may not be sent to
	classes   classes              // deliverers that Subscriptions may ask for by name
	subjects  func(string) bool    // whether message channels may publish on a subject
	paused    *control[pausedSet]
	rotations *control[rotationSet]
	rules     atomic.Pointer[config.Delivery] // as last reloaded
	attempts  int                             // that choose the lane of a Subscription which asks for none; from laneAttempts

	mu    sync.RWMutex
	byID  map[fhir.ID]*subscription // deleted ones too
	homes map[record.Sequence]home  // of every birth: what is pending of a former life is still to be withdrawn

	// Of the one who applies changes alone:
	users      map[string]map[fhir.ID]bool // by name of a definition: who uses it
	uncompiled map[fhir.ID]bool            // whose criteria could not be compiled last: any other definition may mend it
	paths      pathCache
}

// home says whose birth it is and which lane sends for it. It is decided by the first version
// and, where that asks for no number of attempts, by a record of the log: every node names the
// same lane, whatever its configuration says, so that one lane alone decides about a match.
type home struct {
	id   fhir.ID
	lane string
	logs bool // one of its versions wants its attempts in the audit log
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
	problem  string      // why the stored version cannot be evaluated; empty if it can
	errorMsg string      // Subscription.error as stored
	sealedBy string      // id of the key of its secrets; empty if it never had any
	locked   *lockedForm // of one whose secrets could not be opened; nil if they could

	criteria *search.Criteria     // by which it is matched; nil if it hears nothing
	path     *fhirpath.Expression // that must be true as well; nil if there is none
	uses     []string             // names of the definitions that criteria depends on
	stale    string               // why criteria is of older definitions than those that stand; empty if it is not
	failure  string               // why the last compilation failed; empty if it did not
}

// pausedSet holds the Subscriptions that an operator has paused, with the birth that was meant.
type pausedSet map[fhir.ID]record.Sequence

func newRegistry(log *slog.Logger, version fhir.Version, defs *definitions, cfg config.Delivery, endpoint func(*url.URL) error) *registry {
	return &registry{
		log:       log,
		version:   version,
		defs:      defs,
		index:     index.New(),
		delivery:  cfg,
		endpoint:  endpoint,
		paused:    &control[pausedSet]{name: "paused"},
		rotations: &control[rotationSet]{name: "rotations"},
		byID:      map[fhir.ID]*subscription{},
		homes:     map[record.Sequence]home{},
		users:     map[string]map[fhir.ID]bool{},

		uncompiled: map[fhir.ID]bool{},
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

// load applies what the store has of Subscriptions and of the definitions that they use.
func (r *registry) load(s *store.Store) error {
	return s.KeptVersions(func(v store.KeptVersion) error {
		c := record.Change{
			Event:       record.Event{Sequence: v.Sequence, Time: v.Time, Owner: v.Owner, Body: v.Body, Key: v.Key},
			Interaction: v.Interaction,
			Birth:       v.Birth,
		}
		if defines(v.Key.Type) {
			r.define(c)
		} else {
			r.apply(c)
		}
		return nil
	})
}

// define takes a change of a definition over, and compiles again what uses it: the form that
// follows is in force for what comes after the change. It returns those that are new for it.
func (r *registry) define(c record.Change) (changed []*subscription) {
	defer func() {
		if p := recover(); p != nil { // it must not stop the feed, now and at every start
			r.log.Error("taking over a definition panicked", "resource", c.Key.String(), "sequence", c.Sequence, "panic", fmt.Sprintf("%T", p))
		}
	}()
	for _, s := range r.concerned(r.defs.apply(c)) {
		next := *s
		if !r.compileAgain(&next, c.Sequence) {
			continue
		}
		r.mu.Lock()
		r.byID[next.id] = &next
		r.mu.Unlock()
		changed = append(changed, &next)
	}
	return changed
}

// concerned lists those in force whose criteria may mean something else now that names do, and
// those whose criteria could not be compiled and perhaps can be, in order of their ids.
func (r *registry) concerned(names []string) (list []*subscription) {
	if len(names) == 0 {
		return nil
	}
	ids := maps.Clone(r.uncompiled)
	for _, name := range names {
		if !isParameter(name) {
			maps.Copy(ids, r.users[name])
		}
	}
	if slices.ContainsFunc(names, isParameter) {
		now := r.defs.now()
		for id, s := range r.byID { // only the caller writes it
			uses := func(name string) bool { return mentions(s.Criteria, name) }
			if s.criteria != nil && slices.ContainsFunc(names, uses) && !s.criteria.Current(now) {
				ids[id] = true
			}
		}
	}
	for id := range ids {
		list = append(list, r.byID[id])
	}
	slices.SortFunc(list, func(a, b *subscription) int { return compareIDs(a.id, b.id) })
	return list
}

// compileAgain compiles the criteria of a Subscription with the definitions as they were changed
// at a place of the log. It reports whether anything is other than before: what could not be
// compiled is tried at each change of a definition, most of which have nothing to do with it.
func (r *registry) compileAgain(s *subscription, at record.Sequence) (changed bool) {
	was := *s
	s.problem, s.stale, s.criteria = "", "", nil
	if r.compile(s); s.criteria != nil {
		r.forget(&was)
		r.index.Put(r.entry(s, at))
		return true
	}
	if was.criteria != nil {
		s.stale, s.problem, s.criteria = unusable(at, s.problem), "", was.criteria
	}
	return s.failure != was.failure
}

// goOnAs lets a version whose criteria cannot be compiled go on with that of the version before
// it, if it says the same. The server writes such versions: one in error, when a definition that
// the criteria uses was deleted before, must not stop hearing because of its status.
func (s *subscription) goOnAs(old *subscription) {
	if s.criteria != nil || old == nil || old.criteria == nil || old.birth != s.birth || old.Criteria != s.Criteria || old.Path != s.Path {
		return
	}
	s.stale = cmp.Or(old.stale, unusable(s.version, s.problem))
	s.problem, s.criteria, s.path = "", old.criteria, old.path
}

// entry is what the index is to hold of a Subscription that hears something, and notes what it
// uses. Called before others see the Subscription.
func (r *registry) entry(s *subscription, from record.Sequence) index.Entry {
	s.uses = r.defs.uses(s.criteria)
	for _, name := range s.uses {
		if r.users[name] == nil {
			r.users[name] = map[fhir.ID]bool{}
		}
		r.users[name][s.id] = true
	}
	return index.Entry{
		ID: s.id, Birth: s.birth, Version: s.version, From: from, End: s.End,
		Interactions: s.Heard(), Criteria: s.criteria, Basis: r.defs.basis(s.uses), Path: s.path,
	}
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
		r.vault.forget(now.id, now.version)
	} else {
		r.read(now, c.Body)
	}
	r.mu.Lock()
	old := r.byID[now.id]
	if old != nil && (old.birth == now.birth || now.deleted) {
		now.birth, now.owner = old.birth, ownerAfter(old.owner, now.owner)
		now.sealedBy = cmp.Or(now.sealedBy, old.sealedBy)
	}
	h, known := r.homes[now.birth]
	if !known {
		h = home{id: now.id, lane: stream.LaneFor(cmp.Or(now.Attempts, r.attempts), now.id)}
	}
	h.logs = h.logs || slices.Contains(now.AuditTo, auditToLog)
	r.homes[now.birth] = h
	r.mu.Unlock()
	delete(r.uncompiled, now.id)
	if now.hears() {
		r.compile(now)
		now.goOnAs(old)
	}
	if old != nil {
		r.forget(old)
	}
	var entry index.Entry
	if now.criteria != nil {
		entry = r.entry(now, 0)
	}
	r.mu.Lock()
	r.byID[now.id] = now
	r.mu.Unlock()

	if mutant("stale-registry") && now.version > now.birth+1 { // the create is two records
		return now
	}
	if now.criteria != nil {
		r.index.Put(entry)
	} else {
		r.index.Close(now.id, now.version)
	}
	return now
}

// forget drops what is known of the definitions that a form of a Subscription used.
func (r *registry) forget(s *subscription) {
	for _, name := range s.uses {
		if delete(r.users[name], s.id); len(r.users[name]) == 0 {
			delete(r.users, name)
		}
	}
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
	sub, err := fhir.ParseSubscription(r.unlock(now, body))
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

// hears reports whether a version is matched. A Subscription in error is: its numbers go on, and
// its owner can see what it has missed.
func (s *subscription) hears() bool {
	return !s.deleted && s.problem == "" && (s.Status == fhir.StatusActive || s.Status == fhir.StatusError)
}

// compile makes the criteria by which a version is matched, or says why it cannot be.
func (r *registry) compile(s *subscription) {
	r.uncompiled[s.id] = true
	defer func() {
		if p := recover(); p != nil {
			s.problem, s.criteria = "its criteria cannot be evaluated", nil
			s.failure = s.problem
			r.log.Error("compiling stored criteria panicked", "subscription", s.id, "sequence", s.version, "panic", fmt.Sprintf("%T", p))
		}
	}()
	criteria, path, err := r.compiled(&s.Subscription)
	if err != nil {
		s.problem = err.Error()
		if s.failure != s.problem { // said once, not at each change of any definition
			r.log.Error("stored criteria cannot be evaluated", "subscription", s.id, "sequence", s.version, "err", err)
		}
		s.failure = s.problem
		return
	}
	delete(r.uncompiled, s.id)
	s.failure = ""
	s.criteria, s.path = criteria, r.paths.shared(path, contextOf(criteria))
}

// compiled compiles criteria with the definitions that stand now.
func (r *registry) compiled(s *fhir.Subscription) (criteria *search.Criteria, path *fhirpath.Expression, err error) {
	if criteria, err = r.defs.now().Compile(s.Criteria); err != nil || s.Path == "" {
		return criteria, nil, err
	}
	path, err = compilePath(r.version, s.Path, criteria)
	return criteria, path, err
}

// compilePath compiles a FHIRPath criteria about what a criteria finds, which is nil if it could
// not be compiled.
func compilePath(v fhir.Version, path string, criteria *search.Criteria) (*fhirpath.Expression, error) {
	return fhirpath.Compile(path, fhirpath.Options{Version: v, Context: contextOf(criteria), Trigger: true})
}

// contextOf is the resource type that a criteria finds; empty if that may be one of several.
func contextOf(criteria *search.Criteria) string {
	if criteria == nil || len(criteria.Types()) != 1 {
		return ""
	}
	return criteria.Types()[0]
}

// pathCache lets equal expressions be one, so that an event asks them once.
type pathCache struct {
	known map[pathKey]weak.Pointer[fhirpath.Expression]
	sweep int // size at which those that are gone are swept out
}

// pathKey says which expressions are equal: those of one text, compiled about one type.
type pathKey struct{ about, text string }

// shared is the expression that stands for all equal ones; nil for nil.
func (c *pathCache) shared(e *fhirpath.Expression, about string) *fhirpath.Expression {
	if e == nil {
		return nil
	}
	key := pathKey{about, e.String()}
	if known := c.known[key].Value(); known != nil {
		return known
	}
	if c.known == nil {
		c.known = map[pathKey]weak.Pointer[fhirpath.Expression]{}
	}
	if len(c.known) >= c.sweep {
		maps.DeleteFunc(c.known, func(_ pathKey, p weak.Pointer[fhirpath.Expression]) bool { return p.Value() == nil })
		c.sweep = max(1024, 2*len(c.known))
	}
	c.known[key] = weak.Make(e)
	return e
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

// logs reports whether a version of a birth, which need not be the newest, wants its attempts in the
// audit log.
func (r *registry) logs(birth record.Sequence) bool {
	h, _ := r.home(birth)
	return h.logs
}

// validate checks a Subscription that is to be written. The warnings are of one that may be.
func (r *registry) validate(body []byte) (sub *fhir.Subscription, warnings []fhir.Issue, err error) {
	if sub, err = fhir.ParseSubscription(body); err != nil {
		return nil, nil, err
	}
	var criteria *search.Criteria
	var path *fhirpath.Expression
	err = sub.Validate(fhir.Rules{
		Version:   r.version,
		Now:       time.Now(),
		AllowHTTP: r.delivery.Egress.AllowHTTP,
		Compile:   func(c string) (err error) { criteria, err = r.defs.now().Compile(c); return err },
		CompilePath: func(p, _ string) (err error) {
			path, err = compilePath(r.version, p, criteria)
			return err
		},
		Endpoint:       r.endpoint,
		DeliveryClass:  r.classes.check,
		MessageSubject: r.subjects,
		PayloadSearch: func(query, _ string) error {
			return (&searcher{defs: r.defs}).checkPayload(query, criteria)
		},
	})
	if err != nil {
		return sub, nil, err
	}
	if err := resthook.CheckSecrets(sub.Secrets); err != nil {
		return sub, nil, err
	}
	return sub, append(append(doubts(criteria, path), sub.Doubts()...), sub.Unused()...), nil
}

// doubts warns of criteria that are accepted and do hardly what their author wants.
func doubts(criteria *search.Criteria, path *fhirpath.Expression) (warnings []fhir.Issue) {
	warn := func(text string) {
		warnings = append(warnings, fhir.Issue{Type: fhir.IssueProcessing, Expression: "Subscription.criteria", Diagnostics: text})
	}
	if never := criteria.Never(); never != "" {
		warn("the criteria can never match: " + never)
	} else if !criteria.AnyType() && !slices.ContainsFunc(criteria.Types(), stored) {
		warn("the criteria can never match: a " + criteria.Types()[0] + " is not stored here, so there are no events of it")
	}
	if path != nil {
		for _, w := range path.Warnings() {
			warn("fhir-path-criteria-expression: " + w)
		}
	}
	return warnings
}

// stored reports whether resources of a type can be written: Parameters have no address (FHIR R4
// 2.42).
func stored(typ string) bool { return typ != "Parameters" }

// channelOn reports whether a channel type is switched on in this cluster.
func (r *registry) channelOn(channel string) bool {
	return slices.Contains(r.delivery.Channels, channel) && r.delivery.Configured(channel)
}

// channelOff is the warning about a Subscription whose channel type is not switched on.
func (r *registry) channelOff(channel string) fhir.Issue {
	why := "is switched off here (delivery.channels)"
	if !r.delivery.Configured(channel) {
		why = fmt.Sprintf("needs a server, which is not configured here (delivery.%s)", channel)
	}
	return fhir.Issue{Type: fhir.IssueNotSupported, Expression: "Subscription.channel.type",
		Diagnostics: fmt.Sprintf("channel type %s %s, so the Subscription stays requested", channel, why)}
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
		return deliver.Target{ID: id, Birth: birth, Withdrawal: s.withdrawal(birth)}, deliver.Withdrawn
	case !s.End.IsZero() && !time.Now().Before(s.End):
		return r.target(s), deliver.Withdrawn
	case s.Status != fhir.StatusActive || s.problem != "" || !r.channelOn(s.Channel.Type) || !r.channelKnown(s) || r.isPaused(s) || s.form() == nil:
		return r.target(s), deliver.Held
	}
	return r.target(s), deliver.Sendable
}

func (r *registry) target(s *subscription) deliver.Target {
	form := s.form()
	if form == nil {
		form = &s.Subscription
	}
	style, order := deliver.Style(s.Style), deliver.Order(s.Order)
	if style == "" {
		style = deliver.Style(r.delivery.RestHook.Style)
	}
	if order == "" {
		order = deliver.Order(r.delivery.Order)
	}
	t := deliver.Target{
		ID:          s.id,
		Birth:       s.birth,
		ChannelType: s.Channel.Type,

		Subscription: form,

		Endpoint:    s.Channel.Endpoint,
		Headers:     form.Channel.Headers,
		Secrets:     r.signs(s, form),
		Payload:     s.Channel.ContentType(),
		Style:       style,
		SendDelete:  s.Hears(fhir.Delete),
		Policy:      r.policy(s),
		OnExhausted: deliver.Exhaustion(r.delivery.OnExhausted),
		Order:       order,
		MaxInFlight: r.delivery.Concurrency,
		Timeout:     r.timeout(form.Channel),
	}
	r.toClass(s, &t)
	return t
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
	if _, _, ok := fhir.SplitMessageEndpoint(s.Channel.Endpoint); ok {
		return s.Channel.Endpoint // a name or a subject
	}
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
