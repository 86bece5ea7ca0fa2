package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/node/seal"
	"github.com/carillon-fhir/carillon/stream"
)

// vault keeps the secrets of Subscriptions from being read where they are stored. The gate seals
// them before they go into the log, so logs, projection and their copies hold sealed texts alone;
// the registry opens them in memory, and reads do for whoever may see them.
//
// A Subscription has a key of its own for as long as it lives, wrapped by a master key and kept in
// the log SECRETS. It is written before the first version that it seals; a key that no version
// uses, since the node was killed between the two, does no harm. When the Subscription is deleted
// its key is erased, and what it sealed is unreadable wherever it still stands.
type vault struct {
	log  *slog.Logger
	keys secretLog
	ring atomic.Pointer[seal.Ring]
	subs func(fhir.ID) *subscription
	// opened is told of a Subscription whose key came after it.
	opened func(fhir.ID)

	mu     sync.Mutex
	known  map[string]*dataKey         // by id
	wanted map[string]fhir.ID          // keys that a Subscription waits for
	unread map[string]error            // of wanted, why they could not be had so far
	dead   map[fhir.ID]record.Sequence // deletions whose keys are still to be erased
	work   chan struct{}               // wanted or dead has more
}

// secretLog is the log SECRETS.
type secretLog interface {
	newest(ctx context.Context, subject string) (stream.Message, error)
	append(ctx context.Context, subject string, data []byte, expect record.Sequence) (record.Sequence, error)
	all(ctx context.Context, f func(stream.Message) error) error
	erase(ctx context.Context, subject string, upTo record.Sequence) error
}

// dataKey is the key of one life of a Subscription.
type dataKey struct {
	keyRecord
	seals *seal.Key
	fresh bool // made for a write that is planned, and not stored
}

// keyRecord is what SECRETS holds of a dataKey.
type keyRecord struct {
	ID           string  `json:"id"`
	Subscription fhir.ID `json:"subscription"`
	// After is the place of the newest record of the Subscription when the key was made. The version
	// that uses it first is written on the condition that it is still the newest. So once the
	// Subscription was deleted after it, the key has served its life, or will never be used.
	After record.Sequence `json:"after"`
	seal.Wrapped
}

// name is what the wrapped key is bound to.
func (r keyRecord) name() string { return "Subscription/" + string(r.Subscription) + "/key/" + r.ID }

var (
	errKeyAway = errors.New("the key of this Subscription's secrets is not here yet")
	errKeyGone = errors.New("the key of this Subscription's secrets is not in the log SECRETS")
)

func newVault(log *slog.Logger, keys secretLog, ring *seal.Ring) *vault {
	v := &vault{
		log: log, keys: keys, subs: func(fhir.ID) *subscription { return nil }, opened: func(fhir.ID) {},
		known: map[string]*dataKey{}, wanted: map[string]fhir.ID{}, unread: map[string]error{}, dead: map[fhir.ID]record.Sequence{}, work: make(chan struct{}, 1),
	}
	v.ring.Store(ring)
	return v
}

// seals reports whether there is a master key. Without one secrets stay as they are written.
func (v *vault) seals() bool { return v != nil && v.ring.Load().First() != "" }

// load reads every key, when the node starts. One whose master key is missing is an error: a
// Subscription that cannot be signed for must not be served as if it had no secret.
func (v *vault) load(ctx context.Context) error {
	return v.keys.all(ctx, func(m stream.Message) error {
		if m.Subject == stream.SecretSubject(signingName) {
			return nil
		}
		_, err := v.admit(m)
		return err
	})
}

// admit takes over a record of SECRETS.
func (v *vault) admit(m stream.Message) (*dataKey, error) {
	k := &dataKey{}
	if err := readable(m); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(m.Data, &k.keyRecord); err != nil {
		return nil, fmt.Errorf("key record at %d cannot be read: %w", m.Sequence, err)
	}
	material, err := v.ring.Load().Unwrap(k.Wrapped, k.name())
	if err != nil {
		return nil, fmt.Errorf("key %s of the secrets of Subscription/%s: %w", k.ID, k.Subscription, err)
	}
	if k.seals, err = seal.NewKey(k.ID, material); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known[k.ID] = k
	return k, nil
}

func (v *vault) cached(id string) *dataKey {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known[id]
}

// fetch finds a key, in the log if need be: errKeyGone if it is not there.
func (v *vault) fetch(ctx context.Context, id string) (*dataKey, error) {
	if k := v.cached(id); k != nil {
		return k, nil
	}
	m, err := v.keys.newest(ctx, stream.SecretSubject(id))
	if errors.Is(err, stream.ErrNotFound) {
		return nil, errKeyGone
	}
	if err != nil {
		return nil, err
	}
	return v.admit(m)
}

// keyFor finds the key that a Subscription's secrets are sealed by, or makes one and stores it.
func (v *vault) keyFor(ctx context.Context, id fhir.ID, after record.Sequence) (*dataKey, error) {
	k, err := v.key(ctx, id, after)
	if err != nil {
		return nil, err
	}
	return k, v.store(ctx, k)
}

// key finds the key that a Subscription's secrets are sealed by, or makes one for a new life, which
// is still to be stored. after is the place of its newest record, on which the write that follows
// depends.
func (v *vault) key(ctx context.Context, id fhir.ID, after record.Sequence) (*dataKey, error) {
	if s := v.subs(id); s != nil && !s.deleted {
		if s.sealedBy == "" { // its newest version has no secrets; an older one may have had
			if k := v.ofLife(id, s.birth); k != nil {
				return k, nil
			}
		} else if k, err := v.fetch(ctx, s.sealedBy); !errors.Is(err, errKeyGone) {
			return k, err
		}
	}
	keyID, material := seal.NewMaterial()
	r := keyRecord{ID: keyID, Subscription: id, After: after}
	var err error
	if r.Wrapped, err = v.ring.Load().Wrap(material, r.name()); err != nil {
		return nil, err
	}
	k := &dataKey{keyRecord: r, fresh: true}
	if k.seals, err = seal.NewKey(keyID, material); err != nil {
		return nil, err
	}
	return k, nil
}

// ofLife is a key that was made since a Subscription was born; nil if there is none.
func (v *vault) ofLife(id fhir.ID, birth record.Sequence) *dataKey {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, k := range v.known {
		if k.Subscription == id && k.After >= birth {
			return k
		}
	}
	return nil
}

// store makes a key durable, if it is not. It comes after everything that may refuse the write: what is
// refused must leave no keys behind, or whoever may write Subscriptions could fill the disk with them.
func (v *vault) store(ctx context.Context, k *dataKey) error {
	if !k.fresh { // one that was erased meanwhile must not come back
		return nil
	}
	if _, err := v.keys.append(ctx, stream.SecretSubject(k.ID), record.Encode(k.keyRecord), 0); err != nil {
		return fmt.Errorf("store the key of Subscription/%s: %w", k.Subscription, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	k.fresh = false
	v.known[k.ID] = k
	return nil
}

// seal gives versions of a Subscription as they go into the log, and the key that they are sealed by;
// nil if they hold no secrets. It is to be stored before they are written, and they depend on the newest
// record of the Subscription being the one at after.
func (v *vault) seal(ctx context.Context, id fhir.ID, bodies [][]byte, after record.Sequence) (out [][]byte, key *dataKey, err error) {
	for _, body := range bodies {
		body, err = rewriteSecrets(body, id, func(f secretField) (fhirjson.Replacement, error) {
			if _, is := f.sealedText(); is || f.isMask() {
				return fhirjson.Replacement{}, fhir.Refuse(fhir.IssueValue, f.at,
					"a secret here is what reads show in place of it; write the secret itself, or read the Subscription with the token that owns it")
			}
			if !v.seals() {
				return f.put(f.value, true), nil
			}
			if key == nil {
				if key, err = v.key(ctx, id, after); err != nil {
					return fhirjson.Replacement{}, err
				}
			}
			return f.put(key.seals.Seal(f.value, f.name), false), nil
		})
		if err != nil {
			return nil, nil, v.refusal(err)
		}
		out = append(out, body)
	}
	return out, key, nil
}

// refusal says what a client is told when a secret cannot be sealed or opened now.
func (v *vault) refusal(err error) error {
	var missing *seal.MissingKeyError
	if errors.As(err, &missing) {
		return retryAfter(fhir.Refuse(fhir.IssueTransient, "", "the secrets of this Subscription cannot be opened by this node: "+missing.Error()), 5*time.Second)
	}
	return refusal(err)
}

// open gives a Subscription with its secrets in clear, and the id of the key that they are sealed
// by, empty if by none. It asks nobody: without the key it is errKeyAway.
func (v *vault) open(body []byte, id fhir.ID) (clear []byte, sealedBy string, err error) {
	clear, err = rewriteSecrets(body, id, func(f secretField) (fhirjson.Replacement, error) {
		text, is := f.sealedText()
		if !is {
			return f.put(f.value, true), nil // of before, or of a cluster without a master key
		}
		sealedBy = seal.KeyOf(text)
		k := v.cached(sealedBy)
		if k == nil {
			return fhirjson.Replacement{}, errKeyAway
		}
		value, err := k.seals.Open(text, f.name)
		return f.put(value, true), err
	})
	return clear, sealedBy, err
}

// shown is a version as whoever asks may see it.
func (v *vault) shown(ctx context.Context, e record.Event) ([]byte, error) {
	if e.Key.Type != "Subscription" || len(e.Body) == 0 || v == nil {
		return shown(e)
	}
	s := v.subs(e.Key.ID)
	// Versions of a former life were somebody else's, perhaps.
	if s == nil || s.deleted || e.Sequence < s.birth || !api.ViewerOf(ctx).Sees(s.owner) {
		return shown(e)
	}
	clear, sealedBy, err := v.open(e.Body, e.Key.ID)
	if errors.Is(err, errKeyAway) {
		if _, err = v.fetch(ctx, sealedBy); err == nil {
			clear, _, err = v.open(e.Body, e.Key.ID)
		}
	}
	if err != nil {
		if !errors.Is(err, errKeyGone) {
			v.log.Warn("secrets cannot be shown to their owner", "subscription", e.Key.ID, "err", err)
		}
		return shown(e)
	}
	e.Body = clear
	return spliced(e)
}

// want asks for a key that a Subscription waits for.
func (v *vault) want(key string, id fhir.ID) {
	v.mu.Lock()
	v.wanted[key] = id
	v.mu.Unlock()
	v.more()
}

// forget has the keys of a Subscription erased that was deleted.
func (v *vault) forget(id fhir.ID, deleted record.Sequence) {
	if v == nil {
		return
	}
	v.mu.Lock()
	for _, k := range v.known {
		if k.Subscription == id && k.After < deleted {
			v.dead[id] = max(v.dead[id], deleted)
		}
	}
	more := len(v.dead) > 0
	v.mu.Unlock()
	if more {
		v.more()
	}
}

func (v *vault) more() {
	select {
	case v.work <- struct{}{}:
	default:
	}
}

// erase makes the keys of a deleted Subscription unreadable for good.
func (v *vault) erase(ctx context.Context, id fhir.ID, deleted record.Sequence) error {
	v.mu.Lock()
	var keys []string
	for key, k := range v.known {
		if k.Subscription == id && k.After < deleted {
			keys = append(keys, key)
		}
	}
	v.mu.Unlock()
	for _, key := range keys {
		if err := v.keys.erase(ctx, stream.SecretSubject(key), 0); err != nil {
			return fmt.Errorf("erase the secrets of Subscription/%s: %w", id, err)
		}
		v.mu.Lock()
		delete(v.known, key)
		v.mu.Unlock()
	}
	v.mu.Lock()
	if v.dead[id] == deleted {
		delete(v.dead, id)
	}
	v.mu.Unlock()
	return nil
}

// eraseNow is erase for whoever answers the delete. What fails is tried again by run.
func (v *vault) eraseNow(ctx context.Context, id fhir.ID, deleted record.Sequence) {
	if v == nil {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, vaultRetry)
	defer cancel()
	if err := v.erase(bounded, id, deleted); err != nil {
		v.forget(id, deleted)
	}
}

// Keys that are wanted or dead are seen to at once, and again as long as that failed.
const vaultRetry = 2 * time.Second

// run fetches keys that Subscriptions of other nodes wait for, and erases those of deleted ones.
func (v *vault) run(ctx context.Context) error {
	v.sweep()
	timer := time.NewTimer(vaultRetry)
	defer timer.Stop()
	for {
		again := v.fetchWanted(ctx)
		again = v.eraseDead(ctx) || again
		var retry <-chan time.Time
		if again {
			timer.Reset(vaultRetry)
			retry = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.work:
		case <-retry:
		}
	}
}

// sweep finds keys of Subscriptions that were deleted when nobody was left to erase them.
func (v *vault) sweep() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, k := range v.known {
		if s := v.subs(k.Subscription); s != nil && s.deleted && k.After < s.version {
			v.dead[k.Subscription] = max(v.dead[k.Subscription], s.version)
		}
	}
}

func (v *vault) fetchWanted(ctx context.Context) (again bool) {
	v.mu.Lock()
	wanted := make(map[string]fhir.ID, len(v.wanted))
	for key, id := range v.wanted {
		wanted[key] = id
	}
	v.mu.Unlock()
	for key, id := range wanted {
		_, err := v.fetch(ctx, key)
		if s := v.subs(id); err != nil && s != nil && s.sealedBy == key && !s.deleted {
			if ctx.Err() == nil && v.news(key, err) {
				v.log.Error("secrets cannot be opened, nothing is sent for their Subscription", "subscription", id, "err", err)
			}
			again = true
			continue
		}
		v.mu.Lock()
		delete(v.wanted, key)
		delete(v.unread, key)
		v.mu.Unlock()
		if err == nil {
			v.opened(id)
		}
	}
	return again
}

// news notes why a key cannot be had, and reports whether that is another reason than before.
func (v *vault) news(key string, err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.unread[key]
	v.unread[key] = err
	return before == nil || before.Error() != err.Error()
}

// away says why the key of what is sealed by it is not here.
func (v *vault) away(key string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.unread[key]; err != nil {
		return err
	}
	return errKeyAway
}

func (v *vault) eraseDead(ctx context.Context) (again bool) {
	v.mu.Lock()
	dead := make(map[fhir.ID]record.Sequence, len(v.dead))
	for id, at := range v.dead {
		dead[id] = at
	}
	v.mu.Unlock()
	for id, at := range dead {
		if err := v.erase(ctx, id, at); err != nil {
			if ctx.Err() == nil {
				v.log.Warn("secrets of a deleted Subscription are not erased yet", "subscription", id, "err", err)
			}
			again = true
		}
	}
	return again
}

// rewrap wraps every key anew that is not wrapped by the first master key, and erases what it was
// before.
func (v *vault) rewrap(ctx context.Context) (count int, err error) {
	ring := v.ring.Load()
	newest := map[string]stream.Message{}
	if err := v.keys.all(ctx, func(m stream.Message) error { newest[m.Subject] = m; return nil }); err != nil {
		return 0, err
	}
	for subject, m := range newest {
		var r keyRecord
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return count, fmt.Errorf("key record at %d cannot be read: %w", m.Sequence, err)
		}
		if r.Master != ring.First() {
			key, err := ring.Unwrap(r.Wrapped, r.name())
			if err != nil {
				return count, fmt.Errorf("key %s: %w", r.ID, err)
			}
			if r.Wrapped, err = ring.Wrap(key, r.name()); err != nil {
				return count, err
			}
			switch _, err = v.keys.append(ctx, subject, record.Encode(r), m.Sequence); {
			case errors.Is(err, stream.ErrConflict): // erased, or wrapped anew by somebody else
				continue
			case err != nil:
				return count, err
			}
			count++
			if err := v.keys.erase(ctx, subject, m.Sequence); err != nil {
				return count, err
			}
		}
	}
	return count, nil
}

// nextRing reads the master keys again. A key that still wraps others must be among them.
func (v *vault) nextRing(cfg config.Config, dir string) (*seal.Ring, error) {
	ring, err := masterKeys(cfg, dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	newest := map[string]stream.Message{}
	if err := v.keys.all(ctx, func(m stream.Message) error { newest[m.Subject] = m; return nil }); err != nil {
		return nil, fmt.Errorf("read the keys of secrets: %w", err)
	}
	for _, m := range newest {
		var r keyRecord
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return nil, fmt.Errorf("key record at %d cannot be read: %w", m.Sequence, err)
		}
		var missing *seal.MissingKeyError
		if _, err := ring.Unwrap(r.Wrapped, r.name()); errors.As(err, &missing) {
			return nil, cfg.Refuse("security.secrets_key", "the master key %s is still needed; keep it in the list until `carillon keys rotate` has run", missing.Master)
		}
	}
	return ring, nil
}

// secretsLog is the log SECRETS of a server.
type secretsLog struct{ server *stream.Server }

func (l secretsLog) newest(ctx context.Context, subject string) (stream.Message, error) {
	return l.server.LastFor(ctx, stream.Secrets, subject)
}

func (l secretsLog) append(ctx context.Context, subject string, data []byte, expect record.Sequence) (record.Sequence, error) {
	return l.server.Append(ctx, stream.Secrets, subject, data, expect)
}

func (l secretsLog) erase(ctx context.Context, subject string, upTo record.Sequence) error {
	return l.server.Erase(ctx, stream.Secrets, subject, upTo)
}

func (l secretsLog) all(ctx context.Context, f func(stream.Message) error) error {
	from, last, err := l.server.State(ctx, stream.Secrets)
	for err == nil && from <= last {
		var ms []stream.Message
		ms, err = l.server.GetRun(ctx, stream.Secrets, from, 256)
		if errors.Is(err, stream.ErrNotFound) {
			return nil
		}
		for _, m := range ms {
			if err := f(m); err != nil {
				return err
			}
			from = m.Sequence + 1
		}
	}
	return err
}

// keyFile is where a single node keeps the master key that nobody gave it.
const keyFile = "secrets.key"

// masterKeys reads the master keys: the configured ones, then that of the data folder, which a
// single node without any makes. So a key that is configured later opens what is there already.
func masterKeys(cfg config.Config, dir string) (*seal.Ring, error) {
	keys, err := cfg.Security.SecretsKeys()
	if err != nil {
		return nil, cfg.Refuse("security.secrets_key_file", "%v", err)
	}
	path := filepath.Join(dir, keyFile)
	own, err := config.Security{SecretsKeyFile: path}.SecretsKeys()
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the master key of this data folder: %w", err)
	case len(keys) == 0 && !cfg.Clustered():
		_, key := seal.NewMaterial()
		text := "# The key by which secrets are sealed here. Without it they are lost: keep a copy, apart from\n# backups of this folder. Written 0600: readable to its user alone.\n" +
			base64.StdEncoding.EncodeToString(key) + "\n"
		if err := writeFileSynced(path, []byte(text)); err != nil {
			return nil, err
		}
		own = [][]byte{key}
	}
	for _, k := range own {
		if len(keys) == 0 || string(keys[0]) != string(k) {
			keys = append(keys, k)
		}
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others than its user; chmod 600 it", path)
	}
	return seal.NewRing(keys)
}
