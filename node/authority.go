package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// authority switches off the Subscriptions of those who may not have them any more: whose API token was
// revoked. What such a one still has pending leaves as skipped.
//
// Every node looks, whenever the tokens or a Subscription change and when it starts, so that a node that is
// killed in the middle leaves nothing behind. The version that switches it off is written on the condition
// that the Subscription is as it was, so of all nodes one writes it.
//
// A token's id is never used again, so an owner that is not among the tokens was revoked. A login of the NATS
// listener is not looked at: the nodes' configurations may differ while one is rolled out, and a
// Subscription must not be switched off by the slowest of them.
type authority struct {
	gate   *gate
	tokens *tokens
	wake   chan struct{}
}

// revokedPrefix stands in front of the owner of a Subscription whose owner's token was revoked. Nobody owns
// it then; who writes it next does.
const revokedPrefix = "revoked/"

// byToken reports whether the owner of a Subscription is an API token. Its ids have no slash.
func byToken(owner string) bool { return owner != "" && !strings.Contains(owner, "/") }

func newAuthority(g *gate, t *tokens) *authority {
	return &authority{gate: g, tokens: t, wake: make(chan struct{}, 1)}
}

// look asks for a look. It never waits.
func (a *authority) look() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// changed is told of each change of a Subscription.
func (a *authority) changed(s *subscription) {
	if a.lost(s) {
		a.look()
	}
}

// lost reports whether a Subscription is to be switched off. One that is off already is told too, so
// that whoever switches it on owns it.
func (a *authority) lost(s *subscription) bool {
	return !s.deleted && byToken(s.owner) && !a.tokens.has(s.owner)
}

// retryLook is how soon what could not be switched off is tried again.
const retryLook = time.Second

// run switches off until ctx ends.
func (a *authority) run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-retry.C:
		}
		if !a.switchOff(ctx) {
			retry.Reset(retryLook)
		}
	}
}

// switchOff reports whether all that are to be switched off are.
func (a *authority) switchOff(ctx context.Context) bool {
	all := true
	for _, s := range a.gate.subs.all() {
		if !a.lost(s) {
			continue
		}
		err := a.gate.switchStatus(ctx, s.id, s.birth, serverVersion{
			status: fhir.StatusOff,
			reason: fmt.Sprintf("the API token %s, which owns the Subscription, was revoked; an administrator can switch it on again and owns it then", s.owner),
			owner:  func(s *subscription) string { return revokedPrefix + s.owner },
		}, a.lost)
		if err != nil && ctx.Err() == nil {
			a.gate.log.Warn("the Subscription of a revoked token was not switched off, trying again", "subscription", s.id, "err", err)
			all = false
		}
	}
	return all
}

// ownerAfter says who owns a Subscription after a version that somebody wrote: who made it, until the server
// takes it from a revoked token. Then it is the next one who writes it, who must be an administrator, since
// it is nobody's. It follows from the log alone.
func ownerAfter(before, writer string) string {
	if strings.HasPrefix(writer, revokedPrefix) || strings.HasPrefix(before, revokedPrefix) {
		return writer
	}
	return before
}

// withdrawal is the code with which what is pending of a birth leaves; empty for the usual one.
func (s *subscription) withdrawal(birth record.Sequence) record.Code {
	if s != nil && s.birth == birth && !s.deleted && strings.HasPrefix(s.owner, revokedPrefix) {
		return record.Skipped
	}
	return ""
}
