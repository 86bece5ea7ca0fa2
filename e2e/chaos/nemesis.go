package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Fault is one way to break something. Make breaks it and returns how to heal it; an
// *Unavailable error says that it cannot be made here. Heal leaves every process running, but
// does not wait until it serves.
type Fault struct {
	Name  string
	Least int // nodes that the cluster must have
	Every int // weight in a schedule
	Make  func(n *Nemesis, s Step) (heal func() error, err error)
}

// Step is one fault of a schedule, on a node chosen beforehand.
type Step struct {
	Fault string
	Node  int           // index of the node that is meant
	Hold  time.Duration // how long it stays broken
	Rest  time.Duration // how long it is left alone after it serves again
	Dice  uint64        // what else has to be chosen
}

// Nemesis breaks a cluster.
type Nemesis struct {
	Cluster   *Cluster
	Endpoints *Endpoints
	History   *History
	Subs      []Subscription
	Ready     time.Duration // limit for the nodes to serve again after a fault

	ctx context.Context
}

// faults are all of them, by name.
func faults() []Fault {
	return []Fault{
		{"kill-one", 1, 6, (*Nemesis).killOne},
		{"kill-leader", 3, 4, (*Nemesis).killLeader},
		{"kill-all", 1, 3, (*Nemesis).killAll},
		{"rolling-restart", 1, 2, (*Nemesis).rollingRestart},
		{"pause", 1, 3, (*Nemesis).pause},
		{"isolate", 3, 3, (*Nemesis).isolate},
		{"isolate-leader", 3, 2, (*Nemesis).isolateLeader},
		{"split", 5, 3, (*Nemesis).split},
		{"one-way", 3, 3, (*Nemesis).oneWay},
		{"flapping", 3, 2, (*Nemesis).flapping},
		{"cut-off-endpoints", 1, 2, (*Nemesis).cutOffEndpoints},
		{"slow-link", 1, 1, (*Nemesis).slowLink},
		{"lossy-link", 1, 1, (*Nemesis).lossyLink},
		{"disk-full", 1, 2, (*Nemesis).diskFull},
		{"fsync-slow", 1, 1, (*Nemesis).fsyncSlow},
		{"fsync-error", 1, 2, (*Nemesis).fsyncError},
		{"power-one", 1, 3, (*Nemesis).powerOne},
		{"power-all", 1, 2, (*Nemesis).powerAll},
		{"damaged-projection", 1, 2, (*Nemesis).damagedProjection},
		{"lost-data", 3, 2, (*Nemesis).lostData},
		{"endpoint-errors", 1, 2, (*Nemesis).endpointErrors},
		{"endpoint-silent", 1, 1, (*Nemesis).endpointSilent},
	}
}

// FaultNames are the names of all faults.
func FaultNames() []string {
	var names []string
	for _, f := range faults() {
		names = append(names, f.Name)
	}
	return names
}

func faultNamed(name string) (Fault, bool) {
	i := slices.IndexFunc(faults(), func(f Fault) bool { return f.Name == name })
	if i < 0 {
		return Fault{}, false
	}
	return faults()[i], true
}

// Schedule draws steps from a seed: the same seed, cluster size and choice of faults give the
// same steps. Empty only means all faults that fit the size. It does not end.
func Schedule(seed uint64, nodes int, only []string) func() Step {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var bag []string
	for _, f := range faults() {
		if nodes < f.Least || len(only) > 0 && !slices.Contains(only, f.Name) {
			continue
		}
		for range f.Every {
			bag = append(bag, f.Name)
		}
	}
	var order []int
	return func() Step {
		if len(order) == 0 { // each as often as its weight before any comes again
			order = rnd.Perm(len(bag))
		}
		name := bag[order[0]]
		order = order[1:]
		return Step{
			Fault: name, Node: rnd.IntN(nodes),
			Hold: time.Duration(200+rnd.IntN(7000)) * time.Millisecond,
			Rest: time.Duration(500+rnd.IntN(2500)) * time.Millisecond,
			Dice: rnd.Uint64(),
		}
	}
}

// Do makes one step, holds it, heals it, and waits until all nodes serve. The error is one of
// healing: what cannot be made is in the history.
func (n *Nemesis) Do(ctx context.Context, s Step) error {
	f, ok := faultNamed(s.Fault)
	if !ok {
		return fmt.Errorf("there is no fault %q; there are %s", s.Fault, strings.Join(FaultNames(), ", "))
	}
	n.ctx = ctx
	begun := n.History.Now()
	heal, err := f.Make(n, s)
	var un *Unavailable
	if errors.As(err, &un) {
		n.History.Add(Record{Kind: Impossible, Text: s.Fault, Node: n.Cluster.Nodes[s.Node].Name, Body: quote(un.Why)})
		err = nil
		if heal != nil {
			_ = heal() // of what may have been made of it; it fails where that was nothing
			err = n.Cluster.AwaitReady(ctx, n.Ready)
		}
		return err
	}
	if err != nil {
		if heal != nil {
			err = errors.Join(err, heal())
		}
		return fmt.Errorf("%s: %w", s.Fault, err)
	}
	n.History.Add(Record{At: begun, Kind: Begun, Text: s.Fault, Node: n.Cluster.Nodes[s.Node].Name, Faults: touched(s.Fault, len(n.Cluster.Nodes))})
	sleep(ctx, s.Hold)
	n.History.Add(Record{Kind: Ended, Text: s.Fault, Node: n.Cluster.Nodes[s.Node].Name})
	err = heal()
	if err != nil {
		return fmt.Errorf("heal %s: %w", s.Fault, err)
	}
	if err := n.Cluster.AwaitReady(ctx, n.Ready); err != nil && ctx.Err() == nil {
		return fmt.Errorf("after %s: %w", s.Fault, err)
	}
	n.History.Notef("ready after %s", s.Fault)
	sleep(ctx, s.Rest)
	return nil
}

// touched is how many nodes a fault ends, or keeps from recording what they sent.
func touched(fault string, nodes int) int {
	switch fault {
	case "kill-all", "rolling-restart", "power-all", "split", "flapping":
		return nodes
	case "endpoint-errors", "endpoint-silent":
		return 0
	}
	return 1
}

func quote(s string) []byte { return []byte(strconv.Quote(s)) }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (n *Nemesis) node(s Step) *Node { return n.Cluster.Nodes[s.Node] }

// leader is the leader of the event log, or the step's own node where it is not known.
func (n *Nemesis) leader(s Step) *Node {
	if l := n.Cluster.Leader(n.ctx); l != nil {
		return l
	}
	n.History.Notef("the leader is not known, %s is taken", n.node(s).Name)
	return n.node(s)
}

// restart starts a node and makes its projection again where the node asks for that.
func (n *Nemesis) restart(node *Node) error {
	rebuilt, err := node.Restart(n.ctx, n.Ready)
	if rebuilt {
		n.History.Notef("%s was started with --rebuild, as it asked", node.Name)
	}
	return err
}

func (n *Nemesis) startAll() error { return n.Cluster.each(n.restart) }

func (n *Nemesis) kill(node *Node) (func() error, error) {
	node.Kill()
	return func() error { return n.restart(node) }, nil
}

func (n *Nemesis) killOne(s Step) (func() error, error)    { return n.kill(n.node(s)) }
func (n *Nemesis) killLeader(s Step) (func() error, error) { return n.kill(n.leader(s)) }

func (n *Nemesis) killAll(Step) (func() error, error) {
	n.Cluster.KillAll()
	return n.startAll, nil
}

// rollingRestart stops and starts the nodes one after the other, as an upgrade does.
func (n *Nemesis) rollingRestart(Step) (func() error, error) {
	return func() error {
		for _, node := range n.Cluster.Nodes {
			if err := node.Stop(); err != nil {
				return err
			}
			if err := n.restart(node); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func (n *Nemesis) pause(s Step) (func() error, error) {
	node := n.node(s)
	return node.Continue, node.Pause()
}

// between does something for each ordered pair of a node in group and one that is not.
func (n *Nemesis) between(group []*Node, f func(from, to *Host) error) error {
	var errs []error
	for _, a := range group {
		for _, b := range n.Cluster.Nodes {
			if !slices.Contains(group, b) {
				errs = append(errs, f(a.Host, b.Host), f(b.Host, a.Host))
			}
		}
	}
	return errors.Join(errs...)
}

func (n *Nemesis) apart(group ...*Node) (func() error, error) {
	return func() error { return n.between(group, (*Host).Join) }, n.between(group, (*Host).Cut)
}

func (n *Nemesis) isolate(s Step) (func() error, error)       { return n.apart(n.node(s)) }
func (n *Nemesis) isolateLeader(s Step) (func() error, error) { return n.apart(n.leader(s)) }

// split parts the nodes into a majority and a minority.
func (n *Nemesis) split(s Step) (func() error, error) {
	var minority []*Node
	for i := range (len(n.Cluster.Nodes) - 1) / 2 {
		minority = append(minority, n.Cluster.Nodes[(s.Node+i)%len(n.Cluster.Nodes)])
	}
	return n.apart(minority...)
}

// oneWay lets a node hear the others and not be heard, or the other way round.
func (n *Nemesis) oneWay(s Step) (func() error, error) {
	each := func(f func(from, to *Host) error) error {
		var errs []error
		for _, other := range n.Cluster.Nodes {
			if other == n.node(s) {
				continue
			}
			from, to := n.node(s).Host, other.Host
			if s.Dice%2 == 0 {
				from, to = to, from
			}
			errs = append(errs, f(from, to))
		}
		return errors.Join(errs...)
	}
	return func() error { return each((*Host).Join) }, each((*Host).Cut)
}

// flapping cuts a node off and joins it again, over and over, each for up to a second and a half.
func (n *Nemesis) flapping(s Step) (func() error, error) {
	rnd := rand.New(rand.NewPCG(s.Dice, 2))
	node := n.node(s)
	join, err := n.apart(node)
	if err != nil {
		return join, err
	}
	ctx, stop := context.WithCancel(n.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for cut := true; ctx.Err() == nil; cut = !cut {
			sleep(ctx, time.Duration(200+rnd.IntN(1300))*time.Millisecond)
			f := (*Host).Cut
			if cut {
				f = (*Host).Join
			}
			_ = n.between([]*Node{node}, f) // the last word is heal's
		}
	}()
	return func() error {
		stop()
		<-done
		return join()
	}, nil
}

func (n *Nemesis) cutOffEndpoints(s Step) (func() error, error) {
	h := n.node(s).Host
	return h.JoinOutside, h.CutOutside()
}

func (n *Nemesis) slowLink(s Step) (func() error, error) {
	h := n.node(s).Host
	return undo(h.Fast, h.Slow(256+int(s.Dice%2048)))
}

func (n *Nemesis) lossyLink(s Step) (func() error, error) {
	h, share := n.node(s).Host, 0.02+float64(s.Dice%20)/100
	return undo(func() error { return h.LoseNothing(share) }, h.Lose(share))
}

// undo leaves the healing away where nothing was broken.
func undo(heal func() error, err error) (func() error, error) {
	if err != nil {
		return nil, err
	}
	return heal, nil
}

// diskFull leaves so little that the node has to refuse before the disk does.
func (n *Nemesis) diskFull(s Step) (func() error, error) {
	d := n.node(s).Disk
	return undo(d.Empty, d.Fill(1<<20))
}

// inject attaches strace to a running node, to tamper with its syncs.
func (n *Nemesis) inject(node *Node, what string) (detach func() error, err error) {
	if err := need("strace", "strace"); err != nil {
		return nil, err
	}
	pid := node.PID()
	if pid == 0 {
		return nil, errDown
	}
	var out strings.Builder
	cmd := exec.Command("strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:"+what, "-p", strconv.Itoa(pid))
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		return nil, &Unavailable{err.Error()}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for range 100 {
		select {
		case <-done:
			return nil, &Unavailable{"strace cannot attach: " + strings.TrimSpace(out.String())}
		case <-time.After(20 * time.Millisecond):
		}
		if traced(pid) {
			return func() error {
				_ = cmd.Process.Signal(syscall.SIGTERM) // strace detaches, and ends by the same signal
				<-done
				return nil
			}, nil
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	<-done
	return nil, &Unavailable{"strace did not attach within 2 s"}
}

// traced reports whether a tracer is attached to every thread of a process.
func traced(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		return false
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err == nil && strings.Contains(string(b), "TracerPid:\t0\n") {
			return false
		}
	}
	return true
}

func (n *Nemesis) fsyncSlow(s Step) (func() error, error) {
	ms := 20 + s.Dice%200
	return n.inject(n.node(s), fmt.Sprintf("delay_enter=%d", ms*1000))
}

// fsyncError lets every sync fail. What was written is not safe then, whatever the node
// believes, so the power goes with it: a node that goes on acknowledging has lost that.
func (n *Nemesis) fsyncError(s Step) (func() error, error) {
	node := n.node(s)
	if err := node.Disk.Own(); err != nil {
		return nil, err
	}
	detach, err := n.inject(node, "error=EIO")
	if err != nil {
		return nil, err
	}
	return func() error {
		cut := node.Disk.Cut()
		node.Kill()
		err := errors.Join(cut, detach(), node.Disk.Repower())
		if err != nil {
			return err
		}
		return n.restart(node)
	}, nil
}

// power takes the power from nodes: their disks first, so that nothing is synced on the way down.
func (n *Nemesis) power(nodes ...*Node) (func() error, error) {
	for _, node := range nodes {
		if err := node.Disk.Own(); err != nil {
			return nil, err
		}
	}
	heal := func() error {
		for _, node := range nodes {
			if err := node.Disk.Repower(); err != nil {
				return err
			}
		}
		return n.startAll()
	}
	for _, node := range nodes {
		if err := node.Disk.Cut(); err != nil {
			return heal, err
		}
	}
	for _, node := range nodes {
		node.Kill()
	}
	return heal, nil
}

func (n *Nemesis) powerOne(s Step) (func() error, error) { return n.power(n.node(s)) }
func (n *Nemesis) powerAll(Step) (func() error, error)   { return n.power(n.Cluster.Nodes...) }

// damagedProjection flips bits of a stopped node's projection.
func (n *Nemesis) damagedProjection(s Step) (func() error, error) {
	node := n.node(s)
	node.Kill()
	rnd := rand.New(rand.NewPCG(s.Dice, 3))
	damaged := 0
	err := filepath.WalkDir(filepath.Join(node.Disk.Path, "data", "projection"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".db" {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		for off := int64(rnd.IntN(512)); off < st.Size(); off += 512 {
			b := []byte{0}
			if _, err := f.ReadAt(b, off); err != nil {
				return err
			}
			b[0] ^= 1 << rnd.IntN(8)
			if _, err := f.WriteAt(b, off); err != nil {
				return err
			}
		}
		damaged++
		return nil
	})
	heal := func() error { return n.restart(node) }
	if err == nil && damaged == 0 {
		err = &Unavailable{"the node has no projection file"}
	}
	return heal, err
}

// lostData takes a node's whole data folder.
func (n *Nemesis) lostData(s Step) (func() error, error) {
	node := n.node(s)
	node.Kill()
	err := os.RemoveAll(filepath.Join(node.Disk.Path, "data"))
	return func() error { return n.restart(node) }, err
}

// victim is the Subscription whose endpoint a step breaks.
func (n *Nemesis) victim(s Step) string { return n.Subs[s.Dice%uint64(len(n.Subs))].ID }

func (n *Nemesis) endpointErrors(s Step) (func() error, error) {
	id := n.victim(s)
	status := []int{500, 503, 429, 404}[s.Dice>>32%4]
	n.Endpoints.Break(id, status)
	return func() error { n.Endpoints.Mend(id); return nil }, nil
}

func (n *Nemesis) endpointSilent(s Step) (func() error, error) {
	id := n.victim(s)
	n.Endpoints.Break(id, 0)
	return func() error { n.Endpoints.Mend(id); return nil }, nil
}
