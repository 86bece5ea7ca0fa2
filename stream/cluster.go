package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// RouteTLS are the PEM files that nodes show each other and check each other by. Both sides of a
// route show a certificate of the CA, which must name the host under which the node is reached.
type RouteTLS struct {
	CA   string // who signs the certificates of all nodes
	Cert string // this node's
	Key  string
}

// How a node finds out that a route leads nowhere. TCP alone takes minutes, and after a partition
// has healed its retransmissions may be half a minute apart: a route is closed after three missing
// answers and dialled anew every second.
const (
	routePing    = 3 * time.Second
	routeMissing = 2
)

// Lame duck of a node that leaves: its clients are told to go elsewhere, and have so long for it.
const (
	lameDuck      = 5 * time.Second
	lameDuckGrace = time.Second
)

// clustered tells whether the node shares its log with others.
func (c Config) clustered() bool { return c.Route != "" }

// completeCluster checks what speaks of other nodes.
func (c Config) completeCluster() (Config, error) {
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	switch {
	case c.Replicas != 1 && c.Replicas != 3:
		return c, fmt.Errorf("%d replicas: a log has 1 copy, or 3 in a cluster of three or more nodes", c.Replicas)
	case len(c.Routes) == 1 && c.Replicas == 1:
		c.Route, c.Routes = "", nil // a cluster of one is a single node
		return c, nil
	case c.Route == "" && len(c.Routes) > 0:
		return c, errors.New("routes to other nodes without an address of this node's own for them: give it one (nodes, route)")
	case c.Route == "" && c.Replicas > 1:
		return c, fmt.Errorf("%d replicas on a single node: use 1, or give every node a route", c.Replicas)
	case c.Route == "":
		return c, nil
	case c.Cluster == "":
		return c, errors.New("a cluster needs a name")
	case c.Listen == "":
		// The engine waits for it before it opens its routes.
		return c, errors.New("a node of a cluster needs an address for NATS clients: for example 127.0.0.1:4222")
	case c.Replicas > 1 && len(c.Routes) < c.Replicas:
		return c, fmt.Errorf("%d replicas in a cluster of %d nodes: there must be a node for each copy", c.Replicas, len(c.Routes))
	case !slices.Contains(c.Routes, c.Route):
		return c, fmt.Errorf("route %s of this node is not among the routes of the cluster", c.Route)
	}
	loopback := true
	for _, r := range c.Routes {
		host, port, err := net.SplitHostPort(r)
		if err != nil {
			return c, fmt.Errorf("route %q: %w; write host:port", r, err)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return c, fmt.Errorf("route %q: %q is not a port", r, port)
		}
		ip := net.ParseIP(host)
		loopback = loopback && (host == "localhost" || ip != nil && ip.IsLoopback())
	}
	if c.TLS == nil {
		if !loopback {
			return c, errors.New("routes between machines need certificates: make them with `carillon cluster init` and name them under cluster.tls")
		}
		return c, nil
	}
	for _, f := range []struct{ what, path string }{{"ca", c.TLS.CA}, {"cert", c.TLS.Cert}, {"key", c.TLS.Key}} {
		if _, err := os.Stat(f.path); err != nil {
			return c, fmt.Errorf("cluster.tls.%s: %w", f.what, err)
		}
	}
	return c, nil
}

// clusterText is the part of the server's configuration that speaks of other nodes; empty where
// there are none.
func (c Config) clusterText() string {
	if !c.clustered() {
		return ""
	}
	var routes []string
	for _, r := range c.Routes {
		routes = append(routes, quote("nats-route://"+r))
	}
	tls := ""
	if c.TLS != nil {
		tls = fmt.Sprintf("tls { ca_file: %s, cert_file: %s, key_file: %s, verify: true, timeout: 5 }",
			quote(c.TLS.CA), quote(c.TLS.Cert), quote(c.TLS.Key))
	}
	return fmt.Sprintf(`
cluster {
  name: %s
  listen: %s
  routes: [%s]
  no_advertise: true
  ping_interval: %q
  ping_max: %d
  %s
}
`, quote(c.Cluster), quote(c.Route), strings.Join(routes, ", "), routePing, routeMissing, tls)
}

// setLameDuck makes the time shorter than the parser allows, which thinks of thousands of clients.
func setLameDuck(o *server.Options) {
	o.LameDuckDuration, o.LameDuckGracePeriod = lameDuck, lameDuckGrace
}

// systemAccount is the server's own. Its one user is ours, like that of CORE: it asks the
// cluster's leader to step down.
func (s *Server) systemAccount() account {
	a := account{name: "SYS"}
	if s.cfg.clustered() {
		a.users = []user{{credential: nkey(s.system.public), inside: true, all: true}}
	}
	return a
}

// damage is what only a new start of the engine can put right. On a single node whatever keeps
// it from writing is that. In a cluster it is what this node alone suffers from: a lack of a
// leader, of a quorum, or being behind, passes by itself and would only be made longer.
func (s *Server) damage(srv *server.Server) error {
	h := srv.Healthz(&server.HealthzOptions{Details: s.cfg.clustered()})
	if h.Error != "" {
		return errors.New(h.Error)
	}
	for _, e := range h.Errors {
		if e.Type == server.HealthzErrorConn {
			return errors.New(e.Error)
		}
		for _, local := range []string{"write error", "apply error", "meta layer is not running"} {
			if strings.Contains(e.Error, local) {
				return errors.New(e.Error)
			}
		}
	}
	return nil
}

// A start says at once that it waits for other nodes, what follows only when it takes long, and
// all of it every ten seconds.
const (
	saysMissing = 10 * time.Second
	saysAfter   = 3 * time.Second
)

// awaitQuorum waits until the cluster's nodes have a leader and this one has caught up with what
// they agreed on. It waits as long as ctx lives, since the other machines may come hours later.
func (s *Server) awaitQuorum(ctx context.Context) error {
	if !s.cfg.clustered() {
		return nil
	}
	return s.await(ctx, 0, "waiting for a quorum of the cluster's nodes", func(context.Context) error {
		srv := s.running()
		if h := srv.Healthz(&server.HealthzOptions{JSMetaOnly: true}); h.Error != "" {
			return errors.New(h.Error)
		}
		return nil
	})
}

// await tries until it succeeds or ctx ends, and says after a while and every ten seconds what is
// missing.
func (s *Server) await(ctx context.Context, after time.Duration, what string, try func(context.Context) error) error {
	saying := false
	said := time.Now().Add(after - saysMissing)
	for {
		err := try(ctx)
		if err == nil {
			if saying {
				s.log.Info("no longer "+what, "nodes", s.reachable())
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), err)
		}
		if time.Since(said) >= saysMissing {
			saying, said = true, time.Now()
			s.log.Info(what, "missing", err.Error(), "nodes", s.reachable())
		}
		if !wait(ctx, 50*time.Millisecond) {
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}

// patient tries once on a single node. In a cluster it goes on as long as what it meets may pass:
// an election, nodes that are not there yet.
func (s *Server) patient(ctx context.Context, what string, try func(context.Context) error) error {
	if !s.cfg.clustered() {
		return try(ctx)
	}
	var refused error
	err := s.await(ctx, saysAfter, what, func(ctx context.Context) error {
		bounded, cancel := context.WithTimeout(ctx, tryTimeout)
		defer cancel()
		err := try(bounded)
		if err != nil && !passing(err) {
			refused = err
			return nil
		}
		return err
	})
	return cmp.Or(refused, err)
}

// passing tells whether a cluster that forms, or elects a leader, may answer otherwise soon.
func passing(err error) bool {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy) || errors.Is(err, errNoAnswer) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == errInsufficient // of nodes: some are away
}

// awaitStreams waits until every stream has a leader that answers and this node's copies have
// caught up.
func (s *Server) awaitStreams(ctx context.Context) error {
	if !s.cfg.clustered() {
		return nil
	}
	for _, d := range definitions(s.cfg.Replicas) {
		err := s.await(ctx, saysAfter, "waiting for a leader of stream "+d.Name, func(ctx context.Context) error {
			bounded, cancel := context.WithTimeout(ctx, tryTimeout)
			defer cancel()
			_, _, err := s.State(bounded, d.Name)
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.await(ctx, saysAfter, "waiting until this node has caught up", func(context.Context) error {
		// Consumers are made again or wait for their own majority; what is written needs streams.
		for _, e := range s.running().Healthz(&server.HealthzOptions{Details: true}).Errors {
			if e.Consumer == "" {
				return errors.New(e.Error)
			}
		}
		return s.Available()
	})
}

// reachable are the nodes that this one has routes to, as "2 of 3", itself included.
func (s *Server) reachable() string {
	return fmt.Sprintf("%d of %d", 1+len(s.routed()), len(s.cfg.Routes))
}

// routed are the names of the nodes that this one has a route to.
func (s *Server) routed() map[string]bool {
	names := map[string]bool{}
	srv := s.running()
	if srv == nil {
		return names
	}
	routes, err := srv.Routez(nil)
	if err != nil {
		return names
	}
	for _, r := range routes.Routes {
		names[r.RemoteName] = true
	}
	return names
}

// tryTimeout bounds one question to a cluster that may have no leader at the moment.
const tryTimeout = 5 * time.Second
