package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// SecretRotation is an order to replace the secret of a Subscription.
type SecretRotation struct {
	Secret  string        // the new one; empty has one made
	Overlap time.Duration // how long the old one signs too
}

// RotatedSecret is the answer to it. The secret is shown this once.
type RotatedSecret struct {
	Subscription fhir.ID   `json:"subscription"`
	Secret       string    `json:"secret"`
	Until        time.Time `json:"until"` // the end of what the old secret signs
}

// RotatedKeys says what became of the keys by which secrets are sealed.
type RotatedKeys struct {
	Master    string `json:"master"`    // id of the master key that wraps them now
	Rewrapped int    `json:"rewrapped"` // keys that another one wrapped before
	Sealed    int    `json:"sealed"`    // Subscriptions whose secrets stood in clear before
}

// Bounds of a rotation.
const (
	overlapDefault = 24 * time.Hour
	overlapMax     = 30 * 24 * time.Hour
	secretMax      = 1024
)

func (s *server) adminRotateSecret(c *call) error {
	id, err := c.idOf()
	if err != nil {
		return err
	}
	var body struct {
		Secret  string `json:"secret"`
		Overlap string `json:"overlap"`
	}
	if err := s.readObject(c, &body); err != nil {
		return err
	}
	o := SecretRotation{Secret: body.Secret, Overlap: overlapDefault}
	if body.Overlap != "" {
		if o.Overlap, err = time.ParseDuration(body.Overlap); err != nil || o.Overlap < 0 || o.Overlap > overlapMax {
			return badRequest(fmt.Sprintf("overlap is a duration from 0s to %s, such as 24h", overlapMax))
		}
	}
	if len(o.Secret) > secretMax {
		return badRequest(fmt.Sprintf("secret has at most %d bytes", secretMax))
	}
	rotated, err := s.admin.RotateSecret(c.r.Context(), id, o, c.token.ID)
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", "no-store") // the secret is shown this once
	return c.sendJSON(http.StatusOK, rotated)
}

func (s *server) adminRotateKeys(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	r, err := s.admin.RotateKeys(c.r.Context(), c.token.ID)
	return one(c, r, err)
}

// jwks shows the public keys of our signatures (RFC 7517).
func (s *server) jwks(c *call) error {
	c.w.Header().Set("Cache-Control", "public, max-age=300")
	return c.sendJSON(http.StatusOK, s.keys())
}
