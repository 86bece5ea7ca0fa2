package chaos

import "time"

// Mutant is a seeded bug: a build with the tag mutant has it where E2E_MUTANT names it. The
// checker has to find it, by one of the checks named here.
type Mutant struct {
	Name   string
	Bug    string
	Where  string
	Least  int // nodes that it takes to show
	Caught []string
	Steps  []Step
}

// mutants are the seeded bugs, each with the faults that bring it to light. The order of the
// table in DESIGN.md is the same.
func mutants() []Mutant {
	calm := Step{Fault: "endpoint-errors", Hold: 3 * time.Second, Rest: 2 * time.Second}
	kill := Step{Fault: "kill-one", Hold: 200 * time.Millisecond, Rest: 2 * time.Second}
	cut := Step{Fault: "power-all", Hold: 200 * time.Millisecond, Rest: 2 * time.Second}
	deaf := Step{Fault: "endpoint-errors", Hold: 8 * time.Second, Rest: time.Second, Dice: index("finished-encounter")}
	pause := func(node int) Step {
		return Step{Fault: "pause", Node: node, Hold: 7 * time.Second, Rest: 3 * time.Second}
	}
	return []Mutant{
		{"ack-before-sync", "writes are acknowledged before they are synced", "stream/config.go: sync_interval", 1,
			[]string{"lost", "readable", "recovery"}, []Step{calm, cut, calm, cut}},
		{"number-from-memory", "event numbers are counted since the process started", "store/matches.go: number", 1,
			[]string{"numbers"}, []Step{calm, kill, kill}},
		{"double-match", "every twentieth event is matched twice, and the second match gets a number", "match/matcher.go: run, store/matches.go: number", 1,
			[]string{"double"}, []Step{calm}},
		{"lost-dead-letter", "an exhausted match is ended without its dead letter", "deliver/attempt.go: giveUp", 1,
			[]string{"lost", "finding", "dead"}, []Step{deaf}},
		{"failure-accepted", "a failed attempt counts as accepted", "deliver/attempt.go: run", 1,
			[]string{"lost"}, []Step{calm}},
		{"accepted-before-send", "the outcome is recorded before the notification is sent", "deliver/attempt.go: run", 1,
			[]string{"lost"}, []Step{kill, kill, kill, kill}},
		{"order-ignored", "two versions of one resource are out at a time", "deliver/backlog.go: chain", 1,
			[]string{"order"}, []Step{calm, calm}},
		{"stale-registry", "a Subscription that is changed keeps its old criteria", "node/registry.go: apply", 1,
			[]string{"unwanted", "lost"}, []Step{calm, calm}},
		{"body-in-log", "resource bodies are logged", "node/gate.go: Write", 1,
			[]string{"finding"}, []Step{calm}},
		{"skipped-fence", "blocks name no block before them, and the fold does not look for repeats", "stream/append.go: Append, store/matches.go: number", 3,
			[]string{"double", "numbers", "projections"}, []Step{pause(0), pause(1), pause(2), pause(0), pause(1), pause(2)}},
	}
}

// index is the place of a Subscription in the list, for steps that aim at it.
func index(id string) uint64 {
	for i, s := range subscriptions() {
		if s.ID == id {
			return uint64(i)
		}
	}
	panic("no Subscription " + id)
}
