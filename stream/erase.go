package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Erase removes every message of a subject up to a sequence (0: all) so that the disk does not
// hold it any more either. It may be repeated, and by several at once. In a cluster every node is to
// call it for its own disk.
func (s *Server) Erase(ctx context.Context, stream, subject string, upTo record.Sequence) error {
	if err := s.erase(ctx, stream, subject, upTo); err != nil {
		return err
	}
	s.shorten(stream)
	return nil
}

// shorten lets the engine forget how a stream of a cluster became what it is. Until its next snapshot,
// which comes within three minutes, its log of proposals still has the messages as they were written. A
// snapshot that cannot be made now, while another node catches up, is left to the engine.
func (s *Server) shorten(stream string) {
	srv := s.running()
	if s.cfg.Replicas < 2 || srv == nil {
		return
	}
	if err := srv.JetStreamSnapshotStream("CORE", stream); err != nil {
		s.log.Debug("the proposals of a stream are not shortened yet, the engine will", "stream", stream, "err", err)
	}
}

func (s *Server) erase(ctx context.Context, stream, subject string, upTo record.Sequence) error {
	first, last, err := s.State(ctx, stream)
	if err != nil {
		return err
	}
	if upTo == 0 || upTo > last {
		upTo = last
	}
	for from := first; from <= upTo; from++ {
		m, err := s.nextFor(ctx, stream, subject, from)
		if errors.Is(err, ErrNotFound) || err == nil && m.Sequence > upTo {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if err := s.eraseOne(ctx, stream, m.Sequence); err != nil {
			return fmt.Errorf("erase %s %d: %w", stream, m.Sequence, err)
		}
		from = m.Sequence
	}
	return nil
}

// nextFor reads the first message of a subject from a sequence on.
func (s *Server) nextFor(ctx context.Context, stream, subject string, from record.Sequence) (Message, error) {
	read := s.direct
	if s.cfg.Replicas > 1 {
		read = s.leader
	}
	return steady(ctx, s, func(ctx context.Context) (Message, error) {
		return read(ctx, stream, map[string]any{"seq": from, "next_by_subj": subject})
	})
}

func (s *Server) eraseOne(ctx context.Context, stream string, seq record.Sequence) error {
	st, err := s.JetStream().Stream(ctx, stream)
	if err != nil {
		return readError(err)
	}
	if err = st.SecureDeleteMsg(ctx, uint64(seq)); err != nil {
		if _, gone := s.Get(ctx, stream, seq); errors.Is(gone, ErrNotFound) {
			return nil // somebody else was faster
		}
	}
	return readError(err)
}
