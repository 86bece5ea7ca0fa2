package resthook

import "net/http"

// Transport makes requests that are no notifications, by the same rules and over the same
// connections: to http and https alone as they allow, to no address that they refuse, following
// no redirect, with the connections that the host's rule has, and without its login. Settings that
// Apply puts in force hold for the next request.
func (c *Channel) Transport() http.RoundTripper { return transport{c} }

type transport struct{ *Channel }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	now := t.way.Load()
	if err := now.guard.scheme(r.URL); err != nil {
		return nil, err
	}
	through, _ := now.pick(r.URL)
	return through.RoundTrip(r)
}
