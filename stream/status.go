package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ClusterStatus is the cluster as this node sees it.
type ClusterStatus struct {
	Name    string
	Leader  string // of the cluster itself; empty while there is none
	Nodes   []NodeStatus
	Streams []StreamStatus
	Lanes   []ConsumerStatus
}

// NodeStatus is one node of the cluster.
type NodeStatus struct {
	Name    string
	Online  bool          // there is a route to it, or it is this node
	Current bool          // it has what the cluster agreed on
	Lag     uint64        // operations that it is behind, as its leader knows
	Active  time.Duration // since it was last heard of
}

// StreamStatus is one stream. Where it has no leader its state is that of this node's copy.
type StreamStatus struct {
	Name     string
	Leader   string
	Since    time.Time // when the leader took over; zero on a single node
	Replicas []ReplicaStatus
	Messages uint64
	Bytes    uint64
	First    uint64
	Last     uint64
	Lack     string // why it cannot be written; empty while it can
}

// ReplicaStatus is one copy of a stream.
type ReplicaStatus struct {
	Node    string
	Leader  bool
	Current bool
	Offline bool
	Lag     uint64
	Active  time.Duration
}

// ConsumerStatus is a lane's consumer.
type ConsumerStatus struct {
	Name    string
	Leader  string
	Out     int    // tokens delivered and not answered
	Waiting uint64 // tokens not delivered yet
}

// statusTimeout bounds each question of Cluster: one that has no answer shows as a lack.
const statusTimeout = 2 * time.Second

// Cluster tells operators how the cluster is, as this node sees it: leaders and places are asked
// of the leaders, and where none answers what this node has itself is shown. A single node is a
// cluster of itself. It costs a dozen questions, so it is for people and not for every second.
func (s *Server) Cluster(ctx context.Context) (ClusterStatus, error) {
	srv := s.running()
	if srv == nil {
		return ClusterStatus{}, ErrUnavailable
	}
	js, err := srv.Jsz(&server.JSzOptions{Account: "CORE", Streams: true})
	if err != nil {
		return ClusterStatus{}, fmt.Errorf("read status of the log: %w", err)
	}
	status := ClusterStatus{Name: s.cfg.Cluster, Leader: srv.Name(), Nodes: []NodeStatus{{Name: srv.Name(), Online: true, Current: true}}}
	if s.cfg.clustered() {
		status.Leader, status.Nodes = s.nodeStatus(srv, js.Meta)
	}
	local := map[string]server.StreamDetail{}
	for _, a := range js.AccountDetails {
		for _, d := range a.Streams {
			local[d.Name] = d
		}
	}
	var asking sync.WaitGroup
	defs, lanes := definitions(s.cfg.Replicas), Lanes()
	status.Streams, status.Lanes = make([]StreamStatus, len(defs)), make([]ConsumerStatus, len(lanes))
	for i, d := range defs {
		asking.Go(func() { status.Streams[i] = s.streamStatus(ctx, srv.Name(), d.Name, local) })
	}
	asking.Go(func() { // one after the other: there are sixteen, and the leader is the same for many
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		for i, l := range lanes {
			status.Lanes[i] = s.laneStatus(ctx, srv.Name(), l.Name)
		}
	})
	asking.Wait()
	return status, ctx.Err()
}

// nodeStatus tells who is in the cluster. Those who were never seen are known by nothing but
// their number, so they are left out.
func (s *Server) nodeStatus(srv *server.Server, meta *server.MetaClusterInfo) (leader string, nodes []NodeStatus) {
	routed := s.routed()
	nodes = []NodeStatus{{Name: srv.Name(), Online: true, Current: srv.JetStreamIsCurrent()}}
	seen := map[string]bool{srv.Name(): true}
	if meta != nil {
		leader = meta.Leader
		for _, p := range meta.Replicas {
			if !seen[p.Name] {
				nodes = append(nodes, NodeStatus{p.Name, routed[p.Name], p.Current && routed[p.Name], p.Lag, p.Active})
			}
			seen[p.Name] = true
		}
	}
	for name := range routed {
		if !seen[name] {
			nodes = append(nodes, NodeStatus{Name: name, Online: true})
		}
	}
	slices.SortFunc(nodes, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
	return leader, nodes
}

func (s *Server) streamStatus(ctx context.Context, self, name string, local map[string]server.StreamDetail) StreamStatus {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	status := StreamStatus{Name: name, Leader: self}
	info, err := s.info(ctx, name)
	here, isHere := local[name]
	cluster := &info.Cluster
	switch {
	case err == nil:
		status.Messages, status.Bytes, status.First, status.Last = info.State.Msgs, info.State.Bytes, info.State.First, info.State.Last
	case isHere:
		status.Lack = "its leader does not answer"
		status.Messages, status.Bytes, status.First, status.Last = here.State.Msgs, here.State.Bytes, here.State.FirstSeq, here.State.LastSeq
		cluster = here.Cluster
	default:
		status.Lack = "its leader does not answer"
	}
	if !s.cfg.clustered() {
		status.Replicas = []ReplicaStatus{{Node: self, Leader: true, Current: err == nil}}
		return status
	}
	status.Leader, status.Since = cluster.Leader, at(cluster.LeaderSince)
	if cluster.Leader != "" {
		status.Replicas = append(status.Replicas, ReplicaStatus{Node: cluster.Leader, Leader: true, Current: err == nil, Offline: err != nil})
	}
	for _, p := range cluster.Replicas {
		if p.Name != cluster.Leader {
			status.Replicas = append(status.Replicas, ReplicaStatus{p.Name, false, p.Current, p.Offline, p.Lag, p.Active})
		}
	}
	slices.SortFunc(status.Replicas, func(a, b ReplicaStatus) int { return strings.Compare(a.Node, b.Node) })
	if lack := s.leaders.lackOf(name); status.Lack == "" {
		status.Lack = lack
	}
	return status
}

func (s *Server) laneStatus(ctx context.Context, self, lane string) ConsumerStatus {
	status := ConsumerStatus{Name: lane}
	c, err := s.js.Consumer(ctx, LanesName, lane)
	if err != nil {
		return status
	}
	info := c.CachedInfo()
	status.Leader, status.Out, status.Waiting = self, info.NumAckPending, info.NumPending
	if info.Cluster != nil && s.cfg.clustered() {
		status.Leader = info.Cluster.Leader
	}
	return status
}
