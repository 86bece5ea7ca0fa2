package resthook

import "net/http"

// Transport makes requests that are no notifications, by the same rules and over the same
// connections: to http and https alone as they allow, to no address that they refuse, following
// no redirect and asking no proxy. Rules that SetEgress puts in force hold for the next request.
func (c *Channel) Transport() http.RoundTripper { return transport{c} }

type transport struct{ *Channel }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	now := t.way.Load()
	if err := now.guard.scheme(r.URL); err != nil {
		return nil, err
	}
	return now.transport.RoundTrip(r)
}
