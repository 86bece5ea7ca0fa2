package stream

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

func TestASingleNodeIsItsOnlyMember(t *testing.T) {
	s := start(t)
	m, err := s.Join(t.Context(), "n1", []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	v := m.View()
	if !m.Held() || len(v) != 1 || v[0].Name != "n1" || string(v[0].Data) != "data" {
		t.Errorf("held %v, view %v", m.Held(), v)
	}
	if _, err := s.Join(t.Context(), "n.1", nil); err == nil {
		t.Error("joined under a name that is no key")
	}
}

// key is what a look at the bucket gives.
func key(t *testing.T, name, life string, count uint64) *nats.Msg {
	t.Helper()
	data, err := json.Marshal(memberKey{Life: life, Count: count})
	if err != nil {
		t.Fatal(err)
	}
	return &nats.Msg{Header: nats.Header{"Nats-Subject": {memberPrefix + name}}, Data: data}
}

func gone(name string) *nats.Msg {
	return &nats.Msg{Header: nats.Header{"Nats-Subject": {memberPrefix + name}, "KV-Operation": {"DEL"}}}
}

func TestOnlyANewKeyIsASignOfLife(t *testing.T) {
	tests := []struct {
		name string
		then []*nats.Msg // seen four seconds after the key of life a, count 5
		view string      // two seconds later
	}{
		{"nothing", nil, ""},
		{"the same key", []*nats.Msg{key(t, "n2", "a", 5)}, ""},
		{"an older one, from a copy that is behind", []*nats.Msg{key(t, "n2", "a", 4)}, ""},
		{"a newer one", []*nats.Msg{key(t, "n2", "a", 6)}, "n2"},
		{"one of a process that was started anew", []*nats.Msg{key(t, "n2", "b", 1)}, "n2"},
		{"a newer one, then given back", []*nats.Msg{key(t, "n2", "a", 6), gone("n2")}, ""},
		{"given back, then again from a copy that is behind", []*nats.Msg{gone("n2"), key(t, "n2", "a", 6)}, ""},
		{"given back, then started anew", []*nats.Msg{gone("n2"), key(t, "n2", "b", 1)}, "n2"},
		{"its own", []*nats.Msg{key(t, "n1", "x", 1)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &Members{name: "n1", others: map[string]*sighting{}, changed: make(chan struct{})}
				m.see(key(t, "n2", "a", 5))
				if viewOf(m) != "n2" {
					t.Errorf("at first: %q", viewOf(m))
				}
				time.Sleep(4 * time.Second)
				for _, k := range tt.then {
					m.see(k)
				}
				time.Sleep(2 * time.Second)
				if viewOf(m) != tt.view {
					t.Errorf("view %q, want %q", viewOf(m), tt.view)
				}
			})
		})
	}
}

func TestALeaseEndsFiveSecondsAfterItWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Members{name: "n1", others: map[string]*sighting{}, changed: make(chan struct{})}
		m.until = time.Now().Add(lease)
		m.tell()
		changed := m.Changed()
		time.Sleep(lease - time.Millisecond)
		if !m.Held() || viewOf(m) != "n1" {
			t.Error("lost too early")
		}
		time.Sleep(time.Millisecond)
		if m.Held() || viewOf(m) != "" {
			t.Error("held too long")
		}
		m.tell()
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
	})
}

func TestALogThatEndsTooEarlyIsAnothersOnlyAfterAWhile(t *testing.T) {
	alone := &follower{s: &Server{}}
	if !alone.tooShort(time.Now()) {
		t.Error("a single node has no other leader that might know more")
	}
	f := &follower{s: &Server{cfg: Config{Route: "127.0.0.1:6222"}}}
	now := time.Now()
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {followGap - time.Millisecond, false}, {followGap, true}} {
		if got := f.tooShort(now.Add(tt.after)); got != tt.want {
			t.Errorf("after %s: %v", tt.after, got)
		}
	}
}

func TestClustersThatCannotRunAreRefused(t *testing.T) {
	three := []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}
	far := []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"}
	tests := []struct {
		name, says string
		change     func(*Config)
	}{
		{"two copies", "2 replicas", func(c *Config) { c.Replicas = 2 }},
		{"five copies", "5 replicas", func(c *Config) { c.Replicas = 5 }},
		{"no name", "needs a name", func(c *Config) { c.Cluster = "" }},
		{"no listener", "address for NATS clients", func(c *Config) { c.Listen = "" }},
		{"no route of its own", "address of this node's own", func(c *Config) { c.Route = "" }},
		{"another's route", "not among the routes", func(c *Config) { c.Route = "127.0.0.1:9" }},
		{"too few nodes", "a node for each copy", func(c *Config) { c.Routes = three[:2] }},
		{"no port", "not a port", func(c *Config) { c.Routes = append([]string{"127.0.0.1:x"}, three...) }},
		{"no certificates", "cluster init", func(c *Config) { c.Route, c.Routes = far[0], far }},
		{"certificates that are not there", "cluster.tls.ca", func(c *Config) { c.TLS = &RouteTLS{CA: "none", Cert: "none", Key: "none"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Name: "n1", Cluster: "c", Dir: "d", Listen: "127.0.0.1:0", Route: three[0], Routes: three, Replicas: 3}
			tt.change(&c)
			if _, err := c.complete(); err == nil {
				t.Error("it was taken")
			} else {
				isSaid(t, err, tt.says)
			}
		})
	}
	alone, err := Config{Name: "n1", Dir: "d", Route: three[0], Routes: three[:1]}.complete()
	if err != nil || alone.clustered() {
		t.Errorf("a cluster of one is %+v, %v", alone, err)
	}
}

func TestACancelledStartSaysWhatItWaitedFor(t *testing.T) {
	cfgs := clusterConfigs(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s, err := Start(ctx, cfgs[0])
	if err == nil {
		s.Close(t.Context())
		t.Fatal("one of three nodes started")
	}
	if !errors.Is(err, ctx.Err()) {
		t.Errorf("error is %v", err)
	}
	isSaid(t, err, "quorum")
}

// When the leader of the bucket is lost all leases lapse at once. Whoever renews first must not take
// itself for the only member before the others can have renewed too.
func TestANodeWhoseLeaseHadLapsedCountsItselfOnlyWhenTheOthersCanHaveShownThemselves(t *testing.T) {
	now := time.Now()
	m := &Members{name: "n1", others: map[string]*sighting{}, changed: make(chan struct{}), until: now.Add(lease), settled: now.Add(settle)}
	if got := m.viewLocked(now); len(got) != 0 {
		t.Errorf("right after a lapse the view is %v, want nobody", got)
	}
	m.others["n2"] = &sighting{seen: now.Add(renewEvery)}
	if got := m.viewLocked(now.Add(settle)); len(got) != 2 || got[0].Name != "n1" || got[1].Name != "n2" {
		t.Errorf("when the others had time to show themselves the view is %v, want n1 and n2", got)
	}
}
