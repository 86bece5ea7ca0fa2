package stream

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// definitions are the streams as they must be, with what the operator says of MESSAGES. Nothing
// of ours is folded from it, so what it takes and how long it keeps it may change at any start.
func (s *Server) definitions() []jetstream.StreamConfig {
	all := definitions(s.cfg.Replicas)
	for i := range all {
		if all[i].Name == Messages {
			all[i].Subjects = append(all[i].Subjects, s.cfg.MessageSubjects...)
			all[i].MaxAge = s.cfg.MessageAge
		}
	}
	return all
}

// promisedSubjects are those that a stream must have. What MESSAGES takes besides is the operator's.
func promisedSubjects(c jetstream.StreamConfig) []string {
	if c.Name == Messages {
		return slices.DeleteFunc(sorted(c.Subjects), func(s string) bool { return s != FilterMessage })
	}
	return sorted(c.Subjects)
}

// promisedAge is how long a stream must keep a message; that of MESSAGES is the operator's.
func promisedAge(c jetstream.StreamConfig) time.Duration {
	if c.Name == Messages {
		return 0
	}
	return c.MaxAge
}

// TakesMessage reports whether MESSAGES takes what is published on a subject beside
// fhir.message.*.
func (s *Server) TakesMessage(subject string) bool {
	return literal(subject) && slices.ContainsFunc(s.cfg.MessageSubjects, func(p string) bool { return matches(p, subject) })
}

// CheckMessageSubjects refuses subjects that MESSAGES cannot take beside fhir.message.*, or not
// together: those of ours and of the engine, and those that overlap.
func CheckMessageSubjects(subjects []string) error {
	for i, p := range subjects {
		if !within(p, ">") {
			return fmt.Errorf("%q is no subject", p)
		}
		first, _, _ := strings.Cut(p, ".")
		switch {
		case first == "*" || first == ">":
			return fmt.Errorf("%q must begin with a token of its own, such as lab.>", p)
		case strings.HasPrefix(first, "$"), strings.HasPrefix(first, "_"), first == "fhir", first == "carillon":
			return fmt.Errorf("%q: subjects below %s are Carillon's or the engine's", p, first)
		}
		for _, other := range subjects[:i] {
			if overlap(p, other) {
				return fmt.Errorf("%q and %q overlap; give one of them", other, p)
			}
		}
	}
	return nil
}

// overlap reports whether some subject is one of both patterns.
func overlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; ; i++ {
		switch {
		case i == len(x) || i == len(y):
			return len(x) == len(y)
		case x[i] == ">" || y[i] == ">":
			return true
		case x[i] != "*" && y[i] != "*" && x[i] != y[i]:
			return false
		}
	}
}

// MinMessageAge is the least time that MESSAGES can keep a message: as long as it remembers ids.
const MinMessageAge = duplicateWindow
