package node

import (
	"context"

	"github.com/carillon-fhir/carillon/node/api"
)

// logins shows the API tokens to the HTTP face (api.Tokens).
type logins struct{ *tokens }

func (l logins) Lookup(_ context.Context, secret string) (api.Token, bool) {
	t, ok := l.lookup(secret)
	return api.Token{ID: t.ID, Name: t.Name, Roles: roles(t.Roles)}, ok
}

func (l logins) Any() bool { return l.any() }

func roles(names []string) []api.Role {
	out := make([]api.Role, len(names))
	for i, n := range names {
		out[i] = api.Role(n)
	}
	return out
}
