package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// acknowledged is what writers were told is safe: for each resource the versions in order.
type acknowledged struct {
	mu       sync.Mutex
	versions map[string]bool // Type/id/version
}

func (a *acknowledged) add(etag, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.versions["Patient/"+id+"/"+version(etag)] = true
}

func version(etag string) string {
	if len(etag) < 4 {
		return ""
	}
	return etag[3 : len(etag)-1] // W/"n"
}

// Writers run at full speed, the node is killed with SIGKILL at random moments and started
// again. At the end every acknowledged write has reached the endpoint at least once, and the
// event numbers have no gap. Requests that got no answer may or may not have been accepted.
//
// E2E_CRASHES sets the number of kills (3 by default; make chaos runs 20), and
// E2E_SEED repeats a run's moments.
func TestInvariant01KillNineLosesNothingThatWasAcknowledged(t *testing.T) {
	kills := envInt("E2E_CRASHES", 3)
	seed := uint64(envInt("E2E_SEED", int(time.Now().UnixNano()%1e9)))
	t.Logf("E2E_SEED=%d, %d kills", seed, kills)
	rnd := rand.New(rand.NewPCG(seed, 1))

	n := harness.NewNode(t).Start()
	e := harness.NewEndpoint(t)
	n.MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))

	acks := &acknowledged{versions: map[string]bool{}}
	for kill := range kills {
		ctx, stop := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() { write(ctx, n, acks, fmt.Sprintf("w%d-%d", kill, w)) })
		}
		time.Sleep(time.Duration(200+rnd.IntN(1500)) * time.Millisecond) // the random moment itself, not a wait for anything
		n.Kill()
		stop()
		writers.Wait()
		n.Start()
	}
	t.Logf("%d writes acknowledged", len(acks.versions))
	if len(acks.versions) < 10*kills {
		t.Fatalf("only %d writes were acknowledged: the test shows nothing", len(acks.versions))
	}

	got := e.Await(t, 2*time.Minute, "every acknowledged write", func(as []harness.Arrival) bool {
		return len(as) >= len(acks.versions) && len(missing(acks, as)) == 0
	})
	checkNumbers(t, got)
}

// checkNumbers holds the arrivals of one Subscription to its event numbers: none is missing,
// and none stands for two events, however often the node was ended in between.
func checkNumbers(t *testing.T, got []harness.Arrival) {
	t.Helper()
	highest, numbers := uint64(0), map[uint64]string{}
	for _, a := range got {
		key := arrivalVersion(t, a)
		if before, ok := numbers[a.Number]; ok && before != key {
			t.Errorf("event number %d stands for %s and for %s", a.Number, before, key)
		}
		numbers[a.Number] = key
		highest = max(highest, a.Number)
	}
	for i := uint64(1); i <= highest; i++ {
		if _, ok := numbers[i]; !ok {
			t.Errorf("event number %d never arrived, the highest is %d", i, highest)
		}
	}
	t.Logf("%d arrivals of %d events, %d duplicates", len(got), len(numbers), len(got)-len(numbers))
}

// write puts new and changed Patients as fast as the node answers, until ctx ends or the node
// is gone.
func write(ctx context.Context, n *harness.Node, acks *acknowledged, prefix string) {
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%s-%d", prefix, i/3) // each is written three times
		a, err := n.Do(ctx, "PUT", "/fhir/Patient/"+id, []byte(patient(id, "N"+strconv.Itoa(i))))
		if err != nil {
			return
		}
		if a.Status == 200 || a.Status == 201 {
			acks.add(a.Header.Get("ETag"), id)
		}
	}
}

func missing(acks *acknowledged, as []harness.Arrival) []string {
	seen := map[string]bool{}
	for _, a := range as {
		seen[arrivalVersion(nil, a)] = true
	}
	var out []string
	for v := range acks.versions {
		if !seen[v] {
			out = append(out, v)
		}
	}
	return out
}

func arrivalVersion(t *testing.T, a harness.Arrival) string {
	var r struct {
		ID   string `json:"id"`
		Meta struct {
			VersionID string `json:"versionId"`
		} `json:"meta"`
	}
	if err := json.Unmarshal(a.Body, &r); err != nil && t != nil {
		t.Errorf("event %d: body is no JSON: %v", a.Number, err)
	}
	return "Patient/" + r.ID + "/" + r.Meta.VersionID
}

func envInt(name string, def int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return def
}
