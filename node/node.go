package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/deliver/websocket"
	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// Node is one running member of a cluster. New opens what must not be shared, Start brings the
// parts up, Stop takes them down in reverse; Run is the three together with waiting.
type Node struct {
	cfg     config.Config
	log     *slog.Logger
	version string
	started time.Time
	added   additions

	data     *dataDir
	name     string
	cluster  string
	listener net.Listener

	disk      *disk
	store     *store.Store
	server    *stream.Server
	publisher *stream.Publisher
	fhir      fhir.Version        // of every resource here
	defs      *search.Definitions // the standard's own
	observe   *observer
	subs      *registry
	vault     *vault
	signing   ed25519.PrivateKey // the cluster's own; nil if it signs with none
	tokens    *tokens
	table     *match.Table
	marks     *marks
	members   *stream.Members
	matching  *owners
	delivery  *owners
	ring      *ring
	versions  *versions
	others    match.Repository
	feed      *feed
	gate      *gate
	lanes     map[string]*deliver.Lane
	channels  map[string]deliver.Channel // by type
	owner     string                     // this process, as it signs outcomes
	places    int                        // of each lane's consumer
	resthook  *resthook.Channel
	resolver  resthook.Resolver // of endpoints' names; nil: the system's
	sockets   *websocket.Hub
	pings     *socketPeers
	halt      *control[halting]  // all sending is stopped
	haltSaid  atomic.Bool        // as it was logged last
	endpoints *deliver.Endpoints // what the lanes share of the endpoints
	breakers  *breakers
	turns     *turns // nil on a single node
	events    *operatorEvents
	silent    *silence // Subscriptions without success
	ends      *ends
	authority *authority
	auditLog  *auditLog

	http    *http.Server
	handler atomic.Pointer[http.Handler]
	served  chan struct{} // closed when the HTTP server has ended

	peers    *peers
	jobs     *jobs // see jobs.go
	working  *owners
	pauses   *pauses
	hashing  *hashing
	handover *leaderHandover
	leaving  atomic.Bool // drained: no partition and no lane falls to this node
	reload   reloading

	parts    *group
	ready    chan struct{}
	draining atomic.Bool // stopping
	health   logHealth
}

// Sizes of what a node keeps in memory of the newest changes.
const (
	ringChanges = 4096
	ringBytes   = 8 << 20
	cacheBytes  = 24 << 20
)

// New takes the data folder and the HTTP address, so that both are refused early and with one
// line if somebody else has them. The caller runs or stops the node. Options are for programs that
// embed it; every node of a cluster should be given the same ones.
func New(cfg config.Config, log *slog.Logger, version string, opts ...Option) (_ *Node, err error) {
	add, err := added(opts)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, added: add, log: log, version: version, ready: make(chan struct{}), observe: newObserver(),
		pauses: newPauses(pauseLimit), hashing: newHashing()}
	n.jobs = newJobs(n)
	n.handover = &leaderHandover{node: n, due: make(chan struct{}, 1)}
	n.reload.force.Store(&cfg)
	if n.data, err = openDataDir(cfg.Node.Data); err != nil {
		return nil, err
	}
	defer func() {
		if errors.Is(err, errOtherFolder) {
			err = cfg.Refuse("node.data", "%s", err)
		}
		if err != nil {
			n.data.close()
		}
	}()
	if err = n.data.checkFormat(); err != nil {
		return nil, err
	}
	if err = n.data.kind(cfg.Clustered()); err != nil {
		return nil, err
	}
	if n.name, err = n.data.nodeName(cfg.Run.Node, "n1"); err != nil {
		return nil, err
	}
	if n.cluster, err = n.data.clusterName(cfg.Cluster.Name); err != nil {
		return nil, err
	}
	if n.disk, err = newDisk(cfg.Node.Data); err != nil {
		return nil, err
	}
	if n.listener, err = net.Listen("tcp", cfg.Node.HTTP); err != nil {
		err = fmt.Errorf("HTTP listen address %s: %w; give another one with --http", cfg.Node.HTTP, err)
		return nil, err
	}
	n.log = log.With("node", n.name)
	return n, nil
}

// Addr is host:port of the HTTP listener.
func (n *Node) Addr() string { return n.listener.Addr().String() }

// NATSAddr is host:port of the listener for NATS clients; valid once Ready is closed.
func (n *Node) NATSAddr() string { return n.server.Addr() }

// Name is the node's name, kept in its data folder.
func (n *Node) Name() string { return n.name }

// Ready is closed when the node serves.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Run starts the node, waits until ctx ends or a part fails, and stops it. It returns nil
// after a clean stop.
func (n *Node) Run(ctx context.Context) error {
	err := n.Start(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-n.parts.failed:
		}
	}
	stopErr := n.Stop(context.WithoutCancel(ctx))
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // told to stop while starting
	}
	return errors.Join(err, stopErr)
}

// Start brings the parts up in the order in which they need one another. After an error the
// caller still stops the node.
func (n *Node) Start(ctx context.Context) error {
	n.started = time.Now()
	n.parts = newGroup(n.log)
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"http face", n.openHTTP},          // alive, and not ready
		{"projection", n.openStore},        // what we remember
		{"log", n.openLog},                 // the embedded server, its streams, what is in them proven synced
		{"projection and log", n.agree},    // a projection of another log is made again
		{"state", n.loadState},             // Subscriptions, tokens, partition table
		{"feed", n.startFeed},              // the logs folded up to their ends
		{"login", n.checkLogin},            // whether the listeners may be opened at all
		{"secrets", n.startSecrets},        // keys of deleted Subscriptions erased, missing ones fetched
		{"membership", n.join},             // from here on others count on this node
		{"matching", n.startMatching},      // changes become blocks of matches
		{"sockets", n.startSockets},        // clients may be pinged, here and at the other nodes
		{"delivery", n.startDelivery},      // matches become notifications
		{"timers", n.startTimers},          // ends of Subscriptions; tokens that the engine gave up
		{"producers", n.startProducers},    // changes from NATS
		{"peers", n.startPeers},            // questions of other nodes
		{"jobs", n.startJobs},              // what was ordered by hand goes on
		{"service", n.startService},        // questions of operators by NATS
		{"definitions", n.loadDefinitions}, // what the configuration adds to the standard's own
		{"activation", n.startActivation},  // of Subscriptions whose channel was off until now
		{"http", n.startHTTP},              // last, so that ready is true
	} {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("start %s: %w", step.name, err)
		}
	}
	close(n.ready)
	n.log.Info("node is ready", "http", n.Addr(), "nats", n.NATSAddr(), "cluster", n.cluster,
		"subscriptions", len(n.subs.all()), "took", time.Since(n.started).Round(time.Millisecond))
	return nil
}

// Stop takes the node down: first no new work comes in, then what is under way ends, then the
// files are closed. Nothing that was acknowledged depends on it.
func (n *Node) Stop(ctx context.Context) error {
	n.draining.Store(true)
	if n.members != nil && n.cfg.Clustered() {
		// The others take over what is free at once; what is still at an endpoint they wait for.
		n.leaving.Store(true)
		n.members.SetData(record.Encode(n.about()))
	}
	if n.sockets != nil {
		n.sockets.Close() // a server that shuts down does not know of them any more
	}
	n.closeHTTP(ctx)
	if n.parts != nil {
		n.parts.stop()
	}
	var errs []error
	if n.resthook != nil {
		n.resthook.Close()
	}
	if n.publisher != nil {
		errs = append(errs, n.publisher.Close(ctx))
	}
	if n.server != nil && n.cfg.Clustered() {
		// What this node leads is handed over, so that its stop costs the others no election.
		if err := n.server.StepDown(ctx); err != nil {
			n.log.Warn("leaders were not all handed over", "err", err)
		}
	}
	if n.store != nil {
		damage := n.store.Err()
		errs = append(errs, n.store.Close())
		if errors.Is(damage, store.ErrDamaged) && n.cfg.Clustered() {
			errs = append(errs, n.renewStore(damage)) // the next start makes another
		}
	}
	if n.server != nil {
		errs = append(errs, n.server.Close(ctx))
	}
	if n.listener != nil {
		n.listener.Close() // closed already by the HTTP server, if it ran
	}
	if n.data != nil {
		errs = append(errs, n.data.close())
	}
	return errors.Join(errs...)
}

func (n *Node) openStore(context.Context) error {
	dir := n.data.projection()
	if n.cfg.Run.Rebuild {
		kept, err := store.Rebuild(dir)
		if err != nil {
			return err
		}
		n.log.Info("projection is made again from the logs", "kept", kept)
	}
	err := n.reopenStore()
	switch {
	case errors.Is(err, store.ErrDamaged) && n.cfg.Clustered():
		return errors.Join(n.renewStore(err), n.reopenStore())
	case errors.Is(err, store.ErrOlder):
		return errors.Join(n.replaceStore(), n.reopenStore())
	}
	return err
}

// replaceStore moves a projection of an older release aside, so that the logs, which are read by
// every later release, make one of this. Nothing is lost with it: it was folded from them. The
// older release refuses the new file by name, and folds its own again with --rebuild.
func (n *Node) replaceStore() error {
	kept, err := store.Rebuild(n.data.projection())
	if err != nil {
		return err
	}
	n.log.Info("projection of an older release is made again from the logs, which takes a while", "kept", kept)
	return nil
}

// renewStore moves a damaged projection aside, so that the logs make another. A cluster heals by
// itself: the logs have copies, and nothing is served here before the new one is current. A
// single node is refused instead, since damage is worth a look at the only disk there is.
func (n *Node) renewStore(damage error) error {
	kept, err := store.Rebuild(n.data.projection())
	if err != nil {
		return errors.Join(damage, err)
	}
	n.log.Error("the projection is damaged and is made again from the logs: look at the disk", "err", damage, "kept", kept)
	return nil
}

func (n *Node) reopenStore() (err error) {
	n.store, err = store.Open(n.data.projection(), store.Options{Log: n.log, Hash: hashBody})
	return err
}

func (n *Node) openLog(ctx context.Context) (err error) {
	wait := time.Duration(0)
	if n.cfg.Clustered() {
		wait = holdOut
	}
	n.server, err = stream.Start(ctx, stream.Config{
		Name:    n.name,
		Cluster: n.cluster,
		Dir:     n.data.logs(),
		Listen:  n.cfg.Node.NATS,
		// The largest resource with room for its headers.
		MaxPayload: int(n.cfg.Limits.ResourceSize) + 1<<20,
		Logins:     natsLogins(n.cfg.Security.NATS),
		ClientTLS:  natsTLS(n.cfg.Security.NATS),
		Insecure:   n.cfg.Run.InsecurePublic,
		Log:        n.log,
		Replicas:   n.cfg.Replicas(),
		Route:      n.route(),
		Routes:     n.cfg.Routes(),
		TLS:        n.routeTLS(),

		MessageSubjects: n.cfg.Delivery.Message.Subjects,
		MessageAge:      n.cfg.Retention.Messages,
	})
	if err != nil {
		return err
	}
	if err := n.server.Declare(ctx); err != nil {
		return err
	}
	if _, err := n.server.Seal(ctx); err != nil {
		return err
	}
	n.publisher, err = stream.NewPublisher(ctx, n.server, stream.Events, stream.Options{MinFree: stream.Reserve(n.disk.total.Load()), Wait: wait})
	return err
}

// route is where this node listens for the others; empty where there are none.
func (n *Node) route() string {
	if !n.cfg.Clustered() {
		return ""
	}
	return n.cfg.Node.Route
}

// routeTLS is nil where the routes have none, which the configuration allows on loopback alone.
func (n *Node) routeTLS() *stream.RouteTLS {
	t := n.cfg.Cluster.TLS
	if !n.cfg.Clustered() || t.CA == "" {
		return nil
	}
	return &stream.RouteTLS{CA: t.CA, Cert: t.Cert, Key: t.Key}
}

// agree makes sure that the projection was folded from these logs. If a log ends before the
// projection's place in it, or has another record there, its tail was lost (a power cut on a
// disk that lies about syncing) or it was replaced: the projection is made again, never
// skipped ahead.
func (n *Node) agree(ctx context.Context) error {
	var why string
	for began := time.Now(); ; {
		var err error
		if why, err = differs(ctx, n.server, n.store); err != nil || why == "" {
			return err
		}
		// A new leader may not have applied yet all that a majority has.
		if !n.cfg.Clustered() || time.Since(began) > 30*time.Second {
			break
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	n.log.Error("projection does not belong to the logs and is made again from them", "reason", why)
	if err := n.store.Close(); err != nil {
		return err
	}
	if _, err := store.Rebuild(n.data.projection()); err != nil {
		return err
	}
	return n.reopenStore()
}

func (n *Node) loadState(ctx context.Context) (err error) {
	log := controls{n.server}
	if n.fhir, err = agreeOnVersion(ctx, log, fhir.Version(n.cfg.FHIR.Version)); err != nil {
		return err
	}
	n.defs = search.For(n.fhir).WithBaseURLs(n.baseURLs()...).WithRepository()
	if err := n.openVault(ctx); err != nil {
		return err
	}
	if err := n.openRestHook(ctx); err != nil {
		return err
	}
	n.subs = newRegistry(n.log, n.fhir, newDefinitions(n.log, n.defs), n.cfg.Delivery, func(u *url.URL) error {
		if err := n.resthook.CheckURL(u.String()); err != nil {
			return err
		}
		return nil
	})
	n.subs.vault, n.vault.subs = n.vault, n.subs.get
	n.subs.rules.Store(&n.cfg.Delivery)
	n.subs.subjects = n.server.TakesMessage
	if n.subs.classes, err = n.classes(); err != nil {
		return err
	}
	if err := checkLevel(ctx, log); err != nil {
		return err
	}
	if n.subs.attempts, err = laneAttempts(ctx, log, int(n.cfg.Delivery.Retry.Attempts)); err != nil {
		return err
	}
	if err := n.subs.load(n.store); err != nil {
		return err
	}
	n.tokens = &tokens{control: control[[]storedToken]{name: "tokens"}, log: log}
	if err := n.tokens.load(ctx, log); err != nil {
		return err
	}
	if err := n.subs.paused.load(ctx, log); err != nil {
		return err
	}
	if err := n.subs.rotations.load(ctx, log); err != nil {
		return err
	}
	n.halt = &control[halting]{name: "halt"}
	if err := n.halt.load(ctx, log); err != nil {
		return err
	}
	n.sayHalt()
	n.table, err = loadTable(ctx, log, len(n.cfg.Members()))
	return err
}

// baseURLs are those under which references to our own resources may be written. They are the
// same on every node of a cluster, whichever of them matches.
func (n *Node) baseURLs() []string {
	urls := append([]string(nil), n.cfg.FHIR.BaseURLs...)
	scheme := "http://"
	if n.cfg.Security.TLS.Cert != "" {
		scheme = "https://"
	}
	for _, node := range n.addresses() {
		if node.PublicURL != "" {
			urls = append(urls, strings.TrimRight(node.PublicURL, "/")+"/fhir")
			continue
		}
		// Without one answers name the address that they came to.
		host, port, _ := net.SplitHostPort(node.HTTP)
		hosts := []string{host}
		if config.Loopback(node.HTTP) {
			hosts = []string{host, "localhost", "127.0.0.1", "::1"}
		}
		if !n.cfg.Clustered() {
			_, port, _ = net.SplitHostPort(n.Addr()) // 0 has picked one
		}
		for _, h := range hosts {
			urls = append(urls, scheme+net.JoinHostPort(h, port)+"/fhir")
		}
	}
	for _, u := range urls {
		urls = append(urls, u+"/"+string(n.fhir)) // the alias of the version
	}
	return urls
}

// addresses are those of every node of the cluster, or of this one by itself.
func (n *Node) addresses() []config.Node {
	if !n.cfg.Clustered() {
		return []config.Node{n.cfg.Node}
	}
	var all []config.Node
	for _, name := range n.cfg.Members() {
		all = append(all, n.cfg.Nodes[name])
	}
	return all
}

// startFeed folds the logs up to their ends. The lanes exist from here on, but do not run:
// what is offered to them is in the store.
func (n *Node) startFeed(ctx context.Context) error {
	n.marks = newMarks(n.table)
	n.matching, n.delivery, n.working = &owners{}, &owners{}, &owners{} // nothing is owned yet, and may be asked for
	n.ring = newRing(ringChanges, ringBytes, n.store.Position().Events)
	n.versions = newVersions(cacheBytes, n.readEvent, n.readEvents)
	var err error
	if n.others, err = n.repository(); err != nil {
		return err
	}
	finder := &searcher{
		defs: n.subs.defs, store: n.store, versions: n.versions, ring: n.ring, others: n.others, vault: n.vault,
		audits: newAudits(n.store, n.fhir),
		scans:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	n.gate = &gate{
		log: n.log, store: n.store, events: n.publisher, ring: n.ring, versions: n.versions,
		subs: n.subs, vault: n.vault, search: finder, others: n.others, disk: n.disk, draining: n.draining.Load, ready: n.health.writable,
		newest: func(ctx context.Context, subject string) (stream.Message, error) {
			return n.server.LastFor(ctx, stream.Events, subject)
		},
		fence:    n.fence(),
		refusals: new(allowance), agent: n.tokens.nameOf, self: "carillon " + n.cluster + "/" + n.name,
	}
	n.makeSockets()
	if err := n.makeLanes(); err != nil {
		return err
	}
	n.feed = &feed{
		log: n.log, server: n.server, store: n.store, ring: n.ring, versions: n.versions, subs: n.subs,
		lanes: n.lanes, attempts: n.attemptsLogged, observe: n.observe, changed: n.subscriptionChanged, closed: n.noticesClosed,
		owner: n.owner, marked: n.marks.set, settled: n.silent.fold, notices: n.notices, pauses: n.pauses, ordered: n.jobs.ordered,
		controls: map[string]func(record.Sequence, []byte) error{
			"tokens": n.tokensChanged,
			"paused": n.pausedChanged,

			"rotations": n.subs.rotations.apply,
			"halt":      n.haltChanged,
		},
	}
	if n.auditLog, err = newAuditLog(n.log, n.cfg.Observability.AuditLog); err != nil {
		return n.cfg.Refuse("observability.audit_log", "cannot be written: %v", err)
	}
	n.authority = newAuthority(n.gate, n.tokens)
	n.ends = newEnds(n.server.Schedule)
	for _, s := range n.subs.all() {
		n.ends.set(s)
	}
	n.parts.run("memory", keepMemory)
	n.parts.run("disk", n.disk.run)
	n.parts.run("log keeper", n.keepLog)
	n.parts.run("feed", n.feed.run)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	current := make(chan error, 1)
	go func() { current <- n.feed.caughtUp(ctx) }()
	select {
	case err := <-current:
		return err
	case err := <-n.parts.failed:
		cancel()
		<-current
		return err
	}
}

// fence is the gate's: a record of its own in EVENTS, written together with whatever else is
// being written.
func (n *Node) fence() func(context.Context) error {
	if !n.cfg.Clustered() {
		return nil
	}
	return func(ctx context.Context) error {
		ack, err := n.publisher.Publish(ctx, stream.Msg{Subject: stream.ControlSubject("fence"), Data: []byte("{}")})
		if err != nil {
			return err
		}
		return n.ring.wait(ctx, ack.Sequence)
	}
}

// readEvent reads one event from the log.
func (n *Node) readEvent(ctx context.Context, seq record.Sequence) (record.Event, error) {
	m, err := n.server.Get(ctx, stream.Events, seq)
	if errors.Is(err, stream.ErrNotFound) && n.cfg.Clustered() {
		// A leader that was just elected may not have applied yet what a majority has.
		if _, last, serr := n.server.State(ctx, stream.Events); serr != nil || last < seq {
			err = fmt.Errorf("%w: event %d is not there yet", stream.ErrUnavailable, seq)
		}
	}
	if err != nil {
		return record.Event{}, err
	}
	e, ok, err := parseEvent(m)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %d of %s is no resource change", stream.ErrNotFound, seq, stream.Events)
	}
	return e, err
}

// readEvents reads events of the log from a sequence on, up to count records. Those that are no
// resource changes, or cannot be read, are left out.
func (n *Node) readEvents(ctx context.Context, from record.Sequence, count int) ([]record.Event, error) {
	ms, err := n.server.GetRun(ctx, stream.Events, from, count)
	if err != nil {
		return nil, err
	}
	events := make([]record.Event, 0, len(ms))
	for _, m := range ms {
		if e, ok, err := parseEvent(m); err == nil && ok {
			events = append(events, e)
		}
	}
	return events, nil
}

// checkLogin refuses listeners that others can reach while nobody has to log in.
func (n *Node) checkLogin(context.Context) error {
	if n.cfg.Run.InsecurePublic || n.tokens.any() || config.Loopback(n.cfg.Node.HTTP) {
		return nil
	}
	return n.cfg.Refuse("node.http", "%s can be reached from other machines and there is no API token; listen on loopback, make one with carillon token create, and start again (or give --insecure-public)", n.cfg.Node.HTTP)
}

// join makes this node a member of the cluster: one that partitions and lanes may fall to.
func (n *Node) join(ctx context.Context) (err error) {
	n.members, err = n.server.Join(ctx, n.name, record.Encode(n.about()))
	if err != nil {
		return err
	}
	n.parts.run("membership", n.members.Run)
	n.parts.run("fitness", n.keepFitness)
	return nil
}

// unfit reports that this node cannot write the outcome of any work: its disk is so full, or its
// engine so damaged, that partitions and lanes are better off elsewhere.
func (n *Node) unfit() bool {
	return n.health.damaged() || n.disk.free.Load() < stream.Reserve(n.disk.total.Load())/2
}

// keepFitness tells the others when this node becomes unfit, or fit again.
func (n *Node) keepFitness(ctx context.Context) error {
	told := false
	for {
		if unfit := n.unfit(); unfit != told {
			n.log.Warn("this node's fitness to match and send has changed", "fit", !unfit)
			told = unfit
			n.members.SetData(record.Encode(n.about()))
		}
		if pause(ctx, time.Second) != nil {
			return nil
		}
	}
}

// about is what a node tells the others of itself with its lease.
type about struct {
	Version string    `json:"version"`
	HTTP    string    `json:"http"` // where clients reach it
	Started time.Time `json:"started"`
	// Draining: no partition and no lane falls to it, unless to no other one either.
	Draining bool `json:"draining,omitempty"`
	// Unfit: the same, because its disk is full or its engine damaged.
	Unfit bool `json:"unfit,omitempty"`
}

func (n *Node) about() about {
	url := n.cfg.Node.PublicURL
	if url == "" {
		url = n.Addr()
	}
	return about{Version: n.version, HTTP: url, Started: n.started, Draining: n.leaving.Load(), Unfit: n.unfit()}
}

// memberNames are the nodes that hold a lease, in order.
func (n *Node) memberNames() []string {
	var names []string
	for _, m := range n.members.View() {
		names = append(names, m.Name)
	}
	return names
}

// alive reports whether a node holds a lease.
func (n *Node) alive(name string) bool {
	names := n.memberNames()
	return len(names) == 0 || slices.Contains(names, name) // unknown is no reason to take what is another's
}

// own runs tasks on this node as far as they fall to it.
func (n *Node) own(name string, o *owners, tasks []task) {
	o.self, o.tasks, o.log = n.name, tasks, n.log
	o.members, o.changed, o.broken = n.ownerNames, n.members.Changed, n.store.Err
	n.parts.run(name, o.run)
}

func (n *Node) startMatching(context.Context) error {
	var tasks []task
	events := partitionEvents{ring: n.ring, server: n.server, store: n.store, table: n.table}
	for _, partition := range n.table.Names() {
		r := &match.Runner{
			Partition:   partition,
			Base:        n.table.Base(),
			Definitions: n.defs,
			Index:       n.subs.index,
			Events:      events,
			Bodies:      matchBodies{n.versions},
			Repository:  n.others,
			Blocks:      blocks{n.server},
			Dead:        deadIngest{n.server},
			Hooks:       n.hooks().matching(),
			Observer:    n.observe.matching(),
			Log:         n.log,
		}
		tasks = append(tasks, task{kind: "partition", name: partition, run: r.Run})
	}
	n.parts.run("index", n.pruneIndex)
	n.own("matching", n.matching, tasks)
	return nil
}

// notices reports whether this node is the one to tell plain subscribers of a change, whom all
// nodes reach: the owner of its partition.
func (n *Node) notices(c record.Change) bool {
	return n.matching.owns("partition", n.table.Of(c.Key.Type, c.Shard))
}

// openHTTP answers from the first moment: that the process lives, and that it is not ready. Folding
// the logs may take a while, and a supervisor must not take that for a dead process.
func (n *Node) openHTTP(context.Context) error {
	n.handler.Store(ptr[http.Handler](http.HandlerFunc(starting)))
	n.http = api.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*n.handler.Load()).ServeHTTP(w, r)
	}), n.log)
	n.served = make(chan struct{})
	failed := n.parts.failed
	go func() {
		defer close(n.served)
		if err := n.serveHTTP(n.http); !errors.Is(err, http.ErrServerClosed) {
			select {
			case failed <- fmt.Errorf("http: %w", err):
			default:
			}
		}
	}()
	return nil
}

func ptr[T any](v T) *T { return &v }

// starting is the answer of a node that is not ready yet.
func starting(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/livez" {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"status":"alive"}`)
		return
	}
	w.Header().Set("Retry-After", "2")
	if r.URL.Path == "/readyz" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, `{"ready":false,"reason":"the node is starting","warnings":[]}`)
		return
	}
	w.Header().Set("Content-Type", "application/fhir+json; charset=utf-8")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"transient","diagnostics":"the node is starting; send the request again in a moment"}]}`)
}

// closeHTTP lets requests end for a while. It comes first of all at a stop: what is under way
// still has everything that it stands on.
func (n *Node) closeHTTP(ctx context.Context) {
	if n.http == nil {
		return
	}
	drain, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := n.http.Shutdown(drain); err != nil {
		n.http.Close() // requests that take longer are cut; what they wrote is in the log or not
	}
	<-n.served
}

// startHTTP serves FHIR and administration.
func (n *Node) startHTTP(context.Context) error {
	n.registerGauges()
	n.handler.Store(ptr(api.New(api.Config{
		Backend: backend{n.gate},
		Admin:   &admin{Node: n},
		Tokens:  logins{n.tokens},
		Sockets: n.sockets,
		Origins: n.cfg.Security.Origins,
		Metrics: n.observe.handler(),
		Ready:   n.readiness,
		Refused: n.observe.refused,
		Audit:   n.gate.recorded,
		Notes: func(body []byte, from fhir.Origin) []fhir.Issue {
			return fhir.Notes(body, from, fhir.Usage{Style: fhir.Style(n.cfg.Delivery.RestHook.Style), Attempts: int(n.cfg.Delivery.Retry.Attempts)})
		},
		Log: n.log,
		Limits: api.Limits{
			Resource: int(n.cfg.Limits.ResourceSize), Bundle: int(n.cfg.Limits.BundleSize),
			Line: int(n.cfg.Limits.LineSize), BundleEntries: n.cfg.Limits.BundleEntries,
		},
		PublicURL:      n.cfg.Node.PublicURL,
		Version:        n.version,
		FHIR:           string(n.fhir),
		FHIRVersion:    n.fhir.Number(),
		Types:          n.defs.Types(),
		InsecurePublic: n.cfg.Run.InsecurePublic,
		PublicKeys:     func() any { return n.publicKeys() },
	})))
	return nil
}

// readiness says what an operator should know, and why the node cannot do its work if so.
func (n *Node) readiness(context.Context) (warnings []string, err error) {
	if n.draining.Load() {
		return nil, errors.New("the node is stopping")
	}
	if err := n.store.Err(); err != nil {
		return nil, err
	}
	if err := n.health.now(); err != nil {
		return nil, err
	}
	if n.disk.full() {
		return nil, errors.New("the disk of the data folder is nearly full: new changes are refused")
	}
	if n.disk.low() {
		warnings = append(warnings, "the disk of the data folder has under 10 % or 1 GiB free")
	}
	warnings = append(warnings, n.vault.warnings()...)
	if w := n.haltWarning(); w != "" {
		warnings = append(warnings, w)
	}
	if c := n.feed.unreadable.Load(); c > 0 {
		warnings = append(warnings, fmt.Sprintf("%d records of the logs could not be read and were set aside", c))
	}
	return warnings, nil
}

// newRun names this process among those that a node has had.
func newRun() string { return strings.ToLower(rand.Text()[:12]) }
