package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-fhir/carillon/store"
)

// compared is what a node has, written "resource=a dead=b".
func compared(text string) compareState {
	s := compareState{At: store.Vector{Events: 9}, Done: true, Buckets: map[string]string{}}
	for field := range strings.FieldsSeq(text) {
		name, sum, _ := strings.Cut(field, "=")
		s.Buckets[name] = sum
	}
	return s
}

func TestWhatMostNodesHaveIsRight(t *testing.T) {
	for _, c := range []struct {
		name   string
		states map[string]string
		purged bool
		equal  bool
		want   string // node: buckets that differ
	}{
		{name: "all the same", states: map[string]string{"n1": "resource=a dead=x", "n2": "resource=a dead=x", "n3": "resource=a dead=x"}, equal: true},
		{name: "one of three", states: map[string]string{"n1": "resource=a match=m", "n2": "resource=b match=m", "n3": "resource=a match=m"}, want: "n2: [resource]"},
		{name: "each of three", states: map[string]string{"n1": "resource=a", "n2": "resource=b", "n3": "resource=c"}, want: "n1: [resource] n2: [resource] n3: [resource]"},
		{name: "one of two", states: map[string]string{"n1": "match=a resource=a", "n2": "match=b resource=a"}, want: "n1: [match] n2: [match]"},
		{name: "one that is missing", states: map[string]string{"n1": "resource=a", "n2": "resource=a"}, want: ""},
		{name: "counters of a process", states: map[string]string{"n1": "meta=1 resource=a", "n2": "meta=2 resource=a", "n3": "meta=3 resource=a"}, equal: true},
		{name: "letters that were purged", purged: true, states: map[string]string{"n1": "dead=1 deadid=1", "n2": "dead=2 deadid=2", "n3": "dead=1 deadid=1"}, equal: true},
		{name: "letters that were not", states: map[string]string{"n1": "dead=1", "n2": "dead=2", "n3": "dead=1"}, want: "n2: [dead]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			states := map[string]compareState{}
			for node, text := range c.states {
				states[node] = compared(text)
			}
			nodes := []string{"n1", "n2", "n3"}
			if c.name == "one of two" {
				nodes = nodes[:2]
			}
			v := judged(nodes, states, map[string]error{"n3": errors.New("gone")}, c.purged)
			var differ []string
			for _, n := range v.Nodes {
				if len(n.Differs) > 0 {
					differ = append(differ, fmt.Sprintf("%s: %v", n.Name, n.Differs))
				}
				if _, is := states[n.Name]; is == (n.Error != "") {
					t.Errorf("%s has the error %q", n.Name, n.Error)
				}
			}
			if got := strings.Join(differ, " "); got != c.want || v.Equal != c.equal {
				t.Errorf("%q differ, equal %t; want %q, %t", got, v.Equal, c.want, c.equal)
			}
			if (len(v.Left) > 0) != c.purged {
				t.Errorf("left out: %v", v.Left)
			}
		})
	}
}
