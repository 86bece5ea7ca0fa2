package stream

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/nats-io/nats.go/jetstream"
)

func TestMessageSubjectsAreTakenBesideTheOnesOfNames(t *testing.T) {
	dir := t.TempDir()
	with := func(subjects ...string) func(*Config) {
		return func(c *Config) { c.Dir, c.MessageSubjects = dir, subjects }
	}
	publish := func(s *Server, subject string) error {
		_, err := s.Publish(t.Context(), Messages, Msg{Subject: subject, Data: []byte("x")})
		return err
	}
	s := start(t, with("lab.>", "site.*.results"))
	for subject, takes := range map[string]bool{
		"lab.a": true, "lab.a.b": true, "site.n.results": true,
		"lab": false, "site.results": false, "other.a": false, "lab.*": false, "lab.>": false, "": false,
	} {
		if s.TakesMessage(subject) != takes {
			t.Errorf("%q: taken %v", subject, !takes)
		}
		if !takes {
			continue
		}
		if err := publish(s, subject); err != nil {
			t.Errorf("%q: %v", subject, err)
		}
	}
	if err := publish(s, "fhir.message.a"); err != nil {
		t.Error(err)
	}
	if err := publish(s, "other.a"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a subject that no stream takes: %v", err)
	}
	if _, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: "messages", Name: "lab", Filter: "lab.a.>"}); err != nil {
		t.Error(err)
	}
	if _, err := s.CreateConsumer(t.Context(), ConsumerSpec{Stream: "dead", Name: "lab", Filter: "lab.a.>"}); fhir.AsError(err) == nil {
		t.Errorf("a consumer of another stream: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	// What was stored stays when its subject is not taken any more.
	again := start(t, with())
	if _, last, err := again.State(t.Context(), Messages); err != nil || last != 4 {
		t.Errorf("after a restart the stream ends at %d, %v", last, err)
	}
	if err := publish(again, "lab.a"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a subject that is not taken any more: %v", err)
	}
	if err := publish(again, "fhir.message.a"); err != nil {
		t.Error(err)
	}
}

func TestMessagesAreKeptAsLongAsTheOperatorSays(t *testing.T) {
	dir := t.TempDir()
	for _, age := range []time.Duration{0, MinMessageAge, 24 * time.Hour, 0} {
		s := start(t, func(c *Config) { c.Dir, c.MessageAge = dir, age })
		st, err := s.JetStream().Stream(t.Context(), Messages)
		if err != nil || st.CachedInfo().Config.MaxAge != age || st.CachedInfo().Config.Discard != jetstream.DiscardNew {
			t.Errorf("%s: %+v, %v", age, st.CachedInfo().Config, err)
		}
		if dead, err := s.JetStream().Stream(t.Context(), Dead); err != nil || dead.CachedInfo().Config.MaxAge != 0 {
			t.Errorf("%s: the dead letters' age is bounded: %v", age, err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMessageSubjectsOfOursAndThoseThatOverlapAreRefused(t *testing.T) {
	for _, tc := range []struct {
		subjects []string
		says     string // empty: taken
	}{
		{[]string{}, ""}, {[]string{"lab.>", "ward.*", "ward.*.x", "fhirx"}, ""},
		{[]string{">"}, "of its own"}, {[]string{"*.a"}, "of its own"},
		{[]string{"fhir.message.a.b"}, "Carillon's"}, {[]string{"fhir"}, "Carillon's"}, {[]string{"carillon.admin.x"}, "Carillon's"},
		{[]string{"$JS.API.>"}, "engine's"}, {[]string{"_INBOX.a"}, "engine's"}, {[]string{"_R_.a"}, "engine's"},
		{[]string{"a b"}, "no subject"}, {[]string{""}, "no subject"}, {[]string{"a..b"}, "no subject"}, {[]string{"a.>.b"}, "no subject"}, {[]string{"a.b*"}, "no subject"},
		{[]string{"a.>", "a.b"}, "overlap"}, {[]string{"a.*", "a.b"}, "overlap"}, {[]string{"a.*.c", "a.b.*"}, "overlap"}, {[]string{"a", "a"}, "overlap"},
	} {
		err := CheckMessageSubjects(tc.subjects)
		if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%q: %v", tc.subjects, err)
		}
	}
}
