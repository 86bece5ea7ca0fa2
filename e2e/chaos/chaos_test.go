package chaos

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Clean()
	os.Exit(code)
}

// The short part, for every change: one kill, one partition and one restart of all, in the
// same order each time.
func TestShort(t *testing.T) {
	if testing.Short() {
		t.Skip("starts nodes and breaks them")
	}
	o := options(t)
	o.Seed, o.Writers, o.Pace = 1, 4, 20*time.Millisecond
	partition := "cut-off-endpoints"
	if o.Nodes >= 3 {
		partition = "isolate"
	}
	o.Steps = []Step{
		{Fault: "kill-one", Node: 0, Hold: 300 * time.Millisecond, Rest: time.Second},
		{Fault: partition, Node: o.Nodes - 1, Hold: 3 * time.Second, Rest: time.Second},
		{Fault: "kill-all", Hold: 200 * time.Millisecond, Rest: time.Second},
	}
	holds(t, o, 100)
}

// TestChaos draws faults for E2E_FOR, ten minutes unless said: make chaos and make soak.
func TestChaos(t *testing.T) {
	if os.Getenv("E2E_CHAOS") == "" {
		t.Skip("runs with make chaos and make soak")
	}
	o := options(t)
	o.For = duration(t, "E2E_FOR", 10*time.Minute)
	if v := os.Getenv("E2E_FAULTS"); v != "" {
		o.Only = strings.Split(v, ",")
		for _, name := range o.Only {
			if _, ok := faultNamed(name); !ok {
				t.Fatalf("E2E_FAULTS: there is no fault %q; there are %s", name, strings.Join(FaultNames(), ", "))
			}
		}
	}
	holds(t, o, int(o.For/time.Second))
}

// TestHistory checks a history again that an earlier run left: E2E_HISTORY names the file.
func TestHistory(t *testing.T) {
	path := os.Getenv("E2E_HISTORY")
	if path == "" {
		t.Skip("E2E_HISTORY names no file")
	}
	records, err := LoadHistory(path)
	if err != nil {
		t.Fatal(err)
	}
	told(t, Check(records, subscriptions()), 0)
}

// holds makes a run and demands that every promise was kept, and that at least so many writes
// were acknowledged.
func holds(t *testing.T, o Options, least int) {
	t.Helper()
	if o.Binary == "" {
		o.Binary = harness.Binary(t)
	}
	o.Log("E2E_SEED=%d, %d nodes", o.Seed, o.Nodes)
	report, err := Run(t.Context(), o)
	told(t, report, least)
	if err != nil && len(report.Violations) == 0 { // the machine could not be made
		t.Error(err)
	}
}

func told(t *testing.T, report Report, least int) {
	t.Helper()
	t.Logf("\n%s", report)
	if path := os.Getenv("E2E_REPORT"); path != "" {
		if err := os.WriteFile(path, report.JSON(), 0o600); err != nil {
			t.Error(err)
		}
	}
	for _, v := range report.Violations {
		t.Error(v)
	}
	if n := report.Counts.Acknowledged; n < least {
		t.Errorf("only %d writes were acknowledged: the run shows nothing", n)
	}
}

// defaultNodes is the size of the cluster that is broken where E2E_NODES does not say.
const defaultNodes = 3

// options are those that the environment sets for every run.
func options(t *testing.T) Options {
	o := Options{
		Nodes: number(t, "E2E_NODES", defaultNodes), Seed: uint64(number(t, "E2E_SEED", int(time.Now().UnixNano()%1e9))),
		Writers: number(t, "E2E_WRITERS", 6), Pace: duration(t, "E2E_PACE", 40*time.Millisecond),
		Patience: 45 * time.Second, Disk: int64(number(t, "E2E_DISK_MB", 2048)) << 20,
		Binary: os.Getenv("E2E_BINARY"), Keep: os.Getenv("E2E_KEEP"), Log: t.Logf,
	}
	if o.Nodes != 1 && o.Nodes != 3 && o.Nodes != 5 {
		t.Fatalf("E2E_NODES is %d; it is 1, 3 or 5", o.Nodes)
	}
	return o
}

func number(t *testing.T, name string, otherwise int) int {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func duration(t *testing.T, name string, otherwise time.Duration) time.Duration {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}
