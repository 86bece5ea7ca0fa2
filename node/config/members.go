package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// cluster looks at what the nodes have in common and at each node's entry. The entries are
// looked at on every node alike: a file that another node would refuse is refused here too.
func (v *validation) cluster() {
	v.replicas()
	switch len(v.cfg.Nodes) {
	case 2:
		v.refuse("nodes", "two nodes have no quorum when one is lost; use 1, 3 or 5")
	case 0:
		if v.cfg.Node.Route != "" {
			v.refuse("node.route", "a single node has no route; every node of a cluster has an entry in nodes, and its route there")
		}
		return
	}
	for _, name := range v.cfg.Members() {
		v.entry(name)
	}
	if v.cfg.overridden("node.route") {
		v.address("node.route", v.cfg.Node.Route)
	}
	v.collisions()
	v.routeTLS()
}

func (v *validation) replicas() {
	switch n, nodes := v.cfg.Cluster.Replicas, len(v.cfg.Nodes); {
	case n == 0 || n == 1:
	case n != 3:
		v.refuse("cluster.replicas", "%d is not 0, 1 or 3; a cluster of five or more keeps three copies of each log, too", n)
	case nodes < 3:
		v.refuse("cluster.replicas", "three copies of each log need three nodes, and nodes has %d", nodes)
	}
}

// entry looks at one node of the file, by the keys that its values come from.
func (v *validation) entry(name string) {
	n := v.cfg.Nodes[name]
	if name != v.cfg.Run.Node { // the chosen node is looked at with its variables and flags
		v.node(n, func(tag string) string { return v.entryKey(name, tag) })
	}
	key := "nodes." + name + ".route"
	if n.Route == "" {
		if len(v.cfg.Nodes) > 1 {
			v.refuse(key, "every node of a cluster needs a route, the host:port where it listens for the others and they reach it, such as 10.0.0.1:6222")
		}
		return
	}
	if !v.address(v.entryKey(name, "route"), n.Route) {
		return
	}
	switch host, port, _ := net.SplitHostPort(n.Route); {
	case wildcard(host):
		v.refuse(key, "%s is no address that other nodes can reach; give this machine's, and let it listen on all with %s=%s", n.Route, Variable("node.route"), n.Route)
	case port == "0":
		v.refuse(key, "other nodes must know the port; give one that is not 0")
	}
}

// entryKey is the key that a value of an entry comes from: its own, or that of node.
func (v *validation) entryKey(name, tag string) string {
	if own := "nodes." + name + "." + tag; v.cfg.origin[own] != "" {
		return own
	}
	return "node." + tag
}

// collisions looks for nodes that want the same address, or on one machine the same folder.
func (v *validation) collisions() {
	names := v.cfg.Members()
	for i, name := range names {
		for _, other := range names[:i] {
			v.collision(name, other)
		}
	}
}

func (v *validation) collision(name, other string) {
	a, b := v.effective(name), v.effective(other)
	oneMachine := sameMachine(v.cfg.Nodes[name], v.cfg.Nodes[other])
	for _, mine := range addresses(a) {
		for _, theirs := range addresses(b) {
			if overlap(mine.address, theirs.address, oneMachine) {
				v.refuse("nodes."+name+"."+mine.tag, "%s is the address of nodes.%s.%s already", mine.address, other, theirs.tag)
			}
		}
	}
	if oneMachine && a.Data == b.Data {
		v.refuse("nodes."+name+".data", "%s is the folder of nodes.%s already", a.Data, other)
	}
}

// effective is what a node uses, with variables and flags if it is the chosen one.
func (v *validation) effective(name string) Node {
	n := v.cfg.Nodes[name]
	if name == v.cfg.Run.Node {
		route := n.Route // what the others reach, whatever a variable says
		n = v.cfg.Node
		n.Route = route
	}
	return n
}

type listenAddress struct{ tag, address string }

func addresses(n Node) []listenAddress {
	list := []listenAddress{{"http", n.HTTP}, {"nats", n.NATS}}
	if n.Route != "" {
		list = append(list, listenAddress{"route", n.Route})
	}
	return list
}

// routeTLS wants the routes encrypted and both sides known, unless they stay on one machine.
func (v *validation) routeTLS() {
	t := v.cfg.Cluster.TLS
	given := 0
	for _, path := range []string{t.CA, t.Cert, t.Key} {
		if path != "" {
			given++
		}
	}
	public := slices.ContainsFunc(append(v.cfg.Routes(), v.cfg.Node.Route), func(r string) bool {
		_, _, err := net.SplitHostPort(r) // what is no address has been told already
		return err == nil && !Loopback(r)
	})
	switch {
	case given == 3:
	case given > 0:
		v.refuse("cluster.tls", "ca, cert and key go together; `carillon cluster init` makes all three")
	case v.cfg.Clustered() && public:
		v.refuse("cluster.tls", "routes between machines need TLS; set ca, cert and key (`carillon cluster init` makes the files), or keep every route on loopback")
	}
}

// placeholders refuses {node} where there is no name to put in.
func (v *validation) placeholders() {
	if v.cfg.Run.Node != "" || len(v.cfg.Nodes) > 0 {
		return
	}
	for _, key := range pemFiles {
		if strings.Contains(valueOf(&v.cfg, key).String(), nodePlaceholder) {
			v.placeholder(key)
		}
	}
	v.cfg.eachEndpointFile(func(key string, path *string) {
		if strings.Contains(*path, nodePlaceholder) {
			v.placeholder(key)
		}
	})
}

func (v *validation) placeholder(key string) {
	v.refuse(key, "%s stands for the name of the node, and none is given; give --node, or an entry in nodes", nodePlaceholder)
}

// address checks host:port and reports whether it may be looked at further.
func (v *validation) address(key, address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, "/ ") {
		v.refuse(key, "%q is not of the form host:port", address)
		return false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		v.refuse(key, "%q has no port between 0 and 65535", address)
		return false
	}
	return true
}

// label is the end of a problem's text that says which of several nodes it is about.
func (c Config) label() string {
	if len(c.Nodes) < 2 {
		return ""
	}
	return fmt.Sprintf(" (node %s)", c.Run.Node)
}
