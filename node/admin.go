package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// admin answers the administration API (api.Admin).
type admin struct{ *Node }

func (a *admin) Subscriptions(ctx context.Context, f api.SubscriptionFilter) ([]api.SubscriptionStatus, error) {
	var out []api.SubscriptionStatus
	for _, s := range a.subs.all() {
		if f.Status != "" && f.Status != string(s.Status) {
			continue
		}
		if len(out) == f.Limit {
			break
		}
		st, err := a.status(s)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	a.countSockets(ctx, out)
	return out, nil
}

func (a *admin) Subscription(ctx context.Context, id fhir.ID) (api.SubscriptionStatus, error) {
	s, err := a.subscription(id)
	if err != nil {
		return api.SubscriptionStatus{}, err
	}
	one := make([]api.SubscriptionStatus, 1)
	if one[0], err = a.status(s); err == nil {
		a.countSockets(ctx, one)
	}
	return one[0], err
}

func (a *admin) subscription(id fhir.ID) (*subscription, error) {
	s := a.subs.get(id)
	if s == nil || s.deleted {
		return nil, notFound(fhir.Key{Type: "Subscription", ID: id})
	}
	return s, nil
}

// maxCounted bounds how many dead letters are counted for a list.
const maxCounted = 10_000

func (a *admin) status(s *subscription) (api.SubscriptionStatus, error) {
	st := api.SubscriptionStatus{
		ID: s.id, Status: string(s.Status), Paused: a.subs.isPaused(s), Criteria: s.Criteria,
		Channel: s.Channel.Type, Endpoint: s.host(), Owner: s.owner,
		Version: s.version, Birth: s.birth, End: s.End, Reason: s.problem,
	}
	st.Sending = a.hindrance(s)
	if st.Reason == "" {
		st.Reason = strings.Trim(s.errorMsg+"; "+s.stale, "; ")
	}
	if locked := s.lockedBy(); locked != "" {
		st.Reason = strings.Trim(locked+"; "+st.Reason, "; ")
	}
	var err error
	if st.Events, err = a.store.Counter(s.birth); err != nil {
		return st, err
	}
	pending, err := a.store.PendingStats(s.birth)
	if err != nil {
		return st, err
	}
	st.Pending = pending.Count
	if pending.Count > 0 {
		st.OldestPending, st.OldestPendingSeconds = pending.Since, time.Since(pending.Since).Seconds()
	}
	ctx := context.Background()
	dead, err := a.store.Dead(ctx, store.DeadFilter{Subscription: s.id, State: store.DeadLetter, Limit: maxCounted})
	if err != nil {
		return st, err
	}
	st.Dead = len(dead)
	newest, err := a.store.Attempts(ctx, store.AttemptFilter{Subscription: s.id, Limit: 1})
	if err != nil || len(newest) == 0 {
		return st, err
	}
	if n := newest[0]; n.Code == record.Accepted {
		st.LastSuccess = n.At
		return st, nil
	}
	if st.LastError, err = a.lastError(s.id); err != nil {
		return st, err
	}
	accepted, err := a.store.Attempts(ctx, store.AttemptFilter{Subscription: s.id, Code: record.Accepted, Limit: 1})
	if len(accepted) > 0 {
		st.LastSuccess = accepted[0].At
	}
	return st, err
}

// lastError is the newest failed attempt, behind what is recorded and is none.
func (a *admin) lastError(id fhir.ID) (*api.LastError, error) {
	newest, err := a.store.Attempts(context.Background(), store.AttemptFilter{Subscription: id, Limit: 50})
	for _, n := range newest {
		if n.Code == record.Accepted {
			return nil, err
		}
		if n.Code.IsAttempt() {
			return &api.LastError{Time: n.At, Outcome: n.Code, Status: n.Status}, err
		}
	}
	return nil, err
}

func (a *admin) Pause(ctx context.Context, id fhir.ID, by string) (api.SubscriptionStatus, error) {
	return a.setPaused(ctx, id, true, by)
}

func (a *admin) Resume(ctx context.Context, id fhir.ID, by string) (api.SubscriptionStatus, error) {
	return a.setPaused(ctx, id, false, by)
}

// setPaused holds the sending for a Subscription, or lets it go on. It still matches, its
// numbers go on, and what is pending waits.
func (a *admin) setPaused(ctx context.Context, id fhir.ID, paused bool, by string) (api.SubscriptionStatus, error) {
	s, err := a.subscription(id)
	if err != nil {
		return api.SubscriptionStatus{}, err
	}
	if a.subs.isPaused(s) != paused {
		err := a.subs.paused.change(ctx, controls{a.server}, func(old pausedSet) (pausedSet, error) {
			now := pausedSet{}
			for id, birth := range old {
				if sub := a.subs.get(id); sub != nil && !sub.deleted && sub.birth == birth {
					now[id] = birth // those of former lives are forgotten here
				}
			}
			delete(now, id)
			if paused {
				now[id] = s.birth
			}
			return now, nil
		})
		if err != nil {
			return api.SubscriptionStatus{}, refusal(err)
		}
		for _, l := range a.lanes {
			l.Changed(id)
		}
		a.log.Info("Subscription paused or resumed", "subscription", id, "paused", paused, "by", by)
	}
	return a.status(s)
}

func (a *admin) Events(_ context.Context, id fhir.ID, f api.EventFilter) ([]api.SubscriptionEvent, error) {
	s, err := a.subscription(id)
	if err != nil {
		return nil, err
	}
	until := f.Until
	if until == 0 {
		if until, err = a.store.Counter(s.birth); err != nil {
			return nil, err
		}
	}
	ms, err := a.store.Events(s.birth, max(f.Since, 1), until, f.Limit)
	if err != nil {
		return nil, err
	}
	out := make([]api.SubscriptionEvent, len(ms))
	for i, m := range ms {
		out[i] = api.SubscriptionEvent{
			Number: m.Number, Event: m.Event, Resource: m.Key.String(), Interaction: m.Interaction, Time: m.Time,
			State: matchState(m), Attempts: m.Attempts, Round: m.Round, Outcome: m.Code, NotBefore: m.NotBefore, Job: m.Job,
		}
	}
	return out, nil
}

// matchState is where a match stands, in the words of the troubleshooting log.
func matchState(m store.Match) string {
	switch {
	case m.Open:
		return "pending"
	case m.Dead:
		return "dead"
	case m.Ended == "":
		return "pending"
	}
	return string(m.Ended)
}

func (a *admin) DeadLetters(ctx context.Context, f api.DeadFilter) ([]api.DeadLetter, error) {
	es, err := a.store.Dead(ctx, store.DeadFilter{
		Subscription: f.Subscription, Since: f.Since, Until: f.Until, Reason: f.Reason, Kind: f.Kind, Limit: f.Limit, State: store.DeadLetter,
	})
	out := make([]api.DeadLetter, len(es))
	for i, e := range es {
		out[i] = deadLetter(e)
	}
	return out, err
}

func deadLetter(e store.DeadEntry) api.DeadLetter {
	l := api.DeadLetter{
		ID: e.ID, Subscription: e.Subscription, Number: e.Number, Event: e.MatchID.Event, Reason: e.Reason,
		Attempts: e.Attempts, FirstFailure: e.FirstFailure, LastFailure: e.LastFailure, Endpoint: e.Endpoint,
		State: string(e.State), Kind: e.Kind(), ContentType: e.ContentType,
	}
	if e.Key.Type != "" {
		l.Resource = e.Key.String()
	}
	return l
}

func (a *admin) deadEntry(id string, purged bool) (store.DeadEntry, error) {
	e, ok, err := a.store.DeadByID(id)
	if err == nil && (!ok || (e.State == store.DeadPurged && !purged)) {
		err = fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("there is no dead letter %q; carillon dlq list shows those that there are", id))
	}
	return e, err
}

func (a *admin) DeadLetter(ctx context.Context, id string) (api.DeadLetter, error) {
	e, err := a.deadEntry(id, false)
	if err != nil {
		return api.DeadLetter{}, err
	}
	m, err := a.server.Get(ctx, stream.Dead, e.Sequence)
	if err != nil {
		return api.DeadLetter{}, err
	}
	l := deadLetter(e)
	l.Notification = m.Data
	return l, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// job appends the record of something that is done at once to the chain of jobs.
func (a *admin) job(ctx context.Context, build func() (record.Job, error)) (string, error) {
	id := newRun()
	return id, a.jobs.write(ctx, id, build, nil)
}

// jobID is the id of a job's record; empty for what is none.
func jobID(m stream.Message) string {
	var j record.Job
	if json.Unmarshal(m.Data, &j) != nil {
		return ""
	}
	return j.ID
}

func (a *admin) Attempts(ctx context.Context, f api.AttemptFilter) ([]api.Attempt, error) {
	as, err := a.store.Attempts(ctx, store.AttemptFilter{
		Subscription: f.Subscription, Key: f.Resource, Code: f.Outcome, Since: f.Since, Limit: f.Limit,
	})
	out := make([]api.Attempt, len(as))
	for i, t := range as {
		out[i] = api.Attempt{
			Time: t.At, Subscription: t.Subscription, Number: t.Number, Event: t.Event, Attempt: t.Attempt, Round: t.Round,
			Outcome: t.Code, Status: t.Status, TookMS: float64(t.Took) / float64(time.Millisecond),
			NotBefore: t.NotBefore, Final: t.Final, Dead: t.Dead, Response: t.Response,
		}
		if t.Key.Type != "" {
			out[i].Resource = t.Key.String()
		}
	}
	return out, err
}

func (a *admin) Tokens(context.Context) ([]api.TokenInfo, error) {
	all, _ := a.tokens.get()
	out := make([]api.TokenInfo, len(all))
	for i, t := range all {
		out[i] = api.TokenInfo{ID: t.ID, Name: t.Name, Roles: roles(t.Roles), Created: t.Created}
	}
	return out, nil
}

func (a *admin) CreateToken(ctx context.Context, name string, rs []api.Role, by string) (api.TokenInfo, error) {
	names := make([]string, len(rs))
	for i, r := range rs {
		names[i] = string(r)
	}
	t, secret, err := a.tokens.create(ctx, name, names, time.Now())
	if err != nil {
		return api.TokenInfo{}, refusal(err)
	}
	a.log.Info("API token created", "token", t.ID, "roles", strings.Join(names, ","), "by", by)
	return api.TokenInfo{ID: t.ID, Name: t.Name, Roles: rs, Created: t.Created, Secret: secret}, nil
}

func (a *admin) RevokeToken(ctx context.Context, idOrName, by string) error {
	if err := a.tokens.revoke(ctx, idOrName); err != nil {
		return refusal(err)
	}
	a.log.Info("API token revoked", "token", idOrName, "by", by)
	return nil
}

func (a *admin) Status(ctx context.Context) (api.Status, error) {
	st := a.localStatus()
	warnings, err := a.readiness(ctx)
	st.Ready, st.Warnings = err == nil, warnings
	if err != nil {
		st.Warnings = append(st.Warnings, err.Error())
	}
	at := a.store.Position()
	for i := range st.Logs {
		log := &st.Logs[i]
		if *log, err = a.logStatus(ctx, log.Name); err != nil {
			return st, err
		}
		log.Applied = place(at, log.Name)
	}
	if st.Dead, st.DeadPipeline, err = a.countDead(ctx); err != nil {
		return st, err
	}
	st.Partitions = a.partitionStates(st.Logs[0].Last)
	return st, nil
}

// localStatus is what this node knows by itself. The logs are named and no more.
func (a *admin) localStatus() api.Status {
	st := api.Status{
		Cluster: a.cluster, Node: a.name, Version: a.version, FHIR: string(a.fhir), Started: a.started.UTC(),
		Sending:       a.sending(),
		Subscriptions: map[string]int{}, DiskFree: a.disk.free.Load(), DiskTotal: a.disk.total.Load(),
	}
	for _, s := range a.subs.all() {
		st.Subscriptions[string(s.Status)]++
	}
	stats := a.store.Stats()
	st.Pending, st.StoreBytes = stats.Pending, stats.FileBytes
	for _, c := range stats.Counters {
		st.SetAside += c.SetAside
	}
	st.SetAside += a.feed.unreadable.Load()
	for _, name := range []string{stream.Events, stream.Matches, stream.Outcomes, stream.Dead} {
		st.Logs = append(st.Logs, api.LogStatus{Name: name})
	}
	return st
}

// countDead counts the dead letters, up to a bound, and those of them that are not an endpoint's
// doing.
func (a *admin) countDead(ctx context.Context) (all, pipeline int, err error) {
	dead, err := a.store.Dead(ctx, store.DeadFilter{State: store.DeadLetter, Limit: maxCounted})
	for i := range dead {
		if dead[i].Kind() == record.DeadPipeline {
			pipeline++
		}
	}
	return len(dead), pipeline, err
}

// partitionStates tells how far each partition is matched, whoever matches it.
func (a *admin) partitionStates(last record.Sequence) []api.PartitionState {
	var out []api.PartitionState
	for _, p := range a.table.Names() {
		state := api.PartitionState{Name: p, Mark: a.marks.of(p)}
		if last > state.Mark {
			state.Lag = uint64(last - state.Mark)
		}
		out = append(out, state)
	}
	return out
}

func (a *admin) logStatus(ctx context.Context, name string) (api.LogStatus, error) {
	s, err := a.server.JetStream().Stream(ctx, name)
	if err != nil {
		return api.LogStatus{}, fmt.Errorf("state of %s: %w", name, err)
	}
	st := s.CachedInfo().State
	return api.LogStatus{Name: name, First: record.Sequence(st.FirstSeq), Last: record.Sequence(st.LastSeq), Bytes: st.Bytes}, nil
}

func (a *admin) Config(context.Context) (json.RawMessage, error) {
	return yaml.YAMLToJSON([]byte(a.inForce().Show()))
}
