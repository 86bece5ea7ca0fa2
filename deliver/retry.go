package deliver

import (
	"fmt"
	"math"
	"time"
)

// Policy says how often and when a match is tried.
type Policy struct {
	// Attempts is how many are made in all, the first included. Zero: without end.
	Attempts int
	// Schedule holds the waits after the first attempt, the second and so on; the last one
	// repeats. Empty: Exponential, and where that is zero too, DefaultSchedule.
	Schedule    []time.Duration
	Exponential Exponential
	// Jitter spreads each wait evenly between 1-Jitter and 1+Jitter times its length.
	Jitter float64
	// MaxAge ends the attempts of a match when the next one would come later than this after its
	// event. Zero: no limit. The first attempt is always made, and replays, whose events are
	// old by nature, are bound by Attempts alone.
	MaxAge time.Duration
}

// Exponential waits Initial first and Factor times longer each time, at most Max.
type Exponential struct {
	Initial time.Duration
	Factor  float64
	Max     time.Duration
}

// MaxRetryAfter is the longest wait that an endpoint can ask for.
const MaxRetryAfter = 24 * time.Hour

// DefaultSchedule gives the waits of a policy that names none: those of Standard Webhooks.
func DefaultSchedule() []time.Duration {
	return []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour,
	}
}

// DefaultPolicy is three attempts with the default schedule and a jitter of 20 percent.
func DefaultPolicy() Policy {
	return Policy{Attempts: 3, Schedule: DefaultSchedule(), Jitter: 0.2}
}

// Validate refuses what cannot be meant, with the key that is wrong.
func (p Policy) Validate() error {
	switch {
	case p.Attempts < 0:
		return fmt.Errorf("attempts is %d: give 1 or more, or 0 for no end", p.Attempts)
	case p.Jitter < 0 || p.Jitter >= 1 || math.IsNaN(p.Jitter):
		return fmt.Errorf("jitter is %v: give a share of the wait from 0 to below 1, such as 0.2", p.Jitter)
	case p.MaxAge < 0:
		return fmt.Errorf("max_age is %v: give a positive duration, or 0 for no limit", p.MaxAge)
	}
	for i, d := range p.Schedule {
		if d <= 0 {
			return fmt.Errorf("schedule[%d] is %v: every wait must be longer than 0", i, d)
		}
	}
	if len(p.Schedule) > 0 {
		if p.Exponential != (Exponential{}) {
			return fmt.Errorf("schedule is a list and exponential at once: give one of them")
		}
		return nil
	}
	return p.Exponential.validate()
}

func (x Exponential) validate() error {
	switch {
	case x == (Exponential{}):
		return nil
	case x.Initial <= 0:
		return fmt.Errorf("schedule.initial is %v: it must be longer than 0", x.Initial)
	case x.Factor < 1 || math.IsNaN(x.Factor) || math.IsInf(x.Factor, 0):
		return fmt.Errorf("schedule.factor is %v: it must be at least 1", x.Factor)
	case x.Max < x.Initial:
		return fmt.Errorf("schedule.max is %v, shorter than initial (%v)", x.Max, x.Initial)
	}
	return nil
}

// Wait is the time from the end of the given attempt (from 1) to the next. retryAfter is the
// endpoint's wish, a minimum up to MaxRetryAfter that jitter never shortens. random is in
// [0,1).
func (p Policy) Wait(attempt int, retryAfter time.Duration, random float64) time.Duration {
	wait := time.Duration(float64(p.base(attempt)) * (1 + p.Jitter*(2*random-1)))
	return max(wait, min(retryAfter, MaxRetryAfter))
}

func (p Policy) base(attempt int) time.Duration {
	schedule := p.Schedule
	if len(schedule) == 0 && p.Exponential != (Exponential{}) {
		return p.Exponential.wait(attempt)
	}
	if len(schedule) == 0 {
		schedule = DefaultSchedule()
	}
	return schedule[min(max(attempt, 1), len(schedule))-1]
}

func (x Exponential) wait(attempt int) time.Duration {
	w := float64(x.Initial) * math.Pow(x.Factor, float64(max(attempt, 1)-1))
	if w >= float64(x.Max) { // also when the power has left the range
		return x.Max
	}
	return time.Duration(w)
}

// spent reports whether an attempt, the last one made, leaves no other that could begin at
// next.
func (p Policy) spent(pending Pending, attempt int, next time.Time) bool {
	if p.Attempts > 0 && attempt >= p.Attempts {
		return true
	}
	return p.tooOld(pending, next)
}

// tooOld reports whether the age limit forbids an attempt that would begin at next.
func (p Policy) tooOld(pending Pending, next time.Time) bool {
	return p.MaxAge > 0 && pending.Round == 0 && next.Sub(pending.EventTime) > p.MaxAge
}
