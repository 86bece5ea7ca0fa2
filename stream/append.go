package stream

import (
	"context"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Append writes the next block of a subject's chain: only if the subject's last sequence is
// the expected one, 0 for a subject that has none. One message is atomic by itself, and of two
// writers with the same expectation one gets ErrConflict.
//
// Whatever the error, the writer's next step is the same: drop what is prepared, read the newest
// block with LastFor, and go on from there. After ErrUnknown the block may yet arrive; then the
// next Append is refused and the step is taken again.
func (s *Server) Append(ctx context.Context, stream, subject string, data []byte, expect record.Sequence) (record.Sequence, error) {
	m := Msg{Subject: subject, Data: data, ExpectLast: &expect}
	if mutant("skipped-fence") {
		m.ExpectLast = nil
	}
	ack, err := s.Publish(ctx, stream, m)
	return ack.Sequence, err
}
