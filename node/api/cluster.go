package api

import (
	"context"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// ClusterAdmin administers the nodes as one.
type ClusterAdmin interface {
	// Cluster asks all nodes how they are. It answers without a quorum too, with what is known.
	Cluster(ctx context.Context) (Cluster, error)
	// Drain takes partitions, lanes and leaderships from a node, or with Undo lets it have them
	// again. It returns once the node has agreed. An unknown node is IssueNotFound, one that does
	// not answer IssueTransient.
	Drain(ctx context.Context, o DrainOrder, by string) (ClusterNode, error)
	// Verify compares the projections of all nodes at one place of the logs. A difference is no
	// error.
	Verify(ctx context.Context, by string) (Verification, error)
	// Reload reads the configuration of the node that is asked again. What is wrong in it is
	// refused (IssueValue) and changes nothing.
	Reload(ctx context.Context, by string) (Reloaded, error)
}

// Cluster is the state of all nodes as the one that was asked sees it. What it has of Status is
// that node's own, but for the warnings, which are of all.
type Cluster struct {
	Status
	Leader   string          `json:"leader"` // of the cluster; empty while there is none
	Quorum   bool            `json:"quorum"` // every log can be written
	Nodes    []ClusterNode   `json:"nodes"`
	Streams  []ClusterStream `json:"streams"`
	Lanes    []ClusterLane   `json:"lanes"`
	Problems []Problem       `json:"problems"` // the warnings, each with what helps
}

// ClusterNode is one node. Where it gives no answer, Error says so and the rest is what others
// know of it.
type ClusterNode struct {
	Name       string       `json:"name"`
	Error      string       `json:"error,omitempty"`
	Leased     bool         `json:"leased"` // it holds a lease: work may fall to it
	Draining   bool         `json:"draining"`
	Version    string       `json:"version,omitempty"`
	HTTP       string       `json:"http,omitempty"` // where clients reach it
	Started    time.Time    `json:"started,omitzero"`
	ClockSkew  float64      `json:"clockSkewSeconds"` // its clock against that of the node that was asked
	Ready      bool         `json:"ready"`
	Reason     string       `json:"reason,omitempty"` // why it is not ready
	Warnings   []string     `json:"warnings"`
	DiskFree   uint64       `json:"diskFree"`
	DiskTotal  uint64       `json:"diskTotal"`
	StoreBytes int64        `json:"storeBytes"`
	Partitions []string     `json:"partitions"` // that it runs
	Lanes      []string     `json:"lanes"`
	Applied    LogPositions `json:"applied"` // by its projection
	Lag        LogPositions `json:"lag"`     // of that behind the ends of the logs
}

// LogPositions are places in the four logs, or distances.
type LogPositions struct {
	Events   record.Sequence `json:"events"`
	Matches  record.Sequence `json:"matches"`
	Outcomes record.Sequence `json:"outcomes"`
	Dead     record.Sequence `json:"dead"`
}

// ClusterStream is one stream with its copies.
type ClusterStream struct {
	Name     string           `json:"name"`
	Leader   string           `json:"leader"` // empty while there is none
	Messages uint64           `json:"messages"`
	Bytes    uint64           `json:"bytes"`
	First    record.Sequence  `json:"first"`
	Last     record.Sequence  `json:"last"`
	Replicas []ClusterReplica `json:"replicas"`
	Lack     string           `json:"lack,omitempty"` // why it cannot be written
}

// ClusterReplica is one copy of a stream.
type ClusterReplica struct {
	Node    string `json:"node"`
	Current bool   `json:"current"`
	Offline bool   `json:"offline,omitempty"`
	Lag     uint64 `json:"lag,omitempty"`
}

// ClusterLane is a lane: its owner, and its consumer.
type ClusterLane struct {
	Name    string `json:"name"`
	Owner   string `json:"owner"`  // empty while nobody runs it
	Leader  string `json:"leader"` // of its consumer
	Out     int    `json:"out"`    // tokens delivered and not answered
	Waiting uint64 `json:"waiting"`
}

// Problem is something that an operator should know, with the command that helps.
type Problem struct {
	Node    string `json:"node,omitempty"` // empty where it is of the cluster
	Text    string `json:"text"`
	Command string `json:"command,omitempty"`
}

// String is the problem on one line.
func (p Problem) String() string {
	s := p.Text
	if p.Node != "" {
		s = p.Node + ": " + s
	}
	if p.Command != "" {
		s += "; try: " + p.Command
	}
	return s
}

// DrainOrder says which node is to be drained, or to work again.
type DrainOrder struct {
	Node string `json:"node"`
	Undo bool   `json:"undo,omitempty"`
}

// Verification is the comparison of the projections at one place of the logs.
type Verification struct {
	Equal bool           `json:"equal"` // every node was compared, and has the same
	At    LogPositions   `json:"at"`
	Nodes []VerifiedNode `json:"nodes"`
	// Left are buckets that were not compared, and Why: those fed by a log from which records
	// were purged are not the same on nodes that read it at different times.
	Left []string `json:"left,omitempty"`
	Why  string   `json:"why,omitempty"`
}

// VerifiedNode is one node's projection.
type VerifiedNode struct {
	Name    string            `json:"name"`
	Error   string            `json:"error,omitempty"` // why it was not compared
	Differs []string          `json:"differs"`         // buckets that are not what most nodes have
	At      LogPositions      `json:"at"`
	Hash    string            `json:"hash,omitempty"` // of all buckets that were compared
	Buckets map[string]string `json:"buckets,omitempty"`
	TookMS  float64           `json:"tookMs"`
}

// Reloaded tells what reading the configuration again changed.
type Reloaded struct {
	Node    string   `json:"node"`
	Changed []string `json:"changed"` // keys, and certificates, that are in force now
	Restart []string `json:"restart"` // keys that changed in the file and need a restart of this node
}

func (s *server) adminCluster(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	cl, err := s.admin.Cluster(c.r.Context())
	if err != nil {
		return err
	}
	return one(c, cl.Complete(), nil)
}

// Complete has empty arrays where there would be null, for other faces too.
func (c Cluster) Complete() Cluster {
	c.Status = c.Status.complete()
	c.Nodes, c.Streams, c.Lanes, c.Problems = full(c.Nodes), full(c.Streams), full(c.Lanes), full(c.Problems)
	for i := range c.Nodes {
		c.Nodes[i] = c.Nodes[i].complete()
	}
	for i := range c.Streams {
		c.Streams[i].Replicas = full(c.Streams[i].Replicas)
	}
	return c
}

func (n ClusterNode) complete() ClusterNode {
	n.Warnings, n.Partitions, n.Lanes = full(n.Warnings), full(n.Partitions), full(n.Lanes)
	return n
}

func full[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func (s *server) adminDrain(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var o DrainOrder
	if err := s.readObject(c, &o); err != nil {
		return err
	}
	if o.Node == "" {
		return badRequest("node is the name of the node that is to be drained")
	}
	n, err := s.admin.Drain(c.r.Context(), o, c.token.ID)
	return one(c, n.complete(), err)
}

func (s *server) adminVerify(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	v, err := s.admin.Verify(c.r.Context(), c.token.ID)
	v.Nodes = full(v.Nodes)
	for i := range v.Nodes {
		v.Nodes[i].Differs = full(v.Nodes[i].Differs)
	}
	return one(c, v, err)
}

func (s *server) adminReload(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	r, err := s.admin.Reload(c.r.Context(), c.token.ID)
	r.Changed, r.Restart = full(r.Changed), full(r.Restart)
	return one(c, r, err)
}
