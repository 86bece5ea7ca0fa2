package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// origins are the web pages whose scripts may use FHIR and websockets here, beside our own. Browsers
// send the Origin header and believe the answer (WHATWG Fetch, CORS); other clients send none and
// are not concerned.
type origins struct {
	any  bool // *: every page
	list []string
	// own keeps pages of other origins from writing while no login is asked; listed lets those of
	// the list do so.
	own, listed *http.CrossOriginProtection
}

// newOrigins takes what the configuration lists. It panics at what config.Validate refuses.
func newOrigins(list []string) origins {
	o := origins{own: http.NewCrossOriginProtection(), listed: http.NewCrossOriginProtection()}
	for _, origin := range list {
		if origin == "*" {
			// Not for listed: without a login every page in the operator's browser would be let in.
			o.any = true
			continue
		}
		if err := o.listed.AddTrustedOrigin(origin); err != nil {
			panic("api: origin: " + err.Error())
		}
		o.list = append(o.list, origin)
	}
	return o
}

// check refuses what a page of another origin makes a browser send while no login is asked.
func (o *origins) check(r *http.Request) error {
	if shared(r.URL.Path) {
		return o.listed.Check(r)
	}
	return o.own.Check(r)
}

// trusts reports whether scripts of an origin may use us. That every page may holds only where
// each request shows a token, or the operator has opened the node to everybody.
func (s *server) trusts(origin string) bool {
	return slices.Contains(s.origins.list, origin) || s.everyOrigin()
}

func (s *server) everyOrigin() bool {
	return s.origins.any && (s.tokens.Any() || s.insecurePublic)
}

// What pages of other origins may send and see. Credentials of the browser are never asked for: a
// script shows its token as any client does.
const (
	corsMethods = "GET, HEAD, POST, PUT, PATCH, DELETE"
	corsHeaders = "Accept, Authorization, Content-Type, Content-Encoding, Idempotency-Key, If-Match, If-Modified-Since, If-None-Exist, If-None-Match, Prefer, traceparent, X-Carillon-Feed, X-Medplum-Deleted-Resource, X-Request-Id"
	corsExposed = "Content-Location, ETag, Last-Modified, Location, Retry-After, Warning, X-Request-Id"
	corsMaxAge  = "600" // seconds that a browser may remember the answer to a preflight
)

// cors tells browsers what pages of other origins may do. It answers a preflight, and reports
// whether the request was one.
func (s *server) cors(c *call) (answered bool) {
	if len(s.origins.list) == 0 && !s.origins.any || !shared(c.r.URL.Path) {
		return false
	}
	h := c.w.Header()
	h.Add("Vary", "Origin") // a cache must not show one page what was meant for another
	origin := c.r.Header.Get("Origin")
	if origin == "" || !s.trusts(origin) {
		return false
	}
	if s.everyOrigin() {
		origin = "*"
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", corsExposed)
	if c.r.Method != http.MethodOptions || c.r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	c.pattern = "preflight"
	c.send(http.StatusNoContent, c.mime, nil)
	return true
}

// shared reports whether pages of other origins may use an address at all: FHIR, and what tells
// how to log in to it. Administration is for our own pages.
func shared(path string) bool {
	return path == "/fhir" || strings.HasPrefix(path, "/fhir/") || strings.HasPrefix(path, "/.well-known/")
}

// checkOrigin refuses the scripts of other pages where browsers do not: they ask nobody before
// they open a websocket.
func (s *server) checkOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" || s.trusts(origin) || s.ownOrigin(r, origin) {
		return nil
	}
	return fhir.Refuse(fhir.IssueForbidden, "", "web pages of this origin may not open a websocket here; security.origins lists those that may")
}

// ownOrigin reports whether a page came from here. Its scheme is not compared: behind a proxy that
// does TLS we do not know our own.
func (s *server) ownOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	return strings.EqualFold(u.Host, r.Host) || strings.EqualFold(origin, s.publicURL)
}
