package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Server is the embedded JetStream server with its connections inside the process. Its methods
// may be called from any goroutine.
type Server struct {
	cfg    Config
	log    *slog.Logger
	core   identity // the user of CORE: ours
	gate   identity // the user of EDGE that answers ingest requests
	guest  identity // the user of EDGE that everyone at the listener is while there are no logins
	answer identity // the user of EDGE that answers operators
	system identity // the user of SYS, in a cluster
	listen string   // as configured, then with the port that was picked

	nc      *link    // requests and acknowledgements
	feed    *link    // what readers follow, so that a long catch-up does not delay acknowledgements
	edge    *link    // the gate
	desk    *link    // what answers operators
	sys     *link    // the cluster itself; nil on a single node
	leaders *leaders // nil on a single node
	js      jetstream.JetStream
	answers *answers
	fjs     jetstream.JetStream // over feed

	// lifecycle is held by Restart and Close, which replace srv; mu guards srv alone.
	lifecycle sync.Mutex
	closed    bool
	mu        sync.Mutex
	srv       *server.Server
	whole     atomic.Bool // the last start or Restart was brought to its end

	routeCert  shownCert
	clientCert shownCert

	sealing   chan struct{} // held by the reader that seals
	declared  atomic.Bool
	lanesMu   sync.Mutex
	places    int // MaxAckPending of lanes; 0 before DeclareLanes
	durableMu sync.Mutex
	durable   map[string]*durability
}

// startTimeout bounds how long the server may take to recover its streams.
const startTimeout = 5 * time.Minute

// Bounds of the steps of a Restart, so that the next may be tried.
const (
	stopTimeout    = time.Minute // closing the files of a slow disk
	connectTimeout = 30 * time.Second
)

// Start starts the server and connects to it. The caller closes it. ctx bounds the start alone.
// An address in use, a damaged store and a folder that cannot be written are errors.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log, listen: cfg.Listen, sealing: make(chan struct{}, 1), durable: map[string]*durability{}}
	for _, id := range []*identity{&s.core, &s.gate, &s.guest, &s.answer, &s.system} {
		if *id, err = newIdentity(); err != nil {
			return nil, err
		}
	}
	if err := s.openFolder(); err != nil {
		return nil, err
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	err = s.dial()
	if err == nil {
		err = s.awaitQuorum(ctx)
	}
	if err != nil {
		s.hangUp()
		s.stop(context.WithoutCancel(ctx))
		return nil, err
	}
	s.leaders = s.watchLeaders()
	s.whole.Store(true)
	return s, nil
}

// openFolder makes the data folder ours alone: the engine's own files below it are readable by
// the group.
func (s *Server) openFolder() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := os.Chmod(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("close data folder to others: %w", err)
	}
	return nil
}

// run starts a server and waits until it serves, or says why it cannot.
func (s *Server) run(ctx context.Context) error {
	if err := s.checkListen(); err != nil {
		return err
	}
	opts, err := s.options()
	if err != nil {
		return err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("make the embedded NATS server: %w", err)
	}
	lines := newEngineLog(s.log)
	srv.SetLoggerV2(lines, s.log.Enabled(ctx, levelEngine), false, false)

	started := make(chan struct{})
	go func() { defer close(started); srv.Start() }()
	err = awaitReady(ctx, srv, lines, started, s.cfg.clustered())
	if err != nil {
		srv.Shutdown()
		<-started
		srv.WaitForShutdown()
		return err
	}
	<-started
	s.mu.Lock()
	if s.cfg.Listen != "" {
		s.listen = srv.Addr().String()
	}
	s.srv = srv
	s.mu.Unlock()
	return nil
}

func awaitReady(ctx context.Context, srv *server.Server, lines *engineLog, started <-chan struct{}, clustered bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-started:
	case <-lines.died:
	case <-ctx.Done():
		return fmt.Errorf("start the embedded NATS server: %w", ctx.Err())
	}
	if err := lines.err(); err != nil {
		return fmt.Errorf("start the embedded NATS server: %w", err)
	}
	if !srv.ReadyForConnections(10 * time.Second) {
		if err := lines.err(); err != nil {
			return fmt.Errorf("start the embedded NATS server: %w", err)
		}
		return errors.New("start the embedded NATS server: it does not accept connections")
	}
	// In a cluster the rest depends on other nodes; what is broken here shows in Healthy.
	if h := srv.Healthz(&server.HealthzOptions{JSServerOnly: clustered}); h.Error != "" {
		return fmt.Errorf("start the embedded NATS server: %s", h.Error)
	}
	return nil
}

// checkListen finds out by trying whether the address is free: the server itself reports it
// only in its log.
func (s *Server) checkListen() error {
	if s.cfg.Listen != "" && !strings.HasSuffix(s.listen, ":-1") {
		if err := free(s.listen, "NATS listen address", "choose another with --nats"); err != nil {
			return err
		}
	}
	if s.cfg.clustered() {
		return free(s.cfg.Route, "route address", "give this node another route on all nodes")
	}
	return nil
}

func free(addr, what, otherwise string) error {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s %s is in use: stop what listens there, or %s", what, addr, otherwise)
	}
	if err != nil {
		return fmt.Errorf("listen on %s %s: %w", what, addr, err)
	}
	return l.Close()
}

func (s *Server) dial() (err error) {
	if s.nc, err = s.connect("core", s.core); err != nil {
		return err
	}
	if s.feed, err = s.connect("feed", s.core); err != nil {
		return err
	}
	if s.edge, err = s.connect("gate", s.gate); err != nil {
		return err
	}
	if s.desk, err = s.connect("service", s.answer); err != nil {
		return err
	}
	if s.cfg.clustered() {
		if s.sys, err = s.connect("system", s.system); err != nil {
			return err
		}
	}
	if s.js, err = jetstream.New(s.nc.nc); err != nil {
		return err
	}
	if s.fjs, err = jetstream.New(s.feed.nc); err != nil {
		return err
	}
	s.answers, err = newAnswers(s.nc)
	return err
}

// links are the connections that are there.
func (s *Server) links() []*link {
	var all []*link
	for _, l := range []*link{s.sys, s.desk, s.edge, s.feed, s.nc} {
		if l != nil {
			all = append(all, l)
		}
	}
	return all
}

func (s *Server) hangUp() {
	for _, l := range s.links() {
		l.nc.Close()
	}
}

// Conn is the connection to the CORE account. It belongs to the server and stays the same over
// a Restart.
func (s *Server) Conn() *nats.Conn { return s.nc.nc }

// JetStream is the JetStream context of Conn.
func (s *Server) JetStream() jetstream.JetStream { return s.js }

// Edge is the gate's connection to the EDGE account: it may subscribe to the requests of this
// node's producers (SubscribeIngest), answer to inboxes and tell of events, and nothing else.
func (s *Server) Edge() *nats.Conn { return s.edge.nc }

// Service is a connection to the EDGE account that may answer what operators ask there, on $SRV.>
// and carillon.admin.>, and nothing else.
func (s *Server) Service() *nats.Conn { return s.desk.nc }

// Addr is the address of the client listener as host:port; empty where there is none.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Listen == "" {
		return ""
	}
	return s.listen
}

// MaxPayload is the largest message in bytes that the log takes, headers included.
func (s *Server) MaxPayload() int { return s.cfg.MaxPayload }

// Dir is the data folder.
func (s *Server) Dir() string { return s.cfg.Dir }

func (s *Server) running() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv
}

// Healthy is nil while no Restart is needed. On a single node that is while every stream can be
// written; in a cluster a lack of a leader or of a quorum passes by itself (Available tells), and
// only what this node alone suffers from counts. After a write error or a full disk the
// engine keeps a stream, or all of them, shut until the server is started anew: Restart does. A
// Restart that failed half-way counts as an error, and so does an engine that says it has no room
// while the disk has; a lost connection does after three seconds.
func (s *Server) Healthy() error {
	srv := s.running()
	if srv == nil {
		return fmt.Errorf("%w: the embedded NATS server does not run", ErrUnavailable)
	}
	if !srv.JetStreamEnabled() {
		return fmt.Errorf("%w: JetStream is disabled after a failure of the disk", ErrUnavailable)
	}
	if err := s.damage(srv); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !s.whole.Load() {
		return fmt.Errorf("%w: the embedded NATS server was not started to the end", ErrUnavailable)
	}
	for _, l := range s.links() {
		if err := l.check(time.Now()); err != nil {
			return fmt.Errorf("%w: not connected to the embedded NATS server: %w", ErrUnavailable, err)
		}
	}
	return s.checkRoom()
}

// Restart stops the embedded server and starts it anew on the same folder and address, as a
// stream that had a write error needs. Connections come back by themselves, streams and lanes
// are declared again, and the log is sealed. Lanes have forgotten their tokens: Tokens returns
// ErrReset. In a cluster this node's leaderships are handed over first, and the other nodes keep
// streams, lanes and tokens; Available tells when writes can go on. When Restart fails the server is down or not prepared, Healthy says so, and Restart
// may be called again. One whose ctx has ended already changes nothing.
func (s *Server) Restart(ctx context.Context) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	if s.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("restart the embedded NATS server: %w", err)
	}
	s.whole.Store(false)
	if s.cfg.clustered() {
		s.handOver(ctx)
	}
	if err := s.replace(ctx); err != nil {
		return err
	}
	if err := s.prepareLog(ctx); err != nil {
		return fmt.Errorf("restart the embedded NATS server: %w", err)
	}
	s.answers.noRoom.Store(false)
	s.whole.Store(true)
	return nil
}

// replace stops the server, runs another, and waits until the connections have found it.
func (s *Server) replace(ctx context.Context) error {
	stopping, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	// Two servers must never have the same folder open.
	if err := s.stop(stopping); err != nil {
		return err
	}
	if err := s.openFolder(); err != nil {
		return err
	}
	if err := s.run(ctx); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for _, l := range s.links() {
		if err := l.await(ctx, s.running()); err != nil {
			return err
		}
	}
	return nil
}

// handOver lets others lead before a Restart. What this node cannot hand over it loses.
func (s *Server) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepDownTime/2)
	defer cancel()
	if err := s.StepDown(ctx); err != nil {
		s.log.Warn("leadership was not handed over before the restart", "err", err)
	}
}

// prepareLog declares again what was declared before. A cluster has kept it.
func (s *Server) prepareLog(ctx context.Context) error {
	if s.cfg.clustered() {
		return nil
	}
	if s.declared.Load() {
		if err := s.Declare(ctx); err != nil {
			return err
		}
		if _, err := s.Seal(ctx); err != nil {
			return err
		}
	}
	if places := s.lanePlaces(); places > 0 {
		return s.DeclareLanes(ctx, places)
	}
	return nil
}

// await waits until the client has found the server that runs now. It may not have noticed yet
// that the one before is gone, so being connected is not enough.
func (l *link) await(ctx context.Context, srv *server.Server) error {
	for !l.nc.IsConnected() || l.nc.ConnectedServerId() != srv.ID() {
		if !wait(ctx, 2*time.Millisecond) {
			return fmt.Errorf("reconnect to the embedded NATS server: %w", ctx.Err())
		}
	}
	return nil
}

// Close ends the connections and stops the server, and waits until the engine has closed its
// files: leaving earlier damages stores. Publishers and readers are stopped before, by their
// owners. When ctx ends first the rest of the stop goes on without the caller.
func (s *Server) Close(ctx context.Context) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.leaders.stop()
	s.hangUp()
	return s.stop(ctx)
}

// stop shuts the server down. A single node has no leadership to hand over and its clients no
// other node to go to, so there is no lame duck; nor is there for a Restart, which is over soon.
// It may be called again when ctx ended before the server did: until then the server has its files
// open.
func (s *Server) stop(ctx context.Context) error {
	srv := s.running()
	if srv == nil {
		return nil
	}
	done, leaves := make(chan struct{}), s.cfg.clustered() && s.closed
	go func() {
		defer close(done)
		if leaves {
			srv.LameDuckShutdown() // tells clients to go elsewhere, and hands over what is still led
		}
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	select {
	case <-done:
		s.mu.Lock()
		s.srv = nil
		s.mu.Unlock()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the embedded NATS server: %w", ctx.Err())
	}
}

// Seal writes a control record into EVENTS. Its acknowledgement proves that everything before it
// is synced too: a reader of a single node may see an atomic batch before that. Call it once
// after Declare, before anything follows EVENTS.
//
// With several copies it does nothing: readers see only what a majority has synced.
func (s *Server) Seal(ctx context.Context) (record.Sequence, error) {
	if s.cfg.Replicas > 1 {
		return 0, nil
	}
	return s.seal(ctx)
}

func (s *Server) seal(ctx context.Context) (record.Sequence, error) {
	data, err := json.Marshal(struct {
		Node string `json:"node"`
	}{s.cfg.Name})
	if err != nil {
		return 0, err
	}
	wire, _, err := s.prepare(Msg{Subject: ControlSubject("start"), Data: data})
	if err != nil {
		return 0, fmt.Errorf("seal %s: %w", Events, err)
	}
	// Past the check of the reserve: what is in the log can be read on a full disk too.
	ack, err := s.write(ctx, Events, wire)
	if err != nil {
		return 0, fmt.Errorf("seal %s: %w", Events, err)
	}
	return ack.Sequence, nil
}
