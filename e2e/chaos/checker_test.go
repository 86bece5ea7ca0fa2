package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// story writes a small history in which everything is well.
type story struct {
	at      time.Duration
	records []Record
}

func (s *story) add(r Record) {
	s.at += time.Millisecond
	r.At = s.at
	if r.Kind == Arrived {
		r.Answered = s.at
	}
	s.records = append(s.records, r)
}

// write is a Patient that was written, acknowledged as a version, and arrived with a number.
func (s *story) write(id string, seq int, version, number uint64) {
	body := fmt.Sprintf(`{"resourceType":"Patient","id":%q,"active":false,"identifier":[{"system":"urn:chaos:seq","value":"%d"}]}`, id, seq)
	c, err := readContent([]byte(body))
	if err != nil {
		panic(err)
	}
	s.add(Record{Kind: Asked, Resource: "Patient/" + id, Seq: seq, Interaction: "write", Body: []byte(body), Sum: c.sum})
	s.add(Record{Kind: Acknowledged, Resource: "Patient/" + id, Seq: seq, Interaction: "write", Version: version, Status: 200})
	s.add(Record{
		Kind: Arrived, Subscription: "every-patient", Resource: "Patient/" + id, Seq: seq, Interaction: "write", Version: version, Sum: c.sum,
		Number: number, WebhookID: fmt.Sprintf("every-patient.1.%d", number), Attempt: 1, Status: 200,
	})
	s.add(Record{Kind: Numbered, Node: "n1", Subscription: "every-patient", Resource: "Patient/" + id, Version: version, Number: number, Interaction: "update"})
	s.add(Record{Kind: Read, Node: "n1", Resource: "Patient/" + id, Version: version, Status: 200, Sum: c.sum})
}

func goodStory() *story {
	s := &story{}
	s.write("a", 1, 10, 1)
	s.write("a", 2, 11, 2)
	s.write("b", 1, 12, 3)
	s.add(Record{Kind: Read, Node: "n1", Resource: "Patient/a", Version: 11, Text: "newest", Status: 200})
	return s
}

// where returns the index of the nth record of a kind.
func (s *story) where(k Kind, nth int) int {
	for i, r := range s.records {
		if r.Kind == k {
			if nth--; nth == 0 {
				return i
			}
		}
	}
	panic("no such record")
}

func (s *story) remove(k Kind, nth int) {
	i := s.where(k, nth)
	s.records = slices.Delete(s.records, i, i+1)
}

func TestAHistoryInWhichAllIsWellHasNoViolation(t *testing.T) {
	r := Check(goodStory().records, subscriptions())
	if len(r.Violations) != 0 || r.Counts.Owed != 3 || r.Counts.Arrivals != 3 || r.Counts.ReadBack != 4 {
		t.Errorf("got %+v", r)
	}
}

// Every promise can be broken, and the checker says which.
func TestTheCheckerFindsEachBrokenPromise(t *testing.T) {
	for _, c := range []struct {
		name, check string
		spoil       func(*story)
	}{
		{"an acknowledged write that never arrives", "lost", func(s *story) { s.remove(Arrived, 3); s.remove(Numbered, 3) }},
		{"an acknowledged write that only failed", "lost", func(s *story) { s.records[s.where(Arrived, 3)].Status = 500 }},
		{"a number that is left out", "gaps", func(s *story) {
			for _, i := range []int{s.where(Arrived, 3), s.where(Numbered, 3)} {
				s.records[i].Number = 4
			}
			s.records[s.where(Arrived, 3)].WebhookID = "every-patient.1.4"
		}},
		{"a number that stands for two versions", "numbers", func(s *story) {
			r := s.records[s.where(Arrived, 2)]
			r.Number, r.WebhookID = 1, "every-patient.1.1"
			s.add(r)
		}},
		{"a webhook-id of another number", "numbers", func(s *story) { s.records[s.where(Arrived, 1)].WebhookID = "every-patient.1.9" }},
		{"a number that nodes list differently from what arrived", "numbers", func(s *story) { s.records[s.where(Numbered, 1)].Version = 12 }},
		{"a version with two numbers", "double", func(s *story) {
			r := s.records[s.where(Arrived, 3)]
			r.Number, r.WebhookID = 4, "every-patient.1.4"
			s.add(r)
		}},
		{"two nodes that list another event by one number", "projections", func(s *story) {
			r := s.records[s.where(Numbered, 1)]
			r.Node, r.Version = "n2", 11
			s.add(r)
		}},
		{"a notification that the criteria does not want", "unwanted", func(s *story) {
			r := s.records[s.where(Arrived, 1)]
			r.Subscription, r.WebhookID = "active-patient", "active-patient.2.1"
			s.add(r)
		}},
		{"a notification that nobody wrote", "unwanted", func(s *story) {
			r := s.records[s.where(Arrived, 1)]
			r.Seq, r.Version, r.Number, r.WebhookID = 99, 99, 4, "every-patient.1.4"
			s.add(r)
		}},
		{"a notification of a refused write", "unwanted", func(s *story) {
			i := s.where(Acknowledged, 3)
			s.records[i].Kind, s.records[i].Version, s.records[i].Status = Refused, 0, 507
		}},
		{"a delete for one who wants none", "unwanted", func(s *story) {
			r := s.records[s.where(Arrived, 1)]
			r.Interaction, r.Seq, r.Version, r.Sum, r.Number, r.WebhookID = "delete", 0, 0, "", 4, "every-patient.1.4"
			s.add(r)
		}},
		{"another content than was written", "fidelity", func(s *story) { s.records[s.where(Arrived, 1)].Sum = "other" }},
		{"a newer version before an older one", "order", func(s *story) {
			a, b := s.where(Arrived, 1), s.where(Arrived, 2)
			s.records[a].At, s.records[b].At = s.records[b].At, s.records[a].At
			s.records[a].Answered, s.records[b].Answered = s.records[a].At, s.records[b].At
		}},
		{"a newer version while the older one is still out", "order", func(s *story) { s.records[s.where(Arrived, 1)].Answered = time.Minute }},
		{"versions that do not rise", "versions", func(s *story) { s.records[s.where(Acknowledged, 2)].Version = 9 }},
		{"one write that became two versions", "versions", func(s *story) {
			s.records[s.where(Acknowledged, 3)].Kind = Unknown
			r := s.records[s.where(Arrived, 3)]
			r.Version, r.Number, r.WebhookID = 13, 4, "every-patient.1.4"
			s.add(r)
		}},
		{"a version that cannot be read any more", "readable", func(s *story) { s.records[s.where(Read, 2)].Status = 404 }},
		{"a version that reads differently", "readable", func(s *story) { s.records[s.where(Read, 2)].Sum = "other" }},
		{"a node that has an older version", "readable", func(s *story) { s.records[s.where(Read, 4)].Version = 10 }},
		{"a repeat that no fault explains", "duplicates", func(s *story) { s.add(s.records[s.where(Arrived, 3)]) }},
		{"a dead letter where attempts have no end", "dead", func(s *story) {
			s.add(Record{Kind: Dead, Subscription: "every-patient", Resource: "Patient/a", Version: 10, Number: 1})
		}},
		{"a plain write that is refused", "refused", func(s *story) {
			s.add(Record{Kind: Asked, Resource: "Patient/c", Seq: 1, Interaction: "write", Body: []byte(`{"resourceType":"Patient"}`)})
			s.add(Record{Kind: Refused, Resource: "Patient/c", Seq: 1, Interaction: "write", Status: 422})
		}},
		{"something seen on the way", "finding", func(s *story) { s.add(Record{Kind: Finding, Text: "a panic"}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := goodStory()
			c.spoil(s)
			var found []string
			for _, v := range Check(s.records, subscriptions()).Violations {
				found = append(found, v.Check)
			}
			if !slices.Contains(found, c.check) {
				t.Errorf("found %s, want %s", strings.Join(found, ", "), c.check)
			}
		})
	}
}

// A Subscription that is changed is held to the criteria that it had when a write took its place
// in the log: to the new one once the change was acknowledged, to either while it was under way.
func TestTheCheckerKnowsWhichCriteriaWasInForce(t *testing.T) {
	changing := func(changed, arrives bool) []Record {
		s := &story{}
		s.add(Record{Kind: Changing, Subscription: "changing", Variant: 1})
		if changed {
			s.add(Record{Kind: Changed, Subscription: "changing", Variant: 1})
		}
		s.write("a", 1, 10, 1) // not active: what the other criteria wants
		if arrives {
			r := s.records[s.where(Arrived, 1)]
			r.Subscription, r.WebhookID = "changing", "changing.2.1"
			s.add(r)
		}
		return s.records
	}
	for _, c := range []struct {
		name             string
		changed, arrives bool
		want             string
	}{
		{"changed, and it arrives", true, true, ""},
		{"changed, and it does not arrive", true, false, "lost"},
		{"under way, and it arrives", false, true, ""},
		{"under way, and it does not arrive", false, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var found []string
			for _, v := range Check(changing(c.changed, c.arrives), subscriptions()).Violations {
				found = append(found, v.Check)
			}
			if got := strings.Join(found, " "); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

// What may or may not have been made obliges nobody, and what a dead letter holds is not lost.
func TestTheCheckerAllowsWhatIsAllowed(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*story)
	}{
		{"an unknown write that never arrives", func(s *story) {
			s.remove(Arrived, 3)
			s.remove(Numbered, 3)
			s.records[s.where(Acknowledged, 3)].Kind = Unknown
		}},
		{"an unknown write that arrives", func(s *story) {
			i := s.where(Acknowledged, 3)
			s.records[i].Kind, s.records[i].Version = Unknown, 0
		}},
		{"a repeat after a kill", func(s *story) {
			s.add(Record{Kind: Begun, Text: "kill-one", Faults: 1})
			s.add(s.records[s.where(Arrived, 3)])
		}},
		{"a failure that is tried again", func(s *story) {
			r := s.records[s.where(Arrived, 3)]
			s.records[s.where(Arrived, 3)].Status = 503
			r.Attempt = 2
			s.add(r)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := goodStory()
			c.spoil(s)
			for _, v := range Check(s.records, subscriptions()).Violations {
				t.Error(v)
			}
		})
	}
}

// The same seed gives the same faults, on the same nodes, for as long.
func TestAScheduleIsItsSeed(t *testing.T) {
	draw := func(seed uint64, nodes int) (steps []Step) {
		next := Schedule(seed, nodes, nil)
		for range 200 {
			steps = append(steps, next())
		}
		return steps
	}
	if !slices.Equal(draw(4, 3), draw(4, 3)) {
		t.Error("one seed gave two schedules")
	}
	if slices.Equal(draw(4, 3), draw(5, 3)) {
		t.Error("two seeds gave one schedule")
	}
	for _, nodes := range []int{1, 3, 5} {
		for _, s := range draw(6, nodes) {
			if f, ok := faultNamed(s.Fault); !ok || f.Least > nodes || s.Node >= nodes {
				t.Errorf("%d nodes: %+v", nodes, s)
			}
		}
	}
}
