package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
)

// task is work that one node of the cluster does at a time: a partition's runner, a lane. Two
// that do it for a moment do no harm, since what either writes is fenced in the log; none does
// no harm either, since the log waits.
type task struct {
	kind  string // "partition" or "lane"
	group string // tasks that carry about the same load; each group is spread by itself
	name  string
	run   func(ctx context.Context) error // until ctx ends; may be called again afterwards
}

// owners runs on this node the tasks that fall to it. Every node computes the same owner from
// the same members, so nobody has to be asked, and a member more or less moves only its share.
type owners struct {
	self    string
	tasks   []task
	members func() []string        // those with a lease, self included while its own holds; none if unknown
	changed func() <-chan struct{} // closed at the next change of members
	broken  func() error           // this node can do no work at all, which ends run
	log     *slog.Logger

	mu   sync.RWMutex
	mine map[string]bool // kind/name of what runs here
}

// Waits before a task that failed is tried again; they double.
const (
	firstTaskWait = 100 * time.Millisecond
	lastTaskWait  = 3 * time.Second
)

// assign gives each of a group of tasks its owner. It is rendezvous hashing with even shares:
// the heaviest pairs of task and member come first, and no member gets more than one task more
// than another. There are few tasks, and hashing alone leaves one of five members without any.
// The price is that a member more or less can move a task or two besides its own share.
func assign(group string, tasks, members []string) map[string]string {
	type pair struct {
		task, member string
		weight       uint64
	}
	var pairs []pair
	for _, t := range tasks {
		for _, m := range members {
			pairs = append(pairs, pair{t, m, weight(group, t, m)})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.task, b.task), cmp.Compare(a.member, b.member))
	})
	owners, load := map[string]string{}, map[string]int{}
	if len(members) == 0 {
		return owners
	}
	share, more := len(tasks)/len(members), len(tasks)%len(members) // so many have one more
	for _, p := range pairs {
		if owners[p.task] != "" || load[p.member] > share || load[p.member] == share && more == 0 {
			continue
		}
		if load[p.member] == share {
			more--
		}
		owners[p.task] = p.member
		load[p.member]++
	}
	return owners
}

func weight(group, task, member string) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s", group, task, member)
	// FNV alone mixes the last bytes badly: members that differ in their last letter would
	// share nothing evenly.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// run starts and stops tasks as ownership moves, until ctx ends and every task has stopped. It
// returns an error only when this node is broken.
func (o *owners) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, t := range o.tasks {
		wg.Go(func() {
			if err := o.keep(ctx, t); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// keep runs one task whenever it is ours, until ctx ends. What makes it fail is tried again: the
// log may be without a leader, or another owner may not have noticed yet that it is none.
func (o *owners) keep(ctx context.Context, t task) error {
	wait := firstTaskWait
	for o.await(ctx, t, true) {
		began := time.Now()
		err := o.own(ctx, t)
		if berr := o.broken(); berr != nil {
			return berr
		}
		if err == nil {
			wait = firstTaskWait
			continue
		}
		if time.Since(began) > 10*lastTaskWait {
			wait = firstTaskWait
		}
		if errors.Is(err, deliver.ErrLost) {
			o.log.Info("another node has taken over", t.kind, t.name, "err", err)
		} else {
			o.log.Warn("interrupted, will be taken up again", t.kind, t.name, "err", err)
		}
		select { // two owners that shut one another out must not stay in step
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastTaskWait)
	}
	return nil
}

// own runs a task until it falls to another, which gives nil, or fails.
func (o *owners) own(ctx context.Context, t task) error {
	owning, lost := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { o.await(owning, t, false); lost() })
	o.note(t, true)
	err := t.run(owning)
	o.note(t, false)
	if err == nil && owning.Err() == nil {
		err = errors.New("ended by itself")
	}
	lost()
	watching.Wait()
	return err
}

// await waits until the task is ours, or until it is not. It reports whether that came before
// the end of ctx.
func (o *owners) await(ctx context.Context, t task, ours bool) bool {
	for {
		changed := o.changed()
		// While nothing is known of the members a task stays as it is: a lane sends nothing without a
		// lease, and what is written is fenced.
		if owner := o.owner(t); owner != "" && (owner == o.self) == ours {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// owner is the member that a task falls to now; empty where nobody has a lease.
func (o *owners) owner(t task) string {
	var alike []string
	for _, other := range o.tasks {
		if other.kind == t.kind && other.group == t.group {
			alike = append(alike, other.name)
		}
	}
	return assign(t.kind+"/"+t.group, alike, o.members())[t.name]
}

func (o *owners) note(t task, runs bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mine == nil {
		o.mine = map[string]bool{}
	}
	if runs {
		o.mine[t.kind+"/"+t.name] = true
	} else {
		delete(o.mine, t.kind+"/"+t.name)
	}
}

// owns reports whether this node does a task now.
func (o *owners) owns(kind, name string) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.mine[kind+"/"+name]
}

// running names the tasks that this node does now, in order.
func (o *owners) running() []string {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return slices.Sorted(maps.Keys(o.mine))
}
