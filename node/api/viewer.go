package api

import "context"

// Viewer is who reads. A request of nobody in particular has none, and is shown no secrets.
type Viewer struct {
	Token string // id of the token that asks; empty where no login is asked
	All   bool   // an administrator, or anybody while no login is asked
}

type viewerKey struct{}

// WithViewer gives a context that says who reads.
func WithViewer(ctx context.Context, v Viewer) context.Context {
	return context.WithValue(ctx, viewerKey{}, v)
}

// ViewerOf is who reads; a Viewer who may see nothing where the context does not say.
func ViewerOf(ctx context.Context) Viewer {
	v, _ := ctx.Value(viewerKey{}).(Viewer)
	return v
}

// Sees reports whether this reader may see the secrets of a Subscription of an owner.
func (v Viewer) Sees(owner string) bool { return v.All || v.Token != "" && v.Token == owner }

// noteViewer lets the backend know who reads, where a Subscription may be read: by its type, or in
// a Bundle. Everywhere else nobody's secrets are shown, and the request stays as cheap as it was.
func (c *call) noteViewer() {
	if typ := c.r.PathValue("Type"); c.pattern == "POST /fhir" || typ == "Subscription" {
		v := Viewer{Token: c.token.ID, All: !c.login || may(c.token, manage)}
		c.r = c.r.WithContext(WithViewer(c.r.Context(), v))
	}
}
