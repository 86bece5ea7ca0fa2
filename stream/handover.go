package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// stepDownTime bounds StepDown where the caller set no end.
const stepDownTime = 5 * time.Second

// led is one thing that this node leads.
type led struct {
	stream, consumer string // both empty for the cluster itself
}

func (l led) String() string {
	switch {
	case l.stream == "":
		return "the cluster"
	case l.consumer == "":
		return "stream " + l.stream
	}
	return "consumer " + l.consumer + " of " + l.stream
}

// StepDown hands the leadership of everything that this node leads to others, and waits until
// they have it, for a few seconds at most. A stop after it costs the cluster no election. On a
// single node there is nothing to do. What could not be handed over is in the error; it is no
// reason not to stop.
func (s *Server) StepDown(ctx context.Context) error {
	if !s.cfg.clustered() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepDownTime)
	defer cancel()
	asked := map[led]time.Time{}
	for {
		srv := s.running()
		if srv == nil {
			return nil
		}
		var open []led
		for l, leader := range leaderships(srv) {
			before, was := asked[l]
			if leader != srv.Name() && !(was && leader == "") {
				continue
			}
			open = append(open, l)
			// Asked again where the one that was chosen did not take it. An election is left alone.
			if leader != "" && time.Since(before) > time.Second {
				asked[l] = time.Now()
				if err := s.stepDown(ctx, srv, l); err != nil && ctx.Err() == nil {
					s.log.Debug("leadership was not handed over, will try again", "of", l.String(), "err", err)
				}
			}
		}
		if len(open) == 0 {
			return nil
		}
		if !wait(ctx, 20*time.Millisecond) {
			return fmt.Errorf("hand over leadership of %v: %w", open, ctx.Err())
		}
	}
}

func (s *Server) stepDown(ctx context.Context, srv *server.Server, l led) error {
	switch {
	case l.stream == "":
		return s.stepDownMeta(ctx)
	case l.consumer == "":
		return srv.JetStreamStepdownStream("CORE", l.stream)
	}
	return srv.JetStreamStepdownConsumer("CORE", l.stream, l.consumer)
}

// stepDownMeta asks the leader of the cluster, which is this node, to hand over. Unlike streams it
// can be asked only by the account of the system.
func (s *Server) stepDownMeta(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := s.sys.nc.RequestWithContext(ctx, "$JS.API.META.LEADER.STEPDOWN", nil)
	if err != nil {
		return err
	}
	var answer struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return errors.New(answer.Error.Description)
	}
	return nil
}

// leaderships are the groups that this node is in, with their leaders; empty for one without.
// A consumer with one copy, as readers have, is left out: it cannot be handed over, and its
// reader makes another.
func leaderships(srv *server.Server) map[led]string {
	all := map[led]string{}
	js, err := srv.Jsz(&server.JSzOptions{Account: "CORE", Streams: true, Consumer: true})
	if err != nil {
		return all
	}
	if js.Meta != nil {
		all[led{}] = js.Meta.Leader
	}
	note := func(l led, c *server.ClusterInfo) {
		if c != nil && len(c.Replicas) > 0 {
			all[l] = c.Leader
		}
	}
	for _, a := range js.AccountDetails {
		for _, d := range a.Streams {
			note(led{stream: d.Name}, d.Cluster)
			for _, c := range d.Consumer {
				note(led{d.Name, c.Name}, c.Cluster)
			}
		}
	}
	return all
}
