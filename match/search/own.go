package search

import "github.com/carillon-fhir/carillon/match/fhir"

// OwnAffair reports whether a resource is the subscription server's own business: a Subscription, which HAPI
// leaves out of [*] as well, or an AuditEvent that we wrote about an order to us. A criteria that means any type is not
// about those: who replicates a server by [*] would be sent records that the server never had, and the
// one of its own Subscription first of all. A criteria that names the type hears of them.
func (r *Resource) OwnAffair() bool {
	switch r.name {
	case "Subscription":
		return true
	case "AuditEvent":
		t := r.tree
		for tag := range t.Children(t.Get(t.Get(t.Root(), "meta"), "tag")) {
			if t.Is(t.Get(tag, "system"), fhir.TagOwnRecord) {
				return true
			}
		}
	}
	return false
}
