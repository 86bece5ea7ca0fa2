package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// service is the node as a NATS micro service: operators find the nodes with $SRV.PING and its
// like, and ask what GET /admin/api/v1/cluster tells. The accounts of the server let nobody but
// operators ask (stream.Login.Operator), and the guest of a listener without logins.
type service struct {
	node *Node

	// serving is held by requests that are answered, so that a stop can wait for them.
	serving sync.RWMutex
	begun   chan error // gets what became of the beginning
}

const (
	serviceName    = "carillon"
	serviceStatus  = "carillon.admin.cluster.status"
	serviceTimeout = 10 * time.Second
)

// serviceVersion is what the library takes of a version; the rest is metadata.
var serviceVersion = regexp.MustCompile(`(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)`)

// startService returns when operators are heard: whoever waits for a node to be ready may ask at once.
func (n *Node) startService(context.Context) error {
	s := &service{node: n, begun: make(chan error, 1)}
	n.parts.run("service", s.run)
	return <-s.begun
}

// run answers operators until ctx ends.
func (s *service) run(ctx context.Context) error {
	added, err := s.begin(ctx)
	s.begun <- err
	if err != nil {
		return err
	}
	<-ctx.Done()
	err = added.Stop()
	s.serving.Lock() // until the last answer is given
	defer s.serving.Unlock()
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}

func (s *service) begin(ctx context.Context) (micro.Service, error) {
	version := serviceVersion.FindString(s.node.version)
	if version == "" {
		version = "0.0.0"
	}
	conn := s.node.server.Service()
	added, err := micro.AddService(conn, micro.Config{
		Name: serviceName, Version: version, Description: "FHIR Subscriptions",
		Metadata: map[string]string{"node": s.node.name, "cluster": s.node.cluster, "release": s.node.version},
	})
	if err == nil {
		err = added.AddEndpoint("status", micro.ContextHandler(ctx, s.status), micro.WithEndpointSubject(serviceStatus))
	}
	if err == nil {
		err = conn.FlushTimeout(serviceTimeout) // the server knows of it
	}
	if err != nil {
		return nil, fmt.Errorf("answer operators: %w", err)
	}
	return added, nil
}

// status answers one request. The library hands over one at a time, so a flood of them costs no
// more than one after the other.
func (s *service) status(ctx context.Context, r micro.Request) {
	s.serving.RLock()
	defer s.serving.RUnlock()
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	// Once the API asks for a login, the guest must not read here what he cannot read there.
	if s.node.noticesClosed() {
		s.answered(r.Error("403", "a login of the NATS listener is needed: security.nats.users with operator: true", nil))
		return
	}
	c, err := (&admin{s.node}).Cluster(ctx)
	if err != nil {
		s.answered(r.Error("503", "the cluster's state could not be read; try again", nil))
		return
	}
	data, err := json.Marshal(c.Complete())
	if err == nil {
		err = r.Respond(data)
	}
	s.answered(err)
}

func (s *service) answered(err error) {
	if err != nil {
		s.node.log.Debug("an operator was not answered", "err", err)
	}
}
