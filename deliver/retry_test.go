package deliver

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestWaits(t *testing.T) {
	list := Policy{Schedule: []time.Duration{time.Second, time.Minute}, Jitter: 0.2}
	expo := Policy{Exponential: Exponential{Initial: time.Second, Factor: 2, Max: time.Hour}}
	for _, tc := range []struct {
		name       string
		policy     Policy
		attempt    int
		retryAfter time.Duration
		random     float64
		want       time.Duration
	}{
		{"first", list, 1, 0, 0.5, time.Second},
		{"second", list, 2, 0, 0.5, time.Minute},
		{"the last repeats", list, 99, 0, 0.5, time.Minute},
		{"jitter shortens by at most a fifth", list, 2, 0, 0, 48 * time.Second},
		{"jitter lengthens by at most a fifth", list, 2, 0, 0.75, 66 * time.Second},
		{"Retry-After is a minimum", list, 1, 10 * time.Second, 0, 10 * time.Second},
		{"a shorter one changes nothing", list, 2, time.Second, 0.5, time.Minute},
		{"and is bound", list, 1, 100 * time.Hour, 0.5, 24 * time.Hour},
		{"default schedule", Policy{}, 3, 0, 0.5, 30 * time.Minute},
		{"exponential", expo, 4, 0, 0.5, 8 * time.Second},
		{"exponential is bound", expo, 100000, 0, 0.5, time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.policy.Wait(tc.attempt, tc.retryAfter, tc.random); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

func TestPoliciesThatCannotBeMeantAreRefused(t *testing.T) {
	for _, p := range []Policy{{}, DefaultPolicy(), {Attempts: 18, Exponential: Exponential{time.Second, 1, time.Second}}} {
		if err := p.Validate(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for want, p := range map[string]Policy{
		"attempts":         {Attempts: -1},
		"jitter":           {Jitter: 1},
		"jitter is NaN":    {Jitter: math.NaN()},
		"max_age":          {MaxAge: -1},
		"schedule[1]":      {Schedule: []time.Duration{1, 0}},
		"at once":          {Schedule: []time.Duration{1}, Exponential: Exponential{1, 1, 1}},
		"schedule.initial": {Exponential: Exponential{0, 1, 1}},
		"schedule.factor":  {Exponential: Exponential{1, 0.5, 1}},
		"schedule.max":     {Exponential: Exponential{2, 1, 1}},
	} {
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want one that names %s", p, err, want)
		}
	}
}

func TestAFifoGivesBackInOrder(t *testing.T) {
	var f fifo[int]
	next, want := 0, 0
	for round := range 300 {
		for range round % 37 {
			f.push(next)
			next++
		}
		for range min(f.len(), round%31) {
			if f.peek() != want || f.pop() != want {
				t.Fatalf("out of order at %d", want)
			}
			want++
		}
	}
	for f.len() > 0 {
		if f.pop() != want {
			t.Fatalf("out of order at %d", want)
		}
		want++
	}
	if want != next {
		t.Errorf("%d came back of %d", want, next)
	}
}
