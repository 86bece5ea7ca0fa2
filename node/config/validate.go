package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// nameGrammar is what a cluster or a node may be called: the name becomes part of a file name.
var nameGrammar = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Validate looks whether the values are possible, each for itself and together. It returns an
// *Error with every problem.
func (c Config) Validate() error {
	if p := c.problems(); len(p) > 0 {
		return &Error{Problems: p}
	}
	return nil
}

// CheckListeners refuses listeners that others can reach but that nothing protects, of all nodes
// if none is chosen. It is apart from Validate because --insecure-public switches it off. Whether
// there is an API token can only be told by the logs, so the node looks at those itself.
func (c Config) CheckListeners() error {
	if c.Run.InsecurePublic {
		return nil
	}
	var problems []Problem
	c.each(func(c Config) {
		for _, p := range c.openListeners() {
			if !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
		}
	})
	if len(problems) > 0 {
		return &Error{Problems: problems}
	}
	return nil
}

func (c Config) openListeners() []Problem {
	v := &validation{cfg: c}
	if !Loopback(c.Node.HTTP) && c.Security.TLS.Cert == "" {
		v.refuse("node.http", "%s can be reached from other machines but has no TLS; set security.tls.cert and security.tls.key, or listen on loopback, or start with --insecure-public", c.Node.HTTP)
	}
	if Loopback(c.Node.NATS) {
		return v.problems
	}
	if len(c.Security.NATS.Users) == 0 {
		v.refuse("node.nats", "%s can be reached from other machines but has no logins; set security.nats.users, or listen on loopback, or start with --insecure-public", c.Node.NATS)
	}
	if c.Security.NATS.TLS.Cert == "" {
		v.refuse("node.nats", "%s can be reached from other machines but has no TLS; set security.nats.tls.cert and security.nats.tls.key, or listen on loopback, or start with --insecure-public", c.Node.NATS)
	}
	return v.problems
}

// Refuse makes the *Error of a problem with one key that shows only later, naming where the
// key's value came from.
func (c Config) Refuse(key, format string, args ...any) error {
	v := &validation{cfg: c}
	v.refuse(key, format, args...)
	return &Error{Problems: v.problems}
}

// Loopback reports whether a listen address can be reached from this machine alone. A host
// name other than localhost counts as public: what it resolves to may change.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

type validation struct {
	cfg      Config
	problems []Problem
}

func (v *validation) refuse(key, format string, args ...any) {
	key = v.cfg.given(key)
	where, known := v.cfg.origin[key]
	if !known { // a missing key, or a part of a value such as delivery.retry.schedule.max
		where = v.cfg.origin[key[:max(0, strings.LastIndexByte(key, '.'))]]
	}
	p := Problem{Where: where, Key: key, Text: fmt.Sprintf(format, args...)}
	if !slices.Contains(v.problems, p) { // what several nodes have from node is told once
		v.problems = append(v.problems, p)
	}
}

// given is the key by which the file gives a value of the chosen node.
func (c Config) given(key string) string {
	tag, isNode := strings.CutPrefix(key, "node.")
	own := "nodes." + c.Run.Node + "." + tag
	if where := c.origin[own]; isNode && where != "" && where == c.origin[key] {
		return own
	}
	return key
}

func (c Config) problems() []Problem {
	v := &validation{cfg: c}
	v.names()
	v.node(c.Node, func(tag string) string { return "node." + tag })
	v.cluster()
	v.fhir()
	v.repository()
	v.delivery()
	v.messages()
	v.egress()
	v.endpoints()
	v.secretsKeys()
	v.pair("security.tls", c.Security.TLS)
	v.pair("security.nats.tls", c.Security.NATS.TLS)
	v.origins()
	v.placeholders()
	v.logins()
	v.limits()
	v.oneOf("observability.log.level", c.Observability.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("observability.log.format", c.Observability.Log.Format, "auto", "text", "json")
	if c.Durability == "interval" {
		v.refuse("durability", "interval is not available in this version; always is the only value")
	} else {
		v.oneOf("durability", c.Durability, "always")
	}
	return v.problems
}

func (v *validation) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	v.refuse(key, "%q is not %s", value, strings.Join(allowed, " or "))
}

func (v *validation) names() {
	if !nameGrammar.MatchString(v.cfg.Cluster.Name) {
		v.refuse("cluster.name", "%q is not 1 to 64 letters, digits, - and _", v.cfg.Cluster.Name)
	}
	if n := v.cfg.Run.Node; n != "" && !nameGrammar.MatchString(n) {
		v.problems = append(v.problems, Problem{Where: "--node", Text: fmt.Sprintf("%q is not 1 to 64 letters, digits, - and _", n)})
	}
}

// node looks at one node; key tells by which key a value is given.
func (v *validation) node(n Node, key func(tag string) string) {
	if n.Data == "" {
		v.refuse(key("data"), "a node needs a folder for its data")
	}
	v.address(key("http"), n.HTTP)
	v.address(key("nats"), n.NATS)
	if overlap(n.HTTP, n.NATS, true) {
		v.refuse(key("nats"), "%s is the address of node.http already", n.NATS)
	}
	if n.Route != "" && (overlap(n.HTTP, n.Route, true) || overlap(n.NATS, n.Route, true)) {
		v.refuse(key("route"), "%s is the address of another listener of this node already", n.Route)
	}
	if n.PublicURL != "" {
		v.url(key("public_url"), n.PublicURL)
	}
}

// url checks an absolute http or https URL that other URLs are made from.
func (v *validation) url(key, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		v.refuse(key, "not an absolute http or https URL") // not shown: it may hold a password
	case u.User != nil:
		v.refuse(key, "a URL here must not hold a user or password")
	case u.RawQuery != "" || u.Fragment != "":
		v.refuse(key, "%q must not have a query or fragment", text)
	}
}

func (v *validation) fhir() {
	switch v.cfg.FHIR.Version {
	case "R5":
		v.refuse("fhir.version", "R5 comes with a later version, since its Subscriptions are of topics; R4 and R4B are the values")
	default:
		v.oneOf("fhir.version", v.cfg.FHIR.Version, "R4", "R4B")
	}
	for _, u := range v.cfg.FHIR.BaseURLs {
		v.url("fhir.base_urls", u)
	}
}

func (v *validation) repository() {
	r := v.cfg.Match.Repository
	v.oneOf("match.repository.source", r.Source, Local, Upstream)
	switch {
	case r.URL != "":
		v.url("match.repository.url", r.URL)
	case r.Source == Upstream:
		v.refuse("match.repository.source", "upstream needs the server's base in match.repository.url")
	}
	if r.URL != "" && r.Source == Local {
		v.refuse("match.repository.url", "is not asked while match.repository.source is local; say upstream there, or leave the URL out")
	}
	// An evaluation has ten seconds for everything.
	v.between("match.repository.timeout", r.Timeout, 50*time.Millisecond, 8*time.Second)
	v.size("match.repository.cache", r.Cache, 0, 1<<30)
	v.between("match.repository.cache_age", r.CacheAge, 0, time.Minute)
}

func (v *validation) delivery() {
	d := v.cfg.Delivery
	v.oneOf("delivery.rest_hook.style", d.RestHook.Style, "fhir", "webhook")
	v.between("delivery.rest_hook.timeout", d.RestHook.Timeout, 100*time.Millisecond, 2*time.Minute)
	v.schedule(d.Retry.Schedule)
	if d.Retry.Jitter < 0 || d.Retry.Jitter > 0.5 {
		v.refuse("delivery.retry.jitter", "%g is not between 0 and 0.5", d.Retry.Jitter)
	}
	if keep := v.cfg.Retention.Dead; keep != 0 {
		v.between("retention.dead", keep, time.Hour, 100*365*24*time.Hour)
	}
	if d.Retry.MaxAge != 0 {
		v.between("delivery.retry.max_age", d.Retry.MaxAge, time.Minute, 10*365*24*time.Hour)
	}
	v.oneOf("delivery.on_exhausted", d.OnExhausted, "dead-letter", "error")
	v.breaker(d.Breaker)
	if d.DisableAfter != 0 {
		v.between("delivery.disable_after", d.DisableAfter, 12*time.Hour, 10*365*24*time.Hour)
	}
	v.operatorEvents(d.OperatorEvents)
	v.count("delivery.concurrency", d.Concurrency, 1, 256)
	v.oneOf("delivery.order", d.Order, "resource", "strict")
	for _, ch := range d.Channels {
		if all := fhir.Channels(); !slices.Contains(all, ch) {
			v.refuse("delivery.channels", "this version has no channel %q; there are %s", ch, strings.Join(all, ", "))
		}
	}
	v.message()
	v.commands()
}

func (v *validation) breaker(b Breaker) {
	v.count("delivery.breaker.failures", b.Failures, 0, 100_000)
	v.between("delivery.breaker.window", b.Window, time.Second, 24*time.Hour)
	v.between("delivery.breaker.after", b.After, 0, 24*time.Hour)
	v.between("delivery.breaker.open", b.Open, 100*time.Millisecond, time.Hour)
}

func (v *validation) operatorEvents(o OperatorEvents) {
	v.between("delivery.operator_events.suppress", o.Suppress, 0, 7*24*time.Hour)
	switch {
	case o.Webhook.URL != "":
		v.tokenURL("delivery.operator_events.webhook.url", o.Webhook.URL)
	case o.Webhook.SecretFile != "":
		v.refuse("delivery.operator_events.webhook.secret_file", "there is no address to sign for in delivery.operator_events.webhook.url")
	}
	if len(o.Email.To) == 0 {
		return
	}
	if _, err := fhir.Recipients(strings.Join(o.Email.To, ",")); err != nil {
		v.refuse("delivery.operator_events.email.to", "%v", err)
	}
	if !v.cfg.Delivery.Configured(fhir.ChannelEmail) {
		v.refuse("delivery.operator_events.email.to", "there is no mail server to send it by: set delivery.email.server")
	}
}

func (v *validation) schedule(s Schedule) {
	const key = "delivery.retry.schedule"
	const longest = 30 * 24 * time.Hour
	if len(s.Waits) > 0 {
		for _, w := range s.Waits {
			v.between(key, w, time.Millisecond, longest)
		}
		return
	}
	v.between(key+".initial", s.Initial, time.Millisecond, longest)
	v.between(key+".max", s.Max, max(s.Initial, time.Millisecond), longest)
	if !(s.Factor >= 1 && s.Factor <= 100) { // a NaN is refused too
		v.refuse(key+".factor", "%g is not between 1 and 100", s.Factor)
	}
}

func (v *validation) between(key string, d, least, most time.Duration) {
	if d < least || d > most {
		v.refuse(key, "%s is not between %s and %s", formatDuration(d), formatDuration(least), formatDuration(most))
	}
}

func (v *validation) count(key string, n, least, most int) {
	if n < least || n > most {
		v.refuse(key, "%d is not between %d and %d", n, least, most)
	}
}

func (v *validation) egress() {
	v.networks("delivery.egress.allow", v.cfg.Delivery.Egress.Allow)
	v.networks("delivery.egress.deny", v.cfg.Delivery.Egress.Deny)
	v.proxy(v.cfg.Delivery.Egress)
}

func (v *validation) networks(key string, list []string) {
	for _, text := range list {
		if _, err := ParseNetwork(text); err != nil {
			v.refuse(key, "%v", err)
		}
	}
}

// ParseNetwork reads an address or a network in CIDR form. An address is a network of one.
func ParseNetwork(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.Prefix{}, fmt.Errorf("%q is not an address or a network such as 10.20.0.0/16", s)
}

// pair wants a certificate and its key together. CheckFiles reads them.
func (v *validation) pair(section string, t TLS) {
	switch {
	case t.Cert == "" && t.Key != "":
		v.refuse(section+".key", "a key needs its certificate in %s.cert", section)
	case t.Cert != "" && t.Key == "":
		v.refuse(section+".cert", "a certificate needs its key in %s.key", section)
	}
}

func (v *validation) limits() {
	l := v.cfg.Limits
	const least = 1 << 10
	v.size("limits.resource_size", l.ResourceSize, least, 32<<20)
	v.size("limits.line_size", l.LineSize, l.ResourceSize, 64<<20)
	v.size("limits.bundle_size", l.BundleSize, l.ResourceSize, 1<<30)
	v.count("limits.bundle_entries", l.BundleEntries, 1, 999)
	v.count("limits.sockets", l.Sockets, 1, 1_000_000)
	v.count("limits.sockets_per_subscription", l.SocketsPerSubscription, 1, 1_000_000)
}

func (v *validation) size(key string, s, least, most Size) {
	if s < least || s > most {
		v.refuse(key, "%s is not between %s and %s", s, least, most)
	}
}
