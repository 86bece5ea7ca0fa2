package node

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/stream"
)

func TestAProducerIsToldOfAConflictAndNotOfAnInternalError(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	g := &natsGate{log: r.log, refused: func(fhir.IssueType) {}}
	conn := r.server.Conn()
	if _, err := conn.Subscribe("carillon.test", func(m *nats.Msg) { g.settle(m, stream.Ack{}, stream.ErrConflict) }); err != nil {
		t.Fatal(err)
	}
	m, err := conn.Request("carillon.test", nil, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(m.Data); strings.Contains(text, "internal error") || !strings.Contains(text, "send it again") {
		t.Errorf("answered %s", text)
	}
}
