package stream

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestDeclareRefusesAStreamMadeOtherwise(t *testing.T) {
	find := func(name string) jetstream.StreamConfig {
		for _, d := range definitions(1) {
			if d.Name == name {
				return d
			}
		}
		t.Fatalf("no stream %s", name)
		return jetstream.StreamConfig{}
	}
	tests := []struct {
		field  string
		stream string
		change func(*jetstream.StreamConfig)
	}{
		{"persist mode", Matches, func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }},
		{"subjects", Outcomes, func(c *jetstream.StreamConfig) { c.Subjects = []string{"fhir.outcome.a"} }},
		{"storage", Dead, func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }},
		{"retention", Messages, func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }},
		{"discard policy", Events, func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }},
		{"max age", Events, func(c *jetstream.StreamConfig) { c.MaxAge = 3600e9 }},
		{"max messages", Matches, func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 }},
		{"allow rollup", Events, func(c *jetstream.StreamConfig) { c.AllowRollup = true }},
		{"allow message TTL", Events, func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true }},
		{"subject transform", Events, func(c *jetstream.StreamConfig) { c.SubjectTransform = nil }},
		{"allow atomic publish", Events, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }},
	}
	for _, tt := range tests {
		t.Run(tt.field, func(t *testing.T) {
			s := startBare(t)
			cfg := find(tt.stream)
			tt.change(&cfg)
			if _, err := s.js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			err := s.Declare(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.stream) || !strings.Contains(err.Error(), tt.field+" ") {
				t.Errorf("declare says %v, must name %s and %s", err, tt.stream, tt.field)
			}
		})
	}
}

func TestDeclareTwiceAndAfterAStopFindsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	same := func(c *Config) { c.Dir = dir }
	s := start(t, same)
	if err := s.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, s, Events, Options{})
	last := fillEvents(t, p, 5)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = start(t, same)
	if _, got, err := s.State(t.Context(), Events); err != nil || got != last+1 {
		t.Errorf("last sequence %d, want %d and the seal: %v", got, last, err)
	}
}

func TestDeclareTakesTheEnginesRepublicationAway(t *testing.T) {
	s := startBare(t)
	cfg := definitions(1)[0]
	cfg.RePublish = &jetstream.RePublish{Source: FilterEvents, Destination: FilterEvents}
	if _, err := s.js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := s.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	st, err := s.js.Stream(t.Context(), Events)
	if err != nil || st.CachedInfo().Config.RePublish != nil {
		t.Errorf("events are republished: %v", err)
	}
}
