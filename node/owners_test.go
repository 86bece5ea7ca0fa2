package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
)

func TestEveryNodeNamesTheSameOwnersAndEachMemberHasItsShare(t *testing.T) {
	for count := 1; count <= 7; count++ {
		var members []string
		for i := range count {
			members = append(members, fmt.Sprintf("n%d", i+1))
		}
		shuffled := slices.Clone(members)
		slices.Reverse(shuffled)
		for _, tasks := range []int{1, 4, 6, 8, 24} {
			var names []string
			for i := range tasks {
				names = append(names, fmt.Sprintf("p17-%d", i))
			}
			owners := assign("partition", names, members)
			backwards := slices.Clone(names)
			slices.Reverse(backwards)
			if other := assign("partition", backwards, shuffled); !maps.Equal(owners, other) {
				t.Fatalf("%d tasks, %d members: owners depend on the order in which they are asked for", tasks, count)
			}
			load := map[string]int{}
			for _, name := range names {
				load[owners[name]]++
			}
			for _, m := range members {
				if load[m] < tasks/count || load[m] > (tasks+count-1)/count {
					t.Errorf("%d tasks, %d members: %s has %d", tasks, count, m, load[m])
				}
			}
		}
	}
	if got := assign("lane", []string{"3-0"}, nil); len(got) != 0 {
		t.Errorf("without members there are owners: %v", got)
	}
}

func TestTheLossOfAMemberMovesLittleMoreThanItsTasks(t *testing.T) {
	var names []string
	for i := range 24 {
		names = append(names, fmt.Sprintf("l%d", i))
	}
	before, after := assign("lane", names, []string{"n1", "n2", "n3"}), assign("lane", names, []string{"n1", "n3"})
	moved := 0
	for _, name := range names {
		if before[name] != "n2" && before[name] != after[name] {
			moved++
		}
	}
	if moved > 4 {
		t.Errorf("%d of 16 tasks moved between members that stayed", moved)
	}
}

// membership is what a test says of the members.
type membership struct {
	mu      sync.Mutex
	names   []string
	changes chan struct{}
}

func newMembership(names ...string) *membership {
	return &membership{names: names, changes: make(chan struct{})}
}

func (m *membership) members() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names
}

func (m *membership) changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

func (m *membership) set(names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names = names
	close(m.changes)
	m.changes = make(chan struct{})
}

func (m *membership) owners(self string, tasks ...task) *owners {
	return &owners{
		self: self, tasks: tasks, members: m.members, changed: m.changed,
		broken: func() error { return nil }, log: slog.New(slog.DiscardHandler),
	}
}

func TestATaskRunsWhereItIsOwnedAndStopsWhenItMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembership("n1")
		var mu sync.Mutex
		running := map[string]int{}
		runs := func(name string) task {
			return task{kind: "lane", name: name, run: func(ctx context.Context) error {
				mu.Lock()
				running[name]++
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
				running[name]--
				mu.Unlock()
				return nil
			}}
		}
		var tasks []task
		for i := range 16 {
			name := fmt.Sprintf("l%d", i)
			tasks = append(tasks, runs(name))
		}
		theirs := 8
		o := m.owners("n1", tasks...)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- o.run(ctx) }()
		check := func(want int, when string) {
			t.Helper()
			synctest.Wait()
			if got := len(o.running()); got != want {
				t.Errorf("%s %d tasks run, want %d", when, got, want)
			}
		}
		check(16, "alone")
		m.set("n1", "n2")
		check(16-theirs, "with another")
		m.set()
		check(16-theirs, "while nothing is known of the members")
		m.set("n2")
		check(0, "without a lease")
		m.set("n1")
		check(16, "alone again")
		stop()
		if err := <-done; err != nil {
			t.Errorf("run ended with %v", err)
		}
		if mu.Lock(); running["l0"] != 0 {
			t.Error("a task runs on after the end")
		}
		mu.Unlock()
	})
}

func TestATaskThatFailsIsTakenUpAgainAndABrokenNodeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembership("n1")
		tries := 0
		var broken error
		o := m.owners("n1", task{kind: "lane", name: "l", run: func(ctx context.Context) error {
			switch tries++; tries {
			case 1:
				return deliver.ErrLost
			case 2:
				return errors.New("no leader")
			case 3:
				return nil // although nobody told it to end
			}
			broken = errors.New("projection is damaged")
			return errors.New("cannot read")
		}})
		o.broken = func() error { return broken }
		began := time.Now()
		if err := o.run(t.Context()); !errors.Is(err, broken) || err == nil {
			t.Errorf("run ended with %v, want that of the broken node", err)
		}
		if tries != 4 {
			t.Errorf("the task ran %d times, want 4", tries)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("three failures took %s before the fourth try", took)
		}
	})
}
