package stream

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// In a cluster a login finds the same at every node: its producer is answered by the gate of the
// node that it is connected to, and its consumer goes on wherever it is pulled from.
func TestALoginFindsTheSameAtEveryNode(t *testing.T) {
	nodes := startCluster(t, 3, func(c *Config) { c.Logins = []Login{lab, ward} })
	defer stopAll(t, nodes)
	for i, s := range nodes {
		sub, err := s.SubscribeIngest(func(m *nats.Msg) { RespondError(m, 500, 20500, fmt.Sprint("node ", i)) })
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		if err := s.Edge().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	made, err := nodes[0].CreateConsumer(t.Context(), ConsumerSpec{Stream: "messages", Name: "lab", Filter: "fhir.message.lab"})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := nodes[1].Consumers(t.Context()); err != nil || len(all) != 1 || all[0].Reference() != made.Reference() {
		t.Fatalf("another node lists %+v, %v", all, err)
	}
	publishMessages(t, nodes[2], "fhir.message.lab", "0", "1", "2")
	for i, s := range nodes {
		nc := loginAs(t, s, lab)
		for range 20 {
			m, err := nc.Request("fhir.ingest.Observation.a", nil, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if a, err := parseAck(m); err == nil || a.Error == nil || a.Error.Description != fmt.Sprint("node ", i) {
				t.Fatalf("a producer at node %d is answered with %s", i, m.Data)
			}
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		m := fetch(t, js, Messages, "lab", 1)[0]
		if string(m.Data()) != fmt.Sprint(i) || m.Subject() != "fhir.message.lab" {
			t.Errorf("node %d gives %s %q", i, m.Subject(), m.Data())
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		mayNotPublish(t, nc, "$JS.API.CONSUMER.MSG.NEXT.MESSAGES.ward")
		mayNotSubscribe(t, loginAs(t, s, lab), "fhir.dead.>")
	}
}
