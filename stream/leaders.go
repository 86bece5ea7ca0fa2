package stream

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// leaders is what this node knows of the cluster's leaders. The engine takes four to nine seconds
// to miss one that died; who waits for its answer learns here within a second or so that none
// will come.
type leaders struct {
	s    *Server
	done chan struct{}
	end  context.CancelFunc

	mu     sync.Mutex
	turns  map[string]*turn // by stream
	meta   string           // leader of the cluster; empty while there is none
	nodes  map[string]bool  // reachable, this one left out
	tokens uint64           // last sequence of LANES
	engine string           // whose count that is: after a Restart the copy here is filled again
	reset  chan struct{}
}

// turn is the time of one leader of a stream.
type turn struct {
	leader string
	since  time.Time
	lack   string        // why it cannot write; empty while it can
	began  time.Time     // of the lack
	over   chan struct{} // closed when the leader changes or falls silent
}

const (
	watchEvery = 400 * time.Millisecond
	// silence is how long a leader, or enough of its followers, may say nothing. The engine's
	// heartbeats come every second.
	silence = 3 * time.Second
	// askEvery is how often the leader of a stream is asked for that has no copy here.
	askEvery = time.Second
	// patience is how long a lack must last before nothing is sent any more: a leadership that is
	// handed over is back sooner than the next look.
	patience = time.Second
)

// watchLeaders begins to watch; nil on a single node, whose engine leads everything.
func (s *Server) watchLeaders() *leaders {
	if !s.cfg.clustered() {
		return nil
	}
	l := &leaders{s: s, done: make(chan struct{}), turns: map[string]*turn{}, nodes: map[string]bool{}, reset: make(chan struct{})}
	ctx, end := context.WithCancel(context.Background())
	l.end = end
	l.look()
	go func() {
		defer close(l.done)
		l.run(ctx)
	}()
	return l
}

func (l *leaders) stop() {
	if l != nil {
		l.end()
		<-l.done
	}
}

func (l *leaders) run(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		for wait(ctx, askEvery) {
			l.ask(ctx)
		}
	})
	for wait(ctx, watchEvery) {
		l.look()
	}
}

// look takes what the engine in this process knows.
func (l *leaders) look() {
	srv := l.s.running()
	if srv == nil {
		return
	}
	nodes := l.s.routed()
	here := map[string]turn{}
	meta, tokens := "", uint64(0)
	if js, err := srv.Jsz(&server.JSzOptions{Account: "CORE", Streams: true}); err == nil && !js.Disabled {
		if js.Meta != nil && js.Meta.Leader != "" {
			if c := (&server.ClusterInfo{Leader: js.Meta.Leader, Replicas: js.Meta.Replicas}); missing(c, srv.Name(), nodes) == "" {
				meta = js.Meta.Leader
			}
		}
		for _, a := range js.AccountDetails {
			for _, d := range a.Streams {
				if d.Name == LanesName {
					tokens = d.State.LastSeq
				}
				if d.Cluster != nil {
					here[d.Name] = turn{leader: d.Cluster.Leader, since: at(d.Cluster.LeaderSince), lack: missing(d.Cluster, srv.Name(), nodes)}
				}
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meta = meta
	if l.engine != srv.ID() {
		l.engine, l.tokens = srv.ID(), 0
	}
	l.greetLocked(nodes)
	for name, t := range here {
		l.noteLocked(name, t)
	}
	for name, t := range l.turns { // those without a copy here, whose leader was asked
		if _, ok := here[name]; !ok && t.leader != srv.Name() && t.lack == "" && !nodes[t.leader] {
			l.noteLocked(name, turn{leader: t.leader, since: t.since, lack: "no route to its leader " + t.leader})
		}
	}
	if t, ok := here[LanesName]; ok && t.lack == "" {
		l.countTokensLocked(tokens)
	}
}

// at is a time that may be missing.
func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// missing tells why a group cannot write: no leader, one that is not there any more or says
// nothing, or, where it is this node, too few followers.
func missing(c *server.ClusterInfo, self string, nodes map[string]bool) string {
	switch {
	case c.Leader == "":
		return "no leader"
	case c.Leader != self:
		if !nodes[c.Leader] {
			return "no route to its leader " + c.Leader
		}
		for _, p := range c.Replicas {
			if p.Name == c.Leader && p.Active > silence {
				return "its leader " + c.Leader + " says nothing"
			}
		}
		return ""
	}
	there := 1
	for _, p := range c.Replicas {
		if nodes[p.Name] && p.Active < silence {
			there++
		}
	}
	if n := 1 + len(c.Replicas); there <= n/2 {
		return fmt.Sprintf("%d of its %d copies are within reach", there, n)
	}
	return ""
}

// greetLocked tells the operator of nodes that come and go.
func (l *leaders) greetLocked(nodes map[string]bool) {
	for name := range nodes {
		if !l.nodes[name] {
			l.s.log.Info("route to another node is open", "peer", name)
		}
	}
	for name := range l.nodes {
		if !nodes[name] {
			l.s.log.Warn("route to another node is lost, it is tried again every second", "peer", name)
		}
	}
	l.nodes = nodes
}

func (l *leaders) noteLocked(stream string, now turn) {
	was := l.turns[stream]
	if was != nil && was.leader == now.leader && was.since.Equal(now.since) && (was.lack == "") == (now.lack == "") {
		was.lack = now.lack
		return
	}
	if was != nil {
		close(was.over)
		l.s.log.Debug("stream has another leader", "stream", stream, "leader", now.leader, "lack", now.lack)
	}
	if now.began = time.Now(); was != nil && was.lack != "" {
		now.began = was.began
	}
	now.over = make(chan struct{})
	l.turns[stream] = &now
}

// countTokensLocked notices that LANES began anew, since somebody removed it or its files were lost
// with a majority: what lanes hold is made again.
func (l *leaders) countTokensLocked(last uint64) {
	if last < l.tokens {
		l.s.log.Warn("the lanes' stream was lost with its nodes, its tokens are made again")
		close(l.reset)
		l.reset = make(chan struct{})
	}
	l.tokens = last
}

// ask finds out the leaders of the streams that have no copy on this node, which happens in
// clusters of more than three nodes.
func (l *leaders) ask(ctx context.Context) {
	if !l.s.declared.Load() {
		return
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	local := l.s.localStreams()
	for _, d := range definitions(l.s.cfg.Replicas) {
		if !local[d.Name] {
			asking.Go(func() { l.askOne(ctx, d.Name) })
		}
	}
}

func (l *leaders) askOne(ctx context.Context, stream string) {
	bounded, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	info, err := l.s.info(bounded, stream)
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := turn{leader: info.Cluster.Leader, since: at(info.Cluster.LeaderSince)}
	if err != nil {
		now.lack = "its leader does not answer"
		if was := l.turns[stream]; was != nil {
			now.leader, now.since = was.leader, was.since
		}
	}
	l.noteLocked(stream, now)
	if stream == LanesName && err == nil {
		l.countTokensLocked(info.State.Last)
	}
}

// localStreams are those with a copy on this node.
func (s *Server) localStreams() map[string]bool {
	local := map[string]bool{}
	if srv := s.running(); srv != nil {
		if a, err := srv.JszAccount(&server.JSzOptions{Account: "CORE", Streams: true}); err == nil {
			for _, d := range a.Streams {
				local[d.Name] = true
			}
		}
	}
	return local
}

// over is closed when the leader of this moment is lost; nil, which never is, where nothing is
// known of the stream. A stream that has no leader at all is waited for.
func (l *leaders) over(stream string) <-chan struct{} {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.turns[stream]; t != nil {
		return t.over
	}
	return nil
}

// forgotten is closed when the tokens were lost; nil on a single node.
func (l *leaders) forgotten() <-chan struct{} {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reset
}

// lack tells what keeps this node from writing.
func (l *leaders) lack() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lacks []string
	if l.meta == "" {
		lacks = append(lacks, "the cluster has no leader")
	}
	for name, t := range l.turns {
		if t.lack != "" && !strings.HasPrefix(name, "KV_") {
			lacks = append(lacks, "stream "+name+": "+t.lack)
		}
	}
	slices.SortFunc(lacks, cmp.Compare)
	return strings.Join(lacks, "; ")
}

// lackOf tells why one stream cannot be written; empty where it can or nothing is known.
func (l *leaders) lackOf(stream string) string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.turns[stream]; t != nil {
		return t.lack
	}
	return ""
}

// outage is why there is no use in sending anything to a stream; nil if there is. A leader that
// was left without followers would take what it can never acknowledge, and whose fate nobody
// could tell.
func (l *leaders) outage(stream string) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.turns[stream]; t != nil && t.lack != "" && time.Since(t.began) >= patience {
		return fmt.Errorf("%w: %s", ErrUnavailable, t.lack)
	}
	return nil
}

// Available is nil while writes can succeed. On a single node it is Healthy; in a cluster it
// tells that there is no quorum, or that a stream has no leader, from what this node has seen in
// the last 400 ms: asking costs nothing. Writes that were accepted go on waiting all the same.
func (s *Server) Available() error {
	if s.leaders == nil {
		return s.Healthy()
	}
	if s.running() == nil {
		return fmt.Errorf("%w: the embedded NATS server does not run", ErrUnavailable)
	}
	if lack := s.leaders.lack(); lack != "" {
		return fmt.Errorf("%w: %s", ErrUnavailable, lack)
	}
	return nil
}
