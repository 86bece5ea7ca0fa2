package stream

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// identity is a user that exists only in this process: its key is made at each start.
type identity struct {
	pair   nkeys.KeyPair
	public string
}

func newIdentity() (identity, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return identity{}, fmt.Errorf("make a key for the connection inside the process: %w", err)
	}
	public, err := pair.PublicKey()
	return identity{pair, public}, err
}

// link is a connection inside the process. It outlives the server: when Restart starts another,
// the client reconnects to that one and its subscriptions with it.
type link struct {
	nc *nats.Conn

	mu   sync.Mutex
	down chan struct{} // closed when the present connection is lost, then replaced
	lack time.Time     // since when there is no connection; zero while there is one
}

// outage is how long a connection may be away before it counts: a reconnect takes some
// milliseconds, and to restart the server for it would do the harm that it is to repair.
const outage = 3 * time.Second

// check is nil while the connection is there, or expected back at any moment.
func (l *link) check(now time.Time) error {
	if l.nc.IsConnected() {
		return nil
	}
	if l.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lack.IsZero() || now.Sub(l.lack) < outage {
		return nil
	}
	return fmt.Errorf("no connection for %s", now.Sub(l.lack).Round(time.Second))
}

// back notes that the connection is there again.
func (l *link) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lack = time.Time{}
}

// InProcessConn dials the server that runs now.
func (s *Server) InProcessConn() (net.Conn, error) {
	srv := s.running()
	if srv == nil {
		return nil, ErrUnavailable
	}
	return srv.InProcessConn()
}

func (s *Server) connect(name string, id identity) (*link, error) {
	l := &link{down: make(chan struct{})}
	nc, err := nats.Connect("",
		nats.Name(name),
		nats.InProcessServer(s),
		nats.Nkey(id.public, id.pair.Sign),
		nats.IgnoreDiscoveredServers(),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectJitter(0, 0),
		// A publish must fail at once while there is no server: kept and sent later it would
		// appear in the log after its caller was told that it failed.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { l.lost() }),
		nats.ReconnectHandler(func(*nats.Conn) { l.back() }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			s.log.Warn("connection inside the process has a problem", "connection", name, "err", err)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded NATS server as %s: %w", name, err)
	}
	l.nc = nc
	return l, nil
}

// lost tells everyone who waits for an answer that none will come on this connection.
func (l *link) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.down)
	l.down = make(chan struct{})
	if l.lack.IsZero() {
		l.lack = time.Now()
	}
}

// gone is closed when the connection of this moment is lost.
func (l *link) gone() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// bound is ctx until the connection of this moment is lost: a request that went down with it
// would wait for its answer until it times out.
func (l *link) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	gone := l.gone()
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
