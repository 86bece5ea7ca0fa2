package node

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
)

// pastAttempts is a store with what came of a Subscription's attempts.
type pastAttempts struct{ list []store.Attempt } // oldest first

func (p *pastAttempts) Attempts(_ context.Context, f store.AttemptFilter) (out []store.Attempt, err error) {
	for _, a := range slices.Backward(p.list) {
		if len(out) < f.Limit && (f.Since.IsZero() || !a.At.Before(f.Since)) && (f.Before.Sequence == 0 || a.Place.Sequence < f.Before.Sequence) {
			out = append(out, a)
		}
	}
	return out, nil
}

// listening plays a Subscription's life to a silence, hour by hour, and notes what it does.
type listening struct {
	silence *silence
	past    *pastAttempts
	sub     *subscription
	start   time.Time
	warned  []int
	stopped string
	at      int // hour of the stop
}

func newListening(after time.Duration) *listening {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := &listening{past: &pastAttempts{}, start: start}
	l.sub = &subscription{id: "s", birth: 1, version: 1, time: start}
	l.sub.Status = fhir.StatusActive
	l.restart(after)
	return l
}

// restart forgets everything but the log.
func (l *listening) restart(after time.Duration) {
	l.silence = &silence{
		log: slog.New(slog.DiscardHandler), after: after, store: l.past, known: map[record.Sequence]*hearing{},
		watched: func() []*subscription { return []*subscription{l.sub} },
		warn:    func(_ *subscription, percent int, _ time.Time) { l.warned = append(l.warned, percent) },
		stop:    func(_ context.Context, _ *subscription, reason string) error { l.stopped = reason; return nil },
	}
}

func (l *listening) hour(h int, code record.Code) {
	at := l.start.Add(time.Duration(h) * time.Hour)
	if code != "" {
		l.past.list = append(l.past.list, store.Attempt{Outcome: record.Outcome{MatchID: record.MatchID{Event: 9, Birth: 1}, Code: code, At: at},
			Place: store.Place{Sequence: record.Sequence(len(l.past.list) + 1)}})
		l.silence.fold(&record.OutcomeBlock{Outcomes: []record.Outcome{{MatchID: record.MatchID{Event: 9, Birth: 1}, Code: code, At: at}}})
	}
	l.silence.look(context.Background(), at.Add(time.Minute))
	if l.stopped != "" && l.at == 0 {
		l.at = h
	}
}

func TestASubscriptionWithoutSuccessForLongIsStoppedAfterWarnings(t *testing.T) {
	const after = 100 * time.Hour
	fails := func(int) record.Code { return record.Timeout }
	for _, tc := range []struct {
		name   string
		code   func(hour int) record.Code
		until  int
		warned []int
		at     int // 0: never
	}{
		{"it fails from the beginning", fails, 150, []int{50, 70, 90}, 100},
		{"one success begins anew", func(h int) record.Code {
			if h == 60 {
				return record.Accepted
			}
			return record.Timeout
		}, 170, []int{50, 50, 70, 90}, 160},
		{"nothing was to be sent", func(int) record.Code { return "" }, 300, nil, 0},
		{"one failure long ago is none now", func(h int) record.Code {
			if h == 1 {
				return record.Timeout
			}
			return ""
		}, 300, []int{50, 70, 90}, 0},
		{"what is our own fault does not count", func(int) record.Code { return record.AuthError }, 300, nil, 0},
		{"nor what cannot be rendered", func(int) record.Code { return record.RenderError }, 300, nil, 0},
		{"two failures twelve hours apart do", func(h int) record.Code {
			if h == 1 || h == 14 {
				return record.HTTPStatus
			}
			return ""
		}, 150, []int{50, 70, 90}, 100},
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				l := newListening(after)
				for h := 1; h <= tc.until && l.stopped == ""; h++ {
					if restarts && h%13 == 0 {
						l.restart(after)
					}
					l.hour(h, tc.code(h))
				}
				if l.at != tc.at {
					t.Errorf("stopped at hour %d, want %d: %s", l.at, tc.at, l.stopped)
				}
				if !restarts && !slices.Equal(l.warned, tc.warned) {
					t.Errorf("warned at %v, want %v", l.warned, tc.warned)
				}
			})
		}
	}
}

func TestWhoWritesASubscriptionBeginsTheTimeAnew(t *testing.T) {
	l := newListening(100 * time.Hour)
	for h := 1; h <= 250 && l.stopped == ""; h++ {
		if h == 80 {
			next := *l.sub
			next.time = l.start.Add(80 * time.Hour)
			l.sub = &next
		}
		l.hour(h, record.Timeout)
	}
	if l.at != 180 {
		t.Errorf("stopped at hour %d, want 180", l.at)
	}
}
