package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The load under which nodes are taken away.
const (
	takeoverWriters  = 8
	takeoverPause    = 25 * time.Millisecond // of a writer between two writes
	takeoverSize     = 400
	takeoverPatience = 2 * time.Minute // until a write is given up, or the load counts as stuck
	steadyWrites     = 100             // that are acknowledged before, and after, a node is taken away
	fewestStops      = 3
)

// takeovers is what came of nodes that were taken away under load.
type takeovers struct {
	Kills        interruptions `json:"kills"` // SIGKILL
	Stops        interruptions `json:"stops"` // SIGTERM
	Acknowledged int           `json:"acknowledged"`
	Lost         int           `json:"lost"`
	Duplicates   int           `json:"duplicates"`
	Failed       int           `json:"failed"`
}

// interruptions are those of one kind. A gap is the longest time without an acknowledged write,
// from the signal until all nodes are ready again.
type interruptions struct {
	Count        int     `json:"count"`
	Leaders      int     `json:"leaders"` // nodes that led EVENTS; the others were drawn
	P50          float64 `json:"gapP50"`
	Max          float64 `json:"gapMax"`
	RefusedOnce  int     `json:"refusedOnce"`  // writes that the first node asked did not take
	RefusedTwice int     `json:"refusedTwice"` // of these, those that the next did not take either
}

// takeovers takes away the node that leads the log as often as planned, and a quarter as often
// stops it in order.
func (b *benchmark) takeovers(ctx context.Context) error {
	before, repeats := b.result, b.sink.duplicates()
	l, t := b.startLoad(ctx), &takeovers{}
	err := l.interrupt(ctx, &t.Kills, b.plan.takeovers, syscall.SIGKILL)
	if err == nil {
		err = l.interrupt(ctx, &t.Stops, max(fewestStops, b.plan.takeovers/4), syscall.SIGTERM)
	}
	l.stop()
	if err != nil {
		return err
	}
	if err := b.await(ctx, l.writes, time.Minute); err != nil {
		return err
	}
	t.Acknowledged, t.Lost = b.result.Acknowledged-before.Acknowledged, b.result.Lost-before.Lost
	t.Failed, t.Duplicates = b.result.Failed-before.Failed, b.sink.duplicates()-repeats
	b.result.Takeovers = t
	return nil
}

// takeoverLoad is a steady load of small writes on all nodes.
type takeoverLoad struct {
	b       *benchmark
	writes  *writes
	acks    *gaps
	refused [2]atomic.Int64 // writes that were refused once at least, and twice
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

func (b *benchmark) startLoad(ctx context.Context) *takeoverLoad {
	l := &takeoverLoad{b: b, writes: &writes{byID: map[string]written{}}, acks: &gaps{last: time.Now()}}
	// The end of the load ends no write: each is counted with what became of it.
	var more context.Context
	more, l.cancel = context.WithCancel(ctx)
	for writer := range takeoverWriters {
		l.done.Go(func() {
			for i := 0; pause(more, takeoverPause) == nil; i++ {
				l.write(ctx, fmt.Sprintf("%s-t-%d-%d", b.id, writer, i), writer+i, b.fast(i))
			}
		})
	}
	return l
}

func (l *takeoverLoad) stop() {
	l.cancel()
	l.done.Wait()
}

// write asks one node after the other, beginning with the one that is named by number, until one
// acknowledges the write. Its key lets a node that sees it again know it.
func (l *takeoverLoad) write(ctx context.Context, id string, node, subscription int) {
	ctx, cancel := context.WithTimeout(ctx, takeoverPatience)
	defer cancel()
	r := request{
		method: http.MethodPut, path: "/fhir/Observation/" + id, contentType: fhirJSON, minimal: true, key: id,
		body: paddedObservation(id, l.b.code(subscription), takeoverSize),
	}
	asked := time.Now()
	for try := 0; ; try++ {
		a, err := l.b.nodeOf(node+try).cl.do(ctx, r)
		if err == nil {
			err = a.refusal()
		}
		if err == nil {
			l.acks.acknowledged(time.Now())
		}
		if err == nil || a.final() || ctx.Err() != nil {
			l.writes.add(id, asked, err)
			return
		}
		if try < len(l.refused) {
			l.refused[try].Add(1)
		}
		if try > 0 {
			_ = pause(ctx, min(a.retryAfter(100*time.Millisecond), time.Second)) // the next question finds that ctx has ended
		}
	}
}

// final tells whether the same write would get the same answer from another node, or later.
func (a answer) final() bool {
	return a.status >= 400 && a.status < 500 && a.status != http.StatusTooManyRequests && a.status != http.StatusRequestTimeout
}

// interrupt takes nodes away, one after the other, by a signal.
func (l *takeoverLoad) interrupt(ctx context.Context, into *interruptions, n int, sig syscall.Signal) error {
	once, twice := l.refused[0].Load(), l.refused[1].Load()
	var times []float64
	for range n {
		node, leads := l.leader(ctx)
		gap, err := l.takeAway(ctx, node, sig)
		if err != nil {
			return fmt.Errorf("node %s, %s: %w", node.name, sig, err)
		}
		times = append(times, milliseconds(gap))
		into.Count++
		if leads {
			into.Leaders++
		}
		l.b.c.note("  %s, %s: no write for %.0f ms", node.name, sig, milliseconds(gap))
	}
	p := percentilesOf(times)
	into.P50, into.Max = p.P50, p.Max
	into.RefusedOnce, into.RefusedTwice = int(l.refused[0].Load()-once), int(l.refused[1].Load()-twice)
	return nil
}

// takeAway ends a node, waits until writes are acknowledged without it, and brings it back.
func (l *takeoverLoad) takeAway(ctx context.Context, node *benchNode, sig syscall.Signal) (time.Duration, error) {
	if err := l.acks.more(ctx, steadyWrites); err != nil {
		return 0, err
	}
	l.acks.restart(time.Now())
	node.proc.end(sig, time.Minute)
	if err := l.acks.more(ctx, steadyWrites); err != nil {
		return 0, err
	}
	if err := node.proc.start(); err != nil {
		return 0, err
	}
	if err := node.awaitReady(ctx); err != nil {
		return 0, err
	}
	if err := l.b.allReady(ctx); err != nil {
		return 0, err
	}
	return l.acks.longest(time.Now()), nil
}

// leader is the node that leads EVENTS, as any node tells; if none does, one of them by lot.
func (l *takeoverLoad) leader(ctx context.Context) (node *benchNode, leads bool) {
	for _, n := range l.b.nodes {
		body, err := n.cl.get(ctx, adminPath+"/cluster", nil)
		if err != nil {
			continue
		}
		name := leaderOf(body)
		for _, led := range l.b.nodes {
			if led.name == name {
				return led, true
			}
		}
	}
	return l.b.nodes[rand.IntN(len(l.b.nodes))], false
}

// leaderOf reads the leader of EVENTS out of the state of a cluster; empty where there is none.
func leaderOf(cluster []byte) string {
	var state struct {
		Streams []struct{ Name, Leader string }
	}
	if json.Unmarshal(cluster, &state) != nil {
		return ""
	}
	for _, s := range state.Streams {
		if s.Name == "EVENTS" {
			return s.Leader
		}
	}
	return ""
}

// gaps finds the longest time between two acknowledgements, whoever got them.
type gaps struct {
	mu   sync.Mutex
	last time.Time // acknowledgement
	most time.Duration
	n    int
}

func (g *gaps) acknowledged(at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at.Before(g.last) {
		at = g.last // of two that came together, the later was here first
	}
	g.most, g.last = max(g.most, at.Sub(g.last)), at
	g.n++
}

// restart forgets what was before.
func (g *gaps) restart(at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.last = 0, at
}

// longest is the longest gap since restart, the one that goes on included.
func (g *gaps) longest(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.most, now.Sub(g.last))
}

func (g *gaps) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

var errStuck = errors.New("no writes were acknowledged for " + takeoverPatience.String())

// more waits until so many further writes are acknowledged.
func (g *gaps) more(ctx context.Context, n int) error {
	limited, cancel := context.WithTimeoutCause(ctx, takeoverPatience, errStuck)
	defer cancel()
	for end := g.count() + n; g.count() < end; {
		if pause(limited, 10*time.Millisecond) != nil {
			return context.Cause(limited)
		}
	}
	return nil
}
