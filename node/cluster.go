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
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// maxSkew is how far clocks may be apart before operators are warned. Nothing that is promised
// depends on clocks, but times of attempts, timeouts of certificates and logs do.
const maxSkew = 30 * time.Second

// A copy of a log is always some operations behind its leader while there are writes, which is no
// news. Further behind than this, or silent for longer, it is.
const (
	maxReplicaLag     = 10_000
	maxReplicaSilence = 10 * time.Second
)

// nodeState is what a node tells of itself when it is asked (op "state").
type nodeState struct {
	Node   api.ClusterNode   `json:"node"`
	Now    time.Time         `json:"now"`
	Digest map[string]string `json:"digest"` // of the configuration, by key
}

// startPeers answers other nodes from here on.
func (n *Node) startPeers(ctx context.Context) error {
	if err := n.readMarks(ctx); err != nil {
		return err
	}
	n.peers = &peers{conn: n.server.Conn(), self: n.name, log: n.log, ops: map[string]peerOp{
		"state":   func(ctx context.Context, _ []byte) (any, error) { return n.state(ctx), nil },
		"drain":   n.drainOp,
		"sockets": n.socketsOp,
	}}
	maps.Copy(n.peers.ops, n.verifyOps())
	maps.Copy(n.peers.ops, n.endpointOps())
	n.parts.all("peers", []func(context.Context) error{n.peers.run, n.hashing.run, n.handover.run})
	return nil
}

// readMarks finds out how far the partitions were matched before the start: the feed tells only of
// blocks that come since.
func (n *Node) readMarks(ctx context.Context) error {
	for _, p := range n.table.Names() {
		b, at, found, err := blocks{n.server}.Newest(ctx, p)
		if err != nil {
			return err
		}
		if found {
			// Who looks at a mark relies on what comes before it being folded here.
			if err := n.store.WaitApplied(ctx, store.Vector{Matches: at}); err != nil {
				return err
			}
			n.marks.set(p, b.Through)
		}
	}
	return nil
}

// state is what this node tells of itself.
func (n *Node) state(ctx context.Context) nodeState {
	warnings, err := n.readiness(ctx)
	stats, about := n.store.Stats(), n.about()
	s := nodeState{Now: time.Now(), Digest: digest(n.inForce().Shared()), Node: api.ClusterNode{
		Name: n.name, Leased: n.members.Held(), Draining: about.Draining,
		Version: about.Version, HTTP: about.HTTP, Started: about.Started.UTC(),
		Ready: err == nil, Warnings: warnings,
		DiskFree: n.disk.free.Load(), DiskTotal: n.disk.total.Load(), StoreBytes: stats.FileBytes,
		Partitions: n.matching.named("partition"), Lanes: n.delivery.named("lane"),
		Applied: positions(stats.Position),
	}}
	if err != nil {
		s.Node.Reason = err.Error()
	}
	return s
}

func positions(v store.Vector) api.LogPositions {
	return api.LogPositions{Events: v.Events, Matches: v.Matches, Outcomes: v.Outcomes, Dead: v.Dead}
}

// digest shortens values so far that they can be compared and not found again by trying: four
// bytes stand for too many.
func digest(values map[string]string) map[string]string {
	short := map[string]string{}
	for key, value := range values {
		sum := sha256.Sum256([]byte(key + "\x00" + value))
		short[key] = hex.EncodeToString(sum[:4])
	}
	return short
}

// ownerNames are the members that partitions and lanes may fall to: those that are not drained,
// nor stopping, nor unable to write what they find out. If all are, somebody has to do the work,
// and all count.
func (n *Node) ownerNames() []string {
	var staying, all []string
	for _, m := range n.members.View() {
		all = append(all, m.Name)
		if a := aboutOf(m); !a.Draining && !a.Unfit {
			staying = append(staying, m.Name)
		}
	}
	if len(staying) == 0 {
		return all
	}
	return staying
}

// aboutOf is what a member tells of itself; one of another release may tell less.
func aboutOf(m stream.Member) about {
	var a about
	_ = json.Unmarshal(m.Data, &a)
	return a
}

// expected names every node that should be there or is: those of the configuration, those that
// hold a lease, and those that the engine knows.
func (n *Node) expected(seen []stream.NodeStatus) []string {
	names := map[string]bool{n.name: true}
	for _, name := range n.cfg.Members() {
		names[name] = n.cfg.Clustered() || name == n.name
	}
	for _, m := range n.members.View() {
		names[m.Name] = true
	}
	for _, s := range seen {
		names[s.Name] = true
	}
	maps.DeleteFunc(names, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(names))
}

// Cluster is the state of all nodes as this one sees it.
func (a *admin) Cluster(ctx context.Context) (api.Cluster, error) {
	seen, err := a.server.Cluster(ctx)
	if err != nil && ctx.Err() != nil {
		return api.Cluster{}, ctx.Err()
	}
	r := &report{node: a.Node, seen: seen}
	if err != nil {
		r.warn("", "", "the embedded server does not tell how it is: %v", err)
	}
	r.answers = askAll[nodeState](ctx, a.peers, a.expected(seen.Nodes), "state", func(string) any { return nil })
	r.nodes()
	r.streams()
	r.lanes()
	r.own(a)
	r.judge()
	for _, p := range r.out.Problems {
		r.out.Status.Warnings = append(r.out.Status.Warnings, p.String())
	}
	return r.out, nil
}

// report is the state of the cluster in the making.
type report struct {
	node    *Node
	seen    stream.ClusterStatus
	answers []said[nodeState]
	out     api.Cluster
}

func (r *report) warn(node, command, format string, args ...any) {
	r.out.Problems = append(r.out.Problems, api.Problem{Node: node, Command: command, Text: fmt.Sprintf(format, args...)})
}

// nodes takes what each node said, or what is known of one that said nothing.
func (r *report) nodes() {
	leased := map[string]about{}
	for _, m := range r.node.members.View() {
		leased[m.Name] = aboutOf(m)
	}
	for _, a := range r.answers {
		state := a.value.Node
		if a.err != nil {
			about, is := leased[a.node]
			state = api.ClusterNode{
				Name: a.node, Error: a.err.Error(), Leased: is, Draining: about.Draining,
				Version: about.Version, HTTP: about.HTTP, Started: about.Started.UTC(),
			}
		} else {
			// Its clock was read between question and answer: in the middle, as far as we know.
			state.ClockSkew = a.value.Now.Sub(a.asked.Add(a.took / 2)).Seconds()
			state.Lag = r.lag(state.Applied)
		}
		r.out.Nodes = append(r.out.Nodes, state)
	}
}

// lag is how far a projection is behind the ends of the logs.
func (r *report) lag(at api.LogPositions) (lag api.LogPositions) {
	behind := func(log string, at record.Sequence) record.Sequence {
		return max(r.end(log), at) - at
	}
	return api.LogPositions{
		Events: behind(stream.Events, at.Events), Matches: behind(stream.Matches, at.Matches),
		Outcomes: behind(stream.Outcomes, at.Outcomes), Dead: behind(stream.Dead, at.Dead),
	}
}

// end is where a log ends; 0 where that is not known.
func (r *report) end(log string) record.Sequence {
	for _, s := range r.seen.Streams {
		if s.Name == log {
			return record.Sequence(s.Last)
		}
	}
	return 0
}

func (r *report) streams() {
	r.out.Leader, r.out.Quorum = r.seen.Leader, len(r.seen.Streams) > 0
	for _, s := range r.seen.Streams {
		st := api.ClusterStream{
			Name: s.Name, Leader: s.Leader, Messages: s.Messages, Bytes: s.Bytes,
			First: record.Sequence(s.First), Last: record.Sequence(s.Last), Lack: s.Lack,
		}
		for _, c := range s.Replicas {
			st.Replicas = append(st.Replicas, api.ClusterReplica{Node: c.Node, Current: c.Current, Offline: c.Offline, Lag: c.Lag})
		}
		r.out.Quorum = r.out.Quorum && s.Lack == ""
		r.out.Streams = append(r.out.Streams, st)
	}
}

func (r *report) lanes() {
	owners := map[string]string{}
	for _, n := range r.out.Nodes {
		for _, lane := range n.Lanes {
			owners[lane] = n.Name
		}
	}
	for _, c := range r.seen.Lanes {
		r.out.Lanes = append(r.out.Lanes, api.ClusterLane{Name: c.Name, Owner: owners[c.Name], Leader: c.Leader, Out: c.Out, Waiting: c.Waiting})
	}
}

// own takes what this node tells of itself by GET /status, without asking the logs once more.
func (r *report) own(a *admin) {
	r.out.Status = a.localStatus()
	for _, self := range r.out.Nodes {
		if self.Name == a.name {
			r.out.Ready = self.Ready
		}
	}
	at := a.store.Position()
	for i := range r.out.Logs {
		log := &r.out.Logs[i]
		for _, s := range r.out.Streams {
			if s.Name == log.Name {
				log.First, log.Last, log.Bytes = s.First, s.Last, s.Bytes
			}
		}
		log.Applied = place(at, log.Name)
	}
	r.out.Partitions = a.partitionStates(r.end(stream.Events))
	if dead, pipeline, err := a.countDead(context.Background()); err == nil {
		r.out.Dead, r.out.DeadPipeline = dead, pipeline
	}
}

// judge adds what an operator should know.
func (r *report) judge() {
	for _, n := range r.out.Nodes {
		r.judgeNode(n)
	}
	if r.out.Leader == "" {
		r.warn("", "carillon cluster members", "the cluster has no leader: fewer than half of its nodes reach each other, or an election is under way")
	}
	for _, s := range r.out.Streams {
		if s.Lack != "" {
			r.warn("", "carillon cluster members", "log %s cannot be written: %s", s.Name, s.Lack)
		}
	}
	for _, s := range r.seen.Streams {
		for _, c := range s.Replicas {
			if s.Lack == "" && (c.Offline || c.Lag > maxReplicaLag || !c.Current && c.Active > maxReplicaSilence) {
				r.warn(c.Node, "", "its copy of %s is %d operations behind, or away; it catches up by itself while the node runs", s.Name, c.Lag)
			}
		}
	}
	r.judgeVersions()
	r.judgeConfigurations()
	if all := r.out.Nodes; len(all) > 0 && !slices.ContainsFunc(all, func(n api.ClusterNode) bool { return !n.Draining }) {
		r.warn("", "carillon cluster drain "+all[0].Name+" --undo", "every node is draining, so all of them go on working")
	}
}

func (r *report) judgeNode(n api.ClusterNode) {
	start := "carillon serve --config cluster.yaml --node " + n.Name
	online := slices.ContainsFunc(r.seen.Nodes, func(s stream.NodeStatus) bool { return s.Name == n.Name && s.Online })
	switch {
	case n.Error == errSilent.Error() && online:
		r.warn(n.Name, "curl "+address(n.HTTP)+"/readyz", "it is connected and does not answer: it is starting, or stuck")
		return
	case n.Error != "":
		r.warn(n.Name, start, "%s", n.Error)
		return
	case !n.Ready:
		r.warn(n.Name, "", "it is not ready: %s", n.Reason)
	case !n.Leased:
		r.warn(n.Name, "", "it holds no lease, so no work falls to it; it asks for one by itself as soon as the cluster has a leader")
	}
	if skew := time.Duration(n.ClockSkew * float64(time.Second)); skew.Abs() > maxSkew {
		r.warn(n.Name, "timedatectl set-ntp true", "its clock is %s off that of %s", skew.Round(time.Second), r.node.name)
	}
	if n.Draining {
		r.warn(n.Name, "carillon cluster drain "+n.Name+" --undo", "it is draining: no partition and no lane falls to it")
	}
	for _, w := range n.Warnings {
		r.warn(n.Name, "", "%s", w)
	}
}

// address is where a node is reached, for a command; a placeholder where that is not known.
func address(http string) string {
	switch {
	case http == "":
		return "http://ADDRESS"
	case strings.Contains(http, "://"):
		return http
	}
	return "http://" + http
}

func (r *report) judgeVersions() {
	nodes := map[string][]string{}
	for _, n := range r.out.Nodes {
		if n.Version != "" {
			nodes[n.Version] = append(nodes[n.Version], n.Name)
		}
	}
	if len(nodes) < 2 {
		return
	}
	var texts []string
	for _, v := range slices.Sorted(maps.Keys(nodes)) {
		texts = append(texts, v+" on "+strings.Join(nodes[v], ", "))
	}
	r.warn("", "carillon version", "nodes run different releases: %s; finish the upgrade, one node after the other", strings.Join(texts, "; "))
}

// judgeConfigurations names keys whose values differ between nodes, and no value.
func (r *report) judgeConfigurations() {
	own := map[string]string{}
	for _, a := range r.answers {
		if a.node == r.node.name {
			own = a.value.Digest
		}
	}
	for _, a := range r.answers {
		if a.err != nil || a.node == r.node.name {
			continue
		}
		var differ []string
		for _, key := range slices.Sorted(maps.Keys(own)) {
			if other, known := a.value.Digest[key]; known && other != own[key] {
				differ = append(differ, key)
			}
		}
		if len(differ) > 0 {
			r.warn(a.node, "carillon config show --running --server "+address(a.value.Node.HTTP),
				"its configuration differs from that of %s in %s", r.node.name, strings.Join(differ, ", "))
		}
	}
}

// Drain has a node give up its work, or take it up again.
func (a *admin) Drain(ctx context.Context, o api.DrainOrder, by string) (api.ClusterNode, error) {
	seen, _ := a.server.Cluster(ctx) // what it does not tell, configuration and leases do
	if !slices.Contains(a.expected(seen.Nodes), o.Node) {
		return api.ClusterNode{}, fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("there is no node %q; carillon cluster members shows those that there are", o.Node))
	}
	var state nodeState
	if err := a.peers.call(ctx, o.Node, "drain", o, &state); err != nil {
		return api.ClusterNode{}, fhir.Refuse(fhir.IssueTransient, "", fmt.Sprintf("node %s was not told: %v", o.Node, err))
	}
	a.log.Info("node was told to drain, or to work again", "member", o.Node, "undo", o.Undo, "by", by)
	return state.Node, nil
}

// drainOp is Drain on the node that is meant. It lasts as long as the process: who starts a node
// wants it to work.
func (n *Node) drainOp(ctx context.Context, body []byte) (any, error) {
	var o api.DrainOrder
	if err := json.Unmarshal(body, &o); err != nil || o.Node != n.name {
		return nil, errors.New("not an order for this node")
	}
	if n.leaving.Swap(!o.Undo) != !o.Undo {
		n.members.SetData(record.Encode(n.about()))
		n.log.Info("node drains, or works again", "draining", !o.Undo)
	}
	if !o.Undo {
		n.handover.start()
	}
	return n.state(ctx), nil
}

// handover lets other nodes lead what this one leads, when it is drained. It takes longer than a
// request.
type leaderHandover struct {
	node *Node
	due  chan struct{}
}

func (h *leaderHandover) start() {
	select {
	case h.due <- struct{}{}:
	default: // one is due already
	}
}

func (h *leaderHandover) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.due:
		}
		if err := h.node.server.StepDown(ctx); err != nil && ctx.Err() == nil {
			h.node.log.Warn("leaders were not all handed over", "err", err)
		}
	}
}

// clusterGauges are what this node has of the cluster's work, read when metrics are asked for.
type clusterGauges struct{ n *Node }

var (
	descOwned     = prometheus.NewDesc("carillon_owned", "Partitions and lanes that this node runs.", []string{"kind"}, nil)
	descMembers   = prometheus.NewDesc("carillon_members", "Nodes that hold a lease, as this one sees it.", nil, nil)
	descAvailable = prometheus.NewDesc("carillon_log_available", "1 when the logs can be written.", nil, nil)
	descNodeReady = prometheus.NewDesc("carillon_node_ready", "1 when the node can do its work.", nil, nil)
)

func (g clusterGauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descOwned, descMembers, descAvailable, descNodeReady} {
		ch <- d
	}
}

func (g clusterGauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descOwned, float64(len(g.n.matching.named("partition"))), "partition")
	gauge(descOwned, float64(len(g.n.delivery.named("lane"))), "lane")
	gauge(descMembers, float64(len(g.n.members.View())))
	gauge(descAvailable, float(g.n.server.Available() == nil))
	_, err := g.n.readiness(context.Background())
	gauge(descNodeReady, float(err == nil))
}

// named are the tasks of a kind that this node does now, in order.
func (o *owners) named(kind string) []string {
	names := []string{}
	for _, t := range o.running() {
		if name, is := strings.CutPrefix(t, kind+"/"); is {
			names = append(names, name)
		}
	}
	return names
}
