package api

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
)

func (f *fake) Cluster(context.Context) (Cluster, error) {
	return Cluster{Status: Status{Node: "n1"}, Leader: "n1", Quorum: true, Nodes: []ClusterNode{{Name: "n1"}}, Streams: []ClusterStream{{Name: "EVENTS"}}}, nil
}

func (f *fake) Drain(_ context.Context, o DrainOrder, by string) (ClusterNode, error) {
	if o.Node == "n9" {
		return ClusterNode{}, fhir.Refuse(fhir.IssueNotFound, "", "there is no node n9")
	}
	return ClusterNode{Name: o.Node, Draining: !o.Undo}, nil
}

func (f *fake) Verify(context.Context, string) (Verification, error) {
	return Verification{Nodes: []VerifiedNode{{Name: "n1"}}}, nil
}

func (f *fake) Reload(context.Context, string) (Reloaded, error) { return Reloaded{Node: "n1"}, nil }

func TestTheClusterHasTheFieldsOfItsNodeAndNoNulls(t *testing.T) {
	s := open(t)
	text := s.must(200, "GET", admin+"/cluster", "").Body.String()
	if strings.Contains(text, "null") {
		t.Errorf("a list is null in %s", text)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"cluster", "node", "ready", "warnings", "logs", "partitions", "subscriptions", "leader", "quorum", "nodes", "streams", "lanes", "problems"} {
		if _, there := got[key]; !there {
			t.Errorf("%s is missing in %s", key, text)
		}
	}
	for _, path := range []string{"/cluster/verify", "/config/reload"} {
		if w := s.must(200, "POST", admin+path, ""); strings.Contains(w.Body.String(), "null") {
			t.Errorf("a list is null in %s", w.Body)
		}
	}
}

func TestDrainWantsANodeThatThereIs(t *testing.T) {
	s := open(t)
	if w := s.must(200, "POST", admin+"/cluster/drain", `{"node":"n2","undo":true}`); !strings.Contains(w.Body.String(), `"draining":false`) {
		t.Errorf("undone is %s", w.Body)
	}
	s.must(404, "POST", admin+"/cluster/drain", `{"node":"n9"}`)
	for _, bad := range []string{`{}`, `{"nod":"n1"}`, `[]`, ``} {
		s.must(400, "POST", admin+"/cluster/drain", bad)
	}
}

func TestAProblemIsOneLineWithWhatHelps(t *testing.T) {
	for want, p := range map[string]Problem{
		"n2: the disk is full; try: df -h": {Node: "n2", Text: "the disk is full", Command: "df -h"},
		"no leader":                        {Text: "no leader"},
	} {
		if p.String() != want {
			t.Errorf("%q, want %q", p, want)
		}
	}
}
