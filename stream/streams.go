package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of the streams. DESIGN.md says what each holds.
const (
	Events     = "EVENTS"
	Matches    = "MATCHES"
	LanesName  = "LANES"
	Outcomes   = "OUTCOMES"
	Dead       = "DEAD"
	Messages   = "MESSAGES"
	Timers     = "TIMERS"
	Advisories = "ADVISORIES"
	Secrets    = "SECRETS"
)

// duplicateWindow is how long the log remembers message ids.
const duplicateWindow = 2 * time.Minute

// maxTokens bounds LANES. The oldest token goes first, and the lane's sweep makes it again.
const maxTokens = 200_000

// definitions are the streams as they must be. Nothing here removes a message by age or
// count, except for tokens: what is removed from a log is removed by the floor.
func definitions(replicas int) []jetstream.StreamConfig {
	file := func(name string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Subjects: subjects,
			Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
			MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1,
			Replicas: replicas, Duplicates: duplicateWindow, AllowDirect: true,
		}
	}

	// No rollup, TTL, schedules or counters: with them one header of a producer empties the
	// log or writes anywhere in it.
	events := file(Events, FilterIngest, FilterControl, FilterUnique)
	events.AllowAtomicPublish = true
	events.SubjectTransform = &jetstream.SubjectTransformConfig{
		Source:      FilterIngest,
		Destination: fmt.Sprintf("fhir.event.{{wildcard(1)}}.{{partition(%d,2)}}.{{wildcard(2)}}", Shards),
	}

	lanes := file(LanesName, FilterLanes)
	lanes.Discard, lanes.MaxMsgs = jetstream.DiscardOld, maxTokens
	if replicas == 1 {
		// Tokens are made again at each start. In a cluster they are on disk all the same: the engine
		// gives copies in memory no leader before every node that had one is back.
		lanes.Storage = jetstream.MemoryStorage
	}

	timers := file(Timers, FilterTimers, FilterDue)
	timers.AllowMsgSchedules = true
	timers.AllowRollup = true             // a schedule replaces the one before it
	timers.Discard = jetstream.DiscardOld // the engine refuses schedules with DiscardNew

	return []jetstream.StreamConfig{
		events,
		file(Matches, FilterMatches),
		lanes,
		file(Outcomes, FilterOutcome),
		file(Dead, FilterDead),
		file(Messages, FilterMessage),
		timers,
		file(Advisories, filterAdvisories),
		file(Secrets, FilterSecret),
	}
}

// Declare creates the streams that are missing and checks those that are there. A stream that
// was made otherwise, above all one whose writes are not synced before they are acknowledged,
// is refused with its name and the field that differs: it would break promises silently.
//
// In a cluster all nodes may declare at once. What a cluster refuses while it forms is tried
// again as long as ctx lives, and Declare returns when every stream has a leader and this node's
// copies have caught up: a node that is restarted before its copies are whole would take the
// last whole one with it.
func (s *Server) Declare(ctx context.Context) error {
	for _, want := range s.definitions() {
		err := s.patient(ctx, "waiting to declare stream "+want.Name, func(ctx context.Context) error { return s.declare(ctx, want) })
		if err != nil {
			return fmt.Errorf("declare stream %s: %w", want.Name, err)
		}
	}
	if err := s.awaitStreams(ctx); err != nil {
		return err
	}
	s.declared.Store(true)
	return nil
}

func (s *Server) declare(ctx context.Context, want jetstream.StreamConfig) error {
	js := s.JetStream()
	st, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if st, err = js.CreateStream(ctx, want); err != nil {
			return readError(err)
		}
	}
	if err != nil {
		return readError(err)
	}
	have := st.CachedInfo().Config
	if field, is, must := differs(have, want); field != "" {
		return fmt.Errorf("stored stream has %s %s, must be %s: restore the stream from a backup, or start with an empty data folder", field, is, must)
	}
	if have.AllowDirect != want.AllowDirect || have.MaxAge != want.MaxAge || !slices.Equal(sorted(have.Subjects), sorted(want.Subjects)) || have.Duplicates != want.Duplicates || have.RePublish != nil {
		// None of these changes what a log promises, so the configuration is followed, and an older release's stream is brought up to date.
		if _, err := js.UpdateStream(ctx, want); err != nil {
			return readError(err)
		}
	}
	return nil
}

// differs names the first field in which a stored stream breaks a promise.
func differs(have, want jetstream.StreamConfig) (field, is, must string) {
	transform := func(t *jetstream.SubjectTransformConfig) string {
		if t == nil {
			return "none"
		}
		return t.Source + " to " + t.Destination
	}
	fields := []struct {
		name       string
		have, want any
	}{
		{"persist mode", have.PersistMode, want.PersistMode},
		{"subjects", promisedSubjects(have), promisedSubjects(want)},
		{"storage", have.Storage, want.Storage},
		{"retention", have.Retention, want.Retention},
		{"discard policy", have.Discard, want.Discard},
		{"replicas", have.Replicas, want.Replicas},
		{"subject transform", transform(have.SubjectTransform), transform(want.SubjectTransform)},
		{"max age", promisedAge(have), promisedAge(want)},
		{"max messages", have.MaxMsgs, want.MaxMsgs},
		{"max messages per subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject},
		{"max bytes", have.MaxBytes, want.MaxBytes},
		{"max message size", have.MaxMsgSize, want.MaxMsgSize},
		{"no-ack", have.NoAck, want.NoAck},
		{"sealed", have.Sealed, want.Sealed},
		{"allow atomic publish", have.AllowAtomicPublish, want.AllowAtomicPublish},
		{"allow batch publish", have.AllowBatchPublish, want.AllowBatchPublish},
		{"allow message schedules", have.AllowMsgSchedules, want.AllowMsgSchedules},
		{"allow rollup", have.AllowRollup, want.AllowRollup},
		{"allow message TTL", have.AllowMsgTTL && !want.AllowMsgSchedules, want.AllowMsgTTL},
		{"allow message counters", have.AllowMsgCounter, want.AllowMsgCounter},
		{"mirror", have.Mirror != nil, false},
		{"sources", len(have.Sources), 0},
	}
	for _, f := range fields {
		if h, w := fmt.Sprint(f.have), fmt.Sprint(f.want); h != w {
			return f.name, h, w
		}
	}
	return "", "", ""
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
