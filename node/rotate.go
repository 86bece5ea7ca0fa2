package node

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-fhir/carillon/deliver/resthook"
	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/seal"
	"github.com/carillon-fhir/carillon/stream"
)

// rotationSet holds the secrets that sign on for a while beside the one that replaced them. It is a
// control value, so every node signs alike, and after a restart as before.
type rotationSet map[fhir.ID]rotation

type rotation struct {
	Birth   record.Sequence `json:"birth"`
	Retired []retired       `json:"retired"`
}

type retired struct {
	Secret string    `json:"secret"` // sealed as the Subscription's other secrets are
	Until  time.Time `json:"until"`
}

// maxRetired bounds the older secrets of one Subscription: each is a signature in every request.
const maxRetired = 4

func retiredName(id fhir.ID) string { return "Subscription/" + string(id) + "/retired" }

// signs are the secrets that a Subscription's notifications are signed with, the newest first:
// those that it has, and those that were replaced a while ago.
func (r *registry) signs(s *subscription, form *fhir.Subscription) []string {
	set, _ := r.rotations.get()
	old, ok := set[s.id]
	if !ok || old.Birth != s.birth || len(form.Secrets) == 0 {
		return form.Secrets
	}
	secrets, now := slices.Clone(form.Secrets), time.Now()
	for _, o := range old.Retired {
		if !now.Before(o.Until) {
			continue
		}
		// What cannot be opened signs no more: its receiver has the newer secret to go by.
		if secret, err := r.vault.openText(o.Secret, retiredName(s.id)); err == nil && !slices.Contains(secrets, secret) {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

// openText opens one value that may be sealed.
func (v *vault) openText(text, name string) (string, error) {
	if !seal.IsSealed(text) {
		return text, nil
	}
	k := v.cached(seal.KeyOf(text))
	if k == nil {
		return "", errKeyAway
	}
	return k.seals.Open(text, name)
}

// sealText seals one value for a Subscription, if there is a master key.
func (v *vault) sealText(ctx context.Context, id fhir.ID, after record.Sequence, value, name string) (string, error) {
	if !v.seals() {
		return value, nil
	}
	k, err := v.keyFor(ctx, id, after)
	if err != nil {
		return "", err
	}
	return k.seals.Seal(value, name), nil
}

// rotateSecret gives a Subscription a new secret. Those that it had sign on until the overlap ends,
// which is written first: a crash in between leaves them as they were.
func (a *admin) rotateSecret(ctx context.Context, id fhir.ID, secret string, overlap time.Duration) (until time.Time, err error) {
	until = time.Now().Add(overlap).UTC().Truncate(time.Second)
	err = a.gate.amend(ctx, id, func(s *subscription, last record.Sequence, body []byte) ([]byte, error) {
		form := s.form()
		switch {
		case form == nil:
			return nil, retryAfter(fhir.Refuse(fhir.IssueTransient, "", "the secrets of this Subscription cannot be opened now"), 5*time.Second)
		case len(form.Secrets) == 0:
			return nil, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf(
				"Subscription/%s has no secret to replace; write one into it with the extension %s", id, fhir.ExtSecret))
		case slices.Contains(form.Secrets, secret):
			return nil, fhir.Refuse(fhir.IssueConflict, "", "this is the secret that the Subscription has already; give another one")
		}
		if err := a.retire(ctx, s, last, form.Secrets, until); err != nil {
			return nil, err
		}
		return rewriteSecrets(body, id, func(f secretField) (fhirjson.Replacement, error) {
			if f.lead != "" { // a header
				return f.put(f.value, true), nil
			}
			text, err := a.vault.sealText(ctx, id, last, secret, f.name)
			return f.put(text, true), err // also further secrets of its own: equal ones are one
		})
	})
	return until, err
}

// retire notes the secrets that are replaced.
func (a *admin) retire(ctx context.Context, s *subscription, last record.Sequence, secrets []string, until time.Time) error {
	now := time.Now()
	var fresh []retired
	if until.After(now) {
		for _, secret := range secrets {
			text, err := a.vault.sealText(ctx, s.id, last, secret, retiredName(s.id))
			if err != nil {
				return err
			}
			fresh = append(fresh, retired{text, until})
		}
	}
	return a.subs.rotations.change(ctx, controls{a.server}, func(old rotationSet) (rotationSet, error) {
		set := rotationSet{}
		for id, r := range old {
			sub := a.subs.get(id)
			r.Retired = slices.DeleteFunc(slices.Clone(r.Retired), func(o retired) bool { return !now.Before(o.Until) })
			if sub != nil && !sub.deleted && sub.birth == r.Birth && len(r.Retired) > 0 {
				set[id] = r // what is over is forgotten here
			}
		}
		r := rotation{Birth: s.birth}
		if until.After(now) {
			r.Retired = slices.DeleteFunc(set[s.id].Retired, func(o retired) bool {
				return slices.ContainsFunc(fresh, func(f retired) bool { return f.Secret == o.Secret })
			})
		}
		if r.Retired = append(fresh, r.Retired...); len(r.Retired) > maxRetired {
			return nil, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf(
				"%d older secrets would sign for this Subscription, at most %d can; wait until the overlap of one has ended, or rotate with no overlap, which ends them all", len(r.Retired), maxRetired))
		}
		if set[s.id] = r; len(r.Retired) == 0 {
			delete(set, s.id)
		}
		return set, nil
	})
}

// errNothing says that an amendment is not needed.
var errNothing = errors.New("nothing to be amended")

// amend writes a version of a Subscription that the server itself makes of the stored one, and
// makes it again if somebody else was faster. f gets the place of the newest record of it.
func (g *gate) amend(ctx context.Context, id fhir.ID, f func(s *subscription, last record.Sequence, body []byte) ([]byte, error)) error {
	key := fhir.Key{Type: "Subscription", ID: id}
	if err := g.open(); err != nil {
		return err
	}
	for {
		if err := g.upToDate(ctx); err != nil {
			return refusal(err)
		}
		s := g.subs.get(id)
		if s == nil || s.deleted {
			return notFound(key)
		}
		res, _, err := g.store.Resource(key)
		if err != nil {
			return err
		}
		if res.Version != s.version { // folded in between
			continue
		}
		e, err := g.versions.Event(ctx, s.version)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		body, err := f(s, res.Last, e.Body)
		if err != nil {
			return err
		}
		m := eventMessage(record.Event{Key: key, Owner: s.owner, Body: body})
		m.ExpectLast = stream.Expect(res.Last)
		ack, err := g.events.Publish(ctx, m)
		if errors.Is(err, stream.ErrConflict) {
			if err := g.catchUp(ctx, plan{messages: []stream.Msg{m}}); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return refusal(err)
		}
		return g.ring.wait(ctx, ack.Sequence)
	}
}

// sealStanding seals what stands in clear in the newest version of a Subscription: of before there
// was a master key.
func (g *gate) sealStanding(ctx context.Context, id fhir.ID) (sealed bool, err error) {
	err = g.amend(ctx, id, func(s *subscription, last record.Sequence, body []byte) ([]byte, error) {
		found := false
		next, err := rewriteSecrets(body, id, func(f secretField) (fhirjson.Replacement, error) {
			if _, is := f.sealedText(); is {
				return f.put(f.value, true), nil
			}
			found = true
			text, err := g.vault.sealText(ctx, id, last, f.value, f.name)
			return f.put(text, false), err
		})
		if err == nil && !found {
			err = errNothing
		}
		return next, err
	})
	if errors.Is(err, errNothing) || isNotFound(err) { // or deleted meanwhile
		return false, nil
	}
	return err == nil, err
}

func isNotFound(err error) bool {
	refused := fhir.AsError(err)
	return refused != nil && len(refused.Issues) > 0 && refused.Issues[0].Type == fhir.IssueNotFound
}

// RotateSecret replaces the secret of a Subscription.
func (a *admin) RotateSecret(ctx context.Context, id fhir.ID, o api.SecretRotation, by string) (api.RotatedSecret, error) {
	if _, err := a.subscription(id); err != nil {
		return api.RotatedSecret{}, err
	}
	secret := o.Secret
	if secret == "" {
		raw := make([]byte, 32)
		rand.Read(raw)
		secret = "whsec_" + base64.StdEncoding.EncodeToString(raw)
	}
	if err := resthook.CheckSecrets([]string{secret}); err != nil {
		return api.RotatedSecret{}, err
	}
	until, err := a.rotateSecret(ctx, id, secret, o.Overlap)
	if err != nil {
		return api.RotatedSecret{}, refusal(err)
	}
	for _, l := range a.lanes {
		l.Changed(id)
	}
	a.log.Info("secret of a Subscription was replaced", "subscription", id, "until", until, "by", by)
	return api.RotatedSecret{Subscription: id, Secret: secret, Until: until}, nil
}

// RotateKeys wraps the keys of all Subscriptions by the first master key, and seals what stands in
// clear of before there was one.
func (a *admin) RotateKeys(ctx context.Context, by string) (r api.RotatedKeys, err error) {
	if !a.vault.seals() {
		return r, fhir.Refuse(fhir.IssueConflict, "", "there is no master key; set security.secrets_key on every node and start them again")
	}
	r.Master = a.vault.ring.Load().First()
	if r.Rewrapped, err = a.vault.rewrap(ctx); err != nil {
		return r, a.vault.refusal(err)
	}
	for _, s := range a.subs.all() {
		sealed, err := a.gate.sealStanding(ctx, s.id)
		if err != nil {
			return r, a.vault.refusal(err)
		}
		if sealed {
			r.Sealed++
		}
	}
	a.log.Info("keys of secrets were wrapped anew", "master", r.Master, "rewrapped", r.Rewrapped, "sealed", r.Sealed, "by", by)
	return r, nil
}
