package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestARunOfMessagesIsWhatSingleReadsGive(t *testing.T) {
	s := start(t)
	write := func(data []byte) record.Sequence {
		t.Helper()
		a, err := s.Publish(t.Context(), Dead, Msg{Subject: "fhir.dead.s", Header: nats.Header{"Dead-Reason": {"gone"}, "Status": {"204"}}, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return a.Sequence
	}
	for i := range 5 {
		write(fmt.Appendf(nil, "letter %d", i+1))
	}
	for _, tc := range []struct {
		from        record.Sequence
		n           int
		first, last record.Sequence
	}{{1, 2, 1, 2}, {2, 3, 2, 4}, {4, 10, 4, 5}, {5, 1, 5, 5}} {
		run, err := s.GetRun(t.Context(), Dead, tc.from, tc.n)
		if err != nil || len(run) != int(tc.last-tc.first+1) {
			t.Fatalf("%d from %d on: %d messages, %v", tc.n, tc.from, len(run), err)
		}
		for i, got := range run {
			want, err := s.Get(t.Context(), Dead, tc.first+record.Sequence(i))
			if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Errorf("in a run %+v, by itself %+v: %v", got, want, err)
			}
		}
	}
	if run, err := s.GetRun(t.Context(), Dead, 6, 4); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the end: %v, %v", run, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.GetRun(ended, Dead, 1, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
	// What comes at once is bounded in bytes.
	large := write(bytes.Repeat([]byte("x"), runBytes))
	write([]byte("behind"))
	if run, err := s.GetRun(t.Context(), Dead, 5, 10); err != nil || len(run) != 2 || run[1].Sequence != large {
		t.Errorf("%d messages, %v", len(run), err)
	}
}
