package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written like 8MiB, 512KiB or 1GiB.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

// ParseSize reads a size. A number without a unit is refused unless it is 0: it is too easily
// meant in another unit than bytes.
func ParseSize(s string) (Size, error) {
	if s == "0" {
		return 0, nil
	}
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
			break
		}
		return Size(n * u.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size; write one like 8MiB or 512KiB", s)
}

// String writes the size in the largest binary unit that keeps it whole.
func (s Size) String() string {
	for i := 2; i >= 0; i-- {
		if u := sizeUnits[i]; s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Attempts is how often a notification is tried. Unlimited, the zero value, tries until it is
// accepted or too old.
type Attempts int

// Unlimited is no limit of attempts.
const Unlimited Attempts = 0

// maxAttempts is the largest limit that can be asked for, as in Medplum's
// subscription-max-attempts extension.
const maxAttempts = 18

// parseAttempts reads a number of attempts, or the word unlimited.
func parseAttempts(s string) (Attempts, error) {
	if s == "unlimited" {
		return Unlimited, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxAttempts {
		return 0, fmt.Errorf("%q is not 1 to %d or unlimited", s, maxAttempts)
	}
	return Attempts(n), nil
}

// String is the number, or "unlimited".
func (a Attempts) String() string {
	if a == Unlimited {
		return "unlimited"
	}
	return strconv.Itoa(int(a))
}

// Schedule is how long to wait after each failed attempt: either a list, whose last wait is
// repeated, or, where Waits is empty, Initial multiplied by Factor each time up to Max.
type Schedule struct {
	Waits   []time.Duration
	Initial time.Duration
	Factor  float64
	Max     time.Duration
}

// Wait returns the wait after the n-th failed attempt, n from 1, before jitter.
func (s Schedule) Wait(n int) time.Duration {
	if len(s.Waits) > 0 {
		return s.Waits[min(n, len(s.Waits))-1]
	}
	w := float64(s.Initial) * math.Pow(s.Factor, float64(n-1))
	if w >= float64(s.Max) { // also when the power is infinite
		return s.Max
	}
	return time.Duration(w)
}

// String writes the schedule as it stands in a file.
func (s Schedule) String() string {
	if len(s.Waits) == 0 {
		return fmt.Sprintf("{initial: %s, factor: %s, max: %s}",
			formatDuration(s.Initial), strconv.FormatFloat(s.Factor, 'g', -1, 64), formatDuration(s.Max))
	}
	waits := make([]string, len(s.Waits))
	for i, w := range s.Waits {
		waits[i] = formatDuration(w)
	}
	return "[" + strings.Join(waits, ", ") + "]"
}

// parseDuration reads a duration such as 5s, 30m or 12h.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration; write one like 15s, 30m or 12h", s)
	}
	return d, nil
}

// formatDuration leaves out the zero parts that time.Duration writes: 5m rather than 5m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
