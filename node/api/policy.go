package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Role is a set of rights that a token carries. A token may carry several.
type Role string

// The roles. Each reads; what it may do besides is in grants.
const (
	Reader     Role = "reader"
	Producer   Role = "producer"
	Subscriber Role = "subscriber"
	Operator   Role = "operator"
	Administer Role = "admin"
)

// Roles lists all roles, the weakest first.
func Roles() []Role { return []Role{Reader, Producer, Subscriber, Operator, Administer} }

// right is what a route asks of the one who calls it.
type right string

const (
	anyone    right = "anyone"    // no login, from anywhere: health
	visitor   right = "visitor"   // no login, but only this machine while no token exists
	scraper   right = "scraper"   // no login from this machine, else as operate
	member    right = "member"    // any token; each resource in the body is judged by its own right
	read      right = "read"      // resources and what is derived from them
	write     right = "write"     // a resource; which right that is depends on its type, see writeRight
	subscribe right = "subscribe" // Subscriptions of one's own; an administrator's are all
	define    right = "define"    // topics and search parameters: they change what others match
	operate   right = "operate"   // see and steer deliveries
	manage    right = "manage"    // tokens, consumers, purge, resend, drain, reload
)

// grants says which roles give a right.
var grants = map[right][]Role{
	member:    {Reader, Producer, Subscriber, Operator, Administer},
	read:      {Reader, Producer, Subscriber, Operator, Administer},
	write:     {Producer, Administer},
	subscribe: {Subscriber, Administer},
	define:    {Administer},
	operate:   {Operator, Administer},
	manage:    {Administer},
}

// policy says which right each route asks. A route that is not here is refused to everybody,
// and fails a test.
var policy = map[string]right{
	"GET /livez":   anyone,
	"GET /readyz":  anyone,
	"GET /metrics": scraper,

	"GET /.well-known/jwks.json": anyone,

	"GET /fhir/metadata": visitor,

	"GET /websocket": read,

	"POST /fhir":         member,
	"POST /fhir/$feed":   member,
	"POST /fhir/$ingest": member,

	"GET /fhir/{Type}":                     read,
	"POST /fhir/{Type}/_search":            read,
	"POST /fhir/{Type}":                    write,
	"PUT /fhir/{Type}":                     write,
	"PATCH /fhir/{Type}":                   write,
	"DELETE /fhir/{Type}":                  write,
	"GET /fhir/{Type}/{id}":                read,
	"PUT /fhir/{Type}/{id}":                write,
	"PATCH /fhir/{Type}/{id}":              write,
	"DELETE /fhir/{Type}/{id}":             write,
	"GET /fhir/{Type}/{id}/_history":       read,
	"GET /fhir/{Type}/{id}/_history/{vid}": read,
	"POST /fhir/{Type}/{id}/$resend":       manage,
	// Who steers deliveries may send again what endpoints are to have anyway: criteria still decide.
	"POST /fhir/Subscription/$trigger-subscription":      operate,
	"POST /fhir/Subscription/{id}/$trigger-subscription": operate,

	"GET /fhir/Subscription/{id}/$explain":  read,
	"POST /fhir/Subscription/{id}/$explain": read,
	"POST /fhir/Subscription/$explain":      read,
	"POST /fhir/Subscription/$validate":     read,

	"GET /admin/api/v1/subscriptions":                operate,
	"GET /admin/api/v1/subscriptions/{id}":           operate,
	"POST /admin/api/v1/subscriptions/{id}/pause":    operate,
	"POST /admin/api/v1/subscriptions/{id}/resume":   operate,
	"POST /admin/api/v1/subscriptions/{id}/secret":   manage,
	"POST /admin/api/v1/keys/rotate":                 manage,
	"POST /admin/api/v1/subscriptions/{id}/test":     manage,
	"GET /admin/api/v1/subscriptions/{id}/events":    operate,
	"GET /admin/api/v1/dlq":                          operate,
	"GET /admin/api/v1/dlq/{id}":                     operate,
	"POST /admin/api/v1/dlq/replay":                  operate,
	"POST /admin/api/v1/dlq/purge":                   manage,
	"GET /admin/api/v1/jobs":                         operate,
	"GET /admin/api/v1/jobs/{id}":                    operate,
	"POST /admin/api/v1/jobs/{id}/cancel":            operate,
	"POST /admin/api/v1/trigger":                     operate,
	"GET /admin/api/v1/attempts":                     operate,
	"GET /admin/api/v1/tokens":                       manage,
	"POST /admin/api/v1/tokens":                      manage,
	"DELETE /admin/api/v1/tokens/{id}":               manage,
	"GET /admin/api/v1/consumers":                    operate,
	"POST /admin/api/v1/consumers":                   manage,
	"DELETE /admin/api/v1/consumers/{stream}/{name}": manage,
	"GET /admin/api/v1/status":                       operate,
	"GET /admin/api/v1/config":                       operate,
	"POST /admin/api/v1/config/reload":               manage,
	"GET /admin/api/v1/cluster":                      operate,
	"POST /admin/api/v1/cluster/drain":               manage,
	"POST /admin/api/v1/cluster/verify":              operate,
	"GET /admin/api/v1/delivery":                     operate,
	"POST /admin/api/v1/delivery/stop":               operate,
	"POST /admin/api/v1/delivery/start":              operate,
	"POST /admin/api/v1/delivery/reset":              operate,
	"POST /admin/api/v1/explain":                     read,
	"POST /admin/api/v1/resend":                      manage,
}

// writeRight is the right to write a resource of a type.
func writeRight(typ string) right {
	switch typ {
	case "Subscription":
		return subscribe
	case "SubscriptionTopic", "SearchParameter":
		return define
	}
	return write
}

// may reports whether a token's roles give a right. Rights without a line in grants are given
// to nobody.
func may(t Token, r right) bool {
	return slices.ContainsFunc(grants[r], func(role Role) bool { return slices.Contains(t.Roles, role) })
}

// admit decides whether a request may enter a route at all, and finds out who asks.
func (s *server) admit(c *call, pattern string) error {
	r, known := policy[pattern]
	switch {
	case !known:
		return fhir.Refuse(fhir.IssueForbidden, "", "this route has no policy and is closed")
	case r == anyone:
		return nil
	}
	if !s.tokens.Any() {
		return s.admitWithoutLogin(c, r)
	}
	if r == visitor || r == scraper && fromThisMachine(c.r) {
		return nil
	}
	t, err := s.login(c.r)
	if err != nil {
		return err
	}
	c.token, c.login = t, true
	switch r {
	case scraper:
		r = operate
	case write:
		r = writeRight(c.r.PathValue("Type"))
	}
	return c.permit(r)
}

// admitWithoutLogin serves a node that has no token yet. Everything is allowed, and so only
// this machine is served, unless the operator said otherwise. A web page in a browser on this
// machine is not "this machine": it is kept out by the Host header (DNS rebinding) and by the
// headers that browsers send with requests across origins. Neither is a proxy that runs here
// and passes on what comes from elsewhere.
func (s *server) admitWithoutLogin(c *call, r right) error {
	if s.insecurePublic {
		return nil
	}
	if !fromThisMachine(c.r) {
		return fhir.Refuse(fhir.IssueForbidden, "",
			"no API token exists, so only requests of this machine to a loopback address are served; create one with: carillon token create")
	}
	if err := s.origins.check(c.r); err != nil {
		return fhir.Refuse(fhir.IssueForbidden, "", "requests from web pages of another origin are refused while no API token exists")
	}
	return nil
}

// fromThisMachine reports whether the peer is this machine, asks for it by a loopback name,
// and speaks for itself.
func fromThisMachine(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	return loopbackHost(r.Host)
}

// loopbackHost reports whether a Host header names this machine by address or as localhost.
func loopbackHost(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(name)
	return err == nil && a.Unmap().IsLoopback()
}

// login reads the Authorization header (RFC 6750: a bearer token).
func (s *server) login(r *http.Request) (Token, error) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme == "" && opensWebsocket(r) {
		var err error
		if secret, err = socketSecret(r); err != nil {
			return Token{}, err
		}
		scheme = "Bearer"
	}
	if !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return Token{}, fhir.Refuse(fhir.IssueSecurity, "", "login missing: send the API token as header Authorization: Bearer TOKEN")
	}
	t, ok := s.tokens.Lookup(r.Context(), strings.TrimSpace(secret))
	if !ok {
		return Token{}, fhir.Refuse(fhir.IssueSecurity, "", "the API token is unknown or was revoked")
	}
	return t, nil
}

// permit refuses a caller who lacks a right. Where no login is asked, all rights are given.
func (c *call) permit(r right) error {
	if !c.login || may(c.token, r) {
		return nil
	}
	return fhir.Refuse(fhir.IssueForbidden, "", fmt.Sprintf("the token %s lacks the right to %s; one of these roles gives it: %s",
		c.token.ID, r, joinRoles(grants[r])))
}

// permitWrite judges one write by the type of its resource.
func (c *call) permitWrite(typ string) error { return c.permit(writeRight(typ)) }

// mustOwn reports whether the caller may write only what its own token made.
func (c *call) mustOwn(typ string) bool {
	return c.login && typ == "Subscription" && !may(c.token, manage)
}

// own checks a Subscription's owner and returns the version that the check was made on; 0 if
// there is none. The write that follows demands that version, so nobody can slip in between.
func (s *server) own(ctx context.Context, c *call, key fhir.Key) (current record.Sequence, err error) {
	r, err := s.backend.Read(ctx, key)
	switch {
	case isIssue(err, fhir.IssueNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case r.Deleted:
		return 0, nil
	case r.Owner != c.token.ID:
		return 0, fhir.Refuse(fhir.IssueForbidden, "", key.String()+" belongs to another token")
	}
	return r.Version, nil
}

func joinRoles(roles []Role) string {
	s := make([]string, len(roles))
	for i, r := range roles {
		s[i] = string(r)
	}
	return strings.Join(s, ", ")
}
