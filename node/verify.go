package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// A comparison takes three steps, each asked of all nodes at once. Pause: every node stops folding
// and says where it is. Hash: every node goes on to the furthest of these places, exactly, takes
// hold of its projection as it is there, goes on folding, and reads what it took. Hashed: it is
// asked until it has read all of it. Every place that a node is at is one that all may be at, and
// so is the furthest of them in each log: what a record names was folded before it.

// compareOrder is the body of the three requests.
type compareOrder struct {
	ID string       `json:"id"`
	At store.Vector `json:"at"`
}

// compareState is the answer to each of them.
type compareState struct {
	At      store.Vector      `json:"at"`
	Done    bool              `json:"done"` // Buckets are there
	Buckets map[string]string `json:"buckets,omitempty"`
	TookMS  float64           `json:"tookMs,omitempty"`
}

const (
	compareTries = 3
	comparePoll  = 200 * time.Millisecond
)

func (n *Node) verifyOps() map[string]peerOp {
	read := func(f func(context.Context, compareOrder) (compareState, error)) peerOp {
		return func(ctx context.Context, body []byte) (any, error) {
			var o compareOrder
			if err := json.Unmarshal(body, &o); err != nil || o.ID == "" {
				return nil, errors.New("not an order to compare")
			}
			return f(ctx, o)
		}
	}
	return map[string]peerOp{
		"pause": read(n.comparePause), "hash": read(n.compareHash), "hashed": read(n.hashing.result),
		"resume": read(func(_ context.Context, o compareOrder) (compareState, error) {
			n.pauses.end(o.ID)
			return compareState{}, nil
		}),
	}
}

func (n *Node) comparePause(ctx context.Context, o compareOrder) (compareState, error) {
	if n.hashing.isBusy() {
		return compareState{}, errPaused
	}
	if err := n.pauses.begin(ctx, o.ID); err != nil {
		return compareState{}, err
	}
	return compareState{At: n.store.Position()}, nil
}

func (n *Node) compareHash(ctx context.Context, o compareOrder) (compareState, error) {
	defer n.pauses.end(o.ID)
	if err := n.pauses.advance(ctx, o.ID, n.store, o.At); err != nil {
		return compareState{}, err
	}
	frozen, err := n.store.Freeze(ctx)
	if err != nil {
		return compareState{}, err
	}
	at, err := frozen.Vector()
	if err == nil {
		err = n.hashing.start(o.ID, frozen)
	}
	if err != nil {
		frozen.Close()
		return compareState{}, err
	}
	return compareState{At: at}, nil
}

// hashing reads frozen projections, one at a time.
type hashing struct {
	work chan hashJob

	mu   sync.Mutex
	id   string // of the job, or of the newest one
	busy bool
	over bool // run has ended: nobody would read what is given
	done compareState
	err  error
}

type hashJob struct {
	id     string
	frozen *store.Frozen
}

func newHashing() *hashing { return &hashing{work: make(chan hashJob, 1)} }

func (h *hashing) isBusy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.busy
}

// start takes over a frozen projection; after an error it is still the caller's.
func (h *hashing) start(id string, frozen *store.Frozen) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy || h.over {
		return errPaused
	}
	h.id, h.busy, h.done, h.err = id, true, compareState{}, nil
	h.work <- hashJob{id, frozen}
	return nil
}

// run does the work until ctx ends.
func (h *hashing) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			h.mu.Lock()
			h.over = true
			h.mu.Unlock()
			select {
			case job := <-h.work:
				job.frozen.Close()
			default:
			}
			return nil
		case job := <-h.work:
			h.hash(ctx, job)
		}
	}
}

func (h *hashing) hash(ctx context.Context, job hashJob) {
	began := time.Now()
	sums, err := job.frozen.Hash(ctx)
	job.frozen.Close()
	state := compareState{At: sums.Vector, Done: true, Buckets: map[string]string{}, TookMS: float64(time.Since(began)) / float64(time.Millisecond)}
	for name, sum := range sums.Buckets {
		state.Buckets[name] = hex.EncodeToString(sum[:])
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy, h.done, h.err = false, state, err
}

func (h *hashing) result(_ context.Context, o compareOrder) (compareState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.id != o.ID:
		return compareState{}, errors.New("the comparison is not known: the node was started again")
	case h.busy:
		return compareState{}, nil
	}
	return h.done, h.err
}

// Verify compares the projections of all nodes.
func (a *admin) Verify(ctx context.Context, by string) (api.Verification, error) {
	seen, _ := a.server.Cluster(ctx) // what it does not tell, configuration and leases do
	nodes := a.expected(seen.Nodes)
	var v api.Verification
	for try := 1; ; try++ {
		c := &comparison{admin: a, id: newRun(), failed: map[string]error{}}
		states, again := c.compare(ctx, nodes)
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		if again && try < compareTries {
			continue
		}
		v = judged(nodes, states, c.failed, c.purged(states))
		break
	}
	if slices.ContainsFunc(v.Nodes, func(n api.VerifiedNode) bool { return n.Error == errPaused.Error() }) {
		return v, fhir.Refuse(fhir.IssueConflict, "", errPaused.Error()+"; try again when it has ended")
	}
	a.log.Info("projections were compared", "equal", v.Equal, "nodes", len(nodes), "by", by)
	return v, nil
}

// comparison is one try to compare the projections.
type comparison struct {
	*admin
	id     string
	failed map[string]error // why a node was not compared
}

// ask asks the nodes that take part still, and drops those that fail.
func (c *comparison) ask(ctx context.Context, nodes []string, op string, at store.Vector) (states map[string]compareState) {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(node string) bool { return c.failed[node] != nil })
	states = map[string]compareState{}
	for _, s := range askAll[compareState](ctx, c.peers, nodes, op, func(string) any { return compareOrder{ID: c.id, At: at} }) {
		if s.err != nil {
			c.failed[s.node] = s.err
		} else {
			states[s.node] = s.value
		}
	}
	return states
}

// compare gives what the nodes have at one place. It says again where a node that was paused did
// not get there in time, which may go better at another moment.
func (c *comparison) compare(ctx context.Context, nodes []string) (states map[string]compareState, again bool) {
	var at store.Vector
	paused := c.ask(ctx, nodes, "pause", at)
	for _, s := range paused {
		at = furthest(at, s.At)
	}
	began := slices.Sorted(maps.Keys(paused))
	frozen := c.ask(ctx, began, "hash", at)
	if again = len(frozen) < len(paused); again {
		// Their pauses would end by themselves, but nobody need wait for that.
		askAll[compareState](context.WithoutCancel(ctx), c.peers, began, "resume", func(string) any { return compareOrder{ID: c.id} })
	}
	states = map[string]compareState{}
	for open := slices.Sorted(maps.Keys(frozen)); len(open) > 0; {
		for node, s := range c.ask(ctx, open, "hashed", at) {
			if s.Done {
				states[node] = s
			}
		}
		open = slices.DeleteFunc(open, func(node string) bool { return states[node].Done || c.failed[node] != nil })
		if len(open) > 0 && pause(ctx, comparePoll) != nil {
			break
		}
	}
	return states, again
}

// furthest is the furthest place of two in each log.
func furthest(a, b store.Vector) store.Vector {
	return store.Vector{
		Events: max(a.Events, b.Events), Matches: max(a.Matches, b.Matches),
		Outcomes: max(a.Outcomes, b.Outcomes), Dead: max(a.Dead, b.Dead),
	}
}

// ofPositions is fed by all logs, and holds counters of what one process has met: it says where a
// projection is, which is compared by itself.
const ofPositions = "meta"

// ofDead are fed by DEAD alone.
var ofDead = []string{"dead", "deadid", "deadby"}

// judged says which nodes have what most have. Of DEAD nothing is compared where it was purged.
func judged(nodes []string, states map[string]compareState, failed map[string]error, purged bool) api.Verification {
	v := api.Verification{Equal: true}
	skip := []string{ofPositions}
	if purged {
		skip = append(skip, ofDead...)
		v.Left, v.Why = ofDead, "dead letters were purged from the log, and a node lists those that it read before"
	}
	votes := map[string]map[string]int{} // by bucket and hash
	for _, s := range states {
		v.At = positions(s.At)
		for b, sum := range s.Buckets {
			if votes[b] == nil {
				votes[b] = map[string]int{}
			}
			votes[b][sum]++
		}
	}
	for _, node := range nodes {
		n := api.VerifiedNode{Name: node}
		s, compared := states[node]
		switch {
		case compared:
			n.At, n.TookMS, n.Buckets = positions(s.At), s.TookMS, maps.Clone(s.Buckets)
			maps.DeleteFunc(n.Buckets, func(b, _ string) bool { return slices.Contains(skip, b) })
			n.Hash = joined(n.Buckets)
			for _, b := range slices.Sorted(maps.Keys(n.Buckets)) {
				if len(votes[b]) > 1 && 2*votes[b][n.Buckets[b]] <= len(states) {
					n.Differs = append(n.Differs, b)
				}
			}
		case failed[node] != nil:
			n.Error = failed[node].Error()
		default:
			n.Error = errSilent.Error()
		}
		v.Equal = v.Equal && compared && len(n.Differs) == 0
		v.Nodes = append(v.Nodes, n)
	}
	return v
}

// purged reports whether records of DEAD are gone. Then, too, a node that never read them cannot
// get to the place of one that did.
func (c *comparison) purged(states map[string]compareState) bool {
	seen := map[record.Sequence]bool{}
	for _, s := range states {
		seen[s.At.Dead] = true
	}
	if len(seen) > 1 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), peerTimeout)
	defer cancel()
	s, err := c.server.JetStream().Stream(ctx, stream.Dead)
	if err != nil {
		return true // it cannot be said that they are all there
	}
	state := s.CachedInfo().State
	return state.Msgs < state.LastSeq
}

// joined is one hash of several.
func joined(buckets map[string]string) string {
	var all strings.Builder
	for _, b := range slices.Sorted(maps.Keys(buckets)) {
		fmt.Fprintf(&all, "%s %s\n", b, buckets[b])
	}
	sum := sha256.Sum256([]byte(all.String()))
	return hex.EncodeToString(sum[:])
}
