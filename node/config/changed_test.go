package config

import (
	"slices"
	"strings"
	"testing"
)

func TestChangedNamesEveryKeyThatDiffersAndNoValue(t *testing.T) {
	a, b := Default(), Default()
	if got := Changed(a, b); got != nil {
		t.Errorf("nothing changed, and %q is named", got)
	}
	b.Observability.Log.Level = "debug"
	b.Delivery.Egress.Allow = []string{"10.0.0.0/8"}
	b.Nodes = map[string]Node{"n1": {}}
	b.Security.NATS.Users = []NATSUser{{Name: "lab", Password: "s3cret"}}
	want := []string{"delivery.egress.allow", "observability.log.level", "nodes", "security.nats.users"}
	if got := Changed(a, b); !slices.Equal(got, want) {
		t.Errorf("changed are %q, want %q", got, want)
	}
	if got := Changed(b, a); strings.Contains(strings.Join(got, " "), "s3cret") {
		t.Error("a password is named")
	}
}

func TestWhatNodesShareLeavesOutWhatEachHasForItself(t *testing.T) {
	a, b := Default(), Default()
	b.Node = Node{Data: "/x", HTTP: "10.0.0.2:8080"}
	b.Cluster.TLS.Cert, b.Security.TLS.Key, b.Observability.Log.Level = "n2.pem", "n2-key.pem", "debug"
	one, two := a.Shared(), b.Shared()
	for key := range one {
		if one[key] != two[key] {
			t.Errorf("%s is taken for one that all share", key)
		}
	}
	b.Delivery.Retry.Attempts = 5
	b.Security.NATS.Users = []NATSUser{{Name: "lab", Password: "s3cret"}}
	two = b.Shared()
	for _, key := range []string{"delivery.retry.attempts", "security.nats.users"} {
		if one[key] == two[key] {
			t.Errorf("%s differs and is not told", key)
		}
	}
}
