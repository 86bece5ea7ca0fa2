package node

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// written writes a resource and gives its version.
func (r *running) written(method, path, body string) record.Sequence {
	r.t.Helper()
	var got struct{ Meta struct{ VersionID string } }
	status := 200
	if body != "" && strings.Contains(body, `"new"`) {
		status, body = 201, strings.Replace(body, `"new":true,`, "", 1)
	}
	r.do(status, method, path, body, &got)
	n, err := strconv.ParseUint(got.Meta.VersionID, 10, 64)
	if err != nil {
		r.t.Fatalf("%s has version %q", path, got.Meta.VersionID)
	}
	return record.Sequence(n)
}

func (r *running) create(typ, id, rest string) record.Sequence {
	r.t.Helper()
	return r.written("PUT", "/fhir/"+typ+"/"+id, fmt.Sprintf(`{"new":true,"resourceType":%q,"id":%q,%s}`, typ, id, rest))
}

func (r *running) update(typ, id, rest string) record.Sequence {
	r.t.Helper()
	return r.written("PUT", "/fhir/"+typ+"/"+id, fmt.Sprintf(`{"resourceType":%q,"id":%q,%s}`, typ, id, rest))
}

// keptBlocks is a chain of blocks in memory, so that a partition can be matched once more.
type keptBlocks struct {
	mu      sync.Mutex
	blocks  []record.Block
	through chan record.Sequence
}

func (k *keptBlocks) Newest(context.Context, string) (b record.Block, at record.Sequence, found bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.blocks); n > 0 {
		return k.blocks[n-1], record.Sequence(n), true, nil
	}
	return b, 0, false, nil
}

func (k *keptBlocks) Publish(_ context.Context, _ string, b record.Block, _ record.Sequence) (record.Sequence, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blocks = append(k.blocks, b)
	select {
	case k.through <- b.Through:
	default:
	}
	return record.Sequence(len(k.blocks)), nil
}

// matchedAgain evaluates the whole log once more, now that the projection is at its end, and
// lists what each event meets as event:Subscription.
func (r *running) matchedAgain() []string {
	r.t.Helper()
	last := r.store.Position().Events
	var got []string
	for _, partition := range r.table.Names() {
		kept := &keptBlocks{through: make(chan record.Sequence, 1000)}
		runner := &match.Runner{
			Partition: partition, Base: r.table.Base(), Definitions: r.defs, Index: r.subs.index, Log: r.log, Repository: r.others,
			Events: partitionEvents{ring: r.ring, server: r.server, store: r.store, table: r.table},
			Bodies: matchBodies{r.versions}, Blocks: kept, Dead: deadIngest{r.server},
		}
		ctx, cancel := context.WithCancel(r.t.Context())
		done := make(chan error, 1)
		go func() { done <- runner.Run(ctx) }()
		for through := record.Sequence(0); through < last; {
			through = <-kept.through
		}
		cancel()
		if err := <-done; err != nil {
			r.t.Fatal(err)
		}
		for _, b := range kept.blocks {
			for _, m := range b.Matches {
				if m.Event <= last {
					got = append(got, fmt.Sprintf("%d:%s", m.Event, m.Subscription))
				}
			}
		}
	}
	slices.Sort(got)
	return got
}

// Criteria that ask for other resources see them as they were at the event, whenever the event is
// matched: at once, or again when all of them have changed.
func TestChainsSeeOtherResourcesAtTheEvent(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	to := endpoint(t, 200)
	for id, criteria := range map[string]string{
		"chain": "Observation?subject:Patient.gender=male",
		"has":   "Patient?_has:Observation:patient:status=final",
		"list":  "Patient?_list=l",
	} {
		r.do(201, "PUT", "/fhir/Subscription/"+id, subscriptionTo(id, criteria, to), nil)
	}
	var want []string
	meets := func(seq record.Sequence, ids ...string) {
		for _, id := range ids {
			want = append(want, fmt.Sprintf("%d:%s", seq, id))
		}
	}
	male, female := `"gender":"male"`, `"gender":"female"`
	observed := func(status string) string { return `"status":"` + status + `","subject":{"reference":"Patient/p"}` }
	meets(r.create("Observation", "early", observed("preliminary")))
	meets(r.create("Patient", "p", male))
	meets(r.create("Observation", "o", observed("final")), "chain")
	meets(r.update("Patient", "p", male+`,"active":true`), "has")
	meets(r.create("List", "l", `"status":"current","mode":"working","entry":[{"item":{"reference":"Patient/p"}}]`))
	meets(r.update("Patient", "p", female), "has", "list")
	meets(r.update("Observation", "o", observed("amended")))
	meets(r.update("Patient", "p", female+`,"active":true`), "list")
	r.do(204, "DELETE", "/fhir/List/l", "", nil)
	meets(r.update("Patient", "p", male), "")
	want = slices.DeleteFunc(want, func(s string) bool { return strings.HasSuffix(s, ":") })
	meets(r.update("Observation", "early", observed("final")), "chain")
	meets(r.update("Patient", "p", `"active":true`), "has")
	r.do(204, "DELETE", "/fhir/Observation/early", "", nil)
	r.do(204, "DELETE", "/fhir/Observation/o", "", nil)
	r.do(204, "DELETE", "/fhir/Patient/p", "", nil)
	slices.Sort(want)

	r.await("all matches", "/admin/api/v1/status", func(s map[string]any) bool { return s["pending"] == 0.0 && len(r.accepted()) == len(want) })
	if got := r.accepted(); !slices.Equal(got, want) {
		t.Errorf("matched as they came: %v, want %v", got, want)
	}
	if got := r.matchedAgain(); !slices.Equal(got, want) {
		t.Errorf("matched again: %v, want %v", got, want)
	}
	// Explain speaks of the event's place as well.
	for _, w := range want {
		seq, id, _ := strings.Cut(w, ":")
		n, _ := strconv.ParseUint(seq, 10, 64)
		v, _, err := r.store.Before(record.Sequence(n))
		if err != nil {
			t.Fatal(err)
		}
		var x struct{ Matches bool }
		r.do(200, "POST", "/admin/api/v1/explain", fmt.Sprintf(`{"subscription":%q,"resource":"%s@%s"}`, id, v.Key, seq), &x)
		if !x.Matches {
			t.Errorf("%s is explained as no match", w)
		}
	}
}

// accepted lists what was delivered, as event:Subscription.
func (r *running) accepted() []string {
	var as []struct {
		Subscription string
		Event        record.Sequence
		Outcome      string
	}
	r.do(200, "GET", "/admin/api/v1/attempts", "", &as)
	var out []string
	for _, a := range as {
		out = append(out, fmt.Sprintf("%d:%s", a.Event, a.Subscription))
	}
	slices.Sort(out)
	return out
}

// What the projection shows of a place does not depend on what was written after it.
func TestTheProjectionShowsResourcesAsTheyWereAtAPlace(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	key := fhir.Key{Type: "Patient", ID: "p"}
	state := func(at record.Sequence) string {
		t.Helper()
		s, err := r.others.At(t.Context(), at).Read(key)
		if err != nil {
			t.Fatal(err)
		}
		if s.Body == nil {
			return ""
		}
		var p struct{ Gender string }
		if err := json.Unmarshal(s.Body, &p); err != nil {
			t.Fatal(err)
		}
		return p.Gender
	}
	one := r.create("Patient", "p", `"gender":"male"`)
	two := r.update("Patient", "p", `"gender":"female"`)
	r.do(200, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p","gender":"female"}`, nil) // changes nothing
	r.do(204, "DELETE", "/fhir/Patient/p", "", nil)
	gone := r.store.Position().Events
	again := r.create("Patient", "p", `"gender":"other"`)
	check := func() {
		t.Helper()
		for at, want := range map[record.Sequence]string{
			0: "", one - 1: "", one: "male", two - 1: "male", two: "female", gone - 1: "female",
			gone: "", again - 1: "", again: "other", math.MaxUint64: "other",
		} {
			if got := state(at); got != want {
				t.Errorf("at %d it is %q, want %q", at, got, want)
			}
		}
	}
	check()
	for i := range 50 {
		r.update("Patient", "p", fmt.Sprintf(`"gender":"other","multipleBirthInteger":%d`, i))
	}
	check()
}
