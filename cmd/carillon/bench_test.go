package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func runBench(t *testing.T, fake *fakeServer, flags ...string) (int, benchResult, string) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	args := append([]string{"bench", "--server", fake.url(), "--events", "200", "--writers", "4", "--rate", "200", "--paced", "500ms", "--quiet", "-o", "json"}, flags...)
	code, stdout, stderr := carillon(t, "", args...)
	var r benchResult
	if stdout != "" {
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
	}
	return code, r, stderr
}

func TestBenchMeasuresAndCleansUp(t *testing.T) {
	fake := newFakeServer()
	defer fake.close()
	svg := filepath.Join(t.TempDir(), "x.svg")
	code, r, stderr := runBench(t, fake, "--subscriptions", "3", "--svg", svg)
	if code != 0 {
		t.Fatal(stderr)
	}
	if r.Acknowledged != 300 || r.Lost != 0 || r.Duplicates != 0 || r.Failed != 0 {
		t.Errorf("%+v", r)
	}
	if r.PlainRate <= 0 || r.Throughput <= 0 || r.Memory != 100 || r.CPU != 2.5 || r.Write.P99 <= 0 {
		t.Errorf("%+v", r)
	}
	if r.Fsync != nil || r.Baseline != nil {
		t.Error("figures of what was not measured")
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	for key := range fake.resources {
		if strings.HasPrefix(key, "Subscription/") {
			t.Errorf("%s was left behind", key)
		}
	}
	f, err := os.Open(svg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is not well formed: %v", err)
		}
	}
}

func TestAwaitCountsWhatIsLostAndTheSinkWhatIsRepeated(t *testing.T) {
	now := time.Now()
	s := &sink{arrived: map[string]time.Time{}, seen: map[string]bool{}}
	s.record(now, "a", "w1", 0)
	s.record(now, "a", "w1", 0) // the same notification again
	s.record(now, "b", "w2", 0)
	if s.duplicates() != 1 {
		t.Errorf("%d repeats", s.duplicates())
	}
	b := &benchmark{sink: s}
	w := &writes{byID: map[string]written{"a": {}, "b": {}, "c": {}}, failed: 2}
	if err := b.await(t.Context(), w, 0); err != nil {
		t.Fatal(err)
	}
	if b.result.Acknowledged != 3 || b.result.Lost != 1 || b.result.Failed != 2 {
		t.Errorf("%+v", b.result)
	}
}

func TestBenchComparesSlowEndpointsWithQuickOnes(t *testing.T) {
	s := &sink{arrived: map[string]time.Time{}, seen: map[string]bool{}}
	if s.isSlow(1) || s.record(time.Now(), "a", "", 1) != 0 {
		t.Error("slow before it was told to be")
	}
	s.slowDown(2, time.Second)
	for subscription, want := range map[int]time.Duration{0: 0, 1: time.Second, 2: time.Second, 3: 0} {
		if got := s.record(time.Now(), "b", "", subscription); got != want || s.isSlow(subscription) != (want > 0) {
			t.Errorf("Subscription %d answers after %v", subscription, got)
		}
	}
}

func TestPercentiles(t *testing.T) {
	times := make([]float64, 0, 100)
	for i := 100; i >= 1; i-- {
		times = append(times, float64(i))
	}
	if got := percentilesOf(times); got != (percentiles{50, 90, 99, 100}) {
		t.Errorf("%+v", got)
	}
	if got := percentilesOf([]float64{7}); got != (percentiles{7, 7, 7, 7}) {
		t.Errorf("%+v", got)
	}
	if slices.IsSorted(times) {
		t.Error("the times were sorted in place")
	}
	if got := percentilesOf(nil); got != (percentiles{}) {
		t.Errorf("%+v", got)
	}
}
