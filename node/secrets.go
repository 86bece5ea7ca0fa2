package node

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/node/seal"
)

// lockedForm is a Subscription whose secrets could not be opened when its version was folded: the
// key was written by another node a moment ago and is not here yet, or it is lost. It matches all
// the same, as on every node, and nothing is sent for it without what its author wanted sent.
type lockedForm struct {
	vault *vault
	id    fhir.ID
	body  []byte

	mu      sync.Mutex
	sub     *fhir.Subscription // once it is open
	problem error
}

// open is the Subscription with its secrets; nil as long as they cannot be had.
func (f *lockedForm) open() *fhir.Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sub != nil {
		return f.sub
	}
	clear, sealedBy, err := f.vault.open(f.body, f.id)
	if errors.Is(err, errKeyAway) {
		err = f.vault.away(sealedBy)
	}
	if err == nil {
		f.sub, err = fhir.ParseSubscription(clear)
	}
	if f.problem = err; err == nil {
		f.body = nil
	}
	return f.sub
}

// lockedBy says why nothing is sent because of secrets that cannot be opened; empty if they can.
func (s *subscription) lockedBy() string {
	if s.form() != nil {
		return ""
	}
	s.locked.mu.Lock()
	defer s.locked.mu.Unlock()
	if s.locked.problem == nil { // the key came just now
		return ""
	}
	return "nothing is sent, since its secrets cannot be opened: " + s.locked.problem.Error()
}

// form is the Subscription by which is sent; nil while its secrets cannot be opened.
func (s *subscription) form() *fhir.Subscription {
	if s.locked != nil {
		return s.locked.open()
	}
	return &s.Subscription
}

// unlock gives the body of a version with its secrets in clear. Where they cannot be opened now it
// is the body as stored, and the version keeps what is needed to open it later.
func (r *registry) unlock(now *subscription, body []byte) []byte {
	if r.vault == nil {
		return body
	}
	clear, sealedBy, err := r.vault.open(body, now.id)
	now.sealedBy = sealedBy
	if err == nil {
		return clear
	}
	now.locked = &lockedForm{vault: r.vault, id: now.id, body: body, problem: err}
	if errors.Is(err, errKeyAway) {
		r.vault.want(sealedBy, now.id)
	} else {
		r.log.Error("secrets of a stored Subscription cannot be opened, nothing is sent for it", "subscription", now.id, "sequence", now.version, "err", err)
	}
	return body
}

// openVault reads the master keys, and with them the keys of all Subscriptions.
func (n *Node) openVault(ctx context.Context) error {
	ring, err := masterKeys(n.cfg, n.data.path)
	if err != nil {
		return err
	}
	n.vault = newVault(n.log, secretsLog{n.server}, ring)
	if err := n.vault.load(ctx); err != nil {
		return err
	}
	for _, w := range n.vault.warnings() {
		n.log.Warn(w)
	}
	return nil
}

// warnings are what an operator should know of how secrets are kept.
func (v *vault) warnings() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, err := range v.unread { // one says what to do, and everybody may read it: it names no Subscription
		why := "see the log"
		var missing *seal.MissingKeyError
		if errors.As(err, &missing) {
			why = missing.Error()
		}
		return []string{fmt.Sprintf("secrets of %d Subscriptions cannot be opened by this node, which sends nothing for them: %s", len(v.unread), why)}
	}
	if v.seals() {
		return nil
	}
	return []string{"secrets of Subscriptions are stored as they are written: set security.secrets_key on every node, then run carillon keys rotate"}
}

// startSecrets begins to keep the keys in order. It comes when the logs are folded: which
// Subscriptions are deleted is known then.
func (n *Node) startSecrets(context.Context) error {
	n.vault.opened = func(id fhir.ID) {
		for _, l := range n.lanes {
			l.Changed(id)
		}
	}
	n.parts.run("secrets", n.vault.run)
	return nil
}

// timeout bounds an attempt at an endpoint: by the operator's rule for its host, else as all.
func (r *registry) timeout(ch fhir.Channel) time.Duration {
	switch ch.Type {
	case fhir.ChannelEmail:
		return r.delivery.Email.Timeout
	case fhir.ChannelSMS:
		return r.delivery.SMS.Timeout
	}
	rules := r.rules.Load()
	if rules == nil || len(rules.Endpoints) == 0 {
		return r.delivery.RestHook.Timeout
	}
	u, err := url.Parse(ch.Endpoint)
	if err != nil {
		return r.delivery.RestHook.Timeout
	}
	if e := rules.EndpointFor(u); e != nil && e.Timeout != 0 {
		return e.Timeout
	}
	return r.delivery.RestHook.Timeout
}
