package stream

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func FuzzSubjectsGiveBackWhatTheyWereMadeOf(f *testing.F) {
	f.Add("Patient", "a.b-C.1", "3-0")
	f.Add("Observation", ".", "p_1")
	f.Add("x", "ingest", "")
	f.Fuzz(func(t *testing.T, typ, id, name string) {
		key := fhir.Key{Type: typ, ID: fhir.ID(id)}
		if ValidKey(key) {
			if got, err := ParseIngest(IngestSubject(key)); err != nil || got != key {
				t.Errorf("ingest: %v, %v", got, err)
			}
			got, shard, err := ParseEvent(EventSubject(key))
			if err != nil || got != key || shard != ShardOf(key.ID) || shard >= Shards {
				t.Errorf("event: %v, %d, %v", got, shard, err)
			}
			if StoredSubject(IngestSubject(key)) != EventSubject(key) {
				t.Errorf("stored subject is %s", StoredSubject(IngestSubject(key)))
			}
			if got, err := ParseDead(DeadSubject(key.ID)); err != nil || got != key.ID {
				t.Errorf("dead: %v, %v", got, err)
			}
			if strings.Count(IngestSubject(key), ".") != 3 || strings.Count(EventSubject(key), ".") != 4 {
				t.Errorf("wrong number of tokens in %s, %s", IngestSubject(key), EventSubject(key))
			}
		}
		if validName(name) {
			if got, ok := ParseMatch(MatchSubject(name)); got != name || ok != (name != "jobs") {
				t.Errorf("match: %v, %v", got, ok)
			}
			if got, ok := ParseOutcome(OutcomeSubject(name)); got != name || !ok {
				t.Errorf("outcome: %v", got)
			}
			if got, ok := ParseControl(ControlSubject(name)); got != name || !ok {
				t.Errorf("control: %v", got)
			}
			if got, ok := ParseDue(DueSubject(name + "." + name)); got != name+"."+name || !ok {
				t.Errorf("due: %v", got)
			}
			if fhir.ID(id).Valid() {
				lane, sub, err := ParseLane(LaneSubject(name, fhir.ID(id)))
				if err != nil || lane != name || sub != fhir.ID(id) {
					t.Errorf("lane: %v, %v, %v", lane, sub, err)
				}
			}
		}
		// What is parsed is valid and is written the same way again.
		if key, err := ParseIngest(id); err == nil && (!ValidKey(key) || IngestSubject(key) != id) {
			t.Errorf("%q parsed as %v", id, key)
		}
	})
}

func TestSubjectsOutsideTheGrammarAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "fhir", "fhir.ingest", "fhir.ingest.Patient", "fhir.ingest.Patient.", "fhir.ingest..a",
		"fhir.ingest.Patient.a.b", "fhir.ingest.Pat1ent.a", "fhir.ingest.Patient.*", "fhir.ingest.*.a",
		"fhir.ingest.Patient.a b", "fhir.event.Patient.a", "fhir.ingest.Patient." + strings.Repeat("a", 65),
	} {
		if key, err := ParseIngest(s); err == nil {
			t.Errorf("%q was read as %v", s, key)
		}
	}
	good := EventSubject(fhir.Key{Type: "Patient", ID: "a"})
	shard := strings.Split(good, ".")[3]
	for _, s := range []string{
		"fhir.event.Patient.a", "fhir.event.Patient.16.a", "fhir.event.Patient.-1.a", "fhir.event.Patient.0" + shard + ".a",
		"fhir.event.Patient.x.a", good + ".b", strings.Replace(good, "."+shard+".", fmt.Sprintf(".%d.", (int(ShardOf("a"))+1)%Shards), 1),
	} {
		if key, _, err := ParseEvent(s); err == nil {
			t.Errorf("%q was read as %v", s, key)
		}
	}
	if _, err := MessageSubject("a.b"); fhir.AsError(err) == nil {
		t.Errorf("channel name with a dot: %v", err)
	}
}

func TestTheEngineStoresAnEventWhereEventSubjectSays(t *testing.T) {
	s := start(t)
	p := publisher(t, s, Events, Options{})
	for i := range 64 {
		key := fhir.Key{Type: "Patient", ID: fhir.ID(fmt.Sprintf("id.%d-x", i))}
		a, err := p.Publish(t.Context(), Msg{Subject: IngestSubject(key), Data: []byte("{}")})
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.LastFor(t.Context(), Events, EventSubject(key))
		if err != nil || m.Sequence != a.Sequence {
			t.Fatalf("%s was not stored as %s: %v, %v", key, EventSubject(key), m.Subject, err)
		}
	}
	if _, err := s.LastFor(t.Context(), Events, "fhir.event.Patient.0.unknown"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown subject: %v", err)
	}
}

func TestMatchesFollowsTheRulesOfNATS(t *testing.T) {
	for _, tt := range []struct {
		filter, subject string
		want            bool
	}{
		{"fhir.ingest.*.*", "fhir.ingest.Patient.a", true},
		{"fhir.ingest.*.*", "fhir.ingest.Patient", false},
		{"fhir.ingest.*.*", "fhir.ingest.Patient.a.b", false},
		{"fhir.control.*", "fhir.match.p", false},
		{"fhir.lane.>", "fhir.lane.a.b.c", true},
		{"fhir.lane.>", "fhir.lane", false},
		{"fhir.dead.ingest", "fhir.dead.ingest", true},
	} {
		if got := matches(tt.filter, tt.subject); got != tt.want {
			t.Errorf("%s under %s: %v", tt.subject, tt.filter, got)
		}
	}
}
