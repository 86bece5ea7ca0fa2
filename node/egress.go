package node

import (
	"net/netip"

	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/node/config"
)

// egress reads the rules by which an endpoint may be sent to. The same rules hold when a
// Subscription is written and when its endpoint is dialled.
func egress(cfg config.Config) (resthook.Egress, error) {
	c := cfg.Delivery.Egress
	rules := resthook.Egress{AllowHTTP: c.AllowHTTP, AllowPrivate: c.AllowPrivate}
	for _, list := range []struct {
		from []string
		to   *[]netip.Prefix
		key  string
	}{{c.Allow, &rules.Allow, "delivery.egress.allow"}, {c.Deny, &rules.Deny, "delivery.egress.deny"}} {
		for _, s := range list.from {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return rules, cfg.Refuse(list.key, "%q is not a network such as 10.1.0.0/16", s)
			}
			*list.to = append(*list.to, p)
		}
	}
	return rules, nil
}
