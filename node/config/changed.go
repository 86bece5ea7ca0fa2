package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Changed lists the keys whose values differ, in the order of Keys, then nodes,
// security.nats.users and delivery.endpoints where anything below them differs. It names keys and no values.
func Changed(a, b Config) []string {
	var changed []string
	for _, key := range Keys() {
		if !reflect.DeepEqual(valueOf(&a, key).Interface(), valueOf(&b, key).Interface()) {
			changed = append(changed, key)
		}
	}
	if !reflect.DeepEqual(a.Nodes, b.Nodes) {
		changed = append(changed, "nodes")
	}
	if !reflect.DeepEqual(a.Security.NATS.Users, b.Security.NATS.Users) {
		changed = append(changed, "security.nats.users")
	}
	if !reflect.DeepEqual(a.Delivery.Endpoints, b.Delivery.Endpoints) {
		changed = append(changed, "delivery.endpoints")
	}
	if !reflect.DeepEqual(a.Delivery.Commands, b.Delivery.Commands) {
		changed = append(changed, "delivery.commands")
	}
	return changed
}

// Shared tells of each key that all nodes of a cluster should agree on what Text says of it, and
// of nodes and the lists of sections all that is in them, passwords and keys too: it is not for
// showing. Of the rules for endpoints paths of files are left out, which are each node's own.
func (c Config) Shared() map[string]string {
	shared := map[string]string{}
	for _, key := range Keys() {
		if !ofOneNode(key) {
			shared[key] = c.Text(key)
		}
	}
	shared["nodes"] = show(c.Nodes)
	shared["security.nats.users"] = show(c.Security.NATS.Users)
	c.Delivery.Endpoints = slices.Clone(c.Delivery.Endpoints)
	c.eachEndpointFile(func(_ string, path *string) { *path = "" })
	shared["delivery.commands"] = show(c.Delivery.Commands)
	shared["delivery.endpoints"] = show(c.Delivery.Endpoints)
	return shared
}

// ofOneNode are the keys that nodes of one cluster may have values of their own for: where they
// listen, where their files are, and how they log.
func ofOneNode(key string) bool {
	section, _, _ := strings.Cut(key, ".")
	return section == "node" || section == "observability" || slices.Contains(pemFiles, key)
}

// show writes a value with its type's names; maps in the order of their keys.
func show(v any) string { return fmt.Sprintf("%+v", v) }
