package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// writeAnywhere puts Patients at one node after the other until ctx ends. A request that is
// refused or gets no answer is sent again to the next node, with its Idempotency-Key.
func writeAnywhere(ctx context.Context, c *harness.Cluster, acks *acknowledged, prefix string) {
	for i, at := 0, 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%s-%d", prefix, i/3) // each is written three times
		for ctx.Err() == nil {
			n := c.Nodes[at%len(c.Nodes)]
			a, err := n.Do(ctx, "PUT", "/fhir/Patient/"+id, []byte(patient(id, "N"+strconv.Itoa(i))), "Idempotency-Key", fmt.Sprintf("%s/%d", prefix, i))
			at++
			if err == nil && (a.Status == 200 || a.Status == 201) {
				acks.add(a.Header.Get("ETag"), id)
				break
			}
		}
	}
}

// awaitAll waits until each acknowledged write has arrived, and checks the event numbers.
func awaitAll(t *testing.T, e *harness.Endpoint, acks *acknowledged, limit time.Duration) {
	t.Helper()
	t.Logf("%d writes acknowledged", len(acks.versions))
	got := e.Await(t, limit, "every acknowledged write", func(as []harness.Arrival) bool {
		return len(as) >= len(acks.versions) && len(missing(acks, as)) == 0
	})
	checkNumbers(t, got)
}

// Three nodes make one cluster: each takes writes, each answers reads of what another took, and
// a Subscription hears of every write once, whoever took it.
func TestThreeNodesAreOneCluster(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	e := harness.NewEndpoint(t)
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))
	for i := range 30 {
		id := "p" + strconv.Itoa(i)
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/Patient/"+id, patient(id, "N"))
	}
	got := e.AwaitCount(t, 30*time.Second, 30)
	checkNumbers(t, got)
	seen := map[string]int{}
	for _, a := range got {
		seen[arrivalVersion(t, a)]++
	}
	if len(seen) != 30 || len(got) != 30 {
		t.Errorf("%d notifications of %d writes arrived, want 30 of 30", len(got), len(seen))
	}
	for i := range 30 {
		id := "p" + strconv.Itoa(i)
		c.Nodes[(i+1)%3].MustDo(200, "GET", "/fhir/Patient/"+id, "")
	}
}

// Nodes of a cluster are killed one at a time and all together while writers go on at the
// others; then each acknowledged write has arrived and the numbers have no gap.
//
// E2E_CRASHES sets the number of kills of one node (2 by default), E2E_SEED repeats a run.
func TestInvariant01KillsOfOneNodeAndOfAllLoseNothingThatWasAcknowledged(t *testing.T) {
	kills := envInt("E2E_CRASHES", 2)
	seed := uint64(envInt("E2E_SEED", int(time.Now().UnixNano()%1e9)))
	t.Logf("E2E_SEED=%d, %d kills", seed, kills)
	rnd := rand.New(rand.NewPCG(seed, 2))
	c := harness.NewCluster(t, 3).Start(t)
	e := harness.NewEndpoint(t)
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))

	acks := &acknowledged{versions: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() { writeAnywhere(ctx, c, acks, fmt.Sprintf("w%d", w)) })
	}
	for range kills {
		time.Sleep(time.Duration(500+rnd.IntN(1500)) * time.Millisecond) // the random moment itself
		n := c.Nodes[rnd.IntN(3)]
		n.Kill()
		time.Sleep(time.Duration(rnd.IntN(8000)) * time.Millisecond) // how long it is away
		n.Start()
	}
	time.Sleep(time.Duration(500+rnd.IntN(500)) * time.Millisecond)
	c.Kill()
	stop()
	writers.Wait()
	c.Start(t)
	awaitAll(t, e, acks, 2*time.Minute)
}

// A node whose projection is damaged makes another from the logs, one whose data folder is lost is
// started empty under its name and catches up from the others: then another node may go, and
// nothing is missing.
func TestALostDataFolderAndADamagedProjectionHealWithoutHandWork(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	e := harness.NewEndpoint(t)
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))
	for i := range 50 {
		id := "p" + strconv.Itoa(i)
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/Patient/"+id, patient(id, "N"))
	}
	hurt := c.Nodes[2]
	if code := hurt.Stop(); code != 0 {
		t.Fatalf("stop: exit code %d", code)
	}
	damage(t, filepath.Join(hurt.Dir, "projection"))
	hurt.Start()
	for i := range 50 {
		hurt.MustDo(200, "GET", "/fhir/Patient/p"+strconv.Itoa(i), "")
	}

	lost := c.Nodes[1]
	lost.Kill()
	if err := os.RemoveAll(lost.Dir); err != nil {
		t.Fatal(err)
	}
	lost.Start()
	for i := range 50 {
		lost.MustDo(200, "GET", "/fhir/Patient/p"+strconv.Itoa(i), "")
	}
	// What it has is its own: with another node gone it makes up the majority.
	c.Nodes[0].Kill()
	lost.AwaitReady(30 * time.Second)
	for i := range 10 {
		id := "q" + strconv.Itoa(i)
		lost.MustDo(201, "PUT", "/fhir/Patient/"+id, patient(id, "N"))
	}
	e.Await(t, time.Minute, "all 60", func(as []harness.Arrival) bool {
		seen := map[string]bool{}
		for _, a := range as {
			seen[arrivalVersion(t, a)] = true
		}
		return len(seen) == 60
	})
}

// With two of three nodes gone for longer than the engine waits for them, the one that is left
// acknowledges nothing; one that comes back makes up the majority, whether or not the third does.
func TestOneOfTwoLostNodesThatComesBackIsEnough(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	e := harness.NewEndpoint(t)
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))
	c.Nodes[0].Kill()
	c.Nodes[2].Kill()
	time.Sleep(15 * time.Second) // the engine's own limit is ten: then it holds the group for stalled
	left := c.Nodes[1]
	if a := left.MustDo(503, "PUT", "/fhir/Patient/a", patient("a", "N")); a.Header.Get("Retry-After") == "" {
		t.Error("a write without a majority is refused without Retry-After")
	}
	c.Nodes[0].Start()
	left.AwaitReady(30 * time.Second)
	left.MustDo(201, "PUT", "/fhir/Patient/a", patient("a", "N"))
	// The lane may move to the node that came back. The one that was left could not release it
	// while there was no majority, so it is waited for (20 s), and then for what it may have had
	// in flight (15 s).
	e.AwaitCount(t, time.Minute, 1)
}

// The logs of a single node are no logs of a cluster, though both have the same names.
func TestADataFolderOfASingleNodeIsRefusedByAClusterAndTheOtherWayRound(t *testing.T) {
	single := harness.NewNode(t).Start()
	single.Stop()
	c := harness.NewCluster(t, 3)
	member := c.Nodes[0]
	member.Dir = single.Dir
	var refused *harness.Refused
	if err := member.TryStart(); !errors.As(err, &refused) || refused.Code != 2 || !strings.Contains(refused.Error(), "single node") {
		t.Errorf("a cluster took the folder of a single node: %v", err)
	}
	c = harness.NewCluster(t, 3).Start(t)
	c.Nodes[0].Stop()
	alone := harness.NewNode(t)
	alone.Dir = c.Nodes[0].Dir
	if err := alone.TryStart(); !errors.As(err, &refused) || refused.Code != 2 || !strings.Contains(refused.Error(), "--config") {
		t.Errorf("a single node took the folder of a cluster: %v", err)
	}
}

// Nodes are stopped and started one after the other while writers go on: no write that was
// tried at a second node is refused, and none is lost.
func TestARollingRestartRefusesNoWriteTwice(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	e := harness.NewEndpoint(t)
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))
	acks := &acknowledged{versions: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	var mu sync.Mutex
	var longest time.Duration
	for w := range 4 {
		writers.Go(func() {
			for i, at := 0, w; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("w%d-%d", w, i)
				refused := 0
				began := time.Now()
				for ctx.Err() == nil {
					a, err := c.Nodes[at%3].Do(ctx, "PUT", "/fhir/Patient/"+id, []byte(patient(id, "N")), "Idempotency-Key", id)
					if err == nil && a.Status == 201 {
						acks.add(a.Header.Get("ETag"), id)
						mu.Lock()
						longest = max(longest, time.Since(began))
						mu.Unlock()
						break
					}
					if ctx.Err() != nil {
						return
					}
					at++
					if refused++; refused > 1 {
						t.Errorf("write %s was refused by a second node: %v %d %s", id, err, a.Status, a.Body)
						return
					}
				}
			}
		})
	}
	for _, n := range c.Nodes {
		if code := n.Stop(); code != 0 {
			t.Errorf("a node that was told to stop ended with %d", code)
		}
		n.Start()
	}
	stop()
	writers.Wait()
	t.Logf("longest write %s", longest)
	awaitAll(t, e, acks, time.Minute)
}
