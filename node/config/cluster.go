package config

import (
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
)

// pemFiles are the keys that name files: of certificates, keys and other secrets, and of definitions.
// {node} in them stands for the node's name, so that one file serves every node.
var pemFiles = []string{
	"cluster.tls.ca", "cluster.tls.cert", "cluster.tls.key",
	"security.tls.cert", "security.tls.key",
	"security.nats.tls.cert", "security.nats.tls.key",
	"match.repository.authorization_file",
	"delivery.egress.proxy_credentials_file", "security.secrets_key_file",
	"delivery.operator_events.webhook.secret_file",
	"fhir.definitions",
}

// nodePlaceholder is replaced by the node's name in pemFiles.
const nodePlaceholder = "{node}"

// Members lists the names of the nodes in the file, sorted.
func (c Config) Members() []string {
	return slices.Sorted(maps.Keys(c.Nodes))
}

// Clustered reports whether this node is one of several that are joined by routes.
func (c Config) Clustered() bool {
	return len(c.Routes()) > 1
}

// Routes lists where the nodes of a cluster reach each other, this node's own included, in the
// order of Members. A single node has none.
func (c Config) Routes() []string {
	var routes []string
	for _, name := range c.Members() {
		if r := c.Nodes[name].Route; r != "" {
			routes = append(routes, r)
		}
	}
	if len(routes) < 2 {
		return nil
	}
	return routes
}

// Replicas is how many nodes keep a copy of each log: cluster.replicas, and where that is 0,
// three in a cluster of three or more, else one.
func (c Config) Replicas() int {
	switch {
	case c.Cluster.Replicas != 0:
		return c.Cluster.Replicas
	case len(c.Nodes) >= 3:
		return 3
	}
	return 1
}

// as is the configuration as the node of this name sees it: its entry of nodes over node, but
// below what variables and flags say. The receiver is left as it is.
func (c Config) as(name string) Config {
	c.origin = maps.Clone(c.origin)
	c.Run.Node = name
	if entry, isMember := c.Nodes[name]; isMember {
		from, to := reflect.ValueOf(entry), reflect.ValueOf(&c.Node).Elem()
		for i := range from.NumField() {
			tag := from.Type().Field(i).Tag.Get("yaml")
			if c.overridden("node." + tag) {
				continue
			}
			to.Field(i).Set(from.Field(i))
			if where, given := c.origin["nodes."+name+"."+tag]; given {
				c.origin["node."+tag] = where
			}
		}
	}
	for _, key := range pemFiles {
		if path := valueOf(&c, key); name != "" {
			path.SetString(strings.ReplaceAll(path.String(), nodePlaceholder, name))
		}
	}
	if c.Delivery.Endpoints = slices.Clone(c.Delivery.Endpoints); name != "" {
		c.eachEndpointFile(func(_ string, path *string) { *path = strings.ReplaceAll(*path, nodePlaceholder, name) })
	}
	return c
}

// overridden reports whether a variable or a flag set this key.
func (c Config) overridden(key string) bool {
	where := c.origin[key]
	return where == Variable(key) || strings.HasPrefix(where, "--")
}

// each calls f for every node that this configuration may become: the chosen one, else all.
func (c Config) each(f func(Config)) {
	if c.Run.Node != "" || len(c.Nodes) == 0 {
		f(c)
		return
	}
	for _, name := range c.Members() {
		f(c.as(name))
	}
}

// sameMachine reports whether two nodes run on one machine as far as their routes tell.
func sameMachine(a, b Node) bool {
	hostA, _, errA := net.SplitHostPort(a.Route)
	hostB, _, errB := net.SplitHostPort(b.Route)
	return errA == nil && errB == nil && (hostA == hostB || Loopback(a.Route) && Loopback(b.Route))
}

// overlap reports whether two listen addresses cannot both be taken: on one machine a wildcard
// takes the port of every address; on two, only an address that is one machine's own counts.
func overlap(a, b string, oneMachine bool) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	if !oneMachine {
		return hostA == hostB && !wildcard(hostA) && !Loopback(a)
	}
	return hostA == hostB || wildcard(hostA) || wildcard(hostB)
}

// wildcard reports whether a listen address without this host's name stands for all addresses.
func wildcard(host string) bool {
	if host == "" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}
