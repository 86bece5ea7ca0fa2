package config

import (
	"fmt"
	"reflect"
	"strings"
)

// mask stands for a password in what Show writes. Load refuses it as a password.
const mask = "(masked)"

// Show writes the configuration in force as YAML that Load reads again, but for the passwords
// of logins and the master keys: those are masked, and Load says so. It holds no other secrets:
// certificates and keys are named by their files, and URLs with a password are refused.
func (c Config) Show() string {
	var b strings.Builder
	var open []string // sections already written
	for _, key := range Keys() {
		parts := strings.Split(key, ".")
		last := len(parts) - 1
		for depth, name := range parts[:last] {
			if depth < len(open) && open[depth] == name {
				continue
			}
			open = append(open[:min(depth, len(open))], name)
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", depth), name)
		}
		open = open[:min(last, len(open))]
		if key == "node.route" { // stands in nodes, for all to know
			c.showOverriddenRoute(&b)
			continue
		}
		text := c.Text(key)
		if key == "security.secrets_key" && len(c.Security.SecretsKey) > 0 {
			text = "[" + quote(mask) + "]"
		}
		fmt.Fprintf(&b, "%s%s: %s\n", strings.Repeat("  ", last), parts[last], text)
		switch key {
		case "node.public_url":
			c.showNodes(&b)
		case "delivery.egress.proxy_credentials_file":
			c.showEndpoints(&b)
		case "delivery.message.subjects":
			c.showCommands(&b)
		case "security.nats.tls.key":
			c.showUsers(&b)
		}
	}
	return b.String()
}

// showOverriddenRoute tells of a route that a variable sets, which is no key of a file.
func (c Config) showOverriddenRoute(b *strings.Builder) {
	if c.Node.Route != c.Nodes[c.Run.Node].Route {
		fmt.Fprintf(b, "  # %s=%s\n", Variable("node.route"), c.Node.Route)
	}
}

func (c Config) showNodes(b *strings.Builder) {
	if len(c.Nodes) == 0 {
		return
	}
	b.WriteString("nodes:\n")
	for _, name := range c.Members() {
		fmt.Fprintf(b, "  %s:\n", quote(name))
		entry := reflect.ValueOf(c.Nodes[name])
		for i := range entry.NumField() {
			fmt.Fprintf(b, "    %s: %s\n", entry.Type().Field(i).Tag.Get("yaml"), textOf(entry.Field(i)))
		}
	}
}

func (c Config) showUsers(b *strings.Builder) {
	if len(c.Security.NATS.Users) == 0 {
		return
	}
	b.WriteString("    users:\n")
	for _, u := range c.Security.NATS.Users {
		if u.Password != "" {
			u.Password = mask
		}
		lead, user := "- ", reflect.ValueOf(u)
		for i := range user.NumField() {
			if !user.Field(i).IsZero() { // password and nkey exclude each other, so one is left out
				fmt.Fprintf(b, "      %s%s: %s\n", lead, user.Type().Field(i).Tag.Get("yaml"), textOf(user.Field(i)))
				lead = "  "
			}
		}
	}
}
