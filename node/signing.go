package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/seal"
	"github.com/carillon-fhir/carillon/stream"
)

// signingName names the record of SECRETS with the cluster's own key for signatures.
const signingName = "signing"

// openRestHook makes the channel that sends notifications, by the configuration and with the
// cluster's own key if it signs with one.
func (n *Node) openRestHook(ctx context.Context) error {
	s, err := settings(n.cfg)
	if err != nil {
		return err
	}
	if n.cfg.Delivery.Signatures.Ed25519 {
		if n.signing, err = n.vault.signingKey(ctx); err != nil {
			return n.cfg.Refuse("delivery.signatures.ed25519", "%v", err)
		}
	}
	n.resthook, err = resthook.New(resthook.Options{Version: n.version, Egress: s.Egress, Rules: s.Rules, Proxy: s.Proxy, Own: n.signing, Resolver: n.resolver})
	return err
}

// signingKey reads the cluster's own key, which whichever node is first has made, and every node
// has the same.
func (v *vault) signingKey(ctx context.Context) (ed25519.PrivateKey, error) {
	if !v.seals() {
		return nil, errors.New("the cluster's own key must be sealed; set security.secrets_key on every node")
	}
	subject := stream.SecretSubject(signingName)
	for {
		m, err := v.keys.newest(ctx, subject)
		if err == nil {
			return v.unwrapSigning(m)
		}
		if !errors.Is(err, stream.ErrNotFound) {
			return nil, err
		}
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		r := keyRecord{ID: signingName}
		if r.Wrapped, err = v.ring.Load().Wrap(seed, r.name()); err != nil {
			return nil, err
		}
		_, err = v.keys.append(ctx, subject, record.Encode(r), 0)
		if err != nil && !errors.Is(err, stream.ErrConflict) && !errors.Is(err, stream.ErrUnknown) {
			return nil, err
		}
	}
}

func (v *vault) unwrapSigning(m stream.Message) (ed25519.PrivateKey, error) {
	var r keyRecord
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, fmt.Errorf("record of the cluster's own key at %d cannot be read: %w", m.Sequence, err)
	}
	seed, err := v.ring.Load().Unwrap(r.Wrapped, r.name())
	switch {
	case err != nil:
		return nil, fmt.Errorf("the cluster's own key: %w", err)
	case len(seed) != ed25519.SeedSize:
		return nil, fmt.Errorf("the cluster's own key: %w", seal.ErrForged)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// publicKeys is what /.well-known/jwks.json shows: the public halves of the keys that we sign
// with, notifications as well as assertions to token servers.
func (n *Node) publicKeys() jose.JSONWebKeySet {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	if n.signing != nil {
		set.Keys = append(set.Keys, resthook.PublicKey(n.signing))
	}
	seen := map[string]bool{}
	for _, k := range n.resthook.ClientKeys() {
		if !seen[k.KeyID] {
			set.Keys = append(set.Keys, k)
		}
		seen[k.KeyID] = true
	}
	return set
}
