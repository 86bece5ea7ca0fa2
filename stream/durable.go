package stream

import (
	"context"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// durability is how far a stream is known to be synced: the highest sequence acknowledged.
type durability struct {
	upTo    record.Sequence
	advance chan struct{} // closed and replaced when upTo grows; nil while nobody waits
}

// advance notes an acknowledgement: it and all before it are synced.
func (s *Server) advance(stream string, seq record.Sequence) {
	s.durableMu.Lock()
	defer s.durableMu.Unlock()
	d := s.durableLocked(stream)
	if seq <= d.upTo {
		return
	}
	d.upTo = seq
	if d.advance != nil {
		close(d.advance)
		d.advance = nil
	}
}

func (s *Server) durableLocked(stream string) *durability {
	d := s.durable[stream]
	if d == nil {
		d = &durability{}
		s.durable[stream] = d
	}
	return d
}

// Durable is the highest sequence of a stream that is known to be synced; 0 before the first
// acknowledgement since start.
func (s *Server) Durable(stream string) record.Sequence {
	s.durableMu.Lock()
	defer s.durableMu.Unlock()
	return s.durableLocked(stream).upTo
}

// WaitDurable blocks until a sequence is known to be synced, or ctx ends.
func (s *Server) WaitDurable(ctx context.Context, stream string, seq record.Sequence) error {
	for {
		s.durableMu.Lock()
		d := s.durableLocked(stream)
		if d.upTo >= seq {
			s.durableMu.Unlock()
			return nil
		}
		if d.advance == nil {
			d.advance = make(chan struct{})
		}
		wait := d.advance
		s.durableMu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
