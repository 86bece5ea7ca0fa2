package deliver_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// What a renderer finds to be nothing is no attempt, no dead letter, and nothing against the endpoint.
func TestWhatHasNothingToSendIsSkipped(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.world.Rendering = func(p deliver.Pending) error {
			if p.Number == 1 {
				return fmt.Errorf("%w: the search finds nothing", deliver.ErrNothing)
			}
			return nil
		}
		sub := s.world.Subscribe(subscription("s", quick))
		s.start("n1")
		p := s.world.Matches(sub, fhir.Update, patient(1), patient(1))
		s.after(time.Second)
		o := s.world.OutcomesOf(p[0].ID())
		if len(o) != 1 || o[0].Code != record.Skipped || !o[0].Final || o[0].Attempt != 0 || len(s.receiver.Of(p[0].ID())) != 0 {
			t.Errorf("outcomes %+v", o)
		}
		if o := s.world.OutcomesOf(p[1].ID()); len(o) != 1 || o[0].Code != record.Accepted {
			t.Errorf("the next one of the resource: %+v", o)
		}
		if len(s.world.Letters()) != 0 || len(s.world.Open()) != 0 {
			t.Errorf("%d dead letters, open %v", len(s.world.Letters()), s.world.Open())
		}
	})
}
