package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// clusterState is as much of carillon cluster status -o json as the tests look at.
type clusterState struct {
	Leader   string
	Quorum   bool
	Warnings []string
	Nodes    []struct {
		Name              string
		Error             string
		Leased, Draining  bool
		Ready             bool
		Partitions, Lanes []string
		ClockSkewSeconds  float64
	}
	Partitions, Lanes []struct{ Name string }
	Streams           []struct {
		Name, Leader string
		Replicas     []struct{ Node string }
	}
}

func stateBy(t *testing.T, n *harness.Node) (c clusterState) {
	t.Helper()
	out, errs, code := n.CLI("cluster", "status", "-o", "json")
	if code != 0 {
		t.Fatalf("cluster status: code %d, %s", code, errs)
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return c
}

// awaitState asks until the cluster is as it should be.
func awaitState(t *testing.T, n *harness.Node, what string, ok func(clusterState) bool) clusterState {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		c := stateBy(t, n)
		if ok(c) {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come: %+v", what, c)
		}
		time.Sleep(100 * time.Millisecond) // polls what tells nobody
	}
}

// allRun reports whether every partition and lane is run by one node.
func allRun(c clusterState) bool {
	runs := map[string]int{}
	for _, n := range c.Nodes {
		for _, name := range append(n.Partitions, n.Lanes...) {
			runs[name]++
		}
	}
	for _, times := range runs {
		if times > 1 {
			return false
		}
	}
	return len(runs) == len(c.Partitions)+len(c.Lanes)
}

// A cluster is administered from any node: it is seen whole, a node gives up its work and takes it
// up again, and what the nodes made of the logs is compared while writers go on.
func TestAClusterIsAdministeredFromAnyNode(t *testing.T) {
	c := harness.NewCluster(t, 3)
	for _, n := range c.Nodes { // without a key the status warns of secrets in clear
		n.Env = append(n.Env, "CARILLON_SECURITY_SECRETS_KEY="+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	}
	c.Start(t)
	e := harness.NewEndpoint(t)
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	n1.MustDo(201, "PUT", "/fhir/Subscription/all", subscription("all", "Patient?", e.URL))

	awaitState(t, n1, "a cluster in which all nodes work", func(s clusterState) bool {
		working := 0
		for _, n := range s.Nodes {
			if n.Leased && n.Ready && len(n.Lanes) > 0 {
				working++
			}
		}
		return working == 3 && allRun(s) && s.Quorum && s.Leader != "" && len(s.Warnings) == 0
	})
	acks := &acknowledged{versions: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		writers.Go(func() { writeAnywhere(ctx, c, acks, name) })
	}

	// Compared under load, asked of each node.
	for _, n := range c.Nodes {
		if out, errs, code := n.CLI("cluster", "verify"); code != 0 {
			t.Errorf("verify: code %d\n%s%s", code, out, errs)
		}
	}

	// Drained from another node than the one that is meant.
	if out, errs, code := n1.CLI("cluster", "drain", "n2"); code != 0 {
		t.Fatalf("drain: code %d\n%s%s", code, out, errs)
	}
	drained := awaitState(t, n3, "others that have taken over", allRun)
	for _, n := range drained.Nodes {
		if n.Draining != (n.Name == "n2") || n.Draining && len(n.Partitions)+len(n.Lanes) > 0 || !n.Ready || !n.Leased {
			t.Errorf("while n2 drains: %+v", n)
		}
	}
	if !strings.Contains(strings.Join(drained.Warnings, "\n"), "carillon cluster drain n2 --undo") {
		t.Errorf("the warnings do not tell that n2 drains: %q", drained.Warnings)
	}
	n2.MustDo(201, "PUT", "/fhir/Patient/by-n2", patient("by-n2", "N"))
	if _, errs, code := n1.CLI("cluster", "drain", "n9"); code != 3 {
		t.Errorf("drain of a node that is not there: code %d, %s", code, errs)
	}
	if _, errs, code := n2.CLI("cluster", "drain", "n2", "--undo"); code != 0 {
		t.Errorf("undo: code %d, %s", code, errs)
	}
	awaitState(t, n1, "n2 at work again", func(s clusterState) bool {
		return allRun(s) && len(s.Nodes[1].Lanes) > 0 && !s.Nodes[1].Draining
	})

	stop()
	writers.Wait()
	n2.MustDo(200, "GET", "/fhir/Patient/by-n2", "")

	// One that is away is told of by name.
	n3.Kill()
	away := awaitState(t, n1, "n3 missing", func(s clusterState) bool { return !s.Nodes[2].Leased })
	if n := away.Nodes[2]; n.Name != "n3" || n.Error == "" || !strings.Contains(strings.Join(away.Warnings, "\n"), "--node n3") {
		t.Errorf("n3 is %+v, warnings %q", n, away.Warnings)
	}
	if out, errs, code := n1.CLI("cluster", "verify"); code != 1 || !strings.Contains(errs, "node n3 was not compared") || !strings.Contains(out, "n1 ") {
		t.Errorf("verify without n3: code %d\n%s%s", code, out, errs)
	}
	if out, _, code := n1.CLI("cluster", "members", "-o", "csv"); code != 0 || len(strings.Split(strings.TrimSpace(out), "\n")) != 4 {
		t.Errorf("members: code %d\n%s", code, out)
	}
	n3.Start()
	if out, errs, code := n3.CLI("cluster", "verify"); code != 0 {
		t.Errorf("verify after n3 came back: code %d\n%s%s", code, out, errs)
	}
}

// The configuration file is read again by command and by signal: what can be is in force, the rest
// is named, and a mistake changes nothing.
func TestTheConfigurationIsReadAgain(t *testing.T) {
	c := harness.NewCluster(t, 1)
	n := c.Nodes[0].Start()
	text, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	write := func(more string) {
		t.Helper()
		if err := os.WriteFile(c.File, append([]byte(more), text...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("observability: {log: {level: debug}}\nlimits: {bundle_entries: 5}\n")
	out, errs, code := n.CLI("config", "reload", "-o", "json")
	if code != 0 || !strings.Contains(out, `"observability.log.level"`) || !strings.Contains(errs, "limits.bundle_entries: in force when node n1 is started again") {
		t.Errorf("reload: code %d\n%s%s", code, out, errs)
	}
	write("observability: {log: {level: loud}}\n")
	if _, errs, code := n.CLI("config", "reload"); code != 2 || !strings.Contains(errs, "cluster.yaml:1: observability.log.level") {
		t.Errorf("a wrong file: code %d, %s", code, errs)
	}
	if out, _, _ := n.CLI("config", "show", "--running"); !strings.Contains(out, "level: debug") || strings.Contains(out, "bundle_entries: 5") {
		t.Errorf("in force is\n%s", out)
	}
	write("observability: {log: {level: warn}}\n")
	if err := syscall.Kill(n.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) { // polls what tells nobody
		if out, _, _ := n.CLI("config", "show", "--running"); strings.Contains(out, "level: warn") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("SIGHUP changes nothing")
		}
	}
}
