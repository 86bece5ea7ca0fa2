package node

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// storedToken is what the log knows of an API token: everything but the secret.
type storedToken struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Roles   []string  `json:"roles"`
	Created time.Time `json:"created"`
	Hash    string    `json:"hash"` // hex SHA-256 of the secret part
}

// tokens are the API tokens of the cluster, a control value. A plain SHA-256 is enough: a
// secret is 256 random bits, so there is nothing that guessing could be slowed down for.
type tokens struct {
	control[[]storedToken]
	log controlLog
}

// adminRole is the role that manages tokens (api.Administer).
const adminRole = "admin"

// tokenPrefix makes a leaked token easy to find with a secret scanner.
const tokenPrefix = "carillon_"

// create makes a token and returns its secret, which is shown this once.
func (t *tokens) create(ctx context.Context, name string, roles []string, now time.Time) (storedToken, string, error) {
	id := strings.ToLower(rand.Text()[:10])
	raw := make([]byte, 32)
	rand.Read(raw)
	secret := base64.RawURLEncoding.EncodeToString(raw)
	tok := storedToken{ID: id, Name: name, Roles: roles, Created: now.UTC().Truncate(time.Second), Hash: hashSecret(secret)}
	err := t.change(ctx, t.log, func(old []storedToken) ([]storedToken, error) {
		// With the first token everybody must log in. If it could not make others, nobody could.
		if len(old) == 0 && !slices.Contains(roles, adminRole) {
			return nil, fhir.Refuse(fhir.IssueInvariant, "", "the first token must have the role admin, since from then on only an admin can make more")
		}
		for _, o := range old {
			if o.Name == name {
				return nil, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("a token named %q exists; revoke it or take another name", name))
			}
		}
		return append(slices.Clone(old), tok), nil
	})
	if err != nil {
		return storedToken{}, "", err
	}
	return tok, tokenPrefix + id + "_" + secret, nil
}

// revoke removes a token by its id or its name. From then on it opens nothing.
func (t *tokens) revoke(ctx context.Context, idOrName string) error {
	return t.change(ctx, t.log, func(old []storedToken) ([]storedToken, error) {
		kept := slices.DeleteFunc(slices.Clone(old), func(o storedToken) bool { return o.ID == idOrName || o.Name == idOrName })
		if len(kept) == len(old) {
			return nil, fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("there is no token %q", idOrName))
		}
		isAdmin := func(o storedToken) bool { return slices.Contains(o.Roles, adminRole) }
		if len(kept) > 0 && !slices.ContainsFunc(kept, isAdmin) {
			return nil, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf("%q is the last token with the role admin; revoke the others first, or make another admin", idOrName))
		}
		return kept, nil
	})
}

// lookup finds the token that a secret opens. The comparison takes the same time whatever the
// secret is; the id in front of it is no secret.
func (t *tokens) lookup(presented string) (storedToken, bool) {
	rest, ok := strings.CutPrefix(presented, tokenPrefix)
	if !ok {
		return storedToken{}, false
	}
	id, secret, ok := strings.Cut(rest, "_")
	if !ok {
		return storedToken{}, false
	}
	sum := hashSecret(secret)
	all, _ := t.get()
	for _, tok := range all {
		if tok.ID == id && subtle.ConstantTimeCompare([]byte(tok.Hash), []byte(sum)) == 1 {
			return tok, true
		}
	}
	return storedToken{}, false
}

// any reports whether login is demanded at all.
func (t *tokens) any() bool {
	all, _ := t.get()
	return len(all) > 0
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// nameOf is the name of a token; empty where there is none of this id.
func (t *tokens) nameOf(id string) string {
	all, _ := t.get()
	for _, tok := range all {
		if tok.ID == id {
			return tok.Name
		}
	}
	return ""
}

// has reports whether there is a token with this id.
func (t *tokens) has(id string) bool {
	all, _ := t.get()
	return slices.ContainsFunc(all, func(tok storedToken) bool { return tok.ID == id })
}
