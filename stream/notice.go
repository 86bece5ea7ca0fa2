package stream

import (
	"maps"
	"strconv"

	"github.com/nats-io/nats.go"
)

// Notice tells plain subscribers of EDGE about a change that is in the log: its stored subject,
// its headers and body, and its sequence in the header Nats-Sequence. It is a notice and no
// delivery: whoever is not listening at this moment, or too slow, misses it, and after a crash
// the newest changes may be told again. While nobody
// listens it costs a look into the engine's list of subscriptions.
func (s *Server) Notice(m Message) {
	srv := s.running()
	if srv == nil {
		return
	}
	account, err := srv.LookupAccount("EDGE")
	if err != nil || !account.SubscriptionInterest(m.Subject) {
		return
	}
	h := maps.Clone(m.Header)
	if h == nil {
		h = nats.Header{}
	}
	h.Set("Nats-Sequence", strconv.FormatUint(uint64(m.Sequence), 10))
	if err := s.edge.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Header: h, Data: m.Data}); err != nil {
		s.log.Debug("change was not noticed", "sequence", m.Sequence, "err", err)
	}
}
